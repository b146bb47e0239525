"""The official SDK gets every answer: files, batches of each text endpoint, answers at once."""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import (
    Batch,
    Completion,
    CreateEmbeddingResponse,
    FileObject,
    ModerationCreateResponse,
)
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from questions import CHAT_MODEL, COUNT, EMBEDDING_MODEL, check_answers, is_answer, questions

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")
PATIENCE_S = 20
SLOW = {"sandbox_fault_in_progress_s": "4000"}  # 50 s at the time scale of these tests


@pytest.fixture
def client() -> Iterator[OpenAI]:
    """The client as its manual starts it, with the environment's base URL and key."""
    with OpenAI() as client:
        yield client


def chat_body(question: str) -> dict[str, Any]:
    """Return a chat request."""
    return {"model": CHAT_MODEL, "messages": [{"role": "user", "content": question}]}


def upload(client: OpenAI, endpoint: str, bodies: Mapping[str, Mapping[str, Any]]) -> FileObject:
    """Upload the lines of a batch."""
    lines = [
        {"custom_id": key, "method": "POST", "url": endpoint, "body": body}
        for key, body in bodies.items()
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return client.files.create(file=("lines.jsonl", data), purpose="batch")


def create(client: OpenAI, endpoint: str, file_id: str, **metadata: str) -> Batch:
    """Create a batch."""
    return client.batches.create(
        input_file_id=file_id,
        endpoint=endpoint,  # type: ignore[arg-type]
        completion_window="24h",
        metadata=metadata,
    )


def wait(client: OpenAI, batch: Batch, *statuses: str) -> Batch:
    """Poll until the batch has one of the statuses (without any: until it has ended)."""
    ends = time.monotonic() + PATIENCE_S
    while batch.status not in (statuses or ENDED):
        assert time.monotonic() < ends, batch.status
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch


def read_lines(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """Return the lines of a result file; none when there is no file."""
    if not file_id:
        return []
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def chat_batch(client: OpenAI, **metadata: str) -> Batch:
    """Create a batch of the usual questions."""
    bodies = {key: chat_body(question) for key, question in questions().items()}
    return create(client, CHAT, upload(client, CHAT, bodies).id, **metadata)


def text_of(endpoint: str, body: dict[str, Any]) -> str | None:
    """Return the answer text as the SDK's own model of the endpoint reads it."""
    if endpoint == CHAT:
        return ChatCompletion.model_validate(body).choices[0].message.content
    if endpoint == "/v1/completions":
        return Completion.model_validate(body).choices[0].text
    return Response.model_validate(body).output_text


@pytest.mark.parametrize(
    ("endpoint", "member", "more"),
    [
        (CHAT, "messages", {}),
        ("/v1/responses", "input", {}),
        ("/v1/completions", "prompt", {"max_tokens": 64}),
    ],
)
def test_a_batch_brings_every_row_its_own_text(
    client: OpenAI, endpoint: str, member: str, more: dict[str, Any]
) -> None:
    """Upload, create, poll and download, for each endpoint that answers with text."""
    asked = questions()
    bodies = {}
    for key, question in asked.items():
        words = [{"role": "user", "content": question}] if member == "messages" else question
        bodies[key] = {"model": CHAT_MODEL, member: words, **more}
    file = client.files.wait_for_processing(upload(client, endpoint, bodies).id, poll_interval=0.05)
    batch = wait(client, create(client, endpoint, file.id, project="colours"))
    assert (batch.status, batch.errors, batch.error_file_id) == ("completed", None, None)
    assert batch.metadata == {"project": "colours"}
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": COUNT, "completed": COUNT, "failed": 0}
    assert batch.usage is not None
    assert batch.usage.output_tokens > 0
    answers = {}
    for line in read_lines(client, batch.output_file_id):
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        answers[line["custom_id"]] = text_of(endpoint, line["response"]["body"])
    check_answers(asked, answers)


def test_a_batch_of_embeddings_brings_the_vectors_that_come_at_once_too(client: OpenAI) -> None:
    """The same text has the same vector in a batch and without one, and no other text has it."""
    asked = questions()
    bodies = {key: {"model": EMBEDDING_MODEL, "input": text} for key, text in asked.items()}
    endpoint = "/v1/embeddings"
    batch = wait(client, create(client, endpoint, upload(client, endpoint, bodies).id))
    at_once = client.embeddings.create(model=EMBEDDING_MODEL, input=list(asked.values()))
    wanted = {key: datum.embedding for key, datum in zip(asked, at_once.data, strict=True)}
    vectors = {}
    for line in read_lines(client, batch.output_file_id):
        body = CreateEmbeddingResponse.model_validate(line["response"]["body"])
        vectors[line["custom_id"]] = body.data[0].embedding
    assert vectors.keys() == wanted.keys()
    for key, vector in vectors.items():
        assert vector == pytest.approx(wanted[key], abs=1e-6)  # the SDK asks for float32
    assert len({tuple(vector) for vector in vectors.values()}) == COUNT


def test_a_batch_of_moderations_brings_a_verdict_for_every_row(client: OpenAI) -> None:
    """Each row has one result with its categories."""
    asked = questions()
    bodies = {
        key: {"model": "omni-moderation-latest", "input": text} for key, text in asked.items()
    }
    endpoint = "/v1/moderations"
    batch = wait(client, create(client, endpoint, upload(client, endpoint, bodies).id))
    lines = read_lines(client, batch.output_file_id)
    assert sorted(line["custom_id"] for line in lines) == sorted(asked)
    for line in lines:
        body = ModerationCreateResponse.model_validate(line["response"]["body"])
        assert body.results[0].flagged is False
        assert body.results[0].category_scores.violence < 0.5


def test_rows_that_fail_are_in_the_error_file_and_nowhere_else(client: OpenAI) -> None:
    """Both files together hold every row once."""
    fault = json.dumps({"status": 429, "every": 3})
    batch = wait(client, chat_batch(client, sandbox_fault_row_status=fault))
    assert batch.status == "completed"
    good = read_lines(client, batch.output_file_id)
    bad = read_lines(client, batch.error_file_id)
    assert len(bad) == COUNT // 3
    assert sorted(line["custom_id"] for line in good + bad) == sorted(questions())
    assert {line["response"]["status_code"] for line in bad} == {429}
    assert all(line["response"]["body"]["error"]["message"] for line in bad)


def test_a_file_with_a_bad_line_fails_as_a_whole_and_names_the_line(client: OpenAI) -> None:
    """Validation errors carry the code and the line, and no row runs."""
    bodies = {"good": chat_body("why?"), "bad": {"model": CHAT_MODEL}}
    batch = wait(client, create(client, CHAT, upload(client, CHAT, bodies).id))
    assert batch.status == "failed"
    assert batch.output_file_id is None
    assert batch.errors is not None
    assert [(error.line, bool(error.code)) for error in batch.errors.data or []] == [(2, True)]


def test_a_cancelled_batch_accounts_for_every_row(client: OpenAI) -> None:
    """A cancel ends in `cancelled`, and asked again it changes nothing."""
    batch = wait(client, chat_batch(client, **SLOW), "in_progress")
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = wait(client, batch)
    assert batch.status == "cancelled"
    assert client.batches.cancel(batch.id).status == "cancelled"
    lines = read_lines(client, batch.output_file_id) + read_lines(client, batch.error_file_id)
    assert sorted(line["custom_id"] for line in lines) == sorted(questions())
    codes = {line["error"]["code"] for line in lines if line["error"]}
    assert codes == {"batch_cancelled"}


def test_a_completed_batch_cannot_be_cancelled(client: OpenAI) -> None:
    """The refusal is the SDK's ConflictError."""
    batch = wait(client, chat_batch(client))
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'completed'"):
        client.with_options(max_retries=0).batches.cancel(batch.id)


def test_batches_are_listed_page_by_page_newest_first(client: OpenAI) -> None:
    """Auto-pagination with small pages sees each batch once."""
    created = [chat_batch(client).id for _ in range(5)]
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert listed[:5] == created[::-1]
    assert len(set(listed)) == len(listed)
    assert len(client.batches.list(limit=2).data) == 2


def test_files_are_listed_page_by_page_in_either_order(client: OpenAI) -> None:
    """Auto-pagination with small pages sees each file once, and only of the purpose asked for."""
    made = [upload(client, CHAT, {"one": chat_body(str(at))}).id for at in range(5)]
    newest = [file.id for file in client.files.list(purpose="batch", limit=2)]
    assert newest[:5] == made[::-1]
    oldest = client.files.list(purpose="batch", limit=2, order="asc")
    assert [file.id for file in oldest] == newest[::-1]
    assert made[0] not in [file.id for file in client.files.list(purpose="batch_output")]


def test_a_file_comes_back_byte_by_byte(client: OpenAI, tmp_path: Path) -> None:
    """The content is what was uploaded, streamed to disk as well as read whole."""
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"custom_id": "one"}\n\xe2\x98\x83\n')
    with path.open("rb") as source:
        file = client.files.create(
            file=source,
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 7200},
        )
    assert (file.filename, file.bytes) == ("lines.jsonl", path.stat().st_size)
    assert file.expires_at == file.created_at + 7200
    assert client.files.content(file.id).content == path.read_bytes()
    copy = tmp_path / "copy.jsonl"
    with client.files.with_streaming_response.content(file.id) as response:
        response.stream_to_file(copy)
    assert copy.read_bytes() == path.read_bytes()


