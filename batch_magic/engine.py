"""The only place where intent meets effect: journal → lifecycle → api → journal.

One `step()` re-reads each run that this process drives, asks `lifecycle` what to do, does it
through `api`, and writes the receipt. It never remembers: going on after a crash is the same
step over the same journal. It knows no DataFrame, no template, no widget and no thread; the
clock is handed in.

The traps: the intent is committed before the call that costs money, with the lease checked in
the same transaction, and a call whose answer never came is looked for before it is made again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from batch_magic import lifecycle, outcomes
from batch_magic.api import Api
from batch_magic.errors import BatchMagicError, JournalError, ServiceError
from batch_magic.folder import Home, RunFolder, settle_download
from batch_magic.journal import LEASE_S, Journal, LeaseLost
from batch_magic.lifecycle import (
    Abandon,
    Action,
    CancelRemote,
    Collect,
    Create,
    Poll,
    Replace,
    Resubmit,
    Search,
    Settle,
    Stop,
    TakeOver,
    Upload,
)
from batch_magic.records import (
    Backend,
    Ending,
    Job,
    JobStage,
    RowStatus,
    RunRecord,
    Shard,
    Snapshot,
)

log = logging.getLogger("batch_magic.engine")

METADATA_TOKEN = "batch_magic_job"
METADATA_RUN = "batch_magic_run"
METADATA_PART = "batch_magic_part"

_LIST_SLACK_S = 300.0  # how far the service's clock may be behind ours
_RENEW_S = LEASE_S / 3


class Engine:
    """Drives the runs of one home that this process has taken on.

    `connect` gives the service of a backend, `clock` the Unix time, `token` a fresh name for
    what is to be paid for, `publish` takes every new snapshot. All calls but `drive`, `drives`
    and `drop` belong to one event loop.
    """

    def __init__(
        self,
        home: Home,
        journal: Journal,
        *,
        owner: str,
        connect: Callable[[Backend], Awaitable[Api]],
        disconnect: Callable[[Backend], Awaitable[None]],
        clock: Callable[[], float],
        token: Callable[[], str],
        publish: Callable[[Snapshot], None],
    ) -> None:
        self._home, self._journal, self._owner = home, journal, owner
        self._connect, self._disconnect = connect, disconnect
        self._clock, self._token, self._publish = clock, token, publish
        self._driven: dict[str, float | None] = {}  # run id → since when nothing is heard

    def drive(self, run_id: str) -> None:
        """Take a run on: it is worked at from the next step on."""
        self._driven.setdefault(run_id, None)

    def drives(self, run_id: str) -> bool:
        """Tell whether this engine works at a run."""
        return run_id in self._driven

    def release(self) -> None:
        """Give all leases back, so that another kernel need not wait."""
        for run_id in list(self._driven):
            self._journal.drop_lease(run_id, self._owner)
        self._driven.clear()

    async def step(self) -> float | None:
        """Do what is due for all runs; return the seconds until something is, None for never."""
        wakes = await asyncio.gather(*map(self._step_run, list(self._driven)))
        known = [wake for wake in wakes if wake is not None]
        if not known:
            return None
        return min(max(0.0, min(known) - self._clock()), _RENEW_S)

    async def _step_run(self, run_id: str) -> float | None:
        """Do what is due for one run; return when to look again, None once it has ended."""
        run = self._journal.run(run_id)
        for lender in run.lenders:
            if self._journal.run(lender).ending is None:
                self.drive(lender)
        if run.ending is None and not self._journal.take_lease(run_id, self._owner, self._clock()):
            # Another kernel drives it: show what it writes.
            self._publish(lifecycle.snapshot(run, self._clock()))
            return self._clock() + run.limits.poll_first_s
        plan = lifecycle.next_actions(run, self._clock(), self._ended_lenders(run))
        try:
            await self._do_all(run, plan.actions)
        except LeaseLost:
            log.info("run %s is driven by another kernel", run_id)
        run = self._journal.run(run_id)
        wake_at = self._clock() if plan.actions and run.ending is None else plan.wake_at
        self._publish(lifecycle.snapshot(run, self._clock(), wake_at=wake_at))
        if run.ending is not None:
            self._journal.drop_lease(run_id, self._owner)
            self._driven.pop(run_id, None)
            return None
        return wake_at

    def _ended_lenders(self, run: RunRecord) -> frozenset[str]:
        ended = (one for one in run.lenders if self._journal.run(one).ending is not None)
        return frozenset(ended)

    async def _do_all(self, run: RunRecord, actions: tuple[Action, ...]) -> None:
        if not actions:
            return
        work = asyncio.gather(*(self._do(run, action) for action in actions))
        while True:
            # An upload may outlast the lease: keep it while working.
            done, _ = await asyncio.wait({work}, timeout=_RENEW_S)
            if done:
                break
            self._journal.take_lease(run.run_id, self._owner, self._clock())
        for error in await work:
            if error is not None:
                raise error

    async def _do(self, run: RunRecord, action: Action) -> BatchMagicError | None:
        """Do one action; a failure of the service becomes the job's, not the run's neighbours'."""
        try:
            try:
                await self._act(run, action)
                self._driven[run.run_id] = None
            except ServiceError as error:
                await self._trouble(run, self._as_written(run, action), error)
        except LeaseLost as error:
            return error
        except JournalError as error:
            # The home is unwell. Nothing is tried again by itself; attach goes on.
            self._journal.end_run(
                run.run_id, self._owner, self._clock(), ending=Ending.STOPPED, fault=str(error)
            )
        return None

    async def _act(self, run: RunRecord, action: Action) -> None:
        match action:
            case Upload(job):
                await self._upload(run, job)
            case Create(job):
                await self._create(run, job)
            case Search(job, give_up):
                await self._search(run, job, give_up)
            case Poll(job):
                remote = await (await self._api(run)).job(_batch_id(job))
                self._save_polled(
                    run, job, lifecycle.after_poll(job, remote, run.limits, self._clock())
                )
            case CancelRemote(job):
                await self._cancel(run, job)
            case Abandon(job):
                self._save(
                    run,
                    job,
                    "abandoned",
                    stage=JobStage.COLLECTED,
                    counts={RowStatus.CANCELLED: job.rows},
                )
            case Collect(job, last_try):
                await self._collect(run, job, last_try)
            case Replace(job, fresh_upload, wait_s, why):
                self._replace(run, job, why, fresh_upload=fresh_upload, wait_s=wait_s)
            case Stop(fault, job):
                self._stop(run, fault, job)
            case TakeOver(lenders):
                await self._take_over(run, lenders)
            case Resubmit(round):
                await self._resubmit(run, round)
            case Settle(ending):
                await self._settle(run, ending)

    # -- out --------------------------------------------------------------------------------

    async def _upload(self, run: RunRecord, job: Job) -> None:
        api, folder = await self._api(run), self._folder(run)
        path, name = folder.shard_path(job.shard), f"batch_magic-{job.token}.jsonl"
        file_id = None
        if job.stage is JobStage.UPLOADING:
            file_id = await api.find_file(name, job.bytes)
        else:
            await asyncio.to_thread(folder.check_shard, _shard(run, job))
            job = self._save(run, job, "uploading", stage=JobStage.UPLOADING)
        file_id = file_id or await api.upload(path, name)
        self._save(run, job, f"uploaded as {file_id}", stage=JobStage.UPLOADED, file_id=file_id)

    async def _create(self, run: RunRecord, job: Job) -> None:
        api = await self._api(run)
        now = self._clock()
        job = self._save(run, job, "creating", stage=JobStage.CREATING, intended_at=now)
        await self._post(api, run, job)

    async def _search(self, run: RunRecord, job: Job, give_up: bool) -> None:
        """Look for the job of an intent without a receipt; the eldest of several is the one."""
        api = await self._api(run)
        since = (job.intended_at or run.created_at) - _LIST_SLACK_S
        found = [one async for one in api.jobs_since(since) if _is_ours(one.metadata, job)]
        if found:
            found.sort(key=lambda one: one.created_at or 0.0)
            for spare in found[1:]:
                await api.cancel(spare.batch_id)
            self._save_created(
                run,
                job,
                lifecycle.after_poll(
                    replace(job, stage=JobStage.RUNNING), found[0], run.limits, self._clock()
                ),
            )
        elif give_up:
            now = self._clock()
            job = self._save(run, job, "was not created; creating again", intended_at=now)
            if run.cancel_at is not None:
                self._save(
                    run,
                    job,
                    "abandoned",
                    stage=JobStage.COLLECTED,
                    counts={RowStatus.CANCELLED: job.rows},
                )
                return
            await self._post(api, run, job)
        else:
            self._save(run, job, None, due_at=self._clock() + run.limits.retry_base_s)

    async def _post(self, api: Api, run: RunRecord, job: Job) -> None:
        """Send the paying call, once. What is in doubt stays CREATING; a plain no goes back."""
        metadata = {
            METADATA_TOKEN: job.token,
            METADATA_RUN: run.run_id,
            METADATA_PART: f"{job.number + 1} of {len(run.jobs)}",
        }
        if run.backend.is_sandbox:
            metadata["batch_magic_note"] = "sandbox: answers are made on this machine"
        try:
            remote = await api.create(job.file_id or "", run.request.endpoint, metadata)
        except ServiceError as error:
            if error.in_doubt:
                raise
            refused = replace(job, stage=lifecycle.step(job, JobStage.UPLOADED))
            await self._trouble(run, refused, error)
            return
        running = replace(job, stage=lifecycle.step(job, JobStage.RUNNING))
        self._save_created(
            run, job, lifecycle.after_poll(running, remote, run.limits, self._clock())
        )

    async def _cancel(self, run: RunRecord, job: Job) -> None:
        api = await self._api(run)
        try:
            remote = await api.cancel(_batch_id(job))
        except ServiceError as error:
            if error.status not in (400, 409):
                raise
            remote = await api.job(_batch_id(job))  # it had ended already
        after = lifecycle.after_poll(job, remote, run.limits, self._clock())
        after = replace(after, cancel_sent_at=self._clock())
        self._write(run, after, f"cancel sent, now {remote.status}")

    # -- in ---------------------------------------------------------------------------------

    async def _collect(self, run: RunRecord, job: Job, last_try: bool) -> None:
        api, folder = await self._api(run), self._folder(run)
        problem = None
        try:
            await self._download(api, folder, job)
        except ServiceError as error:
            if not last_try and error.status != 410:
                raise
            problem = str(error)
        endpoint = run.request.endpoint
        scan = await asyncio.to_thread(folder.scan_job, job.number, run.run_id, endpoint)
        collected = replace(job, stage=JobStage.COLLECTED, problem=problem)
        count = await asyncio.to_thread(outcomes.count_job, folder, run, collected)
        self._save(
            run,
            job,
            f"collected {job.rows} rows",
            stage=JobStage.COLLECTED,
            counts=count.counts,
            retryable=count.retryable,
            usage=scan.usage,
            model=scan.model,
            problem=problem or _oddities(scan.foreign, scan.malformed),
        )

    async def _download(self, api: Api, folder: RunFolder, job: Job) -> None:
        remote = job.remote
        files = {
            "output": remote.output_file_id if remote else None,
            "error": remote.error_file_id if remote else None,
        }
        for kind, file_id in files.items():
            path = folder.result_path(job.number, kind)
            if not file_id or path.exists():
                continue
            part = path.with_suffix(".part")
            size = await api.download(file_id, part)
            expected = await api.file_bytes(file_id)
            if expected is not None and expected != size:
                raise ServiceError(f"the download of {file_id} has {size} of {expected} bytes")
            settle_download(part, path)

    async def _take_over(self, run: RunRecord, lenders: tuple[str, ...]) -> None:
        found = [self._home.run_folder(lender).answered() for lender in lenders]
        answered = [answers for answers in found if answers is not None]
        taken = await asyncio.to_thread(outcomes.take_over, self._folder(run), run, answered)
        decided = dict(run.decided)
        for status, n in taken.counts.items():
            decided[status] = decided.get(status, 0) + n
        self._journal.repay(
            run.run_id,
            self._owner,
            self._clock(),
            decided=decided,
            shards=taken.shards,
            jobs=self._jobs_for(run, taken.shards),
            event=f"took over {taken.answered} answers of {', '.join(lenders)}",
        )

    async def _resubmit(self, run: RunRecord, round: int) -> None:
        shards = await asyncio.to_thread(outcomes.resend, self._folder(run), run, round)
        rows = sum(shard.rows for shard in shards)
        wait_s = run.limits.retry_base_s * 2 ** (round - 1)
        self._journal.add_work(
            run.run_id,
            self._owner,
            self._clock(),
            event=f"round {round}: {rows} rows again",
            shards=shards,
            jobs=self._jobs_for(run, shards, due_at=self._clock() + wait_s),
        )

    async def _settle(self, run: RunRecord, ending: Ending) -> None:
        counts = await asyncio.to_thread(outcomes.settle, self._folder(run), run)
        self._journal.end_run(
            run.run_id,
            self._owner,
            self._clock(),
            ending=ending,
            counts=counts,
            model_served=lifecycle.snapshot(run, self._clock()).model_served,
        )

    # -- when it goes wrong -----------------------------------------------------------------

    async def _trouble(self, run: RunRecord, job: Job, error: ServiceError) -> None:
        now = self._clock()
        unreached_s = self._unreached_s(run, error, now)
        if error.status is None:
            await self._disconnect(run.backend)
        if lifecycle.is_fatal(error, job, now, unreached_s=unreached_s):
            self._save_plain(run, replace(job, problem=str(error)), f"stopped: {error}")
            self._journal.end_run(
                run.run_id, self._owner, now, ending=Ending.STOPPED, fault=str(error)
            )
            return
        self._save_plain(run, lifecycle.after_trouble(job, error, run.limits, now), f"{error}")

    def _as_written(self, run: RunRecord, action: Action) -> Job:
        """Read an action's job again: the call that failed may have written its intent first."""
        number = getattr(action, "job").number  # noqa: B009  (only actions on a job call out)
        return next(job for job in self._journal.run(run.run_id).jobs if job.number == number)

    def _unreached_s(self, run: RunRecord, error: ServiceError, now: float) -> float:
        nothing_sent = all(job.file_id is None for job in run.jobs)
        if error.status is not None or not nothing_sent:
            return 0.0
        since = self._driven.get(run.run_id)
        self._driven[run.run_id] = since if since is not None else now
        return now - (since if since is not None else now)

    def _replace(
        self, run: RunRecord, job: Job, why: str, *, fresh_upload: bool, wait_s: float
    ) -> None:
        stage = JobStage.PLANNED if fresh_upload else JobStage.UPLOADED
        successor = self._successor(run, job, stage, wait_s, why)
        closed = replace(job, stage=JobStage.COLLECTED, problem=lifecycle.REPLACED)
        self._journal.add_work(
            run.run_id,
            self._owner,
            self._clock(),
            event=f"job {job.number} again: {why}",
            jobs=(successor,),
            closed=closed,
        )

    def _stop(self, run: RunRecord, fault: str, job: Job | None) -> None:
        if job is not None:
            self._replace(run, job, fault, fresh_upload=True, wait_s=0.0)
        self._journal.end_run(
            run.run_id, self._owner, self._clock(), ending=Ending.STOPPED, fault=fault
        )

    def _successor(self, run: RunRecord, job: Job, stage: JobStage, wait_s: float, why: str) -> Job:
        keeps_file = stage is JobStage.UPLOADED
        return Job(
            number=1 + max(one.number for one in self._journal.run(run.run_id).jobs),
            shard=job.shard,
            round=job.round,
            rows=job.rows,
            bytes=job.bytes,
            stage=stage,
            token=self._token(),
            due_at=self._clock() + wait_s,
            tries=job.tries + 1,
            file_id=job.file_id if keeps_file else None,
            problem=why,
        )

    def _jobs_for(
        self, run: RunRecord, shards: tuple[Shard, ...] | list[Shard], due_at: float = 0.0
    ) -> tuple[Job, ...]:
        first = 1 + max((job.number for job in run.jobs), default=-1)
        return plan_jobs(shards, self._token, first=first, due_at=due_at)

    # -- plumbing ---------------------------------------------------------------------------

    async def _api(self, run: RunRecord) -> Api:
        return await self._connect(run.backend)

    def _folder(self, run: RunRecord) -> RunFolder:
        return self._home.run_folder(run.run_id)

    def _save(self, run: RunRecord, job: Job, event: str | None, **changes: object) -> Job:
        """Write a job with changes of ours; a change of stage must be one that is allowed."""
        stage = changes.pop("stage", job.stage)
        assert isinstance(stage, JobStage)
        fields = {"due_at": 0.0, "tries": 0, "problem": None, **changes}
        saved = replace(job, stage=lifecycle.step(job, stage), **fields)  # type: ignore[arg-type]
        self._write(run, saved, event)
        return saved

    def _save_created(self, run: RunRecord, job: Job, running: Job) -> None:
        self._write(run, running, f"created as {running.batch_id}")

    def _save_polled(self, run: RunRecord, before: Job, after: Job) -> None:
        changed = after.remote_status != before.remote_status
        self._write(run, after, after.remote_status if changed else None)

    def _save_plain(self, run: RunRecord, job: Job, event: str) -> None:
        self._write(run, job, event)

    def _write(self, run: RunRecord, job: Job, event: str | None) -> None:
        self._journal.save_job(run.run_id, self._owner, job, self._clock(), event)


