"""A frame seen through a query: which rows, in which order, and what they add up to.

It knows how the values of any dtype are searched, ordered, counted and put into short words, and
refuses to know where the frame came from and who is looking. A `Query` is a value: the same query
over the same frame gives the same rows, the random sample included.

The trap is a million rows. Nothing here walks over all of them in Python, but for a column of
objects, once; what a part of a query lets through is kept as long as its column is, so that one
more click costs one more part. Rows are known by position, and columns by a name that is theirs
alone, for labels may repeat.
"""

from __future__ import annotations

import datetime
import difflib
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, TypedDict, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batch_magic.errors import CellError
from batch_magic.value_words import clean, is_there, short, unfolded, words

STATUS = "gpt_status"
_LABELS = 30  # different texts that are still labels
_BINS = 20
_SAMPLE_ROWS = 2_000  # that tell what a column of objects holds
_SEARCHED_CHARS = 10_000  # of a text to look for; Arrow refuses a long one
_KEPT = 24  # parts of queries whose rows are remembered: a byte a row each

Mask = NDArray[np.bool_]
Positions = NDArray[np.int64]


# -- the query ------------------------------------------------------------------------------


class Op(StrEnum):
    """What a filter asks of a value."""

    CONTAINS = "contains"  # its text holds `value`, in whatever case
    EQUALS = "equals"  # it is `value`: a number by its size, anything else by its text
    BETWEEN = "between"  # a number, time or span from `low` to `high`, both included; None: no end
    LENGTH = "length"  # a text of `low` to `high` characters
    MISSING = "missing"
    PRESENT = "present"


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """One condition on one column.

    Times and spans are texts that pandas reads: `2026-11-22`, `2 hours`.
    """

    column: str
    op: Op
    value: str | float | bool | None = None
    low: str | float | None = None
    high: str | float | None = None

    @property
    def _key(self) -> tuple[Hashable, ...]:
        """What filters alike share; 1 is 1.0, as in JSON, and is not True, as in Python."""
        return (self.column, self.op, self.value, type(self.value) is bool, self.low, self.high)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclass(frozen=True, slots=True)
class SortKey:
    """A column to sort by; missing values come last either way."""

    column: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """Which rows are shown, and in which order.

    Of the filters on one column one has to hold, of the columns each. `text` is looked for in all
    columns of text. `sample` rows are drawn at random of what is left, by `seed`.
    """

    text: str = ""
    statuses: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()
    sort: tuple[SortKey, ...] = ()
    sample: int | None = None
    seed: int = 0


def read_query(given: Mapping[str, Any]) -> Query:
    """Read a query from plain values, as `plain_query` writes them. Raises CellError."""
    try:
        known = {"text", "statuses", "filters", "sort", "sample", "seed"}
        if unknown := set(given) - known:
            raise CellError(f"a query has no {min(unknown)!r}; it has {', '.join(sorted(known))}")
        sample = given.get("sample")
        query = Query(
            text=str(given.get("text") or ""),
            statuses=tuple(map(str, given.get("statuses") or ())),
            filters=tuple(map(_read_filter, given.get("filters") or ())),
            sort=tuple(map(_read_key, given.get("sort") or ())),
            sample=None if sample in (None, "") else int(sample),
            seed=int(given.get("seed") or 0),
        )
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CellError(f"that is no query: {error}; see batch_magic.browse.Query") from None
    if query.seed < 0 or (query.sample is not None and query.sample < 1):
        raise CellError("a sample of no rows shows nothing; name 1 or more, and a seed from 0 on")
    return query


def plain_query(query: Query) -> dict[str, Any]:
    """Write a query as plain values."""
    plain = asdict(query)
    for one in plain["filters"]:
        one["op"] = str(one["op"])
    return {name: list(v) if isinstance(v, tuple) else v for name, v in plain.items()}


def _read_filter(given: Any) -> Filter:
    if isinstance(given, Filter):
        return given
    op = str(given.get("op"))
    if op not in set(Op):
        raise CellError(f"a filter does not know {op!r}; it knows {', '.join(Op)}")
    ends = {name: given.get(name) for name in ("value", "low", "high")}
    for name, end in ends.items():
        if not isinstance(end, (str, float, int, bool, type(None))):
            raise CellError(f"a filter's {name} is {end!r:.60}; write a text or a number")
    return Filter(str(given.get("column")), Op(op), **ends)


