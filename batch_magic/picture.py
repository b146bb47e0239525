"""The picture of a run: a `Snapshot` drawn from what the journal says, at an instant.

It knows how a record looks to a person (stage, counts, pace) and refuses to decide anything:
what comes next is `lifecycle`'s. The trap is the service's own counts: while a job runs they
are shown as its claim, never added to the rows whose outcome is known.
"""

from __future__ import annotations

from collections import Counter

from batch_magic.records import (
    Cost,
    Ending,
    Job,
    JobStage,
    RowStatus,
    RunRecord,
    Snapshot,
    Stage,
    Usage,
)


def snapshot(run: RunRecord, now: float, *, wake_at: float | None = None) -> Snapshot:
    """Draw a run as it stands: a pure function of the journal's record and the time."""
    counts = dict(run.counts) if run.counts else _counts_so_far(run)
    usages = [job.usage for job in run.jobs if job.usage]
    costs = [job.cost for job in run.jobs if job.cost]
    claimed_ok, claimed_failed = _claims(run)
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
        eta_s=_eta_s(run, claimed_ok + claimed_failed, now),
        wake_at=wake_at,
        lenders=run.lenders,
        goes_live_at=run.goes_live_at,
    )


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


def _eta_s(run: RunRecord, claimed: int, now: float) -> float | None:
    """Time to go at the pace so far; None until a twentieth of the rows has been answered."""
    running = [job for job in run.jobs if job.stage is JobStage.RUNNING]
    total = sum(job.rows for job in running)
    began = [j.remote.in_progress_at for j in running if j.remote and j.remote.in_progress_at]
    if run.ending or not began or not max(1, total // 20) <= claimed < total:
        return None
    elapsed_s = now - min(began)
    return max(0.0, elapsed_s / claimed * (total - claimed)) if elapsed_s > 0 else None
