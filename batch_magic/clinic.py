"""The failure clinic in a notebook: causes with buttons, under the cell that asked for it.

It knows ipywidgets and the cell's display, and which questions a click raises; it refuses to know
how a retry is done, what it costs or what a run is: it draws the `Diagnosis` it is handed, calls
back when a person has confirmed something, and draws again when it is told that the run has ended.

As with a panel, a receipt stays in the saved file and is hidden while the widget lives. The trap is
the thread: clicks come in a subshell while a cell is busy, news from the background; nothing here
prints, and widgets are changed only by setting traits, one at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from threading import RLock
from typing import Any

from IPython.core.getipython import get_ipython
from IPython.display import DisplayHandle
from ipywidgets import HTML, Button, HBox, Layout, VBox

from batch_magic.card import ACCENT, BAD, FRAME, PROSE
from batch_magic.case_sheet import (
    CASES_SHOWN,
    Note,
    case_html,
    clinic_html,
    clinic_text,
    drop_question,
    foot_html,
    going_html,
    left_out_words,
    more_html,
    notes_html,
    question,
    question_html,
    title_html,
)
from batch_magic.clicks import answer_while_busy
from batch_magic.diagnosis import EXAMPLES, Case, Diagnosis
from batch_magic.errors import BatchMagicError
from batch_magic.records import Snapshot
from batch_magic.wording import counted

log = logging.getLogger(__name__)

RETRY = "Retry these"
LIVE = "Retry live"
DROP = "Drop"
KEEP = "Not now"
MORE = "Show more causes"
_WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True, slots=True)
class Deeds:
    """What is called when a person has confirmed it, and how the clinic looks again.

    `retry` takes the case as its question told it, and whether live; `drop` the key of a cause.
    What they raise is told in its place. `drop` may have to wait for a cell's end, and tells what
    has become of it by what it is handed. `diagnose` reads files and may take seconds, so it is
    only called by way of `in_background`.
    """

    retry: Callable[[Case, bool], None]
    drop: Callable[[str, Callable[[str], None]], None]
    diagnose: Callable[[], Diagnosis]
    in_background: Callable[[Callable[[], None]], None]


def is_possible() -> bool:
    """Tell whether this place shows widgets: there is a kernel."""
    return getattr(get_ipython(), "kernel", None) is not None


class Clinic:
    """A run's causes and what may be done about each, in a notebook."""

    def __init__(self, diagnosis: Diagnosis, snapshot: Snapshot, deeds: Deeds) -> None:
        self._diagnosis, self._snapshot, self._deeds = diagnosis, snapshot, deeds
        self._shown, self._said = CASES_SHOWN, ""
        self._rows: dict[str, _Row] = {}
        self._left_out: Collection[str] = frozenset()
        self._title, self._going, self._more, self._foot = (HTML(layout=_wide()) for _ in range(4))
        self._more_button = _button(MORE)
        self._more_button.on_click(lambda _: self._show_more())
        self._cases = VBox(layout=_wide())
        style = HTML(layout=Layout(display="none"))
        pieces = [style, self._title, self._going, self._cases, self._more, self._more_button]
        self._box = VBox([*pieces, self._foot], layout=_wide())
        live = f"gptbatch-clinic-{self._box.model_id}"
        self._receipt_class = f"gptbatch-clinic-receipt-{self._box.model_id}"
        self._box.add_class("gptbatch-clinic").add_class(live)
        style.value = _style(live, self._receipt_class)
        self._receipt: Any = DisplayHandle()  # type: ignore[no-untyped-call]  # IPython leaves it so
        self._is_shown = False
        # As in a panel: what another thread updates must carry this cell's name.
        self._cell = copy_context()
        self._order = RLock()
        self._draw()

    def show(self) -> None:
        """Display the receipt and the widget in the present cell."""
        with self._order:
            self._is_shown = True
            self._receipt.display(self._bundle(), raw=True)
            view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
            place: Any = DisplayHandle()  # type: ignore[no-untyped-call]
            place.display({_WIDGET: view, "text/plain": ""}, raw=True)

    def update(self, snapshot: Snapshot) -> None:
        """Take a newer picture of the run, from any thread; look again when it has come out anew.

        It has when it has ended, or its answers were read by another shape.
        """
        try:
            with self._order:
                before, self._snapshot = self._snapshot, snapshot
                for row in self._rows.values():
                    row.stand(snapshot)
                self._going.value = going_html(snapshot)
            if snapshot.is_ended and _came_out(snapshot) != _came_out(before):
                self._look_again_soon()
        except Exception:
            log.exception("the clinic of run %s could not be drawn", snapshot.run_id)

    def _look_again_soon(self) -> None:
        self._deeds.in_background(self.look_again)

    def look_again(self) -> None:
        """Draw what the run's files say now; from a thread that may take its time."""
        try:
            found = self._deeds.diagnose()
            with self._order:
                self._diagnosis = found
                for row in self._rows.values():
                    row.rest()
                self._cell.run(self._draw)
        except Exception as error:
            log.exception("the clinic could not look again")
            self.say(f"not looked at again: {error}")

    def say(self, text: str) -> None:
        """Show one line for the reader, in place of the last one said; code in backticks."""
        try:
            with self._order:
                self._said = text
                self._cell.run(self._draw_foot)
        except Exception:
            log.exception("%r could not be shown", text)

    def leave_out(self, keys: Collection[str]) -> None:
        """Take the causes whose rows the run's name lacks now: their cards say so."""
        try:
            with self._order:
                self._left_out = frozenset(keys)
                for key, row in self._rows.items():
                    row.leave_out(is_so=key in self._left_out)
                self._cell.run(self._draw_foot)
        except Exception:
            log.exception("what was left out could not be shown")

    def _show_more(self) -> None:
        with self._order:
            self._shown += CASES_SHOWN
            self._cell.run(self._draw)

    def _draw(self) -> None:
        """Write the pieces; rows of causes that are there still keep their place and their fold."""
        d = self._diagnosis
        cases = d.cases[: min(self._shown, EXAMPLES)]
        known, self._rows = self._rows, {}
        for case in cases:
            row = known.pop(case.key, None)
            row = row or _Row(self._deeds, d, case, self.say, self._look_again_soon)
            row.draw(d, case)
            row.stand(self._snapshot)
            row.leave_out(is_so=case.key in self._left_out)
            self._rows[case.key] = row
        self._title.value = title_html(d)
        self._going.value = going_html(self._snapshot)
        self._cases.children = tuple(row.box for row in self._rows.values())
        self._more.value = more_html(d, len(cases))
        has_more = len(d.cases[:EXAMPLES]) > self._shown
        self._more_button.layout.display = None if has_more else "none"
        for row in known.values():
            self._said = row.refused or self._said
            row.box.close()
        self._draw_foot()

    def _draw_foot(self) -> None:
        self._foot.value = foot_html(self._diagnosis, self._said)
        if self._is_shown:
            self._receipt.update(self._bundle(), raw=True)

    def _bundle(self) -> Mapping[str, Any]:
        notes = {key: row.notes() for key, row in self._rows.items()}
        html = clinic_html(self._diagnosis, said=self._said, notes=notes)
        return {
            "text/html": f'<div class="{self._receipt_class}">{html}</div>',
            "text/plain": clinic_text(self._diagnosis, said=self._said, notes=notes),
        }


