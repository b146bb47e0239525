"""A cell's body: messages, names, missing values, and the plan that must equal Jinja."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batch_magic.cell_body import almost_role_lines
from batch_magic.errors import TemplateError
from batch_magic.records import Chunk, Message, Rendered, Slot, Value
from batch_magic.template import compile_template

COLUMNS: dict[Hashable, list[object]] = {
    "title": ["A", "B", None],
    "body": ["x", None, None],
    "stars": [1, 2.5, None],
}


def rendered(
    body: str, columns: Mapping[Hashable, Sequence[object]] = COLUMNS, start: int = 0, **kwargs: Any
) -> Rendered:
    size = len(next(iter(columns.values()), "ab"))
    template = compile_template(body, columns=tuple(columns), frame_name="reviews", **kwargs)
    return template.render(Chunk(start, size, columns, [f"i{n}" for n in range(size)]))


def prompts(
    body: str, columns: Mapping[Hashable, Sequence[object]] = COLUMNS, **kwargs: Any
) -> list[list[str]]:
    """For each row sent, the text of each message."""
    template = compile_template(body, columns=tuple(columns), frame_name="reviews", **kwargs)
    found = rendered(body, columns, **kwargs)
    return [
        [
            "".join(found.slots[p.n][i] if isinstance(p, Slot) else p for p in message.pieces)
            for message in template.messages
        ]
        for i in range(len(found.positions))
    ]


def refusal(body: str, columns: Mapping[Hashable, Sequence[object]] = COLUMNS, **kw: Any) -> str:
    with pytest.raises(TemplateError) as caught:
        rendered(body, columns, **kw)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_role_lines_start_messages() -> None:
    """The example of the interface: two roles, the trailing newline of the cell gone."""
    template = compile_template(
        "system:\nYou label.\nuser:\n{{ title }}\n{{ body }}\n", columns=["title", "body"]
    )
    assert template.messages == (
        Message("system", ("You label.",)),
        Message("user", (Slot(0), "\n", Slot(1))),
    )
    assert template.columns == ("title", "body")
    assert not template.reads_index


def test_without_role_line_all_is_one_user_message() -> None:
    """The plain case needs no ceremony."""
    assert compile_template("Hi {{ a }}", columns=["a"]).messages == (
        Message("user", ("Hi ", Slot(0))),
    )


def test_only_leading_blank_lines_and_last_line_end_are_dropped() -> None:
    """White space that a user typed inside a prompt is theirs."""
    assert prompts("\n  \n  a {{ title }} \n\n\n")[0] == ["  a A \n\n"]
    assert prompts("system:\n\n\ns\n\nuser:\n {{ title }}")[0] == ["s\n", " A"]


def test_few_shot_and_escaped_role_line() -> None:
    """Roles may repeat; a backslash makes the line plain text."""
    body = "user:\none\nassistant:\ntwo\nuser:\n\\assistant:\n{{ title }}"
    assert prompts(body)[0] == ["one", "two", "assistant:\nA"]


@pytest.mark.parametrize("line", ["System:", "user :", "  assistant:", "USER：", "user: \t"])
def test_what_looks_like_a_role_line_is_told_of(line: str) -> None:
    """It is sent as text, which its writer may not have meant."""
    said = list(almost_role_lines(f"{{{{ title }}}}\r\n{line}\nuser: hello"))
    assert bool(said) is (line.strip() != "user:")
    assert all("template line 2" in each for each in said)


def test_role_line_inside_a_comment_is_no_role_line() -> None:
    """Commenting a part out must not cut the prompt."""
    assert prompts("{# old:\nsystem:\n#}\nuser:\n{{ title }}")[0] == ["A"]
    assert prompts("{% raw %}\nuser:\n{% endraw %}{{ title }}")[0] == ["\nuser:\nA"]


def test_text_above_the_first_role_line_is_refused() -> None:
    """It would belong to no message."""
    assert "(template line 1)" in refusal("Hello\nsystem:\nx\nuser:\n{{ title }}")


def test_braces_are_text() -> None:
    """JSON examples need no escaping."""
    assert prompts('{"a": {"b": 1}} % {x} {{ title }}')[0] == ['{"a": {"b": 1}} % {x} A']


def test_unknown_column_names_line_and_neighbour() -> None:
    """The message promised by the interface, word for word."""
    assert refusal("Hi\n{{ titel }}") == (
        "column 'titel' is not in reviews (template line 2); did you mean 'title'?"
    )
    assert "(template line 4); did you mean 'title'?" in refusal(
        "system:\ns\nuser:\n{% if row['titel'] %}x{% endif %}{{ body }}"
    )
    assert "--with codebook" in refusal("{{ codebook }} {{ title }}")
    assert "did you mean 'title'?" in refusal("{{ Title|upper }}")


DOUBLED = (
    "{{% set space = namespace(x='a' * 1000) %}}"
    "{{% for i in range(30) %}}{{% set space.x = space.x {} space.x %}}{{% endfor %}}"
    "{{{{ title }}}}"
)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "the template is empty"),
        ("\n  \n", "the template is empty"),
        ("constant", "reads no column"),
        ("system:\nuser:\n{{ title }}", "the system message is empty (template line 2)"),
        ("a\n{{ title", "(template line 2)"),
        ("{{ title|shout }}", "No filter named 'shout'"),
        ("{% include 'x' %}{{ title }}", "no loader"),
        ("{% set row = 1 %}{{ title }}", "'row' stands for the whole row"),
        (
            "system:\nx\n![p]({{ title }})\nuser:\n{{ title }}",
            "an image belongs into a user message (template line 3)",
        ),
        ("{{ title.__class__ }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}{{ title }}", "unsafe"),
        ("{{ title }}{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
        ("{{ title * 10**9 }}", "a repetition beyond"),
        ("{{ stars ** 1000000000 }}", "a number of more than"),
        ("{{ ((9 ** 1000) ** 1000) ** 1000 }}", "a number of more than"),
        ("{{ title.ljust(300000000) }}", "a width beyond"),
        ("{{ '%300000000d' | format(1) }}", "a width beyond"),
        ("{{ '%*d' % (300000000, 1) }}", "a width beyond"),
        ("{{ '{:>300000000}'.format(title) }}", "a width beyond"),
        ("{{ title | center(300000000) }}", "a width beyond"),
        ("{{ title | indent(300000000) }}", "a width beyond"),
        ("{{ title | center(width=300000000) }}", "a width beyond"),
        ("{{ '{:{}}'.format(title, 300000000) }}", "a width beyond"),
        ("{{ title.encode().center(300000000) }}", "a width beyond"),
        ("{{ 5.to_bytes(300000000) }}", "template line 1"),
        ("{{ (['a' * 1000] * 1000000) | join }}", "more than 200,000,000 characters"),
        ("{{ title.upper }}", "upper is no value; write upper()"),
        ("{{ [title] | map('upper') }}", "write | list or | join behind it"),
        ("{{ ('a' * 100000).replace('a', 'b' * 100000) }}", "more than 200,000,000 characters"),
        ("{{ ('a' * 100000) | replace('a', 'b' * 100000) }}", "more than 200,000,000 characters"),
        ("{{ ('a' * 100000).join('b' * 100000) }}", "more than 200,000,000 characters"),
        ("{{ ('b' * 100000) | join('a' * 100000) }}", "more than 200,000,000 characters"),
        (DOUBLED.format("~"), "more than 200,000,000 characters"),
        (DOUBLED.format("+"), "more than 200,000,000 characters"),
        ("{{ title }}\n{{ stars / 0 }}", "row 0: ZeroDivisionError: division by zero"),
        ("{{ title }}\n{{ title.nothing }}", "(template line 2)"),
        ("{{ title }}{{ __column_0 }}", "'__column_0' is taken by batch_magic"),
        ("{{ title" + "|upper" * 5_000 + " }}", "nested too deeply"),
    ],
)
def test_what_cannot_be_sent_stops_with_its_reason(body: str, said: str) -> None:
    """Each mistake is one line, before anything is sent."""
    assert said in refusal(body)


INTERNALS = [
    "{{ title.__class__ }}",
    "{{ title['__class__'] }}",
    "{{ title|attr('__class__') }}",
    "{{ title|string|attr('__class__') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ title }}",
    "{{ '{0.__class__.__mro__}'.format(title) }}",
    "{{ ('{0.__cla' ~ 'ss__}').format(title) }}",
    "{{ ('{0.__class__}'|safe).format(title) }}",
    "{{ '{x.__class__}'.format_map({'x': title}) }}",
    "{{ [title]|map(attribute='__class__')|list }}",
    "{{ [title]|map('attr', '__class__')|first }}",
    "{{ [{'k': title}]|map(attribute='k.__class__')|list }}",
    "{{ [title]|groupby('__class__')|list }}",
    "{{ [title]|sum(attribute='__class__') }}",
    "{{ [title]|selectattr('__class__')|list }}",
    "{{ title.upper.__self__.__class__ }}",
    "{{ title.upper.__func__ }}",
    "{{ title.format.__globals__ }}",
    "{{ cycler.__init__.__globals__ }}{{ title }}",
    "{{ joiner.__init__.__globals__ }}{{ title }}",
    "{{ namespace.__init__.__globals__ }}{{ title }}",
    "{{ self._TemplateReference__context }}{{ title }}",
    "{% for each in [title] %}{{ loop._iterator }}{% endfor %}",
    "{% for each in [title] %}{{ loop.__class__ }}{% endfor %}",
    "{% macro m() %}{{ title }}{% endmacro %}{{ m._func }}",
    "{{ ([title]|map('upper')).gi_frame.f_globals }}",
    "{{ ([title]|map('upper')).gi_code }}",
    "{{ dict.mro() }}{{ title }}",
    "{{ row._values }}",
    "{{ row|attr('_values') }}",
    "{{ row.items.__func__.__globals__ }}",
    "{{ missing._absorb.__globals__ }}{{ title }}",
    "{{ missing|attr('__class__') }}{{ title }}",
    "{{ lipsum.__globals__ }}{{ title }}",
    "{% import 'os' as os %}{{ title }}",
    "{% set ns = namespace(a=1) %}{% set ns.__class__ = 1 %}{{ title }}",
    "{{ [].append(title) }}",
    "{{ title }}{{ range(10**9)|list }}",
]


@pytest.mark.parametrize("body", INTERNALS)
def test_a_template_does_not_get_out_of_its_language(body: str) -> None:
    """It may have come with somebody's notebook: each attempt is refused, or gives nothing."""
    columns = {"title": ["A"], "missing": [None]}
    try:
        ((told,),) = prompts(body, columns)
    except TemplateError:
        return
    assert not re.search(r"<class|<function|<code|<frame|object at 0x|jinja2|builtins", told)


