"""A frame to look through: rows a page at a time, what they add up to, one row whole, marks.

It knows what a person is looking at: the query, the page, what is picked, which row is open; and
it keeps a widget in step with that where there is a page. It refuses to know journal, network and
files: what is known of a run's rows it is handed as `RunRows`. What it says of rows is asked of
`browse` each time; the page holds some fifty rows and nothing else.

The traps: a message may come in another thread, while the user's own cell asks for `view()`, so
all that is looked at is under one lock; an error in a message would be shown nowhere, so it is put
on the page; and ipywidgets keeps every widget for ever, so that a widget must not hold the frame:
who does is told by `_Desk`. Everything of the data goes to the page as text and is put there as
text.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from shutil import get_terminal_size
from threading import RLock
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batch_magic import frame as frames
from batch_magic.browse import (
    STATUS,
    ColumnFacts,
    FieldTree,
    Query,
    RowCells,
    Rows,
    plain_query,
    read_query,
)
from batch_magic.card import clip, table_html
from batch_magic.clicks import answer_while_busy
from batch_magic.closeup import Letter
from batch_magic.errors import BatchMagicError, CellError
from batch_magic.records import MARK_HALVES, Mark, Thumb
from batch_magic.value_words import clean, short
from batch_magic.wording import counted

log = logging.getLogger(__name__)

PAGE_ROWS = 50
HEAD_ROWS = 20  # in a saved notebook
TEXT_ROWS = 8  # in a terminal
_TEXT_COLUMNS = 8
_TEXT_CELL = 36
_BY_HAND = (
    "a notebook shows a table to click on; here by `explorer`, as %gptbatch explore calls it:",
    '  explorer.query = {"text": "late", "statuses": ["failed"]}  ask for less',
    "  explorer.view()                                            the rows that are shown",
    "  explorer.pick([0, 2]), explorer.selection()                pick rows by position, take them",
    '  explorer.mark(0, "up", "a note")                           a thumb and a note on a row',
)
_ROWS_KEPT = 4  # explorers that keep what they have worked out; another one's is made anew
_GONE_KEPT = 3  # explorers whose output has gone: a tab may be opened again
_COLUMNS = 40  # in the table; the side pane has all
_NOTE_CHARS = 10_000
WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True, slots=True)
class RunRows:
    """What is known of a frame's rows because they are those of a run.

    `places[i]` is the position in the run of the frame's row i. `again` gives the frame anew, as
    far as the run has come, or is None where the frame is only a part of it. `put_mark` writes the
    halves that it is told of a position's mark, and returns the mark as it is then.
    """

    places: NDArray[np.int64]
    letters: Callable[[int], list[Letter]]
    marks: Callable[[], Mapping[int, Mark]]
    put_mark: Callable[[int, Mark, Collection[str]], Mark]
    is_going_on: Callable[[], bool]
    again: Callable[[], pd.DataFrame] | None = None


class PageRow(TypedDict):
    """A row as the page shows it."""

    position: int
    index: str
    cells: list[str | None]
    status: str | None
    thumb: str | None
    note: str | None
    picked: bool


class Page(TypedDict):
    """What the page shows now; `stamp` is that of the last message that it answers."""

    start: int
    shown: int
    total: int
    picked: int
    rows: list[PageRow]
    stamp: int


class Detail(TypedDict):
    """One row whole."""

    position: int
    index: str
    thumb: str | None
    note: str | None
    fields: list[FieldTree]
    letters: list[Letter]
    said: str


class About(TypedDict):
    """What does not change with the query."""

    name: str
    columns: list[ColumnFacts]
    table: list[str]
    has_index: bool
    said: list[str]
    may_refresh: bool
    receipt: str


class _Desk:
    """What explorers have worked out, and which of them live because a page shows them.

    An explorer that nobody has a name for, as in `display(bm.explore(frame))`, is held here until
    its page says that its view has gone; all others live as long as somebody holds them.
    """

    def __init__(self) -> None:
        self._lock = RLock()  # what is dropped in here comes back by `forget`
        self._rows: OrderedDict[int, Rows] = OrderedDict()
        self._shown: dict[int, Explorer] = {}
        self._gone: OrderedDict[int, Explorer] = OrderedDict()

    def rows(self, key: int, make: Callable[[], Rows]) -> Rows:
        """Return what an explorer has worked out; of those looked at last it is kept."""
        with self._lock:
            found = self._rows.pop(key, None) or make()
            self._rows[key] = found
            while len(self._rows) > _ROWS_KEPT:
                self._rows.popitem(last=False)
            return found

    def forget(self, key: int) -> None:
        """Drop what an explorer has worked out."""
        with self._lock:
            self._rows.pop(key, None)

    def show(self, key: int, explorer: Explorer) -> None:
        """Hold an explorer: a page shows it."""
        with self._lock:
            self._gone.pop(key, None)
            self._shown[key] = explorer

    def let_go(self, key: int, explorer: Explorer) -> None:
        """Hold an explorer no longer than a few others: a view of it has gone."""
        with self._lock:
            self._shown.pop(key, None)
            self._rows.pop(key, None)
            self._gone[key] = explorer
            while len(self._gone) > _GONE_KEPT:
                self._gone.popitem(last=False)


_DESK = _Desk()
_KEYS = count()


class Explorer:
    """A frame (n rows) to look through, in a notebook or by its methods.

    `query` is what is asked for; `view()` and `selection()` are what is shown and what is picked.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        *,
        name: str = "frame",
        known: RunRows | None = None,
        answers: Sequence[str] = (),
        said: str = "",
    ) -> None:
        self._name, self._known, self._said = name, known, said
        self._answers = tuple(answers)
        self._lock = RLock()
        self._query = Query()
        self._start = 0
        self._stamp = 0
        self._open: int | None = None
        self._key = next(_KEYS)
        weakref.finalize(self, _DESK.forget, self._key).atexit = False
        self._marks = _own_marks(frame) if known is None else self._known_marks()
        self._frame = frames.hold(frames.without_marks(frame))
        self._picked = np.zeros(len(frame), dtype=bool)
        self._widget: Any = None

    # -- what a person takes home --

    @property
    def query(self) -> Query:
        """What is asked for. Set to a `Query`, or to plain values such as {"text": "late"}."""
        return self._query

    @query.setter
    def query(self, query: Query | Mapping[str, Any]) -> None:
        with self._lock:
            self._ask(query if isinstance(query, Query) else read_query(query))
            self._draw()

    def view(self) -> pd.DataFrame:
        """Return the rows that the query shows, in its order, with marks and notes if any."""
        with self._lock:
            return self._rows.frame.iloc[self._rows.positions(self._query)]

    def selection(self) -> pd.DataFrame:
        """Return the rows that are picked, in the frame's order, with marks and notes if any."""
        with self._lock:
            return self._rows.frame.iloc[np.flatnonzero(self._picked)]

    def pick(self, positions: Iterable[int]) -> None:
        """Pick rows by their positions in the frame, in place of those picked before.

        Raises CellError for a position that is none.
        """
        if not isinstance(positions, Iterable):
            raise CellError(f"{positions!r:.60} is no list of positions; say pick([0, 3])")
        wanted = [self._position(one) for one in positions]
        with self._lock:
            self._picked[:] = False
            self._picked[np.array(wanted, dtype=np.int64)] = True
            self._draw()

    def mark(self, position: int, thumb: str | None = None, note: str | None = None) -> None:
        """Note a thumb (`up`, `down`) and a text about the row at a position of the frame.

        In place of what was noted before; with neither it is taken away. Of a run's row it is
        written to the journal at once. Raises CellError for a position, a thumb or a text that is
        none.
        """
        self._note(position, thumb, note)

    def _note(
        self,
        position: object,
        thumb: object,
        note: object,
        halves: Collection[str] = MARK_HALVES,
    ) -> None:
        """Write these halves of a mark; the page's buttons know but one of them for sure."""
        place = self._position(position)
        if thumb is not None and not (isinstance(thumb, str) and thumb in tuple(Thumb)):
            raise CellError(f"{thumb!r:.60} is no thumb; say up, down or None")
        if not isinstance(note, (str, type(None))):
            raise CellError(f"{note!r:.60} is no note; write a text")
        text = clean((note or "").strip()[:_NOTE_CHARS])
        with self._lock:
            mark = Mark(Thumb(thumb) if thumb else None, text or None)
            self._put_mark(place, mark, halves)
            self._draw()
            if self._widget is not None and self._open is not None:
                self._widget.detail = {**self._widget.detail, **self._noted(self._open)}

    def refresh(self) -> None:
        """Take the rows as they are now, where they are those of a run that goes on."""
        with self._lock:
            if self._known is not None and self._known.again is not None:
                frame = self._known.again()
                self._marks = self._known_marks()
                self._frame = frames.hold(frames.without_marks(frame))
                _DESK.forget(self._key)
                self._forget_columns()
                self._draw(with_facets=True)
                if self._widget is not None:
                    self._widget.detail = self._detail()

    # -- how it looks --

    def _ipython_display_(self) -> None:
        """Show the widget, and beneath it a table that stays in the saved file."""
        from IPython.core.getipython import get_ipython
        from IPython.display import display

        kind = _kind()
        if getattr(get_ipython(), "kernel", None) is None or kind is None:
            raise NotImplementedError  # then IPython asks for the text
        with self._lock:
            widget = self._widget_of(kind)
        _DESK.show(self._key, self)
        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        receipt = f'<div class="{_receipt(widget)}">{self._table()}</div>'
        show: Any = display
        show({"text/html": receipt, "text/plain": repr(self)}, raw=True)
        show({WIDGET: view, "text/plain": ""}, raw=True)

    def __repr__(self) -> str:
        with self._lock:
            positions = self._rows.positions(self._query)
            marks = [name for name in frames.MARK_COLUMNS if name in self._rows.names]
            names, shown = [*marks, *self._table_names()], len(positions)
            rows = self._rows.page(self._query, 0, TEXT_ROWS, names[:_TEXT_COLUMNS])
        lines = [f"{clip(self._name, 80)}: {self._size(shown)}", *self._counts(), ""]
        lines += _text_table(rows, names[:_TEXT_COLUMNS]).splitlines()
        if shown > len(rows):
            lines.append(f"… {counted(shown - len(rows), 'more row')}")
        if len(names) > _TEXT_COLUMNS:
            lines.append(f"… {counted(len(names) - _TEXT_COLUMNS, 'more column')}")
        return "\n".join([*lines, "", *_BY_HAND, *([self._said] if self._said else [])])

    def _size(self, shown: int) -> str:
        total = counted(len(self._rows), "row")
        return total if shown == len(self._rows) else f"{shown:,} of {total} shown"

    def _counts(self) -> list[str]:
        """Say how many rows have which status, if the frame tells."""
        if STATUS not in self._rows.names:
            return []
        facet = next((f for f in self._rows.facets(Query(), most=1) if f["column"] == STATUS), None)
        bars = facet["bars"] if facet else []
        return [", ".join(f"{bar['rows']:,} {bar['label']}" for bar in bars if bar["rows"])]

    def _table(self) -> str:
        """Return the first rows shown as markup, for files that outlive their kernel."""
        names = [name for name in self._table_names() if not name.startswith("gpt_note")][:8]
        rows = self._rows.page(self._query, 0, HEAD_ROWS, names)
        cells = [[row["index"], *row["cells"]] for row in rows]
        shown = len(self._rows.positions(self._query))
        notes = [", ".join(self._counts())] if self._counts() else []
        if shown > len(rows):
            notes.append(f"the first {len(rows)} of {shown:,}; run the cell again to look further")
        return table_html(
            f"{clip(self._name, 80)}: {self._size(shown)}", ["", *names], cells, notes
        )

    # -- rows and marks --

    @property
    def _rows(self) -> Rows:
        return _DESK.rows(self._key, self._made)

    def _made(self) -> Rows:
        columns = frames.mark_columns(self._marks, len(self._frame))
        marked = frames.attach(self._frame, columns) if columns else self._frame
        return Rows(marked, leading=("gpt_mark", *self._answers))

    def _position(self, given: object) -> int:
        """Return a position as Python's own number. Raises CellError for what is none."""
        is_truth = isinstance(given, bool)  # of a mask, which is no list of positions
        at = int(given) if isinstance(given, (int, np.integer)) and not is_truth else -1
        if not 0 <= at < len(self._frame):
            last = len(self._frame) - 1
            raise CellError(f"{given!r:.60} is no row; positions are from 0 to {last}")
        return at

    def _known_marks(self) -> dict[int, Mark]:
        """Return the marks of the run's rows, by position in the frame."""
        known = self._known
        assert known is not None
        marks = known.marks()
        if not marks:
            return {}
        at = np.flatnonzero(np.isin(known.places, list(marks)))
        return {int(one): marks[int(known.places[one])] for one in at}

    def _put_mark(self, position: int, mark: Mark, halves: Collection[str]) -> None:
        alike = [position]
        if self._known is None:
            changed: dict[str, Any] = {half: getattr(mark, half) for half in halves}
            mark = replace(self._marks.get(position, Mark()), **changed)
        else:
            place = int(self._known.places[position])
            mark = self._known.put_mark(place, mark, halves)
            alike = np.flatnonzero(self._known.places == place).tolist()
        for one in alike:
            if mark == Mark():
                self._marks.pop(one, None)
            else:
                self._marks[one] = mark
        columns = frames.mark_columns(self._marks, len(self._rows))
        had = [name for name in frames.MARK_COLUMNS if name in self._rows.names]
        for name in frames.MARK_COLUMNS:
            if name in columns or name in had:
                self._rows.put(name, columns.get(name))
        self._forget_columns()

    def _forget_columns(self) -> None:
        """Leave out of the query what asks for a column that has gone, or is another now."""
        asked, rows = self._query, self._rows
        self._query = replace(
            asked,
            statuses=asked.statuses if _fits(rows, Query(statuses=asked.statuses)) else (),
            filters=tuple(one for one in asked.filters if _fits(rows, Query(filters=(one,)))),
            sort=tuple(key for key in asked.sort if _fits(rows, Query(sort=(key,)))),
        )

    # -- the page --

    def _ask(self, query: Query, start: int = 0) -> None:
        """Take another query. Raises CellError, with the last one kept, for what cannot be."""
        shown = len(self._rows.positions(query))
        self._query = query
        self._start = max(0, min(start, (shown - 1) // PAGE_ROWS * PAGE_ROWS))

    def _page(self) -> Page:
        names = self._table_names()
        shown = len(self._rows.positions(self._query))
        self._start = max(0, min(self._start, (shown - 1) // PAGE_ROWS * PAGE_ROWS))
        has_status = STATUS in self._rows.names
        wanted = [*names, STATUS] if has_status else names
        rows = self._rows.page(self._query, self._start, PAGE_ROWS, wanted)
        return {
            "start": self._start,
            "shown": shown,
            "total": len(self._rows),
            "picked": int(self._picked.sum()),
            "rows": [
                {
                    "position": row["position"],
                    "index": row["index"],
                    "cells": row["cells"][: len(names)],
                    "status": row["cells"][-1] if has_status else None,
                    **self._marked(row["position"]),  # type: ignore[typeddict-item]
                    "picked": bool(self._picked[row["position"]]),
                }
                for row in rows
            ],
            "stamp": self._stamp,
        }

    def _marked(self, position: int) -> dict[str, str | None]:
        mark = self._marks.get(position, Mark())
        return {"thumb": mark.thumb and str(mark.thumb), "note": short(mark.note)}

    def _table_names(self) -> list[str]:
        """Return the columns of the table: those of answers first, then as many as may be."""
        names = [name for name in self._rows.names if name not in frames.MARK_COLUMNS]
        first = [name for name in self._answers if name in names]
        return list(dict.fromkeys([*first, *names]))[:_COLUMNS]

    def _detail(self) -> Detail | None:
        if self._open is None:
            return None
        at, said = self._open, self._said
        letters: list[Letter] = []
        if self._known is not None:
            try:
                letters = self._known.letters(int(self._known.places[at]))
            except BatchMagicError as error:
                said = str(error)
        noted = self._noted(at)
        return {
            "position": at,
            "index": short(self._rows.frame.index[at]) or "",
            "thumb": noted["thumb"],
            "note": noted["note"],
            "fields": self._rows.row(at),
            "letters": letters,
            "said": said,
        }

    def _noted(self, position: int) -> dict[str, str | None]:
        mark = self._marks.get(position, Mark())
        return {"thumb": mark.thumb and str(mark.thumb), "note": mark.note and clean(mark.note)}

    def _about(self, receipt: str) -> About:
        hidden = len(self._rows.names) - len(self._table_names())
        hidden -= sum(name in self._rows.names for name in frames.MARK_COLUMNS)
        said = [self._said] if self._said else []
        if hidden:
            said.append(f"{counted(hidden, 'more column')} in the pane of each row")
        if self._known is None:
            said.append("marks and notes stay in this explorer: view() and selection() have them")
        said.append("%gptbatch help explore tells how these rows become DataFrames")
        return {
            "name": clip(self._name, 80),
            "columns": self._rows.columns(),
            "table": self._table_names(),
            "has_index": not frames.is_plain(self._rows.frame.index),
            "said": said,
            "may_refresh": self._may_refresh(),
            "receipt": receipt,
        }

    def _may_refresh(self) -> bool:
        known = self._known
        return known is not None and known.again is not None and known.is_going_on()

    # -- the widget --

    def _widget_of(self, kind: type[Any]) -> Any:
        if self._widget is None:
            widget = kind(page=self._page(), query=plain_query(self._query))
            widget.about = self._about(_receipt(widget))
            answer_while_busy(widget)
            this = weakref.ref(self)
            widget.on_msg(lambda _, asked, buffers: _pass_on(this(), asked))
            weakref.finalize(self, widget.close).atexit = False
            self._widget = widget
        return self._widget

    def _heard(self, asked: object) -> None:
        """Do what the page asks for, and put on the page what comes of it, errors included."""
        if not isinstance(asked, Mapping):
            log.debug("the page said %r", asked)
            return
        if asked.get("do") == "bye":
            _DESK.let_go(self._key, self)
            return
        _DESK.show(self._key, self)
        with self._lock:
            self._stamp = _whole(asked.get("stamp"))
            trouble = self._tried(lambda: self._do(asked), asked.get("do"))
            self._widget.trouble = trouble
            if trouble:  # what the page shows may be what it had asked for
                self._tried(self._draw, "draw")

    def _tried(self, deed: Callable[[], None], name: object) -> str:
        """Do a thing; return why it could not be done, for nobody else would say so."""
        try:
            deed()
        except BatchMagicError as error:
            return str(error)
        except Exception as error:
            log.exception("%r could not be done", name)
            return f"{type(error).__name__}: {error} (a bug of batch_magic's)"
        return ""

    def _do(self, asked: Mapping[str, Any]) -> None:
        match asked.get("do"):
            case "query":
                self._ask(read_query(asked.get("query") or {}), _whole(asked.get("start")))
                self._draw(with_facets=not asked.get("is_same"))
            case "facets":
                self._widget.facets = self._rows.facets(self._query)
            case "open":
                self._open = self._position(asked.get("position"))
                self._widget.detail = self._detail()
            case "close":
                self._open = None
                self._widget.detail = None
            case "pick":
                at = self._position(asked.get("position"))
                self._picked[at] = not self._picked[at]
                self._draw()
            case "pick_shown":
                self._picked[self._rows.positions(self._query)] = True
                self._draw()
            case "pick_none":
                self._picked[:] = False
                self._draw()
            case "thumb":
                self._note(asked.get("position"), asked.get("thumb"), None, ["thumb"])
                self._widget.facets = self._rows.facets(self._query)
            case "note":
                self._note(asked.get("position"), None, asked.get("note"), ["note"])
            case "refresh":
                self.refresh()
            case other:
                raise CellError(
                    f"the page asks for {other!r}, which is not known here; reload the page"
                )

    def _draw(self, *, with_facets: bool = False) -> None:
        """Bring the page up to date; what takes longer comes last."""
        widget = self._widget
        if widget is None:
            return
        widget.query = plain_query(self._query)
        widget.page = self._page()
        about = self._about(_receipt(widget))
        if about != widget.about:
            widget.about = about
        if with_facets and widget.facets is not None:
            widget.facets = self._rows.facets(self._query)


def _pass_on(explorer: Explorer | None, asked: object) -> None:
    """Hand over what a page asks; an explorer that has gone is asked nothing."""
    if explorer is not None:
        explorer._heard(asked)


def _fits(rows: Rows, query: Query) -> bool:
    """Tell whether a query can be answered."""
    try:
        rows.check(query)
    except CellError:
        return False
    return True


def _whole(said: object) -> int:
    return said if isinstance(said, int) else 0


def _own_marks(frame: pd.DataFrame) -> dict[int, Mark]:
    """Read the marks that stand in a frame's own columns, as results have them."""
    found: dict[int, Mark] = {}
    names = [name for name in frames.MARK_COLUMNS if list(frame.columns).count(name) == 1]
    columns = {name: frame[name].astype(object).to_numpy() for name in names}
    thumbs, notes = (columns.get(name) for name in frames.MARK_COLUMNS)
    if thumbs is not None:
        words = set(Thumb)
        some = [at for at, word in enumerate(thumbs) if isinstance(word, str) and word in words]
        found = {at: Mark(Thumb(thumbs[at])) for at in some}
    if notes is not None:
        for at in np.flatnonzero(pd.notna(notes)).tolist():
            found[at] = replace(found.get(at, Mark()), note=str(notes[at]))
    return found


def _text_table(rows: Sequence[RowCells], names: list[str]) -> str:
    """Return rows as text, cells cut short: where the terminal is too narrow, block under block."""
    cells = [[clip(cell or "", _TEXT_CELL) for cell in row["cells"]] for row in rows]
    index = [row["index"] for row in rows]
    table = pd.DataFrame(cells, index=index, columns=names, dtype=object)
    # Korean and Chinese letters take two columns of a terminal.
    with pd.option_context("display.unicode.east_asian_width", True):
        return str(table.to_string(line_width=get_terminal_size().columns))


def _receipt(widget: Any) -> str:
    """Return the class of the table that the widget hides while it is on the page."""
    return f"gptbatch-receipt-{widget.model_id}"


@cache
def _kind() -> type[Any] | None:
    """The widget's class, made when the first explorer is shown."""
    try:
        from anywidget import AnyWidget
        from traitlets import Any as Anything
        from traitlets import Dict, Unicode
    except ImportError:
        return None

    here = Path(__file__)

    class ExplorerWidget(AnyWidget):
        _esm = here.with_suffix(".js").read_text(encoding="utf-8")
        _css = here.with_suffix(".css").read_text(encoding="utf-8")
        about = Dict().tag(sync=True)
        query = Dict().tag(sync=True)
        page = Dict().tag(sync=True)
        facets = Anything().tag(sync=True)  # None until the page has asked for them
        detail = Anything().tag(sync=True)
        trouble = Unicode().tag(sync=True)

    return ExplorerWidget
