"""Results put into the user's namespace: when the kernel is idle, or just before the next cell.

It knows which name belongs to which run, and what may be bound to it; it refuses to know how a
run comes to its end. The trap: the namespace is touched in the main thread only, never inside a
running cell, and a name is left alone that holds something of the user's by then.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import pandas as pd
from IPython.core.interactiveshell import InteractiveShell

from batch_magic.errors import BatchMagicError
from batch_magic.frame import hold, is_as_held
from batch_magic.run import Run
from batch_magic.wording import counted


class Says(Protocol):
    """Whoever tells the reader where a result is."""

    def say(self, text: str) -> None:
        """Show one line; code in backticks. From any thread, never raising."""

    def tell(self) -> None:
        """Print what is new, where there is no page; in the main thread only."""


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """A frame that was handed over, and what it was then: the user may edit it in its place."""

    frame: weakref.ref[pd.DataFrame]
    as_it_was: pd.DataFrame


class HandOver:
    """Puts results in the namespace: when the kernel is idle, or just before the next cell.

    A background thread, or a click, only ever leaves here what is to be done to the namespace and
    asks the main thread to look. A name is left alone that holds something else by then, or a
    frame that was edited since.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self.is_busy = True  # the cell that loads the extension is running
        self._ready: list[Callable[[], None]] = []
        self._given: dict[str, _Given] = {}  # by run id, as long as somebody has the frame
        self._left_out: dict[str, frozenset[str]] = {}  # run id → causes whose rows it lacks
        self._watching: dict[str, list[Callable[[Collection[str]], None]]] = {}  # … who is told
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        shell.events.register("pre_run_cell", self._before_cell)
        shell.events.register("post_run_cell", self._after_cell)

    def promise_when_idle(self, run: Run, view: Says) -> None:
        """Do what `promise` does as soon as no cell is running; from any thread.

        A name that holds something of the user's own, or this very result, is left alone.
        """
        if self.is_busy:
            view.say(f"`{run.name}` is bound once the running cell has ended")
        self._deliver(partial(self._promise_if_free, run, view))

    def promise(self, run: Run, panel: Says) -> None:
        """Bind the run's name to its handle now, and to its frame once there is one."""
        self._shell.user_ns[run.name] = run
        self._leave_out(run, ())
        run.when_ended(lambda result: self._deliver(partial(self._put, run, result, panel)))

    def give(self, run: Run, frame: pd.DataFrame, left_out: Iterable[str] = ()) -> None:
        """Bind a frame at once, that lacks the rows of these causes: the running cell wants it."""
        self._bind(run, frame)
        self._leave_out(run, left_out)

    def renew(self, run: Run, say: Callable[[str], None]) -> None:
        """Bind the run's name to its new frame once there is one, if it holds the old one still.

        As it was given: columns, rows and values that the user has put in since are theirs.
        """
        run.when_ended(lambda result: self._deliver(partial(self._put_again, run, result, say)))

    def drop(self, run: Run, key: str, say: Callable[[str], None]) -> None:
        """Take the rows of a cause out of the frame that the run's name holds."""
        if self.is_busy:
            say(f"they leave `{run.name}` when the running cell has ended")
        self._deliver(partial(self._drop, run, key, say))

    def watch(self, run: Run, tell: Callable[[Collection[str]], None]) -> None:
        """Tell, now and from now on, the causes whose rows the frame lacks that was handed over."""
        self._watching.setdefault(run.run_id, []).append(tell)
        tell(self._left_out.get(run.run_id, frozenset()))

    def _leave_out(self, run: Run, keys: Iterable[str]) -> None:
        self._left_out[run.run_id] = frozenset(keys)
        for tell in self._watching.get(run.run_id, ()):
            tell(self._left_out[run.run_id])

    def _bind(self, run: Run, frame: pd.DataFrame) -> None:
        self._shell.user_ns[run.name] = frame
        given = self._given[run.run_id] = _Given(weakref.ref(frame), hold(frame))
        weakref.finalize(frame, self._forget, run.run_id, given)

    def _forget(self, run_id: str, given: _Given) -> None:
        """Let go of the data of a frame that is gone."""
        if self._given.get(run_id) is given:
            del self._given[run_id]

    def _is_as_given(self, bound: object) -> bool:
        """Tell whether this is a frame that was put here, and nothing of the user's is in it."""
        given = self._given.get(_run_of(bound))
        if given is None or given.frame() is not bound:
            return False
        assert isinstance(bound, pd.DataFrame)
        return is_as_held(bound, given.as_it_was)

    def _deliver(self, deed: Callable[[], None]) -> None:
        self._ready.append(deed)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._when_idle)

    def _when_idle(self) -> None:
        if not self.is_busy:
            self._swap()

    def _before_cell(self, *_: object) -> None:
        self._swap()
        self.is_busy = True

    def _after_cell(self, *_: object) -> None:
        self.is_busy = False
        self._swap()

    def _promise_if_free(self, run: Run, view: Says) -> None:
        """Bind a name that was asked for by a click, if that takes nothing from the user."""
        name, take = run.name, f"`%gptbatch take {run.run_id}`"
        bound = self._shell.user_ns.get(name)
        is_ours = isinstance(bound, Run) or self._is_as_given(bound)
        if run.snapshot().is_ended and _run_of(bound) == run.run_id:
            view.say(f"`{name}` holds this result already; {take} brings it anew")
        elif name in self._shell.user_ns and not is_ours:
            what = type(bound).__name__
            view.say(f"`{name}` holds a {what} of yours, and keeps it; {take} puts the run's there")
        else:
            view.say(f"`{name}` holds the run until it has ended")
            self.promise(run, view)

    def _swap(self) -> None:
        while self._ready:
            self._ready.pop(0)()

    def _put(self, run: Run, result: pd.DataFrame | BatchMagicError, panel: Says) -> None:
        bound = self._shell.user_ns.get(run.name)
        if isinstance(result, BatchMagicError):
            if run.snapshot().fault is None:  # a fault stands in the card by itself
                panel.say(str(result))
        elif isinstance(bound, Run) and bound.run_id == run.run_id:
            self._bind(run, result)
            run.taken()
            panel.say(f"the result is in `{run.name}`")
        elif _run_of(bound) == run.run_id:  # another panel of the run has brought it
            panel.say(f"the result is in `{run.name}`")
        elif not _run_of(bound):
            panel.say(
                f"`{run.name}` was bound to something else; the result is one line away:"
                f" `%gptbatch take {run.name}`"
            )
        panel.tell()

    def _put_again(
        self, run: Run, result: pd.DataFrame | BatchMagicError, say: Callable[[str], None]
    ) -> None:
        if isinstance(result, BatchMagicError):
            say(str(result))
            return
        bound = self._shell.user_ns.get(run.name)
        is_handle = isinstance(bound, Run) and bound.run_id == run.run_id
        if not is_handle and not (_run_of(bound) == run.run_id and self._is_as_given(bound)):
            say(
                f"`{run.name}` was changed since or holds something else; the new result is one"
                f" line away: `%gptbatch take {run.name}`"
            )
            return
        left_out = self._left_out.get(run.run_id, frozenset())
        frame = run.without(result, left_out) if left_out else result
        self._bind(run, frame)
        run.taken()
        say(left_words(run, frame) if left_out else f"the new result is in `{run.name}`")

    def _drop(self, run: Run, key: str, say: Callable[[str], None]) -> None:
        bound = self._shell.user_ns.get(run.name)
        if _run_of(bound) != run.run_id:
            say(
                f"nothing was dropped: `{run.name}` does not hold the run's result;"
                f" `%gptbatch take {run.name}` puts it there"
            )
            return
        assert isinstance(bound, pd.DataFrame)
        try:
            frame = run.without(bound, {key})
        except BatchMagicError as error:
            say(f"nothing was dropped: {error}")
            return
        if self._is_as_given(bound):
            self._bind(run, frame)
        else:  # it is the user's still, with what they did to it: no new result takes its place
            self._shell.user_ns[run.name] = frame
        self._leave_out(run, self._left_out.get(run.run_id, frozenset()) | {key})
        say(left_words(run, frame))

    def close(self) -> None:
        """Take the hooks out of the shell."""
        self._shell.events.unregister("pre_run_cell", self._before_cell)
        self._shell.events.unregister("post_run_cell", self._after_cell)


def _run_of(bound: object) -> str:
    """Return the id of the run whose result this is; "" for anything else."""
    if not isinstance(bound, pd.DataFrame):
        return ""
    facts = bound.attrs.get("gptbatch")
    return str(facts.get("run_id", "?")) if isinstance(facts, dict) else ""


def left_words(run: Run, frame: pd.DataFrame) -> str:
    """Say what a result without some rows holds, and how to have them back."""
    whole = run.snapshot().rows // len(run.snapshot().request.models)
    return (
        f"`{run.name}` has {len(frame):,} of {counted(whole, 'row')}: the run keeps the others,"
        f" `%gptbatch take {run.name}` brings them back"
    )
