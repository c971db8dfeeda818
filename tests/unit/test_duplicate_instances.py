"""Two replicas of one name: the one that was thrown out of the group ends, and only that one."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.errors import KafkaError

from learner_worker.errors import DuplicateInstanceError
from learner_worker.group.placement import Claim
from learner_worker.kafka.admin import GroupMember
from tests.support.wiring import PlayedClients, QuietConsumer, RememberedFiles, partitions_of, worker_on

NAME = "replica-1"


class RebalancingConsumer(QuietConsumer):
    """One whose group has forgotten it: a poll waits for an assignment that never comes."""

    def __init__(self) -> None:
        super().__init__()
        self._coordinator = SimpleNamespace(member_id="")
        self.polled = asyncio.Event()
        self.refuses = False
        self.empty_polls = False

    async def getmany(self, **_: Any) -> Mapping[TopicPartition, Any]:
        self.polled.set()
        if self.refuses:
            raise KafkaError
        if self.empty_polls:
            await asyncio.sleep(0)
            return {}
        never: asyncio.Future[Mapping[TopicPartition, Any]] = asyncio.get_running_loop().create_future()
        return await never


def member(process: str) -> GroupMember:
    """A member of the group under this replica's name."""
    claim = msgspec.json.encode(Claim(process=process, name=NAME, where="host b, process 7"))
    metadata = ConsumerProtocolMemberMetadata(0, ["bid-placed"], claim)
    return GroupMember("id", "host b", metadata.encode())


class Replica:
    """A worker whose name another replica has in the group; the test runs its reading loop."""

    def __init__(self, path: Path) -> None:
        self.consumer = RebalancingConsumer()
        clients = PlayedClients(self.consumer)
        clients.cluster.members = [member("this process"), member("another process")]
        self.cluster = clients.cluster
        self.worker = worker_on(clients, RememberedFiles(path), group_instance_id=NAME)

    def read(self, stopping: asyncio.Event | None = None) -> "asyncio.Task[None]":
        """Starts the reading loop."""
        return asyncio.create_task(self.worker.events.read(stopping or asyncio.Event()))


async def test_a_replaced_replica_ends_although_its_poll_never_returns(tmp_path: Path) -> None:
    """A poll waits for the rebalance that the replaced replica stays out of: the worker ends nevertheless."""
    replica = Replica(tmp_path)
    await replica.worker.rebalance.on_partitions_assigned(partitions_of(0))
    reading = replica.read()
    await replica.consumer.polled.wait()
    staying_out = asyncio.create_task(replica.worker.rebalance.on_partitions_revoked(partitions_of(0)))
    async with asyncio.timeout(60):
        with pytest.raises(DuplicateInstanceError, match=r"another worker \(host b, process 7\)"):
            await reading
    assert not staying_out.done()
    staying_out.cancel()


async def test_a_replica_that_is_alone_with_its_name_joins_again(tmp_path: Path) -> None:
    """The group shows its own claim, and nobody else's under its name: it stalled, and goes on."""
    replica = Replica(tmp_path)
    replica.cluster.members = [member("this process")]
    await replica.worker.rebalance.on_partitions_assigned(partitions_of(0))
    async with asyncio.timeout(60):
        await replica.worker.rebalance.on_partitions_revoked(partitions_of(0))
    assert replica.cluster.asked_for_members == 1


async def test_a_replica_not_yet_in_the_group_has_no_duplicate(tmp_path: Path) -> None:
    """Before its first assignment the group may still show its own last run: it waits, it does not end."""
    replica = Replica(tmp_path)
    replica.consumer.refuses = True
    stopping = asyncio.Event()
    reading = replica.read(stopping)
    await replica.consumer.polled.wait()
    stopping.set()
    await reading
    assert replica.cluster.asked_for_members == 0
