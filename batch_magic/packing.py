"""Where a shard is cut: request lines sorted into input files within a job's limits.

It counts rows and bytes and knows neither files nor what is in a line. The trap is a line that
no job can hold: it is told apart, and neither sent nor allowed to stop its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from batch_magic.errors import CellError
from batch_magic.records import Lines


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring lines of one shard. `opens` says that they are the first of a new one."""

    lines: Lines
    opens: bool


@dataclass(frozen=True, slots=True)
class Packed:
    """Lines sorted into shards, and `(position, size_bytes)` of those that no job can hold."""

    parts: tuple[Part, ...]
    oversize: tuple[tuple[int, int], ...] = ()


class Packer:
    """Decides where a shard is cut. Lines keep their order; a shard is filled before the next."""

    def __init__(
        self,
        *,
        max_rows: int,
        max_bytes: int,
        count: Callable[[Lines], Sequence[int]] | None = None,
    ) -> None:
        if max_rows < 1 or max_bytes < 1:
            raise CellError(
                "a job must be allowed at least one row and one byte; set"
                " GPTBatch.max_rows_per_job and max_bytes_per_job higher"
            )
        self._max_rows, self._max_bytes = max_rows, max_bytes
        self._count = count  # for how many rows each line counts, if not for one
        self._rows = self._bytes = 0  # of the open shard
        self._opens = True  # the stretch at hand begins a shard

    def pack(self, lines: Lines) -> Packed:
        """The next lines of a run, sorted into the open shard and new ones."""
        oversize: tuple[tuple[int, int], ...] = ()
        if max(lines.sizes, default=0) > self._max_bytes:
            sized = zip(lines.positions, lines.sizes, strict=True)
            oversize = tuple(each for each in sized if each[1] > self._max_bytes)
            fitting = [n for n, size in enumerate(lines.sizes) if size <= self._max_bytes]
            lines = pick(lines, fitting)
        if self._count is None:
            return Packed(tuple(self._parts(lines)), oversize)
        return Packed(tuple(self._counted_parts(lines, self._count(lines))), oversize)

    def _counted_parts(self, lines: Lines, counts: Sequence[int]) -> Iterator[Part]:
        """Cut where a job would hold too much, line by line; a line alone always goes."""
        start = 0
        for n, (size, count) in enumerate(zip(lines.sizes, counts, strict=True)):
            is_full = self._rows + count > self._max_rows or self._bytes + size > self._max_bytes
            if is_full and self._rows:
                if n > start:
                    yield Part(_stretch(lines, start, n), opens=self._opens)
                start, self._rows, self._bytes = n, 0, 0
            if n == start:
                self._opens = self._rows == 0
            self._rows += count
            self._bytes += size
        if start < len(lines.sizes):
            yield Part(_stretch(lines, start, len(lines.sizes)), opens=self._opens)

    def _parts(self, lines: Lines) -> Iterator[Part]:
        start = 0
        while start < len(lines.sizes):
            count = self._room(lines.sizes, start)
            if count == 0:
                self._rows = self._bytes = 0
                continue
            part = _stretch(lines, start, start + count)
            yield Part(part, opens=self._rows == 0)
            self._rows += count
            self._bytes += len(part.data)
            start += count

    def _room(self, sizes: Sequence[int], start: int) -> int:
        """How many of the lines from `start` on the open shard still takes."""
        room = self._max_bytes - self._bytes
        stop = min(len(sizes), start + self._max_rows - self._rows)
        if sum(sizes[start:stop]) <= room:
            return stop - start
        return sum(1 for total in accumulate(sizes[start:stop]) if total <= room)


def pick(lines: Lines, places: Sequence[int]) -> Lines:
    """Only the lines at these places, in this order."""
    data, ends = memoryview(lines.data), list(accumulate(lines.sizes, initial=0))
    width = len(lines.digests) // max(len(lines.sizes), 1)
    return Lines(
        [lines.positions[n] for n in places],
        b"".join([data[ends[n] : ends[n + 1]] for n in places]),
        [lines.sizes[n] for n in places],
        b"".join([lines.digests[n * width : (n + 1) * width] for n in places]),
    )


def _stretch(lines: Lines, start: int, stop: int) -> Lines:
    if start == 0 and stop == len(lines.sizes):
        return lines
    return pick(lines, range(start, stop))
