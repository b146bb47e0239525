"""The journal on a real disk: what is written stays, who may write, and how it fails."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from drafts import NOW, asking, run_of
from hypothesis import given
from hypothesis import strategies as st
from test_lifecycle import job, remote

from batch_magic import progress
from batch_magic.errors import JournalError
from batch_magic.folder import Home
from batch_magic.journal import LEASE_S, Journal, LeaseLost, Outdated, _explain
from batch_magic.picture import snapshot
from batch_magic.records import (
    Ending,
    Job,
    JobFault,
    JobStage,
    Pause,
    RowStatus,
    RunRecord,
    Shard,
    Usage,
)
from batch_magic.schema import insert_jobs


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db")
    yield journal
    journal.close()


def add(journal: Journal, run: RunRecord, *, owner: str = "me") -> RunRecord:
    kin = journal.kin(run.backend.identity, run.request.model)
    journal.add_run(run, owner=owner, now=NOW, kin=kin)
    return run


def two_jobs(**facts: object) -> RunRecord:
    shards = (Shard(0, 6, 60, "sha-0"), Shard(1, 4, 40, "sha-1"), Shard(2, 1, 9, "s", held=True))
    jobs = (job(), replace(job(), number=1, shard=1, token="u"))
    return replace(run_of(*jobs), shards=shards, **facts)  # type: ignore[arg-type]


def test_a_run_is_read_back_as_it_was_written(journal: Journal) -> None:
    """Every field survives, and so does every field of its jobs."""
    full = replace(
        job(JobStage.COLLECTED),
        due_at=5.0,
        tries=2,
        attempt=3,
        file_id="file",
        batch_id="batch_1",
        intended_at=1.0,
        doubted_at=2.0,
        remote=remote("failed", faults=(JobFault("c", "m", "p", 7),), metadata={"k": "v"}),
        changed_at=3.0,
        ended_at=4.0,
        cancel_sent_at=6.0,
        counts={RowStatus.OK: 5, RowStatus.MISSING: 1},
        retryable=1,
        usage=Usage(1, 2, 3, 4),
        model="m-1",
        problem="p",
    )
    run = two_jobs(
        decided={RowStatus.SKIPPED: 2}, notes=("said",), unstored=("c",), twins=4, lenders=()
    )
    run = add(journal, replace(run, jobs=(full, run.jobs[1])))
    assert journal.run("r") == run
    assert Journal(journal.path).runs() == [run]


def test_a_run_is_found_by_name_id_and_batch(journal: Journal) -> None:
    """The newest of a name is meant."""
    add(journal, two_jobs(run_id="old"))
    add(journal, two_jobs(run_id="new", created_at=NOW + 1))
    journal.save_job("old", "me", replace(job(JobStage.RUNNING), batch_id="batch_7"), NOW, None)
    found = [journal.find(word) for word in ("labelled", "old", "batch_7", "nothing")]
    assert found == ["new", "old", "old", None]


def test_only_the_holder_of_the_lease_can_write(journal: Journal) -> None:
    """Whoever slept through its lease cannot write, and so cannot pay."""
    add(journal, two_jobs())
    assert not journal.take_lease("r", "other", NOW + 1)
    assert journal.take_lease("r", "other", NOW + LEASE_S + 1)
    for write in (
        lambda: journal.save_job("r", "me", job(JobStage.CREATING), NOW, "creating"),
        lambda: journal.end_run("r", "me", NOW, ending=Ending.FINISHED),
        lambda: journal.add_work("r", "me", NOW, event="more", jobs=(job(),)),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert journal.run("r") == two_jobs()


def test_a_lease_renewed_in_time_is_kept(journal: Journal) -> None:
    """A long upload keeps the run."""
    add(journal, two_jobs())
    assert journal.take_lease("r", "me", NOW + LEASE_S - 1)
    assert not journal.take_lease("r", "other", NOW + LEASE_S + 1)


def test_the_lease_of_a_dead_process_is_free_at_once(journal: Journal) -> None:
    """A restarted kernel need not wait for the old one's lease to run out."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    add(journal, two_jobs())
    with sqlite3.connect(journal.path) as db:
        db.execute("UPDATE leases SET pid = ?", (dead.pid,))
    assert journal.take_lease("r", "other", NOW + 1)


def test_a_process_on_another_machine_is_not_taken_for_dead(journal: Journal) -> None:
    """Process numbers of another host say nothing here."""
    add(journal, two_jobs())
    with sqlite3.connect(journal.path) as db:
        db.execute("UPDATE leases SET pid = 999999999, host = 'elsewhere'")
    assert not journal.take_lease("r", "other", NOW + 1)


