"""The merged DataFrame: a run's outcomes put onto the frame as it was at submit.

It knows which outcome goes into which column and refuses to store anything: a result is made
from files and manifests whenever it is asked for, whole or partial. The trap is memory: texts
are taken from mapped Arrow files in one go, never row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batch_magic import frame as frames
from batch_magic import picture
from batch_magic.answers import reader_of
from batch_magic.billing import entry_costs
from batch_magic.errors import CellError
from batch_magic.folder import RunFolder
from batch_magic.outcomes import Resolved, resolve_run
from batch_magic.records import Endpoint, Layout, Mark, RowStatus, RunRecord
from batch_magic.resolution import Resolution
from batch_magic.stored_frame import load

KEEP: Mapping[str, tuple[str, ...]] = {
    "usage": ("usage_input", "usage_cached", "usage_output", "usage_reasoning"),
    "finish_reason": ("finish_reason",),
    "cost": (),
    "custom_id": (),
    "model": ("model",),
    "raw": (),
}
"""What `--keep` can add, and which outcome columns it takes."""

_NO_MARKS: Mapping[int, Mark] = MappingProxyType({})

_PLACE = ("file", "offset", "length")  # of the line that an outcome was read from


def check_keep(keep: tuple[str, ...]) -> None:
    """Refuse a name that `--keep` does not know. Raises CellError."""
    for name in keep:
        if name not in KEEP:
            raise CellError(f"--keep knows no {name!r}; choose from {', '.join(KEEP)}")


def answer_columns(layout: Layout) -> list[str]:
    """Return the names of the columns that hold answers; of several models, without theirs."""
    shape = layout.shape
    return [layout.column] if shape is None else [c.name for c in reader_of(shape).columns]


def added_columns(layout: Layout, models: tuple[str, ...]) -> list[str]:
    """Return the names of all columns that a result adds: of several models, each its own.

    Those of marks are among them, which it has only when a row is marked.

    Raises CellError when two of them have one name.
    """
    answers = answer_columns(layout)
    kept = [f"gpt_{part}" for name in layout.keep for part in KEEP[name] or (name,)]
    truth = ["gpt_status", "gpt_error"]
    names = [*answers, *truth, *kept]
    if len(models) > 1:
        names = [f"{name}.{model}" for model in models for name in names] + truth
        answers = [f"{name}.{model}" for model in models for name in answers]
    for name in answers:
        if names.count(name) > 1:
            raise CellError(f"two columns of the result are called {name!r}; say --prefix")
        if name.startswith("gpt_"):
            raise CellError(
                f"a column of answers is called {name!r}, and gpt_… names are taken; say --prefix"
            )
    return [*names, *frames.MARK_COLUMNS]


def result_frame(
    folder: RunFolder,
    run: RunRecord,
    live: pd.DataFrame | None,
    marks: Mapping[int, Mark] = _NO_MARKS,
) -> pd.DataFrame:
    """Return the frame of a run (n rows) with its answers, as far as there are any.

    `live` is the frame as held at submit, if this process still has it; else it is read from
    the run's snapshot. Same rows, order, index and dtypes; rows without outcome are `pending`.
    `marks` are what was noted about its rows, by position; those of an earlier result are dropped.
    Raises JournalError when the files cannot be read.
    """
    frame, missing = (live, []) if live is not None else load(folder.checked("frame.parquet"))
    resolved, models = resolve_run(folder, run), run.request.models
    if len(models) == 1:
        columns = _columns(folder, run, resolved, 0)
    else:
        columns = _columns_by_model(folder, run, resolved)
    columns |= frames.mark_columns(marks, len(frame))
    result = frames.attach(frames.without_marks(frame), columns, on_clash="replace")
    result.attrs["gptbatch"] = _facts(run, missing)
    return result


def _columns(folder: RunFolder, run: RunRecord, resolved: Resolved, first: int) -> dict[str, Any]:
    """Return the columns of one model's answers; `first` is the position of its first row."""
    return {
        **_answers(run, resolved),
        "gpt_status": frames.status_column(resolved.resolution.statuses),
        "gpt_error": frames.text_column(_errors(resolved)),
        **_kept(folder, run, resolved, first),
    }


