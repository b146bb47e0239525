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
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from batch_magic import billing, lifecycle, outcomes, picture, progress, resending, settling
from batch_magic.api import Api
from batch_magic.durable_files import disk_errors, part_path, settle
from batch_magic.errors import BatchMagicError, JournalError, ServiceError
from batch_magic.folder import Home, RunFolder, Scan
from batch_magic.journal import LEASE_S, Journal, LeaseLost
from batch_magic.lifecycle import (
    Abandon,
    Action,
    CancelRemote,
    Collect,
    Create,
    CutLive,
    Fail,
    GoLive,
    Poll,
    Recut,
    Replace,
    Resubmit,
    Search,
    SendLive,
    Settle,
    Stop,
    TakeOver,
    Upload,
)
from batch_magic.live import Lane, Lanes, Work
from batch_magic.records import (
    NO_WISHES,
    Backend,
    Ending,
    Job,
    JobFault,
    JobStage,
    Pace,
    RemoteJob,
    RowStatus,
    RunRecord,
    Shard,
    Snapshot,
    Wishes,
    result_files,
)
from batch_magic.settling import Glimpse
from batch_magic.wording import counted

log = logging.getLogger("batch_magic.engine")

_IN_DOUBT = "it is not known whether the job was created: looking for it"
METADATA_TOKEN = "batch_magic_job"
METADATA_RUN = "batch_magic_run"
METADATA_PART = "batch_magic_part"

_LIST_SLACK_S = 6 * 3600.0  # how far the service's clock may be behind ours
_RENEW_S = LEASE_S / 3
_QUICK_S = 0.05  # what is done by then is looked at together
_BEAT_S = 0.5  # how often the other runs are looked at while one is busy with slow work
_PARTING_S = 2.0  # what is in flight at the end is given so long to get its receipt
_RUNS_LOOKED_AT = 20  # for how long jobs take
_LIVE_BEAT_S = 0.5  # how often a live lane says how far it is
_GLIMPSE_S = 1.0  # how often what has come in is looked at


