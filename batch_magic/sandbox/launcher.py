"""Finding the service of a home, or starting one that outlives this process.

Knows how to ask a server whether it is the one its home speaks of. Imports only the standard
library and needs no server library until a server is started. The traps: two processes may ask
at once, so looking and starting are done under one lock; the started server must not be this
process's child, or its end would need to be waited for.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .home import LOG_FILE, ServerCard, is_held, launching, open_home, read_card

DEFAULT_TIME_SCALE = 15.0  # a demo waits about three seconds in all
IDLE_EXIT_S = 1800
_NEEDED = ("starlette", "uvicorn", "python_multipart", "orjson", "msgspec")
_LOG_TAIL_LINES = 5
_SPAWN = 'exec "$@" >>"$0" 2>&1 </dev/null &'


class SandboxError(Exception):
    """The service could not be had; the message says what to do."""


@dataclass(frozen=True)
class Endpoint:
    """A running service."""

    url: str  # base URL for any OpenAI client, ending in /v1
    pid: int
    answerer: str  # stub, model or upstream


def check_installed() -> None:
    """Raise SandboxError when a library that the server needs is not there."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SandboxError(f'the sandbox needs {missing[0]}: pip install "batch_magic[sandbox]"')


def ensure(
    home: Path,
    *,
    time_scale: float | None = None,
    answerer: str = "auto",
    model_file: str | None = None,
    upstream: str | None = None,
    timeout_s: float = 30,
) -> Endpoint:
    """Return the running service of `home`, started if need be. Raises SandboxError.

    A service that already runs is returned as it is, whatever the other arguments say.
    """
    home = Path(home).absolute()
    open_home(home)
    with launching(home):
        found = find(home)
        if found is not None:
            return found
        command = _command(home, time_scale or DEFAULT_TIME_SCALE, answerer, model_file, upstream)
        return _start(home, command, timeout_s)


def find(home: Path) -> Endpoint | None:
    """Return the running service of `home`, or None."""
    card = read_card(home)
    if card is None or not is_held(home):
        return None
    status = _ask_status(card)
    if status is None or status.get("instance") != card.instance:
        return None
    return Endpoint(card.url, card.pid, status["answerer"]["kind"])


def stop(home: Path, timeout_s: float = 20) -> bool:
    """End the service of `home`; False when none runs. Raises SandboxError."""
    home = Path(home).absolute()
    card = read_card(home)
    if card is None or not is_held(home):
        return False
    status = _ask_status(card)
    if status is not None and status.get("instance") != card.instance:
        raise SandboxError(f"the server at {card.url} is not the one of {home}; end it by hand")
    os.kill(card.pid, signal.SIGTERM)
    ends = time.monotonic() + timeout_s
    while is_held(home):
        if time.monotonic() > ends:
            raise SandboxError(f"the sandbox (pid {card.pid}) does not end; kill it by hand")
        time.sleep(0.02)
    return True


def _command(
    home: Path, time_scale: float, answerer: str, model_file: str | None, upstream: str | None
) -> list[str]:
    check_installed()
    command = [sys.executable, "-P", "-m", "batch_magic.sandbox", "--home", str(home)]
    command += ["--time-scale", str(time_scale), "--answerer", answerer]
    command += ["--idle-exit-s", str(IDLE_EXIT_S)]
    command += ["--model-file", model_file] if model_file else []
    return command + (["--upstream", upstream] if upstream else [])


def _start(home: Path, command: list[str], timeout_s: float) -> Endpoint:
    log = home / LOG_FILE
    log.touch(mode=0o600)
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    # The shell goes at once, and the server belongs to no one who would have to reap it.
    subprocess.run(
        ["/bin/sh", "-c", _SPAWN, str(log), *command],
        check=True,
        start_new_session=True,
        cwd=home,
        env=environment,
    )
    ends = time.monotonic() + timeout_s
    was_held = False
    while time.monotonic() < ends:
        found = find(home)
        if found is not None:
            return found
        is_alive = is_held(home)
        if was_held and not is_alive:
            break
        was_held = was_held or is_alive
        time.sleep(0.03)
    raise SandboxError(f"the sandbox did not start within {timeout_s:g} s: {_log_tail(log)}")


def _ask_status(card: ServerCard) -> dict[str, Any] | None:
    url = f"http://127.0.0.1:{card.port}/sandbox/status"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            status = json.load(answer)
    except (OSError, ValueError, urllib.error.URLError):
        return None
    return status if isinstance(status, dict) else None


def _log_tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()[-_LOG_TAIL_LINES:]
    return " | ".join(line.strip() for line in lines) or f"see {log}"
