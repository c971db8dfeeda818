"""Requests by a plain Kafka client on a real broker: good, bad, late, misplaced, misaddressed."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from learner_worker.brokers import Broker
from learner_worker.contract.times import Micros, format_time
from learner_worker.contract.topics import TopicNames
from learner_worker.kafka.partitioner import partitioner
from tests.support.workers import WorkerProcess, create_topics, read_topic, running_worker, until

PARTITIONS = 4
GOOD = {"agent_id": "agent-1", "base_bid_sats": 100, "description": "fix it", "request_id": "r-1"}
Headers = list[tuple[str, bytes]]


@dataclass
class Asking:
    """A worker, and a plain client that asks it."""

    names: TopicNames
    worker: WorkerProcess
    producer: Any
    replies: Any

    async def ask(self, body: object, headers: Headers | None = None, *, partition: int | None = None) -> Any:
        """Sends a request and waits for the next reply."""
        await self.send(body, headers, partition=partition)
        return await asyncio.wait_for(self.replies.getone(), 60)

    async def send(
        self,
        body: object,
        headers: Headers | None = None,
        *,
        partition: int | None = None,
        key: bytes = b"agent-1",
    ) -> None:
        """Sends a request to its agent's partition unless another one is named."""
        value = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.producer.send_and_wait(
            self.names.requests,
            value,
            key=key,
            headers=headers or [],
            partition=partitioner(PARTITIONS)("agent-1") if partition is None else partition,
        )


@asynccontextmanager
async def asking(broker: Broker, prefix: str, state_dir: Path, **settings: str) -> AsyncIterator[Asking]:
    """A running worker and a connected client."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    async with (
        running_worker(
            broker.bootstrap_servers,
            prefix,
            state_dir,
            settings={f"--{name.replace('_', '-')}": value for name, value in settings.items()},
        ) as worker,
        AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer,
        AIOKafkaConsumer(bootstrap_servers=broker.bootstrap_servers) as replies,
    ):
        partitions = [TopicPartition(names.replies, number) for number in range(PARTITIONS)]
        replies.assign(partitions)
        await replies.seek_to_end()
        for partition in partitions:
            await replies.position(partition)
        yield Asking(names, worker, producer, replies)
        assert await worker.stop() == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**GOOD, "base_bid_sats": "12"}, "base_bid_sats"),
        ({**GOOD, "base_bid_sats": 1.0}, "base_bid_sats"),
        ({**GOOD, "base_bid_sats": True}, "base_bid_sats"),
        ({**GOOD, "base_bid_sats": 2**63}, "base_bid_sats"),
        ({**GOOD, "base_bid_sats": -1}, "base_bid_sats"),
        ({**GOOD, "agent_id": "agent\u0007"}, "agent_id"),
        ({**GOOD, "deadline": "soon"}, "deadline"),
        ({**GOOD, "include": ["everything"]}, "include"),
        ({"agent_id": "agent-1", "base_bid_sats": 1}, "description"),
    ],
)
def test_a_bad_request_is_described_by_its_field(body: object, field: str) -> None:
    """The decoder's message begins with the field that is wrong."""
    from learner_worker.contract.decode import decode_request  # noqa: PLC0415
    from learner_worker.errors import RequestError  # noqa: PLC0415

    with pytest.raises(RequestError) as caught:
        decode_request(json.dumps(body).encode())
    assert str(caught.value).startswith(field)
    assert caught.value.code == "INVALID_REQUEST"


