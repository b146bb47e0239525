"""The limits of the endpoints that answer at once: shown, kept, and over after a real wait."""

import concurrent.futures
import math
import re
import time
import urllib.error
from collections.abc import Callable
from typing import Any

import openai
import pytest

from .conftest import Sandbox, row, submit, wait

MODEL = "gpt-5-mini"
DURATION = re.compile(r"(?:(\d+)m)?(\d+(?:\.\d{1,3})?)s|(\d+)ms")

Asker = Callable[[openai.OpenAI], Any]
ASKERS: dict[str, Asker] = {
    "chat.completions": lambda client: client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "hello"}]
    ),
    "responses": lambda client: client.responses.with_raw_response.create(
        model=MODEL, input="hello"
    ),
    "completions": lambda client: client.completions.with_raw_response.create(
        model=MODEL, prompt="hello"
    ),
    "embeddings": lambda client: client.embeddings.with_raw_response.create(
        model=MODEL, input="hello"
    ),
    "moderations": lambda client: client.moderations.with_raw_response.create(
        model=MODEL, input="hello"
    ),
}


def _ask(client: openai.OpenAI, text: str = "hello", **body: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    given: Any = {"model": MODEL, "messages": messages} | body
    return client.chat.completions.with_raw_response.create(**given)


def _refused(client: openai.OpenAI, text: str = "hello", **body: Any) -> openai.RateLimitError:
    with pytest.raises(openai.RateLimitError) as caught:
        _ask(client, text, **body)
    return caught.value


def _seconds(text: str) -> float:
    found = DURATION.fullmatch(text)
    assert found, text
    minutes, seconds, milliseconds = found.groups()
    return int(minutes or 0) * 60 + float(seconds or 0) + int(milliseconds or 0) / 1000


@pytest.mark.parametrize("route", ASKERS)
def test_every_endpoint_shows_its_limits(own: Sandbox, route: str) -> None:
    """A client paces itself by these headers, so they are on the answers that went well."""
    headers = ASKERS[route](own.client()).headers
    assert headers["x-ratelimit-limit-requests"] == "30000"
    assert headers["x-ratelimit-limit-tokens"] == "150000000"
    assert headers["x-ratelimit-remaining-requests"] == "29999"
    assert headers["x-ratelimit-reset-requests"] == "2ms"
    assert 149_999_900 < int(headers["x-ratelimit-remaining-tokens"]) < 150_000_000
    assert headers["x-ratelimit-reset-tokens"] == "0s"


def test_streams_and_refusals_show_limits_too(own: Sandbox) -> None:
    """A stream's headers come before its words; a 400 cost nothing, a mark's 500 a request."""
    client = own.client()
    headers = _ask(client, stream=True).headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["x-ratelimit-remaining-requests"] == "29999"
    own.faults(realtime_limits={"requests": 10})
    with pytest.raises(openai.BadRequestError) as bad:
        _ask(client, service_tier="best")
    assert bad.value.response.headers["x-ratelimit-remaining-requests"] == "10"
    with pytest.raises(openai.NotFoundError) as missing:
        _ask(client, model="nonexistent-1")
    assert missing.value.response.headers["x-ratelimit-limit-requests"] == "10"
    with pytest.raises(openai.InternalServerError) as broken:
        _ask(client, "[[fault:500]]")
    assert broken.value.response.headers["x-ratelimit-remaining-requests"] == "9"


def test_one_request_too_many_is_refused_and_not_billed(own: Sandbox) -> None:
    """The 429 says which limit, and in three places how long to wait; it costs nothing."""
    own.faults(realtime_limits={"requests": 2})
    client = own.client()
    assert _ask(client).headers["x-ratelimit-remaining-requests"] == "1"
    assert _seconds(_ask(client).headers["x-ratelimit-reset-requests"]) > 50
    error = _refused(client)
    assert (error.type, error.code, error.param) == ("requests", "rate_limit_exceeded", None)
    body: Any = error.body
    assert body["message"].startswith(
        "Rate limit reached for gpt-5-mini on requests per min (RPM): "
        "Limit 2, Used 2, Requested 1. Please try again in 2"
    )
    headers = error.response.headers
    wait_ms = int(headers["retry-after-ms"])
    assert 20_000 < wait_ms <= 30_000
    assert headers["retry-after"] == str(math.ceil(wait_ms / 1000))
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert sum(entry["requests"] for entry in own.control("ledger")["entries"]) == 2


def test_one_token_too_many_names_the_wait_until_there_is_room(own: Sandbox) -> None:
    """Bytes of the body by four and the output allowed are counted before the answer is made."""
    own.faults(realtime_limits={"tokens": 6000})
    client = own.client()
    headers = _ask(client, "x" * 4000, max_completion_tokens=4000).headers
    left = int(headers["x-ratelimit-remaining-tokens"])
    assert 850 < left < 1000
    error = _refused(client, max_completion_tokens=2000)
    assert (error.type, error.code) == ("tokens", "rate_limit_exceeded")
    assert "on tokens per min (TPM): Limit 6000, Used " in error.message
    wait_s = int(error.response.headers["retry-after-ms"]) / 1000
    assert wait_s == pytest.approx((2000 + 20 - left) / 100, abs=5)
    assert f"Please try again in {wait_s:.3f}".rstrip("0") in error.message
    assert error.response.headers["x-ratelimit-limit-requests"] == "30000"


def test_request_larger_than_the_limit_names_no_wait(own: Sandbox) -> None:
    """No wait helps it, and it has been a request all the same."""
    own.faults(realtime_limits={"requests": 5, "tokens": 1000})
    error = _refused(own.client(), "x" * 8000)
    assert (error.type, error.code) == ("tokens", "rate_limit_exceeded")
    assert "Request too large for gpt-5-mini on tokens per min (TPM): Limit 1000" in error.message
    headers = error.response.headers
    assert "retry-after" not in headers
    assert "retry-after-ms" not in headers
    assert headers["x-ratelimit-remaining-tokens"] == "1000"
    assert headers["x-ratelimit-reset-tokens"] == "0s"
    assert headers["x-ratelimit-remaining-requests"] == "4"


def test_wait_that_was_named_is_enough_in_real_time(own: Sandbox) -> None:
    """The virtual clock brings nothing back: a client really waits, and then is let in."""
    own.faults(realtime_limits={"requests": 30})
    client = own.client()
    while True:
        try:
            _ask(client)
        except openai.RateLimitError as error:
            headers = error.response.headers
            break
    own.advance(3600)
    _refused(client)
    time.sleep(int(headers["retry-after-ms"]) / 1000)
    _ask(client)


def test_patient_sdk_gets_through_by_itself(own: Sandbox) -> None:
    """The official client obeys retry-after-ms, so nothing is lost but time."""
    own.faults(realtime_limits={"requests": 60})
    client = own.client(max_retries=5)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: _ask(client), range(62)))
    assert [answer.status_code for answer in answers] == [200] * 62
    answered = own.control("requests")["answers"]
    assert answered["chat.completions 200"] == 62
    assert answered["chat.completions 429"] >= 1
    assert sum(entry["requests"] for entry in own.control("ledger")["entries"]) == 62


