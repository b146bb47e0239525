"""Rows out: a frame to shard files on the disk, against the limit and the usual way.

Ours is the package's own preparation of a run: chunks, rendering, lines, digests, twins looked
for, shards cut and written with their manifests; the frame's snapshot is measured apart. The
limit serialises dicts that stand ready and writes one file: no frame, no template, no digest.
All ways end with the bytes on the disk (fsync).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from batch_magic import frame as frames
from batch_magic.folder import Home
from batch_magic.prepare import Known, Preparation
from batch_magic.records import Backend, Layout, Limits, Request, RunRecord
from batch_magic.template import compile_template
from batch_magic.wire import CHAT
from benchmarks.texts import MODEL, RUN_ID, SYSTEM, TEMPLATE


def draft_of(rows: int) -> RunRecord:
    """A run over so many rows, as it is before anything is written."""
    return RunRecord(
        run_id=RUN_ID,
        name="labelled",
        backend=Backend("openai", "https://api.openai.com/v1"),
        request=Request(CHAT, MODEL, TEMPLATE),
        layout=Layout("answer"),
        limits=Limits(),
        created_at=0.0,
        rows=rows,
        identity="",
        fingerprint="",
    )


def preparation(frame: pd.DataFrame, folder: Path) -> Preparation:
    """A submit's preparation, not begun."""
    template = compile_template(TEMPLATE, columns=frames.column_names(frame))
    draft = draft_of(len(frame))
    return Preparation(Home(folder), draft, frame=frame, template=template, known=Known())


Grow = Callable[[pd.DataFrame, dict[Any, Any]], pd.DataFrame]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run on the disk, and the CPU seconds that the frame's snapshot took of it."""

    record: RunRecord
    snapshot_s: float


def ours(frame: pd.DataFrame, folder: Path) -> Prepared:
    """The package's own way, as a submit goes it."""
    work = preparation(frame, folder)
    while work.rows_done < len(frame):
        work.advance(lambda: True)
    start = time.process_time()
    work.advance(lambda: True)  # the step after the last chunk stores the frame
    snapshot_s = time.process_time() - start
    work.advance(lambda: False)
    assert work.record is not None
    return Prepared(work.record, snapshot_s)


def request(position: int, title: str, body: str) -> dict[str, Any]:
    """The request of one row as a dict."""
    return {
        "custom_id": f"{RUN_ID}-{position}",
        "method": "POST",
        "url": CHAT,
        "body": {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": f"Title: {title}\nReview:\n{body}"},
            ],
        },
    }


def limit(frame: pd.DataFrame) -> Callable[[Path], None]:
    """The least that any way must do, with the dicts made beforehand."""
    texts = zip(frame["title"].tolist(), frame["body"].tolist(), strict=True)
    ready = [request(n, title, body) for n, (title, body) in enumerate(texts)]

    def write(path: Path) -> None:
        with path.open("wb") as file:
            for each in ready:
                file.write(orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE))
            _sync(file)

    return write


def itertuples(frame: pd.DataFrame, path: Path) -> None:
    """What a careful script does."""
    with path.open("w", encoding="utf-8") as file:
        for n, row in enumerate(frame.itertuples(index=False)):
            line = request(n, str(row.title), str(row.body))
            file.write(json.dumps(line) + "\n")
        _sync(file)


def tutorial(frame: pd.DataFrame, path: Path, grow: Grow) -> None:
    """What tutorials show: `iterrows`, and a metadata frame that grows row by row."""
    metadata = pd.DataFrame(columns=["custom_id", *frame.columns])
    lines = []
    for n, (_, row) in enumerate(frame.iterrows()):
        line = request(n, row["title"], row["body"])
        told: dict[Any, Any] = {"custom_id": line["custom_id"], **row}
        metadata = grow(metadata, told)
        lines.append(json.dumps(line))
    with path.open("w", encoding="utf-8") as file:
        file.write("\n".join(lines))
        _sync(file)


def by_concat(metadata: pd.DataFrame, row: dict[Any, Any]) -> pd.DataFrame:
    """One row more by `pd.concat`, the quicker of the two usual ways."""
    return pd.concat([metadata, pd.DataFrame([row])], ignore_index=True)


def by_loc(metadata: pd.DataFrame, row: dict[Any, Any]) -> pd.DataFrame:
    """One row more by `.loc[len(frame)] = …`, the shorter to write."""
    metadata.loc[len(metadata)] = list(row.values())
    return metadata


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
