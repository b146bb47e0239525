"""What became of each row of a run: files read, counted, added up.

It knows how a run's files add up (`resolution` has the rules) and refuses to know when to ask:
that is `lifecycle`'s. Every ended job is read the same way, whatever its status was; the trap
is to believe the status, or the service's counts, instead of the two result files.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch_magic import wire
from batch_magic.answers import reader_of
from batch_magic.costs import is_half_price, row_costs, usage_cost
from batch_magic.cures import AGAIN, cure_of
from batch_magic.digests import digests_of
from batch_magic.errors import JournalError
from batch_magic.folder import (
    ANSWERED,
    Answered,
    OutcomeTable,
    RunFolder,
    Scan,
)
from batch_magic.records import (
    Cost,
    Endpoint,
    Job,
    JobStage,
    Outcomes,
    Preview,
    RowStatus,
    RunRecord,
    Spent,
    Usage,
    Wish,
    result_files,
)
from batch_magic.resolution import Resolution, Source, resolve
from batch_magic.wording import counted

_NOTHING: NDArray[np.int64] = np.empty(0, dtype=np.int64)


_TOKENS = ("usage_input", "usage_cached", "usage_output", "usage_reasoning")
_BILLED = _TOKENS[:3]


@dataclass(frozen=True, slots=True)
class Taken:
    """What a job's answers took: tokens, dollars, and what later estimates rest on."""

    usage: Usage
    cost: Cost
    spent: Spent


def taken_by(folder: RunFolder, run: RunRecord, job: Job) -> Taken | None:
    """Add up what a job's answers took; None where no tokens are told of.

    A row that stands in the files more than once was answered once. What the job itself says was
    billed beyond that is of answers that are in no file: it is priced as short requests.
    """
    shard = next(one for one in run.shards if one.number == job.shard)
    asked = shard.model or run.request.model
    table = folder.outcomes(f"job-{job.number:05}")
    told = _told(table.table, run, job, asked) if table is not None else _NOTHING_TAKEN
    billed = job.remote.usage if job.remote else None
    lost = (billed or Usage()).beyond(told.usage)
    if not told.spent.requests and not lost.input:
        return None
    is_half = is_half_price(run, job)
    extra = Cost(*(usage_cost(run, asked, lost, is_batch=one) for one in (is_half, False)))
    return Taken(told.usage + lost, told.cost + extra, told.spent)


def _told(table: Any, run: RunRecord, job: Job, asked: str) -> Taken:
    """Add up what the rows of a job's files tell."""
    known = np.flatnonzero(~np.isnan(_numbers(table, "usage_input")))
    _, firsts = np.unique(table["position"].to_numpy()[known], return_index=True)
    if not len(firsts):
        return _NOTHING_TAKEN
    rows = table.select([*_TOKENS, "model"]).take(known[np.sort(firsts)])
    tokens = {name: np.nan_to_num(_numbers(rows, name)) for name in _TOKENS}
    served, counts = rows["model"].to_pylist(), [tokens[name] for name in _BILLED]
    paid, at_once = (
        _known_sum(row_costs(run, served, asked, *counts, is_batch=is_batch))
        for is_batch in (is_half_price(run, job), False)
    )
    usage = Usage(*(int(tokens[name].sum()) for name in _TOKENS))
    squares = float((tokens["usage_output"] ** 2).sum())
    size = round(job.bytes * min(1.0, len(rows) / max(1, job.rows)))
    spent = Spent(len(rows), size, usage.input, usage.output, squares)
    return Taken(usage, Cost(paid, at_once), spent)


_NOTHING_TAKEN = Taken(Usage(), Cost(0.0, 0.0), Spent())


def _numbers(table: Any, name: str) -> NDArray[np.float64]:
    found: NDArray[np.float64] = table[name].to_numpy(zero_copy_only=False).astype(float)
    return found


def entry_costs(
    run: RunRecord, resolved: Resolved, entries: NDArray[np.int64], asked: str
) -> NDArray[np.float64]:
    """Return US dollars of these entries' answers (n values), at the prices of their lanes.

    `asked` is the model that they were asked of. NaN for entry -1, and where it is not known.
    """
    dollars, first = np.full(len(entries), np.nan), 0
    for table, is_full in zip(resolved.tables, resolved.full_price, strict=True):
        size = len(table.table)
        mine = np.flatnonzero((entries >= first) & (entries < first + size))
        if len(mine):
            part = table.table.select([*_BILLED, "model"]).take(entries[mine] - first)
            tokens = [_numbers(part, name) for name in _BILLED]
            served = part["model"].to_pylist()
            dollars[mine] = row_costs(run, served, asked, *tokens, is_batch=not is_full)
        first += size
    return dollars


