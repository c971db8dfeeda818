"""Whose a group's commits are: a mirror copies them with translated offsets and the original's metadata."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from learner_worker.contract.fields import ShardId
from learner_worker.contract.times import Micros
from learner_worker.group.frontier import Frontier
from learner_worker.kafka.admin import Committed
from tests.support.steady import SteadyTopics
from tests.support.wiring import (
    TOPICS,
    PlayedClients,
    QuietCluster,
    QuietConsumer,
    RememberedFiles,
    partitions_of,
    until_open,
    worker_on,
)

BIDS = TopicPartition(TOPICS.bid_placed, 0)
END = 9
OWN = f"incarnation={SteadyTopics.incarnation}"


class CommittingConsumer(QuietConsumer):
    """A consumer whose bid topic holds some records; what it commits is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.assigned = set(partitions_of(0))
        self.commits: dict[TopicPartition, OffsetAndMetadata] = {}

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {place: END if place == BIDS else 0 for place in partitions}

    async def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        self.commits.update(offsets)


class CommittedGroup(QuietCluster):
    """A group that has a commit of the bids."""

    def __init__(self, committed: Committed) -> None:
        super().__init__()
        self._committed = committed

    async def committed(self, group_id: str) -> dict[TopicPartition, Committed]:
        assert group_id
        return {BIDS: self._committed}


def clients_of(committed: Committed) -> PlayedClients:
    """The clients of a member of that group."""
    clients = PlayedClients(CommittingConsumer())
    clients.cluster = CommittedGroup(committed)
    return clients


@pytest.mark.parametrize(
    ("metadata", "position"),
    [("incarnation=another;rewind=7", 0), (f"{OWN};rewind=7", 7), ("rewind=7", 7)],
)
async def test_a_commit_of_other_topics_of_the_same_names_counts_as_none(
    tmp_path: Path, metadata: str, position: int
) -> None:
    """Only an own commit, or an older version's, says where to begin; what is committed names its topics."""
    clients = clients_of(Committed(8, metadata))
    worker = worker_on(clients, RememberedFiles(tmp_path))
    async with worker.preparation.running():
        await worker.rebalance.on_partitions_assigned(partitions_of(0))
        await until_open(worker, [0])
        assert worker.ownership.shards[ShardId(0)].positions[TOPICS.bid_placed] == position
        assert await worker.checkpointer.checkpoint()
    committed = clients.consumer.commits.get(BIDS)
    assert committed == (OffsetAndMetadata(7, f"{OWN};rewind=7") if position else None)


@pytest.mark.parametrize(("metadata", "passed"), [("incarnation=another;rewind=9", False), (OWN, True)])
async def test_the_frontier_trusts_no_commit_of_other_topics(metadata: str, passed: bool) -> None:
    """It promises that everything older has been read, which no copied commit can."""
    clients = clients_of(Committed(END, f"{metadata};rewind={END}"))
    frontier = Frontier(
        administrator=clients.administrator,
        consumer=clients.consumer,
        group_id="g",
        incarnation=SteadyTopics.incarnation,
        topics=[TOPICS.bid_placed],
        partitions=1,
        now=lambda: Micros(5),
    )
    await frontier.look()
    await frontier.look()
    assert (frontier.passed(Micros(6)) is not None) == passed
