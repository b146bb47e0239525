"""What the failure clinic looks like: a `Diagnosis` in, HTML or text out.

It knows how causes are put into words, numbers and boxes, in the style of `card`, once for the page
and once for a terminal; it refuses to know where that goes or what a button does. The trap is the
same as there: errors, prompts and answers are strangers' texts, so each goes through `card`'s own
markup, and what is longer than a reader looks at is cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType

from batch_magic.card import (
    BAD,
    CODE,
    COLOURS,
    FRAME,
    MONO,
    NAME_LENGTH,
    PROSE,
    ROW,
    SOFT,
    TEXT_LENGTH,
    TRACK,
    Html,
    clip,
    coded,
    count_words,
    progress_words,
    square,
    state_words,
    tag,
)
from batch_magic.diagnosis import Case, Diagnosis, Example
from batch_magic.records import Snapshot, Span
from batch_magic.wording import counted, printable, span_of_dollars

Note = tuple[str, str]
"""What was done about a cause, or could not be: a word, and a text with code in backticks."""
Notes = Mapping[str, Sequence[Note]]  # by the cause's key
NO_NOTES: Notes = MappingProxyType({})

CASES_SHOWN = 12
_NOTE = "margin:8px 0 0;padding:6px 10px;border-radius:3px;background-color:rgba(128,128,128,0.1)"
_SMALL = "font-size:12px"


# ── words ─────────────────────────────────────────────────────────────────────────────────────


def title_words(d: Diagnosis) -> str:
    """Say how many rows there are to look at, and of how many causes."""
    if not d.cases:
        return "every row that was asked for and has come in has a good answer"
    causes = counted(len(d.cases), "cause")
    return f"{d.bad:,} of {counted(d.rows, 'row')} without a good answer, {causes}"


def going_words(s: Snapshot) -> str:
    """Say how a run stands that goes on; nothing of one that has ended."""
    if s.is_ended:
        return ""
    name = clip(s.name, NAME_LENGTH)
    parts = [f"the run goes on: {state_words(s)}", *progress_words(s), ", ".join(count_words(s))]
    where = f"its panel is under the cell that submitted it, or `%gptbatch status {name}`"
    return f"{' · '.join(parts)}; {where}"


def price_words(d: Diagnosis, case: Case) -> str:
    """Say what it takes to send the rows of a cause once more, in each lane."""
    if not case.requests:
        return "a retry has nothing to send now: no request was made for them, or it is under way"
    alike = "" if case.requests == case.rows else f" for {counted(case.rows, 'row')}"
    sends = f"a retry sends {counted(case.requests, 'request')}{alike}"
    lanes = [(_batch_word(d), case.batch_usd), ("live", case.live_usd)]
    return f"{sends}: {_dollars(d, lanes[1:] if d.is_live else lanes)}"


def question(d: Diagnosis, case: Case, *, live: bool) -> str:
    """Ask whether the rows of a cause are to be sent again in a lane, with what that may cost."""
    lane = "live" if live or d.is_live else _batch_word(d)
    usd = case.live_usd if live or d.is_live else case.batch_usd
    rows, name = counted(case.rows, "row"), clip(d.name, NAME_LENGTH)
    price = "Its price is not known." if usd is None else f"Price: {_dollars(d, [('', usd)])}."
    after = f"When they are in, `{name}` is the new result; no answer is replaced by a worse one."
    return f"Really send {rows} again {lane}? {price} {after}"


def drop_question(d: Diagnosis, case: Case) -> str:
    """Ask whether the rows of a cause are to leave the frame."""
    rows, name = counted(case.rows, "row"), clip(d.name, NAME_LENGTH)
    return f"Really drop {rows} from `{name}`? The run keeps them: {_back_words(name)}."


def left_out_words(name: str) -> str:
    """Say that the rows of a cause are not in the frame, and how to have them back."""
    name = clip(name, NAME_LENGTH)
    return f"these rows are not in `{name}`; {_back_words(name)}"


def _back_words(name: str) -> str:
    return f"`%gptbatch take {name}` brings them back"


def _batch_word(d: Diagnosis) -> str:
    return "by flex" if d.is_flex and d.is_live else "by batch"


def _dollars(d: Diagnosis, lanes: Sequence[tuple[str, Span | None]]) -> str:
    if all(usd is None for _, usd in lanes):
        return "price not known"
    told = [
        f"{span_of_dollars(usd.low, usd.high)} {lane}".strip()
        if usd is not None
        else f"price {lane} not known".replace("  ", " ")
        for lane, usd in lanes
    ]
    return f"{'free here, at OpenAI ' if d.is_sandbox else ''}{', '.join(told)}"


def _share(case: Case) -> str:
    percent = 100 * case.share
    return f"{percent:.0f} %" if percent >= 1 else "under 1 %"


def _headline(case: Case) -> str:
    model = f" · {clip(case.model, NAME_LENGTH)}" if case.model else ""
    return f"{case.status.label} · {_share(case)}{model}"


# ── HTML ──────────────────────────────────────────────────────────────────────────────────────


def clinic_html(d: Diagnosis, *, said: str = "", notes: Notes = NO_NOTES) -> str:
    """Draw the whole clinic as it stands, without buttons: what stays in a saved notebook."""
    shown = d.cases[:CASES_SHOWN]
    cases = [one for c in shown for one in (case_html(d, c), notes_html(notes.get(c.key, ())))]
    inside = (title_html(d), *cases, more_html(d, CASES_SHOWN), foot_html(d, said))
    return tag("section", f"{FRAME};{PROSE}", *inside, class_="gptbatch-clinic-card", lang="en")


def title_html(d: Diagnosis) -> Html:
    """Draw the name of the run and how many rows there are to look at."""
    name = tag("strong", f"{MONO};font-size:15px;font-weight:600", clip(d.name, NAME_LENGTH))
    return tag("div", f"{ROW};align-items:center", name, " ", title_words(d))


def going_html(s: Snapshot) -> Html:
    """Draw how the run stands while it goes on."""
    words = going_words(s)
    if not words:
        return Html("")
    style = (
        "margin:10px 0 0;padding:6px 10px;border-left:3px solid rgb(25,118,210);"
        "border-radius:3px;background-color:rgba(25,118,210,0.1)"
    )
    return tag("div", style, *coded(words), role="status")


def case_html(d: Diagnosis, case: Case) -> Html:
    """Draw a cause: how many rows, the error in full, its cure, its price, an example."""
    mark = square(COLOURS[case.status])
    count = tag("strong", "font-weight:600", f"{case.number}. {counted(case.rows, 'row')}")
    head = tag("div", ROW, tag("span", "", mark, count), " ", tag("span", SOFT, _headline(case)))
    error = tag(
        "div",
        f"{MONO};{_SMALL};margin:4px 0;overflow-wrap:anywhere",
        clip(case.error, TEXT_LENGTH),
        dir="auto",
    )
    cure = tag("div", "", tag("strong", "font-weight:600", "cure: "), *coded(case.cure.words))
    price = tag("div", SOFT, price_words(d, case) + _in_vain(case))
    parts = (head, _bar(case), error, cure, price, _example_html(case.example))
    line = "margin:10px 0 0;padding:10px 0 0;border-top:1px solid rgba(128,128,128,0.32)"
    return tag("div", line, *parts)


def question_html(words: str) -> Html:
    """Draw a question above its two answers."""
    return tag("div", f"{_NOTE};border-left:3px solid {BAD}", *coded(words), role="status")


def notes_html(notes: Sequence[Note]) -> Html:
    """Draw what was done about a cause, a line each."""
    if not notes:
        return Html("")
    lines = [(tag("strong", "font-weight:600", f"{word}: "), text) for word, text in notes]
    told = [tag("div", "", head, *coded(clip(text, TEXT_LENGTH))) for head, text in lines]
    return tag("div", _NOTE, *told, role="status")


def more_html(d: Diagnosis, shown: int) -> Html:
    """Say how many causes are not drawn."""
    words = _more_words(d, shown)
    return tag("div", f"{SOFT};margin:10px 0 0", *coded(words)) if words else Html("")


def foot_html(d: Diagnosis, said: str) -> Html:
    """Draw the latest word to the reader."""
    if not said:
        return Html("")
    return tag("div", "margin:10px 0 0", *coded(clip(said, TEXT_LENGTH)), role="status")


def _in_vain(case: Case) -> str:
    if case.cure.may_pass or not case.requests:
        return ""
    return "; it would be the same request, and most likely the same end"


def _more_words(d: Diagnosis, shown: int) -> str:
    rest = d.cases[shown:]
    if not rest:
        return ""
    rows = counted(sum(case.rows for case in rest), "row")
    name = clip(d.name, NAME_LENGTH)
    return f"and {counted(len(rest), 'cause')} more, {rows}: `%gptbatch errors {name}` has them all"


def _bar(case: Case) -> Html:
    """The share of the run's rows for the eye; its words stand above it."""
    width = max(0.4, 100 * case.share)
    inner = f"width:{width:.1f}%;height:4px;background-color:{COLOURS[case.status]}"
    track = f"width:100%;height:4px;margin:4px 0;border-radius:2px;background-color:{TRACK}"
    return tag("div", track, tag("div", inner), aria_hidden="true")


