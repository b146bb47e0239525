"""Whatever comes in from outside, nothing but our own errors goes out: hypothesis at every door.

`HYPOTHESIS_PROFILE=deep` looks twenty times as long.
"""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_magic import api, cell_line, exact_json, schema
from batch_magic.cell_body import almost_role_lines
from batch_magic.errors import BatchMagicError, JournalError
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
    with contextlib.suppress(BatchMagicError):
        api._read_job(answer)


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


@given(JSON | st.dictionaries(st.sampled_from(["backend", "request", "limits", "notes"]), JSON))
def test_any_row_of_a_journal_is_read_or_refused(facts: Any) -> None:
    """A journal can be a stranger's."""
    with sqlite3.connect(":memory:") as db:
        for _, sql in schema.MIGRATIONS:
            schema._execute_all(db, sql)
        row = ("r", "n", 0.0, 1, "i", "b", "m", json.dumps(facts), "{}", "[]")
        nothing = (None, None, None, None, None, "{}", None, "[]")
        with contextlib.suppress(JournalError):
            schema.read_run(db, row + nothing)
