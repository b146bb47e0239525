"""Answers side by side: against brute force, published tables, odd values, rows that shift."""

from __future__ import annotations

import datetime
import math
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader import Reader

import batch_magic as bm
from batch_magic import agreement
from batch_magic.agreement import confusion, kappa, likeness
from batch_magic.coding import Kind, code
from batch_magic.comparison import Comparison
from batch_magic.errors import CellError, FrameError
from batch_magic.findings import largest

LABELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40)
NUMBERS = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=2, max_size=30)


def table(pairs: list[tuple[int, int]], size: int = 4) -> Any:
    one, other = (np.array([pair[n] for pair in pairs], dtype=np.int64) for n in (0, 1))
    return confusion(one, other, size)


def result(
    answers: dict[str, Any], name: str = "a", status: Any = "ok", index: Any = None, **own: Any
) -> pd.DataFrame:
    """A frame that says of itself what a result of a run says."""
    frame = pd.DataFrame({**own, **answers}, index=index).assign(gpt_status=status)
    frame.attrs["gptbatch"] = {
        "name": name,
        "run_id": f"20260101-000000-{name}",
        "answers": list(answers),
        "added": [*answers, "gpt_status", "gpt_error", "gpt_mark", "gpt_note"],
        "models": ["gpt-5-mini"],
        "model": "gpt-5-mini",
        "backend": "https://api.openai.com/v1",
        "template": f"Prompt {name}: {{{{ text }}}}",
        "params": {},
        "tokens": {"input": 100, "cached": 0, "output": 20, "reasoning": 0},
        "cost_usd": 0.25,
    }
    return frame


def both(one: list[Any], other: list[Any], **options: Any) -> Comparison:
    rows = [f"row {n}" for n in range(len(one))]
    return bm.compare(
        result({"answer": one}, "a", text=rows),
        result({"answer": other}, "b", text=rows),
        **options,
    )


def only(frame: pd.DataFrame) -> dict[str, Any]:
    """The one row of a frame."""
    assert len(frame) == 1
    return dict(frame.iloc[0])


# -- measures -------------------------------------------------------------------------------


def test_kappa_of_cohens_own_example() -> None:
    """J. Cohen (1960), table 1: two judges, 200 patients, three diagnoses, κ = .49."""
    found = kappa(np.array([[88, 14, 18], [10, 40, 10], [2, 6, 12]]))
    assert found.value is not None
    assert found.value == pytest.approx(0.4915, abs=5e-5)


def test_kappa_worked_by_hand() -> None:
    """35 of 50 alike, 0.5 by chance: (0.7 - 0.5) / (1 - 0.5)."""
    assert kappa(np.array([[20, 5], [10, 15]])).value == pytest.approx(0.4)
    assert kappa(np.array([[45, 15], [25, 15]])).value == pytest.approx(0.1304, abs=5e-5)
    assert kappa(np.array([[25, 35], [5, 35]])).value == pytest.approx(0.2593, abs=5e-5)
    assert kappa(np.array([[0, 5], [5, 0]])).value == -1


def test_kappa_of_one_label_alone_is_not_defined() -> None:
    """Perfect agreement on nothing to disagree about is no 1.0."""
    found = kappa(np.array([[7, 0], [0, 0]]))
    assert found.value is None
    assert "same label in every row" in found.reason
    assert kappa(np.zeros((2, 2), dtype=np.int64)).value is None
    assert kappa(np.array([[7, 3], [0, 0]])).value == 0  # one rater knows one label: chance


@given(LABELS)
def test_kappa_is_that_of_brute_force(pairs: list[tuple[int, int]]) -> None:
    """The formula, row by row, with fractions of counts."""
    found = kappa(table(pairs))
    n = len(pairs)
    if n == 0:
        assert found.value is None
        return
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    by_chance = sum(first[label] * second[label] for label in first)
    if by_chance == n * n:
        assert found.value is None
        return
    observed, expected = sum(a == b for a, b in pairs) / n, by_chance / n / n
    assert found.value == pytest.approx((observed - expected) / (1 - expected), abs=1e-9)


@given(LABELS)
def test_label_scores_are_those_of_brute_force(pairs: list[tuple[int, int]]) -> None:
    """Precision and recall counted one row at a time."""
    for label, score in enumerate(agreement.label_scores(table(pairs))):
        hits = sum(a == b == label for a, b in pairs)
        has, given_ = (sum(pair[n] == label for pair in pairs) for n in (0, 1))
        assert (score.support, score.given) == (has, given_)
        assert score.precision == (hits / given_ if given_ else None)
        assert score.recall == (hits / has if has else None)
        precision, recall = score.precision or 0.0, score.recall or 0.0
        if precision + recall:
            assert score.f1 == pytest.approx(2 * precision * recall / (precision + recall))


