"""Numbers in sentences: how many of what."""

from __future__ import annotations


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
