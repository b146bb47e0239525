"""Kill and fault campaign: random lives of kernels over one home, and what became of each row.

    python tests/campaign.py [--schedules 1000] [--seed 0] [--lanes 2] [--points]

A schedule is a seeded story: a frame, a service that misbehaves in up to four ways, and up to five
lives of a real kernel in which the cell is run, killed with -9 at a random moment or at a named
point of our own code (watched by a profiler, nothing is patched). Between lives rows are edited,
added, dropped or sorted; some lives come in pairs, some cancel, some run another cell on some of
the rows first. The last life meets a service that behaves and runs the cell until every row is ok,
or three times. Then the service is asked what it answered.

*Lost* rows have no right answer at the end, *misplaced* ones have another row's; *paid twice* are
answers that the service delivered in more than one job's files for the same request. What the
service answered and then lost itself (a row in neither file) is paid again by need, and told apart.

Some cells go live, at once, by a deadline or by `finish`. Of those *asked live again* are billed
requests whose answer was on its way at a kill or was lost by a fault: no more than can have been in
flight. In the end the money that the journal knows of is held against the service's ledger.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from mortal_kernels import Death, Died, MortalKernel
from service import FAST, Service, stub_answer

from batch_magic import errors

TEMPLATE = "{{ text }}"
MODEL = "m"
LIVES = 5
QUICK = {
    "BATCH_MAGIC_POLL_FIRST_S": "0.03",
    "BATCH_MAGIC_POLL_MAX_S": "0.1",
    "BATCH_MAGIC_RETRY_BASE_S": "0.03",
    "BATCH_MAGIC_DOUBT_GRACE_S": "0.5",
    "BATCH_MAGIC_COLLECT_TIMEOUT_S": "6",
    "BATCH_MAGIC_RETRIES": "3",
    "BATCH_MAGIC_LIVE_CONCURRENCY": "4",
    "BATCH_MAGIC_PRICES": '{"m": {"input": 1.0, "output": 4.0}}',
    "OPENAI_API_KEY": "campaign",
    "NO_PROXY": "*",
}

POINTS = (
    "submit: Preparation.advance",
    "submit: store",
    "submit: ShardWriter.close",
    "submit: Journal.add_run",
    "upload: RunFolder.check_shard",
    "upload: Api.upload",
    "create: Engine._intend",
    "create: Api.create",
    "create: Engine._save_created",
    "poll: Api.job",
    "poll: Journal.save_job",
    "collect: Api.download",
    "collect: settle",
    "collect: RunFolder.scan_job",
    "collect: count_job",
    "merge: settle",
    "merge: Journal.end_run",
    "merge: result_frame",
    "hand-over: Run.result",
    "hand-over: HandOver._deliver",
    "hand-over: HandOver.give",
    "cancel: Engine._cancel",
    "retry: resend",
    "live: Engine._intend_live",
    "live: Engine._go_live",
    "live: Api.answer",
    "live: _Notes._put",
    "live: Engine._write_sent",
    "live: RunFolder.settle_live",
    "live: RunFolder.drop_live",
    "reuse: KeptWriter.close",
    "reuse: take_over",
)
"""Where a life may be killed: at the call, or at the return, of these."""

LIVE_AT_ONCE = int(QUICK["BATCH_MAGIC_LIVE_CONCURRENCY"])
PRICES = json.loads(QUICK["BATCH_MAGIC_PRICES"])["m"]  # by batch; at once they count twice
SLOW: dict[str, Any] = {"in_progress_s": 2 * FAST}  # two seconds
CALLS = ("batches.create", "files.create", "files.content", "batches.retrieve", "files.retrieve")
ROW_FAULTS: tuple[Callable[[random.Random], dict[str, Any]], ...] = (
    lambda dice: {"row_status": {"status": dice.choice([429, 500, 503, 0]), "share": 0.4}},
    lambda dice: {"row_status": {"status": dice.choice([400, 404]), "share": 0.3}},
    lambda dice: {"row_status": {"status": "timeout", "share": 0.3}},
    lambda dice: {"row_missing": {"share": 0.3}},
    lambda dice: {"row_malformed": {"share": 0.3}},
    lambda dice: {"row_twice": {"share": 0.5}},
    lambda dice: {"expire_after_share": dice.random()},
    lambda dice: {"cancel_after_share": dice.random()},
    lambda dice: {"validation_error": "token_limit_exceeded"},
    lambda dice: {"validation_error": "maximum_requests_exceeded"},
    lambda dice: {"validation_error": {"code": "invalid_request", "message": "No.", "line": 2}},
    lambda dice: {"status_text": dice.choice(["thinking", "IN_PROGRESS", "queued"])},
    lambda dice: {"counts_null": True},
    lambda dice: {"counts_all_completed": True},
    lambda dice: {"error_file_id_empty": True},
    lambda dice: {"file_ids_late_s": dice.choice([1, 3])},
    lambda dice: {"output_order": dice.choice(["input", "reversed"])},
    lambda dice: {"row_foreign": {"share": 0.3}},
    lambda dice: {"row_body_text": {"share": 0.5}},
    lambda dice: {"output_file_id_empty": True},
    lambda dice: {"no_files": True},
    lambda dice: {"dialect": "azure"},
    lambda dice: {"list_lag_s": 0.2},
    lambda dice: {"token_cap": dice.choice([20, 200])},
)
CALL_FAULTS: tuple[Callable[[random.Random], dict[str, Any]], ...] = (
    lambda dice: {"http_status": [_call(dice, status=dice.choice([429, 500, 502, 503, 409, 408]))]},
    lambda dice: {"http_drop": [_call(dice)]},
    lambda dice: {"http_delay": [_call(dice) | {"delay_s": dice.choice([0.3, 1.5])}]},
    lambda dice: {"http_cut": [{"route": "files.content", "times": 1, "share": dice.random()}]},
    lambda dice: {"file_404_s": 1},
    lambda dice: {"content_404_s": 2},
    lambda dice: {"insufficient_quota": {"route": "batches.create", "times": 1}},
    lambda dice: {"http_status": [_call(dice, ASKED, status=dice.choice([429, 500, 503]))]},
    lambda dice: {"http_drop": [_call(dice, ASKED)]},
)
ASKED = "chat.completions"


def _call(dice: random.Random, route: str = "", **more: Any) -> dict[str, Any]:
    after_commit = dice.random() < 0.5
    route = route or dice.choice(CALLS)
    return {"route": route, "times": dice.randint(1, 3), "after_commit": after_commit, **more}


# -- a schedule -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Life:
    """One kernel, or two at once, over the frame as it is then.

    `first` is how many of its rows another cell is run on before; with `waits`, the cell after it
    waits, else the result is handed over when the kernel is idle. `lane` is what the line says of
    the live lane; with `finish` the rest is asked live by hand.
    """

    texts: tuple[str, ...]
    death: Death
    is_pair: bool = False
    first: int = 0
    waits: bool = True
    cancel_after_s: float | None = None
    lane: str = ""
    finish: bool = False
    faults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """A story, told by its seed."""

    seed: int
    rows_per_job: int
    lives: tuple[Life, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        return self.lives[-1].texts


def schedule(seed: int) -> Schedule:
    """Make the story of a seed up."""
    dice = random.Random(seed)
    texts = [f"s{seed} row {n} {'x' * dice.randint(0, 30)}" for n in range(dice.randint(1, 40))]
    texts += dice.choices(texts, k=dice.randint(0, 5))
    lives = []
    for n in range(dice.randint(1, LIVES)):
        death = _death(dice)
        lives.append(
            Life(
                tuple(texts),
                death,
                is_pair=dice.random() < 0.15,
                first=dice.randint(1, len(texts)) if dice.random() < 0.2 else 0,
                waits=dice.random() < 0.5,
                cancel_after_s=dice.random() * 0.3 if dice.random() < 0.1 else None,
                lane=dice.choice(["", "", "", "--live", "--deadline 1s"]),
                finish=dice.random() < 0.1,
                faults=_faults(dice),
            )
        )
        if dice.random() < 0.3:
            texts = _edited(dice, texts, f"s{seed} e{n}")
    lives.append(Life(tuple(texts), Death()))
    return Schedule(seed, dice.choice([3, 7, 50]), tuple(lives))


def death_at(point: str, seed: int) -> Schedule:
    """Tell of one life that dies at this point, and of the next."""
    texts = tuple(f"s{seed} row {n}" for n in range(20))
    stage = point.partition(":")[0]
    faults: dict[str, dict[str, Any]] = {
        "retry": {"row_status": {"status": 500, "share": 0.4}},
        "cancel": {"in_progress_s": 6 * FAST},
        "reuse": SLOW,
        "live": {"http_delay": [{"route": "files.create", "delay_s": 1.5, "times": 1}]},
    }
    goes_live = "--deadline 1s" if "_go_live" in point else "--live"
    dies = Life(
        texts,
        Death(point=point),
        first=12 if stage == "reuse" else 0,
        waits="_deliver" not in point,
        cancel_after_s=1.0 if stage == "cancel" else None,
        lane=goes_live if stage == "live" else "",
        faults=faults.get(stage, {}),
    )
    return Schedule(seed, 7, (dies, Life(texts, Death())))


def _death(dice: random.Random) -> Death:
    if dice.random() < 0.45:
        return Death(after_s=dice.random() ** 2 * 3)
    event = dice.choice(["call", "return"])
    return Death(point=dice.choice(POINTS), event=event, count=dice.choice([1, 1, 2, 3, 6]))


def _faults(dice: random.Random) -> dict[str, Any]:
    faults: dict[str, Any] = {}
    for _ in range(dice.randint(0, 4)):
        faults |= dice.choice(ROW_FAULTS + CALL_FAULTS)(dice)
    return faults


def _edited(dice: random.Random, texts: list[str], mark: str) -> list[str]:
    texts = list(texts)
    match dice.randint(0, 3):
        case 0:
            dice.shuffle(texts)
        case 1:
            texts = dice.sample(texts, max(1, len(texts) - 3))
        case 2:
            texts += [f"{mark} added {n}" for n in range(4)]
        case 3:
            texts[dice.randrange(len(texts))] = f"{mark} edited"
    return texts


# -- a life, in a kernel --------------------------------------------------------------------


def frame_of(texts: Sequence[str]) -> pd.DataFrame:
    """Rows with an index that repeats and is out of order."""
    return pd.DataFrame({"text": list(texts)}, index=[n * 7 % 5 for n in range(len(texts))])


SET_UP = """
import json, pathlib, pandas as pd, campaign
%load_ext batch_magic
frame = campaign.frame_of(json.loads(pathlib.Path("texts.json").read_text()))
first = frame[:{first}]
"""
CELL = "%%gptbatch {frame} -o {out} -m {model} --on {url} {lane}\n{template}"
# Of a run that is over nothing is left to finish, and that is said.
FINISH = "try: labelled.finish()\nexcept Exception as error: print(error)"
LOOK = "campaign.look(labelled)"


def live(kernel: MortalKernel, life: Life, url: str) -> str:
    """Run the cells of a life until its result is saved; return the error that one showed."""
    words = {"model": MODEL, "url": url, "template": TEMPLATE, "lane": life.lane}
    cells = [SET_UP.format(first=life.first)]
    if life.first:
        cells.append(CELL.format(frame="first", out="earlier", **words))
    cells.append(CELL.format(frame="frame", out="labelled", **words))
    if life.finish:
        cells.append(FINISH)
    if life.cancel_after_s is not None:
        cells.append(f"import time\ntime.sleep({life.cancel_after_s})\n%gptbatch cancel labelled")
    if life.waits:
        cells.append("%gptbatch wait labelled")
    for cell in cells:
        reply = kernel.run(cell)
        if reply["status"] == "error":
            return f"{reply['ename']}: {reply['evalue']}"
    while (seen := kernel.run("", look="campaign.look(labelled)")["user_expressions"]["look"]) and (
        seen["status"] == "ok" and "waiting" in seen["data"]["text/plain"]
    ):
        time.sleep(0.05)
    return "" if seen["status"] == "ok" else f"{seen['ename']}: {seen['evalue']}"


def look(labelled: Any) -> str:
    """Save what the name holds, if it is the result by now (called in the kernel)."""
    if isinstance(labelled, pd.DataFrame):
        labelled = labelled.copy()
        labelled.attrs = {}
        part = Path(f"result.{os.getpid()}")
        labelled.to_pickle(part)
        part.replace("result.pickle")
        return "saved"
    if labelled.snapshot().is_ended:
        labelled.result()  # raises what there is to say when it has stopped
    return "waiting"


# -- telling how it went --------------------------------------------------------------------


AT_RANDOM = "at random"
OUR_ERRORS = {name for name in vars(errors) if not name.startswith("_")}


_SUMS = (
    *("schedules", "lives", "rows", "lost", "misplaced", "paid_twice", "paid_again_by_need"),
    *("asked_live", "asked_live_again", "billed_usd", "known_usd", "to_the_cent"),
)


@dataclass
class Tally:
    """What a campaign has seen."""

    schedules: int = 0
    lives: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    lost: int = 0
    misplaced: int = 0
    paid_twice: int = 0
    paid_again_by_need: int = 0
    asked_live: int = 0
    asked_live_again: int = 0
    billed_usd: float = 0.0
    known_usd: float = 0.0
    to_the_cent: int = 0
    bad: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add another tally to this one."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.kills.update(other.kills)
        self.faults.update(other.faults)
        self.bad += other.bad

    def table(self) -> str:
        """Return the table for the README."""
        at_random = self.kills[AT_RANDOM]
        points, named = self.kills.total() - at_random, len(self.kills.keys() - {AT_RANDOM})
        kinds = ", ".join(f"{name} {n:,}" for name, n in sorted(self.faults.items()))
        rows = (
            ("schedules", f"{self.schedules:,}"),
            ("lives of a kernel", f"{self.lives:,}"),
            ("killed with -9", f"{points + at_random:,} ({points:,} at {named} named points)"),
            ("faults set at the service", f"{sum(self.faults.values()):,}: {kinds}"),
            ("rows", f"{self.rows:,}"),
            ("**lost**", f"**{self.lost:,}**"),
            ("**misplaced**", f"**{self.misplaced:,}**"),
            ("**paid twice**", f"**{self.paid_twice:,}**"),
            ("paid again because the service lost the answer", f"{self.paid_again_by_need:,}"),
            (
                "asked live; again, as a kill or a fault took the answer",
                f"{self.asked_live:,}; {self.asked_live_again:,}",
            ),
            (
                "billed by the service; known to the journals",
                f"${self.billed_usd:.4f}; ${self.known_usd:.4f} (the same to a millionth in the"
                f" {self.to_the_cent:,} schedules that lost no answer on its way)",
            ),
        )
        return "\n".join(["| | |", "|---|---|", *(f"| {name} | {n} |" for name, n in rows)])


class Lane:
    """One service and the schedules that are played on it, one after another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.service = Service(folder / "service")
        self._counted: set[str] = set()  # jobs of earlier schedules
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the service."""
        self.service.end()

    def play(self, story: Schedule) -> Tally:
        """Play one schedule and tell how it went."""
        home = self._folder / f"home-{story.seed}"
        home.mkdir()
        billed = self.service.ledger()
        tally = Tally(schedules=1, rows=len(story.texts))
        for life in story.lives[:-1]:
            self.service.clear_faults()
            self.service.faults(**life.faults)
            tally.faults.update(life.faults.keys())
            self._live(home, story, life, tally)
        self.service.clear_faults()
        for _ in range(3):
            (home / "result.pickle").unlink(missing_ok=True)
            self._live(home, story, story.lives[-1], tally)
            if self._judge(home, story, tally):
                break
        else:
            tally.bad.append(f"seed {story.seed}: {tally.lost} lost; {_what_is_known(home)}")
        self._count_payments(story, tally, home, billed)
        if not tally.bad:
            shutil.rmtree(home)
        return tally

    def _live(self, home: Path, story: Schedule, life: Life, tally: Tally) -> None:
        (home / "texts.json").write_text(json.dumps(life.texts))
        kernels = 1 + life.is_pair
        with ThreadPoolExecutor(kernels) as pool:
            list(pool.map(lambda _: self._one_kernel(home, story, life, tally), range(kernels)))

    def _one_kernel(self, home: Path, story: Schedule, life: Life, tally: Tally) -> None:
        with self._lock:
            tally.lives += 1
            name = f"k{tally.lives}"
        settings = QUICK | {"BATCH_MAGIC_MAX_ROWS_PER_JOB": str(story.rows_per_job)}
        kernel = MortalKernel(home, name, settings)
        try:
            kernel.expect(life.death)
            error = live(kernel, life, self.service.url)
        except Died:
            error = ""
        ended = kernel.close()
        with self._lock:
            if ended == -signal.SIGKILL:
                tally.kills[life.death.point or AT_RANDOM] += 1
            elif ended:
                tally.bad.append(f"seed {story.seed}: a kernel ended with {ended} {kernel.fault}")
            if error and error.partition(":")[0] not in OUR_ERRORS:
                tally.bad.append(f"seed {story.seed}: {error}")
            if error:
                with (home / "log").open("a", encoding="utf-8") as log:
                    log.write(f"{error}\n")

    def _judge(self, home: Path, story: Schedule, tally: Tally) -> bool:
        """Look at the frame; tell whether every row is ok and right."""
        path = home / "result.pickle"
        wanted = [stub_answer(text) for text in story.texts]
        if not path.exists():
            tally.lost, tally.misplaced = len(wanted), 0
            return False
        frame = pd.read_pickle(path)
        asked = frame_of(story.texts)
        is_same = list(frame["text"]) == list(asked["text"]) and frame.index.equals(asked.index)
        ok = frame["gpt_status"].astype(str).to_numpy() == "ok"
        found = frame["answer"].tolist()
        pairs = list(zip(ok.tolist(), found, wanted, strict=True)) if is_same else []
        tally.lost = len(wanted) - sum(is_ok for is_ok, _, _ in pairs)
        tally.misplaced = sum(is_ok and one != other for is_ok, one, other in pairs)
        return tally.lost == tally.misplaced == 0

    def _count_payments(
        self, story: Schedule, tally: Tally, home: Path, before: list[dict[str, Any]]
    ) -> None:
        """Count answers that were delivered more than once, and those that never were."""
        client, delivered, paid = self.service.client(), Counter[str](), 0
        for batch in self.service.batches():
            if batch["id"] in self._counted:
                continue
            self._counted.add(batch["id"])
            asked = _texts_of(client, batch["input_file_id"])
            answered = _answered(client, batch["output_file_id"])
            delivered.update({asked[name] for name in answered if name in asked})
            paid += batch["rows_paid"]
        tally.paid_twice = sum(n - 1 for n in delivered.values() if n > 1)
        tally.paid_again_by_need = paid - sum(delivered.values())
        noted = set(_noted_live(home))
        delivered.update(noted)
        tally.paid_twice = sum(n - 1 for n in delivered.values() if n > 1)
        billed = _since(before, self.service.ledger())
        tally.asked_live = sum(one["requests"] for one in billed if one["lane"] == "realtime")
        tally.asked_live_again = tally.asked_live - len(noted)
        lost_calls = sum(_times_lost(life.faults) for life in story.lives)
        most = LIVE_AT_ONCE * tally.lives + lost_calls
        if tally.asked_live_again > most:
            tally.bad.append(f"seed {story.seed}: {tally.asked_live_again} asked live again")
        tally.billed_usd = sum(map(_dollars, billed))
        tally.known_usd, are_ended = _known_usd(home)
        gap_usd = tally.billed_usd - tally.known_usd
        is_whole = are_ended and not tally.asked_live_again
        tally.to_the_cent = int(is_whole)
        if gap_usd < -1e-6 or (is_whole and gap_usd > 1e-6):
            tally.bad.append(f"seed {story.seed}: ${gap_usd:.6f} are billed that nobody knows of")
        if tally.paid_twice:
            tally.bad.append(f"seed {story.seed}: {tally.paid_twice} paid twice")


def _times_lost(faults: Mapping[str, Any]) -> int:
    """Return how many answers of the realtime API faults may have lost on their way."""
    rules = [rule for name in ("http_status", "http_drop") for rule in faults.get(name, [])]
    return sum(one["times"] for one in rules if one["route"] == ASKED and one["after_commit"])


def _noted_live(home: Path, runs: str = ".gptbatch/runs") -> Iterator[str]:
    """Yield the texts that were answered live, by what the runs have on their disk."""
    for folder in (home / runs).glob("*"):
        lines = [line for one in folder.glob("shard-*.jsonl") for line in one.open("rb")]
        asked = {row["custom_id"]: _text_of(row) for row in map(json.loads, lines)}
        for path in [*folder.glob("job-*.output.jsonl"), *folder.glob("job-*.live-*.jsonl")]:
            for line in path.read_bytes().split(b"\n")[:-1]:
                is_ours = line.startswith(b'{"custom_id"')  # a batch's begins with its own id
                row = json.loads(line) if is_ours else {}
                if is_ours and row["response"]["status_code"] == 200:
                    yield asked[row["custom_id"]]


def _text_of(row: Mapping[str, Any]) -> str:
    text: str = row["body"]["messages"][-1]["content"]
    return text


def _since(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries of a ledger that came since, with how many requests of each."""

    def key(entry: Mapping[str, Any]) -> str:
        return json.dumps({**entry, "requests": 0}, sort_keys=True)

    known = {key(one): one["requests"] for one in before}
    return [{**one, "requests": one["requests"] - known.get(key(one), 0)} for one in now]


