"""Answers become values: JSON by a schema, or text by a pattern, to one column per field.

It knows whether a text fits what was asked for, and what type each column has; it refuses to know
files, jobs and frames. JSON is decoded as typed structs that are made from the schema; a user's own
Pydantic model has its say before. The trap: a model wraps its JSON in code fences or in prose, and
that is read; two JSON values in one text are a misfit, for nobody knows which was meant.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from threading import Lock
from typing import Annotated, Any, Literal, Union

import msgspec

from batch_magic.errors import CellError
from batch_magic.records import Column, Kind, Shape

_BLOCK_ROWS = 100  # with a user's model more would wake the garbage collector
_making = Lock()
_models: dict[str, type] = {}  # the user's own classes that this process was given, by their schema


def remember(shape: Shape, model: type) -> None:
    """Let answers of this shape be judged by the user's own class as well, in this process."""
    _models[json.dumps(shape.schema, sort_keys=True)] = model


def knows_rules(shape: Shape) -> bool:
    """Tell whether this process has the class that a shape was made of, if it was."""
    return not shape.has_rules or json.dumps(shape.schema, sort_keys=True) in _models


def reader_of(shape: Shape) -> Reader:
    """Return a reader of a shape, with the user's own class where this process was given it."""
    return Reader(shape, _models.get(json.dumps(shape.schema, sort_keys=True)))


class Misfit(ValueError):  # noqa: N818  (the word for such an answer)
    """A text that is not what was asked for; says why."""


class Reader:
    """Reads answers of one shape. `model` is the user's own class, where this process has it.

    Raises CellError for a shape that cannot be read by.
    """

    def __init__(self, shape: Shape, model: type | None = None) -> None:
        with _making:  # two jobs may be read at once, and types are not made so: see `result_lines`
            if shape.pattern is not None:
                self._way: _BySchema | _ByPattern = _ByPattern(shape.pattern, shape.prefix)
            else:
                self._way = _BySchema(shape, model)
        self.columns = self._way.columns

    @property
    def unwrapped(self) -> int:
        """How many answers had fences or prose around their JSON."""
        return self._way.unwrapped

    def misfits(self, texts: Sequence[str | None]) -> list[str | None]:
        """Return for each text why it does not fit; None where it does, or is None."""
        blocks = (texts[at : at + _BLOCK_ROWS] for at in range(0, len(texts), _BLOCK_ROWS))
        return [said for block in blocks for said in self._misfits(block)]

    def _misfits(self, texts: Sequence[str | None]) -> list[str | None]:
        some = [text for text in texts if text is not None]
        if self._way.at_once(some) is not None:
            return [None] * len(texts)
        return [None if text is None else self._misfit(text) for text in texts]

    def _misfit(self, text: str) -> str | None:
        try:
            self._way.row(text)
        except Misfit as error:
            return str(error)
        return None

    def values(self, texts: Sequence[str | bytes | None]) -> list[list[Any]]:
        """Return the values of each column: a list a column, None where a text does not fit."""
        found: list[list[Any]] = [[] for _ in self.columns]
        for at in range(0, len(texts), _BLOCK_ROWS):
            rows = self._way.rows(texts[at : at + _BLOCK_ROWS])
            for values, column in zip(found, self.columns, strict=True):
                values += self._way.column(rows, column)
        return found


# -- by a schema ----------------------------------------------------------------------------


