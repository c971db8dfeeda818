"""Tracks how far a shard's topics are read, in record time: it decides which tasks may expire."""

import operator
from collections.abc import Callable, Iterator, Sequence

from learner_worker.contract.times import LAST_MICROS, Micros, record_micros
from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.kafka.records import Record
from learner_worker.stages.settle import watermark_of

_timestamp = operator.attrgetter("timestamp")


class WatermarkTracker:
    """Tracks the record times that a shard's sources have reached: rule 6 (docs/protocol.md).

    Args:
        others_passed: maps a record time to the time up to which the whole group is known to have read.
    """

    def __init__(self, topics: TopicNames, others_passed: Callable[[Micros], Micros | None]) -> None:
        self._topics = topics
        self._others_passed = others_passed
        self._ends: dict[TopicName, Micros | None] = {}
        self._last_read: dict[TopicName, Micros] = {}
        self._passed: Micros | None = None

    def note_read(self, topic: TopicName, records: Sequence[Record], latest: Micros = LAST_MICROS) -> None:
        """Notes that records of a topic were read; their times count as at most `latest`."""
        self._last_read[topic] = min(record_micros(min(map(_timestamp, records))), latest)

    def note_end(self, topic: TopicName, confirmed: Micros | None) -> None:
        """Notes the time at which Kafka last confirmed that a topic is read to its end; None if it is not."""
        self._ends[topic] = confirmed
        if topic == self._topics.rerouted and confirmed is not None:
            self._passed = self._others_passed(confirmed) or self._passed

    @property
    def is_behind(self) -> bool:
        """Whether bids or facts are known to be unread in Kafka."""
        topics = self._topics
        return any(self._ends.get(topic, 0) is None for topic in (topics.bid_placed, topics.outcomes))

    def watermark(self) -> Micros | None:
        """A lower bound of the record times that are still unread; None while it is unknown."""
        return watermark_of(self._times_of_unread())

    def _times_of_unread(self) -> Iterator[Micros | None]:
        """Yields per source a lower bound of its unread record times: its confirmed end, or its last read.

        Rerouted events have the times of the partitions they came from; the group's frontier bounds those.
        """
        for topic in (self._topics.bid_placed, self._topics.auction_closed):
            end = self._ends.get(topic)
            yield self._last_read.get(topic) if end is None else end
        yield self._passed
