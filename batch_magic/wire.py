"""Request lines: rendered rows to JSONL, and which requests are the same.

It knows how the body of each endpoint is written and opens no path and no socket; a row is a
position, named on the wire by `"{run_id}-{position}"`. A line begins with its custom_id, so that
the bytes after it (the tail) are the same for the same request; their hash is the line's
identity. What is constant in a line is written once; the texts of a slot are escaped a chunk at
a time, all in one buffer. The trap is text that UTF-8 cannot carry, or control characters that
JSON must spell out: a chunk that holds any is escaped the careful way, text by text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import add
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson

from batch_magic.errors import CellError
from batch_magic.records import Endpoint, Lines, Message, Rendered, Slot

DIGEST_SIZE = 16
CHAT = Endpoint.CHAT.value

_PATHS: Mapping[str, str] = MappingProxyType({one.name.lower(): one.value for one in Endpoint})
_HEAD = b'{"custom_id":"'
_ESCAPES = ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\n", b"\\n"), (b"\t", b"\\t"), (b"\r", b"\\r"))
_MARKS = [bytes([code]) for code in range(0x20) if code not in b"\t\n\r"]
_REFUSED_PARAMS: Mapping[str, str] = MappingProxyType(
    {
        "model": "the model is given by -m",
        **dict.fromkeys(("messages", "input", "prompt"), "it comes from the cell's body"),
        "stream": "the Batch API refuses streaming; leave it out",
        "stream_options": "the Batch API refuses streaming; leave it out",
    }
)


def endpoint_path(endpoint: str) -> str:
    """The full path of an endpoint given by its name or path. Raises `CellError`."""
    path = _PATHS.get(endpoint, endpoint)
    if path not in _PATHS.values():
        known = ", ".join(repr(name) for name in _PATHS)
        raise CellError(f"endpoint {endpoint!r} is not known; use one of {known}")
    return path


def check_params(params: Mapping[str, Any]) -> None:
    """Raise `CellError` for a parameter that no request of ours may hold."""
    for name, why in _REFUSED_PARAMS.items():
        if name in params:
            raise CellError(f"parameter {name!r} cannot be set: {why}")
    n = params.get("n")
    if n is not None and not (isinstance(n, int) and n == 1):
        raise CellError(
            f"parameter 'n' is {n!r:.40}, but one answer per row is kept; "
            "leave it out, or repeat the rows in the frame"
        )


def asking_for(
    schema: Mapping[str, Any], name: str, params: Mapping[str, Any], endpoint: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the parameters of requests for answers by a strict schema, and what is to be said.

    With `response_format={"type": "json_object"}` among them, as hosts without strict mode need,
    that is sent and the schema is only checked here. Raises CellError for another one.
    """
    form = {"name": _schema_name(name), "strict": True, "schema": dict(schema)}
    if endpoint == Endpoint.RESPONSES:
        text = params.get("text", {})
        if not isinstance(text, Mapping) or "format" in text:
            raise CellError("--schema sets text.format; leave it out of -p")
        return {**params, "text": {**text, "format": {"type": "json_schema", **form}}}, ()
    if endpoint != Endpoint.CHAT:
        word = Endpoint(endpoint).name.lower()
        raise CellError(f"--schema is for chat and responses; {word} has no structured output")
    given = params.get("response_format")
    if given is None:
        return {**params, "response_format": {"type": "json_schema", "json_schema": form}}, ()
    if given != {"type": "json_object"}:
        raise CellError("--schema sets response_format; leave it out of -p")
    return dict(params), (f"JSON mode: answers are checked by {name} here, not by the service",)


