"""Python values as JSON that gives back equal values of the same types, or a refusal.

It knows what notebooks keep in a cell of a DataFrame beside numbers and text: lists, dicts, dates,
decimals, bytes, arrays. It refuses to know frames, and to pickle: what it reads may come from
anybody. The trap is a value that comes back almost equal (a tuple as a list, a subclass as its
base): only exact types are written, and what JSON has no word for goes under a tag.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

_TAG = "$"
_DEEPEST = 64  # lists within lists: reading must not run out of stack where writing did not
_HALVES = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # JSON joins them to one character


class UnwritableError(Exception):
    """A value that would not come back equal; the message is its type's name."""


def dumps(value: object) -> str:
    """Write a value as text. Raises UnwritableError for what `loads` would not give back."""
    try:
        return json.dumps(tagged(value), separators=(",", ":"))
    except ValueError as error:  # a number too long to write
        raise UnwritableError(type(value).__name__) from error


def loads(text: str | bytes) -> Any:
    """Give back what `dumps` wrote. Raises ValueError for anything else."""
    try:
        return untagged(json.loads(text))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def tagged(value: Any, depth: int = 0) -> Any:
    """Turn a value into what `json` writes as it is. Raises UnwritableError."""
    kind = type(value)
    if kind is str and not _HALVES.search(value):
        return value
    if value is None or kind in (bool, int, float):  # json writes NaN and the infinities
        return value
    if depth > _DEEPEST:
        raise UnwritableError("too deep")
    if kind is list:
        return [tagged(each, depth + 1) for each in value]
    if kind is dict:
        items = [[tagged(key, depth + 1), tagged(each, depth + 1)] for key, each in value.items()]
        is_plain = _TAG not in value and all(type(key) is str for key in value)
        return dict(items) if is_plain else {_TAG: "dict", "of": items}
    if kind is tuple:
        return {_TAG: "tuple", "of": [tagged(each, depth + 1) for each in value]}
    name, written = _written(kind, value)
    return {_TAG: name, "of": written}


def _written(kind: type, value: Any) -> tuple[str, Any]:
    if kind is bytes:
        return "bytes", base64.b64encode(value).decode()
    if kind is Decimal:
        return "decimal", str(value)
    if kind is dt.date:
        return "date", value.isoformat()
    if kind in (dt.datetime, dt.time) and value.tzinfo is None and not value.fold:
        return kind.__name__, value.isoformat()
    if kind is np.ndarray and value.dtype.isnative and value.dtype.kind in "biuf":
        data = base64.b64encode(value.tobytes()).decode()
        return "array", [value.dtype.str, list(value.shape), data]
    if value is pd.NA or value is pd.NaT:
        return "missing", "NA" if value is pd.NA else "NaT"
    raise UnwritableError(kind.__name__)


def untagged(written: Any) -> Any:
    """Give back what `tagged` was given. Raises ValueError for anything else."""
    if isinstance(written, list):
        return [untagged(each) for each in written]
    if not isinstance(written, dict):
        return written
    if _TAG not in written:
        return {key: untagged(each) for key, each in written.items()}
    try:
        return _READ[written[_TAG]](written["of"])
    except (LookupError, TypeError, ArithmeticError) as error:
        raise ValueError(f"not a value as it is written here: {error}") from error


def _array(written: Any) -> Any:
    dtype, shape, data = written
    if np.dtype(dtype).kind not in "biuf":
        raise ValueError(f"an array of {dtype}")
    return np.frombuffer(base64.b64decode(data), dtype=dtype).reshape(shape).copy()


_READ: Mapping[str, Callable[[Any], Any]] = {
    "dict": lambda items: {untagged(key): untagged(each) for key, each in items},
    "tuple": lambda items: tuple(map(untagged, items)),
    "bytes": base64.b64decode,
    "decimal": Decimal,
    "date": dt.date.fromisoformat,
    "datetime": dt.datetime.fromisoformat,
    "time": dt.time.fromisoformat,
    "array": _array,
    "missing": {"NA": pd.NA, "NaT": pd.NaT}.__getitem__,
}
