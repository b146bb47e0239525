"""The Batches API: create, retrieve, list, cancel.

Knows the checks made before a batch exists and the object a client sees. Refuses to read the
input file: a missing or broken one is a batch that fails later, as with the real service. The
trap: the metadata carries fault switches, and they are frozen into the batch here, so that
changing the general ones never changes a batch that already runs.
"""

import secrets
from datetime import UTC, datetime
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .faults import batch_faults
from .lifecycle import Lifecycle
from .listing import read_limit, wire_page
from .records import DAY_S, BatchRecord, Status
from .refusals import Refusal, invalid_type, invalid_value, missing_parameter
from .replies import json_reply, read_json
from .rows import RowPlan
from .service import Service
from .store import Store
from .validation import ENDPOINTS


class Batches:
    """The routes under /v1/batches."""

    def __init__(self, service: Service, lifecycle: Lifecycle) -> None:
        self._service = service
        self._lifecycle = lifecycle

    async def create(self, request: Request) -> Response:
        """POST /v1/batches"""
        body = await read_json(request)
        batch = self._new_batch(body)
        self._service.store.add_batch(batch)
        self._lifecycle.take_up(batch.id)
        return json_reply(self._wire(batch))

    async def retrieve(self, request: Request) -> Response:
        """GET /v1/batches/{id}"""
        batch = self._found(request)
        if batch.faults.get("vanished"):
            raise _no_batch(batch.id)
        return json_reply(self._wire(batch))

    async def listing(self, request: Request) -> Response:
        """GET /v1/batches"""
        limit = read_limit(request, default=20, most=100)
        now = self._service.clock.now()
        page = self._service.store.batches(
            limit=limit,
            after=request.query_params.get("after"),
            is_listed=partial(is_listed, now=now),
        )
        shown = [self._wire(batch) for batch in page.records]
        return json_reply(wire_page(shown, page.has_more))

    async def cancel(self, request: Request) -> Response:
        """POST /v1/batches/{id}/cancel"""
        batch = self._found(request)
        if batch.status in (Status.CANCELLING, Status.CANCELLED):
            return json_reply(self._wire(batch))
        moved = self._service.store.move(batch.id, Status.CANCELLING, self._service.clock.now())
        if moved is None:
            status = self._found(request).status
            raise Refusal(409, f"Cannot cancel a batch with status '{status}'.")
        self._lifecycle.nudge(batch.id)
        return json_reply(self._wire(moved))

    def _found(self, request: Request) -> BatchRecord:
        batch_id = request.path_params["batch_id"]
        batch = self._service.store.batch(batch_id)
        if batch is None:
            raise _no_batch(batch_id)
        return batch

    def _new_batch(self, body: dict[str, Any]) -> BatchRecord:
        for name in ("input_file_id", "endpoint", "completion_window"):
            _need_string(body, name)
        if body["endpoint"] not in ENDPOINTS:
            raise invalid_value("endpoint", body["endpoint"], list(ENDPOINTS))
        if body["completion_window"] != "24h":
            message = (
                f"Invalid value for 'completion_window': '{body['completion_window']}'. "
                "Supported values are: '24h'."
            )
            raise Refusal(400, message, param="completion_window", code="invalid_value")
        metadata = read_metadata(body.get("metadata"))
        now = self._service.clock.now()
        batch = BatchRecord(
            id="batch_" + secrets.token_hex(16),
            endpoint=body["endpoint"],
            input_file_id=body["input_file_id"],
            created_at=int(now),
            expires_at=int(now) + DAY_S,
            phase_started=now,
            made_at=now,
            metadata=metadata,
            output_expires_after_s=read_expiry(
                body.get("output_expires_after"), "output_expires_after"
            ),
            faults=batch_faults(self._service.faults, metadata),
        )
        check_faults(batch, self._service.store)
        return batch

    def _wire(self, batch: BatchRecord) -> dict[str, Any]:
        return spoil_batch(batch, batch.wire(), self._service.clock.now())


