"""The engine against a real service: no row lost, none answered twice, nothing paid twice."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lives import PATIENCE_S, Clock, Life
from service import Service, stub_answer

from batch_magic import engine, lifecycle, outcomes, picture, progress, standing
from batch_magic.card import duration, time_words
from batch_magic.causes import causes
from batch_magic.errors import JournalError
from batch_magic.journal import Journal
from batch_magic.records import Ending, JobStage, RowStatus

Lives = Callable[..., Life]


def statuses(frame: pd.DataFrame) -> list[str]:
    return frame["gpt_status"].astype(str).tolist()


def assert_right(frame: pd.DataFrame, asked: pd.DataFrame) -> None:
    """Every row has the answer to its own text, and the frame is otherwise as it was."""
    assert statuses(frame) == ["ok"] * len(asked)
    assert frame["answer"].tolist() == [stub_answer(text) for text in asked["text"]]
    assert frame["gpt_error"].isna().all()
    pd.testing.assert_frame_equal(frame[list(asked.columns)], asked, check_flags=False)


def assert_created_once(service: Service, life: Life, run_id: str) -> None:
    """The service holds just one job for each shard of the run."""
    jobs = service.batches(run_id)
    assert len(jobs) == len(life.run(run_id).jobs)
    assert len({job["input_file_id"] for job in jobs}) == len(jobs)


def until_at_service(service: Service, run_id: str, status: str) -> None:
    """Wait until the service itself, whatever we know of it, has the run's job in a status."""
    ends = time.monotonic() + PATIENCE_S
    while service.batches(run_id)[0]["status"] != status:
        assert time.monotonic() < ends
        time.sleep(0.01)


# -- the way of a row -----------------------------------------------------------------------


def test_every_row_gets_its_own_answer(life: Life, service: Service, reviews: Any) -> None:
    """Output comes shuffled; rows are known by position, not by label or order."""
    run_id = life.submit(reviews)
    assert life.until_ended(run_id).ending is Ending.FINISHED
    assert_right(life.result(run_id), reviews)
    assert_created_once(service, life, run_id)
    assert service.rows_paid(run_id) == len(reviews)


def test_shards_are_cut_by_rows_and_run_side_by_side(
    life: Life, service: Service, reviews: Any
) -> None:
    """A job holds so many rows at most; more rows are more jobs, each created once."""
    run_id = life.submit(reviews, max_rows_per_job=2)
    life.until_ended(run_id)
    assert len(service.batches(run_id)) == 6
    assert_right(life.result(run_id), reviews)
    assert service.rows_paid(run_id) == len(reviews)


def test_shards_are_cut_by_bytes_and_a_row_too_large_fails_alone(
    life: Life, service: Service, reviews: Any
) -> None:
    """One oversize row is a row's failure, not the run's."""
    reviews = reviews.assign(text=[*reviews.text[:11], "long " * 300])
    run_id = life.submit(reviews, max_bytes_per_job=1200)
    life.until_ended(run_id)
    frame = life.result(run_id)
    assert statuses(frame) == ["ok"] * 11 + ["failed"]
    assert "a job holds 1,200" in frame["gpt_error"].iloc[-1]
    assert len(service.batches(run_id)) > 1
    assert service.rows_paid(run_id) == 11


@pytest.mark.parametrize("rows", [0, 1])
def test_a_frame_of_hardly_any_rows_ends_as_any_other(life: Life, reviews: Any, rows: int) -> None:
    """An empty frame settles at once; one row is one job."""
    run_id = life.submit(reviews.head(rows))
    run = life.until_ended(run_id)
    assert run.ending is Ending.FINISHED
    assert len(run.jobs) == rows
    assert_right(life.result(run_id), reviews.head(rows))


def test_a_run_of_skipped_rows_ends_without_a_call(lives: Lives) -> None:
    """Where nothing is to be sent no service is needed, not even one that is there."""
    life = lives("http://127.0.0.1:9/v1")
    run_id = life.submit(pd.DataFrame({"text": [None, None]}, dtype="str"))
    assert life.until_ended(run_id).counts == {RowStatus.SKIPPED: 2}
    assert statuses(life.result(run_id)) == ["skipped", "skipped"]


def test_equal_rows_are_sent_once_and_answered_all(
    life: Life, service: Service, reviews: Any
) -> None:
    """Identical prompts are paid for once."""
    many = pd.concat([reviews] * 4)
    run_id = life.submit(many)
    assert life.until_ended(run_id).twins == 36
    assert_right(life.result(run_id), many)
    assert service.rows_paid(run_id) == 12


def test_partial_results_are_pending_until_collected(life: Life, reviews: Any) -> None:
    """A frame can be had at any time; what has no outcome yet says so."""
    run_id = life.submit(reviews)
    life.until_stage(run_id, JobStage.RUNNING)
    assert set(statuses(life.result(run_id))) == {"pending"}
    life.until_ended(run_id)


# -- created in doubt -----------------------------------------------------------------------

DOUBTS: dict[str, dict[str, Any]] = {
    "dropped after commit": {"http_drop": {"after_commit": True}},
    "dropped before commit": {"http_drop": {}},
    "500 after commit": {"http_status": {"status": 500, "after_commit": True}},
    "500 before commit": {"http_status": {"status": 500}},
    "409 after commit": {"http_status": {"status": 409, "after_commit": True}},
    "answer cut half-way": {"http_cut": {"share": 0.5}},
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_a_create_in_doubt_makes_one_job(
    life: Life, service: Service, reviews: Any, doubt: str
) -> None:
    """Whether the service had carried the call out or not, there is one job in the end."""
    for switch, rule in DOUBTS[doubt].items():
        service.faults(**{switch: {"route": "batches.create", "times": 2, **rule}})
    run_id = life.submit(reviews, max_rows_per_job=6)
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    assert_created_once(service, life, run_id)
    assert service.rows_paid(run_id) == len(reviews)


def test_a_job_in_doubt_is_found_behind_300_of_other_people(
    life: Life, service: Service, reviews: Any
) -> None:
    """The search reads all pages back to the intent, not the newest one."""
    service.faults(
        http_drop={"route": "batches.create", "times": 1, "after_commit": True},
        http_status={"route": "batches.list", "times": 1, "status": 500},
    )
    run_id = life.submit(reviews)
    life.until(run_id, lambda run: run.jobs[0].tries > 0)
    client = service.client()
    for _ in range(300):
        client.batches.create(
            input_file_id="file-of-others",
            endpoint="/v1/chat/completions",
            completion_window="24h",
        )
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    assert_created_once(service, life, run_id)


def test_the_grace_begins_with_the_doubt_and_not_with_the_intent(
    life: Life, service: Service, reviews: Any, clock: Clock
) -> None:
    """A call that takes a minute to fail leaves the service its time to show the job."""
    service.faults(http_drop={"route": "batches.create", "times": 1})
    run_id = life.submit(reviews)
    life.until(run_id, lambda run: run.jobs[0].tries > 0)
    before = service.calls()["batches.create"]
    clock.now += 100
    life.step()
    assert life.job(run_id).stage is JobStage.CREATING
    assert service.calls()["batches.create"] == before
    life.until_ended(run_id)
    assert_created_once(service, life, run_id)


def test_of_two_jobs_with_one_token_the_elder_is_kept(
    life: Life, service: Service, reviews: Any
) -> None:
    """Should a job have been created twice after all, the spare is cancelled, not collected."""
    service.faults(
        validating_s=1e6, http_drop={"route": "batches.create", "times": 1, "after_commit": True}
    )
    run_id = life.submit(reviews)
    life.until(run_id, lambda run: run.jobs[0].tries > 0)
    (first,) = service.batches(run_id)
    service.advance(2)  # created_at has whole seconds
    names = ("input_file_id", "endpoint", "completion_window", "metadata")
    service.client().batches.create(**{name: first[name] for name in names})
    life.until_stage(run_id, JobStage.RUNNING)
    kept, spare = service.batches(run_id)
    assert life.job(run_id).batch_id == kept["id"] == first["id"]
    assert spare["status"] in ("cancelling", "cancelled")


def test_a_file_uploaded_in_doubt_is_not_uploaded_again(
    life: Life, service: Service, reviews: Any
) -> None:
    """An upload whose answer was lost is found by its name."""
    before = service.calls()["files.create"]
    service.faults(http_drop={"route": "files.create", "times": 1, "after_commit": True})
    run_id = life.submit(reviews)
    life.until_ended(run_id)
    assert service.calls()["files.create"] == before + 1
    assert_right(life.result(run_id), reviews)


def test_calls_that_fail_for_a_while_are_made_again(
    life: Life, service: Service, reviews: Any
) -> None:
    """Rate limits and outages cost time, no rows and no money."""
    service.faults(
        http_status=[
            {"route": "files.create", "times": 2, "status": 503},
            {"route": "batches.create", "times": 3, "status": 429, "retry_after_s": 121},
            {"route": "batches.retrieve", "times": 3, "status": 502},
            {"route": "batches.retrieve", "times": 1, "status": 404},
        ]
    )
    run_id = life.submit(reviews)
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    assert_created_once(service, life, run_id)


# -- cancel ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stage", [JobStage.PLANNED, JobStage.UPLOADED, JobStage.CREATING, JobStage.RUNNING]
)
def test_a_run_can_be_cancelled_at_any_stage(
    life: Life, service: Service, reviews: Any, stage: JobStage
) -> None:
    """However far it has come, every row has an outcome and nothing goes on at the service."""
    service.faults(
        validating_s=1e6,
        http_drop={"route": "batches.create", "times": 1, "after_commit": True},
    )
    run_id = life.submit(reviews, max_rows_per_job=6)
    life.until_stage(run_id, stage)
    life.journal.ask_cancel(run_id, life.clock())
    assert life.until_ended(run_id).ending is Ending.CANCELLED
    assert set(statuses(life.result(run_id))) <= {"cancelled", "missing"}
    assert {job["status"] for job in service.batches(run_id)} <= {"cancelled"}
    assert service.rows_paid(run_id) == 0