def test_a_lease_from_the_future_does_not_lock_a_run_for_ever(journal: Journal) -> None:
    """A clock that was a day ahead and is put right."""
    add(journal, two_jobs())
    assert journal.take_lease("r", "me", NOW + 86_400)
    assert journal.take_lease("r", "other", NOW)


def test_a_lease_can_be_given_back(journal: Journal) -> None:
    """Another kernel need not wait for one that has closed; nobody gives back another's."""
    add(journal, two_jobs())
    journal.drop_lease("r", "other")
    assert not journal.take_lease("r", "other", NOW)
    journal.drop_lease("r", "me")
    assert journal.take_lease("r", "other", NOW)


def test_a_run_prepared_over_a_journal_that_has_moved_on_is_refused(journal: Journal) -> None:
    """Two cells at once: the second one sees the first before it is written down."""
    kin = journal.kin("https://api.openai.com/v1", "m")
    add(journal, two_jobs())
    with pytest.raises(Outdated):
        journal.add_run(two_jobs(run_id="late"), owner="me", now=NOW, kin=kin)
    assert [run.run_id for run in journal.runs()] == ["r"]


def test_jobs_added_at_once_get_numbers_of_their_own(journal: Journal) -> None:
    """A replacement and a take-over may come in the same breath, both thought of as number 2."""
    add(journal, two_jobs())
    closed = replace(job(JobStage.COLLECTED), problem="replaced")
    journal.add_work("r", "me", NOW, event="again", jobs=(job(),), closed=closed)
    taken = {RowStatus.OK: 1}
    journal.add_work("r", "me", NOW, event="took over", jobs=(job(),), settled=taken, repays=True)
    run = journal.run("r")
    assert [one.number for one in run.jobs] == [0, 1, 2, 3]
    assert run.jobs[0] == closed
    assert run.decided == {RowStatus.OK: 1}


def test_a_run_that_goes_on_again_is_not_forgotten(journal: Journal) -> None:
    """Somebody else retried it while the user was asked whether to delete it."""
    add(journal, two_jobs())
    journal.end_run("r", "me", NOW, ending=Ending.FINISHED, counts={RowStatus.FAILED: 10})
    journal.note_result("r", NOW)
    journal.ask_retry("r", [RowStatus.FAILED], NOW)
    assert not journal.has_result("r"), "its new answers are nobody's yet"
    with pytest.raises(JournalError, match="goes on again"):
        journal.forget("r")
    assert [run.run_id for run in journal.runs()] == ["r"]


def test_a_number_that_python_takes_for_one_is_read(journal: Journal) -> None:
    """An earlier version wrote `retries: false`; the whole home must not be lost for it."""
    add(journal, two_jobs())
    with sqlite3.connect(journal.path) as db:
        facts = json.loads(db.execute("SELECT facts FROM runs").fetchone()[0])
        facts["limits"]["retries"] = False
        db.execute("UPDATE runs SET facts = ?", (json.dumps(facts),))
    db.close()
    assert journal.run("r").limits.retries == 0


def test_a_stopped_run_goes_on_with_those_it_waits_for(journal: Journal) -> None:
    """Its fault was theirs; and a run that ended well is not reopened."""
    for run_id, lenders in (("a", ()), ("b", ("a",)), ("c", ("b",))):
        add(journal, two_jobs(run_id=run_id, lenders=lenders))
        journal.end_run(run_id, "me", NOW, ending=Ending.STOPPED, fault="no key")
    add(journal, two_jobs(run_id="done"))
    journal.end_run("done", "me", NOW, ending=Ending.FINISHED, counts={RowStatus.OK: 10})
    journal.reopen("c", NOW)
    journal.reopen("done", NOW)
    goes_on = [run.run_id for run in journal.runs() if run.ending is None]
    assert sorted(goes_on) == ["a", "b", "c"]
    assert journal.run("a").fault is None
    assert journal.run("done").counts == {RowStatus.OK: 10}


def test_a_cancel_can_be_asked_for_again_when_the_run_has_stopped(journal: Journal) -> None:
    """A cancel that a fault got in the way of is not the last one."""
    add(journal, two_jobs())
    for at in (NOW, NOW + 50):
        journal.ask_cancel("r", at)
        assert journal.run("r").cancel_at == NOW
        assert journal.run("r").ending is None
        journal.end_run("r", "me", at, ending=Ending.STOPPED, fault="no key")


