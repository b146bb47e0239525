"""The service's own routes under /sandbox: status, clock, faults, and what really happened.

Knows how to show and change the parts of the running service. Nothing here imitates anything.
"""

import copy
import os
import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from .faults import check_switches
from .lifecycle import Lifecycle
from .records import BatchRecord
from .refusals import Refusal
from .replies import json_reply, read_json
from .service import Service


class Control:
    """The routes under /sandbox."""

    def __init__(self, service: Service, lifecycle: Lifecycle) -> None:
        self._service = service
        self._lifecycle = lifecycle
        self._started = time.monotonic()

    async def status(self, request: Request) -> Response:
        """GET /sandbox/status"""
        clock = self._service.clock
        return json_reply(
            {
                "instance": self._service.instance,
                "pid": os.getpid(),
                "up_s": round(time.monotonic() - self._started, 3),
                "answerer": self._service.desk.status(),
                "clock": {
                    "now": clock.now(),
                    "offset_s": clock.offset_s,
                    "time_scale": clock.time_scale,
                },
                "batches": self._service.store.count_by_status(),
                "faults": self._service.faults,
            }
        )

    async def advance_clock(self, request: Request) -> Response:
        """POST /sandbox/clock {"advance_s": seconds}"""
        seconds = (await read_json(request)).get("advance_s")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds < 0:
            raise Refusal(400, "advance_s: a number of seconds, 0 or more", param="advance_s")
        self._service.advance_clock(seconds)
        self._lifecycle.nudge()
        clock = self._service.clock
        return json_reply({"now": clock.now(), "offset_s": clock.offset_s})

    async def show_faults(self, request: Request) -> Response:
        """GET /sandbox/faults"""
        return json_reply(self._service.faults)

    async def set_faults(self, request: Request) -> Response:
        """PUT /sandbox/faults {name: value}; others stay, null takes one away"""
        given = await read_json(request)
        check_switches(given)
        faults = copy.deepcopy(self._service.faults) | given
        kept = {name: value for name, value in faults.items() if value is not None}
        self._service.keep_faults(kept)
        return json_reply(self._service.faults)

    async def clear_faults(self, request: Request) -> Response:
        """DELETE /sandbox/faults"""
        self._service.keep_faults({})
        return json_reply({})

    async def requests(self, request: Request) -> Response:
        """GET /sandbox/requests"""
        return json_reply(
            {"calls": dict(self._service.calls), "answers": dict(self._service.statuses)}
        )

    async def batches(self, request: Request) -> Response:
        """GET /sandbox/batches"""
        records = self._service.store.all_batches()
        paid = sum(record.rows_paid for record in records)
        return json_reply({"batches": [_truth(record) for record in records], "rows_paid": paid})

    async def ledger(self, request: Request) -> Response:
        """GET /sandbox/ledger"""
        entries = [
            msgspec.to_builtins(bill) | {"requests": requests}
            for bill, requests in self._service.store.ledger()
        ]
        return json_reply({"entries": entries})


def _truth(record: BatchRecord) -> dict[str, Any]:
    own = ("rows_answered", "rows_paid", "enqueued_tokens", "faults")
    return record.wire() | {name: msgspec.to_builtins(getattr(record, name)) for name in own}
