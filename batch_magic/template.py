"""The prompt template: a cell's body compiled against a frame's columns, and rendered by chunks.

It knows how a body becomes a plan and a chunk becomes texts; it refuses to know frames, files
and JSON: columns are names, rows come as a `Chunk`. A template becomes a plan of constants
and slots; a slot is a bare column where the text allows it, else a piece of compiled Jinja that
is run once for each row. The trap is that the two ways must give the same text, missing values
included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn

from jinja2 import Template as JinjaTemplate
from jinja2 import TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError

from batch_magic import prompt_language as language
from batch_magic.cell_body import Source, split_body
from batch_magic.errors import TemplateError, Unsendable
from batch_magic.images import url_of
from batch_magic.records import Chunk, Message, Part, Parts, Rendered, Slot, Value
from batch_magic.template_names import INDEX, POSITION, ROW, Names, RowReader

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_JINJA = re.compile(r"\{\{.*\}\}|\{%.*%\}", re.DOTALL)
_MAX_INPUTS = 2048  # of one embeddings request (the API reference)


class Template:
    """A compiled prompt: what it reads, its messages as a plan, and how to fill them.

    `messages` holds constants and slots; `params` are the parameters of a request, with a `Value`
    wherever each row has its own; `model` is the slot of each row's model, if it has its own.
    `columns` are the columns that a `Chunk` must bring, those in `bare` are only written out, so
    that UTF-8 will do. `reads_index` says whether it must bring the index labels too, and
    `has_images` that its lines are long; with `has_lists` each row may have several inputs.
    """

    def __init__(
        self,
        messages: tuple[Message, ...],
        slots: Sequence[_Filled],
        *,
        columns: tuple[Hashable, ...],
        prompted: tuple[Hashable, ...],
        params: Mapping[str, Any],
        model: int | None,
        reads_index: bool,
    ) -> None:
        self.messages, self.params, self.model = messages, params, model
        self.columns = columns
        self.reads_index = reads_index
        self.has_images = any(isinstance(slot, _PartsSlot) for slot in slots)
        self.has_lists = any(isinstance(piece, Value) for one in messages for piece in one.pieces)
        self._prompted = prompted  # a row without any of these has nothing to send
        self._slots = tuple(slots)
        inside = {name for slot in slots for name in slot.needed}
        self.bare = tuple(column for column in columns if column not in inside)

    @property
    def constants(self) -> tuple[str, str]:
        """What every row's prompt has in common: from its beginning on, and after text of a row."""
        pieces = [piece for message in self.messages for piece in message.pieces]
        first = next((n for n, one in enumerate(pieces) if not isinstance(one, str)), len(pieces))
        texts = [one if isinstance(one, str) else "" for one in pieces]
        return "\n".join(texts[:first]), "\n".join(texts[first:])

    def render(self, chunk: Chunk) -> Rendered:
        """Fill the slots for each row of `chunk`, in order.

        A row whose every column of the prompt is missing is skipped; one with a value that no
        request can carry is unsendable. Raises `TemplateError`, naming the row, when a value
        cannot be written.
        """
        used = [_values(chunk, column) for column in self._prompted]
        rows, skipped, missing = _sort_out(used, chunk.size)
        filled: list[Sequence[Any]] = [slot.fill(chunk, rows) for slot in self._slots]
        positions: Sequence[int] = range(chunk.start, chunk.start + chunk.size)
        if skipped:
            positions = [chunk.start + row for row in rows]
        faults = {
            n: str(value)
            for slot, values in zip(self._slots, filled, strict=True)
            if slot.may_fail
            for n, value in enumerate(values)
            if isinstance(value, Unsendable)
        }
        if faults:
            good = [n for n in range(len(positions)) if n not in faults]
            filled = [[values[n] for n in good] for values in filled]
        return Rendered(
            positions=[positions[n] for n in good] if faults else positions,
            slots=tuple(filled),
            skipped=[chunk.start + row for row in skipped],
            missing_values=missing,
            unsendable=[(positions[n], said) for n, said in faults.items()],
        )


