"""Pictures of runs, costs and comparisons, with matplotlib.

It knows how numbers become axes, and refuses to work any number out or to touch pyplot: a figure
is a value, shown where a cell returns it, and nobody's current figure. Colours are explicit, dark
on white, so that a figure reads the same in a light and in a dark notebook and in a paper. The
traps: matplotlib sets what stands between two dollars as a formula, and a script that its font
lacks as boxes with a warning for each; so texts are escaped, and fonts of this machine that have
the letters stand behind the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batch_magic.card import clip, duration, state_words
from batch_magic.coding import Kind
from batch_magic.errors import CellError
from batch_magic.findings import Compared, Findings, largest
from batch_magic.records import JobStage, RowStatus, Snapshot
from batch_magic.wording import counted, dollars

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _PAPER, _FAINT = "#1f2328", "#ffffff", "#d0d7de"
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#1976d2", "#d9730d", "#388e3c", "#c62828", "#8c959f"
_SERIES = (_BLUE, _ORANGE, "#2a9d8f", "#8e44ad", "#b5651d", "#5d6d7e", "#c2185b", "#7a8b00")
_STATUS = {
    RowStatus.OK: _GREEN,
    RowStatus.TRUNCATED: _ORANGE,
    RowStatus.REFUSED: _ORANGE,
    RowStatus.UNPARSED: _ORANGE,
    RowStatus.SKIPPED: _GREY,
    RowStatus.CANCELLED: _GREY,
    RowStatus.PENDING: _FAINT,
}
_STYLE = {
    "figure.facecolor": _PAPER,
    "savefig.facecolor": _PAPER,
    "axes.facecolor": _PAPER,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "text.color": _INK,
    "text.usetex": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "font.size": 9,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}
_LANES = {False: _BLUE, True: _ORANGE}
_LANE_WORDS = {False: "work (blue)", True: "live (orange)"}
_DPI = 110
_JOBS = 12
_BINS = 40
_SHORTEST_S = 10.0
_MODELS = 6
_PANELS = 9
_POINTS = 2_000
_NAME = 24


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run's files tell of its answers.

    `tokens_in` and `tokens_out`: by model that was asked, one number for each answer (rows alike
    share one). `answered_s`: when answers were made, in whole seconds since the run was submitted,
    by the service's own clock; of many, of some evenly spread.
    """

    tokens_in: dict[str, NDArray[np.float64]]
    tokens_out: dict[str, NDArray[np.float64]]
    answered_s: NDArray[np.float64]


# -- of a run -------------------------------------------------------------------------------


def run_figure(s: Snapshot, measured: Measured) -> Figure:
    """Draw a run: outcomes by status, tokens of answers, how long jobs and answers took."""
    with _drawing():
        figure = _figure(f"{s.name}: {state_words(s)}", 10.5, 6.6)
        axes = figure.subplots(2, 2)
        _outcomes(axes[0, 0], s)
        _times(axes[0, 1], s, measured)
        _tokens(axes[1, 0], "tokens in, of each request", measured.tokens_in)
        _tokens(axes[1, 1], "tokens out, of each answer", measured.tokens_out)
    return figure


