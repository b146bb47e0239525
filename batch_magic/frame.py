"""Both ends of a run: rows out of a DataFrame, and outcomes back into a copy of it.

It knows pandas and Arrow: how the values of any dtype are read, how a frame is held, recognised
again, kept on disk, and given new columns. It refuses to know what the values are for, and the
JSON of the wire. It never changes the caller's frame. The trap is the index: labels repeat, are
unsorted, are missing; so nothing here joins, merges or looks up by label, rows go by position
only, and so do columns, whose names may repeat as well.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import hashlib
import json
import os
import uuid
import zoneinfo
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batch_magic.errors import FrameError, JournalError
from batch_magic.records import Chunk, RowStatus

TRUTH_PREFIX = "gpt_"
"""Columns whose names begin so are ours: those of an earlier result are replaced."""

_SAMPLE_ROWS = 2048
_SAMPLE_COLUMNS = 512
_SAMPLE_CHARS = 256
_ROWS_PER_GROUP = 50_000
_FORMAT = b"batch_magic.frame.1"
_META_KEY = b"batch_magic"
# Lists keep the name of their items, which is part of a dtype's name.
_PARQUET: Mapping[str, Any] = {"compression": "zstd", "use_compliant_nested_type": False}


# --- the frame as given ---------------------------------------------------------------------


def check_frame(obj: object, name: str) -> pd.DataFrame:
    """The same object, known to be a DataFrame. Raises `FrameError`."""
    if isinstance(obj, pd.DataFrame):
        return obj
    if isinstance(obj, pd.Series):
        raise FrameError(f"{name} is a Series, not a DataFrame; use {name}.to_frame()")
    kind = type(obj).__name__
    article = "an" if kind[:1].lower() in "aeiou" else "a"
    advice = "make it one with pandas.DataFrame(…)"
    if hasattr(obj, "to_pandas"):
        advice = f"use {name}.to_pandas()"
    raise FrameError(f"{name} is {article} {kind}, not a DataFrame; {advice}")


def column_names(frame: pd.DataFrame) -> tuple[Hashable, ...]:
    """Column labels in order, repeated ones repeated; tuples where columns are a MultiIndex."""
    return tuple(frame.columns)


def hold(frame: pd.DataFrame) -> pd.DataFrame:
    """A snapshot that later edits to `frame` do not reach.

    On pandas 3 it shares the data until one side writes (cost by column, not by row). On pandas
    2 without copy-on-write it is a deep copy. Objects inside cells are shared either way.
    """
    copied = frame.copy(deep=not _copies_on_write())
    copied.index = frame.index.copy(deep=False)
    copied.columns = frame.columns.copy(deep=False)
    return copied


def _copies_on_write() -> bool:
    if int(pd.__version__.split(".")[0]) >= 3:
        return True
    return pd.options.mode.copy_on_write is True


# --- rows out -------------------------------------------------------------------------------


def chunks(
    frame: pd.DataFrame, columns: Sequence[Hashable], *, with_index: bool, size: int = 256
) -> Iterator[Chunk]:
    """The rows in order, `size` at a time, of just these columns; missing values are None.

    A chunk is small so that it and the lines made of it fit the processor's cache.
    Values come as Python's own where there is an equal: numbers, strings, booleans; a float32
    as the shortest number that stands for it. Raises `FrameError` for a name that is not there
    or occurs twice.
    """
    read = {name: frame.iloc[:, _place(frame, name)] for name in columns}
    for start in range(0, len(frame), size):
        stop = min(start + size, len(frame))
        yield Chunk(
            start=start,
            size=stop - start,
            columns={name: _values(series.iloc[start:stop]) for name, series in read.items()},
            index=_values(_as_series(frame.index[start:stop])) if with_index else None,
        )


def _place(frame: pd.DataFrame, name: Hashable) -> int:
    places = [place for place, label in enumerate(frame.columns) if _same_label(label, name)]
    if len(places) != 1:
        raise FrameError(f"column {name!r} occurs {len(places)} times in the frame, not once")
    return places[0]


def _same_label(one: Any, other: Any) -> bool:
    return one is other or bool(type(one) is type(other) and one == other)


def _as_series(index: pd.Index[Any]) -> Any:
    """Labels as a column; those of a MultiIndex as tuples."""
    if isinstance(index, pd.MultiIndex):
        labels = np.empty(len(index), dtype=object)
        labels[:] = list(index)
        return pd.Series(labels, dtype=object)
    return _series(index.array)


def _series(values: Any) -> Any:
    """A column of exactly this dtype: left alone, pandas reads objects as strings if it can."""
    return pd.Series(values, dtype=values.dtype, copy=False)


def _values(series: pd.Series[Any]) -> list[object]:
    """The values of a column as a list, missing ones as None."""
    dtype = series.dtype
    if isinstance(dtype, pd.StringDtype) and dtype.storage == "python":
        return _object_values(series)
    if isinstance(dtype, (pd.StringDtype, pd.ArrowDtype)):
        return _without_nan(pa.array(series.array, from_pandas=True).to_pylist())
    if isinstance(dtype, pd.CategoricalDtype):
        return _category_values(series)
    if isinstance(dtype, pd.SparseDtype):
        return _values(_series(np.asarray(series.array)))
    if isinstance(dtype, np.dtype) and dtype.kind in "biu":
        return list(series.to_numpy().tolist())
    if isinstance(dtype, np.dtype) and dtype.kind == "f":
        return _float_values(series.to_numpy())
    return _object_values(series)


def _float_values(values: NDArray[Any]) -> list[object]:
    if values.dtype.itemsize < 8:  # 0.1 as float32 is 0.1 to its user, not 0.10000000149011612
        return [None if value != value else float(str(value)) for value in values]
    return _without_nan(values.tolist())


def _without_nan(values: list[object]) -> list[object]:
    return [None if value != value else value for value in values]


def _category_values(series: pd.Series[Any]) -> list[object]:
    categories = _values(_series(series.cat.categories))
    codes = series.cat.codes.to_numpy().tolist()
    return [categories[code] if code >= 0 else None for code in codes]


def _object_values(series: pd.Series[Any]) -> list[object]:
    values = series.astype(object).to_numpy()
    missing = pd.isna(values)
    found = values.tolist()
    if missing.any():
        return [None if gone else value for value, gone in zip(found, missing, strict=True)]
    return list(found)


# --- recognising a frame --------------------------------------------------------------------


def fingerprint(frame: pd.DataFrame) -> str:
    """A hash by which the same frame is recognised later, also in another process.

    It covers the shape, column names, dtypes and index type, and a bounded sample of the
    content: all of a frame of up to 2,048 rows and 512 columns, else 2,048 rows evenly spread
    (first and last among them) with their labels; of a long text, its length and both ends.
    So an edit between sampled rows of a large frame goes unseen. Objects without a value of
    their own (images, models) count by type only.
    """
    digest = hashlib.sha256()
    for fact in (
        frame.shape,
        [_trace(label) for label in frame.columns],
        [str(dtype) for dtype in frame.dtypes],
        type(frame.index).__name__,
        [_trace(name) for name in frame.index.names],
    ):
        digest.update(repr(fact).encode("utf-8", "surrogatepass"))
    rows = _spread(len(frame), _SAMPLE_ROWS)
    _hash_values(digest, _as_series(frame.index[rows]))
    for place in _spread(frame.shape[1], _SAMPLE_COLUMNS):
        _hash_values(digest, frame.iloc[:, place].iloc[rows])
    return digest.hexdigest()


def _spread(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return [place * (count - 1) // (most - 1) for place in range(most)]


def _hash_values(digest: Any, series: pd.Series[Any]) -> None:
    traces = "\x1f".join(_trace(value) for value in _values(series))
    digest.update(traces.encode("utf-8", "surrogatepass") + b"\x1e")


def _trace(value: Any, depth: int = 0) -> str:
    if isinstance(value, (str, bytes)):
        if len(value) > 2 * _SAMPLE_CHARS:
            return f"{len(value)}{value[:_SAMPLE_CHARS]!r}{value[-_SAMPLE_CHARS:]!r}"
        return repr(value)
    if isinstance(value, (int, float, complex, np.generic, datetime.date, datetime.timedelta)):
        return f"{type(value).__name__}{value}"
    if isinstance(value, (list, tuple, np.ndarray)) and depth < 3:
        inside = [_trace(each, depth + 1) for each in value[:_SAMPLE_CHARS]]
        return f"{type(value).__name__}{len(value)}{inside}"
    if isinstance(value, dict) and depth < 3:
        items = list(value.items())[:_SAMPLE_CHARS]
        return f"dict{len(value)}{[(_trace(k), _trace(v, depth + 1)) for k, v in items]}"
    return type(value).__qualname__


# --- the snapshot on disk: one object as JSON -----------------------------------------------


class _UnstorableError(Exception):
    """A value or a dtype that would not come back equal."""


def _write_cell(value: Any) -> Any:
    """JSON that gives exactly this object again. Raises `_UnstorableError`."""
    if value is None or type(value) in (str, bool, int, float):
        return value  # json writes NaN and the infinities, and reads them
    if type(value) is list:
        return [_write_cell(each) for each in value]
    if value is pd.NaT or value is pd.NA:
        return {"constant": repr(value)}
    for tag, (kind, write, _) in _CELLS.items():
        if type(value) is kind:
            return {tag: write(value)}
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return {"numpy": [value.dtype.str, value.item()]}
    raise _UnstorableError(type(value).__name__)


def _read_cell(written: Any) -> Any:
    if isinstance(written, list):
        return [_read_cell(each) for each in written]
    if not isinstance(written, dict):
        return written
    ((tag, inside),) = written.items()
    if tag == "constant":
        return pd.NaT if inside == "NaT" else pd.NA
    if tag == "numpy":
        return np.dtype(inside[0]).type(inside[1])
    return _CELLS[tag][2](inside)


def _write_datetime(value: datetime.datetime) -> list[Any]:
    return [value.replace(tzinfo=None).isoformat(), _write_zone(value.tzinfo), value.fold]


def _read_datetime(inside: list[Any]) -> datetime.datetime:
    naive = datetime.datetime.fromisoformat(inside[0])
    return naive.replace(tzinfo=_read_zone(inside[1]), fold=inside[2])


def _write_timestamp(value: pd.Timestamp) -> list[Any]:
    naive = value if value.tzinfo is None else value.tz_convert("UTC").tz_localize(None)
    return [naive.isoformat(), value.unit, _write_zone(value.tzinfo)]


def _read_timestamp(inside: list[Any]) -> pd.Timestamp:
    naive = pd.Timestamp(inside[0]).as_unit(inside[1])
    zone = _read_zone(inside[2])
    return naive if zone is None else naive.tz_localize("UTC").tz_convert(zone)


def _write_zone(zone: datetime.tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is datetime.timezone:
        offset = zone.utcoffset(None)
        return [offset.days, offset.seconds, offset.microseconds]
    if type(zone) is zoneinfo.ZoneInfo and zone.key:
        return zone.key
    if type(zone).__module__.startswith("pytz") and _pandas_zone(str(zone)) == zone:
        return {"pandas": str(zone)}  # pandas 2 makes such ones from names
    raise _UnstorableError(f"time zone {zone!r}")


def _pandas_zone(name: str) -> Any:
    return pd.DatetimeTZDtype("ns", name).tz


def _read_zone(written: Any) -> datetime.tzinfo | None:
    if written is None:
        return None
    if isinstance(written, str):
        return zoneinfo.ZoneInfo(written)
    if isinstance(written, dict):
        return pd.DatetimeTZDtype("ns", written["pandas"]).tz
    offset = datetime.timedelta(*written)
    return datetime.timezone(offset) if offset else datetime.UTC


def _write_timedelta(value: datetime.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


_CELLS: Mapping[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "bytes": (bytes, lambda v: base64.b64encode(v).decode(), base64.b64decode),
    "tuple": (tuple, lambda v: [_write_cell(each) for each in v], lambda v: tuple(_read_cell(v))),
    "dict": (
        dict,
        lambda v: [[_write_cell(key), _write_cell(each)] for key, each in v.items()],
        lambda v: {_read_cell(key): _read_cell(each) for key, each in v},
    ),
    "decimal": (decimal.Decimal, str, decimal.Decimal),
    "date": (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "time": (datetime.time, lambda v: _write_time(v), datetime.time.fromisoformat),
    "datetime": (datetime.datetime, _write_datetime, _read_datetime),
    "timedelta": (datetime.timedelta, _write_timedelta, lambda v: datetime.timedelta(*v)),
    "Timestamp": (pd.Timestamp, _write_timestamp, _read_timestamp),
    "Timedelta": (
        pd.Timedelta,
        lambda v: [v.isoformat(), v.unit],
        lambda v: pd.Timedelta(v[0]).as_unit(v[1]),
    ),
    "uuid": (uuid.UUID, str, uuid.UUID),
}


def _write_time(value: datetime.time) -> str:
    if value.tzinfo is not None:
        raise _UnstorableError("a time with a zone")
    return value.isoformat()


def _cell_json(value: Any) -> bytes:
    try:
        return json.dumps(_write_cell(value)).encode()
    except (ValueError, RecursionError) as error:
        raise _UnstorableError(type(value).__name__) from error


# --- the snapshot on disk: columns ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Spec:
    """How a column is written: its way, and what else is needed to build it again."""

    way: str
    facts: Mapping[str, Any]


_Arrays = list[pa.Array]


def _spec_of(series: pd.Series[Any]) -> _Spec:
    """The way of a column. Raises `_UnstorableError` when it would not come back equal."""
    dtype = series.dtype
    if isinstance(dtype, np.dtype):
        return _spec_of_numpy(series, dtype)
    if isinstance(dtype, pd.StringDtype):
        na = "NA" if dtype.na_value is pd.NA else "nan"
        return _Spec("string", {"storage": dtype.storage, "na": na})
    if isinstance(dtype, pd.CategoricalDtype):
        categories = _pack_index(dtype.categories)
        return _Spec("category", {"categories": categories, "ordered": bool(dtype.ordered)})
    if isinstance(dtype, pd.ArrowDtype):
        return _Spec("arrow", {})
    if isinstance(dtype, pd.DatetimeTZDtype):
        return _Spec("zoned", {"unit": dtype.unit, "zone": _write_zone(dtype.tz)})
    if isinstance(dtype, pd.PeriodDtype):
        return _Spec("period", {"dtype": str(dtype)})
    if isinstance(dtype, pd.IntervalDtype):
        inside = _spec_of(_series(series.array.left))
        return _Spec("interval", {"closed": dtype.closed, "inside": [inside.way, inside.facts]})
    if isinstance(dtype, pd.SparseDtype):
        inside = _spec_of(_series(np.asarray(series.array[:0])))
        fill = _write_cell(dtype.fill_value)
        return _Spec("sparse", {"fill": fill, "inside": [inside.way, inside.facts]})
    if type(dtype).__module__.partition(".")[0] == "pandas" and hasattr(dtype, "numpy_dtype"):
        return _Spec("nullable", {"dtype": str(dtype)})
    raise _UnstorableError(str(dtype))


def _spec_of_numpy(series: pd.Series[Any], dtype: np.dtype[Any]) -> _Spec:
    if dtype.kind in "biufcmM":
        return _Spec("numpy", {"dtype": dtype.str})
    kinds = set(map(type, series.array))
    if kinds <= {str, type(None)}:
        return _Spec("object text", {})
    for value in series.array:
        _cell_json(value)  # one that cannot be written must be met before the file is begun
    return _Spec("object", {})


def _arrays_of(series: pd.Series[Any], spec: _Spec) -> _Arrays:
    """The column as one or two Arrow arrays of the same length."""
    if spec.way == "numpy":
        return [_raw(series.to_numpy())]
    if spec.way in ("string", "object text"):
        return [_bytes_array(series)]
    if spec.way == "category":
        return [pa.array(series.cat.codes.to_numpy())]
    if spec.way in ("arrow", "nullable"):
        return [_one_array(pa.array(series.array))]
    if spec.way == "zoned":
        return [_raw(series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy())]
    if spec.way == "period":
        return [pa.array(series.array.asi8)]
    if spec.way == "interval":
        inside = _Spec(*spec.facts["inside"])
        halves = (series.array.left, series.array.right)
        return [array for half in halves for array in _arrays_of(_series(half), inside)]
    if spec.way == "sparse":
        return _arrays_of(_series(np.asarray(series.array)), _Spec(*spec.facts["inside"]))
    return [pa.array([_cell_json(value) for value in series.array], type=pa.large_binary())]


def _one_array(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _raw(values: NDArray[Any]) -> pa.Array:
    """The bytes of numbers, times and spans as they are: whatever the unit or the NaN."""
    native = values.astype(values.dtype.newbyteorder("="))
    if native.dtype.kind == "b":
        return pa.array(native)
    if native.dtype.kind in "fmMiu" and native.dtype.itemsize <= 8:
        return pa.array(native if native.dtype.kind in "iu" else native.view(_same_width(native)))
    data = pa.py_buffer(np.ascontiguousarray(native))
    width = native.dtype.itemsize
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(native), [None, data])


def _same_width(values: NDArray[Any]) -> str:
    return f"u{values.dtype.itemsize}" if values.dtype.kind == "f" else "i8"


def _bytes_array(series: pd.Series[Any]) -> pa.Array:
    if isinstance(series.dtype, pd.StringDtype) and series.dtype.storage == "pyarrow":
        return _one_array(pa.array(series.array)).cast(pa.large_binary())
    texts = (
        None if value is None or value is pd.NA or value != value else value
        for value in series.array
    )
    written = [None if text is None else text.encode("utf-8", "surrogatepass") for text in texts]
    return pa.array(written, type=pa.large_binary())


def _column_from(spec: _Spec, arrays: _Arrays) -> Any:
    """A pandas array again."""
    kind: Any
    if spec.way == "numpy":
        return _from_raw(arrays[0], np.dtype(spec.facts["dtype"]))
    if spec.way == "string":
        options = {} if spec.facts["na"] == "NA" else {"na_value": np.nan}
        return _strings(arrays[0], pd.StringDtype(spec.facts["storage"], **options))
    if spec.way == "object text":
        return _objects(_texts(arrays[0]))
    if spec.way == "category":
        categories = _unpack_index(spec.facts["categories"])
        codes = arrays[0].to_numpy(zero_copy_only=False)
        kind = pd.CategoricalDtype(categories, ordered=spec.facts["ordered"])
        return pd.Categorical.from_codes(codes, dtype=kind)
    if spec.way == "arrow":
        return _from_arrow(pd.ArrowDtype(arrays[0].type), arrays[0])
    if spec.way == "nullable":
        return _from_arrow(pd.api.types.pandas_dtype(spec.facts["dtype"]), arrays[0])
    if spec.way == "zoned":
        instants = _from_raw(arrays[0], np.dtype(f"M8[{spec.facts['unit']}]"))
        zone = _read_zone(spec.facts["zone"])
        return pd.DatetimeIndex(instants).tz_localize("UTC").tz_convert(zone).array
    if spec.way == "period":
        ordinals = arrays[0].to_numpy(zero_copy_only=False)
        kind = pd.api.types.pandas_dtype(spec.facts["dtype"])
        return pd.arrays.PeriodArray(ordinals, dtype=kind)
    if spec.way == "interval":
        inside, half = _Spec(*spec.facts["inside"]), len(arrays) // 2
        left, right = (_column_from(inside, each) for each in (arrays[:half], arrays[half:]))
        return pd.arrays.IntervalArray.from_arrays(left, right, closed=spec.facts["closed"])
    if spec.way == "sparse":
        dense = _column_from(_Spec(*spec.facts["inside"]), arrays)
        return pd.arrays.SparseArray(dense, fill_value=_read_cell(spec.facts["fill"]))
    return _objects([_read_cell(json.loads(each)) for each in arrays[0].to_pylist()])


def _from_arrow(dtype: Any, array: pa.Array | pa.ChunkedArray) -> Any:
    return dtype.__from_arrow__(array)  # the protocol that pandas documents for its dtypes


def _from_raw(array: pa.Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    native = dtype.newbyteorder("=")
    if pa.types.is_fixed_size_binary(array.type):
        values = np.frombuffer(b"".join(array.to_pylist()), dtype=native)
    else:
        values = array.to_numpy(zero_copy_only=False)
        values = values if dtype.kind in "biu" else values.view(native)
    return values.astype(dtype)


def _texts(array: pa.Array) -> list[str | None]:
    found = array.to_pylist()
    return [None if each is None else each.decode("utf-8", "surrogatepass") for each in found]


def _objects(values: Sequence[object]) -> NDArray[Any]:
    column = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        column[place] = value
    return column


# --- the snapshot on disk: labels -----------------------------------------------------------


def _levels(index: pd.Index[Any]) -> list[pd.Series[Any]]:
    if isinstance(index, pd.MultiIndex):
        return [_series(index.get_level_values(n).array) for n in range(index.nlevels)]
    return [_series(index.array)]


def _index_facts(index: pd.Index[Any], specs: Sequence[_Spec]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "names": [_write_cell(name) for name in index.names],
        "levels": [[spec.way, spec.facts] for spec in specs],
        "multi": isinstance(index, pd.MultiIndex),
        "freq": index.freqstr if isinstance(index, (pd.DatetimeIndex, pd.TimedeltaIndex)) else None,
    }
    if isinstance(index, pd.RangeIndex):
        facts["range"] = [index.start, index.stop, index.step]
    return facts


def _index_specs(index: pd.Index[Any]) -> list[_Spec]:
    return [] if isinstance(index, pd.RangeIndex) else [_spec_of(each) for each in _levels(index)]


def _index_from(facts: Mapping[str, Any], arrays: Sequence[_Arrays]) -> Any:
    names = [_read_cell(name) for name in facts["names"]]
    if "range" in facts:
        start, stop, step = facts["range"]
        return pd.RangeIndex(start, stop, step, name=names[0])
    columns = [
        _column_from(_Spec(*spec), own) for spec, own in zip(facts["levels"], arrays, strict=True)
    ]
    if facts["multi"]:
        return pd.MultiIndex.from_arrays(columns, names=names)
    index: Any = pd.Index(columns[0], dtype=columns[0].dtype, name=names[0], copy=False)
    if facts["freq"] is not None:
        index.freq = facts["freq"]
    return index


def _pack_index(index: pd.Index[Any]) -> dict[str, Any]:
    """A short index (column labels, categories) as JSON."""
    specs = _index_specs(index)
    packed = [
        [_ipc(array) for array in _arrays_of(level, spec)]
        for level, spec in zip(_levels(index), specs, strict=False)
    ]
    return {"facts": _index_facts(index, specs), "arrays": packed}


def _unpack_index(packed: Mapping[str, Any]) -> Any:
    arrays = [[_from_ipc(array) for array in own] for own in packed["arrays"]]
    return _index_from(packed["facts"], arrays)


def _ipc(array: pa.Array) -> str:
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([array], names=["0"])
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return base64.b64encode(sink.getvalue()).decode()


def _from_ipc(text: str) -> pa.Array:
    table = pa.ipc.open_stream(base64.b64decode(text)).read_all()
    return _one_array(table.column(0))


# --- the snapshot on disk: the file ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """A snapshot file: the columns that are not in it, and what is."""

    unstored: tuple[str, ...]
    sha256: str
    bytes: int


def store(frame: pd.DataFrame, path: Path) -> Stored:
    """Write `frame` to `path` as Parquet: rows, index, labels, dtypes, and attrs that are JSON.

    A column that would not come back equal, dtype included, is left out and named. The file is
    there whole or not at all. Nothing is pickled. Raises `FrameError` when the column labels
    themselves cannot be written, `OSError` from the disk.
    """
    plan = _plan(frame)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        _write_groups(frame, plan, file)
        file.flush()
        os.fsync(file.fileno())
    with part.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = part.stat().st_size
    os.replace(part, path)
    _sync_folder(path.parent)
    return Stored(plan.unstored, sha256, size)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there, and its rename is durable
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What of a frame is stored, and how."""

    places: tuple[int, ...]
    specs: tuple[_Spec, ...]
    index_specs: tuple[_Spec, ...] | None  # None: the index itself cannot be stored
    unstored: tuple[str, ...]
    facts: Mapping[str, Any]


