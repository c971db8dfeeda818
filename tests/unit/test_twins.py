"""Two replicas of one name: the one that was thrown out of the group ends, and only that one."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import Topics
from learner_worker.errors import DuplicateInstanceError
from learner_worker.group.ownership import BrokerOffsets
from learner_worker.kafka.batching import BatchWriter
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.outage import Outage
from learner_worker.shard.shard import Shard
from learner_worker.worker.consumer import Ingest

OWNED = {TopicPartition("bid-placed", 0)}


class RebalancingConsumer:
    """An AIOKafkaConsumer whose group has forgotten it: a poll waits for an assignment that never comes."""

    def __init__(self) -> None:
        self._coordinator = SimpleNamespace(member_id="")
        self.polled = asyncio.Event()
        self.refuses = False
        self.empty_polls = False

    def subscribe(self, **_: Any) -> None:
        """The test plays the group."""

    def assignment(self) -> set[TopicPartition]:
        return OWNED

    async def getmany(self, **_: Any) -> Mapping[TopicPartition, Any]:
        self.polled.set()
        if self.refuses:
            raise KafkaError
        if self.empty_polls:
            await asyncio.sleep(0)
            return {}
        never: asyncio.Future[Mapping[TopicPartition, Any]] = asyncio.get_running_loop().create_future()
        return await never


class Replica:
    """A reading loop whose name another replica has in the group."""

    def __init__(self) -> None:
        self.consumer = RebalancingConsumer()
        self.asked = 0
        self.ingest = Ingest[Shard](
            connection=Connection("127.0.0.1:1"),
            consumer=cast("Any", self.consumer),
            writer=BatchWriter(cast("Any", None)),
            topics=Topics().named(),
            group_id="g",
            open_shard=self._open,
            on_ownership=lambda shards, assigned: None,  # noqa: ARG005
            outage=Outage(),
            find_duplicate=self._find_twin,
            before_rejoin=_nothing,
            before_opening=_nothing,
            give_way=_nothing,
        )

    async def _find_twin(self) -> str:
        self.asked += 1
        return "another worker has this name"

    async def _open(self, number: ShardId, marks: BrokerOffsets) -> Shard:
        raise NotImplementedError


async def _nothing() -> None:
    """There is nothing to be said before a rebalance."""


async def test_a_replaced_replica_ends_although_its_poll_never_returns() -> None:
    """A poll waits for the rebalance that the replaced replica stays out of: the worker ends nevertheless."""
    replica = Replica()
    replica.ingest.ownership.assigned = frozenset({ShardId(0)})
    reading = asyncio.create_task(replica.ingest.read(asyncio.Event()))
    await replica.consumer.polled.wait()
    staying_out = asyncio.create_task(replica.ingest.on_partitions_revoked(OWNED))
    async with asyncio.timeout(5):
        with pytest.raises(DuplicateInstanceError, match="another worker has this name"):
            await reading
    assert not staying_out.done()
    staying_out.cancel()


async def test_a_replica_not_yet_in_the_group_has_no_twin() -> None:
    """Before its first assignment the group may still show its own last run: it waits, it does not end."""
    replica = Replica()
    replica.consumer.refuses = True
    stopping = asyncio.Event()
    reading = asyncio.create_task(replica.ingest.read(stopping))
    await replica.consumer.polled.wait()
    stopping.set()
    await reading
    assert replica.asked == 0
