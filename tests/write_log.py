"""The write log of a process: what it asked the disk for, and what a power loss leaves of it.

`record` runs a command under strace and reads back every call that changes a file below a folder,
and what was sent to a service between them. `images` replays that log: after each call that makes
something durable it yields what the disk may hold if the power goes then. Only what was fsynced is
sure to be there: a file's bytes by an fsync of the file, its name by an fsync of its folder.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_CALLS = (
    "openat,write,pwrite64,lseek,ftruncate,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,"
    "unlink,unlinkat,sendto"
)
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FD = re.compile(r"^(\d+)<([^>]*)>")


@dataclass(frozen=True)
class Call:
    """One system call that came off: its name, its words as strace wrote them, its result."""

    name: str
    words: str
    result: int

    @property
    def fd(self) -> tuple[int, str]:
        """The file descriptor that it is about, and that file's path."""
        found = _FD.match(self.words)
        assert found is not None, self.words
        return int(found[1]), _unescaped(found[2])

    @property
    def texts(self) -> list[bytes]:
        return [bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(self.words)]

    @property
    def last_number(self) -> int:
        return int(self.words.rpartition(",")[2])


def _unescaped(path: str) -> str:
    return re.sub(r"\\x([0-9a-f]{2})", lambda hit: chr(int(hit[1], 16)), path)


def record(command: list[str], log: Path, **options: object) -> list[Call]:
    """Run a command to its end and return its calls, in the order in which they came off."""
    strace = ["strace", "-f", "-qq", "-y", "-xx", "-s", "10000000", "-o", str(log)]
    subprocess.run([*strace, "-e", f"trace={_CALLS}", *command], check=True, **options)  # type: ignore[call-overload]
    begun: dict[str, str] = {}
    calls = []
    for line in log.read_text().splitlines():
        if found := _UNFINISHED.match(line):
            begun[found[1]] = f"{found[1]} {found[2]}({found[3]}"
            continue
        if found := _RESUMED.match(line):
            line = begun.pop(found[1], "") + found[3]
        if (found := _LINE.match(line)) and int(found[4]) >= 0:
            calls.append(Call(found[2], found[3], int(found[4])))
    return calls


@dataclass
class Image:
    """What the disk may hold after a power loss: folders, files, and what had been sent by then."""

    sent: list[bytes]
    folders: frozenset[str]
    files: dict[str, bytes]

    def write(self, old: Path, new: Path) -> None:
        """Lay the image out below `new`, as it was below `old`."""
        new.mkdir(parents=True)
        for name in sorted(self.folders):
            (new / Path(name).relative_to(old)).mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            path = new / Path(name).relative_to(old)
            if path.parent.is_dir():
                path.write_bytes(data)


@dataclass
class _File:
    now: bytearray = field(default_factory=bytearray)
    safe: bytes = b""


class _Disk:
    """Names and bytes, as they are and as far as they are safe."""

    def __init__(self, folder: Path) -> None:
        self._root = str(folder)
        self._files: dict[str, _File] = {}
        self._safe_files: dict[str, _File] = {}
        self._folders: set[str] = set()
        self._safe_folders: set[str] = set()
        self._offsets: dict[int, int] = {}
        self.sent: list[bytes] = []

    def is_ours(self, path: str) -> bool:
        return path == self._root or path.startswith(f"{self._root}/")

    def image(self, *, names_are_safe: bool) -> Image:
        """Without fsync a name may be there or not, where bytes never are."""
        files = self._files if names_are_safe else self._safe_files
        folders = self._folders if names_are_safe else self._safe_folders
        safe = {name: one.safe for name, one in files.items()}
        return Image(list(self.sent), frozenset(folders), safe)

    def do(self, call: Call) -> bool:
        """Carry a call out; tell whether a power loss after it may leave something else."""
        act = getattr(self, f"_{call.name}", None)
        return bool(act(call)) if act else False

    def _openat(self, call: Call) -> bool:
        path = call.texts[0].decode()
        self._offsets[call.result] = 0
        if not self.is_ours(path) or "O_DIRECTORY" in call.words:
            return False
        if "O_CREAT" in call.words and path not in self._files:
            self._files[path] = _File()
        if "O_TRUNC" in call.words:
            self._files[path].now.clear()
        return False

    def _write(self, call: Call) -> bool:
        fd, path = call.fd
        if path.startswith(("socket:", "TCP")):
            return self._sendto(call)
        at = self._offsets.get(fd, 0)
        self._offsets[fd] = at + call.result
        self._put(path, at, call.texts[0][: call.result])
        return False

    def _pwrite64(self, call: Call) -> bool:
        self._put(call.fd[1], call.last_number, call.texts[0][: call.result])
        return False

    def _put(self, path: str, at: int, data: bytes) -> None:
        if path in self._files:
            now = self._files[path].now
            now.extend(bytes(max(0, at - len(now))))
            now[at : at + len(data)] = data

    def _lseek(self, call: Call) -> bool:
        self._offsets[call.fd[0]] = call.result
        return False

    def _ftruncate(self, call: Call) -> bool:
        path = call.fd[1]
        if path in self._files:
            del self._files[path].now[call.last_number :]
        return False

    def _fsync(self, call: Call) -> bool:
        path = call.fd[1]
        if path in self._files:
            self._files[path].safe = bytes(self._files[path].now)
        elif self.is_ours(path) or path == str(Path(self._root).parent):
            for live, safe in (
                (self._files, self._safe_files),
                (self._folders, self._safe_folders),
            ):
                self._sync_names(path, live, safe)
        return self.is_ours(path)

    _fdatasync = _fsync

    @staticmethod
    def _sync_names(path: str, live: dict[str, _File] | set[str], safe: object) -> None:
        mine = {name for name in live if str(Path(name).parent) == path}
        if isinstance(safe, dict) and isinstance(live, dict):
            for name in [one for one in safe if str(Path(one).parent) == path]:
                del safe[name]
            safe.update({name: live[name] for name in mine})
        elif isinstance(safe, set):
            safe.difference_update([one for one in safe if str(Path(one).parent) == path])
            safe.update(mine)

    def _rename(self, call: Call) -> bool:
        old, new = (text.decode() for text in call.texts[:2])
        if old in self._files:
            self._files[new] = self._files.pop(old)
        return self.is_ours(new)

    _renameat = _renameat2 = _rename

    def _mkdir(self, call: Call) -> bool:
        path = call.texts[0].decode()
        if self.is_ours(path):
            self._folders.add(path)
        return False

    _mkdirat = _mkdir

    def _unlink(self, call: Call) -> bool:
        self._files.pop(call.texts[0].decode(), None)
        return False

    _unlinkat = _unlink

    def _sendto(self, call: Call) -> bool:
        self.sent += call.texts[:1]
        return False


def images(calls: list[Call], folder: Path) -> Iterator[Image]:
    """Yield what the disk may hold below `folder` after each prefix of the log."""
    disk = _Disk(folder)
    for call in calls:
        if disk.do(call):
            yield disk.image(names_are_safe=False)
            yield disk.image(names_are_safe=True)
