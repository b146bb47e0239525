"""Both ends of a run: rows out of a DataFrame, and outcomes back into a copy of it.

It knows pandas and Arrow: how the values of any dtype are read, how a frame is held, recognised
again and given new columns. It refuses to know what the values are for, and the JSON of the
wire. It never changes the caller's frame. The trap is the index: labels repeat, are unsorted,
are missing; so nothing here joins, merges or looks up by label, rows go by position only, and so
do columns, whose names may repeat as well.
"""

from __future__ import annotations

import datetime
import hashlib
import operator
from base64 import b64decode
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from datetime import UTC
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from batch_magic.errors import FrameError
from batch_magic.records import Chunk, Kind, Mark, RowStatus, Thumb

TRUTH_PREFIX = "gpt_"
"""Columns whose names begin so are ours: those of an earlier result are replaced."""

MARK_COLUMNS = ("gpt_mark", "gpt_note")
"""Columns of what a person has noted about rows: there when any row has such a note."""

_CHUNK_ROWS = 512  # they and the lines made of them fit the processor's cache
_PIECE_ROWS = 2048  # of a result column that are gathered at a time
_VECTORS_AT_ONCE = 64
_SAMPLE_ROWS = 2048
_SAMPLE_COLUMNS = 512
_SAMPLE_CHARS = 256


# --- the frame as given ---------------------------------------------------------------------


def check_frame(obj: object, name: str) -> pd.DataFrame:
    """The same object, known to be a DataFrame. Raises `FrameError`."""
    if isinstance(obj, pd.DataFrame):
        return obj
    kind = type(obj).__name__
    article = "an" if kind[:1].lower() in "aeiou" else "a"
    advice = "make it one with pandas.DataFrame(…)"
    for method in ("to_frame", "to_pandas"):  # a Series; another library's frame
        if hasattr(obj, method):
            advice = f"use {name}.{method}()"
    raise FrameError(f"{name} is {article} {kind}, not a DataFrame; {advice}")


def column_names(frame: pd.DataFrame) -> tuple[Hashable, ...]:
    """Column labels in order, repeated ones repeated; tuples where columns are a MultiIndex."""
    return tuple(frame.columns)


def list_columns(frame: pd.DataFrame) -> tuple[Hashable, ...]:
    """Labels of the columns in which some value is a list, a tuple or an array."""
    kinds = (list, tuple, np.ndarray)
    places = [n for n, dtype in enumerate(frame.dtypes) if _may_hold_lists(dtype)]
    columns = ((frame.columns[n], frame.iloc[:, n]) for n in places)
    return tuple(
        label
        for label, series in columns
        if any(isinstance(value, kinds) for value in series.array)
    )


def _may_hold_lists(dtype: Any) -> bool:
    is_arrow_list = isinstance(dtype, pd.ArrowDtype) and "list" in str(dtype.pyarrow_dtype)
    return isinstance(dtype, np.dtypes.ObjectDType) or is_arrow_list


def hold(frame: pd.DataFrame) -> pd.DataFrame:
    """A snapshot that later edits to `frame` do not reach.

    On pandas 3 it shares the data until one side writes (cost by column, not by row). On pandas
    2 without copy-on-write it is a deep copy. Objects inside cells are shared either way.
    """
    copied = frame.copy(deep=not _copies_on_write())
    copied.index = frame.index.copy(deep=False)
    copied.columns = frame.columns.copy(deep=False)
    return copied


def is_as_held(frame: pd.DataFrame, held: pd.DataFrame) -> bool:
    """Tell whether a frame is still what `hold` made a snapshot of.

    Labels, dtypes and values, missing ones alike; of object columns that each cell holds the very
    object it did, so nothing is compared that may refuse to be. What was done inside such an
    object is not seen. A quarter of a second for a million rows of ten columns.
    """
    if not (frame.columns.identical(held.columns) and frame.index.identical(held.index)):
        return False
    places = range(frame.shape[1])
    return all(_is_untouched(frame.iloc[:, n], held.iloc[:, n]) for n in places)


def _is_untouched(one: pd.Series[Any], other: pd.Series[Any]) -> bool:
    if one.dtype != other.dtype or not isinstance(one.dtype, np.dtypes.ObjectDType):
        return one.dtype == other.dtype and one.equals(other)
    return all(map(operator.is_, one.to_numpy(), other.to_numpy()))


