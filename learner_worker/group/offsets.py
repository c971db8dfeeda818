"""The committed offsets and offset ranges of a shard's partitions, read when the shard is opened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.group.commits import own_commits
from learner_worker.kafka.admin import Administrator, Committed
from learner_worker.kafka.offsets import OffsetRange, offset_ranges

_PATIENCE_SECONDS = 30.0
"""Time limit for an answer: longer than a broker's failover; the caller retries."""


@dataclass(frozen=True, slots=True)
class BrokerOffsets:
    """The offsets of one shard's partitions in Kafka.

    Attributes:
        committed: the group's commits, by topic.
        ranges: the offset ranges that the logs hold, by topic.
    """

    committed: Mapping[TopicName, Committed]
    ranges: Mapping[TopicName, OffsetRange]


class BrokerOffsetsReader:
    """Reads the committed offsets and offset ranges of shards from Kafka.

    Args:
        incarnation: that of the topics; commits that name another one are ignored.
        topics: the topics that the group subscribes to.
    """

    def __init__(
        self,
        *,
        administrator: Administrator,
        consumer: AIOKafkaConsumer,
        group_id: str,
        incarnation: str,
        topics: Sequence[TopicName],
    ) -> None:
        self._administrator = administrator
        self._consumer = consumer
        self._group_id = group_id
        self._incarnation = incarnation
        self._topics = topics

    async def read(self, shard_ids: Sequence[ShardId]) -> dict[ShardId, BrokerOffsets]:
        """Reads the current offsets of the given shards.

        Raises:
            BrokerError, KafkaError, TimeoutError: Kafka does not answer.
        """
        if not shard_ids:
            return {}
        async with self._administrator(patience_seconds=_PATIENCE_SECONDS) as cluster:
            committed = own_commits(await cluster.committed(self._group_id), self._incarnation)
        partitions = [TopicPartition(topic, shard_id) for topic in self._topics for shard_id in shard_ids]
        ranges = await offset_ranges(self._consumer, partitions)
        return {shard_id: self._offsets_of(shard_id, committed, ranges) for shard_id in shard_ids}

    def _offsets_of(
        self,
        shard_id: ShardId,
        committed: Mapping[TopicPartition, Committed],
        ranges: Mapping[TopicPartition, OffsetRange],
    ) -> BrokerOffsets:
        partitions = {topic: TopicPartition(topic, shard_id) for topic in self._topics}
        return BrokerOffsets(
            {topic: committed[place] for topic, place in partitions.items() if place in committed},
            {topic: ranges[place] for topic, place in partitions.items()},
        )