def _plan(frame: pd.DataFrame) -> _Plan:
    places, specs, unstored = [], [], []
    for place, label in enumerate(frame.columns):
        try:
            spec = _checked_spec(frame.iloc[:, place])
        except _UnstorableError:
            unstored.append(str(label))
            continue
        places.append(place)
        specs.append(spec)
    try:
        index_specs = tuple(_checked_index_specs(frame.index))
    except _UnstorableError:
        index_specs = None
        unstored.append("index")
    facts = {
        "rows": len(frame),
        "places": places,
        "specs": [[spec.way, spec.facts] for spec in specs],
        "columns": _labels(frame),
        "index": None if index_specs is None else _index_facts(frame.index, index_specs),
        "attrs": _attrs(frame),
        "unstored": unstored,
    }
    return _Plan(tuple(places), tuple(specs), index_specs, tuple(unstored), facts)


def _labels(frame: pd.DataFrame) -> dict[str, Any]:
    try:
        return _pack_index(frame.columns)
    except _UnstorableError as error:
        raise FrameError(
            f"the frame's column names cannot be stored ({error}); use strings"
        ) from error


def _attrs(frame: pd.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in frame.attrs.items():
        try:
            if isinstance(key, str) and json.loads(json.dumps({key: value})) == {key: value}:
                found[key] = value
        except (TypeError, ValueError, RecursionError):
            continue
    return found


def _checked_spec(series: pd.Series[Any]) -> _Spec:
    """The way of a column, tried on its first rows: Arrow and Parquet must both know it."""
    spec = _spec_of(series)
    try:
        arrays = [_through_parquet(array) for array in _arrays_of(series.iloc[:2], spec)]
        again = _series(_column_from(spec, arrays))
    except (pa.ArrowException, NotImplementedError, TypeError, ValueError) as error:
        raise _UnstorableError(str(series.dtype)) from error
    if again.dtype != series.dtype:
        raise _UnstorableError(str(series.dtype))
    return spec


def _checked_index_specs(index: pd.Index[Any]) -> list[_Spec]:
    for name in index.names:
        _write_cell(name)
    if isinstance(index, pd.RangeIndex):
        return []
    return [_checked_spec(level) for level in _levels(index)]


def _through_parquet(array: pa.Array) -> pa.Array:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table([array], names=["0"]), sink, **_PARQUET)
    again = _one_array(pq.read_table(pa.BufferReader(sink.getvalue())).column(0))
    if again.type != array.type:
        raise _UnstorableError(str(array.type))
    return again


