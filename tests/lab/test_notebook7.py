"""Notebook 7, the other face of the same server: every widget under the hands of a reader.

What each button does in full is held by the files that drive Lab; here each widget is opened,
clicked, measured and looked at once more on a page that Lab's frame is not around.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from laboratory import Face, Lab, Notebook
from playwright.sync_api import expect
from test_completion_live import offered, picked, words
from test_panel_looks import FAINT_TEXTS, STICKING_OUT
from test_project_live import SANDBOX, STALL, press, row

SET_UP = (
    SANDBOX
    + """
said = ["좋은 램프", "مصباح [[fault:400:once]]", "<b>bold</b> $x$ $y$", "[[fault:429:once]]"]
reviews = pd.DataFrame({"text": [f"{n}: {said[n % 4]}" for n in range(24)], "별점": range(24)})
print("set up")
"""
)
LABEL = '%%gptbatch reviews -o {out} -m gpt-5-mini --on sandbox --retries 0 -s "label: good|bad"'
TWO = LABEL.format(out="two") + " --wait\nThink first. {{ text }}"
SLOW = "%%gptbatch reviews -o slow -m gpt-5-mini --on sandbox\nslowly: {{ text }}"
MARKED = """%gptbatch take one
print(one[one.gpt_mark.notna()].gpt_mark.to_dict(), (one.gpt_status == "ok").sum())"""
CELLS = ("", TWO, "%gptbatch explore one", MARKED, "%gptbatch clinic one", MARKED,
         "%gptbatch compare one two", "%gptbatch", STALL, SLOW)  # fmt: skip
ONE, OTHER, EXPLORE, TAKE, CLINIC, TAKE_AGAIN, COMPARE, PROJECT, STALLED, SLOWLY = range(1, 11)
PANEL = "[class*=gptbatch-live]"
TALL = 1_600  # the longest of them is seen whole


@pytest.fixture(scope="module")
def notebook(laboratory: Lab) -> Iterator[Notebook]:
    """A notebook in Notebook 7 with a frame of 24 rows, half of which fail at first."""
    laboratory.width(1400)
    home = f".gptbatch-{len(list(laboratory.server.root.iterdir()))}"
    opened = laboratory.open(f"HOME = {home!r}\n{SET_UP}", *CELLS, face=Face.NOTEBOOK)
    opened.run(0)
    opened.wait_for("set up", 0)
    yield opened
    opened.close()


def looks_well(lab: Lab, selector: str, name: str) -> None:
    """Take pictures in light and dark; every text is legible, axe-core finds nothing serious."""
    lab.width(1400, TALL)
    for shade in ("light", "dark"):
        lab.theme(shade)
        lab.page.locator(selector).first.screenshot(
            path=lab.artefacts / f"notebook7_{name}_{shade}.png"
        )
        assert lab.evaluate(FAINT_TEXTS, selector) == []
        found = Axe().run(lab.page, selector).response
        grave = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
        assert [(one["id"], one["nodes"][0]["html"][:200]) for one in grave] == []
    lab.theme("light")


def test_a_cell_is_written_with_tab_and_its_panel_goes_to_the_end(
    lab: Lab, notebook: Notebook
) -> None:
    """It is Notebook 7 that is open, Tab knows the columns, and the name becomes the frame."""
    assert lab.evaluate("jupyterapp.name") == "Jupyter Notebook"
    assert lab.evaluate("jupyterapp.version").startswith("7.")
    notebook.cell(ONE).locator(".cm-content").click()
    lab.page.keyboard.type(LABEL.format(out="one"))
    lab.page.keyboard.press("Enter")
    lab.page.keyboard.type("Rate {{ ")
    menu = offered(notebook)
    assert "별점" in words(menu)
    lab.page.screenshot(path=lab.artefacts / "notebook7_completion.png")
    lab.page.keyboard.type("te")
    expect(menu.locator(".jp-Completer-item")).to_have_count(1)
    picked(notebook, "{{ text")
    lab.page.keyboard.type(" }}")
    notebook.run(ONE)
    notebook.wait_for("the result is in one", ONE, timeout_s=60)
    notebook.wait_for("12 failed", ONE)
    assert notebook.output(ONE).locator("b, mjx-container").count() == 0
    assert lab.errors == []


def test_the_explorer_filters_opens_a_row_and_keeps_a_mark(lab: Lab, notebook: Notebook) -> None:
    """A bar, the search, a row whole, a thumb that the journal keeps.

    Keys are the explorer's: this page looks at them first, and x would cut the cell.
    """
    cells = lab.page.locator(".jp-Notebook .jp-Cell").count()
    notebook.run(EXPLORE)
    explorer = notebook.output(EXPLORE).locator(".gptbatch-explorer")
    size = explorer.locator(".size")
    expect(size).to_have_text("24 rows")
    explorer.get_by_role("button", name=re.compile("^failed: ")).click()
    expect(size).to_have_text("12 of 24 rows")
    explorer.get_by_role("button", name="take off: status: failed").click()
    explorer.get_by_role("searchbox").fill("<B>")
    expect(size).to_have_text("6 of 24 rows")
    explorer.locator("tbody tr").first.click()
    pane = explorer.locator(".pane")
    expect(pane).to_contain_text("prompt as sent")
    expect(pane).to_contain_text("Rate 2: <b>bold</b>")
    pane.get_by_role("button", name="thumb up").click()
    expect(explorer.get_by_role("img", name="thumb up")).to_have_count(1)
    looks_well(lab, ".gptbatch-explorer", "explorer")
    explorer.get_by_role("grid").focus()
    lab.page.keyboard.press("ArrowDown")
    expect(pane.locator("strong")).to_have_text(re.compile("^row 6"))
    lab.page.keyboard.press("Escape")
    expect(pane).to_be_hidden()
    lab.page.keyboard.press("x")
    expect(explorer.locator(".picks")).to_have_text("1 picked")
    explorer.get_by_role("button", name="Pick none").press("Enter")
    expect(explorer.locator(".picks")).to_have_text("0 picked")
    assert lab.page.locator(".jp-Notebook .jp-Cell").count() == cells
    notebook.run(TAKE)
    notebook.wait_for("{2: 'up'} 12", TAKE)
    assert lab.errors == []


def test_the_clinic_retries_a_cause(lab: Lab, notebook: Notebook) -> None:
    """Asked about first; the rows come in and the name holds the new result."""
    notebook.run(CLINIC)
    notebook.wait_for("12 of 24 rows without a good answer, 2 causes", CLINIC)
    looks_well(lab, ".gptbatch-clinic", "clinic")
    causes = notebook.output(CLINIC).locator(".gptbatch-clinic .widget-vbox .widget-vbox")
    cause = causes.filter(has_text="429 rate_limit")
    cause.get_by_role("button", name="Retry these").press("Enter")
    cause.get_by_role("button", name="Yes, send 6 rows").click()
    notebook.wait_for("6 of 24 rows without a good answer, 1 cause", CLINIC, timeout_s=60)
    notebook.run(TAKE_AGAIN)
    notebook.wait_for("{2: 'up'} 18", TAKE_AGAIN)
    assert lab.errors == []


def test_two_runs_are_compared_and_the_project_is_shown(lab: Lab, notebook: Notebook) -> None:
    """The report; then all runs, one of which is stopped from its row and from its panel."""
    notebook.run(OTHER)
    notebook.wait_for("the result is in two", OTHER, timeout_s=60)
    notebook.run(COMPARE)
    notebook.wait_for("24 rows matched by position", COMPARE)
    notebook.wait_for("kappa", COMPARE)
    looks_well(lab, ".gptbatch-comparison", "comparison")
    notebook.run(PROJECT)
    notebook.output(PROJECT).locator(".gptbatch-project").wait_for()
    notebook.run(STALLED)
    notebook.wait_idle()
    notebook.run(SLOWLY)
    notebook.wait_for("answered so far", SLOWLY, timeout_s=60)
    looks_well(lab, PANEL, "panel")
    notebook.click("Cancel", SLOWLY)
    notebook.click("Keep running", SLOWLY)
    slow = row(notebook, "slow", PROJECT)
    lab.until(lambda: "runs in this kernel" in slow.inner_text(), "the row is there")
    looks_well(lab, ".gptbatch-project", "project")
    assert lab.evaluate(STICKING_OUT, ".gptbatch-project") == []
    slow.focus()
    lab.page.keyboard.press("ArrowDown")
    expect(row(notebook, "two", PROJECT)).to_be_focused()
    press(slow, "Cancel")
    press(slow, "Yes, cancel")
    notebook.wait_for("cancelled", SLOWLY, timeout_s=60)
    lab.until(lambda: "cancelled" in slow.inner_text(), "its row says so as well")
    notebook.shoot("notebook7_whole")
    assert lab.errors == []