def check_faults(batch: BatchRecord, store: Store) -> None:
    """Refuse faults that could not be carried out later. Raises Refusal (400)."""
    try:
        RowPlan.of(batch, store)
    except (TypeError, ValueError) as error:
        raise Refusal(400, f"a fault has a value it cannot take: {error}") from None


def is_listed(batch: BatchRecord, now: float) -> bool:
    """Whether a list of batches holds this one by now."""
    faults = batch.faults
    return not faults.get("vanished") and now >= batch.made_at + float(faults.get("list_lag_s", 0))


def spoil_batch(batch: BatchRecord, wire: dict[str, Any], now: float) -> dict[str, Any]:
    """Return the Batch object as the batch's faults want it seen."""
    faults = batch.faults
    if faults.get("dialect") == "azure":
        _speak_azure(wire)
    for name in ("output_file_id", "error_file_id"):
        if faults.get(f"{name}_empty") and batch.is_ended and not wire[name]:
            wire[name] = ""
    if faults.get("counts_null"):
        wire["request_counts"] = None
    if "status_text" in faults and batch.status == Status.IN_PROGRESS:
        wire["status"] = str(faults["status_text"])
    if batch.is_ended and now < batch.phase_started + float(faults.get("file_ids_late_s", 0)):
        wire["output_file_id"] = wire["error_file_id"] = None
    return wire


def _speak_azure(wire: dict[str, Any]) -> None:
    if wire["status"] == Status.VALIDATING:
        wire["request_counts"] = dict.fromkeys(wire["request_counts"])
    wire["status"] = wire["status"].capitalize()
    for name, value in wire.items():
        if name.endswith("_at") and value is not None:
            # Seven digits after the second, as there; more than many a parser takes.
            wire[name] = f"{datetime.fromtimestamp(value, UTC):%Y-%m-%dT%H:%M:%S}.0000000+00:00"


def read_metadata(given: Any) -> dict[str, str] | None:
    """Return checked metadata. Raises Refusal (400)."""
    if given is None:
        return None
    if not isinstance(given, dict):
        raise invalid_type("metadata", "an object", given)
    if len(given) > 16:
        message = (
            "Invalid 'metadata': too many properties. Expected an object with at most 16 "
            f"properties, but got an object with {len(given)} properties instead."
        )
        raise Refusal(400, message, param="metadata", code="object_above_max_properties")
    for key, value in given.items():
        if len(key) > 64:
            message = f"Invalid 'metadata': the key '{key[:64]}…' is longer than 64 characters."
            raise Refusal(400, message, param="metadata", code="property_name_above_max_length")
        if not isinstance(value, str):
            raise invalid_type(f"metadata.{key}", "a string", value)
        if len(value) > 512:
            message = (
                f"Invalid 'metadata.{key}': string too long. Expected a string with maximum "
                f"length 512, but got a string with length {len(value)} instead."
            )
            raise Refusal(400, message, param=f"metadata.{key}", code="string_above_max_length")
    return given


def read_expiry(given: Any, name: str) -> int | None:
    """Return the seconds of an expires_after object. Raises Refusal (400)."""
    if given is None:
        return None
    if not isinstance(given, dict):
        raise invalid_type(name, "an object", given)
    if given.get("anchor") != "created_at":
        raise invalid_value(f"{name}.anchor", given.get("anchor"), ["created_at"])
    seconds = given.get("seconds")
    if isinstance(seconds, str) and seconds.isdigit():
        seconds = int(seconds)
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise invalid_type(f"{name}.seconds", "an integer", seconds)
    if not 3600 <= seconds <= 2_592_000:
        message = (
            f"Invalid '{name}.seconds': expected a value from 3600 to 2592000, "
            f"but got {seconds} instead."
        )
        raise Refusal(400, message, param=f"{name}.seconds", code="invalid_value")
    return seconds


def _need_string(body: dict[str, Any], name: str) -> None:
    value = body.get(name)
    if value is None:
        raise missing_parameter(name)
    if not isinstance(value, str):
        raise invalid_type(name, "a string", value)


def _no_batch(batch_id: str) -> Refusal:
    return Refusal(404, f"No batch found with id '{batch_id}'.")
