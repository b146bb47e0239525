"""What comes next: transition tables and pure decisions.

Everything that decides about runs and jobs lives here, and all of it takes values and `now`
and returns values; nothing here waits, sends, writes or reads a clock. Going on after a crash
is the same question as going on: `next_actions(record, now)`.

There are two machines, never merged. `JobStage` is ours and moves only along `TRANSITIONS`:

    PLANNED ─► UPLOADING ─► UPLOADED ─► CREATING ─► RUNNING ─► ENDED ─► COLLECTED

The service's status is a word it says. It may jump between two polls, and a word that we do
not know means *not ended yet*. The traps: `completed` says nothing about rows, and a job that
was intended (`CREATING`) but has no receipt may exist and cost money, so it is looked for
before it is created again.

A live job has no batch and a shorter way, `LIVE_TRANSITIONS`: its lines are sent one by one while
it is RUNNING. When a run goes live, jobs that were never created become live ones, the others are
cancelled and what they leave is sent live: a row is in one lane at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType

from batch_magic.errors import ServiceError
from batch_magic.queueing import (
    QUEUE_FULL_CODES,
    enqueued_tokens,
    estimated_tokens,
    token_limit,
    without_room,
)
from batch_magic.records import (
    LIVE_FILE,
    NO_WISHES,
    PAID,
    Ending,
    Job,
    JobFault,
    JobStage,
    Limits,
    RemoteJob,
    RowStatus,
    RunRecord,
    Wishes,
)

TRANSITIONS: Mapping[JobStage, frozenset[JobStage]] = {
    JobStage.PLANNED: frozenset({JobStage.UPLOADING, JobStage.COLLECTED}),
    JobStage.UPLOADING: frozenset({JobStage.UPLOADED, JobStage.COLLECTED}),
    JobStage.UPLOADED: frozenset({JobStage.CREATING, JobStage.COLLECTED}),
    # Back to UPLOADED: the service said plainly that it created nothing.
    JobStage.CREATING: frozenset({JobStage.RUNNING, JobStage.UPLOADED, JobStage.COLLECTED}),
    JobStage.RUNNING: frozenset({JobStage.ENDED}),
    JobStage.ENDED: frozenset({JobStage.COLLECTED}),
    JobStage.COLLECTED: frozenset({JobStage.ENDED}),
}
"""From a stage to those it may become. COLLECTED straight away: cancelled before it existed; from
COLLECTED back: result files that stayed away, or were lost here, are asked for once more."""

LIVE_TRANSITIONS: Mapping[JobStage, frozenset[JobStage]] = {
    JobStage.PLANNED: frozenset({JobStage.RUNNING, JobStage.COLLECTED}),
    JobStage.RUNNING: frozenset({JobStage.ENDED}),
    JobStage.ENDED: frozenset({JobStage.COLLECTED}),
}
"""The stages of a live job: RUNNING from before its first line is sent."""

ENDED_STATUSES = frozenset({"completed", "failed", "expired", "cancelled"})
"""The service's words for a job that will not change any more; any other word is not the end."""

_AT_WORK = frozenset({"in_progress", "finalizing"})

_UPLOADS_AT_ONCE = 3
_SETTLING_S = 10.0  # `completed` may be said a few seconds before the result files have ids
_LOST_AFTER_TRIES = 15  # ten minutes: an unknown job may be lag, another project's key, or a loss
_DOWNLOAD_TRIES = 3  # given up by the clock alone, one bad answer after a night's sleep would do
_UNREACHED_S = 45.0  # so long without any answer, with nothing sent, is "no network"
_BACKOFF_MAX_S = 60.0
_LONGEST_WAIT_S = 900.0  # what is due later than this was written by a clock since set back
_QUEUE_FULL_FACTOR = (
    30.0  # room is made by the end of other jobs: wait in half minutes, not seconds
)
_FILE_LAG_ATTEMPTS = 5
_RECUT_ATTEMPTS = 10  # jobs in a row refused for single lines: then it is no matter of lines
_HALVED_AFTER_REFUSALS = 2
_HALVED_AFTER = 5  # jobs in a row refused for a full queue with none of ours in it
_RESULTS_KEPT_S = 30 * 86_400.0  # the service deletes result files 30 days after a job's end
_SMALL_BYTES = 1_000_000  # a host that finds this too large takes nothing

