"""Why rows have no answer: causes with their cure, their price and an example, as values.

It knows how to put together what the run's files, its frame and its estimate say of each cause,
and refuses to know how that is shown or what anybody does about it. The trap is size: a million
rows may have as many causes, so examples are read for a few of them, and nothing row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from batch_magic import wire
from batch_magic.causes import Cause, cause_key, causes
from batch_magic.costs import estimate, spent_before
from batch_magic.cures import Cure, cure_of
from batch_magic.errors import CellError
from batch_magic.folder import RunFolder
from batch_magic.outcomes import ANSWER, NO_REASON, Exchange, exchanges
from batch_magic.records import PAID, Estimate, Lines, RowStatus, RunRecord, Span
from batch_magic.resending import tell_causes
from batch_magic.tokens import Tally, counter
from batch_magic.wording import counted, printable

EXAMPLES = 60  # causes that are priced and shown by one of their rows
_COLUMNS, _VALUE_CHARS, _TEXT_CHARS, _MESSAGES = 8, 120, 1_000, 8


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a cause: its values, its messages and what came back, each cut where it is long.

    `prompt` has the messages, each a role and a text, as they were sent, with a word for those in
    the middle of many; None where nothing was sent, or where another run sent it. `answer` is None
    where none came. What is cut off is counted at the end of its text.
    """

    position: int
    index: str
    values: tuple[tuple[str, str], ...]
    more_columns: int
    prompt: tuple[tuple[str, str], ...] | None
    answer: str | None


