"""The tables of the journal, and how a record is written in them and read again.

It knows the SQL schema, its migrations and the JSON in its columns, and refuses to know when
anything is written or who may: that is `journal`'s. The trap is time: a step that was released
is never edited, and a record written by an older version must read as well.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Annotated, Any

import msgspec

from batch_magic.errors import JournalError
from batch_magic.records import (
    Backend,
    Ending,
    Estimate,
    Job,
    Layout,
    Lease,
    Limits,
    Mark,
    Pause,
    Point,
    Request,
    RowStatus,
    RunRecord,
    Shard,
    Thumb,
    Wish,
    Wishes,
)

log = logging.getLogger(__name__)

APPLICATION_ID = 0x67707462  # "gptb": how `file` and we know the database as ours

SCHEMA = """
CREATE TABLE runs (
    run_id       TEXT PRIMARY KEY,
    name         TEXT NOT NULL,     -- the variable that receives the result
    created_at   REAL NOT NULL,     -- all times: Unix seconds by this machine's clock
    rows         INTEGER NOT NULL,
    identity     TEXT NOT NULL,     -- hash over lines, frame and layout: the same cell again
    backend_id   TEXT NOT NULL,     -- where answers may be reused from
    model        TEXT NOT NULL,     -- as asked for; narrows the search for reusable answers
    facts        TEXT NOT NULL,     -- JSON: what is fixed at submit (backend, request, layout …)
    decided      TEXT NOT NULL,     -- JSON {status: rows} settled without a job of this run
    lenders      TEXT NOT NULL,     -- JSON list of run ids still awaited
    cancel_at    REAL,              -- null unless a cancel was asked for
    resumed_at   REAL,              -- when it last went on after a stop
    ending       TEXT,              -- null while anything is left to do
    ended_at     REAL,
    fault        TEXT,              -- why it stopped; ended: its rows' commonest error
    counts       TEXT NOT NULL,     -- JSON {status: rows}; empty until ended
    model_served TEXT
);
CREATE INDEX runs_by_identity ON runs (identity);
CREATE INDEX runs_by_name ON runs (name, created_at);
CREATE TABLE shards (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    number INTEGER NOT NULL,        -- from 0, in order of writing
    rows   INTEGER NOT NULL,
    bytes  INTEGER NOT NULL,
    sha256 TEXT NOT NULL,           -- of the shard's manifest: positions and line hashes
    round  INTEGER NOT NULL,        -- 0, then one more for each retry
    held   INTEGER NOT NULL,        -- 1: waits for another run's answers, has no job
    PRIMARY KEY (run_id, number)
);
CREATE TABLE jobs (
    run_id   TEXT NOT NULL REFERENCES runs (run_id),
    number   INTEGER NOT NULL,
    stage    TEXT NOT NULL,         -- ours; see records.JobStage
    batch_id TEXT,                  -- the receipt; null until the service has answered
    facts    TEXT NOT NULL,         -- JSON: the rest of records.Job
    PRIMARY KEY (run_id, number)
);
CREATE INDEX jobs_by_batch ON jobs (batch_id);
CREATE TABLE history (
    at     REAL NOT NULL,
    run_id TEXT NOT NULL,
    job    INTEGER,                 -- null: about the run
    event  TEXT NOT NULL
);
CREATE TABLE leases (
    run_id     TEXT PRIMARY KEY,
    owner      TEXT NOT NULL,       -- one engine of one process
    pid        INTEGER NOT NULL,
    host       TEXT NOT NULL,       -- a dead pid on this host frees the lease at once
    expires_at REAL NOT NULL
);
"""

WISHES = """
ALTER TABLE runs ADD COLUMN wish TEXT NOT NULL DEFAULT '[]';  -- JSON list of statuses
"""

FILES = """
CREATE TABLE files (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    name   TEXT NOT NULL,           -- in the run's folder
    sha256 TEXT NOT NULL,
    PRIMARY KEY (run_id, name)
);
"""

MODELS = """
ALTER TABLE shards ADD COLUMN model TEXT NOT NULL DEFAULT '';  -- all lines ask it; '': the run's
"""

LIVE = """
ALTER TABLE runs ADD COLUMN live_at REAL;  -- when the user asked for the rest to be finished live
"""

MONEY = """
ALTER TABLE runs ADD COLUMN asks_usd REAL;  -- waits for the user's word to spend so much
ALTER TABLE runs ADD COLUMN saved TEXT NOT NULL DEFAULT '{}';  -- JSON {why: dollars}, once ended
"""

DEADLINE = """
ALTER TABLE runs ADD COLUMN deadline_from REAL;  -- its deadline counts from here, not from submit
"""

MARKS = """
CREATE TABLE marks (
    run_id   TEXT NOT NULL REFERENCES runs (run_id),
    position INTEGER NOT NULL,      -- of the row in the frame at submit
    thumb    TEXT,                  -- up, down or null
    note     TEXT,
    at       REAL NOT NULL,
    PRIMARY KEY (run_id, position)
);
"""

PROGRESS = """
CREATE TABLE progress (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    at     REAL NOT NULL,
    rows   INTEGER NOT NULL,        -- done by then
    PRIMARY KEY (run_id, at)
) WITHOUT ROWID;
"""

NOTEBOOKS = """
ALTER TABLE runs ADD COLUMN notebook TEXT NOT NULL DEFAULT '';  -- where it was submitted, if known
ALTER TABLE leases ADD COLUMN notebook TEXT NOT NULL DEFAULT '';  -- whose kernel drives it
CREATE INDEX history_by_run ON history (run_id);
"""

PAUSES = """
CREATE TABLE pauses (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    begins REAL NOT NULL,           -- it had ended, or stopped with nothing at the service
    ends   REAL NOT NULL,           -- it went on
    PRIMARY KEY (run_id, begins)
) WITHOUT ROWID;
"""

MIGRATIONS: tuple[tuple[str, str], ...] = (
    ("2026-11-22 first schema", SCHEMA),
    ("2026-11-22 rows to be sent again on request", WISHES),
    ("2026-11-22 hashes of files", FILES),
    ("2026-11-22 a model of each shard", MODELS),
    ("2026-11-22 rows to be finished live", LIVE),
    ("2026-11-22 leave to spend, and savings", MONEY),
    ("2026-11-22 a deadline that counts anew", DEADLINE),
    ("2026-11-22 marks on rows", MARKS),
    ("2026-11-22 how many rows were done when", PROGRESS),
    ("2026-11-22 the notebook of a run", NOTEBOOKS),
    ("2026-11-23 when a run lay idle", PAUSES),
)
"""Named steps, in order. A step is never edited once released; a change is a new step."""


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    # An interrupt may come between any two lines: what it left open is closed first.
    roll_back(db)
    try:
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")
    finally:
        roll_back(db)


def roll_back(db: sqlite3.Connection) -> None:
    # A full disk rolls back by itself, and a commit that fails leaves the transaction open.
    if db.in_transaction:
        db.execute("ROLLBACK")


def check_ours(db: sqlite3.Connection) -> None:
    """Refuse a database of somebody else's before anything in it is changed."""
    # In this order: another process that makes the journal just now commits both at once.
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (app_id,) = db.execute("PRAGMA application_id").fetchone()
    if tables and app_id != APPLICATION_ID:
        raise JournalError("journal.db in the home folder is not batch_magic's; move it away")


