"""A few stories of the kill and fault campaign, and a death at each of its named points."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(500)
def test_nothing_is_lost_misplaced_or_paid_twice() -> None:
    """The campaign itself is `make campaign`; this keeps it true from day to day."""
    campaign = Path(__file__).parent / "campaign.py"
    command = [sys.executable, str(campaign), "--schedules", "10", "--seed", "5000", "--points"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=480, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "| **lost** | **0** |" in ended.stdout
