"""The endpoints that answer at once: chat, responses, completions, embeddings, moderations.

Knows the doors and the two ways out, one body or server-sent events. Refuses to know who
answers. The trap: an answer may take seconds, so it is made in a worker thread; and a stream
is cut from a finished answer, so its first byte is late but its content is the same.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from .answerers import Answer, envelopes
from .refusals import Refusal
from .replies import json_reply, read_json
from .rows import dictated, forced_answer, marked_status
from .service import Service
from .validation import is_unknown_model

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/moderations",
)
KNOWN_MODELS = (
    "gpt-6-sol",
    "gpt-6-luna",
    "gpt-5.4",
    "gpt-5.4-mini",
    "gpt-5-mini",
    "gpt-4.1-mini",
    "gpt-4o-mini",
    "text-embedding-3-small",
    "omni-moderation-latest",
)
_WORKERS = 32


class Realtime:
    """The routes that answer at once, and the list of models."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._workers = ThreadPoolExecutor(_WORKERS, "realtime")

    def close(self) -> None:
        """Stop taking work."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: Request) -> Response:
        """POST to one of ENDPOINTS"""
        body = await read_json(request)
        endpoint = request.url.path
        model = str(body.get("model"))
        if is_unknown_model(model):
            raise unknown_model(model)
        if endpoint == "/v1/moderations" and body.get("input") is None:
            raise Refusal(400, "Missing required parameter: 'input'.", param="input")
        self._fail_if_marked(await request.body(), body)
        asked = {name: value for name, value in body.items() if name != "stream"}
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(
            self._workers, self._service.desk.answer, endpoint, asked, self._service.clock.now()
        )
        if answer.status == 0:
            return json_reply({"error": {"message": "upstream did not answer"}}, 502)
        if answer.status == 200 and b"[[say:" in await request.body():
            answer = Answer(200, dictated(answer.body, body, self._service.store))
        if answer.status == 200 and body.get("stream"):
            events = _events(endpoint, body, answer.body)
            return StreamingResponse(_paced(events), media_type="text/event-stream")
        return json_reply(answer.body, answer.status)

    def _fail_if_marked(self, text: bytes, body: dict[str, Any]) -> None:
        status = marked_status(text, body, self._service.store) if b"[[fault:" in text else None
        if status is not None:
            answer = forced_answer(status if status > 0 else 504)
            error = answer.body["error"]
            raise Refusal(answer.status, error["message"], type=error["type"], code=error["code"])

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        return json_reply({"object": "list", "data": [_model(name) for name in self._names()]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{id}"""
        name = request.path_params["model"]
        if is_unknown_model(name):
            raise unknown_model(name)
        return json_reply(_model(name))

    def _names(self) -> list[str]:
        own = self._service.desk.status()["model"]
        return [*KNOWN_MODELS, "sandbox-stub", "sandbox-hash-vectors"] + (
            [own] if own and own != "sandbox-stub" else []
        )


def unknown_model(name: str) -> Refusal:
    """Return the 404 of a model id that is not served."""
    message = f"The model '{name}' does not exist or you do not have access to it."
    return Refusal(404, message, code="model_not_found")


def _model(name: str) -> dict[str, Any]:
    owner = "sandbox" if name.startswith("sandbox") else "system"
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": owner}


def _events(endpoint: str, asked: dict[str, Any], body: dict[str, Any]) -> Iterator[bytes]:
    if endpoint == "/v1/responses":
        return envelopes.responses_events(body)
    if endpoint == "/v1/completions":
        return envelopes.completion_events(body)
    options = asked.get("stream_options") or {}
    return envelopes.chat_events(body, bool(options.get("include_usage")))


async def _paced(events: Iterator[bytes]) -> AsyncIterator[bytes]:
    for event in events:
        yield event
        await asyncio.sleep(0)
