"""The codec: rendered rows to request lines, result lines to outcomes, and where a shard is cut.

It knows JSONL and the bodies of each endpoint, both ways. It opens no path and no socket, and it
knows neither frames nor jobs: rows are positions, named on the wire by `"{run_id}-{position}"`.
A request line begins with its custom_id, so that all bytes after it (the tail) are the same for
the same request; their hash is the line's identity. The traps: answers hold U+2028 and the like,
so lines end at b"\\n" only; text may hold lone surrogates, which UTF-8 cannot carry and JSON
escapes can; and a result line promises nothing: any member may be null, missing or of another
type, and the row must still get its one status.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import accumulate, repeat
from operator import add
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
import orjson

from batch_magic.errors import CellError
from batch_magic.records import Lines, Message, Outcomes, Rendered, RowStatus, Slot

DIGEST_SIZE = 16

_RUN_ID = re.compile(r"[A-Za-z0-9_.-]{1,48}")
_HEAD = b'{"custom_id":"'
_BOM = b"\xef\xbb\xbf"
_ERROR_CHARS = 1000


# --- out: request lines ---------------------------------------------------------------------


def _dumps(text: str) -> bytes:
    """One JSON string. A text with a lone surrogate goes out in ASCII escapes."""
    try:
        return orjson.dumps(text)
    except TypeError:
        return json.dumps(text).encode()


def _constant(value: object) -> bytes:
    """JSON of a value that is the same in every line, written once."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise CellError(f"a request parameter cannot be written as JSON: {error}") from error
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


_REFUSED_PARAMS: Mapping[str, str] = MappingProxyType(
    {
        "model": "the model is given by -m",
        "messages": "the messages come from the cell's body",
        "stream": "the Batch API refuses streaming; leave it out",
        "stream_options": "the Batch API refuses streaming; leave it out",
    }
)


def check_params(params: Mapping[str, Any]) -> None:
    """Raise `CellError` for a parameter that no request of ours may hold."""
    for name, why in _REFUSED_PARAMS.items():
        if name in params:
            raise CellError(f"parameter {name!r} cannot be set: {why}")
    if params.get("n", 1) not in (1, None):
        raise CellError(
            f"parameter 'n' is {params['n']!r}, but one answer per row is kept; "
            "leave it out, or repeat the rows in the frame"
        )


_Piece = bytes | Slot


def _chat_body(model: str, params: Mapping[str, Any], messages: Sequence[Message]) -> list[_Piece]:
    """The body of a chat completion as constant bytes and slots."""
    pieces: list[_Piece] = [b'{"model":' + _constant(model) + b',"messages":[']
    for number, message in enumerate(messages):
        comma = b"," if number else b""
        pieces.append(comma + b'{"role":' + _constant(message.role) + b',"content":"')
        for piece in message.pieces:
            pieces.append(piece if isinstance(piece, Slot) else _dumps(piece)[1:-1])
        pieces.append(b'"}')
    rest = _constant(dict(params))[1:]  # `}` alone when there are none
    pieces.append(b"]" + (b"," if params else b"") + rest)
    return pieces


def _joined(pieces: Sequence[_Piece]) -> list[_Piece]:
    joined: list[_Piece] = [b""]
    for piece in pieces:
        last = joined[-1]
        if isinstance(piece, bytes) and isinstance(last, bytes):
            joined[-1] = last + piece
        else:
            joined.append(piece)
    return joined


class Encoder:
    """Writes the request lines of one run.

    `endpoint` is a name or a full path of `ENDPOINTS`. Raises `CellError` for a parameter that
    may not be set or is no JSON.
    """

    def __init__(
        self,
        *,
        run_id: str,
        endpoint: str,
        model: str,
        params: Mapping[str, Any],
        messages: tuple[Message, ...],
    ) -> None:
        check_params(params)
        self._head = _head(run_id)
        path = endpoint_path(endpoint)
        opening = b'","method":"POST","url":' + _constant(path) + b',"body":'
        body = _KINDS[path].body(model, params, messages)
        self._pieces = _joined([opening, *body, b"}\n"])
        self._prefix = self._pieces[0] if isinstance(self._pieces[0], bytes) else b""

    def encode(self, rendered: Rendered) -> Lines:
        """One line for each position of `rendered`, in its order."""
        heads = [b"%b%d" % (self._head, position) for position in rendered.positions]
        data = self._lines(heads, rendered)
        return Lines(
            positions=rendered.positions, data=data, digests=list(self._digests(heads, data))
        )

    def _lines(self, heads: Sequence[bytes], rendered: Rendered) -> list[bytes]:
        columns: list[Iterable[bytes]] = [heads]
        for piece in self._pieces:
            if isinstance(piece, Slot):
                columns.append([_dumps(text)[1:-1] for text in rendered.slots[piece.n]])
            else:
                columns.append(repeat(piece, len(heads)))
        return [b"".join(parts) for parts in zip(*columns, strict=True)]

    def _digests(self, heads: Sequence[bytes], lines: Sequence[bytes]) -> Iterator[bytes]:
        hashed, known = hashlib.sha256(self._prefix), len(self._prefix)  # constants, once
        for head, line in zip(heads, lines, strict=True):
            digest = hashed.copy()
            digest.update(memoryview(line)[len(head) + known :])
            yield digest.digest()[:DIGEST_SIZE]


