"""What became of each row of a run: files read, judged, counted, added up.

It knows how a run's files add up (`resolution` has the rules), and where each answer stands; it
refuses to know when to ask, which is `lifecycle`'s, why a row has no answer, and what answers cost.
Every ended job is read the same way, whatever its status was; the trap is to believe the status, or
the service's counts, instead of the two result files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from batch_magic import wire
from batch_magic.answers import reader_of
from batch_magic.costs import is_half_price
from batch_magic.cures import AGAIN
from batch_magic.digests import digests_of
from batch_magic.errors import JournalError
from batch_magic.folder import ANSWERED, Answered, OutcomeTable, RunFolder, Scan
from batch_magic.records import (
    Endpoint,
    Job,
    JobStage,
    Outcomes,
    RowStatus,
    RunRecord,
    result_files,
)
from batch_magic.resolution import Resolution, Source, resolve
from batch_magic.wording import counted

_NOTHING: NDArray[np.int64] = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A run's outcomes: the resolution, the tables its entries count through, texts of defaults."""

    resolution: Resolution
    tables: tuple[OutcomeTable, ...]
    notes: tuple[str, ...]
    first_paid: int = 0  # entries before were not sent, or paid by other runs
    full_price: tuple[bool, ...] = ()  # of each table: whether its answers were asked for at once


@dataclass(frozen=True, slots=True)
class JobCount:
    """What a collected job's files say of its rows."""

    counts: dict[RowStatus, int]
    retryable: int


def resolve_run(folder: RunFolder, run: RunRecord) -> Resolved:
    """Give each row of a run its outcome so far; rows of open jobs are PENDING."""
    reader = _Reader(folder, run)
    reader.read("unsent")
    for number in folder.kept_numbers():
        reader.read_kept(number)
    first_paid = reader.entries
    for job in run.jobs:
        reader.read_job(job)
    reader.read_held()
    resolution = resolve(run.rows, reader.sources, folder.twins())
    tables, notes = tuple(reader.tables), tuple(reader.notes)
    return Resolved(resolution, tables, notes, first_paid, tuple(reader.full_price))


def scan_job(folder: RunFolder, run: RunRecord, job: int) -> tuple[Scan, int]:
    """Read a job's result files; return the sum, and how many answers were not JSON alone."""
    judge = Judge(run, _inputs_asked(folder, run, job))
    scan = folder.scan_job(job, run.run_id, judge, run.request.endpoint)
    return scan, judge.unwrapped


def _inputs_asked(folder: RunFolder, run: RunRecord, number: int) -> dict[int, int]:
    """Return how many inputs each row of a job of embeddings has, where some have several."""
    job = next((one for one in run.jobs if one.number == number), None)
    if not run.layout.several or job is None:
        return {}
    shard = next(one for one in run.shards if one.number == job.shard)
    counts: dict[int, int] = {}
    for lines in folder.lines_at(shard, np.ones(shard.rows, dtype=bool)):
        counts.update(zip(lines.positions, wire.inputs_of(lines), strict=True))
    return counts


def _scan_kept(folder: RunFolder, run: RunRecord, number: int) -> None:
    judge = Judge(run, None)  # whose vectors they are was looked at when they came
    folder.scan_kept(number, run.run_id, judge, run.request.endpoint)


class Judge:
    """Says of a run's answers whether they fit what was asked for.

    `inputs`: how many inputs each row of embeddings has, one where nothing else is said; None where
    vectors are not to be counted.
    """

    def __init__(self, run: RunRecord, inputs: Mapping[int, int] | None) -> None:
        self._inputs = inputs if run.request.endpoint == Endpoint.EMBEDDINGS else None
        shape = run.layout.shape
        self._reader = None if shape is None else reader_of(shape)

    @property
    def unwrapped(self) -> int:
        """How many of the answers so far were not JSON alone."""
        return 0 if self._reader is None else self._reader.unwrapped

    def __call__(self, part: Outcomes) -> Outcomes:
        if self._inputs is not None:
            said = list(map(self._miscounted, part.positions, part.text))
        elif self._reader is not None:
            said = self._reader.misfits(part.text)
        else:
            return part
        rows = zip(part.statuses, part.text, part.error, said, strict=True)
        judged = [_verdict(*row) for row in rows]
        statuses, texts, errors = zip(*judged, strict=True) if judged else ((), (), ())
        return replace(part, statuses=statuses, text=texts, error=errors)

    def _miscounted(self, position: int, text: str | None) -> str | None:
        """Say of the vectors of a row, a line each, that they are not one for each input."""
        asked, found = (self._inputs or {}).get(position, 1), (text or "").count("\n") + 1
        if text is None or asked == found:
            return None
        return f"{counted(found, 'vector')} for {counted(asked, 'input')}"


