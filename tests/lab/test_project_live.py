"""The project view under the hands of a reader: every button, filter and key, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from laboratory import Lab, Notebook
from playwright.sync_api import Locator
from projects import go_on, id_of
from test_panel_looks import FAINT_TEXTS, STICKING_OUT

VIEW = ".gptbatch-project"
SHOW = "%gptbatch"
FILLED = """
import os
os.environ |= {"BATCH_MAGIC_HOME": HOME, "BATCH_MAGIC_SANDBOX_ANSWERER": "stub"}
from pathlib import Path
import projects
MAKE
%load_ext batch_magic
print("ready")
"""
SANDBOX = """
import os
os.environ |= {"BATCH_MAGIC_SANDBOX_ANSWERER": "stub", "BATCH_MAGIC_POLL_FIRST_S": "0.2",
               "BATCH_MAGIC_SANDBOX_TIME_SCALE": "60", "BATCH_MAGIC_HOME": HOME}
%load_ext batch_magic
import pandas as pd, json, pathlib, urllib.request
def frame(word, rows=30):
    return pd.DataFrame({"text": [f"{word} {n}" for n in range(rows)]})
def fault(**faults):
    server = json.loads((pathlib.Path(HOME) / "sandbox" / "server.json").read_text())
    url = server["url"].removesuffix("/v1") + "/sandbox/faults"
    method = "PUT" if faults else "DELETE"
    body = json.dumps(faults).encode()
    urllib.request.urlopen(urllib.request.Request(url, body, method=method))
print("ready")
"""


def cell(frame: str, name: str) -> str:
    """A cell that submits a frame, and says when it has."""
    line = f'%%gptbatch "{frame}" -o {name} -m gpt-5-mini --on sandbox --retries 0'
    return f"{line}\nRate: {{{{ text }}}}"


def opened(lab: Lab, set_up: str, *cells: str, home: str = "") -> Notebook:
    """A notebook whose first cell has set a home up, its own or one that is there."""
    home = home or f".gptbatch-{len(list(lab.server.root.iterdir()))}"
    notebook = lab.open(f"HOME = {home!r}\n{set_up}", *cells)
    notebook.run(0)
    notebook.wait_for("ready", 0)
    return notebook


def shown(notebook: Notebook, at: int = 1) -> Notebook:
    """The notebook with the project view in one of its cells."""
    notebook.run(at)
    notebook.output(at).locator(VIEW).wait_for()
    return notebook


def row(notebook: Notebook, name: str, at: int = 1) -> Locator:
    """The row of the newest run of this name."""
    view = notebook.output(at).locator(VIEW)
    return view.get_by_role("listitem").filter(has=view.page.get_by_text(name, exact=True)).first


def press(one: Locator, words: str) -> None:
    """Press the button in a row that says this."""
    one.locator("button", has_text=words).first.click()


def says(notebook: Notebook, one: Locator, words: str, timeout_s: float = 60) -> None:
    """Wait until a row says this."""
    try:
        notebook.lab.until(lambda: words in one.inner_text(), words, timeout_s=timeout_s)
    except TimeoutError as error:
        raise AssertionError(f"{error}; the view says:\n{notebook.text(1)}") from None


def names(notebook: Notebook) -> list[str]:
    return notebook.output(1).locator(f"{VIEW} .name").all_inner_texts()


# -- what is seen ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(laboratory: Lab) -> Iterator[Notebook]:
    """The view of a home that has a run of each kind."""
    laboratory.width(1400)
    set_up = FILLED.replace("MAKE", "projects.fill(Path(HOME))")
    notebook = opened(laboratory, set_up, SHOW)
    yield shown(notebook)
    notebook.close()


@pytest.mark.parametrize("width", [1400, 620, 420, 320])
@pytest.mark.parametrize("shade", ["light", "dark"])
def test_every_run_is_legible_at_every_width(
    lab: Lab, filled: Notebook, shade: str, width: int
) -> None:
    """Contrast meets AA, nothing sticks out, and axe finds nothing to complain of."""
    lab.theme(shade)
    lab.width(width)
    filled.shoot(f"project_{shade}_{width}")
    assert lab.evaluate(FAINT_TEXTS, VIEW) == []
    assert lab.evaluate(STICKING_OUT, VIEW) == []
    found = Axe().run(lab.page, context=VIEW).response
    assert len(found["passes"]) > 10
    assert [(one["id"], one["impact"], one["nodes"]) for one in found["violations"]] == []


def test_whatever_a_run_says_is_text(lab: Lab, filled: Notebook) -> None:
    """HTML in an error or a model's name, dollars, Korean and Arabic."""
    text = filled.text(1)
    for words in ('<img src=x onerror="', "$x^2$ and $y$", "<b>gpt</b>-$5$", "설문_라벨", "تصنيف"):
        assert words in text
    assert filled.output(1).locator("img, mjx-container").count() == 0
    assert lab.page.title() != "owned"
    assert lab.errors == []