def _copies_on_write() -> bool:
    return int(pd.__version__.split(".")[0]) >= 3 or pd.options.mode.copy_on_write is True


# --- rows out -------------------------------------------------------------------------------


def chunks(
    frame: pd.DataFrame,
    columns: Sequence[Hashable],
    *,
    with_index: bool,
    as_text: Collection[Hashable] = (),
    size: int = _CHUNK_ROWS,
) -> Iterator[Chunk]:
    """The rows in order, `size` at a time, of just these columns; missing values are None.

    Values come as Python's own where there is an equal: numbers, strings, booleans; a float32
    as the shortest number that stands for it. Of the columns in `as_text`, those that Arrow
    holds as strings come as UTF-8. Raises `FrameError` for a name that is not there or occurs
    twice.
    """
    read = {name: frame.iloc[:, _place(frame, name)] for name in columns}
    utf8 = {name: _utf8(read[name]) for name in as_text if _is_arrow_text(read[name].dtype)}
    read = {name: series for name, series in read.items() if name not in utf8}
    for start in range(0, len(frame), size):
        stop = min(start + size, len(frame))
        yield Chunk(
            start=start,
            size=stop - start,
            columns={name: _read(name, series.iloc[start:stop]) for name, series in read.items()},
            index=_values(_as_series(frame.index[start:stop])) if with_index else None,
            texts={name: column[start:stop].to_pylist() for name, column in utf8.items()},
        )


def _place(frame: pd.DataFrame, name: Hashable) -> int:
    places = [place for place, label in enumerate(frame.columns) if _same_label(label, name)]
    if len(places) != 1:
        raise FrameError(
            f"column {name!r} occurs {len(places)} times in the frame; rename all but one"
        )
    return places[0]


def is_plain(index: pd.Index[Any]) -> bool:
    """Tell whether an index says no more than the position does."""
    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1


def _same_label(one: Any, other: Any) -> bool:
    return one is other or bool(type(one) is type(other) and one == other)


def _as_series(index: pd.Index[Any]) -> Any:
    """Labels as a column; those of a MultiIndex as tuples."""
    if isinstance(index, pd.MultiIndex):
        labels = np.empty(len(index), dtype=object)
        labels[:] = list(index)
        return pd.Series(labels, dtype=object)
    return pd.Series(index.array, dtype=index.dtype, copy=False)


def _is_arrow_text(dtype: Any) -> bool:
    return isinstance(dtype, pd.StringDtype) and dtype.storage == "pyarrow"


def _utf8(series: pd.Series[Any]) -> pa.ChunkedArray:
    """A text column as bytes; nothing is copied."""
    array = pa.array(series.array)
    text = array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
    return text.cast(pa.large_string()).cast(pa.large_binary())


def _read(name: Hashable, series: pd.Series[Any]) -> list[object]:
    try:
        return _values(series)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise FrameError(
            f"column {name!r} holds a value that cannot be read: {said}; mend it, or leave the"
            " column out of the template"
        ) from error


def _values(series: pd.Series[Any]) -> list[object]:
    """The values of a column as a list, missing ones as None."""
    dtype = series.dtype
    if _is_arrow_text(dtype) or isinstance(dtype, pd.ArrowDtype):
        return _without_nan(pa.array(series.array, from_pandas=True).to_pylist())
    if isinstance(dtype, np.dtype) and dtype.kind in "biu":
        return list(series.to_numpy().tolist())
    if isinstance(dtype, np.dtype) and dtype.kind == "f":
        return _float_values(series.to_numpy())
    values = series.astype(object).to_numpy()
    missing = pd.isna(values)
    found: list[object] = values.tolist()
    if missing.any():
        return [None if gone else value for value, gone in zip(found, missing, strict=True)]
    return found


def _float_values(values: NDArray[Any]) -> list[object]:
    if values.dtype.itemsize < 8:  # 0.1 as float32 is 0.1 to its user, not 0.10000000149011612
        return [None if value != value else float(str(value)) for value in values]
    return _without_nan(values.tolist())


def _without_nan(values: list[object]) -> list[object]:
    return [None if value != value else value for value in values]