@settings(deadline=None, max_examples=60)
@given(NUMBERS)
def test_differences_are_those_of_pandas(pairs: list[tuple[float, float]]) -> None:
    """Another implementation of the same formulas."""
    one, other = (np.array([pair[n] for pair in pairs]) for n in (0, 1))
    found = agreement.differences(one, other)
    frame = pd.DataFrame({"a": one, "b": other})
    assert found.mean.value == pytest.approx((frame.b - frame.a).mean(), abs=1e-6)
    assert found.absolute.value == pytest.approx((frame.b - frame.a).abs().mean())
    assert found.rms.value == pytest.approx(math.sqrt(((frame.b - frame.a) ** 2).mean()))
    ranks = agreement.ranks(one)
    assert ranks.tolist() == frame.a.rank().tolist()
    if frame.a.nunique() == 1 or frame.b.nunique() == 1:
        assert found.pearson.value is None
        assert "no correlation is defined" in found.pearson.reason
    else:
        spearman = frame.a.rank().corr(frame.b.rank())
        assert found.spearman.value == pytest.approx(spearman, abs=1e-9)


def test_pearson_is_that_of_pandas() -> None:
    """On numbers of a common size, where pandas itself keeps its digits."""
    rng = np.random.default_rng(3)
    one = rng.normal(size=200)
    other = one * 0.5 + rng.normal(size=200)
    expected = pd.Series(one).corr(pd.Series(other))
    assert agreement.pearson(one, other).value == pytest.approx(expected, abs=1e-12)
    assert agreement.pearson(one, one * 1e300).value == pytest.approx(1)
    assert agreement.pearson(np.array([1.0, np.inf]), np.array([1.0, 2.0])).value is None


@given(st.text(max_size=30), st.text(max_size=30))
def test_likeness_is_a_share(one: str, other: str) -> None:
    """From 0 to 1, the same both ways, 1 of the same text."""
    assert 0 <= likeness(one, other) <= 1
    assert likeness(one, other) == likeness(other, one)
    assert likeness(one, one) == 1


def test_likeness_worked_by_hand() -> None:
    """`night` and `nacht` share one pair of four each: the example in every text on Dice."""
    assert likeness("night", "nacht") == pytest.approx(0.25)
    assert likeness("", "a") == 0
    assert likeness("안녕하세요", "안녕하세여") == pytest.approx(0.75)


# -- equal by value -------------------------------------------------------------------------

EQUAL: list[tuple[str, Any, Any]] = [
    ("Int64 and float", pd.array([1, 2, None], dtype="Int64"), [1.0, 2.0, None]),
    ("float32 and float", np.array([0.1, 2], dtype=np.float32), [0.1, 2.0]),
    ("decimals and floats", [Decimal("0.1"), Decimal("2")], [0.1, 2]),
    ("numbers and texts that spell them", [4, 5, 3], ["4", "5.0", " 3 "]),
    ("categories in another order", pd.Categorical(["x", "y"], ["y", "x"]), ["x", "y"]),
    ("categories that are numbers", pd.Categorical([1, 2]), [1.0, 2.0]),
    ("nullable and plain booleans", pd.array([True, None], dtype="boolean"), [True, None]),
    ("booleans and texts", [True, False], ["true", "False"]),
    ("dates and midnights", [datetime.date(2026, 1, 2)], pd.to_datetime(["2026-01-02"])),
    (
        "zones",
        pd.to_datetime(["2026-01-02 09:00+09:00"]),
        pd.to_datetime(["2026-01-02 00:00Z"]),
    ),
    ("lists and arrays", [[1, 2], []], [np.array([1, 2]), np.array([])]),
    ("objects in another order", [{"a": 1, "b": [None]}], [{"b": [float("nan")], "a": 1.0}]),
    ("whole numbers beyond floats", [2**60, 2**60 + 1], [2**60, 2**60 + 1]),
    ("uint64 and Python's own", np.array([2**64 - 1], np.uint64), [2**64 - 1]),
    ("large whole numbers and floats", [2**53 + 2, 5], [float(2**53 + 2), 5.0]),
    ("texts of both kinds", pd.array(["x", None], dtype="string"), np.array(["x", None], object)),
]


@pytest.mark.parametrize(("one", "other"), [case[1:] for case in EQUAL], ids=[c[0] for c in EQUAL])
def test_values_are_equal_however_they_are_stored(one: Any, other: Any) -> None:
    """A dtype is how a value is kept, not what it is."""
    coded = code([pd.Series(one), pd.Series(other)])
    assert coded.codes[0].tolist() == coded.codes[1].tolist()
    assert coded.note == ""


DIFFERENT: list[tuple[str, Any, Any]] = [
    ("one and true", [{"a": 1}], [{"a": True}]),
    ("whole numbers that floats confuse", [2**60], [2**60 + 1]),
    ("uint64", np.array([2**64 - 1], np.uint64), np.array([2**64 - 2], np.uint64)),
    ("beyond 64 bits", [2**63, 10**30], [2**63 + 1, 10**30]),
    ("whole numbers of two dtypes", [2**53 + 1], np.array([2**53], np.uint64)),
    ("a whole number and a float", [2**53 + 1], [float(2**53)]),
    ("large decimals", [Decimal(2**53 + 1)], [Decimal(2**53)]),
    ("order in a list", [[1, 2]], [[2, 1]]),
    ("a vector and its reshape", [np.zeros((2, 3))], [np.zeros((3, 2))]),
    ("an empty text and nothing", ["", "x"], [None, "x"]),
    ("a text and a list of it", [["x"]], ["x"]),
]


