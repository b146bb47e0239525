"""batch-openai: a builder of chat requests and a job that waits, around the official SDK."""

import asyncio

from batch_openai import BatchRequestBuilder
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from questions import CHAT_MODEL, check_answers, questions


class Verdict(BaseModel):
    """What a structured answer must hold."""

    reason: str
    stars: int


def builder_of(asked: dict[str, str], **parameters: object) -> BatchRequestBuilder:
    """Return a builder that holds the questions."""
    builder = BatchRequestBuilder()
    for key, text in asked.items():
        messages = [{"role": "user", "content": text}]
        builder.add(messages, custom_id=key, model=CHAT_MODEL, **parameters)
    return builder


def test_batch_openai_gets_every_answer_of_a_batch() -> None:
    """submit() and wait() bring each request its answer."""
    asked = questions()
    with OpenAI() as client:
        job = builder_of(asked).submit(client, description="colours")
        result = job.wait(poll_interval=0.1)
    assert job.description == "colours"
    assert not result.failed
    check_answers(asked, {item.custom_id: item.content for item in result})


def test_batch_openai_gets_every_answer_asynchronously() -> None:
    """async_submit() and await_completion() do the same."""
    asked = questions()

    async def run() -> dict[str, str | None]:
        async with AsyncOpenAI() as client:
            job = await builder_of(asked).async_submit(client)
            result = await job.await_completion(poll_interval=0.1)
        return {item.custom_id: item.content for item in result}

    check_answers(asked, asyncio.run(run()))


def test_batch_openai_reads_every_structured_answer() -> None:
    """Answers to a strict schema validate as the caller's model."""
    schema = Verdict.model_json_schema() | {"additionalProperties": False}
    response_format = {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "strict": True, "schema": schema},
    }
    asked = questions()
    with OpenAI() as client:
        job = builder_of(asked, response_format=response_format).submit(client)
        result = job.wait(poll_interval=0.1)
    assert len(result.parse(Verdict)) == len(asked)
