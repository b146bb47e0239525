"""What happens to a run just now, and what a person may do: one line of each for every picture.

It knows the states a run can be in and what a first-time user wonders in each of them; it refuses
to know how it looks on a page, and it reads nothing but the snapshot. The trap is silence: a batch
may stand still for hours with nothing wrong, so that each state says who acts next, and that doing
nothing is one of the things to do.
"""

from __future__ import annotations

from collections.abc import Iterator

from batch_magic.records import UNANSWERED, Ending, Job, JobStage, RowStatus, Snapshot, Stage
from batch_magic.wording import clip, counted, short_duration

NAME_LENGTH = 120
QUESTIONABLE = (RowStatus.TRUNCATED, RowStatus.REFUSED, RowStatus.UNPARSED)
"""Statuses of rows that were answered and paid, but not as hoped."""

_ON_ITS_WAY = (JobStage.UPLOADING, JobStage.CREATING)
_NEAR_S = 600.0  # so long before its deadline a run is about to go live


def now_words(s: Snapshot) -> str:
    """Say in one line what happens to the run just now, and who acts next."""
    if s.asks_usd is not None:
        return "nothing is sent and nothing is paid: it waits for your leave"
    if s.ending is not None:
        return _ended_words(s)
    if s.cancelling:
        return "the cancel is under way: answers made by now are fetched; it may take ten minutes"
    if s.is_driven_elsewhere:
        return "another kernel works at this run; this panel shows what it writes down"
    if s.stage is Stage.PREPARING:
        return "rows are rendered and written to disk; nothing is sent yet"
    return f"{_round_words(s)}{_under_way(s)}"


def next_steps(s: Snapshot) -> list[str]:
    """Say what the reader may do now, code in backticks; never nothing."""
    name = clip(s.name, NAME_LENGTH)
    if s.asks_usd is not None:
        return [f"submit it: `%gptbatch submit {name}`, or drop it: `%gptbatch cancel {name}`"]
    if s.ending is Ending.STOPPED:
        return [f"mend this, then run the cell again or `%gptbatch attach {name}`"]
    if s.ending is not None:
        return [f"use the frame `{name}`", *_leftovers(s)]
    return [_step(s, name)]


def is_in_vain(s: Snapshot) -> bool:
    """Tell whether a run went to its end and yet brought nothing."""
    bad = sum(s.counts.get(status, 0) for status in (*UNANSWERED, *QUESTIONABLE))
    return s.ending is Ending.FINISHED and bad > 0 and not s.counts.get(RowStatus.OK)


# -- what happens ---------------------------------------------------------------------------


def _ended_words(s: Snapshot) -> str:
    if is_in_vain(s):
        return "it went to its end, and no row has a good answer"
    return {
        Ending.FINISHED: "every row has its outcome",
        Ending.CANCELLED: "nothing more is asked; answers made before the cancel are kept",
        Ending.STOPPED: "nothing more is sent; what was answered is kept",
    }[s.ending or Ending.FINISHED]


def _round_words(s: Snapshot) -> str:
    again = "rows whose failure may pass, or that you named, are asked again"
    return f"retry round {s.round}, {again}: " if s.round else ""


def _under_way(s: Snapshot) -> str:
    """Say what happens to a run that is written down and goes on here."""
    if s.problem:
        is_there = any(job.stage is JobStage.RUNNING and not job.is_live for job in s.jobs)
        rest = "; jobs at the service go on meanwhile" if is_there else ""
        return f"trouble is waited out, and tried again by itself{rest}"
    if s.lenders and not _open(s):
        return "other runs have asked for its rows: their answers are waited for, not paid twice"
    if _is_live(s):
        return _live_words(s)
    if (left_s := _until_live_s(s)) is not None and left_s <= _NEAR_S:
        return f"the batch goes on; what it has not answered goes live in {_minutes(left_s)}"
    return _stage_words(s)


def _live_words(s: Snapshot) -> str:
    if any(not job.is_live for job in _open(s)):
        return "its batches are cancelled first; what they have not answered is asked live then"
    return "this kernel asks rows through the realtime API; each answer is kept as it comes"


