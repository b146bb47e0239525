"""Every switch, through the eyes of the official client."""

import contextlib
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import openai
import pytest

from .conftest import CHAT, FAST, Sandbox, ids, jsonl, lines, row, rows, submit, wait, wait_until


@pytest.mark.parametrize(
    ("status", "code"), [(400, 400), (404, 404), (429, 429), (500, 500), (504, 504)]
)
def test_rows_fail_with_the_status_asked_for(client: openai.OpenAI, status: int, code: int) -> None:
    """The share is exact, so a test can count on it."""
    faults = {"status": status, "share": 0.3}
    batch = wait(client, submit(client, rows(10), row_status=faults))
    failed = lines(client, batch.error_file_id)
    assert len(failed) == 3
    assert {item["response"]["status_code"] for item in failed} == {code}
    assert all(
        set(item["response"]["body"]["error"]) == {"message", "type", "param", "code"}
        for item in failed
    )
    assert len(lines(client, batch.output_file_id)) == 7


def test_lost_row_is_counted_as_completed(client: openai.OpenAI) -> None:
    """Status 0 with an empty body sits in the error file while the counts say none failed."""
    batch = wait(client, submit(client, rows(4), row_status={"status": 0, "every": 4}))
    [item] = lines(client, batch.error_file_id)
    assert item["custom_id"] == "r3"
    assert item["response"] == {"status_code": 0, "request_id": "", "body": {}}
    assert item["error"] is None
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 4, "completed": 4, "failed": 0}


def test_timed_out_row_has_no_response(client: openai.OpenAI) -> None:
    """A time-out of the model is a row-level error code."""
    batch = wait(client, submit(client, rows(2), row_status={"status": "timeout"}))
    found = lines(client, batch.error_file_id)
    assert {item["error"]["code"] for item in found} == {"request_timeout"}


def test_rows_are_chosen_by_pattern_and_text(client: openai.OpenAI) -> None:
    """A fault can be aimed at one row by its id, its words or a mark in them."""
    given = [*rows(3), row("x", "[[fault:404]] please"), row("y", "unlucky words")]
    faults = [{"status": 400, "custom_id": "r[01]"}, {"status": 500, "text": "unlucky"}]
    batch = wait(client, submit(client, given, row_status=faults))
    found = {
        item["custom_id"]: item["response"]["status_code"]
        for item in lines(client, batch.error_file_id)
    }
    assert found == {"r0": 400, "r1": 400, "x": 404, "y": 500}


def test_row_that_fails_once_succeeds_when_sent_again(client: openai.OpenAI) -> None:
    """Retries can be rehearsed: the same request fails one time and then never."""
    given = [row("a", f"[[fault:429:once]] {time.time()}"), row("b")]
    first = wait(client, submit(client, given))
    assert ids(lines(client, first.error_file_id)) == ["a"]
    again = wait(client, submit(client, given))
    assert again.error_file_id is None


def test_missing_rows_are_in_neither_file(own: Sandbox) -> None:
    """They were answered and billed, and they are nowhere."""
    client = own.client()
    batch = wait(client, submit(client, rows(10), row_missing={"share": 0.2}))
    assert len(lines(client, batch.output_file_id)) == 8
    assert batch.error_file_id is None
    assert own.truth(batch.id)["rows_paid"] == 10


def test_doubled_rows_are_in_the_output_twice(client: openai.OpenAI) -> None:
    """A client must keep the first and not crash."""
    batch = wait(client, submit(client, rows(4), row_twice={"custom_id": "r2"}))
    assert sorted(ids(lines(client, batch.output_file_id))) == ["r0", "r1", "r2", "r2", "r3"]


def test_malformed_line_is_cut(client: openai.OpenAI) -> None:
    """One broken record among good ones."""
    batch = wait(client, submit(client, rows(3), row_malformed={"custom_id": "r1"}))
    content = client.files.content(batch.output_file_id or "").content
    broken = []
    for line in content.split(b"\n")[:-1]:
        try:
            json.loads(line)
        except json.JSONDecodeError:
            broken.append(line)
    assert len(broken) == 1
    assert b'"r1"' in broken[0]


