"""Answers in: result files to the merged frame, against the limit and two other ways.

Ours decodes and classifies, scatters by position, builds the text columns and attaches them; or
it does so by way of the outcomes file on the disk, as a collected job does. The limit is a typed
msgspec decode of the members needed, one line after the other, which builds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from batch_magic import frame as frames
from batch_magic.folder import RunFolder
from batch_magic.records import Outcomes, RowStatus
from batch_magic.resolution import Source, resolve
from batch_magic.wire import Decoder
from benchmarks.texts import RUN_ID

_BLOCK_BYTES = 1 << 20


def ours(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Decode, scatter by position, text columns, attach; texts wait as Arrow bytes."""
    decoder = Decoder(run_id=RUN_ID, endpoint="chat")
    parts = [_arrays(decoder.decode(block)) for block in _blocks(path)]
    positions, statuses, texts, errors = zip(*parts, strict=True)
    at = np.concatenate(positions)
    entry = np.full(len(frame), -1, dtype=np.int64)
    entry[at] = np.arange(len(at))
    status = np.full(len(frame), RowStatus.MISSING, dtype=np.uint8)
    status[at] = np.concatenate(statuses)
    columns = {
        "answer": frames.text_column(frames.gather(pa.chunked_array(texts), entry)),
        "gpt_error": frames.text_column(frames.gather(pa.chunked_array(errors), entry)),
    }
    return frames.attach(frame, status, columns)


def _blocks(path: Path) -> Iterator[bytes]:
    rest = b""
    with path.open("rb") as file:
        while data := file.read(_BLOCK_BYTES):
            whole, newline, rest = (rest + data).rpartition(b"\n")
            yield whole + newline


def _arrays(found: Outcomes) -> tuple[Any, ...]:
    return (
        np.asarray(found.positions, dtype=np.int64),
        np.asarray(found.statuses, dtype=np.uint8),
        pa.array(found.text, type=pa.large_binary()),
        pa.array(found.error, type=pa.large_binary()),
    )


def collected(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The same by way of the outcomes file that a restart reads again, all its columns."""
    run = RunFolder(folder)
    run.scan_job(0, RUN_ID, "chat")
    found = run.outcomes("job-00000")
    assert found is not None
    table = found.table
    rows = np.arange(len(frame), dtype=np.int64)
    resolution = resolve(len(frame), [source_of(table, rows)])
    columns = {
        "answer": frames.text_column(frames.gather(table["text"], resolution.entry)),
        "gpt_error": frames.text_column(frames.gather(table["error"], resolution.entry)),
    }
    return frames.attach(frame, resolution.statuses, columns)


def source_of(table: Any, rows: Any) -> Source:
    """The outcomes of the one job there is."""
    return Source(
        first=0,
        positions=table["position"].to_numpy(),
        statuses=table["status"].to_numpy(),
        retryable=table["retryable"].to_numpy(),
        rows=rows,
        default=RowStatus.MISSING,
        default_retryable=True,
    )


class _Cached(msgspec.Struct):
    cached_tokens: int


class _Reasoning(msgspec.Struct):
    reasoning_tokens: int


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Cached
    completion_tokens_details: _Reasoning


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice] = []
    model: str | None = None
    usage: _Usage | None = None


class _Response(msgspec.Struct):
    status_code: int
    body: _Body


class _Line(msgspec.Struct):
    custom_id: str
    response: _Response


def limit(path: Path) -> int:
    """A typed decode of each line, the object dropped at once; returns the characters."""
    decode, characters = msgspec.json.Decoder(_Line).decode, 0
    with path.open("rb") as file:
        for line in file:
            body = decode(line).response.body
            if body.choices:
                characters += len(body.choices[0].message.content or "")
    return characters


def json_dict(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """What a careful script does: all parsed lines in a dict by custom_id, then a list."""
    with path.open(encoding="utf-8") as file:
        found = {line["custom_id"]: line for line in map(json.loads, file)}
    texts = []
    for n in range(len(frame)):
        body = found[f"{RUN_ID}-{n}"]["response"]["body"]
        texts.append(body["choices"][0]["message"]["content"] if "choices" in body else None)
    return frame.assign(answer=pd.Series(texts, index=frame.index))


def tutorial(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """What tutorials show: the whole file as text, then one cell at a time by label."""
    result = frame.copy()
    result["answer"] = None
    for line in path.read_text(encoding="utf-8").strip().split("\n"):
        parsed = json.loads(line)
        body = parsed["response"]["body"]
        if "choices" in body:
            position = int(parsed["custom_id"].rsplit("-", 1)[1])
            result.loc[position, "answer"] = body["choices"][0]["message"]["content"]
    return result
