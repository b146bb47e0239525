"""The live lane against a real service: the same answers, kept as they come, none asked twice."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lives import Life
from service import Service, stub_answer

from batch_magic import lifecycle
from batch_magic.errors import JournalError
from batch_magic.folder import RunFolder
from batch_magic.live import _Notes
from batch_magic.records import Ending, JobStage, RowStatus

Lives = Callable[..., Life]
LIVE = {"live": True}
ASKED = "chat.completions"


def statuses(frame: pd.DataFrame) -> list[str]:
    return frame["gpt_status"].astype(str).tolist()


def assert_right(frame: pd.DataFrame, asked: pd.DataFrame) -> None:
    """Every row has the answer to its own text, and the frame is otherwise as it was."""
    assert statuses(frame) == ["ok"] * len(asked)
    assert frame["answer"].tolist() == [stub_answer(text) for text in asked["text"]]
    pd.testing.assert_frame_equal(frame[list(asked.columns)], asked, check_flags=False)


@pytest.fixture
def asked_before(service: Service) -> int:
    """How many realtime calls the service had seen before this test."""
    return service.calls()[ASKED]


def asked_since(service: Service, before: int) -> int:
    return service.calls()[ASKED] - before


def many(rows: int) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"review number {n}" for n in range(rows)]})


def half_way(life: Life, service: Service, frame: pd.DataFrame, delay_s: float = 0.05) -> str:
    """Begin a live run of many rows and return while some of them are answered, some asked for."""
    service.faults(http_delay={"route": ASKED, "delay_s": delay_s})
    run_id = life.submit(frame, asked=LIVE, live_concurrency=4)
    life.until_stage(run_id, JobStage.RUNNING)
    life.step()
    return run_id


def test_a_live_run_makes_no_batch(
    life: Life, service: Service, reviews: Any, asked_before: int
) -> None:
    """The same frame comes of it, without a file or a job at the service."""
    uploads = service.calls()["files.create"]
    run_id = life.submit(reviews, asked=LIVE)
    assert life.until_ended(run_id).ending is Ending.FINISHED
    assert_right(life.result(run_id), reviews)
    assert service.batches(run_id) == []
    assert service.calls()["files.create"] == uploads
    assert asked_since(service, asked_before) == len(reviews)


def test_answers_of_one_lane_are_taken_over_by_the_other(
    life: Life, service: Service, reviews: Any, asked_before: int
) -> None:
    """What is the same is the request: who asked it live does not pay for it by batch as well."""
    life.until_ended(life.submit(reviews.head(5), asked=LIVE))
    by_batch = life.submit(reviews.head(9))
    life.until_ended(by_batch)
    again = life.submit(reviews, asked=LIVE)
    life.until_ended(again)
    assert_right(life.result(again), reviews)
    assert service.rows_paid(by_batch) == 4
    assert asked_since(service, asked_before) == 5 + 3


def test_answers_so_far_are_in_the_partial_frame(life: Life, service: Service) -> None:
    """What has come in is there to be looked at, long before the last row."""
    run_id = half_way(life, service, many(100))
    so_far = statuses(life.result(run_id))
    assert set(so_far) == {"ok", "pending"}
    snapshot = life.published[-1]
    assert 0 < snapshot.claimed_ok < 100
    life.until_ended(run_id)


def test_a_life_that_ends_keeps_every_answer_that_came(
    lives: Lives, service: Service, asked_before: int
) -> None:
    """Who winds up waits for what is on its way; the next life asks for the rest alone."""
    first, frame = lives(), many(60)
    run_id = half_way(first, service, frame)
    first.end()
    second = lives()
    second.go_on(run_id)
    second.until_ended(run_id)
    assert_right(second.result(run_id), frame)
    assert asked_since(service, asked_before) == len(frame)


def test_a_line_cut_short_by_a_kill_is_asked_again(
    lives: Lives, service: Service, asked_before: int
) -> None:
    """A power cut may leave half a line: it is no answer, and those before it are."""
    first, frame = lives(), many(80)
    run_id = half_way(first, service, frame)
    first.end()
    (notes,) = first.home.run_folder(run_id).path.glob("job-00000.live-*.jsonl")
    whole = notes.read_bytes()
    notes.write_bytes(whole[:-30])
    second = lives()
    second.go_on(run_id)
    second.until_ended(run_id)
    assert_right(second.result(run_id), frame)
    assert asked_since(service, asked_before) == len(frame) + 1
    assert not list(notes.parent.glob("*.live-*"))


def test_who_has_lost_the_lease_sends_nothing_more(
    lives: Lives, service: Service, asked_before: int
) -> None:
    """A process that slept through its lease must not ask what another asks by now."""
    service.faults(http_delay={"route": ASKED, "delay_s": 0.05})
    first, frame = lives(), many(80)
    run_id = first.submit(frame, asked=LIVE, live_concurrency=4)
    first.until_stage(run_id, JobStage.RUNNING)
    first.clock.now += 100.0
    second = lives()
    second.engine.drive(run_id)
    second.until_stage(run_id, JobStage.RUNNING)
    second.step()
    first.step()
    known = asked_since(service, asked_before)
    first.step()
    assert asked_since(service, asked_before) == known
    second.until_ended(run_id)
    assert_right(second.result(run_id), frame)
    assert asked_since(service, asked_before) <= len(frame) + 4


# -- trouble --------------------------------------------------------------------------------


def test_a_row_that_is_refused_fails_alone(life: Life, service: Service) -> None:
    """400 is that row's; the others are answered, and it is not asked again by itself."""
    frame = pd.DataFrame({"text": ["good", "bad [[fault:400]]", "fine"]})
    before = service.calls()[ASKED]
    run_id = life.submit(frame, asked=LIVE)
    life.until_ended(run_id)
    result = life.result(run_id)
    assert statuses(result) == ["ok", "failed", "ok"]
    assert "400" in result["gpt_error"].iloc[1] or "fault" in result["gpt_error"].iloc[1]
    assert asked_since(service, before) == 3


