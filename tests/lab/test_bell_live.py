"""The bell in a real page: silent until asked, then once at the end, wherever the reader looks.

The browser's own notifications and tones are real; a script put before the page writes down what
it was asked for. Two things are played to the page, because a headless browser has no person in
front of it: that nobody has answered the browser's question yet, and that the tab is hidden.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from laboratory import Lab, Notebook, Server
from playwright.sync_api import Browser, Locator
from test_panel_looks import CARDS, FAINT_TEXTS, STICKING_OUT

RECORD = """
Object.assign(window, {asked: [], rung: [], tones: []});
{
  const Real = window.Notification;
  const isAnswered = () => sessionStorage.getItem('answered') !== null;
  window.Notification = class extends Real {
    constructor(title, options) { super(title, options); rung.push([title, options.body]); }
    static get permission() { return isAnswered() ? Real.permission : 'default'; }
    static async requestPermission() {
      asked.push(navigator.userActivation.isActive);
      sessionStorage.setItem('answered', '');
      return Real.permission;
    }
  };
  const start = OscillatorNode.prototype.start;
  OscillatorNode.prototype.start = function (when) {
    tones.push(this.context.state);
    return start.call(this, when);
  };
  let isAway = false;
  Object.defineProperty(document, 'visibilityState', {get: () => isAway ? 'hidden' : 'visible'});
  window.away = (is) => { isAway = is; document.dispatchEvent(new Event('visibilitychange')); };
}
"""
FORGET = "() => { localStorage.clear(); sessionStorage.clear(); }"
REMEMBERED = "() => Object.keys(localStorage).filter(key => key.startsWith('batch_magic'))"

# Panels that end when they are told to, by a thread, as a run ends them.
DRIVE = """
import time
from dataclasses import replace
from threading import Thread
from pictures import picture, job
from batch_magic.panel import Panel
from batch_magic.records import Ending, RowStatus, Stage
COUNTS = {RowStatus.OK: 11_998, RowStatus.FAILED: 2}
def begin(name="labelled"):
    panel = Panel(picture(name=name, run_id=name, jobs=(job(0),)), on_cancel=print)
    panel.show()
    return panel
def end(*panels, ending=Ending.FINISHED, after_s=0, **changes):
    def run():
        time.sleep(after_s)
        for panel in panels:
            s = panel._snapshot
            panel.update(replace(s, as_of=s.as_of + 1, ended_at=s.as_of + 1, stage=Stage.DONE,
                                 ending=ending, counts=COUNTS, **changes))
    thread = Thread(target=run)
    thread.start()
    if not after_s:
        thread.join()
        time.sleep(1)  # for whatever the end sets off in the page
        print("told")
