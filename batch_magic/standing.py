"""How runs stand side by side: what the project view says of each, and what it offers.

It knows which words, figures and deeds a run has in a row of its own, what a deed means before it
is done, and how rows are filtered and put in order. It refuses to look anything up, to do a deed,
or to know where the rows are drawn. Times are left as instants: whoever draws a row tells its age.

The trap is an offer that is out of date: another kernel may have cancelled or cleaned the run
meanwhile. So an offer is only what a click may ask for; whether it may be done is asked again by
whoever does it.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, TypedDict

from batch_magic.card import (
    NAME_LENGTH,
    Html,
    backend_words,
    clip,
    cost_words,
    done_percent,
    messages,
    moment,
    progress_words,
    short_duration,
    state_words,
    table_html,
)
from batch_magic.guide import QUESTIONABLE
from batch_magic.overview import paid_usd
from batch_magic.progress import took_s
from batch_magic.records import UNANSWERED, Ending, Lease, RowStatus, Snapshot, Stage
from batch_magic.wording import counted, dollars, span_of_dollars

PAGE_ROWS = 50  # of the project view, and of what stays in the saved notebook
TROUBLE_LENGTH = 300


class Deed(Enum):
    """What a person may do to a run in the project view."""

    SUBMIT = "submit"  # give leave to a run that waits for it
    ATTACH = "attach"  # go on with it here, or have its result in the namespace
    EXPLORE = "explore"  # look at its rows
    RETRY = "retry"  # ask again for the rows without an answer
    CANCEL = "cancel"  # rows that have finished are kept
    CLEAN = "clean"  # delete its files on this machine
    CLEAN_REMOTE = "clean remote"  # and at the service


class Where(Enum):
    """Which kernel works at a run."""

    HERE = "here"
    ELSEWHERE = "elsewhere"
    NOWHERE = "nowhere"  # it goes on when it is attached


@dataclass(frozen=True, slots=True)
class Standing:
    """A run as it stands among the others of its home."""

    snapshot: Snapshot
    where: Where = Where.NOWHERE
    lease: Lease | None = None  # of the kernel that works at it, if one does
    is_recorded: bool = True  # the journal has it: it is past its preparation
    is_taken: bool = False  # somebody has had its result
    kept: str | None = None  # why it may not be cleaned away; None: it may


@dataclass(frozen=True, slots=True)
class Offer:
    """A button of a run. With a `question` it is asked about first; else one click is enough."""

    deed: Deed
    label: str
    question: str = ""
    answers: tuple[tuple[str, Deed], ...] = ()


# -- which rows, in which order ---------------------------------------------------------------


class Show(Enum):
    """Which runs are listed; the value is what a person reads."""

    ALL = "all"
    GOING = "going on"
    ENDED = "ended"
    LOOK = "to look at"


class Order(Enum):
    """In which order; runs alike are listed newest first."""

    NEWEST = "newest first"
    OLDEST = "oldest first"
    NAME = "by name"
    ROWS = "most rows first"
    COST = "dearest first"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a reader wants listed; `page` counts from 0."""

    text: str = ""
    show: Show = Show.ALL
    order: Order = Order.NEWEST
    page: int = 0


class Listing(NamedTuple):
    """A page of what is wished for. `page` is the nearest that there is."""

    standings: tuple[Standing, ...]
    matched: int
    page: int
    pages: int


def listed(standings: Sequence[Standing], wish: Wish) -> Listing:
    """Return a page of the runs that are wished for; `standings` come newest first."""
    words = wish.text.casefold().split()
    found = [
        one
        for one in standings
        if _is_shown(one.snapshot, wish.show) and all(word in _said_of(one) for word in words)
    ]
    found = _ordered(found, wish.order)
    pages = max(1, math.ceil(len(found) / PAGE_ROWS))
    page = min(max(0, wish.page), pages - 1)
    begin = page * PAGE_ROWS
    return Listing(tuple(found[begin : begin + PAGE_ROWS]), len(found), page, pages)


def shown_counts(standings: Sequence[Standing]) -> dict[str, int]:
    """Return how many runs each way to show has, by its words."""
    return {show.value: sum(_is_shown(one.snapshot, show) for one in standings) for show in Show}


def _is_shown(s: Snapshot, show: Show) -> bool:
    if show is Show.GOING:
        return s.ending is None
    if show is Show.ENDED:
        return s.ending is not None
    return show is Show.ALL or wants_a_look(s)


