"""From what result files say to one outcome per row: pure arithmetic on arrays.

It knows the rules of precedence and refuses to know files or frames. A row may be named by no
line, one or several, in any order, by jobs of several rounds. The rules: of one file the first
answer that was paid for wins; a later file replaces it only by one as good or better, and never
an answer that is ok; failing any, the latest word counts. The trap is position against index:
everything here is by position, 0-based.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batch_magic.records import PAID, RowStatus

RETRYABLE_HTTP = (0, 408, 409, 429)
RETRYABLE_CODES = frozenset({"request_timeout"})
"""Failures of one row that may pass by themselves; 5xx and rows without outcome besides."""

_PAID = np.zeros(256, dtype=bool)
_PAID[[int(status) for status in PAID]] = True


@dataclass(frozen=True, slots=True)
class Source:
    """What one file of outcomes says: entry i of the arrays belongs together.

    Position -1 is a line that names no row of this file's. `retryable[i]` tells that the failure
    may pass. `rows` are all positions that the file should have named; those it does not name get
    `default`. `first` is the number of the file's first entry when all are read one after another.
    """

    first: int
    positions: NDArray[np.int64]
    statuses: NDArray[np.uint8]
    retryable: NDArray[np.bool_]
    rows: NDArray[np.int64]
    default: RowStatus
    default_retryable: bool
    note: int = -1  # which of the caller's texts explains the default


@dataclass(frozen=True, slots=True)
class Resolution:
    """One outcome per row. `entry` is the winning entry's number, -1 where a default applies.

    `awaited`: the row's line is out, and a row that has a paid answer keeps it meanwhile.
    """

    statuses: NDArray[np.uint8]
    entry: NDArray[np.int64]
    retryable: NDArray[np.bool_]
    notes: NDArray[np.int32]
    awaited: NDArray[np.bool_]

    def counts(self) -> dict[RowStatus, int]:
        """Count the rows of each status that occurs."""
        found, numbers = np.unique(self.statuses, return_counts=True)
        return {RowStatus(int(s)): int(n) for s, n in zip(found, numbers, strict=True)}

    @property
    def paid(self) -> NDArray[np.bool_]:
        return _PAID[self.statuses]


def resolve(
    rows: int, sources: Iterable[Source], twins: NDArray[np.int64] | None = None
) -> Resolution:
    """Give each of `rows` rows its outcome.

    `sources` in order of time; `twins` (k × 2) pairs a row with the row whose line it shares.
    Rows that no source covers are PENDING.
    """
    result = Resolution(
        statuses=np.full(rows, int(RowStatus.PENDING), dtype=np.uint8),
        entry=np.full(rows, -1, dtype=np.int64),
        retryable=np.zeros(rows, dtype=bool),
        notes=np.full(rows, -1, dtype=np.int32),
        awaited=np.ones(rows, dtype=bool),
    )
    for source in sources:
        _apply_default(result, source)
        _apply(result, source)
    if twins is not None and len(twins):
        columns = (result.statuses, result.entry, result.retryable, result.notes, result.awaited)
        for column in columns:
            column[twins[:, 0]] = column[twins[:, 1]]
    return result


def _apply_default(result: Resolution, source: Source) -> None:
    result.awaited[source.rows] = source.default is RowStatus.PENDING
    rows = source.rows[~_PAID[result.statuses[source.rows]]]
    result.statuses[rows] = int(source.default)
    result.entry[rows] = -1
    result.retryable[rows] = source.default_retryable
    result.notes[rows] = source.note


def _apply(result: Resolution, source: Source) -> None:
    is_known, is_paid = source.positions >= 0, _PAID[source.statuses]
    result.awaited[source.positions[is_known]] = False
    for mask in (is_known & ~is_paid, is_known & is_paid):
        # Reversed, so that of several lines for one row the first is written last and stays.
        order = np.flatnonzero(mask)[::-1]
        known, said = result.statuses[source.positions[order]], source.statuses[order]
        is_better = _PAID[said] & (said <= known) & (known != int(RowStatus.OK))
        order = order[~_PAID[known] | is_better]
        at = source.positions[order]
        result.statuses[at] = source.statuses[order]
        result.entry[at] = source.first + order
        result.retryable[at] = source.retryable[order]
        result.notes[at] = -1


def is_retryable(
    statuses: Sequence[int], http_statuses: Sequence[int | None], codes: Sequence[str | None]
) -> NDArray[np.bool_]:
    """Tell for each entry whether the row may be sent again by itself."""
    found = np.zeros(len(statuses), dtype=bool)
    for n in np.flatnonzero(~_PAID[np.asarray(statuses, dtype=np.uint8)]).tolist():
        found[n] = _may_pass(statuses[n], http_statuses[n], codes[n])
    return found


def _may_pass(status: int, http: int | None, code: str | None) -> bool:
    if status != RowStatus.FAILED:
        return status == RowStatus.EXPIRED
    return code in RETRYABLE_CODES or http in RETRYABLE_HTTP or (http is not None and http >= 500)
