"""The Python API: `submit`, `attach`, `runs`, `explore`, `compare`, `plot`, `estimate`.

Each function reads the settings that hold here and asks the session of a home; it holds no rule
that a magic would need as well. The trap: whoever only looks makes no home.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from batch_magic import comparison, overview, settings, sides
from batch_magic import frame as frames
from batch_magic.comparison import Comparison
from batch_magic.drafting import Options
from batch_magic.errors import BatchMagicError, CellError
from batch_magic.explorer import Explorer
from batch_magic.prepare import DryRun, Known, known_answers, rehearse
from batch_magic.records import Estimate
from batch_magic.run import Run
from batch_magic.session import drafted, session_for
from batch_magic.settings import Settings
from batch_magic.sides import Contender

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def submit(
    frame: pd.DataFrame,
    template: str,
    *,
    out: str = "result",
    model: str | None = None,
    endpoint: str = "chat",
    column: str = "",
    schema: object = None,
    parse: str = "",
    prefix: str = "",
    flatten: bool = False,
    image_max: int = 0,
    params: Mapping[str, Any] | None = None,
    with_: Mapping[str, object] | None = None,
    on: str | None = None,
    live: bool = False,
    tier: str = "",
    deadline: str | float | None = None,
    max_cost: str | float | None = None,
    sample: int | None = None,
    retries: int | None = None,
    keep: Sequence[str] = (),
    fresh: bool = False,
    on_clash: str = "error",
    on_done: Callable[[pd.DataFrame | BatchMagicError], None] | None = None,
    home: str | None = None,
) -> Run:
    """Send every row of `frame` (n rows) through `template` and return the run's handle.

    The keywords are the options of `%%gptbatch`; `with_` gives names that the template may use
    besides columns. `on_done` is called once, from a background thread, with the result or with
    the error that there is in its place; see `Run.when_ended`. Raises CellError and its kin before
    anything is sent, JournalError when the home folder cannot be used.
    """
    use = settings.from_environment(settings.environment(Path.cwd()))
    use = replace(use, home=home or use.home)
    options = Options(
        out=out,
        model=model or "",
        endpoint=endpoint,
        column=column,
        schema=schema,
        parse=parse,
        prefix=prefix,
        flatten=flatten,
        image_max=image_max,
        params=params,
        extras=with_,
        on=on or "",
        live=live,
        tier=tier,
        deadline=deadline,
        max_cost=max_cost,
        sample=sample,
        retries=retries,
        keep=tuple(keep) if isinstance(keep, (list, tuple)) else (keep,),  # type: ignore[arg-type]
        fresh=fresh,
        on_clash=on_clash,
    )
    run = session_for(use.home).submit(frame, template, options, use)
    if on_done is not None:
        run.when_ended(on_done)
    return run


def attach(
    word: str,
    *,
    home: str | None = None,
    frame: pd.DataFrame | None = None,
    id_column: str = "",
    out: str = "adopted",
    on: str = "",
) -> Run:
    """Go on with a run, by its name, its run id or the id of one of its jobs.

    A job id (`batch_…`) that no run here knows is taken in as a run called `out`: its rows are
    those of `frame` whose `id_column` holds its custom_ids (guessed when not given), or a frame
    made of its own lines. `on` names the service; a run at a base URL that nothing here names
    needs it, too: its service gets the key.
    """
    use = settings.from_environment(settings.environment(Path.cwd()))
    mine = session_for(home or use.home)
    if mine.is_foreign(word):
        return mine.adopt(word, use, out=out, frame=frame, column=id_column, on=on)
    return mine.attach(word, use, on)


def runs(*, home: str | None = None) -> pd.DataFrame:
    """Return all runs of this project, newest first: one row each."""
    use = settings.from_environment(settings.environment(Path.cwd()))
    return overview.runs_frame(session_for(home or use.home).snapshots())


def explore(
    frame: pd.DataFrame | Run | str, *, name: str = "frame", home: str | None = None
) -> Explorer:
    """Look through a frame (n rows): a widget in a notebook, text elsewhere; `name` is its title.

    Of a result, all of it or rows of it, the prompts as sent and the answers as received are shown
    too, and marks and notes are kept in the journal; any other frame is shown with what it has. A
    run, or the name of one, is looked through as far as it has come. Raises FrameError for what is
    no DataFrame, CellError for a name that no run has.
    """
    use = settings.from_environment(settings.environment(Path.cwd()))
    place = home or use.home
    if isinstance(frame, str):
        return session_for(place).explore(frame)
    if isinstance(frame, Run):
        return session_for(str(frame._home.path)).explore_run(frame)
    whole = frames.check_frame(frame, "the frame")
    facts = whole.attrs.get("gptbatch")
    run_id = facts.get("run_id") if isinstance(facts, dict) else None
    if run_id is None:
        return Explorer(whole, name=name)
    mine = session_for(place) if (Path(place).expanduser() / "journal.db").exists() else None
    if mine is None or mine.journal.find(str(run_id)) is None:
        return Explorer(
            whole, name=name, said=f"run {run_id} is not in {place}: its prompts are not here"
        )
    return mine.explore_part(whole, mine.find(str(run_id)))


def compare(
    a: str | Run | pd.DataFrame,
    b: str | Run | pd.DataFrame | None = None,
    *,
    truth: str = "",
    column: str | Sequence[str] = (),
    on: str = "",
    models: Sequence[str] = (),
    home: str | None = None,
) -> Comparison:
    """Set the answers of two runs, or the models of one, side by side, row by row.

    `a`, `b`: names or ids of runs, or frames (results, or any others). With `a` alone its models
    are compared, each with each, or those in `models`; or two columns of it; or it is held against
    `truth`, the name of a column with what is right. `column` names the answers to compare: one
    name, or one for each side; by default those that both have. Rows are matched by position
    where both are of the same frame, else by the index when it tells each row, else by the column
    `on`. Raises CellError when there is nothing to compare, FrameError when rows cannot be told.
    """
    names = (column,) if isinstance(column, str) and column else tuple(column)
    given = [a] if b is None else [a, b]
    known = [known_sides(one, home) for one in given]
    found = sides.contenders(known, names, models, truth)
    return comparison.compare(found, truth=truth, column=names, on=on)


def known_sides(given: object, home: str | None = None, name: str = "") -> Contender:
    """Return what is to be compared as a side. Raises CellError for what is none."""
    if isinstance(given, pd.DataFrame):
        side = sides.of_frame(given, name)
        return side, partial(sides.by_model, side)
    if isinstance(given, str):
        use = settings.from_environment(settings.environment(Path.cwd()))
        given = session_for(home or use.home).find(given)
    if not isinstance(given, Run):
        raise CellError(
            f"a {type(given).__name__} cannot be compared; give the name of a run, or a DataFrame"
        )
    return given._side(), given._sides_by_model


def plot(given: str | Run | pd.DataFrame | None = None, *, home: str | None = None) -> Figure:
    """Return a matplotlib figure of a run, see `Run.plot`; of none, what was paid by day and model.

    `given`: a run's name or id, its handle, or its result. Raises CellError for what is none of
    these, when there are no runs yet, and where matplotlib is not installed.
    """
    if isinstance(given, Run):
        return given.plot()
    use = settings.from_environment(settings.environment(Path.cwd()))
    mine = session_for(home or use.home)
    if given is None:
        return mine.cost_plot()
    if isinstance(given, pd.DataFrame):
        run_id = sides.of_frame(given).origin.run_id
        if not run_id:
            raise CellError("this frame is no result of a run; name the run: bm.plot('labelled')")
        given = run_id
    return mine.find(given).plot()


def estimate(
    frame: pd.DataFrame, template: str, *, home: str | None = None, **options: Any
) -> Estimate:
    """Say what `submit` with the same arguments may take and cost; send and write nothing.

    What earlier runs of this home were answered to the same prompt, such as a sample, is what
    the answers' part rests on. Raises as `submit` would.
    """
    use = settings.from_environment(settings.environment(Path.cwd()))
    use = replace(use, home=home or use.home)
    given = {"out": "result", "extras": options.pop("with_", None), **options}
    dry = dry_run(frame, template, Options(**given), use)
    assert dry.record.estimate is not None, "a rehearsal has its estimate"
    return dry.record.estimate


def dry_run(frame: object, template: str, options: Options, use: Settings) -> DryRun:
    """Render, check and count without a key or a call. Raises as `submit` would.

    A home that is there tells what was answered before; none is made.
    """
    environ = settings.environment(Path.cwd())
    word = options.on or use.backend or "openai"
    draft, held, compiled = drafted(frame, template, replace(options, on=word), use, environ)
    known = Known()
    if (Path(use.home).expanduser() / "journal.db").exists():
        mine = session_for(use.home)
        known = known_answers(mine.home, mine.journal, draft, fresh=options.fresh)
    return rehearse(draft, held, compiled, known)