def wants_a_look(s: Snapshot) -> bool:
    """Tell whether a run has stopped, waits for leave, is in trouble, or has rows gone wrong."""
    if s.ending is None:
        return s.problem is not None
    odd = any(s.counts.get(status) for status in (*UNANSWERED, *QUESTIONABLE))
    return s.ending is Ending.STOPPED or (odd and s.ending is Ending.FINISHED)


def _said_of(one: Standing) -> str:
    s = one.snapshot
    words = (s.name, s.run_id, state_words(s), s.request.model, backend_words(s.backend))
    return " ".join((*words, s.notebook, s.model_served or "")).casefold()


def _ordered(found: list[Standing], order: Order) -> list[Standing]:
    if order is Order.OLDEST:
        return found[::-1]
    keys: dict[Order, Callable[[Standing], Any]] = {
        Order.NAME: lambda one: one.snapshot.name.casefold(),
        Order.ROWS: lambda one: -one.snapshot.rows,
        Order.COST: lambda one: -(paid_usd(one.snapshot) or 0.0),
    }
    return sorted(found, key=keys[order]) if order in keys else found


# -- what may be done -------------------------------------------------------------------------


def offers(one: Standing, known: Collection[Deed]) -> list[Offer]:
    """Return the buttons of a run, of the deeds that are `known` how to do."""
    s = one.snapshot
    possible = [_submit(s), _attach(one), _explore(one), _retry(s), _cancel(s), _clean(one)]
    return [offer for offer in possible if offer is not None and offer.deed in known]


def allowed(one: Standing, deed: Deed, known: Collection[Deed]) -> bool:
    """Tell whether a deed is among what is offered, be it as an answer to a question."""
    found = offers(one, known)
    answers = {answer for offer in found for _, answer in offer.answers}
    return deed in answers | {offer.deed for offer in found if not offer.question}


def _submit(s: Snapshot) -> Offer | None:
    if s.asks_usd is None:
        return None
    most = (
        "nobody knows what it costs"
        if math.isinf(s.asks_usd)
        else (f"it may cost up to {dollars(s.asks_usd)}")
    )
    if s.backend.is_sandbox:
        most += " (at OpenAI, free here)"
    question = f"Really send {counted(s.rows, 'row')} to {_model(s)}? {most.capitalize()}."
    return Offer(Deed.SUBMIT, "Submit", question, (("Yes, submit", Deed.SUBMIT),))


def _attach(one: Standing) -> Offer | None:
    s = one.snapshot
    if s.asks_usd is not None or not one.is_recorded:
        return None
    if s.ending in (Ending.FINISHED, Ending.CANCELLED):
        return Offer(Deed.ATTACH, "Take result")
    is_ours = s.ending is None and one.where is Where.HERE
    return None if is_ours else Offer(Deed.ATTACH, "Attach")


def _explore(one: Standing) -> Offer | None:
    is_there = one.is_recorded and one.snapshot.asks_usd is None
    return Offer(Deed.EXPLORE, "Explore") if is_there else None


def _retry(s: Snapshot) -> Offer | None:
    left = sum(s.counts.get(status, 0) for status in UNANSWERED)
    if s.ending not in (Ending.FINISHED, Ending.CANCELLED) or not left:
        return None
    question = f"Ask again for {counted(left, 'row')} without an answer? {_price_of(s, left)}"
    return Offer(Deed.RETRY, "Retry", question, (("Yes, ask again", Deed.RETRY),))


def _price_of(s: Snapshot, rows: int) -> str:
    """Say what so many rows may cost once more, by what all were expected to."""
    if s.backend.is_sandbox:
        return "It is free here."
    found = s.estimate
    span = None if found is None else found.usd_of(s.request, live=s.request.live)
    if found is None or span is None or not found.requests:
        return "What it costs is not known."
    share = min(1.0, rows / found.requests)
    high = None if span.high is None else span.high * share
    return f"It may cost {span_of_dollars(span.low * share, high)}."


def _cancel(s: Snapshot) -> Offer | None:
    if s.ending in (Ending.FINISHED, Ending.CANCELLED) or s.cancelling:
        return None
    if s.asks_usd is not None:
        question = "Really drop it? Nothing was sent, and nothing is lost."
        return Offer(Deed.CANCEL, "Drop", question, (("Yes, drop it", Deed.CANCEL),))
    question = "Really cancel it? Rows that finish until then are kept, and billed."
    return Offer(Deed.CANCEL, "Cancel", question, (("Yes, cancel", Deed.CANCEL),))


