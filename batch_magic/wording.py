"""Numbers in sentences: how many of what."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Tell a number of things: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def dollars(amount: float) -> str:
    """US dollars: cents from a dollar on, below with two figures that say something."""
    if amount >= 1 or amount == 0:
        return f"${amount:,.2f}"
    return f"${amount:.2g}" if amount >= 0.0001 else "under $0.0001"
