"""One daemon thread with its own event loop, which runs a step and sleeps for what it returns.

It knows threads and time, and refuses to know what it beats for. The trap: nothing here may
print, display or touch the user's namespace; whatever a step raises is handed to `on_error`
and the beat goes on. The thread runs in a copy of the starter's context, so that even a stray
print of a library stays in the cell that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_AFTER_ERROR_S = 5.0


class Heartbeat:
    """Runs `beat()` again and again; it returns the seconds to sleep, None to sleep until woken."""

    def __init__(
        self,
        beat: Callable[[], Awaitable[float | None]],
        *,
        on_error: Callable[[BaseException], None],
        at_stop: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._beat = beat
        self._on_error = on_error
        self._at_stop = at_stop
        self._loop = asyncio.new_event_loop()
        self._woken = asyncio.Event()
        self._stopped = False
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._main,), name="batch_magic", daemon=True
        )

    def start(self) -> None:
        """Start beating."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def wake(self) -> None:
        """Beat soon, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing beats any more
            self._loop.call_soon_threadsafe(self._woken.set)

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the heartbeat's loop, from any thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop after the current beat and wait for the thread, for so long at most."""
        self._stopped = True
        self.wake()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._live())
            self._loop.run_until_complete(self._wind_up())
        finally:
            self._loop.close()

    async def _live(self) -> None:
        while not self._stopped:
            self._woken.clear()
            await self._sleep(await self._one_beat())

    async def _wind_up(self) -> None:
        """Let `at_stop` have its say, then cancel what was submitted and is still waiting."""
        if self._at_stop is not None:
            try:
                await self._at_stop()
            except Exception as error:
                self._on_error(error)
        left = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    async def _one_beat(self) -> float | None:
        try:
            return await self._beat()
        except Exception as error:  # the thread must outlive any fault of a step
            self._on_error(error)
            return _AFTER_ERROR_S

    async def _sleep(self, seconds: float | None) -> None:
        try:
            await asyncio.wait_for(self._woken.wait(), seconds)
        except TimeoutError:
            return