@pytest.mark.parametrize(
    ("name", "content", "refusal", "reason"),
    [
        ("row_refused", None, "I can't help with that.", "stop"),
        ("row_null", None, None, "stop"),
        ("row_filtered", "", None, "content_filter"),
        ("row_cut", "stub", None, "length"),
    ],
)
def test_spoiled_answers_are_http_200(
    client: openai.OpenAI, name: str, content: str | None, refusal: str | None, reason: str
) -> None:
    """Success by HTTP that is no answer: refusal, null, filter, limit."""
    batch = wait(client, submit(client, rows(1), **{name: True}))
    [item] = lines(client, batch.output_file_id)
    [choice] = item["response"]["body"]["choices"]
    assert choice["finish_reason"] == reason
    assert choice["message"]["refusal"] == refusal
    got = choice["message"]["content"]
    assert got.startswith(content) if content else got == content


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("row_cut", "incomplete", "max_output_tokens"),
        ("row_filtered", "incomplete", "content_filter"),
        ("row_refused", "completed", None),
        ("row_no_choices", "completed", None),
    ],
)
def test_spoiled_responses_have_their_own_shape(
    client: openai.OpenAI, name: str, status: str, reason: str | None
) -> None:
    """On /v1/responses a 200 may be incomplete, a refusal part, or an empty output."""
    url = "/v1/responses"
    body = {"model": "gpt-5-mini", "input": "hello"}
    given = [{"custom_id": "r", "method": "POST", "url": url, "body": body}]
    batch = wait(client, submit(client, given, url, **{name: True}))
    answer = lines(client, batch.output_file_id)[0]["response"]["body"]
    assert answer["status"] == status
    assert (answer["incomplete_details"] or {}).get("reason") == reason


def test_someone_else_cancels(client: openai.OpenAI) -> None:
    """A batch may be cancelled in the console, part-way."""
    batch = wait(client, submit(client, rows(10), cancel_after_share=0.5))
    assert batch.status == "cancelled"
    assert len(lines(client, batch.output_file_id)) == 5
    assert len(lines(client, batch.error_file_id)) == 5


def test_forced_validation_errors(client: openai.OpenAI) -> None:
    """Any code can be rehearsed, with its line."""
    errors = ["maximum_requests_exceeded", {"code": "made_up", "message": "so", "line": 7}]
    batch = wait(client, submit(client, rows(1), validation_error=errors))
    assert batch.errors is not None
    found = [(error.code, error.line) for error in batch.errors.data or []]
    assert found == [("maximum_requests_exceeded", None), ("made_up", 7)]


def test_queue_limit_frees_when_a_batch_ends(own: Sandbox) -> None:
    """token_limit_exceeded comes after create and is over when the other batch is."""
    client = own.client()
    own.faults(token_cap=200)
    first = submit(client, rows(4), stall_after_share=0.5)
    wait(client, first, "in_progress")
    second = wait(client, submit(client, rows(4)))
    assert second.status == "failed"
    assert second.errors is not None
    [error] = second.errors.data or []
    assert error.code == "token_limit_exceeded"
    assert (error.message or "").startswith(
        "Enqueued token limit reached for gpt-5-mini in organization org-"
    )
    client.batches.cancel(first.id)
    wait(client, first)
    assert wait(client, submit(client, rows(4))).status == "completed"


def test_batch_can_look_strange(own: Sandbox) -> None:
    """Unknown status, null counts, empty error file id, files that come late."""
    client = own.client()
    batch = submit(client, rows(2), status_text="paused", stall_after_share=0, counts_null=True)
    seen: Any = wait(client, batch, "paused")
    assert seen.request_counts is None
    batch = wait(client, submit(client, rows(2), error_file_id_empty=True, file_ids_late_s=1000))
    assert batch.error_file_id is None
    own.advance(1001)
    batch = client.batches.retrieve(batch.id)
    assert batch.error_file_id == ""
    assert batch.output_file_id


def test_vanished_batch_is_a_404_and_not_listed(client: openai.OpenAI) -> None:
    """A batch may be gone from one poll to the next."""
    batch = submit(client, rows(1), vanished=True)
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve(batch.id)
    assert batch.id not in [other.id for other in client.batches.list().data]


@pytest.mark.parametrize(("order", "wanted"), [("input", "0123"), ("reversed", "3210")])
def test_order_of_results_can_be_set(client: openai.OpenAI, order: str, wanted: str) -> None:
    """For a test that needs to know it."""
    batch = wait(client, submit(client, rows(4), output_order=order))
    found = ids(lines(client, batch.output_file_id))
    assert found == [f"r{digit}" for digit in wanted]


