"""How the reading of events yields to requests."""

import asyncio

CHUNK = 50
"""Events or facts processed between two yields to the event loop: about a millisecond."""
TURNS = 10
"""Turns of the loop after each chunk while agents ask: with fewer, answers wait for more chunks."""
_QUIET_SECONDS = 1.0
"""How long after the last request agents count as asking: they often ask again within it."""
_BUSY_SECONDS = 0.1
"""How long after a whole chunk a backlog is assumed: as long as a poll may wait for the next one."""
LINGER_SECONDS = 0.004
"""So some requests share a fetch and a produce request, which cost as much as twenty answers."""


class Pacing:
    """Yields to the event loop between two chunks of events, for longer while agents ask.

    From a request's bytes to its reply's the event loop turns a dozen times, mostly in the Kafka client,
    where nobody can see that a request is on its way. A turn without events costs next to nothing.
    """

    def __init__(self) -> None:
        self._asked_at = self._worked_at = float("-inf")

    def asked(self) -> None:
        """Requests were read."""
        self._asked_at = asyncio.get_running_loop().time()

    async def after_chunk(self, done: int) -> None:
        """Yields after so many events; after a whole chunk there are likely more."""
        if done >= CHUNK:
            self._worked_at = asyncio.get_running_loop().time()
        await self.give_way()

    async def give_way(self) -> None:
        """Yields within other work that takes long."""
        asked = asyncio.get_running_loop().time() - self._asked_at < _QUIET_SECONDS
        for _ in range(TURNS if asked else 1):
            await asyncio.sleep(0)

    async def linger(self) -> None:
        """Waits for more requests to answer together, if there is a backlog of events."""
        if asyncio.get_running_loop().time() - self._worked_at < _BUSY_SECONDS:
            await asyncio.sleep(LINGER_SECONDS)
