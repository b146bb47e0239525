"""Comparisons and plots in a real Lab: the report and the figures as a reader sees them."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from laboratory import Lab

SET_UP = """
import os
os.environ |= {"BATCH_MAGIC_SANDBOX_ANSWERER": "stub", "BATCH_MAGIC_POLL_FIRST_S": "0.1",
               "BATCH_MAGIC_SANDBOX_TIME_SCALE": "100", "BATCH_MAGIC_HOME": HOME}
%load_ext batch_magic
import pandas as pd
import batch_magic as bm
kinds = ["긍정", "부정", "mixed", "<b>odd</b>"]
truth = [kinds[n * 7 % 4] for n in range(60)]
def said(n, label, every):
    return "[[fault:400]]" if n % 23 == 5 else f"[[say:{kinds[0] if n % every == 0 else label}]]"
reviews = pd.DataFrame({
    "title": [f"review {n} costs $5 to $9{', and goes on and on' * 3}" for n in range(60)],
    "one": [said(n, label, 5) for n, label in enumerate(truth)],
    "two": [said(n + 1, label, 3) for n, label in enumerate(truth)],
    "label": truth,
})
print("ready")
"""
CELL = "%%gptbatch reviews -o {out} -m gpt-5-mini --on sandbox --retries 0 --wait\n{body}"
ONE = CELL.format(out="brief", body="Label it.\n{{ title }} {{ one }}")
TWO = CELL.format(
    out="careful", body="system:\nThink first.\nuser:\nLabel it.\n{{ title }} {{ two }}"
)
COMPARE = "%gptbatch compare brief careful --truth label"
PLOT = "found = bm.compare('brief', 'careful', truth='label')\nfound.plot()"
RUN = "%gptbatch plot careful"
COST = "%gptbatch plot"


def test_a_comparison_reads_well_and_its_figures_show(lab: Lab) -> None:
    """Two prompts over the same rows with a truth: report, figures, nothing for axe to find."""
    home = repr(f".gptbatch-{len(list(lab.server.root.iterdir()))}")
    notebook = lab.open(f"HOME = {home}\n{SET_UP}", ONE, TWO, COMPARE, PLOT, RUN, COST)
    notebook.run(0)
    notebook.wait_for("ready", 0)
    for cell, name in ((1, "brief"), (2, "careful")):
        notebook.run(cell)
        notebook.wait_for(f"the result is in {name}", cell, timeout_s=60)
    notebook.run(3)
    notebook.wait_for("brief and careful against label", 3)
    notebook.wait_for("how the prompts differ", 3)
    report = notebook.output(3)
    assert "60 rows matched by position" in notebook.text(3)
    assert "<b>odd</b>" in notebook.text(3)
    assert report.locator("b").count() == 0
    assert report.locator("mjx-container").count() == 0
    for cell in (4, 5, 6):
        notebook.run(cell)
        image = notebook.output(cell).locator("img")
        image.wait_for()
        assert image.count() == 1
    for pixels in (620, 420):
        lab.width(pixels, TALL)
        report.screenshot(path=lab.artefacts / f"comparison_{pixels}.png")
        for cell, what in ((4, "comparison"), (5, "run"), (6, "cost")):
            notebook.output(cell).screenshot(path=lab.artefacts / f"plot_{what}_{pixels}.png")
        wide = report.evaluate("e => e.querySelector('section').scrollWidth - e.clientWidth")
        assert wide <= 0, "tables scroll by themselves, the report does not"
        sizes = report.get_by_role("group", name="rows that differ").evaluate(SIZES)
        assert sizes["scrolls"]
        assert sizes["is_reached"]
        assert sizes["tallest"] < 110, "a text of 120 letters is no tower"
        assert sizes["narrowest_text"] > 150
    lab.width(1400, TALL)
    for shade in ("light", "dark"):
        lab.theme(shade)
        report.screenshot(path=lab.artefacts / f"comparison_{shade}.png")
        notebook.output(4).screenshot(path=lab.artefacts / f"comparison_plot_{shade}.png")
        found = Axe().run(lab.page, context={"include": [[".jp-OutputArea-output"]]})
        grave = [one for one in found.response["violations"] if one["impact"] in GRAVE]
        assert [(one["id"], one["nodes"][0]["html"][:200]) for one in grave] == []
    alt = notebook.output(6).locator("img").get_attribute("alt") or ""
    assert alt.startswith("paid by day and model. $0.00 for 2 runs, 2 of them on the sandbox, free")
    notebook.save()
    again = notebook.reopen_elsewhere()
    image = again.output(6).locator("img")
    image.wait_for()
    assert image.get_attribute("alt") == alt, "a saved notebook that nobody trusts has it, too"
    assert image.evaluate("e => e.naturalWidth") > 600
    again.close()
    notebook.close()


SIZES = """e => {
  const heights = [...e.querySelectorAll("tbody tr")].map(one => one.offsetHeight);
  const texts = [...e.querySelectorAll("td")].filter(one => one.textContent.length > 60);
  return {
    scrolls: e.scrollWidth > e.clientWidth,
    is_reached: e.tabIndex === 0,
    tallest: Math.max(...heights),
    narrowest_text: Math.min(...texts.map(one => one.offsetWidth)),
  };
}"""
TALL = 5_000  # a page on which nothing has to be scrolled into a picture
GRAVE = ("serious", "critical")
