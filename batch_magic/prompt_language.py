"""The language between double braces: Jinja2 that knows missing values and cannot get out.

It knows what a value looks like in a prompt and refuses to know columns and rows. A missing
value is empty text and stays missing whatever a template does with it, so that neither `nan` nor
`None` is ever sent unasked. The trap: a template comes from a person, but its values come from
anywhere; nothing here may reach the interpreter, and no one expression may fill the memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from itertools import islice
from types import BuiltinFunctionType, BuiltinMethodType, FunctionType, MethodType
from typing import Any

from jinja2 import StrictUndefined, Template
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.nodes import Call, Concat, EnvironmentAttribute, EvalContext, For
from jinja2.runtime import Context, Undefined, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from markupsafe import Markup

from batch_magic.errors import Unsendable

IMAGE = "__image"
"""The filter that a line with an image is turned into."""
RESULT = "__result"
"""The name that a single expression's value is set to."""

_MARK = re.compile("\0([0-9]{1,9})\0")
_MAX_REPEAT = 1_000_000  # characters or items that one operation may make out of a number
_MAX_JOINED = 200_000_000  # characters: no job can hold a longer line
_MAX_BITS = 1_000_000  # of a whole number
_MAX_TURNS = 1_000_000  # of all loops of one piece of a template, for one row
_WIDE = re.compile(r"\d{7,}")  # a width in a format
_TOO_WIDE = f"a width beyond {_MAX_REPEAT:,} is refused"
_PERCENT = re.compile(r"%(?:\([^)]*\))?[#0\- +]*((?:\*|\d+)?(?:\.(?:\*|\d+))?)")
_PADDING_METHODS = frozenset({"ljust", "rjust", "center", "zfill", "expandtabs", "to_bytes"})
_PADDING_FILTERS = frozenset({"center", "indent", "slice"})


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


