"""Answers with a shape, from the cell to typed columns, over a real service and a restart."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydantic import BaseModel, Field, field_serializer, field_validator

import batch_magic as bm
from batch_magic import answers, session
from batch_magic.card import newest_html
from batch_magic.drafting import Options
from batch_magic.errors import CellError
from batch_magic.records import RowStatus
from batch_magic.sandbox import launcher

FAST = {
    "BATCH_MAGIC_SANDBOX_ANSWERER": "stub",
    "BATCH_MAGIC_SANDBOX_TIME_SCALE": "1000",
    "BATCH_MAGIC_POLL_FIRST_S": "0.1",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One project for all: the sandbox starts once."""
    folder = tmp_path_factory.mktemp("shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in FAST.items():
            patch.setenv(name, value)
        patch.delenv("OPENAI_API_KEY", raising=False)
        yield folder / ".gptbatch"
        session.close_sessions()
        launcher.stop(folder / ".gptbatch" / "sandbox")


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"text": [f"row {n}" for n in range(6)]}, index=list("aabbcc"))


def submit(frame: pd.DataFrame, **options: Any) -> bm.Run:
    return bm.submit(frame, "{{ text }}", **{"model": "m", "on": "sandbox", **options})


class Point(BaseModel):
    x: int
    y: float


class Label(BaseModel):
    label: Literal["good", "bad"]
    score: float
    at: Point
    points: list[Point]


class Picky(BaseModel):
    label: Literal["good", "bad"]

    @field_validator("label")
    @classmethod
    def never_bad(cls, value: str) -> str:
        if value == "bad":
            raise ValueError("nothing is bad")
        return value


LINE = "label: good|bad, n: int, b: bool, day: date, at: datetime, tags: list[str], note: str?"
DTYPES = ["category", "Int64", "boolean", "datetime64[s]", "datetime64[us, UTC]"]


def test_fields_are_typed_columns_on_the_right_rows(home: Path, frame: pd.DataFrame) -> None:
    """Nullable types, categories with all their values, dates; the frame as it was."""
    run = submit(frame, out="typed", schema=LINE, prefix="p_")
    result = run.wait(timeout_s=30)
    assert [str(dtype) for dtype in result.dtypes[1:6]] == DTYPES
    assert str(result["p_note"].dtype) == "string"
    assert list(result["p_label"].cat.categories) == ["good", "bad"]
    assert result["p_tags"].map(type).eq(list).all()
    assert set(result["gpt_status"]) == {"ok"}
    pd.testing.assert_frame_equal(result[["text"]], frame)
    session.close_sessions()
    again = bm.attach("typed").wait(timeout_s=30)
    pd.testing.assert_frame_equal(again, result)


def test_a_model_of_the_notebook_is_a_schema(home: Path, frame: pd.DataFrame) -> None:
    """Objects stay dicts, or become columns on request; lists of objects stay lists."""
    result = submit(frame, out="model", schema=Label).wait(timeout_s=30)
    assert list(result.columns[1:5]) == ["label", "score", "at", "points"]
    assert set(result["at"].iloc[0]) == {"x", "y"}
    assert set(result["points"].iloc[0][0]) == {"x", "y"}
    flat = submit(frame, out="flat", schema=Label, flatten=True).wait(timeout_s=30)
    assert list(flat.columns[1:6]) == ["label", "score", "at.x", "at.y", "points"]
    assert flat["at.x"].tolist() == [one["x"] for one in result["at"]]
    assert str(flat["at.x"].dtype) == "Int64"
    assert bm.attach("flat").snapshot().jobs == (), "the same request: nothing was asked again"


def test_a_models_own_validators_make_misfits(home: Path, frame: pd.DataFrame) -> None:
    """Their reason is in gpt_error, with the answer."""
    result = submit(frame, out="picky", schema=Picky).wait(timeout_s=30)
    bad = result[result["gpt_status"] == "unparsed"]
    assert 0 < len(bad) < len(result)
    assert bad["label"].isna().all()
    assert bad["gpt_error"].str.contains("nothing is bad").all()
    assert bad["gpt_error"].str.contains('"label"').all()
    assert set(result["label"].dropna()) == {"good"}


