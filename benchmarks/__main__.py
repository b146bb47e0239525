"""Measure and write `benchmarks/RESULTS.md`: `python -m benchmarks [rows] [rounds]`.

The sides of each comparison are run in turn, `rounds` times, and the fastest of each counts:
what disturbs a run only ever makes it slower. Their time is CPU time, which other work on the
machine disturbs least. Files are on a RAM disk where there is one: the disk takes the same time
for every side. Memory is the growth of anonymous memory in a fresh process, as files that are read
or mapped are the kernel's to drop. What a person waits for (a cell, a transfer) is wall time.
"""

from __future__ import annotations

import gc
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from benchmarks import inward, lane, outward, shapes, transfer
from benchmarks.texts import reviews

RESULTS = Path(__file__).parent / "RESULTS.md"
MEMORY_ROWS = (50_000, 100_000, 200_000)
TUTORIAL_ROWS = 10_000
TRANSFER_BYTES = 200_000_000
MIB = 2**20

Row = tuple[str, str, str]


def fastest(
    sides: Mapping[str, Callable[[], object]], rounds: int, scratch: Path | None = None
) -> dict[str, float]:
    """CPU seconds of the fastest run of each side, the sides run in turn.

    Each finds the folder `scratch` empty, which is no part of its time. The snapshot of the frame
    is a side of its own, taken out of the one that it is part of.
    """
    seconds = dict.fromkeys([*sides, "snapshot"], float("inf"))
    for _ in range(rounds):
        for name, side in sides.items():
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir()
            start = time.process_time()
            made = side()
            took = time.process_time() - start
            if isinstance(made, outward.Prepared):
                took -= made.snapshot_s
                seconds["snapshot"] = min(seconds["snapshot"], made.snapshot_s)
            seconds[name] = min(seconds[name], took)
            del made
    return seconds


def measure_out(frame: pd.DataFrame, folder: Path, rounds: int) -> Iterator[Row]:
    """The way out."""
    write_ready, out = outward.limit(frame), folder / "out"
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: outward.ours(frame, out),
        "limit": lambda: write_ready(out / "limit.jsonl"),
        "script": lambda: outward.itertuples(frame, out / "script.jsonl"),
    }
    gc.collect()
    gc.freeze()  # the dicts that stand ready are no other side's garbage to look through
    took = fastest(sides, rounds, out)
    shutil.rmtree(out)
    gc.unfreeze()
    yield _ratio("out: ours / dicts that stand ready, serialised", took, "ours", "limit", "≤ 3.0×")
    yield _ratio("out: `itertuples` + `json.dumps` / ours", took, "script", "ours", "≥ 2.5×")
    yield _each("out: time a row", took["ours"], len(frame))
    yield _each("out: the frame's snapshot, time a row", took["snapshot"], len(frame))


def measure_in(frame: pd.DataFrame, folder: Path, rounds: int) -> Iterator[Row]:
    """The way in."""
    given = inward.answered(frame, folder / "in")
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: inward.ours(frame, given),
        "limit": lambda: inward.limit(given),
        "script": lambda: inward.json_dict(frame, given),
    }
    took = fastest(sides, rounds)
    yield _ratio("in: ours / a typed decode of each line", took, "ours", "limit", "≤ 2.5×")
    yield _ratio("in: `json.loads` into a dict / ours", took, "script", "ours", "")
    yield _each("in: time a row", took["ours"], len(frame))


def measure_tutorials(folder: Path) -> Iterator[Row]:
    """The ways that tutorials show, on few rows: they take minutes on many."""
    frame, out = reviews(TUTORIAL_ROWS), folder / "out"
    given = inward.answered(frame, folder / "in")
    sides_out: dict[str, Callable[[], object]] = {
        "ours": lambda: outward.ours(frame, out),
        "concat": lambda: outward.tutorial(frame, out / "concat.jsonl", outward.by_concat),
        "loc": lambda: outward.tutorial(frame, out / "loc.jsonl", outward.by_loc),
    }
    sides_in: dict[str, Callable[[], object]] = {
        "ours": lambda: inward.ours(frame, given),
        "tutorial": lambda: inward.tutorial(frame, given),
    }
    rows = f"{TUTORIAL_ROWS:,} rows"
    took = fastest(sides_out, 1, out)
    tutorials = f"out, {rows}: the tutorial's way"
    yield _ratio(f"{tutorials}, `pd.concat` each row / ours", took, "concat", "ours", "")
    yield _ratio(f"{tutorials}, `.loc[len(frame)]` each row / ours", took, "loc", "ours", "≥ 500×")
    took = fastest(sides_in, 2)
    yield _ratio(f"in, {rows}: the tutorial's way / ours", took, "tutorial", "ours", "")


def measure_shapes(rows: int) -> Iterator[Row]:
    """Typed columns and vectors."""
    said = list(map(float, _said("benchmarks.shapes", rows)))
    plain, model, decode, ours, limit, grown, own = said
    what = f"{rows:,} structured answers to columns"
    yield f"{what} / a typed decode of each", f"{plain / decode:.2f}×", "≤ 1.5×"
    yield f"{what}, by a Pydantic model / the same", f"{model / decode:.2f}×", "≤ 3×"
    what = f"{shapes.VECTORS:,} vectors of {shapes.NUMBERS:,} to a column"
    yield f"{what} / a base64 decode of each", f"{ours / limit:.2f}×", "≤ 2×"
    yield f"{what}: memory / their own bytes", f"{grown / own:.2f}×", "≤ 1.3×"


