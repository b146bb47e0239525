"""The Python API, without a notebook: scripts, coroutines, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import decimal
import json
import os
import re
import socket
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from html import escape as html_escape
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pandas as pd
import pytest
from service import serving, stub_answer

import batch_magic as bm
from batch_magic import session, settings
from batch_magic.adoption import rows_of
from batch_magic.card import card_html
from batch_magic.errors import CellError, JournalError, ServiceError, StillRunning
from batch_magic.records import RowStatus
from batch_magic.sandbox import launcher
from batch_magic.schema import MIGRATIONS


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"text": list("abc")}, index=[7, 7, 1])


def submit(frame: pd.DataFrame, template: str = "Say {{ text }}", **options: object) -> bm.Run:
    return bm.submit(frame, template, **{"model": "m", "on": "sandbox", **options})  # type: ignore[arg-type]


def test_submit_wait_gives_the_frame(home: Path, frame: pd.DataFrame) -> None:
    """Three lines in a script."""
    result = submit(frame).wait(timeout_s=30)
    assert list(result.columns) == ["text", "answer", "gpt_status", "gpt_error"]
    assert list(result.index) == [7, 7, 1]
    assert [text[-1] for text in result["answer"]] == ["a", "b", "c"]
    assert list(frame.columns) == ["text"]


def test_home_is_private_and_ignored_by_git(home: Path, frame: pd.DataFrame) -> None:
    """Rows and answers are nobody else's business."""
    submit(frame).wait(timeout_s=30)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert (home / ".gitignore").read_text() == "*\n"


def test_await_in_a_program_keeps_its_other_tasks_alive(home: Path, frame: pd.DataFrame) -> None:
    """A handle can be awaited in any loop."""

    async def program() -> tuple[int, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.02)

        ticking = asyncio.create_task(tick())
        result = await submit(frame)
        ticking.cancel()
        return len(result), ticks

    rows, ticks = asyncio.run(program())
    assert rows == 3
    assert ticks > 5


def test_blocking_wait_inside_a_running_loop_does_not_starve_it(home: Path) -> None:
    """The one place of nest_asyncio2: a host's loop that already runs goes on meanwhile."""
    code = """
        import asyncio, pandas as pd, batch_magic as bm
        async def program():
            ticks = 0
            async def tick():
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0.02)
            asyncio.create_task(tick())
            run = bm.submit(pd.DataFrame({"t": ["a"]}), "{{ t }}", model="m", on="sandbox")
            print(len(run.wait(timeout_s=30)), ticks > 5)
        asyncio.run(program())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["1", "True"], done.stderr


def test_result_before_the_end_says_how_to_wait(home: Path, frame: pd.DataFrame) -> None:
    """The three ways on are in the message."""
    run = submit(frame, out="labelled")
    with pytest.raises(StillRunning, match=r"%gptbatch wait labelled"):
        run.result()
    with pytest.raises(StillRunning):
        run.wait(timeout_s=0.01)
    assert set(run.partial()["gpt_status"]) == {"pending"}
    run.wait(timeout_s=30)


def test_handle_is_no_frame_but_can_be_probed(home: Path, frame: pd.DataFrame) -> None:
    """Libraries ask objects what they can do; the handle answers as an object would."""
    run = submit(frame)
    assert not hasattr(run, "to_pandas")
    assert "wait for it" in repr(run)
    run.wait(timeout_s=30)


def test_edit_and_sort_after_submit_do_not_move_an_answer(home: Path) -> None:
    """The result is the frame as it was at submit, whatever is done to it since."""
    frame = pd.DataFrame({"text": list("abcdef")})
    run = submit(frame)
    frame.loc[:, "text"] = list("zyxwvu")
    result = run.wait(timeout_s=30)
    assert list(result["text"]) == list("abcdef")
    assert [text[-1] for text in result["answer"]] == list("abcdef")


def test_new_process_has_the_result_without_the_frame(home: Path) -> None:
    """The snapshot on disk stands in for a frame that died with its kernel."""
    code = """
        import pandas as pd, batch_magic as bm
        bm.submit(pd.DataFrame({"t": ["x", None]}, index=["i", "i"]), "Say {{ t }}", out="lost",
                  model="m", on="sandbox")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
    result = bm.attach("lost").wait(timeout_s=30)
    assert list(result.index) == ["i", "i"]
    assert list(result["gpt_status"]) == ["ok", "skipped"]


