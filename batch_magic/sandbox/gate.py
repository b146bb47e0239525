"""The edge of the service: who may come in, what is counted, and the HTTP faults.

Knows routes by name, headers and connections. Refuses to know any endpoint's meaning. The
traps: a page in the user's browser can reach loopback, so a foreign Origin or Host is turned
away first; a fault after the commit must let the call happen and only lose its answer.
"""

import asyncio
import math
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .refusals import Refusal
from .service import Service

REFUSED_KEY_PREFIX = "sk-refused"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_SAME_SITE = {"same-origin", "none"}
ROUTES: tuple[tuple[str, str, str], ...] = (
    ("POST", r"/v1/files", "files.create"),
    ("GET", r"/v1/files", "files.list"),
    ("GET", r"/v1/files/[^/]+/content", "files.content"),
    ("GET", r"/v1/files/[^/]+", "files.retrieve"),
    ("DELETE", r"/v1/files/[^/]+", "files.delete"),
    ("POST", r"/v1/batches", "batches.create"),
    ("GET", r"/v1/batches", "batches.list"),
    ("GET", r"/v1/batches/[^/]+", "batches.retrieve"),
    ("POST", r"/v1/batches/[^/]+/cancel", "batches.cancel"),
    ("GET", r"/v1/models", "models.list"),
    ("GET", r"/v1/models/.+", "models.retrieve"),
    ("POST", r"/v1/chat/completions", "chat.completions"),
    ("POST", r"/v1/responses", "responses"),
    ("POST", r"/v1/completions", "completions"),
    ("POST", r"/v1/embeddings", "embeddings"),
    ("POST", r"/v1/moderations", "moderations"),
)
_TROUBLES = ("http_delay", "insufficient_quota", "http_status", "http_drop", "http_cut")
_RATES = {  # cap: the calls it counts, over how many seconds of the service's clock
    "creates_per_hour": ("batches.create", 3600),
    "uploads_per_minute": ("files.create", 60),
}
_CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    429: "rate_limit_exceeded",
}
_QUOTA = "You exceeded your current quota, please check your plan and billing details."


def route_name(method: str, path: str) -> str:
    """Return the name by which counters and faults know a call."""
    for known_method, pattern, name in ROUTES:
        if method == known_method and re.fullmatch(pattern, path):
            return name
    return "sandbox" if path.startswith("/sandbox/") else "other"


@dataclass
class Trouble:
    """One HTTP fault that hits the present call."""

    switch: str
    rule: dict[str, Any]

    @property
    def is_after_commit(self) -> bool:
        """Whether the call takes place and only its answer suffers."""
        return bool(self.rule.get("after_commit"))