def _read_key(given: Any) -> SortKey:
    if isinstance(given, SortKey):
        return given
    return SortKey(str(given.get("column")), bool(given.get("descending")))


# -- what is told of a frame ----------------------------------------------------------------


class Kind(StrEnum):
    """What a column holds, as far as looking at it goes."""

    TEXT = "text"
    LABEL = "label"
    NUMBER = "number"
    TRUTH = "truth"
    TIME = "time"
    SPAN = "span"  # a length of time
    OBJECT = "object"  # lists, dicts, arrays, anything


_MEASURED = (Kind.NUMBER, Kind.TIME, Kind.SPAN)


class ColumnFacts(TypedDict):
    """A column for the page: its name, unique among its like, and what it holds."""

    name: str
    kind: str


class RowCells(TypedDict):
    """A row for the page: its cells are cut short, None where a value is missing."""

    position: int
    index: str
    cells: list[str | None]


class Bar(TypedDict):
    """One label or one stretch of numbers: how many rows, and the filter that asks for them."""

    label: str
    rows: int
    filter: dict[str, Any]
    on: bool


class Facet(TypedDict):
    """What a column's values add up to among the rows that the rest of the query lets through."""

    column: str
    kind: str  # "labels", "numbers", "lengths"
    bars: list[Bar]
    missing: Bar | None


class FieldTree(TypedDict):
    """One value of one row, whole: a text, a number, None, or a list or dict of such."""

    name: str
    kind: str
    value: Any


T = TypeVar("T")