@pytest.mark.parametrize(
    ("body", "written"),
    [
        ("{{ '{:,}'.format(8000000) }}", "8,000,000"),
        ("{{ '%d' % 12345678 }} {{ '%s (%s)' % (title, 8000000) }}", "12345678 A (8000000)"),
        ("{{ '%d' | format(12345678) }}", "12345678"),
        ("{{ 'Ticket 20261122: %s' % title }}", "Ticket 20261122: A"),
        ("{{ 'call 5551234567 re {}'.format(title) }}", "call 5551234567 re A"),
        ("{{ '{a:>3}|{b!r}'.format(a=title, b=1) }}", "  A|1"),
        ("{{ '{:{w}}|'.format(title, w=3) }}", "A  |"),
        ("{{ title.find('y', 0, 99999999) }}", "-1"),
        ("{{ [1, 2] | batch(10000000) | list }}", "[[1, 2]]"),
        ("{{ title | wordwrap(10000000) }}", "A"),
        ("{{ [title, none, 'b'] | join(', ') }}", "A, , b"),
        ("{{ ', '.join([title, 'b']) }}", "A, b"),
        ("{{ title ~ 1 ~ body ~ none }}", "A1x"),
        ("{{ 'a' + title }}{{ 2 + 3 }}", "aA5"),
        ("{{ 'aXb'.replace('X', title) }}", "aAb"),
        ("{{ title | center(5) }}|", "  A  |"),
        ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
        ("{{ (10 ** 20) }}", "100000000000000000000"),
        ("{% for a in range(3) %}{{ loop.index }}/{{ loop.length }} {% endfor %}", "1/3 2/3 3/3 "),
        ("{% for a, b in {'k': 1}.items() if b %}{{ a }}{{ loop.last }}{% endfor %}", "kTrue"),
        ("{% for a in [] %}x{% else %}none{% endfor %}", "none"),
    ],
)
def test_ordinary_templates_mean_what_they_mean_in_jinja(body: str, written: str) -> None:
    """Bounds are for what fills the memory; numbers with many digits are just numbers."""
    assert prompts(body + "{{ title[:0] }}")[0] == [written]