def test_misfits_of_a_pattern_are_read_anew_by_another(home: Path, frame: pd.DataFrame) -> None:
    """For nothing: the answers are at hand."""
    run = submit(frame, out="split", parse="stub {hash:d}: {rest}")
    result = run.wait(timeout_s=30)
    misfits = result.query("gpt_status == 'unparsed'")
    assert len(misfits) > 0
    assert misfits["gpt_error"].str.contains("does not fit the pattern; the answer: stub ").all()
    assert str(result["hash"].dtype) == "Int64"
    jobs = len(run.snapshot().jobs)
    mine = session.session_for(str(home))
    mine.reparse("split", Options(out="", parse="stub {hash}: {rest}"))
    anew = run.result()
    assert set(anew["gpt_status"]) == {"ok"}
    assert anew["rest"].tolist() == frame["text"].tolist()
    assert run.snapshot().fault is None
    assert (len(run.snapshot().jobs), run.snapshot().counts[RowStatus.OK]) == (jobs, 6)
    session.close_sessions()
    pd.testing.assert_frame_equal(bm.attach("split").wait(timeout_s=30), anew)


def test_misfits_can_be_asked_for_again(home: Path, frame: pd.DataFrame) -> None:
    """`retry --status unparsed` sends those rows alone."""
    run = submit(frame, out="again", parse="stub {hash:d}: {rest}", fresh=True)
    misfits = int((run.wait(timeout_s=30)["gpt_status"] == "unparsed").sum())
    run.retry(["unparsed"])
    run.wait(timeout_s=30)
    assert run.snapshot().jobs[-1].rows == misfits


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"schema": 5}, "a int is no schema"),
        ({"schema": "label"}, "'label' is no class or dict"),
        ({"schema": {"type": "object", "properties": {"a": {"oneOf": []}}}}, "told apart by"),
        (
            {"schema": {"type": "object", "properties": {"a": {"enum": {1}}}}},
            "(written as JSON|JSON serializable)",
        ),
        ({"schema": "a: str", "parse": "{a}"}, "name one of them"),
        ({"schema": "a: str", "column": "b"}, "say --prefix"),
        ({"schema": "text: str"}, "'text' is in the frame already"),
        ({"schema": "gpt_x: str"}, "names are taken"),
        ({"schema": "a: str", "params": {"response_format": {"type": "text"}}}, "leave it out"),
        ({"parse": "nothing"}, "has no fields"),
        ({"parse": "{a} {a}"}, "is there twice"),
        ({"parse": "{a}", "flatten": True}, "a pattern has none"),
        ({"prefix": "p_"}, "--prefix is for the columns of"),
    ],
)
def test_a_shape_that_cannot_be_used_is_one_line(
    home: Path, frame: pd.DataFrame, options: dict[str, Any], said: str
) -> None:
    """Nothing is sent, and nothing is left behind."""
    with pytest.raises(CellError, match=said) as caught:
        submit(frame, out="refused", **options)
    assert "\n" not in str(caught.value)
    assert "refused" not in bm.runs()["name"].tolist()


def test_two_columns_of_one_name_are_refused(home: Path, frame: pd.DataFrame) -> None:
    """A field `a.b` beside an object `a` with a field `b`."""
    inner = {"type": "object", "properties": {"b": {"type": "string"}}}
    schema = {"type": "object", "properties": {"a": inner, "a.b": {"type": "string"}}}
    with pytest.raises(CellError, match=r"two columns of the result are called 'a\.b'"):
        submit(frame, out="refused", schema=schema, flatten=True)


def test_json_mode_is_checked_here_and_said(home: Path, frame: pd.DataFrame) -> None:
    """Hosts without strict mode: what they answer is judged all the same."""
    run = submit(
        frame,
        out="loose",
        schema="a: int",
        params={"response_format": {"type": "json_object"}},
    )
    run.wait(timeout_s=30)
    assert any("JSON mode" in note for note in run.snapshot().notes)