def test_same_call_again_attaches_or_takes_over_and_pays_nothing(
    home: Path, frame: pd.DataFrame
) -> None:
    """In flight: the same run. Afterwards: the same answers, without a job."""
    first = submit(frame, out="twice")
    assert submit(frame, out="twice").run_id == first.run_id
    answers = first.wait(timeout_s=30)["answer"]
    again = submit(frame.iloc[::-1], out="twice").wait(timeout_s=30)
    assert again.attrs["gptbatch"]["job_ids"] == []
    assert list(again["answer"]) == list(answers)[::-1]


def test_rows_in_flight_in_another_run_are_waited_for_not_paid_twice(
    home: Path, frame: pd.DataFrame
) -> None:
    """Another order and one row more: that row alone is sent."""
    first = submit(frame, out="one")
    more = pd.DataFrame({"text": ["c", "d", "a", "b"]})
    second = submit(more, out="two").wait(timeout_s=30)
    first.wait(timeout_s=30)
    assert [text[-1] for text in second["answer"]] == ["c", "d", "a", "b"]
    sent = [job.rows for job in bm.attach("two").snapshot().jobs]
    assert sent == [1]


def test_fresh_pays_again(home: Path, frame: pd.DataFrame) -> None:
    """The one way to ask for other answers."""
    submit(frame).wait(timeout_s=30)
    result = submit(frame, fresh=True).wait(timeout_s=30)
    assert len(result.attrs["gptbatch"]["job_ids"]) == 1


@pytest.mark.parametrize("rows", [0, 1])
def test_empty_frame_and_one_row(home: Path, rows: int) -> None:
    """The edges of the main job."""
    frame = pd.DataFrame({"text": ["x"] * rows})
    result = submit(frame).wait(timeout_s=30)
    assert len(result) == rows
    assert list(result.columns) == ["text", "answer", "gpt_status", "gpt_error"]


def test_frame_with_duplicate_column_names(home: Path) -> None:
    """What the template does not read may be named as it likes."""
    frame = pd.DataFrame([["a", 1, 2], ["b", 3, 4]], columns=["text", "x", "x"])
    result = submit(frame).wait(timeout_s=30)
    assert list(result.columns[:3]) == ["text", "x", "x"]
    assert result["gpt_status"].eq("ok").all()


def test_large_frame_is_prepared_behind_the_handle(home: Path) -> None:
    """No call takes longer than two seconds; progress shows in the snapshot."""
    frame = pd.DataFrame({"text": [f"row {n} " + "x" * 300 for n in range(150_000)]})
    run = submit(frame)
    assert run.snapshot().stage.value in ("preparing", "uploading")
    with pytest.raises(StillRunning):
        run.result()
    run.cancel()
    run._ended.wait(60)
    assert run.snapshot().is_ended


def test_several_shards_become_several_jobs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits can be configured down."""
    monkeypatch.setenv("BATCH_MAGIC_MAX_ROWS_PER_JOB", "4")
    result = submit(pd.DataFrame({"text": list("abcdefghij")})).wait(timeout_s=60)
    assert len(result.attrs["gptbatch"]["job_ids"]) == 3
    assert [text[-1] for text in result["answer"]] == list("abcdefghij")


def test_line_over_the_limit_fails_its_row_and_the_run_goes_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row that no job can hold is no reason to stop the others."""
    monkeypatch.setenv("BATCH_MAGIC_MAX_BYTES_PER_JOB", "1000")
    result = submit(pd.DataFrame({"text": ["a", "x" * 2_000, "c"]})).wait(timeout_s=60)
    assert list(result["gpt_status"]) == ["ok", "failed", "ok"]
    assert "bytes" in result["gpt_error"].iloc[1]


def test_keep_adds_columns(home: Path, frame: pd.DataFrame) -> None:
    """What a row cost in tokens, who answered, and the raw line."""
    keep = ["usage", "finish_reason", "custom_id", "model", "raw"]
    result = submit(frame, keep=keep).wait(timeout_s=30)
    assert (result["gpt_usage_input"] > 0).all()
    assert set(result["gpt_model"]) == {"sandbox-stub"}
    assert result["gpt_raw"].str.contains("chat.completion").all()
    assert result["gpt_custom_id"].str.endswith(("-0", "-1", "-2")).all()


def test_unknown_model_stops_with_the_cure_and_can_go_on(home: Path, frame: pd.DataFrame) -> None:
    """A fault that is the same for all rows; the rows are kept."""
    run = submit(frame, model="nonexistent-model", out="stopped")
    with pytest.raises(ServiceError, match="model_not_found"):
        run.wait(timeout_s=30)
    assert bm.runs().set_index("name").loc["stopped", "state"] == "stopped"
    with pytest.raises(ServiceError, match="model_not_found"):
        bm.attach("stopped").wait(timeout_s=30)


