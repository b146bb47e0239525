"""The magics in a real kernel: what a person types and sees."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernels import PROJECT, Kernel, kernel
from service import serving

SETUP = """%load_ext batch_magic
import pandas as pd, numpy as np
reviews = pd.read_csv("reviews.csv")
five = reviews.head(5)
"""
CELL = "%%gptbatch {line}\n{body}"
FAST = {"BATCH_MAGIC_SANDBOX_TIME_SCALE": "60", "BATCH_MAGIC_POLL_FIRST_S": "0.1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(PROJECT / "examples" / "reviews.csv", folder)
    yield folder
    from batch_magic.sandbox import launcher

    launcher.stop(folder / ".gptbatch" / "sandbox")


@pytest.fixture(scope="module")
def notebook(folder: Path) -> Iterator[Kernel]:
    """A kernel with the extension loaded and a few frames."""
    with kernel(folder, FAST) as running:
        assert running.run(SETUP).error is None
        yield running


def cell(line: str, body: str = "{{ title }}") -> str:
    return CELL.format(line=line, body=body)


def until_bound(notebook: Kernel, name: str, timeout_s: float = 30) -> None:
    """Wait, cell by cell, until a name holds a DataFrame."""
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        if "DataFrame" in notebook.run(f"print(type({name}).__name__)").printed:
            return
        time.sleep(0.2)
    raise AssertionError(f"{name} is no DataFrame after {timeout_s} s")


# -- the main job ---------------------------------------------------------------------------


def test_name_becomes_the_frame_by_itself(notebook: Kernel) -> None:
    """Nobody has to fetch a result: the next cell finds it in its place."""
    seen = notebook.run(cell("reviews -o labelled -m gpt-5-mini --on sandbox"))
    assert seen.error is None
    assert "labelled" in seen.text
    until_bound(notebook, "labelled")
    seen = notebook.run(
        "print(len(labelled), list(labelled.columns[-3:]), labelled.index.equals(reviews.index))"
    )
    assert seen.printed.strip() == "200 ['answer', 'gpt_status', 'gpt_error'] True"


def test_name_is_not_swapped_under_a_running_cell(notebook: Kernel) -> None:
    """A cell sees one thing from its first line to its last, though the run ends meanwhile."""
    notebook.run(cell("five -o steady -m gpt-5-mini --on sandbox", "N {{ title }}"))
    look = "print(type(steady).__name__, handle.snapshot().is_ended)"
    seen = notebook.run(f"import time\nhandle = steady\n{look}\ntime.sleep(2)\n{look}")
    assert seen.printed.splitlines() == ["Run False", "Run True"]
    assert notebook.run("print(type(steady).__name__)").printed.strip() == "DataFrame"


def test_name_bound_to_something_else_is_left_alone(notebook: Kernel) -> None:
    """The user's own value is worth more than ours; the result is one line away."""
    notebook.run(cell("five -o mine -m gpt-5-mini --on sandbox", "A {{ title }}"))
    notebook.run("handle = mine; mine = 'my own text'")
    notebook.run("handle.wait()")
    assert notebook.run("print(mine)").printed.strip() == "my own text"
    assert notebook.run("%gptbatch take mine").error is None
    assert notebook.run("print(len(mine))").printed.strip() == "5"


def test_await_gives_the_frame(notebook: Kernel) -> None:
    """In a notebook a handle can simply be awaited."""
    notebook.run(cell("five -o awaited -m gpt-5-mini --on sandbox", "B {{ title }}"))
    seen = notebook.run("frame = await awaited\nprint(len(frame), frame.gpt_status.eq('ok').all())")
    assert (seen.error, seen.printed.strip()) == (None, "5 True")


def test_wait_line_binds_before_the_next_line_of_its_cell(notebook: Kernel) -> None:
    """`%gptbatch wait` is asked for by the running cell, so the cell may go on with the frame."""
    notebook.run(cell("five -o waited -m gpt-5-mini --on sandbox", "C {{ title }}"))
    seen = notebook.run("%gptbatch wait waited\nprint(type(waited).__name__)")
    assert (seen.error, seen.printed.strip().splitlines()[-1]) == (None, "DataFrame")


