"""The README and the examples are run, and say all there is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
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
from batch_magic.sandbox.faults import CALLS, ROWS, SWITCHES
from batch_magic.sandbox.gate import REFUSED_KEY_PREFIX, ROUTES
from batch_magic.sandbox.lifecycle import DURATIONS_S

README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
REHEARSAL = (PROJECT / "batch_magic" / "sandbox" / "README.md").read_text(encoding="utf-8")
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


SHOWN = {
    "quickstart": ["answered by: sandbox-stub", "use the frame"],
    "translate_pairs": ["2 misfits", "8 of 8 rows hold both sentences", "8 answers of 8 rows fit"],
    "structured": ["answered by: sandbox-stub", "llm_score", "Int64", "use the frame"],
    "embeddings": ["float32 by sandbox-hash-vectors", "image/png", "(3, "],
    "spending": ["sample: 10 rows, 10 ok", "as 10 answers before", "gpt_cost", "paid: $0.00"],
    "images": ["of 8 rows", "there is no image file", "image/png"],
}
"""What each example must show at its end, with answers by the stub."""


def test_every_example_is_run() -> None:
    """One that is not would rot."""
    assert {path.stem for path in (PROJECT / "examples").glob("*.ipynb")} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_example_notebooks_run_to_their_end(folder: Path, name: str) -> None:
    """An example that fails teaches the wrong thing."""
    notebook = nbformat.read(PROJECT / "examples" / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    text = json.dumps(notebook.cells)
    for shown in SHOWN[name]:
        assert shown in text


PAGES = sorted((PROJECT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_snippet_of_a_page_runs_as_it_stands(folder: Path, page: Path) -> None:
    """In one kernel, from top to bottom, as a reader would, with the sandbox for a service."""
    text = page.read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert text.count("```") == 2 * len(snippets), "a snippet that is not run would rot"
    with kernel(folder, {**FAST, "BATCH_MAGIC_BACKEND": "sandbox"}) as notebook:
        for snippet in snippets:
            seen = notebook.run(snippet.rstrip("\n"))
            assert seen.error is None, (snippet, seen)


def test_every_page_is_in_the_readme() -> None:
    """What nobody finds is not read."""
    assert [page.name for page in PAGES if f"docs/{page.name}" not in README] == []


def test_table_of_the_rehearsal_is_that_of_the_sandbox() -> None:
    """Every switch with its place, its value and its gloss, and none that is not there."""
    wanted = []
    for switch in SWITCHES:
        takes = switch.takes.replace(ROWS, "rows").replace(CALLS, "calls").replace("|", "\\|")
        wanted.append(f"| `{switch.name}` | {switch.scope} | {takes} | {switch.gloss} |")
    table = REHEARSAL.split("| switch | where | value | what happens |\n|---|---|---|---|\n")[1]
    assert table.splitlines() == wanted


def test_rehearsal_names_routes_keys_and_durations() -> None:
    """What a switch can be aimed at, and how long the stages last."""
    assert [name for _, _, name in ROUTES if f"`{name}`" not in REHEARSAL] == []
    assert REFUSED_KEY_PREFIX in REHEARSAL
    for name, seconds in DURATIONS_S.items():
        assert f"`{name}` ({seconds:g})" in REHEARSAL
    assert f"is {launcher.DEFAULT_TIME_SCALE:g} unless" in REHEARSAL


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page speaks to the sandbox by curl")
def test_commands_of_the_rehearsal_run_as_they_stand(folder: Path) -> None:
    """They find the sandbox of the folder, and none of them is refused."""
    blocks = re.findall(r"^```bash\n(.*?)^```", REHEARSAL, flags=re.DOTALL | re.MULTILINE)
    script = "".join(blocks).replace("curl ", "curl --fail-with-body --silent ")
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    words = os.environ | {"PYTHONPATH": str(PROJECT), "PATH": os.pathsep.join(paths)}
    done = subprocess.run(
        ["/bin/bash", "-euc", script], cwd=folder, env=words, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert '{"row_status":{"status":429,"share":0.3}}' in done.stdout
    card = json.loads((folder / ".gptbatch" / "sandbox" / "server.json").read_text())
    assert launcher.find(folder / ".gptbatch" / "sandbox") is not None
    assert card["url"].endswith("/v1")


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
