"""Which lines of a run go out again, and which need not: other runs were answered them meanwhile.

It knows where the line of a row stands (in the shards of the run, or in those of the run that its
answer was taken over from) and writes lines into new shards, and answers of others into files that
are kept; it refuses to know when to ask, that is `lifecycle`'s, and who allowed it. The trap is to
pay twice: a line stands in the shards of several rounds, rows alike share one, and another run may
have just this line in flight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from batch_magic import wire
from batch_magic.causes import (
    BLAMELESS,
    Cause,
    errors_and_keys,
    grouped,
    is_of,
    is_wished,
    rows_of_frame,
)
from batch_magic.digests import DIGEST, SortedDigests, as_digests, digests_of
from batch_magic.folder import MANIFEST, Answered, KeptWriter, RunFolder, ShardWriter, ShardWriters
from batch_magic.outcomes import all_lines, answered, count_kept, resolve_run
from batch_magic.packing import pick
from batch_magic.records import Ending, Job, Lines, RowStatus, RunRecord, Shard, Wish

Tell = Callable[[str, Lines], object]
"""Takes a model and lines that ask it."""


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What came of another run's end: rows answered by it, and new shards for the rest."""

    answered: int
    counts: dict[RowStatus, int]
    shards: tuple[Shard, ...]
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Filled:
    """Rows that other runs were answered meanwhile: how the counts change, and the new files."""

    rows: int
    change: dict[RowStatus, int]
    files: dict[str, str]


# -- lines that go out again --------------------------------------------------------------


def resend(
    folder: RunFolder,
    run: RunRecord,
    round: int,
    wishes: Iterable[Wish] = (),
    kin: Sequence[tuple[RunFolder, RunRecord]] = (),
    cut_off: Collection[RowStatus] = (),
    *,
    passing: bool = True,
) -> tuple[list[Shard], str]:
    """Write lines into new shards of `round`: of rows that are wished for, and of what may pass.

    The latter with `passing` alone. Besides, rows of a status in `cut_off` go out.

    Returns the shards, and in short why these rows are asked for again.

    A row that was answered by an earlier run has its line there: in one of `kin`. What another
    of them has in flight just now is left alone.
    """
    resolved = resolve_run(folder, run)
    left = is_wished(folder, run, resolved, wishes) | is_of(resolved.resolution, cut_off)
    if passing:
        left |= resolved.resolution.retryable
    left[folder.twins()[:, 0]] = False  # they have the line of another row, and its fate
    others = [one for one in kin if one[1].run_id != run.run_id]
    for digests, positions in all_lines(folder, run) if others else ():
        for other, record in others:
            left[positions[_is_sending(other, record, digests)]] = False
    reasons = _reasons(grouped(resolved, left, run.rows))
    writer = _writers(folder, run, round)
    _each_line(folder, run, left, others, writer.write)
    return writer.close(), reasons


def tell_lines(
    folder: RunFolder,
    run: RunRecord,
    wishes: Iterable[Wish],
    kin: Sequence[tuple[RunFolder, RunRecord]],
    tell: Tell,
    but_not: Iterable[Wish] = (),
) -> None:
    """Tell the lines of rows that are wished for, as `resend` would write them: each line once.

    Rows that a wish of `but_not` means are left out.
    """
    resolved = resolve_run(folder, run)
    left = is_wished(folder, run, resolved, wishes) & ~is_wished(folder, run, resolved, but_not)
    left[folder.twins()[:, 0]] = False
    _each_line(folder, run, left, [one for one in kin if one[1].run_id != run.run_id], tell)


def tell_causes(
    folder: RunFolder,
    run: RunRecord,
    keys: Sequence[str],
    kin: Sequence[tuple[RunFolder, RunRecord]],
    tell: Callable[[str, str, Lines], object],
) -> None:
    """Tell the lines of these causes in one reading, each line once: (key, model, lines)."""
    resolved = resolve_run(folder, run)
    bad = np.flatnonzero(~is_of(resolved.resolution, BLAMELESS))
    place = {key: n for n, key in enumerate(keys)}
    cause_of = np.full(run.rows, -1, dtype=np.int64)
    said = errors_and_keys(resolved, bad, rows_of_frame(run))
    cause_of[bad] = [place.get(key, -1) for _, key in said]
    cause_of[folder.twins()[:, 0]] = -1

    def tell_each(model: str, lines: Lines) -> None:
        causes = cause_of[np.asarray(lines.positions, dtype=np.int64)]
        for n in np.unique(causes).tolist():
            tell(keys[n], model, pick(lines, np.flatnonzero(causes == n).tolist()))

    others = [one for one in kin if one[1].run_id != run.run_id]
    _each_line(folder, run, cause_of >= 0, others, tell_each)


