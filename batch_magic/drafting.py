"""What a cell asks for, checked and drafted as a run.

It knows each option and what it may be, and refuses to read a row, to call anybody or to write
anything. The trap: values that come from Python may be of any type, where the magic's line has
texts alone.
"""

from __future__ import annotations

import contextlib
import copy
import json
import keyword
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batch_magic import frame as frames
from batch_magic import images, money, result, settings, wire
from batch_magic.answers import reader_of, remember
from batch_magic.cell_body import almost_role_lines
from batch_magic.cell_line import duration_s
from batch_magic.errors import CellError, FrameError
from batch_magic.records import Backend, Endpoint, Layout, Request, RunRecord, Shape
from batch_magic.settings import Settings
from batch_magic.strict_schema import as_pydantic_takes_it, json_schema_of, strict
from batch_magic.template import Template, compile_template, is_template
from batch_magic.wording import counted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Options:
    """What a cell or a call asks for, before anything is looked up."""

    out: str
    model: str = ""
    endpoint: str = "chat"
    column: str = ""
    schema: object = None
    schema_name: str = ""
    parse: str = ""
    prefix: str = ""
    flatten: bool = False
    image_max: int = 0
    params: Mapping[str, Any] | None = None
    extras: Mapping[str, object] | None = None
    on: str = ""
    live: bool = False
    tier: str = ""
    deadline: str | float | None = None
    max_cost: str | float | None = None
    sample: int | None = None
    may_ask: bool = False  # somebody is there to give leave to spend
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
            "there is no model; name one with -m (in Python model=…), or set BATCH_MAGIC_MODEL"
            " or %config GPTBatch.model"
        )
    endpoint = wire.endpoint_path(options.endpoint)
    shape, sent = _shaped(options, endpoint)
    params, said = _asked(shape, sent, options.params or {}, endpoint)
    request = Request(
        endpoint=endpoint,
        model=model,
        template=template,
        params=params,
        extras=tuple(options.extras or ()),
        several_models=_several_models(model),
        prices=_prices(use, now),
        fresh=options.fresh,
        live=options.live,
        tier=_tier(options, endpoint),
        deadline_s=_deadline_s(options),
        max_cost_usd=max_cost_usd(options.max_cost),
    )
    lists = frames.list_columns(checked) if endpoint == Endpoint.EMBEDDINGS else ()
    layout = Layout(_column(options, endpoint), options.keep, options.on_clash, shape)
    backend = settings.find_backend(options.on or use.backend, environ)
    result.check_keep(options.keep)
    frames.check_clash(checked, result.added_columns(layout, request.models), options.on_clash)
    if options.on_clash not in ("error", "replace"):
        raise CellError(f"on_clash is {options.on_clash!r}; say error or replace")
    if options.retries is not None and (type(options.retries) is not int or options.retries < 0):
        raise CellError(f"retries is a whole number from 0, not {options.retries!r}; give one")
    images.check_max_side(options.image_max)
    compiled = compile_template(
        template,
        columns=frames.column_names(checked),
        extras=_frozen(options.extras or {}),
        frame_name=options.frame_name,
        model=model,
        params=options.params or {},
        lists=lists,
        image_max=options.image_max,
        preface=_preface(shape, params, endpoint),
    )
    compiled.params, _ = _asked(shape, sent, compiled.params, endpoint)
    wire.check_one_text(endpoint, compiled.messages)
    wire.check_params(params)
    wire.check_token_limit(params, endpoint, request.models)
    if options.image_max and not compiled.has_images:
        raise CellError(
            "--image-max is for images, and the template has none; write ![…]({{ column }})"
        )
    said += tuple(wire.doubtful_params(params, endpoint, request.models))
    _check_model_column(checked, model)
    _check_characters(model, layout.column, template, _as_text(params))
    held = frames.hold(checked)
    record = RunRecord(
        run_id=run_id,
        name=options.out,
        backend=backend,
        request=request,
        layout=replace(layout, several=compiled.has_lists),
        limits=use.limits(options.retries),
        created_at=now,
        rows=len(checked) * len(request.models),
        identity="",
        fingerprint=frames.fingerprint(held),
        notes=(
            *almost_role_lines(template),
            *said,
            *(_live_hint(request, use, backend, len(checked)) if options.sample is None else ()),
        ),
    )
    return record, held, compiled


_GOLDEN = (5**0.5 - 1) / 2  # its multiples spread evenly, whatever pattern the rows have (Weyl)


def sampled(
    run: RunRecord, frame: pd.DataFrame, size: int
) -> tuple[RunRecord, pd.DataFrame, list[int]]:
    """Return the rehearsal of a drafted run: a live one over `size` of its rows, and their places.

    The rows are spread evenly and the same each time; a larger sample holds the smaller one.
    """
    if type(size) is not int or size < 1:
        raise CellError(f"sample is a number of rows, from 1 on, not {size!r:.40}; give one")
    rows = len(frame)
    places, n = set[int](), 0
    while len(places) < min(size, rows):
        n += 1
        places.add(int(n * _GOLDEN % 1 * rows))
    chosen = sorted(places)
    taken = frame.iloc[chosen]
    request = replace(run.request, live=True, deadline_s=None)
    record = replace(
        run,
        name=f"{run.name}_sample",
        request=request,
        rows=len(taken) * len(request.models),
        fingerprint=frames.fingerprint(taken),
    )
    return record, taken, chosen


