"""What several sets of answers to the same rows have in common, and where they differ.

It knows frames and gives values: which rows can be compared, which answers are equal, how far
labels agree, scores differ and texts are alike, and how each side does against the truth. It
refuses to know where frames come from and how a finding looks. The trap is a row that falls out
silently: every row of either side is compared, without a valid answer on one, or on one side
alone, and each of these is counted.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batch_magic import agreement
from batch_magic.agreement import Measure
from batch_magic.coding import Coded, Kind, code
from batch_magic.errors import CellError
from batch_magic.pairing import Answer, Pairing, Side, has_column, pair, place_of, word_of
from batch_magic.wording import counted

NULL = "(null)"
"""What a table calls the label of an answer that is valid and null."""

LABELS_SHOWN = 12
"""Of how many labels a table is shown; the frames have all."""

_ALIKE_ROWS = 5_000  # texts that are held against each other; the rest is as these are
_ABSENT = "absent"
_NONE = "no value"


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """One column of answers, on all sides: rows are those that all sides have, in order.

    `valid[i]` tells which rows have a valid answer on side i; `truth` is the place of the truth
    among the columns that were coded, None without one.
    """

    name: str
    labels: tuple[str, ...]  # what the column is called on each side
    coded: Coded
    valid: tuple[NDArray[np.bool_], ...]
    truth: int | None = None

    def head(self, i: int, side: str) -> str:
        """Return what the column of a side is called beside those of the others."""
        if self.labels[i] == side:
            return side
        is_shared = len(set(self.labels)) == 1 or " / " not in self.name
        return f"{self.name if is_shared else self.labels[i]}.{side}"

    def both(self, i: int, j: int) -> NDArray[np.bool_]:
        return self.valid[i] & self.valid[j]

    def equal(self, i: int, j: int) -> NDArray[np.bool_]:
        """Tell for each row whether two sides say the same; of valid answers null equals null."""
        same: NDArray[np.bool_] = self.coded.codes[i] == self.coded.codes[j]
        return same

    def differing(self, i: int, j: int) -> NDArray[np.int64]:
        """Return the rows in which two sides have valid answers that are not equal."""
        return np.flatnonzero(self.both(i, j) & ~self.equal(i, j))

    def table(self, i: int, j: int) -> NDArray[np.int64]:
        """Count pairs of labels over the rows that both have; the last label is null."""
        size, rows = len(self.coded.values) + 1, self.both(i, j)
        one, other = (self.coded.codes[n][rows] % size for n in (i, j))  # -1 is the last
        return agreement.confusion(one, other, size)

    def numbers(self, i: int, j: int) -> tuple[NDArray[np.bool_], NDArray[Any], NDArray[Any]]:
        """Return which rows have a number on both sides, and those numbers."""
        one, other = self.coded.numbers[i], self.coded.numbers[j]
        rows = self.both(i, j) & ~np.isnan(one) & ~np.isnan(other)
        return rows, one[rows], other[rows]

    def has_labels_of_truth(self) -> bool:
        """Tell whether some answer is a label that is in the truth as well."""
        if self.truth is None or not self.coded.has_labels:
            return False
        said = [
            set(np.unique(codes[valid]).tolist()) - {-1}
            for codes, valid in zip(self.coded.codes, self.valid, strict=True)
        ]
        return any(not one.isdisjoint(said[self.truth]) for one in said[: self.truth])


@dataclass(frozen=True, eq=False)
class Findings:
    """What a comparison found: frames that can be taken home. Sides keep the order given.

    All frames are made when they are first asked for, and are the caller's to change.
    """

    sides: tuple[Side, ...]
    places: tuple[NDArray[np.int64], ...]  # of the compared rows, in each side's frame
    how: str
    columns: tuple[Compared, ...]
    truth_name: str
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(side.name for side in self.sides)

    @property
    def rows(self) -> int:
        """How many rows all sides have."""
        return len(self.places[0])

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        return list(combinations(range(len(self.sides)), 2))

    @cached_property
    def judged(self) -> Compared | None:
        """The column that is held against the truth, None without one."""
        return next((column for column in self.columns if column.truth is not None), None)

    # -- side by side ----------------------------------------------------------------------

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row for each compared column and pair of sides.

        `column`, `kind`, `a`, `b`; `rows` that both have, `no_answer` of them without a valid
        answer on one side or both, `compared`, `equal`, `agreement` (the share that is equal).
        Labels have `kappa`; numbers `mean_difference` (b less a), `mean_absolute_difference`,
        `rmse`, `pearson`, `spearman`; texts `similarity` (mean likeness, from 0 to 1) and
        `length_ratio` (mean of the shorter by the longer). Against a truth, `only_a_right` and
        `only_b_right` count rows. What is not defined is null, with the reason in `reason`.
        """
        rows = [self._summed(column, i, j) for column in self.columns for i, j in self.pairs]
        found = pd.DataFrame(rows, columns=list(_SUMMARY))
        return found.astype(_SUMMARY)

    def _summed(self, column: Compared, i: int, j: int) -> dict[str, Any]:
        both, kind = column.both(i, j), column.coded.kind
        compared = int(both.sum())
        equal = int((both & column.equal(i, j)).sum())
        measures = {"agreement": _share(equal, compared), **_measures(column, i, j)}
        reasons = {name: one.reason for name, one in measures.items() if one.value is None}
        told = [
            f"{', '.join(name for name in reasons if reasons[name] == why)}: {why}"
            for why in dict.fromkeys(reasons.values())
        ]
        told += [column.coded.note] if column.coded.note else []
        return {
            "column": column.name,
            "kind": kind.value,
            "a": self.sides[i].name,
            "b": self.sides[j].name,
            "rows": self.rows,
            "no_answer": self.rows - compared,
            "compared": compared,
            "equal": equal,
            **{name: one.value for name, one in measures.items()},
            **_only_right(column, i, j),
            "reason": "; ".join(told) or None,
        }

    @cached_property
    def changed(self) -> pd.DataFrame:
        """The rows in which two sides have valid answers that differ, under their index labels.

        The columns of the first side's frame that are no answers, then for each compared column
        the answers of all sides, side by side: `label.a`, `label.b`.
        """
        found = np.zeros(self.rows, dtype=bool)
        for column in self.columns:
            for i, j in self.pairs:
                found |= column.both(i, j) & ~column.equal(i, j)
        return self.rows_at(np.flatnonzero(found))

    def rows_at(self, rows: NDArray[np.int64]) -> pd.DataFrame:
        """Return some of the compared rows: the frame's own columns, then the answers."""
        frame = self.sides[0].frame
        ours = {answer.label for side in self.sides for answer in side.answers.values()}
        ours |= {label for one in self.columns for label in self._labels(one)}
        ours |= {label for side in self.sides for label in side.added}
        kept = [place for place, label in enumerate(frame.columns) if label not in ours]
        result = frame.iloc[self.places[0][rows], kept].copy()
        result.attrs = {}
        if isinstance(result.columns, pd.MultiIndex):
            result.columns = pd.Index([word_of(label) for label in result.columns])
        for column in self.columns:
            for i, name in enumerate(self.names):
                source = self._source(column, i).iloc[self.places[i][rows]]
                result.insert(
                    result.shape[1],
                    column.head(i, name),
                    source.array,
                    allow_duplicates=True,
                )
        return result

    def _labels(self, column: Compared) -> list[Any]:
        return [
            side.frame.columns[place_of(side, label)]
            for side, label in zip(self.sides, column.labels, strict=True)
        ]

    def _source(self, column: Compared, i: int) -> pd.Series[Any]:
        side = self.sides[i]
        return side.frame.iloc[:, place_of(side, column.labels[i])]

    @cached_property
    def confusion(self) -> dict[str, pd.DataFrame]:
        """Counts of pairs of labels, the first side in the rows, by the name of the column.

        Of more than two sides the name tells the pair, too: `label: a / b`.
        """
        return {
            self.pair_name(column, i, j): _labelled(
                column, column.table(i, j), (self.names[i], self.names[j])
            )
            for column in self.columns
            if column.coded.has_labels
            for i, j in self.pairs
        }

    def pair_name(self, column: Compared, i: int, j: int) -> str:
        """Name a column, and the pair of sides where there are several."""
        several = f": {self.names[i]} / {self.names[j]}" if len(self.pairs) > 1 else ""
        return column.name + several

    @cached_property
    def differences(self) -> pd.DataFrame:
        """Scores side by side, under the index labels of the first side's frame.

        For each column of numbers the numbers of all sides (null where there is no valid one)
        and for each pair the second less the first, in `score.difference` or, of more than two
        sides, `score.difference: a / b`. Rows without any difference to tell are left out.
        """
        found: dict[str, Any] = {}
        some = np.zeros(self.rows, dtype=bool)
        for column in self.columns:
            if column.coded.kind is not Kind.NUMBERS:
                continue
            numbers = [
                np.where(column.valid[i], column.coded.numbers[i], np.nan)
                for i in range(len(self.sides))
            ]
            for i, (name, values) in enumerate(zip(self.names, numbers, strict=True)):
                found[column.head(i, name)] = values
            for i, j in self.pairs:
                with np.errstate(invalid="ignore"):
                    by = numbers[j] - numbers[i]
                name = self.pair_name(column, i, j)
                found[f"{column.name}.difference{name.removeprefix(column.name)}"] = by
                some |= ~np.isnan(by)
        index = self.sides[0].frame.index[self.places[0]]
        return pd.DataFrame(found, index=index)[some]

    @cached_property
    def left_out(self) -> pd.DataFrame:
        """The rows that were not compared, and why: one status for each side.

        A row is here when one side lacks it (`absent`) or has no valid answer in a compared
        column: its `gpt_status`, or `no value` where it has none. Index labels are those of the
        side that has the row.
        """
        lacking = np.zeros(self.rows, dtype=bool)
        for column in self.columns:
            for valid in column.valid[: len(self.sides)]:
                lacking |= ~valid
        rows = np.flatnonzero(lacking)
        said = {name: self._said(i, rows) for i, name in enumerate(self.names)}
        index = self.sides[0].frame.index[self.places[0][rows]]
        parts = [pd.DataFrame({f"status.{name}": one for name, one in said.items()}, index=index)]
        parts += [self._only(i) for i in range(len(self.sides))]
        return pd.concat([part for part in parts if len(part)] or parts[:1])

    def _said(self, i: int, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return why a side has no valid answer in these rows: `ok` where it has."""
        said = np.full(len(rows), "ok", dtype=object)
        for column in self.columns:
            answer = self._answer(column, i)
            bad = ~column.valid[i][rows]
            if answer.status is None:
                said[bad] = _NONE
                continue
            said[bad] = _statuses(self.sides[i], answer.status)[self.places[i][rows[bad]]]
        return said

    def _answer(self, column: Compared, i: int) -> Answer:
        return _answer_of(self.sides[i], column.labels[i])

    def only_in(self, i: int) -> NDArray[np.int64]:
        """Return the positions of rows that one side alone has."""
        present = np.zeros(len(self.sides[i].frame), dtype=bool)
        present[self.places[i]] = True
        return np.flatnonzero(~present)

    def _only(self, i: int) -> pd.DataFrame:
        alone = self.only_in(i)
        said = {
            f"status.{name}": np.full(len(alone), "only here" if n == i else _ABSENT, dtype=object)
            for n, name in enumerate(self.names)
        }
        return pd.DataFrame(said, index=self.sides[i].frame.index[alone])

    # -- against the truth -----------------------------------------------------------------

    @cached_property
    def accuracy(self) -> pd.DataFrame:
        """How each side does against the truth: one row each; no rows without a truth.

        `side`, `column`. Like for like: `shared` rows that have a truth and that all sides have
        answered, `shared_right` of them, `shared_accuracy`. Of the side's own: `rows` that have a
        truth, `no_answer` of them, `answered`, `right`, `accuracy` (of the answered), `kappa`,
        `macro_f1` (the mean over the labels that the truth has); of numbers `bias` (the mean of
        answer less truth), `mae`, `rmse`, `pearson`, `spearman`. `reason` says why a measure is
        null.
        """
        column = self.judged
        rows = [] if column is None else [self._judged(column, i) for i in range(len(self.sides))]
        return pd.DataFrame(rows, columns=list(_ACCURACY)).astype(_ACCURACY)

    def _judged(self, column: Compared, i: int) -> dict[str, Any]:
        assert column.truth is not None, "a column that is judged has its truth"
        known = column.valid[column.truth]
        both = column.both(column.truth, i)
        answered, rows = int(both.sum()), int(known.sum())
        is_right = column.equal(column.truth, i)
        right = int((both & is_right).sum())
        alike = np.logical_and.reduce(column.valid)  # the truth is among them
        shared, shared_right = int(alike.sum()), int((alike & is_right).sum())
        measures = {
            "shared_accuracy": _share(shared_right, shared, "no row that all have answered"),
            "accuracy": _share(right, answered),
            **_verdicts(column, i),
        }
        told = {name: one.reason for name, one in measures.items() if one.value is None}
        return {
            "side": self.sides[i].name,
            "column": column.name,
            "shared": shared,
            "shared_right": shared_right,
            "rows": rows,
            "no_answer": rows - answered,
            "answered": answered,
            "right": right,
            **{name: one.value for name, one in measures.items()},
            "reason": "; ".join(f"{name}: {why}" for name, why in told.items()) or None,
        }

    @property
    def is_judged_alike(self) -> bool:
        """Tell whether all sides have answered the same of the rows that have a truth."""
        return bool((self.accuracy["answered"] == self.accuracy["shared"]).all())

    @cached_property
    def by_label(self) -> pd.DataFrame:
        """Precision, recall and F1 of each label on each side; null where it is not defined.

        `support`: rows that have the label in truth; `given`: rows that the side gave it.
        """
        column, rows = self.judged, []
        if column is not None and column.coded.has_labels and column.truth is not None:
            for i, name in enumerate(self.names):
                table = column.table(column.truth, i)
                for label, one in zip(_names(column), agreement.label_scores(table), strict=True):
                    if one.support or one.given:
                        rows.append({"side": name, "label": label, **_score_cells(one)})
        return pd.DataFrame(rows, columns=list(_BY_LABEL)).astype(_BY_LABEL)

    @cached_property
    def truth_confusion(self) -> dict[str, pd.DataFrame]:
        """Counts of labels by side, the truth in the rows."""
        column = self.judged
        if column is None or column.truth is None or not column.coded.has_labels:
            return {}
        return {
            name: _labelled(column, column.table(column.truth, i), (self.truth_name, name))
            for i, name in enumerate(self.names)
        }

    # -- what they are ---------------------------------------------------------------------

    @cached_property
    def runs(self) -> pd.DataFrame:
        """What each side is: one row each; null for what is not known.

        `side`, `run_id`, `model` as asked, `served`; `rows`, `only_here` (rows that the others
        lack); tokens (`input`, `cached`, `output`) and `cost_usd` of the whole run; `note`.
        """
        rows = []
        for i, side in enumerate(self.sides):
            it = side.origin
            tokens = it.tokens or {}
            rows.append(
                {
                    "side": side.name,
                    "run_id": it.run_id or None,
                    "model": it.model or None,
                    "served": it.served or None,
                    "rows": len(side.frame),
                    "only_here": len(self.only_in(i)),
                    **{name: tokens.get(name) for name in ("input", "cached", "output")},
                    "cost_usd": 0.0 if it.is_sandbox else it.cost_usd,
                    "note": "; ".join(_origin_notes(side)) or None,
                }
            )
        return pd.DataFrame(rows).astype(_RUNS)

    @cached_property
    def prompts(self) -> str:
        """How the prompts and parameters differ from the first side's, as a unified diff.

        "" where they are the same, or not known.
        """
        first, *others = self.sides
        return "\n".join(filter(None, (_prompt_diff(first, other) for other in others)))

    def alike(self, column: Compared, i: int, j: int) -> NDArray[np.float64]:
        """Return how alike the texts of rows are that differ; of many, of some evenly spread."""
        return _likenesses(column, i, j, column.differing(i, j))


# -- putting together -----------------------------------------------------------------------


def compare(
    sides: Sequence[Side],
    *,
    truth: str = "",
    column: str | tuple[str, ...] = (),
    on: str = "",
) -> Findings:
    """Compare sides row by row; a single one is held against the truth alone.

    `column`: the answers to compare, by name; several names are what one column is called on each
    side. `truth` names a column with what is right. Raises CellError, FrameError for names that
    are not there and for rows that cannot be told.
    """
    places, how, notes = _paired(sides, on)
    named = _columns(sides, column, needs_two=len(sides) > 1)
    keeper = _truth_keeper(sides, truth)
    against = _held_against(sides, places, named, keeper, truth) if truth else {}
    compared = [
        against.get(name) or _coded(sides, places, name, labels, None, "") for name, labels in named
    ]
    notes += _form_notes(compared, sides)
    notes += _truth_notes(compared, truth)
    notes += _likeness_notes(compared, sides)
    return Findings(tuple(sides), places, how, tuple(compared), truth, notes)


def _paired(
    sides: Sequence[Side], on: str
) -> tuple[tuple[NDArray[np.int64], ...], str, tuple[str, ...]]:
    first = sides[0]
    if len(sides) == 2:
        found: Pairing = pair(first, sides[1], on)
        return (found.first, found.second), found.how, found.notes
    assert all(side.frame is first.frame for side in sides), "several sides are of one run"
    whole = np.arange(len(first.frame))
    return tuple(whole for _ in sides), "position", ()


def _columns(
    sides: Sequence[Side], column: str | tuple[str, ...], *, needs_two: bool
) -> list[tuple[str, tuple[str, ...]]]:
    """Return what is compared: a name, and what the column is called on each side."""
    wanted = (column,) if isinstance(column, str) and column else tuple(column)
    if wanted:
        labels = wanted * len(sides) if len(wanted) == 1 else wanted
        if len(labels) != len(sides):
            raise CellError(
                f"column= (--column) names {len(wanted)} columns for {len(sides)} sides; name one,"
                " or one for each side"
            )
        found = tuple(_label_of(side, label) for side, label in zip(sides, labels, strict=True))
        return [(" / ".join(dict.fromkeys(labels)), found)]
    shared = [name for name in sides[0].answers if all(name in side.answers for side in sides)]
    if not shared and needs_two:
        return [_only_columns(sides)]
    if not shared:
        raise CellError(
            f"{sides[0].name} has no answers of a run; name the column to look at with column="
            " (--column)"
        )
    return [(name, tuple(word_of(side.answers[name].label) for side in sides)) for name in shared]


def _label_of(side: Side, name: str) -> str:
    """Return what a column is called in a side's frame: an answer may go by a shorter name."""
    if name in side.answers:
        return word_of(side.answers[name].label)
    return word_of(side.frame.columns[place_of(side, name)])


def _only_columns(sides: Sequence[Side]) -> tuple[str, tuple[str, ...]]:
    """Return the one answer of each side, by whatever name; or that of one that the other has."""
    one, other = sides
    if len(one.answers) == len(other.answers) == 1:
        labels = tuple(word_of(next(iter(side.answers.values())).label) for side in sides)
        return " / ".join(labels), labels
    for mine, theirs in ((one, other), (other, one)):
        names = [name for name in mine.answers if has_column(theirs, name)]
        if not theirs.answers and len(names) == 1:
            return names[0], tuple(_label_of(side, names[0]) for side in sides)
    told = " and ".join(
        f"{side.name} has {', '.join(map(repr, side.answers)) or 'no answers of a run'}"
        for side in sides
    )
    raise CellError(f"{told}; name what to compare with column=('x', 'y') (--column x,y)")


def _truth_keeper(sides: Sequence[Side], truth: str) -> int:
    """Return which side's frame has the truth. Raises FrameError when none has."""
    if not truth:
        return 0
    for n, side in enumerate(sides):
        if has_column(side, truth):
            place_of(side, truth)  # once
            return n
    place_of(sides[0], truth)
    raise AssertionError("a column that no side has was refused")


def _held_against(
    sides: Sequence[Side],
    places: Sequence[NDArray[np.int64]],
    named: Sequence[tuple[str, tuple[str, ...]]],
    keeper: int,
    truth: str,
) -> dict[str, Compared]:
    """Return the one column that the truth is about, with the truth, by its name.

    The only one, or the one that is called much alike, or the one whose labels the truth has.
    """
    names = [name for name, _ in named]
    near = [name for name in names if truth.casefold() in name.casefold()]
    near = near or [name for name in names if name.casefold() in truth.casefold()]
    held = (sides[keeper], places[keeper])
    found = {
        name: _coded(sides, places, name, labels, held, truth)
        for name, labels in named
        if len(names) == 1 or len(near) != 1 or name in near
    }
    if len(found) > 1:
        found = {name: column for name, column in found.items() if column.has_labels_of_truth()}
    if len(found) != 1:
        raise CellError(
            f"which of {', '.join(map(repr, names))} is to be held against {truth!r} of"
            f" {sides[keeper].name}? It is not clear; say column= (--column)"
        )
    return found


def _coded(
    sides: Sequence[Side],
    places: Sequence[NDArray[np.int64]],
    name: str,
    labels: tuple[str, ...],
    keeper: tuple[Side, NDArray[np.int64]] | None,
    truth: str,
) -> Compared:
    columns, valid = [], []
    for side, place, label in zip(sides, places, labels, strict=True):
        column = side.frame.iloc[:, place_of(side, label)].iloc[place]
        valid.append(_valid(side, label, column, place))
        columns.append(_masked(column, valid[-1]))
    if keeper is not None:
        side, place = keeper
        column = side.frame.iloc[:, place_of(side, truth)].iloc[place]
        columns.append(column)
        valid.append(column.notna().to_numpy())
    coded = code([column.reset_index(drop=True) for column in columns])
    return Compared(name, labels, coded, tuple(valid), len(sides) if keeper else None)


def _answer_of(side: Side, label: str) -> Answer:
    for answer in side.answers.values():
        if word_of(answer.label) == label:
            return answer
    return Answer(side.frame.columns[place_of(side, label)])


def _masked(column: pd.Series[Any], valid: NDArray[np.bool_]) -> pd.Series[Any]:
    """Take out what is no valid answer, such as a text cut short: it is no label of its own."""
    if valid.all():
        return column
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iub":
        column = column.convert_dtypes()  # with room for missing values, without loss
    return column.mask(~valid)


def _valid(
    side: Side, label: str, column: pd.Series[Any], place: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tell which rows have a valid answer: by their status where there is one, else not null."""
    status = _answer_of(side, label).status
    if status is None or status not in side.frame.columns:
        return column.notna().to_numpy()
    said: Any = _status_column(side, status).array
    is_ok = said == "ok" if isinstance(said, pd.Categorical) else _statuses(side, status) == "ok"
    found: NDArray[np.bool_] = np.asarray(is_ok)[place]
    return found


def _status_column(side: Side, status: Any) -> pd.Series[Any]:
    labels: list[Any] = list(side.frame.columns)
    return side.frame.iloc[:, labels.index(status)]


def _statuses(side: Side, status: Any) -> NDArray[Any]:
    """Return the statuses of a side's rows as texts, "no value" where one is missing."""
    found = _status_column(side, status).astype(object).to_numpy(copy=True)
    found[pd.isna(found)] = _NONE
    return found


# -- what is said once ----------------------------------------------------------------------


def _form_notes(compared: Sequence[Compared], sides: Sequence[Side]) -> tuple[str, ...]:
    """Tell of labels that would be equal but for case, spaces and a full stop."""
    notes = []
    for column in compared:
        if column.coded.kind is not Kind.LABELS or not column.coded.has_labels:
            continue
        if not all(isinstance(value, str) for value in column.coded.values):
            continue
        plain = [" ".join(value.casefold().split()).strip(" .!") for value in column.coded.values]
        classes = np.array([*(plain.index(one) for one in plain), -1])
        for i, j in combinations(range(len(column.coded.codes)), 2):
            both = column.both(i, j) & ~column.equal(i, j)
            alike = classes[column.coded.codes[i]] == classes[column.coded.codes[j]]
            if rows := int((both & alike).sum()):
                who = [*(side.name for side in sides), "the truth"]
                notes.append(
                    f"{counted(rows, 'row')} of {column.name} differ between {who[i]} and"
                    f" {who[j]} in case, spaces or a full stop alone"
                )
    return tuple(notes)


def _truth_notes(compared: Sequence[Compared], truth: str) -> tuple[str, ...]:
    for column in compared:
        if column.truth is not None:
            told = [f"{column.name!r} is held against {truth!r}"] if len(compared) > 1 else []
            gone = int((~column.valid[column.truth]).sum())
            told += [f"{counted(gone, 'row')} without a value of {truth!r}: not judged"] * (
                gone > 0
            )
            return tuple(told)
    return ()


def _likeness_notes(compared: Sequence[Compared], sides: Sequence[Side]) -> tuple[str, ...]:
    """Tell of texts that were not all held against each other."""
    return tuple(
        f"likeness of {column.name} is measured on {_ALIKE_ROWS:,} of the {len(rows):,} rows that"
        f" differ between {sides[i].name} and {sides[j].name}, evenly spread"
        for column in compared
        if column.coded.kind is Kind.TEXTS
        for i, j in combinations(range(len(sides)), 2)
        if len(rows := column.differing(i, j)) > _ALIKE_ROWS
    )


def _origin_notes(side: Side) -> list[str]:
    said = [side.origin.note] if side.origin.note else []
    return [*said, "sandbox: answers are made on this machine"] if side.origin.is_sandbox else said


def _prompt_diff(one: Side, other: Side) -> str:
    mine, theirs = one.origin.template, other.origin.template
    if mine is None or theirs is None:
        return ""
    texts = [
        [*_setting_lines(side), *(template.strip("\n").splitlines())]
        for side, template in ((one, mine), (other, theirs))
    ]
    return "\n".join(
        difflib.unified_diff(texts[0], texts[1], one.name, other.name, lineterm="", n=2)
    )


def _setting_lines(side: Side) -> list[str]:
    it = side.origin
    return [f"model: {it.model}", *(f"{name}: {it.params[name]!r}" for name in sorted(it.params))]


# -- measures -------------------------------------------------------------------------------


def _share(part: int, whole: int, why: str = agreement.NO_ROWS) -> Measure:
    return Measure(part / whole) if whole else Measure(None, why)


def _measures(column: Compared, i: int, j: int) -> dict[str, Measure]:
    """Return what can be said of a pair of columns of their kind."""
    found: dict[str, Measure] = {}
    if column.coded.has_labels:
        found["kappa"] = agreement.kappa(column.table(i, j))
    if column.coded.kind is Kind.NUMBERS:
        by = agreement.differences(*column.numbers(i, j)[1:])
        found["mean_difference"], found["mean_absolute_difference"] = by.mean, by.absolute
        found |= {"rmse": by.rms, "pearson": by.pearson, "spearman": by.spearman}
    if column.coded.kind is Kind.TEXTS:
        found |= _text_measures(column, i, j)
    return found


def _verdicts(column: Compared, i: int) -> dict[str, Measure]:
    assert column.truth is not None, "a column that is judged has its truth"
    found: dict[str, Measure] = {}
    if column.coded.has_labels:
        table = column.table(column.truth, i)
        scores = [one.f1 for one in agreement.label_scores(table) if one.support]
        mean = Measure(sum(one or 0.0 for one in scores) / len(scores)) if scores else None
        found["kappa"] = agreement.kappa(table)
        found["macro_f1"] = mean or Measure(None, agreement.NO_ROWS)
    if column.coded.kind is Kind.NUMBERS:
        by = agreement.differences(*column.numbers(column.truth, i)[1:])
        found |= {"bias": by.mean, "mae": by.absolute, "rmse": by.rms}
        found |= {"pearson": by.pearson, "spearman": by.spearman}
    return found


def _only_right(column: Compared, i: int, j: int) -> dict[str, int]:
    if column.truth is None:
        return {}
    known = column.both(i, j) & column.valid[column.truth]
    first, second = column.equal(column.truth, i), column.equal(column.truth, j)
    return {
        "only_a_right": int((known & first & ~second).sum()),
        "only_b_right": int((known & second & ~first).sum()),
    }


def _text_measures(column: Compared, i: int, j: int) -> dict[str, Measure]:
    both = column.both(i, j)
    rows = int(both.sum())
    if not rows:
        nothing = Measure(None, agreement.NO_ROWS)
        return {"similarity": nothing, "length_ratio": nothing}
    differs = column.differing(i, j)
    alike = _likenesses(column, i, j, differs)
    of_differing = float(alike.mean()) * len(differs) if len(alike) else 0.0
    similarity = (rows - len(differs) + of_differing) / rows
    lengths = np.array([*(len(one) for one in column.coded.values), 0], dtype=np.float64)
    one, other = (lengths[column.coded.codes[n][both]] for n in (i, j))
    longer = np.maximum(np.maximum(one, other), 1.0)
    ratio = np.where(one == other, 1.0, np.minimum(one, other) / longer)
    return {"similarity": Measure(similarity), "length_ratio": Measure(float(ratio.mean()))}


def _likenesses(column: Compared, i: int, j: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    if len(rows) > _ALIKE_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, _ALIKE_ROWS).astype(np.int64)]
    texts = [*column.coded.values, ""]
    pairs = zip(
        column.coded.codes[i][rows].tolist(), column.coded.codes[j][rows].tolist(), strict=True
    )
    return np.array([agreement.likeness(texts[one], texts[other]) for one, other in pairs])


# -- frames ---------------------------------------------------------------------------------


def _names(column: Compared) -> list[Any]:
    return [*column.coded.values, NULL]


def _labelled(column: Compared, table: NDArray[np.int64], names: tuple[str, str]) -> pd.DataFrame:
    """Return a table of counts with its labels; null is among them where it occurs."""
    labels = _names(column)
    if not table[-1].any() and not table[:, -1].any():
        table, labels = table[:-1, :-1], labels[:-1]
    one, other = (pd.Index(labels, name=name, dtype=object) for name in names)
    return pd.DataFrame(table, index=one, columns=other)


def largest(table: pd.DataFrame, most: int = LABELS_SHOWN) -> pd.DataFrame:
    """Return a square table of those of its labels alone that occur most, in its order.

    They are picked by place: pandas takes a list of True and False for a mask.
    """
    weight = table.to_numpy().sum(axis=0) + table.to_numpy().sum(axis=1)
    kept = sorted(np.argsort(-weight, kind="stable")[:most].tolist())
    return table.iloc[kept, kept]


def _score_cells(one: agreement.LabelScore) -> Mapping[str, Any]:
    return {
        "precision": one.precision,
        "recall": one.recall,
        "f1": one.f1,
        "support": one.support,
        "given": one.given,
    }


_TEXT, _COUNT, _SHARE = "string", "Int64", "Float64"
_SUMMARY = {
    **dict.fromkeys(("column", "kind", "a", "b"), _TEXT),
    **dict.fromkeys(("rows", "no_answer", "compared", "equal"), _COUNT),
    **dict.fromkeys(("agreement", "kappa", "mean_difference"), _SHARE),
    **dict.fromkeys(("mean_absolute_difference", "rmse", "pearson", "spearman"), _SHARE),
    **dict.fromkeys(("similarity", "length_ratio"), _SHARE),
    **dict.fromkeys(("only_a_right", "only_b_right"), _COUNT),
    "reason": _TEXT,
}
_ACCURACY = {
    **dict.fromkeys(("side", "column"), _TEXT),
    **dict.fromkeys(("shared", "shared_right"), _COUNT),
    "shared_accuracy": _SHARE,
    **dict.fromkeys(("rows", "no_answer", "answered", "right"), _COUNT),
    **dict.fromkeys(("accuracy", "kappa", "macro_f1", "bias", "mae"), _SHARE),
    **dict.fromkeys(("rmse", "pearson", "spearman"), _SHARE),
    "reason": _TEXT,
}
_BY_LABEL = {
    "side": _TEXT,
    "label": "object",
    **dict.fromkeys(("precision", "recall", "f1"), _SHARE),
    **dict.fromkeys(("support", "given"), _COUNT),
}
_RUNS = {
    **dict.fromkeys(("side", "run_id", "model", "served"), _TEXT),
    **dict.fromkeys(("rows", "only_here", "input", "cached", "output"), _COUNT),
    "cost_usd": _SHARE,
    "note": _TEXT,
}