def test_loops_within_loops_come_to_an_end() -> None:
    """Each alone is bounded by Jinja; four of them would hold the cell for years."""
    loops = "".join(f"{{% for {name} in range(99999) %}}" for name in "abcd")
    body = "{{ title }}" + loops + "{% endfor %}" * 4
    with pytest.raises(TemplateError, match="more than 1,000,000 turns of loops"):
        prompts(body)


def parts_of(body: str, columns: Mapping[Hashable, Sequence[object]]) -> list[Any]:
    """The content of the only message of each row, and of those that cannot be sent why."""
    template = compile_template(body, columns=list(columns))
    size = len(next(iter(columns.values())))
    rendered = template.render(Chunk(0, size, columns))
    found: list[Any] = [None] * size
    for n, values in zip(rendered.positions, rendered.slots[0], strict=True):
        found[n] = values
    for n, said in rendered.unsendable:
        found[n] = said
    return found


def test_an_image_is_a_line_of_its_own() -> None:
    """Texts before, between and behind; a row without the image keeps its text."""
    body = "Look at\n![a]({{ one }})\n\n  ![b](https://a.org/{{ two }}.png)  \nand tell."
    columns = {"one": ["http://x/1", None], "two": ["é", 2]}
    assert parts_of(body, columns) == [
        (
            ("text", "Look at"),
            ("image", "http://x/1"),
            ("image", "https://a.org/é.png"),
            ("text", "and tell."),
        ),
        (("text", "Look at"), ("image", "https://a.org/2.png"), ("text", "and tell.")),
    ]


