"""Which row of one frame is which row of another.

It knows the ways that are safe (the same rows in the same places, an index that tells each row, a
column that does) and refuses to guess among rows: where none is, it says how to name a column.
The trap is an index that looks like a name and is but a place: after a `reset_index` of a sorted
frame every label finds a row, and the wrong one; so what both frames say of a row has to agree.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batch_magic.errors import FrameError
from batch_magic.wording import counted

BY_INDEX = "index"
"""What `on` says for the index as it stands, where no column is called so."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Where an answer stands: the label of its column, and of its status if it has one."""

    label: Hashable
    status: Hashable | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of where answers come from; None and "" for what is not."""

    run_id: str = ""
    model: str = ""
    served: str = ""
    template: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    is_sandbox: bool = False
    tokens: Mapping[str, int] | None = None  # input, cached, output
    cost_usd: float | None = None
    note: str = ""  # such as rows that are still to come


@dataclass(frozen=True, slots=True)
class Side:
    """One of the things that are compared: a frame (n rows) and which of its columns are answers.

    `answers` is by the name that the answer has on other sides, too. `fingerprint` recognises the
    frame that a run was made of; "" where rows may have been moved since. `added` are the labels of
    the columns that a run has put there, which say nothing of which row is which.
    """

    name: str
    frame: pd.DataFrame
    answers: Mapping[str, Answer]
    origin: Origin = Origin()
    fingerprint: str = ""
    added: frozenset[Hashable] = frozenset()


@dataclass(frozen=True, slots=True)
class Pairing:
    """Rows of two frames that belong together: their positions, in the order of the first."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    how: str
    notes: tuple[str, ...] = ()


def pair(one: Side, other: Side, on: str = "") -> Pairing:
    """Find which rows of two sides are the same. `on`: a column of both, or `index`.

    Raises FrameError, with the way out, when that cannot be told for sure.
    """
    if on and (on != BY_INDEX or has_column(one, on) or has_column(other, on)):
        return _by_column(one, other, on)
    if one.frame is other.frame:
        return _in_place(one, "position")
    is_same_index = one.frame.index.equals(other.frame.index)
    is_same_frame = bool(one.fingerprint) and one.fingerprint == other.fingerprint
    if is_same_index and is_same_frame:
        return _in_place(one, "position")
    if one.frame.index.is_unique and other.frame.index.is_unique:
        return _by_index(one, other, is_sure=on == BY_INDEX)
    shared = _shared(one, other)
    if is_same_index and shared and not _differing(one, other, shared, *_places(one, one)).any():
        return _in_place(one, "position")
    repeats = one if not one.frame.index.is_unique else other
    raise FrameError(
        f"the index of {repeats.name} repeats and its rows are not those of"
        f" {(other if repeats is one else one).name} in the same places; {_cure(one, other)}"
    )


def _in_place(one: Side, how: str) -> Pairing:
    return Pairing(*_places(one, one), how)


def _places(one: Side, other: Side) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.arange(len(one.frame)), np.arange(len(other.frame))


def _by_index(one: Side, other: Side, *, is_sure: bool) -> Pairing:
    # As objects, intervals are labels: to pandas' own index they are ranges, which may overlap.
    labels = [
        index.astype(object) if isinstance(index, pd.IntervalIndex) else index
        for index in (one.frame.index, other.frame.index)
    ]
    found = labels[1].get_indexer(labels[0]).astype(np.int64)
    first = np.flatnonzero(found >= 0)
    second = found[first]
    if not len(first) and len(one.frame) and len(other.frame):
        raise FrameError(
            f"no index label of {one.name} is one of {other.name}; {_cure(one, other)}"
        )
    shared = _shared(one, other)
    differing = _differing(one, other, shared, first, second)
    rows = int(differing.sum())
    names = ", ".join(repr(word_of(label)) for label in shared[:4])
    if not is_sure and 2 * rows > len(first):
        raise FrameError(
            f"by their index {rows:,} of {counted(len(first), 'row')} of {one.name} and"
            f" {other.name} differ in {names}: they may be other rows; {_cure(one, other)},"
            f" or {BY_INDEX!r} when the index does tell"
        )
    is_whole = len(first) == len(one.frame) == len(other.frame)
    is_same_place = is_whole and bool((first == second).all())
    how = "position" if is_same_place and shared and not rows else "index"
    told = f"in {rows:,} of {counted(len(first), 'matched row')} {names} differ between the two"
    return Pairing(first, second, how, (told,) if rows else ())


