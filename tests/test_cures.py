"""Every error ends with the cure, held for all messages as they are written."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "batch_magic"
ERRORS = {"CellError", "FrameError", "TemplateError", "JournalError", "ServiceError"}
ERRORS |= {"StillRunning", "Detached", "Outdated", "LeaseLost"}

ELSEWHERE = {
    # what is raised: why its cure need not stand in the message itself
    "f'--image-max {_NO_PILLOW}'": "says how to install it",
    "f'{s.name} has rows under way: `%gptbatch finish {s.name}` asks all of them live, or wait for"
    " its end and retry then'": "both ways are in it",
    "said": "the words are made just above, with their cure, or are tried again by the engine",
    "self.hint()": "`Run.hint` names the ways on, see test_session",
    "run.hint()": "`Run.hint` names the ways on, see test_session",
    "_detached(run)": "names `%gptbatch wait`",
    "_explain(error, self.path)": "each of its sentences ends with a cure, see test_journal",
    "_unknown(unknown[0], parser.options())": "names the nearest option, or the help",
    "str(error)": "another error's words, whose cure they hold",
    "f'not submitted: {why}'": "`caps.refusal` ends each of its reasons with a way",
    "f'not submitted: {said}'": "said just above: allow it with --max-cost",
    "f'{word} is kept: {why}'": "`cleaning.why_kept` says what to do",
    "f'run {run.run_id} is kept: {why}'": "`cleaning.why_kept` says what to do",
    "f'{s.name} has stopped: {s.fault}'": "a fault ends with its cure, see test_lifecycle",
    "f'{where} {why}'": "each of `_CANNOT` ends with how to write it",
    "f'{self.where}: {_without_line(error)}'": "the inner error's cure is at its end",
    "f'{where} {text!r:.60}: {_without_line(error)}'": "the inner error's cure is at its end",
    "f'row {chunk.start + row}: {self.where}: {error}'": "the value's own error",
    "'another run was submitted meanwhile'": "caught by the session, which tries again",
    "'this process is ending'": "caught by the engine, and seen by nobody",
    "f'run {run_id} is driven by another kernel now'": "caught by the engine, which looks on",
    "f'the answer of {self._host} broke off ({error})'": "the engine tries again by itself",
    'f"the service\'s answer has no {key!r}{more}"': "the engine tries again by itself",
    "f'the download of {file_id} has {size} of {expected} bytes'": "the engine tries again",
    "f'{error} (run {run_id} may have paid answers for these rows: put its files back, or forget"
    " it with `%gptbatch clean {run_id}`, or pay again with --fresh)'": "its cure is in brackets",
}


def raised() -> Iterator[tuple[str, str]]:
    """Yield where an error of ours is raised, and its message as it is written."""
    for path in sorted(PACKAGE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else None
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            if call.func.id in ERRORS and call.args:
                yield f"{path.stem}:{node.lineno}", ast.unparse(call.args[0])


def test_every_message_says_what_happened_and_then_what_to_do() -> None:
    """Behind the semicolon stands what a person does next; what else there is has its reason."""
    without = [(at, said) for at, said in raised() if not re.search(r"; ?\S+", said)]
    assert [(at, said) for at, said in without if said not in ELSEWHERE] == []


def test_no_reason_outlives_its_message() -> None:
    """The list says nothing that is not so."""
    said = {message for _, message in raised()}
    assert sorted(ELSEWHERE.keys() - said) == []
