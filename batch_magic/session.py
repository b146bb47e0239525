"""The composition root: one home of this process, its journal, its engine, its runs.

It puts the rooms together for one home of this process, hands out ids and the wall clock, and
holds no rule about jobs: those are `lifecycle`'s. A `Run` is a handle: everything it says is
read from the journal or from the last published snapshot. The traps: nothing here runs on the
heartbeat's thread except what was handed to it, and a blocking wait must neither starve the
loop of its host nor swallow an interrupt.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batch_magic import (
    adoption,
    caps,
    cleaning,
    costs,
    lifecycle,
    outcomes,
    overview,
    picture,
    plots,
    resending,
    result,
    settings,
    settling,
)
from batch_magic import frame as frames
from batch_magic.answers import knows_rules
from batch_magic.caps import Leave
from batch_magic.causes import requests_again
from batch_magic.closeup import Closeup, Letter
from batch_magic.diagnosis import Case
from batch_magic.drafting import (
    Options,
    check_name,
    draft,
    max_cost_usd,
    remember_by_name,
    reshaped,
    sampled,
)
from batch_magic.engine import METADATA_TOKEN, Engine, plan_jobs
from batch_magic.errors import (
    BatchMagicError,
    CellError,
    JournalError,
)
from batch_magic.explorer import Explorer, RunRows
from batch_magic.folder import Home, RunFolder
from batch_magic.heartbeat import Heartbeat
from batch_magic.journal import Journal, Outdated
from batch_magic.lookout import Lookout
from batch_magic.prepare import Preparation, Tallies, known_answers
from batch_magic.records import (
    NO_WISHES,
    PAID,
    UNANSWERED,
    Backend,
    Ending,
    Estimate,
    Job,
    JobStage,
    RemoteJob,
    RowStatus,
    RunRecord,
    Snapshot,
    Wish,
    Wishes,
)
from batch_magic.run import Run
from batch_magic.services import Services
from batch_magic.settings import Settings
from batch_magic.template import Template
from batch_magic.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("batch_magic")

# A cell has 1 s for 10,000 rows and 2 s at most: what is not on disk by then goes on behind.
_CELL_S = 0.6
_NO_NAMES: Mapping[str, object] = MappingProxyType({})
_WAIT_SLICE_S = 0.2
_LOOKED_BACK_S = 30 * 86_400.0  # the service keeps files for so long


class Session:
    """One home in this process: its journal, its engine, its runs."""

    def __init__(self, home: Path) -> None:
        self.home = Home(home)
        self.home.check_journal()
        notebook = settings.notebook(settings.environment(Path.cwd()), home.parent)
        self.journal = Journal(self.home.journal_path, notebook=notebook)
        self.home.check_known(self.journal.run_ids())
        for run_id in self.journal.unhashed():
            self.journal.add_files(run_id, self.home.run_folder(run_id).all_hashes())
        self._last_error = ""
        self._handles: list[Run] = []  # two may be of one run: the same cell, twice
        # A lease is one session's, not the process's: the heartbeat of a session that was closed
        # may still have a call under way when its successor begins.
        self._owner = secrets.token_hex(8)
        self._services = Services(self.home.sandbox_path)
        self._leave = Leave(0.0)

    def _use(self, use: Settings) -> Mapping[str, str]:
        """Go by these settings from now on. Returns the environment that they were read with."""
        environ = settings.environment(Path.cwd())
        self._services.use(use, environ)
        self._leave = Leave(use.confirm_above_usd)
        return environ

    # -- submit -----------------------------------------------------------------------------

    def submit(self, frame: object, template: str, options: Options, use: Settings) -> Run:
        """Start a run, or go on with the one that is just this. Raises before anything is sent."""
        environ = self._use(use)
        draft, held, compiled = drafted(frame, template, options, use, environ)
        places = None
        if options.sample is not None:
            draft, held, places = sampled(draft, held, options.sample)
        draft = replace(draft, notes=draft.notes + self._namesakes(draft.name))
        self._services.trust(draft.backend)
        self._services.check(draft.backend)
        run = self._new_handle(draft, held, is_recorded=False)
        leave = replace(self._leave, may_ask=options.may_ask, is_sample=places is not None)
        terms = _Terms(options.fresh, leave, places)
        try:
            with_answers = partial(self._prepare, run, draft, held, compiled, terms)
            try:
                with_answers()
            except JournalError:
                self._heal(draft)
                with_answers()
        except BaseException:
            self._handles.remove(run)
            raise
        return run

    def _namesakes(self, name: str) -> tuple[str, ...]:
        """Tell of runs of the same name that are going on: the name will mean the new one."""
        return tuple(
            f"run {run_id}, also called {name}, goes on: `%gptbatch take {run_id}` when it ends"
            for run_id in self.journal.going_on(name)
        )

    def _heal(self, draft: RunRecord) -> None:
        """Have damaged result files fetched, of runs whose answers may be taken over.

        Where the service has them still, they are waited for; else the next try says what is wrong.
        """
        for run_id, _ in self.journal.kin(draft.backend.identity, draft.request.model):
            self._refetch(self.journal.run(run_id), verify=True)

    def _prepare(
        self, run: Run, draft: RunRecord, held: pd.DataFrame, template: Template, terms: _Terms
    ) -> None:
        """Write what a cell has time for; a thread writes the rest."""
        if not terms.fresh:
            for run_id, has_ended in self.journal.kin(draft.backend.identity, draft.request.model):
                if has_ended:
                    self._refetch(self.journal.run(run_id), verify=False)
        known = known_answers(self.home, self.journal, draft, fresh=terms.fresh)
        work = Preparation(
            self.home, draft, frame=held, template=template, known=known, places=terms.places
        )
        ends = time.monotonic() + _CELL_S
        if work.advance(lambda: time.monotonic() >= ends):
            self._commit(run, work, held, template, terms)
            return
        run._preparing(work.rows_done)
        self._heartbeat.submit(self._finish_preparing(run, work, held, template, terms))

    async def _finish_preparing(
        self, run: Run, work: Preparation, held: pd.DataFrame, template: Template, terms: _Terms
    ) -> None:
        try:
            while not run._is_abandoned and not await asyncio.to_thread(_advance_a_little, work):
                run._preparing(work.rows_done)
            if run._is_abandoned:
                work.discard()
                run._give_up("cancelled before anything was sent", Ending.STOPPED)
                return
            await asyncio.to_thread(self._commit, run, work, held, template, terms)
        except JournalError as error:
            await asyncio.to_thread(self._heal, work.draft)
            run._give_up(str(error), Ending.STOPPED)
        except BatchMagicError as error:
            run._give_up(str(error), Ending.STOPPED)
        except Exception as error:
            log.exception("preparing run %s failed", run.run_id)
            run._give_up(
                f"{type(error).__name__}: {error} (a bug of batch_magic's)", Ending.STOPPED
            )

    def _commit(
        self, run: Run, work: Preparation, held: pd.DataFrame, template: Template, terms: _Terms
    ) -> None:
        """Name the run in the journal, or attach to the one in flight that is just the same.

        Raises CellError for one that may cost more than it may.
        """
        record = work.record
        assert record is not None, "a preparation that is done has its record"
        now = time.time()
        same = None if terms.fresh else self.journal.find_identical(record.identity)
        if same is not None and lifecycle.is_refetching(self.journal.run(same)):
            same = None  # its rows are waited for, and sent if it brings nothing
        known = None if same is None else self.journal.run(same)
        try:
            asks_usd = terms.leave.to_be_asked(record, known)
        except CellError:
            work.discard()
            raise
        if known is not None:
            work.discard()
            run._become(known.run_id)
            run._said = _same_words(known, record)
            if (cap := record.request.max_cost_usd) is not None:
                self.journal.cap(known, cap)
            if asks_usd is None:
                self._reopen(known.run_id, gives_leave=True)
        else:
            live = record.request.live
            record = replace(record, jobs=plan_jobs(record.shards, _token, is_live=live))
            if asks_usd is not None:
                record = caps.waiting(record, terms.leave, asks_usd, now)
            try:
                self.journal.add_run(record, owner=self._owner, now=now, kin=work.known.kin)
            except Outdated:
                work.discard()
                self._prepare(run, work.draft, held, template, terms)
                return
            except BaseException:
                # An interrupt may come just after the commit: then the files are the run's.
                if self.journal.find(record.run_id) is None:
                    work.discard()
                raise
            for lender in record.lenders if asks_usd is None else ():
                # One that goes live would do so at its own price: it is given up instead.
                stopped = self.journal.run(lender)
                may_go_on = terms.leave.lets_go_on(stopped, record.request.max_cost_usd)
                if may_go_on and not lifecycle.goes_live(stopped, now):
                    self.journal.reopen(lender, now)
        self._drive(run)
        if run._is_abandoned:  # cancelled while the commit was on its way
            self._ask_cancel(run.run_id)

    # -- attach, list -----------------------------------------------------------------------

    def attach(
        self, word: str, use: Settings, on: str = "", names: Mapping[str, object] = _NO_NAMES
    ) -> Run:
        """Go on with the run that `word` means: a name, a run id or a batch id.

        `on` names its service, where the journal alone is no reason to show it the key. Among
        `names` the class is looked for that was the run's schema: it judges the answers, too.
        """
        if on:
            self._backend(use, on)
        self._use(use)
        run = self.find(word)
        if run._is_recorded:
            record = self.journal.run(run.run_id)
            shape = record.layout.shape
            remember_by_name(shape, names)
            if shape is not None and not knows_rules(shape):
                run._said = (
                    f"answers are judged by their schema alone: the class {shape.name} is not here;"
                    f" run its cell, then `%gptbatch attach {run.name}`"
                )
            if record.asks_usd is None and record.ending in (None, Ending.STOPPED):
                self._services.check(record.backend)
                self._reopen(run.run_id)
            if record.ending is not None:
                self._refetch(self.journal.run(run.run_id), verify=True)
            self._drive(run)
        return run

    def confirm(self, word: str, use: Settings) -> Run:
        """Let a run be submitted that had to ask first. Raises CellError for any other."""
        self._use(use)
        run = self.find(word)
        if run.snapshot().asks_usd is None:
            raise CellError(
                f"{run.name} does not wait for leave; `%gptbatch status {run.name}` shows how it is"
            )
        run._said = None
        self._services.check(run.snapshot().backend)
        self._reopen(run.run_id, gives_leave=True)
        self._drive(run)
        return run

    def _reopen(self, run_id: str, *, gives_leave: bool = False) -> None:
        """Let a stopped run go on; what others were answered since is not paid again."""
        run = self.journal.run(run_id)
        unsent = lifecycle.unsent_jobs(run)
        lenders = self._lenders_since(run, unsent) if unsent else []
        self.journal.reopen(
            run_id, time.time(), unsent=unsent, lenders=lenders, gives_leave=gives_leave
        )

    def _lenders_since(self, run: RunRecord, unsent: Sequence[Job]) -> list[str]:
        """Return the runs that have lines of these jobs, but for those that wait for this one."""
        folder = self.home.run_folder(run.run_id, run.files)
        shards = [shard for shard in run.shards if shard.number in {job.shard for job in unsent}]
        found = []
        for other, _ in self.journal.kin(run.backend.identity, run.request.model):
            if other == run.run_id or run.run_id in self.journal.lenders_of(other):
                continue
            record = self.journal.run(other)
            if lifecycle.was_known(record, run):
                continue
            theirs = self.home.run_folder(other, record.files)
            with contextlib.suppress(JournalError):  # damaged: nothing can be had from it
                if resending.lends(theirs, record, folder, shards):
                    found.append(other)
        return found

    def is_foreign(self, word: str) -> bool:
        """Tell whether a word is the id of a job that no run of this home knows."""
        return word.startswith("batch_") and self.journal.find(word) is None

    def adopt(
        self,
        batch_id: str,
        use: Settings,
        *,
        out: str,
        frame: object = None,
        column: str = "",
        on: str = "",
    ) -> Run:
        """Attach to a job that was made elsewhere; `column` of `frame` has its custom_ids.

        Without a frame one is made of the job's own lines. Raises CellError when the rows cannot
        be told, ServiceError when the service does not know the job or its input file.
        """
        check_name(out)
        backend = self._backend(use, on)
        now = time.time()
        run_id = _run_id(now)
        folder = self.home.run_folder(run_id)
        folder.create()
        try:
            path = folder.path / "input.part"
            remote = self._heartbeat.submit(self._fetch_input(backend, batch_id, path)).result()
            endpoint, asked = adoption.read_input(path)
            path.unlink()
            if frame is None:
                frame = adoption.own_frame(asked)
            whole = frames.check_frame(frame, "the frame")
            names = [one.custom_id for one in asked]
            record = adoption.adopt(
                folder,
                run_id=run_id,
                name=out,
                backend=backend,
                remote=remote,
                endpoint=endpoint,
                asked=asked,
                frame=whole,
                positions=adoption.rows_of(names, whole, column),
                limits=use.limits(),
                now=now,
            )
            self._add_adopted(record, batch_id, now)
        except BaseException:
            if self.journal.find(run_id) is None:
                folder.discard()
            raise
        run = self._new_handle(record, frames.hold(whole), is_recorded=True)
        self._drive(run)
        return run

    def _add_adopted(self, record: RunRecord, batch_id: str, now: float) -> None:
        while self.journal.find(batch_id) is None:
            kin = self.journal.kin(record.backend.identity, record.request.model)
            with contextlib.suppress(Outdated):
                self.journal.add_run(record, owner=self._owner, now=now, kin=kin)
                return
        raise CellError(
            f"{batch_id} has a run by now; `%gptbatch attach {batch_id}` goes on with it"
        )

    async def _fetch_input(self, backend: Backend, batch_id: str, path: Path) -> RemoteJob:
        api = await self._services.connect(backend)
        remote = await api.job(batch_id)
        await api.download(remote.input_file_id or "", path)
        return remote

    def orphans(self, use: Settings, on: str = "") -> list[RemoteJob]:
        """Return the jobs of ours at a service that no run of this home knows, newest first."""
        backend = self._backend(use, on)
        found = self._heartbeat.submit(self._our_jobs(backend)).result()
        return [one for one in found if not self._knows(one)]

    def _knows(self, job: RemoteJob) -> bool:
        """Tell whether a run here has this job, or may be about to find it."""
        token = job.metadata.get(METADATA_TOKEN)
        return any(
            one.batch_id == job.batch_id
            or (one.token == token and one.batch_id is None and one.stage is JobStage.CREATING)
            for run in self.journal.runs()
            for one in run.jobs
        )

    async def _our_jobs(self, backend: Backend) -> list[RemoteJob]:
        api = await self._services.connect(backend)
        since = time.time() - _LOOKED_BACK_S
        return [one async for one in api.jobs_since(since) if METADATA_TOKEN in one.metadata]

    def cancel_orphan(self, job: RemoteJob, use: Settings, on: str = "") -> None:
        """Cancel a job that no run knows; one that has ended is left as it is."""
        if self._knows(job):
            raise CellError(
                f"{job.batch_id} is a job of a run here by now; `%gptbatch attach {job.batch_id}`"
            )
        self._heartbeat.submit(self._cancel_orphan(self._backend(use, on), job)).result()

    def _backend(self, use: Settings, on: str) -> Backend:
        """Return the backend that is meant, ready to be called. Raises CellError."""
        environ = self._use(use)
        backend = settings.find_backend(on or use.backend, environ)
        self._services.trust(backend)
        self._services.check(backend)
        return backend

    async def _cancel_orphan(self, backend: Backend, job: RemoteJob) -> None:
        if job.status not in lifecycle.ENDED_STATUSES:
            await (await self._services.connect(backend)).cancel(job.batch_id)

    def _refetch(self, run: RunRecord, *, verify: bool) -> None:
        """Have result files that are not here fetched, while the service may have them."""
        now = time.time()
        folder = self.home.run_folder(run.run_id, run.files)
        lost = outcomes.lost_results(folder, run, verify=verify)
        jobs = [job for job in lost if lifecycle.may_have_results(job, now)]
        if jobs:
            again = [lifecycle.asked_again(job, now) for job in jobs]
            self.journal.refetch(run.run_id, again, now)
            self._engine.drive(run.run_id)

    def find(self, word: str) -> Run:
        """Return the handle of a run without touching it. Raises CellError if there is none."""
        for run in reversed(self._handles):
            is_preparing = not run._is_recorded and not run.snapshot().is_ended
            if is_preparing and word in (run.name, run.run_id):
                return run
        run_id = self.journal.find(word)
        if run_id is None:
            known = ", ".join(dict.fromkeys(run.name for run in self.journal.runs()[:8]))
            hint = f"known are {known}" if known else "there are no runs yet"
            raise CellError(f"no run is called {word!r} in {self.home.path}; {hint}")
        return self._handle(run_id)

    def snapshots(self) -> list[Snapshot]:
        """Return a picture of every run of this home, newest first."""
        now = time.time()
        return self._in_preparation()[::-1] + [
            picture.snapshot(run, now) for run in self.journal.runs()
        ]

    def lookout(self) -> Lookout:
        """Return what looks at all runs of this home again and again, for one thread."""
        return Lookout(self.journal, self._owner, self._in_preparation)

    def _in_preparation(self) -> list[Snapshot]:
        """Return pictures of the runs that the journal does not know yet, oldest first."""
        return [run.snapshot() for run in list(self._handles) if not run._is_recorded]

    # -- looked through ---------------------------------------------------------------------

    def explore(self, word: str) -> Explorer:
        """Return an explorer of a run's frame, as far as it has come. Raises CellError for none."""
        return self.explore_run(self.find(word))

    def explore_run(self, run: Run) -> Explorer:
        """Return an explorer of a run's frame, as far as it has come."""
        frame = run.partial()
        known = self._run_rows(run, np.arange(len(frame)), run.partial)
        answers = self._answers(self.journal.run(run.run_id))
        return Explorer(frame, name=run.name, known=known, answers=answers)

    def explore_part(self, frame: pd.DataFrame, run: Run) -> Explorer:
        """Return an explorer of a frame that was made of a run's result, all of it or a part."""
        record = self.journal.run(run.run_id)
        folder = self.home.run_folder(record.run_id, record.files)
        places = result.places_of(frame, folder, record, run._held)
        answers = self._answers(record)
        if places is None:
            return Explorer(frame, name=run.name, answers=answers, said=_NOT_KNOWN_AGAIN)
        return Explorer(frame, name=run.name, known=self._run_rows(run, places), answers=answers)

    def _answers(self, record: RunRecord) -> list[str]:
        """Return the names of the columns that hold a run's answers."""
        names = result.added_columns(record.layout, record.request.models)
        return [name for name in names if not name.startswith(frames.TRUTH_PREFIX)]

    def _run_rows(
        self,
        run: Run,
        places: NDArray[np.int64],
        again: Callable[[], pd.DataFrame] | None = None,
    ) -> RunRows:
        run_id, looked = run.run_id, list[Closeup]()

        def letters(position: int) -> list[Letter]:
            record = self.journal.run(run_id)
            if not looked or looked[-1].run != record:
                folder = self.home.run_folder(run_id, record.files)
                looked[:] = [Closeup(folder, record, partial(self._kin_of, record))]
            return looked[-1].letters(position)

        return RunRows(
            places=places,
            letters=letters,
            marks=partial(self.journal.marks, run_id),
            put_mark=lambda at, mark, halves: self.journal.put_mark(
                run_id, at, mark, time.time(), halves
            ),
            is_going_on=lambda: run.snapshot().ending is None,
            again=again,
        )

    def _kin_of(self, run: RunRecord) -> Iterator[tuple[RunFolder, RunRecord]]:
        """Yield the other runs of this home whose answers a run may have taken over."""
        for other, _ in self.journal.kin(run.backend.identity, run.request.model):
            if other != run.run_id:
                record = self.journal.run(other)
                yield self.home.run_folder(other, record.files), record

    def cost_plot(self) -> Figure:
        """Return a figure of what was paid by day and model. Raises CellError without runs."""
        if not (pictures := self.snapshots()):
            raise CellError(f"there are no runs yet in {self.home.path}; run a cell first")
        return plots.cost_figure(overview.cost_frame(pictures))

    def _handle(self, run_id: str) -> Run:
        for run in self._handles:
            if run.run_id == run_id:
                self._refresh(run)
                return run
        return self._new_handle(self.journal.run(run_id), None, is_recorded=True)

    def _refresh(self, run: Run) -> None:
        """Have the handle of an ended run show what another kernel has done to it since."""
        if run._is_recorded and run.snapshot().is_ended and not self._engine.drives(run.run_id):
            seen = self._now(run)
            if seen.is_ended and seen.ended_at != run.snapshot().ended_at:
                run._start(seen)

    def _new_handle(
        self, record: RunRecord, held: pd.DataFrame | None, *, is_recorded: bool
    ) -> Run:
        run = Run(
            record,
            home=self.home,
            journal=self.journal,
            held=held,
            is_recorded=is_recorded,
            cancel=self._ask_cancel,
            retry=self._retry,
            finish=self._ask_live,
            spawn=self._spawn,
        )
        self._handles.append(run)
        return run

    def _spawn(self, work: Callable[[], None]) -> None:
        self._heartbeat.submit(asyncio.to_thread(work))

    def _drive(self, run: Run) -> None:
        run._is_recorded = True
        seen = picture.snapshot(self.journal.run(run.run_id), time.time())
        is_new_life = run.snapshot().is_ended and not seen.is_ended
        if self._engine.drives(run.run_id) and not is_new_life:
            run._take(seen)
        else:
            run._start(seen)
            self._engine.drive(run.run_id)
        self._heartbeat.wake()

    def _ask_cancel(self, run_id: str) -> None:
        """Write the wish down and see to it that it is carried out."""
        self.journal.ask_cancel(run_id, time.time())
        self._drive(self._handle(run_id))

    def reparse(self, word: str, options: Options) -> Run:
        """Read the answers of an ended run anew, by another schema or pattern; nothing is paid.

        Raises CellError for a run that goes on, and for a shape that cannot be used.
        """
        run = self.find(word)
        s = run.snapshot()
        if s.ending not in (Ending.FINISHED, Ending.CANCELLED):
            raise CellError(f"{s.name} has not ended; wait for its end and read it anew then")
        record = self.journal.run(run.run_id)
        folder = self.home.run_folder(record.run_id, record.files)
        changed = reshaped(record, options, result.frame_of(folder, run._held))
        self.journal.reshape(settling.judge_again(folder, record, changed), time.time())
        run._start(picture.snapshot(self.journal.run(run.run_id), time.time()))
        return run

    def retry(
        self,
        word: str,
        labels: Sequence[str],
        use: Settings,
        *,
        cause: Sequence[int] | None = None,
        live: bool = False,
        max_cost: str | float | None = None,
    ) -> Run:
        """Send rows of a run again; see `Run.retry`."""
        self._use(use)
        run = self.find(word)
        run.retry(labels, cause=cause, live=live, max_cost=max_cost)
        return run

    def retry_cause(self, run: Run, case: Case, use: Settings, *, live: bool) -> None:
        """Send the rows of one cause again, whose requests and price its user was told.

        That is leave for as much, within the run's own cap. Raises as `Run.retry`, and CellError
        where there is more to send by now.
        """
        self._use(use)
        record, wish = self.journal.run(run.run_id), Wish(causes=frozenset({case.key}))
        found = self._estimate_again(record, [replace(wish, but=record.under_way)])
        is_live = live or record.request.live
        now = found.usd_of(record.request, live=True) if is_live else found.batch_usd
        told = case.live_usd if is_live else case.batch_usd
        is_more = found.requests > case.requests or caps.is_more(now, told)
        if found.requests and is_more:
            raise CellError(
                f"nothing is sent: of this cause there are {counted(found.requests, 'request')} by"
                f" now, {caps.upper_words(now)}, and {counted(case.requests, 'request')},"
                f" {caps.upper_words(told)}, were asked about; the new figures are told here"
            )
        is_capped = record.request.max_cost_usd is not None
        self._ask_retry(run, wish, live, None if is_capped else "any")

    def finish(self, word: str, use: Settings, *, max_cost: str | float | None = None) -> Run:
        """Finish what is left of a run live; see `Run.finish`."""
        self._use(use)
        run = self.find(word)
        run.finish(max_cost)
        return run

    def _check_again(
        self, record: RunRecord, wish: Wish, max_cost: str | float | None, *, live: bool
    ) -> None:
        """Refuse to ask rows (again) that may cost more than they may. Raises CellError."""
        cap_usd = max_cost_usd(max_cost)
        if not caps.is_limited(record, cap_usd, self._leave):
            return
        s, found = picture.snapshot(record, time.time()), self._estimate_again(record, [wish])
        pending = s.counts.get(RowStatus.PENDING, 0)
        is_pending = RowStatus.PENDING in wish.statuses and not record.request.live
        by_batch = min(1.0, s.claimed_ok / pending) if is_pending and pending else 0.0
        asked = NO_WISHES if record.cancel_at is not None else record.wishes
        coming = asked | {Wish(frozenset({RowStatus.PENDING}))}
        coming_usd = self._most_usd(record, coming, but_not=wish) if pending or asked else 0.0
        caps.check_again(
            record,
            s,
            found,
            cap_usd,
            self._leave,
            live=live,
            by_batch=by_batch,
            coming_usd=coming_usd,
        )

    def _estimate_again(
        self, record: RunRecord, wishes: Iterable[Wish], but_not: Iterable[Wish] = ()
    ) -> Estimate:
        """Say what the rows of these wishes may take, line by line, `but_not` those of others."""
        names = [one for one, _ in self.journal.kin(record.backend.identity, record.request.model)]
        kin = [self.journal.run(one) for one in names]
        folders = [(self.home.run_folder(one.run_id, one.files), one) for one in kin]
        folder, tallies = self.home.run_folder(record.run_id, record.files), Tallies(record)
        resending.tell_lines(folder, record, wishes, folders, tallies.add, but_not)
        return tallies.estimate(costs.spent_before(kin, record.request))

    def _most_usd(self, record: RunRecord, wishes: Wishes, *, but_not: Wish) -> float:
        """Return the dollars that rows which are asked for already may come to."""
        found = self._estimate_again(record, wishes, [but_not])
        span = found.usd_of(record.request, live=caps.lane_again(record, live=False))
        return caps.most_usd(span) if found.requests else 0.0

    def _ask_live(self, run: Run, max_cost: str | float | None) -> None:
        """Write the wish down and see to it that it is carried out."""
        s = self._now(run)
        caps.check_leave(s)
        has_stopped = run._is_recorded and s.ending is Ending.STOPPED
        if not has_stopped and (not run._is_recorded or s.is_ended or s.cancelling):
            state = s.ending.value if s.ending else "cancelling" if s.cancelling else s.stage.value
            raise CellError(
                f"{s.name} is {state}; `%gptbatch retry {s.name} --live` asks again for rows"
                " without an answer, once it has ended"
            )
        self._services.check(s.backend)
        record = self.journal.run(run.run_id)
        self._check_again(record, Wish(frozenset({RowStatus.PENDING})), max_cost, live=True)
        if has_stopped:
            self._reopen(run.run_id)
        self.journal.ask_live(run.run_id, time.time())
        self._drive(run)

    def _retry(
        self,
        run: Run,
        labels: Sequence[str],
        causes: Sequence[str],
        live: bool,
        max_cost: str | float | None,
    ) -> None:
        self._ask_retry(run, _wished(labels, causes), live, max_cost)

    def _ask_retry(self, run: Run, wish: Wish, live: bool, max_cost: str | float | None) -> None:
        """Write the wish down, if there is a row for it, and see to it."""
        s = self._now(run)
        caps.check_leave(s)
        has_stopped = run._is_recorded and s.ending is Ending.STOPPED
        if not run._is_recorded or s.cancelling:
            raise CellError(f"{s.name} is {s.stage.value}; wait for its end and retry then")
        if live and (has_stopped or not s.is_ended):
            raise CellError(
                f"{s.name} has rows under way: `%gptbatch finish {s.name}` asks all of them live,"
                " or wait for its end and retry then"
            )
        record = self.journal.run(run.run_id)
        wish = replace(wish, but=record.under_way)
        self._check_rows(record, s, wish)
        self._services.check(s.backend)
        self._check_again(record, wish, max_cost, live=caps.lane_again(record, live=live))
        if has_stopped:
            self._reopen(run.run_id)
        asked = wish.statuses
        self.journal.ask_retry(run.run_id, asked, time.time(), causes=wish.causes, live=live)
        self._refetch(self.journal.run(run.run_id), verify=True)  # before anything is paid again
        self._drive(run)

    def _now(self, run: Run) -> Snapshot:
        """Return how a run stands in the journal: another kernel may have gone on with it."""
        if not run._is_recorded:
            return run.snapshot()
        return picture.snapshot(self.journal.run(run.run_id), time.time())

    def _check_rows(self, record: RunRecord, s: Snapshot, wish: Wish) -> None:
        """Refuse a wish that no row fits. Raises CellError."""
        if wish.causes:
            folder = self.home.run_folder(record.run_id, record.files)
            if not requests_again(folder, record, wish):
                raise CellError(
                    f"{s.name} has no row now that can be sent again for that, or they are under"
                    f" way; `%gptbatch errors {s.name}` shows what there is"
                )
        elif not any(s.counts.get(status) for status in wish.statuses):
            named = ", ".join(sorted(status.label for status in wish.statuses))
            raise CellError(f"{s.name} has no row that is {named}; nothing is sent again")

    def cleanable(self, word: str) -> list[RunRecord]:
        """Return the run that `word` means, or all for "", as far as they may be cleaned away.

        Raises CellError for a run that is named and may not.
        """
        runs = [self.journal.run(self.find(word).run_id)] if word else self.journal.runs()
        now = time.time()
        kept = {run.run_id: cleaning.why_kept(self.journal, run, now) for run in runs}
        if word and (why := kept[runs[0].run_id]):
            raise CellError(f"{word} is kept: {why}")
        return [run for run in runs if kept[run.run_id] is None]

    def clean(self, run: RunRecord, use: Settings, *, remote: bool) -> None:
        """Forget a run: at the service (if `remote`), in the journal and on the disk.

        Raises JournalError when a file is not what was fetched, ServiceError when the service
        refuses; nothing is forgotten then.
        """
        run = self.journal.run(run.run_id)  # time has passed since it was asked for
        if why := cleaning.why_kept(self.journal, run, time.time()):
            raise CellError(f"run {run.run_id} is kept: {why}")
        folder = self.home.run_folder(run.run_id, run.files)
        if remote:
            self._use(use)
            self._heartbeat.submit(self._delete_remote(folder, run)).result()
        self.journal.forget(run.run_id)
        self._handles = [one for one in self._handles if one.run_id != run.run_id]
        if folder.path.exists():
            folder.discard()

    async def _delete_remote(self, folder: RunFolder, run: RunRecord) -> None:
        await cleaning.delete_remote(await self._services.connect(run.backend), folder, run)

    # -- machinery --------------------------------------------------------------------------

    @cached_property
    def _engine(self) -> Engine:
        return Engine(
            self.home,
            self.journal,
            owner=self._owner,
            connect=self._services.connect,
            disconnect=self._services.disconnect,
            clock=time.time,
            token=_token,
            publish=self._publish,
        )

    @cached_property
    def _heartbeat(self) -> Heartbeat:
        beat = Heartbeat(self._engine.step, on_error=self._on_error, at_stop=self._at_stop)
        beat.start()
        return beat

    async def _at_stop(self) -> None:
        await self._engine.stop()
        await self._services.close()

    def _publish(self, snapshot: Snapshot) -> None:
        for run in list(self._handles):
            if run.run_id == snapshot.run_id:
                run._take(snapshot)

    def _on_error(self, error: BaseException) -> None:
        is_ours = isinstance(error, BatchMagicError)
        if not is_ours or str(error) != self._last_error:  # a script sees it once, in its stderr
            log.error("%s", error, exc_info=None if is_ours else error)
        self._last_error = str(error)
        said = str(error) if is_ours else f"{type(error).__name__}: {error}"
        for run in list(self._handles):
            if self._engine.drives(run.run_id):
                run._take(replace(run.snapshot(), problem=said))

    def close(self) -> None:
        """Stop the heartbeat and give leases back; runs go on when attached again."""
        if "_heartbeat" in self.__dict__:
            self._heartbeat.stop()
            del self.__dict__["_heartbeat"]
            self.__dict__.pop("_engine", None)
        self.journal.close()


