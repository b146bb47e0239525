"""What a run may cost, and what it has: ranges that hold, caps that are kept, cents that agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from drafts import NOW, asking
from hypothesis import given
from hypothesis import strategies as st
from lives import Life
from service import Service

from batch_magic import costs, money
from batch_magic.records import (
    Backend,
    Estimate,
    RowStatus,
    RunRecord,
    Span,
    Spent,
)
from batch_magic.tokens import Counted, Method

MODEL = "gpt-5-mini"


def counted(requests: int = 1_000, tokens: int = 50_000, **facts: Any) -> Counted:
    return Counted(
        tokens=tokens,
        low=facts.pop("low", tokens),
        high=facts.pop("high", tokens),
        requests=requests,
        bytes=facts.pop("bytes", 4 * tokens),
        how=facts.pop("how", Method.COUNTED),
        sampled=requests,
        has_images=facts.pop("has_images", False),
    )


def estimated(run: RunRecord, spent: Spent | None = None, **facts: Any) -> Estimate:
    model = run.request.model
    before = {} if spent is None else {model: spent}
    prefix_tokens = facts.pop("prefix_tokens", 0)
    return costs.estimate(run, {model: counted(**facts)}, before, prefix_tokens=prefix_tokens)


# -- the range ------------------------------------------------------------------------------


def test_without_a_cap_or_earlier_answers_nothing_bounds_the_cost() -> None:
    """A number that nobody knows is not made up: the lower end alone is told."""
    found = estimated(asking())
    assert found.output == Span(1_000, None)
    assert found.batch_usd is not None
    assert found.batch_usd.high is None
    assert found.batch_usd.low > 0


def test_a_cap_bounds_the_answers() -> None:
    """200 tokens a row are the most that a row can cost."""
    found = estimated(asking(params={"max_completion_tokens": 200}))
    assert found.output == Span(1_000, 200_000)
    assert found.output_basis == "at most 200 a row"
    prices = money.prices_of(MODEL, {}, is_batch=True, now=NOW)
    assert prices is not None
    expected = (50_000 * prices.input.least + 200_000 * prices.output.least) / 1e6
    assert found.batch_usd is not None
    assert found.batch_usd.high == pytest.approx(expected)


def test_at_once_costs_twice() -> None:
    """The saving by batch is the difference of the two."""
    found = estimated(asking(params={"max_completion_tokens": 200}))
    assert found.batch_usd is not None
    assert found.at_once_usd is not None
    assert found.at_once_usd.high == pytest.approx(2 * (found.batch_usd.high or 0))


def test_an_unknown_price_stays_unknown() -> None:
    """No model is free because nobody knows its price."""
    found = estimated(asking(model="nobody-knows"))
    assert (found.batch_usd, found.at_once_usd) == (None, None)
    assert found.input == Span(50_000, 50_000)


def test_one_unknown_price_of_several_spoils_the_sum() -> None:
    """A part of the cost is no cost."""
    run = asking()
    found = costs.estimate(run, {MODEL: counted(), "nobody-knows": counted()}, {})
    assert found.batch_usd is None
    assert found.requests == 2_000


def test_earlier_answers_tell_how_long_answers_are() -> None:
    """Twenty answers of about 30 tokens make a thousand of about 30,000, within a range."""
    lengths = np.array([20, 25, 30, 35, 40] * 4)
    spent = Spent(20, 4_000, 1_000, int(lengths.sum()), float((lengths**2).sum()))
    found = estimated(asking(), spent)
    assert found.output.low < 30_000 < (found.output.high or 0)
    assert (found.output.high or 0) - found.output.low < 8_000
    assert found.output_basis == "as 20 answers before"


def test_one_earlier_answer_makes_a_wide_range() -> None:
    """It tells nothing of how answers vary."""
    found = estimated(asking(), Spent(1, 200, 50, 30, 900.0))
    assert found.output == Span(15_000, 60_000)


def test_a_long_request_is_priced_by_its_own_length() -> None:
    """Prices step by the request, not by the mean: one of 300,000 tokens among short ones."""
    run = asking(model="gpt-5.4", params={"max_completion_tokens": 1})
    long = counted(requests=1, tokens=300_000, bytes=1_200_000)
    alone = costs.estimate(
        run, {"gpt-5.4": replace(long, long_requests=1, long_bytes=1_200_000)}, {}
    )
    mixed = counted(requests=10, tokens=300_900, bytes=1_203_600)
    mixed = replace(mixed, long_requests=1, long_bytes=1_200_000)
    among = costs.estimate(run, {"gpt-5.4": mixed}, {})
    assert alone.at_once_usd is not None
    assert among.at_once_usd is not None
    assert (among.at_once_usd.high or 0) >= (alone.at_once_usd.high or 0) > 1.4


@pytest.mark.parametrize("endpoint", ["/v1/embeddings", "/v1/moderations"])
def test_answers_without_tokens_cost_nothing(endpoint: str) -> None:
    """Vectors and flags are not billed by their length."""
    run = asking(model="text-embedding-3-small")
    found = estimated(replace(run, request=replace(run.request, endpoint=endpoint)))
    assert found.output == Span(0, 0)


def test_images_are_priced_by_what_such_rows_took_before() -> None:
    """Nothing here knows what an image costs; the service's own count does."""
    spent = Spent(10, 9_000_000, 10_000, 300, 9_000.0)
    without = estimated(asking(params={"max_completion_tokens": 9}), has_images=True)
    assert without.input.high is None
    assert "images not counted" in without.basis
    measured = estimated(asking(), spent, has_images=True)
    assert measured.input.low < 1_000_000 < (measured.input.high or 0)