def _outcomes(axes: Axes, s: Snapshot) -> None:
    found = [(status, n) for status in RowStatus if (n := s.counts.get(status, 0))]
    axes.set_title(f"outcomes of {counted(s.rows, 'row')}")
    if not found:
        _nothing(axes, "no rows")
        return
    names = [status.label for status, _ in found]
    bars = axes.barh(
        names, [n for _, n in found], color=[_STATUS.get(status, _RED) for status, _ in found]
    )
    axes.bar_label(bars, [f"{n:,}" for _, n in found], padding=4)
    axes.set_ylim(max(len(found), 4) - 0.5, -0.5)  # a single bar is no wall
    axes.margins(x=0.16)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def _times(axes: Axes, s: Snapshot, measured: Measured) -> None:
    """Draw each job's time in the queue and at work, and over them when rows were answered."""
    jobs = [job for job in s.jobs if job.intended_at is not None]
    unit, word = _unit(_longest(s, measured))
    axes.set_title("time since submit: queue and work of jobs")
    axes.set_xlabel(word)
    if not jobs:
        _nothing(axes, "no job yet")
        return
    names = []
    for n, job in enumerate(jobs[:_JOBS]):
        asked = (job.intended_at or s.created_at) - s.created_at
        ended = (job.ended_at or s.as_of) - s.created_at
        began = ended if job.began_at is None else job.began_at - s.created_at
        colour, alpha = _LANES[job.is_live], 1.0 if job.stage is JobStage.COLLECTED else 0.5
        axes.barh(n, (began - asked) / unit, left=asked / unit, color=_FAINT, height=0.6)
        work = (ended - began) / unit
        axes.barh(n, work, left=began / unit, color=colour, height=0.6, alpha=alpha)
        name = f"{'live' if job.is_live else 'job'} {job.number + 1}"
        told = f"\n{duration(began - asked)} + {duration(ended - began)}"
        names.append(name + (told if len(jobs) <= _JOBS // 2 else ""))
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(max(len(names), 3) - 0.4, -0.6)
    axes.set_xlim(left=0)
    lanes = {job.is_live for job in jobs[:_JOBS]}
    work_of = ", ".join(word for lane, word in _LANE_WORDS.items() if lane in lanes)
    of = f"the first {_JOBS} of {len(jobs):,} jobs" if len(jobs) > _JOBS else "jobs"
    axes.set_title(f"time since submit: queue (grey), {work_of} of {of}")
    _answered(axes, measured, unit)


def _answered(axes: Axes, measured: Measured, unit: float) -> None:
    """Draw the share of answers that were made by then, over the jobs."""
    answered = measured.answered_s[measured.answered_s >= 0]
    if len(answered) < 2 or answered.max() < _SHORTEST_S:
        return  # told in whole seconds, they would be a wall
    times = np.sort(answered) / unit
    over = axes.twinx()
    over.spines["top"].set_visible(False)
    over.spines["right"].set_visible(True)
    over.step(times, np.arange(1, len(times) + 1) / len(times), color=_GREEN, where="post")
    over.set_ylim(0, 1.05)
    over.set_yticks([0, 0.5, 1], ["0", "half", "all"])
    half, most = np.quantile(times, [0.5, 0.9])
    over.set_ylabel("answers made", color=_GREEN)
    told = f"half by {_plain(half)}, 90 % by {_plain(most)}"
    axes.set_xlabel(f"{axes.get_xlabel()} · answers made (by the service's clock): {told}")


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def _longest(s: Snapshot, measured: Measured) -> float:
    ends = [(job.ended_at or s.as_of) - s.created_at for job in s.jobs]
    return float(max([*ends, *measured.answered_s.tolist()[-1:], 1.0]))


def _unit(seconds: float) -> tuple[float, str]:
    for unit, word in ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return unit, word
    return 1.0, "seconds"


def _tokens(axes: Axes, name: str, by_model: dict[str, NDArray[np.float64]]) -> None:
    axes.set_title(name)
    known = {model: values for model, values in by_model.items() if len(values)}
    if not known:
        _nothing(axes, "no answer has told its tokens")
        return
    every = np.concatenate(list(known.values()))
    low, high = float(every.min()), float(every.max())
    width = max(1.0, math.ceil((high - low + 1) / _BINS))  # whole tokens fall into whole bars
    bins = np.arange(low - 0.5, high + 0.5 + width, width)
    for (model, values), colour in zip(known.items(), _SERIES, strict=False):
        told = f"{model}: " if len(by_model) > 1 else ""
        label = _escaped(f"{told}median {np.median(values):,.0f}, most {values.max():,.0f}")
        several = len(known) > 1
        axes.hist(
            values,
            bins=bins.tolist(),
            color=colour,
            alpha=0.55 if several else 0.9,
            label=label,
        )
    axes.set_xlim(min(low - 0.5, (low + high) / 2 - 5), max(bins[-1], (low + high) / 2 + 5))
    axes.set_ylabel("answers")
    axes.legend(loc="upper right", fontsize=8)
    axes.margins(y=0.25)
    axes.locator_params(axis="x", integer=True)


# -- of costs -------------------------------------------------------------------------------


def cost_figure(costs: pd.DataFrame) -> Figure:
    """Draw what was paid by day and model; `costs` is the frame of `%gptbatch cost`."""
    with _drawing():
        figure = _figure("paid by day and model", 9.5, 4.2)
        axes = figure.subplots()
        paid = costs[costs["cost_usd"].notna()]
        axes.set_title(_paid_words(costs))
        by = _by_day(paid[paid["cost_usd"] > 0])
        if by.empty:
            _nothing(axes, "nothing has been paid yet")
            return figure
        base = np.zeros(len(by))
        for model, colour in zip(by.columns, _SERIES, strict=False):
            values = by[model].to_numpy(dtype=float)
            label = _escaped(f"{model}: {dollars(float(values.sum()))}")
            axes.bar(np.arange(len(by)), values, 0.7, bottom=base, color=colour, label=label)
            base += values
        _days(axes, by.index.tolist(), base)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
        axes.set_ylim(0, 1.12 * float(base.max()))
        axes.yaxis.set_major_formatter(lambda value, _: _escaped(dollars(value)))
    return figure


def _by_day(paid: pd.DataFrame) -> pd.DataFrame:
    """Dollars with a row for each day, the days without a run too, and a column for each model."""
    if paid.empty:
        return pd.DataFrame()
    usd = paid.assign(cost_usd=paid["cost_usd"].astype(float))
    by = usd.pivot_table(index="day", columns="model", values="cost_usd", aggfunc="sum")
    order = by.sum().sort_values(ascending=False).index
    by = by.reindex(columns=order).fillna(0.0)
    if len(order) > _MODELS:
        rest = by[order[_MODELS - 1 :]].sum(axis=1)
        by = by[order[: _MODELS - 1]].assign(**{f"{len(order) - _MODELS + 1} more": rest})
    span = pd.date_range(by.index.min(), by.index.max())
    if len(span) <= 62:  # in two months a gap is seen, in years bars would be lines
        by = by.reindex([f"{day:%Y-%m-%d}" for day in span], fill_value=0.0)
    return by


def _days(axes: Axes, days: Sequence[str], totals: NDArray[np.float64]) -> None:
    step = max(1, math.ceil(len(days) / 12))
    places = list(range(0, len(days), step))
    axes.set_xticks(places, [days[place] for place in places], rotation=30, ha="right")
    axes.set_xlim(-0.8, max(len(days), 4) - 0.2)
    for place, total in enumerate(totals.tolist()):
        if total > 0 and len(days) <= 14:
            axes.text(place, total, _escaped(dollars(total)), ha="center", va="bottom", fontsize=8)


def _paid_words(costs: pd.DataFrame) -> str:
    known = costs["cost_usd"].dropna()
    told = f"{dollars(float(known.sum()))} for {counted(len(known), 'run')}"
    free = int((costs["backend"] == "sandbox").sum())
    told += f", {free:,} of them on the sandbox, free" if free else ""
    unknown = len(costs) - len(known)
    told += f"; of {counted(unknown, 'more run')} the cost is not known" if unknown else ""
    return _escaped(told)


# -- of a comparison ------------------------------------------------------------------------


Panel = tuple[str, Callable[["Axes"], None]]


def comparison_figure(found: Findings, name: str) -> Figure:
    """Draw a comparison under its name: tables of labels, scores, how alike texts are."""
    panels = [*_truth_panels(found), *_column_panels(found)]
    shown = panels[:_PANELS]
    with _drawing():
        across = max(1, min(3, len(shown)))
        down = max(1, math.ceil(len(shown) / across))
        figure = _figure(name, 4.3 * across, 3.7 * down + 0.6)
        axes = np.asarray(figure.subplots(down, across, squeeze=False)).ravel().tolist()
        for one in axes[len(shown) :]:
            one.set_axis_off()
        for one, (name, draw) in zip(axes, shown, strict=False):
            one.set_title(_drawable(name))
            draw(one)
        if not shown:
            _nothing(axes[0], "there is nothing to draw")
        if len(panels) > _PANELS:
            figure.supxlabel(f"and {counted(len(panels) - _PANELS, 'more picture')}", fontsize=8)
    return figure


def _truth_panels(found: Findings) -> Iterator[Panel]:
    column = found.judged
    if column is None or column.truth is None:
        return
    yield f"right, by {found.truth_name}", lambda axes: _accuracies(axes, found)
    for name, table in found.truth_confusion.items():
        yield f"{_short(name)} against {_short(found.truth_name)}", _heat(table)
    if column.coded.kind is Kind.NUMBERS and not column.coded.has_labels:
        for i, name in enumerate(found.names):
            names = (found.truth_name, name)
            yield (
                f"{_short(name)} against {_short(found.truth_name)}",
                _scatter(column, (column.truth, i), names),
            )


def _column_panels(found: Findings) -> Iterator[Panel]:
    for column in found.columns:
        for i, j in found.pairs:
            name = found.pair_name(column, i, j)
            if column.coded.has_labels:
                yield f"{name}: how often which", _heat(found.confusion[name])
            if column.coded.kind is Kind.NUMBERS:
                names = (found.names[i], found.names[j])
                if not column.coded.has_labels:
                    yield name, _scatter(column, (i, j), names)
                yield f"{name}: {_short(names[1])} less {_short(names[0])}", _spread(column, i, j)
            elif not column.coded.has_labels:
                yield f"{name}: equal or not", _equals(column, i, j)
            if column.coded.kind is Kind.TEXTS:
                yield f"{name}: likeness of those that differ", _alike(found, column, i, j)


def _accuracies(axes: Axes, found: Findings) -> None:
    frame = found.accuracy
    shares = [float(one) if pd.notna(one) else 0.0 for one in frame["accuracy"]]
    bars = axes.barh(
        [_drawable(_short(name)) for name in found.names], shares, color=_BLUE, height=0.5
    )
    told = [
        f"{100 * share:.1f} % of {answered:,}"
        for share, answered in zip(shares, frame["answered"], strict=True)
    ]
    axes.bar_label(bars, told, padding=4)
    axes.set_xlim(0, 1.45)
    axes.set_ylim(max(len(shares), 3) - 0.5, -0.5)
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.spines["bottom"].set_bounds(0, 1)


def _heat(table: pd.DataFrame) -> Callable[[Axes], None]:
    """Draw counts as tints of their share of the row, each with its number."""

    def draw(axes: Axes) -> None:
        kept = largest(table)
        labels, counts = kept.index.tolist(), kept.to_numpy()
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
        names = [_drawable(_short(str(label), 14)) for label in labels]
        is_turned = len(names) > 3
        axes.set_xticks(
            range(len(names)),
            names,
            rotation=35 if is_turned else 0,
            ha="right" if is_turned else "center",
        )
        axes.set_yticks(range(len(names)), names)
        axes.set_ylabel(_drawable(_short(str(table.index.name))))
        more = len(table) - len(labels)
        rest = f" (and {counted(more, 'more label')})" if more else ""
        axes.set_xlabel(_drawable(_short(str(table.columns.name))) + rest)
        for (n, m), count in np.ndenumerate(counts):
            ink = _PAPER if shares[n, m] > 0.8 else _INK
            axes.text(m, n, f"{count:,}", ha="center", va="center", color=ink, fontsize=8)

    return draw


def _scatter(
    column: Compared, sides: tuple[int, int], names: tuple[str, str]
) -> Callable[[Axes], None]:
    """Draw numbers against numbers: points, or of many how many fall where."""

    def draw(axes: Axes) -> None:
        _, one, other = column.numbers(*sides)
        finite = np.isfinite(one) & np.isfinite(other)
        one, other = one[finite], other[finite]
        axes.set_xlabel(_drawable(_short(names[0])))
        axes.set_ylabel(_drawable(_short(names[1])))
        if not len(one):
            _nothing(axes, "no row has both")
            return
        if len(one) <= _POINTS:
            axes.scatter(one, other, s=14, color=_BLUE, alpha=0.5, linewidths=0)
        else:
            axes.hexbin(one, other, gridsize=32, cmap="Blues", bins="log", mincnt=1)
        low, high = min(one.min(), other.min()), max(one.max(), other.max())
        axes.plot([low, high], [low, high], color=_GREY, linewidth=1, linestyle="--")

    return draw


def _spread(column: Compared, i: int, j: int) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        _, one, other = column.numbers(i, j)
        by = other - one
        by = by[np.isfinite(by)]
        if not len(by):
            _nothing(axes, "no row has both")
            return
        are_whole = bool((by == np.round(by)).all()) and float(np.ptp(by)) <= 40
        if are_whole:
            values, counts = np.unique(by, return_counts=True)
            axes.bar(values, counts, 0.8, color=_BLUE)
            axes.locator_params(axis="x", integer=True)
        else:
            axes.hist(by, bins=40, color=_BLUE)
        axes.axvline(0, color=_GREY, linewidth=1, linestyle="--")
        axes.set_ylabel("rows")

    return draw


def _equals(column: Compared, i: int, j: int) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        both = column.both(i, j)
        equal = int((both & column.equal(i, j)).sum())
        counts = [equal, int(both.sum()) - equal, int((~both).sum())]
        bars = axes.barh(
            ["equal", "different", "not compared"], counts, color=[_GREEN, _ORANGE, _GREY]
        )
        axes.bar_label(bars, [f"{n:,}" for n in counts], padding=4)
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)

    return draw


def _alike(found: Findings, column: Compared, i: int, j: int) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        alike = found.alike(column, i, j)
        if not len(alike):
            _nothing(axes, "no valid answer differs")
            return
        axes.hist(alike, bins=np.linspace(0, 1, 21).tolist(), color=_BLUE)
        axes.set_xlabel(f"0: nothing alike, 1: the same ({counted(len(alike), 'row')})")
        axes.set_ylabel("rows")

    return draw


# -- figures --------------------------------------------------------------------------------


def _matplotlib() -> Any:
    """Return matplotlib. Raises CellError, with the cure, where it is not installed."""
    try:
        import matplotlib as found
        import matplotlib.figure
    except ImportError:
        raise CellError(
            "plots want matplotlib, which is not installed here; `pip install matplotlib`"
        ) from None
    return found


@contextmanager
def _drawing() -> Iterator[None]:
    """Draw in our own style: the user's is left as it is."""
    found = _matplotlib()
    with found.rc_context({**_STYLE, "font.family": list(_fonts())}):
        yield


def _figure(name: str, width: float, height: float) -> Figure:
    figure = _plot_type()(figsize=(width, height), layout="constrained", dpi=_DPI)
    words, *rest = name.split("\n")
    under = "".join(f"\n{line}" for line in rest)
    figure.suptitle(_drawable(words + under), x=0.01, ha="left", fontsize=11, wrap=True)
    return figure


@cache
def _plot_type() -> type[Figure]:
    """Return a figure that a notebook shows as a picture, without pyplot and its own list."""
    from matplotlib.figure import Figure

    class Plot(Figure):
        """A matplotlib figure: a cell that returns it shows it, `.savefig("x.png")` keeps it."""

        def _repr_png_(self) -> bytes:
            data = BytesIO()
            self.savefig(data, format="png", dpi=_DPI, facecolor=_PAPER)
            return data.getvalue()

        def __repr__(self) -> str:
            return f"<Plot: {self.get_suptitle()}; .savefig('plot.png') keeps it>"

    return Plot


def _nothing(axes: Axes, why: str) -> None:
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes, color="#57606a")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


