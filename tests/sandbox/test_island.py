"""The sandbox judges the client, so they may not share a line."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import batch_magic

ROOM = Path(batch_magic.__file__).parent / "sandbox"
MODULES = sorted(ROOM.rglob("*.py"))


def _imports(path: Path) -> set[str]:
    depth = len(path.relative_to(ROOM.parent).parts) - 1
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level <= depth, f"{path} reaches out of the sandbox"
            if node.level == 0:
                found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOM)))
def test_sandbox_imports_nothing_of_the_client(path: Path) -> None:
    """One misreading of the API must not be made on both sides and pass."""
    assert not [name for name in _imports(path) if name.split(".")[0] in ("batch_magic", "openai")]


def test_launcher_imports_no_server_library() -> None:
    """A notebook that never uses the sandbox must not pay for it."""
    code = """
import sys, batch_magic
before = set(sys.modules)
import batch_magic.sandbox.launcher
heavy = {"starlette", "uvicorn", "python_multipart", "xllamacpp"}
print(heavy & (set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOM)))
def test_every_module_says_what_it_knows(path: Path) -> None:
    """A room opens with a paragraph."""
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_help_names_every_fault() -> None:
    """The switches are a public feature, and --help is their page."""
    from batch_magic.sandbox.faults import SWITCHES

    done = subprocess.run(
        [sys.executable, "-m", "batch_magic.sandbox", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [switch.name for switch in SWITCHES if switch.name not in done.stdout] == []
