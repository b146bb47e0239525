"""Completion: what is offered where, in a cell half typed; and in a real kernel."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels import Kernel, kernel

from batch_magic.completion import Candidate, Known, complete
from batch_magic.magic import VERBS
from batch_magic.manual import options_of
from batch_magic.records import RowStatus
from batch_magic.result import KEEP
from batch_magic.template import compile_template


def some(*names: str) -> list[Candidate]:
    return [Candidate(name, "") for name in names]


COLUMNS = some("title", "body", "제목", "any name", "stars")
KNOWN = Known(
    frames=lambda: some("reviews", "reports", "리뷰"),
    columns=lambda expression: COLUMNS if re.search("reviews|리뷰", expression) else [],
    variables=lambda: some("codebook", "today"),
    schemas=lambda: some("Label", "Scores"),
    models=lambda endpoint: some(
        *(["text-embedding-3-small"] if endpoint == "embeddings" else ["gpt-6-luna", "gpt-5-mini"])
    ),
    backends=lambda: some("openai", "sandbox"),
    runs=lambda: some("labelled", "translated"),
    filters=lambda: some("lower", "length", "upper"),
    tests=lambda: some("none", "defined"),
    functions=lambda: some("range("),
    verbs=VERBS,
    verb_options={verb: options_of(told) for verb, told in VERBS.items()},
    keep=("usage", "cost", "raw"),
)


def offered(text: str) -> list[str]:
    """The texts offered; the cursor is at the first ¦."""
    at = text.index("¦")
    one = complete(text.replace("¦", "", 1), at, KNOWN)
    return [] if one is None else [candidate.text for candidate in one.candidates]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("%%gptbatch ¦", ["reviews", "reports", "리뷰"]),
        ("%%gptbatch re¦", ["reviews", "reports"]),
        ("%%gptbatch 리¦", ["리뷰"]),
        ("\n\n%%time\n%%gptbatch rep¦", ["reports"]),
        ("%%gptbatch reviews.he¦", ["head("]),
        ("%%gptbatch reviews[reviews.st¦", ["stars"]),
        ('%%gptbatch "reviews[reviews.st¦', ["stars"]),
        ("%%gptbatch reviews[['ti¦", ["title"]),
        ("%%gptbatch reviews --mo¦", ["--model"]),
        ("%%gptbatch reviews --max_¦", ["--max-cost"]),
        ("%%gptbatch reviews --dry¦ -m x", ["--dry-run"]),
        ("%%gptbatch reviews -o ¦", ["reviews_out"]),
        ("%%gptbatch reviews -m ¦", ["gpt-6-luna", "gpt-5-mini"]),
        ("%%gptbatch reviews -m mini¦", ["gpt-5-mini"]),
        ("%%gptbatch reviews --model=gpt-5¦", ["gpt-5-mini"]),
        ("%%gptbatch reviews -m gpt-6-luna,¦", ["gpt-5-mini"]),
        ("%%gptbatch reviews -e embeddings -m ¦", ["text-embedding-3-small"]),
        ('%%gptbatch reviews -m "{{ ti¦', ["title"]),
        ("%%gptbatch reviews -e emb¦", ["embeddings"]),
        ("%%gptbatch reviews --on sand¦", ["sandbox"]),
        ("%%gptbatch reviews --keep usage,¦", ["cost", "raw"]),
        ("%%gptbatch reviews --with co¦", ["codebook"]),
        ("%%gptbatch reviews --with codebook,t¦", ["today"]),
        ("%%gptbatch reviews -s La¦", ["Label"]),
        ("%%gptbatch reviews -s 'score: fl¦", ["float", "float 0..1"]),
        ("%%gptbatch reviews -p reasoning_effort=lo¦", ["low"]),
        ("%%gptbatch reviews -p reas¦", ["reasoning_effort="]),
        ("%%gptbatch reviews --on-clash ¦", ["error", "replace"]),
        ("%%gptbatch reviews --tier ¦", ["flex"]),
        ("%gptbatch ret¦", ["retry"]),
        ("x = %gptbatch li¦", ["list"]),
        ("%gptbatch take la¦", ["labelled"]),
        ("%gptbatch cancel labelled ¦", ["translated"]),
        ("%gptbatch retry labelled --status fai¦", ["failed"]),
        ("%gptbatch compare ¦", ["labelled", "translated"]),
        ("%gptbatch compare labelled tr¦", ["translated"]),
        ("%gptbatch compare reviews labelled --truth ti¦", ["title"]),
        ("%gptbatch compare labelled translated --tr¦", ["--truth"]),
        ("%gptbatch plot la¦", ["labelled"]),
        ("%gptbatch explore ¦", ["labelled", "translated", "reviews", "reports", "리뷰"]),
        ("%gptbatch compare labelled re¦", ["reviews", "reports"]),
        ("%gptbatch retry labelled --status failed,exp¦", ["expired"]),
        ("%gptbatch retry labelled --st¦", ["--status"]),
        ("%gptbatch retry labelled --status=ref¦", ["refused"]),
        ("%gptbatch help wa¦", ["wait"]),
        ("%gptbatch attach batch_1 --frame reviews --id ti¦", ["title"]),
        ("print(1)\n%gptbatch show tr¦\nprint(2)", ["translated"]),
    ],
)
def test_a_line_offers_what_may_stand_there(text: str, first: list[str]) -> None:
    """Frames, options, values, verbs, runs: each in its place, in order."""
    assert offered(text)[: len(first)] == first


@pytest.mark.parametrize(
    ("body", "first"),
    [
        ("{{ ti¦", ["title"]),
        ("{{¦", ["title", "body", "제목", "stars", "codebook"]),
        ("{{ 제¦ }}", ["제목"]),
        ("한국어 문장 {{ title }} 그리고 {{ bo¦", ["body"]),
        ("{{ any¦", ['row["any name"]']),
        ('{{ row["any¦', ['any name"]']),
        ('{{ row["any¦"] }}', ["any name"]),
        ("{{ row.pos¦", ["position"]),
        ("{{ row.t¦", ["title"]),
        ("{{ title | lo¦", ["lower"]),
        ("{{ title|¦", ["lower", "length", "upper"]),
        ("{% if title is n¦", ["none"]),
        ("{% if title is not d¦", ["defined"]),
        ("{% fo¦", ["for"]),
        ("{% if ti¦", ["title"]),
        ("{% for word in words %}{{ wo¦", ["word"]),
        ("{{ code¦", ["codebook"]),
        ('Answer as {"a": {"b": 1}}: {{ ti¦', ["title"]),
        ("sys¦", ["system:"]),
        ("system:\nBe short.\nus¦", ["user:"]),
    ],
)
def test_a_body_offers_columns_filters_and_roles(body: str, first: list[str]) -> None:
    """Column names inside braces, whatever stands before them, in whatever script."""
    text = f"%%gptbatch reviews -m gpt-5-mini --with codebook\n{body}"
    assert offered(text)[: len(first)] == first


@pytest.mark.parametrize(
    "text",
    [
        "reviews.he¦",
        "%%bash\necho {{ ti¦",
        "%%gptb¦",
        "%%gptbatch_other reviews ¦",
        "%time x ¦",
        "%%gptbatch reviews\nA review of a lamp¦",
        "%%gptbatch reviews\n{{ title }} is go¦",
        "%%gptbatch reviews\n{{ ', ti¦",
        "%%gptbatch reviews\n{{ 3¦",
        "%%gptbatch reviews\n{# ti¦",
        "%%gptbatch reviews\n{{ other.ti¦",
        "%gptbatch nonsense la¦",
        "",
    ],
)
def test_nothing_is_offered_elsewhere(text: str) -> None:
    """Prose, other cells, strings and the attributes of unknown things are none of our business."""
    text = text or "¦"
    at = text.index("¦")
    one = complete(text.replace("¦", "", 1), at, KNOWN)
    assert one is None or not one.candidates


def test_what_is_given_already_is_not_offered_again() -> None:
    """But for what may be repeated."""
    left = offered("%%gptbatch reviews -m gpt-5-mini --param a=1 --live --¦")
    assert "--param" in left
    assert "--model" not in left
    assert "--live" not in left
    assert offered("%%gptbatch reviews -m m ¦")[0] == "--out"


def test_options_say_what_they_mean() -> None:
    """A name alone teaches nobody."""
    text = "%%gptbatch reviews --"
    one = complete(text, len(text), KNOWN)
    assert one is not None
    said = {candidate.text: candidate.said for candidate in one.candidates}
    assert said["--model"] == "the model"
    assert all(said.values())
    assert max(map(len, said.values())) < 75


@pytest.mark.parametrize(
    "text",
    [
        "%%gptbatch reviews --keep ",
        "%gptbatch retry one --status ",
        *(f"%gptbatch {verb} one --" for verb in VERBS),
    ],
)
def test_whatever_is_offered_says_what_it_is(text: str) -> None:
    """Each with words of its own: a list that says one thing of all says nothing."""
    known = replace(KNOWN, keep=tuple(KEEP))
    one = complete(text, len(text), known)
    said = [] if one is None else [candidate.said for candidate in one.candidates]
    assert all(said)
    assert len(set(said)) == len(said)


def test_every_status_that_can_be_retried_is_offered() -> None:
    """A row that is good, was not asked or is under way has nothing to send."""
    left = {one.label for one in RowStatus} - {"ok", "skipped", "pending"}
    assert set(offered("%gptbatch retry labelled --status ¦")) == left


def test_verbs_say_what_they_do_and_not_how_they_are_written() -> None:
    """The usage is a Tab further on."""
    one = complete("%gptbatch ", 10, KNOWN)
    assert one is not None
    said = {candidate.text: candidate.said for candidate in one.candidates}
    assert said.keys() == VERBS.keys()
    assert said["wait"] == "block the cell until a run has ended"
    assert said["take"].startswith("put a run's result in the namespace now")


LINES = st.text(alphabet="%gptbach reviws-om\"'{}[]|.,=\n리뷰#\t", max_size=60)


@given(LINES, st.integers(-2, 80), st.booleans())
def test_whatever_is_typed_what_is_replaced_stands_before_the_cursor(
    text: str, cursor: int, is_cell: bool
) -> None:
    """IPython asserts just this, and a matcher that raises spoils the cell."""
    text = f"%%gptbatch {text}" if is_cell else text
    one = complete(text, cursor, KNOWN)
    if one is not None:
        assert text[: max(0, cursor)].endswith(one.typed)
        assert all(candidate.text for candidate in one.candidates)


ODD = ["true", "none", "not", "row", "__row", "if", "a\\nb", "it's", "x²", "q}}", "a\nb", "", "é"]


@pytest.mark.parametrize("before", ["{{ ", "{{ row.", "{{ row['", '{{ row["'])
def test_what_is_offered_as_a_column_is_one_to_the_template(before: str) -> None:
    """Each name in the form that reads it: a bare word may be one of the language's own."""
    known = Known(columns=lambda expression: some(*ODD))
    text = f"%%gptbatch reviews\n{before}"
    one = complete(text, len(text), known)
    assert one is not None
    names = [each.text for each in one.candidates]
    offered = names[: -1 if before == "{{ " else -2 if before == "{{ row." else None]
    assert len(offered) >= len(ODD) - (1 if before != "{{ row." else 8), offered
    for name in offered:
        body = f"{before}{name} }}}}"
        assert len(compile_template(body, columns=ODD).columns) == 1, body


