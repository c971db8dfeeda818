"""Stalls of the reading loop: after a long one this replica may have lost its shards without knowing it."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from learner_worker.requests.clock import Clock

_ASK_AGAIN_SECONDS = 0.5
"""Between two questions whether the group still counts on this member: it may be rejoining."""
_log = structlog.get_logger("learner_worker.requests")


class StallGuard:
    """Notes when the loop stood still, and is in doubt until the group confirms this member.

    Args:
        stall_seconds: a loop that stood still for longer is in doubt: less than the group waits for a member.
        is_member: asks the group whether it still counts on this member.
        clock: tells how long the loop stood still.
    """

    def __init__(self, stall_seconds: float, is_member: Callable[[], Awaitable[bool]], clock: Clock) -> None:
        self._stall_seconds = stall_seconds
        self._is_member = is_member
        self._clock = clock
        self.in_doubt = False
        self.last_turn_seconds = clock.monotonic()

    @property
    def longest_pause_seconds(self) -> float:
        """A pause that is surely not taken for a stall."""
        return self._stall_seconds / 4

    def note_turn(self) -> None:
        """The loop goes on."""
        before, self.last_turn_seconds = self.last_turn_seconds, self._clock.monotonic()
        stood_seconds = self.last_turn_seconds - before
        if stood_seconds > self._stall_seconds and not self.in_doubt:
            self.in_doubt = True
            _log.warning(
                "requests.held", stood_seconds=round(stood_seconds, 1), until="the group confirms us"
            )

    async def confirm(self) -> None:
        """Asks the group; if it does not confirm this member, waits a little."""
        if await self._is_member():
            self.in_doubt = False
        else:
            await asyncio.sleep(_ASK_AGAIN_SECONDS)

    def reassigned(self) -> None:
        """The group has given this member its shards anew: no doubt is left."""
        self.in_doubt = False
