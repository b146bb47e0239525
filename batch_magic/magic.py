"""`%%gptbatch` and `%gptbatch`: take the line apart, ask the session, show the panel, hand over.

It knows IPython's magics and what each verb is to do, and holds no rule that could not be asked
of `session` without a notebook. The traps: a background thread leaves what is for the user's
namespace to `handover`; a blocking cell in a kernel is an async cell (see `awaiting`), so that
Cancel and Interrupt work; and a mistake is one line, but it still raises.
"""

from __future__ import annotations

import asyncio
import builtins
import difflib
import json
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import Field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from IPython.display import display
from traitlets import Dict, Float, Integer, Unicode

from batch_magic import (
    cell_line,
    comparison,
    manual,
    overview,
    python_api,
    session,
    settings,
    sides,
    standing,
)
from batch_magic.awaiting import AWAITED, Rewrite, async_cells, is_headless
from batch_magic.card import clip, count_words, size_words, time_words
from batch_magic.case_sheet import clinic_text
from batch_magic.cell_line import listed, option, want
from batch_magic.clinic import Clinic, Deeds, is_possible
from batch_magic.comparison import Comparison
from batch_magic.diagnosis import Case
from batch_magic.drafting import Options
from batch_magic.dry_sheet import dry_run_text, indented, request_text, rest_words
from batch_magic.engine import METADATA_RUN
from batch_magic.errors import BatchMagicError, CellError, Detached, StillRunning
from batch_magic.explorer import Explorer
from batch_magic.handover import HandOver, left_words
from batch_magic.lifecycle import ENDED_STATUSES
from batch_magic.matcher import Completions
from batch_magic.panel import Shown, open_panel
from batch_magic.project import ProjectView, show_table
from batch_magic.records import Ending, RemoteJob, RowStatus
from batch_magic.run import Run
from batch_magic.settings import Settings
from batch_magic.standing import Deed
from batch_magic.wording import counted

_TRAITS = {str: Unicode, int: Integer, float: Float}
_TELL_S = 0.2
_NEAR = 0.7  # how alike a name must be to be offered: one letter of three may differ
_EVENTS = 10  # how many of the latest events `show` prints

VERBS = {
    "list": "all runs of this project as a DataFrame; `%gptbatch` alone shows them live",
    "status": "[NAME] show the panel of a run once more; without NAME all runs, as `list`",
    "wait": "NAME [--timeout 10m] block the cell until a run has ended",
    "cancel": "NAME … | --all cancel runs; rows that have finished are kept",
    "retry": "NAME [--status failed,… | --cause 1,…] [--live] [--max-cost USD]"
    " send rows without an answer again",
    "submit": "NAME give leave to a run that may cost more than confirm_above_usd",
    "finish": "NAME [--max-cost USD] finish what is left of a run through the realtime API;"
    " its batches are cancelled first",
    "reparse": "NAME --parse PATTERN | --schema X [--prefix P] [--flatten]"
    " read the answers of a run anew, for nothing",
    "compare": "NAME [NAME] [--truth COLUMN] [--column X,Y] [--on COLUMN] [--models X,Y]"
    " set the answers of two runs side by side, row by row",
    "plot": "[NAME] draw outcomes, tokens and times of a run; without NAME cost by day and model",
    "errors": "NAME why rows have no answer: causes, how often, an example of each",
    "explore": "NAME look through the rows of a run or a DataFrame: sort, search, mark",
    "clinic": "NAME rows without a good answer, by cause: its cure, what a retry costs, buttons",
    "cost": "[NAME] tokens and dollars of all runs, or of one, as paid and as if at once",
    "attach": "NAME | batch_… [-o NAME] [--frame FRAME] [--id COLUMN] [--on BACKEND]"
    " go on with a run of an earlier kernel, or with a batch made elsewhere",
    "take": "NAME [--drop 1,…] put a run's result in the namespace now, whole or without some rows",
    "show": "NAME template, parameters, latest events and one rendered request of a run",
    "recover": "[--on BACKEND] jobs of ours at the service that no run knows: adopt or cancel them",
    "clean": "[NAME] [--remote] [--yes] delete files of ended runs, here (and at the"
    " service); asks first",
    "help": "[VERB] all verbs, or one of them in full",
}


