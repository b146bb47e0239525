"""The explorer without a page: marks, views, what is known of a row, and whose rows they are."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import Kernel, kernel
from PIL import Image

import batch_magic as bm
from batch_magic import frame as frames
from batch_magic import session
from batch_magic.browse import Query, SortKey
from batch_magic.closeup import Letter
from batch_magic.drafting import Options
from batch_magic.errors import CellError, FrameError, JournalError
from batch_magic.explorer import Explorer, _kind
from batch_magic.records import Mark, Thumb

PROMPT = "system:\nRate it.\nuser:\n{{ text }}"


def answered(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Return a frame with the sandbox's answers."""
    wanted = {"model": "gpt-5-mini", "on": "sandbox", "out": "labelled", **options}
    return bm.submit(frame, PROMPT, **wanted).wait(timeout_s=60)


def letter_of(explorer: Explorer, position: int) -> Letter:
    """Return what the side pane tells of the one model's answer."""
    explorer._open = position
    detail = explorer._detail()
    assert detail is not None
    (letter,) = detail["letters"]
    return letter


def test_marks_are_columns_of_every_frame_from_then_on(home: Path, reviews: pd.DataFrame) -> None:
    """They are in the journal at once, so another process has them as well."""
    labelled = answered(reviews)
    assert "gpt_mark" not in labelled
    explorer = bm.explore(labelled)
    explorer.mark(2, "up", note=" good one ")
    explorer.mark(3, "down")
    explorer.mark(4, "up")
    explorer.mark(4)
    session.close_sessions()
    for frame in (bm.attach("labelled").result(), bm.attach("labelled").partial()):
        assert frame["gpt_mark"].iloc[[2, 3]].tolist() == ["up", "down"]
        assert frame["gpt_mark"].notna().sum() == 2
        assert frame["gpt_mark"].cat.categories.tolist() == ["up", "down"]
        assert frame["gpt_note"].dropna().tolist() == ["good one"]
        assert frame["gpt_note"].dtype == "string"
    again = bm.explore("labelled")
    assert again.view()["gpt_note"].dropna().tolist() == ["good one"]
    again.pick([3])
    assert again.selection()["gpt_mark"].tolist() == ["down"]
    assert again.selection().index.tolist() == [reviews.index[3]]


def test_marks_of_a_run_go_with_it(home: Path, reviews: pd.DataFrame) -> None:
    """A run that was cleaned away is not written to any more."""
    labelled = answered(reviews)
    explorer = bm.explore(labelled)
    explorer.mark(0, "up")
    mine = session.session_for(".gptbatch")
    run_id = labelled.attrs["gptbatch"]["run_id"]
    use = session.settings.from_environment({})
    mine.clean(mine.journal.run(run_id), use, remote=False)
    assert mine.journal.marks(run_id) == {}
    with pytest.raises(JournalError, match="no more"):
        explorer.mark(1, "up")
    assert "is not in" in repr(bm.explore(labelled))


def test_marks_of_one_result_are_not_another_ones(home: Path, reviews: pd.DataFrame) -> None:
    """A second run over a marked frame begins without marks; the first one keeps its own."""
    explorer = bm.explore(answered(reviews))
    explorer.mark(0, "down", note="mend it")
    marked = bm.attach("labelled").result()
    second = answered(marked, out="second", column="more")
    assert "gpt_mark" not in second
    assert "gpt_note" not in second
    assert bm.attach("labelled").result()["gpt_note"].tolist()[0] == "mend it"