def test_unknown_name_lists_the_known_ones(home: Path, frame: pd.DataFrame) -> None:
    """A typo is answered with what there is."""
    submit(frame, out="labelled").wait(timeout_s=30)
    with pytest.raises(CellError, match="known are labelled"):
        bm.attach("labeled")


def test_import_is_light() -> None:
    """`import batch_magic` costs nothing until something is asked of it."""
    heavy = {"pandas", "openai", "IPython", "pyarrow"}
    code = f"import sys, batch_magic; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_variable_given_by_with_is_taken_as_it_was_at_submit(home: Path) -> None:
    """The rest of a large frame is rendered after the cell has returned."""
    book = {"v": "old"}
    frame = pd.DataFrame({"t": [f"{n} " + "x" * 900 for n in range(60_000)]})
    run = bm.submit(frame, "{{ book.v }} {{ t }}", model="m", on="sandbox", with_={"book": book})
    book["v"] = "new"
    run.cancel()
    run._ended.wait(60)
    assert '"old ' in (run.example() or '"old ')


def test_secret_in_a_base_url_is_refused(home: Path, frame: pd.DataFrame) -> None:
    """A URL goes into the journal; a key must not."""
    with pytest.raises(CellError, match="OPENAI_API_KEY instead"):
        submit(frame, on="http://user:pw@127.0.0.1:9/v1")
    with pytest.raises(CellError, match="cannot be used"):
        submit(frame, on="http://127.0.0.1:abc/v1")


def test_folder_of_something_else_is_no_home(
    home: Path, frame: pd.DataFrame, tmp_path: Path
) -> None:
    """Its rights and its files are left alone."""
    other = tmp_path / "other"
    other.mkdir(mode=0o755)
    (other / "thesis.tex").write_text("")
    with pytest.raises(JournalError, match="no home of batch_magic"):
        submit(frame, home=str(other))
    assert stat.S_IMODE(other.stat().st_mode) == 0o755


def test_journal_that_is_gone_is_not_begun_anew(home: Path, frame: pd.DataFrame) -> None:
    """An empty journal would pay for everything again."""
    submit(frame).wait(timeout_s=30)
    session.close_sessions()
    (home / "journal.db").write_bytes(b"")
    with pytest.raises(JournalError, match="put it back"):
        submit(frame)


def test_outcomes_file_that_is_gone_is_made_again(home: Path, frame: pd.DataFrame) -> None:
    """The raw files are the truth; nothing is missing and nothing is sent again."""
    run = submit(frame, out="kept")
    run.wait(timeout_s=30)
    (path,) = (home / "runs" / run.run_id).glob("job-*.arrow")
    path.write_bytes(b"cut")
    assert list(run.result()["gpt_status"]) == ["ok"] * 3


def test_name_is_what_python_makes_of_it(home: Path, frame: pd.DataFrame) -> None:
    """Python reads the identifier ﬁnal as final; a variable by the other name could not be said."""
    assert submit(frame, out="ﬁnal").name == "final"


@pytest.mark.parametrize("options", [{"model": "m\ud800"}, {"column": "\ud800"}])
def test_half_a_character_is_refused(
    home: Path, frame: pd.DataFrame, options: dict[str, str]
) -> None:
    """The journal could not keep it."""
    with pytest.raises(CellError, match="half a surrogate pair"):
        submit(frame, **options)


def test_almost_a_role_line_is_noted(home: Path, frame: pd.DataFrame) -> None:
    """`User:` is sent as text; the panel says so."""
    run = submit(frame, "User:\n{{ text }}")
    assert any("'User:' is plain text" in note for note in run.snapshot().notes)


@pytest.mark.parametrize(
    "options",
    [
        {"model": 5},
        {"column": None},
        {"keep": [["usage"]]},
        {"keep": 5},
        {"params": "abc"},
        {"out": None},
    ],
)
def test_python_values_of_the_wrong_type_are_refused_in_one_line(
    home: Path, frame: pd.DataFrame, options: dict[str, Any]
) -> None:
    """What a cell could not have said."""
    with pytest.raises(CellError, match=r"is a (text|mapping), not"):
        submit(frame, **options)


@pytest.mark.parametrize("retries", [True, False, -1, 1.5, "2"])
def test_retries_are_a_whole_number(home: Path, frame: pd.DataFrame, retries: Any) -> None:
    """A journal that holds another one could not be read again."""
    with pytest.raises(CellError, match="retries is a whole number"):
        submit(frame, retries=retries)


