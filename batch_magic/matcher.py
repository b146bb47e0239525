"""Completion in IPython: what is known in this shell, asked for by `completion`, as a matcher.

It knows the shell's namespace, the home's names and how IPython wants its candidates, and refuses
to know what may stand where: that is `completion`'s. The traps: Tab must never run anything, so a
frame is asked for its columns and its size, never for a value, and an expression is not evaluated;
`isinstance` and `hasattr` run what a user's class makes of `__class__` and `__getattr__`, so a
value is told by its type and a class is read as it lies; and a matcher that raises prints a
traceback over the cell that is being typed, so it never does.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from inspect import getattr_static
from types import ModuleType
from typing import Any

import pandas as pd
from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher
from IPython.core.interactiveshell import InteractiveShell

from batch_magic import completion, money
from batch_magic.completion import Candidate, Known
from batch_magic.manual import options_of
from batch_magic.prompt_language import Sandbox
from batch_magic.result import KEEP
from batch_magic.wording import counted, dollars

log = logging.getLogger(__name__)

_FIRST = 1_000  # priority: before Jedi, which would read the cell as Python
_MOST_COLUMNS = 500
_SAID_LENGTH = 60
_BLANK = "\u00a0"  # Lab breaks the words beside a candidate at blanks, and hides all but the first

NamesOfHome = Callable[[], Sequence[tuple[str, str, str | None, int, str, str]]]


class Completions:
    """The matcher of one shell; `names` are those of its home's runs, newest first."""

    def __init__(
        self, shell: InteractiveShell, verbs: Mapping[str, str], names: NamesOfHome
    ) -> None:
        self._shell, self._names = shell, names
        self._known = Known(
            frames=self._frames,
            columns=self._columns,
            variables=self._variables,
            schemas=self._schemas,
            models=self._models,
            backends=self._backends,
            runs=self._runs,
            filters=lambda: _of_jinja("filters"),
            tests=lambda: _of_jinja("tests"),
            functions=_functions,
            verbs=verbs,
            verb_options={verb: options_of(told) for verb, told in verbs.items()},
            keep=tuple(KEEP),
        )
        # A bound method cannot be marked as a matcher, and each look-up makes another one.
        self.matcher = context_matcher(priority=_FIRST, identifier="batch_magic")(
            lambda context: self.match(context)
        )

    def install(self) -> None:
        """Offer completions from now on; prices, which take a moment to read, are read behind."""
        self._shell.Completer.custom_matchers.append(self.matcher)
        reading = ThreadPoolExecutor(1, thread_name_prefix="batch_magic-prices")
        reading.submit(money.models, "chat", time.time())
        reading.shutdown(wait=False)

    def remove(self) -> None:
        """Offer nothing any more."""
        matchers = self._shell.Completer.custom_matchers
        matchers[:] = [one for one in matchers if one is not self.matcher]

    def match(self, context: CompletionContext) -> dict[str, Any]:
        """Answer IPython: candidates in their order, alone where there are some."""
        try:
            found = completion.complete(context.full_text, _cursor(context), self._known)
        except Exception:  # over a cell that is being typed no error is of use
            log.debug("nothing can be offered", exc_info=True)
            found = None
        if found is None:
            return {"completions": []}
        return {
            "completions": [
                SimpleCompletion(one.text, type=one.said.replace(" ", _BLANK) or "name")
                for one in found.candidates
            ],
            "matched_fragment": found.typed,
            "suppress": True,
            "ordered": True,
        }

    # -- what there is ----------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names that the user has made, the newest last."""
        return [name for name, _ in self._own()]

    def _own(self) -> list[tuple[str, Any]]:
        """Return the names that the user has made, the newest last."""
        hidden = self._shell.user_ns_hidden
        return [
            (name, value)
            for name, value in list(self._shell.user_ns.items())
            if not name.startswith("_") and hidden.get(name, self) is not value
        ]

    def _frames(self) -> list[Candidate]:
        found = [(name, value) for name, value in self._own() if _is_a(value, pd.DataFrame)]
        sizes = [_SIZE(frame) for _, frame in found]
        return [
            Candidate(name, f"frame, {counted(rows, 'row')} × {columns}")
            for (name, _), (rows, columns) in zip(found, sizes, strict=True)
        ]

    def _columns(self, expression: str) -> list[Candidate]:
        """Return the columns of the first frame that an expression names.

        Those alone that a template finds by a text: not by a number, nor by a name of two.
        """
        names = re.findall(r"[^\W\d]\w*", expression)
        held = (self._shell.user_ns.get(name) for name in names)
        frame = next((one for one in held if _is_a(one, pd.DataFrame)), None)
        if frame is None:
            return []
        times = Counter(label for label in frame.columns if type(label) is str)
        kinds = zip(frame.columns[:_MOST_COLUMNS], frame.dtypes, strict=False)
        return [
            Candidate(name, f"column, {kind}")
            for name, kind in kinds
            if type(name) is str and times[name] == 1
        ]

    def _variables(self) -> list[Candidate]:
        return [
            Candidate(name, type(value).__name__)
            for name, value in self._own()
            if not _is_a(value, ModuleType) and not callable(value)
        ]

    def _schemas(self) -> list[Candidate]:
        found = [(name, _schema_kind(value)) for name, value in self._own()]
        return [Candidate(name, kind) for name, kind in found if kind]

    def _models(self, endpoint: str) -> list[Candidate]:
        """Return the models used in this home, the last first, then those that are listed."""
        kind = endpoint.rpartition("/")[2]
        used = [model for *_, model, _ in self._names() if "," not in model and "{" not in model]
        listed = {} if kind == "moderations" else dict(money.models(kind, time.time()))
        known = {model: listed.get(model) for model in dict.fromkeys(used)} | listed
        return [
            Candidate(model, _price_words(prices) + ", used here before" * (model in used))
            for model, prices in known.items()
        ]

    def _backends(self) -> list[Candidate]:
        used = dict.fromkeys(backend for *_, backend in self._names())
        own = [Candidate(url, "used here before") for url in used if url.startswith("http")]
        first = [
            Candidate("openai", "the service itself"),
            Candidate("sandbox", "on this machine, for nothing"),
        ]
        return first + [one for one in own if "api.openai.com" not in one.text]

    def _runs(self) -> list[Candidate]:
        """Return runs by name, those that go on first; of those of one name the others by id."""
        found = sorted(self._names(), key=lambda run: run[2] in ("finished", "cancelled"))
        newest: dict[str, Candidate] = {}
        others: list[Candidate] = []
        for name, run_id, ending, rows, _, _ in found:
            said = f"{ending or 'goes on'}, {counted(rows, 'row')}"
            if name in newest:
                others.append(Candidate(run_id, f"{name}, {said}"))
            else:
                newest[name] = Candidate(name, said)
        return [*newest.values(), *others]


