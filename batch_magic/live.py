"""The live lane: lines of a job through the realtime API, many at once, answers kept as they come.

It knows how a line becomes a result line and how fast a service may be asked, and refuses to know
what a job is for: it is told which lines, and says how far it is. An answer is on the disk before
its place in the lane is free again, so that a kill can have no more rows asked twice than were in
flight. The traps: who has lost the lease must not send, however long the process slept; and an
answer on its way is paid for, so a lane that is stopped waits for those it has asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from batch_magic import lifecycle, result_lines, wire
from batch_magic.api import Api, Reply
from batch_magic.durable_files import append, disk_errors
from batch_magic.errors import ServiceError
from batch_magic.folder import RunFolder
from batch_magic.lifecycle import Verdict
from batch_magic.pacing import Pacer
from batch_magic.queueing import tokens_in
from batch_magic.records import Job, RunRecord, Shard

_TIMEOUT_S = 600.0
_FLEX_TIMEOUT_S = 900.0  # https://platform.openai.com/docs/guides/flex-processing
_LOOKS_AGAIN_S = 1.0  # at the lease, and at limits that others use up as well
_NO_OBJECT = "the answer is no JSON object"


@dataclass(frozen=True, slots=True)
class Work:
    """What a lane is to do: the lines of one job, and for whom."""

    run: RunRecord
    job: Job
    shard: Shard
    folder: RunFolder
    writer: str  # of the notes


class Lanes:
    """All live lanes of one engine. Belongs to one event loop."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._pacers: dict[tuple[str, str], Pacer] = defaultdict(Pacer)

    def find(self, run_id: str, job: int) -> Lane | None:
        """Return the lane of a job, if it is under way."""
        return self._lanes.get((run_id, job))

    async def begin(self, work: Work, api: Api, may_send: Callable[[], bool]) -> Lane:
        """Check a job's lines and begin to send those that have no answer yet."""
        run, job = work.run, work.job
        await asyncio.to_thread(work.folder.check_shard, work.shard)
        known = await asyncio.to_thread(work.folder.live_positions, job.number, run.run_id)
        slots = self._slots.setdefault(
            run.run_id, asyncio.Semaphore(max(1, run.limits.live_concurrency))
        )
        pacer = self._pacers[run.backend.identity, work.shard.model or run.request.model]
        lane = Lane(work, api, known, pacer, slots, may_send)
        self._lanes[run.run_id, job.number] = lane
        return lane

    def fault(self, run_id: str) -> ServiceError | None:
        """Return why a lane of a run has stopped, None if none has; then all of them stop."""
        mine = [lane for key, lane in self._lanes.items() if key[0] == run_id]
        fault = next((lane.fault for lane in mine if lane.fault is not None), None)
        for lane in mine if fault is not None else ():
            lane.stop()
        return fault

    def are_over(self, run_id: str) -> bool:
        """Tell whether nothing of a run is on its way any more."""
        return all(lane.is_over for key, lane in self._lanes.items() if key[0] == run_id)

    async def end(self, run_id: str, job: int | None = None) -> None:
        """Forget the lanes of a run, or of one of its jobs; what is under way is cut off."""
        gone = [key for key in self._lanes if key[0] == run_id and job in (None, key[1])]
        for key in gone:
            await self._lanes.pop(key).cut()
        if not any(key[0] == run_id for key in self._lanes):
            self._slots.pop(run_id, None)

    async def close(self, parting_s: float) -> None:
        """Stop all lanes: answers on their way have so long to come."""
        lanes = list(self._lanes.values())
        for lane in lanes:
            lane.stop()
        await asyncio.gather(*(lane.work(parting_s) for lane in lanes), return_exceptions=True)
        for run_id in {key[0] for key in self._lanes}:
            await self.end(run_id)


