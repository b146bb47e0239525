"""How a run comes out as a whole: a glimpse while it goes on, its sums when it has ended.

It knows what a run's files say in short, and refuses to write that into the journal, or to draw it:
the one is for the engine and the session, the other for `picture`. The traps: a glimpse is taken
again and again while answers come in, so that it has to read the ends of files alone where it can;
and whether an answer fits depends on the shape that is asked for, so that a run of a new shape is
counted anew from the raw files.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from batch_magic.billing import savings
from batch_magic.causes import complaint_lately, complaint_of
from batch_magic.folder import RunFolder
from batch_magic.outcomes import (
    Judge,
    count_job,
    count_kept,
    resolve_run,
    scan_job,
    write_answered,
)
from batch_magic.records import Endpoint, Job, JobStage, Outcomes, Preview, RowStatus, RunRecord
from batch_magic.wording import counted

_PREVIEWED, _PREVIEW_CHARS = 5, 200


@dataclass(frozen=True, slots=True)
class Settled:
    """How a run came out: rows of each status, and the commonest reason why rows have no answer."""

    counts: dict[RowStatus, int]
    complaint: str | None
    saved: dict[str, float]  # US dollars, by why
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What is seen of a run that goes on: its newest answers, and its commonest error so far."""

    newest: tuple[Preview, ...] = ()
    complaint: str | None = None


# -- while it goes on -----------------------------------------------------------------------


def glimpse(folder: RunFolder, run: RunRecord, *, is_resolved: bool) -> Glimpse:
    """Look at what has come in of a run that goes on, in files and, live, as it comes.

    With `is_resolved` the error is that of all rows in; else of the last answers alone, which is
    all that a look costs next to nothing for: there is no end of what comes in live, and files of
    outcomes are another's to make where another kernel drives the run.
    """
    lately = _lately(folder, run)
    complaint = complaint_of(run, resolve_run(folder, _as_collected(run))) if is_resolved else None
    return Glimpse(_newest(run, lately), complaint or complaint_lately(run, lately))


def _lately(folder: RunFolder, run: RunRecord) -> list[Outcomes]:
    """Read the ends of what has come in last, oldest first, until there is enough to show."""
    judge, found, rows = Judge(run, None), list[Outcomes](), 0
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


# -- at its end -----------------------------------------------------------------------------


def settle(folder: RunFolder, run: RunRecord) -> Settled:
    """Write down where each paid answer is, for later runs; count what became of the rows."""
    resolved = resolve_run(folder, run)
    write_answered(folder, run, resolved)
    files = folder.hashes("answered.npy", "answered.json")
    saved = savings(folder, run, resolved)
    return Settled(resolved.resolution.counts(), complaint_of(run, resolved), saved, files)


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
        fault=complaint_of(reshaped, resolved),
    )


def _recounted(folder: RunFolder, run: RunRecord, job: Job) -> Job:
    if job.is_replaced or job.stage is not JobStage.COLLECTED:
        return job
    count = count_job(folder, run, job)
    return replace(job, counts=count.counts, retryable=count.retryable)


_UNWRAPPED = "had fences or prose around the JSON: read"


def unwrapped_words(answers: int) -> tuple[str, ...]:
    """Say of how many answers the JSON stood in something else."""
    return (f"{counted(answers, 'answer')} {_UNWRAPPED}",) if answers else ()
