"""What a run looks like: a `Snapshot` in, HTML or text out.

It knows how a frozen picture of a run is put into words, numbers and boxes, once for the page
and once for a terminal. It refuses to know where the picture goes, what time it is, or anything
about a run that is not in the snapshot: nothing is read, kept or counted here.

Whatever is not `Html` is text: it is escaped on its way in, and control characters are taken
out, so an answer, a model's name or a service's message can never become markup or move the
cursor of a terminal.

The trap is the file opened untrusted. JupyterLab then lets a style through only where it can
read the value: `var(--x,rgb(1,2,3))` passes as `color` and `background-color`, but the same with
`#123` is dropped, and so is a border whose colour is a variable, as are `role` and `aria-*`.
GitHub drops all styles. Therefore: `rgb()` fallbacks, borders of plain `rgba()`, text colours
inherited and softened by opacity, and an order of elements that reads well with no style at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, tzinfo
from html import escape
from math import isinf
from typing import NamedTuple
from urllib.parse import urlsplit

from batch_magic import progress
from batch_magic.guide import is_in_vain, next_steps, now_words
from batch_magic.records import (
    OPENAI_URL,
    Backend,
    Ending,
    Estimate,
    Job,
    JobStage,
    Preview,
    Request,
    RowStatus,
    Snapshot,
    Stage,
)
from batch_magic.wording import clip as clip
from batch_magic.wording import counted, dollars, span_of, span_of_dollars
from batch_magic.wording import duration as duration
from batch_magic.wording import short_duration as short_duration

SANDBOX = "sandbox: answers are made on this machine"

JOBS_SHOWN = 8
NOTES_SHOWN = 8
NAME_LENGTH = 120
TEXT_LENGTH = 600
PREVIEW_LENGTH = 160
_MOMENT_S = 60.0

ALWAYS_COUNTED = (RowStatus.OK, RowStatus.FAILED)

ACCENT = "var(--jp-brand-color1,rgb(25,118,210))"
GOOD = "var(--jp-success-color1,rgb(56,142,60))"
WARN = "var(--jp-warn-color1,rgb(245,124,0))"
BAD = "var(--jp-error-color1,rgb(211,47,47))"
QUIET = "rgba(128,128,128,0.6)"
TRACK = "rgba(128,128,128,0.22)"

COLOURS = {
    RowStatus.OK: GOOD,
    RowStatus.TRUNCATED: WARN,
    RowStatus.REFUSED: WARN,
    RowStatus.UNPARSED: WARN,
    RowStatus.FAILED: BAD,
    RowStatus.EXPIRED: BAD,
    RowStatus.CANCELLED: QUIET,
    RowStatus.MISSING: BAD,
    RowStatus.SKIPPED: QUIET,
    RowStatus.PENDING: TRACK,
}

FRAME = (
    "box-sizing:border-box;max-width:860px;padding:14px 16px 12px;margin:2px 0;"
    "border:1px solid rgba(128,128,128,0.32);border-radius:8px"
)
PROSE = (
    "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.5;"
    "font-variant-numeric:tabular-nums;text-align:left;word-wrap:break-word"
)
MONO = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"
CODE = f"{MONO};font-size:12px;padding:1px 4px;border-radius:3px;background-color:{TRACK}"
SOFT = "opacity:0.74"
CLEAR = "background-color:rgba(0,0,0,0)"  # Lab paints every other row of a table
ROW = "display:flex;flex-wrap:wrap;align-items:baseline;gap:2px 14px"
CELL = f"box-sizing:border-box;padding:2px 0;border:0;line-height:1.5;font-weight:400;{CLEAR}"


class Html(str):
    """Markup made in this room. Any other string is text."""

    __slots__ = ()


class Share(NamedTuple):
    """One stretch of the bar: how many rows, painted how."""

    rows: int
    colour: str
    opacity: float = 1.0


# ── the card ──────────────────────────────────────────────────────────────────────────────────


def card_html(s: Snapshot, *, said: str = "", zone: tzinfo | None = UTC) -> str:
    """Draw the whole card: a few kilobytes, however many rows and jobs there are.

    `said` is one more line for the reader. Times are told in `zone`; None is the machine's own.
    """
    inside = (head_html(s), body_html(s), jobs_html(s), foot_html(s, said, stamp(s, zone)))
    return tag("section", f"{FRAME};{PROSE}", *inside, class_="gptbatch-card", lang="en")


def card_text(s: Snapshot, *, said: str = "", zone: tzinfo | None = UTC) -> str:
    """Tell the same in a few lines of plain text, without a trailing line end."""
    lines = [
        f"{clip(s.name, NAME_LENGTH)}: {state_words(s)}",
        f"  {' · '.join(origin(s))}",
        f"  {', '.join(count_words(s))} of {size_words(s)}",
        *(f"  {words}" for words in progress_words(s)),
        *(f"  pace: {' '.join(filter(None, pace))}" for pace in _pace(s)),
        *(f"  {words}" for words in estimate_words(s)),
        f"  {' · '.join(time_words(s))}",
        *(f"  {_job_line(job, s.as_of)}" for job in shown_jobs(s)),
        *(f"  {words}" for words in _more_jobs(s)),
        *(f"  {word}: {text}" for word, text in messages(s)),
        f"  now: {now_words(s)}",
        *(f"  next: {step}" for step in next_steps(s)),
        *(f"  note: {note}" for note in notes(s)),
        *([f"  {clip(said, TEXT_LENGTH)}"] if said else []),
        f"  {way_back(s)} · {stamp(s, zone)}",
    ]
    return "\n".join(lines)


def line(s: Snapshot) -> str:
    """Tell how the run stands in one line."""
    parts = [
        f"{clip(s.name, NAME_LENGTH)}: {state_words(s)}",
        f"{', '.join(count_words(s))} of {size_words(s)}",
        *progress_words(s),
        *time_words(s),
        *(f"{word}: {text}" for word, text in messages(s)),
        *([SANDBOX] if s.backend.is_sandbox else []),
    ]
    return " · ".join(parts)


# ── its parts, apart because a live panel redraws only those that changed ─────────────────────


def head_html(s: Snapshot) -> Html:
    """Name, state, backend, models and the rail: what changes only when the state does."""
    name = tag("strong", f"{MONO};font-size:15px;font-weight:600", clip(s.name, NAME_LENGTH))
    pill = (
        "padding:1px 9px;border-radius:10px;font-weight:600;font-size:12px;"
        f"background-color:{_mood_tint(s)}"
    )
    state = tag("span", pill, f"{_mood_mark(s)} {state_words(s)}", role="status")
    top = tag("div", f"{ROW};justify-content:space-between;align-items:center", name, " ", state)
    sub = tag("div", f"{SOFT};font-size:12px;margin:2px 0 0", " · ".join(origin(s)))
    return Html(top + sub + _rail(s))


def body_html(s: Snapshot) -> Html:
    """The bar, the counts and the times: what changes at every refresh."""
    counts = [_count(status, number) for status, number in _counted(s)]
    total = tag("span", SOFT, f"of {size_words(s)}")
    figures = tag("div", ROW, *_spaced([*counts, total]))
    times = tag("div", SOFT, " · ".join(time_words(s)))
    under = tag("div", f"{ROW};justify-content:space-between", figures, " ", times)
    progress = [tag("div", "", square(ACCENT), words) for words in progress_words(s)]
    pace = [_pace_html(*one) for one in _pace(s)]
    expected = [tag("div", f"{SOFT};font-size:12px", words) for words in estimate_words(s)]
    return Html(_bar(s) + under + "".join([*progress, *pace, *expected]))


def _pace_html(drawn: str, words: str) -> Html:
    """The pace: blocks for the eye, and beside them the same in words."""
    said = f"rows a minute, from its beginning: {words}"
    style = (
        "display:inline-block;max-width:100%;overflow:hidden;vertical-align:bottom;font-size:14px;"
        f"white-space:nowrap;line-height:1.3;margin:0 8px 0 0;color:{ACCENT}"
    )
    shown = [tag("span", style, drawn, role="img", aria_label=said, title=said)] if drawn else []
    return tag("div", "font-size:12px", *_spaced(shown), words)


def jobs_html(s: Snapshot) -> Html:
    """The jobs as a table that folds into two lines a job where the page is narrow."""
    jobs = shown_jobs(s)
    if not jobs:
        return Html("")
    style = "display:block;width:100%;margin:10px 0 0;font-size:12px;border:0"
    block = "display:block;border:0"
    head = tag("thead", block, _job_row(("batch", "status", "rows", "age", "time left"), "th"))
    rows = [_job_row(_job_cells(job, s.as_of), "td") for job in jobs]
    body = tag("tbody", block, *rows, role="rowgroup")
    more = [tag("div", f"{SOFT};font-size:12px;padding:2px 0 0", m) for m in _more_jobs(s)]
    return Html(tag("table", style, head, body, role="table") + "".join(more))


def newest_html(s: Snapshot) -> Html:
    """A few of the newest answers, while others are still to come."""
    if s.ending is not None or not s.newest:
        return Html("")
    head = tag("div", f"{SOFT};font-size:12px;margin:8px 0 0", "newest answers")
    return Html(head + "".join(_preview(one) for one in s.newest))


def _preview(one: Preview) -> Html:
    said = "" if one.status is RowStatus.OK else f"{one.status.label}: "
    where = " · ".join([f"row {one.position:,}", *([clip(one.label, 40)] if one.label else [])])
    place = tag("span", f"{SOFT};margin-right:8px", where)
    return tag("div", "font-size:12px", place, clip(f"{said}{one.text}", PREVIEW_LENGTH))


def foot_html(s: Snapshot, said: str = "", stamped: str = "") -> Html:
    """What went wrong, what is worth knowing, what to do next and how to get the run back."""
    boxes = [message_html(word, text) for word, text in messages(s)]
    now, steps = list_of("now", [now_words(s)]), list_of("next", next_steps(s))
    remarks = list_of("notes", notes(s), SOFT)
    told = [tag("div", "margin:8px 0 0", *coded(clip(said, TEXT_LENGTH)))] if said else []
    ends = [tag("span", "", *coded(way_back(s))), tag("span", "", stamped)]
    small = f"{ROW};justify-content:space-between;margin:8px 0 0;font-size:12px;{SOFT}"
    return Html(
        "".join(boxes) + now + steps + remarks + "".join(told) + tag("div", small, *_spaced(ends))
    )


# ── words ─────────────────────────────────────────────────────────────────────────────────────


def state_words(s: Snapshot) -> str:
    """Say where the run stands, e.g. `in progress, step 4 of 7`."""
    if s.asks_usd is not None:
        return "not submitted yet"
    if s.ending is not None:
        return f"{s.ending.value}, no row ok" if is_in_vain(s) else s.ending.value
    step = f"step {_step(s.stage) + 1} of {len(Stage)}"
    words = f"cancelling, {s.stage.value}" if s.cancelling else s.stage.value
    return f"{words}, {step}" + (f", retry round {s.round}" if s.round else "")


def origin(s: Snapshot) -> list[str]:
    """Say where the answers are made and by which model."""
    where = SANDBOX if s.backend.is_sandbox else f"on {backend_words(s.backend)}"
    words = [where, f"asked {clip(s.request.model, NAME_LENGTH)}", *_lane_words(s)]
    if s.model_served:
        words.append(f"served {clip(s.model_served, NAME_LENGTH)}")
    return words


def _lane_words(s: Snapshot) -> list[str]:
    """Say that rows go through the live lane, or when the rest of them will."""
    if s.ending is not None and not s.request.live:
        return ["finished live"] if any(job.is_live for job in s.jobs) else []
    if s.goes_live_at is None or s.ending is not None:
        return ["live"] if s.request.live else []
    if s.goes_live_at <= s.as_of:
        tier = f", {s.request.tier} tier" if s.request.tier else ""
        return [f"live{tier}"]
    priced = None if s.backend.is_sandbox else s.estimate
    span = None if priced is None else priced.usd_of(s.request, live=True)
    most = f" (all of it: {span_of_dollars(span.low, span.high)})" if span is not None else ""
    return [f"the rest goes live in {duration(s.goes_live_at - s.as_of)}{most}"]


def backend_words(backend: Backend) -> str:
    """Name the backend as typed; of a URL only what holds no secret."""
    if backend.is_sandbox or backend.base_url == OPENAI_URL:
        return backend.name
    parts = urlsplit(backend.base_url)
    return clip(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}", NAME_LENGTH)


def size_words(s: Snapshot) -> str:
    """Say how many rows there are, and of how many models each is asked."""
    models = len(s.request.models)
    times = f" × {models} models" if models > 1 else ""
    return f"{counted(s.rows // models, 'row')}{times}"


def count_words(s: Snapshot) -> list[str]:
    return [f"{number:,} {status.label}" for status, number in _counted(s)]


def progress_words(s: Snapshot) -> list[str]:
    """Say how far the present stage has come, claims as claims."""
    if s.ending is not None:
        return []
    if s.stage is Stage.PREPARING:
        return [f"{s.prepared:,} of {size_words(s)} written"]
    if not (s.claimed_ok or s.claimed_failed):
        return []
    failed = f", {s.claimed_failed:,} failed" if s.claimed_failed else ""
    running = [job for job in s.jobs if job.stage is JobStage.RUNNING]
    is_ours = bool(running) and all(job.is_live for job in running)
    source = "" if is_ours else " (as the service says)"
    return [f"{s.claimed_ok:,} answered so far{failed}{source}"]


def _pace(s: Snapshot) -> list[tuple[str, str]]:
    """Return how fast rows come: a line of blocks and words; nothing before there is a pace."""
    found = progress.rates(s.progress)
    if not found:
        return []
    words = _per_minute(progress.rate_overall(s.progress))
    if s.ending is None:
        lately = progress.rate_lately(s.progress, s.as_of) or 0.0
        silent_s = progress.silent_s(s.progress, s.as_of)
        words = _per_minute(lately) if lately else f"no new row for {_roughly_ago(silent_s)}"
    best = ""
    if len(found) > 1:  # told with its length, which grows with the run: an average of more
        best = (
            f" ({_per_minute(max(found))} in its best {duration(progress.stretch_s(s.progress))})"
        )
    return [(progress.blocks(found) if len(found) > 1 else "", f"{words}{best}")]


def _per_minute(rate: float) -> str:
    if rate >= 10:
        return f"{int(float(f'{rate:.3g}')):,} rows/min"
    return f"{rate:.1f} rows/min" if rate >= 0.1 else f"{rate * 60:.1f} rows/h"


def _roughly_ago(seconds: float) -> str:
    return duration(seconds) if seconds < 60 else short_duration(seconds)


def time_words(s: Snapshot) -> list[str]:
    """Say how long it has taken, how long it may still take, and what it has used."""
    spent = duration(progress.took_s(s))
    if s.asks_usd is not None:
        return [f"prepared in {spent}"]
    if s.ending is not None:
        return [f"took {spent}", *_span_words(s), *_usage_words(s)]
    words = [f"{done_percent(s)} %", f"{spent} so far", *_span_words(s)]
    if s.eta_s is not None:
        basis = f" ({s.eta_basis})" if s.eta_basis else ""
        words.append(f"{_roughly(s.eta_s)} to go{basis}")
    if s.problem and s.wake_at is not None:
        words.append(f"looks again in {duration(s.wake_at - s.as_of)}")
    return words


def _span_words(s: Snapshot) -> list[str]:
    """Say apart how long batches were queued and at work; nothing of what took but a moment."""
    spans = (("queued", s.queue_s), ("at work", s.work_s))
    told = [f"{word} {duration(span)}" for word, span in spans if span is not None]
    return [", ".join(told)] if max(s.queue_s or 0.0, s.work_s or 0.0) >= _MOMENT_S else []


def estimate_words(s: Snapshot) -> list[str]:
    """Say what the run may take, until it is known what it took."""
    if s.estimate is None or not s.estimate.requests or (s.is_ended and s.asks_usd is None):
        return []
    said = expected_words(s.estimate, s.request, is_sandbox=s.backend.is_sandbox)
    return [f"estimate: {said}"]


def expected_words(e: Estimate, request: Request, *, is_sandbox: bool) -> str:
    """Say what requests may take: tokens, what the numbers rest on, and dollars in both lanes.

    The lane that the request takes comes first.
    """
    given = f"{span_of(e.input.low, e.input.high)} tokens in ({e.basis})"
    if e.cached_tokens:
        given += f", up to {span_of(0, e.cached_tokens).partition(' to ')[2]} of them cached"
    made = ""
    if e.output_basis:
        made = f", {span_of(e.output.low, e.output.high)} out ({e.output_basis})"
    said = f"{counted(e.requests, 'request')}, {given}{made}"
    return f"{said}: {_price_words(e, request, is_sandbox)}"


def _price_words(e: Estimate, request: Request, is_sandbox: bool) -> str:
    half = "by flex" if request.tier == "flex" and request.live else "by batch"
    lanes = [(half, e.batch_usd), ("at once", e.at_once_usd)]
    if request.live and half == "by batch":
        lanes.reverse()
    if all(span is None for _, span in lanes):
        return "price not known"
    told = [
        f"{span_of_dollars(span.low, span.high)} {lane}" if span else f"price {lane} not known"
        for lane, span in lanes
    ]
    saves, less = "", e.saving_usd
    if less is not None:
        saves = f"; {half.removeprefix('by ')} saves {span_of_dollars(less.low, less.high)}"
    return f"{'free here, at OpenAI ' if is_sandbox else ''}{', '.join(told)}{saves}"


def messages(s: Snapshot) -> Iterator[tuple[str, str]]:
    """What goes wrong, each with the word that says how bad it is."""
    if s.asks_usd is not None:
        yield "your leave", clip(s.fault or "", TEXT_LENGTH)
    elif s.fault and s.ending is Ending.STOPPED:
        yield "stopped", clip(s.fault, TEXT_LENGTH)
    elif s.fault:
        yield "commonest error", clip(s.fault, TEXT_LENGTH)
    elif s.ending is None:
        if s.problem:
            yield "waiting", clip(s.problem, TEXT_LENGTH)
        if s.complaint:
            yield "commonest error so far", clip(s.complaint, TEXT_LENGTH)


def notes(s: Snapshot) -> list[str]:
    """What is said once; of a long list only the beginning."""
    said = [clip(note, TEXT_LENGTH) for note in s.notes[:NOTES_SHOWN]]
    if len(s.notes) > NOTES_SHOWN:
        said.append(f"and {len(s.notes) - NOTES_SHOWN:,} more notes")
    if s.lenders and s.ending is None:
        runs = ", ".join(clip(run, NAME_LENGTH) for run in s.lenders[:3])
        more = f" and {len(s.lenders) - 3:,} more" if len(s.lenders) > 3 else ""
        said.append(f"waits for answers that run {runs}{more} has asked for already")
    return said


def way_back(s: Snapshot) -> str:
    return f"after a restart: `%gptbatch attach {clip(s.name, NAME_LENGTH)}`"


def _usage_words(s: Snapshot) -> list[str]:
    if s.usage is None:
        return []
    cached = f" ({s.usage.cached:,} cached)" if s.usage.cached else ""
    made = f"{s.usage.input:,} tokens in{cached}, {s.usage.output:,} out"
    return [made, *cost_words(s), *saved_words(s)]


def cost_words(s: Snapshot) -> list[str]:
    """Say what has come in cost, and what it would at once; a price not known is said to be so."""
    if s.cost is None:
        return []
    paid, at_once = s.cost.paid_usd, s.cost.at_once_usd
    if s.backend.is_sandbox:
        return [] if paid is None else [f"free here, {dollars(paid)} at OpenAI"]
    if paid is None:
        return ["price not known"]
    is_half = at_once is not None and at_once > paid
    beside = [f"at once {dollars(at_once or 0.0)}"] if is_half else []
    expected = _expected_usd(s)
    beside += [f"estimated {expected}"] if expected else []
    return [dollars(paid) + (f" ({', '.join(beside)})" if beside else "")]


def _expected_usd(s: Snapshot) -> str:
    """Say what an ended run was expected to cost in its lane."""
    if not s.is_ended or s.estimate is None:
        return ""
    span = s.estimate.usd_of(s.request, live=s.request.live)
    return "" if span is None else span_of_dollars(span.low, span.high)


def finish_words(s: Snapshot) -> str:
    """Ask whether the rest is to go live, with what that may cost."""
    pending = s.counts.get(RowStatus.PENDING, 0)
    left, found = max(0, pending - s.claimed_ok), s.estimate
    price = "flex price" if s.request.tier == "flex" else "full price"
    question = f"Really finish about {counted(left, 'row')} live, at the {price}?"
    span = None if found is None else found.usd_of(s.request, live=True)
    if s.backend.is_sandbox or found is None or span is None or not found.requests:
        return question
    share = min(1.0, left / found.requests)
    high = None if span.high is None else span.high * share
    return f"{question} {span_of_dollars(span.low * share, high)}"


def leave_words(s: Snapshot) -> str:
    """Offer to submit a run, with what it may cost."""
    if s.asks_usd is None or isinf(s.asks_usd):
        return "Submit, whatever it costs"
    return f"Submit, up to {dollars(s.asks_usd)}"


def saved_words(s: Snapshot) -> list[str]:
    """Say what was not paid because rows are alike, or were answered before."""
    saved = [(why, s.saved.get(why, 0.0)) for why in ("duplicates", "reuse")]
    told = [f"{dollars(usd)} by {why}" for why, usd in saved if usd > 0]
    return [f"saved {', '.join(told)}"] if told and not s.backend.is_sandbox else []


# ── numbers and times ─────────────────────────────────────────────────────────────────────────


def stamp(s: Snapshot, zone: tzinfo | None) -> str:
    """Say which run this is and of when the picture: for a reader of the saved file."""
    when = "as of" if s.ended_at is None else "ended"
    return f"run {clip(s.run_id, NAME_LENGTH)} · {when} {moment(s.ended_at or s.as_of, zone)}"


def moment(at: float, zone: tzinfo | None) -> str:
    return f"{datetime.fromtimestamp(at, UTC).astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"


def done_percent(s: Snapshot) -> int:
    """Whole percent of the bar that is filled; 100 only when nothing is left."""
    if s.rows == 0:
        return 100 if s.ending is not None else 0
    most = 99 if s.ending is None and s.counts.get(RowStatus.PENDING) else 100
    return min(most, 100 * _filled(s) // s.rows)


def _roughly(seconds: float) -> str:
    """A guess is not told to the second."""
    if seconds < 60:
        return "less than a minute"
    told = duration(seconds)
    return f"about {told if ' d ' in told else told.partition(' min')[0] + ' min'}"


def _step(stage: Stage) -> int:
    return list(Stage).index(stage)


# ── rows ──────────────────────────────────────────────────────────────────────────────────────


def _counted(s: Snapshot) -> list[tuple[RowStatus, int]]:
    """The statuses worth a figure: `ok` and `failed` always, `pending` until the end."""
    expected = {*ALWAYS_COUNTED, *([] if s.is_ended else [RowStatus.PENDING])}
    pairs = [(status, s.counts.get(status, 0)) for status in RowStatus]
    order = [*ALWAYS_COUNTED, *(status for status in RowStatus if status not in ALWAYS_COUNTED)]
    kept = [pair for pair in pairs if pair[1] or pair[0] in expected]
    return sorted(kept, key=lambda pair: order.index(pair[0]))


def _shares(s: Snapshot) -> list[Share]:
    """The stretches of the bar from left to right; what is left is still to come."""
    if s.ending is None and s.stage is Stage.PREPARING:
        return [Share(min(s.prepared, s.rows), ACCENT)]
    settled = [
        Share(number, COLOURS[status])
        for status, number in _counted(s)
        if number and status is not RowStatus.PENDING
    ]
    return [*settled, *_claims(s)]


def _claims(s: Snapshot) -> list[Share]:
    """The service's claims, never more of them than there are rows without an outcome."""
    if s.ending is not None:
        return []
    room = s.counts.get(RowStatus.PENDING, 0)
    ok = min(s.claimed_ok, room)
    failed = min(s.claimed_failed, room - ok)
    return [Share(ok, ACCENT), Share(failed, BAD, 0.7)]


