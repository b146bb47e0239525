"""IPython at a real terminal: what a notebook draws is words here, and Tab helps.

The terminal is a pseudo-terminal of 120 columns and the keys are pressed one by one, as a person
presses them; what is asserted is the text that is left when colours and moves of the cursor are
taken out.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from batch_magic.sandbox import launcher

PROJECT = Path(__file__).parent.parent
CONTROL = re.compile(r"\x1b\][^\x07]*\x07|\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[=>(][B0]?")
BELL = "\x07"
COLUMNS = 120
WAIT_S = 60.0
MADE_FOR_PAGES = ("Traceback", "VBox(", "HTML(", "</", "<div", "<table", "object at 0x", "Layout(")
REVIEWS = (
    "reviews = pd.DataFrame({'text': [f'lamp {n} 좋다 \\x1b[31mred\\x07 $5' + ' [[fault:400]]' *"
    " (n % 5 == 2) for n in range(20)], 'stars': [n % 5 for n in range(20)]})"
)
CELL = "%%gptbatch reviews -o {out} -m gpt-5-mini --on sandbox --retries 0{more}"


class Terminal:
    """An IPython at its prompt."""

    def __init__(self, folder: Path) -> None:
        environment = {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "PAGER": "cat",  # a page of `less` waits for a key
            "HOME": str(folder),
            "IPYTHONDIR": str(folder / "ipython"),
            "PYTHONPATH": str(PROJECT),
            "PROMPT_TOOLKIT_NO_CPR": "1",  # nobody answers where the cursor is
            "BATCH_MAGIC_SANDBOX_ANSWERER": "stub",
            "BATCH_MAGIC_SANDBOX_TIME_SCALE": "100",
            "BATCH_MAGIC_POLL_FIRST_S": "0.1",
        }
        arguments = ["-m", "IPython", "--no-banner", "--no-confirm-exit"]
        size = (60, COLUMNS)
        self._process = pexpect.spawn(
            sys.executable, arguments, env=environment, cwd=folder, dimensions=size
        )
        self._number = 0  # of the prompt
        self.raw = ""  # what came since the last key
        self._await_prompt()

    def run(self, *lines: str) -> str:
        """Enter lines and return what is seen until the next prompt, what was typed included."""
        self.raw = ""
        for line in lines:
            self._process.send(f"{line}\r")
        if lines[0].startswith("%%"):
            self._process.send("\r\r")  # an empty line ends a cell
        return self._await_prompt()

    def press(self, keys: str, until: str) -> str:
        """Press keys and return what is seen since, as soon as some text is."""
        self.raw = ""
        self._process.send(keys)
        return self.wait(until)

    def wait(self, until: str) -> str:
        """Return what is seen since the last key, as soon as some text is."""
        ends = time.monotonic() + WAIT_S
        while until not in self._text():
            assert time.monotonic() < ends, f"not seen: {until!r} in {self._text()}"
            try:
                self.raw += self._process.read_nonblocking(65_536, 0.2).decode("utf-8", "replace")
            except pexpect.TIMEOUT:
                continue
        return self._text()

    def close(self) -> None:
        self._process.close(force=True)

    def _await_prompt(self) -> str:
        self._number += 1
        return self.wait(f"In [{self._number}]: ")

    def _text(self) -> str:
        return CONTROL.sub("", self.raw).replace("\r\n", "\n")


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A terminal with a frame of twenty rows, four of which fail; Korean, colours, dollars."""
    folder = tmp_path_factory.mktemp("terminal")
    opened = Terminal(folder)
    try:
        opened.run("%load_ext batch_magic")
        opened.run("import pandas as pd, batch_magic as bm")
        opened.run(REVIEWS)
        yield opened
    finally:
        opened.close()
        launcher.stop(folder / ".gptbatch" / "sandbox")


@pytest.fixture(scope="module")
def answered(terminal: Terminal) -> Terminal:
    """The terminal after two runs, `one` and `two`."""
    for out in ("one", "two"):
        said = terminal.run(CELL.format(out=out, more=" --wait"), f"{out}: {{{{ text }}}}")
        assert f"the result is in `{out}`" in said
    return terminal


def words(terminal: Terminal, line: str) -> str:
    """Enter a line; what is said must be made for eyes, and steer nothing."""
    said = terminal.run(line)
    assert [one for one in MADE_FOR_PAGES if one in said] == [], said
    assert "\x1b[31mred" not in terminal.raw, "a colour out of the data"
    assert "\x1b" not in said, "a sequence that no terminal knows"
    return said


def test_a_cell_that_waits_tells_how_far_it_is(terminal: Terminal) -> None:
    """A line for each state, the card at the end with what may be done next."""
    said = terminal.run(CELL.format(out="told", more=" --wait"), "Rate: {{ text }}")
    for part in (
        "told: validating, step 3 of 7 · 0 ok, 0 failed, 20 pending of 20 rows",
        "told: finished",
        "16 ok, 4 failed of 20 rows",
        "next: 4 rows without an answer: `%gptbatch clinic told` says why",
        "the result is in `told`",
    ):
        assert part in said
    assert "0x" not in said
    assert "(20, 5)" in words(terminal, "told.shape")


