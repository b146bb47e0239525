"""Answers with a shape, from the cell to typed columns, over a real service and a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel, field_validator

import batch_magic as bm
from batch_magic import session
from batch_magic.drafting import Options
from batch_magic.errors import CellError
from batch_magic.records import RowStatus
from batch_magic.sandbox import launcher

FAST = {
    "BATCH_MAGIC_SANDBOX_ANSWERER": "stub",
    "BATCH_MAGIC_SANDBOX_TIME_SCALE": "1000",
    "BATCH_MAGIC_POLL_FIRST_S": "0.1",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One project for all: the sandbox starts once."""
    folder = tmp_path_factory.mktemp("shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in FAST.items():
            patch.setenv(name, value)
        patch.delenv("OPENAI_API_KEY", raising=False)
        yield folder / ".gptbatch"
        session.close_sessions()
        launcher.stop(folder / ".gptbatch" / "sandbox")


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"text": [f"row {n}" for n in range(6)]}, index=list("aabbcc"))


def submit(frame: pd.DataFrame, **options: Any) -> bm.Run:
    return bm.submit(frame, "{{ text }}", **{"model": "m", "on": "sandbox", **options})


class Point(BaseModel):
    x: int
    y: float


class Label(BaseModel):
    label: Literal["good", "bad"]
    score: float
    at: Point
    points: list[Point]


class Picky(BaseModel):
    label: Literal["good", "bad"]

    @field_validator("label")
    @classmethod
    def never_bad(cls, value: str) -> str:
        if value == "bad":
            raise ValueError("nothing is bad")
        return value


LINE = "label: good|bad, n: int, b: bool, day: date, at: datetime, tags: list[str], note: str?"
DTYPES = ["category", "Int64", "boolean", "datetime64[s]", "datetime64[us, UTC]"]


def test_fields_are_typed_columns_on_the_right_rows(home: Path, frame: pd.DataFrame) -> None:
    """Nullable types, categories with all their values, dates; the frame as it was."""
    run = submit(frame, out="typed", schema=LINE, prefix="p_")
    result = run.wait(timeout_s=30)
    assert [str(dtype) for dtype in result.dtypes[1:6]] == DTYPES
    assert str(result["p_note"].dtype) == "string"
    assert list(result["p_label"].cat.categories) == ["good", "bad"]
    assert result["p_tags"].map(type).eq(list).all()
    assert set(result["gpt_status"]) == {"ok"}
    pd.testing.assert_frame_equal(result[["text"]], frame)
    session.close_sessions()
    again = bm.attach("typed").wait(timeout_s=30)
    pd.testing.assert_frame_equal(again, result)


def test_a_model_of_the_notebook_is_a_schema(home: Path, frame: pd.DataFrame) -> None:
    """Objects stay dicts, or become columns on request; lists of objects stay lists."""
    result = submit(frame, out="model", schema=Label).wait(timeout_s=30)
    assert list(result.columns[1:5]) == ["label", "score", "at", "points"]
    assert set(result["at"].iloc[0]) == {"x", "y"}
    assert set(result["points"].iloc[0][0]) == {"x", "y"}
    flat = submit(frame, out="flat", schema=Label, flatten=True).wait(timeout_s=30)
    assert list(flat.columns[1:6]) == ["label", "score", "at.x", "at.y", "points"]
    assert flat["at.x"].tolist() == [one["x"] for one in result["at"]]
    assert str(flat["at.x"].dtype) == "Int64"
    assert bm.attach("flat").snapshot().jobs == (), "the same request: nothing was asked again"


def test_a_models_own_validators_make_misfits(home: Path, frame: pd.DataFrame) -> None:
    """Their reason is in gpt_error, with the answer."""
    result = submit(frame, out="picky", schema=Picky).wait(timeout_s=30)
    bad = result[result["gpt_status"] == "unparsed"]
    assert 0 < len(bad) < len(result)
    assert bad["label"].isna().all()
    assert bad["gpt_error"].str.contains("nothing is bad").all()
    assert bad["gpt_error"].str.contains('"label"').all()
    assert set(result["label"].dropna()) == {"good"}


def test_misfits_of_a_pattern_are_read_anew_by_another(home: Path, frame: pd.DataFrame) -> None:
    """For nothing: the answers are at hand."""
    run = submit(frame, out="split", parse="stub {hash:d}: {rest}")
    result = run.wait(timeout_s=30)
    misfits = result.query("gpt_status == 'unparsed'")
    assert len(misfits) > 0
    assert misfits["gpt_error"].str.contains("does not fit the pattern: stub ").all()
    assert str(result["hash"].dtype) == "Int64"
    jobs = len(run.snapshot().jobs)
    mine = session.session_for(str(home))
    mine.reparse("split", Options(out="", parse="stub {hash}: {rest}"))
    anew = run.result()
    assert set(anew["gpt_status"]) == {"ok"}
    assert anew["rest"].tolist() == frame["text"].tolist()
    assert run.snapshot().fault is None
    assert (len(run.snapshot().jobs), run.snapshot().counts[RowStatus.OK]) == (jobs, 6)
    session.close_sessions()
    pd.testing.assert_frame_equal(bm.attach("split").wait(timeout_s=30), anew)


