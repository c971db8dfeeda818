"""What becomes of a dead letter that is sent back."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    PolicyViolationError,
    RecordListTooLargeError,
)

from learner_worker.contract.topics import HOP_HEADER, Topics
from learner_worker.kafka.partitioner import partitioner
from learner_worker.operations.dead_letters import DeadLetter, DeadLetterId
from learner_worker.operations.replay import Replay
from tests.support.steady import nothing_to_confirm
from tests.unit.test_refusals import JudgedProducer

NAMES = Topics(prefix="p-").named()
BID = b'{"task_id":"task-1","agent_id":"a","bid_sats":5,"description":"x"}'
RESULT = b'{"task_id":"task-1","agent_id":"a","succeeded":true}'
LETTER = DeadLetter(
    DeadLetterId(1, 2),
    9_000,
    topic=NAMES.bid_placed,
    partition=3,
    offset=4,
    original_ms=1_000,
    reason="invalid",
    message="bad",
    hop=None,
    key=b"key",
    value=BID,
    value_bytes=len(BID),
    headers=[("trace", b"abc")],
    truncated_bytes=None,
)
REPLAY = Replay(NAMES, partitioner(12), late_before_ms=2_000, confirm=nothing_to_confirm)


def test_an_event_goes_back_as_if_it_had_been_moved() -> None:
    """Its right partition of the rerouted topic, its original time, key, value and headers, and its kind."""
    verdict = REPLAY.judge(LETTER)
    assert verdict.sent is not None
    assert verdict.sent.topic == NAMES.rerouted
    assert verdict.sent.partition == partitioner(12)("task-1")
    assert verdict.sent.timestamp_ms == 1_000
    assert (verdict.sent.key, verdict.sent.value) == (b"key", BID)
    assert verdict.sent.headers == [
        ("trace", b"abc"),
        (HOP_HEADER, b"bid-placed"),
        ("learner-origin", b"p-bid-placed/3/4"),
    ]


def test_an_event_that_was_moved_before_keeps_its_kind() -> None:
    """A letter from the rerouted topic: the header says what it is."""
    verdict = REPLAY.judge(replace(LETTER, topic=NAMES.rerouted, hop=b"task-finished", value=RESULT))
    assert verdict.sent is not None
    assert (HOP_HEADER, b"task-finished") in verdict.sent.headers


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"value": b"no JSON"}, "Invalid JSON"),
        ({"value": None}, "the record has no value"),
        ({"value": RESULT}, "bid_sats: Field required"),
        ({"truncated_bytes": 2_000_000}, "only the first 66 of its 2000000 bytes were kept"),
        ({"topic": NAMES.outcomes}, "a record of p-learner-outcomes is no event"),
        ({"topic": "bid-placed"}, "a record of bid-placed is no event"),
        ({"topic": NAMES.rerouted}, "does not say which event it is"),
        ({"topic": NAMES.rerouted, "hop": b"bid"}, "does not say which event it is"),
    ],
)
def test_what_cannot_come_back_stays_and_says_why(changes: dict[str, Any], why: str) -> None:
    """Unreadable, cut off, or no event: nothing is sent, and the reason is a sentence."""
    verdict = REPLAY.judge(replace(LETTER, **changes))
    assert verdict.sent is None
    assert why in verdict.why


def test_bids_and_closes_of_old_auctions_are_late_and_results_never() -> None:
    """Older than the horizon a bid may find its auction forgotten; a result counts at any time."""
    assert REPLAY.judge(LETTER).late
    assert not REPLAY.judge(replace(LETTER, original_ms=2_000)).late
    result = replace(LETTER, topic=NAMES.task_finished, value=RESULT)
    assert not REPLAY.judge(result).late


@pytest.mark.parametrize("error", [RecordListTooLargeError, InvalidTimestampError, PolicyViolationError])
async def test_what_kafka_never_takes_stays_and_keeps_no_other_back(error: type[KafkaError]) -> None:
    """One of three is refused whenever it is sent: the others go back and are marked, it says why not."""
    producer = JudgedProducer(
        lambda topic, records: (
            error() if topic == NAMES.rerouted and any(record.key == b"bad" for record in records) else None
        )
    )

    async def dead_letters() -> AsyncIterator[DeadLetter]:
        for number, key in enumerate((b"first", b"bad", b"last")):
            yield replace(LETTER, id=DeadLetterId(0, number), key=key)

    replay = Replay(NAMES, partitioner(2), confirm=nothing_to_confirm)
    results = [result async for result in replay.run(dead_letters(), cast("Any", producer))]
    assert [result.sent is None for result in results] == [False, True, False]
    assert results[1].why.startswith("Kafka refuses it")
    assert NAMES.rerouted in results[1].why
    sent = [topic for topic, *_ in producer.taken]
    assert (sent.count(NAMES.rerouted), sent.count(NAMES.dead_letters)) == (2, 2)
