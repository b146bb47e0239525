"""A frame seen through a query: the same rows that plain pandas finds, at any size."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_magic.browse import (
    Filter,
    Op,
    Query,
    Rows,
    SortKey,
    plain_query,
    read_query,
    unique_names,
)
from batch_magic.errors import CellError

WORDS = ["late", "Late delivery", "아주 좋아요", "مرحبا", "", "a b", "<b>$x$</b>", "100%", "a.b"]
LABELS = ["good", "bad", "mixed"]


def frame_of(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """A frame with a column of each kind; any value but the whole number may be missing."""
    columns: list[list[Any]] = [list(column) for column in zip(*rows, strict=True)] or [[]] * 6
    text, label, score, stars, truth, day = columns
    return pd.DataFrame(
        {
            "text": pd.array(text, dtype="str"),
            "label": pd.Categorical(label, categories=LABELS),
            "score": pd.array(score, dtype="Float64"),
            "stars": np.array(stars, dtype=np.int64),
            "truth": pd.array(truth, dtype="boolean"),
            "when": pd.to_datetime(pd.Series(day, dtype="datetime64[s]")),
        },
        index=[f"r{n % 3}" for n in range(len(rows))],
    )


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


ROWS = st.tuples(
    maybe(st.sampled_from(WORDS)),
    maybe(st.sampled_from(LABELS)),
    maybe(st.floats(-5, 5, allow_nan=False, width=16)),
    st.integers(-3, 3),
    maybe(st.booleans()),
    maybe(st.dates().filter(lambda day: 1970 <= day.year < 2100)),
)
FRAMES = st.lists(ROWS, max_size=30).map(frame_of)
COLUMNS = ["text", "label", "score", "stars", "truth", "when"]
SORTS = st.lists(st.builds(SortKey, st.sampled_from(COLUMNS), st.booleans()), max_size=3)


@given(frame=FRAMES, text=st.sampled_from(["late", "LATE", "좋", "a.b", "%", "zzz", "$"]))
def test_free_text_is_found_in_whatever_case_and_is_no_pattern(
    frame: pd.DataFrame, text: str
) -> None:
    """A dot is a dot; labels are searched as texts are."""
    found = Rows(frame).positions(Query(text=text))
    held = [frame[name].astype(object).fillna("").map(str.lower) for name in ("text", "label")]
    wanted = [n for n in range(len(frame)) if any(text.lower() in one.iloc[n] for one in held)]
    assert found.tolist() == wanted


@given(frame=FRAMES, sort=SORTS)
def test_order_is_that_of_pandas_by_one_column_after_another(
    frame: pd.DataFrame, sort: list[SortKey]
) -> None:
    """Rows alike keep their order, missing values come last either way."""
    keys = list({key.column: key for key in sort}.values())
    found = Rows(frame).positions(Query(sort=tuple(keys)))
    plain = frame.reset_index(drop=True)
    for key in reversed(keys):
        plain = plain.sort_values(
            key.column, ascending=not key.descending, kind="stable", na_position="last"
        )
    assert found.tolist() == plain.index.tolist()


CONDITIONS = st.sampled_from(
    [
        (Filter("text", Op.CONTAINS, "LATE"), lambda f: _text(f).str.lower().str.contains("late")),
        (Filter("text", Op.EQUALS, "late"), lambda f: _text(f) == "late"),
        (Filter("text", Op.LENGTH, low=1, high=4), lambda f: _text(f).str.len().between(1, 4)),
        (Filter("label", Op.EQUALS, "bad"), lambda f: f["label"].astype(object) == "bad"),
        (Filter("label", Op.MISSING), lambda f: f["label"].isna()),
        (Filter("score", Op.BETWEEN, low=-1, high="2.5"), lambda f: f["score"].between(-1, 2.5)),
        (Filter("score", Op.BETWEEN, high=0), lambda f: f["score"] <= 0),
        (Filter("score", Op.PRESENT), lambda f: f["score"].notna()),
        (Filter("stars", Op.EQUALS, "2"), lambda f: f["stars"] == 2),
        (Filter("stars", Op.EQUALS, 1.5), lambda f: f["stars"] == 1.5),
        (Filter("truth", Op.EQUALS, "True"), lambda f: f["truth"]),
        (Filter("when", Op.BETWEEN, low="2000-01-01"), lambda f: f["when"] >= "2000-01-01"),
    ]
)


def _text(frame: pd.DataFrame) -> pd.Series[Any]:
    return frame["text"].astype(object).where(frame["text"].notna(), "\x00" * 9)


@given(frame=FRAMES, conditions=st.lists(CONDITIONS, max_size=4))
def test_of_one_column_one_filter_has_to_hold_and_of_columns_each(
    frame: pd.DataFrame, conditions: list[Any]
) -> None:
    """A second label adds rows, a second column takes some away."""
    found = Rows(frame).positions(Query(filters=tuple(one for one, _ in conditions)))
    masks: dict[str, list[Any]] = {}
    for one, holds in conditions:
        mask = holds(frame).fillna(False).to_numpy(dtype=bool)
        masks.setdefault(one.column, []).append(mask)
    wanted = np.ones(len(frame), dtype=bool)
    for some in masks.values():
        wanted &= np.logical_or.reduce(some)
    assert found.tolist() == np.flatnonzero(wanted).tolist()


@given(frame=FRAMES, size=st.integers(1, 40), seed=st.integers(0, 9), sort=SORTS)
def test_a_sample_is_the_same_for_its_seed_and_lies_within_what_is_left(
    frame: pd.DataFrame, size: int, seed: int, sort: list[SortKey]
) -> None:
    """Somebody else gets the same rows by the same query, whatever order they look in."""
    query = Query(filters=(Filter("score", Op.PRESENT),), sample=size, seed=seed, sort=tuple(sort))
    found = Rows(frame).positions(query)
    left = np.flatnonzero(frame["score"].notna())
    assert len(found) == min(size, len(left)) == len(set(found.tolist()))
    assert set(found.tolist()) <= set(left.tolist())
    assert set(Rows(frame).positions(replace(query, sort=())).tolist()) == set(found.tolist())


@given(frame=FRAMES)
def test_a_bar_tells_how_many_rows_its_own_filter_shows(frame: pd.DataFrame) -> None:
    """Each row is in one bar, and a click gives what the bar has promised."""
    rows = Rows(frame)
    for facet in rows.facets(Query()):
        bars = facet["bars"] + ([facet["missing"]] if facet["missing"] else [])
        assert sum(bar["rows"] for bar in bars) == len(frame)
        for bar in bars:
            query = read_query({"filters": [json.loads(json.dumps(bar["filter"]))]})
            assert len(rows.positions(query)) == bar["rows"], bar


@given(frame=FRAMES, stars=st.integers(-3, 3))
def test_bars_of_a_column_leave_its_own_filters_out(frame: pd.DataFrame, stars: int) -> None:
    """Else a second label could never be added to the first."""
    rows = Rows(frame)
    query = Query(filters=(Filter("label", Op.EQUALS, "bad"), Filter("stars", Op.EQUALS, stars)))
    facets = {facet["column"]: facet for facet in rows.facets(query)}
    if "label" not in facets:
        return
    at_stars = frame[frame["stars"] == stars]["label"].value_counts()
    for bar in facets["label"]["bars"]:
        assert bar["rows"] == int(at_stars.get(bar["label"], 0))
        assert bar["on"] == (bar["label"] == "bad")
    both = frame[(frame["stars"] == stars) & (frame["label"] == "bad")]
    assert sum(bar["rows"] for bar in facets["stars"]["bars"]) == int(
        (frame["label"] == "bad").sum()
    )
    assert len(rows.positions(query)) == len(both)


@given(
    query=st.builds(
        Query,
        text=st.text(max_size=5),
        statuses=st.lists(st.sampled_from(["ok", "failed"]), max_size=2).map(tuple),
        filters=st.lists(CONDITIONS.map(lambda one: one[0]), max_size=3).map(tuple),
        sort=SORTS.map(tuple),
        sample=maybe(st.integers(1, 99)),
        seed=st.integers(0, 99),
    )
)
def test_a_query_comes_back_from_plain_values(query: Query) -> None:
    """What the page sends back is what it was told."""
    assert read_query(json.loads(json.dumps(plain_query(query)))) == query


@pytest.mark.parametrize("value", ["", "nan", "inf", "-inf", "1e400"])
def test_what_no_whole_number_can_be_is_found_nowhere(value: str) -> None:
    """It is typed into the form like any other value, and is no bug."""
    rows = Rows(pd.DataFrame({"stars": [1, 2, 3]}))
    wanted = read_query({"filters": [{"column": "stars", "op": "equals", "value": value}]})
    assert rows.positions(wanted).tolist() == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"texts": "a"}, "no 'texts'"),
        ({"filters": [{"column": "text", "op": "like"}]}, "does not know 'like'"),
        ({"filters": [{"column": "txt", "op": "missing"}]}, "did you mean 'text'"),
        ({"filters": [{"column": "text", "op": "between", "low": 1}]}, "holds no numbers"),
        ({"filters": [{"column": "score", "op": "between", "low": "x"}]}, "no number"),
        ({"filters": [{"column": "score", "op": "equals", "value": "x"}]}, "no number"),
        ({"filters": [{"column": "when", "op": "between", "low": "x"}]}, "no time"),
        ({"filters": [{"column": "text", "op": "contains"}]}, "wants a value"),
        ({"filters": [{"column": "score", "op": "length"}]}, "holds no texts"),
        ({"filters": [{"column": "text", "op": "equals", "value": [1]}]}, "a text or a number"),
        ({"filters": "text"}, "no query"),
        ({"sample": 0}, "name 1 or more"),
        ({"sample": "many"}, "no query"),
        ({"statuses": ["ok"]}, "no gpt_status"),
        ({"sort": [{"column": "nothing"}]}, "no column 'nothing'"),
    ],
)
def test_a_query_that_cannot_be_is_one_line(given: dict[str, Any], said: str) -> None:
    """Before anything is looked for."""
    rows = Rows(frame_of([("a", "good", 1.0, 1, True, None)]))
    with pytest.raises(CellError, match=said):
        rows.positions(read_query(given))


def test_whole_numbers_are_equal_to_the_last_digit() -> None:
    """Ids are larger than a float can tell apart."""
    frame = pd.DataFrame({"id": [2**60, 2**60 + 1]})
    found = Rows(frame).positions(Query(filters=(Filter("id", Op.EQUALS, str(2**60 + 1)),)))
    assert found.tolist() == [1]
    descending = Query(sort=(SortKey("id", True),))
    assert Rows(frame).positions(descending).tolist() == [1, 0]


def test_names_are_of_one_column_alone() -> None:
    """Labels repeat, are no strings, have several levels."""
    labels = ["a", "a", 1, ("b", ""), ("b", "c"), "", "a"]
    assert unique_names(labels) == ["a", "a (2)", "1", "b", "b / c", "(unnamed)", "a (3)"]
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"])
    assert Rows(frame).page(Query(), 0, 9, ["a", "a (2)"])[0]["cells"] == ["1", "2"]


def test_cells_are_short_lines_and_fields_are_whole() -> None:
    """A page of rows is small whatever is in them; the side pane keeps nothing back."""
    nested = {"tags": ["a", "b"], "why": {"said": "because"}, "at": pd.Timestamp("2026-01-02")}
    frame = pd.DataFrame(
        {
            "text": ["long " * 1000, "two\nlines"],
            "nested": [nested, [1, 2, np.float32(0.1)]],
            "vector": [np.arange(1536.0), None],
            "odd": [b"123", float("inf")],
            "half": pd.array(["\ud800", None], dtype=pd.StringDtype("python")),
        }
    )
    rows = Rows(frame)
    first, second = rows.page(Query(), 0, 50, rows.names)
    assert first["cells"][0] is not None
    assert len(first["cells"][0]) == 160
    assert second["cells"][0] == "two lines"
    assert first["cells"][2] == "[0, 1, 2, …] array 1536"
    assert second["cells"][4] is None
    json.dumps([first, second]).encode()
    fields = {field["name"]: field["value"] for field in rows.row(0)}
    assert fields["text"] == "long " * 1000
    assert fields["nested"] == {**nested, "at": "2026-01-02 00:00:00"}
    assert fields["odd"] == "3 bytes"
    assert rows.row(1)[1]["value"] == [1, 2, 0.1]
    assert rows.positions(Query(text="BECAUSE")).tolist() == [0]
    json.dumps(rows.row(0)).encode()


@pytest.mark.parametrize("rows", [0, 1])
def test_frames_without_rows_or_columns_are_looked_at_as_well(rows: int) -> None:
    """Nothing is a frame, too."""
    for frame in (pd.DataFrame(index=range(rows)), pd.DataFrame({"a": ["x"] * rows})):
        seen = Rows(frame)
        assert len(seen.positions(Query(text="y"))) == 0
        assert len(seen.page(Query(), 0, 50, seen.names)) == rows
        seen.facets(Query())


def test_values_of_any_kind_are_ordered_counted_and_searched() -> None:
    """No dtype that a notebook may hold makes the explorer fail."""

    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no words")

    frame = pd.DataFrame(
        {
            "mixed": [1, "a", None],
            "odd": [Odd(), Odd(), Odd()],
            "period": pd.period_range("2020", periods=3, freq="D"),
            "complex": [1j, 2j, 3j],
            "delta": pd.to_timedelta([1, 2, None], unit="s"),
            "zoned": pd.to_datetime(["2020-01-01", None, "2021-01-01"]).tz_localize("Asia/Seoul"),
            "truth": [True, False, True],
            "constant": [1.5, 1.5, 1.5],
            "endless": [np.inf, -np.inf, np.nan],
            "interval": pd.interval_range(0, 3),
            "sparse": pd.arrays.SparseArray([0, 0, 1]),
        }
    )
    rows = Rows(frame)
    for name in rows.names:
        rows.positions(Query(sort=(SortKey(name, True),)))
        rows.positions(Query(filters=(Filter(name, Op.PRESENT),)))
    for facet in rows.facets(Query(), most=99):
        for bar in facet["bars"]:
            shown = rows.positions(read_query({"filters": [bar["filter"]]}))
            assert len(shown) == bar["rows"], bar
    rows.positions(Query(text="a"))
    json.dumps([rows.page(Query(), 0, 9, rows.names), rows.row(0)])


DAY, NOON = datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 12)
HOUR = datetime.timedelta(hours=1)
ARROW: list[tuple[Any, list[Any]]] = [
    (pa.date32(), [DAY, None, datetime.date(1600, 1, 1)]),
    (pa.date64(), [DAY, None, DAY]),
    (pa.time32("s"), [datetime.time(9), None, datetime.time(10)]),
    (pa.time64("us"), [datetime.time(9), datetime.time(8, 0, 0, 1), None]),
    (pa.timestamp("s"), [NOON, None, datetime.datetime(9999, 12, 31)]),
    (pa.timestamp("ms"), [NOON, None, datetime.datetime(9999, 12, 31)]),
    (pa.timestamp("ns", "Europe/Berlin"), [NOON, None, NOON]),
    (pa.duration("s"), [HOUR, None, -9 * HOUR]),
    (pa.duration("ns"), [HOUR, None, 30 * HOUR]),
    (pa.decimal128(10, 2), [Decimal("9.5"), Decimal("10"), None]),
    (pa.decimal256(50, 2), [Decimal(10) ** 40, Decimal(10) ** 40 + 1, None]),
    (pa.dictionary(pa.int32(), pa.string()), ["b", None, "a"]),
    (pa.list_(pa.int64()), [[10], None, [9]]),
    (pa.struct([("a", pa.int64())]), [{"a": 1}, None, {"a": 2}]),
    (pa.map_(pa.string(), pa.int64()), [[("a", 1)], None, []]),
    (pa.binary(), [b"a", None, b"\xff"]),
    (pa.string(), ["b", None, "a"]),
    (pa.large_string(), ["b", None, "a"]),
    (pa.bool_(), [True, None, False]),
    (pa.int8(), [9, None, 10]),
    (pa.uint64(), [2**64 - 1, None, 2**64 - 2]),
    (pa.float32(), [0.1, None, float("inf")]),
    (pa.null(), [None, None, None]),
]
VALUES = ["a", "1", 1, 0.5, True, "nan", "inf", float("nan"), "1e400", "2026-01-02", "1 hours"]
VALUES += [10**30, -(10**30), 10**400, "2026-03-29 02:30", "9" * 5000, "\ud800"]


@pytest.mark.parametrize("rows", [3, 1, 0])
@pytest.mark.parametrize(("kind", "values"), ARROW, ids=[str(kind) for kind, _ in ARROW])
def test_any_type_of_arrows_is_looked_through(kind: Any, values: list[Any], rows: int) -> None:
    """A column that cannot be asked this or that says so, in one line, and spoils no other."""
    held = pd.array(values[:rows], dtype=pd.ArrowDtype(kind))
    frame = pd.DataFrame({"held": held, "label": pd.Categorical(["x", "y", "x"][:rows])})
    seen = Rows(frame)
    assert [column["name"] for column in seen.columns()] == ["held", "label"]
    json.dumps([seen.page(Query(), 0, 9, seen.names), [seen.row(n) for n in range(rows)]])
    assert ("label" in [facet["column"] for facet in seen.facets(Query())]) == bool(rows)
    check_bars(seen)
    seen.positions(Query(text="a"))
    for descending in (False, True):
        order = seen.positions(Query(sort=(SortKey("held", descending),))).tolist()
        assert sorted(order) == list(range(rows))
        assert frame["held"].isna().to_numpy()[order].tolist() == sorted(frame["held"].isna())
    for value in VALUES:
        for one in (
            *(Filter("held", op, value) for op in (Op.CONTAINS, Op.EQUALS)),
            *(Filter("held", op, low=value) for op in (Op.BETWEEN, Op.LENGTH)),
            *(Filter("held", op, high=value) for op in (Op.BETWEEN, Op.LENGTH)),
        ):
            with suppress(CellError):
                seen.positions(Query(filters=(one,)))


def check_bars(rows: Rows) -> None:
    """Each bar's number is that of the rows that its filter shows."""
    for facet in rows.facets(Query(), most=99):
        for bar in facet["bars"] + ([facet["missing"]] if facet["missing"] else []):
            query = read_query({"filters": [json.loads(json.dumps(bar["filter"]))]})
            assert len(rows.positions(query)) == bar["rows"], bar


