"""Before and while money is spent, by the Python API: estimates, samples, caps, leave, lanes."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import batch_magic as bm
from batch_magic import python_api, session
from batch_magic.errors import CellError, ServiceError
from batch_magic.records import RowStatus
from batch_magic.sandbox import launcher

CAPPED = {"max_completion_tokens": 100}


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"text": [f"review {n} {'very ' * (n % 7)}good" for n in range(60)]})


def submit(frame: pd.DataFrame, template: str = "Say {{ text }}", **options: Any) -> bm.Run:
    return bm.submit(frame, template, **{"model": "gpt-5-mini", "on": "sandbox", **options})


def control(home: Path, path: str, body: Any = None, method: str | None = None) -> Any:
    """Talk to the sandbox of a home by its own routes."""
    server = json.loads((home / "sandbox" / "server.json").read_text())
    data = None if body is None else json.dumps(body).encode()
    url = server["url"].removesuffix("/v1") + f"/sandbox/{path}"
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method)) as answer:
        return json.load(answer)


def asked_live(home: Path) -> int:
    return int(control(home, "requests")["calls"].get("chat.completions", 0))


# -- estimates and samples ------------------------------------------------------------------


def test_an_estimate_needs_no_home_and_makes_none(home: Path, frame: pd.DataFrame) -> None:
    """To look at a price costs nothing and leaves nothing behind."""
    found = bm.estimate(frame, "Say {{ text }}", model="gpt-5-mini", params=CAPPED)
    assert found.requests == 60
    assert found.basis == "counted"
    assert found.batch_usd is not None
    assert found.batch_usd.high is not None
    assert not home.exists()


def test_a_sample_is_asked_live_and_not_paid_again(home: Path, frame: pd.DataFrame) -> None:
    """Its answers are those of its own rows, and the run that follows takes them over."""
    sample = submit(frame, out="labelled", sample=10, keep=["usage"])
    found = sample.wait(timeout_s=30)
    assert sample.name == "labelled_sample"
    assert len(found) == 10
    assert all(frame["text"].loc[label] == found["text"].loc[label] for label in found.index)
    assert [a.endswith(t[:40]) for a, t in zip(found["answer"], found["text"], strict=True)]
    assert asked_live(home) == 10
    run = submit(frame, out="labelled")
    run.wait(timeout_s=30)
    assert "10 rows answered before: taken over, not paid again" in run.snapshot().notes
    assert control(home, "batches")["rows_paid"] == 50


def test_a_larger_sample_holds_the_smaller_one(home: Path, frame: pd.DataFrame) -> None:
    """Who wants to see more pays for what is new."""
    submit(frame, sample=10).wait(timeout_s=30)
    submit(frame, sample=15).wait(timeout_s=30)
    assert asked_live(home) == 15


def test_a_sample_sees_the_positions_of_the_whole_frame(home: Path, frame: pd.DataFrame) -> None:
    """A template that names the place renders the same lines in rehearsal and in earnest."""
    template = "Row {{ row.position }}: {{ text }}"
    submit(frame, template, sample=5).wait(timeout_s=30)
    run = submit(frame, template)
    run.wait(timeout_s=30)
    assert "5 rows answered before: taken over, not paid again" in run.snapshot().notes


def test_after_a_sample_the_answers_part_is_known(home: Path, frame: pd.DataFrame) -> None:
    """What 20 rows took bounds what the others will; the actual cost lies within."""
    options: dict[str, Any] = {"model": "gpt-5-mini", "on": "sandbox"}
    assert bm.estimate(frame, "Say {{ text }}", **options).output.high is None
    submit(frame, sample=20).wait(timeout_s=30)
    found = bm.estimate(frame, "Say {{ text }}", **options)
    assert found.requests == 40
    assert found.output_basis == "as 20 answers before"
    run = submit(frame)
    run.wait(timeout_s=30)
    usage = run.snapshot().usage
    assert usage is not None
    assert found.output.high is not None
    assert found.output.low <= usage.output <= found.output.high
    assert run.estimate() == found


@pytest.mark.parametrize("size", [0, -1, True, "5", 2.0])
def test_a_sample_of_no_rows_is_refused(home: Path, frame: pd.DataFrame, size: Any) -> None:
    """A number of rows, nothing else."""
    with pytest.raises(CellError, match="sample is a number of rows"):
        submit(frame, sample=size)


def test_a_sample_of_more_rows_than_there_are_takes_all(home: Path) -> None:
    """And an empty frame has none to take."""
    small = pd.DataFrame({"text": ["a", "b"]})
    assert len(submit(small, sample=100).wait(timeout_s=30)) == 2
    assert len(submit(small.head(0), out="none", sample=3).wait(timeout_s=30)) == 0


# -- caps and leave -------------------------------------------------------------------------


def test_a_run_above_its_cap_leaves_nothing_behind(home: Path, frame: pd.DataFrame) -> None:
    """Nothing is sent, nothing written down, and the way on is said."""
    with pytest.raises(CellError, match=r"not submitted: it may cost .* --max-cost is \$0.000010"):
        submit(frame, params=CAPPED, max_cost=0.00001)
    assert len(bm.runs()) == 0
    assert not list((home / "runs").iterdir())
    assert submit(frame, params=CAPPED, max_cost=1.0).wait(timeout_s=30) is not None


@pytest.mark.parametrize("cap", ["much", -1, math.nan, True, [1]])
def test_a_cap_that_is_no_amount_is_refused(home: Path, frame: pd.DataFrame, cap: Any) -> None:
    """A cap that cannot be read is not taken for none."""
    with pytest.raises(CellError, match="--max-cost is a number"):
        submit(frame, max_cost=cap)


def test_a_script_above_the_limit_says_how_to_allow_it(
    home: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is there to press a button: the error names the amount that lets it pass."""
    monkeypatch.setenv("BATCH_MAGIC_CONFIRM_ABOVE_USD", "0.0001")
    with pytest.raises(CellError, match="allow it with --max-cost") as refused:
        submit(frame, params=CAPPED)
    amount = str(refused.value).rpartition(" ")[2]
    submit(frame, params=CAPPED, max_cost=amount).wait(timeout_s=30)