class _Few(OrderedDict[Hashable, Any]):
    """What was worked out last, as much as there is room for."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def recall(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self:
            self[key] = make()
            if len(self) > self._most:
                self.popitem(last=False)
        self.move_to_end(key)
        found: T = self[key]
        return found


class Rows:
    """A frame (n rows) to be asked which of its rows a query shows.

    `leading` are names of columns whose counts matter most. What was worked out is kept: the frame
    must not be changed in place; `put` replaces a column.
    """

    def __init__(self, frame: pd.DataFrame, leading: Sequence[str] = ()) -> None:
        self.frame = frame
        self._leading = tuple(leading)
        self._columns: dict[str, _Column] = {}
        for place, name in enumerate(unique_names(frame.columns)):
            self._columns[name] = _Column(name, frame.iloc[:, place])
        self._positions = _Few(4)
        self._masks = _Few(_KEPT)

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def names(self) -> list[str]:
        return list(self._columns)

    def put(self, name: str, values: Any) -> None:
        """Replace a column's values (n of them), or add the column at the end; None drops it."""
        label: Any = name if self.frame.columns.nlevels == 1 else (name, *self._rest)
        frame = self.frame.copy(deep=False)
        if values is not None:
            frame[label] = values
            self._columns[name] = _Column(name, frame[label])
        elif name in self._columns:
            del frame[label], self._columns[name]
        self.frame = frame
        self._positions.clear()
        for key in [key for key in self._masks if not _named(key) or name in _named(key)]:
            del self._masks[key]

    @property
    def _rest(self) -> list[str]:
        return [""] * (self.frame.columns.nlevels - 1)

    def columns(self) -> list[ColumnFacts]:
        """Return the columns in order."""
        return [{"name": one.name, "kind": str(one.kind)} for one in self._columns.values()]

    def check(self, query: Query) -> None:
        """Raise CellError for a query that this frame cannot answer."""
        _check_length(query.text)
        for one in query.filters:
            self._column(one.column).check(one)
        for key in query.sort:
            self._column(key.column)
        if query.statuses and STATUS not in self._columns:
            raise CellError(
                f"the frame has no {STATUS}, it is no result; filter by its own columns"
            )

    def positions(self, query: Query) -> Positions:
        """Return the positions of the rows that a query shows, in its order."""
        self.check(query)
        return self._positions.recall(query, lambda: self._found(query))

    def _found(self, query: Query) -> Positions:
        mask = self._mask(query)
        found = np.arange(len(self)) if mask is None else np.flatnonzero(mask)
        if query.sample is not None and query.sample < len(found):
            dice = np.random.default_rng(query.seed)
            found = np.sort(dice.choice(found, query.sample, replace=False, shuffle=False))
        for key in reversed(query.sort):
            ranks = self._column(key.column).ranks(key.descending)
            found = found[np.argsort(ranks[found], kind="stable")]
        return found

    def _column(self, name: str) -> _Column:
        if name not in self._columns:
            near = difflib.get_close_matches(name, self._columns, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see the frame's columns"
            raise CellError(f"there is no column {name!r}; {hint}")
        return self._columns[name]

    # -- masks --

    def _mask(self, query: Query, but_for: str | None = None) -> Mask | None:
        """Tell which rows a query lets through, the filters of one column left out."""
        mask: Mask | None = None
        for key, make in self._parts(query):
            if but_for is None or but_for not in _named(key):
                part = self._masks.recall(key, make)
                mask = part if mask is None else mask & part
        return mask

    def _parts(self, query: Query) -> list[tuple[tuple[Any, ...], Callable[[], Mask]]]:
        """Return the parts of a query, each with what it is remembered by."""
        parts: list[tuple[tuple[Any, ...], Callable[[], Mask]]] = []
        if query.text:
            parts.append((("text", query.text), lambda: self._has_text(query.text)))
        by_column: dict[str, list[Filter]] = {}
        for status in query.statuses:
            by_column.setdefault(STATUS, []).append(Filter(STATUS, Op.EQUALS, status))
        for one in query.filters:
            by_column.setdefault(one.column, []).append(one)
        for name, filters in by_column.items():
            key = ("column", name, tuple(filters))
            parts.append((key, lambda name=name, filters=filters: self._any(name, filters)))  # type: ignore[misc]
        return parts

    def _any(self, name: str, filters: Sequence[Filter]) -> Mask:
        column = self._column(name)
        masks = [column.mask(one) for one in filters]
        return np.logical_or.reduce(masks) if len(masks) > 1 else masks[0]

    def _has_text(self, text: str) -> Mask:
        found = np.zeros(len(self), dtype=bool)
        for column in self._columns.values():
            if column.is_searched:
                found |= column.contains(text)
        return found

    # -- what is shown --

    def page(self, query: Query, start: int, size: int, names: Sequence[str]) -> list[RowCells]:
        """Return `size` of the rows shown from number `start` on: these columns' cells."""
        at = self.positions(query)[start : start + size]
        cells = [self._columns[name].cells(at) for name in names]
        index = [short(label) or "" for label in self.frame.index[at]]
        across = zip(*cells, strict=True) if names else [()] * len(at)
        rows = zip(at.tolist(), index, across, strict=True)
        return [{"position": p, "index": i, "cells": list(row)} for p, i, row in rows]

    def row(self, position: int) -> list[FieldTree]:
        """Return all values of one row, whole."""
        return [
            {"name": one.name, "kind": str(one.kind), "value": unfolded(one.value(position))}
            for one in self._columns.values()
        ]

    def facets(self, query: Query, most: int = 12) -> list[Facet]:
        """Return what the values of up to `most` columns add up to among the rows shown.

        A column's own filters are left out for itself, so that its other values can be added; of
        a sample, its rows are counted.
        """
        sampled = None
        if query.sample is not None:
            sampled = np.zeros(len(self), dtype=bool)
            sampled[self.positions(query)] = True
        found: list[Facet] = []
        for column in self._by_weight():
            if len(found) == most:
                break
            if (scale := column.scale) is not None:
                mask = self._mask(query, column.name) if sampled is None else sampled
                found.append(scale.counted(mask, query))
        return found

    def _by_weight(self) -> list[_Column]:
        first = [name for name in (STATUS, *self._leading) if name in self._columns]
        return [self._columns[name] for name in dict.fromkeys([*first, *self._columns])]


def unique_names(labels: Iterable[Hashable]) -> list[str]:
    """Return a name of its own for each label: those that repeat are numbered."""
    names: dict[str, None] = {}
    for label in labels:
        parts = label if isinstance(label, tuple) else (label,)
        plain = clean(" / ".join(str(part) for part in parts if part != "")) or "(unnamed)"
        name, number = plain, 1
        while name in names:
            number += 1
            name = f"{plain} ({number})"
        names[name] = None
    return list(names)


def _named(key: Any) -> tuple[Any, ...]:
    """Return the column that a part of a query is about; free text is about all of them."""
    return (key[1],) if key[0] == "column" else ()


# -- one column -----------------------------------------------------------------------------


class _Column:
    """One column, and what was worked out about it."""

    def __init__(self, name: str, series: pd.Series[Any]) -> None:
        self.name = name
        self._series = series
        self.kind = _kind(series)
        self._found: tuple[str, Mask] | None = None

    @property
    def is_searched(self) -> bool:
        return self.kind in (Kind.TEXT, Kind.LABEL) or (
            self.kind is Kind.OBJECT and not self._holds_arrays
        )

    @cached_property
    def _holds_arrays(self) -> bool:
        return any(isinstance(value, np.ndarray) for value in self._series.array[:_SAMPLE_ROWS])

    def check(self, one: Filter) -> None:
        """Raise CellError for a filter that makes no sense for this column."""
        if one.op is Op.BETWEEN:
            if self.kind not in (*_MEASURED, Kind.TRUTH):
                raise CellError(f"{self.name!r} holds no numbers: it has no between; try length")
            self._end(one.low, -math.inf)
            self._end(one.high, math.inf)
        if one.op is Op.LENGTH:
            if self.kind in _MEASURED:
                raise CellError(f"{self.name!r} holds no texts: it has no length; try between")
            for end in (one.low, one.high):
                _number(end, 0.0)
        if one.op in (Op.CONTAINS, Op.EQUALS) and one.value is None:
            raise CellError(
                f"{one.op} on {self.name!r} wants a value; name one, or ask for missing"
            )
        if one.op is Op.CONTAINS:
            _check_length(str(one.value))

    def mask(self, one: Filter) -> Mask:
        """Tell which rows a filter lets through."""
        match one.op:
            case Op.MISSING:
                return self.missing
            case Op.PRESENT:
                return ~self.missing
            case Op.CONTAINS:
                return self.contains(str(one.value))
            case Op.EQUALS:
                return self._equals(one.value)
            case Op.LENGTH:
                return _within(
                    self.lengths, _number(one.low, -math.inf), _number(one.high, math.inf)
                )
            case Op.BETWEEN:
                low, high = self._end(one.low, -math.inf), self._end(one.high, math.inf)
                return _within(self.numbers, low, high)

    @cached_property
    def missing(self) -> Mask:
        found: Mask = np.asarray(self._series.isna(), dtype=bool)
        return found

    def contains(self, text: str) -> Mask:
        """Tell in which rows the value's text holds a text, in whatever case.

        The last one is kept: a mark on a row changes one column, and the others are as they were.
        """
        if self._found is None or self._found[0] != text:
            self._found = (text, self._search(text))
        return self._found[1]

    def _search(self, text: str) -> Mask:
        if self.kind is Kind.LABEL:
            codes, labels = self.labels
            wanted = clean(text).casefold()
            hits = [wanted in label.casefold() for label in labels]
            return _of_labels(codes, hits)
        found = pc.match_substring(self.texts, clean(text), ignore_case=True)
        return _as_mask(found)

    def _equals(self, value: Any) -> Mask:
        if self.kind in (Kind.LABEL, Kind.TRUTH):
            codes, labels = self.labels
            wanted = str(value).casefold() if self.kind is Kind.TRUTH else self._spelled(value)
            return _of_labels(codes, [label == wanted for label in labels])
        if self.kind is Kind.NUMBER:
            return self._equals_number(value)
        if self.kind in _MEASURED:
            moment = self._end(value, math.nan)
            return _within(self.numbers, moment, moment)
        return _as_mask(pc.equal(self.texts, self._spelled(value)))

    def _spelled(self, value: Any) -> str:
        """Return a value that is asked for as the column's texts have it."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # the page does not tell 1.0 from 1
        return clean(str(value) if self.kind is Kind.TEXT else words(value))

    def _equals_number(self, value: Any) -> Mask:
        number = _number(value, math.nan)
        if pd.api.types.is_integer_dtype(self._series.dtype) and number.is_integer():
            whole = int(str(value)) if str(value).lstrip("+-").isdecimal() else int(number)
            if not -(2**63) <= whole < 2**64:
                return np.zeros(len(self._series), dtype=bool)
            return np.asarray((self._series == whole).fillna(False), dtype=bool)
        return _within(self.numbers, number, number)

    def _end(self, end: Any, default: float) -> float:
        """Read an end of a range: a number, or a time or span as microseconds."""
        if end is None or end == "":
            return default
        if self.kind is Kind.TIME:
            return _moment_of(end, self.zone)
        return _span_of(end) if self.kind is Kind.SPAN else _number(end, default)

    # -- as arrays --

    @property
    def zone(self) -> Any:
        """The time zone of the values as they are shown."""
        dtype: Any = self._series.dtype
        dtype = dtype.pyarrow_dtype if isinstance(dtype, pd.ArrowDtype) else dtype
        return getattr(dtype, "tz", None) or "UTC"

    @cached_property
    def texts(self) -> Any:
        """The values as text in Arrow; null where one is missing."""
        dtype = self._series.dtype
        if isinstance(dtype, pd.StringDtype) and dtype.storage == "pyarrow":
            return pa.array(self._series.array)
        return pa.array(list(map(_searched, self._series.array)), type=pa.large_string())

    @cached_property
    def lengths(self) -> NDArray[np.float64]:
        """Characters of each text; NaN where it is missing."""
        return _as_floats(pc.utf8_length(self.texts))

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """The values as floats, times and spans as microseconds; NaN where one is missing."""
        if self.kind in (Kind.TIME, Kind.SPAN):
            ticks, unit = self._ticks
            many = ticks // 1_000 if unit == "ns" else ticks.astype(float) * _MICROS[unit]
            return np.where(self.missing, np.nan, many)
        return np.asarray(self._series.to_numpy(dtype=np.float64, na_value=np.nan))

    @property
    def _ticks(self) -> tuple[NDArray[np.int64], str]:
        """Times (UTC) and spans as whole numbers of their own unit, and the unit."""
        held: Any = self._series.array
        if not isinstance(held.dtype, pd.ArrowDtype):
            return held.asi8, held.unit
        stamps = pa.array(held).cast(held.dtype.pyarrow_dtype)  # of no rows the type is lost
        if pa.types.is_date(stamps.type):
            stamps = stamps.cast(pa.timestamp("s" if pa.types.is_date32(stamps.type) else "ms"))
        ticks = pc.fill_null(stamps.cast(pa.int64()), 0)
        return np.asarray(ticks.to_numpy(), dtype=np.int64), stamps.type.unit

    @cached_property
    def labels(self) -> tuple[NDArray[np.int32], list[str]]:
        """A number for each row, -1 where a value is missing, and the texts that they stand for."""
        if self.kind is Kind.TRUTH:
            truth = self._series.astype("boolean").astype("Int8").fillna(-1)
            return np.asarray(truth, dtype=np.int32), ["false", "true"]
        if self.kind is Kind.LABEL:
            held: Any = self._series
            cat = held.astype("category") if not _is_categorical(held.dtype) else held
            # Categories that read alike, 1 and "1", are one label: they could not be told apart.
            read = list(map(_label, cat.cat.categories))
            number = {label: n for n, label in enumerate(dict.fromkeys(read))}
            codes = np.array([*[number[label] for label in read], -1], dtype=np.int32)
            return codes[cat.cat.codes.to_numpy()], list(number)
        told = pc.dictionary_encode(self.texts)
        told = told.combine_chunks() if isinstance(told, pa.ChunkedArray) else told
        codes = told.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        return codes, told.dictionary.to_pylist()

    def ranks(self, descending: bool) -> NDArray[np.int64]:
        """A number for each row to sort by; equal for equal values, highest for missing ones."""
        ranks = self._ranks
        top = int(ranks.max(initial=0)) + 1
        return np.where(self.missing, top + 1, top - ranks if descending else ranks)

    @cached_property
    def _ranks(self) -> NDArray[np.int64]:
        if self.kind in (Kind.LABEL, Kind.TRUTH):
            return self.labels[0].astype(np.int64)
        if self.kind in (Kind.TIME, Kind.SPAN):
            return _dense(self._ticks[0])
        if self.kind is Kind.NUMBER and _is_whole(self._series.dtype):
            return _dense(self._series.fillna(0).to_numpy())
        if self.kind is Kind.NUMBER and not _is_decimal(self._series.dtype):
            return _dense(self.numbers)
        if (ranks := self._ranks_by_value()) is not None:
            return ranks
        order = pc.sort_indices(self.texts).to_numpy()
        texts = self.texts.take(pa.array(order))
        ranks = np.zeros(len(order), dtype=np.int64)
        ranks[order[1:]] = np.cumsum(_as_mask(pc.not_equal(texts[1:], texts[:-1])))
        return ranks

    def _ranks_by_value(self) -> NDArray[np.int64] | None:
        """Rank objects that are more than texts; None where texts are all that they share."""
        if isinstance(self._series.dtype, pd.StringDtype) or (
            self.kind is Kind.TEXT and pd.api.types.infer_dtype(self._series) == "string"
        ):
            return None
        at = np.flatnonzero(~self.missing)
        held = self._series.array.take(at)
        keys = _sort_keys([one.item() if isinstance(one, np.generic) else one for one in held])
        if keys is None:
            return None
        ranks = np.zeros(len(self._series), dtype=np.int64)
        try:
            order = sorted(range(len(keys)), key=keys.__getitem__)
            rank = 0
            for before, here in pairwise(order):
                rank += keys[before] != keys[here]
                ranks[at[here]] = rank
        except (TypeError, ValueError, ArithmeticError):  # moments with a zone and without one
            return None
        return ranks

    # -- as words --

    def value(self, position: int) -> Any:
        return self._series.array[position]

    def cells(self, at: Positions) -> list[str | None]:
        return [short(value) for value in self._series.array.take(at)]

    @cached_property
    def scale(self) -> _Scale | None:
        """How the column's values are counted; None where that would tell nothing."""
        if self.kind in (Kind.LABEL, Kind.TRUTH):
            return _Scale.of_labels(self)
        if self.kind in _MEASURED:
            return _Scale.of_numbers(self, self.numbers, Op.BETWEEN)
        if self.kind is Kind.OBJECT:
            return None
        if self.kind is Kind.TEXT and self._has_few_texts():
            return _Scale.of_labels(self)
        return _Scale.of_numbers(self, self.lengths, Op.LENGTH)

    def _has_few_texts(self) -> bool:
        some = self.texts[:_SAMPLE_ROWS]
        if len(pc.unique(some)) > _LABELS:
            return False
        codes, labels = self.labels
        return 0 < len(labels) <= _LABELS and 2 * len(labels) <= int((codes >= 0).sum())


@dataclass(frozen=True, slots=True)
class _Mark:
    """A bar of a scale before it is counted."""

    label: str
    filter: Filter


class _Scale(NamedTuple):
    """The bars of a column: which of them each row belongs to, -1 for a missing value."""

    column: str
    kind: str
    codes: NDArray[np.int16]
    marks: list[_Mark]

    @classmethod
    def of_labels(cls, column: _Column) -> _Scale | None:
        codes, labels = column.labels
        counts = np.bincount(codes[codes >= 0], minlength=len(labels))
        seen = np.flatnonzero(counts)
        if column.kind is Kind.TEXT or len(seen) > _LABELS:
            seen = seen[np.argsort(-counts[seen], kind="stable")][:_LABELS]
        if not len(seen):
            return None
        number = np.full(len(labels) + 1, -2, dtype=np.int16)  # -2: a label too many
        number[-1] = -1
        number[seen] = np.arange(len(seen))
        marks = [_Mark(labels[n], Filter(column.name, Op.EQUALS, labels[n])) for n in seen]
        return cls(column.name, "labels", number[codes], marks)

    @classmethod
    def of_numbers(cls, column: _Column, numbers: NDArray[np.float64], op: Op) -> _Scale | None:
        finite = numbers[np.isfinite(numbers)]
        if not len(finite):
            return None
        is_whole = op is Op.LENGTH or column.kind in (Kind.TIME, Kind.SPAN)
        is_whole = is_whole or _is_whole(column._series.dtype)
        edges = _edges(float(finite.min()), float(finite.max()), is_whole=is_whole)
        codes = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(edges) - 2)
        codes = np.where(np.isnan(numbers), -1, codes)
        ends = list(pairwise(edges.tolist()))
        marks = [_stretch(column, op, n, ends, is_whole=is_whole) for n in range(len(ends))]
        kind = "lengths" if op is Op.LENGTH else "numbers"
        return cls(column.name, kind, codes.astype(np.int16), marks)

    def counted(self, mask: Mask | None, query: Query) -> Facet:
        """Count the rows of a mask."""
        codes = self.codes if mask is None else self.codes[mask]
        rows = np.bincount(codes.astype(np.int32) + 2, minlength=len(self.marks) + 2).tolist()
        on = set(query.filters)
        if self.column == STATUS:
            on |= {Filter(STATUS, Op.EQUALS, status) for status in query.statuses}
        gone = Filter(self.column, Op.MISSING)
        bars = [_bar(mark, rows[n + 2], on) for n, mark in enumerate(self.marks)]
        missing = _bar(_Mark("missing", gone), rows[1], on)
        has_missing = rows[1] or missing["on"]
        return {
            "column": self.column,
            "kind": self.kind,
            "bars": bars,
            "missing": missing if has_missing else None,
        }