@pytest.mark.parametrize(
    ("one", "other"), [case[1:] for case in DIFFERENT], ids=[c[0] for c in DIFFERENT]
)
def test_values_that_differ_are_not_taken_for_equal(one: Any, other: Any) -> None:
    """What looks alike is not the same."""
    coded = code([pd.Series(one), pd.Series(other)])
    assert coded.codes[0][0] != coded.codes[1][0]


def test_kinds_that_never_meet_are_told_of() -> None:
    """An agreement of nothing at all has a cause that can be mended."""
    coded = code([pd.Series([1, 2, 3]), pd.Series(["one", "two", "three"])])
    assert coded.kind is Kind.OBJECTS
    assert coded.note == "numbers and texts are never equal by value"


ONE_KIND = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(-5, 5)), min_size=1, max_size=12),
    st.lists(st.one_of(st.none(), st.booleans()), min_size=1, max_size=12),
    st.lists(st.one_of(st.none(), st.sampled_from(["x", "y", "zz", "$", "🙂"])), min_size=1),
    st.lists(st.one_of(st.none(), st.lists(st.integers(0, 2), max_size=2)), min_size=1),
    st.lists(st.dates(datetime.date(1990, 1, 1), datetime.date(2040, 1, 1)), min_size=1),
)


@settings(deadline=None, max_examples=60)
@given(ONE_KIND, st.randoms(use_true_random=False))
def test_codes_are_equal_where_values_are(values: list[Any], dice: Any) -> None:
    """Against Python's own equality, pair by pair."""
    shuffled = dice.sample(values, len(values))
    coded = code([pd.Series(values, dtype=object), pd.Series(shuffled, dtype=object)])
    for one, other, a, b in zip(values, shuffled, *coded.codes, strict=True):
        assert (a == b) == (one == other)
        assert (a == -1) == (one is None)


# -- which rows are compared ----------------------------------------------------------------


def test_rows_are_matched_by_position_where_the_frame_is_the_same() -> None:
    """An index that repeats tells nothing; the rows themselves do."""
    rows, index = ["p", "q", "r"], [7, 7, 1]
    a = result({"answer": ["A", "B", "C"]}, "a", index=index, text=rows)
    b = result({"answer": ["A", "X", "C"]}, "b", index=index, text=rows)
    found = bm.compare(a, b)
    assert found.how == "position"
    assert found.changed.to_dict("records") == [{"text": "q", "answer.a": "B", "answer.b": "X"}]
    assert found.changed.index.tolist() == [7]


@settings(deadline=None, max_examples=60)
@given(st.permutations(range(6)))
def test_rows_are_matched_by_an_index_in_any_order(order: list[int]) -> None:
    """Sorted, shuffled or filtered since: the label goes with its row."""
    rows = [f"text {n}" for n in range(6)]
    a = result({"answer": list("ABCDEF")}, "a", index=list("uvwxyz"), text=rows)
    b = result({"answer": list("ABCDEF")}, "b", index=list("uvwxyz"), text=rows)
    found = bm.compare(a, b.iloc[order])
    assert only(found.summary)["equal"] == 6
    part = bm.compare(a, b.iloc[order[:4]])
    assert only(part.summary)["rows"] == part.rows == 4
    assert len(part.left_out) == 2
    assert set(part.left_out["status.b"]) == {"absent"}


def test_a_sorted_frame_with_a_fresh_index_is_refused() -> None:
    """Its labels find rows, and the wrong ones: the promise is no answer on the wrong row."""
    rows = [f"text {n}" for n in range(6)]
    a = result({"answer": list("ABCDEF")}, "a", text=rows, id=[3, 1, 2, 6, 5, 4])
    b = a.sort_values("id").reset_index(drop=True)
    b.attrs = {"gptbatch": {**a.attrs["gptbatch"], "name": "b"}}
    with pytest.raises(FrameError, match=r"differ in 'text', 'id'.*on= .*such as 'text' or 'id'"):
        bm.compare(a, b)
    assert only(bm.compare(a, b, on="id").summary)["equal"] == 6
    assert only(bm.compare(a, b, on="index").summary)["equal"] < 6


def test_rows_that_changed_a_little_are_told_of() -> None:
    """A text that was mended between two runs is still the same row."""
    a = result({"answer": list("ABC")}, "a", text=["p", "q", "r"])
    b = result({"answer": list("ABC")}, "b", text=["p", "q", "R"])
    found = bm.compare(a, b)
    assert found.notes == ("in 1 of 3 matched rows 'text' differ between the two",)


def test_rows_that_cannot_be_told_are_refused_with_the_cure() -> None:
    """No guess: the user knows which column tells a row."""
    a = result({"answer": ["A", "B"]}, "a", index=[1, 1], text=["p", "q"])
    b = result({"answer": ["A", "B"]}, "b", index=[1, 1], text=["q", "p"])
    with pytest.raises(FrameError, match=r"index of a repeats.*such as 'text'"):
        bm.compare(a, b)
    assert only(bm.compare(a, b, on="text").summary)["equal"] == 0
    with pytest.raises(FrameError, match="no index label of a is one of b"):
        bm.compare(a.set_axis([1, 2]), b.set_axis([3, 4]))


