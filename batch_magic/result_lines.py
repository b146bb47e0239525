"""Result lines in: output file and error file to one outcome per line, as columns.

It knows what answers of each endpoint look like, well made or not, and refuses to know jobs and
frames; it reads an open file and opens none. A plain success is decoded as a typed struct, only
the members needed; whatever does not fit is read again the careful way. The traps: answers hold
U+2028 and the like, so lines end at b"\\n" only; and a result line promises nothing: any member
may be null, missing or of another type, and the row must still get its one status.
"""

from __future__ import annotations

import json
import re
from array import array
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, repeat
from typing import IO, Annotated, Any, Literal, NamedTuple

import msgspec
import orjson

from batch_magic.records import Endpoint, Outcomes, RowStatus

_BLOCK_BYTES = 1 << 20  # of lines that are decoded together: they and their texts fit the cache
_BOM = b"\xef\xbb\xbf"
_ERROR_CHARS = 1000
_NOT_RUN = {
    "batch_expired": RowStatus.EXPIRED,
    "batch_cancelled": RowStatus.CANCELLED,
    "batch_canceled": RowStatus.CANCELLED,
}
_MOST = 2**53  # counts fit every column they go to


class _Entry(NamedTuple):
    """What one line says: its custom_id, then the columns of `Outcomes` up to the usage."""

    custom_id: str
    status: int
    text: str | None = None
    error: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    http_status: int | None = None
    code: str | None = None
    usage_input: int | None = None
    usage_cached: int | None = None
    usage_output: int | None = None
    usage_reasoning: int | None = None


class Decoder:
    """Reads result files of one run; `ids` are a job's own custom_ids, if it was made elsewhere."""

    def __init__(
        self, *, run_id: str, ids: Mapping[str, int] | None = None, endpoint: str = Endpoint.CHAT
    ) -> None:
        self._run_id, self._ids = run_id, ids
        # Only chat has a short way; a line of another endpoint never decodes as this.
        self._typed = _typed_chat
        self._answer = _ANSWERS[Endpoint(endpoint)]

    def outcomes(
        self, file: IO[bytes], positions: Sequence[int] | None = None
    ) -> Iterator[Outcomes]:
        """What a file says, some of its lines at a time, in its order.

        With `positions`, line i of the file (blank ones counted) answers row `positions[i]`,
        whatever its custom_id. Never raises for what a line holds.
        """
        offset = number = 0
        while lines := file.readlines(_BLOCK_BYTES):
            if number == 0 and lines[0].startswith(_BOM):
                lines[0] = lines[0].replace(_BOM, b"   ", 1)
            known = None if positions is None else positions[number : number + len(lines)]
            yield self._read(lines, offset, number, known)
            offset += sum(map(len, lines))
            number += len(lines)

    def _read(
        self, lines: list[bytes], offset: int, number: int, known: Sequence[int] | None
    ) -> Outcomes:
        entries, malformed = self._entries(lines, is_named=known is None)
        lengths = [len(line) - 1 for line in lines]
        lengths[-1] += not lines[-1].endswith(b"\n")
        starts = list(accumulate(map(len, lines), initial=offset))[:-1]
        found = [n for n, entry in enumerate(entries) if entry is not None]
        if len(found) < len(lines):
            entries, starts, lengths = (
                [one[n] for n in found] for one in (entries, starts, lengths)
            )
        names, *columns = zip(*entries, strict=True) if entries else [()] * len(_Entry._fields)
        at: list[Any]
        if known is None and self._ids:
            ours = positions_of(names, self._run_id)
            at = [self._ids.get(name, at) for name, at in zip(names, ours, strict=True)]
        elif known is None:
            at = positions_of(names, self._run_id)
        else:
            at = [known[n] if n < len(known) else None for n in found]
        every: list[Any] = [at, *columns, starts, lengths]
        if None in at:
            ours = [n for n, position in enumerate(at) if position is not None]
            every = [[column[n] for n in ours] for column in every]
        rest: Any = (len(at) - len(every[0]), [number + place + 1 for place in malformed])
        return Outcomes(*every, *rest)

    def _entries(self, lines: list[bytes], *, is_named: bool) -> tuple[list[Any], list[int]]:
        """The entry of each line, None for what is none, and the places of what should be one."""
        typed, entries, malformed = self._typed, list[Any](), list[int]()
        for line in lines:
            try:
                entries.append(_plain_entry(typed(line)))
            except (msgspec.MsgspecError, ValueError, RecursionError):
                entry = _careful_entry(line, self._answer, is_named=is_named)
                if entry is None and not line.isspace():
                    malformed.append(len(entries))
                entries.append(entry)
        return entries, malformed


