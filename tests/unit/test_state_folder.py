"""The state folder belongs to one process at a time."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from learner_worker.contract.topics import TopicName
from learner_worker.errors import ConfigurationError
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.state_folder import locked_state_folder
from learner_worker.store.statements import Checkpoint

HOLD = """
import sys
from pathlib import Path
from learner_worker.store.state_folder import locked_state_folder
with locked_state_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_state_folder_belongs_to_one_process(tmp_path: Path) -> None:
    """A second worker is refused with the first one's process id; the lock goes with its process."""
    folder = tmp_path / "new" / "state"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "locked\n"
            with pytest.raises(ConfigurationError) as caught, locked_state_folder(folder):
                pass
            assert f"{folder} is in use by another worker (process {first.pid}): " in str(caught.value)
        finally:
            first.kill()
            first.wait(10)
    with locked_state_folder(folder) as mine:
        assert folder == mine


def test_a_state_folder_is_free_again_after_use(tmp_path: Path) -> None:
    """The same process may take it again, also after a failure inside."""
    with pytest.raises(KeyError), locked_state_folder(tmp_path):
        raise KeyError
    with (
        locked_state_folder(tmp_path),
        pytest.raises(ConfigurationError, match="in use"),
        locked_state_folder(tmp_path),
    ):
        pass


async def test_the_state_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Folder 0700, and every file in it 0600, also where others could read before."""
    for folder in (tmp_path / "new", tmp_path / "old"):
        if folder.name == "old":
            folder.mkdir(0o755)
            (folder / "shard-00000.sqlite3").touch(0o644)
        with locked_state_folder(folder):
            file = await ShardFile.open(folder / "shard-00000.sqlite3", {"partitions": "1"})
            try:
                await file.write(Checkpoint({TopicName("bid-placed"): 1}))
                modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
            finally:
                await file.close()
        assert set(modes.values()) == {0o600}
        assert modes.keys() > {"lock", "shard-00000.sqlite3", "shard-00000.sqlite3-wal"}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    """A file in the way: the message says which flag to change."""
    (tmp_path / "file").touch()

    with (
        pytest.raises(ConfigurationError, match=r"cannot write to the state folder .*--state-dir"),
        locked_state_folder(tmp_path / "file" / "state"),
    ):
        pass
