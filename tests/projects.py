"""Homes full of runs, written through the journal: what the project view has to show.

`fill` writes one run of each kind; `crowd` as many as are wanted, most of them ended.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from drafts import run_of

from batch_magic.folder import Home
from batch_magic.journal import LEASE_S, Journal
from batch_magic.records import (
    OPENAI_URL,
    Backend,
    Cost,
    Ending,
    Estimate,
    Job,
    JobStage,
    RemoteJob,
    Request,
    RowStatus,
    RunRecord,
    Span,
    Usage,
)

EVIL = "<img src=x onerror=\"document.title='owned'\"> costs $x^2$ and $y$"
OPENAI = Backend("openai", OPENAI_URL)
SANDBOX = Backend("sandbox", "sandbox")


def request(model: str = "gpt-5-mini") -> Request:
    return Request("/v1/chat/completions", model, "Rate: {{ text }}")


def estimate(low: float, high: float, requests: int) -> Estimate:
    tokens = Span(1_000.0, 1_000.0)
    usd = Span(low, high)
    return Estimate(requests, tokens, "counted", 0, tokens, "cap", usd, Span(2 * low, 2 * high))


def job(stage: JobStage = JobStage.COLLECTED, rows: int = 1_000, **changes: Any) -> Job:
    """A batch of a run; collected with what it cost, or at work with what it claims."""
    done = stage is JobStage.COLLECTED
    completed = rows if done else rows // 3
    remote = RemoteJob(
        "batch_1", "completed" if done else "in_progress", completed=completed, total=rows, failed=0
    )
    facts: dict[str, Any] = {
        "usage": Usage(120_000, 0, 34_000) if done else None,
        "cost": Cost(0.42, 0.84) if done else None,
        "remote": remote,
        "batch_id": "batch_1",
    }
    return Job(0, 0, 0, rows, 90_000, stage, "token", **(facts | changes))


def id_of(name: str) -> str:
    """Return the id of the run of this name."""
    return f"20260101-{name.encode().hex()}"


def run(name: str, age_s: float, *jobs: Job, **changes: Any) -> RunRecord:
    """A run submitted so long ago, with its end in `ending`."""
    facts = {
        "run_id": id_of(name),
        "name": name,
        "created_at": time.time() - age_s,
        "rows": 1_000,
        "backend": OPENAI,
        "request": request(),
        "identity": name,
        "estimate": estimate(0.4, 1.2, 1_000),
        "notebook": "label.ipynb",
    }
    return run_of(*jobs, **(facts | changes))


OK = {RowStatus.OK: 1_000}
SOME = {
    RowStatus.OK: 880,
    RowStatus.FAILED: 100,
    RowStatus.REFUSED: 12,
    RowStatus.EXPIRED: 8,
}
ASKS = "not submitted yet: it may cost $1.20, and confirm_above_usd is $1.00"

KINDS: dict[str, RunRecord] = {
    "reviews_out": run("reviews_out", 86_400 * 3, job(), ending=Ending.FINISHED, counts=OK),
    "설문_라벨": run(
        "설문_라벨", 7_200, job(), ending=Ending.FINISHED, counts=SOME, fault=f"rate limit: {EVIL}"
    ),
    "تصنيف": run(
        "تصنيف", 5_000, job(), ending=Ending.CANCELLED, request=request("<b>gpt</b>-$5$"),
        counts={RowStatus.OK: 300, RowStatus.CANCELLED: 700}, notebook="تحليل $x$.ipynb",
    ),
    "refused_key": run(
        "refused_key", 4_000, job(JobStage.UPLOADED, remote=None, batch_id=None),
        ending=Ending.STOPPED, fault=f"the key was refused (401): {EVIL}",
    ),
    "expensive": run("expensive", 600, ending=Ending.STOPPED, asks_usd=1.2, fault=ASKS),
    "elsewhere": run("elsewhere", 400, job(JobStage.RUNNING)),
    "orphaned": run("orphaned", 300, job(JobStage.RUNNING), rows=1_000),
    "rehearsal": run("rehearsal", 60, job(), ending=Ending.FINISHED, counts=OK, backend=SANDBOX),
}  # fmt: skip


def fill(home: Path) -> None:
    """Write a run of each kind; another living process of this machine drives `elsewhere`."""
    journal = _journal(home)
    for one in KINDS.values():
        _add(journal, one)
    journal.note_result(KINDS["reviews_out"].run_id, time.time())
    drive(home, KINDS["elsewhere"].run_id, "analysis/other.ipynb")
    journal.close()


def crowd(home: Path, number: int) -> None:
    """Write so many runs: one in ten goes on, driven by another process; the rest have ended."""
    journal = _journal(home)
    for n in range(number):
        goes_on = n % 10 == 0
        jobs = (job(JobStage.RUNNING) if goes_on else job(),)
        ending = None if goes_on else Ending.FINISHED
        age_s = 60.0 * (number - n)
        _add(journal, run(f"run_{n}", age_s, *jobs, ending=ending, counts={} if goes_on else OK))
    journal.close()
    with sqlite3.connect(home / "journal.db") as db:
        goes_on = "SELECT run_id FROM runs WHERE ending IS NULL"
        for (run_id,) in db.execute(goes_on).fetchall():
            _lease(db, run_id, "crowd.ipynb")


def drive(home: Path, run_id: str, notebook: str) -> None:
    """Let it look as if a kernel of another notebook drives the run for some minutes."""
    with sqlite3.connect(home / "journal.db") as db:
        _lease(db, run_id, notebook)


def go_on(home: Path, run_id: str, claimed: int) -> None:
    """Write what another kernel would write: that the service has answered so many rows."""
    journal = Journal(home / "journal.db")
    one = journal.run(run_id)
    remote = replace(one.jobs[0].remote, completed=claimed)  # type: ignore[type-var]
    journal.save_job(run_id, "other", replace(one.jobs[0], remote=remote), time.time(), None)
    journal.close()


def _journal(home: Path) -> Journal:
    place = Home(home)
    place.check_journal()
    return Journal(place.journal_path)


def _add(journal: Journal, one: RunRecord) -> None:
    kin = journal.kin(one.backend.identity, one.request.model)
    now = one.created_at
    ending = one.ending if one.asks_usd is None else None
    begun = one if ending is None else replace(one, ending=None, fault=None)
    journal.add_run(begun, owner="seed", now=now, kin=kin)
    if ending is not None:
        journal.end_run(
            one.run_id, "seed", now + 240, ending=ending, counts=one.counts, fault=one.fault
        )
    journal.drop_lease(one.run_id, "seed")


def _lease(db: sqlite3.Connection, run_id: str, notebook: str) -> None:
    db.execute(
        "INSERT OR REPLACE INTO leases (run_id, owner, pid, host, expires_at, notebook)"
        " VALUES (?,'other',?,?,?,?)",
        (run_id, os.getppid(), socket.gethostname(), time.time() + 9 * LEASE_S, notebook),
    )
