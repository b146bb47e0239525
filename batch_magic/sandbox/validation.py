"""The judgement on an input file: which lines are wrong, and what the batch will run.

Knows the rules and wordings of the real service's validation and the limits of one batch.
Refuses to answer any row. The traps: one bad line fails the whole batch, so every line is read;
lines end at `\\n` only (U+2028 is text); a BOM makes line 1 unparseable; the file over the size
limit was accepted at upload and is refused here.
"""

from pathlib import Path
from typing import Any

import msgspec

from .lines import read_line
from .records import RowError

MAX_ROWS = 50_000
MAX_INPUT_BYTES = 209_715_200
MAX_EMBEDDING_INPUTS = 50_000
MAX_ERRORS_KEPT = 100  # whether the real list is capped is unknown; ours must end somewhere
BYTES_PER_TOKEN = 4

ENDPOINTS = (
    "/v1/responses",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
)
REQUIRED_BODY_MEMBERS: dict[str, tuple[str, ...]] = {
    "/v1/responses": ("model",),
    "/v1/chat/completions": ("model", "messages"),
    "/v1/embeddings": ("model", "input"),
    "/v1/completions": ("model", "prompt"),
    "/v1/moderations": ("model", "input"),
    "/v1/images/generations": ("model", "prompt"),
    "/v1/images/edits": ("model", "images", "prompt"),
    "/v1/videos": ("model", "prompt"),
}
_SURFACE = {"/v1/chat/completions": "Chat Completions", "/v1/responses": "Responses"}
_BAD_JSON = "This line is not parseable as valid JSON."
_DUPLICATE = (
    "The custom_id for this request is a duplicate of another request. "
    "The custom_id parameter must be unique for each request in a batch."
)


class Verdict(msgspec.Struct):
    """What reading the whole input found."""

    rows: int = 0
    model: str | None = None
    tokens: int = 0  # estimate of the prompt tokens it would enqueue
    embedding_inputs: int = 0
    errors: list[RowError] = []

    @property
    def is_valid(self) -> bool:
        """Whether the batch may run."""
        return not self.errors


class _Row(msgspec.Struct):
    custom_id: Any = None
    method: Any = None
    url: Any = None
    body: Any = None


def judge_input(path: Path, endpoint: str) -> Verdict:
    """Read the input at `path` line by line and return the verdict. Raises OSError if gone."""
    if path.stat().st_size > MAX_INPUT_BYTES:
        return Verdict(errors=[_too_large(path, endpoint)])
    verdict = Verdict(errors=[])
    seen: set[str] = set()
    with path.open("rb", buffering=1 << 20) as lines:
        for number, line in enumerate(lines, 1):
            verdict.rows = number
            if number > MAX_ROWS:
                verdict.errors = [_too_many_rows()]
                return verdict
            _judge_line(line, number, endpoint, seen, verdict)
            if len(verdict.errors) >= MAX_ERRORS_KEPT:
                return verdict
    if verdict.rows == 0:
        verdict.errors.append(RowError("empty_file", "The batch input file is empty."))
    if verdict.embedding_inputs > MAX_EMBEDDING_INPUTS:
        verdict.errors.append(_too_many_embedding_inputs())
    return verdict


def missing_file(file_id: str, organization: str) -> RowError:
    """Return the error of a batch whose input is unknown or another project's."""
    message = (
        f"Cannot find file {file_id}, or organization {organization} does not have access to it."
    )
    return RowError("invalid_request", message, param="file_id")


def queue_full(model: str, organization: str, cap: int) -> RowError:
    """Return the error of a batch that does not fit under the enqueued-token limit."""
    message = (
        f"Enqueued token limit reached for {model} in organization {organization}. "
        f"Limit: {cap:,} enqueued tokens. Please try again once some in_progress batches "
        "have been completed."
    )
    return RowError("token_limit_exceeded", message)


