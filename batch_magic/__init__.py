"""One notebook cell from DataFrame to merged DataFrame through OpenAI's Batch API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Run", "attach", "load_ipython_extension", "runs", "submit", "unload_ipython_extension"]
if TYPE_CHECKING:
    from batch_magic.run import Run
    from batch_magic.session import attach, runs, submit


def __getattr__(name: str) -> Any:
    if name == "Run":
        from batch_magic.run import Run

        return Run
    if name in ("attach", "runs", "submit"):
        from batch_magic import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(ipython: Any) -> None:
    """Register `%%gptbatch` and `%gptbatch`."""
    from batch_magic import magic

    magic.load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Take the magics out again; runs at a service go on and can be attached later."""
    from batch_magic import magic

    magic.unload(ipython)
