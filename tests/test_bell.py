"""The bell without a page: its words, its one ring, and the terminal's."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from pictures import ALBUM, picture

from batch_magic.bell import BODY_LENGTH, PAGE, Bell, end_words
from batch_magic.panel import TextPanel
from batch_magic.records import Ending, Request, RowStatus, Stage

TESTS = Path(__file__).parent
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}

# A run ends while the main thread does something else, as under a prompt or a wait.
END = """
from threading import Thread
from pictures import ALBUM, picture
from batch_magic.panel import TextPanel
panel = TextPanel(picture())
def end():
    for _ in range(3): panel.update(ALBUM["finished"])
thread = Thread(target=end); thread.start(); thread.join()
panel.tell(); panel.say("the result is in `labelled`"); panel.tell()
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own whose output is a pipe."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)


def on_terminal(
    *command: str, typed: bytes = b"", until: Callable[[bytes], bool] = lambda _: False
) -> bytes:
    """Run a command at a terminal and return what it wrote there, until it ends or as told."""
    ours, theirs = pty.openpty()
    environment = ENVIRONMENT | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    process = subprocess.Popen(
        command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    os.write(ours, typed)
    said, end = b"", time.monotonic() + 60
    with suppress(OSError):  # how Linux tells that the other side has hung up
        while not until(said) and time.monotonic() < end and (more := os.read(ours, 65_536)):
            said += more
    process.terminate()
    process.wait(10)
    os.close(ours)
    return said


# ── words ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "title", "body", "mark"),
    [
        ("finished", "labelled: finished", "12,000 rows: 12,000 ok, 0 failed", "✓ labelled"),
        (
            "cancelled",
            "labelled: cancelled",
            "12,000 rows: 7,412 ok, 0 failed, 4,588 cancelled",
            "– labelled",
        ),
        (
            "stopped",
            "labelled: stopped",
            "the key was refused (401 invalid_api_key): set OPENAI_API_KEY to a valid key",
            "! labelled",
        ),
    ],
)
def test_an_end_is_told_in_the_words_of_the_card(
    kind: str, title: str, body: str, mark: str
) -> None:
    """A reader who comes back because of them finds the same words."""
    words = end_words(ALBUM[kind])
    assert (words["title"], words["body"], words["mark"]) == (title, body, mark)


def test_a_run_in_vain_is_not_told_as_a_success() -> None:
    """Finished without one row ok is no reason for a tick."""
    words = end_words(replace(ALBUM["finished"], counts={RowStatus.FAILED: 12_000}))
    assert words["title"] == "labelled: finished, no row ok"
    assert words["mark"] == "! labelled"


def test_several_models_are_told_as_in_the_card() -> None:
    """Counts are of answers there, so the rows are told with the models."""
    request = Request("/v1/chat/completions", "a,b", "{{ body }}", several_models=("a", "b"))
    s = replace(ALBUM["finished"], request=request)
    assert end_words(s)["body"] == "6,000 rows × 2 models: 12,000 ok, 0 failed"


def test_foreign_words_are_short_and_printable() -> None:
    """A fault is a service's own text; a notification is no place for all of it."""
    evil = "\x1b]0;pwned\x07 \u202e" + "long " * 500
    s = replace(ALBUM["stopped"], name=evil, fault=evil)
    words = end_words(s)
    assert max(map(len, words.values())) <= BODY_LENGTH
    assert all(text.isprintable() for text in words.values())


def test_each_end_has_a_tag_of_its_own() -> None:
    """A retry of a run ends once more, and that is told; the same end never is."""
    s = ALBUM["finished"]
    again = replace(s, ended_at=s.as_of + 900, as_of=s.as_of + 900)
    later_look = replace(s, as_of=s.as_of + 900)
    assert end_words(again)["tag"] != end_words(s)["tag"] == end_words(later_look)["tag"]


# ── the page's widget ─────────────────────────────────────────────────────────────────────────


def test_it_rings_once() -> None:
    """A line said after the end draws the panel again; the end it tells of stays the first."""
    bell = Bell()
    bell.ring(ALBUM["finished"])
    bell.ring(ALBUM["cancelled"])
    (widget,) = bell.widgets
    assert widget.ended == end_words(ALBUM["finished"])


