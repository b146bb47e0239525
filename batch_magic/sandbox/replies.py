"""JSON in and JSON out over HTTP.

Knows how a body is read and an answer rendered, and nothing of what they mean.
"""

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from .refusals import Refusal

_BAD_BODY = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't "
    "using your HTTP library correctly. The OpenAI API expects a JSON payload, but what was "
    "sent was not valid JSON.)"
)


def json_reply(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an HTTP answer with a JSON body."""
    return Response(orjson.dumps(body), status, headers, "application/json")


async def read_json(request: Request) -> dict[str, Any]:
    """Return the request's JSON object. Raises Refusal (400)."""
    try:
        body = orjson.loads(await request.body() or b"{}")
    except orjson.JSONDecodeError:
        raise Refusal(400, _BAD_BODY) from None
    if not isinstance(body, dict):
        raise Refusal(400, _BAD_BODY)
    return body
