"""Files of a home: there whole or not at all, and never outside it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from batch_magic.errors import JournalError
from batch_magic.folder import (
    ANSWERED,
    Home,
    KeptWriter,
    RunFolder,
    ShardWriter,
    part_path,
)
from batch_magic.packing import pick
from batch_magic.records import Limits, Lines, Message, Rendered, Shard, Slot
from batch_magic.wire import Encoder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = Home(tmp_path / "home").run_folder("run-1")
    folder.create()
    return folder


def lines_for(texts: list[str], start: int = 0) -> Lines:
    encoder = Encoder(
        run_id="run-1",
        endpoint="/v1/chat/completions",
        model="m",
        params={},
        messages=[Message("user", (Slot(0),))],
    )
    positions = list(range(start, start + len(texts)))
    return encoder.encode(Rendered(positions, (texts,), (), 0))


def write_shards(folder: RunFolder, lines: Lines, **limits: int) -> list[Shard]:
    writer = ShardWriter(folder, Limits(**limits), numbers=count())
    writer.write(lines)
    return writer.close()


def test_a_home_is_private_and_ignores_itself(tmp_path: Path) -> None:
    """Prompts are nobody else's business, and no commit's."""
    home = Home(tmp_path / "home")
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert (home.path / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("name", ["../elsewhere", "", "a/b", "..", "x" * 65])
def test_a_name_from_a_journal_cannot_lead_out_of_the_home(tmp_path: Path, name: str) -> None:
    """A journal can be a stranger's."""
    with pytest.raises(JournalError, match="not a run id"):
        Home(tmp_path).run_folder(name)


def test_a_shard_holds_its_lines_and_a_manifest_of_them(folder: RunFolder) -> None:
    """Positions and identities, in order; and lines can be taken out again by place."""
    lines = lines_for(["a", "b", "c", "d"], start=7)
    first, second = write_shards(folder, lines, max_rows_per_job=3)
    assert (first.rows, second.rows) == (3, 1)
    assert folder.shard_path(0).read_bytes() == pick(lines, range(3)).data
    assert folder.manifest(second)["position"].tolist() == [10]
    (some,) = folder.lines_at(first, np.array([True, False, True]))
    wanted = pick(lines, [0, 2])
    assert (list(some.positions), some.data) == ([7, 9], wanted.data)
    assert some.digests == wanted.digests
    folder.check_shard(first)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data.replace(b'"b"', b'"B"'), "line 2"),
        (lambda data: data[:-20], "line 3"),
        (lambda data: data + b"{}\n", "cut or changed"),
        (lambda data: data[: data.rindex(b"\n", 0, -1) + 1], "cut or changed"),
    ],
)
def test_a_shard_changed_since_submit_is_refused(folder: RunFolder, spoil, said: str) -> None:  # type: ignore[no-untyped-def]
    """Before it is paid for, each line is held against its identity."""
    (shard,) = write_shards(folder, lines_for(["a", "b", "c"]))
    path = folder.shard_path(0)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(JournalError, match=said):
        folder.check_shard(shard)


def test_a_manifest_changed_since_submit_is_refused(folder: RunFolder) -> None:
    """It says which row an answer belongs to: nothing is guessed."""
    (shard,) = write_shards(folder, lines_for(["a", "b"]))
    path = folder.shard_path(0).with_suffix(".npy")
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(JournalError, match="was changed since submit"):
        folder.manifest(shard)


def test_a_missing_shard_is_one_line(folder: RunFolder) -> None:
    """Whoever cleaned up too much is told which file is gone."""
    (shard,) = write_shards(folder, lines_for(["a"]))
    folder.shard_path(0).unlink()
    with pytest.raises(JournalError, match=r"shard-00000\.jsonl"):
        folder.check_shard(shard)


def test_two_processes_write_one_file_under_different_names(tmp_path: Path) -> None:
    """One that lost its lease must not write into the other's half-made file."""
    path = tmp_path / "job-00000.output.jsonl"
    assert part_path(path, "one") != part_path(path, "two") != part_path(path)
    assert str(os.getpid()) in part_path(path).name


def test_answers_kept_can_be_found_by_the_digest_of_their_line(folder: RunFolder) -> None:
    """Later runs take them over by identity, from whatever file they are in."""
    lines = lines_for(["a", "b"])
    shard = write_shards(folder, lines)[0]
    manifest = folder.manifest(shard)
    path = folder.result_path(0, "output")
    path.write_bytes(b'{"one":1}\n{"two":2}\n')
    entries = np.zeros(2, dtype=ANSWERED)
    entries["hi"], entries["lo"] = manifest["hi"], manifest["lo"]
    entries["offset"], entries["length"] = [10, 0], [9, 9]
    folder.write_answered(entries, [path])
    names = ("answered.npy", "answered.json")
    answers = RunFolder(folder.path, folder.hashes(*names)).answered()
    assert answers is not None
    digests = np.empty(2, dtype=[("hi", "<u8"), ("lo", "<u8")])
    digests["hi"], digests["lo"] = manifest["hi"], manifest["lo"]
    found = answers.find(digests)
    assert list(answers.lines(found.tolist())) == [b'{"two":2}', b'{"one":1}']
    path.unlink()
    assert folder.answered() is None


def test_nothing_kept_leaves_no_file(folder: RunFolder) -> None:
    """An empty file of answers would be read for ever."""
    assert KeptWriter(folder, 0).close() == 0
    assert list(folder.path.iterdir()) == []


_FULL = """
import sys
from pathlib import Path
from test_folder import lines_for, write_shards
from batch_magic.errors import JournalError
from batch_magic.folder import Home
try:
    folder = Home(Path(sys.argv[1])).run_folder("run-1")
    folder.create()
    write_shards(folder, lines_for(["x" * 1000] * 500))
except JournalError as error:
    sys.exit(str(error))
"""


def test_a_number_is_taken_with_its_file(tmp_path: Path) -> None:
    """Two processes, one of which has lost its lease: neither writes over the other's shard."""
    folder = Home(tmp_path).run_folder("r")
    folder.create()
    taken = [folder.free_number("shard", 3) for _ in range(3)]
    assert taken == [3, 4, 5]
    assert folder.free_number("kept", 1) == 1


def test_a_folder_that_leads_out_of_the_home_is_refused(tmp_path: Path) -> None:
    """A home from somebody else: cleaning it must not delete the user's documents."""
    home, documents = Home(tmp_path / "home"), tmp_path / "documents"
    documents.mkdir()
    (home.path / "runs" / "r").symlink_to(documents)
    with pytest.raises(JournalError, match="leads out of the home"):
        home.run_folder("r")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """The cell says so, and nothing has been sent."""
    import resource

    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path / "home")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert "shard-00000" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
