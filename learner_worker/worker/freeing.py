"""Frees the memory of closed shards in the background: in one step, it would block the event loop."""

import asyncio
from collections import deque
from typing import Final, Protocol


class ClosedState(Protocol):
    """What a closed shard or standby leaves in memory."""

    async def free(self) -> None:
        """Frees it, in steps too short to delay an answer."""
        ...


_closed: Final[deque[ClosedState]] = deque()
_freeing: Final[set[asyncio.Task[None]]] = set()  # the event loop itself keeps weak references only


def free_in_background(closed: ClosedState) -> None:
    """Frees something that nobody uses any more, after what was closed before it.

    The end of the event loop cancels the rest.
    """
    _closed.append(closed)
    loop = asyncio.get_running_loop()
    if all(task.done() or task.get_loop() is not loop for task in _freeing):
        task = asyncio.create_task(_free_all(), name="free-memory")
        _freeing.add(task)
        task.add_done_callback(_freeing.discard)


async def _free_all() -> None:
    """Frees one after another: the steps of several would add up to a long turn of the event loop."""
    while _closed:
        await _closed.popleft().free()
