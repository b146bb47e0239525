"""The snapshot on disk: the same frame comes back, or what does not is named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from odd_frames import COLUMNS, INDEXES, LABELS, UNSTORED, N, plain
from PIL import Image

from batch_magic import frame as frames
from batch_magic.errors import JournalError
from batch_magic.stored_frame import load, store


def assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(
        one, other, check_exact=True, check_index_type="exact", check_column_type="exact"
    )
    for place in range(one.shape[1]):
        if one.dtypes.iloc[place].kind == "O" and one.dtypes.iloc[place] == "object":
            ours, theirs = one.iloc[:, place], other.iloc[:, place]
            assert [type(value) for value in ours] == [type(value) for value in theirs]


def round_trip(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    stored = store(frame, path)
    assert stored.unstored == ()
    assert stored.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    again, missing = load(path)
    assert missing == []
    assert frames.fingerprint(again) == frames.fingerprint(frame)
    return again


@pytest.mark.parametrize("name", COLUMNS)
def test_a_stored_column_comes_back_equal(name: str, tmp_path: Path) -> None:
    """A result after a restart has the dtypes of the frame at submit, cell types included."""
    frame = pd.DataFrame({"x": COLUMNS[name]})
    assert_same(frame, round_trip(frame, tmp_path / "f.parquet"))


@pytest.mark.parametrize("name", INDEXES)
def test_a_stored_index_comes_back_equal(name: str, tmp_path: Path) -> None:
    """The index is the user's; it is no identity but it is kept."""
    frame = plain(INDEXES[name])
    assert_same(frame, round_trip(frame, tmp_path / "f.parquet"))


@pytest.mark.parametrize("name", LABELS)
def test_stored_labels_come_back_equal(name: str, tmp_path: Path) -> None:
    """Duplicate, non-string and many-levelled column names survive."""
    frame = plain(labels=LABELS[name])
    assert_same(frame, round_trip(frame, tmp_path / "f.parquet"))


def test_many_groups_and_all_columns_together(tmp_path: Path) -> None:
    """A frame longer than one row group is one frame again."""
    wide = pd.DataFrame(COLUMNS)
    assert_same(wide, round_trip(wide, tmp_path / "f.parquet"))
    long = pd.DataFrame({"n": range(120_001), "t": [f"{n}" for n in range(120_001)]})
    long["c"] = long["t"].str[-1].astype("category")
    assert_same(long, round_trip(long, tmp_path / "f.parquet"))


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(),
        pd.DataFrame(index=[3, 3]),
        pd.DataFrame(index=pd.RangeIndex(4)),
        pd.DataFrame({"a": pd.Series([], dtype="category")}),
        plain().iloc[:0],
    ],
    ids=str,
)
def test_frames_with_nothing_in_them(frame: pd.DataFrame, tmp_path: Path) -> None:
    """No rows or no columns is still a frame."""
    assert_same(frame, round_trip(frame, tmp_path / "f.parquet"))
    statuses = frames.status_column(np.zeros(len(frame), np.uint8))
    assert frames.attach(frame, {"gpt_status": statuses}).shape[0] == len(frame)


def test_what_cannot_be_stored_is_named_and_taken_from_the_live_frame(tmp_path: Path) -> None:
    """Images stay in memory; the rest of the frame is on disk, and no pickle anywhere."""
    frame = plain()
    frame.insert(1, "image", [Image.new("RGB", (2, 2))] * N)
    frame.attrs = {"kept": [1], "not kept": object()}
    path = tmp_path / "f.parquet"
    assert store(frame, path).unstored == ("image",)
    assert [each.name for each in tmp_path.iterdir()] == ["f.parquet"]
    left, missing = load(path)
    assert (list(left.columns), missing, left.attrs) == (["a", "t"], ["image"], {"kept": [1]})
    whole, missing = load(path, frame)
    assert list(whole.columns) == ["a", "image", "t"]
    assert missing == []
    assert whole["image"].iloc[0] is frame["image"].iloc[0]
    assert b"pickle" not in path.read_bytes()


@pytest.mark.parametrize("name", UNSTORED)
def test_a_column_that_would_change_is_named_instead(name: str, tmp_path: Path) -> None:
    """Almost equal is not equal; with the live frame at hand nothing is lost."""
    frame = pd.DataFrame({"a": range(N), "x": UNSTORED[name]})
    path = tmp_path / "f.parquet"
    assert store(frame, path).unstored == ("x",)
    left, missing = load(path)
    assert (list(left.columns), missing) == (["a"], ["x"])
    assert_same(load(path, frame)[0], frame)


def test_labels_that_would_change_are_named_instead(tmp_path: Path) -> None:
    """Odd labels stop no run."""
    frame = plain(pd.Index([1, "a", None, 2.5, {1}], dtype=object))
    frame.columns = pd.Index(["a", object()], dtype=object)
    path = tmp_path / "f.parquet"
    assert store(frame, path).unstored == ("the index", "the column names")
    left, missing = load(path)
    assert left[0].tolist() == list(range(N))
    assert missing == ["the index", "the column names"]
    assert_same(load(path, frame)[0], frame)


def test_a_frame_that_came_back_may_be_written_to(tmp_path: Path) -> None:
    """Arrow's memory is read-only; the user's frame is not."""
    frame = round_trip(plain(), tmp_path / "f.parquet")
    frame.loc[0, "a"] = 99
    frame["a"].to_numpy(copy=True)[0] = 1
    assert frame["a"].tolist() == [99, 1, 2, 3, 4]


def test_a_file_that_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    """Damage is one line, not a traceback from Arrow."""
    path = tmp_path / "f.parquet"
    path.write_bytes(b"PAR1 garbage")
    with pytest.raises(JournalError, match=r"f\.parquet"):
        load(path)
    plain().to_parquet(path)
    with pytest.raises(JournalError, match="no frame snapshot"):
        load(path)
