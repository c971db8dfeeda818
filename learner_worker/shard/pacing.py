"""How the reading of events gives way to agents who ask."""

import asyncio

CHUNK = 50
"""Events or facts between two of its turns: a millisecond."""
_TURNS = 10
"""Turns a chunk while agents ask. At 300 questions a second beside a backlog p50 and p99 were 26 and 148 ms
with three of them, 15 and 90 ms with ten, at no lower rate of events; thirty gained no more (measured).
"""
_QUIET_SECONDS = 1.0
_BUSY_SECONDS = 0.1
_LINGER_SECONDS = 0.004
"""Questions come together for so long while a backlog is worked off. A fetch and a produce request cost the
interpreter a millisecond (measured), twenty answers' time, and one of each a question left events little.
"""


class Pacing:
    """Lets others have their turns between two chunks of events; more of them while agents ask.

    From a request's bytes to its reply's the event loop goes round a dozen times, mostly in the Kafka client,
    where nobody can see that a request is on its way. A round without events costs next to nothing.
    """

    def __init__(self) -> None:
        self._asked_at = self._worked_at = float("-inf")

    def asked(self) -> None:
        """Requests were read."""
        self._asked_at = asyncio.get_running_loop().time()

    async def after_chunk(self, done: int) -> None:
        """Gives way after so many events; after a whole chunk there are likely more."""
        if done >= CHUNK:
            self._worked_at = asyncio.get_running_loop().time()
        await self.give_way()

    async def give_way(self) -> None:
        """Gives way in other work that takes long."""
        asked = asyncio.get_running_loop().time() - self._asked_at < _QUIET_SECONDS
        for _ in range(_TURNS if asked else 1):
            await asyncio.sleep(0)

    async def linger(self) -> None:
        """Lets requests come together, if a backlog is being worked off."""
        if asyncio.get_running_loop().time() - self._worked_at < _BUSY_SECONDS:
            await asyncio.sleep(_LINGER_SECONDS)
