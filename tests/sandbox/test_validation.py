"""What the service finds wrong with an input, and what it says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from .conftest import CHAT, Sandbox, jsonl, row, rows, submit, wait

GOOD = row("good")


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in row("bad").items() if key != name}


def _body_without(name: str) -> dict[str, Any]:
    bad = row("bad")
    del bad["body"][name]
    return bad


DUPLICATE = (
    "The custom_id for this request is a duplicate of another request. "
    "The custom_id parameter must be unique for each request in a batch."
)
TABLE: list[tuple[Any, str, str | None, str]] = [
    ("{not json", "invalid_json_line", None, "This line is not parseable as valid JSON."),
    ("", "invalid_json_line", None, "This line is not parseable as valid JSON."),
    ('{"custom_id": NaN}', "invalid_json_line", None, "This line is not parseable as valid JSON."),
    ("[1]", "invalid_json_line", None, "This line is not parseable as valid JSON."),
    *(
        (
            _without(name),
            "missing_required_parameter",
            name,
            f"Missing required parameter: '{name}'.",
        )
        for name in ("custom_id", "method", "url", "body")
    ),
    (
        _body_without("messages"),
        "missing_required_parameter",
        "body.messages",
        "Missing required parameter: 'messages'.",
    ),
    (
        _body_without("model"),
        "missing_required_parameter",
        "body.model",
        "Missing required parameter: 'model'.",
    ),
    (row("good"), "duplicate_custom_id", "custom_id", DUPLICATE),
    (
        row("bad", url="/v1/responses"),
        "invalid_url",
        "url",
        "The URL provided for this request does not match the batch endpoint.",
    ),
    (
        row("bad", model="nonexistent-model-xyz"),
        "model_not_found",
        "body.model",
        "The provided model 'nonexistent-model-xyz' is not supported by the Batch API.",
    ),
    (
        row("bad", model="gpt-4o"),
        "mismatched_model",
        "body.model",
        "The model 'gpt-4o' for this request does not match the rest of the batch. "
        "Each batch must contain requests for a single model.",
    ),
    (
        row("bad", stream=True),
        "streaming_unsupported",
        "body.stream",
        "Chat Completions: Streaming is not supported in the Batch API.",
    ),
]


@pytest.mark.parametrize(("line", "code", "param", "message"), TABLE)
def test_one_bad_line_fails_the_batch(
    shared: Sandbox, line: Any, code: str, param: str | None, message: str
) -> None:
    """Code, param, wording and the 1-based line are what a client branches on and shows."""
    text = line if isinstance(line, str) else json.dumps(line)
    data = jsonl([GOOD]) + text.encode() + b"\n" + jsonl([row("last")])
    client = shared.client()
    batch = wait(client, submit(client, data))
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    [error] = batch.errors.data
    assert (error.code, error.param, error.line, error.message) == (code, param, 2, message)
    assert batch.request_counts is not None
    assert batch.request_counts.total == 0
    assert batch.in_progress_at is None
    assert (batch.output_file_id, batch.error_file_id) == (None, None)
    assert shared.truth(batch.id)["rows_answered"] == 0


def test_every_bad_line_is_named(client: openai.OpenAI) -> None:
    """A client that maps errors by position instead of `line` is found out."""
    data = b"".join([jsonl(rows(2)), b"x\n", jsonl([row("c")]), b"y\n"])
    batch = wait(client, submit(client, data))
    assert batch.errors is not None
    assert [error.line for error in batch.errors.data or []] == [3, 5]


def test_byte_order_mark_makes_line_one_unparseable(client: openai.OpenAI) -> None:
    """The upload takes it and validation refuses it, as the real service does."""
    batch = wait(client, submit(client, b"\xef\xbb\xbf" + jsonl(rows(2))))
    assert batch.errors is not None
    [error] = batch.errors.data or []
    assert (error.code, error.line) == ("invalid_json_line", 1)


def test_line_separators_inside_strings_are_text(client: openai.OpenAI) -> None:
    """Lines end at the newline only; U+2028 in a prompt is not a second line."""
    text = json.dumps(row("r1", "a\u2028b\u0085c"), ensure_ascii=False).encode() + b"\n"
    assert wait(client, submit(client, text)).status == "completed"


def test_missing_file_fails_later_not_at_create(client: openai.OpenAI) -> None:
    """Create answers 200 for a foreign file, and the batch fails."""
    batch = client.batches.create(input_file_id="file-none", endpoint=CHAT, completion_window="24h")
    batch = wait(client, batch)
    assert batch.status == "failed"
    assert batch.errors is not None
    [error] = batch.errors.data or []
    assert (error.code, error.param, error.line) == ("invalid_request", "file_id", None)
    assert (error.message or "").startswith("Cannot find file file-none, or organization org-")


def test_one_row_too_many_fails(client: openai.OpenAI) -> None:
    """50,000 rows is the limit and 50,001 is over it."""
    batch = wait(client, submit(client, jsonl(rows(50_001))))
    assert batch.errors is not None
    assert [error.code for error in batch.errors.data or []] == ["maximum_requests_exceeded"]


def test_input_over_200_mib_uploads_and_fails(
    start: Callable[..., Sandbox], tmp_path: Path
) -> None:
    """The size limit is not an upload limit: the file is taken and the batch is refused."""
    sandbox = start()
    client = sandbox.client()
    path = tmp_path / "big.jsonl"
    with path.open("wb") as target:
        target.write(jsonl([row("r0")]))
        target.truncate(209_715_201)
    with path.open("rb") as source:
        file = client.files.create(file=("big.jsonl", source), purpose="batch")
    batch = wait(
        client,
        client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h"),
    )
    assert batch.errors is not None
    [error] = batch.errors.data or []
    assert error.code == "maximum_input_file_size_exceeded"
    assert error.message == (
        "The batch input file is larger than the 209715200 maximum for the gpt-5-mini model"
    )


def test_too_many_embedding_inputs_fail(client: openai.OpenAI) -> None:
    """The limit is 50,000 inputs over all rows, not 50,000 rows."""
    url = "/v1/embeddings"
    given = [
        {
            "custom_id": f"e{index}",
            "method": "POST",
            "url": url,
            "body": {"model": "text-embedding-3-small", "input": ["x"] * 2001},
        }
        for index in range(25)
    ]
    batch = wait(client, submit(client, given, url))
    assert batch.errors is not None
    codes = [error.code for error in batch.errors.data or []]
    assert codes == ["maximum_embedding_inputs_exceeded"]


@pytest.mark.parametrize(
    ("change", "code", "param", "words"),
    [
        (
            {"endpoint": "/v1/invalid/endpoint"},
            "invalid_value",
            "endpoint",
            "Invalid value: '/v1/invalid/endpoint'. Supported values are: '/v1/responses', ",
        ),
        ({"completion_window": "48h"}, "invalid_value", "completion_window", "completion_window"),
        (
            {"metadata": {"tags": ["a"]}},
            "invalid_type",
            "metadata.tags",
            "Invalid type for 'metadata.tags': expected a string, but got an array instead.",
        ),
        (
            {"input_file_id": None},
            "missing_required_parameter",
            "input_file_id",
            "Missing required parameter: 'input_file_id'.",
        ),
        (
            {"metadata": {str(at): "x" for at in range(17)}},
            "object_above_max_properties",
            "metadata",
            "16",
        ),
        ({"metadata": {"k" * 65: "x"}}, "property_name_above_max_length", "metadata", "64"),
        ({"metadata": {"k": "x" * 513}}, "string_above_max_length", "metadata.k", "512"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 60}},
            "invalid_value",
            "output_expires_after.seconds",
            "3600",
        ),
    ],
)
def test_create_refuses_bad_parameters(
    client: openai.OpenAI, change: dict[str, Any], code: str, param: str, words: str
) -> None:
    """These are 400 at once, and no batch exists afterwards."""
    given: dict[str, Any] = {
        "input_file_id": "file-x",
        "endpoint": CHAT,
        "completion_window": "24h",
    }
    before = [batch.id for batch in client.batches.list().data]
    with pytest.raises(openai.BadRequestError) as caught:
        client.batches.create(**given | change)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert words in caught.value.message
    assert [batch.id for batch in client.batches.list().data] == before
