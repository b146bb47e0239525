"""A large file up and down through `api`, against a real sandbox in a process of its own.

`python -m benchmarks.transfer URL PATH` uploads a file and downloads it again, and prints for each
the seconds and the growth of anonymous memory in bytes. Files over HTTP on one machine: what is
measured is that neither way holds the file, and that the service's network is what takes time.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batch_magic.api import Api
from benchmarks.memory import growth
from benchmarks.texts import result_lines


@contextmanager
def sandbox(home: Path) -> Iterator[str]:
    """A sandbox that answers with its stub; its URL."""
    command = [sys.executable, "-m", "batch_magic.sandbox", "--port", "0"]
    command += ["--home", str(home), "--answerer", "stub"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            card = home / "server.json"
            while not card.exists():
                time.sleep(0.05)
            yield json.loads(card.read_text())["url"]
        finally:
            server.terminate()


def large_file(path: Path, size_bytes: int) -> None:
    """Write a file of whole lines, no larger than `size_bytes`."""
    block = b"".join(line for _, line in result_lines(1000))
    with path.open("wb") as file:
        for _ in range(size_bytes // len(block)):
            file.write(block)


def measure(url: str, path: Path) -> None:
    """Upload, download, compare sizes, and print what it took."""
    back = path.with_name("back.jsonl")
    file_id = [""]

    async def up(source: Path) -> None:
        api = Api(url, "any")
        file_id[0] = await api.upload(source, "benchmark.jsonl")
        await api.close()

    async def down() -> None:
        api = Api(url, "any")
        await api.download(file_id[0], back)
        await api.close()

    small = path.with_name("small.jsonl")
    small.write_bytes(path.open("rb").read(1 << 20))
    asyncio.run(up(small))  # what is loaded once is no cost of a file
    asyncio.run(down())
    for work in (lambda: asyncio.run(up(path)), lambda: asyncio.run(down())):
        start = time.perf_counter()
        grown = growth(work)
        print(time.perf_counter() - start, grown)
    assert back.stat().st_size == path.stat().st_size


if __name__ == "__main__":
    measure(sys.argv[1], Path(sys.argv[2]))
