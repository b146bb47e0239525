"""The service as we read it: the official SDK over HTTP, dialects, failures; each call once."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest
from service import Service
from test_lifecycle import NOW, job

from batch_magic import api
from batch_magic.api import Api
from batch_magic.errors import ServiceError
from batch_magic.lifecycle import after_trouble
from batch_magic.records import Limits

T = TypeVar("T")
CHAT = "/v1/chat/completions"


def call(url: str, work: Callable[[Api], Awaitable[T]], api_key: str = "any") -> T:
    """Do some work with a connection of its own."""

    async def alone() -> T:
        async with connected(url, api_key) as api:
            return await work(api)

    return asyncio.run(alone())


@asynccontextmanager
async def connected(url: str, api_key: str) -> AsyncIterator[Api]:
    api = Api(url, api_key)
    try:
        yield api
    finally:
        await api.close()


class Host:
    """A host that answers every call with what the test says, in whatever dialect."""

    def __init__(self) -> None:
        self.status, self.headers, self.body = 200, {}, b"{}"
        self.calls: list[str] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                host.calls.append(f"{self.command} {self.path}")
                self.rfile.read(int(self.headers.get("content-length") or 0))
                self.send_response(host.status)
                for name, value in host.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(host.body)))
                self.end_headers()
                self.wfile.write(host.body)

            do_GET = do_POST = answer  # noqa: N815  (http.server's names)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    headers: dict[str, str]

    def says(self, body: Any, status: int = 200, **headers: str) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


def test_a_shard_goes_up_and_its_answers_come_down(service: Service, tmp_path: Path) -> None:
    """The whole way through the official SDK."""
    line = {
        "custom_id": "r-0",
        "method": "POST",
        "url": CHAT,
        "body": {"model": "m", "messages": [{"role": "user", "content": "hello"}]},
    }
    shard, result = tmp_path / "shard.jsonl", tmp_path / "result.jsonl"
    shard.write_text(json.dumps(line) + "\n")

    async def way(api: Api) -> int | None:
        file_id = await api.upload(shard, "batch_magic-t0.jsonl")
        assert await api.find_file("batch_magic-t0.jsonl", shard.stat().st_size) == file_id
        assert await api.find_file("batch_magic-t0.jsonl", 1) is None
        job = await api.create(file_id, CHAT, {"batch_magic_job": "t0"})
        assert job.metadata == {"batch_magic_job": "t0"}
        while job.status != "completed":
            job = await api.job(job.batch_id)
            await asyncio.sleep(0.01)
        assert job.output_file_id is not None
        assert (job.completed, job.failed, job.error_file_id) == (1, 0, None)
        size = await api.download(job.output_file_id, result)
        assert size == result.stat().st_size
        return await api.file_bytes(job.output_file_id)

    assert call(service.url, way) == result.stat().st_size
    assert "stub" in result.read_text()


@pytest.mark.parametrize(
    "said",
    [
        {"status": "IN_PROGRESS", "request_counts": None, "created_at": "2026-11-22T00:00:00Z"},
        {"status": "PROGRESS", "created_at": 1795305600, "error_file_id": ""},
        {"status": "in_progress", "created_at": "2026-11-22T01:00:00+01:00", "metadata": None},
    ],
)
def test_dialects_are_read_alike(host: Host, said: dict[str, Any]) -> None:
    """Capitals, ISO times, empty ids, null counts."""
    host.says({"id": "b", "errors": None, **said})
    job = call(host.url, lambda api: api.job("b"))
    assert (job.status, job.created_at, job.error_file_id) == ("in_progress", 1795305600, None)
    assert (job.total, job.completed, job.metadata) == (None, None, {})


def test_validation_errors_are_read_with_their_lines(host: Host) -> None:
    """As a list object, as a plain list, with anything missing."""
    one = {"code": "c", "message": "m", "line": 3, "param": None}
    for errors in ({"object": "list", "data": [one]}, [one]):
        host.says({"id": "b", "status": "failed", "errors": errors})
        (fault,) = call(host.url, lambda api: api.job("b")).faults
        assert (fault.code, fault.message, fault.line) == ("c", "m", 3)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_nothing_is_sent_twice_by_itself(host: Host, status: int) -> None:
    """The SDK would try these again; a create must not be."""
    host.says({"error": {"message": "no", "code": None}}, status, retry_after="0")
    with pytest.raises(ServiceError) as caught:
        call(host.url, lambda api: api.create("f", CHAT, {}))
    assert len(host.calls) == 1
    assert caught.value.in_doubt
    assert caught.value.status == status


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"object": "batch"}', b'{"id": ""}'])
def test_an_answer_that_says_nothing_leaves_a_create_in_doubt(host: Host, body: bytes) -> None:
    """A proxy's page with a 200 does not mean that there is no job."""
    host.says(body)
    with pytest.raises(ServiceError) as caught:
        call(host.url, lambda api: api.create("f", CHAT, {}))
    assert caught.value.in_doubt


def test_a_service_that_is_not_there_is_said_to_be(host: Host) -> None:
    """With its address, and no traceback of the transport's."""
    host.close()
    with pytest.raises(ServiceError, match=r"no connection to 127\.0\.0\.1") as caught:
        call(host.url, lambda api: api.job("b"))
    assert caught.value.status is None


