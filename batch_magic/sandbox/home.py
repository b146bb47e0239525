"""The folder of one service: who holds it, and where it listens.

Knows the lock and `server.json`. Imports nothing outside the standard library, because the
launcher is loaded by programs that never run the server. The trap: a process id says little (it
may be another program's by now, or a zombie), so "running" means that the lock is held.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

SERVER_FILE = "server.json"
LOG_FILE = "server.log"
_SERVER_LOCK = "server.lock"
_LAUNCH_LOCK = "launch.lock"


@dataclass(frozen=True)
class ServerCard:
    """What a server writes about itself when it listens."""

    pid: int
    port: int
    url: str
    version: str
    started_at: float  # wall Unix seconds
    instance: str
    answerer: str


def open_home(home: Path) -> None:
    """Make the folder, for its owner only."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(home, 0o700)


def read_card(home: Path) -> ServerCard | None:
    """Return what the last server of this home wrote, or None."""
    try:
        return ServerCard(**json.loads((home / SERVER_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_card(home: Path, card: ServerCard) -> None:
    """Write `server.json` in one step."""
    part = home / f"{SERVER_FILE}.part"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as target:
        json.dump(asdict(card), target)
    os.replace(part, home / SERVER_FILE)


def hold_home(home: Path, patience_s: float = 0.5) -> int | None:
    """Take the server's lock for the life of this process; None when another has it."""
    descriptor = _open_lock(home / _SERVER_LOCK)
    ends = time.monotonic() + patience_s  # a launcher that looks holds it for an instant
    while not _try_lock(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > ends:
            os.close(descriptor)
            return None
        time.sleep(0.02)
    return descriptor


def is_held(home: Path) -> bool:
    """Whether a server of this home is alive."""
    descriptor = _open_lock(home / _SERVER_LOCK)
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def launching(home: Path) -> Iterator[None]:
    """Hold the launch lock: one process at a time looks for a server or starts one."""
    descriptor = _open_lock(home / _LAUNCH_LOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