def test_a_finished_run_is_not_cancelled(journal: Journal) -> None:
    """What has ended has ended."""
    add(journal, two_jobs())
    journal.end_run("r", "me", NOW, ending=Ending.FINISHED)
    journal.ask_cancel("r", NOW)
    assert journal.run("r").cancel_at is None


def test_the_history_tells_what_happened(journal: Journal) -> None:
    """In order, with the job and the time."""
    add(journal, two_jobs())
    journal.save_job("r", "me", job(JobStage.UPLOADING), NOW + 1, "uploading")
    journal.save_job("r", "me", job(JobStage.UPLOADING, tries=1), NOW + 2, None)
    assert journal.history("r") == [
        (NOW, None, "submitted 10 rows as 2 jobs"),
        (NOW + 1, 0, "uploading"),
    ]


# -- one clear line each --------------------------------------------------------------------


def test_a_journal_of_a_newer_version_is_left_alone(journal: Journal) -> None:
    """What it does not understand it does not touch."""
    with sqlite3.connect(journal.path) as db:
        db.execute("INSERT INTO migrations VALUES ('2031-01-01 something new')")
    with pytest.raises(JournalError, match="newer batch_magic"):
        Journal(journal.path)


@pytest.mark.parametrize("table", ["", "runs", "shards", "jobs", "history", "leases", "files"])
def test_a_process_that_a_newer_one_has_overtaken_goes_on(journal: Journal, table: str) -> None:
    """Two notebooks on one home, one of them upgraded: the other has the journal open still."""
    add(journal, two_jobs())
    sql = f"ALTER TABLE {table} ADD COLUMN price REAL" if table else "CREATE TABLE prices (a)"
    with sqlite3.connect(journal.path) as newer:
        newer.execute(sql)
        newer.execute("INSERT INTO migrations VALUES ('2031-01-01 prices')")
    newer.close()
    journal.save_job("r", "me", job(JobStage.CREATING), NOW, "creating", {"twins.npy": "0"})
    more, shard = replace(job(), token="more"), Shard(7, 5, 50, "0" * 64)
    journal.add_work("r", "me", NOW, event="more", shards=(shard,), jobs=(more,))
    journal.ask_cancel("r", NOW)
    assert journal.take_lease("r", "me", NOW)
    (run,) = journal.runs()
    assert [one.stage.value for one in run.jobs] == ["creating", "planned", "planned"]
    assert (run.shards[-1], run.files, run.cancel_at) == (shard, {"twins.npy": "0"}, NOW)
    assert len(journal.history("r")) == 4


def test_a_foreign_database_is_left_byte_for_byte(tmp_path: Path) -> None:
    """Somebody else's journal.db is neither used nor changed."""
    path = tmp_path / "journal.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE diary (day TEXT)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(JournalError, match="not batch_magic's"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_damaged_journal_is_said_to_be(tmp_path: Path) -> None:
    """The answers are in the run folders still."""
    path = tmp_path / "journal.db"
    path.write_bytes(b"not a database at all " * 100)
    with pytest.raises(JournalError, match="is damaged"):
        Journal(path)


