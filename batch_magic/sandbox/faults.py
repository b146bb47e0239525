"""The table of things this service can be told to do wrong, and the choice of rows they hit.

Knows every switch by name, where it applies and what it takes. Refuses to carry any of them
out: the gate does the HTTP ones, the lifecycle those of a batch, the run those of a row. The
trap: a share of rows must be exact and repeatable, so rows are sampled by a seeded choice over
their numbers, never by a coin per row.
"""

import fnmatch
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .refusals import Refusal

METADATA_PREFIX = "sandbox_fault_"


class Scope(StrEnum):
    """Where a switch applies."""

    HTTP = "http"  # the whole service; set by PUT /sandbox/faults
    BATCH = "batch"  # one batch by its metadata, or all new ones by PUT /sandbox/faults
    ROW = "row"  # as BATCH, and takes a choice of rows


@dataclass(frozen=True)
class Switch:
    """One named fault."""

    name: str
    scope: Scope
    takes: str  # what its value looks like
    gloss: str
    keys: frozenset[str] = frozenset()  # what an object as its value may hold
    words: frozenset[str] = frozenset()  # what a text as its value may be; empty = anything

    @property
    def is_number(self) -> bool:
        """Whether the value is a single number."""
        return self.takes in ("seconds", "tokens", "calls", "0..1")

    @property
    def is_of_calls(self) -> bool:
        """Whether the value is a choice of calls."""
        return self.takes.startswith(CALLS)


_ROW_KEYS = frozenset({"share", "every", "custom_id", "text"})
_CALL_KEYS = frozenset({"route", "times"})
_LATE_KEYS = _CALL_KEYS | {"after_commit"}
ROWS = 'rows: {"share": 0.3} | {"every": 3} | {"custom_id": "r-1*"} | {"text": "words"} | true'
CALLS = '{"route": "batches.create", "times": 1, ...}, or a list of these, or true'
LIMITS = '{"requests": 60, "tokens": 40000}, or one of the two'

