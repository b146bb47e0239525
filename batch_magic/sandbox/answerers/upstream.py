"""Relaying to an OpenAI-compatible server somewhere else.

Knows how to pass a body on and to name a model that the other side has. Refuses to look at
what comes back. The trap: the model a batch asks for is rarely there, so an unknown one is
replaced by the first the other side lists, and the answer's own `model` says so.
"""

import json
import os
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from ..refusals import error_body

KEY_VARIABLE = "BATCH_MAGIC_SANDBOX_UPSTREAM_KEY"
_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Relayed:
    """What the other side said; status 0 when nothing."""

    status: int
    body: dict[str, Any]


class Upstream:
    """One OpenAI-compatible server, by its base URL ending in /v1."""

    parallel = 8

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        # The lock protects the first look at the other side's list of models.
        self._lock = threading.Lock()
        self._models: list[str] | None = None

    def relay(self, endpoint: str, body: dict[str, Any]) -> Relayed:
        """Pass one request on. A lost connection is status 0 with an empty body."""
        return self._call(endpoint.removeprefix("/v1"), body | {"model": self._model(body)})

    def _model(self, body: dict[str, Any]) -> str:
        with self._lock:
            if self._models is None:
                listed = self._call("/models", None).body.get("data") or []
                self._models = [str(model["id"]) for model in listed]
        wanted = str(body.get("model"))
        return wanted if wanted in self._models or not self._models else self._models[0]

    def _call(self, path: str, body: dict[str, Any] | None) -> Relayed:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(KEY_VARIABLE)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                return Relayed(answer.status, json.load(answer))
        except urllib.error.HTTPError as error:
            return Relayed(error.code, _error_body(error))
        except (OSError, ValueError):
            return Relayed(0, {})


def _error_body(error: urllib.error.HTTPError) -> dict[str, Any]:
    try:
        body = json.load(error)
    except (OSError, ValueError):
        body = None
    if isinstance(body, dict) and "error" in body:
        return body
    return error_body(f"upstream answered {error.code}", "api_error")