TOO_LARGE_CODES = frozenset(
    {
        "maximum_input_file_size_exceeded",
        "maximum_requests_exceeded",
        "maximum_embedding_inputs_exceeded",
        "too_many_tasks",
    }
)
"""Failures of a job that would do with fewer rows: limits are lower for some models and hosts."""

FATAL_CODES = frozenset(
    {
        "model_not_found",
        "insufficient_quota",
        "billing_hard_limit_reached",
        "invalid_api_key",
        "account_deactivated",
    }
)
"""Codes that are the same for every row of the run: it stops, its rows are kept."""


# -- actions --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Upload:
    """Bring the job's shard to the service."""

    job: Job


@dataclass(frozen=True, slots=True)
class Create:
    """Write the intent down, then create the job once."""

    job: Job


@dataclass(frozen=True, slots=True)
class Search:
    """Look for a job that was created in doubt; only when `give_up` is it made anew, or `instead`.

    `instead` is what becomes of its rows where no batch is wanted any more.
    """

    job: Job
    give_up: bool
    instead: Abandon | GoLive | None = None


@dataclass(frozen=True, slots=True)
class Poll:
    """Ask how the job is."""

    job: Job


@dataclass(frozen=True, slots=True)
class CancelRemote:
    """Ask the service to cancel the job."""

    job: Job


@dataclass(frozen=True, slots=True)
class Abandon:
    """Close a job that never came to be: its rows are cancelled."""

    job: Job


@dataclass(frozen=True, slots=True)
class GoLive:
    """Put a live job in the place of one that was never created."""

    job: Job


@dataclass(frozen=True, slots=True)
class SendLive:
    """Send the lines of a live job that have no answer yet, for a moment."""

    job: Job


@dataclass(frozen=True, slots=True)
class CutLive:
    """Send nothing more of a live job: it is cancelled, what was answered is kept."""

    job: Job


@dataclass(frozen=True, slots=True)
class Collect:
    """Bring whichever result files exist, read them, count the outcomes."""

    job: Job
    last_try: bool


@dataclass(frozen=True, slots=True)
class Replace:
    """Put a new job in the place of one that the service refused for a passing reason."""

    job: Job
    fresh_upload: bool
    wait_s: float
    why: str
    is_lag: bool = False


@dataclass(frozen=True, slots=True)
class Recut:
    """Put `parts` new jobs in the place of one, without the lines (1-based) that were refused."""

    job: Job
    why: str
    parts: int = 1
    bad_lines: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Fail:
    """Close a job that cannot be sent and cannot be cut: its rows are failed."""

    job: Job


@dataclass(frozen=True, slots=True)
class Stop:
    """End the run with a fault that is the same for all rows; `job` is to be tried again."""

    fault: str
    job: Job | None = None


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Take over the answers of runs that have ended; send what they did not answer."""

    lenders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Resubmit:
    """Send rows once more, as a new round: those that the user named, and what may pass.

    `leftovers`: also those that were cut off because the run goes live. `passing` is false where
    the user's word alone counts: the run had come to its end.
    """

    round: int
    wishes: Wishes = NO_WISHES
    leftovers: bool = False
    passing: bool = True


@dataclass(frozen=True, slots=True)
class Settle:
    """Every row has its outcome: end the run."""

    ending: Ending


Action = (
    Upload
    | Create
    | Search
    | Poll
    | CancelRemote
    | Abandon
    | GoLive
    | SendLive
    | CutLive
    | Collect
    | Replace
    | Recut
    | Fail
    | Stop
    | TakeOver
    | Resubmit
    | Settle
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to look again if nothing else happens (None: never)."""

    actions: tuple[Action, ...]
    wake_at: float | None