def _dollars(entry: Mapping[str, Any]) -> float:
    """Price an entry of the ledger, by arithmetic of our own."""
    times = 2 if entry["lane"] == "realtime" else 1
    tokens = entry["input_tokens"] * PRICES["input"] + entry["output_tokens"] * PRICES["output"]
    return float(times * tokens * entry["requests"] / 1e6)


def _known_usd(home: Path) -> tuple[float, bool]:
    """Return what the journal says was paid, and whether all its runs have ended."""
    with sqlite3.connect(home / ".gptbatch" / "journal.db") as db:
        facts = [json.loads(one) for (one,) in db.execute("SELECT facts FROM jobs")]
        (going,) = db.execute(
            "SELECT count(*) FROM runs WHERE ending IS NULL OR ending = 'stopped'"
        ).fetchone()
    return sum(one["cost"]["paid_usd"] for one in facts if one.get("cost")), not going


def _what_is_known(home: Path) -> str:
    """Return what a bad schedule left: the errors of its last result and of its lives."""
    said = (home / "log").read_text() if (home / "log").exists() else ""
    if (home / "result.pickle").exists():
        frame = pd.read_pickle(home / "result.pickle")
        bad = frame[frame["gpt_status"].astype(str) != "ok"]
        said = bad[["gpt_status", "gpt_error"]].to_string() + said[-2000:]
    return said