def test_a_row_tells_how_its_run_stands(filled: Notebook) -> None:
    """State, rows, money, model, backend, notebook, who works at it, whether it was taken."""
    told = {
        "elsewhere": ["in progress, step 4", "0 ok", "33 %", "est. $0.40 to $1.20", "333 answered",
                      "gpt-5-mini", "openai", " min ago", "runs in analysis/other.ipynb"],
        "orphaned": ["no kernel works at it", "from label.ipynb"],
        "reviews_out": ["finished", "$0.42", "3 d ago, took 4 min", "result taken"],
        "설문_라벨": ["12 refused", "100 failed", "commonest error", "result not taken yet"],
        "rehearsal": ["free", "sandbox"],
    }  # fmt: skip
    for name, words in told.items():
        text = " ".join(row(filled, name).inner_text().split())
        assert [word for word in words if word not in text] == [], text


def test_each_run_offers_what_may_be_done(filled: Notebook) -> None:
    """And nothing else."""
    offered = {
        name: row(filled, name).locator(".deeds button").all_inner_texts()
        for name in ("expensive", "refused_key", "elsewhere", "تصنيف", "reviews_out")
    }
    assert offered == {
        "expensive": ["Submit", "Drop"],
        "refused_key": ["Attach", "Explore", "Cancel", "Clean"],
        "elsewhere": ["Attach", "Explore", "Cancel"],
        "تصنيف": ["Take result", "Explore", "Retry"],
        "reviews_out": ["Take result", "Explore", "Clean"],
    }


# -- filters, order, keys ---------------------------------------------------------------------


def test_filters_and_orders_are_all_used(lab: Lab, filled: Notebook) -> None:
    """By text, by how runs stand, in every order."""
    view = filled.output(1).locator(VIEW)
    find = view.get_by_role("searchbox")
    which, order = (view.locator("select").nth(n) for n in (0, 1))
    newest = ["rehearsal", "orphaned", "elsewhere", "expensive", "refused_key", "تصنيف",
              "설문_라벨", "reviews_out"]  # fmt: skip
    orders = {
        "oldest first": newest[::-1],
        "by name": ["elsewhere", "expensive", "orphaned", "refused_key", "rehearsal"],
        "most rows first": newest,
        "dearest first": ["تصنيف", "설문_라벨", "reviews_out"],
        "newest first": newest,
    }
    for words, expected in orders.items():
        order.select_option(words)
        lab.until(lambda e=expected: names(filled)[: len(e)] == e, f"{words}: {expected}")
    shows = {
        "going on": newest[1:3],
        "ended": [newest[0], *newest[3:]],
        "to look at": ["expensive", "refused_key", "설문_라벨"],
        "all": newest,
    }
    for words, expected in shows.items():
        which.select_option(words)
        lab.until(lambda e=expected: names(filled) == e, f"{words}: {expected}")
    for text, expected in {"설문": ["설문_라벨"], "sandbox fin": ["rehearsal"], "zzz": []}.items():
        find.fill(text)
        lab.until(lambda e=expected: names(filled) == e, f"{text}: {expected}")
    assert "no run is like that" in filled.text(1)
    find.fill("")
    lab.until(lambda: names(filled) == newest, "all of them again")


