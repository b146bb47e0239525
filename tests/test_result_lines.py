"""Result lines: every one gives one status, whatever its members hold."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_magic.records import Endpoint, Outcomes, RowStatus
from batch_magic.result_lines import Decoder, position_of, positions_of

RUN = "r1"


def answer(content: object, finish: str | None = "stop", **message: object) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "model": "m-2026",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": finish,
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
    }


def result(
    body: object, status: object = 200, custom_id: object = "r1-0", **members: object
) -> bytes:
    response = {"status_code": status, "request_id": "", "body": body}
    line = {"id": "b", "custom_id": custom_id, "response": response, "error": None, **members}
    return json.dumps(line).encode() + b"\n"


def decoded(block: bytes, positions: list[int] | None = None) -> Outcomes:
    (found,) = Decoder(run_id=RUN).outcomes(BytesIO(block), positions)
    return found


def one(block: bytes) -> tuple[RowStatus, str | None, str | None]:
    found = decoded(block)
    assert len(found.positions) == 1
    return RowStatus(found.statuses[0]), found.text[0], found.error[0]


@given(st.text(st.characters()))
def test_any_text_comes_back(text: str) -> None:
    """Escapes, separators, NUL, lone surrogates and emoji."""
    assert one(result(answer(text))) == (RowStatus.OK, text, None)


def test_position_of_reads_only_our_own_names() -> None:
    """Another run's row, or a name we never gave, is nobody's."""
    assert position_of("r1-12", "r1") == 12
    assert position_of("r1-0", "r1") == 0
    for name in (
        "r2-12",
        "r1-",
        "r1-01",
        "r1--1",
        "r1-1_0",
        "r1-٣",
        "r11-2",
        "r1-²",
        "",
        "r1-" + "9" * 99,
        "r1-1\n2",
        "r1-1\n",
    ):
        assert position_of(name, "r1") is None
        assert positions_of(["r1-3", name], "r1") == [3, None]
    assert positions_of(["r1-3", "r1-0"], "r1") == [3, 0]
    assert positions_of([], "r1") == []


def test_a_plain_answer() -> None:
    """All that is kept of an answered row."""
    found = decoded(b"\xef\xbb\xbf" + result(answer("hi")))
    assert (list(found.positions), list(found.text)) == ([0], ["hi"])
    assert (found.finish_reason[0], found.model[0]) == ("stop", "m-2026")
    assert (found.http_status[0], found.code[0], found.error[0]) == (200, None, None)
    usage = (found.usage_input, found.usage_cached, found.usage_output, found.usage_reasoning)
    assert [column[0] for column in usage] == [7, 3, 5, 2]


@pytest.mark.parametrize(
    ("block", "status", "text", "error"),
    [
        (result(answer("")), RowStatus.OK, "", None),
        (result(answer("so fa", "length")), RowStatus.TRUNCATED, "so fa", "token limit"),
        (result(answer("", "length")), RowStatus.TRUNCATED, "", "token limit"),
        (result(answer(None, "length")), RowStatus.TRUNCATED, None, "token limit"),
        (result(answer("x", "content_filter")), RowStatus.REFUSED, None, "content filter"),
        (result(answer(None, refusal="I\ncannot")), RowStatus.REFUSED, None, "I cannot"),
        (result(answer("x", refusal="")), RowStatus.OK, "x", None),
        (result(answer("x", "end_turn")), RowStatus.OK, "x", None),
        (result(answer("x", None)), RowStatus.OK, "x", None),
        (result(answer([{"type": "text", "text": "a"}, "b"])), RowStatus.OK, "ab", None),
        (result(answer([{"type": "refusal", "refusal": "no"}])), RowStatus.REFUSED, None, "no"),
        (result(answer(None)), RowStatus.UNPARSED, None, "no text"),
        (result(answer({"a": 1})), RowStatus.UNPARSED, None, "no text"),
        (result(answer("x", tool_calls=[])), RowStatus.OK, "x", None),
        (
            result(answer(None, "tool_calls", tool_calls=[{"function": {"name": "f"}}])),
            RowStatus.UNPARSED,
            None,
            "the model called a tool (f)",
        ),
        (result({"choices": []}), RowStatus.UNPARSED, None, "no choices"),
        (result({}), RowStatus.UNPARSED, None, "no choices"),
        (result(None), RowStatus.UNPARSED, None, "no choices"),
        (result({"choices": "x"}), RowStatus.UNPARSED, None, "no choices"),
        (result(json.dumps(answer("in a string"))), RowStatus.OK, "in a string", None),
        (result(answer("x"), 200.0), RowStatus.OK, "x", None),
        (result(answer("x"), "200"), RowStatus.OK, "x", None),
        (
            result({"error": {"message": "This\nmodel", "code": "context_length_exceeded"}}, 400),
            RowStatus.FAILED,
            None,
            "400 context_length_exceeded: This model",
        ),
        (
            result('{"error":{"message":"m","type":"t","code":null}}', 500),
            RowStatus.FAILED,
            None,
            "500 t: m",
        ),
        (result({"error": {"message": "m"}}), RowStatus.FAILED, None, "200: m"),
        (result("<html>bad gateway</html>", 502), RowStatus.FAILED, None, "502: <html>"),
        (result({}, 0), RowStatus.FAILED, None, "no HTTP answer (status 0)"),
        (result({}, None), RowStatus.FAILED, None, "unknown status"),
        (
            result(None, response=None, error={"code": "batch_expired", "message": "late"}),
            RowStatus.EXPIRED,
            None,
            "batch_expired: late",
        ),
        (
            result(None, response=None, error={"code": "batch_cancelled", "message": "c"}),
            RowStatus.CANCELLED,
            None,
            "batch_cancelled: c",
        ),
        (
            result(None, response=None, error={"code": "request_timeout", "message": "t"}),
            RowStatus.FAILED,
            None,
            "request_timeout: t",
        ),
        (result(None, response=None, error="plain words"), RowStatus.FAILED, None, "plain words"),
        (result(None, response=None), RowStatus.FAILED, None, "neither"),
        (b'{"custom_id":"r1-0"}', RowStatus.FAILED, None, "neither"),
    ],
)
def test_every_line_gives_one_status(
    block: bytes, status: RowStatus, text: str | None, error: str | None
) -> None:
    """Whatever a member holds, the row has its one outcome, and no "" in place of a null."""
    found = one(block)
    assert found[:2] == (status, text)
    assert (found[2] is None) == (error is None) == (status is RowStatus.OK)
    assert error is None or error in str(found[2])
    assert "\n" not in str(found[2])


def test_status_and_code_are_kept_for_retries() -> None:
    """Which failures may pass by themselves is decided by these two."""
    found = decoded(
        result({}, 0)
        + result({"error": {"code": 429, "message": "m"}}, 429)
        + result(None, response=None, error={"code": "request_timeout", "message": "t"})
    )
    assert list(found.http_status) == [0, 429, None]
    assert list(found.code) == [None, "429", "request_timeout"]


def test_lines_end_at_newlines_only_and_are_found_again() -> None:
    """U+2028 and a lone CR are text; offsets lead back to the raw line."""
    first = result(answer("a\u2028b\x85"), custom_id="r1-5").replace(b"\\u2028", "\u2028".encode())
    block = first + b"\n" + b"\r\n" + result({}, 500, "r1-3") + result(answer("z"))[:-1]
    found = decoded(block)
    assert list(found.positions) == [5, 3, 0]
    assert found.text[0] == "a\u2028b\x85"
    raw = [
        block[offset : offset + length]
        for offset, length in zip(found.offsets, found.lengths, strict=True)
    ]
    assert [json.loads(line)["custom_id"] for line in raw] == ["r1-5", "r1-3", "r1-0"]
    assert raw[2] == result(answer("z"))[:-1]


def test_strangers_and_garbage_are_counted_not_raised() -> None:
    """A bad record is reported by its number; the rows around it are read."""
    deep = b'{"custom_id":"r1-9","response":' + b"[" * 200_000
    block = b"".join(
        [
            result(answer("a"), custom_id="r1-1"),
            b"{not json}\n",
            b"[1]\n5\nnull\n",
            b'{"custom_id":7,"response":null}\n',
            b'{"response":null}\n',
            b"\xff\xfe\n",
            deep + b"\n",
            result(answer("b"), custom_id="other-1"),
            result({}, 500, "other-2"),
            result(answer("c"), custom_id="r1-1"),
        ]
    )
    found = decoded(block)
    assert list(found.positions) == [1, 1]
    assert list(found.text) == ["a", "c"]
    assert found.foreign == 2
    assert list(found.malformed) == [2, 3, 4, 5, 6, 7, 8, 9]


def test_given_positions_win_over_names() -> None:
    """Answers taken over from another run carry its names, and may carry none."""
    block = result(answer("a"), custom_id="old-9") + b"{}\n" + result({}, 500, "old-1")
    found = decoded(block, positions=[4, 5, 6])
    assert list(found.positions) == [4, 5, 6]
    assert (found.foreign, list(found.malformed)) == (0, [])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "error",
                    "code",
                    "usage",
                    "refusal",
                    "tool_calls",
                    "prompt_tokens",
                    "finish_reason",
                    "model",
                    "status_code",
                    "body",
                    "text",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(response=JSON, body=JSON, error=JSON, status=st.sampled_from([200, 0, 400, None, "x", 2e3]))
def test_no_line_raises(response: object, body: object, error: object, status: object) -> None:
    """A result line promises nothing; every row of ours comes out with one status."""
    block = result(body, status, error=error) + result(None, response=response, error=error)
    found = decoded(block)
    assert list(found.positions) == [0, 0]
    for name in ("finish_reason", "model", "code"):
        assert all(each is None or each.encode() for each in getattr(found, name))
    for name in ("usage_input", "usage_cached", "usage_output", "usage_reasoning"):
        assert all(each is None or 0 <= each < 2**63 for each in getattr(found, name))
    for state, said in zip(found.statuses, found.error, strict=True):
        assert (state == RowStatus.OK) == (said is None)


def test_a_line_of_megabytes() -> None:
    """Long answers are lines like others."""
    text = "가" * 2_000_000
    assert one(result(answer(text)))[1] == text


def test_a_long_file_is_counted_through() -> None:
    """Numbers and offsets go on where the lines before ended."""
    line = result(answer("x" * 1000), custom_id="r1-1")
    block = b"".join([b"\xef\xbb\xbf", *[line] * 2000, b"{\n", result({}, 500, "r1-7")])
    parts = list(Decoder(run_id=RUN).outcomes(BytesIO(block)))
    assert len(parts) > 1
    assert [number for part in parts for number in part.malformed] == [2001]
    assert sum(len(part.positions) for part in parts) == 2001
    last = parts[-1]
    raw = block[last.offsets[-1] : last.offsets[-1] + last.lengths[-1]]
    assert json.loads(raw)["custom_id"] == "r1-7"


# -- other endpoints ------------------------------------------------------------------------

VECTOR = "AACAPwAAAEA="  # 1.0 and 2.0
CUT = {"text": "y", "finish_reason": "length"}
FLAGGED = {"flagged": True, "categories": {"a": True}, "category_scores": {"a": 1}}


def said(text: str, **more: Any) -> dict[str, Any]:
    item = {"type": "message", "content": [{"type": "output_text", "text": text}]}
    return {"status": "completed", "output": [{"type": "reasoning"}, item], **more}


@pytest.mark.parametrize(
    ("endpoint", "body", "status", "text", "error"),
    [
        ("responses", said("yes"), "ok", "yes", None),
        ("responses", said("yes", output_text="no"), "ok", "yes", None),
        (
            "responses",
            said("ye", status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            "truncated",
            "ye",
            "at the token limit",
        ),
        (
            "responses",
            said("", status="incomplete", incomplete_details={"reason": "content_filter"}),
            "refused",
            None,
            "content filter",
        ),
        (
            "responses",
            {"status": "failed", "output": [], "error": {"code": "server_error", "message": "Oh."}},
            "failed",
            None,
            "Oh.",
        ),
        (
            "responses",
            {"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]},
            "refused",
            None,
            "No.",
        ),
        (
            "responses",
            {"output": [{"type": "function_call", "name": "look_up"}]},
            "unparsed",
            None,
            "called a tool (look_up)",
        ),
        ("responses", {"output": []}, "unparsed", None, "holds no text"),
        ("responses", {"output": None}, "unparsed", None, "holds no text"),
        ("completions", {"choices": [{"text": "yes"}]}, "ok", "yes", None),
        (
            "completions",
            {"choices": [{"text": "y", "finish_reason": "length"}]},
            "truncated",
            "y",
            "limit",
        ),
        ("completions", {"choices": []}, "unparsed", None, "holds no text"),
        ("embeddings", {"data": [{"embedding": VECTOR}]}, "ok", VECTOR, None),
        ("embeddings", {"data": [{"embedding": [1.0, 2]}]}, "ok", VECTOR, None),
        ("embeddings", {"data": [{"embedding": "no!"}]}, "unparsed", None, "holds no vector"),
        ("embeddings", {"data": [{"embedding": ["x"]}]}, "unparsed", None, "holds no vector"),
        ("embeddings", {"data": []}, "unparsed", None, "holds no vector"),
        (
            "moderations",
            {
                "results": [
                    {"flagged": True, "categories": {"a": True}, "category_scores": {"a": 1}}
                ]
            },
            "ok",
            '{"flagged":true,"categories":{"a":true},"scores":{"a":1}}',
            None,
        ),
        ("moderations", {"results": [{}]}, "unparsed", None, "holds no result"),
    ],
)
def test_answers_of_other_endpoints_are_read(
    endpoint: str, body: dict[str, Any], status: str, text: str | None, error: str | None
) -> None:
    """What is a success there, and what is only called 200."""
    line = {"custom_id": "r-0", "response": {"status_code": 200, "body": body}, "error": None}
    decoder = Decoder(run_id="r", endpoint=Endpoint[endpoint.upper()])
    (part,) = decoder.outcomes(BytesIO(json.dumps(line).encode()))
    assert RowStatus(part.statuses[0]).label == status
    assert part.text[0] == text
    assert (part.error[0] is None) is (error is None)
    assert error is None or error in (part.error[0] or "")


def test_tokens_are_read_by_either_names() -> None:
    """Responses count input and output, chat prompt and completion."""
    usage = {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 3},
    }
    body = said("yes", usage=usage)
    line = {"custom_id": "r-0", "response": {"status_code": 200, "body": body}}
    decoder = Decoder(run_id="r", endpoint=Endpoint.RESPONSES)
    (part,) = decoder.outcomes(BytesIO(json.dumps(line).encode()))
    tokens = (part.usage_input, part.usage_cached, part.usage_output, part.usage_reasoning)
    assert [list(one) for one in tokens] == [[5], [2], [7], [3]]


FIRST_USE = """
import sys, threading
from io import BytesIO
from batch_magic.result_lines import Decoder
from batch_magic.answers import Reader
from batch_magic.records import Shape
from batch_magic.strict_schema import inline_schema
sys.setswitchinterval(1e-6)
body = b'{"choices":[{"message":{"content":"a"}}]}'
line = b'{"custom_id":"r-0","response":{"status_code":200,"body":' + body + b'}}\\n'
shape = Shape(schema=inline_schema("a: x|y, b: int"))
start = threading.Barrier(8)
def read():
    start.wait()
    for _ in range(20):
        list(Decoder(run_id="r").outcomes(BytesIO(line * 50)))
        Reader(shape).values(['{"a":"x","b":1}'] * 50)
threads = [threading.Thread(target=read) for _ in range(8)]
[one.start() for one in threads]
[one.join() for one in threads]
"""


def test_several_jobs_may_be_read_at_once_from_the_first() -> None:
    """Types made by two threads at once ended the process, and the user's kernel with it."""
    subprocess.run([sys.executable, "-c", FIRST_USE], check=True, timeout=60)


@pytest.mark.parametrize("places", [[0, 2], [0, 0, 1], [1, 2], [0, None]])
def test_vectors_of_which_one_is_missing_are_no_answer(places: list[int | None]) -> None:
    """Nobody can tell whose vector it is that is not there."""
    data = [{"index": place, "embedding": [1.0, 2.0]} for place in places]
    body = {"data": data, "model": "m"}
    line = json.dumps(
        {"custom_id": "r-0", "response": {"status_code": 200, "body": body}, "error": None}
    ).encode()
    decoder = Decoder(run_id="r", endpoint="/v1/embeddings")
    (part,) = decoder.outcomes(BytesIO(line + b"\n"))
    assert list(part.statuses) == [int(RowStatus.UNPARSED)]