def compile_template(
    body: str,
    *,
    columns: Sequence[Hashable],
    extras: Mapping[str, object] = _NOTHING,
    frame_name: str = "the frame",
    model: str = "",
    params: Mapping[str, Any] = _NOTHING,
    lists: Sequence[Hashable] = (),
    image_max: int = 0,
    preface: str = "",
) -> Template:
    """Compile a cell's body against a frame's column names.

    `extras` are values that the template may use besides columns. A `model` or a text within
    `params` may be a template as well. A body that is nothing but one of the columns `lists` is a
    list of inputs. Images are made no larger than `image_max`. A `preface` is a system message of
    ours, before all others. Raises `TemplateError` for whatever would fail with every row: a wrong
    name, a syntax error, a template that reads no column; the message names the template's line.
    """
    sources = split_body(body, language.IMAGE)
    names = Names(tuple(columns), extras, frame_name)
    compiler = _Compiler(names, tuple(lists), image_max)
    try:
        messages = tuple(compiler.message(source) for source in sources)
        prompted = tuple(names.read.values())
        if not prompted and not names.reads_row:
            raise TemplateError(
                f"the template reads no column of {frame_name}, so that every row would be asked "
                "the same; write {{ column }} where its text belongs"
            )
        own_model = compiler.model(model) if is_template(model) else None
        own_params = compiler.params(params)
    except RecursionError:
        raise TemplateError("the template is nested too deeply; make it simpler") from None
    return Template(
        (Message("system", (preface,)), *messages) if preface else messages,
        compiler.slots,
        columns=tuple(names.read.values()),
        prompted=prompted,
        params=own_params,
        model=own_model,
        reads_index=names.reads_index,
    )


def is_template(text: object) -> bool:
    """Tell whether a model or a parameter is given for each row by itself."""
    return isinstance(text, str) and _JINJA.search(text) is not None


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
    may_fail = False
    needed = ()

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
                f"{_cause(error)} (template line {self.line}); mend the value, or use a filter"
            ) from error


@dataclass(frozen=True, slots=True)
class _JinjaSlot:
    """A piece of Jinja, run once for each row with only the names it needs."""

    template: JinjaTemplate
    constants: Mapping[str, object]
    names: Mapping[str, Hashable]  # a name in this piece → the column it stands for
    needed: tuple[Hashable, ...]  # all columns that are read, by name or as part of the row
    whole_row: bool
    line: int
    may_fail = False

    def fill(self, chunk: Chunk, rows: Sequence[int]) -> list[str]:
        return [self.run(language.run, chunk, row) for row in rows]

    def run(
        self,
        run: Callable[[JinjaTemplate, dict[str, object]], Any],
        chunk: Chunk,
        row: int,
        given: Callable[[object], object] | None = None,
    ) -> Any:
        """Run it for one row, in one of the ways of the language; `given` prepares its values."""
        given = given or _given
        position, label = chunk.position(row), chunk.index[row] if chunk.index else None
        values = {column: given(chunk.columns[column][row]) for column in self.needed}
        variables = {**self.constants, POSITION: position, INDEX: label}
        variables |= {name: values[column] for name, column in self.names.items()}
        if self.whole_row:
            variables[ROW] = _Row(values, position, label)
        try:
            return run(self.template, variables)
        except Unsendable:
            raise
        except Exception as error:
            line = _line_of(self.template, error.__traceback__) or self.line
            raise TemplateError(
                f"row {position}: {_cause(error)} (template line {line}); mend the expression,"
                " or the row"
            ) from error


