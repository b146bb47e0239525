"""The card as a pure function: every state in words, nothing but text from outside, bounded."""

from __future__ import annotations

import re
from datetime import timedelta, timezone

import pytest
from pictures import ALBUM, OPENAI, SANDBOX, START, collected, job, picture
from reader import Reader

from batch_magic.card import SANDBOX as SANDBOX_WORDS
from batch_magic.card import card_html, card_text, duration, line, newest_html, short_duration
from batch_magic.records import (
    Backend,
    Cost,
    Ending,
    JobStage,
    Preview,
    Request,
    RowStatus,
    Snapshot,
    Stage,
    Usage,
)

EVIL = '<script>alert("1")</script><img src=x onerror=alert(1)>'


def read(s: Snapshot) -> Reader:
    reader = Reader(card_html(s))
    assert reader.open == []
    return reader


@pytest.mark.parametrize("stage", Stage)
def test_every_stage_is_told_in_words_and_as_a_step(stage: Stage) -> None:
    """The state is words first; the rail marks passed, present and coming stages by sign."""
    s = picture(stage=stage)
    step = list(Stage).index(stage) + 1
    for told in (read(s).text, card_text(s), line(s)):
        assert f"{stage.value}, step {step} of 7" in told
    rail = read(s)
    assert len(rail.having(title="passed")) == step - 1
    assert len(rail.having(title="now")) == 1
    assert len(rail.having(title="to come")) == 7 - step
    assert len(rail.having(aria_current="step")) == 1


@pytest.mark.parametrize("ending", Ending)
def test_every_ending_is_told_in_words(ending: Ending) -> None:
    """An ended run says how it ended, what to do next, and no longer what is to come."""
    s = picture(ending=ending, ended_at=START + 300, stage=Stage.DONE, eta_s=20.0)
    for told in (read(s).text, card_text(s)):
        assert ending.value in told
        assert "next" in told
        assert "took 5 min 00 s" in told
        assert "to go" not in told
    assert read(s).having(title="now") == []


@pytest.mark.parametrize("kind", ALBUM)
def test_html_and_text_tell_the_same_figures(kind: str) -> None:
    """Whoever reads plain text misses no count, no message and no way back."""
    s = ALBUM[kind]
    html, text = read(s).text, card_text(s)
    for figure in {f"{number:,} {status.label}" for status, number in s.counts.items() if number}:
        assert figure in html
        assert figure in text
    assert f"%gptbatch attach {s.name}" in html
    assert f"%gptbatch attach {s.name}" in text


@pytest.mark.parametrize("kind", ALBUM)
def test_one_line_is_one_line(kind: str) -> None:
    """A status line never breaks a log or a prompt."""
    assert "\n" not in line(ALBUM[kind])
    assert line(ALBUM[kind]).startswith(f"{ALBUM[kind].name}: ")


def everywhere(text: str) -> Snapshot:
    """A run with this text wherever text comes from outside."""
    return picture(
        run_id=text,
        name=text,
        backend=Backend(text, text),
        request=Request(text, text, text),
        model_served=text,
        problem=text,
        notes=(text,),
        lenders=(text,),
        newest=(Preview(0, RowStatus.OK, text), Preview(1, RowStatus.FAILED, text)),
        jobs=(job(0, batch_id=text, status=text, problem=text),),
    )


def test_foreign_text_never_becomes_markup() -> None:
    """Names, models, messages and ids are shown as they are written, `<script>` included."""
    for s in (everywhere(EVIL), picture(fault=EVIL, ending=Ending.STOPPED)):
        reader = Reader(card_html(s, said=EVIL) + newest_html(everywhere(EVIL)))
        assert not {"script", "img", "svg", "a", "style"} & set(reader.tags)
        assert not any(key.startswith("on") for a in reader.attributes for key in a)
        assert '<script>alert("1")</script>' in reader.text


def test_foreign_text_cannot_steer_a_terminal_or_turn_a_line_round() -> None:
    """Escape sequences, line ends, bidirectional overrides and lone surrogates are taken out."""
    s = everywhere("a\x1b[2J\r\nb\u202ec\ud800d")
    for told in (card_text(s), line(s), card_html(s), newest_html(s)):
        assert not re.search(r"[\x1b\r\u202e\ud800]", told)
        told.encode()
    assert "\n" not in line(s)


def test_a_backend_url_keeps_its_secrets() -> None:
    """A key typed into a URL is not put into the notebook's output."""
    backend = Backend("https://me:s3cret@host.example/v1?key=s3cret", "https://host.example/v1")
    for told in (card_html(picture(backend=backend)), card_text(picture(backend=backend))):
        assert "s3cret" not in told
        assert "https://host.example/v1" in told


