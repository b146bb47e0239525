"""The files of a home: shards, their manifests, result files, outcomes, the frame snapshot.

    .gptbatch/journal.db
    .gptbatch/runs/<run_id>/frame.parquet         the frame as it was at submit
                            shard-00000.jsonl     request lines, as uploaded
                            shard-00000.npy       its manifest: position and digest of each line
                            twins.npy             rows that share another row's line
                            job-00000.output.jsonl, job-00000.error.jsonl   as downloaded
                            job-00000.live-*.jsonl   answers of the live lane, as they come
                            kept-00000.jsonl      result lines taken over from earlier runs
                            *.arrow               what those files say, as columns
                            answered.npy, answered.json   which lines were paid for, and where

It knows what is in which file and refuses to know what happens next. Raw files are the truth, by
the hashes that the journal has of them; `.arrow` files are made from them, and made again by each
process that wants them. The trap: nothing here may hold a whole file in memory, and names from
elsewhere (a journal can be a stranger's) must not lead out of the home.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from batch_magic import result_lines, wire
from batch_magic.digests import DIGEST, SortedDigests, as_digests
from batch_magic.durable_files import (
    check,
    create,
    disk_errors,
    finish,
    is_own,
    make_folder,
    part_path,
    replacing,
    sha256_of,
)
from batch_magic.errors import CellError, JournalError
from batch_magic.packing import Packer
from batch_magic.records import Endpoint, Limits, Lines, Outcomes, Shard
from batch_magic.resolution import is_retryable

MANIFEST = np.dtype([("position", "<i8"), ("hi", "<u8"), ("lo", "<u8")])
ANSWERED = np.dtype(
    [("hi", "<u8"), ("lo", "<u8"), ("file", "<i4"), ("offset", "<i8"), ("length", "<i8")]
)
TWINS = np.dtype("<i8")

_PUT_BACK = "put the file back as it was, or run the cell again with --fresh"
_TAIL_BYTES, _TAIL_LINES = 1 << 18, 100
_NO_FILES: Mapping[str, str] = MappingProxyType({})
_KEPT = re.compile(r"kept-(\d{5,18})\.jsonl")
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Home:
    """The folder that holds a project's journal and runs; private to its user."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            if path.is_dir() and not _is_home(path):
                raise JournalError(
                    f"{path} is not empty and no home of batch_magic; name a folder of its own"
                )
            make_folder(path)
            path.chmod(0o700)
            ignore = path / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n", encoding="utf-8")
            make_folder(path / "runs")

    @property
    def journal_path(self) -> Path:
        return self.path / "journal.db"

    def check_journal(self) -> None:
        """Raise JournalError when runs are there but the journal that knows them is not."""
        path = self.journal_path
        with disk_errors(path):
            is_gone = not path.exists() or path.stat().st_size == 0
            if is_gone and any((self.path / "runs").iterdir()):
                raise JournalError(
                    f"{path} is gone, but {self.path / 'runs'} holds runs; put it back,"
                    " or move the folder away to begin anew (answered rows would be paid again)"
                )

    def check_known(self, run_ids: Collection[str]) -> None:
        """Raise JournalError when a run that has results is not one of these: forgotten ones."""
        with disk_errors(self.path):
            lost = list(self.path.glob("runs/*/job-*.jsonl"))
        for path in lost:
            if path.parent.name not in run_ids:
                raise JournalError(
                    f"{self.journal_path} does not know {path.parent}, which holds answers that"
                    " were paid for; put the right journal back, or move that folder away"
                )

    @property
    def sandbox_path(self) -> Path:
        return self.path / "sandbox"

    def run_folder(self, run_id: str, files: Mapping[str, str] = _NO_FILES) -> RunFolder:
        """Return the folder of a run; `files` are the hashes that the journal has, by name.

        Raises JournalError for an id that is no plain name.
        """
        if not _RUN_ID.fullmatch(run_id):
            raise JournalError(
                f"{run_id!r} is not a run id, the journal may be damaged;"
                " put a good journal.db back"
            )
        path = self.path / "runs" / run_id
        if path.is_symlink() or path.parent.is_symlink():
            raise JournalError(f"{path} leads out of the home folder; put the real folder there")
        return RunFolder(path, files)


