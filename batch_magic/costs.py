"""What a run costs: of its answers, and before any of them as a range.

It knows whose prices hold for which answer, and what a number of tokens makes of a run's money; it
refuses to know files and to guess a price: what is not known is None and spoils no sum silently.
An estimate of the answers rests on what the same prompt was answered before, else on the cap that
the request sets; with neither there is no upper end, and that is said. The trap is a range that
looks narrower than what is known: each end takes the worst of all that it is made of.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch_magic import money, wording
from batch_magic.records import (
    OPENAI_URL,
    Endpoint,
    Estimate,
    Job,
    Request,
    RunRecord,
    Span,
    Spent,
    Usage,
)
from batch_magic.tokens import Counted, Method

_WITHIN = 2.0  # standard errors: 95 %
_SPREAD = 0.5  # of tokens a byte from row to row: half as much again is a wide guess
_FEW = 5  # answers that tell nothing of how they vary
_CACHED_FROM, _CACHED_STEP = 1_024, 128  # tokens; the guide on prompt caching
_CACHING = (Endpoint.CHAT, Endpoint.RESPONSES)
_SILENT = (Endpoint.EMBEDDINGS, Endpoint.MODERATIONS)  # answers without tokens


# -- whose prices ---------------------------------------------------------------------------


def row_costs(
    run: RunRecord,
    served: Sequence[str | None],
    asked: str,
    *tokens: NDArray[np.float64],
    is_batch: bool,
) -> NDArray[np.float64]:
    """Return US dollars of answers by who gave them (n values); NaN where not known.

    `tokens`: input, cached input, output, each n values. The list of prices is that of OpenAI; at
    another service the user's own prices count alone. The sandbox is priced as if it were OpenAI.
    """
    dollars = np.full(len(served), np.nan)
    names = np.array([name or "" for name in served], dtype=object)
    for name in set(names.tolist()):
        mine = np.flatnonzero(names == name)
        names_known = (asked,) if run.backend.is_sandbox else (name, asked)
        prices = prices_of(run, names_known, is_batch=is_batch)
        if prices is not None:
            dollars[mine] = money.costs(prices, *(one[mine] for one in tokens))
    return dollars


def usage_cost(run: RunRecord, asked: str, usage: Usage, *, is_batch: bool) -> float | None:
    """Return US dollars of tokens of which it is not known whose requests they are."""
    if usage == Usage():
        return 0.0
    prices = prices_of(run, [asked], is_batch=is_batch)
    if prices is None:
        return None
    plain = (usage.input - usage.cached) * prices.input.least + usage.cached * prices.cached.least
    return (plain + usage.output * prices.output.least) / 1e6


def prices_of(run: RunRecord, names: Sequence[str], *, is_batch: bool) -> money.Prices | None:
    """Return the prices of the first of these models that has any; None if none has.

    The user's own come before the list, by whichever name. The list is that of OpenAI: for another
    service the user's own count alone.
    """
    own = run.request.prices
    is_listed = run.backend.is_sandbox or run.backend.base_url == OPENAI_URL
    candidates = [name for name in names if name in own] or (names if is_listed else ())
    found = (
        money.prices_of(name, own, is_batch=is_batch, now=run.created_at) for name in candidates
    )
    return next((prices for prices in found if prices is not None), None)


def is_half_price(run: RunRecord, job: Job) -> bool:
    """Tell whether a job's answers cost what a batch costs: flex does as well."""
    return not job.is_live or run.request.tier == "flex"


# -- before a run ---------------------------------------------------------------------------


def spent_before(runs: Iterable[RunRecord], request: Request) -> dict[str, Spent]:
    """Add up what answers to the same prompt took, by model: none of rows, all of tokens."""
    found: dict[str, Spent] = {}
    for run in runs:
        if not _is_same_prompt(run.request, request):
            continue
        models = {shard.number: shard.model for shard in run.shards}
        for job in run.jobs:
            if job.spent is not None:
                model = models.get(job.shard) or run.request.model
                found[model] = found.get(model, Spent()) + job.spent
    return found


def _is_same_prompt(one: Request, other: Request) -> bool:
    return (one.template, one.endpoint, dict(one.params)) == (
        other.template,
        other.endpoint,
        dict(other.params),
    )


def estimate(
    run: RunRecord,
    counted: Mapping[str, Counted],
    spent: Mapping[str, Spent],
    *,
    prefix_tokens: int = 0,
) -> Estimate:
    """Say what a run may take: `counted` are the requests that will be sent, by model.

    `spent` is what the same prompt took before; `prefix_tokens` how much of each request is the
    same from its beginning on. Dollars as a range by batch and at once, None where a price is not
    known; its upper end is None where nothing bounds the answers.
    """
    parts = [
        _Part(run, model, one, spent.get(model, Spent()), prefix_tokens)
        for model, one in counted.items()
    ]
    outputs = [part.output for part in parts]
    return Estimate(
        requests=sum(part.requests for part in parts),
        input=sum((part.input for part in parts), Span(0, 0)),
        basis=", ".join(dict.fromkeys(part.input_basis for part in parts)),
        cached_tokens=sum(part.cached for part in parts),
        output=sum(outputs, Span(0, 0)),
        output_basis=", ".join(dict.fromkeys(part.output_basis for part in parts)),
        batch_usd=_summed(part.dollars(is_batch=True) for part in parts),
        at_once_usd=_summed(part.dollars(is_batch=False) for part in parts),
        has_images=any(one.has_images for one in counted.values()),
    )