# -- texts that can be drawn ----------------------------------------------------------------

_FIRST = "DejaVu Sans"  # comes with matplotlib
_OTHERS = (
    *("Noto Sans CJK KR", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans KR", "NanumGothic"),
    *("Malgun Gothic", "AppleGothic", "Apple SD Gothic Neo", "UnDotum", "Baekmuk Gulim"),
    *("Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans", "Yu Gothic", "Meiryo"),
    *("WenQuanYi Zen Hei", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai"),
    *("Noto Sans Hebrew", "Noto Sans Arabic", "Segoe UI Emoji", "Noto Emoji", "Symbola"),
)
_BOX = "\u25a1"


@cache
def _fonts() -> tuple[str, ...]:
    """Return the fonts to draw with: the usual one, then those here that have more letters."""
    from matplotlib.font_manager import fontManager

    known = {font.name for font in fontManager.ttflist}
    return (_FIRST, *(name for name in _OTHERS if name in known))


@cache
def _letters() -> frozenset[int]:
    """Return the code points that some font of these has."""
    from matplotlib.font_manager import findfont, get_font

    paths = {findfont(name) for name in _fonts()}
    return frozenset(point for path in paths for point in get_font(path).get_charmap())


def _drawable(text: str) -> str:
    """Return text with a box for each letter that no font here has, and no formula in it."""
    known = _letters()
    return _escaped("".join(one if ord(one) in known or one == "\n" else _BOX for one in text))


def _escaped(text: str) -> str:
    return text.replace("$", "\\$")


def _short(name: str, most: int = _NAME) -> str:
    return clip(name, most)
