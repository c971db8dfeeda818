"""Files that somebody else changed, and a folder without room: told in a sentence, or mended from Kafka."""

import ctypes
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from learner_worker.brokers import Broker
from tests.crash_points.disk import limit_file_size
from tests.crash_points.scene import FLAWLESS, scene
from tests.support.forked import clean_environment

_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1


def _without_the_wal(state_dir: Path) -> None:
    """What only a careless copy leaves: the last checkpoints were in the log, which is gone."""
    for path in state_dir.glob("*-wal"):
        path.unlink()


def _with_a_junk_index(state_dir: Path) -> None:
    for path in state_dir.glob("*-shm"):
        path.write_bytes(os.urandom(path.stat().st_size))


def _cut_in_the_middle(state_dir: Path) -> None:
    for path in state_dir.glob("shard-*.sqlite3"):
        os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("change", "set_aside"), [(_without_the_wal, 0), (_with_a_junk_index, 0), (_cut_in_the_middle, 2)]
)
async def test_a_file_changed_between_two_runs_is_mended(
    one_broker: Broker,
    prefix: str,
    tmp_path: Path,
    change: Callable[[Path], None],
    set_aside: int,
) -> None:
    """Killed or stopped, its files changed, started again: all is the model's; damage was set aside."""
    async with scene(one_broker.bootstrap_servers, prefix, tmp_path, seed=7) as found:
        assert await found.play_with_changed_files(change, killed=set_aside == 0) == FLAWLESS

    assert len(list(found.state_dir.glob("*.damaged"))) == set_aside


def _bound_by_rights() -> None:
    """Root may write what nobody may; a process without that right obeys the file's mode."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="rights are taken from root in Linux's way")
async def test_a_read_only_file_ends_the_worker_with_a_sentence(
    one_broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Exit code 1, the file's name and what to do; writable again, the next run ends the work."""
    async with scene(one_broker.bootstrap_servers, prefix, tmp_path, seed=8) as found:
        assert await found.play_read_only(_bound_by_rights) == FLAWLESS


def test_no_room_for_the_lock_is_told_in_a_sentence(tmp_path: Path) -> None:
    """Not even the process id fits: exit code 1, the file's name and what to do, no traceback."""
    command = [sys.executable, "-m", "learner_worker", "run", "--state-dir", str(tmp_path / "state")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=clean_environment(),
        preexec_fn=functools.partial(limit_file_size, 0),
    )

    assert done.returncode == 1, done.stderr
    assert done.stderr == (
        f"learner-worker: cannot write {tmp_path / 'state' / 'lock'} (File too large: "
        "raise the limit of file sizes (ulimit -f), or free disk space)\n"
    )
