"""One root, families by whose move is next, and how an error looks in a cell.

    BatchMagicError
    ├── CellError         you: the cell's options or names
    │   ├── FrameError    you: the frame or one of its columns
    │   └── TemplateError you: the prompt template
    ├── JournalError      the home folder: unwritable, full, damaged, of a newer version
    ├── ServiceError      them: status, code, request id
    ├── Detached          you: the waiting was interrupted, the run goes on
    └── StillRunning      nobody: the run has not ended yet

A user's mistake shows as one line in a cell, without a traceback; it still raises, so Run All
stops. Anything that is not one of these is a bug of ours and keeps its traceback (`Unsendable` is
no error of a cell: it becomes the outcome of its row, and is never seen). The trap: a
message is one line that says what happened, where, and what to do next; it never holds a key.
"""

from __future__ import annotations


class BatchMagicError(Exception):
    """The root of all errors that this package raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """IPython asks this instead of printing a traceback."""
        return [f"{type(self).__name__}: {self}"]


class CellError(BatchMagicError):
    """The cell cannot be run as it stands; nothing has been sent."""


class FrameError(CellError):
    """The frame, or one of its columns, cannot be used."""


class TemplateError(CellError):
    """The prompt template cannot be used with this frame."""


class Unsendable(ValueError):  # noqa: N818  (what becomes of the row)
    """A value that no request can carry: its row fails by itself, unsent. Never seen in a cell."""


class JournalError(BatchMagicError):
    """The home folder cannot be read or written as needed."""


class ServiceError(BatchMagicError):
    """The service refused, failed or could not be reached.

    `status` is the HTTP status, None when there was no answer (200: it broke off); `code` is the
    service's own; `retry_after_s` is its wish. `in_doubt` says that the call may have been
    carried out although no answer says so.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    @property
    def in_doubt(self) -> bool:
        # 425 and 429 are plain refusals by the book; a proxy that answers so may have passed the
        # call on before. To look once more costs nothing.
        # 200 is an answer that lacks what was asked for.
        odd = (200, 408, 409, 425, 429)
        return self.status is None or self.status in odd or self.status >= 500


class Detached(BatchMagicError):  # noqa: N818  (what the interface calls it)
    """The waiting was interrupted; the run goes on by itself."""


class StillRunning(BatchMagicError, AttributeError):  # noqa: N818  (the interface's word)
    """The result was asked for before the run has ended.

    An AttributeError besides, so that libraries which probe a handle for what it can do take
    it for an object that cannot.
    """
