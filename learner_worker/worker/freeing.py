"""Frees the memory of closed shards in the background: at once it would block the event loop for long."""

import asyncio
from typing import Final, Protocol

_freeing: Final[set[asyncio.Task[None]]] = set()  # the event loop itself keeps weak references only


class ClosedState(Protocol):
    """What a closed shard or standby leaves in memory."""

    async def free(self) -> None:
        """Frees it, in steps that no answer notices."""
        ...


def free_in_background(closed: ClosedState) -> None:
    """Frees something that nobody uses any more; the event loop's end cancels what is left of it."""
    task = asyncio.create_task(closed.free(), name="free-memory")
    _freeing.add(task)
    task.add_done_callback(_freeing.discard)