def _filled(s: Snapshot) -> int:
    return sum(share.rows for share in _shares(s))


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────


def shown_jobs(s: Snapshot) -> list[Job]:
    """The jobs worth a line: those under way first, then those to come, then the collected."""
    late = {JobStage.PLANNED: 1, JobStage.COLLECTED: 2}
    return sorted(s.jobs, key=lambda job: (late.get(job.stage, 0), job.number))[:JOBS_SHOWN]


def _more_jobs(s: Snapshot) -> list[str]:
    hidden = len(s.jobs) - JOBS_SHOWN
    return [f"and {hidden:,} more"] if hidden > 0 else []


def _job_cells(job: Job, now: float) -> tuple[str, ...]:
    """Batch id, status as the service said it, rows, age, time left to expiry."""
    return (
        clip(job.batch_id, NAME_LENGTH) if job.batch_id else _LANE[job.is_live],
        clip(job.remote_status, 40) or job.stage.value,
        f"{job.rows:,}",
        _age(job, now),
        _left(job, now),
    )


_LANE = {False: "no batch id yet", True: "live lane"}


def _age(job: Job, now: float) -> str:
    born = job.remote.created_at if job.remote and job.remote.created_at else job.intended_at
    return short_duration((job.ended_at or now) - born) if born else "–"


