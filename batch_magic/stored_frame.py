"""The snapshot of a frame on disk: one Parquet file from which the same frame comes back.

It knows which columns survive Parquet with their dtype, and refuses to guess about the others:
they are named, and taken from the live frame as long as there is one. Columns and index levels
are stored by place, as names may repeat or be no strings; the names, and how to build each
column again, are JSON in the file's metadata. Objects that are no text (lists, dates, a mixture)
are text in the file too, as `exact_json` writes them: nothing is pickled, so a snapshot may come
from anybody. The trap is a dtype that comes back almost equal: whatever is not listed here is
left out.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from batch_magic import exact_json
from batch_magic.durable_files import create
from batch_magic.errors import JournalError
from batch_magic.exact_json import UnwritableError

_FORMAT = b"batch_magic.frame.3"
_FACTS = b"batch_magic"
_CURE = "put a good copy back, or run the cell again: its answers are taken over"
_GROUP_BYTES = 1 << 20  # written at a time, so that memory does not grow with the frame
# Lists keep the name of their items, which is part of a dtype's name. Texts are too long and too
# various for a dictionary to pay.
_PARQUET: Mapping[str, Any] = {
    "compression": "lz4",
    "use_dictionary": False,
    "write_statistics": False,
    "use_compliant_nested_type": False,
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A snapshot file: the names of what is not in it, and the hash of what is."""

    unstored: tuple[str, ...]
    sha256: str


def store(frame: pd.DataFrame, path: Path) -> Stored:
    """Write `frame` to `path` as Parquet: rows, index, labels, dtypes, and attrs that are JSON.

    What would not come back equal, dtype included, is left out and named. The file is there
    whole or not at all. Raises `OSError` from the disk.
    """
    facts, parts = _plan(frame)
    part = path.with_name(path.name + ".part")
    with create(part) as file:
        _write(file, facts, parts, _rows_at_a_time(frame))
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    part.replace(path)  # the folder is synced with the files that follow
    return Stored(tuple(facts["unstored"]), sha256)


def load(path: Path, live: pd.DataFrame | None = None) -> tuple[pd.DataFrame, list[str]]:
    """The stored frame, and the names of what is not in it.

    What could not be stored comes from `live`, the same frame in memory (which the caller has
    recognised), in its own place; without it, it is left out and named. Raises `JournalError`
    for a file that is no snapshot, or not there.
    """
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        if metadata.get(b"format") != _FORMAT:
            raise JournalError(f"{path.name} is no frame snapshot of this version; {_CURE}")
        return _rebuilt(table, json.loads(metadata[_FACTS]), live)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        said = f"the frame snapshot {path.name} cannot be read: {error}"
        raise JournalError(f"{said}; {_CURE}") from error


# --- a frame in pieces, and together again --------------------------------------------------


class _Part(NamedTuple):
    """A column or an index level, and how it is built again."""

    series: pd.Series[Any]
    kind: Mapping[str, Any]

    def array(self, start: int = 0, stop: int | None = None) -> pa.Array | pa.ChunkedArray:
        """These rows as Arrow has them."""
        return _array(self.series.iloc[start:stop], self.kind)


def _plan(frame: pd.DataFrame) -> tuple[dict[str, Any], dict[str, _Part]]:
    """The facts of a frame, and the columns and index levels that are stored, by their keys."""
    unstored, columns, parts = [], {}, {}
    for place, label in enumerate(frame.columns):
        column = frame.iloc[:, place]
        try:
            columns[str(place)] = _kind_of(column)
            parts[f"c{place}"] = _Part(column, columns[str(place)])
        except UnwritableError:
            unstored.append(str(label))
    index, labels = None, None
    try:
        index = _index_facts(frame.index)
        parts |= {f"i{n}": part for n, part in enumerate(_parts(frame.index, index))}
    except UnwritableError:
        unstored.append("the index")
    try:
        labels = _packed(frame.columns)
    except UnwritableError:
        unstored.append("the column names")
    facts = {
        "rows": len(frame),
        "width": frame.shape[1],
        "columns": columns,
        "index": index,
        "labels": labels,
        "attrs": list(_written_attrs(frame)),
        "unstored": unstored,
    }
    return facts, parts


def _written_attrs(frame: pd.DataFrame) -> Iterator[str]:
    for item in frame.attrs.items():
        with suppress(UnwritableError):
            yield exact_json.dumps(item)


def _write(file: Any, facts: Mapping[str, Any], parts: Mapping[str, _Part], step: int) -> None:
    metadata = {_FACTS: json.dumps(facts).encode(), b"format": _FORMAT}
    fields = [(key, part.array(0, 0).type) for key, part in parts.items()]
    schema = pa.schema(fields, metadata=metadata)
    with pq.ParquetWriter(file, schema, **_PARQUET) as writer:
        for start in range(0, max(facts["rows"], 1), step):
            arrays = [part.array(start, start + step) for part in parts.values()]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _rows_at_a_time(frame: pd.DataFrame) -> int:
    row_bytes = frame.memory_usage(index=False).sum() / max(len(frame), 1)
    return int(min(max(_GROUP_BYTES / (row_bytes + 1), 256), 65_536))


