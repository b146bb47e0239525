"""The project view, but for the page: how runs stand, what may be done, who looks, who is told."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels import PROJECT, Kernel, kernel
from pictures import ALBUM, picture
from projects import KINDS, drive, fill, go_on, id_of

from batch_magic import cleaning, settings
from batch_magic.errors import JournalError
from batch_magic.journal import LEASE_S, Journal
from batch_magic.lookout import Lookout
from batch_magic.records import Ending, RowStatus, Snapshot
from batch_magic.sandbox import launcher
from batch_magic.standing import (
    PAGE_ROWS,
    Deed,
    Order,
    Show,
    Standing,
    Where,
    Wish,
    allowed,
    listed,
    offers,
    project_html,
    row_of,
    shares,
    shown_counts,
    table_text,
)

ALL = frozenset(Deed)
NOW = 1_800_000_000.0


# -- which rows, in which order ---------------------------------------------------------------

SNAPSHOTS = st.builds(
    lambda kind, name, rows: replace(
        ALBUM[kind], name=name, rows=rows, counts={RowStatus.OK: rows}, run_id=f"r-{name}-{rows}"
    ),
    st.sampled_from(sorted(ALBUM)),
    st.sampled_from(["labelled", "설문", "تصنيف", "Labelled_2"]),
    st.integers(1, 10**6),
)
HOMES = st.lists(SNAPSHOTS, max_size=130).map(lambda found: [Standing(one) for one in found])


@given(HOMES, st.sampled_from(Show), st.sampled_from(Order), st.sampled_from(["", "LABEL", "문 x"]))
def test_pages_hold_each_run_that_is_wished_for_once(
    home: list[Standing], show: Show, order: Order, text: str
) -> None:
    """No run is on two pages or on none, whatever the filter and the order."""
    wish = Wish(text, show, order)
    first = listed(home, wish)
    pages = [listed(home, replace(wish, page=n)).standings for n in range(first.pages)]
    found = [id(one) for page in pages for one in page]
    assert len(found) == len(set(found)) == first.matched
    assert all(len(page) == PAGE_ROWS for page in pages[:-1])
    if not text:
        assert first.matched == shown_counts(home)[show.value]
    assert listed(home, replace(wish, page=10**6)).page == first.pages - 1


@given(HOMES)
def test_a_row_is_plain_text_and_its_bar_holds_its_rows(home: list[Standing]) -> None:
    """Whatever the page is sent can be sent, and a bar is never longer than the whole."""
    for one in home:
        row = row_of(one, ALL)
        assert row["name"]
        assert row["state"]
        assert row["money"]
        assert sum(width for width, _ in shares(one.snapshot)) <= 100.01


# -- what may be done -------------------------------------------------------------------------


def deeds_of(s: Snapshot, **facts: object) -> list[str]:
    return [offer.label for offer in offers(Standing(s, **facts), ALL)]  # type: ignore[arg-type]


def test_what_is_offered_follows_how_the_run_stands() -> None:
    """A deed that would be refused is not on offer, one that is wanted is."""
    here, kept = Where.HERE, "it has not ended"
    going, failed = ALBUM["in progress"], ALBUM["finished with failures"]
    assert deeds_of(going, where=here, kept=kept) == ["Explore", "Cancel"]
    assert deeds_of(going, where=Where.ELSEWHERE, kept=kept) == ["Attach", "Explore", "Cancel"]
    assert deeds_of(ALBUM["cancelling"], where=here, kept=kept) == ["Explore"]
    assert deeds_of(ALBUM["preparing"], is_recorded=False, kept=kept) == ["Cancel"]
    assert deeds_of(ALBUM["finished"], kept="not taken") == ["Take result", "Explore"]
    assert deeds_of(failed) == ["Take result", "Explore", "Retry", "Clean"]
    assert deeds_of(ALBUM["stopped"], kept=kept) == ["Attach", "Explore", "Cancel"]
    held = replace(picture(), ending=Ending.STOPPED, asks_usd=3.0, fault="not submitted yet")
    assert deeds_of(held) == ["Submit", "Drop"]


def test_what_is_not_known_how_to_do_is_not_offered() -> None:
    """The explorer may not be there."""
    known = ALL - {Deed.EXPLORE}
    assert [o.label for o in offers(Standing(ALBUM["finished"], kept="-"), known)] == [
        "Take result"
    ]


def test_whatever_gives_or_takes_is_asked_about() -> None:
    """One click attaches or shows; money and files need a second one, in another place."""
    for s in [*ALBUM.values(), replace(picture(), ending=Ending.STOPPED, asks_usd=float("inf"))]:
        one = Standing(s)
        for offer in offers(one, ALL):
            is_harmless = offer.deed in (Deed.ATTACH, Deed.EXPLORE)
            assert bool(offer.question) is bool(offer.answers) is not is_harmless
            assert all(allowed(one, deed, ALL) for _, deed in offer.answers)
    assert not allowed(Standing(ALBUM["finished"], kept="another waits"), Deed.CLEAN, ALL)
    assert not allowed(Standing(ALBUM["finished"]), Deed.CANCEL, ALL)


# -- words ------------------------------------------------------------------------------------


def test_a_terminal_gets_a_line_for_each_run() -> None:
    """Korean letters are two columns wide: the columns stay straight."""
    kinds = (("가", "preparing"), ("b", "uploading"))
    told = [Standing(replace(ALBUM[kind], name=name)) for name, kind in kinds]
    lines = table_text(told, NOW, "/home").splitlines()
    assert lines[0].startswith("run  state")
    assert lines[1].startswith("가   preparing")
    assert lines[2].startswith("b    uploading")
    assert table_text([], NOW, "/home") == "there are no runs yet in /home"
    crowd = table_text(told * 40, NOW, "/home").splitlines()
    assert len(crowd) == PAGE_ROWS + 2
    assert crowd[-1] == "and 30 older runs: `%gptbatch list` has all of /home"


def test_the_table_that_stays_holds_text_alone() -> None:
    """A file that is opened elsewhere runs nothing, and sets no formula between two dollars."""
    html = project_html(
        [Standing(replace(one, notebook="<script>$x$")) for one in ALBUM.values()], NOW, "<home>"
    )
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "$x$" not in html
    assert "there are no runs yet in &lt;home&gt;" in project_html([], NOW, "<home>")


def test_a_notebook_is_told_as_its_home_sees_it(tmp_path: Path) -> None:
    """A home may be given away: no path beyond it is written down."""
    named = {"JPY_SESSION_NAME": str(tmp_path / "work" / "나.ipynb")}
    assert settings.notebook(named, tmp_path) == "work/나.ipynb"
    assert settings.notebook(named, tmp_path / "elsewhere") == "나.ipynb"
    assert settings.notebook({}, tmp_path) == ""


# -- looking again and again ------------------------------------------------------------------


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    fill(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def lookout(filled: Path) -> Iterator[Lookout]:
    found = Lookout(Journal(filled / "journal.db"), "me", list)
    yield found
    found.close()


def named(seen: tuple[Standing, ...]) -> dict[str, Standing]:
    return {one.snapshot.name: one for one in seen}


def test_all_runs_are_seen_newest_first(lookout: Lookout) -> None:
    """With who works at each, whether it was taken, and whether it may go."""
    seen = lookout.look(time.time())
    assert [one.snapshot.name for one in seen] == list(KINDS)[::-1]
    found = named(seen)
    assert (found["elsewhere"].where, found["orphaned"].where) == (Where.ELSEWHERE, Where.NOWHERE)
    assert found["elsewhere"].lease.notebook == "analysis/other.ipynb"  # type: ignore[union-attr]
    assert [name for name, one in found.items() if one.is_taken] == ["reviews_out"]
    assert found["reviews_out"].kept is None
    assert "never taken" in (found["rehearsal"].kept or "")


def test_nothing_is_drawn_anew_while_nothing_changes(lookout: Lookout, filled: Path) -> None:
    """The very same tuple: the page is sent nothing; what another kernel writes is seen."""
    before = lookout.look(time.time())
    assert lookout.look(time.time() + 5) is before
    go_on(filled, id_of("elsewhere"), 612)
    after = lookout.look(time.time())
    assert named(after)["elsewhere"].snapshot.claimed_ok == 612
    assert named(after)["reviews_out"].snapshot is named(before)["reviews_out"].snapshot


def test_ended_runs_that_change_are_read_again(lookout: Lookout, filled: Path) -> None:
    """A retry, a result taken, a run that is cleaned away: another kernel may do each."""
    lookout.look(time.time())
    journal = Journal(filled / "journal.db")
    journal.ask_retry(id_of("설문_라벨"), [RowStatus.FAILED], time.time())
    journal.note_result(id_of("rehearsal"), time.time())
    journal.forget(id_of("reviews_out"))
    found = named(lookout.look(time.time()))
    assert found["설문_라벨"].snapshot.ending is None
    assert found["rehearsal"].is_taken
    assert "reviews_out" not in found
    journal.close()


def test_a_lease_ends_without_a_word(lookout: Lookout) -> None:
    """A kernel that is killed writes nothing: its time is over, and the view tells so."""
    now = time.time()
    assert named(lookout.look(now))["elsewhere"].where is Where.ELSEWHERE
    later = lookout.look(now + 10 * LEASE_S)
    assert named(later)["elsewhere"].where is Where.NOWHERE
    assert lookout.look(now + 10 * LEASE_S + 1) is later


def test_runs_in_preparation_stand_first(filled: Path) -> None:
    """The journal does not know them yet; once it does they are seen once."""
    other = Journal(filled / "journal.db", notebook="mine.ipynb")
    early = replace(ALBUM["preparing"], run_id="early")
    journal = Journal(filled / "journal.db")
    lookout = Lookout(journal, "me", lambda: [early, replace(early, run_id=id_of("orphaned"))])
    seen = lookout.look(time.time())
    assert (seen[0].snapshot.run_id, seen[0].is_recorded) == ("early", False)
    assert len(seen) == len(KINDS) + 1
    assert other.take_lease(id_of("orphaned"), "me", time.time())
    orphaned = named(lookout.look(time.time()))["orphaned"]
    assert orphaned.where is Where.HERE
    assert orphaned.lease is not None
    assert orphaned.lease.notebook == "mine.ipynb"
    other.close()
    lookout.close()


def test_the_reason_to_keep_a_run_is_the_one_of_clean(filled: Path) -> None:
    """The button and the verb never disagree."""
    journal = Journal(filled / "journal.db")
    seen = Lookout(journal, "me", list).look(NOW)
    reasons = {run.run_id: cleaning.why_kept(journal, run, NOW) for run in journal.runs()}
    assert {one.snapshot.run_id: one.kept for one in seen} == reasons
    journal.close()


def test_a_lease_of_nonsense_is_named(lookout: Lookout, filled: Path) -> None:
    """A journal may be a stranger's."""
    with sqlite3.connect(filled / "journal.db") as db:
        db.execute("UPDATE leases SET pid = 'many'")
    with pytest.raises(JournalError, match=r"the lease of run .* is damaged"):
        lookout.look(time.time())