def _left(job: Job, now: float) -> str:
    expires = job.remote.expires_at if job.remote else None
    if expires is None or job.stage in (JobStage.ENDED, JobStage.COLLECTED):
        return "–"
    return short_duration(expires - now) if expires > now else "none"


def _job_line(job: Job, now: float) -> str:
    name, status, rows, age, left = _job_cells(job, now)
    return f"{name}  {status}  {rows} rows  age {age}  time left {left}"


def _job_row(cells: tuple[str, ...], kind: str) -> Html:
    role = "columnheader" if kind == "th" else "cell"
    tone = SOFT if kind == "th" else ""
    shapes = (
        f"flex:4 1 150px;text-align:left;{MONO if kind == 'td' else ''}",
        "flex:1 1 70px;text-align:left",
        "flex:0.6 1 44px;text-align:right",
        "flex:0.6 1 46px;text-align:right",
        "flex:0.6 1 54px;text-align:right",
    )
    made = [
        tag(
            kind,
            f"{CELL};{shape};white-space:nowrap;overflow:hidden;text-overflow:ellipsis",
            c,
            role=role,
        )
        for shape, c in zip(shapes, cells, strict=True)
    ]
    lined = "border-top:1px solid rgba(128,128,128,0.22);" if kind == "td" else ""
    style = f"display:flex;flex-wrap:wrap;gap:0 6px;padding:0;{CLEAR};{lined}{tone}"
    return tag("tr", style, *made, role="row")