class _Part:
    """The requests that ask one model."""

    def __init__(
        self, run: RunRecord, model: str, counted: Counted, spent: Spent, prefix_tokens: int
    ) -> None:
        self._run, self._model, self._spent = run, model, spent
        self.requests = counted.requests
        # What a schema adds is not told, and the sandbox has no tokenizer.
        is_off = run.backend.is_sandbox or bool(shape_text(run.request.params))
        self.input, self.input_basis = _input(counted, spent, is_off=is_off)
        has_cache = run.request.endpoint in _CACHING and prefix_tokens >= _CACHED_FROM
        self._long_share = counted.long_bytes / counted.bytes if counted.long_requests else 0.0
        self._long = counted.long_requests
        repeated = max(0, self.requests - 1)
        self.cached = prefix_tokens // _CACHED_STEP * _CACHED_STEP * repeated if has_cache else 0
        self.output, self.output_basis = _output(run.request, self.requests, spent)

    def dollars(self, *, is_batch: bool) -> Span | None:
        prices = prices_of(self._run, [self._model], is_batch=is_batch)
        if prices is None:
            return None
        if not self.requests:
            return Span(0.0, 0.0)
        low = self._at(prices, self.input.low, self.cached, self.output.low)
        if self.input.high is None or self.output.high is None:
            return Span(low, None)
        return Span(low, self._at(prices, self.input.high, 0, self.output.high))

    def _at(self, prices: money.Prices, given: float, cached: float, made: float) -> float:
        """Price the mean request, long ones apart: prices have steps by a request's length."""
        requests = np.array([self.requests - self._long, self._long])
        each = 1 / np.maximum(requests, 1)
        inputs = given * np.array([1 - self._long_share, self._long_share]) * each
        shared = np.minimum(min(cached, given) / self.requests, inputs)
        outputs = np.full(2, made / self.requests)
        return float(money.costs(prices, inputs, shared, outputs) @ requests)


def _input(counted: Counted, spent: Spent, *, is_off: bool) -> tuple[Span, str]:
    """Return the input tokens, as measured where that is better than to count them.

    So it is with images, without a tokenizer, and where the service counts in its own way.
    """
    is_measured = spent.requests > 0 and spent.bytes > 0
    if is_measured and (counted.has_images or counted.how is Method.BY_BYTES or is_off):
        tokens = counted.bytes * spent.input / spent.bytes
        if counted.has_images:  # the data of an image is no text: requests count, bytes do not
            tokens = counted.requests * spent.input / spent.requests
        spread = _SPREAD / math.sqrt(spent.requests)
        # Requests that were not answered may be longer than those that were.
        most = max(tokens * (1 + spread), counted.high)
        found = Span(tokens * max(0.0, 1 - spread), most)
        return found, f"as {wording.counted(spent.requests, 'request')} before"
    without = ", images not counted" if counted.has_images else ""
    high = None if counted.has_images else counted.high
    return Span(counted.low, high), counted.basis + without


def _output(request: Request, requests: int, spent: Spent) -> tuple[Span, str]:
    """Return the tokens of so many answers, and what that rests on."""
    if request.endpoint in _SILENT or not requests:
        return Span(0, 0), ""
    cap = output_cap(request.params)
    if spent.requests:
        mean = spent.output / spent.requests
        basis = f"as {wording.counted(spent.requests, 'answer')} before"
        if spent.requests < _FEW:
            return Span(mean * requests / 2, mean * requests * 2), basis
        # What these rows vary by themselves, and what the mean of so few does.
        variance = max(0.0, spent.output_squares / spent.requests - mean**2)
        error = math.sqrt(variance * (requests + requests**2 / spent.requests))
        # A few that are all alike do not say that all are.
        half = max(_WITHIN * error, mean * requests / spent.requests)
        low = max(float(requests), mean * requests - half)
        high = max(low, mean * requests + half)
        return Span(low, high if cap is None else max(low, min(high, cap * requests))), basis
    if cap is None:
        return Span(requests, None), "no cap"
    return Span(requests, cap * requests), f"at most {cap:,} a row"


def output_cap(params: Mapping[str, Any]) -> int | None:
    """Return how many tokens an answer may have at most, if the request says so."""
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        value = params.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            times = params.get("best_of")
            return value * times if isinstance(times, int) and times > 1 else value
    return None


def _summed(parts: Iterable[Span | None]) -> Span | None:
    total = Span(0.0, 0.0)
    for part in parts:
        if part is None:
            return None
        total = total + part
    return total


# -- prompts that a cache can hold ----------------------------------------------------------


def shape_text(params: Mapping[str, Any]) -> str:
    """Return what a model is shown of a schema and tools: it stands before all messages."""
    text = params.get("text")
    form = text.get("format") if isinstance(text, Mapping) else params.get("response_format")
    shown = [one for one in (form, params.get("tools")) if one]
    return "".join(json.dumps(one, default=str, ensure_ascii=False) for one in shown)


def cache_note(first: int, rest: int) -> str | None:
    """Say that a cache could hold the constant part of a prompt, were it first; None if it does.

    `first` are the tokens that all requests have in common from their beginning on, `rest` those
    that they have in common after text of the row.
    """
    if first >= _CACHED_FROM or first + rest < _CACHED_FROM:
        return None
    return (
        f"about {rest:,} tokens of the prompt are the same for every row but stand after text of"
        " the row: put them first, before any {{ }}, and the service's cache makes them cheaper"
    )