def grown(path: Path) -> bytearray:
    """Return a journal of many pages, as its file holds it."""
    journal = Journal(path)
    for n in range(30):
        add(journal, two_jobs(run_id=f"run-{n}", created_at=NOW + n))
    journal.close()
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("harm", ["cut to half", "a byte flipped"])
def test_a_journal_damaged_behind_its_head_is_said_to_be(tmp_path: Path, harm: str) -> None:
    """A copy that broke off, a bit that fell over: the one line says what and where."""
    path = tmp_path / "journal.db"
    data = grown(path)
    run = data.index(b'"fingerprint"', len(data) // 2)
    head = run - run % 4096  # of the page that holds this run: what stands there has a meaning
    if harm == "cut to half":
        del data[len(data) // 2 :]
    else:
        data[head] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(JournalError, match=r"journal\.db is damaged") as caught:
        Journal(path).runs()
    assert "\n" not in str(caught.value)


def test_a_journal_locked_by_another_process_is_said_to_be(journal: Journal) -> None:
    """A commit of another's that does not end is not waited for without end."""
    journal._connection().execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(journal.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="locked by another process"):
        journal.ask_cancel("r", NOW)
    other.execute("ROLLBACK")
    other.close()
    journal.ask_cancel("r", NOW)


def test_a_place_where_no_file_can_be_is_said_to_be(tmp_path: Path) -> None:
    """A folder in the journal's place, a file in the home's."""
    (tmp_path / "journal.db").mkdir()
    with pytest.raises(JournalError, match="cannot write in the home folder"):
        Journal(tmp_path / "journal.db")
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="BATCH_MAGIC_HOME"):
        Home(tmp_path / "file")


def test_a_home_that_may_not_be_written_is_said_to_be(tmp_path: Path) -> None:
    """Somebody else's folder; for root, who may write everywhere, a place of the kernel's own."""
    tmp_path.chmod(0o500)
    place = tmp_path if os.geteuid() else Path("/sys")
    with pytest.raises(JournalError, match="cannot"):
        Home(place / "home")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("locking protocol", "SQLITE_PROTOCOL"),
        ("disk I/O error", "SQLITE_IOERR_LOCK"),
        ("disk I/O error", "SQLITE_IOERR_RDLOCK"),
        ("disk I/O error", "SQLITE_IOERR_UNLOCK"),
        ("disk I/O error", "SQLITE_IOERR_SHMLOCK"),
        ("disk I/O error", "SQLITE_IOERR_CHECKRESERVEDLOCK"),
    ],
)
def test_a_drive_that_keeps_no_locks_is_said_to_be(tmp_path: Path, said: str, name: str) -> None:
    """SQLite calls it an I/O error, which would send the user to look for a broken disk."""
    error = sqlite3.OperationalError(said)
    error.sqlite_errorname = name
    told = _explain(error, tmp_path / "journal.db")
    assert f"the file system of {tmp_path} keeps no locks ({said})" in told
    assert "BATCH_MAGIC_HOME" in told
    error.sqlite_errorname = "SQLITE_IOERR_WRITE"
    assert "is full or failing" in _explain(error, tmp_path / "journal.db")


_FILL = """
import resource, sys
from pathlib import Path
from batch_magic.errors import JournalError
from batch_magic.journal import Journal
journal = Journal(Path(sys.argv[1]))
try:
    for n in range(2000):
        journal.ask_cancel("r", n)
        with journal._write() as db:
            db.execute("INSERT INTO history VALUES (0, 'r', 0, ?)", ("x" * 5000,))
except JournalError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    journal.ask_cancel("r", 0)
    sys.exit(str(error))
"""


def test_a_full_disk_is_said_to_be_and_the_journal_can_be_used_again(tmp_path: Path) -> None:
    """A commit that fails leaves neither half of itself nor a transaction open."""
    path = tmp_path / "journal.db"
    limit = 400_000
    done = subprocess.run(
        [sys.executable, "-c", _FILL, str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1)),
        capture_output=True,
        text=True,
    )
    assert "is full or failing" in done.stderr
    assert "Traceback" not in done.stderr
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_job_without_the_newest_fields_can_be_read(journal: Journal) -> None:
    """Facts are JSON: what an earlier version did not write has its default."""
    add(journal, two_jobs())
    with sqlite3.connect(journal.path) as db:
        db.execute("UPDATE jobs SET facts = json_remove(facts, '$.attempt', '$.doubted_at')")
    assert journal.run("r").jobs == tuple[Job, ...](two_jobs().jobs)


def test_a_transaction_that_an_interrupt_left_open_does_not_block(journal: Journal) -> None:
    """Ctrl-C may come between any two lines; the next call works all the same."""
    for begin in ("BEGIN", "BEGIN IMMEDIATE"):
        journal._connection().execute(begin)
        assert journal.runs() == []
        journal._connection().execute(begin)
        journal.reopen("none", NOW)


# -- deadlines ------------------------------------------------------------------------------

HOUR_S = 3_600.0
NIGHT_S = 12 * HOUR_S


def in_an_hour(**facts: object) -> RunRecord:
    """A run with a deadline an hour after its cell."""
    return replace(asking(deadline_s=HOUR_S), **facts)  # type: ignore[arg-type]


def test_a_deadline_counts_from_leave(journal: Journal) -> None:
    """A night's thought before *Submit* must not send all of it live, at the full price."""
    waits = in_an_hour(ending=Ending.STOPPED, ended_at=NOW, fault="asks", asks_usd=2.0)
    add(journal, waits)
    journal.reopen("r", NOW + NIGHT_S)
    assert journal.run("r") == waits, "to look at it gives no leave"
    journal.reopen("r", NOW + NIGHT_S, gives_leave=True)
    assert journal.run("r").goes_live_at == NOW + NIGHT_S + HOUR_S


