"""One outcome per row: precedence as arithmetic on arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_magic.records import PAID, RowStatus
from batch_magic.resolution import Source, is_retryable, resolve

ROWS = 6
Entry = tuple[int, RowStatus]


def source(
    *entries: Entry,
    first: int = 0,
    rows: tuple[int, ...] = (),
    default: RowStatus = RowStatus.MISSING,
) -> Source:
    return Source(
        first=first,
        positions=np.array([p for p, _ in entries], dtype=np.int64),
        statuses=np.array([s for _, s in entries], dtype=np.uint8),
        retryable=np.array([s is RowStatus.FAILED for _, s in entries], dtype=bool),
        rows=np.array(rows, dtype=np.int64),
        default=default,
        default_retryable=default is RowStatus.MISSING,
        note=0,
    )


def test_rows_that_nothing_covers_are_pending() -> None:
    """No outcome is an outcome of its own."""
    assert resolve(3, []).counts() == {RowStatus.PENDING: 3}


def test_a_row_in_neither_file_gets_the_default() -> None:
    """Every row that a job was asked for is accounted for."""
    done = resolve(3, [source((1, RowStatus.OK), rows=(0, 1, 2))])
    assert done.statuses.tolist() == [RowStatus.MISSING, RowStatus.OK, RowStatus.MISSING]
    assert done.entry.tolist() == [-1, 0, -1]
    assert done.retryable.tolist() == [True, False, True]


def test_the_first_paid_answer_wins_and_stays() -> None:
    """A second answer, an error in the other file, a later round: nothing replaces it."""
    one = source((0, RowStatus.FAILED), (0, RowStatus.OK), (0, RowStatus.TRUNCATED), rows=(0,))
    late = source((0, RowStatus.OK), first=3, rows=(0,))
    done = resolve(1, [one, late])
    assert (done.statuses[0], done.entry[0]) == (RowStatus.OK, 1)


def test_of_failures_the_latest_file_has_the_word() -> None:
    """A row that failed twice shows why it failed last."""
    done = resolve(
        1,
        [
            source((0, RowStatus.FAILED), rows=(0,)),
            source((0, RowStatus.EXPIRED), first=1, rows=(0,)),
        ],
    )
    assert (done.statuses[0], done.entry[0]) == (RowStatus.EXPIRED, 1)


def test_lines_for_no_row_are_passed_over() -> None:
    """Position -1 is a line of somebody else's, not the last row."""
    done = resolve(2, [source((-1, RowStatus.OK), (0, RowStatus.OK), rows=(0, 1))])
    assert done.statuses.tolist() == [RowStatus.OK, RowStatus.MISSING]


def test_a_twin_has_whatever_its_line_has() -> None:
    """Answer, failure and reason alike."""
    twins = np.array([[2, 0], [3, 1]])
    done = resolve(4, [source((0, RowStatus.OK), rows=(0, 1))], twins)
    assert done.statuses[2:].tolist() == done.statuses[:2].tolist()
    assert done.entry[2:].tolist() == done.entry[:2].tolist()


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, ROWS - 1), st.sampled_from(list(RowStatus)[:8])), max_size=12
        ),
        max_size=4,
    )
)
def test_the_arrays_agree_with_a_plain_loop(files: list[list[Entry]]) -> None:
    """The rules once more, row by row, in words a reader can check."""
    sources, first = [], 0
    for entries in files:
        sources.append(source(*entries, first=first, rows=tuple(range(ROWS))))
        first += len(entries)
    done = resolve(ROWS, sources)
    for row in range(ROWS):
        assert (RowStatus(done.statuses[row]), done.entry[row]) == _by_hand(row, files)


def _by_hand(row: int, files: list[list[Entry]]) -> tuple[RowStatus, int]:
    result, number = (RowStatus.PENDING, -1), 0
    for entries in files:
        mine = [(s, number + i) for i, (p, s) in enumerate(entries) if p == row]
        number += len(entries)
        paid = [one for one in mine if one[0] in PAID]
        if result[0] not in PAID:
            result = (paid or mine or [(RowStatus.MISSING, -1)])[0]
        elif result[0] is not RowStatus.OK:
            result = next((one for one in paid if one[0] <= result[0]), result)
    return result


@pytest.mark.parametrize(
    ("status", "http", "code", "again"),
    [
        (RowStatus.FAILED, 429, None, True),
        (RowStatus.FAILED, 408, None, True),
        (RowStatus.FAILED, 409, None, True),
        (RowStatus.FAILED, 500, None, True),
        (RowStatus.FAILED, 599, None, True),
        (RowStatus.FAILED, 0, None, True),
        (RowStatus.FAILED, None, "request_timeout", True),
        (RowStatus.FAILED, None, "something_new", False),
        (RowStatus.FAILED, 400, None, False),
        (RowStatus.FAILED, 404, None, False),
        (RowStatus.EXPIRED, None, "batch_expired", True),
        (RowStatus.CANCELLED, None, "batch_cancelled", False),
        (RowStatus.REFUSED, 200, None, False),
        (RowStatus.OK, 200, None, False),
    ],
)
def test_only_failures_that_may_pass_are_retryable(
    status: RowStatus, http: int | None, code: str | None, again: bool
) -> None:
    """The table of the interface, line by line."""
    assert is_retryable([status], [http], [code]).tolist() == [again]
