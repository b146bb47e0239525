"""How fast a service may be asked: what its headers say of the room there is, and refusals.

It knows the arithmetic of limits by requests and by tokens, and takes the time from its caller:
nothing here waits. The service counts a request when it comes in and tells what is left with its
answer, so answers that come out of order tell old news. The trap is to believe the last one that
arrived: requests sent since it was asked are not in its figures and are taken off here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_FIRST_PAUSE_S, _FIRST_PAUSE_TOLD_S = 1.0, 0.05  # the latter besides what the service wishes
_LONGEST_PAUSE_S = 60.0
_MINUTE_S = 60.0
_RESET = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_UNITS_S = (3600.0, 60.0, 1.0, 0.001)


@dataclass(slots=True)
class _Room:
    """What is left of one limit at `at`, and how fast it comes back."""

    limit: float
    level: float
    per_s: float
    at: float

    def wait_s(self, wanted: float, now: float) -> float:
        level = min(self.limit, self.level + self.per_s * max(0.0, now - self.at))
        # What is more than the limit itself goes when all of it is there.
        lacking = min(wanted, self.limit) - level
        return 0.0 if lacking <= 0 else lacking / self.per_s


class Pacer:
    """The limits of one model at one service. Seconds are by a clock that nobody sets back."""

    def __init__(self) -> None:
        self._rooms: dict[str, _Room] = {}
        self._in_flight: dict[int, int] = {}  # ticket → tokens
        self._next = 0
        self._newest = -1  # the ticket whose answer was asked for last
        self._paused_until = 0.0
        self._pauses = 0  # in a row
        self._before_pause = -1  # refusals of earlier tickets are the same news

    def wait_s(self, tokens: int, now: float) -> float:
        """Return for how long a request of so many tokens must wait, 0 if it may go."""
        waits = [self._paused_until - now]
        wanted = {"requests": 1, "tokens": tokens}
        waits += [room.wait_s(wanted[kind], now) for kind, room in self._rooms.items()]
        return max(0.0, *waits)

    def sent(self, tokens: int) -> int:
        """Note that a request goes out; return its ticket."""
        for kind, room in self._rooms.items():
            room.level -= tokens if kind == "tokens" else 1
        ticket, self._next = self._next, self._next + 1
        self._in_flight[ticket] = tokens
        return ticket

    def heard(self, ticket: int, headers: Mapping[str, str], now: float) -> None:
        """Take in what an answer's headers say of the limits, unless a newer one has said it."""
        self._in_flight.pop(ticket, None)
        if ticket < self._newest:
            return
        self._newest = ticket
        later = [tokens for other, tokens in self._in_flight.items() if other > ticket]
        for kind, spent in (("requests", len(later)), ("tokens", sum(later))):
            limit = _number(headers.get(f"x-ratelimit-limit-{kind}"))
            left = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
            if not limit or left is None:
                continue
            reset_s = duration_s(headers.get(f"x-ratelimit-reset-{kind}", ""))
            per_s = (limit - left) / reset_s if reset_s and left < limit else limit / _MINUTE_S
            self._rooms[kind] = _Room(limit, left - spent, per_s, now)

    def answered(self) -> None:
        """Note that the service does its work: the next pause begins short again."""
        self._pauses = 0

    def refused(self, ticket: int, retry_after_s: float | None, now: float) -> None:
        """Pause all requests after one that was too many; longer each time.

        Those in flight when a pause begins are refused for the same reason: they prolong nothing
        but by the service's own wish. What was refused has taken no room.
        """
        for kind, room in self._rooms.items():
            room.level += self._in_flight.get(ticket, 0) if kind == "tokens" else 1
        told_s = min(retry_after_s or 0.0, _LONGEST_PAUSE_S)
        if ticket > self._before_pause:
            self._before_pause = self._next - 1
            first_s = _FIRST_PAUSE_S if retry_after_s is None else _FIRST_PAUSE_TOLD_S
            told_s += first_s * 2 ** min(self._pauses, 10)
            self._pauses += 1
        self._paused_until = max(self._paused_until, now + min(told_s, _LONGEST_PAUSE_S))

    def lost(self, ticket: int) -> None:
        """Note that no answer came."""
        self._in_flight.pop(ticket, None)


def duration_s(text: str) -> float:
    """Read `6m0s`, `1.5s` or `120ms`, as OpenAI writes when a limit is reset; 0 for none such."""
    found = _RESET.fullmatch(text.strip())
    if found is None:
        return _number(text) or 0.0
    return sum(float(n) * unit for n, unit in zip(found.groups(), _UNITS_S, strict=True) if n)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < 1e15 else None
