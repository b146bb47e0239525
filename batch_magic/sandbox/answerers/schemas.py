"""Values that satisfy a JSON Schema, chosen by a seed.

Knows the part of JSON Schema that structured outputs use. Refuses to be random: the same
schema and seed give the same value. The trap: a schema may refer to itself, so beyond a depth
every choice goes to the smallest value that is still allowed.
"""

import math
import random
from importlib import import_module
from typing import Any

# The standard library's own reader of patterns; it has no public name and no type stubs.
sre: Any = import_module("re._constants")
sre_parser: Any = import_module("re._parser")

_DEPTH = 6
_FORMATS = {
    "date": "2026-01-{day:02d}",
    "date-time": "2026-01-{day:02d}T12:00:00Z",
    "time": "12:00:{day:02d}Z",
    "duration": "P{day}D",
    "email": "stub-{seed}@example.org",
    "hostname": "stub-{day}.example.org",
    "ipv4": "192.0.2.{day}",
    "ipv6": "2001:db8::{day}",
    "uuid": "00000000-0000-4000-8000-0000000000{day:02d}",
    "uri": "https://example.org/{seed}",
}


def fill_schema(schema: dict[str, Any], seed: str) -> Any:
    """Return a value that `schema` allows."""
    return _Filler(schema, seed).value(schema, "value", 0)