def _bar(mark: _Mark, rows: int, on: set[Filter]) -> Bar:
    plain = {**asdict(mark.filter), "op": str(mark.filter.op)}
    return {"label": mark.label, "rows": rows, "filter": plain, "on": mark.filter in on}


def _edges(least: float, most: float, *, is_whole: bool) -> NDArray[np.float64]:
    """Return the edges of the bars between two numbers: one a whole number where they are few."""
    if is_whole:
        nearest = float(np.spacing(max(abs(least), abs(most))))  # more than 1 from 2^53 on
        step = max(1.0, float(math.ceil((most - least + 1) / _BINS)), nearest)
        many = min(_BINS, int((most - least) / step) + 1)
        return np.unique(least + step * np.arange(many + 1))
    if least == most:
        return np.array([least, np.nextafter(most, math.inf)])
    edges = np.linspace(least, most, _BINS + 1)
    edges[-1] = np.nextafter(most, math.inf)
    return np.unique(edges)


def _stretch(
    column: _Column, op: Op, n: int, ends: Sequence[tuple[float, float]], *, is_whole: bool
) -> _Mark:
    """Return a bar from one edge to just before the next; the outer ones reach to infinity."""
    low = float(ends[n][0])
    high = float(np.nextafter(ends[n][1], -math.inf))
    high = min(high, float(ends[n][1]) - 1) if is_whole else high
    lowest = None if n == 0 else low
    highest = None if n == len(ends) - 1 else high
    if column.kind is Kind.TIME:
        label = _moment(low, column.zone)[:16].replace("T", " ")
        stamps = [None if end is None else _moment(end, column.zone) for end in (lowest, highest)]
        return _Mark(label, Filter(column.name, op, None, *stamps))
    if column.kind is Kind.SPAN:
        spans = [None if end is None else _span(end) for end in (lowest, highest)]
        return _Mark(_span(low), Filter(column.name, op, None, *spans))
    if is_whole:
        label = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
    else:
        label = f"{low:.4g} to {float(ends[n][1]):.4g}" if low != high else f"{low:.4g}"
    return _Mark(label, Filter(column.name, op, None, lowest, highest))


