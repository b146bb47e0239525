"""Clicks on widgets that are handled although the user's own cell is running.

It knows how ipykernel chooses the thread for a message of the page, and nothing of what is clicked.
The trap: the name that it leans on is private to ipykernel; where it is missing, clicks wait for
the end of the cell, as they do without this room.
"""

from __future__ import annotations

from typing import Any


def answer_while_busy(widget: Any) -> None:
    """Have messages of a widget handled at once although the user's own cell is running.

    ipykernel 7.4 sends a click to the shell that last wrote the widget: the main one, which is
    busy. The page asks for a subshell by itself, so its wish is made to count again.
    """
    comm = widget.comm
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda data, default: default