@pytest.mark.parametrize(
    ("names", "frame", "rows"),
    [
        (["r-1", "r-0"], pd.DataFrame({"a": [5, 6]}), [1, 0]),
        (["r-1", "r-2"], pd.DataFrame({"a": [5, 6]}), [0, 1]),
        (["x", "y"], pd.DataFrame({"a": ["y", "x"]}), [1, 0]),
        (["0", "1"], pd.DataFrame({"a": [5, 6]}), [0, 1]),
    ],
)
def test_custom_ids_are_guessed_where_there_is_one_way(
    names: list[str], frame: pd.DataFrame, rows: list[int]
) -> None:
    """A column, the index, or a count of all rows from 0 or from 1."""
    assert rows_of(names, frame) == rows


@pytest.mark.parametrize(
    ("names", "frame", "said"),
    [
        (["2", "0", "1"], pd.DataFrame({"id": [2, 0, 1]}), "which mean different rows"),
        (["request-1", "request-2"], pd.DataFrame({"a": range(4)}), "are not found in"),
    ],
)
def test_a_doubtful_guess_is_refused(names: list[str], frame: pd.DataFrame, said: str) -> None:
    """An answer on the wrong row looks like any other."""
    with pytest.raises(CellError, match=f"{said}.*--id COLUMN"):
        rows_of(names, frame)
    if "id" in frame:
        assert rows_of(names, frame, "id") == [0, 1, 2]


@pytest.mark.parametrize("params", [{"seed": 10**5000}, {"n": np.array([1, 2])}])
def test_parameters_that_are_no_json_are_refused(
    home: Path, frame: pd.DataFrame, params: dict[str, Any]
) -> None:
    """Python values that no request can hold."""
    with pytest.raises(CellError, match="parameter"):
        submit(frame, params=params)


@pytest.mark.parametrize(
    "cell", [decimal.Decimal("sNaN"), np.array(3), 10**5000], ids=["snan", "scalar", "digits"]
)
def test_odd_cells_that_are_not_read_harm_nothing(home: Path, cell: object) -> None:
    """A column beside the prompt may hold anything."""
    frame = pd.DataFrame({"text": ["a"], "odd": pd.Series([cell], dtype=object)})
    assert submit(frame).wait(timeout_s=30)["gpt_status"].tolist() == ["ok"]


def test_a_home_with_results_that_its_journal_does_not_know_is_refused(
    home: Path, frame: pd.DataFrame
) -> None:
    """A journal that was lost to a crash would pay for everything again, silently."""
    run = submit(frame)
    run.wait(timeout_s=30)
    session.close_sessions()
    with sqlite3.connect(home / "journal.db") as db:
        for table in ("files", "jobs", "shards", "runs"):
            db.execute(f"DELETE FROM {table}")
    with pytest.raises(JournalError, match="does not know"):
        submit(frame)


def test_clean_forgets_a_run_whose_result_was_taken(home: Path, frame: pd.DataFrame) -> None:
    """And no other: what nobody has seen may be all that is left of the money."""
    run = submit(frame)
    mine = session.session_for(str(home))
    with pytest.raises(CellError, match="not ended"):
        mine.cleanable("result")
    while not run.snapshot().is_ended:
        time.sleep(0.02)
    with pytest.raises(CellError, match="never taken"):
        mine.cleanable("result")
    run.wait(timeout_s=30)
    (record,) = mine.cleanable("result")
    folder = mine.home.run_folder(record.run_id).path
    client = openai.OpenAI(
        base_url=launcher.ensure(home / "sandbox", answerer="stub").url, api_key="any"
    )
    assert len(client.files.list().data) > 0
    mine.clean(record, settings.Settings(home=str(home)), remote=True)
    assert client.files.list().data == []
    assert not folder.exists()
    assert len(bm.runs()) == 0


def test_clean_deletes_nothing_when_a_result_is_damaged(home: Path, frame: pd.DataFrame) -> None:
    """The service may have the only good copy."""
    submit(frame).wait(timeout_s=30)
    mine = session.session_for(str(home))
    (record,) = mine.cleanable("")
    path = mine.home.run_folder(record.run_id).result_path(0, "output")
    path.write_bytes(b"{}")
    with pytest.raises(JournalError, match="damaged"):
        mine.clean(record, settings.Settings(home=str(home)), remote=True)
    assert len(bm.runs()) == 1