def _columns_by_model(folder: RunFolder, run: RunRecord, resolved: Resolved) -> dict[str, Any]:
    """Return each model's columns under its name, then what is said of a row over all models.

    A row is ok if all answered it well, and pending while one has not; else it has the status
    and error of the first that did not answer well.
    """
    models = run.request.models
    rows = run.rows // len(models)
    statuses = np.full(rows, int(RowStatus.OK), dtype=np.uint8)
    said: list[str | None] = [None] * rows
    columns: dict[str, Any] = {}
    for nth, model in enumerate(models):
        part = _part(resolved, nth * rows, rows)
        own = part.resolution.statuses
        found = _columns(folder, run, part, nth * rows)
        columns |= {f"{name}.{model}": values for name, values in found.items()}
        is_news = (statuses == RowStatus.OK) | (own == RowStatus.PENDING)
        bad = np.flatnonzero(is_news & (own != RowStatus.OK) & (statuses != RowStatus.PENDING))
        for place, error in zip(bad.tolist(), found["gpt_error"][bad], strict=True):
            said[place] = None if pd.isna(error) else f"{model}: {error}"
        statuses[bad] = own[bad]
    columns["gpt_status"] = frames.status_column(statuses)
    return {**columns, "gpt_error": frames.text_column(said)}


def _part(resolved: Resolved, first: int, rows: int) -> Resolved:
    whole, mine = resolved.resolution, slice(first, first + rows)
    part = Resolution(
        whole.statuses[mine],
        whole.entry[mine],
        whole.retryable[mine],
        whole.notes[mine],
        whole.awaited[mine],
    )
    return replace(resolved, resolution=part)


def frame_of(folder: RunFolder, live: pd.DataFrame | None) -> pd.DataFrame:
    """Return a run's frame as it was at submit, `live` if this process still has it."""
    return live if live is not None else load(folder.checked("frame.parquet"))[0]


def places_of(
    frame: pd.DataFrame, folder: RunFolder, run: RunRecord, live: pd.DataFrame | None
) -> NDArray[np.int64] | None:
    """Return for each row of a frame made of a run's result its position in the run.

    None where that cannot be told for sure: by the columns that were sent, and where these do not
    tell apart rows that were asked differently, by the answers and the kind of the labels as well.
    """
    asked = _asked(folder, run)
    own = frame_of(folder, live)
    added = {frames.label_of(own, name) for name in added_columns(run.layout, run.request.models)}
    sent = [label not in added for label in own.columns]
    places = frames.places_in(frame, own.loc[:, sent], asked)
    if places is not None:
        return places
    whole = result_frame(folder, run, live)
    told = [label not in added or label in frame.columns for label in whole.columns]
    return frames.places_in(frame, whole.loc[:, told], asked, by_label=True)


def _asked(folder: RunFolder, run: RunRecord) -> NDArray[np.int64]:
    """Number what was sent to each model for each row (models × rows).

    Rows that share a line have the same number, and so have those that, for the same reason, have
    none.
    """
    numbers = np.arange(run.rows)
    if (unsent := folder.outcomes("unsent")) is not None:
        positions = unsent.table["position"].to_numpy()
        reasons = pd.factorize(unsent.table["error"].to_pandas())[0]
        _, first, group = np.unique(reasons, return_index=True, return_inverse=True)
        numbers[positions] = positions[first[group]]
    twins = folder.twins()
    numbers[twins[:, 0]] = numbers[twins[:, 1]]
    return numbers.reshape(len(run.request.models), -1)


_ROWS_AT_ONCE = 50_000  # typed values are Python's own for a moment: not a million at a time


def _answers(run: RunRecord, resolved: Resolved) -> dict[str, Any]:
    """Return the answers as columns: one of text or vectors, or those that the shape gives them."""
    layout = run.layout
    if run.request.endpoint == Endpoint.EMBEDDINGS:
        found, entry = _entries(resolved, "text"), resolved.resolution.entry
        return {layout.column: frames.vector_column(found, entry, several=layout.several)}
    texts = _taken(resolved, "text")
    if layout.shape is None:
        return {layout.column: frames.text_column(texts)}
    reader = reader_of(layout.shape)
    parts: list[list[pd.Series[Any]]] = [[] for _ in reader.columns]
    for at in range(0, max(1, len(texts)), _ROWS_AT_ONCE):
        values = reader.values(texts.slice(at, _ROWS_AT_ONCE).to_pylist())
        for part, column, found in zip(parts, reader.columns, values, strict=True):
            part.append(frames.typed_column(column.kind, found, column.choices))
    named = zip(reader.columns, parts, strict=True)
    return {column.name: pd.concat(part, ignore_index=True) for column, part in named}


def _taken(resolved: Resolved, name: str) -> Any:
    """Take one outcome column, an entry for each row; null where a row has no entry."""
    import pyarrow as pa

    column, entry = _entries(resolved, name), resolved.resolution.entry
    if column.type == pa.large_binary():
        return frames.gather(column, entry)
    return column.take(pa.array(entry, mask=entry < 0))


def _entries(resolved: Resolved, name: str) -> Any:
    """Return an outcome column of all files, one after another."""
    import pyarrow as pa

    parts = [chunk for one in resolved.tables for chunk in one.table[name].chunks]
    of_nothing = pa.int64() if name.startswith("usage_") else pa.large_binary()
    return pa.chunked_array(parts, type=parts[0].type if parts else of_nothing)