def _each_line(
    folder: RunFolder,
    run: RunRecord,
    left: NDArray[np.bool_],
    others: Sequence[tuple[RunFolder, RunRecord]],
    tell: Tell,
) -> None:
    """Tell the lines of the rows that `left` marks, by model, from wherever they stand."""
    for shard in run.shards:
        positions = folder.manifest(shard)["position"]
        for lines in folder.lines_at(shard, left[positions]):
            tell(shard.model or run.request.model, lines)
        left[positions] = False  # a line stands in the shards of earlier rounds too
    if left.any():
        _tell_borrowed(tell, folder, run, left, others)


_REASONS_TOLD = 3


def _reasons(found: Sequence[Cause]) -> str:
    said = [f"{one.rows:,} {one.status.label} ({one.error:.100})" for one in found[:_REASONS_TOLD]]
    others = sum(one.rows for one in found[_REASONS_TOLD:])
    return ", ".join([*said, *([f"{others:,} for other reasons"] if others else [])])


def _tell_borrowed(
    tell: Tell,
    folder: RunFolder,
    run: RunRecord,
    left: NDArray[np.bool_],
    others: Iterable[tuple[RunFolder, RunRecord]],
) -> None:
    """Tell the lines of rows whose answers were taken over, as their first run wrote them."""
    kept = [folder.kept_manifest(number) for number in folder.kept_numbers()]
    manifest = np.concatenate([*kept, np.empty(0, dtype=MANIFEST)])
    wanted = manifest[left[manifest["position"]]]
    for other, record in others:
        for shard in record.shards:
            index = SortedDigests(digests_of(wanted), wanted["position"].astype(np.int64))
            found = index.find(digests_of(other.manifest(shard)))
            for lines in other.lines_at(shard, found >= 0):
                positions = index.find(as_digests(lines.digests))
                model = shard.model or record.request.model
                tell(model, _renamed(lines, run.run_id, positions.tolist()))
            wanted = wanted[~np.isin(wanted["position"], found)]
            if not len(wanted):
                return


def _renamed(lines: Lines, run_id: str, positions: list[int]) -> Lines:
    old = lines.data.split(b"\n")[:-1]
    new = [wire.renamed(line, run_id, at) + b"\n" for line, at in zip(old, positions, strict=True)]
    return Lines(positions, b"".join(new), list(map(len, new)), lines.digests)


def recut(
    folder: RunFolder, run: RunRecord, job: Job, parts: int, bad_lines: Collection[int]
) -> list[Shard]:
    """Write a job's lines into `parts` new shards, without those (1-based) that were refused."""
    shard = next(one for one in run.shards if one.number == job.shard)
    places = np.setdiff1d(np.arange(shard.rows), np.array(sorted(bad_lines), dtype=np.int64) - 1)
    numbers = count(_next_shard(run))
    shards: list[Shard] = []
    for part in np.array_split(places, parts):
        wanted = np.zeros(shard.rows, dtype=bool)
        wanted[part] = True
        writer = ShardWriter(
            folder,
            run.limits,
            numbers=numbers,
            round=job.round,
            model=shard.model,
            count=counting(run),
        )
        for lines in folder.lines_at(shard, wanted):
            writer.write(lines)
        shards += writer.close()
    return shards


def counting(run: RunRecord) -> Callable[[Lines], Sequence[int]] | None:
    """Return what counts each line's inputs, where a job's limit counts them."""
    return wire.inputs_of if run.layout.several else None


def _writers(folder: RunFolder, run: RunRecord, round: int) -> ShardWriters:
    numbers, counted = count(_next_shard(run)), counting(run)
    return ShardWriters(
        lambda model: ShardWriter(
            folder, run.limits, numbers=numbers, round=round, model=model, count=counted
        )
    )


def _next_shard(run: RunRecord) -> int:
    return 1 + max((shard.number for shard in run.shards), default=-1)


# -- answers that are taken over ----------------------------------------------------------