def in_order(values: Sequence[Any]) -> list[Any]:
    """The values as a column of objects is sorted, ascending; descending is its mirror."""
    held = pd.Series(values, dtype=getattr(values, "dtype", object))
    rows = Rows(pd.DataFrame({"held": held}))
    found = rows.positions(Query(sort=(SortKey("held"),)))
    back = rows.positions(Query(sort=(SortKey("held", True),)))
    there = held.notna().to_numpy()
    up, down = (held.iloc[[n for n in at if there[n]]].tolist() for at in (found, back))
    assert [str(one) for one in down] == [str(one) for one in reversed(up)]
    return up


def test_values_are_sorted_by_their_size_whatever_keeps_them() -> None:
    """As text 10 comes before 9, and nobody looks for it there."""
    decimals = [Decimal("9.5"), None, Decimal(10), Decimal(-1), Decimal(100)]
    assert in_order(decimals) == [Decimal(-1), Decimal("9.5"), Decimal(10), Decimal(100)]
    exact = pd.ArrowDtype(pa.decimal256(50, 0))
    large = [Decimal(10) ** 40 + n for n in (2, 1)]
    assert in_order(pd.array(large, dtype=exact)) == large[::-1]
    mixed = [10, "9", 9.5, None, "10", np.int64(2), Decimal(3), "x"]
    assert in_order(mixed) == [2, Decimal(3), 9.5, 10, "10", "9", "x"]
    assert in_order([10**30, 9, 2**70]) == [9, 2**70, 10**30]
    spans = pd.to_timedelta([30, 9, None, 10, -100], unit="h")
    assert in_order(spans) == [pd.Timedelta(hours=n) for n in (-100, 9, 10, 30)]
    assert in_order(spans.array.to_pytimedelta()[[0, 1, 3]]) == [n * HOUR for n in (9, 10, 30)]
    ranges = [pd.Interval(n, n + 1) for n in (100, 9, 10)]
    assert in_order(pd.array(ranges)) == [ranges[1], ranges[2], ranges[0]]
    assert in_order([[10], [9, 1], [9]]) == [[9], [9, 1], [10]]
    moments = pd.to_datetime([2, 1, 3])  # nanoseconds
    assert in_order(moments) == sorted(moments)
    late = ["t"] * 3_000 + [10, 9]  # beyond the rows that tell what a column holds
    assert in_order(late)[:2] == [9, 10]


