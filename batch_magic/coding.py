"""Columns of any dtypes brought to one kind, so that values can be held side by side.

It knows what is equal by value though it is stored otherwise (a category and a text, Int64 and
float, 4 and "4" where every text is a number, a list and an array) and refuses to know which rows
belong together. Each value becomes a code: equal codes are equal values, -1 is null. The trap is
a comparison that is silently never true, of texts with numbers that they do not spell: it is told.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

LABELS_MOST = 100
"""More different values than these are no labels."""

_LABEL_CHARS = 60
_FEW = 12  # different values that are labels even where each is there but once or twice
_FEW_NUMBERS = 20
_EXACT = 2**53  # whole numbers up to here are floats without loss
_NUMBER = r"\s*[-+]?\d{1,15}(?:\.\d{1,12})?\s*"  # what a float holds exactly enough to be compared


class Kind(Enum):
    """What is held side by side, and so what can be said of it."""

    LABELS = "labels"  # few different values
    NUMBERS = "numbers"
    TEXTS = "texts"
    TIMES = "times"
    OBJECTS = "objects"  # lists, objects, mixtures


@dataclass(frozen=True, slots=True)
class Coded:
    """Several columns as codes into `values`; null is -1.

    `numbers` are the same as floats (null is NaN) where the kind is NUMBERS. `has_labels`: few
    enough different values for a table of them. `note` says what cannot be equal, and why.
    """

    kind: Kind
    codes: tuple[NDArray[np.int64], ...]
    values: Sequence[Any]
    has_labels: bool
    numbers: tuple[NDArray[np.float64], ...] = ()
    note: str = ""


def code(columns: Sequence[pd.Series[Any]]) -> Coded:
    """Bring columns (of any lengths) to one kind and code their values."""
    families = [_family(column) for column in columns]
    known = set(families) - {"nothing"}
    if known == {"text", "number"} and _spell(columns, families, _NUMBER):
        known = {"number"}
    elif known == {"text", "truth"} and _spell(columns, families, r"(?i)\s*(?:true|false)\s*"):
        known = {"truth"}
    elif known == {"text"} and _spell(columns, families, _NUMBER):
        known = {"number"}
    if len(known) > 1:
        told = " and ".join(sorted(_FAMILY_WORDS[one] for one in known))
        return _of_objects(columns, f"{told} are never equal by value")
    family = next(iter(known), "nothing")
    try:
        return _CODERS.get(family, _of_objects)(columns)
    except (OverflowError, ValueError, TypeError):  # a value beyond what its kind can hold
        return _of_objects(columns)


_FAMILY_WORDS = {
    "text": "texts",
    "number": "numbers",
    "truth": "true and false",
    "time": "times",
    "object": "objects",
}
_INFERRED = {
    "string": "text",
    "integer": "number",
    "floating": "number",
    "mixed-integer-float": "number",
    "decimal": "number",
    "boolean": "truth",
    "date": "time",
    "datetime": "time",
    "datetime64": "time",
    "empty": "nothing",
}


def _family(column: pd.Series[Any]) -> str:
    dtype: Any = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _family(pd.Series(dtype.categories))
    if not column.notna().any():
        return "nothing"
    if pd.api.types.is_bool_dtype(dtype):
        return "truth"
    if pd.api.types.is_complex_dtype(dtype):
        return "object"
    if pd.api.types.is_numeric_dtype(dtype):
        return "number"
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return "time"
    if isinstance(dtype, pd.StringDtype):
        return "text"
    return _INFERRED.get(pd.api.types.infer_dtype(column, skipna=True), "object")


def _spell(columns: Sequence[pd.Series[Any]], families: Sequence[str], pattern: str) -> bool:
    """Tell whether every text of these columns is written like this."""
    texts = [column for column, family in zip(columns, families, strict=True) if family == "text"]
    if not all(_matches(column.dropna().head(100), pattern) for column in texts):
        return False  # the first few tell of most columns that they are none
    return all(_matches(column.dropna(), pattern) for column in texts)


def _matches(texts: pd.Series[Any], pattern: str) -> bool:
    known = pd.Series(texts.unique()).astype(object)
    return bool(known.astype(str).str.fullmatch(pattern).all())


# -- coders ---------------------------------------------------------------------------------


def _split(codes: NDArray[Any], columns: Sequence[pd.Series[Any]]) -> tuple[NDArray[np.int64], ...]:
    ends = np.cumsum([len(column) for column in columns])[:-1]
    return tuple(np.split(codes.astype(np.int64), ends))


def _of_texts(columns: Sequence[pd.Series[Any]]) -> Coded:
    together = np.concatenate([_objects(column) for column in columns])
    places, found = pd.factorize(together)
    words: list[str] = found.tolist()
    if not _are_labels(words, len(columns[0])):
        return Coded(Kind.TEXTS, _split(places, columns), words, False)
    codes, values = _reordered(places, words, _in_order(words, columns))
    return Coded(Kind.LABELS, _split(codes, columns), values, True)


def _are_labels(values: Sequence[str], rows: int) -> bool:
    few = len(values) <= max(_FEW, min(LABELS_MOST, rows // 2))
    return few and all(len(one) <= _LABEL_CHARS and "\n" not in one.strip() for one in values)


def _of_truths(columns: Sequence[pd.Series[Any]]) -> Coded:
    parts = [_truths(column) for column in columns]
    return Coded(Kind.LABELS, tuple(parts), [False, True], True)


def _truths(column: pd.Series[Any]) -> NDArray[np.int64]:
    known = column.isna().to_numpy()
    found = np.full(len(column), -1, dtype=np.int64)
    values = _objects(column)[~known]
    found[~known] = [_is_true(value) for value in values]
    return found


def _is_true(value: Any) -> bool:
    return value.strip().casefold() == "true" if isinstance(value, str) else bool(value)


def _of_numbers(columns: Sequence[pd.Series[Any]]) -> Coded:
    parts = [_numbers(column) for column in columns]
    floats = tuple(part.to_numpy(dtype=np.float64, na_value=np.nan) for part in parts)
    if any(map(_is_beyond_floats, parts)):
        # Whole numbers beyond 2^53 would be equal as floats though they are not; Python's own
        # numbers are equal by value, of whatever type and size.
        codes, uniques = pd.factorize(np.concatenate([_objects(part) for part in parts]))
        found: Any = np.asarray(uniques)
    else:
        codes, found = pd.factorize(np.concatenate(floats))
    values: list[Any] = found.tolist()
    has_labels = len(values) <= _FEW_NUMBERS and all(one == one // 1 for one in values)
    if has_labels:
        values = [int(one) for one in values]
        codes, values = _reordered(codes, values, sorted(values))
    return Coded(Kind.NUMBERS, _split(codes, columns), values, has_labels, floats)


def _is_beyond_floats(part: pd.Series[Any]) -> bool:
    """Tell whether a column holds whole numbers that floats cannot tell apart."""
    if part.dtype == object:
        return True
    return part.dtype == "Int64" and bool(((part > _EXACT) | (part < -_EXACT)).any())


def _numbers(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column as Int64, as Float64, or as whole numbers and floats; missing is NA."""
    dtype: Any = column.dtype
    is_decimal = getattr(dtype, "type", None) is Decimal
    if is_decimal or isinstance(
        dtype, (pd.CategoricalDtype, pd.StringDtype, np.dtypes.ObjectDType)
    ):
        return _read(column)
    if isinstance(dtype, np.dtype) and dtype.kind == "f" and dtype.itemsize < 8:
        # 0.1 as float32 is 0.1 to its user, not 0.10000000149011612.
        column = pd.Series(column.to_numpy().astype(str).astype(np.float64))
    try:
        found = column.astype("Int64" if pd.api.types.is_integer_dtype(dtype) else "Float64")
    except (OverflowError, TypeError, ValueError):  # whole numbers beyond 64 bits
        return _read(column)
    return found.mask((found != found).fillna(True)).reset_index(drop=True)