def _write_groups(frame: pd.DataFrame, plan: _Plan, file: Any) -> None:
    """Row group by row group, so that the memory needed does not grow with the frame."""
    writer: pq.ParquetWriter | None = None
    try:
        for start in range(0, max(len(frame), 1), _ROWS_PER_GROUP):
            table = _group(frame.iloc[start : start + _ROWS_PER_GROUP], plan)
            if writer is None:
                writer = pq.ParquetWriter(file, table.schema, **_PARQUET)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _group(rows: pd.DataFrame, plan: _Plan) -> pa.Table:
    arrays: dict[str, pa.Array] = {}
    for place, spec in zip(plan.places, plan.specs, strict=True):
        for n, array in enumerate(_arrays_of(rows.iloc[:, place], spec)):
            arrays[f"c{place}.{n}"] = array
    if plan.index_specs:
        for level, (series, spec) in enumerate(
            zip(_levels(rows.index), plan.index_specs, strict=True)
        ):
            for n, array in enumerate(_arrays_of(series, spec)):
                arrays[f"i{level}.{n}"] = array
    facts = json.dumps(plan.facts, allow_nan=True).encode()
    schema = pa.schema(
        [(name, array.type) for name, array in arrays.items()],
        metadata={_META_KEY: facts, b"format": _FORMAT},
    )
    return pa.Table.from_arrays(list(arrays.values()), schema=schema)