def test_a_cancel_keeps_what_had_finished(life: Life, service: Service, reviews: Any) -> None:
    """Answers that were paid for are collected from a cancelled job too."""
    service.faults(stall_after_share=0.5, in_progress_s=1)
    run_id = life.submit(reviews)
    life.until(run_id, lambda run: (run.jobs[0].remote or _none).completed == 6)
    life.journal.ask_cancel(run_id, life.clock())
    run = life.until_ended(run_id)
    assert run.counts == {RowStatus.OK: 6, RowStatus.CANCELLED: 6}
    frame = life.result(run_id)
    done = frame["gpt_status"] == "ok"
    assert frame["answer"][done].tolist() == [stub_answer(t) for t in frame["text"][done]]


class _none:  # noqa: N801  (stands for a job that nothing is known of)
    completed = None


def test_a_cancel_is_sent_at_once_and_not_at_the_next_poll(
    life: Life, service: Service, reviews: Any, clock: Clock
) -> None:
    """Whoever cancels wants it now, even when the next poll is a minute off."""
    service.faults(validating_s=1e6)
    run_id = life.submit(reviews)
    life.until(run_id, lambda run: run.jobs[0].due_at > clock() + 20)
    life.journal.ask_cancel(run_id, clock())
    life.step()
    assert life.job(run_id).cancel_sent_at is not None
    life.until_ended(run_id)


@pytest.mark.parametrize("status", [400, 409])
def test_a_cancel_that_comes_as_the_job_ends_takes_its_answers(
    life: Life, service: Service, reviews: Any, status: int
) -> None:
    """A job that is done cannot be cancelled; services differ in how they say so."""
    run_id = life.submit(reviews)
    life.until_stage(run_id, JobStage.RUNNING)
    life.journal.ask_cancel(run_id, life.clock())
    until_at_service(service, run_id, "completed")
    before = service.calls()["batches.cancel"]
    service.faults(http_status={"route": "batches.cancel", "status": status})
    run = life.until_ended(run_id)
    assert run.ending is Ending.CANCELLED
    assert_right(life.result(run_id), reviews)
    assert service.calls()["batches.cancel"] == before + 1


@pytest.mark.parametrize("word", ["cancelled", "expired"])
def test_rows_of_a_job_that_ended_without_any_file_have_its_word_as_status(
    life: Life, service: Service, reviews: Any, word: str
) -> None:
    """Nothing of them was lost on the way, as `missing` would say."""
    switch = {"cancelled": "cancel_after_share", "expired": "expire_after_share"}[word]
    service.faults(**{switch: 0, "file_ids_late_s": 1e9})
    run_id = life.submit(reviews, retries=0)
    run = life.until_ended(run_id)
    remote = run.jobs[0].remote
    assert remote is not None
    assert (remote.output_file_id, remote.error_file_id) == (None, None)
    assert statuses(life.result(run_id)) == [word] * 12


def test_a_long_validation_is_waited_out(
    life: Life, service: Service, reviews: Any, clock: Clock
) -> None:
    """The service may look at an input file for half an hour; that is no fault of the job."""
    service.faults(validating_s=1e6)
    run_id = life.submit(reviews)
    life.until_stage(run_id, JobStage.RUNNING)
    began = clock()
    while clock() - began < 31 * 60:
        life.step()
        clock.now += 20
    run = life.run(run_id)
    assert (run.ending, run.jobs[0].remote_status) == (None, "validating")
    service.advance(10**4)
    assert life.until_ended(run_id).ending is Ending.FINISHED
    assert_right(life.result(run_id), reviews)
    assert_created_once(service, life, run_id)


def test_a_job_cancelled_by_somebody_else_is_merged_and_not_sent_again(
    life: Life, service: Service, reviews: Any
) -> None:
    """A cancel in the service's own console is somebody's wish."""
    service.faults(cancel_after_share=0.25)
    run_id = life.submit(reviews)
    run = life.until_ended(run_id)
    assert run.ending is Ending.FINISHED
    assert run.counts == {RowStatus.OK: 3, RowStatus.CANCELLED: 9}
    assert len(service.batches(run_id)) == 1


# -- faults that are the same for all rows --------------------------------------------------


def test_a_refused_key_stops_the_run_and_the_right_one_goes_on(
    lives: Lives, service: Service, reviews: Any
) -> None:
    """The rows are kept, the message says what to mend, and nothing is sent twice."""
    refused = lives(api_key="sk-refused-1234")
    run_id = refused.submit(reviews)
    run = refused.until_ended(run_id)
    assert run.ending is Ending.STOPPED
    assert run.fault is not None
    assert "OPENAI_API_KEY" in run.fault
    assert "1234" not in run.fault
    mended = lives()
    mended.go_on(run_id)
    mended.until_ended(run_id)
    assert_right(mended.result(run_id), reviews)
    assert_created_once(service, mended, run_id)


def test_a_key_refused_half_way_stops_and_goes_on_with_the_same_job(
    life: Life, service: Service, reviews: Any
) -> None:
    """A job at the service outlives the trouble with its key."""
    run_id = life.submit(reviews)
    life.until_stage(run_id, JobStage.RUNNING)
    service.faults(http_status={"route": "*", "status": 401})
    assert life.until_ended(run_id).ending is Ending.STOPPED
    service.clear_faults()
    life.go_on(run_id)
    assert life.until_ended(run_id).ending is Ending.FINISHED
    assert_right(life.result(run_id), reviews)
    assert_created_once(service, life, run_id)


@pytest.mark.parametrize(
    ("route", "status"),
    [
        ("files.create", 403),
        ("files.create", 422),
        ("batches.create", 403),
        ("batches.create", 422),
        ("batches.retrieve", 403),
    ],
)
def test_a_plain_refusal_stops_the_run_at_once_and_it_goes_on_when_mended(
    life: Life, service: Service, reviews: Any, route: str, status: int
) -> None:
    """What no waiting mends is told after one try; nothing is sent twice for it."""
    before = service.calls()[route]
    service.faults(http_status={"route": route, "status": status, "message": "Not for you."})
    run_id = life.submit(reviews)
    run = life.until_ended(run_id)
    assert run.ending is Ending.STOPPED
    assert re.search(rf"said {status}.*Not for you", run.fault or "")
    assert service.calls()[route] == before + 1
    service.clear_faults()
    life.go_on(run_id)
    assert life.until_ended(run_id).ending is Ending.FINISHED
    assert_right(life.result(run_id), reviews)
    assert_created_once(service, life, run_id)


