"""The life of a batch as a client sees it."""

import json
import urllib.request
from collections.abc import Callable

import openai
import pytest

from .conftest import CHAT, Sandbox, ids, lines, row, rows, submit, wait, wait_until

MEMBERS = {
    "id", "object", "endpoint", "model", "errors", "input_file_id", "completion_window", "status",
    "output_file_id", "error_file_id", "created_at", "in_progress_at", "expires_at",
    "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at",
    "request_counts", "usage", "metadata",
}  # fmt: skip


def test_each_row_gets_its_own_answer_in_another_order(client: openai.OpenAI) -> None:
    """Results are joined by custom_id or not at all: their order is not the input's."""
    given = rows(60)
    batch = wait(client, submit(client, given))
    found = lines(client, batch.output_file_id)
    assert ids(found) != [item["custom_id"] for item in given]
    assert sorted(ids(found)) == sorted(item["custom_id"] for item in given)
    for item in found:
        answer = item["response"]["body"]["choices"][0]["message"]["content"]
        assert answer.endswith(f"words of {item['custom_id']}")
        assert item["response"]["status_code"] == 200
        assert item["response"]["body"]["model"] == "sandbox-stub"
        assert item["error"] is None


def test_results_are_the_same_for_the_same_input(client: openai.OpenAI) -> None:
    """Order and answers are seeded by the content, so that a failure can be repeated."""
    first, second = (wait(client, submit(client, rows(30))) for _ in range(2))
    assert ids(lines(client, first.output_file_id)) == ids(lines(client, second.output_file_id))


def test_completed_batch_has_every_member(shared: Sandbox) -> None:
    """Real objects carry every member, null included, and times in order."""
    client = shared.client()
    made = submit(client, rows(3))
    wait(client, made)
    with urllib.request.urlopen(f"{shared.url}/batches/{made.id}") as answer:
        batch = json.load(answer)
    assert set(batch) == MEMBERS
    times = [batch[name] for name in ("created_at", "in_progress_at", "finalizing_at")]
    assert times == sorted(times)
    assert batch["expires_at"] - batch["created_at"] == 86_400
    assert batch["model"] == "gpt-5-mini"
    assert batch["error_file_id"] is None
    assert batch["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    usage = batch["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0


def test_usage_is_the_sum_of_the_rows(client: openai.OpenAI) -> None:
    """The batch names usage as /v1/responses does, whatever the rows call it."""
    batch = wait(client, submit(client, rows(9)))
    found = [item["response"]["body"]["usage"] for item in lines(client, batch.output_file_id)]
    assert batch.usage is not None
    assert batch.usage.input_tokens == sum(usage["prompt_tokens"] for usage in found)
    assert batch.usage.output_tokens == sum(usage["completion_tokens"] for usage in found)


def test_states_pass_in_order(start: Callable[..., Sandbox]) -> None:
    """A client that polls sees validating, in_progress, finalizing, completed."""
    sandbox = start(scale=100)
    client = sandbox.client()
    batch = submit(client, rows(4), validating_s=20, in_progress_s=20, finalizing_s=20)
    seen = [batch.status]
    assert batch.request_counts is not None
    assert batch.request_counts.total == 0

    def has_ended() -> bool:
        status = client.batches.retrieve(batch.id).status
        if status != seen[-1]:
            seen.append(status)
        return status == "completed"

    wait_until(has_ended)
    assert seen == ["validating", "in_progress", "finalizing", "completed"]


def test_advancing_the_clock_ends_a_wait(start: Callable[..., Sandbox]) -> None:
    """Waits are read from the service's clock, so a test never sleeps through one."""
    sandbox = start(scale=1)
    client = sandbox.client()
    batch = submit(client, rows(2))
    for state in ("in_progress", "finalizing", "completed"):
        sandbox.advance(60)
        wait(client, batch, state)


def test_expired_batch_keeps_finished_rows(own: Sandbox) -> None:
    """Finished rows are in the output and billed; the rest are batch_expired errors."""
    client = own.client()
    batch = wait(client, submit(client, rows(10), expire_after_share=0.6))
    done, left = lines(client, batch.output_file_id), lines(client, batch.error_file_id)
    assert batch.status == "expired"
    assert batch.expired_at
    assert (len(done), len(left)) == (6, 4)
    assert not set(ids(done)) & set(ids(left))
    assert left[0]["response"] is None
    assert left[0]["error"] == {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    }
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 10, "completed": 6, "failed": 0}
    assert own.truth(batch.id)["rows_paid"] == 6


def test_window_of_a_day_ends_a_stalled_batch(own: Sandbox) -> None:
    """The window is 86,400 seconds of the service's clock."""
    client = own.client()
    batch = submit(client, rows(10), stall_after_share=0.5)
    wait_until(lambda: own.truth(batch.id)["rows_answered"] == 5)
    own.advance(86_000)
    assert client.batches.retrieve(batch.id).status == "in_progress"
    own.advance(401)
    assert wait(client, batch).status == "expired"


def test_cancelled_batch_keeps_finished_rows(own: Sandbox) -> None:
    """A cancel passes through cancelling; finished rows are kept and the rest are named."""
    client = own.client()
    batch = submit(client, rows(10), stall_after_share=0.3, cancelling_s=400)
    wait_until(lambda: own.truth(batch.id)["rows_answered"] == 3)
    assert client.batches.cancel(batch.id).status == "cancelling"
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = wait(client, batch)
    assert batch.status == "cancelled"
    assert len(lines(client, batch.output_file_id)) == 3
    left = lines(client, batch.error_file_id)
    assert {item["error"]["code"] for item in left} == {"batch_cancelled"}
    assert len(left) == 7
    again = client.batches.cancel(batch.id)
    assert (again.status, again.cancelled_at) == ("cancelled", batch.cancelled_at)


