"""What a comparison looks like: `Findings` in, HTML or text out.

It knows which numbers a reader looks for first and how a table folds on a narrow page, and refuses
to work any of them out. The traps are those of `card`, whose rules hold here: what is not markup
of ours is text, and colours are such as an untrusted file may keep. A table that is wider than its
page scrolls by itself, and can be reached by the keyboard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from batch_magic.card import (
    CELL,
    FRAME,
    MONO,
    NAME_LENGTH,
    PROSE,
    ROW,
    SOFT,
    Html,
    clip,
    list_of,
    tag,
)
from batch_magic.findings import LABELS_SHOWN, Findings, largest
from batch_magic.wording import counted, dollars

ROWS_SHOWN = 10
_CELL_CHARS = 120
_LINE_CHARS = 26  # of a text that is folded, at least
_COLUMNS_SHOWN = 4  # of the frame's own, beside the answers
_DIFF_LINES = 60
_TINT = "rgba(25,118,210,{:.2f})"
_WRONG = "rgba(245,124,0,{:.2f})"

_MEASURES = {
    "kappa": "kappa",
    "mean_difference": "mean diff.",
    "mean_absolute_difference": "mean |diff.|",
    "rmse": "RMSE",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "similarity": "similarity",
    "length_ratio": "length ratio",
    "only_a_right": "only a right",
    "only_b_right": "only b right",
}
_JUDGED = {
    "kappa": "kappa",
    "macro_f1": "macro F1",
    "bias": "bias",
    "mae": "mean |error|",
    "rmse": "RMSE",
    "pearson": "Pearson",
    "spearman": "Spearman",
}


# ── the report ────────────────────────────────────────────────────────────────────────────────


def report_html(found: Findings) -> str:
    """Draw a comparison: a page of it, however many rows there are."""
    parts = [
        _head(found),
        *_summaries(found),
        *_truths(found),
        *_confusions(found),
        *_changes(found),
        *_origins(found),
        *_diffs(found),
        list_of("notes", remarks(found), SOFT),
    ]
    style = f"{FRAME};{PROSE};max-width:980px"
    return tag("section", style, *parts, class_="gptbatch-comparison", lang="en")


def report_text(found: Findings) -> str:
    """Tell the same in plain text, without a trailing line end."""
    lines = [title(found), f"  {rows_words(found)}"]
    for row in _rows_of(found.summary):
        named = f"{_said(row['a'])} / {_said(row['b'])}: " if len(found.pairs) > 1 else ""
        told = " · ".join(f"{name} {value}" for name, value in _figures(row, _MEASURES))
        lines.append(f"  {_said(row['column'])} ({row['kind']}): {named}{_share_words(row)}")
        lines += [f"    {told}"] if told else []
        lines += [f"    {clip(row['reason'], 300)}"] if row["reason"] else []
    for row in _rows_of(found.accuracy):
        told = " · ".join(f"{name} {value}" for name, value in _figures(row, _JUDGED))
        own = _right_words(row["right"], row["answered"], row["accuracy"])
        own += f", {row['no_answer']:,} without an answer" if row["no_answer"] else ""
        if not found.is_judged_alike:
            alike = _right_words(row["shared_right"], row["shared"], row["shared_accuracy"])
            own = f"{alike} of those that all have answered; of its own {own}"
        lines.append(f"  {_said(row['side'])} against {found.truth_name}: {own}")
        lines += [f"    {told}"] if told else []
        lines += [f"    {clip(row['reason'], 300)}"] if row["reason"] else []
    lines += [f"  note: {note}" for note in remarks(found)]
    frames = ".summary .changed .confusion .differences .left_out .runs .prompts .plot()"
    truth = " .accuracy .by_label .truth_confusion" if found.truth_name else ""
    return "\n".join([*lines, f"  take home: {frames}{truth}"])


# ── words ─────────────────────────────────────────────────────────────────────────────────────


def title(found: Findings) -> str:
    """Say what is compared with what."""
    names = [_said(name) for name in found.names]
    told = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    against = f" against {_said(found.truth_name)}" if found.truth_name else ""
    return f"{told}{against}"


def rows_words(found: Findings) -> str:
    """Say how many rows both have, how they were matched, and which are left out."""
    told = f"{counted(found.rows, 'row')}"
    if len(found.sides) > 1:
        told += f" matched by {found.how}"
    parts = [told]
    for i, name in enumerate(found.names):
        if alone := len(found.only_in(i)):
            parts.append(f"{alone:,} only in {_said(name)}")
    for i, name in enumerate(found.names):
        lacking = np.zeros(found.rows, dtype=bool)
        for column in found.columns:
            lacking |= ~column.valid[i]
        if gone := int(lacking.sum()):
            parts.append(f"{gone:,} without a valid answer in {_said(name)}")
    return ", ".join(parts)


def remarks(found: Findings) -> list[str]:
    """What is said once: of the pairing, the labels, the sides."""
    said = list(found.notes)
    for side, note in zip(found.names, found.runs["note"].tolist(), strict=True):
        said += [] if pd.isna(note) else [f"{side}: {note}"]
    return [clip(note, 400) for note in said]


def _share_words(row: dict[str, Any]) -> str:
    told = f"{row['equal']:,} of {counted(row['compared'], 'row')} equal"
    share = f" ({_percent(row['agreement'])})" if row["compared"] else ""
    rest = f", {row['no_answer']:,} not compared" if row["no_answer"] else ""
    return f"{told}{share}{rest}"


def _right_words(right: int, rows: int, share: float | None) -> str:
    told = f"{right:,} of {counted(rows, 'row')} right"
    return told if share is None else f"{told} ({_percent(share)})"


def _figures(row: dict[str, Any], names: dict[str, str]) -> list[tuple[str, str]]:
    return [(word, _number(row[name])) for name, word in names.items() if row[name] is not None]


def _number(value: Any) -> str:
    """A number in three figures; counts as they are."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _percent(share: float) -> str:
    """A share that says 100 % of all, and 0 % of none, alone."""
    told = f"{100 * share:.1f}"
    if told == "100.0" and share < 1:
        told = "99.9"
    elif told == "0.0" and share > 0:
        told = "0.1"
    return f"{told.removesuffix('.0')} %"


