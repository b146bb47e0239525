"""A job that was made elsewhere, taken in as a run: by a script, a colleague, a lost home.

It knows how a job's input file tells what was asked, and which row of a frame each custom_id
means; it refuses to talk to the service. The trap is a guess that fits by chance: a custom_id means
a row only where all of them fit and no two mean the same row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from batch_magic import frame as frames
from batch_magic import wire
from batch_magic.errors import CellError
from batch_magic.folder import RunFolder, ShardWriter
from batch_magic.records import (
    Backend,
    Endpoint,
    Job,
    JobStage,
    Layout,
    Limits,
    Lines,
    Outcomes,
    RemoteJob,
    Request,
    RowStatus,
    RunRecord,
)
from batch_magic.stored_frame import store

_NUMBER_AT_END = re.compile(r"(\d{1,15})$")


@dataclass(frozen=True, slots=True)
class Asked:
    """One line of an input file: its custom_id and the body of its request."""

    custom_id: str
    body: Mapping[str, Any]


def read_input(path: Path) -> tuple[str, list[Asked]]:
    """Return the endpoint of an input file and what its lines ask. Raises CellError."""
    asked, urls = [], set()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = orjson.loads(line)
                asked.append(Asked(str(row["custom_id"]), dict(row["body"])))
                urls.add(str(row["url"]))
            except (ValueError, KeyError, TypeError) as error:
                raise CellError(
                    f"line {number} of its input file cannot be read: {error}; a job of such a"
                    " file cannot be a run: read its files with the OpenAI client instead"
                ) from None
    if len(urls) != 1:
        raise CellError(
            "its input file is empty or asks more than one endpoint, so that it cannot be a run;"
            " read its files with the OpenAI client instead"
        )
    return wire.endpoint_path(urls.pop()), asked


def own_frame(asked: Sequence[Asked]) -> pd.DataFrame:
    """Make a frame of a job for which there is none: custom_id and the last message's text."""
    prompts = [_last_text(one.body) for one in asked]
    return pd.DataFrame({"custom_id": [one.custom_id for one in asked], "prompt": prompts})


def _last_text(body: Mapping[str, Any]) -> str:
    asked = next((body[name] for name in ("messages", "input", "prompt") if name in body), None)
    last = asked[-1] if isinstance(asked, list) and asked else asked
    content = last.get("content") if isinstance(last, Mapping) else last
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def rows_of(names: Sequence[str], frame: pd.DataFrame, column: str = "") -> list[int]:
    """Return the position that each custom_id means in `frame`.

    By the values of `column`, if one is given; else by what fits: a column (or the index) that
    holds every custom_id just once, or the numbers at their ends where they count all rows. Raises
    CellError when nothing fits, and when several do that mean different rows.
    """
    if column:
        if column not in frame.columns:
            raise CellError(f"there is no column {column!r} in the frame; name one with --id")
        return _looked_up(names, frame[column].tolist()) or _refuse(names, f"column {column!r}")
    places = {f"column {frame.columns[n]!r}": frame.iloc[:, n] for n in range(frame.shape[1])}
    ways = {"the index": _looked_up(names, frame.index.tolist())}
    ways |= {where: _looked_up(names, one.tolist()) for where, one in places.items()}
    ways["the number at its end, from 0"] = _numbered(names, len(frame), 0)
    ways["the number at its end, from 1"] = _numbered(names, len(frame), 1)
    found = {where: rows for where, rows in ways.items() if rows}
    if not found:
        return _refuse(names, "the index or any column")
    first, *others = found.values()
    if any(rows != first for rows in others):
        raise CellError(
            f"custom_id {names[0]!r} and its like fit {' and '.join(found)}, which mean different"
            " rows; name the column that has them: --id COLUMN"
        )
    return first


def _looked_up(names: Sequence[str], values: Sequence[object]) -> list[int]:
    places: dict[str, int] = {}
    wanted = set(names)
    for position, value in enumerate(map(str, values)):
        if value in wanted and places.setdefault(value, position) != position:
            return []  # twice: neither row is meant for certain
    return [places[name] for name in names] if len(places) == len(wanted) else []