# --- recognising a frame --------------------------------------------------------------------


def fingerprint(frame: pd.DataFrame) -> str:
    """A hash by which the same frame is recognised later, also in another process.

    It covers the shape, column names, dtypes and index type, and a bounded sample of the
    content: all of a frame of up to 2,048 rows and 512 columns, else 2,048 rows evenly spread
    (first and last among them) with their labels; of a long text, its length and both ends.
    So an edit between sampled rows of a large frame goes unseen. Objects without a value of
    their own (images, models) count by type only.
    """
    rows = _spread(len(frame), _SAMPLE_ROWS)
    labels = [*frame.columns, *frame.index.names]
    facts = (frame.shape, list(map(str, frame.dtypes)), type(frame.index).__name__)
    digest = hashlib.sha256(repr((facts, [_trace(label) for label in labels])).encode())
    columns = [frame.iloc[:, place] for place in _spread(frame.shape[1], _SAMPLE_COLUMNS)]
    for series in [_as_series(frame.index[rows]), *(column.iloc[rows] for column in columns)]:
        traces = "\x1f".join(_traces(series))
        digest.update(traces.encode("utf-8", "surrogatepass") + b"\x1e")
    return digest.hexdigest()


def places_in(
    frame: pd.DataFrame, own: pd.DataFrame, asked: NDArray[np.int64], *, by_label: bool = False
) -> NDArray[np.int64] | None:
    """Return for each row of `frame` its position in `own`, of which it is a part; else None.

    Labels only say where to look: they may have been counted anew since. A row is known again when
    the values of all of `own`'s columns are in `frame` and are the same there, and no row of `own`
    that is alike was asked something else. `asked` (k × n) has for each of `own`'s n rows k numbers
    for what was asked. With `by_label` rows differ by labels, too, of a kind that no counting
    gives. None, too, where labels repeat and are not all there in their order.
    """
    places = _labelled_places(frame.index, own.index)
    found = [_places_of(frame, label) for label in own.columns]
    if places is None or not own.columns.is_unique or any(len(at) != 1 for at in found):
        return None
    pairs = [(frame.iloc[:, at[0]], own.iloc[:, n]) for n, at in enumerate(found)]
    if not all(_is_same(one, other.take(places)) for one, other in pairs):
        return None
    alike = np.zeros(len(own), dtype=np.int64)
    if by_label and _are_names(frame.index):
        alike = _alike(alike, pd.factorize(own.index)[0])
    left = []
    for one, other in pairs:
        if int(alike.max(initial=0)) + 1 == len(own):  # no row is like another
            return places
        if (values := _numbered(other)) is None:
            left.append((one, other))
        else:
            alike = _alike(alike, values)
    for one, other in left:
        if not _is_mixed_up(alike, asked, places):
            break
        if (values := _numbered_alike(one, other, places)) is None:
            return None
        alike = _alike(alike, values)
    return None if _is_mixed_up(alike, asked, places) else places


def _labelled_places(index: pd.Index[Any], own: pd.Index[Any]) -> NDArray[np.int64] | None:
    """Return where labels stand in `own`; None where they do not all, or each in one place."""
    if index.equals(own):
        return np.arange(len(own))
    if not own.is_unique or index.nlevels != own.nlevels:
        return None
    places = np.asarray(own.get_indexer(index), dtype=np.int64)
    return None if (places < 0).any() else places


def _are_names(index: pd.Index[Any]) -> bool:
    """Tell whether labels are of a kind that no `reset_index` gives: texts, moments, tuples."""
    kinds = ("string", "datetime64", "datetime", "date", "categorical")
    return index.nlevels > 1 or pd.api.types.infer_dtype(index, skipna=False) in kinds


def _numbered(series: pd.Series[Any]) -> NDArray[np.int64] | None:
    """Give each value a number, equal ones the same; None where equal is not all that counts."""
    if isinstance(series.dtype, pd.ArrowDtype):  # its zeros are equal, and numbered by their sign
        return None
    try:
        return np.asarray(pd.factorize(series)[0], dtype=np.int64)
    except (TypeError, ValueError, NotImplementedError):  # lists, dicts, arrays
        return None