class Engine:
    """Drives the runs of one home that this process has taken on.

    `connect` gives the service of a backend, `disconnect` has it looked for anew; `clock` gives
    the Unix time, `token` a fresh name for what is to be paid for; `publish` takes every new
    snapshot. All calls but `drive` and `drives` belong to one event loop.
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
        self._working: dict[str, asyncio.Task[float | None]] = {}  # run id → its step under way
        self._glimpses: dict[str, tuple[object, float, Glimpse]] = {}  # of what, when, what
        self._paces: dict[str, Pace | None] = {}
        self._lanes = Lanes()
        self._leased_until: dict[str, float] = {}

    def drive(self, run_id: str) -> None:
        """Take a run on: it is worked at from the next step on."""
        self._driven.setdefault(run_id, None)

    def drives(self, run_id: str) -> bool:
        """Tell whether this engine works at a run."""
        return run_id in self._driven

    async def stop(self) -> None:
        """Wind up: calls in flight get a moment for their receipts, then leases are given back.

        What is cut off is in doubt, as after a crash, and is looked for next time.
        """
        await self._lanes.close(_PARTING_S)
        if self._working:
            _, busy = await asyncio.wait(self._working.values(), timeout=_PARTING_S)
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)
        for run_id in list(self._driven):
            self._journal.drop_lease(run_id, self._owner)
        self._driven.clear()

    async def step(self) -> float | None:
        """Do what is due for all runs; return the seconds until something is, None for never.

        Each run has one task at a time. Slow work (an upload) goes on behind a step that
        returns, so that no run waits for another's. Raises what the first run to fail raised,
        when all others have had their turn.
        """
        for run_id in list(self._driven):
            if run_id not in self._working:
                self._working[run_id] = asyncio.create_task(self._step_run(run_id))
        if not self._working:
            return None
        done = await self._finished()
        self._working = {key: task for key, task in self._working.items() if task not in done}
        wakes = [wake for wake in [await task for task in _failed_last(done)] if wake is not None]
        pause_s = _BEAT_S if self._working else _RENEW_S
        if not wakes:
            return pause_s if self._working else None
        return min(max(0.0, min(wakes) - self._clock()), pause_s)

    async def _finished(self) -> set[asyncio.Task[float | None]]:
        """Return the tasks that are done quickly, else the first one to be, if it is soon."""
        tasks = self._working.values()
        done, _ = await asyncio.wait(tasks, timeout=_QUICK_S)
        if not done:
            first = asyncio.FIRST_COMPLETED
            done, _ = await asyncio.wait(tasks, timeout=_BEAT_S, return_when=first)
        return done

    async def _step_run(self, run_id: str) -> float | None:
        """Do what is due for one run; return when to look again, None once it has ended."""
        run = self._journal.run(run_id)
        if run.ending is None and not self._take_lease(run_id):
            # Another kernel drives it: show what it writes.
            await self._lanes.end(run_id)
            self._publish(await self._drawn(run, None, is_ours=False))
            return self._clock() + run.limits.poll_first_s
        # Whoever had the lease may have written, and let go, since the run was read.
        run = self._journal.run(run_id)
        lenders = self._lender_endings(run) if run.ending is None else {}
        plan = lifecycle.next_actions(run, self._clock(), lenders)
        try:
            await self._do_all(run, plan.actions)
        except LeaseLost:
            log.info("run %s is driven by another kernel", run_id)
        run = self._note_progress(self._journal.run(run_id))
        if run.ending is not None:
            await self._lanes.end(run_id)
            return self._let_go(run)
        wake_at = self._clock() if plan.actions else plan.wake_at
        self._publish(await self._drawn(run, wake_at, is_ours=True))
        return wake_at

    async def _drawn(self, run: RunRecord, wake_at: float | None, *, is_ours: bool) -> Snapshot:
        """Draw a run that goes on, with its newest answers and its commonest error so far."""
        drawn = picture.snapshot(run, self._clock(), wake_at=wake_at, pace=self._pace(run))
        drawn = replace(drawn, is_driven_elsewhere=not is_ours)
        seen = await self._glimpse(run, drawn)
        return replace(drawn, newest=seen.newest, complaint=seen.complaint)

    def _note_progress(self, run: RunRecord) -> RunRecord:
        """Write down how many rows are done by now, every so often; at the end in any case."""
        now = self._clock()
        drawn = picture.snapshot(run, now)
        rows = picture.rows_done(drawn)
        if not progress.is_due(drawn.progress, now, rows, is_last=run.ending is not None):
            return run
        points = progress.noted(drawn.progress, now, rows)
        try:
            self._journal.note_progress(run.run_id, self._owner, points)
        except LeaseLost:
            return run
        return replace(run, progress=points)

    def _take_lease(self, run_id: str) -> bool:
        now = self._clock()
        is_ours = self._journal.take_lease(run_id, self._owner, now)
        self._leased_until[run_id] = now + LEASE_S if is_ours else 0.0
        return is_ours

    async def _glimpse(self, run: RunRecord, drawn: Snapshot) -> Glimpse:
        """Return what is seen of a run that goes on; looked at anew when more has come in."""
        collected = sum(job.stage is JobStage.COLLECTED for job in run.jobs)
        live = sum(
            sum(lifecycle.claimed(job.remote)) for job in run.jobs if job.is_live and job.remote
        )
        what, now = (collected, live), self._clock()
        known, at, seen = self._glimpses.get(run.run_id, (None, 0.0, Glimpse()))
        if known == what or 0 <= now - at < _GLIMPSE_S or what == (0, 0):
            return seen
        is_resolved = picture.is_troubled(drawn) and not drawn.is_driven_elsewhere
        look = partial(settling.glimpse, self._folder(run), run, is_resolved=is_resolved)
        try:
            seen = await asyncio.to_thread(look)
        except JournalError as error:  # whoever wants the rows is told; a look is worth no stop
            log.warning("run %s cannot be looked into: %s", run.run_id, error)
        self._glimpses[run.run_id] = (what, now, seen)
        return seen

    def _pace(self, run: RunRecord) -> Pace | None:
        """Return how long jobs of the same model took before, looked up once."""
        if run.run_id not in self._paces:
            kin = self._journal.kin(run.backend.identity, run.request.model)
            names = [run_id for run_id, _ in kin if run_id != run.run_id][:_RUNS_LOOKED_AT]
            self._paces[run.run_id] = picture.pace_of(map(self._journal.run, names), run)
        return self._paces[run.run_id]

    def _let_go(self, run: RunRecord) -> float | None:
        self._journal.drop_lease(run.run_id, self._owner)
        self._driven.pop(run.run_id, None)
        if self._journal.run(run.run_id).ending is None:
            # Somebody reopened it between the two reads, and saw it driven.
            self.drive(run.run_id)
            return self._clock()
        self._publish(picture.snapshot(run, self._clock()))
        return None

    def _lender_endings(self, run: RunRecord) -> dict[str, Ending | None]:
        """Tell how the runs stand whose answers this one waits for; see to those still open."""
        endings: dict[str, Ending | None] = {}
        for record in map(self._journal.run, run.lenders):
            endings[record.run_id] = record.ending
            if record.ending in lifecycle.SETTLED and self._refetches(record):
                endings[record.run_id] = None
            if lifecycle.is_given_up(record):
                self._journal.ask_cancel(record.run_id, self._clock())
                endings[record.run_id] = None
            if endings[record.run_id] is None:
                self.drive(record.run_id)
        return endings

    def _refetches(self, run: RunRecord) -> bool:
        """Have result files that never came asked for once more: its rows would be paid again."""
        now = self._clock()
        lost = outcomes.lost_results(self._folder(run), run, verify=False)
        again = [
            lifecycle.asked_again(job, now) for job in lost if lifecycle.may_have_results(job, now)
        ]
        if again:
            self._journal.refetch(run.run_id, again, now)
        return bool(again)

    async def _do_all(self, run: RunRecord, actions: tuple[Action, ...]) -> None:
        """Do all actions, to the end, whatever one of them raises; then raise the first of it."""
        if not actions:
            return
        keeper = asyncio.create_task(self._keep_lease(run.run_id))
        try:
            work = (self._do(run, action) for action in actions)
            results = await asyncio.gather(*work, return_exceptions=True)
        finally:
            keeper.cancel()
        for error in results:
            if error is not None:
                raise error

    async def _keep_lease(self, run_id: str) -> None:
        """Renew a lease while work goes on that may outlast it, such as an upload."""
        while True:
            await asyncio.sleep(_RENEW_S)
            try:
                self._take_lease(run_id)
            except JournalError as error:
                log.warning("the lease of run %s is not renewed: %s", run_id, error)

    async def _do(self, run: RunRecord, action: Action) -> None:
        """Do one action; a failure of the service becomes the job's, not the run's neighbours'."""
        try:
            try:
                await self._act(run, action)
                self._heard(run)
            except ServiceError as error:
                await self._trouble(run, self._as_written(run, action), error)
        except LeaseLost:
            raise
        except BatchMagicError as error:
            # The home is unwell or the key is gone. Nothing is tried again by itself.
            self._end_stopped(run, str(error))
        except Exception as error:
            if not threading.main_thread().is_alive():
                # Executors are shut down before we are. What it was doing is in doubt, no more.
                raise LeaseLost("this process is ending") from error
            log.exception("run %s: %s failed", run.run_id, type(action).__name__)
            self._end_stopped(run, f"{type(error).__name__}: {error} (a bug of batch_magic's)")

    async def _act(self, run: RunRecord, action: Action) -> None:
        match action:
            case Upload(job):
                await self._upload(run, job)
            case Create(job):
                await self._create(run, job)
            case Search(job, give_up, instead):
                await self._search(run, job, give_up, instead)
            case Poll(job):
                remote = await (await self._api(run)).job(_batch_id(job))
                self._save_polled(
                    run, job, lifecycle.after_poll(job, remote, run.limits, self._clock())
                )
            case CancelRemote(job):
                await self._cancel(run, job)
            case Abandon(job):
                self._abandon(run, job)
            case GoLive(job):
                self._go_live(run, job)
            case SendLive(job):
                await self._send_live(run, job)
            case CutLive(job):
                await self._cut_live(run, job)
            case Collect(job, last_try):
                await self._collect(run, job, last_try)
            case Replace(job, fresh_upload, wait_s, why, is_lag):
                again = replace(job, lags=job.lags + is_lag)
                self._replace(run, again, why, fresh_upload=fresh_upload, wait_s=wait_s)
            case Recut(job, why, parts, bad_lines):
                await self._recut(run, job, why, parts, bad_lines)
            case Fail(job):
                self._fail(run, job)
            case Stop(fault, job):
                self._stop(run, fault, job)
            case TakeOver(lenders):
                await self._take_over(run, lenders)
            case Resubmit():
                await self._resubmit(run, action)
            case Settle(ending):
                await self._settle(run, ending)

    # -- out --------------------------------------------------------------------------------

    async def _upload(self, run: RunRecord, job: Job) -> None:
        api, folder = await self._api(run), self._folder(run)
        path, name = folder.shard_path(job.shard), f"batch_magic-{job.token}.jsonl"
        file_id = None
        if job.stage is JobStage.UPLOADING:
            file_id = await api.find_file(name, job.bytes)
        if file_id is None:
            await asyncio.to_thread(folder.check_shard, _shard(run, job))
            job = self._save(run, job, "uploading", stage=JobStage.UPLOADING, tries=job.tries)
            with disk_errors(path):
                file_id = await api.upload(path, name)
        self._save(run, job, f"uploaded as {file_id}", stage=JobStage.UPLOADED, file_id=file_id)

    async def _create(self, run: RunRecord, job: Job) -> None:
        api = await self._api(run)
        await self._post(api, run, self._intend(run, job, "creating"))

    def _intend(self, run: RunRecord, job: Job, event: str) -> Job:
        """Write down that the job is about to be created: from now on it may exist."""
        return self._save(
            run,
            job,
            event,
            stage=JobStage.CREATING,
            tries=job.tries,
            intended_at=self._clock(),
            doubted_at=None,
        )

    async def _search(
        self, run: RunRecord, job: Job, give_up: bool, instead: Abandon | GoLive | None
    ) -> None:
        """Look for the job of an intent without a receipt; the eldest of several is the one."""
        api = await self._api(run)
        since = (job.intended_at or run.created_at) - _LIST_SLACK_S
        found = [one async for one in api.jobs_since(since) if _is_ours(one, job, run)]
        if found:
            found.sort(key=lambda one: one.created_at or 0.0)
            for spare in found[1:]:
                await self._cancel_spare(api, spare)
            self._save_created(run, replace(job, stage=JobStage.RUNNING), found[0])
        elif not give_up:
            now = self._clock()
            since = job.doubted_at if job.doubted_at is not None else now
            wait_s = run.limits.retry_base_s
            self._save(run, job, None, doubted_at=since, due_at=now + wait_s, problem=_IN_DOUBT)
        elif instead is not None:
            await self._act(run, instead)
        else:
            await self._post(api, run, self._intend(run, job, "was not created; creating again"))

    async def _cancel_spare(self, api: Api, spare: RemoteJob) -> None:
        if spare.status in lifecycle.ENDED_STATUSES:
            return
        try:
            await api.cancel(spare.batch_id)
        except ServiceError as error:
            if error.status not in (400, 404, 409):
                raise
            log.warning("the spare job %s cannot be cancelled: %s", spare.batch_id, error)

    def _abandon(self, run: RunRecord, job: Job) -> None:
        none_sent = {RowStatus.CANCELLED: job.rows}
        self._save(run, job, "abandoned", stage=JobStage.COLLECTED, counts=none_sent)

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
            if error.in_doubt and error.code not in lifecycle.FATAL_CODES:
                raise
            refused = replace(job, stage=lifecycle.step(job, JobStage.UPLOADED))
            await self._trouble(run, refused, error)
            return
        running = replace(job, stage=lifecycle.step(job, JobStage.RUNNING))
        try:
            self._save_created(run, running, remote)
        except LeaseLost:
            # This process slept between its intent and now, and another has gone on meanwhile.
            if self._as_written(run, Create(job)).batch_id not in (None, remote.batch_id):
                await self._cancel_spare(api, remote)
            raise

    async def _cancel(self, run: RunRecord, job: Job) -> None:
        api = await self._api(run)
        try:
            remote = await _cancelled(api, _batch_id(job))
        except ServiceError as error:
            if not lifecycle.is_unknown(error, job):
                raise
            # What the service has for us is all that will ever be.
            now = self._clock()
            gone = replace(job, stage=JobStage.ENDED, ended_at=now, cancel_sent_at=now)
            self._write(run, gone, str(error))
            return
        after = lifecycle.after_poll(job, remote, run.limits, self._clock())
        after = replace(after, cancel_sent_at=self._clock())
        self._write(run, after, f"cancel sent, now {remote.status}")

    # -- the live lane ----------------------------------------------------------------------

    def _go_live(self, run: RunRecord, job: Job) -> None:
        successor = self._successor(run, job, JobStage.PLANNED, 0.0, None)
        self._journal.add_work(
            run.run_id,
            self._owner,
            self._clock(),
            event=f"job {job.number + 1} was not created: its rows go live",
            jobs=(replace(successor, is_live=True),),
            closed=replace(job, stage=JobStage.COLLECTED, is_replaced=True),
        )

    async def _send_live(self, run: RunRecord, job: Job) -> None:
        lane = self._lanes.find(run.run_id, job.number)
        if lane is None:
            job = self._intend_live(run, job)
            lane = await self._begin_lane(run, job)
        await lane.work(_LIVE_BEAT_S)
        if lane.is_complete:
            await self._lanes.end(run.run_id, job.number)
            self._write_sent(run, job, lane, "completed")
            return
        self._write_sent(run, job, lane, "in_progress")
        # What other lanes of the run have on their way is paid for: it is waited for.
        fault = self._lanes.fault(run.run_id)
        if fault is not None and self._lanes.are_over(run.run_id):
            self._end_stopped(run, lifecycle.fault_of_lane(fault))

    def _intend_live(self, run: RunRecord, job: Job) -> Job:
        """Write down that rows are about to be asked: from now on they may be paid for."""
        began = job.intended_at or self._clock()
        event = "sent live" if job.stage is JobStage.PLANNED else "goes on live"
        return self._save(run, job, event, stage=JobStage.RUNNING, intended_at=began)

    async def _begin_lane(self, run: RunRecord, job: Job) -> Lane:
        work = Work(run, job, _shard(run, job), self._folder(run), self._owner)
        return await self._lanes.begin(work, await self._api(run), partial(self._may_send, run))

    def _may_send(self, run: RunRecord) -> bool:
        """Tell whether the run is ours still, however long this process may have slept."""
        return self._clock() < self._leased_until.get(run.run_id, 0.0)

    async def _cut_live(self, run: RunRecord, job: Job) -> None:
        lane = self._lanes.find(run.run_id, job.number)
        if lane is not None:
            lane.stop()
            await lane.work(_LIVE_BEAT_S)
            if not lane.is_over:
                self._write_sent(run, job, lane, "in_progress")
                return
            await self._lanes.end(run.run_id, job.number)
        cut = lifecycle.after_sending(job, 0, 0, "cancelled", self._clock())
        self._write(run, cut, "nothing more is sent")

    def _write_sent(self, run: RunRecord, job: Job, lane: Lane, status: str) -> None:
        after = lifecycle.after_sending(job, lane.answered, lane.failed, status, self._clock())
        event = None if status == "in_progress" else f"{lane.answered:,} answered live"
        self._write(run, replace(after, problem=lane.problem), event)

    # -- in ---------------------------------------------------------------------------------

    async def _collect(self, run: RunRecord, job: Job, last_try: bool) -> None:
        api, folder = await self._api(run), self._folder(run)
        problem = None
        if job.is_live:
            await asyncio.to_thread(folder.settle_live, job.number)
        try:
            await self._download(api, folder, job, last_try=last_try)
        except ServiceError as error:
            if not lifecycle.is_gone(error, job, run, last_try=last_try):
                raise
            problem = str(error)
        has_come = problem is None and not (job.remote and job.remote.lacks_named_files)
        names = [folder.result_path(job.number, kind).name for kind, _ in result_files(job)]
        files = await asyncio.to_thread(folder.hashes, *names)
        lost = set(names) & run.files.keys() - files.keys()
        run = replace(run, files={name: run.files[name] for name in run.files.keys() - lost})
        folder = self._folder(run)
        scan, unwrapped = await asyncio.to_thread(outcomes.scan_job, folder, run, job.number)
        collected = replace(job, stage=JobStage.COLLECTED, problem=problem)
        count = await asyncio.to_thread(outcomes.count_job, folder, run, collected)
        taken = await asyncio.to_thread(billing.taken_by, folder, run, job)
        self._save(
            run,
            job,
            f"collected {counted(job.rows, 'row')}",
            stage=JobStage.COLLECTED,
            counts=count.counts,
            retryable=count.retryable,
            usage=None if taken is None else taken.usage,
            cost=None if taken is None else taken.cost,
            spent=None if taken is None else taken.spent,
            model=scan.model,
            problem=problem or _oddities(scan, unwrapped),
            is_refetched=job.is_refetched and not has_come,
            files=files,
            lost=lost,
        )
        if job.is_live:
            folder.drop_live(job.number)

    async def _download(self, api: Api, folder: RunFolder, job: Job, *, last_try: bool) -> None:
        """Bring both files, as far as there are any; raise the first failure after both."""
        failure: ServiceError | None = None
        for kind, file_id in result_files(job):
            path = folder.result_path(job.number, kind)
            if path.exists():
                continue
            part = part_path(path, self._owner)
            try:
                with disk_errors(part):
                    size = await api.download(file_id, part)
                await _check_size(api, file_id, size, last_try=last_try)
            except ServiceError as error:
                failure = failure or error
                continue
            settle(part, path)
        if failure is not None:
            raise failure

    async def _take_over(self, run: RunRecord, lenders: tuple[str, ...]) -> None:
        folder, found = self._folder(run), self._with_folders(lenders)
        taken = await asyncio.to_thread(resending.take_over, folder, run, found)
        self._journal.add_work(
            run.run_id,
            self._owner,
            self._clock(),
            event=f"took over {counted(taken.answered, 'answer')} of {', '.join(lenders)}",
            shards=taken.shards,
            jobs=plan_jobs(taken.shards, self._token, is_live=self._is_live(run)),
            settled=taken.counts,
            files=taken.files,
            repays=True,
        )

    def _is_live(self, run: RunRecord) -> bool:
        return lifecycle.goes_live(run, self._clock())

    async def _resubmit(self, run: RunRecord, asked: Resubmit) -> None:
        """Send rows again; what other runs were answered meanwhile is taken over first."""
        wishes = asked.wishes
        cut_off = lifecycle.CUT_OFF if asked.leftovers else ()
        kin = self._kin(run) if wishes else []
        filled = await asyncio.to_thread(resending.fill, self._folder(run), run, wishes, kin)
        run = replace(run, files={**run.files, **filled.files})
        folder = self._folder(run)
        send = partial(resending.resend, folder, run, asked.round, wishes, kin, cut_off)
        shards, why = await asyncio.to_thread(send, passing=asked.passing)
        if shards or filled.rows:
            rows = counted(sum(shard.rows for shard in shards), "row")
            taken = f", {counted(filled.rows, 'row')} taken over from other runs"
            is_asked = bool(wishes or cut_off)
            wait_s = 0.0 if is_asked else run.limits.retry_base_s * 2 ** (asked.round - 1)
            due_at = self._clock() + wait_s
            self._journal.add_work(
                run.run_id,
                self._owner,
                self._clock(),
                event=f"round {asked.round}: {rows} again{taken if filled.rows else ''}: {why}",
                shards=shards,
                jobs=plan_jobs(shards, self._token, due_at=due_at, is_live=self._is_live(run)),
                settled=filled.change,
                files=filled.files,
                granted=wishes if shards else NO_WISHES,
            )
        if not shards:
            # At once: a step later, nothing would tell that no other row was wished for.
            await self._settle(self._journal.run(run.run_id), Ending.FINISHED, granted=wishes)

    def _kin(self, run: RunRecord) -> list[tuple[RunFolder, RunRecord]]:
        """Return the runs whose answers this one may have taken over."""
        kin = self._journal.kin(run.backend.identity, run.request.model)
        return self._with_folders(run_id for run_id, _ in kin)

    def _with_folders(self, run_ids: Iterable[str]) -> list[tuple[RunFolder, RunRecord]]:
        return [(self._folder(one), one) for one in map(self._journal.run, run_ids)]

    async def _settle(self, run: RunRecord, ending: Ending, granted: Wishes = NO_WISHES) -> None:
        settled = await asyncio.to_thread(settling.settle, self._folder(run), run)
        self._journal.end_run(
            run.run_id,
            self._owner,
            self._clock(),
            ending=ending,
            counts=settled.counts,
            fault=settled.complaint,
            saved=settled.saved,
            files=settled.files,
            granted=granted,
            model_served=picture.snapshot(run, self._clock()).model_served,
        )

    # -- when it goes wrong -----------------------------------------------------------------

    async def _trouble(self, run: RunRecord, job: Job, error: ServiceError) -> None:
        now = self._clock()
        unreached_s = self._unreached_s(run, error, now)
        if error.status is None and run.backend.is_sandbox:
            await self._disconnect(run.backend)  # its next life may be at another port
        if job.stage is JobStage.CREATING and run.cancel_at is not None and error.status == 404:
            self._abandon(run, job)  # a host that keeps no list: there is nothing to look in
            return
        if lifecycle.is_fatal(error, job, unreached_s=unreached_s):
            self._write(run, replace(job, problem=str(error)), f"stopped: {error}")
            self._end_stopped(run, lifecycle.fault_of(error, job))
            return
        self._write(run, lifecycle.after_trouble(job, error, run.limits, now), str(error))

    def _end_stopped(self, run: RunRecord, fault: str) -> None:
        now = self._clock()
        self._journal.end_run(run.run_id, self._owner, now, ending=Ending.STOPPED, fault=fault)

    def _heard(self, run: RunRecord) -> None:
        if run.run_id in self._driven:
            self._driven[run.run_id] = None

    def _as_written(self, run: RunRecord, action: Action) -> Job:
        """Read an action's job again: the call that failed may have written its intent first."""
        number = getattr(action, "job").number  # noqa: B009  (only actions on a job call out)
        return next(job for job in self._journal.run(run.run_id).jobs if job.number == number)

    def _unreached_s(self, run: RunRecord, error: ServiceError, now: float) -> float:
        nothing_sent = all(job.file_id is None for job in run.jobs)
        if error.status is not None or not nothing_sent:
            return 0.0
        since = self._driven.get(run.run_id)
        if since is None:
            self._driven[run.run_id] = since = now
        return now - since

    def _replace(
        self, run: RunRecord, job: Job, why: str, *, fresh_upload: bool, wait_s: float
    ) -> None:
        stage = JobStage.PLANNED if fresh_upload else JobStage.UPLOADED
        successor = self._successor(run, job, stage, wait_s, why)
        closed = replace(job, stage=JobStage.COLLECTED, is_replaced=True)
        self._journal.add_work(
            run.run_id,
            self._owner,
            self._clock(),
            event=f"job {job.number} again: {why}",
            jobs=(successor,),
            closed=closed,
        )

    async def _recut(
        self, run: RunRecord, job: Job, why: str, parts: int, bad_lines: frozenset[int]
    ) -> None:
        folder = self._folder(run)
        shards = await asyncio.to_thread(resending.recut, folder, run, job, parts, bad_lines)
        planned = plan_jobs(shards, self._token)
        refusals = job.refusals + bool(bad_lines)
        self._journal.add_work(
            run.run_id,
            self._owner,
            self._clock(),
            event=f"job {job.number + 1} cut into {counted(len(shards), 'job')}: {why}",
            shards=shards,
            jobs=[replace(one, attempt=job.attempt + 1, refusals=refusals) for one in planned],
            closed=replace(job, stage=JobStage.COLLECTED, is_replaced=True),
            settled={RowStatus.FAILED: len(bad_lines)},
        )

    def _fail(self, run: RunRecord, job: Job) -> None:
        """Close a job as the service would have, had it looked at it."""
        fault = JobFault("too_large", job.problem or "its file was refused for its size")
        refused = RemoteJob("", "failed", faults=(fault,))
        failed = {RowStatus.FAILED: job.rows}
        self._save(run, job, fault.message, stage=JobStage.COLLECTED, remote=refused, counts=failed)

    def _stop(self, run: RunRecord, fault: str, job: Job | None) -> None:
        if job is not None:
            self._replace(run, job, fault, fresh_upload=True, wait_s=0.0)
        self._end_stopped(run, fault)

    def _successor(
        self, run: RunRecord, job: Job, stage: JobStage, wait_s: float, why: str | None
    ) -> Job:
        keeps_file = stage is JobStage.UPLOADED
        return Job(
            number=len(run.jobs),  # the journal gives the next free one
            shard=job.shard,
            round=job.round,
            rows=job.rows,
            bytes=job.bytes,
            stage=stage,
            token=self._token(),
            due_at=self._clock() + wait_s,
            attempt=job.attempt + 1,
            lags=job.lags,
            refusals=job.refusals,
            file_id=job.file_id if keeps_file else None,
            problem=why,
        )

    # -- plumbing ---------------------------------------------------------------------------

    async def _api(self, run: RunRecord) -> Api:
        return await self._connect(run.backend)

    def _folder(self, run: RunRecord) -> RunFolder:
        return self._home.run_folder(run.run_id, run.files)

    def _save(
        self,
        run: RunRecord,
        job: Job,
        event: str | None,
        *,
        files: Mapping[str, str] = MappingProxyType({}),
        lost: Collection[str] = (),
        **changes: object,
    ) -> Job:
        """Write a job with changes of ours; a change of stage must be one that is allowed."""
        stage = changes.pop("stage", job.stage)
        assert isinstance(stage, JobStage)
        fields = {"due_at": 0.0, "tries": 0, "problem": None, **changes}
        saved = replace(job, stage=lifecycle.step(job, stage), **fields)  # type: ignore[arg-type]
        self._write(run, saved, event, files, lost)
        return saved

    def _save_created(self, run: RunRecord, running: Job, remote: RemoteJob) -> None:
        after = lifecycle.after_poll(running, remote, run.limits, self._clock())
        self._write(run, after, f"created as {remote.batch_id}")

    def _save_polled(self, run: RunRecord, before: Job, after: Job) -> None:
        changed = after.remote_status != before.remote_status
        self._write(run, after, after.remote_status if changed else None)

    def _write(
        self,
        run: RunRecord,
        job: Job,
        event: str | None,
        files: Mapping[str, str] = MappingProxyType({}),
        lost: Collection[str] = (),
    ) -> None:
        self._journal.save_job(run.run_id, self._owner, job, self._clock(), event, files, lost)