class Lane:
    """The lines of one job on their way. `answered` and `failed` count what is on the disk."""

    def __init__(
        self,
        work: Work,
        api: Api,
        known: dict[int, bool],
        pacer: Pacer,
        slots: asyncio.Semaphore,
        may_send: Callable[[], bool],
    ) -> None:
        self._work, self._api, self._pacer, self._slots = work, api, pacer, slots
        self._may_send = may_send
        self.answered, self.failed = sum(known.values()), len(known) - sum(known.values())
        self.fault: ServiceError | None = None  # why it has stopped by itself
        self.problem: str | None = None  # what is being waited out
        self._broken: Exception | None = None  # the disk, or a bug
        self._good_at, self._was_heard = _now_s(), False
        self._trouble_at: float | None = None  # since when nothing but trouble comes
        self._stopped = asyncio.Event()
        self._stopped_at = 0.0
        self._notes = _Notes(work.folder.live_path(work.job.number, work.writer))
        self._lines = self._unanswered(known)
        left = work.shard.rows - len(known)
        self._task = asyncio.create_task(self._send_all(left))

    def _unanswered(self, known: dict[int, bool]) -> Iterator[bytes]:
        work = self._work
        positions = work.folder.manifest(work.shard)["position"]
        wanted = ~np.isin(positions, np.fromiter(known, dtype=np.int64, count=len(known)))
        return work.folder.request_lines(work.shard, wanted)

    @property
    def is_over(self) -> bool:
        """Tell whether nothing of it is under way any more."""
        return self._task.done()

    @property
    def is_complete(self) -> bool:
        """Tell whether every line has its answer on the disk."""
        return self.is_over and self.answered + self.failed >= self._work.shard.rows

    def stop(self) -> None:
        """Send nothing more."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._stopped_at = _now_s()

    async def work(self, seconds: float) -> None:
        """Let it go on for so long at most. Raises what it failed of: the disk, a bug."""
        await asyncio.wait({self._task}, timeout=seconds)
        is_late = self._stopped.is_set() and _now_s() - self._stopped_at >= self._timeout_s
        if is_late and not self._task.done():
            await self.cut()
        if self._task.done() and not self._task.cancelled():
            self._task.result()

    async def cut(self) -> None:
        """Cut off what is under way."""
        self.stop()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task

    async def _send_all(self, left: int) -> None:
        workers = min(left, self._work.run.limits.live_concurrency)
        tasks = [asyncio.create_task(self._send_some()) for _ in range(max(1, workers))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._notes.close()
        if self._broken is not None:
            raise self._broken

    async def _send_some(self) -> None:
        try:
            for line in self._lines:
                if not await self._has_answer(line):
                    return
        except Exception as error:  # others may have answers on their way that can be noted yet
            self._broken = self._broken or error
            self.stop()

    async def _has_answer(self, line: bytes) -> bool:
        """Ask until there is an outcome, and note it; False when the lane has stopped before."""
        body = wire.body_of(line)
        if tier := self._work.run.request.tier:
            # Not in the line: the same request has the same answer, whatever it was paid for it.
            body["service_tier"] = tier
        name, tokens = wire.custom_id_of(line), tokens_in(len(line))
        tries, since = 0, _now_s()
        while await self._has_turn(tokens):
            # A place is held by what is on its way alone: who waits for room holds up nobody.
            async with self._slots:
                if not self._may_go(tokens):
                    continue
                reply, error = await self._ask(body, tokens)
                tries += 1
                outcome = self._outcome(name, reply, error, tries, since)
                if outcome is not None:
                    await self._notes.add(outcome)
                    found = result_lines.custom_id_of(outcome)
                    is_good = found is not None and found[1]
                    self.answered, self.failed = self.answered + is_good, self.failed + 1 - is_good
                    return True
            if error is None or not lifecycle.is_too_many(error):
                await self._pause(lifecycle.live_backoff_s(tries, self._work.run.limits))
        return False

    def _outcome(
        self,
        name: str,
        reply: Reply | None,
        error: ServiceError | None,
        tries: int,
        since: float,
    ) -> bytes | None:
        """Return a row's result line; None where it is to be asked again, or the lane has stopped.

        `since` is when the row was asked first, `tries` how often by now.
        """
        status, body = (None, b"") if reply is None else (reply.status, reply.body)
        found = None
        if reply is not None:
            found = result_lines.written(name, reply.status, body, request_id=reply.request_id)
        if reply is not None and error is None and found is None and not _is_page(reply):
            # Whatever it is, it was made and is paid for: asked again it would be so twice.
            found = result_lines.unreadable(name, status, body, _NO_OBJECT)
        if found is not None and error is None:
            self._good_at, self._was_heard = _now_s(), True
            self._trouble_at = self.problem = None
            self._pacer.answered()
            return found
        error = error or ServiceError(_NO_OBJECT, status=502)
        match self._verdict(error, tries, since):
            case Verdict.KEEP:
                return found or result_lines.unreadable(name, status, body, str(error))
            case Verdict.STOP:
                self.fault = self.fault or error
                self.stop()
        self.problem = str(error)
        return None

    def _verdict(self, error: ServiceError, tries: int, since: float) -> Verdict:
        self._was_heard = self._was_heard or error.status is not None
        self._trouble_at = _now_s() if self._trouble_at is None else self._trouble_at
        said = lifecycle.verdict(error, tries, others_do_well=self._good_at > since)
        troubled_s = _now_s() - self._trouble_at
        if said is Verdict.AGAIN and lifecycle.is_stalled(troubled_s, was_heard=self._was_heard):
            return Verdict.STOP
        return said

    async def _ask(
        self, body: dict[str, object], tokens: int
    ) -> tuple[Reply | None, ServiceError | None]:
        ticket = self._pacer.sent(tokens)
        try:
            reply = await self._api.answer(self._work.run.request.endpoint, body, self._timeout_s)
        except ServiceError as error:
            self._pacer.lost(ticket)
            return None, error
        except asyncio.CancelledError:
            self._pacer.lost(ticket)
            raise
        if reply.error is not None and lifecycle.is_too_many(reply.error):
            self._pacer.refused(ticket, reply.error.retry_after_s, _now_s())
        self._pacer.heard(ticket, reply.headers, _now_s())
        return reply, reply.error

    @property
    def _timeout_s(self) -> float:
        return _FLEX_TIMEOUT_S if self._work.run.request.tier == "flex" else _TIMEOUT_S

    def _may_go(self, tokens: int) -> bool:
        has_room = self._pacer.wait_s(tokens, _now_s()) <= 0
        return has_room and self._may_send() and not self._stopped.is_set()

    async def _has_turn(self, tokens: int) -> bool:
        """Wait until a request of so many tokens may go; False when the lane has stopped before."""
        while not self._stopped.is_set():
            if self._may_go(tokens):
                return True
            wait_s = self._pacer.wait_s(tokens, _now_s())
            if wait_s > _LOOKS_AGAIN_S and self.problem is None:
                self.problem = "the service's limits are used up: rows wait for room"
            await self._pause(min(wait_s, _LOOKS_AGAIN_S) if wait_s > 0 else _LOOKS_AGAIN_S)
        return False

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)


def _is_page(reply: Reply) -> bool:
    """Tell whether something that stands before the service answered: a portal, a proxy."""
    return reply.headers.get("content-type", "").lower().startswith("text/html")


def _now_s() -> float:
    """The loop's own clock, which nobody sets back: for how long is what counts here."""
    return asyncio.get_running_loop().time()


