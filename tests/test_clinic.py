"""The failure clinic: what is told of each cause, what it costs, and what is done about it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels import Kernel, kernel
from pictures import picture
from pydantic import BaseModel, field_validator

import batch_magic as bm
from batch_magic import diagnosis, session, settings, strict_schema
from batch_magic.answers import Reader
from batch_magic.case_sheet import case_html, clinic_html, clinic_text, going_words, question
from batch_magic.causes import cause_key
from batch_magic.cures import AGAIN, Cure, cure_of
from batch_magic.diagnosis import Case, Diagnosis, Example
from batch_magic.drafting import Options
from batch_magic.errors import CellError
from batch_magic.records import (
    Backend,
    Endpoint,
    Layout,
    Limits,
    Request,
    RowStatus,
    RunRecord,
    Shape,
    Snapshot,
    Span,
)

WORDS = ["", "[[fault:400:once]]", "[[fault:429:once]]", "", "[[say:no label||stub x: y]]", ""]
PROMPT = "Rate: {{ text }}"
CAP = {"max_completion_tokens": 50}


@pytest.fixture
def frame() -> pd.DataFrame:
    """24 rows of which four fail with 400, four with 429, and four do not fit the pattern."""
    texts = [f"review {n} {WORDS[n % 6]}" for n in range(24)]
    return pd.DataFrame({"text": texts, "stars": range(24)}, index=[5, 3, 3, 1] * 6)


def submit(frame: pd.DataFrame, **options: Any) -> bm.Run:
    given = {"model": "gpt-5-mini", "on": "sandbox", "out": "labelled", "retries": 0}
    return bm.submit(frame, PROMPT, **{**given, "parse": "stub {a}: {b}", **options})


def control(home: Path, path: str, body: object, method: str) -> Any:
    server = json.loads((home / "sandbox" / "server.json").read_text())
    url = server["url"].removesuffix("/v1") + f"/sandbox/{path}"
    sent = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, sent, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def statuses(run: bm.Run) -> dict[str, int]:
    return {status.label: n for status, n in run.snapshot().counts.items()}


# -- what is told ---------------------------------------------------------------------------


def test_causes_have_numbers_cures_and_examples(home: Path, frame: pd.DataFrame) -> None:
    """One table to read, one word to act: the number."""
    run = submit(frame)
    run.wait(timeout_s=60)
    errors = run.errors()
    assert errors.index.tolist() == [1, 2, 3]
    assert errors.index.name == "cause"
    assert errors["rows"].tolist() == [4, 4, 4]
    assert errors["status"].tolist() == ["failed", "failed", "unparsed"]
    assert errors["cure"].tolist()[0] == AGAIN
    assert "%gptbatch reparse labelled --parse" in errors["cure"].tolist()[2]
    assert (run.snapshot().fault or "").endswith(AGAIN), "the panel tells the cure, too"
    found = run.diagnosis()
    assert (found.rows, found.bad, len(found.cases)) == (24, 12, 3)
    last = found.cases[2]
    assert last.example is not None
    assert last.example.position == 4
    assert dict(last.example.values) == {"text": str(frame["text"].iloc[4]), "stars": "4"}
    assert last.example.prompt == (("user", f"Rate: {frame['text'].iloc[4]}"),)
    assert last.example.answer == "no label"
    assert [case.requests for case in found.cases] == [4, 4, 4]
    for case in found.cases:
        assert case.batch_usd is not None
        assert case.live_usd is not None
        assert 0 < case.batch_usd.low < case.live_usd.low, "a batch is half the price"
    told = clinic_text(found)
    assert "labelled: 12 of 24 rows without a good answer, 3 causes" in told
    assert "%gptbatch retry labelled --cause 2 [--live]" in told
    assert "free here, at OpenAI $" in told


def test_an_example_shows_every_message_as_it_was_sent(home: Path) -> None:
    """Who looks for what went wrong needs the system message and the lines as they were."""
    frame = pd.DataFrame({"text": ["a\n\n    b [[say:one\ntwo]]", "c" * 5_000]})
    body = "system:\nBe short.\nBe kind.\nuser:\nLook:\n![it]({{ photo }})\n{{ text }}"
    photos = frame.assign(photo="https://a.example/b.png")
    run = bm.submit(
        photos, body, model="gpt-5-mini", on="sandbox", out="seen", retries=0, parse="{a}|{b}"
    )
    run.wait(timeout_s=60)
    examples = [case.example for case in run.diagnosis().cases]
    (example,) = [one for one in examples if one is not None and one.position == 0]
    assert example.prompt is not None
    (first, said), (second, asked) = example.prompt
    assert (first, second, said) == ("system", "user", "Be short.\nBe kind.")
    assert asked.startswith("Look:\n[image: https://a.example/b.png]\na\n\n    b [[say")
    d = replace(clinic(), cases=(case(example=example),))
    html = clinic_html(d)
    assert "system, as sent" in html
    assert "Be short.\nBe kind." in html
    assert "white-space:pre-wrap" in html
    assert "system, as sent: Be short. ⏎ Be kind.; user, as sent: Look:" in clinic_text(d)


def test_of_many_messages_and_long_ones_the_rest_is_counted() -> None:
    """A dozen examples in the prompt, and a book as its text."""
    messages = [{"role": "user", "content": f"{n}"} for n in range(20)]
    messages.append({"role": "user", "content": "x" * 5_000})
    line = json.dumps({"custom_id": "r-0", "body": {"messages": messages}}).encode()
    told = diagnosis._prompt(line)
    assert told[:3] == (("user", "0"), ("and", "13 messages more"), ("user", "14"))
    assert told[-1] == ("user", f"{'x' * 1_000}… 4,000 more characters")


FAULTS: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"row_refused": True}, "refused", "the model will not answer this"),
    ({"row_filtered": True}, "refused", "the content filter stopped the answer"),
    ({"row_cut": True}, "truncated", "ask for a shorter answer"),
    ({"row_null": True}, "unparsed", "nothing to read in the answer"),
    ({"row_tool_calls": True}, "unparsed", "leave the tools out"),
    ({"row_missing": True}, "missing", "the service lost them: retry these"),
    ({"row_status": {"status": 503}}, "failed", "it passes by itself"),
    ({"row_status": {"status": "timeout"}}, "failed", "it passes by itself"),
    ({"row_status": {"status": 0}}, "failed", "it passes by itself"),
    ({"expire_after_share": 0.0}, "expired", "retry these, or live at once"),
    ({"cancel_after_share": 0.0}, "cancelled", "they were cut off"),
)


def test_each_way_to_fail_has_its_cure(
    home: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the service words them today: what is not recognised would be told to mend its row."""
    monkeypatch.setenv("BATCH_MAGIC_COLLECT_TIMEOUT_S", "0.3")
    submit(frame.head(1), out="first", live=True).wait(timeout_s=60)
    for number, (fault, status, cure) in enumerate(FAULTS):
        control(home, "faults", None, "DELETE")
        control(home, "faults", fault, "PUT")
        texts = pd.DataFrame({"text": [f"{number}"]})
        run = submit(texts, out=f"run_{number}", parse="", fresh=True)
        run.wait(timeout_s=60)
        (case,) = run.diagnosis().cases
        assert (case.status.label, cure in case.cure.words) == (status, True), (fault, case)


