"""Hand-made records for tests of what is decided and computed, without a journal or a frame."""

from __future__ import annotations

from typing import Any

from batch_magic.records import (
    OPENAI_URL,
    Backend,
    Job,
    Layout,
    Limits,
    Request,
    RunRecord,
)

NOW = 1_800_000_000.0


def run_of(*jobs: Job, **changes: Any) -> RunRecord:
    """A run of ten rows at OpenAI, submitted at `NOW`; every keyword changes one of its facts."""
    facts: dict[str, Any] = {
        "run_id": "r",
        "name": "labelled",
        "backend": Backend("openai", OPENAI_URL),
        "request": Request("/v1/chat/completions", "m", "{{ text }}"),
        "layout": Layout("answer"),
        "limits": Limits(),
        "created_at": NOW,
        "rows": 10,
        "identity": "i",
        "fingerprint": "f",
    }
    return RunRecord(**(facts | {"jobs": jobs} | changes))


def asking(model: str = "gpt-5-mini", **facts: Any) -> RunRecord:
    """Such a run by what it asks for, e.g. `live=True`."""
    return run_of(request=Request("/v1/chat/completions", model, "{{ text }}", **facts))
