"""How a run moves on: few points, right rates, and a record that other kernels see."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lives import Life
from pictures import picture
from service import Service

from batch_magic import progress
from batch_magic.card import card_html, card_text
from batch_magic.records import Ending, JobStage, Point, RowStatus

WALKS = st.lists(st.tuples(st.floats(0.01, 10_000), st.integers(0, 5_000)), max_size=200)


def walked(walk: list[tuple[float, int]]) -> tuple[Point, ...]:
    """Points noted on a walk of (seconds, rows more)."""
    points, at, rows = tuple[Point, ...](), 0.0, 0
    for seconds, more in walk:
        at, rows = at + seconds, rows + more
        points = progress.noted(points, at, rows)
    return points


@given(WALKS)
def test_points_stay_few_in_order_and_true(walk: list[tuple[float, int]]) -> None:
    """The first and the last look are always there, and no point says what was not so."""
    points = walked(walk)
    assert len(points) <= progress.MOST
    assert [point.at for point in points] == sorted({point.at for point in points})
    if walk:
        assert points[-1].rows == sum(more for _, more in walk)
        assert points[0].rows == walk[0][1]


@given(WALKS)
def test_stretches_hold_all_rows_that_came(walk: list[tuple[float, int]]) -> None:
    """Rates are a share of the rows, not an invention."""
    points = walked(walk)
    found = progress.rates(points)
    if found:
        minutes = (points[-1].at - points[0].at) / len(found) / 60
        came = points[-1].rows - points[0].rows
        assert sum(found) * minutes == pytest.approx(came, rel=1e-6)
        assert len(progress.blocks(found)) == len(found) <= progress.STRETCHES


def test_the_best_of_a_run_is_told_with_its_length() -> None:
    """Stretches grow with a run, and what is best of them shrinks: it is an average of more."""
    points, rows, told = tuple[Point, ...](), 0, list[str]()
    for second in range(601):
        rows += 500 if second == 30 else 10
        points = progress.noted(points, float(second), rows)
        if second in (60, 600):
            s = picture(progress=points, as_of=float(second), created_at=0.0)
            told += re.findall(r"[\d,]+ rows/min in its best .* s(?=\))", card_text(s))
    assert told == ["12,400 rows/min in its best 2 s", "1,630 rows/min in its best 25 s"]


@given(WALKS)
def test_stretches_are_as_long_as_is_told(walk: list[tuple[float, int]]) -> None:
    """A rate of a fiftieth of a second is a picture of the clock."""
    points = walked(walk)
    found = progress.rates(points)
    if found:
        assert progress.stretch_s(points) >= 1
        span_s = points[-1].at - points[0].at
        assert len(found) * progress.stretch_s(points) == pytest.approx(span_s)


def test_an_hour_of_silence_is_not_an_hour_of_slowness() -> None:
    """The last look before a change is kept: what came at once is drawn as such."""
    points = tuple[Point, ...]()
    for at in range(0, 3_601, 60):
        points = progress.noted(points, float(at), 0)
    points = progress.noted(points, 3_620.0, 1_000)
    assert [point.rows for point in points] == [0, 0, 1_000]
    line = progress.blocks(progress.rates(points))
    assert line in ("▁▇", "▂▇")
    assert progress.silent_s(points, 3_650.0) == 30.0
    assert progress.rate_lately(points, 3_620.0 + 7_200) == 0


def test_a_clock_set_back_leaves_no_point_of_the_future() -> None:
    """Otherwise the pace would stand still until the clock has caught up."""
    points = (Point(100.0, 1), Point(200.0, 2))
    assert progress.is_due(points, 50.0, 3)
    assert progress.noted(points, 150.0, 3) == (Point(100.0, 1), Point(150.0, 3))


def test_writes_grow_with_the_age_of_a_run_and_not_with_its_polls() -> None:
    """A day's run that is looked at every second is written down a few hundred times."""
    points, writes = tuple[Point, ...](), 0
    for second in range(86_400):
        if progress.is_due(points, float(second), second):
            points, writes = progress.noted(points, float(second), second), writes + 1
    print("writes in a day:", writes)
    assert writes < 700


def test_the_pace_is_told_in_blocks_and_in_words() -> None:
    """Blocks are text: they survive the saved file; whoever hears them hears the words."""
    points = tuple(Point(float(n * 10), n * 20) for n in range(10))
    s = picture(progress=points, as_of=90.0, created_at=0.0)
    assert "120 rows/min (120 rows/min in its best 10 s)" in card_text(s)
    assert "pace: ▇" in card_text(s)
    assert 'aria-label="rows a minute, from its beginning: 120 rows/min' in card_html(s)
    still = picture(progress=points, as_of=600.0, created_at=0.0)
    assert "no new row for 8 min" in card_text(still)
    assert "pace" not in card_text(picture(progress=points[:1]))


# -- in the journal -------------------------------------------------------------------------


def test_progress_is_there_for_another_life_and_goes_with_its_run(
    lives: Callable[..., Life], reviews: Any
) -> None:
    """A restarted kernel draws the same line; a run that is cleaned away leaves nothing."""
    life = lives()
    run_id = life.submit(reviews, max_rows_per_job=3)
    life.until_ended(run_id)
    points = life.run(run_id).progress
    assert points[0].rows < points[-1].rows == len(reviews)
    life.end()
    second = lives()
    assert second.run(run_id).progress == points
    second.journal.forget(run_id)
    with second.journal._read() as db:
        assert db.execute("SELECT count(*) FROM progress").fetchone() == (0,)


def test_another_kernels_panel_sees_pace_and_newest_answers(
    lives: Callable[..., Life], reviews: Any
) -> None:
    """Whoever does not hold the lease looks on: the same pace, and says who works at it."""
    life, other = lives(), lives()
    run_id = life.submit(reviews, max_rows_per_job=3)
    life.until(run_id, lambda run: any(job.stage is JobStage.COLLECTED for job in run.jobs))
    other.engine.drive(run_id)
    other.step()
    seen = other.published[-1]
    assert seen.is_driven_elsewhere
    assert seen.progress == life.run(run_id).progress
    if seen.ending is None:
        assert 0 < len(seen.newest) <= 5


def test_the_commonest_error_is_told_while_the_run_goes_on(
    life: Life, service: Service, reviews: Any
) -> None:
    """Not only at the end: the first job's errors are a reason to stop the others."""
    texts = [f"review {n} [[fault:400]]" if n < 3 else f"review {n}" for n in range(12)]
    run_id = life.submit(reviews.assign(text=texts), max_rows_per_job=6)
    life.until_ended(run_id)
    told = [s for s in life.published if s.ending is None and s.complaint]
    bad = [s for s in life.published if s.ending is None and s.counts.get(RowStatus.FAILED)]
    assert bool(told) == bool(bad)
    for s in told:
        assert "400" in (s.complaint or "")
        assert "commonest error so far" in card_text(s)
    assert life.run(run_id).ending is Ending.FINISHED


def test_a_live_run_shows_its_newest_answers_as_they_come(
    life: Life, service: Service, reviews: Any
) -> None:
    """A live run has one job that is done at the end: its answers are seen before."""
    service.faults(http_delay={"route": "chat.completions", "delay_s": 0.4})
    run_id = life.submit(reviews, asked={"live": True}, live_concurrency=2)
    while life.run(run_id).ending is None:
        life.step()
        life.clock.now += 1
    shown = [s.newest for s in life.published if s.ending is None and s.newest]
    assert shown
    assert all(len(newest) <= 5 for newest in shown)
    assert max(len(newest) for newest in shown) == 5
