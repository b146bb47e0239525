"""Rows out: from a held frame to shards on the disk, and one journal commit.

It knows the order of a submit (render, encode, leave out what need not be sent, cut shards,
store the frame, name it all in one commit) and refuses to talk to the service. A line is left
out when an equal one stands before it in the run (a twin), when an earlier run of this home
was answered it (kept), or when a run in flight will be (held).

The trap is time: a large frame takes minutes, a cell may take one second. So a preparation is
advanced in steps by whoever has time: the cell first, a thread for the rest.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch_magic import frame as frames
from batch_magic import outcomes, resending
from batch_magic.costs import cache_note, estimate, shape_text, spent_before
from batch_magic.digests import FirstSeen, SortedDigests, as_digests
from batch_magic.durable_files import disk_errors
from batch_magic.errors import CellError, JournalError
from batch_magic.folder import (
    Answered,
    Home,
    KeptWriter,
    RunFolder,
    ShardWriter,
    ShardWriters,
)
from batch_magic.journal import Journal
from batch_magic.lifecycle import is_given_up
from batch_magic.packing import Packer, pick
from batch_magic.queueing import tokens_in
from batch_magic.records import (
    Chunk,
    Endpoint,
    Estimate,
    Lines,
    Outcomes,
    Rendered,
    RowStatus,
    RunRecord,
    Spent,
)
from batch_magic.stored_frame import Stored, store
from batch_magic.template import Template, is_template
from batch_magic.tokens import Tally, counter
from batch_magic.wire import Encoder
from batch_magic.wording import counted


@dataclass(frozen=True, slots=True)
class Known:
    """What this home knows of a service's answers: by ended runs, and by runs in flight."""

    answered: tuple[Answered, ...] = ()
    in_flight: Mapping[str, SortedDigests] = field(default_factory=dict)
    kin: tuple[tuple[str, bool], ...] = ()  # the journal's word that this rests on
    idle: frozenset[str] = frozenset()  # of these in flight: those that nobody goes on with
    spent: Mapping[str, Spent] = field(default_factory=dict)  # on the same prompt, by model


def known_answers(home: Home, journal: Journal, draft: RunRecord, *, fresh: bool) -> Known:
    """Look up which lines earlier runs of this home were answered, or wait for.

    `fresh` knows of none: the user wants to pay again.
    """
    answered: list[Answered] = []
    in_flight: dict[str, SortedDigests] = {}
    kin = journal.kin(draft.backend.identity, draft.request.model)
    runs = [(journal.run(run_id), has_ended) for run_id, has_ended in kin]
    for run, has_ended in [] if fresh else runs:
        run_id = run.run_id
        folder = home.run_folder(run_id, run.files)
        try:
            if not has_ended:
                digests = resending.in_flight(folder, run)
                in_flight[run_id] = SortedDigests(digests, np.arange(len(digests)))
            elif (found := outcomes.answered(folder, run)) is not None:
                answered.append(found)
        except JournalError as error:
            raise JournalError(
                f"{error} (run {run_id} may have paid answers for these rows: put its files back,"
                f" or forget it with `%gptbatch clean {run_id}`, or pay again with --fresh)"
            ) from error
    spent = spent_before((run for run, _ in runs), draft.request)
    idle = frozenset(run.run_id for run, _ in runs if is_given_up(run) or run.cancel_at is not None)
    return Known(tuple(answered), in_flight, tuple(kin), idle, spent)


_SMALL_ROWS = 10_000  # of so few what is left then takes the cell half a second, the first time


