"""The answering of one batch's rows, and the record of each row as soon as it is answered.

Knows the input file, the answerer and the append-only record from which results are made.
Refuses to know statuses or clocks: it is told how many rows may be done by now. The traps: a
row's record is on disk before the row counts, so a killed server never answers it again; the
last line of a killed server's record may be torn, and is cut off before going on; and rows are
billed in the order of the record, so the batch's own count of paid rows says which still are not.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from .answerers import Answer, Desk
from .answerers.desk import server_error_answer
from .faults import Row
from .lines import read_line
from .records import BatchRecord, Bill, Lane, Usage
from .rows import FOREIGN, Outcome, RowPlan, usage_of
from .store import Store

_NO_USAGE = (0, 0, 0, 0)
_SLICE_S = 0.2  # the longest a worker answers before it reports


class Tally(msgspec.Struct):
    """What has been counted over a batch's answered rows."""

    billed: int  # rows that were paid and billed before this count began
    answered: int = 0
    paid: int = 0
    completed: int = 0
    failed: int = 0
    usage: Usage = Usage()
    unbilled: Counter[tuple[int, int, int]] = msgspec.field(default_factory=Counter)

    def bills(self, batch: BatchRecord) -> dict[Bill, int]:
        """Return the bills that are due."""
        model = batch.model or ""
        return {
            Bill(Lane.BATCH, model, batch.endpoint, *tokens): rows
            for tokens, rows in self.unbilled.items()
        }


class Run:
    """The rows of one batch, answered once each."""

    def __init__(self, store: Store, desk: Desk, pool: ThreadPoolExecutor, batch: BatchRecord):
        self._desk = desk
        self._pool = pool
        self._endpoint = batch.endpoint
        self._record_path = store.run_path(batch.id)
        self._input_path = store.run_input_path(batch.id)
        self._is_caching = bool(batch.faults.get("prompt_cache"))
        self._plan = RowPlan.of(batch, store)
        self._done, self.tally = read_record(store, batch)
        self._record = _append_to(self._record_path)
        self._lines = self._open_rows()
        self._waiting: deque[tuple[Row, Future[Answer]]] = deque()
        self.is_exhausted = False

    def _open_rows(self) -> Iterator[tuple[int, bytes]]:
        with self._input_path.open("rb", buffering=1 << 18) as lines:
            for number, line in enumerate(lines, 1):
                if not self._done[number - 1] and self._plan.is_wanted(number):
                    yield number, line

    def answer_some(self, allowed: int, now: float) -> None:
        """Answer rows until `allowed` are answered in all, none is left, or time is up."""
        ends = time.monotonic() + _SLICE_S
        while time.monotonic() < ends:
            started = self._start_rows(allowed, now)
            if self._waiting:
                self._settle_one()
            elif not started:
                break
        self._record.flush()
        if self.is_done:
            os.fsync(self._record.fileno())

    def finish_rows_in_flight(self) -> None:
        """Wait for the rows that have been given to the answerer, and close the record."""
        while self._waiting:
            self._settle_one()
        self._record.close()

    @property
    def is_done(self) -> bool:
        """Whether every wanted row is answered."""
        is_full = self.tally.answered >= len(self._done)
        return not self._waiting and (self.is_exhausted or is_full)

    def _start_rows(self, allowed: int, now: float) -> bool:
        started = False
        window = self._desk.parallel
        while len(self._waiting) < window and self.tally.answered + len(self._waiting) < allowed:
            row = next(self._lines, None)
            if row is None:
                self.is_exhausted = True
                break
            started = True
            self._start_row(*row, now, is_alone=window == 1)
            if window == 1:
                break
        return started

    def _start_row(self, number: int, line: bytes, now: float, *, is_alone: bool) -> None:
        parsed = read_line(line)
        row, body = Row(number, parsed["custom_id"], line), parsed["body"]
        forced = self._plan.forced_outcome(row)
        if forced is not None:
            self._settle(row, forced, _NO_USAGE)
        elif is_alone:
            self._settle_answer(row, self._answer(body, now))
        else:
            self._waiting.append((row, self._pool.submit(self._answer, body, now)))

    def _answer(self, body: dict[str, Any], now: float) -> Answer:
        try:
            return self._desk.answer(self._endpoint, body, now, is_caching=self._is_caching)
        except Exception:  # one row that breaks the answerer must not end the batch
            return server_error_answer()

    def _settle_one(self) -> None:
        row, future = self._waiting.popleft()
        self._settle_answer(row, future.result())
        self._record.flush()

    def _settle_answer(self, row: Row, answer: Answer) -> None:
        self._settle(row, self._plan.outcome(row, answer), usage_of(answer))

    def _settle(self, row: Row, outcome: Outcome, usage: tuple[int, int, int, int]) -> None:
        if outcome.foreign is not None:
            foreign = Outcome(FOREIGN, outcome.status, outcome.foreign)
            self._record.write(record_line(row.number, foreign, _NO_USAGE))
        self._record.write(record_line(row.number, outcome, usage))
        _count(self.tally, outcome, usage)
        self._done[row.number - 1] = 1


def record_line(number: int, outcome: Outcome, usage: tuple[int, int, int, int]) -> bytes:
    """Return one line of the record: kind, status, row number, usage, then the result line."""
    head = f"{outcome.kind} {outcome.status} {number} {usage[0]} {usage[1]} {usage[2]} {usage[3]} "
    return head.encode() + outcome.line + b"\n"


def read_record(store: Store, batch: BatchRecord) -> tuple[bytearray, Tally]:
    """Return which rows are in a batch's record, and their tally; a torn tail is ignored."""
    path = store.run_path(batch.id)
    done, tally = bytearray(batch.counts.total), Tally(billed=batch.rows_paid)
    if not path.exists():
        return done, tally
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            kind, status, number, *usage, rest = line.split(b" ", 7)
            if kind.decode() == FOREIGN:
                continue
            done[int(number) - 1] = 1
            tokens = tuple(int(token) for token in usage)
            outcome = Outcome(kind.decode(), int(status), rest)
            _count(tally, outcome, (tokens[0], tokens[1], tokens[2], tokens[3]))
    return done, tally


def _count(tally: Tally, outcome: Outcome, usage: tuple[int, int, int, int]) -> None:
    tally.answered += 1
    is_paid = 200 <= outcome.status < 300
    # A transport loss is counted as completed by the real service.
    if is_paid or outcome.status == 0:
        tally.completed += 1
    else:
        tally.failed += 1
    if is_paid:
        tally.paid += 1
        if tally.paid > tally.billed:
            tally.unbilled[usage[:3]] += 1
        before = tally.usage
        tally.usage = Usage(
            before.input_tokens + usage[0],
            before.cached_tokens + usage[1],
            before.output_tokens + usage[2],
            before.reasoning_tokens + usage[3],
        )


def _append_to(path: Path) -> Any:
    """Open a record for appending, its torn last line cut off."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    record = os.fdopen(descriptor, "r+b", buffering=1 << 18)
    size = record.seek(0, os.SEEK_END)
    end = size
    while end > 0:
        start = max(0, end - 65536)
        record.seek(start)
        at = record.read(end - start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    record.truncate(end)
    record.seek(end)
    return record