@dataclass(frozen=True, slots=True)
class _PartsSlot:
    """A message with images: texts and images in the order in which they stand."""

    whole: _JinjaSlot
    image_max: int
    may_fail = True

    @property
    def needed(self) -> tuple[Hashable, ...]:
        return self.whole.needed

    def fill(self, chunk: Chunk, rows: Sequence[int]) -> list[tuple[Part, ...] | Unsendable]:
        return [self._parts(chunk, row) for row in rows]

    def _parts(self, chunk: Chunk, row: int) -> tuple[Part, ...] | Unsendable:
        try:
            texts, images = self.whole.run(language.parts, chunk, row, language.with_images)
        except Unsendable as error:
            return error
        found: list[Part] = []
        for n, text in enumerate(texts):
            found += [("text", text.strip("\n"))] if text.strip() else []
            try:
                found += [("image", url_of(images[n], self.image_max))] if n < len(images) else []
            except Unsendable as error:
                return Unsendable(f"image {n + 1}: {error}" if len(images) > 1 else str(error))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class _ValueSlot:
    """A row's own value, written by `write`: "" where it is missing."""

    whole: _JinjaSlot
    run: Callable[[JinjaTemplate, dict[str, object]], object]  # gives a value, or a text
    write: Callable[[Any], str]
    where: str
    may_fail = True

    @property
    def needed(self) -> tuple[Hashable, ...]:
        return self.whole.needed

    def fill(self, chunk: Chunk, rows: Sequence[int]) -> list[str | Unsendable]:
        return [self._value(chunk, row) for row in rows]

    def _value(self, chunk: Chunk, row: int) -> str | Unsendable:
        try:
            return self.write(self.whole.run(self.run, chunk, row))
        except Unsendable as error:
            return error
        except (TypeError, ValueError) as error:
            raise TemplateError(f"row {chunk.start + row}: {self.where}: {error}") from None
        except TemplateError as error:
            raise TemplateError(f"{self.where}: {_without_line(error)}") from None


_Filled = _ColumnSlot | _JinjaSlot | _PartsSlot | _ValueSlot