@pytest.mark.parametrize("option", ["--wait", ""])
def test_headless_executor_waits(notebook: Kernel, option: str) -> None:
    """Run All gives the same under papermill as by hand: the cell after has the frame."""
    asked = cell(
        f"five -o headless -m gpt-5-mini --on sandbox {option}", f"D{option} {{{{ title }}}}"
    )
    assert notebook.run(asked, allow_stdin=bool(option)).error is None
    assert notebook.run("print(type(headless).__name__)").printed.strip() == "DataFrame"


def test_time_magic_above_a_waiting_cell_waits_too(notebook: Kernel) -> None:
    """`%%time` compiles the cell itself, so it cannot be awaited and has to block."""
    asked = "%%time\n" + cell("five -o timed -m gpt-5-mini --on sandbox --wait", "E {{ title }}")
    assert notebook.run(asked).error is None
    assert notebook.run("print(type(timed).__name__)").printed.strip() == "DataFrame"


def test_same_cell_again_sends_nothing(notebook: Kernel) -> None:
    """The answers are there: they are taken over, and the panel says so."""
    asked = cell("five -o again -m gpt-5-mini --on sandbox --wait", "F {{ title }}")
    notebook.run(asked)
    seen = notebook.run(asked)
    assert "5 rows answered before" in seen.text
    counts = notebook.run("print(again.attrs['gptbatch']['job_ids'])").printed
    assert counts.strip() == "[]"


def test_interrupt_of_a_waiting_cell_detaches(notebook: Kernel) -> None:
    """Interrupt means stop waiting; the run goes on."""
    notebook.run("%config GPTBatch.poll_first_s = 5.0")
    notebook.start(cell("five -o detached -m gpt-5-mini --on sandbox --wait", "G {{ title }}"))
    time.sleep(1.5)
    notebook.interrupt()
    notebook.settle()
    notebook.run("%config GPTBatch.poll_first_s = 0.1")
    assert notebook.run("print(type(detached).__name__)").printed.strip() in ("Run", "DataFrame")
    notebook.run("%gptbatch wait detached")
    assert notebook.run("print(len(detached))").printed.strip() == "5"


def test_unfinished_name_used_as_a_frame_says_the_three_ways_on(notebook: Kernel) -> None:
    """Touching a frame that is not there yet is one line, not a riddle."""
    notebook.run("%config GPTBatch.poll_first_s = 5.0")
    notebook.run(cell("five -o early -m gpt-5-mini --on sandbox", "H {{ title }}"))
    notebook.run("%config GPTBatch.poll_first_s = 0.1")
    for use in ("early.head()", "early['answer']", "len(early)", "list(early)"):
        seen = notebook.run(use)
        assert seen.error is not None
        assert "%gptbatch wait early" in seen.error
        assert "await early" in seen.error
        assert "early.partial()" in seen.error
        assert len(seen.traceback) == 1
    notebook.run("%gptbatch cancel early")


def test_dry_run_needs_no_key_and_sends_nothing(notebook: Kernel) -> None:
    """A look at the requests costs nothing and binds nothing."""
    seen = notebook.run(cell("reviews -o dry -m gpt-5-mini --dry-run", "{{ title }} {{ body }}"))
    assert seen.error is None
    assert "200 rows, 197 requests in 1 job," in seen.printed
    assert '"model": "gpt-5-mini"' in seen.printed
    tokens = r"estimate: 197 requests, [\d,]+ tokens in \(counted\), from 197 out \(no cap\)"
    assert re.search(tokens + r": \$0\.00\d+ or more by batch", seen.printed)
    seen = notebook.run(cell("five -o dry -m nobody-knows --dry-run", "{{ title }}"))
    assert "price not known" in seen.printed
    seen = notebook.run(cell("five -o dry -m gpt-5-mini --dry-run --max-cost 1", "{{ title }}"))
    assert "it would not be submitted: nothing bounds the answers" in seen.printed
    assert notebook.run("dry").error == "NameError: name 'dry' is not defined"


def test_what_runs_have_cost_is_told(notebook: Kernel) -> None:
    """Of all of them and of one; prices of one's own are a setting like any other."""
    own = "%config GPTBatch.prices = {'own': {'input': 2, 'output': 4}}"
    assert notebook.run(own).error is None
    notebook.run(cell("five -o priced -m own --on sandbox --wait", "P {{ title }}"))
    seen = notebook.run("costs = %gptbatch cost priced\nprint(costs.at_once_usd.iloc[0] > 0)")
    assert seen.printed.splitlines() == ["paid: $0.00 for 1 run", "True"]
    assert "priced" in notebook.run("%gptbatch cost").text
    assert "free here, $" in notebook.run("%gptbatch status priced").text
    notebook.run("%config GPTBatch.prices = {'own': {'input': 'much'}}")
    seen = notebook.run(cell("five -o dear -m own --on sandbox", "Q {{ title }}"))
    assert "the input price of 'own' is 'much', no amount of dollars" in (seen.error or "")
    notebook.run("%config GPTBatch.prices = {}")


