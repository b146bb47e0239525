"""batchwork-ai: a client with HTTP code of its own, on httpx and without the official SDK."""

import asyncio
from collections.abc import Awaitable, Callable

from batchwork import (
    BatchEmbeddingRequest,
    BatchJob,
    BatchModerationRequest,
    BatchRequest,
    BatchResult,
    Batchwork,
)
from questions import CHAT_MODEL, EMBEDDING_MODEL, check_answers, questions


def collect(submit: Callable[[Batchwork], Awaitable[BatchJob]]) -> dict[str, BatchResult]:
    """Return the results of one job by custom_id."""

    async def run() -> list[BatchResult]:
        async with Batchwork() as client:
            job = await submit(client)
            await job.wait(poll_interval=0.1, timeout=20)
            return await job.collect()

    return {result.custom_id: result for result in asyncio.run(run())}


def test_batchwork_gets_every_answer_of_a_batch() -> None:
    """Its text batches go through the Responses endpoint."""
    asked = questions()
    requests = [BatchRequest(custom_id=key, prompt=text) for key, text in asked.items()]
    model = f"openai/{CHAT_MODEL}"
    results = collect(lambda client: client.batch(model=model, requests=requests))
    check_answers(asked, {key: result.text for key, result in results.items()})


def test_batchwork_gets_every_vector() -> None:
    """Every embedding request has a vector of its own."""
    asked = questions()
    requests = [BatchEmbeddingRequest(custom_id=key, value=text) for key, text in asked.items()]
    model = f"openai/{EMBEDDING_MODEL}"
    results = collect(lambda client: client.batch_embeddings(model=model, requests=requests))
    assert sorted(results) == sorted(asked)
    assert len({tuple(result.embedding or ()) for result in results.values()}) == len(asked)


def test_batchwork_gets_every_verdict() -> None:
    """Every moderation request has a verdict."""
    asked = questions()
    requests = [BatchModerationRequest(custom_id=key, value=text) for key, text in asked.items()]
    model = "openai/omni-moderation-latest"
    results = collect(lambda client: client.batch_moderations(model=model, requests=requests))
    assert sorted(results) == sorted(asked)
    verdicts = [result.moderation for result in results.values()]
    assert [verdict.flagged for verdict in verdicts if verdict] == [False] * len(asked)


def test_batchwork_cancels() -> None:
    """A cancelled job ends as cancelled."""

    async def run() -> str:
        async with Batchwork() as client:
            job = await client.batch(
                model=f"openai/{CHAT_MODEL}",
                requests=[BatchRequest(custom_id="one", prompt="why?")],
                metadata={"sandbox_fault_in_progress_s": "4000"},
            )
            await job.cancel()
            return (await job.wait(poll_interval=0.1, timeout=20)).status.value

    assert asyncio.run(run()) == "cancelled"
