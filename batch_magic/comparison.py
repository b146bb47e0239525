"""A comparison that can be taken home: its frames, its report, its figure.

It puts `findings`, `report` and `plots` behind one value, and refuses to know runs or homes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from batch_magic import findings, plots, report
from batch_magic.findings import Findings
from batch_magic.pairing import Side

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Comparison(Findings):
    """Answers side by side: what is equal, what changed, who is right.

    `summary`, `changed`, `differences`, `left_out`, `runs`, `accuracy` and `by_label` are
    DataFrames, `confusion` and `truth_confusion` DataFrames by name, `prompts` is a text; `rows`
    is how many rows were compared and `how` by what they were matched. A cell that returns it
    shows a report.
    """

    def plot(self) -> Figure:
        """Return a matplotlib figure. Raises CellError where matplotlib is not installed."""
        name = f"{report.title(self)}\n{report.rows_words(self)}"
        return plots.comparison_figure(self, name)

    def _repr_html_(self) -> str:
        return report.report_html(self)

    def __repr__(self) -> str:
        return report.report_text(self)


def compare(
    sides: Sequence[Side],
    *,
    truth: str = "",
    column: str | tuple[str, ...] = (),
    on: str = "",
) -> Comparison:
    """Compare sides row by row; see `findings.compare`, which raises CellError and FrameError."""
    found = findings.compare(sides, truth=truth, column=column, on=on)
    return Comparison(**{one.name: getattr(found, one.name) for one in fields(found)})