def load(path: Path, live: pd.DataFrame | None = None) -> tuple[pd.DataFrame, list[str]]:
    """The stored frame, and the names of what is not in it.

    Columns that could not be stored come from `live`, the same frame in memory (which the
    caller has recognised), in their own place; without it they are left out and named. Raises
    `JournalError` for a file that is no snapshot.
    """
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        if metadata.get(b"format") != _FORMAT:
            raise JournalError(f"{path.name} is no frame snapshot of this version")
        return _rebuilt(table, json.loads(metadata[_META_KEY]), live)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise JournalError(f"the frame snapshot {path.name} cannot be read: {error}") from error


def _rebuilt(
    table: pa.Table, facts: Mapping[str, Any], live: pd.DataFrame | None
) -> tuple[pd.DataFrame, list[str]]:
    labels = _unpack_index(facts["columns"])
    stored = dict(zip(facts["places"], facts["specs"], strict=True))
    columns, places = [], []
    for place in range(len(labels)):
        if place in stored:
            arrays = _arrays_in(table, f"c{place}")
            columns.append(_series(_column_from(_Spec(*stored[place]), arrays)))
        elif live is not None:
            columns.append(_series(live.iloc[:, place].array))
        else:
            continue
        places.append(place)
    frame = pd.DataFrame(dict(enumerate(columns)), index=range(facts["rows"]))
    frame.index = _index_of(table, facts, live)
    frame.columns = labels if len(places) == len(labels) else labels[places]
    frame.attrs.update(facts["attrs"])
    return frame, [] if live is not None else list(facts["unstored"])


