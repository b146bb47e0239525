"""The answerer that is always there: deterministic, fast, and plainly no model.

Knows how to make a text from the request's own content, so that a reader can see that the
right row got the right answer: an excerpt and a digest of the last user message. Refuses to
pretend: it always says `stub`. The trap: the digest is of the content, never of a row number
or a clock, so the same request has the same answer in every batch and every life.
"""

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Any

import orjson

from .asks import Ask, EmbeddingAsk, Reply, Text, Vectors
from .schemas import fill_schema

STUB_NAME = "sandbox-stub"
VECTOR_NAME = "sandbox-hash-vectors"
_EXCERPT = 48  # characters
_DEFAULT_DIMENSIONS = 256
_SPACE = re.compile(r"\s+")
_BYTES_PER_TOKEN = 4
_FRAME_TOKENS = 4  # a message's role and its two ends


@dataclass(frozen=True)
class Stub:
    """Answers from the request's content alone."""

    parallel: int = 1

    def reply(self, ask: Ask) -> Reply:
        """Return texts that name the request they answer."""
        texts = [_text(ask, index) for index in range(ask.n)]
        return Reply(STUB_NAME, texts, prompt_tokens(ask.messages))

    def embed(self, ask: EmbeddingAsk) -> Vectors:
        """Return a unit vector per text, made from the hash of the text."""
        size = ask.dimensions or _DEFAULT_DIMENSIONS
        tokens = sum(token_count(text) for text in ask.texts)
        return Vectors(VECTOR_NAME, [hash_vector(text, size) for text in ask.texts], tokens)


def token_count(text: str) -> int:
    """Return the stub's count of tokens: four UTF-8 bytes each, rounded up."""
    return -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)


def prompt_tokens(messages: list[dict[str, str]]) -> int:
    """Return the stub's count of what messages cost to read, their frames included."""
    return sum(token_count(message["content"]) + _FRAME_TOKENS for message in messages)


def digest_of(text: str) -> str:
    """Return the eight hex digits by which a stub answer names the text it answers."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=4).hexdigest()


def hash_vector(text: str, size: int) -> list[float]:
    """Return a unit vector that is the same for the same text, and near to no other."""
    raw = hashlib.shake_128(text.encode("utf-8", "replace")).digest(2 * size)
    values = [
        int.from_bytes(raw[at : at + 2], "little") / 32767.5 - 1.0 for at in range(0, 2 * size, 2)
    ]
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / norm for value in values]


def _text(ask: Ask, index: int) -> Text:
    words = ask.last_words
    digest = digest_of(words)
    if ask.json_schema is not None:
        content = _json_text(ask.json_schema, words, f"{digest}.{index}")
    else:
        excerpt = _SPACE.sub(" ", words).strip()[:_EXCERPT]
        mark = f" #{index}" if index else ""
        content = f"stub {digest}{mark}: {excerpt}"
    return _cut(content, ask)


def _json_text(schema: dict[str, Any], words: str, seed: str) -> str:
    if not schema:
        return orjson.dumps({"stub": seed, "excerpt": words[:_EXCERPT]}).decode()
    return orjson.dumps(fill_schema(schema, seed)).decode()


def _cut(content: str, ask: Ask) -> Text:
    for mark in ask.stop:
        content = content.split(mark, 1)[0] if mark else content
    tokens = token_count(content)
    if ask.max_tokens is not None and tokens > ask.max_tokens:
        kept = content.encode("utf-8", "replace")[: ask.max_tokens * _BYTES_PER_TOKEN]
        return Text(kept.decode("utf-8", "ignore"), "length", ask.max_tokens)
    return Text(content, "stop", tokens)
