"""The floors of the house, held against the code: what imports what, and who has which key."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "batch_magic"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("records", "errors", "wording", "awaiting"),
    (
        "durable_files",
        "cell_body",
        "prompt_language",
        "template_names",
        "images",
        "money",
        "pacing",
        "progress",
        "guide",
        "tokens",
        "exact_json",
        "value_words",
        "queueing",
        "cures",
        "agreement",
    ),
    (
        "frame",
        "browse",
        "stored_frame",
        "template",
        "wire",
        "packing",
        "result_lines",
        "lifecycle",
        "picture",
        "costs",
        "schema",
        "resolution",
        "digests",
        "card",
        "settings",
        "cell_line",
        "answers",
        "strict_schema",
        "pairing",
        "coding",
    ),
    (
        "journal",
        "folder",
        "api",
        "heartbeat",
        "bell",
        "caps",
        "overview",
        "clicks",
        "completion",
        "manual",
        "findings",
    ),
    ("outcomes", "services", "live", "standing", "report", "plots"),
    ("causes", "billing", "cleaning", "adoption", "comparison", "sides", "measuring"),
    ("resending", "settling", "result", "closeup", "buttons", "lookout"),
    (
        *("prepare", "engine", "diagnosis", "drafting", "explorer"),
        *("panel", "matcher", "project"),
    ),
    ("run", "case_sheet", "dry_sheet"),
    ("session", "handover", "clinic"),
    ("python_api",),
    ("magic",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

KEYS: dict[str, frozenset[str]] = {
    "matplotlib": frozenset({"plots", "comparison", "run", "session", "python_api"}),
    "sqlite3": frozenset({"journal", "schema"}),
    "openai": frozenset({"api"}),
    "pandas": frozenset(
        {"exact_json", "frame", "stored_frame", "result", "adoption", "drafting", "run"}
        | {
            "session",
            "python_api",
            "handover",
            "magic",
            "overview",
            "browse",
            "value_words",
            "explorer",
            "matcher",
            "pairing",
            "coding",
            "findings",
            "report",
            "plots",
        }
        | {"diagnosis", "sides"}
    ),
    "pyarrow": frozenset({"frame", "stored_frame", "folder", "result", "browse"}),
    "markupsafe": frozenset({"prompt_language"}),
    "jinja2": frozenset({"template", "template_names", "prompt_language"}),
    "orjson": frozenset({"wire", "result_lines", "adoption"}),
    "genai_prices": frozenset({"money"}),
    "toktok": frozenset({"tokens"}),
    "PIL": frozenset({"images"}),
    "msgspec": frozenset({"result_lines", "schema", "answers"}),
    "pydantic": frozenset({"strict_schema", "answers"}),
    "typing_extensions": frozenset({"strict_schema"}),
    "parse": frozenset({"answers"}),
    "ipywidgets": frozenset({"panel", "buttons", "clinic", "project"}),
    "IPython": frozenset({"magic", "handover", "awaiting", "matcher"})
    | {"panel", "explorer", "clinic", "project"},
    "anywidget": frozenset({"bell", "explorer", "project"}),
    "traitlets": frozenset({"magic", "bell", "explorer", "project"}),
    "dotenv": frozenset({"settings"}),
    "nest_asyncio2": frozenset({"run"}),
    # numpy holds positions and digests as arrays: material, not an outside thing.
    "numpy": frozenset(
        {
            "exact_json",
            "images",
            "money",
            "drafting",
            "frame",
            "stored_frame",
            "wire",
            "digests",
            "resolution",
            "folder",
            "outcomes",
            "causes",
            "billing",
            "resending",
            "live",
            "costs",
            "tokens",
            "prepare",
            "result",
            "browse",
            "value_words",
            "closeup",
            "explorer",
            "session",
            "diagnosis",
            "agreement",
            "pairing",
            "coding",
            "findings",
            "report",
            "plots",
            "measuring",
        }
    ),
    # A thread, a connection per thread, an event that other threads wait for, a lock on traits.
    # The engine asks whether its process is ending; types of answers are made one at a time.
    "threading": frozenset({"heartbeat", "journal", "engine", "answers", "run", "session"})
    | {"panel", "live", "explorer", "clinic", "project"},
    # Clocks and dice are handed down: `run` waits by the monotonic clock.
    "time": frozenset({"heartbeat", "run", "session", "panel", "magic", "matcher", "project"})
    | {"clinic"},
    "secrets": frozenset({"session"}),
    "uuid": frozenset(),
    "random": frozenset(),
    "httpx": frozenset(),
    "httpx2": frozenset(),
}
ENVIRONMENT = frozenset({"settings"})
PRINTING = frozenset({"magic", "panel"})
NO_NAMES = ("util", "helper", "manager")
FLAT = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
ISLAND = sorted((PACKAGE / "sandbox").rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Return what a module imports, as dotted names from the top, wherever it stands in it."""
    package = path.relative_to(PACKAGE.parent).parent.parts
    found: list[str] = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found += [f"{module}.{alias.name}" for alias in node.names]
    return tuple(found)


