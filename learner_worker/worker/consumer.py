"""Reading the sharded topics: who owns which shard, from where each partition is read, when it is safe.

Only the reading loop moves the consumer (seek, resume), and only between two polls, so no batch in hand
can be older or newer than the position it is counted against. A rebalance starts a new epoch; a batch
polled in an earlier one is dropped, and every partition is sought again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Generic

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from aiokafka.structs import OffsetAndMetadata

from learner_worker.contract.fields import ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.errors import BrokerError, DuplicateInstanceError, LearnerError, SendError
from learner_worker.group.membership import was_thrown_out
from learner_worker.group.ownership import BrokerOffsets, Ownership, ShardT, StreamShard, StreamSnapshot
from learner_worker.kafka.admin import Committed, connected, ends_of
from learner_worker.kafka.batching import BatchWriter
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.outage import Outage, first_line
from learner_worker.kafka.polling import Gap, PollResult, read_one_by_one, seek
from learner_worker.kafka.watchdog import Reading, look

_POLL_MS = 100
_POLL_RECORDS = 1_000
"""Making so many record objects takes the client three milliseconds, in one go."""
_NOTE_ENDS_SECONDS = 0.1
_POSITION_SECONDS = 5.0
_COMMIT_SECONDS = 10.0
_REVOKE_SECONDS = 30.0
_ADMIN_PATIENCE_SECONDS = 30.0
_LAST_POLL_SECONDS = 1.0
_READING, _OPENING = "reading", "opening shards"
_NOTHING_READ = Committed(0, "rewind=0")
_log = structlog.get_logger("learner_worker.stream")


class Ingest(ConsumerRebalanceListener, Generic[ShardT]):
    """The reading loop, the checkpoints and the shards' comings and goings."""

    def __init__(
        self,
        *,
        connection: Connection,
        consumer: AIOKafkaConsumer,
        writer: BatchWriter,
        topics: TopicNames,
        group_id: str,
        outage: Outage,
        open_shard: Callable[[ShardId, BrokerOffsets], Awaitable[ShardT]],
        on_ownership: Callable[[Mapping[ShardId, ShardT], frozenset[ShardId]], None],
        find_duplicate: Callable[[], Awaitable[str | None]],
        before_rejoin: Callable[[], Awaitable[None]],
        before_opening: Callable[[], Awaitable[None]],
        give_way: Callable[[], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._consumer = consumer
        self._writer = writer
        self._topics = topics
        self._group_id = group_id
        self._outage = outage
        self._open_shard = open_shard
        self._on_ownership = on_ownership
        self._find_twin = find_duplicate
        self._before_rejoin = before_rejoin
        self._before_opening = before_opening
        self._give_way = give_way
        self.ownership: Ownership[ShardT] = Ownership()
        self._left_poll_at: float | None = time.monotonic()
        self._in_use: set[ShardId] = set()
        self._processing = asyncio.Lock()
        self._checkpointing = asyncio.Lock()
        self._preparing: asyncio.Task[None] | None = None
        self._being_closed: set[asyncio.Task[None]] = set()
        self._committed: dict[TopicPartition, Committed] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._answers: dict[TopicPartition, tuple[int | None, int | None]] = {}
        self._ends_noted = 0.0
        self._discarding = False
        self._closing = False
        self.checkpoints = 0
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def in_use(self) -> Collection[ShardId]:
        """The shards whose files are open here, are being opened or are not closed yet."""
        return self._in_use

    @property
    def away_from_poll_seconds(self) -> float:
        """How long the loop has been doing something else than polling.

        A poll may wait as long as Kafka is away, or as the group rebalances.
        """
        return 0.0 if self._left_poll_at is None else time.monotonic() - self._left_poll_at

    # --- the loops -------------------------------------------------------------------------------------

    async def read(self, stopping: asyncio.Event) -> None:
        """Polls and processes until told to stop.

        Raises:
            LearnerError: a shard could not be opened, read or written.
        """
        self._consumer.subscribe(topics=list(self._topics.subscribed), listener=self)
        told_to_stop = asyncio.create_task(stopping.wait(), name="told-to-stop")
        try:
            while not stopping.is_set():
                self._raise_failure()
                self._seek_prepared()
                epoch = self.ownership.epoch
                polled = await self._poll_until(told_to_stop)
                async with self._processing:
                    if epoch == self.ownership.epoch:
                        await self._process(polled, epoch)
        finally:
            told_to_stop.cancel()

    async def _poll_until(self, told_to_stop: asyncio.Future[Any]) -> PollResult:
        """A poll waits for the end of a rebalance, which may take minutes, or after a failure for ever."""
        self._left_poll_at = None
        poll = asyncio.create_task(self._poll(), name="poll")
        try:
            ends: set[asyncio.Future[Any]] = {poll, self._failure, told_to_stop}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self._raise_failure()
            if not poll.done():
                await asyncio.wait({poll}, timeout=_LAST_POLL_SECONDS)
            return poll.result() if poll.done() else PollResult()
        finally:
            poll.cancel()
            self._left_poll_at = time.monotonic()

    async def _poll(self) -> PollResult:
        polled = PollResult()
        try:
            polled = await self._records()
        except NoOffsetForPartitionError:  # polled in the moment between assignment and our listener
            await asyncio.sleep(_POLL_MS / 1000)
        except OffsetOutOfRangeError as error:
            _log.error(
                "records.lost", positions=_told(error), error="Kafka has deleted or lost what comes next"
            )
            await self.checkpoint()  # of what Kafka has lost, memory may hold the rest
            self._reload(error)
        except KafkaError as error:
            self._seek_back()
            await self._end_if_replaced()  # the broker's refusal of a taken name has no error of its own
            await asyncio.sleep(self._outage.failed(_READING, error))
        else:
            self._outage.worked(_READING)
        return polled

    async def _records(self) -> PollResult:
        try:
            return PollResult(await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS))
        except UnicodeDecodeError:
            self._seek_back()
            return await read_one_by_one(self._consumer, list(self.ownership.active))

    def _seek_back(self) -> None:
        """A poll that fails has moved past what it had already taken from other partitions."""
        seek(self._consumer, self._positions())

    def _positions(self) -> dict[TopicPartition, int]:
        """The next offset of every partition that is being read."""
        shards = self.ownership.shards
        return {
            partition: shards[ShardId(partition.partition)].positions[TopicName(partition.topic)]
            for partition in self.ownership.active
        }

    async def _process(self, polled: PollResult, epoch: int) -> None:
        try:
            for partition, records in polled.batches.items():
                if epoch != self.ownership.epoch:
                    return
                shard = self.ownership.shards.get(ShardId(partition.partition))
                if shard is not None and partition in self.ownership.active:
                    await shard.process(TopicName(partition.topic), records)
            if polled.gap is not None and epoch == self.ownership.epoch:
                self._step_over(polled.gap)
            await self._writer.send()
        except SendError as error:
            self._reload(error)
            return
        await self._note_ends_now_and_then(epoch, idle=not polled.batches)
        self._follow_wishes()

    def _step_over(self, gap: Gap) -> None:
        shard = self.ownership.shards.get(ShardId(gap.partition.partition))
        if shard is not None and gap.partition in self.ownership.active:
            shard.step_over(TopicName(gap.partition.topic), gap.first, gap.following)

    async def _note_ends_now_and_then(self, epoch: int, *, idle: bool) -> None:
        """Under load not after every poll: it looks at every partition."""
        now = asyncio.get_running_loop().time()
        if idle or now - self._ends_noted >= _NOTE_ENDS_SECONDS:
            self._ends_noted = now
            await self._note_ends(epoch)

    async def _note_ends(self, epoch: int) -> None:
        """Tells the shards which partitions are read to their end, and steps over offsets without records."""
        try:
            async with asyncio.timeout(_POSITION_SECONDS):
                for partition in list(self.ownership.active):
                    position = await self._consumer.position(partition)
                    if epoch != self.ownership.epoch:
                        return
                    self._note_end(partition, position)
        except (KafkaError, TimeoutError):
            return  # a position is unknown while Kafka is away; nothing is forgotten meanwhile

    def _note_end(self, partition: TopicPartition, position: int) -> None:
        shard = self.ownership.shards[ShardId(partition.partition)]
        topic = TopicName(partition.topic)
        shard.positions[topic] = max(position, shard.positions[topic])
        shard.reached(topic, self._confirmed_end(partition, position))

    def _confirmed_end(self, partition: TopicPartition, position: int) -> Micros | None:
        """The time up to which a partition is known to be read to its end; None: it is not at its end.

        aiokafka stamps an answer when it is received, which after a suspension may be long after the broker
        gave it. It was asked for after the answer before it was received: so much is certain.
        """
        highwater = self._consumer.highwater(partition)
        received_ms = self._consumer.last_poll_timestamp(partition)
        latest, before = self._answers.get(partition, (None, None))
        if received_ms != latest:
            before = latest
            self._answers[partition] = (received_ms, before)
        if highwater is None or before is None or position < highwater:
            return None
        return Micros(before * 1000)

    def _follow_wishes(self) -> None:
        """Starts reading the topics a shard has come to want: its restore is over."""
        for number in self.ownership.sought:
            self._activate(number, self.ownership.shards[number])

    def _seek_prepared(self) -> None:
        while self.ownership.prepared:
            number = self.ownership.prepared.pop()
            self.ownership.sought.add(number)
            self._activate(number, self.ownership.shards[number])
            self._tell()

    def _activate(self, number: ShardId, shard: StreamShard) -> None:
        assignment = self._consumer.assignment()
        all_restored = all(other.restored for other in self.ownership.shards.values())
        for topic in shard.wanted(all_restored=all_restored):
            partition = TopicPartition(topic, number)
            if partition not in self.ownership.active and partition in assignment:
                self._consumer.seek(partition, shard.positions[topic])
                self._consumer.resume(partition)
                self.ownership.active.add(partition)

    # --- checkpoints -----------------------------------------------------------------------------------

    async def checkpoint(self) -> bool:
        """Makes everything processed so far durable, in five steps.

        1. snapshot: positions and changed rows, each shard's in one step without an await
        2. publish: what the snapshots imply for other topics goes to the writer
        3. acknowledge: everything sent so far is awaited
        4. write: rows and positions, one transaction a shard
        5. commit: the positions, and where to rewind to, go to Kafka

        Returns:
            False if Kafka did not acknowledge something: the shards go back to their last checkpoint.
        """
        async with self._checkpointing:
            if self._discarding:
                return False
            epoch, generation = self.ownership.epoch, self._writer.generation
            shards = dict(self.ownership.shards)
            snapshots: dict[ShardId, StreamSnapshot] = {}
            try:
                for number, shard in shards.items():
                    snapshots[number] = shard.snapshot()  # 1. snapshot
                    await self._give_way()
                await self._make_durable(snapshots, generation)
            except SendError as error:
                self._reload(error)
                return False
            except BaseException as error:  # what was taken is neither in memory nor in a file
                self._reload(error)
                raise
            commits = await self._let_go(snapshots, shards)
            self.checkpoints += 1
            await self._commit(commits, epoch)  # 5. commit
            return True

    async def _let_go(
        self, snapshots: dict[ShardId, StreamSnapshot], shards: Mapping[ShardId, ShardT]
    ) -> dict[TopicPartition, Committed]:
        """Forgets what was written, shard by shard: all of it at once kept everybody waiting for 100 ms."""
        commits: dict[TopicPartition, Committed] = {}
        for number, shard in shards.items():
            for topic, committed in snapshots.pop(number).commits.items():
                commits[TopicPartition(topic, number)] = committed
            shard.on_checkpoint_written()
            await self._give_way()
        return commits

    async def _make_durable(self, snapshots: Mapping[ShardId, StreamSnapshot], generation: int) -> None:
        for snapshot in snapshots.values():
            await snapshot.publish()  # 2. publish
        await self._writer.flush(generation)  # 3. acknowledge
        for (
            snapshot
        ) in snapshots.values():  # one file at a time: twelve threads at once keep each other from the GIL
            await snapshot.write()  # 4. write

    async def _commit(self, commits: Mapping[TopicPartition, Committed], epoch: int) -> None:
        """Commits what changed since the last commit; a refused commit costs the member its place."""
        assignment = self._consumer.assignment()
        changed = {
            partition: committed
            for partition, committed in commits.items()
            if partition in assignment and self._committed.get(partition, _NOTHING_READ) != committed
        }
        if not changed or epoch != self.ownership.epoch or self.ownership.rejoining:
            return
        offsets = {tp: OffsetAndMetadata(found.offset, found.metadata) for tp, found in changed.items()}
        try:
            async with asyncio.timeout(_COMMIT_SECONDS):
                await self._consumer.commit(offsets)
        except (KafkaError, TimeoutError) as error:
            # SQLite is the truth: the next checkpoint commits again.
            _log.warning("checkpoint.commit_failed", error=first_line(error))
        else:
            self._committed.update(changed)

    # --- the group gives and takes -----------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Makes the work so far durable before the shards may go to another replica."""
        try:
            if revoked:
                await self._revoke()
            await self._stay_out_if_replaced()
        except Exception as error:
            self.fail(error)  # aiokafka would only log it
            raise
        finally:
            self.ownership.rejoining = True

    async def _revoke(self) -> None:
        self._begin_epoch()
        await self._hand_back()
        await self._before_rejoin()
        _log.info("shards.revoked", shards=sorted(self.ownership.shards))

    async def _stay_out_if_replaced(self) -> None:
        """Does not join again under a name that another replica has taken: that would throw it out."""
        if was_thrown_out(self._consumer):
            try:
                await self._end_if_replaced()
            except DuplicateInstanceError as error:
                self.fail(error)
                await asyncio.get_running_loop().create_future()

    async def _end_if_replaced(self) -> None:
        if self.ownership.assigned is None:
            return  # not in the group yet: who has this name there may be an earlier run of this replica
        twin = await self._find_twin()
        if twin is not None:
            raise DuplicateInstanceError(twin)

    async def _hand_back(self) -> None:
        try:
            async with asyncio.timeout(_REVOKE_SECONDS), self._processing:
                await self.checkpoint()  # Kafka still takes its commit: this member has not rejoined yet
        except TimeoutError as error:
            _log.warning("revoke.checkpoint_failed", error=repr(error))

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Pauses everything new at once and opens the shards in a task of their own."""
        try:
            self._take_over(assigned)
        except Exception as error:
            self.fail(error)  # aiokafka would only log it
            raise

    def _take_over(self, assigned: Collection[TopicPartition]) -> None:
        self._consumer.pause(*assigned)
        for partition in assigned:  # anywhere: without a position even a paused partition makes polls fail
            self._consumer.seek(partition, 0)
        self._begin_epoch()
        self.ownership.rejoining = False
        self._committed.clear()
        self.ownership.assigned = self._whole_shards(assigned)
        self.ownership.placement += 1
        _log.info("shards.assigned", shards=sorted(self.ownership.assigned), epoch=self.ownership.epoch)
        self._prepare_soon()

    def _whole_shards(self, assigned: Collection[TopicPartition]) -> frozenset[ShardId]:
        held: dict[ShardId, set[str]] = {}
        for partition in assigned:
            held.setdefault(ShardId(partition.partition), set()).add(partition.topic)
        split = [number for number, topics in held.items() if len(topics) < len(self._topics.subscribed)]
        if split:
            self.fail(
                LearnerError(
                    f"the group gave this replica only some topics of the shards {sorted(split)}: "
                    f"every member of group {self._group_id} must run this program, "
                    "on topics of equal partition counts"
                )
            )
        return frozenset(number for number in held if number not in split)

    def _begin_epoch(self) -> None:
        self.ownership.epoch += 1
        self._answers.clear()
        self.ownership.active.clear()
        self.ownership.sought.clear()
        self.ownership.prepared.clear()

    def _reload(self, error: BaseException) -> None:
        """Sends every shard back to its last checkpoint: nothing unacknowledged may count.

        Until the shards are closed nothing of them is written any more.
        """
        if not self._discarding:
            _log.warning("shards.reload", reason=first_line(error))
        self._discarding = True
        self._consumer.pause(*self._consumer.assignment())
        self._begin_epoch()
        self._writer.reset()
        self._prepare_soon()

    def _prepare_soon(self) -> None:
        if self._closing:
            return
        previous, epoch = self._preparing, self.ownership.epoch
        self._preparing = asyncio.create_task(self._prepare(epoch, previous), name=f"prepare-shards-{epoch}")
        self._preparing.add_done_callback(self._prepared)

    def _prepared(self, task: asyncio.Task[None]) -> None:
        """A shard that cannot be opened stops the worker: it would stay silent for ever."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fail(error)

    async def _prepare(self, epoch: int, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        async with self._processing, self._checkpointing:
            await self._close_discarded_and_lost()
        await self._open_with_patience(epoch)

    async def _close_discarded_and_lost(self) -> None:
        assigned = self.ownership.assigned or frozenset()
        await self._close(
            [number for number in self.ownership.shards if self._discarding or number not in assigned]
        )
        self._discarding = False

    async def _open_with_patience(self, epoch: int) -> None:
        while epoch == self.ownership.epoch:
            try:
                await self._open_assigned(epoch)
            except (BrokerError, SendError, KafkaError, TimeoutError) as error:
                await asyncio.sleep(self._outage.failed(_OPENING, error))
            else:
                self._outage.worked(_OPENING)
                return

    async def _close(self, numbers: Sequence[ShardId]) -> None:
        """Takes shards out of use first, then closes their files; a cancellation does not stop that.

        An open file has threads, and a process does not end before its threads.
        """
        closing = [self.ownership.shards.pop(number) for number in numbers]
        self._tell()
        closed = asyncio.create_task(
            self._close_all(dict(zip(numbers, closing, strict=True))), name="close-shards"
        )
        self._being_closed.add(closed)
        closed.add_done_callback(self._being_closed.discard)
        await asyncio.shield(closed)

    async def _close_all(self, shards: Mapping[ShardId, ShardT]) -> None:
        """Closes every one of them, and only then tells of the first that could not be."""
        told = await asyncio.gather(*(shard.close() for shard in shards.values()), return_exceptions=True)
        self._in_use.difference_update(shards)
        for error in told:
            if error is not None:
                raise error

    def _tell(self) -> None:
        self._on_ownership(self.ownership.shards, self.ownership.assigned or frozenset())

    async def _open_assigned(self, epoch: int) -> None:
        """Opens, or takes over again, every assigned shard, unless the group's next generation comes."""
        await self._before_opening()
        marks = await self._marks(sorted(self.ownership.assigned or ()))
        for number, found in marks.items():
            if epoch == self.ownership.epoch:
                await self._open(number, found, epoch)

    async def _open(self, number: ShardId, marks: BrokerOffsets, epoch: int) -> None:
        shard = self.ownership.shards.get(number)
        if shard is not None and not shard.still_valid(marks):
            async with self._processing, self._checkpointing:
                await self._close([number])
            shard = None
        if shard is None:
            shard = await self._opened(number, marks, epoch)
        if shard is not None:
            self.ownership.shards[number] = shard
            self.ownership.prepared.append(number)

    async def _opened(self, number: ShardId, marks: BrokerOffsets, epoch: int) -> ShardT | None:
        """A shard from its file; None if the group's next generation came meanwhile."""
        self._in_use.add(number)
        try:
            shard = await self._open_shard(number, marks)
        except BaseException:
            self._in_use.discard(number)
            raise
        if epoch == self.ownership.epoch:
            return shard
        await shard.close()
        self._in_use.discard(number)
        return None

    async def _marks(self, numbers: Sequence[ShardId]) -> dict[ShardId, BrokerOffsets]:
        if not numbers:
            return {}
        async with connected(self._connection, patience_seconds=_ADMIN_PATIENCE_SECONDS) as cluster:
            committed = await cluster.committed(self._group_id)
        partitions = [
            TopicPartition(topic, number) for topic in self._topics.subscribed for number in numbers
        ]
        ends = await ends_of(self._consumer, partitions)
        self._ends = {partition: end for partition, (_, end) in ends.items()}
        return {
            number: BrokerOffsets(
                {
                    topic: committed[partition]
                    for topic in self._topics.subscribed
                    if (partition := TopicPartition(topic, number)) in committed
                },
                {topic: ends[TopicPartition(topic, number)] for topic in self._topics.subscribed},
            )
            for number in numbers
        }

    def lag(self) -> dict[TopicName, float]:
        """Records not yet processed by topic, over this replica's shards; NaN while that is not known."""
        if not (self.ownership.assigned or frozenset()) <= self.ownership.shards.keys():
            return dict.fromkeys(self._topics.subscribed, float("nan"))
        return {
            topic: float(
                sum(self._lag_of(topic, number, shard) for number, shard in self.ownership.shards.items())
            )
            for topic in self._topics.subscribed
        }

    def _lag_of(self, topic: TopicName, number: ShardId, shard: ShardT) -> int:
        partition = TopicPartition(topic, number)
        known = self._consumer.highwater(partition) if partition in self._consumer.assignment() else None
        return max(0, (known or self._ends.get(partition, 0)) - shard.positions[topic])

    async def is_member(self) -> bool:
        """Whether the group still counts on this member: it takes a commit of what is committed already."""
        assignment = self._consumer.assignment()
        try:
            async with asyncio.timeout(_COMMIT_SECONDS):
                async with connected(self._connection, patience_seconds=_COMMIT_SECONDS) as cluster:
                    committed = await cluster.committed(self._group_id)
                known = next((tp for tp in assignment if tp in committed), next(iter(assignment), None))
                if known is None or self.ownership.rejoining:
                    return False
                found = committed.get(known, _NOTHING_READ)
                await self._consumer.commit({known: OffsetAndMetadata(found.offset, found.metadata)})
        except (KafkaError, LearnerError, TimeoutError) as error:
            _log.info("membership.unsure", error=first_line(error))
            return False
        return True

    @property
    def settled(self) -> bool:
        """Whether the group gave this replica its shards, and all of them are being read."""
        assigned = self.ownership.assigned
        return assigned is not None and assigned <= self.ownership.sought

    async def reading(self) -> Reading:
        """How far the events are read, for the watchdog."""
        return await look("events", self._consumer, self._positions(), self._outage)

    # --- the end -----------------------------------------------------------------------------------------

    async def finish(self) -> bool:
        """Makes everything durable; False if Kafka did not take it: then the next start reads it again."""
        async with self._processing:
            return await self.checkpoint()

    async def close(self) -> None:
        """Closes the shards' files, whatever happened before; nothing more is written."""
        self._closing = True
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.wait([self._preparing])
        await self._close(list(self.ownership.shards))
        await asyncio.gather(*self._being_closed)

    def fail(self, error: BaseException) -> None:
        """Ends the worker: reading raises this error, the first one said."""
        if self._failure.done():
            return
        if not isinstance(error, LearnerError):
            _log.error("shards.failed", exc_info=error)
            error = LearnerError(f"unexpected: {first_line(error)}; the log has the traceback")
        self._failure.set_exception(error)

    def _raise_failure(self) -> None:
        if self._failure.done():
            self._failure.result()


def _told(error: OffsetOutOfRangeError) -> dict[str, int]:
    positions: Mapping[TopicPartition, int] = error.args[0]
    return {f"{partition.topic}/{partition.partition}": offset for partition, offset in positions.items()}
