"""How long a cell is busy: `submit` in a fresh process, the sandbox as the service.

`python -m benchmarks.cell ROWS reviews|notes HOME` prints the seconds of the first import, of the
submit itself, and of what went on behind it until the run was on the disk.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pandas as pd

from benchmarks.texts import TEMPLATE, reviews


def notes(rows: int) -> pd.DataFrame:
    """Short rows, each about 200 bytes of its own text."""
    text = "A short note that somebody typed into a form, in a hurry and without a comma or two. "
    return pd.DataFrame({"title": [f"Note {n}" for n in range(rows)], "body": [text * 2] * rows})


def main(rows: int, kind: str, home: Path) -> None:
    """Submit once and say how long each part took."""
    frame = reviews(rows) if kind == "reviews" else notes(rows)
    start = time.perf_counter()
    from batch_magic import python_api, session
    from batch_magic.sandbox import launcher

    imported = time.perf_counter()
    launcher.ensure(home / "sandbox", answerer="stub")
    ready = time.perf_counter()
    run = python_api.submit(frame, TEMPLATE, model="gpt-5-mini", on="sandbox", home=str(home))
    submitted = time.perf_counter()
    shards = home / "runs" / run.run_id
    while not (shards / "twins.npy").exists() or list(shards.glob("*.part")):
        time.sleep(0.02)
    print(imported - start, submitted - ready, time.perf_counter() - submitted)
    session.close_sessions()
    launcher.stop(home / "sandbox")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
