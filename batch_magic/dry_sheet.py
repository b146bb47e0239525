"""A dry run as text: what would be sent, what it may cost, and a request as it would go out.

It knows how a rehearsal is told to a reader and refuses to know how it was made. The trap: rows
and requests are two numbers, and why they differ has to be said, or a reader fears for rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from batch_magic import caps
from batch_magic.card import expected_words
from batch_magic.prepare import DryRun
from batch_magic.wording import counted


def dry_run_text(dry: DryRun) -> str:
    """Return what a dry run found, line by line, and the first requests whole."""
    return "\n".join(_told(dry))


def _told(dry: DryRun) -> Iterator[str]:
    requests = f"{counted(dry.to_send, 'request')} in {counted(dry.jobs, 'job')}"
    size = f"{counted(dry.rows, 'row')}, {requests}, {counted(dry.bytes, 'byte')}"
    yield f"dry run: {size}; nothing was sent"
    said = (
        (dry.kept, "answered before: taken over, not paid again"),
        (dry.held, "in flight in an earlier run: not sent again"),
        (dry.twins, "with the same request as an earlier row: sent once"),
        (dry.skipped, "with nothing to send: skipped"),
        (dry.oversize, "larger than a job may be: failed"),
        (dry.missing_values, "with a missing value, rendered as nothing"),
        (dry.unsendable, "with what no request can carry: failed, unsent"),
    )
    yield from (f"  {counted(n, 'row')} {what}" for n, what in said if n)
    yield from (f"  {note}" for note in dry.notes)
    yield f"  estimate: {rest_words(dry)}"
    if why := caps.refusal(dry.record):
        yield f"  it would not be submitted: {why}"
    yield from (request_text(line) for line in dry.first_lines)


def rest_words(dry: DryRun) -> str:
    """Say what would be sent, and what it may cost."""
    record, found = dry.record, dry.record.estimate
    if found is None or not found.requests:
        return "nothing is left to send"
    return expected_words(found, record.request, is_sandbox=record.backend.is_sandbox)


def request_text(line: str) -> str:
    """Lay a request line out over several, indented."""
    return indented(json.dumps(json.loads(line), indent=2, ensure_ascii=False))


def indented(text: str) -> str:
    """Put two blanks before each line."""
    return "\n".join(f"  {line}" for line in text.splitlines())