def _rebuilt(
    table: pa.Table, facts: Mapping[str, Any], live: pd.DataFrame | None
) -> tuple[pd.DataFrame, list[str]]:
    columns = {
        int(place): _column(table[f"c{place}"], kind) for place, kind in facts["columns"].items()
    }
    if live is not None:
        columns |= {n: live.iloc[:, n] for n in range(facts["width"]) if n not in columns}
    places = sorted(columns)
    arrays = {n: _as_series(columns[n]) for n in places}
    frame = pd.DataFrame(arrays, index=range(facts["rows"]))
    if facts["index"] is not None:
        levels = [table[key] for key in table.column_names if key.startswith("i")]
        frame.index = _index(levels, facts["index"])
    elif live is not None:
        frame.index = live.index
    labels = None if live is None else live.columns
    labels = labels if facts["labels"] is None else _unpacked(facts["labels"])
    if labels is not None:
        frame.columns = labels if len(places) == len(labels) else labels[places]
    frame.attrs.update(map(exact_json.loads, facts["attrs"]))
    return frame, [] if live is not None else list(facts["unstored"])


def _as_series(values: Any) -> Any:
    """Values as a column of exactly their dtype: left alone, pandas reads objects as strings."""
    return pd.Series(getattr(values, "array", values), dtype=values.dtype, copy=False)


# --- one column -----------------------------------------------------------------------------


def _kind_of(series: pd.Series[Any]) -> dict[str, Any]:
    """How a column is built again. Raises `UnwritableError` when it would not be equal."""
    dtype: Any = series.dtype
    if _is_object(dtype):
        return _kind_of_objects(series)
    if isinstance(dtype, pd.CategoricalDtype):
        return {"category": _packed(dtype.categories), "ordered": bool(dtype.ordered)}
    if isinstance(dtype, pd.StringDtype):
        if dtype.storage == "python":
            _check_text(series)
        return {"string": dtype.storage, "na": "NA" if dtype.na_value is pd.NA else "nan"}
    if isinstance(dtype, pd.ArrowDtype):
        return {"arrow": _checked(pa.array(series.array[:1]))}
    is_plain = isinstance(dtype, np.dtype) and dtype.isnative and dtype.kind in "biufmM"
    is_plain = is_plain and dtype.itemsize <= 8  # Arrow knows no long double
    is_nullable = type(dtype).__module__.split(".")[0] == "pandas" and hasattr(dtype, "numpy_dtype")
    name = str(dtype)
    if (is_plain or is_nullable or isinstance(dtype, pd.DatetimeTZDtype)) and _means(name, dtype):
        return {"dtype": name}
    raise UnwritableError(name)


