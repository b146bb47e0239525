"""What may stand at the cursor of a cell of ours: text, cursor and what is known → candidates.

It knows the line of `%%gptbatch` and `%gptbatch` half typed, and the prompt language half typed,
and refuses to know a shell: names, models and runs are asked of `Known`, and only where the cursor
wants them. Offsets count characters, as Python does; whoever speaks to a page has turned its UTF-16
into them. The traps: text before the cursor is always unfinished, so nothing here may insist on a
closing quote, bracket or brace; and a word that is offered replaces just `Found.typed`, so that a
column's name of several words must not be cut at a blank. Nobody types an expression of thousands
of characters: where one is that long nothing is offered, as what reads its end looks at all of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from batch_magic.cell_line import Option, cell_parser, raw_words, unquoted, usage_of
from batch_magic.records import Endpoint

MAGIC = "gptbatch"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text that may stand at the cursor, and a few words on what it is."""

    text: str
    said: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What may stand in the place of `typed`, the characters just before the cursor."""

    typed: str
    candidates: tuple[Candidate, ...]


def _none() -> Sequence[Candidate]:
    return ()


def _no_columns(expression: str) -> Sequence[Candidate]:
    return ()


def _no_models(endpoint: str) -> Sequence[Candidate]:
    return ()


@dataclass(frozen=True, slots=True)
class Known:
    """What there is in the notebook and its home; each is asked for only where it may stand.

    `columns` takes the frame's expression as typed, `models` the endpoint's word.
    """

    frames: Callable[[], Sequence[Candidate]] = _none
    columns: Callable[[str], Sequence[Candidate]] = _no_columns
    variables: Callable[[], Sequence[Candidate]] = _none
    schemas: Callable[[], Sequence[Candidate]] = _none
    models: Callable[[str], Sequence[Candidate]] = _no_models
    backends: Callable[[], Sequence[Candidate]] = _none
    runs: Callable[[], Sequence[Candidate]] = _none
    filters: Callable[[], Sequence[Candidate]] = _none
    tests: Callable[[], Sequence[Candidate]] = _none
    functions: Callable[[], Sequence[Candidate]] = _none
    verbs: Mapping[str, str] = field(default_factory=dict)  # what is told of each
    verb_options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    keep: Sequence[str] = ()


_LONGEST = 2_000  # characters of a word or an expression under way
_BEFORE = re.compile(rf"(?:[ \t]*\n|%%(?!{MAGIC}\b)[^\n]*\n)*")  # blank lines, %%time and the like
_VERB_LINE = re.compile(rf"\s*(?:[\w.,\s]+=\s*)?%{MAGIC}[ \t]")


def complete(text: str, cursor: int, known: Known) -> Found | None:
    """Return what may stand at `cursor` (characters from the start); None in no place of ours."""
    cursor = max(0, min(cursor, len(text)))
    begins = _BEFORE.match(text)
    start = begins.end() if begins else 0
    if re.match(rf"%%{MAGIC}(?:\s|$)", text[start:]):
        return _in_cell(text, start + len(MAGIC) + 2, cursor, known)
    line = text[text.rfind("\n", 0, cursor) + 1 : cursor]
    verb = _VERB_LINE.match(line)
    return _on_verb_line(line[verb.end() :], known) if verb else None


def _in_cell(text: str, start: int, cursor: int, known: Known) -> Found | None:
    ends = text.find("\n", start)
    ends = len(text) if ends < 0 else ends
    if cursor <= start:
        return None  # in the magic's own name
    if cursor <= ends:
        return _on_cell_line(text[start:cursor], known)
    line = _read(f"{text[start:ends]} ")
    return _in_body(text[ends + 1 : cursor], text[cursor:], line, known)


# -- the cell's line ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """A line as far as it is typed: whole words read, and the one under way."""

    frame: str | None  # as typed, quotes off
    given: Mapping[str, str]  # values by the option's destination
    waiting: Option | None  # whose value comes next
    typed: str  # the word under way, quotes still on
    is_open: bool  # within a quote or a bracket


def _read(line: str) -> _Line:
    words, is_open = raw_words(line)
    is_under_way = bool(words) and (bool(is_open) or not line[-1:].isspace())
    typed = words.pop() if is_under_way else ""
    frame, waiting, given = None, None, dict[str, str]()
    for word in words:
        if waiting is not None:
            given[waiting.dest], waiting = unquoted(word), None
        elif word.startswith("-"):
            name, sep, value = word.partition("=")
            option = _option(name)
            if option is not None:
                given[option.dest] = unquoted(value)
                waiting = option if option.value and not sep else None
        elif frame is None:
            frame = unquoted(word)
    return _Line(frame, given, waiting, typed, bool(is_open))


def _option(name: str) -> Option | None:
    name = name.replace("_", "-") if name.startswith("--") else name
    return next((one for one in cell_parser().taken() if name in one.names), None)


def _on_cell_line(before: str, known: Known) -> Found | None:
    line = _read(before)
    if len(line.typed) > _LONGEST:
        return None
    name, has_value, value = line.typed.partition("=")
    if line.waiting is not None:
        return _value(line.waiting, line.typed, line, known)
    if line.typed.startswith("-") and has_value:
        option = _option(name)
        return None if option is None else _value(option, value, line, known)
    if line.typed.startswith("-"):
        return _options(line)
    if line.frame is None:
        return _frame(line.typed, line.is_open, known)
    return _options(line) if not line.typed else None


def _options(line: _Line) -> Found:
    """Offer the options that are not given yet, long names first."""
    left = [one for one in cell_parser().taken() if one.may_repeat or one.dest not in line.given]
    long = [Candidate(one.names[-1], _short(one.meaning)) for one in left]
    brief = [Candidate(one.names[0], _short(one.meaning)) for one in left if len(one.names) > 1]
    typed = line.typed.replace("_", "-")
    chosen = _fitting([*long, *brief] if len(typed) == 1 else long, typed)
    return Found(line.typed, chosen)


_SHORT = 56


def _short(meaning: str) -> str:
    """The beginning of an option's meaning: what fits beside its name."""
    said = re.split(r"[;:] |\. ", meaning)[0]
    return said if len(said) <= _SHORT else f"{said[: _SHORT - 1].rstrip(' ,')}…"


