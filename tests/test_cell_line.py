"""The magic's line: words, options, values."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_magic.cell_line import cell_parser, duration_s, parse_cell, split
from batch_magic.errors import BatchMagicError, CellError


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("reviews -o out", ["reviews", "-o", "out"]),
        ("reviews[reviews.lang == 'ko'] -o x", ["reviews[reviews.lang == 'ko']", "-o", "x"]),
        ("\"reviews.query('a > 1')\" -o x", ["reviews.query('a > 1')", "-o", "x"]),
        ('-p stop=["a", "b"]', ["-p", 'stop=["a", "b"]']),
        ("-m '{{ model }}'", ["-m", "{{ model }}"]),
        ("-p x='a b'", ["-p", "x='a b'"]),
        ("", []),
    ],
)
def test_blanks_inside_quotes_and_brackets_do_not_split(line: str, words: list[str]) -> None:
    """An expression or a JSON value needs no quoting of its own."""
    assert split(line) == words


def test_underscores_are_accepted_for_hyphens() -> None:
    """People write options as they write names."""
    assert parse_cell("r --dry_run --on_clash replace").dry_run
    assert parse_cell("r --on_clash=replace").on_clash == "replace"


def test_param_values_are_json_or_text() -> None:
    """Numbers are numbers, words are words, and quotes around a text are not part of it."""
    params = parse_cell(
        """r -p temperature=0 -p effort=low -p a=[1,2] -p t="0" -p s='x y'"""
    ).params
    assert params == {"temperature": 0, "effort": "low", "a": [1, 2], "t": "0", "s": "x y"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("3h", 10_800), ("1h30m", 5_400), ("1d", 86_400)],
)
def test_durations(text: str, seconds: float) -> None:
    """As the interface writes them."""
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "h", "3x", "-1h", "1.5h", "9" * 5_000 + "s"])
def test_other_durations_are_refused(text: str) -> None:
    """A bare number could be anything."""
    with pytest.raises(CellError, match="no duration"):
        duration_s(text)


def test_two_frames_are_one_word_too_many() -> None:
    """The likeliest cause is a blank in an expression."""
    with pytest.raises(CellError, match="quote it"):
        parse_cell("reviews old -o x")


def test_values_beyond_any_number_are_text_or_refused() -> None:
    """What Python's own parser will not read is no reason for a traceback."""
    deep, long = "[" * 100_000, "9" * 5_000
    assert parse_cell(f"f -p a={long}").params == {"a": long}
    assert parse_cell(f"f -p a='{deep}'").params == {"a": deep}
    with pytest.raises(CellError, match="whole number"):
        parse_cell(f"f --retries {long}")


@given(st.text(max_size=80))
def test_any_line_is_read_or_refused(line: str) -> None:
    """No line, however odd, raises anything but our own error."""
    with contextlib.suppress(BatchMagicError):
        parse_cell(line)


def test_every_option_has_help() -> None:
    """`--help` is the table of the interface."""
    assert all(action.help for action in cell_parser()._actions)
