"""Schemas as strict mode takes them: what is put in, what is left out, what is refused and how."""

from __future__ import annotations

import dataclasses
import re
from enum import Enum
from typing import Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from batch_magic.errors import CellError
from batch_magic.strict_schema import inline_schema, json_schema_of, strict


class Point(BaseModel):
    x: int
    y: float | None = None


class Tree(BaseModel):
    name: str
    below: list[Tree]


class Label(BaseModel):
    label: Literal["good", "bad"]
    score: float = Field(ge=0, le=1)
    title: str = Field(min_length=2, description="a title")
    at: Point


class Typed(TypedDict):
    label: str
    n: int


@dataclasses.dataclass
class Data:
    label: str
    n: int | None


def sent(given: object) -> dict[str, Any]:
    return strict(json_schema_of(given, "Label"), "Label")


def objects(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [one for part in schema for one in objects(part)]
    if not isinstance(schema, dict):
        return []
    inside = [one for part in schema.values() for one in objects(part)]
    return [*([schema] if schema.get("type") == "object" else []), *inside]


@pytest.mark.parametrize("given", [Label, Typed, Data, Tree, inline_schema("a: str, b: int?")])
def test_every_object_is_closed_and_all_its_fields_are_asked_for(given: object) -> None:
    """Strict mode refuses any other, minutes after the upload."""
    for one in objects(sent(given)):
        assert one["additionalProperties"] is False
        assert one["required"] == list(one["properties"])


def test_what_the_service_does_not_know_is_not_sent() -> None:
    """Lengths and titles are checked here, or are for people; what it knows goes out."""
    found = sent(Label)
    assert "minLength" not in str(found)
    assert "'title': 'Label'" not in str(found)
    assert found["properties"]["title"] == {"type": "string", "description": "a title"}
    assert found["properties"]["score"] == {"type": "number", "minimum": 0, "maximum": 1}


def test_a_line_of_fields_is_a_schema() -> None:
    """The quickest way to say what is wanted."""
    text = "label: good|'very bad', score: float 0..1, tags: list[a|b], note: str?, 'a b': int"
    assert inline_schema(text)["properties"] == {
        "label": {"type": "string", "enum": ["good", "very bad"]},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "a b": {"type": "integer"},
    }
    assert inline_schema("d: date")["properties"]["d"] == {"type": "string", "format": "date"}


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Half(BaseModel):
    n: float = 0.5


class Colour(Enum):
    RED = "red"


MANY = [str(n) for n in range(5001)]
REFUSED = {
    "open dict": (dict[str, int], "is an open dict"),
    "any dict": (dict, "is an open dict"),
    "anything": (Any, "may be anything"),
    "tuple": (tuple[int, str], "is a tuple"),
}


@pytest.mark.parametrize(("kind", "said"), REFUSED.values(), ids=REFUSED)
def test_what_strict_mode_cannot_say_is_refused_by_its_name(kind: Any, said: str) -> None:
    """Before anything is sent, with the field that is meant."""
    model = type("Bad", (BaseModel,), {"__annotations__": {"ok": int, "part": kind}})
    with pytest.raises(CellError, match=f"--schema Label: field 'part' {said}"):
        sent(model)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            type("D", (BaseModel,), {"__annotations__": {"n": float}, "n": 0.5}),
            r"'n' has a default",
        ),
        ({"type": "array", "items": {"type": "string"}}, "must be an object, not array"),
        ({"anyOf": [{"type": "object"}]}, "must be an object, not a union"),
        ({"type": "object", "properties": {}}, "it has no fields"),
        ({"type": "object", "properties": {"a": {"oneOf": []}}}, "'a' is a union told apart"),
        ({"type": "object", "properties": {"b": 1}}, "is no schema: 1"),
        ({"type": "object", "properties": {"a": {"$ref": "#/no"}}}, "nothing is at '#/no'"),
        (
            {"type": "object", "properties": {str(n): {"type": "null"} for n in range(5001)}},
            "5,001",
        ),
        ({"type": "object", "properties": {"a": {"enum": list(range(1001))}}}, "1,001 values"),
        (5, "a int is no schema"),
        (Colour, "a EnumType is no schema"),
    ],
)
def test_other_schemas_are_refused_in_one_line(given: object, said: str) -> None:
    """Each with what to write instead."""
    with pytest.raises(CellError, match=said) as caught:
        sent(given)
    assert "\n" not in str(caught.value)


def test_a_discriminated_union_is_refused_and_a_plain_one_is_sent() -> None:
    """The one is oneOf, the other anyOf."""
    told = type(
        "Told",
        (BaseModel,),
        {"__annotations__": {"pet": Cat | Dog}, "pet": Field(discriminator="kind")},
    )
    with pytest.raises(CellError, match="'pet' is a union told apart by a discriminator"):
        sent(told)
    plain = type("Plain", (BaseModel,), {"__annotations__": {"pet": Cat | Dog}})
    assert len(sent(plain)["properties"]["pet"]["anyOf"]) == 2