def _clean(one: Standing) -> Offer | None:
    s = one.snapshot
    if one.kept is not None or s.ending is None or s.asks_usd is not None:
        return None
    question = (
        f"Delete the files of {counted(s.rows, 'row')}? The run leaves this list, and the same rows"
        " would be paid for again."
    )
    if any(job.batch_id for job in s.jobs):
        question += " Deleted here alone, its jobs can be had from the service by %gptbatch recover"
        question += ", for as long as it keeps them."
    answers = [("Delete here", Deed.CLEAN)]
    if s.jobs:
        answers.append(("Delete here and at the service", Deed.CLEAN_REMOTE))
    return Offer(Deed.CLEAN, "Clean", question, tuple(answers))


# -- words ------------------------------------------------------------------------------------


def money_words(s: Snapshot) -> str:
    """Say in a word or two what a run has cost, or may; what is not known is said to be so."""
    if s.backend.is_sandbox:
        return "free"
    if s.cost is None and s.ending in (None, Ending.STOPPED):
        span = None if s.estimate is None else s.estimate.usd_of(s.request, live=s.request.live)
        return "price not known" if span is None else f"est. {span_of_dollars(span.low, span.high)}"
    paid = paid_usd(s)
    so_far = " so far" if s.ending is None else ""
    return "price not known" if paid is None else f"{dollars(paid)}{so_far}"


def where_words(one: Standing) -> str:
    """Say which kernel works at a run; "" of one that has ended."""
    if one.snapshot.is_ended:
        return ""
    if one.where is Where.ELSEWHERE and one.lease is not None:
        return f"runs in {clip(one.lease.notebook, NAME_LENGTH) or f'process {one.lease.pid}'}"
    return "runs in this kernel" if one.where is Where.HERE else "no kernel works at it"


def count_figures(s: Snapshot) -> list[tuple[int, str]]:
    """Return (rows, status) of those worth a figure: what is ok always, the rest if there is any.

    `pending` is what has no outcome yet, whatever the service claims.
    """
    order = [RowStatus.OK, *(status for status in RowStatus if status is not RowStatus.OK)]
    return [
        (s.counts.get(status, 0), status.label)
        for status in order
        if s.counts.get(status, 0) or status is RowStatus.OK
    ]


def shares(s: Snapshot) -> list[tuple[float, str]]:
    """Return the bar from left to right: (percent of the rows, what they are).

    What the service claims to have answered is `claimed`; the rest is still to come.
    """
    if not s.rows:
        return []
    if s.ending is None and s.stage is Stage.PREPARING:
        return [(100 * min(s.prepared, s.rows) / s.rows, "claimed")]
    parts = [(n, label) for n, label in count_figures(s) if n and label != RowStatus.PENDING.label]
    if s.ending is None:
        room = s.counts.get(RowStatus.PENDING, 0)
        ok = min(s.claimed_ok, room)
        failed = min(s.claimed_failed, room - ok)
        parts += [(n, label) for n, label in ((ok, "claimed"), (failed, "failed")) if n]
    return [(round(100 * n / s.rows, 3), label) for n, label in parts]


def mood(s: Snapshot) -> str:
    """Say how a run's state is to be taken: `going`, `good`, `odd`, `bad` or `quiet`."""
    if s.asks_usd is not None:
        return "odd"
    if s.ending is None:
        return "odd" if s.problem else "going"
    if s.ending is Ending.CANCELLED:
        return "quiet"
    if s.ending is Ending.STOPPED:
        return "bad"
    if not wants_a_look(s):
        return "good"
    return "odd" if s.counts.get(RowStatus.OK) else "bad"


def _model(s: Snapshot) -> str:
    return clip(s.request.model, NAME_LENGTH)


# -- a row for the page -----------------------------------------------------------------------


class OfferCell(TypedDict):
    """A button for the page; `answers` are (words, deed)."""

    deed: str
    label: str
    question: str
    answers: list[list[str]]


class Row(TypedDict):
    """A run for the page: texts, never markup. `created_at` is in Unix seconds."""

    run_id: str
    name: str
    state: str
    mood: str
    percent: int
    shares: list[list[float | str]]
    counts: list[list[str]]
    size: str
    progress: str
    money: str
    money_note: str
    origin: list[str]
    created_at: float
    took_s: float | None  # None before its end
    where: str
    notebook: str
    taken: str
    trouble: str
    offers: list[OfferCell]