def _create(client: openai.OpenAI) -> str:
    batch = client.batches.create(input_file_id="file-x", endpoint=CHAT, completion_window="24h")
    return batch.id


def _count(own: Sandbox) -> int:
    return len(own.control("batches")["batches"])


@pytest.mark.parametrize(("after_commit", "made"), [(False, 0), (True, 1)])
def test_create_can_lose_its_answer(own: Sandbox, after_commit: bool, made: int) -> None:
    """The double-creation test: the connection is closed before or after the batch exists."""
    own.faults(http_drop={"route": "batches.create", "times": 1, "after_commit": after_commit})
    client = own.client()
    with pytest.raises(openai.APIConnectionError):
        _create(client)
    wait_until(lambda: _count(own) == made)
    _create(client)
    assert _count(own) == made + 1


def test_retrying_sdk_creates_two_batches(own: Sandbox) -> None:
    """The SDK sends no idempotency key; this is what happens with its default retries."""
    own.faults(http_drop={"route": "batches.create", "times": 1, "after_commit": True})
    _create(own.client(max_retries=2))
    assert _count(own) == 2


@pytest.mark.parametrize(("after_commit", "made"), [(False, 0), (True, 1)])
def test_create_can_answer_5xx(own: Sandbox, after_commit: bool, made: int) -> None:
    """A 500 says nothing about whether the batch exists."""
    own.faults(
        http_status={
            "route": "batches.create", "times": 1, "status": 503, "after_commit": after_commit
        }
    )  # fmt: skip
    with pytest.raises(openai.InternalServerError):
        _create(own.client())
    assert _count(own) == made


def test_slow_create_outlasts_the_client(own: Sandbox) -> None:
    """The batch exists though the client gave up."""
    own.faults(
        http_delay={"route": "batches.create", "times": 1, "delay_s": 2, "after_commit": True}
    )
    with pytest.raises(openai.APITimeoutError):
        _create(own.client(timeout=0.3))
    assert _count(own) == 1


@pytest.mark.parametrize("seconds", [1, 121])
def test_rate_limit_names_its_wait(own: Sandbox, seconds: int) -> None:
    """retry-after is a header; the SDK obeys it up to 120 s."""
    own.faults(
        http_status={
            "route": "files.create", "times": 1, "status": 429, "retry_after_s": seconds
        }
    )  # fmt: skip
    client = own.client()
    with pytest.raises(openai.RateLimitError) as caught:
        client.files.create(file=("a.jsonl", jsonl(rows(1))), purpose="batch")
    assert caught.value.response.headers["retry-after"] == str(seconds)
    assert caught.value.code == "rate_limit_exceeded"
    assert client.files.create(file=("a.jsonl", jsonl(rows(1))), purpose="batch").id


def test_quota_and_refused_key(own: Sandbox) -> None:
    """Money gone is a 429 that no wait helps; a bad key is a 401."""
    own.faults(insufficient_quota={"route": "batches.create", "times": 1})
    with pytest.raises(openai.RateLimitError) as caught:
        _create(own.client())
    assert caught.value.code == "insufficient_quota"
    with pytest.raises(openai.AuthenticationError) as refused:
        _create(own.client(api_key="sk-refused-1"))
    assert refused.value.code == "invalid_api_key"


def test_content_fails_twice_then_comes(own: Sandbox) -> None:
    """502 on content is transient and must not end a collection."""
    client = own.client(max_retries=2)
    batch = wait(client, submit(client, rows(1)))
    own.faults(http_status={"route": "files.content", "times": 2, "status": 502})
    assert len(lines(client, batch.output_file_id)) == 1
    answers = own.control("requests")["answers"]
    assert (answers["files.content 502"], answers["files.content 200"]) == (2, 1)


def test_download_can_be_cut(own: Sandbox) -> None:
    """Half a file arrives with the length of the whole, and then nothing."""
    client = own.client()
    batch = wait(client, submit(client, rows(2000)))
    assert batch.output_file_id
    whole = len(client.files.content(batch.output_file_id).content)
    own.faults(http_cut={"route": "files.content", "times": 1, "share": 0.5})
    received = 0
    with contextlib.suppress(Exception):
        with client.files.with_streaming_response.content(batch.output_file_id) as answer:
            for chunk in answer.iter_bytes(4096):
                received += len(chunk)
    assert 0 < received <= whole // 2
    assert len(client.files.content(batch.output_file_id).content) == whole