def test_an_unknown_model_stops_the_run(life: Life, service: Service, reviews: Any) -> None:
    """Validation refuses the model for all rows alike: no retry rounds, nothing paid."""
    service.faults(validation_error="model_not_found")
    run_id = life.submit(reviews, max_rows_per_job=4)
    run = life.until_ended(run_id)
    assert run.ending is Ending.STOPPED
    assert run.fault is not None
    assert "model_not_found" in run.fault
    service.clear_faults()
    life.go_on(run_id)
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    assert service.rows_paid(run_id) == len(reviews)


def test_no_quota_stops_the_run(life: Life, service: Service, reviews: Any) -> None:
    """An account without money is nothing to wait for."""
    service.faults(insufficient_quota={"route": "batches.create"})
    run_id = life.submit(reviews)
    run = life.until_ended(run_id)
    assert run.ending is Ending.STOPPED
    assert "insufficient_quota" in (run.fault or "")
    service.clear_faults()
    life.go_on(run_id)
    life.until_ended(run_id)
    assert_created_once(service, life, run_id)


def test_no_network_with_nothing_sent_stops_after_45_seconds(
    lives: Lives, reviews: Any, clock: Clock
) -> None:
    """A wrong address is told to the user, not waited out for a day."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        life = lives(f"http://127.0.0.1:{closed.getsockname()[1]}/v1")
        began = clock()
        run_id = life.submit(reviews)
        run = life.until_ended(run_id)
    assert run.ending is Ending.STOPPED
    assert "no connection" in (run.fault or "")
    assert 45 <= clock() - began < 120


def test_an_outage_after_something_was_sent_is_waited_out(
    life: Life, service: Service, reviews: Any, clock: Clock
) -> None:
    """A laptop that was offline for hours goes on with its job."""
    run_id = life.submit(reviews)
    life.until_stage(run_id, JobStage.RUNNING)
    service.faults(http_drop={"route": "*"})
    began = clock()
    life.until(run_id, lambda run: clock() - began > 1800)
    service.clear_faults()
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    assert_created_once(service, life, run_id)


ODD = [{"route": route, "status": 200} for route in ("batches.retrieve", "batches.cancel")]


@pytest.mark.parametrize(
    ("at", "fault"),
    [(JobStage.PLANNED, {"vanished": True}), (JobStage.RUNNING, {"http_status": ODD})],
    ids=["404", "200 and an error for an object"],
)
def test_a_vanished_job_stops_the_run_and_can_be_cancelled(
    life: Life, service: Service, reviews: Any, at: JobStage, fault: dict[str, Any]
) -> None:
    """A job that the service does not know is said so; a cancel ends the matter."""
    run_id = life.submit(reviews)
    life.until_stage(run_id, at)
    service.faults(**fault)
    run = life.until_ended(run_id)
    assert run.ending is Ending.STOPPED
    assert "cancel the run" in (run.fault or "")
    life.journal.ask_cancel(run_id, life.clock())
    life.engine.drive(run_id)
    assert life.until(run_id, lambda run: run.ending is Ending.CANCELLED)


@pytest.mark.parametrize("switch", ["creates_per_hour", "uploads_per_minute"])
def test_a_cap_by_the_hour_or_the_minute_is_waited_out(
    life: Life, service: Service, reviews: Any, switch: str
) -> None:
    """The jobs beyond it come later; nothing fails and nothing is created twice."""
    service.faults(**{switch: 1})
    run_id = life.submit(reviews, max_rows_per_job=6)
    for _ in range(100):
        life.step()
    assert life.run(run_id).ending is None
    assert len(service.batches(run_id)) == 1
    service.clear_faults()
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    assert_created_once(service, life, run_id)


def test_one_404_to_a_cancel_is_no_proof_that_a_job_is_gone(
    life: Life, service: Service, reviews: Any
) -> None:
    """A living job that is given up goes on, and is billed."""
    service.faults(in_progress_s=1e6)
    run_id = life.submit(reviews)
    life.until_stage(run_id, JobStage.RUNNING)
    service.faults(http_status={"route": "batches.cancel", "status": 404, "times": 1})
    life.journal.ask_cancel(run_id, life.clock())
    assert life.until_ended(run_id).ending is Ending.CANCELLED
    assert [job["status"] for job in service.batches(run_id)] == ["cancelled"]


def test_one_404_after_an_overload_is_no_loss(life: Life, service: Service, reviews: Any) -> None:
    """What the service could not say for ten minutes does not count against the job."""
    service.faults(in_progress_s=1e6)
    run_id = life.submit(reviews)
    life.until_stage(run_id, JobStage.RUNNING)
    calls = [{"status": 502, "times": 16}, {"status": 404, "times": 1}]
    service.faults(http_status=[{"route": "batches.retrieve", **one} for one in calls])
    for _ in range(300):
        life.step()
    assert life.run(run_id).ending is None
    cancel(life, run_id)


def test_a_job_in_doubt_on_a_host_without_a_list_can_be_cancelled(
    life: Life, service: Service, reviews: Any
) -> None:
    """There is nothing to look in; the user must not be stuck for ever."""
    service.faults(
        http_drop={"route": "batches.create", "times": 1},
        http_status={"route": "batches.list", "status": 404},
    )
    run_id = life.submit(reviews)
    assert life.until_ended(run_id).ending is Ending.STOPPED
    life.journal.ask_cancel(run_id, life.clock())
    life.engine.drive(run_id)
    assert life.until(run_id, lambda run: run.ending is Ending.CANCELLED)


def test_a_full_queue_is_waited_out(life: Life, service: Service, reviews: Any) -> None:
    """`token_limit_exceeded` means later, each time a little later; its rows are not failed."""
    service.faults(validation_error="token_limit_exceeded")
    run_id = life.submit(reviews)
    life.until(run_id, lambda run: len(run.jobs) == 4)
    waits = [job.attempt for job in life.run(run_id).jobs]
    assert waits == [0, 1, 2, 3]
    service.clear_faults()
    assert life.until_ended(run_id).ending is Ending.FINISHED
    assert_right(life.result(run_id), reviews)
    assert service.rows_paid(run_id) == len(reviews)
    assert len({job["input_file_id"] for job in service.batches(run_id)}) == 1


def test_jobs_refused_for_a_file_not_seen_are_made_again_a_few_times(
    life: Life, service: Service, reviews: Any
) -> None:
    """A file may not be found straight after its upload; that has an end, though."""
    lag = {"code": "invalid_request", "message": "Cannot find file file-x"}
    service.faults(validation_error=lag)
    run_id = life.submit(reviews, retries=0)
    run = life.until_ended(run_id)
    assert run.counts == {RowStatus.FAILED: 12}
    assert len(service.batches(run_id)) == 6
    assert "Cannot find file" in life.result(run_id)["gpt_error"].iloc[0]


def test_a_create_refused_for_a_file_not_seen_is_made_again(
    life: Life, service: Service, reviews: Any
) -> None:
    """Hosts that look at the file at once may say so by a plain 400, which stops a run else."""
    lag = {"status": 400, "message": "Cannot find file file-x, or organization does not have it."}
    service.faults(http_status={"route": "batches.create", "times": 2, **lag})
    before = service.calls()
    run_id = life.submit(reviews)
    assert life.until_ended(run_id).ending is Ending.FINISHED
    assert_right(life.result(run_id), reviews)
    assert_created_once(service, life, run_id)
    made = service.calls() - before
    assert (made["batches.create"], made["files.create"]) == (3, 1)


def test_a_row_whose_line_is_refused_fails_alone(
    life: Life, service: Service, reviews: Any
) -> None:
    """The service refuses the whole job for one line; the other rows go on in a new one."""
    run_id = life.submit(reviews)
    service.faults(validation_error={"code": "invalid_url", "message": "No.", "line": 2})
    life.until(run_id, lambda run: len(run.jobs) == 2)
    service.clear_faults()
    assert life.until_ended(run_id).counts == {RowStatus.FAILED: 1, RowStatus.OK: 11}
    frame = life.result(run_id)
    said = frame["gpt_error"].iloc[1]
    assert said.startswith("invalid_url: No. (line 2 of its job); mend the row and run")
    assert_right(frame.drop(index=frame.index[1]), reviews.drop(index=reviews.index[1]))
    assert service.rows_paid(run_id) == 11


def test_a_refusal_of_line_after_line_has_an_end(
    life: Life, service: Service, reviews: Any
) -> None:
    """What is wrong with every line is not waited out line by line."""
    service.faults(validation_error={"code": "invalid_url", "message": "No.", "line": 1})
    run_id = life.submit(reviews)
    assert life.until_ended(run_id).counts == {RowStatus.FAILED: 12}
    assert len(service.batches(run_id)) <= 12
    assert service.rows_paid(run_id) == 0


def test_a_job_that_waited_long_for_room_is_not_given_up_for_a_line(
    life: Life, service: Service, reviews: Any
) -> None:
    """Each kind of refusal has a count of its own: one bad row must not fail its neighbours."""
    service.faults(validation_error="token_limit_exceeded")
    run_id = life.submit(reviews)
    life.until(run_id, lambda run: len(run.jobs) > 8)
    service.faults(validation_error={"code": "invalid_request", "message": "Cannot find file x"})
    life.until(run_id, lambda run: any(job.lags for job in run.jobs))
    service.faults(validation_error={"code": "invalid_url", "message": "No.", "line": 1})
    life.until(run_id, lambda run: any(job.refusals for job in run.jobs))
    service.clear_faults()
    counts = life.until_ended(run_id).counts
    assert counts[RowStatus.OK] >= 10
    assert counts[RowStatus.OK] + counts[RowStatus.FAILED] == 12
    assert service.rows_paid(run_id) == counts[RowStatus.OK]


def test_a_job_with_too_much_in_it_is_cut_until_it_fits(
    life: Life, service: Service, reviews: Any
) -> None:
    """Limits are lower for some models and hosts than those that are written down."""
    run_id = life.submit(reviews)
    service.faults(validation_error="maximum_requests_exceeded")
    life.until(run_id, lambda run: len(run.jobs) == 3)
    service.clear_faults()
    run = life.until_ended(run_id)
    assert [job.rows for job in run.jobs] == [12, 6, 6]
    assert_right(life.result(run_id), reviews)
    assert service.rows_paid(run_id) == len(reviews)


def test_a_file_that_a_gateway_finds_too_large_is_cut(
    life: Life, service: Service, reviews: Any
) -> None:
    """413 comes from whatever stands before the service; its limit is told by nobody."""
    long = reviews.assign(text=reviews["text"] + "." * 150_000)
    service.faults(http_status={"route": "files.create", "status": 413, "times": 1})
    run_id = life.submit(long)
    run = life.until_ended(run_id)
    assert [job.rows for job in run.jobs] == [12, 6, 6]
    assert_right(life.result(run_id), long)


def test_a_row_that_a_gateway_finds_too_large_fails_alone(
    life: Life, service: Service, reviews: Any
) -> None:
    """One row cannot be cut; it says why it was not sent."""
    long = reviews.head(1).assign(text="." * 1_100_000)
    service.faults(http_status={"route": "files.create", "status": 413})
    run_id = life.submit(long)
    assert life.until_ended(run_id).counts == {RowStatus.FAILED: 1}
    assert "413" in life.result(run_id)["gpt_error"].iloc[0]


def test_a_host_that_takes_not_even_a_small_file_stops_the_run(
    life: Life, service: Service, reviews: Any
) -> None:
    """Cutting on and on would end in a job for each row."""
    service.faults(http_status={"route": "files.create", "status": 413})
    run = life.until_ended(life.submit(reviews))
    assert run.ending is Ending.STOPPED
    assert len(run.jobs) == 1


def test_jobs_wait_for_each_other_once_the_limit_is_known(
    life: Life, service: Service, reviews: Any
) -> None:
    """The refusal tells the limit; from then on no job is sent that would be refused."""
    run_id = life.submit(reviews, max_rows_per_job=3)
    limit = max(job.bytes for job in life.run(run_id).jobs) // 3 + 1
    service.faults(token_cap=limit)
    run = life.until_ended(run_id)
    assert run.ending is Ending.FINISHED
    assert_right(life.result(run_id), reviews)
    assert service.rows_paid(run_id) == len(reviews)


def test_a_shard_changed_on_disk_is_not_paid_for(
    life: Life, service: Service, reviews: Any
) -> None:
    """What is sent is what was written at submit, or nothing."""
    run_id = life.submit(reviews)
    path = life.home.run_folder(run_id).shard_path(0)
    path.write_bytes(path.read_bytes().replace(b"review 3", b"review 9"))
    run = life.until_ended(run_id)
    assert run.ending is Ending.STOPPED
    assert "line 4" in (run.fault or "")
    assert service.batches(run_id) == []


# -- asked for again ------------------------------------------------------------------------


def retry(life: Life, run_id: str, *wish: RowStatus) -> None:
    life.journal.ask_retry(run_id, wish, life.clock())
    life.engine.drive(run_id)


def test_rows_that_failed_for_good_are_sent_again_on_request(
    life: Life, service: Service, reviews: Any
) -> None:
    """A 400 does not pass by itself, but its reason may have been mended."""
    service.faults(row_status={"status": 400, "every": 3})
    run_id = life.submit(reviews)
    assert life.until_ended(run_id).counts[RowStatus.FAILED] == 4
    service.clear_faults()
    retry(life, run_id, RowStatus.FAILED)
    assert life.until_ended(run_id).counts == {RowStatus.OK: 12}
    assert_right(life.result(run_id), reviews)
    assert service.rows_paid(run_id) == len(reviews)


def test_the_time_until_a_retry_is_no_time_that_the_run_took(
    life: Life, service: Service, reviews: Any
) -> None:
    """Whoever retries the next morning had no run of a night: words, and each job's own span."""
    service.faults(row_status={"status": 400, "every": 3})
    run_id = life.submit(reviews)
    life.until_ended(run_id)
    service.clear_faults()
    life.clock.now += 8 * 3600
    retry(life, run_id, RowStatus.FAILED)
    again = life.until_ended(run_id)
    idle = again.pauses[0].ends - again.pauses[0].begins
    assert idle >= 8 * 3600
    drawn = picture.snapshot(again, life.clock())
    assert again.ended_at
    took_s = progress.took_s(drawn)
    assert took_s == pytest.approx(again.ended_at - again.created_at - idle)
    assert f"took {duration(took_s)}" in time_words(drawn)
    assert (drawn.queue_s or 0.0) + (drawn.work_s or 0.0) <= took_s
    row = standing.row_of(standing.Standing(drawn), ())
    assert row["took_s"] == took_s


