"""The project view: every run of a home, live, whichever kernel works at it.

It knows the page (one anywidget, a table beside it for the saved file), who is looking, and which
row a click was on. It refuses to know how a run stands (`standing`), how that is found out
(`lookout`) and how a deed is done: deeds are callbacks, and each may say no.

One anywidget and not a row of ipywidgets for each run: fifty rows of buttons would be hundreds of
models, and a refresh that replaces elements takes focus and selection away under a reader's hands.
The page gets texts and puts them there as text; filters, order and pages are worked out here, so
the page holds fifty rows however many runs there are.

The traps: a page goes without a word when its browser is closed, so it has to say that somebody
looks, and without that nothing is read; clicks are handled in another thread while the user's own
cell runs, so nothing here touches the namespace; and what a page asks for may be out of date, so a
deed is done only if the run has it on offer still.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from IPython.display import DisplayHandle, display
from ipywidgets import Layout, Output, VBox

from batch_magic.card import TEXT_LENGTH, clip, state_words
from batch_magic.clicks import answer_while_busy
from batch_magic.errors import BatchMagicError
from batch_magic.heartbeat import Heartbeat
from batch_magic.lookout import Lookout
from batch_magic.standing import (
    PAGE_ROWS,
    Deed,
    Order,
    Show,
    Standing,
    Wish,
    allowed,
    listed,
    project_html,
    row_of,
    shown_counts,
    table_text,
)

log = logging.getLogger(__name__)

LOOK_S = 2.0  # between two looks at the journal
EYES_S = 90.0  # a page that has said nothing for so long is gone; it says something every 20 s
RECEIPT_S = 60.0
WIDGET = "application/vnd.jupyter.widget-view+json"
_WISH_LENGTH = 200

Doing = Callable[[str, "ProjectView"], object]
"""Does a deed to the run of this id and may say so; what is returned is shown below the runs.

