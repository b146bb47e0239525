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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import add
from types import MappingProxyType
from typing import Any, TypedDict

import numpy as np
import orjson

from batch_magic.errors import CellError
from batch_magic.records import Endpoint, Lines, Message, Part, Parts, Rendered, Slot, Value
from batch_magic.value_words import clean, unfolded

DIGEST_SIZE = 16
CHAT = Endpoint.CHAT.value

_PATHS: Mapping[str, str] = MappingProxyType({one.name.lower(): one.value for one in Endpoint})
_HEAD = b'{"custom_id":"'
_ESCAPES = ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\n", b"\\n"), (b"\t", b"\\t"), (b"\r", b"\\r"))
_MARKS = [bytes([code]) for code in range(0x20) if code not in b"\t\n\r"]
_REFUSED_PARAMS: Mapping[str, str] = MappingProxyType(
    {
        "model": "say it with -m",
        **dict.fromkeys(("messages", "input", "prompt"), "write it in the cell's body"),
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
            raise CellError(f"parameter {name!r} cannot be set here; {why}")
    n = params.get("n")
    if n is not None and not (isinstance(n, int) and n == 1):
        raise CellError(
            f"parameter 'n' is {n!r:.40}, but one answer per row is kept; "
            "leave it out, or repeat the rows in the frame"
        )


# Names that end in -chat… are no reasoning models (the API reference, max_tokens).
_REASONING = re.compile(r"(?:o\d|gpt-[5-9](?!.*-chat))")
_LIMITS = {
    Endpoint.CHAT: "max_completion_tokens",
    Endpoint.RESPONSES: "max_output_tokens",
    Endpoint.COMPLETIONS: "max_tokens",
}
_SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs")


def check_token_limit(params: Mapping[str, Any], endpoint: str, models: Sequence[str]) -> None:
    """Raise `CellError` for a limit of tokens by a name that the endpoint or a model refuses."""
    right = _LIMITS.get(Endpoint(endpoint), "")
    for name in {"max_tokens", "max_output_tokens", "max_completion_tokens"} & params.keys():
        is_old = name == "max_tokens" and endpoint == Endpoint.CHAT
        refusing = [model for model in models if _REASONING.match(model)] if is_old else []
        if name != right and (not is_old or refusing):
            who = refusing[0] if refusing else Endpoint(endpoint).name.lower()
            cure = f"say {right}" if right else "leave it out"
            raise CellError(f"{who} refuses the parameter {name!r}; {cure}")


def doubtful_params(
    params: Mapping[str, Any], endpoint: str, models: Sequence[str]
) -> Iterator[str]:
    """Yield a remark on what a reasoning model may refuse, with every row."""
    given = [name for name in _SAMPLING if name in params and params[name] != 1]
    if endpoint in (Endpoint.CHAT, Endpoint.RESPONSES) and given:
        for model in models:
            if _REASONING.match(model):
                yield f"{model} may refuse {', '.join(given)}: reasoning models take few of them"


def asking_for(
    schema: Mapping[str, Any], name: str, params: Mapping[str, Any], endpoint: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the parameters of requests for answers by a strict schema, and what is to be said.

    With a format `{"type": "json_object"}` among them, as hosts without strict mode need, that is
    sent and the schema is only checked here. Raises CellError for another one.
    """
    if is_json_mode(params, endpoint):
        return dict(params), (f"{_JSON_MODE}: answers are checked by {name} here, not there",)
    form = {"name": _schema_name(name), "strict": True, "schema": dict(schema)}
    if endpoint == Endpoint.RESPONSES:
        text = params.get("text", {})
        if not isinstance(text, Mapping) or "format" in text:
            raise CellError("--schema sets text.format; leave it out of -p")
        return {**params, "text": {**text, "format": {"type": "json_schema", **form}}}, ()
    if endpoint != Endpoint.CHAT:
        word = Endpoint(endpoint).name.lower()
        raise CellError(f"--schema is for chat and responses; leave it out for {word}")
    if "response_format" in params:
        raise CellError("--schema sets response_format; leave it out of -p")
    return {**params, "response_format": {"type": "json_schema", "json_schema": form}}, ()


_JSON_MODE = "JSON mode, the schema stands in a system message of ours"


def is_json_mode(params: Mapping[str, Any], endpoint: str) -> bool:
    """Tell whether answers are asked for as JSON of whatever shape."""
    text = params.get("text") if endpoint == Endpoint.RESPONSES else None
    given = text.get("format") if isinstance(text, Mapping) else params.get("response_format")
    return bool(given == {"type": "json_object"})


def _schema_name(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", name).strip("_")[:64] or "answer"


class Encoder:
    """Writes the request lines of one model to the endpoint at the path `endpoint`.

    A `Value` within `params` is each row's own. Raises `CellError` for a parameter that may not
    be set or is no JSON.
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
        self._opening, self._fills, self._after = pieces[0], pieces[1::2], pieces[2::2]
        self._is_plain = all(isinstance(fill, Slot) for fill in self._fills)
        self._hashed = hashlib.sha256(self._opening)  # constants, once

    def encode(self, rendered: Rendered) -> Lines:
        """One line for each position of `rendered`, in its order."""
        heads = [b"%b%d%b" % (self._name, n, self._opening) for n in rendered.positions]
        tails = self._tails(rendered)
        parts: list[bytes | memoryview] = [b""] * (2 * len(heads))
        parts[::2], parts[1::2] = heads, tails
        sizes = list(map(add, map(len, heads), map(len, tails)))
        return Lines(rendered.positions, b"".join(parts), sizes, self._digests(tails))

    def _tails(self, rendered: Rendered) -> Sequence[bytes | memoryview]:
        if not rendered.positions:
            return []
        slots = [rendered.slots[fill.n] for fill in self._fills]
        at_once = _written_at_once(slots, self._after) if self._is_plain else []
        return at_once or _written_singly(self._fills, slots, self._after)

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


def custom_id_of(line: bytes) -> str:
    """The name of a request line. Raises `ValueError` as `tail_digest` does."""
    return line[len(_HEAD) : _tail_at(line)].decode()


def body_of(line: bytes) -> dict[str, Any]:
    """The body of a request line, as the endpoint takes it. Raises `ValueError` for none."""
    found = orjson.loads(line)["body"]
    if not isinstance(found, dict):
        raise ValueError("not a request line of ours")
    return found


def _tail_at(line: bytes) -> int:
    end = line.find(b'"', len(_HEAD))
    if end < 0 or not line.startswith(_HEAD):
        raise ValueError("not a request line of ours")
    return end


# --- a body read again -------------------------------------------------------------------------


class PromptPart(TypedDict):
    """A piece of a message: `text`, or an `image` by its address or its size."""

    kind: str
    said: str


class PromptMessage(TypedDict):
    """A message of a prompt."""

    role: str
    parts: list[PromptPart]


_IMAGES = ("image_url", "input_image")


def messages_of(body: Mapping[str, Any]) -> list[PromptMessage]:
    """Return the messages of a request's body, of any endpoint; an image by address or size."""
    found: list[PromptMessage] = []
    if body.get("instructions"):
        found.append({"role": "instructions", "parts": [_piece(body["instructions"])]})
    for name in ("messages", "input", "prompt"):
        given = body.get(name)
        if isinstance(given, list) and given and all(_is_message(one) for one in given):
            found += [{"role": str(m["role"]), "parts": _pieces(m.get("content"))} for m in given]
        elif given is not None:
            found.append({"role": name, "parts": _pieces(given)})
    return found


def _is_message(one: Any) -> bool:
    return isinstance(one, dict) and "role" in one


def _pieces(content: Any) -> list[PromptPart]:
    return [_piece(one) for one in content] if isinstance(content, list) else [_piece(content)]


def _piece(given: Any) -> PromptPart:
    if isinstance(given, dict) and given.get("type") in _IMAGES:
        url = given.get("image_url")
        return {"kind": "image", "said": _address(url.get("url") if isinstance(url, dict) else url)}
    if isinstance(given, dict) and isinstance(given.get("text"), str):
        given = given["text"]
    if not isinstance(given, str):
        given = json.dumps(unfolded(given), ensure_ascii=False)
    return {"kind": "text", "said": str(unfolded(given))}


_ADDRESS_CHARS = 400


def _address(url: object) -> str:
    """Tell of an image: its address, or what it is and how large."""
    text = clean(str(url))
    head, comma, data = text.partition(",")
    if text.startswith("data:") and comma:
        return f"{head.removeprefix('data:').partition(';')[0]}, {len(data) * 3 // 4:,} bytes"
    return text if len(text) <= _ADDRESS_CHARS else f"{text[:_ADDRESS_CHARS]}…"


# --- the body as constants and slots --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Raw:
    """A place whose row's JSON goes in as `write` makes it of the slot's value."""

    n: int
    write: Callable[[Any], bytes]


_Piece = bytes | Slot | _Raw


def _body(
    endpoint: str, model: str, params: Mapping[str, Any], messages: Sequence[Message]
) -> list[_Piece]:
    pieces: list[_Piece] = [b'{"model":' + _constant(model) + b","]
    if endpoint in (Endpoint.CHAT, Endpoint.RESPONSES):
        pieces.append(b'"messages":[' if endpoint == Endpoint.CHAT else b'"input":[')
        pieces += [*_dialogue(messages, endpoint), b"]"]
    else:
        check_one_text(endpoint, messages)
        pieces.append(b'"prompt":' if endpoint == Endpoint.COMPLETIONS else b'"input":')
        pieces += _content(messages[0], endpoint)
    if endpoint == Endpoint.EMBEDDINGS:
        # A third of the bytes, and exact: 1,536 numbers as text are 30 kB a row.
        params = {"encoding_format": "base64", **params}
    for name, value in params.items():
        pieces += _param(name, value)
    return [*pieces, b"}"]


def _param(name: str, value: Any) -> list[_Piece]:
    before = b"," + _constant(name) + b":"
    if isinstance(value, Value):  # a row without a value leaves the parameter out
        return [_Raw(value.n, lambda text: before + text.encode() if text else b"")]
    return [before, *_value(value)]


def _value(value: Any) -> list[_Piece]:
    """JSON of a parameter, with places for what each row has of its own."""
    if isinstance(value, Value):
        return [_Raw(value.n, lambda text: text.encode() or b"null")]
    if not _has_value(value):
        return [_constant(value)]
    pieces: list[_Piece] = []
    is_object = isinstance(value, Mapping)
    for key, one in value.items() if is_object else [("", each) for each in value]:
        pieces += [b"," if pieces else b"", _constant(key) + b":" if is_object else b""]
        pieces += _value(one)
    return [b"{" if is_object else b"[", *pieces, b"}" if is_object else b"]"]


def _has_value(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_value, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_has_value, value))
    return isinstance(value, Value)


def check_one_text(endpoint: str, messages: Sequence[Message]) -> None:
    """Raise `CellError` for what an endpoint without messages does not take."""
    if endpoint in (Endpoint.CHAT, Endpoint.RESPONSES):
        return
    name = Endpoint(endpoint).name.lower()
    if len(messages) != 1 or messages[0].role != "user":
        raise CellError(
            f"{name} takes one text and knows no roles; leave the lines `system:` and the like out"
        )
    has_images = any(isinstance(piece, Parts) for piece in messages[0].pieces)
    if has_images and endpoint != Endpoint.MODERATIONS:
        raise CellError(f"{name} takes no images; say -e chat, responses or moderations")


def _dialogue(messages: Sequence[Message], endpoint: str) -> list[_Piece]:
    pieces: list[_Piece] = []
    for number, message in enumerate(messages):
        comma = b"," if number else b""
        pieces.append(comma + b'{"role":' + _constant(message.role) + b',"content":')
        pieces += [*_content(message, endpoint), b"}"]
    return pieces


def _content(message: Message, endpoint: str) -> list[_Piece]:
    """One JSON string, or what each row has in its place."""
    first = message.pieces[0] if message.pieces else ""
    if isinstance(first, Value):
        return [_Raw(first.n, str.encode)]
    if isinstance(first, Parts):
        is_responses = endpoint == Endpoint.RESPONSES
        return [_Raw(first.n, _responses_parts if is_responses else _chat_parts)]
    return [b'"', *_text(message), b'"']


def _chat_parts(parts: Sequence[Part]) -> bytes:
    """https://platform.openai.com/docs/guides/images-vision, for chat and moderations."""
    return _parts(
        parts, b'{"type":"text","text":%b}', b'{"type":"image_url","image_url":{"url":%b}}'
    )


def _responses_parts(parts: Sequence[Part]) -> bytes:
    return _parts(
        parts, b'{"type":"input_text","text":%b}', b'{"type":"input_image","image_url":%b}'
    )


def _parts(parts: Sequence[Part], text: bytes, image: bytes) -> bytes:
    if not parts:
        return b'""'  # a list of nothing is refused
    forms = {"text": text, "image": image}
    return b"[" + b",".join([forms[kind] % _string(said) for kind, said in parts]) + b"]"


def _text(message: Message) -> list[_Piece]:
    return [
        _string(one)[1:-1] if isinstance(one, str) else one
        for one in message.pieces
        if isinstance(one, (str, Slot))
    ]


def _joined(pieces: Sequence[_Piece]) -> list[Any]:
    """The same as a constant, a place to be filled, a constant, and so on."""
    joined: list[Any] = [b""]
    for piece in pieces:
        if isinstance(piece, bytes):
            joined[-1] += piece
        else:
            joined += [piece, b""]
    return joined


def _constant(value: object) -> bytes:
    """JSON of a value that is the same in every line."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise CellError(
            f"a request parameter cannot be written as JSON: {error}; give plain values alone"
        ) from error
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


def _written_singly(
    fills: Sequence[Slot | _Raw], slots: Sequence[Sequence[Any]], after: Sequence[bytes]
) -> list[bytes]:
    columns = [
        [
            (_string(text)[1:-1] if isinstance(fill, Slot) else fill.write(text)) + constant
            for text in texts
        ]
        for fill, texts, constant in zip(fills, slots, after, strict=True)
    ]
    return [b"".join(row) for row in zip(*columns, strict=True)]


def inputs_of(lines: Lines) -> list[int]:
    """Count the inputs of each line to embeddings: a list of texts has several."""
    return [_inputs(line) for line in lines.data.split(b"\n")[:-1]]


def _inputs(line: bytes) -> int:
    given = orjson.loads(line)["body"].get("input")
    several = isinstance(given, list) and given and not isinstance(given[0], int)  # else tokens
    return len(given) if several else 1


def _string(text: str | bytes) -> bytes:
    """One JSON string. A text with a lone surrogate goes out in ASCII escapes."""
    text = text.decode() if isinstance(text, bytes) else text
    try:
        return orjson.dumps(text)
    except TypeError:
        return json.dumps(text).encode()
