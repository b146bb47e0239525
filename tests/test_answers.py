"""Answer texts become values: what fits, what does not and why, what each column holds."""

from __future__ import annotations

import datetime
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, field_validator

from batch_magic.answers import Misfit, Reader, pattern_fields, reader_of, remember
from batch_magic.errors import CellError
from batch_magic.records import Kind, Shape
from batch_magic.strict_schema import inline_schema, json_schema_of

LINE = "label: good|bad, score: float 0..1, n: int, tags: list[str], note: str?, day: date"
GOOD = '{"label":"good","score":1,"n":3,"tags":["a"],"note":null,"day":"2026-01-02"}'
VALUES = ["good", 1.0, 3, ["a"], None, datetime.date(2026, 1, 2)]


def reader(line: str = LINE, **facts: Any) -> Reader:
    return Reader(Shape(schema=inline_schema(line), **facts))


def row(found: list[list[Any]], n: int = 0) -> list[Any]:
    return [column[n] for column in found]


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}```",
        f"Here it is:\n```json\n{GOOD}\n```\nHope {{that}} helps!",
        f"Sure! {GOOD} Anything else?",
        f"  \n{GOOD}\n",
    ],
)
def test_one_whole_json_value_is_read_wherever_it_stands(text: str) -> None:
    """Models wrap what they say; the value inside is whole."""
    one = reader()
    assert one.misfits([text]) == [None]
    assert row(one.values([text])) == VALUES
    assert row(one.values([text.encode()])) == VALUES


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the answer is no JSON"),
        ("nothing here", "the answer is no JSON"),
        (f"{GOOD} and {GOOD}", "several JSON values"),
        (GOOD[:-1], "the answer is no JSON"),
        (GOOD.replace("good", "fine"), "label: Invalid enum value 'fine'"),
        (GOOD.replace('"score":1', '"score":1.5'), "score: Expected float <= 1.0"),
        (GOOD.replace('"n":3', '"n":"3"'), "n: Expected int, got str"),
        (GOOD.replace('"n":3', '"n":99999999999999999999'), "n: "),
        (GOOD.replace('"n":3,', ""), "there is no field n"),
        (GOOD.replace("2026-01-02", "soon"), "day: Invalid RFC3339"),
        ("[1]", "Expected object, got array"),
        ("null", "Expected object, got null"),
    ],
)
def test_a_misfit_says_which_field_and_why(text: str, said: str) -> None:
    """The reason is what the user reads in gpt_error."""
    one = reader()
    (found,) = one.misfits([text])
    assert found is not None
    assert said in found
    assert row(one.values([text, GOOD])) == [None] * 6
    assert row(one.values([text, GOOD]), 1) == VALUES


def test_columns_have_their_kinds_and_names() -> None:
    """One column a field, in the schema's order, with the prefix."""
    found = reader(prefix="p_").columns
    assert [one.name for one in found] == [
        f"p_{name}" for name in ("label", "score", "n", "tags", "note", "day")
    ]
    kinds = [Kind.CHOICE, Kind.NUMBER, Kind.INTEGER, Kind.OBJECT, Kind.TEXT, Kind.DATE]
    assert [one.kind for one in found] == kinds
    assert found[0].choices == ("good", "bad")


class Point(BaseModel):
    x: int
    y: float | None = None


class Label(BaseModel):
    label: Literal["good", "bad"]
    at: Point
    all: list[Point]

    @field_validator("label")
    @classmethod
    def never_bad(cls, value: str) -> str:
        if value == "bad":
            raise ValueError("nothing is bad")
        return value


def test_objects_within_become_columns_only_on_request() -> None:
    """`a.b` for one level; a list of objects stays a list."""
    text = '{"label":"good","at":{"x":1,"y":2.5},"all":[{"x":1,"y":null}]}'
    schema = json_schema_of(Label, "Label")
    plain = Reader(Shape(schema=schema))
    assert row(plain.values([text])) == ["good", {"x": 1, "y": 2.5}, [{"x": 1, "y": None}]]
    flat = Reader(Shape(schema=schema, flatten=True))
    assert [one.name for one in flat.columns] == ["label", "at.x", "at.y", "all"]
    assert row(flat.values([text])) == ["good", 1, 2.5, [{"x": 1, "y": None}]]


def test_a_users_own_model_judges_the_answers_too() -> None:
    """Its validators know more than a schema can say."""
    shape = Shape(schema=json_schema_of(Label, "Label"))
    text = '{"label":"bad","at":{"x":1},"all":[]}'
    assert reader_of(shape).misfits([text]) == [None]
    remember(shape, Label)
    (said,) = reader_of(shape).misfits([text])
    assert said == "label: Value error, nothing is bad"
    assert row(reader_of(shape).values([text.replace("bad", "good")]))[0] == "good"


@pytest.mark.parametrize(
    ("pattern", "text", "values"),
    [
        ("output : {kor_sent1} | {kor_sent2}", "output : A |  B ", ["A", "B"]),
        ("output : {kor_sent1} | {kor_sent2}", '("A", "B")', None),
        ("{label}: {score:d}", "good: 7", ["good", 7]),
        ("{label}: {score:d}", "good: seven", None),
        ("{label}", "", None),
        ("{a} {{b}} {c:g}", "x {b} 1.5", ["x", 1.5]),
        ("{first}\n{second}", "one\ntwo", ["one", "two"]),
    ],
)
def test_a_pattern_splits_a_text(pattern: str, text: str, values: list[Any] | None) -> None:
    """The inverse of `format`; a misfit stays whole, to be looked at."""
    one = Reader(Shape(pattern=pattern))
    assert (one.misfits([text]) == [None]) is (values is not None)
    found = row(one.values([text]))
    assert found == (values if values is not None else [None] * len(found))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("no fields", "has no fields"),
        ("{} and {}", "needs a name"),
        ("{0}", "needs a name"),
        ("{a} {a}", "'a' is there twice"),
        ("{a", "cannot be read"),
        ("{a:nonsense!}", "cannot be read"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused(pattern: str, said: str) -> None:
    """Before anything is sent."""
    with pytest.raises(CellError, match=f"--parse.*{said}"):
        Reader(Shape(pattern=pattern))


def test_a_pattern_knows_the_kinds_of_its_fields() -> None:
    """Types are `parse`'s own letters."""
    found = pattern_fields("{a} {b:d} {c:f} {d:ti} {e:w}")
    kinds = [Kind.TEXT, Kind.INTEGER, Kind.NUMBER, Kind.MOMENT, Kind.TEXT]
    assert list(found.values()) == kinds


@given(st.text(max_size=80))
def test_any_text_is_read_or_a_misfit(text: str) -> None:
    """A model may say anything."""
    for one in (reader(), Reader(Shape(pattern="{a}: {n:d}"))):
        assert len(one.misfits([text])) == 1
        one.values([text])


def test_a_misfit_is_a_value_error() -> None:
    """It is raised and caught within; nobody else need know it."""
    assert issubclass(Misfit, ValueError)