def test_a_column_that_does_not_tell_rows_is_refused() -> None:
    """Neither one that repeats, nor one that is not there, nor one of lists."""
    a = result({"answer": ["A", "B"]}, "a", text=["p", "p"], tags=[["x"], ["y"]])
    with pytest.raises(FrameError, match="'text' of a#a repeats in 2 rows"):
        bm.compare(a, a.copy(), on="text")
    with pytest.raises(FrameError, match="did you mean 'text'"):
        bm.compare(a, a.copy(), on="txt")
    with pytest.raises(FrameError, match="holds lists"):
        bm.compare(a, a.copy(), on="tags")


def test_rows_without_a_key_are_no_rows_of_the_other() -> None:
    """Nothing equals nothing only in SQL's nightmares."""
    a = result({"answer": list("ABC")}, "a", id=["p", None, "r"])
    b = result({"answer": list("ABC")}, "b", id=["r", None, "p"])
    found = bm.compare(a, b, on="id")
    assert found.rows == 2
    assert found.runs["only_here"].tolist() == [1, 1]


def test_several_rows_of_both_may_be_without_a_key() -> None:
    """They are left out of both; the others are matched all the same."""
    a = result({"answer": list("ABCD")}, "a", id=[None, "p", None, "r"])
    b = result({"answer": list("DBXY")}, "b", id=["r", "p", None, float("nan")])
    found = bm.compare(a, b, on="id")
    assert found.rows == 2
    assert only(found.summary)["equal"] == 2
    assert found.runs["only_here"].tolist() == [2, 2]


def test_intervals_that_overlap_are_labels_like_others() -> None:
    """An index of ranges is matched by the ranges, not by what lies in them."""
    index = pd.IntervalIndex.from_tuples([(0, 2), (1, 3)])
    a = result({"answer": ["A", "B"]}, "a", index=index, text=["p", "q"])
    b = result({"answer": ["B", "A"]}, "b", index=index[::-1], text=["q", "p"])
    assert only(bm.compare(a, b).summary)["equal"] == 2
    with pytest.raises(FrameError, match="no index label"):
        bm.compare(a, b.set_axis([1, 2]))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(["ok", "failed", "truncated", None]), min_size=1, max_size=12),
    st.data(),
)
def test_every_row_is_compared_or_told_of(statuses: list[Any], data: Any) -> None:
    """None falls out silently: compared and left out are all there are."""
    others = data.draw(st.lists(st.sampled_from(["ok", "failed"]), min_size=len(statuses)))
    others = others[: len(statuses)]
    n = len(statuses)
    a = result({"answer": ["A"] * n}, "a", status=statuses, index=range(n))
    b = result({"answer": ["B"] * n}, "b", status=others, index=range(1, n + 1))
    if n == 1:
        with pytest.raises(FrameError):
            bm.compare(a, b)
        return
    found = bm.compare(a, b)
    row = only(found.summary)
    assert row["compared"] + row["no_answer"] == row["rows"] == n - 1
    expected = sum(x == y == "ok" for x, y in zip(statuses[1:], others, strict=False))
    assert row["compared"] == expected
    assert row["compared"] + len(found.left_out) == n + 1


# -- what is compared -----------------------------------------------------------------------


def test_labels_are_compared_with_what_each_said() -> None:
    """Agreement, kappa, a table of which for which."""
    found = both(list("AABBC"), list("AABBB"))
    row = only(found.summary)
    assert (row["kind"], row["equal"], row["agreement"]) == ("labels", 4, 0.8)
    assert row["kappa"] == pytest.approx((0.8 - 0.4) / 0.6)
    assert found.confusion["answer"].loc["C", "B"] == 1
    assert int(found.confusion["answer"].to_numpy().sum()) == 5


def test_one_label_alone_has_no_kappa_and_a_reason() -> None:
    """Null, with why: not 1.0, and no crash."""
    row = only(both(["A"] * 3, ["A"] * 3).summary)
    assert pd.isna(row["kappa"])
    assert "kappa: both have the same label in every row" in row["reason"]


def test_nothing_to_compare_is_null_with_its_reason() -> None:
    """Of no rows, and of rows without answers."""
    empty = both([], [])
    assert only(empty.summary)["reason"] == "agreement: no row has both"
    a = result({"answer": ["A"]}, "a", status="failed")
    b = result({"answer": ["B"]}, "b", status="failed")
    row = only(bm.compare(a, b).summary)
    assert (row["compared"], row["no_answer"]) == (0, 1)
    assert pd.isna(row["agreement"])
    for found in (empty, bm.compare(a, b)):
        assert repr(found)
        assert found._repr_html_()


def test_a_null_that_was_answered_is_an_answer() -> None:
    """An optional field that is null in both is the same; one that is null in one is not."""
    a = result({"note": ["x", None, None]}, "a", text=list("pqr"))
    b = result({"note": ["x", None, "x"]}, "b", text=list("pqr"))
    found = bm.compare(a, b)
    assert only(found.summary)["equal"] == 2
    assert found.confusion["note"].loc["(null)", "x"] == 1


def test_an_answer_cut_short_is_none() -> None:
    """A truncated text is kept in the frame, and is no answer to compare."""
    a = result({"answer": ["A", "A and then s"]}, "a", status=["ok", "truncated"])
    b = result({"answer": ["A", "B"]}, "b")
    found = bm.compare(a, b)
    assert only(found.summary)["no_answer"] == 1
    assert found.left_out["status.a"].tolist() == ["truncated"]
    assert "A and then s" not in found.confusion["answer"].index


