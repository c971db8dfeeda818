"""Reads all partitions of a topic from their first record, and then follows them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from learner_worker.contract.topics import TopicName
from learner_worker.errors import BrokerError
from learner_worker.kafka.offsets import offset_ranges
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.polling import poll, seek
from learner_worker.kafka.records import Record
from learner_worker.lifecycle import KAFKA_FAILURES

_POLL_MS = 200  # how long an idle poll lasts; a record ends it at once
_POLL_RECORDS = 2_000  # decoded in one step: more would delay answers
_KAFKA_SECONDS = 30.0  # aiokafka itself retries a request without a limit

Take = Callable[[Sequence[Record]], Awaitable[None]]


class TopicFollower:
    """Follows a topic with a consumer of its own, which belongs to no group.

    Args:
        consumer: started, with nothing assigned; a position that Kafka does not have must be an error.
        take: is given each batch, of one partition and in its order.

    Attributes:
        caught_up: set once everything was read that the topic held when reading began.
    """

    def __init__(
        self, consumer: AIOKafkaConsumer, topic: TopicName, partitions: int, take: Take, outage: Outage
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]
        self._take = take
        self._outage = outage
        self._positions: dict[TopicPartition, int] = {}
        self._first = self._last = 0
        self._ends: dict[TopicPartition, int] = {}
        self.caught_up = asyncio.Event()

    @property
    def read_share(self) -> float:
        """The share of what the topic held at first that is read; 1.0 from then on."""
        if self.caught_up.is_set():
            return 1.0
        read = sum(min(self._positions[one], end) for one, end in self._ends.items()) - self._first
        return read / (self._last - self._first) if self._last > self._first else 0.0

    async def starts(self) -> dict[TopicPartition, int]:
        """The first offset that each partition holds now."""
        async with asyncio.timeout(_KAFKA_SECONDS):
            return dict(await self._consumer.beginning_offsets(self._partitions))

    async def run(self) -> None:
        """Reads until it is cancelled, through outages of Kafka.

        Raises:
            BrokerError: Kafka no longer has what comes next: the topic was deleted, or created anew.
        """
        step = self._begin
        while True:
            try:
                await step()
            except OffsetOutOfRangeError as error:
                raise BrokerError(
                    f"{self._topic} no longer holds what comes next: it was created anew; start again"
                ) from error
            except KAFKA_FAILURES as error:
                await asyncio.sleep(self._outage.failed(self._topic, error))
            else:
                self._outage.worked(self._topic)
                step = self._step

    async def _begin(self) -> None:
        async with asyncio.timeout(_KAFKA_SECONDS):
            ranges = await offset_ranges(self._consumer, self._partitions)
        self._positions = {one: offsets.start for one, offsets in ranges.items()}
        self._ends = {one: offsets.end for one, offsets in ranges.items()}
        self._first, self._last = sum(self._positions.values()), sum(self._ends.values())
        self._consumer.assign(self._partitions)
        seek(self._consumer, self._positions)
        self._note_whether_caught_up()

    async def _step(self) -> None:
        polled = await poll(self._consumer, self._positions, timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        for partition, records in polled.batches.items():
            await self._take(records)
            self._positions[partition] = records[-1].offset + 1
        async with asyncio.timeout(_KAFKA_SECONDS):
            for partition in self._partitions:  # moves over offsets that hold no record, too
                self._positions[partition] = await self._consumer.position(partition)
        self._note_whether_caught_up()

    def _note_whether_caught_up(self) -> None:
        if not self.caught_up.is_set() and all(
            self._positions[one] >= end for one, end in self._ends.items()
        ):
            self.caught_up.set()