_RAW_CHARS = 1_000
NO_REASON = "no reason was given"
ANSWER = "; the answer: "  # what stands before it is the cause


def _verdict(
    status: int, text: str | None, error: str | None, misfit: str | None
) -> tuple[int, str | None, str | None]:
    """What is said of one row: an answer cut short, or a misfit, is told in its error."""
    if status != RowStatus.OK:
        return status, None, f"{error}{ANSWER}{text:.{_RAW_CHARS}}" if text else error
    if misfit is None:
        return status, text, error
    return int(RowStatus.UNPARSED), None, f"{misfit}{ANSWER}{text:.{_RAW_CHARS}}"


def count_job(folder: RunFolder, run: RunRecord, job: Job) -> JobCount:
    """Count the outcomes of one collected job's rows."""
    reader = _Reader(folder, run)
    reader.read_job(job)
    mine = resolve(run.rows, reader.sources)
    rows = _rows_of(folder, run, job)
    statuses, counts = np.unique(mine.statuses[rows], return_counts=True)
    return JobCount(
        {RowStatus(int(s)): int(n) for s, n in zip(statuses, counts, strict=True)},
        int(mine.retryable[rows].sum()),
    )


def lost_results(folder: RunFolder, run: RunRecord, *, verify: bool) -> list[Job]:
    """Return the collected jobs of which a result file is not here; damaged ones with `verify`.

    A damaged file is set aside, so that it can be fetched again.
    """
    lost = []
    for job in run.jobs:
        if job.stage is not JobStage.COLLECTED or job.remote is None:
            continue
        if verify:
            folder.set_damaged_aside(job.number)
        if not _has_files(folder, job):
            lost.append(job)
    return lost


