"""The magic's line, taken apart: words, options, durations.

It knows how a line is split and what each option is, and refuses to know names of the notebook
or what an option leads to. Words are split at blanks outside quotes and brackets, so that
`reviews[reviews.lang == 'ko']` and `-p stop=["a", "b"]` need no quoting; quotes around a whole
word are taken off. The trap: the line must reach us as typed, `{…}` and `$…` included.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from batch_magic.errors import CellError

_OPEN, _CLOSE = "([{", ")]}"
_DURATION = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?")
_UNIT_S = (86_400, 3_600, 60, 1)


def split(line: str) -> list[str]:
    """Split a line into words. Raises CellError for an open quote or bracket."""
    words, is_open = raw_words(line)
    if is_open:
        raise CellError(
            f"the line has an open {is_open}: {line.strip()}; close it, or quote the whole word"
        )
    return [unquoted(word) for word in words]


def raw_words(line: str) -> tuple[list[str], str]:
    """Cut a line into words, quotes still on; say what is open at its end, a quote or a bracket."""
    words: list[str] = []
    word, quote, depth = "", "", 0
    for char in line:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth = max(0, depth - 1)
        elif char.isspace() and depth == 0:
            words += [word] if word else []
            word = ""
            continue
        word += char
    is_open = "quote" if quote else "bracket" if depth else ""
    return words + ([word] if word else []), is_open


def unquoted(word: str) -> str:
    """Take the quotes off a word that stands in them whole."""
    is_quoted = len(word) > 1 and word[0] in "'\"" and word[0] == word[-1]
    return word[1:-1] if is_quoted and word[0] not in word[1:-1] else word


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the cell: its names, the value it takes ("" for none), what it means."""

    names: tuple[str, ...]
    dest: str
    value: str
    meaning: str
    may_repeat: bool = False


class _Parser(argparse.ArgumentParser):
    """argparse that neither prints nor exits, and knows `_` for `-` in option names."""

    def error(self, message: str) -> NoReturn:
        raise CellError(f"%%gptbatch: {message}; see %%gptbatch --help")

    def options(self) -> list[str]:
        return [name for one in self.taken() for name in one.names]

    def taken(self) -> list[Option]:
        """Return every option, in the order in which they are told."""
        return [
            Option(
                tuple(one.option_strings),
                one.dest,
                str(one.metavar or "") if one.nargs != 0 else "",
                one.help or "",
                may_repeat=isinstance(one.default, list),
            )
            for one in self._actions
            if one.option_strings
        ]


def cell_parser() -> _Parser:
    """Return the parser of `%%gptbatch`'s line."""
    parser = _Parser(prog="%%gptbatch", add_help=False, allow_abbrev=False)
    add = parser.add_argument
    add("frame", metavar="FRAME", nargs="?", help="a DataFrame of the notebook, or an expression")
    add("-o", "--out", metavar="NAME", help="the variable to receive the result; FRAME_out")
    add(
        "-m",
        "--model",
        metavar="MODEL",
        help="the model; several with commas; or of each row, as '{{ column }}'; required",
    )
    add(
        "-e",
        "--endpoint",
        metavar="NAME",
        default="chat",
        help="chat, responses, completions, embeddings, moderations, or the path; chat",
    )
    add("-c", "--column", metavar="NAME", default="", help="output column; answer, embedding")
    add(
        "-s",
        "--schema",
        metavar="X",
        help="a class or dict of the notebook, or 'label: good|bad, score: float'; typed columns",
    )
    add(
        "--parse",
        metavar="PATTERN",
        default="",
        help="splits a text answer into columns: '{first} | {second}'",
    )
    add(
        "--image-max",
        metavar="PIXELS",
        help="the longer side that images are made smaller to; as they are",
    )
    add("--prefix", metavar="P", default="", help="before the names of schema or parse columns")
    add(
        "--flatten",
        action="store_true",
        help="an object within the answer becomes columns a.b, one level",
    )
    add(
        "-p",
        "--param",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="request-body parameter, value read as JSON, else text, or {{ column }}; repeatable",
    )
    add(
        "--with",
        dest="extras",
        metavar="NAMES",
        default="",
        help="notebook variables that the template may use: --with codebook,today",
    )
    add("--on", metavar="BACKEND", default="", help="openai, sandbox or a base URL")
    add("--live", action="store_true", help="through the realtime API now, at its full price")
    add("--tier", metavar="NAME", default="", help="flex: live at the price of a batch, slower")
    add(
        "--deadline",
        metavar="DURATION",
        help="what is not answered by then (90s, 10m, 3h) is finished live",
    )
    add(
        "--max-cost",
        metavar="USD",
        help="refuse to submit what may cost more; any: an unknown price is no matter",
    )
    add(
        "--sample",
        metavar="N",
        help="ask N rows live, show their answers and what all would cost; submits nothing",
    )
    add("--dry-run", action="store_true", help="render, check and count; send nothing")
    add("--retries", metavar="N", help="automatic rounds for retryable rows; 2")
    add(
        "--keep",
        metavar="COLS",
        default="",
        help="extra columns: usage, cost, finish_reason, custom_id, model, raw",
    )
    add("--fresh", action="store_true", help="do not reuse earlier answers: pay again")
    waiting = parser.add_mutually_exclusive_group().add_argument
    waiting(
        "--wait",
        dest="wait",
        action="store_const",
        const="always",
        help="block until the run has ended",
    )
    waiting("--no-wait", dest="wait", action="store_const", const="never", help="return at once")
    add(
        "--on-clash",
        metavar="WHAT",
        default="error",
        help="when an output column exists already: error, replace",
    )
    add("--help", action="store_true", help="this table")
    return parser