def _judge_line(line: bytes, number: int, endpoint: str, seen: set[str], verdict: Verdict) -> None:
    try:
        parsed = read_line(line)
    except ValueError:
        verdict.errors.append(RowError("invalid_json_line", _BAD_JSON, line=number))
        return
    if not isinstance(parsed, dict):
        verdict.errors.append(RowError("invalid_json_line", _BAD_JSON, line=number))
        return
    row = _Row(*(parsed.get(name) for name in _Row.__struct_fields__))
    error = _row_error(row, endpoint, seen) or _body_error(row.body, endpoint, verdict)
    if error is not None:
        verdict.errors.append(msgspec.structs.replace(error, line=number))
        return
    verdict.tokens += len(line) // BYTES_PER_TOKEN
    if endpoint == "/v1/embeddings":
        verdict.embedding_inputs += embedding_input_count(row.body["input"])


def _row_error(row: _Row, endpoint: str, seen: set[str]) -> RowError | None:
    for name in _Row.__struct_fields__:
        if getattr(row, name) is None:
            return _missing(name, name)
    if not isinstance(row.custom_id, str):
        return _not_a("string", "custom_id", "custom_id")
    if row.custom_id in seen:
        return RowError("duplicate_custom_id", _DUPLICATE, "custom_id")
    seen.add(row.custom_id)
    if row.method != "POST":
        message = f"Invalid value: '{row.method}'. Supported values are: 'POST'."
        return RowError("invalid_request", message, "method")
    if row.url != endpoint:
        message = "The URL provided for this request does not match the batch endpoint."
        return RowError("invalid_url", message, "url")
    if not isinstance(row.body, dict):
        return _not_a("object", "body", "body")
    return None


def _body_error(body: dict[str, Any], endpoint: str, verdict: Verdict) -> RowError | None:
    for name in REQUIRED_BODY_MEMBERS[endpoint]:
        if body.get(name) is None:
            return _missing(name, f"body.{name}")
    if body.get("stream"):
        surface = _SURFACE.get(endpoint, "Completions")
        message = f"{surface}: Streaming is not supported in the Batch API."
        return RowError("streaming_unsupported", message, "body.stream")
    model = body["model"]
    if not isinstance(model, str):
        return _not_a("string", "model", "body.model")
    if is_unknown_model(model):
        message = f"The provided model '{model}' is not supported by the Batch API."
        return RowError("model_not_found", message, "body.model")
    if verdict.model is None:
        verdict.model = model
    if model != verdict.model:
        message = (
            f"The model '{model}' for this request does not match the rest of the batch. "
            "Each batch must contain requests for a single model."
        )
        return RowError("mismatched_model", message, "body.model")
    return None


def is_unknown_model(model: str) -> bool:
    """Whether a model id is one of those set aside for rehearsing `model_not_found`."""
    return "nonexistent" in model


def embedding_input_count(given: Any) -> int:
    """Return how many vectors an embeddings `input` asks for; a list of tokens is one."""
    if isinstance(given, list) and given and not isinstance(given[0], int):
        return len(given)
    return 1


def _missing(name: str, param: str) -> RowError:
    return RowError("missing_required_parameter", f"Missing required parameter: '{name}'.", param)


def _not_a(kind: str, name: str, param: str) -> RowError:
    article = "an" if kind == "object" else "a"
    message = f"Invalid type for '{name}': expected {article} {kind}."
    return RowError("invalid_type", message, param)


def _too_large(path: Path, endpoint: str) -> RowError:
    message = (
        f"The batch input file is larger than the {MAX_INPUT_BYTES} maximum "
        f"for the {_first_model(path, endpoint)} model"
    )
    return RowError("maximum_input_file_size_exceeded", message)


def _first_model(path: Path, endpoint: str) -> str:
    with path.open("rb") as lines:
        try:
            return str(read_line(lines.readline(1 << 20))["body"]["model"])
        except (ValueError, KeyError, TypeError):
            return endpoint.rsplit("/", 1)[-1]


def _too_many_rows() -> RowError:
    message = f"The batch input file contains more requests than the maximum of {MAX_ROWS}."
    return RowError("maximum_requests_exceeded", message)


def _too_many_embedding_inputs() -> RowError:
    message = (
        f"The batch contains more embedding inputs than the maximum of {MAX_EMBEDDING_INPUTS}."
    )
    return RowError("maximum_embedding_inputs_exceeded", message)