def test_an_array_is_passed_on_and_not_looked_into() -> None:
    """It stands for its image; a template neither asks its truth nor changes it."""
    shot = np.zeros((4, 4, 3), np.uint8)
    columns: dict[Hashable, Sequence[object]] = {"p": [shot], "l": [np.array([1, 2])]}
    for body in (
        "{% if p %}![a]({{ p }}){% endif %}",
        "![a]({{ p or 'http://x/y' }})",
        "![a]({{ [p][0] }})\n{% if l %}{{ l + l }}{% endif %}",
        "{% for one in [p] %}![a]({{ one }}){% endfor %}",
    ):
        (parts,) = parts_of(body, columns)
        assert parts[0][1].startswith("data:image/png")
    with pytest.raises(TemplateError, match="no attribute 'fill'"):
        parts_of("![a]({{ p }})\n{{ p.fill(7) }}", columns)
    for written in ("{{ p }}", "{{ [p] }}", "{{ p ~ 'x' }}"):
        with pytest.raises(TemplateError, match="an array is no text"):
            parts_of("![a]({{ p }})\n" + written, columns)
    assert not shot.any()


def test_an_image_that_is_set_and_not_used_is_not_sent() -> None:
    """And one that is used twice is sent twice."""
    block = "{% set a %}\n![x]({{ p }})\n{% endset %}\n"
    columns = {"p": ["http://x/p"] * 2, "n": [0, 2]}
    none, two = parts_of(block + "say {% for _ in range(n) %}{{ a }}{% endfor %}", columns)
    assert [[kind for kind, _ in parts].count("image") for parts in (none, two)] == [0, 2]