_METHODS = (
    ("head(", "the first rows"),
    ("tail(", "the last rows"),
    ("sample(", "rows by chance"),
    ("query(", "rows by a condition in quotes"),
    ("dropna(", "rows without missing values"),
    ("drop_duplicates(", "rows that differ"),
    ("iloc[", "rows by place"),
    ("loc[", "rows by label"),
)


def _frame(typed: str, is_open: bool, known: Known) -> Found | None:
    """Offer frames, and behind the name of one what takes some of its rows."""
    text = typed[1:] if typed[:1] in ("'", '"') else typed
    if quoted := re.search(r"(\w+)(?:\.loc)?\[.*?[\[,]?\s*['\"]([^'\"]*)$", text):
        return _offer(known.columns(quoted[1]), quoted[2])
    if dotted := re.search(r"(\w+)\.(\w*)$", text):
        if "[" in text:
            columns = known.columns(dotted[1])
            return _offer([one for one in columns if one.text.isidentifier()], dotted[2])
        is_frame = any(one.text == dotted[1] for one in known.frames())
        return _offer([Candidate(*one) for one in _METHODS], dotted[2]) if is_frame else None
    word = _word_at_end(text)
    if text and text[: len(text) - len(word)].rstrip()[-1:] in (")", "]") and not is_open:
        return None
    return _offer(known.frames(), word)


def _offer(candidates: Iterable[Candidate], typed: str) -> Found:
    return Found(typed, _fitting(candidates, typed))


# -- values ---------------------------------------------------------------------------------

_PARAMS = (
    ("temperature=", "0 to 2; reasoning models refuse it"),
    ("max_completion_tokens=", "how long an answer may be, in tokens"),
    ("reasoning_effort=", "minimal, low, medium or high"),
    ("verbosity=", "low, medium or high"),
    ("seed=", "a whole number"),
    ("top_p=", "0 to 1"),
)
_PARAM_VALUES = {
    "reasoning_effort": ("minimal", "low", "medium", "high"),
    "verbosity": ("low", "medium", "high"),
}
_TYPES = ("str", "int", "float", "bool", "date", "datetime", "list[str]", "float 0..1", "str?")
_FIXED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "endpoint": (
        ("chat", "texts and typed answers"),
        ("responses", "texts and typed answers, by the newer API"),
        ("embeddings", "vectors"),
        ("completions", "texts, by old models"),
        ("moderations", "flags of what may harm"),
        *((one.value, "the path") for one in Endpoint),
    ),
    "tier": (("flex", "the price of a batch, slower"),),
    "on_clash": (("error", "stop before anything is sent"), ("replace", "drop the old column")),
    "deadline": tuple((one, "then live") for one in ("30m", "1h", "3h", "12h")),
    "max_cost": (("1", "US dollars"), ("5", "US dollars"), ("any", "an unknown price, too")),
    "sample": tuple((one, "rows") for one in ("5", "20", "100")),
    "retries": (("0", "none"), ("1", "round"), ("2", "rounds"), ("5", "rounds")),
    "image_max": (("512", "pixels"), ("1024", "pixels"), ("2048", "pixels")),
    "column": (("answer", "as it is when none is named"),),
}

