"""The buttons of a live panel: what a person may do to a run just now, asked about first.

It knows which deeds a picture of a run leaves room for, and calls back when one is confirmed; it
refuses to know how they are done. A deed that spends or gives up is asked about: the second
question is another button in another place, so that a double click on the first cannot answer it.
The trap is the thread: clicks are handled in a subshell while the user's own cell is running, and
an error in one would be shown nowhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from ipywidgets import HTML, Button, HBox, Layout, Widget

from batch_magic.card import finish_words, leave_words, message_html
from batch_magic.records import JobStage, Snapshot, Stage

log = logging.getLogger(__name__)

CANCEL = "Cancel"
CONFIRM = "Really cancel? finished rows are kept"
KEEP = "Keep running"
CANCELLING = "cancelling"
FINISH = "Finish now"
FINISHING = "finishing live"
SUBMIT = "Submit"
SUBMITTING = "submitting"


@dataclass(frozen=True, slots=True)
class Deeds:
    """What is called when a person has confirmed it; None: it is not offered."""

    cancel: Callable[[], None]
    finish: Callable[[], None] | None = None
    submit: Callable[[], None] | None = None


class Buttons:
    """A row of buttons under a live card."""

    def __init__(self, deeds: Deeds) -> None:
        self._deeds = deeds
        self._ask, self._finish, self._submit = map(_button, (CANCEL, FINISH, SUBMIT))
        self._keep, self._confirm = _button(KEEP), _button(CONFIRM)
        self._trouble = HTML()
        self._wanted: Callable[[], None] | None = None  # what the question is about
        self._price = ""
        self._ask.on_click(lambda _: self._question(CONFIRM, self._cancel))
        self._finish.on_click(lambda _: self._question(self._price, self._go_live))
        self._submit.on_click(lambda _: self._do(self._submit, SUBMITTING, deeds.submit))
        self._keep.on_click(lambda _: self._rest())
        self._confirm.on_click(lambda _: self._answer())
        self._confirm.add_class("gptbatch-confirm")
        self._offered: tuple[Button, ...] = (self._ask,)
        self.box = HBox(layout=Layout(flex_flow="row wrap", margin="8px 0 0"))
        self._rest()

    def draw(self, s: Snapshot) -> None:
        """Offer what the run leaves room for."""
        self._price = finish_words(s)
        if s.asks_usd is not None:
            self._set(self._submit, leave_words(s), self._submit.disabled)
        is_live = s.goes_live_at is not None and s.goes_live_at <= s.as_of
        if is_live and not s.request.live:
            self._set(self._finish, FINISHING, is_disabled=True)
        if s.cancelling:
            self._set(self._ask, CANCELLING, is_disabled=True)
        offered = self._offer(s)
        if offered != self._offered:
            self._offered = offered
            self._rest()

    def hide(self) -> None:
        """Take the buttons off the page: there is nothing left to do."""
        self.box.layout.display = "none"

    def _offer(self, s: Snapshot) -> tuple[Button, ...]:
        if s.asks_usd is not None:
            return (self._submit, self._ask) if self._deeds.submit else (self._ask,)
        is_written = s.stage is not Stage.PREPARING and not s.cancelling and not s.request.live
        has_batch = any(not job.is_live and job.stage is not JobStage.COLLECTED for job in s.jobs)
        may_finish = self._deeds.finish is not None and is_written and has_batch
        return (self._ask, self._finish) if may_finish else (self._ask,)

    def _rest(self) -> None:
        self._wanted = None
        self.box.children = (*self._offered, self._trouble)

    def _question(self, question: str, deed: Callable[[], None]) -> None:
        self._wanted, self._confirm.description = deed, question
        self.box.children = (self._keep, self._confirm)

    def _answer(self) -> None:
        wanted, self._wanted = self._wanted, None
        self._rest()
        if wanted is not None:
            wanted()

    def _cancel(self) -> None:
        self._do(self._ask, CANCELLING, self._deeds.cancel)

    def _go_live(self) -> None:
        self._do(self._finish, FINISHING, self._deeds.finish)

    def _do(self, button: Button, under_way: str, deed: Callable[[], None] | None) -> None:
        """Do it once; if that fails, offer it again and say why: nobody else would."""
        if button.disabled or deed is None:
            return
        before = button.description
        self._set(button, under_way, is_disabled=True)
        self._trouble.value = ""
        try:
            deed()
        except Exception as error:
            log.exception("%r failed", before)
            self._set(button, before, is_disabled=False)
            self._trouble.value = message_html(f"not done: {before}", str(error))

    def _set(self, button: Button, text: str, is_disabled: bool) -> None:
        button.description, button.disabled = text, is_disabled


def answer_while_busy(widget: Widget) -> None:
    """Have clicks handled at once although the user's own cell is running.

    ipykernel 7.4 sends a click to the shell that last wrote the widget: the main one, which is
    busy. The page asks for a subshell by itself, so its wish is made to count again.
    """
    comm = widget.comm
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda data, default: default


def _button(text: str) -> Button:
    button = Button(description=text, layout=Layout(width="auto"))
    answer_while_busy(button)
    return button
