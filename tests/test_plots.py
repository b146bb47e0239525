"""Pictures of runs, costs and comparisons: what is on them, in any script, and where they show."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kernels import PROJECT, kernel
from matplotlib.figure import Figure
from matplotlib.text import Text
from pictures import ALBUM, SANDBOX, START, collected, picture
from PIL import Image
from reader import Reader
from test_comparison import both, result

import batch_magic as bm
from batch_magic import overview, plots
from batch_magic.errors import CellError
from batch_magic.measuring import measured
from batch_magic.plots import Measured
from batch_magic.records import Cost, Ending, Pause, RowStatus, Snapshot, Stage, Usage
from batch_magic.result_lines import made_at

NOTHING = Measured({}, {}, np.empty(0))
SOME = Measured(
    {"gpt-5-mini": np.array([10.0, 12, 12, 40])},
    {"gpt-5-mini": np.array([5.0, 5, 6, 90])},
    np.array([3.0, 4, 5, 200]),
)


def words(figure: Figure) -> str:
    """All that is written on a figure."""
    every = [text.get_text() for text in figure.findobj(lambda one: hasattr(one, "get_text"))]
    return "\n".join(every)


def pixels(figure: Any) -> np.ndarray[Any, Any]:
    """The figure as a notebook shows it; drawing it may warn of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(Image.open(BytesIO(figure._repr_png_())).convert("RGB"))


def paid(day: int, usd: float | None, model: str = "gpt-5-mini", **facts: Any) -> Snapshot:
    """A run of some day that cost so much."""
    at = START + 86_400 * day
    cost = None if usd is None else Cost(usd, None)
    asked = replace(picture().request, model=model)
    changes = {"created_at": at, "as_of": at + 60, "ended_at": at + 60, "usage": Usage(1, 0, 1)}
    return picture(
        run_id=f"r{day}{model}",
        stage=Stage.DONE,
        ending=Ending.FINISHED,
        cost=cost,
        jobs=(collected(0, counts={RowStatus.OK: 12_000}, cost=cost),),
        request=asked,
        **(changes | facts),
    )


# -- runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALBUM)
@pytest.mark.parametrize("measured", [NOTHING, SOME], ids=["nothing", "some"])
def test_every_state_of_a_run_can_be_drawn(name: str, measured: Measured) -> None:
    """From the first second to any end, with and without numbers."""
    figure = plots.run_figure(ALBUM[name], measured)
    assert pixels(figure).std() > 1
    assert "outcomes of" in words(figure)


def test_a_run_is_drawn_with_its_numbers() -> None:
    """Outcomes, queue and work of each job, tokens, when answers were made."""
    s = picture(
        counts={RowStatus.OK: 11_900, RowStatus.FAILED: 100},
        jobs=(
            collected(0, intended_at=START + 10, began_at=START + 70, ended_at=START + 190),
            collected(1, intended_at=START + 10, began_at=START + 200, ended_at=START + 400),
        ),
    )
    seen = words(plots.run_figure(s, SOME))
    assert "11,900" in seen
    assert "job 1\n1 min 00 s + 2 min 00 s" in seen
    assert "median 12, most 40" in seen
    assert "half by" in seen


def test_a_late_retry_leaves_the_jobs_to_be_seen() -> None:
    """Minutes in which the run lay idle are not on the axis; a job of a moment has words, too."""
    retried = picture(
        as_of=START + 1_128,
        pauses=(Pause(START + 7, START + 1_120),),
        jobs=(
            collected(0, intended_at=START + 1, began_at=START + 1.5, ended_at=START + 6),
            collected(1, intended_at=START + 1_121, began_at=START + 1_121, ended_at=START + 1_122),
        ),
    )
    made = Measured({}, {}, np.array([2.0, 3, 4, 5, 1_121, 1_122]))
    figure = plots.run_figure(retried, made)
    (axes,) = [one for one in figure.axes if "time since" in one.get_title(loc="left")]
    right = axes.get_xlim()[1]
    assert 9 <= right < 12
    assert axes.get_xlabel().startswith("seconds\nleft out (dotted): 18 min 33 s")
    widths = [bar.get_width() / right for bar in axes.patches]
    assert min(widths[1], widths[3]) > 0.05
    seen = words(figure)
    assert "job 1\nunder 1 s + 4 s" in seen
    assert "job 2\nunder 1 s + 1 s" in seen


