"""Runs side by side, as frames and in a few words: what there is, and what it has cost.

It knows which columns a person looks for, and refuses to read anything but snapshots. The trap is
a sum over what is not known: a price that nobody knows is null and told of, never nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from batch_magic.records import PAID, Endpoint, Job, JobStage, RowStatus, Snapshot
from batch_magic.wording import counted, dollars


def runs_frame(pictures: Sequence[Snapshot]) -> pd.DataFrame:
    """Return snapshots as a frame: one row a run, times as UTC timestamps."""
    rows = [
        {
            "name": s.name,
            "run_id": s.run_id,
            "state": s.ending.value if s.ending else s.stage.value,
            "rows": s.rows,
            "ok": s.counts.get(RowStatus.OK, 0),
            "pending": s.counts.get(RowStatus.PENDING, 0),
            "jobs": len(s.jobs),
            "backend": s.backend.name,
            "model": s.request.model,
            "created": pd.Timestamp(s.created_at, unit="s", tz="UTC").floor("s"),
        }
        for s in pictures
    ]
    columns = ["name", "run_id", "state", "rows", "ok", "pending", "jobs", "backend", "model"]
    return pd.DataFrame(rows, columns=[*columns, "created"])


_SAVED = ("batch", "duplicates", "reuse")
_COST_COLUMNS = [
    *("name", "day", "model", "rows", "backend", "estimate_low_usd", "estimate_high_usd"),
    *("cost_usd", "at_once_usd", *(f"saved_{why}_usd" for why in _SAVED)),
    *("input", "cached", "output", "run_id"),
]


def cost_frame(pictures: Sequence[Snapshot]) -> pd.DataFrame:
    """Return what runs have cost: one row each; null where it is not known.

    Columns: name, day (by this machine's clock), model, rows, backend; US dollars: estimated before
    it was sent (`estimate_…_usd`), `cost_usd` as paid, `at_once_usd`, what the same answers cost
    through the realtime API, and what was saved by batch, by rows alike and by answers of earlier
    runs (`saved_…_usd`); tokens (`input`, `cached`, `output`); run_id. On the sandbox nothing is
    paid or saved; the estimate and the price at once are OpenAI's.
    """
    rows = [
        {
            "name": s.name,
            "day": _day(s),
            "model": s.request.model,
            "rows": s.rows,
            "backend": s.backend.name,
            **_estimated(s),
            "cost_usd": paid_usd(s),
            "at_once_usd": s.cost.at_once_usd if s.cost else None,
            **{f"saved_{why}_usd": _saved_usd(s, why) for why in _SAVED},
            "input": s.usage.input if s.usage else 0,
            "cached": s.usage.cached if s.usage else 0,
            "output": s.usage.output if s.usage else 0,
            "run_id": s.run_id,
        }
        for s in pictures
    ]
    found = pd.DataFrame(rows, columns=_COST_COLUMNS)
    return found.astype({name: "Float64" for name in found if str(name).endswith("_usd")})


def _day(s: Snapshot) -> str:
    return f"{pd.Timestamp.fromtimestamp(s.created_at):%Y-%m-%d}"


def _estimated(s: Snapshot) -> dict[str, float | None]:
    """Return the dollars that were expected in the lane that a run takes."""
    span = None if s.estimate is None else s.estimate.usd_of(s.request, live=s.request.live)
    low, high = (None, None) if span is None else (span.low, span.high)
    return {"estimate_low_usd": low, "estimate_high_usd": high}


def _saved_usd(s: Snapshot, why: str) -> float | None:
    """Return what was saved; nothing is by what costs nothing."""
    return 0.0 if s.backend.is_sandbox else s.saved.get(why)


def paid_usd(s: Snapshot) -> float | None:
    """Return what was paid as far as is told; None where answers were made and nothing is told."""
    is_free = s.backend.is_sandbox or s.request.endpoint == Endpoint.MODERATIONS
    if s.cost is None and s.ending is None:
        return None
    if is_free or not any(map(_may_be_billed, s.jobs)):
        return 0.0
    has_untold = s.ending is not None and any(_may_be_billed(j) and not j.cost for j in s.jobs)
    return None if s.cost is None or has_untold else s.cost.paid_usd


def _may_be_billed(job: Job) -> bool:
    """Tell whether a service has worked on a job: it may have made answers."""
    made = job.remote is not None and bool(job.remote.completed or job.remote.usage)
    if job.is_live and job.remote is not None:
        return made
    is_there = job.stage in (JobStage.CREATING, JobStage.RUNNING, JobStage.ENDED)
    return is_there or made or bool(_answers(job))


def _answers(job: Job) -> int:
    return sum(job.counts.get(status, 0) for status in PAID)


def _untold(s: Snapshot) -> int:
    """Count the answers of a run that tell of no tokens: what they cost is in no sum."""
    told = [(_answers(job), job.spent.requests if job.spent else 0) for job in s.jobs if job.cost]
    return sum(max(0, answers - known) for answers, known in told)


_DAYS_TOLD = 7


def cost_words(pictures: Sequence[Snapshot]) -> str:
    """Say what runs have cost in sum and by day, and of how many that is not known."""
    paid = [(_day(s), usd) for s in pictures if (usd := paid_usd(s)) is not None]
    going = sum(s.ending is None and s.cost is None for s in pictures)
    unknown = len(pictures) - len(paid) - going
    rest = f"; the price of {counted(unknown, 'more run')} is not known" if unknown else ""
    rest += f"; {counted(going, 'run')} not counted yet" if going else ""
    untold = sum(_untold(s) for s in pictures if not s.backend.is_sandbox)
    rest += f"; {counted(untold, 'answer')} without a count of tokens not in it" if untold else ""
    lines = [f"paid: {dollars(sum(usd for _, usd in paid))} for {counted(len(paid), 'run')}{rest}"]
    days = sorted({day for day, _ in paid}, reverse=True)
    for day in days[:_DAYS_TOLD] if len(days) > 1 else ():
        lines.append(f"  {day}  {dollars(sum(usd for other, usd in paid if other == day))}")
    return "\n".join(lines)