def test_a_cell_that_returns_is_told_of_with_the_next_line(answered: Terminal) -> None:
    """The prompt comes back at once, the bell calls, and the end is printed before the next line.

    Nothing is printed over a line that is being typed.
    """
    line = CELL.format(out="later", more="")
    answered.run(line, "Later: {{ text }}")
    assert "later: finished" not in answered.wait(BELL)
    said = words(answered, "type(later).__name__")
    assert said.index("later: finished") < said.index("the result is in `later`")
    assert said.index("the result is in `later`") < said.index("'DataFrame'")
    assert "later" not in words(answered, "'once'").partition("Out[")[2]


def test_the_explorer_is_a_table_and_a_way_to_go_on(answered: Terminal) -> None:
    """Counts, first rows with their answers first, and what to type instead of a click."""
    said = words(answered, "%gptbatch explore one")
    for part in ("one: 20 rows", "16 ok, 4 failed", "stub ", "400 invalid_value", "… 12 more rows"):
        assert part in said
    assert max(map(width, said.splitlines())) <= COLUMNS
    words(answered, "explorer.query = {'text': 'lamp 1', 'statuses': ['failed']}")
    assert "one: 2 of 20 rows shown" in words(answered, "explorer")
    words(answered, "explorer.pick([2]); explorer.mark(2, 'up', '좋다')")
    assert "picked [2]" in words(answered, "print('picked', list(explorer.selection().index))")
    assert "gpt_note" in words(answered, "%gptbatch explore one")
    assert "reviews: 20 rows" in words(answered, "%gptbatch explore reviews")


def width(line: str) -> int:
    """Columns of a line of Latin and Korean."""
    return sum(2 if "가" <= sign <= "힣" else 1 for sign in line)


def test_each_view_is_words_and_tells_what_to_type(answered: Terminal) -> None:
    """Clinic, errors, comparison, project view, figures: the line to type where a button was."""
    expected = {
        "%gptbatch clinic one": ["4 of 20 rows without", "cure: ", "retry one --cause 1 [--live]"],
        "%gptbatch errors one": ["400 invalid_value: Invalid value: a fault was asked for.",
                                 "mend the row", "%gptbatch clinic one"],
        "%gptbatch compare one two": ["20 rows matched by position", "0 of 16 rows equal",
                                      "take home: .summary"],
        "%gptbatch": ["run ", "one ", "two ", "16 ok, 4 failed of 20",
                      "what may be done: %gptbatch status, explore, clinic"],
        "%gptbatch plot one": ["<Plot: one: finished; a notebook draws it, `_.savefig("],
        "%gptbatch status one": ["one: finished", "after a restart: `%gptbatch attach one`"],
        "%gptbatch show one": ["first request", '"model": "gpt-5-mini"'],
        "%gptbatch help": ["%gptbatch explore", "%gptbatch help VERB tells one of them in full"],
        "%gptbatch help clinic": ["%gptbatch clinic NAME", "what usually cures it"],
        "%gptbatch explore nothing": ["CellError: no run is called 'nothing'", "known are "],
        "%gptbatch xplore one": ["did you mean 'explore'?"],
    }  # fmt: skip
    for line, parts in expected.items():
        said = words(answered, line)
        assert [part for part in parts if part not in said] == [], said


@pytest.mark.parametrize("line", ["%%gptbatch?", "%gptbatch?", "%%gptbatch --help"])
def test_the_manual_is_read_in_the_terminal(terminal: Terminal, line: str) -> None:
    """Examples, options and verbs, in lines that fit."""
    said = words(terminal, line)
    for part in ("%%gptbatch FRAME -o NAME -m MODEL", "Examples", "--dry-run", "%gptbatch help"):
        assert part in said
    assert max(map(len, said.splitlines())) <= COLUMNS


def test_tab_completes_frames_options_models_columns_verbs_and_runs(answered: Terminal) -> None:
    """A cell is written, and runs, with Tab; the menu is as readable as Lab's."""
    answered.press("%%gptbatch revi\t", "reviews")
    answered.press(" --dry-r\t", "--dry-run")
    answered.press(" --model gpt-5-mi\t", "gpt-5-mini")
    answered.press("\rRate {{ te\t", "text")
    menu = answered.press(" }} of {{ \t", "stars")
    assert "row" in menu
    answered.press("st\t", "stars")
    said = answered.run(" }}", "", "")
    assert "dry run: 20 rows, 20 requests in 1 job" in said
    assert "of 0" in said
    answered.press("%gptbatch expl\t", "explore")
    menu = answered.press(" \t", "two")
    assert "one" in menu
    assert "one: 20 rows" in answered.run("one")