def test_when_answers_were_made_is_told_in_words_of_time() -> None:
    """A share of a minute is no time that a person knows."""
    jobs = (collected(0, intended_at=START, began_at=START + 1, ended_at=START + 260),)
    s = picture(jobs=jobs, as_of=START + 260)
    times = Measured({}, {}, np.array([2.0, 2, 3, 3, 250]))
    assert "half by 3 s, 90 % by 2 min 31 s" in words(plots.run_figure(s, times))


@pytest.mark.parametrize("name", ALBUM)
def test_a_figure_is_told_in_words_to_those_who_cannot_see_it(name: str) -> None:
    """The alternative text has the numbers, and markup of a name is none of ours."""
    told = plots.run_figure(replace(ALBUM[name], name='<b> "a" $x$'), SOME)
    (image,) = [one for one in Reader(told._repr_html_()).attributes if "src" in one]
    alt = image["alt"] or ""
    assert alt.startswith('<b> "a" $x$: ')
    assert "outcomes of" in alt
    assert "median 12, most 40" in alt
    drawn = replace(ALBUM["finished with failures"], jobs=ALBUM["many jobs"].jobs)
    assert "31 refused" in str(plots.run_figure(drawn, SOME).get_label())


def test_what_is_compared_and_paid_is_told_in_words() -> None:
    """Each picture of a comparison, each model that was paid."""
    a = result({"answer": list("AABB")}, "a", label=list("AABA"))
    b = result({"answer": list("ABBB")}, "b", label=list("AABA"))
    told = str(bm.compare(a, b, truth="label").plot().get_label())
    for said in ("75.0 % of 4", "a against label: A as A 2; ", "answer: how often which: "):
        assert said in told
    scores = str(both([1.5, 2.0], [1.0, 2.5]).plot().get_label())
    assert "b less a: from -0.5 to 0.5, mean 0" in scores
    costs = overview.cost_frame([paid(0, 1.5), paid(3, 2.0)])
    assert "gpt-5-mini: $3.50" in str(plots.cost_figure(costs).get_label())


def test_letters_stay_legible_in_a_narrow_cell() -> None:
    """A notebook shrinks a figure to its cell: at 500 pixels its letters are nine and more."""
    for figure in (
        plots.run_figure(ALBUM["finished"], SOME),
        both(list("AAB"), list("ABB")).plot(),
        plots.cost_figure(overview.cost_frame([paid(0, 1.5)])),
    ):
        sizes = [one.get_fontsize() for one in figure.findobj(Text) if one.get_text().strip()]
        assert min(sizes) / 72 * 500 / figure.get_figwidth() >= 9.5
        image = next(a for a in Reader(figure._repr_html_()).attributes if "src" in a)
        assert "min-width:500px" in (image["style"] or "")


def test_models_are_drawn_apart() -> None:
    """Which of them talks more is why one looks."""
    by = {"a": np.array([1.0, 2]), "b": np.array([10.0, 20])}
    seen = words(plots.run_figure(picture(), Measured(by, by, np.empty(0))))
    assert "a: median 2, most 2" in seen
    assert "b: median 15, most 20" in seen


def test_names_in_any_script_are_drawn_without_a_warning() -> None:
    """Korean by a font of this machine; a letter that none has is a box, and no formula is set."""
    for name in ("라벨", "re$view$s", "ᚠᛇ\U0001f9ff", "x_{1}^2 $\\frac$", "a\nb"):
        figure = plots.run_figure(picture(name=name), NOTHING)
        pixels(figure)
    assert "라벨" in words(plots.run_figure(picture(name="라벨"), NOTHING))
    assert "\u25a1" in words(plots.run_figure(picture(name="\U000e0fff"), NOTHING))


def test_a_figure_reads_the_same_on_dark_paper() -> None:
    """Colours are explicit: white paper, dark ink, whatever the notebook's theme or rcParams."""
    import matplotlib

    with matplotlib.rc_context({"axes.facecolor": "black", "text.color": "white"}):
        shown = pixels(plots.run_figure(picture(), SOME))
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert (shown.mean(axis=2) > 240).mean() > 0.5
    assert (shown.mean(axis=2) < 80).any()


def test_a_line_tells_when_its_answer_was_made() -> None:
    """A member's name, not what an answer says in its text."""
    line = rb'{"response":{"body":{"id":"x","created": 1763780000,"choices":[]}}}'
    assert made_at(line) == 1_763_780_000
    assert made_at(line.replace(b"created", b"created_at")) == 1_763_780_000
    assert made_at(rb'{"text":"\"created\": 1763780000"}') is None
    assert made_at(b"{}") is None


