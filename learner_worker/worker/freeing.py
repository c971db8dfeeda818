"""Frees the memory of closed shards in the background: in one step, it would block the event loop."""

import asyncio
from typing import Final, Protocol

_freeing: Final[set[asyncio.Task[None]]] = set()  # the event loop itself keeps weak references only


class ClosedState(Protocol):
    """What a closed shard or standby leaves in memory."""

    async def free(self) -> None:
        """Frees it, in steps too short to delay an answer."""
        ...


def free_in_background(closed: ClosedState) -> None:
    """Frees something that nobody uses any more; the end of the event loop cancels the rest."""
    task = asyncio.create_task(closed.free(), name="free-memory")
    _freeing.add(task)
    task.add_done_callback(_freeing.discard)
