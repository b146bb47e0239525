"""A real JupyterLab in a real browser, as a reader has it: open, run, click, look.

It knows the server, Chromium and the names of Lab's own commands and CSS classes; it refuses to
know anything of the package under test. Nothing here reaches beyond this machine: the browser
resolves no other name, and whatever a page asks for elsewhere stands in `Lab.strayed`.

The trap is Lab's page itself: it renders late, redraws freely and keeps no promise about timing.
So nothing here sleeps for a while and hopes; everything waits for something to be seen.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Locator, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]
LOOPBACK = {"127.0.0.1", "localhost"}
WAIT_S = 30.0

SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {
        "checkForUpdates": False,
        "doNotDisturbMode": True,
        "fetchNews": "false",
    },
    "@jupyterlab/docmanager-extension:plugin": {"autosaveInterval": 2},
    # All cells are in the page at once, so that a picture shows the whole notebook.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}


@dataclass(frozen=True)
class Server:
    """A running JupyterLab: its files, its address and the word that opens it."""

    root: Path
    url: str
    token: str


class MissingChromium(Exception):
    """The browser tests were asked for where there is no browser."""


# ── the server ────────────────────────────────────────────────────────────────────────────────


@contextmanager
def serving(home: Path, python_path: Path) -> Iterator[Server]:
    """Run JupyterLab on a free port with a home and an environment of its own."""
    root, token = home / "notebooks", secrets.token_hex(16)
    root.mkdir()
    environment = _environment(home, python_path)
    _configure(home)
    arguments = [
        *("--allow-root", "--no-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"),
        *(f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"),
        *("--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"),
        *("--LabApp.news_url=", "--LabServerApp.blocked_extensions_uris="),
    ]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *arguments],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        url = _await_address(home, process)
        yield Server(root, url, token)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _environment(home: Path, python_path: Path) -> dict[str, str]:
    """Nothing of the caller's but the interpreter: no keys, no proxies, no settings."""
    folders = {"HOME": home, "JUPYTER_CONFIG_DIR": home / "config", "IPYTHONDIR": home / "ipython"}
    runtime = {"JUPYTER_DATA_DIR": home / "data", "JUPYTER_RUNTIME_DIR": home / "runtime"}
    path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    words = {"PATH": path, "LANG": "C.UTF-8", "PYTHONPATH": str(python_path), "NO_PROXY": "*"}
    return words | {name: str(folder) for name, folder in (folders | runtime).items()}


def _configure(home: Path) -> None:
    folder = home / "config" / "labconfig"
    folder.mkdir(parents=True)
    (folder / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))


def _await_address(home: Path, process: subprocess.Popen[bytes]) -> str:
    """The server's address, which it writes down once it listens."""

    def address() -> str | None:
        if process.poll() is not None:
            raise RuntimeError(f"JupyterLab did not start:\n{(home / 'server.log').read_text()}")
        for note in (home / "runtime").glob("jpserver-*.json"):
            try:
                return str(json.loads(note.read_text())["url"])
            except ValueError:  # half written
                return None
        return None

    return until(address, "JupyterLab listens", timeout_s=90)


def until[T](look: Callable[[], T | None], what: str, *, timeout_s: float = WAIT_S) -> T:
    """What `look` sees as soon as it sees something; looks again every 50 ms."""
    end = time.monotonic() + timeout_s
    while not (seen := look()):
        if time.monotonic() > end:
            raise TimeoutError(f"after {timeout_s:g} s still not: {what}")
        time.sleep(0.05)
    return seen
