"""The names in a template: columns, `row`, and what `--with` gives.

It knows how a name as written leads to a column, and what to say when it does not; it refuses to
know values. Every column that is read gets a name of its own inside Jinja, as column names may
be anything. The trap is `row`: `row["a b"]` reads one column, `row` alone reads them all.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from batch_magic.errors import TemplateError

POSITION, INDEX, ROW = "__position", "__index", "__row"
"""What `row.position`, `row.index` and `row` are called inside Jinja."""

_COLUMN = "__column_"
_OWN = (POSITION, INDEX, ROW, _COLUMN)
_NAMES_SHOWN = 8


@dataclass(slots=True)
class Names:
    """What names a template may use, and which columns it has been seen to read."""

    columns: tuple[Hashable, ...]
    extras: Mapping[str, object]
    frame_name: str
    read: dict[str, Hashable] = field(default_factory=dict)  # a column by its name in Jinja
    reads_index: bool = False
    reads_row: bool = False

    def __post_init__(self) -> None:
        for name in self.extras:
            if name == "row":
                raise TemplateError(
                    "'row' stands for the whole row; give the variable another name"
                )
            if name in self.columns:
                raise TemplateError(
                    f"{name!r} is a column of {self.frame_name} and also given by --with; "
                    "give the variable another name"
                )

    def take(self, name: Hashable, line: int) -> str:
        """Take note that column `name` is read; its name inside Jinja."""
        found = self._known(name)
        if not found:
            raise TemplateError(
                f"column {name!r} is not in {self.frame_name} (template line {line}); "
                f"{self._advice(name)}"
            )
        if len(found) > 1:
            raise TemplateError(
                f"column {name!r} occurs more than once in {self.frame_name} "
                f"(template line {line}); rename one of them"
            )
        for own, column in self.read.items():
            if column is found[0]:
                return own
        if any(_is_equal(found[0], other) for other in self.read.values()):
            raise TemplateError(
                f"columns {found[0]!r} and its equal by another type cannot both be read (template"
                f" line {line}); rename one of them"
            )
        own = f"{_COLUMN}{len(self.read)}"
        self.read[own] = found[0]
        return own

    def is_column(self, name: Hashable) -> bool:
        return bool(self._known(name))

    def _known(self, name: Hashable) -> list[Hashable]:
        """The columns of this name: none, one, or several."""
        same = [each for each in self.columns if each is name or _is_same(each, name)]
        if same or not isinstance(name, str):
            return same
        # The same letters, composed otherwise: names that came from a Mac's file system.
        wanted = _composed(name)
        return [
            each for each in self.columns if isinstance(each, str) and _composed(each) == wanted
        ]

    def _advice(self, name: Hashable) -> str:
        written = {_composed(str(each)).lower(): each for each in (*self.extras, *self.columns)}
        near = get_close_matches(_composed(str(name)).lower(), list(written), n=2)
        if near:
            return f"did you mean {' or '.join(repr(written[each]) for each in near)}?"
        shown = ", ".join(repr(column) for column in self.columns[:_NAMES_SHOWN])
        more = ", …" if len(self.columns) > _NAMES_SHOWN else ""
        has = f"its columns are {shown}{more}" if shown else "it has no columns"
        is_variable = isinstance(name, str) and name.isidentifier()
        return f"{has}; a notebook variable needs --with {name}" if is_variable else has


def _is_same(one: Hashable, other: Hashable) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _is_equal(one: Hashable, other: Hashable) -> bool:
    try:
        return bool(one == other)
    except (TypeError, ValueError):
        return False


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


class RowReader(NodeTransformer):
    """Turn `row["name"]`, `row.name`, `row.position` and `row.index` into plain names."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:  # noqa: N802  Jinja's word
        is_method = node.attr in ("items", "keys", "values", "get")
        if not _is_row(node.node) or (is_method and not self._names.is_column(node.attr)):
            return self.generic_visit(node)
        self._names.reads_row = True
        if node.attr == "position":
            return _name(POSITION, node.lineno)
        if node.attr == "index":
            self._names.reads_index = True
            return _name(INDEX, node.lineno)
        return self._column(node.attr, node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802  Jinja's word
        try:
            key = node.arg.as_const() if _is_row(node.node) else None
        except nodes.Impossible:
            key = None
        if key is None or not isinstance(key, Hashable):
            return self.generic_visit(node)
        self._names.reads_row = True
        return self._column(key, node.lineno)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802  Jinja's word
        if node.name in ("self", "super") and self._names.is_column(node.name):
            return self._column(node.name, node.lineno)
        if node.name.startswith(_OWN):
            raise TemplateError(
                f"{node.name!r} is taken by batch_magic (template line {node.lineno}); a column"
                f" of that name is row[{node.name!r}]"
            )
        if node.name != "row":
            return node
        if node.ctx != "load":
            raise TemplateError(
                f"'row' stands for the whole row (template line {node.lineno}); use another name"
            )
        self._names.reads_row = self._names.reads_index = True
        for column in self._names.columns:
            self._names.take(column, node.lineno)
        return _name(ROW, node.lineno)

    def _column(self, name: Hashable, line: int) -> nodes.Name:
        return _name(self._names.take(name, line), line)


def _is_row(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "row" and node.ctx == "load"


def _name(name: str, line: int) -> nodes.Name:
    return nodes.Name(name, "load", lineno=line)