class _BySchema:
    def __init__(self, shape: Shape, model: type | None) -> None:
        schema = shape.schema or {}
        self.columns = tuple(_columns_of(schema, shape))
        self.unwrapped = 0
        answer = _Types(schema).of(schema)
        self._lines = msgspec.json.Decoder(answer).decode_lines
        self._list = msgspec.json.Decoder(list[answer]).decode  # type: ignore[valid-type]
        self._decode = msgspec.json.Decoder(answer).decode
        self._nothing = answer(*[None] * len(answer.__struct_fields__))  # stands for a misfit
        self._judged = None if model is None else _Judge(model)

    def rows(self, texts: Sequence[str | bytes | None]) -> list[Any]:
        """Read a block of texts, at once where all are plain and fit."""
        some = [text for text in texts if text is not None] if None in texts else texts
        rows = self.at_once(some)
        if rows is None:
            return [self._row_or_nothing(text) for text in texts]
        if len(some) == len(texts):
            return rows
        found = iter(rows)
        return [self._nothing if text is None else next(found) for text in texts]

    def at_once(self, texts: Sequence[Any]) -> list[Any] | None:
        """Read texts that are one plain object each, joined by line ends; None if any is not.

        No text can run on into the next: it ends with a brace and the next begins with one, which
        is JSON nowhere, and a line end within a string is none either. So as many values as there
        are texts are one of each.
        """
        try:
            data: bytes = (
                b"\n".join(texts) if type(texts[0]) is bytes else "\n".join(texts).encode()
            )
        except (LookupError, TypeError, UnicodeEncodeError):
            return None
        ends = len(texts) - 1
        is_apart = data.count(b"\n") == ends and data.count(b"}\n{") == ends
        if not is_apart or not data.startswith(b"{") or not data.endswith(b"}"):
            return None
        try:
            if self._judged is None:
                rows = self._lines(data)
            else:
                rows = self._list(self._judged.lines(data))
        except (msgspec.MsgspecError, Misfit, _NotJson, RecursionError, TypeError, ValueError):
            return None
        return rows if len(rows) == len(texts) else None

    def _row_or_nothing(self, text: str | bytes | None) -> Any:
        try:
            return self._nothing if text is None else self.row(text)
        except Misfit:
            return self._nothing

    def row(self, text: str | bytes) -> Any:
        """Read one text, out of fences and prose if need be. Raises Misfit."""
        try:
            return self._read(text)
        except _NotJson:
            inner = _whole_json(text if isinstance(text, str) else text.decode("utf-8", "replace"))
        try:
            found = self._read(inner)
        except _NotJson:
            raise Misfit("the answer is no JSON") from None
        self.unwrapped += 1
        return found

    def _read(self, text: str | bytes) -> Any:
        try:
            return self._decode(text) if self._judged is None else self._decode_judged(text)
        except msgspec.ValidationError as error:
            raise Misfit(_field_words(str(error))) from None
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise _NotJson from None

    def _decode_judged(self, text: str | bytes) -> Any:
        assert self._judged is not None
        written = self._judged(text)
        try:
            return self._decode(written)
        except msgspec.ValidationError:  # it writes itself in other types than it reads
            return self._decode(text)

    def column(self, rows: Sequence[Any], column: Column) -> list[Any]:
        """Return one column's values, None for rows that are nothing."""
        first, *below = column.path
        values = list(map(attrgetter(first), rows))
        for step in below:
            values = [None if one is None else getattr(one, step) for one in values]
        if column.kind is not Kind.OBJECT or column.is_flat:
            return values
        return [_plain(one) for one in values]


_NESTED = (msgspec.Struct, list, dict)


def _plain(value: Any) -> Any:
    if isinstance(value, list) and not any(isinstance(one, _NESTED) for one in value):
        return value
    if isinstance(value, _NESTED):
        kept = (datetime.datetime, datetime.date)
        return msgspec.to_builtins(value, builtin_types=kept)
    return value


class _NotJson(Exception):  # noqa: N818  (a turn of the way, never shown)
    """The text as it stands is no JSON."""


