"""What a cell asks for, checked and drafted as a run.

It knows each option and what it may be, and refuses to read a row, to call anybody or to write
anything. The trap: values that come from Python may be of any type, where the magic's line has
texts alone.
"""

from __future__ import annotations

import copy
import json
import keyword
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batch_magic import frame as frames
from batch_magic import result, settings, wire
from batch_magic.cell_body import almost_role_lines
from batch_magic.errors import CellError
from batch_magic.records import Layout, Request, RunRecord
from batch_magic.settings import Settings
from batch_magic.template import Template, compile_template

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Options:
    """What a cell or a call asks for, before anything is looked up."""

    out: str
    model: str = ""
    endpoint: str = "chat"
    column: str = "answer"
    params: Mapping[str, Any] | None = None
    extras: Mapping[str, object] | None = None
    on: str = ""
    retries: int | None = None
    keep: tuple[str, ...] = ()
    fresh: bool = False
    on_clash: str = "error"
    frame_name: str = "the frame"


def draft(
    frame: object,
    template: str,
    options: Options,
    use: Settings,
    environ: Mapping[str, str],
    *,
    run_id: str,
    now: float,
) -> tuple[RunRecord, pd.DataFrame, Template]:
    """Check all that can be checked before a row is read.

    Returns the run as far as it is known, the frame as it is held, and the compiled template.
    Raises CellError and its kin.
    """
    _check_types(template, options)
    checked = frames.check_frame(frame, options.frame_name)
    # As Python reads an identifier: otherwise `user_ns` would hold a name that no code can say.
    options = replace(options, out=unicodedata.normalize("NFKC", options.out))
    check_name(options.out)
    model = options.model or use.model
    if not model:
        raise CellError(
            "no model: name one with -m (in Python model=…), or set BATCH_MAGIC_MODEL"
            " or %config GPTBatch.model"
        )
    if not options.column.strip() or options.column.startswith("gpt_"):
        raise CellError(f"-c {options.column!r} is no name for an answer; gpt_… names are taken")
    backend = settings.find_backend(options.on or use.backend, environ)
    result.check_keep(options.keep)
    frames.check_clash(
        checked, result.added_columns(options.column, options.keep), options.on_clash
    )
    if options.on_clash not in ("error", "replace"):
        raise CellError(f"on_clash is error or replace, not {options.on_clash!r}")
    if options.retries is not None and not (
        isinstance(options.retries, int) and options.retries >= 0
    ):
        raise CellError(f"retries is a whole number from 0, not {options.retries!r}")
    compiled = compile_template(
        template,
        columns=frames.column_names(checked),
        extras=_frozen(options.extras or {}),
        frame_name=options.frame_name,
    )
    params = dict(options.params or {})
    wire.check_params(params)
    _check_characters(model, options.column, template, _as_text(params))
    held = frames.hold(checked)
    record = RunRecord(
        run_id=run_id,
        name=options.out,
        backend=backend,
        request=Request(
            endpoint=wire.endpoint_path(options.endpoint),
            model=model,
            template=template,
            params=params,
            extras=tuple(options.extras or ()),
        ),
        layout=Layout(options.column, options.keep, options.on_clash),
        limits=use.limits(options.retries),
        created_at=now,
        rows=len(checked),
        identity="",
        fingerprint=frames.fingerprint(held),
        notes=tuple(almost_role_lines(template)),
    )
    return record, held, compiled


def _check_types(template: object, options: Options) -> None:
    """Refuse what the magic's line could not have given. Raises CellError."""
    texts = {
        "the template": template,
        "out": options.out,
        "model": options.model,
        "endpoint": options.endpoint,
        "column": options.column,
        "on": options.on,
        **{f"keep[{n}]": name for n, name in enumerate(options.keep)},
    }
    for name, value in texts.items():
        if not isinstance(value, str):
            raise CellError(f"{name} is a text, not {value!r:.60}")
    if not isinstance(options.params or {}, Mapping):
        raise CellError(f"params is a mapping, not {options.params!r:.60}")


def _as_text(params: Mapping[str, Any]) -> str:
    try:
        return json.dumps(params, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise CellError(f"a request parameter cannot be written as JSON: {error}") from None


def check_name(name: str) -> None:
    """Refuse a name that no variable can have. Raises CellError."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise CellError(f"the result's name {name!r} is no Python name; name one with -o")


def _check_characters(*texts: str) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise CellError(f"half a surrogate pair in {error.object[:40]!a}; retype it") from None


def _frozen(extras: Mapping[str, object]) -> dict[str, object]:
    """Copy what --with gives: the rest of a large frame is rendered after the cell has returned."""
    try:
        return copy.deepcopy(dict(extras))
    except Exception as error:
        raise CellError(f"--with: a value cannot be copied ({error}); give a text of it") from None