def test_scores_are_compared_as_numbers() -> None:
    """With the difference of each row to look at."""
    found = both([1.0, 2.5, None, 4.0], [1.5, 2.5, 3.0, 3.0])
    row = only(found.summary)
    assert row["kind"] == "numbers"
    assert row["mean_difference"] == pytest.approx(-0.5 / 3)
    assert row["mean_absolute_difference"] == pytest.approx(0.5)
    assert row["rmse"] == pytest.approx(math.sqrt(1.25 / 3))
    assert found.differences["answer.difference"].tolist() == [0.5, 0.0, -1.0]


def test_texts_are_compared_by_share_likeness_and_length() -> None:
    """Two translations are seldom equal, and can be near."""
    long = "a rather long sentence that no one would take for a label, would they?"
    found = both([long] * 20 + ["x" * 70 + str(n) for n in range(20)], [long] * 40)
    row = only(found.summary)
    assert (row["kind"], row["equal"]) == ("texts", 20)
    assert 0.5 <= row["similarity"] < 0.6
    assert 0.9 < row["length_ratio"] <= 1
    assert found.confusion == {}


def test_labels_that_differ_in_form_alone_are_told_of() -> None:
    """`Positive.` and `positive` are two labels to a machine; the user should know."""
    found = both(["Positive.", "bad", "x"], ["positive", "BAD ", "y"])
    assert found.notes == (
        "2 rows of answer differ between a and b in case, spaces or a full stop alone",
    )


def test_two_columns_of_one_frame_are_compared() -> None:
    """A second cell over the first one's result has another -c."""
    frame = result({"answer": list("AB")}, "two", text=["p", "q"], first=list("AA"))
    found = bm.compare(frame, column=("first", "answer"))
    assert found.names == ("first", "answer")
    assert found.changed.columns.tolist() == ["text", "first", "answer"]
    assert only(found.summary)["equal"] == 1


def test_answers_of_other_names_are_compared() -> None:
    """One answer each, whatever it is called; of several the user says which."""
    a, b = result({"x": list("AB")}, "a"), result({"y": list("AA")}, "b")
    assert bm.compare(a, b).changed.columns.tolist() == ["x.a", "y.b"]
    c = result({"y": list("AA"), "z": list("BB")}, "c")
    with pytest.raises(CellError, match=r"a has 'x' and c has 'y', 'z'; name"):
        bm.compare(a, c)
    assert only(bm.compare(a, c, column=("x", "z")).summary)["equal"] == 1


def test_a_frame_that_is_no_result_is_a_side() -> None:
    """A person's labels, beside a model's."""
    people = pd.DataFrame({"answer": ["A", None, "B"]})
    found = bm.compare(result({"answer": list("AAB")}, "model"), people)
    assert found.names == ("model", "b")
    assert only(found.summary)["no_answer"] == 1
    assert found.left_out["status.b"].tolist() == ["no value"]


def test_columns_of_several_levels_and_of_one_name_are_borne() -> None:
    """Labels are what they are."""
    frame = result({"answer": list("AB")}, "a", text=["p", "q"])
    deep = frame.set_axis(pd.MultiIndex.from_tuples([(n, "") for n in frame.columns]), axis=1)
    deep.attrs = frame.attrs
    other = result({"answer": list("AA")}, "b", text=["p", "q"])
    assert bm.compare(deep, other).changed.columns.tolist() == ["text", "answer.a", "answer.b"]
    twice = pd.concat([frame[["text"]], frame], axis=1)
    twice.attrs = frame.attrs
    assert len(bm.compare(twice, other).changed) == 1
    with pytest.raises(FrameError, match="'text' occurs 2 times"):
        bm.compare(twice, other, truth="text")


def test_a_frame_that_is_edited_later_does_not_change_a_comparison() -> None:
    """What is compared is what was there."""
    a, b = result({"answer": list("AB")}, "a"), result({"answer": list("AB")}, "b")
    found = bm.compare(a, b)
    a.loc[0, "answer"] = "Z"
    assert len(found.changed) == 0


def test_what_cannot_be_compared_says_what_can() -> None:
    """One line with the way on."""
    with pytest.raises(CellError, match="a list cannot be compared"):
        bm.compare([1, 2])  # type: ignore[arg-type]
    with pytest.raises(CellError, match="name a second run or frame"):
        bm.compare(result({"answer": ["A"]}))
    with pytest.raises(CellError, match="are those of one run"):
        bm.compare(result({"answer": ["A"]}), result({"answer": ["A"]}), models=["m"])
    with pytest.raises(FrameError, match="'labl' is not in a; did you mean 'label'"):
        bm.compare(result({"answer": ["A"]}, label=["A"]), truth="labl")


# -- against the truth ----------------------------------------------------------------------


