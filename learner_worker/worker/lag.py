"""How far this replica is behind: records and seconds, by topic and shard."""

import time
from collections.abc import Iterator, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.group.lag import PartitionLag
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.observability import LagInstruments
from learner_worker.requests.path import RequestPath
from learner_worker.worker.ownership import Ownership

_Place = tuple[TopicName, ShardId]


class LagReport:
    """Sets the gauges of lag."""

    def __init__(
        self,
        *,
        consumer: AIOKafkaConsumer,
        topics: TopicNames,
        ownership: Ownership,
        requests: RequestPath,
        instruments: LagInstruments,
    ) -> None:
        self._consumer = consumer
        self._topics = topics
        self._events = (topics.bid_placed, topics.auction_closed, topics.task_finished, topics.rerouted)
        self._ownership = ownership
        self._requests = requests
        self._instruments = instruments
        self._partitions: dict[_Place, PartitionLag] = {}

    def tell(self) -> None:
        """Sets the gauges to what is known now."""
        unread = dict(self._unread())
        for topic in (*self._topics.subscribed, self._topics.requests):
            self._instruments.records.labels(topic).set(self._sum_of(topic, unread))
        self._drop_lost(unread)
        now = time.monotonic()
        for (topic, shard_id), offsets in unread.items():
            lag = self._partitions.setdefault((topic, shard_id), PartitionLag())
            self._instruments.shard_records.labels(topic, shard_id).set(offsets.end - offsets.start)
            if topic in self._events:
                self._instruments.event_seconds.labels(topic, shard_id).set(lag.seconds(offsets, now))
            elif topic == self._topics.requests:
                self._instruments.request_seconds.labels(shard_id).set(lag.seconds(offsets, now))

    def _sum_of(self, topic: TopicName, unread: Mapping[_Place, OffsetRange]) -> float:
        """Unprocessed records of a topic, over this replica's shards; NaN while not all are open."""
        assigned = self._ownership.assigned or frozenset()
        if not all((topic, shard_id) in unread for shard_id in assigned):
            return float("nan")
        return float(sum(offsets.end - offsets.start for (of, _), offsets in unread.items() if of == topic))

    def _unread(self) -> Iterator[tuple[_Place, OffsetRange]]:
        for shard_id, shard in self._ownership.shards.items():
            for topic in self._topics.subscribed:
                position = shard.positions[topic]
                end = self._end_of(TopicPartition(topic, shard_id))
                yield (topic, shard_id), OffsetRange(position, max(end, position))
        for shard_id, offsets in self._requests.unfinished().items():
            yield (self._topics.requests, shard_id), offsets

    def _end_of(self, partition: TopicPartition) -> int:
        known = self._consumer.highwater(partition) if partition in self._consumer.assignment() else None
        return known or self._ownership.log_ends.get(partition, 0)

    def _drop_lost(self, unread: Mapping[_Place, OffsetRange]) -> None:
        for topic, shard_id in self._partitions.keys() - unread.keys():
            del self._partitions[topic, shard_id]
            self._instruments.shard_records.remove(topic, shard_id)
            if topic in self._events:
                self._instruments.event_seconds.remove(topic, shard_id)
            elif topic == self._topics.requests:
                self._instruments.request_seconds.remove(shard_id)
