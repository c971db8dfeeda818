"""Writes records in batches, and tracks which ones Kafka has acknowledged."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from learner_worker.errors import SendError
from learner_worker.kafka.records import Headers, Outgoing

BATCH_BYTES = 64 * 1024  # some hundred facts: the cost of a batch is spread over many records
_MAX_UNACKNOWLEDGED = 256  # batches and single records: bounds memory to some 16 MB
_HAND_OVER_SECONDS = 20.0  # a full producer drains sooner unless Kafka is unreachable

Fallback = Callable[[], Outgoing]
"""Makes a smaller record, in case Kafka rejects one as too large."""


class BatchWriter:
    """The record sink: collects records into a batch per partition, sends them, tracks acknowledgements."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._open: dict[tuple[str, int], Any] = {}
        self._full: list[tuple[str, int, Any]] = []
        self._singles: list[tuple[Outgoing, Fallback | None]] = []
        self._unacknowledged: set[asyncio.Future[object]] = set()
        self._failure: BaseException | None = None
        self._handing_over = asyncio.Lock()
        self.generation = 0
        """Number of resets: a snapshot of an earlier generation must not be written."""

    @property
    def is_idle(self) -> bool:
        """Whether every batch is sent and acknowledged."""
        return not (self._open or self._full or self._unacknowledged)

    def append(
        self, topic: str, partition: int, key: bytes, value: bytes | None, headers: Headers = ()
    ) -> None:
        """Adds a record to its partition's batch; a tombstone has no value; `send` sends it."""
        place = (topic, partition)
        listed = list(headers) if headers else []  # aiokafka's compiled builder accepts lists only
        batch = self._open.get(place)
        if batch is None or batch.append(key=key, value=value, timestamp=None, headers=listed) is None:
            if batch is not None:
                self._full.append((topic, partition, batch))
            batch = self._open[place] = self._producer.create_batch()
            batch.append(key=key, value=value, timestamp=None, headers=listed)

    def single(self, record: Outgoing, fallback: Fallback | None = None) -> None:
        """Adds one record of any kind; if Kafka rejects it as too large, its fallback is sent instead."""
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
        self._failure = None
        self.generation += 1

    async def _hand_over(self, generation: int) -> None:
        """Passes everything to the producer; ending early, even by cancellation, counts as a failure."""
        self._require(generation)
        batches, self._full = self._full, []
        batches += [(topic, partition, batch) for (topic, partition), batch in self._open.items()]
        singles, self._singles = self._singles, []
        self._open = {}
        try:
            async with asyncio.timeout(_HAND_OVER_SECONDS):
                for topic, partition, batch in batches:
                    sent = await self._producer.send_batch(batch, topic, partition=partition)
                    self._require(generation)
                    self._track(sent)
            for record, fallback in singles:
                self._track(asyncio.ensure_future(self._send_single(record, fallback)))
        except (KafkaError, TimeoutError) as error:
            self._fail(generation, error)
            raise SendError(f"Kafka did not accept a batch: {error!r}") from error
        except BaseException as error:
            self._fail(generation, error)
            raise

    async def until_acknowledged(self, generation: int) -> None:
        """Waits until Kafka has acknowledged everything passed to the producer so far.

        Raises:
            SendError: a record was not acknowledged, or the writer was reset meanwhile.
        """
        unacknowledged = list(self._unacknowledged)
        if unacknowledged:
            await asyncio.wait(unacknowledged)
        self._require(generation)

    def _require(self, generation: int) -> None:
        if generation != self.generation:
            raise SendError("the shards were returned to their last checkpoint meanwhile")
        if self._failure is not None:
            raise SendError(f"Kafka did not acknowledge a record: {self._failure!r}") from self._failure

    def _fail(self, generation: int, failure: BaseException) -> None:
        if generation == self.generation:
            self._failure = failure

    def _track(self, future: "asyncio.Future[object]") -> None:
        self._unacknowledged.add(future)
        future.add_done_callback(self._done)

    def _done(self, future: "asyncio.Future[object]") -> None:
        failure = asyncio.CancelledError() if future.cancelled() else future.exception()
        if future in self._unacknowledged:
            self._unacknowledged.discard(future)
            self._failure = failure or self._failure

    async def _send_single(self, record: Outgoing, fallback: Fallback | None) -> None:
        try:
            await send_single(self._producer, record)
        except MessageSizeTooLargeError:
            if fallback is None:
                raise
            await send_single(self._producer, fallback())


async def send_single(producer: AIOKafkaProducer, record: Outgoing) -> None:
    """Sends one record and waits until Kafka has acknowledged it."""
    await producer.send_and_wait(
        record.topic,
        value=record.value,
        key=record.key,
        partition=record.partition,
        headers=list(record.headers),
        timestamp_ms=record.timestamp_ms,
    )