class Gate:
    """The outermost ASGI app."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = route_name(scope["method"], scope["path"])
        self._service.calls[name] += 1
        self._service.last_call = time.monotonic()
        answer = _Answer(send, self._service, name)
        try:
            _check_caller(scope)
            await self._let_in(name, scope, receive, answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        finally:
            self._service.last_call = time.monotonic()

    async def _let_in(self, name: str, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        if name != "sandbox":
            _check_key(scope)
        for trouble in self._troubles(name):
            if trouble.is_after_commit or trouble.switch == "http_cut":
                answer.troubles.append(trouble)
            elif await self._is_over(trouble, receive):
                return
        refusal = self._too_many(name)
        if refusal is not None:
            await _drain(receive)
            raise refusal
        answer.receive = receive
        await self._app(scope, receive, answer.send)

    async def _is_over(self, trouble: Trouble, receive: Receive) -> bool:
        if trouble.switch == "http_delay":
            await asyncio.sleep(float(trouble.rule.get("delay_s", 1.0)))
            return False
        if trouble.switch == "http_drop":
            await drop_connection(receive)
            return True
        await _drain(receive)
        raise trouble_refusal(trouble)

    def _too_many(self, name: str) -> Refusal | None:
        """Count a call against its caps; return the 429 when it is one too many."""
        now = self._service.clock.now()
        for switch, (route, window_s) in _RATES.items():
            cap = self._service.faults.get(switch)
            if cap is None or name != route:
                continue
            times = [at for at in self._service.rated.get(switch, []) if at > now - window_s]
            if len(times) >= float(cap):
                wait_s = math.ceil(times[0] + window_s - now) if times else window_s
                return _rate_refusal(name, wait_s)
            self._service.keep_rated(switch, [*times, now])
        return None

    def _troubles(self, name: str) -> list[Trouble]:
        if name == "sandbox":
            return []
        return [
            Trouble(switch, rule)
            for switch in _TROUBLES
            for rule in self._service.take_rules(switch, name)
        ]


class _Answer:
    """The way out of one call: adds the request id, counts, and lets troubles happen."""

    def __init__(self, send: Send, service: Service, name: str) -> None:
        self._send = send
        self._service = service
        self._name = name
        self._cut_at: int | None = None
        self._sent = 0
        self._is_lost = False
        self.troubles: list[Trouble] = []
        self.receive: Receive | None = None

    async def send(self, message: Message) -> None:
        if self._is_lost:
            return
        if message["type"] == "http.response.start":
            await self._start(message)
        else:
            await self._body(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with a refusal."""
        body = orjson.dumps(refusal.body)
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        headers |= refusal.headers
        raw = [(key.encode(), value.encode()) for key, value in headers.items()]
        self.troubles = []
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    async def _start(self, message: Message) -> None:
        for trouble in self.troubles:
            if trouble.switch == "http_delay":
                await asyncio.sleep(float(trouble.rule.get("delay_s", 1.0)))
            elif trouble.switch == "http_cut":
                length = dict(message["headers"]).get(b"content-length", b"0")
                self._cut_at = int(int(length) * float(trouble.rule.get("share", 0.5)))
            elif trouble.switch == "http_drop":
                self._is_lost = True
                assert self.receive is not None
                await drop_connection(self.receive)
                return
            else:
                await self.refuse(trouble_refusal(trouble))
                self._is_lost = True
                return
        request_id = b"req_" + secrets.token_hex(16).encode()
        message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
        self._service.statuses[f"{self._name} {message['status']}"] += 1
        await self._send(message)

    async def _body(self, message: Message) -> None:
        if self._cut_at is None:
            await self._send(message)
            return
        body = message.get("body", b"")[: self._cut_at - self._sent]
        self._sent += len(body)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        if self._sent >= self._cut_at:
            self._is_lost = True
            await asyncio.sleep(0.05)  # lets the transport's buffer reach the client first
            assert self.receive is not None
            await drop_connection(self.receive)


def trouble_refusal(trouble: Trouble) -> Refusal:
    """Return the error answer of a fault."""
    if trouble.switch == "insufficient_quota":
        return Refusal(429, _QUOTA, type="insufficient_quota", code="insufficient_quota")
    rule = trouble.rule
    status = int(rule.get("status", 500))
    headers = {}
    if "retry_after_s" in rule:
        headers["retry-after"] = str(rule["retry_after_s"])
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return Refusal(
        status,
        str(rule.get("message", "A fault was asked for.")),
        type="requests" if status == 429 else kind,
        code=rule.get("code", _CODES.get(status)),
        headers=headers,
    )


def _rate_refusal(name: str, wait_s: int) -> Refusal:
    return Refusal(
        429,
        f"Rate limit reached for {name}. Please try again in {wait_s}s.",
        type="requests",
        code="rate_limit_exceeded",
        headers={"retry-after": str(wait_s)},
    )


async def drop_connection(receive: Receive) -> None:
    """Close the client's connection without a word."""
    cycle = getattr(receive, "__self__", None)
    if cycle is None or not hasattr(cycle, "transport"):
        raise RuntimeError("this server cannot drop a connection")
    cycle.transport.abort()
    while not cycle.disconnected:
        await asyncio.sleep(0.001)


async def _drain(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass


def _check_caller(scope: Scope) -> None:
    headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
    if host_name(headers.get("host", "")) not in _LOOPBACK:
        raise Refusal(403, "this service answers on loopback only", code="foreign_host")
    if headers.get("sec-fetch-site", "none") not in _SAME_SITE:
        raise Refusal(403, "requests from other sites are refused", code="foreign_site")
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        raise Refusal(403, "requests from other origins are refused", code="foreign_origin")


def host_name(host: str) -> str:
    """Return a Host header without its port."""
    return (urlsplit("//" + host).hostname or "") if host else ""


def _check_key(scope: Scope) -> None:
    key = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
    key = key.removeprefix("Bearer ")
    if key.startswith(REFUSED_KEY_PREFIX):
        message = "Incorrect API key provided. You can find your API key in your account."
        raise Refusal(401, message, code="invalid_api_key")
