"""What result files say of a run's rows: read from real files, one outcome per row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_folder import lines_for, write_shards
from test_lifecycle import job, remote, run_of

from batch_magic import outcomes, resending, settling
from batch_magic.folder import Home, RunFolder
from batch_magic.records import Job, JobFault, JobStage, RowStatus, RunRecord

ROWS = 5


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = Home(tmp_path / "home").run_folder("run-1")
    folder.create()
    folder.write_twins([])
    folder.write_unsent([])
    return folder


@pytest.fixture
def run(folder: RunFolder) -> RunRecord:
    shards = write_shards(folder, lines_for([f"text {n}" for n in range(ROWS)]))
    return replace(run_of(job()), run_id="run-1", rows=ROWS, shards=tuple(shards))


def answer(custom_id: str, text: str = "fine", status: int = 200) -> str:
    body: dict[str, Any] = {
        "model": "m-1",
        "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    if status != 200:
        body = {"error": {"message": "no", "code": "c", "type": "t", "param": None}}
    response = {"status_code": status, "request_id": "q", "body": body}
    return json.dumps({"id": "b", "custom_id": custom_id, "response": response, "error": None})


def unanswered(custom_id: str, code: str) -> str:
    error = {"code": code, "message": "This request could not be executed."}
    return json.dumps({"id": "b", "custom_id": custom_id, "response": None, "error": error})


def collect(
    folder: RunFolder, run: RunRecord, output: list[str], errors: list[str], **facts: Any
) -> RunRecord:
    """Put result files down as downloaded, and read them as a collected job's."""
    for kind, lines in (("output", output), ("error", errors)):
        if lines:
            folder.result_path(0, kind).write_text("\n".join(lines) + "\n", encoding="utf-8")
    folder.scan_job(0, run.run_id)
    facts.setdefault("remote", remote("completed"))
    return replace(run, jobs=(job(JobStage.COLLECTED, **facts),))


def statuses(folder: RunFolder, run: RunRecord) -> list[RowStatus]:
    return [RowStatus(s) for s in outcomes.resolve_run(folder, run).resolution.statuses]


def test_rows_of_both_files_come_together(folder: RunFolder, run: RunRecord) -> None:
    """Successes in one file, failures in the other, in any order; the rest is missing."""
    run = collect(
        folder,
        run,
        [answer("run-1-3"), answer("run-1-0")],
        [unanswered("run-1-4", "batch_expired"), answer("run-1-1", status=429)],
    )
    assert statuses(folder, run) == [
        RowStatus.OK,
        RowStatus.FAILED,
        RowStatus.MISSING,
        RowStatus.OK,
        RowStatus.EXPIRED,
    ]
    count = outcomes.count_job(folder, run, run.jobs[0])
    assert count.retryable == 3
    assert sum(count.counts.values()) == ROWS


def test_lines_that_name_no_row_of_the_job_are_passed_over(
    folder: RunFolder, run: RunRecord
) -> None:
    """Another run's rows, rows beyond the frame, rows of no shard, and no lines at all."""
    run = collect(
        folder,
        run,
        [
            answer("run-2-0", "not ours"),
            answer("run-1-99", "beyond"),
            answer("run-1--1", "before"),
            answer("run-1-007", "no name of ours"),
            "{half a li",
            '{"custom_id": 5}',
            "[]",
            "",
            answer("run-1-2", "two halves joined\u2028by a separator"),
        ],
        [],
    )
    resolved = outcomes.resolve_run(folder, run)
    assert statuses(folder, run).count(RowStatus.OK) == 1
    assert resolved.resolution.statuses[2] == RowStatus.OK
    scan = folder.scan_job(0, "run-1")
    assert scan.foreign >= 1
    assert scan.malformed == (5, 6, 7)


