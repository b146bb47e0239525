"""The result line of one row, with the faults its batch was given.

Knows the two result shapes and the row switches. Refuses to answer rows or to write files.
The trap: a row made to fail was not answered for money, while a row lost or doubled afterwards
was; the status kept beside the line is what a real service would have billed by.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from .answerers import Answer
from .faults import Choice, Row, as_list, row_choice, sample_rows
from .lines import read_line
from .records import BatchRecord
from .refusals import error_body
from .store import Store

OUTPUT, ERROR, LOST, TWICE = "o", "e", "x", "t"
FOREIGN = "f"  # a record of no row: a line for a custom_id that nobody asked for
NO_HTTP = -1  # the status of a row that was never executed or timed out
FAULT_MARK = re.compile(rb"\[\[fault:(\d{1,3}|timeout)(:once)?\]\]")
SAY_MARK = re.compile(r"\[\[say:(.*?)(?:\|\|(.*?))?\]\]", re.DOTALL)
_CONTENT_SWITCHES = (
    "row_separators",
    "row_refused",
    "row_null",
    "row_filtered",
    "row_cut",
    "row_tool_calls",
    "row_no_choices",
)
_LINE_SWITCHES = ("row_missing", "row_twice", "row_malformed", "row_foreign", "row_body_text")
_SEPARATORS = "\r\x0b\x0c\x85\u2028\u2029"  # what str.splitlines() takes for the end of a line
_TOOL = {"name": "look_up", "arguments": '{"word": "sandbox"}'}
_MESSAGES = {
    400: ("Invalid value: a fault was asked for.", "invalid_request_error", "invalid_value"),
    401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    404: (
        "The model does not exist or you do not have access to it.",
        "invalid_request_error",
        "model_not_found",
    ),
    429: ("Requests per limit rate limit exceeded", "requests", "rate_limit_exceeded"),
    504: ("Timed out generating response. Please try again.", "server_error", None),
}
_SERVER_ERROR = ("An error occurred while processing your request.", "server_error", None)


@dataclass(frozen=True)
class Outcome:
    """What becomes of one row."""

    kind: str  # OUTPUT, ERROR, LOST (in neither file) or TWICE
    status: int  # HTTP status, 0 for a transport loss, NO_HTTP
    line: bytes  # the result line, without its newline
    foreign: bytes | None = None  # another line that comes with it, of no row


@dataclass(frozen=True)
class Failure:
    """An ending that some rows are made to have."""

    status: int
    is_once: bool
    chosen: Choice


def usage_of(answer: Answer) -> tuple[int, int, int, int]:
    """Return input, cached, output and reasoning tokens of an answer."""
    usage = answer.body.get("usage") if answer.status == 200 else None
    if not usage:
        return (0, 0, 0, 0)
    side = "prompt" if "prompt_tokens" in usage else "input"
    made = "completion" if side == "prompt" else "output"
    return (
        usage.get(f"{side}_tokens") or 0,
        (usage.get(f"{side}_tokens_details") or {}).get("cached_tokens") or 0,
        usage.get(f"{made}_tokens") or 0,
        (usage.get(f"{made}_tokens_details") or {}).get("reasoning_tokens") or 0,
    )


def result_id(prefix: str, batch_id: str, number: int) -> str:
    """Return an id of a row's result, the same after a restart."""
    text = f"{prefix}{batch_id}{number}".encode()
    return prefix + hashlib.blake2b(text, digest_size=12).hexdigest()


def unexecuted_line(batch_id: str, number: int, custom_id: str, code: str) -> bytes:
    """Return the error line of a row that was never executed, or timed out."""
    return orjson.dumps(
        {
            "id": result_id("batch_req_", batch_id, number),
            "custom_id": custom_id,
            "response": None,
            "error": {"code": code, "message": UNEXECUTED[code]},
        }
    )


UNEXECUTED = {
    "batch_expired": ("This request could not be executed before the completion window expired."),
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
    "request_timeout": "The request to the model timed out.",
}


