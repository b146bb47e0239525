"""What survives a kill: records in SQLite, bytes in files beside it.

Knows tables and paths. Refuses to know what a status means beyond the table of legal moves,
which it enforces in the same transaction that writes. The trap: the worker and an HTTP cancel
race for one batch, so a move is a compare-and-set, and losing it is an ordinary answer (None).
"""

import json
import os
import secrets
import sqlite3
import string
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from .records import MOVES, TERMINAL, BatchRecord, Bill, FileRecord, Lane, Status

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of creation; the cursor
    id TEXT NOT NULL UNIQUE,
    purpose TEXT NOT NULL,
    doc BLOB NOT NULL                       -- FileRecord as JSON
) STRICT;
CREATE INDEX IF NOT EXISTS files_by_purpose ON files (purpose, seq);
CREATE TABLE IF NOT EXISTS batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    doc BLOB NOT NULL                       -- BatchRecord as JSON
) STRICT;
CREATE INDEX IF NOT EXISTS batches_by_status ON batches (status);
CREATE TABLE IF NOT EXISTS settings (
    name TEXT PRIMARY KEY,                  -- clock_offset_s, faults, rated
    value TEXT NOT NULL                     -- JSON
) STRICT;
CREATE TABLE IF NOT EXISTS failed_once (
    digest TEXT PRIMARY KEY                 -- rows that already failed their one time
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger (         -- a row for each Bill that differs
    lane TEXT NOT NULL,
    model TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    requests INTEGER NOT NULL,              -- how many there were of it
    PRIMARY KEY (lane, model, endpoint, input_tokens, cached_tokens, output_tokens)
) STRICT, WITHOUT ROWID;
"""
_APPLICATION_ID = 0x53424F58  # "SBOX"
_ALPHABET = string.ascii_letters + string.digits


class Page(msgspec.Struct, frozen=True):
    """One page of a listing."""

    records: list[Any]
    has_more: bool


class Store:
    """The service's memory under one folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for folder in (home, home / "files", home / "runs", home / "incoming"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left_over in (home / "incoming").iterdir():
            left_over.unlink()
        # The lock protects the one connection, which the event loop and the workers share.
        self._lock = threading.RLock()
        self._db = sqlite3.connect(
            home / "sandbox.sqlite3", check_same_thread=False, isolation_level=None
        )
        os.chmod(home / "sandbox.sqlite3", 0o600)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA busy_timeout = 10000")
        self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        self._db.executescript(_SCHEMA)

    def sweep(self, now: float) -> None:
        """Drop expired files, and what a kill left on disk between two steps."""
        for (doc,) in self._rows("SELECT doc FROM files"):
            record = msgspec.json.decode(doc, type=FileRecord)
            if _is_expired(record, now):
                self.drop_file(record.id)
        known = {file_id for (file_id,) in self._rows("SELECT id FROM files")}
        for path in (self.home / "files").iterdir():
            if path.name not in known:
                path.unlink()
        running = {batch.id for batch in self.unfinished()}
        for path in (self.home / "runs").iterdir():
            if path.stem not in running:
                path.unlink()

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, sql: str, *args: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, args).fetchall()

    # files

    def new_file_id(self) -> str:
        """Return a fresh file id."""
        return "file-" + "".join(secrets.choice(_ALPHABET) for _ in range(22))

    def file_path(self, file_id: str) -> Path:
        """Return where the bytes of a file lie."""
        return self.home / "files" / file_id

    def incoming_path(self) -> Path:
        """Return a fresh path for bytes that are not a file yet."""
        return self.home / "incoming" / secrets.token_hex(8)

    def run_path(self, batch_id: str) -> Path:
        """Return the append-only record of a batch's answered rows."""
        return self.home / "runs" / f"{batch_id}.rows"

    def run_input_path(self, batch_id: str) -> Path:
        """Return the batch's own hold on its input, which outlives a deleted file."""
        return self.home / "runs" / f"{batch_id}.input"

    def drop_run(self, batch_id: str) -> None:
        """Forget the working files of a batch that has ended."""
        self.run_path(batch_id).unlink(missing_ok=True)
        self.run_input_path(batch_id).unlink(missing_ok=True)

    def add_file(self, record: FileRecord, content: Path) -> None:
        """Take over the bytes at `content` and record the file."""
        os.chmod(content, 0o600)
        os.replace(content, self.file_path(record.id))
        with self._writing() as db:
            _insert_file(db, record)

    def file(self, file_id: str, now: float) -> FileRecord | None:
        """Return a file that exists and has not expired."""
        rows = self._rows("SELECT doc FROM files WHERE id = ?", file_id)
        if not rows:
            return None
        record = msgspec.json.decode(rows[0][0], type=FileRecord)
        return None if _is_expired(record, now) else record

    def files(
        self, *, now: float, purpose: str | None, limit: int, after: str | None, newest_first: bool
    ) -> Page:
        """Return a page of the files that have not expired."""
        order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        sql, args = "SELECT doc FROM files WHERE 1", []
        if purpose is not None:
            sql, args = sql + " AND purpose = ?", [purpose]
        if after is not None:
            sql += f" AND seq {beyond} (SELECT seq FROM files WHERE id = ?)"
            args.append(after)
        docs = self._rows(f"{sql} ORDER BY seq {order}", *args)
        records = [msgspec.json.decode(doc, type=FileRecord) for (doc,) in docs]
        alive = [record for record in records if not _is_expired(record, now)]
        return Page(alive[:limit], len(alive) > limit)

    def drop_file(self, file_id: str) -> None:
        """Forget a file and its bytes."""
        with self._writing() as db:
            db.execute("DELETE FROM files WHERE id = ?", (file_id,))
        self.file_path(file_id).unlink(missing_ok=True)

    # batches

    def add_batch(self, record: BatchRecord) -> None:
        """Record a new batch."""
        with self._writing() as db:
            db.execute(
                "INSERT INTO batches (id, status, doc) VALUES (?, ?, ?)",
                (record.id, record.status, msgspec.json.encode(record)),
            )

    def batch(self, batch_id: str) -> BatchRecord | None:
        """Return a batch, or None when there is none of that id."""
        rows = self._rows("SELECT doc FROM batches WHERE id = ?", batch_id)
        return msgspec.json.decode(rows[0][0], type=BatchRecord) if rows else None

    def batches(
        self, *, limit: int, after: str | None, is_listed: Callable[[BatchRecord], bool]
    ) -> Page:
        """Return a page of the batches that are listed, newest first."""
        sql, args = "SELECT doc FROM batches", []
        if after is not None:
            sql, args = sql + " WHERE seq < (SELECT seq FROM batches WHERE id = ?)", [after]
        docs = self._rows(f"{sql} ORDER BY seq DESC", *args)
        records = (msgspec.json.decode(doc, type=BatchRecord) for (doc,) in docs)
        listed = list(islice(filter(is_listed, records), limit + 1))
        return Page(listed[:limit], len(listed) > limit)

    def all_batches(self) -> list[BatchRecord]:
        """Return every batch ever created, oldest first."""
        docs = self._rows("SELECT doc FROM batches ORDER BY seq")
        return [msgspec.json.decode(doc, type=BatchRecord) for (doc,) in docs]

    def unfinished(self) -> list[BatchRecord]:
        """Return the batches whose status can still change, oldest first."""
        marks = ", ".join(f"'{status}'" for status in TERMINAL)
        docs = self._rows(f"SELECT doc FROM batches WHERE status NOT IN ({marks}) ORDER BY seq")
        return [msgspec.json.decode(doc, type=BatchRecord) for (doc,) in docs]

    def count_by_status(self) -> dict[str, int]:
        """Return how many batches are in each status."""
        return dict(self._rows("SELECT status, count(*) FROM batches GROUP BY status"))

    def amend(self, batch_id: str, *, bills: Mapping[Bill, int], **changes: Any) -> None:
        """Change members of a batch other than its status, and bill, in one transaction."""
        with self._writing() as db:
            record = msgspec.structs.replace(_locked_batch(db, batch_id), **changes)
            _write_batch(db, record)
            _add_bills(db, bills)

    def move(
        self,
        batch_id: str,
        to: Status,
        now: float,
        *,
        files: list[FileRecord] | None = None,
        **changes: Any,
    ) -> BatchRecord | None:
        """Move a batch to `to` with its files in one transaction; None if the move is not legal."""
        with self._writing() as db:
            record = _locked_batch(db, batch_id)
            if to not in MOVES[record.status]:
                return None
            changes |= {f"{to}_at": int(now), "phase_started": now, "status": to}
            record = msgspec.structs.replace(record, **changes)
            _write_batch(db, record)
            for file in files or []:
                _insert_file(db, file)
            return record

    # the ledger

    def bill(self, bill: Bill) -> None:
        """Bill one request."""
        with self._writing() as db:
            _add_bills(db, {bill: 1})

    def ledger(self) -> list[tuple[Bill, int]]:
        """Return every bill that differs, and how many requests there were of it."""
        rows = self._rows("SELECT * FROM ledger ORDER BY 1, 2, 3, 4, 5, 6")
        return [(Bill(Lane(lane), *rest), requests) for lane, *rest, requests in rows]

    # settings

    def setting(self, name: str, default: Any) -> Any:
        """Return a kept setting."""
        rows = self._rows("SELECT value FROM settings WHERE name = ?", name)
        return json.loads(rows[0][0]) if rows else default

    def keep_setting(self, name: str, value: Any) -> None:
        """Keep a setting over restarts."""
        with self._writing() as db:
            db.execute("REPLACE INTO settings VALUES (?, ?)", (name, json.dumps(value)))

    def is_first_failure(self, digest: str) -> bool:
        """Record that a row fails now; False if it has failed its one time before."""
        with self._writing() as db:
            cursor = db.execute("INSERT OR IGNORE INTO failed_once VALUES (?)", (digest,))
            return cursor.rowcount == 1


def _is_expired(record: FileRecord, now: float) -> bool:
    return record.expires_at is not None and record.expires_at <= now


def _insert_file(db: sqlite3.Connection, record: FileRecord) -> None:
    db.execute(
        "INSERT INTO files (id, purpose, doc) VALUES (?, ?, ?)",
        (record.id, record.purpose, msgspec.json.encode(record)),
    )


def _locked_batch(db: sqlite3.Connection, batch_id: str) -> BatchRecord:
    row = db.execute("SELECT doc FROM batches WHERE id = ?", (batch_id,)).fetchone()
    return msgspec.json.decode(row[0], type=BatchRecord)


def _write_batch(db: sqlite3.Connection, record: BatchRecord) -> None:
    db.execute(
        "UPDATE batches SET status = ?, doc = ? WHERE id = ?",
        (record.status, msgspec.json.encode(record), record.id),
    )


def _add_bills(db: sqlite3.Connection, bills: Mapping[Bill, int]) -> None:
    db.executemany(
        "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET requests = requests + excluded.requests",
        [(*msgspec.structs.astuple(bill), requests) for bill, requests in bills.items()],
    )