def _head(run_id: str) -> bytes:
    if not _RUN_ID.fullmatch(run_id):
        raise ValueError(f"run id {run_id!r} cannot be part of a custom_id")
    return _HEAD + run_id.encode() + b"-"


def _tail(line: bytes) -> bytes:
    """All bytes of a request line after its custom_id, newline included."""
    end = line.find(b'"', len(_HEAD))
    if end < 0 or not line.startswith(_HEAD):
        raise ValueError("not a request line of ours")
    tail = line[end:]
    return tail if tail.endswith(b"\n") else tail + b"\n"


def tail_digest(line: bytes) -> bytes:
    """The identity of a request line: 16 bytes, whatever its custom_id.

    Raises `ValueError` for what is not a line as `Encoder` writes it.
    """
    return hashlib.sha256(_tail(line)).digest()[:DIGEST_SIZE]


def relabel(line: bytes, run_id: str, position: int) -> bytes:
    """The same request under another custom_id, newline included."""
    return b"%b%d%b" % (_head(run_id), position, _tail(line))


def custom_id(run_id: str, position: int) -> str:
    """The name of a row on the wire."""
    return f"{run_id}-{position}"


def position_of(custom_id: str, run_id: str) -> int | None:
    """The row that a custom_id names; None for the row of another run."""
    prefix = run_id + "-"
    digits = custom_id[len(prefix) :]
    if not (custom_id.startswith(prefix) and digits.isdecimal() and digits.isascii()):
        return None
    # "007" is no name that we give, and more digits than a column holds are no position.
    return int(digits) if len(digits) < 16 and (digits[0] != "0" or digits == "0") else None


# --- out: cutting shards --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring lines of one shard. `opens` says that they are the first of a new one."""

    lines: Lines
    opens: bool


@dataclass(frozen=True, slots=True)
class Packed:
    """Lines sorted into shards, and `(position, size_bytes)` of those that no job can hold."""

    parts: tuple[Part, ...]
    oversize: tuple[tuple[int, int], ...] = ()


class Packer:
    """Decides where a shard is cut. Lines keep their order; a shard is filled before the next.

    A line longer than `max_bytes` fits no shard and is told apart instead of being sent.
    """

    def __init__(self, *, max_rows: int, max_bytes: int) -> None:
        if max_rows < 1 or max_bytes < 1:
            raise CellError("a job must be allowed at least one row and one byte")
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._rows = 0  # of the open shard
        self._bytes = 0
        self._started = False

    def pack(self, lines: Lines) -> Packed:
        """The next lines of a run, sorted into the open shard and new ones."""
        sizes = [len(line) for line in lines.data]
        oversize: tuple[tuple[int, int], ...] = ()
        if sizes and max(sizes) > self._max_bytes:
            oversize = tuple(
                (position, size)
                for position, size in zip(lines.positions, sizes, strict=True)
                if size > self._max_bytes
            )
            lines = _some(lines, [i for i, size in enumerate(sizes) if size <= self._max_bytes])
            sizes = [size for size in sizes if size <= self._max_bytes]
        return Packed(tuple(self._parts(lines, sizes)), oversize)

    def _parts(self, lines: Lines, sizes: Sequence[int]) -> Iterator[Part]:
        start = 0
        while start < len(sizes):
            count = self._fitting(sizes, start)
            if count:
                yield Part(_slice(lines, start, start + count), opens=not self._started)
                self._started = True
                self._rows += count
                self._bytes += sum(sizes[start : start + count])
                start += count
            if start < len(sizes):
                self._started, self._rows, self._bytes = False, 0, 0

    def _fitting(self, sizes: Sequence[int], start: int) -> int:
        """How many of the lines from `start` on the open shard still takes."""
        room = self._max_bytes - self._bytes
        stop = min(len(sizes), start + self._max_rows - self._rows)
        if sum(sizes[start:stop]) <= room:
            return stop - start
        return sum(1 for total in accumulate(sizes[start:stop]) if total <= room)


