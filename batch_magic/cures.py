"""What usually cures a row without an answer: its status and its error in, a way on out.

It knows the words of services and of this package by which a failure is recognised, and refuses to
know rows, files or prices. The trap is a retry that looks like a cure: the same request goes out
again, byte for byte, so what lies in the request itself fails in the same way and may cost again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from batch_magic.records import Endpoint, RowStatus, RunRecord


@dataclass(frozen=True, slots=True)
class Cure:
    """What to do about a cause, in a few words; `may_pass`: to send the same once more may help."""

    words: str
    may_pass: bool


AGAIN = "mend the row and run the cell again: the others are not paid again"
"""The way on where the request itself is at fault."""

_PASSES = "it passes by itself: retry these"
_SLOWER = "the service had too much to do just then: retry these (live: lower live_concurrency)"
_ACCOUNT = "mend the account (key, billing, quota), then retry these"
_TEXT = "shorten the row's text or the template, or name a model with a larger context (-m)"
_ALONE = "in a cell over these rows alone: a changed request is paid for anew"
_WORDING = "reword the row's text or the template, or drop these rows"

# The first that is found in the error counts: the more telling come first.
_FAILED: tuple[tuple[str, Cure], ...] = (
    (
        r"insufficient_quota|billing|exceeded your current quota|invalid_api_key|^40[13]\b",
        Cure(_ACCOUNT, may_pass=True),
    ),
    (
        r"context_length_exceeded|context length|maximum context|max_tokens_per_request"
        r"|string_above_max|too many tokens|Request too large|has [\d,]+ bytes, a job holds",
        Cure(f"{_TEXT}, and run the cell again", may_pass=False),
    ),
    (
        r"content_policy|content_filter|content management policy|moderation_blocked"
        r"|invalid_prompt|safety",
        Cure(_WORDING, may_pass=False),
    ),
    (
        r"model_not_found|does not exist or you do not have access|DeploymentNotFound",
        Cure("name another model with -m and run the cell again", may_pass=False),
    ),
    (
        r"invalid_json_schema|Invalid schema|response_format|json_schema",
        Cure("make the schema simpler (-s) and run the cell again", may_pass=False),
    ),
    (
        r"unsupported_parameter|unknown_parameter|unsupported_value|(?i:unsupported parameter)",
        Cure("leave that -p out or change it, and run the cell again", may_pass=False),
    ),
    (
        r"(?i:\bimages?\b)",
        Cure("mend the image or its column and run the cell again", may_pass=False),
    ),
    (r"^429\b|rate_limit|resource_unavailable", Cure(_SLOWER, may_pass=True)),
    (
        r"^(?:408|409|425|5\d\d)\b|request_timeout|server_error|overloaded|no HTTP answer"
        r"|timed? ?out|no_answer|neither a response nor an error",
        Cure(_PASSES, may_pass=True),
    ),
    (r"(?i:retry asks for it again)", Cure(_PASSES, may_pass=True)),
    (re.escape(AGAIN), Cure(AGAIN, may_pass=False)),
    (
        r"its job was refused",
        Cure("mend what the service names, then retry these", may_pass=True),
    ),
)

_CAPPED_BY: Mapping[str, str] = {
    Endpoint.RESPONSES: "max_output_tokens",
    Endpoint.COMPLETIONS: "max_tokens",
}


def cure_of(run: RunRecord, status: RowStatus, error: str) -> Cure:
    """Return what usually cures rows of a run with this status and error."""
    match status:
        case RowStatus.EXPIRED:
            return Cure("the service had no time for them: retry these, or live at once", True)
        case RowStatus.CANCELLED:
            return Cure("they were cut off: retry these when they are wanted after all", True)
        case RowStatus.MISSING:
            return Cure(
                "the service lost them: retry these (result files are looked for once more first)",
                may_pass=True,
            )
        case RowStatus.TRUNCATED:
            return Cure(_of_truncated(run), may_pass=False)
        case RowStatus.REFUSED:
            return Cure(_of_refused(error), may_pass=False)
        case RowStatus.UNPARSED:
            return _of_unparsed(run, error)
    found = (cure for words, cure in _FAILED if re.search(words, error))
    return next(found, Cure(AGAIN, may_pass=False))


def _of_truncated(run: RunRecord) -> str:
    name = _CAPPED_BY.get(run.request.endpoint, "max_completion_tokens")
    more = f"allow more: -p {name}=…" if _is_capped(run) else "ask for a shorter answer"
    return f"{more}, {_ALONE}"


def _is_capped(run: RunRecord) -> bool:
    names = ("max_completion_tokens", "max_output_tokens", "max_tokens")
    return any(name in run.request.params for name in names)


def _of_refused(error: str) -> str:
    if "content filter" in error:
        return f"the content filter stopped the answer: {_WORDING}"
    return f"the model will not answer this: {_WORDING}, or name another model (-m)"


def _of_unparsed(run: RunRecord, error: str) -> Cure:
    if "called a tool" in error:
        return Cure(f"leave the tools out (-p), {_ALONE}", may_pass=False)
    if re.search(r"^\d[\d,]* vectors? for \d", error):
        return Cure("it has not a vector for each input: retry these", may_pass=True)
    if re.search(r"^the (?:answer|response) holds no |^the answer is no JSON object: ", error):
        return Cure("there is nothing to read in the answer: retry these", may_pass=True)
    reparse = f"`%gptbatch reparse {run.name}"
    if run.layout.shape is not None and run.layout.shape.pattern is not None:
        return Cure(
            f"read the answers by a better pattern, for nothing: {reparse} --parse PATTERN`;"
            " or retry these",
            may_pass=True,
        )
    if re.search(_NO_OBJECT, error):
        return Cure(
            "no schema can read that: retry these, or say in the template that the answer is one"
            f" JSON object (where all are plain text: {reparse} --parse PATTERN`)",
            may_pass=True,
        )
    if error.startswith("its validator failed"):
        return Cure(
            "mend the validator of your class and read the answers anew, for nothing:"
            f" {reparse} --schema X`; or retry these",
            may_pass=True,
        )
    return Cure(
        f"widen the schema and read the answers anew, for nothing: {reparse} --schema X`;"
        " or retry these",
        may_pass=True,
    )


# What is no JSON object stays none, whatever fields are asked of it. As `answers` words it, and
# msgspec and pydantic of an answer as a whole, without a field in front.
_NO_OBJECT = (
    r"^the answer is no JSON|^the answer holds several JSON values|^Expected `?object`?, got"
    r"|^Input should be (?:an object|a valid dictionary|a dictionary)"
)