def test_wait_in_a_string_stays_text(notebook: Kernel) -> None:
    """Only a line that IPython takes for a magic is one."""
    seen = notebook.run('print("""\n%gptbatch wait nobody\n""")')
    assert (seen.error, seen.printed.strip()) == (None, "%gptbatch wait nobody")


def test_terminal_asks_for_the_rest_of_a_cell(notebook: Kernel) -> None:
    """The line alone is not the whole cell: a prompt for the template has to follow."""
    seen = notebook.run("print(get_ipython().check_complete('%%gptbatch five -o x\\n')[0])")
    assert seen.printed.strip() == "incomplete"


def test_run_without_one_good_row_says_why(notebook: Kernel) -> None:
    """An end is not a success: the commonest error stands in the panel."""
    line = "five -o vain -m gpt-5-mini --on sandbox --wait -p temperature=hot"
    seen = notebook.run(cell(line, "I {{ title }}"))
    assert "no row ok" in seen.text
    assert "invalid_type" in seen.text
    assert "commonest error" in seen.text


def test_rows_without_an_answer_are_explained_and_sent_again(notebook: Kernel) -> None:
    """`errors` says why, `retry` asks once more and hands the whole frame over again."""
    body = "J {{ title }}{% if row.position == 2 %} [[fault:400]]{% endif %}"
    notebook.run(cell("five -o again_please -m gpt-5-mini --on sandbox --wait", body))
    seen = notebook.run("%gptbatch errors again_please")
    assert "fault" in seen.text
    assert notebook.run("%gptbatch retry again_please --status ok").error is not None
    seen = notebook.run("%gptbatch retry again_please --status truncated")
    assert "no row that is truncated" in (seen.error or "")
    assert notebook.run("%gptbatch retry again_please").error is None
    seen = notebook.run("%gptbatch wait again_please\nprint(again_please.gpt_status.tolist())")
    assert seen.printed.strip().splitlines()[-1] == "['ok', 'ok', 'failed', 'ok', 'ok']"


def test_attach_to_an_ended_run_gives_its_frame_at_once(notebook: Kernel) -> None:
    """Under Run All the next cell uses it."""
    notebook.run(cell("five -o ended -m gpt-5-mini --on sandbox --wait", "K {{ title }}"))
    seen = notebook.run("del ended\n%gptbatch attach ended\nprint(len(ended.gpt_status))")
    assert (seen.error, seen.printed.strip().splitlines()[-1]) == (None, "5")


FOREIGN = """
import json, openai
from pathlib import Path
from batch_magic.sandbox import launcher
url = launcher.find(Path(".gptbatch/sandbox").absolute()).url
client = openai.OpenAI(base_url=url, api_key="any")
lines = [{"custom_id": key, "method": "POST", "url": "/v1/chat/completions",
          "body": {"model": "m", "messages": [{"role": "user", "content": key}]}} for key in "ba"]
data = "".join(json.dumps(line) + chr(10) for line in lines).encode()
file = client.files.create(file=("x.jsonl", data), purpose="batch")
foreign = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions",
                                completion_window="24h")
keys = pd.DataFrame({"key": list("ab")})
mine = 5
print(foreign.id)
"""


SHAPES = """
from pydantic import BaseModel
class Label(BaseModel):
    mood: str
    score: float
"""


def test_a_cell_gives_typed_columns_and_reparse_others(notebook: Kernel) -> None:
    """A class of the notebook, a line of fields, a pattern; a misfit pattern costs nothing."""
    notebook.run(SHAPES)
    for schema in ("Label", "'mood: str, score: float'"):
        line = f"five -o typed -m gpt-5-mini --on sandbox --wait -s {schema}"
        seen = notebook.run(cell(line))
        assert seen.error is None
        assert notebook.run("print(list(typed)[-4:-2], typed.score.dtype)").printed.strip() == (
            "['mood', 'score'] Float64"
        )
    line = "five -o split -m gpt-5-mini --on sandbox --wait --parse 'never {a}'"
    assert notebook.run(cell(line)).error is None
    seen = notebook.run("print(set(split.gpt_status))\n%gptbatch reparse split --parse 'stub {a}'")
    assert seen.printed.splitlines() == ["{'unparsed'}", "split: 5 answers of 5 rows fit"]
    assert notebook.run("print(split.a.notna().all())").printed.strip() == "True"
    assert "say --parse PATTERN" in (notebook.run("%gptbatch reparse split").error or "")