def _moment(micros: float, zone: Any) -> str:
    return pd.Timestamp(int(micros), unit="us", tz="UTC").tz_convert(zone).isoformat()


def _span(micros: float) -> str:
    return words(pd.Timedelta(int(micros), unit="us"))


# -- kinds ----------------------------------------------------------------------------------


def _kind(series: pd.Series[Any]) -> Kind:
    dtype: Any = series.dtype
    types = pd.api.types
    if _is_categorical(dtype):
        return Kind.LABEL
    if types.is_bool_dtype(dtype):
        return Kind.TRUTH
    if types.is_complex_dtype(dtype) or isinstance(dtype, pd.SparseDtype):
        return Kind.OBJECT
    if types.is_numeric_dtype(dtype):
        return Kind.NUMBER
    if types.is_datetime64_any_dtype(dtype):
        return Kind.TIME
    if dtype.kind == "m":
        return Kind.SPAN
    if isinstance(dtype, pd.StringDtype):
        return Kind.TEXT
    some = [value for value in series.array[:_SAMPLE_ROWS] if is_there(value)]
    return Kind.TEXT if some and all(isinstance(value, str) for value in some) else Kind.OBJECT


def _is_categorical(dtype: Any) -> bool:
    return isinstance(dtype, pd.CategoricalDtype)