def test_rows_of_a_result_are_known_again_however_they_were_moved(
    home: Path, reviews: pd.DataFrame
) -> None:
    """A filtered or sorted part shows its prompts, and its marks land on the right rows."""
    labelled = answered(reviews.reset_index(drop=True))
    part = labelled[labelled.stars > 3].sort_values("stars", ascending=False)
    explorer = bm.explore(part)
    letter = letter_of(explorer, 0)
    assert letter["messages"][-1]["parts"][0]["said"] == part["text"].iloc[0]
    explorer.mark(0, "up")
    marked = bm.attach("labelled").result()
    assert marked["gpt_mark"].notna().to_numpy().nonzero()[0].tolist() == [11]
    assert bm.explore(part).view()["gpt_mark"].notna().tolist()[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.drop(columns="text"),
        lambda frame: frame.assign(text=frame["text"].str.upper()),
        lambda frame: frame.iloc[::-1].reset_index(drop=True),
        lambda frame: frame.iloc[::-1],
    ],
    ids=["fewer columns", "edited", "moved and numbered anew", "labels that repeat, moved"],
)
def test_rows_that_cannot_be_told_get_no_prompt_of_another(
    home: Path, reviews: pd.DataFrame, change: Any
) -> None:
    """Better none than another row's; a mark then stays where it was made."""
    explorer = bm.explore(change(answered(reviews)))
    explorer.mark(0, "up")
    explorer._open = 0
    detail = explorer._detail()
    assert detail is not None
    assert detail["letters"] == []
    assert "not known again" in detail["said"]
    assert explorer.view()["gpt_mark"].tolist()[0] == "up"
    assert "gpt_mark" not in bm.attach("labelled").result()


@pytest.mark.parametrize(
    ("sent", "prompt", "options"),
    [
        ({"gpt_text": list("abcdef"), "lang": "en"}, "{{ gpt_text }}", {}),
        ({"answer": list("abcdef"), "l": "en"}, "{{ answer }}", {"on_clash": "replace"}),
        ({"lang": ["en"] * 6}, "{{ row.index }}", {}),
        (
            {("answer", "human"): list("abcdef"), ("l", ""): "en"},
            "{{ row['answer', 'human'] }}",
            {},
        ),
        ({"when": pd.period_range("2020-01", periods=6, freq="M"), "l": "en"}, "{{ when }}", {}),
    ],
    ids=["named as ours", "replaced", "place alone", "several levels", "not stored"],
)
def test_rows_alike_that_were_asked_differently_are_not_told_by_their_place(
    home: Path, sent: dict[Any, Any], prompt: str, options: Any
) -> None:
    """After a `reset_index` every label is another row's, and what is left agrees everywhere."""
    wanted = {"model": "gpt-5-mini", "on": "sandbox", "out": "labelled", **options}
    labelled = bm.submit(pd.DataFrame(sent), f"Say {prompt}", **wanted).wait(timeout_s=60)
    run_id = labelled.attrs["gptbatch"]["run_id"]
    moved = labelled.iloc[::-1].reset_index(drop=True)
    for _ in ("in the life that sent it", "after a restart"):
        explorer = bm.explore(moved)
        explorer.mark(0, "up")
        assert "not known again" in repr(explorer)
        assert not session.session_for(".gptbatch").journal.marks(run_id)
        unmoved = bm.explore(labelled)
        said = str(letter_of(unmoved, 5)["answer"])
        assert said in labelled.iloc[5].tolist()
        session.close_sessions()


_FRAMES: dict[str, tuple[pd.DataFrame, str, dict[str, Any]]] = {
    "alike": (pd.DataFrame({"t": list("abaabc"), "n": [1, 1, 1, 1, 1, 2]}), "{{ t }}", {}),
    "by place": (pd.DataFrame({"t": list("abaabc")}), "{{ t }} {{ row.position }}", {}),
    "one answer": (
        pd.DataFrame({"t": ["[[say:yes]]"] * 6}, index=[4, 2, 0, 1, 3, 5]),
        "{{ t }} {{ row.index }}",
        {},
    ),
    "names": (
        pd.DataFrame({"t": ["[[say:yes]]"] * 6}, index=list("uvwxyz")),
        "{{ t }} {{ row.index }}",
        {},
    ),
    "repeated": (pd.DataFrame({"t": list("abaabc")}, index=[0, 1, 1, 2, 0, 0]), "{{ t }}", {}),
    "lists": (
        pd.DataFrame({"t": [[1], [True], [1.0], [2], [1], [True]], "n": 0}),
        "{{ t }}",
        {},
    ),
    "mixed": (
        pd.DataFrame({"t": pd.Series([1, True, 1.0, "1", None, None], dtype=object)}),
        "{{ t }}",
        {},
    ),
    "replaced": (
        pd.DataFrame({"answer": list("abcaab"), "l": "en"}),
        "[[say:yes]] {{ answer }}",
        {"on_clash": "replace"},
    ),
    "named as ours": (pd.DataFrame({"gpt_status": list("abcaab")}), "{{ gpt_status }}", {}),
    "failing": (
        pd.DataFrame({"t": ["a [[fault:400]]", None, "b", None, "a [[fault:400]]", "b"]}),
        "{{ t }}",
        {"retries": 0},
    ),
    "models": (
        pd.DataFrame({"t": list("abaabc")}),
        "{{ t }}",
        {"model": "gpt-5-mini,gpt-5-nano"},
    ),
}

