"""How fast a service is asked: limits are used and not overrun, whatever order news comes in."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_magic.pacing import Pacer, duration_s

NOW = 1_800_000_000.0


def said(requests: tuple[float, float, str], tokens: tuple[float, float, str]) -> dict[str, str]:
    found = {}
    for kind, (limit, left, reset) in {"requests": requests, "tokens": tokens}.items():
        found[f"x-ratelimit-limit-{kind}"] = f"{limit:g}"
        found[f"x-ratelimit-remaining-{kind}"] = f"{left:g}"
        found[f"x-ratelimit-reset-{kind}"] = reset
    return found


PLENTY = (10_000.0, 9_999.0, "6ms")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("6m0s", 360.0), ("120ms", 0.12), ("1h2m3.5s", 3723.5), ("", 0.0), ("7", 7.0)],
)
def test_a_reset_is_read_as_the_service_writes_it(text: str, seconds: float) -> None:
    """The headers hold texts, no numbers."""
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["soon", "-1s", "1s 2s", "ms", "nan", "inf"])
def test_a_reset_that_is_none_is_no_wait(text: str) -> None:
    """A gateway may write anything; nobody waits for what cannot be read."""
    assert duration_s(text) == 0.0


def test_nothing_is_known_before_the_first_answer() -> None:
    """The first requests go at once: the service has said nothing."""
    assert Pacer().wait_s(1_000_000, NOW) == 0.0


def test_the_last_request_of_a_minute_waits_for_the_next() -> None:
    """With nothing left, one comes back after its share of the minute."""
    pacer = Pacer()
    pacer.heard(pacer.sent(10), said((60, 0, "60s"), PLENTY), NOW)
    assert pacer.wait_s(10, NOW) == pytest.approx(1.0)
    assert pacer.wait_s(10, NOW + 1.0) == 0.0


def test_tokens_are_a_limit_of_their_own() -> None:
    """Long prompts run out of tokens while requests are plenty."""
    pacer = Pacer()
    pacer.heard(pacer.sent(10), said(PLENTY, (60_000, 500, "59.5s")), NOW)
    assert pacer.wait_s(400, NOW) == 0.0
    assert pacer.wait_s(1_500, NOW) == pytest.approx(1.0)


def test_a_request_larger_than_the_limit_goes_when_all_of_it_is_free() -> None:
    """It may be refused, but only the service knows; it must not wait for ever."""
    pacer = Pacer()
    pacer.heard(pacer.sent(10), said(PLENTY, (1_000, 1_000, "0s")), NOW)
    assert pacer.wait_s(5_000, NOW) == 0.0


def test_old_news_does_not_count() -> None:
    """An answer that was long on its way tells of a time before others."""
    pacer = Pacer()
    first, second = pacer.sent(10), pacer.sent(10)
    pacer.heard(second, said((60, 0, "60s"), PLENTY), NOW)
    pacer.heard(first, said((60, 59, "1s"), PLENTY), NOW)
    assert pacer.wait_s(10, NOW) > 0.5


def test_requests_sent_since_are_taken_off() -> None:
    """The service's figure is of when it was asked; those that are on their way come on top."""
    pacer = Pacer()
    first = pacer.sent(10)
    for _ in range(5):
        pacer.sent(10)
    pacer.heard(first, said((60, 5, "55s"), PLENTY), NOW)
    assert pacer.wait_s(10, NOW) > 0.0


def test_refusals_of_one_burst_are_one_pause() -> None:
    """Sixteen in flight are refused together: that is one reason to wait, not sixteen."""
    pacer = Pacer()
    tickets = [pacer.sent(10) for _ in range(16)]
    for ticket in tickets:
        pacer.refused(ticket, None, NOW)
    assert pacer.wait_s(10, NOW) == pytest.approx(1.0)
    pacer.refused(pacer.sent(10), None, NOW + 1.0)
    assert pacer.wait_s(10, NOW + 1.0) == pytest.approx(2.0)
    pacer.answered()
    pacer.refused(pacer.sent(10), None, NOW + 3.0)
    assert pacer.wait_s(10, NOW + 3.0) == pytest.approx(1.0)