# ── markup ────────────────────────────────────────────────────────────────────────────────────


def tag(name: str, style: str, *children: str, **attributes: str | int) -> Html:
    """One element. Children that are not `Html` are text; `aria_label` becomes `aria-label`."""
    given = {"style": style, **attributes}
    named = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in given.items()
        if value != ""
    )
    inside = "".join(c if isinstance(c, Html) else _text(c) for c in children)
    return Html(f"<{name}{named}/>" if name == "img" else f"<{name}{named}>{inside}</{name}>")


def _text(text: str) -> str:
    """Text as it is. Lab sets what stands between two dollars of one text as a formula."""
    return escape(text).replace("$", "<span>$</span>")


def _spaced(elements: list[Html]) -> Iterator[str]:
    """The elements with a space between, for readers without styles."""
    for element in elements:
        yield element
        yield " "


def coded(text: str) -> Iterator[str]:
    """Text whose every second stretch between backticks is code."""
    for number, piece in enumerate(text.split("`")):
        yield tag("code", CODE, piece) if number % 2 else piece


def _mood_mark(s: Snapshot) -> str:
    marks = {Ending.FINISHED: "✓", Ending.CANCELLED: "–", Ending.STOPPED: "!"}
    return "!" if is_in_vain(s) else marks[s.ending] if s.ending else "●"


