"""The table of routes, and the start and end of a life of the service.

Knows which path leads to which room. Refuses to do anything else: an exception that is a
refusal becomes its envelope here, anything else is a 500 with the same envelope.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from .batches import Batches
from .control import Control
from .files import Files
from .gate import Gate
from .lifecycle import Lifecycle
from .realtime import ENDPOINTS, Realtime
from .refusals import Refusal, error_body
from .replies import json_reply
from .service import Service

_SERVER_ERROR = "The server had an error while processing your request. Sorry about that!"


def build_app(
    service: Service, lifecycle: Lifecycle, on_ready: Callable[[], Awaitable[None]]
) -> ASGIApp:
    """Return the ASGI app; `on_ready` is awaited when batches are being worked on again."""
    realtime = Realtime(service)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        lifecycle.start()
        await on_ready()
        yield
        realtime.close()
        await lifecycle.stop()
        service.desk.close()
        service.store.close()

    app = Starlette(
        routes=_routes(service, lifecycle, realtime),
        lifespan=life,
        exception_handlers={
            Refusal: _render_refusal,
            HTTPException: _render_http_error,
            ClientDisconnect: _render_nothing,
            Exception: _render_bug,
        },
    )
    return Gate(app, service)


def _routes(service: Service, lifecycle: Lifecycle, realtime: Realtime) -> list[Route]:
    files, batches = Files(service), Batches(service, lifecycle)
    control = Control(service, lifecycle)
    return [
        Route("/v1/files", files.create, methods=["POST"]),
        Route("/v1/files", files.listing, methods=["GET"]),
        Route("/v1/files/{file_id}", files.retrieve, methods=["GET"]),
        Route("/v1/files/{file_id}", files.delete, methods=["DELETE"]),
        Route("/v1/files/{file_id}/content", files.content, methods=["GET"]),
        Route("/v1/batches", batches.create, methods=["POST"]),
        Route("/v1/batches", batches.listing, methods=["GET"]),
        Route("/v1/batches/{batch_id}", batches.retrieve, methods=["GET"]),
        Route("/v1/batches/{batch_id}/cancel", batches.cancel, methods=["POST"]),
        Route("/v1/models", realtime.models, methods=["GET"]),
        Route("/v1/models/{model:path}", realtime.model, methods=["GET"]),
        *(Route(path, realtime.answer, methods=["POST"]) for path in ENDPOINTS),
        Route("/sandbox/status", control.status, methods=["GET"]),
        Route("/sandbox/clock", control.advance_clock, methods=["POST"]),
        Route("/sandbox/faults", control.show_faults, methods=["GET"]),
        Route("/sandbox/faults", control.set_faults, methods=["PUT"]),
        Route("/sandbox/faults", control.clear_faults, methods=["DELETE"]),
        Route("/sandbox/requests", control.requests, methods=["GET"]),
        Route("/sandbox/batches", control.batches, methods=["GET"]),
        Route("/sandbox/ledger", control.ledger, methods=["GET"]),
    ]


async def _render_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return json_reply(error.body, error.status, error.headers)


async def _render_nothing(request: Request, error: Exception) -> Response:
    """The caller has gone: nobody reads this."""
    return Response(status_code=499)


async def _render_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"Invalid URL ({request.method} {request.url.path})"
    return json_reply(error_body(message, "invalid_request_error"), error.status_code)


async def _render_bug(request: Request, error: Exception) -> Response:
    return json_reply(error_body(_SERVER_ERROR, "server_error"), 500)