def _errors(resolved: Resolved) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    said = _taken(resolved, "error")
    notes = resolved.resolution.notes
    if not (notes >= 0).any():
        return said
    texts = pa.array(
        [note.encode("utf-8", "surrogatepass") for note in resolved.notes], pa.large_binary()
    )
    of_notes = texts.take(pa.array(notes, mask=notes < 0))
    return pc.coalesce(of_notes, said)


def _kept(folder: RunFolder, run: RunRecord, resolved: Resolved, first: int) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name in run.layout.keep:
        for part in KEEP[name]:
            columns[f"gpt_{part}"] = _kept_column(resolved, part)
        if name == "custom_id":
            rows = len(resolved.resolution.statuses)
            ids = [f"{run.run_id}-{position}" for position in range(first, first + rows)]
            columns["gpt_custom_id"] = frames.text_column(ids)
        if name == "cost":
            columns["gpt_cost"] = _cost_column(folder, run, resolved, first)
        if name == "raw":
            columns["gpt_raw"] = frames.text_column(_raw_lines(folder, resolved))
    return columns


def _cost_column(folder: RunFolder, run: RunRecord, resolved: Resolved, first: int) -> Any:
    """US dollars that each row cost this run: 0 where its answer was paid for before, or is shared.

    Null where the price or the tokens are not known. The sandbox costs nothing.
    """
    entry = resolved.resolution.entry
    usage = _taken(resolved, "usage_input").to_numpy(zero_copy_only=False).astype(float)
    if run.backend.is_sandbox:
        dollars = np.where(np.isnan(usage), np.nan, 0.0)
    else:
        asked = run.request.models[first // len(entry)] if len(entry) else run.request.model
        dollars = entry_costs(run, resolved, entry, asked)
    is_free = (entry >= 0) & (entry < resolved.first_paid)
    shared = folder.twins()[:, 0] - first
    is_free[shared[(shared >= 0) & (shared < len(entry))]] = True
    dollars[is_free & ~np.isnan(usage)] = 0.0
    numbers: Any = pd.Float64Dtype()
    import pyarrow as pa

    return numbers.__from_arrow__(pa.array(dollars, mask=np.isnan(dollars)))


def _kept_column(resolved: Resolved, part: str) -> Any:
    taken = _taken(resolved, part)
    if part.startswith("usage_"):
        integers: Any = pd.Int64Dtype()
        return integers.__from_arrow__(taken)
    return frames.text_column(taken)


def _raw_lines(folder: RunFolder, resolved: Resolved) -> list[str | None]:
    """The lines of the result files that the outcomes were read from."""
    entry = resolved.resolution.entry
    raw: list[str | None] = [None] * len(entry)
    first = 0
    for table in resolved.tables:
        mine = np.flatnonzero((entry >= first) & (entry < first + len(table.table)))
        at = entry[mine] - first
        file, offset, length = (table.table[name].to_numpy()[at] for name in _PLACE)
        for number, path in enumerate(table.files):
            here = np.flatnonzero(file == number)
            spans = zip(offset[here].tolist(), length[here].tolist(), strict=True)
            for n, line in zip(mine[here].tolist(), folder.raw_lines(path, spans), strict=True):
                raw[n] = line.decode("utf-8", "replace").rstrip("\n")
        first += len(table.table)
    return raw


def _facts(run: RunRecord, missing: list[str]) -> dict[str, Any]:
    """What the result says of itself, as plain values that any file format can hold."""
    drawn = picture.snapshot(run, run.ended_at or run.created_at)
    usage = drawn.usage
    return {
        "run_id": run.run_id,
        "name": run.name,
        "backend": run.backend.identity,
        "answered_by": "sandbox: answers are made on this machine"
        if run.backend.is_sandbox
        else run.backend.base_url,
        "endpoint": run.request.endpoint,
        "model": run.request.model,
        "models": list(run.request.models),
        "model_served": drawn.model_served,
        "template": run.request.template,
        "params": dict(run.request.params),
        "answers": answer_columns(run.layout),
        "added": added_columns(run.layout, run.request.models),
        "schema": None if run.layout.shape is None else run.layout.shape.schema,
        "parse": None if run.layout.shape is None else run.layout.shape.pattern,
        "job_ids": [job.batch_id for job in run.jobs if job.batch_id],
        "created_at": run.created_at,
        "ended_at": run.ended_at,
        "ending": run.ending.value if run.ending else None,
        "tokens": None
        if usage is None
        else {
            "input": usage.input,
            "cached": usage.cached,
            "output": usage.output,
            "reasoning": usage.reasoning,
        },
        "cost_usd": None if drawn.cost is None or run.backend.is_sandbox else drawn.cost.paid_usd,
        "notes": list(run.notes),
        "columns_lost": missing,
    }