def migrate(db: sqlite3.Connection) -> None:
    """Bring the database to this version's schema, or say why that cannot be done."""
    with transaction(db):
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY)")
        applied = [row[0] for row in db.execute("SELECT name FROM migrations ORDER BY rowid")]
        known = [name for name, _ in MIGRATIONS]
        if applied != known[: len(applied)]:
            raise JournalError(
                "the home folder was written by a newer batch_magic;"
                " run `pip install -U batch_magic` or choose another home"
            )
        for name, sql in MIGRATIONS[len(applied) :]:
            _execute_all(db, sql)
            db.execute("INSERT INTO migrations VALUES (?)", (name,))


def _execute_all(db: sqlite3.Connection, sql: str) -> None:
    # Not executescript: it would commit the transaction that makes a migration whole.
    without_comments = "\n".join(line.split("--")[0] for line in sql.splitlines())
    for statement in without_comments.split(";"):
        if statement.strip():
            db.execute(statement)


# -- records as rows ------------------------------------------------------------------------
# By the columns' names, always: a newer version may add some while this one is running.

SELECT_RUNS = (
    "SELECT run_id, name, created_at, rows, identity, facts, decided, lenders, cancel_at,"
    " resumed_at, ending, ended_at, fault, counts, model_served, wish, live_at,"
    " asks_usd, saved, deadline_from, notebook FROM runs"
)