def _slice(lines: Lines, start: int, stop: int) -> Lines:
    if start == 0 and stop == len(lines.data):
        return lines
    return Lines(lines.positions[start:stop], lines.data[start:stop], lines.digests[start:stop])


def _some(lines: Lines, rows: Sequence[int]) -> Lines:
    return Lines(
        [lines.positions[row] for row in rows],
        [lines.data[row] for row in rows],
        [lines.digests[row] for row in rows],
    )


# --- in: the plain success, typed -----------------------------------------------------------


# Counts that fit every column they go to; a stranger's number is read the careful way.
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


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


_NO_USAGE = _ChatUsage()
_NO_CACHED = _CachedTokens()
_NO_REASONING = _ReasoningTokens()


# --- in: any other line ---------------------------------------------------------------------


@dataclass(slots=True)
class _Outcome:
    """One row's outcome while a line is being read the careful way."""

    status: RowStatus
    text: str | None = None
    error: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    http_status: int | None = None
    code: str | None = None
    usage: tuple[int | None, int | None, int | None, int | None] = (None, None, None, None)


_EXPIRED_CODES = frozenset({"batch_expired"})
_CANCELLED_CODES = frozenset({"batch_cancelled", "batch_canceled"})


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
    return value if 0 <= value <= 2**53 else None


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _ERROR_CHARS else line[: _ERROR_CHARS - 1] + "…"


def _code(error: Mapping[str, Any]) -> str | None:
    code = error.get("code")
    if isinstance(code, (int, float)) and not isinstance(code, bool):
        return str(code)
    return _name(code) or _name(error.get("type"))


def _error_members(error: object) -> dict[str, Any]:
    """An error as an object, however it was given; empty when there is none."""
    if isinstance(error, str):
        return _dict(error) or ({"message": error} if error.strip() else {})
    members = _dict(error)
    return members if _code(members) or _str(members.get("message")) else {}


def _said(error: Mapping[str, Any], *, before: str = "") -> str:
    """`400 context_length_exceeded: This model's …`, with what there is of it."""
    name = " ".join(part for part in (before, _code(error)) if part)
    message = _str(error.get("message"))
    if message is None:
        return _one_line(name)
    return _one_line(f"{name}: {message}" if name else message)


def _read_line(line: Mapping[str, Any], kind: _Kind) -> _Outcome:
    error = _error_members(line.get("error"))
    response = _dict(line.get("response"))
    if not response:
        return _not_run(error)
    status = _int(response.get("status_code"))
    body = response.get("body")
    if status is not None and 200 <= status < 300:
        outcome = kind.answer(_dict(body)) if not _body_error(body) else None
        if outcome is not None:
            outcome.http_status = status
            return outcome
    return _failed(status, _body_error(body) or error, body)


def _not_run(error: Mapping[str, Any]) -> _Outcome:
    """A row without an HTTP answer."""
    code = _code(error)
    status = RowStatus.FAILED
    if code in _EXPIRED_CODES:
        status = RowStatus.EXPIRED
    elif code in _CANCELLED_CODES:
        status = RowStatus.CANCELLED
    said = _said(error) or "the line holds neither a response nor an error"
    return _Outcome(status, error=said, code=code)


def _body_error(body: object) -> dict[str, Any]:
    return _error_members(_dict(body).get("error"))


def _failed(status: int | None, error: Mapping[str, Any], body: object) -> _Outcome:
    if not error and isinstance(body, str) and not _dict(body):
        error = {"message": body}  # a proxy's own page
    if status == 0:
        said = _said(error, before="no HTTP answer (status 0)")
    else:
        said = _said(error, before="an unknown status" if status is None else str(status))
    return _Outcome(RowStatus.FAILED, error=said, code=_code(error), http_status=status)


