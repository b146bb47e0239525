"""The manual that a notebook shows: the cell's options, the verbs, and one verb in full.

It knows how the magic is explained to somebody who has it before them, and refuses to know what
the options do: names and meanings are those of `cell_line`, glosses those of the magic. The trap
is a page that is true of an older version: what is listed here is made of what there is, and a test
asks for a page for each verb.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from textwrap import fill

from batch_magic.cell_line import Option, cell_parser, usage_of

_WIDTH = 88
_LEFT = 26

_INTRO = """\
%%gptbatch FRAME -o NAME -m MODEL [options]
the prompt, with {{ column }} where a row's text belongs

Sends every row of a DataFrame through the prompt, by OpenAI's Batch API at half price,
and gives the frame back with the answers. The cell returns at once; its panel says how
far it is, and NAME is the frame when the run has ended. Nothing is paid twice: the same
cell again goes on with the same run. --dry-run says what it will cost before a cent is
spent."""

_EXAMPLES = """\
Label reviews:

    %%gptbatch reviews -o labelled -m gpt-5-mini -s "label: good|bad, score: float"
    system:
    You label product reviews.
    user:
    {{ title }}
    {{ body }}

Try twenty rows first, and see what all of them would cost:

    %%gptbatch reviews -o labelled -m gpt-5-mini --sample 20
    Is this review positive? {{ body }}

Without a key, on this machine, for nothing:

    %%gptbatch "reviews[reviews.lang == 'ko']" -o english -m gpt-5-mini --on sandbox
    Translate into English: {{ body }}"""

_BODY = """\
Jinja2: {{ column }}, {{ column | lower }}, {% if column %}…{% endif %}. row["any name"]
reaches a column whose name is no identifier. A line of its own `system:`, `user:`,
`assistant:` or `developer:` begins a message; ![any]({{ photo }}) on a line of its own is
an image. A missing value is nothing; a row without any value that the prompt reads is not
sent. Tab completes all of this."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "What is asked": ("out", "model", "endpoint", "param", "extras", "image_max", "on"),
    "What comes back": (*("column", "schema", "parse", "prefix", "flatten", "keep", "on_clash"),),
    "What it costs": ("dry_run", "sample", "max_cost", "fresh"),
    "When, and how": ("live", "tier", "deadline", "retries", "wait", "help"),
}
"""The options by what a person wonders, each named once."""