def test_a_truncated_answer_stays_until_there_is_one_as_good(
    life: Life, service: Service, reviews: Any
) -> None:
    """It was paid for: a retry that fails takes nothing away."""
    service.faults(row_cut={"every": 4})
    run_id = life.submit(reviews)
    assert life.until_ended(run_id).counts[RowStatus.TRUNCATED] == 3
    before = life.result(run_id)
    service.clear_faults()
    service.faults(row_status={"status": 400})
    retry(life, run_id, RowStatus.TRUNCATED)
    life.until_ended(run_id)
    assert life.result(run_id)["answer"].tolist() == before["answer"].tolist()
    service.clear_faults()
    retry(life, run_id, RowStatus.TRUNCATED)
    assert life.until_ended(run_id).counts == {RowStatus.OK: 12}
    assert_right(life.result(run_id), reviews)


def test_answers_taken_over_can_be_asked_for_again(
    life: Life, service: Service, reviews: Any
) -> None:
    """The lines of their rows stand in the run that asked first."""
    service.faults(row_refused={"every": 4})
    life.until_ended(life.submit(reviews))
    service.clear_faults()
    again = life.submit(reviews[::-1])
    assert life.until_ended(again).counts[RowStatus.REFUSED] == 3
    assert service.batches(again) == []
    retry(life, again, RowStatus.REFUSED)
    assert life.until_ended(again).counts == {RowStatus.OK: 12}
    assert_right(life.result(again), reviews[::-1])
    assert service.rows_paid(again) == 3