def test_each_model_has_limits_of_its_own(own: Sandbox) -> None:
    """One model's traffic takes nothing from another's, whatever the endpoint."""
    own.faults(realtime_limits={"requests": 1})
    client = own.client()
    _ask(client)
    with pytest.raises(openai.RateLimitError):
        client.responses.create(model=MODEL, input="hello")
    _ask(client, model="gpt-5.4")


def test_limits_taken_away_are_the_usual_ones(own: Sandbox) -> None:
    """A test may slow the service down and let it go again."""
    own.faults(realtime_limits={"requests": 1})
    client = own.client()
    _ask(client)
    _refused(client)
    own.faults(realtime_limits=None)
    assert _ask(client).headers["x-ratelimit-limit-requests"] == "30000"


def test_batch_takes_nothing_from_the_limits(own: Sandbox) -> None:
    """The batch has a pool of its own."""
    own.faults(realtime_limits={"requests": 2})
    client = own.client()
    batch = wait(client, submit(client, [row(f"r{at}") for at in range(5)]))
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 5
    assert _ask(client).headers["x-ratelimit-remaining-requests"] == "1"


@pytest.mark.parametrize(
    "value", [True, 60, {"requests": 0}, {"requests": 1.5}, {"tokens": "many"}, {"minutes": 1}]
)
def test_limits_that_are_none_are_refused(own: Sandbox, value: Any) -> None:
    """A slip is a 400 where it is set."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        own.faults(realtime_limits=value)
    assert caught.value.code == 400
    caught.value.close()


def test_quota_gone_is_no_rate_limit(own: Sandbox) -> None:
    """Both are a 429, and only the code tells them apart; neither is billed."""
    own.faults(insufficient_quota={"route": "chat.completions"})
    client = own.client()
    error = _refused(client)
    assert (error.type, error.code) == ("insufficient_quota", "insufficient_quota")
    assert "retry-after" not in error.response.headers
    assert own.control("ledger") == {"entries": []}
    assert client.responses.create(model=MODEL, input="hello").status == "completed"


def test_answer_at_once_can_be_late_or_an_error(own: Sandbox) -> None:
    """The switches of calls know these routes by name."""
    own.faults(http_delay={"route": "chat.completions", "delay_s": 0.5, "times": 1})
    client = own.client()
    began = time.monotonic()
    _ask(client)
    assert time.monotonic() - began >= 0.5
    own.faults(http_status={"route": "chat.completions", "status": 503, "times": 1})
    with pytest.raises(openai.InternalServerError):
        _ask(client)
    _ask(client)


def test_true_is_every_call(own: Sandbox) -> None:
    """A switch of calls without a choice hits all of them, and nonsense is refused at once."""
    own.faults(insufficient_quota=True)
    client = own.client()
    for call in (client.models.list, client.batches.list):
        with pytest.raises(openai.RateLimitError):
            call()
    own.faults(insufficient_quota=False)
    client.models.list()
    with pytest.raises(urllib.error.HTTPError) as caught:
        own.faults(insufficient_quota="chat.completions")
    assert caught.value.code == 400
    caught.value.close()
