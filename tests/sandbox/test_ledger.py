"""What was billed: every answer once, whatever became of it, and over every kind of end."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from .conftest import CHAT, FAST, Sandbox, lines, row, rows, submit, wait, wait_until

MODEL = "gpt-5-mini"


def _ledger(sandbox: Sandbox) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = sandbox.control("ledger")["entries"]
    return entries


def _requests(sandbox: Sandbox, lane: str) -> int:
    return sum(entry["requests"] for entry in _ledger(sandbox) if entry["lane"] == lane)


def _tokens(sandbox: Sandbox, lane: str) -> tuple[int, int, int]:
    names = ("input_tokens", "cached_tokens", "output_tokens")
    billed = [entry for entry in _ledger(sandbox) if entry["lane"] == lane]
    input_tokens, cached, output = (
        sum(entry[name] * entry["requests"] for entry in billed) for name in names
    )
    return input_tokens, cached, output


def _ask(client: openai.OpenAI, text: str = "hello", **body: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    given: Any = {"model": MODEL, "messages": messages} | body
    return client.chat.completions.create(**given)


def _wait_until_paid(sandbox: Sandbox, batch: Batch, rows_paid: int) -> None:
    wait_until(lambda: sandbox.truth(batch.id)["rows_paid"] >= rows_paid)


def _check_against_batches(sandbox: Sandbox) -> int:
    """Hold the ledger against the batches' own counts and usage; return the rows billed."""
    truth = sandbox.control("batches")
    used = [batch["usage"] for batch in truth["batches"]]
    assert _requests(sandbox, "batch") == truth["rows_paid"]
    assert _tokens(sandbox, "batch") == (
        sum(usage["input_tokens"] for usage in used),
        sum(usage["input_tokens_details"]["cached_tokens"] for usage in used),
        sum(usage["output_tokens"] for usage in used),
    )
    return int(truth["rows_paid"])


def test_equal_requests_are_one_entry(own: Sandbox) -> None:
    """The model is the one asked for, and the counts are those of the answer's usage."""
    client = own.client()
    usage, *_ = [_ask(client, "hello").usage for _ in range(3)]
    _ask(client, "a longer question")
    first, second = _ledger(own)
    assert first == {
        "lane": "realtime",
        "model": MODEL,
        "endpoint": CHAT,
        "input_tokens": usage.prompt_tokens,
        "cached_tokens": 0,
        "output_tokens": usage.completion_tokens,
        "requests": 3,
    }
    assert (second["requests"], second["input_tokens"] > first["input_tokens"]) == (1, True)


def test_every_endpoint_is_billed_in_its_own_name(own: Sandbox) -> None:
    """A stream is billed as the whole it is cut from; a moderation has no tokens."""
    client = own.client()
    list(_ask(client, stream=True))
    client.responses.create(model=MODEL, input="hello", service_tier="flex")
    client.completions.create(model=MODEL, prompt="hello")
    client.embeddings.create(model="text-embedding-3-small", input="hello")
    client.moderations.create(input="hello")
    found = {
        (entry["lane"], entry["endpoint"], entry["model"], entry["input_tokens"])
        for entry in _ledger(own)
    }
    assert found == {
        ("realtime", CHAT, MODEL, 6),
        ("flex", "/v1/responses", MODEL, 6),
        ("realtime", "/v1/completions", MODEL, 6),
        ("realtime", "/v1/embeddings", "text-embedding-3-small", 2),
        ("realtime", "/v1/moderations", "omni-moderation-latest", 0),
    }
    assert all(entry["requests"] == 1 for entry in _ledger(own))


def test_errors_are_not_billed(own: Sandbox) -> None:
    """Bad requests, marks, faults before the call and refused keys cost nothing."""
    client = own.client()
    for text, body in (("[[fault:429]]", {}), ("[[fault:500]]", {}), ("x", {"max_tokens": 5})):
        with pytest.raises(openai.APIStatusError):
            _ask(client, text, **body)
    with pytest.raises(openai.AuthenticationError):
        _ask(own.client(api_key="sk-refused-1"))
    own.faults(http_drop={"route": "chat.completions", "times": 1})
    with pytest.raises(openai.APIConnectionError):
        _ask(client)
    assert _ledger(own) == []


@pytest.mark.parametrize(
    "faults",
    [
        {"http_drop": {"after_commit": True, "times": 1}},
        {"http_cut": {"times": 1}},
        {"http_status": {"after_commit": True, "times": 1, "status": 502}},
        {"http_delay": {"after_commit": True, "times": 1, "delay_s": 1}},
    ],
)
def test_lost_answer_is_billed(own: Sandbox, faults: dict[str, dict[str, Any]]) -> None:
    """Nobody got it and it costs all the same; asking again is billed again."""
    own.faults(**{name: {"route": "chat.completions"} | rule for name, rule in faults.items()})
    client = own.client(timeout=0.5)
    with pytest.raises(openai.APIError):
        _ask(client)
    assert _requests(own, "realtime") == 1
    _ask(client)
    assert _requests(own, "realtime") == 2


def test_answers_made_at_once_are_each_billed(own: Sandbox) -> None:
    """Many threads write one ledger."""
    client = own.client()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda at: _ask(client, f"question {at % 3}"), range(120)))
    assert [entry["requests"] for entry in _ledger(own)] == [120]


