"""README's pictures, taken in a real JupyterLab of a real run: `make pictures`.

The reviews of the examples, labelled twice by the sandbox's small local model, with some rows that
the service fails. What it says of them is what it says: nothing here is staged but the faults.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from laboratory import Lab, Notebook, browsing, serving

PROJECT = Path(__file__).parent.parent.parent
WIDE = 1120
SET_UP = """
import json, os, pathlib, urllib.request
os.environ |= {"BATCH_MAGIC_POLL_FIRST_S": "0.5", "BATCH_MAGIC_SANDBOX_TIME_SCALE": "100",
               "BATCH_MAGIC_MAX_ROWS_PER_JOB": "20", "BATCH_MAGIC_RETRIES": "0"}
%load_ext batch_magic
import pandas as pd
from batch_magic.sandbox import launcher
url = launcher.ensure(pathlib.Path(".gptbatch/sandbox")).url
def fault(**faults):
    place = url.removesuffix("/v1") + "/sandbox/faults"
    urllib.request.urlopen(urllib.request.Request(place, json.dumps(faults).encode(), method="PUT"))
fault(row_status={"status": 500, "share": 0.04}, row_missing={"share": 0.02})
reviews = pd.read_csv("reviews.csv", index_col="id").head(120).rename(columns={"label": "truth"})
print("ready")
"""
CELL = """%%gptbatch reviews -o {out} -m gpt-5-mini --on sandbox \
-s "label: positive|negative|mixed, score: int 1..5"
system:
{system}
user:
{{{{ title }}}}
{{{{ body }}}}"""
BRIEF = CELL.format(out="brief", system="Label the review.")
CAREFUL = CELL.format(
    out="careful", system="Would the buyer buy it again? Label what they say of the product."
)


def main() -> None:
    """Take all pictures into `examples/`."""
    with tempfile.TemporaryDirectory() as folder, browsing() as browser:
        with serving(Path(folder), [PROJECT]) as server:
            reviews = (PROJECT / "examples" / "reviews.csv").read_bytes()
            (server.root / "reviews.csv").write_bytes(reviews)
            lab = Lab(server, browser, PROJECT / "examples")
            lab.width(WIDE, 1400)
            photograph(lab)
            lab.close()


def photograph(lab: Lab) -> None:
    """Run the cells, and picture what they show."""
    notebook = lab.open(
        SET_UP,
        BRIEF,
        CAREFUL,
        "%gptbatch explore brief",
        "%gptbatch clinic brief",
        "%gptbatch compare brief careful --truth truth --column label",
        "%gptbatch",
        "%gptbatch wait brief",
        "%gptbatch wait careful",
    )
    notebook.run(0)
    notebook.wait_idle(timeout_s=120)
    assert notebook.text(0).strip() == "ready", notebook.text(0)
    notebook.run(1)
    lab.until(lambda: _rows_done(notebook, 1) > 45, "half of the rows are in", timeout_s=300)
    notebook.cell(1).screenshot(path=lab.artefacts / "panel.png")
    notebook.run(7)
    notebook.wait_idle(timeout_s=300)
    notebook.run(2)
    notebook.run(8)
    notebook.wait_idle(timeout_s=300)
    for cell, name in ((4, "clinic"), (5, "compare")):
        notebook.run(cell)
        notebook.wait_idle()
        picture(notebook, cell, name)
    notebook.run(3)
    explorer = notebook.output(3).locator(".gptbatch-explorer")
    explorer.get_by_role("button", name=re.compile("^negative: ")).first.click()
    explorer.locator("tbody tr").nth(2).click()
    explorer.get_by_text("prompt as sent").wait_for()
    explorer.get_by_role("button", name="thumb up").click()
    picture(notebook, 3, "explorer")
    notebook.run(6)
    notebook.wait_for("careful", 6)
    picture(notebook, 6, "project")


def picture(notebook: Notebook, cell: int, name: str) -> None:
    """Take a picture of a cell's output, on a page that holds it whole."""
    lab = notebook.lab
    lab.width(WIDE, 3_000)
    notebook.output(cell).screenshot(path=lab.artefacts / f"{name}.png")
    lab.width(WIDE, 1400)


def _rows_done(notebook: Notebook, cell: int) -> int:
    found = re.search(r"(\d+) ok", notebook.text(cell))
    return int(found[1]) if found else 0


if __name__ == "__main__":
    main()
