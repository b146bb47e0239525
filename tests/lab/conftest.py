"""Fixtures of the browser tests: one JupyterLab, one Chromium and one page for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from laboratory import Lab, MissingChromiumError, Server, browsing, serving
from playwright.sync_api import Browser

from batch_magic.sandbox import launcher

PROJECT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A JupyterLab with a home of its own and the interpreter that runs the tests."""
    with serving(tmp_path_factory.mktemp("lab"), [PROJECT, PROJECT / "tests"]) as server:
        yield server
        for card in server.root.rglob("server.json"):  # kernels end, the services they began do not
            launcher.stop(card.parent)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium; where there is none the tests fail, for nothing else has seen them."""
    try:
        with browsing() as browser:
            yield browser
    except MissingChromiumError as missing:
        pytest.fail(str(missing))


@pytest.fixture(scope="session")
def laboratory(server: Server, browser: Browser) -> Iterator[Lab]:
    """The page of the whole session; tests take `lab`."""
    artefacts = PROJECT / "artefacts"
    artefacts.mkdir(exist_ok=True)
    lab = Lab(server, browser, artefacts)
    yield lab
    lab.close()


@pytest.fixture
def lab(laboratory: Lab) -> Iterator[Lab]:
    """Lab, light and wide; afterwards nothing may have strayed from this machine."""
    laboratory.width(1400)
    laboratory.theme("light")
    laboratory.strayed.clear()
    laboratory.errors.clear()
    yield laboratory
    assert laboratory.strayed == [], "the page asked for something outside this machine"