def test_batch_bills_the_rows_that_were_paid(own: Sandbox) -> None:
    """Rows that are lost or doubled later were paid once, rows that failed never."""
    client = own.client()
    faults: dict[str, Any] = {"row_status": [{"status": 500, "share": 0.2}, {"status": 0}]}
    wait(client, submit(client, rows(10), **faults))
    assert _ledger(own) == []
    faults = {"row_status": {"status": 400, "share": 0.3}, "row_missing": {"every": 2}}
    wait(client, submit(client, rows(10), row_twice={"every": 3}, row_foreign=True, **faults))
    assert _check_against_batches(own) == 7
    wait(client, submit(client, rows(4), no_files=True))
    assert _check_against_batches(own) == 11
    assert {entry["model"] for entry in _ledger(own)} == {MODEL}
    assert {entry["endpoint"] for entry in _ledger(own)} == {CHAT}


def test_requests_of_different_length_are_told_apart(own: Sandbox) -> None:
    """A long request may have a dearer price, so the sum would not do."""
    client = own.client()
    wait(client, submit(client, [row("a", "x" * 4000), row("b", "y" * 4000), row("c", "z")]))
    found = {entry["input_tokens"]: entry["requests"] for entry in _ledger(own)}
    assert found == {1004: 2, 5: 1}


def test_part_of_a_batch_is_billed_as_far_as_it_came(own: Sandbox) -> None:
    """An expired and a cancelled batch bill what they answered."""
    client = own.client()
    wait(client, submit(client, rows(10), cancel_after_share=0.5))
    wait(client, submit(client, rows(10), expire_after_share=0.3))
    assert _check_against_batches(own) == 8


def test_batch_killed_again_and_again_is_billed_once(start: Callable[..., Sandbox]) -> None:
    """Each life goes on where the last one's bills end, gently ended or not."""
    own = start(scale=1)
    batch = submit(own.client(), rows(400), validating_s=0, in_progress_s=2.5, finalizing_s=0)
    for reached, end in ((60, own.kill), (160, own.end), (260, own.kill)):
        _wait_until_paid(own, batch, reached)
        end()
        own.start()
    wait(own.client(), batch)
    assert _check_against_batches(own) == 400


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_row_recorded_but_not_counted_is_billed_by_the_next_life(
    own: Sandbox, is_cancelled: bool
) -> None:
    """A kill may come between a row's record and the count; a cancel before it changes nothing."""
    client = own.client()
    batch = submit(client, rows(10), stall_after_share=0.5, cancelling_s=FAST * 1000)
    _wait_until_paid(own, batch, 5)
    if is_cancelled:
        client.batches.cancel(batch.id)
        wait(client, batch, "cancelling")
    own.kill()
    _record_one_more(own.home / "runs" / f"{batch.id}.rows")
    own.start()
    _wait_until_paid(own, batch, 6)
    assert _check_against_batches(own) == 6
    own.advance(90_000)
    ended = wait(client, batch)
    assert len(lines(client, ended.output_file_id)) == 6


def _record_one_more(record: Path) -> None:
    """Write what a server that was killed at once would have left: the last row's twin."""
    known = record.read_bytes().split(b"\n")[:-1]
    numbers = {int(line.split(b" ", 3)[2]) for line in known}
    other = next(number for number in range(1, 11) if number not in numbers)
    head, status, _, rest = known[-1].split(b" ", 3)
    with record.open("ab") as target:
        target.write(b" ".join((head, status, str(other).encode(), rest)) + b"\n")


def test_torn_row_is_billed_once(start: Callable[..., Sandbox]) -> None:
    """A row whose record was lost with the machine is answered anew, and not billed anew."""
    own = start(scale=1)
    batch = submit(own.client(), rows(10), validating_s=0, stall_after_share=0.5)
    _wait_until_paid(own, batch, 5)
    own.kill()
    record = own.home / "runs" / f"{batch.id}.rows"
    record.write_bytes(record.read_bytes()[:-20])
    own.start()
    wait_until(lambda: record.read_bytes().count(b"\n") == 5)
    own.advance(86_401)
    wait(own.client(), batch)
    assert _check_against_batches(own) == 5


def test_ledger_outlives_the_server(start: Callable[..., Sandbox]) -> None:
    """Money spent stays spent."""
    own = start()
    _ask(own.client())
    wait(own.client(), submit(own.client(), rows(3)))
    before = _ledger(own)
    own.kill()
    own.start()
    assert _ledger(own) == before
    _ask(own.client())
    assert _requests(own, "realtime") == 2


def test_store_of_an_earlier_version_opens(start: Callable[..., Sandbox]) -> None:
    """A folder that was made before there was a ledger begins one, its batches untouched."""
    own = start()
    batch = wait(own.client(), submit(own.client(), rows(3)))
    own.end()
    with sqlite3.connect(own.home / "sandbox.sqlite3") as db:
        db.execute("DROP TABLE ledger")
    db.close()
    own.start()
    assert _ledger(own) == []
    assert own.client().batches.retrieve(batch.id).status == "completed"
    wait(own.client(), submit(own.client(), rows(2)))
    assert _requests(own, "batch") == 2