def next_actions(
    run: RunRecord, now: float, lender_endings: Mapping[str, Ending | None] = MappingProxyType({})
) -> Plan:
    """Decide what is to be done for a run at `now`. Empty with no wake-up once it has ended.

    `lender_endings` tells how each run that this one waits for stands.
    """
    if run.ending is not None:
        return Plan((), None)
    open_jobs = [job for job in run.jobs if job.stage is not JobStage.COLLECTED]
    due = [job for job in open_jobs if _is_due(job, run, now)]
    waiting = without_room(run, [job for job in due if _is_next_created(job, run, now)])
    actions = _bounded([_job_action(job, run, now) for job in due if job.number not in waiting])
    if run.lenders:
        actions += _lender_actions(run, lender_endings, is_idle=not open_jobs)
    if actions:
        return Plan(tuple(actions), now)
    if open_jobs:
        wakes = [job.due_at for job in open_jobs if job.number not in waiting]
        wakes += [at for at in [run.goes_live_at] if at is not None and at > now]
        return Plan((), min(wakes))
    if run.lenders:
        return Plan((), now + run.limits.poll_first_s)
    return Plan((_close(run, now),), now)


def goes_live(run: RunRecord, now: float) -> bool:
    """Tell whether a run's rows go through the live lane from now on."""
    return run.goes_live_at is not None and now >= run.goes_live_at


def _is_due(job: Job, run: RunRecord, now: float) -> bool:
    if not now < job.due_at <= now + _LONGEST_WAIT_S or _is_abandoned(job, run):
        return True
    return _changes_lane(job, run, now) or (_is_to_be_cancelled(job, run, now) and job.tries == 0)


def _lender_actions(
    run: RunRecord, endings: Mapping[str, Ending | None], *, is_idle: bool
) -> list[Action]:
    """Decide about held rows. A lender that has stopped may have them in flight all the same."""
    known = [endings.get(lender) for lender in run.lenders]
    if run.cancel_at is not None or all(one in SETTLED for one in known):
        return [TakeOver(run.lenders)]
    stopped = [a for a, b in zip(run.lenders, known, strict=True) if b is Ending.STOPPED]
    if stopped and is_idle:
        fault = (
            f"it waits for answers of run {stopped[0]}, which has stopped: run the cell again, or"
            f" do without them: %gptbatch cancel {stopped[0]}"
        )
        return [Stop(fault)]
    return []


SETTLED = (Ending.FINISHED, Ending.CANCELLED)


def is_given_up(lender: RunRecord) -> bool:
    """Tell whether a stopped run is no longer waited for: nothing of it is at the service."""
    at_service = (JobStage.CREATING, JobStage.RUNNING, JobStage.ENDED)
    return lender.ending is Ending.STOPPED and all(
        job.is_live or job.stage not in at_service for job in lender.jobs
    )


def _bounded(actions: list[Action]) -> list[Action]:
    """A few uploads share a line; one cut at a time, as it takes the next free shard numbers."""
    uploads = [action for action in actions if isinstance(action, Upload)]
    recuts = [action for action in actions if isinstance(action, Recut)]
    others = [action for action in actions if not isinstance(action, Upload | Recut)]
    return [*others, *recuts[:1], *uploads[:_UPLOADS_AT_ONCE]]


_BEFORE_CREATE = (JobStage.PLANNED, JobStage.UPLOADING, JobStage.UPLOADED)


def _is_next_created(job: Job, run: RunRecord, now: float) -> bool:
    is_wanted = not _is_abandoned(job, run) and not _changes_lane(job, run, now)
    return job.stage is JobStage.UPLOADED and is_wanted