SWITCHES: tuple[Switch, ...] = (
    Switch("validating_s", Scope.BATCH, "seconds", "time in validating, before the time scale"),
    Switch("in_progress_s", Scope.BATCH, "seconds", "least time in in_progress"),
    Switch("finalizing_s", Scope.BATCH, "seconds", "time in finalizing"),
    Switch("cancelling_s", Scope.BATCH, "seconds", "time in cancelling"),
    Switch(
        "row_status",
        Scope.ROW,
        '{"status": 429, rows}, or a list; 0 = transport loss, '
        '"timeout" = request_timeout; "once": true = a second try succeeds',
        "rows end with an HTTP error",
        _ROW_KEYS | {"status", "once"},
    ),
    Switch("row_missing", Scope.ROW, ROWS, "rows are answered and in neither file", _ROW_KEYS),
    Switch("row_twice", Scope.ROW, ROWS, "rows are in the output file two times", _ROW_KEYS),
    Switch("row_malformed", Scope.ROW, ROWS, "rows are a cut line of the output file", _ROW_KEYS),
    Switch(
        "row_foreign",
        Scope.ROW,
        ROWS,
        "rows come with another line in their file, of a custom_id nobody asked for",
        _ROW_KEYS,
    ),
    Switch(
        "row_body_text",
        Scope.ROW,
        ROWS,
        "response.body is a text that holds the JSON, not an object",
        _ROW_KEYS,
    ),
    Switch(
        "row_separators",
        Scope.ROW,
        ROWS,
        "answers hold U+2028, U+2029, U+0085, VT, FF and a lone CR",
        _ROW_KEYS,
    ),
    Switch(
        "row_refused",
        Scope.ROW,
        ROWS,
        "the model refuses: no content",
        _ROW_KEYS,
    ),
    Switch("row_null", Scope.ROW, ROWS, "content is null and nothing says why", _ROW_KEYS),
    Switch("row_filtered", Scope.ROW, ROWS, "finish_reason content_filter, no content", _ROW_KEYS),
    Switch("row_cut", Scope.ROW, ROWS, "finish_reason length, content cut to half", _ROW_KEYS),
    Switch(
        "row_tool_calls",
        Scope.ROW,
        ROWS,
        "the model calls a tool: no content, finish_reason tool_calls",
        _ROW_KEYS,
    ),
    Switch("row_no_choices", Scope.ROW, ROWS, "choices (or output) is an empty list", _ROW_KEYS),
    Switch("expire_after_share", Scope.BATCH, "0..1", "the batch expires with this share done"),
    Switch("cancel_after_share", Scope.BATCH, "0..1", "someone cancels it with this share done"),
    Switch("stall_after_share", Scope.BATCH, "0..1", "no progress beyond this share until its end"),
    Switch(
        "validation_error",
        Scope.BATCH,
        'a code, or {"code", "message", "param", "line"}, or a list',
        "the batch fails validation with these",
        frozenset({"code", "message", "param", "line"}),
    ),
    Switch(
        "token_cap",
        Scope.BATCH,
        "tokens",
        "enqueued prompt tokens per model; over it: token_limit_exceeded, freed when batches end",
    ),
    Switch(
        "prompt_cache",
        Scope.BATCH,
        "true",
        "usage tells cached tokens where a long beginning comes again; as a general fault, in "
        "answers at once too",
    ),
    Switch("status_text", Scope.BATCH, "a string", "reported instead of in_progress"),
    Switch("counts_null", Scope.BATCH, "true", "request_counts is null"),
    Switch("counts_all_completed", Scope.BATCH, "true", "failed rows are counted as completed"),
    Switch("error_file_id_empty", Scope.BATCH, "true", 'an absent error_file_id is "", not null'),
    Switch("output_file_id_empty", Scope.BATCH, "true", 'an absent output_file_id is "", not null'),
    Switch("file_ids_late_s", Scope.BATCH, "seconds", "file ids are null so long after the end"),
    Switch("no_files", Scope.BATCH, "true", "the batch ends without result files, its rows billed"),
    Switch(
        "output_order",
        Scope.BATCH,
        '"shuffled" | "input" | "reversed"',
        "order of results",
        words=frozenset({"shuffled", "input", "reversed"}),
    ),
    Switch(
        "dialect",
        Scope.BATCH,
        '"azure"',
        "times are ISO text, the status has a capital, counts are null while validating",
        words=frozenset({"azure"}),
    ),
    Switch("list_lag_s", Scope.BATCH, "seconds", "the batch is not listed so long after creation"),
    Switch("vanished", Scope.BATCH, "true", "the batch is not listed, and retrieving it is a 404"),
    Switch(
        "http_status",
        Scope.HTTP,
        CALLS + ': {"status": 429, "retry_after_s": 1, "code", "message", "after_commit": true}',
        "calls are answered with an error; with status 200 too, as a body without an id",
        _LATE_KEYS | {"status", "retry_after_s", "code", "message"},
    ),
    Switch(
        "http_drop",
        Scope.HTTP,
        CALLS + ': {"after_commit": true}',
        "the connection is closed without an answer",
        _LATE_KEYS,
    ),
    Switch(
        "http_delay",
        Scope.HTTP,
        CALLS + ': {"delay_s": 5, "after_commit": true}',
        "the answer is late",
        _LATE_KEYS | {"delay_s"},
    ),
    Switch(
        "http_cut",
        Scope.HTTP,
        CALLS + ': {"share": 0.5}',
        "the connection is closed half-way through the body",
        _CALL_KEYS | {"share"},
    ),
    Switch("insufficient_quota", Scope.HTTP, CALLS, "429 insufficient_quota", _CALL_KEYS),
    Switch(
        "flex_unavailable",
        Scope.HTTP,
        CALLS,
        "429 resource_unavailable, for requests of service_tier flex only",
        _CALL_KEYS,
    ),
    Switch(
        "realtime_limits",
        Scope.HTTP,
        LIMITS,
        "what a model takes a minute at the endpoints that answer at once; more is a 429 with "
        "retry-after",
        frozenset({"requests", "tokens"}),
    ),
    Switch(
        "creates_per_hour", Scope.HTTP, "calls", "more batches.create are a 429 with retry-after"
    ),
    Switch(
        "uploads_per_minute", Scope.HTTP, "calls", "more files.create are a 429 with retry-after"
    ),
    Switch("file_404_s", Scope.HTTP, "seconds", "a file cannot be retrieved so long after upload"),
    Switch("content_404_s", Scope.HTTP, "seconds", "results cannot be downloaded so long"),
)
BY_NAME = {switch.name: switch for switch in SWITCHES}


