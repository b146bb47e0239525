"""Tab in a real JupyterLab: what is offered is seen, picked, and stands where it belongs."""

from __future__ import annotations

import pytest
from laboratory import Lab, Notebook
from playwright.sync_api import Locator

SET_UP = """
%load_ext batch_magic
import pandas as pd
from pydantic import BaseModel
class Label(BaseModel):
    label: str
reviews = pd.DataFrame({"title": ["a lamp"], "제목": ["등"], "any name": [1]})
print("ready")
"""
MENU = ".jp-Completer:not(.lm-mod-hidden)"


def type_in(notebook: Notebook, text: str) -> None:
    """Type into the second cell, as a person does."""
    notebook.lab.page.keyboard.type(text)


def offered(notebook: Notebook) -> Locator:
    """Press Tab and return the menu."""
    page = notebook.lab.page
    page.keyboard.press("Tab")
    menu = page.locator(MENU)
    menu.wait_for()
    return menu


def words(menu: Locator) -> str:
    """What a menu shows, without the letters in front, in one line."""
    items = menu.locator(".jp-Completer-item").all()
    parts = [
        item.locator(f".jp-Completer-{part}").inner_text()
        for item in items
        for part in ("match", "typeExtended")
    ]
    return " ".join(parts).replace("\u00a0", " ")


def source(notebook: Notebook) -> str:
    return str(
        notebook.lab.evaluate(
            "() => jupyterapp.shell.currentWidget.content.widgets[1].model.sharedModel.source"
        )
    )


def picked(notebook: Notebook, wanted: str) -> None:
    """Pick the first one that is offered and wait for it in the cell."""
    notebook.lab.page.keyboard.press("Enter")
    notebook.lab.until(lambda: source(notebook).endswith(wanted), f"the cell ends with {wanted!r}")


@pytest.mark.parametrize("shade", ["light", "dark"])
def test_a_cell_is_written_with_tab_alone(lab: Lab, shade: str) -> None:
    """Frame, option, model, column behind Korean text, filter: each is offered and picked."""
    lab.theme(shade)
    notebook = lab.open(SET_UP, "")
    notebook.run(0)
    notebook.wait_for("ready", 0)
    notebook.cell(1).locator(".cm-content").click()
    type_in(notebook, "%%gptbatch re")
    menu = offered(notebook)
    assert words(menu) == "reviews frame, 1 row × 3"
    picked(notebook, "%%gptbatch reviews")
    type_in(notebook, " --")
    menu = offered(notebook)
    assert "--model the model" in words(menu)
    lab.page.screenshot(path=lab.artefacts / f"completion_options_{shade}.png")
    type_in(notebook, "mod")
    picked(notebook, "--model")
    type_in(notebook, " ")
    menu = offered(notebook)
    assert "out per million tokens by batch" in words(menu)
    lab.page.screenshot(path=lab.artefacts / f"completion_models_{shade}.png")
    type_in(notebook, "gpt-5-mini")
    picked(notebook, "--model gpt-5-mini")
    type_in(notebook, "\n리뷰 🦙 {{ t")
    offered(notebook)
    picked(notebook, "리뷰 🦙 {{ title")
    type_in(notebook, " | low")
    offered(notebook)
    picked(notebook, "| lower")
    type_in(notebook, " }} {{ ")
    menu = offered(notebook)
    assert "제목" in menu.inner_text()
    assert 'row["any name"]' in menu.inner_text()
    menu.get_by_text('row["any name"]').wait_for()
    lab.page.screenshot(path=lab.artefacts / f"completion_columns_{shade}.png")
    lab.page.keyboard.press("Escape")
    notebook.close()


def test_the_tooltip_of_the_magic_reads_well(lab: Lab) -> None:
    """Shift-Tab on the magic's name tells what to write, with examples."""
    notebook = lab.open(SET_UP, "%%gptbatch")
    notebook.run(0)
    notebook.wait_for("ready", 0)
    notebook.cell(1).locator(".cm-content").click()
    lab.page.keyboard.press("Control+End")
    lab.page.keyboard.press("Shift+Tab")
    tooltip = lab.page.locator(".jp-Tooltip")
    tooltip.wait_for()
    lab.page.screenshot(path=lab.artefacts / "tooltip_light.png")
    assert "%%gptbatch FRAME" in tooltip.inner_text()
    assert "--model" in tooltip.inner_text()
    lab.page.keyboard.press("Escape")
    notebook.close()
