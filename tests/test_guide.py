"""What happens now and what may be done: told for every picture a run can give."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import ALBUM, START, collected, job, picture

from batch_magic.card import card_text
from batch_magic.guide import next_steps, now_words
from batch_magic.records import Ending, JobStage, Request, RowStatus, Stage

JOBS = st.lists(
    st.builds(
        lambda stage, is_live, has_id: job(
            0, stage=stage, is_live=is_live, **({} if has_id else {"batch_id": None})
        ),
        st.sampled_from(JobStage),
        st.booleans(),
        st.booleans(),
    ),
    max_size=4,
).map(tuple)
FACTS = st.fixed_dictionaries(
    {
        "stage": st.sampled_from(Stage),
        "jobs": JOBS,
        "cancelling": st.booleans(),
        "is_driven_elsewhere": st.booleans(),
        "problem": st.sampled_from([None, "the service cannot be reached"]),
        "lenders": st.sampled_from([(), ("run-1",)]),
        "round": st.integers(0, 3),
        "claimed_ok": st.integers(0, 9),
        "goes_live_at": st.sampled_from([None, START, START + 300, START + 90_000]),
        "counts": st.sampled_from([{}, {RowStatus.OK: 5}, {RowStatus.FAILED: 5}]),
        "ending": st.sampled_from([None, None, None, *Ending]),
        "asks_usd": st.sampled_from([None, None, 12.3]),
    }
)


@given(FACTS)
def test_every_picture_says_what_happens_and_what_may_be_done(facts: dict[str, Any]) -> None:
    """Never silence, never a line without an act: doing nothing is told as one."""
    if facts["ending"] is not None:
        facts["ended_at"] = START + 252
    s = picture(**facts)
    assert now_words(s)
    steps = next_steps(s)
    assert steps
    assert all(steps)
    acts = ("`", "nothing needs doing", "go on working", "rows that finished")
    assert all(any(act in step for act in acts) for step in steps)
    assert len(now_words(s)) < 240
    assert f"now: {now_words(s)}" in card_text(s)


@pytest.mark.parametrize(
    ("kind", "now", "step"),
    [
        ("preparing", "written to disk", "cancel essays` stops it before anything is sent"),
        ("uploading", "1 more is to follow", "keep this kernel until its last job is created"),
        ("validating", "checks the request files", "the service goes on"),
        ("queued", "answers when it has room", "shut down, the service goes on"),
        ("half in", "texts come when a job is done", "`labelled.partial()`"),
        ("collecting", "result files come down", "in a moment"),
        ("waits for another run", "not paid twice", "%gptbatch status 20251122"),
        ("live", "through the realtime API", "keep this kernel"),
        ("deadline near", "goes live in 5 min", "`%gptbatch finish labelled` at once"),
        ("goes live", "cancelled first", "keep this kernel"),
        ("driven elsewhere", "another kernel", "goes on by itself within half a minute"),
        ("retry round", "retry round 2", "wait labelled"),
        ("many jobs", "5 jobs at the service; 8 more wait here", "keep this kernel"),
        ("waiting", "trouble is waited out", "`%gptbatch show labelled`"),
        ("cancelling", "it may take ten minutes", "nothing needs doing"),
        ("held for leave", "nothing is paid", "`%gptbatch submit labelled`"),
        ("finished", "every row has its outcome", "use the frame"),
        ("cancelled", "before the cancel are kept", "`%gptbatch retry labelled`"),
        ("stopped", "what was answered is kept", "`%gptbatch attach labelled`"),
    ],
)
def test_each_state_has_its_own_words(kind: str, now: str, step: str) -> None:
    """A first-time user learns who acts next."""
    assert now in now_words(ALBUM[kind])
    assert step in " ".join(next_steps(ALBUM[kind]))


def test_a_run_at_rest_for_a_deadline_long_away_is_not_near_it() -> None:
    """Ten minutes are near, a day is not."""
    request = Request("/v1/chat/completions", "m", "{{ x }}", deadline_s=90_000.0)
    s = picture(request=request, goes_live_at=START + 90_000, jobs=(collected(0), job(1)))
    assert "goes live" not in now_words(s)