class _Row:
    """One cause: what is told of it, and its buttons, asked about first.

    The question and its two answers stand below the buttons, which stay where they are and rest
    meanwhile: a double click on one of them cannot answer. `say` tells under all of the causes.
    """

    def __init__(
        self,
        deeds: Deeds,
        diagnosis: Diagnosis,
        case: Case,
        say: Callable[[str], None],
        look_again: Callable[[], None],
    ) -> None:
        self._deeds, self._diagnosis, self._case = deeds, diagnosis, case
        self._say, self._look_again = say, look_again
        self.refused = ""  # why the latest click was not followed
        self._text, self._question, self._notes = (HTML(layout=_wide()) for _ in range(3))
        self._retry, self._live, self._drop = map(_button, (RETRY, LIVE, DROP))
        self._keep, self._confirm = _button(KEEP), _button(RETRY)
        self._confirm.add_class("gptbatch-confirm")
        self._wanted: Callable[[], object] | None = None  # what the question is about
        self._asker = self._retry  # whose question it is
        self._is_asked = self._goes_on = self._is_left_out = False
        self._sent = ""  # when a click here has sent how many rows again, the last time
        self._told: Note | None = None  # what became of the latest click, until that is seen
        self._retry.on_click(lambda _: self._ask_retry(live=False))
        self._live.on_click(lambda _: self._ask_retry(live=True))
        self._drop.on_click(lambda _: self._ask_drop())
        self._keep.on_click(lambda _: self._think_better())
        self._confirm.on_click(lambda _: self._answer())
        self._buttons, answers = HBox(layout=_in_line()), HBox(layout=_in_line())
        answers.children = (self._keep, self._confirm)
        self._asking = VBox([self._question, answers], layout=_wide())
        self.box = VBox([self._text, self._buttons, self._asking, self._notes], layout=_wide())
        self.box.add_class("gptbatch-cause")
        self.box.tabbable = False  # it takes the focus when the button that had it goes
        self._rest()

    def draw(self, diagnosis: Diagnosis, case: Case) -> None:
        """Draw the cause as it is now; a question about what it was is taken back."""
        is_other = (diagnosis, case) != (self._diagnosis, self._case)
        self._diagnosis, self._case = diagnosis, case
        self._text.value = case_html(diagnosis, case)
        for button, what in ((self._retry, "send"), (self._live, "send"), (self._drop, "drop")):
            button.tooltip = f"{what} {counted(case.rows, 'row')} of cause {case.number}"
        if self._wanted is None or is_other:
            self._rest()
        self._draw_notes()

    def stand(self, snapshot: Snapshot) -> None:
        """Go by how the run stands: rows that are under way cannot be asked live besides."""
        if self._goes_on is snapshot.is_ended:
            self._goes_on = not snapshot.is_ended
            self._live.disabled = self._goes_on or self._wanted is not None

    def rest(self) -> None:
        """Take back what was said of a retry: the run has ended, and all is told anew."""
        if self._is_asked:
            self._is_asked, self._told = False, None

    def leave_out(self, *, is_so: bool) -> None:
        """Go by whether the run's name lacks the rows: those cannot be dropped once more."""
        if self._is_left_out is not is_so:
            self._is_left_out, self._told = is_so, None
            self._rest()
            self._draw_notes()

    def notes(self) -> list[Note]:
        """Return what was done about the cause here, and what was not: a word and a text each."""
        name, rows = self._diagnosis.name, counted(self._case.rows, "row")
        notes = [("left out", left_out_words(name))] if self._is_left_out else []
        if self._is_asked:
            notes.append(("asked again", f"{self._sent}; all is looked at again when they are in"))
        elif self._sent:
            notes.append(("asked again", f"{self._sent}; this cause has {rows} now"))
        return [*notes, self._told] if self._told is not None else notes

    def _draw_notes(self) -> None:
        self._notes.value = notes_html(self.notes())

    def _rest(self) -> None:
        """Offer what may be done, and ask nothing."""
        self._wanted = None
        self._asking.layout.display = "none"
        offered: list[Button] = []
        if self._case.requests and not self._is_asked:
            offered = [self._live] if self._diagnosis.is_live else [self._retry, self._live]
        self._buttons.children = (*offered, *(() if self._is_left_out else (self._drop,)))
        self._retry.disabled = self._drop.disabled = False
        self._live.disabled = self._goes_on

    def _ask_retry(self, *, live: bool) -> None:
        case = self._case  # what is told now is what may be sent, whatever is drawn meanwhile
        words = question(self._diagnosis, case, live=live)
        asker = self._live if live else self._retry
        self._ask(asker, words, "send", lambda: self._send(case, live=live))

    def _ask_drop(self) -> None:
        words = drop_question(self._diagnosis, self._case)
        self._ask(self._drop, words, "drop", self._leave)

    def _ask(self, asker: Button, words: str, verb: str, deed: Callable[[], object]) -> None:
        if self._wanted is not None:
            return
        self._wanted, self._asker, self._told, self.refused = deed, asker, None, ""
        self._draw_notes()
        for button in (self._retry, self._live, self._drop):
            button.disabled = True
        self._question.value = question_html(words)
        self._confirm.description = f"Yes, {verb} {counted(self._case.rows, 'row')}"
        self._keep.tooltip = self._confirm.tooltip = words.replace("`", "")
        self._asking.layout.display = None
        self._keep.focus()

    def _think_better(self) -> None:
        self._rest()
        self._asker.focus()

    def _answer(self) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is not None:  # two clicks in two threads: the first has taken it
            self._asking.layout.display = "none"
            wanted()
            self._rest()
            self._draw_notes()
            self.box.focus()

    def _send(self, case: Case, *, live: bool) -> None:
        words = LIVE if live else RETRY
        if not self._do(words, lambda: self._deeds.retry(case, live)):
            self._look_again()  # it may not be as it was told any more
            return
        self._is_asked = True
        self._sent = f"{time.strftime('%H:%M')}, {counted(case.rows, 'row')}"

    def _leave(self) -> None:
        self._do(DROP, lambda: self._deeds.drop(self._case.key, self._tell))

    def _tell(self, text: str) -> None:
        """Say what has become of a drop, here and under all of the causes."""
        self._told = None if self._is_left_out else (DROP, text)
        self._draw_notes()
        self._say(text)

    def _do(self, what: str, deed: Callable[[], None]) -> bool:
        """Do it; if that fails, say why: nobody else would."""
        try:
            deed()
        except Exception as error:
            if not isinstance(error, BatchMagicError):
                log.exception("%r failed", what)
            self._told = (f"not done: {what}", str(error))
            self.refused = f"not done: {what}: {error}"
            return False
        return True