def written(
    custom_id: str, status: int, body: bytes, *, request_id: str | None = None
) -> bytes | None:
    """One result line, as a batch's output file would have it, of an answer at once.

    None for a body that is no JSON object, however leniently it is read: half an answer is none.
    """
    text = body.removeprefix(_BOM).decode("utf-8", "replace")
    try:
        if not isinstance(json.loads(text), dict):
            return None
    except (ValueError, RecursionError):
        return None
    # Between its strings JSON may be laid out in lines; within them line ends are escaped.
    flat = text.replace("\n", " ").replace("\r", " ").encode()
    head = b'{"custom_id":%b,"response":{"status_code":%d,"request_id":%b,"body":'
    return head % (orjson.dumps(custom_id), status, orjson.dumps(request_id)) + flat + _TAIL


_TAIL = b'},"error":null}\n'
_WRITTEN = re.compile(rb'\{"custom_id":"([^"\\]+)","response":\{"status_code":(\d+),')


_UNREADABLE = "no_json_object"  # the member that holds what came in place of one


def unreadable(custom_id: str, status: int | None, body: bytes, said: str) -> bytes:
    """One result line of an answer that is no JSON object; without a status it is 0.

    Of one that the service calls good the text is kept: it may have been paid for.
    """
    text = body.decode("utf-8", "replace")[:_ERROR_CHARS]
    is_good = status is not None and 200 <= status < 300
    what = {_UNREADABLE: text} if is_good else {"error": {"message": said, "code": "no_answer"}}
    line = written(custom_id, status or 0, orjson.dumps(what))
    assert line is not None, "an object of ours is one"
    return line


def custom_id_of(line: bytes) -> tuple[str, bool] | None:
    """The custom_id of a line that `written` made, and whether it is an answer; None for half."""
    found = _WRITTEN.match(line)
    if found is None or not line.endswith(_TAIL):
        return None
    return found[1].decode("utf-8", "replace"), 200 <= int(found[2]) < 300


# A quote inside a text is escaped: what stands unescaped is a member's name.
_MADE_AT = re.compile(rb'(?<!\\)"created(?:_at)?"\s*:\s*(\d{9,11})\b')


def made_at(line: bytes) -> float | None:
    """When the service says that it made an answer: Unix seconds, whole; None where it does not."""
    found = _MADE_AT.search(line)
    return None if found is None else float(found[1])


def position_of(custom_id: str, run_id: str) -> int | None:
    """The row that a custom_id names; None for the row of another run."""
    prefix = run_id + "-"
    digits = custom_id[len(prefix) :]
    if not (custom_id.startswith(prefix) and digits.isdecimal() and digits.isascii()):
        return None
    # "007" is no name that we give, and more digits than a column holds are no position.
    return int(digits) if len(digits) < 16 and (digits[0] != "0" or digits == "0") else None


def positions_of(names: Sequence[str], run_id: str) -> list[int | None]:
    """`position_of` each: all at once where every name is plainly one of ours."""
    prefix = run_id + "-"
    digits = [name[len(prefix) :] for name in names]
    joined = "\n".join(["", *digits, ""])
    is_plain = (
        joined.isascii()
        and joined.replace("\n", "").isdecimal()
        and joined.count("\n") == len(digits) + 1
        and "\n0" not in joined
        and "\n\n" not in joined
        and max(map(len, digits)) < 16
        and all(map(str.startswith, names, repeat(prefix)))
    )
    if is_plain:
        return list(map(int, digits))
    return [position_of(name, run_id) for name in names]


# --- the plain success, typed ---------------------------------------------------------------

_Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]


