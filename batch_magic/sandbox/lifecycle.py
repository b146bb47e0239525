"""The life of every batch: one coroutine each, one step per status, restartable at any point.

Knows how long each status lasts, what ends it, and the order of effects. Refuses to validate,
answer or write results itself; that is blocking work and runs in worker threads. The traps: a
cancel may come between any two lines, so every move is a compare-and-set that may lose; nothing
is kept here that the store does not have, so a restart goes on where the record ends.
"""

import asyncio
import contextlib
import logging
import math
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec

from .faults import as_list
from .records import (
    OUTPUT_RETENTION_S,
    BatchRecord,
    Counts,
    FileRecord,
    RowError,
    Status,
)
from .results import ResultFile, Results, write_results
from .rows import wanted_rows
from .run import Run, Tally, read_record
from .service import ORGANIZATION, Service
from .validation import Verdict, judge_input, missing_file, queue_full

DURATIONS_S = {
    "validating_s": 20.0,
    "in_progress_s": 10.0,  # the least; longer when the answers take longer
    "finalizing_s": 10.0,
    "cancelling_s": 5.0,
}
_WORKERS = 4
_ROW_WORKERS = 32
_LONGEST_NAP_S = 60.0

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Lifecycle:
    """Moves batches from status to status until none can move."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._store = service.store
        self._clock = service.clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._nudges: dict[str, asyncio.Event] = {}
        self._workers = ThreadPoolExecutor(_WORKERS, "batch")
        self._row_workers = ThreadPoolExecutor(_ROW_WORKERS, "row")
        self._steps: dict[Status, Callable[[BatchRecord], Awaitable[None]]] = {
            Status.VALIDATING: self._validate,
            Status.IN_PROGRESS: self._answer,
            Status.FINALIZING: self._finalize,
            Status.CANCELLING: self._wind_up,
        }

    def start(self) -> None:
        """Take up every batch that an earlier life left unfinished."""
        for batch in self._store.unfinished():
            self.take_up(batch.id)

    async def stop(self) -> None:
        """Stop between two steps of work; what is in a worker's hands is finished first."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._row_workers.shutdown(wait=True, cancel_futures=True)

    def take_up(self, batch_id: str) -> None:
        """Begin or go on with a batch."""
        self._nudges[batch_id] = asyncio.Event()
        self._tasks[batch_id] = asyncio.create_task(self._live(batch_id))

    def nudge(self, batch_id: str | None = None) -> None:
        """Let waiting batches look at the clock and their status again."""
        nudges = self._nudges.values() if batch_id is None else [self._nudges.get(batch_id)]
        for nudge in nudges:
            if nudge is not None:
                nudge.set()

    @property
    def is_idle(self) -> bool:
        """Whether no batch can move any more."""
        return not self._tasks

    async def _live(self, batch_id: str) -> None:
        try:
            while not (batch := self._batch(batch_id)).is_ended:
                await self._steps[batch.status](batch)
            self._store.drop_run(batch_id)
        except Exception:  # a bug of ours: the batch rests as it is until the next life
            _log.exception("batch %s cannot go on", batch_id)
        del self._tasks[batch_id], self._nudges[batch_id]

    def _batch(self, batch_id: str) -> BatchRecord:
        batch = self._store.batch(batch_id)
        if batch is None:
            raise LookupError(batch_id)
        return batch

    async def _in_worker(self, work: Callable[..., T], *args: Any) -> T:
        """Return the result of blocking work; a cancelled wait still sees the work end."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._workers, partial(work, *args))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def _deadline(self, batch: BatchRecord, name: str) -> float:
        seconds = float(batch.faults.get(name, DURATIONS_S[name]))
        return batch.phase_started + self._clock.scaled(seconds)

    async def _wait(self, batch: BatchRecord, deadline: float) -> None:
        """Return when the clock passes `deadline` or the status is no longer the batch's."""
        nudge = self._nudges[batch.id]
        while True:
            nudge.clear()
            left = deadline - self._clock.now()
            if left <= 0 or self._batch(batch.id).status != batch.status:
                return
            await self._nap(nudge, left)

    @staticmethod
    async def _nap(nudge: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(nudge.wait(), min(seconds, _LONGEST_NAP_S))

    async def _validate(self, batch: BatchRecord) -> None:
        verdict = await self._in_worker(self._judge, batch)
        await self._wait(batch, self._deadline(batch, "validating_s"))
        errors = verdict.errors or self._queue_errors(batch, verdict)
        now = self._clock.now()
        if errors:
            self._store.move(batch.id, Status.FAILED, now, errors=errors)
            return
        self._store.move(
            batch.id,
            Status.IN_PROGRESS,
            now,
            model=verdict.model,
            counts=Counts(total=verdict.rows),
            enqueued_tokens=verdict.tokens,
        )

    def _judge(self, batch: BatchRecord) -> Verdict:
        forced = batch.faults.get("validation_error")
        if forced is not None:
            return Verdict(errors=[_forced_error(value) for value in as_list(forced)])
        now = self._clock.now()
        file = self._store.file(batch.input_file_id, now)
        if file is None or file.purpose != "batch":
            return Verdict(errors=[missing_file(batch.input_file_id, ORGANIZATION)])
        own = self._store.run_input_path(batch.id)
        own.unlink(missing_ok=True)
        os.link(self._store.file_path(file.id), own)
        return judge_input(own, batch.endpoint)

    def _queue_errors(self, batch: BatchRecord, verdict: Verdict) -> list[RowError]:
        cap = batch.faults.get("token_cap")
        if cap is None:
            return []
        model = verdict.model or ""
        queued = sum(
            other.enqueued_tokens for other in self._store.unfinished() if other.model == model
        )
        if queued + verdict.tokens <= int(cap):
            return []
        return [queue_full(model, ORGANIZATION, int(cap))]

    async def _answer(self, batch: BatchRecord) -> None:
        run = await self._in_worker(Run, self._store, self._service.desk, self._row_workers, batch)
        try:
            await self._answer_rows(batch, run)
        finally:
            await self._in_worker(run.finish_rows_in_flight)
            self._report(batch, run.tally)
        if self._batch(batch.id).status != Status.IN_PROGRESS:
            return
        await self._end_answering(batch, run)

    async def _answer_rows(self, batch: BatchRecord, run: Run) -> None:
        while not run.is_done and self._may_go_on(batch):
            allowed = self._allowed(batch)
            before = run.tally.answered
            await self._in_worker(run.answer_some, allowed, self._clock.now())
            if run.tally.answered != before:
                self._report(batch, run.tally)
            if not run.is_done and run.tally.answered >= allowed:
                await self._nap(self._nudges[batch.id], self._row_pause(batch))
                self._nudges[batch.id].clear()

    def _row_pause(self, batch: BatchRecord) -> float:
        """Return how long to wait for the next row to be allowed."""
        least = self._deadline(batch, "in_progress_s") - batch.phase_started
        return min(1.0, max(0.02, least / batch.counts.total))

    def _may_go_on(self, batch: BatchRecord) -> bool:
        is_running = self._batch(batch.id).status == Status.IN_PROGRESS
        return is_running and self._clock.now() < batch.expires_at

    def _allowed(self, batch: BatchRecord) -> int:
        """Return how many rows may be answered by now, so that progress is even."""
        least = self._deadline(batch, "in_progress_s") - batch.phase_started
        gone = self._clock.now() - batch.phase_started
        share = 1.0 if least <= 0 else min(1.0, gone / least)
        return math.ceil(batch.counts.total * share) if share < 1.0 else batch.counts.total

    def _report(self, batch: BatchRecord, tally: Tally) -> None:
        counts = Counts(batch.counts.total, tally.completed, tally.failed)
        if batch.faults.get("counts_all_completed"):
            counts = Counts(counts.total, counts.completed + counts.failed, 0)
        self._store.amend(
            batch.id,
            bills=tally.bills(batch),
            counts=counts,
            usage=tally.usage,
            rows_answered=tally.answered,
            rows_paid=tally.paid,
        )
        tally.unbilled.clear()

    async def _end_answering(self, batch: BatchRecord, run: Run) -> None:
        is_partial = wanted_rows(batch) is not None and run.tally.answered < batch.counts.total
        if is_partial and "stall_after_share" in batch.faults:
            await self._wait(batch, batch.expires_at)
        elif run.is_done:
            await self._wait(batch, self._deadline(batch, "in_progress_s"))
        batch = self._batch(batch.id)
        now = self._clock.now()
        if batch.status != Status.IN_PROGRESS:
            return
        if is_partial and "cancel_after_share" in batch.faults:
            self._store.move(batch.id, Status.CANCELLING, now)
        elif is_partial or not run.is_done:
            await self._end(batch, Status.EXPIRED, "batch_expired")
        else:
            self._store.move(batch.id, Status.FINALIZING, now)

    async def _finalize(self, batch: BatchRecord) -> None:
        await self._wait(batch, self._deadline(batch, "finalizing_s"))
        await self._end(batch, Status.COMPLETED, None)

    async def _wind_up(self, batch: BatchRecord) -> None:
        # A server killed between the cancel and the last report left rows that nobody counted.
        _, tally = await self._in_worker(read_record, self._store, batch)
        if tally.answered > batch.rows_answered:
            self._report(batch, tally)
        await self._wait(batch, self._deadline(batch, "cancelling_s"))
        await self._end(batch, Status.CANCELLED, "batch_cancelled")

    async def _end(self, batch: BatchRecord, to: Status, unexecuted: str | None) -> None:
        results = Results(None, None)
        if not batch.faults.get("no_files"):
            results = await self._in_worker(write_results, self._store, batch, unexecuted)
        now = self._clock.now()
        files = _ResultRecords(self._store.new_file_id, batch, results, now)
        for file, path in files.placed():
            os.chmod(path, 0o600)
            os.replace(path, self._store.file_path(file.id))
        moved = self._store.move(
            batch.id,
            to,
            now,
            files=[file for file, _ in files.placed()],
            output_file_id=files.output.id if files.output else None,
            error_file_id=files.errors.id if files.errors else None,
            enqueued_tokens=0,
        )
        if moved is None:  # a cancel came first, and will write the files anew
            for file, _ in files.placed():
                self._store.file_path(file.id).unlink()


class _ResultRecords:
    """The file records of a batch's results, with where their bytes lie now."""

    def __init__(
        self, new_id: Callable[[], str], batch: BatchRecord, results: Results, now: float
    ) -> None:
        self._results = results
        self.output = self._record(new_id, batch, results.output, "output", now)
        self.errors = self._record(new_id, batch, results.errors, "error", now)

    def placed(self) -> list[tuple[FileRecord, Any]]:
        """Return each record with the path of its bytes."""
        pairs = ((self.output, self._results.output), (self.errors, self._results.errors))
        return [(record, file.path) for record, file in pairs if record and file]

    @staticmethod
    def _record(
        new_id: Callable[[], str],
        batch: BatchRecord,
        file: ResultFile | None,
        kind: str,
        now: float,
    ) -> FileRecord | None:
        if file is None:
            return None
        kept_s = batch.output_expires_after_s or OUTPUT_RETENTION_S
        return FileRecord(
            id=new_id(),
            filename=f"{batch.id}_{kind}.jsonl",
            purpose="batch_output",
            size_bytes=file.size_bytes,
            created_at=now,
            expires_at=int(now) + kept_s,
        )


def _forced_error(value: Any) -> RowError:
    if isinstance(value, dict):
        return msgspec.convert({"message": "A fault was asked for."} | value, RowError)
    return RowError(str(value), "A fault was asked for.")
