"""Both ends of a run: values out of any frame, and columns back in."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_frames import COLUMNS, UNSTORED, N, objects, plain

from batch_magic import frame as frames
from batch_magic.errors import FrameError
from batch_magic.records import RowStatus

MORE_COLUMNS: dict[str, Any] = {
    "interval of times": pd.interval_range(pd.Timestamp("2020", tz="UTC"), periods=N),
    "things": objects(
        uuid.UUID(int=7),
        pd.Timestamp("2020-01-01 00:00:00.000000001", tz="Asia/Seoul"),
        pd.Timedelta("1s"),
        datetime.timedelta(1),
        np.float32(0.1),
    ),
    "sparse float": pd.arrays.SparseArray([np.nan, 0, 1, np.nan, 2]),
}


def test_check_frame_says_what_to_do() -> None:
    """The commonest slips have a one-line cure."""
    with pytest.raises(FrameError, match="reviews is a list, not a DataFrame"):
        frames.check_frame([], "reviews")
    with pytest.raises(FrameError, match=r"use s\.to_frame\(\)"):
        frames.check_frame(pd.Series([1]), "s")
    assert frames.check_frame(frame := plain(), "x") is frame


def test_values_come_as_plain_python_and_missing_as_none() -> None:
    """What a template sees does not depend on how pandas keeps it."""
    frame = pd.DataFrame(COLUMNS | UNSTORED | MORE_COLUMNS)
    (chunk,) = frames.chunks(frame, tuple(frame.columns), with_index=False)
    assert chunk.columns["str"] == ["a", None, "", "한", "b"]
    assert chunk.columns["surrogate string"] == ["\ud800", *"abcd"]
    assert chunk.columns["float32"] == [0.1] * N
    assert chunk.columns["float64"] == [None, 1.0, 2.0, 3.0, 4.0]
    assert chunk.columns["Int64"] == [1, None, 3, 4, 2**62]
    assert chunk.columns["category of ints"] == [1, 2, None, 1, 2]
    assert chunk.columns["a mixture"] == ["a", None, None, 1, True]
    assert chunk.columns["timedelta"][1] is None
    assert chunk.columns["datetime s"][1] is None
    assert chunk.columns["missing ones"][:3] == [None, None, None]
    assert all(type(value) is int for value in chunk.columns["uint64"])


def test_chunks_cover_all_rows_in_order() -> None:
    """Row i of a chunk is position start + i, whatever the index says."""
    frame = plain([1, 1, 2, 2, 3])
    found = list(frames.chunks(frame, ["t"], with_index=True, size=2))
    assert [(c.start, c.size, c.columns["t"], c.index) for c in found] == [
        (0, 2, ["a", "b"], [1, 1]),
        (2, 2, ["c", "d"], [2, 2]),
        (4, 1, ["e"], [3]),
    ]
    assert [c.size for c in frames.chunks(frame, [], with_index=False, size=3)] == [3, 2]
    with pytest.raises(FrameError, match="2 times"):
        list(frames.chunks(plain(labels=["a", "a"]), ["a"], with_index=False))


def test_a_held_frame_sees_no_later_edit() -> None:
    """The result is the frame as it was at submit."""
    frame = plain()
    held = frames.hold(frame)
    frame.loc[0, "a"] = 99
    frame["new"] = 1
    frame.index.name = "renamed"
    frame.columns = ["x", "y", "z"]
    del frame["y"]
    pd.testing.assert_frame_equal(held, plain())


EDITS: dict[str, Callable[[pd.DataFrame], object]] = {
    "a cell": lambda frame: frame.__setitem__("text", ["mine", *frame["text"][1:]]),
    "a cell by its label": lambda frame: frame.loc.__setitem__((0, "text"), "mine"),
    "a number by its place": lambda frame: frame.iloc.__setitem__((1, 1), 9),
    "a nullable number": lambda frame: frame.loc.__setitem__((1, "score"), 9),
    "a value made missing": lambda frame: frame.loc.__setitem__((0, "score"), pd.NA),
    "a category": lambda frame: frame.loc.__setitem__((0, "label"), "b"),
    "an object": lambda frame: frame.at.__setitem__((0, "list"), [0]),
    "a time": lambda frame: frame.loc.__setitem__((0, "when"), frame["when"][1]),
    "a new column": lambda frame: frame.insert(0, "human", 1),
    "a column less": lambda frame: frame.drop(columns="text", inplace=True),
    "the name of a column": lambda frame: frame.rename(columns={"text": "words"}, inplace=True),
    "the order of rows": lambda frame: frame.sort_values("n", ascending=False, inplace=True),
    "rows less": lambda frame: frame.drop(index=0, inplace=True),
    "the index": lambda frame: frame.set_index("n", inplace=True),
    "the name of the index": lambda frame: setattr(frame.index, "name", "place"),
    "a dtype": lambda frame: frame.__setitem__("n", frame["n"].astype(float)),
    "order in a column": lambda frame: frame.__setitem__("list", frame["list"].array[::-1]),
}


def some_kinds() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "text": ["a", "b", None],
            "n": [1, 2, 3],
            "score": pd.array([1, None, 3], dtype="Int64"),
            "label": pd.Categorical(["a", "b", "a"]),
            "list": [[0], np.zeros(2), {"a": [1]}],
            "when": pd.date_range("2026-01-01", periods=3, tz="UTC"),
            "x": [0.5, float("nan"), 2.0],
        }
    )


@pytest.mark.filterwarnings("ignore:The inplace keyword")
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_in_place_is_noticed(edit: Callable[[pd.DataFrame], object]) -> None:
    """Whose work would be lost if another frame took its place."""
    frame = some_kinds()
    held = frames.hold(frame)
    edit(frame)
    assert not frames.is_as_held(frame, held)


def test_looking_at_a_frame_is_no_edit() -> None:
    """pandas moves its blocks about when it is asked for something."""
    frame = some_kinds()
    frame["y"] = 1.0
    held = frames.hold(frame)
    frame.describe()
    frame.to_numpy()
    frame.groupby("n").size()
    frame.sort_values("n").insert(0, "z", 3)
    assert frames.is_as_held(frame, held)
    assert frames.is_as_held(frame.copy(), held)


def test_fingerprint_tells_edits_and_order() -> None:
    """Sorted, edited or retyped is another frame; a copy is the same."""
    frame = plain()
    known = frames.fingerprint(frame)
    assert frames.fingerprint(frame.copy()) == known
    edited = frame.copy()
    edited.loc[3, "t"] = "D"
    for other in (
        edited,
        frame[::-1],
        frame.astype({"a": "int32"}),
        frame.rename(columns={"a": "b"}),
        frame.head(4),
        frame.set_axis(range(1, 6)),
    ):
        assert frames.fingerprint(other) != known


def test_text_column_keeps_nulls_and_empty_text_apart() -> None:
    """ "" is an answer, NA is none."""
    for values in (["", None, "한"], pa.array([b"", None, "한".encode()], pa.large_binary())):
        column = frames.text_column(values)
        assert isinstance(column.dtype, pd.StringDtype)
        assert column[0] == ""
        assert column[1] is pd.NA
        assert column[2] == "한"
    assert len(frames.text_column([])) == 0
    assert list(frames.text_column(pa.chunked_array([[b"a"], [b"b"]]))) == ["a", "b"]


def test_text_column_keeps_lone_surrogates() -> None:
    """An answer may hold one, and Arrow's UTF-8 cannot."""
    raw = pa.array(["\ud800".encode("utf-8", "surrogatepass"), None, b"a"], pa.binary())
    for values in (["\ud800", None, "a"], raw):
        column = frames.text_column(values)
        assert list(column) == ["\ud800", pd.NA, "a"]
        assert column.dtype == "string"