@pytest.mark.parametrize(
    "text",
    [
        "%%gptbatch {word}",
        "%%gptbatch {word}!",
        "%%gptbatch reviews -m {word}",
        "%%gptbatch reviews -s 'x: {word}",
        "%%gptbatch reviews\n{{{{ {word}",
        "%%gptbatch reviews\n{{{{ {word}!",
        "%gptbatch take {word}",
        "{word} = %gptbatch take ",
    ],
)
@pytest.mark.parametrize("part", ["x", "a[0].", "a, ", " "])
def test_a_word_without_an_end_keeps_nobody_waiting(text: str, part: str) -> None:
    """A text that was pasted in the wrong place is no reason to lose the kernel."""
    text = text.format(word=part * 50_000)
    began = time.monotonic()
    complete(text, len(text), KNOWN)
    assert time.monotonic() - began < 2


# -- in a kernel ----------------------------------------------------------------------------

SETUP = """%load_ext batch_magic
import pandas as pd, numpy as np
from pydantic import BaseModel
class Label(BaseModel):
    label: str
codebook = "a, b"
class Untouched:
    def __getattr__(self, name): raise RuntimeError("a value was read")
reviews = pd.DataFrame({"title": ["a"], "본문": ["b"], "any name": [1]})
guarded = pd.DataFrame({"text": [Untouched()]}, dtype=object)
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel with the extension, a few names and one ended run."""
    folder = tmp_path_factory.mktemp("project")
    fast = {"BATCH_MAGIC_SANDBOX_TIME_SCALE": "100", "BATCH_MAGIC_POLL_FIRST_S": "0.1"}
    with kernel(folder, fast) as running:
        assert running.run(SETUP).error is None
        cell = "%%gptbatch reviews -o labelled -m my-own-model --on sandbox --wait\n{{ title }}"
        assert running.run(cell).error is None
        yield running
    from batch_magic.sandbox import launcher

    launcher.stop(folder / ".gptbatch" / "sandbox")