_PAGES = {
    "list": "A DataFrame with one row a run, newest first: name, state, rows, ok, pending, jobs,"
    " backend, model and when it was made. `%gptbatch cost` has the money.",
    "status": "Shows the panel of a run once more, in this cell. Both panels are kept up to date."
    " It starts nothing: `%gptbatch attach NAME` goes on with a run of an earlier kernel. Without"
    " NAME it is `%gptbatch list`.",
    "wait": "Goes on with the run, if it has stopped, and blocks the cell until it has ended; then"
    " NAME is the frame. Interrupting the cell stops the waiting, never the run; so does --timeout,"
    " after 90s, 10m or 3h. In a cell with other code, `await NAME` does the same.\n\n"
    "    %gptbatch wait labelled --timeout 10m",
    "cancel": "Asks the service to cancel the runs that are named, or with --all every run that"
    " goes on. Rows that finish until then are kept and billed; the others are `cancelled`, and"
    " `%gptbatch retry NAME --status cancelled` sends them after all. A service may take ten"
    " minutes over it.\n\n    %gptbatch cancel labelled\n    %gptbatch cancel --all",
    "retry": "Sends rows again: those without an answer (failed, expired, cancelled, missing), or"
    " those of the statuses that --status names, or of the causes that --cause names by their"
    " numbers in `%gptbatch errors NAME`. An answer is replaced only by one as good or better."
    " --live asks them through the realtime API, at its price. The run's --max-cost holds, and"
    " confirm_above_usd asks, unless you say another --max-cost.\n\n"
    "    %gptbatch retry labelled\n    %gptbatch retry labelled --cause 1,3\n"
    "    %gptbatch retry labelled --status unparsed,truncated --live",
    "submit": "Submits a run that was held because it may cost more than confirm_above_usd, as the"
    " button in its panel does. Its deadline counts from now on.",
    "finish": "Cancels the batches, keeps what they have answered and asks the rest through the"
    " realtime API, at its price; no row is paid for twice. The run's --max-cost holds, and"
    " confirm_above_usd asks, unless you say another --max-cost.\n\n"
    "    %gptbatch finish labelled --max-cost 5",
    "reparse": "Reads the answers of an ended run anew, for nothing: no row is asked again. By"
    " another pattern (--parse) or by another schema (--schema: a class, a dict or a line of"
    " fields, as in the cell). --prefix stands before the names of the columns, and with --flatten"
    " an object within the answer becomes columns a.b. NAME is the new frame.\n\n"
    '    %gptbatch reparse labelled --parse "{korean} | {english}"\n'
    "    %gptbatch reparse labelled --schema Label --prefix second_",
    "errors": "A DataFrame with one row a cause, the commonest first: status, how many rows, one"
    " error in full, its cure, and the first such row. Errors that differ in numbers and ids alone"
    " are one cause. Its index has their numbers, which they keep, in later tables and in the"
    " clinic, until the kernel ends: `%gptbatch retry NAME --cause 1` sends the rows of one again,"
    " `%gptbatch take NAME --drop 1` leaves them out.",
    "clinic": "Shows the rows without a good answer by cause: how many, an example with its prompt"
    " and its answer, what usually cures it, and what a retry would cost by batch and live. The"
    " buttons retry a cause, ask it live, or drop its rows from NAME; each asks first. Where there"
    " are no buttons, it says what to type.",
    "explore": "A table to look through, for a run or a DataFrame: sort, search, filter, counts and"
    " histograms to click on, one row whole with prompt and answer, thumbs and notes, which become"
    " the columns gpt_mark and gpt_note. The name `explorer` is bound to it, unless it holds"
    " something of yours: `explorer.view()` is a DataFrame of what is shown, `explorer.selection()`"
    " of what is picked, `explorer.query` what was asked for. In the table the arrow keys move,"
    " Enter opens a row, x picks it, + and - set a thumb, n writes a note, / searches, Esc closes."
    " `ex = bm.explore(frame)` does the same in Python.\n\n"
    "    %gptbatch explore labelled",
    "compare": "Sets the answers of two runs side by side, row by row: what is equal, Cohen's kappa"
    " for labels, differences for scores, likeness for texts, the rows that differ, what each took."
    " A DataFrame's name does for a run's. One NAME: its models, each with each (or those of"
    " --models alone), or the two columns of --column x,y, or the run against the truth. --truth"
    " names a column with what is right, --column the answers to compare, --on a column by which"
    " rows are matched where neither the frame nor its index tells. What is shown is a value:"
    " `.summary`, `.changed`, `.confusion` and others are DataFrames, `.plot()` is a figure.\n\n"
    "    %gptbatch compare brief careful --truth label\n"
    "    %gptbatch compare labelled --models gpt-5-mini,gpt-5-nano",
    "plot": "A matplotlib figure of a run: outcomes, tokens of its answers, and the times of its"
    " jobs and answers, as far as it has come. Without NAME, what was paid by day and model."
    " `bm.plot(...)` gives the same, and `.savefig(...)` keeps it.\n\n    %gptbatch plot labelled",
    "cost": "Prints what was paid, by day, and gives a DataFrame with one row a run: estimated"
    " and paid dollars, what the same answers cost at once, what was saved by batch, by rows"
    " alike and by answers taken over, and tokens. A price that is not known is null.",
    "attach": "Goes on with a run of an earlier kernel, or of another one that has died: binds its"
    " name, shows its panel, fetches what is there. batch_… of a job that was made elsewhere is"
    " taken in as a run called by -o: --frame and --id say whose rows its custom_ids are. --on URL"
    " says that a service may have your key.\n\n    %gptbatch attach labelled\n"
    "    %gptbatch attach batch_abc123 -o labelled --frame reviews --id review_id",
    "take": "Binds NAME to the frame of an ended run, whatever NAME holds by now. The panel says"
    " when that is needed: the name was bound to something else meanwhile, or its frame edited."
    " --drop leaves out the rows of causes, by their numbers in `%gptbatch errors NAME`; the run"
    " keeps them, and without --drop they are back.\n\n    %gptbatch take labelled --drop 1,3",
    "show": "Prints the run as it was asked for: backend, endpoint, model, parameters, template,"
    " its latest events, and its first request as it was sent.",
    "recover": "Looks at the service for jobs that batch_magic made and no run of this home knows:"
    " after a folder was lost, say. Each can be adopted as a run, cancelled, or left alone; it"
    " asks. --on names another service than that of the settings.",
    "clean": "Deletes the files of runs that have ended and whose result was taken: of NAME, or of"
    " all. Their rows would be paid for again. --remote deletes those at the service, too; result"
    " files that have not come here are never deleted. It asks first; --yes answers.",
    "help": "Without a verb: all of them. `%%gptbatch --help` has the cell's options.",
}


