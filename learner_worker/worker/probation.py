"""Probation: a replica that has failed again and again gets no shards until it has run for a while.

A static member that crashes and returns would otherwise be given its shards each time, and nobody would
answer for them. While it is on probation it follows shards as a standby, if the group keeps standbys.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from learner_worker.group.membership import Membership
from learner_worker.lifecycle import is_set_within
from learner_worker.store.starts import forget_starts, note_start

_FAILURES = 3  # recent ones: fewer may be chance, and moving shards costs more than a restart
_PROVEN_SECONDS = 60.0  # what fails because of its shards fails by then
FIRST_SECONDS = 30.0
"""The first probation: longer than most failures of a start take, and of an opened shard."""
_LONGEST_SECONDS = 300.0  # it doubles with each failure up to this: a repaired replica works within minutes
_log = structlog.get_logger("learner_worker.stream")


def probation_seconds(failures: int) -> float:
    """How long a replica has to prove itself after so many recent failures; 0.0: not at all."""
    if failures < _FAILURES:
        return 0.0
    return float(min(FIRST_SECONDS * 2 ** (failures - _FAILURES), _LONGEST_SECONDS))


@contextmanager
def noted_start(state_dir: Path) -> Iterator[float]:
    """Notes a start, and yields how long the replica is on probation.

    A run that ends well, or is still going a minute after its probation, is forgotten with those before it.
    """
    seconds = probation_seconds(note_start(state_dir, time.time()))
    proven = asyncio.get_running_loop().call_later(seconds + _PROVEN_SECONDS, forget_starts, state_dir)
    try:
        yield seconds
    except asyncio.CancelledError:  # told to stop before it could begin
        forget_starts(state_dir)
        raise
    finally:
        proven.cancel()
    forget_starts(state_dir)


class Probation:
    """This replica's probation.

    Args:
        seconds: its length; 0.0 for none.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.active = seconds > 0

    async def serve(self, membership: Membership, stopping: asyncio.Event) -> None:
        """Waits for its end, then joins the group anew to be given shards."""
        if not self.active:
            return
        _log.warning("probation.begun", seconds=self._seconds)
        if await is_set_within(stopping, self._seconds):
            return
        self.active = False
        _log.info("probation.over")
        membership.request_rejoin()