def _numbered(names: Sequence[str], rows: int, first: int) -> list[int]:
    """Read the numbers at the ends as positions, if they are those of all rows from `first` on."""
    found = [_NUMBER_AT_END.search(name) for name in names]
    numbers = [int(one[1]) - first for one in found if one]
    return numbers if sorted(numbers) == list(range(rows)) and len(names) == rows else []


def _refuse(names: Sequence[str], where: str) -> list[int]:
    raise CellError(
        f"custom_id {names[0]!r} and its like are not found in {where}, each once; name the column"
        " that has them: --id COLUMN"
    )


def adopt(
    folder: RunFolder,
    *,
    run_id: str,
    name: str,
    backend: Backend,
    remote: RemoteJob,
    endpoint: str,
    asked: Sequence[Asked],
    frame: pd.DataFrame,
    positions: Sequence[int],
    limits: Limits,
    now: float,
) -> RunRecord:
    """Write a job's lines and frame into a run folder; return the run as it is to be written down.

    The lines get custom_ids of ours, for rows that are asked again; the job's own are kept in
    `ids.json`. Rows that the job did not ask are skipped.
    """
    folder.create()
    writer = ShardWriter(folder, replace(limits, max_rows_per_job=len(asked) + 1), numbers=count())
    writer.write(_lines(run_id, endpoint, asked, positions))
    shards = writer.close()
    ids = dict(zip((one.custom_id for one in asked), positions, strict=True))
    folder.write_ids(ids)
    folder.write_twins([])
    skipped = sorted(set(range(len(frame))) - set(positions))
    folder.write_unsent([_skipped(skipped)] if skipped else [])
    held = frames.hold(frame)
    stored = store(held, folder.frame_path)
    model = str(asked[0].body.get("model") or remote.model or "")
    job = Job(
        number=0,
        shard=shards[0].number,
        round=0,
        rows=shards[0].rows,
        bytes=shards[0].bytes,
        stage=JobStage.RUNNING,
        token="",
        file_id=remote.input_file_id,
        batch_id=remote.batch_id,
        intended_at=remote.created_at or now,
        remote=remote,
    )
    return RunRecord(
        run_id=run_id,
        name=name,
        backend=backend,
        request=Request(endpoint, model, f"(made elsewhere, as job {remote.batch_id})"),
        layout=Layout("answer", on_clash="replace", several=_has_lists(asked, endpoint)),
        limits=limits,
        created_at=now,
        rows=len(frame),
        identity=f"adopted {remote.batch_id}",
        fingerprint=frames.fingerprint(held),
        unstored=stored.unstored,
        decided={RowStatus.SKIPPED: len(skipped)} if skipped else {},
        notes=(f"job {remote.batch_id} was made elsewhere and is attached",),
        shards=tuple(shards),
        jobs=(job,),
        files={
            "frame.parquet": stored.sha256,
            **folder.hashes("ids.json", "twins.npy", "unsent.arrow"),
        },
    )


def _has_lists(asked: Sequence[Asked], endpoint: str) -> bool:
    """Tell whether some line has several inputs: its answer is as many vectors."""
    inputs = [one.body.get("input") for one in asked] if endpoint == Endpoint.EMBEDDINGS else []
    return any(isinstance(one, list) and not (one and isinstance(one[0], int)) for one in inputs)


def _lines(run_id: str, endpoint: str, asked: Sequence[Asked], positions: Sequence[int]) -> Lines:
    lines = [
        wire.line_of(run_id, position, endpoint, one.body)
        for one, position in zip(asked, positions, strict=True)
    ]
    digests = b"".join(map(wire.tail_digest, lines))
    return Lines(list(positions), b"".join(lines), list(map(len, lines)), digests)


def _skipped(positions: list[int]) -> Outcomes:
    return Outcomes.unsent(
        positions, RowStatus.SKIPPED, ["the job did not ask for this row"] * len(positions)
    )