"""
BEGIN = f"{DRIVE}\npanel = begin()"
SAID = ["labelled: finished", "12,000 rows: 11,998 ok, 2 failed"]

SANDBOX = """import os
os.environ["BATCH_MAGIC_SANDBOX_ANSWERER"] = "stub"
os.environ["BATCH_MAGIC_SANDBOX_TIME_SCALE"] = "10"
os.environ["BATCH_MAGIC_HOME"] = "{home}"
os.environ["BATCH_MAGIC_POLL_FIRST_S"] = "0.3"
%load_ext batch_magic
import pandas as pd
reviews = pd.DataFrame({{"body": [f"review {{n}}" for n in range(20)]}})"""
CELL = "%%gptbatch reviews -o labelled -m gpt-5-mini --on sandbox\nRate: {{ body }}"


@contextmanager
def page_of(server: Server, browser: Browser, beside: Lab, *permissions: str) -> Iterator[Lab]:
    """A browser of its own that allows this much, with everything written down."""
    lab = Lab(server, browser, beside.artefacts)
    lab.page.context.grant_permissions(list(permissions))
    lab.page.context.add_init_script(RECORD)
    yield lab
    assert lab.strayed == [], "the page asked for something outside this machine"
    lab.close()


@pytest.fixture(scope="module")
def allowing(server: Server, browser: Browser, laboratory: Lab) -> Iterator[Lab]:
    with page_of(server, browser, laboratory, "notifications") as lab:
        yield lab


@pytest.fixture(scope="module")
def denying(server: Server, browser: Browser, laboratory: Lab) -> Iterator[Lab]:
    with page_of(server, browser, laboratory) as lab:
        yield lab


@pytest.fixture
def open_(allowing: Lab) -> Iterator[Callable[..., Notebook]]:
    """Opens notebooks in a browser that allows notifications and remembers nothing yet."""
    opened: list[Notebook] = []

    def opens(*cells: str) -> Notebook:
        opened.append(allowing.open(*cells, is_alone=True))
        return opened[-1]

    yield opens
    for notebook in opened:
        notebook.close()
    allowing.evaluate(FORGET)
    allowing.width(1400)
    allowing.theme("light")
    assert allowing.errors == []


def switch(notebook: Notebook, name: str, cell: int = 0) -> Locator:
    """The first switch of this name below a cell."""
    return notebook.output(cell).get_by_role("button", name=name, exact=True).first


def is_on(button: Locator) -> bool:
    return button.get_attribute("aria-pressed") == "true"


def begun(notebook: Notebook, cell: int = 0) -> Notebook:
    """The notebook with the panel of a cell on the page, its switches included."""
    notebook.run(cell)
    switch(notebook, "Notify me", cell).wait_for()
    return notebook


def ended(notebook: Notebook, cell: int) -> None:
    """Run the cell that ends the panels above it, and wait until the page has dealt with it."""
    notebook.run(cell)
    notebook.wait_for("told", cell)


def test_a_page_that_was_not_asked_stays_silent(open_: Callable[..., Notebook]) -> None:
    """Nothing is asked, shown, played, marked or remembered before a click."""
    notebook = begun(open_(BEGIN, "end(panel)"))
    lab = notebook.lab
    assert not is_on(switch(notebook, "Notify me"))
    assert not is_on(switch(notebook, "Sound"))
    title = lab.page.title()
    lab.evaluate("away(true)")
    ended(notebook, 1)
    assert lab.evaluate("[asked, rung, tones]") == [[], [], []]
    assert lab.page.title() == title
    assert lab.evaluate(REMEMBERED) == []


def test_a_run_of_the_sandbox_rings_once_with_its_words(open_: Callable[..., Notebook]) -> None:
    """The whole way: asked within the click, told while nobody looks, and the title comes back."""
    home = "home-bell"
    notebook = open_(SANDBOX.format(home=home), CELL, "labelled.gpt_status.eq('ok').sum()")
    lab = notebook.lab
    notebook.run(0)
    begun(notebook, 1)
    title = lab.page.title()
    switch(notebook, "Notify me", 1).click()
    lab.until(lambda: is_on(switch(notebook, "Notify me", 1)), "the switch is on")
    assert lab.evaluate("asked") == [True]
    lab.evaluate("away(true)")
    notebook.wait_for("the result is in", 1)
    notebook.run(2)
    notebook.wait_for("20", 2)
    assert lab.evaluate("rung") == [["labelled: finished", "20 rows: 20 ok, 0 failed"]]
    assert lab.evaluate("tones") == []
    assert lab.page.title() == f"✓ labelled · {title}"
    lab.evaluate("away(false)")
    assert lab.page.title() == title
    stop_sandbox(lab, home)


def stop_sandbox(lab: Lab, home: str) -> None:
    from batch_magic.sandbox import launcher

    launcher.stop(lab.server.root / home / "sandbox")
    shutil.rmtree(lab.server.root / home, ignore_errors=True)


def test_later_panels_of_this_browser_are_on_by_themselves(open_: Callable[..., Notebook]) -> None:
    """It is asked once; all switches of the page tell the same, and the second click ends it."""
    notebook = begun(open_(BEGIN, "other = begin('other')", "end(panel, other)"))
    lab = notebook.lab
    switch(notebook, "Notify me").click()
    lab.until(lambda: is_on(switch(notebook, "Notify me")), "the switch is on")
    notebook.save()
    notebook.reload()
    begun(notebook, 1)
    assert is_on(switch(notebook, "Notify me"))
    assert is_on(switch(notebook, "Notify me", 1))
    switch(notebook, "Notify me", 1).click()
    lab.until(lambda: not is_on(switch(notebook, "Notify me")), "both switches are off")
    ended(notebook, 2)
    assert lab.evaluate("[asked, rung]") == [[], []]
    assert lab.evaluate(REMEMBERED) == []


def test_a_choice_made_in_another_tab_counts_here(open_: Callable[..., Notebook]) -> None:
    """The choice is the browser's: what was clicked here before is out of date then."""
    notebook = begun(open_(BEGIN))
    lab = notebook.lab
    sound = switch(notebook, "Sound")
    sound.click()
    with lab.page.context.new_page() as other:
        other.goto(f"{lab.server.url}api")
        other.evaluate("localStorage.removeItem('batch_magic.bell.sound')")
        lab.until(lambda: not is_on(sound), "switched off there, it is off here")
        other.evaluate("localStorage.setItem('batch_magic.bell.sound', 'on')")
        lab.until(lambda: is_on(sound), "switched on there, it is on here")


