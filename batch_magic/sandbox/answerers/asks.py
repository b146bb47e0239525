"""What a request asks for, whichever endpoint it came through, and what an answer holds.

Knows the request bodies of the text endpoints and which of their members are refused when a
row runs (not when the file is validated). Refuses to know who answers. The trap: parameters
that a real model refuses must fail here too, per row, or the mistake is found when it is paid.
"""

import re
from dataclasses import dataclass
from typing import Any

from ..refusals import Refusal, invalid_type, invalid_value, missing_parameter
from .pictures import describe

DEFAULT_MAX_TOKENS = 128  # when the request names no limit
CONTEXT_TOKENS = 400_000  # what the requested models are taken to hold
_REASONING_MODEL = re.compile(r"(o\d|gpt-[5-9])")
_SCHEMA_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
SERVICE_TIERS = ("auto", "default", "flex", "scale", "priority", "fast")
_FLEX_MODEL = re.compile(r"gpt-[56]|o3|o4-mini")
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


@dataclass(frozen=True)
class Ask:
    """One request for text."""

    model: str
    messages: list[dict[str, str]]  # role and plain text
    max_tokens: int | None = None
    json_schema: dict[str, Any] | None = None  # {} = any object
    n: int = 1
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0
    is_chat: bool = True

    @property
    def last_words(self) -> str:
        """The text of the last user message, or of the last of all."""
        users = [message["content"] for message in self.messages if message["role"] == "user"]
        return users[-1] if users else self.messages[-1]["content"] if self.messages else ""


@dataclass(frozen=True)
class Text:
    """One answer text."""

    content: str
    finish_reason: str  # stop or length
    tokens: int


@dataclass(frozen=True)
class Reply:
    """What an answerer made of an Ask."""

    model: str  # who answered
    texts: list[Text]
    prompt_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Vectors:
    """What an answerer made of an embeddings request."""

    model: str
    vectors: list[list[float]]
    prompt_tokens: int = 0


@dataclass(frozen=True)
class EmbeddingAsk:
    """One request for vectors."""

    model: str
    texts: list[str]
    dimensions: int | None = None
    as_base64: bool = False


def read_chat(body: dict[str, Any]) -> Ask:
    """Return what a chat completion asks for. Raises Refusal (400)."""
    model = _model(body)
    check_service_tier(body)
    messages = body.get("messages")
    if messages is None:
        raise missing_parameter("messages")
    if not isinstance(messages, list):
        raise invalid_type("messages", "an array of objects", messages)
    if not messages:
        raise Refusal(
            400,
            "Invalid 'messages': empty array. Expected an array with minimum length 1, "
            "but got an empty array instead.",
            param="messages",
            code="empty_array",
        )
    if body.get("max_tokens") is not None and _REASONING_MODEL.match(model):
        raise Refusal(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        )
    limit_name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    plain = [_message(message, f"messages[{at}]") for at, message in enumerate(messages)]
    return Ask(
        model=model,
        messages=plain,
        max_tokens=_limit(body, limit_name),
        json_schema=_chat_schema(body.get("response_format"), plain),
        n=_count(body, "n", 1, 128),
        stop=_stop(body.get("stop")),
        temperature=_temperature(body),
        seed=int(body.get("seed") or 0),
    )


