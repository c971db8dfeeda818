"""A file that cannot be used is explained by the system's own reason; what a worker needs is looked at."""

import errno
import fcntl
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from learner_worker.doctor.findings import Level
from learner_worker.doctor.folder import check_folder
from learner_worker.errors import ConfigurationError, StateError
from learner_worker.store import needs
from learner_worker.store.needs import lacking_descriptors, lacking_space
from learner_worker.store.obstacles import obstacle
from learner_worker.store.state_folder import locked_state_folder

FEW_FILES = """
import asyncio, resource, sys
from pathlib import Path
from learner_worker.contract.fields import ShardId
from learner_worker.errors import StateError
from learner_worker.store.state_folder import StateFolder
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
async def main():
    folder, opened = StateFolder(Path(sys.argv[1]), cluster_id="c", topic_prefix="", partitions=99), []
    try:
        for shard in range(99):
            opened.append(await folder.open(ShardId(shard)))
    except StateError as error:
        print(error)
    for file in opened:
        await file.close()
asyncio.run(main())
"""

LIMITED = """
import asyncio, json, resource, sys
from learner_worker.doctor import folder
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
async def twelve(_):
    return 12
folder.expected_count = twelve
[found] = asyncio.run(folder.check_limits(None))
print(json.dumps([found.level, found.what]))
"""


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free disk space"),
        (errno.EACCES, "to read and write it"),
        (errno.EMFILE, "raise the limit of open files"),
        (errno.ENOLCK, "its file system cannot lock files"),
        (errno.EROFS, "mount its file system so that it can be written"),
        (errno.EIO, "check the disk"),
    ],
)
def test_the_errno_decides_the_remedy(number: int, remedy: str, tmp_path: Path) -> None:
    """The system's words, then what to do about exactly that."""
    text = obstacle(tmp_path, OSError(number, "as the system says"))
    reason = errno.errorcode[number]
    assert remedy in text, reason
    assert "free disk space" not in text or number == errno.ENOSPC


def test_a_lock_that_the_file_system_refuses_is_no_other_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOLCK, as on a network file system: nobody else uses the folder."""

    def refuse(_handle: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ConfigurationError) as caught, locked_state_folder(tmp_path):
        pass
    assert "No locks available: its file system cannot lock files" in str(caught.value)
    assert "another worker" not in str(caught.value)


@pytest.mark.parametrize("limit", range(40, 45))
def test_used_up_descriptors_are_told_as_such(limit: int, tmp_path: Path) -> None:
    """Whichever of a shard's five files is one too many: the limit is named, and the process ends."""
    ended = subprocess.run(
        [sys.executable, "-c", FEW_FILES, str(tmp_path), str(limit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"Too many open files: raise the limit of open files, now {limit}" in ended.stdout
    assert "disk" not in ended.stdout


def test_a_full_disk_is_one_for_sqlite_too(tmp_path: Path) -> None:
    """SQLite's own code says it; there is no errno."""
    with sqlite3.connect(tmp_path / "full.sqlite3") as connection:
        connection.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.executescript("CREATE TABLE a (x); CREATE TABLE b (x); CREATE TABLE c (x);")
    connection.close()
    assert obstacle(tmp_path / "full.sqlite3", caught.value) == "No space left on device: free disk space"


def test_needs_are_told_before_they_are_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors for all shards, space and inodes: what there is, and what to do."""
    assert lacking_descriptors(1) is None
    assert list(lacking_space(tmp_path)) == []
    lack = lacking_descriptors(1_000_000)
    assert lack is not None
    assert "1000000 shards need 5000100" in lack.what
    with monkeypatch.context() as patch:
        patch.setattr(needs, "LEAST_BYTES", 2**62)
        ((what, remedy),) = lacking_space(tmp_path)
    assert (what.endswith(f"MiB are free in {tmp_path}"), remedy) == (True, "free some space")
    if os.statvfs(tmp_path).f_files:  # some file systems have no fixed number of them
        monkeypatch.setattr(needs, "LEAST_INODES", 2**62)
        ((what, remedy),) = lacking_space(tmp_path)
        assert what.endswith(f"inodes are free in {tmp_path}")
        assert remedy.startswith("delete files there")


async def test_a_start_and_doctor_tell_of_a_disk_that_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little space: a worker does not start, and doctor has an error, by the same rule."""
    monkeypatch.setattr(needs, "LEAST_BYTES", 2**62)
    with pytest.raises(StateError, match="free some space"), locked_state_folder(tmp_path):
        pass
    case = cast("Any", SimpleNamespace(settings=SimpleNamespace(state_dir=tmp_path)))
    [found] = [found for found in await check_folder(case) if found.level == Level.ERROR]
    assert (found.what.endswith(f"are free in {tmp_path}"), found.remedy) == (True, "free some space")


def test_doctor_warns_of_too_few_open_files_for_all_shards() -> None:
    """Before the last shard is opened: what there is, what it takes, and how to raise it."""
    few, enough = (limits_found(number) for number in (150, 1_000))
    assert few == [2, "this process may open 150 files, and 12 shards need 160"]
    assert enough == [0, "1000 files may be open, enough to own all 12 shards"]


def limits_found(most: int) -> object:
    """The level and the sentence of doctor, in a process with a limit of its own, for twelve shards."""
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(most)], capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(ended.stdout)
