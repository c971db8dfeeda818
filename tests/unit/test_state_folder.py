"""The state folder belongs to one process at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from learner_worker.errors import ConfigurationError
from learner_worker.store.state_folder import locked_state_folder

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


def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    """A file in the way: the message says which flag to change."""
    (tmp_path / "file").touch()

    with (
        pytest.raises(ConfigurationError, match=r"cannot write to the state folder .*--state-dir"),
        locked_state_folder(tmp_path / "file" / "state"),
    ):
        pass
