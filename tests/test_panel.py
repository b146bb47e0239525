"""The panel in a real kernel: what is sent to the page, by whom, and what is left at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from pictures import ALBUM, START, picture

from batch_magic.panel import Panel, TextPanel, open_panel
from batch_magic.records import Ending, Stage

TESTS = Path(__file__).parent
WIDGET = "application/vnd.jupyter.widget-view+json"

PREPARE = """
import contextvars, time
from dataclasses import replace
from threading import Thread
from pictures import ALBUM, START, job, picture
from batch_magic.buttons import CANCEL, CONFIRM, KEEP
from batch_magic.panel import Panel, open_panel
from batch_magic.records import Ending, RowStatus, Stage
cancels = []
def later(s, seconds, **changes):
    return replace(s, as_of=s.as_of + seconds, **changes)
def in_thread(f):
    thread = Thread(target=f); thread.start(); thread.join()
running = picture(jobs=(job(0), job(1)), claimed_ok=10)
done = later(running, 60, stage=Stage.DONE, ending=Ending.FINISHED, ended_at=START + 300,
             counts={RowStatus.OK: 12_000})
def fresh():
    global panel
    panel = Panel(running, on_cancel=lambda: cancels.append(1))
    panel.show()
"""

Message = dict[str, Any]


class Kernel:
    """A kernel with this package, and what it says on its public channel."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self._client = client

    def run(self, code: str) -> list[Message]:
        """Run a cell and return what it published, status and input left out."""
        ours = self._client.execute(code)
        said = self._until_idle(ours)
        for message in said:
            assert message["msg_type"] != "error", "\n".join(message["content"]["traceback"])
        return said

    def value(self, code: str) -> str:
        """The printed form of an expression."""
        said = [m for m in self.run(f"print(({code}))") if m["msg_type"] == "stream"]
        return "".join(m["content"]["text"] for m in said).strip()

    def click(self, model_id: str) -> None:
        """Click a button as the page does."""
        data = {"method": "custom", "content": {"event": "click"}}
        message = self._client.session.msg("comm_msg", {"comm_id": model_id, "data": data})
        self._client.shell_channel.send(message)
        self._until_idle(message["header"]["msg_id"])

    def _until_idle(self, parent: str) -> list[Message]:
        said: list[Message] = []
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                message = self._client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind not in ("status", "execute_input"):
                said.append(message)
            is_ours = message["parent_header"].get("msg_id") == parent
            if is_ours and content.get("execution_state") == "idle":
                return said
        raise TimeoutError(f"the kernel is not idle after 30 s; it said {said}")