class _Notes:
    """A file of answers: each is on the disk, for good, when `add` returns.

    Those that come while the disk is busy share the next sync.
    """

    def __init__(self, path: Path) -> None:
        self._first = self._path = path
        self._file: IO[bytes] | None = None
        self._files = 1
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def add(self, line: bytes) -> None:
        """Write a line. Raises JournalError when the disk refuses."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((line, written))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting())
        await written

    async def close(self) -> None:
        """Write what is still waiting and close the file."""
        if self._writer is not None:
            await self._writer
        if self._file is not None:
            self._file.close()

    async def _write_waiting(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting, []
            try:
                await _in_thread(self._put, b"".join(line for line, _ in taken))
            except Exception as error:
                for _, written in taken:
                    if not written.done():
                        written.set_exception(error)
                continue
            for _, written in taken:
                if not written.done():
                    written.set_result(None)

    def _put(self, data: bytes) -> None:
        with disk_errors(self._path):
            if self._file is None:
                self._file = append(self._path)
            try:
                self._file.write(data)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError:
                self._begin_anew()
                raise

    def _begin_anew(self) -> None:
        """Leave a file whose last line may be cut: what comes next must not be glued to it."""
        with contextlib.suppress(OSError):  # what could not be written cannot be flushed either
            if self._file is not None:
                self._file.close()
        self._file, self._files = None, self._files + 1
        self._path = self._first.with_name(f"{self._first.stem}-{self._files}.jsonl")


async def _in_thread(work: Callable[[bytes], None], data: bytes) -> None:
    try:
        writing = asyncio.to_thread(work, data)
        await writing
    except RuntimeError:
        if threading.main_thread().is_alive():
            raise
        work(data)  # the process is ending: executors are shut down, what was paid for is kept