@dataclass(frozen=True, slots=True)
class _Terms:
    """On what terms rows are prepared and money is spent."""

    fresh: bool
    leave: Leave
    places: Sequence[int] | None = None  # of a sample, in the whole frame


# -- one home, one session ------------------------------------------------------------------

_sessions: dict[Path, Session] = {}


def session_for(home: str) -> Session:
    """Return this process's session for a home folder. Raises JournalError if it is unusable."""
    try:
        path = Path(home).expanduser().resolve()
        str(path).encode()
    except (RuntimeError, ValueError, OSError) as error:
        raise CellError(f"the home folder {home!r} cannot be: {error}; name another") from None
    if path not in _sessions:
        _sessions[path] = Session(path)
    return _sessions[path]


def close_sessions() -> None:
    """Stop all heartbeats of this process; nothing that runs at a service is touched."""
    while _sessions:
        _sessions.popitem()[1].close()


atexit.register(close_sessions)


def drafted(
    frame: object, template: str, options: Options, use: Settings, environ: Mapping[str, str]
) -> tuple[RunRecord, pd.DataFrame, Template]:
    """Check what a cell asks for; return the run's draft, the frame held, the template compiled."""
    now = time.time()
    return draft(frame, template, options, use, environ, run_id=_run_id(now), now=now)