def _index_of(table: pa.Table, facts: Mapping[str, Any], live: pd.DataFrame | None) -> Any:
    if facts["index"] is None:
        return pd.RangeIndex(facts["rows"]) if live is None else live.index
    levels = range(len(facts["index"]["levels"]))
    return _index_from(facts["index"], [_arrays_in(table, f"i{level}") for level in levels])


def _arrays_in(table: pa.Table, name: str) -> _Arrays:
    found = [each for each in table.column_names if each.startswith(f"{name}.")]
    return [_one_array(table.column(each)) for each in found]


# --- outcomes back in -----------------------------------------------------------------------


def gather(values: pa.ChunkedArray, entry: NDArray[np.int64]) -> pa.Array:
    """Pick entries of a `large_binary` column by number; -1 and nulls give null.

    Like `take`, with the result's own bytes as all the memory needed: Arrow's way doubles its
    buffer as it grows.
    """
    if not len(values):
        return pa.nulls(len(entry), pa.large_binary())
    starts, sizes, chunk_of, null = _layout(values)
    gone = (entry < 0) | null[entry]
    starts, chunk_of = starts[entry], chunk_of[entry]
    sizes = np.where(gone, 0, sizes[entry])
    offsets = np.zeros(len(entry) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    buffer = pa.allocate_buffer(int(offsets[-1]))
    target = memoryview(buffer).cast("B")
    sources = [memoryview(chunk.buffers()[2] or b"").cast("B") for chunk in values.chunks]
    places = (offsets.tolist(), sizes.tolist(), starts.tolist(), chunk_of.tolist())
    for at, size, start, source in zip(*places, strict=False):  # offsets have one more
        target[at : at + size] = sources[source][start : start + size]
    valid = pa.array(~gone).buffers()[1]
    buffers = [valid, pa.py_buffer(offsets), buffer]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(entry), buffers)