def test_a_job_made_elsewhere_is_attached_by_its_id(notebook: Kernel) -> None:
    """It gets a name that is free, and its answers the rows that they are for."""
    batch_id = notebook.run(FOREIGN).printed.split()[-1]
    attach = f"%gptbatch attach {batch_id} --frame keys --id key --on sandbox"
    assert "'mine' holds a int already" in (notebook.run(f"{attach} -o mine").error or "")
    seen = notebook.run(f"{attach} -o theirs")
    assert seen.error is None
    seen = notebook.run("%gptbatch wait theirs\nprint([a[-1] for a in theirs.answer])")
    assert seen.printed.strip().splitlines()[-1] == "['a', 'b']"
    seen = notebook.run("%gptbatch recover --on sandbox")
    assert "no job of ours" in seen.printed
    assert "asks first" not in (notebook.run("%gptbatch clean theirs --yes").error or "")
    assert "no run is called 'theirs'" in (notebook.run("%gptbatch status theirs").error or "")


LOST = """
import json, openai, uuid
from pathlib import Path
from batch_magic.sandbox import launcher
url = launcher.find(Path(".gptbatch/sandbox").absolute()).url
client = openai.OpenAI(base_url=url, api_key="any")
def lose(run_id, **faults):
    lines = [{"custom_id": f"{run_id}-{n}", "method": "POST", "url": "/v1/chat/completions",
              "body": {"model": "m", "messages": [{"role": "user", "content": f"lost {n}"}]}}
             for n in range(3)]
    data = "".join(json.dumps(line) + chr(10) for line in lines).encode()
    file = client.files.create(file=("x.jsonl", data), purpose="batch")
    marks = {"batch_magic_job": uuid.uuid4().hex, "batch_magic_run": run_id, **faults}
    made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions",
                                 completion_window="24h", metadata=marks)
    print(made.id)
"""


def test_jobs_that_no_run_knows_are_adopted_cancelled_or_left_as_answered(
    notebook: Kernel,
) -> None:
    """The journal was lost, the jobs were paid for: each of them is asked about by itself."""
    notebook.run(LOST)
    slow = "sandbox_fault_validating_s='100000'"
    adopted, cancelled, left = (
        notebook.run(f"lose({lose})").printed.split()[-1]
        for lose in ("'run-a'", f"'run-c', {slow}", f"'run-n', {slow}")
    )
    recover = "%gptbatch recover --on sandbox"
    seen = notebook.run(recover, allow_stdin=False)
    assert "nobody is there to answer" in (seen.error or "")
    assert len(seen.traceback) == 1
    seen = notebook.run(recover, answers=["", "c", "a"])  # the newest is asked about first
    assert seen.error is None
    assert [batch_id in seen.printed for batch_id in (left, cancelled, adopted)] == [True] * 3
    assert [f"recovered_{n}" in asked for n, asked in enumerate(seen.asked, 1)] == [True] * 3
    assert f"{cancelled}: cancel asked for" in seen.printed
    look = "[client.batches.retrieve(one).status[:6] for one in "
    statuses = notebook.run(f"print({look}{[left, cancelled]}])").printed
    assert statuses.strip() == "['valida', 'cancel']"
    seen = notebook.run("%gptbatch wait recovered_3\nprint([a[-6:] for a in recovered_3.answer])")
    assert seen.printed.strip().splitlines()[-1] == "['lost 0', 'lost 1', 'lost 2']"
    seen = notebook.run(recover, answers=["q"])
    assert adopted not in seen.printed
    assert left in seen.printed  # all are listed before the first is asked about
    assert cancelled in seen.printed


def test_an_older_run_of_the_same_name_is_told_of(notebook: Kernel) -> None:
    """It goes on, and is reached by its id alone."""
    notebook.run(cell("five -o twice -m gpt-5-mini --on sandbox", "L {{ title }}"))
    seen = notebook.run(cell("five -o twice -m gpt-5-mini --on sandbox --wait", "M {{ title }}"))
    assert "also called twice" in seen.text


