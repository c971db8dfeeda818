"""Counting the rows of older files for strategies whose sums lack them, beside everything else."""

import asyncio

import structlog

from learner_worker.contract.fields import ShardId
from learner_worker.errors import ClosedFileError
from learner_worker.lifecycle import is_set_within
from learner_worker.worker.ownership import Ownership

_LOOK_SECONDS = 0.2
"""How often it looks for shards whose sums lack rows."""
_PAUSE_SECONDS = 0.005
"""Between two pages: a page takes the event loop a millisecond or two, so at most a third of it."""
_log = structlog.get_logger("learner_worker.strategies")


class Backfill:
    """Counts page after page until the sums of every open shard hold all of its rows.

    A page is in one checkpoint with how far it goes, so it goes on from there wherever the process ends.
    While a shard is restored nothing is counted: its agents wait for the restore first.
    """

    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership

    async def run(self, stopping: asyncio.Event) -> None:
        """Counts until told to stop.

        Raises:
            StateError: a shard's file cannot be read.
        """
        while not await is_set_within(stopping, _LOOK_SECONDS):
            for shard_id in list(self._ownership.shards):
                await self._count_rows(shard_id, stopping)

    async def _count_rows(self, shard_id: ShardId, stopping: asyncio.Event) -> None:
        counted = False
        while not stopping.is_set():
            shard = self._ownership.shards.get(shard_id)
            if shard is None or not shard.restored or not shard.lacks_sums:
                break
            try:
                await shard.backfill()
            except ClosedFileError:
                break
            counted = True
            await asyncio.sleep(_PAUSE_SECONDS)
        if counted:
            _log.info("strategy.rows_counted", shard=shard_id)
