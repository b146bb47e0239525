"""The prompt template: cell text to messages, the columns read, one rendered prompt per row.

It knows Jinja2 and the rules of a cell's body: role lines, missing values, which names exist.
It refuses to know frames, files and JSON: columns are names, rows come as a `Chunk`. A template
becomes a plan of constants and slots; a slot is a bare column where the text allows it, else a
piece of compiled Jinja that is run once for each row. The trap is that the two ways must give
the same text, missing values and filters included, so both end in `_text`. The other trap is
`row`: what it reads is settled when the template is compiled, because the frame yields only the
columns that a template names.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import wraps
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn

from jinja2 import StrictUndefined, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2 import Template as JinjaTemplate
from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from batch_magic.errors import TemplateError
from batch_magic.records import Chunk, Message, Rendered, Slot

ROLES = ("system", "developer", "user", "assistant")

_ROLE_LINE = re.compile(rf"^(\\?)({'|'.join(ROLES)}):[ \t]*$", re.MULTILINE)
_IMAGE_LINE = re.compile(r"^[ \t]*!\[[^\]\n]*\]\(\{\{.*\}\}\)[ \t]*$", re.MULTILINE)
_LEADING_BLANK_LINES = re.compile(r"\A(?:[ \t]*\n)+")
# A role line inside one of these is the code's or the comment's, not ours.
_JINJA_SPAN = re.compile(
    r"\{#.*?#\}|\{%[-+]?\s*raw\s*-?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}|\{%.*?%\}|\{\{.*?\}\}",
    re.DOTALL,
)
_MAX_REPEAT = 1_000_000  # characters or items that `*` may make in a template
_MAX_EXPONENT = 1_000
_NAMES_SHOWN = 8


# --- values ---------------------------------------------------------------------------------


class _Missing(str):
    """A missing value: empty text that stays missing whatever a template does with it."""

    __slots__ = ()

    def __getattr__(self, name: str) -> _Missing:
        if name.startswith("_"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key: object) -> _Missing:
        return self

    def __call__(self, *args: object, **kwargs: object) -> _Missing:
        return self

    def __format__(self, spec: str) -> str:
        return ""

    def __add__(self, other: object) -> Any:
        return str(other) if isinstance(other, str) else self

    __radd__ = __add__

    def __rmod__(self, other: object) -> Any:
        try:
            return other % "" if isinstance(other, str) else self
        except (TypeError, ValueError):
            return self

    def _absorb(self, *other: object) -> _Missing:
        return self

    __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _absorb
    __floordiv__ = __rfloordiv__ = __mod__ = __pow__ = __rpow__ = _absorb
    __neg__ = __pos__ = __abs__ = __round__ = _absorb

    def _refuse(self, other: object) -> bool:
        return False

    __lt__ = __le__ = __gt__ = __ge__ = _refuse


_MISSING = _Missing()


def _is_missing(value: object) -> bool:
    if value is None or isinstance(value, _Missing):
        return True
    if isinstance(value, (str, int)):
        return False
    if isinstance(value, float):
        return value != value
    return type(value).__name__ in ("NaTType", "NAType")


def _plain(value: Any) -> Any:
    """The value as plain Python: numpy scalars and arrays, also inside lists and dicts."""
    if isinstance(value, (str, int, float)) and type(value).__module__ == "builtins":
        return value
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(_plain(each) for each in value)
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        plain = value.tolist()
        # A datetime64 finer than microseconds turns into a bare integer there.
        return value if isinstance(plain, int) and value.dtype.kind in "mM" else _plain(plain)
    return value


def _text(value: object) -> str:
    """What `{{ value }}` writes."""
    if type(value) is str:
        return value
    if _is_missing(value):
        return ""
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError("bytes are no text; decode them first")
    return str(_plain(value))


def _texts(values: Iterable[object]) -> list[str]:
    return [value if type(value) is str else _text(value) for value in values]


class _Row(Mapping[Hashable, object]):
    """The whole row, for templates that do more with `row` than name a column."""

    __slots__ = ("_values", "index", "position")

    def __init__(self, values: Mapping[Hashable, object], position: int, index: object) -> None:
        self._values = values
        self.position = position
        self.index = index

    def __getitem__(self, name: Hashable) -> object:
        return self._values[name]

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __str__(self) -> str:
        return str(dict(self._values))


# --- the Jinja environment ------------------------------------------------------------------


def _over_missing(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter on a missing value gives a missing value."""
    at = 1 if hasattr(filter_, "jinja_pass_arg") else 0

    @wraps(filter_)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        seen = args[at:] if name == "format" else args[at : at + 1]
        if any(_is_missing(value) for value in seen):
            return _MISSING
        return filter_(*args, **kwargs)

    return filtered