_KEPT = {
    "usage": "tokens: input, cached, output, reasoning",
    "finish_reason": "why the model stopped",
    "cost": "US dollars of each row",
    "custom_id": "its name at the service",
    "model": "the version that answered",
    "raw": "the line as it was received",
}


def _value(option: Option, typed: str, line: _Line, known: Known) -> Found | None:
    """Offer values of an option; of a list, what may come after its last comma."""
    text = typed[1:] if typed[:1] in ("'", '"') else typed
    about = line.frame or ""
    if "{{" in text and "}}" not in text.rpartition("{{")[2]:
        columns = known.columns(about)
        return _offer(filter(_is_plain, columns), _word_at_end(text))
    match option.dest:
        case "out":
            default = [Candidate(f"{about}_out", "the result's name")] * about.isidentifier()
            return _offer(default, text)
        case "model":
            return _one_of_list(known.models(line.given.get("endpoint", "chat")), text)
        case "schema":
            return _schema(text, known)
        case "extras":
            return _one_of_list(known.variables(), text)
        case "keep":
            return _one_of_list([Candidate(one, _KEPT.get(one, "")) for one in known.keep], text)
        case "on":
            return _offer(known.backends(), text)
        case "param":
            return _param(text, known.columns(about))
    fixed = _FIXED.get(option.dest)
    return None if fixed is None else _offer([Candidate(*one) for one in fixed], text)


def _one_of_list(candidates: Iterable[Candidate], typed: str) -> Found:
    named = [one.strip() for one in typed.split(",")]
    left = [one for one in candidates if one.text not in named[:-1]]
    return _offer(left, named[-1])


def _schema(typed: str, known: Known) -> Found | None:
    """Offer classes and dicts of the notebook; in a line of fields, types."""
    field = re.search(r":\s*(?:[\w.]*\|)*([\w\[]*)$", typed)
    if field is not None:
        return _offer([Candidate(one, "a field's type") for one in _TYPES], field[1])
    return _offer(known.schemas(), typed) if re.fullmatch(r"[\w.]*", typed) else None


def _param(typed: str, columns: Iterable[Candidate]) -> Found | None:
    name, has_value, value = typed.partition("=")
    if has_value:
        return _offer([Candidate(one, name) for one in _PARAM_VALUES.get(name, ())], value)
    return _offer([Candidate(*one) for one in _PARAMS], typed)


# -- the verbs ------------------------------------------------------------------------------

_VERB_OPTIONS = {
    "--status": "of rows with these outcomes alone",
    "--cause": "of these causes alone, by their numbers in `errors`",
    "--drop": "without rows of these causes, by their numbers in `errors`",
    "--live": "through the realtime API, at its price",
    "--timeout": "wait no longer",
    "--max-cost": "refuse what may cost more",
    "--parse": "a pattern: '{first} | {second}'",
    "--schema": "a class, a dict, or a line of fields",
    "--prefix": "before the columns' names",
    "--flatten": "objects become columns a.b",
    "--frame": "whose rows its custom_ids are",
    "--id": "the column that has its custom_ids",
    "--on": "the service",
    "--all": "every run that goes on",
    "--remote": "the service's files, too",
    "--yes": "without a question",
    "-o": "the result's name",
    "--truth": "the column with what is right",
    "--column": "the answers to compare",
    "--models": "those of the run alone",
}
_OF_FRAMES = ("explore", "compare")  # a DataFrame's name does as well as a run's
_RETRIED = {
    "failed": "an error in place of an answer",
    "expired": "the service had no time for them",
    "cancelled": "cut off by a cancel",
    "missing": "lost by the service",
    "truncated": "cut short at the token limit",
    "refused": "the model would not answer",
    "unparsed": "answers that do not fit",
}


