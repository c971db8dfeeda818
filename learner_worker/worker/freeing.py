"""Frees the memory of closed shards in the background: at once it would stop everything for seconds."""

import asyncio
from typing import Protocol


class ClosedState(Protocol):
    """What a closed shard or standby leaves in memory."""

    async def free(self) -> None:
        """Frees it, in steps that no answer notices."""
        ...


class Freeing:
    """Frees what was closed, while the worker goes on; a worker that ends leaves it to the process's end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, closed: ClosedState) -> None:
        """Starts freeing something that nobody uses any more."""
        task = asyncio.create_task(closed.free(), name="free-memory")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Stops it: what is left goes with the process."""
        for task in self._tasks:
            task.cancel()