@pytest.mark.parametrize(
    "trouble",
    [
        {"http_status": {"route": ASKED, "status": 500, "times": 3}},
        {"http_status": {"route": ASKED, "status": 429, "times": 3, "retry_after_s": 0}},
        {"http_drop": {"route": ASKED, "times": 3}},
        {"http_cut": {"route": ASKED, "times": 3}},
    ],
    ids=["500", "429", "dropped", "cut"],
)
def test_trouble_that_passes_costs_no_row(
    life: Life, service: Service, reviews: Any, trouble: dict[str, Any]
) -> None:
    """An answer that did not come is asked for again, and no row is failed for it."""
    service.faults(**trouble)
    run_id = life.submit(reviews, asked=LIVE, retry_base_s=0.01)
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)


def test_a_row_that_fails_while_others_are_answered_fails(life: Life, service: Service) -> None:
    """Four times 500 while its neighbours do well is that row's; later rounds try it again."""
    frame = pd.DataFrame({"text": ["poor [[fault:500]]", *(f"row {n}" for n in range(200))]})
    service.faults(http_delay={"route": ASKED, "delay_s": 0.02})
    run_id = life.submit(frame, asked=LIVE, retry_base_s=0.01, retries=1, live_concurrency=4)
    run = life.until_ended(run_id)
    assert run.counts == {RowStatus.OK: 200, RowStatus.FAILED: 1}
    assert [job.is_live for job in run.jobs] == [True, True]


def test_no_quota_stops_the_run_and_it_goes_on_when_mended(
    life: Life, service: Service, reviews: Any
) -> None:
    """What is the same for every row stops all of them; the answers so far are not paid again."""
    before = service.calls()[ASKED]
    service.faults(insufficient_quota={"route": ASKED})
    run_id = life.submit(reviews, asked=LIVE)
    run = life.until_ended(run_id)
    assert run.ending is Ending.STOPPED
    assert "insufficient_quota" in (run.fault or "")
    refused = asked_since(service, before)
    service.clear_faults()
    life.go_on(run_id)
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    assert asked_since(service, before) == refused + len(reviews)


def test_an_unknown_model_stops_the_run(life: Life, service: Service, reviews: Any) -> None:
    """The first answer says it for all rows: no thousand refusals."""
    service.faults(
        http_status={"route": ASKED, "status": 404, "code": "model_not_found", "message": "no"}
    )
    before = service.calls()[ASKED]
    run_id = life.submit(many(100), asked=LIVE, live_concurrency=2)
    assert life.until_ended(run_id).ending is Ending.STOPPED
    assert asked_since(service, before) <= 2