def test_a_stop_does_not_put_a_deadline_off(journal: Journal) -> None:
    """Its rows are as urgent as they were."""
    add(journal, in_an_hour(ending=Ending.STOPPED, ended_at=NOW, fault="no quota"))
    journal.reopen("r", NOW + NIGHT_S, gives_leave=True)
    assert journal.run("r").goes_live_at == NOW + HOUR_S


def test_a_retry_after_the_end_has_the_deadline_anew(journal: Journal) -> None:
    """Rows are sent again as they were asked for: by batch, and live when that takes too long."""
    add(journal, in_an_hour(ending=Ending.FINISHED, ended_at=NOW))
    journal.ask_retry("r", [RowStatus.FAILED], NOW + NIGHT_S)
    assert journal.run("r").goes_live_at == NOW + NIGHT_S + HOUR_S
    journal.ask_retry("r", [RowStatus.FAILED], NOW + NIGHT_S + 60)
    assert journal.run("r").goes_live_at == NOW + NIGHT_S + HOUR_S, "it goes on"


# -- how long a run was under way -----------------------------------------------------------

SPANS = st.floats(0.01, 1e6)
STRETCHES = st.lists(
    st.tuples(SPANS, st.sampled_from(["retry", "refetch", "reopen", "cancel"]), SPANS), max_size=5
)


@given(STRETCHES, SPANS)
def test_a_run_took_the_time_in_which_it_had_no_end(
    stretches: list[tuple[float, str, float]], last_s: float
) -> None:
    """However often it goes on, idle gaps are out; no job had more, and no clock ran longer."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.db")
        run = add(journal, run_of(shards=(Shard(0, 6, 60, "s"),)))
        now, took_s = NOW, 0.0
        for worked_s, how, idle_s in [*stretches, (last_s, "", 0.0)]:
            began, number = now, len(journal.run("r").jobs)
            now += worked_s
            took_s += worked_s
            done = replace(job(), number=number, intended_at=began, ended_at=now)
            with sqlite3.connect(journal.path) as db:
                insert_jobs(db, "r", [replace(done, stage=JobStage.COLLECTED)])
            stops = how in ("reopen", "cancel")
            ending = Ending.STOPPED if stops else Ending.FINISHED
            wishes = journal.run("r").wishes
            journal.end_run("r", "me", now, ending=ending, granted=wishes)
            now += idle_s
            go_on(journal, how, now)
        run = journal.run("r")
        journal.close()
    drawn = snapshot(run, now + 1)
    assert progress.took_s(drawn) == pytest.approx(took_s, rel=1e-6, abs=1e-3)
    assert progress.took_s(drawn) <= now - NOW + 1e-3
    for one in run.jobs:
        assert one.intended_at
        assert one.ended_at
        own_s = progress.lapsed_s(one.intended_at, one.ended_at, run.pauses)
        assert own_s == pytest.approx(one.ended_at - one.intended_at)
        assert own_s <= progress.took_s(drawn) + 1e-3


def go_on(journal: Journal, how: str, now: float) -> None:
    """Let an ended run go on, in one of the ways there are."""
    if how == "retry":
        journal.ask_retry("r", [RowStatus.FAILED], now)
    elif how == "refetch":
        journal.refetch("r", (), now)
    elif how == "reopen":
        journal.reopen("r", now)
    elif how == "cancel":
        journal.ask_cancel("r", now)


def test_a_stop_while_the_service_works_on_is_no_pause(journal: Journal) -> None:
    """A refused key stops our side alone: the batch's time is the run's."""
    add(journal, two_jobs())
    journal.save_job("r", "me", replace(job(JobStage.RUNNING), batch_id="b"), NOW, None)
    journal.end_run("r", "me", NOW + 5, ending=Ending.STOPPED, fault="the key was refused")
    journal.reopen("r", NOW + NIGHT_S)
    assert journal.run("r").pauses == ()


def test_waiting_for_leave_is_a_pause_and_a_run_that_is_forgotten_takes_it_along(
    journal: Journal,
) -> None:
    """Nothing was under way; what is cleaned away leaves nothing that stands in the way."""
    waits = in_an_hour(ending=Ending.STOPPED, ended_at=NOW, fault="not submitted", asks_usd=9.0)
    add(journal, waits)
    journal.reopen("r", NOW + NIGHT_S)
    assert journal.run("r").pauses == (), "it still waits"
    journal.reopen("r", NOW + NIGHT_S, gives_leave=True)
    assert journal.run("r").pauses == (Pause(NOW, NOW + NIGHT_S),)
    journal.end_run("r", "me", NOW + NIGHT_S + 5, ending=Ending.FINISHED)
    journal.forget("r")
    assert journal.runs() == []