_MOVES = st.lists(
    st.sampled_from(
        [
            lambda frame: frame.iloc[::-1],
            lambda frame: frame.iloc[1:],
            lambda frame: frame.iloc[[0, -1, 2]],
            lambda frame: frame.sort_values("hidden", key=lambda at: (at * 5) % 6),
            lambda frame: frame.sort_index(kind="stable"),
            lambda frame: frame.sample(frac=0.7, random_state=3),
            lambda frame: frame.reset_index(drop=True),
            lambda frame: pd.concat([frame, frame.iloc[:1]]),
        ]
    ),
    max_size=4,
)


def test_no_row_gets_a_prompt_or_a_mark_of_another(home: Path) -> None:
    """However a result was moved: its rows are refused, or are those that they were, or as these.

    Which row each one was is known from a shadow of the result that is moved alike.
    """
    results, asked = dict[str, pd.DataFrame](), dict[str, list[Any]]()
    for number, (name, (sent, prompt, options)) in enumerate(_FRAMES.items()):
        wanted = {"model": "gpt-5-mini", "on": "sandbox", "out": f"run_{number}", **options}
        results[name] = bm.submit(sent, prompt, **wanted).wait(timeout_s=60)
        whole = bm.explore(f"run_{number}")
        asked[name] = [_sent(whole, at) for at in range(len(sent))]

    def is_known(name: str, moves: list[Callable[[pd.DataFrame], pd.DataFrame]]) -> bool:
        moved = results[name].assign(hidden=range(6))
        for move in moves:
            moved = move(moved) if len(moved) > 2 else moved
        truth = moved.pop("hidden").tolist()
        moved.attrs = results[name].attrs
        explorer = bm.explore(moved)
        if explorer._said:
            return False
        assert [_sent(explorer, at) for at in range(len(moved))] == [asked[name][n] for n in truth]
        explorer.mark(0, note="here")
        result = bm.attach(str(moved.attrs["gptbatch"]["name"])).result()
        (marked,) = np.flatnonzero(result["gpt_note"].notna())
        assert asked[name][marked] == asked[name][truth[0]]
        explorer.mark(0)
        return True

    # Of these six rows nothing tells which is which, but their places.
    assert [name for name in _FRAMES if not is_known(name, [])] == ["one answer", "replaced"]

    @settings(max_examples=200)
    @given(st.sampled_from(list(_FRAMES)), _MOVES)
    def moved_in_any_way(name: str, moves: list[Callable[[pd.DataFrame], pd.DataFrame]]) -> None:
        is_known(name, moves)

    moved_in_any_way()


def _sent(explorer: Explorer, position: int) -> list[Any]:
    """Return what was asked of each model about a row, and what came of it."""
    explorer._open = position
    detail = explorer._detail()
    assert detail is not None
    assert detail["letters"]
    names = ("model", "status", "messages", "sent", "answer")
    return [[letter[name] for name in names] for letter in detail["letters"]]  # type: ignore[literal-required]


_VALUES = st.sampled_from([0, 1, True, 1.0, -0.0, None, float("nan"), "1", "a", (1,), [1], [True]])


