"""Settings and keys: defaults, the environment, `.env`; which backend a word means.

It is the only room that reads the environment, and it refuses to keep what it reads: a key
goes from here into a `Credentials`, which does not show it, and nowhere else. The trap is
precedence: an option beats the configuration, which beats the environment, which beats `.env`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from batch_magic.errors import CellError
from batch_magic.records import OPENAI_URL, Backend, Limits


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user may set once for all cells. Each field's help is its trait's help."""

    model: str = field(default="", metadata={"help": "the model, when a cell names none"})
    backend: str = field(default="", metadata={"help": "openai, sandbox or a base URL"})
    home: str = field(default=".gptbatch", metadata={"help": "folder of the journal and files"})
    poll_first_s: float = field(default=2.0, metadata={"help": "first wait between two polls"})
    poll_max_s: float = field(default=60.0, metadata={"help": "longest wait between two polls"})
    retry_base_s: float = field(default=1.0, metadata={"help": "first wait after a failed call"})
    doubt_grace_s: float = field(
        default=Limits().doubt_grace_s,
        metadata={"help": "how long a job created in doubt is looked for before creating again"},
    )
    max_rows_per_job: int = field(default=50_000, metadata={"help": "rows in one job, at most"})
    max_bytes_per_job: int = field(
        default=Limits().max_bytes_per_job, metadata={"help": "bytes in one job's file, at most"}
    )
    max_enqueued_tokens: int = field(
        default=0,
        metadata={"help": "tokens that a run may have in the queue; 0: learned from refusals"},
    )
    collect_timeout_s: float = field(
        default=120.0, metadata={"help": "how long result files that stay away are tried for"}
    )
    retries: int = field(default=2, metadata={"help": "automatic rounds for retryable rows"})
    live_concurrency: int = field(
        default=Limits().live_concurrency,
        metadata={"help": "rows of a run in flight at once in the live lane"},
    )
    live_below_rows: int = field(
        default=50, metadata={"help": "frames with fewer rows get a hint at --live; 0: none do"}
    )
    wait: str = field(default="auto", metadata={"help": "auto, always or never"})
    prices: str = field(
        default="",
        metadata={
            "help": "your own, by model: {'m': {'input': 0.1, 'output': 0.4}}, $ per million"
        },
    )
    confirm_above_usd: float = field(
        default=0.0, metadata={"help": "runs that may cost more ask first; 0: none does"}
    )
    sandbox_answerer: str = field(
        default="auto", metadata={"help": "who answers in the sandbox: auto, model or stub"}
    )
    sandbox_model_file: str = field(
        default="", metadata={"help": "a GGUF file for the sandbox's model"}
    )
    sandbox_upstream: str = field(
        default="", metadata={"help": "an OpenAI-compatible base URL that answers for the sandbox"}
    )
    sandbox_time_scale: float = field(
        default=0.0, metadata={"help": "how much faster the sandbox's waits pass; 0: its default"}
    )

    def price_table(self) -> dict[str, Any]:
        """Return the user's own prices by model. Raises CellError for what is none."""
        try:
            table = json.loads(self.prices or "{}")
        except ValueError as error:
            raise CellError(
                f'prices is no JSON: {error}; write {{"m": {{"input": 0.1, "output": 0.4}}}}'
            ) from None
        if not isinstance(table, dict):
            raise CellError(
                "prices is no table; write it by model: {'m': {'input': 0.1, 'output': 0.4}}"
            )
        return table

    def limits(self, retries: int | None = None) -> Limits:
        """Return the limits of a run under these settings."""
        return Limits(
            max_rows_per_job=self.max_rows_per_job,
            max_bytes_per_job=self.max_bytes_per_job,
            max_enqueued_tokens=self.max_enqueued_tokens,
            retries=self.retries if retries is None else retries,
            poll_first_s=self.poll_first_s,
            poll_max_s=self.poll_max_s,
            retry_base_s=self.retry_base_s,
            doubt_grace_s=self.doubt_grace_s,
            collect_timeout_s=self.collect_timeout_s,
            live_concurrency=self.live_concurrency,
        )


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a backend wants to see. Never shown, stored or logged."""

    api_key: str = field(repr=False)
    organization: str | None = field(default=None, repr=False)
    project: str | None = field(default=None, repr=False)


_WAITS = ("auto", "always", "never")
_MIN_BYTES = 1_000
_MOST_LIVE = 1_000  # as many connections as the SDK keeps


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Read `BATCH_MAGIC_<NAME>` for every setting. Raises CellError for a value of no use."""
    values: dict[str, Any] = {}
    for one in fields(Settings):
        text = environ.get(f"BATCH_MAGIC_{one.name.upper()}")
        if text:
            values[one.name] = _read(one.name, text, type(one.default))
    return check(Settings(**values))


