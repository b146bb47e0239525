"""openbatch: input files written by a third party, sent with the official SDK."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openbatch import BatchCollector, validate_batch_file
from pydantic import BaseModel
from questions import CHAT_MODEL, EMBEDDING_MODEL, check_answers, questions

PATIENCE_S = 20


class Verdict(BaseModel):
    """What a structured answer must hold."""

    reason: str
    stars: int


def answer_bodies(path: Path, endpoint: Any) -> dict[str, Any]:
    """Send a file that openbatch wrote and return the answer bodies by custom_id."""
    with OpenAI() as client:
        file = client.files.create(file=path, purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h"
        )
        ends = time.monotonic() + PATIENCE_S
        while batch.status not in ("completed", "failed"):
            assert time.monotonic() < ends, batch.status
            time.sleep(0.05)
            batch = client.batches.retrieve(batch.id)
        assert batch.output_file_id, batch.errors
        lines = client.files.content(batch.output_file_id).text.splitlines()
    results = [json.loads(line) for line in lines]
    return {result["custom_id"]: result["response"]["body"] for result in results}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file of requests is written."""
    return tmp_path / "lines.jsonl"


def test_a_chat_file_of_openbatch_is_answered_whole(path: Path) -> None:
    """What its own validator passes, the sandbox answers."""
    asked = questions()
    for key, text in asked.items():
        messages = [{"role": "user", "content": text}]
        BatchCollector(path).chat.completions.create(key, CHAT_MODEL, messages=messages)
    assert validate_batch_file(path).is_valid
    bodies = answer_bodies(path, "/v1/chat/completions")
    texts = {key: body["choices"][0]["message"]["content"] for key, body in bodies.items()}
    check_answers(asked, texts)


def test_a_structured_file_of_openbatch_is_answered_whole(path: Path) -> None:
    """Responses with the strict schema of a pydantic model come back as that model."""
    asked = questions()
    for key, text in asked.items():
        BatchCollector(path).responses.parse(key, CHAT_MODEL, text_format=Verdict, input=text)
    bodies = answer_bodies(path, "/v1/responses")
    assert sorted(bodies) == sorted(asked)
    for body in bodies.values():
        Verdict.model_validate_json(body["output"][0]["content"][0]["text"])


def test_an_embedding_file_of_openbatch_is_answered_whole(path: Path) -> None:
    """Every text has a vector of its own."""
    asked = questions()
    for key, text in asked.items():
        BatchCollector(path).embeddings.create(key, EMBEDDING_MODEL, text)
    bodies = answer_bodies(path, "/v1/embeddings")
    assert sorted(bodies) == sorted(asked)
    assert len({tuple(body["data"][0]["embedding"]) for body in bodies.values()}) == len(asked)