async def test_requests_of_every_kind_get_the_reply_they_are_due(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Good, broken, misplaced, expired and misaddressed requests, one after the other on one worker."""
    async with asking(broker, prefix, tmp_path / "state") as learner:
        await _a_good_request_is_answered_with_its_ids_and_key(learner)
        await _bad_requests_get_invalid_request_naming_the_field(learner)
        await _a_request_on_a_wrong_partition_is_moved_once_and_answered(learner)
        await _a_moved_request_that_is_still_wrong_gets_internal(learner)
        await _every_convention_gets_its_own_headers(learner)
        await _an_expired_request_is_dropped_and_counted(learner)
        await _an_unlisted_reply_topic_is_refused_and_never_written(learner, broker)


async def _a_good_request_is_answered_with_its_ids_and_key(learner: Asking) -> None:
    reply = await learner.ask(GOOD, [("correlation_id", b"\xffopaque")])
    assert reply.key == b"agent-1"
    assert reply.headers == (("correlation_id", b"\xffopaque"),)
    body = json.loads(reply.value)
    assert (body["request_id"], body["suggested_bid_sats"], body["as_of"]) == ("r-1", 100, None)


async def _bad_requests_get_invalid_request_naming_the_field(learner: Asking) -> None:
    for body, field, known in [
        ({**GOOD, "base_bid_sats": "12"}, "base_bid_sats", {"request_id": "r-1", "agent_id": "agent-1"}),
        ({**GOOD, "agent_id": "a\n"}, "agent_id", {"request_id": "r-1"}),
        (b"not JSON", "JSON", {}),
        (b"\x00\x00\x00\x00\x07{}", "agent_id", {}),
    ]:
        reply = await learner.ask(body)
        answer = json.loads(reply.value)
        error = answer.pop("error")
        assert answer == known
        assert error["code"] == "INVALID_REQUEST"
        assert field in error["message"]
        assert ("learner-error", b"INVALID_REQUEST") in reply.headers


async def _a_request_on_a_wrong_partition_is_moved_once_and_answered(learner: Asking) -> None:
    right = partitioner(PARTITIONS)("agent-1")
    reply = await learner.ask(GOOD, partition=(right + 1) % PARTITIONS)
    assert json.loads(reply.value)["agent_id"] == "agent-1"


async def _a_moved_request_that_is_still_wrong_gets_internal(learner: Asking) -> None:
    right = partitioner(PARTITIONS)("agent-1")
    hopped = [("learner-hop", b"suggest-bid-requests")]
    reply = await learner.ask(GOOD, hopped, partition=(right + 1) % PARTITIONS)
    assert json.loads(reply.value)["error"]["code"] == "INTERNAL"


async def _every_convention_gets_its_own_headers(learner: Asking) -> None:
    topic = learner.names.replies.encode()
    spring = [
        ("kafka_correlationId", b"\x00\x01"),
        ("kafka_replyTopic", topic),
        ("kafka_replyPartition", b"\x00\x00\x00\x02"),
    ]
    reply = await learner.ask(GOOD, spring)
    assert (reply.partition, dict(reply.headers)["kafka_correlationId"]) == (2, b"\x00\x01")
    nest = [("kafka_correlationId", b"abc"), ("kafka_replyTopic", topic), ("kafka_replyPartition", b"3")]
    reply = await learner.ask({**GOOD, "base_bid_sats": None}, nest)
    headers = dict(reply.headers)
    assert (reply.partition, headers["kafka_nest-is-disposed"]) == (3, b"\x00")
    assert headers["kafka_nest-err"].startswith(b"INVALID_REQUEST: base_bid_sats")
    smallrye = [("REPLY_CORRELATION_ID", b"id"), ("REPLY_TOPIC", topic)]
    reply = await learner.ask(GOOD, smallrye)
    assert dict(reply.headers) == {"REPLY_CORRELATION_ID": b"id"}


async def _an_expired_request_is_dropped_and_counted(learner: Asking) -> None:
    past = format_time(Micros((time.time_ns() // 1000) - 1_000_000))
    await learner.send({**GOOD, "deadline": past})
    reply = await learner.ask({**GOOD, "request_id": "after"})
    assert json.loads(reply.value)["request_id"] == "after"
    _, text = await learner.worker.get("/metrics")
    assert 'learner_requests_total{code="EXPIRED"} 1.0' in text


async def _an_unlisted_reply_topic_is_refused_and_never_written(learner: Asking, broker: Broker) -> None:
    for address in (
        [("reply_to", learner.names.outcomes.encode())],
        [("reply_to", learner.names.task_finished.encode())],
        [("reply_partition", b"4")],
        [("correlation_id", b"x" * 1025)],
    ):
        await learner.send(GOOD, address)
    await learner.send(GOOD, key=b"k" * 70_000)  # the reply would have to carry it
    reply = await learner.ask({**GOOD, "request_id": "after the refusals"})
    assert json.loads(reply.value)["request_id"] == "after the refusals"
    _, text = await learner.worker.get("/metrics")
    assert 'learner_requests_total{code="REFUSED"} 5.0' in text
    assert await read_topic(broker.bootstrap_servers, learner.names.outcomes) == []
    assert await read_topic(broker.bootstrap_servers, learner.names.task_finished) == []


async def test_a_greedy_agent_is_refused_and_nobody_else_waits(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """A burst of one agent beyond the queue, others behind it on its partition: each request one reply."""
    others = [
        name
        for n in range(200)
        if partitioner(PARTITIONS)(name := f"quiet-{n}") == partitioner(PARTITIONS)("agent-1")
    ]
    # Longer than any machine takes for the burst: on a busy one some would be dropped, as nobody waited.
    async with asking(broker, prefix, tmp_path / "state", request_ttl_seconds="120") as learner:
        await _give_it_keywords(learner)
        dear = {**GOOD, "include": ["learned_keywords"]}  # to answer, not to read: the queue fills
        greedy = [{**dear, "request_id": f"greedy-{n}"} for n in range(20_000)]
        quiet = [{**GOOD, "agent_id": name, "request_id": name} for name in others]
        learner.worker.process.send_signal(signal.SIGSTOP)  # so that they lie there all at once
        await _send_at_once(learner, greedy + quiet)
        await learner.producer.flush()
        learner.worker.process.send_signal(signal.SIGCONT)
        replies: dict[str, Any] = {}
        order: list[str] = []
        while len(order) < len(greedy) + len(quiet):
            for records in (await learner.replies.getmany(timeout_ms=10_000)).values():
                for record in records:
                    answer = json.loads(record.value)
                    order.append(answer["request_id"])
                    replies[answer["request_id"]] = answer
    assert len(replies) == len(order)
    assert [name for name in others if "error" in replies[name]] == []
    answers = [replies[f"greedy-{n}"] for n in range(len(greedy))]
    refused = [answer["error"] for answer in answers if "error" in answer]
    assert refused
    assert {error["code"] for error in refused} == {"OVERLOADED"}
    assert all(error["retry_after_ms"] >= 100 for error in refused)
    answered_after = [name for name in order[order.index(others[-1]) :] if "error" not in replies[name]]
    assert len(answered_after) > 100  # of the greedy agent's own queue: the quiet ones did not wait for it


async def _give_it_keywords(learner: Asking) -> None:
    """Until a reply carries as many learned keywords as replies ever do."""
    alphabet = "abcdefghij"
    words = " ".join(f"word{a}{b}" for a in alphabet for b in alphabet)
    task = {"task_id": "wordy", "agent_id": "agent-1"}
    events = {
        learner.names.bid_placed: {**task, "bid_sats": 10, "description": words},
        learner.names.auction_closed: {
            "task_id": "wordy",
            "winner_agent_id": "agent-1",
            "winning_bid_sats": 10,
        },
        learner.names.task_finished: {**task, "succeeded": True},
    }
    for topic, event in events.items():
        await learner.producer.send_and_wait(topic, json.dumps(event).encode(), key=b"wordy")

    async def learned() -> bool:
        reply = await learner.ask({**GOOD, "include": ["learned_keywords"]})
        return len(json.loads(reply.value)["learned_keywords"]) == 50

    await until(learned, "50 keywords are learned")


async def _send_at_once(learner: Asking, bodies: list[dict[str, object]]) -> None:
    """One burst in as few records' time as possible: batches of 64 KiB on one partition."""
    partition = partitioner(PARTITIONS)("agent-1")
    batch = learner.producer.create_batch()
    for body in bodies:
        value = json.dumps(body).encode()
        if batch.append(key=b"agent-1", value=value, timestamp=None) is None:
            await learner.producer.send_batch(batch, learner.names.requests, partition=partition)
            batch = learner.producer.create_batch()
            batch.append(key=b"agent-1", value=value, timestamp=None)
    await learner.producer.send_batch(batch, learner.names.requests, partition=partition)
