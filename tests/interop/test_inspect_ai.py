"""inspect-ai: an evaluation whose model calls go out as batches."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import inspect_ai
import pytest
from inspect_ai.dataset import Sample
from inspect_ai.model import BatchConfig
from questions import CHAT_MODEL, COUNT, check_answers, questions


@pytest.mark.parametrize("responses_api", [False, True])
def test_inspect_ai_gets_every_answer_of_an_evaluation(
    tmp_path: Path, calls: Callable[[], Counter[str]], responses_api: bool
) -> None:
    """eval() in batch mode brings every sample its own output, through either endpoint."""
    asked = questions()
    [log] = inspect_ai.eval(
        inspect_ai.Task(dataset=[Sample(id=key, input=text) for key, text in asked.items()]),
        model=f"openai/{CHAT_MODEL}",
        model_args={"responses_api": responses_api},
        batch=BatchConfig(size=COUNT, send_delay=0.2, tick=0.1),
        log_dir=str(tmp_path / "logs"),
        display="none",
    )
    assert log.status == "success", log.error
    outputs = {str(sample.id): sample.output.completion for sample in log.samples or []}
    check_answers(asked, outputs)
    assert calls()["batches.create"] == 1
    assert not calls().keys() & {"chat.completions", "responses"}
