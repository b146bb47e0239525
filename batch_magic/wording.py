"""Words that all rooms say alike: how many of what, how long, and text cut to one line.

It knows how numbers, lengths of time and foreign text stand in a sentence, and refuses to know
what the sentence is about. The trap is text from outside: a control character in it would move the
cursor of a terminal or turn the direction of a line round.
"""

from __future__ import annotations

import re

# Ends of lines, the rest of the control characters, bidirectional overrides, lone surrogates.
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+"
)


def counted(number: int, noun: str) -> str:
    """Tell a number of things: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def span_of_dollars(lowest: float, highest: float | None) -> str:
    """US dollars from one amount to another: `$1.20 to $1.50`, `$1.20 or more`."""
    if highest is None:
        return f"{dollars(lowest)} or more"
    low, high = dollars(lowest), dollars(highest)
    return high if low == high else f"{low} to {high}"


def span_of(lowest: float, highest: float | None) -> str:
    """Numbers from one to another, in three figures: `1,200 to 1,500`."""
    if highest is None:
        return f"from {_rounded(lowest):,}"
    if lowest == highest:
        return f"{round(lowest):,}"
    low, high = _rounded(lowest), _rounded(highest)
    return f"{high:,}" if low == high else f"{low:,} to {high:,}"


def _rounded(number: float) -> int:
    return int(float(f"{number:.3g}")) if number >= 1_000 else round(number)


def dollars(amount: float) -> str:
    """US dollars: in cents from ten of them on, below with two figures that say something."""
    if amount >= 0.1 or amount == 0:
        return f"${amount:,.2f}"
    if amount >= 0.0001:
        return f"${amount:.2g}"
    return f"${amount:.6f}" if amount >= 0.000001 else "under $0.000001"


def duration(seconds: float) -> str:
    """Tell a length of time as a person would: `8 s`, `4 min 12 s`, `2 h 05 min`, `3 d 4 h`."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if minutes < 1:
        return f"{whole} s"
    if hours < 1:
        return f"{minutes} min {whole % 60:02} s"
    if days < 1:
        return f"{hours} h {minutes % 60:02} min"
    return f"{days} d {hours % 24} h"


def short_duration(seconds: float) -> str:
    """Tell it to the minute and narrow: a table of it changes once a minute at most."""
    minutes = max(0, int(seconds)) // 60
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60}:{minutes % 60:02} h" if minutes < 2880 else f"{minutes // 1440} d"


def printable(lines: str) -> str:
    """Lines without what moves a terminal's cursor or turns their direction round."""
    return "\n".join(_UNPRINTABLE.sub(" ", one) for one in lines.split("\n"))


def clip(text: str, length: int) -> str:
    """One printable line of at most `length` characters."""
    plain = _UNPRINTABLE.sub(" ", text).strip()
    return plain if len(plain) <= length else plain[: length - 1].rstrip() + "…"