class _Filler:
    def __init__(self, root: dict[str, Any], seed: str) -> None:
        self._root = root
        self._seed = seed
        self._dice = random.Random(seed)

    def value(self, schema: Any, name: str, depth: int) -> Any:
        if not isinstance(schema, dict):
            return f"stub {name}"
        if "$ref" in schema:
            return self.value(self._target(schema["$ref"]), name, depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._dice.choice(schema["enum"])
        for group in ("anyOf", "oneOf"):
            if schema.get(group):
                return self.value(self._branch(schema[group], depth), name, depth + 1)
        if schema.get("allOf"):
            return self.value(_merged(schema, self._target), name, depth + 1)
        return self._typed(schema, name, depth)

    def _typed(self, schema: dict[str, Any], name: str, depth: int) -> Any:
        match self._kind(schema, depth):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "integer":
                return self._integer(schema)
            case "number":
                return self._number(schema)
            case "boolean":
                return self._dice.random() < 0.5
            case "null":
                return None
        return self._string(schema, name)

    def _kind(self, schema: dict[str, Any], depth: int) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            if depth >= _DEPTH and "null" in kind:
                return "null"
            return str(self._dice.choice(kind))
        if kind is None:
            if "properties" in schema:
                return "object"
            return "array" if "items" in schema else "string"
        return str(kind)

    def _target(self, ref: str) -> Any:
        target: Any = self._root
        for step in ref.removeprefix("#").strip("/").split("/"):
            target = target[step.replace("~1", "/").replace("~0", "~")] if step else target
        return target

    def _branch(self, branches: list[Any], depth: int) -> Any:
        if depth < _DEPTH:
            return self._dice.choice(branches)
        plain = [branch for branch in branches if not _can_nest(branch)]
        return (plain or branches)[0]

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        names = list(properties)
        if depth >= _DEPTH:
            names = [name for name in names if name in schema.get("required", [])]
        return {name: self.value(properties[name], name, depth + 1) for name in names}

    def _array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        least = int(schema.get("minItems", 0))
        most = int(schema.get("maxItems", max(least, 3)))
        count = least if depth >= _DEPTH else self._dice.randint(max(least, min(1, most)), most)
        items = [self.value(item, name, depth + 1) for item in schema.get("prefixItems", [])]
        while len(items) < count:
            item = self.value(schema.get("items", {}), name, depth + 1)
            if schema.get("uniqueItems") and item in items:
                count -= 1
                continue
            items.append(item)
        return items

    def _integer(self, schema: dict[str, Any]) -> int:
        low, high = _bounds(schema, 1)
        step = int(schema.get("multipleOf", 1)) or 1
        first = math.ceil(low / step)
        return step * self._dice.randint(first, max(first, math.floor(high / step)))

    def _number(self, schema: dict[str, Any]) -> float:
        if "multipleOf" in schema:
            step = float(schema["multipleOf"])
            low, high = _bounds(schema, 0)
            return step * self._dice.randint(math.ceil(low / step), math.floor(high / step))
        low, high = _bounds(schema, 0)
        inside = 0.01 + 0.98 * self._dice.random()  # never on an excluded bound
        value = low + (high - low) * inside
        rounded = round(value, 2)
        return rounded if low < rounded < high else value

    def _string(self, schema: dict[str, Any], name: str) -> str:
        if "pattern" in schema:
            return self._matching(schema["pattern"])
        form = schema.get("format")
        if form in _FORMATS:
            day = self._dice.randint(1, 28)
            return _FORMATS[form].format(day=day, seed=self._seed.replace(".", "-"))
        text = f"stub {name} {self._seed}"
        text += "." * max(0, int(schema.get("minLength", 0)) - len(text))
        return text[: int(schema["maxLength"])] if "maxLength" in schema else text

    def _matching(self, pattern: str) -> str:
        parsed = sre_parser.parse(pattern)
        return "".join(self._token(op, value) for op, value in parsed)

    def _token(self, op: Any, value: Any) -> str:
        if op is sre.LITERAL:
            return chr(value)
        if op is sre.ANY:
            return "x"
        if op is sre.NOT_LITERAL:
            return "x" if value != ord("x") else "y"
        if op is sre.IN:
            return self._member(value)
        if op is sre.SUBPATTERN:
            return "".join(self._token(*token) for token in value[3])
        if op is sre.BRANCH:
            return "".join(self._token(*token) for token in self._dice.choice(value[1]))
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            least, most, inner = value
            count = self._dice.randint(least, min(int(most), least + 3))
            return "".join(self._token(*token) for _ in range(count) for token in inner)
        return ""  # anchors take no characters

    def _member(self, members: list[tuple[Any, Any]]) -> str:
        if members[0][0] is sre.NEGATE:
            return next(
                chr(code) for code in (120, 48, 32, 95, 46) if not _is_in(code, members[1:])
            )
        op, value = self._dice.choice(members)
        if op is sre.RANGE:
            return chr(self._dice.randint(*value))
        if op is sre.CATEGORY:
            return {sre.CATEGORY_DIGIT: "7", sre.CATEGORY_SPACE: " "}.get(value, "x")
        return chr(value)


def _is_in(code: int, members: list[tuple[Any, Any]]) -> bool:
    for op, value in members:
        if op is sre.LITERAL and value == code:
            return True
        if op is sre.RANGE and value[0] <= code <= value[1]:
            return True
        if op is sre.CATEGORY:
            letter = chr(code)
            classes = {
                sre.CATEGORY_DIGIT: letter.isdigit(),
                sre.CATEGORY_SPACE: letter.isspace(),
                sre.CATEGORY_WORD: letter.isalnum() or letter == "_",
            }
            if classes.get(value, True):
                return True
    return False


def _bounds(schema: dict[str, Any], gap: float) -> tuple[float, float]:
    low = schema.get("minimum")
    high = schema.get("maximum")
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + gap
    if "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - gap
    if low is None:
        low = 0 if high is None or high > 0 else high - 100
    if high is None:
        high = low + 100
    return float(low), float(high)


def _can_nest(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    kinds = schema.get("type")
    nests = {"object", "array"}
    return "$ref" in schema or kinds in nests or "anyOf" in schema


def _merged(schema: dict[str, Any], target: Any) -> dict[str, Any]:
    whole = {name: value for name, value in schema.items() if name != "allOf"}
    for part in schema["allOf"]:
        if "$ref" in part:
            part = target(part["$ref"])
        joined = {**whole.get("properties", {}), **part.get("properties", {})}
        whole |= part
        if joined:
            whole["properties"] = joined
    return whole
