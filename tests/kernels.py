"""Real IPython kernels for tests: run a cell, read what a person would see, kill it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

PROJECT = Path(__file__).parent.parent
WAIT_S = 60


@dataclass
class Seen:
    """What a cell showed: its printed text, its displays as text and HTML, its error, questions."""

    printed: str = ""
    shown: list[str] = field(default_factory=list)
    html: list[str] = field(default_factory=list)
    error: str | None = None
    traceback: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join([self.printed, *self.shown])


class Kernel:
    """A kernel in a process of its own."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self._manager, self._client = manager, client

    def run(
        self,
        code: str,
        *,
        timeout_s: float = WAIT_S,
        allow_stdin: bool = True,
        answers: Sequence[str] = (),
    ) -> Seen:
        """Run a cell to its end, with an answer for each question that it asks.

        `allow_stdin=False` is how headless executors ask.
        """
        seen, left = Seen(), list(answers)

        def answer(message: Mapping[str, Any]) -> None:
            seen.asked.append(message["content"]["prompt"])
            self._client.input(left.pop(0))

        self._client.execute_interactive(
            code,
            allow_stdin=allow_stdin,
            timeout=timeout_s,
            output_hook=lambda message: _see(seen, message),
            stdin_hook=answer,
        )
        return seen

    def start(self, code: str) -> str:
        """Start a cell and return at once."""
        return self._client.execute(code)

    def tell(self, model_id: str, content: Mapping[str, Any]) -> None:
        """Send a widget what its page would say; returns at once."""
        data = {"comm_id": model_id, "data": {"method": "custom", "content": dict(content)}}
        self._client.shell_channel.send(self._client.session.msg("comm_msg", data))

    def interrupt(self) -> None:
        self._manager.interrupt_kernel()

    def kill(self) -> None:
        """kill -9: nothing gets a chance to tidy up."""
        os.kill(self._manager.provisioner.pid, signal.SIGKILL)

    def shut_down(self, timeout_s: float) -> float:
        """Ask the kernel to end, as closing a notebook does; return the seconds that it took."""
        began = time.monotonic()
        self._client.shutdown()
        while self._manager.is_alive():
            assert time.monotonic() < began + timeout_s, f"it is there after {timeout_s} s"
            time.sleep(0.02)
        return time.monotonic() - began

    def settle(self) -> None:
        """Read the replies of cells that were only started."""
        self._client.kernel_info()
        self._client.get_shell_msg(timeout=WAIT_S)


@contextmanager
def kernel(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Kernel]:
    """Start a kernel in `folder`, with no key and nothing of the caller's settings."""
    manager = KernelManager(kernel_name="python3")
    words = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    words |= {"HOME": str(folder), "IPYTHONDIR": str(folder / ".ipython"), "NO_PROXY": "*"}
    words |= {"PYTHONPATH": str(PROJECT), "BATCH_MAGIC_SANDBOX_ANSWERER": "stub"}
    words |= {"JUPYTER_PATH": str(Path(sys.prefix) / "share" / "jupyter")}
    manager.start_kernel(cwd=str(folder), env=words | dict(environment or {}))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=WAIT_S)
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _see(seen: Seen, message: Mapping[str, Any]) -> None:
    content = message["content"]
    kind = message["header"]["msg_type"]
    if kind == "stream":
        seen.printed += content["text"]
    elif kind in ("display_data", "execute_result", "update_display_data"):
        seen.shown.append(content["data"].get("text/plain", ""))
        seen.html.append(content["data"].get("text/html", ""))
    elif kind == "error":
        seen.error = f"{content['ename']}: {content['evalue']}"
        seen.traceback = content["traceback"]
