"""What the worker's code asks of aiokafka, on the simulated broker."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from aiokafka import TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaConnectionError,
    KafkaTimeoutError,
    OffsetOutOfRangeError,
)
from aiokafka.structs import OffsetAndMetadata, OffsetAndTimestamp

from learner_worker.contract.headers import Headers
from learner_worker.contract.topics import Topics
from learner_worker.kafka.admin import Committed
from tests.simulation.broker import Assignment, Broker, Client
from tests.simulation.disk import Latency
from tests.simulation.log import Entry, Sent


class Listener(Protocol):
    """Whom the group tells what it gives and takes."""

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None: ...
    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None: ...


@dataclass(slots=True)
class Reading:
    """One assigned partition's state in the consumer."""

    position: int
    paused: bool = False
    highwater: int | None = None
    polled_ms: int | None = None


_UNKNOWN = -1
NAMES = Topics().named()
METRICS = NAMES.metrics
Answer = tuple[TopicPartition, Reading, list[Entry], int | None]
"""A fetch's answer: what was asked, the records, and the end; None: the position is out of range."""


class Reader:
    """An AIOKafkaConsumer's reading: a fetch is answered at one moment and received at a later one.

    Args:
        limit: how many records of a partition one fetch brings.
        fetch_seconds: what a fetch costs besides its latency.
        idle_seconds: how long at least one without records takes.
    """

    def __init__(
        self,
        client: Client,
        broker: Broker,
        latency: Latency,
        limit: Callable[[], int],
        *,
        fetch_seconds: float = 0.0,
        idle_seconds: float = 0.0,
    ) -> None:
        self._client = client
        self._broker = broker
        self._latency = latency
        self._limit = limit
        self._fetch_seconds = fetch_seconds
        self._idle_seconds = idle_seconds
        self._readings: dict[TopicPartition, Reading] = {}
        self._refused: dict[TopicPartition, int] = {}
        self._reassigning = False
        self.awaiting = False
        """Whether a fetch is answered and not yet received."""

    # --- fetching ----------------------------------------------------------------------------------------

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Entry]]:
        self._raise_refusal()
        readings = {} if self._reassigning else dict(self._readings)
        answers = self._answers(readings, max_records)
        if not any(entries or end is None for _, _, entries, end in answers):
            await asyncio.sleep(max(timeout_ms / 1000, self._idle_seconds))
            answers = self._answers(readings, max_records)
        self.awaiting = True
        await self._latency()
        if self._fetch_seconds:
            await asyncio.sleep(self._fetch_seconds)
        self.awaiting = False
        batches = self._received(answers, self._broker.clock.milliseconds)  # its receipt: so does aiokafka
        if not batches:
            self._raise_refusal()
        return batches

    def _raise_refusal(self) -> None:
        """As aiokafka: what was received before comes first, and a seek meanwhile does not help."""
        if self._refused:
            partition = next(iter(self._refused))
            raise OffsetOutOfRangeError({partition: self._refused.pop(partition)})

    def _answers(self, readings: Mapping[TopicPartition, Reading], most: int) -> list[Answer]:
        found: list[Answer] = []
        for partition, reading in readings.items():
            if not reading.paused:
                there = self._broker.log.partitions[partition.topic, partition.partition]
                entries = there.read(reading.position, min(self._limit(), most))
                end = there.end if there.holds(reading.position) else None
                found.append((partition, Reading(reading.position), entries, end))
        return found

    def _received(self, answers: Sequence[Answer], polled_ms: int) -> dict[TopicPartition, list[Entry]]:
        batches: dict[TopicPartition, list[Entry]] = {}
        for partition, asked, entries, end in answers:
            reading = self._readings.get(partition)
            if reading is None or reading.paused or reading.position != asked.position:
                continue
            if end is None:
                self._refused[partition] = asked.position
                continue
            reading.highwater, reading.polled_ms = end, polled_ms
            if entries:
                reading.position = entries[-1].offset + 1
                batches[partition] = entries
            else:
                reading.position = max(reading.position, end)
        return batches

    async def position(self, partition: TopicPartition) -> int:
        if partition not in self._readings:
            raise IllegalStateError(f"{partition} is not assigned")
        return self._readings[partition].position

    def highwater(self, partition: TopicPartition) -> int | None:
        return self._readings[partition].highwater

    def last_poll_timestamp(self, partition: TopicPartition) -> int | None:
        return self._readings[partition].polled_ms

    def assignment(self) -> set[TopicPartition]:
        return set(self._readings)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._readings[partition].position = offset

    def pause(self, *partitions: TopicPartition) -> None:
        for partition in partitions:
            self._readings[partition].paused = True

    def resume(self, *partitions: TopicPartition) -> None:
        for partition in partitions:
            self._readings[partition].paused = False

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        await self._latency()
        return {
            partition: self._broker.log.partitions[partition.topic, partition.partition].first
            for partition in partitions
        }

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        await self._latency()
        ends = {
            partition: self._broker.log.end(partition.topic, partition.partition) for partition in partitions
        }
        await self._latency()
        return ends


