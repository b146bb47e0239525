"""Whatever comes in from outside, nothing but our own errors goes out: hypothesis at every door.

`HYPOTHESIS_PROFILE=deep` looks twenty times as long (see `conftest.py`).
"""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
from drafts import run_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_magic import api, cell_line, exact_json, schema
from batch_magic.cell_body import almost_role_lines
from batch_magic.errors import BatchMagicError, JournalError
from batch_magic.journal import Journal
from batch_magic.picture import snapshot
from batch_magic.records import (
    Job,
    JobStage,
    RemoteJob,
    Shard,
)
from batch_magic.result_lines import Decoder
from batch_magic.stored_frame import load, store
from batch_magic.template import compile_template

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=12,
)
MEMBERS = [
    *("id", "status", "created_at", "expires_at", "in_progress_at", "input_file_id", "model"),
    *("output_file_id", "error_file_id", "request_counts", "total", "completed", "failed"),
    *("errors", "data", "code", "message", "line", "metadata", "custom_id", "response"),
    *("status_code", "body", "choices", "content", "refusal", "usage", "error"),
]
OBJECTS = st.dictionaries(
    st.sampled_from(MEMBERS),
    JSON | st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=4),
    max_size=8,
)
JINJA = st.lists(
    st.sampled_from(
        [
            "{{",
            "}}",
            "{%",
            "%}",
            "{#",
            "#}",
            "text",
            "row",
            "|",
            "upper",
            "(",
            ")",
            "[",
            "]",
            "'",
            "if",
            "endif",
            "for",
            "in",
            "endfor",
            "set",
            "=",
            " ",
            "\n",
            "user:",
            "\\user:",
            "None",
            "1",
        ]
    )
    | st.text(max_size=3),
    max_size=14,
).map("".join)


@given(st.lists(OBJECTS | JSON, max_size=4), st.binary(max_size=60))
def test_any_result_file_is_read(rows: list[Any], noise: bytes) -> None:
    """A line is read or counted as malformed."""
    lines = [json.dumps(row).encode() for row in rows]
    data = b"\n".join([*lines, noise])
    for part in Decoder(run_id="r", ids={"x": 0}).outcomes(io.BytesIO(data)):
        assert len(part.positions) == len(part.statuses) == len(part.text)


@given(OBJECTS)
def test_any_batch_object_is_read_or_refused(answer: dict[str, Any]) -> None:
    """A host may say anything."""
    for odd in (answer, answer | {"id": "batch_1"}):
        with contextlib.suppress(BatchMagicError):
            read = api._read_job(odd)
            assert msgspec.convert(msgspec.to_builtins(read), RemoteJob) == read  # as in a journal


ODD = JSON | st.just(10**400) | st.lists(JSON, max_size=2)


@pytest.mark.parametrize(
    "member", ["request_counts", "errors", "metadata", "created_at", "model", "status"]
)
@given(ODD)
def test_any_member_of_a_batch_object_may_be_odd(member: str, value: Any) -> None:
    """One odd member leaves the others readable."""
    for odd in (value, {"data": value}, {"total": value, "code": value}):
        assert api._read_job({"id": "batch_1", member: odd}).batch_id == "batch_1"


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(JINJA)
def test_any_template_is_compiled_or_refused(body: str) -> None:
    """Its writer gets one line."""
    list(almost_role_lines(body))
    with contextlib.suppress(BatchMagicError):
        compile_template(body, columns=["text"])


@given(st.text(max_size=60))
def test_any_word_is_read_or_refused(text: str) -> None:
    """Durations and lines."""
    for read in (cell_line.duration_s, cell_line.split, cell_line.parse_cell):
        with contextlib.suppress(BatchMagicError):
            read(text)


@given(JSON | st.dictionaries(st.just("$") | st.just("of"), JSON))
def test_any_json_is_a_value_or_a_value_error(written: Any) -> None:
    """A snapshot may come from anybody."""
    with contextlib.suppress(ValueError):
        exact_json.loads(json.dumps(written))


def _snapshot() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "frame.parquet"
        store(pd.DataFrame({"t": ["a", None], "o": [[1], {}], "n": [1, 2]}), path)
        return path.read_bytes()


SNAPSHOT = _snapshot()


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.integers(0, len(SNAPSHOT) - 1), st.binary(max_size=8))
def test_any_snapshot_is_loaded_or_refused(at: int, noise: bytes) -> None:
    """Bits flip, files are cut."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "frame.parquet"
        path.write_bytes(SNAPSHOT[:at] + noise + SNAPSHOT[at + len(noise) :])
        with contextlib.suppress(JournalError):
            load(path)


def _journal() -> sqlite3.Connection:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "journal.db"
        journal = Journal(path)
        job = Job(0, 0, 0, 1, 9, JobStage.PLANNED, "token", remote=RemoteJob("batch_1", "new"))
        run = run_of(job, created_at=0.0, shards=(Shard(0, 1, 9, "0"),), files={"twins.npy": "0"})
        journal.add_run(run, owner="me", now=0.0, kin=[])
        journal.close()
        copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.backup(copy)
        return copy


JOURNAL = _journal()
COLUMNS = [
    *(f"runs.{name}" for name in ("name", "created_at", "rows", "identity", "facts", "decided")),
    *(f"runs.{name}" for name in ("lenders", "cancel_at", "ending", "ended_at", "counts", "wish")),
    *(f"shards.{name}" for name in ("number", "rows", "bytes", "sha256", "round", "held")),
    *(f"jobs.{name}" for name in ("number", "stage", "facts", "batch_id")),
    "files.name",
]


@pytest.mark.parametrize("column", COLUMNS)
@given(JSON | st.text(max_size=12).map(lambda text: f"/../{text}"))
def test_any_column_of_a_journal_is_read_or_refused(column: str, value: Any) -> None:
    """SQLite keeps any value in any column; what is a number here stands in a file's name."""
    text = value if isinstance(value, str) else json.dumps(value)
    table, _, name = column.partition(".")
    JOURNAL.execute("SAVEPOINT whole")
    try:
        JOURNAL.execute(f"UPDATE {table} SET {name} = ?", (text,))
        row = JOURNAL.execute(schema.SELECT_RUNS).fetchone()
        with contextlib.suppress(JournalError):
            read = schema.read_run(JOURNAL, row)
            assert all(type(one.number) is int for one in (*read.shards, *read.jobs))
            assert not any("/" in one for one in read.files)
            snapshot(read, 0.0)
    finally:
        JOURNAL.execute("ROLLBACK TO whole")


@given(JSON | st.dictionaries(st.sampled_from(["backend", "request", "limits", "notes"]), JSON))
def test_any_row_of_a_journal_is_read_or_refused(facts: Any) -> None:
    """A journal can be a stranger's."""
    with sqlite3.connect(":memory:") as db:
        for _, sql in schema.MIGRATIONS:
            schema._execute_all(db, sql)
        row = ("r", "n", 0.0, 1, "i", json.dumps(facts), "{}", "[]")
        nothing = (None, None, None, None, None, "{}", None, "[]")
        with contextlib.suppress(JournalError):
            schema.read_run(db, row + nothing)
