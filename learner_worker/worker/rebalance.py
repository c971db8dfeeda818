"""A rebalance from top to bottom: shards are revoked, assigned, closed and opened.

    revoked   1. a new epoch begins: batches polled but not yet processed are dropped
              2. the batch in hand is finished and a checkpoint made, bounded in time
              3. the request path commits what it has answered: a new owner begins there
              4. a replica whose instance id another replica has taken stays out
    joining      every member sends its claim (`claims.py`, `group/assignor.py`), the leader places the shards
                 (`group/placement.py`), and every member follows its standbys (`standbys.py`)
    assigned  5. every partition is paused
              6. a new epoch begins; lost shards are CLOSING, new ones ASSIGNED
    prepared  7. lost and discarded shards are closed, while no batch and no checkpoint is under way;
                 until then their requests were answered
              8. the topics are compared with their record; standbys that are not wanted are closed
              9. Kafka is asked for committed offsets and offset ranges
             10. each shard continues if its memory is still valid, or is opened by rule 8
                 (docs/protocol.md): last those without a file, each when its snapshot has been taken
             11. the poll loop seeks and resumes the open shards (`consumer.py`)
    restored    the shard has applied its changelog and is RUNNING; the requests that waited are answered

The request path is told of each shard that is closed or opened (`_announce`): its requests move with it.

Steps 1 to 6 are `Rebalance`, called by the Kafka client. Steps 7 to 10 are `ShardPreparation`, in a task of
its own: the client sends no heartbeat while its listener is busy. A return to the last checkpoint
(`rollback.py`) begins at step 7.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from prometheus_client import Counter

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.errors import BrokerError, DuplicateInstanceError, LearnerError, SendError
from learner_worker.group.membership import Membership
from learner_worker.group.offsets import BrokerOffsets, BrokerOffsetsReader
from learner_worker.kafka.outage import Outage
from learner_worker.requests.path import RequestPath
from learner_worker.shard.shard import Shard
from learner_worker.worker.checkpoint import Checkpointer
from learner_worker.worker.failure import WorkerFailure
from learner_worker.worker.freeing import free_in_background
from learner_worker.worker.ownership import Ownership
from learner_worker.worker.platform import Guard
from learner_worker.worker.rollback import WRITING
from learner_worker.worker.shard_opener import ShardOpener

REVOKE_SECONDS = 30.0
"""Half the time that the group waits for a member to rejoin: the other half is for joining."""
_COMMIT_ANSWERED_SECONDS = 0.5
"""Time limit for replies in flight: longer delays the rebalance, shorter answers requests twice."""
_REST_SECONDS = 5.0
"""Time limit at the end for a checkpoint in progress: then its shards' files are closed under it."""
_OPENING = "opening shards"
_log = structlog.get_logger("learner_worker.stream")