def answer(notebook: Kernel, text: str) -> tuple[list[str], str, list[str]]:
    """What the kernel says to Tab at ¦: the matches, what they replace, and their types."""
    at = text.index("¦")
    code = text.replace("¦", "", 1)
    client = notebook._client
    client.complete(code, at)
    content = client.get_shell_msg(timeout=30)["content"]
    assert content["status"] == "ok"
    told = content["metadata"].get("_jupyter_types_experimental", [])
    types = [one["type"].replace("\u00a0", " ") for one in told]
    return content["matches"], code[content["cursor_start"] : content["cursor_end"]], types


def test_a_kernel_offers_frames_with_their_size_and_nothing_else(notebook: Kernel) -> None:
    """Magics and files, which IPython would offer here, are no frames."""
    matches, replaced, types = answer(notebook, "%%gptbatch ¦\n{{ title }}")
    assert matches == ["reviews", "guarded", "labelled"]
    assert replaced == ""
    assert types[0] == "frame, 1 row × 3"


def test_a_kernel_offers_columns_after_korean_text(notebook: Kernel) -> None:
    """Offsets are characters, whatever a page counts."""
    matches, replaced, types = answer(
        notebook, "%%gptbatch reviews -m m\n리뷰 🦙 {{ title }}\n본문은 {{ 본¦ }}"
    )
    assert (matches, replaced) == (["본문"], "본")
    assert types[0].startswith("column, ")