def check_switches(given: Mapping[str, Any]) -> None:
    """Refuse names, keys and values that no switch has. Raises Refusal (400).

    None stands for a switch that is taken away.
    """
    for name, value in given.items():
        if name not in BY_NAME:
            known = ", ".join(BY_NAME)
            raise Refusal(400, f"unknown fault {name!r}; known: {known}", param=name)
        _check_value(BY_NAME[name], value)
        for one in as_list(value):
            unknown = set(one) - BY_NAME[name].keys if isinstance(one, dict) else set()
            if unknown:
                said = f"unknown in fault {name!r}: {', '.join(sorted(unknown))}"
                raise Refusal(400, said, param=name)


def _check_value(switch: Switch, value: Any) -> None:
    if value is None:
        return
    is_wrong = bool(switch.words) and value not in switch.words
    if switch.is_number:
        is_wrong = not _is_number(value)
    if switch.is_of_calls:
        is_wrong = not all(isinstance(one, (dict, bool)) for one in as_list(value))
    if switch.takes == LIMITS:
        is_wrong = not _is_of_counts(value)
    if is_wrong:
        said = f"fault {switch.name!r} takes {switch.takes}, not {value!r}"
        raise Refusal(400, said, param=switch.name)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_of_counts(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return all(type(count) is int and count > 0 for count in value.values())


def batch_faults(general: Mapping[str, Any], metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the faults of a new batch: the general ones under those of its metadata.

    Raises Refusal (400) for a fault that no batch can have.
    """
    chosen = {name: value for name, value in general.items() if BY_NAME[name].scope != Scope.HTTP}
    for key, text in (metadata or {}).items():
        if key.startswith(METADATA_PREFIX):
            name = key.removeprefix(METADATA_PREFIX)
            chosen[name] = _value(text)
            check_switches({name: chosen[name]})
            if BY_NAME[name].scope == Scope.HTTP:
                raise Refusal(400, f"fault {name!r} is not one of a batch", param=f"metadata.{key}")
    return {name: value for name, value in chosen.items() if value is not None}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def call_rules(value: Any) -> list[dict[str, Any]]:
    """Return the rules of a switch that takes calls; true is a rule for every call."""
    rules = as_list([] if value is None else value)
    return [{} if rule is True else rule for rule in rules if rule is not False]


def as_list(value: Any) -> list[Any]:
    """Return one value or a list of them as a list."""
    return value if isinstance(value, list) else [value]


@dataclass(frozen=True)
class Row:
    """What a choice of rows may look at."""

    number: int  # 1-based line
    custom_id: str
    line: bytes


Choice = Callable[[Row], bool]


def row_choice(value: Any, total: int, seed: str) -> Choice:
    """Return the test of whether a row is chosen. Raises Refusal (400) on an unknown shape."""
    if value is True:
        return lambda row: True
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = {"share": value}
    if not isinstance(value, dict):
        raise Refusal(400, f"a choice of rows is an object, not {value!r}")
    if "share" in value:
        numbers = sample_rows(total, float(value["share"]), seed)
        return lambda row: row.number in numbers
    if "every" in value:
        step = int(value["every"])
        return lambda row: row.number % step == 0
    if "custom_id" in value:
        pattern = str(value["custom_id"])
        return lambda row: fnmatch.fnmatchcase(row.custom_id, pattern)
    if "text" in value:
        words = str(value["text"]).encode()
        return lambda row: words in row.line
    return lambda row: True


def sample_rows(total: int, share: float, seed: str) -> frozenset[int]:
    """Return exactly `round(total * share)` row numbers, the same for the same arguments."""
    count = min(total, max(0, round(total * share)))
    return frozenset(random.Random(f"{seed}:{total}").sample(range(1, total + 1), count))