def _usage(verb: str) -> str:
    return f"%gptbatch {verb} {cell_line.usage_of(VERBS[verb])[0]}"


def _trait(one: Field[Any]) -> Any:
    kind = Dict if one.name == "prices" else _TRAITS[type(one.default)]
    default = {} if kind is Dict else one.default
    return kind(default, help=one.metadata["help"])


# One trait a setting, so that `%config GPTBatch` lists and sets them.
_meta: Any = type(Magics)
_Configured: Any = _meta(
    "_Configured",
    (Magics,),
    {one.name: _trait(one).tag(config=True) for one in fields(Settings)},
)


@magics_class
class GPTBatch(_Configured):  # type: ignore[misc]
    """The magics of one shell."""

    def __init__(self, shell: InteractiveShell) -> None:
        given = settings.from_environment(settings.environment(Path.cwd()))
        configured = set(shell.config.get("GPTBatch", {}))
        from_env = {
            one.name: getattr(given, one.name)
            for one in fields(Settings)
            if one.name not in configured
        }
        if "prices" in from_env:
            from_env["prices"] = given.price_table()
        super().__init__(shell, **from_env)
        self._handover = HandOver(shell)
        self._panels: dict[str, Shown] = {}
        self._reports: dict[str, Callable[[], None]] = {}  # of samples, until they have ended
        self.completions = Completions(shell, VERBS, self._names_of_home)
        self._projects: list[ProjectView] = []  # those that somebody may be looking at

    # -- the cell ---------------------------------------------------------------------------

    @no_var_expand
    @cell_magic
    def gptbatch(self, line: str, cell: str) -> None:
        """Send every row of a DataFrame through a prompt template, by OpenAI's Batch API.

        `%%gptbatch FRAME -o NAME -m MODEL`, then the template: `{{ column }}`, Jinja2. A line
        of its own `system:`, `user:`, `assistant:` or `developer:` starts a message. The cell
        returns at once; NAME is the frame with its answers when the run has ended.
        `%%gptbatch --help` lists the options, `%gptbatch help` the verbs.
        """
        started = self._start(line, cell)
        if started is not None and self.must_wait(line):
            self._block(started)

    @no_var_expand
    @cell_magic(AWAITED)  # type: ignore[arg-type]  # a name, as IPython documents it
    def gptbatch_awaited(self, line: str, cell: str) -> Coroutine[Any, Any, None]:
        """Do what `%%gptbatch` does, to be awaited."""
        started = self._start(line, cell)
        return self._until_ended(started)

    def must_wait(self, line: str) -> bool:
        """Tell whether a cell with this line is to block until its run has ended."""
        try:
            asked = cell_line.parse_cell(line)
        except BatchMagicError:
            return False  # the magic itself says what is wrong
        wish = "always" if asked.sample is not None else asked.wait or self.wait
        return bool(wish == "always" or (wish == "auto" and is_headless(self.shell)))

    def _start(self, line: str, cell: str) -> Run | None:
        """Do the cell; return the run that it may have to wait for."""
        asked = cell_line.parse_cell(line)
        if asked.help:
            print(manual.cell_help(VERBS))
            return None
        frame = self._frame(asked.frame)
        out = asked.out or _default_out(asked.frame)
        options = Options(
            out=out,
            model=asked.model or "",
            endpoint=asked.endpoint,
            column=asked.column,
            schema=self._schema(asked.schema),
            schema_name=asked.schema,
            parse=asked.parse,
            prefix=asked.prefix,
            flatten=asked.flatten,
            image_max=asked.image_max,
            params=asked.params,
            extras={name: self._variable(name) for name in asked.extras},
            on=asked.on,
            live=asked.live,
            tier=asked.tier,
            deadline=asked.deadline,
            max_cost=asked.max_cost,
            sample=asked.sample,
            may_ask=not is_headless(self.shell),
            retries=asked.retries,
            keep=asked.keep,
            fresh=asked.fresh,
            on_clash=asked.on_clash,
            frame_name=asked.frame if asked.frame.isidentifier() else "the frame",
        )
        use = self._settings()
        if asked.dry_run:
            print(dry_run_text(python_api.dry_run(frame, cell, options, use)))
            return None
        self._check_out(out, asked.on_clash)
        run = session.session_for(use.home).submit(frame, cell, options, use)
        if asked.sample is not None:
            rest = replace(options, sample=None)
            self._reports[run.run_id] = lambda: self._report(run, frame, rest, line, cell)
        self._present(run)
        return run

    def _report(self, run: Run, frame: object, rest: Options, line: str, cell: str) -> None:
        """Show a sample's answers, what they took, and what the rest would."""
        found, s = run.result(), run.snapshot()
        display(found)  # type: ignore[no-untyped-call]  # IPython leaves it so
        print(f"sample: {size_words(s)}, {', '.join(count_words(s))} · {' · '.join(time_words(s))}")
        dry = python_api.dry_run(frame, cell, rest, self._settings())
        print(f"the rest: {rest_words(dry)}")
        print(f"to submit it: %%gptbatch {_without_sample(line)}")
        if rest.fresh:
            print("with --fresh the rows of the sample are paid for again: leave it out")

    def _check_out(self, name: str, on_clash: str) -> None:
        """Refuse to replace a variable that holds neither a run nor an earlier result."""
        ns = self.shell.user_ns
        if name not in ns and not hasattr(builtins, name):
            return
        held = ns.get(name, getattr(builtins, name, None))
        is_ours = isinstance(held, Run) or "gptbatch" in getattr(held, "attrs", {})
        if not is_ours and on_clash != "replace":
            raise CellError(
                f"variable {name!r} holds a {type(held).__name__} already; choose another name"
                " with -o, or (for a cell) say --on-clash replace"
            )

    def _frame(self, expression: str | None) -> object:
        if not expression:
            raise CellError("%%gptbatch wants a DataFrame; write %%gptbatch FRAME -o NAME -m MODEL")
        if expression.isidentifier():
            return self._variable(expression)
        try:
            return eval(expression, self.shell.user_global_ns, self.shell.user_ns)
        except Exception as error:
            raise CellError(
                f"FRAME {expression!r} fails: {type(error).__name__}: {error}; mend it, or"
                " give it a name in a cell of its own"
            ) from None

    def _variable(self, name: str) -> object:
        if name in self.shell.user_ns:
            return self.shell.user_ns[name]
        near = difflib.get_close_matches(name, self.completions.names(), n=1, cutoff=_NEAR)
        hint = f"did you mean {near[0]!r}?" if near else "run the cell that makes it first"
        raise CellError(f"there is no variable {name!r}; {hint}")

    def _schema(self, word: str) -> object:
        """Return what `--schema` names: nothing, a line of fields, or something of the notebook."""
        if not word:
            return None
        if all(part.isidentifier() for part in word.split(".")):
            known = self._variable(word.split(".")[0])
            return known if word.isidentifier() else self._frame(word)
        return word

    def _settings(self) -> Settings:
        values = {one.name: getattr(self, one.name) for one in fields(Settings)}
        return settings.check(
            Settings(**{**values, "prices": json.dumps(values["prices"], default=str)})
        )

    # -- the line ---------------------------------------------------------------------------

    @no_var_expand
    @line_magic("gptbatch")  # type: ignore[arg-type]
    def gptbatch_line(self, line: str) -> Any:
        """Look after runs: `%gptbatch` shows them all, `%gptbatch help` lists the verbs."""
        if not line.strip():
            return self._show_project()
        verb, words = self._verb(line)
        if verb == "wait":
            run, timeout_s = self._waited_for(words)
            return self._block(run, timeout_s)
        do: Callable[[list[str]], Any] = getattr(self, f"_do_{verb}")
        return do(words)

    @no_var_expand
    @line_magic(AWAITED)  # type: ignore[arg-type]
    def gptbatch_line_awaited(self, line: str) -> Coroutine[Any, Any, None]:
        """Do what `%gptbatch wait` does, to be awaited."""
        _, words = self._verb(line)
        run, timeout_s = self._waited_for(words)
        return self._until_ended(run, timeout_s)

    def _verb(self, line: str) -> tuple[str, list[str]]:
        verb, *words = cell_line.split(line)
        if verb not in VERBS:
            near = difflib.get_close_matches(verb, VERBS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(VERBS)}"
            raise CellError(f"%gptbatch knows no verb {verb!r}; {hint}")
        return verb, words

    def _do_list(self, words: list[str]) -> pd.DataFrame | None:
        want(words, 0, "%gptbatch list")
        home = self._session()
        if pictures := home.snapshots():
            return overview.runs_frame(pictures)
        print(f"there are no runs yet in {home.home.path}")
        return None

    def _show_project(self) -> None:
        """Show all runs of this home: live where there is a page, else as a table."""
        home = self._session()
        path = str(home.home.path)
        standings = home.lookout().look(time.time())
        if getattr(self.shell, "kernel", None) is None:
            print(standing.table_text(standings, time.time(), path))
            print(standing.BY_HAND if standings else standing.BEGIN)
            return
        if is_headless(self.shell):
            show_table(standings, path)
            return
        for view in self._projects:
            if not view.is_looked_at:
                view.close()
        deeds = {deed: partial(self._by_click, deed) for deed in Deed}
        view = ProjectView(path, home.lookout, deeds, lambda: self.is_busy)
        self._projects = [one for one in self._projects if one.is_looked_at] + [view]
        view.show()

    def _by_click(self, deed: Deed, run_id: str, view: ProjectView) -> object:
        """Do what was clicked in the project view; in any thread, so no name is bound here."""
        home, use = self._session(), self._settings()
        if deed is Deed.EXPLORE:
            return home.explore(run_id)
        if deed is Deed.CANCEL:
            home.find(run_id).cancel()
        elif deed in (Deed.CLEAN, Deed.CLEAN_REMOTE):
            (run,) = home.cleanable(run_id)
            home.clean(run, use, remote=deed is Deed.CLEAN_REMOTE)
            view.say(f"{run.name} is deleted; its rows would be paid for again")
        else:
            self._handover.promise_when_idle(self._gone_on(deed, run_id), view)
        return None

    def _gone_on(self, deed: Deed, run_id: str) -> Run:
        """Let a run go on, in the way that was clicked."""
        home, use = self._session(), self._settings()
        if deed is Deed.SUBMIT:
            return home.confirm(run_id, use)
        if deed is Deed.RETRY:
            return home.retry(run_id, [], use)
        return home.attach(run_id, use, "", dict(self.shell.user_ns))

    def _do_help(self, words: list[str]) -> None:
        if not words:
            print(manual.verbs_help(VERBS))
            print("%%gptbatch --help has the options of the cell.")
            return
        want(words, 1, "%gptbatch help [VERB]")
        verb, _ = self._verb(words[0])
        doc = getattr(getattr(self, f"_do_{verb}", None), "__doc__", None) or ""
        print(manual.verb_help(verb, VERBS[verb], " ".join(doc.split())))

    def _do_status(self, words: list[str]) -> Any:
        if not words:
            return self._do_list([])
        want(words, 1, "%gptbatch status NAME")
        run = self._session().find(words[0])
        self._show(run)
        return None

    def _do_retry(self, words: list[str]) -> None:
        words, given = option(words, "--status", "names, such as failed,expired")
        words, causes = option(words, "--cause", "numbers as `errors` has them, such as 1,2")
        words, cap = option(words, "--max-cost", "US dollars, or any")
        live, words = "--live" in words, [word for word in words if word != "--live"]
        want(words, 1, _usage("retry"))
        labels = [label.strip() for label in (given or "").split(",") if label.strip()]
        numbers = cell_line.numbers("--cause", causes)
        home, use = self._session(), self._settings()
        run = home.retry(words[0], labels, use, cause=numbers, live=live, max_cost=cap)
        self._present(run)

    def _do_submit(self, words: list[str]) -> None:
        want(words, 1, "%gptbatch submit NAME")
        self._present(self._session().confirm(words[0], self._settings()))

    def _do_finish(self, words: list[str]) -> None:
        words, cap = option(words, "--max-cost", "US dollars, or any")
        want(words, 1, _usage("finish"))
        self._present(self._session().finish(words[0], self._settings(), max_cost=cap))

    def _do_reparse(self, words: list[str]) -> None:
        words, pattern = option(words, "--parse", "a pattern")
        words, schema = option(words, "--schema", "a schema")
        words, prefix = option(words, "--prefix", "a text")
        flat, words = "--flatten" in words, [word for word in words if word != "--flatten"]
        want(words, 1, _usage("reparse"))
        options = Options(
            out="",
            schema=self._schema(schema or ""),
            schema_name=schema or "",
            parse=pattern or "",
            prefix=prefix or "",
            flatten=flat,
        )
        home = self._session()
        self._check_out(home.find(words[0]).name, "error")
        before = home.find(words[0]).snapshot().notes
        run = home.reparse(words[0], options)
        self._handover.give(run, run.result())
        fit = run.snapshot().counts.get(RowStatus.OK, 0)
        print(f"{run.name}: {counted(fit, 'answer')} of {size_words(run.snapshot())} fit")
        for note in set(run.snapshot().notes) - set(before):
            print(f"  {note}")

    def _do_errors(self, words: list[str]) -> pd.DataFrame | None:
        want(words, 1, "%gptbatch errors NAME")
        run = self._session().find(words[0])
        if len(errors := run.errors()):
            print(f"%gptbatch clinic {run.name} shows what cures each and what a retry costs")
            return errors
        print(f"{run.name}: every row that was asked for and has come in has an answer")
        return None

    def _do_explore(self, words: list[str]) -> Explorer:
        want(words, 1, "%gptbatch explore NAME")
        found = self._explorer_of(words[0])
        held = self.shell.user_ns.get("explorer")
        if held is None or isinstance(held, Explorer):  # else it is the user's own
            self.shell.user_ns["explorer"] = found
        return found

    def _explorer_of(self, word: str) -> Explorer:
        """Return an explorer of the run of this name, else of the DataFrame of this name."""
        held, home = self.shell.user_ns.get(word), self._session()
        if isinstance(held, pd.DataFrame) and home.journal.find(word) is None:
            return python_api.explore(held, name=word, home=self._settings().home)
        return home.explore_run(self._run_not_frame(word))

    def _do_clinic(self, words: list[str]) -> None:
        want(words, 1, "%gptbatch clinic NAME")
        run = self._session().find(words[0])
        found = run.diagnosis()
        if not is_possible():
            print(clinic_text(found))
            return
        deeds = Deeds(
            retry=lambda case, live: self._retry_cause(run, case, live, shown.say),
            drop=partial(self._handover.drop, run),
            diagnose=run.diagnosis,
            in_background=run.in_background,
        )
        shown = Clinic(found, run.snapshot(), deeds)
        shown.show()
        run.listen(shown.update)
        self._handover.watch(run, shown.leave_out)

    def _retry_cause(self, run: Run, case: Case, live: bool, say: Callable[[str], None]) -> None:
        """Send the rows of a cause again; when they are in, the name holds the new result."""
        self._session().retry_cause(run, case, self._settings(), live=live)
        self._handover.renew(run, say)

    def _do_compare(self, words: list[str]) -> Comparison:
        words, truth = option(words, "--truth", "a column")
        words, columns = option(words, "--column", "a column, or one of each side: x,y")
        words, on = option(words, "--on", "a column")
        words, models = option(words, "--models", "models, such as gpt-5-mini,gpt-5-nano")
        if len(words) not in (1, 2):
            raise CellError(f"the words do not fit; write {_usage('compare')}")
        known = [self._known_side(word) for word in words]
        names = listed(columns)
        found = sides.contenders(known, names, listed(models), truth or "")
        return comparison.compare(found, truth=truth or "", column=names, on=on or "")

    def _known_side(self, word: str) -> sides.Contender:
        """Return the run of this name, else the DataFrame of this name, as a side."""
        try:
            return python_api.known_sides(self._run_not_frame(word))
        except CellError:
            held = self.shell.user_ns.get(word)
            if not isinstance(held, pd.DataFrame):
                raise
            return python_api.known_sides(held, name=word)

    def _run_not_frame(self, word: str) -> Run:
        """Return the run of this name, where no DataFrame has it that would have done as well."""
        try:
            return self._session().find(word)
        except CellError as error:
            raise CellError(f"{error}; a DataFrame's name does as well, none is {word!r}") from None

    def _do_plot(self, words: list[str]) -> Any:
        want(words, min(len(words), 1), "%gptbatch plot [NAME]")
        home = self._session()
        return home.find(words[0]).plot() if words else home.cost_plot()

    def _do_cost(self, words: list[str]) -> pd.DataFrame | None:
        home = self._session()
        want(words, min(len(words), 1), "%gptbatch cost [NAME]")
        pictures = [home.find(words[0]).snapshot()] if words else home.snapshots()
        if not pictures:
            print(f"there are no runs yet in {home.home.path}")
            return None
        found = overview.cost_frame(pictures)
        print(overview.cost_words(pictures))
        return found

    def _do_attach(self, words: list[str]) -> None:
        words, out = option(words, "-o", "a name")
        words, frame = option(words, "--frame", "a DataFrame")
        words, column = option(words, "--id", "a column")
        words, on = option(words, "--on", "a backend")
        want(words, 1, _usage("attach"))
        home, use = self._session(), self._settings()
        if home.is_foreign(words[0]):
            whole = None if frame is None else self._frame(frame)
            name = out or "adopted"
            self._check_out(name, "error")
            run = home.adopt(words[0], use, out=name, frame=whole, column=column or "", on=on or "")
        elif out or frame or column:
            raise CellError(f"{words[0]} is a run of this home; attach it by its name alone")
        else:
            run = home.attach(words[0], use, on or "", self.shell.user_ns)
        self._present(run)
        if run.snapshot().ending in (Ending.FINISHED, Ending.CANCELLED):
            self._handover.give(run, run.result())

    def _do_take(self, words: list[str]) -> None:
        words, given = option(words, "--drop", "numbers as `errors` has them, such as 1,2")
        want(words, 1, _usage("take"))
        run, numbers = self._session().find(words[0]), cell_line.numbers("--drop", given) or ()
        frame = run.result(drop=numbers)
        self._handover.give(run, frame, run.causes_of(numbers) if numbers else ())
        print(f"the result is in {run.name}")
        if numbers:
            print(f"  {left_words(run, frame)}")

    def _do_cancel(self, words: list[str]) -> None:
        home = self._session()
        if words == ["--all"]:
            words = [s.run_id for s in home.snapshots() if not s.is_ended]
            if not words:
                print("no run is going on")
        elif not words:
            raise CellError("no run is named; write %gptbatch cancel NAME, or --all")
        for run in [home.find(word) for word in words]:
            if run.snapshot().ending in (Ending.FINISHED, Ending.CANCELLED):
                print(f"{run.name} has ended already")
                continue
            run.cancel()
            print(f"{run.name}: cancel asked for; rows that finish until then are kept")

    def _do_recover(self, words: list[str]) -> None:
        words, on = option(words, "--on", "a backend")
        want(words, 0, _usage("recover"))
        home, use = self._session(), self._settings()
        jobs = home.orphans(use, on or "")
        if not jobs:
            print("the service has no job of ours that no run of this home knows")
            return
        for number, job in enumerate(jobs, start=1):
            print(f"{number:3}  {_described(job)}")
        print("a job that another folder's run waits for is best left to it")
        for number, job in enumerate(jobs, start=1):
            may_cancel = job.status not in ENDED_STATUSES
            ways = f"adopt it as recovered_{number}{', cancel it' * may_cancel}, leave it, quit"
            keys = "a/c/N/q" if may_cancel else "a/N/q"
            answer = _answer(f"{number} {job.batch_id}: {ways}? [{keys}] ")[:1]
            if answer == "q":
                return
            if answer == "a":
                name = f"recovered_{number}"
                self._check_out(name, "error")
                self._present(home.adopt(job.batch_id, use, out=name, on=on or ""))
            elif answer == "c" and may_cancel:
                home.cancel_orphan(job, use, on or "")
                print(f"{job.batch_id}: cancel asked for; rows that finish until then are billed")

    def _do_clean(self, words: list[str]) -> None:
        flags = {word for word in words if word.startswith("--")}
        names = [word for word in words if word not in flags]
        if flags - {"--remote", "--yes"} or len(names) > 1:
            raise CellError(f"the words do not fit; write {_usage('clean')}")
        home = self._session()
        runs = home.cleanable(names[0] if names else "")
        for run in runs:
            size = counted(run.rows, "row")
            print(f"{run.run_id} ({run.name}), {size}, {run.ending.value if run.ending else ''}")
        where = "here and at the service" if "--remote" in flags else "here"
        if not runs:
            print(
                "no run can be cleaned away: those that have ended and whose result was taken can"
            )
        elif "--yes" in flags or _answer(f"delete their files {where}? [y/N] ") in ("y", "yes"):
            for run in runs:
                home.clean(run, self._settings(), remote="--remote" in flags)
            print("deleted; their rows would be paid for again")

    def _do_show(self, words: list[str]) -> None:
        want(words, 1, "%gptbatch show NAME")
        run = self._session().find(words[0])
        s = run.snapshot()
        size = f"{size_words(s)}, {counted(len(s.jobs), 'job')}"
        print(f"run       {s.run_id} ({s.name}), {size}")
        print(f"backend   {' '.join(dict.fromkeys((s.backend.name, s.backend.base_url)))}")
        print(f"endpoint  {s.request.endpoint}\nmodel     {s.request.model}")
        print(f"params    {json.dumps(dict(s.request.params), ensure_ascii=False)}")
        print(f"template\n{indented(s.request.template)}")
        history = run.history()
        if len(history) > _EVENTS:
            print(f"… {counted(len(history) - _EVENTS, 'earlier event')}")
        for at, event in history[-_EVENTS:]:
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))}  {event}")
        example = run.example()
        if example is not None:
            print(f"first request\n{request_text(example)}")

    def _waited_for(self, words: list[str]) -> tuple[Run, float | None]:
        words, given = option(words, "--timeout", "a duration, such as 10m")
        timeout_s = None if given is None else cell_line.duration_s(given)
        want(words, 1, _usage("wait"))
        run = self._session().attach(words[0], self._settings())
        if run.run_id not in self._panels and not run.snapshot().is_ended:
            self._present(run)
        return run, timeout_s

    def _session(self) -> session.Session:
        return session.session_for(self._settings().home)

    # -- showing and waiting ----------------------------------------------------------------

    def _present(self, run: Run) -> None:
        """Bind the run's name to its handle, show its panel, and hand over when it ends."""
        panel = self._show(run)
        self._handover.promise(run, panel)

    def _show(self, run: Run) -> Shown:
        panel = open_panel(
            run.snapshot(),
            on_cancel=run.cancel,
            on_finish=partial(run.finish, "any"),  # its question has told the price
            on_submit=partial(self._give_leave, run),
        )
        self._panels[run.run_id] = panel
        panel.show()
        run.listen(panel.update)
        return panel

    def _give_leave(self, run: Run) -> None:
        self._session().confirm(run.run_id, self._settings())

    def _block(self, run: Run, timeout_s: float | None = None) -> None:
        """Wait in a plain loop: where cells cannot be awaited."""
        panel = self._panels.get(run.run_id)
        left_s = timeout_s
        try:
            while not run.snapshot().is_ended:
                if panel is not None:
                    panel.tell()
                slice_s = _TELL_S if left_s is None else min(_TELL_S, left_s)
                if _ended_within(run, slice_s):
                    break
                left_s = None if left_s is None else left_s - slice_s
                if left_s is not None and left_s <= 0:
                    raise StillRunning(run.hint())
        except KeyboardInterrupt:
            raise Detached(_detached(run)) from None
        self._finish(run, run.result())

    async def _until_ended(self, run: Run | None, timeout_s: float | None = None) -> None:
        """Wait without holding the kernel's loop: Cancel and Interrupt are answered at once."""
        if run is None:
            return
        try:
            frame = await asyncio.wait_for(_frame_of(run), timeout_s)
        except TimeoutError:
            raise StillRunning(run.hint()) from None
        except asyncio.CancelledError:
            raise Detached(_detached(run)) from None
        self._finish(run, frame)

    def _finish(self, run: Run, frame: pd.DataFrame) -> None:
        panel = self._panels.get(run.run_id)
        if panel is not None:
            panel.update(run.snapshot())
            panel.say(f"the result is in `{run.name}`")
            panel.tell()
        self._handover.give(run, frame)
        if report := self._reports.pop(run.run_id, None):
            report()

    @property
    def is_busy(self) -> bool:
        """Tell whether a cell is running."""
        return self._handover.is_busy

    def greet(self) -> None:
        """Say which runs of this project are unfinished, if there is a project here."""
        if not (Path(self.home).expanduser() / "journal.db").exists():
            return
        try:
            pictures = self._session().snapshots()
            left = [s for s in pictures if s.ending in (None, Ending.STOPPED)]
            newest = {s.name: s.run_id for s in reversed(pictures)}
        except BatchMagicError as error:
            print(f"batch_magic: {error}")
            return
        for s in left:
            state = f"stopped: {clip(s.fault or '', 200)}" if s.ending else s.stage.value
            word = s.name if newest[s.name] == s.run_id else s.run_id
            size = size_words(s)
            verb = "attach" if s.asks_usd is None else "submit"
            print(f"unfinished: {s.name} ({size}, {state}) · %gptbatch {verb} {word}")

    def _names_of_home(self) -> Sequence[tuple[str, str, str | None, int, str, str]]:
        """Return the names of this home's runs, if there is a home: a look makes none."""
        if not (Path(self.home).expanduser() / "journal.db").exists():
            return ()
        return self._session().journal.names()

    def close(self) -> None:
        """Take the hooks out of the shell; nothing looks at a home any more."""
        self.completions.remove()
        for view in self._projects:
            view.close()
        self._projects.clear()
        self._handover.close()