def _said(value: Any) -> str:
    return clip(str(value), NAME_LENGTH)


def _rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as plain values, missing ones as None."""
    return [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in frame.astype(object).to_dict("records")
    ]


# ── parts ─────────────────────────────────────────────────────────────────────────────────────


def _head(found: Findings) -> Html:
    name = tag("strong", "font-size:15px;font-weight:600", title(found))
    under = tag("div", f"{SOFT};font-size:12px;margin:2px 0 0", rows_words(found))
    return Html(tag("div", ROW, name) + under)


def _heading(text: str) -> Html:
    return tag("div", "margin:14px 0 4px;font-weight:600", clip(text, 2 * NAME_LENGTH))


def _summaries(found: Findings) -> Iterator[Html]:
    rows = _rows_of(found.summary)
    if not rows:
        return
    used = [name for name in _MEASURES if any(row[name] is not None for row in rows)]
    several = len(found.pairs) > 1
    head = ["column", *(["a", "b"] if several else []), "compared", "equal", "agreement"]
    head += [_MEASURES[name] for name in used]
    body = []
    for row in rows:
        cells: list[str] = [f"{row['column']} ({row['kind']})"]
        cells += [row["a"], row["b"]] if several else []
        cells += [f"{row['compared']:,}", f"{row['equal']:,}"]
        cells += [_bar(row["agreement"])]
        body.append([*cells, *(_number(row[name]) for name in used)])
    yield _heading("side by side")
    yield _table("side by side", head, body, texts=3 if several else 1)
    for row in rows:
        if row["reason"]:
            yield _small(f"{row['column']}: {row['reason']}")
    if "only_a_right" in used and not several:
        yield _small(f"a is {found.names[0]}, b is {found.names[1]}")


def _bar(share: float | None) -> Html:
    """A share in percent over a bar of that length."""
    if share is None:
        return tag("span", "", "–")
    fill = f"width:{100 * share:.1f}%;height:4px;background-color:rgba(25,118,210,0.85)"
    track = "width:70px;height:4px;margin:2px 0 0 auto;background-color:rgba(128,128,128,0.22)"
    return Html(_percent(share) + tag("div", track, tag("div", fill)))


def _truths(found: Findings) -> Iterator[Html]:
    rows = _rows_of(found.accuracy)
    if not rows:
        return
    yield _heading(f"against {found.truth_name} ({rows[0]['column']})")
    used = [name for name in _JUDGED if any(row[name] is not None for row in rows)]
    head = ["side", "judged", "right", "accuracy", "no answer", *(_JUDGED[one] for one in used)]
    body = [
        [
            row["side"],
            f"{row['answered']:,}",
            f"{row['right']:,}",
            _bar(row["accuracy"]),
            f"{row['no_answer']:,}",
            *(_number(row[name]) for name in used),
        ]
        for row in rows
    ]
    if not found.is_judged_alike:
        alike = [
            [row["side"], f"{row['shared_right']:,}", _bar(row["shared_accuracy"])] for row in rows
        ]
        shared = counted(rows[0]["shared"], "row")
        yield _small(f"like for like, over the {shared} that all sides have answered:")
        yield _table("like for like", ["side", "right", "accuracy"], alike)
        yield _small("each over the rows that it has answered itself:")
    yield _table("against the truth", head, body)
    for row in rows:
        if row["reason"]:
            yield _small(f"{row['side']}: {row['reason']}")
    yield from _label_tables(found)


def _label_tables(found: Findings) -> Iterator[Html]:
    """Each label's precision, recall and F1, the sides beside each other."""
    scores = _rows_of(found.by_label)
    if not scores:
        return
    by = {(row["side"], row["label"]): row for row in scores}
    support: dict[Any, int] = {}
    for row in scores:
        support[row["label"]] = max(support.get(row["label"], 0), row["support"])
    labels = sorted(support, key=lambda label: -support[label])
    names = ("precision", "recall", "f1")
    head = ["label", "has", *(f"{name} {side}" for side in found.names for name in names)]
    body = []
    for label in labels[:LABELS_SHOWN]:
        cells = [str(label), f"{support[label]:,}"]
        for side in found.names:
            row = by.get((side, label), {})
            cells += [_number(row.get(name)) for name in names]
        body.append(cells)
    yield _table("by label", head, body)
    yield from _more(len(labels) - LABELS_SHOWN, "label", ".by_label")


