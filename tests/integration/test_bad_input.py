"""Bad input of every kind in the contract: one dead letter each, and the worker goes on."""

import json
import struct
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from learner_worker.brokers import Broker
from learner_worker.contract.topics import TopicName, TopicNames
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.support import model
from tests.support.swarm import swarm_history
from tests.support.workers import (
    outcomes_on_disk,
    publish,
    read_topic,
    roomy_topics,
    running_worker,
    until,
)

PARTITIONS = 4
ROOMY = 4 * 1024 * 1024


def bid(**changes: Any) -> bytes:
    """A bid that is good but for the changes; a None in `drop` style is written as null."""
    good = {"task_id": "task-1", "agent_id": "agent-1", "bid_sats": 5, "description": "fix it"}
    return json.dumps({**good, **changes}).encode()


def bid_text(bid_sats: str) -> bytes:
    """A bid whose `bid_sats` is this very text."""
    return (
        b'{"task_id":"task-1","agent_id":"agent-1","description":"x","bid_sats":' + bid_sats.encode() + b"}"
    )


BAD_BIDS: dict[str, tuple[bytes | None, str]] = {
    "no value": (None, "empty"),
    "empty value": (b"", "empty"),
    "not JSON": (b"bid 5 sats, please", "not-json"),
    "cut off": (bid()[:-5], "not-json"),
    "not UTF-8": (b'{"task_id":"\xff"}', "not-json"),
    "two documents": (bid() + bid(), "not-json"),
    "a byte order mark": (b"\xef\xbb\xbf" + bid(), "not-json"),
    "NaN as money": (bid_text("NaN"), "not-json"),
    "NaN in an ignored field": (bid()[:-1] + b',"note":NaN}', "not-json"),
    "a lone surrogate": (bid()[:-1] + b',"note":"\\ud800"}', "not-json"),
    "nested too deeply": (bid()[:-1] + b',"note":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "not-json"),
    "an array": (b"[]", "invalid"),
    "a number": (b"5", "invalid"),
    "text for a number": (bid(bid_sats="12"), "invalid"),
    "a float for a number": (bid_text("1.0"), "invalid"),
    "true for a number": (bid_text("true"), "invalid"),
    "null for a number": (bid_text("null"), "invalid"),
    "2^53": (bid(bid_sats=2**53), "invalid"),
    "2^63": (bid(bid_sats=2**63), "invalid"),
    "negative": (bid(bid_sats=-1), "invalid"),
    "a missing field": (b'{"task_id":"task-1","agent_id":"agent-1","bid_sats":5}', "invalid"),
    "an empty id": (bid(agent_id=""), "invalid"),
    "an id of 257 characters": (bid(task_id="t" * 257), "invalid"),
    "a line feed in an id": (bid(agent_id="agent\n1"), "invalid"),
    "an escape in an id": (bid(agent_id="agent\x1b[31m"), "invalid"),
    "a C1 control in an id": (bid(task_id="task\x85"), "invalid"),
    "a number for an id": (bid(task_id=7), "invalid"),
    "a description of 16,385 characters": (bid(description="d" * 16_385), "invalid"),
    "a time without an offset": (bid(placed_at="2026-01-01T00:00:00"), "invalid"),
    "a time as a number": (bid(placed_at=1_767_225_600), "invalid"),
    "a time in the year 9999": (bid(placed_at="9999-01-01T00:00:00Z"), "invalid"),
    "2 MB": (bid(note="n" * 2_000_000), "too-large"),
}
BAD_CLOSES: dict[str, tuple[bytes | None, str]] = {
    "no winner field": (b'{"task_id":"task-1","winning_bid_sats":null}', "invalid"),
    "a winning bid as text": (
        b'{"task_id":"task-1","winner_agent_id":"agent-1","winning_bid_sats":"5"}',
        "invalid",
    ),
}
BAD_RESULTS: dict[str, tuple[bytes | None, str]] = {
    "succeeded as a number": (b'{"task_id":"task-1","agent_id":"agent-1","succeeded":1}', "invalid"),
    "succeeded as text": (b'{"task_id":"task-1","agent_id":"agent-1","succeeded":"true"}', "invalid"),
}


async def test_every_bad_record_becomes_one_dead_letter_and_the_rest_counts(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Bad records between good ones: one dead letter each with its reason; the outcomes equal the model's."""
    names = await roomy_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS, record_bytes=ROOMY)
    bad: dict[TopicName, dict[str, tuple[bytes | None, str]]] = {
        names.bid_placed: BAD_BIDS,
        names.auction_closed: BAD_CLOSES,
        names.task_finished: BAD_RESULTS,
    }
    events = swarm_history(5, 20)
    expected = sorted((topic, reason) for topic, records in bad.items() for _, reason in records.values())
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker:
        await publish(broker.bootstrap_servers, names, events[:100])
        placed = await _publish_raw(broker, bad)
        await publish(broker.bootstrap_servers, names, events[100:])
        await metrics_equal_the_model(broker, names, events)
        found = await until(
            lambda: _dead_letters(broker, names, at_least=len(expected)), "all dead letters", seconds=30
        )
        assert await worker.stop() == 0
    assert sorted(_reason(letter) for letter in found) == expected
    assert {_origin(letter) for letter in found} == set(placed)
    for letter in found:
        _is_whole(letter, placed[_origin(letter)])
    assert outcomes_on_disk(tmp_path / "state") == model.outcomes(events)


async def _publish_raw(broker: Broker, bad: dict[Any, Any]) -> dict[tuple[str, int, int], bytes | None]:
    placed: dict[tuple[str, int, int], bytes | None] = {}
    async with AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap_servers, max_request_size=ROOMY
    ) as producer:
        for topic, records in bad.items():
            for value, _ in records.values():
                headers = [("trace", b"\x00\x01")]
                sent = await producer.send_and_wait(topic, value, key=b"task-1", headers=headers)
                placed[sent.topic, sent.partition, sent.offset] = value
    return placed


async def _dead_letters(broker: Broker, names: TopicNames, *, at_least: int) -> list[Any] | None:
    found = await read_topic(broker.bootstrap_servers, names.dead_letters)
    return found if len(found) >= at_least else None


def _headers(letter: Any) -> dict[str, bytes]:
    return dict(letter.headers)


def _reason(letter: Any) -> tuple[str, str]:
    headers = _headers(letter)
    return headers["kafka_dlt-original-topic"].decode(), headers["learner-reason"].decode()


def _origin(letter: Any) -> tuple[str, int, int]:
    headers = _headers(letter)
    (partition,) = struct.unpack(">i", headers["kafka_dlt-original-partition"])
    (offset,) = struct.unpack(">q", headers["kafka_dlt-original-offset"])
    return headers["kafka_dlt-original-topic"].decode(), partition, offset


def _is_whole(letter: Any, value: bytes | None) -> None:
    """A dead letter keeps key, headers and value; over 1 MiB the first 64 KiB, and says so."""
    headers = _headers(letter)
    assert letter.key == b"task-1"
    assert headers["trace"] == b"\x00\x01"
    assert headers["learner-message"]
    if value is not None and len(value) > 1024 * 1024:
        assert letter.value == value[: 64 * 1024]
        assert headers["learner-truncated"] == str(len(value)).encode()
    else:
        assert letter.value == value
        assert "learner-truncated" not in headers
