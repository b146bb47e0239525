"""The language between double braces: Jinja2 that knows missing values and cannot get out.

It knows what a value looks like in a prompt and refuses to know columns and rows. A missing
value is empty text and stays missing whatever a template does with it, so that neither `nan` nor
`None` is ever sent unasked. The trap: a template comes from a person, but its values come from
anywhere; nothing here may reach the interpreter, and no one expression may fill the memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import wraps
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from jinja2 import StrictUndefined
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.nodes import Concat
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_REPEAT = 1_000_000  # characters or items that one operation may make out of a number
_MAX_JOINED = 200_000_000  # characters: no job can hold a longer line
_MAX_BITS = 1_000_000  # of a whole number
_WIDE = re.compile(r"\d{7,}")  # a width in a format
_PADDING = frozenset({"batch", "center", "format", "indent", "slice", "wordwrap"})


# --- values ---------------------------------------------------------------------------------


class _Missing(str):
    """A missing value: empty text that absorbs whatever is done to it."""

    __slots__ = ()

    def __getattr__(self, name: str) -> _Missing:
        if name.startswith("_"):
            raise AttributeError(name)
        return self

    def _absorb(self, *args: object, **kwargs: object) -> _Missing:
        return self

    def _refuse(self, other: object) -> bool:
        return False

    def __format__(self, spec: str) -> str:
        return ""

    def __add__(self, other: object) -> Any:
        return str(other) if isinstance(other, str) else self

    def __rmod__(self, other: object) -> Any:
        try:
            return other % "" if isinstance(other, str) else self
        except (TypeError, ValueError):
            return self

    __radd__ = __add__
    __call__ = __getitem__ = _absorb
    __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _absorb
    __floordiv__ = __rfloordiv__ = __mod__ = __pow__ = __rpow__ = _absorb
    __neg__ = __pos__ = __abs__ = __round__ = _absorb
    __lt__ = __le__ = __gt__ = __ge__ = _refuse


MISSING = _Missing()


def is_missing(value: object) -> bool:
    """Tell whether a value is None, NaN, NaT, NA or `MISSING`."""
    if value is None or isinstance(value, _Missing):
        return True
    if isinstance(value, float):
        return value != value
    return type(value).__name__ in ("NaTType", "NAType")


def plain(value: Any) -> Any:
    """The value as plain Python: numpy scalars and arrays, also inside lists and dicts."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if type(value) is tuple:
        return tuple(plain(each) for each in value)
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items()}
    if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        found = value.tolist()
        # A datetime64 finer than microseconds turns into a bare integer there.
        return value if isinstance(found, int) and value.dtype.kind in "mM" else plain(found)
    return value


def text(value: object) -> str:
    """What `{{ value }}` writes. Raises TypeError for bytes."""
    if type(value) is str:
        return value
    if is_missing(value):
        return ""
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError("bytes are no text; decode them first")
    if isinstance(value, (Iterator, FunctionType, BuiltinFunctionType, MethodType)):
        said = getattr(value, "__name__", "a generator")  # would be sent as an address in memory
        raise TypeError(f"{said} is no value; write {said}(), or | list behind what makes many")
    return str(plain(value))


# --- the language ---------------------------------------------------------------------------


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2, strict, with filters that leave a missing value missing.

    `names` are Jinja's own functions that a template may call; they are no globals, because a
    column called `range` wins.
    """

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=True, finalize=text)
        self.filters = {name: _over_missing(name, each) for name, each in self.filters.items()}
        self.filters |= {"default": _default, "d": _default, "tojson": _to_json}
        self.tests = {**self.tests, "none": is_missing}
        del self.filters["random"]
        del self.globals["lipsum"]  # chance has no place in a request that is known by its hash
        self.names = dict(self.globals)
        self.globals.clear()

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            _check_number(operator, left, right)
        elif operator == "*" and _repeated(left, right) > _MAX_REPEAT:
            raise SecurityError(f"a repetition beyond {_MAX_REPEAT:,} is refused")
        elif operator == "+" and isinstance(left, str) and isinstance(right, str):
            return self.joined((left, right))
        elif operator == "%" and isinstance(left, str):
            _check_widths(left, *(right if isinstance(right, tuple) else (right,)))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        text = getattr(__obj, "__self__", None)
        if isinstance(text, str):
            _check_widths("", *args)
            _check_growth(__obj.__name__, text, args)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            _check_widths(value.__self__, *args, *kwargs.values())
            return wrapped(*args, **kwargs)

        return bounded

    def joined(self, parts: tuple[Any, ...]) -> str:
        """Return what `a ~ b` writes."""
        texts = [str(part) for part in parts]
        if sum(map(len, texts)) > _MAX_JOINED:
            raise SecurityError(f"a text beyond {_MAX_JOINED:,} characters is refused")
        return "".join(texts)


class _Generator(CodeGenerator):
    """Jinja's own, but for `~`, which there has no bound."""

    def visit_Concat(self, node: Concat, frame: Frame) -> None:  # noqa: N802  (Jinja's name)
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


Sandbox.code_generator_class = _Generator


def _check_number(operator: str, left: int, right: int) -> None:
    bits = {"*": left.bit_length() + right.bit_length(), "**": left.bit_length() * abs(right)}
    if bits.get(operator, 0) > _MAX_BITS:
        raise SecurityError(f"a number of more than {_MAX_BITS:,} bits is refused")


def _repeated(left: object, right: object) -> int:
    """How long `left * right` is, if it repeats something."""
    for many, times in ((left, right), (right, left)):
        if isinstance(many, (str, bytes, list, tuple)) and isinstance(times, int):
            return len(many) * times
    return 0


def _check_widths(pattern: str, *values: object) -> None:
    """Refuse widths in a format, or as arguments of what pads a text."""
    is_wide = any(isinstance(value, int) and abs(value) > _MAX_REPEAT for value in values)
    if is_wide or _WIDE.search(pattern):
        raise SecurityError(f"a width beyond {_MAX_REPEAT:,} is refused")


def _check_growth(name: str, text: str, args: tuple[Any, ...]) -> None:
    """Refuse what makes a long text of two that are less long."""
    grown = 0
    if name == "replace" and len(args) > 1 and isinstance(args[1], str):
        grown = text.count(args[0]) * len(args[1]) if isinstance(args[0], str) else 0
    elif name == "join" and args and hasattr(args[0], "__len__"):
        grown = len(text) * len(args[0])
    if grown > _MAX_JOINED:
        raise SecurityError(f"a text beyond {_MAX_JOINED:,} characters is refused")


def _over_missing(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter on a missing value gives a missing value."""
    at = 1 if hasattr(filter_, "jinja_pass_arg") else 0

    @wraps(filter_)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        seen = args[at:] if name == "format" else args[at : at + 1]
        if name in _PADDING:
            _check_widths(str(args[at]) if name == "format" else "", *args[at + 1 :])
        elif name in ("replace", "join"):
            value, *rest = args[at:]
            between = rest[0] if rest else ""
            text, given = (between, (value,)) if name == "join" else (str(value), tuple(rest))
            _check_growth(name, str(text), given)
        return MISSING if any(map(is_missing, seen)) else filter_(*args, **kwargs)

    return filtered


def _default(value: object, default_value: object = "", boolean: bool = False) -> object:
    missing = isinstance(value, Undefined) or is_missing(value)
    return default_value if missing or (boolean and not value) else value


def _to_json(value: object, indent: int | None = None) -> str:
    # Jinja's own escapes <, > and everything beyond ASCII, which is for web pages.
    found = None if is_missing(value) else plain(value)
    return json.dumps(found, ensure_ascii=False, indent=indent)
