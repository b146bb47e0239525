"""Real server processes and the official client; nothing here imports the rooms it judges."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

FAST = 2000.0  # no scripted wait is noticed
CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


class Sandbox:
    """One server process and the ways to look at it."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self.options = options
        self.start()

    def start(self) -> None:
        """Start a life of the server and wait until it listens."""
        command = [sys.executable, "-m", "batch_magic.sandbox", "--home", str(self.home)]
        self.process = subprocess.Popen(
            [*command, *self.options], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("sandbox listening on "), line
        self.url = line.split()[-1]

    def kill(self) -> None:
        """End the server as a crash would."""
        self.end(signal.SIGKILL)

    def end(self, by: signal.Signals = signal.SIGTERM) -> int:
        """End the server and return its exit code."""
        self.process.send_signal(by)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def client(self, **options: Any) -> openai.OpenAI:
        """Return an official client of this server."""
        options = {"api_key": "any", "max_retries": 0} | options
        return openai.OpenAI(base_url=self.url, **options)

    def control(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Call one of the server's own routes."""
        data = None if body is None else json.dumps(body).encode()
        url = self.url.removesuffix("/v1") + "/sandbox/" + path
        request = urllib.request.Request(url, data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def advance(self, seconds: float) -> None:
        """Move the service's clock."""
        self.control("clock", {"advance_s": seconds})

    def faults(self, **faults: Any) -> None:
        """Set general faults."""
        self.control("faults", faults, "PUT")

    def truth(self, batch_id: str) -> dict[str, Any]:
        """Return what really happened to a batch."""
        batches = self.control("batches")["batches"]
        return next(batch for batch in batches if batch["id"] == batch_id)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A server whose faults and clock nobody changes."""
    home = tmp_path_factory.mktemp("shared")
    sandbox = Sandbox(home, "--answerer", "stub", "--time-scale", str(FAST))
    yield sandbox
    sandbox.end()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Sandbox]]:
    """Start servers that end with the test."""
    started: list[Sandbox] = []

    def start_one(*options: str, home: Path | None = None, scale: float = FAST) -> Sandbox:
        given = list(options)
        if "--answerer" not in given and "--upstream" not in given:
            given += ["--answerer", "stub"]
        sandbox = Sandbox(home or tmp_path / "home", *given, "--time-scale", str(scale))
        started.append(sandbox)
        return sandbox

    yield start_one
    for sandbox in started:
        if sandbox.process.poll() is None:
            sandbox.end()


@pytest.fixture
def own(start: Callable[..., Sandbox]) -> Sandbox:
    """A server of the test's own, stub answers, no waits."""
    return start()


@pytest.fixture
def client(shared: Sandbox) -> openai.OpenAI:
    """The official client of the shared server."""
    return shared.client()


def row(custom_id: str, text: str = "hello", url: str = CHAT, **body: Any) -> dict[str, Any]:
    """Return one input row of a chat batch."""
    given = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": text}]} | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": given}


def rows(count: int, prefix: str = "r") -> list[dict[str, Any]]:
    """Return input rows whose text names them."""
    return [row(f"{prefix}{index}", f"words of {prefix}{index}") for index in range(count)]


def jsonl(items: list[Any]) -> bytes:
    """Return items as JSON lines."""
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def submit(
    client: openai.OpenAI, content: list[Any] | bytes, endpoint: str = CHAT, **faults: Any
) -> Batch:
    """Upload an input and create a batch, its faults given by metadata."""
    data = content if isinstance(content, bytes) else jsonl(content)
    file = client.files.create(file=("input.jsonl", data), purpose="batch")
    metadata = {f"sandbox_fault_{name}": json.dumps(value) for name, value in faults.items()}
    given: Any = endpoint
    return client.batches.create(
        input_file_id=file.id, endpoint=given, completion_window="24h", metadata=metadata
    )


def wait(client: openai.OpenAI, batch: Batch, *statuses: str, timeout_s: float = 20) -> Batch:
    """Poll until the batch is in one of `statuses`, by default until it has ended."""
    ends = time.monotonic() + timeout_s
    wanted = statuses or ENDED
    while True:
        seen = client.batches.retrieve(batch.id)
        if seen.status in wanted:
            return seen
        assert seen.status not in ENDED, seen
        assert time.monotonic() < ends, seen
        time.sleep(0.01)


def wait_until(is_so: Callable[[], bool], timeout_s: float = 20) -> None:
    """Poll a condition."""
    ends = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.01)


def lines(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """Return the parsed lines of a result file; none for no file."""
    if not file_id:
        return []
    content = client.files.content(file_id).content
    return [json.loads(line) for line in content.split(b"\n") if line]


def ids(items: list[dict[str, Any]]) -> list[str]:
    """Return the custom ids of result lines."""
    return [item["custom_id"] for item in items]


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie counts as gone)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return not Path("/proc").exists()
    return state != "Z"
