"""Peak memory of one way, in a process of its own: `python -m benchmarks.memory out 100000 DIR`.

Prints bytes: the high-water mark of resident memory while the work is done, less what was
resident just before it, with all modules imported and the input frame in memory. `in` prints
what was resident in the answers' own column as well, which is the result and not overhead.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pandas as pd

from benchmarks import inward, outward


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def main(direction: str, frame_path: Path, folder: Path) -> None:
    """Do the work once and print `peak growth`, `result bytes`."""
    frame = pd.read_parquet(frame_path)
    few = frame.head(64)
    outward.ours(few, folder / "warm")  # what is loaded once is no cost of a row
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again here
    before = _status("VmRSS")
    result = 0
    if direction == "out":
        outward.ours(frame, folder / "out")
    else:
        merged = inward.ours(frame, folder)
        result = int(merged["answer"].array.nbytes + merged["gpt_error"].array.nbytes)
    print(_status("VmHWM") - before, result)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