def test_a_cancel_keeps_the_rows_that_were_answered(life: Life, service: Service) -> None:
    """What is on its way is waited for; what was not sent is cancelled."""
    before = service.calls()[ASKED]
    run_id = half_way(life, service, many(100), delay_s=0.1)
    life.journal.ask_cancel(run_id, life.clock())
    run = life.until_ended(run_id)
    assert run.ending is Ending.CANCELLED
    assert run.counts[RowStatus.OK] == asked_since(service, before)
    assert run.counts[RowStatus.OK] + run.counts[RowStatus.CANCELLED] == 100
    cancelled = life.result(run_id)["gpt_error"].dropna()
    assert set(cancelled) == {"was not answered: the run was cancelled first"}


def test_rows_that_a_cancelled_batch_counts_but_does_not_give_are_not_asked_live(
    life: Life, service: Service, asked_before: int
) -> None:
    """It says that it answered them: whoever asks again by itself pays twice."""
    service.faults(stall_after_share=0.5, no_files=True)
    frame = many(10)
    run_id = life.submit(frame, asked={"deadline_s": 600.0}, collect_timeout_s=20.0)
    life.until(run_id, lambda run: bool(run.jobs[0].remote and run.jobs[0].remote.completed))
    life.clock.now += 600.0
    run = life.until_ended(run_id)
    assert set(run.counts) == {RowStatus.MISSING}
    assert asked_since(service, asked_before) == 0


# -- a batch that is finished live ----------------------------------------------------------


def test_at_the_deadline_the_rest_is_finished_live(
    life: Life, service: Service, asked_before: int
) -> None:
    """Rows that the batch has answered are kept, the others asked live, none paid for twice."""
    service.faults(stall_after_share=0.5)
    frame = many(40)
    run_id = life.submit(frame, asked={"deadline_s": 3600.0})
    life.until(run_id, lambda run: bool(run.jobs[0].remote and run.jobs[0].remote.completed))
    assert asked_since(service, asked_before) == 0
    life.clock.now += 3600.0
    run = life.until_ended(run_id)
    assert run.ending is Ending.FINISHED
    assert_right(life.result(run_id), frame)
    by_batch = service.rows_paid(run_id)
    assert 0 < by_batch < 40
    assert by_batch + asked_since(service, asked_before) == 40
    assert [job.is_live for job in run.jobs] == [False, True]


def test_a_job_that_was_never_created_goes_live_as_it_is(
    life: Life, service: Service, reviews: Any, asked_before: int
) -> None:
    """What the service never had needs no cancel."""
    run_id = life.submit(reviews)
    life.journal.ask_live(run_id, life.clock())
    run = life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    assert service.batches(run_id) == []
    assert [job.is_live for job in run.jobs] == [False, True]
    assert asked_since(service, asked_before) == len(reviews)


def test_a_job_created_in_doubt_is_found_before_its_rows_go_live(
    life: Life, service: Service, reviews: Any, asked_before: int
) -> None:
    """Its rows may be paid for: it is looked for and cancelled, not forgotten."""
    service.faults(
        http_drop={"route": "batches.create", "after_commit": True, "times": 1},
        stall_after_share=0.5,
    )
    run_id = life.submit(reviews)
    life.until(run_id, lambda run: run.jobs[0].stage is JobStage.CREATING)
    life.journal.ask_live(run_id, life.clock())
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    (batch,) = service.batches(run_id)
    assert batch["status"] == "cancelled"
    assert service.rows_paid(run_id) + asked_since(service, asked_before) == len(reviews)


def test_a_job_that_was_not_created_after_all_goes_live(
    life: Life, service: Service, reviews: Any, asked_before: int
) -> None:
    """When the search has found nothing, live takes the place of creating it again."""
    service.faults(http_drop={"route": "batches.create", "times": 1})
    run_id = life.submit(reviews, doubt_grace_s=2.0)
    life.until(run_id, lambda run: run.jobs[0].stage is JobStage.CREATING)
    life.journal.ask_live(run_id, life.clock())
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    assert service.batches(run_id) == []
    assert asked_since(service, asked_before) == len(reviews)


def test_a_retry_may_go_live(life: Life, service: Service, asked_before: int) -> None:
    """Stragglers of a batch are asked at once, and a later retry goes by batch again."""
    service.faults(expire_after_share=0.5)
    frame = many(20)
    run_id = life.submit(frame, retries=0)
    assert life.until_ended(run_id).counts[RowStatus.EXPIRED] == 10
    life.journal.ask_retry(run_id, [RowStatus.EXPIRED], life.clock(), live=True)
    life.engine.drive(run_id)
    life.until_ended(run_id)
    assert_right(life.result(run_id), frame)
    assert asked_since(service, asked_before) == 10
    life.journal.ask_retry(run_id, [RowStatus.OK], life.clock())
    assert not lifecycle.goes_live(life.run(run_id), life.clock())