def _is_abandoned(job: Job, run: RunRecord) -> bool:
    return run.cancel_at is not None and job.stage in _BEFORE_CREATE


def _changes_lane(job: Job, run: RunRecord, now: float) -> bool:
    return goes_live(run, now) and not job.is_live and job.stage in _BEFORE_CREATE


def _is_to_be_cancelled(job: Job, run: RunRecord, now: float) -> bool:
    is_unwanted = run.cancel_at is not None or (goes_live(run, now) and not job.is_live)
    return is_unwanted and job.cancel_sent_at is None and job.stage is JobStage.RUNNING


def _live_action(job: Job, run: RunRecord) -> Action:
    if job.stage is JobStage.ENDED:
        return Collect(job, last_try=True)
    is_cut = run.cancel_at is not None and job.stage is JobStage.RUNNING
    return CutLive(job) if is_cut else SendLive(job)


def _job_action(job: Job, run: RunRecord, now: float) -> Action:
    if _is_abandoned(job, run):
        return Abandon(job)
    if _changes_lane(job, run, now):
        return GoLive(job)
    if job.is_live:
        return _live_action(job, run)
    match job.stage:
        case JobStage.PLANNED | JobStage.UPLOADING if job.is_too_large:
            halves = Recut(job, job.problem or "too large", parts=2)
            return halves if job.rows > 1 else Fail(job)
        case JobStage.PLANNED | JobStage.UPLOADING:
            return Upload(job)
        case JobStage.UPLOADED:
            return Create(job)
        case JobStage.CREATING:
            # The first search begins the grace: how long ago the intent was says nothing of
            # how long the service has had, if the call itself took a minute to fail.
            is_sought = job.doubted_at is not None
            grace_s = run.limits.doubt_grace_s
            is_enough = is_sought and _since(job.doubted_at, now) >= grace_s
            return Search(job, is_enough, _instead_of_create(job, run, now))
        case JobStage.RUNNING:
            return CancelRemote(job) if _is_to_be_cancelled(job, run, now) else Poll(job)
        case JobStage.ENDED:
            return _after_end(job, run, now)
        case JobStage.COLLECTED:
            raise AssertionError("a collected job has nothing left to do")


def _instead_of_create(job: Job, run: RunRecord, now: float) -> Abandon | GoLive | None:
    if run.cancel_at is not None:
        return Abandon(job)
    return GoLive(job) if goes_live(run, now) else None


def _since(then: float | None, now: float) -> float:
    """Return the seconds since `then`; a clock that was set back counts as well as one that ran."""
    return 0.0 if then is None else abs(now - then)


def _after_end(job: Job, run: RunRecord, now: float) -> Action:
    remote, timeout_s = job.remote, run.limits.collect_timeout_s
    ended, ended_s = job.ended_at, _since(job.ended_at, now)
    if remote is not None and remote.status == "failed":
        return _after_failure(job, remote, run)
    if remote is not None and remote.status in ENDED_STATUSES and _lacks_files(remote):
        # No file at all is believed only when the service says so again, after a while; that rows
        # were answered and yet there is no file, only after as long as a file may stay away. An
        # hour's sleep is no such while: what counts is when the service last said it.
        settling_s = timeout_s if remote.lacks_named_files else min(_SETTLING_S, timeout_s)
        is_settled = job.polled_at is not None and _since(ended, job.polled_at) >= settling_s
        if not is_settled and job.tries < _LOST_AFTER_TRIES:
            return Poll(job)
    return Collect(job, last_try=ended_s >= timeout_s and job.tries >= _DOWNLOAD_TRIES)


def _lacks_files(remote: RemoteJob) -> bool:
    """Tell whether a file is to be expected that has no id yet. Counts are a hint, no proof."""
    return remote.lacks_named_files or not _has_files(remote)


def _has_files(remote: RemoteJob) -> bool:
    return bool(remote.output_file_id or remote.error_file_id)