def test_a_row_of_another_job_is_not_taken_from_this_one(folder: RunFolder, run: RunRecord) -> None:
    """A job answers for its own rows alone."""
    for path in folder.path.glob("shard-*"):
        path.unlink()
    first, second = write_shards(
        folder, lines_for([f"text {n}" for n in range(ROWS)]), max_rows_per_job=3
    )
    run = replace(run, shards=(first, second))
    run = collect(folder, run, [answer("run-1-0"), answer("run-1-4")], [])
    assert statuses(folder, run)[4] is RowStatus.PENDING


def test_a_row_named_twice_keeps_its_first_success(folder: RunFolder, run: RunRecord) -> None:
    """In one file or in both: the first 2xx wins."""
    run = collect(
        folder,
        run,
        [answer("run-1-0", "first"), answer("run-1-0", "second")],
        [answer("run-1-0", status=500)],
    )
    resolved = outcomes.resolve_run(folder, run)
    entry = int(resolved.resolution.entry[0])
    assert resolved.tables[-1].table["text"][entry].as_py() == b"first"


def test_a_refused_job_fails_its_rows_and_names_the_lines(
    folder: RunFolder, run: RunRecord
) -> None:
    """Validation errors are mapped by their line, never by their place in the list."""
    faults = (JobFault("invalid_url", "no", None, 4), JobFault("x", "y", None, 99))
    run = collect(folder, run, [], [], remote=remote("failed", faults=faults))
    resolved = outcomes.resolve_run(folder, run)
    assert set(statuses(folder, run)) == {RowStatus.FAILED}
    said = [resolved.notes[n] for n in resolved.resolution.notes]
    assert said[3].startswith("invalid_url: no (line 4 of its job); mend the row")
    assert said[0] == "its job was refused: invalid_url: no"
    assert not resolved.resolution.retryable.any()


def test_a_job_that_never_was_leaves_its_rows_cancelled(folder: RunFolder, run: RunRecord) -> None:
    """Cancelled before it was sent."""
    run = collect(folder, run, [], [], remote=None)
    assert set(statuses(folder, run)) == {RowStatus.CANCELLED}


def test_rows_of_an_open_job_are_pending_again(folder: RunFolder, run: RunRecord) -> None:
    """A job put in another's place has the word, from the moment that it is planned."""
    run = collect(folder, run, [], [], remote=remote("failed"))
    again: Job = replace(job(), number=1)
    assert set(statuses(folder, replace(run, jobs=(*run.jobs, again)))) == {RowStatus.PENDING}


def test_lines_sent_again_are_the_same_bytes(folder: RunFolder, run: RunRecord) -> None:
    """Same custom_id, same body; only rows that may pass, each once."""
    run = collect(folder, run, [answer("run-1-0")], [answer("run-1-3", status=503)])
    (shard,), _ = resending.resend(folder, run, 1)
    assert shard.round == 1
    assert folder.manifest(shard)["position"].tolist() == [1, 2, 3, 4]
    before = folder.shard_path(0).read_bytes().splitlines()
    assert folder.shard_path(shard.number).read_bytes().splitlines() == before[1:]
    again = replace(run, shards=(*run.shards, shard))
    (second,), _ = resending.resend(folder, again, 2)
    assert folder.manifest(second)["position"].tolist() == [1, 2, 3, 4]


def test_settling_writes_down_where_each_paid_answer_is(folder: RunFolder, run: RunRecord) -> None:
    """And only the paid ones: a failure is nothing to take over."""
    run = collect(folder, run, [answer("run-1-2")], [answer("run-1-3", status=400)])
    settled = settling.settle(folder, run)
    assert settled.counts == {RowStatus.OK: 1, RowStatus.FAILED: 1, RowStatus.MISSING: 3}
    assert settled.complaint is not None
    assert settled.complaint.startswith("3 of 4 rows without a good answer: in neither")
    names = ("answered.npy", "answered.json")
    answers = RunFolder(folder.path, folder.hashes(*names)).answered()
    assert answers is not None
    digests = resending.in_flight(folder, run)
    found = answers.find(digests)
    assert np.flatnonzero(found >= 0).tolist() == [2]
    (line,) = answers.lines([int(found[2])])
    assert json.loads(line)["custom_id"] == "run-1-2"