def _same_words(known: RunRecord, asked: RunRecord) -> str:
    """Say what becomes of a cell whose run is there already."""
    said = "the same rows are in flight already: attached, nothing is sent again"
    if known.ending is not None:
        said = "goes on with the run that had stopped"
    if asked.goes_live_at is not None and known.goes_live_at is None:
        return f"{said}; as batches: `%gptbatch finish {known.name}` asks the rest live"
    if asked.goes_live_at is None and known.goes_live_at is not None:
        return f"{said}; live, as it was begun"
    return said


_NOT_KNOWN_AGAIN = (
    "its rows are not known again in the run (columns of the frame that was sent were left out or"
    " changed, or rows were moved that nothing tells apart but their place): prompts are not shown"
)


_RETRIED = UNANSWERED | PAID - {RowStatus.OK}


def _wished(labels: Sequence[str], causes: Sequence[str]) -> Wish:
    """Return which rows are meant; without any word, those without an answer."""
    if labels and causes:
        raise CellError("a cause has its status; say --status or --cause, not both")
    return Wish(causes=frozenset(causes)) if causes else Wish(_retried(labels))


def _retried(labels: Sequence[str]) -> frozenset[RowStatus]:
    """Return the statuses that are meant; without any, those of rows without an answer."""
    known = {status.label: status for status in sorted(_RETRIED)}
    for label in labels:
        if label not in known:
            raise CellError(f"--status {label!r} cannot be retried; choose from {', '.join(known)}")
    return frozenset(known[label] for label in labels) or UNANSWERED


def _run_id(now: float) -> str:
    """A name that sorts by time and that no other run will get."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)) + "-" + secrets.token_hex(3)


def _token() -> str:
    return secrets.token_hex(12)


def _advance_a_little(work: Preparation) -> bool:
    ends = time.monotonic() + 0.5
    return work.advance(lambda: time.monotonic() >= ends)
