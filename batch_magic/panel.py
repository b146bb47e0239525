"""Shows a run where its cell is: pictures of it as they come, and a way to cancel.

It knows ipywidgets and the cell's display: a *receipt*, which stays in the saved file, and one
live widget beside it. It refuses to know how a run goes: it never asks, waits, reads a clock or
counts; it draws the `Snapshot` it is handed and calls back when a button is pressed.

Receipt and widget stand in the same cell. While the widget is on the page it hides the receipt
by a style of its own, so that one card is seen; wherever the widget is missing (a restarted
kernel, a reopened file, nbconvert, GitHub) the style is missing too and the receipt shows. At the
end the receipt is the final card, and the widget is off the page.

The trap is the thread. `update` is called from the background, where `print` and `display` would
land in whatever cell ran last; only trait writes and `DisplayHandle.update` find their way home.
Without a kernel there is no such place at all, so `TextPanel` keeps what it is told by the
background and prints when the side that waits for the run asks it to, in that side's own thread.
Only the terminal's bell, which moves no cursor, is rung at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from datetime import tzinfo
from threading import Lock
from typing import Any, Protocol

from IPython.core.getipython import get_ipython
from IPython.display import DisplayHandle
from ipywidgets import HTML, HBox, Layout, VBox

from batch_magic.bell import Bell, ring_terminal
from batch_magic.buttons import Buttons, Deeds
from batch_magic.card import (
    ACCENT,
    BAD,
    FRAME,
    NAME_LENGTH,
    PROSE,
    body_html,
    card_html,
    card_text,
    clip,
    foot_html,
    head_html,
    jobs_html,
    line,
    message_html,
    newest_html,
    state_words,
)
from batch_magic.records import Snapshot

log = logging.getLogger(__name__)

RECEIPT_S = 60.0
LATE_S = 120  # a panel without news for so long says so; a living one has some every few seconds
WIDGET = "application/vnd.jupyter.widget-view+json"


class Shown(Protocol):
    """What a run may ask of its panel, whether drawn or printed."""

    def show(self) -> None:
        """Put the panel where the caller's output goes."""

    def update(self, snapshot: Snapshot) -> None:
        """Take a newer picture; from any thread, never raising."""

    def say(self, text: str) -> None:
        """Take one line for the reader, such as where the result is; the last one counts."""

    def tell(self) -> None:
        """Say what is new in the caller's own thread, where that is the only way to say it."""


class Output(Protocol):
    """An output of a cell that can be replaced later, from any thread."""

    def display(self, obj: Mapping[str, Any], *, raw: bool) -> None: ...
    def update(self, obj: Mapping[str, Any], *, raw: bool) -> None: ...


def open_panel(
    snapshot: Snapshot,
    *,
    on_cancel: Callable[[], None],
    on_finish: Callable[[], None] | None = None,
    on_submit: Callable[[], None] | None = None,
) -> Shown:
    """Make the panel that this place can show: a `Panel` in a kernel, else a `TextPanel`."""
    if getattr(get_ipython(), "kernel", None) is None:
        return TextPanel(snapshot)
    return Panel(snapshot, on_cancel=on_cancel, on_finish=on_finish, on_submit=on_submit)


