"""Sends replies to Kafka: those of a partition in batches, one after the other."""

import asyncio
import functools
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from learner_worker.kafka.records import Outgoing, size_of
from learner_worker.kafka.splitting import OF_RECORD, send_in_parts
from learner_worker.observability import RequestInstruments
from learner_worker.requests.clock import Clock
from learner_worker.requests.reply_places import ReplyPlaces
from learner_worker.requests.request import ReceivedRequest

_MAX_UNSENT = 5_000
"""More than twice the queue's limit, so that answering stops only if Kafka does not accept replies."""
_MAX_UNSENT_BYTES = 64 * 1024 * 1024
"""Of the requests whose replies are unsent: they are held until then, and their headers may be long."""
UNSENT = "UNSENT"
"""What a request is counted as whose reply Kafka did not take, or did not acknowledge."""
_log = structlog.get_logger("learner_worker.requests")

Place = tuple[str, int]
"""A topic and a partition."""


@dataclass(slots=True)
class ReplyBatch:
    """Records of one partition, and the requests that they reply to."""

    builder: Any
    requests: list[ReceivedRequest] = field(default_factory=list)
    records: list[Outgoing] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    request_bytes: int = 0

    def append(self, request: ReceivedRequest, record: Outgoing, code: str) -> bool:
        """Adds a record if it fits, and returns whether it does; an empty batch takes any."""
        added = self.builder.append(
            key=record.key, value=record.value, timestamp=None, headers=list(record.headers)
        )
        if added is None:
            return False
        self.requests.append(request)
        self.records.append(record)
        self.codes.append(code)
        return True


class ReplyBatches:
    """Collects replies and sends each partition's in batches.

    While a batch is in flight the next one fills, so batches grow with load.

    Args:
        producer: writes the batches.
        places: finds the partition of a record.
        instruments: count each request when Kafka has its reply, and observe how long that took.
        clock: tells the time of the acknowledgement.
    """

    def __init__(
        self, producer: AIOKafkaProducer, places: ReplyPlaces, instruments: RequestInstruments, clock: Clock
    ) -> None:
        self._producer = producer
        self._places = places
        self._answer_seconds = instruments.answer_seconds
        self._requests_of = functools.cache(instruments.by_code.labels)
        self._clock = clock
        self._pending: dict[Place, list[ReplyBatch]] = {}
        self._senders: dict[Place, asyncio.Task[None]] = {}
        self._unsent = self._unsent_bytes = 0
        self._moved_at = clock.monotonic()

    @property
    def standing_seconds(self) -> float:
        """Seconds since a batch last ended, while some are in flight; otherwise 0.0."""
        return self._clock.monotonic() - self._moved_at if self._senders else 0.0

    @property
    def is_full(self) -> bool:
        """Whether so many replies are unsent that no more should be made."""
        return self._unsent >= _MAX_UNSENT or self._unsent_bytes >= _MAX_UNSENT_BYTES

    def add(self, request: ReceivedRequest, record: Outgoing, code: str) -> None:
        """Adds a reply to a known place; the next `send` sends it.

        Args:
            code: what the request is counted as when Kafka has the reply.
        """
        place = (record.topic, self._places.partition_of(record))
        batches = self._pending.setdefault(place, [])
        record = record._replace(partition=place[1])
        if not batches or not batches[-1].append(request, record, code):
            batches.append(ReplyBatch(self._producer.create_batch()))
            batches[-1].append(request, record, code)
        self._unsent += 1
        request_bytes = size_of(request.record)
        batches[-1].request_bytes += request_bytes
        self._unsent_bytes += request_bytes

    def send(self) -> None:
        """Starts sending what was added."""
        if not self._senders:
            self._moved_at = self._clock.monotonic()
        for place in self._pending:
            if place not in self._senders:
                task = asyncio.create_task(self._send_all(place), name="send-replies")
                self._senders[place] = task

    async def wait_for_room(self) -> None:
        """Waits until some of the replies in flight are acknowledged or have failed."""
        if self._senders:
            await asyncio.wait(self._senders.values(), return_when=asyncio.FIRST_COMPLETED)

    async def finish(self, seconds: float) -> None:
        """Sends everything and waits up to `seconds` for Kafka."""
        self.send()
        if self._senders:
            await asyncio.wait(self._senders.values(), timeout=seconds)

    async def _send_all(self, place: Place) -> None:
        try:
            while batches := self._pending.get(place):
                await self._send(place, batches.pop(0))
        finally:
            del self._senders[place]
            if not self._pending.get(place):
                self._pending.pop(place, None)

    async def _send(self, place: Place, batch: ReplyBatch) -> None:
        topic, partition = place
        unsent: Collection[int] = range(len(batch.records))
        try:
            sent = await self._producer.send_batch(batch.builder, topic, partition=partition)
            await sent
            unsent = ()
        except OF_RECORD as error:
            unsent = await self._send_parts(batch, error)
        except (KafkaError, TimeoutError) as error:
            # The deadlines have passed by the time this gives up, so these requests count as finished, too.
            _log.warning("replies.not_sent", topic=topic, replies=len(batch.requests), error=repr(error))
            self._places.forget(topic)
        finally:
            self._moved_at = self._clock.monotonic()
            self._unsent -= len(batch.requests)
            self._unsent_bytes -= batch.request_bytes
            self._finish(batch, unsent)

    async def _send_parts(self, batch: ReplyBatch, error: KafkaError) -> Collection[int]:
        """Sends a refused batch in parts: a reply that its topic never takes keeps no other one back.

        Returns:
            Which replies were not sent, or may not have been.
        """
        refused: set[int] = set()
        numbers = {id(record): number for number, record in enumerate(batch.records)}
        try:
            async for record, refusal in send_in_parts(self._producer, batch.records, error):
                refused.add(numbers[id(record)])
                _log.error(
                    "reply.refused",
                    topic=record.topic,
                    partition=record.partition,
                    bytes=len(record.value or b""),
                    reason=type(refusal).__name__,
                )
        except (KafkaError, TimeoutError) as failure:
            _log.warning("replies.not_sent", topic=batch.records[0].topic, error=repr(failure))
            return range(len(batch.records))
        return refused

    def _finish(self, batch: ReplyBatch, unsent: Collection[int]) -> None:
        now_ms = self._clock.now() / 1000
        for number, (request, code) in enumerate(zip(batch.requests, batch.codes, strict=True)):
            end = UNSENT if number in unsent else code
            self._requests_of(end).inc()
            if end is not UNSENT:
                self._answer_seconds.observe(max(0.0, now_ms - request.record.timestamp) / 1000)
            request.finish(end)
