"""Long random histories of one home on a virtual clock: engine, journal and a faulty service.

    python tests/histories.py [--steps 10000] [--seed 0]

A history is a walk of seeded steps: the cell is run over some rows, the engine does what is due,
the clock jumps (also back), the service is told to misbehave or to stop it, the process is killed
and another begins, runs are cancelled, retried, attached to and finished live; some go live by
themselves, at once or by a deadline. After each step the invariants are
looked at; at the end the service is asked what it answered. Every few hundred steps a new home
begins, so that lists stay short.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from campaign import CALL_FAULTS, ROW_FAULTS, _answered, _noted_live, _texts_of
from lives import Clock, Life
from service import Service, stub_answer

from batch_magic import picture
from batch_magic.causes import cause_key, causes
from batch_magic.outcomes import NO_REASON
from batch_magic.records import PAID, UNANSWERED, Ending, JobStage, RowStatus, RunRecord

CHAPTER_STEPS = 400
POOL = 40  # different texts in a chapter: runs overlap
# Result files that stay away are given up by the clock, and this one jumps: that is another test.
AWAY = ("file_ids_late_s", "content_404_s", "files.content")
ENDED = (Ending.FINISHED, Ending.CANCELLED)
BAD = sorted(UNANSWERED | PAID - {RowStatus.OK, RowStatus.UNPARSED})
# An answer that is paid and no good stays its row's while a better one is asked for.
PAID_FAULTS: tuple[Callable[[random.Random], dict[str, Any]], ...] = (
    lambda dice: {"row_refused": {"share": 0.6}},
    lambda dice: {"row_refused": {"every": 1}},
    lambda dice: {"row_cut": {"share": 0.6}},
)


class History:
    """One chapter: a home, a service, and one process after another."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self.mark = f"h{seed}"
        self.service = Service(folder / "service")
        self.folder = folder
        self.clock = Clock()
        self.life = self._begin()
        self.lives: list[Life] = []
        self.asked: dict[str, list[str]] = {}  # run id → its texts
        self.allowed: set[tuple[str, int, str]] = set()  # run id, jobs by then, text to pay anew
        self.steps = Counter[str]()

    def _begin(self) -> Life:
        life = Life(self.folder / "home", self.service.url, self.clock)
        life.nap_s = 0.001
        return life

    def close(self) -> None:
        """End the service and the last life; what the dead ones left is swept up quietly."""
        for dead in self.lives:
            dead._runner.close()
        self.life.end()
        self.service.end()

    # -- steps ------------------------------------------------------------------------------

    def step(self) -> None:
        """Take one random step, then look at the invariants."""
        moves = {
            self.work: 60,
            self.submit: 4,
            self.pass_time: 8,
            self.misbehave: 5,
            self.behave: 5,
            self.kill: 2,
            self.cancel: 1,
            self.retry: 3,
            self.retry_causes: 3,
            self.finish_live: 1,
            self.attach: 4,
        }
        move = self.dice.choices(list(moves), list(moves.values()))[0]
        self.steps[move.__name__] += 1
        move()
        self.check()

    def work(self) -> None:
        self.life.step()

    def submit(self) -> None:
        size = self.dice.randint(1, 12)
        texts = [f"{self.mark} {self.dice.randrange(POOL)}" for _ in range(size)]
        index = self.dice.choices(range(4), k=size)
        frame = pd.DataFrame({"text": texts}, index=index)
        rows_per_job = self.dice.choice([2, 5, 50])
        lane = self.dice.choice([{}, {}, {}, {"live": True}, {"deadline_s": 900.0}])
        run_id = self.life.submit(frame, max_rows_per_job=rows_per_job, retries=1, asked=lane)
        self.asked[run_id] = texts

    def pass_time(self) -> None:
        self.clock.now += self.dice.choice([1.0, 30.0, 600.0, 7200.0, -3600.0])

    def misbehave(self) -> None:
        several = [ROW_FAULTS, CALL_FAULTS, PAID_FAULTS]
        fault = self.dice.choice(self.dice.choice(several))(self.dice)
        if not any(name in str(fault) for name in AWAY):
            self.service.faults(**fault)

    def behave(self) -> None:
        self.service.clear_faults()

    def kill(self) -> None:
        """Begin another life on the home; the old one never moves again."""
        self.lives.append(self.life)
        for run_id in self.asked:
            self.life.journal.drop_lease(run_id, self.life.engine._owner)  # as a dead pid's is
        self.life = self._begin()

    def cancel(self) -> None:
        if self.asked:
            run_id = self.dice.choice(list(self.asked))
            self.life.journal.ask_cancel(run_id, self.clock())
            self.life.engine.drive(run_id)

    def retry(self) -> None:
        """Ask for rows of some statuses, of whichever run, while it goes on, too."""
        run = self._some_run()
        if run is not None:
            self._ask(run.run_id, self.dice.sample(BAD, 2), [])

    def retry_causes(self) -> None:
        """Ask for some causes of rows without a good answer, once or several times."""
        run = self._some_run()
        if run is None:
            return
        found = causes(self.life.home.run_folder(run.run_id, run.files), run)
        keys = [cause.key for cause in found if cause.status in BAD]
        some = self.dice.sample(keys, self.dice.randint(0, len(keys)))
        for _ in range(self.dice.randint(1, 3)):
            self._ask(run.run_id, [], some)
            if self.dice.random() < 0.5:
                self.work()

    def _some_run(self) -> RunRecord | None:
        """Pick a run that may be asked for rows again."""
        runs = map(self.life.run, self.asked)
        known = [run for run in runs if run.ending in ENDED or not (run.ending or run.cancel_at)]
        return self.dice.choice(known) if known else None

    def _ask(self, run_id: str, statuses: list[RowStatus], keys: list[str]) -> None:
        run = self.life.run(run_id)
        self._allow(run, statuses, keys)
        live = run.ending in ENDED and self.dice.random() < 0.3
        self.life.journal.ask_retry(run_id, statuses, self.clock(), causes=keys, live=live)
        self.life.engine.drive(run_id)

    def _allow(self, run: RunRecord, statuses: list[RowStatus], keys: list[str]) -> None:
        """Note which answers may be paid once more: of rows that have one now and are not out."""
        folder, frame = self.life.home.run_folder(run.run_id), self.life.result(run.run_id)
        out = {job.shard for job in run.jobs if job.stage is not JobStage.COLLECTED}
        shards = [shard for shard in run.shards if shard.number in out]
        away = {n for shard in shards for n in folder.manifest(shard)["position"].tolist()}
        meant = set[str]()
        for n, (label, error) in enumerate(
            zip(frame["gpt_status"], frame["gpt_error"], strict=True)
        ):
            status = RowStatus[label.upper()]
            said = error if isinstance(error, str) else NO_REASON
            is_meant = status in statuses or cause_key(0, status, said) in keys
            if n not in away and status in PAID and is_meant:
                meant.add(frame["text"].iloc[n])
        # Asked for twice before anything has gone out, it is asked for once.
        self.allowed |= {(run.run_id, len(run.jobs), text) for text in meant}

    def finish_live(self) -> None:
        if self.asked:
            self.life.journal.ask_live(self.dice.choice(list(self.asked)), self.clock())

    def attach(self) -> None:
        if self.asked:
            self.life.go_on(self.dice.choice(list(self.asked)))

    # -- invariants -------------------------------------------------------------------------

    def check(self) -> None:
        """What must be true after each step."""
        if not self.asked:
            return
        run = self.life.run(self.dice.choice(list(self.asked)))
        counts = picture.snapshot(run, self.clock()).counts
        assert sum(counts.values()) == run.rows, (run.run_id, counts)
        tokens = [job.token for job in run.jobs]
        assert len(set(tokens)) == len(tokens)
        if self.dice.random() < 0.1:
            self.check_result(run)

    def check_result(self, run: RunRecord) -> None:
        """No answer stands on another row, and an ended run has an outcome for each."""
        frame = self.life.result(run.run_id)
        texts = self.asked[run.run_id]
        assert frame["text"].tolist() == texts
        statuses = frame["gpt_status"].astype(str).tolist()
        for text, status, answer in zip(texts, statuses, frame["answer"].tolist(), strict=True):
            assert status != "ok" or answer == stub_answer(text), (run.run_id, text, answer)
        if run.ending in ENDED:
            assert "pending" not in statuses, run.run_id

    def check_payments(self) -> int:
        """Each token made one job, and no answer was paid twice unasked; return how many were."""
        client, delivered, of_token = self.service.client(), Counter[str](), Counter[str]()
        by_run: dict[str, list[str]] = {}
        for batch in self.service.batches():
            of_token[batch["metadata"]["batch_magic_job"]] += batch["rows_paid"] > 0
            asked = _texts_of(client, batch["input_file_id"])
            answered = _answered(client, batch["output_file_id"])
            for text in {asked[name] for name in answered if name in asked}:
                delivered[text] += 1
                by_run.setdefault(text, []).append(batch["metadata"]["batch_magic_run"])
        noted = set(_noted_live(self.folder / "home", "runs"))
        delivered.update(noted)
        for text in noted:
            by_run.setdefault(text, []).append("live")
        assert max(of_token.values(), default=0) <= 1, of_token.most_common(3)
        again = Counter(text for _, _, text in self.allowed)
        twice = {text: by_run[text] for text, n in delivered.items() if n > 1 + again[text]}
        assert not twice, self._story(twice)
        return sum(delivered.values())

    def _story(self, twice: dict[str, list[str]]) -> str:
        """Tell what happened to the runs that paid twice, and to those between them."""
        told = [f"{text}: {', '.join(runs)}" for text, runs in twice.items()]
        events = [
            (at, one, job, event)
            for one in self.asked
            if any(text in self.asked[one] for text in twice)
            for at, job, event in self.life.journal.history(one)
        ]
        return "\n".join(
            [*told, *(f"{at:.1f} {one} {job} {event}" for at, one, job, event in events)]
        )

    def finish(self) -> int:
        """Let everything come to its end with a service that behaves; return answers delivered."""
        self.service.clear_faults()
        self.life.nap_s = 0.003
        for _ in range(3):  # a stopped run, then those that waited for it
            for run_id in self.asked:
                if self.life.run(run_id).ending not in ENDED:
                    self.life.go_on(run_id)
            for run_id in self.asked:
                self.life.until_ended(run_id)
        for run_id in self.asked:
            run = self.life.run(run_id)
            assert run.ending in ENDED, (run_id, run.fault)
            assert all(job.stage is JobStage.COLLECTED for job in run.jobs)
            self.check_result(run)
        return self.check_payments()


def walk(steps: int, seed: int, *, say: bool = False) -> Counter[str]:
    """Walk so many steps, in chapters. Raises AssertionError with what was not so."""
    taken: Counter[str] = Counter()
    while sum(taken.values()) < steps:
        chapter = min(CHAPTER_STEPS, steps - sum(taken.values()))
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            history = History(Path(name), seed)
            try:
                for _ in range(chapter):
                    history.step()
                answers = history.finish()
            except BaseException:
                print(f"seed {seed}: {dict(history.steps)}", file=sys.stderr)
                raise
            finally:
                history.close()
        taken.update(history.steps)
        if say:
            total = sum(taken.values())
            print(f"seed {seed}: {answers} answers; {total:,} steps", flush=True)
        seed += 1
    return taken


def main() -> int:
    """Walk, and print the steps by kind."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(dict(walk(options.steps, options.seed, say=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