def _confusions(found: Findings) -> Iterator[Html]:
    tables = [
        (f"{found.truth_name} in rows, {name} in columns", table)
        for name, table in found.truth_confusion.items()
    ]
    tables += [
        (f"{name}: {table.index.name} in rows, {table.columns.name} in columns", table)
        for name, table in found.confusion.items()
    ]
    if tables:
        yield _heading("which label for which")
    for caption, table in tables[:6]:
        yield _confusion(caption, table)
    yield from _more(len(tables) - 6, "table", ".confusion")


def _confusion(caption: str, table: pd.DataFrame) -> Html:
    """Counts with tints: blue on the diagonal, amber off it, by their share of the row."""
    kept = largest(table)
    labels = kept.index.tolist()
    head = [clip(str(table.index.name), 20), *(str(label) for label in labels)]
    body: list[list[str]] = []
    tints: dict[tuple[int, int], str] = {}
    for n, label in enumerate(labels):
        counts = [int(one) for one in kept.iloc[n]]
        total = max(1, sum(counts))
        body.append([str(label), *(f"{one:,}" for one in counts)])
        for m, one in enumerate(counts):
            tint = _TINT if n == m else _WRONG
            tints[n, m + 1] = f"background-color:{tint.format(0.45 * one / total)}" if one else ""
    more = "".join(_more(len(table) - len(labels), "label", "the frame"))
    return Html(_small(caption) + _table(caption, head, body, tints=tints) + more)


def _changes(found: Findings) -> Iterator[Html]:
    if len(found.sides) < 2:
        return
    changed = found.changed
    if not len(changed):
        yield _small("no valid answer differs")
        return
    answers = len(found.columns) * len(found.sides)
    own = changed.shape[1] - answers
    # The answers first: on a narrow page the rest has to be scrolled to.
    places = [*range(own, changed.shape[1]), *range(min(own, _COLUMNS_SHOWN))]
    shown = changed.iloc[:ROWS_SHOWN, places]
    head = [_label_words(changed.index.names), *(str(label) for label in shown.columns)]
    body = [
        [_cell(label), *(_cell(value) for value in row)]
        for label, row in zip(shown.index.tolist(), shown.itertuples(index=False), strict=True)
    ]
    yield _heading(f"{counted(len(changed), 'row')} with answers that differ")
    yield _table("rows that differ", head, body, texts=len(head))
    yield from _more(len(changed) - ROWS_SHOWN, "row", ".changed")