def test_an_end_rings_once_whoever_tells_it(open_: Callable[..., Notebook]) -> None:
    """Shown twice, told by two panels of one run, shown again after the end, loaded afresh."""
    notebook = open_(BEGIN, "panel.show(); twin = begin()", "end(panel, twin)", "begin()")
    lab = begun(notebook).lab
    begun(notebook, 1)
    switch(notebook, "Notify me").click()
    switch(notebook, "Sound").click()
    lab.until(lambda: len(lab.evaluate("tones")) == 2 or None, "its tones are heard at once")
    ended(notebook, 2)
    assert lab.evaluate("[rung, tones.length]") == [[SAID], 4]
    notebook.save()
    notebook.reload()
    begun(notebook, 3)  # the page has every model of the kernel by now
    assert is_on(switch(notebook, "Sound", 3))
    assert lab.evaluate("[rung, tones]") == [[], []]


def test_it_rings_while_a_cell_blocks_and_another_tab_of_lab_is_in_front(
    open_: Callable[..., Notebook],
) -> None:
    """The end comes from a thread, the view is hidden and taken away, the kernel is busy."""
    stop = "end(panel, ending=Ending.STOPPED, fault='the key was refused: set `KEY`', after_s=1)"
    notebook = begun(open_(BEGIN, f"{stop}\ntime.sleep(5)\nprint('slept')"))
    lab = notebook.lab
    switch(notebook, "Notify me").click()
    notebook.run(1)
    lab.command("launcher:create")
    assert not notebook.output(0).is_visible()
    lab.evaluate("away(true)")
    lab.until(lambda: lab.evaluate("rung.length"), "it rings", timeout_s=3)
    assert lab.evaluate("rung") == [["labelled: stopped", "the key was refused: set KEY"]]
    assert lab.page.title().startswith("! labelled · ")


def test_it_rings_though_its_panel_was_cleared_away(open_: Callable[..., Notebook]) -> None:
    """Without a view there is still the model; a reader who tidies up has not taken it back."""
    notebook = begun(open_(BEGIN, "end(panel)"))
    lab = notebook.lab
    switch(notebook, "Notify me").click()
    lab.command("notebook:clear-all-cell-outputs")
    assert notebook.text(0) == ""
    ended(notebook, 1)
    assert lab.evaluate("rung") == [SAID]


def test_the_title_that_lab_writes_is_neither_lost_nor_left_behind(
    open_: Callable[..., Notebook],
) -> None:
    """Lab writes it anew whenever it likes; two runs that end are both told."""
    notebook = begun(open_(f"{BEGIN}; other = begin('  two  words ')", "end(panel, other)"))
    lab = notebook.lab
    switch(notebook, "Notify me").click()
    lab.evaluate("away(true)")
    ended(notebook, 1)
    marked = "✓ labelled · ✓ two words · "
    assert lab.page.title().startswith(marked)
    lab.evaluate("() => jupyterapp.shell.currentWidget.context.rename('renamed.ipynb')")
    lab.command("application:toggle-left-area")  # Lab writes the title when its layout changes
    title = "renamed.ipynb - JupyterLab"
    lab.until(lambda: lab.page.title() == marked + title, "the new title is marked")
    lab.evaluate("away(false)")
    assert lab.page.title() == title
    lab.evaluate("away(true)")
    lab.evaluate("document.title = 'anything'")
    assert lab.page.title() == "anything"


