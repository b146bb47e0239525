"""Any value of a frame as words: one short line, or whole and unfolded as JSON has it.

It knows what people keep in the cells of a frame beside numbers and text, and refuses to know
columns and frames. What it gives can be written in any encoding and is never longer than it says.
The trap is a value of a user's own class, whose every method may fail.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

CELL_CHARS = 160
TEXT_CHARS = 200_000  # of one text, whole
_NODES = 2_000  # of one nested value
_DEEPEST = 32


def is_there(value: Any) -> bool:
    """Tell whether a value is not missing; a list is there, whatever is in it."""
    if value is None:
        return False
    try:
        return not (pd.api.types.is_scalar(value) and pd.isna(value))
    except (TypeError, ValueError):
        return True


def clean(text: str) -> str:
    """Return a text that any encoding can hold: half a character pair becomes a sign for it."""
    return (
        text if text.isascii() else text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    )


def short(value: Any) -> str | None:
    """Return a value as one short line of text, None where it is missing."""
    if isinstance(value, str):
        text = value[: 2 * CELL_CHARS]
    elif not is_there(value):
        return None
    else:
        text = words(value, CELL_CHARS)
    text = clean(" ".join(text.split()) if text.split() else text)
    return text if len(text) <= CELL_CHARS else text[: CELL_CHARS - 1] + "…"


def words(value: Any, most: int = TEXT_CHARS) -> str:
    """Return a value as text; of a large one its beginning is enough."""
    if isinstance(value, str):
        return value[: most + 1]
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)):
        plain = float(value)
        return f"{plain:.6g}" if abs(plain) < 1e15 else repr(plain)
    if isinstance(value, pd.Timedelta):
        return _span(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{len(value):,} bytes"
    if isinstance(value, np.ndarray):
        some = (
            ", ".join(f"{one:.4g}" for one in value.ravel()[:3].tolist())
            if _is_numeric(value)
            else ""
        )
        return f"[{some}, …] array {' × '.join(map(str, value.shape))}"
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        return _json(value)[: most + 1]
    try:
        return str(value)[: most + 1]
    except Exception:  # a user's class: how it fails is its own affair
        return f"<{type(value).__name__}>"


def _span(value: pd.Timedelta) -> str:
    """Return a length of time as `01:30:00` within a day, else as pandas has it."""
    is_negative = value.days < 0
    plain = str(-value if is_negative else value)
    if not plain.startswith("0 days "):
        return str(value)
    return "-" * is_negative + plain.removeprefix("0 days ")


def _json(value: Any) -> str:
    try:
        if len(value) <= _NODES:
            return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        pass
    return json.dumps(unfolded(value), ensure_ascii=False)


def _is_numeric(value: NDArray[Any]) -> bool:
    return value.dtype.kind in "biuf"


@dataclass(slots=True)
class _Budget:
    """How many more nodes of a nested value are written."""

    left: int = field(default=_NODES)


def unfolded(value: Any, budget: _Budget | None = None, depth: int = 0) -> Any:
    """Return a value as JSON has it: lists, dicts, texts, numbers and None.

    What is too much is left out, and said to be.
    """
    budget = budget or _Budget()
    budget.left -= 1
    if isinstance(value, str):
        text = clean(value[:TEXT_CHARS])
        more = len(value) - TEXT_CHARS
        return f"{text}… {more:,} more characters" if more > 0 else text
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Mapping) and depth < _DEEPEST:
        return _unfolded_dict(value, budget, depth)
    if isinstance(value, np.ndarray) and value.ndim:
        value = list(value)
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=repr)
    if isinstance(value, (list, tuple)) and depth < _DEEPEST:
        return _unfolded_list(value, budget, depth)
    if not is_there(value):
        return None
    if isinstance(value, (int, np.integer)):
        return int(value) if abs(int(value)) < 2**53 else str(value)
    if isinstance(value, (float, np.floating)):
        plain = float(str(value)) if isinstance(value, np.float32) else float(value)
        return plain if math.isfinite(plain) else str(plain)
    return clean(words(value, TEXT_CHARS))


def _unfolded_dict(value: Mapping[Any, Any], budget: _Budget, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, one in value.items():
        if budget.left <= 0:
            found["…"] = f"{len(value) - len(found):,} more"
            break
        found[clean(str(key))] = unfolded(one, budget, depth + 1)
    return found


def _unfolded_list(value: Sequence[Any], budget: _Budget, depth: int) -> list[Any]:
    found: list[Any] = []
    for one in value:
        if budget.left <= 0:
            found.append(f"… {len(value) - len(found):,} more")
            break
        found.append(unfolded(one, budget, depth + 1))
    return found