def _layout(values: pa.ChunkedArray) -> tuple[NDArray[Any], ...]:
    """For each entry: where its bytes begin in its chunk, how many, which chunk, whether null."""
    starts, sizes, chunk_of = [], [], []
    for number, chunk in enumerate(values.chunks):
        offsets = np.frombuffer(chunk.buffers()[1] or bytes(8), dtype=np.int64)
        offsets = offsets[chunk.offset : chunk.offset + len(chunk) + 1]
        starts.append(offsets[:-1])
        sizes.append(np.diff(offsets))
        chunk_of.append(np.full(len(chunk), number, dtype=np.int32))
    null = values.is_null().to_numpy()
    return np.concatenate(starts), np.concatenate(sizes), np.concatenate(chunk_of), null


def text_column(values: pa.Array | pa.ChunkedArray | Sequence[str | None]) -> Any:
    """A pandas string array (`string`, missing is NA) from text or from UTF-8 bytes.

    `values`: a list, or an Arrow array of binary or strings. Lone surrogates survive, bytes
    hold them as Python's `surrogatepass` writes them; such a column is kept as Python strings.
    """
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return _strings(values, pd.StringDtype("pyarrow"))
    try:
        array = pa.array(values, type=pa.large_string())
    except UnicodeEncodeError:
        return pd.array(list(values), dtype=pd.StringDtype("python"))
    return _strings(array, pd.StringDtype("pyarrow"))