def test_a_deleted_file_is_gone(client: OpenAI) -> None:
    """After the deletion every way to the file is a NotFoundError."""
    file = upload(client, CHAT, {"one": chat_body("why?")})
    assert client.files.delete(file.id).deleted is True
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)
    assert file.id not in [other.id for other in client.files.list()]


def test_refusals_are_the_exceptions_the_sdk_knows(client: OpenAI) -> None:
    """Status, message, param and code arrive in the exception."""
    with pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl"):
        client.files.create(file=("lines.txt", b"{}\n"), purpose="batch")
    with pytest.raises(openai.NotFoundError, match="No batch found"):
        client.batches.retrieve("batch_0")
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, "/v1/nothing", "file-0")
    assert (caught.value.param, caught.value.code) == ("endpoint", "invalid_value")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-refused").models.list()


def test_chat_answers_at_once(client: OpenAI) -> None:
    """One completion, its usage and the model that answered."""
    answer = client.chat.completions.create(**chat_body("why at once?"))
    assert is_answer(answer.choices[0].message.content, "why at once?")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_chat_stream_adds_up_to_the_answer(client: OpenAI) -> None:
    """The pieces make the text, the last choice ends it, and the usage comes at the end."""
    stream = client.chat.completions.create(
        **chat_body("why in pieces?"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert is_answer("".join(pieces), "why in pieces?")
    assert (reasons[-1], chunks[-1].choices) == ("stop", [])
    assert chunks[-1].usage is not None


def test_responses_answer_at_once_and_in_a_stream(client: OpenAI) -> None:
    """The SDK's own accumulation of events ends in the same text."""
    plain = client.responses.create(model=CHAT_MODEL, input="why respond?")
    assert is_answer(plain.output_text, "why respond?")
    with client.responses.stream(model=CHAT_MODEL, input="why respond?") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == plain.output_text
    assert final.status == "completed"


def test_many_at_once_get_their_own_answers() -> None:
    """The asynchronous client's concurrent calls do not mix."""
    asked = questions(40)

    async def ask_all() -> dict[str, str | None]:
        async with AsyncOpenAI() as client:
            answers = await asyncio.gather(
                *(client.chat.completions.create(**chat_body(text)) for text in asked.values())
            )
        texts = [answer.choices[0].message.content for answer in answers]
        return dict(zip(asked, texts, strict=True))

    check_answers(asked, asyncio.run(ask_all()))


def test_models_can_be_listed_and_looked_up(client: OpenAI) -> None:
    """Clients that check a model's name first find it."""
    assert CHAT_MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(CHAT_MODEL).id == CHAT_MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nonexistent-model-xyz")