def test_the_switches_work_from_the_keyboard(open_: Callable[..., Notebook]) -> None:
    """Lab has meanings of its own for Enter and Space; on a button it leaves them to it."""
    notebook = begun(open_(BEGIN, "end(panel, ending=Ending.CANCELLED)"))
    lab = notebook.lab
    sound = switch(notebook, "Sound")
    switch(notebook, "Notify me").focus()
    lab.page.keyboard.press("Enter")
    lab.until(lambda: is_on(switch(notebook, "Notify me")), "Enter switches")
    lab.page.keyboard.press("Tab")
    assert sound.evaluate("e => e === document.activeElement")
    assert sound.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    lab.page.keyboard.press("Space")
    lab.until(lambda: is_on(sound), "Space switches")
    lab.page.keyboard.press("Space")
    lab.until(lambda: not is_on(sound), "and switches back")
    ended(notebook, 1)
    notebook.wait_for("rows that finished are kept", 0)
    assert lab.evaluate("[asked, rung[0][0]]") == [[True], "labelled: cancelled"]
    assert set(lab.evaluate("tones")) == {"running"}


@pytest.mark.parametrize("shade", ["light", "dark"])
def test_switches_that_are_on_look_so(open_: Callable[..., Notebook], shade: str) -> None:
    """In both themes; more than a colour tells the two states apart."""
    notebook = begun(open_(f"{BEGIN}; off = begin()"))
    lab = notebook.lab
    lab.theme(shade)
    notebook.shoot(f"bell_off_{shade}")
    switch(notebook, "Notify me").click()
    lab.until(lambda: is_on(switch(notebook, "Notify me")), "the switch is on")
    lab.page.mouse.move(0, 0)
    notebook.shoot(f"bell_on_{shade}")
    assert lab.evaluate(FAINT_TEXTS, CARDS) == []
    assert switch(notebook, "Notify me").locator(".on").is_visible()
    assert not switch(notebook, "Sound").locator(".on").is_visible()
    assert switch(notebook, "Sound").locator(".off").is_visible()


@pytest.mark.parametrize(("shade", "width"), [("light", 1400), ("dark", 620), ("light", 420)])
def test_a_refusal_is_told_and_the_title_does_the_work(
    denying: Lab, shade: str, width: int
) -> None:
    """In words beside the switch and on it; a browser that refuses is not asked again."""
    denying.width(width)
    denying.theme(shade)
    notebook = begun(denying.open(BEGIN, "end(panel)", is_alone=True))
    title = denying.page.title()
    notify = switch(notebook, "Notify me")
    notify.click()
    notebook.wait_for("allows no notifications here: the title of this tab will tell", 0)
    assert is_on(notify)
    assert "allows no notifications" in (notify.get_attribute("title") or "")
    denying.page.mouse.move(0, 0)
    notebook.shoot(f"bell_refused_{shade}_{width}")
    assert denying.evaluate(FAINT_TEXTS, CARDS) == []
    assert denying.evaluate(STICKING_OUT, CARDS) == []
    for _ in range(2):
        notify.click()
    denying.evaluate("away(true)")
    ended(notebook, 1)
    assert denying.page.title() == f"✓ labelled · {title}"
    assert denying.evaluate("[asked.length <= 1, rung]") == [True, []]
    assert denying.evaluate(REMEMBERED) == []
    notebook.close()


def test_a_page_without_anywidget_has_a_panel_without_a_bell(
    server: Server, browser: Browser, laboratory: Lab
) -> None:
    """A page loaded before it was installed, or a Lab elsewhere: no red box, the rest works."""
    with page_of(server, browser, laboratory) as lab:
        lab.page.context.route("**/extensions/anywidget/**", lambda route: route.abort())
        notebook = lab.open(BEGIN, "end(panel)", is_alone=True)
        notebook.run(0)
        notebook.wait_for("Cancel", 0)
        lab.page.wait_for_selector(".jupyter-widgets-error-widget", state="attached")
        assert "rror" not in notebook.text(0)
        notebook.shoot("bell_missing")
        ended(notebook, 1)
        notebook.wait_for("use the frame", 0)
        notebook.close()
