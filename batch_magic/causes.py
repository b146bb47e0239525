"""What rows without an answer have in common: causes, and which rows a wish means by them.

It knows what makes two errors one cause, and how the commonest is said in a line; it refuses to
know what a cause costs (`diagnosis`) and what is done about it (`resending`). The trap is what
varies: errors that differ in numbers, ids or the answer itself are one cause, and its key has to
stay the same whatever else becomes of the run, for a wish in the journal names it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from batch_magic.cures import cure_of
from batch_magic.folder import RunFolder
from batch_magic.outcomes import ANSWER, NO_REASON, Resolved, all_lines, resolve_run
from batch_magic.records import Outcomes, RowStatus, RunRecord, Wish
from batch_magic.resolution import Resolution
from batch_magic.wording import counted

BLAMELESS = frozenset({RowStatus.OK, RowStatus.SKIPPED, RowStatus.PENDING})
_VARIES = re.compile(r"\b(?:req|batch|file|org|resp|chatcmpl)[-_]\w+|\d[\d,.]*")
_COMPLAINT_CHARS = 300  # of the error: what cures it is not to be cut off


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason why rows have no answer: their status, one of their errors, and the first of them.

    Errors that differ in numbers and ids alone are one cause; those of each model are apart.
    `key` is its name for good, whatever else becomes of the run; `requests` are those that go out
    if its rows are sent again now: rows alike share one, and some rows have none, or have it out.
    """

    status: RowStatus
    error: str
    rows: int
    position: int
    key: str
    requests: int = 0


def causes(folder: RunFolder, run: RunRecord) -> list[Cause]:
    """Group the rows that came out badly by cause, the commonest first."""
    resolved = resolve_run(folder, run)
    wanted = ~is_of(resolved.resolution, BLAMELESS)
    return grouped(resolved, wanted, rows_of_frame(run), _may_go_out(folder, run))