def _default(value: object, default_value: object = "", boolean: bool = False) -> object:
    missing = isinstance(value, Undefined) or _is_missing(value)
    return default_value if missing or (boolean and not value) else value


def _to_json(value: object, indent: int | None = None) -> str:
    # Jinja's own escapes <, > and everything beyond ASCII, which is for web pages.
    plain = None if _is_missing(value) else _plain(value)
    return json.dumps(plain, ensure_ascii=False, indent=indent)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2 with no way out, no way to go on for ever, and missing values as above."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_text)
        self.filters = {name: _over_missing(name, each) for name, each in self.filters.items()}
        self.filters |= {"default": _default, "d": _default, "tojson": _to_json}
        self.tests = {**self.tests, "none": _is_missing}
        del self.globals["lipsum"]  # chance has no place in a request that is known by its hash
        self.safe_globals = dict(self.globals)
        self.globals.clear()  # a column called `range` wins: names come with each rendering

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


# --- cell text to messages ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Source:
    """One message as written: its text begins on line `first_line` of the template."""

    role: str
    text: str
    first_line: int


def _split(body: str) -> list[_Source]:
    """Cut the body at its role lines."""
    inside = [match.span() for match in _JINJA_SPAN.finditer(body)]
    marks = [
        mark
        for mark in _ROLE_LINE.finditer(body)
        if not any(start < mark.start() < end for start, end in inside)
    ]
    roles = [mark for mark in marks if not mark[1]]
    if not roles:
        return [_source("user", body, 0, len(body), marks)]
    _refuse_stray_text(body[: roles[0].start()])
    ends = [mark.start() for mark in roles[1:]] + [len(body)]
    return [
        _source(mark[2], body, min(mark.end() + 1, end), end, marks)
        for mark, end in zip(roles, ends, strict=True)
    ]


def _source(role: str, body: str, start: int, end: int, marks: Sequence[re.Match[str]]) -> _Source:
    pieces, at = [], start
    for mark in marks:
        if mark[1] and start <= mark.start() < end:  # `\user:` is the literal text
            pieces.append(body[at : mark.start()])
            at = mark.start() + 1
    text = "".join([*pieces, body[at:end]])
    blank = _LEADING_BLANK_LINES.match(text)
    dropped = blank[0] if blank else ""
    line = body.count("\n", 0, start) + dropped.count("\n") + 1
    return _Source(role, text[len(dropped) :].removesuffix("\n"), line)


def _refuse_stray_text(text: str) -> None:
    if re.sub(r"\{#.*?#\}", "", text, flags=re.DOTALL).strip():
        line = text[: len(text) - len(text.lstrip())].count("\n") + 1
        raise TemplateError(
            f"text before the first role line (template line {line}); "
            "put a line such as 'user:' above it"
        )


def _refuse_images(body: str) -> None:
    # Sent as text it would be paid for and mean nothing to the model.
    if image := _IMAGE_LINE.search(body):
        line = body.count("\n", 0, image.start()) + 1
        raise TemplateError(
            f"images cannot be sent yet (template line {line}); "
            "remove the line, or write the address as plain text"
        )