def run_facts(run: RunRecord) -> str:
    facts = {
        "backend": asdict(run.backend),
        "request": {**asdict(run.request), "extras": list(run.request.extras)},
        "layout": asdict(run.layout),
        "limits": asdict(run.limits),
        "fingerprint": run.fingerprint,
        "unstored": run.unstored,
        "twins": run.twins,
        "notes": run.notes,
        "estimate": None if run.estimate is None else asdict(run.estimate),
    }
    return json.dumps(facts)


SELECT_LEASES = "SELECT run_id, owner, pid, host, expires_at, notebook FROM leases"


def read_lease(row: tuple[Any, ...]) -> tuple[str, Lease]:
    """Read a run's id and its lease from a row of `SELECT_LEASES`. Raises JournalError."""
    names = ("owner", "pid", "host", "expires_at", "notebook")
    try:
        return str(row[0]), msgspec.convert(dict(zip(names, row[1:], strict=True)), Lease)
    except msgspec.MsgspecError as error:
        raise JournalError(
            f"the lease of run {row[0]!r} in the journal is damaged ({str(error)[:200]});"
            " put a good copy of journal.db back"
        ) from error


def read_run(db: sqlite3.Connection, row: tuple[Any, ...]) -> RunRecord:
    """Read a run from its row of `SELECT_RUNS`. Raises JournalError for what nobody here wrote."""
    try:
        return _read_run(db, row)
    except (LookupError, TypeError, ValueError, AttributeError, msgspec.MsgspecError) as error:
        said = f"{type(error).__name__}: {error}"
        raise JournalError(
            f"run {row[0]!r} in the journal is damaged or of a newer batch_magic ({said:.200});"
            " restart this kernel, or put a good copy of journal.db back"
        ) from error


def _read_run(db: sqlite3.Connection, row: tuple[Any, ...]) -> RunRecord:
    run_id, name, created_at, rows, identity, facts_text, *rest = row
    decided, lenders, cancel_at, resumed_at, ending, ended_at, *rest = rest
    fault, counts, model_served, wishes, live_at, asks_usd, saved, deadline_from, notebook = rest
    # SQLite keeps anything in any column, and a journal may be a stranger's.
    msgspec.convert([name, identity, created_at, rows], tuple[_Name, str, float, _Rows])
    msgspec.convert(notebook, str)
    msgspec.convert([cancel_at, resumed_at, ended_at, live_at], list[float | None])
    msgspec.convert([asks_usd, deadline_from], list[float | None])
    msgspec.convert([fault, model_served], list[str | None])
    facts = json.loads(facts_text)
    shards = db.execute(
        "SELECT number, rows, bytes, sha256, round, held, model FROM shards WHERE run_id = ?"
        " ORDER BY number",
        (run_id,),
    )
    jobs = db.execute(
        "SELECT number, stage, batch_id, facts FROM jobs WHERE run_id = ? ORDER BY number",
        (run_id,),
    )
    return RunRecord(
        run_id=run_id,
        name=name,
        backend=msgspec.convert(facts["backend"], Backend),
        request=_read_request(facts["request"]),
        layout=msgspec.convert(facts["layout"], Layout),
        limits=msgspec.convert(_numbers(facts["limits"]), Limits),
        created_at=created_at,
        rows=rows,
        identity=identity,
        fingerprint=facts["fingerprint"],
        unstored=tuple(msgspec.convert(facts["unstored"], list[str])),
        decided=_read_counts(json.loads(decided)),
        twins=msgspec.convert(facts["twins"], int),
        notes=tuple(msgspec.convert(facts["notes"], list[str])),
        estimate=msgspec.convert(facts.get("estimate"), Estimate | None),
        asks_usd=asks_usd,
        lenders=tuple(msgspec.convert(json.loads(lenders), list[str])),
        shards=tuple(_read_shard(*one) for one in shards),
        jobs=tuple(_read_job(*one) for one in jobs),
        files=read_files(db, run_id),
        wishes=read_wishes(wishes),
        cancel_at=cancel_at,
        live_at=live_at,
        deadline_from=deadline_from,
        resumed_at=resumed_at,
        ending=None if ending is None else Ending(ending),
        ended_at=ended_at,
        fault=fault,
        counts=_read_counts(json.loads(counts)),
        model_served=model_served,
        saved=msgspec.convert(json.loads(saved), dict[str, float]),
        progress=_read_progress(db, run_id),
        pauses=_read_pauses(db, run_id),
        notebook=notebook,
    )