def test_a_wish_of_no_time_is_no_leave_to_hammer() -> None:
    """`retry-after: 0`, again and again, is waited for a little longer each time."""
    pacer, waits = Pacer(), []
    for n in range(6):
        pacer.refused(pacer.sent(10), 0.0, NOW + 100 * n)
        waits.append(pacer.wait_s(10, NOW + 100 * n))
    assert waits == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6], rel=0.01)


def test_what_was_refused_has_taken_no_room() -> None:
    """A host whose refusals carry no limits: its burst is not held against the minutes to come."""
    pacer = Pacer()
    pacer.heard(pacer.sent(10), said((60, 60, "1s"), PLENTY), NOW)
    tickets = [pacer.sent(10) for _ in range(500)]
    for ticket in tickets:
        pacer.refused(ticket, None, NOW)
        pacer.heard(ticket, {}, NOW)
    assert pacer.wait_s(10, NOW + 2.0) == 0.0


def test_a_wish_of_the_service_is_obeyed() -> None:
    """`retry-after` beats our own guess, but no hour of it is believed."""
    pacer = Pacer()
    pacer.refused(pacer.sent(10), 7.0, NOW)
    assert pacer.wait_s(10, NOW) == pytest.approx(7.0, abs=0.1)
    pacer.refused(pacer.sent(10), 100_000.0, NOW)
    assert pacer.wait_s(10, NOW) == pytest.approx(60.0)


class _Service:
    """A token bucket that counts requests when they come in, as OpenAI does."""

    def __init__(self, per_minute: int) -> None:
        self.limit, self.level, self.at, self.refused = per_minute, float(per_minute), 0.0, 0

    def takes(self, now: float) -> Mapping[str, str] | None:
        self.level = min(self.limit, self.level + self.limit / 60 * (now - self.at))
        self.at = now
        if self.level < 1:
            self.refused += 1
            return None
        self.level -= 1
        reset_s = (self.limit - self.level) * 60 / self.limit
        return said((self.limit, int(self.level), f"{reset_s:.3f}s"), PLENTY)


@settings(max_examples=60, deadline=None)
@given(
    per_minute=st.integers(10, 600),
    concurrency=st.integers(1, 64),
    latencies=st.lists(st.floats(0.01, 4.0), min_size=1, max_size=20),
)
def test_a_limit_is_used_and_hardly_ever_overrun(
    per_minute: int, concurrency: int, latencies: list[float]
) -> None:
    """Five minutes against a limit: most of it is used; what is refused is a burst at the start."""
    pacer, service, now, sent, answered = Pacer(), _Service(per_minute), 0.0, 0, 0
    in_flight: list[tuple[float, int, Mapping[str, str] | None]] = []
    while now < 300.0:
        wait_s = pacer.wait_s(100, NOW + now)
        if wait_s == 0.0 and len(in_flight) < concurrency:
            ticket = pacer.sent(100)
            news = service.takes(now)
            heapq.heappush(in_flight, (now + latencies[sent % len(latencies)], ticket, news))
            sent += 1
            continue
        wakes = [at for at, _, _ in in_flight[:1]]
        wakes += [now + wait_s] if wait_s and len(in_flight) < concurrency else []
        now = max(now + 1e-6, min(wakes))
        while in_flight and in_flight[0][0] <= now:
            _, ticket, news = heapq.heappop(in_flight)
            if news is None:
                pacer.refused(ticket, None, NOW + now)
                continue
            answered += 1
            pacer.heard(ticket, news, NOW + now)
            pacer.answered()
    mean_s = sum(latencies) / len(latencies)
    possible = min(300 / 60 * per_minute + per_minute, 300.0 / mean_s * concurrency)
    assert service.refused <= concurrency
    assert answered >= 0.7 * possible - concurrency
