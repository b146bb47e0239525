"""Looks at all runs of a home again and again, at little cost: what has changed is read, no more.

It knows by which marks of the journal a run is known to be as it was, and refuses to remember
anything that the journal could not say again: what it keeps is thrown away as soon as its mark
differs. It writes nothing and takes no lease.

The traps: a lease ends without any commit, when its process dies or its time is over, so leases
are judged anew at each look; and the journal's mark of change belongs to a thread's connection,
so a `Lookout` belongs to one thread. Runs that are still being prepared are in no journal yet;
they are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from batch_magic import picture
from batch_magic.cleaning import reason_to_keep
from batch_magic.journal import Journal, is_held
from batch_magic.records import Lease, RunRecord, Snapshot
from batch_magic.standing import Standing, Where


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the journal said at the last look that found a change."""

    version: int
    stamps: dict[str, int]
    records: dict[str, RunRecord]
    snapshots: dict[str, Snapshot]
    leases: dict[str, Lease]
    taken: frozenset[str]
    borrowers: dict[str, list[str]]


class Lookout:
    """The runs of one home as they stand; `owner` is how this kernel signs its leases."""

    def __init__(
        self, journal: Journal, owner: str, preparing: Callable[[], Sequence[Snapshot]]
    ) -> None:
        self._journal, self._owner, self._preparing = journal, owner, preparing
        self._seen: _Seen | None = None
        self._told: tuple[Standing, ...] = ()
        self._told_of: object = None

    def look(self, now: float) -> tuple[Standing, ...]:
        """Return every run as it stands, newest first; the very same tuple if nothing has changed.

        Raises JournalError when the journal cannot be read.
        """
        seen = self._read(now)
        held = {run_id for run_id, lease in seen.leases.items() if is_held(lease, now)}
        preparing = [one for one in self._preparing() if one.run_id not in seen.stamps]
        state = (seen, held, preparing)
        if state != self._told_of:
            drawn = [self._stand(seen, run_id, held, now) for run_id in seen.stamps]
            early = [Standing(one, Where.HERE, is_recorded=False) for one in preparing]
            self._told, self._told_of = (*early[::-1], *drawn), state
        return self._told

    def close(self) -> None:
        """Let go of this thread's connection."""
        self._journal.close()

    def _read(self, now: float) -> _Seen:
        version = self._journal.changes()
        before = self._seen
        if before is not None and before.version == version:
            return before
        stamps, changed = self._journal.runs_since({} if before is None else before.stamps)
        records = {run.run_id: run for run in changed}
        drawn = {run.run_id: picture.snapshot(run, now) for run in changed}
        if before is not None:
            kept = [run_id for run_id in stamps if run_id not in records]
            records |= {run_id: before.records[run_id] for run_id in kept}
            drawn |= {run_id: before.snapshots[run_id] for run_id in kept}
        self._seen = _Seen(
            version,
            stamps,
            records,
            drawn,
            self._journal.leases(),
            frozenset(self._journal.results_made()),
            self._journal.all_borrowers(),
        )
        return self._seen

    def _stand(self, seen: _Seen, run_id: str, held: set[str], now: float) -> Standing:
        run, lease = seen.records[run_id], seen.leases.get(run_id)
        is_driven = lease is not None and run_id in held
        is_ours = lease is not None and lease.owner == self._owner
        is_taken = run_id in seen.taken
        kept = reason_to_keep(
            run, now, borrowers=seen.borrowers.get(run_id, ()), has_result=is_taken
        )
        return Standing(
            seen.snapshots[run_id],
            (Where.HERE if is_ours else Where.ELSEWHERE) if is_driven else Where.NOWHERE,
            lease if is_driven else None,
            is_taken=is_taken,
            kept=kept,
        )