Raises BatchMagicError where it cannot be done.
"""


class ProjectView:
    """The runs of one home in a cell of a notebook.

    `new_lookout` makes a `Lookout`, one for each thread that looks; `deeds` are the deeds that may
    be offered; `is_busy` tells whether a cell is running, when a page may be unable to speak.
    """

    def __init__(
        self,
        home: str,
        new_lookout: Callable[[], Lookout],
        deeds: Mapping[Deed, Doing],
        is_busy: Callable[[], bool],
        *,
        eyes_s: float = EYES_S,
    ) -> None:
        self._home, self._new_lookout = home, new_lookout
        self._deeds, self._is_busy, self._eyes_s = dict(deeds), is_busy, eyes_s
        # Keeps the pictures on the page in order, and a double click from being two: the thread
        # that looks and those that handle clicks both draw.
        self._order = Lock()
        self._wish = Wish()
        self._under_way: dict[str, str] = {}  # run id → what was clicked and is not seen done yet
        self._done: list[str] = []  # of these, the ones that were done before the next look
        self._refused: dict[str, str] = {}  # run id → why what was clicked last was not done
        self._problem = ""
        self._eyes = {"": time.monotonic()}  # page's view → when it last said that it is looked at
        self._looks: Lookout | None = None
        self._standings: Sequence[Standing] = new_lookout().look(time.time())
        self._receipt, self._place = _output(), _output()
        self._noted_at, self._noted = time.time(), _state_of(self._standings)
        self._widget = _kind()()
        self._area = Output()
        self._box = VBox((self._widget, self._area), layout=Layout(width="100%", margin="0"))
        self._widget.receipt = f"gptbatch-receipt-{self._widget.model_id}"
        self._widget.on_msg(self._hear)
        answer_while_busy(self._widget)
        self._draw()
        self._beat = Heartbeat(self._look, on_error=self._on_error, at_stop=self._at_stop)

    def show(self) -> None:
        """Display the table that stays and the widget in the present cell, and begin to look."""
        self._receipt.display(self._bundle(), raw=True)
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        self._place.display({WIDGET: view, "text/plain": ""}, raw=True)
        self._beat.start()

    def say(self, text: str) -> None:
        """Show one more line, in place of the last one said; from any thread, never raising."""
        try:
            with self._order:
                self._widget.said = clip(text, TEXT_LENGTH)
        except Exception:
            log.exception("%r could not be shown", text)

    def tell(self) -> None:
        """Do nothing: what is new is on the page already."""

    @property
    def is_looked_at(self) -> bool:
        """Tell whether a page has lately said that somebody looks at it."""
        now = time.monotonic()
        return any(now - at < self._eyes_s for at in list(self._eyes.values()))

    def close(self) -> None:
        """Stop looking, and leave the table in the cell."""
        if self._beat.is_alive:
            self._beat.stop(timeout_s=1.0)
        self._place.update({"text/html": "", "text/plain": ""}, raw=True)
        for widget in (self._box, self._area, self._widget):
            widget.close()

    # -- what is drawn ------------------------------------------------------------------------

    def _draw(self) -> None:
        """Write the page; the widget itself sends only what differs."""
        found = listed(self._standings, self._wish)
        wish = self._wish
        self._widget.page = {
            "rows": [row_of(one, self._deeds) for one in found.standings],
            "all": len(self._standings),
            "matched": found.matched,
            "page": found.page,
            "pages": found.pages,
            "size": PAGE_ROWS,
            "wish": {"text": wish.text, "show": wish.show.value, "order": wish.order.value},
            "shows": shown_counts(self._standings),
            "orders": [order.value for order in Order],
            "busy": dict(self._under_way),
            "refused": dict(self._refused),
            "problem": self._problem,
            "home": self._home,
        }

    def _note(self) -> None:
        """Bring the table that stays up to date, when it would tell another story."""
        now, state = time.time(), _state_of(self._standings)
        goes_on = any(not one.snapshot.is_ended for one in self._standings)
        if state != self._noted or (goes_on and now - self._noted_at >= RECEIPT_S):
            self._noted, self._noted_at = state, now
            self._receipt.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        html = project_html(self._standings, time.time(), self._home)
        text = table_text(self._standings, time.time(), self._home)
        return {
            "text/html": f'<div class="{self._widget.receipt}">{html}</div>',
            "text/plain": text,
        }

    # -- looking ------------------------------------------------------------------------------

    async def _look(self) -> float | None:
        """Look once, in the thread that looks; None puts it to sleep until somebody looks again."""
        if self._is_busy():  # the page may be unable to speak
            for view in list(self._eyes):
                self._eyes[view] = time.monotonic()
        if not self.is_looked_at:
            return None
        if self._looks is None:
            self._looks = self._new_lookout()
        done = len(self._done)
        standings = self._looks.look(time.time())
        if standings is not self._standings or done or self._problem:
            with self._order:
                self._standings, self._problem = standings, ""
                for run_id in self._done[:done]:
                    self._under_way.pop(run_id, None)
                del self._done[:done]
                self._draw()
        self._note()
        return LOOK_S

    async def _at_stop(self) -> None:
        if self._looks is not None:
            self._looks.close()

    def _on_error(self, error: BaseException) -> None:
        """Tell what keeps it from looking; the next look comes in a few seconds."""
        is_ours = isinstance(error, BatchMagicError)
        if not is_ours:
            log.error("the runs could not be looked at", exc_info=error)
        with suppress(Exception), self._order:
            self._problem = clip(str(error) if is_ours else repr(error), TEXT_LENGTH)
            self._draw()

    # -- what the page says -------------------------------------------------------------------

    def _hear(self, _: object, said: object, __: object) -> None:
        """Take a message of the page; one that makes no sense is dropped."""
        if not isinstance(said, dict):
            return
        words = {str(key): str(value) for key, value in said.items()}
        try:
            hearing = {"look": self._seen, "bye": self._unseen, "wish": self._wished}
            if (hear := hearing.get(words.get("kind", ""))) is not None:
                hear(words)
            elif words.get("kind") == "deed":
                self._do(words.get("run_id", ""), Deed(words.get("deed")))
        except ValueError:
            log.debug("the page said %r", said)

    def _seen(self, words: Mapping[str, str]) -> None:
        was_looked_at = self.is_looked_at
        self._eyes.pop("", None)
        self._eyes[words.get("view", "")] = time.monotonic()
        if not was_looked_at:
            self._beat.wake()

    def _unseen(self, words: Mapping[str, str]) -> None:
        self._eyes.pop(words.get("view", ""), None)

    def _wished(self, words: Mapping[str, str]) -> None:
        text = words.get("text", "")[:_WISH_LENGTH]
        show, order = Show(words.get("show", "all")), Order(words.get("order", "newest first"))
        with self._order:
            self._wish = Wish(text, show, order, int(words.get("page", "0")))
            self._draw()

    def _do(self, run_id: str, deed: Deed) -> None:
        """Do what was clicked, once; why it was not done is told in the run's row."""
        one = next((one for one in self._standings if one.snapshot.run_id == run_id), None)
        with self._order:
            if one is None or run_id in self._under_way:
                return
            self._under_way[run_id] = deed.value
            self._refused.pop(run_id, None)
            self._draw()
        refused = ""
        try:
            if allowed(one, deed, self._deeds):
                self._carry_out(deed, run_id)
        except BatchMagicError as error:
            refused = str(error)
        except Exception as error:  # nobody else would tell: a click has no cell
            log.exception("%s of %s failed", deed.value, run_id)
            refused = f"{type(error).__name__}: {error} (a bug of batch_magic's)"
        with self._order:
            if refused:
                self._refused[run_id] = clip(refused, TEXT_LENGTH).replace("`", "")
            self._done.append(run_id)
            self._draw()
        self._beat.wake()

    def _carry_out(self, deed: Deed, run_id: str) -> None:
        if deed is not Deed.EXPLORE:
            self._deeds[deed](run_id, self)
            return
        self._area.clear_output()
        refused: BatchMagicError | None = None
        with self._area:  # it would swallow what is raised in it, and draw a traceback
            try:
                shown = self._deeds[deed](run_id, self)
                if shown is not None:
                    display(shown)  # type: ignore[no-untyped-call]  # IPython leaves it so
            except BatchMagicError as error:
                refused = error
        if refused is not None:
            raise refused


def show_table(standings: Sequence[Standing], home: str) -> None:
    """Display the runs as a table that stays: where nobody is there to click."""
    now = time.time()
    html, text = project_html(standings, now, home), table_text(standings, now, home)
    _output().display({"text/html": html, "text/plain": text}, raw=True)


def _state_of(standings: Sequence[Standing]) -> tuple[object, ...]:
    """What makes the table another one for a reader who looks away between changes."""
    return tuple(
        (one.snapshot.run_id, state_words(one.snapshot), one.where) for one in standings[:PAGE_ROWS]
    )


def _output() -> Any:
    return DisplayHandle()  # type: ignore[no-untyped-call]  # IPython leaves it so


@cache
def _kind() -> type[Any]:
    """The widget's class, made when the first view needs it."""
    from anywidget import AnyWidget
    from traitlets import Dict, Unicode

    here = Path(__file__)

    class ProjectWidget(AnyWidget):
        _esm = here.with_suffix(".js").read_text(encoding="utf-8")
        _css = here.with_suffix(".css").read_text(encoding="utf-8")
        page = Dict().tag(sync=True)
        said = Unicode().tag(sync=True)
        receipt = Unicode().tag(sync=True)

    return ProjectWidget