def parse_cell(line: str) -> argparse.Namespace:
    """Read the line of `%%gptbatch`. Raises CellError that names what is wrong."""
    parser = cell_parser()
    words = _with_hyphens(split(line))
    known, unknown = parser.parse_known_args(words)
    if unknown:
        raise CellError(_unknown(unknown[0], parser.options()))
    if known.on_clash not in ("error", "replace"):
        raise CellError(f"--on-clash is {known.on_clash!r}; say error or replace")
    known.params = _read_params(known.param)
    known.extras = listed(known.extras)
    known.keep = listed(known.keep)
    known.image_max = 0 if known.image_max is None else _count("--image-max", known.image_max)
    if known.schema is not None and not known.schema.strip():
        raise CellError("--schema is empty; name a class, or write fields: 'label: good|bad'")
    known.schema = known.schema or ""
    known.sample = None if known.sample is None else _count("--sample", known.sample)
    if known.sample == 0:
        raise CellError("--sample is 0; say how many rows, from 1 on")
    if known.sample is not None and known.wait == "never":
        raise CellError("--sample waits for its answers; leave --no-wait out")
    known.deadline = None if known.deadline is None else duration_s(known.deadline)
    known.retries = None if known.retries is None else _count("--retries", known.retries)
    return known


_USAGE = re.compile(r"(?:(?:[A-Z]{2,}\S*|\[[^\]]*\]|--?\S+|\||…|or|run id|batch_…|X:?)\s+)*")


def usage_of(told: str) -> tuple[str, str]:
    """Cut what is told of a verb in two: how it is written, and what it does."""
    usage = _USAGE.match(told)
    ends = usage.end() if usage else 0
    return told[:ends].strip().rstrip(":"), told[ends:]


def _with_hyphens(words: Sequence[str]) -> list[str]:
    def fixed(word: str) -> str:
        name, sep, value = word.partition("=")
        return name.replace("_", "-") + sep + value if word.startswith("--") else word

    return [fixed(word) for word in words]


def _unknown(word: str, known: Sequence[str]) -> str:
    if not word.startswith("-"):
        return f"%%gptbatch takes one FRAME; {word!r} is one word too many (quote it?)"
    name = word.split("=")[0]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "see %%gptbatch --help"
    return f"%%gptbatch knows no option {name}; {hint}"


def _read_params(pairs: Sequence[str]) -> Mapping[str, Any]:
    params: dict[str, Any] = {}
    for pair in pairs:
        key, sep, value = pair.partition("=")
        if not sep or not key.strip():
            raise CellError(f"-p is {pair!r}; write KEY=VALUE, without blanks around =")
        if key in params:
            raise CellError(f"-p {key} is given twice; leave one of them out")
        params[key.strip()] = _json_or_text(value)
    return params


def _json_or_text(value: str) -> Any:
    # Single quotes are a shell's habit: what they hold is the value. Double ones are JSON's own.
    value = unquoted(value) if value.startswith("'") else value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _count(option: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise CellError(f"{option} is {text[:40]!r}; say a whole number")
    return int(text)


def duration_s(text: str) -> float:
    """Read `90s`, `10m`, `3h`, `1h30m` or `1d` as seconds. Raises CellError."""
    found = _DURATION.fullmatch(text.strip())
    if not text.strip() or found is None:
        raise CellError(f"{text!r} is no duration; write 90s, 10m, 3h, 1h30m or 1d")
    return float(sum(int(n) * unit for n, unit in zip(found.groups(), _UNIT_S, strict=True) if n))


# -- the words of a verb -----------------------------------------------------------------------


def want(words: list[str], n: int, usage: str) -> None:
    """Refuse any other number of words than `n`. Raises CellError."""
    if len(words) != n:
        raise CellError(f"the words do not fit; write {usage}")


def option(words: list[str], name: str, wanted: str) -> tuple[list[str], str | None]:
    """Take `NAME value` or `NAME=value` out of a verb's words."""
    for at, word in enumerate(words):
        if word.startswith(f"{name}="):
            return words[:at] + words[at + 1 :], word.partition("=")[2]
        if word == name:
            if at + 1 == len(words):
                raise CellError(f"{name} stands alone; it takes {wanted}")
            return words[:at] + words[at + 2 :], words[at + 1]
    return words, None


def numbers(name: str, given: str | None) -> list[int] | None:
    """Read `1,2`; None where nothing was given. Raises CellError for what is no number."""
    if given is None:
        return None
    words = listed(given)
    if not words or not all(word.isdecimal() for word in words):
        raise CellError(
            f"{name} {given!r} is no number of a cause; `%gptbatch errors NAME` has them"
        )
    return [int(word) for word in words]


def listed(words: str | None) -> tuple[str, ...]:
    """Read `x,y` as its parts; nothing is none."""
    return tuple(word.strip() for word in (words or "").split(",") if word.strip())
