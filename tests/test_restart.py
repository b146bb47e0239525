"""Real processes killed at any moment: the frame is whole, and nothing was paid twice."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import restart_work
from jupyter_client.manager import KernelManager
from restart_work import FAST, ROWS, SHARDS, reviews
from service import Service, serving, stub_answer

import batch_magic as bm
from batch_magic.errors import ServiceError
from batch_magic.session import close_sessions

PATIENCE_S = 60.0
# Children are forked from a process that has imported everything: a kill is then a matter of
# moments, not of import times.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["restart_work", "batch_magic.session", "openai", "pyarrow"])


@pytest.fixture(scope="module")
def slow_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that takes about a second for a job, so that there is something to interrupt."""
    with serving(tmp_path_factory.mktemp("service"), time_scale=40) as service:
        yield service


@dataclass(frozen=True)
class Scene:
    """One home, one cell, and the service's truth since the test began."""

    home: Path
    service: Service
    mark: str
    known: frozenset[str]
    calls: dict[str, int]

    def start(self, work: Callable[..., None]) -> Any:
        arguments = (self.home, self.service.url, self.mark)
        process = _processes.Process(target=work, args=arguments, daemon=True)
        process.start()
        return process

    def finish(self, work: Callable[..., None]) -> None:
        """Let a process end in peace, and compare what it has with an undisturbed world."""
        process = self.start(work)
        process.join(PATIENCE_S)
        assert process.exitcode == 0
        self.check()

    def jobs(self) -> list[dict[str, Any]]:
        return [one for one in self.service.batches() if one["id"] not in self.known]

    def calls_of(self, route: str) -> int:
        return self.service.calls()[route] - self.calls.get(route, 0)

    def check(self) -> None:
        frame = pd.read_pickle(self.home / "labelled.pickle")
        asked = reviews(self.mark)
        pd.testing.assert_frame_equal(frame[["text", "stars"]], asked)
        assert frame["gpt_status"].astype(str).tolist() == ["ok"] * ROWS
        assert frame["answer"].tolist() == [stub_answer(text) for text in asked["text"]]
        assert len(self.jobs()) == SHARDS
        assert len({job["input_file_id"] for job in self.jobs()}) == SHARDS
        assert sum(job["rows_paid"] for job in self.jobs()) == ROWS