def test_help_is_shown_in_the_cell(notebook: Kernel) -> None:
    """A cell with nothing but `--help` is no mistake, although IPython wants a body."""
    seen = notebook.run("%%gptbatch --help")
    assert seen.error is None
    assert "--on-clash" in seen.printed


def test_braces_and_dollars_of_the_line_reach_us_as_typed(notebook: Kernel) -> None:
    """IPython would expand {…} and $… from the namespace before we see them."""
    notebook.run("x = 'WRONG'")
    line = """five -o braces -m gpt-5-mini --on sandbox --dry-run -p metadata={"x": "{x} $x"}"""
    seen = notebook.run(cell(line))
    assert seen.error is None
    assert '"x": "{x} $x"' in seen.printed


def test_config_beats_environment_and_flag_beats_config(notebook: Kernel) -> None:
    """One order of precedence for every setting."""
    notebook.run("%config GPTBatch.model = 'from-config'")
    assert '"model": "from-config"' in notebook.run(cell("five --dry-run")).printed
    assert '"model": "from-flag"' in notebook.run(cell("five -m from-flag --dry-run")).printed
    notebook.run("%config GPTBatch.model = ''")


@pytest.mark.parametrize("verb", ["list", "status", "help", "show labelled", "status labelled"])
def test_verbs_that_only_look(notebook: Kernel, verb: str) -> None:
    """Each says something and changes nothing."""
    seen = notebook.run(f"%gptbatch {verb}")
    assert seen.error is None
    assert "labelled" in seen.text or "%gptbatch" in seen.text


def test_unload_and_load_again(notebook: Kernel) -> None:
    """The hooks go and come back; nothing is registered twice."""
    assert notebook.run("%unload_ext batch_magic").error is None
    assert "not found" in notebook.run("%gptbatch list").text
    assert notebook.run("%load_ext batch_magic\n%reload_ext batch_magic").error is None
    assert notebook.run("%gptbatch list").error is None


def test_a_kernel_ends_in_seconds_though_the_service_does_not_answer(tmp_path: Path) -> None:
    """Whoever closes a notebook does not wait for a stranger's machine; the run goes on later."""
    with serving(tmp_path / "service") as service, kernel(tmp_path, FAST) as closed:
        assert closed.run("%load_ext batch_magic\nimport pandas as pd").error is None
        closed.run("three = pd.DataFrame({'title': list('abc')})")
        service.faults(http_delay={"route": "batches.retrieve", "delay_s": 30})
        asked = cell(f"three -o parted -m m --on {service.url} --no-wait")
        assert closed.run(asked).error is None
        ends = time.monotonic() + 20
        while not service.calls()["batches.retrieve"]:
            assert time.monotonic() < ends
            time.sleep(0.02)
        assert closed.shut_down(timeout_s=20) < 5
        service.clear_faults()
        with kernel(tmp_path, FAST) as again:
            seen = again.run("%load_ext batch_magic\n%gptbatch attach parted\nparted.wait()")
            assert (seen.error, len(service.batches())) == (None, 1)


# -- bad input: one clear line, nothing sent ------------------------------------------------

