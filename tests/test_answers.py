"""Answer texts become values: what fits, what does not and why, what each column holds."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any, Literal

import parse
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Json, field_serializer, field_validator

from batch_magic.answers import Misfit, Reader, pattern_fields, reader_of, remember
from batch_magic.errors import CellError
from batch_magic.frame import typed_column
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


@pytest.mark.parametrize(
    "text",
    [
        '{"name":"A","parent":{"name":"B"}',
        '{"person":{"name":"B"},',
        'Example {"name":"..."} and mine: {"name":"B"',
        '{"name":"A"} or {"name":"B"',
        '```json\n{"name":"A"}\n``` and {"name":"B"}',
        '```\n{"name":"A"}\n```\n```\n{"name":"B"}\n```',
        '{parent: {"name":"B"}}',
        '{\'parent\': {"name":"B"}}',
        '{// c\n"x": {"name":"B"}}',
        '{1: {"name":"B"}}',
        "{" + " " * 80 + '"parent": {"name":"B"}',
        'Answer: [{"name":"A"}]',
        "{" * 200_000,
        "{ x " * 100_000,
        '{"' * 100_000,
    ],
)
def test_what_is_broken_or_twofold_is_not_guessed_at(text: str) -> None:
    """A part of a broken answer, or one of two, would pass for the answer."""
    reader = Reader(Shape(schema=inline_schema("name: str")))
    assert reader.misfits([text])[0] is not None
    assert reader.values([text]) == [[None]]


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"name":"A"}\n```',
        'Here, {you}: {"name":"A"}. Fine?',
        '```{"name":"A"}```',
        '```json {"name":"A"}```',
        '```json\n{"name":"A"}\n```\n\n`name` is ```code```.',
        'set {"a","b"} is {"name":"A"}',
        'if (x) { "s"; } then {"name":"A"}, and {} else',
        '```json\n{"name":"A"}',
    ],
)
def test_one_whole_object_is_found(text: str) -> None:
    """Fences with and without a language, prose with braces of its own."""
    reader = Reader(Shape(schema=inline_schema("name: str")))
    assert reader.values([text]) == [["A"]]
    assert reader.unwrapped == 1


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("{a} {b} {c}!", "word " * 20_000),
        ("{a}, {b}, {c}, {d}.", "word, " * 20_000),
        ("{a} {b} {n:d}", "word " * 20_000),
        ("{a:w} {b:w} {c:w} {d:w}!", "word " * 20_000),
    ],
)
def test_a_long_misfit_is_told_at_once(pattern: str, text: str) -> None:
    """A regular expression would try for hours, and hold the kernel."""
    assert Reader(Shape(pattern=pattern)).misfits([text])[0] is not None


def test_blanks_without_end_are_no_fence() -> None:
    """Models in JSON mode do that; it must not take the square of their number."""
    reader = Reader(Shape(schema=inline_schema("name: str")))
    assert reader.misfits(["```json\n" + " " * 1_000_000])[0] is not None


_WORDS = st.sampled_from(["a", "B", " ", ", ", "x|", "{", "ß", "\n", "|"])


@given(
    st.lists(st.tuples(_WORDS, st.sampled_from(["", "d", "w"])), min_size=1, max_size=4),
    _WORDS,
    st.lists(_WORDS | st.integers(0, 99).map(str), max_size=9).map("".join),
)
def test_the_quick_look_never_overlooks_a_fit(
    parts: list[tuple[str, str]], last: str, text: str
) -> None:
    """It may let a misfit through, but what the pattern fits it must not turn away."""
    literals = [word.replace("{", "{{") for word, _ in parts]
    fields = [f"{{f{n}{':' + spec if spec else ''}}}" for n, (_, spec) in enumerate(parts)]
    pattern = "".join(a + b for a, b in zip(literals, fields, strict=True)) + last.replace(
        "{", "{{"
    )
    by_itself = parse.compile(pattern).parse(text.strip())
    fits = Reader(Shape(pattern=pattern)).misfits([text])[0] is None
    assert fits == (by_itself is not None)


@given(
    st.lists(
        st.sampled_from(['{"n":1}', ' {"n":2}', '{"n":3}\n', '{"n":', "4}", '{"n":[{}', "x", None])
    )
)
def test_texts_read_at_once_are_read_as_one_by_one(texts: list[str | None]) -> None:
    """Joined texts must not run into each other: that would move answers."""
    reader = Reader(Shape(schema=inline_schema("n: int")))
    one_by_one = [reader.values([text])[0][0] for text in texts]
    assert reader.values(texts)[0] == one_by_one
    assert [said is None for said in reader.misfits(texts)] == [
        text is None or value is not None for text, value in zip(texts, one_by_one, strict=True)
    ]


@pytest.mark.parametrize(
    ("pattern", "text", "values"),
    [
        (
            "name={n}; age={a:d}; city={c}; job={j}; score={s:f}",
            "name=Anna Schmidt; age=34; city=Hamburg-Altona; job=engineer; score=0.75",
            ["Anna Schmidt", 34, "Hamburg-Altona", "engineer", 0.75],
        ),
        (
            "Title: {t}\nBody: {b}\nScore: {s:d}",
            "Title: A\nBody: " + "w " * 900 + "\nScore: 4",
            None,
        ),
        ("{d:%Y-%m-%d}", "2024-01-02", [datetime.date(2024, 1, 2)]),
        ("{d:%Y-%m-%d %H:%M}", "2024-01-02 10:21", [datetime.datetime(2024, 1, 2, 10, 21)]),
        ("{d:%H:%M}", "10:21", ["10:21:00"]),
        ("{v:F}", "1.5", [1.5]),
    ],
)
def test_typed_fields_come_in_the_kind_of_their_column(
    pattern: str, text: str, values: list[Any] | None
) -> None:
    """Dates as `strptime` has them and decimals too; long answers are no misfits for that."""
    reader = Reader(Shape(pattern=pattern))
    assert reader.misfits([text]) == [None]
    found = [column[0] for column in reader.values([text])]
    assert values is None or found == values
    for column, value in zip(reader.columns, found, strict=True):
        typed_column(column.kind, [value, None], column.choices)


class Priced(BaseModel):
    price: Decimal
    name: str

    @field_validator("name")
    @classmethod
    def loud(cls, value: str) -> str:
        return value.upper()


class Boxed(BaseModel):
    j: Json[list[int]]


class Hashed(BaseModel):
    a: int

    @field_serializer("a")
    def s(self, value: int):  # type: ignore[no-untyped-def]
        if value == 5:
            raise KeyError(value)
        return f"#{value}"


def test_a_model_is_asked_and_its_answers_keep_their_types() -> None:
    """Its validators may change a value; how it writes itself is another matter."""
    shape = Shape(schema=json_schema_of(Priced, "Priced"))
    reader = Reader(shape, Priced)
    texts = ['{"price": "1.5", "name": "a"}', '{"price": 2, "name": "b"}'] * 80
    assert reader.misfits(texts) == [None] * 160
    assert reader.values(texts)[1] == ["A", "B"] * 80
    reader = Reader(Shape(schema=json_schema_of(Boxed, "Boxed")), Boxed)
    assert reader.misfits(['{"j": "no"}', '{"j": "[1]"}'])[0].startswith("j: Invalid JSON")
    reader = Reader(Shape(schema=json_schema_of(Hashed, "Hashed")), Hashed)
    assert reader.values([f'{{"a": {n}}}' for n in range(7)]) == [list(range(7))]