def test_a_run_and_its_costs_are_drawn_from_the_journal(home: Path, reviews: pd.DataFrame) -> None:
    """By name, by handle, by result; batch and live; and of no run what has been paid."""
    options = {"model": "gpt-5-mini", "on": "sandbox"}
    with pytest.raises(CellError, match="there are no runs yet"):
        bm.plot()
    run = bm.submit(reviews, "{{ text }}", out="batched", **options)
    frame = run.wait(timeout_s=60)
    live = bm.submit(reviews, "Live: {{ text }}", out="alive", live=True, **options)
    live.wait(timeout_s=60)
    for figure in (bm.plot("batched"), run.plot(), bm.plot(run), bm.plot(frame)):
        assert "batched: finished" in words(figure)
        pixels(figure)
    assert "live 1" in words(bm.plot("alive"))
    assert "nothing has been paid yet" in words(bm.plot())
    assert "2 of them on the sandbox, free" in words(bm.plot())
    with pytest.raises(CellError, match="this frame is no result"):
        bm.plot(reviews)
    with pytest.raises(CellError, match="no run is called"):
        bm.plot("other")


def test_tokens_of_rows_alike_are_counted_once(home: Path) -> None:
    """One request is one answer, on however many rows it stands."""
    frame = pd.DataFrame({"text": ["same"] * 9 + ["other"]})
    run = bm.submit(frame, "{{ text }}", model="m", on="sandbox", out="alike")
    run.wait(timeout_s=60)
    (axes,) = [one for one in run.plot().axes if "tokens in" in one.get_title(loc="left")]
    assert sum(bar.get_height() for bar in axes.patches) == 2


# -- costs ----------------------------------------------------------------------------------


def test_costs_are_drawn_by_day_and_model() -> None:
    """Days without a run are days, too; a price that is not known is told of."""
    found = [paid(0, 1.5), paid(3, 2.0, "gpt-5-nano"), paid(3, 0.5), paid(4, None)]
    found.append(paid(4, 9.0, backend=SANDBOX))
    figure = plots.cost_figure(overview.cost_frame(found))
    seen = words(figure)
    assert "gpt-5-mini: \\$2.00" in seen
    assert "gpt-5-nano: \\$2.00" in seen
    assert "\\$4.00 for 4 runs, 1 of them on the sandbox, free" in seen
    assert "of 1 more run the cost is not known" in seen.replace("\n", " ")
    assert len(figure.axes[0].get_xticks()) == 4
    pixels(figure)


def test_costs_of_years_and_of_many_models_stay_readable() -> None:
    """A bar a day that was paid on, six models and the rest."""
    found = [paid(31 * n, 0.001 * (n + 1), f"model-{n % 9}") for n in range(40)]
    figure = plots.cost_figure(overview.cost_frame(found))
    assert "4 more" in words(figure)
    assert len(figure.axes[0].get_xticks()) <= 13
    pixels(figure)


# -- comparisons ----------------------------------------------------------------------------


def test_comparisons_of_every_kind_are_drawn() -> None:
    """Labels, scores, long texts, lists, nothing at all."""
    long = [f"{'a long text that is no label at all, and goes on and on, ' * 2}{n}" for n in "xyz"]
    for one, other in (
        (list("AAB"), list("ABB")),
        ([1.5, 2.0, None], [1.0, 2.5, 3.0]),
        ([1, 2, 3], [1, 2, 5]),
        (long, long[::-1]),
        ([[1], [2], []], [[1], [3], []]),
        ([], []),
        ([None, None, None], ["A", "B", "C"]),
        (["긍정", "부정", "$x$"], ["긍정", "긍정", "$x$"]),
    ):
        pixels(both(one, other).plot())