class Rebalance(ConsumerRebalanceListener):
    """Handles revocations and assignments; the Kafka client calls it.

    The client only logs exceptions of a listener, so they are reported as the worker's failure, too.
    """

    def __init__(
        self,
        *,
        consumer: AIOKafkaConsumer,
        topics: Sequence[TopicName],
        ownership: Ownership,
        membership: Membership,
        checkpointer: Checkpointer,
        requests: RequestPath,
        failure: WorkerFailure,
        rebalances: Counter,
    ) -> None:
        self._consumer = consumer
        self._topics = topics
        self._ownership = ownership
        self._membership = membership
        self._checkpointer = checkpointer
        self._requests = requests
        self._failure = failure
        self._rebalances = rebalances

    @property
    def member_id(self) -> str:
        """The id that the group gave this member last; empty before its first assignment."""
        return self._membership.member_id

    def join_group(self) -> None:
        """Subscribes to the topics, so that the group makes its first assignment."""
        self._consumer.subscribe(topics=list(self._topics), listener=self)

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Makes the work so far durable before the shards may go to another replica."""
        try:
            if revoked:
                self._ownership.begin_epoch()
                await self.hand_back()
                await self._requests.commit_answered(_COMMIT_ANSWERED_SECONDS)
                _log.info("shards.revoked", shards=sorted(self._ownership.shards))
            await self._stay_out_if_replaced()
        except Exception as error:
            self._failure.fail(error)
            raise
        finally:
            self._membership.rejoin()

    async def hand_back(self) -> None:
        """Finishes the batch in hand and makes a checkpoint.

        Kafka still accepts its commit: this member has not rejoined yet.
        """
        try:
            async with asyncio.timeout(REVOKE_SECONDS), self._ownership.processing:
                await self._checkpointer.checkpoint()
        except TimeoutError as error:
            _log.warning("revoke.checkpoint_failed", error=repr(error))

    async def _stay_out_if_replaced(self) -> None:
        """Blocks instead of rejoining under an instance id that another replica uses: that would fence it."""
        if self._membership.was_thrown_out:
            try:
                await self._membership.end_if_replaced()
            except DuplicateInstanceError as error:
                self._failure.fail(error)
                await asyncio.get_running_loop().create_future()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Pauses everything at once and has the shards opened."""
        try:
            self._take_over(assigned)
        except Exception as error:
            self._failure.fail(error)
            raise

    def _take_over(self, assigned: Collection[TopicPartition]) -> None:
        self._consumer.pause(*assigned)
        for partition in assigned:  # any offset: a poll fails if a partition, even a paused one, has none
            self._consumer.seek(partition, 0)
        self._ownership.begin_epoch()
        self._ownership.assign(self._whole_shards(assigned))
        self._membership.joined()
        self._rebalances.inc()
        shards = sorted(self._ownership.assigned or ())
        _log.info("shards.assigned", shards=shards, epoch=self._ownership.epoch)
        self._ownership.changed.set()

    def _whole_shards(self, assigned: Collection[TopicPartition]) -> frozenset[ShardId]:
        given: dict[ShardId, set[str]] = {}
        for partition in assigned:
            given.setdefault(ShardId(partition.partition), set()).add(partition.topic)
        split = [shard_id for shard_id, topics in given.items() if len(topics) < len(self._topics)]
        if split:
            self._failure.fail(
                LearnerError(
                    f"the group gave this replica only some topics of the shards {sorted(split)}: "
                    f"every member of group {self._membership.group_id} must run this program, "
                    "on topics of equal partition counts"
                )
            )
        return frozenset(shard_id for shard_id in given if shard_id not in split)


