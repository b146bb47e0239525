"""Answers to typed columns, and vectors to arrays, against the bare decoders.

Ours is the way from answer texts, as an outcomes file holds them, to finished pandas columns. The
limits build no columns: a typed msgspec decode of each text, a base64 decode of each vector by
numpy. `python -m benchmarks.shapes ROWS` prints CPU seconds of each side, then the bytes by which
the process grows at most while the vectors' column is made, and those of the vectors themselves.
It is a process of its own, as the garbage collector's part in it hangs on all that stands about.
"""

from __future__ import annotations

import json
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel

from batch_magic import frame as frames
from batch_magic.answers import Reader
from batch_magic.records import Shape
from batch_magic.strict_schema import json_schema_of
from benchmarks.memory import growth

VECTORS, NUMBERS = 10_000, 1_536
ROUNDS = 5
_NOTE = "It came late, but it works; 배송은 이틀 늦었지만 잘 됩니다."


class Label(BaseModel):
    """A label as people ask for it."""

    label: Literal["positive", "negative", "mixed"]
    score: float
    tags: list[str]
    note: str | None
    words: int


class _Typed(msgspec.Struct, gc=False):
    label: Literal["positive", "negative", "mixed"]
    score: float
    tags: list[str]
    note: str | None
    words: int


def structured(rows: int) -> dict[str, Callable[[], object]]:
    """The sides of structured answers: columns without and with a user's model, and the limit."""
    texts = [
        json.dumps(
            {
                "label": ("positive", "negative", "mixed")[n % 3],
                "score": n / rows,
                "tags": ["price", "support"][: n % 3],
                "note": None if n % 2 else _NOTE,
                "words": n,
            },
            ensure_ascii=False,
        ).encode()
        for n in range(rows)
    ]
    shape = Shape(schema=json_schema_of(Label, "Label"))
    decode = msgspec.json.Decoder(_Typed).decode
    return {
        "plain": lambda: _columns(Reader(shape), texts),
        "model": lambda: _columns(Reader(shape, Label), texts),
        "limit": lambda: [decode(text) for text in texts],
    }


def _columns(reader: Reader, texts: list[bytes]) -> list[pd.Series]:
    values = reader.values(texts)
    return [
        frames.typed_column(column.kind, found, column.choices)
        for column, found in zip(reader.columns, values, strict=True)
    ]


def vectors() -> dict[str, Callable[[], object]]:
    """The sides of embeddings: the column, and numpy's own decode."""
    dice = np.random.default_rng(0)
    texts = [b64encode(dice.random(NUMBERS, dtype="<f4").tobytes()) for _ in range(VECTORS)]
    column = pa.chunked_array([pa.array(texts, pa.large_binary())])
    entry = dice.permutation(VECTORS)
    return {
        "ours": lambda: frames.vector_column(column, entry, several=False),
        "limit": lambda: [np.frombuffer(b64decode(text), dtype="<f4") for text in texts],
    }


def fastest(sides: dict[str, Callable[[], object]]) -> list[float]:
    """CPU seconds of the fastest run of each side, the sides run in turn."""
    seconds = [float("inf")] * len(sides)
    for _ in range(ROUNDS):
        for n, side in enumerate(sides.values()):
            start = time.process_time()
            made = side()
            seconds[n] = min(seconds[n], time.process_time() - start)
            del made
    return seconds


if __name__ == "__main__":
    print(*fastest(structured(int(sys.argv[1]))))
    sides = vectors()
    print(*fastest(sides))
    kept: list[object] = []
    print(growth(lambda: kept.append(sides["ours"]())), VECTORS * NUMBERS * 4)
