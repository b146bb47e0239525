"""Request lines: what is paid for byte by byte, their identity, and where a shard is cut."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_magic.errors import CellError
from batch_magic.packing import Packer, pick
from batch_magic.records import Lines, Message, Parts, Rendered, Slot, Value
from batch_magic.wire import CHAT, Encoder, check_one_text, endpoint_path, inputs_of, tail_digest

RUN = "r1"
USER = (Message("user", (Slot(0),)),)


def lines_of(
    texts: Sequence[str] | Sequence[bytes],
    messages: tuple[Message, ...] = USER,
    params: Mapping[str, Any] | None = None,
) -> Lines:
    encoder = Encoder(run_id=RUN, endpoint=CHAT, model="m", params=params or {}, messages=messages)
    return encoder.encode(Rendered(range(len(texts)), (texts,), [], 0))


def data_of(lines: Lines) -> list[bytes]:
    """The lines one by one."""
    ends = list(accumulate(lines.sizes, initial=0))
    assert ends[-1] == len(lines.data)
    return [lines.data[start:end] for start, end in pairwise(ends)]


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", {"model": "m", "messages": [{"role": "user", "content": "Hi A"}], "seed": 1}),
        ("responses", {"model": "m", "input": [{"role": "user", "content": "Hi A"}], "seed": 1}),
        ("completions", {"model": "m", "prompt": "Hi A", "seed": 1}),
        ("embeddings", {"model": "m", "input": "Hi A", "encoding_format": "base64", "seed": 1}),
        ("moderations", {"model": "m", "input": "Hi A", "seed": 1}),
    ],
)
def test_each_endpoint_gets_the_body_that_it_takes(endpoint: str, body: dict[str, Any]) -> None:
    """Word for word: a member too many fails every row."""
    path, messages = endpoint_path(endpoint), (Message("user", ("Hi ", Slot(0))),)
    encoder = Encoder(run_id=RUN, endpoint=path, model="m", params={"seed": 1}, messages=messages)
    (line,) = encoder.encode(Rendered([7], (["A"],), [], 0)).data.splitlines()
    expected = {"custom_id": f"{RUN}-7", "method": "POST", "url": path, "body": body}
    assert json.loads(line) == expected


def bodies_of(endpoint: str, message: Message, slots: Any, **params: Any) -> list[Any]:
    """The bodies of rows with these slots, as they are read at the other end."""
    path = endpoint_path(endpoint)
    encoder = Encoder(run_id=RUN, endpoint=path, model="m", params=params, messages=(message,))
    lines = encoder.encode(Rendered(range(len(slots[0])), slots, [], 0))
    return [json.loads(line)["body"] for line in lines.data.splitlines()]


TEXT_AND_IMAGE = (("text", 'a "b"\n'), ("image", "https://a.org/b.png"))


@pytest.mark.parametrize(
    ("endpoint", "content"),
    [
        (
            "chat",
            [
                {"type": "text", "text": 'a "b"\n'},
                {"type": "image_url", "image_url": {"url": "https://a.org/b.png"}},
            ],
        ),
        (
            "responses",
            [
                {"type": "input_text", "text": 'a "b"\n'},
                {"type": "input_image", "image_url": "https://a.org/b.png"},
            ],
        ),
    ],
)
def test_images_are_parts_of_the_content(endpoint: str, content: list[Any]) -> None:
    """Each endpoint has words of its own for them; a row without any has a text."""
    slots = ([TEXT_AND_IMAGE, ()],)
    bodies = bodies_of(endpoint, Message("user", (Parts(0),)), slots)
    member = "messages" if endpoint == "chat" else "input"
    assert [body[member][0]["content"] for body in bodies] == [content, ""]


def test_images_go_where_they_are_taken() -> None:
    """Moderations judges them with the text; embeddings and completions would refuse the row."""
    message = Message("user", (Parts(0),))
    (body,) = bodies_of("moderations", message, ([TEXT_AND_IMAGE],))
    assert [part["type"] for part in body["input"]] == ["text", "image_url"]
    for endpoint in ("embeddings", "completions"):
        with pytest.raises(CellError, match=f"{endpoint} takes no images"):
            check_one_text(endpoint_path(endpoint), (message,))


def test_a_row_has_parameters_of_its_own() -> None:
    """A row without a value leaves the parameter out; within another one it is null."""
    slots = (["A", "B"], ["0.5", ""], ['"low"', ""])
    params = {
        "temperature": Value(1),
        "seed": 1,
        "reasoning": {"effort": Value(2), "n": [Value(1)]},
    }
    one, other = bodies_of("chat", USER[0], slots, **params)
    assert one["temperature"] == 0.5
    assert one["reasoning"] == {"effort": "low", "n": [0.5]}
    assert "temperature" not in other
    assert other["reasoning"] == {"effort": None, "n": [None]}
    assert [one["seed"], other["seed"]] == [1, 1]


def test_a_line_of_several_inputs_counts_for_as_many() -> None:
    """A job of embeddings holds 50,000 inputs; a list of tokens is one."""
    path, message = endpoint_path("embeddings"), Message("user", (Value(0),))
    encoder = Encoder(run_id=RUN, endpoint=path, model="m", params={}, messages=(message,))
    given = ['["a","b"]', '"a"', "[1,2,3]", '["c"]', "[[1],[2]]"]
    lines = encoder.encode(Rendered(range(5), (given,), [], 0))
    assert inputs_of(lines) == [2, 1, 1, 1, 2]


@pytest.mark.parametrize("endpoint", ["completions", "embeddings", "moderations"])
def test_roles_are_refused_where_there_are_none(endpoint: str) -> None:
    """A system line would be sent as text, or not at all."""
    path = endpoint_path(endpoint)
    for messages in ((Message("system", ("a",)),), (Message("user", ("a",)),) * 2):
        with pytest.raises(CellError, match=f"{endpoint} takes one text and knows no roles"):
            Encoder(run_id=RUN, endpoint=path, model="m", params={}, messages=messages)


def digests_of(lines: Lines) -> list[bytes]:
    return [lines.digests[at : at + 16] for at in range(0, len(lines.digests), 16)]


def test_a_line_byte_for_byte() -> None:
    """What is paid for is exactly this; a change here changes every identity."""
    messages = (Message("system", ('Be "kind".',)), Message("user", ("Q: ", Slot(0), "\n?")))
    (line,) = data_of(lines_of(["한\n"], messages, {"temperature": 0, "stop": ["a"]}))
    assert line.decode() == (
        '{"custom_id":"r1-0","method":"POST","url":"/v1/chat/completions","body":{"model":"m",'
        '"messages":[{"role":"system","content":"Be \\"kind\\"."},'
        '{"role":"user","content":"Q: 한\\n\\n?"}],"temperature":0,"stop":["a"]}}\n'
    )


AWKWARD = ["\ud800", "a\udfffb\u2028", "\x00\x85\u2029", "\x01\x1f\x7f", '\t\r\\"', "{{}}%s", ""]


@given(st.lists(st.text(st.characters()) | st.sampled_from(AWKWARD), max_size=4))
def test_any_text_goes_out(texts: list[str]) -> None:
    """Escapes, separators, NUL, emoji and what UTF-8 cannot carry."""
    messages = (Message("user", ("<", Slot(0), ">")),)
    lines = data_of(lines_of(texts, messages))
    assert len(lines) == len(texts)
    for text, line in zip(texts, lines, strict=True):
        assert line.count(b"\n") == 1
        assert json.loads(line)["body"]["messages"][0]["content"] == f"<{text}>"


@given(st.lists(st.text(), max_size=4))
def test_text_and_its_utf8_are_the_same_request(texts: list[str]) -> None:
    """How pandas holds a column must not decide what is paid for twice."""
    assert lines_of(texts) == lines_of([text.encode() for text in texts])


def test_constant_text_may_be_awkward_too() -> None:
    """A system message is written once, by other code."""
    for text in AWKWARD:
        (line,) = data_of(lines_of(["a"], (Message("user", (text, Slot(0))),)))
        assert json.loads(line)["body"]["messages"][0]["content"] == text + "a"


def test_identity_is_all_but_the_custom_id() -> None:
    """The same request has the same digest in every run, row and shard."""
    lines = lines_of(["a", "b", "a"])
    first, second, third = digests_of(lines)
    assert first == third != second
    assert [tail_digest(line) for line in data_of(lines)] == [first, second, third]
    assert tail_digest(data_of(lines)[0].replace(b'"r1-0"', b'"other-12"')) == first
    assert len(first) == 16
    long = lines_of(["a"], (Message("system", ("s" * 9000,)), *USER))
    assert tail_digest(long.data) == long.digests
    with pytest.raises(ValueError, match="not a request line"):
        tail_digest(b'{"method":"POST"}')


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"stream": True}, "refuses streaming"),
        ({"stream": False}, "refuses streaming"),
        ({"model": "x"}, "-m"),
        ({"messages": []}, "body"),
        ({"n": 2}, "one answer per row"),
        ({"top_p": float("nan")}, "JSON"),
        ({"x": object()}, "JSON"),
    ],
)
def test_parameters_that_no_request_may_hold(params: dict[str, Any], why: str) -> None:
    """Each would fail 50,000 rows, or lose answers that were paid for."""
    with pytest.raises(CellError, match=why):
        lines_of(["a"], params=params)
    lines_of(["a"], params={"n": 1, "seed": 10**30})


def test_endpoints_are_known_by_name_and_path() -> None:
    """An unknown one is the user's mistake."""
    assert endpoint_path("chat") == endpoint_path("/v1/chat/completions") == "/v1/chat/completions"
    assert endpoint_path("responses") == "/v1/responses"
    with pytest.raises(CellError, match="'chats' is not known; use one of 'chat', 'responses'"):
        endpoint_path("chats")