def _example_html(example: Example | None) -> Html:
    if example is None:
        return Html("")
    summary = tag("summary", f"cursor:pointer;{_SMALL}", f"an example: {_place(example)}")
    rows = [_pair_html(name, text) for name, text in _pairs(example)]
    return tag("details", "margin:4px 0 0", summary, tag("div", f"{_SMALL};margin:2px 0 0", *rows))


def _pair_html(name: str, text: str) -> Html:
    """A name and its text, side by side where there is room. (Lab floats the items of a `dl`.)"""
    term = tag("span", f"{SOFT};flex:0 0 120px;overflow-wrap:anywhere", name)
    shown = tag("span", f"{CODE};line-height:1.7;white-space:pre-wrap", text, dir="auto")
    value = tag("span", "flex:1 1 220px;min-width:0;overflow-wrap:anywhere", shown)
    return tag("div", "display:flex;flex-wrap:wrap;gap:0 10px;margin:4px 0 0", term, " ", value)


def _place(example: Example) -> str:
    return f"row {example.position:,}, index {clip(example.index, 40)}"


def _pairs(example: Example) -> Iterator[tuple[str, str]]:
    """What is told of an example: its values, then what was sent and what came back."""
    for name, value in example.values:
        yield clip(name, 60), clip(value, TEXT_LENGTH)
    if example.more_columns:
        yield "and", counted(example.more_columns, "column") + " more"
    for role, text in example.prompt or ():
        yield f"{clip(role, 40)}, as sent", printable(text)
    if example.answer is not None:
        yield "answer as received", printable(example.answer)


