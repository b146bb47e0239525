"""What tokens cost: prices of a model by batch and at once, and the sum for each request.

It knows the price tables of genai-prices and refuses to guess: a price that is not known is None,
never 0. The traps of the table: a model without a batch price silently gets the full one, so a
batch price is believed only where it differs; prices rise with the length of a request, so each is
priced by itself, never the sum of their tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch_magic.errors import CellError

_PER = 1_000_000
_DEAREST = 1e6  # dollars for a million tokens; also keeps what is infinite, or no number, out
_BATCH = {"processing": "batch"}


@dataclass(frozen=True, slots=True)
class Rate:
    """US dollars for a million tokens, by the input tokens of the request."""

    prices: tuple[tuple[int, float], ...]  # (from how many input tokens on, dollars), ascending

    @property
    def least(self) -> float:
        """The price of a short request."""
        return self.prices[0][1]

    def of(self, input_tokens: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the price that holds for each request."""
        starts = np.array([start for start, _ in self.prices])
        dollars = np.array([price for _, price in self.prices])
        # A request of just so many tokens has the lower price still.
        steps = np.searchsorted(starts, np.nan_to_num(input_tokens), side="left") - 1
        return np.asarray(dollars[np.maximum(steps, 0)])


@dataclass(frozen=True, slots=True)
class Prices:
    """What a model costs; input that was cached and output may have no price of their own."""

    input: Rate
    cached: Rate
    output: Rate


def prices_of(model: str, own: Mapping[str, Any], *, is_batch: bool, now: float) -> Prices | None:
    """Return a model's prices, those that the user has set (`own`) first; None if not known.

    `own` is by model: dollars for a million tokens as `input`, `output` and, if it differs,
    `cached`, by batch; at once they count twice. Raises CellError for anything else in it.
    """
    if model in own:
        return _own(model, own[model], 1.0 if is_batch else 2.0)
    return _by_batch(model, _day(now)) if is_batch else _listed(model, _day(now), batch=False)


_VERSION = re.compile(r"^(?:chatgpt|gpt)-(\d+(?:\.\d+)?)|^o(\d+)\b")
_NO_TEXTS = re.compile(
    r"audio|realtime|image|tts|transcribe|whisper|live|translate|search|computer|codex|research"
    r"|vision|instruct|extended|oss|latest|preview|cyber|rosalind|32k|ft|:|\d{4}"
)
_OLDEST = 4.0  # of what is offered for texts


def models(kind: str, now: float) -> tuple[tuple[str, Prices | None], ...]:
    """Return OpenAI's models with their prices by batch: newest first, then the cheapest.

    `kind` is `embeddings` or anything else, for texts. A model's age is told by its name alone:
    the table has no dates.
    """
    return _models(kind == "embeddings", _day(now))


@lru_cache(maxsize=4)
def _models(is_for_vectors: bool, day: str) -> tuple[tuple[str, Prices | None], ...]:
    from genai_prices.data import providers

    known = next((one.models for one in providers if one.id == "openai"), [])
    names = [one.id for one in known if not one.deprecated]
    if is_for_vectors:
        found = [(0.0, name) for name in names if name.startswith("text-embedding-")]
    else:
        aged = [(_version(name), name) for name in names if not _NO_TEXTS.search(name)]
        found = [(age, name) for age, name in aged if age is not None and age >= _OLDEST]
    priced = [(age, name, _by_batch(name, day)) for age, name in found]
    priced.sort(key=lambda one: (-one[0], _dear(one[2])))
    return tuple((name, prices) for _, name, prices in priced)


def _by_batch(model: str, day: str) -> Prices | None:
    found = _listed(model, day, batch=True)
    return None if found == _listed(model, day, batch=False) else found


def _dear(prices: Prices | None) -> float:
    return math.inf if prices is None else prices.input.least + prices.output.least


def _version(name: str) -> float | None:
    """Return how new a model of texts is, by its name; None for what is no such model."""
    found = _VERSION.match(name)
    if found is None:
        return None
    # The reasoning models o1 to o4 came between 4.5 and 5.
    return float(found[1]) if found[1] else 4.5 + int(found[2]) / 100


def costs(
    prices: Prices,
    input_tokens: NDArray[np.float64],
    cached_tokens: NDArray[np.float64],
    output_tokens: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return US dollars of each request (n values); NaN where its tokens are not known."""
    cached = np.nan_to_num(cached_tokens)
    spent = (input_tokens - cached) * prices.input.of(input_tokens)
    spent = spent + cached * prices.cached.of(input_tokens)
    return (spent + np.nan_to_num(output_tokens) * prices.output.of(input_tokens)) / _PER


def _own(model: str, given: Any, times: float) -> Prices:
    names = {"input", "output", "cached"}
    if not isinstance(given, Mapping) or not {"input"} <= given.keys() <= names:
        raise CellError(
            f"the price of {model!r} is {given!r:.60}; write"
            " {'input': 0.1, 'output': 0.4}: dollars for a million tokens, by batch"
        )
    for name, value in given.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= _DEAREST:
            raise CellError(
                f"the {name} price of {model!r} is {value!r:.40}, no amount of dollars;"
                " write dollars for a million tokens"
            )
    rates = {name: Rate(((0, times * given.get(name, 0.0)),)) for name in ("input", "output")}
    cached = given.get("cached", given["input"])
    return Prices(cached=Rate(((0, times * cached),)), **rates)


def _day(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).date().isoformat()


@lru_cache(maxsize=256)
def _listed(model: str, day: str, *, batch: bool) -> Prices | None:
    """Look a model up; prices change by the day at most."""
    from genai_prices import Usage, calc_price

    try:
        found = calc_price(
            Usage(input_tokens=1, output_tokens=1),
            model_ref=model,
            provider_id="openai",
            genai_request_timestamp=datetime.fromisoformat(day).replace(hour=23, tzinfo=UTC),
            price_context=_BATCH if batch else None,
        ).model_price
    except (LookupError, ValueError):
        return None
    if found.input_mtok is None:
        return None
    paid = _rate(found.input_mtok)
    cached = paid if found.cache_read_mtok is None else _rate(found.cache_read_mtok)
    return Prices(paid, cached, _rate(found.output_mtok or 0))


def _rate(price: Any) -> Rate:
    steps = [(step.start, float(step.price)) for step in getattr(price, "tiers", ())]
    return Rate(((0, float(getattr(price, "base", price))), *sorted(steps)))