def _is_whole(dtype: Any) -> bool:
    return bool(pd.api.types.is_integer_dtype(dtype))


def _is_decimal(dtype: Any) -> bool:
    return isinstance(dtype, pd.ArrowDtype) and pa.types.is_decimal(dtype.pyarrow_dtype)


# -- order ----------------------------------------------------------------------------------

_NUMBERS = (int, float, Decimal)
_ORDERED: tuple[type, ...] = (
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta),
    *(pd.Interval, pd.Period, bytes, list, tuple),
)


def _dense(values: Any) -> NDArray[np.int64]:
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _sort_keys(values: Sequence[Any]) -> Sequence[Any] | None:
    """Return what orders values: their size, where they have one; numbers before all the rest."""
    are_numbers = [isinstance(value, _NUMBERS) for value in values]
    if all(are_numbers):
        return values
    if any(are_numbers):
        return [
            (0, value, "") if is_number else (1, 0, _searched(value))
            for value, is_number in zip(values, are_numbers, strict=True)
        ]
    return values if any(all(isinstance(v, kind) for v in values) for kind in _ORDERED) else None


# -- arrays ---------------------------------------------------------------------------------


def _as_mask(found: Any) -> Mask:
    return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False), dtype=bool)


def _as_floats(found: Any) -> NDArray[np.float64]:
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.float64)


