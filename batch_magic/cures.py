"""What usually cures an error of rows: one line in words, found by what the error says.

It knows the service's error codes, and the words that this package has for answers that are none;
it refuses to know runs and rows. The trap is a cure that costs money or loses answers: what is said
here first is to mend, then to ask again, and reading anew comes before asking anew.
"""

from __future__ import annotations

import re

_CURES: tuple[tuple[str, str], ...] = (
    (
        r"context_length_exceeded|maximum context|string_above_max_length|too large|a job holds",
        "shorten the prompt, as {{ text | truncate(8000) }} does, or name a model that takes more",
    ),
    (
        r"insufficient_quota|billing",
        "add credit at the service; then `%gptbatch retry {name}`",
    ),
    (
        r"model_not_found",
        "name another model with -m and run the cell again",
    ),
    (
        r"invalid_api_key|^\D*401\b",
        "set OPENAI_API_KEY to a valid key; then `%gptbatch retry {name}`",
    ),
    (
        r"^\D*429\b|rate_limit|request_timeout|^\D*(?:0|408|409|5\d\d)\b|status 0",
        "such trouble passes: rows are sent again by themselves, or by `%gptbatch retry {name}`",
    ),
    (
        r"content_filter|content filter|content_policy|safety",
        "reword the prompt or take such rows out; `%gptbatch retry {name} --status refused` pays"
        " for another answer",
    ),
    (
        r"token limit|max_output_tokens",
        "allow longer answers, as -p max_completion_tokens=4000 does, or ask for shorter ones",
    ),
    (
        r"unsupported_(?:parameter|value)|unknown_parameter|invalid_value",
        "leave the parameter that it names out of -p and run the cell again",
    ),
    (
        r"image",
        "mend the address or the path in that column and run the cell again",
    ),
    (
        r"expired|was not run in time",
        "`%gptbatch retry {name}` sends such rows again; --deadline 3h finishes them live",
    ),
    (
        r"neither result file|is lost",
        "`%gptbatch retry {name}` asks for such rows again",
    ),
    (
        r"; the answer:|called a tool|holds no text|is no JSON|does not (?:fit|match)|\bpattern\b",
        "once it has ended, `%gptbatch reparse {name}` reads them by another shape for nothing,"
        " `%gptbatch retry {name} --status unparsed` pays for other answers",
    ),
    (
        r"^\D*4\d\d\b",
        "mend the row or the template and run the cell again: the others are not paid again",
    ),
)
_HOW_MANY = re.compile(r"^[\d,]+ of (?:the last )?[\d,]+ [a-z ]+: ")  # how a complaint begins
_KNOWN = tuple((re.compile(pattern, re.IGNORECASE), cure) for pattern, cure in _CURES)


def cure_of(error: str, name: str) -> str:
    """Return what usually cures an error of rows of run `name`; code stands in backticks."""
    said = _HOW_MANY.sub("", error)
    found = next((cure for pattern, cure in _KNOWN if pattern.search(said)), None)
    return (found or "`%gptbatch errors {name}` shows an example of each cause").replace(
        "{name}", name
    )