@pytest.mark.parametrize("ending", [None, *Ending])
def test_the_sandbox_always_says_so(ending: Ending | None) -> None:
    """Nobody takes answers of this machine for the service's."""
    s = picture(backend=SANDBOX, ending=ending)
    for told in (read(s).text, card_text(s), line(s)):
        assert SANDBOX_WORDS in told
    assert "sandbox" not in card_text(picture(backend=OPENAI, ending=ending))


def test_model_asked_and_model_served_are_both_told() -> None:
    """They differ by date or by sandbox, and a paper needs both."""
    told = read(picture(model_served="gpt-5-mini-2025-08-07")).text
    assert "asked gpt-5-mini · served gpt-5-mini-2025-08-07" in told


@pytest.mark.parametrize(
    ("rows", "words"), [(0, "of 0 rows"), (1, "of 1 row"), (1_000_000, "of 1,000,000 rows")]
)
def test_any_number_of_rows_is_told_and_drawn(rows: int, words: str) -> None:
    """No division by nothing, no plural of one, separators in large numbers."""
    for s in (
        picture(rows=rows),
        picture(rows=rows, stage=Stage.PREPARING, prepared=rows),
        picture(rows=rows, ending=Ending.FINISHED, counts={RowStatus.OK: rows}),
    ):
        assert words in read(s).text
        assert words in card_text(s)
        assert len(read(s).having(role="progressbar", aria_valuemax="100")) == 1


def test_claims_are_told_as_claims_and_never_exceed_the_rows_left() -> None:
    """What the service says it has done is no inventory; the bar stays within its track."""
    s = picture(rows=100, counts={RowStatus.OK: 40}, claimed_ok=500, claimed_failed=9)
    assert "500 answered so far, 9 failed (as the service says)" in read(s).text
    assert read(s).having(role="progressbar", aria_valuenow="99"), "100 is for the end"
    widths = [float(w) for w in re.findall(r'style="width:([\d.]+)%;min-width', card_html(s))]
    assert sum(widths) == pytest.approx(100)


def test_preparing_tells_the_rows_written() -> None:
    """The first seconds of a large run are not a silent bar."""
    s = picture(stage=Stage.PREPARING, prepared=3_000)
    assert "3,000 of 12,000 rows written" in read(s).text
    assert read(s).having(role="progressbar", aria_valuenow="25")


def test_statuses_without_rows_are_left_out_but_ok_failed_and_pending_stay() -> None:
    """Three figures are expected; the others speak when they have something to say."""
    told = card_text(picture(counts={RowStatus.SKIPPED: 3}))
    assert "0 ok, 0 failed, 3 skipped, 11,997 pending of 12,000 rows" in told
    assert "refused" not in told


def test_a_job_is_told_with_id_status_rows_age_and_time_left() -> None:
    """The status is the service's own word, even one nobody knows yet."""
    s = picture(jobs=(job(0, status="pondering", batch_id="batch_abc"),))
    assert "batch_abc  pondering  6,000 rows  age 4 min  time left 23:56 h" in card_text(s)
    for cell in ("batch_abc", "pondering", "6,000", "4 min", "23:56 h"):
        assert cell in read(s).pieces


def test_a_job_without_a_batch_shows_our_stage() -> None:
    """Before the service has a word for it, ours is shown."""
    s = picture(jobs=(job(0, batch_id=None, stage=JobStage.UPLOADING),))
    assert "no batch id yet  uploading" in card_text(s)


def test_eight_jobs_are_shown_those_under_way_first() -> None:
    """Twenty jobs do not bury the cell; the rest is counted."""
    jobs = tuple([collected(n) for n in range(12)] + [job(n) for n in range(12, 20)])
    told = card_text(picture(jobs=jobs))
    assert told.count("in_progress  ") == 8
    assert "completed" not in told
    assert "and 12 more" in told


def test_the_size_is_bounded_whatever_is_shown() -> None:
    """Rows, jobs, notes and endless texts do not swell the notebook."""
    huge = picture(
        rows=10**9,
        name="n" * 10_000,
        notes=("x" * 10_000,) * 1_000,
        problem="p" * 100_000,
        lenders=("r" * 1_000,) * 1_000,
        jobs=tuple(job(n) for n in range(5_000)),
    )
    assert len(card_html(huge)) < 40_000
    assert len(card_text(huge)) < 12_000
    assert len(line(huge)) < 2_000
    assert len(card_html(ALBUM["in progress"])) < 12_000


