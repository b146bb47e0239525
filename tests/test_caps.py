"""How much may be spent: caps that are kept, leave that is asked for."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from drafts import NOW, asking

from batch_magic.caps import Leave, asked_for, check_again, lane_again, refusal, waiting
from batch_magic.errors import CellError
from batch_magic.picture import snapshot
from batch_magic.records import Cost, Ending, Estimate, RunRecord, Span


def estimate_of(batch_usd: Span | None, at_once_usd: Span | None, requests: int = 10) -> Estimate:
    tokens = Span(requests, requests)
    return Estimate(requests, tokens, "counted", 0, tokens, "", batch_usd, at_once_usd)


def with_estimate(low: float, high: float | None, **request: Any) -> RunRecord:
    """A run of ten rows that may cost so much by batch, and twice as much at once."""
    span, twice = Span(low, high), Span(2 * low, None if high is None else 2 * high)
    return replace(asking(**request), estimate=estimate_of(span, twice))


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (with_estimate(1.0, 2.0), None),
        (with_estimate(1.0, 2.0, max_cost_usd=2.0), None),
        (with_estimate(1.0, 2.01, max_cost_usd=2.0), "it may cost $1.00 to $2.01"),
        (with_estimate(1.0, None, max_cost_usd=2.0), "nothing bounds the answers"),
        (with_estimate(1.0, None, max_cost_usd=math.inf), None),
        (with_estimate(1.0, 1.5, max_cost_usd=2.0, live=True), "$2.00 to $3.00"),
        (with_estimate(1.0, 1.5, max_cost_usd=2.0, deadline_s=60.0), "$2.00 to $3.00"),
        (with_estimate(1.0, 1.5, max_cost_usd=2.0, live=True, tier="flex"), None),
    ],
)
def test_a_cap_is_kept_in_the_lane_that_the_run_may_take(run: RunRecord, said: str | None) -> None:
    """What may go live is capped at the full price; what nobody can bound is refused."""
    why = refusal(run)
    assert why is None if said is None else said in (why or "")


def test_an_unknown_price_is_refused_under_a_cap() -> None:
    """A cap that cannot be checked is not kept by hope."""
    run = asking(model="nobody-knows", max_cost_usd=5.0)
    why = refusal(replace(run, estimate=estimate_of(None, None)))
    assert "GPTBatch.prices" in (why or "")


def test_nothing_to_send_is_within_every_cap() -> None:
    """Rows that were answered before cost nothing, known price or not."""
    run = asking(model="nobody-knows", max_cost_usd=0.0)
    assert refusal(replace(run, estimate=estimate_of(None, None, requests=0))) is None


def test_leave_is_asked_for_above_the_limit_only() -> None:
    """A cap that the user has named is leave enough."""
    assert asked_for(with_estimate(1.0, 2.0), 0.0) is None
    assert asked_for(with_estimate(1.0, 2.0), 2.0) is None
    assert asked_for(with_estimate(1.0, 2.0), 1.5) == 2.0
    assert asked_for(with_estimate(1.0, None), 1.5) == math.inf
    assert asked_for(with_estimate(1.0, 2.0, max_cost_usd=9.0), 1.5) is None


def test_a_run_that_waits_for_leave_says_for_how_much() -> None:
    """Stopped before anything was sent, with the sum and the limit in its fault."""
    run = with_estimate(1.0, 2.0)
    leave = Leave(above_usd=1.5, may_ask=True)
    asks_usd = leave.to_be_asked(run)
    assert asks_usd == 2.0
    held = waiting(run, leave, asks_usd, NOW)
    assert (held.ending, held.ended_at, held.asks_usd) == (Ending.STOPPED, NOW, 2.0)
    assert held.fault == "not submitted yet: it may cost $2.00, and confirm_above_usd is $1.50"


def test_who_cannot_be_asked_is_told_how_to_allow_it() -> None:
    """A script ends with one line; a sample is refused even where somebody is there."""
    for leave in (Leave(1.5), Leave(1.5, may_ask=True, is_sample=True)):
        with pytest.raises(CellError, match=r"allow it with --max-cost 2\.00"):
            leave.to_be_asked(with_estimate(1.0, 1.999))


def test_a_run_in_flight_asks_for_no_leave_again() -> None:
    """The same cell once more costs nothing; a stopped run goes on in its own lane."""
    run = with_estimate(1.0, 2.0)
    leave = Leave(1.5, may_ask=True)
    assert leave.to_be_asked(run, known=run) is None
    stopped = replace(with_estimate(1.0, 2.0, live=True), ending=Ending.STOPPED)
    assert leave.to_be_asked(run, known=stopped) == 4.0


TWICE = estimate_of(Span(0.1, 0.2), Span(0.2, 0.4), requests=1)
ENDLESS = estimate_of(Span(0.1, None), Span(0.2, None), requests=1)
AGAIN = [
    (asking(), TWICE, None, 0.5, None),
    (asking(), TWICE, None, 0.01, "up to $0.40, and confirm_above_usd is $0.01"),
    (asking(), TWICE, 0.40, 0.01, None),
    (asking(), TWICE, 0.39, 9.0, "up to $0.40, and --max-cost is $0.39"),
    (asking(max_cost_usd=0.3), TWICE, None, 0.0, "--max-cost is $0.30"),
    (asking(max_cost_usd=0.3), TWICE, math.inf, 0.0, None),
    (asking(), ENDLESS, None, 9.0, "nobody knows what it may cost"),
    (asking(), ENDLESS, None, 0.0, None),
    (asking(max_cost_usd=math.inf), ENDLESS, None, 9.0, None),
]


@pytest.mark.parametrize(("run", "found", "cap_usd", "above_usd", "said"), AGAIN)
def test_rows_are_asked_again_only_within_cap_and_leave(
    run: RunRecord, found: Estimate, cap_usd: float | None, above_usd: float, said: str | None
) -> None:
    """At once, by what just these lines may cost; a cap named now is leave."""
    refused = pytest.raises(CellError, match=re.escape(said)) if said else contextlib.nullcontext()
    with refused:
        check_again(run, snapshot(run, NOW), found, cap_usd, Leave(above_usd), live=True)


def test_what_is_spent_counts_against_the_cap() -> None:
    """The cap is the run's, not the question's."""
    run = asking(max_cost_usd=2.1)
    s = replace(snapshot(run, NOW), cost=Cost(1.8, 3.6))
    with pytest.raises(CellError, match=r"\$0.40, \$1.80 are spent, and --max-cost is \$2.10"):
        check_again(run, s, TWICE, None, Leave(0.0), live=True)


def test_what_a_batch_has_answered_counts_at_its_price() -> None:
    """Half of the rows are done by batch, the others go live: $0.30 in all."""
    run = asking(max_cost_usd=0.3)
    s = snapshot(run, NOW)
    check_again(run, s, TWICE, 0.3001, Leave(0.0), live=True, by_batch=0.5)
    with pytest.raises(CellError, match=r"up to \$0.30"):
        check_again(run, s, TWICE, 0.29, Leave(0.0), live=True, by_batch=0.5)


def test_a_retry_is_priced_in_the_lane_that_it_may_take() -> None:
    """As the run was asked for; what was finished by hand is over, a deadline begins anew."""
    ended = {"ending": Ending.FINISHED, "ended_at": NOW}
    assert lane_again(replace(asking(live=True), **ended), live=False)
    assert lane_again(replace(asking(deadline_s=9.0), **ended), live=False)
    assert not lane_again(replace(asking(), live_at=NOW, **ended), live=False)
    assert lane_again(replace(asking(), live_at=NOW, ending=Ending.STOPPED), live=False)
    assert lane_again(replace(asking(), **ended), live=True)


def test_the_saving_is_a_number_of_its_own() -> None:
    """At once less by batch, end by end; unknown where either is."""
    found = with_estimate(1.0, 2.0).estimate
    assert found is not None
    assert found.saving_usd == Span(1.0, 2.0)
    assert replace(found, batch_usd=None).saving_usd is None
    assert replace(found, batch_usd=Span(1.0, None)).saving_usd == Span(1.0, None)
