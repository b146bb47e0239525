"""Decisions about runs and jobs: every state has a next action, a wake-up or an end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from drafts import NOW, run_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from batch_magic import lifecycle
from batch_magic.errors import ServiceError
from batch_magic.lifecycle import (
    Abandon,
    CancelRemote,
    Collect,
    Create,
    Fail,
    Poll,
    Recut,
    Replace,
    Resubmit,
    Search,
    Settle,
    Stop,
    TakeOver,
    Upload,
    next_actions,
)
from batch_magic.picture import snapshot
from batch_magic.queueing import token_limit
from batch_magic.records import (
    Ending,
    Job,
    JobFault,
    JobStage,
    Limits,
    RemoteJob,
    RowStatus,
    RunRecord,
    Stage,
    Wish,
)

ENDED = ["completed", "failed", "expired", "cancelled"]


def job(stage: JobStage = JobStage.PLANNED, **facts: Any) -> Job:
    return Job(number=0, shard=0, round=0, rows=10, bytes=99, stage=stage, token="t", **facts)


def remote(status: str, **facts: Any) -> RemoteJob:
    return RemoteJob("batch_1", status, **facts)


def only(run: RunRecord, now: float = NOW) -> Any:
    (action,) = next_actions(run, now).actions
    return action


# -- a model of the world that does what is decided -----------------------------------------


def faults_of(code: str) -> st.SearchStrategy[JobFault]:
    said = st.sampled_from(["said", "Limit: 20 enqueued tokens", "Limit: 1,000 enqueued tokens"])
    return st.builds(JobFault, st.just(code), said, line=st.sampled_from([None, 1, 2, 11]))


class World(RuleBasedStateMachine):
    """Jobs to which every action succeeds, fails or is answered by any word of the service."""

    @initialize(n=st.integers(0, 3), retries=st.integers(0, 2))
    def begin(self, n: int, retries: int) -> None:
        jobs = [replace(job(), number=number, shard=number) for number in range(n)]
        self.now = NOW
        self.run = replace(run_of(*jobs), limits=Limits(retries=retries))

    def put(self, changed: Job) -> None:
        jobs = tuple(changed if one.number == changed.number else one for one in self.run.jobs)
        self.run = replace(self.run, jobs=jobs)

    def move(self, one: Job, stage: JobStage, **facts: Any) -> None:
        self.put(replace(one, stage=lifecycle.step(one, stage), **facts))

    @rule()
    def cancel(self) -> None:
        if self.run.ending is None:
            self.run = replace(self.run, cancel_at=self.run.cancel_at or self.now)

    @rule(seconds=st.sampled_from([1.0, 60.0, 86_400.0, -3600.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        for action in next_actions(self.run, self.now).actions:
            self.carry_out(action, data)

    @rule(data=st.data(), status=st.sampled_from([None, 404, 413, 429, 500]))
    def fail(self, data: st.DataObject, status: int | None) -> None:
        for action in next_actions(self.run, self.now).actions:
            if isinstance(action, Upload | Create | Search | Poll | CancelRemote):
                error = ServiceError("no", status=status)
                after = lifecycle.after_trouble(action.job, error, self.run.limits, self.now)
                assert after.stage is action.job.stage
                self.put(after)

    def carry_out(self, action: Any, data: st.DataObject) -> None:
        match action:
            case Upload(one):
                up = replace(one, stage=lifecycle.step(one, JobStage.UPLOADING))
                self.move(up, JobStage.UPLOADED, file_id="file", due_at=0.0)
            case Create(one):
                self.move(one, JobStage.CREATING, intended_at=self.now, doubted_at=None, due_at=0.0)
            case Search(one, give_up):
                if give_up or data.draw(st.booleans(), "found"):
                    running = replace(one, stage=lifecycle.step(one, JobStage.RUNNING))
                    self.answer(running, data)
                else:
                    doubted_at = one.doubted_at if one.doubted_at is not None else self.now
                    self.put(replace(one, doubted_at=doubted_at, due_at=self.now + 1))
            case Poll(one):
                self.answer(one, data)
            case CancelRemote(one):
                self.answer(replace(one, cancel_sent_at=self.now), data)
            case Abandon(one):
                self.move(one, JobStage.COLLECTED, counts={RowStatus.CANCELLED: one.rows})
            case Collect(one):
                retryable = data.draw(st.integers(0, 2), "retryable")
                self.move(one, JobStage.COLLECTED, retryable=retryable)
            case Replace(one):
                self.move(replace(one, stage=JobStage.ENDED), JobStage.COLLECTED)
                number = len(self.run.jobs)
                self.add(replace(job(JobStage.UPLOADED, attempt=one.attempt + 1), number=number))
            case Recut(one, _, parts, bad_lines):
                rows = one.rows - len(bad_lines)
                assert 0 < parts <= rows
                self.put(replace(one, stage=JobStage.COLLECTED, is_replaced=True))
                for part in range(parts):
                    share = rows // parts + (part < rows % parts)
                    smaller = replace(job(), number=len(self.run.jobs), rows=share, bytes=9 * share)
                    self.add(replace(smaller, attempt=one.attempt + 1))
            case Fail(one):
                self.move(one, JobStage.COLLECTED)
            case Resubmit(round):
                number = len(self.run.jobs)
                self.add(replace(job(), number=number, round=round))
            case Stop():
                self.run = replace(self.run, ending=Ending.STOPPED)
            case Settle(ending):
                self.run = replace(self.run, ending=ending)

    def add(self, one: Job) -> None:
        self.run = replace(self.run, jobs=(*self.run.jobs, one))

    def answer(self, one: Job, data: st.DataObject) -> None:
        words = ["validating", "in_progress", "thinking", "finalizing", "cancelling", *ENDED]
        codes = [
            "token_limit_exceeded",
            "maximum_requests_exceeded",
            "model_not_found",
            "invalid_url",
        ]
        status = data.draw(st.sampled_from(words), "status")
        code = data.draw(st.sampled_from(codes), "code") if status == "failed" else None
        said = remote(
            status,
            output_file_id=data.draw(st.sampled_from([None, "file"]), "output"),
            faults=(data.draw(faults_of(code), "fault"),) if code else (),
        )
        self.put(lifecycle.after_poll(one, said, self.run.limits, self.now))

    @invariant()
    def something_follows_or_it_is_the_end(self) -> None:
        if not hasattr(self, "run"):
            return
        plan = next_actions(self.run, self.now)
        if self.run.ending is not None:
            assert plan == lifecycle.Plan((), None)
        else:
            assert plan.wake_at is not None
            assert plan.actions or plan.wake_at > self.now
            assert plan.wake_at <= self.now + 900, "nothing is waited for longer than this"

    @invariant()
    def a_cancelled_run_pays_for_nothing_new(self) -> None:
        if hasattr(self, "run") and self.run.cancel_at is not None:
            actions = next_actions(self.run, self.now).actions
            assert not any(isinstance(one, Upload | Create | Resubmit) for one in actions)

    @invariant()
    def the_picture_adds_up(self) -> None:
        if hasattr(self, "run"):
            picture = snapshot(self.run, self.now)
            assert all(n > 0 for n in picture.counts.values())
            assert isinstance(picture.stage, Stage)


World.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestWorld = World.TestCase


# -- single decisions -----------------------------------------------------------------------


def test_the_table_ends_where_it_should() -> None:
    """Every stage is in the table, COLLECTED is reachable from each and leads back to its files."""
    assert set(lifecycle.TRANSITIONS) == set(JobStage)
    assert lifecycle.TRANSITIONS[JobStage.COLLECTED] == {JobStage.ENDED}
    for stage in set(JobStage) - {JobStage.COLLECTED, JobStage.RUNNING}:
        assert JobStage.COLLECTED in lifecycle.TRANSITIONS[stage]


def test_a_stage_cannot_be_jumped() -> None:
    """A step outside the table is a bug of ours and says so."""
    with pytest.raises(AssertionError, match="cannot go from"):
        lifecycle.step(job(JobStage.PLANNED), JobStage.RUNNING)


def test_at_most_three_uploads_go_up_at_once() -> None:
    """A line shared by twenty uploads finishes none of them."""
    jobs = [replace(job(), number=n) for n in range(9)]
    assert len(next_actions(run_of(*jobs), NOW).actions) == 3


def test_jobs_go_as_far_as_the_queue_is_known_to_hold() -> None:
    """A limit that a refusal told holds back the next jobs until others have ended."""
    fault = JobFault("token_limit_exceeded", "Enqueued token limit reached. Limit: 70 tokens.")
    refused = job(JobStage.COLLECTED, remote=remote("failed", faults=(fault,)), is_replaced=True)
    runs = replace(job(JobStage.RUNNING, due_at=NOW + 5), number=1)
    waits = [replace(job(JobStage.UPLOADED), number=n) for n in (2, 3)]
    plan = next_actions(run_of(refused, runs, *waits), NOW)
    assert plan.actions == (Create(waits[0]),)  # 33 + 33 of 70
    plan = next_actions(run_of(refused, runs, replace(runs, number=2), waits[1]), NOW)
    assert plan == lifecycle.Plan((), NOW + 5)
    assert len(next_actions(run_of(*waits), NOW).actions) == 2, "no limit is known"


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        ("Limit: 1,350,000 enqueued tokens. Please", 1_350_000),
        ("the configured limit of 30K for the deployment", 30_000),
        ("Limit: 2M", 2_000_000),
        ("Limit: 1.35 M tokens", 1_350_000),
        ("Limit: 90000.", 90_000),
        ("Limit: 5 batches", 5),
        ("Limit: 0", None),
        ("no room", None),
    ],
)
def test_a_limit_is_read_in_each_way_that_it_is_written(said: str, limit: int | None) -> None:
    """Read a thousandfold too small, every row would be a job of its own."""
    fault = JobFault("token_limit_exceeded", said)
    ended = job(JobStage.ENDED, remote=remote("failed", faults=(fault,)), ended_at=NOW)
    assert token_limit(run_of(ended), ended) == limit
    assert only(run_of(ended))


def test_a_job_too_large_for_an_empty_queue_is_cut() -> None:
    """Waiting makes no room for what never fits."""
    fault = JobFault("token_limit_exceeded", "Limit: 10 enqueued tokens")
    ended = job(JobStage.ENDED, remote=remote("failed", faults=(fault,)), ended_at=NOW)
    action = only(run_of(ended))
    assert isinstance(action, Recut)
    assert action.parts == 4  # 33 tokens by our guess


def test_a_job_in_doubt_is_looked_for_before_the_grace_begins() -> None:
    """However long ago the intent was, one search comes first, and then the grace."""
    old = job(JobStage.CREATING, intended_at=NOW - 9999)
    assert only(run_of(old)) == Search(old, give_up=False)
    sought = replace(old, doubted_at=NOW - 9)
    assert only(run_of(sought)) == Search(sought, give_up=False)
    assert only(run_of(sought), NOW + 2) == Search(sought, give_up=True)


@pytest.mark.parametrize("status", ["", "queued", "thinking", "in_progress"])
def test_an_unknown_status_is_not_the_end(status: str) -> None:
    """What comes next from the service is read as still running."""
    after = lifecycle.after_poll(job(JobStage.RUNNING), remote(status), Limits(), NOW)
    assert after.stage is JobStage.RUNNING


@pytest.mark.parametrize("status", ENDED)
def test_every_ended_job_is_collected_the_same_way(status: str) -> None:
    """Whatever the word, the result files are read."""
    ended = lifecycle.after_poll(
        job(JobStage.RUNNING), remote(status, output_file_id="file"), Limits(), NOW
    )
    assert isinstance(only(run_of(ended)), Collect)


def test_an_ended_job_without_files_is_asked_again_and_then_believed() -> None:
    """File ids may come seconds late; no file at all is believed when it is said again."""
    ended = job(JobStage.ENDED, remote=remote("completed"), ended_at=NOW)
    for later_s in (5, 11, 3600, -3600):  # a night's sleep is no answer of the service's
        assert only(run_of(ended), NOW + later_s) == Poll(ended)
    unheard = replace(ended, tries=3, polled_at=NOW + 5)
    assert only(run_of(unheard), NOW + 11) == Poll(unheard)
    heard = replace(ended, polled_at=NOW + 11)
    assert isinstance(only(run_of(heard), NOW + 12), Collect)


def test_polls_are_quick_at_first_and_slow_later() -> None:
    """Validation fails within the first minute; after that a call a minute is enough."""
    one, delays = job(JobStage.RUNNING), []
    for seconds in (0, 10, 100, 10_000):
        one = lifecycle.after_poll(one, remote("in_progress"), Limits(), NOW + seconds)
        delays.append(one.due_at - NOW - seconds)
    assert delays == [2, 2, 10, 60]


def test_a_wish_of_the_service_to_wait_is_granted_up_to_a_quarter_hour() -> None:
    """A Retry-After beats our back-off; a day of it does not halt the run."""
    for wish, granted in ((7.0, 7.0), (90_000.0, 900.0)):
        error = ServiceError("slow down", status=429, retry_after_s=wish)
        assert lifecycle.after_trouble(job(), error, Limits(), NOW).due_at == NOW + granted


def test_silence_never_counts_as_a_loss() -> None:
    """Offline for a night is not fifteen times "unknown job"."""
    one = job(JobStage.RUNNING)
    for _ in range(100):
        one = lifecycle.after_trouble(one, ServiceError("no connection"), Limits(), NOW)
    lost = ServiceError("No batch found", status=404)
    assert not lifecycle.is_fatal(lost, one, unreached_s=0)


@pytest.mark.parametrize(
    ("status", "code", "stage", "fatal"),
    [
        (401, None, JobStage.RUNNING, True),
        (403, None, JobStage.PLANNED, True),
        (403, None, JobStage.UPLOADED, True),
        (403, None, JobStage.RUNNING, True),
        (422, None, JobStage.UPLOADING, True),
        (422, None, JobStage.UPLOADED, True),
        (422, None, JobStage.ENDED, False),
        (410, None, JobStage.ENDED, False),
        (429, "insufficient_quota", JobStage.UPLOADED, True),
        (429, None, JobStage.UPLOADED, False),
        (400, "billing_hard_limit_reached", JobStage.UPLOADED, True),
        (400, None, JobStage.UPLOADING, True),
        (404, None, JobStage.RUNNING, False),
        (404, None, JobStage.ENDED, False),
        (500, None, JobStage.PLANNED, False),
        (503, None, JobStage.RUNNING, False),
    ],
)
def test_only_what_is_the_same_for_all_rows_is_fatal(
    status: int, code: str | None, stage: JobStage, fatal: bool
) -> None:
    """A fault that may pass must not stop a run, one that will not must not be waited out."""
    error = ServiceError("no", status=status, code=code)
    assert lifecycle.is_fatal(error, job(stage), unreached_s=0) is fatal


def test_a_waiting_run_takes_over_when_all_lenders_have_ended() -> None:
    """Two lenders: the answers are taken when the last has them."""
    waits = run_of(lenders=("a", "b"))
    assert next_actions(waits, NOW, {"a": Ending.FINISHED, "b": None}).actions == ()
    plan = next_actions(waits, NOW, {"a": Ending.FINISHED, "b": Ending.CANCELLED})
    assert plan.actions == (TakeOver(("a", "b")),)


def test_a_run_whose_lender_stopped_finishes_its_own_jobs_first() -> None:
    """The fault of another run is no reason to leave one's own jobs alone."""
    own = job(JobStage.RUNNING, due_at=NOW + 5)
    endings = {"a": Ending.STOPPED}
    assert next_actions(run_of(own, lenders=("a",)), NOW, endings).actions == ()
    (stop,) = next_actions(run_of(lenders=("a",)), NOW, endings).actions
    assert isinstance(stop, Stop)