def test_objects_too_deep_are_refused() -> None:
    """The service takes ten levels."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(11):
        schema = {"type": "object", "properties": {"a": schema}}
    with pytest.raises(CellError, match="11 levels of objects"):
        sent(schema)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a", "'a' is no class or dict of the notebook and no line of fields"),
        ("a: int, b", "'b' is no field; write name: type"),
        ("a: int 1.5..2", "is a whole number; make its range so, too"),
        ("a: b", "of no known type 'b'"),
        ("a: x|", "an empty or repeated choice"),
        ("a: x|x", "an empty or repeated choice"),
        ("a: int 3..1", "turn it round"),
        ("a: int 1..2.3.4", "is no number"),
        ("a: int, a: str", "is there twice"),
        ("a: list[foo]", "of no known type 'foo'"),
    ],
)
def test_a_line_that_cannot_be_read_names_its_field(text: str, said: str) -> None:
    """A slip of the pen costs a second, not a job."""
    with pytest.raises(CellError, match=f"--schema.*{said}".replace("|", r"\|")):
        inline_schema(text)


def test_an_optional_field_stays_optional_to_us_and_is_asked_for() -> None:
    """`Optional` with a default of None: strict mode asks for it, and null is an answer."""

    class Maybe(BaseModel):
        n: Optional[int] = None  # noqa: UP045  (as people write it)

    assert sent(Maybe)["required"] == ["n"]
    assert "default" not in str(sent(Maybe))


def object_of(**properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties}


CIRCLE = {"A": {"$ref": "#/$defs/A"}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"$ref": "#/$defs/A", "$defs": CIRCLE}, "refers to nothing but itself"),
        ({**object_of(a={"$ref": "#/$defs/A"}), "$defs": CIRCLE}, "refers to nothing but itself"),
        ({"$ref": "#"}, "refers to nothing but itself"),
        (object_of(a={"$ref": "https://a.org/b"}), "nothing is at 'https://a.org/b'"),
        (object_of(a={"$ref": ["x"]}), "nothing is at"),
        (object_of(a={"enum": ["a", "a"]}), "the same choice twice"),
        (object_of(a={"enum": "abc"}), "a choice of nothing"),
        (object_of(a={"anyOf": "x"}), "a union of nothing"),
        (object_of(a={"type": ["array", "null"]}), "a list of anything"),
        (object_of(a={"type": ["object", "null"]}), "an open dict"),
        (object_of(a={"type": "foo"}), "of no known type: 'foo'"),
        (object_of(a={"type": 5}), "of no known type: 5"),
        (object_of(a={"type": "string", "contains": {}}), "says 'contains'"),
        (object_of(a={"type": "integer", "minimum": 5, "maximum": 1}), "turn it round"),
        (object_of(a={"type": "integer", "minimum": 0.5}), "its minimum is 0.5"),
        (object_of(a={"type": "string", "pattern": "("}), "a pattern that cannot be read"),
        (object_of(a={"type": "string", "writeOnly": True}), "is a secret"),
        ({"type": "object", "properties": {5: {"type": "string"}}}, "whose name is no text"),
        (object_of(**{"a\nb": {}}), "field 'a b' may be anything"),
    ],
)
def test_what_no_service_would_take_is_refused_before(given: dict[str, object], said: str) -> None:
    """Each of these failed a whole job, or hung, or came as a traceback."""
    with pytest.raises(CellError, match=re.escape(said)) as caught:
        strict(given, "Label")
    assert "\n" not in str(caught.value)


def test_a_reference_stands_alone() -> None:
    """Strict mode takes no word beside it: what it leads to is put in its place, once."""
    given = {
        **object_of(a={"$ref": "#/$defs/N", "description": "first"}, b={"$ref": "#/$defs/N"}),
        "$defs": {"N": object_of(kid={"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]})},
    }
    found = strict(given, "Label")
    assert found["properties"]["a"]["description"] == "first"
    assert "$ref" not in found["properties"]["a"]
    assert found["properties"]["b"] == {"$ref": "#/$defs/N"}
    whole = strict(object_of(a={"type": "array", "items": {"$ref": "#", "title": "x"}}), "Label")
    assert whole["properties"]["a"]["items"] == {"$ref": "#"}


def test_a_format_that_strict_mode_does_not_know_is_left_out() -> None:
    """A text is a text; we do not look at it either."""
    found = strict(object_of(a={"type": "string", "format": "uri"}), "Label")
    assert found["properties"]["a"] == {"type": "string"}