class Consumer(Reader):
    """A member of the group."""

    def __init__(
        self,
        client: Client,
        broker: Broker,
        latency: Latency,
        limit: Callable[[], int],
        *,
        fetch_seconds: float = 0.0,
        idle_seconds: float = 0.0,
    ) -> None:
        super().__init__(
            client, broker, latency, limit, fetch_seconds=fetch_seconds, idle_seconds=idle_seconds
        )
        self._topics: list[str] = []
        self._listener: Listener | None = None
        self._coordination = asyncio.Lock()
        self._reassigning = True

    def subscribe(self, topics: list[str], listener: Listener) -> None:
        self._topics = topics
        self._listener = listener
        self.rejoin_soon()

    def rejoin_soon(self) -> None:
        """The group asks this member to come back for a new generation."""
        if self._listener is not None:
            self._client.loop.create_task(self._rejoin(self._listener), name="coordination")

    async def _rejoin(self, listener: Listener) -> None:
        async with self._coordination:
            await self._latency()
            self._reassigning = True
            await listener.on_partitions_revoked(set(self._readings))
            await self._latency()
            assignment = await self._joined()
            self._readings = {
                partition: Reading(self._committed(*partition)) for partition in assignment.partitions()
            }
            self._reassigning = False
            self._client.assignor.on_assignment(assignment)
            await self._latency()
            await listener.on_partitions_assigned(set(self._readings))

    async def _joined(self) -> Assignment:
        while True:
            metadata = self._client.assignor.metadata(self._topics)
            assignment = await self._broker.group.join(self._client, metadata)
            if assignment is not None:
                return assignment
            await self._latency()

    def _committed(self, topic: str, partition: int) -> int:
        found = self._broker.log.committed.get((topic, partition))
        return 0 if found is None else found.offset

    async def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        await self._latency()
        taken = self._broker.commit(
            self._client,
            {
                (partition.topic, partition.partition): Committed(found.offset, found.metadata)
                for partition, found in offsets.items()
            },
        )
        await self._latency()
        if not taken:
            raise CommitFailedError("the member is of an older generation")

    async def start(self) -> None:
        """The broker is there."""

    async def stop(self) -> None:
        """Leaves the group."""
        if self._client.alive and self._broker.group.members.get(self._client.name) is self._client:
            self._broker.group.remove(self._client.name)


class Follower(Reader):
    """A consumer without a group, assigned by hand."""

    def __init__(
        self,
        client: Client,
        broker: Broker,
        latency: Latency,
        limit: Callable[[], int],
        refuses: Callable[[], bool],
        *,
        idle_seconds: float = 0.0,
    ) -> None:
        super().__init__(client, broker, latency, limit, idle_seconds=idle_seconds)
        self._refuses = refuses

    async def start(self) -> None:
        await self._latency()
        if self._refuses():
            raise KafkaConnectionError("Kafka is away")

    async def stop(self) -> None:
        await self._latency()

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Replaces the assignment; positions are unknown until they are sought."""
        self._readings = {partition: Reading(_UNKNOWN) for partition in partitions}


REPLY_PARTITIONS: Mapping[str, int] = {
    "suggest-bid-replies": 3,
    "suggest-bid-replies.team": 1,
    "suggest-bid-requests.reply": 2,
}
"""The topics on the allow-list that exist; of the learner's own topics every one does."""


