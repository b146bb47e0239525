"""Measure and print a Markdown table: `python -m benchmarks [rows] [rounds]`.

The sides of each comparison are run in turn, `rounds` times, and the fastest of each counts:
what disturbs a run only ever makes it slower. Time is CPU time, which other work on the machine
disturbs least. Files are on a RAM disk where there is one: the disk takes the same time for every
side. Memory is measured in fresh processes: the growth of anonymous memory,
as files that are read or mapped are the kernel's to drop.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from benchmarks import inward, outward
from benchmarks.texts import result_lines, reviews

TUTORIAL_ROWS = 10_000


def fastest(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU seconds of the fastest run of each side, the sides run in turn."""
    seconds = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.process_time()
            side()
            seconds[name] = min(seconds[name], time.process_time() - start)
    return seconds


def measure_out(frame: pd.DataFrame, folder: Path, rounds: int) -> dict[str, float]:
    """Seconds of each way out at `len(frame)` rows."""
    write_ready = outward.limit(frame)
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: outward.ours(frame, _fresh(folder / "out")),
        "limit": lambda: write_ready(folder / "limit.jsonl"),
        "script": lambda: outward.itertuples(frame, folder / "script.jsonl"),
    }
    gc.collect()
    gc.freeze()  # the dicts that stand ready are no other side's garbage to look through
    return fastest(sides, rounds)


def measure_in(frame: pd.DataFrame, folder: Path, rounds: int) -> dict[str, float]:
    """Seconds of each way in."""
    path = _results(len(frame), folder)
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: inward.ours(frame, path),
        "collected": lambda: inward.collected(frame, folder),
        "limit": lambda: inward.limit(path),
        "script": lambda: inward.json_dict(frame, path),
    }
    return fastest(sides, rounds)


def measure_tutorials(folder: Path, rounds: int) -> tuple[float, float]:
    """How many times longer the tutorial way takes, out and in, at 10,000 rows."""
    frame = reviews(TUTORIAL_ROWS)
    path = _results(len(frame), folder)
    out = fastest({"ours": lambda: outward.ours(frame, _fresh(folder / "out"))}, rounds)
    back = fastest({"ours": lambda: inward.ours(frame, path)}, rounds)
    slow = fastest(
        {
            "out": lambda: outward.tutorial(frame, folder / "tutorial.jsonl"),
            "in": lambda: inward.tutorial(frame, path),
        },
        1,
    )
    return slow["out"] / out["ours"], slow["in"] / back["ours"]


def peak(direction: str, rows: int, folder: Path) -> tuple[int, int]:
    """Bytes of peak growth and of the result, in a fresh process."""
    frame_path = folder / f"frame-{rows}.parquet"
    reviews(rows).to_parquet(frame_path)
    _results(rows, folder)
    command = [sys.executable, "-m", "benchmarks.memory", direction, str(frame_path), str(folder)]
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}  # gives back what it can
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    said = done.stdout.split()
    return int(said[0]), int(said[1])


def _results(rows: int, folder: Path) -> Path:
    path = folder / "job-00000.output.jsonl"
    with path.open("wb") as file:
        file.writelines(result_lines(rows))
    return path


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _row(what: str, measured: str, target: str) -> None:
    print(f"| {what} | {measured} | {target} |", flush=True)


def main(rows: int, rounds: int) -> None:
    """Measure all and print as it goes."""
    print(f"| {rows:,} rows, lines of about 2 kB | measured | target |\n|---|---|---|")
    ram = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=ram) as name:
        folder = Path(name)
        frame = reviews(rows)
        out = measure_out(frame, folder, rounds)
        _row("out: ours / ready dicts serialised", f"{out['ours'] / out['limit']:.2f}×", "≤ 3.0×")
        _row("out: itertuples script / ours", f"{out['script'] / out['ours']:.2f}×", "≥ 2.5×")
        _row("out: microseconds a row", f"{out['ours'] / rows * 1e6:.1f}", "")
        back = measure_in(frame, folder, rounds)
        _row("in: ours / typed decode", f"{back['ours'] / back['limit']:.2f}×", "≤ 2.5×")
        file = f"{back['collected'] / back['limit']:.2f}×"
        _row("in: ours by way of the outcomes file / typed decode", file, "")
        _row("in: json.loads script / ours", f"{back['script'] / back['ours']:.2f}×", "")
        _row("in: microseconds a row", f"{back['ours'] / rows * 1e6:.1f}", "")
        slow_out, slow_in = measure_tutorials(folder, rounds)
        _row("out, 10,000 rows: tutorial / ours", f"{slow_out:,.0f}×", "≥ 500×")
        _row("in, 10,000 rows: tutorial / ours", f"{slow_in:,.0f}×", "")
        for size in (rows // 2, rows):
            grown, _ = peak("out", size, folder)
            _row(f"out, {size:,} rows: peak growth", f"{grown / 2**20:.1f} MiB", "≤ 32 MiB")
        grown, result = peak("in", rows, folder)
        _row("in, by way of the outcomes file: peak growth a row", f"{grown / rows:,.0f} B", "")
        own = (grown - result) / rows
        _row("in: the same less the result's columns", f"{own:,.0f} B", "≤ 1,000 B")
    # The transfer of 200 MB up and down through `api` gets its row here.


if __name__ == "__main__":
    arguments = [int(each.replace("_", "")) for each in sys.argv[1:]]
    main(*(arguments + [100_000, 5][len(arguments) :]))
