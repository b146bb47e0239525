"""Memory of one piece of work, in a process of its own.

`python -m benchmarks.memory out|in FRAME DIR` does one way and prints bytes: the highest anonymous
resident memory while the work is done (looked at every two milliseconds), less what there was
just before it, with all modules imported and the input frame in memory. For `in` it prints the
size of the added columns as well, which are the result and no overhead.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa

from benchmarks import inward, outward


def anonymous_bytes() -> int:
    """Resident memory of this process that no file stands behind."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise LookupError("RssAnon")


def growth(work: Callable[[], object]) -> int:
    """How far anonymous memory rises above what it was while `work` runs."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)  # else the work would be done in what was left over
    before = anonymous_bytes()
    done, seen = threading.Event(), [before]

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(max(seen.pop(), anonymous_bytes()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(seen[0], anonymous_bytes()) - before


def main(direction: str, frame_path: Path, folder: Path) -> None:
    """Do the work once and print peak growth and result size."""
    frame = pd.read_parquet(frame_path)
    warm = inward.answered(frame.head(64), folder / "warm")
    inward.ours(frame.head(64), warm)  # what is loaded once is no cost of a row
    if direction == "out":
        print(growth(lambda: outward.ours(frame, folder / "out")), 0)
        return
    given, merged = inward.answered(frame, folder / "in"), list[pd.DataFrame]()
    grown = growth(lambda: merged.append(inward.ours(frame, given)))
    added = [merged[0][name].array for name in ("answer", "gpt_error")]
    print(grown, sum(int(column.nbytes) for column in added))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