def measure_memory(folder: Path) -> Iterator[Row]:
    """How far a fresh process grows."""
    for direction in ("out", "in"):
        for rows in MEMORY_ROWS:
            frame_path = folder / "frame.parquet"
            reviews(rows).to_parquet(frame_path)
            said = _said("benchmarks.memory", direction, frame_path, _made(folder / "memory"))
            shutil.rmtree(folder / "memory")
            grown, result = int(said[0]), int(said[1])
            if direction == "out":
                yield f"out, {rows:,} rows: memory", f"{grown / MIB:.1f} MiB", "≤ 32 MiB"
            else:
                own = f"{(grown - result) / rows:,.0f} B"
                yield f"in, {rows:,} rows: memory a row beyond the result's own", own, "≤ 1,000 B"


LIVE_ROWS = 2_000


def measure_lane(folder: Path) -> Iterator[Row]:
    """The live lane, from the frame to the frame, beside a bare loop over the SDK."""
    rounds = 3
    took = {"bare": (math.inf, math.inf), "ours": (math.inf, math.inf)}
    for n in range(rounds):
        for side, known in took.items():
            said = _said("benchmarks.lane", side, LIVE_ROWS, _made(folder / f"{side}-{n}"))
            found = [float(each) for each in said]
            took[side] = (min(known[0], found[0]), min(known[1], found[1]))
    ideal_s = LIVE_ROWS / lane.CONCURRENCY * lane.LATENCY_S
    what = f"{LIVE_ROWS:,} rows live, {lane.CONCURRENCY} at once, 200 ms each"
    yield f"{what}: time / the least there can be", f"{took['ours'][0] / ideal_s:.2f}×", "≤ 1.2×"
    yield f"{what}: CPU time / a bare SDK loop", f"{took['ours'][1] / took['bare'][1]:.2f}×", "≤ 2×"
    yield f"{what}: a bare SDK loop / the least", f"{took['bare'][0] / ideal_s:.2f}×", ""


ESTIMATED_FRAMES = 100


def measure_estimates() -> Iterator[Row]:
    """What is said of input tokens before anything is sent."""
    said = _said("benchmarks.estimates", ESTIMATED_FRAMES)
    median, high, most, seconds = map(float, said)
    what = f"input tokens of {ESTIMATED_FRAMES} mixed frames"
    yield f"{what}: error of 19 in 20", f"≤ {high:.2%}", "≤ 1.5 %"
    yield f"{what}: median, largest error", f"{median:.2%}, {most:.2%}", ""
    yield "estimate of 1,000,000 lines of 250 B: CPU time", f"{seconds * 1e3:.0f} ms", "< 150 ms"


def measure_transfer(folder: Path) -> Iterator[Row]:
    """A file as large as the service takes, up and down."""
    path = folder / "large.jsonl"
    transfer.large_file(path, TRANSFER_BYTES)
    with transfer.sandbox(folder / "home") as url:
        said = _said("benchmarks.transfer", url, path)
    for way, seconds, grown in (("upload", *said[:2]), ("download", *said[2:])):
        yield f"{way} of 200 MB, one machine: time", f"{float(seconds):.2f} s", ""
        yield f"{way} of 200 MB: memory", f"{int(grown) / MIB:.1f} MiB", "≤ 8 MB"


def measure_cell(folder: Path) -> Iterator[Row]:
    """How long a cell is busy."""
    for kind, rows, lines, target in (
        ("reviews", 10_000, "2 kB", "< 1 s"),
        ("notes", 1_000_000, "200 B", "≤ 2 s"),
    ):
        said = _said("benchmarks.cell", rows, kind, folder / kind)
        imports, submit, behind = (float(each) for each in said)
        yield f"cell, {rows:,} rows of {lines}: first import", f"{imports:.2f} s", ""
        yield f"cell, {rows:,} rows of {lines}: submit", f"{submit:.2f} s", target
        yield f"cell, {rows:,} rows of {lines}: on the disk after another", f"{behind:.2f} s", ""


def _said(module: str, *arguments: object) -> list[str]:
    """What a fresh process printed."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def _ratio(what: str, took: Mapping[str, float], one: str, other: str, target: str) -> Row:
    return what, f"{took[one] / took[other]:.2f}×", target


def _each(what: str, seconds: float, rows: int) -> Row:
    return what, f"{seconds / rows * 1e6:.1f} µs", ""


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _machine() -> str:
    names = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    processor = names[0].partition(":")[2].strip() if names else platform.processor()
    packages = ("pandas", "pyarrow", "orjson", "msgspec", "openai")
    said = ", ".join(f"{name} {version(name)}" for name in packages)
    python = f"Python {platform.python_version()}"
    return f"{processor}, {os.cpu_count()} cores, {platform.system()}; {python}, {said}."


def main(rows: int, rounds: int) -> None:
    """Measure all, print as it goes, and write the table."""
    ram = "/dev/shm" if Path("/dev/shm").is_dir() else None
    lines = [f"| {rows:,} rows, lines of 2 kB | measured | target |", "|---|---|---|"]
    with tempfile.TemporaryDirectory(dir=ram) as name:
        folder = Path(name)
        frame = reviews(rows)
        for rows_of_table in (
            measure_out(frame, folder, rounds),
            measure_in(frame, folder, rounds),
            measure_shapes(rows),
            measure_tutorials(_made(folder / "tutorials")),
            measure_memory(_made(folder / "fresh")),
            measure_transfer(_made(folder / "transfer")),
            measure_cell(_made(folder / "cell")),
            measure_lane(_made(folder / "lane")),
            measure_estimates(),
        ):
            for row in rows_of_table:
                lines.append(f"| {' | '.join(row)} |")
                print(lines[-1], flush=True)
    RESULTS.write_text("\n".join([*lines, "", _machine(), ""]), encoding="utf-8")


if __name__ == "__main__":
    arguments = [int(each.replace("_", "")) for each in sys.argv[1:]]
    main(*(arguments + [100_000, 5][len(arguments) :]))