@given(st.lists(st.lists(st.none() | st.binary(max_size=4), max_size=5), max_size=4), st.data())
def test_gather_is_take(chunks: list[list[bytes | None]], data: st.DataObject) -> None:
    """Texts go to their rows, whichever chunk of the outcomes file holds them."""
    values = pa.chunked_array([pa.array(c, pa.large_binary()) for c in chunks], pa.large_binary())
    entry = data.draw(st.lists(st.integers(-1, len(values) - 1), max_size=9))
    found = frames.gather(values, np.array(entry, dtype=np.int64))
    found.validate(full=True)
    every = values.to_pylist()
    assert found.to_pylist() == [None if n < 0 else every[n] for n in entry]
    if len(values) > 1:
        part = frames.gather(values.slice(1), np.arange(len(values) - 1))
        assert part.to_pylist() == every[1:]


STATUS = frames.status_column(np.array([0, 4, 0, 7, 9], dtype=np.uint8))


def with_status(columns: dict[str, Any]) -> dict[str, Any]:
    return {"gpt_status": STATUS, **columns}


def test_attach_adds_columns_in_order() -> None:
    """Answer first, then the truth about each row."""
    frame = plain()
    columns = {"answer": list("vwxyz"), "gpt_status": STATUS, "gpt_error": [None] * N}
    result = frames.attach(frame, columns)
    assert list(result.columns) == ["a", "t", "answer", "gpt_status", "gpt_error"]
    assert list(result["gpt_status"]) == ["ok", "failed", "ok", "missing", "pending"]
    assert list(result["gpt_status"].cat.categories) == [each.label for each in RowStatus]
    assert list(frame.columns) == ["a", "t"]
    with pytest.raises(ValueError, match="4 values for 5 rows"):
        frames.attach(frame, with_status({"answer": list("abcd")}))


def test_attach_replaces_our_own_columns_and_asks_about_others() -> None:
    """Running the cell on its own result is usual; overwriting the user's column is not."""
    first = frames.attach(plain(), with_status({"answer": list("vwxyz"), "gpt_error": [None] * N}))
    with pytest.raises(FrameError, match="'answer' is in the frame already"):
        frames.attach(first, with_status({"answer": list("12345")}))
    frames.check_clash(first, ["other", "gpt_error"], "error")
    again = frames.attach(first, with_status({"answer": list("12345")}), on_clash="replace")
    assert list(again.columns) == ["a", "t", "gpt_error", "gpt_status", "answer"]
    assert list(again["answer"]) == list("12345")
    assert list(first["answer"]) == list("vwxyz")


def test_attach_copies_no_data() -> None:
    """A frame of gigabytes is not doubled for one more column."""
    frame = pd.DataFrame({"x": np.arange(1000.0), "gpt_old": 1.0})
    result = frames.attach(frame, {"gpt_old": ["a"] * 1000})
    assert np.shares_memory(result["x"].to_numpy(), frame["x"].to_numpy())
    result.loc[0, "x"] = 5.0
    assert frame.loc[0, "x"] == 0.0
