"""What a run's files tell of its answers: tokens of each, and when they were made.

It knows where outcomes and raw lines hold such numbers, and refuses to draw them. The trap is to
count an answer once a row: rows alike share one, and answers that were taken over from earlier
runs tell nothing of when this one was at work.
"""

from __future__ import annotations

import contextlib

import numpy as np
from numpy.typing import NDArray

from batch_magic import result_lines
from batch_magic.errors import JournalError
from batch_magic.folder import RunFolder
from batch_magic.outcomes import Resolved, resolve_run
from batch_magic.plots import Measured
from batch_magic.records import RunRecord

_LOOKED_AT = 20_000


def measured(folder: RunFolder, run: RunRecord) -> Measured:
    """Read a run's outcomes, and of at most 20,000 answers, evenly spread, when they were made.

    Raises JournalError when the outcomes cannot be read.
    """
    resolved, models = resolve_run(folder, run), run.request.models
    rows = run.rows // len(models)
    entries = {
        model: np.unique(resolved.resolution.entry[nth * rows : (nth + 1) * rows])
        for nth, model in enumerate(models)
    }
    return Measured(
        tokens_in=_tokens(resolved, entries, "usage_input"),
        tokens_out=_tokens(resolved, entries, "usage_output"),
        answered_s=_answered_s(folder, run, resolved),
    )


def _tokens(
    resolved: Resolved, entries: dict[str, NDArray[np.int64]], name: str
) -> dict[str, NDArray[np.float64]]:
    parts = [
        one.table[name].to_numpy(zero_copy_only=False).astype(np.float64) for one in resolved.tables
    ]
    every = np.concatenate([np.empty(0), *parts])
    found = {model: every[mine[mine >= 0]] for model, mine in entries.items()}
    return {model: values[~np.isnan(values)] for model, values in found.items()}


def _answered_s(folder: RunFolder, run: RunRecord, resolved: Resolved) -> NDArray[np.float64]:
    asked = np.unique(resolved.resolution.entry)
    asked = asked[asked >= resolved.first_paid]
    if len(asked) > _LOOKED_AT:
        asked = asked[np.linspace(0, len(asked) - 1, _LOOKED_AT).astype(np.int64)]
    found: list[float] = []
    with contextlib.suppress(JournalError):  # the raw files are gone: nothing tells
        for line in _lines(folder, resolved, asked):
            at = result_lines.made_at(line)
            found += [] if at is None else [at]
    # The service tells whole seconds: an answer of the first one is none before the submit.
    since = np.array(found, dtype=np.float64) - int(run.created_at)
    return np.sort(since[since >= 0])


def _lines(folder: RunFolder, resolved: Resolved, entries: NDArray[np.int64]) -> list[bytes]:
    lines: list[bytes] = []
    first = 0
    for one in resolved.tables:
        size = len(one.table)
        mine = entries[(entries >= first) & (entries < first + size)] - first
        place = {name: one.table[name].to_numpy()[mine] for name in ("file", "offset", "length")}
        for number, path in enumerate(one.files):
            here = place["file"] == number
            spans = zip(place["offset"][here].tolist(), place["length"][here].tolist(), strict=True)
            lines += folder.raw_lines(path, spans)
        first += size
    return lines