@settings(max_examples=400)
@given(st.data(), st.integers(0, 7), st.integers(0, 3))
def test_rows_are_known_again_or_nothing_is_said(
    data: st.DataObject, rows: int, width: int
) -> None:
    """Any values, any order, labels counted anew: never the place of a row asked something else."""
    columns = [data.draw(st.lists(_VALUES, min_size=rows, max_size=rows)) for _ in range(width)]
    kinds = data.draw(st.lists(st.sampled_from([object, None]), min_size=width, max_size=width))
    own = pd.DataFrame(
        {f"c{n}": pd.Series(column, dtype=kinds[n]) for n, column in enumerate(columns)},
        index=data.draw(st.permutations(range(rows))),
    )
    numbers = st.lists(st.integers(0, 2), min_size=rows, max_size=rows)
    asked = np.array([data.draw(numbers), data.draw(numbers)], dtype=np.int64)
    truth = np.array(
        data.draw(st.lists(st.integers(0, max(rows - 1, 0)), max_size=rows and 9)), int
    )
    moved = own.iloc[truth]
    if data.draw(st.booleans()):
        moved = moved.reset_index(drop=True)
    places = frames.places_in(moved, own, asked)
    if places is not None:
        assert (asked[:, places] == asked[:, truth]).all()


def test_a_row_is_told_whole(home: Path) -> None:
    """Prompt, answer, tokens; rows alike, rows of an earlier run, rows that failed or were none."""
    texts = ["a", "a", "b [[fault:400]]", None, '좋아요 [[say:{"n": [1, 2]}]]']
    frame = pd.DataFrame({"text": texts, "n": range(5)})
    explorer = bm.explore(answered(frame))
    first, twin, failed, skipped, nested = (letter_of(explorer, n) for n in range(5))
    assert [m["role"] for m in first["messages"]] == ["system", "user"]
    assert first["received"]["response"]["status_code"] == 200
    facts = {fact["name"]: fact["said"] for fact in first["facts"]}
    assert "input" in facts["tokens"]
    assert facts["finish reason"] == "stop"
    assert facts["served by"] == "sandbox-stub"
    assert twin["answer"] == first["answer"]
    assert twin["messages"] == first["messages"]
    assert failed["status"] == "failed"
    assert "400" in str(failed["error"])
    assert failed["messages"][-1]["parts"][0]["said"] == texts[2]
    assert "nothing was sent" in str(skipped["sent"])
    assert skipped["lost"] == "no answer has come for this row"
    assert nested["answer"] == '{"n": [1, 2]}'
    more = pd.DataFrame({"text": ["a", "c"], "n": [8, 9]})
    later = bm.explore(answered(more, out="later"))
    assert letter_of(later, 0)["messages"] == first["messages"]
    assert letter_of(later, 0)["answer"] == first["answer"]


def test_several_models_are_several_letters(home: Path, reviews: pd.DataFrame) -> None:
    """One row, each model's answer under its name."""
    explorer = bm.explore(answered(reviews, model="gpt-5-mini,gpt-5-nano"))
    explorer._open = 1
    detail = explorer._detail()
    assert detail is not None
    assert [letter["model"] for letter in detail["letters"]] == ["gpt-5-mini", "gpt-5-nano"]
    said = [letter["messages"][-1]["parts"][0]["said"] for letter in detail["letters"]]
    assert said == [reviews["text"].iloc[1]] * 2


def test_an_image_is_told_of_and_never_shown(home: Path) -> None:
    """Its address as text, or its kind and size: the page fetches nothing."""
    picture = BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    frame = pd.DataFrame({"photo": ["https://example.org/a.png", picture.getvalue()]})
    prompt = "user:\nlook\n![photo]({{ photo }})"
    run = bm.submit(frame, prompt, model="gpt-5-mini", on="sandbox", out="seen")
    explorer = bm.explore(run.wait(timeout_s=60))
    one, other = (letter_of(explorer, n)["messages"][0]["parts"] for n in (0, 1))
    assert {"kind": "image", "said": "https://example.org/a.png"} in one
    assert any(part["said"].startswith("image/png, ") for part in other if part["kind"] == "image")


