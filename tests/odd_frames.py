"""Frames of every kind that pandas knows: columns, indexes and labels, in five rows."""

from __future__ import annotations

import datetime
import decimal
import zoneinfo
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

N = 5
SEOUL = zoneinfo.ZoneInfo("Asia/Seoul")


def objects(*values: object) -> pd.Series:
    return pd.Series(list(values), dtype=object)


def arrow(values: list[Any], kind: pa.DataType) -> Any:
    return pd.array(values, dtype=pd.ArrowDtype(kind))


class Text(str):
    """No plain text."""


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


COLUMNS: dict[str, Any] = {
    "int8": np.arange(N, dtype="int8"),
    "uint64": np.full(N, 2**64 - 1, dtype="uint64"),
    "float16": np.array([1, np.nan, np.inf, -0.0, 0.1], dtype="float16"),
    "float32": np.full(N, 0.1, dtype="float32"),
    "float64": [np.nan, 1.0, 2.0, 3.0, 4.0],
    "bool": [True, False, True, False, True],
    "datetime ns": pd.to_datetime(["2020-01-01", None, "2021-01-01", "2022-01-01", None]).as_unit(
        "ns"
    ),
    "datetime s": pd.to_datetime(["2020-01-01", None, "2021-01-01", "2022-01-01", None]).as_unit(
        "s"
    ),
    "seoul": pd.date_range("2020", periods=N, tz="Asia/Seoul"),
    "offset": pd.date_range("2020", periods=N, tz=datetime.timezone(datetime.timedelta(hours=9))),
    "utc": pd.date_range("2020", periods=N, tz="UTC"),
    "timedelta": pd.to_timedelta([1, None, 3, 4, 5], unit="s"),
    "str": pd.Series(["a", None, "", "한", "b"], dtype="str"),
    "string": pd.Series(["a", None, "", "한", "b"], dtype="string"),
    "python string": pd.Series(["a", None, "", "한", "b"], dtype=pd.StringDtype("python")),
    "text objects": objects("a", None, "", "한", "b"),
    "text objects, nan": objects("a", np.nan, "", "한", "b"),
    "category": pd.Categorical(list("abaab"), categories=["b", "a", "z"], ordered=True),
    "category of ints": pd.Categorical([1, 2, None, 1, 2]),
    "category of times": pd.Categorical(pd.date_range("2020", periods=N)),
    "Int64": pd.array([1, None, 3, 4, 2**62], dtype="Int64"),
    "boolean": pd.array([True, None, True, False, False], dtype="boolean"),
    "Float64": pd.array([1.5, None, 2, 3, 4], dtype="Float64"),
    "arrow list": arrow([[1], None, [2, 3], [], [None]], pa.list_(pa.int64())),
    "arrow decimal": arrow([decimal.Decimal("1.1")] * N, pa.decimal128(5, 2)),
    "arrow string": arrow(["a", None, "b", "", ""], pa.string()),
    "arrow dictionary": arrow(["a", None, "b", "", ""], pa.dictionary(pa.int32(), pa.string())),
    "arrow struct": arrow([{"a": 1}] * N, pa.struct([("a", pa.int8())])),
    "lists": objects([1], [], None, [["a", 2.5]], ["한"]),
    "dicts": objects({"a": 1}, {"b": b"x"}, None, {1: (2, 3), "$": [True]}, {}),
    "a mixture": objects("a", None, np.nan, 1, True),
    "missing ones": objects(pd.NA, pd.NaT, None, float("inf"), 2**70),
    "surrogate": objects("a", None, "", "한", "\ud800"),
    "dates": objects(*(datetime.date(2020, 1, day) for day in range(1, N + 1))),
    "times": objects(datetime.time(1, 2), datetime.datetime(2020, 1, 1, 0, 0, 0, 7), None, "", 1),
    "decimals": objects(*map(decimal.Decimal, ("1.10", "-0", "1E+9", "NaN", "5"))),
    "arrow time": arrow([1, 2, 3, None, 4], pa.timestamp("ns", "Asia/Seoul")),
}

UNSTORED: dict[str, Any] = {
    "complex": np.full(N, 1j),
    "period": pd.period_range("2020-01", periods=N, freq="M"),
    "interval": pd.interval_range(0, N),
    "sparse": pd.arrays.SparseArray([0, 0, 1, 0, 2]),
    "big endian": np.arange(N, dtype=">i4"),
    "category of intervals": pd.cut(range(N), 2),
    "sets": objects({1}, {2}, {3}, {4}, {5}),
    "zoned times": objects(*[datetime.datetime(2020, 1, 1, tzinfo=SEOUL)] * N),
    "a text of another class": objects("a", Text("b"), "c", "d", "e"),
    "deep": objects(nested(5_000), 2, 3, 4, 5),
    "not so deep": objects(nested(100), 2, 3, 4, 5),
    "half characters": objects("\ud83d\ude00", 2, 3, 4, 5),
    "nan of another class": objects("a", np.float64("nan"), "c", "d", "e"),
    "long double": np.full(N, 0.1, dtype="longdouble"),
    "surrogate string": pd.Series(["\ud800", *"abcd"], dtype=pd.StringDtype("python")),
    "arrow dictionary": arrow([1, 2, 1, 2, 1], pa.dictionary(pa.int32(), pa.int64())),
}

INDEXES: dict[str, Any] = {
    "duplicate": [1, 1, 2, 2, 3],
    "unsorted": [3, 1, 2, 5, 4],
    "string": pd.Index(list("zyxwv"), name="k"),
    "datetime": pd.date_range("2020", periods=N),
    "zoned": pd.date_range("2020", periods=N, tz="Asia/Seoul"),
    "multi": pd.MultiIndex.from_arrays(
        [[1, 1, 2, 2, 3], ["a", "b", None, "b", "a"]], names=["p", None]
    ),
    "range": pd.RangeIndex(10, 0, -2, name=("q", 1)),
    "category": pd.CategoricalIndex(list("aabbc")),
    "timedelta": pd.timedelta_range("1s", periods=N),
    "missing": [1.0, np.nan, 2, np.nan, 3],
    "Int64": pd.Index([1, 2, 3, None, 4], dtype="Int64"),
    "mixed": pd.Index([1, "a", None, 2.5, (1,)], dtype=object, tupleize_cols=False),
}

LABELS: dict[str, Any] = {
    "duplicate": ["a", "a"],
    "numbers": [0, 1],
    "tuples": pd.Index([("a", 1), ("b", 2)], tupleize_cols=False),
    "multi": pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")], names=["one", "two"]),
    "range": pd.RangeIndex(2),
    "datetime": pd.date_range("2020", periods=2),
    "missing": [None, np.nan],
    "category": pd.CategoricalIndex(["u", "v"]),
    "surrogate": pd.Index(["\ud800", "b"], dtype=object),
    "mixed": pd.Index([1, "1"], dtype=object),
}


def plain(index: Any = None, labels: Any = None) -> pd.DataFrame:
    frame = pd.DataFrame({"a": range(N), "t": list("abcde")})
    if index is not None:
        frame.index = index
    if labels is not None:
        frame.columns = labels
    return frame