def test_clean_keeps_a_run_whose_results_may_still_come(
    home: Path, frame: pd.DataFrame, tmp_path: Path
) -> None:
    """What was never fetched is neither deleted at the service nor forgotten here."""
    with serving(tmp_path / "service") as service:
        service.faults(http_status={"route": "files.content", "status": 410})
        run = submit(frame, on=service.url, retries=0)
        assert set(run.wait(timeout_s=30)["gpt_status"]) == {"missing"}
        mine = session.session_for(str(home))
        with pytest.raises(CellError, match=r"result files of batch_\w+ have not come"):
            mine.cleanable("result")
        service.clear_faults()
        again = bm.attach("result").wait(timeout_s=30)
        assert set(again["gpt_status"]) == {"ok"}
        (record,) = mine.cleanable("result")
        mine.clean(record, settings.Settings(home=str(home)), remote=True)


def test_a_journal_alone_is_no_reason_to_show_a_key(
    home: Path, frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder from somebody else may name any service; the user must have named it, too."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-0123456789abcdefSECRET")
    with serving(tmp_path / "service") as service:
        submit(frame, on=service.url).cancel()
    session.close_sessions()
    stranger = "http://192.0.2.7/v1"  # a call there would fail this test: see conftest
    with sqlite3.connect(home / "journal.db") as db:
        facts = json.loads(db.execute("SELECT facts FROM runs").fetchone()[0])
        facts["backend"] = {"name": "openai", "base_url": stranger}
        db.execute("UPDATE runs SET facts = ?, ending = NULL", (json.dumps(facts),))
    with pytest.raises(CellError, match=f"attach it with --on {stranger}"):
        bm.attach("result")
    assert bm.runs()["state"].tolist() != ["stopped"]


LEAVES = """
import sys
import pandas as pd, batch_magic as bm
for n in range(4):
    frame = pd.DataFrame({"text": [f"{n} a", f"{n} b"]})
    bm.submit(frame, "{{ text }}", model="m", on=sys.argv[1], out=f"run_{n}")
"""


def test_a_script_that_ends_leaves_its_runs_as_they_are(home: Path, tmp_path: Path) -> None:
    """In peace: no traceback of a pool that is gone, no run stopped by it."""
    with serving(tmp_path / "service") as service:
        service.faults(in_progress_s=5)
        command = [sys.executable, "-c", LEAVES, service.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "stopped" not in bm.runs()["state"].tolist()
        for n in range(4):
            assert set(bm.attach(f"run_{n}").wait(timeout_s=60)["gpt_status"]) == {"ok"}
        assert sum(job["rows_paid"] for job in service.batches()) == 8


FULL_MEANWHILE = """
import resource, signal, sys
import pandas as pd, batch_magic as bm
from batch_magic.errors import BatchMagicError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
frame = pd.DataFrame({"text": [f"row {n} {'x' * 200}" for n in range(2000)]})
run = bm.submit(frame, "{{ text }}", model="m", on=sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
try:
    run.wait(timeout_s=7)
except BatchMagicError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(set(bm.attach("result").wait(timeout_s=40).gpt_status))
"""


def test_a_disk_that_fills_up_meanwhile_is_said_and_loses_nothing(
    home: Path, tmp_path: Path
) -> None:
    """In one line where a script waits; room made, the run goes on and pays nothing again."""
    with serving(tmp_path / "service") as service:
        command = [sys.executable, "-c", FULL_MEANWHILE, service.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        still, ended = done.stdout.strip().splitlines()
        assert "free some room" in still
        assert ended == "{'ok'}"
        assert sum(job["rows_paid"] for job in service.batches()) == 2000


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_result_files_that_are_lost_here_are_fetched_again(
    home: Path, frame: pd.DataFrame, harm: str
) -> None:
    """The service keeps them for 30 days: nothing is lost, nothing is paid again."""
    run = submit(frame)
    right = run.wait(timeout_s=30)
    mine = session.session_for(str(home))
    path = mine.home.run_folder(run.run_id).result_path(0, "output")
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b"stub", b"stab"))
    session.close_sessions()
    again = bm.attach("result")
    assert again.wait(timeout_s=30)["answer"].tolist() == right["answer"].tolist()
    # A second time, and seen by the cell itself: a flaky disk is no reason to pay.
    path.write_bytes(path.read_bytes().replace(b"stub", b"stab"))
    again = submit(frame, out="another")
    assert again.wait(timeout_s=30)["answer"].tolist() == right["answer"].tolist()
    assert len(session.session_for(str(home)).snapshots()[0].jobs) == 0