@dataclass(frozen=True, slots=True)
class Case:
    """A cause as a person looks at it. `number` is the one that `errors` has for it, from 1.

    `batch_usd` and `live_usd` are what its `requests` may cost once more in each lane, None where
    that is not known; without requests there is nothing to send.
    """

    number: int
    key: str
    status: RowStatus
    model: str  # "" where the run asks one
    error: str
    rows: int
    share: float  # of all rows of the run
    requests: int
    cure: Cure
    batch_usd: Span | None
    live_usd: Span | None
    example: Example | None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All causes of a run, the commonest first. `rows` are all of the run, `bad` those in cases."""

    run_id: str
    name: str
    rows: int
    bad: int
    cases: tuple[Case, ...]
    is_sandbox: bool
    is_live: bool  # its rows go through the live lane in any case
    is_flex: bool


Kin = Sequence[tuple[RunFolder, RunRecord]]
"""Runs of the home whose answers this one may have taken over, itself among them."""


def diagnose(
    folder: RunFolder,
    run: RunRecord,
    frame: pd.DataFrame,
    kin: Kin,
    number: Callable[[Sequence[Cause]], Sequence[int]],
) -> Diagnosis:
    """Say why rows of a run have no answer. `frame` (n rows) is the run's, as it was at submit.

    What the same prompt took in `kin` is what the prices rest on; `number` gives causes theirs.
    """
    found = causes(folder, run)
    shown = exchanges(folder, run, [cause.position for cause in found[:EXAMPLES]])
    prices = _estimates(folder, run, [cause.key for cause in found[:EXAMPLES]], kin)
    return Diagnosis(
        run_id=run.run_id,
        name=run.name,
        rows=run.rows,
        bad=sum(cause.rows for cause in found),
        cases=tuple(
            _case(run, frame, n, cause, shown.get(cause.position), prices.get(cause.key))
            for n, cause in zip(number(found), found, strict=True)
        ),
        is_sandbox=run.backend.is_sandbox,
        is_live=run.request.live,
        is_flex=run.request.tier == "flex",
    )


def _estimates(
    folder: RunFolder, run: RunRecord, keys: Sequence[str], kin: Kin
) -> dict[str, Estimate]:
    """Say what a retry of each of these causes may take, line by line: lengths differ."""
    tallies: dict[str, dict[str, Tally]] = {}

    def tell(key: str, model: str, lines: Lines) -> None:
        mine = tallies.setdefault(key, {})
        mine.setdefault(model, Tally(run.request.endpoint)).add(lines)

    tell_causes(folder, run, keys, kin, tell)
    spent = spent_before([record for _, record in kin], run.request)
    return {
        key: estimate(
            run, {model: one.result(counter(model)) for model, one in mine.items()}, spent
        )
        for key, mine in tallies.items()
    }


def _case(
    run: RunRecord,
    frame: pd.DataFrame,
    number: int,
    cause: Cause,
    exchange: Exchange | None,
    price: Estimate | None,
) -> Case:
    models, nth = run.request.models, cause.position // max(len(frame), 1)
    return Case(
        number=number,
        key=cause.key,
        status=cause.status,
        model=models[nth] if len(models) > 1 else "",
        error=cause.error.partition(ANSWER)[0],
        rows=cause.rows,
        share=cause.rows / max(run.rows, 1),
        requests=cause.requests,
        cure=cure_of(run, cause.status, cause.error),
        batch_usd=None if price is None else price.batch_usd,
        live_usd=None if price is None else price.usd_of(run.request, live=True),
        example=None if exchange is None else _example(run, frame, cause, exchange),
    )


def _example(run: RunRecord, frame: pd.DataFrame, cause: Cause, exchange: Exchange) -> Example:
    position = cause.position % max(len(frame), 1)
    row = frame.iloc[position]
    names = [str(name) for name in frame.columns[:_COLUMNS]]
    values = [_shortened(value, _VALUE_CHARS) for value in row.tolist()[:_COLUMNS]]
    return Example(
        position=position,
        index=_shortened(frame.index[position], _VALUE_CHARS),
        values=tuple(zip(names, values, strict=True)),
        more_columns=max(0, len(frame.columns) - _COLUMNS),
        prompt=None if exchange.line is None else _prompt(exchange.line),
        answer=_answer(cause, exchange),
    )


def _answer(cause: Cause, exchange: Exchange) -> str | None:
    """Return what was answered, as it was received; the whole response where it has no text."""
    text = exchange.text or cause.error.partition(ANSWER)[2]
    if not text and cause.status in PAID and exchange.raw is not None:
        text = exchange.raw.decode("utf-8", "replace")
    return _beginning(text) if text else None


def _prompt(line: bytes) -> tuple[tuple[str, str], ...]:
    """Return the messages of a request as they were sent: of many the first and the last ones."""
    messages = wire.messages_of(wire.body_of(line))
    told = [(one["role"], _beginning("\n".join(map(_said, one["parts"])))) for one in messages]
    left_out = len(told) - _MESSAGES
    if left_out > 0:
        told[1 : 1 + left_out] = [("and", f"{counted(left_out, 'message')} more")]
    return tuple(told)


def _said(part: wire.PromptPart) -> str:
    return part["said"] if part["kind"] == "text" else f"[image: {part['said']}]"


def _beginning(text: str) -> str:
    """Return a text with its line ends; of a long one the beginning, and how much more there is."""
    more = len(text) - _TEXT_CHARS
    return f"{text[:_TEXT_CHARS]}… {more:,} more characters" if more > 0 else text


def _shortened(value: object, length: int) -> str:
    """Return a value as one line of text; of a long one not even all is looked at."""
    text = " ".join(str(value)[: 4 * length].split())
    return text if len(text) <= length else text[: length - 1] + "…"


# -- as a frame -----------------------------------------------------------------------------

_ROW_CHARS = 200


def errors_frame(
    run: RunRecord, found: Sequence[Cause], frame: pd.DataFrame, numbers: Sequence[int]
) -> pd.DataFrame:
    """Return causes as a frame, one row each; its index `cause` has their numbers."""
    models = run.request.models
    rows = [_error_row(run, cause, frame) for cause in found]
    model = ["model"] if len(models) > 1 else []
    columns = ["status", "rows", *model, "error", "cure", "position", "index", "row"]
    return _Wide(rows, columns=columns, index=pd.Index(np.array(numbers, int), name="cause"))


def _error_row(run: RunRecord, cause: Cause, frame: pd.DataFrame) -> dict[str, Any]:
    nth, position = divmod(cause.position, max(len(frame), 1))
    values = frame.iloc[position].tolist()
    return {
        "status": cause.status.label,
        "rows": cause.rows,
        "model": run.request.models[nth],
        "error": cause.error,
        "cure": cure_of(run, cause.status, cause.error).words,
        "position": position,
        "index": frame.index[position],
        "row": _shortened(" · ".join(_shortened(v, _ROW_CHARS) for v in values), _ROW_CHARS),
    }


class _Wide(pd.DataFrame):
    """A frame that shows its texts whole: pandas cuts them at 50 characters.

    Where a terminal is too narrow for all columns pandas leaves some out, the error among them;
    and it prints what a row holds as it is, colours and bells of a terminal included.
    """

    def __repr__(self) -> str:
        with pd.option_context("display.max_colwidth", None, "display.max_columns", None):
            return printable(super().__repr__())

    def _repr_html_(self) -> Any:
        plain: Any = super()
        with pd.option_context("display.max_colwidth", None):
            return plain._repr_html_()


# -- a result without them ------------------------------------------------------------------


def without(frame: pd.DataFrame, run: RunRecord, keys: Collection[str]) -> pd.DataFrame:
    """Return a result (n rows) without its rows of these causes: order, index, columns as they are.

    A row is known by its own `gpt_status` and `gpt_error`, so that a frame which was sorted, cut or
    given more columns since will do. Of several models, a row goes when one of them has a cause.
    Raises CellError where those columns are gone.
    """
    gone = np.zeros(len(frame), dtype=bool)
    models = run.request.models
    for nth, model in enumerate(models):
        end = f".{model}" if len(models) > 1 else ""
        gone |= _has_cause(frame, nth, f"gpt_status{end}", f"gpt_error{end}", keys)
    left = frame[~gone]
    if "gptbatch" in frame.attrs:
        facts = frame.attrs["gptbatch"]
        dropped = facts.get("rows_dropped", 0) + int(gone.sum())
        left.attrs = {**frame.attrs, "gptbatch": {**facts, "rows_dropped": dropped}}
    return left


def _has_cause(
    frame: pd.DataFrame, nth: int, status: str, error: str, keys: Collection[str]
) -> Any:
    for name in (status, error):
        if list(frame.columns).count(name) != 1:
            raise CellError(
                f"the frame has no column {name!r} any more, which tells its rows' causes;"
                " take the result anew"
            )
    statuses, errors = frame[status].astype(str), frame[error]
    known: dict[tuple[str, str], bool] = {}
    found = []
    for label, said in zip(statuses.tolist(), errors.tolist(), strict=True):
        kind = (label, said if isinstance(said, str) else NO_REASON)
        if kind not in known:
            known[kind] = _key_of(nth, *kind) in keys
        found.append(known[kind])
    return np.array(found, dtype=bool)


def _key_of(nth: int, label: str, said: str) -> str | None:
    status = RowStatus.__members__.get(label.upper())
    return None if status is None else cause_key(nth, status, said)