def test_many_scores_are_drawn_as_what_falls_where() -> None:
    """Ten thousand points are a blot."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=10_000)
    figure = both(scores.tolist(), (scores + rng.normal(size=10_000)).tolist()).plot()
    assert not any(
        one.collections and len(one.collections[0].get_offsets()) == 10_000 for one in figure.axes
    )
    assert pixels(figure).std() > 1


def test_the_truth_is_drawn_for_each_side() -> None:
    """How many are right, and which is taken for which."""
    a = result({"answer": list("AABB")}, "a", label=list("AABA"))
    b = result({"answer": list("ABBB")}, "b", label=list("AABA"))
    seen = words(bm.compare(a, b, truth="label").plot())
    for said in ("right, by label", "75.0 % of 4", "50.0 % of 4", "a against label"):
        assert said in seen


# -- where they show ------------------------------------------------------------------------


def test_a_cell_shows_a_report_and_a_figure(tmp_path: Path) -> None:
    """The verbs, in a real kernel: one picture each, no pyplot, mistakes in one line."""
    fast = {"BATCH_MAGIC_SANDBOX_TIME_SCALE": "100", "BATCH_MAGIC_POLL_FIRST_S": "0.1"}
    with kernel(tmp_path, fast) as notebook:
        notebook.run(
            "%load_ext batch_magic\nimport pandas as pd\n"
            "said = pd.DataFrame({'a': ['[[say:x]]', '[[say:y]]'], 'b': ['[[say:x]]'] * 2,"
            " 'label': ['x', 'y']})"
        )
        for name in "ab":
            cell = (
                f"%%gptbatch said -o by_{name} -m m --on sandbox --wait\n{name}: {{{{ {name} }}}}"
            )
            assert notebook.run(cell).error is None
        seen = notebook.run("%gptbatch compare by_a by_b --truth label")
        assert seen.error is None
        assert "1 of 2 rows equal (50 %)" in seen.text
        assert "by_a against label: 2 of 2 rows right (100 %)" in seen.text
        assert "by_b and by_a" in notebook.run("%gptbatch compare by_b by_a").text
        people = notebook.run(
            "people = said.assign(answer=['x', 'x'])[['answer']]\n"
            "%gptbatch compare by_b people --column answer"
        )
        assert "2 of 2 rows equal" in people.text
        drawn = notebook.run("%gptbatch plot by_a")
        assert "<Plot: by_a: finished" in drawn.text
        assert 'alt="by_a: finished. outcomes of 2 rows: 2 ok. ' in drawn.html[0]
        assert "paid by day and model" in notebook.run("%gptbatch plot").text
        assert "False" in notebook.run("import sys; print('matplotlib.pyplot' in sys.modules)").text
        notebook.run("import batch_magic as bm\n%matplotlib inline")
        for call in ("%gptbatch plot by_a", "bm.plot('by_a')", "fig = bm.plot('by_a'); fig"):
            inline = notebook.run(call)
            assert 'alt="by_a: finished. outcomes of 2 rows: 2 ok. ' in inline.html[0]
            assert len(inline.shown) == 1
        for line, cure in (
            ("compare", "write %gptbatch compare NAME [NAME]"),
            ("compare by_a", "name a second run"),
            ("compare by_a nobody", "no run is called 'nobody'"),
            ("compare by_a by_b --truth lable", "did you mean 'label'"),
            ("plot nobody", "no run is called 'nobody'"),
            ("plot a b", "write %gptbatch plot"),
        ):
            bad = notebook.run(f"%gptbatch {line}")
            assert bad.error is not None
            assert cure in bad.error
            assert len(bad.traceback) == 1
    from batch_magic.sandbox import launcher

    launcher.stop(tmp_path / ".gptbatch" / "sandbox")


def test_a_missing_matplotlib_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that mends it; all but pictures works without."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = both(list("AB"), list("AA"))
    assert "1 of 2 rows equal" in repr(found)
    with pytest.raises(CellError, match="`pip install matplotlib`"):
        found.plot()


def test_nothing_of_matplotlib_is_loaded_before_a_picture() -> None:
    """A comparison alone has no need of it."""
    code = (
        "import sys, pandas as pd, batch_magic as bm\n"
        "a = pd.DataFrame({'x': ['A', 'B']})\n"
        "repr(bm.compare(a, a.assign(x='A'), column='x'))\n"
        "sys.exit(str('matplotlib' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.stderr.strip() == "False"


def test_answers_tell_when_they_were_made(home: Path, reviews: pd.DataFrame) -> None:
    """Each answer that this run asked for, none that it took over, in seconds since submit."""
    options = {"model": "m", "on": "sandbox"}
    run = bm.submit(reviews.head(8), "{{ text }}", out="some", **options)
    run.wait(timeout_s=60)
    more = bm.submit(reviews, "{{ text }}", out="more", **options)
    more.wait(timeout_s=60)
    for one, answers in ((run, 8), (more, 4)):
        record = one._journal.run(one.run_id)
        found = measured(one._folder(record), record).answered_s
        assert len(found) == answers
        assert found.max() <= 60