def _cursor(context: CompletionContext) -> int:
    """Return where the cursor is, in characters from the start of the cell."""
    lines = context.full_text.split("\n")[: context.cursor_line]
    return sum(len(line) + 1 for line in lines) + context.cursor_position


_SIZE: Callable[[Any], tuple[int, int]] = vars(pd.DataFrame)["shape"].fget
"""A frame's rows and columns, whatever a class of the user's has made of its `shape`."""


def _is_a(value: object, kind: type) -> bool:
    """Tell by its type alone whether a value is of a kind: nothing of its own is run."""
    return issubclass(type(value), kind)


def _schema_kind(value: object) -> str:
    """Say what kind of schema a value is, by its looks alone; "" for none."""
    if _is_a(value, dict):
        names: Any = value
        return "JSON Schema" if {"properties", "$ref", "type"} & dict.keys(names) else ""
    if not _is_a(value, type):
        return ""
    room = getattr_static(value, "__module__", "")
    if isinstance(room, str) and room.startswith("pydantic"):
        return ""
    for mark, kind in _SCHEMA_MARKS.items():
        if getattr_static(value, mark, None) is not None:
            return kind
    return ""


_SCHEMA_MARKS = {
    "model_json_schema": "Pydantic model",
    "__required_keys__": "TypedDict",
    "__dataclass_fields__": "dataclass",
}


def _price_words(prices: money.Prices | None) -> str:
    if prices is None:
        return "price not known"
    asked, answered = dollars(prices.input.least), dollars(prices.output.least)
    return f"{asked} in, {answered} out per million tokens by batch"


def _of_jinja(kind: str) -> list[Candidate]:
    """Return the filters or tests of the prompt language, each with its docstring's beginning."""
    found = getattr(Sandbox(), kind)
    return [
        Candidate(name, _beginning(one.__doc__ or ""))
        for name, one in sorted(found.items())
        if name[:1].isalpha()
    ]


def _functions() -> list[Candidate]:
    return [Candidate(f"{name}(", "a function") for name in sorted(Sandbox().names)]


def _beginning(doc: str) -> str:
    first = doc.strip().partition("\n")[0].replace("`", "")
    said = first.partition(". ")[0].rstrip(".")
    return said if len(said) <= _SAID_LENGTH else f"{said[: _SAID_LENGTH - 1].rstrip()}…"