class Panel:
    """A run's receipt and live widget in a notebook.

    `on_cancel` is called without arguments when the reader has confirmed a cancel, `on_finish` when
    the rest is to go live, `on_submit` when leave is given to submit; while a cell runs, that is
    in another thread than the cell's. `zone` is that of the times shown; None is
    the machine's own.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        on_cancel: Callable[[], None],
        on_finish: Callable[[], None] | None = None,
        on_submit: Callable[[], None] | None = None,
        zone: tzinfo | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._noted = snapshot  # the picture that the receipt shows
        self._zone = zone
        self._said = ""
        self._receipt, self._place = _output(), _output()
        self._is_shown = False
        deeds = Deeds(on_cancel, on_finish, on_submit)
        self._live = None if _rests(snapshot) else _Live(snapshot, deeds)
        self._ended: _Live | None = None
        # The cell's own context: what is updated from another thread must carry this cell's name,
        # for headless executors drop what seems to come from another.
        self._cell = copy_context()
        # Keeps the pictures on the page in order: without it a picture drawn late by one thread
        # could take the place of the final card drawn by another.
        self._order = Lock()

    def show(self) -> None:
        """Display the receipt, and the live widget while the run goes on, in the present cell.

        Shown again in a later cell, both cells stay up to date.
        """
        with self._order:
            self._is_shown = True
            self._receipt.display(self._bundle(), raw=True)
            if self._live is not None:
                self._place.display(self._live.bundle(), raw=True)

    def update(self, snapshot: Snapshot) -> None:
        """Draw a newer picture; one that is not newer than the last is dropped.

        A picture that cannot be drawn, say because the kernel is going away, is logged and not
        raised: the caller's business is the run, which goes on without being looked at.
        """
        try:
            with self._order:
                self._cell.run(self._draw, snapshot)
        except Exception:
            log.exception("run %s could not be drawn", snapshot.run_id)

    def say(self, text: str) -> None:
        """Show one more line in the card, in place of the last one said; code in backticks."""
        try:
            with self._order:
                self._cell.run(self._say, text)
        except Exception:
            log.exception("%r could not be shown", text)

    def tell(self) -> None:
        """Do nothing: what is new is on the page already."""

    def _draw(self, snapshot: Snapshot) -> None:
        if snapshot == self._snapshot or snapshot.as_of < self._snapshot.as_of:
            return
        self._snapshot = snapshot
        if _rests(snapshot):
            self._finish()
            return
        if self._live is not None:
            self._live.draw(snapshot, self._said)
        if _is_worth_noting(self._noted, snapshot):
            self._note()

    def _say(self, text: str) -> None:
        if text == self._said:
            return
        self._said = text
        if self._live is not None:
            self._live.draw(self._snapshot, text)
        if self._ended is not None:
            self._ended.rest(self._snapshot, text)
        self._note()

    def _finish(self) -> None:
        """Leave nothing but the final card in the cell.

        The widget is taken off the page but lives on: a page that was away when the run ended
        still has its place for it, and a receipt of old.
        """
        self._ended = self._ended or self._live
        live, self._live = self._live, None
        self._note()
        if self._ended is not None:
            self._ended.rest(self._snapshot, self._said)
        if live is not None and self._is_shown:
            self._place.update({"text/html": "", "text/plain": ""}, raw=True)

    def _note(self) -> None:
        """Bring the receipt up to date."""
        self._noted = self._snapshot
        if self._is_shown:
            self._receipt.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, Any]:
        """The receipt as it is to be seen now, wrapped for hiding while the widget lives."""
        html = card_html(self._snapshot, said=self._said, zone=self._zone)
        if self._live is not None:
            html = f'<div class="{self._live.receipt_class}">{html}</div>'
        text = card_text(self._snapshot, said=self._said, zone=self._zone)
        return {"text/html": html, "text/plain": text}


class TextPanel:
    """A run in plain lines: the background tells it, the side that waits lets it speak.

    Only a change of state is worth a line, so a run of hours prints a handful of them. `ring` is
    called once, when a run that was going on has ended, from whichever thread brings the news.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        write: Callable[[str], None] = print,
        ring: Callable[[], None] = ring_terminal,
    ) -> None:
        self._write = write
        self._snapshot = snapshot
        self._rings = [] if _rests(snapshot) else [ring]
        self._said = ""
        self._told: tuple[object, ...] = ()
        self._repeated = ""

    def show(self) -> None:
        """Print how the run stands, from the caller's thread."""
        self._told = ()
        self.tell()

    def update(self, snapshot: Snapshot) -> None:
        """Remember a newer picture; nothing is printed here, whichever thread this is."""
        self._snapshot = snapshot
        if _rests(snapshot):
            self._ring()

    def say(self, text: str) -> None:
        """Remember a line for the reader, to be printed once."""
        self._said = text

    def tell(self) -> None:
        """Print what has changed since the last time, from the caller's thread."""
        snapshot, said = self._snapshot, self._said
        if (state := _state(snapshot)) != self._told:
            self._told = state
            self._write(card_text(snapshot, zone=None) if snapshot.is_ended else line(snapshot))
        if said != self._repeated:
            self._repeated = said
            self._write(said)

    def _ring(self) -> None:
        """Ring the one time there is; two threads may bring the end at the same instant."""
        with suppress(IndexError):
            self._rings.pop()()


