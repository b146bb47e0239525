"""The prompt template: a cell's body compiled against a frame's columns, and rendered by chunks.

It knows how a body becomes a plan and a chunk becomes texts; it refuses to know frames, files
and JSON: columns are names, rows come as a `Chunk`. A template becomes a plan of constants
and slots; a slot is a bare column where the text allows it, else a piece of compiled Jinja that
is run once for each row. The trap is that the two ways must give the same text, missing values
included.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import NoReturn

from jinja2 import Template as JinjaTemplate
from jinja2 import TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError

from batch_magic import prompt_language as language
from batch_magic.cell_body import Source, split_body
from batch_magic.errors import TemplateError
from batch_magic.records import Chunk, Message, Rendered, Slot
from batch_magic.template_names import INDEX, POSITION, ROW, Names, RowReader

_NO_EXTRAS: Mapping[str, object] = MappingProxyType({})


class Template:
    """A compiled prompt: what it reads, its messages as a plan, and how to fill them.

    `messages` holds constants and slots; `columns` are the columns that a `Chunk` must bring,
    those in `bare` are only written out, so that UTF-8 will do. `reads_index` says whether it
    must bring the index labels too.
    """

    def __init__(
        self,
        messages: tuple[Message, ...],
        slots: Sequence[_ColumnSlot | _JinjaSlot],
        columns: tuple[Hashable, ...],
        *,
        reads_index: bool,
    ) -> None:
        self.messages = messages
        self.columns = columns
        self.reads_index = reads_index
        self._slots = tuple(slots)
        inside = {name for slot in slots if isinstance(slot, _JinjaSlot) for name in slot.columns}
        self.bare = tuple(column for column in columns if column not in inside)

    def render(self, chunk: Chunk) -> Rendered:
        """Fill the slots for each row of `chunk`, in order.

        A row whose every column is missing is skipped. Raises `TemplateError`, naming the row,
        when a value cannot be written.
        """
        used = [_values(chunk, column) for column in self.columns]
        rows, skipped, missing = _sort_out(used, chunk.size)
        positions: Sequence[int] = range(chunk.start, chunk.start + chunk.size)
        if skipped:
            positions = [chunk.start + row for row in rows]
        return Rendered(
            positions=positions,
            slots=tuple(slot.fill(chunk, rows) for slot in self._slots),
            skipped=[chunk.start + row for row in skipped],
            missing_values=missing,
        )


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
    sources = split_body(body)
    names = Names(tuple(columns), extras, frame_name)
    compiler = _Compiler(names)
    try:
        messages = tuple(compiler.message(source) for source in sources)
    except RecursionError:
        raise TemplateError("the template is nested too deeply; make it simpler") from None
    if not names.read and not names.reads_row:
        raise TemplateError(
            f"the template reads no column of {frame_name}, so that every row would be asked "
            "the same; write {{ column }} where its text belongs"
        )
    read = tuple(names.read.values())
    return Template(messages, compiler.slots, read, reads_index=names.reads_index)


# --- rows -----------------------------------------------------------------------------------


def _values(chunk: Chunk, column: Hashable) -> Sequence[object]:
    return chunk.texts[column] if column in chunk.texts else chunk.columns[column]


def _sort_out(
    used: Sequence[Sequence[object]], size: int
) -> tuple[Sequence[int], Sequence[int], int]:
    """Rows to send, rows with nothing to send, and how many of the former miss a value."""
    if not any(map(_has_gap, used)):
        return range(size), [], 0
    gaps = [sum(value is None for value in row) for row in zip(*used, strict=True)]
    rows = [row for row, gap in enumerate(gaps) if gap < len(used)]
    skipped = [row for row, gap in enumerate(gaps) if gap == len(used)]
    return rows, skipped, sum(1 for row in rows if gaps[row])


def _has_gap(values: Sequence[object]) -> bool:
    if values and type(values[0]) is bytes:
        return None in values  # UTF-8 throughout; other values may have an == of their own
    return any(value is None for value in values)


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


# --- slots ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _ColumnSlot:
    """`{{ column }}`: no Jinja at all."""

    column: Hashable
    line: int = field(compare=False)

    def fill(self, chunk: Chunk, rows: Sequence[int]) -> Sequence[str] | Sequence[bytes]:
        if (ready := chunk.texts.get(self.column)) is not None:
            if len(rows) == len(ready) and None not in ready:
                return ready  # type: ignore[return-value]  # no None in it
            return [ready[row] or b"" for row in rows]
        values = chunk.columns[self.column]
        return [self._text(values[row], chunk.start + row) for row in rows]

    def _text(self, value: object, position: int) -> str:
        if type(value) is str:
            return value
        try:
            return language.text(value)
        except Exception as error:
            raise TemplateError(
                f"row {position}: column {self.column!r} cannot be written as text: "
                f"{_cause(error)} (template line {self.line})"
            ) from error


@dataclass(frozen=True, slots=True)
class _JinjaSlot:
    """A piece of Jinja, run once for each row with only the names it needs."""

    template: JinjaTemplate
    constants: Mapping[str, object]
    names: Mapping[str, Hashable]  # a name in this piece → the column it stands for
    columns: tuple[Hashable, ...]  # all that are read, by name or as part of the row
    whole_row: bool
    line: int

    def fill(self, chunk: Chunk, rows: Sequence[int]) -> list[str]:
        return [self._render(chunk, row) for row in rows]

    def _render(self, chunk: Chunk, row: int) -> str:
        position, label = chunk.start + row, chunk.index[row] if chunk.index else None
        values = {column: _given(chunk.columns[column][row]) for column in self.columns}
        variables = {**self.constants, POSITION: position, INDEX: label}
        variables |= {name: values[column] for name, column in self.names.items()}
        if self.whole_row:
            variables[ROW] = _Row(values, position, label)
        try:
            return language.run(self.template, variables)
        except Exception as error:
            line = _line_of(self.template, error.__traceback__) or self.line
            raise TemplateError(
                f"row {position}: {_cause(error)} (template line {line})"
            ) from error


def _given(value: object) -> object:
    """A value as a template sees it."""
    if type(value) is str:
        return value
    return language.MISSING if value is None else language.plain(value)


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


@dataclass(slots=True)
class _Compiler:
    names: Names
    environment: language.Sandbox = field(default_factory=language.Sandbox)
    slots: list[_ColumnSlot | _JinjaSlot] = field(default_factory=list)

    def message(self, source: Source) -> Message:
        tree = self._parse(source)
        if all(isinstance(node, nodes.Output) for node in tree.body):
            parts = [part for node in tree.body for part in node.iter_child_nodes()]
            pieces = [self._piece([part], part.lineno) for part in parts]
        else:
            pieces = [self._piece(tree.body, source.first_line)]
        return Message(source.role, _joined(pieces))

    def _parse(self, source: Source) -> nodes.Template:
        offset = source.first_line - 1
        try:
            tree = self.environment.parse(source.text)
        except TemplateSyntaxError as error:
            _refuse_syntax(error, offset)
        for node in tree.find_all(nodes.Node):
            node.lineno = (node.lineno or 1) + offset  # some operators come without a line
        RowReader(self.names).visit(tree)
        return tree

    def _piece(self, body: Sequence[nodes.Node], line: int) -> str | Slot:
        only = body[0] if len(body) == 1 else None
        if isinstance(only, nodes.TemplateData):
            return only.data
        if isinstance(only, nodes.Name) and (column := self._bare(only)):
            return self._place(_ColumnSlot(*column, only.lineno))
        return self._jinja(body, line)

    def _bare(self, node: nodes.Name) -> tuple[Hashable] | None:
        """The column of an expression that is nothing but its name."""
        own = node.name
        if own not in self.names.read and self.names.is_column(own):
            own = self.names.take(own, node.lineno)
        return (self.names.read[own],) if own in self.names.read else None

    def _place(self, slot: _ColumnSlot | _JinjaSlot) -> Slot:
        for n, other in enumerate(self.slots):
            if isinstance(slot, _ColumnSlot) and slot == other:
                return Slot(n)
        self.slots.append(slot)
        return Slot(len(self.slots) - 1)

    def _jinja(self, body: Sequence[nodes.Node], line: int) -> str | Slot:
        if len(body) == 1 and isinstance(body[0], nodes.Expr):
            body = [nodes.Output([body[0]], lineno=line)]
        tree = nodes.Template(list(body), lineno=1)
        tree.set_environment(self.environment)
        slot = self._slot(tree, line)
        wanted = meta.find_undeclared_variables(tree)
        if slot.columns or wanted & {POSITION, INDEX, ROW}:
            return self._place(slot)
        try:
            return language.run(slot.template, dict(slot.constants))
        except Exception as error:
            line = _line_of(slot.template, error.__traceback__) or line
            raise TemplateError(f"{_cause(error)} (template line {line})") from error

    def _slot(self, tree: nodes.Template, line: int) -> _JinjaSlot:
        constants: dict[str, object] = {}
        names: dict[str, Hashable] = {}
        template = self._compile(tree, line)
        wanted = meta.find_undeclared_variables(tree)
        for name in sorted(wanted - {POSITION, INDEX, ROW}):
            if name in self.names.extras:
                constants[name] = self.names.extras[name]
            elif name in self.environment.names and not self.names.is_column(name):
                constants[name] = self.environment.names[name]
            else:
                own = name
                if own not in self.names.read:
                    own = self.names.take(name, _line_of_name(tree, name, line))
                names[name] = self.names.read[own]
        is_whole = ROW in wanted
        columns = tuple(self.names.read.values() if is_whole else dict.fromkeys(names.values()))
        return _JinjaSlot(template, constants, names, columns, is_whole, line)

    def _compile(self, tree: nodes.Template, line: int) -> JinjaTemplate:
        try:
            return self.environment.from_string(tree)
        except TemplateSyntaxError as error:
            _refuse_syntax(error, 0)
        except (RecursionError, SyntaxError, MemoryError) as error:
            raise TemplateError(
                f"the template is too complex (template line {line}): {_cause(error)}"
            ) from error


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