def test_it_is_used_by_keyboard_alone(lab: Lab, filled: Notebook) -> None:
    """Arrows from run to run and into buttons, Escape leaves a question, / finds the filter."""
    keys = lab.page.keyboard
    first = row(filled, "rehearsal")
    first.focus()
    for key, expected in {"ArrowDown": "orphaned", "End": "reviews_out", "Home": "rehearsal",
                          "ArrowUp": "rehearsal"}.items():  # fmt: skip
        keys.press(key)
        assert focused(lab).get("run") == expected, key
    keys.press("End")
    keys.press("ArrowRight")
    assert focused(lab)["text"] == "Take result"
    for _ in range(3):
        keys.press("ArrowRight")
        if focused(lab)["text"] == "Clean":
            break
    keys.press("Enter")
    assert "Delete the files of 1,000 rows?" in row(filled, "reviews_out").inner_text()
    assert focused(lab)["text"] == "Keep it"
    filled.shoot("project_asked")
    keys.press("Escape")
    assert focused(lab)["text"] == "Clean"
    assert "Delete the files" not in filled.text(1)
    keys.press("/")
    assert focused(lab)["tag"] == "INPUT"
    assert lab.evaluate("() => jupyterapp.shell.currentWidget.content.activeCellIndex") <= 1


def focused(lab: Lab) -> dict[str, str]:
    found: dict[str, str] = lab.evaluate(
        "() => { const e = document.activeElement; return {tag: e.tagName,"
        " text: e.tagName === 'BUTTON' ? e.textContent : '',"
        " run: e.closest('.run')?.querySelector('.name').textContent ?? ''} }"
    )
    return found


# -- every button ------------------------------------------------------------------------------

MIXED = """
mixed = frame("a lamp", 12)
mixed.loc[[3, 7], "text"] += " [[fault:400:once]]"
"""
LEAVE = "%config GPTBatch.confirm_above_usd = 0.0000001"
NO_LEAVE = "%config GPTBatch.confirm_above_usd = 0.0"
STALL = "fault(stall_after_share=0.4)"


def test_every_button_does_what_it_says(lab: Lab) -> None:
    """Take, explore, retry, submit, drop, cancel and clean, asked about where it takes."""
    notebook = opened(
        lab, SANDBOX + MIXED, SHOW, cell("mixed", "labelled"), "labelled = 'my own'",
        "del labelled", "print(len(labelled), (labelled.gpt_status == 'ok').sum())",
        LEAVE, cell("frame('dear')", "dear"), cell("frame('dearer')", "dearer"), NO_LEAVE,
        STALL, cell("frame('slow')", "slow"),
    )  # fmt: skip
    shown(notebook)
    notebook.wait_for("there are no runs yet", 1)
    notebook.run(2)
    labelled = row(notebook, "labelled")
    says(notebook, labelled, "2 failed")

    press(labelled, "Take result")
    notebook.wait_for("holds this result already", 1)
    notebook.run(3)
    press(labelled, "Take result")
    notebook.wait_for("labelled holds a str of yours, and keeps it", 1)
    notebook.run(4)
    press(labelled, "Take result")
    notebook.wait_for("the result is in labelled", 1)
    notebook.run(5)
    notebook.wait_for("12 10", 5)

    press(labelled, "Explore")
    explorer = notebook.output(1).locator(".gptbatch-explorer-outer")
    explorer.wait_for()
    lab.until(lambda: "a lamp 11" in explorer.inner_text(), "its rows are there")
    notebook.shoot("project_explore")

    press(labelled, "Retry")
    says(notebook, labelled, "Ask again for 2 rows without an answer? It is free here.")
    notebook.shoot("project_retry")
    press(labelled, "Yes, ask again")
    says(notebook, labelled, "12 ok")
    lab.until(lambda: bound(notebook, 5) == "12 12", "the frame has all answers")

    for at in (6, 7, 8, 9):
        notebook.run(at)
        notebook.wait_idle()
    dear, dearer = row(notebook, "dear"), row(notebook, "dearer")
    says(notebook, dearer, "not submitted yet")
    press(dear, "Submit")
    says(notebook, dear, "Really send 30 rows to gpt-5-mini?")
    press(dear, "Yes, submit")
    says(notebook, dear, "30 ok")
    notebook.wait_for("the result is in dear", 1)
    press(dearer, "Drop")
    press(dearer, "Yes, drop it")
    says(notebook, dearer, "cancelled")

    notebook.run(10)
    notebook.run(11)
    slow = row(notebook, "slow")
    says(notebook, slow, "runs in this kernel")
    press(slow, "Cancel")
    press(slow, "Keep it")
    assert slow.locator(".ask").is_hidden()
    press(slow, "Cancel")
    notebook.shoot("project_cancel")
    press(slow, "Yes, cancel")
    says(notebook, slow, "18 cancelled")

    says(notebook, labelled, "result taken")
    press(labelled, "Clean")
    press(labelled, "Delete here and at the service")
    notebook.wait_for("labelled is deleted", 1)
    lab.until(lambda: "labelled" not in names(notebook), "the row is gone")
    press(dear, "Clean")
    press(dear, "Delete here")
    lab.until(lambda: names(notebook) == ["slow", "dearer"], "that row is gone as well")
    assert lab.errors == []
    notebook.shoot("project_done")
    notebook.close()