def row_of(one: Standing, known: Collection[Deed]) -> Row:
    """Return a run as the page draws it."""
    s = one.snapshot
    trouble = [f"{word}: {text}" for word, text in messages(s)]
    return {
        "run_id": s.run_id,
        "name": clip(s.name, NAME_LENGTH),
        "state": state_words(s),
        "mood": mood(s),
        "percent": done_percent(s),
        "shares": [[width, kind] for width, kind in shares(s)],
        "counts": [[f"{n:,}", label] for n, label in count_figures(s)],
        "size": counted(s.rows, "row"),
        "progress": " ".join(progress_words(s)),
        "money": money_words(s),
        "money_note": " ".join(cost_words(s)),
        "origin": [_model(s), backend_words(s.backend)],
        "created_at": s.created_at,
        "took_s": took_s(s) if s.ended_at else None,
        "where": where_words(one),
        "notebook": clip(s.notebook, NAME_LENGTH),
        "taken": _taken_words(one),
        "trouble": clip(trouble[0], TROUBLE_LENGTH).replace("`", "") if trouble else "",
        "offers": [_cell(offer) for offer in offers(one, known)],
    }


def _cell(offer: Offer) -> OfferCell:
    answers = [[words, deed.value] for words, deed in offer.answers]
    return {
        "deed": offer.deed.value,
        "label": offer.label,
        "question": offer.question,
        "answers": answers,
    }


def _taken_words(one: Standing) -> str:
    if one.snapshot.ending not in (Ending.FINISHED, Ending.CANCELLED):
        return ""
    return "result taken" if one.is_taken else "result not taken yet"


# -- a table for a terminal and for the saved notebook ----------------------------------------

BY_HAND = (
    "what may be done: %gptbatch status, explore, clinic, take, retry, cancel, attach or clean"
    " NAME; %gptbatch help tells of each"
)
BEGIN = "%%gptbatch? tells how to begin"

_HEAD = ("run", "state", "rows", "cost", "model", "age", "where")
_CELL_LENGTH = 40


def table_text(standings: Sequence[Standing], now: float, home: str) -> str:
    """Tell the newest runs in lines of plain text, a run each, without a trailing line end."""
    if not standings:
        return f"there are no runs yet in {home}"
    cells = [_HEAD, *(_cells(one, now) for one in standings[:PAGE_ROWS])]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(_HEAD))]
    lines = ["  ".join(map(_padded, row, widths)).rstrip() for row in cells]
    return "\n".join([*lines, *_more(standings, home)])


def project_html(standings: Sequence[Standing], now: float, home: str) -> Html:
    """Tell the same as a table that reads well wherever it is opened, with no widget and no style.

    Instants stand in place of ages: it is read much later.
    """
    rows = [
        (*cells[:5], moment(one.snapshot.created_at, None), cells[6])
        for one in standings[:PAGE_ROWS]
        if (cells := _cells(one, now))
    ]
    foot = [*_more(standings, home), f"as of {moment(now, None)} · `%gptbatch` shows it live"]
    if not standings:
        foot.insert(0, f"there are no runs yet in {home}")
    return table_html("runs of this project", (*_HEAD[:5], "submitted", "where"), rows, foot)


def _cells(one: Standing, now: float) -> tuple[str, ...]:
    s = one.snapshot
    figures = ", ".join(f"{n:,} {label}" for n, label in count_figures(s))
    percent = "" if s.is_ended else f" {done_percent(s)} %"
    place = where_words(one) or clip(s.notebook, NAME_LENGTH)
    return (
        clip(s.name, _CELL_LENGTH),
        clip(state_words(s).partition(", step")[0], _CELL_LENGTH) + percent,
        f"{figures} of {s.rows:,}",
        money_words(s),
        clip(f"{s.request.model} · {backend_words(s.backend)}", _CELL_LENGTH),
        short_duration(now - s.created_at),
        clip(place, _CELL_LENGTH),
    )


def _more(standings: Sequence[Standing], home: str) -> list[str]:
    hidden = len(standings) - PAGE_ROWS
    if hidden <= 0:
        return []
    return [f"and {counted(hidden, 'older run')}: `%gptbatch list` has all of {home}"]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """Columns of a terminal: Korean and Chinese letters take two."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)