def test_images_keep_the_places_where_they_are_written() -> None:
    """A block may be filled before it is used."""
    blocks = "".join(
        f"{{% set {n} %}}\n![x]({{{{ {c} }}}})\n{{% endset %}}\n" for n, c in ("ap", "bq")
    )
    columns = {"p": ["http://x/p"], "q": ["http://x/q"], "text": ["t"]}
    (parts,) = parts_of(blocks + "first {{ b }} second {{ a }} {{ text }}", columns)
    assert [one for kind, one in parts if kind == "image"] == ["http://x/q", "http://x/p"]


@pytest.mark.parametrize(
    "body",
    [
        "![a]({{ p }}) and ![b]({{ p }})",
        "![a]({{ p }}) what is this?",
        "- ![a]({{ p }})",
    ],
)
def test_an_image_among_words_is_refused(body: str) -> None:
    """As text it would be paid for and mean nothing."""
    assert "an image has a line of its own (template line 2)" in refusal(
        "{{ p }}\n" + body, {"p": ["x"]}
    )


def test_an_image_that_is_left_out_by_its_expression_is_missing() -> None:
    """As a missing value is; an address with a title behind it is none."""
    columns = {"p": ["http://x/p", "http://x/q"], "ok": [True, False]}
    one, two = parts_of("Say\n![a]({{ p if ok }})", columns)
    assert [kind for kind, _ in one] == ["text", "image"]
    assert two == (("text", "Say"),)
    (said, _) = parts_of('Say\n![a]({{ p }} "title")', columns)
    assert "holds white space" in said


def test_images_may_stand_in_loops_and_conditions() -> None:
    """A row may have as many as it has."""
    body = "{% for one in shots %}\n![a]({{ one }})\n{% endfor %}\n{% if yes %}Yes{% endif %}"
    columns = {"shots": [["http://x/1", "http://x/2"], []], "yes": [True, True]}
    one, two = parts_of(body, columns)
    assert [kind for kind, _ in one] == ["image", "image", "text"]
    assert two == (("text", "Yes"),)


def test_an_image_that_cannot_be_read_fails_its_row_alone() -> None:
    """The others are sent."""
    columns = {"one": [b"nothing", "http://x/1"], "text": ["a", "b"]}
    bad, good = parts_of("{{ text }}\n![a]({{ one }})", columns)
    assert "it is no image" in bad
    assert good == (("text", "b"), ("image", "http://x/1"))


def test_what_only_looks_like_an_image_is_text() -> None:
    """In raw text, behind a backslash, and with nothing of the row in it."""
    raw = "{% raw %}\n![a]({{ x }})\n{% endraw %}"
    inline = "see \\![a]({{ title }}) there"
    for body in (raw, inline, "\\![a]({{ title }})", "![a](b.png)"):
        (seen, *_) = prompts(body + "\n{{ title[:0] }}")
        assert "![a](" in seen[0]
        assert "\\" not in seen[0]


def test_a_text_with_our_mark_in_it_cannot_move_an_image() -> None:
    """It comes with the data; the row fails and says so."""
    (said,) = parts_of("{{ text }}\n![a]({{ one }})", {"one": ["http://x"], "text": ["\0007\0"]})
    assert "the mark that stands for an image" in said


