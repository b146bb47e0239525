"""The command: `python -m batch_magic.sandbox`.

Knows the options and the order in which a life begins: hold the home, bind the port, take up
the batches, say so. The trap: the port of the last life is tried first, so that clients of a
server that was killed find its successor where they left it.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from . import VERSION
from .answerers import Desk
from .app import build_app
from .clock import Clock
from .faults import SWITCHES, check_switches
from .home import ServerCard, hold_home, open_home, read_card, write_card
from .launcher import DEFAULT_TIME_SCALE
from .lifecycle import Lifecycle
from .refusals import Refusal
from .service import Service
from .store import Store


class _Server(uvicorn.Server):
    """uvicorn, but a signal it was told to end by is not raised again after the end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def main(arguments: list[str] | None = None) -> int:
    """Run the service until it is stopped; return the exit code."""
    options = _parser().parse_args(arguments)
    home = options.home.absolute()
    open_home(home)
    if hold_home(home) is None:
        card = read_card(home)
        where = f"{card.url} (pid {card.pid})" if card else str(home)
        return _say(f"another sandbox already serves this home: {where}")
    try:
        listener = _listen(home, options.port)
    except OSError as error:
        return _say(f"cannot listen on port {options.port}: {error.strerror}")
    asyncio.run(_serve(home, listener, options))
    return 0


def _parser() -> argparse.ArgumentParser:
    width = max(len(switch.name) for switch in SWITCHES)
    table = "\n".join(
        f"  {switch.name:{width}}  {switch.gloss}\n  {'':{width}}    {switch.takes}"
        for switch in SWITCHES
    )
    parser = argparse.ArgumentParser(
        prog="python -m batch_magic.sandbox",
        description="A local OpenAI-compatible service with the Files and Batches APIs.",
        epilog=f"faults (--faults, PUT /sandbox/faults; those of a batch also by metadata "
        f"sandbox_fault_NAME, those of a row by the text [[fault:STATUS]] in it):\n{table}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="0 = the last life's, or any free one")
    add("--home", type=Path, required=True, help="the folder that keeps everything")
    add(
        "--time-scale",
        type=_scale,
        default=DEFAULT_TIME_SCALE,
        help=f"divides all scripted waits; {DEFAULT_TIME_SCALE:g}",
    )
    add("--answerer", choices=("auto", "model", "stub"), default="auto")
    add("--model-file", help="a GGUF file to answer with")
    add("--upstream", help="base URL of an OpenAI-compatible server to answer with")
    add("--idle-exit-s", type=float, help="exit after so long without requests and batches")
    add("--faults", type=_faults, help="JSON object of general faults to start with")
    return parser


def _scale(text: str) -> float:
    scale = float(text)
    if not scale > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return scale


def _faults(text: str) -> dict[str, Any]:
    try:
        faults = json.loads(text)
        check_switches(faults)
    except (ValueError, TypeError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"not a JSON object: {error}") from None
    except Refusal as refusal:
        raise argparse.ArgumentTypeError(refusal.message) from None
    return {name: value for name, value in faults.items() if value is not None}


def _listen(home: Path, port: int) -> socket.socket:
    card = read_card(home)
    wanted = [port] if port or card is None else [card.port, 0]
    for last, candidate in enumerate(wanted, 1):
        # The protocol is named because asyncio sets TCP_NODELAY by it: 40 ms an answer.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
            listener.listen(512)
        except OSError:
            listener.close()
            if last == len(wanted):
                raise
            continue
        break
    return listener


async def _serve(home: Path, listener: socket.socket, options: argparse.Namespace) -> None:
    store = Store(home)
    clock = Clock(offset_s=store.setting("clock_offset_s", 0.0), time_scale=options.time_scale)
    store.sweep(clock.now())
    desk = Desk(wanted=options.answerer, model_file=options.model_file, upstream=options.upstream)
    service = Service(
        store,
        clock,
        desk,
        secrets.token_hex(8),
        faults=store.setting("faults", {}),
        rated=store.setting("rated", {}),
    )
    if options.faults is not None:
        service.keep_faults(options.faults)
    lifecycle = Lifecycle(service)

    async def announce() -> None:
        card = _card(listener.getsockname()[1], service)
        write_card(home, card)
        sys.stdout.write(f"sandbox listening on {card.url}\n")
        sys.stdout.flush()

    server = _Server(
        uvicorn.Config(
            build_app(service, lifecycle, announce),
            http="h11",
            ws="none",
            lifespan="on",
            log_level="warning",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )
    watch = asyncio.create_task(_leave_when_idle(server, service, lifecycle, options.idle_exit_s))
    await server.serve(sockets=[listener])
    watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch


def _card(port: int, service: Service) -> ServerCard:
    return ServerCard(
        pid=os.getpid(),
        port=port,
        url=f"http://127.0.0.1:{port}/v1",
        version=VERSION,
        started_at=time.time(),
        instance=service.instance,
        answerer=service.desk.kind,
    )


async def _leave_when_idle(
    server: uvicorn.Server, service: Service, lifecycle: Lifecycle, idle_exit_s: float | None
) -> None:
    if idle_exit_s is None:
        return
    while True:
        await asyncio.sleep(min(1.0, idle_exit_s / 4))
        if lifecycle.is_idle and time.monotonic() - service.last_call > idle_exit_s:
            server.should_exit = True
            return


def _say(line: str) -> int:
    sys.stderr.write(line + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