def answered(folder: RunFolder, run: RunRecord) -> Answered | None:
    """Return the answers of an ended run, found again where the list of them is damaged."""
    try:
        return folder.answered()
    except JournalError:
        write_answered(folder, run, resolve_run(folder, run))
        return folder.answered()


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was asked of a row and what came back, each None where it is not there.

    The request line as it was sent, the answer's text, the raw result line.
    """

    line: bytes | None = None
    text: str | None = None
    raw: bytes | None = None


def exchanges(folder: RunFolder, run: RunRecord, positions: Collection[int]) -> dict[int, Exchange]:
    """Return what was asked of a few rows, and what came back, by position.

    A row that shares another's line has that one; one whose answer was taken over from another run
    has no line here.
    """
    resolved = resolve_run(folder, run)
    shared = {int(row): int(other) for row, other in folder.twins()}
    lines = _lines_of(folder, run, {shared.get(one, one) for one in positions})
    return {
        one: replace(_received(folder, resolved, one), line=lines.get(shared.get(one, one)))
        for one in positions
    }


def _lines_of(folder: RunFolder, run: RunRecord, wanted: set[int]) -> dict[int, bytes]:
    """Return the request lines of these rows, as far as they stand in shards of the run."""
    found: dict[int, bytes] = {}
    for shard in run.shards:
        rows = folder.manifest(shard)["position"]
        is_mine = np.isin(rows, [one for one in wanted if one not in found])
        lines = folder.request_lines(shard, is_mine)
        mine = islice(lines, int(is_mine.sum()))  # the rest of the file is not read
        found |= dict(zip(rows[is_mine].tolist(), mine, strict=True))
    return found


def _received(folder: RunFolder, resolved: Resolved, position: int) -> Exchange:
    entry = int(resolved.resolution.entry[position])
    first = 0
    for table in resolved.tables:
        if 0 <= entry - first < len(table.table):
            (row,) = table.table.slice(entry - first, 1).to_pylist()
            text = None if row["text"] is None else row["text"].decode("utf-8", "replace")
            if not table.files:
                return Exchange(text=text)  # it was never sent
            span = (row["offset"], row["length"])
            (raw,) = folder.raw_lines(table.files[row["file"]], [span])
            return Exchange(text=text, raw=raw)
        first += len(table.table)
    return Exchange()


def count_kept(folder: RunFolder, run: RunRecord, number: int) -> dict[RowStatus, int]:
    """Read a file of answers taken over; count them by status."""
    _scan_kept(folder, run, number)
    table = folder.outcomes(f"kept-{number:05}")
    assert table is not None
    if len(table.table) != len(folder.kept_manifest(number)):
        raise JournalError(
            "result files of an earlier run were changed since they were read;"
            " pay for its rows again with --fresh"
        )
    statuses, counts = np.unique(table.table["status"].to_numpy(), return_counts=True)
    return {RowStatus(int(s)): int(n) for s, n in zip(statuses, counts, strict=True)}


# -- reading --------------------------------------------------------------------------------


class _Reader:
    """Collects sources in order of time, numbering their entries through."""

    def __init__(self, folder: RunFolder, run: RunRecord) -> None:
        self._folder, self._run = folder, run
        self.entries = 0
        self.sources: list[Source] = []
        self.tables: list[OutcomeTable] = []
        self.full_price: list[bool] = []
        self.notes: list[str] = []

    def read(self, name: str) -> None:
        """Read a file whose rows are just those that it names."""
        self._add(name, _NOTHING, RowStatus.PENDING, None)

    def read_kept(self, number: int) -> None:
        """Read a file of answers taken over."""
        name = f"kept-{number:05}"
        for suffix in ("jsonl", "npy"):
            self._folder.checked(f"{name}.{suffix}")
        if self._folder.outcomes(name) is None:
            _scan_kept(self._folder, self._run, number)
        self.read(name)

    def read_job(self, job: Job) -> None:
        """Read a job's file; rows that it does not name get what the job's end means for them."""
        rows = _rows_of(self._folder, self._run, job)
        full = not is_half_price(self._run, job)
        if job.stage is not JobStage.COLLECTED:
            noted = self._noted(job) if job.is_live else None
            self._add(noted, rows, RowStatus.PENDING, None, full_price=full)
            return
        self._restore(job)
        default, note = _default(job)
        may_pass = default in _MAY_PASS and _has_files(self._folder, job)
        name = f"job-{job.number:05}"
        self._add(name, rows, default, note, may_pass=may_pass, full_price=full)
        for fault in job.remote.faults if job.remote and default is RowStatus.FAILED else ():
            if fault.line is not None and 0 < fault.line <= len(rows):
                said = f"{fault.code}: {fault.message} (line {fault.line} of its job); {AGAIN}"
                self._add(None, rows[fault.line - 1 : fault.line], RowStatus.FAILED, said)

    def read_held(self) -> None:
        """Read the rows whose lines wait for what other runs are answered."""
        for shard in self._run.shards if self._run.lenders else ():
            if shard.held:
                rows = self._folder.manifest(shard)["position"].astype(np.int64)
                self._add(None, rows, RowStatus.PENDING, None)

    def _noted(self, job: Job) -> str:
        """Read the answers that the live lane has noted so far."""
        run, judge = (
            self._run,
            Judge(self._run, _inputs_asked(self._folder, self._run, job.number)),
        )
        return self._folder.scan_live(job.number, run.run_id, judge, run.request.endpoint)

    def _restore(self, job: Job) -> None:
        """Make a job's outcomes file where this process has not yet: raw files are the truth."""
        if job.remote is None:
            return
        for kind in ("output", "error"):
            self._folder.checked(self._folder.result_path(job.number, kind).name)
        if self._folder.outcomes(f"job-{job.number:05}") is None:
            scan_job(self._folder, self._run, job.number)

    def _add(
        self,
        name: str | None,
        rows: NDArray[np.int64],
        default: RowStatus,
        note: str | None,
        *,
        may_pass: bool = False,
        full_price: bool = False,
    ) -> None:
        table = None if name is None else self._folder.outcomes(name)
        columns = None if table is None else table.table
        if note is not None:
            self.notes.append(note)
        positions = _NOTHING if columns is None else columns["position"].to_numpy()
        self.sources.append(
            Source(
                first=self.entries,
                positions=_known(positions, rows, self._run.rows) if len(rows) else positions,
                statuses=_NOTHING.astype(np.uint8)
                if columns is None
                else columns["status"].to_numpy(),
                retryable=_NOTHING.astype(bool)
                if columns is None
                else columns["retryable"].to_numpy(),
                rows=rows,
                default=default,
                default_retryable=may_pass,
                note=-1 if note is None else len(self.notes) - 1,
            )
        )
        if table is not None:
            self.tables.append(table)
            self.full_price.append(full_price)
            self.entries += len(table.table)