class ShardPreparation:
    """Closes and opens shards after every assignment and every return to the last checkpoint."""

    def __init__(
        self,
        *,
        ownership: Ownership,
        opener: ShardOpener,
        offsets: BrokerOffsetsReader,
        guard: Guard,
        requests: RequestPath,
        outage: Outage,
        failure: WorkerFailure,
    ) -> None:
        self._ownership = ownership
        self._opener = opener
        self._offsets = offsets
        self._guard = guard
        self._requests = requests
        self._outage = outage
        self._failure = failure
        self._preparing = False
        self._closings: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        """Whether no shard is waiting to be closed or opened."""
        return not self._preparing and not self._ownership.changed.is_set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Prepares shards until exit, then closes the files of all shards in every case."""
        preparing = asyncio.create_task(self._prepare_again_and_again(), name="prepare-shards")
        try:
            yield
        finally:
            preparing.cancel()
            await asyncio.wait([preparing])
            with suppress(TimeoutError):  # a last revocation may be making its checkpoint
                async with asyncio.timeout(_REST_SECONDS), self._ownership.at_rest():
                    pass
            await self._close(list(self._ownership.shards))
            await asyncio.gather(*self._closings)

    async def _prepare_again_and_again(self) -> None:
        """Prepares shards on every change; a shard that cannot be opened or closed ends the worker."""
        try:
            while True:
                await self._ownership.changed.wait()
                self._ownership.changed.clear()
                self._preparing = True
                await self._prepare(self._ownership.epoch)
                self._preparing = False
        except Exception as error:  # noqa: BLE001 (the worker ends with it)
            self._failure.fail(error)

    async def _prepare(self, epoch: int) -> None:
        async with self._ownership.at_rest():
            await self._close(self._ownership.to_close())
        await asyncio.sleep(self._outage.pause_seconds(WRITING))
        while epoch == self._ownership.epoch:
            try:
                await self._open_assigned(epoch)
            except (BrokerError, SendError, KafkaError, TimeoutError) as error:
                await asyncio.sleep(self._outage.failed(_OPENING, error))
            else:
                self._outage.worked(_OPENING)
                return

    async def _open_assigned(self, epoch: int) -> None:
        """Opens or continues every assigned shard, until a new epoch begins.

        First those that continue, last those that may have to wait for a snapshot while the others answer.
        """
        await self._guard.look()
        await self._opener.release_standbys()
        found = await self._offsets.read(sorted(self._ownership.assigned or ()))
        fileless = await self._opener.without_files(found.keys() - self._ownership.shards.keys())
        for shard_id in sorted(
            found.keys() - fileless, key=lambda one: (not self._continues(one, found[one]), one)
        ):
            if epoch == self._ownership.epoch:
                await self._open(shard_id, found[shard_id], epoch)
        if fileless and epoch == self._ownership.epoch:
            await self._open_with_snapshots(fileless, epoch)

    async def _open_with_snapshots(self, unopened: set[ShardId], epoch: int) -> None:
        """Opens shards without files, each when its snapshot is there, or when there is none to take."""
        for shard_id in unopened:
            self._ownership.begin_opening(shard_id)
        try:
            async with aclosing(self._opener.take_snapshots(frozenset(unopened), epoch)) as snapshots:
                async for ready in snapshots:
                    offsets = await self._offsets.read(ready)
                    for shard_id in ready:
                        if epoch == self._ownership.epoch:
                            unopened.remove(shard_id)
                            await self._open(shard_id, offsets[shard_id], epoch)
        finally:
            self._ownership.closed(unopened)

    def _continues(self, shard_id: ShardId, offsets: BrokerOffsets) -> bool:
        shard = self._ownership.shards.get(shard_id)
        return shard is not None and shard.still_valid(offsets)

    async def _open(self, shard_id: ShardId, offsets: BrokerOffsets, epoch: int) -> None:
        shard = self._ownership.shards.get(shard_id)
        if shard is not None and not self._continues(shard_id, offsets):
            async with self._ownership.at_rest():
                await self._close([shard_id])
            shard = None
        if shard is None:
            shard = await self._open_file(shard_id, offsets, epoch)
        if shard is not None:
            for topic, held in offsets.ranges.items():
                self._ownership.log_ends[TopicPartition(topic, shard_id)] = held.end
            self._ownership.opened(shard_id, shard)
            self._announce()

    async def _open_file(self, shard_id: ShardId, offsets: BrokerOffsets, epoch: int) -> Shard | None:
        """Opens a shard from its file; None if a new epoch began meanwhile."""
        self._ownership.begin_opening(shard_id)
        try:
            shard = await self._opener.open(shard_id, offsets)
        except BaseException:
            self._ownership.closed([shard_id])
            raise
        if epoch == self._ownership.epoch:
            return shard
        await shard.close()
        free_in_background(shard)
        self._ownership.closed([shard_id])
        return None

    async def _close(self, shard_ids: Sequence[ShardId]) -> None:
        """Takes shards out of use first, then closes their files, even when cancelled.

        An open file has threads, and a process does not end before its threads do.
        """
        shards = self._ownership.begin_closing(shard_ids)
        self._announce()
        closing = asyncio.create_task(self._close_files(shards), name="close-shards")
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)
        await asyncio.shield(closing)

    async def _close_files(self, shards: Mapping[ShardId, Shard]) -> None:
        """Closes every file, and only then raises the first error."""
        results = await asyncio.gather(*(shard.close() for shard in shards.values()), return_exceptions=True)
        self._ownership.closed(shards)
        for shard in shards.values():
            free_in_background(shard)
        for error in results:
            if error is not None:
                raise error

    def _announce(self) -> None:
        """Tells the request path which shards are open."""
        owned = self._ownership
        self._requests.own(owned.shards, owned.assigned or frozenset(), owned.assignment_number)