SANDBOX = "-o out -m gpt-5-mini --on sandbox"
BAD = {
    "not a frame": ("[1,2] " + SANDBOX, "{{ x }}", "is a list, not a DataFrame"),
    "unknown name": (f"reviws {SANDBOX}", "{{ title }}", "did you mean 'reviews'?"),
    "no frame": (SANDBOX, "{{ title }}", "wants a DataFrame"),
    "no model": ("five -o out --on sandbox", "{{ title }}", "no model"),
    "no key": ("five -o out -m gpt-5-mini", "{{ title }}", "OPENAI_API_KEY"),
    "no key for openai": ("five -o out -m m --on openai", "{{ title }}", "OPENAI_API_KEY"),
    "unknown option": (f"five {SANDBOX} --retrys 3", "{{ title }}", "did you mean --retries?"),
    "no such option": (f"five {SANDBOX} --turbo", "{{ title }}", "no option --turbo"),
    "unknown schema": (
        f"five {SANDBOX} -s Nope",  # Python's own `open` is near, but none of the user's names
        "{{ title }}",
        "there is no variable 'Nope'; run the cell that makes it first",
    ),
    "no schema": (f"five {SANDBOX} -s five", "{{ title }}", "a DataFrame is no schema"),
    "bad line": (f"five {SANDBOX} -s 'a: nothing'", "{{ title }}", "of no known type 'nothing'"),
    "no fields": (f"five {SANDBOX} --parse nothing", "{{ title }}", "has no fields"),
    "roles": (f"five {SANDBOX} -e embeddings", "system:\n{{ title }}", "knows no roles"),
    "wrong value": (f"five {SANDBOX} --retries many", "{{ title }}", "whole number"),
    "wrong clash": (f"five {SANDBOX} --on-clash maybe", "{{ title }}", "error or replace"),
    "wrong param": (f"five {SANDBOX} -p temperature", "{{ title }}", "KEY=VALUE"),
    "refused param": (f"five {SANDBOX} -p stream=true", "{{ title }}", "stream"),
    "wrong backend": ("five -o out -m m --on mars", "{{ title }}", "not 'mars'"),
    "wrong endpoint": (f"five {SANDBOX} -e chats", "{{ title }}", "'chat'"),
    "wrong keep": (f"five {SANDBOX} --keep costs", "{{ title }}", "'costs'"),
    "open quote": (f"five {SANDBOX} -c 'answer", "{{ title }}", "open quote"),
    "template syntax": (f"five {SANDBOX}", "a\n{{ title", "line 2"),
    "no such column": (f"five {SANDBOX}", "a\n{{ titel }}", "line 2); did you mean 'title'?"),
    "no column read": (f"five {SANDBOX}", "Say hello.", "reads no column"),
    "empty body": (f"five {SANDBOX}", "", "empty"),
    "column clash": (f"five {SANDBOX} -c title", "{{ title }}", "'title'"),
    "bad name": ("five -o 1out -m m --on sandbox", "{{ title }}", "no Python name"),
    "keyword as a name": ("five -o class -m m --on sandbox", "{{ title }}", "no Python name"),
    "module as a name": ("five -o pd -m m --on sandbox", "{{ title }}", "holds a module already"),
    "builtin as a name": ("five -o len -m m --on sandbox", "{{ title }}", "already"),
    "outcome's column": (f"five {SANDBOX} -c gpt_status", "{{ title }}", "gpt_status"),
    "wait and not": (f"five {SANDBOX} --wait --no-wait", "{{ title }}", "not allowed with"),
    "unknown extra": (f"five {SANDBOX} --with codebook", "{{ title }}", "'codebook'"),
    "unrenderable": (
        "pd.DataFrame({'b':[b'x']}) " + SANDBOX,
        "{{ b }}",
        "bytes",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_clear_line_and_nothing_is_sent(notebook: Kernel, what: str) -> None:
    """A mistake says what, where and what to do; it raises, binds nothing and sends nothing."""
    line, body, said = BAD[what]
    before = notebook.run("%gptbatch list").text
    seen = notebook.run(cell(line, body))
    assert seen.error is not None
    assert said in seen.error
    assert len(seen.traceback) == 1, seen.traceback
    assert "\n" not in seen.traceback[0]
    assert notebook.run("%gptbatch list").text == before
    assert "NameError" in str(notebook.run("out").error)


@pytest.mark.parametrize("line", ["lst", "attach nothing", "take nothing", "wait", "cancel"])
def test_bad_verb_is_one_clear_line(notebook: Kernel, line: str) -> None:
    """The same for the line magic."""
    seen = notebook.run(f"%gptbatch {line}")
    assert seen.error is not None
    assert len(seen.traceback) == 1


@pytest.mark.parametrize("line", ["explore five_o", "compare five_o five"])
def test_a_word_that_may_be_a_frame_is_told_to_be_neither(notebook: Kernel, line: str) -> None:
    """Who has only a DataFrame must not believe that it takes a run."""
    said = notebook.run(f"%gptbatch {line}").error or ""
    assert "no run is called 'five_o'" in said
    assert "; a DataFrame's name does as well, none is 'five_o'" in said


def test_unwritable_home_is_one_clear_line(notebook: Kernel, tmp_path: Path) -> None:
    """The folder is named, and how to choose another."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    notebook.run(f"%config GPTBatch.home = {str(blocker / 'home')!r}")
    seen = notebook.run(cell(f"five {SANDBOX}"))
    notebook.run("%config GPTBatch.home = '.gptbatch'")
    assert seen.error is not None
    assert "BATCH_MAGIC_HOME" in seen.error
    assert len(seen.traceback) == 1


def test_unknown_model_stops_the_run_and_says_the_cure(notebook: Kernel) -> None:
    """The same for all rows: the run stops at once, its rows are kept."""
    seen = notebook.run(cell("five -o lost -m nonexistent-model --on sandbox --wait"))
    assert seen.error is not None
    assert "model_not_found" in seen.error
    assert "-m" in seen.error
    assert len(seen.traceback) == 1


def test_refused_key_stops_the_run_and_is_not_shown(notebook: Kernel) -> None:
    """The service quotes keys in its refusals; we do not."""
    notebook.run("import os, json; os.environ['OPENAI_API_KEY'] = 'sk-refused-zq7x9w2k5v'")
    url = notebook.run(
        "print(json.load(open('.gptbatch/sandbox/server.json'))['url'])"
    ).printed.strip()
    seen = notebook.run(cell(f"five -o refused -m m --on {url} --wait"))
    notebook.run("del os.environ['OPENAI_API_KEY']")
    assert seen.error is not None
    assert "key was refused" in seen.error
    assert "zq7x9w2k5v" not in seen.text + seen.error
    home = notebook.run("!grep -r zq7x9w2k5v .gptbatch/journal.db .gptbatch/runs || echo clean")
    assert "clean" in home.printed


# -- money and lanes ------------------------------------------------------------------------


def test_a_sample_shows_answers_and_the_price_of_the_rest(notebook: Kernel) -> None:
    """The cell waits, shows the table, says what all would cost and the line that submits it."""
    line = "reviews -o rehearsed -m gpt-5-mini --on sandbox --sample 7"
    seen = notebook.run(cell(line, "Sample {{ title }}"))
    assert seen.error is None
    assert "sample: 7 rows, 7 ok" in seen.printed
    assert re.search(r"the rest: \d+ requests, .* out \(as \d+ answers before\)", seen.printed)
    assert (
        "to submit it: %%gptbatch reviews -o rehearsed -m gpt-5-mini --on sandbox" in seen.printed
    )
    assert any("stub" in shown for shown in seen.shown)
    assert notebook.run("print(len(rehearsed_sample))").printed.strip() == "7"
    assert "NameError" in str(notebook.run("rehearsed").error)


def test_a_live_cell_is_answered_at_once(notebook: Kernel) -> None:
    """No job, the same frame."""
    seen = notebook.run(
        cell("five -o now -m gpt-5-mini --on sandbox --live --wait", "L {{ title }}")
    )
    assert seen.error is None
    assert "live" in seen.text
    assert notebook.run("print(set(now.gpt_status))").printed.strip() == "{'ok'}"
    assert notebook.run("print(now.attrs['gptbatch']['job_ids'])").printed.strip() == "[]"


def test_a_cell_above_the_limit_waits_for_leave(notebook: Kernel) -> None:
    """Nothing goes out until `submit`, and the name becomes the frame after it."""
    notebook.run("%config GPTBatch.confirm_above_usd = 0.000001")
    line = "five -o dear -m gpt-5-mini --on sandbox -p max_completion_tokens=9"
    seen = notebook.run(cell(line, "D {{ title }}"))
    notebook.run("%config GPTBatch.confirm_above_usd = 0.0")
    assert seen.error is None
    assert "not submitted yet" in seen.text
    assert "%gptbatch submit dear" in str(notebook.run("dear.head()").error)
    assert "not submitted" in str(notebook.run("%gptbatch wait dear").error)
    notebook.run("%gptbatch submit dear")
    until_bound(notebook, "dear")


def test_headless_above_the_limit_is_an_error_that_says_how(notebook: Kernel) -> None:
    """Nobody is there to press the button."""
    notebook.run("%config GPTBatch.confirm_above_usd = 0.000001")
    line = "five -o dear2 -m gpt-5-mini --on sandbox -p max_completion_tokens=9"
    seen = notebook.run(cell(line, "E {{ title }}"), allow_stdin=False)
    notebook.run("%config GPTBatch.confirm_above_usd = 0.0")
    assert "allow it with --max-cost 0.01" in str(seen.error)
    assert "NameError" in str(notebook.run("dear2").error)


def test_finish_of_an_ended_run_says_what_to_do(notebook: Kernel) -> None:
    """There is nothing left to finish."""
    notebook.run(cell("five -o over -m gpt-5-mini --on sandbox --live --wait", "O {{ title }}"))
    seen = notebook.run("%gptbatch finish over")
    assert "%gptbatch retry over --live" in str(seen.error)