def read_responses(body: dict[str, Any]) -> Ask:
    """Return what a Responses request asks for. Raises Refusal (400)."""
    model = _model(body)
    check_service_tier(body)
    given = body.get("input")
    if given is None:
        raise missing_parameter("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(items, list):
        raise invalid_type("input", "a string or an array", given)
    messages = [
        _message(item, f"input[{at}]")
        for at, item in enumerate(items)
        if not isinstance(item, dict) or item.get("type", "message") == "message"
    ]
    if body.get("instructions"):
        messages.insert(0, {"role": "system", "content": str(body["instructions"])})
    form = (body.get("text") or {}).get("format")
    return Ask(
        model=model,
        messages=messages,
        max_tokens=_limit(body, "max_output_tokens"),
        json_schema=_format_schema(form, "text.format", messages),
        temperature=_temperature(body),
    )


def read_completion(body: dict[str, Any]) -> list[Ask]:
    """Return what a legacy completion asks for, one Ask per prompt. Raises Refusal (400)."""
    model = _model(body)
    prompt = body.get("prompt")
    if prompt is None:
        raise missing_parameter("prompt")
    prompts = prompt if isinstance(prompt, list) and isinstance(prompt[0], str) else [prompt]
    return [
        Ask(
            model=model,
            messages=[{"role": "user", "content": _prompt_text(text)}],
            max_tokens=_limit(body, "max_tokens") or 16,
            n=_count(body, "n", 1, 128),
            stop=_stop(body.get("stop")),
            temperature=_temperature(body),
            is_chat=False,
        )
        for text in prompts
    ]


def read_embeddings(body: dict[str, Any]) -> EmbeddingAsk:
    """Return what an embeddings request asks for. Raises Refusal (400)."""
    model = _model(body)
    given = body.get("input")
    if given is None:
        raise missing_parameter("input")
    for name in body:
        if name not in ("model", "input", "dimensions", "encoding_format", "user"):
            message = f"Unknown parameter: '{name}'."
            raise Refusal(400, message, param=name, code="unknown_parameter")
    texts = _embedding_texts(given)
    if len(texts) > 2048:
        raise Refusal(400, "Invalid 'input': array too long, at most 2048.", param="input")
    if sum(len(text) for text in texts) // 4 > 300_000:
        message = "Invalid 'input': maximum request size is 300000 tokens per request."
        raise Refusal(400, message, type="max_tokens_per_request", code="max_tokens_per_request")
    form = body.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise Refusal(400, f"Invalid value: '{form}'.", param="encoding_format")
    dimensions = _count(body, "dimensions", 0, 4096) or None
    return EmbeddingAsk(model, texts, dimensions, form == "base64")


def check_service_tier(body: dict[str, Any]) -> None:
    """Refuse a service tier that is none, or that the model does not have. Raises Refusal (400)."""
    tier = body.get("service_tier")
    if tier is None:
        return
    if not isinstance(tier, str):
        raise invalid_type("service_tier", "a string", tier)
    if tier not in SERVICE_TIERS:
        raise invalid_value("service_tier", tier, list(SERVICE_TIERS))
    if tier == "flex" and not _FLEX_MODEL.match(_model(body)):
        raise Refusal(400, "Flex is not available for this model.", param="service_tier")


def _model(body: dict[str, Any]) -> str:
    model = body.get("model")
    if model is None:
        raise Refusal(400, "you must provide a model parameter")
    if not isinstance(model, str):
        raise invalid_type("model", "a string", model)
    return model


def _message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise invalid_type(where, "an object", message)
    role = str(message.get("role"))
    if role not in _ROLES:
        listed = ", ".join(f"'{name}'" for name in _ROLES)
        raise Refusal(
            400,
            f"Invalid value: '{role}'. Supported values are: {listed}.",
            param=f"{where}.role",
            code="invalid_value",
        )
    plain_role = {"developer": "system", "function": "tool"}.get(role, role)
    return {"role": plain_role, "content": plain(message.get("content"), f"{where}.content")}


def _temperature(body: dict[str, Any]) -> float:
    given = body.get("temperature")
    if given is None:
        return 0.0
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise invalid_type("temperature", "a decimal", given)
    return float(given)


def plain(content: Any, where: str) -> str:
    """Return the text of a content, images told in words. Raises Refusal (400)."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid_type(where, "one of a string or array of objects", content)
    return "\n".join(_part(part if isinstance(part, dict) else {}) for part in content)


def _part(part: dict[str, Any]) -> str:
    if part.get("type") in ("image_url", "input_image"):
        given = part.get("image_url")
        return describe(given.get("url") if isinstance(given, dict) else given)
    return str(part.get("text") or f"[{part.get('type', 'part')}]")


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return "tokens " + " ".join(str(token) for token in prompt)


def _embedding_texts(given: Any) -> list[str]:
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list) or not given:
        raise Refusal(400, "'$.input' is invalid. Please check the API reference.", param="input")
    if isinstance(given[0], int):
        given = [given]
    texts = [_prompt_text(item) for item in given]
    if "" in texts:
        raise Refusal(400, "'$.input' is invalid. Please check the API reference.", param="input")
    return texts


def _limit(body: dict[str, Any], name: str) -> int | None:
    limit = body.get(name)
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise invalid_type(name, "an integer", limit)
    if limit < 1:
        message = (
            f"Invalid '{name}': integer below minimum value. "
            f"Expected a value >= 1, but got {limit} instead."
        )
        raise Refusal(400, message, param=name, code="integer_below_min_value")
    if limit > CONTEXT_TOKENS:
        message = (
            f"This model's maximum context length is {CONTEXT_TOKENS} tokens. "
            f"However, you requested {limit} tokens for the completion."
        )
        raise Refusal(400, message, param=name, code="context_length_exceeded")
    return limit


def _count(body: dict[str, Any], name: str, default: int, most: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid_type(name, "an integer", value)
    if not 1 <= value <= most:
        raise Refusal(400, f"Invalid '{name}': must be from 1 to {most}, got {value}.", param=name)
    return value


def _stop(stop: Any) -> tuple[str, ...]:
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _chat_schema(form: Any, messages: list[dict[str, str]]) -> dict[str, Any] | None:
    if isinstance(form, dict) and form.get("type") == "json_schema":
        inner = form.get("json_schema")
        if not isinstance(inner, dict):
            raise missing_parameter("response_format.json_schema")
        form = {"type": "json_schema", **inner}
    return _format_schema(form, "response_format", messages)


def _format_schema(form: Any, where: str, messages: list[dict[str, str]]) -> dict[str, Any] | None:
    if form is None:
        return None
    if not isinstance(form, dict):
        raise invalid_type(where, "an object", form)
    match form.get("type"):
        case "text":
            return None
        case "json_object":
            _need_the_word_json(messages, where)
            return {}
        case "json_schema":
            return _named_schema(form, where)
    message = (
        f"Invalid value: '{form.get('type')}'. Supported values are: "
        "'json_object', 'json_schema', and 'text'."
    )
    raise Refusal(400, message, param=f"{where}.type", code="invalid_value")


def _need_the_word_json(messages: list[dict[str, str]], where: str) -> None:
    if not any("json" in message["content"].lower() for message in messages):
        message = (
            "'messages' must contain the word 'json' in some form, "
            f"to use '{where}' of type 'json_object'."
        )
        raise Refusal(400, message, param="messages")


def _named_schema(form: dict[str, Any], where: str) -> dict[str, Any]:
    name, schema = form.get("name"), form.get("schema")
    if not isinstance(name, str):
        raise missing_parameter(f"{where}.name")
    if not _SCHEMA_NAME.fullmatch(name):
        message = (
            f"Invalid '{where}.name': string does not match pattern. Expected a string that "
            "matches the pattern '^[a-zA-Z0-9_-]+$'."
        )
        raise Refusal(400, message, param=f"{where}.name", code="invalid_value")
    if not isinstance(schema, dict):
        raise missing_parameter(f"{where}.schema")
    if form.get("strict"):
        complaint = strictness_complaint(schema, ())
        if complaint:
            message = f"Invalid schema for response_format '{name}': {complaint}"
            raise Refusal(400, message, param=where, code="invalid_json_schema")
    return schema


def strictness_complaint(schema: Any, path: tuple[str, ...]) -> str | None:
    """Return why strict mode refuses a schema, or None."""
    if not isinstance(schema, dict):
        return None
    if not path and schema.get("type") != "object":
        kind = schema.get("type")
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."
    context = f"In context={path!r}, "
    if "oneOf" in schema:
        return context + "'oneOf' is not permitted."
    if schema.get("type") == "object" or "properties" in schema:
        names = list(schema.get("properties", {}))
        if schema.get("additionalProperties") is not False:
            return context + "'additionalProperties' is required to be supplied and to be false."
        left_out = [name for name in names if name not in schema.get("required", [])]
        if left_out:
            return context + (
                "'required' is required to be supplied and to be an array including every key "
                f"in properties. Missing '{left_out[0]}'."
            )
    if "default" in schema:
        return context + "'default' is not permitted."
    for step, child in _children(schema):
        complaint = strictness_complaint(child, (*path, *step))
        if complaint:
            return complaint
    return None


def _children(schema: dict[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for group in ("properties", "$defs", "definitions"):
        found += [((group, name), child) for name, child in schema.get(group, {}).items()]
    for group in ("anyOf", "allOf"):
        found += [((group, str(at)), child) for at, child in enumerate(schema.get(group, []))]
    if isinstance(schema.get("items"), dict):
        found.append((("items",), schema["items"]))
    return found