def _preface(shape: Shape | None, params: Mapping[str, Any], endpoint: str) -> str:
    """Return what tells a model of the schema where the service is not told."""
    if shape is None or shape.schema is None or not wire.is_json_mode(params, endpoint):
        return ""
    written = json.dumps(shape.schema, ensure_ascii=False)
    return f"Answer with one JSON object that fits this JSON Schema, and nothing else: {written}"


def _prices(use: Settings, now: float) -> dict[str, Any]:
    """Return the user's own prices. Raises CellError for one that cannot be used."""
    table = use.price_table()
    for model in table:
        money.prices_of(model, table, is_batch=True, now=now)
    return table


def _tier(options: Options, endpoint: str) -> str:
    """Return the service tier that the live lane asks for. Raises CellError."""
    if not options.tier:
        return ""
    if options.tier != "flex":
        raise CellError(f"--tier knows flex, not {options.tier!r:.40}; say flex, or leave it out")
    if endpoint not in (Endpoint.CHAT, Endpoint.RESPONSES):
        raise CellError("--tier flex is for chat and responses; leave it out")
    if not options.live and options.deadline is None:
        raise CellError("--tier is for rows that go live; say --live or --deadline as well")
    return options.tier


def _deadline_s(options: Options) -> float | None:
    """Return after how many seconds the rest is finished live. Raises CellError."""
    given = options.deadline
    if given is None:
        return None
    if options.live:
        raise CellError("--live answers at once; leave --deadline out")
    is_number = isinstance(given, (int, float)) and not isinstance(given, bool)
    seconds = duration_s(given) if isinstance(given, str) else float(given) if is_number else 0.0
    if not 0 < seconds < float("inf"):
        raise CellError(f"deadline is {given!r:.40}; write 90s, 10m, 3h, or a number of seconds")
    return seconds


def max_cost_usd(given: str | float | None) -> float | None:
    """Return above what a run is refused; infinite for `any`. Raises CellError."""
    if given is None or given == "any":
        return None if given is None else math.inf
    try:
        dollars = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        dollars = math.nan
    if not 0 <= dollars < math.inf:
        raise CellError(f"--max-cost is a number of US dollars, or any, not {given!r:.40}; say one")
    return dollars


def _live_hint(request: Request, use: Settings, backend: Backend, rows: int) -> tuple[str, ...]:
    """Say of a small frame that it need not wait for a batch; nothing where that was decided."""
    is_decided = request.live or request.deadline_s is not None or backend.is_sandbox
    if is_decided or not 0 < rows < use.live_below_rows:
        return ()
    many = counted(rows, "row")
    return (f"only {many}: with --live they are answered in moments, at the full price",)


def _several_models(model: str) -> tuple[str, ...]:
    """Return the names between commas; nothing for one name, and for a template."""
    names = tuple(name.strip() for name in model.split(","))
    if len(names) == 1 or is_template(model):
        return ()
    if not all(names):
        raise CellError("-m holds an empty name between its commas; take one comma away")
    if len(set(names)) < len(names):
        raise CellError(
            "-m names a model twice, whose answers would be the same columns; leave one out"
        )
    return names


_ONE_COLUMN = re.compile(r"\{\{\s*(\w+)\s*\}\}")


def _check_model_column(frame: pd.DataFrame, model: str) -> None:
    """Refuse a column of models in which some are missing, before anything is prepared."""
    found = _ONE_COLUMN.fullmatch(model.strip())
    if found is None or found[1] not in frame.columns:
        return
    missing = frame[found[1]].isna().to_numpy().nonzero()[0]
    if len(missing):
        rows = counted(len(missing), "row")
        raise CellError(
            f"column {found[1]!r} names no model in {rows}, the first at position {missing[0]};"
            " fill it or leave them out"
        )


_COLUMNS = {Endpoint.EMBEDDINGS: "embedding"}
_WITHOUT_TEXT = (Endpoint.EMBEDDINGS, Endpoint.MODERATIONS)
_MODERATION = Shape(
    schema={
        "type": "object",
        "properties": {
            "flagged": {"type": "boolean"},
            "categories": {"type": "object"},
            "scores": {"type": "object"},
        },
        "required": ["flagged", "categories", "scores"],
    },
    name="moderations",
)


def _column(options: Options, endpoint: str) -> str:
    """Return the name of the column for a plain answer."""
    if options.column.startswith("gpt_") or (options.column and not options.column.strip()):
        raise CellError(
            f"-c {options.column!r} is no name for an answer, gpt_… names are taken; choose another"
        )
    return options.column or _COLUMNS.get(Endpoint(endpoint), "answer")


Sent = dict[str, Any] | None
"""A schema as strict mode takes it, for answers that are asked for by one."""