# What `%%gptbatch?`, `%gptbatch?` and Shift-Tab show: a page finds the line's by the bare name.
_documented: tuple[Any, ...] = (GPTBatch.gptbatch, GPTBatch.gptbatch_line)
for _magic in _documented:
    _magic.__doc__ = manual.cell_help(VERBS)


async def _frame_of(run: Awaitable[pd.DataFrame]) -> pd.DataFrame:
    return await run


def _ended_within(run: Run, seconds: float) -> bool:
    try:
        run.wait(timeout_s=seconds)
    except StillRunning:
        return run.snapshot().is_ended
    return True


def _detached(run: Run) -> str:
    return f"{run.name} goes on without this cell; wait for it again: %gptbatch wait {run.name}"


def _without_sample(line: str) -> str:
    return re.sub(r"\s*--sample[=\s]\s*\d+", "", f" {line}").strip()


def _described(job: RemoteJob) -> str:
    created = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.created_at or 0))
    rows, made_by = counted(job.total or 0, "row"), job.metadata.get(METADATA_RUN, "?")
    return f"{job.batch_id}  {job.status}, {rows}, created {created} by run {made_by}"


def _answer(question: str) -> str:
    """Ask the user. Raises CellError where nobody is there to ask."""
    try:
        return input(question).strip().lower()
    except (EOFError, NotImplementedError):
        raise CellError(
            f"nobody is there to answer: {question.strip()}; run it in a notebook"
        ) from None


