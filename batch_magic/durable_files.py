"""Bytes on the disk: whole or not at all, private to their user, known by their hash.

It knows how a file survives a power cut (a temporary name, fsync, rename, fsync of the folder) and
how a changed one is told from the one that was written. It refuses to know what is in it. The
trap is the time that a hash takes: a file is hashed once in a process, and again only when its
size or its time of change is another.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from batch_magic.errors import JournalError


class _Seen(NamedTuple):
    """A file as this process last wrote or hashed it."""

    changed_ns: int
    size_bytes: int
    sha256: str | None


_seen: dict[Path, _Seen] = {}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into one line about `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        cure = "choose another home: BATCH_MAGIC_HOME, or free some room"
        raise JournalError(f"cannot use {error.filename or path}: {reason}; {cure}") from error


# -- writing --------------------------------------------------------------------------------


def part_path(path: Path, writer: str = "") -> Path:
    """Return the name of a file while it is written. A process that lost its lease has its own."""
    return path.with_name(f"{path.name}.{writer or os.getpid()}.part")


def create(path: Path) -> io.BufferedRandom:
    """Open a new file for writing and reading, for its user alone. Raises OSError."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    return os.fdopen(handle, "w+b")


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file so that it is there whole or not at all."""
    part = part_path(path)
    with disk_errors(path):
        out = create(part)
        try:
            yield out
        except BaseException:
            finish(out, part, None)
            raise
        finish(out, part, path)


def finish(out: IO[bytes], part: Path, path: Path | None) -> None:
    """Close a file under its temporary name and give it its own, or drop it."""
    with disk_errors(part):
        if path is None:
            out.close()
            part.unlink(missing_ok=True)
            return
        out.flush()
        os.fsync(out.fileno())
        out.close()
        settle(part, path)


def settle(part: Path, path: Path) -> None:
    """Give a file that was fsynced its name, for good."""
    with disk_errors(path):
        part.replace(path)
        _sync_folder(path.parent)
        _seen[path] = _seen_now(path, None)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder for its user alone, for good. Raises JournalError."""
    with disk_errors(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_folder(path.parent)


def append(path: Path) -> IO[bytes]:
    """Open a file to add to its end, for its user alone. Raises OSError."""
    handle = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    _sync_folder(path.parent)
    return os.fdopen(handle, "ab")


# -- reading --------------------------------------------------------------------------------


def is_own(path: Path) -> bool:
    """Tell whether this process wrote or checked a file that has not been touched since."""
    with disk_errors(path):
        return path.exists() and _is_unchanged(path, _seen.get(path))


def sha256_of(path: Path) -> str:
    """Return the hash of a file's bytes, in hexadecimal. Raises JournalError."""
    with disk_errors(path):
        seen = _seen.get(path)
        if seen is not None and seen.sha256 is not None and _is_unchanged(path, seen):
            return seen.sha256
        before = _seen_now(path, None)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        _seen[path] = before._replace(sha256=sha256)
        return sha256


def check(path: Path, sha256: str, cure: str = "put it back") -> None:
    """Raise JournalError for a file that is gone, or is not the one with this hash."""
    if not path.exists():
        raise JournalError(f"{path} is gone; {cure}")
    if sha256_of(path) != sha256:
        raise JournalError(f"{path} was damaged or changed since it was written; {cure}")


def _is_unchanged(path: Path, seen: _Seen | None) -> bool:
    return seen is not None and _seen_now(path, seen.sha256) == seen


def _seen_now(path: Path, sha256: str | None) -> _Seen:
    found = path.stat()
    return _Seen(found.st_mtime_ns, found.st_size, sha256)