def test_rows_that_another_run_was_answered_meanwhile_are_not_sent_again(
    life: Life, service: Service, reviews: Any
) -> None:
    """A retry comes late: a later run has asked for the same rows and has paid for them."""
    service.faults(row_status={"status": 400, "every": 3})
    first = life.submit(reviews)
    assert life.until_ended(first).counts[RowStatus.FAILED] == 4
    service.clear_faults()
    second = life.submit(reviews.iloc[:6], name="second")
    life.until_ended(second)
    retry(life, first, RowStatus.FAILED)
    assert life.until_ended(first).counts == {RowStatus.OK: 12}
    assert_right(life.result(first), reviews)
    assert service.rows_paid(first, second) == len(reviews)


def test_a_wish_that_no_row_fits_ends_at_once(life: Life, service: Service, reviews: Any) -> None:
    """Nothing is sent, and the run is as it was."""
    run_id = life.submit(reviews)
    life.until_ended(run_id)
    retry(life, run_id, RowStatus.EXPIRED)
    assert life.until_ended(run_id).counts == {RowStatus.OK: 12}
    assert len(service.batches(run_id)) == 1


def test_a_wish_survives_the_process(lives: Lives, service: Service, reviews: Any) -> None:
    """It is written down before anything is done about it."""
    service.faults(row_status={"status": 400, "every": 3})
    first = lives()
    run_id = first.submit(reviews)
    first.until_ended(run_id)
    service.clear_faults()
    first.journal.ask_retry(run_id, [RowStatus.FAILED], first.clock())
    second = lives()
    second.engine.drive(run_id)
    assert second.until_ended(run_id).counts == {RowStatus.OK: 12}


def test_causes_are_grouped_counted_and_shown_by_a_row(
    life: Life, service: Service, reviews: Any
) -> None:
    """Request ids and numbers make no cause of their own."""
    service.faults(row_status=[{"status": 400, "every": 3}, {"status": 404, "every": 5}])
    run_id = life.submit(reviews)
    run = life.until_ended(run_id)
    found = causes(life.home.run_folder(run_id), run)
    assert [(cause.rows, cause.position) for cause in found] == [(4, 2), (2, 4)]
    assert found[0].error.startswith("400")


# -- result files ---------------------------------------------------------------------------


def test_a_job_without_a_single_success_gives_its_errors(
    life: Life, service: Service, reviews: Any
) -> None:
    """`completed` says nothing about rows: there may be no output file."""
    service.faults(row_status={"status": 400})
    run_id = life.submit(reviews)
    assert life.until_ended(run_id).counts == {RowStatus.FAILED: 12}
    assert life.result(run_id)["gpt_error"].str.contains("400").all()
    assert len(service.batches(run_id)) == 1


def test_only_rows_that_an_expiry_cut_off_are_sent_again(
    life: Life, service: Service, reviews: Any
) -> None:
    """A job that expired at a quarter has three quarters to send, under the same names."""
    service.faults(expire_after_share=0.25)
    run_id = life.submit(reviews)
    life.until(run_id, lambda run: len(run.jobs) == 2)
    service.faults(expire_after_share=None)
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    totals = [job["request_counts"]["total"] for job in service.batches(run_id)]
    assert sorted(totals) == [9, 12]
    assert service.rows_paid(run_id) == 12


@pytest.mark.parametrize("status", [429, 503, 0, "timeout"])
def test_rows_whose_failure_may_pass_are_sent_again_alone(
    life: Life, service: Service, reviews: Any, status: int | str
) -> None:
    """A retry round holds the failed rows and no other; the first success wins."""
    reviews = reviews.assign(text=reviews["text"] + f" ({status})")  # the service's memory is long
    choice = {"status": status, "every": 3, "once": True}
    service.faults(row_status=choice, counts_all_completed=True)
    run_id = life.submit(reviews, fresh=True)
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    assert [job.rows for job in life.run(run_id).jobs] == [12, 4]
    assert service.rows_paid(run_id) == 12


def test_retry_rounds_have_an_end(life: Life, service: Service, reviews: Any) -> None:
    """After the last round the row has failed, with its reason."""
    service.faults(row_status={"status": 429, "text": "review 7"})
    run_id = life.submit(reviews, retries=2)
    assert life.until_ended(run_id).counts == {RowStatus.OK: 11, RowStatus.FAILED: 1}
    assert len(service.batches(run_id)) == 3
    assert statuses(life.result(run_id)).index("failed") == 7


@pytest.mark.parametrize("switch", ["row_missing", "row_malformed"])
def test_rows_in_neither_file_are_missing_and_sent_again(
    life: Life, service: Service, reviews: Any, switch: str
) -> None:
    """A row that no readable line names is not lost: it is known to be missing."""
    service.faults(**{switch: {"text": "review 5"}})
    run_id = life.submit(reviews, retries=1)
    run = life.until_ended(run_id)
    assert run.counts == {RowStatus.OK: 11, RowStatus.MISSING: 1}
    assert statuses(life.result(run_id)).index("missing") == 5
    assert [job.rows for job in run.jobs] == [12, 1]


@pytest.mark.parametrize(
    "faults",
    [
        {"row_twice": True},
        {"error_file_id_empty": True},
        {"counts_null": True},
        {"status_text": "thinking_it_over"},
        {"file_ids_late_s": 0.2},
        {"output_order": "reversed"},
        {"http_cut": {"route": "files.content", "times": 1, "share": 0.5}},
        {"http_status": {"route": "files.content", "times": 4, "status": 404}},
        {"http_status": {"route": "files.content", "times": 4, "status": 502}},
        {"http_status": {"route": "files.retrieve", "times": 2, "status": 500}},
    ],
    ids=str,
)
def test_odd_results_are_read_all_the_same(
    life: Life, service: Service, reviews: Any, faults: dict[str, Any]
) -> None:
    """Rows named twice, late or empty ids, unknown words, downloads that fail at first."""
    service.faults(**faults)
    life.nap_s = 0.06 if "file_ids_late_s" in faults else life.nap_s
    run_id = life.submit(reviews, retries=0)
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)


def test_an_output_file_whose_id_comes_late_is_waited_for(
    life: Life, service: Service, reviews: Any
) -> None:
    """The error file alone is not all, when the service says that rows succeeded."""
    service.faults(row_status={"status": 400, "every": 4}, file_ids_late_s=0.2)
    life.nap_s = 0.06
    run_id = life.submit(reviews, retries=0)
    assert life.until_ended(run_id).counts == {RowStatus.OK: 9, RowStatus.FAILED: 3}


def test_file_ids_that_come_very_late_are_waited_for(
    life: Life, service: Service, reviews: Any
) -> None:
    """The service counts answered rows and names no file yet: sending again would pay again."""
    service.faults(file_ids_late_s=60)
    run_id = life.submit(reviews)
    life.until_stage(run_id, JobStage.ENDED)
    life.clock.now += 30
    for _ in range(20):
        life.step()
    service.advance(61)
    assert life.until_ended(run_id).counts == {RowStatus.OK: 12}
    assert len(service.batches(run_id)) == 1


def test_file_ids_that_never_come_are_given_up_and_not_paid_again(
    life: Life, service: Service, reviews: Any
) -> None:
    """The rows were answered by the service's own count."""
    service.faults(file_ids_late_s=1e9)
    run_id = life.submit(reviews)
    assert life.until_ended(run_id).counts == {RowStatus.MISSING: 12}
    assert len(service.batches(run_id)) == 1