def test_fresh_file_is_not_there_yet(own: Sandbox) -> None:
    """Right after upload a retrieve may be a 404, and after a moment it is not."""
    own.faults(file_404_s=100, content_404_s=100)
    client = own.client()
    file = client.files.create(file=("a.jsonl", jsonl(rows(1))), purpose="batch")
    for read in (client.files.retrieve, client.files.content):
        with pytest.raises(openai.NotFoundError):
            read(file.id)
    own.advance(101)
    assert client.files.retrieve(file.id).id == file.id
    assert client.files.content(file.id).content


def test_faults_are_set_shown_and_cleared(own: Sandbox) -> None:
    """PUT keeps the others, null takes one away, DELETE takes all, a wrong name is refused."""
    own.faults(token_cap=5, counts_null=True)
    own.faults(token_cap=None)
    assert own.control("faults") == {"counts_null": True}
    assert own.control("faults", method="DELETE") == {}
    with pytest.raises(urllib.error.HTTPError) as caught:
        own.faults(no_such_fault=1)
    assert caught.value.code == 400
    with pytest.raises(urllib.error.HTTPError) as caught:
        own.faults(http_status={"route": "*", "tiems": 1})
    assert caught.value.code == 400
    with pytest.raises(openai.BadRequestError, match="unknown fault"):
        submit(own.client(), rows(1), no_such_fault=1)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://example.org"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "example.org"},
        {"Origin": "null"},
    ],
)
def test_foreign_pages_are_turned_away(shared: Sandbox, headers: dict[str, str]) -> None:
    """A page in the user's browser can reach loopback; it gets a 403."""
    request = urllib.request.Request(f"{shared.url}/files", headers=headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 403
    caught.value.close()


def test_requests_are_counted_by_route(own: Sandbox) -> None:
    """A test can prove how often a client called."""
    client = own.client()
    client.batches.list()
    client.batches.list()
    counted = own.control("requests")
    assert counted["calls"]["batches.list"] == 2
    assert counted["answers"]["batches.list 200"] == 2


def test_marked_words_fail_at_once_too(own: Sandbox) -> None:
    """Live requests can be rehearsed with the same mark, for ever or once."""
    client = own.client()

    def ask(text: str) -> None:
        client.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": text}]
        )

    for _ in range(2):
        with pytest.raises(openai.RateLimitError):
            ask("[[fault:429]]")
    with pytest.raises(openai.InternalServerError):
        ask("[[fault:500:once]]")
    ask("[[fault:500:once]]")


@pytest.mark.parametrize(
    "faults", [{"in_progress_s": "soon"}, {"row_status": {"status": "x"}}, {"row_twice": "r1"}]
)
def test_fault_of_a_wrong_value_is_refused(
    client: openai.OpenAI, faults: dict[str, object]
) -> None:
    """A slip in a fault is a 400 at create, not a batch that never ends."""
    with pytest.raises(openai.BadRequestError):
        submit(client, rows(1), **faults)


