"""A handle on one run: what `submit` returns and what the result's name holds until the end.

It knows how to wait (blocking, in a coroutine, inside a host's running loop), and how to make
the frame when there is one; it refuses to keep a truth of its own: all it says is read from
the journal or from the last snapshot that was published. The traps: a blocking wait must
neither starve its host's loop nor swallow an interrupt, and a handle that is used as a frame
too early must say so in one line instead of pretending.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import pandas as pd

from batch_magic import causes, diagnosis, picture, plots, result, sides
from batch_magic import frame as frames
from batch_magic.causes import Cause
from batch_magic.diagnosis import Diagnosis
from batch_magic.errors import BatchMagicError, CellError, ServiceError, StillRunning
from batch_magic.folder import Home, RunFolder
from batch_magic.journal import Journal
from batch_magic.measuring import measured
from batch_magic.pairing import Side
from batch_magic.records import Ending, Estimate, Preview, RowStatus, RunRecord, Snapshot, Stage
from batch_magic.value_words import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("batch_magic")

_WAIT_SLICE_S = 0.2


class Run:
    """A handle on one run. It holds the place of the result until there is one.

    Used as a frame before the end it says, in one line, how far it is and how to wait.
    """

    def __init__(
        self,
        record: RunRecord,
        *,
        home: Home,
        journal: Journal,
        held: pd.DataFrame | None,
        is_recorded: bool,
        cancel: Callable[[str], None],
        retry: Callable[[Run, Sequence[str], Sequence[str], bool, str | float | None], None],
        finish: Callable[[Run, str | float | None], None],
        spawn: Callable[[Callable[[], None]], None],
    ) -> None:
        self._home, self._journal = home, journal
        self._cancel_recorded, self._retry, self._spawn = cancel, retry, spawn
        self._finish = finish
        self._run_id = record.run_id
        self._name = record.name
        self._held = held  # the frame at submit, shared by copy-on-write
        self._is_recorded = is_recorded
        self._is_abandoned = False
        self._said: str | None = None
        self._numbered: dict[str, int] = {}  # each cause that was told, by its key
        self._order = threading.Lock()  # a clinic looks again in another thread
        self._ended = threading.Event()
        self._listeners: list[Callable[[Snapshot], None]] = []
        self._callbacks: list[Callable[[pd.DataFrame | BatchMagicError], None]] = []
        self._snapshot = picture.snapshot(record, record.created_at)
        if not is_recorded:
            self._preparing(0)
        elif record.ending is not None:
            self._ended.set()

    @property
    def run_id(self) -> str:
        return self._run_id

    @property
    def name(self) -> str:
        return self._name

    def snapshot(self) -> Snapshot:
        """Return a frozen picture of the run: stage, counts, jobs, times."""
        return self._snapshot

    def estimate(self) -> Estimate | None:
        """Return what the run may take, as was said before it was sent; None while it prepares."""
        return self._snapshot.estimate

    def result(self, drop: int | Sequence[int] = ()) -> pd.DataFrame:
        """Return the frame with its answers: n rows as at submit, same order, index and dtypes.

        `drop` leaves out the rows of these causes, by the numbers `errors` has told; the run keeps
        them. Raises StillRunning before the end, ServiceError when the run has stopped on a fault,
        CellError for a number that no cause has.
        """
        frame = self._made()
        self.taken()
        return self.without(frame, self.causes_of(drop)) if drop else frame

    def without(self, frame: pd.DataFrame, keys: Collection[str]) -> pd.DataFrame:
        """Return a result of this run (n rows) without its rows of these causes, by their keys.

        Raises CellError for a frame whose `gpt_status` or `gpt_error` is gone.
        """
        return diagnosis.without(frame, self._journal.run(self._run_id), keys)

    def _made(self) -> pd.DataFrame:
        s = self._snapshot
        if s.ending is None:
            raise StillRunning(self.hint())
        if s.asks_usd is not None:
            raise CellError(self.hint())
        if s.ending is Ending.STOPPED:
            raise ServiceError(f"{s.name} has stopped: {s.fault}")
        if not self._is_recorded:
            raise CellError(f"{s.name} has no result: {s.fault}; run the cell again")
        return self.partial()

    def taken(self) -> None:
        """Note that the user has the result: a run whose result nobody has is not cleaned away."""
        self._journal.note_result(self._run_id, time.time())

    def partial(self) -> pd.DataFrame:
        """Return the frame with the answers so far; rows without one are `pending`."""
        if not self._is_recorded:
            raise StillRunning(self.hint())
        record = self._journal.run(self._run_id)
        marks = self._journal.marks(self._run_id)
        return result.result_frame(self._folder(record), record, self._held, marks)

    def wait(self, timeout_s: float | None = None) -> pd.DataFrame:
        """Block until the run has ended and return its frame.

        Raises StillRunning after `timeout_s` seconds, ServiceError when the run stops on a
        fault. An interrupt leaves the run alone.
        """
        loop = _host_loop()
        if loop is None or not _nest(loop):
            self._block(timeout_s)
        else:
            loop.run_until_complete(self._until_ended(timeout_s))
        return self.result()

    def __await__(self) -> Generator[Any, None, pd.DataFrame]:
        return self._frame().__await__()

    async def _frame(self) -> pd.DataFrame:
        await self._until_ended(None)
        return await asyncio.to_thread(self.result)

    def errors(self) -> pd.DataFrame:
        """Return why rows have no answer: a cause in each row, the commonest first.

        The index `cause` numbers them, for `retry` and `result`. A cause keeps its number as long
        as this process has the run, in every later table and in the clinic, whatever comes and goes
        meanwhile: those that are new take the next ones, so numbers may have gaps and be out of
        order. Columns: `status`, `rows` (how many), `error` (one of them in full), `cure`,
        `position` and `index` (of the first such row), `row` (its values, cut short); of several
        models also `model`. Errors that differ in numbers and ids alone are one cause.
        """
        record, folder = self._recorded()
        found = causes.causes(folder, record)
        frame = result.frame_of(folder, self._held)
        return diagnosis.errors_frame(record, found, frame, self._number(found))

    def diagnosis(self) -> Diagnosis:
        """Return the same as values, with what each cause may cost to retry and an example whole.

        Dollars by batch and live. This is what `%gptbatch clinic` shows.
        """
        record, folder = self._recorded()
        names = self._journal.kin(record.backend.identity, record.request.model)
        kin = [(self._folder(one), one) for one in (self._journal.run(name) for name, _ in names)]
        frame = result.frame_of(folder, self._held)
        return diagnosis.diagnose(folder, record, frame, kin, self._number)

    def _number(self, found: Sequence[Cause]) -> list[int]:
        """Give each cause its number: the one that it has, else the next."""
        with self._order:
            known = self._numbered
            return [known.setdefault(cause.key, len(known) + 1) for cause in found]

    def _recorded(self) -> tuple[RunRecord, RunFolder]:
        if not self._is_recorded:
            raise StillRunning(self.hint())
        record = self._journal.run(self._run_id)
        return record, self._folder(record)

    def causes_of(self, numbers: int | Sequence[int]) -> tuple[str, ...]:
        """Return the keys of the causes that these numbers mean, in any table that was told.

        Before the first, those that `errors` would tell now. Raises CellError for a number that no
        cause has.
        """
        if not self._numbered:
            record, folder = self._recorded()
            self._number(causes.causes(folder, record))
        known = list(self._numbered)  # in the order of their numbers
        for number in (asked := [numbers] if isinstance(numbers, int) else list(numbers)):
            if not isinstance(number, int) or not 0 < number <= len(known):
                size = f"it has 1 to {len(known)}" if known else "it has none"
                raise CellError(
                    f"{self._name} has no cause {number}; {size}: `%gptbatch errors {self._name}`"
                )
        return tuple(known[number - 1] for number in asked)

    def plot(self) -> Figure:
        """Return a matplotlib figure: outcomes, tokens of answers, times of jobs and answers.

        Times are since submit: of each job its queue and its work as this machine saw them, of
        answers the second in which the service says it made them. While the run goes on, it shows
        what has come in. Raises CellError where matplotlib is not installed.
        """
        if not self._is_recorded:
            raise StillRunning(self.hint())
        record = self._journal.run(self._run_id)
        s = picture.snapshot(record, time.time())
        return plots.run_figure(s, measured(self._folder(record), record))

    def _side(self) -> Side:
        """Return the run, as far as it is, as a side of a comparison."""
        return sides.of_run(self._journal.run(self._run_id), self.partial())

    def _sides_by_model(self, models: Sequence[str]) -> list[Side]:
        """Return a side for each of these models, or for all that the run asked."""
        return sides.by_model(self._side(), models, self._journal.run(self._run_id))

    def retry(
        self,
        status: Sequence[str] = (),
        *,
        cause: int | Sequence[int] | None = None,
        live: bool = False,
        max_cost: str | float | None = None,
    ) -> None:
        """Send rows again that came out with one of these statuses; returns at once.

        `cause`: those of these causes instead, by the numbers `errors` has told. `live`: through
        the realtime API, at its price. `max_cost` as in `finish`. Rows that are under way are not
        meant.
        By default those without an answer: failed, expired, cancelled, missing. An answer is
        replaced only by one as good or better. Raises CellError for a status that cannot be
        retried, and when no row has one.
        """
        causes = () if cause is None else self.causes_of(cause)
        if cause is not None and not causes:  # all rows without an answer would be meant
            raise CellError("the list of causes is empty; name one, by its number in `errors`")
        self._retry(self, status, causes, live, max_cost)

    def in_background(self, work: Callable[[], None]) -> None:
        """Do some work in another thread, which catches what it raises."""
        self._spawn(work)

    def finish(self, max_cost: str | float | None = None) -> None:
        """Finish what is left through the realtime API, at its price; returns at once.

        Batches are cancelled first: what they have answered by then is kept, no row is paid for
        twice. Raises CellError for a run that has ended, and where the run may come to cost more
        than `max_cost` (US dollars, or "any"; if not given, the run's own).
        """
        self._finish(self, max_cost)

    def cancel(self) -> None:
        """Cancel the run; rows that have finished are kept. Returns at once."""
        if self._is_recorded:
            self._cancel_recorded(self._run_id)
        else:
            self._is_abandoned = True

    def listen(self, listener: Callable[[Snapshot], None]) -> None:
        """Call `listener` with every new snapshot, from the heartbeat's thread."""
        self._listeners.append(listener)
        listener(self._snapshot)

    def when_ended(self, callback: Callable[[pd.DataFrame | BatchMagicError], None]) -> None:
        """Call back once with the result, or with why there is none, from a background thread.

        Of a run that has ended already, at once.
        """
        self._callbacks.append(callback)
        if self._ended.is_set():
            self._call_back()

    def example(self) -> str | None:
        """Return the first request line of the run as it was sent, None if nothing was."""
        if not self._is_recorded:
            return None
        record = self._journal.run(self._run_id)
        folder = self._folder(record)
        return next((folder.first_line(shard) for shard in record.shards), None)

    def history(self) -> list[tuple[float, str]]:
        """Return what happened to the run, in order: (Unix seconds, one line)."""
        events = self._journal.history(self._run_id) if self._is_recorded else []
        return [
            (at, event if job is None else f"job {job + 1}: {event}") for at, job, event in events
        ]

    def _folder(self, record: RunRecord) -> RunFolder:
        return self._home.run_folder(record.run_id, record.files)

    # -- what the session tells it ----------------------------------------------------------

    def _start(self, snapshot: Snapshot) -> None:
        """Take the picture from which the engine goes on, even after an end."""
        self._ended.clear()
        self._snapshot = replace(self._snapshot, ending=None)
        self._take(snapshot)

    def _take(self, snapshot: Snapshot) -> None:
        """Take a newer picture; an end is final until `_start`."""
        if self._snapshot.ending is not None and snapshot.ending is None:
            return
        if self._said and self._said not in snapshot.notes:
            snapshot = replace(snapshot, notes=(self._said, *snapshot.notes))
        snapshot = replace(snapshot, newest=tuple(map(self._labelled, snapshot.newest)))
        self._snapshot = snapshot
        for listener in list(self._listeners):
            listener(snapshot)
        if snapshot.ending is not None:
            self._ended.set()
            self._call_back()

    def _labelled(self, one: Preview) -> Preview:
        """Tell a row as its user does, where this kernel has the frame: none is read for that."""
        if self._held is None or frames.is_plain(self._held.index):
            return one
        return replace(one, label=short(self._held.index[one.position]) or "")

    def _call_back(self) -> None:
        if self._snapshot.asks_usd is not None:
            return  # it has not begun
        callbacks, self._callbacks = self._callbacks, []
        if callbacks:
            self._spawn(lambda: self._deliver(callbacks))

    def _deliver(self, callbacks: list[Callable[[pd.DataFrame | BatchMagicError], None]]) -> None:
        try:
            outcome: pd.DataFrame | BatchMagicError = self._made()
        except BatchMagicError as error:
            outcome = error
        for callback in callbacks:
            try:
                callback(outcome)
            except Exception:  # the user's own code, in a thread that nobody looks at
                log.exception("what was to be called at the end of %s failed", self._name)

    def _preparing(self, rows_done: int) -> None:
        counts = {RowStatus.PENDING: self._snapshot.rows} if self._snapshot.rows else {}
        self._take(
            replace(
                self._snapshot,
                stage=Stage.PREPARING,
                prepared=rows_done,
                counts=counts,
                as_of=time.time(),
            )
        )

    def _give_up(self, fault: str, ending: Ending) -> None:
        self._take(replace(self._snapshot, ending=ending, fault=fault, ended_at=time.time()))

    def _become(self, run_id: str) -> None:
        """Turn into the handle of another run, the one that is just the same."""
        self._run_id = run_id

    def _block(self, timeout_s: float | None) -> None:
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        # In slices: a lock without a time limit cannot be interrupted on every platform.
        while not self._ended.wait(_WAIT_SLICE_S):
            if ends is not None and time.monotonic() >= ends:
                raise StillRunning(self.hint())

    async def _until_ended(self, timeout_s: float | None) -> None:
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._ended.is_set():
            if ends is not None and time.monotonic() >= ends:
                raise StillRunning(self.hint())
            await asyncio.sleep(_WAIT_SLICE_S / 2)

    # -- used as a frame --------------------------------------------------------------------

    def hint(self) -> str:
        """Say in one line how far the run is and what to do."""
        s, name = self._snapshot, self._snapshot.name
        if s.asks_usd is not None:
            return f"{name} is {s.fault}; `%gptbatch submit {name}` gives leave"
        if s.ending is Ending.STOPPED or (s.ending is not None and not self._is_recorded):
            return f"{name} has {s.ending.value}: {s.fault}"
        if s.ending is not None:
            return f"{name} has ended; its frame is {name}.result() or `%gptbatch take {name}`"
        pending = s.counts.get(RowStatus.PENDING, 0)
        done = min(s.rows, s.rows - pending + s.claimed_ok + s.claimed_failed)
        trouble = f": {s.problem}" if s.problem else ""
        return (
            f"{name} has not ended yet ({s.stage.value}, {done:,} of {s.rows:,} rows){trouble};"
            " wait for it:"
            f" `%gptbatch wait {name}` or `await {name}`, or take what is there: {name}.partial()"
        )

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise StillRunning(self.hint())

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        raise StillRunning(self.hint())

    __getitem__ = __setitem__ = __len__ = __iter__ = __contains__ = _refuse

    def __repr__(self) -> str:
        return f"<Run {self._run_id}: {self.hint()}>"


# -- waiting inside somebody else's loop ----------------------------------------------------


def _host_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that already runs in this thread, unless it is an ipykernel's.

    A kernel's panel and comms go on in their own threads while a cell blocks, and patching
    its loop loses cells (measured with ipykernel 7.2 to 7.4), so there we just block.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return None if getattr(shell, "kernel", None) is not None else loop


def _nest(loop: asyncio.AbstractEventLoop) -> bool:
    """Let a loop that runs already run once more inside; False where it cannot (uvloop)."""
    import nest_asyncio2

    try:
        nest_asyncio2.apply(loop)
    except ValueError:
        return False
    return True