def test_result_files_that_stay_away_are_given_up_and_the_other_is_kept(
    life: Life, service: Service, reviews: Any, clock: Clock
) -> None:
    """After `collect_timeout_s` the rows are missing; that is said, and the run ends."""
    service.faults(http_status={"route": "files.content", "status": 404})
    run_id = life.submit(reviews, retries=0)
    life.until_stage(run_id, JobStage.ENDED)
    began = clock()
    run = life.until_ended(run_id)
    assert run.counts == {RowStatus.MISSING: 12}
    assert 110 <= clock() - began < 300
    assert "404" in life.result(run_id)["gpt_error"].iloc[0]


def test_result_files_behind_an_overloaded_host_are_waited_for(
    life: Life, service: Service, reviews: Any, clock: Clock
) -> None:
    """A 502 of days, as was seen: asked for again, answers cost days and no second payment."""
    run_id = life.submit(reviews, retries=0)
    life.until_stage(run_id, JobStage.ENDED)
    service.faults(http_status={"route": "files.content", "status": 502})
    assert life.until_ended(run_id).counts == {RowStatus.MISSING: 12}
    again = lifecycle.asked_again(life.job(run_id), clock())
    life.journal.refetch(run_id, [again], clock())
    life.engine.drive(run_id)
    began = clock()
    run = life.until(run_id, lambda run: clock() - began > 3000)
    assert run.ending is None
    assert "502" in (life.published[-1].problem or "")
    service.clear_faults()
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    assert service.rows_paid(run_id) == 12


def test_a_cancel_ends_the_wait_for_result_files(
    life: Life, service: Service, reviews: Any
) -> None:
    """Whoever has no patience left gets what there is."""
    run_id = life.submit(reviews, max_rows_per_job=6)
    life.until(run_id, lambda run: run.jobs[0].stage is JobStage.COLLECTED)
    service.faults(http_status={"route": "files.content", "status": 502})
    life.until(run_id, lambda run: run.jobs[1].stage in (JobStage.ENDED, JobStage.COLLECTED))
    life.journal.ask_cancel(run_id, life.clock())
    assert life.until_ended(run_id).counts[RowStatus.OK] >= 6


def test_a_damaged_result_that_is_gone_at_the_service_costs_its_rows_alone(
    life: Life, service: Service, reviews: Any
) -> None:
    """The other job's answers are whole, and the run must not be stuck for ever."""
    run_id = life.submit(reviews, max_rows_per_job=6)
    life.until_ended(run_id)
    path = life.home.run_folder(run_id).result_path(0, "output")
    path.write_bytes(path.read_bytes().replace(b"stub", b"stab"))
    service.faults(http_status={"route": "files.content", "status": 404})
    run = life.run(run_id)
    folder = life.home.run_folder(run_id, run.files)
    (lost,) = outcomes.lost_results(folder, run, verify=True)
    life.journal.refetch(run_id, [lifecycle.asked_again(lost, life.clock())], life.clock())
    life.engine.drive(run_id)
    run = life.until_ended(run_id)
    assert (run.ending, run.counts) == (
        Ending.FINISHED,
        {RowStatus.OK: 6, RowStatus.MISSING: 6},
    )
    assert "404" in life.result(run_id)["gpt_error"].iloc[0]


def cancel(life: Life, run_id: str) -> None:
    """Leave no job behind: the service's queue is that of all tests."""
    life.journal.ask_cancel(run_id, life.clock())
    life.engine.drive(run_id)
    life.until_ended(run_id)


def test_a_night_between_the_end_and_the_file_ids_loses_nothing(
    lives: Lives, service: Service, reviews: Any, clock: Clock
) -> None:
    """The process sees `completed` without files and dies; hours later the ids are there."""
    life = lives()
    service.faults(file_ids_late_s=2, counts_null=True)
    run_id = life.submit(reviews)
    life.until_stage(run_id, JobStage.ENDED)
    service.clear_faults()
    time.sleep(2.1)  # by the service's clock
    clock.now += 3600
    again = lives()
    again.go_on(run_id)
    again.until_ended(run_id)
    assert_right(again.result(run_id), reviews)
    assert service.rows_paid(run_id) == 12


def test_a_lender_is_asked_for_its_files_before_its_rows_are_paid_again(
    life: Life, service: Service, reviews: Any
) -> None:
    """Its results stayed away; another run that waits for them must not pay while they may come."""
    service.faults(http_status={"route": "files.content", "status": 404})
    first = life.submit(reviews, retries=0)
    life.until_stage(first, JobStage.RUNNING)
    second = life.submit(reviews, name="second")
    assert life.run(second).lenders == (first,)
    life.until(first, lambda run: run.jobs[0].is_refetched)
    service.clear_faults()
    life.until_ended(second)
    assert_right(life.result(second), reviews)
    assert service.rows_paid(first, second) == 12


def test_a_retry_does_not_ask_for_what_a_running_run_has_collected(
    life: Life, service: Service, reviews: Any
) -> None:
    """One of its jobs is in, the other is not: neither's rows are paid twice."""
    frame = reviews.head(2)
    first = life.submit(frame, max_rows_per_job=1)
    service.faults(http_status={"route": "batches.create", "status": 429, "times": 1})
    life.until(first, lambda run: any(job.stage is JobStage.RUNNING for job in run.jobs))
    service.faults(in_progress_s=1e6)
    second = life.submit(frame, name="second")
    life.journal.ask_cancel(second, life.clock())
    life.until_ended(second)
    life.until(first, lambda run: any(job.stage is JobStage.COLLECTED for job in run.jobs))
    life.journal.ask_retry(second, [RowStatus.CANCELLED], life.clock())
    life.engine.drive(second)
    life.until_ended(second)
    assert service.rows_paid(second) == 0
    cancel(life, first)


def test_what_was_odd_in_result_files_is_said(life: Life, service: Service, reviews: Any) -> None:
    """The first good answer holds; that there were others is for the user to know."""
    service.faults(row_twice=True)
    run_id = life.submit(reviews)
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    (note,) = [one for one in life.published[-1].notes if one.startswith("job 1: ")]
    assert "12 rows answered twice" in note


def test_a_round_keeps_the_reasons_of_the_one_before(
    life: Life, service: Service, reviews: Any
) -> None:
    """When all is well in the end, one can still read what was not."""
    service.faults(row_status={"status": 429, "every": 3})
    run_id = life.submit(reviews)
    life.until(run_id, lambda run: run.round == 1)
    service.clear_faults()
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    (round_1,) = [said for _, _, said in life.journal.history(run_id) if "round 1" in said]
    assert "round 1: 4 rows again: 4 failed (429" in round_1


def test_a_result_file_that_is_gone_is_not_asked_for_twice_and_the_other_is_kept(
    life: Life, service: Service, reviews: Any, clock: Clock
) -> None:
    """410 is a final word, unlike 404; what the error file says of its rows stays."""
    service.faults(
        row_status={"status": 400, "every": 4},
        http_status={"route": "files.content", "times": 1, "status": 410, "message": "It is gone."},
    )
    run_id = life.submit(reviews, retries=0)
    life.until_stage(run_id, JobStage.ENDED)
    began, before = clock(), service.calls()["files.content"]
    run = life.until_ended(run_id)
    assert run.counts == {RowStatus.MISSING: 9, RowStatus.FAILED: 3}
    assert service.calls()["files.content"] == before + 2
    assert clock() - began < 60
    assert re.search(r"said 410.*It is gone", run.jobs[0].problem or "")
    frame = life.result(run_id)
    assert "410" in frame["gpt_error"].iloc[0]
    assert frame["gpt_error"].iloc[3].startswith("400")


def test_a_silent_network_is_no_reason_to_give_result_files_up(
    life: Life, service: Service, reviews: Any, clock: Clock
) -> None:
    """Rows that were paid for are not declared missing because we are offline."""
    run_id = life.submit(reviews)
    life.until_stage(run_id, JobStage.ENDED)
    service.faults(http_drop={"route": "*"})
    began = clock()
    life.until(run_id, lambda run: clock() - began > 1000)
    service.clear_faults()
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    assert service.rows_paid(run_id) == 12


