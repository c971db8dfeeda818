"""Sends dead letters back: each event to its right partition of `learner-rerouted`, at its original time.

1. decode: what this version cannot read either stays a dead letter
2. send: the event, until Kafka has acknowledged it
3. mark: the dead letter as replayed

A crash between 2 and 3 leaves it open. Replayed again it changes nothing: an event carries its own
time or its record's original one, so both copies are the same event.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from learner_worker.contract.decode import Finished, decode_event
from learner_worker.contract.topics import HOP_HEADER, EventKind, TopicNames
from learner_worker.errors import BrokerError, RecordError
from learner_worker.kafka.batching import send_single
from learner_worker.kafka.records import EVENT_KINDS, ORIGIN_HEADER, Outgoing
from learner_worker.operations.dead_letters import DeadLetter, DeadLetterId, Handled, mark

_AT_ONCE = 200  # dead letters whose acknowledgements are awaited together
_AT_ONCE_BYTES = 4 * 1024 * 1024  # or as many as this much memory holds: one may have 1 MiB


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What became of a dead letter.

    Attributes:
        sent: the record that went back, or would go; None if it stays a dead letter.
        why: the reason it stays, a sentence.
        late: it may count for nothing, because its auction may be forgotten.
    """

    id: DeadLetterId
    origin: str
    sent: Outgoing | None
    why: str = ""
    late: bool = False


class Replay:
    """Returns dead letters to the learner.

    Args:
        partition_of: a task's partition.
        late_before_ms: bids and closes of older record times may find their auction forgotten.
    """

    def __init__(
        self, topics: TopicNames, partition_of: Callable[[str], int], *, late_before_ms: int = 0
    ) -> None:
        self._topics = topics
        self._partition_of = partition_of
        self._late_before_ms = late_before_ms

    def judge(self, dead_letter: DeadLetter) -> ReplayResult:
        """What would become of a dead letter. Sends nothing."""
        try:
            record, late = self._returned(dead_letter)
        except RecordError as error:
            return ReplayResult(dead_letter.id, dead_letter.origin, None, str(error))
        return ReplayResult(dead_letter.id, dead_letter.origin, record, late=late)

    async def run(
        self, dead_letters: AsyncIterator[DeadLetter], producer: AIOKafkaProducer
    ) -> AsyncIterator[ReplayResult]:
        """Sends dead letters back and marks them; yields what became of each, in order.

        Raises:
            BrokerError: Kafka did not take something; what was yielded before is done.
        """
        async for chunk in _chunks(dead_letters):
            results = await self._send(chunk, producer)
            sent = [result.id for result in results if result.sent is not None]
            await mark_all(producer, self._topics, sent, "replayed")
            for result in results:
                yield result

    async def _send(
        self, dead_letters: Sequence[DeadLetter], producer: AIOKafkaProducer
    ) -> list[ReplayResult]:
        results = [self.judge(dead_letter) for dead_letter in dead_letters]
        return list(await asyncio.gather(*(_send_one(result, producer) for result in results)))

    def _returned(self, dead_letter: DeadLetter) -> tuple[Outgoing, bool]:
        """The record that brings a dead letter's event back, and whether it is late.

        Raises:
            RecordError: it cannot come back; the message says why.
        """
        kind = self._kind(dead_letter)
        if dead_letter.truncated_bytes is not None:
            raise RecordError(
                "truncated",
                f"only the first {dead_letter.value_bytes} of its {dead_letter.truncated_bytes} bytes "
                "were kept: have its publisher send it again",
            )
        event = decode_event(kind, dead_letter.value)
        record = Outgoing(
            self._topics.rerouted,
            self._partition_of(event.task_id),
            dead_letter.key,
            dead_letter.value,
            [*dead_letter.headers, (HOP_HEADER, kind.encode()), (ORIGIN_HEADER, dead_letter.origin.encode())],
            max(dead_letter.original_ms, 0),
        )
        late = not isinstance(event, Finished) and dead_letter.original_ms < self._late_before_ms
        return record, late

    def _kind(self, dead_letter: DeadLetter) -> EventKind:
        kind = self._topics.event_kind(dead_letter.topic)
        if kind is None and dead_letter.topic == self._topics.rerouted:
            kind = EVENT_KINDS.get(dead_letter.hop or b"")
            if kind is None:
                raise RecordError("invalid", f"its header {HOP_HEADER} does not say which event it is")
        if kind is None:
            raise RecordError(
                "not-an-event", f"a record of {dead_letter.topic} is no event: it cannot be sent back"
            )
        return kind


async def mark_all(
    producer: AIOKafkaProducer, topics: TopicNames, ids: Sequence[DeadLetterId], handled: Handled
) -> None:
    """Marks dead letters as handled.

    Raises:
        BrokerError: Kafka did not take a mark.
    """
    mark_records = [mark(topics.dead_letters, one, handled) for one in ids]
    try:
        await asyncio.gather(*(send_single(producer, record) for record in mark_records))
    except (KafkaError, TimeoutError) as error:
        raise BrokerError(
            f"Kafka did not accept a mark ({error!r}): repeat the command, that is safe"
        ) from error


async def _send_one(result: ReplayResult, producer: AIOKafkaProducer) -> ReplayResult:
    if result.sent is None:
        return result
    try:
        await send_single(producer, result.sent)
    except MessageSizeTooLargeError:
        why = f"Kafka refuses it for its size: raise max.message.bytes of {result.sent.topic}"
        return ReplayResult(result.id, result.origin, None, why)
    except (KafkaError, TimeoutError) as error:
        raise BrokerError(
            f"Kafka did not accept a record ({error!r}): repeat the command, that is safe"
        ) from error
    return result


async def _chunks(dead_letters: AsyncIterator[DeadLetter]) -> AsyncIterator[list[DeadLetter]]:
    """Letters a few at a time: one acknowledgement for many, and memory for few."""
    chunk: list[DeadLetter] = []
    async for dead_letter in dead_letters:
        chunk.append(dead_letter)
        if len(chunk) >= _AT_ONCE or sum(held.value_bytes for held in chunk) >= _AT_ONCE_BYTES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
