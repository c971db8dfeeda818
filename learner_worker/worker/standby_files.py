"""Opens the files of standbys; where one is missing, a snapshot is taken first."""

import asyncio
from collections.abc import Iterable, Sequence

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.shard.pacing import Pacing
from learner_worker.shard.standby import StandbyState
from learner_worker.strategies.protocol import Strategy
from learner_worker.worker.platform import StateFiles
from learner_worker.worker.snapshots import SnapshotRestorer


class StandbyFiles:
    """The files of the shards that a replica follows.

    Fetching a snapshot may take minutes, so it is done in a task: no owned shard has to wait for it.

    Args:
        topic: the changelog.
        strategies: the strategies whose sums are kept.
        restorer: takes a snapshot where a file is missing; None if there is no store.
    """

    def __init__(
        self,
        files: StateFiles,
        topic: TopicName,
        *,
        strategies: Sequence[Strategy],
        pacing: Pacing,
        restorer: SnapshotRestorer | None,
    ) -> None:
        self._files = files
        self._topic = topic
        self._strategies = strategies
        self._pacing = pacing
        self._restorer = restorer
        self._restoring: dict[ShardId, asyncio.Task[bool]] = {}

    def are_ready(self, shard_ids: Iterable[ShardId]) -> list[ShardId]:
        """Those of the shards whose files can be opened now; for the others, snapshots are being fetched."""
        return [shard_id for shard_id in sorted(shard_ids) if self._is_ready(shard_id)]

    def _is_ready(self, shard_id: ShardId) -> bool:
        if self._restorer is None:
            return True
        if shard_id not in self._restoring:
            restoring = self._restorer.restore(shard_id)
            self._restoring[shard_id] = asyncio.create_task(restoring, name="restore-standby")
        return self._restoring[shard_id].done()

    async def open(self, shard_id: ShardId) -> StandbyState:
        """Opens the file of a shard that is ready; creates it if there is none.

        Raises:
            BrokerError, KafkaError, TimeoutError: Kafka did not answer when a snapshot was looked for.
            StateError: the file cannot be opened.
        """
        restoring = self._restoring.pop(shard_id, None)
        if restoring is not None:
            restoring.result()
        file = await self._files.open(shard_id)
        try:
            return await StandbyState.open(file, self._topic, self._pacing, self._strategies)
        except BaseException:
            await file.close()
            raise

    async def give_up(self, shard_ids: Iterable[ShardId]) -> None:
        """Stops fetching snapshots for shards that are not followed any more."""
        found = [self._restoring.pop(shard_id) for shard_id in shard_ids if shard_id in self._restoring]
        for restoring in found:
            restoring.cancel()
        await asyncio.gather(*found, return_exceptions=True)

    async def give_up_others(self, wanted: Iterable[ShardId]) -> None:
        """The same for all shards but these."""
        await self.give_up(self._restoring.keys() - set(wanted))