# -- limits and tiers -----------------------------------------------------------------------


def test_limits_of_the_service_are_kept(life: Life, service: Service) -> None:
    """Requests wait for room that the headers tell of: refusals are a burst's, and fail no row."""
    service.faults(realtime_limits={"requests": 1200})
    before = service.answers()[f"{ASKED} 429"]
    frame = many(60)
    run_id = life.submit(frame, asked=LIVE)
    life.until_ended(run_id)
    assert_right(life.result(run_id), frame)
    assert service.answers()[f"{ASKED} 429"] == before


def test_more_than_the_limit_is_spread_over_time(life: Life, service: Service) -> None:
    """Twenty a minute, and 22 rows: two of them wait for three seconds each, and none is lost."""
    service.faults(realtime_limits={"requests": 20})
    frame = many(22)
    began = time.monotonic()
    run_id = life.submit(frame, asked=LIVE)
    life.until_ended(run_id)
    assert_right(life.result(run_id), frame)
    assert time.monotonic() - began > 3.0


def test_a_request_larger_than_the_limit_fails_alone(life: Life, service: Service) -> None:
    """It is refused like any that is too many, but waiting helps nothing."""
    service.faults(realtime_limits={"tokens": 2_000})
    frame = pd.DataFrame({"text": ["short", "long " * 4_000, "also short"]})
    run_id = life.submit(frame, asked=LIVE, retries=0)
    life.until_ended(run_id)
    result = life.result(run_id)
    assert statuses(result) == ["ok", "failed", "ok"]
    assert "too large" in result["gpt_error"].iloc[1]


def test_flex_is_asked_for_without_being_another_request(
    life: Life, service: Service, reviews: Any
) -> None:
    """The tier is how it is paid, not what is asked: its answers serve other lanes, too."""
    before = billed(service, "flex")
    run_id = life.submit(reviews, asked={**LIVE, "tier": "flex"})
    life.until_ended(run_id)
    assert billed(service, "flex") - before == len(reviews)
    again = life.submit(reviews, name="again")
    life.until_ended(again)
    assert_right(life.result(again), reviews)
    assert service.batches(again) == []


def test_flex_without_room_is_waited_for_and_costs_nothing(
    life: Life, service: Service, reviews: Any
) -> None:
    """429 Resource Unavailable is not billed and passes."""
    service.faults(flex_unavailable={"route": ASKED, "times": 5})
    before = billed(service, "flex")
    run_id = life.submit(reviews, asked={**LIVE, "tier": "flex"})
    life.until_ended(run_id)
    assert_right(life.result(run_id), reviews)
    assert billed(service, "flex") - before == len(reviews)


def billed(service: Service, lane: str) -> int:
    return sum(one["requests"] for one in service.ledger() if one["lane"] == lane)


# -- answers of an odd make -----------------------------------------------------------------

GOOD = {
    "id": "x",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "fine"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (json.dumps(GOOD).replace('"fine"', '"half a \\\\ud83d pair"'), "ok"),
        (json.dumps(GOOD | {"logprob": float("nan")}), "ok"),
        (json.dumps(GOOD | {"big": 10**400}), "ok"),
        ("\ufeff" + json.dumps(GOOD, indent=2), "ok"),
        (json.dumps(GOOD | {"u": "\u2028"}, ensure_ascii=False), "ok"),
        ('{"id": "x", "choices": [{"ind', "unparsed"),
        ("", "unparsed"),
        ("[1]", "unparsed"),
    ],
)
def test_what_the_service_calls_good_is_an_outcome(
    lives: Lives, rogue: Rogue, body: str, status: str
) -> None:
    """It is paid for: what others refuse is read, what is no JSON is kept, nothing asked twice."""
    rogue.says = lambda text: (200, body.encode("utf-8", "surrogatepass"), {})
    life = lives(rogue.url)
    run_id = life.submit(many(3), asked=LIVE, retry_base_s=0.001)
    life.until_ended(run_id)
    assert statuses(life.result(run_id)) == [status] * 3
    assert len(rogue.asked) == 3