class _CachedTokens(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = None


class _ReasoningTokens(msgspec.Struct, gc=False):
    reasoning_tokens: _Count | None = None


class _ChatUsage(msgspec.Struct, gc=False):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _CachedTokens | None = None
    completion_tokens_details: _ReasoningTokens | None = None


class _ChatMessage(msgspec.Struct, gc=False):
    content: str
    refusal: None = None
    tool_calls: None = None
    function_call: None = None


class _ChatChoice(msgspec.Struct, gc=False):
    message: _ChatMessage
    finish_reason: Literal["stop"] | None = None


class _ChatBody(msgspec.Struct, gc=False):
    choices: Annotated[list[_ChatChoice], msgspec.Meta(min_length=1)]
    model: str | None = None
    usage: _ChatUsage | None = None
    error: None = None


class _ChatResponse(msgspec.Struct, gc=False):
    status_code: Annotated[int, msgspec.Meta(ge=200, le=299)]
    body: _ChatBody


class _ChatLine(msgspec.Struct, gc=False):
    """Exactly what an answered row looks like; every other line fails to decode as this."""

    custom_id: str
    response: _ChatResponse
    error: None = None


# Made once, under the import's lock: msgspec learns a struct's fields when its first decoder is
# made, and two threads that do that at once, for two jobs, end the process (msgspec 0.22).
_typed_chat = msgspec.json.Decoder(_ChatLine).decode
_NO_USAGE = _ChatUsage()
_NO_CACHED = _CachedTokens()
_NO_REASONING = _ReasoningTokens()
_OK = int(RowStatus.OK)


def _plain_entry(line: _ChatLine) -> tuple[Any, ...]:
    """An `_Entry` in all but its type, which would take as long again to make."""
    response = line.response
    body = response.body
    choice = body.choices[0]
    usage = body.usage or _NO_USAGE
    return (
        line.custom_id,
        _OK,
        choice.message.content,
        None,
        choice.finish_reason,
        body.model,
        response.status_code,
        None,
        usage.prompt_tokens,
        (usage.prompt_tokens_details or _NO_CACHED).cached_tokens,
        usage.completion_tokens,
        (usage.completion_tokens_details or _NO_REASONING).reasoning_tokens,
    )


# --- any other line -------------------------------------------------------------------------


Answer = Callable[[str, int, Mapping[str, Any]], _Entry]
"""Reads the body of a row that was answered: (custom_id, HTTP status, body)."""


def _careful_entry(line: bytes, answer: Answer, *, is_named: bool) -> _Entry | None:
    try:
        members = _loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(members, dict):
        return None
    name = members.get("custom_id")
    if is_named and not isinstance(name, str):
        return None
    return _entry(str(name), members, answer)


def _entry(name: str, line: Mapping[str, Any], answer: Answer) -> _Entry:
    error, response = _error_members(line.get("error")), _dict(line.get("response"))
    if not response:
        return _not_run(name, error)
    status, body = _int(response.get("status_code")), response.get("body")
    told = _error_members(_dict(body).get("error"))
    if status is not None and 200 <= status < 300 and not told:
        if isinstance(text := _dict(body).get(_UNREADABLE), str):
            said = _one_line(f"the answer is no JSON object: {text}")
            return _answered(name, status, {}, (RowStatus.UNPARSED, None, said))
        return answer(name, status, _dict(body))
    return _failed(name, status, told or error, body)


def _not_run(name: str, error: Mapping[str, Any]) -> _Entry:
    """A row without an HTTP answer."""
    code = _code(error)
    status = _NOT_RUN.get(code or "", RowStatus.FAILED)
    said = _said(error) or "the line holds neither a response nor an error"
    return _Entry(name, int(status), error=said, code=code)


def _failed(name: str, status: int | None, error: Mapping[str, Any], body: object) -> _Entry:
    if not error and isinstance(body, str) and not _dict(body):
        error = {"message": body}  # a proxy's own page
    before = "an unknown status" if status is None else str(status)
    said = _said(error, before=before if status != 0 else "no HTTP answer (status 0)")
    failed = int(RowStatus.FAILED)
    return _Entry(name, failed, error=said, http_status=status, code=_code(error))


def _chat_entry(name: str, http_status: int, body: Mapping[str, Any]) -> _Entry:
    choices = body.get("choices")
    choice = _dict(choices[0]) if isinstance(choices, list) and choices else {}
    finish_reason = _name(choice.get("finish_reason"))
    verdict = _chat_verdict(choice, _dict(choice.get("message")), finish_reason)
    return _answered(name, http_status, body, verdict, finish_reason)


Verdict = tuple[RowStatus, str | None, str | None]


def _answered(
    name: str,
    http_status: int,
    body: Mapping[str, Any],
    verdict: Verdict,
    finish_reason: str | None = None,
) -> _Entry:
    """An answered row, with its tokens by whichever names the endpoint gives them."""
    status, text, error = verdict
    usage = _dict(body.get("usage"))
    given, made = ("prompt", "completion") if "prompt_tokens" in usage else ("input", "output")
    return _Entry(
        name,
        int(status),
        text,
        error,
        finish_reason,
        _name(body.get("model")),
        http_status,
        None,
        _int(usage.get(f"{given}_tokens")),
        _int(_dict(usage.get(f"{given}_tokens_details")).get("cached_tokens")),
        _int(usage.get(f"{made}_tokens")),
        _int(_dict(usage.get(f"{made}_tokens_details")).get("reasoning_tokens")),
    )


def _response_entry(name: str, http_status: int, body: Mapping[str, Any]) -> _Entry:
    """`/v1/responses`: 200 is no success; `status` and the items of `output` say what it was."""
    reason = _name(_dict(body.get("incomplete_details")).get("reason"))
    return _answered(name, http_status, body, _response_verdict(body, reason), reason)


def _response_verdict(body: Mapping[str, Any], reason: str | None) -> Verdict:
    output = body.get("output")
    items = [_dict(item) for item in output] if isinstance(output, list) else []
    messages = [item for item in items if item.get("type", "message") == "message"]
    found = [text for item in messages if (text := _joined_text(item.get("content"))) is not None]
    text = "".join(found) if found else None
    if refusal := next((said for item in messages if (said := _refusal(item))), None):
        return RowStatus.REFUSED, None, _one_line(refusal)
    if body.get("status") == "failed":
        said = _said(_error_members(body.get("error"))) or "the response failed"
        return RowStatus.FAILED, None, said
    if body.get("status") == "incomplete" and reason == "content_filter":
        return RowStatus.REFUSED, None, "stopped by the content filter"
    if body.get("status") == "incomplete":
        why = "at the token limit" if reason == "max_output_tokens" else f"({reason})"
        return RowStatus.TRUNCATED, text, f"stopped {why}"
    tool = next((item for item in items if str(item.get("type", "")).endswith("_call")), None)
    if text is None and tool is not None:
        called = f" ({tool['name']})" if _str(tool.get("name")) else ""
        return RowStatus.UNPARSED, None, _one_line(f"the model called a tool{called}")
    if text is None:
        return RowStatus.UNPARSED, None, "the response holds no text"
    return RowStatus.OK, text, None


def _completion_entry(name: str, http_status: int, body: Mapping[str, Any]) -> _Entry:
    choices = body.get("choices")
    choice = _dict(choices[0]) if isinstance(choices, list) and choices else {}
    reason, text = _name(choice.get("finish_reason")), choice.get("text")
    verdict: Verdict = RowStatus.OK, text if isinstance(text, str) else None, None
    if reason == "content_filter":
        verdict = RowStatus.REFUSED, None, "stopped by the content filter"
    elif reason == "length":
        verdict = RowStatus.TRUNCATED, verdict[1], "stopped at the token limit"
    elif verdict[1] is None:
        verdict = RowStatus.UNPARSED, None, "the response holds no text"
    return _answered(name, http_status, body, verdict, reason)


def _embedding_entry(name: str, http_status: int, body: Mapping[str, Any]) -> _Entry:
    """`/v1/embeddings`: base64 of little-endian float32, one vector a line, however it was given.

    The vectors of several inputs are in the order of their `index`, not of their places.
    """
    data = body.get("data")
    items = [_dict(item) for item in data] if isinstance(data, list) else []
    places = [_int(item.get("index")) for item in items]
    # Without one that counts, nobody can tell whose vector is missing.
    numbers = sorted(place for place in places if place is not None)
    is_whole = len(items) < 2 or not numbers or numbers == list(range(len(items)))
    items.sort(key=lambda item: _int(item.get("index")) or 0)
    vectors = [_vector(item.get("embedding")) for item in items]
    is_even = len({len(vector or "") for vector in vectors}) == 1
    if not is_whole or not is_even or None in vectors:
        verdict: Verdict = RowStatus.UNPARSED, None, "the response holds no vector"
    else:
        verdict = RowStatus.OK, "\n".join(filter(None, vectors)), None
    return _answered(name, http_status, body, verdict)


def _vector(value: object) -> str | None:
    """Return a vector as base64; None for what is none."""
    try:
        if isinstance(value, list) and value:
            return b64encode(array("f", value).tobytes()).decode()
        if isinstance(value, str) and value and len(b64decode(value, validate=True)) % 4 == 0:
            return value
    except (TypeError, ValueError, OverflowError):
        return None
    return None


def _moderation_entry(name: str, http_status: int, body: Mapping[str, Any]) -> _Entry:
    """`/v1/moderations`: flag, categories and scores as one JSON object."""
    results = body.get("results")
    result = _dict(results[0]) if isinstance(results, list) and results else {}
    if not isinstance(result.get("flagged"), bool):
        verdict: Verdict = RowStatus.UNPARSED, None, "the response holds no result"
    else:
        found = {
            "flagged": result["flagged"],
            "categories": _dict(result.get("categories")),
            "scores": _dict(result.get("category_scores")),
        }
        verdict = RowStatus.OK, orjson.dumps(found).decode(), None
    return _answered(name, http_status, body, verdict)


_ANSWERS: Mapping[Endpoint, Answer] = {
    Endpoint.CHAT: _chat_entry,
    Endpoint.RESPONSES: _response_entry,
    Endpoint.COMPLETIONS: _completion_entry,
    Endpoint.EMBEDDINGS: _embedding_entry,
    Endpoint.MODERATIONS: _moderation_entry,
}


def _chat_verdict(
    choice: Mapping[str, Any], message: Mapping[str, Any], finish_reason: str | None
) -> tuple[RowStatus, str | None, str | None]:
    text = _joined_text(message.get("content"))
    if not choice:
        return RowStatus.UNPARSED, None, "the response holds no choices"
    if refusal := _refusal(message):
        return RowStatus.REFUSED, None, _one_line(refusal)
    if finish_reason == "content_filter":
        return RowStatus.REFUSED, None, "stopped by the content filter"
    if finish_reason == "length":
        return RowStatus.TRUNCATED, text, "stopped at the token limit"
    if (tool := _tool(message)) is not None:
        name, said = f" ({tool})" if tool else "", f": {text}" if text else ""
        return RowStatus.UNPARSED, None, _one_line(f"the model called a tool{name}{said}")
    if text is None:
        why = f" (finish_reason {finish_reason})" if finish_reason not in (None, "stop") else ""
        return RowStatus.UNPARSED, None, f"the answer holds no text{why}"
    return RowStatus.OK, text, None


def _joined_text(content: object) -> str | None:
    """A message's content as text: a string, or a list of parts whose texts are joined."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part if isinstance(part, str) else _dict(part).get("text") for part in parts]
    found = [text for text in texts if isinstance(text, str)]
    return "".join(found) if found else None


def _refusal(message: Mapping[str, Any]) -> str | None:
    content = message.get("content")
    parts = [message, *(content if isinstance(content, list) else [])]
    return next((said for part in parts if (said := _str(_dict(part).get("refusal")))), None)


def _tool(message: Mapping[str, Any]) -> str | None:
    """The name of the tool that the model called, "" for one without a name."""
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        return _str(_dict(_dict(calls[0]).get("function")).get("name")) or ""
    call = _dict(message.get("function_call"))
    return (_str(call.get("name")) or "") if call else None


# --- an error, however it was given ---------------------------------------------------------


def _error_members(error: object) -> dict[str, Any]:
    """An error as an object; empty when there is none."""
    if isinstance(error, str):
        return _dict(error) or ({"message": error} if error.strip() else {})
    members = _dict(error)
    return members if _code(members) or _str(members.get("message")) else {}


def _code(error: Mapping[str, Any]) -> str | None:
    code = error.get("code")
    if isinstance(code, (int, float)) and not isinstance(code, bool):
        return str(code)
    return _name(code) or _name(error.get("type"))


def _said(error: Mapping[str, Any], *, before: str = "") -> str:
    """`400 context_length_exceeded: This model's …`, with what there is of it."""
    name = " ".join(part for part in (before, _code(error)) if part)
    message = _str(error.get("message"))
    return _one_line(": ".join(part for part in (name, message) if part))


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _ERROR_CHARS else line[: _ERROR_CHARS - 1] + "…"


# --- members of any type --------------------------------------------------------------------


def _loads(line: bytes) -> Any:
    """The value of one JSON line. Raises ValueError or RecursionError for what is none."""
    try:
        return orjson.loads(line)
    except ValueError:
        return json.loads(line.decode())  # lone surrogates, numbers beyond 64 bits


def _dict(value: object) -> dict[str, Any]:
    """The object in `value`; a string may hold one as JSON, anything else counts as empty."""
    if isinstance(value, str):
        try:
            value = _loads(value.encode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _str(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _name(value: object) -> str | None:
    """A short name (a model, a code): text that is valid Unicode."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) and value else None


def _int(value: object) -> int | None:
    """A count or a status; None for what is none."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 16:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= _MOST else None
