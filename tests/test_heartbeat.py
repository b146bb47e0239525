"""One thread, one loop: it beats, sleeps, wakes, outlives errors and ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from batch_magic.heartbeat import Heartbeat


def wait_for(is_so: Callable[[], object]) -> None:
    ends = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_it_beats_in_a_thread_of_its_own_until_it_is_stopped() -> None:
    """The thread is a daemon: it never keeps a process alive."""
    beats: list[threading.Thread] = []

    async def beat() -> float:
        beats.append(threading.current_thread())
        return 0.001

    heart = Heartbeat(beat, on_error=lambda error: None)
    heart.start()
    wait_for(lambda: len(beats) > 3)
    heart.stop()
    assert not heart.is_alive
    assert {thread.name for thread in beats} == {"batch_magic"}
    assert beats[0].daemon


def test_it_sleeps_for_good_until_it_is_woken() -> None:
    """None means that there is nothing to do; a wake-up is heard at once."""
    beats: list[float] = []

    async def beat() -> None:
        beats.append(time.monotonic())

    heart = Heartbeat(beat, on_error=lambda error: None)
    heart.start()
    wait_for(lambda: beats)
    heart.wake()
    wait_for(lambda: len(beats) == 2)
    heart.stop()
    heart.wake()
    assert len(beats) == 2


def test_an_error_is_handed_on_and_the_beat_goes_on() -> None:
    """No fault of a step ends the thread."""
    errors: list[BaseException] = []

    async def beat() -> None:
        raise ValueError("stumbled")

    heart = Heartbeat(beat, on_error=errors.append)
    heart.start()
    wait_for(lambda: errors)
    heart.wake()
    wait_for(lambda: len(errors) == 2)
    heart.stop()
    assert str(errors[0]) == "stumbled"


def test_at_the_end_the_last_word_is_had_and_waiting_work_is_cancelled() -> None:
    """What was submitted does not hang for ever, and its waiter is told."""
    said: list[str] = []

    async def beat() -> None:
        return None

    async def at_stop() -> None:
        said.append("stopped")

    heart = Heartbeat(beat, on_error=lambda error: None, at_stop=at_stop)
    heart.start()
    waiting = heart.submit(asyncio.sleep(3600))
    done = heart.submit(asyncio.sleep(0, "done"))
    assert done.result(5) == "done"
    heart.stop()
    assert said == ["stopped"]
    wait_for(waiting.done)
    assert waiting.cancelled()


def test_a_last_word_that_fails_is_handed_on_too() -> None:
    """A full disk at the end is an error like any other."""
    errors: list[BaseException] = []

    async def beat() -> None:
        return None

    async def at_stop() -> None:
        raise OSError("full")

    heart = Heartbeat(beat, on_error=errors.append, at_stop=at_stop)
    heart.start()
    heart.stop()
    assert [str(error) for error in errors] == ["full"]
    assert not heart.is_alive