def own(columns: Mapping[Hashable, Sequence[object]], **given: Any) -> Any:
    """Compile a template whose model or parameters are each row's own, and fill it."""
    template = compile_template("{{ x }}", columns=["x", *columns], **given)
    size = len(next(iter(columns.values())))
    return template, template.render(Chunk(0, size, {"x": ["t"] * size, **columns}))


def test_a_value_of_a_row_keeps_its_type() -> None:
    """Numbers, truth, lists and texts as they are; a text of several pieces is read as JSON."""
    values = [0.5, 1, True, "0.5", ["a"], None, float("nan"), np.float64(2)]
    template, rendered = own({"v": values}, params={"one": "{{ v }}", "two": ["{{ v }}0"]})
    assert template.params == {"one": Value(1), "two": [Value(2)]}
    assert rendered.slots[1] == ["0.5", "1", "true", '"0.5"', '["a"]', "", "", "2"]
    assert rendered.slots[2][:4] == ["0.5", "10", '"True0"', "0.5"]


def test_a_model_of_a_row_is_a_name() -> None:
    """Money is never spent on a model that nobody chose."""
    template, rendered = own({"m": ["a", " b "]}, model="ft:{{ m }}")
    assert rendered.slots[template.model] == ["ft:a", "ft: b"]
    for wrong, said in ((None, "gives no model"), ("", "gives no model"), (5, "gives 5, no name")):
        with pytest.raises(TemplateError, match=f"row 1: -m: it {said}"):
            own({"m": ["a", wrong]}, model="{{ m }}")


def test_a_wrong_name_in_a_model_or_parameter_says_where() -> None:
    """As in the body, with the option in front."""
    with pytest.raises(TemplateError, match=r"-m '\{\{ modle \}\}': column 'modle' is not in"):
        own({"model": ["a"]}, model="{{ modle }}")
    _, rendered = own({"m": ["\ud800"]}, params={"a": "{{ m }}"})
    assert rendered.slots[1] == ['"\\ud800"']
    _, rendered = own({"m": ["5"]}, model="{{ m }}{{ m }}")
    assert rendered.slots[1] == ["55"]  # a name, whatever it looks like
    with pytest.raises(TemplateError, match="-p a b"):
        own({"model": ["a"]}, params={"a": {"b": "{{ nothing }}"}})
    with pytest.raises(TemplateError, match=r"row 0: -p a: .*not JSON serializable"):
        own({"v": [b"bytes"]}, params={"a": "{{ v }}"})


def test_a_column_of_lists_is_a_list_of_inputs() -> None:
    """As one text it would be embedded with its brackets."""
    values = [["a", "b"], "c", ("d",), [], ["e", None], ["f", 1], ["g"] * 2049, None, 7]
    template = compile_template("{{ v }}\n", columns=["v"], lists=["v"])
    rendered = template.render(Chunk(0, len(values), {"v": values}))
    assert rendered.slots[0] == ['["a","b"]', '"c"', '["d"]', '"7"']
    assert rendered.skipped == [7]
    reasons = dict(rendered.unsendable)
    assert [reasons[n] for n in (3, 4, 5)] == [
        "it has 0 inputs, a request holds 1 to 2,048",
        "its input 1 is missing",
        "its input 1 is 1, no text",
    ]
    assert "2,049 inputs" in reasons[6]
    plain = compile_template("{{ v }}", columns=["v"], lists=["w"])
    assert isinstance(plain.messages[0].pieces[0], Slot)


def test_a_name_that_is_column_and_extra_is_refused() -> None:
    """Either could be meant, and one would be sent silently."""
    assert "--with" in refusal("{{ title }}", extras={"title": 1})


def test_extras_render_and_are_constant() -> None:
    """A notebook variable given by --with costs nothing per row."""
    template = compile_template("{{ book|upper }} {{ a }}", columns=["a"], extras={"book": "b"})
    assert template.messages == (Message("user", ("B ", Slot(0))),)
    assert "reads no column" in refusal("{{ book }}", extras={"book": "b"})