def test_any_frame_is_looked_through_with_what_it_has() -> None:
    """No run, odd labels: marks stay in the explorer, those of the frame's own are read."""
    frame = pd.DataFrame({"a": ["x", "y", "z"], "gpt_mark": ["up", None, "other"]}, index=[1, 1, 2])
    explorer = bm.explore(frame)
    explorer.mark(1, note="why")
    explorer.query = {"text": "why"}
    assert explorer.view()["a"].tolist() == ["y"]
    explorer.query = Query(sort=(SortKey("a", True),))
    view = explorer.view()
    assert view["a"].tolist() == ["z", "y", "x"]
    assert view.index.tolist() == [2, 1, 1]
    assert view["gpt_mark"].tolist()[2] == "up"
    assert list(frame.columns) == ["a", "gpt_mark"]
    frame.loc[:, "a"] = "changed"
    assert explorer.view()["a"].tolist() == ["z", "y", "x"]
    with pytest.raises(CellError, match="did you mean"):
        explorer.query = {"sort": [{"column": "aa"}]}
    for wrong in (lambda: explorer.mark(3), lambda: explorer.mark(-1), lambda: explorer.pick([9])):
        with pytest.raises(CellError, match="are from 0 to 2"):
            wrong()
    with pytest.raises(CellError, match="say up, down or None"):
        explorer.mark(0, "sideways")
    with pytest.raises(FrameError, match="not a DataFrame"):
        bm.explore(frame["a"])  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [1.5, True, np.True_, "1", None, -1, 10**20, [0], np.float64(1)])
def test_what_is_no_position_is_refused_and_nothing_of_it_kept(wrong: Any) -> None:
    """Half a row is no row, nor is a mask a list of places; the explorer goes on as it was."""
    explorer = bm.explore(pd.DataFrame({"a": ["x", "y"]}))
    explorer.pick([0])
    with pytest.raises(CellError, match="is no row; positions are from 0 to 1"):
        explorer.mark(wrong, "up")
    with pytest.raises(CellError, match="is no row; positions are from 0 to 1"):
        explorer.pick([1, wrong])
    with pytest.raises(CellError, match=r"is no list of positions; say pick\(\[0, 3\]\)"):
        explorer.pick(2)  # type: ignore[arg-type]
    assert explorer.selection()["a"].tolist() == ["x"]
    assert list(explorer.view().columns) == ["a"]
    explorer.pick(np.array([1], dtype=np.uint8))
    explorer.mark(np.int64(1), "up")  # type: ignore[arg-type]
    assert explorer.selection()["gpt_mark"].tolist() == ["up"]


def test_a_note_is_a_text_that_can_be_kept(home: Path, reviews: pd.DataFrame) -> None:
    """Half a character pair becomes a sign for it, as elsewhere; what is no text is refused."""
    answered(reviews)
    for explorer in (bm.explore("labelled"), bm.explore(reviews)):
        explorer.mark(0, note="so \ud83d")
        assert explorer.view()["gpt_note"].iloc[0].startswith("so \ufffd")
        for wrong in (5, ["x"], {"a": 1}):
            with pytest.raises(CellError, match="is no note; write a text"):
                explorer.mark(0, note=wrong)  # type: ignore[arg-type]
            with pytest.raises(CellError, match="is no thumb; say up, down or None"):
                explorer.mark(0, wrong)  # type: ignore[arg-type]
        assert explorer.view()["gpt_note"].notna().sum() == 1
    odd = bm.explore(pd.DataFrame({"a": [1], "gpt_note": pd.Series(["\ud800"], dtype=object)}))
    odd._open = 0
    assert "\ufffd" in str(odd._detail())


def test_what_asks_for_marks_goes_with_the_last_of_them() -> None:
    """A filter on a column that is there no more would show an error for ever."""
    explorer = bm.explore(pd.DataFrame({"a": ["x", "y"]}))
    explorer.mark(0, "up")
    explorer.query = {"filters": [{"column": "gpt_mark", "op": "equals", "value": "up"}]}
    assert len(explorer.view()) == 1
    explorer.mark(0)
    assert len(explorer.view()) == 2
    assert "gpt_mark" not in explorer.view()


