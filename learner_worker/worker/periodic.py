"""The periodic loops: checkpoints, the group's frontier and event-loop stalls."""

import asyncio
import time

from learner_worker.group.frontier import Frontier
from learner_worker.lifecycle import is_set_within
from learner_worker.observability import ProcessInstruments
from learner_worker.worker.checkpoint import Checkpointer

_STALL_LOOK_SECONDS = 0.01
"""Sampling interval: a stall that falls between two samples is shorter, which is too short to matter."""


class Periodic:
    """Checkpoints, frontier queries and stall samples, each at its own interval.

    Args:
        checkpoint_seconds: between two checkpoints.
        frontier_seconds: between two queries of how far the group has read.
    """

    def __init__(
        self,
        *,
        checkpointer: Checkpointer,
        frontier: Frontier,
        instruments: ProcessInstruments,
        checkpoint_seconds: float,
        frontier_seconds: float,
    ) -> None:
        self._checkpointer = checkpointer
        self._frontier = frontier
        self._instruments = instruments
        self._checkpoint_seconds = checkpoint_seconds
        self._frontier_seconds = frontier_seconds

    async def make_checkpoints(self, stopping: asyncio.Event) -> None:
        """Makes checkpoints until `stopping` is set."""
        while not await is_set_within(stopping, self._checkpoint_seconds):
            with self._instruments.checkpoint_seconds.time():
                done = await self._checkpointer.checkpoint()
            self._instruments.checkpoints.labels("ok" if done else "failed").inc()

    async def ask_how_far_the_group_is(self, stopping: asyncio.Event) -> None:
        """Queries how far the group has read, so that tasks are forgotten soon after their horizon."""
        while not await is_set_within(stopping, self._frontier_seconds):
            await self._frontier.look()

    async def measure_stalls(self, stopping: asyncio.Event) -> None:
        """Measures how long the event loop is blocked: an answer may be delayed by as much."""
        while not stopping.is_set():
            asked = time.monotonic()
            await asyncio.sleep(_STALL_LOOK_SECONDS)
            late = time.monotonic() - asked - _STALL_LOOK_SECONDS
            self._instruments.loop_stall_seconds.observe(max(0.0, late))
