"""What a process of `test_restart` does before it is killed: one cell, as a script has it."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

ROWS = 24
SHARDS = 3
FAST = {
    "BATCH_MAGIC_POLL_FIRST_S": "0.04",
    "BATCH_MAGIC_POLL_MAX_S": "0.1",
    "BATCH_MAGIC_RETRY_BASE_S": "0.05",
    "BATCH_MAGIC_DOUBT_GRACE_S": "0.6",
    "BATCH_MAGIC_MAX_ROWS_PER_JOB": str(ROWS // SHARDS),
}


def reviews(mark: str) -> pd.DataFrame:
    """Rows that no other test asks about: `mark` is in every text."""
    texts = [f"{mark} review {n} {'fine ' * (n % 4)}" for n in range(ROWS)]
    return pd.DataFrame({"text": texts, "stars": range(ROWS)}, index=[n // 2 for n in range(ROWS)])


def submit(home: Path, url: str, mark: str) -> None:
    """Run the cell, then leave the result on the disk."""
    import batch_magic as bm

    os.environ.update(FAST)
    run = bm.submit(
        reviews(mark), "{{ text }}", out="labelled", model="m", on=url, home=str(home / "home")
    )
    _finish(run, home)


def attach(home: Path, url: str, mark: str) -> None:
    """Go on with whatever the last process left; where it left nothing, run the cell."""
    import batch_magic as bm
    from batch_magic.errors import CellError

    os.environ.update(FAST)
    try:
        run = bm.attach("labelled", home=str(home / "home"))
    except CellError:
        submit(home, url, mark)
        return
    _finish(run, home)


def _finish(run: object, home: Path) -> None:
    frame = run.wait(timeout_s=60)  # type: ignore[attr-defined]
    frame.attrs = {}
    frame.to_pickle(home / "labelled.part")
    (home / "labelled.part").replace(home / "labelled.pickle")
