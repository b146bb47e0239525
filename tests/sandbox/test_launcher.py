"""Finding the service of a home, or starting it, from programs that come and go."""

import errno
import json
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from batch_magic.sandbox import launcher

from .conftest import is_alive, wait_until


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home whose service ends with the test."""
    yield tmp_path / "home"
    launcher.stop(tmp_path / "home")


def _ensure_elsewhere(home: Path) -> dict[str, object]:
    code = f"""
        import dataclasses, json, pathlib
        from batch_magic.sandbox import launcher
        found = launcher.ensure(pathlib.Path({str(home)!r}), answerer="stub", time_scale=500)
        print(json.dumps(dataclasses.asdict(found)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def test_service_outlives_the_program_that_started_it(home: Path) -> None:
    """A kernel restart must find the batches still running."""
    started = _ensure_elsewhere(home)
    found = launcher.ensure(home)
    assert (found.url, found.pid, found.answerer) == (started["url"], started["pid"], "stub")
    assert found.url.endswith("/v1")


def test_two_programs_at_once_get_one_service(home: Path) -> None:
    """Two kernels in one folder share their service."""
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(_ensure_elsewhere, [home] * 4))
    assert len({item["pid"] for item in found}) == 1


def test_killed_service_comes_back_at_its_address(home: Path) -> None:
    """A client that holds the URL must not notice."""
    first = launcher.ensure(home, answerer="stub")
    subprocess.run(["kill", "-9", str(first.pid)], check=True)
    wait_until(lambda: not is_alive(first.pid))
    second = launcher.ensure(home, answerer="stub")
    assert second.url == first.url
    assert second.pid != first.pid


_KNOCK = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as road:  # sends nothing
    try:
        road.connect(("192.0.2.1", 9))
    except OSError:
        sys.exit("loopback only")
    own = road.getsockname()[0]
if own.startswith("127."):
    sys.exit("loopback only")
for address in ("127.0.0.1", own):
    with socket.socket() as door:
        door.settimeout(5)
        print(door.connect_ex((address, int(sys.argv[1]))))
"""


def test_only_this_machine_can_reach_the_service(home: Path) -> None:
    """It asks for no key: whoever is on the same network must not get to the rows."""
    port = str(urlsplit(launcher.ensure(home, answerer="stub").url).port)
    # In a process of its own, as tests may not reach beyond loopback.
    done = subprocess.run([sys.executable, "-c", _KNOCK, port], capture_output=True, text=True)
    if "loopback only" in done.stderr:
        pytest.skip("this machine has no address but loopback")
    assert [int(code) for code in done.stdout.split()] == [0, errno.ECONNREFUSED], done.stderr


def test_stop_ends_the_service(home: Path) -> None:
    """And says whether there was one."""
    assert launcher.stop(home) is False
    found = launcher.ensure(home, answerer="stub")
    assert launcher.stop(home) is True
    wait_until(lambda: not is_alive(found.pid))
    assert launcher.find(home) is None


def test_card_of_another_server_is_not_believed(home: Path) -> None:
    """A port may be someone else's by now: the instance must match."""
    launcher.ensure(home, answerer="stub")
    card = json.loads((home / "server.json").read_text())
    (home / "server.json").write_text(json.dumps(card | {"instance": "other"}))
    assert launcher.find(home) is None
    (home / "server.json").write_text(json.dumps(card))


def test_failed_start_tells_the_log(tmp_path: Path) -> None:
    """The reason is in the one line, not in a file to be found."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "sandbox.sqlite3").mkdir()
    with pytest.raises(launcher.SandboxError, match="unable to open database file") as caught:
        launcher.ensure(home, answerer="stub")
    assert "\n" not in str(caught.value)


def test_missing_library_says_what_to_install(tmp_path: Path) -> None:
    """The sandbox is an extra, and its absence is one line."""
    code = f"""
        import importlib.util, pathlib
        from batch_magic.sandbox import launcher
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name: None if name == "starlette" else found(name)
        try:
            launcher.ensure(pathlib.Path({str(tmp_path / "home")!r}))
        except launcher.SandboxError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert 'pip install "batch_magic[sandbox]"' in done.stdout


def test_default_scale_is_short_but_visible(home: Path) -> None:
    """A demo waits about three seconds, and each state lasts longer than half a second."""
    found = launcher.ensure(home, answerer="stub")
    with urllib.request.urlopen(found.url.removesuffix("/v1") + "/sandbox/status") as answer:
        scale = json.load(answer)["clock"]["time_scale"]
    waits = [seconds / scale for seconds in (20, 10, 10)]
    assert 2 < sum(waits) < 4
    assert min(waits) > 0.5