class Opaque:
    """An array that is an image: to be passed on, not to be looked into or changed."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __str__(self) -> str:
        raise TypeError("an array is no text; as an image it has a line of its own")

    __repr__ = __str__  # within a list it would be sent as an address in memory


def with_images(value: Any) -> Any:
    """The value as plain Python, but for arrays that may be images; missing ones as `MISSING`.

    Made into lists an image takes a hundred times the room.
    """
    if isinstance(value, (list, tuple)):
        return [with_images(one) for one in value]
    if getattr(value, "ndim", 0) >= 2:
        return Opaque(value)
    return MISSING if is_missing(value) else plain(value)


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
        # It would be sent as an address in memory.
        if isinstance(value, Iterator):
            raise TypeError("what makes many values is no text; write | list or | join behind it")
        raise TypeError(f"{value.__name__} is no value; write {value.__name__}()")
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
        self.filters[IMAGE] = self._image
        self.names = dict(self.globals)
        self.globals.clear()
        self.turns = 0
        self.images: list[object] = []  # those of the row that is being rendered

    def _image(self, value: object) -> str:
        """Keep a value that is an image; a mark stands for it in the text."""
        if is_missing(value) or isinstance(value, Undefined):
            return ""
        self.images.append(value.value if isinstance(value, Opaque) else value)
        return f"\0{len(self.images) - 1}\0"

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield the items of a loop: loops within loops would take longer than anybody waits."""
        for item in items:
            self.turns += 1
            if self.turns > _MAX_TURNS:
                raise SecurityError(f"more than {_MAX_TURNS:,} turns of loops are refused")
            yield item

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            _check_number(operator, left, right)
        elif operator == "*" and _repeated(left, right) > _MAX_REPEAT:
            raise SecurityError(f"a repetition beyond {_MAX_REPEAT:,} is refused")
        elif operator == "+":
            _check_length(left, right)
        elif operator == "%" and isinstance(left, (str, bytes)):
            _check_percent(str(left), right if isinstance(right, tuple) else (right,))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, (str, bytes, bytearray, int)):
            args = _bounded_call(__obj.__name__, owner, args, kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        is_format = isinstance(value, (BuiltinMethodType, MethodType)) and value.__name__ in (
            "format",
            "format_map",
        )
        pattern = getattr(value, "__self__", None)
        if not is_format or not isinstance(pattern, str) or isinstance(pattern, Markup):
            return super().wrap_str_format(value)
        formatter = _Formatter(self)

        def bounded(*args: Any, **kwargs: Any) -> str:
            if value.__name__ == "format_map":
                return formatter.vformat(pattern, (), dict(*args))
            return formatter.vformat(pattern, args, kwargs)

        return bounded

    def joined(self, context: EvalContext, parts: tuple[Any, ...]) -> str:
        """Return what `a ~ b` writes."""
        texts = ["" if is_missing(part) else part for part in parts]
        texts = [text if isinstance(text, str) else str(text) for text in texts]
        _check_length(*texts)
        return markup_join(texts) if context.autoescape else str_join(texts)


def run(template: Template, variables: dict[str, object]) -> str:
    """Return what a template of a `Sandbox` writes."""
    return _run(template, variables)[0]


def parts(template: Template, variables: dict[str, object]) -> tuple[list[str], list[object]]:
    """Return what a template writes, cut at its images, and those: a text more than images.

    Raises Unsendable for a text of the user's with a mark like ours in it.
    """
    sandbox: Any = template.environment
    texts = _MARK.split(_run(template, variables)[0])
    numbers = [int(number) for number in texts[1::2]]
    if any(number >= len(sandbox.images) for number in numbers):
        raise Unsendable("its text holds the mark that stands for an image")
    return texts[::2], [sandbox.images[n] for n in numbers]


def value_of(template: Template, variables: dict[str, object]) -> object:
    """Return what a template of a `Sandbox` sets `RESULT` to."""
    return plain(_run(template, variables)[1].vars[RESULT])


def _run(template: Template, variables: dict[str, object]) -> tuple[str, Context]:
    sandbox: Any = template.environment
    sandbox.turns, sandbox.images = 0, []
    context = template.new_context(variables, shared=True)
    return "".join(template.root_render_func(context)), context


class _Formatter(SandboxedFormatter):
    """Jinja's own, with a bound on each width, however it was come by."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if _WIDE.search(format_spec):
            raise SecurityError(_TOO_WIDE)
        return str(super().format_field(value, format_spec))


class _Generator(CodeGenerator):
    """Jinja's own, but for `~` and loops, which there have no bound."""

    def visit_For(self, node: For, frame: Frame) -> None:  # noqa: N802  (Jinja's name)
        node.iter = Call(EnvironmentAttribute("counted"), [node.iter], [], None, None)
        super().visit_For(node, frame)

    def visit_Concat(self, node: Concat, frame: Frame) -> None:  # noqa: N802  (Jinja's name)
        self.write("environment.joined(context.eval_ctx, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


Sandbox.code_generator_class = _Generator


# --- what one operation may make ------------------------------------------------------------


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


def _check_length(*parts: object) -> None:
    sized = (str, bytes, list, tuple)
    _check_grown(sum(len(part) for part in parts if isinstance(part, sized)))


def _check_percent(pattern: str, values: tuple[Any, ...]) -> None:
    """Refuse a width in `'%9d' % n`, written or given by a `*`, and texts that grow too long."""
    _check_length(*values)
    widths = _PERCENT.findall(pattern)
    has_star = any("*" in width for width in widths)
    if any(map(_WIDE.search, widths)) or (has_star and _is_wide(values)):
        raise SecurityError(_TOO_WIDE)


def _is_wide(values: Iterable[object]) -> bool:
    return any(
        (isinstance(value, int) and abs(value) > _MAX_REPEAT)
        or (isinstance(value, str) and len(value) > _MAX_REPEAT)
        for value in values
    )


def _bounded_call(
    name: str, owner: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Refuse a method of text or numbers that would make far more than it is given.

    Returns the arguments, what makes many made a list.
    """
    given = (*args, *kwargs.values())
    if name in _PADDING_METHODS and _is_wide(given):
        raise SecurityError(_TOO_WIDE)
    if name == "join" and args:
        return (_joinable(owner, args[0]), *args[1:])
    if name == "replace" and len(given) > 1 and type(given[0]) is type(given[1]) is type(owner):
        _check_grown(owner.count(given[0]) * len(given[1]))
    if name == "translate" and given and hasattr(given[0], "values"):
        _check_grown(len(owner) * max((len(str(one)) for one in given[0].values()), default=0))
    return args


def _joinable(separator: Any, parts: Any) -> list[Any]:
    found = list(islice(parts, _MAX_REPEAT + 1))
    if len(found) > _MAX_REPEAT:
        raise SecurityError(f"more than {_MAX_REPEAT:,} parts are refused")
    _check_grown(len(separator) * len(found) + sum(len(str(part)) for part in found))
    return found


def _check_grown(length: int) -> None:
    if length > _MAX_JOINED:
        raise SecurityError(f"more than {_MAX_JOINED:,} characters are refused")


def _check_filter(name: str, value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Do the same for filters."""
    given = (*args, *kwargs.values())
    if name in _PADDING_FILTERS and _is_wide(given):
        raise SecurityError(_TOO_WIDE)
    if name == "format":
        _check_percent(str(value), given)
    elif name == "replace" and len(given) > 1:
        _check_grown(str(value).count(str(given[0]) or " ") * len(str(given[1])))
    elif name == "indent" and given:
        width = len(given[0]) if isinstance(given[0], str) else int(given[0])
        _check_grown(width * (str(value).count("\n") + 1))


def _over_missing(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter on a missing value gives a missing value."""
    at = 1 if hasattr(filter_, "jinja_pass_arg") else 0

    @wraps(filter_)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        seen = args[at:] if name == "format" else args[at : at + 1]
        if name == "join":
            between = (*args[at + 1 :], *kwargs.values(), "")[0]
            parts = ["" if is_missing(part) else part for part in args[at]]
            args = (*args[:at], _joinable(str(between), parts), *args[at + 1 :])
        elif args[at:]:
            _check_filter(name, args[at], args[at + 1 :], kwargs)
        return MISSING if any(map(is_missing, seen)) else filter_(*args, **kwargs)

    return filtered


def _default(value: object, default_value: object = "", boolean: bool = False) -> object:
    """Another value where it is missing: default("none")."""
    missing = isinstance(value, Undefined) or is_missing(value)
    return default_value if missing or (boolean and not value) else value


def _to_json(value: object, indent: int | None = None) -> str:
    """The value as JSON, in its own letters."""
    # Jinja's own escapes <, > and everything beyond ASCII, which is for web pages.
    found = None if is_missing(value) else plain(value)
    indent = indent if indent is None else min(int(indent), 100)
    return json.dumps(found, ensure_ascii=False, indent=indent)