class Preparation:
    """A run on its way to the disk. Advance it until it is done, then take `record`."""

    def __init__(
        self,
        home: Home,
        draft: RunRecord,
        *,
        frame: Any,
        template: Template,
        known: Known,
        places: Sequence[int] | None = None,
    ) -> None:
        self.draft = draft
        self.rows_done = 0
        self.record: RunRecord | None = None
        self._folder = home.run_folder(draft.run_id)
        self.known = known
        self._frame, self._template, self._places = frame, template, places
        self._steps = self._run()

    def advance(self, is_over: Callable[[], bool]) -> bool:
        """Work until done (True) or until `is_over` says that the time is (False).

        Raises TemplateError for a value that cannot be rendered, JournalError when the disk
        refuses; the folder is removed then, and nothing has been sent.
        """
        try:
            for _ in self._steps:
                if is_over():
                    return False
        except BaseException:
            self._steps.close()
            self.discard()
            raise
        return True

    def discard(self) -> None:
        """Remove what was written: it is not wanted after all."""
        if self._folder.path.exists():
            self._folder.discard()

    def _run(self) -> Generator[None, None, None]:
        self._folder.create()
        out = _Out(self._folder, self.draft, self.known)
        models = self.draft.request.models
        asked = _Asked(self.draft, self._template)
        for chunk in _chunks(self._frame, self._template, self._places):
            rendered = self._template.render(chunk)
            for nth in range(len(models)):
                out.leave_out(_shifted(rendered, nth * len(self._frame)))
            out.missing_values += rendered.missing_values
            for model, lines in asked.lines(rendered):
                out.take(model, lines)
            self.rows_done += chunk.size * len(models)
            if self.rows_done < self.draft.rows:
                yield
        with disk_errors(self._folder.frame_path):
            stored = store(self._frame, self._folder.frame_path)
        if len(self._frame) > _SMALL_ROWS:
            yield
        self.record = out.close(stored, self._template)


class _Asked:
    """What is asked of each model: every row of every one, or each row of its own."""

    def __init__(self, draft: RunRecord, template: Template) -> None:
        self._draft, self._template = draft, template
        self._rows = draft.rows // len(draft.request.models)
        self._encoders: dict[str, Encoder] = {}

    def lines(self, rendered: Rendered) -> Iterator[tuple[str, Lines]]:
        """Yield (model, its lines) of a chunk; positions go on where those of a model end."""
        if (slot := self._template.model) is None:
            for nth, model in enumerate(self._draft.request.models):
                yield model, self._encoder(model).encode(_shifted(rendered, nth * self._rows))
            return
        names = rendered.slots[slot]
        for model in dict.fromkeys(names):
            rows = [n for n, name in enumerate(names) if name == model]
            yield model, self._encoder(model).encode(_picked(rendered, rows))

    def _encoder(self, model: str) -> Encoder:
        if model not in self._encoders:
            self._encoders[model] = Encoder(
                run_id=self._draft.run_id,
                endpoint=self._draft.request.endpoint,
                model=model,
                params=self._template.params,
                messages=self._template.messages,
            )
        return self._encoders[model]


def _shifted(rendered: Rendered, by: int) -> Rendered:
    """The same for another model: its positions come after all rows of the one before."""
    if not by:
        return rendered
    return replace(
        rendered,
        positions=[position + by for position in rendered.positions],
        skipped=[position + by for position in rendered.skipped],
        unsendable=[(position + by, said) for position, said in rendered.unsendable],
    )


def _picked(rendered: Rendered, rows: Sequence[int]) -> Rendered:
    if len(rows) == len(rendered.positions):
        return rendered
    slots = tuple([values[n] for n in rows] for values in rendered.slots)
    return replace(rendered, positions=[rendered.positions[n] for n in rows], slots=slots)