def test_number_that_is_none_is_refused_where_it_is_set(own: Sandbox) -> None:
    """A slip in a general fault is a 400 at once, not a 500 of some later call."""
    for faults in ({"file_404_s": "soon"}, {"token_cap": [5]}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            own.faults(**faults)
        assert caught.value.code == 400
    assert own.control("faults") == {}


def test_false_is_a_switch_that_is_off(client: openai.OpenAI) -> None:
    """A test may spell out that it does not want a fault."""
    faults = {"vanished": False, "counts_all_completed": False}
    batch = wait(client, submit(client, rows(1), row_status=429, **faults))
    assert batch.request_counts is not None
    assert batch.request_counts.failed == 1


def test_metadata_can_take_a_general_fault_away(own: Sandbox) -> None:
    """One job among misbehaving ones is left in peace by null."""
    own.faults(row_status=429)
    batch = wait(own.client(), submit(own.client(), rows(1), row_status=None))
    assert batch.error_file_id is None


def test_metadata_cannot_set_what_is_of_the_whole_service(client: openai.OpenAI) -> None:
    """A fault that would be ignored is refused."""
    with pytest.raises(openai.BadRequestError, match="not one of a batch"):
        submit(client, rows(1), http_status={"status": 500})


def test_new_batch_is_listed_late(own: Sandbox) -> None:
    """Whoever looks for a batch whose answer was lost may have to look twice."""
    client = own.client()
    old = submit(client, rows(1))
    own.faults(list_lag_s=100)
    new = submit(client, rows(1))
    assert client.batches.retrieve(new.id).id == new.id
    page = client.batches.list(limit=1)
    assert [batch.id for batch in page.data] == [old.id]
    assert not page.has_more
    own.advance(101)
    assert [batch.id for batch in client.batches.list()] == [new.id, old.id]


def test_absent_output_file_id_can_be_empty_text(client: openai.OpenAI) -> None:
    """All rows failed, and the id of the file that is not there is no null."""
    faults: dict[str, Any] = {"output_file_id_empty": True, "row_status": 500}
    batch = wait(client, submit(client, rows(1), **faults))
    assert batch.output_file_id == ""
    assert batch.error_file_id


def test_batch_can_speak_azures_dialect(client: openai.OpenAI) -> None:
    """Times are text with seven digits after the second, words have capitals, counts come late."""
    made: Any = submit(client, rows(1), dialect="azure")
    assert made.status == "Validating"
    assert made.request_counts.to_dict() == {"total": None, "completed": None, "failed": None}
    ended: Any = wait(client, made, "Completed")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.0{7}\+00:00", ended.completed_at)
    assert ended.failed_at is None
    assert ended.request_counts.completed == 1
    [listed] = [batch for batch in client.batches.list() if batch.id == made.id]
    assert listed == ended


def test_batch_can_end_without_files(own: Sandbox) -> None:
    """Its rows were answered and billed, and there is nothing to read."""
    client = own.client()
    batch = wait(client, submit(client, rows(3), no_files=True))
    assert batch.status == "completed"
    assert (batch.output_file_id, batch.error_file_id) == (None, None)
    assert own.truth(batch.id)["rows_paid"] == 3
    assert [file.purpose for file in client.files.list()] == ["batch"]


@pytest.mark.parametrize("faults", [{"dialect": "welsh"}, {"output_order": "up"}])
def test_word_that_no_switch_knows_is_refused(
    client: openai.OpenAI, faults: dict[str, str]
) -> None:
    """A misspelt word would be a fault that does nothing."""
    with pytest.raises(openai.BadRequestError, match="takes"):
        submit(client, rows(1), **faults)


def test_poll_can_answer_an_error_with_200(own: Sandbox) -> None:
    """A body that has an error and no id, though HTTP says all is well."""
    client = own.client()
    batch = submit(client, rows(1))
    own.faults(http_status={"route": "batches.retrieve", "times": 1, "status": 200})
    seen: Any = client.batches.retrieve(batch.id)
    assert set(seen.error) == {"message", "type", "param", "code"}
    assert not hasattr(seen, "id") or seen.id is None
    assert client.batches.retrieve(batch.id).id == batch.id


def test_foreign_lines_come_with_rows(own: Sandbox) -> None:
    """Lines of custom_ids that nobody asked for are in both files, and in no count."""
    client = own.client()
    faults: dict[str, Any] = {"row_status": {"status": 500, "custom_id": "r1"}}
    batch = wait(client, submit(client, rows(3), row_foreign={"custom_id": "r[12]"}, **faults))
    output = lines(client, batch.output_file_id)
    errors = lines(client, batch.error_file_id)
    for found, asked, made in ((output, {"r0", "r2"}, 1), (errors, {"r1"}, 1)):
        assert len({item["id"] for item in found}) == len(found)
        foreign = [item for item in found if item["custom_id"] not in asked]
        assert len(foreign) == made == len(found) - len(asked)
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 3, "completed": 2, "failed": 1}
    assert own.truth(batch.id)["rows_paid"] == 2