def bound(notebook: Notebook, at: int) -> str:
    notebook.run(at)
    notebook.wait_idle()
    return notebook.text(at).strip()


BUSY = """
import time
ends = time.monotonic() + 30
while time.monotonic() < ends and not handle.snapshot().cancelling:
    time.sleep(0.1)
print("cancelled while busy:", handle.snapshot().cancelling)
print("bound while busy:", slow is handle)
"""


def test_buttons_are_answered_while_a_cell_blocks(lab: Lab) -> None:
    """The view moves, filters and cancels under a cell that does not let go."""
    notebook = opened(
        lab, SANDBOX, SHOW, cell("frame('warm')", "warm"), STALL,
        f"{cell('frame(chr(115))', 'slow')}", "handle = slow", BUSY,
    )  # fmt: skip
    shown(notebook)
    notebook.run(2)
    says(notebook, row(notebook, "warm"), "30 ok")
    for at in (3, 4, 5):
        notebook.run(at)
        notebook.wait_idle()
    notebook.run(6)
    slow = row(notebook, "slow")
    says(notebook, slow, "answered so far")
    notebook.output(1).locator(VIEW).get_by_role("searchbox").fill("slow")
    lab.until(lambda: names(notebook) == ["slow"], "filtered under a busy kernel")
    press(slow, "Cancel")
    press(slow, "Yes, cancel")
    notebook.wait_for("cancelled while busy: True", 6)
    notebook.wait_for("bound while busy: True", 6)
    notebook.close()


# -- another kernel ----------------------------------------------------------------------------


def test_a_run_of_another_notebook_moves_and_can_be_attached(lab: Lab) -> None:
    """One notebook submits; the other sees it go on, and where, attaches it and cancels it."""
    first = opened(
        lab, SANDBOX, cell("frame('warm')", "warm"), STALL, cell("frame('slow')", "slow")
    )
    home = first.cell(0).inner_text().split("'")[1]
    first.run(1)
    first.wait_for("the result is in", 1, timeout_s=60)
    first.run(2)
    first.wait_idle()
    first.run(3)
    first.wait_for("answered so far", 3, timeout_s=60)

    second = opened(lab, SANDBOX, SHOW, "print(type(slow).__name__)", home=home)
    shown(second)
    slow = row(second, "slow")
    says(second, slow, f"runs in {first.path}")
    says(second, slow, "answered so far")
    second.shoot("project_elsewhere")
    press(slow, "Attach")
    second.wait_for("slow holds the run until it has ended", 1)
    lab.until(lambda: bound(second, 2) == "Run", "the name is bound")
    press(slow, "Cancel")
    press(slow, "Yes, cancel")
    says(second, slow, "18 cancelled")
    second.wait_for("the result is in slow", 1)
    lab.until(lambda: bound(second, 2) == "DataFrame", "its result comes here as well")
    first.close()
    second.close()


# -- what is left, and what it costs -----------------------------------------------------------


