"""How far two raters agree on the same things: counts, kappa, differences, likeness of texts.

It knows formulas and their sources and refuses to know where the values come from: labels are
numbers from 0 on, scores are floats, all without gaps. The trap is a measure that is not defined
(one label only, one value only, no rows): it is None with the reason, never a 1.0 or a 0.0 that
looks like a finding.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_ROWS = "no row has both"


@dataclass(frozen=True, slots=True)
class Measure:
    """A number, or None with the reason why there is none."""

    value: float | None
    reason: str = ""


def confusion(one: NDArray[np.int64], other: NDArray[np.int64], labels: int) -> NDArray[np.int64]:
    """Count how often each pair of labels occurs: `labels` × `labels`, `one` in the rows."""
    flat = np.bincount(one * labels + other, minlength=labels * labels)
    return flat.reshape(labels, labels)


def kappa(table: NDArray[np.int64]) -> Measure:
    """Return Cohen's kappa of a square table of counts: agreement beyond what chance brings.

    κ = (pₒ - pₑ) / (1 - pₑ), where pₒ is the share on the diagonal and pₑ the sum over labels of
    the products of both margins' shares: J. Cohen, "A coefficient of agreement for nominal
    scales", Educational and Psychological Measurement 20 (1960), 37-46. Not defined where pₑ is 1:
    both gave one and the same label to every row.
    """
    rows = int(table.sum())
    if not rows:
        return Measure(None, NO_ROWS)
    # Whole numbers of any size, so that 1 - pₑ is nothing just where it is.
    margins = zip(table.sum(axis=1).tolist(), table.sum(axis=0).tolist(), strict=True)
    by_chance = sum(one * other for one, other in margins)
    if by_chance == rows * rows:
        return Measure(None, "both have the same label in every row: kappa is not defined")
    same = int(np.trace(table))
    return Measure((rows * same - by_chance) / (rows * rows - by_chance))


@dataclass(frozen=True, slots=True)
class LabelScore:
    """How well one label was found: F1 is the harmonic mean of precision and recall."""

    precision: float | None  # of the rows that were given it, None when none was
    recall: float | None  # of the rows that have it, None when none has
    f1: float | None  # None when nobody gave it
    support: int  # rows that have it
    given: int  # rows that were given it


def label_scores(table: NDArray[np.int64]) -> list[LabelScore]:
    """Return a score for each label of a square table, the truth in its rows.

    C. J. van Rijsbergen, Information Retrieval, 2nd ed. (1979), ch. 7: F1 = 2·tp / (has + given).
    """
    scores = []
    for n in range(len(table)):
        hits, has, given = int(table[n, n]), int(table[n].sum()), int(table[:, n].sum())
        scores.append(
            LabelScore(
                precision=hits / given if given else None,
                recall=hits / has if has else None,
                f1=2 * hits / (has + given) if has + given else None,
                support=has,
                given=given,
            )
        )
    return scores


@dataclass(frozen=True, slots=True)
class Differences:
    """How two columns of numbers differ, the second less the first, and how they go together."""

    mean: Measure
    absolute: Measure  # the mean of the absolute differences
    rms: Measure  # the square root of the mean of the squares
    pearson: Measure
    spearman: Measure


def differences(one: NDArray[np.float64], other: NDArray[np.float64]) -> Differences:
    """Compare n numbers with n others. Raises nothing: what is not defined is None."""
    if not len(one):
        return Differences(*[Measure(None, NO_ROWS)] * 5)
    with np.errstate(all="ignore"):  # infinities are told of as such
        by = other - one
        return Differences(
            mean=_finite(float(by.mean())),
            absolute=_finite(float(np.abs(by).mean())),
            rms=_finite(math.sqrt(float((by * by).mean()))),
            pearson=pearson(one, other),
            spearman=pearson(ranks(one), ranks(other)),
        )


def pearson(one: NDArray[np.float64], other: NDArray[np.float64]) -> Measure:
    """Return Pearson's correlation of n numbers with n others; of ranks it is Spearman's."""
    if len(one) < 2:
        return Measure(None, "a correlation wants two rows")
    if bool((one == one[0]).all()) or bool((other == other[0]).all()):
        return Measure(None, "one of them has one value in every row: no correlation is defined")
    with np.errstate(all="ignore"):
        x, y = one - one.mean(), other - other.mean()
        # Scaled first: the squares of very large or very small numbers are not numbers any more.
        x, y = x / np.abs(x).max(), y / np.abs(y).max()
        found = float((x * y).sum() / math.sqrt(float((x * x).sum()) * float((y * y).sum())))
    return _finite(min(1.0, max(-1.0, found)) if math.isfinite(found) else found)


def _finite(number: float) -> Measure:
    return (
        Measure(number) if math.isfinite(number) else Measure(None, "beyond what a float can hold")
    )


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank of each value, from 1 on; equal ones share the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    found: NDArray[np.float64] = (last - (count - 1) / 2)[place]
    return found


def likeness(one: str, other: str) -> float:
    """Return how alike two texts are, from 0 to 1: the share of the letter pairs they have both.

    2·|A ∩ B| / (|A| + |B|) over the multisets of adjacent characters, whatever the script:
    L. R. Dice, "Measures of the amount of ecologic association between species", Ecology 26
    (1945), 297-302.
    """
    if one == other:
        return 1.0
    first, second = _letter_pairs(one), _letter_pairs(other)
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 0.0


def _letter_pairs(text: str) -> Counter[Any]:
    pairs: Sequence[Any] = list(pairwise(text))
    return Counter(pairs or [text] * bool(text))
