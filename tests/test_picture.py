"""How long a run takes, as a person is told: queue and work apart, and what is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from drafts import NOW, run_of

from batch_magic.card import time_words
from batch_magic.picture import pace_of, snapshot
from batch_magic.records import (
    Ending,
    Job,
    JobStage,
    Pace,
    RemoteJob,
    RunRecord,
)

MINUTE_S = 60.0


def job(**facts: Any) -> Job:
    known = {"stage": JobStage.RUNNING, "intended_at": NOW, "remote": RemoteJob("b", "in_progress")}
    given = {"number": 0, "shard": 0, "round": 0, "rows": 100, "bytes": 9, "token": "t"}
    return Job(**{**given, **known, **facts})


def earlier(queue_s: float, work_s: float, **facts: Any) -> RunRecord:
    done = job(
        stage=JobStage.COLLECTED,
        began_at=NOW + queue_s,
        ended_at=NOW + queue_s + work_s,
        remote=RemoteJob("b", "completed"),
    )
    return run_of(replace(done, **facts), ending=Ending.FINISHED)


def test_earlier_jobs_tell_how_long_one_takes() -> None:
    """Of a few, the one in the middle: a single night in the queue says nothing."""
    runs = [earlier(60, 600), earlier(120, 900), earlier(30_000, 40_000)]
    assert pace_of(runs, run_of(job())) == Pace(120, 900, 3)


@pytest.mark.parametrize(
    "facts",
    [
        {"rows": 50_000},
        {"is_live": True},
        {"is_replaced": True},
        {"remote": RemoteJob("b", "expired")},
        {"began_at": None},
    ],
)
def test_jobs_of_another_kind_tell_nothing(facts: dict[str, Any]) -> None:
    """Other sizes, other lanes and jobs that came to nothing are no measure."""
    assert pace_of([earlier(60, 600, **facts)], run_of(job())) is None


def test_time_to_go_comes_from_earlier_runs_until_this_one_has_a_pace() -> None:
    """In the queue: what is left of it and the work; then the work; then its own pace."""
    pace = Pace(10 * MINUTE_S, 20 * MINUTE_S, 4)
    queued = snapshot(run_of(job()), NOW + 4 * MINUTE_S, pace=pace)
    assert (queued.eta_s, queued.eta_basis) == (26 * MINUTE_S, "as 4 jobs before")
    began = job(began_at=NOW + 5 * MINUTE_S)
    at_work = snapshot(run_of(began), NOW + 10 * MINUTE_S, pace=pace)
    assert at_work.eta_s == 15 * MINUTE_S
    half = replace(began, remote=RemoteJob("b", "in_progress", completed=50))
    own = snapshot(run_of(half), NOW + 10 * MINUTE_S, pace=pace)
    assert (own.eta_s, own.eta_basis) == (5 * MINUTE_S, "")


def test_longer_than_ever_before_is_no_time_to_go() -> None:
    """A guess that has passed is not told for ever."""
    late = snapshot(run_of(job(began_at=NOW)), NOW + 3600, pace=Pace(1, 600, 2))
    assert late.eta_s is None


def test_queue_and_work_are_told_apart() -> None:
    """Where the time went is what a person may change."""
    began = job(began_at=NOW + 5 * MINUTE_S)
    drawn = snapshot(run_of(began), NOW + 12 * MINUTE_S)
    assert (drawn.queue_s, drawn.work_s) == (5 * MINUTE_S, 7 * MINUTE_S)
    assert "queued 5 min 00 s, at work 7 min 00 s" in time_words(drawn)
    over = earlier(60, 600)
    assert "queued 1 min 00 s, at work 10 min 00 s" in time_words(snapshot(over, NOW + 9_999))


def test_what_took_but_a_moment_is_not_told() -> None:
    """And a live run has no queue."""
    quick = snapshot(earlier(1, 2), NOW + 9_999)
    assert not [words for words in time_words(quick) if "queued" in words]
    live = job(is_live=True, began_at=NOW)
    assert snapshot(run_of(live), NOW + 100).queue_s is None