@pytest.fixture
def unsubmitted(home: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> bm.Run:
    """A run that waits for leave, as a cell with somebody before it leaves it."""
    monkeypatch.setenv("BATCH_MAGIC_CONFIRM_ABOVE_USD", "0.0001")
    return asking(frame)


def asking(frame: pd.DataFrame, out: str = "labelled", **options: Any) -> bm.Run:
    use = session.settings.from_environment(os.environ)
    asked = session.Options(
        out=out, model="gpt-5-mini", on="sandbox", params=CAPPED, may_ask=True, **options
    )
    return session.session_for(use.home).submit(frame, "Say {{ text }}", asked, use)


def test_a_run_that_asks_first_sends_nothing_until_it_may(
    home: Path, frame: pd.DataFrame, unsubmitted: bm.Run
) -> None:
    """It is on the disk, says what it may cost, and goes when it is given leave."""
    s = unsubmitted.snapshot()
    assert s.asks_usd is not None
    assert "not submitted yet: it may cost (at OpenAI, free here) $" in (s.fault or "")
    time.sleep(0.5)
    assert not (home / "sandbox" / "server.json").exists()
    with pytest.raises(CellError, match="%gptbatch submit labelled"):
        unsubmitted.wait(timeout_s=1)
    mine = session.session_for(".gptbatch")
    run = mine.confirm("labelled", session.settings.from_environment(os.environ))
    assert len(run.wait(timeout_s=30)) == 60
    assert run.snapshot().asks_usd is None


def test_leave_outlives_no_restart_and_attach_gives_none(home: Path, unsubmitted: bm.Run) -> None:
    """To attach is to look: only `submit` spends."""
    session.close_sessions()
    run = bm.attach("labelled")
    time.sleep(0.3)
    assert run.snapshot().asks_usd is not None
    for way in (run.retry, run.finish):
        with pytest.raises(CellError, match="not submitted yet"):
            way()


def test_the_same_cell_again_asks_again(
    home: Path, frame: pd.DataFrame, unsubmitted: bm.Run
) -> None:
    """Running a cell twice is no leave; naming the amount is."""
    again = asking(frame)
    assert again.run_id == unsubmitted.run_id
    assert again.snapshot().asks_usd is not None
    allowed = asking(frame, max_cost=5.0)
    assert len(allowed.wait(timeout_s=30)) == 60


def test_another_run_over_the_same_rows_does_not_slip_through(
    home: Path, frame: pd.DataFrame, unsubmitted: bm.Run
) -> None:
    """Rows that wait for leave are not in flight: whoever asks for them asks for leave as well."""
    other = asking(frame, out="other")
    assert other.snapshot().asks_usd is not None
    time.sleep(0.3)
    assert session.session_for(".gptbatch").find("labelled").snapshot().asks_usd is not None
    other.cancel()
    with pytest.raises(CellError, match="not submitted: it may cost"):
        asking(frame, out="third", max_cost=0.00001)


def test_a_run_without_leave_is_cancelled_for_nothing(home: Path, unsubmitted: bm.Run) -> None:
    """No is an answer, too."""
    unsubmitted.cancel()
    result = unsubmitted.wait(timeout_s=30)
    assert set(result["gpt_status"]) == {"cancelled"}
    assert not (home / "sandbox" / "server.json").exists()


# -- lanes ----------------------------------------------------------------------------------


def test_live_answers_without_a_batch(home: Path, frame: pd.DataFrame) -> None:
    """The same frame, at once."""
    result = submit(frame, live=True).wait(timeout_s=30)
    assert set(result["gpt_status"]) == {"ok"}
    assert control(home, "batches")["batches"] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"live": "yes"}, "live is True or False"),
        ({"tier": "flex"}, "say --live or --deadline"),
        ({"live": True, "tier": "fast"}, "--tier knows flex"),
        ({"live": True, "tier": "flex", "endpoint": "embeddings"}, "chat and responses"),
        ({"live": True, "deadline": "1h"}, "leave --deadline out"),
        ({"deadline": "soon"}, "no duration"),
        ({"deadline": 0}, "number of seconds"),
        ({"deadline": math.inf}, "number of seconds"),
    ],
)
def test_lanes_that_make_no_sense_are_refused(
    home: Path, frame: pd.DataFrame, options: dict[str, Any], said: str
) -> None:
    """One line, before anything is sent."""
    with pytest.raises(CellError, match=said):
        submit(frame, **options)


