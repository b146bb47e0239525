"""Durable memory: which runs, shards and jobs there are, and what happened to them.

One SQLite file in the home folder is the one truth about intents and receipts; the files it
names (`folder`) hold the lines and the answers. It knows how to write a fact down so that it
survives the process, and refuses to know what comes next: that is `lifecycle`'s. Its cost
does not grow with rows: a shard is one line here, whatever it holds.

The trap is two kernels on one home. A run is driven by whoever holds its lease, and every
write about a job is made in the same transaction that checks the lease, so that a kernel
which slept through its lease cannot write (and so cannot pay) any more.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from batch_magic.errors import JournalError
from batch_magic.records import (
    MARK_HALVES,
    NO_WISHES,
    Ending,
    Job,
    JobStage,
    Lease,
    Mark,
    Point,
    RowStatus,
    RunRecord,
    Shard,
    Wish,
    Wishes,
)
from batch_magic.schema import (
    SELECT_LEASES,
    SELECT_RUNS,
    add_decided,
    check_ours,
    counts_json,
    insert_jobs,
    insert_shards,
    job_facts,
    migrate,
    put_files,
    put_progress,
    read_lease,
    read_marks,
    read_run,
    read_wishes,
    roll_back,
    run_facts,
    transaction,
    wishes_json,
)
from batch_magic.wording import counted

LEASE_S = 30.0
_RESULT_MADE = "the result was made"
_NO_FILES: Mapping[str, str] = MappingProxyType({})
_BUSY_S = 10.0  # how long to wait for another process's commit


class LeaseLost(JournalError):  # noqa: N818  (a turn of events, nobody's error)
    """Another kernel drives the run now; nothing was written."""


# A run that had ended is no longer late: what it sends again goes as it was asked for first.
_LANE_ANEW = (
    "live_at = coalesce(?, CASE WHEN ending IS NULL THEN live_at END),"
    " deadline_from = CASE WHEN ending IS NULL THEN deadline_from ELSE ? END"
)


class Outdated(JournalError):  # noqa: N818
    """The journal has moved on since it was read; read it and try again."""


class Journal:
    """The journal of one home. One connection per thread; safe to share between threads.

    `notebook` is what runs and leases written by this process are said to belong to.
    """

    def __init__(self, path: Path, *, notebook: str = "") -> None:
        self.path = path
        self._notebook = notebook
        self._local = threading.local()
        with self._errors():
            migrate(self._connection())

    # -- runs -------------------------------------------------------------------------------

    def add_run(
        self, run: RunRecord, *, owner: str, now: float, kin: Sequence[tuple[str, bool]]
    ) -> None:
        """Name a run, its shards and its planned jobs in one commit, leased to `owner`.

        `kin` is what `kin()` said when the run was prepared. Raises Outdated when another run
        has come between, whose lines might be the same.
        """
        with self._write() as db:
            if _kin(db, run.backend.identity, run.request.model) != list(kin):
                raise Outdated("another run was submitted meanwhile")
            db.execute(
                "INSERT INTO runs (run_id, name, created_at, rows, identity, backend_id, model,"
                " facts, decided, lenders, counts, ending, ended_at, fault, asks_usd, notebook)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,'{}',?,?,?,?,?)",
                (
                    run.run_id,
                    run.name,
                    run.created_at,
                    run.rows,
                    run.identity,
                    run.backend.identity,
                    run.request.model,
                    run_facts(run),
                    counts_json(run.decided),
                    json.dumps(run.lenders),
                    None if run.ending is None else run.ending.value,
                    run.ended_at,
                    run.fault,
                    run.asks_usd,
                    run.notebook or self._notebook,
                ),
            )
            insert_shards(db, run.run_id, run.shards)
            insert_jobs(db, run.run_id, run.jobs)
            put_files(db, run.run_id, run.files)
            _take_lease(db, run.run_id, owner, now, self._notebook)
            _note(db, now, run.run_id, None, _submitted(run))

    def run(self, run_id: str) -> RunRecord:
        """Read one run whole. Raises JournalError when there is none of that id."""
        with self._read() as db:
            return _run(db, run_id, self.path.parent)

    def runs(self) -> list[RunRecord]:
        """Read all runs, newest first."""
        with self._read() as db:
            found = db.execute(f"{SELECT_RUNS} ORDER BY created_at DESC, rowid DESC").fetchall()
            return [read_run(db, row) for row in found]

    def changes(self) -> int:
        """Return a number that is another one after any commit but this thread's own.

        It costs no read of a table: it is for those who look again and again.
        """
        with self._errors():
            (version,) = self._connection().execute("PRAGMA data_version").fetchone()
        return int(version)

    def runs_since(self, known: Mapping[str, int]) -> tuple[dict[str, int], list[RunRecord]]:
        """Return each run's latest event, newest run first, and the runs that may have changed.

        These are the ones that go on, and those of whose latest event `known` says otherwise: an
        ended run does not change without an event, but for its cap.
        """
        query = (
            "SELECT run_id, ending IS NULL, (SELECT max(rowid) FROM history"
            " WHERE history.run_id = runs.run_id) FROM runs ORDER BY created_at DESC, rowid DESC"
        )
        with self._read() as db:
            found = db.execute(query).fetchall()
            stamps = {str(run_id): int(event or 0) for run_id, _, event in found}
            changed = [
                run_id
                for run_id, goes_on, _ in found
                if goes_on or known.get(run_id) != stamps[run_id]
            ]
            rows = [
                db.execute(f"{SELECT_RUNS} WHERE run_id = ?", (run_id,)).fetchone()
                for run_id in changed
            ]
            return stamps, [read_run(db, row) for row in rows]

    def find(self, word: str) -> str | None:
        """Return the run that `word` means: a run id, a batch id, else the newest of that name."""
        queries = (
            "SELECT run_id FROM runs WHERE run_id = ?",
            "SELECT run_id FROM jobs WHERE batch_id = ?",
            "SELECT run_id FROM runs WHERE name = ? ORDER BY created_at DESC, rowid DESC LIMIT 1",
        )
        with self._read() as db:
            for query in queries:
                found = db.execute(query, (word,)).fetchone()
                if found is not None:
                    return str(found[0])
        return None

    def going_on(self, name: str) -> list[str]:
        """Return the ids of the runs of a name that have neither ended nor stopped."""
        query = "SELECT run_id FROM runs WHERE name = ? AND ending IS NULL ORDER BY rowid"
        with self._read() as db:
            return [str(row[0]) for row in db.execute(query, (name,))]

    def find_identical(self, identity: str) -> str | None:
        """Return the newest run of the same lines, frame and layout that can go on.

        One that is being cancelled cannot: whoever asks again wants the rows.
        """
        with self._read() as db:
            found = db.execute(
                "SELECT run_id FROM runs WHERE identity = ? AND (ending IS NULL OR ending = ?)"
                " AND cancel_at IS NULL ORDER BY created_at DESC, rowid DESC LIMIT 1",
                (identity, Ending.STOPPED.value),
            ).fetchone()
        return None if found is None else str(found[0])

    def kin(self, backend_id: str, model: str) -> list[tuple[str, bool]]:
        """Return (run id, has ended) of runs whose answers might be reused, newest first.

        A stopped run has not ended: its jobs may be in flight all the same.
        """
        with self._read() as db:
            return _kin(db, backend_id, model)

    def names(self) -> list[tuple[str, str, str | None, int, str, str]]:
        """Return (name, run id, ending, rows, model, backend) of all runs, newest first.

        It is a look at one table, for whoever wants no more than names, and wants them at once.
        """
        query = (
            "SELECT name, run_id, ending, rows, model, backend_id FROM runs"
            " ORDER BY created_at DESC, rowid DESC"
        )
        with self._read() as db:
            return db.execute(query).fetchall()

    def run_ids(self) -> set[str]:
        """Return the ids of all runs."""
        with self._read() as db:
            return {str(row[0]) for row in db.execute("SELECT run_id FROM runs")}

    def unhashed(self) -> list[str]:
        """Return the runs that an older version wrote, without the hashes of their files."""
        query = "SELECT run_id FROM runs WHERE run_id NOT IN (SELECT run_id FROM files)"
        with self._read() as db:
            return [str(row[0]) for row in db.execute(query)]

    def add_files(self, run_id: str, files: Mapping[str, str]) -> None:
        """Write down the hashes of a run's files."""
        with self._write() as db:
            put_files(db, run_id, files)

    def note_result(self, run_id: str, now: float) -> None:
        """Write down, once, that a run's result was made: its files may be cleaned away."""
        if not self.has_result(run_id):
            with self._write() as db:
                _note(db, now, run_id, None, _RESULT_MADE)

    def has_result(self, run_id: str) -> bool:
        """Tell whether a run's result was ever made."""
        query = "SELECT 1 FROM history WHERE run_id = ? AND event = ? LIMIT 1"
        with self._read() as db:
            return db.execute(query, (run_id, _RESULT_MADE)).fetchone() is not None

    def results_made(self) -> set[str]:
        """Return the runs whose result was ever made."""
        query = "SELECT run_id FROM history WHERE event = ?"
        with self._read() as db:
            return {str(row[0]) for row in db.execute(query, (_RESULT_MADE,))}

    def borrowers(self, run_id: str) -> list[str]:
        """Return the runs that wait for a run's answers."""
        return self.all_borrowers().get(run_id, [])

    def all_borrowers(self) -> dict[str, list[str]]:
        """Return the runs that wait for another's answers, by that other's id."""
        query = "SELECT run_id, lenders FROM runs WHERE lenders <> '[]'"
        waiting: dict[str, list[str]] = {}
        with self._read() as db:
            for borrower, lenders in db.execute(query):
                for lender in json.loads(lenders):
                    waiting.setdefault(lender, []).append(str(borrower))
        return waiting

    def forget(self, run_id: str) -> None:
        """Take a run out of the journal. Its files are the caller's to remove, afterwards.

        Raises JournalError for one that goes on.
        """
        with self._write() as db:
            row = db.execute("SELECT ending FROM runs WHERE run_id = ?", (run_id,)).fetchone()
            if row is not None and row[0] is None:
                raise JournalError(f"run {run_id} goes on again; it is kept")
            records = (
                "files",
                "marks",
                "history",
                "leases",
                "progress",
                "pauses",
                "jobs",
                "shards",
            )
            for table in (*records, "runs"):
                db.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))

    def history(self, run_id: str) -> list[tuple[float, int | None, str]]:
        """Return (when, job number, event) of a run, in order."""
        with self._read() as db:
            return db.execute(
                "SELECT at, job, event FROM history WHERE run_id = ? ORDER BY rowid", (run_id,)
            ).fetchall()

    # -- what is noted about rows -----------------------------------------------------------

    def marks(self, run_id: str) -> dict[int, Mark]:
        """Return what a person has noted about a run's rows, by position."""
        with self._read() as db:
            return read_marks(db, run_id)

    def put_mark(
        self,
        run_id: str,
        position: int,
        mark: Mark,
        now: float,
        halves: Collection[str] = MARK_HALVES,
    ) -> Mark:
        """Write these halves of what a person notes about a row; return the mark as it is then.

        Needs no lease. The other half stays as it stands there by now, whoever wrote it; a mark
        with neither is taken away. Raises JournalError when there is no such run.
        """
        with self._write() as db:
            if not db.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone():
                raise JournalError(f"run {run_id} is in this home no more; its rows have no marks")
            place, is_meant = (run_id, position), [half in halves for half in MARK_HALVES]
            db.execute(
                "INSERT INTO marks (run_id, position, at) VALUES (?,?,?) ON CONFLICT DO NOTHING",
                (*place, now),
            )
            db.execute(
                "UPDATE marks SET thumb = CASE WHEN ? THEN ? ELSE thumb END,"
                " note = CASE WHEN ? THEN ? ELSE note END, at = ?"
                " WHERE run_id = ? AND position = ?",
                (is_meant[0], mark.thumb, is_meant[1], mark.note, now, *place),
            )
            db.execute(
                "DELETE FROM marks WHERE run_id = ? AND position = ?"
                " AND thumb IS NULL AND note IS NULL",
                place,
            )
            return read_marks(db, run_id).get(position, Mark())

    # -- what happens to a run --------------------------------------------------------------

    def ask_cancel(self, run_id: str, now: float) -> None:
        """Write down that the user wants the run cancelled. Needs no lease.

        A stopped run goes on for it, however often: its jobs may be in flight.
        """
        with self._write() as db:
            done = db.execute(
                "UPDATE runs SET cancel_at = coalesce(cancel_at, ?), ending = NULL,"
                " fault = NULL, asks_usd = NULL"
                " WHERE run_id = ? AND (ending = ? OR ending IS NULL AND cancel_at IS NULL)",
                (now, run_id, Ending.STOPPED.value),
            )
            if done.rowcount:
                _go_on(db, run_id, now)
                _note(db, now, run_id, None, "cancel asked for")

    def ask_live(self, run_id: str, now: float) -> None:
        """Write down that the user wants the rest of a run finished live. Needs no lease."""
        with self._write() as db:
            done = db.execute(
                "UPDATE runs SET live_at = ? WHERE run_id = ? AND live_at IS NULL"
                " AND ending IS NULL AND cancel_at IS NULL",
                (now, run_id),
            )
            if done.rowcount:
                _note(db, now, run_id, None, "the rest is to be finished live")

    def cap(self, run: RunRecord, max_cost_usd: float) -> None:
        """Write down what a run may cost at most, as was said of it last."""
        capped = replace(run, request=replace(run.request, max_cost_usd=max_cost_usd))
        with self._write() as db:
            facts = run_facts(capped)
            db.execute("UPDATE runs SET facts = ? WHERE run_id = ?", (facts, run.run_id))

    def lenders_of(self, run_id: str) -> list[str]:
        """Return the runs whose answers a run waits for, directly or not."""
        with self._read() as db:
            return _with_lenders(db, run_id)[1:]

    def reopen(
        self,
        run_id: str,
        now: float,
        *,
        unsent: Sequence[Job] = (),
        lenders: Iterable[str] = (),
        gives_leave: bool = False,
    ) -> None:
        """Let a stopped run, and those whose answers it waits for, go on: the fault is mended.

        One that waits for its user's leave to spend is left as it is, unless this `gives_leave`,
        which is for this run alone; its deadline counts from then on.
        The lines of its jobs `unsent` are held for `lenders`, which were answered some of them or
        have asked for them since: what they do not answer is sent then.
        """
        with self._write() as db:
            if lenders and _is_as_it_was(db, run_id, unsent):
                _hold(db, run_id, unsent, lenders)
                _note(db, now, run_id, None, f"looks first at the answers of {', '.join(lenders)}")
            for one in _with_lenders(db, run_id):
                has_leave = gives_leave and one == run_id
                done = db.execute(
                    "UPDATE runs SET ending = NULL, fault = NULL, resumed_at = ?,"
                    " deadline_from = CASE WHEN asks_usd IS NULL THEN deadline_from ELSE ? END,"
                    " asks_usd = NULL WHERE run_id = ? AND ending = ?"
                    " AND (asks_usd IS NULL OR ?)",
                    (now, now, one, Ending.STOPPED.value, has_leave),
                )
                if done.rowcount:
                    _go_on(db, one, now)
                    _note(db, now, one, None, "goes on after it had stopped")

    def ask_retry(
        self,
        run_id: str,
        statuses: Iterable[RowStatus],
        now: float,
        *,
        causes: Iterable[str] = (),
        live: bool = False,
    ) -> None:
        """Write down that rows are to be sent again, once the run's jobs are in.

        Those of these statuses, and those of these causes (keys), as far as they are not under way
        now, besides what was asked for and is not granted yet. An ended run goes on for it, with a
        deadline that counts from now on; `live`: through the live lane. Nothing asked for is
        nothing done.
        """
        asked = Wish(frozenset(statuses), frozenset(causes))
        if not asked:
            return
        with self._write() as db:
            asked = replace(asked, but=_run(db, run_id, self.path.parent).under_way)
            wishes = _pending_wishes(db, run_id) | {asked}
            db.execute(
                "UPDATE runs SET wish = ?, cancel_at = NULL, ending = NULL,"
                f" fault = NULL, counts = '{{}}', resumed_at = ?, {_LANE_ANEW} WHERE run_id = ?",
                (wishes_json(wishes), now, now if live else None, now, run_id),
            )
            _go_on(db, run_id, now)
            how = " live" if live else ""
            _note(db, now, run_id, None, f"retry{how} asked for: {_wish_words(asked)}")
            _forget_result(db, run_id)

    def refetch(self, run_id: str, jobs: Sequence[Job], now: float) -> None:
        """Write down that result files of these jobs are fetched once more; the run goes on.

        What they do not bring goes by batch, however long a deadline has passed.
        """
        with self._write() as db:
            db.execute(
                "UPDATE runs SET ending = NULL, fault = NULL, counts = '{}',"
                f" resumed_at = ?, {_LANE_ANEW} WHERE run_id = ?",
                (now, None, now, run_id),
            )
            _go_on(db, run_id, now)
            for job in jobs:
                db.execute(
                    "UPDATE jobs SET stage = ?, facts = ? WHERE run_id = ? AND number = ?",
                    (job.stage.value, job_facts(job), run_id, job.number),
                )
                _note(db, now, run_id, job.number, "result files are asked for once more")
            _forget_result(db, run_id)

    def reshape(self, run: RunRecord, now: float) -> None:
        """Write down that an ended run's answers are read by another shape, with the new counts."""
        with self._write() as db:
            db.execute(
                "UPDATE runs SET facts = ?, decided = ?, counts = ?, fault = ? WHERE run_id = ?",
                (
                    run_facts(run),
                    counts_json(run.decided),
                    counts_json(run.counts),
                    run.fault,
                    run.run_id,
                ),
            )
            for job in run.jobs:
                db.execute(
                    "UPDATE jobs SET facts = ? WHERE run_id = ? AND number = ?",
                    (job_facts(job), run.run_id, job.number),
                )
            _note(db, now, run.run_id, None, "its answers are read by another shape")

    def end_run(
        self,
        run_id: str,
        owner: str,
        now: float,
        *,
        ending: Ending,
        counts: Mapping[RowStatus, int] | None = None,
        fault: str | None = None,
        model_served: str | None = None,
        saved: Mapping[str, float] = MappingProxyType({}),
        files: Mapping[str, str] = _NO_FILES,
        granted: Wishes = NO_WISHES,
    ) -> None:
        """Write down how a run ended (or why it stopped), under its lease.

        `granted` are wishes that nothing was to be sent for. One that has come meanwhile keeps the
        run from being finished: it goes on for that.
        """
        with self._leased(run_id, owner) as db:
            left = _pending_wishes(db, run_id) - granted
            if granted:
                db.execute("UPDATE runs SET wish = ? WHERE run_id = ?", (wishes_json(left), run_id))
            if left and ending is Ending.FINISHED:
                return
            put_files(db, run_id, files)
            db.execute(
                "UPDATE runs SET ending = ?, ended_at = ?, fault = ?, counts = ?, saved = ?,"
                " model_served = coalesce(?, model_served) WHERE run_id = ?",
                (
                    ending.value,
                    now,
                    fault,
                    counts_json(counts or {}),
                    json.dumps(dict(saved)),
                    model_served,
                    run_id,
                ),
            )
            _note(db, now, run_id, None, f"{ending.value}{': ' + fault if fault else ''}")

    # -- what happens to a job --------------------------------------------------------------

    def save_job(
        self,
        run_id: str,
        owner: str,
        job: Job,
        now: float,
        event: str | None,
        files: Mapping[str, str] = _NO_FILES,
        lost: Iterable[str] = (),
    ) -> None:
        """Write a job as it is now, under the run's lease; `event` goes into the history.

        `files` are known by their hashes from now on, those that are `lost` no longer.
        """
        with self._leased(run_id, owner) as db:
            put_files(db, run_id, files)
            forget = "DELETE FROM files WHERE run_id = ? AND name = ?"
            db.executemany(forget, [(run_id, name) for name in lost])
            db.execute(
                "UPDATE jobs SET stage = ?, batch_id = ?, facts = ?"
                " WHERE run_id = ? AND number = ?",
                (job.stage.value, job.batch_id, job_facts(job), run_id, job.number),
            )
            if event:
                _note(db, now, run_id, job.number, event)

    def add_work(
        self,
        run_id: str,
        owner: str,
        now: float,
        *,
        event: str,
        shards: Iterable[Shard] = (),
        jobs: Iterable[Job] = (),
        closed: Job | None = None,
        settled: Mapping[RowStatus, int] = MappingProxyType({}),
        files: Mapping[str, str] = _NO_FILES,
        repays: bool = False,
        granted: Wishes = NO_WISHES,
    ) -> None:
        """Add shards and jobs to a run, closing the job that they replace, in one commit.

        `settled` is added to the counts of rows settled without a job. The jobs get the next free
        numbers: others may have been added since they were thought of. `repays` says that nothing
        is waited for any more, `granted` what of the user's wishes this is: more may have been
        wished for since, but not that what goes out now should go out once more.
        """
        shards = tuple(shards)
        with self._leased(run_id, owner) as db:
            if closed is not None:
                db.execute(
                    "UPDATE jobs SET stage = ?, facts = ? WHERE run_id = ? AND number = ?",
                    (closed.stage.value, job_facts(closed), run_id, closed.number),
                )
            insert_shards(db, run_id, shards)
            insert_jobs(db, run_id, jobs)
            add_decided(db, run_id, settled)
            put_files(db, run_id, files)
            if repays:
                db.execute("UPDATE runs SET lenders = '[]' WHERE run_id = ?", (run_id,))
            if wishes := _pending_wishes(db, run_id):
                out = {shard.number for shard in shards}
                left = frozenset(replace(one, but=one.but | out) for one in wishes - granted)
                db.execute("UPDATE runs SET wish = ? WHERE run_id = ?", (wishes_json(left), run_id))
            _note(db, now, run_id, None, event)

    def note_progress(self, run_id: str, owner: str, points: Iterable[Point]) -> None:
        """Write down how many rows of a run were done when, under its lease."""
        with self._leased(run_id, owner) as db:
            put_progress(db, run_id, points)

    # -- leases -----------------------------------------------------------------------------

    def take_lease(self, run_id: str, owner: str, now: float) -> bool:
        """Take or renew the lease of a run; False while another living engine holds it."""
        with self._write() as db:
            row = db.execute(f"{SELECT_LEASES} WHERE run_id = ?", (run_id,)).fetchone()
            held = None if row is None else read_lease(row)[1]
            if held is not None and held.owner != owner and is_held(held, now):
                return False
            _take_lease(db, run_id, owner, now, self._notebook)
            return True

    def leases(self) -> dict[str, Lease]:
        """Return the lease of each run that has one, by run id, held or not."""
        with self._read() as db:
            return dict(map(read_lease, db.execute(SELECT_LEASES)))

    def drop_lease(self, run_id: str, owner: str) -> None:
        """Give a lease back, if it is ours."""
        with self._write() as db:
            db.execute("DELETE FROM leases WHERE run_id = ? AND owner = ?", (run_id, owner))

    # -- plumbing ---------------------------------------------------------------------------

    def close(self) -> None:
        """Close this thread's connection."""
        db = getattr(self._local, "db", None)
        if db is not None:
            db.close()
            self._local.db = None

    def _connection(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
            try:
                self.path.chmod(0o600)  # SQLite gives its other files the same mode
                check_ours(db)
                # FULL: a commit is on the disk before the money is spent.
                # WAL: readers never wait for a writer.
                for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                    db.execute(f"PRAGMA {pragma}")
            except BaseException:
                db.close()
                raise
            self._local.db = db
        return db

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise JournalError(_explain(error, self.path)) from error

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            db = self._connection()
            roll_back(db)
            try:
                db.execute("BEGIN")
                yield db
            finally:
                roll_back(db)

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            with transaction(self._connection()) as db:
                yield db

    @contextmanager
    def _leased(self, run_id: str, owner: str) -> Iterator[sqlite3.Connection]:
        with self._write() as db:
            held = db.execute("SELECT owner FROM leases WHERE run_id = ?", (run_id,)).fetchone()
            if held is None or held[0] != owner:
                raise LeaseLost(f"run {run_id} is driven by another kernel now")
            yield db


def _submitted(run: RunRecord) -> str:
    size = f"{counted(run.rows, 'row')} as {counted(len(run.jobs), 'job')}"
    return f"submitted {size}" if run.ending is None else f"prepared {size}: {run.fault}"


def _explain(error: Exception, path: Path) -> str:
    home = path.parent
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return f"cannot write in the home folder {home} ({error}); choose another: BATCH_MAGIC_HOME"
    lacks_shared_memory = name in ("SQLITE_IOERR_SHMMAP", "SQLITE_IOERR_SHMOPEN")
    if name == "SQLITE_PROTOCOL" or lacks_shared_memory or "LOCK" in name.partition("IOERR")[2]:
        return (
            f"the file system of {home} keeps no locks ({error}), as some network drives do; choose"
            " a home on a local disk: BATCH_MAGIC_HOME"
        )
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return f"the disk of the home folder {home} is full or failing ({error}); free some room"
    is_garbled = isinstance(error, UnicodeDecodeError) or "decode to UTF-8" in str(error)
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or is_garbled:
        said = "text that is none" if is_garbled else error
        return f"{path} is damaged ({said}); move it away and keep it: the answers are in runs/"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"{path} is locked by another process ({error}); try again in a moment"
    return f"{path}: {error}; restart the kernel, or choose another home: BATCH_MAGIC_HOME"


def _kin(db: sqlite3.Connection, backend_id: str, model: str) -> list[tuple[str, bool]]:
    found = db.execute(
        "SELECT run_id, coalesce(ending, ?) <> ? FROM runs"
        " WHERE backend_id = ? AND (model = ? OR ? OR instr(model, '{') OR instr(model, ','))"
        " ORDER BY created_at DESC, rowid DESC",
        (Ending.STOPPED.value, Ending.STOPPED.value, backend_id, model, _is_many(model)),
    ).fetchall()
    return [(str(row[0]), bool(row[1])) for row in found]


def _run(db: sqlite3.Connection, run_id: str, home: Path) -> RunRecord:
    found = db.execute(f"{SELECT_RUNS} WHERE run_id = ?", (run_id,)).fetchone()
    if found is None:
        raise JournalError(f"there is no run {run_id!r} in {home}; `%gptbatch list` has all")
    return read_run(db, found)


def _pending_wishes(db: sqlite3.Connection, run_id: str) -> Wishes:
    """Return what a run is still to send again; a cancel has put an end to all of that."""
    query = "SELECT wish FROM runs WHERE run_id = ? AND cancel_at IS NULL"
    found = db.execute(query, (run_id,)).fetchone()
    return NO_WISHES if found is None else read_wishes(found[0])


def _wish_words(wish: Wish) -> str:
    causes = [counted(len(wish.causes), "cause")] if wish.causes else []
    return ", ".join([*sorted(status.label for status in wish.statuses), *causes])


def _is_as_it_was(db: sqlite3.Connection, run_id: str, jobs: Iterable[Job]) -> bool:
    """Tell whether a run is stopped still, and these jobs as they were."""
    row = db.execute("SELECT ending FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    known = dict(db.execute("SELECT number, facts FROM jobs WHERE run_id = ?", (run_id,)))
    is_stopped = row is not None and row[0] == Ending.STOPPED.value
    return is_stopped and all(known.get(job.number) == job_facts(job) for job in jobs)


def _hold(
    db: sqlite3.Connection, run_id: str, unsent: Iterable[Job], lenders: Iterable[str]
) -> None:
    """Close jobs that were never sent and hold their lines for other runs' answers."""
    (text,) = db.execute("SELECT lenders FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    awaited = json.loads(text)
    if not awaited:  # what was held once has been looked for already
        db.execute("UPDATE shards SET held = 0 WHERE run_id = ?", (run_id,))
    for job in unsent:
        closed = replace(job, stage=JobStage.COLLECTED, is_replaced=True)
        db.execute(
            "UPDATE jobs SET stage = ?, facts = ? WHERE run_id = ? AND number = ?",
            (closed.stage.value, job_facts(closed), run_id, closed.number),
        )
        db.execute(
            "UPDATE shards SET held = 1 WHERE run_id = ? AND number = ?", (run_id, job.shard)
        )
    everyone = json.dumps(sorted({*awaited, *lenders}))
    db.execute("UPDATE runs SET lenders = ? WHERE run_id = ?", (everyone, run_id))


def _is_many(model: str) -> bool:
    """Tell whether a run asks several models: its lines may be in any other run."""
    return "{" in model or "," in model


def _with_lenders(db: sqlite3.Connection, run_id: str) -> list[str]:
    """Return a run and all those whose answers it waits for, directly or not."""
    found, left = list[str](), [run_id]
    while left:
        one = left.pop()
        row = db.execute("SELECT lenders FROM runs WHERE run_id = ?", (one,)).fetchone()
        if row is not None and one not in found:
            found.append(one)
            left += json.loads(row[0])
    return found


def _note(db: sqlite3.Connection, now: float, run_id: str, job: int | None, event: str) -> None:
    into = "INSERT INTO history (at, run_id, job, event) VALUES (?,?,?,?)"
    db.execute(into, (now, run_id, job, event))


def _go_on(db: sqlite3.Connection, run_id: str, now: float) -> None:
    """Let a run have no end any more, and write down that it lay idle since it had one.

    It did not where the service was at work on a batch of it all the same.
    """
    db.execute(
        "INSERT OR IGNORE INTO pauses (run_id, begins, ends) SELECT run_id, ended_at, ? FROM runs"
        " WHERE run_id = ? AND ended_at < ? AND NOT EXISTS (SELECT 1 FROM jobs"
        " WHERE jobs.run_id = runs.run_id AND stage = ? AND batch_id IS NOT NULL)",
        (now, run_id, now, JobStage.RUNNING.value),
    )
    db.execute("UPDATE runs SET ended_at = NULL WHERE run_id = ?", (run_id,))


def _forget_result(db: sqlite3.Connection, run_id: str) -> None:
    """The result that was made is not the last one any more."""
    db.execute("DELETE FROM history WHERE run_id = ? AND event = ?", (run_id, _RESULT_MADE))


def _take_lease(db: sqlite3.Connection, run_id: str, owner: str, now: float, notebook: str) -> None:
    db.execute(
        "INSERT OR REPLACE INTO leases (run_id, owner, pid, host, expires_at, notebook)"
        " VALUES (?,?,?,?,?,?)",
        (run_id, owner, os.getpid(), socket.gethostname(), now + LEASE_S, notebook),
    )


def is_held(lease: Lease, now: float) -> bool:
    """Tell whether a lease holds: it has not expired, and its process may be alive."""
    if lease.expires_at <= now or lease.expires_at > now + 10 * LEASE_S:  # a clock was set back
        return False
    return lease.host != socket.gethostname() or _is_alive(lease.pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