class _Judge:
    """Has a user's own model judge texts, and writes what it makes of them.

    The text itself stands where a model writes other fields than it reads (aliases, fields that
    are excluded), or cannot be written.
    """

    def __init__(self, model: type) -> None:
        from pydantic import TypeAdapter

        self._one: Any = TypeAdapter(model)
        self._many: Any = TypeAdapter(list[model])  # type: ignore[valid-type]
        self._raw = msgspec.json.Decoder(msgspec.Raw).decode_lines
        read, written = (_fields_in(_schema_in(self._one, mode)) for mode in _MODES)
        self._writes = read == written

    def __call__(self, text: str | bytes) -> bytes | str:
        """Judge one text. Raises Misfit, _NotJson."""
        from pydantic import ValidationError

        try:
            found = self._one.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["type"] == "json_invalid" and not first["loc"]:
                raise _NotJson from None
            where = ".".join(map(str, first["loc"]))
            said = " ".join(str(first["msg"]).split())
            raise Misfit(f"{where}: {said}" if where else said) from None
        except Exception as error:  # a validator of the user's own
            said = " ".join(str(error).split())
            raise Misfit(f"its validator failed: {type(error).__name__}: {said}") from None
        return self._written(self._one, found) or text

    def lines(self, data: bytes) -> bytes:
        """Judge lines that are an object each, and write a list of what they are.

        Raises Misfit or ValueError if one is not, or does not fit.
        """
        if len(self._raw(data)) != data.count(b"\n") + 1:
            raise ValueError("a line holds several values")
        whole = b"[" + data.replace(b"\n", b",") + b"]"
        try:
            found = self._many.validate_json(whole)
        except Exception as error:
            raise ValueError("one does not fit") from error
        return self._written(self._many, found) or whole

    def _written(self, adapter: Any, found: Any) -> bytes | None:
        if not self._writes:
            return None
        try:
            written: bytes = adapter.dump_json(found, by_alias=True, warnings=False)
        except Exception:  # a serializer of the user's own
            return None
        return written


_MODES = ("validation", "serialization")


def _schema_in(adapter: Any, mode: str) -> Any:
    try:
        return adapter.json_schema(mode=mode)
    except Exception as error:  # a serializer of which nothing is known
        return {"properties": {f"{mode}: {error}": {}}}


def _fields_in(schema: Any) -> list[list[str]]:
    """Return the names of the fields of each object in a schema."""
    if isinstance(schema, list):
        return [fields for one in schema for fields in _fields_in(one)]
    if not isinstance(schema, Mapping):
        return []
    properties = schema.get("properties")
    mine = [sorted(properties)] if isinstance(properties, Mapping) else []
    return mine + [fields for one in schema.values() for fields in _fields_in(one)]


def _field_words(said: str) -> str:
    # msgspec: "Expected `int`, got `str` - at `$.score`"
    what, _, where = said.partition(" - at ")
    field = where.strip("`").removeprefix("$").removeprefix(".")
    what = what.replace("`", "").replace("Object missing required field", "there is no field")
    return f"{field}: {what}" if field else what


_START = re.compile(r'\{\s*["}]')
_MEMBER = re.compile(r'\{\s*"(?:[^"\\]|\\.)*"\s*:')
_MOST_FAILURES = 20


def _whole_json(text: str) -> str:
    """Return the one JSON object that stands in fences or prose. Raises Misfit.

    Not one within something else in braces or brackets, and none where another breaks off: a
    part of a broken answer would pass for the answer.
    """
    decoder, found, at, depth, failures = json.JSONDecoder(), list[str](), 0, 0, 0
    while (start := _START.search(text, at)) is not None:
        depth = _deeper(depth, text[at : start.start()])
        at = start.start() + 1
        try:
            value, end = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            failures += 1
            if _MEMBER.match(text, start.start()) or failures > _MOST_FAILURES:
                raise Misfit("the answer is no JSON") from None
            depth += 1  # a brace of the prose
            continue
        at = end
        if value and depth:
            raise Misfit("the answer is no JSON")
        found += [text[start.start() : end]] if value else []
    if len(found) == 1:
        return found[0]
    raise Misfit("the answer holds several JSON values" if found else "the answer is no JSON")


def _deeper(depth: int, prose: str) -> int:
    opened = prose.count("{") + prose.count("[") - prose.count("}") - prose.count("]")
    return max(0, depth + opened)