def plan_jobs(
    shards: tuple[Shard, ...] | list[Shard],
    token: Callable[[], str],
    *,
    due_at: float = 0.0,
    is_live: bool = False,
) -> tuple[Job, ...]:
    """Return a planned job for each shard that is to be sent, numbered from 0."""
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
            is_live=is_live,
        )
        for number, shard in enumerate(one for one in shards if not one.held)
    )


def _failed_last(done: Iterable[asyncio.Task[float | None]]) -> list[asyncio.Task[float | None]]:
    return sorted(done, key=lambda task: task.exception() is not None)


async def _cancelled(api: Api, batch_id: str) -> RemoteJob:
    try:
        return await api.cancel(batch_id)
    except ServiceError as error:
        if error.status not in (400, 409):
            raise
        return await api.job(batch_id)  # it had ended already


async def _check_size(api: Api, file_id: str, size: int, *, last_try: bool) -> None:
    """Compare a download with what the service says of the file, if it says anything."""
    try:
        expected = await api.file_bytes(file_id)
    except ServiceError as error:
        if error.status is None or not last_try:
            raise
        return
    # 0 is no answer: some hosts do not count. In the end a whole download is worth more.
    if expected and expected != size and not last_try:
        raise ServiceError(f"the download of {file_id} has {size} of {expected} bytes", status=200)


