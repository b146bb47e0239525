"""Cells that wait: rewritten so that the kernel stays free for a Cancel and an Interrupt.

It knows how IPython turns a cell into code and how a headless executor is told from a notebook;
it refuses to know what a cell waits for. The traps: a cell of another magic is compiled without
await, so there ours has to block; and a terminal asks about a cell before it is run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from IPython.core.interactiveshell import InteractiveShell

AWAITED = "_gptbatch_awaited"
"""The magic that a waiting cell is rewritten to: it returns something to await."""

Rewrite = Callable[[list[str]], list[str]]


class Magics(Protocol):
    """Whoever knows which cells are to wait."""

    @property
    def is_busy(self) -> bool:
        """Tell whether a cell is running."""

    def must_wait(self, line: str) -> bool:
        """Tell whether a cell with this line is to block until its run has ended."""


def async_cells(shell: InteractiveShell, magics: Magics) -> tuple[Rewrite, Rewrite]:
    """Return two input transformers that have a waiting cell, and a waiting line, awaited.

    The first sees a cell as typed; the second sees lines that IPython has translated, so that
    text in a string literal is left alone.

    An async cell is the one way to wait that leaves the kernel free for a Cancel, is
    interrupted cleanly and needs no patched loop (measured with ipykernel 7.0 to 7.4).
    """

    def can_await() -> bool:
        # While a cell runs, it is another magic (%%time) that compiles a cell of its own, and
        # does so without await: there the magic blocks.
        # Without a kernel Ctrl-C is clearer in a plain wait.
        in_kernel = getattr(shell, "kernel", None) is not None
        return in_kernel and shell.autoawait and not magics.is_busy

    def rewrite(lines: list[str]) -> list[str]:
        if not lines:
            return lines
        name, _, line = lines[0].rstrip("\n").partition(" ")
        if name == "%%gptbatch":
            body = "".join(lines[1:]) or "\n"  # IPython refuses a cell magic without a body
            if can_await() and magics.must_wait(line):
                return [f"await get_ipython().run_cell_magic({AWAITED!r}, {line!r}, {body!r})\n"]
            return [f"{name} {line}\n", body]
        return lines

    def rewrite_lines(lines: list[str]) -> list[str]:
        return [_awaited_line(line) for line in lines] if can_await() else lines

    # A terminal asks whether a cell is complete: about what was typed, not what we make of it.
    rewrite.has_side_effects = True  # type: ignore[attr-defined]
    return rewrite, rewrite_lines


def _awaited_line(line: str) -> str:
    """Await a `%gptbatch wait` of the top level, as IPython has already translated it."""
    magic = "get_ipython().run_line_magic("
    if not line.startswith(f"{magic}'gptbatch', 'wait"):
        return line
    return line.replace(f"{magic}'gptbatch'", f"await {magic}{AWAITED!r}", 1)


def is_headless(shell: InteractiveShell) -> bool:
    """Tell whether nobody is there to come back later: nbclient, papermill, a script.

    `allow_stdin: false` in the execute request is all that tells an executor from a notebook.
    """
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        # A terminal that was given a script or -c; an embedded shell has no application.
        return not getattr(shell.parent, "interact", True)
    content = kernel.get_parent().get("content", {})
    return content.get("allow_stdin") is False
