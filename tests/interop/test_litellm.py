"""litellm's Files and Batches functions, pointed at the sandbox by the environment."""

import io
import json
import time
from typing import Any

import litellm
from questions import CHAT_MODEL, check_answers, is_answer, questions

CHAT = "/v1/chat/completions"
PATIENCE_S = 20


def submit(asked: dict[str, str], **metadata: str) -> Any:
    """Upload the questions and create their batch."""
    lines = [
        {
            "custom_id": key,
            "method": "POST",
            "url": CHAT,
            "body": {"model": CHAT_MODEL, "messages": [{"role": "user", "content": text}]},
        }
        for key, text in asked.items()
    ]
    data = io.BytesIO("".join(json.dumps(line) + "\n" for line in lines).encode())
    file = litellm.create_file(
        file=("lines.jsonl", data), purpose="batch", custom_llm_provider="openai"
    )
    return litellm.create_batch(
        completion_window="24h",
        endpoint=CHAT,
        input_file_id=file.id,
        custom_llm_provider="openai",
        metadata=metadata,
    )


def retrieve(batch_id: str) -> Any:
    """Return a batch."""
    return litellm.retrieve_batch(batch_id=batch_id, custom_llm_provider="openai")


def wait(batch_id: str, *statuses: str) -> Any:
    """Poll until the batch has one of the statuses."""
    ends = time.monotonic() + PATIENCE_S
    while (batch := retrieve(batch_id)).status not in statuses:
        assert time.monotonic() < ends, batch.status
        time.sleep(0.05)
    return batch


def test_litellm_gets_every_answer_of_a_batch() -> None:
    """create_file, create_batch, retrieve_batch and file_content bring each row its answer."""
    asked = questions()
    batch = wait(submit(asked).id, "completed")
    content = litellm.file_content(file_id=batch.output_file_id, custom_llm_provider="openai")
    lines = [json.loads(line) for line in content.text.splitlines()]
    answers = {
        line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
        for line in lines
    }
    check_answers(asked, answers)


def test_litellm_lists_and_cancels() -> None:
    """list_batches has the new batch first; cancel_batch ends it."""
    batch = submit(questions(), sandbox_fault_in_progress_s="4000")
    wait(batch.id, "in_progress")
    listed = litellm.list_batches(limit=5, custom_llm_provider="openai")
    assert listed.data[0].id == batch.id
    litellm.cancel_batch(batch_id=batch.id, custom_llm_provider="openai")
    assert wait(batch.id, "cancelled").id == batch.id


def test_litellm_gets_an_answer_at_once_and_in_a_stream() -> None:
    """completion() answers plainly and piece by piece."""
    ask: dict[str, Any] = {
        "model": f"openai/{CHAT_MODEL}",
        "messages": [{"role": "user", "content": "why litellm?"}],
    }
    assert is_answer(litellm.completion(**ask).choices[0].message.content, "why litellm?")
    pieces = [
        chunk.choices[0].delta.content or "" for chunk in litellm.completion(**ask, stream=True)
    ]
    assert is_answer("".join(pieces), "why litellm?")
