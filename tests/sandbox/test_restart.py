"""What survives the end of a server, gentle or not."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from .conftest import Sandbox, ids, jsonl, lines, rows, submit, wait, wait_until


def test_killed_server_goes_on_where_it_stopped(start: Callable[..., Sandbox]) -> None:
    """After kill -9 a batch ends with every row once, and no row is answered again."""
    sandbox = start(scale=1)
    client = sandbox.client(max_retries=2)
    batch = submit(client, rows(400), validating_s=0, in_progress_s=2, finalizing_s=0)
    wait_until(lambda: sandbox.truth(batch.id)["rows_answered"] > 100)
    sandbox.kill()
    recorded = (sandbox.home / "runs" / f"{batch.id}.rows").read_bytes().count(b"\n")
    assert 100 < recorded < 400
    first_url = sandbox.url
    sandbox.start()
    assert sandbox.url == first_url
    done = wait(client, batch)
    assert sorted(ids(lines(client, done.output_file_id))) == sorted(f"r{at}" for at in range(400))
    assert sandbox.truth(batch.id)["rows_answered"] == 400


def test_torn_record_is_cut_not_trusted(start: Callable[..., Sandbox]) -> None:
    """A line that was being written when the server died is answered anew, once."""
    sandbox = start(scale=1)
    client = sandbox.client()
    batch = submit(client, rows(10), validating_s=0, stall_after_share=0.5)
    wait_until(lambda: sandbox.truth(batch.id)["rows_answered"] == 5)
    sandbox.kill()
    record = sandbox.home / "runs" / f"{batch.id}.rows"
    record.write_bytes(record.read_bytes()[:-20])
    sandbox.start()
    wait_until(lambda: record.read_bytes().count(b"\n") == 5)
    sandbox.advance(86_401)
    batch = wait(client, batch)
    assert len(lines(client, batch.output_file_id)) == 5
    assert len(lines(client, batch.error_file_id)) == 5


@pytest.mark.parametrize("state", ["validating", "finalizing", "cancelling"])
def test_restart_in_any_state_reaches_the_end(start: Callable[..., Sandbox], state: str) -> None:
    """Every status is a place to go on from."""
    sandbox = start()
    client = sandbox.client()
    batch = submit(client, rows(5), **{f"{state}_s": 10**5})
    if state == "cancelling":
        client.batches.cancel(batch.id)
    wait(client, batch, state)
    sandbox.kill()
    sandbox.start()
    assert client.batches.retrieve(batch.id).status == state
    sandbox.advance(400)
    ended = wait(client, batch)
    assert ended.status == ("cancelled" if state == "cancelling" else "completed")


def test_files_clock_and_faults_survive(start: Callable[..., Sandbox]) -> None:
    """Files, the clock's offset and the general faults are kept on disk."""
    sandbox = start()
    client = sandbox.client()
    batch = wait(client, submit(client, rows(3)))
    before = client.files.content(batch.output_file_id or "").content
    sandbox.advance(5000)
    sandbox.faults(counts_null=True)
    assert sandbox.end() == 0
    sandbox.start()
    assert client.files.content(batch.output_file_id or "").content == before
    status = sandbox.control("status")
    assert status["clock"]["offset_s"] == 5000
    assert status["faults"] == {"counts_null": True}
    assert submit(client, rows(1)).request_counts is None


def test_gentle_end_does_not_lose_rows(start: Callable[..., Sandbox]) -> None:
    """SIGTERM in the midst of a batch ends with code 0 and a record that can be read."""
    sandbox = start(scale=1)
    client = sandbox.client()
    batch = submit(client, rows(300), validating_s=0, in_progress_s=1, finalizing_s=0)
    wait_until(lambda: sandbox.truth(batch.id)["rows_answered"] > 50)
    assert sandbox.end() == 0
    sandbox.start()
    assert len(lines(client, wait(client, batch).output_file_id)) == 300


def test_second_server_of_a_home_leaves_with_one_line(own: Sandbox) -> None:
    """Two servers on one store would answer rows twice."""
    again = subprocess.run(
        [sys.executable, "-m", "batch_magic.sandbox", "--home", str(own.home)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    assert own.url in again.stderr


def test_idle_server_leaves_by_itself(start: Callable[..., Sandbox]) -> None:
    """A server nobody uses must not stay for ever; one with a running batch must."""
    sandbox = start("--idle-exit-s", "0.4", scale=1)
    batch = submit(sandbox.client(), rows(2), validating_s=1.2, in_progress_s=0, finalizing_s=0)
    assert sandbox.process.wait(10) == 0
    sandbox.start()
    assert sandbox.client().batches.retrieve(batch.id).status == "completed"


def test_home_is_private(own: Sandbox) -> None:
    """Prompts and answers lie there: only the owner may look."""
    wait(own.client(), submit(own.client(), rows(2)))
    assert own.home.stat().st_mode & 0o777 == 0o700
    loose = [
        path for path in own.home.rglob("*") if path.stat().st_mode & 0o077 and not path.is_dir()
    ]
    assert loose == []


def test_ended_batch_leaves_no_working_files(own: Sandbox) -> None:
    """Only the files a client can see stay on disk."""
    client = own.client()
    batch = wait(client, submit(client, rows(3), row_status={"status": 500, "share": 0.4}))
    kept = {batch.input_file_id, batch.output_file_id, batch.error_file_id}
    wait_until(lambda: not list((own.home / "runs").iterdir()))
    assert {path.name for path in (own.home / "files").iterdir()} == kept


def test_expired_bytes_are_swept_at_the_next_start(own: Sandbox) -> None:
    """Retention must free the disk; so must what a kill left half-done."""
    client = own.client()
    client.files.create(file=("a.jsonl", jsonl(rows(1))), purpose="batch")
    own.advance(31 * 86_400)
    own.kill()
    (own.home / "files" / "file-orphan").write_bytes(b"x")
    (own.home / "incoming" / "half").write_bytes(b"x")
    own.start()
    left = [*(own.home / "files").iterdir(), *(own.home / "incoming").iterdir()]
    assert left == []