def test_responses_answer_in_texts_and_fields(home: Path, frame: pd.DataFrame) -> None:
    """The newer endpoint, with its own names for everything."""
    plain = submit(frame, out="newer", endpoint="responses").wait(timeout_s=30)
    pairs = zip(plain["answer"], frame["text"], strict=True)
    assert all(answer.endswith(text) for answer, text in pairs)
    typed = submit(frame, out="newer_typed", endpoint="responses", schema="n: int, ok: bool")
    assert [str(t) for t in typed.wait(timeout_s=30).dtypes[1:3]] == ["Int64", "boolean"]


def test_vectors_are_arrays_and_flags_are_columns(home: Path, frame: pd.DataFrame) -> None:
    """What answers no text has columns all the same."""
    run = submit(frame, out="vectors", endpoint="embeddings", params={"dimensions": 8})
    vectors = run.wait(timeout_s=30)["embedding"]
    assert all(one.dtype == np.float32 and one.shape == (8,) for one in vectors)
    assert len({one.tobytes() for one in vectors}) == len(frame)
    session.close_sessions()
    again = bm.attach("vectors").wait(timeout_s=30)["embedding"]
    assert [one.tobytes() for one in again] == [one.tobytes() for one in vectors]
    flags = submit(frame, out="flags", endpoint="moderations").wait(timeout_s=30)
    assert str(flags["flagged"].dtype) == "boolean"
    assert set(flags["scores"].iloc[0]) == set(flags["categories"].iloc[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"endpoint": "nope"}, "endpoint 'nope' is not known"),
        ({"endpoint": "embeddings", "parse": "{a}"}, "answers without a text"),
        ({"endpoint": "completions", "schema": "a: int"}, "leave it out for completions"),
        ({"endpoint": "moderations", "column": "a"}, "say --prefix"),
        ({"endpoint": "responses", "schema": "a: int", "params": {"text": 5}}, "sets text.format"),
        ({"endpoint": "responses", "params": {"input": "x"}}, "write it in the cell's body"),
    ],
)
def test_an_endpoint_that_cannot_do_it_is_one_line(
    home: Path, frame: pd.DataFrame, options: dict[str, Any], said: str
) -> None:
    """Before anything is sent."""
    with pytest.raises(CellError, match=said):
        submit(frame, out="refused", **options)


# -- several models, and what each row has of its own ---------------------------------------


def bodies(run: bm.Run) -> list[dict[str, Any]]:
    """The bodies of all requests of a run, from its files."""
    folder = Path(".gptbatch") / "runs" / run.run_id
    lines = [line for path in folder.glob("shard-*.jsonl") for line in path.open(encoding="utf-8")]
    return [json.loads(line)["body"] for line in lines]