def test_a_long_prefix_may_be_cached() -> None:
    """From 1,024 tokens on, in steps of 128, for all requests but the first: the lower end."""
    params = {"max_completion_tokens": 5}
    plain = estimated(asking(params=params), tokens=2_000_000)
    cached = estimated(asking(params=params), tokens=2_000_000, prefix_tokens=1_500)
    assert cached.cached_tokens == 999 * 1_408
    assert plain.batch_usd is not None
    assert cached.batch_usd is not None
    assert cached.batch_usd.low < plain.batch_usd.low
    assert cached.batch_usd.high == plain.batch_usd.high


@given(st.integers(0, 10**6), st.integers(0, 10**9), st.integers(0, 500), st.integers(0, 10**6))
def test_a_range_is_never_upside_down(
    requests: int, tokens: int, answers: int, output: int
) -> None:
    """Whatever was seen before, the lower end is below the upper one and no cost is negative."""
    spent = Spent(answers, 10 * answers, 5 * answers, output, float(output**2))
    run = asking(params={"max_completion_tokens": 100})
    found = estimated(run, spent, requests=requests, tokens=tokens)
    for span in (found.input, found.output, found.batch_usd, found.at_once_usd):
        assert span is not None
        assert span.low >= 0
        assert span.high is None or span.low <= span.high * (1 + 1e-9)


def test_the_range_of_a_sample_holds_the_truth() -> None:
    """Of 300 populations with a long tail, 20 answers of each foretell the sum of 19 in 20."""
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(300):
        lengths = np.round(rng.lognormal(3.5, rng.uniform(0.1, 0.6), 2_000)) + 1
        seen = lengths[rng.choice(2_000, 20, replace=False)]
        spent = Spent(20, 4_000, 1_000, int(seen.sum()), float((seen**2).sum()))
        found = estimated(asking(), spent, requests=2_000)
        hits += found.output.low <= lengths.sum() <= (found.output.high or 0)
    assert hits >= 0.9 * 300


# -- a prompt that a cache could hold ---------------------------------------------------------


def test_a_prompt_that_a_cache_could_hold_is_told_of() -> None:
    """The remark is for constants behind a row's text, if they are enough together."""
    assert "put them first" in (costs.cache_note(100, 1_000) or "")
    assert costs.cache_note(100, 100) is None
    assert costs.cache_note(1_100, 500) is None


# -- to the cent ----------------------------------------------------------------------------


def dollars_billed(entries: list[dict[str, Any]]) -> float:
    """Price the service's own ledger, each request by itself: of our model, as others share it."""
    total = 0.0
    for entry in entries:
        if entry["model"] != MODEL:
            continue
        is_batch = entry["lane"] != "realtime"
        prices = money.prices_of(entry["model"], {}, is_batch=is_batch, now=NOW)
        assert prices is not None
        names = ("input_tokens", "cached_tokens", "output_tokens")
        tokens = [np.array([float(entry[name])]) for name in names]
        total += float(money.costs(prices, *tokens)[0]) * entry["requests"]
    return total


def test_what_runs_have_cost_is_what_the_service_has_billed(
    life: Life, service: Service, reviews: Any
) -> None:
    """By batch, live and flex, with retries, a cancel and a lane changed: to a millionth."""
    life.backend = Backend("sandbox", "sandbox")  # priced as if it were OpenAI
    before = dollars_billed(service.ledger())
    service.faults(row_status={"status": 429, "share": 0.3, "once": True}, row_twice={"share": 0.5})
    runs = [life.submit(reviews)]
    runs.append(life.submit(reviews.assign(text="live " + reviews.text), asked={"live": True}))
    flex = {"live": True, "tier": "flex"}
    runs.append(life.submit(reviews.assign(text="flex " + reviews.text), asked=flex))
    for run_id in runs:
        life.until_ended(run_id)
    service.faults(row_status=None, stall_after_share=0.5)
    late = reviews.assign(text="late " + reviews.text)
    runs.append(life.submit(late, asked={"deadline_s": 60.0}))
    life.until(runs[-1], lambda run: bool(run.jobs[0].remote and run.jobs[0].remote.completed))
    life.clock.now += 60.0
    life.until_ended(runs[-1])
    paid = [job.cost.paid_usd for one in runs for job in life.run(one).jobs if job.cost]
    assert len({job.is_live for one in runs for job in life.run(one).jobs}) == 2
    billed = dollars_billed(service.ledger()) - before
    assert sum(usd or 0.0 for usd in paid) == pytest.approx(billed, abs=1e-6)
    assert billed > 0


def test_answers_that_the_service_lost_are_in_the_cost(
    life: Life, service: Service, reviews: Any
) -> None:
    """Rows in neither file were billed all the same: the job's own count says so."""
    life.backend = Backend("sandbox", "sandbox")
    before = dollars_billed(service.ledger())
    service.faults(row_missing={"share": 0.5})
    run_id = life.submit(reviews, retries=0)
    run = life.until_ended(run_id)
    assert sum(run.counts.values()) > run.counts[RowStatus.OK]
    (job,) = run.jobs
    assert job.cost is not None
    billed = dollars_billed(service.ledger()) - before
    assert job.cost.paid_usd == pytest.approx(billed, abs=1e-6)
    assert (job.spent or Spent()).requests == run.counts[RowStatus.OK]