def test_the_page_loads_nothing_and_writes_texts_as_texts() -> None:
    """The one address in it is the name of SVG, which nobody fetches."""
    assert PAGE.replace("http://www.w3.org/2000/svg", "").count("://") == 0
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "import ", "import(", "fetch("):
        assert word not in PAGE


def test_without_anywidget_there_is_a_panel_without_a_bell() -> None:
    """It is an extra of the panel, and never the reason why there is none."""
    code = (
        "import sys; sys.modules['anywidget'] = None\n"
        "from pictures import ALBUM, picture\n"
        "from batch_magic.panel import Panel\n"
        "panel = Panel(picture(), on_cancel=print)\n"
        "bell = panel._live._bell\n"
        "panel.update(ALBUM['finished'])\n"
        "print(bell.widgets, panel._ended is not None)"
    )
    assert run(code).stdout == "() True\n"


def test_loading_the_extension_does_not_load_anywidget() -> None:
    """It costs 25 ms, and only who sees a panel needs it."""
    code = "import sys, batch_magic.magic, batch_magic.bell; print('anywidget' in sys.modules)"
    assert run(code).stdout == "False\n"


# ── the terminal ──────────────────────────────────────────────────────────────────────────────


def test_a_terminal_rings_once_when_the_run_has_ended() -> None:
    """However often and by however many threads the end is told, before or after its lines."""
    said = on_terminal(sys.executable, "-c", END)
    assert said.count(b"\a") == 1
    assert said.startswith(b"\alabelled: finished")
    assert b"the result is in" in said


def test_an_output_that_is_no_terminal_gets_no_bell() -> None:
    """A log file with control characters in it is a nuisance."""
    assert "\a" not in (said := run(END).stdout)
    assert said.startswith("labelled: finished")


@pytest.mark.parametrize("closing", ["sys.stdout.close()", "sys.stdout = None"])
def test_an_output_that_is_gone_gets_no_bell_and_no_error(closing: str) -> None:
    """The bell must not cost the thread that tells the end its life."""
    code = f"import sys; from batch_magic.bell import ring_terminal; {closing}; ring_terminal()"
    run(code)


def test_a_run_that_had_ended_before_rings_nothing() -> None:
    """Looking at an old run is no event."""
    rung: list[str] = []
    panel = TextPanel(
        ALBUM["stopped"], write=lambda _: None, ring=lambda: rung.append("at the end")
    )
    panel.show()
    panel.update(ALBUM["finished"])
    assert rung == []


def test_the_bell_does_not_wait_for_the_side_that_prints() -> None:
    """At a prompt nothing is printed until the next line is entered: the bell is to call for it."""
    written: list[str] = []
    panel = TextPanel(picture(), write=written.append, ring=lambda: written.append("bell"))
    panel.show()
    panel.update(picture(stage=Stage.COLLECTING))
    assert len(written) == 1
    panel.update(picture(ending=Ending.FINISHED, stage=Stage.DONE, ended_at=9.0))
    assert written[1:] == ["bell"]


def test_an_ipython_prompt_hears_the_bell_and_keeps_its_line(tmp_path: Path) -> None:
    """Nobody has to press a key for it, and the prompt is drawn again with nothing lost."""
    script = tmp_path / "start.py"
    script.write_text(
        "from threading import Timer\nfrom pictures import ALBUM, picture\n"
        "from batch_magic.panel import open_panel\n"
        "panel = open_panel(picture(), on_cancel=print)\nprint(type(panel).__name__)\n"
        "Timer(2, panel.update, [ALBUM['finished']]).start()\n"
    )
    arguments = ["--no-banner", f"--ipython-dir={tmp_path}", "-i", str(script)]
    said = on_terminal(
        *(sys.executable, "-m", "IPython", *arguments),
        typed=b"half_a_name",
        until=lambda said: b"half_a_name" in after_bell(said),
    )
    assert b"TextPanel" in said
    assert b"half_a_name" in after_bell(said)


def after_bell(said: bytes) -> bytes:
    """What came after the bell; the titles that IPython gives to its window end with one too."""
    return re.sub(rb"\x1b\][^\x07]*\x07", b"", said).partition(b"\a")[2]