def test_each_side_is_held_against_the_truth() -> None:
    """Accuracy of the answered, rows without a truth and without an answer apart."""
    truth = ["A", "A", "B", None, "B"]
    a = result({"answer": list("AABBA")}, "a", label=truth)
    b = result({"answer": list("ABBBB")}, "b", ["ok", "ok", "ok", "ok", "failed"], label=truth)
    found = bm.compare(a, b, truth="label")
    assert found.accuracy["right"].tolist() == [3, 2]
    assert found.accuracy["answered"].tolist() == [4, 3]
    assert found.accuracy["no_answer"].tolist() == [0, 1]
    assert found.truth_confusion["a"].loc["B", "A"] == 1
    row = only(found.summary)
    assert (row["only_a_right"], row["only_b_right"]) == (1, 0)
    assert "1 row without a value of 'label': not judged" in found.notes
    scores = found.by_label.set_index(["side", "label"])
    assert scores.loc[("a", "A"), "precision"] == pytest.approx(2 / 3)
    assert scores.loc[("a", "B"), "recall"] == pytest.approx(1 / 2)


def test_a_single_result_is_held_against_the_truth() -> None:
    """The first question of all: how good is it?"""
    found = bm.compare(result({"stars": ["4", "5", "3"]}, "a", truth=[4, 5, 1]), truth="truth")
    row = only(found.accuracy)
    assert (row["right"], row["mae"]) == (2, pytest.approx(2 / 3))
    assert len(found.summary) == 0
    assert len(found.changed) == 0
    assert "2 of 3 rows right (66.7 %)" in repr(found)


def test_truth_of_several_columns_is_that_of_the_name() -> None:
    """`label` is for `llm_label`; where that does not tell, the user does."""
    answers = {"llm_label": ["A"], "llm_score": [1.0]}
    a = result(answers, "a", label=["A"], gold=["Z"])
    assert only(bm.compare(a, truth="label").accuracy)["column"] == "llm_label"
    with pytest.raises(CellError, match="'llm_label', 'llm_score' is to be held against 'gold'"):
        bm.compare(a, truth="gold")
    assert only(bm.compare(a, truth="gold", column="llm_label").accuracy)["right"] == 0


def test_truth_is_held_against_the_one_answer_that_has_its_labels() -> None:
    """However it is called; where two answers have them, or none, nobody guesses."""
    answers = {"kind": ["A", "B"], "why": ["for this", "for that"], "score": [1.0, 0.5]}
    found = bm.compare(result(answers, "a", gold=["A", "A"]), truth="gold")
    assert (only(found.accuracy)["column"], only(found.accuracy)["right"]) == ("kind", 1)
    assert "'kind' is held against 'gold'" in repr(found)
    two = result({**answers, "other": ["B", "A"]}, "a", gold=["A", "A"])
    with pytest.raises(CellError, match="is to be held against 'gold' of a"):
        bm.compare(two, truth="gold")


def test_accuracy_is_told_like_for_like() -> None:
    """A side that left the hard rows out is no better: first come the rows that all answered."""
    truth = list("AABBAB")
    a = result({"answer": list("AABBBB")}, "a", label=truth)
    b = result({"answer": list("AABAAB")}, "b", status=["ok"] * 4 + ["failed"] * 2, label=truth)
    found = bm.compare(a, b, truth="label")
    assert found.accuracy.columns[2:5].tolist() == ["shared", "shared_right", "shared_accuracy"]
    assert found.accuracy["shared"].tolist() == [4, 4]
    assert found.accuracy["shared_right"].tolist() == [4, 3]
    assert found.accuracy["shared_accuracy"].tolist() == [1, 0.75]
    assert found.accuracy["right"].tolist() == [5, 3]
    assert found.accuracy["answered"].tolist() == [6, 4]
    assert (
        "a against label: 4 of 4 rows right (100 %) of those that all have answered; of its own"
        " 5 of 6 rows right (83.3 %)"
    ) in repr(found)
    seen = Reader(found._repr_html_()).text
    assert "like for like, over the 4 rows that all sides have answered:" in seen
    drawn = str(found.plot().get_label())
    assert "a 100.0 % of 4, b 75.0 % of 4 of the rows that all have answered" in drawn
    same = bm.compare(a, a.assign(answer="A"), truth="label", column="answer")
    assert "like for like" not in same._repr_html_()


def test_rows_that_no_side_shares_have_no_accuracy_alike() -> None:
    """Null with its reason, and no bar that looks like a nothing that was measured."""
    a = result({"answer": list("AB")}, "a", status=["ok", "failed"], label=list("AB"))
    b = result({"answer": list("AB")}, "b", status=["failed", "ok"], label=list("AB"))
    found = bm.compare(a, b, truth="label")
    assert found.accuracy["shared_accuracy"].isna().all()
    assert "shared_accuracy: no row that all have answered" in found.accuracy["reason"][0]
    assert "a no row, b no row" in str(found.plot().get_label())


def test_a_likeness_of_some_rows_says_of_how_many() -> None:
    """Of a hundred thousand long texts five thousand are held against each other."""
    texts = [f"a long text that is no label at all and says a good deal {n}" for n in range(6_000)]
    found = both(texts, [f"{text}!" for text in texts])
    said = "likeness of answer is measured on 5,000 of the 6,000 rows that differ between a and b"
    assert said in repr(found)
    assert said in Reader(found._repr_html_()).text
    assert "5,000 of 6,000 rows" in str(found.plot().get_label())
    assert "is measured on" not in repr(both(texts[:50], texts[1:51]))


