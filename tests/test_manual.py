"""The manual: every option once, every verb with a page, no line wider than a tooltip."""

from __future__ import annotations

import ast
import inspect
import re

import pytest

from batch_magic import magic, manual
from batch_magic.cell_line import cell_parser, usage_of
from batch_magic.magic import VERBS, GPTBatch


def test_every_option_stands_in_one_group() -> None:
    """One that nobody sorted in would be in no help."""
    listed = [dest for dests in manual.GROUPS.values() for dest in dests]
    assert len(listed) == len(set(listed))
    assert set(listed) == {option.dest for option in cell_parser().taken()}
    page = manual.cell_help(VERBS)
    assert [name for one in cell_parser().taken() for name in one.names if name not in page] == []


def test_every_verb_is_told_in_full() -> None:
    """By a page of the manual, or by the docstring of what does it."""
    bare = [verb for verb in VERBS if not manual.has_page(verb)]
    assert [v for v in bare if not (getattr(GPTBatch, f"_do_{v}").__doc__ or "").strip()] == []
    for verb, told in VERBS.items():
        page = manual.verb_help(verb, told, "More of it.")
        assert page.startswith(f"%gptbatch {verb}")
        assert len(page.split("\n\n")) >= 3


OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def taken(verb: str) -> set[str]:
    """Return the options that the code of a verb asks for."""
    does = {"wait": "_waited_for"}.get(verb, f"_do_{verb}")
    tree = ast.parse(inspect.getsource(magic))
    found = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name == does]
    texts = [one.value for one in ast.walk(found[0]) if isinstance(one, ast.Constant)]
    return {one for one in texts if isinstance(one, str) and OPTION.fullmatch(one)}


def explained(verb: str) -> set[str]:
    """Return the options that a verb's page tells of in prose; what other verbs take is code."""
    page = manual.verb_help(verb, VERBS[verb]).partition("\n\n")[2]
    prose = [part for part in page.split("\n\n") if not part.startswith("    ")]
    return set(OPTION.findall(re.sub(r"`%[^`]*`", "", " ".join(prose))))


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_what_it_shows_and_explains_what_it_takes(verb: str) -> None:
    """An option in the first line that no sentence tells of is as good as none, and the reverse."""
    shown = set(OPTION.findall(usage_of(VERBS[verb])[0]))
    assert shown == taken(verb)
    assert shown == explained(verb)


def test_every_verb_stands_alone_in_the_table_with_what_it_is_about() -> None:
    """Nobody reads the line above, and a verb without its NAME is typed without one."""
    table = manual.verbs_help(VERBS).splitlines()
    for verb, told in VERBS.items():
        usage, gloss = usage_of(told)
        line = next(one for one in table if one.startswith(f"%gptbatch {verb} "))
        assert ("NAME" in line) is ("NAME" in usage), verb
        assert not {"it", "the same", "their", "these"} & set(re.findall(r"the same|\w+", gloss))


def test_no_line_is_wider_than_a_tooltip() -> None:
    """JupyterLab breaks what is wider, in the middle of an option's column."""
    pages = [manual.cell_help(VERBS), *(manual.verb_help(*one) for one in VERBS.items())]
    assert [line for page in pages for line in page.splitlines() if len(line) > 90] == []


def test_both_magics_show_the_manual() -> None:
    """A page that asks about `gptbatch` finds the line's; both tell all."""
    for one in (GPTBatch.gptbatch, GPTBatch.gptbatch_line):
        assert one.__doc__ == manual.cell_help(VERBS)
        assert one.__doc__.count("    %%gptbatch ") == 3