def test_a_page_in_place_of_an_answer_is_asked_past(lives: Lives, rogue: Rogue) -> None:
    """A portal or proxy before the service says 200 to anything; no model has answered there."""
    page = {"content-type": "text/html; charset=utf-8"}

    def says(text: str) -> tuple[int, bytes, dict[str, str]]:
        if len(rogue.asked) < 3:
            return 200, b"<html>Welcome to the train's network</html>", page
        return 200, json.dumps(GOOD).encode(), {}

    rogue.says = says
    life = lives(rogue.url)
    run_id = life.submit(many(3), asked=LIVE, retry_base_s=0.001)
    life.until_ended(run_id)
    assert statuses(life.result(run_id)) == ["ok"] * 3
    assert len(rogue.asked) >= 6


def test_the_key_is_in_no_file_though_the_service_quotes_it(lives: Lives, rogue: Rogue) -> None:
    """Proxies quote headers in their errors; what is written down holds no key."""
    key = "sk-secret-0123456789abcdef"
    quoted = json.dumps({"error": {"message": f"bad header: Bearer {key}", "code": "x"}})
    rogue.says = lambda text: (400, quoted.encode(), {"x-request-id": key})
    life = lives(rogue.url, api_key=key)
    run_id = life.submit(many(2), asked=LIVE)
    life.until_ended(run_id)
    assert key not in life.result(run_id).to_json()
    files = [path for path in life.home.path.rglob("*") if path.is_file()]
    assert [path.name for path in files if key.encode() in path.read_bytes()] == []


def test_a_fault_of_one_model_waits_for_the_answers_of_others(lives: Lives, rogue: Rogue) -> None:
    """What is on its way is paid for: mended and run again, nothing of it is asked again."""
    bad = json.dumps({"error": {"message": "no", "code": "model_not_found"}}).encode()

    def says(text: str) -> tuple[int, bytes, dict[str, str]]:
        if "bad" in text and not rogue.is_mended:
            return 404, bad, {}
        time.sleep(0.5)
        return 200, json.dumps(GOOD).encode(), {}

    rogue.says = says
    life = lives(rogue.url)
    models = {"several_models": ("m-good", "m-bad"), **LIVE}
    run_id = life.submit(many(4), asked=models, live_concurrency=8)
    assert life.until_ended(run_id).ending is Ending.STOPPED
    rogue.is_mended = True
    life.go_on(run_id)
    life.until_ended(run_id)
    assert sum("m-good" in text for text in rogue.asked) == 4


def test_a_model_without_room_holds_up_no_other(lives: Lives, rogue: Rogue) -> None:
    """Who waits for a limit holds no place in the lane."""
    full = json.dumps({"error": {"message": "later", "code": "rate_limit_exceeded"}}).encode()
    rogue.says = lambda text: (
        (429, full, {"retry-after": "30"}) if "m-full" in text else (200, GOOD_BODY, {})
    )
    life = lives(rogue.url)
    models = {"several_models": ("m-full", "m-free"), **LIVE}
    life.submit(many(40), asked=models, live_concurrency=4)
    ends = time.monotonic() + 20
    while sum("m-free" in text for text in rogue.asked) < 40 and time.monotonic() < ends:
        life.step()
    assert sum("m-free" in text for text in rogue.asked) == 40


def test_a_note_after_a_full_disk_is_not_glued_to_the_last(tmp_path: Path) -> None:
    """A line cut short is lost; what comes after it begins in a file of its own."""
    notes = _Notes(tmp_path / "job-00000.live-x.jsonl")
    said = b'{"status_code":200,"request_id":"","body":{}}'
    line = b'{"custom_id":"r-%d","response":' + said + b',"error":null}\n'

    async def write() -> None:
        await notes.add(line % 1)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(line) + 20, hard))
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            with pytest.raises(JournalError):
                await notes.add(line % 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)
        await notes.add(line % 3)
        await notes.close()

    asyncio.run(write())
    found = RunFolder(tmp_path).live_positions(0, "r")
    assert found == {1: True, 3: True}


GOOD_BODY = json.dumps(GOOD).encode()


class Rogue:
    """A server of one page that answers as a test wishes; it notes what it was asked."""

    def __init__(self) -> None:
        self.says: Callable[[str], tuple[int, bytes, dict[str, str]]] = lambda text: (
            (200, GOOD_BODY, {})
        )
        self.asked: list[str] = []
        self.is_mended = False
        rogue = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["content-length"])).decode()
                status, body, headers = rogue.says(text)
                if status == 200:
                    rogue.asked.append(text)
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def rogue() -> Iterator[Rogue]:
    server = Rogue()
    yield server
    server.close()