def _in_line() -> Layout:
    return Layout(flex_flow="row wrap", margin="6px 0 0")


def _came_out(snapshot: Snapshot) -> tuple[object, ...]:
    return snapshot.is_ended, dict(snapshot.counts), snapshot.fault


def _wide() -> Layout:
    return Layout(width="100%", margin="0")


def _button(text: str) -> Button:
    button = Button(description=text, layout=Layout(width="auto"))
    answer_while_busy(button)
    return button


def _style(live: str, receipt: str) -> str:
    """The widget's own style sheet, gone from the page when the widget is."""
    return f"""<style>
.{receipt} {{display:none}}
.{live} {{{FRAME};overflow:visible}}
.{live} .widget-html, .{live} .widget-vbox {{overflow:visible;min-width:0}}
.{live} .widget-html-content {{{PROSE};min-width:0}}
.{live} .jupyter-button {{
  height:auto;min-height:28px;line-height:18px;padding:4px 12px;margin:0 8px 4px 0;
  border-radius:6px;border:1px solid rgba(128,128,128,0.5);background:transparent;
  box-shadow:none;color:var(--jp-ui-font-color1,inherit);font-size:13px;max-width:100%;
  white-space:normal;text-align:left}}
.{live} .jupyter-button:hover:enabled {{background:rgba(128,128,128,0.14);box-shadow:none}}
.{live} .jupyter-button:focus:enabled {{box-shadow:none}}
.{live} .jupyter-button:focus-visible {{outline:2px solid {ACCENT};outline-offset:2px}}
.{live} .jupyter-button.gptbatch-confirm {{border-color:{BAD}}}
.{live} .gptbatch-cause:focus-visible {{outline:2px solid {ACCENT};outline-offset:2px}}
.{live} summary:focus-visible {{outline:2px solid {ACCENT};outline-offset:2px}}
</style>"""
