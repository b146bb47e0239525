"""What answers cost: as the price list says, request by request, and to the cent of the bill."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drafts import run_of
from genai_prices import Usage, calc_price
from hypothesis import given
from hypothesis import strategies as st
from service import serving

import batch_magic as bm
from batch_magic import session
from batch_magic.costs import row_costs
from batch_magic.errors import CellError
from batch_magic.money import costs, prices_of
from batch_magic.records import Request

NOW = time.time()
LISTED = ("gpt-5-mini", "gpt-4.1-mini", "gpt-6-luna", "gpt-5.4", "gpt-4o-mini")


def of(*numbers: float) -> np.ndarray[Any, Any]:
    return np.array(numbers, dtype=float)


@given(
    st.sampled_from(LISTED),
    st.booleans(),
    st.integers(0, 400_000) | st.sampled_from([271_999, 272_000, 272_001]),
    st.floats(0, 1),
    st.integers(0, 10_000),
)
def test_a_request_costs_what_the_list_says(
    model: str, is_batch: bool, given_tokens: int, share: float, made: int
) -> None:
    """Steps by the length of the request included."""
    cached = int(given_tokens * share)
    prices = prices_of(model, {}, is_batch=is_batch, now=NOW)
    assert prices is not None
    (ours,) = costs(prices, of(given_tokens), of(cached), of(made))
    usage = Usage(input_tokens=given_tokens, cache_read_tokens=cached, output_tokens=made)
    context: Any = {"processing": "batch"} if is_batch else None
    theirs = calc_price(usage, model_ref=model, provider_id="openai", price_context=context)
    assert ours == pytest.approx(float(theirs.total_price), rel=1e-9, abs=1e-15)


def test_a_price_that_is_not_known_is_none() -> None:
    """The list gives the full price where it knows no batch price; and tokens may be missing."""
    assert prices_of("text-embedding-3-small", {}, is_batch=True, now=NOW) is None
    assert prices_of("text-embedding-3-small", {}, is_batch=False, now=NOW) is not None
    assert prices_of("nobody-knows", {}, is_batch=True, now=NOW) is None
    prices = prices_of("gpt-5-mini", {}, is_batch=True, now=NOW)
    assert prices is not None
    assert np.isnan(costs(prices, of(np.nan), of(np.nan), of(np.nan))).all()


def test_the_users_own_prices_come_first() -> None:
    """By batch as given; at once twice as much; cached input costs the same unless said."""
    own = {"gpt-5-mini": {"input": 1.0, "output": 3.0}}
    prices = prices_of("gpt-5-mini", own, is_batch=True, now=NOW)
    at_once = prices_of("gpt-5-mini", own, is_batch=False, now=NOW)
    assert prices is not None
    assert at_once is not None
    assert costs(prices, of(1e6), of(5e5), of(1e6)).tolist() == [4.0]
    assert costs(at_once, of(1e6), of(0), of(0)).tolist() == [2.0]


@pytest.mark.parametrize(
    "wrong", [5, {"input": -1}, {"output": 1}, {"input": "1"}, {"input": True}, {"in": 1}]
)
def test_a_price_of_no_use_is_refused(wrong: Any) -> None:
    """Before anything is sent."""
    with pytest.raises(CellError, match="price of 'm'"):
        prices_of("m", {"m": wrong}, is_batch=True, now=NOW)


def test_the_users_price_by_the_name_that_was_asked_beats_the_list() -> None:
    """The service answers as a dated model, which the list knows."""
    request = Request("/v1/chat/completions", "gpt-5-mini", "", prices={"gpt-5-mini": {"input": 7}})
    run = run_of(request=request, created_at=NOW)
    paid = row_costs(
        run, ["gpt-5-mini-2025-08-07"], "gpt-5-mini", of(1e6), of(0), of(0), is_batch=True
    )
    assert paid.tolist() == [7.0]


@pytest.fixture
def frame() -> pd.DataFrame:
    texts = ["a", "b", "a", "[[fault:400]]", "c" * 400]
    return pd.DataFrame({"text": texts}, index=[3, 1, 4, 1, 5])


def test_a_run_costs_what_the_service_bills(
    tmp_path: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows add up to the run, the run to the tokens that the service has counted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCH_MAGIC_POLL_FIRST_S", "0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("BATCH_MAGIC_PRICES", '{"m": {"input": 2, "output": 8}}')
    with serving(tmp_path / "service") as service:
        asked: dict[str, Any] = {"on": service.url, "keep": ["cost", "usage"], "model": "m"}
        run = bm.submit(frame, "{{ text }}", out="first", **asked)
        result = run.wait(timeout_s=60)
        again = bm.submit(frame.head(3), "{{ text }}", out="again", **asked).wait(timeout_s=60)
        unknown = bm.submit(frame.head(1), "x {{ text }}", out="x", **{**asked, "model": "n"})
        without_price = unknown.wait(timeout_s=60)
        billed = [batch["usage"] for batch in service.batches(run.run_id)]
        session.close_sessions()
    cost = result["gpt_cost"]
    assert cost.isna().tolist() == [False, False, False, True, False]
    assert cost.iloc[2] == 0.0  # the first row's answer
    own = 2e-6 * result["gpt_usage_input"] + 8e-6 * result["gpt_usage_output"]
    assert cost.iloc[[0, 1, 4]].tolist() == pytest.approx(own.iloc[[0, 1, 4]].tolist())
    paid = run.snapshot().cost
    assert paid is not None
    assert paid.paid_usd == pytest.approx(cost.sum())
    assert paid.at_once_usd == pytest.approx(2 * cost.sum())
    assert result.attrs["gptbatch"]["cost_usd"] == paid.paid_usd
    tokens = [(one["input_tokens"], one["output_tokens"]) for one in billed if one]
    assert paid.paid_usd == pytest.approx(sum(2e-6 * i + 8e-6 * o for i, o in tokens))
    assert again["gpt_cost"].tolist() == [0.0, 0.0, 0.0]
    assert without_price["gpt_cost"].isna().all()
    assert without_price.attrs["gptbatch"]["cost_usd"] is None