def page_of(explorer: Explorer) -> Any:
    """Return the explorer's widget, as `_ipython_display_` makes it."""
    kind = _kind()
    assert kind is not None
    return explorer._widget_of(kind)


def test_columns_that_have_gone_are_forgotten_at_a_refresh(home: Path) -> None:
    """A run read anew by another pattern has other columns; the page goes on all the same."""
    frame = pd.DataFrame({"text": [f"t{n} [[say:{n}: good]]" for n in range(4)]})
    answered(frame, parse="{stars}: {label}", schema=None)
    explorer = bm.explore("labelled")
    widget = page_of(explorer)
    explorer.query = {
        "text": "t",
        "sort": [{"column": "stars"}, {"column": "text", "descending": True}],
        "filters": [{"column": "label", "op": "present"}],
    }
    mine = session.session_for(".gptbatch")
    mine.reparse("labelled", Options(out="labelled", parse="{points}: {word}"))
    explorer.refresh()
    assert explorer.query == Query(text="t", sort=(SortKey("text", True),))
    assert len(explorer.view()) == 4
    assert "4 rows" in repr(explorer)
    for asked in ({"do": "pick", "position": 1}, {"do": "facets"}, {"do": "open", "position": 1}):
        explorer._heard(asked)
        assert widget.trouble == "", asked
    assert widget.page["picked"] == 1


@pytest.mark.parametrize(
    "said",
    [
        *(None, 5, "x", [], {}, {"do": ["x"]}, {"do": "open"}, {"do": "query", "query": 5}),
        *({"do": "open", "position": at} for at in ("abc", None, 1e400, 1.5, 10**30, -1)),
        *({"do": "open", "position": 1, "stamp": stamp} for stamp in ("zz", {}, None, 1e400)),
        *({"do": "query", "query": {}, "start": start} for start in ("zz", 10**30, -50, 1e400)),
        *({"do": "query", "query": {"sample": size}} for size in (1e400, -1, 2**70, "x")),
        *({"do": "query", "query": {"filters": filters}} for filters in ([5], "abc", 5)),
        *({"do": "thumb", "position": 1, "thumb": thumb} for thumb in ("side", ["up"], {}, 1)),
        *({"do": "note", "position": 1, "note": note} for note in (5, ["x"])),
    ],
    ids=str,
)
def test_a_message_that_makes_no_sense_harms_nothing(said: Any) -> None:
    """It gets one line at most, which does not call it a bug; the next one is done."""
    explorer = bm.explore(pd.DataFrame({"a": ["x", "y"]}))
    widget = page_of(explorer)
    widget._handle_custom_msg(said, [])
    assert "bug" not in widget.trouble
    widget._handle_custom_msg({"do": "pick", "position": 1, "stamp": 7}, [])
    assert widget.trouble == ""
    assert widget.page["picked"] == 1
    assert widget.page["stamp"] == 7


def test_a_mark_on_what_is_no_position_spoils_no_other() -> None:
    """Half a row has no mark, and the next mark is taken."""
    explorer = bm.explore(pd.DataFrame({"a": ["x", "y"]}))
    with pytest.raises(CellError, match=r"1\.5 is no row"):
        explorer.mark(1.5, "up")  # type: ignore[arg-type]
    explorer.mark(1, "up")
    assert explorer.view()["gpt_mark"].tolist()[1] == "up"


