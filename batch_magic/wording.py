"""Numbers in sentences: how many of what."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Tell a number of things: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