class RowPlan:
    """The row faults of one batch, ready to be asked row by row."""

    def __init__(
        self,
        batch_id: str,
        store: Store,
        failures: list[Failure],
        choices: Mapping[str, Choice],
        wanted: frozenset[int] | None,
    ) -> None:
        self._batch_id = batch_id
        self._store = store
        self._failures = failures
        self._choices = choices
        self._wanted = wanted
        self._is_plain = not failures and not choices

    @classmethod
    def of(cls, batch: BatchRecord, store: Store) -> "RowPlan":
        """Return the plan of a batch whose total is known."""
        total = batch.counts.total
        failures = [
            _failure(value, total, f"row_status {at}")
            for at, value in enumerate(as_list(batch.faults.get("row_status") or []))
        ]
        choices = {
            name: row_choice(batch.faults[name], total, name)
            for name in (*_LINE_SWITCHES, *_CONTENT_SWITCHES)
            if name in batch.faults
        }
        return cls(batch.id, store, failures, choices, wanted_rows(batch))

    def is_wanted(self, number: int) -> bool:
        """Whether a row is to be answered before the batch ends part-way."""
        return self._wanted is None or number in self._wanted

    def forced_outcome(self, row: Row) -> Outcome | None:
        """Return the ending of a row that is made to fail and is never answered, or None."""
        if self._is_plain and b"[[fault:" not in row.line:
            return None
        status = self._forced_status(row)
        if status is None:
            return None
        if status == NO_HTTP:
            text = unexecuted_line(self._batch_id, row.number, row.custom_id, "request_timeout")
            return self._misplaced(row, Outcome(ERROR, NO_HTTP, text))
        return self._misplaced(row, self._result(row, forced_answer(status)))

    def outcome(self, row: Row, answer: Answer) -> Outcome:
        """Return what becomes of a row that got `answer`."""
        if answer.status == 200 and b"[[say:" in row.line:
            answer = Answer(200, dictated(answer.body, read_line(row.line)["body"], self._store))
        if self._is_plain:
            return self._result(row, answer)
        if answer.status == 200:
            answer = self._spoiled(row, answer)
        return self._misplaced(row, self._result(row, answer))

    def _forced_status(self, row: Row) -> int | None:
        status = marked_status(row.line, read_line(row.line)["body"], self._store)
        if status is not None:
            return status
        for failure in self._failures:
            if failure.chosen(row) and (not failure.is_once or self._is_first_failure(row)):
                return failure.status
        return None

    def _is_first_failure(self, row: Row) -> bool:
        return self._store.is_first_failure(body_digest(read_line(row.line)["body"]))

    def _spoiled(self, row: Row, answer: Answer) -> Answer:
        body = answer.body
        for name in _CONTENT_SWITCHES:
            if self._is_chosen(name, row):
                body = spoil(name, body)
        return Answer(answer.status, body)

    def _misplaced(self, row: Row, outcome: Outcome) -> Outcome:
        kind, line = outcome.kind, outcome.line
        for name, placed in (("row_missing", LOST), ("row_twice", TWICE)):
            if self._is_chosen(name, row):
                kind = placed
        foreign = self._foreign(row, line) if self._is_chosen("row_foreign", row) else None
        if self._is_chosen("row_malformed", row):
            line = line[: len(line) // 2]
        return Outcome(kind, outcome.status, line, foreign)

    def _foreign(self, row: Row, line: bytes) -> bytes:
        other = {
            "id": result_id("batch_req_foreign_", self._batch_id, row.number),
            "custom_id": result_id("foreign-", self._batch_id, row.number),
        }
        return orjson.dumps(orjson.loads(line) | other)

    def _is_chosen(self, name: str, row: Row) -> bool:
        return name in self._choices and self._choices[name](row)

    def _result(self, row: Row, answer: Answer) -> Outcome:
        is_lost = answer.status == 0
        request_id = "" if is_lost else result_id("req_", self._batch_id, row.number)
        is_text = self._is_chosen("row_body_text", row)
        line = orjson.dumps(
            {
                "id": result_id("batch_req_", self._batch_id, row.number),
                "custom_id": row.custom_id,
                "response": {
                    "status_code": answer.status,
                    "request_id": request_id,
                    "body": orjson.dumps(answer.body).decode() if is_text else answer.body,
                },
                "error": None,
            }
        )
        return Outcome(OUTPUT if 200 <= answer.status < 300 else ERROR, answer.status, line)


def marked_status(text: bytes, body: dict[str, Any], store: Store) -> int | None:
    """Return the status that a mark such as [[fault:429]] or [[fault:429:once]] asks for."""
    mark = FAULT_MARK.search(text)
    if not mark or (mark[2] and not store.is_first_failure(body_digest(body))):
        return None
    return read_status(mark[1].decode())


def dictated(answer: dict[str, Any], body: dict[str, Any], store: Store) -> dict[str, Any]:
    """Return an answer with the words that a mark such as [[say:A]] or [[say:A||B]] asks for."""
    found = SAY_MARK.search(_last_text(body))
    if not found:
        return answer
    is_first = found[2] is None or store.is_first_failure(body_digest(body))
    words = found[1] if is_first else found[2]
    if "choices" in answer:
        return answer | {"choices": [_saying(choice, words) for choice in answer["choices"]]}
    if "output" in answer:
        item = next(filter(_has_text, answer["output"]))
        part = item["content"][0] | {"text": words}
        return answer | {"output": [item | {"content": [part]}]}
    return answer


def _saying(choice: dict[str, Any], words: str) -> dict[str, Any]:
    if "text" in choice:
        return choice | {"text": words, "finish_reason": "stop"}
    message = choice["message"] | {"content": words}
    return choice | {"message": message, "finish_reason": "stop"}


def _last_text(body: dict[str, Any]) -> str:
    asked = body.get("messages") or body.get("input") or body.get("prompt")
    last = asked[-1] if isinstance(asked, list) and asked else asked
    content = last.get("content") if isinstance(last, dict) else last
    return content if isinstance(content, str) else ""


def body_digest(body: dict[str, Any]) -> str:
    """Return a digest that is the same for the same request, in whatever order."""
    text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def wanted_rows(batch: BatchRecord) -> frozenset[int] | None:
    """Return the rows answered before the batch ends part-way; None = all."""
    for name in ("expire_after_share", "cancel_after_share", "stall_after_share"):
        if name in batch.faults:
            return sample_rows(batch.counts.total, float(batch.faults[name]), "part-way")
    return None


def _failure(value: Any, total: int, seed: str) -> Failure:
    if not isinstance(value, dict):
        value = {"status": value}
    status = read_status(str(value.get("status", 500)))
    return Failure(status, bool(value.get("once")), row_choice(value, total, seed))


def read_status(text: str) -> int:
    """Return the row status a fault names: a number, or `timeout`. Raises ValueError."""
    return NO_HTTP if text == "timeout" else int(text)


def forced_answer(status: int) -> Answer:
    """Return the answer of a row that is made to fail."""
    if status == 0:
        return Answer(0, {})
    message, kind, code = _MESSAGES.get(status, _SERVER_ERROR)
    return Answer(status, error_body(message, kind, None, code))


def spoil(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return a 200 body made useless in the way the row switch `name` says."""
    if "choices" in body:
        if name == "row_no_choices":
            return body | {"choices": []}
        return body | {"choices": [_spoil_choice(name, choice) for choice in body["choices"]]}
    if "output" in body:
        return _spoil_response(name, body)
    return body


def _spoil_choice(name: str, choice: dict[str, Any]) -> dict[str, Any]:
    message = choice.get("message", {"content": choice.get("text", "")})
    change: dict[str, Any]
    match name:
        case "row_refused":
            change, reason = {"content": None, "refusal": "I can't help with that."}, "stop"
        case "row_null":
            change, reason = {"content": None}, "stop"
        case "row_filtered":
            change, reason = {"content": ""}, "content_filter"
        case "row_tool_calls":
            call = {"id": "call_sandbox", "type": "function", "function": _TOOL}
            change, reason = {"content": None, "tool_calls": [call]}, "tool_calls"
        case "row_separators":
            change, reason = {"content": _split(message.get("content"))}, choice["finish_reason"]
        case _:
            kept = message.get("content") or ""
            change, reason = {"content": kept[: len(kept) // 2]}, "length"
    if "text" in choice:
        return choice | {"text": change["content"] or "", "finish_reason": reason}
    return choice | {"message": message | change, "finish_reason": reason}


def _split(text: str | None) -> str | None:
    """Return a text with separators in its middle, where no strip takes them away."""
    if text is None:
        return None
    middle = len(text) // 2
    return text[:middle] + _SEPARATORS + text[middle:]


def _spoil_response(name: str, body: dict[str, Any]) -> dict[str, Any]:
    if name in ("row_no_choices", "row_null"):
        return body | {"output": []}
    item = next(filter(_has_text, body["output"]), None)
    if item is None:  # spoiled before, or the upstream's answer is no text
        return body
    if name == "row_tool_calls":
        call = {"id": "fc_sandbox", "type": "function_call", "call_id": "call_sandbox", **_TOOL}
        return body | {"output": [call | {"status": "completed"}]}
    if name == "row_refused":
        part: dict[str, Any] = {"type": "refusal", "refusal": "I can't help with that."}
        return body | {"output": [item | {"content": [part]}]}
    part = dict(item["content"][0])
    if name == "row_separators":
        part["text"] = _split(part["text"])
        return body | {"output": [item | {"content": [part]}]}
    part["text"] = part["text"][: len(part["text"]) // 2] if name == "row_cut" else ""
    reason = "max_output_tokens" if name == "row_cut" else "content_filter"
    return body | {
        "status": "incomplete",
        "incomplete_details": {"reason": reason},
        "output": [item | {"status": "incomplete", "content": [part]}],
    }


def _has_text(item: dict[str, Any]) -> bool:
    content = item.get("content") or [{}]
    return "text" in content[0]