@pytest.mark.parametrize("state", ["validating", "finalizing"])
def test_cancel_is_accepted_before_and_after_the_rows(own: Sandbox, state: str) -> None:
    """Cancelling while validating leaves no files; while finalizing it keeps all rows."""
    client = own.client()
    batch = submit(client, rows(4), **{f"{state}_s": 10**7})
    wait(client, batch, state)
    client.batches.cancel(batch.id)
    batch = wait(client, batch)
    assert batch.status == "cancelled"
    assert len(lines(client, batch.output_file_id)) == (4 if state == "finalizing" else 0)
    assert batch.error_file_id is None


def test_cancel_of_a_batch_that_would_not_have_been_valid(own: Sandbox) -> None:
    """Nothing has looked at its input yet, and nothing needs to."""
    client = own.client()
    batch = submit(client, rows(4), validation_error="empty_file", validating_s=10**7)
    client.batches.cancel(batch.id)
    assert wait(client, batch).status == "cancelled"


@pytest.mark.parametrize(
    ("faults", "status"),
    [
        ({}, "completed"),
        ({"validation_error": "empty_file"}, "failed"),
        ({"expire_after_share": 0}, "expired"),
    ],
)
def test_ended_batch_cannot_be_cancelled(
    client: openai.OpenAI, faults: dict[str, object], status: str
) -> None:
    """A 409 in the real words; only `cancelled` answers 200."""
    batch = wait(client, submit(client, rows(2), **faults))
    with pytest.raises(openai.ConflictError) as caught:
        client.batches.cancel(batch.id)
    assert caught.value.body == {
        "message": f"Cannot cancel a batch with status '{status}'.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


def test_unknown_batch_is_a_404(client: openai.OpenAI) -> None:
    """The words `No batch found` are what clients look for."""
    with pytest.raises(openai.NotFoundError, match="No batch found"):
        client.batches.retrieve("batch_none")
    with pytest.raises(openai.NotFoundError, match="No batch found"):
        client.batches.cancel("batch_none")


def test_listing_pages_cover_all_newest_first(own: Sandbox) -> None:
    """An orphan behind 100 newer batches must be found by paging."""
    client = own.client()
    made = [
        client.batches.create(input_file_id="file-none", endpoint=CHAT, completion_window="24h").id
        for _ in range(105)
    ]
    assert len(client.batches.list().data) == 20
    first = client.batches.list(limit=100)
    assert (len(first.data), first.has_more) == (100, True)
    assert [batch.id for batch in first] == made[::-1]
    with pytest.raises(openai.BadRequestError):
        client.batches.list(limit=101)


def test_all_rows_failed_is_still_completed(client: openai.OpenAI) -> None:
    """`completed` says nothing about rows: no output file, and the error file is full."""
    batch = wait(client, submit(client, rows(5), row_status=429))
    assert batch.status == "completed"
    assert batch.output_file_id is None
    found = lines(client, batch.error_file_id)
    assert {item["response"]["status_code"] for item in found} == {429}
    assert all(item["error"] is None for item in found)
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 5, "completed": 0, "failed": 5}


def test_parameters_a_model_refuses_fail_per_row(client: openai.OpenAI) -> None:
    """Such mistakes pass validation and are found only when the row runs."""
    given = [row("ok"), row("old", max_tokens=5), row("huge", max_completion_tokens=1_000_000)]
    batch = wait(client, submit(client, given))
    assert batch.status == "completed"
    codes = {
        item["custom_id"]: item["response"]["body"]["error"]["code"]
        for item in lines(client, batch.error_file_id)
    }
    assert codes == {"old": "unsupported_parameter", "huge": "context_length_exceeded"}


def test_results_are_files_that_expire(own: Sandbox) -> None:
    """Result files are purpose batch_output and live as long as the batch was told."""
    client = own.client()
    file = client.files.create(
        file=("a.jsonl", json.dumps(row("r")).encode() + b"\n"), purpose="batch"
    )
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint=CHAT,
        completion_window="24h",
        output_expires_after={"anchor": "created_at", "seconds": 3600},
    )
    batch = wait(client, batch)
    assert batch.output_file_id
    output = client.files.retrieve(batch.output_file_id)
    assert output.purpose == "batch_output"
    assert output.expires_at == output.created_at + 3600
    own.advance(3601)
    with pytest.raises(openai.NotFoundError):
        client.files.content(batch.output_file_id)


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/responses", {"model": "gpt-5-mini", "input": "hello"}),
        ("/v1/completions", {"model": "gpt-5-mini", "prompt": "hello"}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["a", "b"]}),
        ("/v1/moderations", {"model": "omni-moderation-latest", "input": "hello"}),
    ],
)
def test_other_endpoints_run_in_batches(
    client: openai.OpenAI, url: str, body: dict[str, object]
) -> None:
    """Each endpoint's rows hold that endpoint's body."""
    given = [{"custom_id": "r", "method": "POST", "url": url, "body": body}]
    batch = wait(client, submit(client, given, url))
    [item] = lines(client, batch.output_file_id)
    body_member = {
        "/v1/responses": "output",
        "/v1/completions": "choices",
        "/v1/embeddings": "data",
        "/v1/moderations": "results",
    }[url]
    assert item["response"]["body"][body_member]


def test_fifty_thousand_rows_take_seconds(own: Sandbox) -> None:
    """A full batch must not be what a test suite waits for."""
    client = own.client()
    batch = wait(client, submit(client, rows(50_000)), timeout_s=60)
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 50_000
