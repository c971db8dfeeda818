"""Stops a worker on this machine for good: it leaves its group, so that others have its shards at once."""

import asyncio
import os
import signal
from pathlib import Path

from learner_worker.errors import ConfigurationError, LearnerError
from learner_worker.store.leave_marker import leave_requested, request_leave
from learner_worker.store.state_folder import lock_owner

_STOP_SECONDS = 60.0  # longer than a worker's own limits for its end
_LOOK_SECONDS = 0.1  # short beside a worker's end


def ask_to_leave(state_dir: Path) -> int:
    """Tells the worker that uses a folder to leave its group when it stops; returns its process id.

    Raises:
        ConfigurationError: no worker uses the folder, or it cannot be written.
    """
    owner = lock_owner(state_dir)
    if owner is None or not owner.isdecimal():
        raise ConfigurationError(
            f"no worker uses the state folder {state_dir}: set --state-dir to the folder of a worker that "
            "runs, or remove the member of one that died with --instance NAME"
        )
    request_leave(state_dir)
    return int(owner)


async def stop_for_good(state_dir: Path, process: int) -> None:
    """Stops the worker of a folder, and waits until it has left its group.

    Raises:
        ConfigurationError: this user cannot signal it, or it runs in another container.
        LearnerError: it ended without leaving, or does not end.
    """
    if not _signalled(process, signal.SIGTERM):
        raise ConfigurationError(
            f"cannot signal process {process}: run this where the worker runs, as its user; or use "
            "--when-stopped, and stop the worker as usual"
        )
    waited = 0.0
    while leave_requested(state_dir) and waited < _STOP_SECONDS and _signalled(process, 0):
        await asyncio.sleep(_LOOK_SECONDS)
        waited += _LOOK_SECONDS
    if leave_requested(state_dir):
        raise LearnerError(
            f"process {process} did not leave its group, its log says why: once it has ended, remove its "
            "member with --instance NAME, or its shards wait until its session times out"
        )


def _signalled(process: int, number: int) -> bool:
    try:
        os.kill(process, number)
    except OSError:
        return False
    return True
