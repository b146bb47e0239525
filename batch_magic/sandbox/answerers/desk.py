"""The choice of an answerer, and the way from a request body to an answer body.

Knows which answerers could be had and which one has been. Refuses to hide the difference: the
body's `model` is always the name of who answered, and a fall back to the stub keeps its reason
for `/sandbox/status`. The trap: a model takes seconds to load, so it is loaded by the first
worker that needs it, under a lock, and never on the event loop.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..refusals import Refusal, error_body
from . import envelopes
from .asks import (
    Ask,
    EmbeddingAsk,
    Reply,
    Vectors,
    plain,
    read_chat,
    read_completion,
    read_embeddings,
    read_responses,
)
from .local_model import EngineLostError, LocalModel, crew_for, find_weights, model_name
from .prompt_cache import PromptCache, with_cached
from .stub import STUB_NAME, Stub
from .upstream import Upstream

MODEL_FILE_VARIABLE = "BATCH_MAGIC_SANDBOX_MODEL_FILE"
STUB_PARALLEL = 1
_MOST_LOSSES = 3


@dataclass(frozen=True)
class Answer:
    """What one request got."""

    status: int
    body: dict[str, Any]


class Desk:
    """Answers requests with the best answerer there is."""

    def __init__(
        self, *, wanted: str = "auto", model_file: str | None = None, upstream: str | None = None
    ) -> None:
        self.wanted = wanted
        self.reason: str | None = None  # why the stub answers though more was possible
        self._stub = Stub()
        self._prompts = PromptCache()
        self._upstream = Upstream(upstream) if upstream and wanted != "stub" else None
        self._model: LocalModel | None = None
        self._weights = self._chosen_weights(model_file)
        self._crew = crew_for(self._weights, os.cpu_count() or 1) if self._weights else None
        # The lock protects the load and the loss of the model, and the choice that follows.
        self._loading = threading.Lock()
        self._losses = 0

    def _chosen_weights(self, model_file: str | None) -> Path | None:
        if self.wanted == "stub" or self._upstream is not None:
            return None
        found = find_weights(model_file or os.environ.get(MODEL_FILE_VARIABLE))
        self.reason = found.reason
        return found.path

    @property
    def kind(self) -> str:
        """Who answers now: `upstream`, `model` or `stub`."""
        if self._upstream is not None:
            return "upstream"
        return "model" if self._weights is not None else "stub"

    @property
    def parallel(self) -> int:
        """How many rows are best answered at once."""
        if self._upstream is not None:
            return self._upstream.parallel
        return self._crew.rows if self._weights and self._crew else STUB_PARALLEL

    def status(self) -> dict[str, Any]:
        """Return who answers, under which name, and why not a better one."""
        name = model_name(self._weights) if self._weights else None
        if self.kind == "stub":
            name = STUB_NAME
        return {
            "wanted": self.wanted,
            "kind": self.kind,
            "model": name,
            "is_loaded": self.kind != "model" or self._model is not None,
            "weights": str(self._weights) if self._weights else None,
            "upstream": self._upstream.url if self._upstream else None,
            "reason": self.reason,
        }

    def close(self) -> None:
        """Let go of the model."""
        if self._model is not None:
            self._model.close()

    def answer(
        self, endpoint: str, body: dict[str, Any], now: float, *, is_caching: bool = False
    ) -> Answer:
        """Answer one request; a refusal is an answer too, never an exception.

        `is_caching` has the usage tell cached tokens; an upstream counts its own.
        """
        try:
            if self._upstream is not None:
                relayed = self._upstream.relay(endpoint, body)
                return Answer(relayed.status, relayed.body)
            made = self._body(endpoint, body, int(now))
            if is_caching and endpoint in _CACHED:
                made = with_cached(made, self._prompts.cached_tokens(_CACHED[endpoint](body)))
            return Answer(200, made)
        except Refusal as refusal:
            return Answer(refusal.status, refusal.body)

    def _body(self, endpoint: str, body: dict[str, Any], now: int) -> dict[str, Any]:
        maker = _MAKERS.get(endpoint)
        if maker is None:
            message = f"This sandbox has no answers for '{endpoint}'."
            raise Refusal(400, message, code="unsupported_endpoint")
        return maker(self, body, now)

    def reply(self, ask: Ask) -> Reply:
        """Return the texts for an Ask, by the model if there is one. Raises Refusal."""
        model = self._loaded_model()
        if model is None:
            return self._stub.reply(ask)
        try:
            return model.reply(ask)
        except EngineLostError as error:
            raise self._after_loss(model, error) from error

    def embed(self, ask: EmbeddingAsk) -> Vectors:
        """Return the vectors for an EmbeddingAsk, by the model if there is one. Raises Refusal."""
        model = self._loaded_model()
        if model is None:
            return self._stub.embed(ask)
        try:
            return model.embed(ask)
        except EngineLostError as error:
            raise self._after_loss(model, error) from error

    def _loaded_model(self) -> LocalModel | None:
        with self._loading:
            crew = self._crew
            if self._weights is not None and crew is not None and self._model is None:
                try:
                    self._model = LocalModel(self._weights, crew)
                except EngineLostError as error:
                    self._fall_back(f"the model could not be loaded: {error}")
            return self._model

    def _after_loss(self, model: LocalModel, error: EngineLostError) -> Refusal:
        """Forget a model whose engine died; the next request starts it anew, within limits."""
        with self._loading:
            if self._model is model:
                self._model = None
                self._losses += 1
                model.close()
                if self._losses >= _MOST_LOSSES:
                    self._fall_back(f"the model's engine died {self._losses} times: {error}")
        message = "The server had an error while processing your request. Sorry about that!"
        return Refusal(500, message, type="server_error")

    def _fall_back(self, reason: str) -> None:
        self.reason = reason
        self._weights = None


def _chat(desk: Desk, body: dict[str, Any], now: int) -> dict[str, Any]:
    ask = read_chat(body)
    return envelopes.chat_body(ask, desk.reply(ask), now)


def _responses(desk: Desk, body: dict[str, Any], now: int) -> dict[str, Any]:
    ask = read_responses(body)
    return envelopes.responses_body(ask, desk.reply(ask), now)


def _completion(desk: Desk, body: dict[str, Any], now: int) -> dict[str, Any]:
    asks = read_completion(body)
    return envelopes.completion_body(asks, [desk.reply(ask) for ask in asks], now)


def _embeddings(desk: Desk, body: dict[str, Any], now: int) -> dict[str, Any]:
    ask = read_embeddings(body)
    return envelopes.embeddings_body(desk.embed(ask), ask.as_base64)


def _moderation(desk: Desk, body: dict[str, Any], now: int) -> dict[str, Any]:
    given = body.get("input")
    items = given if isinstance(given, list) else [given]
    if items and isinstance(items[0], dict):  # texts and images that are judged as one
        texts = [plain(items, "input")]
    else:
        texts = [str(item or "") for item in items]
    return envelopes.moderation_body(texts, STUB_NAME)


_MAKERS: dict[str, Callable[[Desk, dict[str, Any], int], dict[str, Any]]] = {
    "/v1/chat/completions": _chat,
    "/v1/responses": _responses,
    "/v1/completions": _completion,
    "/v1/embeddings": _embeddings,
    "/v1/moderations": _moderation,
}


_CACHED: dict[str, Callable[[dict[str, Any]], Ask]] = {
    "/v1/chat/completions": read_chat,
    "/v1/responses": read_responses,
}


def server_error_answer() -> Answer:
    """Return the answer of a request that broke the answerer."""
    message = "The server had an error while processing your request. Sorry about that!"
    return Answer(500, error_body(message, "server_error"))
