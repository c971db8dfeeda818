"""What Kafka never takes: found in its batch, named, given up or kept elsewhere, and nothing else with it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    TopicAuthorizationFailedError,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from structlog.testing import capture_logs

from learner_worker.contract.facts import Fact, ForgetMarker, Result, encode_fact
from learner_worker.contract.fields import AgentId, ShardId, TaskId
from learner_worker.contract.headers import Headers
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName, Topics
from learner_worker.errors import SendError
from learner_worker.kafka.batching import BatchWriter
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.records import Outgoing
from learner_worker.kafka.refused_records import Refusals
from learner_worker.observability import Instruments
from learner_worker.operations.forget import Forgetting
from learner_worker.requests.advisor import AdviceLog
from tests.unit.test_changelog_replay import Read

NAMES = Topics().named()
ADVICE = TopicName("learner-advice")
FACTS = [Fact(TaskId(f"t{number}"), AgentId("a"), result=Result(Micros(20), True)) for number in range(30)]
FINAL = [MessageSizeTooLargeError, PolicyViolationError, InvalidTimestampError]
Judge = Callable[[str, list[Outgoing]], KafkaError | None]


class JudgedBatch(BatchBuilder):  # type: ignore[misc]
    """A batch of aiokafka of up to 64 KiB, whose records a broker judges."""

    def __init__(self) -> None:
        super().__init__(2**16, 0)
        self.records: list[Outgoing] = []

    def append(
        self, *, key: bytes | None, value: bytes | None, timestamp: int | None, headers: Headers = ()
    ) -> object | None:
        added: object | None = super().append(
            key=key, value=value, timestamp=timestamp, headers=list(headers)
        )
        if added is not None:
            self.records.append(Outgoing("", 0, key, value, headers, timestamp))
        return added


class JudgedProducer:
    """A producer whose broker takes a batch or refuses it as a whole."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.taken: list[tuple[str, bytes | None, bytes | None]] = []
        self.refused = 0

    def create_batch(self) -> JudgedBatch:
        return JudgedBatch()

    async def send_batch(
        self, batch: JudgedBatch, topic: str, *, partition: int
    ) -> "asyncio.Future[SimpleNamespace]":
        assert partition in {0, 1}
        answer = asyncio.get_running_loop().create_future()
        error = self.judge(topic, batch.records)
        if error is None:
            self.taken += [(topic, record.key, record.value) for record in batch.records]
            answer.set_result(SimpleNamespace(offset=len(self.taken) - 1))
        else:
            self.refused += 1
            answer.set_exception(error)
        return answer

    async def send_and_wait(
        self, topic: str, *, value: bytes, key: bytes | None, **_: object
    ) -> SimpleNamespace:
        batch = self.create_batch()
        batch.append(key=key, value=value, timestamp=None, headers=[])
        return await (await self.send_batch(batch, topic, partition=0))

    async def partitions_for(self, _topic: str) -> set[int]:
        return {0, 1}


def size(records: list[Outgoing]) -> int:
    """The bytes of some records."""
    return sum(len(record.key or b"") + len(record.value or b"") for record in records)


def at_most(most: int, topic: str = NAMES.outcomes) -> Judge:
    """A broker whose topic takes batches of so many bytes."""
    return lambda to, records: MessageSizeTooLargeError() if to == topic and size(records) > most else None


def writer_to(producer: JudgedProducer) -> tuple[BatchWriter, Instruments]:
    """A writer as in a worker, and its metrics."""
    instruments = Instruments()
    of_shards = instruments.shards
    refusals = Refusals(NAMES, of_shards.records_refused, of_shards.dead_letters)
    return BatchWriter(producer, refusals), instruments


def counted(instruments: Instruments, topic: str) -> float:
    """How many records of a topic are counted as refused."""
    return instruments.registry.get_sample_value("learner_records_refused_total", {"topic": topic}) or 0.0