def _read(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return numbers among objects, and texts that spell numbers, as a column of numbers."""
    values = _objects(column)
    known = ~pd.isna(values)
    found = np.full(len(values), None, dtype=object)
    found[known] = list(map(_number, values[known]))
    whole = [abs(value) for value in found[known] if isinstance(value, int)]
    if len(whole) == int(known.sum()) and max(whole, default=0) < 2**63:
        return pd.Series(pd.array(found, dtype="Int64"))
    if max(whole, default=0) <= _EXACT:
        return pd.Series(pd.array(found, dtype="Float64"))
    return pd.Series(found, dtype=object)


def _number(value: Any) -> int | float:
    if isinstance(value, (str, Decimal)):
        read = float(value)
        is_whole = read.is_integer() and "." not in str(value)
        return int(value if isinstance(value, Decimal) else read) if is_whole else read
    return int(value) if isinstance(value, (int, np.integer)) else float(value)


def _of_times(columns: Sequence[pd.Series[Any]]) -> Coded:
    parts = [_times(column) for column in columns]
    codes, values = pd.factorize(np.concatenate(parts))
    moments = pd.DatetimeIndex(values, tz="UTC").tolist()
    return Coded(Kind.TIMES, _split(codes, columns), moments, False)


def _times(column: pd.Series[Any]) -> NDArray[Any]:
    """Return moments in UTC; a date is its midnight, one without a zone is UTC."""
    values = column.astype(object) if column.dtype != object else column
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        values = column
    found = pd.to_datetime(values, utc=True)
    return found.dt.tz_localize(None).to_numpy(dtype="datetime64[us]")


def _of_objects(columns: Sequence[pd.Series[Any]], note: str = "") -> Coded:
    known: dict[Hashable, int] = {}
    values: list[Any] = []
    parts = []
    for column in columns:
        found = np.full(len(column), -1, dtype=np.int64)
        for place, value in enumerate(_objects(column)):
            key = _key(value)
            if key is None:
                continue
            if key not in known:
                known[key] = len(values)
                values.append(value)
            found[place] = known[key]
        parts.append(found)
    is_choice = all(isinstance(column.dtype, pd.CategoricalDtype) for column in columns)
    has_labels = is_choice and len(values) <= LABELS_MOST
    kind = Kind.LABELS if has_labels else Kind.OBJECTS
    return Coded(kind, tuple(parts), values, has_labels, note=note)


_CODERS: Mapping[str, Callable[[Sequence[pd.Series[Any]]], Coded]] = {
    "text": _of_texts,
    "truth": _of_truths,
    "number": _of_numbers,
    "time": _of_times,
}


def _objects(column: pd.Series[Any]) -> NDArray[Any]:
    """Return the values as Python's own objects, missing ones as they are."""
    return column.astype(object).to_numpy()


def _in_order(values: Sequence[str], columns: Sequence[pd.Series[Any]]) -> list[str]:
    """Order labels as the first categorical has them, the rest by the alphabet."""
    order: dict[str, int] = {}
    for column in columns:
        if isinstance(column.dtype, pd.CategoricalDtype):
            for one in column.dtype.categories:
                order.setdefault(one, len(order))
    return sorted(values, key=lambda one: (order.get(one, len(order)), one))


def _reordered(
    codes: NDArray[Any], values: Sequence[Any], order: Sequence[Any]
) -> tuple[NDArray[np.int64], list[Any]]:
    """Number values anew, in the order given."""
    place = {value: n for n, value in enumerate(order)}
    changed = np.array([*[place[value] for value in values], -1], dtype=np.int64)
    return changed[codes], list(order)


# -- values as keys -------------------------------------------------------------------------


def _key(value: Any) -> Hashable:
    """Return a key that equal values share, however they are stored; None for a missing one."""
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, (str, bytes)):
        return value
    if isinstance(value, (bool, np.bool_)):
        return ("truth", bool(value))
    if isinstance(value, (int, float, np.integer, np.floating, Decimal)):
        return _number_key(value)
    if isinstance(value, (datetime.date, np.datetime64)):
        return _time_key(value)
    if isinstance(value, Mapping):
        return ("object", frozenset((str(name), _key(one)) for name, one in value.items()))
    if isinstance(value, (set, frozenset)):
        return ("set", frozenset(map(_key, value)))
    if isinstance(value, (list, tuple, np.ndarray, pd.Series)):
        return _list_key(value)
    return ("other", type(value).__qualname__, repr(value))


def _number_key(value: Any) -> Hashable:
    if value != value:
        return None
    if isinstance(value, np.floating):
        return ("number", float(str(value)))
    return ("number", int(value) if isinstance(value, np.integer) else value)


def _time_key(value: Any) -> Hashable:
    try:
        moment = pd.Timestamp(value)
    except (ValueError, OverflowError):
        return ("time", str(value))
    moment = moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")
    return ("time", moment)


def _list_key(value: Any) -> Hashable:
    """Return a key of a list: of plain numbers their bytes, as vectors are long."""
    if not len(value):
        return ("list", ())
    if isinstance(value, np.ndarray):
        are_numbers = value.dtype.kind in "iuf" and bool((np.abs(value) <= _EXACT).all())
    else:
        are_numbers = all(type(one) in (int, float) and abs(one) <= _EXACT for one in value)
    if not are_numbers:
        return ("list", tuple(map(_key, value)))
    numbers = np.asarray(value, dtype=np.float64)
    # + 0.0: there is a zero below zero, of the same value and of other bytes.
    return ("numbers", numbers.shape, (numbers + 0.0).tobytes())
