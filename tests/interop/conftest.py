"""A sandbox process per module, the environment that points clients at it, and no other network.

The clients need two major versions of the official SDK, so the suite is run once with each: the
modules of those that cannot work with the one at hand, or do not use it at all, wait for the other.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from ipaddress import ip_address
from typing import Any

import pytest

SDK_MAJOR = int(version("openai").split(".")[0])
_BOUND_TO = {
    "test_autobatcher.py": 2,
    "test_batchlane.py": 2,
    "test_batchwork.py": 2,
    "test_litellm.py": 2,
    "test_inspect_ai.py": 3,
}
collect_ignore = [name for name, major in _BOUND_TO.items() if major != SDK_MAJOR]

TIME_SCALE = 80  # a batch takes half a second
KEY = "sk-local"


def pytest_configure(config: pytest.Config) -> None:
    """Set what clients read when they are imported, and keep them off the network and the home."""
    folder = tempfile.TemporaryDirectory(prefix="interop-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    own = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    os.environ |= dict.fromkeys(own, folder.name)
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its price list is downloaded
    sys.addaudithook(_refuse_other_hosts)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a sandbox process that answers with its stub."""
    home = tmp_path_factory.mktemp("sandbox")
    command = [sys.executable, "-m", "batch_magic.sandbox", "--home", str(home)]
    command += ["--answerer", "stub", "--time-scale", str(TIME_SCALE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            assert line.startswith("sandbox listening on "), line
            yield line.split()[-1]
        finally:
            process.terminate()


@pytest.fixture
def calls(sandbox: str) -> Callable[[], Counter[str]]:
    """Counts the calls that the sandbox got since the test began, by route."""

    def count() -> Counter[str]:
        with urllib.request.urlopen(sandbox.removesuffix("/v1") + "/sandbox/requests") as reply:
            return Counter(json.load(reply)["calls"])

    before = count()
    return lambda: count() - before


@pytest.fixture(autouse=True)
def _pointed_at_the_sandbox(sandbox: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The environment variables that clients read, and a working folder that is thrown away."""
    monkeypatch.setenv("OPENAI_BASE_URL", sandbox)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)


def _refuse_other_hosts(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    if not _is_loopback(host):
        raise RuntimeError(f"a client went to {host!r}, and no test needs more than loopback")


def _is_loopback(host: Any) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
