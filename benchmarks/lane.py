"""The live lane against a server that takes 200 ms for each answer, and a bare loop over the SDK.

`python -m benchmarks.lane SIDE ROWS FOLDER` prints the seconds of one side, as a clock on the wall
and as CPU time of its process, without imports and the tokenizer's tables. The server is a process
of its own, so that its work is nobody's here; it answers as chat completions do and counts nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai

LATENCY_S = 0.2
CONCURRENCY = 64
MODEL = "gpt-5-mini"
SYSTEM = "Say whether the review is good or bad, in one word."

_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_800_000_000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "good", "refusal": None},
            }
        ],
        "usage": {"prompt_tokens": 30, "completion_tokens": 1, "total_tokens": 31},
    },
    indent=2,
).encode()
_REPLY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nx-request-id: req_1\r\n"
    b"x-ratelimit-limit-requests: 30000\r\nx-ratelimit-remaining-requests: 29999\r\n"
    b"x-ratelimit-reset-requests: 2ms\r\n\r\n%b" % (len(_ANSWER), _ANSWER)
)


class _Slow(asyncio.Protocol):
    """Answers each request of a connection after the latency, whatever it asks."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, gap, body = self._data.partition(b"\r\n\r\n")
        if not gap:
            return
        fields = (line.partition(b":") for line in head.lower().split(b"\r\n")[1:])
        size = next((int(value) for name, _, value in fields if name == b"content-length"), 0)
        if len(body) >= size:
            self._data = body[size:]
            asyncio.get_running_loop().call_later(LATENCY_S, self._transport.write, _REPLY)


async def serve() -> None:
    """Serve until killed; the URL is printed first."""
    server = await asyncio.get_running_loop().create_server(_Slow, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


@contextmanager
def slow_server() -> Iterator[str]:
    """Run the server as a process of its own and give its URL."""
    command = [sys.executable, "-m", "benchmarks.lane", "serve"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


async def bare(url: str, rows: int) -> None:
    """Ask every row by the SDK as its users do: a semaphore and `gather`."""
    client = openai.AsyncOpenAI(base_url=url, api_key="none")
    free = asyncio.Semaphore(CONCURRENCY)

    async def ask(n: int) -> str | None:
        async with free:
            answer = await client.chat.completions.create(
                model=MODEL,
                messages=[
                    {"role": "system", "content": SYSTEM},
                    {"role": "user", "content": f"review number {n} of a lamp"},
                ],
            )
            return answer.choices[0].message.content

    answers = await asyncio.gather(*map(ask, range(rows)))
    assert set(answers) == {"good"}


def ours(url: str, rows: int, folder: Path) -> None:
    """Ask every row by the live lane, from the frame to the frame."""
    import pandas as pd

    import batch_magic as bm

    os.environ["BATCH_MAGIC_LIVE_CONCURRENCY"] = str(CONCURRENCY)
    frame = pd.DataFrame({"n": range(rows)})
    template = f"system:\n{SYSTEM}\nuser:\nreview number {{{{ n }}}} of a lamp"
    home = str(folder / "home")
    run = bm.submit(frame, template, model=MODEL, on=url, live=True, home=home)
    assert set(run.wait()["answer"]) == {"good"}


def main(side: str, rows: int, folder: Path) -> None:
    """Print the wall and the CPU seconds of one side; what is loaded once is no row's."""
    import batch_magic.session  # noqa: F401
    from batch_magic import tokens

    tokens.counter(MODEL)
    with slow_server() as url:
        wall, cpu = time.perf_counter(), time.process_time()
        if side == "bare":
            asyncio.run(bare(url, rows))
        else:
            ours(url, rows, folder)
        print(time.perf_counter() - wall, time.process_time() - cpu)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
