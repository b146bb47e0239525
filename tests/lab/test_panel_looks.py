"""What a reader sees of panels: light and dark, wide and narrow, alive and long afterwards.

The pictures in `artefacts/` are for eyes; what can be measured is measured here as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from laboratory import Lab, Notebook
from pictures import ALBUM

SHOW_ALL = """
from pictures import ALBUM
from batch_magic.panel import Panel
panels = [Panel(s, on_cancel=lambda: None) for s in ALBUM.values()]
for panel in panels: panel.show()
"""

# The contrast of every text with what lies behind it, opacities included, as WCAG counts it.
FAINT_TEXTS = """(selector) => {
  const numbers = (css) => { const n = css.match(/[\\d.]+/g).map(Number);
    return n.length === 4 ? n : [n[0], n[1], n[2], 1]; };
  const over = ([r, g, b, a], base, by) => [r, g, b].map((c, i) => c*a*by + base[i]*(1 - a*by));
  const light = (rgb) => { const [r, g, b] = rgb.map(c => c/255).map(
    c => c <= 0.04045 ? c/12.92 : ((c + 0.055)/1.055)**2.4); return .2126*r + .7152*g + .0722*b; };
  const faint = [];
  for (const root of document.querySelectorAll(selector)) {
    const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const parent = texts.currentNode.parentElement;
      if (!texts.currentNode.data.trim() || parent.closest('style,button:disabled')) continue;
      const line = []; for (let e = parent; e; e = e.parentElement) line.unshift(e);
      let base = [255, 255, 255], opacity = 1;
      for (const e of line) {
        const style = getComputedStyle(e); opacity *= Number(style.opacity);
        base = over(numbers(style.backgroundColor), base, opacity);
      }
      const ink = over(numbers(getComputedStyle(parent).color), base, opacity);
      const [dim, bright] = [light(ink), light(base)].sort((a, b) => a - b);
      const ratio = (bright + .05)/(dim + .05);
      const isMark = parent.getAttribute('role') === 'img' || parent.title;
      if (ratio < (isMark ? 3 : 4.5)) faint.push([texts.currentNode.data, ratio.toFixed(2)]);
    }
  }
  return faint;
}"""

# Elements of the cards that stick out of the cell's output.
STICKING_OUT = """(selector) => Array.from(document.querySelectorAll(selector))
  .flatMap(card => Array.from(card.querySelectorAll('*')).filter(e =>
    e.getBoundingClientRect().right > card.getBoundingClientRect().right + 1))
  .map(e => e.outerHTML.slice(0, 80))"""

# Cells of the job tables, the long ids left out, whose text is cut off.
CUT_OFF = """(selector) => Array.from(document.querySelectorAll(selector))
  .flatMap(card => Array.from(card.querySelectorAll('td:not(:first-child), th')))
  .filter(cell => cell.scrollWidth > cell.clientWidth).map(cell => cell.innerText)"""

CARDS = "[class*=gptbatch-live], .gptbatch-card"


@pytest.fixture(scope="module")
def album(laboratory: Lab) -> Iterator[Notebook]:
    """A notebook that shows a panel of each kind."""
    notebook = laboratory.open(SHOW_ALL)
    notebook.run_all()
    notebook.wait_for("mend this, then run the cell again", 0)
    yield notebook
    notebook.close()


@pytest.fixture(scope="module")
def sent_on(album: Notebook) -> Iterator[Notebook]:
    """The same notebook saved and opened by somebody else: untrusted, with a fresh kernel."""
    album.save()
    notebook = album.reopen_elsewhere()
    yield notebook
    notebook.close()


@pytest.fixture(params=["light", "dark"])
def shade(lab: Lab, request: pytest.FixtureRequest) -> str:
    lab.theme(request.param)
    return str(request.param)


@pytest.mark.parametrize("width", [1600, 1400, 620, 400, 320])
def test_every_text_is_legible_and_nothing_sticks_out(
    lab: Lab, album: Notebook, shade: str, width: int
) -> None:
    """Contrast meets AA in both themes, and cards fold instead of spilling."""
    lab.width(width)
    album.shoot(f"panels_{shade}_{width}")
    assert lab.evaluate(FAINT_TEXTS, CARDS) == []
    assert lab.evaluate(STICKING_OUT, CARDS) == []
    assert lab.evaluate(CUT_OFF, CARDS) == []


def test_a_living_panel_hides_its_receipt(album: Notebook) -> None:
    """One card is seen for each run, not two."""
    assert album.text(0).count("%gptbatch attach essays") == 1
    assert album.output(0).get_by_role("progressbar").count() == len(ALBUM)


@pytest.mark.parametrize("width", [1400, 400])
def test_a_saved_panel_reads_as_well_without_its_kernel(
    lab: Lab, sent_on: Notebook, shade: str, width: int
) -> None:
    """Sanitizing leaves the frame, the bar and every word; no widget error stands below."""
    lab.width(width)
    sent_on.shoot(f"saved_{shade}_{width}")
    assert lab.evaluate(FAINT_TEXTS, CARDS) == []
    assert lab.evaluate(STICKING_OUT, CARDS) == []
    assert lab.evaluate(CUT_OFF, CARDS) == []
    assert "sandbox: answers are made on this machine" in sent_on.text(0)
    assert "Error" not in sent_on.text(0)
    card = sent_on.output(0).locator(".gptbatch-card").first
    assert card.evaluate("e => getComputedStyle(e).borderTopStyle") == "solid"
    assert card.evaluate("e => getComputedStyle(e).borderTopLeftRadius") == "8px"