@pytest.mark.parametrize(
    ("error", "words", "may_pass"),
    [
        (
            "400 context_length_exceeded: This model's maximum context length is 8 tokens",
            "-m",
            False,
        ),
        ("429 rate_limit_exceeded: Request too large for gpt-5", "shorten", False),
        ("429 insufficient_quota: You exceeded your current quota", "account", True),
        ("400 content_policy_violation: rejected by the safety system", "reword", False),
        ("404 model_not_found: The model 'x' does not exist", "name another model", False),
        ("400 invalid_json_schema: Invalid schema for response_format", "schema", False),
        ("400 unsupported_parameter: Unsupported parameter: 'max_tokens'", "-p", False),
        ("there is no image file 'a.png'", "mend the image", False),
        ("its line has 300,000,000 bytes, a job holds 208,666,624", "shorten", False),
        ("its job was refused: invalid_request: a word nobody knows", "what the service", True),
        ("504 : Timed out generating response", "passes by itself", True),
        ("418 teapot: 503 cups", AGAIN, False),
    ],
)
def test_failures_of_the_real_service_are_recognised(
    error: str, words: str, may_pass: bool
) -> None:
    """By their codes where they have one; the sandbox cannot say them all."""
    cure = cure_of(record(), RowStatus.FAILED, error)
    assert words in cure.words
    assert cure.may_pass is may_pass


def test_a_cap_is_named_as_the_endpoint_has_it() -> None:
    """A parameter of another endpoint would be refused."""
    for endpoint, name in (
        (Endpoint.CHAT, "max_completion_tokens"),
        (Endpoint.RESPONSES, "max_output_tokens"),
        (Endpoint.COMPLETIONS, "max_tokens"),
    ):
        request = Request(endpoint, "m", "", params={name: 5})
        cure = cure_of(record(request=request), RowStatus.TRUNCATED, "stopped at the token limit")
        assert f"-p {name}=" in cure.words


class Lamp(BaseModel):
    """As a user writes one; its rule fails in a way that pydantic does not foresee."""

    label: Literal["good", "bad"]
    watts: int = 0

    @field_validator("watts")
    @classmethod
    def halved(cls, watts: int) -> int:
        return watts + 0 // (watts - 13)


@dataclass
class Bulb:
    """The same as a dataclass."""

    label: Literal["good", "bad"]


NO_JSON, WIDEN = "no schema can read that: retry these", "--schema X"
MISFITS = (
    ("not json at all", NO_JSON),
    ('{"label": "go', NO_JSON),
    ('{"label": "good"} {"label": "bad"}', NO_JSON),
    ('["good"]', NO_JSON),
    ('"good"', NO_JSON),
    ('{"label": "great", "watts": 1}', WIDEN),
    ('{"watts": 1}', WIDEN),
    ('{"label": 5, "watts": 1}', WIDEN),
    ('{"label": "good", "watts": {}}', WIDEN),
)


@pytest.mark.parametrize(("text", "cure"), MISFITS)
@pytest.mark.parametrize("model", [None, Lamp, Bulb])
def test_a_misfit_is_cured_by_what_can_read_it(text: str, cure: str, model: type | None) -> None:
    """A wider schema reads no plain text, and asking again is no need where a wider one does."""
    layout = schema_layout(model or Lamp)
    assert layout.shape is not None
    (said,) = Reader(layout.shape, model).misfits([text])
    if said is None:
        assert model is Bulb, "it knows no watts"
        return
    found = cure_of(record(layout=layout), RowStatus.UNPARSED, f"{said}; the answer: {text}")
    assert cure in found.words, said
    assert (WIDEN in found.words) is (cure == WIDEN), said


