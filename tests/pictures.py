"""Hand-made snapshots for tests of what a reader sees.

`picture()` is a plausible run halfway through; every keyword changes one of its facts.
`ALBUM` has one of each kind by name, in the order in which a run would show them.
"""

from __future__ import annotations

from typing import Any

from batch_magic.records import (
    Backend,
    Ending,
    Job,
    JobStage,
    RemoteJob,
    Request,
    RowStatus,
    Snapshot,
    Stage,
    Usage,
)

START = 1_763_780_000.0  # 2025-11-22 02:53:20 UTC
OPENAI = Backend("openai", "https://api.openai.com/v1")
SANDBOX = Backend("sandbox", "http://127.0.0.1:41233/v1")


def picture(**changes: Any) -> Snapshot:
    """A run in progress, 4 min 12 s old, 12,000 rows; `counts` may leave `pending` out."""
    facts: dict[str, Any] = {
        "run_id": "r-7f3a9c",
        "name": "labelled",
        "backend": OPENAI,
        "request": Request("/v1/chat/completions", "gpt-5-mini", "Rate: {{ body }}"),
        "stage": Stage.IN_PROGRESS,
        "as_of": START + 252,
        "created_at": START,
        "rows": 12_000,
        "counts": {},
    }
    facts |= changes
    settled = {k: v for k, v in facts["counts"].items() if k is not RowStatus.PENDING}
    facts["counts"] = settled | {RowStatus.PENDING: facts["rows"] - sum(settled.values())}
    return Snapshot(**facts)


def job(number: int = 0, **changes: Any) -> Job:
    """A job that the service has been working on for four minutes; without id, it has none yet."""
    batch_id = changes.pop("batch_id", f"batch_6921a{number:03}b7d48190a4f0e6d6e1a0f3c2")
    status = changes.pop("status", "in_progress")
    remote = RemoteJob(
        batch_id=batch_id or "",
        status=status,
        created_at=START + 12,
        expires_at=START + 12 + 86_400,
    )
    facts: dict[str, Any] = {
        "number": number,
        "shard": number,
        "round": 0,
        "rows": 6_000,
        "bytes": 3_000_000,
        "stage": JobStage.RUNNING,
        "token": f"t{number}",
        "batch_id": batch_id,
        "remote": remote if batch_id else None,
    }
    return Job(**(facts | changes))


def collected(number: int = 0, **changes: Any) -> Job:
    """A job whose results are here."""
    facts = {"stage": JobStage.COLLECTED, "status": "completed", "ended_at": START + 1_500}
    return job(number, **(facts | changes))


def _finished(**changes: Any) -> Snapshot:
    facts: dict[str, Any] = {
        "stage": Stage.DONE,
        "ending": Ending.FINISHED,
        "as_of": START + 1_530,
        "ended_at": START + 1_530,
        "jobs": (collected(0), collected(1)),
        "model_served": "gpt-5-mini-2025-08-07",
        "usage": Usage(input=3_412_877, cached=0, output=412_090),
        "counts": {RowStatus.OK: 12_000},
    }
    return picture(**(facts | changes))


ALBUM = {
    "preparing": picture(
        name="essays",
        stage=Stage.PREPARING,
        rows=1_000_000,
        prepared=412_000,
        as_of=START + 9,
        eta_s=14,
    ),
    "uploading": picture(
        stage=Stage.UPLOADING,
        as_of=START + 15,
        jobs=(
            job(0, status="validating"),
            job(1, batch_id=None, stage=JobStage.UPLOADING),
        ),
    ),
    "in progress": picture(
        backend=SANDBOX,
        model_served="smollm2-135m-instruct",
        claimed_ok=5_142,
        claimed_failed=12,
        eta_s=336.0,
        jobs=(job(0), job(1, status="finalizing")),
        notes=("1,204 rows were answered before and are reused: about 0.31 USD saved",),
    ),
    "many jobs": picture(
        name="corpus",
        rows=1_000_000,
        round=1,
        counts={RowStatus.OK: 340_112, RowStatus.FAILED: 1_290, RowStatus.TRUNCATED: 74},
        claimed_ok=121_000,
        as_of=START + 9_400,
        eta_s=11_000,
        model_served="gpt-5-mini-2025-08-07",
        jobs=tuple(
            [collected(n, rows=50_000) for n in range(7)]
            + [job(n, rows=50_000) for n in range(7, 12)]
            + [job(n, rows=50_000, batch_id=None, stage=JobStage.PLANNED) for n in range(12, 20)]
        ),
    ),
    "waiting": picture(
        claimed_ok=310,
        jobs=(job(0), job(1)),
        problem="the service cannot be reached (connection refused); the jobs go on there",
        wake_at=START + 276,
    ),
    "cancelling": picture(
        stage=Stage.FINALIZING,
        cancelling=True,
        claimed_ok=7_400,
        jobs=(job(0, status="cancelling"), job(1, status="cancelling")),
    ),
    "finished": _finished(),
    "finished with failures": _finished(
        counts={
            RowStatus.OK: 11_873,
            RowStatus.FAILED: 12,
            RowStatus.REFUSED: 31,
            RowStatus.TRUNCATED: 9,
            RowStatus.EXPIRED: 60,
            RowStatus.SKIPPED: 15,
        },
        notes=("15 rows have nothing to send", "answers in code fences were read as JSON"),
    ),
    "cancelled": _finished(
        ending=Ending.CANCELLED,
        backend=SANDBOX,
        counts={RowStatus.OK: 7_412, RowStatus.CANCELLED: 4_588},
    ),
    "stopped": picture(
        stage=Stage.UPLOADING,
        ending=Ending.STOPPED,
        ended_at=START + 14,
        as_of=START + 14,
        fault="the key was refused (401 invalid_api_key): set `OPENAI_API_KEY` to a valid key",
        jobs=(job(0, batch_id=None, stage=JobStage.UPLOADED),),
    ),
}