def _savings(folder: RunFolder, run: RunRecord, resolved: Resolved) -> dict[str, float]:
    """Return US dollars that were not paid: by batch, for rows alike, for answers of other runs.

    What is not known is left out. A kept answer counts at the price of a batch.
    """
    entry, paid = resolved.resolution.entry, resolved.resolution.paid
    is_twin = np.zeros(run.rows, dtype=bool)
    is_twin[folder.twins()[:, 0]] = True
    is_kept = paid & ~is_twin & (entry >= 0) & (entry < resolved.first_paid)
    costs = [job.cost for job in run.jobs if job.cost is not None and not job.is_replaced]
    saved = {
        "batch": _by_batch(costs),
        "duplicates": _of_rows(run, resolved, is_twin & paid),
        "reuse": _of_rows(run, resolved, is_kept),
    }
    return {why: dollars for why, dollars in saved.items() if dollars is not None}


def _by_batch(costs: Iterable[Cost]) -> float | None:
    total = sum(costs, Cost(0.0, 0.0))
    if total.at_once_usd is None or total.paid_usd is None:
        return None
    return total.at_once_usd - total.paid_usd


def _of_rows(run: RunRecord, resolved: Resolved, wanted: NDArray[np.bool_]) -> float | None:
    """Add up what the answers of these rows cost, by the model that each was asked of."""
    total, models = 0.0, run.request.models
    rows = run.rows // len(models)
    for nth, model in enumerate(models):
        mine = slice(nth * rows, (nth + 1) * rows)
        entries = resolved.resolution.entry[mine][wanted[mine]]
        total += float(entry_costs(run, resolved, entries, model).sum())
    return None if math.isnan(total) else total


def _known_sum(dollars: NDArray[np.float64]) -> float | None:
    return None if np.isnan(dollars).any() else float(dollars.sum())


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
    resolution = resolve(run.rows, reader.sources, folder.twins())
    tables, notes = tuple(reader.tables), tuple(reader.notes)
    return Resolved(resolution, tables, notes, first_paid, tuple(reader.full_price))


def scan_job(folder: RunFolder, run: RunRecord, job: int) -> tuple[Scan, int]:
    """Read a job's result files; return the sum, and how many answers were not JSON alone."""
    judge = _Judge(run, _inputs_asked(folder, run, job))
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
    judge = _Judge(run, None)  # whose vectors they are was looked at when they came
    folder.scan_kept(number, run.run_id, judge, run.request.endpoint)


class _Judge:
    """Says of a run's answers whether they fit what was asked for."""

    def __init__(self, run: RunRecord, inputs: Mapping[int, int] | None) -> None:
        self._inputs = inputs if run.request.endpoint == Endpoint.EMBEDDINGS else None
        shape = run.layout.shape
        self._reader = None if shape is None else reader_of(shape)

    @property
    def unwrapped(self) -> int:
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


def judge_again(folder: RunFolder, run: RunRecord, reshaped: RunRecord) -> RunRecord:
    """Read all answers of an ended run anew, by its new shape; return it with its new counts.

    Nothing is asked again: what did not fit before may fit now, and the other way round.
    """
    numbers = folder.kept_numbers()
    before = sum((Counter(count_kept(folder, run, number)) for number in numbers), Counter())
    folder.forget_outcomes()
    after = sum((Counter(count_kept(folder, reshaped, number)) for number in numbers), Counter())
    decided = Counter(run.decided)
    decided.subtract(before)
    decided.update(after)
    collected = [job for job in run.jobs if job.stage is JobStage.COLLECTED and job.remote]
    unwrapped = sum(scan_job(folder, reshaped, job.number)[1] for job in collected)
    jobs = [_recounted(folder, reshaped, job) for job in run.jobs]
    resolved = resolve_run(folder, reshaped)
    notes = [note for note in run.notes if _UNWRAPPED not in note]
    return replace(
        reshaped,
        jobs=tuple(jobs),
        notes=(*notes, *unwrapped_words(unwrapped)),
        decided=dict(decided),
        counts=resolved.resolution.counts(),
        fault=_complaint(reshaped, resolved),
    )


