"""The picture of a run: a `Snapshot` drawn from what the journal says, at an instant.

It knows how a record looks to a person (stage, counts, pace) and refuses to decide anything:
what comes next is `lifecycle`'s. The trap is the service's own counts: while a job runs they
are shown as its claim, never added to the rows whose outcome is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from statistics import median

from batch_magic.progress import lapsed_s
from batch_magic.records import (
    Cost,
    Ending,
    Job,
    JobStage,
    Pace,
    RowStatus,
    RunRecord,
    Snapshot,
    Stage,
    Usage,
)
from batch_magic.wording import counted


def snapshot(
    run: RunRecord, now: float, *, wake_at: float | None = None, pace: Pace | None = None
) -> Snapshot:
    """Draw a run as it stands: a pure function of the journal's record and the time.

    `pace` is how long jobs took in earlier runs, if there were any.
    """
    counts = dict(run.counts) if run.counts else _counts_so_far(run)
    usages = [job.usage for job in run.jobs if job.usage]
    costs = [job.cost for job in run.jobs if job.cost]
    claimed_ok, claimed_failed = _claims(run)
    eta_s, basis = _eta_s(run, claimed_ok + claimed_failed, now, pace)
    queue_s, work_s = _spans(run, now)
    return Snapshot(
        run_id=run.run_id,
        name=run.name,
        backend=run.backend,
        request=run.request,
        stage=stage_of(run),
        as_of=now,
        created_at=run.created_at,
        rows=run.rows,
        counts=counts,
        jobs=tuple(_real_jobs(run)),
        prepared=run.rows,
        claimed_ok=claimed_ok,
        claimed_failed=claimed_failed,
        model_served=run.model_served or _served(run),
        usage=sum(usages, Usage()) if usages else None,
        cost=sum(costs, Cost(0.0, 0.0)) if costs else None,
        ending=run.ending,
        ended_at=run.ended_at,
        fault=run.fault,
        problem=_problem(run),
        notes=run.notes + _odd_results(run),
        cancelling=run.cancel_at is not None and run.ending is None,
        round=run.round,
        eta_s=eta_s,
        eta_basis=basis,
        queue_s=queue_s,
        work_s=work_s,
        wake_at=wake_at,
        lenders=run.lenders,
        goes_live_at=run.goes_live_at,
        estimate=run.estimate,
        asks_usd=run.asks_usd,
        saved=run.saved,
        progress=tuple(point for point in run.progress if point.at >= (run.resumed_at or 0.0)),
        pauses=run.pauses,
        notebook=run.notebook,
    )


def rows_done(s: Snapshot) -> int:
    """Return how many rows are done, the service's claims included."""
    pending = s.counts.get(RowStatus.PENDING, 0)
    return s.rows - pending + min(pending, s.claimed_ok + s.claimed_failed)


_TROUBLE = frozenset(set(RowStatus) - {RowStatus.OK, RowStatus.SKIPPED, RowStatus.PENDING})


def is_troubled(s: Snapshot) -> bool:
    """Tell whether rows have come out badly so far."""
    return any(number and status in _TROUBLE for status, number in s.counts.items())


def _real_jobs(run: RunRecord) -> list[Job]:
    return [job for job in run.jobs if not job.is_replaced]


def stage_of(run: RunRecord) -> Stage:
    """Return where a run is on its rail: as far back as its slowest job."""
    if run.ending in (Ending.FINISHED, Ending.CANCELLED):
        return Stage.DONE
    open_jobs = [job for job in run.jobs if job.stage is not JobStage.COLLECTED]
    if not open_jobs:
        return Stage.IN_PROGRESS if run.lenders else Stage.COLLECTING
    return min((_stage_of_job(job) for job in open_jobs), key=_RAIL.index)


_RAIL = list(Stage)
_REMOTE_STAGES = {
    "validating": Stage.VALIDATING,
    "in_progress": Stage.IN_PROGRESS,
    "finalizing": Stage.FINALIZING,
    "cancelling": Stage.FINALIZING,
}


def _stage_of_job(job: Job) -> Stage:
    if job.stage is JobStage.RUNNING:
        return _REMOTE_STAGES.get(job.remote_status, Stage.IN_PROGRESS)
    return Stage.COLLECTING if job.stage is JobStage.ENDED else Stage.UPLOADING


