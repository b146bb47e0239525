"""Hand-made snapshots for tests of what a reader sees.

`picture()` is a plausible run halfway through; every keyword changes one of its facts.
`ALBUM` has one of each kind by name, in the order in which a run would show them.
"""

from __future__ import annotations

import math
from typing import Any

from batch_magic.records import (
    Backend,
    Ending,
    Job,
    JobStage,
    Point,
    Preview,
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


def points(seconds: float, rows: int, n: int = 24) -> tuple[Point, ...]:
    """So many rows in so many seconds from the start, in waves."""
    shares = [max(0.0, 1 + 0.9 * math.sin(k / 2.5) - (k < 3)) for k in range(n)]
    done = [sum(shares[:k]) / sum(shares) for k in range(n + 1)]
    return tuple(Point(START + 12 + seconds * k / n, round(rows * done[k])) for k in range(n + 1))


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
        "progress": points(1_480, 12_000),
    }
    return picture(**(facts | changes))


_LIVE = RemoteJob(batch_id="", status="in_progress", created_at=START + 12)

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
    "validating": picture(
        stage=Stage.VALIDATING, as_of=START + 40, jobs=(job(0, status="validating"),)
    ),
    "queued": picture(as_of=START + 5_000, jobs=(job(0), job(1)), queue_s=4_988.0),
    "in progress": picture(
        backend=SANDBOX,
        progress=points(240, 5_154),
        model_served="smollm2-135m-instruct",
        claimed_ok=5_142,
        claimed_failed=12,
        eta_s=336.0,
        jobs=(job(0), job(1, status="finalizing")),
        notes=("1,204 rows were answered before and are reused: about 0.31 USD saved",),
    ),
    "half in": picture(
        counts={RowStatus.OK: 5_871, RowStatus.FAILED: 88, RowStatus.UNPARSED: 41},
        claimed_ok=1_204,
        jobs=(collected(0), job(1)),
        eta_s=900.0,
        as_of=START + 1_900,
        progress=points(1_800, 7_204),
        complaint="61 of 129 rows without a good answer: 400 context_length_exceeded: This model's"
        " maximum context length is 128000 tokens, your messages resulted in 131204 tokens.",
        newest=(
            Preview(5_120, RowStatus.OK, 'label: positive · score: 0.93 · tags: ["light"]'),
            Preview(17, RowStatus.OK, "label: mixed · score: 0.41 · tags: []"),
            Preview(5_119, RowStatus.UNPARSED, "the answer does not fit the pattern"),
            Preview(88, RowStatus.OK, "label: 긍정 · note: 조명이 아주 밝아요"),
            Preview(1_204, RowStatus.OK, "<b>bold</b> costs $5 to $6"),
        ),
    ),
    "collecting": picture(
        stage=Stage.COLLECTING,
        as_of=START + 1_500,
        jobs=(
            collected(0),
            job(1, stage=JobStage.ENDED, status="completed", ended_at=START + 1_499),
        ),
        counts={RowStatus.OK: 6_000},
    ),
    "waits for another run": picture(
        lenders=("20251122-025011-a1b2c3",), counts={RowStatus.OK: 2_000}, as_of=START + 60
    ),
    "live": picture(
        request=Request("/v1/chat/completions", "gpt-5-mini", "Rate: {{ body }}", live=True),
        goes_live_at=START,
        claimed_ok=3_012,
        claimed_failed=3,
        as_of=START + 190,
        progress=points(178, 3_015),
        eta_s=520.0,
        jobs=(job(0, rows=12_000, batch_id=None, is_live=True, remote=_LIVE),),
        complaint="3 of the last 100 answers: 429 rate_limit_exceeded: Rate limit reached",
    ),
    "deadline near": picture(
        request=Request(
            "/v1/chat/completions", "gpt-5-mini", "Rate: {{ body }}", deadline_s=10_800.0
        ),
        goes_live_at=START + 10_800,
        as_of=START + 10_500,
        claimed_ok=6_800,
        jobs=(job(0), job(1)),
        progress=points(10_480, 6_800),
    ),
    "goes live": picture(
        goes_live_at=START + 240,
        claimed_ok=4_100,
        stage=Stage.FINALIZING,
        jobs=(job(0, status="cancelling"), job(1, status="cancelling")),
    ),
    "driven elsewhere": picture(
        claimed_ok=310, jobs=(job(0), job(1)), is_driven_elsewhere=True, progress=points(200, 310)
    ),
    "retry round": picture(
        round=2,
        counts={RowStatus.OK: 11_700},
        as_of=START + 3_000,
        jobs=(collected(0), collected(1), job(2, rows=300, round=2)),
        progress=(*points(1_480, 11_700), Point(START + 3_000, 11_700)),
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
    "held for leave": picture(
        stage=Stage.UPLOADING,
        ending=Ending.STOPPED,
        ended_at=START + 2,
        as_of=START + 2,
        fault="not submitted: it may cost up to $12.30, and confirm_above_usd is $10.00",
        asks_usd=12.3,
        jobs=(job(0, batch_id=None, stage=JobStage.PLANNED),),
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
        fault="60 of 112 rows without a good answer: batch_expired: This request could not be"
        " executed before the completion window expired.",
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
