"""One row of a run seen whole: its request as it was sent, its answer as it was received.

It knows in which file a row's line stands and where its answer's does, and what the bodies of each
endpoint look like; it refuses to judge an answer again or to ask anybody: what it shows is read
from the disk. The traps: a row may have no line of its own, because another row has the same or an
earlier run was answered it; and an image in a request is told of by its address or its size, never
fetched and never shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from batch_magic import wire
from batch_magic.billing import entry_costs
from batch_magic.errors import JournalError
from batch_magic.folder import OutcomeTable, RunFolder
from batch_magic.outcomes import Resolved, resolve_run
from batch_magic.records import RowStatus, RunRecord
from batch_magic.value_words import clean, unfolded

Kin = Callable[[], Iterable[tuple[RunFolder, RunRecord]]]


class Fact(TypedDict):
    """Something told of an answer, in words."""

    name: str
    said: str


class Letter(TypedDict):
    """What was sent to one model for one row, and what came back."""

    model: str
    status: str
    error: str | None
    answer: str | None
    messages: list[wire.PromptMessage]
    params: Any
    sent: str | None  # why there is no prompt to show
    facts: list[Fact]
    received: Any
    lost: str | None  # why there is no answer's line to show


class Closeup:
    """The rows of one run, read one at a time; how it came out is read once.

    `kin` gives the runs whose answers may have been taken over.
    """

    def __init__(self, folder: RunFolder, run: RunRecord, kin: Kin) -> None:
        self._folder, self._run, self._kin = folder, run, kin

    @property
    def run(self) -> RunRecord:
        """The record that this was read by: another one asks for another closeup."""
        return self._run

    def letters(self, position: int) -> list[Letter]:
        """Return what was sent and received for a row of the frame: one letter a model."""
        models = self._run.request.models
        rows = self._run.rows // len(models)
        return [self._letter(nth * rows + position, model) for nth, model in enumerate(models)]

    def _letter(self, row: int, asked: str) -> Letter:
        resolution = self._resolved.resolution
        entry, note = int(resolution.entry[row]), int(resolution.notes[row])
        told = self._told(entry)
        body, sent = self._body(row)
        received, lost = self._received(entry)
        error = _text(told.get("error"))
        return {
            "model": asked if body is None else str(body.get("model") or asked),
            "status": RowStatus(int(resolution.statuses[row])).label,
            "error": error or (self._resolved.notes[note] if note >= 0 else None),
            "answer": _text(told.get("text")),
            "messages": wire.messages_of(body or {}),
            "params": unfolded({k: v for k, v in (body or {}).items() if k not in _PROMPT}),
            "sent": sent,
            "facts": self._facts(row, entry, told, asked),
            "received": received,
            "lost": lost,
        }

    @cached_property
    def _resolved(self) -> Resolved:
        return resolve_run(self._folder, self._run)

    @cached_property
    def _twins(self) -> dict[int, int]:
        return dict(self._folder.twins().tolist())

    # -- the request --

    def _body(self, row: int) -> tuple[dict[str, Any] | None, str | None]:
        """Return a row's request, or why there is none."""
        if row not in self._twins and self._status(row) is RowStatus.SKIPPED:
            return None, "nothing was sent: every value that the prompt reads is missing"
        try:
            line = self._line(self._twins.get(row, row))
            if line is None:
                return (
                    None,
                    "nothing was sent, or its line is in an earlier run that is cleaned away",
                )
            return wire.body_of(line), None
        except JournalError as error:
            return None, str(error)
        except (ValueError, LookupError) as error:
            return None, f"its line cannot be read: {error}"

    def _status(self, row: int) -> RowStatus:
        return RowStatus(int(self._resolved.resolution.statuses[row]))

    def _line(self, row: int) -> bytes | None:
        for shard in self._run.shards:
            wanted = self._folder.manifest(shard)["position"] == row
            if wanted.any():
                return next(iter(self._folder.request_lines(shard, wanted)), None)
        return self._borrowed_line(row)

    def _borrowed_line(self, row: int) -> bytes | None:
        """Return the line of a row that an earlier run was answered, from where it stands."""
        for number in self._folder.kept_numbers():
            manifest = self._folder.kept_manifest(number)
            mine = manifest[manifest["position"] == row]
            if len(mine):
                return self._line_like(mine[0])
        return None

    def _line_like(self, digest: Any) -> bytes | None:
        for folder, run in self._kin():
            for shard in run.shards:
                manifest = folder.manifest(shard)
                wanted = (manifest["hi"] == digest["hi"]) & (manifest["lo"] == digest["lo"])
                if wanted.any():
                    first = np.zeros(len(wanted), dtype=bool)
                    first[int(wanted.argmax())] = True
                    return next(iter(folder.request_lines(shard, first)), None)
        return None

    # -- the answer --

    def _place(self, entry: int) -> tuple[OutcomeTable, int] | None:
        """Return the table and the place in it of an entry, None where there is none."""
        first = 0
        for table in self._resolved.tables:
            if 0 <= entry - first < len(table.table):
                return table, entry - first
            first += len(table.table)
        return None

    def _told(self, entry: int) -> dict[str, Any]:
        place = self._place(entry)
        if place is None:
            return {}
        found: dict[str, Any] = place[0].table.slice(place[1], 1).to_pylist()[0]
        return found

    def _received(self, entry: int) -> tuple[Any, str | None]:
        """Return an answer's line as it came, or why there is none."""
        place, told = self._place(entry), self._told(entry)
        if place is None or not place[0].files or not told["length"]:
            return None, "no answer has come for this row"
        path = place[0].files[told["file"]]
        try:
            (line,) = self._folder.raw_lines(path, [(told["offset"], told["length"])])
        except JournalError as error:
            return None, str(error)
        try:
            return unfolded(json.loads(line)), None
        except (ValueError, RecursionError):
            return clean(line.decode("utf-8", "replace"))[:100_000], None

    def _facts(self, row: int, entry: int, told: Mapping[str, Any], asked: str) -> list[Fact]:
        counts = {"input": "input", "cached": "of it cached", "output": "output"}
        counts["reasoning"] = "of it reasoning"
        tokens = [
            f"{told[f'usage_{name}']:,} {words}"
            for name, words in counts.items()
            if told.get(f"usage_{name}") is not None and (told[f"usage_{name}"] or name in _TOLD)
        ]
        said = {
            "tokens": ", ".join(tokens),
            "cost": self._cost(row, entry, asked) if tokens else "",
            "finish reason": told.get("finish_reason") or "",
            "served by": told.get("model") or "",
            "request": f"{self._run.run_id}-{row}",
        }
        return [{"name": name, "said": clean(words)} for name, words in said.items() if words]

    def _cost(self, row: int, entry: int, asked: str) -> str:
        if self._run.backend.is_sandbox:
            return "nothing: the sandbox"
        if 0 <= entry < self._resolved.first_paid:
            return "nothing: it was paid for by an earlier run"
        if row in self._twins:
            rows = self._run.rows // len(self._run.request.models)
            return f"nothing: it is the same request as that of row {self._twins[row] % rows:,}"
        entries: NDArray[np.int64] = np.array([entry])
        dollars = float(entry_costs(self._run, self._resolved, entries, asked)[0])
        return "not known" if np.isnan(dollars) else f"${dollars:.6f}"


def _text(said: bytes | None) -> str | None:
    return None if said is None else str(unfolded(said.decode("utf-8", "replace")))


# -- what a body asks -----------------------------------------------------------------------

_TOLD = ("input", "output")  # also when they are none
_PROMPT = ("messages", "input", "prompt", "instructions", "model")