def _schema_name(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", name).strip("_")[:64] or "answer"


class Encoder:
    """Writes the request lines of one run to the endpoint at the path `endpoint`.

    Raises `CellError` for a parameter that may not be set or is no JSON.
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
        opening = b'","method":"POST","url":' + _constant(endpoint) + b',"body":'
        pieces = _joined([opening, *_body(endpoint, model, params, messages), b"}\n"])
        self._name = _HEAD + run_id.encode() + b"-"
        self._opening, self._slots, self._after = pieces[0], pieces[1::2], pieces[2::2]
        self._hashed = hashlib.sha256(self._opening)  # constants, once

    def encode(self, rendered: Rendered) -> Lines:
        """One line for each position of `rendered`, in its order."""
        heads = [b"%b%d%b" % (self._name, n, self._opening) for n in rendered.positions]
        slots = [rendered.slots[n] for n in self._slots]
        tails = _written_at_once(slots, self._after) or _written_singly(slots, self._after)
        parts: list[bytes | memoryview] = [b""] * (2 * len(heads))
        parts[::2], parts[1::2] = heads, tails
        sizes = list(map(add, map(len, heads), map(len, tails)))
        return Lines(rendered.positions, b"".join(parts), sizes, self._digests(tails))

    def _digests(self, tails: Sequence[bytes | memoryview]) -> bytes:
        begin, digests = self._hashed.copy, list[bytes]()
        for tail in tails:
            hashed = begin()
            hashed.update(tail)
            digests.append(hashed.digest())
        whole = np.frombuffer(b"".join(digests), dtype=np.uint8)
        return whole.reshape(-1, self._hashed.digest_size)[:, :DIGEST_SIZE].tobytes()


def tail_digest(line: bytes) -> bytes:
    """The identity of a request line: 16 bytes, whatever its custom_id.

    Raises `ValueError` for what is not a line as `Encoder` writes it.
    """
    return hashlib.sha256(memoryview(line)[_tail_at(line) :]).digest()[:DIGEST_SIZE]


def renamed(line: bytes, run_id: str, position: int) -> bytes:
    """The same request for a row of another run. Raises `ValueError` as `tail_digest` does."""
    return b"%b%b-%d%b" % (_HEAD, run_id.encode(), position, line[_tail_at(line) :])


def line_of(run_id: str, position: int, endpoint: str, body: Mapping[str, Any]) -> bytes:
    """One request line with a body that stands ready. Raises `CellError` for what is no JSON."""
    url, written = _constant(endpoint), _constant(dict(body))
    head = b"%b%b-%d" % (_HEAD, run_id.encode(), position)
    return head + b'","method":"POST","url":' + url + b',"body":' + written + b"}\n"


def _tail_at(line: bytes) -> int:
    end = line.find(b'"', len(_HEAD))
    if end < 0 or not line.startswith(_HEAD):
        raise ValueError("not a request line of ours")
    return end


# --- the body as constants and slots --------------------------------------------------------


def _body(
    endpoint: str, model: str, params: Mapping[str, Any], messages: Sequence[Message]
) -> list[bytes | Slot]:
    pieces: list[bytes | Slot] = [b'{"model":' + _constant(model) + b","]
    if endpoint in (Endpoint.CHAT, Endpoint.RESPONSES):
        pieces.append(b'"messages":[' if endpoint == Endpoint.CHAT else b'"input":[')
        pieces += [*_dialogue(messages), b"]"]
    else:
        check_one_text(endpoint, messages)
        pieces.append(b'"prompt":"' if endpoint == Endpoint.COMPLETIONS else b'"input":"')
        pieces += [*_text(messages[0]), b'"']
    if endpoint == Endpoint.EMBEDDINGS:
        # A third of the bytes, and exact: 1,536 numbers as text are 30 kB a row.
        params = {"encoding_format": "base64", **params}
    rest = _constant(dict(params))[1:]  # `}` alone when there are none
    pieces.append((b"," if params else b"") + rest)
    return pieces


def check_one_text(endpoint: str, messages: Sequence[Message]) -> None:
    """Raise `CellError` for messages with roles, where the endpoint takes one text."""
    if endpoint in (Endpoint.CHAT, Endpoint.RESPONSES):
        return
    if len(messages) != 1 or messages[0].role != "user":
        name = Endpoint(endpoint).name.lower()
        raise CellError(
            f"{name} takes one text and knows no roles; leave the lines `system:` and the like out"
        )


def _text(message: Message) -> list[bytes | Slot]:
    return [one if isinstance(one, Slot) else _string(one)[1:-1] for one in message.pieces]


def _dialogue(messages: Sequence[Message]) -> list[bytes | Slot]:
    pieces: list[bytes | Slot] = []
    for number, message in enumerate(messages):
        comma = b"," if number else b""
        pieces.append(comma + b'{"role":' + _constant(message.role) + b',"content":"')
        pieces += [*_text(message), b'"}']
    return pieces


def _joined(pieces: Sequence[bytes | Slot]) -> list[Any]:
    """The same as a constant, the number of a slot, a constant, and so on."""
    joined: list[Any] = [b""]
    for piece in pieces:
        if isinstance(piece, Slot):
            joined += [piece.n, b""]
        else:
            joined[-1] += piece
    return joined


def _constant(value: object) -> bytes:
    """JSON of a value that is the same in every line."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise CellError(f"a request parameter cannot be written as JSON: {error}") from error
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


# --- the texts of the slots -----------------------------------------------------------------


def _written_at_once(slots: Sequence[Sequence[Any]], after: Sequence[bytes]) -> list[memoryview]:
    """For each row its texts, each with the constant `after` it, all rows in one buffer.

    A mark behind each text holds the constant's place while quotes and line ends are escaped;
    none when a text holds what cannot be told from a mark, or is no UTF-8.
    """
    count, width = len(slots[0]), 2 * len(slots)
    parts: list[bytes] = [b""] * (count * width)
    try:
        for n, (texts, mark) in enumerate(zip(slots, _MARKS, strict=False)):
            is_utf8 = count > 0 and isinstance(texts[0], bytes)
            parts[2 * n :: width] = texts if is_utf8 else [text.encode() for text in texts]
            parts[2 * n + 1 :: width] = [mark] * count
    except UnicodeEncodeError:
        return []
    data = b"".join(parts)
    for raw, written in _ESCAPES:
        data = data.replace(raw, written)
    if np.count_nonzero(np.frombuffer(data, dtype=np.uint8) < 0x20) != count * len(slots):
        return []
    for mark, constant in zip(_MARKS, after, strict=False):
        data = data.replace(mark, constant)
    ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n")) + 1
    view = memoryview(data)
    return [view[start:end] for start, end in pairwise([0, *ends.tolist()])]


def _written_singly(slots: Sequence[Sequence[Any]], after: Sequence[bytes]) -> list[bytes]:
    columns = [
        [_string(text)[1:-1] + constant for text in texts]
        for texts, constant in zip(slots, after, strict=True)
    ]
    return [b"".join(row) for row in zip(*columns, strict=True)]


def _string(text: str | bytes) -> bytes:
    """One JSON string. A text with a lone surrogate goes out in ASCII escapes."""
    text = text.decode() if isinstance(text, bytes) else text
    try:
        return orjson.dumps(text)
    except TypeError:
        return json.dumps(text).encode()