def plan_jobs(
    shards: tuple[Shard, ...] | list[Shard],
    token: Callable[[], str],
    *,
    first: int = 0,
    due_at: float = 0.0,
) -> tuple[Job, ...]:
    """Return a planned job for each shard that is to be sent."""
    return tuple(
        Job(
            number=number,
            shard=shard.number,
            round=shard.round,
            rows=shard.rows,
            bytes=shard.bytes,
            stage=JobStage.PLANNED,
            token=token(),
            due_at=due_at,
        )
        for number, shard in enumerate((one for one in shards if not one.held), start=first)
    )


def _shard(run: RunRecord, job: Job) -> Shard:
    return next(shard for shard in run.shards if shard.number == job.shard)


def _batch_id(job: Job) -> str:
    assert job.batch_id is not None, "a running job has its receipt"
    return job.batch_id


def _is_ours(metadata: object, job: Job) -> bool:
    return isinstance(metadata, dict) and metadata.get(METADATA_TOKEN) == job.token


def _oddities(foreign: int, malformed: tuple[int, ...]) -> str | None:
    said = []
    if foreign:
        said.append(f"{foreign} result lines are for rows of other runs")
    if malformed:
        some = ", ".join(str(n) for n in malformed[:5])
        said.append(f"{len(malformed)} result lines cannot be read (line {some})")
    return "; ".join(said) or None
