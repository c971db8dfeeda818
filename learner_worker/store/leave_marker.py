"""A file in the state folder that tells its worker to leave the group when it stops."""

from pathlib import Path

from learner_worker.errors import ConfigurationError
from learner_worker.store.obstacles import obstacle

_NAME = "leave"


def request_leave(state_dir: Path) -> None:
    """Tells the worker of the folder to leave its group at its next stop.

    Raises:
        ConfigurationError: the folder cannot be written.
    """
    try:
        (state_dir / _NAME).touch()
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to the state folder {state_dir} ({obstacle(state_dir, error)}); run this as the "
            "worker's user"
        ) from error


def leave_requested(state_dir: Path) -> bool:
    """Whether the worker of the folder is to leave its group when it stops."""
    return (state_dir / _NAME).exists()


def withdraw_leave(state_dir: Path) -> None:
    """Removes the request: the worker has left, or another one starts."""
    (state_dir / _NAME).unlink(missing_ok=True)
