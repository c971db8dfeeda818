"""A checkpoint: the five steps that make everything processed so far durable."""

from collections.abc import Awaitable, Callable, Mapping

from aiokafka import TopicPartition

from learner_worker.contract.fields import ShardId
from learner_worker.errors import SendError
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.batching import BatchWriter
from learner_worker.observability import Tracer
from learner_worker.shard.pacing import Pacing
from learner_worker.shard.shard import Shard, ShardSnapshot
from learner_worker.worker.offset_committer import OffsetCommitter
from learner_worker.worker.ownership import Ownership
from learner_worker.worker.rollback import Rollback


class Checkpointer:
    """Makes checkpoints, one at a time.

    Args:
        confirm: whether this group still owns the topics, as far as a recent look tells.
        tracer: traces checkpoints that cover something that was traced.
    """

    def __init__(
        self,
        *,
        ownership: Ownership,
        writer: BatchWriter,
        rollback: Rollback,
        committer: OffsetCommitter,
        pacing: Pacing,
        confirm: Callable[[], Awaitable[bool]],
        tracer: Tracer | None = None,
    ) -> None:
        self.ownership = ownership
        self._writer = writer
        self.rollback = rollback
        self._committer = committer
        self._pacing = pacing
        self._confirm = confirm
        self._tracer = tracer
        self.completed = 0
        """How many checkpoints have succeeded."""

    async def checkpoint(self) -> bool:
        """Makes a checkpoint, with its trace if it has one; see `_checkpoint`."""
        trace = None if self._tracer is None else self._tracer.checkpoint()
        durable = False
        try:
            durable = await self._checkpoint()
        finally:
            if trace is not None:
                trace.finish(durable=durable)
        return durable

    async def _checkpoint(self) -> bool:
        """Makes everything processed so far durable, in five steps.

        1. snapshot: positions and changed rows, each shard's in one step without an await
        2. publish: the records that the snapshots imply for other topics go to the record sink
        3. acknowledge: waits until Kafka has acknowledged everything sent so far
        4. write: rows and positions, in one transaction per shard
        5. commit: the positions and rewind offsets go to Kafka

        Returns:
            False if Kafka did not acknowledge something: the shards go back to their last checkpoint.
        """
        async with self.ownership.checkpointing:
            if self.ownership.discarding or not await self._confirm():
                return False
            epoch, generation = self.ownership.epoch, self._writer.generation
            shards = self.ownership.writable()
            snapshots: dict[ShardId, ShardSnapshot] = {}
            try:
                for shard_id, shard in shards.items():
                    snapshots[shard_id] = shard.snapshot()  # 1. snapshot
                    await self._pacing.give_way()
                await self.make_durable(snapshots, generation)  # 2. publish, 3. acknowledge, 4. write
            except SendError as error:
                self.rollback.to_last_checkpoint(error)
                return False
            except BaseException as error:  # what the snapshots took is neither in memory nor in a file
                self.rollback.to_last_checkpoint(error)
                raise
            offsets = await self._release(snapshots, shards)
            self.completed += 1
            self.rollback.note_checkpoint()
            await self._committer.commit(offsets, epoch)  # 5. commit
            return True

    async def make_durable(self, snapshots: Mapping[ShardId, ShardSnapshot], generation: int) -> None:
        """Publishes snapshots, waits for Kafka and writes the files: steps 2 to 4.

        Raises:
            SendError: Kafka did not acknowledge everything of the writer's generation; nothing is written.
        """
        for snapshot in snapshots.values():
            await snapshot.publish()  # 2. publish
        await self._writer.flush(generation)  # 3. acknowledge
        for snapshot in snapshots.values():  # one file at a time: the files' threads share the GIL
            await snapshot.write()  # 4. write

    async def _release(
        self, snapshots: dict[ShardId, ShardSnapshot], shards: Mapping[ShardId, Shard]
    ) -> dict[TopicPartition, Committed]:
        """Frees what was written, shard by shard so that no step stalls the loop; returns the commits."""
        offsets: dict[TopicPartition, Committed] = {}
        for shard_id, shard in shards.items():
            for topic, committed in snapshots.pop(shard_id).commits.items():
                offsets[TopicPartition(topic, shard_id)] = committed
            shard.on_checkpoint_written()
            await shard.release()
            await self._pacing.give_way()
        return offsets

    async def finish(self) -> bool:
        """Makes the last checkpoint, once the batch in hand is processed.

        Returns:
            False if Kafka did not accept it: the next start reprocesses what it covers.
        """
        async with self.ownership.processing:
            return await self.checkpoint()