def _read_progress(db: sqlite3.Connection, run_id: str) -> tuple[Point, ...]:
    found = db.execute("SELECT at, rows FROM progress WHERE run_id = ? ORDER BY at", (run_id,))
    return tuple(Point(*msgspec.convert(row, tuple[float, _Rows])) for row in found)


def _read_pauses(db: sqlite3.Connection, run_id: str) -> tuple[Pause, ...]:
    query = "SELECT begins, ends FROM pauses WHERE run_id = ? ORDER BY begins"
    found = db.execute(query, (run_id,))
    return tuple(Pause(*msgspec.convert(row, tuple[float, float])) for row in found)


def put_progress(db: sqlite3.Connection, run_id: str, points: Iterable[Point]) -> None:
    """Write the points that a run has from now on: those that are not among them go."""
    wanted = {(point.at, point.rows) for point in points}
    known = set(db.execute("SELECT at, rows FROM progress WHERE run_id = ?", (run_id,)))
    forget = "DELETE FROM progress WHERE run_id = ? AND at = ?"
    db.executemany(forget, [(run_id, at) for at, _ in known - wanted])
    add = "INSERT INTO progress (run_id, at, rows) VALUES (?,?,?)"
    db.executemany(add, [(run_id, at, rows) for at, rows in sorted(wanted - known)])


def read_files(db: sqlite3.Connection, run_id: str) -> dict[str, str]:
    files = dict(db.execute("SELECT name, sha256 FROM files WHERE run_id = ?", (run_id,)))
    for name in files:
        if not _FILE_NAME.fullmatch(name):  # it will be joined to the run's folder
            raise ValueError(f"a file is called {name!r}")
    return files


def put_files(db: sqlite3.Connection, run_id: str, files: Mapping[str, str]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO files (run_id, name, sha256) VALUES (?,?,?)",
        [(run_id, name, sha256) for name, sha256 in files.items()],
    )


def read_marks(db: sqlite3.Connection, run_id: str) -> dict[int, Mark]:
    """Read what was noted about rows, by position.

    What nobody can have written is left out, told of and left where it is: it must not stand
    before answers that were paid for.
    """
    query = (
        "SELECT position, CAST(thumb AS BLOB), CAST(note AS BLOB) FROM marks WHERE run_id = ?"
        " ORDER BY position"
    )
    marks: dict[int, Mark] = {}
    for position, *halves in db.execute(query, (run_id,)):
        thumb, note = map(_text_of, halves)
        mark = Mark(Thumb(thumb) if thumb in tuple(Thumb) else None, note)
        is_row = isinstance(position, int) and position >= 0
        if is_row and mark != Mark():
            marks[position] = mark
        if not is_row or [mark.thumb is None, mark.note is None] != [one is None for one in halves]:
            log.warning(_DAMAGED, position, run_id)
    return marks


_DAMAGED = (
    "what is noted on row %s of run %s is damaged in the journal: what cannot be read of it is left"
    " out; put a good copy of journal.db back to have it"
)


def _text_of(data: bytes | None) -> str | None:
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        return None


def _read_request(facts: dict[str, Any]) -> Request:
    several = tuple(msgspec.convert(facts.get("several_models", []), list[str]))
    prices = msgspec.convert(facts.get("prices", {}), dict[str, dict[str, float]])
    for name in ("deadline_s", "max_cost_usd"):
        msgspec.convert(facts.get(name), float | None)
    read = {"extras": tuple(facts["extras"]), "several_models": several, "prices": prices}
    return Request(**{**facts, **read})


def _numbers(limits: Mapping[str, Any]) -> dict[str, Any]:
    # Earlier versions took retries=False for a number, as Python does.
    return {name: int(one) if isinstance(one, bool) else one for name, one in limits.items()}


def _read_shard(
    number: int, rows: int, size: int, sha256: str, nth: int, held: int, model: str
) -> Shard:
    # SQLite keeps a text in a column of integers, and the number stands in a file's name.
    return msgspec.convert(
        {"number": number, "rows": rows, "bytes": size, "sha256": sha256, "round": nth}
        | {"held": bool(held), "model": model},
        Shard,
    )


# Learned once, under the import's lock: two threads that do it at once end the process (see
# `result_lines`).
for _kind in (Job, Layout, Limits, Backend, Shard, Estimate, Mark, Lease):
    msgspec.json.Decoder(_kind)