async def test_batches_that_are_too_large_are_split_until_all_records_are_taken() -> None:
    """Small facts reach a topic that takes less than a batch; later batches are small from the start."""
    producer = JudgedProducer(at_most(5_000))
    writer, instruments = writer_to(producer)
    for turn in range(3):
        for number in range(500):
            writer.append(NAMES.outcomes, number % 2, f"{turn} {number}".encode(), b"f" * 100)
        await writer.flush()
    assert len({key for _, key, _ in producer.taken}) == len(producer.taken) == 1_500
    assert counted(instruments, NAMES.outcomes) == 0
    first = producer.refused
    writer.append(NAMES.outcomes, 0, b"next", b"f" * 100)
    await writer.flush()
    assert (producer.refused, first < 60) == (first, True)


@pytest.mark.parametrize("error", FINAL)
async def test_a_fact_that_is_never_taken_becomes_a_dead_letter_and_no_other_fact_with_it(
    error: type[KafkaError],
) -> None:
    """One of a hundred facts is refused alone: it is named, counted and kept whole as a dead letter."""

    def judge(topic: str, records: list[Outgoing]) -> KafkaError | None:
        bad = any(record.value == b"bad" * 1_000 for record in records)
        return error() if bad and topic == NAMES.outcomes else None

    producer = JudgedProducer(judge)
    writer, instruments = writer_to(producer)
    for number in range(100):
        writer.append(NAMES.outcomes, 0, str(number).encode(), b"bad" * 1_000 if number == 41 else b"good")
    with capture_logs() as lines:
        await writer.flush()
    facts = sorted(int(key) for topic, key, _ in producer.taken if topic == NAMES.outcomes and key)
    assert facts == [number for number in range(100) if number != 41]
    assert [one for one in producer.taken if one[0] == NAMES.dead_letters] == [
        (NAMES.dead_letters, b"41", b"bad" * 1_000)
    ]
    assert counted(instruments, NAMES.outcomes) == 1
    assert instruments.registry.get_sample_value("learner_dead_letters_total", {"reason": "refused"}) == 1
    [line] = [line for line in lines if line["event"] == "record.refused"]
    assert (line["topic"], line["key"], line["bytes"]) == (NAMES.outcomes, "41", 3_002)
    assert line["reason"] == error.__name__


@pytest.mark.parametrize("error", FINAL)
async def test_a_metrics_record_that_is_never_taken_is_lost_alone(error: type[KafkaError]) -> None:
    """The next change writes it again: it is counted, and every other record is acknowledged."""
    producer = JudgedProducer(
        lambda _, records: error() if any(record.value == b"bad" for record in records) else None
    )
    writer, instruments = writer_to(producer)
    for number in range(100):
        writer.append(NAMES.metrics, 0, str(number).encode(), b"bad" if number == 41 else b"good")
    writer.append(NAMES.outcomes, 0, b"fact", b"fact")
    await writer.flush()
    metrics = sorted(int(key) for topic, key, _ in producer.taken if topic == NAMES.metrics and key)
    assert metrics == [number for number in range(100) if number != 41]
    assert {topic for topic, *_ in producer.taken} == {NAMES.metrics, NAMES.outcomes}
    assert counted(instruments, NAMES.metrics) == 1


@pytest.mark.parametrize("error", FINAL)
async def test_a_moved_event_that_is_never_taken_becomes_its_fallback(error: type[KafkaError]) -> None:
    """Whatever the refusal is of: the dead letter is sent, and the flush goes on."""
    producer = JudgedProducer(lambda topic, _: error() if topic == NAMES.rerouted else None)
    writer, _ = writer_to(producer)
    moved = Outgoing(NAMES.rerouted, 1, b"task", b"event", timestamp_ms=0)

    def instead(refusal: KafkaError) -> Outgoing:
        return Outgoing(NAMES.dead_letters, 1, b"task", type(refusal).__name__.encode())

    writer.single(moved, instead)
    await writer.flush()
    assert producer.taken == [(NAMES.dead_letters, b"task", error.__name__.encode())]


async def test_a_dead_letter_that_is_too_large_is_shortened_until_it_is_taken() -> None:
    """Neither whole nor with its first 64 KiB, but with its first KiB and its size."""
    producer = JudgedProducer(at_most(5_000, NAMES.dead_letters))
    writer, instruments = writer_to(producer)
    dead = Outgoing(NAMES.dead_letters, None, b"k", b"v" * 100_000, [("learner-reason", b"invalid")])
    writer.single(dead, lambda _: dead._replace(value=b"v" * 65_536))
    await writer.flush()
    assert producer.taken == [(NAMES.dead_letters, b"k", b"v" * 1_024)]
    assert counted(instruments, NAMES.dead_letters) == 1


