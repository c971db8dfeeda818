"""What becomes of an event: settled, rerouted once, or a dead letter; and of the shard's position."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
)

from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.topics import HOP_HEADER, TopicName
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.observability import Instruments
from learner_worker.shard.shard import Shard
from tests.simulation.log import Entry
from tests.support.shards import NEW, SHARD, TOPICS, RecordingSink, opened_file, shard_context

CLOSE = b'{"task_id": "%s", "winner_agent_id": "a", "winning_bid_sats": 5}'
HERE, ELSEWHERE = b"here", b"elsewhere"


def partition_of(task_or_agent: str) -> int:
    return SHARD + 1 if task_or_agent == "elsewhere" else SHARD


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def instruments() -> Instruments:
    return Instruments()


@pytest.fixture
async def shard(sink: RecordingSink, instruments: Instruments, tmp_path: Path) -> AsyncIterator[Shard]:
    file = await opened_file(tmp_path)
    shard = await Shard.open(SHARD, shard_context(sink, instruments, partition_of), file, NEW)
    yield shard
    await shard.close()


def close_of(task_id: bytes, topic: TopicName = TOPICS.auction_closed, hop: bytes | None = None) -> Entry:
    headers = [] if hop is None else [(HOP_HEADER, hop)]
    return Entry(topic, SHARD, 7, 1_000, None, CLOSE % task_id, headers)


async def test_an_event_of_this_shard_is_settled(shard: Shard, sink: RecordingSink) -> None:
    """Its fact is sent, its task is remembered, the position moves; nothing else is written."""
    await shard.process(TOPICS.auction_closed, [close_of(HERE)])
    assert [(fact.task_id, fact.agent_id) for fact in sink.facts] == [(TaskId("here"), AgentId("a"))]
    assert (shard.events.settle.remembered, shard.positions[TOPICS.auction_closed]) == (1, 8)
    assert sink.singles == []


async def test_an_event_far_from_its_record_time_is_settled_and_counted(
    shard: Shard, sink: RecordingSink, instruments: Instruments
) -> None:
    """Of three closes the one whose own time is further than the horizon, but not one without a time."""
    own_times = (b"", b', "closed_at": "1970-01-01T00:00:01Z"', b', "closed_at": "1970-01-01T00:00:02Z"')
    for offset, own_time in enumerate(own_times):
        body = (CLOSE % (b"task-%d" % offset))[:-1] + own_time + b"}"
        await shard.process(
            TOPICS.auction_closed, [Entry(TOPICS.auction_closed, SHARD, offset, 1_000, None, body)]
        )
    assert len(sink.facts) == 3
    labels: dict[str, str] = {"topic": TOPICS.auction_closed}
    assert instruments.registry.get_sample_value("learner_record_times_off_total", labels) == 1


async def test_an_event_on_a_wrong_partition_is_rerouted(shard: Shard, sink: RecordingSink) -> None:
    """With its kind in a header and its own record time; here nothing is remembered of it."""
    await shard.process(TOPICS.auction_closed, [close_of(ELSEWHERE)])
    (record,) = sink.singles
    assert (record.topic, record.partition, record.timestamp_ms) == (TOPICS.rerouted, SHARD + 1, 1_000)
    assert (HOP_HEADER, b"auction-closed") in record.headers
    assert (shard.events.settle.remembered, shard.positions[TOPICS.auction_closed]) == (0, 8)


async def test_an_event_that_is_too_large_to_be_moved_is_a_dead_letter_that_counts(
    shard: Shard, sink: RecordingSink, instruments: Instruments
) -> None:
    """Once Kafka has refused the moved event, not before."""
    counted = ("learner_dead_letters_total", {"reason": "too-large"})
    await shard.process(TOPICS.auction_closed, [close_of(ELSEWHERE)])
    (instead,) = sink.fallbacks
    assert instead is not None
    assert instruments.registry.get_sample_value(*counted) is None
    letter = instead(MessageSizeTooLargeError())
    assert (letter.topic, dict(letter.headers)["learner-reason"]) == (TOPICS.dead_letters, b"too-large")
    assert instruments.registry.get_sample_value(*counted) == 1


@pytest.mark.parametrize("refusal", [InvalidTimestampError, PolicyViolationError])
async def test_an_event_that_kafka_refuses_to_move_says_why(
    refusal: type[KafkaError], shard: Shard, sink: RecordingSink
) -> None:
    """Its dead letter names the refusal, not the size, which has nothing to do with it."""
    await shard.process(TOPICS.auction_closed, [close_of(ELSEWHERE)])
    (instead,) = sink.fallbacks
    assert instead is not None
    headers = dict(instead(refusal()).headers)
    assert headers["learner-reason"] == b"refused"
    assert refusal.__name__.encode() in (headers["learner-message"] or b"")


@pytest.mark.parametrize(
    ("task_id", "hop", "reason"),
    [(ELSEWHERE, b"auction-closed", b"wrong-partition"), (HERE, None, b"invalid"), (HERE, b"?", b"invalid")],
)
async def test_a_rerouted_event_is_moved_once_only(
    task_id: bytes, hop: bytes | None, reason: bytes, shard: Shard, sink: RecordingSink
) -> None:
    """One that is still wrong, or does not say what it is, becomes a dead letter; the position moves."""
    await shard.process(TOPICS.rerouted, [close_of(task_id, TOPICS.rerouted, hop)])
    (letter,) = sink.singles
    assert letter.topic == TOPICS.dead_letters
    assert dict(letter.headers)["learner-reason"] == reason
    assert shard.positions[TOPICS.rerouted] == 8


async def test_a_rerouted_event_is_settled_as_its_kind(shard: Shard, sink: RecordingSink) -> None:
    """As if it had been published here."""
    await shard.process(TOPICS.rerouted, [close_of(HERE, TOPICS.rerouted, b"auction-closed")])
    assert len(sink.facts) == 1


async def test_records_before_the_position_are_known(shard: Shard, sink: RecordingSink) -> None:
    """A record that is delivered again changes nothing."""
    for _ in range(2):
        await shard.process(TOPICS.auction_closed, [close_of(HERE)])
    assert len(sink.facts) == 1


async def test_what_kafkas_client_cannot_decode_is_one_dead_letter(shard: Shard, sink: RecordingSink) -> None:
    """It names the offsets, and the position is behind them."""
    shard.step_over(TOPICS.bid_placed, OffsetRange(3, 9))
    (letter,) = sink.singles
    assert b"offsets 3 to 8" in (dict(letter.headers)["learner-message"] or b"")
    assert shard.positions[TOPICS.bid_placed] == 9
