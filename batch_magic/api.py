"""Files, Batches and realtime, one method each: HTTP and SDK in, our values and errors out.

It knows the service's calls and the dialects of its answers (capitals, ISO times, empty ids,
null counts) and refuses to know rows, shards or what a failure means for a run. The traps:
the SDK retries a POST by itself and has no idempotency key, so that `batches.create` could
bill twice; every call here is made exactly once, and trying again is decided elsewhere. A path
or bytes makes the SDK hold the whole file; an open handle does not.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import openai

from batch_magic.durable_files import create
from batch_magic.errors import ServiceError
from batch_magic.records import JobFault, RemoteJob, Usage

_CREATE_TIMEOUT_S = 60.0
_CALL_TIMEOUT_S = 60.0
_TRANSFER_TIMEOUT_S = 600.0
_BLOCK_BYTES = 1 << 20
# What a service says of a key may quote a part of it.
_SAID_CHARS = 600
_SHORTEST_KEY = 8  # a made-up key such as "none" is a word like others
_KEY = re.compile(r"\b(sk|sess|key)-[\w*.\-]{4,}")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a realtime endpoint as it came; `error` is what it says that went wrong."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    request_id: str
    error: ServiceError | None = None


class Api:
    """One service under one key. Belongs to the event loop that it is first used in."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        organization: str | None = None,
        project: str | None = None,
    ) -> None:
        is_local = "//127.0.0.1" in base_url or "//localhost" in base_url
        self.base_url = base_url
        self._key = api_key
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key,
            organization=organization,
            project=project,
            max_retries=0,
            timeout=_CALL_TIMEOUT_S,
            # A proxy of the environment is not for this machine's own servers.
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False) if is_local else None,
        )

    async def upload(self, path: Path, filename: str) -> str:
        """Upload an input file under `filename`; return the file's id."""
        with path.open("rb") as handle:
            answer = await self._call(
                self._client.files.with_raw_response.create,
                file=(filename, handle),
                purpose="batch",
                timeout=_TRANSFER_TIMEOUT_S,
            )
        return _required(answer, "id")

    async def find_file(self, filename: str, size_bytes: int) -> str | None:
        """Return the newest uploaded file of just this name and size, if there is one."""
        answer = await self._call(
            self._client.files.with_raw_response.list, purpose="batch", order="desc", limit=1000
        )
        for file in _objects(answer.get("data")):
            if file.get("filename") == filename and file.get("bytes") == size_bytes:
                return _required(file, "id")
        return None

    async def create(self, file_id: str, endpoint: str, metadata: Mapping[str, str]) -> RemoteJob:
        """Create a job, once. When the error is `in_doubt`, the job may exist all the same."""
        answer = await self._call(
            self._client.batches.with_raw_response.create,
            input_file_id=file_id,
            endpoint=endpoint,
            completion_window="24h",
            metadata=dict(metadata),
            timeout=_CREATE_TIMEOUT_S,
        )
        return _read_job(answer, self._key)

    async def job(self, batch_id: str) -> RemoteJob:
        """Ask how a job is."""
        return _read_job(
            await self._call(self._client.batches.with_raw_response.retrieve, batch_id), self._key
        )

    async def cancel(self, batch_id: str) -> RemoteJob:
        """Ask for a job to be cancelled. A job that has ended answers 409."""
        answer = await self._call(self._client.batches.with_raw_response.cancel, batch_id)
        return _read_job(answer, self._key)

    async def jobs_since(self, since: float) -> AsyncIterator[RemoteJob]:
        """Yield the account's jobs, newest first, back to `since` (Unix seconds)."""
        after: str | None = None
        while True:
            page = await self._call(
                self._client.batches.with_raw_response.list,
                limit=100,
                **({"after": after} if after else {}),
            )
            jobs = [_read_job(one, self._key) for one in _objects(page.get("data"))]
            for job in jobs:
                yield job
            if not jobs or not page.get("has_more") or _is_before(jobs[-1], since):
                return
            after = jobs[-1].batch_id

    async def download(self, file_id: str, path: Path) -> int:
        """Stream a file's content to `path`; return its size in bytes. Flat in memory."""
        size_bytes = 0
        try:
            async with self._client.files.with_streaming_response.content(
                file_id, timeout=_TRANSFER_TIMEOUT_S
            ) as answer:
                with create(path) as out:
                    async for block in answer.iter_bytes(_BLOCK_BYTES):
                        out.write(block)
                        size_bytes += len(block)
                    out.flush()
                    os.fsync(out.fileno())
        except openai.OpenAIError as error:
            raise self._service_error(error) from None
        except Exception as error:
            if not _is_of_transport(error):
                raise
            # The service had begun to answer, hence a status.
            said = f"the download of {file_id} broke off ({error})"
            raise ServiceError(said, status=200) from None
        return size_bytes

    async def file_bytes(self, file_id: str) -> int | None:
        """Return the size of a file as the service knows it; None when it does not say."""
        answer = await self._call(self._client.files.with_raw_response.retrieve, file_id)
        size = answer.get("bytes")
        return size if isinstance(size, int) else None

    async def delete_file(self, file_id: str) -> None:
        """Delete a file at the service; one that is not there is no error."""
        try:
            await self._call(self._client.files.with_raw_response.delete, file_id)
        except ServiceError as error:
            if error.status != 404:
                raise

    async def answer(self, endpoint: str, body: Mapping[str, Any], timeout_s: float) -> Reply:
        """Ask a realtime endpoint (its full path) once; a refusal is a reply, too.

        Raises ServiceError where none came; the request may have been carried out all the same.
        """
        try:
            answer: Any = await self._client.post(
                endpoint.removeprefix("/v1"),
                body=dict(body),
                cast_to=object,
                # As the SDK's own `with_raw_response` asks for the answer as it came.
                options={"headers": {"X-Stainless-Raw-Response": "true"}, "timeout": timeout_s},
            )
        except openai.APIStatusError as error:
            known = _status_error(error, self._host, self._key)
            found = error.response
            said = _KEY.sub("sk-…", found.content.decode("utf-8", "replace")).encode()
            return self._reply(found.status_code, said, found.headers, known)
        except openai.OpenAIError as error:
            raise self._service_error(error) from None
        except Exception as error:
            if not _is_of_transport(error):
                raise
            raise ServiceError(f"the answer of {self._host} broke off ({error})") from None
        found = answer.http_response
        return self._reply(found.status_code, found.content, found.headers)

    def _reply(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str],
        error: ServiceError | None = None,
    ) -> Reply:
        """Take an answer without the key, which a service or a proxy may quote."""
        if len(self._key) >= _SHORTEST_KEY:
            body = body.replace(self._key.encode(), b"sk-...")
        return Reply(
            status, body, headers, _clean(headers.get("x-request-id") or "", self._key), error
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _call(self, method: Callable[..., Awaitable[Any]], *args: Any, **kw: Any) -> Any:
        try:
            answer = (await method(*args, **kw)).http_response.json()
        except openai.OpenAIError as error:
            raise self._service_error(error) from None  # the SDK's own text may quote the key
        except ValueError:
            said = f"{self._host} answered with something that is not JSON"
            raise ServiceError(
                f"{said}; is it an OpenAI-compatible service? name it with --on"
            ) from None
        except Exception as error:
            if not _is_of_transport(error):
                raise
            raise ServiceError(f"the answer of {self._host} broke off ({error})") from None
        if not isinstance(answer, dict):
            said = f"{self._host} answered with something that is no object"
            raise ServiceError(f"{said}; {_OTHER_HOST}")
        return answer

    @property
    def _host(self) -> str:
        return self.base_url.split("//")[-1].split("/")[0]

    def _service_error(self, error: openai.OpenAIError) -> ServiceError:
        if isinstance(error, openai.APIStatusError):
            return _status_error(error, self._host, self._key)
        if isinstance(error, openai.APITimeoutError):
            return ServiceError(f"{self._host} did not answer in time")
        cause = error.__cause__ or error
        return ServiceError(f"no connection to {self._host} ({_clean(str(cause), self._key)})")


_OTHER_HOST = "if it stays so, name an OpenAI-compatible service with --on"


def _is_of_transport(error: Exception) -> bool:
    """Tell whether a connection was cut while reading: such errors come to us unwrapped."""
    return type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2")


def _clean(text: str, key: str = "") -> str:
    """Make what a service says one short line without control characters or keys."""
    if len(key) >= _SHORTEST_KEY:
        text = text.replace(key, "sk-…")
    text = " ".join("".join(c if c.isprintable() else " " for c in text[:_SAID_CHARS]).split())
    return _KEY.sub("sk-…", text)


def _status_error(error: openai.APIStatusError, host: str, key: str) -> ServiceError:
    headers = error.response.headers
    body = error.body if isinstance(error.body, dict) else {}
    message = _clean(str(body.get("message") or error.message), key)
    code = _clean(str(body.get("code") or ""), key)
    said = " ".join(str(part) for part in (error.status_code, code) if part)
    if error.status_code == 401:
        message = "the key was refused; set the right OPENAI_API_KEY and run the cell again"
    return ServiceError(
        f"{host} said {said}: {message}",
        status=error.status_code,
        code=code or None,
        request_id=headers.get("x-request-id"),
        retry_after_s=_retry_after_s(headers),
    )


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    wish = headers.get("retry-after") or ""
    seconds = _number(headers.get("retry-after-ms") or "", 0.001)
    seconds = _number(wish, 1.0) if seconds is None else seconds
    if seconds is not None or not wish:
        return seconds
    try:
        until = parsedate_to_datetime(wish)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _number(text: str, unit: float) -> float | None:
    try:
        return max(0.0, float(text) * unit)
    except ValueError:
        return None


# -- dialects -------------------------------------------------------------------------------

_SYNONYMS = {"canceled": "cancelled", "progress": "in_progress", "canceling": "cancelling"}


def _read_job(answer: Mapping[str, Any], key: str = "") -> RemoteJob:
    counts, metadata = _object(answer.get("request_counts")), _object(answer.get("metadata"))
    status = str(answer.get("status") or "").lower()
    return RemoteJob(
        batch_id=_required(answer, "id"),
        status=_SYNONYMS.get(status, status),
        created_at=_time(answer.get("created_at")),
        expires_at=_time(answer.get("expires_at")),
        in_progress_at=_time(answer.get("in_progress_at")),
        input_file_id=_text(answer.get("input_file_id")),
        output_file_id=_text(answer.get("output_file_id")),
        error_file_id=_text(answer.get("error_file_id")),
        total=_count(counts.get("total")),
        completed=_count(counts.get("completed")),
        failed=_count(counts.get("failed")),
        model=_text(answer.get("model")),
        usage=_read_usage(_object(answer.get("usage"))),
        faults=tuple(_read_faults(answer.get("errors"), key)),
        metadata={key: str(value) for key, value in metadata.items()},
    )


def _read_usage(usage: Mapping[str, Any]) -> Usage | None:
    """Read a job's own count; hosts that keep none, or say 0 while it runs, tell nothing."""
    given, made = _count(usage.get("input_tokens")), _count(usage.get("output_tokens"))
    if not given:
        return None
    cached = _object(usage.get("input_tokens_details")).get("cached_tokens")
    reasoning = _object(usage.get("output_tokens_details")).get("reasoning_tokens")
    return Usage(given, _count(cached) or 0, made or 0, _count(reasoning) or 0)


def _read_faults(errors: Any, key: str) -> list[JobFault]:
    data = errors.get("data") if isinstance(errors, Mapping) else errors
    return [
        JobFault(
            code=_clean(str(one.get("code") or "unknown"), key),
            message=_clean(str(one.get("message") or ""), key),
            param=_text(one.get("param")),
            line=_count(one.get("line")),
        )
        for one in _objects(data)
    ]


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _required(answer: Mapping[str, Any], key: str) -> str:
    value = answer.get(key)
    if not isinstance(value, str) or not value:
        # Not a refusal: whatever was asked for may have been done.
        said = _object(answer.get("error")).get("message")
        more = f": {_clean(str(said))}" if said else ""
        raise ServiceError(f"the service's answer has no {key!r}{more}", status=200)
    return value


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    return value if is_count else None


def _time(value: Any) -> float | None:
    """Read a time given as Unix seconds or ISO text; text that names no zone is UTC."""
    try:
        if isinstance(value, str) and value:
            said = datetime.fromisoformat(value.replace("Z", "+00:00"))
            return (said if said.tzinfo else said.replace(tzinfo=UTC)).timestamp()
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(value) if is_number and math.isfinite(value) else None
    except (ValueError, OverflowError):
        return None


def _is_before(job: RemoteJob, since: float) -> bool:
    return job.created_at is not None and job.created_at < since
