"""The merged frame: whose answer goes where, and what the result says of itself."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_folder import lines_for, write_shards
from test_outcomes import answer, collect, folder, run, unanswered

from batch_magic.errors import CellError, JournalError
from batch_magic.folder import RunFolder
from batch_magic.records import Layout, RunRecord
from batch_magic.result import KEEP, added_columns, check_keep, result_frame
from batch_magic.stored_frame import store

__all__ = ["folder", "run"]  # fixtures

FRAME = pd.DataFrame({"text": list("abcde")}, index=[1, 1, 2, 2, 3])


def collected(folder: RunFolder, run: RunRecord) -> RunRecord:
    """Rows 0 to 2 answered out of order, row 3 an error, row 4 in neither file."""
    return collect(
        folder,
        run,
        [answer("run-1-2", "zwei\u2028"), answer("run-1-0", ""), answer("run-1-1", "\ud800")],
        [unanswered("run-1-3", "batch_expired")],
    )


def test_answers_are_on_the_rows_that_asked(folder: RunFolder, run: RunRecord) -> None:
    """An empty answer is an answer; a row without one is null and says why."""
    result = result_frame(folder, collected(folder, run), FRAME)
    assert list(result.columns) == ["text", "answer", "gpt_status", "gpt_error"]
    assert result["answer"].tolist() == ["", "\ud800", "zwei\u2028", pd.NA, pd.NA]
    assert result["gpt_status"].tolist() == ["ok", "ok", "ok", "expired", "missing"]
    assert result["gpt_error"].isna().tolist() == [True, True, True, False, False]
    assert "in neither result file" in result["gpt_error"].iloc[4]
    pd.testing.assert_frame_equal(result[["text"]], FRAME)


def test_a_run_without_outcomes_is_pending(folder: RunFolder, run: RunRecord) -> None:
    """A partial frame has every row and column from the beginning."""
    result = result_frame(folder, run, FRAME)
    assert result["gpt_status"].eq("pending").all()
    assert result["answer"].isna().all()
    assert result["answer"].dtype == "string"


def test_the_frame_comes_from_the_disk_when_it_is_not_at_hand(
    folder: RunFolder, run: RunRecord
) -> None:
    """After a restart the result is the same, without what could not be stored."""
    frame = FRAME.assign(image=[object()] * len(FRAME))
    store(frame, folder.frame_path)
    run = collected(folder, run)
    result = result_frame(folder, run, None)
    pd.testing.assert_frame_equal(result, result_frame(folder, run, frame).drop(columns="image"))
    assert result.attrs["gptbatch"]["columns_lost"] == ["image"]


def test_what_is_kept_besides(folder: RunFolder, run: RunRecord) -> None:
    """Every name that --keep knows gives its columns, null where a row has no answer."""
    run = replace(collected(folder, run), layout=Layout("answer", tuple(KEEP)))
    result = result_frame(folder, run, FRAME)
    added = added_columns(Layout("answer", tuple(KEEP)), ("m",))
    assert [*result.columns[1:], "gpt_mark", "gpt_note"] == added
    assert result["gpt_usage_input"].dtype == "Int64"
    assert result["gpt_usage_output"].tolist() == [2, 2, 2, pd.NA, pd.NA]
    assert result["gpt_model"].tolist() == ["m-1", "m-1", "m-1", pd.NA, pd.NA]
    assert result["gpt_custom_id"].tolist() == [f"run-1-{n}" for n in range(5)]
    names = [None if pd.isna(r) else json.loads(r)["custom_id"] for r in result["gpt_raw"]]
    assert names == ["run-1-0", "run-1-1", "run-1-2", "run-1-3", None]


def test_an_unknown_word_for_keep_is_refused() -> None:
    """It says what there is."""
    check_keep(("usage", "raw"))
    with pytest.raises(CellError, match="'tokens'; choose from usage"):
        check_keep(("tokens",))


def test_a_result_of_many_rows_is_gathered_in_pieces(folder: RunFolder, run: RunRecord) -> None:
    """Pieces and their ends are nobody's business."""
    for path in folder.path.glob("shard-*"):
        path.unlink()
    order = np.random.default_rng(1).permutation(5000).tolist()
    lines = [answer(f"run-1-{n}", f"text {n}") for n in order]
    shards = write_shards(folder, lines_for([f"text {n}" for n in range(5000)]))
    run = collect(folder, replace(run, rows=5000, shards=tuple(shards)), lines, [])
    result = result_frame(folder, run, pd.DataFrame({"n": range(5000)}))
    assert result["answer"].tolist() == [f"text {n}" for n in range(5000)]


def test_a_missing_snapshot_is_said_in_one_line(folder: RunFolder, run: RunRecord) -> None:
    """A home may be damaged; that is no bug of ours."""
    with pytest.raises(JournalError, match="frame snapshot"):
        result_frame(folder, run, None)