# -- what it looks like ---------------------------------------------------------------------


EVIL = '<script>alert("1")</script> $x^2$ \x1b[31m\u202e'


def test_a_report_shows_answers_as_text() -> None:
    """An answer can be markup, a formula, an order to a terminal: it is none here."""
    a = result({"answer": [EVIL, "A"]}, EVIL, text=[EVIL, "q"], label=[EVIL, "A"])
    b = result({"answer": ["B", "A"]}, "b", text=[EVIL, "q"], label=[EVIL, "A"])
    found = bm.compare(a, b, truth="label")
    seen = Reader(found._repr_html_())
    assert "script" not in seen.tags
    assert '<script>alert("1")</script>' in seen.text
    assert "\x1b" not in seen.text + repr(found)
    assert "\u202e" not in seen.text + repr(found)
    # Lab sets what stands between two dollars of one text as a formula.
    assert max(piece.count("$") for piece in seen.pieces) == 1


def test_a_report_says_all_there_is() -> None:
    """Rows, figures, tables, changes, prompts, money."""
    a = result({"answer": list("AABB")}, "a", text=list("pqrs"), label=list("AABA"))
    b = result({"answer": list("ABBB")}, "b", text=list("pqrs"), label=list("AABA"))
    found = bm.compare(a, b, truth="label")
    seen = Reader(found._repr_html_()).text
    for words in ("a and b against label", "4 rows matched by position", "side by side", "kappa"):
        assert words in seen
    for words in ("1 row with answers that differ", "-Prompt a:", "+Prompt b:", "$0.25"):
        assert words in seen
    assert "3 of 4 rows equal (75 %)" in repr(found)
    assert found.prompts.splitlines()[:2] == ["--- a", "+++ b"]


LABELS_OF_ANY_KIND: dict[str, list[Any]] = {
    "true and false": [True, False],
    "true alone": [True, True],
    "true, false and null": [True, False, None],
    "whole numbers": [2, 1, 0],
    "numbers and a truth": [1, True, 0, "1"],
    "texts and a truth": ["x", True, False],
    "many numbers": list(range(40, 0, -1)),
}


@pytest.mark.parametrize("labels", LABELS_OF_ANY_KIND.values(), ids=LABELS_OF_ANY_KIND)
def test_labels_of_any_kind_are_reported_and_drawn(labels: list[Any]) -> None:
    """A list of True and False picks nothing by its labels in pandas: it is a mask there."""
    one, other = labels * 3, labels[1:] + labels[:1] + labels * 2
    a = result({"flag": pd.Series(one, dtype=object)}, "a", label=pd.Series(one, dtype=object))
    b = result({"flag": pd.Series(other, dtype=object)}, "b", label=pd.Series(one, dtype=object))
    found = bm.compare(a, b, truth="label")
    assert repr(found)
    assert "side by side" in Reader(found._repr_html_()).text
    for table in found.confusion.values():
        assert int(table.to_numpy().sum()) == len(one)
    assert "flag" in found.confusion or labels[0] is not True
    found.plot()


def test_the_largest_labels_are_picked_by_place() -> None:
    """1, True and 1.0 are one label to pandas, and True and False a mask."""
    labels = pd.Index([True, 1, "1", False, 0], dtype=object)
    counts = np.diag([5, 1, 4, 3, 2])
    kept = largest(pd.DataFrame(counts, index=labels, columns=labels), most=3)
    assert [str(label) for label in kept.index] == ["True", "1", "False"]
    assert kept.to_numpy().tolist() == np.diag([5, 4, 3]).tolist()


def test_a_report_is_a_page_however_many_rows() -> None:
    """Ten rows, a dozen labels, sixty lines."""
    many = [f"label {n % 60}" for n in range(5_000)]
    found = both(many, many[1:] + many[:1])
    html = found._repr_html_()
    assert len(html) < 120_000
    assert "and 4,990 more rows: .changed" in Reader(html).text
    assert found.confusion["answer"].shape == (60, 60)


def test_a_million_rows_are_compared_in_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """Labels, scores and texts, with a truth: vectors, not loops."""
    n, labels = 1_000_000, ["positive", "negative", "mixed"]
    rng = np.random.default_rng(1)
    base = {"text": pd.array(rng.integers(0, 10**9, n).astype(str))}
    truth = pd.Categorical.from_codes(rng.integers(0, 3, n), labels)

    def side(name: str) -> pd.DataFrame:
        answers = {
            "llm_label": pd.Categorical.from_codes(rng.integers(0, 3, n), labels),
            "score": pd.array(rng.normal(size=n), dtype="Float64"),
            "why": pd.array(("because " + pd.Series(rng.integers(0, 10**5, n).astype(str))).array),
        }
        status = pd.Categorical(["ok"]).take(np.zeros(n, dtype=int))
        return result(answers, name, status, **base, label=truth)

    a, b = side("a"), side("b")
    began, worked = time.perf_counter(), time.process_time()
    found = bm.compare(a, b, truth="label")
    html = found._repr_html_()
    took, cpu = time.perf_counter() - began, time.process_time() - worked
    with capsys.disabled():
        print(f"\n1,000,000 rows, 3 columns: compared in {took:.1f} s ({cpu:.1f} s of CPU)")
    assert len(html) < 120_000
    assert found.rows == n
    assert cpu < 20