def test_a_saved_view_reads_as_well_without_its_kernel(lab: Lab, filled: Notebook) -> None:
    """Somebody else opens the file: a table of the runs, no error, nothing that acts."""
    filled.add()
    filled.save()
    sent_on = filled.reopen_elsewhere()
    lab.width(1000)
    sent_on.shoot("project_saved")
    text = sent_on.text(1)
    for words in ("runs of this project", "설문_라벨", "880 ok, 12 refused", "<b>gpt</b>-$5$"):
        assert words in text
    assert sent_on.output(1).locator("img, mjx-container, button").count() == 0
    assert lab.evaluate(FAINT_TEXTS, ".jp-OutputArea-output section") == []
    sent_on.close()


LOOKING = """
import threading, time
thread = [t for t in threading.enumerate() if t.name == "batch_magic"][-1]
view = get_ipython().find_line_magic("gptbatch").__self__._projects[-1]
print("looked at:", view.is_looked_at)
"""


def test_nothing_is_read_for_a_view_that_nobody_sees(lab: Lab) -> None:
    """The output is cleared: the page says so, and the thread sleeps; shown anew it is another."""
    set_up = FILLED.replace("MAKE", "projects.fill(Path(HOME))")
    notebook = shown(opened(lab, set_up, SHOW, LOOKING))
    lab.until(lambda: bound(notebook, 2) == "looked at: True", "somebody looks")
    notebook.run(1)
    notebook.wait_idle()
    lab.command("notebook:move-cursor-up")
    lab.evaluate("() => { jupyterapp.shell.currentWidget.content.activeCellIndex = 1 }")
    lab.command("notebook:clear-cell-output")
    lab.until(lambda: bound(notebook, 2) == "looked at: False", "nobody looks")
    shown(notebook)
    lab.until(lambda: bound(notebook, 2) == "looked at: True", "somebody looks again")
    notebook.close()


CPU = """
import time
began, spent = time.monotonic(), time.process_time()
time.sleep(12)
share = (time.process_time() - spent) / (time.monotonic() - began)
print(f"kernel {share:.2%}")
"""
RUNS = 200


def test_two_hundred_runs_are_shown_at_once_and_kept_up_at_little_cost(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """First paint, then the CPU of a view: while nothing is written, and while ten writes a second
    are made by another kernel."""
    set_up = FILLED.replace("MAKE", f"projects.crowd(Path(HOME), {RUNS})")
    notebook = opened(lab, set_up, SHOW, CPU, CPU)
    home = lab.server.root / notebook.cell(0).inner_text().split("'")[1]
    began = time.monotonic()
    notebook.run(1)
    notebook.output(1).locator(f"{VIEW} .run").nth(49).wait_for()
    painted_s = time.monotonic() - began
    view = notebook.output(1).locator(VIEW)
    assert "1 to 50 of 200" in view.inner_text()
    view.get_by_role("button", name="Next").click()
    lab.until(lambda: names(notebook)[0] == "run_149", "the next page")
    view.get_by_role("button", name="Previous").click()
    lab.until(lambda: names(notebook)[0] == "run_199", "the first page")
    notebook.shoot("project_crowd")
    notebook.run(2)
    notebook.wait_for("kernel", 2, timeout_s=60)
    notebook.run(3)
    moved = row(notebook, "run_190")
    ids = [id_of(f"run_{n}") for n in range(0, RUNS, 10)]
    ends, claimed = time.monotonic() + 14, 400
    while time.monotonic() < ends:
        claimed += 1
        go_on(home, ids[claimed % len(ids)], claimed)
        time.sleep(0.1)
    go_on(home, ids[19], 777)
    says(notebook, moved, "777 answered so far", timeout_s=10)
    notebook.wait_for("kernel", 3, timeout_s=60)
    with capsys.disabled():
        print(f"\n{RUNS} runs: first paint {painted_s:.2f} s; CPU of the kernel while nothing is"
              f" written: {notebook.text(2).strip()}, with ten writes a second:"
              f" {notebook.text(3).strip()}")  # fmt: skip
    assert painted_s < 3
    notebook.close()
