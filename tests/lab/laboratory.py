"""A real JupyterLab in a real browser, as a reader has it: open, run, click, look.

Notebook 7 is the same server's other face: a page of its own for each notebook, without Lab's
frame, built of the same parts; a `Face` says in which of the two a notebook is opened.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar
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


T = TypeVar("T")


@dataclass(frozen=True)
class Server:
    """A running JupyterLab: its files, its address and the word that opens it."""

    root: Path
    url: str
    token: str


class Face(StrEnum):
    """Where a notebook is opened: the path before its own."""

    LAB = "doc/tree"
    NOTEBOOK = "notebooks"  # Notebook 7


class MissingChromiumError(Exception):
    """The browser tests were asked for where there is no browser."""


# ── the server ────────────────────────────────────────────────────────────────────────────────


@contextmanager
def serving(home: Path, python_path: Sequence[Path]) -> Iterator[Server]:
    """Run JupyterLab on a free port with a home and an environment of its own."""
    root, token = home / "notebooks", secrets.token_hex(16)
    root.mkdir()
    environment = _environment(home, python_path)
    _configure(home)
    arguments = [
        *("--allow-root", "--no-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"),
        *(f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"),
        *("--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"),
        "--JupyterNotebookApp.expose_app_in_browser=True",
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


def _environment(home: Path, python_path: Sequence[Path]) -> dict[str, str]:
    """Nothing of the caller's but the interpreter: no keys, no proxies, no settings."""
    folders = {"HOME": home, "JUPYTER_CONFIG_DIR": home / "config", "IPYTHONDIR": home / "ipython"}
    runtime = {"JUPYTER_DATA_DIR": home / "data", "JUPYTER_RUNTIME_DIR": home / "runtime"}
    path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    words = {
        "PATH": path,
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(map(str, python_path)),
        "NO_PROXY": "*",
    }
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


def until(look: Callable[[], T | None], what: str, *, timeout_s: float = WAIT_S) -> T:
    """What `look` sees as soon as it sees something; looks again every 50 ms."""
    end = time.monotonic() + timeout_s
    while not (seen := look()):
        if time.monotonic() > end:
            raise TimeoutError(f"after {timeout_s:g} s still not: {what}")
        time.sleep(0.05)
    return seen


# ── the browser ───────────────────────────────────────────────────────────────────────────────


