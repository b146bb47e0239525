"""Which lines are the same: 16-byte digests as sorted arrays.

It knows how to find equal digests among millions in little memory (24 bytes a line, no Python
object a line) and refuses to know what they stand for. The trap: a lookup by the first
8 bytes alone is a guess; every hit is checked on all 16.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DIGEST = np.dtype([("hi", "<u8"), ("lo", "<u8")])
"""A digest as two numbers, so that arrays of them sort and compare fast."""


def as_digests(digests: bytes) -> NDArray[np.void]:
    """Turn 16-byte digests, one after another, into an array of DIGEST."""
    return np.frombuffer(digests, dtype=DIGEST)


def digests_of(entries: NDArray[np.void]) -> NDArray[np.void]:
    """Return the digests (n values of DIGEST) of entries that say more besides."""
    digests = np.empty(len(entries), dtype=DIGEST)
    digests["hi"], digests["lo"] = entries["hi"], entries["lo"]
    return digests


class SortedDigests:
    """Digests of some lines, each with a number of the caller's (a position, a place)."""

    def __init__(self, digests: NDArray[np.void], numbers: NDArray[np.int64]) -> None:
        order = np.argsort(digests["hi"], kind="stable")
        # Two plain arrays: a search in a strided one would copy it each time.
        self._hi = np.ascontiguousarray(digests["hi"])[order]
        self._lo = np.ascontiguousarray(digests["lo"])[order]
        self.numbers = numbers[order]

    @property
    def digests(self) -> NDArray[np.void]:
        both = np.empty(len(self), dtype=DIGEST)
        both["hi"], both["lo"] = self._hi, self._lo
        return both

    def __len__(self) -> int:
        return len(self.numbers)

    def find(self, wanted: NDArray[np.void]) -> NDArray[np.int64]:
        """Return for each wanted digest the number of the first equal one, -1 if there is none."""
        found = np.full(len(wanted), -1, dtype=np.int64)
        hi, lo = self._hi, self._lo
        at = np.searchsorted(hi, wanted["hi"])
        # Different digests may agree in their first half: walk on while it is the same.
        left = np.arange(len(wanted))
        while len(left):
            left = left[at[left] < len(hi)]
            left = left[hi[at[left]] == wanted["hi"][left]]
            equal = lo[at[left]] == wanted["lo"][left]
            found[left[equal]] = self.numbers[at[left[equal]]]
            left = left[~equal]
            at[left] += 1
        return found


class FirstSeen:
    """Tells of each line whether an equal one came before, and which. 24 bytes a line.

    Levels of sorted arrays: small ones are merged into larger ones up to a size at which the
    copy that a merge takes is still small. A bitmap with one bit set by each half of a digest
    answers "never seen" for nearly every line without a search.
    """

    _LEVEL_ROWS = 1 << 17
    _BITS = 24

    def __init__(self) -> None:
        self._levels: list[SortedDigests] = []
        self._seen = np.zeros(1 << (self._BITS - 3), dtype=np.uint8)

    def add(self, digests: NDArray[np.void], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Add lines in order; return for each the position of the first equal line, or -1."""
        firsts = self._find(digests)
        inside = _repeats_inside(digests)
        repeats = (firsts < 0) & (inside >= 0)
        firsts[repeats] = positions[inside[repeats]]
        fresh = firsts < 0
        if fresh.any():
            self._push(digests[fresh], positions[fresh])
        return firsts

    def _find(self, digests: NDArray[np.void]) -> NDArray[np.int64]:
        firsts = np.full(len(digests), -1, dtype=np.int64)
        places = (self._place(digests[half]) for half in ("hi", "lo"))
        one, other = (self._seen[byte] & bit for byte, bit in places)
        maybe = np.flatnonzero((one != 0) & (other != 0))
        if len(maybe):
            for level in self._levels:
                firsts[maybe] = np.maximum(firsts[maybe], level.find(digests[maybe]))
        return firsts

    def _push(self, digests: NDArray[np.void], positions: NDArray[np.int64]) -> None:
        for half in ("hi", "lo"):
            byte, bit = self._place(digests[half])
            np.bitwise_or.at(self._seen, byte, bit)
        while self._levels and len(self._levels[-1]) < min(2 * len(digests), self._LEVEL_ROWS):
            last = self._levels.pop()
            digests = np.concatenate([last.digests, digests])
            positions = np.concatenate([last.numbers, positions])
        self._levels.append(SortedDigests(digests, positions))

    def _place(self, half: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
        top = half >> np.uint64(64 - self._BITS)
        bit = np.left_shift(1, top & np.uint64(7), dtype=np.uint8, casting="unsafe")
        return (top >> np.uint64(3)).astype(np.intp), bit


def _repeats_inside(digests: NDArray[np.void]) -> NDArray[np.int64]:
    """Return for each digest the index of the first equal one before it, -1 for a first one."""
    firsts = np.full(len(digests), -1, dtype=np.int64)
    order = np.argsort(digests["hi"], kind="stable")
    hi = digests["hi"][order]
    if not (hi[1:] == hi[:-1]).any():
        return firsts
    seen: dict[tuple[int, int], int] = {}
    for i, digest in enumerate(digests.tolist()):
        first = seen.setdefault(digest, i)
        if first != i:
            firsts[i] = first
    return firsts