def test_a_kernel_offers_models_runs_and_schemas_it_knows(notebook: Kernel) -> None:
    """Those used here come first, with what is listed behind them."""
    models, _, types = answer(notebook, "%%gptbatch reviews -m ¦")
    assert models[0] == "my-own-model"
    assert "gpt-5-mini" in models
    assert "out per million tokens by batch" in types[models.index("gpt-5-mini")]
    assert answer(notebook, "%gptbatch show ¦")[0] == ["labelled"]
    assert answer(notebook, "%gptbatch explore ¦")[0] == ["labelled", "reviews", "guarded"]
    assert answer(notebook, "%%gptbatch reviews -s ¦")[0] == ["Label"]
    assert answer(notebook, "%%gptbatch reviews --with co¦")[0] == ["codebook"]


def test_a_kernel_offers_filters_and_tests_with_what_they_do(notebook: Kernel) -> None:
    """Those of the prompt language, not all of Jinja's: `random` has no place in a request."""
    filters, _, types = answer(notebook, "%%gptbatch reviews\n{{ title | ¦")
    assert {"lower", "truncate", "tojson"} <= set(filters)
    assert "random" not in filters
    assert types[filters.index("lower")] == "Convert a value to lowercase"
    assert "name" not in types, "what is said of a thing that nobody has described"
    assert "none" in answer(notebook, "%%gptbatch reviews\n{% if title is ¦")[0]
    assert "range(" in answer(notebook, "%%gptbatch reviews\n{% for n in ran¦")[0]


def test_a_frame_is_never_looked_into(notebook: Kernel) -> None:
    """Not for its columns, and an expression is not run."""
    assert answer(notebook, "%%gptbatch guarded\n{{ te¦")[0] == ["text"]
    assert answer(notebook, "%%gptbatch guarded.head(1/0)\n{{ te¦")[0] == ["text"]