def test_names_of_any_script_are_kept() -> None:
    """A Korean variable and an emoji in a model's name are text like any other."""
    s = picture(name="리뷰_결과", model_served="모델 🦙")
    assert "리뷰_결과" in card_html(s)
    assert "모델 🦙" in card_text(s)


def test_failed_rows_say_how_to_send_only_them() -> None:
    """The way on costs no second payment for what is there."""
    told = card_text(ALBUM["finished with failures"])
    assert "use the frame `labelled`" in told
    assert "72 rows without an answer: `%gptbatch clinic labelled` says why" in told
    assert "`%gptbatch retry labelled` asks for them again" in told
    assert "40 rows to look at: the reason is in the column `gpt_error`" in told


def test_a_perfect_run_asks_for_nothing_but_use() -> None:
    """No advice without need."""
    steps = [row for row in card_text(ALBUM["finished"]).splitlines() if "next:" in row]
    assert steps == ["  next: use the frame `labelled`"]


def test_a_cancelled_run_keeps_what_finished() -> None:
    """Cancelling is not losing."""
    assert "rows that finished are kept" in card_text(ALBUM["cancelled"])


def test_a_stopped_run_says_why_and_how_to_go_on() -> None:
    """A refused key is mended and the same run goes on."""
    told = read(ALBUM["stopped"]).text
    assert "stopped: the key was refused" in told
    assert "run the cell again or %gptbatch attach labelled" in told


def test_a_problem_being_waited_out_says_when_it_looks_again() -> None:
    """A hiccup of the network is told, and is no end."""
    told = card_text(ALBUM["waiting"])
    assert "waiting: the service cannot be reached" in told
    assert "looks again in 24 s" in told


def test_a_cancel_under_way_is_told() -> None:
    """Between the click and the end the state says what is going on."""
    assert "cancelling, finalizing, step 5 of 7" in card_text(ALBUM["cancelling"])


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [
        (-5, "0 s", "0 min"),
        (59.9, "59 s", "0 min"),
        (61, "1 min 01 s", "1 min"),
        (3_600, "1 h 00 min", "1:00 h"),
        (86_400, "1 d 0 h", "24:00 h"),
        (200_000, "2 d 7 h", "2 d"),
    ],
)
def test_durations_read_as_a_person_says_them(seconds: float, long: str, short: str) -> None:
    """Two units are enough; a negative length of two clocks is none."""
    assert duration(seconds) == long
    assert short_duration(seconds) == short


def test_times_are_told_in_the_zone_asked_for() -> None:
    """A saved file says when, and by which clock."""
    seoul = timezone(timedelta(hours=9), "KST")
    assert "as of 2025-11-22 12:00:00 KST" in card_text(picture(as_of=START + 400), zone=seoul)
    assert "as of 2025-11-22 03:00:00 UTC" in card_html(picture(as_of=START + 400))


def test_a_line_said_is_part_of_the_card() -> None:
    """Where the result went is told where the reader looks."""
    said = "`labelled` was reassigned; `%gptbatch take labelled`"
    assert said in card_text(ALBUM["finished"], said=said)
    assert "labelled was reassigned; %gptbatch take labelled" in (
        Reader(card_html(ALBUM["finished"], said=said)).text
    )


@pytest.mark.parametrize(
    ("backend", "cost", "words"),
    [
        (OPENAI, Cost(1.234, 2.468), "7 tokens in, 2 out · $1.23 (at once $2.47)"),
        (OPENAI, Cost(0.00123, None), "7 tokens in, 2 out · $0.0012"),
        (OPENAI, Cost(None, 1.0), "7 tokens in, 2 out · price not known"),
        (
            SANDBOX,
            Cost(0.00001, 0.00002),
            "7 tokens in, 2 out · free here, $0.000010 at OpenAI",
        ),
        (SANDBOX, Cost(None, None), "7 tokens in, 2 out"),
        (OPENAI, None, "7 tokens in, 2 out"),
    ],
)
def test_what_it_has_cost_is_told_beside_the_tokens(
    backend: Backend, cost: Cost | None, words: str
) -> None:
    """A price that is not known is never nothing."""
    ended = {"ending": Ending.FINISHED, "ended_at": START + 9, "usage": Usage(7, 0, 2)}
    assert read(picture(backend=backend, cost=cost, **ended)).text.count(words) == 1
    if cost is None:
        assert "price" not in card_text(picture(backend=backend, cost=cost, **ended))


def test_rows_of_several_models_are_counted_as_such() -> None:
    """Answers add up over the models; the rows are those of the frame."""
    request = Request("/v1/chat/completions", "a,b", "{{ x }}", several_models=("a", "b"))
    assert "of 6,000 rows × 2 models" in read(picture(request=request)).text