def _joined_text(content: object) -> str | None:
    """A message's content as text: a string, or a list of parts whose texts are joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [part if isinstance(part, str) else _dict(part).get("text") for part in content]
    found = [text for text in texts if isinstance(text, str)]
    return "".join(found) if found else None


def _refusal(message: Mapping[str, Any]) -> str | None:
    if said := _str(message.get("refusal")):
        return said
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return next((said for part in parts if (said := _str(_dict(part).get("refusal")))), None)


def _tool(message: Mapping[str, Any]) -> str | None:
    """The name of the tool that the model called, "" for one without a name."""
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        return _str(_dict(_dict(calls[0]).get("function")).get("name")) or ""
    call = _dict(message.get("function_call"))
    return (_str(call.get("name")) or "") if call else None


def _chat_answer(body: Mapping[str, Any]) -> _Outcome:
    """What the body of an answered chat completion says."""
    choices = body.get("choices")
    choice = _dict(choices[0]) if isinstance(choices, list) and choices else {}
    message = _dict(choice.get("message"))
    finish_reason = _name(choice.get("finish_reason"))
    status, text, error = _chat_verdict(choice, message, finish_reason)
    return _Outcome(
        status,
        text,
        error,
        finish_reason=finish_reason,
        model=_name(body.get("model")),
        usage=_chat_usage(_dict(body.get("usage"))),
    )


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
        name = f" ({tool})" if tool else ""
        said = f": {text}" if text else ""
        return RowStatus.UNPARSED, None, _one_line(f"the model called a tool{name}{said}")
    if text is None:
        why = f" (finish_reason {finish_reason})" if finish_reason not in (None, "stop") else ""
        return RowStatus.UNPARSED, None, f"the answer holds no text{why}"
    return RowStatus.OK, text, None


def _chat_usage(
    usage: Mapping[str, Any],
) -> tuple[int | None, int | None, int | None, int | None]:
    return (
        _int(usage.get("prompt_tokens")),
        _int(_dict(usage.get("prompt_tokens_details")).get("cached_tokens")),
        _int(usage.get("completion_tokens")),
        _int(_dict(usage.get("completion_tokens_details")).get("reasoning_tokens")),
    )


@dataclass(slots=True)
class _SortedLines:
    """The lines of a block, sorted by how they are read, and where each begins."""

    answers: list[tuple[Any, ...]] = field(default_factory=list)  # plain successes
    answered: list[int] = field(default_factory=list)  # and their numbers, from 0
    others: list[tuple[int, bytes]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # of all lines, newlines included


def _sorted_lines(
    block: bytes, typed: Callable[[bytes], Any], entry_of: Callable[[Any], tuple[Any, ...]]
) -> _SortedLines:
    found = _SortedLines()
    for number, line in enumerate(BytesIO(block)):  # bytes end lines at b"\n" only
        found.sizes.append(len(line))
        try:
            entry = entry_of(typed(line))  # taken apart at once, while it is in the cache
        except (msgspec.MsgspecError, ValueError, RecursionError):
            found.others.append((number, line))
        else:
            found.answers.append(entry)
            found.answered.append(number)
    return found


def _chat_entry(line: _ChatLine) -> tuple[Any, ...]:
    """What `_columns_of_answers` needs of a plain success."""
    body = line.response.body
    choice = body.choices[0]
    usage = body.usage or _NO_USAGE
    return (
        line.custom_id,
        choice.message.content,
        choice.finish_reason,
        body.model,
        line.response.status_code,
        usage.prompt_tokens,
        (usage.prompt_tokens_details or _NO_CACHED).cached_tokens,
        usage.completion_tokens,
        (usage.completion_tokens_details or _NO_REASONING).reasoning_tokens,
    )


def _columns_of_answers(answers: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """The columns of `Outcomes` from `statuses` to `usage_reasoning`, for plain successes."""
    columns = [list(column) for column in zip(*answers, strict=True)] or [[] for _ in range(9)]
    _, text, finish_reason, model, http_status, *usage = columns
    nothing = [None] * len(answers)
    ok = [int(RowStatus.OK)] * len(answers)
    return [ok, text, nothing, finish_reason, model, http_status, nothing, *usage]


def _columns_of_others(outcomes: Sequence[_Outcome], names: dict[str, str]) -> list[list[Any]]:
    """The same columns for lines that were read the careful way."""
    return [
        [int(outcome.status) for outcome in outcomes],
        [outcome.text for outcome in outcomes],
        [_same(outcome.error, names) for outcome in outcomes],
        [_same(outcome.finish_reason, names) for outcome in outcomes],
        [_same(outcome.model, names) for outcome in outcomes],
        [outcome.http_status for outcome in outcomes],
        [_same(outcome.code, names) for outcome in outcomes],
        *([outcome.usage[n] for outcome in outcomes] for n in range(4)),
    ]


# --- endpoints ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one endpoint's bodies are written and read."""

    body: Callable[[str, Mapping[str, Any], Sequence[Message]], list[_Piece]]
    line: type[Any]  # the typed form of a plain success
    entry: Callable[[Any], tuple[Any, ...]]  # taken apart
    answer: Callable[[Mapping[str, Any]], _Outcome]