def _after_failure(job: Job, remote: RemoteJob, run: RunRecord) -> Action:
    codes = {fault.code for fault in remote.faults}
    backoff_s = run.limits.retry_base_s * 2 ** min(job.attempt, 10)
    if run.cancel_at is not None:
        return Collect(job, last_try=True)
    if codes & QUEUE_FULL_CODES:
        return _after_full_queue(job, run, _said(remote.faults), backoff_s)
    if codes & TOO_LARGE_CODES and job.rows > 1:
        return Recut(job, _said(remote.faults), parts=2)
    if codes & FATAL_CODES and (job.intended_at or 0.0) < (run.resumed_at or 0.0):
        # Refused for a fault that the user has mended since.
        return Replace(job, fresh_upload=False, wait_s=0.0, why=_said(remote.faults))
    if codes & FATAL_CODES:
        said = _said(remote.faults).rstrip(". ")
        return Stop(f"{said}; {_cure(codes)}", job)
    if _is_file_lag(remote) and job.lags < _FILE_LAG_ATTEMPTS:
        # Not there yet, or (after 30 days) no longer: wait first, then bring it again.
        why, fresh, wait_s = _said(remote.faults), job.lags > 0, min(backoff_s, _BACKOFF_MAX_S)
        return Replace(job, fresh_upload=fresh, wait_s=wait_s, why=why, is_lag=True)
    bad = frozenset(n for fault in remote.faults if (n := fault.line) and 0 < n <= job.rows)
    if 0 < len(bad) < job.rows and job.refusals < _RECUT_ATTEMPTS:
        # Hosts that name one line at a time: halves let the good ones pass meanwhile.
        parts = 1 if job.refusals < _HALVED_AFTER_REFUSALS else min(2, job.rows - len(bad))
        return Recut(job, _said(remote.faults), parts=parts, bad_lines=bad)
    return Collect(job, last_try=True)