def test_a_run_that_goes_on_is_shown_as_far_as_it_has_come(
    home: Path, reviews: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are pending, and looked at again by `refresh`."""
    monkeypatch.setenv("BATCH_MAGIC_SANDBOX_TIME_SCALE", "20")
    run = bm.submit(reviews, PROMPT, model="gpt-5-mini", on="sandbox", out="labelled")
    explorer = bm.explore(run)
    explorer.mark(1, "up")
    run.wait(timeout_s=90)
    explorer.refresh()
    assert set(explorer.view()["gpt_status"]) == {"ok"}
    assert explorer.view()["gpt_mark"].notna().sum() == 1


def test_journal_keeps_one_mark_a_row(home: Path, reviews: pd.DataFrame) -> None:
    """A later one takes its place, an empty one takes it away."""
    run_id = answered(reviews).attrs["gptbatch"]["run_id"]
    journal = session.session_for(".gptbatch").journal
    journal.put_mark(run_id, 3, Mark(Thumb.UP, "a"), 1.0)
    journal.put_mark(run_id, 3, Mark(Thumb.DOWN), 2.0)
    journal.put_mark(run_id, 1, Mark(note="b"), 2.0)
    assert journal.marks(run_id) == {1: Mark(note="b"), 3: Mark(Thumb.DOWN)}
    journal.put_mark(run_id, 3, Mark(), 3.0)
    assert journal.marks(run_id) == {1: Mark(note="b")}
    with pytest.raises(JournalError, match="no more"):
        journal.put_mark("none", 0, Mark(Thumb.UP), 1.0)


def test_a_click_writes_its_own_half_of_a_mark(home: Path, reviews: pd.DataFrame) -> None:
    """What a page shows may be old by now: a thumb takes no note away, a note no thumb."""
    run_id = answered(reviews).attrs["gptbatch"]["run_id"]
    with kernel(home.parent) as one, kernel(home.parent) as other:
        for notebook in (one, other):
            shown = notebook.run("import batch_magic as bm\nseen = bm.explore('labelled')\nseen")
            assert shown.error is None
        bm.explore("labelled").mark(2, note="long considered")
        bm.explore("labelled").mark(3, "down")
        models = [_model_id(notebook) for notebook in (one, other)]
        one.tell(models[0], {"do": "thumb", "position": 2, "thumb": "up"})
        one.tell(models[0], {"do": "note", "position": 3, "note": "mine"})
        assert "long considered" in one.run("print(seen.view()['gpt_note'].tolist())").text
        other.tell(models[1], {"do": "thumb", "position": 2, "thumb": None})
        other.tell(models[1], {"do": "note", "position": 3, "note": ""})
        assert other.run("print(seen._widget.trouble)").text.strip() == ""
    marks = session.session_for(".gptbatch").journal.marks(run_id)
    assert marks == {2: Mark(note="long considered"), 3: Mark(Thumb.DOWN)}
    alone = bm.explore(pd.DataFrame({"a": ["x"]}))
    alone.mark(0, "up", "why")
    alone.mark(0, note="because")
    assert alone.view()["gpt_note"].tolist() == ["because"]
    assert "gpt_mark" not in alone.view()


def _model_id(notebook: Kernel) -> str:
    return notebook.run("print(seen._widget.model_id)").printed.strip()


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        ("thumb = 'sideways'", Mark(note="keep")),
        ("note = CAST(x'ff61' AS TEXT)", Mark(Thumb.UP)),
        ("thumb = x'ff', note = NULL", None),
        ("position = -1", None),
    ],
)
def test_a_damaged_mark_does_not_stand_before_answers(
    home: Path,
    reviews: pd.DataFrame,
    caplog: pytest.LogCaptureFixture,
    damage: str,
    left: Mark | None,
) -> None:
    """Answers are paid for: what cannot be read of a mark is left out, told of and kept."""
    run_id = answered(reviews).attrs["gptbatch"]["run_id"]
    bm.explore("labelled").mark(3, "up", "keep")
    bm.explore("labelled").mark(5, "down")
    with closing(sqlite3.connect(home / "journal.db")) as db, db:
        db.execute(f"UPDATE marks SET {damage} WHERE position = 3")
    result = bm.attach("labelled").result()
    assert result["answer"].notna().all()
    assert result["gpt_mark"].iloc[5] == "down"
    assert "is damaged in the journal" in caplog.text
    marks = session.session_for(".gptbatch").journal.marks(run_id)
    assert marks == {5: Mark(Thumb.DOWN)} | ({} if left is None else {3: left})
    with closing(sqlite3.connect(home / "journal.db")) as db:
        assert db.execute("SELECT count(*) FROM marks").fetchone() == (2,)
    bm.explore("labelled").mark(3, "down", "anew")
    assert bm.attach("labelled").result()["gpt_note"].iloc[3] == "anew"


def test_without_a_kernel_it_is_text(home: Path, reviews: pd.DataFrame) -> None:
    """Counts, first rows, and how to see more."""
    text = repr(bm.explore(answered(reviews)))
    assert "12 rows" in text
    assert "12 ok" in text
    assert "review 0" in text
    assert "4 more rows" in text
    assert "explorer.view()" in text
    with pytest.raises(NotImplementedError):
        bm.explore(reviews)._ipython_display_()


def test_in_a_kernel_a_table_stays_in_the_file(tmp_path: Path) -> None:
    """Two displays: what is read without a kernel, and the widget."""
    with kernel(tmp_path) as notebook:
        seen = notebook.run(
            "%load_ext batch_magic\nimport pandas as pd\n"
            "found = pd.DataFrame({'a': ['<b>x</b>'] * 30})\n%gptbatch explore found"
        )
        assert seen.error is None, seen
        assert "found: 30 rows" in seen.text
        assert len(seen.shown) == 2
        wrong = notebook.run("%gptbatch explore nothing")
    assert "no run is called 'nothing'" in str(wrong.error)


COUNTED = """
import gc, ipywidgets
from batch_magic.browse import Rows
from batch_magic.explorer import Explorer
gc.collect()
print(*(sum(isinstance(one, kind) for one in gc.get_objects()) for kind in (Explorer, Rows)))
"""
ON_PAGE = """
from ipywidgets.widgets.widget import _instances
print(*(key for key, one in _instances.items() if type(one).__name__ == "ExplorerWidget"))
"""


def test_a_cell_that_is_run_again_and_again_keeps_few_explorers(tmp_path: Path) -> None:
    """Widgets live for ever; what an explorer has worked out, and its frame, do not."""

    def counts(notebook: Any) -> tuple[int, int]:
        seen = notebook.run(COUNTED)
        explorers, rows = map(int, seen.printed.split())
        return explorers, rows

    setup = "import pandas as pd, batch_magic as bm\nfound = pd.DataFrame({'a': list('xyz')})"
    with kernel(tmp_path) as notebook:
        assert notebook.run(setup).error is None
        for _ in range(10):
            assert notebook.run("display(bm.explore(found)); None").error is None
        assert counts(notebook)[1] <= 5
        shown = notebook.run(ON_PAGE).printed.split()
        assert len(shown) == 10
        for model_id in shown[:-1]:
            notebook.tell(model_id, {"do": "bye"})
        only = {"filters": [{"column": "a", "op": "equals", "value": "y"}]}
        for model_id in shown[-2:]:  # the first of them is in a tab that was opened again
            notebook.tell(model_id, {"do": "query", "query": only, "stamp": 1})
        explorers, rows = counts(notebook)
        assert explorers <= 5
        assert rows <= 5
        left = notebook.run(ON_PAGE).printed.split()
        assert set(shown[-2:]) <= set(left)
        assert len(left) == explorers
        pages = f"print([_instances[key].page['shown'] for key in {shown[-2:]}])"
        assert notebook.run(pages).printed.strip() == "[1, 1]"
        for _ in range(10):  # IPython's Out holds these; what they have worked out is let go
            assert notebook.run("bm.explore(found)").error is None
        assert counts(notebook)[1] <= 5


def test_what_was_worked_out_is_made_anew_on_demand() -> None:
    """More explorers than are remembered go on as if they were; marks and picks stay."""
    frame = pd.DataFrame({"a": [f"r{n}" for n in range(9)]})
    explorers = [bm.explore(frame) for _ in range(9)]
    for n, explorer in enumerate(explorers):
        explorer.mark(n, "up", note=f"note {n}")
        explorer.pick([n])
        explorer.query = {"filters": [{"column": "gpt_mark", "op": "present"}]}
    for n, explorer in enumerate(explorers):
        assert explorer.view()["gpt_note"].tolist() == [f"note {n}"]
        assert explorer.selection()["a"].tolist() == [f"r{n}"]
