"""The product as a person meets it: a real Lab, the quickstart's cell, a restart in the middle.

The sandbox answers with its stub here, so that these runs are about the notebook; its pace is
set so that each state can be seen.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from laboratory import Lab, Notebook

PROJECT = Path(__file__).parent.parent.parent

LOAD = """import os
os.environ["BATCH_MAGIC_SANDBOX_ANSWERER"] = "stub"
os.environ["BATCH_MAGIC_SANDBOX_TIME_SCALE"] = "{scale}"
os.environ["BATCH_MAGIC_HOME"] = "{home}"
os.environ["BATCH_MAGIC_POLL_FIRST_S"] = "0.3"
%load_ext batch_magic
import pandas as pd
reviews = pd.read_csv("reviews.csv")"""

CELL = """%%gptbatch reviews -o labelled -m gpt-5-mini --on sandbox {options}
system:
You label product reviews: positive, negative or mixed.
user:
{{{{ title }}}}
{{{{ body }}}}"""

LOOK = """print(type(labelled).__name__, len(labelled), labelled["gpt_status"].eq("ok").sum())"""


@pytest.fixture
def slow(lab: Lab) -> Iterator[Notebook]:
    """A notebook whose runs take about ten seconds: long enough to interfere."""
    yield from _notebook(lab, "slow", scale=4)


@pytest.fixture
def quick(lab: Lab) -> Iterator[Notebook]:
    """A notebook whose runs take about three seconds."""
    yield from _notebook(lab, "quick", scale=15)


def _notebook(lab: Lab, name: str, scale: int, *cells: str) -> Iterator[Notebook]:
    home = lab.server.root / f"home-{name}"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copy(PROJECT / "examples" / "reviews.csv", lab.server.root)
    cells = cells or (CELL.format(options=""), "1 + 1", LOOK, "")
    notebook = lab.open(LOAD.format(scale=scale, home=home), *cells)
    yield notebook
    notebook.close()
    from batch_magic.sandbox import launcher

    launcher.stop(home / "sandbox")


def test_cell_returns_panel_moves_and_the_frame_arrives(lab: Lab, quick: Notebook) -> None:
    """The main job: the kernel is free at once, and the name becomes the frame by itself."""
    quick.run(0)
    quick.run(1)
    quick.run(2)
    quick.wait_for("2", 2, timeout_s=10)
    quick.wait_for("validating, step 3", 1)
    quick.wait_for("use the frame", 1)
    quick.wait_for("the result is in", 1)
    quick.shoot("quickstart_done_light")
    quick.run(3)
    quick.wait_for("DataFrame 200 199", 3)
    lab.theme("dark")
    quick.shoot("quickstart_done_dark")


def test_name_used_too_early_says_how_to_wait(slow: Notebook) -> None:
    """One line, no traceback, and Run All would stop there."""
    for cell in (0, 1, 3):
        slow.run(cell)
    slow.wait_for("has not ended yet", 3)
    assert "%gptbatch wait labelled" in slow.text(3)
    assert "Traceback" not in slow.text(3)
    slow.shoot("quickstart_too_early")


def test_cancel_button_keeps_the_frame_whole(slow: Notebook) -> None:
    """A click, a second click, and every row still has its outcome."""
    slow.run(0)
    slow.run(1)
    slow.wait_for("validating, step 3", 1)
    slow.shoot("quickstart_running")
    slow.click("Cancel", 1)
    slow.click("Really cancel? finished rows are kept", 1)
    slow.wait_for("cancelled", 1)
    slow.wait_for("the result is in", 1, timeout_s=60)
    slow.shoot("quickstart_cancelled")
    slow.run(3)
    slow.wait_for("DataFrame 200", 3)


def test_reload_of_the_page_finds_the_panel_alive(slow: Notebook) -> None:
    """The browser is only a window: closing it changes nothing."""
    slow.run(0)
    slow.run(1)
    slow.wait_for("validating, step 3", 1)
    slow.save()
    slow.reload()
    slow.wait_for("use the frame", 1, timeout_s=60)


def test_kernel_restart_mid_run_loses_nothing_and_pays_once(lab: Lab, slow: Notebook) -> None:
    """The promise, in a browser: restart, attach, and the same batch gives the whole frame."""
    slow.run(0)
    slow.run(1)
    slow.wait_for("validating, step 3", 1)
    slow.save()
    slow.restart_kernel()
    slow.run(0)
    slow.wait_for("unfinished: labelled", 0)
    _type(lab, slow, 4, "%gptbatch attach labelled")
    slow.run(4)
    slow.wait_for("use the frame", 4, timeout_s=60)
    slow.wait_for("the result is in", 4)
    slow.shoot("quickstart_attached")
    slow.run(3)
    slow.wait_for("DataFrame 200 199", 3)
    assert _batches(lab, "slow") == 1


def test_waiting_cell_answers_its_cancel_button(lab: Lab, slow: Notebook) -> None:
    """`--wait` holds the notebook's queue, not its buttons."""
    slow.run(0)
    _type(lab, slow, 1, CELL.format(options="--wait"))
    slow.run(1)
    slow.wait_for("validating, step 3", 1)
    slow.click("Cancel", 1)
    slow.click("Really cancel? finished rows are kept", 1)
    slow.wait_for("cancelled", 1, timeout_s=60)
    slow.wait_idle(timeout_s=60)
    slow.run(3)
    slow.wait_for("DataFrame 200", 3)