def _mood_tint(s: Snapshot) -> str:
    tints = {
        Ending.FINISHED: "rgba(56,142,60,0.18)",
        Ending.CANCELLED: "rgba(128,128,128,0.2)",
        Ending.STOPPED: "rgba(211,47,47,0.18)",
    }
    if s.asks_usd is not None:
        return "rgba(245,124,0,0.18)"
    mood = Ending.STOPPED if is_in_vain(s) else s.ending
    return tints[mood] if mood else "rgba(25,118,210,0.16)"


def _rail(s: Snapshot) -> Html:
    """The stages in order: passed ones ticked, the present one bold, those to come hollow."""
    is_over = s.is_ended and s.stage is Stage.DONE
    here = len(Stage) if is_over else _step(s.stage)
    steps = [_stage(stage, number - here, s.ending) for number, stage in enumerate(Stage)]
    style = f"{ROW};list-style:none;margin:8px 0 0;padding:0;font-size:12px"
    return tag("ol", style, *steps, aria_label="stages")


def _stage(stage: Stage, ahead: int, ending: Ending | None) -> Html:
    """One stage of the rail, `ahead` of the present one by so many."""
    place = "margin:0;padding:0;white-space:nowrap"
    if ahead < 0:
        mark = _mark("✓", "passed", f"color:{GOOD};font-weight:700")
        return tag("li", place, mark, tag("span", SOFT, f" {stage.value}"))
    if ahead > 0:
        return tag("li", f"{place};opacity:0.66", _mark("○", "to come", ""), f" {stage.value}")
    mark = _mark("●", "now", f"color:{ACCENT}")
    if ending is not None:
        mark = _mark("■", "ended here", f"color:{BAD if ending is Ending.STOPPED else QUIET}")
    text = tag("strong", "font-weight:700", f" {stage.value}")
    return tag("li", place, mark, text, aria_current="step")