def cause_key(model: int, status: RowStatus, error: str) -> str:
    """Return the name of a cause: 16 hexadecimal digits of what its rows have in common.

    `model` is the place of the model among those of the run. What stands in an answer, numbers and
    ids are no part of it.
    """
    kind = f"{model}\0{status.label}\0{_VARIES.sub('#', error.partition(ANSWER)[0])}"
    return blake2b(kind.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def requests_again(folder: RunFolder, run: RunRecord, wish: Wish) -> int:
    """Count the requests that go out if a wish is made now."""
    wished = is_wished(folder, run, resolve_run(folder, run), [wish])
    return int((wished & _may_go_out(folder, run)).sum())


def is_wished(
    folder: RunFolder, run: RunRecord, resolved: Resolved, wishes: Iterable[Wish]
) -> NDArray[np.bool_]:
    """Tell which rows (n values) any of these wishes means, as they came out so far.

    Of a row that is asked once more, its paid answer stands meanwhile: it is pending besides.
    """
    found = np.zeros(run.rows, dtype=bool)
    for wish in wishes:
        meant = is_of(resolved.resolution, wish.statuses)
        if RowStatus.PENDING in wish.statuses:
            meant |= resolved.resolution.awaited
        if wish.causes:
            bad = np.flatnonzero(~is_of(resolved.resolution, BLAMELESS))
            keys = [key for _, key in errors_and_keys(resolved, bad, rows_of_frame(run))]
            meant[bad] |= np.isin(np.array(keys, dtype="U16"), sorted(wish.causes))
        found |= meant & ~_rows_in(folder, run, wish.but)
    return found


def _may_go_out(folder: RunFolder, run: RunRecord) -> NDArray[np.bool_]:
    """Tell which rows have a request of their own that is not out just now.

    Some share another's, some were never sent.
    """
    found = np.zeros(run.rows, dtype=bool)
    for _, positions in all_lines(folder, run):
        found[positions] = True
    found[folder.twins()[:, 0]] = False
    return found & ~_rows_in(folder, run, run.under_way)


def _rows_in(folder: RunFolder, run: RunRecord, shards: Collection[int]) -> NDArray[np.bool_]:
    """Tell which rows (n values) have a line in one of these shards."""
    found = np.zeros(run.rows, dtype=bool)
    for shard in run.shards:
        if shard.number in shards:
            found[folder.manifest(shard)["position"]] = True
    return found


def is_of(resolution: Resolution, statuses: Iterable[RowStatus]) -> NDArray[np.bool_]:
    """Tell which rows (n values) came out with one of these statuses."""
    return np.isin(resolution.statuses, [int(status) for status in statuses])


def rows_of_frame(run: RunRecord) -> int:
    """Return how many rows the frame of a run has: each of them is asked of every model."""
    return run.rows // len(run.request.models)


def grouped(
    resolved: Resolved,
    wanted: NDArray[np.bool_],
    rows: int,
    requests: NDArray[np.bool_] | None = None,
) -> list[Cause]:
    """Group the errors of the wanted rows, every `rows` of them (those of a model) apart."""
    bad = np.flatnonzero(wanted)
    goes_out = np.zeros(len(bad), dtype=bool) if requests is None else requests[bad]
    said = errors_and_keys(resolved, bad, rows)
    found: dict[str, _Group] = {}
    for position, (error, key), is_sent in zip(bad.tolist(), said, goes_out.tolist(), strict=True):
        group = found.setdefault(key, _Group(position, error))
        group.rows += 1
        group.requests += is_sent
    statuses = resolved.resolution.statuses
    causes = [
        Cause(RowStatus(int(statuses[g.first])), g.error, g.rows, g.first, key, g.requests)
        for key, g in found.items()
    ]
    return sorted(causes, key=lambda cause: (-cause.rows, cause.position))


@dataclass(slots=True)
class _Group:
    """A cause while its rows are counted."""

    first: int
    error: str
    rows: int = 0
    requests: int = 0


def errors_and_keys(
    resolved: Resolved, bad: NDArray[np.int64], rows: int
) -> Iterator[tuple[str, str]]:
    """Yield what is said of each of these rows, and the key of its cause.

    `bad` are positions; of each model there are `rows`.
    """
    statuses, models = resolved.resolution.statuses[bad].tolist(), (bad // max(rows, 1)).tolist()
    known: dict[tuple[int, int, str], str] = {}
    for kind in zip(models, statuses, _errors_of(resolved, bad), strict=True):
        model, status, error = kind
        if kind not in known:
            known[kind] = cause_key(model, RowStatus(status), error)
        yield error, known[kind]


def _errors_of(resolved: Resolved, rows: NDArray[np.int64]) -> list[str]:
    """Return what is said of each of these rows."""
    entry, notes = resolved.resolution.entry[rows], resolved.resolution.notes[rows]
    said = [resolved.notes[note] if note >= 0 else NO_REASON for note in notes.tolist()]
    first = 0
    for table in resolved.tables:
        size = len(table.table)
        mine = np.flatnonzero((entry >= first) & (entry < first + size))
        errors = table.table["error"].take(entry[mine] - first).to_pylist()
        for place, error in zip(mine.tolist(), errors, strict=True):
            said[place] = error.decode("utf-8", "replace") if error else said[place]
        first += size
    return said


def complaint_of(run: RunRecord, resolved: Resolved) -> str | None:
    """Return the commonest error of the rows that came out badly, how often, and its cure."""
    blameless = BLAMELESS | {RowStatus.CANCELLED}
    found = grouped(resolved, ~is_of(resolved.resolution, blameless), run.rows)
    if not found:
        return None
    rows, first = counted(sum(one.rows for one in found), "row"), found[0]
    said = _with_cure(run, first.status, first.error)
    return f"{first.rows:,} of {rows} without a good answer: {said}"


def complaint_lately(run: RunRecord, lately: Sequence[Outcomes]) -> str | None:
    """Return the commonest error among the last answers, and its cure."""
    rows = sum(len(part.statuses) for part in lately)
    causes: dict[str, list[tuple[RowStatus, str]]] = {}
    for part in lately:
        for status, error in zip(part.statuses, part.error, strict=True):
            if status not in BLAMELESS:
                said = error or "no reason was given"
                cause = _VARIES.sub("#", said.partition(ANSWER)[0])
                causes.setdefault(cause, []).append((RowStatus(status), said))
    if not causes:
        return None
    found = max(causes.values(), key=len)
    of_rows = f"{len(found):,} of the last {counted(rows, 'answer')}"
    return f"{of_rows}: {_with_cure(run, *found[-1])}"


def _with_cure(run: RunRecord, status: RowStatus, error: str) -> str:
    # A backtick begins code where this is shown; what a service says is none.
    cause = error.partition(ANSWER)[0].replace("`", "'")
    cure = cure_of(run, status, error).words
    told = f"{cause:.{_COMPLAINT_CHARS}}".rstrip(". ")
    return cause if cure in cause else f"{told}; {cure}"
