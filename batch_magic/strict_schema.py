"""What an answer must look like, as the JSON Schema that strict mode takes.

It knows Pydantic models, TypedDicts, dataclasses, JSON Schema dicts and a line such as
`label: good|bad, score: float 0..1, tags: list[str], note: str?`, and the rules of strict mode
(https://developers.openai.com/api/docs/guides/structured-outputs, Supported schemas). It refuses
to know answers. What strict mode demands is put in; what it cannot say is refused with the part's
name; what it does not know but we can check (lengths, uniqueness) is left out of what is sent. The
trap: a schema that a library finds valid fails a whole job after minutes of validation.
"""

from __future__ import annotations

import copy
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import typing_extensions

from batch_magic.errors import CellError

_MOST_PROPERTIES = 5_000
_DEEPEST = 10
_MOST_NAME_CHARS = 120_000
_MOST_ENUM_VALUES = 1_000
_LONG_ENUM, _LONG_ENUM_CHARS = 250, 15_000

_CANNOT = {
    "oneOf": "is a union told apart by a discriminator (oneOf); write a plain union (anyOf)",
    "allOf": "combines schemas (allOf); write one object with all the fields",
    "not": "says what must not be (not); check it afterwards",
    "if": "is conditional (if); write a union (anyOf)",
    "patternProperties": "has fields of any name; write a list of objects with a name and a value",
    "prefixItems": "is a tuple; write an object with a field for each place",
    "dependentRequired": "makes fields depend on others; write a union (anyOf)",
    "dependentSchemas": "makes fields depend on others; write a union (anyOf)",
}
_OURS_TO_CHECK = ("minLength", "maxLength", "uniqueItems", "minProperties", "maxProperties")
_TOLD = ("title", "examples", "deprecated", "readOnly", "$schema", "$id", "$comment")
_CONTENT = ("contentMediaType", "contentEncoding", "contentSchema")
_NOT_SENT = (*_OURS_TO_CHECK, *_TOLD, *_CONTENT, "discriminator")
_SENT = frozenset(
    {"type", "description", "properties", "required", "additionalProperties", "items", "enum"}
    | {"const", "anyOf", "$ref", "$defs", "definitions", "pattern", "format", "multipleOf"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"}
)
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
_KINDS = ("object", "array", "string", "number", "integer", "boolean", "null")
_BOUNDS = (
    ("minimum", "maximum"),
    ("exclusiveMinimum", "exclusiveMaximum"),
    ("minItems", "maxItems"),
)


def json_schema_of(given: object, name: str) -> dict[str, Any]:
    """Return the JSON Schema of what was given for `--schema`, as it was meant.

    `given` is a Pydantic model, TypedDict, dataclass, JSON Schema dict or an inline text; `name` is
    what the user called it. Raises CellError for anything else.
    """
    if isinstance(given, str):
        return inline_schema(given)
    if isinstance(given, Mapping):
        return copy.deepcopy(dict(given))
    if isinstance(given, type) and is_model(given):
        return _schema_by_pydantic(given, name)
    raise CellError(
        f"--schema {name}: a {type(given).__name__} is no schema; give a Pydantic model, a"
        " TypedDict, a dataclass, a JSON Schema dict, or a line: 'label: good|bad, score: float'"
    )


def as_pydantic_takes_it(given: object) -> object:
    """Return the same class; a `typing.TypedDict` as that of typing_extensions before Python 3.12.

    Pydantic cannot tell there which fields of the former are required.
    """
    is_old = sys.version_info < (3, 12) and type(given).__module__ == "typing"
    return _extended(given) if is_old and isinstance(given, type) and is_model(given) else given


def _extended(given: Any) -> Any:
    if type(given).__module__ == "typing" and isinstance(given, type) and is_model(given):
        hints = get_type_hints(given, include_extras=True)
        fields = {name: _extended(kind) for name, kind in hints.items()}
        return typing_extensions.TypedDict(given.__name__, fields, total=given.__total__)  # type: ignore[operator,attr-defined]
    origin, parts = get_origin(given), get_args(given)
    if origin in (Union, types.UnionType):
        return Union.__getitem__(tuple(map(_extended, parts)))
    if origin is list:
        return list.__class_getitem__(_extended(parts[0]))
    return given


def is_model(given: object) -> bool:
    """Tell whether it is a class that Pydantic can validate: a model, TypedDict or dataclass."""
    if not isinstance(given, type):
        return False
    is_typed_dict = issubclass(given, dict) and hasattr(given, "__total__")
    return is_typed_dict or is_dataclass(given) or hasattr(given, "model_json_schema")


def _schema_by_pydantic(given: type, name: str) -> dict[str, Any]:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        return TypeAdapter(given).json_schema()
    except (PydanticUserError, TypeError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise CellError(
            f"--schema {name} cannot be written as JSON Schema: {said}; make it simpler"
        ) from None


# -- strict mode ----------------------------------------------------------------------------


def strict(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the schema as strict mode takes it.

    Objects are closed and all their fields required, as strict mode demands. Raises CellError that
    names the part which strict mode cannot say, and how to write it.
    """
    found = copy.deepcopy(dict(schema))
    _check_root(found, name)
    _Strict(copy.deepcopy(found), name).tighten(found, (), ())
    _check_sizes(found, name)
    return found


def _check_root(schema: dict[str, Any], name: str) -> None:
    seen: list[object] = []
    while "$ref" in schema:
        seen.append(_known(schema["$ref"], seen, name))
        target = _target(schema, schema["$ref"], name)
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema.clear()
        schema.update({**copy.deepcopy(target), **rest})
    if schema.get("type") != "object" or "anyOf" in schema:
        raise CellError(
            f"--schema {name}: an answer must be an object, not {_kind(schema)}; put it into a"
            " field: 'items: list[…]'"
        )


def _kind(schema: Mapping[str, Any]) -> str:
    return "a union" if "anyOf" in schema else f"{schema.get('type', 'of any type')}"


def _known(ref: object, seen: list[object], name: str) -> object:
    if ref in seen:
        raise CellError(
            f"--schema {name}: {str(ref)[:80]!r} refers to nothing but itself; write it out"
        )
    return ref


def _target(root: Mapping[str, Any], ref: object, name: str) -> dict[str, Any]:
    at: Any = root
    for step in str(ref).removeprefix("#").split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        at = at.get(step) if isinstance(at, Mapping) else None
    if not isinstance(ref, str) or not ref.startswith("#") or not isinstance(at, Mapping):
        raise CellError(f"--schema {name}: nothing is at {str(ref)[:80]!r}; mend the $ref")
    return dict(at)


class _Strict:
    """Brings a schema into the form that strict mode demands, part by part."""

    def __init__(self, root: dict[str, Any], name: str) -> None:
        self._root, self._name = root, name

    def tighten(
        self, schema: dict[str, Any], path: tuple[str, ...], within: tuple[str, ...]
    ) -> None:
        """Tighten one part and all within it; `within` are the references that lead to it."""
        where = f"--schema {self._name}: {_words(path)}"
        within = self._follow(schema, within)
        one = schema.get("allOf")
        if isinstance(one, list) and len(one) == 1 and isinstance(one[0], dict):
            schema.update({**one[0], **{k: v for k, v in schema.items() if k != "allOf"}})
            del schema["allOf"]
            within = self._follow(schema, within)
        for key, why in _CANNOT.items():
            if key in schema:
                raise CellError(f"{where} {why}")
        _check_default(schema, where)
        for key in [key for key in schema if key in _NOT_SENT or str(key).startswith("x-")]:
            del schema[key]
        _check_words(schema, where)
        if "object" in _kinds(schema) or "properties" in schema:
            _close(schema, where)
        if "array" in _kinds(schema) and not isinstance(schema.get("items"), dict):
            raise CellError(f"{where} is a list of anything; say of what: list[str]")
        if not schema.keys() & {"type", "anyOf", "enum", "const", "$ref"}:
            raise CellError(f"{where} may be anything; give it a type")
        for step, part in _parts(schema):
            if not isinstance(part, dict):
                words = _words((*path, step))
                raise CellError(
                    f"--schema {self._name}: {words} is no schema: {part!r:.40}; write a dict"
                )
            self.tighten(part, (*path, step), within)

    def _follow(self, schema: dict[str, Any], within: tuple[str, ...]) -> tuple[str, ...]:
        """Put in the place of a reference what it leads to, where more is said beside it.

        Strict mode takes a reference alone; in a recursion what is said beside it is left out.
        """
        if "$ref" not in schema:
            return within
        ref, seen = schema["$ref"], list[object]()
        target = schema
        while "$ref" in target:
            seen.append(_known(target["$ref"], seen, self._name))
            target = _target(self._root, target["$ref"], self._name)
        rest = {key: value for key, value in schema.items() if key != "$ref" and key not in _TOLD}
        schema.clear()
        if not rest or ref in within or ref == "#":
            schema["$ref"] = ref
            return within
        schema.update({**copy.deepcopy(target), **rest})
        return (*within, ref)


def _check_default(schema: dict[str, Any], where: str) -> None:
    if "default" not in schema:
        return
    if schema["default"] is not None:
        raise CellError(
            f"{where} has a default ({schema['default']!r:.40}): strict mode asks for every"
            " field of every answer; take the default away"
        )
    del schema["default"]


def _kinds(schema: Mapping[str, Any]) -> list[Any]:
    kind = schema.get("type", [])
    return kind if isinstance(kind, list) else [kind]


def _check_words(schema: dict[str, Any], where: str) -> None:
    """Refuse what strict mode does not know; leave out the formats that it does not know."""
    if schema.get("writeOnly") or schema.get("format") == "password":
        raise CellError(f"{where} is a secret, which would come out as asterisks; make it a str")
    if unknown := sorted(str(key) for key in schema if key not in _SENT):
        raise CellError(
            f"{where} says {unknown[0]!r}, which strict mode does not know; leave it out"
        )
    if any(kind not in _KINDS for kind in _kinds(schema)):
        raise CellError(
            f"{where} is of no known type: {schema['type']!r:.40}; write one of JSON Schema's"
        )
    if schema.get("format") not in (None, *_FORMATS):
        del schema["format"]
    if "enum" in schema:
        _check_choices(schema["enum"], where)
    if "anyOf" in schema and (not isinstance(schema["anyOf"], list) or not schema["anyOf"]):
        raise CellError(f"{where} is a union of nothing; write anyOf: [{{…}}, {{…}}]")
    for least, most in _BOUNDS:
        low, high = schema.get(least), schema.get(most)
        if isinstance(low, (int, float)) and isinstance(high, (int, float)) and low > high:
            raise CellError(f"{where} goes from {low} to {high}; turn it round")
    if "integer" in _kinds(schema):
        for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
            if isinstance(schema.get(key), float) and not schema[key].is_integer():
                raise CellError(
                    f"{where} is a whole number, but its {key} is {schema[key]};"
                    " make that whole, too"
                )
    try:
        re.compile(schema.get("pattern", ""))
    except (re.error, TypeError) as error:
        # Letters by their class and groups by name are written otherwise in other dialects.
        if not re.search(r"\\[pP]\{|\(\?<[a-zA-Z]", str(schema["pattern"])):
            raise CellError(
                f"{where} has a pattern that cannot be read: {error}; mend it"
            ) from None


def _check_choices(choices: object, where: str) -> None:
    if not isinstance(choices, list) or not choices:
        raise CellError(f"{where} is a choice of nothing; write enum: ['a', 'b']")
    if len({(type(one), str(one)) for one in choices}) < len(choices):
        raise CellError(f"{where} has the same choice twice; leave one out")


def _close(schema: dict[str, Any], where: str) -> None:
    properties = schema.get("properties")
    is_open = schema.get("additionalProperties", False) is not False
    if properties == {} and not is_open:
        raise CellError(f"{where} has no fields; give it one")
    if is_open or not isinstance(properties, dict) or not properties:
        raise CellError(
            f"{where} is an open dict: strict mode knows named fields alone; write a list of"
            " objects with a key and a value"
        )
    if any(not isinstance(key, str) for key in properties):
        raise CellError(f"{where} has a field whose name is no text; name it by a string")
    schema["additionalProperties"] = False
    schema["required"] = list(properties)


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for group in ("properties", "$defs", "definitions"):
        named = schema.get(group)
        if isinstance(named, Mapping):
            yield from named.items()
    if "items" in schema:
        yield "[]", schema["items"]
    any_of = schema.get("anyOf")
    if isinstance(any_of, list):
        yield from (("", part) for part in any_of)


def _words(path: tuple[str, ...]) -> str:
    steps = [" ".join(str(step).split()) for step in path]
    text = "".join(step if step == "[]" else f".{step}" for step in steps if step).strip(".")
    return f"field {text!r}" if text else "it"


def _check_sizes(schema: Mapping[str, Any], name: str) -> None:
    parts = list(_all_parts(schema, 0))
    properties = [key for part, _ in parts for key in part.get("properties", {})]
    enums = [part["enum"] for part, _ in parts if isinstance(part.get("enum"), list)]
    values = [value for enum in enums for value in enum]
    consts = [part["const"] for part, _ in parts if "const" in part]
    deepest = max(depth for _, depth in parts)
    chars = sum(len(str(text)) for text in (*properties, *values, *consts))
    longest = max((sum(map(len, map(str, e))) for e in enums if len(e) > _LONG_ENUM), default=0)
    for found, most, what in (
        (len(properties), _MOST_PROPERTIES, "fields"),
        (deepest, _DEEPEST, "levels of objects within objects"),
        (len(values), _MOST_ENUM_VALUES, "values to choose from"),
        (chars, _MOST_NAME_CHARS, "characters in names and values"),
        (longest, _LONG_ENUM_CHARS, f"characters in one choice of over {_LONG_ENUM} values"),
    ):
        if found > most:
            raise CellError(
                f"--schema {name} has {found:,} {what}; strict mode takes {most:,}: use fewer"
            )


def _all_parts(schema: Mapping[str, Any], depth: int) -> Iterator[tuple[Mapping[str, Any], int]]:
    inner = depth + ("properties" in schema)
    yield schema, inner
    for _, part in _parts(schema):
        yield from _all_parts(part, inner)


# -- a line ---------------------------------------------------------------------------------

_FIELD = re.compile(r"\s*([^:]+?)\s*:\s*(.+?)\s*")
_LIST = re.compile(r"list\[(.+)\]")
_RANGE = re.compile(r"(int|integer|float|number)\s+(-?[\d.]+)\s*\.\.\s*(-?[\d.]+)")
_TYPES: Mapping[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "string": {"type": "string"},
    "text": {"type": "string"},
    "int": {"type": "integer"},
    "integer": {"type": "integer"},
    "float": {"type": "number"},
    "number": {"type": "number"},
    "bool": {"type": "boolean"},
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "datetime": {"type": "string", "format": "date-time"},
}


def inline_schema(text: str) -> dict[str, Any]:
    """Read `label: good|bad, score: float 0..1, tags: list[str], note: str?` as JSON Schema.

    Raises CellError that names the field which cannot be read.
    """
    properties: dict[str, Any] = {}
    for field in _split(text, ","):
        found = _FIELD.fullmatch(field)
        if found is None and ":" not in text:
            raise CellError(
                f"--schema: {text.strip()!r} is no class or dict of the notebook and no line of"
                " fields; write one such as 'label: good|bad, score: float'"
            )
        if found is None:
            raise CellError(f"--schema: {field.strip()!r} is no field; write name: type")
        name, kind = _unquoted(found[1]), found[2]
        if name in properties:
            raise CellError(f"--schema: field {name!r} is there twice; leave one out")
        properties[name] = _type_of(kind, name)
    if not properties:
        raise CellError("--schema is empty; write fields: 'label: good|bad, score: float'")
    return {"type": "object", "properties": properties, "required": list(properties)}


def _type_of(text: str, name: str) -> dict[str, Any]:
    text = text.strip()
    if text.endswith("?"):
        return {"anyOf": [_type_of(text[:-1], name), {"type": "null"}]}
    if found := _LIST.fullmatch(text):
        return {"type": "array", "items": _type_of(found[1], name)}
    if found := _RANGE.fullmatch(text):
        least, most = (_number(part, name) for part in (found[2], found[3]))
        if found[1] in ("int", "integer") and isinstance(least + most, float):
            raise CellError(f"--schema: field {name!r} is a whole number; make its range so, too")
        if least > most:
            raise CellError(f"--schema: field {name!r} goes from {least} to {most}; turn it round")
        return {**_TYPES[found[1]], "minimum": least, "maximum": most}
    if "|" in text:
        values = [_unquoted(part) for part in _split(text, "|")]
        if "" in values or len(set(values)) < len(values):
            raise CellError(
                f"--schema: field {name!r} has an empty or repeated choice: {text}; take it away"
            )
        return {"type": "string", "enum": values}
    if text in _TYPES:
        return dict(_TYPES[text])
    known = "str, int, float, bool, date, datetime, list[…], a|b|c, float 0..1"
    raise CellError(f"--schema: field {name!r} is of no known type {text!r}; there are {known}")


def _number(text: str, name: str) -> float:
    read: Callable[[str], float] = float if "." in text else int
    try:
        return read(text)
    except ValueError:
        raise CellError(
            f"--schema: field {name!r}: {text!r} is no number; write a range like 0..1"
        ) from None


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] in "'\"" and text[0] == text[-1] else text


def _split(text: str, at: str) -> list[str]:
    """Split outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        depth += (char == "[") - (char == "]") if not quote else 0
        if char == at and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += char
    return [part for part in parts if part.strip()] if at == "," else parts