def _shard(run: RunRecord, job: Job) -> Shard:
    return next(shard for shard in run.shards if shard.number == job.shard)


def _batch_id(job: Job) -> str:
    assert job.batch_id is not None, "a running job has its receipt"
    return job.batch_id


def _is_ours(remote: RemoteJob, job: Job, run: RunRecord) -> bool:
    """Tell whether a job at the service is the one that this intent made.

    By the token; where a host keeps no metadata, by the input file, unless it is a job of this
    run that we know already (a refused one, whose file is used again).
    """
    if METADATA_TOKEN in remote.metadata:
        return remote.metadata[METADATA_TOKEN] == job.token
    is_known = any(one.batch_id == remote.batch_id for one in run.jobs)
    return remote.input_file_id == job.file_id and not is_known


def _oddities(scan: Scan, unwrapped: int) -> str | None:
    said = list(settling.unwrapped_words(unwrapped))
    if scan.repeated:
        said.append(f"{counted(scan.repeated, 'row')} answered twice: the first good answer holds")
    if scan.foreign:
        said.append(f"{counted(scan.foreign, 'result line')} for rows of other runs")
    if scan.malformed:
        some = ", ".join(str(n) for n in scan.malformed[:5])
        said.append(f"{counted(len(scan.malformed), 'unreadable result line')} (line {some})")
    return "; ".join(said) or None
