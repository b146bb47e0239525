"""Some long histories of one home; `python tests/histories.py` walks as far as one likes."""

from __future__ import annotations

import pytest
from histories import CHAPTER_STEPS, walk


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [0, 109, 2026])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # killed lives
def test_a_history_keeps_every_promise(seed: int) -> None:
    """No answer on another row, an outcome for each, each token one job, nothing paid twice."""
    taken = walk(CHAPTER_STEPS, seed)
    assert sum(taken.values()) == CHAPTER_STEPS
