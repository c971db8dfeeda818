"""Opens a shard: releases its standby, takes a snapshot if there is no file, and resumes from the file."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from learner_worker.contract.fields import ShardId
from learner_worker.group.frontier import Frontier
from learner_worker.group.offsets import BrokerOffsets, BrokerOffsetsReader
from learner_worker.kafka.batching import BatchWriter
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.watchdog import Watchdog
from learner_worker.observability import Instruments
from learner_worker.settings import Settings
from learner_worker.shard.context import ShardContext, ShardSettings
from learner_worker.shard.shard import Shard
from learner_worker.strategies.protocol import Strategy
from learner_worker.worker.ownership import Ownership
from learner_worker.worker.platform import Platform, StateFiles
from learner_worker.worker.snapshots import SnapshotRestorer
from learner_worker.worker.standbys import Standbys

_MICROS = 1_000_000  # microseconds in a second
_LOOK_SECONDS: Final = 0.5  # how late a new epoch may be noticed: far below what a rebalance takes


def shard_context(
    settings: Settings,
    platform: Platform,
    *,
    instruments: Instruments,
    writer: BatchWriter,
    frontier: Frontier,
    strategies: Sequence[Strategy] = (),
) -> ShardContext:
    """What all shards of a worker share."""
    return ShardContext(
        topics=settings.topics().named(),
        partition_of=partitioner(platform.partitions),
        sink=writer,
        instruments=instruments.shards,
        owner=platform.process,
        settings=ShardSettings(
            tolerance_micros=round(settings.clock_skew_tolerance_seconds * _MICROS),
            horizon_micros=round(settings.auction_horizon_seconds * _MICROS),
            cached_agents=settings.cached_agents,
            retention=platform.retention,
            strategies=strategies,
            tracer=instruments.tracer,
        ),
        others_passed=frontier.passed,
    )


class ShardOpener:
    """Opens the files of shards that this replica is about to own.

    Args:
        ownership: knows when a new epoch begins.
        restorer: takes a snapshot where a file is missing; None if there is no store.
    """

    def __init__(
        self,
        *,
        files: StateFiles,
        context: ShardContext,
        standbys: Standbys,
        watchdog: Watchdog,
        offsets: BrokerOffsetsReader,
        ownership: Ownership,
        restorer: SnapshotRestorer | None,
    ) -> None:
        self._files = files
        self._ownership = ownership
        self._offsets = offsets
        self._restorer = restorer
        self._context = context
        self._standbys = standbys
        self._watchdog = watchdog

    async def release_standbys(self) -> None:
        """Closes the standbys that are not wanted.

        This must come before Kafka is asked for its offsets, so that no file is ahead of them.
        """
        await self._standbys.release_unwanted()

    async def without_files(self, shard_ids: Iterable[ShardId]) -> set[ShardId]:
        """Those of the shards that have no file: a snapshot is looked for, and may take minutes to arrive."""
        if self._restorer is None:
            return set()
        return {shard_id for shard_id in shard_ids if await self._restorer.is_missing(shard_id)}

    async def open(self, shard_id: ShardId, offsets: BrokerOffsets, epoch: int) -> Shard | None:
        """Opens a shard that has resumed from its file; None if a new epoch began before there was a file.

        Raises:
            StateError: the file cannot be opened or read.
            SendError: rows had to be published again, and Kafka did not accept them.
            BrokerError, KafkaError, TimeoutError: Kafka does not answer.
        """
        await self._standbys.release(shard_id)
        if self._restorer is not None and await self._restorer.is_missing(shard_id):
            await self._take_snapshot(self._restorer, shard_id, epoch)
            if epoch != self._ownership.epoch:
                return None
            # A snapshot may be ahead of offsets that were read before it was taken.
            offsets = (await self._offsets.read([shard_id]))[shard_id]
        file = await self._files.open(shard_id)
        try:
            shard = await Shard.open(shard_id, self._context, file, offsets, self._watchdog.opening_goes_on)
        except BaseException:
            await file.close()
            raise
        self._watchdog.opening_goes_on()
        return shard

    async def _take_snapshot(self, restorer: SnapshotRestorer, shard_id: ShardId, epoch: int) -> None:
        """Takes a snapshot for a shard without a file, or gives up when a new epoch begins."""
        restoring = asyncio.create_task(restorer.restore(shard_id), name="restore-shard")
        try:
            while not restoring.done() and epoch == self._ownership.epoch:
                await asyncio.wait([restoring], timeout=_LOOK_SECONDS)
        finally:
            restoring.cancel()
            await asyncio.wait([restoring])
        if not restoring.cancelled():
            restoring.result()
