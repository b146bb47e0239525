"""Values in a cell come back as they were, types included, or are refused."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_magic.exact_json import _HALVES, UnwritableError, dumps, loads

ATOMS: Any = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(codec=None)).filter(lambda text: not _HALVES.search(text)),
    st.binary(),
    st.dates(),
    st.datetimes().map(lambda moment: moment.replace(fold=0)),
    st.decimals(allow_nan=False),
)
KEYS = st.one_of(st.text(), st.integers(), st.just("$"))
VALUES = st.recursive(
    ATOMS,
    lambda inside: st.one_of(
        st.lists(inside), st.dictionaries(KEYS, inside), st.tuples(inside, inside)
    ),
)


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    return bool(one == other)


@given(VALUES)
def test_any_value_comes_back_as_it_was(value: Any) -> None:
    """A result after a restart holds what the frame held: a tuple is no list, 1 is not True."""
    assert same(loads(dumps(value)), value)


@pytest.mark.parametrize("dtype", ["int8", "float32", "float64", "bool"])
def test_an_array_comes_back_with_dtype_and_shape(dtype: str) -> None:
    """Embeddings kept in a column survive, and may be written to."""
    array = np.arange(6).reshape(2, 3).astype(dtype)
    again = loads(dumps(array))
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert (again == array).all()
    again[0, 0] = 1


def test_missing_ones_are_themselves() -> None:
    """NA, NaT and None are told apart."""
    first, second, third = loads(dumps([pd.NA, pd.NaT, None]))
    assert first is pd.NA
    assert second is pd.NaT
    assert third is None


@pytest.mark.parametrize(
    "value",
    [
        {1},
        object(),
        pd.Timestamp("2020"),
        np.float64(1),
        dt.datetime.now(dt.UTC),
        1j,
        "\ud83d\ude00",
    ],
)
def test_what_would_come_back_otherwise_is_refused(value: Any) -> None:
    """Almost equal is not equal."""
    with pytest.raises(UnwritableError):
        dumps([value])


@pytest.mark.parametrize(
    "text", ['{"$":"x"}', '{"$":"x","of":1}', '{"$":"array","of":["O",[1],""]}', "{", '{"$":[]}']
)
def test_a_strangers_file_is_a_value_error(text: str) -> None:
    """A snapshot may come from anybody."""
    with pytest.raises(ValueError, match=r"."):
        loads(text)


def test_decimals_keep_their_digits() -> None:
    """1.10 is not 1.1 in a ledger."""
    assert str(loads(dumps(Decimal("1.10")))) == "1.10"
