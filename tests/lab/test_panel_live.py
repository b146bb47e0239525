"""A panel that is driven from a thread, as a run drives it, under the hands of a reader."""

from __future__ import annotations

import pytest
from laboratory import Lab, Notebook

# A thread that hands the panel a newer picture five times a second until the run is cancelled.
DRIVE = """
from dataclasses import replace
from threading import Event, Thread
from pictures import picture, job
from batch_magic.panel import Panel
from batch_magic.records import Ending, RowStatus, Stage
cancelled = Event()
def drive(panel, s):
    while not cancelled.wait(0.2):
        s = replace(s, as_of=s.as_of + 1, claimed_ok=s.claimed_ok + 7)
        panel.update(s)
    counts = {RowStatus.OK: s.claimed_ok, RowStatus.CANCELLED: s.rows - s.claimed_ok}
    panel.update(replace(s, as_of=s.as_of + 1, stage=Stage.DONE, ending=Ending.CANCELLED,
                         ended_at=s.as_of + 1, counts=counts))
start = picture(jobs=(job(0), job(1)), claimed_ok=1000)
panel = Panel(start, on_cancel=cancelled.set)
panel.show()
Thread(target=drive, args=(panel, start), daemon=True).start()
"""
BUSY = """
import time
ends = time.monotonic() + 30
while time.monotonic() < ends and not cancelled.is_set():
    time.sleep(0.1)
print("cancelled while busy:", cancelled.is_set())
"""
CONFIRM = "Really cancel? finished rows are kept"


@pytest.fixture
def driven(lab: Lab) -> Notebook:
    """A notebook with a panel in its first cell and a loop that blocks in its second."""
    notebook = lab.open(DRIVE, BUSY)
    notebook.run(0)
    notebook.wait_for("answered so far", 0)
    return notebook


def percent(notebook: Notebook) -> str:
    bar = notebook.output(0).get_by_role("progressbar")
    return bar.get_attribute("aria-valuenow") or ""


def test_cancel_works_while_a_cell_blocks(driven: Notebook) -> None:
    """Asked twice, answered at once; the panel goes on meanwhile and ends as the final card."""
    driven.run(1)
    before = percent(driven)
    driven.click("Cancel", 0)
    driven.click("Keep running", 0)
    driven.click("Cancel", 0)
    driven.wait_for(CONFIRM, 0)
    driven.lab.until(lambda: percent(driven) != before, "the bar moves while the cell blocks")
    driven.shoot("panel_asking")
    driven.click(CONFIRM, 0)
    driven.wait_for("cancelled while busy: True", 1, timeout_s=10)
    driven.wait_for("rows that finished are kept", 0)
    assert driven.output(0).get_by_role("button").count() == 0
    assert driven.output(0).get_by_role("progressbar").count() == 1
    outputs = driven.save()["cells"][0]["outputs"]
    assert [set(output["data"]) for output in outputs] == [{"text/html", "text/plain"}] * 2
    assert outputs[1]["data"]["text/html"] in ("", [])
    driven.close()


def test_a_reload_of_the_page_finds_the_living_panel(driven: Notebook) -> None:
    """The kernel goes on, and so does what the reader sees."""
    driven.save()
    driven.reload()
    driven.wait_for("Cancel", 0)
    before = percent(driven)
    driven.lab.until(lambda: percent(driven) != before, "the bar moves after the reload")
    assert driven.output(0).get_by_role("progressbar").count() == 1
    driven.close()


def test_a_restart_of_the_kernel_leaves_the_receipt(driven: Notebook) -> None:
    """What cannot go on by itself does not look alive for long, and says how to get it back."""
    driven.restart_kernel()
    assert "no news" not in driven.text(0)
    driven.lab.evaluate("() => document.getAnimations().forEach(a => a.finish())")  # two minutes
    driven.wait_for("no news: the kernel is silent for 120 s", 0)
    driven.shoot("panel_of_a_dead_kernel")
    driven.save()
    driven.reload()
    driven.wait_for("%gptbatch attach labelled", 0)
    driven.shoot("panel_after_restart")
    assert driven.output(0).get_by_role("button").count() == 0
    assert "no news" not in driven.text(0)
    driven.close()
