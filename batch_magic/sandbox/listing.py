"""Cursor pages, the same for files and batches.

Knows the query of a listing and the shape of its page. The trap: clients stop on an empty
page, and `first_id` and `last_id` are null there, never absent.
"""

from typing import Any

from starlette.requests import Request

from .refusals import Refusal


def read_limit(request: Request, *, default: int, most: int) -> int:
    """Return the page size asked for. Raises Refusal (400)."""
    text = request.query_params.get("limit")
    if text is None:
        return default
    try:
        limit = int(text)
    except ValueError:
        message = f"Invalid type for 'limit': expected an integer, but got '{text}' instead."
        raise Refusal(400, message, param="limit", code="invalid_type") from None
    if not 1 <= limit <= most:
        kind = "below_min" if limit < 1 else "above_max"
        message = f"Invalid 'limit': expected a value from 1 to {most}, but got {limit} instead."
        raise Refusal(400, message, param="limit", code=f"integer_{kind}_value")
    return limit


def wire_page(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """Return a list object."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }
