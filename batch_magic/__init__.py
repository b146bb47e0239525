"""One notebook cell from DataFrame to merged DataFrame through OpenAI's Batch API.

The map of the house. An import goes down a floor, never sideways, never up; each outside thing
has its rooms, and `tests/test_architecture.py` holds this against the code. Read from the top of
the list down, the rooms tell the way of a row.

    floor 11 magic           %%gptbatch, %gptbatch: a line taken to its room         (IPython)
    floor 10 python_api      submit, attach, runs, explore, compare, plot, estimate
    floor 9  session         one home of this process put together
             handover        results into the user's namespace            (IPython, pandas)
             clinic          draws a diagnosis in the cell, with buttons          (ipywidgets)
    floor 8  run             the handle: waits, gives the frame
             case_sheet      a diagnosis as HTML and as text
             dry_sheet       a dry run as text
    floor 7  prepare         rows out: render, encode, leave out, cut shards, one commit
             engine          intent meets effect: journal → lifecycle → api → journal (asyncio)
             diagnosis       why rows have no answer: causes, cures, prices       (pandas)
             drafting        what a cell asks for, checked and drafted as a run
             explorer        a frame to look through, in the page  (anywidget, traitlets, IPython)
             matcher         what Tab offers in this shell                        (IPython, pandas)
             panel           draws a snapshot in the cell                         (ipywidgets)
             project         draws all runs of a home, live           (ipywidgets, anywidget)
    floor 6  resending       which lines go out again, or are taken over from other runs
             settling        how a run comes out: a glimpse while it goes on, its sums at the end
             result          outcomes put onto the frame
             closeup         one row seen whole: its request and its answer, as they went
             buttons         what a person may do to a run just now               (ipywidgets)
             lookout         all runs of a home, looked at again and again
    floor 5  causes          what rows without an answer have in common; which rows a wish means
             billing         what answers took, and what was saved: tokens and dollars
             adoption        a job that was made elsewhere, taken in as a run
             comparison      answers side by side, to be taken home
             sides           results and frames as sides of a comparison
             measuring       tokens and times of a run's answers
             cleaning        when a run may be forgotten
    floor 4  outcomes        what became of each row: files read, judged, added up
             live            the live lane: lines through the realtime API            (asyncio)
             services        a backend's service, connected; the sandbox, launched
             standing        how runs stand side by side, and what may be done to each
             report          a comparison as HTML and as text
             plots           pictures of runs, costs and comparisons             (matplotlib)
    floor 3  journal         durable memory                                          (sqlite3)
             folder          shards, result files, outcomes on the disk
             api             Files, Batches, realtime: each call made once            (openai)
             heartbeat       one daemon thread with its own loop                   (threading)
             bell            tells that a run has ended: page and terminal         (anywidget)
             completion      what may stand at the cursor of a cell half typed
             manual          the options and verbs, explained
             caps            how much may be spent, and who is asked first
             clicks          clicks that are heard while a cell is running
             overview        runs side by side, as frames                             (pandas)
             findings        what sides have in common, and against the truth         (pandas)
    floor 2  cell_line       the magic's line taken apart
             settings        defaults, environment, .env, keys
             template        cell text → messages, one rendered prompt per row
             frame           rows out of a DataFrame, outcomes back in        (pandas, pyarrow)
             browse          a frame seen through a query         (pandas, pyarrow, numpy)
             stored_frame    the frame's snapshot on the disk                 (pandas, pyarrow)
             wire            request lines out                                         (orjson)
             packing         where a shard is cut
             result_lines    result lines in                                          (msgspec)
             answers         answer text → typed columns: schema or pattern    (msgspec, parse)
             strict_schema   a user's schema as strict mode takes it                 (pydantic)
             lifecycle       transition tables and next_actions(record, now)
             picture         a record as a person sees it: the snapshot
             costs           whose prices hold; what a run may cost
             schema          the journal's tables, records as rows           (sqlite3, msgspec)
             resolution      several words about a row → one outcome
             digests         which lines are the same
             card            a snapshot as HTML and as text
             pairing         which row of one frame is which of another               (pandas)
             coding          columns of any dtypes as codes of their values           (pandas)
    floor 1  cell_body       a cell's body cut into messages
             prompt_language the language between double braces, sandboxed             (jinja2)
             template_names  the names in a template                                   (jinja2)
             durable_files   bytes on the disk, known by their hash
             progress        rows done over time: a rate, a line of blocks
             guide           what happens to a run just now, and what may be done
             queueing        room in the service's queue
             pacing          how fast a realtime service may be asked
             images          an image of a row as a URL                              (Pillow)
             money           what tokens cost                                  (genai-prices)
             tokens          how many tokens request lines have                      (toktok)
             value_words     any value of a frame as words                   (pandas, numpy)
             agreement       kappa, scores by label, differences, likeness of texts
             exact_json      a cell's value as JSON that gives it back                 (pandas)
             cures           what usually helps a row without an answer
    floor 0  records         the nouns
             errors          one root, families by whose move is next
             awaiting        cells that wait and leave the kernel free               (IPython)
             wording         numbers in sentences
    –        sandbox/        an island: a local service that speaks the same API

The words: a *run* is one cell's execution over one frame; a *row* is known by its position,
never by its index label; a *line* is one request for one row; a *shard* is the lines of one
input file; a *job* is one remote batch working on one shard; an *outcome* is what became of a
row; a *snapshot* is a frozen picture of a run. The *live lane* sends lines through the realtime
API instead: a live job has no batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Run", "attach", "compare", "estimate", "explore", "plot", "runs", "submit"]
__all__ += ["load_ipython_extension", "unload_ipython_extension"]
if TYPE_CHECKING:
    from batch_magic.python_api import attach, compare, estimate, explore, plot, runs, submit
    from batch_magic.run import Run


def __getattr__(name: str) -> Any:
    if name == "Run":
        from batch_magic.run import Run

        return Run
    if name in ("attach", "compare", "estimate", "explore", "plot", "runs", "submit"):
        from batch_magic import python_api

        return getattr(python_api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def load_ipython_extension(ipython: Any) -> None:
    """Register `%%gptbatch` and `%gptbatch`."""
    from batch_magic import magic

    magic.load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Take the magics out again; runs at a service go on and can be attached later."""
    from batch_magic import magic

    magic.unload(ipython)