@pytest.fixture(scope="module")
def started() -> Iterator[Kernel]:
    """One kernel for the module."""
    manager = KernelManager()
    paths = [str(TESTS.parent), str(TESTS)]
    manager.start_kernel(env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    kernel = Kernel(client)
    kernel.run(PREPARE)
    yield kernel
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(started: Kernel) -> Iterator[Kernel]:
    """The kernel with no widget left over from the test before."""
    started.run("cancels.clear()")
    yield started
    started.run("import ipywidgets; ipywidgets.Widget.close_all()")


def kinds(said: list[Message]) -> list[str]:
    return [message["msg_type"] for message in said]


def of(kind: str, said: list[Message]) -> list[Message]:
    return [message["content"] for message in said if message["msg_type"] == kind]


def test_the_cell_shows_a_receipt_and_a_widget(kernel: Kernel) -> None:
    """Two outputs: one to keep, readable anywhere, and one to watch, mute where it cannot live."""
    receipt, live = of("display_data", kernel.run("fresh()"))
    assert set(receipt["data"]) == {"text/html", "text/plain"}
    assert "in progress, step 4 of 7" in receipt["data"]["text/plain"]
    assert set(live["data"]) == {WIDGET, "text/plain"}
    assert live["data"]["text/plain"] == ""
    assert receipt["transient"]["display_id"] != live["transient"]["display_id"]


def test_a_run_that_has_ended_shows_its_card_alone(kernel: Kernel) -> None:
    """Nothing to watch, nothing to cancel, no widget."""
    said = kernel.run("Panel(done, on_cancel=print).show()")
    (card,) = of("display_data", said)
    assert "finished" in card["data"]["text/html"]
    assert "comm_open" not in kinds(said)


def test_a_thread_only_writes_traits_and_updates_displays(kernel: Kernel) -> None:
    """Pictures from the background put nothing into the cell that happens to run."""
    kernel.run("fresh()")
    said = kernel.run(
        "in_thread(lambda: [panel.update(later(running, n, round=n)) for n in range(1, 6)])"
    )
    assert set(kinds(said)) == {"comm_msg", "update_display_data"}


def test_the_end_leaves_the_final_card_and_keeps_the_widget_in_the_kernel(kernel: Kernel) -> None:
    """The receipt becomes the card; a page that was away finds the end in the widget's place."""
    shown = of("display_data", kernel.run("fresh()"))
    said = kernel.run("in_thread(lambda: panel.update(done))")
    receipt, place = of("update_display_data", said)
    assert receipt["transient"] == shown[0]["transient"]
    assert "use the frame" in receipt["data"]["text/html"]
    assert "gptbatch-receipt" not in receipt["data"]["text/html"]
    assert place["transient"] == shown[1]["transient"]
    assert place["data"] == {"text/html": "", "text/plain": ""}
    kept = "[w.value for w in ipywidgets.Widget.widgets.values() if isinstance(w, ipywidgets.HTML)]"
    assert "use the frame" in kernel.value(f"' '.join({kept})")


def test_the_page_hears_of_the_end_once_and_before_the_widget_goes(kernel: Kernel) -> None:
    """What rings lives in the widget's model: told afterwards, the page might be gone with it."""
    kernel.run("fresh()")
    said = kernel.run("in_thread(lambda: (panel.update(done), panel.say('it is in `labelled`')))")
    states = [m["content"].get("data", {}).get("state", {}) for m in said]
    (told,) = [number for number, state in enumerate(states) if "ended" in state]
    (gone,) = [n for n, m in enumerate(said) if m["content"].get("data", {}).get("text/html") == ""]
    assert told < gone
    assert states[told]["ended"]["title"] == "labelled: finished"
    assert len(str(said[told]["content"])) < 500


def test_a_kernel_is_no_terminal(kernel: Kernel) -> None:
    """Its output is a cell, where a bell would be a stray character."""
    assert kernel.run("from batch_magic.bell import ring_terminal; ring_terminal()") == []


def test_a_picture_that_comes_late_does_not_undo_the_end(kernel: Kernel) -> None:
    """Threads may overtake each other; the final card stays."""
    kernel.run("fresh(); panel.update(done)")
    assert kernel.run("panel.update(running); panel.update(later(running, 1))") == []


def test_the_same_picture_is_sent_once(kernel: Kernel) -> None:
    """A refresh without news costs nothing."""
    kernel.run("fresh(); panel.update(later(running, 1))")
    assert kernel.run("panel.update(later(running, 1))") == []


def test_a_refresh_is_one_small_message_whatever_the_rows(kernel: Kernel) -> None:
    """A million rows and forty jobs cost what ten rows do."""
    kernel.run(
        "big = picture(rows=10**6, jobs=tuple(job(n) for n in range(40)), claimed_ok=1000)\n"
        "panel = Panel(big, on_cancel=print); panel.show(); panel.update(later(big, 1))"
    )
    said = kernel.run("panel.update(later(big, 2, claimed_ok=2000))")
    assert kinds(said) == ["comm_msg"]
    assert len(str(said[0]["content"])) < 4_000


def test_the_receipt_follows_the_state_and_else_the_minute(kernel: Kernel) -> None:
    """The saved file is never more than a minute old, and is not rewritten every second."""
    kernel.run("fresh()")
    steps = {
        "later(running, 30, claimed_ok=11)": 0,
        "later(running, 59, claimed_ok=12)": 0,
        "later(running, 60, claimed_ok=13)": 1,
        "later(running, 61, claimed_ok=14)": 0,
        "later(running, 62, problem='refused')": 1,
        "later(running, 63, stage=Stage.FINALIZING)": 1,
    }
    for change, updates in steps.items():
        assert kinds(kernel.run(f"panel.update({change})")).count("update_display_data") == updates


def test_a_line_said_is_in_the_receipt_during_the_run_and_after_it(kernel: Kernel) -> None:
    """The hand-over often happens after the end; the card tells it then too."""
    kernel.run("fresh(); panel.update(done)")
    (update,) = of("update_display_data", kernel.run("panel.say('the result is in `labelled`')"))
    assert "the result is in" in update["data"]["text/html"]
    assert kernel.run("panel.say('the result is in `labelled`')") == []


def test_foreign_text_is_text_on_the_page_too(kernel: Kernel) -> None:
    """Receipt, widget and final card: no word of a model or a service becomes markup."""
    kernel.run(
        "evil = '<script>alert(1)</script><img src=x onerror=alert(1)>'\n"
        "odd = picture(name=evil, model_served=evil, problem=evil, notes=(evil,),\n"
        "              jobs=(job(0, status=evil, problem=evil),))\n"
        "import ipywidgets; panel = Panel(odd, on_cancel=print)"
    )
    said = kernel.run("panel.show(); panel.say(evil)")
    live = "[w.value for w in ipywidgets.Widget.widgets.values() if isinstance(w, ipywidgets.HTML)]"
    shown = [kernel.value(f"' '.join({live})")]
    said += kernel.run("panel.update(later(odd, 9, ending=Ending.STOPPED, fault=evil))")
    outputs = of("display_data", said) + of("update_display_data", said)
    shown += [html for one in outputs if (html := one["data"].get("text/html"))]
    assert len(shown) == 4
    for html in shown:
        assert "&lt;script&gt;" in html
        assert "<script" not in html
        assert "<img" not in html


def test_a_panel_shown_again_is_kept_up_in_both_cells(kernel: Kernel) -> None:
    """`%gptbatch status` shows the same panel, not a copy that stands still."""
    first = of("display_data", kernel.run("fresh()"))
    second = of("display_data", kernel.run("panel.show()"))
    assert [m["transient"] for m in first] == [m["transient"] for m in second]


def test_drawing_never_raises(kernel: Kernel) -> None:
    """A broken picture or a closed channel is logged; the paid run goes on."""
    code = (
        "import logging; logged = []\n"
        "class Catch(logging.Handler):\n"
        "    def emit(self, record): logged.append(record.getMessage())\n"
        "logging.getLogger('batch_magic').addHandler(Catch())\n"
        "logging.getLogger('batch_magic').propagate = False\n"
        "fresh(); panel.update(later(running, 1, rows=None)); panel.update(later(running, 2))"
    )
    kernel.run(code)
    assert kernel.value("logged") == "['run r-7f3a9c could not be drawn']"


def test_cancel_is_asked_twice_and_called_once(kernel: Kernel) -> None:
    """A stray click costs nothing, a confirmed one reaches the run once."""
    kernel.run("fresh(); buttons = panel._live._buttons")
    ask, keep, confirm = (
        kernel.value(f"buttons.{name}.model_id") for name in ("_ask", "_keep", "_confirm")
    )
    for button in (ask, ask, keep, ask):
        kernel.click(button)
    assert kernel.value("cancels, [b.description for b in buttons.box.children]") == (
        "([], ['Keep running', 'Really cancel? finished rows are kept'])"
    )
    for button in (confirm, confirm):
        kernel.click(button)
    assert kernel.value("cancels, buttons._ask.description, buttons._ask.disabled") == (
        "([1], 'cancelling', True)"
    )


def test_a_cancel_that_fails_is_told_and_offered_again(kernel: Kernel) -> None:
    """An error in a button's callback would be shown nowhere."""
    kernel.run(
        "def fail(): raise OSError('disk <full>')\n"
        "panel = Panel(running, on_cancel=fail); panel.show(); buttons = panel._live._buttons"
    )
    kernel.click(kernel.value("buttons._ask.model_id"))
    kernel.click(kernel.value("buttons._confirm.model_id"))
    assert kernel.value("buttons._ask.description, buttons._ask.disabled") == "('Cancel', False)"
    assert "disk &lt;full&gt;" in kernel.value("buttons._trouble.value")


def test_a_cancel_asked_for_elsewhere_disables_the_button(kernel: Kernel) -> None:
    """`%gptbatch cancel` and the button tell the same story."""
    kernel.run("fresh(); panel.update(later(running, 1, cancelling=True))")
    assert kernel.value("panel._live._buttons._ask.description") == "cancelling"


def test_a_click_keeps_the_subshell_that_the_page_chose(kernel: Kernel) -> None:
    """ipykernel 7.4 would send it to the busy main shell; this is what we rely on instead."""
    kernel.run("fresh(); comm = panel._live._buttons._ask.comm")
    routed = kernel.value(
        "comm._reply_subshell_for({}, 'chosen') if hasattr(comm, '_reply_subshell_for') else '-'"
    )
    assert routed in ("chosen", "-")


def test_in_a_kernel_the_panel_is_drawn(kernel: Kernel) -> None:
    """Where there is a page, it is used."""
    assert kernel.value("type(open_panel(done, on_cancel=print)).__name__") == "Panel"


# ── without a kernel ──────────────────────────────────────────────────────────────────────────


def test_without_a_kernel_the_panel_is_text() -> None:
    """A script has no page; a Panel that is never shown sends nothing either."""
    assert isinstance(open_panel(picture(), on_cancel=lambda: None), TextPanel)
    Panel(picture(), on_cancel=lambda: None).update(ALBUM["finished"])


def test_text_is_written_only_when_the_waiting_side_asks() -> None:
    """The background tells, the waiting side prints: a prompt is never written over."""
    written: list[str] = []
    panel = TextPanel(picture(), write=written.append)
    panel.show()
    panel.update(picture(stage=Stage.COLLECTING, as_of=START + 300))
    panel.say("the result is in `labelled`")
    assert len(written) == 1
    panel.tell()
    assert [text.partition(" · ")[0] for text in written] == [
        "labelled: in progress, step 4 of 7",
        "labelled: collecting, step 6 of 7",
        "the result is in `labelled`",
    ]


def test_text_is_written_on_changes_of_state_only() -> None:
    """A run of hours does not fill a terminal; its end is told in full."""
    written: list[str] = []
    panel = TextPanel(picture(), write=written.append)
    panel.show()
    for seconds in range(1, 50):
        panel.update(picture(as_of=START + 252 + seconds, claimed_ok=seconds))
        panel.tell()
    assert len(written) == 1
    panel.update(picture(ending=Ending.FINISHED, stage=Stage.DONE, ended_at=START + 400))
    panel.tell()
    assert written[1].startswith("labelled: finished\n")
    assert "next: use the frame `labelled`" in written[1]


# -- buttons --------------------------------------------------------------------------------


def buttons_of(kernel: Kernel, snapshot: str) -> str:
    """Show a panel of this picture and return what its buttons say."""
    kernel.run(
        f"deeds = []\npanel = Panel({snapshot}, on_cancel=lambda: deeds.append('cancel'),"
        " on_finish=lambda: deeds.append('finish'), on_submit=lambda: deeds.append('submit'))\n"
        "panel.show(); buttons = panel._live._buttons"
    )
    return kernel.value(said_by_buttons)


said_by_buttons = "[b.description for b in buttons.box.children if hasattr(b, 'description')][:-1]"


def test_a_batch_can_be_finished_live_when_asked_twice(kernel: Kernel) -> None:
    """It spends money: the second question names what, in another place."""
    assert buttons_of(kernel, "running") == "['Cancel', 'Finish now']"
    kernel.click(kernel.value("buttons._finish.model_id"))
    assert kernel.value("deeds") == "[]"
    assert "at the full price?" in kernel.value("buttons._confirm.description")
    kernel.click(kernel.value("buttons._keep.model_id"))
    kernel.click(kernel.value("buttons._finish.model_id"))
    kernel.click(kernel.value("buttons._confirm.model_id"))
    assert kernel.value("deeds, buttons._finish.disabled") == "(['finish'], True)"


@pytest.mark.parametrize(
    "change", ["cancelling=True", "stage=Stage.PREPARING", "jobs=()", "request=live"]
)
def test_what_cannot_be_finished_live_has_no_such_button(kernel: Kernel, change: str) -> None:
    """A live run is live already, and what is being cancelled is left to its end."""
    kernel.run("live = replace(running.request, live=True)")
    assert "Finish" not in buttons_of(kernel, f"replace(running, {change})")


def test_a_run_that_went_live_says_so_in_its_button(kernel: Kernel) -> None:
    """By its deadline, by hand or by the verb: the same."""
    buttons_of(kernel, "running")
    kernel.run("panel.update(later(running, 5, goes_live_at=running.as_of))")
    assert kernel.value("buttons._finish.description, buttons._finish.disabled") == (
        "('finishing live', True)"
    )


def test_leave_to_spend_is_one_click_with_its_price(kernel: Kernel) -> None:
    """The button names what it may cost; the panel lives though the run is held."""
    held = "later(running, 0, ending=Ending.STOPPED, fault='not submitted yet', asks_usd=12.3)"
    assert buttons_of(kernel, held) == "['Submit, up to $12.30', 'Cancel']"
    kernel.click(kernel.value("buttons._submit.model_id"))
    assert kernel.value("deeds, buttons._submit.disabled") == "(['submit'], True)"
    kernel.run("panel.update(later(running, 2))")
    assert kernel.value(said_by_buttons) == "['Cancel', 'Finish now']"