def rooms_imported(room: str) -> set[str]:
    """Return the rooms of this house that a room imports; "sandbox" is one."""
    names = [name.split(".") for name in imports(PACKAGE / f"{room}.py")]
    ours = {parts[1] for parts in names if parts[0] == "batch_magic" and len(parts) > 1}
    return ours - {"__version__"}


def test_every_room_has_its_floor() -> None:
    """A new module has to say where it belongs."""
    assert sorted(FLOOR_OF) == FLAT


@pytest.mark.parametrize("room", FLAT)
def test_imports_go_down_a_floor(room: str) -> None:
    """Never sideways, never up."""
    for other in rooms_imported(room) - {"sandbox"}:
        is_down = FLOOR_OF[other] < FLOOR_OF[room]
        # The errors of a room are those of the whole house.
        assert is_down, f"{room} (floor {FLOOR_OF[room]}) imports {other}"


@pytest.mark.parametrize("room", FLAT)
def test_each_outside_thing_has_its_rooms(room: str) -> None:
    """Whoever imports a package without the key to it has taken over another room's work."""
    for name in imports(PACKAGE / f"{room}.py"):
        top = name.split(".")[0]
        if top in KEYS:
            assert room in KEYS[top], f"{room} imports {name}"
        else:
            assert top in sys.stdlib_module_names or top == "batch_magic", f"{room}: {name}"


def test_every_key_is_used() -> None:
    """The table says nothing that is not so."""
    for package, rooms in KEYS.items():
        users = {r for r in FLAT if package in {n.split(".")[0] for n in imports_of(r)}}
        assert users <= rooms
        assert not rooms or users, f"nobody imports {package} any more"


def imports_of(room: str) -> tuple[str, ...]:
    return imports(PACKAGE / f"{room}.py")


@pytest.mark.parametrize("room", FLAT)
def test_only_settings_reads_the_environment(room: str) -> None:
    """A key goes from there into credentials, and nowhere else."""
    for node in ast.walk(tree_of(PACKAGE / f"{room}.py")):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
            is_os = isinstance(node.value, ast.Name) and node.value.id == "os"
            assert not is_os or room in ENVIRONMENT


@pytest.mark.parametrize("room", FLAT)
def test_nothing_prints_but_what_is_shown(room: str) -> None:
    """A print from a background thread lands in somebody else's cell."""
    for node in ast.walk(tree_of(PACKAGE / f"{room}.py")):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print" or room in PRINTING


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_read_that_could_run(path: Path) -> None:
    """A home may come from somebody else: no pickle, however it is called, is ever opened."""
    forbidden = {
        "pickle",
        "_pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "joblib",
        "marshal",
        "shelve",
    }
    assert not forbidden & {name.split(".")[0] for name in imports(path)}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("read_pickle", "to_pickle", "load_pickle"), node.lineno
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False, node.value.lineno


@pytest.mark.parametrize("path", [PACKAGE / "__init__.py", *sorted(PACKAGE.rglob("*.py"))], ids=str)
def test_every_module_has_a_docstring_and_a_name_of_its_own(path: Path) -> None:
    """A room is named for what it knows."""
    assert ast.get_docstring(tree_of(path)), path
    assert not any(word in path.stem for word in NO_NAMES)


@pytest.mark.parametrize("path", ISLAND, ids=lambda path: path.stem)
def test_the_sandbox_imports_nothing_of_ours(path: Path) -> None:
    """One misreading of the service must not be made twice and be green."""
    for name in imports(path):
        is_ours = name.split(".")[0] == "batch_magic"
        assert not is_ours or name.startswith("batch_magic.sandbox"), name


def test_only_one_room_knows_the_sandbox_and_only_its_launcher() -> None:
    """It is reached as any service is; only somebody has to start it."""
    users = {room for room in FLAT if "sandbox" in rooms_imported(room)}
    assert users == {"services"}
    named = {name for name in imports_of("services") if "sandbox" in name}
    assert named == {"batch_magic.sandbox.launcher"}


def test_importing_the_package_is_cheap() -> None:
    """Neither pandas nor the SDK is loaded before something is done."""
    code = (
        "import sys, batch_magic; "
        "sys.exit(str({'pandas', 'openai', 'numpy', 'pyarrow', 'IPython'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert done.stderr.strip() == "set()"