def test_a_round_follows_while_there_are_retryable_rows_and_rounds_left() -> None:
    """The last round's failures are final."""
    failed = job(JobStage.COLLECTED, retryable=3)
    assert only(run_of(failed)) == Resubmit(1)
    last = replace(failed, round=2)
    assert only(run_of(failed, last)) == Settle(Ending.FINISHED)
    assert only(run_of(failed, cancel_at=NOW)) == Settle(Ending.CANCELLED)


def test_a_wish_amid_a_round_takes_no_turn_from_rows_that_may_pass() -> None:
    """Of an ended run the wish alone is granted: nobody has asked for the others again."""
    failed = replace(job(JobStage.COLLECTED, retryable=3), round=1)
    own = frozenset({Wish(frozenset({RowStatus.REFUSED}))})
    amid = frozenset({Wish(frozenset({RowStatus.REFUSED}), but=frozenset({failed.shard}))})
    assert only(run_of(failed, wishes=own)) == Resubmit(2, own, passing=False)
    assert only(run_of(failed, wishes=amid)) == Resubmit(2, amid, passing=True)
    assert only(run_of(replace(failed, round=2), wishes=amid)) == Resubmit(3, amid, passing=False)
    cut = replace(failed, retryable=0, counts={RowStatus.CANCELLED: 1})
    late = Resubmit(2, amid, leftovers=True)
    assert only(run_of(cut, wishes=amid, live_at=NOW - 1)) == late