async def test_a_missing_right_to_side_topics_does_not_hold_up_facts() -> None:
    """Metrics records and dead letters that may not be written are counted; facts are acknowledged."""
    denied = {NAMES.metrics, NAMES.dead_letters}
    producer = JudgedProducer(
        lambda topic, _: TopicAuthorizationFailedError(topic) if topic in denied else None
    )
    writer, instruments = writer_to(producer)
    writer.append(NAMES.metrics, 0, b"agent", b"metrics")
    writer.single(Outgoing(NAMES.dead_letters, None, b"k", b"v"))
    writer.append(NAMES.outcomes, 0, b"fact", b"fact")
    await writer.flush()
    assert producer.taken == [(NAMES.outcomes, b"fact", b"fact")]
    assert [counted(instruments, topic) for topic in sorted(denied)] == [1, 1]


@pytest.mark.parametrize("error", [KafkaTimeoutError(), TopicAuthorizationFailedError(NAMES.outcomes)])
async def test_what_kafka_may_take_later_is_not_given_up(error: KafkaError) -> None:
    """No answer, or no right to the changelog: the flush fails, so that the shards go back and try again."""
    producer = JudgedProducer(lambda *_: error)
    writer, instruments = writer_to(producer)
    writer.append(NAMES.outcomes, 0, b"fact", b"fact")
    with pytest.raises(SendError):
        await writer.flush()
    assert counted(instruments, NAMES.outcomes) == 0


async def test_a_failure_while_a_batch_is_split_is_a_failure() -> None:
    """Kafka goes away between two parts: the flush fails, and nothing is taken for acknowledged."""
    answers = iter([MessageSizeTooLargeError(), None, KafkaTimeoutError()])
    writer, _ = writer_to(JudgedProducer(lambda *_: next(answers)))
    for number in range(4):
        writer.append(NAMES.outcomes, 0, str(number).encode(), b"fact")
    with pytest.raises(SendError):
        await writer.flush()


async def test_advice_that_is_refused_keeps_no_other_advice_out_of_the_log() -> None:
    """A batch that its topic does not take goes in parts: one record is lost and counted, no other."""
    producer, instruments = JudgedProducer(at_most(400, ADVICE)), Instruments()
    log = AdviceLog(cast("Any", producer), ADVICE, instruments.requests.advice_lost)
    for number in range(50):
        log.add(ShardId(0), (str(number).encode(), b"a" * (1_000 if number == 7 else 100)))
    await log.finish(5)
    assert sorted(int(key or b"") for _, key, _ in producer.taken) == [n for n in range(50) if n != 7]
    assert instruments.registry.get_sample_value("learner_advice_lost_total") == 1


class Changelog:
    """A changelog partition with some facts of one agent."""

    async def range_of(self, _partition: TopicPartition) -> OffsetRange:
        return OffsetRange(0, len(FACTS))

    async def records(self, _partition: TopicPartition, _offsets: OffsetRange) -> AsyncIterator[list[Read]]:
        yield [Read(offset, value, key=key) for offset, (key, value) in enumerate(map(encode_fact, FACTS))]


async def test_a_forget_sends_alone_what_is_refused_with_its_batch() -> None:
    """The topic takes less than a batch: the marker and each tombstone are there all the same."""
    tried = set[bytes | None]()

    def judge(_topic: str, records: list[Outgoing]) -> KafkaError | None:
        keys = {record.key for record in records}
        if keys <= tried:
            return None
        tried.update(keys)
        return MessageSizeTooLargeError()

    producer = JudgedProducer(judge)
    marker = ForgetMarker(AgentId("a"), Micros(99))
    forgetting = Forgetting(marker, NAMES, ShardId(0), cast("Any", Changelog()))
    await forgetting.write_marker(cast("Any", producer))
    assert forgetting.offset == 0
    assert await forgetting.tombstone_superseded(cast("Any", producer)) == len(FACTS)
    gone = {key for _, key, value in producer.taken if value is None}
    assert gone == {encode_fact(fact)[0] for fact in FACTS}