def take_over(
    folder: RunFolder, run: RunRecord, lenders: Sequence[tuple[RunFolder, RunRecord]]
) -> TakenOver:
    """Take over what the lenders answered of the held lines; write the rest into shards to send."""
    found = [each for each in (answered(*lender) for lender in lenders) if each is not None]
    kept, writer = _kept_writer(folder), _writers(folder, run, run.round)
    for shard in run.shards:
        if shard.held:
            left = _keep_answers(kept, folder.manifest(shard), found)
            for lines in folder.lines_at(shard, left):
                writer.write(shard.model or run.request.model, lines)
    rows, counts, files = _close_kept(kept, folder, run)
    return TakenOver(rows, counts, tuple(writer.close()), files)


def fill(
    folder: RunFolder,
    run: RunRecord,
    wishes: Iterable[Wish],
    kin: Sequence[tuple[RunFolder, RunRecord]],
) -> Filled:
    """Take over what other runs were answered of the rows that are to be sent again.

    Rows that have an answer of their own are asked anew all the same.
    """
    resolved = resolve_run(folder, run)
    statuses = resolved.resolution.statuses
    wanted = is_wished(folder, run, resolved, wishes) & ~resolved.resolution.paid
    wanted[folder.twins()[:, 0]] = False
    kept = _kept_writer(folder)
    change: Counter[RowStatus] = Counter()
    for other, record in kin if wanted.any() else ():
        # Also of a run that goes on for a retry of its own: what was paid stays answered.
        answers = None if record.run_id == run.run_id else answered(other, record)
        if answers is None:
            continue
        for digests, positions in all_lines(folder, run):
            at = positions[wanted[positions]]
            asked = digests[wanted[positions]]
            found = answers.find(asked)
            hits = found >= 0
            kept.write(at[hits], asked[hits], answers.lines(found[hits].tolist()))
            wanted[at[hits]] = False
            change.subtract(RowStatus(int(one)) for one in statuses[at[hits]])
    rows, counts, files = _close_kept(kept, folder, run)
    change.update(counts)
    return Filled(rows, dict(change), files)


def _kept_writer(folder: RunFolder) -> KeptWriter:
    return KeptWriter(folder, folder.free_number("kept", 1))


def _close_kept(
    kept: KeptWriter, folder: RunFolder, run: RunRecord
) -> tuple[int, dict[RowStatus, int], dict[str, str]]:
    """Return how many rows were taken over, of which status, and the hashes of the new files."""
    rows = kept.close()
    if not rows:
        return 0, {}, {}
    path = folder.kept_path(kept.number)
    files = folder.hashes(path.name, path.with_suffix(".npy").name)
    return rows, count_kept(folder, run, kept.number), files


def _keep_answers(
    kept: KeptWriter, manifest: NDArray[np.void], found: Sequence[Answered]
) -> NDArray[np.bool_]:
    """Write the answers that there are for these lines; tell which lines have none."""
    digests = digests_of(manifest)
    left = np.ones(len(manifest), dtype=bool)
    for answers in found:
        numbers = answers.find(digests)
        hits = left & (numbers >= 0)
        lines = answers.lines(numbers[hits].tolist())
        kept.write(manifest["position"][hits], digests[hits], lines)
        left &= ~hits
    return left


def lends(folder: RunFolder, run: RunRecord, borrower: RunFolder, shards: Iterable[Shard]) -> bool:
    """Tell whether a run was answered a line of these shards, or has asked for one by now."""
    some = [digests_of(borrower.manifest(shard)) for shard in shards]
    digests = np.concatenate(some) if some else np.empty(0, dtype=DIGEST)
    if run.ending is None:
        return bool(_is_sending(folder, run, digests).any())
    found = answered(folder, run) if run.ending is not Ending.STOPPED else None
    return found is not None and bool((found.find(digests) >= 0).any())


def in_flight(folder: RunFolder, run: RunRecord) -> NDArray[np.void]:
    """Return the digests of all lines that a run has sent or will send."""
    some = [digests_of(folder.manifest(shard)) for shard in run.shards]
    return np.concatenate(some) if some else np.empty(0, dtype=DIGEST)


def _is_sending(folder: RunFolder, run: RunRecord, digests: NDArray[np.void]) -> NDArray[np.bool_]:
    """Tell which of these lines a run that goes on has asked for itself, not held for another.

    Those that it has collected as well: they are to be had from it when it has ended.
    """
    found = np.zeros(len(digests), dtype=bool)
    for shard in run.shards if run.ending is None else ():
        if not shard.held:
            theirs = digests_of(folder.manifest(shard))
            found |= SortedDigests(theirs, np.arange(len(theirs))).find(digests) >= 0
    return found