# --- cutting --------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(1, 12), max_size=8), max_size=5),
    st.integers(1, 6),
    st.integers(1, 20),
)
def test_shards_keep_limits_and_order(sizes: list[list[int]], rows: int, size: int) -> None:
    """No shard breaks a limit, none is cut early, every line is in one or told apart."""
    packer, shards, oversize, position = Packer(max_rows=rows, max_bytes=size), [], [], 0
    for chunk in sizes:
        places = list(range(position, position + len(chunk)))
        position += len(chunk)
        packed = packer.pack(Lines(places, b"x" * sum(chunk), chunk, bytes(16 * len(chunk))))
        oversize += packed.oversize
        for part in packed.parts:
            assert len(part.lines.data) == sum(part.lines.sizes)
            assert len(part.lines.digests) == 16 * len(part.lines.sizes)
            if part.opens:
                shards.append([])
            shards[-1] += zip(part.lines.positions, part.lines.sizes, strict=True)
    every = [n for chunk in sizes for n in chunk]
    assert oversize == [(i, n) for i, n in enumerate(every) if n > size]
    assert [e for shard in shards for e in shard] == [
        (i, n) for i, n in enumerate(every) if n <= size
    ]
    for shard in shards:
        assert 0 < len(shard) <= rows
        assert sum(n for _, n in shard) <= size
    for shard, after in pairwise(shards):
        assert len(shard) == rows or sum(n for _, n in shard) + after[0][1] > size


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), max_size=6), max_size=5),
    st.integers(1, 12),
    st.integers(30, 90),
)
def test_shards_keep_the_limit_of_what_is_counted(
    chunks: list[list[tuple[int, int]]], rows: int, size: int
) -> None:
    """Lines that count for several fill a shard sooner; none is lost."""
    counts = {n: count for n, (_, count) in enumerate(one for chunk in chunks for one in chunk)}
    packer = Packer(
        max_rows=rows, max_bytes=size, count=lambda lines: [counts[n] for n in lines.positions]
    )
    shards: list[list[int]] = []
    sizes: list[int] = []
    first = 0
    for chunk in chunks:
        positions = list(range(first, first + len(chunk)))
        first += len(chunk)
        data = b"".join(b"x" * (length - 1) + b"\n" for length, _ in chunk)
        lines = Lines(positions, data, [length for length, _ in chunk], b"d" * 16 * len(chunk))
        for part in packer.pack(lines).parts:
            if part.opens:
                shards.append([])
                sizes.append(0)
            shards[-1] += part.lines.positions
            sizes[-1] += len(part.lines.data)
    assert [n for shard in shards for n in shard] == list(range(first))
    for shard, length in zip(shards, sizes, strict=True):
        assert length <= size
        assert len(shard) == 1 or sum(counts[n] for n in shard) <= rows


def test_picked_lines_stay_whole() -> None:
    """What belongs to a line goes with it."""
    lines = lines_of(["a", "bb", "ccc"])
    some = pick(lines, [2, 0])
    assert list(some.positions) == [2, 0]
    assert data_of(some) == [data_of(lines)[2], data_of(lines)[0]]
    assert digests_of(some) == [digests_of(lines)[2], digests_of(lines)[0]]
    assert pick(lines, []) == Lines([], b"", [], b"")
