"""Opens a shard: releases its standby and resumes from the file; takes snapshots where files are missing."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from typing import Final

from learner_worker.contract.fields import ShardId
from learner_worker.group.frontier import Frontier
from learner_worker.group.offsets import BrokerOffsets
from learner_worker.kafka.batching import BatchWriter
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.watchdog import Watchdog
from learner_worker.observability import Instruments
from learner_worker.settings import Settings
from learner_worker.shard.context import ShardContext, ShardSettings
from learner_worker.shard.pacing import Pacing
from learner_worker.shard.shard import Shard
from learner_worker.strategies.protocol import Strategy
from learner_worker.worker.ownership import Ownership
from learner_worker.worker.platform import Platform, StateFiles
from learner_worker.worker.snapshots import SnapshotRestorer
from learner_worker.worker.standbys import Standbys

_MICROS = 1_000_000  # microseconds in a second
_LOOK_SECONDS: Final = 0.5  # how late a new epoch may be noticed: far below what a rebalance takes
_AT_ONCE: Final = 4  # snapshots that arrive side by side: each has two parts of its file in memory


def shard_context(
    settings: Settings,
    platform: Platform,
    *,
    instruments: Instruments,
    writer: BatchWriter,
    frontier: Frontier,
    strategies: Sequence[Strategy],
    pacing: Pacing,
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
        pacing=pacing,
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
        ownership: Ownership,
        restorer: SnapshotRestorer | None,
    ) -> None:
        self._files = files
        self._ownership = ownership
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

    async def take_snapshots(
        self, shard_ids: Collection[ShardId], epoch: int
    ) -> AsyncGenerator[Sequence[ShardId], None]:
        """Takes snapshots for shards without files, some side by side, until a new epoch begins.

        Yields the shards that can be opened since the last time: their snapshots are there, or none is valid.

        Raises:
            BrokerError, KafkaError, TimeoutError: Kafka does not answer.
            StateError: the state folder cannot be written.
        """
        turns = asyncio.Semaphore(_AT_ONCE)
        taking = {
            asyncio.create_task(self._take_snapshot(shard_id, turns), name="restore-shard"): shard_id
            for shard_id in sorted(shard_ids)
        }
        left = set(taking)
        try:
            while left and epoch == self._ownership.epoch:
                done, left = await asyncio.wait(
                    left, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
                if done:
                    yield sorted(taking[task] for task in done)
        finally:
            for task in taking:
                task.cancel()
            await asyncio.gather(*taking, return_exceptions=True)

    async def _take_snapshot(self, shard_id: ShardId, turns: asyncio.Semaphore) -> None:
        await self._standbys.release(shard_id)
        async with turns:
            if self._restorer is not None:
                await self._restorer.restore(shard_id)

    async def open(self, shard_id: ShardId, offsets: BrokerOffsets) -> Shard:
        """Opens a shard that has resumed from its file; without one, it begins with an empty file.

        Args:
            offsets: read since the file is there: a snapshot may be ahead of earlier ones.

        Raises:
            StateError: the file cannot be opened or read.
            SendError: rows had to be published again, and Kafka did not accept them.
            BrokerError, KafkaError, TimeoutError: Kafka does not answer.
        """
        await self._standbys.release(shard_id)
        file = await self._files.open(shard_id)
        try:
            shard = await Shard.open(shard_id, self._context, file, offsets, self._watchdog.opening_goes_on)
        except BaseException:
            await file.close()
            raise
        self._watchdog.opening_goes_on()
        return shard