def _mark(sign: str, words: str, style: str) -> Html:
    """A sign that is also told in words, to those who point at it and those who hear it."""
    return tag("span", style, sign, role="img", aria_label=words, title=words)


def _bar(s: Snapshot) -> Html:
    """The bar for the eye; its words stand below it and in its label."""
    track = (
        f"display:flex;width:100%;height:8px;margin:10px 0 8px;border-radius:4px;overflow:hidden;"
        f"background-color:{TRACK}"
    )
    stretches = [_stretch(share, s.rows) for share in _shares(s) if share.rows]
    return tag(
        "div",
        track,
        *stretches,
        role="progressbar",
        aria_label=f"rows of {clip(s.name, NAME_LENGTH)}",
        aria_valuemin=0,
        aria_valuemax=100,
        aria_valuenow=done_percent(s),
        aria_valuetext=f"{done_percent(s)} % of {size_words(s)}",
    )


def _stretch(share: Share, rows: int) -> Html:
    width = f"{100 * share.rows / rows:.3f}".rstrip("0").rstrip(".")
    style = f"width:{width}%;min-width:2px;height:8px;background-color:{share.colour}"
    return tag("div", style + (f";opacity:{share.opacity}" if share.opacity < 1 else ""))


def _count(status: RowStatus, number: int) -> Html:
    figure = tag("strong", "font-weight:600", f"{number:,}")
    mark = square(COLOURS[status]) if number else ""
    return tag("span", "white-space:nowrap", mark, figure, tag("span", SOFT, f" {status.label}"))


