"""Doctor's look at the state folder: what the user that runs it may do there, not what root may."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from learner_worker.doctor.findings import Level
from learner_worker.doctor.folder import check_folder

AS_ANOTHER_USER = """
import asyncio, json, os, sys
from pathlib import Path
from types import SimpleNamespace
from learner_worker.doctor.folder import check_folder
if os.geteuid() == 0:
    os.setuid(65534)
for name in sys.argv[1:]:
    case = SimpleNamespace(settings=SimpleNamespace(state_dir=Path(name)))
    print(json.dumps([[found.level, found.what] for found in asyncio.run(check_folder(case))]))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def findings_of(*paths: Path) -> list[list[tuple[int, str]]]:
    """What a user without root's rights is told of each folder."""
    ended = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER_USER, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [[(level, what) for level, what in json.loads(line)] for line in ended.stdout.splitlines()]


def test_what_the_user_may_not_use_is_named(folder: Path) -> None:
    """A read-only folder, a file of somebody else in it, a closed folder above it, no room to make it."""
    read_only, with_a_file, closed = (folder / name for name in ("read-only", "with-a-file", "closed"))
    for path in (read_only, with_a_file, closed, closed / "state"):
        path.mkdir()
    file = with_a_file / "shard-00003.sqlite3"
    file.touch()
    file.chmod(0o400)
    with_a_file.chmod(0o777)
    read_only.chmod(0o555)
    closed.chmod(0o600)
    try:
        findings = findings_of(read_only, with_a_file, closed / "state", read_only / "new")
    finally:
        closed.chmod(0o700)
        read_only.chmod(0o755)
    assert [[level for level, _ in found] for found in findings] == [[Level.ERROR]] * 4
    assert [found[0][1].partition(" may not ")[2] for found in findings[:3]] == [
        f"read and write {read_only}",
        f"read and write {file}",
        f"enter {closed}, above the state folder {closed}/state",
    ]
    assert findings[3][0][1] == f"{read_only / 'new'} is not there and cannot be made"


def test_root_is_told_that_its_rights_say_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is another user's: a warning to run the check as the user that runs the worker."""
    if os.geteuid() == 0:
        os.chown(folder, 65534, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    case = cast("Any", SimpleNamespace(settings=SimpleNamespace(state_dir=folder)))
    (found,) = (one for one in asyncio.run(check_folder(case)) if "root" in one.what)
    assert found.level is Level.WARNING
    assert found.what.startswith("this check runs as root, and ")
    assert found.remedy == "run doctor as the user that runs the worker"