def test_a_variable_of_a_strange_class_takes_nothing_away(notebook: Kernel) -> None:
    """A proxy without its server raises or waits in whatever it is asked; it is asked nothing."""
    strange = """
import time
asked = []
class Proxy:
    @property
    def __class__(self): asked.append("class"); time.sleep(1); raise RuntimeError("no server")
class Meta(type):
    def __getattr__(cls, name): asked.append(name); raise RuntimeError(name)
class Odd(metaclass=Meta): pass
class Shelf(dict):
    def keys(self): asked.append("keys"); raise RuntimeError("no file")
class Lazy(pd.DataFrame):
    @property
    def shape(self): asked.append("shape"); raise RuntimeError("not yet")
    def __len__(self): asked.append("len"); raise RuntimeError("not yet")
proxy, shelf, lazy = Proxy(), Shelf(a=1), Lazy({"a": [1]})
"""
    assert notebook.run(strange).error is None
    try:
        began = time.monotonic()
        assert answer(notebook, "%%gptbatch ¦")[0] == ["reviews", "guarded", "labelled", "lazy"]
        assert answer(notebook, "%%gptbatch reviews -s ¦")[0] == ["Label"]
        assert {"proxy", "codebook"} <= set(answer(notebook, "%%gptbatch reviews --with ¦")[0])
        assert answer(notebook, "%%gptbatch lazy\n{{ ¦")[0][0] == "a"
        assert time.monotonic() - began < 1
        assert notebook.run("print(asked)").printed.strip() == "[]"
    finally:
        notebook.run("del proxy, shelf, lazy, Proxy, Meta, Odd, Shelf, Lazy")


def test_a_column_that_no_text_names_is_not_offered(notebook: Kernel) -> None:
    """The template finds a text alone, and one column by it."""
    labels = "[5, ('t', 1), 'twice', 'twice', 'once', '한국']"
    notebook.run(f"odd = pd.DataFrame([range(6)], columns=pd.Index({labels}, tupleize_cols=False))")
    try:
        assert answer(notebook, "%%gptbatch odd\n{{ ¦")[0][:3] == ["once", "한국", "row"]
    finally:
        notebook.run("del odd")


def test_other_cells_are_completed_as_ever(notebook: Kernel) -> None:
    """Tab in Python is Python's."""
    assert "codebook" in answer(notebook, "codeb¦")[0]
    assert "%%gptbatch" in answer(notebook, "%%gptba¦")[0]


def test_completion_is_quick(notebook: Kernel) -> None:
    """A wait at Tab is felt from a tenth of a second on."""
    spent = []
    for text in ("%%gptbatch ¦", "%%gptbatch reviews -m ¦", "%%gptbatch reviews\n{{ t¦"):
        began = time.monotonic()
        answer(notebook, text)
        spent.append(time.monotonic() - began)
    print("seconds:", [f"{one:.4f}" for one in spent])
    code = (
        "import time\n"
        "from IPython.core.completer import CompletionContext\n"
        "matcher = get_ipython().Completer.custom_matchers[0]\n"
        "def took(text):\n"
        "    lines = text.split('\\n')\n"
        "    context = CompletionContext(token='', full_text=text, cursor_position=len(lines[-1]),"
        " cursor_line=len(lines) - 1, limit=500)\n"
        "    began = time.perf_counter(); matcher(context); return time.perf_counter() - began\n"
        "many = {f'name_{n}': n for n in range(5000)}; globals().update(many)\n"
        "wide = pd.DataFrame(np.zeros((2, 3000)), columns=[f'c{n}' for n in range(3000)])\n"
        "print(max(min(took(t) for _ in range(5)) for t in ('%%gptbatch ', '%%gptbatch wide\\n{{ ',"
        " '%%gptbatch reviews -m ', '%gptbatch show ', '%%gptbatch reviews\\n{{ a | ')))"
    )
    seen = notebook.run(code)
    print("slowest matcher, seconds:", seen.printed.strip())
    assert float(seen.printed) < 0.05


def test_unloading_takes_completion_away(tmp_path: Path) -> None:
    """Nothing of ours is left in the shell."""
    with kernel(tmp_path) as running:
        running.run("%load_ext batch_magic\n%reload_ext batch_magic")
        count = "print(len(get_ipython().Completer.custom_matchers))"
        assert running.run(count).printed.strip() == "1"
        running.run("%unload_ext batch_magic")
        assert running.run(count).printed.strip() == "0"