def test_a_misfit_of_the_users_own_rule_is_theirs_to_mend() -> None:
    """The schema is as wide as can be."""
    layout = schema_layout(Lamp)
    assert layout.shape is not None
    (said,) = Reader(layout.shape, Lamp).misfits(['{"label": "good", "watts": 13}'])
    cure = cure_of(record(layout=layout), RowStatus.UNPARSED, said or "")
    assert "mend the validator of your class" in cure.words


@pytest.mark.parametrize(
    "text", ["no words of it", "a: b c d", "stub 99999999999999999999: x", "stub x" + ": " * 9]
)
def test_a_misfit_of_a_pattern_is_cured_by_a_pattern(text: str) -> None:
    """Whatever text it is, some pattern reads it."""
    layout = Layout("answer", shape=Shape(pattern="stub {a:d}: {b}"))
    assert layout.shape is not None
    (said,) = Reader(layout.shape).misfits([text])
    cure = cure_of(record(layout=layout), RowStatus.UNPARSED, said or "")
    assert "--parse PATTERN" in cure.words


def schema_layout(model: type) -> Layout:
    return Layout("answer", shape=Shape(schema=strict_schema.json_schema_of(model, "X")))


def record(**changes: Any) -> RunRecord:
    facts: dict[str, Any] = {
        "run_id": "r",
        "name": "labelled",
        "backend": Backend("openai", "https://api.openai.com/v1"),
        "request": Request(Endpoint.CHAT, "m", PROMPT),
        "layout": Layout("answer"),
        "limits": Limits(),
        "created_at": 0.0,
        "rows": 3,
        "identity": "",
        "fingerprint": "",
    }
    return RunRecord(**(facts | changes))


# -- a retry of one cause -------------------------------------------------------------------


def test_retry_of_a_cause_sends_its_rows_alone(home: Path, frame: pd.DataFrame) -> None:
    """By the numbers that were told, although they have shifted since."""
    run = submit(frame)
    run.wait(timeout_s=60)
    run.errors()
    with pytest.raises(CellError, match="not both"):
        run.retry(["failed"], cause=1)
    run.retry(cause=2)
    run.wait(timeout_s=60)
    assert statuses(run) == {"ok": 16, "failed": 4, "unparsed": 4}
    assert len(run.snapshot().jobs) == 2
    run.retry(cause=[3, 1], live=True)
    result = run.wait(timeout_s=60)
    assert set(result["gpt_status"]) == {"ok"}
    assert result["stars"].tolist() == list(range(24))
    with pytest.raises(CellError, match="no row now that can be sent again"):
        run.retry(cause=1)
    with pytest.raises(CellError, match="has no cause 4; it has 1 to 3"):
        run.retry(cause=4)
    assert len(run.errors()) == 0
    with pytest.raises(CellError, match="no row now that can be sent again"):
        run.retry(cause=1)
    with pytest.raises(CellError, match="it has none"):
        submit(frame.head(1), out="well").retry(cause=1)
    with pytest.raises(CellError, match="the list of causes is empty"):
        run.retry(cause=[])


def test_a_cause_keeps_the_number_that_it_was_told_by(home: Path, frame: pd.DataFrame) -> None:
    """Whoever has read a number means what it said; a clinic looks again by itself meanwhile."""
    run = submit(frame)
    run.wait(timeout_s=60)
    table = run.errors()
    assert table.index.tolist() == [1, 2, 3]
    told = {n: run.result(drop=n)["stars"].tolist() for n in (2, 3)}
    run.retry(cause=1)
    run.wait(timeout_s=60)
    assert [case.number for case in run.diagnosis().cases] == [2, 3]
    later = run.errors()
    assert later.index.tolist() == [2, 3]
    assert later["error"].tolist() == table["error"].tolist()[1:]
    assert {n: run.result(drop=n)["stars"].tolist() for n in (2, 3)} == told
    assert "  2  4 rows" in clinic_text(run.diagnosis())
    session.session_for(str(home)).reparse("labelled", Options("labelled", parse="zzz {a}"))
    assert run.errors().index.tolist() == [3, 2]  # the commonest first, by the name it has
    with pytest.raises(CellError, match="has no cause 4; it has 1 to 3"):
        run.retry(cause=4)


@pytest.mark.parametrize("pause_s", [0.0, 0.1, 0.4])
def test_rows_are_paid_once_however_often_their_cause_is_asked_for(
    home: Path, pause_s: float
) -> None:
    """Answers that do not fit stand while they are asked anew: two clinics, two kernels, a cell."""
    texts = [f"review {n} {'[[say:no label]]' if n % 2 else ''}" for n in range(12)]
    run = submit(pd.DataFrame({"text": texts}))
    run.wait(timeout_s=60)
    (case,) = run.diagnosis().cases
    assert case.requests == 6
    control(home, "faults", {"in_progress_s": 500}, "PUT")
    before = requests_asked(home)
    other = session.Session(home)  # as in another kernel
    try:
        theirs = other.find("labelled")
        run.retry(cause=1)
        for one in (theirs, run, run):
            time.sleep(pause_s)
            with contextlib.suppress(CellError):  # under way by then, or not yet
                one.retry(cause=1)
        run.wait(timeout_s=60)
    finally:
        other.close()
    assert statuses(run) == {"ok": 6, "unparsed": 6}
    assert requests_asked(home) - before == 6


