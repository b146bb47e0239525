"""The language between double braces: Jinja2 that knows missing values and cannot get out.

It knows what a value looks like in a prompt and refuses to know columns and rows. A missing
value is empty text and stays missing whatever a template does with it, so that neither `nan` nor
`None` is ever sent unasked. The trap: a template comes from a person, but its values come from
anywhere; nothing here may reach the interpreter, or go on for ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

from jinja2 import StrictUndefined
from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_REPEAT = 1_000_000  # characters or items that `*` may make in a template
_MAX_EXPONENT = 1_000


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
    return str(plain(value))


# --- the language ---------------------------------------------------------------------------


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2, strict, with filters that leave a missing value missing.

    `names` are Jinja's own functions that a template may call; they are no globals, because a
    column called `range` wins.
    """

    intercepted_binops = frozenset({"*", "**"})

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
        if operator == "**" and isinstance(right, (int, float)) and abs(right) > _MAX_EXPONENT:
            raise SecurityError(f"an exponent above {_MAX_EXPONENT} is refused")
        if operator == "*" and _repeated(left, right) > _MAX_REPEAT:
            raise SecurityError(f"a repetition beyond {_MAX_REPEAT:,} is refused")
        return super().call_binop(context, operator, left, right)


def _repeated(left: object, right: object) -> int:
    """How long `left * right` is, if it repeats something."""
    for many, times in ((left, right), (right, left)):
        if isinstance(many, (str, bytes, list, tuple)) and isinstance(times, int):
            return len(many) * times
    return 0


def _over_missing(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter on a missing value gives a missing value."""
    at = 1 if hasattr(filter_, "jinja_pass_arg") else 0

    @wraps(filter_)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        seen = args[at:] if name == "format" else args[at : at + 1]
        return MISSING if any(map(is_missing, seen)) else filter_(*args, **kwargs)

    return filtered


def _default(value: object, default_value: object = "", boolean: bool = False) -> object:
    missing = isinstance(value, Undefined) or is_missing(value)
    return default_value if missing or (boolean and not value) else value


def _to_json(value: object, indent: int | None = None) -> str:
    # Jinja's own escapes <, > and everything beyond ASCII, which is for web pages.
    found = None if is_missing(value) else plain(value)
    return json.dumps(found, ensure_ascii=False, indent=indent)
