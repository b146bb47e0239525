"""A sandbox process for tests: how to start it, make it fail, and ask what really happened."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai

FAST = 1000.0  # no scripted wait is noticed


class Service:
    """One sandbox process, seen over HTTP alone."""

    def __init__(self, home: Path, *, time_scale: float = FAST, faults: str = "{}") -> None:
        command = [sys.executable, "-m", "batch_magic.sandbox", "--home", str(home)]
        command += ["--answerer", "stub", "--time-scale", str(time_scale), "--faults", faults]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("sandbox listening on "), line
        self.url = line.split()[-1]

    def end(self) -> None:
        """End the process at once: its store is meant to bear it."""
        self.process.kill()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def faults(self, **faults: Any) -> None:
        """Set general faults; None takes one away."""
        self._control("faults", faults, "PUT")

    def clear_faults(self) -> None:
        """Take all faults away."""
        self._control("faults", None, "DELETE")

    def advance(self, seconds: float) -> None:
        """Move the service's clock."""
        self._control("clock", {"advance_s": seconds})

    def calls(self) -> Counter[str]:
        """Return how often each route was called in this life."""
        return Counter(self._control("requests")["calls"])

    def answers(self) -> Counter[str]:
        """Return how often each route answered with which status: "chat.completions 429"."""
        return Counter(self._control("requests")["answers"])

    def batches(self, run_id: str | None = None) -> list[dict[str, Any]]:
        """Return what really happened to the jobs (of one run), eldest first."""
        found: list[dict[str, Any]] = self._control("batches")["batches"]
        found.sort(key=lambda one: one["created_at"])
        if run_id is None:
            return found
        return [one for one in found if (one["metadata"] or {}).get("batch_magic_run") == run_id]

    def rows_paid(self, *run_ids: str) -> int:
        """Return how many rows were answered and billed for these runs."""
        return sum(one["rows_paid"] for run_id in run_ids for one in self.batches(run_id))

    def ledger(self) -> list[dict[str, Any]]:
        """Return what was really billed: requests by lane, model and tokens."""
        found: list[dict[str, Any]] = self._control("ledger")["entries"]
        return found

    def client(self) -> openai.OpenAI:
        """Return an official client of this service."""
        return openai.OpenAI(base_url=self.url, api_key="any", max_retries=0)

    def _control(self, path: str, body: Any = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        url = self.url.removesuffix("/v1") + "/sandbox/" + path
        request = urllib.request.Request(url, data, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)


@contextmanager
def serving(home: Path, **options: Any) -> Iterator[Service]:
    """Run a service for a while."""
    service = Service(home, **options)
    try:
        yield service
    finally:
        service.end()


def stub_answer(prompt: str) -> str:
    """Return what the stub answers to a prompt: it names the text it was asked."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=4).hexdigest()
    excerpt = " ".join(prompt.split())[:48]
    return f"stub {digest}: {excerpt}"
