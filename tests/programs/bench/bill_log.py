"""The topics of a bill, in memory: record batches as bytes, fetched and polled as the client does it."""

import itertools
import random
import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from learner_worker.contract.fields import MAX_RECORD_BYTES
from learner_worker.contract.topics import TopicNames
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.patches import LightRecord
from tests.programs.bench.load import Auctions, events_of
from tests.programs.bench.stage import PARTITIONS
from tests.support.batches import BATCH_BYTES, bytes_of

FETCH_BYTES = 4 * 2**20  # as the worker's consumer asks for
_READ_COMMITTED = 1  # the client's number for it
Records = Mapping[TopicPartition, Sequence[Any]]


class Batch(NamedTuple):
    """A record batch, with its records where they are not to be decoded."""

    data: bytes
    records: Sequence[LightRecord] = ()


@dataclass(slots=True)
class _Partition:
    unread: deque[Batch] = field(default_factory=deque)
    end: int = 0


class Log:
    """Topics whose records are polled partition by partition, in the order of their offsets.

    Args:
        decode: whether polled records are decoded from the bytes of their batches.
        seed: for the order of partitions in a fetch.
    """

    def __init__(self, *, decode: bool, seed: int = 1) -> None:
        self._decode = decode
        self._chance = random.Random(seed)
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._fetched: deque[tuple[TopicPartition, Iterator[Any]]] = deque()

    def append_batch(self, place: TopicPartition, data: bytes, count: int) -> None:
        """Adds a batch of records as a broker does: it numbers them."""
        partition = self._partitions.setdefault(place, _Partition())
        numbered = struct.pack(">q", partition.end) + data[8:]
        records = () if self._decode else list(_decoded(place, numbered, partition.end))
        partition.unread.append(Batch(numbered, records))
        partition.end += count

    def append_records(self, place: TopicPartition, records: Sequence[LightRecord]) -> None:
        """Adds records that are not encoded; sets their offsets."""
        partition = self._partitions.setdefault(place, _Partition())
        for offset, record in enumerate(records, start=partition.end):
            record.offset = offset
        partition.unread.append(Batch(b"", records))
        partition.end += len(records)

    def appended(self, topic: str) -> int:
        """The number of records appended to a topic."""
        return sum(partition.end for place, partition in self._partitions.items() if place.topic == topic)

    def fetch(self) -> list[int]:
        """Fetches once the records of the last fetch are all polled; returns the bytes of each partition.

        A broker fills a response partition by partition, so behind a backlog it holds few of them.
        """
        if self._fetched:
            return []
        sizes: list[int] = []
        unread_places = [place for place, partition in self._partitions.items() if partition.unread]
        self._chance.shuffle(unread_places)
        for place in unread_places:
            batches = self._taken(self._partitions[place].unread)
            sizes.append(sum(map(_size, batches)))
            self._fetched.append((place, self._iterator(place, batches)))
            if sum(sizes) >= FETCH_BYTES:
                break
        return sizes

    def poll(self, most: int) -> Records:
        """The next records, `most` at most."""
        polled: dict[TopicPartition, Sequence[Any]] = {}
        while self._fetched and most > 0:
            place, records = self._fetched[0]
            found = list(itertools.islice(records, most))
            if len(found) < most:
                self._fetched.popleft()
            if found:
                polled[place] = found
            most -= len(found)
        return polled

    def _taken(self, unread: deque[Batch]) -> list[Batch]:
        batches = [unread.popleft()]
        while unread and sum(map(_size, batches)) + _size(unread[0]) <= MAX_RECORD_BYTES:
            batches.append(unread.popleft())
        return batches

    def _iterator(self, place: TopicPartition, batches: Sequence[Batch]) -> Iterator[Any]:
        if not self._decode:
            return itertools.chain.from_iterable(batch.records for batch in batches)
        data = b"".join(batch.data for batch in batches)
        return _decoded(place, data, struct.unpack_from(">q", data)[0])


def _size(batch: Batch) -> int:
    return len(batch.data) or sum(
        len(record.key or b"") + len(record.value or b"") for record in batch.records
    )


def _decoded(place: TopicPartition, data: bytes, first: int) -> Iterator[Any]:
    """The records of some batches, as the client's fetcher decodes them."""
    records: Iterator[Any] = PartitionRecords(
        place, MemoryRecords(data), [], first, None, None, True, _READ_COMMITTED
    )
    return records


def fill(log: Log, load: Auctions, names: TopicNames) -> None:
    """Appends the events of a load, in batches as the bench publishes them."""
    partition_of = partitioner(PARTITIONS)
    open_batches: dict[TopicPartition, BatchBuilder] = {}
    for auction in range(load.auctions):
        task = load.task(auction)
        for topic, value, timestamp_ms in events_of(load, names, auction):
            place = TopicPartition(topic, partition_of(task))
            for _ in range(2):  # again where the first batch is full
                batch = open_batches.get(place)
                if batch is None:
                    batch = open_batches[place] = BatchBuilder(BATCH_BYTES, 0)
                if batch.append(timestamp=timestamp_ms, key=task.encode(), value=value) is not None:
                    break
                _close(log, place, open_batches.pop(place))
    for place, batch in open_batches.items():
        _close(log, place, batch)


def _close(log: Log, place: TopicPartition, batch: BatchBuilder) -> None:
    log.append_batch(place, bytes_of(batch), batch.record_count())
