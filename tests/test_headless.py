"""Where nobody watches: papermill, `jupyter execute`, IPython scripts. All of them wait."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from kernels import PROJECT

from batch_magic.sandbox import launcher

CELLS = [
    "%load_ext batch_magic\nimport pandas as pd\nreviews = pd.DataFrame({'title': ['A', 'B']})",
    "%%gptbatch reviews -o labelled -m gpt-5-mini --on sandbox\n{{ title }}",
    "assert type(labelled).__name__ == 'DataFrame'\nprint('ok:', list(labelled['gpt_status']))",
    "%%gptbatch reviews -o again -m gpt-5-mini --on sandbox\nOnce more: {{ title }}",
]
SCRIPT = """%load_ext batch_magic
import pandas as pd
reviews = pd.DataFrame({'title': ['Great', 'Bad']})
get_ipython().run_cell_magic(
    'gptbatch', 'reviews -o labelled -m gpt-5-mini --on sandbox', '{{ title }}')
assert type(labelled).__name__ == 'DataFrame'
print('ok:', list(labelled['gpt_status']))
"""
BIN = Path(sys.executable).parent


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "job.ipynb")
    (tmp_path / "job.ipy").write_text(SCRIPT)
    yield tmp_path
    launcher.stop(tmp_path / ".gptbatch" / "sandbox")


@pytest.mark.parametrize(
    "command",
    [
        ["jupyter", "execute", "--inplace", "job.ipynb"],
        ["papermill", "job.ipynb", "job.ipynb"],
        ["jupyter", "nbconvert", "--to", "notebook", "--execute", "--inplace", "job.ipynb"],
        ["ipython", "job.ipy"],
    ],
    ids=["jupyter-execute", "papermill", "nbconvert", "ipython-script"],
)
def test_headless_executor_waits_and_gets_the_frame(folder: Path, command: list[str]) -> None:
    """The same cells give the same result, whoever runs them."""
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "IPYTHONDIR": str(folder / ".ipython"),
        "BATCH_MAGIC_SANDBOX_ANSWERER": "stub",
        "BATCH_MAGIC_SANDBOX_TIME_SCALE": "60",
        "BATCH_MAGIC_POLL_FIRST_S": "0.2",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + (folder / "job.ipynb").read_text()
    assert "ok: ['ok', 'ok']" in said


def test_saved_notebook_of_an_executor_shows_the_final_card(folder: Path) -> None:
    """A report that was made at night is read in the morning, without a kernel."""
    environment = os.environ | {
        "PYTHONPATH": str(PROJECT),
        "BATCH_MAGIC_SANDBOX_ANSWERER": "stub",
        "BATCH_MAGIC_SANDBOX_TIME_SCALE": "60",
        "BATCH_MAGIC_POLL_FIRST_S": "0.2",
    }
    subprocess.run(
        [BIN / "jupyter", "execute", "--inplace", "job.ipynb"],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        timeout=120,
    )
    cells = nbformat.read(folder / "job.ipynb", as_version=4).cells
    for cell in (cells[1], cells[3]):  # the second cell's panel is drawn by the first one's thread
        cards = [output["data"].get("text/html", "") for output in cell.outputs if "data" in output]
        assert any("finished" in card and "sandbox-stub" in card for card in cards)
