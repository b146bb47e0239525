"""What every part of the running service shares: its store, clock, faults and answers.

Knows nothing but these parts and the identity of this life of the server. The trap: it is the
one object that both the event loop and the workers hold, so what hangs on it is either safe to
share (store, clock) or touched by the loop only (faults, counters).
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .answerers import Desk
from .clock import Clock
from .faults import call_rules
from .store import Store

ORGANIZATION = "org-sandbox"


@dataclass
class Service:
    """One life of the server."""

    store: Store
    clock: Clock
    desk: Desk
    instance: str
    faults: dict[str, Any] = field(default_factory=dict)  # general faults, kept in the store
    rated: dict[str, list[float]] = field(default_factory=dict)  # clock seconds of calls, kept too
    calls: Counter[str] = field(default_factory=Counter)  # requests by route, this life
    statuses: Counter[str] = field(default_factory=Counter)  # "route status", this life
    last_call: float = field(default_factory=time.monotonic)

    def keep_faults(self, faults: dict[str, Any]) -> None:
        """Replace the general faults, over restarts too."""
        self.faults = faults
        self.store.keep_setting("faults", faults)

    def take_rules(self, switch: str, route: str) -> list[dict[str, Any]]:
        """Return the rules of a switch that hit a call, one use of each taken for good."""
        rules = call_rules(self.faults.get(switch))
        hit = [rule for rule in rules if rule.get("route", "*") in (route, "*") and _use(rule)]
        if any("times" in rule for rule in hit):
            self.keep_faults(self.faults)
        return hit

    def keep_rated(self, switch: str, times: list[float]) -> None:
        """Replace the times of the calls that a cap counts, over restarts too."""
        self.rated = self.rated | {switch: times}
        self.store.keep_setting("rated", self.rated)

    def advance_clock(self, seconds: float) -> None:
        """Move the clock forward, over restarts too."""
        self.clock.advance(seconds)
        self.store.keep_setting("clock_offset_s", self.clock.offset_s)


def _use(rule: dict[str, Any]) -> bool:
    """Take one use of a rule; False when it has none left. Without `times` it never ends."""
    if "times" not in rule:
        return True
    if rule["times"] <= 0:
        return False
    rule["times"] -= 1
    return True
