"""Rows out: a frame to shard files on the disk, against the limit and two other ways.

Ours reads the frame in chunks, renders, encodes, hashes each line, cuts shards and writes them
with their manifests. The limit serialises dicts that stand ready and writes one file: no frame,
no template, no hash. All ways end with the bytes on the disk (fsync).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from batch_magic import frame as frames
from batch_magic.folder import RunFolder, ShardWriter
from batch_magic.records import Limits
from batch_magic.template import compile_template
from batch_magic.wire import ENDPOINTS, Encoder
from benchmarks.texts import MODEL, RUN_ID, SYSTEM, TEMPLATE


def ours(frame: pd.DataFrame, folder: Path) -> None:
    """The package's own way, as a submit goes it."""
    template = compile_template(TEMPLATE, columns=frames.column_names(frame))
    encoder = Encoder(
        run_id=RUN_ID, endpoint="chat", model=MODEL, params={}, messages=template.messages
    )
    run = RunFolder(folder)
    run.create()
    writer = ShardWriter(run, Limits(), numbers=count())
    for chunk in frames.chunks(frame, template.columns, with_index=template.reads_index):
        writer.write(encoder.encode(template.render(chunk)))
    writer.close()


def request(position: int, title: str, body: str) -> dict[str, Any]:
    """The request of one row as a dict."""
    return {
        "custom_id": f"{RUN_ID}-{position}",
        "method": "POST",
        "url": ENDPOINTS["chat"],
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


def tutorial(frame: pd.DataFrame, path: Path) -> None:
    """What tutorials show: iterrows, and a metadata frame that grows row by row."""
    metadata = pd.DataFrame(columns=["custom_id", "title", "body", "stars"])
    lines = []
    for n, row in frame.iterrows():
        line = request(int(str(n)), row["title"], row["body"])
        new = pd.DataFrame([{"custom_id": line["custom_id"], **row.to_dict()}])
        metadata = pd.concat([metadata, new], ignore_index=True)
        lines.append(json.dumps(line))
    with path.open("w", encoding="utf-8") as file:
        file.write("\n".join(lines))
        _sync(file)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