def test_duplicate_column_is_refused_only_when_read() -> None:
    """Which of the two would be a guess; a frame with duplicates elsewhere is fine."""
    with pytest.raises(TemplateError, match="more than once"):
        compile_template("{{ a }}", columns=["a", "a", "b"])
    assert compile_template("{{ b }}", columns=["a", "a", "b"]).columns == ("b",)


@pytest.mark.parametrize("name", ["a b", "x.y", "{z}", "user", "if", "self", "range", "제목", "1"])
def test_any_string_name_is_reached_by_row(name: str) -> None:
    """Names that are no identifiers, keywords or Jinja's own are columns like others."""
    assert prompts(f'{{{{ row["{name}"] }}}}', {name: ["v"]}) == [["v"]]


def test_columns_that_are_equal_by_type_cannot_both_be_read() -> None:
    """True == 1: a dict would give one of them for both."""
    columns: dict[Hashable, list[object]] = {"a": [1]}
    template = "{{ row[true] }} {{ row[1] }}"
    with pytest.raises(TemplateError, match="cannot both be read"):
        compile_template(template, columns=[True, 1, *columns])


def test_names_that_are_no_strings() -> None:
    """Default column labels are integers, those of several levels tuples."""
    assert prompts("{{ row[0] }}{{ row['a', 'b'] }}", {0: ["v"], ("a", "b"): ["w"]}) == [["vw"]]


def test_columns_win_over_jinja_names() -> None:
    """A column called `range` is the user's."""
    columns: dict[Hashable, list[object]] = {"range": ["r"], "self": ["s"], "loop": ["l"]}
    assert prompts("{{ range }}{{ self }}{{ loop|upper }}", columns) == [["rsL"]]


def test_names_composed_otherwise_are_the_same() -> None:
    """Hangul from a Mac's file system looks the same and is."""
    assert prompts("{{ 제목 }}", {"\u110c\u1166\u1106\u1169\u11a8": ["v"]}) == [["v"]]


def test_position_index_and_the_whole_row() -> None:
    """`row` knows its place; used as a whole it reads every column."""
    found = rendered("{{ row.position }} {{ row.index }} {{ row.title }}", start=7)
    assert found.slots == (["7", "8"], ["i0", "i1"], ["A", "B"])
    template = compile_template("{% for k in row %}{{ row[k] }},{% endfor %}", columns=["a", "b"])
    assert template.columns == ("a", "b")
    assert template.render(Chunk(0, 1, {"a": ["x"], "b": [None]})).slots == (["x,,"],)
    assert compile_template("{{ row.position }}", columns=["a"]).columns == ()


def test_missing_is_nothing_whatever_is_done_to_it() -> None:
    """`nan` and `None` are never sent unasked."""
    columns = {"x": [None], "y": ["!"]}
    parts = (
        "{{ x }}{{ x|upper }}{{ x|round(2) }}{{ '%.2f'|format(x) }}{{ '%.1f' % x }}{{ x + 1 }}",
        "{{ x.year }}{{ x.strftime('%Y') }}{{ x[0] }}{{ x|length }}{% if x %}no{% endif %}",
        "{% if x > 3 %}no{% endif %}{% for i in x %}no{% endfor %}{{ x|float }}{{ -x }}",
    )
    assert prompts("".join(parts) + "{{ y }}", columns) == [["!"]]
    assert prompts("{{ x|default('d') }}{{ x is none }}{{ x|tojson }}{{ y }}", columns) == [
        ["dTruenull!"]
    ]


def test_rows_without_any_value_are_skipped_and_gaps_counted() -> None:
    """Nothing to send is not sent; a gap is sent and counted."""
    found = rendered("{{ title }}{{ body }}")
    assert list(found.positions) == [0, 1]
    assert list(found.skipped) == [2]
    assert found.missing_values == 1


