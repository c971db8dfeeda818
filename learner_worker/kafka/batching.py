"""Writes records in batches, and tracks which ones Kafka has acknowledged."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.record.memory_records import MemoryRecords

from learner_worker.contract.headers import Headers
from learner_worker.errors import SendError
from learner_worker.kafka.records import Outgoing
from learner_worker.kafka.refused_records import Refusals
from learner_worker.kafka.splitting import OF_RECORD, OF_TOPIC, TOO_LARGE, send_alone, send_in_parts
from learner_worker.refusals.denials import in_words

BATCH_BYTES = 64 * 1024  # some hundred facts: the cost of a batch is spread over many records
_MAX_UNACKNOWLEDGED = 256  # batches and single records: bounds memory to some 16 MB
_HAND_OVER_SECONDS = 20.0  # a full producer drains sooner unless Kafka is unreachable

Place = tuple[str, int]
"""A topic and a partition."""
Fallback = Callable[[KafkaError], Outgoing]
"""Makes a smaller record, in case Kafka rejects one as too large."""


class WriterBatch:
    """A batch of one partition.

    Attributes:
        append: adds a record to the producer's own batch, `builder`; None if it is full.
        parts: done once all of its parts are acknowledged, if Kafka refused the batch as a whole.
    """

    __slots__ = ("append", "builder", "parts", "place")

    def __init__(self, place: Place, builder: Any) -> None:
        self.place = place
        self.builder = builder
        self.append = builder.append
        self.parts: asyncio.Future[object] | None = None

    @property
    def topic(self) -> str:
        """The topic of its records."""
        return self.place[0]

    def records(self) -> list[Outgoing]:
        """Its records once it was sent, read from its bytes, to be sent again."""
        topic, partition = self.place
        batch: Any = MemoryRecords(bytes(self.builder._build())).next_batch()
        return [Outgoing(topic, partition, found.key, found.value, found.headers) for found in batch]


class BatchWriter:
    """The record sink: collects records into a batch per partition, sends them, tracks acknowledgements.

    Args:
        refusals: what becomes of records that Kafka will never take; without it they fail as any other.
    """

    def __init__(self, producer: AIOKafkaProducer, refusals: Refusals | None = None) -> None:
        self._producer = producer
        self._refusals = refusals
        self._open: dict[Place, WriterBatch] = {}
        self._full: list[WriterBatch] = []
        self._most_bytes: dict[str, int] = {}
        self._in_flight: dict[asyncio.Future[object], WriterBatch] = {}
        self._singles: list[tuple[Outgoing, Fallback | None]] = []
        self._unacknowledged: set[asyncio.Future[object]] = set()
        self._failure: BaseException | None = None
        self._handing_over = asyncio.Lock()
        self.generation = 0
        """Number of resets: a snapshot of an earlier generation must not be written."""
        self.has_acknowledged = False
        """Whether Kafka has acknowledged something since the last reset."""

    @property
    def is_idle(self) -> bool:
        """Whether every batch is sent and acknowledged."""
        return not (self._open or self._full or self._unacknowledged)

    def append(
        self, topic: str, partition: int, key: bytes, value: bytes | None, headers: Headers = ()
    ) -> None:
        """Adds a record to its partition's batch; a tombstone has no value; `send` sends it."""
        place = (topic, partition)
        batch = self._open.get(place)
        # aiokafka's compiled builder accepts lists of headers only
        listed = list(headers) if headers else []
        if batch is None or (self._most_bytes and not self._has_room(batch, len(key) + len(value or b""))):
            batch = self._next_batch(place)
        if batch.append(key=key, value=value, timestamp=None, headers=listed) is None:
            batch = self._next_batch(place)
            batch.append(key=key, value=value, timestamp=None, headers=listed)

    def single(self, record: Outgoing, fallback: Fallback | None = None) -> None:
        """Adds one record of any kind; its fallback for the refusal is sent if Kafka will never take it."""
        self._singles.append((record, fallback))

    async def send(self) -> None:
        """Passes everything collected to the producer; waits only if too much is unacknowledged.

        Raises:
            SendError: Kafka did not accept a record, now or before; only `reset` clears this.
        """
        generation = self.generation
        async with self._handing_over:
            await self._hand_over(generation)
        if len(self._unacknowledged) > _MAX_UNACKNOWLEDGED:
            await self.until_acknowledged(generation)

    async def flush(self, generation: int | None = None) -> None:
        """Sends everything collected and waits until Kafka has acknowledged everything sent so far.

        Args:
            generation: the generation in which the caller's work began; by default the current one.

        Raises:
            SendError: a record was not acknowledged, or the writer was reset meanwhile.
        """
        generation = self.generation if generation is None else generation
        self._require(generation)
        await self.send()
        await self.until_acknowledged(generation)

    def reset(self) -> None:
        """Drops everything collected, sent and failed: the shards go back to their last checkpoint."""
        self._open, self._full, self._singles = {}, [], []
        self._unacknowledged = set()
        self._in_flight = {}
        self._failure = None
        self.has_acknowledged = False
        self.generation += 1

    def _has_room(self, batch: WriterBatch, size: int) -> bool:
        """Whether a batch may grow by this much, if batches of its topic have been too large."""
        most_bytes = self._most_bytes.get(batch.place[0])
        return most_bytes is None or batch.builder.size() + size <= most_bytes

    def _next_batch(self, place: Place) -> WriterBatch:
        full = self._open.get(place)
        if full is not None:
            self._full.append(full)
        self._open[place] = batch = WriterBatch(place, self._producer.create_batch())
        return batch

    async def _hand_over(self, generation: int) -> None:
        """Passes everything to the producer; ending early, even by cancellation, counts as a failure."""
        self._require(generation)
        batches, self._full = self._full, []
        batches += self._open.values()
        singles, self._singles = self._singles, []
        self._open = {}
        try:
            async with asyncio.timeout(_HAND_OVER_SECONDS):
                for batch in batches:
                    topic, partition = batch.place
                    sent = await self._producer.send_batch(batch.builder, topic, partition=partition)
                    self._require(generation)
                    self._in_flight[sent] = batch
                    self._track(sent)
            for record, fallback in singles:
                self._track(asyncio.ensure_future(self._send_single(record, fallback)))
        except (KafkaError, TimeoutError) as error:
            self._fail(generation, error)
            raise SendError(f"Kafka did not accept a batch ({in_words(error)})") from error
        except BaseException as error:
            self._fail(generation, error)
            raise

    async def until_acknowledged(self, generation: int) -> None:
        """Waits until Kafka has acknowledged everything passed to the producer so far.

        Raises:
            SendError: a record was not acknowledged, or the writer was reset meanwhile.
        """
        unacknowledged = set(self._unacknowledged)
        while unacknowledged:
            await asyncio.wait(unacknowledged)
            batches = [self._in_flight.get(sent) for sent in unacknowledged]
            unacknowledged = {batch.parts for batch in batches if batch is not None and batch.parts}
        self._require(generation)

    def _require(self, generation: int) -> None:
        if generation != self.generation:
            raise SendError("the shards were returned to their last checkpoint meanwhile")
        if self._failure is not None:
            raise SendError(
                f"Kafka did not acknowledge a record ({in_words(self._failure)})"
            ) from self._failure

    def _fail(self, generation: int, failure: BaseException) -> None:
        if generation == self.generation:
            self._failure = failure

    def _track(self, future: "asyncio.Future[object]") -> None:
        self._unacknowledged.add(future)
        future.add_done_callback(self._done)

    def _done(self, future: "asyncio.Future[object]") -> None:
        failure = asyncio.CancelledError() if future.cancelled() else future.exception()
        batch = self._in_flight.pop(future, None)
        if future not in self._unacknowledged:
            return
        self._unacknowledged.discard(future)
        self.has_acknowledged |= failure is None
        if batch is not None and isinstance(failure, KafkaError) and self._is_final(batch, failure):
            self._send_again_in_parts(future, batch, failure)
        else:
            self._failure = failure or self._failure

    def _is_final(self, batch: WriterBatch, failure: KafkaError) -> bool:
        return self._refusals is not None and self._refusals.is_final(batch.topic, failure)

    def _send_again_in_parts(
        self, future: "asyncio.Future[object]", batch: WriterBatch, failure: KafkaError
    ) -> None:
        if isinstance(failure, TOO_LARGE) and batch.builder.record_count() > 1:
            least = min(self._most_bytes.get(batch.topic, BATCH_BYTES), batch.builder.size() // 2)
            self._most_bytes[batch.topic] = least
        parts: asyncio.Future[object] = asyncio.ensure_future(self._send_parts(batch, failure))
        batch.parts = parts
        self._in_flight[future] = batch
        parts.add_done_callback(lambda _: self._in_flight.pop(future, None))
        self._track(parts)

    async def _send_parts(self, batch: WriterBatch, failure: KafkaError) -> None:
        async for record, error in send_in_parts(self._producer, batch.records(), failure):
            await self._give_up(record, error)

    async def _give_up(self, record: Outgoing, error: KafkaError) -> None:
        """Gives a refused record up, and sends what replaces it, until Kafka takes that or nothing does."""
        if self._refusals is None or not self._refusals.is_final(record.topic, error):
            raise error
        instead = self._refusals.give_up(record, error)
        if instead is not None:
            try:
                await send_alone(self._producer, instead)
            except KafkaError as next_error:
                await self._give_up(instead, next_error)

    async def _send_single(self, record: Outgoing, fallback: Fallback | None) -> None:
        try:
            await send_single(self._producer, record)
        except OF_RECORD + OF_TOPIC as error:
            if fallback is None or not isinstance(error, OF_RECORD):
                await self._give_up(record, error)
                return
            instead = fallback(error)
        else:
            return
        try:
            await send_alone(self._producer, instead)
        except KafkaError as error:
            await self._give_up(instead, error)


async def send_single(producer: AIOKafkaProducer, record: Outgoing) -> Any:
    """Sends one record and waits until Kafka has acknowledged it; returns its metadata.

    Raises:
        KafkaError: Kafka does not take it, not even as a batch of its own.
    """
    try:
        return await producer.send_and_wait(
            record.topic,
            value=record.value,
            key=record.key,
            partition=record.partition,
            headers=list(record.headers),
            timestamp_ms=record.timestamp_ms,
        )
    except OF_RECORD:  # perhaps for what was sent with it
        return await send_alone(producer, record)