def _on_verb_line(before: str, known: Known) -> Found | None:
    words, is_open = raw_words(before)
    is_under_way = bool(words) and (bool(is_open) or not before[-1:].isspace())
    typed = words.pop() if is_under_way else ""
    if len(typed) > _LONGEST:
        return None
    verbs = known.verbs
    offered = [Candidate(verb, usage_of(told)[1]) for verb, told in verbs.items()]
    if not words:
        return _offer(offered, typed)
    verb, last = words[0], words[-1]
    if verb not in verbs:
        return None
    name, has_value, value = typed.partition("=")
    if typed.startswith("-") and has_value:
        return _verb_value(name, value, words, known)
    if last.startswith("-") and (found := _verb_value(last, typed, words, known)) is not None:
        return found
    if typed.startswith("-"):
        return _verb_options(known.verb_options.get(verb, ()), words, typed)
    if verb == "help":
        return _offer(offered, typed)
    named = [word for word in words[1:] if not word.startswith("-")]
    usage = usage_of(verbs[verb])[0]
    takes_names = "NAME" in usage.split() or "[NAME]" in usage
    may_have_two = "NAME [NAME]" in usage and len(named) < 2
    if takes_names and (not named or may_have_two or "NAME …" in usage):
        runs = known.runs()
        taken = {*named, *(run.text for run in runs)}  # a run comes before a frame of its name
        frames = known.frames() if verb in _OF_FRAMES else ()
        left = [one for one in runs if one.text not in named]
        return _offer([*left, *(one for one in frames if one.text not in taken)], typed)
    return _verb_options(known.verb_options.get(verb, ()), words, typed)


def _verb_options(options: Sequence[str], words: Sequence[str], typed: str) -> Found | None:
    names = [one for one in options if one not in words]
    found = _offer([Candidate(one, _VERB_OPTIONS.get(one, "")) for one in names], typed)
    return found if found.candidates else None


def _verb_value(option: str, typed: str, words: Sequence[str], known: Known) -> Found | None:
    """Offer values of a verb's option; None for one that takes none, or any."""
    text = typed[1:] if typed[:1] in ("'", '"') else typed
    match option:
        case "--status":
            return _one_of_list([Candidate(*one) for one in _RETRIED.items()], text)
        case "--truth" | "--column":
            return _offer(known.columns(words[1]) if len(words) > 1 else (), text)
        case "--on" if words[0] == "compare":
            return _offer(known.columns(words[1]) if len(words) > 1 else (), text)
        case "--on":
            return _offer(known.backends(), text)
        case "--schema":
            return _schema(text, known)
        case "--frame":
            return _offer(known.frames(), text)
        case "--id":
            places = [n for n, word in enumerate(words[:-1]) if word == "--frame"]
            return _offer(known.columns(words[places[-1] + 1]) if places else (), text)
        case "--timeout":
            return _offer([Candidate(one, "at most") for one in ("1m", "10m", "1h")], text)
        case "--max-cost":
            return _offer([Candidate(*one) for one in _FIXED["max_cost"]], text)
    return None


# -- the body -------------------------------------------------------------------------------

_OPENS = re.compile(r"\{[{%#]")
_CLOSES = {"{{": "}}", "{%": "%}", "{#": "#}"}
_TAGS = (
    ("if", "a condition"),
    ("elif", "another condition"),
    ("else", "where none holds"),
    ("endif", "ends an if"),
    ("for", "again for each: for x in xs"),
    ("endfor", "ends a for"),
    ("set", "a name: set x = …"),
)
_ROLES = ("system:", "developer:", "user:", "assistant:")
_BOUND = re.compile(r"\{%[-+]?\s*(?:for|set)\s+(\w+)")


