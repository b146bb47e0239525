"""The Files API: upload, retrieve, list, download, delete.

Knows the checks made at upload, which are few: the extension, the size, the first line. It
refuses to judge the rows; lines that parse but lack members are accepted here and fail with
their batch. The trap: bytes go from the socket to the disk and back, never through memory.
"""

import os
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from .batches import read_expiry
from .lines import read_line
from .listing import read_limit, wire_page
from .records import INPUT_RETENTION_S, FileRecord
from .refusals import Refusal, invalid_value, missing_parameter
from .replies import json_reply
from .service import Service
from .uploads import Upload, receive_upload

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_BOM = b"\xef\xbb\xbf"
_FIRST_LINE_BYTES = 1 << 20
_BAD_EXTENSION = "Invalid file format for Batch API. Must be .jsonl"
_BAD_CONTENT = (
    "Invalid file format. The file {} must be in jsonl format: "
    "one JSON object per line, and at least one line."
)


class Files:
    """The routes under /v1/files."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._store = service.store

    async def create(self, request: Request) -> Response:
        """POST /v1/files"""
        upload = await receive_upload(request, self._store.incoming_path())
        try:
            record = self._new_file(upload)
            self._store.add_file(record, upload.path)
        finally:
            upload.path.unlink(missing_ok=True)
        return json_reply(record.wire())

    async def retrieve(self, request: Request) -> Response:
        """GET /v1/files/{id}"""
        return json_reply(self._found(request, "file_404_s").wire())

    async def listing(self, request: Request) -> Response:
        """GET /v1/files"""
        query = request.query_params
        order = query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise invalid_value("order", order, ["asc", "desc"])
        page = self._store.files(
            now=self._service.clock.now(),
            purpose=query.get("purpose"),
            limit=read_limit(request, default=10_000, most=10_000),
            after=query.get("after"),
            newest_first=order == "desc",
        )
        return json_reply(wire_page([file.wire() for file in page.records], page.has_more))

    async def content(self, request: Request) -> Response:
        """GET /v1/files/{id}/content"""
        file = self._found(request, "content_404_s")
        headers = {"Content-Disposition": 'attachment; filename="content.jsonl"'}
        path = self._store.file_path(file.id)
        return FileResponse(path, media_type="application/octet-stream", headers=headers)

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/files/{id}"""
        file = self._found(request, None)
        self._store.drop_file(file.id)
        return json_reply({"id": file.id, "object": "file", "deleted": True})

    def _found(self, request: Request, lag: str | None) -> FileRecord:
        file_id = request.path_params["file_id"]
        now = self._service.clock.now()
        file = self._store.file(file_id, now)
        lag_s = float(self._service.faults.get(lag, 0)) if lag else 0.0
        if file is None or now < file.created_at + lag_s:
            raise Refusal(404, f"No such File object: {file_id}", param="id")
        return file

    def _new_file(self, upload: Upload) -> FileRecord:
        purpose = upload.fields.get("purpose")
        if purpose is None:
            raise missing_parameter("purpose")
        if purpose not in PURPOSES:
            raise invalid_value("purpose", purpose, list(PURPOSES))
        if upload.filename is None:
            raise missing_parameter("file")
        if upload.is_too_large:
            raise Refusal(400, "File is too large.")
        if purpose == "batch":
            _check_batch_input(upload.filename, upload.path)
        now = self._service.clock.now()
        return FileRecord(
            id=self._store.new_file_id(),
            filename=upload.filename,
            purpose=purpose,
            size_bytes=upload.size_bytes,
            created_at=now,
            expires_at=_expires_at(upload.fields, purpose, int(now)),
        )


def _expires_at(fields: dict[str, str], purpose: str, now: int) -> int | None:
    given: dict[str, Any] = {}
    for name in ("anchor", "seconds"):
        for key in (f"expires_after[{name}]", f"expires_after.{name}"):
            if key in fields:
                given[name] = fields[key]
    seconds = read_expiry(given, "expires_after") if given else None
    if seconds is None:
        seconds = INPUT_RETENTION_S if purpose == "batch" else None
    return None if seconds is None else now + seconds


def _check_batch_input(filename: str, path: Path) -> None:
    if not filename.endswith(".jsonl"):
        raise Refusal(400, _BAD_EXTENSION)
    bad_content = Refusal(400, _BAD_CONTENT.format(os.path.basename(filename)))
    with path.open("rb") as lines:
        first = lines.readline(_FIRST_LINE_BYTES).removeprefix(_BOM)
    if not first.strip():
        raise bad_content
    if len(first) >= _FIRST_LINE_BYTES:
        return  # longer than is looked at here; validation reads it whole
    try:
        read_line(first)
    except ValueError:
        raise bad_content from None