def _by_column(one: Side, other: Side, on: str) -> Pairing:
    keys = [_keys(side, on) for side in (one, other)]
    for side, index in zip((one, other), keys, strict=True):
        known = index[index.notna()]
        if not known.is_unique:
            again = int(known.duplicated(keep=False).sum())
            raise FrameError(
                f"column {on!r} of {side.name} repeats in {counted(again, 'row')};"
                f" {_cure(one, other)}"
            )
    mine, theirs = (np.flatnonzero(index.notna()) for index in keys)  # missing ones repeat
    found = keys[1][theirs].get_indexer(keys[0][mine])
    first, second = mine[found >= 0], theirs[found[found >= 0]]
    if not len(first) and len(one.frame) and len(other.frame):
        examples = " and ".join(repr(index[0]) for index in keys)
        raise FrameError(
            f"no value of {on!r} is in both {one.name} and {other.name} (such as {examples});"
            f" {_cure(one, other)}"
        )
    return Pairing(first, second, f"column {on!r}")


def _keys(side: Side, on: str) -> pd.Index[Any]:
    values = side.frame.iloc[:, place_of(side, on)].astype(object)
    index: pd.Index[Any] = pd.Index(values, dtype=object)
    try:
        for value in index:
            hash(value)
    except TypeError:
        raise FrameError(
            f"column {on!r} of {side.name} holds lists or the like, which tell no row;"
            " name a column of texts or numbers with on="
        ) from None
    return index


def _cure(one: Side, other: Side) -> str:
    """Say what to do, with columns that would serve."""
    names = [repr(word_of(label)) for label in _shared(one, other) if _tells(one, other, label)]
    such = f" such as {' or '.join(names[:2])}" if names else ""
    return f"say on= (--on) with a column that both have and whose values tell each row{such}"


def _tells(one: Side, other: Side, label: Hashable) -> bool:
    columns = (side.frame.iloc[:, _place(side.frame, label)] for side in (one, other))
    return all(column.is_unique for column in columns)


# -- what both say of a row -----------------------------------------------------------------


def _shared(one: Side, other: Side) -> list[Hashable]:
    """Return the labels of plain columns, added by no run to either, that both frames have once."""
    ours = {answer.label for side in (one, other) for answer in side.answers.values()}
    ours |= one.added | other.added
    mine, theirs = list(one.frame.columns), list(other.frame.columns)
    return [
        label
        for label in dict.fromkeys(mine)
        if label not in ours
        if mine.count(label) == 1 and theirs.count(label) == 1
        if _is_plain(one.frame, label) and _is_plain(other.frame, label)
    ]


def _is_plain(frame: pd.DataFrame, label: Hashable) -> bool:
    """Tell whether a column holds values that can be held side by side at once."""
    column = frame.iloc[:, _place(frame, label)]
    if column.dtype != object:
        return True
    return pd.api.types.infer_dtype(column, skipna=True) in ("string", "integer", "boolean")


def _differing(
    one: Side,
    other: Side,
    shared: list[Hashable],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Tell for each pair of rows whether a shared column says something else of the two."""
    found = np.zeros(len(first), dtype=bool)
    for label in shared:
        mine = one.frame.iloc[first, _place(one.frame, label)].array
        theirs = other.frame.iloc[second, _place(other.frame, label)].array
        found |= _unequal(mine, theirs)
    return found


def _unequal(mine: Any, theirs: Any) -> NDArray[np.bool_]:
    if isinstance(mine.dtype, pd.CategoricalDtype) or mine.dtype != theirs.dtype:
        mine, theirs = (
            np.asarray(values.astype(object), dtype=object) for values in (mine, theirs)
        )
    is_gone, are_gone = np.asarray(pd.isna(mine)), np.asarray(pd.isna(theirs))
    some = ~(is_gone | are_gone)
    unequal: NDArray[np.bool_] = is_gone != are_gone
    unequal[some] = np.asarray(mine[some] != theirs[some], dtype=bool)
    return unequal


# -- columns by name ------------------------------------------------------------------------


def place_of(side: Side, name: str) -> int:
    """Return the place of a column by its name. Raises FrameError, with the nearest names."""
    words = [word_of(label) for label in side.frame.columns]
    if words.count(name) == 1:
        return words.index(name)
    if name in words:
        raise FrameError(f"column {name!r} occurs {words.count(name)} times in {side.name}; rename")
    near = difflib.get_close_matches(name, words, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, words[:12]))}"
    raise FrameError(f"column {name!r} is not in {side.name}; {hint}")


def has_column(side: Side, name: str) -> bool:
    """Tell whether a frame has a column of this name."""
    return any(word_of(label) == name for label in side.frame.columns)


def _place(frame: pd.DataFrame, label: Hashable) -> int:
    labels: list[Any] = list(frame.columns)
    return labels.index(label)


def word_of(label: Hashable) -> str:
    """Return a label as a person writes it; of several levels, those that are filled."""
    if isinstance(label, tuple):
        return ".".join(str(part) for part in label if part != "")
    return str(label)