def test_what_has_no_order_of_its_own_is_sorted_by_its_text() -> None:
    """A time with a zone and one without cannot be compared, nor can dicts."""
    moments = [NOON, NOON.replace(tzinfo=datetime.UTC), datetime.datetime(2025, 1, 1)]
    assert in_order(moments)[0] == moments[2]
    assert in_order([{"b": 1}, {"a": 2}]) == [{"a": 2}, {"b": 1}]


def test_spans_of_time_are_measured() -> None:
    """Their bars say how long, and a filter's ends are written as one says them."""
    hours = [*range(48), -1, None]
    rows = Rows(pd.DataFrame({"took": pd.to_timedelta(hours, unit="h")}))
    assert rows.columns()[0]["kind"] == "span"
    check_bars(rows)
    (facet,) = rows.facets(Query())
    assert facet["bars"][0]["label"] == "-01:00:00"
    assert {"1 days 12:00:00"} & {rows.row(36)[0]["value"]}

    def shown(**ends: Any) -> list[int]:
        return rows.positions(Query(filters=(Filter("took", **ends),))).tolist()

    assert shown(op=Op.BETWEEN, low="90 min", high="3:00:00") == [2, 3]
    assert shown(op=Op.BETWEEN, low="1 days 22:30:00") == [47]
    assert shown(op=Op.EQUALS, value="2h") == [2]
    with pytest.raises(CellError, match="no span of time; write one as 2 hours"):
        shown(op=Op.BETWEEN, low=2)