def square(colour: str) -> Html:
    """A patch of the bar's colour before the words that explain it."""
    shape = "display:inline-block;width:8px;height:8px;margin:0 5px 0 0;border-radius:2px"
    return tag("span", f"{shape};background-color:{colour}")


def message_html(word: str, text: str) -> Html:
    """One thing that went wrong, the word that says how bad it is in front."""
    red, amber = (
        ("rgb(211,47,47)", "rgba(211,47,47,0.1)"),
        ("rgb(230,126,0)", "rgba(245,124,0,0.1)"),
    )
    edge, tint = red if word in ("stopped", "not cancelled") else amber
    style = (
        f"margin:10px 0 0;padding:6px 10px;border-left:3px solid {edge};"
        f"border-radius:3px;background-color:{tint}"
    )
    return tag(
        "div",
        style,
        tag("strong", "font-weight:600", f"{word}: "),
        *coded(clip(text, TEXT_LENGTH)),
    )


def list_of(word: str, entries: list[str], tone: str = "") -> Html:
    """A short list with its word in front; nothing at all when it is empty."""
    if not entries:
        return Html("")
    label = tag("strong", "flex:0 0 38px;font-weight:600", word)
    listed = [tag("li", "margin:0;padding:0", *coded(entry)) for entry in entries]
    style = "flex:1 1 180px;list-style:none;margin:0;padding:0"
    outer = f"display:flex;gap:8px;margin:8px 0 0;font-size:12px;{tone}"
    return tag("div", outer, label, " ", tag("ul", style, *listed))