def test_one_bad_answer_after_a_long_sleep_gives_nothing_up(
    life: Life, service: Service, reviews: Any, clock: Clock
) -> None:
    """The time limit needs failures, not only hours."""
    run_id = life.submit(reviews, retries=0)
    life.until_stage(run_id, JobStage.ENDED)
    clock.now += 8 * 3600
    service.faults(http_status={"route": "files.content", "times": 1, "status": 502})
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)


# -- answers of earlier runs ----------------------------------------------------------------


def test_rows_sorted_dropped_added_and_edited_pay_for_the_new_ones_alone(
    life: Life, service: Service, reviews: Any
) -> None:
    """What is the same is the request: order, index and position do not matter."""
    first = life.submit(reviews)
    life.until_ended(first)
    added = pd.DataFrame({"text": ["a new one"], "stars": [0]}, index=[77])
    changed = pd.concat([reviews.iloc[::-1].drop(columns=[]).iloc[2:], added])
    changed.iloc[0, 0] = "edited since"
    again = life.submit(changed)
    life.until_ended(again)
    assert_right(life.result(again), changed)
    assert service.rows_paid(again) == 2


def test_a_run_of_known_rows_ends_without_a_call(
    lives: Lives, life: Life, service: Service, reviews: Any
) -> None:
    """All answers are there already: nothing is sent, not even a question."""
    first = life.submit(reviews)
    life.until_ended(first)
    before = service.calls()
    again = life.submit(reviews.iloc[::-1], name="other")
    run = life.until_ended(again)
    assert run.jobs == ()
    assert_right(life.result(again), reviews.iloc[::-1])
    assert {k: n for k, n in (service.calls() - before).items() if k != "sandbox"} == {}


def test_answers_survive_through_runs_that_were_answered_by_others(
    life: Life, service: Service, reviews: Any
) -> None:
    """A third run takes over what the second had taken over from the first."""
    ids = []
    for n in (4, 8, 12):
        ids.append(life.submit(reviews.head(n)))
        life.until_ended(ids[-1])
    assert_right(life.result(ids[-1]), reviews)
    assert service.rows_paid(*ids) == 12


def test_fresh_pays_again(life: Life, service: Service, reviews: Any) -> None:
    """`--fresh` is the way to pay again, and the only one."""
    first = life.submit(reviews)
    life.until_ended(first)
    again = life.submit(reviews, fresh=True)
    life.until_ended(again)
    assert service.rows_paid(again) == 12


def test_failed_rows_are_not_kept_for_later_runs(
    life: Life, service: Service, reviews: Any
) -> None:
    """Rows without an answer are sent again by the same cell, and they alone."""
    service.faults(row_status={"status": 400, "every": 4})
    first = life.submit(reviews)
    life.until_ended(first)
    service.clear_faults()
    again = life.submit(reviews)
    life.until_ended(again)
    assert_right(life.result(again), reviews)
    assert service.rows_paid(again) == 3


def test_rows_in_flight_are_held_and_taken_over(life: Life, service: Service, reviews: Any) -> None:
    """A run that overlaps one in flight waits for its answers and sends only its own rows."""
    first = life.submit(reviews.head(8))
    life.until_stage(first, JobStage.RUNNING)
    second = life.submit(reviews, name="wider")
    assert life.run(second).lenders == (first,)
    life.until_ended(second)
    assert_right(life.result(second), reviews)
    assert service.rows_paid(first) == 8
    assert service.rows_paid(second) == 4


def test_held_rows_are_sent_when_their_lender_was_cancelled(
    life: Life, service: Service, reviews: Any
) -> None:
    """Rows that the earlier run did not get answered are sent by the later one."""
    service.faults(validating_s=1e6)
    first = life.submit(reviews.head(8))
    life.until_stage(first, JobStage.RUNNING)
    second = life.submit(reviews, name="wider")
    service.clear_faults()
    life.journal.ask_cancel(first, life.clock())
    life.until_ended(second)
    assert_right(life.result(second), reviews)
    assert service.rows_paid(first, second) == 12


def test_rows_held_for_a_run_that_is_cancelled_are_still_waited_for(
    life: Life, service: Service, reviews: Any
) -> None:
    """The second holds what the first has in flight; the third must wait for the first, too."""
    service.faults(in_progress_s=10**6)
    first = life.submit(reviews.head(8))
    life.until_stage(first, JobStage.RUNNING)
    second = life.submit(reviews, name="second")
    third = life.submit(reviews[::-1], name="third")
    life.journal.ask_cancel(second, life.clock())
    life.until(second, lambda run: run.ending is Ending.CANCELLED)
    for _ in range(5):
        life.step()
    service.clear_faults()
    service.advance(10**6)
    life.until_ended(third)
    assert_right(life.result(third), reviews[::-1])
    assert service.rows_paid(first, second, third) == len(reviews)


def test_rows_that_failed_in_the_lender_are_sent(
    life: Life, service: Service, reviews: Any
) -> None:
    """A lender that ended with failures lends what it has."""
    service.faults(row_status={"status": 400, "every": 2})
    first = life.submit(reviews)
    life.until_stage(first, JobStage.RUNNING)
    service.clear_faults()
    second = life.submit(reviews, name="other")
    life.until_ended(second)
    assert_right(life.result(second), reviews)
    assert service.rows_paid(first, second) == 12


def test_a_stopped_lender_stops_the_run_that_waits_and_both_go_on(
    life: Life, service: Service, reviews: Any
) -> None:
    """Its jobs may be in flight all the same: sending the held rows would pay twice."""
    first = life.submit(reviews.head(8))
    life.until_stage(first, JobStage.RUNNING)
    second = life.submit(reviews.head(6), name="other")
    service.faults(http_status={"route": "*", "status": 401})
    run = life.until_ended(second)
    assert run.ending is Ending.STOPPED
    assert first in (run.fault or "")
    service.clear_faults()
    life.go_on(second)
    life.until_ended(second)
    assert_right(life.result(second), reviews.head(6))
    assert service.rows_paid(first, second) == 8


def test_a_stopped_lender_with_nothing_at_the_service_is_given_up(
    life: Life, service: Service, reviews: Any
) -> None:
    """A run that can never be sent must not hold rows that it shares with a mended frame."""
    service.faults(http_status={"route": "files.create", "status": 400})
    first = life.submit(reviews.head(8))
    assert life.until_ended(first).ending is Ending.STOPPED
    service.clear_faults()
    second = life.submit(reviews.tail(8), name="other")
    assert life.until_ended(second).ending is Ending.FINISHED
    assert_right(life.result(second), reviews.tail(8))
    assert life.until_ended(first).ending is Ending.CANCELLED
    assert service.rows_paid(first, second) == 8


def test_a_waiting_run_can_be_cancelled_at_once(life: Life, service: Service, reviews: Any) -> None:
    """A cancel does not wait a day for another run's answers, and leaves that one alone."""
    service.faults(validating_s=1e6)
    first = life.submit(reviews.head(8))
    life.until_stage(first, JobStage.RUNNING)
    second = life.submit(reviews.head(6), name="other")
    life.journal.ask_cancel(second, life.clock())
    assert life.until_ended(second).counts == {RowStatus.CANCELLED: 6}
    assert life.run(first).ending is None
    assert service.batches(second) == []


def test_an_identical_run_is_known_until_it_is_cancelled(life: Life, reviews: Any) -> None:
    """The same cell attaches to the run in flight; one on its way out is no help."""
    run_id = life.submit(reviews)
    identity = life.run(run_id).identity
    assert life.journal.find_identical(identity) == run_id
    life.journal.ask_cancel(run_id, life.clock())
    assert life.journal.find_identical(identity) is None


FILES = ["frame.parquet", "twins.npy", "unsent.arrow", "shard-00000.npy", "kept-00000.jsonl"]
RESULTS = ["job-00000.output.jsonl", "job-00000.error.jsonl", "kept-00000.npy"]


@pytest.mark.parametrize("name", FILES + RESULTS)
def test_a_damaged_file_is_named_and_never_believed(
    life: Life, service: Service, reviews: Any, name: str
) -> None:
    """One flipped bit could put an answer on the wrong row."""
    service.faults(row_status={"status": 400, "every": 3})
    life.until_ended(life.submit(reviews.head(6)))
    run_id = life.submit(pd.concat([reviews, reviews.head(2)]))
    life.until_ended(run_id)
    path = life.home.run_folder(run_id).path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalError, match=re.escape(name)):
        life.result(run_id)