def _read(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise CellError(f"BATCH_MAGIC_{name.upper()} is {text!r}; set it to {wanted}") from None


def check(settings: Settings) -> Settings:
    """Refuse settings that make no sense. Raises CellError naming the setting."""
    if settings.wait not in _WAITS:
        raise CellError(f"GPTBatch.wait is {settings.wait!r}; choose from {', '.join(_WAITS)}")
    for one in fields(settings):
        value = getattr(settings, one.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise CellError(f"GPTBatch.{one.name} is {value}; set it to a finite number")
    for name in ("poll_first_s", "poll_max_s", "retry_base_s"):
        if not getattr(settings, name) > 0:
            raise CellError(f"GPTBatch.{name} is {getattr(settings, name)}; set it to more than 0")
    for name in (
        "doubt_grace_s",
        "collect_timeout_s",
        "retries",
        "max_enqueued_tokens",
        "live_below_rows",
        "confirm_above_usd",
        "sandbox_time_scale",
    ):
        if getattr(settings, name) < 0:
            raise CellError(f"GPTBatch.{name} is {getattr(settings, name)}; set it to 0 or more")
    if not 1 <= settings.max_rows_per_job <= 50_000:
        raise CellError("GPTBatch.max_rows_per_job is out of bounds; set it from 1 to 50000")
    if not 1 <= settings.live_concurrency <= _MOST_LIVE:
        raise CellError(
            f"GPTBatch.live_concurrency is out of bounds; set it from 1 to {_MOST_LIVE}"
        )
    if not _MIN_BYTES <= settings.max_bytes_per_job <= 209_715_200:
        raise CellError(
            f"GPTBatch.max_bytes_per_job is out of bounds; set it from {_MIN_BYTES} to 209715200"
        )
    if not settings.home.strip():
        raise CellError("GPTBatch.home is empty; name a folder")
    return settings


def environment(folder: Path) -> dict[str, str]:
    """Return the environment, with what the `.env` file of `folder` adds to it."""
    from dotenv import dotenv_values

    path = folder / ".env"
    try:
        added = dotenv_values(path) if path.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise CellError(f"{path} cannot be read: {error}; mend it, or move it away") from None
    return {**{key: value for key, value in added.items() if value is not None}, **os.environ}


def notebook(environ: Mapping[str, str], folder: Path) -> str:
    """Return the notebook whose kernel this process is, as `folder` sees it; "" if not known.

    JupyterLab and Notebook 7 name it to the kernel as it was called at its start. Of one outside
    the folder only the file's name is told: a home may be given away.
    """
    named = environ.get("JPY_SESSION_NAME", "").strip()
    if not named:
        return ""
    path = Path(named)
    if path.is_absolute() and path.is_relative_to(folder):
        return path.relative_to(folder).as_posix()
    return path.name


def find_backend(word: str, environ: Mapping[str, str]) -> Backend:
    """Return the backend that `word` means; "" is openai when there is a key.

    Raises CellError for a word that means none, and when there is neither word nor key.
    """
    if not word:
        if not environ.get("OPENAI_API_KEY"):
            raise CellError(
                "there is no key; set OPENAI_API_KEY in the environment or in a .env file,"
                " or try without one: --on sandbox"
            )
        word = "openai"
    if word == "openai":
        return Backend("openai", _base_url(environ.get("OPENAI_BASE_URL") or OPENAI_URL))
    if word == "sandbox":
        return Backend("sandbox", "sandbox")
    if word.startswith(("http://", "https://")):
        url = _base_url(word)
        return Backend(url, url)
    raise CellError(f"--on knows openai, sandbox and base URLs, not {word!r}; name one (https://…)")


def _base_url(url: str) -> str:
    """Return a base URL that can be called and holds no secret. Raises CellError otherwise."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or not url.isascii() or not url.isprintable() or " " in url:
        raise CellError(f"the base URL {url!r} cannot be used; write it like https://host:port/v1")
    if parts.username or parts.password or parts.query:
        raise CellError("the base URL holds a secret; put the key into OPENAI_API_KEY instead")
    return url.rstrip("/")


def find_credentials(backend: Backend, environ: Mapping[str, str]) -> Credentials:
    """Return the key for a backend. Raises CellError when OpenAI's is not set.

    A base URL gets OPENAI_API_KEY too, as it would from the SDK; a server that needs no key
    ignores it.
    """
    key = (environ.get("OPENAI_API_KEY") or "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise CellError("OPENAI_API_KEY holds characters that no key has; set the right key")
    if backend.is_sandbox:
        return Credentials("sandbox")
    if not key and backend.name == "openai":
        raise CellError("there is no key; set OPENAI_API_KEY in the environment or in a .env file")
    return Credentials(
        key or "none",
        environ.get("OPENAI_ORG_ID") or None,
        environ.get("OPENAI_PROJECT_ID") or None,
    )