def _label_words(names: Iterable[Any]) -> str:
    return ", ".join(str(name) for name in names if name is not None) or "index"


def _cell(value: Any) -> str:
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return "–"
    return clip(str(value)[: 4 * _CELL_CHARS], _CELL_CHARS)


def _origins(found: Findings) -> Iterator[Html]:
    rows = _rows_of(found.runs)
    if all(row["run_id"] is None for row in rows):
        return
    head = ["side", "model", "run", "rows", "tokens in", "tokens out", "cost"]
    body = [
        [
            row["side"],
            " · ".join(dict.fromkeys(one for one in (row["model"], row["served"]) if one)) or "–",
            row["run_id"] or "–",
            f"{row['rows']:,}",
            _number(row["input"]),
            _number(row["output"]),
            "not known" if row["cost_usd"] is None else dollars(row["cost_usd"]),
        ]
        for row in rows
    ]
    yield _heading("what they took")
    yield _table("what they took", head, body, texts=3)


def _diffs(found: Findings) -> Iterator[Html]:
    lines = found.prompts.splitlines()
    if not lines:
        return
    yield _heading("how the prompts differ")
    style = "padding:0 6px;white-space:pre-wrap;word-break:break-word;min-height:1.4em"
    tints = {"+": "rgba(56,142,60,0.16)", "-": "rgba(211,47,47,0.14)"}
    made = [
        tag(
            "div",
            f"{style};background-color:{tints[one[0]]}" if one[:1] in tints else style,
            clip_line(one),
        )
        for one in lines[:_DIFF_LINES]
    ]
    yield tag("div", f"{MONO};font-size:12px;line-height:1.4", *made)
    yield from _more(len(lines) - _DIFF_LINES, "line", ".prompts")


def clip_line(line: str) -> str:
    """A line of a prompt, its indentation kept."""
    text = line.rstrip()
    indent = len(text) - len(text.lstrip(" "))
    return " " * indent + clip(text, 500)


def _more(number: int, noun: str, where: str) -> Iterator[Html]:
    if number > 0:
        yield _small(f"and {counted(number, f'more {noun}')}: {where}")


def _small(text: str) -> Html:
    return tag("div", f"{SOFT};font-size:12px;margin:2px 0 0", clip(text, 600))


def _table(
    caption: str,
    head: Sequence[str],
    body: Sequence[Sequence[str]],
    *,
    texts: int = 1,
    tints: dict[tuple[int, int], str] | None = None,
) -> Html:
    """A table whose first `texts` columns are text, the rest numbers; the first heads its row.

    More than three columns of text are folded, none so narrow that it cannot be read: what does
    not fit scrolls.
    """

    def least(place: int) -> str:
        longest = max(len(row[place]) for row in (head, *body))
        return f"{min(longest, _LINE_CHARS) + 3}ch"

    def cell(kind: str, place: int, content: str, tint: str = "") -> Html:
        side = "left" if place < texts else "right"
        folded = f"normal;min-width:{widths[place]};max-width:320px"
        wrap = folded if texts > 3 else "nowrap"
        style = f"{CELL};padding:3px 10px 3px 0;text-align:{side};white-space:{wrap}"
        style += ";vertical-align:top;overflow-wrap:anywhere" if texts > 3 else ""
        style += f";{tint};padding:3px 10px" if tint else ""
        lined = ";border-top:1px solid rgba(128,128,128,0.22)" if kind == "td" else ""
        given = {"scope": "col"} if kind == "th" else {}
        tone = f";{SOFT}" if kind == "th" else ""
        shown = content if isinstance(content, Html) else clip(content, 2 * _CELL_CHARS)
        return tag(kind, style + lined + tone, shown, dir="auto", **given)

    widths = [least(place) for place in range(len(head))] if texts > 3 else [""] * len(head)
    tints = tints or {}
    heads = tag("tr", "", *(cell("th", n, text) for n, text in enumerate(head)))
    rows = [
        tag("tr", "", *(cell("td", m, text, tints.get((n, m), "")) for m, text in enumerate(row)))
        for n, row in enumerate(body)
    ]
    style = "border-collapse:collapse;border:0;font-size:12px;margin:4px 0 0"
    table = tag("table", style, tag("thead", "", heads), tag("tbody", "", *rows))
    # What scrolls must be reached without a mouse.
    return tag(
        "div", "overflow-x:auto;max-width:100%", table, role="group", tabindex=0, aria_label=caption
    )