def _counts_so_far(run: RunRecord) -> dict[RowStatus, int]:
    """Count known outcomes; a row tried again in a later round counts there alone."""
    counts: Counter[RowStatus] = Counter(run.decided)
    for job in _real_jobs(run):
        counts.update(job.counts)
    for job in _real_jobs(run):
        if job.round > 0:
            _take_back(counts, job.rows)
    # Rows that a later round's validation refused are no job's any more, and counted twice.
    _take_back(counts, max(0, sum(counts.values()) - run.rows))
    counts[RowStatus.PENDING] = max(0, run.rows - sum(counts.values()))
    return {status: n for status, n in counts.items() if n > 0}


# Those that are sent again by themselves first, then those on request.
_TAKEN_BACK = [
    RowStatus[name]
    for name in ["FAILED", "EXPIRED", "MISSING", "CANCELLED", "UNPARSED", "TRUNCATED", "REFUSED"]
]


def _take_back(counts: Counter[RowStatus], rows: int) -> None:
    for status in _TAKEN_BACK:
        taken = min(rows, counts[status])
        counts[status] -= taken
        rows -= taken


def _claims(run: RunRecord) -> tuple[int, int]:
    remotes = [job.remote for job in run.jobs if job.stage is JobStage.RUNNING and job.remote]
    return sum(r.completed or 0 for r in remotes), sum(r.failed or 0 for r in remotes)


def _served(run: RunRecord) -> str | None:
    # By the answers' own word; a batch object only repeats what was asked for.
    return next((job.model for job in run.jobs if job.model), None)


def _problem(run: RunRecord) -> str | None:
    waiting = [job for job in run.jobs if job.stage is not JobStage.COLLECTED and job.problem]
    return None if run.ending or not waiting else waiting[0].problem


def _odd_results(run: RunRecord) -> tuple[str, ...]:
    odd = [job for job in _real_jobs(run) if job.stage is JobStage.COLLECTED and job.problem]
    return tuple(f"job {job.number + 1}: {job.problem}" for job in odd)


_KIN_SIZE = 4  # jobs of so many times more or fewer rows tell nothing of each other


def pace_of(runs: Iterable[RunRecord], run: RunRecord) -> Pace | None:
    """Return how long batches of other runs took that were about as large as this one's."""
    rows = max((job.rows for job in run.jobs), default=0)
    known = [
        (
            lapsed_s(job.intended_at, job.began_at, other.pauses),
            lapsed_s(job.began_at, job.ended_at, other.pauses),
        )
        for other in runs
        for job in _real_jobs(other)
        if not job.is_live and job.stage is JobStage.COLLECTED and job.remote_status == "completed"
        if job.intended_at and job.began_at and job.ended_at
        if rows / _KIN_SIZE <= job.rows <= rows * _KIN_SIZE
    ]
    if not known:
        return None
    queues, works = zip(*known, strict=True)
    return Pace(median(queues), median(works), len(known))


def _eta_s(run: RunRecord, claimed: int, now: float, pace: Pace | None) -> tuple[float | None, str]:
    """Time to go, and what the guess rests on.

    By the run's own pace once a twentieth of the rows has been answered, before that by the pace of
    earlier runs; None when it takes longer than they did.
    """
    running = [job for job in run.jobs if job.stage is JobStage.RUNNING]
    total = sum(job.rows for job in running)
    began = [job.began_at for job in running if job.began_at]
    if run.ending or not running:
        return None, ""
    if began and max(1, total // 20) <= claimed < total and now > min(began):
        return (now - min(began)) / claimed * (total - claimed), ""
    if pace is None or any(job.is_live for job in running):
        return None, ""
    left_s = max(_left_s(job, now, pace) for job in running)
    return (left_s, f"as {counted(pace.jobs, 'job')} before") if left_s > 0 else (None, "")


def _left_s(job: Job, now: float, pace: Pace) -> float:
    if job.began_at is not None:
        return pace.work_s - (now - job.began_at)
    return max(0.0, pace.queue_s - (now - (job.intended_at or now))) + pace.work_s


def _spans(run: RunRecord, now: float) -> tuple[float | None, float | None]:
    """Return for how long a run's batches were queued until one began, and at work since.

    The time in which the run lay idle is no part of either.
    """
    batches = [job for job in _real_jobs(run) if not job.is_live and job.intended_at is not None]
    if not batches:
        return None, None
    asked = min(job.intended_at or now for job in batches)
    is_over = all(job.ended_at for job in batches)
    ended = max(job.ended_at or now for job in batches) if is_over else now
    began = min((job.began_at for job in batches if job.began_at), default=None)
    if began is None:
        return lapsed_s(asked, ended, run.pauses), None
    return lapsed_s(asked, began, run.pauses), lapsed_s(began, ended, run.pauses)