@contextmanager
def browsing() -> Iterator[Browser]:
    """Run a headless Chromium that can reach nothing but this machine."""
    if not CHROMIUM.exists():
        raise MissingChromiumError(f"no browser at {CHROMIUM}: install Debian's package `chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


class Lab:
    """One Lab page. Notebooks are opened in it one after the other, each with its own kernel."""

    def __init__(self, server: Server, browser: Browser, artefacts: Path) -> None:
        self.server = server
        self.artefacts = artefacts
        self.strayed: list[str] = []  # addresses outside this machine that the page asked for
        self.errors: list[str] = []  # exceptions thrown in the page
        self.closed: set[str] = set()  # paths of notebooks without a kernel, perhaps on the page
        self._context = self._open_context(browser)
        self.page: Page = self._context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self._shade = "light"
        self.width(1400)

    def open(
        self, *cells: str, name: str = "", is_alone: bool = False, face: Face = Face.LAB
    ) -> Notebook:
        """Write a notebook of code cells, open it, and wait until its kernel is there."""
        return self.open_json(_notebook(cells), name=name, is_alone=is_alone, face=face)

    def open_json(
        self,
        content: Mapping[str, Any],
        *,
        name: str = "",
        is_alone: bool = False,
        face: Face = Face.LAB,
    ) -> Notebook:
        """Write a notebook as given, outputs and all, open it and wait for its kernel.

        Lab trusts only what it has signed itself: outputs written here are sanitized by it. With
        `is_alone` its page is a new one, without other notebooks, their title and their styles;
        so it is always in Notebook 7.
        """
        path = f"{name or secrets.token_hex(4)}.ipynb"
        (self.server.root / path).write_text(json.dumps(content))
        notebook = Notebook(self, path, face)
        is_lab = self.evaluate("() => window.jupyterapp?.name") == "JupyterLab"
        if is_lab and face is Face.LAB and not is_alone:
            notebook.add()
        else:
            notebook.load()
        return notebook

    def width(self, pixels: int, height: int = 1000) -> None:
        self.page.set_viewport_size({"width": pixels, "height": height})

    def theme(self, shade: str) -> None:
        """Turn the page `light` or `dark`, now and for the notebooks to come."""
        self._shade = shade
        if self.evaluate("() => 'jupyterapp' in window"):
            self._paint()

    def command(self, name: str, **arguments: object) -> None:
        """Run one of Lab's commands and wait for its end, as a menu or a key would."""
        self.start(name, **arguments)
        self.wait_command()

    def start(self, name: str, **arguments: object) -> None:
        """Start one of Lab's commands; returns at once."""
        self.page.evaluate(START, {"name": name, "args": arguments})

    def wait_command(self) -> None:
        """Wait for the end of the command started last; a dialog that holds it up is told."""

        def ended() -> str | None:
            # Lab's own autosave may come between a save and its end; a person says Overwrite.
            changed = self.page.locator(".jp-Dialog", has_text="File Changed")
            if changed.count():
                changed.get_by_text("Overwrite", exact=True).first.click()
            return self.page.evaluate("() => window.commandEnded") or None

        try:
            how = until(ended, "the command has ended")
        except TimeoutError as error:
            dialogs = self.page.locator(".jp-Dialog").all_inner_texts()
            raise AssertionError(f"{error}; dialogs on the page: {dialogs}") from None
        assert how == "well", how

    def until(self, look: Callable[[], T | None], what: str, *, timeout_s: float = WAIT_S) -> T:
        """What `look` sees as soon as it sees something; looks again and again."""
        return until(look, what, timeout_s=timeout_s)

    def evaluate(self, script: str, argument: object = None) -> Any:
        """Run JavaScript in the page: the last resort."""
        return self.page.evaluate(script, argument)

    def close(self) -> None:
        self._context.close()

    def _open_context(self, browser: Browser) -> BrowserContext:
        context = browser.new_context(reduced_motion="reduce", locale="en-GB", timezone_id="UTC")
        context.set_default_timeout(WAIT_S * 1000)
        context.on("request", lambda request: self._watch(request.url))
        return context

    def ready(self) -> None:
        """Bring a page that has just been loaded to the theme asked for."""
        self.page.wait_for_function("() => 'jupyterapp' in window")
        self._paint()

    def _paint(self) -> None:
        self.command("apputils:change-theme", theme=f"JupyterLab {self._shade.title()}")
        bright = "true" if self._shade == "light" else "false"
        self.page.wait_for_selector(f'body[data-jp-theme-light="{bright}"]', state="attached")

    def _watch(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in LOOPBACK:
            self.strayed.append(url)


@dataclass
class Notebook:
    """A notebook open in Lab, or in Notebook 7. Cells are counted from 0."""

    lab: Lab
    path: str
    face: Face = Face.LAB
    _page: Page = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._page = self.lab.page

    # ── running ──

    def run_all(self) -> None:
        """Start all cells, as Run All does; returns at once."""
        self.lab.start("notebook:run-all-cells")

    def run(self, cell: int) -> None:
        """Start one cell; returns at once."""
        self._page.evaluate(f"n => {{ {CURRENT}.content.activeCellIndex = n }}", cell)
        self.lab.start("notebook:run-cell")

    def interrupt(self) -> None:
        self.lab.command("notebook:interrupt-kernel")

    def restart_kernel(self) -> None:
        """Restart the kernel as its button does, and wait until it is there again."""
        self.lab.start("notebook:restart-kernel")
        self._page.click(".jp-Dialog .jp-mod-accept")
        self.lab.wait_command()
        self._wait_for_kernel()

    def wait_idle(self, *, timeout_s: float = WAIT_S) -> None:
        """Wait until every cell that was started has ended."""
        self._page.wait_for_function(IDLE, timeout=timeout_s * 1000)

    # ── looking ──

    def cell(self, cell: int) -> Locator:
        return self._page.locator(f"{PANEL} .jp-Notebook .jp-Cell").nth(cell)

    def output(self, cell: int) -> Locator:
        return self.cell(cell).locator(".jp-Cell-outputArea")

    def text(self, cell: int) -> str:
        """What a reader sees below the cell: text that is hidden is not in it."""
        area = self.output(cell)
        return area.inner_text() if area.count() else ""

    def wait_for(self, text: str, cell: int, *, timeout_s: float = WAIT_S) -> None:
        """Wait until a reader sees this text below the cell."""
        self._await(lambda: text in self.text(cell), cell, f"shows {text!r}", timeout_s)

    def wait_gone(self, text: str, cell: int, *, timeout_s: float = WAIT_S) -> None:
        """Wait until a reader no longer sees this text below the cell."""
        self._await(lambda: text not in self.text(cell), cell, f"hides {text!r}", timeout_s)

    def shoot(self, name: str) -> Path:
        """Take a picture of the whole notebook into the folder of artefacts."""
        old = self._page.viewport_size
        assert old is not None
        tall = self._page.evaluate(f"{CURRENT}.content.node.scrollHeight") + 140
        inner = self._page.evaluate(HEIGHT)
        self.lab.width(old["width"], max(old["height"], tall, inner))
        path = self.lab.artefacts / f"{name}.png"
        self._page.locator(f"{PANEL} .jp-Notebook").screenshot(path=path)
        self.lab.width(old["width"], old["height"])
        return path

    # ── touching ──

    def click(self, text: str, cell: int) -> None:
        """Click the button that says this below the cell."""
        self.output(cell).get_by_role("button", name=text, exact=True).click()

    def save(self) -> dict[str, Any]:
        """Save the file as Ctrl-S does and return what is in it."""
        self.lab.command("docmanager:save")
        return self.saved()

    def saved(self) -> dict[str, Any]:
        """What is in the file now."""
        content: dict[str, Any] = json.loads((self.lab.server.root / self.path).read_text())
        return content

    def load(self) -> None:
        """Load the page afresh, as the browser's reload does; a live kernel is found again."""
        server = self.lab.server
        self._page.goto(f"{server.url}{self.face}/{self.path}?token={server.token}")
        self._page.wait_for_selector(f"{PANEL} .jp-Notebook .jp-Cell")
        self.lab.ready()
        self._wait_for_kernel()

    reload = load

    def add(self) -> None:
        """Open it in the page that is there, as a click in the file browser does.

        A page that is loaded afresh takes the time of three notebooks. Those that were closed
        leave it, but for the last: a page without a notebook has no place to put one.
        """
        lab = self.lab
        lab.command("docmanager:open", path=self.path)
        self._page.wait_for_function(f"path => {CURRENT}?.context?.path === path", arg=self.path)
        self._page.wait_for_selector(f"{PANEL} .jp-Notebook .jp-Cell")
        self._wait_for_kernel()
        lab.evaluate(DISPOSE, sorted(lab.closed))
        lab.closed.clear()

    def reopen_elsewhere(self) -> Notebook:
        """Open what is saved as somebody else's file: untrusted, with a kernel of its own."""
        content = self.saved()
        content["cells"] += _notebook(["# sent by a colleague"])["cells"]
        return self.lab.open_json(content, is_alone=True)

    def close(self) -> None:
        """Shut the kernel down, whether the notebook is on the page or not."""
        server, ask = self.lab.server, self._page.request
        headers = {"Authorization": f"token {server.token}"}
        for session in ask.get(f"{server.url}api/sessions", headers=headers).json():
            if session["path"] == self.path:
                ask.delete(f"{server.url}api/sessions/{session['id']}", headers=headers)
        self.lab.closed.add(self.path)

    # ── inside ──

    def _wait_for_kernel(self) -> None:
        self._page.wait_for_function(KERNEL)

    def _await(self, seen: Callable[[], bool], cell: int, what: str, timeout_s: float) -> None:
        try:
            until(seen, what, timeout_s=timeout_s)
        except TimeoutError as error:
            raise AssertionError(f"{error}; cell {cell} shows:\n{self.text(cell)}") from None


PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"
START = """({name, args}) => {
  window.commandEnded = null;
  jupyterapp.commands.execute(name, args).then(
    () => { window.commandEnded = 'well' },
    (reason) => { window.commandEnded = `badly: ${reason}` });
}"""
CURRENT = "jupyterapp.shell.currentWidget"
KERNEL = f"""() => {{
  const context = window.jupyterapp && {CURRENT} && {CURRENT}.sessionContext;
  return context && context.isReady && context.session && context.session.kernel.status === 'idle';
}}"""
DISPOSE = """(paths) => [...jupyterapp.shell.widgets('main')].forEach(
  widget => { if (paths.includes(widget.context?.path)) widget.dispose() })"""
IDLE = f"""() => {CURRENT}.sessionContext.session.kernel.status === 'idle' &&
  {CURRENT}.content.widgets.every(c => c.model.executionState !== 'running')"""
HEIGHT = """() => Math.max(...Array.from(
  document.querySelectorAll('.jp-WindowedPanel-outer'), e => e.scrollHeight), 0) + 140"""


def _notebook(cells: Sequence[str]) -> dict[str, Any]:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {
        "cells": [_cell(source) for source in cells],
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(source: str) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "id": secrets.token_hex(4),
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": source,
    }