def _shaped(options: Options, endpoint: str) -> tuple[Shape | None, Sent]:
    """Return the shape of answers, and the schema that asks for it. Raises CellError."""
    if endpoint in _WITHOUT_TEXT and (options.schema is not None or options.parse):
        word = Endpoint(endpoint).name.lower()
        raise CellError(f"{word} answers without a text; leave --schema and --parse out")
    if endpoint == Endpoint.MODERATIONS:
        if options.column:
            raise CellError("moderations fills flagged, categories and scores; say --prefix")
        if options.flatten:
            raise CellError("--flatten is for the objects of --schema; name one, or leave it out")
        return replace(_MODERATION, prefix=options.prefix), None
    if options.schema is None and not options.parse:
        if options.prefix or options.flatten:
            word = "--prefix" if options.prefix else "--flatten"
            raise CellError(f"{word} is for the columns of --schema or --parse; name one of them")
        return None, None
    if options.schema is not None and options.parse:
        raise CellError("--schema and --parse both say what an answer is; name one of them")
    if options.column:
        raise CellError("-c names the column of a plain answer; fields have names: say --prefix")
    if options.schema is not None:
        return _by_schema(options)
    if options.flatten:
        raise CellError(
            "--flatten is for the objects of --schema, a pattern has none; leave it out"
        )
    shape = Shape(pattern=options.parse, prefix=options.prefix)
    reader_of(shape)
    return shape, None


def _by_schema(options: Options) -> tuple[Shape, Sent]:
    name = options.schema_name or getattr(options.schema, "__name__", "") or "the schema"
    given = as_pydantic_takes_it(options.schema)
    meant = json_schema_of(given, name)
    try:
        json.dumps(meant)
    except (TypeError, ValueError, RecursionError) as error:
        raise CellError(
            f"--schema {name} cannot be written as JSON: {error}; give plain values alone"
        ) from None
    try:
        sent = strict(meant, name)
    except RecursionError:
        raise CellError(f"--schema {name} is nested too deeply; make it simpler") from None
    shape = Shape(
        schema=meant,
        name=name,
        prefix=options.prefix,
        flatten=options.flatten,
        has_rules=isinstance(given, type),
    )
    if isinstance(given, type):
        remember(shape, given)
    try:
        reader_of(shape)
    except (TypeError, ValueError, RecursionError) as error:
        raise CellError(f"--schema {name} cannot be read by: {error}; make it simpler") from None
    return shape, sent


def _asked(
    shape: Shape | None, sent: Sent, params: Mapping[str, Any], endpoint: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return parameters with what asks for the shape of answers, and what is to be said of it."""
    if shape is None or sent is None:
        return dict(params), ()
    return wire.asking_for(sent, shape.name, params, endpoint)


def reshaped(run: RunRecord, options: Options, frame: pd.DataFrame) -> RunRecord:
    """Return a run whose answers are to be read by another schema or pattern. Raises CellError."""
    shape, _ = _shaped(options, run.request.endpoint)
    if shape is None:
        raise CellError("there is nothing to read by; say --parse PATTERN or --schema X")
    layout = replace(run.layout, shape=shape)
    added = result.added_columns(layout, run.request.models)
    try:
        frames.check_clash(frame, added, layout.on_clash)
    except FrameError as error:
        said = str(error).partition(";")[0]
        raise FrameError(f"{said}; say --prefix P, which goes before the new names") from None
    return replace(run, layout=layout)


def remember_by_name(shape: Shape | None, names: Mapping[str, object]) -> None:
    """Find the class that a run's schema was made of, if it is still the same."""
    model = None if shape is None else as_pydantic_takes_it(names.get(shape.name))
    if shape is None or not isinstance(model, type):
        return
    with contextlib.suppress(CellError):
        if json_schema_of(model, shape.name) == shape.schema:
            remember(shape, model)


def _check_types(template: object, options: Options) -> None:
    """Refuse what the magic's line could not have given. Raises CellError."""
    texts = {
        "the template": template,
        "out": options.out,
        "model": options.model,
        "endpoint": options.endpoint,
        "column": options.column,
        "parse": options.parse,
        "prefix": options.prefix,
        "on": options.on,
        "tier": options.tier,
        **{f"keep[{n}]": name for n, name in enumerate(options.keep)},
    }
    for name, value in texts.items():
        if not isinstance(value, str):
            raise CellError(f"{name} is a text, not {value!r:.60}; give one")
    if not isinstance(options.live, bool):
        raise CellError(f"live is True or False, not {options.live!r:.40}; say which")
    if not isinstance(options.params or {}, Mapping):
        raise CellError(f"params is a mapping, not {options.params!r:.60}; give one")


def _as_text(params: Mapping[str, Any]) -> str:
    try:
        return json.dumps(params, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise CellError(
            f"a request parameter cannot be written as JSON: {error}; give plain values alone"
        ) from None


def check_name(name: str) -> None:
    """Refuse a name that no variable can have. Raises CellError."""
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("__"):
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