def test_lost_results_are_fetched_before_their_rows_are_paid_again(
    home: Path, frame: pd.DataFrame
) -> None:
    """Another cell wants the same rows: it waits for the files of the first."""
    run = submit(frame)
    run.wait(timeout_s=30)
    mine = session.session_for(str(home))
    mine.home.run_folder(run.run_id).result_path(0, "output").unlink()
    again = submit(frame[::-1], out="again")
    assert again.wait(timeout_s=30)["gpt_status"].tolist() == ["ok"] * 3
    assert again.snapshot().jobs == ()


def test_a_home_tells_no_key_and_is_read_by_its_user_alone(
    home: Path, frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project folder is shared, copied, committed; what stands in it must bear that."""
    key, home = "sk-proj-0123456789abcdefSECRET", tmp_path / "with_key"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving(tmp_path / "service") as service:
        run = submit(frame, on=service.url, home=str(home))
        run.wait(timeout_s=30)
        (job,) = service.batches()
    session.close_sessions()
    files = [path for path in home.rglob("*") if path.is_file() and path.name != ".gitignore"]
    assert len(files) > 5
    for path in files:
        assert key.encode() not in path.read_bytes(), path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    told = json.dumps(job["metadata"])
    assert all(word not in told for word in (key, os.getcwd(), socket.gethostname()))
    assert set(job["metadata"]) == {"batch_magic_job", "batch_magic_run", "batch_magic_part"}


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="the system has no /proc")
def test_a_key_stands_in_no_command_line_and_not_in_the_home_of_the_sandbox(
    home: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everyone on a machine can read its command lines; the sandbox writes what it is sent."""
    key = "sk-proj-fedcba9876543210SECRET"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    run = submit(frame)
    seen = set[str]()
    while not run.snapshot().is_ended:
        seen |= command_lines()
    run.wait(timeout_s=30)
    assert any("batch_magic.sandbox" in line and str(home) in line for line in seen)
    assert not any(key in line for line in seen)
    files = [path for path in home.rglob("*") if path.is_file()]
    assert any(path.is_relative_to(home / "sandbox") for path in files)
    assert not [path for path in files if key.encode() in path.read_bytes()]


def command_lines() -> set[str]:
    """Return the command lines of all processes that can be seen."""
    found = set[str]()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_a_home_of_the_first_version_is_brought_up_to_date(home: Path, frame: pd.DataFrame) -> None:
    """Its answers are there, are taken over and are not paid again."""
    right = submit(frame.head(2)).wait(timeout_s=30)
    submit(frame, out="more").wait(timeout_s=30)
    session.close_sessions()
    with sqlite3.connect(home / "journal.db") as db:  # take back what came after the first step
        for table in ("files", "progress", "marks", "pauses"):
            db.execute(f"DROP TABLE {table}")
        db.execute("ALTER TABLE runs DROP COLUMN wish")
        db.execute("DROP INDEX history_by_run")
        db.execute("ALTER TABLE leases DROP COLUMN notebook")
        for column in ("live_at", "asks_usd", "saved", "deadline_from", "notebook"):
            db.execute(f"ALTER TABLE runs DROP COLUMN {column}")
        db.execute("ALTER TABLE shards DROP COLUMN model")
        db.execute("DELETE FROM migrations WHERE name <> ?", (MIGRATIONS[0][0],))
    assert bm.attach("result").wait(timeout_s=30)["answer"].equals(right["answer"])
    assert bm.attach("more").wait(timeout_s=30)["gpt_status"].tolist() == ["ok"] * 3
    again = submit(frame[::-1], out="again")
    assert again.wait(timeout_s=30)["gpt_status"].tolist() == ["ok"] * 3
    assert again.snapshot().jobs == ()


# -- jobs made elsewhere --------------------------------------------------------------------


def foreign_job(client: openai.OpenAI, names: list[str], **metadata: str) -> str:
    """Make a batch as a script would; its prompts are "Say " and the name."""
    lines = [
        {
            "custom_id": name,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": f"Say {name}"}], "model": "m"},
        }
        for name in names
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = client.files.create(file=("script.jsonl", data), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata=metadata,
    )
    return batch.id


@pytest.fixture
def client(home: Path) -> openai.OpenAI:
    """The project's own sandbox, as another program sees it."""
    url = launcher.ensure(home / "sandbox", answerer="stub", time_scale=100).url
    return openai.OpenAI(base_url=url, api_key="any")


@pytest.mark.parametrize(
    ("names", "column", "by_row"),
    [
        (["b", "c", "a"], "key", ["a", "b", "c"]),  # a column that is named
        (["c", "a", "b"], "", ["a", "b", "c"]),  # a column that is found
        (["q-2", "q-0", "q-1"], "", ["q-0", "q-1", "q-2"]),  # the number at the end is the position
        (["r1", "r3", "r2"], "", ["r1", "r2", "r3"]),  # counted from 1
    ],
)
def test_job_made_elsewhere_is_put_onto_the_frame(
    home: Path, client: openai.OpenAI, names: list[str], column: str, by_row: list[str]
) -> None:
    """A week-old script's batch becomes a result like any other."""
    frame = pd.DataFrame({"key": list("abc"), "n": [5, 5, 7]}, index=[9, 9, 8])
    batch_id = foreign_job(client, names)
    run = bm.attach(batch_id, frame=frame, id_column=column, on="sandbox")
    result = run.wait(timeout_s=30)
    assert result["answer"].tolist() == [stub_answer(f"Say {name}") for name in by_row]
    assert result["n"].equals(frame["n"])
    assert bm.attach(batch_id).run_id == run.run_id, "it is known now"


def test_job_made_elsewhere_needs_no_frame(home: Path, client: openai.OpenAI) -> None:
    """Its own lines say what was asked."""
    run = bm.attach(foreign_job(client, ["x", "y"]), on="sandbox", out="mine")
    result = run.wait(timeout_s=30)
    assert result["custom_id"].tolist() == ["x", "y"]
    assert result["prompt"].tolist() == ["Say x", "Say y"]
    assert result["answer"].tolist() == [stub_answer("Say x"), stub_answer("Say y")]


def test_rows_that_the_job_did_not_ask_are_skipped(home: Path, client: openai.OpenAI) -> None:
    """And a row that it asked and failed can be asked again by us."""
    frame = pd.DataFrame({"key": ["a", "b", "[[fault:400]]"]})
    run = bm.attach(foreign_job(client, ["a", "[[fault:400]]"]), frame=frame, on="sandbox")
    assert run.wait(timeout_s=30)["gpt_status"].tolist() == ["ok", "skipped", "failed"]
    run.retry()
    assert run.wait(timeout_s=30)["gpt_status"].tolist() == ["ok", "skipped", "failed"]
    assert len(run.snapshot().jobs) == 2


def test_custom_ids_that_mean_no_row_for_certain_are_refused(
    home: Path, client: openai.OpenAI
) -> None:
    """A guess that fits by halves would put answers on wrong rows."""
    frame = pd.DataFrame({"key": ["a", "a", "b"]})
    with pytest.raises(CellError, match="--id COLUMN"):
        bm.attach(foreign_job(client, ["a", "b"]), frame=frame, on="sandbox")
    assert len(bm.runs()) == 0
    assert list((home / "runs").iterdir()) == []


def test_jobs_of_ours_that_no_run_knows_are_found(home: Path, client: openai.OpenAI) -> None:
    """The journal was lost; the answers were paid for."""
    known = submit(pd.DataFrame({"text": ["a"]}))
    known.wait(timeout_s=30)
    foreign_job(client, ["x"])
    lost = foreign_job(client, ["run-1-0", "run-1-1"], batch_magic_job="t", batch_magic_run="run-1")
    use = settings.Settings(home=str(home), backend="sandbox")
    (orphan,) = session.session_for(str(home)).orphans(use)
    assert orphan.batch_id == lost
    run = session.session_for(str(home)).adopt(lost, use, out="recovered")
    assert run.wait(timeout_s=30)["gpt_status"].tolist() == ["ok", "ok"]
    assert session.session_for(str(home)).orphans(use) == []


def test_markup_in_errors_and_answers_is_text_in_the_notebook(
    tmp_path: Path, home: Path, frame: pd.DataFrame
) -> None:
    """What a service or a model says must not become a script in the reader's page."""
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    with serving(tmp_path / "service") as service:
        asked: dict[str, Any] = {"on": service.url, "home": str(home), "retries": 0}
        answered = submit(frame.assign(text=evil), "{{ text }}", out="said", **asked)
        said = answered.wait(timeout_s=30)
        assert evil[:20] in said["answer"].iloc[0]
        service.faults(validation_error={"code": "<b>bad</b>", "message": evil})
        run = submit(frame, **asked)
        run.wait(timeout_s=30)
        errors = run.errors()
        session.close_sessions()
    assert evil in errors["error"].iloc[0]
    for html in (
        said._repr_html_(),
        errors._repr_html_(),
        card_html(answered.snapshot()),
        card_html(run.snapshot(), said=evil),
    ):
        assert not re.search(r"<(script|img|b)\b", html)
    for html in (said._repr_html_(), errors._repr_html_(), card_html(run.snapshot())):
        assert "&lt;script&gt;" in html
    assert html_escape(evil, quote=False) in errors._repr_html_()  # whole, beyond 50 characters


def test_rows_whose_files_never_come_are_sent_again_when_the_cell_is_run_again(
    tmp_path: Path, home: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking once more for files that do not exist must not go round for ever."""
    monkeypatch.setenv("BATCH_MAGIC_COLLECT_TIMEOUT_S", "0.5")
    monkeypatch.setenv("BATCH_MAGIC_RETRY_BASE_S", "0.1")
    with serving(tmp_path / "service") as service:
        service.faults(row_missing=True)
        asked = {"on": service.url, "home": str(home), "retries": 0}
        first = submit(frame, **asked).wait(timeout_s=30)
        assert first["gpt_status"].tolist() == ["missing"] * 3
        service.clear_faults()
        again = submit(frame, **asked).wait(timeout_s=30)
        session.close_sessions()
    assert again["gpt_status"].tolist() == ["ok"] * 3


def test_a_retry_asks_for_result_files_before_it_pays(
    tmp_path: Path, home: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stayed away too long and were given up; the answers were paid for all the same."""
    monkeypatch.setenv("BATCH_MAGIC_COLLECT_TIMEOUT_S", "0.5")
    monkeypatch.setenv("BATCH_MAGIC_RETRY_BASE_S", "0.1")
    with serving(tmp_path / "service") as service:
        service.faults(http_status={"route": "files.content", "status": 404})
        run = submit(frame, on=service.url, home=str(home), retries=0)
        assert run.wait(timeout_s=30)["gpt_status"].tolist() == ["missing"] * 3
        service.clear_faults()
        run.retry()
        assert run.wait(timeout_s=30)["gpt_status"].tolist() == ["ok"] * 3
        assert len(service.batches()) == 1
        session.close_sessions()


def test_a_stopped_run_that_goes_on_does_not_pay_for_what_another_was_answered(
    home: Path, tmp_path: Path, frame: pd.DataFrame
) -> None:
    """Two cells stopped on one fault; it is mended, and both are gone on with."""
    fault = {"code": "model_not_found", "message": "no", "line": 1}
    with serving(tmp_path / "service") as service:
        asked: dict[str, Any] = {"on": service.url, "home": str(home), "retries": 0}
        service.faults(validation_error=fault)
        more = pd.concat([frame, frame.assign(text=frame["text"] + "!")])
        for part, out in ((frame, "first"), (more, "second")):
            with pytest.raises(ServiceError):
                submit(part, out=out, **asked).wait(timeout_s=30)
        service.clear_faults()

        def gone_on(name: str) -> bm.Run:
            while True:
                run = bm.attach(name, home=str(home), on=service.url)
                with contextlib.suppress(ServiceError):  # a job made before may fail still
                    run.wait(timeout_s=30)
                    return run

        first = gone_on("first")
        if first.snapshot().counts.get(RowStatus.CANCELLED):  # given up for the second
            first.retry(["cancelled"])
            first.wait(timeout_s=30)
        second = gone_on("second")
        result = second.result()
        paid = service.rows_paid(first.run_id, second.run_id)
        session.close_sessions()
    assert result["gpt_status"].tolist() == ["ok"] * len(more)
    assert result["answer"].tolist() == [stub_answer(f"Say {text}") for text in more["text"]]
    assert paid == len(more)


def test_an_unsent_job_waits_for_what_another_run_has_asked_for_since(
    home: Path, tmp_path: Path, frame: pd.DataFrame
) -> None:
    """The run had stopped before it sent anything, and its rows were asked for by another."""
    with serving(tmp_path / "service") as service:
        asked: dict[str, Any] = {"on": service.url, "home": str(home), "retries": 0}
        service.faults(http_status={"route": "files.create", "status": 401})
        with pytest.raises(ServiceError):
            submit(frame, out="first", **asked).wait(timeout_s=30)
        first = bm.attach("first", home=str(home), on=service.url)
        with pytest.raises(ServiceError):
            first.wait(timeout_s=30)
        service.clear_faults()
        submit(frame.head(2), out="second", fresh=True, **asked).wait(timeout_s=30)
        first = bm.attach("first", home=str(home), on=service.url)
        result = first.wait(timeout_s=30)
        paid = service.rows_paid(*bm.runs(home=str(home))["run_id"])
        history = [event for _, event in first.history()]
        session.close_sessions()
    assert result["answer"].tolist() == [stub_answer(f"Say {text}") for text in frame["text"]]
    assert paid == len(frame)
    assert any("looks first at the answers of" in event for event in history)