class _Types:
    """Types to decode by, made from a JSON Schema. What has none of its own is left open."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._inside: list[str] = []  # references that are being followed

    def of(self, schema: Mapping[str, Any]) -> Any:
        if "$ref" in schema:
            return self._referred(str(schema["$ref"]))
        if "const" in schema or "enum" in schema:
            return _literal(schema.get("enum", [schema.get("const")]))
        if "anyOf" in schema:
            return self._union([self.of(part) for part in schema["anyOf"]])
        kind = schema.get("type")
        if isinstance(kind, list):
            return self._union([self.of({**schema, "type": one}) for one in kind])
        match kind:
            case "object":
                return self._struct(schema)
            case "array":
                inner = self.of(schema.get("items", {}))
                return _limited(
                    list.__class_getitem__(inner),
                    schema,
                    min_length="minItems",
                    max_length="maxItems",
                )
            case "string":
                return _string(schema)
            case "integer":
                limits = {"minimum": -(2**63), "maximum": 2**63 - 1} | dict(schema)
                limits = {
                    name: int(one) if isinstance(one, float) and one.is_integer() else one
                    for name, one in limits.items()
                }
                return _limited(int, limits, **_NUMBERS)
            case "number":
                return _limited(float, schema, **_NUMBERS)
            case "boolean":
                return bool
            case "null":
                return None
        return Any

    def _referred(self, ref: str) -> Any:
        if ref in self._inside:
            return Any  # recursion: its inner levels are taken as they come
        self._inside.append(ref)
        try:
            return self.of(resolved(self._root, {"$ref": ref}))
        finally:
            self._inside.pop()

    def _struct(self, schema: Mapping[str, Any]) -> Any:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            return dict[str, Any]
        required = schema.get("required", [])
        fields: list[Any] = []
        for name, part in properties.items():
            kind = self.of(part)
            field = (_member(name), kind) if name in required else (_member(name), kind, None)
            fields.append(field)
        # A field with a default may not stand before one without.
        fields.sort(key=len)
        rename = {_member(name): name for name in properties}
        return msgspec.defstruct("Answer", fields, rename=rename, gc=False)

    @staticmethod
    def _union(types: list[Any]) -> Any:
        union: Any = Union.__getitem__(tuple(types))
        try:
            msgspec.json.Decoder(union)
        except TypeError:
            return Any  # two kinds of objects: told apart by nothing that we know
        return union


_NUMBERS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
}


def _member(name: str) -> str:
    """Return an attribute's name for a field that may be called anything."""
    return f"m{name.encode().hex()}"


def _literal(values: Sequence[Any]) -> Any:
    if all(isinstance(one, (str, int)) or one is None for one in values) and not any(
        isinstance(one, bool) for one in values
    ):
        return Literal[tuple(values)]
    return Any


def _limited(kind: Any, schema: Mapping[str, Any], **names: str) -> Any:
    limits = {ours: schema[theirs] for ours, theirs in names.items() if theirs in schema}
    if {"ge", "gt"} <= limits.keys() or {"le", "lt"} <= limits.keys():
        limits = {key: value for key, value in limits.items() if key in ("gt", "lt")}
    return Annotated[kind, msgspec.Meta(**limits)] if limits else kind


def _string(schema: Mapping[str, Any]) -> Any:
    match schema.get("format"):
        case "date":
            return datetime.date
        case "date-time":
            return datetime.datetime
    names = {"min_length": "minLength", "max_length": "maxLength"}
    with contextlib.suppress(re.error):  # in a dialect that only the service reads
        re.compile(schema.get("pattern", ""))
        names["pattern"] = "pattern"
    return _limited(str, schema, **names)


