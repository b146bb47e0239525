"""Pictures of runs, costs and comparisons, with matplotlib.

It knows how numbers become axes, and refuses to work any number out or to touch pyplot: a figure
is a value, shown where a cell returns it, and nobody's current figure. Colours are explicit, dark
on white, so that a figure reads the same in a light and in a dark notebook and in a paper; it is
narrow and its letters large, for a notebook shrinks it to its cell. Whatever draws also says in
words what there is to be seen, for those who cannot see it: that is the figure's label. The traps:
matplotlib sets what stands between two dollars as a formula, and a script that its font lacks as
boxes with a warning for each; so texts are escaped, and fonts of this machine that have the letters
stand behind the first.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batch_magic.card import Html, clip, duration, state_words, tag
from batch_magic.coding import Kind
from batch_magic.errors import CellError
from batch_magic.findings import Compared, Findings, largest
from batch_magic.progress import lapsed_s
from batch_magic.records import Job, JobStage, RowStatus, Snapshot
from batch_magic.wording import counted, dollars

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _PAPER, _FAINT = "#1f2328", "#ffffff", "#d0d7de"
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#1976d2", "#d9730d", "#388e3c", "#c62828", "#8c959f"
_SERIES = (_BLUE, _ORANGE, "#2a9d8f", "#8e44ad", "#b5651d", "#5d6d7e", "#c2185b", "#7a8b00")
_LETTERS, _SMALL = 11, 10  # points
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
    "axes.titlesize": _LETTERS,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "text.color": _INK,
    "text.usetex": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "font.size": _LETTERS,
    "legend.fontsize": _SMALL,
    "xtick.labelsize": _SMALL,
    "ytick.labelsize": _SMALL,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}
_LANES = {False: _BLUE, True: _ORANGE}
_LANE_WORDS = {False: "work (blue)", True: "live (orange)"}
_DPI = 110
_CELLS_TOLD = 12
_WIDTH = 7.2  # inches: 792 pixels
_LEAST_PX = 500  # a narrower cell scrolls: letters smaller still could not be read
_ALT_CHARS = 2_000
_LINE_CHARS = 84  # of a name, in so many letters a line
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
        name = f"{s.name}: {state_words(s)}"
        figure = _figure(name, 9.4)
        axes = figure.subplot_mosaic("o;t;i;a", height_ratios=[1.1, 1.8, 1, 1])
        _tell(
            figure,
            _outcomes(axes["o"], s),
            _times(axes["t"], s, measured),
            _tokens(axes["i"], "tokens in, of each request", measured.tokens_in),
            _tokens(axes["a"], "tokens out, of each answer", measured.tokens_out),
        )
    return figure


def _outcomes(axes: Axes, s: Snapshot) -> str:
    found = [(status, n) for status in RowStatus if (n := s.counts.get(status, 0))]
    title = f"outcomes of {counted(s.rows, 'row')}"
    axes.set_title(title)
    if not found:
        return _nothing(axes, "no rows")
    names = [status.label for status, _ in found]
    bars = axes.barh(
        names, [n for _, n in found], color=[_STATUS.get(status, _RED) for status, _ in found]
    )
    axes.bar_label(bars, [f"{n:,}" for _, n in found], padding=4)
    axes.set_ylim(max(len(found), 4) - 0.5, -0.5)  # a single bar is no wall
    axes.margins(x=0.16)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    return f"{title}: " + ", ".join(f"{n:,} {status.label}" for status, n in found)


@dataclass(frozen=True, slots=True)
class _Span:
    """When a job was asked for, began and ended, in seconds in which the run was under way."""

    job: Job
    asked: float
    began: float
    ended: float

    @property
    def name(self) -> str:
        return f"{'live' if self.job.is_live else 'job'} {self.job.number + 1}"

    @property
    def words(self) -> str:
        queued, worked = self.began - self.asked, self.ended - self.began
        return f"{_lasting(queued)} + {_lasting(worked)}" if self.ended > self.asked else "no time"


def _spans(s: Snapshot) -> list[_Span]:
    def since(instant: float) -> float:
        return lapsed_s(start, instant, s.pauses)

    start = _start(s)
    found = []
    for job in s.jobs:
        if job.intended_at is not None:
            ended = max(job.ended_at or s.as_of, job.intended_at)
            began = ended if job.began_at is None else min(job.began_at, ended)
            found.append(_Span(job, since(job.intended_at), since(began), since(ended)))
    return found


def _start(s: Snapshot) -> float:
    return min([s.created_at, *(job.intended_at for job in s.jobs if job.intended_at)])


def _times(axes: Axes, s: Snapshot, measured: Measured) -> str:
    """Draw each job's time in the queue and at work, and over them when rows were answered.

    Time in which the run lay idle is cut out: a retry of the next morning would be all there is.
    """
    spans = _spans(s)
    if not spans:
        axes.set_title("time of jobs")
        return _nothing(axes, "no job yet")
    answered = [lapsed_s(_start(s), s.created_at + at, s.pauses) for at in measured.answered_s]
    unit, word = _unit(max([1.0, *answered[-1:], *(one.ended for one in spans)]))
    shown = spans[:_JOBS]
    for n, one in enumerate(shown):
        colour, alpha = _LANES[one.job.is_live], 1.0 if one.job.stage is JobStage.COLLECTED else 0.5
        for left, right, tint in ((one.asked, one.began, _FAINT), (one.began, one.ended, colour)):
            width = (right - left) / unit  # with an edge: a second among hours is seen, too
            axes.barh(
                n, width, left=left / unit, color=tint, edgecolor=tint, height=0.6, alpha=alpha
            )
    names = [f"{one.name}\n{one.words}" if len(spans) <= _JOBS // 2 else one.name for one in shown]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 3) - 0.4, -0.6)
    axes.set_xlim(left=0)
    lanes = {one.job.is_live for one in shown}
    work_of = ", ".join(word for lane, word in _LANE_WORDS.items() if lane in lanes)
    of = f"the first {_JOBS} of {len(spans):,} jobs" if len(spans) > _JOBS else "jobs"
    axes.set_title(f"time since submit: queue (grey), {work_of} of {of}")
    told = [_left_out(axes, s, unit), _answered(axes, np.array(answered), unit)]
    axes.set_xlabel("\n".join([word, *filter(None, told)]))
    jobs = ", ".join(f"{one.name} {one.words}" for one in shown)
    return "; ".join([f"time in the queue + at work: {jobs}", *filter(None, told)])


def _left_out(axes: Axes, s: Snapshot, unit: float) -> str:
    """Mark where the run lay idle: that time is not on the axis."""
    for one in s.pauses:
        place = lapsed_s(_start(s), one.begins, s.pauses) / unit
        axes.axvline(place, color=_GREY, linewidth=1, linestyle=":")
    idle_s = sum(one.ends - one.begins for one in s.pauses)
    return f"left out (dotted): {duration(idle_s)} in which the run lay idle" if s.pauses else ""


def _answered(axes: Axes, answered_s: NDArray[np.float64], unit: float) -> str:
    """Draw the share of answers that were made by then, over the jobs."""
    if len(answered_s) < 2 or answered_s.max() < _SHORTEST_S:
        return ""  # told in whole seconds, they would be a wall
    times = np.sort(answered_s)
    over = axes.twinx()
    over.spines["top"].set_visible(False)
    over.spines["right"].set_visible(True)
    shares = np.arange(1, len(times) + 1) / len(times)
    over.step(times / unit, shares, color=_GREEN, where="post")
    over.set_ylim(0, 1.05)
    over.set_yticks([0, 0.5, 1], ["0", "half", "all"])
    half, most = np.quantile(times, [0.5, 0.9])
    over.set_ylabel("answers made", color=_GREEN)
    return f"answers made (green): half by {_lasting(half)}, 90 % by {_lasting(most)}"


def _lasting(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else "under 1 s"


def _unit(seconds: float) -> tuple[float, str]:
    for unit, word in ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return unit, word
    return 1.0, "seconds"


def _tokens(axes: Axes, name: str, by_model: dict[str, NDArray[np.float64]]) -> str:
    axes.set_title(name)
    known = {model: values for model, values in by_model.items() if len(values)}
    if not known:
        return f"{name}: {_nothing(axes, 'no answer has told its tokens')}"
    every = np.concatenate(list(known.values()))
    low, high = float(every.min()), float(every.max())
    width = max(1.0, math.ceil((high - low + 1) / _BINS))  # whole tokens fall into whole bars
    bins = np.arange(low - 0.5, high + 0.5 + width, width)
    told = []
    for (model, values), colour in zip(known.items(), _SERIES, strict=False):
        whose = f"{model}: " if len(by_model) > 1 else ""
        told.append(f"{whose}median {np.median(values):,.0f}, most {values.max():,.0f}")
        axes.hist(
            values,
            bins=bins.tolist(),
            color=colour,
            alpha=0.55 if len(known) > 1 else 0.9,
            label=_escaped(told[-1]),
        )
    axes.set_xlim(min(low - 0.5, (low + high) / 2 - 5), max(bins[-1], (low + high) / 2 + 5))
    axes.set_ylabel("answers")
    axes.legend(loc="upper right")
    axes.margins(y=0.1 + 0.15 * len(told))
    axes.locator_params(axis="x", integer=True)
    return f"{name}: {'; '.join(told)}"


# -- of costs -------------------------------------------------------------------------------


def cost_figure(costs: pd.DataFrame) -> Figure:
    """Draw what was paid by day and model; `costs` is the frame of `%gptbatch cost`."""
    with _drawing():
        figure = _figure(f"paid by day and model\n{_paid_words(costs)}", 4.8)
        axes = figure.subplots()
        paid = costs[costs["cost_usd"].notna()]
        by = _by_day(paid[paid["cost_usd"] > 0])
        if by.empty:
            _tell(figure, _nothing(axes, "nothing has been paid yet"))
            return figure
        base = np.zeros(len(by))
        for model, colour in zip(by.columns, _SERIES, strict=False):
            values = by[model].to_numpy(dtype=float)
            told = f"{model}: {dollars(float(values.sum()))}"
            _tell(figure, told)
            axes.bar(
                np.arange(len(by)), values, 0.7, bottom=base, color=colour, label=_escaped(told)
            )
            base += values
        _days(axes, by.index.tolist(), base)
        _tell(figure, _spent_words(by.index.tolist(), base))
        figure.legend(loc="outside lower left", ncols=2)
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
    step = max(1, math.ceil(len(days) / 10))
    places = list(range(0, len(days), step))
    axes.set_xticks(places, [days[place] for place in places], rotation=30, ha="right")
    axes.set_xlim(-0.8, max(len(days), 4) - 0.2)
    for place, total in enumerate(totals.tolist()):
        if total > 0 and len(days) <= 10:
            axes.text(
                place, total, _escaped(dollars(total)), ha="center", va="bottom", fontsize=_SMALL
            )


def _spent_words(days: Sequence[str], totals: NDArray[np.float64]) -> str:
    dearest = int(totals.argmax())
    told = f"most on {days[dearest]}: {dollars(float(totals[dearest]))}"
    return f"{counted(len(days), 'day')} from {days[0]} to {days[-1]}, {told}"


def _paid_words(costs: pd.DataFrame) -> str:
    known = costs["cost_usd"].dropna()
    told = f"{dollars(float(known.sum()))} for {counted(len(known), 'run')}"
    free = int((costs["backend"] == "sandbox").sum())
    told += f", {free:,} of them on the sandbox, free" if free else ""
    unknown = len(costs) - len(known)
    return told + (f"; of {counted(unknown, 'more run')} the cost is not known" if unknown else "")


# -- of a comparison ------------------------------------------------------------------------


Draw = Callable[["Axes"], str]  # it says what it has drawn
Panel = tuple[str, Draw]


def comparison_figure(found: Findings, name: str) -> Figure:
    """Draw a comparison under its name: tables of labels, scores, how alike texts are."""
    panels = [*_truth_panels(found), *_column_panels(found)]
    shown = panels[:_PANELS]
    with _drawing():
        across = max(1, min(2, len(shown)))
        down = max(1, math.ceil(len(shown) / across))
        figure = _figure(name, 3.4 * down + 0.8)
        axes = np.asarray(figure.subplots(down, across, squeeze=False)).ravel().tolist()
        for one in axes[len(shown) :]:
            one.set_axis_off()
        for one, (name, draw) in zip(axes, shown, strict=False):
            one.set_title(_drawable(name))
            _tell(figure, f"{name}: {draw(one)}")
        if not shown:
            _tell(figure, _nothing(axes[0], "there is nothing to draw"))
        if len(panels) > _PANELS:
            more = f"and {counted(len(panels) - _PANELS, 'more picture')}"
            figure.supxlabel(more, fontsize=_SMALL)
            _tell(figure, more)
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


def _accuracies(axes: Axes, found: Findings) -> str:
    """Draw how many are right of the rows that all sides have answered: bars that compare."""
    frame = found.accuracy
    shares = [None if pd.isna(one) else float(one) for one in frame["shared_accuracy"]]
    bars = axes.barh(
        [_drawable(_short(name)) for name in found.names],
        [share or 0.0 for share in shares],
        color=_BLUE,
        height=0.5,
    )
    rows = int(frame["shared"].iloc[0])
    told = ["no row" if share is None else f"{100 * share:.1f} % of {rows:,}" for share in shares]
    axes.bar_label(bars, told, padding=4)
    axes.set_xlim(0, 1.45)
    axes.set_ylim(max(len(shares), 3) - 0.5, -0.5)
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.spines["bottom"].set_bounds(0, 1)
    alike = "" if found.is_judged_alike else "of the rows that all have answered"
    axes.set_xlabel(alike)
    said = ", ".join(f"{name} {one}" for name, one in zip(found.names, told, strict=True))
    return f"{said} {alike}".rstrip()


def _heat(table: pd.DataFrame) -> Draw:
    """Draw counts as tints of their share of the row, each with its number."""

    def draw(axes: Axes) -> str:
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
            ink = _PAPER if shares[n, m] > 0.7 else _INK
            axes.text(m, n, f"{count:,}", ha="center", va="center", color=ink)
        return _counts_words(kept) + rest

    return draw


def _counts_words(counts: pd.DataFrame) -> str:
    """Tell the largest of a square table of counts: `A as B 3`."""
    found = counts.to_numpy()
    places = sorted(zip(*np.nonzero(found), strict=True), key=lambda place: -found[place])
    told = [f"{counts.index[n]} as {counts.columns[m]} {found[n, m]:,}" for n, m in places]
    rest = [counted(len(told) - _CELLS_TOLD, "more pair")] if len(told) > _CELLS_TOLD else []
    return "; ".join([*told[:_CELLS_TOLD], *rest]) or "no row has both"


def _scatter(column: Compared, sides: tuple[int, int], names: tuple[str, str]) -> Draw:
    """Draw numbers against numbers: points, or of many how many fall where."""

    def draw(axes: Axes) -> str:
        _, one, other = column.numbers(*sides)
        finite = np.isfinite(one) & np.isfinite(other)
        one, other = one[finite], other[finite]
        axes.set_xlabel(_drawable(_short(names[0])))
        axes.set_ylabel(_drawable(_short(names[1])))
        if not len(one):
            return _nothing(axes, "no row has both")
        if len(one) <= _POINTS:
            axes.scatter(one, other, s=14, color=_BLUE, alpha=0.5, linewidths=0)
        else:
            axes.hexbin(one, other, gridsize=32, cmap="Blues", bins="log", mincnt=1)
        low, high = min(one.min(), other.min()), max(one.max(), other.max())
        axes.plot([low, high], [low, high], color=_GREY, linewidth=1, linestyle="--")
        return f"{counted(len(one), 'row')}, from {low:,.3g} to {high:,.3g}"

    return draw


def _spread(column: Compared, i: int, j: int) -> Draw:
    def draw(axes: Axes) -> str:
        _, one, other = column.numbers(i, j)
        by = other - one
        by = by[np.isfinite(by)]
        if not len(by):
            return _nothing(axes, "no row has both")
        are_whole = bool((by == np.round(by)).all()) and float(np.ptp(by)) <= 40
        if are_whole:
            values, counts = np.unique(by, return_counts=True)
            axes.bar(values, counts, 0.8, color=_BLUE)
            axes.locator_params(axis="x", integer=True)
        else:
            axes.hist(by, bins=40, color=_BLUE)
        axes.axvline(0, color=_GREY, linewidth=1, linestyle="--")
        axes.set_ylabel("rows")
        return f"from {by.min():,.3g} to {by.max():,.3g}, mean {by.mean():,.3g}"

    return draw


def _equals(column: Compared, i: int, j: int) -> Draw:
    def draw(axes: Axes) -> str:
        both = column.both(i, j)
        equal = int((both & column.equal(i, j)).sum())
        counts = [equal, int(both.sum()) - equal, int((~both).sum())]
        words = ["equal", "different", "not compared"]
        bars = axes.barh(words, counts, color=[_GREEN, _ORANGE, _GREY])
        axes.bar_label(bars, [f"{n:,}" for n in counts], padding=4)
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        return ", ".join(f"{n:,} {word}" for n, word in zip(counts, words, strict=True))

    return draw


def _alike(found: Findings, column: Compared, i: int, j: int) -> Draw:
    def draw(axes: Axes) -> str:
        alike = found.alike(column, i, j)
        if not len(alike):
            return _nothing(axes, "no valid answer differs")
        axes.hist(alike, bins=np.linspace(0, 1, 21).tolist(), color=_BLUE)
        differ = len(column.differing(i, j))
        rows = counted(len(alike), "row")
        rows = rows if differ == len(alike) else f"{len(alike):,} of {differ:,} rows"
        axes.set_xlabel(f"0: nothing alike, 1: the same ({rows})")
        axes.set_ylabel("rows")
        return f"mean {alike.mean():.2f} over {rows}"

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


def _figure(name: str, height: float) -> Figure:
    """Return an empty `Plot` under its name; `height` in inches."""
    figure = _plot_type()(figsize=(_WIDTH, height), layout="constrained", dpi=_DPI)
    lines = name.split("\n")
    wrapped = [_drawable(part) for line in lines for part in wrap(line, _LINE_CHARS)]
    figure.suptitle("\n".join(wrapped), x=0.01, ha="left", fontsize=_LETTERS + 1)
    _tell(figure, *lines)
    return figure


@cache
def _plot_type() -> type[Figure]:
    """Return a figure that a notebook shows as a picture, without pyplot and its own list."""
    from matplotlib.figure import Figure

    class Plot(Figure):
        """A matplotlib figure: a cell that returns it shows it, `.savefig("x.png")` keeps it.

        Its label is the picture's text for those who cannot see it.
        """

        def _repr_png_(self) -> bytes:
            data = BytesIO()
            self.savefig(data, format="png", dpi=_DPI, facecolor=_PAPER)
            return data.getvalue()

        def _repr_html_(self) -> Html:
            told = str(self.get_label())
            image = tag(
                "img",
                f"width:100%;min-width:{_LEAST_PX}px;max-width:{_WIDTH * _DPI:.0f}px;height:auto",
                alt=told,
                src=f"data:image/png;base64,{b64encode(self._repr_png_()).decode()}",
            )
            # What scrolls must be reached without a mouse.
            name = clip(told, _LINE_CHARS)
            return tag("div", "overflow-x:auto", image, role="group", tabindex=0, aria_label=name)

        def __repr__(self) -> str:
            title = " · ".join(self.get_suptitle().splitlines())
            return f"<Plot: {title}; a notebook draws it, `_.savefig('plot.png')` keeps it>"

    return Plot


def _tell(figure: Figure, *words: str) -> None:
    """Add to what the figure says in words."""
    told = ". ".join(filter(None, (str(figure.get_label()), *words)))
    figure.set_label(clip(told, _ALT_CHARS))


def _nothing(axes: Axes, why: str) -> str:
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes, color="#57606a")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return why


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