def test_foreign_lines_outlive_a_kill(start: Callable[..., Sandbox]) -> None:
    """What the record holds beside the rows is not taken for rows by the next life."""
    own = start()
    batch = submit(own.client(), rows(6), row_foreign=True, in_progress_s=FAST * 1.5)
    wait_until(lambda: own.truth(batch.id)["rows_answered"] >= 3)
    own.kill()
    own.start()
    ended = wait(own.client(), batch)
    found = ids(lines(own.client(), ended.output_file_id))
    assert len(found) == len(set(found)) == 12
    assert own.truth(batch.id)["rows_answered"] == 6


def test_body_can_be_a_text(client: openai.OpenAI) -> None:
    """The share is exact, and what the text holds is the answer."""
    batch = wait(client, submit(client, rows(4), row_body_text={"share": 0.5}))
    bodies = [item["response"]["body"] for item in lines(client, batch.output_file_id)]
    texts = [json.loads(body) for body in bodies if isinstance(body, str)]
    assert len(texts) == 2
    assert {body["object"] for body in texts} == {"chat.completion"}


def test_answers_can_hold_line_separators(client: openai.OpenAI) -> None:
    """They are no ends of lines: whoever splits a file by them loses rows."""
    batch = wait(client, submit(client, rows(2), row_separators={"every": 2}))
    content = client.files.content(batch.output_file_id or "").content
    assert content.count(b"\n") == 2
    assert len(content.decode().splitlines()) > 2
    found = {item["custom_id"]: item for item in lines(client, batch.output_file_id)}
    answers = {
        name: item["response"]["body"]["choices"][0]["message"]["content"]
        for name, item in found.items()
    }
    assert "\r\x0b\x0c\x85\u2028\u2029" in answers["r1"]
    assert answers["r0"].isprintable()


def test_model_can_call_a_tool_instead(client: openai.OpenAI) -> None:
    """HTTP 200, no content, and a call that nobody will answer."""
    batch = wait(client, submit(client, rows(1), row_tool_calls=True))
    [choice] = lines(client, batch.output_file_id)[0]["response"]["body"]["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    [call] = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert json.loads(call["function"]["arguments"])


@pytest.mark.parametrize(
    ("faults", "kinds"),
    [
        ({"row_tool_calls": True}, ["function_call"]),
        ({"row_separators": True}, ["message"]),
        ({"row_null": True, "row_cut": True}, []),
        ({"row_refused": True, "row_cut": True}, ["message"]),
    ],
)
def test_responses_are_spoiled_in_their_own_shape_too(
    client: openai.OpenAI, faults: dict[str, bool], kinds: list[str]
) -> None:
    """Tool calls are items of the output; two faults of one row do not end the batch's life."""
    url = "/v1/responses"
    body = {"model": "gpt-5-mini", "input": "hello"}
    given = [{"custom_id": "r", "method": "POST", "url": url, "body": body}]
    batch = wait(client, submit(client, given, url, **faults))
    answer = lines(client, batch.output_file_id)[0]["response"]["body"]
    assert [item["type"] for item in answer["output"]] == kinds
    assert answer["status"] == "completed"
    if "row_separators" in faults:
        assert "\u2028" in answer["output"][0]["content"][0]["text"]


def test_creates_are_capped_by_the_hour(own: Sandbox) -> None:
    """One too many is a 429 that names its wait, of the service's clock, and makes no batch."""
    own.faults(creates_per_hour=2)
    client = own.client()
    _create(client)
    own.advance(600)
    _create(client)
    own.end()
    own.start()  # the hour goes on
    client = own.client()
    with pytest.raises(openai.RateLimitError) as caught:
        _create(client)
    assert caught.value.code == "rate_limit_exceeded"
    wait_s = int(caught.value.response.headers["retry-after"])
    assert 2900 < wait_s <= 3000
    assert _count(own) == 2
    own.advance(wait_s)
    _create(client)
    assert _count(own) == 3


def test_uploads_are_capped_by_the_minute(own: Sandbox) -> None:
    """The cap counts calls, so a file that was deleted counts as well."""
    own.faults(uploads_per_minute=1)
    client = own.client()
    file = client.files.create(file=("a.jsonl", jsonl(rows(1))), purpose="batch")
    client.files.delete(file.id)
    with pytest.raises(openai.RateLimitError) as caught:
        client.files.create(file=("a.jsonl", jsonl(rows(5000))), purpose="batch")
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 60
    own.faults(uploads_per_minute=None)
    assert client.files.create(file=("a.jsonl", jsonl(rows(1))), purpose="batch").id