def test_interrupt_of_a_waiting_cell_detaches(lab: Lab, slow: Notebook) -> None:
    """Interrupt means: stop waiting. The run goes on and is handed over."""
    slow.run(0)
    _type(lab, slow, 1, CELL.format(options="--wait"))
    slow.run(1)
    slow.wait_for("validating, step 3", 1)
    slow.interrupt()
    slow.wait_for("Detached: labelled goes on", 1)
    slow.wait_for("use the frame", 1, timeout_s=60)
    slow.run(3)
    slow.wait_for("DataFrame 200 199", 3)


def test_saved_mid_run_still_tells_without_its_kernel(slow: Notebook) -> None:
    """A colleague who opens the file sees the last known state, not a widget error."""
    slow.run(0)
    slow.run(1)
    slow.wait_for("validating, step 3", 1)
    slow.save()
    elsewhere = slow.reopen_elsewhere()
    assert "labelled" in elsewhere.text(1)
    assert "%gptbatch attach labelled" in elsewhere.text(1)
    assert "Error" not in elsewhere.text(1)
    elsewhere.shoot("quickstart_saved_midrun")
    elsewhere.close()


def _type(lab: Lab, notebook: Notebook, cell: int, source: str) -> None:
    """Put text into a cell, as typing would."""
    lab.evaluate(
        "([n, text]) => window.jupyterapp.shell.currentWidget.content.widgets[n]"
        ".model.sharedModel.setSource(text)",
        [cell, source],
    )


def _batches(lab: Lab, name: str) -> int:
    """How many batches the sandbox was asked for, by its own word."""
    import json
    import urllib.request

    card = json.loads((lab.server.root / f"home-{name}" / "sandbox" / "server.json").read_text())
    with urllib.request.urlopen(f"http://127.0.0.1:{card['port']}/sandbox/batches") as answer:
        return len(json.load(answer)["batches"])


FIELDS = "mood: good|bad, score: float 0..1, note: str?"
SHAPES = (
    f"""%%gptbatch reviews -o typed -m gpt-5-mini --on sandbox -s "{FIELDS}"
{{{{ title }}}} {{{{ body }}}}""",
    "typed[['title', 'mood', 'score', 'note', 'gpt_status']].head()",
    """%%gptbatch reviews -o split -m gpt-5-mini --on sandbox --parse "stub {hash:d}: {rest}"
{{ title }} {{ body }}""",
    "%gptbatch reparse split --parse 'stub {hash}: {rest}'\nsplit.head()",
)


def test_answers_become_typed_columns_in_a_lab(lab: Lab) -> None:
    """Fields by a schema; misfits of a pattern, found, and read anew by another for nothing."""
    for notebook in _notebook(lab, "shapes", 15, *SHAPES):
        notebook.run(0)
        notebook.run(1)
        notebook.wait_for("use the frame", 1)
        notebook.run(2)
        notebook.wait_for("mood", 2)
        notebook.shoot("shapes_typed")
        notebook.run(3)
        notebook.wait_for("unparsed", 3)
        notebook.wait_for("use the frame", 3)
        notebook.run(4)
        notebook.wait_for("199 answers of 200 rows fit", 4)
        notebook.shoot("shapes_reparsed")


AT_ONCE = (
    "%config GPTBatch.max_rows_per_job = 70\n%config GPTBatch.max_enqueued_tokens = 3000",
    """%%gptbatch reviews.head(140) -o both -m gpt-5-mini,gpt-5-nano --on sandbox
{{ title }}: {{ body }}""",
    "labelled = both[['title', 'answer.gpt-5-mini', 'answer.gpt-5-nano', 'gpt_status']].head(3)\n"
    "labelled",
    """import numpy as np
patches = pd.DataFrame({"photo": [np.full((40, 60, 3), 20 * n, np.uint8) for n in range(5)]})
patches.loc[5] = ["gone.png"]""",
    """%%gptbatch patches -o seen -m gpt-5-mini --on sandbox --image-max 32
![a patch]({{ photo }})
What is it?""",
    "seen[['answer', 'gpt_status', 'gpt_error']]",
)


def test_the_newest_answers_of_several_models_and_of_images_in_a_lab(lab: Lab) -> None:
    """Jobs come in one after another: what has landed is seen while the others run."""
    for notebook in _notebook(lab, "models", 15, *AT_ONCE):
        notebook.run(0)
        notebook.run(1)
        notebook.run(2)
        notebook.wait_for("newest answers", 2)
        notebook.wait_for("140 rows × 2 models", 2)
        notebook.shoot("models_running")
        notebook.wait_for("use the frame", 2)
        notebook.run(3)
        notebook.wait_for("answer.gpt-5-nano", 3)
        notebook.shoot("models_done")
        notebook.run(4)
        notebook.run(5)
        notebook.wait_for("use the frame", 5)
        notebook.run(6)
        notebook.wait_for("there is no image file", 6)
        notebook.shoot("images_seen")