ENDPOINTS: Mapping[str, str] = MappingProxyType({"chat": "/v1/chat/completions"})
"""Names of endpoints and their paths."""

_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        ENDPOINTS["chat"]: _Kind(_chat_body, _ChatLine, _chat_entry, _chat_answer),
    }
)


def endpoint_path(endpoint: str) -> str:
    """The full path of an endpoint given by its name or path. Raises `CellError`."""
    path = ENDPOINTS.get(endpoint, endpoint)
    if path not in _KINDS:
        known = ", ".join(repr(name) for name in ENDPOINTS)
        raise CellError(f"endpoint {endpoint!r} is not known; use one of {known}")
    return path


def _same(text: str | None, names: dict[str, str]) -> str | None:
    """One object for equal strings: a million rows share one model name."""
    return None if text is None else names.setdefault(text, text)


class Decoder:
    """Reads result lines of one run, output file and error file alike.

    `endpoint` is a name or a full path of `ENDPOINTS`.
    """

    def __init__(self, *, run_id: str, endpoint: str) -> None:
        self._run_id = run_id
        self._kind = _KINDS[endpoint_path(endpoint)]
        self._typed = msgspec.json.Decoder(self._kind.line)
        self._names: dict[str, str] = {}

    def decode(
        self,
        block: bytes,
        *,
        offset: int = 0,
        first_line: int = 1,
        positions: Sequence[int] | None = None,
    ) -> Outcomes:
        """Outcomes, in the order of the file, of a block of whole lines.

        The block starts `offset` bytes into its file, with line number `first_line`. With
        `positions`, line i of the block (blank ones counted) answers row `positions[i]`,
        whatever its custom_id. Never raises for what a line holds.
        """
        lines = _sorted_lines(block, self._typed.decode, self._kind.entry)
        others, malformed = self._read_others(
            lines.others, at_start=offset == 0, named=positions is None
        )
        numbers = lines.answered + [number for number, _, _ in others]
        if positions is None:
            names = [answer[0] for answer in lines.answers] + [name for _, name, _ in others]
            rows = [position_of(name, self._run_id) for name in names]
        else:
            rows = [positions[number] for number in numbers]
        plain = _columns_of_answers(lines.answers)
        careful = _columns_of_others([outcome for _, _, outcome in others], self._names)
        columns = [rows, *map(add, plain, careful), *_places(lines.sizes, numbers, block, offset)]
        if others or None in rows:
            order = sorted(range(len(rows)), key=numbers.__getitem__)
            kept = [entry for entry in order if rows[entry] is not None]
            columns = [[column[entry] for entry in kept] for column in columns]
        foreign = len(rows) - len(columns[0])
        rest: Any = (foreign, [first_line + number for number in malformed])
        return Outcomes(*columns, *rest)

    def _read_others(
        self, lines: Sequence[tuple[int, bytes]], *, at_start: bool, named: bool
    ) -> tuple[list[tuple[int, str, _Outcome]], list[int]]:
        """Number, custom_id and outcome of each result line, and the numbers of what is none."""
        read: list[tuple[int, str, _Outcome]] = []
        malformed: list[int] = []
        for number, line in lines:
            if at_start and number == 0:
                line = line.removeprefix(_BOM)
            if not line or line.isspace():
                continue
            try:
                members = _loads(line)
                outcome = _read_line(members, self._kind)
            except (ValueError, RecursionError, AttributeError):
                malformed.append(number)
                continue
            name = members.get("custom_id")
            if named and not isinstance(name, str):
                malformed.append(number)
            else:
                read.append((number, str(name), outcome))
        return read, malformed


def _places(
    sizes: Sequence[int], numbers: Sequence[int], block: bytes, offset: int
) -> tuple[list[int], list[int]]:
    """Where these lines begin in their file, and how long they are without the newline."""
    starts = list(accumulate(sizes, initial=offset))
    bare = [size - 1 for size in sizes]
    if sizes and not block.endswith(b"\n"):
        bare[-1] += 1
    return [starts[number] for number in numbers], [bare[number] for number in numbers]
