"""One life of a process on a home: an engine without a thread, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from batch_magic import frame as frames
from batch_magic import lifecycle
from batch_magic.api import Api
from batch_magic.engine import Engine, plan_jobs
from batch_magic.folder import Home
from batch_magic.journal import Journal
from batch_magic.prepare import Preparation, known_answers
from batch_magic.records import (
    Backend,
    Job,
    JobStage,
    Layout,
    Limits,
    Request,
    RunRecord,
    Snapshot,
)
from batch_magic.result import result_frame
from batch_magic.session import Session
from batch_magic.template import compile_template

PATIENCE_S = 30.0
PROMPT = "{{ text }}"


class Clock:
    """Unix time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Life:
    """An engine over a home, as a session puts it together."""

    def __init__(self, home: Path, url: str, clock: Clock, *, api_key: str = "none") -> None:
        self.home, self.clock = Home(home), clock
        self.journal = Journal(self.home.journal_path)
        self.backend = Backend(url, url)
        self._url = url
        self.limits = Limits()
        self.nap_s = 0.003  # real time that a step leaves to the service
        self.published: list[Snapshot] = []
        self._api: Api | None = None
        self._api_key = api_key
        self._runner = asyncio.Runner()
        self._has_ended = False
        self.engine = self._new_engine()

    def _new_engine(self) -> Engine:
        return Engine(
            self.home,
            self.journal,
            owner=secrets.token_hex(4),
            connect=self._connect,
            disconnect=self._disconnect,
            clock=self.clock,
            token=lambda: secrets.token_hex(8),
            publish=self.published.append,
        )

    async def _connect(self, backend: Backend) -> Api:
        if self._api is None:
            self._api = Api(self._url, self._api_key)
        return self._api

    async def _disconnect(self, backend: Backend) -> None:
        self._api = None

    def submit(
        self,
        frame: pd.DataFrame,
        *,
        template: str = PROMPT,
        name: str = "labelled",
        fresh: bool = False,
        asked: Mapping[str, Any] | None = None,
        **limits: Any,
    ) -> str:
        """Write a run down and take it on; return its id. Sends nothing.

        `asked` are further choices of the request, such as `live`.
        """
        held = frames.hold(frame)
        request = Request("/v1/chat/completions", "gpt-5-mini", template, **asked or {})
        draft = RunRecord(
            run_id=f"run-{secrets.token_hex(4)}",
            name=name,
            backend=self.backend,
            request=request,
            layout=Layout("answer"),
            limits=replace(self.limits, **limits),
            created_at=self.clock(),
            rows=len(frame) * len(request.models),
            identity="",
            fingerprint=frames.fingerprint(held),
        )
        compiled = compile_template(template, columns=frames.column_names(frame))
        known = known_answers(self.home, self.journal, draft, fresh=fresh)
        work = Preparation(self.home, draft, frame=held, template=compiled, known=known)
        assert work.advance(lambda: False)
        assert work.record is not None
        jobs = plan_jobs(
            work.record.shards, lambda: secrets.token_hex(8), is_live=draft.request.live
        )
        record = replace(work.record, jobs=jobs)
        self.journal.add_run(record, owner=self.engine._owner, now=self.clock(), kin=work.known.kin)
        self.engine.drive(record.run_id)
        return record.run_id

    def run(self, run_id: str) -> RunRecord:
        return self.journal.run(run_id)

    def job(self, run_id: str, number: int = 0) -> Job:
        return self.run(run_id).jobs[number]

    def step(self) -> float | None:
        """Let the engine do what is due; let its wait pass on the clock, at most 5 s of it."""
        wait_s = self._runner.run(self.engine.step())
        self.clock.now += min(wait_s or 0.0, 5.0)
        time.sleep(self.nap_s)
        return wait_s

    def until(self, run_id: str, is_so: Callable[[RunRecord], bool]) -> RunRecord:
        """Step until something is so of a run."""
        ends = time.monotonic() + PATIENCE_S
        while not is_so(run := self.run(run_id)):
            assert time.monotonic() < ends, self.journal.history(run_id)
            self.step()
        return run

    def until_stage(self, run_id: str, stage: JobStage) -> RunRecord:
        """Step until the first job has reached a stage."""
        return self.until(run_id, lambda run: run.jobs[0].stage is stage)

    def until_ended(self, run_id: str) -> RunRecord:
        """Step until the run has ended."""
        return self.until(run_id, lambda run: run.ending is not None)

    def go_on(self, run_id: str) -> None:
        """Take a run on again, as attach does: what others were asked since is waited for."""
        run = self.run(run_id)
        unsent = lifecycle.unsent_jobs(run)
        lenders = Session._lenders_since(self, run, unsent) if unsent else []  # type: ignore[arg-type]
        self.journal.reopen(run_id, self.clock(), unsent=unsent, lenders=lenders)
        self.engine.drive(run_id)

    def result(self, run_id: str) -> pd.DataFrame:
        """Return the run's frame as made from the disk alone."""
        return result_frame(
            self.home.run_folder(run_id, self.run(run_id).files), self.run(run_id), None
        )

    def end(self) -> None:
        """End as a process does that is asked to; once is enough."""
        if self._has_ended:
            return
        self._has_ended = True
        self._runner.run(self._wind_up())
        self._runner.close()
        self.journal.close()

    async def _wind_up(self) -> None:
        await self.engine.stop()
        if self._api is not None:
            await self._api.close()