def test_finish_takes_what_the_batch_has_and_asks_the_rest(home: Path, frame: pd.DataFrame) -> None:
    """By hand what a deadline does by the clock: no row is paid for twice."""
    submit(frame.head(1), out="first", live=True).wait(timeout_s=30)  # the sandbox is up
    control(home, "faults", {"stall_after_share": 0.5}, "PUT")
    run = submit(frame)
    ends = time.monotonic() + 30
    while not run.snapshot().claimed_ok and time.monotonic() < ends:
        time.sleep(0.05)
    run.finish()
    result = run.wait(timeout_s=60)
    assert set(result["gpt_status"]) == {"ok"}
    paid = control(home, "batches")["rows_paid"]
    assert paid + asked_live(home) == 60
    with pytest.raises(CellError, match="retry result --live"):
        run.finish()


def test_a_deadline_in_the_past_of_a_slow_batch_is_kept(home: Path, frame: pd.DataFrame) -> None:
    """Two seconds by our clock, whatever the service's says."""
    submit(frame.head(1), out="first", live=True).wait(timeout_s=30)
    control(home, "faults", {"stall_after_share": 0.0}, "PUT")
    result = submit(frame, deadline="2s").wait(timeout_s=60)
    assert set(result["gpt_status"]) == {"ok"}


def test_stragglers_are_retried_live(home: Path, frame: pd.DataFrame) -> None:
    """Rows that expired are asked at once, and the others stay as they are."""
    submit(frame.head(1), out="first", live=True).wait(timeout_s=30)
    control(home, "faults", {"expire_after_share": 0.5}, "PUT")
    run = submit(frame, retries=0)
    run.wait(timeout_s=30)
    left = run.snapshot().counts[RowStatus.EXPIRED]
    before = asked_live(home)
    run.retry(live=True)
    assert set(run.wait(timeout_s=30)["gpt_status"]) == {"ok"}
    assert asked_live(home) - before == left


