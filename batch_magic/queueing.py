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
    return tokens_in(job.bytes)


def tokens_in(size_bytes: int) -> int:
    """Guess how many tokens are in so many bytes, rounded up."""
    return -(-size_bytes // _BYTES_PER_TOKEN)


def token_limit(run: RunRecord, job: Job) -> int | None:
    """Return how many tokens of a job's model may be enqueued: as set, or as was refused last."""
    if run.limits.max_enqueued_tokens:
        return run.limits.max_enqueued_tokens
    said = [
        found
        for one in _same_model(run, job)
        for fault in (one.remote.faults if one.remote else ())
        if fault.code in QUEUE_FULL_CODES and (found := _LIMIT.search(fault.message))
    ]
    if not said:
        return None
    number, unit = said[-1][1].replace(",", ""), (said[-1][2] or "").upper()
    return round(float(number) * _UNITS[unit]) or None


def enqueued_tokens(run: RunRecord, job: Job) -> int:
    """Guess how many tokens this run has in the queue of a job's model."""
    return sum(estimated_tokens(one) for one in _same_model(run, job) if one.stage in _IN_QUEUE)


def _same_model(run: RunRecord, job: Job) -> list[Job]:
    if len({shard.model for shard in run.shards}) < 2:
        return list(run.jobs)
    models = {shard.number: shard.model for shard in run.shards}
    return [one for one in run.jobs if models.get(one.shard) == models.get(job.shard)]


def without_room(run: RunRecord, jobs: Iterable[Job]) -> frozenset[int]:
    """Return the numbers of those jobs that must wait until others of the run have ended.

    In order, as many as fit beside what is enqueued. With an empty queue one always goes: only
    the service knows.
    """
    models = {shard.number: shard.model for shard in run.shards}
    taken, waiting = dict[str | None, int](), set[int]()
    for job in jobs:
        model, tokens = models.get(job.shard), estimated_tokens(job)
        if model not in taken:
            taken[model] = enqueued_tokens(run, job)
        limit = token_limit(run, job)
        if limit is not None and taken[model] and taken[model] + tokens > limit:
            waiting.add(job.number)
        else:
            taken[model] += tokens
    return frozenset(waiting)
