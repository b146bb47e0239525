"""The power goes at any instant: what the journal tells of is on the disk, and no job is forgotten.

Every prefix of a process's write log is replayed, with only what was fsynced by then. Needs strace
(`.ci/run` installs it).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from service import Service
from write_log import Image, images, record

from batch_magic.folder import Home
from batch_magic.journal import Journal
from batch_magic.records import JobStage, RunRecord
from batch_magic.result import result_frame

WORK = """
import sys, pandas as pd, batch_magic as bm
frame = pd.DataFrame({"text": [f"row {n}" for n in range(10)]})
bm.submit(frame[:6], "{{ text }}", model="m", on=sys.argv[1]).wait(timeout_s=30)
bm.submit(frame, "{{ text }}", model="m", on=sys.argv[1], out="again").wait(timeout_s=30)
"""
QUICK = {"POLL_FIRST_S": "0.05", "RETRY_BASE_S": "0.05", "MAX_ROWS_PER_JOB": "4"}
TOKEN = re.compile(rb'"batch_magic_job": ?"(\w+)"')
UNPAID = (JobStage.PLANNED, JobStage.UPLOADING, JobStage.UPLOADED)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed (Linux only)")
def test_every_prefix_of_the_write_log_is_a_home_to_go_on_from(
    service: Service, tmp_path: Path
) -> None:
    """Journal and files hold each other's word; a job that was asked for is known to be."""
    service.faults(row_status={"status": 500, "share": 0.3})
    environment = os.environ | {f"BATCH_MAGIC_{name}": value for name, value in QUICK.items()}
    project = tmp_path / "project"
    project.mkdir()
    calls = record(
        [sys.executable, "-c", WORK, service.url], tmp_path / "log", cwd=project, env=environment
    )
    home, seen, furthest = project / ".gptbatch", set(), 0
    for number, image in enumerate(images(calls, home)):
        key = (len(image.sent), tuple(sorted((n, hash(b)) for n, b in image.files.items())))
        if key not in seen:
            seen.add(key)
            image.write(home, tmp_path / f"{number}")
            furthest = max(furthest, check(tmp_path / f"{number}", image))
            shutil.rmtree(tmp_path / f"{number}")
    assert len(seen) > 50
    assert furthest == 2, "in the end both runs are there, ended"


def check(path: Path, image: Image) -> int:
    """Check a home as the next process finds it; return how many runs of it have ended."""
    posted = {token for data in image.sent for token in TOKEN.findall(data)}
    if not (path / "journal.db").exists():
        assert not posted
        return 0
    home = Home(path)
    journal = Journal(home.journal_path)
    try:
        runs = journal.runs()
    finally:
        journal.close()
    for run in runs:
        check_run(home, run)
    known = {job.token.encode() for run in runs for job in run.jobs if job.stage not in UNPAID}
    assert posted <= known, "a job that was asked for must be looked for"
    return sum(run.ending is not None for run in runs)


def check_run(home: Home, run: RunRecord) -> None:
    folder = home.run_folder(run.run_id, run.files)
    for shard in run.shards:
        folder.check_shard(shard)
    for name in run.files:
        folder.checked(name)
    frame = result_frame(folder, run, None)
    assert len(frame) == run.rows
    if run.ending is not None:
        assert set(frame["gpt_status"]) <= {"ok", "failed"}
