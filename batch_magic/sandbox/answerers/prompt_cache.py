"""Prompt caching: which leading messages were read before, and what an answer says about them.

Knows the leading messages of every request it was shown in this life, by their digest. Refuses to
speed anything up: it only counts, as the bill does. The trap: rows are answered by several threads
and requests beside them, so the look and the note are one step under a lock, or two first requests
would both be first.
"""

import hashlib
import threading
from typing import Any

import orjson

from .asks import Ask
from .stub import prompt_tokens

LEAST_TOKENS = 1024  # a shorter beginning is never cached
STEP_TOKENS = 128  # cached tokens come in multiples of this
_DETAILS = {  # by the usage member that counts the prompt: the one that tells it apart
    "prompt_tokens": "prompt_tokens_details",
    "input_tokens": "input_tokens_details",
}


class PromptCache:
    """What the models of this life have read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[bytes] = set()

    def cached_tokens(self, ask: Ask) -> int:
        """Return how many of a request's leading tokens are cached, and note its beginning.

        Only the beginning that ends before the last message is looked at: in a table of rows
        that is the part they share.
        """
        leading = ask.messages[:-1]
        tokens = prompt_tokens(leading)
        if tokens < LEAST_TOKENS:
            return 0
        text = orjson.dumps([ask.model, leading])
        digest = hashlib.blake2b(text, digest_size=16).digest()
        with self._lock:
            if digest in self._known:
                return _whole_steps(tokens)
            self._known.add(digest)
        return 0


def with_cached(body: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Return a chat completion or a response whose usage says so many cached tokens."""
    usage = dict(body["usage"])
    for count, details in _DETAILS.items():
        if count in usage:
            # A model counts tokens in its own way, and none can have more cached than read.
            cached = min(tokens, _whole_steps(usage[count]))
            usage[details] = usage[details] | {"cached_tokens": cached}
    return body | {"usage": usage}


def _whole_steps(tokens: int) -> int:
    return tokens - tokens % STEP_TOKENS