def test_a_cause_whose_rows_are_under_way_is_refused_in_one_line(home: Path) -> None:
    """And the clinic tells that a retry would send nothing now."""
    run = submit(pd.DataFrame({"text": ["a [[say:no label]]", "b"]}))
    run.wait(timeout_s=60)
    control(home, "faults", {"in_progress_s": 2_000}, "PUT")
    run.retry(cause=1)
    while not run.snapshot().counts.get(RowStatus.PENDING):
        time.sleep(0.02)
    with pytest.raises(CellError, match="no row now that can be sent again for that, or they are"):
        run.retry(cause=1)
    with pytest.raises(CellError, match="no row that is unparsed"):
        run.retry(["unparsed"])
    assert "nothing to send now" in clinic_text(run.diagnosis())
    run.cancel()


def requests_asked(home: Path) -> int:
    entries = control(home, "ledger", None, "GET")["entries"]
    return sum(entry["requests"] for entry in entries)


def test_rows_that_have_no_request_cannot_be_retried(home: Path, tmp_path: Path) -> None:
    """Their image could not be read; a retry that sends nothing is not offered."""
    photos = pd.DataFrame({"photo": [str(tmp_path / "a.png"), "https://a.example/b.png"]})
    body = "user:\nWhat is it?\n![it]({{ photo }})"
    run = bm.submit(photos, body, model="gpt-5-mini", on="sandbox", out="seen", retries=0)
    run.wait(timeout_s=60)
    (case,) = run.diagnosis().cases
    assert (case.rows, case.requests) == (1, 0)
    assert case.example is not None
    assert case.example.prompt is None
    assert "nothing to send now: no request was made for them" in clinic_text(run.diagnosis())
    assert "--cause" not in clinic_text(run.diagnosis())
    with pytest.raises(CellError, match="no row now that can be sent again"):
        run.retry(cause=1)


@pytest.mark.parametrize("first", [2, 3], ids=["without an answer", "with one that does not fit"])
def test_the_cap_counts_the_rows_of_the_cause_and_those_under_way(
    home: Path, frame: pd.DataFrame, first: int
) -> None:
    """One cause is within what is left, both are not: also when they are asked one by one."""
    whole = bm.estimate(frame, PROMPT, model="gpt-5-mini", on="sandbox", params=CAP)
    assert whole.batch_usd is not None
    assert whole.batch_usd.high is not None
    run = submit(frame, params=CAP, max_cost=whole.batch_usd.high)
    run.wait(timeout_s=60)
    cost = run.snapshot().cost
    assert cost is not None
    assert cost.paid_usd is not None
    cases = run.diagnosis().cases
    spans = [cases[number - 1].batch_usd for number in (1, first)]
    highs = [span.high for span in spans if span is not None and span.high is not None]
    assert len(highs) == 2
    most = cost.paid_usd + 1.3 * max(highs)  # room for either cause, not for both
    control(home, "faults", {"stall_after_share": 0.0}, "PUT")
    with pytest.raises(CellError, match="--max-cost is"):
        run.retry(cause=[1, first], max_cost=most)
    run.retry(cause=first, max_cost=most)
    while len(run.snapshot().jobs) < 2:
        time.sleep(0.02)
    with pytest.raises(CellError, match="--max-cost is"):
        run.retry(cause=1, max_cost=most)
    run.retry(cause=1, max_cost="any")
    run.cancel()


