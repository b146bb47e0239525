"""Money and lanes under the hands of a reader: the estimate, leave to submit, Finish now."""

from __future__ import annotations

from laboratory import Lab, Notebook

SET_UP = """
import os
os.environ |= {"BATCH_MAGIC_SANDBOX_ANSWERER": "stub", "BATCH_MAGIC_POLL_FIRST_S": "0.2",
               "BATCH_MAGIC_SANDBOX_TIME_SCALE": "60", "BATCH_MAGIC_HOME": HOME}
%load_ext batch_magic
import pandas as pd, json, pathlib, urllib.request
reviews = pd.DataFrame({"text": [f"review {n}: a lamp that is {'very ' * (n % 5)}good"
                                 for n in range(300)]})
def fault(**faults):
    server = json.loads((pathlib.Path(HOME) / "sandbox" / "server.json").read_text())
    url = server["url"].removesuffix("/v1") + "/sandbox/faults"
    body = json.dumps(faults).encode()
    urllib.request.urlopen(urllib.request.Request(url, body, method="PUT"))
print("ready")
"""
LINE = "-m gpt-5-mini --on sandbox"
SAMPLE = f"%%gptbatch reviews -o labelled {LINE} --sample 12\nRate: {{{{ text }}}}"
HELD = """%config GPTBatch.confirm_above_usd = 0.0001
fault(stall_after_share=0.4)"""
RUN = f"%%gptbatch reviews -o labelled {LINE}\nRate: {{{{ text }}}}"
COST = "%gptbatch cost"


def opened(lab: Lab, *cells: str) -> Notebook:
    home = repr(f".gptbatch-{len(list(lab.server.root.iterdir()))}")
    notebook = lab.open(f"HOME = {home}\n{SET_UP}", *cells)
    notebook.run(0)
    notebook.wait_for("ready", 0)
    return notebook


def test_a_run_is_rehearsed_held_submitted_and_finished_live(lab: Lab) -> None:
    """One sitting: see what it costs, be asked, press Submit, lose patience, press Finish now."""
    notebook = opened(lab, SAMPLE, HELD, RUN, COST)
    notebook.run(1)
    notebook.wait_for("to submit it: %%gptbatch reviews -o labelled", 1)
    notebook.shoot("sample_done")
    notebook.run(2)
    notebook.run(3)
    notebook.wait_for("not submitted yet", 3)
    notebook.wait_for("Submit, up to $", 3)
    notebook.shoot("run_held_light")
    lab.theme("dark")
    notebook.shoot("run_held_dark")
    lab.theme("light")
    submit = notebook.output(3).get_by_role("button", name="Submit, up to")
    submit.click()
    notebook.wait_for("answered so far", 3, timeout_s=60)
    notebook.shoot("run_estimated")
    notebook.click("Finish now", 3)
    notebook.wait_for("at the full price?", 3)
    notebook.shoot("run_asked_to_finish")
    notebook.output(3).get_by_role("button", name="Really finish").click()
    notebook.wait_for("finishing live", 3)
    notebook.wait_for("the result is in", 3, timeout_s=90)
    notebook.shoot("run_finished_live")
    notebook.run(4)
    notebook.wait_for("paid: $0.00", 4)
    notebook.shoot("cost")
    lab.width(620)
    notebook.shoot("run_finished_live_620")
    notebook.close()


DOLLARS = """
from dataclasses import replace
from IPython.display import HTML, display
from batch_magic.panel import Panel
from batch_magic.records import OPENAI_URL, Backend, Cost, Ending, Stage, Usage
from pictures import picture
display(HTML("<p>a formula: $x^2$</p>"))
done = replace(picture(), backend=Backend("openai", OPENAI_URL), stage=Stage.DONE,
               ending=Ending.FINISHED, ended_at=picture().as_of, usage=Usage(9, 0, 9),
               cost=Cost(1.5, 3.0))
Panel(done, on_cancel=print).show()
"""


def test_dollars_are_no_formulas(lab: Lab) -> None:
    """Lab sets what stands between two dollars as one, where they are in one text."""
    notebook = lab.open(DOLLARS)
    notebook.run(0)
    notebook.wait_for("at once", 0)
    output = notebook.output(0)
    lab.until(lambda: output.locator("mjx-container").count() > 0, "the page has set a formula")
    assert output.locator("mjx-container").count() == 1
    assert "$1.50 (at once $3.00)" in output.inner_text()
    notebook.close()