# ── text ──────────────────────────────────────────────────────────────────────────────────────


def clinic_text(d: Diagnosis, *, said: str = "", notes: Notes = NO_NOTES) -> str:
    """Tell the same in plain lines, with what to type in place of each button."""
    cases = chain.from_iterable(
        _case_lines(d, case, notes.get(case.key, ())) for case in d.cases[:CASES_SHOWN]
    )
    more = _more_words(d, CASES_SHOWN)
    lines = [f"{clip(d.name, NAME_LENGTH)}: {title_words(d)}", *cases]
    lines += [f"  {more}"] if more else []
    return "\n".join([*lines, *([f"  {clip(said, TEXT_LENGTH)}"] if said else [])])


def _case_lines(d: Diagnosis, case: Case, notes: Sequence[Note]) -> Iterator[str]:
    name, pad = clip(d.name, NAME_LENGTH), " " * 5
    yield f"{case.number:3}  {counted(case.rows, 'row')}: {_headline(case)}"
    yield f"{pad}{clip(case.error, TEXT_LENGTH)}"
    yield f"{pad}cure: {case.cure.words}"
    yield f"{pad}{price_words(d, case)}{_in_vain(case)}"
    if case.requests:
        yield f"{pad}again: %gptbatch retry {name} --cause {case.number} [--live]"
    yield f"{pad}leave them out: %gptbatch take {name} --drop {case.number}"
    if case.example is not None:
        told = "; ".join(f"{key}: {_in_line(text)}" for key, text in _pairs(case.example))
        yield f"{pad}{_place(case.example)}: {told}"
    for word, text in notes:
        yield f"{pad}{word}: {clip(text, TEXT_LENGTH)}"


def _in_line(text: str) -> str:
    """The beginning of a text in one line, its own line ends to be seen."""
    return clip(text.strip().replace("\n", " ⏎ "), 160)
