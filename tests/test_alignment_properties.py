"""The whole way of a row, out and in: each answer lands on the position that asked."""

from __future__ import annotations

import json
import random
from io import BytesIO

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_magic import frame as frames
from batch_magic.records import RowStatus
from batch_magic.result_lines import Decoder
from batch_magic.template import compile_template
from batch_magic.wire import CHAT, Encoder

RUN = "run-1"

TEXTS = st.one_of(st.none(), st.text(st.characters(), max_size=6))


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


@st.composite
def odd_frames(draw: st.DrawFn) -> pd.DataFrame:
    """Frames whose index is everything but 0, 1, 2, with a column name twice."""
    texts = draw(st.lists(TEXTS, max_size=12))
    rows = len(texts)
    numbers = draw(st.lists(st.integers(-3, 3), min_size=rows, max_size=rows))
    index = draw(
        st.sampled_from(
            [
                pd.Index(numbers),
                pd.Index([f"k{n}" for n in numbers], dtype="str"),
                pd.DatetimeIndex(
                    [pd.Timestamp("2020-01-04") + pd.Timedelta(n, "D") for n in numbers]
                ),
                pd.MultiIndex.from_arrays([numbers, numbers[::-1]]),
                pd.Index([None if n == 0 else n for n in numbers], dtype=object),
                pd.RangeIndex(rows, 0, -1),
            ]
        )
    )
    kind = draw(st.sampled_from([object, "string"]))
    if any(text and not _is_utf8(text) for text in texts):
        kind = object
    frame = pd.DataFrame({"q": pd.Series(texts, dtype=kind), "x": numbers, "y": numbers})
    frame.index = index
    frame.columns = pd.Index(["q", "twice", "twice"])
    return frame


@settings(max_examples=150, deadline=None)
@given(odd_frames(), st.randoms(use_true_random=False), st.integers(1, 5))
def test_every_answer_lands_on_its_row(frame: pd.DataFrame, dice: random.Random, size: int) -> None:
    """Shuffled, thinned out and over any index: same rows, same order, right values."""
    before = frame.copy()
    template = compile_template("<{{ q }}>", columns=frames.column_names(frame))
    encoder = Encoder(run_id=RUN, endpoint=CHAT, model="m", params={}, messages=template.messages)
    status = np.full(len(frame), RowStatus.MISSING, dtype=np.uint8)
    results = []
    chunks = frames.chunks(
        frame, template.columns, with_index=False, as_text=template.bare, size=size
    )
    for chunk in chunks:
        rendered = template.render(chunk)
        status[list(rendered.skipped)] = RowStatus.SKIPPED
        for line in encoder.encode(rendered).data.split(b"\n")[:-1]:
            if dice.random() < 0.9:
                results.append(_echo(line))
    dice.shuffle(results)
    texts: list[str | None] = [None] * len(frame)
    for found in Decoder(run_id=RUN).outcomes(BytesIO(b"".join(results))):
        for position, text in zip(found.positions, found.text, strict=True):
            texts[position] = text
        status[list(found.positions)] = found.statuses
    merged = frames.attach(
        frame,
        {"answer": frames.text_column(texts), "gpt_status": frames.status_column(status)},
    )

    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(merged.iloc[:, :3], before)
    pd.testing.assert_index_equal(merged.index, before.index, exact=True)
    for question, answer, state in zip(
        before["q"], merged["answer"], merged["gpt_status"], strict=True
    ):
        if state == "ok":
            assert answer == f"<{question}>"
        else:
            assert answer is pd.NA
            assert state == ("skipped" if pd.isna(question) else "missing")


def _echo(line: bytes) -> bytes:
    request = json.loads(line)
    text = request["body"]["messages"][0]["content"]
    body = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
    response = {"status_code": 200, "body": body}
    answer = {"custom_id": request["custom_id"], "response": response, "error": None}
    return json.dumps(answer).encode() + b"\n"
