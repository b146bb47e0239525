"""What the answers of a run took, and what was not paid for them: tokens and US dollars.

It knows how the tokens add up that result files tell of, and by which lane each answer came; it
refuses to know prices, which are told by `costs`, and what may be spent, which is for `caps`. The
traps: a row that stands in the files more than once was paid once, and a job may be billed for
answers that are in no file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch_magic.costs import is_half_price, row_costs, usage_cost
from batch_magic.folder import RunFolder
from batch_magic.outcomes import Resolved
from batch_magic.records import Cost, Job, RunRecord, Spent, Usage

_TOKENS = ("usage_input", "usage_cached", "usage_output", "usage_reasoning")
_BILLED = _TOKENS[:3]


@dataclass(frozen=True, slots=True)
class Taken:
    """What a job's answers took: tokens, dollars, and what later estimates rest on."""

    usage: Usage
    cost: Cost
    spent: Spent


def taken_by(folder: RunFolder, run: RunRecord, job: Job) -> Taken | None:
    """Add up what a job's answers took; None where no tokens are told of.

    A row that stands in the files more than once was answered once. What the job itself says was
    billed beyond that is of answers that are in no file: it is priced as short requests.
    """
    shard = next(one for one in run.shards if one.number == job.shard)
    asked = shard.model or run.request.model
    table = folder.outcomes(f"job-{job.number:05}")
    told = _told(table.table, run, job, asked) if table is not None else _NOTHING_TAKEN
    billed = job.remote.usage if job.remote else None
    lost = (billed or Usage()).beyond(told.usage)
    if not told.spent.requests and not lost.input:
        return None
    is_half = is_half_price(run, job)
    extra = Cost(*(usage_cost(run, asked, lost, is_batch=one) for one in (is_half, False)))
    return Taken(told.usage + lost, told.cost + extra, told.spent)


def _told(table: Any, run: RunRecord, job: Job, asked: str) -> Taken:
    """Add up what the rows of a job's files tell."""
    known = np.flatnonzero(~np.isnan(_numbers(table, "usage_input")))
    _, firsts = np.unique(table["position"].to_numpy()[known], return_index=True)
    if not len(firsts):
        return _NOTHING_TAKEN
    rows = table.select([*_TOKENS, "model"]).take(known[np.sort(firsts)])
    tokens = {name: np.nan_to_num(_numbers(rows, name)) for name in _TOKENS}
    served, counts = rows["model"].to_pylist(), [tokens[name] for name in _BILLED]
    paid, at_once = (
        _known_sum(row_costs(run, served, asked, *counts, is_batch=is_batch))
        for is_batch in (is_half_price(run, job), False)
    )
    usage = Usage(*(int(tokens[name].sum()) for name in _TOKENS))
    squares = float((tokens["usage_output"] ** 2).sum())
    size = round(job.bytes * min(1.0, len(rows) / max(1, job.rows)))
    spent = Spent(len(rows), size, usage.input, usage.output, squares)
    return Taken(usage, Cost(paid, at_once), spent)


_NOTHING_TAKEN = Taken(Usage(), Cost(0.0, 0.0), Spent())


def _numbers(table: Any, name: str) -> NDArray[np.float64]:
    found: NDArray[np.float64] = table[name].to_numpy(zero_copy_only=False).astype(float)
    return found


def entry_costs(
    run: RunRecord, resolved: Resolved, entries: NDArray[np.int64], asked: str
) -> NDArray[np.float64]:
    """Return US dollars of these entries' answers (n values), at the prices of their lanes.

    `asked` is the model that they were asked of. NaN for entry -1, and where it is not known.
    """
    dollars, first = np.full(len(entries), np.nan), 0
    for table, is_full in zip(resolved.tables, resolved.full_price, strict=True):
        size = len(table.table)
        mine = np.flatnonzero((entries >= first) & (entries < first + size))
        if len(mine):
            part = table.table.select([*_BILLED, "model"]).take(entries[mine] - first)
            tokens = [_numbers(part, name) for name in _BILLED]
            served = part["model"].to_pylist()
            dollars[mine] = row_costs(run, served, asked, *tokens, is_batch=not is_full)
        first += size
    return dollars


def savings(folder: RunFolder, run: RunRecord, resolved: Resolved) -> dict[str, float]:
    """Return US dollars that were not paid: by batch, for rows alike, for answers of other runs.

    What is not known is left out. A kept answer counts at the price of a batch.
    """
    entry, paid = resolved.resolution.entry, resolved.resolution.paid
    is_twin = np.zeros(run.rows, dtype=bool)
    is_twin[folder.twins()[:, 0]] = True
    is_kept = paid & ~is_twin & (entry >= 0) & (entry < resolved.first_paid)
    costs = [job.cost for job in run.jobs if job.cost is not None and not job.is_replaced]
    saved = {
        "batch": _by_batch(costs),
        "duplicates": _of_rows(run, resolved, is_twin & paid),
        "reuse": _of_rows(run, resolved, is_kept),
    }
    return {why: dollars for why, dollars in saved.items() if dollars is not None}


def _by_batch(costs: Iterable[Cost]) -> float | None:
    total = sum(costs, Cost(0.0, 0.0))
    if total.at_once_usd is None or total.paid_usd is None:
        return None
    return total.at_once_usd - total.paid_usd


def _of_rows(run: RunRecord, resolved: Resolved, wanted: NDArray[np.bool_]) -> float | None:
    """Add up what the answers of these rows cost, by the model that each was asked of."""
    total, models = 0.0, run.request.models
    rows = run.rows // len(models)
    for nth, model in enumerate(models):
        mine = slice(nth * rows, (nth + 1) * rows)
        entries = resolved.resolution.entry[mine][wanted[mine]]
        total += float(entry_costs(run, resolved, entries, model).sum())
    return None if math.isnan(total) else total


def _known_sum(dollars: NDArray[np.float64]) -> float | None:
    return None if np.isnan(dollars).any() else float(dollars.sum())
