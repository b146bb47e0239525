"""Cached tokens: what a long beginning costs the second time."""

from collections.abc import Callable
from typing import Any

import openai
import pytest

from .conftest import Sandbox, lines, row, submit, wait

MODEL = "gpt-5-mini"
LONG = "x" * 4 * 1300  # 1,304 tokens with its frame, so 1,280 in steps of 128


def _messages(system: str, text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


def _cached(client: openai.OpenAI, system: str, text: str = "hello", model: str = MODEL) -> int:
    given: Any = {"model": model, "messages": _messages(system, text)}
    usage: Any = client.chat.completions.create(**given).usage
    assert usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens
    return int(usage.prompt_tokens_details.cached_tokens)


def test_long_beginning_is_cached_from_the_second_request_on(own: Sandbox) -> None:
    """In steps of 128, per model, whatever the last message says."""
    own.faults(prompt_cache=True)
    client = own.client()
    assert _cached(client, LONG, "one") == 0
    assert _cached(client, LONG, "two") == 1280
    assert _cached(client, LONG, "two") == 1280
    assert _cached(client, LONG + "y", "two") == 0
    assert _cached(client, LONG, "two", model="gpt-5.4") == 0
    cached = [entry["cached_tokens"] for entry in own.control("ledger")["entries"]]
    assert sorted(cached) == [0, 0, 0, 1280]


@pytest.mark.parametrize(("tokens", "cached"), [(1023, 0), (1024, 1024), (1151, 1024)])
def test_short_beginning_is_never_cached(own: Sandbox, tokens: int, cached: int) -> None:
    """The least is 1,024 tokens, the frame of the message among them."""
    own.faults(prompt_cache=True)
    client = own.client()
    system = "x" * 4 * (tokens - 4)
    assert [_cached(client, system), _cached(client, system)] == [0, cached]


def test_nothing_is_cached_unless_asked_for(client: openai.OpenAI) -> None:
    """A price that depends on what came before is for those who want it."""
    assert [_cached(client, LONG) for _ in range(3)] == [0, 0, 0]


def test_instructions_and_streams_are_cached_too(own: Sandbox) -> None:
    """The other door names its usage otherwise; a stream ends with the same numbers."""
    own.faults(prompt_cache=True)
    client = own.client()
    for expected in (0, 1280):
        answer = client.responses.create(model=MODEL, instructions=LONG, input="hello")
        assert answer.usage is not None
        assert answer.usage.input_tokens_details.cached_tokens == expected
    given: Any = {"model": MODEL, "messages": _messages(LONG, "hello")}
    *_, end = client.chat.completions.create(
        **given, stream=True, stream_options={"include_usage": True}
    )
    assert end.usage.prompt_tokens_details.cached_tokens == 1280


def test_rows_of_a_batch_share_their_beginning(own: Sandbox) -> None:
    """All rows but the first, in the rows' usage, the batch's, and the ledger; none of another."""
    client = own.client()
    given = [row(f"r{at}", messages=_messages(LONG, f"row {at}")) for at in range(5)]
    plain = wait(client, submit(client, given))
    assert plain.usage is not None
    assert plain.usage.input_tokens_details.cached_tokens == 0
    batch = wait(client, submit(client, given, prompt_cache=True))
    found = [
        item["response"]["body"]["usage"]["prompt_tokens_details"]["cached_tokens"]
        for item in lines(client, batch.output_file_id)
    ]
    assert sorted(found) == [0, 1280, 1280, 1280, 1280]
    assert batch.usage is not None
    assert batch.usage.input_tokens_details.cached_tokens == 4 * 1280
    entries = own.control("ledger")["entries"]
    assert {entry["cached_tokens"]: entry["requests"] for entry in entries} == {0: 6, 1280: 4}
    assert _cached(client, LONG) == 0  # the switch was that batch's own


def test_embeddings_have_no_cache(own: Sandbox) -> None:
    """Their usage has no such member."""
    own.faults(prompt_cache=True)
    answer = own.client().embeddings.create(model="text-embedding-3-small", input=LONG)
    assert answer.usage.to_dict() == {"prompt_tokens": 1300, "total_tokens": 1300}


def test_restart_forgets_what_was_read(start: Callable[..., Sandbox]) -> None:
    """The cache is the life's, as the real one is of minutes."""
    own = start()
    own.faults(prompt_cache=True)
    _cached(own.client(), LONG)
    own.kill()
    own.start()
    assert _cached(own.client(), LONG) == 0
    assert _cached(own.client(), LONG) == 1280
