"""When a run may be forgotten, and how its files at the service go.

It knows what must not be deleted: what has not ended, what nobody has taken yet, what another run
waits for, what cannot be verified. It refuses to ask the user; that is the magic's.
"""

from __future__ import annotations

from collections.abc import Sequence

from batch_magic import lifecycle
from batch_magic.api import Api
from batch_magic.folder import RunFolder, result_name
from batch_magic.journal import Journal
from batch_magic.records import LIVE_FILE, Ending, Job, RunRecord, result_files


def why_kept(journal: Journal, run: RunRecord, now: float) -> str | None:
    """Say why a run may not be cleaned away, and what to do; None when it may."""
    has_result = journal.has_result(run.run_id)
    return reason_to_keep(run, now, borrowers=journal.borrowers(run.run_id), has_result=has_result)


def reason_to_keep(
    run: RunRecord, now: float, *, borrowers: Sequence[str], has_result: bool
) -> str | None:
    """Say the same by what is known: the runs that wait for its answers, whether it was taken."""
    is_dead = lifecycle.never_began(run)
    if run.ending is None or (run.ending is Ending.STOPPED and not is_dead):
        return f"it has not ended; `%gptbatch wait {run.run_id}` or `cancel {run.run_id}` first"
    if borrowers:
        return f"run {borrowers[0]} waits for its answers"
    for job in run.jobs:
        if lifecycle.may_have_results(job, now) and unfetched(run, job):
            return (
                f"result files of {job.batch_id} have not come;"
                f" `%gptbatch attach {run.run_id}` asks for them once more"
            )
    if not is_dead and not has_result:
        return f"its result was never taken; `%gptbatch take {run.run_id}` first"
    return None


def unfetched(run: RunRecord, job: Job) -> list[str]:
    """Return the ids of a job's result files that are not here, verified."""
    named = result_files(job)
    return [file_id for kind, file_id in named if result_name(job.number, kind) not in run.files]


async def delete_remote(api: Api, folder: RunFolder, run: RunRecord) -> None:
    """Delete a run's input files from the service, and those result files that are here as well.

    Raises JournalError, with nothing deleted, when a file here is not what was fetched.
    """
    for name in run.files:
        folder.checked(name)
    ids = {job.file_id for job in run.jobs if job.file_id}
    for job in run.jobs:
        ids |= {file_id for _, file_id in result_files(job)} - set(unfetched(run, job))
    for file_id in sorted(ids - {LIVE_FILE}):
        await api.delete_file(file_id)