def test_a_live_cell_over_rows_in_flight_as_a_batch_says_the_way(
    home: Path, frame: pd.DataFrame
) -> None:
    """It attaches, as the same rows are paid for once; the switch is one line away."""
    submit(frame.head(1), out="first", live=True).wait(timeout_s=30)
    control(home, "faults", {"stall_after_share": 0.0}, "PUT")
    first = submit(frame)
    again = submit(frame, live=True)
    assert again.run_id == first.run_id
    assert any("%gptbatch finish result" in note for note in again.snapshot().notes)
    again.finish()
    assert set(again.wait(timeout_s=60)["gpt_status"]) == {"ok"}


def test_a_small_frame_gets_a_hint_and_nothing_else(
    home: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told that it need not wait, and goes the way that was asked for."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-none")
    use = session.settings.from_environment(os.environ)
    asked = session.Options(out="x", model="gpt-5-mini")
    for rows, is_told in ((5, True), (60, False)):
        dry = python_api.dry_run(frame.head(rows), "Say {{ text }}", asked, use)
        assert any("--live" in note for note in dry.notes) is is_told


KILLED = """
import os, sys, time, pandas as pd, batch_magic as bm
frame = pd.DataFrame({"text": [f"review {n}" for n in range(200)]})
bm.submit(frame, "Say {{ text }}", model="m", on="sandbox", live=True)
print("sent", flush=True)
time.sleep(60)
"""


