"""Replays dead letters: sends each event to its partition of `learner-rerouted`, with its original time.

1. decode: an event that this version cannot decode either stays a dead letter
2. send: the event is sent and acknowledged
3. confirm: no reshard has begun meanwhile, which might leave the event behind
4. mark: the dead letter is marked as replayed

A crash between 2 and 4 leaves it open. Replaying it again changes nothing: an event carries its own
time or its record's original one, so both copies are the same event.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from learner_worker.contract.decode import Finished, decode_event
from learner_worker.contract.facts import agent_of_key
from learner_worker.contract.topics import HOP_HEADER, EventKind, TopicName, TopicNames, in_first_layout
from learner_worker.errors import RecordError
from learner_worker.kafka.batching import send_single
from learner_worker.kafka.records import EVENT_KINDS, ORIGIN_HEADER, Outgoing
from learner_worker.kafka.splitting import OF_RECORD, TOO_LARGE
from learner_worker.operations.dead_letters import DeadLetter, DeadLetterId, Handled, mark
from learner_worker.refusals.denials import failure

_AT_ONCE = 200  # dead letters whose acknowledgements are awaited together
_AT_ONCE_BYTES = 4 * 1024 * 1024  # bounds their memory: one may have 1 MiB


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The result for one dead letter.

    Attributes:
        sent: the record that was or would be sent; None if it stays a dead letter.
        why: the reason why it stays, as a sentence.
        late: whether it may have no effect, because its auction may be forgotten.
    """

    id: DeadLetterId
    origin: str
    sent: Outgoing | None
    why: str = ""
    late: bool = False


class Replay:
    """Sends dead letters back to the learner.

    Args:
        partition_of: maps a task to its partition.
        late_before_ms: the auctions of bids and closes with older record times may be forgotten.
        confirm: raises an error if the topics have another layout than at the beginning.
    """

    def __init__(
        self,
        topics: TopicNames,
        partition_of: Callable[[str], int],
        *,
        late_before_ms: int = 0,
        confirm: Callable[[], Awaitable[None]],
    ) -> None:
        self._topics = topics
        self._partition_of = partition_of
        self._late_before_ms = late_before_ms
        self._confirm = confirm

    def judge(self, dead_letter: DeadLetter) -> ReplayResult:
        """Computes the result for a dead letter without sending it."""
        try:
            record, late = self._returned(dead_letter)
        except RecordError as error:
            return ReplayResult(dead_letter.id, dead_letter.origin, None, str(error))
        return ReplayResult(dead_letter.id, dead_letter.origin, record, late=late)

    async def run(
        self, dead_letters: AsyncIterator[DeadLetter], producer: AIOKafkaProducer
    ) -> AsyncIterator[ReplayResult]:
        """Sends dead letters back and marks them; yields the results, in order.

        Raises:
            BrokerError: Kafka did not accept a record; the results yielded before are complete.
            ReshardError: the topics are being resharded; so are they then.
        """
        async for chunk in _chunks(dead_letters):
            results = await self._send(chunk, producer)
            sent = [result.id for result in results if result.sent is not None]
            await self._confirm()
            await mark_all(producer, self._topics, sent, "replayed")
            for result in results:
                yield result

    async def _send(
        self, dead_letters: Sequence[DeadLetter], producer: AIOKafkaProducer
    ) -> list[ReplayResult]:
        results = [self.judge(dead_letter) for dead_letter in dead_letters]
        return list(await asyncio.gather(*(_send_one(result, producer) for result in results)))

    def _returned(self, dead_letter: DeadLetter) -> tuple[Outgoing, bool]:
        """The record that replays a dead letter, and whether it is late.

        Raises:
            RecordError: it cannot be replayed; the message says why.
        """
        if _same(dead_letter.topic, self._topics.outcomes) and dead_letter.reason == "refused":
            return self._refused_fact(dead_letter), False
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

    def _refused_fact(self, dead_letter: DeadLetter) -> Outgoing:
        if dead_letter.truncated_bytes is not None:
            raise RecordError(
                "truncated",
                f"only the first {dead_letter.value_bytes} of its {dead_letter.truncated_bytes} bytes were "
                "kept: have the events of its task sent again",
            )
        agent_id = agent_of_key(dead_letter.key)
        partition = dead_letter.partition if agent_id is None else self._partition_of(agent_id)
        return Outgoing(self._topics.outcomes, partition, dead_letter.key, dead_letter.value)

    def _kind(self, dead_letter: DeadLetter) -> EventKind:
        kind = self._topics.event_kind(dead_letter.topic)
        if kind is None and _same(dead_letter.topic, self._topics.rerouted):
            kind = EVENT_KINDS.get(dead_letter.hop or b"")
            if kind is None:
                raise RecordError("invalid", f"its header {HOP_HEADER} does not say which event it is")
        if kind is None:
            raise RecordError(
                "not-an-event", f"a record of {dead_letter.topic} is no event: it cannot be sent back"
            )
        return kind


def _same(origin: str, topic: TopicName) -> bool:
    """Whether a dead letter comes from a topic, or from the one that had its place in another layout."""
    return in_first_layout(origin) == in_first_layout(topic)


async def mark_all(
    producer: AIOKafkaProducer, topics: TopicNames, ids: Sequence[DeadLetterId], handled: Handled
) -> None:
    """Marks dead letters as handled.

    Raises:
        BrokerError: Kafka did not accept a mark.
    """
    mark_records = [mark(topics.dead_letters, one, handled) for one in ids]
    try:
        await asyncio.gather(*(send_single(producer, record) for record in mark_records))
    except (KafkaError, TimeoutError) as error:
        raise failure("Kafka did not accept a mark", error, "repeat the command, that is safe") from error


async def _send_one(result: ReplayResult, producer: AIOKafkaProducer) -> ReplayResult:
    if result.sent is None:
        return result
    try:
        await send_single(producer, result.sent)
    except TOO_LARGE:
        why = f"Kafka refuses it for its size: raise max.message.bytes of {result.sent.topic}"
        return ReplayResult(result.id, result.origin, None, why)
    except OF_RECORD as error:
        why = f"Kafka refuses it ({type(error).__name__}): change the limits of {result.sent.topic}"
        return ReplayResult(result.id, result.origin, None, why)
    except (KafkaError, TimeoutError) as error:
        raise failure("Kafka did not accept a record", error, "repeat the command, that is safe") from error
    return result


async def _chunks(dead_letters: AsyncIterator[DeadLetter]) -> AsyncIterator[list[DeadLetter]]:
    """Splits dead letters into chunks that are sent together, bounded in number and memory."""
    chunk: list[DeadLetter] = []
    async for dead_letter in dead_letters:
        chunk.append(dead_letter)
        if len(chunk) >= _AT_ONCE or sum(held.value_bytes for held in chunk) >= _AT_ONCE_BYTES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
