"""A multipart upload, streamed from the socket to the disk.

Knows the form's fields and where the one file's bytes went. Refuses to judge them. The trap:
a form parser that spools to the temporary folder may spool to memory (tmpfs), and a refused
upload must still be read to its end or the client sees a broken pipe instead of the refusal.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import python_multipart
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from .refusals import Refusal

MAX_UPLOAD_BYTES = 512 * 1024 * 1024
_MAX_FIELD_BYTES = 4096


@dataclass
class Upload:
    """What one form held."""

    path: Path
    filename: str | None = None
    size_bytes: int = 0
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def is_too_large(self) -> bool:
        """Whether the file went over the limit; its bytes beyond it were not kept."""
        return self.size_bytes > MAX_UPLOAD_BYTES


async def receive_upload(request: Request, path: Path) -> Upload:
    """Read the form and write its file to `path`. Raises Refusal (400)."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Refusal(400, "Expected a multipart/form-data body with a file and a purpose.")
    path.touch(mode=0o600)
    with path.open("wb", buffering=1 << 20) as target:
        form = _Form(Upload(path), target)
        parser = python_multipart.MultipartParser(boundary, form.callbacks())
        try:
            async for chunk in request.stream():
                parser.write(chunk)
            parser.finalize()
        except python_multipart.exceptions.MultipartParseError as error:
            path.unlink()
            raise Refusal(400, f"The form could not be read: {error}.") from None
        except ClientDisconnect:
            path.unlink()
            raise
    return form.upload


class _Form:
    """The parser's callbacks, and the part they are in."""

    def __init__(self, upload: Upload, target: BinaryIO) -> None:
        self.upload = upload
        self._target = target
        self._header_name = b""
        self._header_value = b""
        self._name = ""
        self._filename: str | None = None
        self._text = b""

    def callbacks(self) -> "python_multipart.multipart.MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_header_name,
            "on_header_value": self._add_header_value,
            "on_header_end": self._end_header,
            "on_part_data": self._add_data,
            "on_part_end": self._end,
        }

    def _begin(self) -> None:
        self._name, self._filename, self._text = "", None, b""

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(self._header_value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            if b"filename" in options:
                self._filename = options[b"filename"].decode("utf-8", "replace")
        self._header_name = self._header_value = b""

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._filename is None:
            if len(self._text) < _MAX_FIELD_BYTES:
                self._text += data[start:end]
            return
        self.upload.size_bytes += end - start
        if not self.upload.is_too_large:
            self._target.write(memoryview(data)[start:end])

    def _end(self) -> None:
        if self._filename is None:
            self.upload.fields[self._name] = self._text.decode("utf-8", "replace")
        elif self._name == "file":
            self.upload.filename = self._filename