def resolved(root: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a schema that a reference leads to; the part itself without one.

    References in a circle and into nothing are refused by `strict_schema` before.
    """
    while "$ref" in schema:
        at: Any = root
        for step in str(schema["$ref"]).removeprefix("#").split("/")[1:]:
            at = at[step.replace("~1", "/").replace("~0", "~")]
        schema = at
    return schema


def _columns_of(schema: Mapping[str, Any], shape: Shape) -> Iterator[Column]:
    for name, part in resolved(schema, schema).get("properties", {}).items():
        inner = resolved(schema, part)
        if shape.flatten and inner.get("type") == "object" and "properties" in inner:
            for below, one in inner["properties"].items():
                kind, choices = _kind(schema, one)
                path = (_member(name), _member(below))
                yield Column(f"{shape.prefix}{name}.{below}", kind, path, choices)
            continue
        kind, choices = _kind(schema, part)
        is_flat = _is_flat_list(schema, inner)
        yield Column(f"{shape.prefix}{name}", kind, (_member(name),), choices, is_flat)


def _is_flat_list(root: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    """Tell whether values are lists of texts, numbers or booleans, and nothing else."""
    items = resolved(root, part.get("items", {}))
    scalars = ("string", "integer", "number", "boolean")
    return part.get("type") == "array" and items.get("type") in scalars


def _kind(root: Mapping[str, Any], part: Mapping[str, Any]) -> tuple[Kind, tuple[Any, ...]]:
    part = resolved(root, part)
    some = [one for one in part.get("anyOf", []) if resolved(root, one).get("type") != "null"]
    if "anyOf" in part:
        return _kind(root, some[0]) if len(some) == 1 else (Kind.OBJECT, ())
    choices = part.get("enum", [part["const"]] if "const" in part else None)
    if choices is not None:
        known = tuple(one for one in choices if one is not None)
        is_plain = all(isinstance(one, str) for one in known) or all(
            isinstance(one, int) and not isinstance(one, bool) for one in known
        )
        return (Kind.CHOICE, known) if is_plain and known else (Kind.OBJECT, ())
    types = part.get("type")
    types = [one for one in types if one != "null"] if isinstance(types, list) else [types]
    if len(types) != 1:
        return Kind.OBJECT, ()
    by_format = {"date": Kind.DATE, "date-time": Kind.MOMENT}
    if types[0] == "string":
        return by_format.get(part.get("format", ""), Kind.TEXT), ()
    plain = {"integer": Kind.INTEGER, "number": Kind.NUMBER, "boolean": Kind.BOOLEAN}
    return plain.get(types[0], Kind.OBJECT), ()


# -- by a pattern ---------------------------------------------------------------------------

_PATTERN_KINDS = (
    ("dnboxX", Kind.INTEGER),
    ("eEfFgG%", Kind.NUMBER),
)


class _ByPattern:
    unwrapped = 0

    def at_once(self, texts: Sequence[Any]) -> None:
        """Texts are read one by one."""

    def __init__(self, pattern: str, prefix: str) -> None:
        import parse

        fields = pattern_fields(pattern)
        try:
            self._parse = parse.compile(pattern).parse
        except (ValueError, TypeError, NotImplementedError, re.error, KeyError) as error:
            raise CellError(
                f"--parse {pattern!r} cannot be read: {error}; {_PATTERN_CURE}"
            ) from None
        self.columns = tuple(Column(f"{prefix}{n}", kind, (n,)) for n, kind in fields.items())
        self._kinds = fields
        self._steps = list(_steps(pattern))
        self._typed = any(spec for _, _, spec, _ in string.Formatter().parse(pattern))

    def rows(self, texts: Sequence[str | bytes | None]) -> list[Any]:
        return [self._row_or_nothing(text) for text in texts]

    def _row_or_nothing(self, text: str | bytes | None) -> Mapping[str, Any]:
        try:
            return {} if text is None else self.row(text)
        except Misfit:
            return {}

    def row(self, text: str | bytes) -> Mapping[str, Any]:
        """Read one text. Raises Misfit."""
        text = text.decode("utf-8", "surrogatepass") if isinstance(text, bytes) else text
        text = text.strip()
        if not self._may_fit(text):
            raise Misfit("the answer does not fit the pattern")
        if self._typed and self._ways(text) > _MOST_WAYS:
            raise Misfit("the answer can be split in too many ways; put more words between fields")
        try:
            found = self._parse(text)
        except (ValueError, OverflowError, NotImplementedError) as error:
            raise Misfit(f"the answer does not fit the pattern: {error}") from None
        if found is None:
            raise Misfit("the answer does not fit the pattern")
        named: Mapping[str, Any] = found.named
        return {name: _of_kind(value, self._kinds[name]) for name, value in named.items()}

    def _ways(self, text: str) -> int:
        """Return about how often a regular expression tries a text that does not fit."""
        ways = len(text)
        for literal, _ in self._steps[1:]:
            ways *= max(1, sum(1 for _ in literal.finditer(text)))
        return ways

    def _may_fit(self, text: str) -> bool:
        """Tell whether the words between the fields are there in their order.

        Each as early as can be: if that does not fit, no other way does. The pattern as a regular
        expression would try them all: minutes, for an answer of a few pages.
        """
        at = 0
        for literal, least in self._steps:
            found = literal.search(text, at)
            if found is None:
                return False
            at = found.end() + least
        return at <= len(text)

    def column(self, rows: Sequence[Mapping[str, Any]], column: Column) -> list[Any]:
        return [row.get(column.path[0]) for row in rows]


_MOST_WAYS = 3 * 10**8


def _steps(pattern: str) -> Iterator[tuple[re.Pattern[str], int]]:
    """Yield the words of a pattern, each with how much the field after it holds at least."""
    parts = list(string.Formatter().parse(pattern))
    for n, (text, name, spec, _) in enumerate(parts):
        begins = "" if n else r"\A"
        ends = r"\Z" if n == len(parts) - 1 and name is None else ""
        wanted = re.compile(f"{begins}{re.escape(text)}{ends}", re.IGNORECASE)
        yield wanted, int(name is not None and not spec)


def _of_kind(value: Any, kind: Kind) -> Any:
    """Return a value as its column takes it. Raises Misfit for one that no column holds."""
    match kind:
        case Kind.INTEGER if isinstance(value, int) and -(2**63) <= value < 2**63:
            return value
        case Kind.NUMBER:
            return float(value)
        case Kind.MOMENT if isinstance(value, datetime.datetime):
            return value
        case Kind.DATE if isinstance(value, datetime.date):
            return value
        case Kind.TEXT:
            return str(value).strip()
    raise Misfit(f"{value} is beyond what a column holds")


def pattern_fields(pattern: str) -> dict[str, Kind]:
    """Return the fields of a `--parse` pattern, in their order. Raises CellError."""
    fields: dict[str, Kind] = {}
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise CellError(f"--parse {pattern!r} cannot be read: {error}; {_PATTERN_CURE}") from None
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if conversion:
            raise CellError(
                f"--parse: field {name!r} has a conversion (!{conversion}); leave it out"
            )
        if not name.isidentifier():
            raise CellError(f"--parse: field {name or '{}'!r} needs a name; write {{label}}")
        if name in fields:
            raise CellError(f"--parse: field {name!r} is there twice; name each its own")
        fields[name] = _pattern_kind(spec or "")
    if not fields:
        raise CellError(f"--parse {pattern!r} has no fields; write {{name}} where one is")
    return fields


_PATTERN_CURE = "write fields as '{name} | {score:d}'"
_DAY, _HOUR = re.compile(r"%[aAdbBmyYjUWxGuVcD]"), re.compile(r"%[HIMSfpXcT]")


def _pattern_kind(spec: str) -> Kind:
    if re.search(r"%[a-zA-Z]", spec):  # as strptime has it
        if not _DAY.search(spec):
            return Kind.TEXT
        return Kind.MOMENT if _HOUR.search(spec) else Kind.DATE
    if re.search(r"t[igeahsc]$", spec):
        return Kind.MOMENT
    last = spec[-1:]
    return next((kind for codes, kind in _PATTERN_KINDS if last and last in codes), Kind.TEXT)
