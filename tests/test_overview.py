"""Runs side by side: what is not known is null and told of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from drafts import NOW, asking

from batch_magic.overview import cost_frame, cost_words, runs_frame
from batch_magic.picture import snapshot
from batch_magic.records import (
    Cost,
    Ending,
    Job,
    JobStage,
    RemoteJob,
    RowStatus,
    Snapshot,
    Spent,
    Usage,
)


def job(**facts: Any) -> Job:
    known: dict[str, Any] = {"stage": JobStage.COLLECTED, "batch_id": "b"}
    given = {"number": 0, "shard": 0, "round": 0, "rows": 10, "bytes": 99, "token": "t"}
    return Job(**(given | known | facts))


def ended(*jobs: Job, ending: Ending = Ending.FINISHED) -> Snapshot:
    return snapshot(replace(asking(), jobs=jobs, ending=ending, ended_at=NOW), NOW)


TEN_OK = {"counts": {RowStatus.OK: 10}, "remote": RemoteJob("b", "completed", completed=10)}


@pytest.mark.parametrize(
    "made",
    [
        job(**TEN_OK),
        job(stage=JobStage.RUNNING, remote=RemoteJob("b", "in_progress")),
        job(stage=JobStage.CREATING),
        job(stage=JobStage.RUNNING, is_live=True, remote=RemoteJob("", "", completed=3)),
    ],
)
def test_answers_that_nobody_counted_are_not_free(made: Job) -> None:
    """A run that has stopped may have cost something: null, and said, never $0.00."""
    s = ended(made, ending=Ending.STOPPED)
    assert cost_frame([s])["cost_usd"].isna().all()
    assert cost_words([s]) == "paid: $0.00 for 0 runs; the price of 1 more run is not known"


@pytest.mark.parametrize(
    "unsent",
    [
        job(batch_id=None, counts={RowStatus.CANCELLED: 10}),
        job(counts={RowStatus.FAILED: 10}, remote=RemoteJob("b", "failed")),
        job(stage=JobStage.PLANNED, batch_id=None),
        job(stage=JobStage.RUNNING, is_live=True, remote=RemoteJob("", "")),
    ],
)
def test_what_brought_no_answer_cost_nothing(unsent: Job) -> None:
    """Nothing was made, nothing is billed."""
    assert cost_frame([ended(unsent)])["cost_usd"].tolist() == [0.0]


def test_answers_without_tokens_are_told_of() -> None:
    """The sum is of those that say what they took; how many do not is said beside it."""
    told = {"usage": Usage(9, 0, 3, 0), "cost": Cost(0.5, 1.0), "spent": Spent(6, 60, 9, 3)}
    s = ended(job(**TEN_OK, **told))
    assert cost_frame([s])["cost_usd"].tolist() == [0.5]
    assert cost_words([s]) == "paid: $0.50 for 1 run; 4 answers without a count of tokens not in it"


def test_no_runs_are_a_frame_of_no_rows() -> None:
    """With its columns, so that what is done with it goes on."""
    assert list(cost_frame([]).columns)[:3] == ["name", "day", "model"]
    assert list(runs_frame([]).columns)[:3] == ["name", "run_id", "state"]