def test_an_error_carries_what_the_service_said(host: Host) -> None:
    """Status, code, request id, and how long it wants to be left alone."""
    error = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
    for header, seconds in ({"retry_after": "7"}, 7.0), ({"retry_after_ms": "250"}, 0.25):
        host.says(error, 429, x_request_id="req_1", **header)
        with pytest.raises(ServiceError, match="429 rate_limit_exceeded: slow down") as caught:
            call(host.url, lambda api: api.job("b"))
        assert caught.value.retry_after_s == seconds
        assert (caught.value.code, caught.value.request_id) == ("rate_limit_exceeded", "req_1")


def in_seconds(seconds: float) -> str:
    """Return the time so far from now as HTTP writes it."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        pytest.param(in_seconds(3600), 3000, 3600, id="in an hour"),
        pytest.param(in_seconds(-3600), 0, 0, id="an hour ago"),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 1e9, math.inf),
        ("nan", 0, 0),
        ("inf", math.inf, math.inf),
        ("-inf", 0, 0),
        ("-5", 0, 0),
        pytest.param("9" * 400, math.inf, math.inf, id="digits"),
        ("1e9", 1e9, 1e9),
    ],
)
def test_a_wish_to_wait_is_no_more_than_a_number_of_seconds(
    header: str, least: float, most: float
) -> None:
    """Gateways write what they like; whatever it is, a time to look again comes of it."""
    seconds = api._retry_after_s({"retry-after": header})
    assert seconds is not None
    assert least <= seconds <= most
    error = ServiceError("slow down", status=429, retry_after_s=seconds)
    assert NOW <= after_trouble(job(), error, Limits(), NOW).due_at <= NOW + 900


@pytest.mark.parametrize(
    "header",
    ["", "soon", "7, 8", "Wed, 32 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 99999 07:28:00 GMT"],
)
def test_a_wish_to_wait_that_cannot_be_read_is_none(header: str) -> None:
    """Then our own back-off holds."""
    assert api._retry_after_s({"retry-after": header}) is None


def test_a_key_never_stands_in_an_error(host: Host) -> None:
    """Services quote keys; we do not."""
    key = "sk-proj-abcdef1234567890"
    for status in (400, 401):
        host.says({"error": {"message": f"Incorrect API key: {key}", "code": None}}, status)
        with pytest.raises(ServiceError) as caught:
            call(host.url, lambda api: api.job("b"), api_key=key)
        shown = "".join(traceback.format_exception(caught.value))
        assert "abcdef" not in shown  # nor in the errors that it was made of


def test_a_key_of_any_form_stands_in_no_code_or_fault(host: Host) -> None:
    """Azure's keys are bare hexadecimals, and hosts quote them where they like."""
    key = "0123456789abcdef0123456789abcdef"
    host.says({"error": {"message": "no", "code": f"bad\n\x1b[31m{key}"}}, 400)
    with pytest.raises(ServiceError) as caught:
        call(host.url, lambda api: api.job("b"), api_key=key)
    assert key not in f"{caught.value} {caught.value.code}"
    assert "\x1b" not in str(caught.value)
    fault = {"code": f"x_{key}", "message": f"key {key}"}
    host.says({"id": "b", "status": "failed", "errors": {"data": [fault]}}, 200)
    job = call(host.url, lambda api: api.job("b"), api_key=key)
    assert key not in str(job.faults)


def test_a_download_cut_half_way_is_an_answer_that_broke_off(
    service: Service, tmp_path: Path
) -> None:
    """The service was there: that is no silence, and no file."""
    shard = tmp_path / "shard.jsonl"
    shard.write_text('{"custom_id": "x"}\n' * 10_000)

    async def fetch(api: Api) -> int:
        file_id = await api.upload(shard, "cut.jsonl")
        service.faults(http_cut={"route": "files.content", "times": 1, "share": 0.5})
        return await api.download(file_id, tmp_path / "part")

    with pytest.raises(ServiceError, match="broke off") as caught:
        call(service.url, fetch)
    assert caught.value.status == 200


def test_an_upload_and_a_download_are_not_held_in_memory(service: Service, tmp_path: Path) -> None:
    """A 40 MB shard goes up and comes down in far less."""
    import tracemalloc

    shard = tmp_path / "shard.jsonl"
    line = json.dumps({"custom_id": "x", "pad": "y" * 4000}) + "\n"
    shard.write_text(line * 10_000)

    async def there_and_back(api: Api) -> int:
        file_id = await api.upload(shard, "large.jsonl")
        return await api.download(file_id, tmp_path / "back")

    tracemalloc.start()
    try:
        assert call(service.url, there_and_back) == shard.stat().st_size
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_all_pages_are_read_back_to_a_time_and_no_further(service: Service) -> None:
    """The list has no filter: newest first, a hundred at a time."""
    client = service.client()
    first = client.batches.create(
        input_file_id="none", endpoint=CHAT, completion_window="24h", metadata={"k": "mine"}
    )
    service.advance(5000)
    for _ in range(120):
        client.batches.create(input_file_id="none", endpoint=CHAT, completion_window="24h")

    async def count(api: Api, since: float) -> tuple[int, bool]:
        found = [job async for job in api.jobs_since(since)]
        return len(found), any(job.metadata.get("k") == "mine" for job in found)

    n, is_found = call(service.url, lambda api: count(api, first.created_at - 10))
    assert is_found
    assert n > 120
    n, is_found = call(service.url, lambda api: count(api, first.created_at + 1000))
    assert 120 <= n <= 300