_UNWRAPPED = "had fences or prose around the JSON: read"


def unwrapped_words(answers: int) -> tuple[str, ...]:
    """Say of how many answers the JSON stood in something else."""
    return (f"{counted(answers, 'answer')} {_UNWRAPPED}",) if answers else ()


def _recounted(folder: RunFolder, run: RunRecord, job: Job) -> Job:
    if job.is_replaced or job.stage is not JobStage.COLLECTED:
        return job
    count = count_job(folder, run, job)
    return replace(job, counts=count.counts, retryable=count.retryable)


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


@dataclass(frozen=True, slots=True)
class Settled:
    """How a run came out: rows of each status, and the commonest reason why rows have no answer."""

    counts: dict[RowStatus, int]
    complaint: str | None
    saved: dict[str, float]  # US dollars, by why
    files: dict[str, str]


def settle(folder: RunFolder, run: RunRecord) -> Settled:
    """Write down where each paid answer is, for later runs; count what became of the rows."""
    resolved = resolve_run(folder, run)
    _write_answered(folder, run, resolved)
    files = folder.hashes("answered.npy", "answered.json")
    saved = _savings(folder, run, resolved)
    return Settled(resolved.resolution.counts(), _complaint(run, resolved), saved, files)


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason why rows have no answer: their status, one of their errors, and the first of them.

    Errors that differ in numbers and ids alone are one cause; those of each model are apart.
    `key` is its name for good, whatever else becomes of the run; `requests` are those that go out
    if its rows are sent again: rows alike share one, and some rows have none.
    """

    status: RowStatus
    error: str
    rows: int
    position: int
    key: str
    requests: int = 0


_PREVIEWED, _PREVIEW_CHARS = 5, 200


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What is seen of a run that goes on: its newest answers, and its commonest error so far."""

    newest: tuple[Preview, ...] = ()
    complaint: str | None = None


def glimpse(folder: RunFolder, run: RunRecord, *, is_resolved: bool) -> Glimpse:
    """Look at what has come in of a run that goes on, in files and, live, as it comes.

    With `is_resolved` the error is that of all rows in; else of the last answers alone, which is
    all that a look costs next to nothing for: there is no end of what comes in live, and files of
    outcomes are another's to make where another kernel drives the run.
    """
    lately = _lately(folder, run)
    complaint = _complaint(run, resolve_run(folder, _as_collected(run))) if is_resolved else None
    return Glimpse(_newest(run, lately), complaint or _complaint_of(run, lately))


def _lately(folder: RunFolder, run: RunRecord) -> list[Outcomes]:
    """Read the ends of what has come in last, oldest first, until there is enough to show."""
    judge, found, rows = _Judge(run, None), list[Outcomes](), 0
    for job in sorted(run.jobs, key=_came_at, reverse=True):
        is_in = job.stage is JobStage.COLLECTED and not job.is_replaced
        if rows < _PREVIEWED and (is_in or (job.is_live and job.stage is JobStage.RUNNING)):
            parts = folder.lately(job.number, run.run_id, judge, run.request.endpoint)
            rows += sum(len(part.positions) for part in parts)
            found[:0] = parts
    return found


def _came_at(job: Job) -> float:
    return job.ended_at if job.ended_at is not None else math.inf


def _as_collected(run: RunRecord) -> RunRecord:
    """Return a run whose open jobs have nothing to read: what they noted is not looked into."""
    is_in = JobStage.COLLECTED
    jobs = tuple(job if job.stage is is_in else replace(job, is_live=False) for job in run.jobs)
    return replace(run, jobs=jobs)


def _complaint_of(run: RunRecord, lately: Sequence[Outcomes]) -> str | None:
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


def _newest(run: RunRecord, lately: Sequence[Outcomes]) -> tuple[Preview, ...]:
    """Return the few that came in last, newest first; none of embeddings."""
    if run.request.endpoint == Endpoint.EMBEDDINGS:
        return ()
    rows = [
        row
        for part in lately
        for row in zip(part.positions, part.statuses, part.text, part.error, strict=True)
    ]
    return tuple(_preview(run, *row) for row in rows[::-1][:_PREVIEWED])