def _as_json(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with a gap holds floats
    return "" if language.is_missing(value) else _dumped(value)


def _text_as_json(text: str) -> str:
    """Write a text as the JSON that it is, else as a text."""
    try:
        return _dumped(json.loads(text))
    except (ValueError, RecursionError):
        return _dumped(text)


def _dumped(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text


def _as_model(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        told = (
            "no model" if language.is_missing(value) or value == "" else f"{value!r:.40}, no name"
        )
        raise ValueError(f"it gives {told}; fill the column or leave the row out")
    if "," in value:
        raise ValueError(f"it gives {value!r:.60}; a name holds no comma")
    if not value.isprintable():
        raise ValueError(f"it gives {value!a:.60}, no name")
    return value.strip()


def _as_inputs(value: object) -> str:
    """Write the inputs of a row that has a list of them, or one."""
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        return _dumped(language.text(value))
    if not value or len(value) > _MAX_INPUTS:
        raise Unsendable(f"it has {len(value):,} inputs, a request holds 1 to {_MAX_INPUTS:,}")
    for n, one in enumerate(value):
        if not isinstance(one, str) or not one:
            raise Unsendable(
                f"its input {n} is {'missing' if not one else f'{one!r:.40}, no text'}"
            )
    return _dumped(value)


_MEND = "mend the expression: what stands between its braces is Jinja2"


def _without_line(error: TemplateError) -> str:
    return re.sub(r" \(template line 1\)", "", str(error))


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
    lists: tuple[Hashable, ...]
    image_max: int
    environment: language.Sandbox = field(default_factory=language.Sandbox)
    slots: list[_Filled] = field(default_factory=list)

    def message(self, source: Source) -> Message:
        tree = self._parse(source)
        if source.has_images:
            whole = self._slot(_tree(tree.body, self.environment), source.first_line)
            return Message(source.role, (Parts(self._add(_PartsSlot(whole, self.image_max))),))
        if self._is_list(tree):
            return Message(source.role, (self._value(tree, _as_inputs, _as_inputs, "the inputs"),))
        if all(isinstance(node, nodes.Output) for node in tree.body):
            parts = [part for node in tree.body for part in node.iter_child_nodes()]
            pieces = [self._piece([part], part.lineno) for part in parts]
        else:
            pieces = [self._piece(tree.body, source.first_line)]
        return Message(source.role, _joined(pieces))

    def _is_list(self, tree: nodes.Template) -> bool:
        """Tell whether a message is one expression of a column that holds lists."""
        if not self.lists or _only_expression(tree) is None:
            return False
        columns = [self._bare(node) for node in tree.find_all(nodes.Name)]
        return any(column is not None and column[0] in self.lists for column in columns)

    def model(self, text: str) -> int:
        """Compile a model that each row has of its own; return its slot."""
        return self._template(text, _as_model, _as_model, "-m").n

    def params(self, value: Any, where: str = "-p") -> Any:
        """Compile each text within parameters that is a template."""
        if is_template(value):
            return self._template(value, _as_json, _text_as_json, where)
        if isinstance(value, Mapping):
            return {name: self.params(one, f"{where} {name}") for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.params(one, where) for one in value]
        return value

    def _template(
        self, text: str, write: Callable[[Any], str], write_text: Callable[[str], str], where: str
    ) -> Value:
        try:
            return self._value(self._parse(Source("", text, 1)), write, write_text, where)
        except TemplateError as error:
            raise TemplateError(f"{where} {text!r:.60}: {_without_line(error)}") from None

    def _value(
        self,
        tree: nodes.Template,
        write: Callable[[Any], str],
        write_text: Callable[[str], str],
        where: str,
    ) -> Value:
        """Add a slot for a single expression's value, or for the text that anything else writes."""
        only = _only_expression(tree)
        if only is None:
            whole = self._slot(_tree(tree.body, self.environment), 1)
            return Value(self._add(_ValueSlot(whole, language.run, write_text, where)))
        target = nodes.Name(language.RESULT, "store", lineno=only.lineno)
        body = [nodes.Assign(target, only, lineno=only.lineno)]
        whole = self._slot(_tree(body, self.environment), 1)
        return Value(self._add(_ValueSlot(whole, language.value_of, write, where)))

    def _add(self, slot: _Filled) -> int:
        self.slots.append(slot)
        return len(self.slots) - 1

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
        return Slot(self._add(slot))

    def _jinja(self, body: Sequence[nodes.Node], line: int) -> str | Slot:
        if len(body) == 1 and isinstance(body[0], nodes.Expr):
            body = [nodes.Output([body[0]], lineno=line)]
        tree = _tree(body, self.environment)
        slot = self._slot(tree, line)
        wanted = meta.find_undeclared_variables(tree)
        if slot.needed or wanted & {POSITION, INDEX, ROW}:
            return self._place(slot)
        try:
            return language.run(slot.template, dict(slot.constants))
        except Exception as error:
            line = _line_of(slot.template, error.__traceback__) or line
            raise TemplateError(f"{_cause(error)} (template line {line}); {_MEND}") from error

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
                f"the template is too complex (template line {line}): {_cause(error)};"
                " make it simpler"
            ) from error


def _tree(body: Sequence[nodes.Node], environment: language.Sandbox) -> nodes.Template:
    tree = nodes.Template(list(body), lineno=1)
    tree.set_environment(environment)
    return tree


def _only_expression(tree: nodes.Template) -> nodes.Expr | None:
    """Return the expression that is all there is, but for white space around it."""
    outputs = [part for node in tree.body for part in node.iter_child_nodes()]
    if not all(isinstance(node, nodes.Output) for node in tree.body):
        return None
    some = [one for one in outputs if not _is_blank(one)]
    only = some[0] if len(some) == 1 else None
    return (
        only if isinstance(only, nodes.Expr) and not isinstance(only, nodes.TemplateData) else None
    )


def _is_blank(node: nodes.Node) -> bool:
    return isinstance(node, nodes.TemplateData) and not node.data.strip()


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
        f"the template cannot be read: {said} (template line {error.lineno + offset}); mend it: an"
        " expression is {{ column }}, a condition {% if column %}…{% endif %}"
    ) from None