_Rows = Annotated[int, msgspec.Meta(ge=0, le=10**9)]
_Name = Annotated[str, msgspec.Meta(pattern=r"^(?!__)[^\W\d]\w*$")]  # a variable's, no other
_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,80}")

_JOB_COLUMNS = ("number", "stage", "batch_id", "counts")


def job_facts(job: Job) -> str:
    facts = {key: value for key, value in asdict(job).items() if key not in _JOB_COLUMNS}
    return json.dumps({**facts, "counts": json.loads(counts_json(job.counts))})


def _read_job(number: int, stage: str, batch_id: str | None, facts_text: str) -> Job:
    facts = json.loads(facts_text)
    counts = _read_counts(facts.pop("counts"))
    whole = {**facts, "number": number, "stage": stage, "batch_id": batch_id}
    return replace(msgspec.convert(whole, Job), counts=counts)


def counts_json(counts: Mapping[RowStatus, int]) -> str:
    return json.dumps({status.label: n for status, n in counts.items() if n})


def _read_counts(counts: Any) -> dict[RowStatus, int]:
    numbers = msgspec.convert(counts, dict[str, int])
    return {RowStatus[label.upper()]: n for label, n in numbers.items()}


_CAUSE, _BUT = "cause:", "but:"
_KEY = re.compile(r"[0-9a-f]{16}")


def wishes_json(wishes: Wishes) -> str:
    """Write each wish as a list of statuses and, marked, of causes and of shards that it spares.

    They stand in one list so that a version which knows less cannot read, and so cannot half grant,
    a wish for some rows of a status.
    """
    return json.dumps(sorted(map(_wish_words, wishes)))


def _wish_words(wish: Wish) -> list[str]:
    labels = sorted(status.label for status in wish.statuses)
    causes = [f"{_CAUSE}{key}" for key in sorted(wish.causes)]
    return [*labels, *causes, *(f"{_BUT}{shard}" for shard in sorted(wish.but))]


def read_wishes(text: str) -> Wishes:
    """Read what `wishes_json` wrote, or a single wish of an earlier version.

    Raises ValueError and its kin for anything else.
    """
    found = msgspec.convert(json.loads(text), list[str | list[str]])
    lists = [one for one in found if isinstance(one, list)]
    words = [one for one in found if isinstance(one, str)]
    return frozenset(map(_read_wish, [*lists, words] if words else lists))


def _read_wish(words: list[str]) -> Wish:
    keys = frozenset(word.removeprefix(_CAUSE) for word in words if word.startswith(_CAUSE))
    but = [word.removeprefix(_BUT) for word in words if word.startswith(_BUT)]
    if not all(_KEY.fullmatch(key) for key in keys):
        raise ValueError(f"a cause is called {min(keys)!r}")
    if not all(shard.isdecimal() and shard.isascii() for shard in but):
        raise ValueError(f"a shard is called {min(but)!r}")
    labels = [word for word in words if not word.startswith((_CAUSE, _BUT))]
    statuses = frozenset(RowStatus[label.upper()] for label in labels)
    return Wish(statuses, keys, frozenset(map(int, but)))


def add_decided(db: sqlite3.Connection, run_id: str, more: Mapping[RowStatus, int]) -> None:
    (text,) = db.execute("SELECT decided FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    decided = Counter(_read_counts(json.loads(text)))
    decided.update(more)
    db.execute("UPDATE runs SET decided = ? WHERE run_id = ?", (counts_json(decided), run_id))


def insert_shards(db: sqlite3.Connection, run_id: str, shards: Iterable[Shard]) -> None:
    db.executemany(
        "INSERT INTO shards (run_id, number, rows, bytes, sha256, round, held, model)"
        " VALUES (?,?,?,?,?,?,?,?)",
        [
            (run_id, s.number, s.rows, s.bytes, s.sha256, s.round, int(s.held), s.model)
            for s in shards
        ],
    )


def insert_jobs(db: sqlite3.Connection, run_id: str, jobs: Iterable[Job]) -> None:
    (first,) = db.execute(
        "SELECT coalesce(max(number) + 1, 0) FROM jobs WHERE run_id = ?", (run_id,)
    ).fetchone()
    db.executemany(
        "INSERT INTO jobs (run_id, number, stage, batch_id, facts) VALUES (?,?,?,?,?)",
        [
            (run_id, number, job.stage.value, job.batch_id, job_facts(job))
            for number, job in enumerate(jobs, start=first)
        ],
    )
