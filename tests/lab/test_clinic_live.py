"""The failure clinic under the hands of a reader: every button, both themes, wide and narrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from laboratory import Lab, Notebook
from test_panel_looks import FAINT_TEXTS, STICKING_OUT

SET_UP = """
import os
os.environ |= {"BATCH_MAGIC_SANDBOX_ANSWERER": "stub", "BATCH_MAGIC_POLL_FIRST_S": "0.2",
               "BATCH_MAGIC_SANDBOX_TIME_SCALE": "60", "BATCH_MAGIC_HOME": HOME}
%load_ext batch_magic
import pandas as pd, time
said = ["", "[[fault:400:once]]", "[[fault:429:once]]", "", "", "[[fault:timeout:once]]", "",
        "[[say:mostly fine||stub x: good]]", "", "좋은 램프입니다", "مصباح جيد",
        "<b>bold</b> $x$ $y$"]
reviews = pd.DataFrame({"text": [f"review {n} {said[n % 12]}" for n in range(240)],
                        "lang": ["en", "ko", "ar"] * 80})
print("ready")
"""
RUN = """%%gptbatch reviews -o labelled -m gpt-5-mini --on sandbox --retries 0 --wait \
--parse "stub {a}: {b}"
Rate this review: {{ text }}"""
CLINIC = "%gptbatch clinic labelled"
BUSY = "before = len(labelled)\nfor _ in range(300):\n    time.sleep(0.1)"
COUNT = "print('rows', len(labelled), 'ok', (labelled.gpt_status == 'ok').sum())"
CARDS = ".gptbatch-clinic"
AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"


@pytest.fixture
def notebook(lab: Lab) -> Iterator[Notebook]:
    """A run with four causes, and its clinic in cell 2."""
    home = repr(f".gptbatch-{len(list(lab.server.root.iterdir()))}")
    opened = lab.open(f"HOME = {home}\n{SET_UP}", RUN, CLINIC, BUSY, COUNT, COUNT, CLINIC)
    opened.run(0)
    opened.wait_for("ready", 0)
    opened.run(1)
    opened.wait_for("the result is in", 1, timeout_s=90)
    opened.run(2)
    opened.wait_for("80 of 240 rows without a good answer, 4 causes", 2)
    yield opened
    opened.close()


def causes(notebook: Notebook, cell: int = 2) -> Any:
    return notebook.output(cell).locator(f"{CARDS} .gptbatch-cause")


def press(notebook: Notebook, cause: str, text: str) -> None:
    """Click a button of the cause whose error holds some words."""
    row = causes(notebook).filter(has_text=cause)
    row.get_by_role("button", name=text).click()


def serious(lab: Lab) -> list[tuple[str, str]]:
    """Return what axe-core finds in the clinic that is serious or worse."""
    lab.page.add_script_tag(path=AXE)
    found = lab.evaluate(
        """async (selector) => {
        const results = await axe.run(document.querySelector(selector).closest('.jp-OutputArea'));
        return results.violations.filter(v => ['serious', 'critical'].includes(v.impact))
            .map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200)).join('; ')]); }""",
        CARDS,
    )
    return [tuple(one) for one in found]


def test_every_text_is_legible_in_both_themes_wide_and_narrow(lab: Lab, notebook: Notebook) -> None:
    """With an example unfolded; markup, formulas and scripts of any direction are text."""
    for summary in notebook.output(2).locator(f"{CARDS} summary").all():
        summary.click()
    assert notebook.output(2).locator(f"{CARDS} mjx-container").count() == 0
    assert notebook.text(2).count("answer as received") == 1, "the receipt is hidden"
    for shade in ("light", "dark"):
        lab.theme(shade)
        for width in (1400, 620, 400):
            lab.width(width)
            notebook.shoot(f"clinic_{shade}_{width}")
            assert lab.evaluate(FAINT_TEXTS, CARDS) == []
            assert lab.evaluate(STICKING_OUT, CARDS) == []
        assert serious(lab) == []


def test_every_button_is_asked_about_and_does_what_it_says(lab: Lab, notebook: Notebook) -> None:
    """One sitting: think better of it, retry by batch, retry live, drop, and look again."""
    press(notebook, "429 rate_limit", "Retry these")
    notebook.wait_for("Really send 20 rows again by batch? Price: free here, at OpenAI $", 2)
    notebook.shoot("clinic_asked")
    assert serious(lab) == []
    for shade in ("dark", "light"):
        lab.theme(shade)
        for width in (400, 1400):
            lab.width(width)
            notebook.shoot(f"clinic_asked_{shade}_{width}")
            assert lab.evaluate(FAINT_TEXTS, CARDS) == []
            assert lab.evaluate(STICKING_OUT, CARDS) == []
    press(notebook, "429 rate_limit", "Not now")
    press(notebook, "429 rate_limit", "Retry these")
    press(notebook, "429 rate_limit", "Yes, send 20 rows")
    notebook.wait_for("the run goes on", 2)
    press(notebook, "request_timeout", "Retry these")
    press(notebook, "request_timeout", "Yes, send 20 rows")
    notebook.shoot("clinic_going_on")
    notebook.wait_for("40 of 240 rows without a good answer, 2 causes", 2, timeout_s=60)
    notebook.wait_gone("the run goes on", 2)
    notebook.wait_for("the new result is in", 2)
    press(notebook, "does not fit the pattern", "Drop")
    notebook.wait_for("Really drop 20 rows from labelled? The run keeps them", 2)
    press(notebook, "does not fit the pattern", "Yes, drop 20 rows")
    notebook.wait_for("has 220 of 240 rows", 2)
    notebook.wait_for("left out: these rows are not in labelled", 2)
    dropped = causes(notebook).filter(has_text="does not fit the pattern")
    assert dropped.get_by_role("button", name="Drop").count() == 0
    notebook.shoot("clinic_dropped")
    assert serious(lab) == []
    notebook.run(4)
    notebook.wait_for("rows 220 ok 200", 4)
    press(notebook, "400 invalid", "Retry live")
    notebook.wait_for("Really send 20 rows again live?", 2)
    press(notebook, "400 invalid", "Yes, send 20 rows")
    notebook.wait_for("20 of 240 rows without a good answer, 1 cause", 2, timeout_s=60)
    notebook.wait_for("has 220 of 240 rows", 2)
    notebook.run(5)
    notebook.wait_for("rows 220 ok 220", 5)
    press(notebook, "does not fit the pattern", "Retry live")
    press(notebook, "does not fit the pattern", "Yes, send 20 rows")
    notebook.wait_for("has a good answer", 2, timeout_s=60)
    assert causes(notebook).count() == 0
    notebook.shoot("clinic_healed")
    assert lab.errors == []


def test_a_double_click_asks_and_keys_lead_to_the_answers(lab: Lab, notebook: Notebook) -> None:
    """The second click must not answer; the focus is on the harmless answer, and comes back."""
    row = causes(notebook).filter(has_text="429 rate_limit")
    for name in ("Retry these", "Retry live", "Drop"):
        row.get_by_role("button", name=name).dblclick()
        lab.until(lambda: focused(lab) == "Not now", "the focus is on Not now")
        lab.page.wait_for_timeout(300)
        assert row.get_by_role("button", name="Yes,").count() == 1, "it is asked still"
        lab.page.keyboard.press("Enter")
        lab.until(lambda n=name: focused(lab) == n, f"the focus is on {name} again")
    lab.page.keyboard.press("Enter")
    lab.until(lambda: focused(lab) == "Not now", "the focus is on Not now")
    lab.page.keyboard.press("Tab")
    assert focused(lab) == "Yes, drop 20 rows"
    lab.page.keyboard.press("Enter")
    notebook.wait_for("left out: these rows are not in labelled", 2)
    assert "left out: these rows" in focused(lab), "the focus is on the cause"
    assert "80 of 240 rows" in notebook.text(2), "nothing was sent"


def focused(lab: Lab) -> str:
    """The words of the element that has the focus."""
    return str(lab.evaluate("() => document.activeElement.innerText")).strip()


def test_clicks_are_answered_while_a_cell_blocks(lab: Lab, notebook: Notebook) -> None:
    """The retry goes out at once; the name changes when the cell has ended, not under it."""
    notebook.run(3)
    lab.until(lambda: "[*]" in notebook.cell(3).inner_text(), "the cell runs")
    press(notebook, "429 rate_limit", "Retry these")
    press(notebook, "429 rate_limit", "Yes, send 20 rows")
    notebook.wait_for("the run goes on", 2, timeout_s=10)
    press(notebook, "does not fit", "Drop")
    press(notebook, "does not fit", "Yes, drop 20 rows")
    said = causes(notebook).filter(has_text="does not fit").inner_text
    lab.until(lambda: "when the running cell has ended" in said(), "its card tells, too")
    notebook.wait_for("when the running cell has ended", 2, timeout_s=10)
    notebook.wait_for("60 of 240 rows without a good answer, 3 causes", 2, timeout_s=20)
    assert "[*]" in notebook.cell(3).inner_text()
    notebook.interrupt()
    notebook.wait_for("KeyboardInterrupt", 3)
    notebook.wait_idle()
    notebook.run(4)
    notebook.wait_for("rows 220 ok 180", 4)
    notebook.shoot("clinic_busy")


def test_a_saved_clinic_reads_well_without_its_kernel(lab: Lab, notebook: Notebook) -> None:
    """Opened by somebody else the receipt shows: causes, cures and prices, no widget error."""
    notebook.save()
    sent_on = notebook.reopen_elsewhere()
    sent_on.wait_for("80 of 240 rows without a good answer, 4 causes", 2)
    text = sent_on.text(2)
    assert "cure: " in text
    assert "by batch" in text
    sent_on.shoot("clinic_saved")
    sent_on.close()


MANY = """
letters = [chr(97 + n // 26) + chr(97 + n % 26) for n in range(30)]
photos = pd.DataFrame({"photo": [*[f"/nowhere/{two}.png" for two in letters], "https://a.example/b"]})
"""
SEE = """%%gptbatch photos -o seen -m gpt-5-mini --on sandbox --retries 0 --wait
user:
What is it?
![it]({{ photo }})"""


def test_a_clinic_of_many_causes_shows_more_on_demand(lab: Lab) -> None:
    """A dozen at first, the rest a click or two away; what was never sent cannot be retried."""
    home = repr(f".gptbatch-{len(list(lab.server.root.iterdir()))}")
    notebook = lab.open(f"HOME = {home}\n{SET_UP}\n{MANY}", SEE, "%gptbatch clinic seen")
    notebook.run(0)
    notebook.wait_for("ready", 0)
    notebook.run(1)
    notebook.wait_for("the result is in", 1, timeout_s=60)
    notebook.run(2)
    notebook.wait_for("and 18 causes more, 18 rows", 2)
    assert notebook.output(2).get_by_role("button", name="Retry").count() == 0
    for left in (6, 0):
        notebook.click("Show more causes", 2)
        lab.until(lambda n=30 - left: causes(notebook).count() == n, f"{30 - left} causes")
    assert notebook.output(2).get_by_role("button", name="Show more causes").count() == 0
    notebook.wait_gone("causes more", 2)
    notebook.close()