def _of_labels(codes: NDArray[np.int32], hits: Sequence[bool]) -> Mask:
    """Tell which rows have one of the labels that are hit; a missing value has none."""
    return np.array([*hits, False], dtype=bool)[codes]


def _within(numbers: NDArray[np.float64], low: float, high: float) -> Mask:
    return (numbers >= low) & (numbers <= high)


def _number(end: Any, default: float) -> float:
    if end is None or end == "":
        return default
    try:
        return float(end)
    except (TypeError, ValueError):
        raise CellError(f"{end!r:.60} is no number; write one, such as 0.5") from None
    except OverflowError:
        raise CellError(
            "a number of hundreds of digits is too large to ask for; leave the end open"
        ) from None


def _moment_of(end: Any, zone: Any) -> float:
    try:
        moment = pd.Timestamp(end)
        moment = moment.tz_localize(zone) if moment.tzinfo is None else moment
        plain = moment.tz_convert("UTC").tz_localize(None).to_datetime64()
        return float(plain.astype("datetime64[us]").astype(np.int64))
    except (ValueError, TypeError, OverflowError):
        raise CellError(f"{end!r:.60} is no time; write one as 2026-11-22 14:00") from None


def _span_of(end: Any) -> float:
    """Read a span of time; a bare number is none, as nobody can tell its unit."""
    try:
        if isinstance(end, str) and end.strip(" +-.0123456789"):
            return float(pd.Timedelta(end) / pd.Timedelta(1, unit="us"))
    except (ValueError, TypeError, OverflowError):
        pass
    raise CellError(f"{end!r:.60} is no span of time; write one as 2 hours or 1 days 12:30:00")


def _check_length(text: str) -> None:
    if len(text) > _SEARCHED_CHARS:
        raise CellError(
            f"a text of {len(text):,} characters is too long to look for; search for at most"
            f" {_SEARCHED_CHARS:,} of them"
        )


_MICROS = {"us": 1, "ms": 1_000, "s": 1_000_000}


def _label(value: Any) -> str:
    return clean(words(value))


def _searched(value: Any) -> str | None:
    """Return the text by which a value of no text column is found."""
    return clean(words(value)) if is_there(value) else None