def test_each_row_asks_its_own_model_with_its_own_parameters(
    home: Path, frame: pd.DataFrame
) -> None:
    """A job asks one model alone; an answer of before is taken over, whoever asked for it."""
    frame = frame.assign(m=["a", "b"] * 3, t=[0.5, None, 1, None, 0.25, None])
    first = submit(frame.head(1), model="a", params={"temperature": 0.5}, out="first")
    first.wait(timeout_s=60)
    own: dict[str, Any] = {"model": "{{ m }}", "params": {"temperature": "{{ t }}", "seed": 7}}
    run = submit(frame, **own, out="own")
    result = run.wait(timeout_s=60)
    assert result["gpt_status"].tolist() == ["ok"] * 6
    assert [said[-5:] for said in result["answer"]] == frame["text"].tolist()
    asked = {(body["messages"][0]["content"], body["model"]): body for body in bodies(run)}
    assert set(asked) == set(zip(frame["text"], frame["m"], strict=True))
    temperatures = [body.get("temperature") for body in asked.values()]
    assert sorted(filter(None, temperatures)) == [0.25, 0.5, 1]
    assert len(run.snapshot().jobs) == 2
    again = submit(frame.iloc[2:3], model="a", params={"temperature": 1, "seed": 7}, out="again")
    assert again.wait(timeout_s=60)["gpt_status"].tolist() == ["ok"]
    assert again.snapshot().jobs == ()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "{{ m }}"}, "column 'm' names no model in 2 rows, the first at position 1"),
        ({"model": "x-{{ m }}"}, "no row"),
        ({"model": "{{ n }}"}, "-m '{{ n }}': column 'n' is not in the frame"),
        ({"model": "a,,b"}, "-m holds an empty name"),
        ({"model": "a, a"}, "-m names a model twice"),
        ({"params": {"n": "{{ m }}"}}, "one answer per row is kept"),
        ({"params": {"temperature": "{{ t }}"}}, "-p temperature '{{ t }}': column 't' is not in"),
        ({"image_max": "big"}, "say a number of pixels"),
        ({"image_max": 16}, "--image-max is for images, and the template has none"),
        ({"model": "a,{{ text }}"}, "row 0: -m: it gives 'a,row 0'; a name holds no comma"),
        ({"model": "gpt-5-mini", "params": {"max_tokens": 5}}, "gpt-5-mini refuses the parameter"),
        ({"endpoint": "responses", "params": {"max_tokens": 5}}, "say max_output_tokens"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(
    home: Path, frame: pd.DataFrame, options: dict[str, Any], said: str
) -> None:
    """Nothing is sent to a model that nobody has chosen."""
    frame = frame.assign(m=["a", None, "b", None, "c", "d"])
    if said == "no row":  # a text of pieces has no missing value
        assert submit(frame, **options).wait(timeout_s=60)["gpt_status"].tolist() == ["ok"] * 6
        return
    before = len(bm.runs())
    with pytest.raises(CellError) as caught:
        submit(frame, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(bm.runs()) == before


def test_several_models_answer_in_columns_of_their_own(home: Path, frame: pd.DataFrame) -> None:
    """One result; a row is ok where all of them answered it; failures name the model."""
    frame = frame.assign(text=[*frame["text"][:5], "[[fault:400:once]]"])
    run = submit(frame, model="big, small", out="both", keep=["usage", "custom_id"])
    result = run.wait(timeout_s=60)
    assert run.snapshot().rows == 12
    names = ["answer.big", "answer.small", "gpt_status.big", "gpt_error.small", "gpt_custom_id.big"]
    assert set(names) <= set(result.columns)
    assert result.index.tolist() == frame.index.tolist()
    for name in ("big", "small"):
        assert [said[-5:] for said in result[f"answer.{name}"][:5]] == frame["text"][:5].tolist()
    assert result["gpt_status"].tolist() == ["ok"] * 5 + ["failed"]
    assert result["gpt_error"].iloc[5].startswith("big: ")
    assert result["gpt_custom_id.small"].tolist() == [f"{run.run_id}-{n}" for n in range(6, 12)]
    causes = run.errors()[["model", "position"]].to_numpy().tolist()
    assert causes == [["big", 5], ["small", 5]]
    run.retry()
    result = run.wait(timeout_s=60)
    assert result["gpt_status"].tolist() == ["ok"] * 6
    assert len(run.snapshot().jobs) == 4
    session.close_sessions()
    pd.testing.assert_frame_equal(bm.attach("both").result()[names], result[names])
    one = submit(frame, model="small", out="one")
    assert one.wait(timeout_s=60)["answer"].tolist() == result["answer.small"].tolist()
    assert one.snapshot().jobs == ()


def test_fields_of_several_models_are_typed(home: Path, frame: pd.DataFrame) -> None:
    """A schema gives each model its columns."""
    run = submit(frame, model="big,small", schema="label: good|bad, n: int", prefix="x_", out="s")
    result = run.wait(timeout_s=60)
    assert str(result["x_n.small"].dtype) == "Int64"
    assert result["x_label.big"].cat.categories.tolist() == ["good", "bad"]
    clash = result[["text", "x_n.small"]]
    with pytest.raises(CellError, match=r"column 'x_n\.small' is in the frame"):
        submit(clash, model="big,small", schema="n: int", prefix="x_")


def test_images_are_sent_and_bad_ones_fail_alone(home: Path, frame: pd.DataFrame) -> None:
    """Paths, bytes, arrays and addresses in one column; the run says what could not be read."""
    png = io.BytesIO()
    Image.new("RGB", (64, 48), (220, 20, 20)).save(png, "PNG")
    Path("a.png").write_bytes(png.getvalue())
    blue = np.full((10, 20, 3), (30, 60, 220), np.uint8)
    shots = ["a.png", png.getvalue(), blue, None, "gone.png", "https://a.org/b.png"]
    frame = frame.assign(shot=pd.Series(shots, dtype=object, index=frame.index))
    run = bm.submit(frame, "![it]({{ shot }})\n{{ text }}", model="m", on="sandbox", out="seen")
    result = run.wait(timeout_s=60)
    assert result["gpt_status"].tolist() == ["ok"] * 4 + ["failed", "ok"]
    assert "[image: PNG, 64 x 48, mostly red]" in result["answer"].iloc[0]
    assert "[image: PNG, 64 x 48, mostly red]" in result["answer"].iloc[1]
    assert "20 x 10, mostly blue" in result["answer"].iloc[2]
    assert "image" not in result["answer"].iloc[3]
    assert "[image at https://a.org/b.png]" in result["answer"].iloc[5]
    assert "there is no image file 'gone.png'" in result["gpt_error"].iloc[4]
    assert any("1 row failed unsent" in note for note in run.snapshot().notes)
    small = bm.submit(
        frame.head(1),
        "![it]({{ shot }})\n{{ text }}",
        model="m",
        on="sandbox",
        endpoint="responses",
        image_max=16,
        out="small",
    )
    assert "16 x 12, mostly red" in small.wait(timeout_s=60)["answer"].iloc[0]


def test_images_that_are_all_unreadable_stop_the_cell(home: Path, frame: pd.DataFrame) -> None:
    """Nothing could come of it: most likely it is the wrong folder."""
    before = len(bm.runs())
    with pytest.raises(
        CellError, match="no row can be sent: row 0: there is no image file 'row 0'"
    ):
        bm.submit(frame, "![it]({{ text }})", model="m", on="sandbox", out="none")
    assert len(bm.runs()) == before


def test_images_fill_jobs_by_their_bytes(home: Path, frame: pd.DataFrame) -> None:
    """A job takes 200 MB of lines, in base64 as they are sent."""
    noise = np.random.default_rng(0)
    shots = [noise.integers(0, 255, (100, 100, 3), np.uint8) for _ in range(6)]
    frame = frame.assign(shot=pd.Series(shots, dtype=object, index=frame.index))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCH_MAGIC_MAX_BYTES_PER_JOB", "100000")
        run = bm.submit(frame, "![it]({{ shot }})", model="m", on="sandbox", out="shots")
    assert run.wait(timeout_s=60)["gpt_status"].tolist() == ["ok"] * 6
    assert [job.rows for job in run.snapshot().jobs] == [2, 2, 2]
    assert all(job.bytes <= 100_000 for job in run.snapshot().jobs)


def test_lists_of_inputs_give_as_many_vectors(home: Path) -> None:
    """Each input has its place; a job counts inputs, and a row too long fails alone."""
    texts = [["a", "b"], ["c"], [], None, ["b", "a", "c"], ["d"] * 5]
    frame = pd.DataFrame({"texts": pd.Series(texts, dtype=object)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCH_MAGIC_MAX_ROWS_PER_JOB", "5")
        run = bm.submit(
            frame, "{{ texts }}", model="m", on="sandbox", endpoint="embeddings", out="vectors"
        )
    result = run.wait(timeout_s=60)
    assert result["gpt_status"].tolist() == ["ok", "ok", "failed", "skipped", "ok", "ok"]
    assert [job.rows for job in run.snapshot().jobs] == [2, 1, 1]
    first, second, other = (result["embedding"].iloc[n] for n in (0, 1, 4))
    assert first.shape == (2, second.shape[1])
    assert first.dtype == np.float32
    np.testing.assert_array_equal(other, np.concatenate([first[::-1], second]))
    session.close_sessions()
    again = bm.attach("vectors").result()["embedding"]
    np.testing.assert_array_equal(again.iloc[4], other)


def test_json_mode_tells_the_model_what_is_wanted(home: Path, frame: pd.DataFrame) -> None:
    """The service is not told the schema there: it stands before the prompt, and that is said."""
    chat = {"params": {"response_format": {"type": "json_object"}}}
    responses = {"params": {"text": {"format": {"type": "json_object"}}}, "endpoint": "responses"}
    for options in (chat, responses):
        run = submit(frame.head(2), schema="label: good|bad", out="json", **options)
        run.wait(timeout_s=60)
        asked = bodies(run)[0]
        system, _ = asked.get("messages") or asked["input"]
        assert system["role"] == "system"
        assert '"enum": ["good", "bad"]' in system["content"]
        assert "JSON mode" in " ".join(run.snapshot().notes)


def test_the_newest_answers_are_seen_while_others_run(home: Path, frame: pd.DataFrame) -> None:
    """What has landed can be looked at, in the panel and as a frame."""
    seen: list[tuple[Any, pd.Series[Any]]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCH_MAGIC_MAX_ROWS_PER_JOB", "2")
        patch.setenv("BATCH_MAGIC_MAX_ENQUEUED_TOKENS", "1")  # one job after another
        own = frame.assign(text=frame["text"] + " seen").set_axis([f"r{n}" for n in range(6)])
        run = submit(own, out="seen_early")
    run.listen(lambda s: seen.append((s, run.partial()["gpt_status"])) if s.newest else None)
    run.wait(timeout_s=60)
    s, statuses = seen[0]
    assert 0 < len(s.newest) < len(frame)
    for one in s.newest:
        assert f"row {one.position} seen" in one.text
        assert one.label == f"r{one.position}", "as the user calls it"
        assert f"row {one.position} · r{one.position}" in newest_html(s)
        assert statuses.iloc[one.position] == "ok"


def test_a_model_by_a_condition_is_each_rows_own(home: Path, frame: pd.DataFrame) -> None:
    """A comma within it parts no names."""
    model = "{% if text in ('row 0', 'z') %}big{% else %}small{% endif %}"
    run = submit(frame, model=model, params={"seed": 11}, out="conditional")
    assert run.wait(timeout_s=60)["gpt_status"].tolist() == ["ok"] * 6
    assert sorted(body["model"] for body in bodies(run)) == ["big"] + ["small"] * 5
    assert "asks small (5 rows), big (1 row)" in run.snapshot().notes


def test_a_parameter_of_a_row_stands_beside_a_schema(home: Path, frame: pd.DataFrame) -> None:
    """On responses both are within `text`; whole numbers come out of a column with gaps as such."""
    frame = frame.assign(v=["low", "high"] * 3, n=[100, None, 5, 6, 7, 8])
    params = {"text": {"verbosity": "{{ v }}"}, "max_output_tokens": "{{ n }}"}
    run = submit(frame, endpoint="responses", schema="x: int", params=params, out="beside")
    run.wait(timeout_s=60)
    for body in bodies(run):
        assert body["text"]["verbosity"] in ("low", "high")
        assert body["text"]["format"]["type"] == "json_schema"
        assert isinstance(body.get("max_output_tokens", 0), int)


def test_columns_of_counts_are_there_before_any_answer(home: Path, frame: pd.DataFrame) -> None:
    """Of an empty frame, and of a run of which nothing has come in."""
    keep = ["usage", "finish_reason", "model", "raw", "custom_id"]
    result = submit(frame.head(0), keep=keep, out="empty").wait(timeout_s=60)
    assert str(result["gpt_usage_input"].dtype) == "Int64"
    run = submit(frame.assign(text=frame["text"] + " early"), keep=keep, out="early")
    assert str(run.partial()["gpt_usage_input"].dtype) == "Int64"
    run.wait(timeout_s=60)


def test_a_number_beyond_all_columns_is_a_misfit_of_its_row(
    home: Path, frame: pd.DataFrame
) -> None:
    """One answer must not hide those of all others."""
    frame = frame.assign(text=["12", "9" * 30, "[[say:stub x: 10:21:36]]", "7", "8", "9"])
    run = submit(frame, parse="stub {h}: {n:d}", out="large")
    assert run.wait(timeout_s=60)["gpt_status"].tolist() == ["ok"] + ["unparsed"] * 2 + ["ok"] * 3
    run = submit(frame, parse="stub {h}: {t:tt}", out="times")
    assert run.wait(timeout_s=60)["t"].tolist()[2] == "10:21:36"


class Renamed(BaseModel):
    given: int = Field(validation_alias="x")
    secret: int = Field(exclude=True)
    upper: str

    @field_serializer("upper")
    def as_written(self, value: str) -> list[str]:
        return [value]

    @field_validator("upper")
    @classmethod
    def raises(cls, value: str) -> str:
        if value == "boom":
            raise KeyError(value)
        return value


def test_a_model_that_writes_itself_otherwise_is_read_as_it_reads(
    home: Path, frame: pd.DataFrame
) -> None:
    """Aliases, serializers and excluded fields are about writing; a validator's bug is a misfit."""
    said = '[[say:{"x": 4, "secret": 5, "upper": "%s"}]]'
    frame = frame.assign(text=[said % word for word in ("a", "b", "c", "d", "e", "boom")])
    result = submit(frame, schema=Renamed, out="renamed").wait(timeout_s=60)
    assert result["gpt_status"].tolist() == ["ok"] * 5 + ["unparsed"]
    assert result["x"].tolist()[:5] == [4] * 5
    assert result["upper"].tolist()[:5] == list("abcde")
    assert "its validator failed: KeyError: 'boom'" in result["gpt_error"].iloc[5]


def test_after_a_restart_the_missing_class_is_told_of(home: Path, frame: pd.DataFrame) -> None:
    """Its own rules cannot be asked; that is said, not passed over."""
    submit(frame, schema=Picky, out="picky2").wait(timeout_s=60)
    session.close_sessions()
    answers._models.clear()
    run = bm.attach("picky2")
    assert "the class Picky is not here" in " ".join(run.snapshot().notes)
    assert bm.attach("split").snapshot().notes == ()


def test_misfits_of_one_kind_are_one_cause(home: Path, frame: pd.DataFrame) -> None:
    """Each answer differs; the reason does not."""
    run = submit(frame, parse="never {a} and {b}", out="never")
    run.wait(timeout_s=60)
    assert run.errors()["rows"].tolist() == [6]
    assert (run.snapshot().fault or "").startswith("6 of 6 rows")


def test_a_type_of_the_standard_library_will_do(home: Path, frame: pd.DataFrame) -> None:
    """`typing.TypedDict` is what people import, and a recursion has columns, too."""
    Inner = TypedDict("Inner", {"n": int})  # noqa: UP013  (the class of the test is made here)
    Outer = TypedDict("Outer", {"a": str, "inner": Inner, "all": list[Inner]})  # noqa: UP013
    result = submit(frame, schema=Outer, out="typed").wait(timeout_s=60)
    assert result["gpt_status"].tolist() == ["ok"] * 6
    assert {"a", "inner", "all"} <= set(result.columns)

    class Node(BaseModel):
        v: int
        kids: list[Node]

    Node.model_rebuild(_types_namespace={"Node": Node})
    result = submit(frame, schema=Node, out="nodes").wait(timeout_s=60)
    assert {"v", "kids"} <= set(result.columns)


def test_a_message_of_nothing_and_braces_that_are_no_template(
    home: Path, frame: pd.DataFrame
) -> None:
    """A comment alone is an empty message; a parameter may hold braces."""
    body = "system:\n{# to be written #}\nuser:\n{{ text }} empty"
    run = bm.submit(
        frame, body, model="m", on="sandbox", params={"stop": ["{{", "%}"]}, out="braces"
    )
    assert run.wait(timeout_s=60)["gpt_status"].tolist() == ["ok"] * 6
    assert bodies(run)[0]["stop"] == ["{{", "%}"]