# -- by runs --------------------------------------------------------------------------------


@pytest.fixture
def said(home: Path) -> pd.DataFrame:
    """Rows whose text says what the sandbox answers: by the words of either prompt."""
    truth = ["good", "bad", "good", "mixed", "bad", "good"]
    second = ["good", "bad", "bad", "mixed", "good", "good"]
    return pd.DataFrame(
        {
            "first": [f"[[say:{one}]]" for one in [*truth[:4], "good", "mixed"]],
            "second": [f"[[say:{one}]]" for one in second[:5]] + ["[[fault:400]]"],
            "label": truth,
        },
        index=[4, 4, 2, 9, 1, 1],
    )


def test_two_prompts_are_compared_by_the_names_of_their_runs(said: pd.DataFrame) -> None:
    """The whole way: cells, answers, rows by position, truth, money, prompts."""
    options = {"model": "gpt-5-mini", "on": "sandbox"}
    bm.submit(said, "One: {{ first }}", out="one", **options).wait(timeout_s=60)
    bm.submit(said, "Two: {{ second }}", out="two", retries=0, **options).wait(timeout_s=60)
    found = bm.compare("one", "two", truth="label")
    assert found.how == "position"
    assert found.accuracy["right"].tolist() == [4, 3]
    row = only(found.summary)
    assert (row["compared"], row["equal"], row["no_answer"]) == (5, 4, 1)
    assert (row["only_a_right"], row["only_b_right"]) == (1, 0)
    assert found.changed["answer.one"].tolist() == ["good"]
    assert found.changed["answer.two"].tolist() == ["bad"]
    assert found.changed.index.tolist() == [2]
    assert found.left_out["status.two"].tolist() == ["failed"]
    assert "-One: {{ first }}" in found.prompts
    assert found.runs["cost_usd"].tolist() == [0.0, 0.0]
    assert found.runs["input"].gt(0).all()
    frames = bm.compare(bm.attach("one").result(), bm.attach("two").result(), truth="label")
    assert frames.summary.equals(found.summary)


def test_a_column_of_the_users_that_is_named_as_ours_tells_rows(home: Path) -> None:
    """A result says which columns its run has put there: others tell rows, whatever their names."""
    options = {"model": "gpt-5-mini", "on": "sandbox", "keep": "usage"}
    frame = pd.DataFrame({"gpt_text": [f"t{n}" for n in range(6)], "lang": "en"})
    turned = frame.iloc[::-1].reset_index(drop=True)
    bm.submit(frame, "{{ gpt_text }}", out="one", **options).wait(timeout_s=60)
    bm.submit(turned, "{{ gpt_text }}", out="two", **options).wait(timeout_s=60)
    with pytest.raises(FrameError, match=r"they may be other rows; say on= .* such as 'gpt_text'"):
        bm.compare("one", "two")
    found = bm.compare("one", "two", on="gpt_text")
    assert only(found.summary)["equal"] == 6
    bm.submit(frame, "Again: {{ gpt_text }}", out="three", **options).wait(timeout_s=60)
    assert bm.compare("one", "three").changed.columns.tolist() == [
        *("gpt_text", "lang", "answer.one", "answer.three")
    ]


def test_models_of_one_run_are_compared(home: Path, reviews: pd.DataFrame) -> None:
    """Each with each, or the two that are named; each tells its own tokens."""
    run = bm.submit(reviews, "{{ text }}", model="m-one,m-two,m-three", on="sandbox", out="asked")
    run.wait(timeout_s=60)
    found = bm.compare("asked")
    assert found.names == ("m-one", "m-two", "m-three")
    assert len(found.summary) == 3
    assert found.runs["input"].notna().all()
    assert found.runs["model"].tolist() == ["m-one", "m-two", "m-three"]
    two = bm.compare(run, models=["m-three", "m-one"])
    assert two.names == ("m-three", "m-one")
    assert "-model: m-three" in two.prompts
    assert bm.compare(run.result(), models=["m-one", "m-two"]).names == ("m-one", "m-two")
    with pytest.raises(CellError, match="asked asked m-one, m-two, m-three, not 'm-four'"):
        bm.compare("asked", models=["m-four", "m-one"])


def test_a_run_that_goes_on_is_compared_as_far_as_it_is(
    home: Path, reviews: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at what is there, and a word on what is still to come."""
    done = bm.submit(reviews, "{{ text }}", model="m", on="sandbox", out="done")
    done.wait(timeout_s=60)
    monkeypatch.setenv("BATCH_MAGIC_POLL_FIRST_S", "30")
    bm.submit(reviews, "Anew: {{ text }}", model="m", on="sandbox", out="going")
    found = bm.compare("done", "going")
    assert only(found.summary)["no_answer"] == 12
    assert "going: 12 rows still to come" in repr(found)


def test_a_name_that_is_no_run_is_one_line(home: Path, reviews: pd.DataFrame) -> None:
    """With those that are known."""
    bm.submit(reviews, "{{ text }}", model="m", on="sandbox", out="known").wait(timeout_s=60)
    with pytest.raises(CellError, match=r"no run is called 'knwn'.*known are known"):
        bm.compare("knwn", "known")
