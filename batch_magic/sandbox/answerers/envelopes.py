"""The bodies of the endpoints: how a reply looks through each door, whole and as a stream.

Knows the response objects of the text, embedding and moderation endpoints. Refuses to know who
answered, beyond the name it is given. The trap: the same tokens have three namings of usage,
and HTTP 200 with `status: incomplete` is not a success on /v1/responses.
"""

import base64
import hashlib
import struct
from collections.abc import Iterator
from typing import Any

import orjson

from .asks import Ask, Reply, Text, Vectors

_CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit",
    "illicit/violent", "self-harm", "self-harm/instructions", "self-harm/intent", "sexual",
    "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
FLAG_MARK = "[[flag]]"  # the only thing this service's moderation objects to
_PIECE = 12  # characters per streamed piece


def answer_id(prefix: str, *parts: str) -> str:
    """Return an id that is the same for the same parts."""
    digest = hashlib.blake2b("\x1f".join(parts).encode("utf-8", "replace"), digest_size=14)
    return prefix + digest.hexdigest()


def chat_body(ask: Ask, reply: Reply, now: int) -> dict[str, Any]:
    """Return a chat.completion."""
    return {
        "id": answer_id("chatcmpl-", ask.last_words, reply.texts[0].content),
        "object": "chat.completion",
        "created": now,
        "model": reply.model,
        "choices": [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": text.content,
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": text.finish_reason,
            }
            for index, text in enumerate(reply.texts)
        ],
        "usage": _chat_usage([reply]),
        "service_tier": "default",
        "system_fingerprint": "sandbox",
    }


def completion_body(asks: list[Ask], replies: list[Reply], now: int) -> dict[str, Any]:
    """Return a legacy text_completion over all prompts."""
    texts = [text for reply in replies for text in reply.texts]
    return {
        "id": answer_id("cmpl-", asks[0].last_words, texts[0].content),
        "object": "text_completion",
        "created": now,
        "model": replies[0].model,
        "choices": [
            {
                "index": index,
                "text": text.content,
                "logprobs": None,
                "finish_reason": text.finish_reason,
            }
            for index, text in enumerate(texts)
        ],
        "usage": _chat_usage(replies),
    }


def responses_body(ask: Ask, reply: Reply, now: int) -> dict[str, Any]:
    """Return a response object; cut at the limit it is `incomplete`, with HTTP 200."""
    text = reply.texts[0]
    is_cut = text.finish_reason == "length"
    total = reply.prompt_tokens + text.tokens
    return {
        "id": answer_id("resp_", ask.last_words, text.content),
        "object": "response",
        "created_at": now,
        "status": "incomplete" if is_cut else "completed",
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": None,
        "max_output_tokens": ask.max_tokens,
        "model": reply.model,
        "output": [_output_item(ask, text, is_cut)],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": ask.temperature,
        "text": {"format": {"type": "text" if ask.json_schema is None else "json_schema"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": reply.prompt_tokens,
            "input_tokens_details": {"cached_tokens": reply.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": text.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": total,
        },
        "metadata": {},
    }


def embeddings_body(vectors: Vectors, as_base64: bool) -> dict[str, Any]:
    """Return a list of embeddings, as numbers or as base64 of little-endian float32."""
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _packed(vector) if as_base64 else vector,
            }
            for index, vector in enumerate(vectors.vectors)
        ],
        "model": vectors.model,
        "usage": {"prompt_tokens": vectors.prompt_tokens, "total_tokens": vectors.prompt_tokens},
    }


def moderation_body(texts: list[str], model: str) -> dict[str, Any]:
    """Return moderation results; only texts with FLAG_MARK are flagged."""
    return {
        "id": answer_id("modr-", *texts),
        "model": model,
        "results": [_moderated(text) for text in texts],
    }


def chat_events(body: dict[str, Any], include_usage: bool) -> Iterator[bytes]:
    """Yield a chat completion as server-sent events."""
    names = ("id", "created", "model", "service_tier", "system_fingerprint")
    frame = {name: body[name] for name in names}
    frame["object"] = "chat.completion.chunk"
    for choice in body["choices"]:
        index = choice["index"]
        yield _event(frame | {"choices": [_delta(index, {"role": "assistant", "content": ""})]})
        for piece in _pieces(choice["message"]["content"] or ""):
            yield _event(frame | {"choices": [_delta(index, {"content": piece})]})
        end = _delta(index, {}) | {"finish_reason": choice["finish_reason"]}
        yield _event(frame | {"choices": [end]})
    if include_usage:
        yield _event(frame | {"choices": [], "usage": body["usage"]})
    yield b"data: [DONE]\n\n"


def completion_events(body: dict[str, Any]) -> Iterator[bytes]:
    """Yield a legacy completion as server-sent events."""
    for choice in body["choices"]:
        for piece in _pieces(choice["text"]):
            part = choice | {"text": piece, "finish_reason": None}
            yield _event(body | {"choices": [part], "usage": None})
        yield _event(body | {"choices": [choice | {"text": ""}]})
    yield b"data: [DONE]\n\n"


def responses_events(body: dict[str, Any]) -> Iterator[bytes]:
    """Yield a response as its typed server-sent events."""
    item = body["output"][0]
    part = item["content"][0]
    text = part["text"]
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    opened = body | {"status": "in_progress", "output": [], "usage": None}
    blank_item = item | {"status": "in_progress", "content": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": opened},
        {"type": "response.in_progress", "response": opened},
        {"type": "response.output_item.added", "output_index": 0, "item": blank_item},
        {"type": "response.content_part.added", **place, "part": part | {"text": ""}},
    ]
    events += [
        {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
        for piece in _pieces(text)
    ]
    events += [
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": f"response.{body['status']}", "response": body},
    ]
    for number, event in enumerate(events):
        head = b"event: " + event["type"].encode() + b"\n"
        yield head + _event(event | {"sequence_number": number})


def _output_item(ask: Ask, text: Text, is_cut: bool) -> dict[str, Any]:
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text.content}
    return {
        "id": answer_id("msg_", ask.last_words, text.content),
        "type": "message",
        "status": "incomplete" if is_cut else "completed",
        "role": "assistant",
        "content": [part],
    }


def _chat_usage(replies: list[Reply]) -> dict[str, Any]:
    prompt = sum(reply.prompt_tokens for reply in replies)
    made = sum(text.tokens for reply in replies for text in reply.texts)
    cached = sum(reply.cached_tokens for reply in replies)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _moderated(text: str) -> dict[str, Any]:
    is_flagged = FLAG_MARK in text
    flags = dict.fromkeys(_CATEGORIES, False) | {"violence": is_flagged}
    return {
        "flagged": is_flagged,
        "categories": flags,
        "category_scores": {name: 0.99 if flag else 0.0 for name, flag in flags.items()},
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _pieces(text: str) -> list[str]:
    return [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"