def test_rows_refused_in_a_retry_round_are_counted_once() -> None:
    """Of four that failed, two are refused for their lines when they are sent again."""
    first = job(JobStage.COLLECTED, counts={RowStatus.OK: 6, RowStatus.FAILED: 4})
    refused = replace(job(JobStage.COLLECTED), number=1, round=1, rows=4, is_replaced=True)
    again = replace(job(JobStage.COLLECTED), number=2, round=1, rows=2, counts={RowStatus.OK: 2})
    run = replace(run_of(first, refused, again), rows=10, decided={RowStatus.FAILED: 2})
    assert snapshot(run, NOW).counts == {RowStatus.OK: 8, RowStatus.FAILED: 2}


def test_rows_of_a_retry_round_are_counted_there_alone() -> None:
    """The picture's counts add up to the rows, whatever is tried again."""
    first = job(JobStage.COLLECTED, counts={RowStatus.OK: 6, RowStatus.FAILED: 4}, retryable=4)
    again = replace(job(JobStage.RUNNING), number=1, round=1, rows=4)
    counts = snapshot(run_of(first, again), NOW).counts
    assert counts == {RowStatus.OK: 6, RowStatus.PENDING: 4}
    assert sum(counts.values()) == 10


def test_a_stopped_run_with_answers_is_no_run_that_never_began() -> None:
    """What was paid for is not cleaned away because the rest was never sent."""
    unsent = run_of(job(), ending=Ending.STOPPED)
    assert lifecycle.never_began(unsent)
    known = job(JobStage.COLLECTED, counts={RowStatus.OK: 3})
    assert not lifecycle.never_began(run_of(known, job(), ending=Ending.STOPPED))
    sent = job(JobStage.RUNNING, is_live=True)
    assert lifecycle.is_given_up(run_of(sent, ending=Ending.STOPPED))
    assert not lifecycle.never_began(run_of(sent, ending=Ending.STOPPED))