def test_labels_that_read_alike_are_one_bar() -> None:
    """A click cannot tell 1 from "1"; the bar must not promise that it does."""
    values = np.array([1, "1", 1.5, "1", None, True], dtype=object)
    rows = Rows(pd.DataFrame({"held": pd.Categorical(values)}))
    (facet,) = rows.facets(Query())
    assert sum(bar["label"] == "1" for bar in facet["bars"]) == 1
    check_bars(rows)


def test_filters_that_ask_for_something_else_share_no_memory() -> None:
    """To Python 1 equals True; in a column of texts it does not."""
    rows = Rows(pd.DataFrame({"text": ["B", "1", "True"] * 3}))

    def shown(value: Any) -> list[int]:
        query = Query(filters=(Filter("text", Op.EQUALS, value),))
        return rows.positions(query).tolist()

    assert shown(1) == [1, 4, 7]
    assert shown(True) == [2, 5, 8]
    assert shown(1.0) == [1, 4, 7]
    assert Filter("text", Op.EQUALS, 1) == Filter("text", Op.EQUALS, 1.0)


@pytest.mark.parametrize("text", ["x" * 2_000_000, "é" * 20_000])
def test_a_text_too_long_to_look_for_is_one_line(text: str) -> None:
    """Arrow has an error of its own for it, which nobody understands."""
    rows = Rows(pd.DataFrame({"text": ["x", "y"]}))
    for query in (Query(text=text), Query(filters=(Filter("text", Op.CONTAINS, text),))):
        with pytest.raises(CellError, match="too long to look for"):
            rows.positions(query)
    assert rows.positions(Query(text=text[:10_000])).tolist() == []


