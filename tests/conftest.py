"""Shared fixtures: a service process, homes, lives of an engine; nothing leaves this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import settings
from lives import Clock, Life
from service import Service, serving

from batch_magic import session
from batch_magic.sandbox import launcher

# A busy machine takes its time: no test of ours is about how long one example takes.
settings.register_profile("plain", deadline=None)
settings.register_profile("deep", max_examples=2_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "plain"))

LAB = Path(__file__).parent / "lab"
LONGEST = ("test_campaign", "test_quickstart", "test_project_live", "test_bell_live")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the browser tests last: Playwright leaves an event loop running in this thread.

    Files that take longest come first of each part, so that no worker is left alone with one.
    """
    items.sort(key=lambda item: (LAB in item.path.parents, item.path.stem not in LONGEST))


_LOCAL = ("127.0.0.1", "::1", "localhost", "", None)


def _forbid_the_world(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse every connection and every look-up beyond this machine."""
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
    else:
        return
    if host not in _LOCAL and not str(host).startswith("127."):
        raise RuntimeError(f"a test reached for {host!r}; tests stay on this machine")


sys.addaudithook(_forbid_the_world)


@pytest.fixture(scope="session")
def _service_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture
def service(_service_process: Service) -> Iterator[Service]:
    """A service without faults; one process for all tests of a worker."""
    _service_process.clear_faults()
    yield _service_process
    _service_process.clear_faults()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lives(tmp_path: Path, service: Service, clock: Clock) -> Iterator[Callable[..., Life]]:
    """Begins lives of an engine on one home, one service and one clock."""
    begun: list[Life] = []

    def begin(url: str = service.url, **options: Any) -> Life:
        begun.append(Life(tmp_path / "home", url, clock, **options))
        return begun[-1]

    yield begin
    for life in begun:
        life.end()


@pytest.fixture
def life(lives: Callable[..., Life]) -> Life:
    return lives()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project folder with a home of its own and a quick sandbox."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCH_MAGIC_SANDBOX_ANSWERER", "stub")
    monkeypatch.setenv("BATCH_MAGIC_SANDBOX_TIME_SCALE", "100")
    monkeypatch.setenv("BATCH_MAGIC_POLL_FIRST_S", "0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    yield tmp_path / ".gptbatch"
    session.close_sessions()
    launcher.stop(tmp_path / ".gptbatch" / "sandbox")


@pytest.fixture
def reviews() -> pd.DataFrame:
    """Twelve rows with an index that repeats and is out of order."""
    texts = [f"review {n}: {'good ' * (n % 3)}" for n in range(12)]
    return pd.DataFrame({"text": texts, "stars": range(12)}, index=[5, 3, 3, 1] * 3)