def test_a_kill_costs_no_more_rows_than_were_in_flight(
    home: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 in the middle, three times: each answer that was noted is kept."""
    monkeypatch.setenv("BATCH_MAGIC_LIVE_CONCURRENCY", "4")
    submit(frame.head(1), out="first", live=True, model="m").wait(timeout_s=30)
    session.close_sessions()
    slow = {"route": "chat.completions", "delay_s": 0.03, "after_commit": True}
    control(home, "faults", {"http_delay": slow}, "PUT")
    before, kills = asked_live(home), 3
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"sent\n"
        time.sleep(0.4)
        process.send_signal(signal.SIGKILL)
        process.wait()
    result = bm.attach("result").wait(timeout_s=60)
    assert set(result["gpt_status"]) == {"ok"}
    assert [text.endswith(f"Say review {n}") for n, text in enumerate(result["answer"])]
    assert 200 <= asked_live(home) - before <= 200 + 4 * kills


def test_a_refused_key_stops_a_live_run(
    home: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer says it for all rows; the key is not shown."""
    url = launcher.ensure(home / "sandbox", answerer="stub").url
    monkeypatch.setenv("OPENAI_API_KEY", "sk-refused-12345678")
    run = bm.submit(frame, "Say {{ text }}", model="m", on=url, live=True)
    with pytest.raises(ServiceError, match="the key was refused") as refused:
        run.wait(timeout_s=30)
    assert "12345678" not in str(refused.value)


# -- when it is done ------------------------------------------------------------------------


def test_the_hook_is_called_once_with_the_frame(home: Path, frame: pd.DataFrame) -> None:
    """From a thread of ours; what it raises is logged and harms nothing."""
    called: list[object] = []
    submit(frame, live=True, on_done=called.append).wait(timeout_s=30)
    ends = time.monotonic() + 10
    while not called and time.monotonic() < ends:
        time.sleep(0.02)
    assert [type(one).__name__ for one in called] == ["DataFrame"]


def test_the_hook_of_a_run_without_leave_waits_for_its_end(
    home: Path, frame: pd.DataFrame, unsubmitted: bm.Run
) -> None:
    """Not submitted is not done."""
    called: list[object] = []
    unsubmitted.when_ended(called.append)
    time.sleep(0.3)
    assert called == []
    mine = session.session_for(".gptbatch")
    mine.confirm("labelled", session.settings.from_environment(os.environ)).wait(timeout_s=30)
    ends = time.monotonic() + 10
    while not called and time.monotonic() < ends:
        time.sleep(0.02)
    assert [type(one).__name__ for one in called] == ["DataFrame"]


def test_a_hook_that_fails_takes_nothing_with_it(
    home: Path, frame: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the user's own code: its traceback is in the log, the result where it should be."""

    def hook(_: object) -> None:
        raise ZeroDivisionError("mine")

    result = submit(frame, live=True, on_done=hook).wait(timeout_s=30)
    assert len(result) == 60
    ends = time.monotonic() + 10
    while "mine" not in caplog.text and time.monotonic() < ends:
        time.sleep(0.02)
    assert "mine" in caplog.text


# -- caps that hold for what comes later ----------------------------------------------------


def test_a_sample_is_spending_too(
    home: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred rows at the full price are no rehearsal for nothing."""
    with pytest.raises(CellError, match="--max-cost is"):
        submit(frame, params=CAPPED, sample=50, max_cost=0.0001)
    monkeypatch.setenv("BATCH_MAGIC_CONFIRM_ABOVE_USD", "0.0001")
    with pytest.raises(CellError, match="allow it with --max-cost"):
        submit(frame, params=CAPPED, sample=50)
    assert len(submit(frame, params=CAPPED, sample=50, max_cost="any").wait(timeout_s=30)) == 50


@pytest.fixture
def stopped(home: Path, frame: pd.DataFrame) -> bm.Run:
    """A live run that has stopped as nobody could pay for it, mended since."""
    submit(frame.head(1), out="first", live=True).wait(timeout_s=30)
    control(home, "faults", {"insufficient_quota": {"route": "chat.completions"}}, "PUT")
    run = submit(frame, params=CAPPED, live=True)
    with pytest.raises(ServiceError, match="insufficient_quota"):
        run.wait(timeout_s=30)
    control(home, "faults", None, "DELETE")
    return run


def test_what_is_refused_for_its_cost_leaves_a_stopped_run_as_it_is(
    home: Path, stopped: bm.Run
) -> None:
    """The question comes before anything goes on: nothing is sent behind a no."""
    before = asked_live(home)
    with pytest.raises(CellError, match="nothing is asked: it may cost up to"):
        stopped.finish(max_cost=0.0)
    time.sleep(0.5)
    assert stopped.snapshot().is_ended
    assert asked_live(home) == before
    stopped.finish(max_cost=1)
    assert set(stopped.wait(timeout_s=30)["gpt_status"]) == {"ok"}


def test_rows_under_way_are_finished_live_not_retried_so(
    home: Path, frame: pd.DataFrame, stopped: bm.Run
) -> None:
    """`retry --live` would cancel batches that are at work for a few rows that failed."""
    control(home, "faults", {"stall_after_share": 0.0}, "PUT")
    going = submit(frame, template="Else {{ text }}", out="going")
    for run in (going, stopped):
        with pytest.raises(CellError, match=f"%gptbatch finish {run.name}"):
            run.retry(live=True)


def test_finish_keeps_the_cap_of_the_run(home: Path, frame: pd.DataFrame) -> None:
    """The batch was within it, all of it at once is not; a cap that is named now is leave."""
    submit(frame.head(1), out="first", live=True).wait(timeout_s=30)
    control(home, "faults", {"stall_after_share": 0.0}, "PUT")
    most = bm.estimate(frame, "Say {{ text }}", model="gpt-5-mini", on="sandbox", params=CAPPED)
    assert most.batch_usd is not None
    run = submit(frame, params=CAPPED, max_cost=most.batch_usd.high)
    with pytest.raises(CellError, match="nothing is asked: it may cost up to"):
        run.finish()
    run.finish(max_cost="any")
    assert set(run.wait(timeout_s=60)["gpt_status"]) == {"ok"}


def test_retry_asks_for_leave_as_a_run_does(
    home: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows asked again are paid again."""
    submit(frame.head(1), out="first", live=True).wait(timeout_s=30)
    control(home, "faults", {"row_status": {"status": 400, "share": 0.5}}, "PUT")
    run = submit(frame, params=CAPPED)
    run.wait(timeout_s=30)
    control(home, "faults", None, "DELETE")
    monkeypatch.setenv("BATCH_MAGIC_CONFIRM_ABOVE_USD", "0.0000001")
    use = session.settings.from_environment(os.environ)
    mine = session.session_for(use.home)
    with pytest.raises(CellError, match="confirm_above_usd is"):
        mine.retry("result", [], use, live=True)
    mine.retry("result", [], use, live=True, max_cost="1")
    assert set(run.wait(timeout_s=30)["gpt_status"]) == {"ok"}


def test_rows_in_flight_elsewhere_count_for_the_cap(home: Path, frame: pd.DataFrame) -> None:
    """Their run may bring none of them, and then this one sends them."""
    submit(frame.head(1), out="first", live=True).wait(timeout_s=30)
    control(home, "faults", {"stall_after_share": 0.0}, "PUT")
    submit(frame, params=CAPPED, out="first_of_two")
    with pytest.raises(CellError, match="not submitted: it may cost"):
        submit(frame, params=CAPPED, out="second", max_cost=0.00001)


@pytest.mark.parametrize("price", [float("nan"), float("inf"), 1e308, -1, "0.1", True])
def test_a_price_that_is_none_is_refused(
    home: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, price: Any
) -> None:
    """No number is less than a cap, and more than all of them."""
    monkeypatch.setenv("BATCH_MAGIC_PRICES", json.dumps({"gpt-5-mini": {"input": price}}))
    with pytest.raises(CellError, match="no amount of dollars"):
        submit(frame, max_cost=1)


def test_a_run_that_goes_on_live_is_capped_at_the_live_price(
    frame: pd.DataFrame, stopped: bm.Run
) -> None:
    """The same cell without --live goes on with the run that had stopped, in that run's lane."""
    found = bm.estimate(
        frame, "Say {{ text }}", model="gpt-5-mini", on="sandbox", params=CAPPED, fresh=True
    )
    assert found.batch_usd is not None
    with pytest.raises(CellError, match="not submitted: it may cost"):
        submit(frame, params=CAPPED, max_cost=found.batch_usd.high)
    again = submit(frame, params=CAPPED, max_cost=1)
    assert any("live, as it was begun" in note for note in again.snapshot().notes)
    assert set(again.wait(timeout_s=30)["gpt_status"]) == {"ok"}


# -- what comes later is priced as it is ----------------------------------------------------


def priced(frame: pd.DataFrame, **options: Any) -> bm.Estimate:
    """What rows would cost if nothing of them were answered."""
    asked = {"model": "gpt-5-mini", "on": "sandbox", "params": CAPPED, "fresh": True, **options}
    return bm.estimate(frame, "Say {{ text }}", **asked)


def most_by_batch(frame: pd.DataFrame, **options: Any) -> float:
    found = priced(frame, **options).batch_usd
    assert found is not None
    assert found.high is not None
    return found.high


def in_journal(name: str) -> Any:
    mine = session.session_for(".gptbatch")
    return mine.journal.run(mine.find(name).run_id)


def test_finish_counts_what_the_batch_has_answered(home: Path, frame: pd.DataFrame) -> None:
    """Half by batch and half at once is one and a half times the batch, wherever it is counted."""
    submit(frame.head(1), out="first", live=True).wait(timeout_s=30)
    control(home, "faults", {"stall_after_share": 0.5}, "PUT")
    run = submit(frame, params=CAPPED, max_cost=1.2 * most_by_batch(frame))
    ends = time.monotonic() + 30
    while run.snapshot().claimed_ok < 30 and time.monotonic() < ends:
        time.sleep(0.05)
    with pytest.raises(CellError, match="nothing is asked: it may cost up to"):
        run.finish()
    run.finish(max_cost="any")
    assert set(run.wait(timeout_s=60)["gpt_status"]) == {"ok"}


def test_a_retry_of_a_live_run_is_priced_live(home: Path, frame: pd.DataFrame) -> None:
    """It goes in the run's own lane, whether or not it says so again."""
    failing = frame.assign(text="[[fault:400:once]] " + frame["text"])
    run = submit(failing, params=CAPPED, live=True)
    run.wait(timeout_s=30)
    with pytest.raises(CellError, match="nothing is asked: it may cost up to"):
        run.retry(max_cost=1.2 * most_by_batch(failing))


def test_a_retry_is_priced_by_the_rows_that_it_sends(home: Path) -> None:
    """One row of a novel's length among short ones is not a share of their mean."""
    texts = [f"short {n}" for n in range(50)] + ["[[fault:400:once]] " + "word " * 90_000]
    frame = pd.DataFrame({"text": texts})
    run = submit(frame, params=CAPPED, max_cost=1.1 * most_by_batch(frame))
    assert run.wait(timeout_s=30)["gpt_status"].tolist()[-1] == "failed"
    with pytest.raises(CellError, match="nothing is asked: it may cost up to"):
        run.retry(live=True)


def test_rows_alike_are_retried_at_the_price_of_one(home: Path) -> None:
    """They are one request."""
    frame = pd.DataFrame({"text": ["[[fault:400:once]] the same"] * 200 + ["another"]})
    most = priced(frame).at_once_usd
    assert most is not None
    assert most.high is not None
    run = submit(frame, params=CAPPED, max_cost=2 * most.high)
    assert run.wait(timeout_s=30)["gpt_status"].eq("failed").sum() == 200
    run.retry(live=True)
    assert set(run.wait(timeout_s=30)["gpt_status"]) == {"ok"}


def test_an_ended_run_sends_nothing_live_for_files_fetched_again(
    home: Path, frame: pd.DataFrame
) -> None:
    """To attach is to look: a deadline that has passed since is of a run that had ended."""
    submit(frame.head(1), out="first", live=True).wait(timeout_s=30)
    control(home, "faults", {"expire_after_share": 0.5}, "PUT")
    run = submit(frame, template="Tell {{ text }}", deadline="3s", retries=0, params=CAPPED)
    assert set(run.wait(timeout_s=30)["gpt_status"]) == {"ok", "expired"}
    control(home, "faults", None, "DELETE")
    before = asked_live(home)
    time.sleep(3.0)
    session.close_sessions()
    (home / "runs" / run.run_id / "job-00000.output.jsonl").unlink()
    again = bm.attach("result").wait(timeout_s=30)
    assert again["gpt_status"].eq("expired").sum() == 30
    assert asked_live(home) == before


def test_a_question_touches_no_other_run(
    frame: pd.DataFrame, stopped: bm.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that waits for leave gives up no other over the same rows."""
    monkeypatch.setenv("BATCH_MAGIC_CONFIRM_ABOVE_USD", "0.0000001")
    asking(frame, out="one")
    asking(frame, out="two")
    time.sleep(0.7)
    assert in_journal(stopped.name).cancel_at is None
    assert in_journal("one").cancel_at is None
    assert in_journal("one").asks_usd is not None


def test_a_small_cell_lets_no_large_run_go_on(home: Path, frame: pd.DataFrame) -> None:
    """The cap of a cell for one row is none for the stopped run that has the row as well."""
    submit(frame.head(1), out="first", live=True).wait(timeout_s=30)
    control(home, "faults", {"insufficient_quota": {"route": "files.create"}}, "PUT")
    with pytest.raises(ServiceError, match="insufficient_quota"):
        submit(frame, params=CAPPED, out="large").wait(timeout_s=30)
    control(home, "faults", None, "DELETE")
    before = control(home, "batches")["rows_paid"]
    small = submit(
        frame.head(1), params=CAPPED, out="small", max_cost=1.5 * most_by_batch(frame.head(1))
    )
    assert set(small.wait(timeout_s=30)["gpt_status"]) == {"ok"}
    assert control(home, "batches")["rows_paid"] - before == 1


def test_a_cap_named_anew_is_the_runs_from_then_on(
    home: Path, frame: pd.DataFrame, unsubmitted: bm.Run
) -> None:
    """What was said last holds for `finish` as well."""
    again = asking(frame, max_cost=1.2 * most_by_batch(frame))
    assert again.run_id == unsubmitted.run_id
    assert in_journal("labelled").request.max_cost_usd == pytest.approx(1.2 * most_by_batch(frame))
    again.wait(timeout_s=30)


def test_a_row_that_no_job_can_hold_costs_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails unsent, and is in no estimate."""
    monkeypatch.setenv("BATCH_MAGIC_MAX_BYTES_PER_JOB", "3000")
    short = pd.DataFrame({"text": list("abcde")})
    frame = pd.concat([short, pd.DataFrame({"text": ["x" * 10_000]})], ignore_index=True)
    run = submit(frame, params=CAPPED, max_cost=1.1 * most_by_batch(short))
    assert run.wait(timeout_s=30)["gpt_status"].tolist() == ["ok"] * 5 + ["failed"]