def _texts_of(client: Any, file_id: str) -> dict[str, str]:
    """Return what each custom_id of an input file asked."""
    lines = client.files.content(file_id).content.split(b"\n")[:-1]
    rows = map(json.loads, lines)
    return {row["custom_id"]: row["body"]["messages"][-1]["content"] for row in rows}


def _answered(client: Any, file_id: str | None) -> Iterator[str]:
    """Yield the custom_ids that an output file answers, each once."""
    seen: set[str] = set()
    for line in client.files.content(file_id).content.split(b"\n") if file_id else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        is_answered = (row["response"] or {}).get("status_code") == 200
        if is_answered and row["custom_id"] not in seen:
            seen.add(row["custom_id"])
            yield row["custom_id"]


# -- the campaign ---------------------------------------------------------------------------

_PER_SERVICE = 20  # a list of all jobs ever made would slow the search


def play_all(stories: list[Schedule], lanes: int, *, say: bool = False) -> Tally:
    """Play schedules side by side and add up how they went."""
    total, lock = Tally(), threading.Lock()
    # The fork server looks here alone, and leaves out without a word what it does not find.
    places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    multiprocessing.get_context("forkserver").set_forkserver_preload(["campaign", "warm"])

    def play_some(part: list[Schedule]) -> None:
        with tempfile.TemporaryDirectory(prefix="campaign-", ignore_cleanup_errors=True) as name:
            lane = Lane(Path(name))
            try:
                for story in part:
                    tally = lane.play(story)
                    with lock:
                        total.add(tally)
                        if say and (total.schedules % 20 == 0 or tally.bad):
                            print(f"{total.schedules:,} {' '.join(tally.bad)}", flush=True)
            finally:
                lane.close()

    size = min(_PER_SERVICE, -(-len(stories) // lanes))
    parts = [stories[at : at + size] for at in range(0, len(stories), size)]
    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(play_some, parts))
    return total


def main() -> int:
    """Play a campaign, print its table; 1 when anything was lost, misplaced or paid twice."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--points", action="store_true", help="besides, die at each named point")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.schedules)
    stories = [schedule(seed) for seed in seeds]
    if options.points:
        first = seeds.stop
        stories += [death_at(point, first + n) for n, point in enumerate(POINTS)]
    total = play_all(stories, options.lanes, say=True)
    print(total.table())
    if options.points and (missed := set(POINTS) - total.kills.keys()):
        total.bad.append(f"nobody died at {', '.join(sorted(missed))}")
    for bad in total.bad:
        print(bad)
    return int(bool(total.bad))


if __name__ == "__main__":
    sys.exit(main())
