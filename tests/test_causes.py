"""Rows of one cause sent again: what a wish means, who may lose it, and what is paid for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lives import Life
from service import Service, stub_answer

from batch_magic.causes import Cause, cause_key, causes
from batch_magic.engine import plan_jobs
from batch_magic.errors import JournalError
from batch_magic.records import NO_WISHES, Ending, JobStage, RowStatus, RunRecord, Wish, Wishes
from batch_magic.resending import resend
from batch_magic.schema import read_wishes, wishes_json

Lives = Callable[..., Life]
TWO_FAULTS = [{"status": 400, "every": 3}, {"status": 404, "every": 5}]


def found(life: Life, run_id: str) -> list[Cause]:
    run = life.run(run_id)
    return causes(life.home.run_folder(run_id, run.files), run)


def retry(life: Life, run_id: str, *keys: str, live: bool = False) -> None:
    life.journal.ask_retry(run_id, [], life.clock(), causes=keys, live=live)
    life.engine.drive(run_id)


def sent(life: Life, run_id: str, round: int) -> list[int]:
    """Return the positions of all rows that went out in a round."""
    run = life.run(run_id)
    folder = life.home.run_folder(run_id, run.files)
    shards = [shard for shard in run.shards if shard.round == round]
    return sorted(n for shard in shards for n in folder.manifest(shard)["position"].tolist())


@pytest.fixture
def failed(life: Life, service: Service, reviews: Any) -> str:
    """A run that has ended: rows 2, 5, 8, 11 failed with 400, rows 4 and 9 with 404."""
    service.faults(row_status=TWO_FAULTS)
    run_id = life.submit(reviews)
    life.until_ended(run_id)
    service.clear_faults()
    return run_id


# -- what is sent ---------------------------------------------------------------------------


def test_rows_of_the_picked_cause_alone_are_sent_again(
    life: Life, service: Service, reviews: Any, failed: str
) -> None:
    """They have one status with the others; their reason is what tells them apart."""
    first, second = found(life, failed)
    assert [(one.rows, one.requests) for one in (first, second)] == [(4, 4), (2, 2)]
    retry(life, failed, second.key)
    assert life.until_ended(failed).counts == {RowStatus.OK: 8, RowStatus.FAILED: 4}
    assert sent(life, failed, 1) == [4, 9]
    assert [one.key for one in found(life, failed)] == [first.key]
    retry(life, failed, first.key)
    assert life.until_ended(failed).counts == {RowStatus.OK: 12}
    assert life.result(failed)["answer"].tolist() == [stub_answer(one) for one in reviews["text"]]
    assert service.rows_paid(failed) == 12


def test_a_cause_is_sent_again_live(life: Life, service: Service, failed: str) -> None:
    """A wish by cause takes the lane that was asked for."""
    _, second = found(life, failed)
    retry(life, failed, second.key, live=True)
    run = life.until_ended(failed)
    assert run.counts == {RowStatus.OK: 8, RowStatus.FAILED: 4}
    assert [job.is_live for job in run.jobs] == [False, True]
    assert len(service.batches(failed)) == 1


def test_a_cause_that_no_row_has_any_more_ends_at_once(
    life: Life, service: Service, failed: str
) -> None:
    """Somebody else was quicker; nothing is sent for it, and nothing else in its place."""
    _, second = found(life, failed)
    retry(life, failed, second.key)
    life.until_ended(failed)
    retry(life, failed, second.key)
    assert life.until_ended(failed).counts == {RowStatus.OK: 8, RowStatus.FAILED: 4}
    assert len(service.batches(failed)) == 2


def test_rows_alike_share_a_request_and_a_cause(life: Life, service: Service, reviews: Any) -> None:
    """Six rows of three texts: three requests go out again, and are paid, not six."""
    service.faults(row_status={"status": 400})
    run_id = life.submit(pd.concat([reviews.head(3), reviews.head(3)]))
    life.until_ended(run_id)
    service.clear_faults()
    (cause,) = found(life, run_id)
    assert (cause.rows, cause.requests) == (6, 3)
    retry(life, run_id, cause.key)
    assert life.until_ended(run_id).counts == {RowStatus.OK: 6}
    assert service.rows_paid(run_id) == 3


def test_a_cause_of_one_model_leaves_the_other_alone(
    life: Life, service: Service, reviews: Any
) -> None:
    """Both failed for the same reason; they are two causes, and two prices."""
    service.faults(row_status={"status": 400, "every": 3})
    run_id = life.submit(reviews, asked={"several_models": ("big", "small")})
    life.until_ended(run_id)
    service.clear_faults()
    first, second = found(life, run_id)
    assert (first.position // 12, second.position // 12) == (0, 1)
    retry(life, run_id, second.key)
    assert life.until_ended(run_id).counts == {RowStatus.OK: 20, RowStatus.FAILED: 4}
    assert all(position >= 12 for position in sent(life, run_id, 1))


def test_an_answer_stays_until_there_is_one_as_good(
    life: Life, service: Service, reviews: Any
) -> None:
    """A wish by cause takes nothing away either."""
    service.faults(row_cut={"every": 4})
    run_id = life.submit(reviews)
    life.until_ended(run_id)
    before = life.result(run_id)["answer"].tolist()
    service.clear_faults()
    service.faults(row_status={"status": 400})
    (cause,) = found(life, run_id)
    assert cause.status is RowStatus.TRUNCATED
    retry(life, run_id, cause.key)
    life.until_ended(run_id)
    assert life.result(run_id)["answer"].tolist() == before
    service.clear_faults()
    retry(life, run_id, cause.key)
    assert life.until_ended(run_id).counts == {RowStatus.OK: 12}


def test_what_another_run_was_answered_meanwhile_is_taken_over(
    life: Life, service: Service, reviews: Any, failed: str
) -> None:
    """Only rows of the cause, though: the others of that status stay as they are."""
    second = life.submit(reviews.iloc[:6], name="second")
    life.until_ended(second)
    _, cause = found(life, failed)
    retry(life, failed, cause.key)
    assert life.until_ended(failed).counts == {RowStatus.OK: 8, RowStatus.FAILED: 4}
    assert sent(life, failed, 1) == [9]
    assert service.rows_paid(failed, second) == 6 + 3 + 1


# -- who may lose it ------------------------------------------------------------------------


def test_a_wish_by_cause_survives_the_process(lives: Lives, service: Service, reviews: Any) -> None:
    """It is written down before anything is done about it, and another life grants it."""
    service.faults(row_status=TWO_FAULTS)
    first = lives()
    run_id = first.submit(reviews)
    first.until_ended(run_id)
    service.clear_faults()
    _, cause = found(first, run_id)
    first.journal.ask_retry(run_id, [], first.clock(), causes=[cause.key])
    second = lives()
    assert second.run(run_id).wishes == {Wish(causes=frozenset({cause.key}))}
    second.engine.drive(run_id)
    assert second.until_ended(run_id).counts == {RowStatus.OK: 8, RowStatus.FAILED: 4}
    assert second.run(run_id).wishes == NO_WISHES


@pytest.mark.parametrize("stage", [JobStage.UPLOADING, JobStage.CREATING, JobStage.RUNNING])
def test_a_kill_after_the_wish_pays_for_each_row_once(
    lives: Lives, service: Service, reviews: Any, stage: JobStage
) -> None:
    """Wherever the first life ends, the second sends the rows of the cause once in all."""
    service.faults(row_status=TWO_FAULTS)
    first = lives()
    run_id = first.submit(reviews)
    first.until_ended(run_id)
    service.clear_faults()
    _, cause = found(first, run_id)
    retry(first, run_id, cause.key)
    first.until(run_id, lambda run: len(run.jobs) > 1 and _is_at(run, stage))
    first.journal.drop_lease(run_id, first.engine._owner)  # as a dead process's is
    second = lives()
    second.go_on(run_id)
    assert second.until_ended(run_id).counts == {RowStatus.OK: 8, RowStatus.FAILED: 4}
    assert service.rows_paid(run_id) == 8
    assert len(service.batches(run_id)) == 2


def _is_at(run: RunRecord, stage: JobStage) -> bool:
    """Tell whether the second job is at a stage or beyond: a step may take several."""
    order = list(JobStage)
    return order.index(run.jobs[1].stage) >= order.index(stage)


def test_two_kernels_that_wish_the_same_send_it_once(
    lives: Lives, service: Service, reviews: Any
) -> None:
    """Both press the button; whoever has the lease grants it for both."""
    service.faults(row_status=TWO_FAULTS)
    one, other = lives(), lives()
    run_id = one.submit(reviews)
    one.until_ended(run_id)
    service.clear_faults()
    _, cause = found(one, run_id)
    for life in (one, other):
        retry(life, run_id, cause.key)
    while one.run(run_id).ending is None:
        one.step()
        other.step()
    assert one.run(run_id).counts == {RowStatus.OK: 8, RowStatus.FAILED: 4}
    assert service.rows_paid(run_id) == 8
    assert len(service.batches(run_id)) == 2


def test_a_second_wish_does_not_take_the_place_of_the_first(
    life: Life, service: Service, failed: str
) -> None:
    """Two groups, two clicks, one after the other before anything has gone out."""
    for cause in found(life, failed):
        retry(life, failed, cause.key)
    run = life.until_ended(failed)
    assert run.counts == {RowStatus.OK: 12}
    assert sent(life, failed, 1) == [2, 4, 5, 8, 9, 11]
    assert service.rows_paid(failed) == 12


def test_a_wish_that_comes_while_another_is_granted_is_kept(life: Life, failed: str) -> None:
    """Between reading the run and writing its new jobs, a click may come."""
    first, second = found(life, failed)
    owner = life.engine._owner
    life.journal.ask_retry(failed, [], life.clock(), causes=[first.key])
    assert life.journal.take_lease(failed, owner, life.clock())
    read = life.run(failed)
    life.journal.ask_retry(failed, [RowStatus.EXPIRED], life.clock(), causes=[second.key])
    life.journal.add_work(failed, owner, life.clock(), event="granted", granted=read.wishes)
    left = Wish(frozenset({RowStatus.EXPIRED}), frozenset({second.key}))
    assert life.run(failed).wishes == {left}


def test_a_cancel_ends_what_was_wished_for(life: Life, service: Service, failed: str) -> None:
    """Asked for, cancelled, then another cause is asked for: that one alone is paid."""
    first, second = found(life, failed)
    life.journal.ask_retry(failed, [], life.clock(), causes=[first.key])
    life.journal.ask_cancel(failed, life.clock())
    life.engine.drive(failed)
    assert life.until_ended(failed).ending is Ending.CANCELLED
    retry(life, failed, second.key)
    assert life.until_ended(failed).counts == {RowStatus.OK: 8, RowStatus.FAILED: 4}
    assert service.rows_paid(failed) == 8


def test_a_wish_that_no_row_fits_sends_nothing_else(
    life: Life, service: Service, reviews: Any
) -> None:
    """Asked live, the run would go live with what its batches left: that was not asked for."""
    service.faults(row_missing={"every": 4})
    run_id = life.submit(reviews, retries=0)
    assert life.until_ended(run_id).counts[RowStatus.MISSING] == 3
    service.clear_faults()
    life.journal.ask_retry(run_id, [RowStatus.REFUSED], life.clock(), live=True)
    life.engine.drive(run_id)
    assert life.until_ended(run_id).counts == {RowStatus.OK: 9, RowStatus.MISSING: 3}
    assert life.run(run_id).wishes == NO_WISHES


def test_nothing_asked_for_is_nothing_done(life: Life, failed: str) -> None:
    """An empty list of causes does not even wake the run."""
    before = life.run(failed)
    life.journal.ask_retry(failed, [], life.clock(), live=True)
    assert life.run(failed) == before


def test_a_wish_that_comes_while_a_run_settles_is_granted(life: Life, failed: str) -> None:
    """Its rows are counted in a thread meanwhile: what was accepted is not forgotten."""
    _, cause = found(life, failed)
    life.journal.ask_retry(failed, [RowStatus.REFUSED], life.clock())
    owner, granted = life.engine._owner, life.run(failed).wishes
    assert life.journal.take_lease(failed, owner, life.clock())
    life.journal.ask_retry(failed, [], life.clock(), causes=[cause.key])
    life.journal.end_run(failed, owner, life.clock(), ending=Ending.FINISHED, granted=granted)
    life.engine.drive(failed)
    assert life.until_ended(failed).counts == {RowStatus.OK: 8, RowStatus.FAILED: 4}


# -- rows that are under way ----------------------------------------------------------------

ASKS = {
    "by its cause": lambda life, run_id, key: retry(life, run_id, key),
    "by its status": lambda life, run_id, key: wish(life, run_id, RowStatus.REFUSED),
    "by both": lambda life, run_id, key: wish(life, run_id, RowStatus.REFUSED, key),
}


def wish(life: Life, run_id: str, status: RowStatus, *keys: str) -> None:
    life.journal.ask_retry(run_id, [status], life.clock(), causes=keys)
    life.engine.drive(run_id)


@pytest.fixture
def refused(life: Life, service: Service, reviews: Any) -> str:
    """A run that has ended: rows 3, 7, 11 are refused, and paid, and will be again."""
    service.faults(row_refused={"every": 4})
    run_id = life.submit(reviews)
    life.until_ended(run_id)
    service.clear_faults()
    service.faults(row_refused={"every": 1})
    return run_id


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_rows_under_way_are_not_asked_for_once_more(
    life: Life, service: Service, refused: str, ask: Callable[..., None]
) -> None:
    """A paid answer that is not ok stays theirs while a better one is waited for."""
    (cause,) = found(life, refused)
    assert cause.requests == 3
    retry(life, refused, cause.key)
    life.until(refused, lambda run: run.jobs[-1].stage is JobStage.RUNNING and len(run.jobs) > 1)
    for _ in range(2):
        ask(life, refused, cause.key)
    assert [one.requests for one in found(life, refused)] == [0]
    assert life.until_ended(refused).counts == {RowStatus.OK: 9, RowStatus.REFUSED: 3}
    assert service.rows_paid(refused) == 12 + 3
    ask(life, refused, cause.key)  # now they are in: whoever asks anew is heard
    life.until_ended(refused)
    assert service.rows_paid(refused) == 12 + 3 + 3


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_a_wish_that_comes_while_its_rows_go_out_is_not_granted_again(
    life: Life, service: Service, refused: str, ask: Callable[..., None]
) -> None:
    """Between reading the run and writing its new job, the same rows are asked for once more."""
    (cause,) = found(life, refused)
    retry(life, refused, cause.key)
    read = life.run(refused)
    folder = life.home.run_folder(refused, read.files)
    shards, _ = resend(folder, read, 1, read.wishes, passing=False)
    ask(life, refused, cause.key)
    assert life.journal.take_lease(refused, life.engine._owner, life.clock())
    life.journal.add_work(
        refused,
        life.engine._owner,
        life.clock(),
        event="granted",
        shards=shards,
        jobs=plan_jobs(shards, lambda: "token"),
        granted=read.wishes,
    )
    assert life.until_ended(refused).counts == {RowStatus.OK: 9, RowStatus.REFUSED: 3}
    assert service.rows_paid(refused) == 12 + 3
    assert life.run(refused).wishes == NO_WISHES


def test_a_wish_amid_a_round_means_the_rows_that_are_in(
    life: Life, service: Service, reviews: Any
) -> None:
    """Those that are under way, and come back as bad as they were, are not sent for it."""
    service.faults(row_refused={"every": 4}, row_cut={"every": 5})
    run_id = life.submit(reviews)
    assert life.until_ended(run_id).counts[RowStatus.TRUNCATED] == 2
    wish(life, run_id, RowStatus.REFUSED)
    life.until(run_id, lambda run: run.jobs[-1].stage is JobStage.RUNNING and len(run.jobs) > 1)
    service.clear_faults()
    service.faults(row_refused={"every": 1})
    life.journal.ask_retry(run_id, [RowStatus.REFUSED, RowStatus.TRUNCATED], life.clock())
    life.until_ended(run_id)
    assert sent(life, run_id, 1) == [3, 7, 11]
    assert sent(life, run_id, 2) == [4, 9]
    assert service.rows_paid(run_id) == 12 + 3 + 2


# -- written and read -----------------------------------------------------------------------

KEYS = st.frozensets(st.binary(min_size=8, max_size=8).map(bytes.hex), max_size=4)
SHARDS = st.frozensets(st.integers(0, 10**6), max_size=4)
WISHES = st.builds(Wish, st.frozensets(st.sampled_from(RowStatus)), KEYS, SHARDS).filter(bool)


@given(st.frozensets(WISHES, max_size=4))
def test_wishes_are_read_as_they_were_written(wishes: Wishes) -> None:
    """Each with the shards that it spares: of two they may differ."""
    assert read_wishes(wishes_json(wishes)) == wishes


def test_wishes_of_earlier_versions_are_read() -> None:
    """They knew one wish, and no shards that it spares."""
    statuses = frozenset({RowStatus.FAILED, RowStatus.EXPIRED})
    assert read_wishes('["failed", "expired"]') == {Wish(statuses)}
    key = "0123456789abcdef"
    wish = Wish(frozenset({RowStatus.FAILED}), frozenset({key}))
    assert read_wishes(f'["failed", "cause:{key}"]') == {wish}
    assert read_wishes("[]") == NO_WISHES


@given(WISHES)
def test_an_earlier_version_cannot_half_read_a_wish(wish: Wish) -> None:
    """It would send all rows of a status for it: what it meets is no list of words."""
    (written,) = json.loads(wishes_json(frozenset({wish})))
    assert isinstance(written, list)


@pytest.mark.parametrize(
    "text",
    ['["cause:"]', '["cause:../../x"]', '["okay"]', "[1]", "{}", "x", '[["but:-1"]]', '[["but:"]]'],
)
def test_a_wish_that_nobody_wrote_is_refused(life: Life, failed: str, text: str) -> None:
    """One line for the reader, and nothing is sent by mistake."""
    import sqlite3

    with sqlite3.connect(life.journal.path) as db:
        db.execute("UPDATE runs SET wish = ?", (text,))
    db.close()
    with pytest.raises(JournalError, match="damaged or of a newer"):
        life.run(failed)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_numbers_ids_and_answers_make_no_cause_of_their_own(one: int, other: int) -> None:
    """A rate limit that names its request is one cause for all rows that met it."""
    said = "429 rate_limit: too many for req_{0}, batch_{0}: {0} of {0}; the answer: {0}"
    keys = {cause_key(0, RowStatus.FAILED, said.format(n)) for n in (one, other)}
    assert len(keys) == 1
    assert cause_key(1, RowStatus.FAILED, said) not in keys
    assert cause_key(0, RowStatus.UNPARSED, said) not in keys