class _Out:
    """Sorts lines into shards, kept answers, twins and rows that are not sent."""

    def __init__(self, folder: RunFolder, draft: RunRecord, known: Known) -> None:
        self._folder, self._draft, self._known = folder, draft, known
        numbers = count()
        count_inputs = resending.counting(draft)
        self._shards = ShardWriters(
            lambda model: ShardWriter(
                folder, draft.limits, numbers=numbers, model=model, count=count_inputs
            )
        )
        self._held = ShardWriters(
            lambda model: ShardWriter(
                folder, draft.limits, numbers=numbers, held=True, model=model, count=count_inputs
            )
        )
        self._kept = KeptWriter(folder, 0)
        self._seen = FirstSeen()
        self._tallies, self._held_tallies = Tallies(draft), Tallies(draft)
        self._twins: list[NDArray[np.int64]] = []
        self._unsent: list[Outcomes] = []
        self._lenders: set[str] = set()
        self._hash = hashlib.sha256()
        self._decided: Counter[RowStatus] = Counter()
        self._unsendable, self._why = 0, ""
        self.missing_values = 0

    def leave_out(self, rendered: Rendered) -> None:
        """Settle the rows of a chunk that have nothing to send, or nothing that can be sent."""
        if positions := list(rendered.skipped):
            self._hash.update(np.asarray(positions, dtype="<i8").tobytes())
            reason = "every column that the template reads is missing here"
            self._settle(positions, RowStatus.SKIPPED, [reason] * len(positions))
        if unsendable := rendered.unsendable:
            self._hash.update(repr(unsendable).encode("utf-8", "surrogatepass"))
            self._unsendable += len(unsendable)
            self._why = self._why or "row {}: {}".format(*unsendable[0])
            self._settle([n for n, _ in unsendable], RowStatus.FAILED, [s for _, s in unsendable])

    def take(self, model: str, lines: Lines) -> None:
        """Sort a chunk's lines, which all ask `model`."""
        if not len(lines.positions):
            return
        digests = as_digests(lines.digests)
        positions = np.asarray(lines.positions, dtype=np.int64)
        self._hash.update(digests.tobytes())
        firsts = self._seen.add(digests, positions)
        is_twin = firsts >= 0
        if is_twin.any():
            self._twins.append(np.stack([positions[is_twin], firsts[is_twin]], axis=1))
        left = ~is_twin
        left &= ~self._take_kept(digests, positions, left)
        held, is_idle = self._find_held(digests, left)
        if held.any():
            self._write(self._held, model, _some(lines, held))
        if is_idle.any():  # will be sent as soon as its run is given up
            self._tallies.add(model, _some(lines, is_idle))
        if (is_busy := held & ~is_idle).any():
            self._held_tallies.add(model, _some(lines, is_busy))
        if (is_sent := left & ~held).any():
            sent = _some(lines, is_sent)
            fits = ~np.isin(sent.positions, self._write(self._shards, model, sent))
            self._tallies.add(model, _some(sent, fits))

    def _take_kept(
        self, digests: NDArray[np.void], positions: NDArray[np.int64], left: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        taken = np.zeros(len(digests), dtype=bool)
        for answers in self._known.answered:
            found = answers.find(digests)
            hits = (found >= 0) & left & ~taken
            if hits.any():
                self._kept.write(
                    positions[hits], digests[hits], answers.lines(found[hits].tolist())
                )
                taken |= hits
        return taken

    def _find_held(
        self, digests: NDArray[np.void], left: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Tell which lines are in flight, and which of them only in runs that nobody goes on with.

        Every run that has one is waited for: it may only hold it for another, and be cancelled
        before it is answered.
        """
        held, is_busy = np.zeros((2, len(digests)), dtype=bool)
        for run_id, index in self._known.in_flight.items():
            hits = (index.find(digests) >= 0) & left
            if hits.any():
                self._lenders.add(run_id)
                held |= hits
                is_busy |= hits & (run_id not in self._known.idle)
        return held, held & ~is_busy

    def _write(self, shards: ShardWriters, model: str, lines: Lines) -> list[int]:
        """Write lines; return the positions of those that no job can hold."""
        oversize = shards.write(model, lines)
        positions = [position for position, _ in oversize]
        if oversize:
            limit = self._draft.limits.max_bytes_per_job
            said = [f"its line has {n:,} bytes, a job holds {limit:,}" for _, n in oversize]
            self._settle(positions, RowStatus.FAILED, said)
        return positions

    def _settle(self, positions: list[int], status: RowStatus, said: list[str]) -> None:
        self._decided[status] += len(positions)
        self._unsent.append(Outcomes.unsent(positions, status, said))

    def close(self, stored: Stored, template: Template) -> RunRecord:
        """Put every file in its place and return the run as it is to be written down.

        Raises CellError when there are rows and none of them can be sent.
        """
        skipped = self._decided[RowStatus.SKIPPED]
        if self._unsendable and self._unsendable + skipped == self._draft.rows:
            raise CellError(f"no row can be sent: {self._why}; mend the column")
        shards = sorted(self._shards.close() + self._held.close(), key=lambda shard: shard.number)
        kept = self._kept.close()
        if kept:
            self._decided.update(outcomes.count_kept(self._folder, self._draft, 0))
        self._folder.write_twins(self._twins)
        self._folder.write_unsent(self._unsent)
        twins = sum(len(some) for some in self._twins)
        record = replace(
            self._draft,
            identity=self._identity(stored),
            unstored=stored.unstored,
            decided=dict(self._decided),
            twins=twins,
            lenders=tuple(sorted(self._lenders)),
            estimate=self._estimate(template),
            shards=tuple(shards),
            files={self._folder.frame_path.name: stored.sha256, **self._folder.hashes(*_NAMES)},
        )
        notes = _notes(record, kept, self.missing_values, self._unsendable, self._why)
        notes += self._tallies.notes(template)
        return replace(record, notes=self._draft.notes + notes)

    def _estimate(self, template: Template) -> Estimate:
        found = self._tallies.estimate(self._known.spent, template)
        held = self._held_tallies.estimate(self._known.spent, template)
        return replace(found, held=held) if held.requests else found

    def _identity(self, stored: Stored) -> str:
        draft = self._draft
        facts = (draft.name, draft.backend.identity, draft.rows, asdict(draft.layout))
        for part in (stored.sha256, draft.fingerprint if stored.unstored else "", repr(facts)):
            self._hash.update(part.encode())
        return self._hash.hexdigest()


class Tallies:
    """How many tokens will be sent to each model, and what that may cost."""

    def __init__(self, draft: RunRecord) -> None:
        self._draft = draft
        self._tallies: dict[str, Tally] = {}

    def add(self, model: str, lines: Lines) -> None:
        """Take lines that will be sent."""
        if model not in self._tallies:
            endpoint = self._draft.request.endpoint
            self._tallies[model] = Tally(endpoint)
        self._tallies[model].add(lines)

    def estimate(self, spent: Mapping[str, Spent], template: Template | None = None) -> Estimate:
        """Say what all that was added may take; without the template nothing of it is cached."""
        counted = {model: one.result(counter(model)) for model, one in self._tallies.items()}
        prefix = self._count(self._constants(template)[0]) if counted and template else 0
        return estimate(self._draft, counted, spent, prefix_tokens=prefix)

    def notes(self, template: Template) -> tuple[str, ...]:
        """Say what would make the prompt cheaper."""
        if self._draft.request.endpoint not in (Endpoint.CHAT, Endpoint.RESPONSES):
            return ()
        note = cache_note(*map(self._count, self._constants(template)))
        return () if note is None or not self._tallies else (note,)

    def _count(self, text: str) -> int:
        exact = counter(next(iter(self._tallies), self._draft.request.model))
        return tokens_in(len(text.encode())) if exact is None else exact.count(text)

    def _constants(self, template: Template) -> tuple[str, str]:
        first, late = template.constants
        return shape_text(self._draft.request.params) + first, late


_NAMES = ("twins.npy", "unsent.arrow", "kept-00000.jsonl", "kept-00000.npy")


def _notes(
    run: RunRecord, kept: int, missing_values: int, unsendable: int, why: str
) -> tuple[str, ...]:
    held = sum(shard.rows for shard in run.shards if shard.held)
    said = (
        (kept, "answered before: taken over, not paid again"),
        (held, "in flight in an earlier run: not sent again"),
        (run.twins, "with the same request as an earlier row: sent once, answered all"),
        (missing_values, "sent with a missing value, rendered as nothing"),
        (unsendable, f"failed unsent ({why:.200})"),
    )
    notes = [f"{counted(n, 'row')} {what}" for n, what in said if n]
    if is_template(run.request.model):
        asked = Counter[str]()
        for shard in run.shards:
            asked[shard.model] += shard.rows
        told = ", ".join(f"{model} ({counted(n, 'row')})" for model, n in asked.most_common(8))
        more = f" and {len(asked) - 8} more" if len(asked) > 8 else ""
        notes += [f"asks {told}{more}"] if told else []
    if run.unstored:
        names = ", ".join(run.unstored)
        notes.append(f"not stored on disk, after a restart the result lacks it: {names}")
    return tuple(notes)


def _some(lines: Lines, wanted: NDArray[np.bool_]) -> Lines:
    if wanted.all():
        return lines
    return pick(lines, np.flatnonzero(wanted).tolist())


# -- a dry run ------------------------------------------------------------------------------

_SHOWN = 2


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a submit would do: rows by fate, jobs, bytes, what it may cost, the first lines."""

    rows: int
    to_send: int
    twins: int
    kept: int  # answered before
    held: int  # in flight in an earlier run
    skipped: int
    oversize: int
    missing_values: int
    unsendable: int
    jobs: int
    bytes: int
    record: RunRecord  # the run that it would be, with its estimate
    first_lines: tuple[str, ...]
    notes: tuple[str, ...]


_COUNTS = (
    *("to_send", "twins", "kept", "held", "skipped", "oversize", "missing_values"),
    *("unsendable", "jobs", "bytes"),
)


def rehearse(draft: RunRecord, frame: Any, template: Template, known: Known) -> DryRun:
    """Render and count every row; write and send nothing. Raises as a submit would."""
    asked, totals, first = _Asked(draft, template), Counter[str](), list[str]()
    seen, packers, tallies = FirstSeen(), dict[str, Packer](), Tallies(draft)
    for chunk in _chunks(frame, template):
        rendered = template.render(chunk)
        times = len(draft.request.models)
        totals["skipped"] += times * len(rendered.skipped)
        totals["unsendable"] += times * len(rendered.unsendable)
        totals["missing_values"] += rendered.missing_values
        for model, lines in asked.lines(rendered):
            wanted = _SHOWN - len(first)
            first += [line.decode() for line in lines.data.split(b"\n", wanted)[:wanted] if line]
            new = _new_lines(lines, seen, known, totals)
            packed = packers.setdefault(model, _packer(draft)).pack(new)
            totals["oversize"] += len(packed.oversize)
            for part in packed.parts:
                totals["to_send"] += len(part.lines.sizes)
                totals["bytes"] += len(part.lines.data)
                totals["jobs"] += part.opens
                tallies.add(model, part.lines)
    notes = draft.notes + tallies.notes(template)
    return DryRun(
        rows=len(frame),
        record=replace(draft, estimate=tallies.estimate(known.spent, template)),
        first_lines=tuple(first),
        notes=notes,
        **{name: totals[name] for name in _COUNTS},
    )


def _new_lines(lines: Lines, seen: FirstSeen, known: Known, totals: Counter[str]) -> Lines:
    """Return those that would be sent; count the others."""
    digests = as_digests(lines.digests)
    left = seen.add(digests, np.asarray(lines.positions, dtype=np.int64)) < 0
    totals["twins"] += len(left) - int(left.sum())
    kept: list[tuple[str, Answered | SortedDigests]] = [("kept", one) for one in known.answered]
    busy = [("held", one) for name, one in known.in_flight.items() if name not in known.idle]
    for name, index in [*kept, *busy]:
        hits = left & (index.find(digests) >= 0)
        totals[name] += int(hits.sum())
        left &= ~hits
    return _some(lines, left)


def _packer(draft: RunRecord) -> Packer:
    limits = draft.limits
    return Packer(
        max_rows=limits.max_rows_per_job,
        max_bytes=limits.max_bytes_per_job,
        count=resending.counting(draft),
    )


_ROWS_WITH_IMAGES = 8  # a few megabytes each


def _chunks(frame: Any, template: Template, places: Sequence[int] | None = None) -> Iterator[Chunk]:
    size = {"size": _ROWS_WITH_IMAGES} if template.has_images else {}
    for chunk in frames.chunks(
        frame, template.columns, with_index=template.reads_index, as_text=template.bare, **size
    ):
        stretch = None if places is None else places[chunk.start : chunk.start + chunk.size]
        yield chunk if stretch is None else replace(chunk, places=stretch)
