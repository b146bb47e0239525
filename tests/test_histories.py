"""Some long histories of one home; `python tests/histories.py` walks as far as one likes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [0, 109, 2026])
def test_a_history_keeps_every_promise(seed: int) -> None:
    """No answer on another row, an outcome for each, each token one job, nothing paid twice.

    In a process of its own: the browser's tests may have left a loop running in this one.
    """
    walk = [sys.executable, str(Path(__file__).parent / "histories.py"), "--steps", "400"]
    command = [*walk, "--seed", str(seed)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
