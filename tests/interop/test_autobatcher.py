"""autobatcher: concurrent calls of a drop-in client that become batches behind its back."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from autobatcher import BatchOpenAI
from conftest import KEY
from questions import CHAT_MODEL, EMBEDDING_MODEL, check_in_order, questions


def batching_client(sandbox: str) -> BatchOpenAI:
    """Return a client that sends its batches soon and polls often."""
    return BatchOpenAI(
        api_key=KEY,
        base_url=sandbox,
        batch_window_seconds=0.2,
        poll_interval_seconds=0.1,
        completion_window="24h",  # its word for the Batch API
    )


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_autobatcher_gets_every_answer_of_one_batch(
    sandbox: str, calls: Callable[[], Counter[str]], endpoint: str
) -> None:
    """All concurrent calls go out in one batch and come back in their order."""
    asked = list(questions().values())

    async def ask(client: BatchOpenAI, text: str) -> str | None:
        if endpoint == "responses":
            return (await client.responses.create(model=CHAT_MODEL, input=text)).output_text
        message: dict[str, Any] = {"role": "user", "content": text}
        answer = await client.chat.completions.create(model=CHAT_MODEL, messages=[message])
        return answer.choices[0].message.content

    async def ask_all() -> list[str | None]:
        async with batching_client(sandbox) as client:
            return await asyncio.gather(*(ask(client, text) for text in asked))

    check_in_order(asked, asyncio.run(ask_all()))
    assert calls()["batches.create"] == 1
    assert not calls().keys() & {"chat.completions", "responses"}


def test_autobatcher_gets_every_vector(sandbox: str) -> None:
    """Embeddings go through a batch too, and no two texts have the same vector."""
    asked = list(questions().values())

    async def ask_all() -> list[Any]:
        async with batching_client(sandbox) as client:
            calls = (client.embeddings.create(model=EMBEDDING_MODEL, input=text) for text in asked)
            return await asyncio.gather(*calls)

    vectors = [tuple(answer.data[0].embedding) for answer in asyncio.run(ask_all())]
    assert len(set(vectors)) == len(asked)