def test_times_far_away_have_bars() -> None:
    """The last day that there is stands for "never" in many a table."""
    for days in (["9999-12-31"] * 3, ["0001-01-01", "2026-01-02", "9999-12-31"]):
        held = np.array(days, dtype="datetime64[s]")
        rows = Rows(pd.DataFrame({"until": held, "n": 2**62 + np.arange(3)}))
        assert [facet["column"] for facet in rows.facets(Query())] == ["until", "n"]
        check_bars(rows)


def test_a_column_put_in_place_of_another_is_looked_at_anew() -> None:
    """A mark that was set a moment ago is found by the same query."""
    rows = Rows(pd.DataFrame({"text": ["a", "b"]}))
    noted = Query(text="seen")
    assert rows.positions(noted).tolist() == []
    rows.put("gpt_note", ["seen", None])
    assert rows.positions(noted).tolist() == [0]
    rows.put("gpt_note", [None, "seen"])
    assert rows.positions(noted).tolist() == [1]
    rows.put("gpt_note", None)
    assert rows.names == ["text"]
    assert rows.positions(noted).tolist() == []


def test_a_million_rows_are_paged_in_an_instant() -> None:
    """Each click asks for one more part of the query, not for all of it anew."""
    n, dice = 1_000_000, np.random.default_rng(1)
    words = np.array([f"review of a lamp that is {w}" for w in ("good", "bad", "late", "늦은")])
    frame = pd.DataFrame(
        {
            "text": pd.array(words[dice.integers(0, 4, n)], dtype="str"),
            "score": dice.random(n),
            "gpt_status": pd.Categorical.from_codes(dice.integers(0, 2, n), ["ok", "failed"]),
        }
    )
    rows = Rows(frame)
    took: dict[str, float] = {}

    def timed(what: str, query: Query) -> None:
        began = time.perf_counter()
        rows.page(query, 100_000, 50, rows.names)
        took[what] = time.perf_counter() - began

    timed("first page", Query())
    timed("text", Query(text="LATE"))
    timed("text and status", Query(text="LATE", statuses=("failed",)))
    by_score = Query(text="LATE", sort=(SortKey("score"),))
    timed("sorted", by_score)
    timed("the same again", by_score)
    print({what: f"{seconds * 1000:.0f} ms" for what, seconds in took.items()})
    assert took["first page"] < 0.2
    assert took["the same again"] < 0.2
    assert max(took.values()) < 5.0, took