def _numbered_alike(
    one: pd.Series[Any], other: pd.Series[Any], places: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Number `other`'s values by what they are; None unless `one`'s are just those at `places`.

    By which objects they are, where all are still the same ones, else by their traces, slowly.
    """
    for read in (_objects, _traces):
        mine, theirs = read(one), pd.Series(read(other), dtype=object)
        if mine is not None and mine == theirs.take(places).tolist():
            return np.asarray(pd.factorize(theirs)[0], dtype=np.int64)
    return None


def _objects(series: pd.Series[Any]) -> list[int] | None:
    is_kept = isinstance(series.dtype, np.dtypes.ObjectDType)  # others make theirs when asked
    return list(map(id, series.to_numpy())) if is_kept else None


def _alike(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number rows so that those have the same number that had in both (from -1 on)."""
    both = first * (int(second.max(initial=0)) + 2) + second + 1
    return np.asarray(pd.factorize(both)[0], dtype=np.int64)


def _is_mixed_up(
    alike: NDArray[np.int64], asked: NDArray[np.int64], places: NDArray[np.int64]
) -> bool:
    """Tell whether any of these rows has another that is alike and was asked something else."""
    _, first, group = np.unique(alike, return_index=True, return_inverse=True)
    mixed = np.zeros(len(first), dtype=bool)
    mixed[group[(asked != asked[:, first[group]]).any(axis=0)]] = True
    return bool(mixed[group[places]].any())


def _places_of(frame: pd.DataFrame, label: Hashable) -> list[int]:
    return [n for n, other in enumerate(frame.columns) if _same_label(other, label)]


def _is_same(one: pd.Series[Any], other: pd.Series[Any]) -> bool:
    """Tell whether two columns hold the same; objects that cannot be compared by their traces."""
    if one.dtype != other.dtype:
        return False
    try:
        return bool(one.reset_index(drop=True).equals(other.reset_index(drop=True)))
    except Exception:  # arrays within; values whose own methods fail
        return _numbered(other) is None and _traces(one) == _traces(other)


def _traces(series: pd.Series[Any]) -> list[str]:
    try:
        return [_trace(value) for value in _values(series)]
    except Exception:  # values whose own methods fail count by type
        return [type(value).__qualname__ for value in series.array]


def _spread(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return [place * (count - 1) // (most - 1) for place in range(most)]


def _trace(value: Any, depth: int = 0) -> str:
    if isinstance(value, (str, bytes)):
        if len(value) > 2 * _SAMPLE_CHARS:
            return f"{len(value)}{value[:_SAMPLE_CHARS]!r}{value[-_SAMPLE_CHARS:]!r}"
        return repr(value)
    if isinstance(value, (int, float, complex, np.generic, datetime.date, datetime.timedelta)):
        return f"{type(value).__name__}{value}"
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, (list, tuple, np.ndarray)) and depth < 4:
        inside = [_trace(each, depth + 1) for each in value[:_SAMPLE_CHARS]]
        return f"{type(value).__name__}{len(value)}{inside}"
    return type(value).__qualname__


# --- outcomes back in -----------------------------------------------------------------------


def gather(values: pa.ChunkedArray, entry: NDArray[np.int64]) -> pa.ChunkedArray:
    """Pick entries of a `large_binary` column by number; -1 and nulls give null.

    Like `take`, with the result's own bytes as all the memory needed: Arrow's way puts the
    chunks of a column together first.
    """
    return pa.chunked_array(list(gathered(values, entry)), type=pa.large_binary())


def gathered(
    values: pa.ChunkedArray, entry: NDArray[np.int64], rows: int = _PIECE_ROWS
) -> Iterator[pa.Array]:
    """Yield what `gather` returns, so many rows at a time."""
    if not len(values):
        yield pa.nulls(len(entry), pa.large_binary())
        return
    layout = _layout(values)
    texts = [memoryview(chunk.buffers()[2] or b"") for chunk in values.chunks]
    for at in range(0, len(entry), rows):
        yield _gathered(texts, layout, entry[at : at + rows])


def _gathered(
    texts: Sequence[memoryview], layout: Sequence[NDArray[Any]], entry: NDArray[np.int64]
) -> pa.Array:
    starts, ends, chunk_of, null = (part[entry] for part in layout)
    gone = null | (entry < 0)
    offsets = np.concatenate([[0], np.cumsum(np.where(gone, 0, ends - starts))])
    some = np.flatnonzero(np.diff(offsets))
    places = (each[some].tolist() for each in (chunk_of, starts, ends))
    data = b"".join([texts[chunk][start:end] for chunk, start, end in zip(*places, strict=True)])
    buffers = [pa.array(~gone).buffers()[1], pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(gone), buffers)


def _layout(values: pa.ChunkedArray) -> tuple[NDArray[Any], ...]:
    """For each entry: where its bytes begin and end in its chunk, which chunk, whether null."""
    starts, ends = [], []
    for chunk in values.chunks:
        offsets = np.frombuffer(chunk.buffers()[1] or bytes(8), dtype=np.int64)
        offsets = offsets[chunk.offset : chunk.offset + len(chunk) + 1]
        starts.append(offsets[:-1])
        ends.append(offsets[1:])
    chunk_of = np.repeat(np.arange(len(starts)), [len(each) for each in starts])
    null = values.is_null().to_numpy()
    return np.concatenate(starts), np.concatenate(ends), chunk_of, null


def text_column(values: pa.Array | pa.ChunkedArray | Sequence[str | None]) -> Any:
    """A pandas string array (`string`, missing is NA) from text or from UTF-8 bytes.

    `values`: a list, or an Arrow array of binary or strings. Lone surrogates survive, bytes
    hold them as Python's `surrogatepass` writes them; such a column is kept as Python strings.
    """
    try:
        if not isinstance(values, (pa.Array, pa.ChunkedArray)):
            values = pa.array(values, type=pa.large_string())
        text = values.cast(pa.large_string())
    except (pa.ArrowInvalid, UnicodeEncodeError):
        found = values.to_pylist() if isinstance(values, (pa.Array, pa.ChunkedArray)) else values
        texts = [
            each.decode("utf-8", "surrogatepass") if isinstance(each, bytes) else each
            for each in found
        ]
        return pd.array(texts, dtype=pd.StringDtype("python"))
    dtype: Any = pd.StringDtype("pyarrow")
    return dtype.__from_arrow__(text)  # the protocol that pandas documents for its dtypes


def typed_column(kind: Kind, values: Sequence[Any], choices: Sequence[Any] = ()) -> pd.Series[Any]:
    """A pandas column of typed answers, None as missing.

    Nullable Int64, Float64, boolean and string; a categorical of all `choices`; dates as
    datetime64[s], moments as datetime64[us, UTC] (those without a zone are UTC); else objects.
    """
    match kind:
        case Kind.TEXT:
            return pd.Series(text_column(values))
        case Kind.INTEGER:
            integers: Any = pd.Int64Dtype()
            return pd.Series(integers.__from_arrow__(pa.array(values, type=pa.int64())))
        case Kind.NUMBER:
            numbers: Any = pd.Float64Dtype()
            return pd.Series(numbers.__from_arrow__(pa.array(values, type=pa.float64())))
        case Kind.BOOLEAN:
            truths: Any = pd.BooleanDtype()
            return pd.Series(truths.__from_arrow__(pa.array(values, type=pa.bool_())))
        case Kind.CHOICE:
            codes = {one: code for code, one in enumerate(choices)} | {None: -1}
            found = np.fromiter(map(codes.__getitem__, values), dtype=np.int32, count=len(values))
            return pd.Series(pd.Categorical.from_codes(found, categories=pd.Index(list(choices))))
        case Kind.DATE:
            days = pa.array(values, type=pa.date32())
            return pd.Series(days.cast(pa.timestamp("s")).to_numpy(zero_copy_only=False))
        case Kind.MOMENT:
            moments = [None if one is None else _in_utc(one) for one in values]
            return pd.Series(pd.array(moments, dtype="datetime64[us, UTC]"))
    return pd.Series(np.fromiter(values, dtype=object, count=len(values)))


def vector_column(
    values: pa.ChunkedArray, entry: NDArray[np.int64], *, several: bool
) -> pd.Series[Any]:
    """A column of float32 arrays from base64 (little-endian), entries picked as `gather` does.

    A few rows at a time: as text they take more room than the vectors themselves. With `several`
    a value holds the vectors of a list of inputs, one a line: an array of two dimensions. Else it
    holds one vector.
    """
    column = np.empty(len(entry), dtype=object)
    pieces = gathered(values, entry, _VECTORS_AT_ONCE)
    for place, text in enumerate(text for piece in pieces for text in piece.to_pylist()):
        if text is not None and several:
            column[place] = np.stack([_vector(one) for one in text.split(b"\n")])
        elif text is not None:
            column[place] = _vector(text)
    return pd.Series(column)


def _vector(text: bytes) -> NDArray[np.float32]:
    return np.frombuffer(b64decode(text), dtype="<f4")


def _in_utc(moment: datetime.datetime) -> datetime.datetime:
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # "for ever" is written so; a few hours more are no moment of a calendar
        return moment.replace(tzinfo=UTC)


def status_column(status: NDArray[np.uint8]) -> pd.Categorical:
    """A categorical of all status labels from `RowStatus` numbers."""
    labels = pd.Index([each.label for each in RowStatus], dtype="str")
    return pd.Categorical.from_codes(status.astype(np.int8), categories=labels)


def mark_columns(marks: Mapping[int, Mark], rows: int) -> dict[str, Any]:
    """Return the columns of what a person has noted about `rows` rows, by position.

    `gpt_mark` is a categorical of `up` and `down`, `gpt_note` a string; each only if a row has one.
    """
    thumbs = {at: mark.thumb for at, mark in marks.items() if mark.thumb and at < rows}
    notes = {at: mark.note for at, mark in marks.items() if mark.note is not None and at < rows}
    columns: dict[str, Any] = {}
    if thumbs:
        codes = np.full(rows, -1, dtype=np.int8)
        codes[list(thumbs)] = [list(Thumb).index(one) for one in thumbs.values()]
        words = pd.Index([str(one) for one in Thumb], dtype="str")
        columns["gpt_mark"] = pd.Categorical.from_codes(codes, categories=words)
    if notes:
        texts = np.full(rows, None, dtype=object)
        texts[list(notes)] = list(notes.values())
        columns["gpt_note"] = text_column(texts.tolist())
    return columns


def without_marks(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame without what was noted about the rows of another result."""
    labels = [label_of(frame, name) for name in MARK_COLUMNS]
    return frame.drop(columns=[label for label in labels if label in frame.columns])


def check_clash(frame: pd.DataFrame, names: Sequence[str], on_clash: str) -> None:
    """Raise `FrameError` when one of the columns to be added is there already.

    Columns `gpt_…` never clash: they are an earlier result's and will be replaced.
    """
    labels = set() if on_clash == "replace" else set(frame.columns)
    for name in names:
        label = label_of(frame, name)
        if (label in frame.columns) != (label in set(frame.columns)):
            raise FrameError(f"{name!r} means a column by another name here; choose another: -c")
        if not name.startswith(TRUTH_PREFIX) and label_of(frame, name) in labels:
            raise FrameError(
                f"column {name!r} is in the frame already; choose another name with -c or --prefix,"
                " or say --on-clash replace"
            )


def attach(
    frame: pd.DataFrame, columns: Mapping[str, Any], *, on_clash: str = "error"
) -> pd.DataFrame:
    """Return a copy of `frame` (n rows) with outcome columns added at the end, in their order.

    `columns`: n values each, by position. A column of the same name is dropped before the new one
    is added: one of `gpt_…` always, another only with `on_clash="replace"`, else `FrameError`.
    Under column labels of several levels a name is filled up with "". Rows, order, index and
    the dtypes of other columns stay; no data of `frame` is copied where pandas copies on write.
    Raises `ValueError` for a length that is not n.
    """
    check_clash(frame, list(columns), on_clash)
    result = hold(frame)
    for name, values in columns.items():
        if len(values) != len(frame):
            raise ValueError(f"{name!r} has {len(values)} values for {len(frame)} rows")
        label = label_of(frame, name)
        if label in result.columns:
            del result[label]
        by_position: Any = getattr(values, "array", values)
        result.insert(result.shape[1], label, by_position)
    return result


def label_of(frame: pd.DataFrame, name: str) -> Hashable:
    """Return the label that a column of a result has: under several levels "" fills it up."""
    levels = frame.columns.nlevels
    return name if levels == 1 else (name, *[""] * (levels - 1))
