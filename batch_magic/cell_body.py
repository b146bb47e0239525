"""A cell's body as it was typed: cut into messages at its role lines.

It knows role lines, blank lines and images, and nothing of what stands between double braces,
except that a role line inside a comment or a piece of code is none. The trap is line numbers:
every message remembers where its text began, so that later errors can say it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from batch_magic.errors import TemplateError

ROLES = ("system", "developer", "user", "assistant")

_ROLE_LINE = re.compile(rf"^(\\?)({'|'.join(ROLES)}):[ \t]*$", re.MULTILINE)
_ALMOST_ROLE_LINE = re.compile(
    rf"^[ \t]*(?P<role>{'|'.join(ROLES)})[ \t]*[:：][ \t]*$", re.MULTILINE | re.IGNORECASE
)
# What stands in the brackets: an address in pieces, with expressions.
_SOURCE = r"(?:[^(){}\n]|\{\{.*?\}\})*?\{\{.*?\}\}(?:[^(){}\n]|\{\{.*?\}\})*"
_IMAGE = re.compile(rf"[ \t]*(\\?)!\[[^\]\n]*\]\(({_SOURCE})\)[ \t]*")
_ONE_EXPRESSION = re.compile(r"\s*\{\{[-+]?((?:(?!\{\{).)*?)[-+]?\}\}\s*")
_LEADING_BLANK_LINES = re.compile(r"\A(?:[ \t]*\n)*")
_CODE = re.compile(
    r"\{#.*?#\}|\{%[-+]?\s*raw\s*-?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}|\{%.*?%\}|\{\{.*?\}\}",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Source:
    """One message as written: its text begins on line `first_line` of the body.

    A line that is an image has become an expression with the filter `image_filter`.
    """

    role: str
    text: str
    first_line: int
    has_images: bool = False


def split_body(body: str, image_filter: str) -> list[Source]:
    """Cut a body at its role lines; without any, it is one user message.

    Raises `TemplateError` for an empty message, text above the first role line, and an image in
    a message that is not the user's.
    """
    return [_with_images(source, image_filter) for source in _sources(_one_line_end(body))]


def _sources(body: str) -> list[Source]:
    code = [match.span() for match in _CODE.finditer(body)]
    marks = [
        mark
        for mark in _ROLE_LINE.finditer(body)
        if not any(start < mark.start() < end for start, end in code)
    ]
    roles = [mark for mark in marks if not mark[1]]
    if not roles:
        if not body.strip():
            raise TemplateError("the template is empty; write the prompt in the cell's body")
        return [_source("user", body, 0, len(body), marks)]
    _refuse_stray_text(body[: roles[0].start()])
    ends = [mark.start() for mark in roles[1:]] + [len(body)]
    sources = [
        _source(mark[2], body, min(mark.end() + 1, end), end, marks)
        for mark, end in zip(roles, ends, strict=True)
    ]
    for source in sources:
        _refuse_empty(source)
    return sources


def almost_role_lines(body: str) -> Iterator[str]:
    """Yield a remark on each line that looks like a role line and is plain text."""
    body = _one_line_end(body)
    for match in _ALMOST_ROLE_LINE.finditer(body):
        if not _ROLE_LINE.fullmatch(match[0]):
            line, role = body.count("\n", 0, match.start()) + 1, match["role"].lower()
            yield (
                f"template line {line} {match[0].strip()!r} is plain text; a role line is just"
                f" '{role}:'"
            )


def _one_line_end(body: str) -> str:
    return body.replace("\r\n", "\n").replace("\r", "\n")


def _source(role: str, body: str, start: int, end: int, marks: Sequence[re.Match[str]]) -> Source:
    pieces, at = [], start
    for mark in marks:
        if mark[1] and start <= mark.start() < end:  # `\user:` is the literal text
            pieces.append(body[at : mark.start()])
            at = mark.start() + 1
    text = "".join([*pieces, body[at:end]])
    kept = _LEADING_BLANK_LINES.sub("", text)
    line = body.count("\n", 0, start) + text.count("\n") - kept.count("\n") + 1
    return Source(role, kept.removesuffix("\n"), line)


def _refuse_stray_text(text: str) -> None:
    if re.sub(r"\{#.*?#\}", "", text, flags=re.DOTALL).strip():
        line = text[: len(text) - len(text.lstrip())].count("\n") + 1
        cure = next(almost_role_lines(text), "put a line such as 'user:' above it")
        raise TemplateError(f"text before the first role line (template line {line}); {cure}")


def _refuse_empty(source: Source) -> None:
    if not source.text.strip():
        raise TemplateError(
            f"the {source.role} message is empty (template line {source.first_line}); "
            "write its text below the role line, or remove the line"
        )


def _with_images(source: Source, image_filter: str) -> Source:
    code = [match.span() for match in _CODE.finditer(source.text)]
    count = 0

    def written(image: re.Match[str]) -> str:
        nonlocal count
        # A comment or raw text may hold it; the image itself holds an expression.
        if any(start < image.start() < end for start, end in code):
            return image[0]
        if image[1]:  # `\\![…]` is the literal text
            return image[0].replace("\\", "", 1)
        _check_place(source, image)
        count += 1
        if only := _ONE_EXPRESSION.fullmatch(image[2]):
            return f"{{{{ ({only[1].strip()}) | {image_filter} }}}}"
        return f"{{% filter {image_filter} %}}{image[2].strip()}{{% endfilter %}}"

    text = _IMAGE.sub(written, source.text)
    return replace(source, text=text, has_images=count > 0)


def _check_place(source: Source, image: re.Match[str]) -> None:
    """Refuse an image among words: sent as text it would be paid for and mean nothing."""
    line = source.first_line + source.text.count("\n", 0, image.start())
    start = source.text.rfind("\n", 0, image.start()) + 1
    rest = source.text[start : image.start()] + source.text[image.end() :].partition("\n")[0]
    if re.sub(r"\{%.*?%\}", "", rest).strip():
        raise TemplateError(
            f"an image has a line of its own (template line {line}); as plain text write \\![…]"
        )
    if source.role != "user":
        raise TemplateError(
            f"an image belongs into a user message (template line {line});"
            " move its line below `user:`"
        )