def _default_out(frame: str | None) -> str:
    if frame and frame.isidentifier():
        return f"{frame}_out"
    raise CellError("FRAME is no plain name; name the result with -o NAME")


# -- loading --------------------------------------------------------------------------------

_loaded: dict[InteractiveShell, tuple[GPTBatch, Rewrite, Rewrite]] = {}


def load(shell: InteractiveShell) -> None:
    """Register the magics with a shell; again, it does nothing."""
    if shell in _loaded:
        return
    magics = GPTBatch(shell)
    shell.register_magics(magics)
    cells, lines = async_cells(shell, magics)
    shell.input_transformers_cleanup.append(cells)
    shell.input_transformers_post.append(lines)
    magics.completions.install()
    _loaded[shell] = (magics, cells, lines)
    magics.greet()


def unload(shell: InteractiveShell) -> None:
    """Take everything out of the shell again and stop the background thread."""
    found = _loaded.pop(shell, None)
    if found is None:
        return
    magics, cells, lines = found
    shell.input_transformers_cleanup.remove(cells)
    shell.input_transformers_post.remove(lines)
    magics.close()
    for kind in ("line", "cell"):
        for name in ("gptbatch", AWAITED):
            shell.magics_manager.magics[kind].pop(name, None)
    session.close_sessions()