def _preview(
    run: RunRecord, position: int, status: int, text: str | None, error: str | None
) -> Preview:
    said = _fields(run, text) if text else error or ""
    row = position % (run.rows // len(run.request.models))
    return Preview(row, RowStatus(status), said[:_PREVIEW_CHARS])


def _fields(run: RunRecord, text: str) -> str:
    """Tell a typed answer as its fields; any other, and one in prose, as it is."""
    shape = run.layout.shape
    if shape is None or shape.schema is None:
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(found, dict):
        return text
    return " · ".join(f"{name}: {_plainly(value)}" for name, value in found.items())


def _plainly(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


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
        _write_answered(folder, run, resolve_run(folder, run))
        return folder.answered()


BLAMELESS = frozenset({RowStatus.OK, RowStatus.SKIPPED, RowStatus.PENDING})
_VARIES = re.compile(r"\b(?:req|batch|file|org|resp|chatcmpl)[-_]\w+|\d[\d,.]*")


def causes(folder: RunFolder, run: RunRecord) -> list[Cause]:
    """Group the rows that came out badly by cause, the commonest first."""
    resolved = resolve_run(folder, run)
    wanted = ~is_of(resolved.resolution, BLAMELESS)
    return grouped(resolved, wanted, rows_of_frame(run), _has_request(folder, run))


def requests_again(folder: RunFolder, run: RunRecord, wish: Wish) -> int:
    """Count the requests that go out if a wish is granted now."""
    wished = is_wished(resolve_run(folder, run), run, wish)
    return int((wished & _has_request(folder, run)).sum())


def cause_key(model: int, status: RowStatus, error: str) -> str:
    """Return the name of a cause: 16 hexadecimal digits of what its rows have in common.

    `model` is the place of the model among those of the run. What stands in an answer, numbers and
    ids are no part of it.
    """
    kind = f"{model}\0{status.label}\0{_VARIES.sub('#', error.partition(ANSWER)[0])}"
    return blake2b(kind.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


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


def is_wished(resolved: Resolved, run: RunRecord, wish: Wish) -> NDArray[np.bool_]:
    """Tell which rows (n values) a wish means, as they came out so far."""
    found = is_of(resolved.resolution, wish.statuses)
    if wish.causes:
        bad = np.flatnonzero(~is_of(resolved.resolution, BLAMELESS))
        keys = [key for _, key in errors_and_keys(resolved, bad, rows_of_frame(run))]
        found[bad] |= np.isin(np.array(keys, dtype="U16"), sorted(wish.causes))
    return found


def rows_of_frame(run: RunRecord) -> int:
    """Return how many rows the frame of a run has: each of them is asked of every model."""
    return run.rows // len(run.request.models)


def _has_request(folder: RunFolder, run: RunRecord) -> NDArray[np.bool_]:
    """Tell which rows have a request of their own: some share another's, some were never sent."""
    found = np.zeros(run.rows, dtype=bool)
    for _, positions in all_lines(folder, run):
        found[positions] = True
    found[folder.twins()[:, 0]] = False
    return found


def is_of(resolution: Resolution, statuses: Iterable[RowStatus]) -> NDArray[np.bool_]:
    """Tell which rows (n values) came out with one of these statuses."""
    return np.isin(resolution.statuses, [int(status) for status in statuses])


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


_COMPLAINT_CHARS = 300  # of the error: what cures it is not to be cut off


def _complaint(run: RunRecord, resolved: Resolved) -> str | None:
    """Return the commonest error of the rows that came out badly, how often, and its cure."""
    blameless = BLAMELESS | {RowStatus.CANCELLED}
    found = grouped(resolved, ~is_of(resolved.resolution, blameless), run.rows)
    if not found:
        return None
    rows, first = counted(sum(one.rows for one in found), "row"), found[0]
    said = _with_cure(run, first.status, first.error)
    return f"{first.rows:,} of {rows} without a good answer: {said}"


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

    def _noted(self, job: Job) -> str:
        """Read the answers that the live lane has noted so far."""
        run, judge = (
            self._run,
            _Judge(self._run, _inputs_asked(self._folder, self._run, job.number)),
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


def _write_answered(folder: RunFolder, run: RunRecord, resolved: Resolved) -> None:
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
