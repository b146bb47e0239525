"""batchlane: a client with HTTP code of its own, on httpx and without the official SDK."""

from dataclasses import replace
from pathlib import Path

import batchlane
import pytest
from batchlane.adapters import openai_shaped
from questions import CHAT_MODEL, check_answers, check_in_order, questions


@pytest.fixture(autouse=True)
def _rows_at_the_sandbox(sandbox: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table of providers is the only place of a base URL: there is no option to set one."""
    row = replace(openai_shaped.ROWS["openai"], base_url=sandbox)
    monkeypatch.setitem(openai_shaped.ROWS, "openai", row)


def test_batchlane_maps_prompts_to_their_answers(tmp_path: Path) -> None:
    """map() submits, polls and joins, with a checkpoint as its manual advises."""
    asked = list(questions().values())
    answers = batchlane.map(
        f"openai/{CHAT_MODEL}",
        asked,
        system="Answer.",
        checkpoint=tmp_path / "checkpoint.jsonl",
        poll_interval=0.1,
        timeout=20,
    )
    check_in_order(asked, answers)


def test_batchlane_gets_every_answer_of_the_responses_endpoint() -> None:
    """run() with native Responses inputs pairs every line with its result."""
    asked = questions()
    lines = [
        batchlane.BatchLine(key, f"openai/{CHAT_MODEL}", input=text) for key, text in asked.items()
    ]
    pairs = batchlane.run(lines, endpoint="responses", poll_interval=0.1, timeout=20)
    check_answers(asked, {line.custom_id: batchlane.answer_text(got) for line, got in pairs})


def test_batchlane_lists_and_cancels() -> None:
    """A job that was just submitted is the first of the list and can be cancelled."""
    line = batchlane.BatchLine("one", f"openai/{CHAT_MODEL}", [{"role": "user", "content": "why?"}])
    handle = batchlane.submit([line])
    assert next(batchlane.list_jobs("openai")).job_id == handle.job_id
    batchlane.cancel(handle)
    assert batchlane.wait(handle, poll_interval=0.1, timeout=20).state == "cancelled"
