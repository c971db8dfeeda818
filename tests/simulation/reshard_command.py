"""The command `reshard` as a process of the simulation: the real steps, on simulated topics and groups."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

from aiokafka import TopicPartition

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName, TopicNames, in_first_layout
from learner_worker.contract.topology import OwnTopics, Topology, standing
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.records import Outgoing, Record
from learner_worker.operations.resharding import Resharding, announce
from learner_worker.store.shard_file import ShardFile
from tests.simulation import loop
from tests.simulation.broker import Broker
from tests.simulation.disk import Disk
from tests.simulation.log import Partition, Sent
from tests.simulation.worker import TOPICS
from tests.support.steady import SteadyTopics

GROUP = "learner"
_EMPTY_SECONDS = 0.5


class Layouts:
    """One Kafka as two layouts see it: each has its own topics and group, and both have the swarm's topics.

    A broker of the simulation stands for the topics and the group of one layout. They share the partitions of
    the swarm's topics that both have.
    """

    def __init__(self, old: Broker, shards: int, new: Broker) -> None:
        self.old, self.new = old, new
        self.records = [
            Topology(
                generation=1,
                shards=old.shards,
                cluster_id="cluster",
                incarnation="first",
                owner_group=GROUP,
                topics=OwnTopics.of(TOPICS),
            )
        ]
        self.shards = shards
        self.raised = False
        self.requests: dict[str, dict[TopicPartition, Committed]] = {}
        self.of_swarm = (TOPICS.bid_placed, TOPICS.auction_closed, TOPICS.task_finished)
        for topic in self.of_swarm:
            for partition in range(old.shards):
                new.log.partitions[topic, partition] = old.log.partitions[topic, partition]

    @property
    def standing(self) -> Topology:
        """The record in effect."""
        found = standing(self.records)
        assert found is not None
        return found

    def guard(self) -> SteadyTopics:
        """The guard of a worker that starts now: it ignores the commits of other incarnations."""
        return SteadyTopics(self.standing.incarnation)

    def switched(self) -> None:
        """The record names the new layout; what an ablation makes of that, the workers do not see."""

    def broker_of(self, topic: str, partition: int) -> Broker:
        """Whose a partition is."""
        later = in_first_layout(topic) != topic
        if topic in self.of_swarm:
            later = partition >= self.old.shards
        return self.new if later else self.old

    def partition(self, topic: str, number: int) -> Partition:
        """What a partition holds."""
        return self.broker_of(topic, number).log.partitions[in_first_layout(topic), number]

    def count(self, topic: TopicName) -> int:
        """The number of a topic's partitions; 0 if it does not exist."""
        if topic in (*self.of_swarm, TOPICS.requests):
            return self.shards if self.raised else self.old.shards
        return self.old.shards if in_first_layout(topic) == topic else self.shards


class SimulatedAccess:
    """A cluster for `Resharding`."""

    def __init__(
        self, layouts: Layouts, latency: Callable[[], Awaitable[None]], alive: Callable[[], bool]
    ) -> None:
        self._layouts = layouts
        self._latency = latency
        self._alive = alive

    async def topology(self) -> Topology:
        await self._latency()
        return self._layouts.standing

    async def write(self, topology: Topology) -> Topology:
        await self._latency()
        self._layouts.records.append(topology)
        await self._latency()
        return self._layouts.standing

    async def counts(self, topics: Collection[TopicName]) -> Mapping[TopicName, int]:
        await self._latency()
        return {topic: self._layouts.count(topic) for topic in topics if topic != TOPICS.advice}

    async def create(self, new: TopicNames, old: TopicNames, shards: int) -> None:
        await self._latency()
        assert shards == self._layouts.shards
        assert new == old.of_layout(2)

    async def raise_counts(self, topics: Sequence[TopicName], shards: int) -> None:
        await self._latency()
        assert shards == self._layouts.shards
        self._layouts.raised = True
        assert TOPICS.outcomes not in topics

    async def until_empty(self, group_id: str) -> None:
        assert group_id == GROUP
        for _ in iter(lambda: bool(self._layouts.old.group.members), False):
            await asyncio.sleep(_EMPTY_SECONDS)

    async def committed(self, group_id: str) -> Mapping[TopicPartition, Committed]:
        await self._latency()
        if group_id.endswith(".requests"):
            return dict(self._layouts.requests.get(group_id, {}))
        old = self._layouts.old.log.committed if group_id == GROUP else {}
        new = self._layouts.new.log.committed if group_id != GROUP else {}
        found = {TopicPartition(*place): one for place, one in old.items()}
        # The new group's commits of the new layout's topics stand under the names of the first one.
        own = (TOPICS.outcomes, TOPICS.metrics, TOPICS.rerouted)
        kept = self._layouts.requests.get(group_id, {})
        return (
            found | {TopicPartition(*place): one for place, one in new.items() if place[0] not in own} | kept
        )

    async def commit(self, group_id: str, offsets: Mapping[TopicPartition, Committed]) -> None:
        await self._latency()
        assert group_id != GROUP
        if group_id.endswith(".requests"):
            self._layouts.requests[group_id] = dict(offsets)
            return
        kept = self._layouts.requests.setdefault(group_id, {})
        for place, one in offsets.items():
            if place.topic in (TOPICS.outcomes, TOPICS.rerouted):  # kept for the copy
                kept[place] = one
            else:
                where = (in_first_layout(place.topic), place.partition)
                self._layouts.new.log.committed[where] = one

    async def ranges(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, OffsetRange]:
        await self._latency()
        found = {place: self._layouts.partition(*place) for place in partitions}
        return {place: OffsetRange(there.first, there.end) for place, there in found.items()}

    async def records(
        self, partition: TopicPartition, offsets: OffsetRange
    ) -> AsyncIterator[Sequence[Record]]:
        position = offsets.start
        while position < offsets.end:
            await self._latency()
            found = self._layouts.partition(*partition).read(position, 10)
            batch = [entry for entry in found if entry.offset < offsets.end]
            if not batch:
                return
            yield batch
            position = batch[-1].offset + 1

    async def send(self, records: Sequence[Outgoing]) -> None:
        for record in records:
            await self._latency()
            assert record.partition is not None
            sent = Sent(record.key, record.value, record.headers, record.timestamp_ms)
            broker = self._layouts.broker_of(record.topic, record.partition)
            broker.log.append(
                in_first_layout(record.topic), record.partition, sent, broker.clock.milliseconds
            )

    @asynccontextmanager
    async def empty_file(self) -> AsyncIterator[ShardFile]:
        file = Disk().open(ShardId(0), self._latency, self._alive)
        yield file
        await file.close()


class Command:
    """One run of `learner-worker reshard`."""

    def __init__(self, layouts: Layouts, latency: Callable[[], Awaitable[None]]) -> None:
        self.alive = True
        self.said: list[str] = []
        self.loop = loop.new_loop(layouts.old.clock)
        self._layouts = layouts
        self._access = SimulatedAccess(layouts, latency, lambda: self.alive)
        self._main = self.loop.create_task(self._run(), name="reshard")
        self.loop.step(1)

    async def _run(self) -> None:
        if self._layouts.standing.layout > 1:  # one that was killed had switched
            return
        if self._layouts.standing.reshard is None:
            await announce(self._access, self._layouts.standing, self._layouts.shards)
        await Resharding(self._access, TOPICS, self.said.append).finish()

    @property
    def done(self) -> bool:
        """Whether it has ended; raises what it ended with."""
        if self._main.done():
            self._main.result()
            return True
        return False

    def kill(self) -> None:
        """SIGKILL."""
        self.alive = False
        self.loop.abandon()
