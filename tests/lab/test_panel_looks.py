"""What a reader sees of panels: light and dark, wide and narrow, alive and long afterwards."""

from __future__ import annotations

import pytest
from laboratory import Lab, Notebook

SHOW_ALL = """
from pictures import ALBUM
from batch_magic.panel import Panel
panels = [Panel(s, on_cancel=lambda: None) for s in ALBUM.values()]
for panel in panels: panel.show()
"""


@pytest.fixture(scope="module")
def album(laboratory: Lab) -> Notebook:
    """A notebook that shows a panel of each kind."""
    laboratory.width(1400)
    notebook = laboratory.open(SHOW_ALL)
    notebook.run_all()
    notebook.wait_idle()
    notebook.wait_for("the key was refused", 0)
    return notebook


@pytest.mark.parametrize("shade", ["light", "dark"])
@pytest.mark.parametrize("width", [1600, 400])
def test_looks(lab: Lab, album: Notebook, shade: str, width: int) -> None:
    lab.theme(shade)
    lab.width(width)
    album.shoot(f"panels_{shade}_{width}")


def test_saved(lab: Lab, album: Notebook) -> None:
    lab.theme("light")
    album.save()
    other = album.reopen_elsewhere()
    for shade in ("light", "dark"):
        lab.theme(shade)
        other.shoot(f"saved_{shade}_1400")
    lab.width(400)
    other.shoot("saved_dark_400")
    print(other.text(0)[:3000])