def test_a_click_is_leave_but_no_more_than_the_cap(
    home: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its question has told the price; a cap that somebody typed holds all the same."""
    monkeypatch.setenv("BATCH_MAGIC_CONFIRM_ABOVE_USD", "0.0000001")
    free = submit(frame, params=CAP, max_cost="any", out="free")
    asked = submit(frame.assign(text=frame["text"] + "!"), params=CAP, max_cost=0.02, out="asked")
    for run in (free, asked):
        run.wait(timeout_s=60)
    use = settings.from_environment({"BATCH_MAGIC_HOME": str(home)})
    mine = session.session_for(str(home))
    case = asked.diagnosis().cases[1]
    tight = replace(mine.journal.run(asked.run_id).request, max_cost_usd=0.0)
    mine.journal.reshape(replace(mine.journal.run(asked.run_id), request=tight), 0.0)
    with pytest.raises(CellError, match="--max-cost is"):
        mine.retry_cause(asked, case, use, live=False)
    mine.retry_cause(free, free.diagnosis().cases[1], use, live=False)
    free.wait(timeout_s=60)
    assert statuses(free) == {"ok": 16, "failed": 4, "unparsed": 4}


@pytest.mark.parametrize("live", [False, True], ids=["by batch", "live"])
def test_what_was_asked_about_is_the_leave(home: Path, live: bool) -> None:
    """Read by another shape, the cause has more rows than its question told: nothing is sent."""
    texts = [f"review {n} {'[[say:no label]]' if n % 5 == 0 else ''}" for n in range(20)]
    run = submit(pd.DataFrame({"text": texts}), params=CAP)
    run.wait(timeout_s=60)
    (told,) = run.diagnosis().cases
    assert told.requests == 4
    use = settings.from_environment({"BATCH_MAGIC_HOME": str(home)})
    mine = session.session_for(str(home))
    mine.reparse("labelled", Options("labelled", parse="zzz {a}"))
    (grown,) = run.diagnosis().cases
    assert (grown.key, grown.requests) == (told.key, 20)
    before = requests_asked(home)
    for case in (told, replace(told, requests=20)):  # as many requests, but dearer ones
        with pytest.raises(CellError, match=r"20 requests by now, up to .* were asked about"):
            mine.retry_cause(run, case, use, live=live)
    assert run.snapshot().is_ended
    mine.retry_cause(run, grown, use, live=live)
    run.wait(timeout_s=60)
    assert requests_asked(home) - before == 20


# -- a result without some rows -------------------------------------------------------------


def test_a_result_can_lack_the_rows_of_a_cause(home: Path, frame: pd.DataFrame) -> None:
    """The run keeps them: the next result has them all again."""
    run = submit(frame)
    whole = run.wait(timeout_s=60)
    run.errors()
    left = run.result(drop=[1, 3])
    kept = [n for n in range(24) if n % 6 not in (1, 4)]
    assert left["stars"].tolist() == kept
    assert left.index.tolist() == [frame.index[n] for n in kept]
    assert left.dtypes.equals(whole.dtypes)
    assert left.attrs["gptbatch"]["rows_dropped"] == 8
    assert "rows_dropped" not in whole.attrs["gptbatch"]
    assert len(run.result()) == 24
    changed = whole.sort_values("stars", ascending=False).assign(mine="x")
    (key,) = run.causes_of(2)
    again = run.without(changed, {key})
    assert again["stars"].tolist() == [n for n in range(23, -1, -1) if n % 6 != 2]
    assert "mine" in again.columns
    with pytest.raises(CellError, match="no column 'gpt_error' any more"):
        run.without(whole.drop(columns="gpt_error"), {key})


def test_rows_that_one_of_several_models_failed_are_dropped(
    home: Path, frame: pd.DataFrame
) -> None:
    """A row goes where one of its answers has the cause."""
    run = submit(frame.head(6), model="big, small", parse="")
    run.wait(timeout_s=60)
    errors = run.errors()
    small = errors.index[errors["model"] == "small"].tolist()
    assert run.result(drop=small)["stars"].tolist() == [0, 3, 4, 5]


ERRORS = [
    "400 a: 17",
    "400 a: 5",
    "429 b",
    None,
    "no label; the answer: 1",
    "no label; the answer: 2",
]


@given(
    st.lists(st.tuples(st.sampled_from(RowStatus), st.sampled_from(ERRORS)), max_size=30),
    st.sets(st.tuples(st.sampled_from(RowStatus), st.sampled_from(["400 a: 1", "429 b"]))),
    st.randoms(),
)
def test_rows_leave_a_frame_by_their_own_words(
    rows: list[tuple[RowStatus, str | None]], gone: set[tuple[RowStatus, str]], dice: Any
) -> None:
    """In whatever order they stand, just those of the causes go, and the others keep theirs."""
    dice.shuffle(rows)
    frame = pd.DataFrame(
        {
            "gpt_status": pd.Categorical([status.label for status, _ in rows]),
            "gpt_error": pd.array([error for _, error in rows], dtype="string"),
            "place": range(len(rows)),
        }
    )
    left = diagnosis.without(frame, record(), {cause_key(0, *one) for one in gone})
    causes = {(status, error[:5]) for status, error in gone}
    kept = [
        n for n, (status, error) in enumerate(rows) if (status, (error or "")[:5]) not in causes
    ]
    assert left["place"].tolist() == kept


# -- as it is drawn -------------------------------------------------------------------------

EVIL = "<script>alert(1)</script> $x^2$ and $y$ \u202eabc"


def case(**changes: Any) -> Case:
    facts: dict[str, Any] = {
        "number": 1,
        "key": "0" * 16,
        "status": RowStatus.FAILED,
        "model": "",
        "error": "429 rate_limit_exceeded: slow down",
        "rows": 1_200,
        "share": 0.1,
        "requests": 1_200,
        "cure": Cure("it passes by itself: retry these", True),
        "batch_usd": Span(1.0, 2.0),
        "live_usd": Span(2.0, 4.0),
        "example": None,
    }
    return Case(**(facts | changes))


def clinic(*cases: Case, **changes: Any) -> Diagnosis:
    facts: dict[str, Any] = {"is_sandbox": False, "is_live": False, "is_flex": False}
    bad = sum(one.rows for one in cases)
    return Diagnosis("r", "labelled", 12_000, bad, tuple(cases), **(facts | changes))


def test_what_strangers_wrote_is_text() -> None:
    """Errors, values, prompts and answers: no markup, no formula, no turning of the line."""
    example = Example(3, EVIL, ((EVIL, EVIL),), 2, ((EVIL, EVIL),), EVIL)
    html = clinic_html(clinic(case(error=EVIL, model=EVIL, example=example)), said=EVIL)
    assert not re.search(r"<(script|img|b)\b", html)
    assert html.count("&lt;script&gt;") >= 6
    assert "\u202e" not in html
    assert not re.search(r"\$(?!</span>)", html)
    assert "\u202e" not in clinic_text(clinic(case(error=EVIL, example=example)))


def test_a_question_names_rows_and_dollars() -> None:
    """What is confirmed is what was read, in the lane that the run takes."""
    d = clinic(case())
    assert question(d, case(), live=False) == (
        "Really send 1,200 rows again by batch? Price: $1.00 to $2.00. When they are in, `labelled`"
        " is the new result; no answer is replaced by a worse one."
    )
    assert "again live? Price: $2.00 to $4.00." in question(d, case(), live=True)
    unknown = case(batch_usd=None, live_usd=None)
    assert "Its price is not known." in question(d, unknown, live=False)
    box = clinic(case(), is_sandbox=True)
    assert "Price: free here, at OpenAI $1.00 to $2.00." in question(box, case(), live=False)
    live = clinic(case(), is_live=True)
    assert "again live? Price: $2.00 to $4.00." in question(live, case(), live=False)
    assert "batch" not in case_html(live, case())


def test_a_retry_in_vain_is_told_to_be() -> None:
    """The same request is sent; what lies in it fails again."""
    vain = case(cure=Cure("mend the row", may_pass=False))
    assert "most likely the same end" in case_html(clinic(vain), vain)
    assert "most likely" not in case_html(clinic(case()), case())


def test_a_clinic_of_thousands_of_causes_stays_small() -> None:
    """Some are drawn, the others are counted."""
    many = clinic(*(case(number=n, key=f"{n:016x}", rows=1, share=0.0001) for n in range(1, 5_001)))
    assert len(clinic_html(many)) < 40_000
    assert "and 4,988 causes more, 4,988 rows: `%gptbatch errors labelled`" in clinic_text(many)
    assert "under 1 %" in clinic_text(many)
    assert clinic_text(clinic()) == (
        "labelled: every row that was asked for and has come in has a good answer"
    )


def test_a_run_that_goes_on_is_told_of() -> None:
    """And where its panel is."""
    s: Snapshot = picture()
    assert "the run goes on: in progress" in going_words(s)
    assert "`%gptbatch status labelled`" in going_words(s)


# -- in a terminal --------------------------------------------------------------------------

TERMINAL = """
import pandas as pd
get_ipython().run_line_magic("load_ext", "batch_magic")
frame = pd.DataFrame({"text": ["a", "b [[fault:400]]"]})
line = "frame -o labelled -m gpt-5-mini --on sandbox --retries 0 --wait"
get_ipython().run_cell_magic("gptbatch", line, "{{ text }}")
get_ipython().run_line_magic("gptbatch", "clinic labelled")
get_ipython().run_line_magic("gptbatch", "take labelled --drop 1")
"""


def test_a_terminal_tells_the_same_as_text(home: Path, tmp_path: Path) -> None:
    """There is no page for buttons: each has its line to type."""
    command = [sys.executable, "-m", "IPython", "--no-banner", "-c", TERMINAL]
    words = os.environ | {"IPYTHONDIR": str(tmp_path / "ipython")}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=90, env=words)
    assert "labelled: 1 of 2 rows without a good answer, 1 cause" in ended.stdout, ended
    assert "leave them out: %gptbatch take labelled --drop 1" in ended.stdout
    assert "has 1 of 2 rows: the run keeps the others" in ended.stdout
    assert "VBox" not in ended.stdout


# -- in a kernel ----------------------------------------------------------------------------

FAST = {"BATCH_MAGIC_SANDBOX_TIME_SCALE": "60", "BATCH_MAGIC_POLL_FIRST_S": "0.1"}
SETUP = """%load_ext batch_magic
import pandas as pd, time
globals().pop("labelled", None)
words = ["", "[[fault:400:once]]", "[[fault:429:once]]", ""]
frame = pd.DataFrame({"text": [f"{mark} {n} {words[n % 4]}" for n in range(20)]})
"""
CELL = """%%gptbatch frame -o labelled -m gpt-5-mini --on sandbox --retries 0 --wait
{{ text }}"""
CLICK = """
import gc
from batch_magic.clinic import Clinic
mine = labelled.attrs["gptbatch"]["run_id"]
(shown,) = [one for one in gc.get_objects()
            if isinstance(one, Clinic) and one._diagnosis.run_id == mine]
def click(number, text):
    row = list(shown._rows.values())[number - 1]
    next(b for b in seen(row) if b.description.startswith(text)).click()
    return [row._question.value, *(b.description for b in seen(row))]
def seen(row):
    asking = row._asking.children[1].children if row._asking.layout.display is None else ()
    return [b for b in (*row._buttons.children, *asking) if not b.disabled]
def offers(number):
    return [b.description for b in seen(list(shown._rows.values())[number - 1])]
def notes(number):
    return list(shown._rows.values())[number - 1]._notes.value
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel with the extension loaded."""
    folder = tmp_path_factory.mktemp("project")
    with kernel(folder, FAST) as running:
        assert running.run("%load_ext batch_magic").error is None
        yield running
    from batch_magic.sandbox import launcher

    launcher.stop(folder / ".gptbatch" / "sandbox")


@pytest.fixture
def opened(notebook: Kernel, request: pytest.FixtureRequest) -> Kernel:
    """A run with two causes of five rows each, and its clinic."""
    setup = f"mark = {request.node.name!r}\n{SETUP}"
    for code in (setup, CELL, "%gptbatch clinic labelled", CLICK):
        seen = notebook.run(code)
        assert seen.error is None, seen
    return notebook


def until(notebook: Kernel, expression: str) -> None:
    """Run cells until something is so."""
    for _ in range(150):
        if notebook.run(f"print(bool({expression}))").printed.strip() == "True":
            return
        notebook.run("time.sleep(0.1)")
    raise AssertionError(notebook.run(f"print({expression}, shown._said)").text)


def test_the_text_of_a_clinic_is_what_a_saved_notebook_keeps(opened: Kernel) -> None:
    """Where there are no widgets the same is told, with what to type."""
    seen = opened.run("%gptbatch clinic labelled")
    assert "labelled: 10 of 20 rows without a good answer, 2 causes" in seen.text
    assert "%gptbatch retry labelled --cause 1 [--live]" in seen.text
    errors = opened.run("%gptbatch errors labelled").printed
    assert "%gptbatch clinic labelled shows what cures each" in errors


def test_a_click_retries_one_cause_and_the_name_gets_the_new_result(opened: Kernel) -> None:
    """It is asked about first, the clinic looks again by itself, and nobody has to fetch."""
    seen = opened.run("print(click(2, 'Retry these'))")
    assert "Really send 5 rows again by batch? Price: free here, at OpenAI" in seen.printed
    assert seen.printed.endswith("'Not now', 'Yes, send 5 rows']\n"), "and nothing else"
    seen = opened.run("print(click(2, 'Not now'))")
    assert seen.printed.endswith("'Retry these', 'Retry live', 'Drop']\n")
    opened.run("click(2, 'Retry these'); print(click(2, 'Yes, send'))")
    until(opened, "(labelled.gpt_status == 'ok').sum() == 15")
    until(opened, "len(shown._rows) == 1")
    assert "the new result is in `labelled`" in opened.run("print(shown._said)").printed
    seen = opened.run("click(1, 'Retry live'); click(1, 'Yes, send')")
    until(opened, "(labelled.gpt_status == 'ok').all() and len(shown._rows) == 0")
    assert "has a good answer" in opened.run("print(shown._title.value)").printed


def test_dropped_rows_stay_away_over_a_retry_and_come_back_with_take(opened: Kernel) -> None:
    """A cell that runs sees one thing from its first line to its last."""
    code = "before = labelled; click(1, 'Drop'); click(1, 'Yes, drop')\nprint(labelled is before)"
    assert opened.run(code).printed.strip() == "True"
    assert opened.run("print(len(labelled))").printed.strip() == "15"
    seen = opened.run("print(shown._said)")
    assert "`labelled` has 15 of 20 rows" in seen.printed
    opened.run("click(2, 'Retry these'); click(2, 'Yes, send')")
    until(opened, "(labelled.gpt_status == 'ok').all()")
    assert opened.run("print(len(labelled))").printed.strip() == "15"
    opened.run("%gptbatch take labelled")
    assert opened.run("print(len(labelled))").printed.strip() == "20"
    seen = opened.run("%gptbatch take labelled --drop 1\nprint(len(labelled))")
    assert seen.printed.splitlines()[-1] == "15"
    assert "`%gptbatch take labelled` brings them back" in seen.printed


def test_a_cause_that_was_dropped_says_so_until_its_rows_are_back(opened: Kernel) -> None:
    """In its own card, in the saved one, and in every clinic of the run; Drop is not offered."""
    opened.run("click(1, 'Drop'); click(1, 'Yes, drop')")
    told = opened.run("print(notes(1), offers(1))").printed
    assert "left out: " in told
    assert "%gptbatch take labelled" in told
    assert "['Retry these', 'Retry live']" in told, "there is no Drop"
    assert "left out: these rows" in opened.run("%gptbatch clinic labelled").text
    opened.run("%gptbatch take labelled")
    told = opened.run("print(notes(1), offers(1))").printed
    assert "left out" not in told
    assert "'Drop']" in told


def test_a_retry_that_brought_nothing_says_so(opened: Kernel) -> None:
    """The card that comes back as it was must not look as if nobody had clicked."""
    opened.run(
        "frame = pd.DataFrame({'text': [f'{mark} x {n} [[fault:400]]' for n in range(6)]})\n"
        "globals().pop('hopeless', None)"
    )
    opened.run(CELL.replace("-o labelled", "-o hopeless"))
    opened.run("%gptbatch clinic hopeless")
    opened.run(CLICK.replace("labelled", "hopeless"))
    opened.run("click(1, 'Retry these'); click(1, 'Yes, send')")
    told = opened.run("print(notes(1))").printed
    assert re.search(r"asked again: .*\d\d:\d\d, 6 rows; (all is looked at|this cause has)", told)
    until(opened, "'this cause has 6 rows now' in notes(1)")
    seen = opened.run("print(click(1, 'Retry these'))")
    assert "Yes, send 6 rows" in seen.printed, "and may be asked once more"


def test_a_name_that_holds_something_else_is_left_alone(opened: Kernel) -> None:
    """Whatever was clicked: the user's own value is worth more, and the way is told."""
    opened.run("mine = labelled = labelled.assign(own=1)")
    opened.run("click(2, 'Retry these'); click(2, 'Yes, send')")
    until(opened, "'was changed since' in shown._said")
    assert opened.run("print(labelled is mine)").printed.strip() == "True"
    opened.run("labelled = 5; click(1, 'Drop'); click(1, 'Yes, drop')")
    seen = opened.run("print(labelled, shown._said)")
    assert seen.printed.startswith("5 nothing was dropped")


def test_what_was_edited_in_place_is_not_thrown_away(opened: Kernel) -> None:
    """The object is the same: only a look at what is in it tells that it is the user's by now."""
    opened.run("labelled['human'] = 'my own'; labelled.loc[0, 'answer'] = 'corrected'")
    opened.run("mine = labelled; click(2, 'Retry these'); click(2, 'Yes, send')")
    until(opened, "'was changed since' in shown._said")
    seen = opened.run("print(labelled is mine, list(labelled.human)[:1], labelled.answer[0])")
    assert seen.printed.strip() == "True ['my own'] corrected"
    assert "`%gptbatch take labelled`" in opened.run("print(shown._said)").printed
    opened.run("%gptbatch take labelled")
    seen = opened.run("print((labelled.gpt_status == 'ok').sum(), 'human' in labelled)")
    assert seen.printed.strip() == "15 False"


def test_rows_that_are_dropped_leave_the_users_own_work(opened: Kernel) -> None:
    """And the frame stays theirs: a retry later does not put another in its place."""
    opened.run("labelled['human'] = 'my own'; labelled.loc[0, 'answer'] = 'corrected'")
    opened.run("click(1, 'Drop'); click(1, 'Yes, drop')")
    seen = opened.run("print(len(labelled), set(labelled.human), labelled.answer[0])")
    assert seen.printed.strip() == "15 {'my own'} corrected"
    opened.run("click(2, 'Retry these'); click(2, 'Yes, send')")
    until(opened, "'was changed since' in shown._said")
    assert opened.run("print(len(labelled), 'human' in labelled)").printed.strip() == "15 True"


def test_the_data_of_a_frame_that_is_gone_is_let_go(opened: Kernel) -> None:
    """What it was is kept to see edits by, no longer than the frame itself."""
    code = (
        "handover = get_ipython().find_line_magic('gptbatch').__self__._handover\n"
        "print(mine in handover._given)\nlabelled = None; gc.collect()\n"
        "print(mine in handover._given)"
    )
    opened.run("gc.collect()")
    assert opened.run(code).printed.split() == ["True", "False"]


def test_what_cannot_be_done_is_told_beside_its_button(opened: Kernel) -> None:
    """A click has no cell in which an error would be seen."""
    opened.run("%gptbatch retry labelled --cause 2\n%gptbatch wait labelled")
    seen = opened.run(
        "row = list(shown._rows.values())[0]\n"
        "from dataclasses import replace\n"
        "row._case = replace(row._case, key='f' * 16)\n"
        "click(1, 'Retry these'); click(1, 'Yes, send'); print(notes(1))"
    )
    assert "no row now that can be sent again" in seen.printed
    assert "Traceback" not in seen.text  # one line, and none from a logger


def test_a_clinic_looks_again_when_answers_are_read_anew(opened: Kernel) -> None:
    """By another shape rows have other causes: figures and questions of before are taken back."""
    opened.run("click(1, 'Retry these'); late = [*shown._rows.values()][0]._confirm")
    opened.run("%gptbatch reparse labelled --parse 'zzz {a}'")
    until(opened, "len(shown._rows) == 3")
    seen = opened.run("print(shown._title.value, click(1, 'Retry these'))")
    assert "20 of 20 rows without a good answer" in seen.printed
    assert "Really send 10 rows again" in seen.printed


def test_a_click_that_is_refused_makes_the_clinic_look_again(opened: Kernel) -> None:
    """Another kernel has read the answers anew: this one cannot have seen it."""
    other = (
        "from pathlib import Path; from batch_magic.drafting import Options\n"
        "from batch_magic.session import Session\n"
        "theirs = Session(Path('.gptbatch').resolve())\n"
        "theirs.reparse(mine, Options('labelled', parse='zzz {a}')); theirs.close()"
    )
    assert opened.run(other).error is None
    opened.run(
        "row = [*shown._rows.values()][0]; row._case = shown._diagnosis.cases[0]\n"
        "from dataclasses import replace; row._case = replace(row._case, requests=1)\n"
        "click(1, 'Retry these'); click(1, 'Yes, send')"
    )
    until(opened, "len(shown._rows) == 3")
    assert "were asked about" in opened.run("print(row._notes.value)").printed


def test_mistakes_in_numbers_are_one_line(opened: Kernel) -> None:
    """A typo must not send all failed rows."""
    for line, said in (
        ("retry labelled --cause one", "is no number of a cause; `%gptbatch errors NAME` has them"),
        ("retry labelled --cause ,", "is no number of a cause"),
        ("retry labelled --cause 7", "has no cause 7; it has 1 to 2"),
        ("retry labelled --cause 0", "has no cause 0"),
        ("retry labelled --cause 1 --status failed", "not both"),
        ("take labelled --drop x", "--drop 'x' is no number of a cause"),
        ("clinic", "write %gptbatch clinic NAME"),
        ("clinic nobody", "no run is called 'nobody'"),
    ):
        seen = opened.run(f"%gptbatch {line}")
        assert said in (seen.error or ""), (line, seen)
        assert len(seen.traceback) == 1
