"""What can be compared: results of runs, and any frame, as sides of a comparison.

It knows which columns of a result are answers, by what the result says of itself, and what each
model of a run took; it refuses to compare. The trap is a frame that has been changed since: it
keeps saying of which run it is, so its rows are told by their content, and a column that is no
longer there is no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from batch_magic import frame as frames
from batch_magic import overview, picture
from batch_magic.errors import CellError
from batch_magic.pairing import Answer, Origin, Side, word_of
from batch_magic.records import PAID, Cost, RowStatus, RunRecord, Usage
from batch_magic.wording import counted


def of_frame(frame: pd.DataFrame, name: str = "") -> Side:
    """Return a frame as a side: its answers are those that it says it has; else none.

    The frame is held as it is now: later edits do not reach the side.
    """
    facts = _facts(frame)
    held = frames.hold(frame)
    return Side(
        name or str(facts.get("name", "")),
        held,
        _answers(held, facts),
        _origin(facts),
        added=frozenset(frames.label_of(held, str(one)) for one in facts.get("added", ())),
    )


def of_run(run: RunRecord, frame: pd.DataFrame) -> Side:
    """Return a run as a side; `frame` is its result, so far as there is one."""
    side = of_frame(frame, run.name)
    statuses = frame["gpt_status"] if "gpt_status" in frame.columns else pd.Series(dtype=object)
    pending = int((statuses == RowStatus.PENDING.label).sum())
    note = f"{counted(pending, 'row')} still to come" if pending else ""
    drawn = picture.snapshot(run, run.ended_at or run.created_at)
    paid = overview.cost_frame([drawn])["cost_usd"].iloc[0]  # null where part of it is not told
    cost_usd = None if pd.isna(paid) else float(paid)
    origin = replace(side.origin, note=note, cost_usd=cost_usd)
    return replace(side, origin=origin, fingerprint=run.fingerprint)


def models_of(side: Side) -> tuple[str, ...]:
    """Return the models that each row of a side was asked of, as far as it says so."""
    return tuple(map(str, _facts(side.frame).get("models", ())))


def by_model(side: Side, wanted: Sequence[str] = (), run: RunRecord | None = None) -> list[Side]:
    """Return a side for each model of a run that asked several, or for those that are wanted.

    With the run's record each tells its own tokens and cost. Raises CellError for another model.
    """
    known = models_of(side)
    for model in wanted:
        if model not in known:
            raise CellError(
                f"{side.name} asked {', '.join(known)}, not {model!r}; name one of them"
            )
    bases = _facts(side.frame).get("answers", ())
    return [
        Side(
            model,
            side.frame,
            _columns(
                side.frame, {base: (f"{base}.{model}", f"gpt_status.{model}") for base in bases}
            ),
            _of_model(side.origin, model, run),
            side.fingerprint,
            side.added,
        )
        for model in wanted or known
    ]


def by_column(side: Side, names: Sequence[str]) -> list[Side]:
    """Return a side for each of several columns of one frame."""
    return [replace(side, name=name) for name in names]


def told_apart(sides: Sequence[Side]) -> list[Side]:
    """Give sides names that differ: by their run, else by their place."""
    names = [side.name for side in sides]
    found = []
    for n, side in enumerate(sides):
        letter = "ab"[n] if n < 2 else str(n + 1)
        name = side.name or letter
        if names.count(side.name) > 1 and side.name:
            runs = {one.origin.run_id for one in sides if one.name == side.name}
            tail = side.origin.run_id[-6:] if len(runs) == names.count(side.name) else letter
            name = f"{side.name}#{tail or letter}"
        found.append(replace(side, name=name))
    return found


Contender = tuple[Side, Callable[[Sequence[str]], list[Side]]]
"""A side, and what makes sides of the models that it asked."""


def contenders(
    known: Sequence[Contender], columns: Sequence[str], models: Sequence[str], truth: str
) -> list[Side]:
    """Return the sides that are compared. Raises CellError when there is nothing to compare."""
    first, split = known[0]
    if len(known) > 1:
        if models:
            raise CellError("models= (--models) are those of one run; leave out the other")
        return told_apart([side for side, _ in known])
    if len(models_of(first)) > 1 and (models or len(columns) < 2):
        return told_apart(split(models))
    if len(columns) > 1:
        return by_column(first, columns)
    if not truth:
        raise CellError(
            f"{first.name or 'the frame'} alone is nothing to compare; name a second run or frame,"
            " a column with what is right (truth=, --truth), or two columns (column=, --column x,y)"
        )
    return told_apart([first])


def _facts(frame: pd.DataFrame) -> Mapping[str, Any]:
    facts = frame.attrs.get("gptbatch")
    return facts if isinstance(facts, Mapping) else {}


def _answers(frame: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, Answer]:
    bases, models = facts.get("answers", ()), facts.get("models", ())
    if len(models) < 2:
        return _columns(frame, {base: (base, "gpt_status") for base in bases})
    return _columns(
        frame,
        {
            f"{base}.{model}": (f"{base}.{model}", f"gpt_status.{model}")
            for base in bases
            for model in models
        },
    )


def _columns(frame: pd.DataFrame, wanted: Mapping[str, tuple[str, str]]) -> dict[str, Answer]:
    """Return where answers and their statuses stand; those that are there."""
    labels: dict[str, Hashable] = {word_of(label): label for label in frame.columns}
    return {
        name: Answer(labels[column], labels.get(status))
        for name, (column, status) in wanted.items()
        if column in labels
    }


def _origin(facts: Mapping[str, Any]) -> Origin:
    tokens = facts.get("tokens")
    return Origin(
        run_id=str(facts.get("run_id", "")),
        model=str(facts.get("model", "")),
        served=str(facts.get("model_served") or ""),
        template=facts.get("template"),
        params=facts.get("params") or {},
        is_sandbox=str(facts.get("backend", "")) == "sandbox",
        tokens=None if tokens is None else {name: int(tokens[name]) for name in _TOLD},
        cost_usd=facts.get("cost_usd"),
    )


_TOLD = ("input", "cached", "output")


def _of_model(origin: Origin, model: str, run: RunRecord | None) -> Origin:
    """Return what one model of a run took; without the record that is not known."""
    alone = replace(origin, model=model, served="", tokens=None, cost_usd=None)
    if run is None:
        return alone
    shards = {shard.number for shard in run.shards if shard.model == model}
    jobs = [job for job in run.jobs if job.shard in shards and not job.is_replaced]
    usage = sum((job.usage for job in jobs if job.usage), Usage())
    cost = sum((job.cost for job in jobs if job.cost), Cost(0.0, 0.0))
    untold = any(job.counts.get(status) and not job.cost for job in jobs for status in PAID)
    served = next((job.model for job in jobs if job.model), "")
    tokens = {name: getattr(usage, name) for name in _TOLD} if any(j.usage for j in jobs) else None
    return replace(
        alone, served=served or "", tokens=tokens, cost_usd=None if untold else cost.paid_usd
    )