_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
_FIRST_OPTION = re.compile(r"\s*\|?\s*\[?--?[a-z]")


def cell_help(verbs: Mapping[str, str]) -> str:
    """Return the cell's manual: what it does, examples, options, and the verbs behind it."""
    parts = [_INTRO, f"Examples\n\n{_EXAMPLES}", f"Options\n\n{_options()}"]
    parts += [f"The prompt\n\n{_BODY}", f"Afterwards\n\n{verbs_help(verbs)}"]
    return "\n\n".join(parts)


def verbs_help(verbs: Mapping[str, str]) -> str:
    """Return the verbs of `%gptbatch` with what each does, a paragraph each."""
    lines = [_entry(_with_names(verb, told), usage_of(told)[1]) for verb, told in verbs.items()]
    return "\n".join([*lines, "", "%gptbatch help VERB tells one of them in full."])


def verb_help(verb: str, told: str, more: str = "") -> str:
    """Return one verb in full. `more` is told where this manual has no page for it."""
    usage, gloss = usage_of(told)
    page = _PAGES.get(verb, more)
    head = f"%gptbatch {verb} {usage}".strip()
    paragraphs = [gloss, *page.split("\n\n")] if page else [gloss]
    return "\n\n".join([head, *map(_paragraph, paragraphs)])


def options_of(told: str) -> tuple[str, ...]:
    """Return the options of a verb, by how it is written."""
    return tuple(dict.fromkeys(_OPTION.findall(usage_of(told)[0])))


def _with_names(verb: str, told: str) -> str:
    """A verb with what it is about, options left out: how each is written is on its page."""
    return f"%gptbatch {verb} {_FIRST_OPTION.split(usage_of(told)[0])[0]}".strip()


def has_page(verb: str) -> bool:
    """Tell whether the manual has more to say of a verb than its gloss."""
    return verb in _PAGES


def _options() -> str:
    by_dest: dict[str, list[Option]] = {}
    for option in cell_parser().taken():
        by_dest.setdefault(option.dest, []).append(option)
    groups = []
    for title, dests in GROUPS.items():
        lines = [_entry(_named(one), one.meaning, "  ") for dest in dests for one in by_dest[dest]]
        groups.append("\n".join([title, *lines]))
    return "\n\n".join(groups)


def _named(option: Option) -> str:
    return f"{', '.join(option.names)} {option.value}".strip()


def _entry(name: str, meaning: str, before: str = "") -> str:
    """One name and its meaning, side by side as far as they fit."""
    left = f"{before}{name}"
    left = f"{left:{_LEFT}}" if len(left) < _LEFT else f"{left}  "
    return fill(meaning, _WIDTH, initial_indent=left, subsequent_indent=" " * _LEFT)


def _paragraph(text: str) -> str:
    return text if text.startswith("    ") else fill(text, _WIDTH)
