"""Real kernels that die: an ipykernel, forked with everything loaded, and killed with -9.

A kernel that starts from nothing takes longer than most stories of the campaign; one that is forked
from a process which has imported its packages takes a moment, and is the same kernel: it speaks
the Jupyter protocol with a client of its own, runs cells, has the extension loaded. A death is a
moment, or the call or the return of a function of ours, watched by a profiler in every thread.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

_FORK = multiprocessing.get_context("forkserver")
_START_S = 60.0


@dataclass(frozen=True)
class Death:
    """When a kernel is killed: at a named point, or some seconds after it is ready."""

    after_s: float = 40.0
    point: str = ""
    event: str = "call"
    count: int = 1

    @property
    def function(self) -> str:
        """The qualified name of the function; a point reads `stage: function`."""
        return self.point.partition(": ")[2]


class Died(Exception):  # noqa: N818  (no error: what these kernels are for)
    """The kernel was killed, by itself or by its time."""


class MortalKernel:
    """One kernel and its client. All calls come from one thread."""

    def __init__(self, folder: Path, name: str, environment: Mapping[str, str]) -> None:
        path, _ = write_connection_file(
            str(folder / f"{name}.json"), transport="ipc", ip=str(folder / name)
        )
        self._process = _FORK.Process(target=_be_a_kernel, args=(path, str(folder), environment))
        self._process.start()
        self._client = BlockingKernelClient(connection_file=path)
        self._client.load_connection_file()
        self._told = Path(f"{path}.fault")  # what a crash of the interpreter leaves
        self._client.start_channels(iopub=False, stdin=False, hb=False)
        self._ends = time.monotonic() + _START_S
        self._reply_to(self._client.kernel_info())

    def expect(self, death: Death) -> None:
        """Let the kernel die this death from now on."""
        self._ends = time.monotonic() + death.after_s
        if death.point:
            call = f"die_at({death.function!r}, {death.event!r}, {death.count})"
            reply = self.run(f"import mortal_kernels\nmortal_kernels.{call}")
            assert reply["status"] == "ok", reply

    def run(self, code: str, look: str = "None") -> dict[str, Any]:
        """Run a cell; return its reply, with what `look` is then. Raises Died."""
        # A cell that may not ask is a headless executor's, and waits for its run.
        sent = self._client.execute(code, user_expressions={"look": look}, allow_stdin=True)
        return self._reply_to(sent)

    def _reply_to(self, sent: str) -> dict[str, Any]:
        while True:
            if time.monotonic() > self._ends:
                self._process.kill()
                self._process.join()
            if not self._process.is_alive():
                raise Died
            with contextlib.suppress(queue.Empty):
                reply = self._client.get_shell_msg(timeout=0.05)
                if reply["parent_header"].get("msg_id") == sent:
                    content: dict[str, Any] = reply["content"]
                    return content

    def close(self) -> int:
        """Shut the kernel down if it lives; return how it ended, 0 or the negative signal."""
        if self._process.is_alive():
            self._client.shutdown()
            self._process.join(5)
        was_stuck = self._process.is_alive()
        if was_stuck:
            self._process.kill()
            self._process.join()
        self._client.stop_channels()
        self.fault = self._told.read_text()
        ended = self._process.exitcode or 0
        # 255: the fork server could not read how it ended, says multiprocessing's own source.
        return 1 if was_stuck else 0 if ended == 255 else ended


def _be_a_kernel(connection_file: str, folder: str, environment: Mapping[str, str]) -> None:
    from ipykernel.kernelapp import IPKernelApp

    assert "warm" in sys.modules, "the fork server has not loaded what a life begins with"
    os.environ.update(environment)
    os.environ["IPYTHONDIR"] = f"{folder}/.ipython"
    os.chdir(folder)
    app = IPKernelApp.instance()
    quiet = ["--HistoryManager.enabled=False", f"--IPKernelApp.parent_handle={os.getppid()}"]
    app.initialize(["-f", connection_file, *quiet])
    with open(f"{connection_file}.fault", "w") as told:
        faulthandler.enable(told)
        app.start()


def die_at(name: str, event: str, count: int) -> None:
    """Kill this process at the nth call (or return) of a function of ours, in any thread."""
    left = count

    def watch(frame: Any, seen: str, argument: Any) -> None:
        nonlocal left
        if seen == event and frame.f_code.co_qualname == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(watch)
    sys.setprofile(watch)