# -- in kernels -------------------------------------------------------------------------------

FAST = {"BATCH_MAGIC_SANDBOX_TIME_SCALE": "60", "BATCH_MAGIC_POLL_FIRST_S": "0.1"}
LOAD = "%load_ext batch_magic\nimport pandas as pd"
FRAME = "frame = pd.DataFrame({{'text': [f'{word} {{n}}' for n in range({rows})]}})"
CELL = "%%gptbatch frame -o {name} -m gpt-5-mini --on sandbox --retries 0\n{{{{ text }}}}"
STALL = """import json, urllib.request
url = json.loads(open(".gptbatch/sandbox/server.json").read())["url"].removesuffix("/v1")
body = json.dumps({"stall_after_share": 0.5}).encode()
urllib.request.urlopen(urllib.request.Request(f"{url}/sandbox/faults", body, method="PUT"))"""
VIEW = "view = get_ipython().find_line_magic('gptbatch').__self__._projects[-1]"
ROWS = "{row['name']: row for row in view._widget.page['rows']}"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    launcher.stop(tmp_path / ".gptbatch" / "sandbox")


def value(notebook: Kernel, code: str) -> str:
    return notebook.run(f"print({code})").printed.strip()


def until(look: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    ends = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < ends, f"after {timeout_s} s still not: {what}"
        time.sleep(0.2)


def say(notebook: Kernel, **words: str) -> None:
    """Say something as the page does."""
    notebook.tell(value(notebook, "view._widget.model_id"), words)


def submit(notebook: Kernel, name: str, rows: int = 12) -> None:
    assert notebook.run(FRAME.format(word=name, rows=rows)).error is None
    assert notebook.run(CELL.format(name=name)).error is None


def test_a_run_of_one_kernel_moves_in_the_view_of_another(folder: Path) -> None:
    """By the journal alone: where it runs, how far it is, and that it was cancelled from here."""
    first = FAST | {"JPY_SESSION_NAME": str(folder / "notes" / "a.ipynb")}
    with kernel(folder, first) as one, kernel(folder, FAST) as other:
        one.run(LOAD)
        submit(one, "warm")
        one.run("warm = await warm")
        one.run(STALL)
        other.run(LOAD)
        assert "warm" in other.run("%gptbatch").text
        other.run(VIEW)
        submit(one, "slow")
        until(lambda: value(other, f"'slow' in {ROWS}") == "True", "the run is seen")
        row = f"{ROWS}['slow']"
        assert value(other, f"{row}['where'], {row}['notebook']") == (
            "runs in notes/a.ipynb notes/a.ipynb"
        )
        until(lambda: value(other, f"{row}['progress']").startswith("6 answered"), "it moves")
        say(other, kind="deed", run_id=value(other, f"{row}['run_id']"), deed="cancel")
        until(lambda: value(other, f"{row}['state']") == "cancelled", "it is cancelled")
        until(lambda: value(one, "type(slow).__name__") == "DataFrame", "there as well")


def test_clicks_bind_names_only_between_cells(folder: Path) -> None:
    """Attach while a cell runs: bound when it has ended, and nothing of the user's is taken."""
    with kernel(folder, FAST) as notebook:
        notebook.run(LOAD)
        submit(notebook, "labelled")
        notebook.run("labelled = await labelled\nlabelled = 'my own'")
        notebook.run("%gptbatch")
        notebook.run(VIEW)
        run_id = value(notebook, f"{ROWS}['labelled']['run_id']")
        say(notebook, kind="deed", run_id=run_id, deed="attach")
        until(lambda: "str of yours" in value(notebook, "view._widget.said"), "it is left alone")
        assert value(notebook, "labelled") == "my own"
        click = f"{{'kind': 'deed', 'run_id': {run_id!r}, 'deed': 'attach'}}"
        seen = notebook.run(
            f"del labelled; import threading, time\n"
            f"hear = threading.Thread(target=view._hear, args=(None, {click}, []))\n"
            "hear.start(); hear.join(); time.sleep(1)\n"
            "print('labelled' in globals(), view._widget.said)"
        )
        assert seen.printed.strip() == "False `labelled` is bound once the running cell has ended"
        until(lambda: value(notebook, "type(labelled).__name__") == "DataFrame", "it is bound")
        assert value(notebook, "view._widget.said") == "the result is in `labelled`"


def test_what_is_not_on_offer_is_not_done_and_what_fails_is_told(folder: Path) -> None:
    """A page may be old, a message may be anything, and a click has no cell for its error."""
    fill(folder / ".gptbatch")
    with kernel(folder, FAST) as notebook:
        notebook.run(LOAD)
        notebook.run("%gptbatch")
        notebook.run(VIEW)
        for words in (
            {"kind": "deed", "run_id": id_of("reviews_out"), "deed": "cancel"},
            {"kind": "deed", "run_id": "no such run", "deed": "clean"},
            {"kind": "deed", "run_id": id_of("reviews_out"), "deed": "burn"},
            {"kind": "wish", "show": "burning"},
            {"kind": "wish", "page": "one"},
            {"kind": "dance"},
            {},
        ):
            say(notebook, **words)
        say(notebook, kind="deed", run_id=id_of("expensive"), deed="submit")
        until(lambda: "expensive" in value(notebook, f"{ROWS}.keys()"), "it is there")
        refused = f"view._widget.page['refused'].get({id_of('expensive')!r}, '')"
        until(lambda: "no key" in value(notebook, refused), "it says what to do")
        until(lambda: value(notebook, "view._widget.page['busy']") == "{}", "nothing is under way")
        assert value(notebook, f"{ROWS}['reviews_out']['state']") == "finished"
        assert value(notebook, f"{ROWS}['expensive']['state']") == "not submitted yet"
        say(notebook, kind="wish", text="설문", show="all", order="by name", page="7")
        assert value(notebook, f"list({ROWS})") == "['설문_라벨']"


def test_nobody_looking_costs_nothing_and_a_look_brings_it_up_to_date(folder: Path) -> None:
    """A browser that is closed says nothing: after a while the journal is not read any more."""
    fill(folder / ".gptbatch")
    with kernel(folder, FAST) as notebook:
        notebook.run(LOAD)
        notebook.run("%gptbatch")
        notebook.run(VIEW)
        say(notebook, kind="look", view="v")
        assert value(notebook, "view.is_looked_at") == "True"
        say(notebook, kind="bye", view="v")
        assert value(notebook, "view.is_looked_at") == "False"
        time.sleep(3)
        go_on(folder / ".gptbatch", id_of("elsewhere"), 801)
        time.sleep(3)
        progress = f"{ROWS}['elsewhere']['progress'][:3]"
        assert value(notebook, progress) == "333"
        say(notebook, kind="look", view="v")
        until(lambda: value(notebook, progress) == "801", "it is up to date", timeout_s=5)
        drive(folder / ".gptbatch", id_of("orphaned"), "third.ipynb")
        where = f"{ROWS}['orphaned']['where']"
        until(lambda: value(notebook, where) == "runs in third.ipynb", "it goes on looking")
        threads = "sum(t.name == 'batch_magic' for t in __import__('threading').enumerate())"
        assert value(notebook, threads) == "1"
        notebook.run("%unload_ext batch_magic")
        assert value(notebook, threads) == "0"


def test_where_nobody_can_click_a_table_stands(folder: Path) -> None:
    """A headless executor gets no widget; `list` is the frame as ever."""
    fill(folder / ".gptbatch")
    with kernel(folder, FAST) as notebook:
        notebook.run(LOAD)
        seen = notebook.run("%gptbatch", allow_stdin=False)
        assert seen.error is None
        assert len(seen.shown) == 1
        assert "설문_라벨" in seen.text
        assert "notebook" not in notebook.run("%gptbatch list").text
        assert value(notebook, "len(get_ipython().run_line_magic('gptbatch', 'list'))") == "8"


def test_a_terminal_prints_the_table(tmp_path: Path) -> None:
    """`%gptbatch` alone, without a page."""
    fill(tmp_path / "home")
    words = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    words |= {"HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}
    words |= {"PYTHONPATH": str(PROJECT), "BATCH_MAGIC_HOME": str(tmp_path / "home")}
    code = "get_ipython().run_line_magic('load_ext', 'batch_magic'); print('--')\n%gptbatch"
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--quick", "-c", code],
        cwd=tmp_path, env=words, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    lines = done.stdout.partition("--\n")[2].splitlines()
    assert lines[0].split() == ["run", "state", "rows", "cost", "model", "age", "where"]
    assert len(lines) == 10, done.stdout + done.stderr
    assert lines[-1].startswith("what may be done: %gptbatch status")