def test_misfits_can_be_asked_for_again(home: Path, frame: pd.DataFrame) -> None:
    """`retry --status unparsed` sends those rows alone."""
    run = submit(frame, out="again", parse="stub {hash:d}: {rest}", fresh=True)
    misfits = int((run.wait(timeout_s=30)["gpt_status"] == "unparsed").sum())
    run.retry(["unparsed"])
    run.wait(timeout_s=30)
    assert run.snapshot().jobs[-1].rows == misfits


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"schema": 5}, "a int is no schema"),
        ({"schema": "label"}, "'label' is no field"),
        ({"schema": {"type": "object", "properties": {"a": {"oneOf": []}}}}, "told apart by"),
        (
            {"schema": {"type": "object", "properties": {"a": {"enum": {1}}}}},
            "(written as JSON|JSON serializable)",
        ),
        ({"schema": "a: str", "parse": "{a}"}, "name one of them"),
        ({"schema": "a: str", "column": "b"}, "say --prefix"),
        ({"schema": "text: str"}, "'text' is in the frame already"),
        ({"schema": "gpt_x: str"}, "names are taken"),
        ({"schema": "a: str", "params": {"response_format": {"type": "text"}}}, "leave it out"),
        ({"parse": "nothing"}, "has no fields"),
        ({"parse": "{a} {a}"}, "is there twice"),
        ({"parse": "{a}", "flatten": True}, "a pattern has none"),
        ({"prefix": "p_"}, "--prefix is for the columns of"),
    ],
)
def test_a_shape_that_cannot_be_used_is_one_line(
    home: Path, frame: pd.DataFrame, options: dict[str, Any], said: str
) -> None:
    """Nothing is sent, and nothing is left behind."""
    with pytest.raises(CellError, match=said) as caught:
        submit(frame, out="refused", **options)
    assert "\n" not in str(caught.value)
    assert "refused" not in bm.runs()["name"].tolist()


def test_two_columns_of_one_name_are_refused(home: Path, frame: pd.DataFrame) -> None:
    """A field `a.b` beside an object `a` with a field `b`."""
    inner = {"type": "object", "properties": {"b": {"type": "string"}}}
    schema = {"type": "object", "properties": {"a": inner, "a.b": {"type": "string"}}}
    with pytest.raises(CellError, match=r"two columns of the result are called 'a\.b'"):
        submit(frame, out="refused", schema=schema, flatten=True)


def test_json_mode_is_checked_here_and_said(home: Path, frame: pd.DataFrame) -> None:
    """Hosts without strict mode: what they answer is judged all the same."""
    run = submit(
        frame,
        out="loose",
        schema="a: int",
        params={"response_format": {"type": "json_object"}},
    )
    run.wait(timeout_s=30)
    assert any("JSON mode" in note for note in run.snapshot().notes)


def test_responses_answer_in_texts_and_fields(home: Path, frame: pd.DataFrame) -> None:
    """The newer endpoint, with its own names for everything."""
    plain = submit(frame, out="newer", endpoint="responses").wait(timeout_s=30)
    pairs = zip(plain["answer"], frame["text"], strict=True)
    assert all(answer.endswith(text) for answer, text in pairs)
    typed = submit(frame, out="newer_typed", endpoint="responses", schema="n: int, ok: bool")
    assert [str(t) for t in typed.wait(timeout_s=30).dtypes[1:3]] == ["Int64", "boolean"]


def test_vectors_are_arrays_and_flags_are_columns(home: Path, frame: pd.DataFrame) -> None:
    """What answers no text has columns all the same."""
    run = submit(frame, out="vectors", endpoint="embeddings", params={"dimensions": 8})
    vectors = run.wait(timeout_s=30)["embedding"]
    assert all(one.dtype == np.float32 and one.shape == (8,) for one in vectors)
    assert len({one.tobytes() for one in vectors}) == len(frame)
    session.close_sessions()
    again = bm.attach("vectors").wait(timeout_s=30)["embedding"]
    assert [one.tobytes() for one in again] == [one.tobytes() for one in vectors]
    flags = submit(frame, out="flags", endpoint="moderations").wait(timeout_s=30)
    assert str(flags["flagged"].dtype) == "boolean"
    assert set(flags["scores"].iloc[0]) == set(flags["categories"].iloc[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"endpoint": "nope"}, "endpoint 'nope' is not known"),
        ({"endpoint": "embeddings", "parse": "{a}"}, "answers without a text"),
        ({"endpoint": "completions", "schema": "a: int"}, "has no structured output"),
        ({"endpoint": "moderations", "column": "a"}, "say --prefix"),
        ({"endpoint": "responses", "schema": "a: int", "params": {"text": 5}}, "sets text.format"),
        ({"endpoint": "responses", "params": {"input": "x"}}, "comes from the cell's body"),
    ],
)
def test_an_endpoint_that_cannot_do_it_is_one_line(
    home: Path, frame: pd.DataFrame, options: dict[str, Any], said: str
) -> None:
    """Before anything is sent."""
    with pytest.raises(CellError, match=said):
        submit(frame, out="refused", **options)