def table_html(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str | None]],
    notes: Sequence[str],
) -> Html:
    """A table of texts with a line above it and lines below; None is a missing value."""
    style = "border-collapse:collapse;width:100%;margin:8px 0 0;font-size:12px;border:0"
    cell = f"{CELL};padding:3px 12px 3px 0;text-align:left;vertical-align:top"
    top = [tag("th", f"{cell};font-weight:600;{SOFT}", name) for name in head]
    lined = f"{cell};border-top:1px solid rgba(128,128,128,0.22);overflow-wrap:anywhere"
    missing = tag("span", "opacity:0.66", "–")
    made = [
        tag(
            "tr",
            CLEAR,
            *(tag("td", lined, missing if one is None else one, dir="auto") for one in row),
        )
        for row in rows
    ]
    thead = tag("thead", CLEAR, tag("tr", CLEAR, *top))
    table = tag("table", style, thead, tag("tbody", CLEAR, *made))
    wrapped = tag("div", "overflow-x:auto", table)
    below = [tag("div", f"{SOFT};font-size:12px;margin:6px 0 0", *coded(one)) for one in notes]
    title = tag("strong", "font-weight:600", caption)
    inside = (title, wrapped, *below)
    return tag("section", f"{FRAME};{PROSE}", *inside, class_="gptbatch-card", lang="en")
