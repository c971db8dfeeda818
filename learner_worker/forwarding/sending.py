"""Sends requests from agents' own topics to the shared one, each with a token."""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer
from prometheus_client import Counter

from learner_worker.contract.decode import decode_request
from learner_worker.contract.headers import AUTHORIZATION, DEADLINE_HEADER
from learner_worker.contract.times import Micros, format_time, record_micros
from learner_worker.contract.topics import TopicName
from learner_worker.errors import RequestError
from learner_worker.forwarding.tokens import TopicTokens
from learner_worker.kafka.batching import send_single
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.records import Outgoing, Record
from learner_worker.kafka.splitting import OF_RECORD
from learner_worker.requests.admission import deadline_of
from learner_worker.requests.clock import Clock

RESULTS: Final = ("forwarded", "expired", "refused")
"""What becomes of a request; one is refused if Kafka will never take it, as if it is too large."""
_KAFKA_SECONDS = 30.0  # aiokafka itself retries a request without a limit
_MICROS = 1_000_000  # microseconds in a second
_log = structlog.get_logger("learner_worker.forwarding")


class RequestSender:
    """Sends requests on, and counts them by topic and result.

    Args:
        requests: the shared topic.
        ttl_seconds: how long a request may be answered after it was written.
    """

    def __init__(
        self,
        *,
        producer: AIOKafkaProducer,
        requests: TopicName,
        ttl_seconds: float,
        tokens: TopicTokens,
        counts: Counter,
        clock: Clock,
    ) -> None:
        self._producer = producer
        self._requests = requests
        self._ttl_micros = round(ttl_seconds * _MICROS)
        self._tokens = tokens
        self._counts = counts
        self._clock = clock

    async def send(self, records: Sequence[Record]) -> None:
        """Sends requests on, all at the same time.

        Raises:
            KafkaError: Kafka has not acknowledged one of them.
        """
        if not records:
            return
        async with asyncio.timeout(_KAFKA_SECONDS):
            partitions = len(await self._producer.partitions_for(self._requests))
        sending = (self._send(record, partitions) for record in records)
        ended = await asyncio.gather(*sending, return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    async def _send(self, record: Record, partitions: int) -> None:
        now, topic = self._clock.now(), TopicName(record.topic)
        outgoing = forwarded(
            record,
            self._tokens.authorization(topic, now // _MICROS),
            topic=self._requests,
            partitions=partitions,
            ttl_micros=self._ttl_micros,
            now=now,
        )
        result = "expired"
        if outgoing is not None:
            result = await self._sent(outgoing)
        self._counts.labels(topic, result).inc()

    async def _sent(self, outgoing: Outgoing) -> str:
        try:
            await send_single(self._producer, outgoing)
        except OF_RECORD as error:
            size = len(outgoing.value or b"")
            _log.error("record.refused", topic=outgoing.topic, bytes=size, reason=type(error).__name__)
            return "refused"
        return "forwarded"


def forwarded(
    record: Record, authorization: bytes, *, topic: TopicName, partitions: int, ttl_micros: int, now: Micros
) -> Outgoing | None:
    """The record for the shared topic; None once nobody waits for its reply.

    It keeps its key, its value and its headers, by which convention ever they name the reply's address, but
    for a token and the deadline: its time to live counts from when the agent wrote it. What is no request
    is forwarded, too: a worker answers it as any other.
    """
    headers = [item for item in record.headers if item[0].lower() != AUTHORIZATION]
    headers.append((AUTHORIZATION, authorization))
    value = b"" if record.key is None and record.value is None else record.value  # a record needs one of them
    try:
        request = decode_request(record.value)
        deadline = deadline_of(record, request, ttl_micros)
    except RequestError:
        expired = now > record_micros(record.timestamp) + ttl_micros
        return None if expired else Outgoing(topic, None, record.key, value, headers)
    if now > deadline:
        return None
    headers = [item for item in headers if item[0] != DEADLINE_HEADER]
    headers.append((DEADLINE_HEADER, format_time(deadline).encode()))
    return Outgoing(topic, partitioner(partitions)(request.agent_id), record.key, value, headers)
