"""The clock every timestamp and every wait of the service is read from.

Knows wall time, an offset that only grows, and the factor by which scripted waits are divided.
It refuses to know what is being waited for. The trap: waits end when *this* clock has passed
the deadline, so advancing it ends them at once; nobody may sleep on wall time instead.
"""

import time


class Clock:
    """Wall time plus an offset, in Unix seconds."""

    def __init__(self, *, offset_s: float = 0.0, time_scale: float = 1.0) -> None:
        if not time_scale > 0:
            raise ValueError(f"time scale must be above 0, not {time_scale!r}")
        self.offset_s = offset_s
        self.time_scale = time_scale

    def now(self) -> float:
        """Return the service's time in Unix seconds."""
        return time.time() + self.offset_s

    def advance(self, seconds: float) -> None:
        """Move the clock forward; going back is refused, timestamps would cross."""
        if seconds < 0:
            raise ValueError("the clock only moves forward")
        self.offset_s += seconds

    def scaled(self, seconds: float) -> float:
        """Return how long a scripted wait of `seconds` lasts here."""
        return seconds / self.time_scale