@pytest.fixture
def scene(slow_service: Service, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    slow_service.clear_faults()
    known = frozenset(one["id"] for one in slow_service.batches())
    yield Scene(tmp_path, slow_service, request.node.name, known, dict(slow_service.calls()))
    slow_service.clear_faults()


def wait_for(is_so: Callable[[], object]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.01)


def kill(process: Any) -> None:
    process.kill()
    process.join()


@pytest.mark.parametrize("seed", range(16))
def test_a_process_killed_at_any_moment_loses_and_repeats_nothing(scene: Scene, seed: int) -> None:
    """Killed up to three times after random moments, then the same cell or attach."""
    dice = random.Random(seed)
    kinds = (restart_work.submit, restart_work.attach)
    for _ in range(dice.choice([1, 1, 2, 3])):
        process = scene.start(dice.choice(kinds))
        time.sleep(dice.uniform(0.0, 1.6))
        kill(process)
    scene.finish(kinds[seed % 2])


@pytest.mark.parametrize("work", [restart_work.submit, restart_work.attach])
def test_killed_between_create_and_receipt(scene: Scene, work: Callable[..., None]) -> None:
    """The service has the job, its answer is on the way, and the process is gone."""
    scene.service.faults(
        http_delay={"route": "batches.create", "times": 3, "delay_s": 5, "after_commit": True}
    )
    process = scene.start(restart_work.submit)
    wait_for(lambda: len(scene.jobs()) >= 1)
    kill(process)
    scene.finish(work)


def test_killed_while_the_create_is_on_its_way(scene: Scene) -> None:
    """Nobody knows whether the service will make the job: in the end there is one."""
    scene.service.faults(http_delay={"route": "batches.create", "times": 3, "delay_s": 0.75})
    process = scene.start(restart_work.submit)
    wait_for(lambda: scene.calls_of("batches.create"))
    kill(process)
    scene.finish(restart_work.submit)


def test_killed_before_the_create_arrived(scene: Scene) -> None:
    """The intent is on disk, the service never heard of it: it is created, once."""
    scene.service.faults(http_drop={"route": "batches.create", "times": 3})
    process = scene.start(restart_work.submit)
    wait_for(lambda: scene.calls_of("batches.create") >= 3)
    kill(process)
    scene.finish(restart_work.attach)


def test_killed_between_upload_and_receipt(scene: Scene) -> None:
    """A file whose id was not written down is found by its name."""
    delay = {"route": "files.create", "times": 3, "delay_s": 5, "after_commit": True}
    scene.service.faults(http_delay=delay)
    process = scene.start(restart_work.submit)
    wait_for(lambda: scene.calls_of("files.create") >= 3)
    time.sleep(0.2)
    kill(process)
    scene.finish(restart_work.submit)
    assert scene.calls_of("files.create") == 3


def test_killed_while_results_come_down(scene: Scene) -> None:
    """Half a download is no result; it is fetched again, at no cost."""
    delay = {"route": "files.content", "times": 2, "delay_s": 5}
    scene.service.faults(http_delay=delay)
    process = scene.start(restart_work.submit)
    wait_for(lambda: scene.calls_of("files.content"))
    kill(process)
    scene.finish(restart_work.attach)


def test_two_processes_that_run_the_same_cell_at_once_pay_once(scene: Scene) -> None:
    """A double click, or two notebooks on one folder."""
    both = [scene.start(restart_work.submit) for _ in range(2)]
    for process in both:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    scene.check()


def test_the_service_killed_and_back_is_waited_for(tmp_path: Path) -> None:
    """A sandbox that dies between two polls is found where it was, with its jobs."""
    with serving(tmp_path / "service", time_scale=20) as first:
        scene = Scene(tmp_path, first, "service-killed", frozenset(), {})
        process = scene.start(restart_work.submit)
        wait_for(lambda: len(scene.jobs()) == SHARDS)
    with serving(tmp_path / "service", time_scale=40) as second:
        assert second.url == first.url
        process.join(PATIENCE_S)
        assert process.exitcode == 0
        Scene(tmp_path, second, "service-killed", frozenset(), {}).check()


def test_a_key_mended_in_the_same_process_is_used(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says to set the key and run the cell again: that has to work."""
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    asked, home = reviews("mended-key"), str(tmp_path / "home")

    def cell() -> pd.DataFrame:
        run = bm.submit(asked, "{{ text }}", out="labelled", model="m", on=service.url, home=home)
        return run.wait(timeout_s=PATIENCE_S)

    monkeypatch.setenv("OPENAI_API_KEY", "sk-refused-1")
    with pytest.raises(ServiceError, match="OPENAI_API_KEY"):
        cell()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-right-1")
    assert cell()["gpt_status"].astype(str).tolist() == ["ok"] * ROWS
    close_sessions()


# -- kernels --------------------------------------------------------------------------------

CELL = """%%gptbatch reviews -o labelled -m m --on {url} --no-wait
{{{{ text }}}}
"""
SET_UP = """
import os, sys
os.environ.update({fast!r})
os.environ["BATCH_MAGIC_HOME"] = {home!r}
sys.path[:0] = {path!r}
import pandas as pd
from restart_work import reviews
reviews = reviews({mark!r})
%load_ext batch_magic
"""
TAKE = """
frame = _run.wait(timeout_s=60)
frame.attrs = {{}}
frame.to_pickle({out!r})
"""


class Kernel:
    """A real ipykernel over the messaging protocol."""

    def __init__(self, scene: Scene) -> None:
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(cwd=str(scene.home))
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=PATIENCE_S)
        here = str(Path(__file__).parent)
        self.run(
            SET_UP.format(
                fast=FAST,
                home=str(scene.home / "home"),
                path=[here, str(Path(here).parent)],
                mark=scene.mark,
            )
        )

    def run(self, code: str) -> None:
        reply = self._client.execute_interactive(
            code, timeout=PATIENCE_S, output_hook=lambda _: None, allow_stdin=False
        )
        content = reply["content"]
        assert content["status"] == "ok", json.dumps(content.get("traceback"), indent=1)

    def kill(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("way", ["attach", "cell"])
@pytest.mark.parametrize("delay_s", [0.0, 0.7])
def test_a_killed_kernel_goes_on_in_the_next(scene: Scene, way: str, delay_s: float) -> None:
    """`attach`, or the same cell again, in a fresh kernel."""
    first = Kernel(scene)
    first.run(CELL.format(url=scene.service.url))
    time.sleep(delay_s)
    first.kill()
    second = Kernel(scene)
    try:
        if way == "cell":
            second.run(CELL.format(url=scene.service.url))
        second.run("import batch_magic\n_run = batch_magic.attach('labelled')")
        second.run(TAKE.format(out=str(scene.home / "labelled.pickle")))
    finally:
        second.kill()
    scene.check()