def _strings(values: pa.Array | pa.ChunkedArray, dtype: Any) -> Any:
    try:
        if dtype.storage == "python":
            return pd.array(values.cast(pa.large_string()).to_pylist(), dtype=dtype)
        return _from_arrow(dtype, values.cast(pa.large_string()))
    except (pa.ArrowInvalid, UnicodeDecodeError):
        options = {} if dtype.na_value is pd.NA else {"na_value": np.nan}
        return pd.array(_texts(values), dtype=pd.StringDtype("python", **options))


def check_clash(frame: pd.DataFrame, names: Sequence[str], on_clash: str) -> None:
    """Raise `FrameError` when one of the columns to be added is there already.

    Columns `gpt_…` never clash: they are an earlier result's and will be replaced.
    """
    if on_clash == "replace":
        return
    labels = set(frame.columns)
    for name in names:
        if not name.startswith(TRUTH_PREFIX) and _label(frame, name) in labels:
            raise FrameError(
                f"column {name!r} is in the frame already; choose another name with -c or "
                "--prefix, or say --on-clash replace"
            )


def attach(
    frame: pd.DataFrame,
    status: NDArray[np.uint8],
    columns: Mapping[str, Any],
    *,
    on_clash: str = "error",
) -> pd.DataFrame:
    """Return a copy of `frame` (n rows) with outcome columns added at the end.

    `status`: n `RowStatus` numbers, by position. `columns`: n values each, by position. Order:
    the given columns, then `gpt_status` (categorical of all status labels), then those given
    whose names begin with `gpt_`. A column of the same name is dropped before the new one is
    added: one of `gpt_…` always, another only with `on_clash="replace"`, else `FrameError`.
    Under column labels of several levels a name is filled up with "". Rows, order, index and
    the dtypes of other columns stay; no data of `frame` is copied where pandas copies on write.
    Raises `ValueError` for a length that is not n.
    """
    check_clash(frame, list(columns), on_clash)
    added = _in_order(status, columns)
    result = hold(frame)
    for name, values in added.items():
        if len(values) != len(frame):
            raise ValueError(f"{name!r} has {len(values)} values for {len(frame)} rows")
        label = _label(frame, name)
        if label in result.columns:
            del result[label]
        by_position: Any = values.array if isinstance(values, (pd.Series, pd.Index)) else values
        result.insert(result.shape[1], label, by_position)
    return result


def _in_order(status: NDArray[np.uint8], columns: Mapping[str, Any]) -> dict[str, Any]:
    labels = pd.Index([each.label for each in RowStatus], dtype="str")
    truth = pd.Categorical.from_codes(status.astype(np.int8), categories=labels)
    ours = {name: values for name, values in columns.items() if name.startswith(TRUTH_PREFIX)}
    given = {name: values for name, values in columns.items() if name not in ours}
    return {**given, f"{TRUTH_PREFIX}status": truth, **ours}


def _label(frame: pd.DataFrame, name: str) -> Hashable:
    levels = frame.columns.nlevels
    return name if levels == 1 else (name, *[""] * (levels - 1))