def _after_full_queue(job: Job, run: RunRecord, why: str, backoff_s: float) -> Action:
    """Wait for room; a job that would not fit into an empty queue is cut first."""
    limit, tokens = token_limit(run, job), estimated_tokens(job)
    if limit is not None and tokens > limit and job.rows > 1:
        return Recut(job, why, parts=min(job.rows, -(-tokens // limit)))
    queued = enqueued_tokens(run, job)
    is_alone = queued == 0
    if is_alone and job.rows > 1 and job.attempt % _HALVED_AFTER == _HALVED_AFTER - 1:
        return Recut(job, why, parts=2)
    wait_s = min(_QUEUE_FULL_FACTOR * backoff_s, _LONGEST_WAIT_S)
    if limit is not None and queued + tokens > limit and not is_alone:
        wait_s = 0.0  # the end of our own jobs makes the room: it is waited for, not the clock
    return Replace(job, fresh_upload=False, wait_s=wait_s, why=why)


def _is_file_lag(remote: RemoteJob) -> bool:
    # A file may not be found straight after its upload; the cure is to create once more.
    return any(fault.message.startswith("Cannot find file") for fault in remote.faults)


def _said(faults: Iterable[JobFault]) -> str:
    said = [f"{fault.code}: {fault.message}" for fault in faults]
    return said[0] if said else "the service refused the job without a reason"


def _cure(codes: Iterable[str]) -> str:
    if "model_not_found" in codes:
        return "name another model with -m and run the cell again"
    if "invalid_api_key" in codes:
        return "set the right key and run the cell again"
    return "mend the account (billing, quota) and run the cell again"


def _close(run: RunRecord, now: float) -> Action:
    if run.cancel_at is not None:
        return Settle(Ending.CANCELLED)
    # An ended run goes on for what was wished for alone; amid a round, that comes besides.
    is_amid = not run.wishes or any(wish.but for wish in run.wishes)
    in_round = [job for job in run.jobs if job.round == run.round and is_amid]
    batches = [job for job in in_round if not job.is_live and not job.is_replaced]
    leftovers = goes_live(run, now) and any(_leaves_rows(job) for job in batches)
    may_pass = run.round < run.limits.retries and any(job.retryable for job in in_round)
    if run.wishes or leftovers or may_pass:
        return Resubmit(run.round + 1, run.wishes, leftovers, passing=leftovers or may_pass)
    return Settle(Ending.FINISHED)


CUT_OFF = (RowStatus.CANCELLED, RowStatus.EXPIRED)
"""Statuses of rows that a batch leaves when it is cancelled because its run goes live."""


def _leaves_rows(job: Job) -> bool:
    return job.retryable > 0 or any(job.counts.get(status) for status in CUT_OFF)


def unsent_jobs(run: RunRecord) -> list[Job]:
    """Return the jobs of a stopped run that the service never had: others may have their rows."""
    is_open = run.ending is Ending.STOPPED and not run.request.fresh
    return [job for job in run.jobs if is_open and job.stage in _BEFORE_CREATE]


def was_known(other: RunRecord, run: RunRecord) -> bool:
    """Tell whether a run had ended when another was submitted: it was looked at then."""
    return other.ended_at is not None and other.ended_at <= run.created_at


def never_began(run: RunRecord) -> bool:
    """Tell whether a stopped run has brought nothing and has nothing on its way."""
    live = [job for job in run.jobs if job.is_live]
    has_notes = any(job.stage in (JobStage.RUNNING, JobStage.ENDED) for job in live)
    has_answers = any(job.counts.get(status) for job in run.jobs for status in PAID)
    return is_given_up(run) and not has_notes and not has_answers


def may_have_results(job: Job, now: float) -> bool:
    """Tell whether it is worth asking the service once more for a collected job's result files."""
    is_known = job.remote is not None and bool(job.batch_id) and not job.is_replaced
    return is_known and not job.is_refetched and _since(job.intended_at, now) < _RESULTS_KEPT_S


def asked_again(job: Job, now: float) -> Job:
    """Return a collected job whose result files are to be fetched once more."""
    stage = step(job, JobStage.ENDED)
    again = {"ended_at": now, "polled_at": None, "due_at": 0.0, "tries": 0}
    return replace(job, stage=stage, is_refetched=True, **again)  # type: ignore[arg-type]


def is_refetching(run: RunRecord) -> bool:
    """Tell whether a run goes on for result files alone: it will send nothing more."""
    return any(job.is_refetched and job.stage is JobStage.ENDED for job in run.jobs)


# -- the live lane --------------------------------------------------------------------------


class Verdict(Enum):
    """What an answer of the realtime API means for its row."""

    KEEP = "it is the row's outcome"
    AGAIN = "the row is asked again"
    STOP = "it would be the same for every row"


_TIER = re.compile(r"service_tier|[Ff]lex is not available")
_LIVE_TRIES, _LIVE_TRIES_ALONE = 4, 8
_STALLED_S = 600.0  # so long without any good answer is no matter of single rows


def verdict(error: ServiceError, tries: int, *, others_do_well: bool) -> Verdict:
    """Judge an answer that is none. `tries` counts this one.

    A refusal for too many requests says nothing of the row. Trouble of the service does where it
    answers others meanwhile, or after a good while; no network never does.
    """
    status = error.status
    if status in (401, 402, 403) or error.code in FATAL_CODES or _is_about_tier(error):
        return Verdict.STOP
    if is_too_many(error):
        return Verdict.AGAIN
    is_passing = status is None or status in (408, 409) or status >= 500
    is_enough = tries >= _LIVE_TRIES and others_do_well
    is_long = tries >= _LIVE_TRIES_ALONE and status is not None
    return Verdict.KEEP if not is_passing or is_enough or is_long else Verdict.AGAIN


def _is_about_tier(error: ServiceError) -> bool:
    """Tell whether a model does not have the tier that is asked of it with every row."""
    return error.status == 400 and bool(_TIER.search(str(error)))


def is_too_many(error: ServiceError) -> bool:
    """Tell whether a refusal asks to come back later.

    A request that is larger than the whole limit is refused in the same way, for good.
    """
    is_later = error.status in (425, 429) and error.code not in FATAL_CODES
    return is_later and "Request too large" not in str(error)


def fault_of_lane(error: ServiceError) -> str:
    """Say in one line why a live lane stops, and what to do."""
    said = str(error).rstrip(". ")
    if error.code in FATAL_CODES:
        return f"{said}; {_cure([error.code or ''])}"
    if error.status in (401, 402, 403):
        return said
    if _is_about_tier(error):
        return f"{said}; leave --tier out, or name another model"
    return f"{said}; no answer for too long: run the cell again when the service is well"


def live_backoff_s(tries: int, limits: Limits) -> float:
    """Return how long a row waits before it is asked again, the `tries`-th time."""
    return min(limits.retry_base_s * 2.0 ** min(tries - 1, 10), _BACKOFF_MAX_S)


def is_stalled(silent_s: float, *, was_heard: bool) -> bool:
    """Tell whether a lane without a good answer for so long is given up."""
    return silent_s >= (_STALLED_S if was_heard else _UNREACHED_S)


def after_sending(job: Job, answered: int, failed: int, status: str, now: float) -> Job:
    """Return a live job as far as it is: `status` is `in_progress`, `completed` or `cancelled`."""
    ended = status in ENDED_STATUSES
    began = job.intended_at or now
    remote = RemoteJob(
        batch_id="",
        status=status,
        created_at=began,
        in_progress_at=began,
        output_file_id=LIVE_FILE if ended else None,
        total=job.rows,
        # In the end the file alone is the truth.
        completed=None if ended else answered,
        failed=None if ended else failed,
    )
    stage = step(job, JobStage.ENDED if ended else JobStage.RUNNING)
    is_news = job.remote is None or answered + failed > sum(claimed(job.remote))
    return replace(
        job,
        stage=stage,
        remote=remote,
        changed_at=now if is_news else job.changed_at,
        began_at=began,
        ended_at=now if ended else None,
        due_at=0.0,
        tries=0,
        problem=None,
    )


def claimed(remote: RemoteJob) -> tuple[int, int]:
    """Return how many rows a job says it has answered, and how many have failed."""
    return remote.completed or 0, remote.failed or 0


# -- what an answer of the service makes of a job -------------------------------------------


def step(job: Job, stage: JobStage) -> JobStage:
    """Return `stage` if a job may go there. Raises AssertionError otherwise: a bug of ours."""
    ways = LIVE_TRANSITIONS if job.is_live else TRANSITIONS
    if stage is not job.stage and stage not in ways.get(job.stage, frozenset()):
        raise AssertionError(f"job {job.number} cannot go from {job.stage} to {stage}")
    return stage


def after_poll(job: Job, remote: RemoteJob, limits: Limits, now: float) -> Job:
    """Return the job after the service has said how it is."""
    changed_at = now if remote.status != job.remote_status else job.changed_at or now
    ended = remote.status in ENDED_STATUSES
    stage = JobStage.ENDED if ended else JobStage.RUNNING
    wait_s = 0.0 if ended and job.ended_at is None else _poll_delay_s(limits, now - changed_at)
    return replace(
        job,
        stage=step(job, stage) if job.stage is not JobStage.ENDED else JobStage.ENDED,
        batch_id=remote.batch_id,
        remote=remote,
        changed_at=changed_at,
        polled_at=now,
        began_at=job.began_at or (now if remote.status in _AT_WORK or ended else None),
        ended_at=(job.ended_at or now) if ended or job.stage is JobStage.ENDED else None,
        due_at=now + wait_s,
        tries=0,
        problem=None,
    )


def _poll_delay_s(limits: Limits, unchanged_s: float) -> float:
    """A tenth of the time that nothing has changed: fast at first, when validation fails."""
    return min(max(limits.poll_first_s, unchanged_s / 10), limits.poll_max_s)


def after_trouble(job: Job, error: ServiceError, limits: Limits, now: float) -> Job:
    """Return the job after a call that brought nothing: the same, later, with the reason."""
    wait_s = min(limits.retry_base_s * 2 ** min(job.tries, 10), _BACKOFF_MAX_S)
    if error.retry_after_s is not None:
        wait_s = min(max(wait_s, error.retry_after_s), _LONGEST_WAIT_S)
    # Silence and overload are no evidence that anything is lost: they never make the number of
    # tries decisive.
    is_evidence = error.status == 200 or not error.in_doubt
    most = job.tries + 1 if is_evidence else _LOST_AFTER_TRIES - 1
    tries = max(job.tries, min(job.tries + 1, most))
    is_too_large = job.is_too_large or _is_too_large(error, job)
    return replace(
        job, due_at=now + wait_s, tries=tries, problem=str(error), is_too_large=is_too_large
    )


def is_fatal(error: ServiceError, job: Job, *, unreached_s: float) -> bool:
    """Tell whether a call's failure would be the same for all rows of the run.

    `unreached_s`: for how long nothing at all has been heard, 0 once anything was sent.
    """
    if error.status is None:
        return unreached_s >= _UNREACHED_S
    if error.status in (401, 402, 403) or error.code in FATAL_CODES:
        return True
    if job.stage is JobStage.ENDED:
        return False  # result files have a time limit of their own
    is_refusal = 400 <= error.status < 500 and not error.in_doubt
    if job.stage is JobStage.RUNNING or error.status == 200:
        return (is_refusal or error.status == 200) and job.tries >= _LOST_AFTER_TRIES
    if _is_too_large(error, job):
        return job.bytes <= _SMALL_BYTES
    if _is_unseen_file(error, job):
        return job.tries >= _FILE_LAG_ATTEMPTS
    return is_refusal


def is_unknown(error: ServiceError, job: Job) -> bool:
    """Tell whether the service has said repeatedly that it knows no such job."""
    return error.status in (200, 404) and job.tries >= _DOWNLOAD_TRIES


def is_gone(error: ServiceError, job: Job, run: RunRecord, *, last_try: bool) -> bool:
    """Tell whether a result file is given up.

    Silence says nothing of it. An overloaded host has it still: asked for once more, it is waited
    for until it comes or the run is cancelled, for what is sent next would be paid twice.
    """
    if error.status is None:
        return False
    is_refusal = 400 <= error.status < 500 and not error.in_doubt
    is_enough = is_refusal or not job.is_refetched or run.cancel_at is not None
    return error.status == 410 or (last_try and is_enough)


def fault_of(error: ServiceError, job: Job) -> str:
    """Say in one line why a run stops, and what to do."""
    if job.stage is JobStage.RUNNING and error.status in (200, 404):
        # A job that has vanished is no longer found, or is answered with an error for an object.
        return f"{error}; set the key that {job.batch_id} was made with, or cancel the run"
    if _is_too_large(error, job):
        return f"{error}; it takes not even a file of {job.bytes:,} bytes: name another host, --on"
    return str(error)


def _is_too_large(error: ServiceError, job: Job) -> bool:
    """Tell whether a host, or a gateway before it, finds a file too large."""
    before_create = job.stage in (JobStage.PLANNED, JobStage.UPLOADING)
    is_said = error.status == 400 and "too large" in str(error)  # as OpenAI once answered
    return before_create and (error.status == 413 or is_said)


def _is_unseen_file(error: ServiceError, job: Job) -> bool:
    # Hosts that look at the file when the job is created may not see it straight away.
    return job.stage is JobStage.UPLOADED and "file" in str(error) and error.status in (400, 404)
