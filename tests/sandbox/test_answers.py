"""What the stub says, through every door, whole and as a stream."""

import base64
import json
import math
import struct
from typing import Any

import jsonschema
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseCompletedEvent

from batch_magic.sandbox.answerers.schemas import fill_schema

from .conftest import Sandbox


def _chat(client: openai.OpenAI, text: str = "hello", **body: Any) -> Any:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]
    return client.chat.completions.create(**({"model": "gpt-5-mini", "messages": messages} | body))


def test_stub_names_itself_and_the_question(client: openai.OpenAI) -> None:
    """An answer nobody can take for a model's, and that tells its row from every other."""
    first, again, other = _chat(client, "a  b"), _chat(client, "a  b"), _chat(client, "a b")
    assert first.model == "sandbox-stub"
    assert first.choices[0].message.content.startswith("stub ")
    assert first.choices[0].message.content.endswith(": a b")
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.choices[0].message.content != other.choices[0].message.content


def test_limit_cuts_with_finish_reason_length(client: openai.OpenAI) -> None:
    """A client must tell a cut answer from a whole one."""
    answer = _chat(client, "x" * 100, max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_n_and_stop_are_honoured(client: openai.OpenAI) -> None:
    """Several choices, and an end before the mark."""
    answer = _chat(client, "one|two", n=3, stop="|")
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert all(choice.message.content.endswith("one") for choice in answer.choices)


def test_chat_stream_is_the_same_answer(client: openai.OpenAI) -> None:
    """Third-party clients stream; the pieces add up and usage comes when asked for."""
    whole = _chat(client).choices[0].message.content
    pieces, usage = [], None
    for event in _chat(client, stream=True, stream_options={"include_usage": True}):
        usage = event.usage or usage
        pieces += [choice.delta.content or "" for choice in event.choices]
    assert "".join(pieces) == whole
    assert usage is not None


def test_responses_stream_is_the_same_answer(client: openai.OpenAI) -> None:
    """The typed events end in the whole response."""
    whole = client.responses.create(model="gpt-5-mini", input="hello")
    events = list(client.responses.create(model="gpt-5-mini", input="hello", stream=True))
    assert isinstance(events[-1], ResponseCompletedEvent)
    assert events[-1].response.output_text == whole.output_text
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text


def test_cut_response_is_incomplete(client: openai.OpenAI) -> None:
    """On /v1/responses HTTP 200 with `incomplete` is not a success."""
    answer = client.responses.create(model="gpt-5-mini", input="x" * 99, max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_completions_answer_each_prompt(client: openai.OpenAI) -> None:
    """The legacy endpoint takes several prompts at once."""
    answer = client.completions.create(model="m", prompt=["one", "two"], max_tokens=50)
    assert [choice.text.rsplit(": ", 1)[1] for choice in answer.choices] == ["one", "two"]


def test_embeddings_are_unit_vectors_called_what_they_are(client: openai.OpenAI) -> None:
    """Hash vectors are no model's; the same text has the same one, in both encodings."""
    answer = client.embeddings.create(model="e", input=["a", "b", "a"], dimensions=64)
    first, second, third = (item.embedding for item in answer.data)
    assert answer.model == "sandbox-hash-vectors"
    assert len(first) == 64
    assert math.isclose(sum(value * value for value in first), 1, rel_tol=1e-5)
    assert first == third != second
    packed: Any = client.with_raw_response.embeddings.create(
        model="e", input="a", dimensions=64, encoding_format="base64"
    )
    text = json.loads(packed.text)["data"][0]["embedding"]
    unpacked = struct.unpack("<64f", base64.b64decode(text))
    assert unpacked == pytest.approx(first, abs=1e-6)


def test_moderation_objects_to_its_mark_only(client: openai.OpenAI) -> None:
    """A deterministic flag for tests of both branches."""
    answer = client.moderations.create(input=["fine", "not [[flag]] fine"])
    assert [result.flagged for result in answer.results] == [False, True]


def test_models_are_listed_with_the_own_names(client: openai.OpenAI) -> None:
    """A plausible set, and the names that answers carry."""
    names = [model.id for model in client.models.list()]
    assert {"gpt-5-mini", "sandbox-stub", "sandbox-hash-vectors"} <= set(names)
    assert client.models.retrieve("gpt-5-mini").id == "gpt-5-mini"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nonexistent-1")
    with pytest.raises(openai.NotFoundError) as caught:
        _chat(client, model="nonexistent-1")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"max_tokens": 5}, "max_tokens", "unsupported_parameter"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": [{"role": "boss", "content": ""}]}, "messages[0].role", "invalid_value"),
        ({"max_completion_tokens": 10**6}, "max_completion_tokens", "context_length_exceeded"),
        ({"response_format": {"type": "json_object"}}, "messages", None),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    ],
)
def test_bad_requests_are_refused(
    client: openai.OpenAI, change: dict[str, Any], param: str, code: str | None
) -> None:
    """The mistakes a real model refuses are refused here, with param and code."""
    with pytest.raises(openai.BadRequestError) as caught:
        _chat(client, **change)
    assert (caught.value.param, caught.value.code) == (param, code)


