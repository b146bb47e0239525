"""Answers in: result files to the merged frame, against the limit and the usual way.

Ours is what the package does with a collected job and a result that is asked for: result files
are read into outcomes files, outcomes are resolved, columns are made and put onto the frame. The
limit is a typed msgspec decode of the members needed, line after line, which builds nothing.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from batch_magic.engine import plan_jobs
from batch_magic.folder import Home, RunFolder
from batch_magic.records import JobStage, RemoteJob, RunRecord
from batch_magic.result import result_frame
from benchmarks import outward
from benchmarks.texts import RUN_ID, result_lines


@dataclass(frozen=True, slots=True)
class Answered:
    """A run whose jobs have ended and whose result files are on the disk, not yet read."""

    folder: RunFolder
    run: RunRecord
    files: tuple[Path, ...]


def answered(frame: pd.DataFrame, home: Path) -> Answered:
    """Prepare a run over `frame` and write the files that a service would give for it."""
    record = outward.ours(frame, home).record
    folder = Home(home).run_folder(record.run_id)
    jobs = plan_jobs(record.shards, lambda: "token")
    files = tuple(folder.result_path(job.number, "output") for job in jobs)
    with ExitStack() as open_files:
        outputs = [open_files.enter_context(path.open("wb")) for path in files]
        for position, line in result_lines(len(frame)):
            outputs[position // record.limits.max_rows_per_job].write(line)
    remote = RemoteJob("batch_1", "completed")
    ended = [replace(job, stage=JobStage.COLLECTED, remote=remote) for job in jobs]
    return Answered(folder, replace(record, jobs=tuple(ended)), files)


def ours(frame: pd.DataFrame, given: Answered) -> pd.DataFrame:
    """The package's own way, with the frame at hand."""
    for job in given.run.jobs:
        given.folder.scan_job(job.number, given.run.run_id)
    return result_frame(given.folder, given.run, frame)


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


def limit(given: Answered) -> int:
    """A typed decode of each line, the object dropped at once; returns the characters."""
    decode, characters = msgspec.json.Decoder(_Line).decode, 0
    for path in given.files:
        with path.open("rb") as file:
            for line in file:
                body = decode(line).response.body
                if body.choices:
                    characters += len(body.choices[0].message.content or "")
    return characters


def tutorial(frame: pd.DataFrame, given: Answered) -> pd.DataFrame:
    """What tutorials show: the file as one text, then one cell at a time by label."""
    result = frame.copy()
    result["answer"] = None
    for path in given.files:
        for text in path.read_text(encoding="utf-8").strip().split("\n"):
            line = json.loads(text)
            body = line["response"]["body"]
            if "choices" in body:
                position = int(line["custom_id"].rsplit("-", 1)[1])
                result.loc[position, "answer"] = body["choices"][0]["message"]["content"]
    return result


def json_dict(frame: pd.DataFrame, given: Answered) -> pd.DataFrame:
    """What a careful script does: all parsed lines in a dict by custom_id, then a list."""
    found: dict[str, Any] = {}
    for path in given.files:
        with path.open(encoding="utf-8") as file:
            found.update((line["custom_id"], line) for line in map(json.loads, file))
    texts = []
    for n in range(len(frame)):
        body = found[f"{RUN_ID}-{n}"]["response"]["body"]
        texts.append(body["choices"][0]["message"]["content"] if "choices" in body else None)
    return frame.assign(answer=pd.Series(texts, index=frame.index))
