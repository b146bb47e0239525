"""The README and the examples are run, and say all there is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from kernels import PROJECT, kernel
from nbclient import NotebookClient

from batch_magic.cell_line import cell_parser
from batch_magic.magic import VERBS
from batch_magic.sandbox import launcher

README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
FAST = {
    "BATCH_MAGIC_SANDBOX_ANSWERER": "stub",
    "BATCH_MAGIC_SANDBOX_TIME_SCALE": "60",
    "BATCH_MAGIC_POLL_FIRST_S": "0.2",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project folder whose sandbox is stopped afterwards."""
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    shutil.copy(PROJECT / "examples" / "reviews.csv", tmp_path)
    yield tmp_path
    launcher.stop(tmp_path / ".gptbatch" / "sandbox")


def test_every_option_and_verb_is_in_the_readme() -> None:
    """An option that nobody can find is none."""
    options = [action.option_strings[-1] for action in cell_parser()._actions[1:]]
    assert [
        option for option in options if f"`{option}" not in README and option not in README
    ] == []
    assert [verb for verb in VERBS if f"`{verb}" not in README] == []


def test_ten_lines_of_the_readme_run_as_they_stand(folder: Path) -> None:
    """The first thing a stranger tries."""
    blocks = [block for language, block in BLOCKS if language != "bash"][:3]
    with kernel(folder, FAST) as notebook:
        for block in blocks:
            seen = notebook.run(block.rstrip("\n"))
            assert seen.error is None, (block, seen)
    assert "Great" in seen.text
    assert "ok" in seen.text


def test_python_session_of_the_readme_runs(folder: Path) -> None:
    """The same without a notebook."""
    (code,) = [block for _, block in BLOCKS if "bm.submit" in block]
    with kernel(folder, FAST) as notebook:
        notebook.run("import pandas as pd; reviews = pd.read_csv('reviews.csv').head(3)")
        seen = notebook.run(code)
    assert seen.error is None


@pytest.mark.parametrize("name", ["quickstart"])
def test_example_notebooks_run_to_their_end(folder: Path, name: str) -> None:
    """An example that fails teaches the wrong thing."""
    notebook = nbformat.read(PROJECT / "examples" / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    text = json.dumps(notebook.cells)
    assert "answered by: sandbox-stub" in text
    assert "use the frame" in text


def test_reviews_are_what_the_readme_says() -> None:
    """200 reviews, half English, half Korean, with the mess that real ones have."""
    reviews = pd.read_csv(PROJECT / "examples" / "reviews.csv")
    assert len(reviews) == 200
    assert reviews["lang"].value_counts().to_dict() == {"en": 100, "ko": 100}
    assert set(reviews["label"].dropna()) == {"positive", "negative", "mixed"}
    assert reviews["body"].str.contains('"').any()
    assert reviews["body"].str.contains("\n").any()
    assert reviews["title"].isna().any()
    assert reviews["body"].isna().any()