# --- names ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Names:
    """What names a template may use, and which columns it has been seen to read."""

    columns: tuple[Hashable, ...]
    extras: Mapping[str, object]
    frame_name: str
    read: dict[Hashable, str] = field(default_factory=dict)  # column → its name in Jinja
    reads_index: bool = False
    reads_row: bool = False

    def column(self, name: Hashable, line: int) -> str:
        """Take note that column `name` is read; its name inside Jinja."""
        found = self._known(name)
        if found is None:
            self._refuse(name, line)
        (column,) = found
        self._refuse_twice(column, line)
        return self.read.setdefault(column, f"__column_{len(self.read)}")

    def is_column(self, name: Hashable) -> bool:
        return self._known(name) is not None

    def all_columns(self, line: int) -> None:
        for name in self.columns:
            self._refuse_twice(name, line)
            self.read.setdefault(name, f"__column_{len(self.read)}")

    def _known(self, name: Hashable) -> tuple[Hashable] | None:
        for column in self.columns:
            if column == name and type(column) is type(name):
                return (column,)
        for column in self.columns:
            if column == name and not isinstance(name, bool):
                return (column,)
        # The same letters, composed otherwise: names that came from a Mac's file system.
        if isinstance(name, str):
            alike = {
                column
                for column in self.columns
                if isinstance(column, str) and _composed(column) == _composed(name)
            }
            if len(alike) == 1:
                return (alike.pop(),)
        return None

    def _refuse_twice(self, name: Hashable, line: int) -> None:
        if self.columns.count(name) > 1:
            raise TemplateError(
                f"column {name!r} occurs more than once in {self.frame_name} "
                f"(template line {line}); rename one of them"
            )

    def _refuse(self, name: Hashable, line: int) -> NoReturn:
        raise TemplateError(
            f"column {name!r} is not in {self.frame_name} (template line {line}); "
            f"{self._advice(name)}"
        )

    def _advice(self, name: Hashable) -> str:
        near = self._nearest(name)
        if near:
            return f"did you mean {' or '.join(near)}?"
        shown = ", ".join(repr(column) for column in self.columns[:_NAMES_SHOWN])
        more = ", …" if len(self.columns) > _NAMES_SHOWN else ""
        has = f"its columns are {shown}{more}" if shown else "it has no columns"
        if isinstance(name, str) and name.isidentifier():
            return f"{has}; a notebook variable needs --with {name}"
        return has

    def _nearest(self, name: Hashable) -> list[str]:
        written = {_composed(str(each)).lower(): each for each in (*self.extras, *self.columns)}
        near = get_close_matches(_composed(str(name)).lower(), list(written), n=2)
        return [repr(written[each]) for each in near]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