def _is_object(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind == "O"


def _means(name: str, dtype: Any) -> bool:
    try:
        return bool(pd.api.types.pandas_dtype(name) == dtype)
    except (TypeError, ValueError):
        return False


def _kind_of_objects(series: pd.Series[Any]) -> dict[str, Any]:
    """Text with one thing for a missing one; else whatever JSON gives back as it was."""
    others = [value for value in series.array if type(value) is not str]
    missing = None
    if all(value is None for value in others):
        missing = "None"
    elif all(type(value) is float and value != value for value in others):
        missing = "nan"
    if missing is not None:
        with suppress(UnwritableError):
            _check_text(series)
            return {"object": missing}
    for value in series.array:
        exact_json.dumps(value)
    return {"json": True}


def _check_text(series: pd.Series[Any]) -> None:
    try:
        pa.array(series.array, type=pa.large_string(), from_pandas=True)
    except (UnicodeEncodeError, pa.ArrowException) as error:  # a lone surrogate; no text at all
        raise UnwritableError("objects") from error


def _checked(array: Any) -> bool:
    """Whether Arrow and Parquet both know the type. Raises `UnwritableError`."""
    table = pa.table({"0": array})
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(table, sink, **_PARQUET)
        if pq.read_table(pa.BufferReader(sink.getvalue())).schema.types == table.schema.types:
            return True
    except (pa.ArrowException, NotImplementedError) as error:
        raise UnwritableError(str(error)) from error
    raise UnwritableError(str(array.type))


def _array(series: pd.Series[Any], kind: Mapping[str, Any]) -> pa.Array | pa.ChunkedArray:
    """A column of this kind as Arrow has it."""
    dtype: Any = series.dtype
    if "json" in kind:
        return pa.array([exact_json.dumps(value) for value in series.array], pa.large_string())
    if isinstance(dtype, pd.CategoricalDtype):
        return pa.array(series.cat.codes.to_numpy())
    if _is_object(dtype) or isinstance(dtype, pd.StringDtype):
        values: Any = series.to_numpy() if _is_object(dtype) else series.array
        return pa.array(values, type=pa.large_string(), from_pandas=True)
    if isinstance(dtype, pd.DatetimeTZDtype):
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    if getattr(series.dtype, "kind", "") in "mM" and not isinstance(dtype, pd.ArrowDtype):
        return pa.array(series.to_numpy().view("i8"))  # any unit, which Parquet has not
    return pa.array(series.to_numpy() if isinstance(dtype, np.dtype) else series.array)


def _column(array: pa.ChunkedArray, kind: Mapping[str, Any]) -> Any:
    """A pandas array again."""
    if "object" in kind:
        missing = None if kind["object"] == "None" else np.nan
        values = np.empty(len(array), dtype=object)
        values[:] = [missing if text is None else text for text in array.to_pylist()]
        return values
    if "json" in kind:
        values = np.empty(len(array), dtype=object)
        for n, text in enumerate(array.to_pylist()):
            values[n] = exact_json.loads(text)  # one by one: a list of lists is no matrix
        return values
    if "category" in kind:
        categories = _unpacked(kind["category"])
        dtype: Any = pd.CategoricalDtype(categories, ordered=kind["ordered"])
        return pd.Categorical.from_codes(array.to_numpy(), dtype=dtype)
    if "string" in kind:
        options = {} if kind["na"] == "NA" else {"na_value": np.nan}
        dtype = pd.StringDtype(kind["string"], **options)
    elif "arrow" in kind:
        dtype = pd.ArrowDtype(array.type)
    else:
        dtype = pd.api.types.pandas_dtype(kind["dtype"])
    if isinstance(dtype, pd.DatetimeTZDtype):
        instants = pd.DatetimeIndex(array.to_numpy().view(f"M8[{dtype.unit}]"))
        return instants.tz_localize("UTC").tz_convert(dtype.tz).array
    if not isinstance(dtype, np.dtype):
        return dtype.__from_arrow__(array)  # the protocol that pandas documents for its dtypes
    own = np.array(array.to_numpy())  # the user may write to it
    return own.view(dtype) if dtype.kind in "mM" else own


# --- an index, and column labels ------------------------------------------------------------


def _levels(index: pd.Index[Any]) -> list[Any]:
    if isinstance(index, pd.RangeIndex):
        return []
    levels = [index]
    if isinstance(index, pd.MultiIndex):
        levels = [index.get_level_values(n) for n in range(index.nlevels)]
    return [_as_series(level) for level in levels]


def _parts(index: pd.Index[Any], facts: Mapping[str, Any]) -> list[_Part]:
    return [_Part(*each) for each in zip(_levels(index), facts.get("levels", ()), strict=True)]


def _index_facts(index: pd.Index[Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {"names": exact_json.tagged(list(index.names))}
    if isinstance(index, pd.RangeIndex):
        return {**facts, "range": [index.start, index.stop, index.step]}
    if isinstance(index, (pd.DatetimeIndex, pd.TimedeltaIndex)):
        facts["freq"] = index.freqstr
    facts["levels"] = [_kind_of(level) for level in _levels(index)]
    return {**facts, "multi": isinstance(index, pd.MultiIndex)}


def _index(levels: list[pa.ChunkedArray], facts: Mapping[str, Any]) -> Any:
    names = exact_json.untagged(facts["names"])
    if "range" in facts:
        start, stop, step = facts["range"]
        return pd.RangeIndex(start, stop, step, name=names[0])
    columns = [_column(level, kind) for level, kind in zip(levels, facts["levels"], strict=True)]
    if facts["multi"]:
        return pd.MultiIndex.from_arrays(columns, names=names)
    index: Any = pd.Index(
        columns[0], dtype=columns[0].dtype, name=names[0], copy=False, tupleize_cols=False
    )
    if facts.get("freq"):
        with suppress(ValueError):  # a frequency of the user's own has no name to come back by
            index.freq = facts["freq"]
    return index


def _packed(index: pd.Index[Any]) -> dict[str, Any]:
    """A short index (column labels, categories) as JSON."""
    facts = _index_facts(index)
    sink = pa.BufferOutputStream()
    arrays = [part.array() for part in _parts(index, facts)]
    table = pa.table(arrays, names=[str(n) for n in range(len(arrays))])
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return {"facts": facts, "levels": base64.b64encode(sink.getvalue()).decode()}


def _unpacked(packed: Mapping[str, Any]) -> Any:
    levels = pa.ipc.open_stream(base64.b64decode(packed["levels"])).read_all().columns
    return _index(levels, packed["facts"])
