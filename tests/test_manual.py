"""The manual: every option once, every verb with a page, no line wider than a tooltip."""

from __future__ import annotations

from batch_magic import manual
from batch_magic.cell_line import cell_parser
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


def test_no_line_is_wider_than_a_tooltip() -> None:
    """JupyterLab breaks what is wider, in the middle of an option's column."""
    pages = [manual.cell_help(VERBS), *(manual.verb_help(*one) for one in VERBS.items())]
    assert [line for page in pages for line in page.splitlines() if len(line) > 90] == []


def test_both_magics_show_the_manual() -> None:
    """A page that asks about `gptbatch` finds the line's; both tell all."""
    for magic in (GPTBatch.gptbatch, GPTBatch.gptbatch_line):
        assert magic.__doc__ == manual.cell_help(VERBS)
        assert magic.__doc__.count("    %%gptbatch ") == 3
