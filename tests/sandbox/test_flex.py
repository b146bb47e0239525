"""The service tier of requests that are answered at once, but late and at half the price."""

from typing import Any

import openai
import pytest

from .conftest import Sandbox, lines, row, submit, wait

MODEL = "gpt-5-mini"


def _chat(client: openai.OpenAI, **body: Any) -> Any:
    messages = [{"role": "user", "content": "hello"}]
    given: Any = {"model": MODEL, "messages": messages} | body
    return client.chat.completions.create(**given)


def _lanes(sandbox: Sandbox) -> dict[str, int]:
    counted: dict[str, int] = {}
    for entry in sandbox.control("ledger")["entries"]:
        counted[entry["lane"]] = counted.get(entry["lane"], 0) + entry["requests"]
    return counted


def test_answer_says_the_tier_it_was_made_in(client: openai.OpenAI) -> None:
    """Whoever prices an answer reads the tier off it, through both doors."""
    assert _chat(client, service_tier="flex").service_tier == "flex"
    assert client.responses.create(model=MODEL, input="x", service_tier="flex").service_tier == (
        "flex"
    )
    for tier in ("auto", "default", "priority", "scale", "fast", None):
        assert _chat(client, service_tier=tier).service_tier == "default"


def test_stream_says_its_tier(client: openai.OpenAI) -> None:
    """A stream is read piece by piece, so each of its pieces says it."""
    pieces = list(_chat(client, service_tier="flex", stream=True))
    assert {piece.service_tier for piece in pieces} == {"flex"}
    given: Any = client.responses.create(model=MODEL, input="x", service_tier="flex", stream=True)
    assert list(given)[-1].response.service_tier == "flex"


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4.1-mini", "o1", "sandbox-stub"])
def test_model_without_flex_refuses_it(client: openai.OpenAI, model: str) -> None:
    """The mistake is a 400 that names the member, not an answer at the full price."""
    with pytest.raises(openai.BadRequestError, match="Flex is not available") as caught:
        _chat(client, model=model, service_tier="flex")
    assert (caught.value.type, caught.value.param) == ("invalid_request_error", "service_tier")
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model=model, input="x", service_tier="flex")


@pytest.mark.parametrize("model", ["gpt-5", "gpt-5.4-mini", "gpt-6-luna", "o3", "o4-mini"])
def test_models_with_flex_have_it(client: openai.OpenAI, model: str) -> None:
    """The families that are sold at that price."""
    assert _chat(client, model=model, service_tier="flex").service_tier == "flex"


@pytest.mark.parametrize(("tier", "code"), [("cheap", "invalid_value"), (1, "invalid_type")])
def test_tier_that_is_none_is_refused(client: openai.OpenAI, tier: Any, code: str) -> None:
    """A misspelt tier would be the full price, unnoticed."""
    with pytest.raises(openai.BadRequestError) as caught:
        _chat(client, service_tier=tier)
    assert (caught.value.param, caught.value.code) == ("service_tier", code)


def test_flex_without_room_is_refused_and_not_billed(own: Sandbox) -> None:
    """The client may try again or pay the usual price; others notice nothing."""
    own.faults(flex_unavailable={"route": "chat.completions", "times": 2})
    client = own.client()
    assert _chat(client).service_tier == "default"
    for _ in range(2):
        with pytest.raises(openai.RateLimitError, match="Resource Unavailable") as caught:
            _chat(client, service_tier="flex")
        assert caught.value.code == "resource_unavailable"
        assert "retry-after" not in caught.value.response.headers
    assert client.responses.create(model=MODEL, input="x", service_tier="flex").status
    assert _lanes(own) == {"realtime": 1, "flex": 1}
    assert _chat(client, service_tier="flex").service_tier == "flex"
    assert _lanes(own) == {"realtime": 1, "flex": 2}


def test_flex_can_be_full_for_good(own: Sandbox) -> None:
    """True is every request of that tier, for all of a test."""
    own.faults(flex_unavailable=True)
    client = own.client(max_retries=1)
    with pytest.raises(openai.RateLimitError):
        _chat(client, service_tier="flex")
    with pytest.raises(openai.RateLimitError):
        client.responses.create(model=MODEL, input="x", service_tier="flex")
    assert _chat(client).choices
    with pytest.raises(openai.BadRequestError):
        _chat(client, model="gpt-4o-mini", service_tier="flex")


def test_batch_rows_are_never_flex(own: Sandbox) -> None:
    """A batch has its own price whatever its rows ask for, and a wrong tier is a failed row."""
    own.faults(flex_unavailable=True)
    client = own.client()
    given = [row("a", service_tier="flex"), row("b", service_tier="cheap")]
    batch = wait(client, submit(client, given))
    [answered] = lines(client, batch.output_file_id)
    assert answered["response"]["body"]["service_tier"] == "default"
    [failed] = lines(client, batch.error_file_id)
    assert failed["response"]["body"]["error"]["param"] == "service_tier"
    assert _lanes(own) == {"batch": 1}