class RequestReader(Follower):
    """An AIOKafkaConsumer with a group's commits, assigned by hand."""

    def __init__(
        self,
        client: Client,
        broker: Broker,
        latency: Latency,
        limit: Callable[[], int],
        refuses: Callable[[], bool],
        *,
        idle_seconds: float = 0.0,
    ) -> None:
        super().__init__(client, broker, latency, limit, refuses, idle_seconds=idle_seconds)
        self.commits: dict[TopicPartition, int] = {}

    async def start(self) -> None:
        """The broker is there."""

    @property
    def now_us(self) -> int:
        """The broker's time."""
        return self._broker.clock.micros

    def lay(self, topic: str, partition: int, sent: Sent) -> None:
        """Somebody else's record arrives."""
        self._broker.log.append(topic, partition, sent, self._broker.clock.milliseconds)

    async def offsets_for_times(
        self, times: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        found: dict[TopicPartition, OffsetAndTimestamp | None] = dict.fromkeys(times)
        for place, oldest_ms in times.items():
            for entry in reversed(self._broker.log.partitions[place.topic, place.partition].live):
                if entry.timestamp >= oldest_ms:
                    found[place] = OffsetAndTimestamp(entry.offset, entry.timestamp)
        await self._latency()
        return found

    async def committed(self, partition: TopicPartition) -> int | None:
        return self.commits.get(partition)

    async def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        self.commits.update({partition: found.offset for partition, found in offsets.items()})

    async def topics(self) -> set[str]:
        return {*NAMES.all, *REPLY_PARTITIONS}


class Batch:
    """A producer's batch: full after a few records."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.records: list[Sent] = []

    def append(
        self, *, key: bytes | None, value: bytes | None, timestamp: int | None, headers: Headers
    ) -> object | None:
        if not isinstance(headers, list):
            raise TypeError("aiokafka's builder takes a list of headers")
        if len(self.records) >= self._limit:
            return None
        self.records.append(Sent(key, value, tuple(headers), timestamp))
        return self


class Producer:
    """An AIOKafkaProducer."""

    def __init__(
        self,
        client: Client,
        broker: Broker,
        latency: Latency,
        limit: Callable[[], int],
        refuses: Callable[[], bool],
    ) -> None:
        self._client = client
        self._broker = broker
        self._latency = latency
        self._limit = limit
        self._refuses = refuses
        self.owned: set[int] = set()
        """The shards this process has opened to own them: of others it writes no metrics."""
        self.violations: list[str] = []

    async def start(self) -> None:
        """The broker is there."""

    async def stop(self) -> None:
        """What is on its way arrives, or does not."""

    def create_batch(self) -> Batch:
        return Batch(self._limit())

    async def send_batch(
        self, batch: Batch, topic: str, *, partition: int
    ) -> "asyncio.Future[object] | None":
        await self._latency()
        if self._refuses():
            raise KafkaTimeoutError
        self._require_owned(topic, partition)
        return self._broker.send(self._client, topic, partition, batch.records).future

    async def send_and_wait(
        self,
        topic: str,
        *,
        value: bytes | None,
        key: bytes | None,
        partition: int | None,
        headers: Headers,
        timestamp_ms: int | None,
    ) -> None:
        await self._latency()
        self._require_owned(topic, partition)
        sent = Sent(key, value, tuple(headers), timestamp_ms)
        future = self._broker.send(self._client, topic, partition or 0, [sent]).future
        if future is not None:
            await future

    def _require_owned(self, topic: str, partition: int | None) -> None:
        if topic == METRICS and partition not in self.owned:
            self.violations.append(f"a metrics record of shard {partition}, which it never owned")


class ReplyProducer(Producer):
    """An AIOKafkaProducer that knows which partitions there are."""

    async def partitions_for(self, topic: str) -> set[int]:
        return set(range(REPLY_PARTITIONS.get(topic, self._broker.shards)))


class Admin:
    """The administrator's view: what the group has committed."""

    def __init__(self, broker: Broker, latency: Latency) -> None:
        self._broker = broker
        self._latency = latency

    async def committed(self, group_id: str) -> dict[TopicPartition, Committed]:
        assert group_id
        await self._latency()
        found = {TopicPartition(*place): mark for place, mark in self._broker.log.committed.items()}
        await self._latency()
        return found


@asynccontextmanager
async def connected(connection: Admin, *, patience_seconds: float) -> AsyncIterator[Admin]:
    """Takes the place of `learner_worker.kafka.admin.connected`."""
    yield connection