def _in_body(before: str, after: str, line: _Line, known: Known) -> Found | None:
    opener, inner = _within(before)
    if not opener:
        word = before.rpartition("\n")[2]
        roles = [Candidate(one, "begins a message") for one in _ROLES]
        found = _offer([one for one in roles if one.text.startswith(word)], word)
        return found if word and found.candidates else None
    if opener == "{#" or len(inner) > _LONGEST:
        return None
    columns = known.columns(line.frame or "")
    text = _open_string(inner)
    if text is not None:
        return _string(inner, text, after, columns)
    if piped := re.search(r"\|\s*(\w*)$", inner):
        return _offer(known.filters(), piped[1])
    if dotted := re.search(r"(\w*)\s*\.(\w*)$", inner):
        return _offer(_members(columns), dotted[2]) if dotted[1] == "row" else None
    if judged := re.search(r"\bis\s+(?:not\s+)?(\w*)$", inner):
        return _offer(known.tests(), judged[1])
    if opener == "{%" and (tag := re.fullmatch(r"[-+]?\s*(\w*)", inner)):
        return _offer([Candidate(*one) for one in _TAGS], tag[1])
    word = _word_at_end(inner)
    return None if word[:1].isdigit() else _names(word, columns, before, line, known)


def _within(before: str) -> tuple[str, str]:
    """Return what opened the expression that the cursor is in, and its text; else nothing."""
    at = 0
    while opened := _OPENS.search(before, at):
        ends = before.find(_CLOSES[opened[0]], opened.end())
        if ends < 0:
            return opened[0], before[opened.end() :]
        at = ends + 2
    return "", ""


def _open_string(inner: str) -> str | None:
    """Return what a string that is open at the end holds so far; None where none is."""
    quote, start = "", 0
    for place, char in enumerate(inner):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote, start = char, place + 1
    return inner[start:] if quote else None


def _string(inner: str, text: str, after: str, columns: Iterable[Candidate]) -> Found | None:
    """Offer columns within `row["…"]`; what closes it comes with them if it is not there."""
    before = inner[: len(inner) - len(text)]
    quote = before[-1:]
    if not re.search(r"\brow\s*\[\s*['\"]$", before):
        return None
    ends = "" if after.startswith(quote) else f"{quote}]"
    inside = [Candidate(_escaped(one.text), one.said) for one in columns if quote not in one.text]
    chosen = _fitting(inside, text)
    return Found(text, tuple(Candidate(one.text + ends, one.said) for one in chosen))


def _members(columns: Iterable[Candidate]) -> list[Candidate]:
    places = [Candidate("position", "from 0"), Candidate("index", "the row's label")]
    return [*[one for one in columns if one.text.isidentifier()], *places]


def _names(
    word: str, columns: Sequence[Candidate], before: str, line: _Line, known: Known
) -> Found:
    plain = [one for one in columns if _is_plain(one)]
    odd = [
        Candidate(f'row["{_escaped(one.text)}"]', one.said)
        for one in columns
        if not _is_plain(one) and '"' not in one.text
    ]
    given = [name.strip() for name in line.given.get("extras", "").split(",")]
    extras = [Candidate(name, "given by --with") for name in given if name]
    bound = [Candidate(name, "named above") for name in dict.fromkeys(_BOUND.findall(before))]
    row = [Candidate("row", "the whole row")]
    return _offer([*plain, *extras, *bound, *odd, *row, *known.functions()], word)


# Words of the prompt language's own, and those that the template keeps for itself.
_TAKEN = ("true", "True", "false", "False", "none", "None", "not", "row")
_TAKEN_BEGINNINGS = ("__position", "__index", "__row", "__column_")


def _is_plain(column: Candidate) -> bool:
    """Tell whether a column is read by its bare name."""
    name = column.text
    is_taken = name in _TAKEN or name.startswith(_TAKEN_BEGINNINGS)
    return name.isidentifier() and not is_taken


def _escaped(name: str) -> str:
    """Return a name as it is written between quotes."""
    return name.replace("\\", "\\\\")


# -- what fits ------------------------------------------------------------------------------


def _word_at_end(text: str) -> str:
    found = re.search(r"\w*$", text)
    return found[0] if found else ""


def _fitting(candidates: Iterable[Candidate], typed: str) -> tuple[Candidate, ...]:
    """Keep those that begin with what is typed; failing any, those that hold it. Once each."""
    wanted, every = _folded(typed), list({one.text: one for one in candidates}.values())
    begins = [one for one in every if _folded(one.text).startswith(wanted)]
    holds = [one for one in every if wanted in _folded(one.text)]
    inner = [one for one in holds if one.text.startswith('row["') and one not in begins]
    return tuple([*begins, *inner] if begins else holds)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()
