"""The one way this service says no over HTTP.

Knows the error envelope (four members, always all present) and nothing about who raises it or
why. The trap: a client branches on `code` and `param`, so a member that is left out instead of
null is a different answer.
"""

from typing import Any


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """An HTTP error answer; raised anywhere, rendered once at the edge."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The envelope: `{"error": {message, type, param, code}}`."""
        return error_body(self.message, self.type, self.param, self.code)


def error_body(
    message: str, type: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return the error envelope that rows and HTTP answers share."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def missing_parameter(name: str) -> Refusal:
    """Return the 400 for a member that must be there and is not."""
    return Refusal(
        400,
        f"Missing required parameter: '{name}'.",
        param=name,
        code="missing_required_parameter",
    )


def invalid_type(name: str, expected: str, value: object) -> Refusal:
    """Return the 400 for a member of the wrong JSON type."""
    return Refusal(
        400,
        f"Invalid type for '{name}': expected {expected}, but got {json_kind(value)} instead.",
        param=name,
        code="invalid_type",
    )


def invalid_value(name: str, value: object, supported: list[str]) -> Refusal:
    """Return the 400 for a member outside its list of values."""
    quoted = [f"'{item}'" for item in supported]
    listed = quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + f", and {quoted[-1]}"
    return Refusal(
        400,
        f"Invalid value: '{value}'. Supported values are: {listed}.",
        param=name,
        code="invalid_value",
    )


def json_kind(value: object) -> str:
    """Return a JSON value's kind with its article, as the real messages spell it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a decimal"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"