def _has_files(folder: RunFolder, job: Job) -> bool:
    """Tell whether every result file that there must be is here.

    Rows in one that stayed away were most likely answered and paid for: they are not sent again by
    themselves.
    """
    remote = job.remote
    if remote is None:
        return True
    paths = [folder.result_path(job.number, kind) for kind, _ in result_files(job)]
    return not remote.lacks_named_files and all(path.exists() for path in paths)


def _known(positions: NDArray[np.int64], rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Put -1 for each position that is none of `rows`: a job answers for its own rows alone."""
    is_asked = np.zeros(n, dtype=bool)
    is_asked[rows] = True
    inside = np.where((positions >= 0) & (positions < n), positions, -1)
    return np.where((inside >= 0) & is_asked[inside], inside, -1)


_MAY_PASS = (RowStatus.MISSING, RowStatus.EXPIRED)
_CUT_OFF = {"cancelled": RowStatus.CANCELLED, "expired": RowStatus.EXPIRED}


def _default(job: Job) -> tuple[RowStatus, str]:
    remote = job.remote
    if remote is None:
        return RowStatus.CANCELLED, "was never sent: the run was cancelled first"
    if job.is_live and remote.status == "cancelled":
        return RowStatus.CANCELLED, "was not answered: the run was cancelled first"
    if job.is_live:
        return RowStatus.MISSING, "its answer was noted here and is lost; retry asks for it again"
    if remote.status == "failed":
        said = next((f"{fault.code}: {fault.message}" for fault in remote.faults), None)
        return RowStatus.FAILED, f"its job was refused: {said or 'no reason was given'}"
    has_files = remote.output_file_id or remote.error_file_id
    if remote.status in _CUT_OFF and not has_files and not remote.lacks_named_files:
        return _CUT_OFF[remote.status], f"{remote.batch_id} was {remote.status} before any row ran"
    where = f"in neither result file of {remote.batch_id}"
    return RowStatus.MISSING, f"{where}; {job.problem}" if job.problem else where


def _rows_of(folder: RunFolder, run: RunRecord, job: Job) -> NDArray[np.int64]:
    shard = next(one for one in run.shards if one.number == job.shard)
    return folder.manifest(shard)["position"].astype(np.int64)


# -- writing --------------------------------------------------------------------------------


def write_answered(folder: RunFolder, run: RunRecord, resolved: Resolved) -> None:
    """Write down where each paid answer of a run is: by digest of its line, for later runs."""
    entry_of = np.where(resolved.resolution.paid, resolved.resolution.entry, -1)
    columns = _locations(resolved.tables)
    files: list[object] = []
    starts: list[int] = []
    for table in resolved.tables:
        starts.append(len(files))
        files.extend(table.files)
    seen: list[NDArray[np.void]] = []
    for digests, positions in all_lines(folder, run):
        entry = entry_of[positions]
        paid = entry >= 0
        entries = np.empty(int(paid.sum()), dtype=ANSWERED)
        entries["hi"], entries["lo"] = digests["hi"][paid], digests["lo"][paid]
        for name in ("file", "offset", "length"):
            entries[name] = columns[name][entry[paid]]
        entries["file"] += np.asarray(starts, dtype=np.int32)[columns["table"][entry[paid]]]
        seen.append(entries)
    found = np.concatenate(seen) if seen else np.empty(0, dtype=ANSWERED)
    folder.write_answered(found, [path for table in resolved.tables for path in table.files])


def _locations(tables: Sequence[OutcomeTable]) -> dict[str, NDArray[np.int64]]:
    columns: dict[str, NDArray[np.int64]] = {}
    for name in ("file", "offset", "length"):
        parts = [table.table[name].to_numpy() for table in tables]
        columns[name] = np.concatenate(parts) if parts else _NOTHING
    sizes = [len(table.table) for table in tables]
    columns["table"] = np.repeat(np.arange(len(tables)), sizes)
    return columns


def all_lines(
    folder: RunFolder, run: RunRecord
) -> list[tuple[NDArray[np.void], NDArray[np.int64]]]:
    """Return the digests and the positions of all lines of a run, each line once, file by file."""
    manifests = [folder.manifest(shard) for shard in run.shards]
    manifests += [folder.kept_manifest(number) for number in folder.kept_numbers()]
    seen = np.zeros(run.rows, dtype=bool)  # later shards repeat lines of the first ones
    lines = []
    for manifest in manifests:
        fresh = manifest[~seen[manifest["position"]]]
        seen[fresh["position"]] = True
        lines.append((digests_of(fresh), fresh["position"].astype(np.int64)))
    return lines