@pytest.mark.parametrize("name", ["job-00000", "kept-00000"])
def test_a_damaged_outcomes_file_is_made_again(life: Life, reviews: Any, name: str) -> None:
    """It is made from raw files, which are the truth."""
    life.until_ended(life.submit(reviews.head(6)))
    run_id = life.submit(reviews)
    life.until_ended(run_id)
    path = life.home.run_folder(run_id).path / f"{name}.arrow"
    path.write_bytes(path.read_bytes().replace(b"review", b"reveiw"))
    assert_right(life.result(run_id), reviews)


def test_changed_result_files_of_an_earlier_run_are_refused(life: Life, reviews: Any) -> None:
    """A stranger's edit must not leave rows without an outcome."""
    first = life.submit(reviews)
    life.until_ended(first)
    path = life.home.run_folder(first).result_path(0, "output")
    path.write_bytes(b"#" * path.stat().st_size)
    with pytest.raises(JournalError, match="damaged or changed"):
        life.submit(reviews)


def test_deleted_result_files_of_an_earlier_run_are_no_obstacle(
    life: Life, service: Service, reviews: Any
) -> None:
    """Answers that are gone are asked for again."""
    first = life.submit(reviews)
    life.until_ended(first)
    life.home.run_folder(first).result_path(0, "output").unlink()
    again = life.submit(reviews)
    life.until_ended(again)
    assert_right(life.result(again), reviews)


# -- two engines, and clocks ----------------------------------------------------------------


def test_two_engines_on_one_home_create_each_job_once(
    lives: Lives, service: Service, reviews: Any
) -> None:
    """One at a time drives a run; the other shows what it writes."""
    one, two = lives(), lives()
    run_id = one.submit(reviews, max_rows_per_job=3)
    two.engine.drive(run_id)
    while one.run(run_id).ending is None:
        two.step()
        one.step()
    assert_right(two.result(run_id), reviews)
    assert_created_once(service, one, run_id)


def test_an_engine_that_slept_cannot_write_and_the_other_goes_on(
    lives: Lives, service: Service, reviews: Any, clock: Clock
) -> None:
    """After its lease has run out another kernel drives the run; the sleeper only watches."""
    one, two = lives(), lives()
    run_id = one.submit(reviews)
    one.until_stage(run_id, JobStage.RUNNING)
    clock.now += 3600
    two.engine.drive(run_id)
    two.step()
    one.step()
    assert one.run(run_id) == two.run(run_id)
    two.until_ended(run_id)
    assert_right(two.result(run_id), reviews)
    assert_created_once(service, two, run_id)


class _Overtaken(Journal):
    """A journal whose reader is overtaken: something happens just before it takes a lease."""

    before: Callable[[], object] | None = None

    def take_lease(self, run_id: str, owner: str, now: float) -> bool:
        if self.before is not None:
            happens, self.before = self.before, None
            with ThreadPoolExecutor(1) as pool:  # a loop is running in this thread
                pool.submit(happens).result()
        return super().take_lease(run_id, owner, now)


def test_a_run_that_ended_before_its_lease_was_taken_is_not_worked_at_again(
    lives: Lives, service: Service, reviews: Any
) -> None:
    """What was read before the lease is the past: another kernel has sent it all since."""
    one, two = lives(), lives()
    run_id = one.submit(reviews)
    two.journal = journal = _Overtaken(two.home.journal_path)
    two.engine = two._new_engine()
    two.engine.drive(run_id)
    journal.before = lambda: one.until_ended(run_id)
    two.step()
    assert two.run(run_id).ending is Ending.FINISHED
    assert_created_once(service, two, run_id)
    assert len([event for _, _, event in journal.history(run_id) if "uploading" in event]) == 1


def test_a_slow_upload_keeps_its_lease_and_holds_up_no_other_run(
    lives: Lives, service: Service, reviews: Any, clock: Clock
) -> None:
    """Runs have nothing to do with each other's uploads."""
    life = lives()
    quick = life.submit(reviews.head(3), name="quick")
    life.until_stage(quick, JobStage.RUNNING)
    service.faults(http_delay={"route": "files.create", "times": 1, "delay_s": 2})
    slow = life.submit(reviews.tail(5), name="slow")
    life.until_ended(quick)
    assert life.job(slow).stage is JobStage.UPLOADING
    life.until_ended(slow)
    assert_right(life.result(slow), reviews.tail(5))


def test_a_clock_set_back_does_not_halt_a_run(
    life: Life, service: Service, reviews: Any, clock: Clock
) -> None:
    """What was due "tomorrow" by a clock since put right is due now."""
    clock.now += 24 * 3600
    run_id = life.submit(reviews)
    life.until_stage(run_id, JobStage.RUNNING)
    clock.now -= 24 * 3600
    began = clock()
    life.until_ended(run_id)
    assert clock() - began < 1000
    assert_right(life.result(run_id), reviews)


def test_a_stray_run_folder_is_harmless(life: Life, reviews: Any, tmp_path: Path) -> None:
    """A submit that died before its commit leaves a folder, no run."""
    (tmp_path / "home" / "runs" / "run-stray").mkdir()
    run_id = life.submit(reviews)
    life.until_ended(run_id)


def test_a_host_that_keeps_no_metadata_is_searched_by_input_file(
    life: Life, service: Service, reviews: Any
) -> None:
    """Without the token the file tells; a job of this run that is known already is another."""
    run_id = life.submit(reviews)
    run = life.until_ended(run_id)
    (job,) = run.jobs
    assert job.remote is not None
    bare = replace(job.remote, metadata={})
    assert not engine._is_ours(bare, job, run)
    assert engine._is_ours(replace(bare, batch_id="batch_new"), job, run)
    assert not engine._is_ours(replace(bare, batch_id="x", input_file_id="file-x"), job, run)
    other = replace(job.remote, metadata={engine.METADATA_TOKEN: "other"})
    assert not engine._is_ours(replace(other, batch_id="batch_new"), job, run)


def test_half_a_surrogate_pair_harms_no_other_row(life: Life, service: Service) -> None:
    """No UTF-8 can hold it, JSON can: it goes out as an escape, and its neighbours with it."""
    texts = ["\ud800 alone", "good 1", "good \udc00 2", "good 3"]
    asked = pd.DataFrame({"text": pd.Series(texts, dtype=object)})
    run_id = life.submit(asked)
    assert life.until_ended(run_id).counts == {RowStatus.OK: 4}
    frame = life.result(run_id)
    assert frame["answer"].tolist()[1::2] == [stub_answer(text) for text in texts[1::2]]
    assert frame["text"].tolist() == texts


@pytest.mark.parametrize("harm", ["gone", "empty", "flipped"])
def test_a_lost_list_of_answers_is_made_again(
    life: Life, service: Service, reviews: Any, harm: str
) -> None:
    """The raw files are there: nothing is paid again for want of an index."""
    first = life.submit(reviews)
    life.until_ended(first)
    path = life.home.run_folder(first).path / "answered.npy"
    data = bytearray(path.read_bytes())
    data[9] ^= 1
    path.write_bytes(data if harm == "flipped" else b"")
    if harm == "gone":
        path.unlink()
    again = life.submit(reviews[::-1])
    life.until_ended(again)
    assert_right(life.result(again), reviews[::-1])
    assert service.rows_paid(first, again) == len(reviews)


def test_a_shard_cut_before_a_retry_stops_the_run_and_says_so(
    life: Life, service: Service, reviews: Any
) -> None:
    """An engine that stumbles over it for ever would never say anything."""
    service.faults(row_status={"status": 500, "every": 3})
    run_id = life.submit(reviews)
    life.until_stage(run_id, JobStage.RUNNING)
    path = life.home.run_folder(run_id).shard_path(0)
    path.write_bytes(path.read_bytes()[:-20])
    run = life.until_ended(run_id)
    assert run.ending is Ending.STOPPED
    assert "cut or changed" in (run.fault or "")