def _is_home(path: Path) -> bool:
    names = {one.name for one in path.iterdir()}
    is_empty = names <= {".gitignore", ".DS_Store"}
    return is_empty or bool(names & {"journal.db", "runs", "sandbox"})


@dataclass(frozen=True, slots=True)
class Scan:
    """What a job's result files say, in sum."""

    model: str | None
    foreign: int
    malformed: tuple[int, ...]
    repeated: int


@dataclass(frozen=True, slots=True)
class OutcomeTable:
    """A file of outcomes as an Arrow table, mapped from the disk, and the raw files it tells of."""

    table: Any  # pyarrow.Table
    files: tuple[Path, ...]


Judged = Callable[[Outcomes], Outcomes]


def _as_read(part: Outcomes) -> Outcomes:
    return part


class RunFolder:
    """The files of one run: those in `files` are read only if they have the hash given there."""

    def __init__(self, path: Path, files: Mapping[str, str] = _NO_FILES) -> None:
        self.path = path
        self.files = files

    def create(self) -> None:
        """Make the folder. Raises JournalError when the disk refuses."""
        make_folder(self.path)

    def discard(self) -> None:
        """Remove a folder that holds nothing that was paid for: a submit that came to nothing."""
        with disk_errors(self.path):
            for one in self.path.iterdir():
                one.unlink()
            self.path.rmdir()

    def checked(self, name: str) -> Path:
        """Return the path of a file that is what was written. Raises JournalError otherwise."""
        path = self.path / name
        if name in self.files:
            cure = f"`%gptbatch attach {self.path.name}` fetches it again"
            check(path, self.files[name], cure if name.startswith("job-") else "put it back")
        return path

    def set_damaged_aside(self, job: int) -> None:
        """Rename the result files of a job that are not what was fetched."""
        for kind in ("output", "error"):
            path = self.result_path(job, kind)
            expected = self.files.get(path.name)
            if expected is not None and path.exists() and sha256_of(path) != expected:
                with disk_errors(path):
                    path.replace(path.with_suffix(".damaged"))

    def hashes(self, *names: str) -> dict[str, str]:
        """Return the hashes of those of these files that are there, for the journal."""
        paths = [self.path / name for name in names]
        return {path.name: sha256_of(path) for path in paths if path.exists()}

    def all_hashes(self) -> dict[str, str]:
        """Return the hashes of all files here that the journal should know."""
        kinds = ("frame.parquet", "*.npy", "unsent.arrow", "answered.json", "kept-*.jsonl")
        names = [one.name for kind in (*kinds, "job-*.jsonl") for one in self.path.glob(kind)]
        return self.hashes(*(name for name in names if not name.startswith("shard-")))

    @property
    def frame_path(self) -> Path:
        return self.path / "frame.parquet"

    def shard_path(self, shard: int) -> Path:
        return self.path / f"shard-{shard:05}.jsonl"

    def result_path(self, job: int, kind: str) -> Path:
        return self.path / result_name(job, kind)

    def kept_path(self, number: int) -> Path:
        return self.path / f"kept-{number:05}.jsonl"

    def kept_numbers(self) -> list[int]:
        """Return the numbers of the files of answers taken over, as the journal has them."""
        return sorted(int(found[1]) for name in self.files if (found := _KEPT.fullmatch(name)))

    def free_number(self, kind: str, first: int) -> int:
        """Return a number, from `first` on, that no file of a kind here has; it is taken with that.

        A process that has lost its lease may write still: two must never write one file.
        """
        with disk_errors(self.path):
            for number in count(first):
                try:
                    taken = os.open(
                        self.path / f"{kind}-{number:05}.jsonl",
                        os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC,
                        0o600,
                    )
                except FileExistsError:
                    continue
                os.close(taken)
                return number
        raise AssertionError("numbers have no end")

    # -- manifests and twins ----------------------------------------------------------------

    def manifest(self, shard: Shard) -> NDArray[np.void]:
        """Return positions and digests of a shard's lines, in order. Checked by hash."""
        with disk_errors(self.path):
            data = self._manifest_path(shard.number).read_bytes()
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            path = self._manifest_path(shard.number)
            raise JournalError(f"{path} was changed since submit; {_PUT_BACK}")
        return np.frombuffer(data, dtype=MANIFEST)

    def check_shard(self, shard: Shard) -> None:
        """Check each line of a shard against its manifest, before it is paid for."""
        path = self.shard_path(shard.number)
        manifest = self.manifest(shard)
        n = 0
        for n, (line, entry) in enumerate(self._paired_lines(shard), start=1):
            digest = as_digests(wire.tail_digest(line))[0]
            if digest["hi"] != entry["hi"] or digest["lo"] != entry["lo"]:
                raise JournalError(f"line {n} of {path} was changed since submit; {_PUT_BACK}")
        with disk_errors(path):
            size_bytes = path.stat().st_size
        if n != len(manifest) or size_bytes != shard.bytes:
            raise JournalError(f"{path} was cut or changed since submit; {_PUT_BACK}")

    def lines_at(self, shard: Shard, wanted: NDArray[np.bool_]) -> Iterator[Lines]:
        """Yield those lines of a shard whose place `wanted` marks, a few thousand at a time."""
        path = self.shard_path(shard.number)
        with disk_errors(path):
            if path.stat().st_size != shard.bytes:
                raise JournalError(f"{path} was cut or changed since submit; {_PUT_BACK}")
        held: list[tuple[int, bytes, bytes]] = []
        for (line, entry), is_wanted in zip(self._paired_lines(shard), wanted, strict=False):
            if is_wanted:
                digest = entry["hi"].tobytes() + entry["lo"].tobytes()
                held.append((int(entry["position"]), line, digest))
            if len(held) >= 4096:
                yield _as_lines(held)
                held = []
        if held:
            yield _as_lines(held)

    def first_line(self, shard: Shard) -> str:
        """Return the first line of a shard as text."""
        with disk_errors(self.path), self.shard_path(shard.number).open("rb") as lines:
            return lines.readline().decode()

    def _paired_lines(self, shard: Shard) -> Iterator[tuple[bytes, Any]]:
        with disk_errors(self.path), self.shard_path(shard.number).open("rb") as lines:
            yield from zip(lines, self.manifest(shard), strict=False)

    def _manifest_path(self, shard: int) -> Path:
        return self.shard_path(shard).with_suffix(".npy")

    def write_twins(self, pairs: Sequence[NDArray[np.int64]]) -> None:
        """Write which rows (first of a pair) share the line of which (second)."""
        twins = np.concatenate(pairs) if pairs else np.empty((0, 2), dtype=TWINS)
        self._write(self.path / "twins.npy", twins.astype(TWINS).tobytes())

    def twins(self) -> NDArray[np.int64]:
        """Return the pairs that `write_twins` wrote, k × 2."""
        with disk_errors(self.path):
            data = self.checked("twins.npy").read_bytes()
        return np.frombuffer(data, dtype=TWINS).reshape(-1, 2)

    def write_ids(self, ids: Mapping[str, int]) -> None:
        """Write which row each custom_id of a job made elsewhere means."""
        self._write(self.path / "ids.json", json.dumps(ids).encode())

    def _ids(self) -> dict[str, int]:
        if "ids.json" not in self.files:
            return {}
        found: dict[str, int] = json.loads(self.checked("ids.json").read_bytes())
        return found

    # -- answers of the live lane -----------------------------------------------------------

    def request_lines(self, shard: Shard, wanted: NDArray[np.bool_]) -> Iterator[bytes]:
        """Yield those lines of a shard whose place `wanted` marks, in order."""
        lines = zip(self._paired_lines(shard), wanted, strict=False)
        return (line for (line, _), is_wanted in lines if is_wanted)

    def live_path(self, job: int, writer: str) -> Path:
        """Return the file in which `writer` notes answers of a job as they come.

        Each has its own: one that has lost its lease may write still.
        """
        return self.path / f"job-{job:05}.live-{writer}.jsonl"

    def live_lines(self, job: int) -> Iterator[bytes]:
        """Yield the answers to a job's lines that were noted so far, without any cut short."""
        for path in sorted(self.path.glob(f"job-{job:05}.live-*.jsonl")):
            with disk_errors(path), path.open("rb") as lines:
                yield from (line for line in lines if result_lines.custom_id_of(line))

    def lately(
        self, job: int, run_id: str, judged: Judged = _as_read, endpoint: str = Endpoint.CHAT
    ) -> list[Outcomes]:
        """Return what the last answers to a job's lines say, in their order, oldest first.

        Of its result files, or of what was noted of it live so far; no more than the end of each
        file is read.
        """
        live = self.path.glob(f"job-{job:05}.live-*.jsonl")
        paths = [self.result_path(job, kind) for kind in ("error", "output")]
        found = [path for path in [*sorted(live, key=_changed_at), *paths] if path.exists()]
        decoder = result_lines.Decoder(run_id=run_id, ids=self._ids(), endpoint=endpoint)
        tails = (io.BytesIO(b"".join(_tail(path))) for path in found)
        return [judged(part) for tail in tails for part in decoder.outcomes(tail)]

    def live_positions(self, job: int, run_id: str) -> dict[int, bool]:
        """Return which rows of a job have an answer noted, and whether it is a good one."""
        said = filter(None, map(result_lines.custom_id_of, self.live_lines(job)))
        found = ((result_lines.position_of(name, run_id), is_good) for name, is_good in said)
        return {position: is_good for position, is_good in found if position is not None}

    def scan_live(
        self, job: int, run_id: str, judged: Judged = _as_read, endpoint: str = Endpoint.CHAT
    ) -> str:
        """Read what was noted so far into an outcomes file; return its name."""
        name = f"live-{job:05}"
        decoder = result_lines.Decoder(run_id=run_id, endpoint=endpoint)
        paths = sorted(self.path.glob(f"job-{job:05}.live-*.jsonl"))
        parts = (
            (n, judged(part)) for n, path in enumerate(paths) for part in _decoded(path, decoder)
        )
        self._write_outcomes(self.path / f"{name}.arrow", paths, parts)
        return name

    def settle_live(self, job: int) -> None:
        """Make the job's result file of all answers that were noted; again, it changes nothing."""
        path = self.result_path(job, "output")
        if not path.exists():
            with replacing(path) as out:
                out.writelines(self.live_lines(job))

    def drop_live(self, job: int) -> None:
        """Remove the notes of a job whose result file is known to the journal."""
        with disk_errors(self.path):
            for path in self.path.glob(f"job-{job:05}.live-*.jsonl"):
                path.unlink()

    # -- outcomes ---------------------------------------------------------------------------

    def scan_job(
        self, job: int, run_id: str, judged: Judged = _as_read, endpoint: str = Endpoint.CHAT
    ) -> Scan:
        """Read both result files of a job into its outcomes file; return the sum of them.

        `judged` gives the outcomes their last word: whether an answer fits what was asked for.
        """
        paths = [self.result_path(job, kind) for kind in ("output", "error")]
        files = [path for path in paths if path.exists()]
        decoder = result_lines.Decoder(run_id=run_id, ids=self._ids(), endpoint=endpoint)
        parts = (
            (n, judged(part)) for n, path in enumerate(files) for part in _decoded(path, decoder)
        )
        return self._write_outcomes(self.path / f"job-{job:05}.arrow", files, parts)

    def scan_kept(
        self, number: int, run_id: str, judged: Judged = _as_read, endpoint: str = Endpoint.CHAT
    ) -> Scan:
        """Read a file of answers taken over into its outcomes file, as `scan_job` does."""
        path = self.checked(self.kept_path(number).name)
        positions = self.kept_manifest(number)["position"].tolist()
        decoder = result_lines.Decoder(run_id=run_id, endpoint=endpoint)
        parts = ((0, judged(part)) for part in _decoded(path, decoder, positions))
        return self._write_outcomes(path.with_suffix(".arrow"), [path], parts)

    def forget_outcomes(self) -> None:
        """Remove outcomes files that are made from raw files: they are to be read anew."""
        with disk_errors(self.path):
            for kind in ("job-*.arrow", "kept-*.arrow", "live-*.arrow"):
                for path in self.path.glob(kind):
                    path.unlink()

    def kept_manifest(self, number: int) -> NDArray[np.void]:
        """Return which rows a file of answers taken over is for, and the digests of their lines."""
        path = self.checked(self.kept_path(number).with_suffix(".npy").name)
        with disk_errors(path):
            return np.frombuffer(path.read_bytes(), dtype=MANIFEST)

    def write_unsent(self, outcomes: Sequence[Outcomes]) -> None:
        """Write the outcomes of rows that were settled without being sent."""
        self._write_outcomes(self.path / "unsent.arrow", [], ((0, part) for part in outcomes))

    def outcomes(self, name: str) -> OutcomeTable | None:
        """Return the outcomes file `name` ("unsent", "kept-00000", "job-00000"), if there.

        One that was made from raw files is believed only to the process that made it.
        """
        import pyarrow as pa

        path = self.path / f"{name}.arrow"
        if not path.exists() or (name != "unsent" and not is_own(path)):
            return None
        self.checked(path.name)
        try:
            with disk_errors(path):
                table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return None  # cut or damaged: it is made again from the raw files
        names = json.loads((table.schema.metadata or {}).get(b"files", b"[]"))
        return OutcomeTable(table, tuple(self.path / Path(one).name for one in names))

    def raw_lines(self, path: Path, spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """Yield the raw result lines at these offsets and lengths of a result file."""
        with disk_errors(path), path.open("rb") as handle:
            for offset, length in spans:
                handle.seek(offset)
                yield handle.read(length)

    def _write_outcomes(
        self, path: Path, files: Sequence[Path], parts: Iterable[tuple[int, Outcomes]]
    ) -> Scan:
        import pyarrow as pa

        schema = _outcome_schema([file.name for file in files])
        model, foreign, malformed = None, 0, list[int]()
        positions = [np.empty(0, dtype=np.int64)]
        with replacing(path) as out, pa.ipc.new_file(out, schema) as writer:
            for number, part in parts:
                writer.write_batch(_outcome_batch(part, number, schema))
                positions.append(np.asarray(part.positions, dtype=np.int64))
                model = model or next((one for one in part.model if one), None)
                foreign += part.foreign
                malformed += part.malformed
        rows = np.concatenate(positions)
        repeated = len(rows) - len(np.unique(rows))
        return Scan(model, foreign, tuple(malformed), repeated)

    # -- answers that later runs may take over ----------------------------------------------

    def write_answered(self, entries: NDArray[np.void], files: Sequence[Path]) -> None:
        """Write where the paid answer to each line is: `entries` of ANSWERED, any order."""
        entries = entries[np.argsort(entries["hi"], kind="stable")]
        names = json.dumps([file.name for file in files])
        self._write(self.path / "answered.json", names.encode())
        self._write(self.path / "answered.npy", entries.tobytes())

    def answered(self) -> Answered | None:
        """Return the answers of an ended run whose files are there. None if it never settled."""
        if "answered.npy" not in self.files:
            return None
        path, list_path = self.checked("answered.npy"), self.checked("answered.json")
        with disk_errors(path):
            names = json.loads(list_path.read_text(encoding="utf-8"))
            entries = np.frombuffer(path.read_bytes(), dtype=ANSWERED)
        files = [Path(name).name for name in names]
        is_there = np.array([(self.path / name).exists() for name in files], dtype=bool)
        return Answered(self, entries[is_there[entries["file"]]], files)

    def _write(self, path: Path, data: bytes) -> None:
        with replacing(path) as out:
            out.write(data)


def result_name(job: int, kind: str) -> str:
    """Return the name of a job's result file; `kind` is `output` or `error`."""
    return f"job-{job:05}.{kind}.jsonl"


class Answered:
    """The paid answers of an ended run, found by the digest of their line."""

    def __init__(self, folder: RunFolder, entries: NDArray[np.void], files: Sequence[str]) -> None:
        digests = np.empty(len(entries), dtype=DIGEST)
        digests["hi"], digests["lo"] = entries["hi"], entries["lo"]
        self._index = SortedDigests(digests, np.arange(len(entries)))
        self._folder, self._entries, self._files = folder, entries, files

    def find(self, digests: NDArray[np.void]) -> NDArray[np.int64]:
        """Return for each digest the number of its answer, -1 where there is none."""
        return self._index.find(digests)

    def lines(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """Yield the raw result lines of these answers, in this order."""
        handles: dict[int, IO[bytes]] = {}
        try:
            for number in numbers:
                entry = self._entries[number]
                file = int(entry["file"])
                if file not in handles:
                    handles[file] = self._folder.checked(self._files[file]).open("rb")
                handles[file].seek(int(entry["offset"]))
                yield handles[file].read(int(entry["length"]))
        finally:
            for handle in handles.values():
                handle.close()


class KeptWriter:
    """Writes result lines taken over from another run, and which rows they answer."""

    def __init__(self, folder: RunFolder, number: int) -> None:
        self._folder = folder
        self.number = number
        self._path = folder.kept_path(number)
        self._manifest: list[NDArray[np.void]] = []
        with disk_errors(self._path):
            self._out = create(part_path(self._path))

    def write(
        self,
        positions: NDArray[np.int64],
        digests: NDArray[np.void],
        lines: Iterable[bytes],
    ) -> None:
        """Write one raw result line for each position and the digest of its request line."""
        self._manifest.append(manifest_of(positions, digests))
        with disk_errors(self._path):
            for line in lines:
                self._out.write(line if line.endswith(b"\n") else line + b"\n")

    @property
    def rows(self) -> int:
        return sum(len(some) for some in self._manifest)

    def close(self) -> int:
        """Put the file in its place, or leave none if it is empty; return its rows."""
        finish(self._out, part_path(self._path), self._path if self.rows else None)
        if self.rows:
            manifest = np.concatenate(self._manifest)
            self._folder._write(self._path.with_suffix(".npy"), manifest.tobytes())
        else:
            self._path.unlink(missing_ok=True)
        return self.rows


class ShardWriter:
    """Writes lines into shards within the limits; a finished shard is on the disk for good."""

    def __init__(
        self,
        folder: RunFolder,
        limits: Limits,
        *,
        numbers: Iterator[int],
        round: int = 0,
        held: bool = False,
        model: str = "",
        count: Callable[[Lines], Sequence[int]] | None = None,
    ) -> None:
        self._folder = folder
        self._packer = Packer(
            max_rows=limits.max_rows_per_job, max_bytes=limits.max_bytes_per_job, count=count
        )
        self._round, self._held, self._model = round, held, model
        self._numbers = numbers  # shared by the writers of one run
        self._number = 0
        self._out: IO[bytes] | None = None
        self._rows = self._bytes = 0
        self._manifest: list[NDArray[np.void]] = []
        self.shards: list[Shard] = []

    def write(self, lines: Lines) -> tuple[tuple[int, int], ...]:
        """Write lines in order, cutting shards where a limit is reached.

        Returns (position, size in bytes) of lines that no job can hold; they are not written.
        Raises JournalError when the disk refuses.
        """
        packed = self._packer.pack(lines)
        for part in packed.parts:
            if part.opens:
                self._finish_shard()
            self._append(part.lines)
        return packed.oversize

    def close(self) -> list[Shard]:
        """Finish the last shard and return all of them."""
        self._finish_shard()
        return self.shards

    def _append(self, lines: Lines) -> None:
        positions = np.asarray(lines.positions, dtype=np.int64)
        if self._out is None:
            self._number = self._folder.free_number("shard", next(self._numbers))
        with disk_errors(self._path):
            if self._out is None:
                self._out = create(part_path(self._path))
            self._out.write(lines.data)
        self._manifest.append(manifest_of(positions, as_digests(lines.digests)))
        self._rows += len(positions)
        self._bytes += len(lines.data)

    @property
    def _path(self) -> Path:
        return self._folder.shard_path(self._number)

    def _finish_shard(self) -> None:
        if self._out is None:
            return
        manifest = np.concatenate(self._manifest).tobytes()
        self._folder._write(self._folder._manifest_path(self._number), manifest)
        finish(self._out, part_path(self._path), self._path)
        sha256 = hashlib.sha256(manifest).hexdigest()
        self.shards.append(
            Shard(
                self._number,
                self._rows,
                self._bytes,
                sha256,
                self._round,
                self._held,
                self._model,
            )
        )
        self._out, self._manifest = None, []
        self._rows = self._bytes = 0


_MAX_MODELS = 100  # each has a file that is open


class ShardWriters:
    """Writes lines into shards that ask one model each, as the service demands of a job."""

    def __init__(self, writer: Callable[[str], ShardWriter]) -> None:
        self._writer = writer
        self._writers: dict[str, ShardWriter] = {}

    def write(self, model: str, lines: Lines) -> tuple[tuple[int, int], ...]:
        """Write lines that ask `model`; returns and raises as `ShardWriter.write`.

        Raises CellError for more models than there may be in one run.
        """
        if model not in self._writers:
            if len(self._writers) == _MAX_MODELS:
                raise CellError(f"-m names more than {_MAX_MODELS} models; name another column")
            self._writers[model] = self._writer(model)
        return self._writers[model].write(lines)

    def close(self) -> list[Shard]:
        """Finish the last shards and return all, in order of their numbers."""
        shards = [shard for writer in self._writers.values() for shard in writer.close()]
        return sorted(shards, key=lambda shard: shard.number)


def manifest_of(positions: NDArray[np.int64], digests: NDArray[np.void]) -> NDArray[np.void]:
    """Put positions and digests side by side."""
    entries = np.empty(len(positions), dtype=MANIFEST)
    entries["position"] = positions
    entries["hi"], entries["lo"] = digests["hi"], digests["lo"]
    return entries


def _as_lines(held: Sequence[tuple[int, bytes, bytes]]) -> Lines:
    positions, data, digests = zip(*held, strict=True)
    return Lines(positions, b"".join(data), list(map(len, data)), b"".join(digests))


def _changed_at(path: Path) -> float:
    with disk_errors(path):
        return path.stat().st_mtime


def _tail(path: Path) -> list[bytes]:
    """Return the last whole lines of a file."""
    with disk_errors(path), path.open("rb") as lines:
        size = lines.seek(0, os.SEEK_END)
        lines.seek(max(0, size - _TAIL_BYTES))
        if size > _TAIL_BYTES:
            lines.readline()  # its beginning is not here
        return [line for line in lines if line.endswith(b"\n")][-_TAIL_LINES:]


def _decoded(
    path: Path, decoder: result_lines.Decoder, positions: Sequence[int] | None = None
) -> Iterator[Outcomes]:
    with disk_errors(path), path.open("rb", buffering=1 << 20) as handle:
        yield from decoder.outcomes(handle, positions)


# -- outcomes as Arrow ----------------------------------------------------------------------

_USAGE = ("usage_input", "usage_cached", "usage_output", "usage_reasoning")


def _outcome_schema(files: Sequence[str]) -> Any:
    import pyarrow as pa

    fields = [
        ("position", pa.int64()),
        ("status", pa.uint8()),
        ("retryable", pa.bool_()),
        # Bytes, not string: an answer may hold a lone surrogate, which UTF-8 cannot.
        ("text", pa.large_binary()),
        ("error", pa.large_binary()),
        ("finish_reason", pa.string()),
        ("model", pa.string()),
        *((name, pa.int64()) for name in _USAGE),
        ("file", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
    ]
    return pa.schema(fields, metadata={"files": json.dumps(list(files))})


def _outcome_batch(part: Outcomes, file: int, schema: Any) -> Any:
    import pyarrow as pa

    n = len(part.positions)
    arrays = [
        pa.array(part.positions, pa.int64()),
        pa.array(part.statuses, pa.uint8()),
        pa.array(is_retryable(part.statuses, part.http_status, part.code)),
        _text_array(part.text),
        _text_array(part.error),
        pa.array(part.finish_reason, pa.string()),
        pa.array(part.model, pa.string()),
        *(pa.array(getattr(part, name), pa.int64()) for name in _USAGE),
        pa.array(np.full(n, file, dtype=np.int32)),
        pa.array(part.offsets, pa.int64()),
        pa.array(part.lengths, pa.int64()),
    ]
    return pa.record_batch(arrays, schema=schema)


def _text_array(texts: Sequence[str | None]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(texts, pa.large_binary())
    except UnicodeEncodeError:
        encoded = [None if t is None else t.encode("utf-8", "surrogatepass") for t in texts]
        return pa.array(encoded, pa.large_binary())