def _format(schema: dict[str, Any], name: str = "answer") -> dict[str, Any]:
    inner = {"name": name, "strict": True, "schema": schema}
    return {"type": "json_schema", "json_schema": inner}


CLOSED = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "score": {"type": "integer", "minimum": 3}},
    "required": ["mood", "score"],
    "additionalProperties": False,
}


def test_schema_is_honoured_through_both_doors(client: openai.OpenAI) -> None:
    """chat nests the schema, responses does not; the answer is JSON of it either way."""
    chat = _chat(client, response_format=_format(CLOSED)).choices[0].message.content
    jsonschema.validate(json.loads(chat), CLOSED)
    flat: Any = {"type": "json_schema", "name": "answer", "strict": True, "schema": CLOSED}
    answer = client.responses.create(model="m", input="hello", text={"format": flat})
    jsonschema.validate(json.loads(answer.output_text), CLOSED)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({**CLOSED, "additionalProperties": {"type": "string"}}, "additionalProperties"),
        ({**CLOSED, "required": ["mood"]}, "Missing 'score'"),
        ({"type": "array", "items": {"type": "string"}}, "object"),
        (
            {
                **CLOSED,
                "properties": {**CLOSED["properties"], "x": {"oneOf": []}},  # type: ignore[dict-item]
                "required": ["mood", "score", "x"],
            },
            "oneOf",
        ),
    ],
)
def test_strict_mode_refuses_what_the_real_one_does(
    client: openai.OpenAI, schema: dict[str, Any], words: str
) -> None:
    """A schema generator's slips must fail here, not in a paid batch."""
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        _chat(client, response_format=_format(schema))
    assert caught.value.param == "response_format"


def test_recursive_schema_ends(client: openai.OpenAI) -> None:
    """$ref to the root is allowed and must not run for ever."""
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
        "required": ["name", "next"],
        "additionalProperties": False,
    }
    text = _chat(client, response_format=_format(schema)).choices[0].message.content
    jsonschema.validate(json.loads(text), schema)


_LEAVES = st.one_of(
    st.just({"type": "string"}),
    st.builds(lambda low, span: {"type": "string", "minLength": low, "maxLength": low + span},
              st.integers(0, 40), st.integers(0, 40)),
    st.builds(lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
              st.integers(-50, 50), st.integers(0, 50)),
    st.builds(lambda low: {"type": "integer", "exclusiveMinimum": low}, st.integers(-50, 50)),
    st.builds(lambda low, span: {"type": "number", "minimum": low, "maximum": low + span},
              st.floats(-50, 50), st.floats(0, 50)),
    st.builds(lambda high: {"type": "number", "exclusiveMaximum": high}, st.integers(-50, 50)),
    st.just({"type": ["string", "null"]}),
    st.just({"type": "boolean"}),
    st.just({"const": 7}),
    st.builds(lambda items: {"enum": items}, st.lists(st.text(), min_size=1)),
    st.sampled_from(
        [{"type": "string", "pattern": pattern} for pattern in
         (r"^[A-Z]{2}\d{3}$", r"^(red|green)-\w+$", r"^[^aeiou]{4}$", r"^a?b*c+.$")]
    ),
    st.sampled_from([{"type": "string", "format": name} for name in ("date", "email", "ipv4")]),
)  # fmt: skip


def _objects(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.text(min_size=1), children, max_size=4).map(
        lambda properties: {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    )


def _arrays(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda items, low, span: {
            "type": "array", "items": items, "minItems": low, "maxItems": low + span
        },
        children,
        st.integers(0, 3),
        st.integers(0, 3),
    )  # fmt: skip


_SCHEMAS = st.recursive(
    _LEAVES,
    lambda children: st.one_of(
        _objects(children),
        _arrays(children),
        st.lists(children, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(schema=_SCHEMAS, seed=st.text())
def test_stub_values_satisfy_any_schema(schema: dict[str, Any], seed: str) -> None:
    """Whatever the schema, the stub's value is valid and the same each time."""
    value = fill_schema(schema, seed)
    jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())
    assert value == fill_schema(schema, seed)


def test_server_with_a_stub_says_so(shared: Sandbox) -> None:
    """The panel shows who answers; it asks here."""
    answerer = shared.control("status")["answerer"]
    assert (answerer["kind"], answerer["model"]) == ("stub", "sandbox-stub")
