"""Pacing: how processing events yields to answering requests."""

import asyncio

CHUNK = 50
"""Events or facts processed between two yields to the event loop: more would take milliseconds."""
ASKED_CHUNK = 15
"""The same while agents ask: an answer waits that long several times."""
TURNS = 10
"""Turns of the loop after each chunk while agents ask: with fewer, an answer waits for more chunks."""
_QUIET_SECONDS = 1.0
"""How long after the last request agents count as asking: longer than the gap between bids in a round."""
_BUSY_SECONDS = 0.1
"""How long after a full chunk a backlog is assumed: as long as a poll may wait for the next one."""
LINGER_SECONDS = 0.002
"""Long enough for some requests to share a fetch and a produce request, which cost more than an answer."""


class Pacing:
    """Yields to the event loop between two chunks of events, for longer while agents ask.

    Between a request's arrival and its reply the event loop turns about a dozen times, mostly in the Kafka
    client, where the request cannot be seen yet. A turn without events costs next to nothing.
    """

    def __init__(self) -> None:
        self._asked_at = self._worked_at = float("-inf")

    @property
    def chunk(self) -> int:
        """The number of events or facts to process until the next yield to the event loop."""
        return ASKED_CHUNK if self._is_asked() else CHUNK

    def asked(self) -> None:
        """Notes that requests were read."""
        self._asked_at = asyncio.get_running_loop().time()

    async def after_chunk(self, *, full: bool) -> None:
        """Yields after a chunk of events; a full chunk means that more are likely to follow."""
        if full:
            self._worked_at = asyncio.get_running_loop().time()
        await self.give_way()

    async def give_way(self) -> None:
        """Yields within other long work."""
        for _ in range(TURNS if self._is_asked() else 1):
            await asyncio.sleep(0)

    async def linger(self) -> None:
        """Waits for more requests to answer together, if there is a backlog of events."""
        if asyncio.get_running_loop().time() - self._worked_at < _BUSY_SECONDS:
            await asyncio.sleep(LINGER_SECONDS)

    def _is_asked(self) -> bool:
        return asyncio.get_running_loop().time() - self._asked_at < _QUIET_SECONDS