def _stage_words(s: Snapshot) -> str:
    here, there = _sides(s)
    if here and there:
        jobs, is_one = counted(len(there), "job"), len(here) == 1
        if any(job.stage in _ON_ITS_WAY for job in here):
            return (
                f"{jobs} at the service; {len(here):,} more {'is' if is_one else 'are'} to follow"
            )
        wait = "waits" if is_one else "wait"
        return f"{jobs} at the service; {len(here):,} more {wait} here until there is room"
    match s.stage:
        case Stage.UPLOADING:
            return "request files go up and jobs are created; the service begins after that"
        case Stage.VALIDATING:
            return "the service checks the request files: a matter of minutes, as a rule"
        case Stage.IN_PROGRESS if not (s.claimed_ok or s.claimed_failed):
            return "the service has the job and answers when it has room: at once or in hours"
        case Stage.IN_PROGRESS:
            return "the service answers rows; their texts come when a job is done"
        case Stage.FINALIZING:
            return "the service has done its rows and writes its result files"
    return "result files come down, and answers are put in their rows' places"


# -- what may be done -----------------------------------------------------------------------


def _step(s: Snapshot, name: str) -> str:
    """Say what may be done about a run that goes on."""
    cancel = f"`%gptbatch cancel {name}`"
    if s.cancelling:
        return "nothing needs doing: what has finished is kept, and the frame has it in the end"
    if s.is_driven_elsewhere:
        return (
            "nothing needs doing: should that kernel end, this one goes on by itself within half a"
            f" minute; {cancel} works from here, too"
        )
    if s.stage is Stage.PREPARING:
        return f"go on working; {cancel} stops it before anything is sent"
    if s.problem:
        return (
            f"nothing needs doing, unless it stays so: `%gptbatch show {name}` lists what happened,"
            f" {cancel} gives up and keeps what there is"
        )
    if s.lenders and not _open(s):
        lender = clip(s.lenders[0], NAME_LENGTH)
        return f"nothing needs doing: `%gptbatch status {lender}` shows how far they are"
    return _step_under_way(s, name, cancel)


def _step_under_way(s: Snapshot, name: str, cancel: str) -> str:
    if _is_live(s):
        return (
            f"go on working, but keep this kernel: rows are asked from here; {cancel} keeps what"
            " there is"
        )
    if (left_s := _until_live_s(s)) is not None and left_s <= _NEAR_S:
        return (
            f"let it, or `%gptbatch finish {name}` at once, or {cancel}: then nothing more is asked"
        )
    if _sides(s)[0]:
        return "go on working, but keep this kernel until its last job is created"
    if s.stage is Stage.COLLECTING:
        return f"go on working: `{name}` becomes the frame in a moment"
    so_far = f"; `{name}.partial()` has the answers so far" if _has_answers(s) else ""
    return (
        f"go on working, or shut down, the service goes on: `{name}` becomes the frame by itself,"
        f" `%gptbatch wait {name}` waits for it{so_far}"
    )


def _leftovers(s: Snapshot) -> Iterator[str]:
    name = clip(s.name, NAME_LENGTH)
    if s.ending is Ending.CANCELLED:
        yield "rows that finished are kept"
    if left := sum(s.counts.get(status, 0) for status in UNANSWERED):
        yield (
            f"{counted(left, 'row')} without an answer: `%gptbatch clinic {name}` says why,"
            f" `%gptbatch retry {name}` asks for {'it' if left == 1 else 'them'} again"
        )
    odd = [status for status in QUESTIONABLE if s.counts.get(status, 0)]
    if odd:
        rows = counted(sum(s.counts[status] for status in odd), "row")
        labels = ",".join(status.label for status in odd)
        yield (
            f"{rows} to look at: the reason is in the column `gpt_error` and in the clinic;"
            f" `%gptbatch retry {name} --status {labels}` pays for another answer"
        )


# -- what a picture says --------------------------------------------------------------------


def _open(s: Snapshot) -> list[Job]:
    return [job for job in s.jobs if job.stage is not JobStage.COLLECTED]


def _sides(s: Snapshot) -> tuple[list[Job], list[Job]]:
    """Return the batches that are not created yet, and those that the service has."""
    batches = [job for job in _open(s) if not job.is_live]
    there = [job for job in batches if job.stage in (JobStage.RUNNING, JobStage.ENDED)]
    return [job for job in batches if job not in there], there


def _is_live(s: Snapshot) -> bool:
    return s.goes_live_at is not None and s.goes_live_at <= s.as_of


def _until_live_s(s: Snapshot) -> float | None:
    return None if s.goes_live_at is None or _is_live(s) else s.goes_live_at - s.as_of


def _minutes(seconds: float) -> str:
    return "less than a minute" if seconds < 60 else short_duration(seconds)


def _has_answers(s: Snapshot) -> bool:
    return any(n and status is not RowStatus.PENDING for status, n in s.counts.items())
