"""The two result files of a batch, made from its record.

Knows the record, the input (for rows that have none) and the order results come in. Refuses to
know why a batch ended. The traps: output order is not input order; lines may be megabytes long,
so only their places are held in memory, never the lines.
"""

import mmap
import random
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from .records import BatchRecord
from .rows import ERROR, FOREIGN, LOST, OUTPUT, TWICE, unexecuted_line
from .store import Store


@dataclass(frozen=True)
class ResultFile:
    """One written result file, not recorded yet."""

    path: Path
    size_bytes: int


@dataclass(frozen=True)
class Results:
    """The result files of a batch; None for one without rows."""

    output: ResultFile | None
    errors: ResultFile | None


def write_results(store: Store, batch: BatchRecord, unexecuted: str | None) -> Results:
    """Write both files; rows without a record become `unexecuted` errors, if a code is given."""
    record = store.run_path(batch.id)
    done = bytearray(batch.counts.total)
    output_at: array[int] = array("Q")
    errors_at: array[int] = array("Q")
    _find_lines(record, done, output_at, errors_at)
    order = batch.faults.get("output_order", "shuffled")
    output = _write(store, record, _ordered(output_at, order, batch.id), b"")
    left = b"" if unexecuted is None else _unexecuted(store, batch, done, unexecuted)
    errors = _write(store, record, _ordered(errors_at, order, batch.id), left)
    return Results(output, errors)


def _find_lines(
    record: Path, done: bytearray, output_at: "array[int]", errors_at: "array[int]"
) -> None:
    if not record.exists():
        return
    at = 0
    with record.open("rb", buffering=1 << 18) as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            kind, status, number, _ = line.split(b" ", 3)
            if kind.decode() == FOREIGN:
                kind = OUTPUT.encode() if 200 <= int(status) < 300 else ERROR.encode()
            else:
                done[int(number) - 1] = 1
            _place(kind.decode(), at, output_at, errors_at)
            at += len(line)


def _place(kind: str, at: int, output_at: "array[int]", errors_at: "array[int]") -> None:
    if kind in (OUTPUT, TWICE):
        output_at.append(at)
    if kind == TWICE:
        output_at.append(at)
    if kind == ERROR:
        errors_at.append(at)
    assert kind in (OUTPUT, TWICE, ERROR, LOST)


def _ordered(places: "array[int]", order: str, seed: str) -> "array[int]":
    if order == "reversed":
        places.reverse()
    elif order != "input":
        random.Random(len(places)).shuffle(places)
    return places


def _write(store: Store, record: Path, places: "array[int]", tail: bytes) -> ResultFile | None:
    if not places and not tail:
        return None
    path = store.incoming_path()
    with path.open("wb", buffering=1 << 20) as target:
        if places:
            _copy_lines(record, places, target)
        target.write(tail)
        size = target.tell()
    return ResultFile(path, size)


def _copy_lines(record: Path, places: "array[int]", target: BinaryIO) -> None:
    with (
        record.open("rb") as source,
        mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as memory,
    ):
        for at in places:
            end = memory.find(b"\n", at)
            target.write(memory[at : end + 1].split(b" ", 7)[7])


def _unexecuted(store: Store, batch: BatchRecord, done: bytearray, code: str) -> bytes:
    lines: list[bytes] = []
    if not done:  # cancelled before its input was even looked at
        return b""
    with store.run_input_path(batch.id).open("rb", buffering=1 << 18) as rows:
        for number, row in enumerate(rows, 1):
            if number <= len(done) and not done[number - 1]:
                custom_id = orjson.loads(row)["custom_id"]
                lines.append(unexecuted_line(batch.id, number, custom_id, code) + b"\n")
    return b"".join(lines)
