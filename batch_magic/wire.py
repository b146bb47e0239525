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
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson

from batch_magic.errors import CellError
from batch_magic.records import Lines, Message, Rendered, Slot

DIGEST_SIZE = 16
CHAT = "/v1/chat/completions"

_PATHS: Mapping[str, str] = MappingProxyType({"chat": CHAT})
_HEAD = b'{"custom_id":"'
_ESCAPES = ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\n", b"\\n"), (b"\t", b"\\t"), (b"\r", b"\\r"))
_REFUSED_PARAMS: Mapping[str, str] = MappingProxyType(
    {
        "model": "the model is given by -m",
        "messages": "the messages come from the cell's body",
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
    if params.get("n", 1) not in (1, None):
        raise CellError(
            f"parameter 'n' is {params['n']!r}, but one answer per row is kept; "
            "leave it out, or repeat the rows in the frame"
        )


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
        pieces = _joined([opening, *_chat_body(model, params, messages), b"}\n"])
        self._name = _HEAD + run_id.encode() + b"-"
        self._opening, self._pieces = pieces[0], pieces[1:]
        self._hashed = hashlib.sha256(self._opening)  # constants, once

    def encode(self, rendered: Rendered) -> Lines:
        """One line for each position of `rendered`, in its order."""
        count = len(rendered.positions)
        heads = [b"%b%d%b" % (self._name, n, self._opening) for n in rendered.positions]
        columns: list[Sequence[bytes | memoryview]] = [heads]
        for piece in self._pieces:
            is_slot = isinstance(piece, Slot)
            columns.append(_escaped(rendered.slots[piece.n]) if is_slot else [piece] * count)
        parts: list[bytes | memoryview] = [b""] * (count * len(columns))
        for place, column in enumerate(columns):
            parts[place :: len(columns)] = column
        data = b"".join(parts)
        sizes = list(map(sum, zip(*(map(len, column) for column in columns), strict=True)))
        return Lines(rendered.positions, data, sizes, self._digests(data, heads, sizes))

    def _digests(self, data: bytes, heads: Sequence[bytes], sizes: Sequence[int]) -> bytes:
        lines, at, digests = memoryview(data), 0, []
        for head, size in zip(heads, sizes, strict=True):
            hashed = self._hashed.copy()
            hashed.update(lines[at + len(head) : at + size])
            digests.append(hashed.digest()[:DIGEST_SIZE])
            at += size
        return b"".join(digests)


def tail_digest(line: bytes) -> bytes:
    """The identity of a request line: 16 bytes, whatever its custom_id.

    Raises `ValueError` for what is not a line as `Encoder` writes it.
    """
    end = line.find(b'"', len(_HEAD))
    if end < 0 or not line.startswith(_HEAD):
        raise ValueError("not a request line of ours")
    return hashlib.sha256(memoryview(line)[end:]).digest()[:DIGEST_SIZE]


# --- the body as constants and slots --------------------------------------------------------


def _chat_body(
    model: str, params: Mapping[str, Any], messages: Sequence[Message]
) -> list[bytes | Slot]:
    pieces: list[bytes | Slot] = [b'{"model":' + _constant(model) + b',"messages":[']
    for number, message in enumerate(messages):
        comma = b"," if number else b""
        pieces.append(comma + b'{"role":' + _constant(message.role) + b',"content":"')
        for piece in message.pieces:
            pieces.append(piece if isinstance(piece, Slot) else _string(piece)[1:-1])
        pieces.append(b'"}')
    rest = _constant(dict(params))[1:]  # `}` alone when there are none
    pieces.append(b"]" + (b"," if params else b"") + rest)
    return pieces


def _joined(pieces: Sequence[bytes | Slot]) -> tuple[Any, ...]:
    """The same pieces with neighbouring constants joined."""
    joined: list[Any] = []
    for piece in pieces:
        if joined and isinstance(piece, bytes) and isinstance(joined[-1], bytes):
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)


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


# --- the texts of a slot --------------------------------------------------------------------


def _escaped(texts: Sequence[str] | Sequence[bytes]) -> Sequence[bytes | memoryview]:
    """The inside of a JSON string for each text (or its UTF-8), all in one buffer."""
    try:
        joined = _with_nul_between(texts)
    except UnicodeEncodeError:
        return [_string(text)[1:-1] for text in texts]
    for raw, written in _ESCAPES:
        joined = joined.replace(raw, written)
    ends = np.flatnonzero(np.frombuffer(joined, dtype=np.uint8) < 0x20).tolist()
    if len(ends) >= len(texts):  # more than the NULs between them: other control characters
        return [_string(text)[1:-1] for text in texts]
    view = memoryview(joined)
    starts = [0, *(end + 1 for end in ends)]
    return [view[start:end] for start, end in zip(starts, [*ends, len(view)], strict=True)]


def _with_nul_between(texts: Sequence[Any]) -> bytes:
    if isinstance(texts[0] if texts else b"", bytes):
        return b"\0".join(texts)
    return "\0".join(texts).encode()


def _string(text: str | bytes) -> bytes:
    """One JSON string. A text with a lone surrogate goes out in ASCII escapes."""
    text = text.decode() if isinstance(text, bytes) else text
    try:
        return orjson.dumps(text)
    except TypeError:
        return json.dumps(text).encode()