class _RowReader(NodeTransformer):
    """Turn `row["name"]`, `row.name`, `row.position` and `row.index` into plain names."""

    def __init__(self, names: _Names) -> None:
        self._names = names

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:  # noqa: N802  Jinja's word
        if not _is_row(node.node):
            return self.generic_visit(node)
        self._names.reads_row = True
        if node.attr == "position":
            return _name("__position", node.lineno)
        if node.attr == "index":
            self._names.reads_index = True
            return _name("__index", node.lineno)
        if node.attr in ("items", "keys", "values", "get") and not self._names.is_column(node.attr):
            return self.generic_visit(node)
        return _name(self._names.column(node.attr, node.lineno), node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802  Jinja's word
        if not _is_row(node.node):
            return self.generic_visit(node)
        try:
            key = node.arg.as_const()
        except nodes.Impossible:
            return self.generic_visit(node)
        self._names.reads_row = True
        return _name(self._names.column(_hashable(key), node.lineno), node.lineno)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802  Jinja's word
        if node.name == "row":
            if node.ctx != "load":
                raise TemplateError(
                    f"'row' stands for the whole row (template line {node.lineno}); "
                    "use another name"
                )
            self._names.reads_row = self._names.reads_index = True
            self._names.all_columns(node.lineno)
            return _name("__row", node.lineno)
        if node.name in ("self", "super") and self._names.is_column(node.name):
            return _name(self._names.column(node.name, node.lineno), node.lineno)
        return node


def _is_row(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "row" and node.ctx == "load"


def _name(name: str, line: int) -> nodes.Name:
    return nodes.Name(name, "load", lineno=line)


def _hashable(key: object) -> Hashable:
    return key if isinstance(key, Hashable) else repr(key)


# --- slots ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Given:
    """What a slot is filled from: rows `rows` of a chunk, and the plan they belong to."""

    chunk: Chunk
    rows: Sequence[int]

    def values(self, column: Hashable) -> Sequence[object]:
        values = self.chunk.columns[column]
        return values if len(self.rows) == len(values) else [values[i] for i in self.rows]

    @property
    def positions(self) -> Sequence[int]:
        start = self.chunk.start
        if isinstance(self.rows, range):
            return range(start, start + len(self.rows))
        return [start + row for row in self.rows]

    @property
    def index(self) -> Sequence[object]:
        if self.chunk.index is None:
            return [None] * len(self.rows)
        return [self.chunk.index[row] for row in self.rows]


@dataclass(frozen=True, slots=True)
class _ColumnSlot:
    """`{{ column }}`: no Jinja at all."""

    column: Hashable
    line: int

    def fill(self, given: _Given) -> list[str]:
        values = given.values(self.column)
        try:
            return _texts(values)
        except Exception:
            for position, value in zip(given.positions, values, strict=True):
                self._try(position, value)
            raise

    def _try(self, position: int, value: object) -> None:
        try:
            _text(value)
        except Exception as error:
            raise TemplateError(
                f"row {position}: column {self.column!r} cannot be written as text: "
                f"{_cause(error)} (template line {self.line})"
            ) from error


@dataclass(frozen=True, slots=True)
class _PositionSlot:
    def fill(self, given: _Given) -> list[str]:
        return [str(position) for position in given.positions]


@dataclass(frozen=True, slots=True)
class _IndexSlot:
    def fill(self, given: _Given) -> list[str]:
        return _texts(given.index)


@dataclass(frozen=True, slots=True)
class _JinjaSlot:
    """A piece of Jinja, run once for each row with only the names it needs."""

    template: JinjaTemplate
    constants: Mapping[str, object]
    columns: Mapping[Hashable, tuple[str, ...]]  # column → its names in this piece
    whole_row: bool
    line: int

    def fill(self, given: _Given) -> list[str]:
        names = [name for names in self.columns.values() for name in names]
        columns = [
            [_MISSING if value is None else value for value in _plain_values(given.values(column))]
            for column, own in self.columns.items()
            for _ in own
        ]
        rows = zip(*columns, strict=True) if columns else iter([()] * len(given.rows))
        return [
            self._render(position, label, dict(zip(names, values, strict=True)))
            for position, label, values in zip(given.positions, given.index, rows, strict=True)
        ]

    def _render(self, position: int, label: object, values: dict[str, object]) -> str:
        variables = {**self.constants, **values, "__position": position, "__index": label}
        if self.whole_row:
            each = {column: values[names[0]] for column, names in self.columns.items()}
            variables["__row"] = _Row(each, position, label)
        try:
            return _run(self.template, variables)
        except Exception as error:
            line = _line_of(self.template, error.__traceback__) or self.line
            raise TemplateError(
                f"row {position}: {_cause(error)} (template line {line})"
            ) from error


_AnySlot = _ColumnSlot | _PositionSlot | _IndexSlot | _JinjaSlot


def _plain_values(values: Sequence[object]) -> Iterable[object]:
    return (value if type(value) is str else _plain(value) for value in values)


def _run(template: JinjaTemplate, variables: dict[str, object]) -> str:
    context = template.new_context(variables, shared=True)
    return "".join(template.root_render_func(context))


def _cause(error: BaseException) -> str:
    said = " ".join(str(error).split())
    if isinstance(error, (SecurityError, UndefinedError)) or not said:
        return said or type(error).__name__
    return f"{type(error).__name__}: {said}"


def _line_of(template: JinjaTemplate, traceback: TracebackType | None) -> int | None:
    """The template's line in which an error arose."""
    line = None
    while traceback is not None:
        if traceback.tb_frame.f_globals.get("__jinja_template__") is template:
            line = template.get_corresponding_lineno(traceback.tb_lineno)
        traceback = traceback.tb_next
    return line


# --- compiling ------------------------------------------------------------------------------


class Template:
    """A compiled prompt: what it reads, its messages as a plan, and how to fill them.

    `messages` holds constants and slots; `columns` are the columns that a `Chunk` must bring,
    `reads_index` says whether it must bring the index labels too.
    """

    def __init__(
        self,
        messages: tuple[Message, ...],
        slots: Sequence[_AnySlot],
        columns: tuple[Hashable, ...],
        *,
        reads_index: bool,
    ) -> None:
        self.messages = messages
        self.columns = columns
        self.reads_index = reads_index
        self._slots = tuple(slots)

    @property
    def slot_count(self) -> int:
        return len(self._slots)

    def render(self, chunk: Chunk) -> Rendered:
        """Fill the slots for each row of `chunk`, in order.

        A row whose every column is missing is skipped. Raises `TemplateError`, naming the row,
        when a value cannot be written.
        """
        used = [chunk.columns[column] for column in self.columns]
        rows, skipped, missing = _sort_out(used, chunk.size)
        given = _Given(chunk, rows)
        return Rendered(
            positions=given.positions,
            slots=tuple(slot.fill(given) for slot in self._slots),
            skipped=[chunk.start + row for row in skipped],
            missing_values=missing,
        )


def _sort_out(
    used: Sequence[Sequence[object]], size: int
) -> tuple[Sequence[int], Sequence[int], int]:
    """Rows to send, rows with nothing to send, and how many of the former miss a value."""
    if not any(None in values for values in used):
        return range(size), [], 0
    gaps = [sum(value is None for value in row) for row in zip(*used, strict=True)]
    rows = [row for row, gap in enumerate(gaps) if gap < len(used)]
    skipped = [row for row, gap in enumerate(gaps) if gap == len(used)]
    missing = sum(1 for row in rows if gaps[row])
    return (rows if skipped else range(size)), skipped, missing


@dataclass(slots=True)
class _Compiler:
    names: _Names
    environment: _Sandbox = field(default_factory=_Sandbox)
    slots: list[_AnySlot] = field(default_factory=list)

    def message(self, source: _Source) -> Message:
        tree = self._parse(source)
        if all(isinstance(node, nodes.Output) for node in tree.body):
            parts = [part for node in tree.body for part in node.iter_child_nodes()]
            pieces = [self._piece([part], part.lineno) for part in parts]
        else:
            pieces = [self._piece(tree.body, source.first_line)]
        return Message(source.role, _joined(pieces))

    def _parse(self, source: _Source) -> nodes.Template:
        offset = source.first_line - 1
        try:
            tree = self.environment.parse(source.text)
        except TemplateSyntaxError as error:
            _refuse_syntax(error, offset)
        except RecursionError:
            raise TemplateError("the template is nested too deeply; make it simpler") from None
        for node in tree.find_all(nodes.Node):
            node.lineno = (node.lineno or 1) + offset  # some operators come without a line
        _refuse_imports(tree)
        _RowReader(self.names).visit(tree)
        return tree

    def _piece(self, body: Sequence[nodes.Node], line: int) -> str | Slot:
        if len(body) == 1 and isinstance(body[0], nodes.TemplateData):
            return body[0].data
        if len(body) == 1 and (slot := self._bare(body[0])) is not None:
            return self._place(slot)
        return self._jinja(body, line)

    def _bare(self, node: nodes.Node) -> _AnySlot | None:
        """The slot of an expression that is nothing but a column, the position or the index."""
        if not isinstance(node, nodes.Name):
            return None
        if node.name == "__position":
            return _PositionSlot()
        if node.name == "__index":
            return _IndexSlot()
        for column, name in self.names.read.items():
            if node.name == name:
                return _ColumnSlot(column, node.lineno)
        if self.names.is_column(node.name):
            name = self.names.column(node.name, node.lineno)
            column = next(each for each, own in self.names.read.items() if own == name)
            return _ColumnSlot(column, node.lineno)
        return None

    def _place(self, slot: _AnySlot) -> Slot:
        if isinstance(slot, _ColumnSlot):
            for n, other in enumerate(self.slots):
                if isinstance(other, _ColumnSlot) and other.column == slot.column:
                    return Slot(n)
        self.slots.append(slot)
        return Slot(len(self.slots) - 1)

    def _jinja(self, body: Sequence[nodes.Node], line: int) -> str | Slot:
        tree = self._tree(body, line)
        template = self._compile(tree, line)
        wanted = meta.find_undeclared_variables(tree)
        slot = self._jinja_slot(template, tree, wanted, line)
        if slot.columns or slot.whole_row or wanted & {"__position", "__index", "__row"}:
            return self._place(slot)
        return self._constant(slot)

    def _tree(self, body: Sequence[nodes.Node], line: int) -> nodes.Template:
        if len(body) == 1 and isinstance(body[0], nodes.Expr):
            body = [nodes.Output([body[0]], lineno=line)]
        tree = nodes.Template(list(body), lineno=1)
        tree.set_environment(self.environment)
        return tree

    def _jinja_slot(
        self, template: JinjaTemplate, tree: nodes.Template, wanted: set[str], line: int
    ) -> _JinjaSlot:
        columns: dict[Hashable, tuple[str, ...]] = {}
        constants: dict[str, object] = {}
        for name in sorted(wanted):
            self._resolve(name, _line_of_name(tree, name, line), columns, constants)
        whole_row = "__row" in wanted
        if whole_row:
            for column, own in self.names.read.items():
                columns.setdefault(column, (own,))
        return _JinjaSlot(template, constants, columns, whole_row, line)

    def _resolve(
        self,
        name: str,
        line: int,
        columns: dict[Hashable, tuple[str, ...]],
        constants: dict[str, object],
    ) -> None:
        """Find out what `name` stands for: a column, an extra or one of Jinja's own."""
        if name in ("__position", "__index", "__row"):
            return
        by_name = {own: column for column, own in self.names.read.items()}
        if name in by_name:
            column = by_name[name]
        elif name in self.names.extras:
            constants[name] = self.names.extras[name]
            return
        elif name in self.environment.safe_globals and not self.names.is_column(name):
            constants[name] = self.environment.safe_globals[name]
            return
        else:
            own = self.names.column(name, line)
            column = next(each for each, other in self.names.read.items() if other == own)
        columns[column] = (*columns.get(column, ()), name)

    def _compile(self, tree: nodes.Template, line: int) -> JinjaTemplate:
        try:
            return self.environment.from_string(tree)
        except TemplateSyntaxError as error:
            _refuse_syntax(error, 0)
        except (RecursionError, SyntaxError, MemoryError) as error:
            raise TemplateError(
                f"the template is too complex (template line {line}): {_cause(error)}"
            ) from error

    def _constant(self, slot: _JinjaSlot) -> str:
        try:
            return _run(slot.template, dict(slot.constants))
        except Exception as error:
            line = _line_of(slot.template, error.__traceback__) or slot.line
            raise TemplateError(f"{_cause(error)} (template line {line})") from error


def _joined(pieces: Iterable[str | Slot]) -> tuple[str | Slot, ...]:
    """The same pieces with neighbouring constants joined and empty ones dropped."""
    joined: list[str | Slot] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        elif piece != "":
            joined.append(piece)
    return tuple(joined)


def _line_of_name(tree: nodes.Template, name: str, otherwise: int) -> int:
    lines = [node.lineno for node in tree.find_all(nodes.Name) if node.name == name]
    return min(lines, default=otherwise)


def _refuse_syntax(error: TemplateSyntaxError, offset: int) -> NoReturn:
    said = " ".join((error.message or "it cannot be read").split()).rstrip(".")
    raise TemplateError(
        f"the template cannot be read: {said} (template line {error.lineno + offset})"
    ) from None


def _refuse_imports(tree: nodes.Template) -> None:
    kinds = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
    for node in tree.find_all(kinds):
        raise TemplateError(
            f"{type(node).__name__.lower()} is not available in a cell "
            f"(template line {node.lineno}); there is only one template"
        )


def _refuse_clashes(columns: Sequence[Hashable], extras: Mapping[str, object], frame: str) -> None:
    for name in extras:
        if name == "row":
            raise TemplateError("'row' stands for the whole row; give the variable another name")
        if name in columns:
            raise TemplateError(
                f"{name!r} is a column of {frame} and also given by --with; "
                "give the variable another name"
            )


def _refuse_empty(source: _Source, alone: bool) -> None:
    if source.text.strip():
        return
    if alone:
        raise TemplateError("the template is empty; write the prompt in the cell's body")
    raise TemplateError(
        f"the {source.role} message is empty (template line {source.first_line}); "
        "write its text below the role line, or remove the line"
    )


_NO_EXTRAS: Mapping[str, object] = MappingProxyType({})


def compile_template(
    body: str,
    *,
    columns: Sequence[Hashable],
    extras: Mapping[str, object] = _NO_EXTRAS,
    frame_name: str = "the frame",
) -> Template:
    """Compile a cell's body against a frame's column names.

    `extras` are values that the template may use besides columns. Raises `TemplateError` for
    whatever would fail with every row: a wrong name, a syntax error, a template that reads no
    column; the message names the line of the template.
    """
    body = body.replace("\r\n", "\n").replace("\r", "\n")
    _refuse_clashes(columns, extras, frame_name)
    _refuse_images(body)
    sources = _split(body)
    for source in sources:
        _refuse_empty(source, alone=len(sources) == 1)
    names = _Names(tuple(columns), extras, frame_name)
    compiler = _Compiler(names)
    messages = tuple(compiler.message(source) for source in sources)
    if not names.read and not names.reads_row:
        raise TemplateError(
            f"the template reads no column of {frame_name}, so that every row would be asked "
            "the same; write {{ column }} where its text belongs"
        )
    return Template(messages, compiler.slots, tuple(names.read), reads_index=names.reads_index)
