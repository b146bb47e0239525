"""Room in the service's queue: how much is in it, how much fits, what a refusal teaches.

The service counts the prompt tokens of all jobs of a model that have not ended and refuses a job
that is too many, minutes after it was created. It tells the limit only in that refusal, and there
is no call that asks for it. This room knows the arithmetic and refuses to decide what follows.
The trap: other people's jobs are in the same queue, so room by our count is a guess; no room is
certain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from batch_magic.records import Job, JobStage, RunRecord

QUEUE_FULL_CODES = frozenset({"token_limit_exceeded"})
"""Failures that mean "wait for room": the enqueued tokens of the account's other jobs."""

_BYTES_PER_TOKEN = 3  # for planning: low for English, about right for code and Korean
_IN_QUEUE = (JobStage.CREATING, JobStage.RUNNING)
_LIMIT = re.compile(r"\b[Ll]imit(?: of|:)?\s*([0-9][0-9,]*(?:\.[0-9]+)?)(?:\s?([KMBkmb])\b)?")
_UNITS = {"": 1, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}  # Azure: "limit of 30K"


def estimated_tokens(job: Job) -> int:
    """Guess the prompt tokens of a job from the bytes of its lines, rounded up."""
    return -(-job.bytes // _BYTES_PER_TOKEN)


def token_limit(run: RunRecord) -> int | None:
    """Return how many tokens may be enqueued: as set, or as the last refusal said."""
    if run.limits.max_enqueued_tokens:
        return run.limits.max_enqueued_tokens
    said = [
        found
        for job in run.jobs
        for fault in (job.remote.faults if job.remote else ())
        if fault.code in QUEUE_FULL_CODES and (found := _LIMIT.search(fault.message))
    ]
    if not said:
        return None
    number, unit = said[-1][1].replace(",", ""), (said[-1][2] or "").upper()
    return round(float(number) * _UNITS[unit]) or None


def enqueued_tokens(run: RunRecord) -> int:
    """Guess how many tokens this run has in the queue."""
    return sum(estimated_tokens(job) for job in run.jobs if job.stage in _IN_QUEUE)


def without_room(run: RunRecord, jobs: Iterable[Job]) -> frozenset[int]:
    """Return the numbers of those jobs that must wait until others of the run have ended.

    In order, as many as fit beside what is enqueued. With an empty queue one always goes: only
    the service knows.
    """
    limit, taken, waiting = token_limit(run), enqueued_tokens(run), set[int]()
    if limit is None:
        return frozenset()
    for job in jobs:
        tokens = estimated_tokens(job)
        if taken and taken + tokens > limit:
            waiting.add(job.number)
        else:
            taken += tokens
    return frozenset(waiting)