def test_a_bare_column_may_come_as_utf8() -> None:
    """A frame that holds text as UTF-8 need not make strings of it."""
    template = compile_template("{{ a }}{{ b|upper }}{{ c }}", columns=["a", "b", "c"])
    assert template.bare == ("a", "c")
    texts = {"a": [b"x", None, None], "c": [b"y", b"z", None]}
    found = template.render(Chunk(5, 3, {"b": ["b", None, None]}, texts=texts))
    assert found.slots == ([b"x", b""], ["B", ""], [b"y", b"z"])
    assert (list(found.positions), list(found.skipped)) == ([5, 6], [7])
    assert found.missing_values == 1


def test_values_are_written_as_python_writes_them() -> None:
    """Numpy scalars leave no trace of numpy."""
    columns = {"v": [np.float64(1.5), np.int8(3), True, [np.float32(0.5)], {"k": np.int64(1)}]}
    assert [row[0] for row in prompts("{{ v }}", columns)] == [
        "1.5",
        "3",
        "True",
        "[0.5]",
        "{'k': 1}",
    ]
    assert prompts("{{ v }}{{ '' }}", columns)[0] == ["1.5"]


def test_bytes_are_no_text() -> None:
    """A guess at their encoding would be sent and paid for."""
    assert refusal("{{ a }}\n{{ b }}", {"a": ["x"], "b": [b"x"]}) == (
        "row 0: column 'b' cannot be written as text: TypeError: bytes are no text; "
        "decode them first (template line 2); mend the value, or use a filter"
    )


def test_a_row_that_fails_is_named_by_its_position() -> None:
    """Position counts from the frame's start, not the chunk's."""
    with pytest.raises(TemplateError, match=r"row 101: .*\(template line 1\)"):
        rendered("{{ 1 // n }}", {"n": [1, 0]}, start=100)


def test_json_is_not_escaped_for_the_web() -> None:
    """Jinja's tojson turns Korean and < into escapes, which cost tokens and clarity."""
    assert prompts("{{ v|tojson }}", {"v": [{"가": "<b>"}]}) == [['{"가": "<b>"}']]


NAMES = ["a", "b", "c"]
VALUES = st.one_of(
    st.none(), st.text(max_size=6), st.integers(), st.floats(allow_nan=False), st.booleans()
)
PIECES = st.one_of(
    st.text(alphabet="xy {}%\n\u2028한", max_size=5),
    st.sampled_from(
        [
            "{{ a }}",
            '{{ row["b"] }}',
            "{{ row.c }}",
            "{{ a|upper }}",
            "{{- b }}",
            "{{ c -}}",
            "{# no #}",
            "{% if a %}1{% endif %}",
            "{{ 'k' }}",
            "{{ row.position }}",
        ]
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=6), st.tuples(VALUES, VALUES, VALUES))
def test_the_plan_writes_what_jinja_writes(pieces: list[str], values: tuple[object, ...]) -> None:
    """Constants and slots are a shortcut, never another language."""
    body = "|" + "".join(pieces) + "{{ a }}|"
    if "{{{" in body or "}}}" in body or "{%}" in body:
        return  # a brace of the text that touches one of Jinja's is read otherwise
    row: dict[Hashable, Sequence[object]] = {n: [v] for n, v in zip(NAMES, values, strict=True)}
    plain = {
        name: "" if value is None else value for name, value in zip(NAMES, values, strict=True)
    }
    try:
        wanted = (
            ImmutableSandboxedEnvironment(keep_trailing_newline=True, undefined=StrictUndefined)
            .from_string(body)
            .render(plain, row={**plain, "position": 0})
        )
    except Exception:
        return  # no template
    template = compile_template(body, columns=NAMES)
    found = template.render(Chunk(0, 1, row))
    if found.skipped:
        assert all(row[name][0] is None for name in template.columns)
        return
    (message,) = template.messages
    text = "".join(found.slots[p.n][0] if isinstance(p, Slot) else p for p in message.pieces)
    assert text == wanted