class _Live:
    """The widget: four pieces of the card, each sent only when it has changed, and buttons."""

    def __init__(self, snapshot: Snapshot, deeds: Deeds) -> None:
        self._head, self._body, self._jobs = (HTML(layout=_wide()) for _ in range(3))
        self._newest, self._foot = (HTML(layout=_wide()) for _ in range(2))
        self._buttons = Buttons(deeds)
        self._bell = Bell()
        style = HTML(layout=Layout(display="none"))
        pieces = [style, self._head, self._body, self._jobs, self._newest, self._foot]
        below = (self._buttons.box, *self._bell.widgets)
        row = HBox(below, layout=Layout(flex_flow="row wrap", overflow="visible"))
        pieces.append(row.add_class("gptbatch-row"))
        self._box = VBox(pieces, layout=_wide())
        self.receipt_class = f"gptbatch-receipt-{self._box.model_id}"
        style.value = _style(f"gptbatch-live-{self._box.model_id}", self.receipt_class)
        self._box.add_class(f"gptbatch-live-{self._box.model_id}")
        self.draw(snapshot, "")

    def bundle(self) -> dict[str, Any]:
        """The widget for the page, with nothing to read where there are no widgets."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        return {WIDGET: view, "text/plain": ""}

    def draw(self, snapshot: Snapshot, said: str) -> None:
        """Write the pieces; the widget itself sends only a value that differs."""
        self._head.value = head_html(snapshot)
        self._body.value = body_html(snapshot) + _late(snapshot)
        self._jobs.value = jobs_html(snapshot)
        self._newest.value = newest_html(snapshot)
        self._foot.value = foot_html(snapshot, said)
        self._buttons.draw(snapshot)

    def rest(self, snapshot: Snapshot, said: str) -> None:
        """Show the end: no button, and no news to wait for; the page rings if it was asked to."""
        self._bell.ring(snapshot)
        self.draw(snapshot, said)
        self._body.value = body_html(snapshot)
        self._buttons.hide()


def _output() -> Output:
    handle: Output = DisplayHandle()  # type: ignore[no-untyped-call]  # IPython leaves it so
    return handle


def _late(s: Snapshot) -> str:
    """Words that the page itself brings to light when no newer picture takes their place.

    A page goes on showing the widgets of a kernel that is gone. The instant makes each picture
    another one, so that every refresh starts the page's patience anew.
    """
    if s.is_ended:  # it waits for leave: no news is to come
        return ""
    attach = f"`%gptbatch attach {clip(s.name, NAME_LENGTH)}`"
    words = f"the kernel is silent for {LATE_S} s; if it was restarted, {attach} goes on"
    box = message_html("no news", words)
    return f'<div class="gptbatch-late" data-as-of="{s.as_of}">{box}</div>'


def _rests(s: Snapshot) -> bool:
    """Tell whether nothing more is to come: a run that waits for leave has a button for it."""
    return s.is_ended and s.asks_usd is None


def _wide() -> Layout:
    return Layout(width="100%", margin="0")


def _state(s: Snapshot) -> tuple[object, ...]:
    """What makes a picture another one for a reader who looks away between changes."""
    jobs = tuple((job.batch_id, job.stage, job.remote_status) for job in s.jobs)
    return (state_words(s), s.fault, s.problem, s.notes, s.model_served, jobs)


def _is_worth_noting(noted: Snapshot, snapshot: Snapshot) -> bool:
    return _state(noted) != _state(snapshot) or snapshot.as_of - noted.as_of >= RECEIPT_S


def _style(live: str, receipt: str) -> str:
    """The widget's own style sheet, gone from the page when the widget is.

    A page that was loaded before anywidget was installed draws a red error in the bell's place:
    it is hidden, for nothing is wrong with the run.
    """
    return f"""<style>
.{receipt} {{display:none}}
.{live} {{{FRAME};overflow:visible}}
.{live} .widget-html {{overflow:visible;min-width:0}}
.{live} .widget-html-content {{{PROSE};min-width:0}}
.{live} .jupyter-button {{
  height:28px;line-height:26px;padding:0 12px;margin:0 8px 4px 0;border-radius:6px;
  border:1px solid rgba(128,128,128,0.5);background:transparent;box-shadow:none;
  color:var(--jp-ui-font-color1,inherit);font-size:13px;max-width:100%}}
.{live} .jupyter-button:hover:enabled {{background:rgba(128,128,128,0.14);box-shadow:none}}
.{live} .jupyter-button:focus:enabled {{box-shadow:none}}
.{live} .jupyter-button:focus-visible {{outline:2px solid {ACCENT};outline-offset:2px}}
.{live} .gptbatch-row .jupyter-widgets-error-widget {{display:none}}
.{live} .jupyter-button.gptbatch-confirm {{border-color:{BAD}}}
@keyframes gptbatch-late {{to {{max-height:200px;visibility:visible}}}}
.gptbatch-late {{max-height:0;overflow:hidden;visibility:hidden;
  animation:gptbatch-late 1ms {LATE_S}s forwards}}
</style>"""
