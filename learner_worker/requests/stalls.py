"""Detects stalls of the poll loop: during a long one this replica may have lost its shards unnoticed."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from learner_worker.requests.clock import Clock

_ASK_AGAIN_SECONDS = 0.5
"""Pause between two membership checks: this member may be rejoining, which takes about as long."""
_log = structlog.get_logger("learner_worker.requests")


class StallGuard:
    """Detects a stall of the loop; membership is then in doubt until the group confirms it.

    Args:
        stall_seconds: a longer stall puts membership in doubt; less than the group's session timeout.
        is_member: asks the group whether this replica is still a member.
        clock: measures stalls.
    """

    def __init__(self, stall_seconds: float, is_member: Callable[[], Awaitable[bool]], clock: Clock) -> None:
        self._stall_seconds = stall_seconds
        self._is_member = is_member
        self._clock = clock
        self.in_doubt = False
        self.last_turn_seconds = clock.monotonic()

    @property
    def longest_pause_seconds(self) -> float:
        """The longest pause of the loop that is certainly not taken for a stall."""
        return self._stall_seconds / 4

    def note_turn(self) -> None:
        """Notes a turn of the loop, and checks how long the last one took."""
        before, self.last_turn_seconds = self.last_turn_seconds, self._clock.monotonic()
        stood_seconds = self.last_turn_seconds - before
        if stood_seconds > self._stall_seconds and not self.in_doubt:
            self.in_doubt = True
            _log.warning(
                "requests.held", stood_seconds=round(stood_seconds, 1), until="the group confirms this member"
            )

    async def confirm(self) -> None:
        """Asks the group; if it does not confirm membership, pauses before the next check."""
        if await self._is_member():
            self.in_doubt = False
        else:
            await asyncio.sleep(_ASK_AGAIN_SECONDS)

    def reassigned(self) -> None:
        """Notes a new assignment, which confirms membership."""
        self.in_doubt = False
