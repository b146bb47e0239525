"""The endpoints that answer at once: chat, responses, completions, embeddings, moderations.

Knows the doors, what is refused at them, and the two ways out, one body or server-sent events.
Refuses to know who answers. The traps: an answer may take seconds, so it is made in a worker
thread; it is billed as soon as it is made, because what is lost on its way costs the same; and a
stream is cut from a finished answer, so its first byte is late but its content is the same.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from .answerers import Answer, envelopes
from .answerers.asks import check_service_tier
from .gate import route_name
from .limits import Limits, ModelLimits
from .records import Bill, Lane
from .refusals import Refusal
from .replies import json_reply, read_json
from .rows import dictated, forced_answer, marked_status, usage_of
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
_TIERED = ("/v1/chat/completions", "/v1/responses")
_MODERATION_MODEL = "omni-moderation-latest"  # when a moderation names none
_OUTPUT_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class Call:
    """One request, as far as the door looks at it."""

    endpoint: str
    text: bytes
    body: dict[str, Any]

    @property
    def model(self) -> str:
        """The model as it is asked for and billed."""
        default = _MODERATION_MODEL if self.endpoint == "/v1/moderations" else None
        return str(self.body.get("model") or default)

    @property
    def is_tiered(self) -> bool:
        """Whether the endpoint has service tiers."""
        return self.endpoint in _TIERED

    @property
    def is_flex(self) -> bool:
        """Whether it is asked for at the price of a batch."""
        return self.is_tiered and self.body.get("service_tier") == "flex"

    @property
    def tokens(self) -> int:
        """What it counts against the limit of tokens: its text, and all it may be answered."""
        given = [self.body.get(name) for name in _OUTPUT_LIMITS]
        most = max((limit for limit in given if type(limit) is int and limit > 0), default=0)
        return len(self.text) // _BYTES_PER_TOKEN + most


class Realtime:
    """The routes that answer at once, and the list of models."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._workers = ThreadPoolExecutor(_WORKERS, "realtime")
        self._limits = Limits()

    def close(self) -> None:
        """Stop taking work."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: Request) -> Response:
        """POST to one of ENDPOINTS"""
        body = await read_json(request)
        call = Call(request.url.path, await request.body(), body)
        limits = self._limits.of(call.model, self._service.faults.get("realtime_limits"))
        try:
            self._admit(call, limits)
        except Refusal as refusal:
            refusal.headers |= limits.headers()
            raise
        headers = limits.headers()  # as they are at its arrival, however long the answer takes
        response = await self._answered(call)
        response.headers.update(headers)
        return response

    def _admit(self, call: Call, limits: ModelLimits) -> None:
        """Let a call in. Raises Refusal."""
        if is_unknown_model(call.model):
            raise unknown_model(call.model)
        if call.endpoint == "/v1/moderations" and call.body.get("input") is None:
            raise Refusal(400, "Missing required parameter: 'input'.", param="input")
        if call.is_tiered:
            check_service_tier(call.body)
        limits.take(call.tokens)
        route = route_name("POST", call.endpoint)
        if call.is_flex and self._service.take_rules("flex_unavailable", route):
            raise no_room_for_flex()
        self._fail_if_marked(call)

    def _fail_if_marked(self, call: Call) -> None:
        if b"[[fault:" not in call.text:
            return
        status = marked_status(call.text, call.body, self._service.store)
        if status is not None:
            answer = forced_answer(status if status > 0 else 504)
            error = answer.body["error"]
            raise Refusal(answer.status, error["message"], type=error["type"], code=error["code"])

    async def _answered(self, call: Call) -> Response:
        is_caching = bool(self._service.faults.get("prompt_cache"))
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._workers, self._make, call, is_caching)
        if answer.status == 0:
            return json_reply({"error": {"message": "upstream did not answer"}}, 502)
        if answer.status == 200 and b"[[say:" in call.text:
            answer = Answer(200, dictated(answer.body, call.body, self._service.store))
        if answer.status == 200 and call.body.get("stream"):
            events = _events(call.endpoint, call.body, answer.body)
            return StreamingResponse(_paced(events), media_type="text/event-stream")
        return json_reply(answer.body, answer.status)

    def _make(self, call: Call, is_caching: bool) -> Answer:
        """Return the answer to a call, billed; in a worker thread."""
        asked = {name: value for name, value in call.body.items() if name != "stream"}
        now = self._service.clock.now()
        answer = self._service.desk.answer(call.endpoint, asked, now, is_caching=is_caching)
        if answer.status == 200 and call.is_tiered:
            tier = "flex" if call.is_flex else "default"
            answer = Answer(200, answer.body | {"service_tier": tier})
        if 200 <= answer.status < 300:
            lane = Lane.FLEX if call.is_flex else Lane.REALTIME
            tokens = usage_of(answer)[:3]
            self._service.store.bill(Bill(lane, call.model, call.endpoint, *tokens))
        return answer

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


def no_room_for_flex() -> Refusal:
    """Return the 429 of a time when flex has no machines to spare; it says no time to wait."""
    return Refusal(
        429, "Resource Unavailable", type="resource_unavailable_error", code="resource_unavailable"
    )


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
