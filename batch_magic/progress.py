"""How a run moves on: how long it was under way, and points of rows done over time, thinned.

It knows how much of its age a run has lain idle, how few points tell enough, and what a person
reads from them as a rate and a line of blocks; it refuses to know who writes points and pauses
down. The traps: a retry on the next morning makes no run of a night; a service that has said
nothing new for an hour has not been slow for an hour, so the last look before a change is kept as
a point of its own; and a line of blocks is a picture, so whoever shows it also says the rate in
words.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from batch_magic.records import Pause, Point, Snapshot

MOST = 60  # points of a run
STRETCHES = 24  # blocks in the line, at most
BLOCKS = "▁▂▃▄▅▆▇"
_LEAST_GAP_S = 0.2
_LATELY_S = 60.0
_MINUTE_S = 60.0
_LEAST_SPAN_S = 1.0


def lapsed_s(since: float, until: float, pauses: Sequence[Pause]) -> float:
    """Return for how many seconds between two instants a run did not lie idle."""
    idle_s = sum(max(0.0, min(until, one.ends) - max(since, one.begins)) for one in pauses)
    return max(0.0, until - since - idle_s)


def took_s(s: Snapshot) -> float:
    """Return for how many seconds a run was under way, until its end or now.

    From its submit, or from when its first job was asked for, if somebody did that before.
    """
    began = min((job.intended_at for job in s.jobs if job.intended_at), default=s.created_at)
    return lapsed_s(min(s.created_at, began), s.ended_at or s.as_of, s.pauses)


def is_due(points: Sequence[Point], now: float, rows: int, *, is_last: bool = False) -> bool:
    """Tell whether another point is worth a write: a sixtieth of the run's age is.

    `is_last`: nothing comes after it, so that any change is.
    """
    if not points:
        return True
    gap_s = max(_LEAST_GAP_S, (now - points[0].at) / MOST)
    is_new = rows != points[-1].rows
    return (is_last and is_new) or not 0 <= now - points[-1].at < gap_s


def noted(points: Sequence[Point], now: float, rows: int) -> tuple[Point, ...]:
    """Return the points with another one, no more than `MOST`; those of a clock set back go."""
    known = [point for point in points if point.at < now]
    is_still = len(known) > 1 and known[-1].rows == known[-2].rows == rows
    known[-1 if is_still else len(known) :] = [Point(now, rows)]
    while len(known) > MOST:
        del known[_least_missed(known)]
    return tuple(known)


def _least_missed(points: Sequence[Point]) -> int:
    """Return the place of the point whose neighbours are nearest to each other."""
    gaps = [after.at - before.at for before, after in zip(points, points[2:], strict=False)]
    return 1 + gaps.index(min(gaps))


def rates(points: Sequence[Point]) -> tuple[float, ...]:
    """Return rows a minute in equal stretches of time from the first point to the last.

    Between two points rows are taken to have come evenly. Nothing where there is too little to
    tell: less than a second, or no row. Rows that are asked for again count as none.
    """
    width_s = stretch_s(points)
    if not width_s:
        return ()
    start, n = points[0].at, round((points[-1].at - points[0].at) / width_s)
    came = [0.0] * n
    for before, after in pairwise(points):
        _spread(came, before, after, start, width_s)
    return tuple(rows / width_s * _MINUTE_S for rows in came) if any(came) else ()


def stretch_s(points: Sequence[Point]) -> float:
    """Return how long the stretches of `rates` are, a second at least; 0 where there is none.

    They grow with the run: of what was long ago no shorter ones are known.
    """
    span_s = points[-1].at - points[0].at if points else 0.0
    if len(points) < 2 or span_s < _LEAST_SPAN_S:
        return 0.0
    return span_s / min(STRETCHES, len(points) - 1, int(span_s / _LEAST_SPAN_S))


def _spread(came: list[float], before: Point, after: Point, start: float, width_s: float) -> None:
    """Share the rows that came between two points among the stretches that lie there."""
    rows, span_s = max(0, after.rows - before.rows), after.at - before.at
    for n in range(len(came)):
        begins = max(before.at, start + n * width_s)
        ends = min(after.at, start + (n + 1) * width_s)
        if rows and ends > begins:
            came[n] += rows * (ends - begins) / span_s


def blocks(found: Sequence[float]) -> str:
    """Draw rates as a line of blocks; the lowest is for nothing alone."""
    most = max(found, default=0.0)
    if not most:
        return BLOCKS[0] * len(found)
    top = len(BLOCKS) - 1
    return "".join(
        BLOCKS[max(1, round(rate / most * top))] if rate else BLOCKS[0] for rate in found
    )


def rate_lately(points: Sequence[Point], now: float) -> float | None:
    """Return rows a minute over the last minute or more; None where there is too little to tell."""
    if not points:
        return None
    before = [point for point in points if point.at <= now - _LATELY_S]
    start = before[-1] if before else points[0]
    span_s = now - start.at
    came = sum(max(0, b.rows - a.rows) for a, b in pairwise(points) if a.at >= start.at)
    return came / span_s * _MINUTE_S if span_s >= _LEAST_SPAN_S else None


def rate_overall(points: Sequence[Point]) -> float:
    """Return rows a minute from the first point to the last; 0 where there are no two."""
    span_s = points[-1].at - points[0].at if points else 0.0
    came = sum(max(0, after.rows - before.rows) for before, after in pairwise(points))
    return came / span_s * _MINUTE_S if span_s else 0.0


def silent_s(points: Sequence[Point], now: float) -> float:
    """Return for how long no row has come, since the first point at most."""
    came = [after.at for before, after in pairwise(points) if after.rows > before.rows]
    since = came[-1] if came else points[0].at if points else now
    return max(0.0, now - since)
