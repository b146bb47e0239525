"""What the service keeps, files, batches and what it billed, and how they look on the wire.

Knows every member of these objects and the table of legal status moves. Refuses to know where
they are stored or who moves them. The trap: real objects carry every member, null included; a
member left out would let a client pass here and fail there.
"""

from enum import StrEnum
from typing import Any

import msgspec

DAY_S = 86_400
INPUT_RETENTION_S = 30 * DAY_S
OUTPUT_RETENTION_S = 30 * DAY_S


class Status(StrEnum):
    """The eight states of a batch."""

    VALIDATING = "validating"  # the input is being read; nothing has run
    IN_PROGRESS = "in_progress"  # rows are being answered
    FINALIZING = "finalizing"  # all rows are done; result files are being written
    COMPLETED = "completed"  # the files are there; says nothing about the rows
    FAILED = "failed"  # the input was refused; no row ran
    EXPIRED = "expired"  # the window closed; finished rows are kept
    CANCELLING = "cancelling"  # rows in flight are finishing
    CANCELLED = "cancelled"  # finished rows are kept


_CANCEL = frozenset({Status.CANCELLING})
MOVES: dict[Status, frozenset[Status]] = {
    Status.VALIDATING: frozenset({Status.IN_PROGRESS, Status.FAILED}) | _CANCEL,
    Status.IN_PROGRESS: frozenset({Status.FINALIZING, Status.EXPIRED}) | _CANCEL,
    Status.FINALIZING: frozenset({Status.COMPLETED}) | _CANCEL,
    Status.CANCELLING: frozenset({Status.CANCELLED}),
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset(),
    Status.EXPIRED: frozenset(),
    Status.CANCELLED: frozenset(),
}
TERMINAL = frozenset(status for status, onward in MOVES.items() if not onward)


class FileRecord(msgspec.Struct, frozen=True):
    """One stored file; its bytes lie on disk under its id."""

    id: str
    filename: str
    purpose: str
    size_bytes: int
    created_at: float  # clock seconds; whole on the wire
    expires_at: int | None

    def wire(self) -> dict[str, Any]:
        """Return the File object."""
        return {
            "object": "file",
            "id": self.id,
            "purpose": self.purpose,
            "filename": self.filename,
            "bytes": self.size_bytes,
            "created_at": int(self.created_at),
            "expires_at": self.expires_at,
            "status": "processed",
            "status_details": None,
        }


class RowError(msgspec.Struct, frozen=True):
    """One entry of `errors.data`: why the input was refused."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None  # 1-based; None when about the whole file


class Counts(msgspec.Struct, frozen=True):
    """`request_counts`; an indication, never an inventory."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Tokens of all rows of a batch that have been answered."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def wire(self) -> dict[str, Any]:
        """Return the Batch `usage` object, in Responses naming whatever the endpoint."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.input_tokens + self.output_tokens,
        }


class Lane(StrEnum):
    """The three ways a request can come, each with a price of its own."""

    BATCH = "batch"
    REALTIME = "realtime"
    FLEX = "flex"


class Bill(msgspec.Struct, frozen=True):
    """What makes one billed request cost what it does; equal ones are counted, not listed."""

    lane: Lane
    model: str  # as asked for: it is the price's name, whoever answered
    endpoint: str
    input_tokens: int = 0  # the cached ones included
    cached_tokens: int = 0
    output_tokens: int = 0


class BatchRecord(msgspec.Struct, frozen=True):
    """One batch, with the few private facts its run needs after a restart."""

    id: str
    endpoint: str
    input_file_id: str
    created_at: int
    expires_at: int
    phase_started: float  # clock seconds at which the present status began
    made_at: float = 0.0  # clock seconds, with the fraction that the wire does not have
    metadata: dict[str, str] | None = None
    output_expires_after_s: int | None = None
    status: Status = Status.VALIDATING
    model: str | None = None
    errors: list[RowError] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    counts: Counts = Counts()
    usage: Usage = Usage()
    faults: dict[str, Any] = {}  # frozen at creation
    enqueued_tokens: int = 0  # estimate made at validation, held until a terminal state
    rows_answered: int = 0  # rows an answer was made for
    rows_paid: int = 0  # of these, with a 2xx: what a real service would bill

    @property
    def is_ended(self) -> bool:
        """Whether the status can no longer change."""
        return self.status in TERMINAL

    def wire(self) -> dict[str, Any]:
        """Return the Batch object, every member present."""
        errors = None
        if self.errors:
            data = [msgspec.to_builtins(error) for error in self.errors]
            errors = {"object": "list", "data": data}
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": errors,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": str(self.status),
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "in_progress_at": self.in_progress_at,
            "expires_at": self.expires_at,
            "finalizing_at": self.finalizing_at,
            "completed_at": self.completed_at,
            "failed_at": self.failed_at,
            "expired_at": self.expired_at,
            "cancelling_at": self.cancelling_at,
            "cancelled_at": self.cancelled_at,
            "request_counts": msgspec.to_builtins(self.counts),
            "usage": self.usage.wire(),
            "metadata": self.metadata,
        }
