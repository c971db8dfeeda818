"""The client library on real brokers, against a scripted learner that answers with plain headers."""

import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.partitioner import DefaultPartitioner

from learner_worker import EventPublisher, LearnerClient, SuggestionError
from learner_worker.brokers import Broker, BrokerKind, available_brokers
from learner_worker.brokers.probing import accepts, free_ports
from learner_worker.client import replies
from learner_worker.client.replies import ALL_PARTITIONS, OwnPartition, ReplyPartition
from learner_worker.contract.headers import reply_address, reply_headers
from learner_worker.contract.suggestions import ReplyError
from learner_worker.contract.topics import TopicName, Topics
from learner_worker.errors import BrokerError, ConfigurationError, InvalidEventError
from tests.support.workers import administrator, until

PARTITIONS = 4
REPLY_PARTITIONS = 3
DESCRIPTION = "parse invoices"
HOLIDAY = datetime(2026, 1, 31, 14, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
EVENTS = ("bid_placed", "auction_closed", "task_finished")

Script = Callable[[dict[str, Any]], dict[str, Any] | None]


def advice(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request of an agent without history: 1 satoshi more than its base."""
    return {
        "request_id": request["request_id"],
        "agent_id": request["agent_id"],
        "base_bid_sats": request["base_bid_sats"],
        "suggested_bid_sats": request["base_bid_sats"] + 1,
        "strategy": "classic",
        "factor": 1.0,
        "adjustments": [],
        "metrics": {
            "total_bids": 0,
            "auctions_won": 0,
            "tasks_completed": 0,
            "tasks_failed": 0,
            "win_rate": 0.0,
            "success_rate": 0.0,
            "avg_winning_bid_sats": 0.0,
        },
        "as_of": None,
        "stale": False,
    }


def silence(_request: dict[str, Any]) -> None:
    """No reply at all."""


def nonsense_for_agent_0(request: dict[str, Any]) -> dict[str, Any]:
    """A reply that is none of the contract's, for one agent only."""
    return {"suggested": 1} if request["agent_id"] == "agent-0" else advice(request)


def overloaded(request: dict[str, Any]) -> dict[str, Any]:
    """An error reply that says when to ask again."""
    error = {"code": "OVERLOADED", "message": "too many requests", "retry_after_ms": 250}
    return {"request_id": request["request_id"], "agent_id": request["agent_id"], "error": error}


@dataclass
class Learner:
    """What the scripted learner has been asked, and where its replies went."""

    asked: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    answered_partitions: set[int] = field(default_factory=set)


@asynccontextmanager
async def scripted_learner(servers: str, topics: Topics, script: Script) -> AsyncIterator[Learner]:
    """Answers every request as the script says, until left."""
    names = topics.named()
    learner = Learner()
    partitions = [TopicPartition(names.requests, number) for number in range(PARTITIONS)]
    async with (
        AIOKafkaConsumer(bootstrap_servers=servers, fetch_max_wait_ms=50) as consumer,
        AIOKafkaProducer(bootstrap_servers=servers) as producer,
    ):
        consumer.assign(partitions)
        await consumer.seek_to_end()
        for partition in partitions:
            await consumer.position(partition)
        answering = asyncio.create_task(_answer(consumer, producer, names.replies, learner, script))
        try:
            yield learner
        finally:
            answering.cancel()
            await asyncio.wait([answering])


async def _answer(consumer: Any, producer: Any, default: TopicName, learner: Learner, script: Script) -> None:
    async for record in consumer:
        learner.asked.put_nowait(record)
        body = script(json.loads(record.value))
        if body is None:
            continue
        address = reply_address(record.headers, default)
        error = ReplyError(**body["error"]) if "error" in body else None
        sent = await producer.send(
            address.topic,
            json.dumps(body).encode(),
            key=record.key,
            partition=address.partition,
            headers=reply_headers(address, error=error),
        )
        learner.answered_partitions.add((await sent).partition)


async def create_topics(servers: str, topics: Topics) -> None:
    names = topics.named()
    async with administrator(servers) as admin:
        sources = (names.bid_placed, names.auction_closed, names.task_finished, names.requests)
        await admin.create_topics(
            [
                *(NewTopic(name, PARTITIONS, 1) for name in sources),
                NewTopic(names.replies, REPLY_PARTITIONS, 1),
            ]
        )


@pytest.fixture
async def topics(broker: Broker, prefix: str) -> Topics:
    """The test's own topics, created."""
    topics = Topics(prefix=prefix)
    await create_topics(broker.bootstrap_servers, topics)
    return topics


@pytest.fixture
def nowhere() -> str:
    """An address where nothing listens."""
    return f"127.0.0.1:{free_ports(1)[0]}"


async def ask(client: LearnerClient, number: int = 0, seconds: float | None = None) -> int:
    """The number of satoshis suggested to agent-number, whose base bid is 100 times its number."""
    reply = await client.suggest_bid(
        f"agent-{number}", description=DESCRIPTION, base_bid_sats=100 * number, timeout_seconds=seconds
    )
    assert reply.agent_id == f"agent-{number}"
    return reply.suggested_bid_sats


# --- asking ---------------------------------------------------------------------------------------


async def test_many_asks_at_once_each_get_their_own_reply(broker: Broker, topics: Topics) -> None:
    """500 asks in flight on one client are answered each with its own reply, on one partition or on all."""
    servers = broker.bootstrap_servers
    wishes: tuple[tuple[ReplyPartition, int], ...] = ((None, 1), (ALL_PARTITIONS, REPLY_PARTITIONS))
    for reply_partition, partitions in wishes:
        async with (
            scripted_learner(servers, topics, advice) as learner,
            LearnerClient(
                servers, topics=topics, timeout_seconds=30, reply_partition=reply_partition
            ) as client,
        ):
            suggested = await asyncio.gather(*(ask(client, number) for number in range(500)))

        assert suggested == [100 * number + 1 for number in range(500)]
        assert len(learner.answered_partitions) == partitions


async def test_what_a_request_carries(broker: Broker, topics: Topics) -> None:
    """A request is the contract's JSON, keyed by agent, with its id, its deadline and its reply address."""
    servers, names = broker.bootstrap_servers, topics.named()
    async with (
        scripted_learner(servers, topics, advice) as learner,
        LearnerClient(servers, topics=topics, reply_partition=1) as client,
    ):
        before = datetime.now(UTC)
        reply = await client.suggest_bid(
            "agent-é",
            description=DESCRIPTION,
            base_bid_sats=7,
            include=["learned_keywords"],
            timeout_seconds=9,
        )
        after = datetime.now(UTC)
        record = await learner.asked.get()
    request = json.loads(record.value)
    deadline = datetime.fromisoformat(request.pop("deadline"))

    assert request == {
        "agent_id": "agent-é",
        "base_bid_sats": 7,
        "description": DESCRIPTION,
        "request_id": reply.request_id,
        "include": ["learned_keywords"],
    }
    assert before + timedelta(seconds=9) <= deadline <= after + timedelta(seconds=9)
    assert record.key == "agent-é".encode()
    assert record.partition == murmur2("agent-é")
    assert dict(record.headers) == {
        "correlation_id": str(reply.request_id).encode(),
        "reply_to": names.replies.encode(),
        "reply_partition": b"1",
    }


async def test_the_very_first_ask_never_loses_its_reply(broker: Broker, topics: Topics) -> None:
    """A client that asks as soon as it is entered is answered, time after time: there is no startup race."""
    servers = broker.bootstrap_servers
    async with scripted_learner(servers, topics, advice):
        for number in range(20):
            async with LearnerClient(servers, topics=topics, timeout_seconds=10) as client:
                assert await ask(client, number) == 100 * number + 1


async def test_nobody_answers_in_time(broker: Broker, topics: Topics) -> None:
    """Without a reply an ask ends in its own time with TIMEOUT, says what to check, and leaves nothing."""
    async with LearnerClient(broker.bootstrap_servers, topics=topics) as client:
        with pytest.raises(SuggestionError, match=r"no reply within 0.2 s.*learner-worker") as timeout:
            await ask(client, seconds=0.2)

        assert timeout.value.code == "TIMEOUT"
        assert client.pending == 0


async def test_an_error_reply_is_raised_with_its_code(broker: Broker, topics: Topics) -> None:
    """The learner's error reply becomes a SuggestionError with its code, its words and its retry time."""
    servers = broker.bootstrap_servers
    async with (
        scripted_learner(servers, topics, overloaded),
        LearnerClient(servers, topics=topics, timeout_seconds=10) as client,
    ):
        with pytest.raises(SuggestionError, match="too many requests") as refused:
            await ask(client)

    assert (refused.value.code, refused.value.retry_after_ms) == ("OVERLOADED", 250)


async def test_an_unreadable_reply_is_an_error_too(broker: Broker, topics: Topics) -> None:
    """A reply that is none of the contract's is INTERNAL, and does not end the client."""
    servers = broker.bootstrap_servers
    async with (
        scripted_learner(servers, topics, nonsense_for_agent_0),
        LearnerClient(servers, topics=topics, timeout_seconds=10) as client,
    ):
        with pytest.raises(SuggestionError, match="cannot be read") as unreadable:
            await ask(client)
        assert unreadable.value.code == "INTERNAL"
        assert await ask(client, 3) == 301


async def test_a_cancelled_ask_leaves_nothing_behind(broker: Broker, topics: Topics) -> None:
    """An ask that is cancelled while it waits leaves no pending entry, and the others go on."""
    servers = broker.bootstrap_servers
    async with (
        scripted_learner(servers, topics, silence) as learner,
        LearnerClient(servers, topics=topics, timeout_seconds=30) as client,
    ):
        cancelled, other = asyncio.create_task(ask(client, 1)), asyncio.create_task(ask(client, 2))
        await learner.asked.get()
        await learner.asked.get()
        assert client.pending == 2
        cancelled.cancel()
        await asyncio.wait([cancelled])

        assert cancelled.cancelled()
        assert client.pending == 1
        other.cancel()
        await asyncio.wait([other])
        assert client.pending == 0


async def test_a_cancelled_fallback_is_cancelled(broker: Broker, topics: Topics) -> None:
    """suggest_bid_or_base never raises, but a cancellation goes through."""
    servers = broker.bootstrap_servers
    async with (
        scripted_learner(servers, topics, silence) as learner,
        LearnerClient(servers, topics=topics, timeout_seconds=30) as client,
    ):
        asking = asyncio.create_task(
            client.suggest_bid_or_base("agent-1", description=DESCRIPTION, base_bid_sats=5)
        )
        await learner.asked.get()
        asking.cancel()
        await asyncio.wait([asking])

        assert asking.cancelled()
        assert client.pending == 0


async def test_closing_ends_the_asks_in_flight(broker: Broker, topics: Topics) -> None:
    """Asks that still wait when the client is closed end at once with UNAVAILABLE, as do later ones."""
    servers = broker.bootstrap_servers
    async with scripted_learner(servers, topics, silence) as learner:
        async with LearnerClient(servers, topics=topics, timeout_seconds=30) as client:
            asking = asyncio.create_task(ask(client))
            await learner.asked.get()
        for ended in (asking, asyncio.create_task(ask(client))):
            with pytest.raises(SuggestionError) as closed:
                await ended
            assert closed.value.code == "UNAVAILABLE"


async def test_own_reply_partition(broker: Broker, topics: Topics) -> None:
    """A client with a reply partition of its own gets all its replies there, whatever the agents' ids."""
    servers = broker.bootstrap_servers
    async with (
        scripted_learner(servers, topics, advice) as learner,
        LearnerClient(servers, topics=topics, timeout_seconds=30, reply_partition=2) as client,
    ):
        suggested = await asyncio.gather(*(ask(client, number) for number in range(50)))

    assert suggested == [100 * number + 1 for number in range(50)]
    assert learner.answered_partitions == {2}


@pytest.mark.parametrize("wanted", [REPLY_PARTITIONS, -1, True, "any"])
async def test_a_reply_partition_that_is_not_there(broker: Broker, topics: Topics, wanted: Any) -> None:
    """Entering with a reply partition that does not exist says so, and how many there are."""
    with pytest.raises(ConfigurationError, match=rf"reply_partition {wanted!r} does not .* has 3 partitions"):
        async with LearnerClient(broker.bootstrap_servers, topics=topics, reply_partition=wanted):
            pass


def test_any_partition_is_chosen_at_random_once() -> None:
    """Clients without a wish spread over all partitions; each keeps its own for as long as it exists."""
    owned = [OwnPartition(None) for _ in range(200)]
    first = [own.among({0, 1, 2, 3}, "replies") for own in owned]
    assert set(first) == {0, 1, 2, 3}
    assert [own.among({3, 2, 1, 0, 4, 5}, "replies") for own in owned] == first
    assert {own.among({9}, "replies") for own in owned} == {9}


async def test_the_base_bid_when_nobody_answers(broker: Broker, topics: Topics) -> None:
    """suggest_bid_or_base gives the learner's bid when it answers, the base with the reason when not."""
    servers = broker.bootstrap_servers
    async with LearnerClient(servers, topics=topics, timeout_seconds=10) as client:
        alone = await client.suggest_bid_or_base(
            "agent-1", description=DESCRIPTION, base_bid_sats=700, timeout_seconds=0.2
        )
        async with scripted_learner(servers, topics, advice):
            together = await client.suggest_bid_or_base("agent-1", description=DESCRIPTION, base_bid_sats=700)

    assert (alone.bid_sats, alone.advised, alone.reply) == (700, False, None)
    assert str(alone.reason).startswith("TIMEOUT: no reply")
    assert (together.bid_sats, together.advised, together.reason) == (701, True, None)
    assert together.reply is not None
    assert together.reply.suggested_bid_sats == 701


async def test_the_base_bid_without_any_broker(nowhere: str) -> None:
    """An agent starts without Kafka and bids its base; ready() says what is wrong."""
    async with LearnerClient(nowhere, timeout_seconds=0.2) as client:
        bid = await client.suggest_bid_or_base("agent-1", description=DESCRIPTION, base_bid_sats=700)
        with pytest.raises(BrokerError, match=f"cannot reach Kafka at {nowhere} .*: start Kafka there"):
            await client.ready(0.2)

    assert (bid.bid_sats, bid.advised) == (700, False)
    assert str(bid.reason).startswith("TIMEOUT: not connected within 0.2 s")
    assert nowhere in str(bid.reason)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"agent_id": ""}, "agent_id: "),
        ({"agent_id": "agent\n"}, "agent_id: "),
        ({"agent_id": "\ud800"}, "agent_id: "),
        ({"base_bid_sats": 1.0}, "base_bid_sats: "),
        ({"base_bid_sats": -1}, "base_bid_sats: "),
        ({"base_bid_sats": "3"}, "base_bid_sats: "),
        ({"base_bid_sats": 1.5}, "base_bid_sats: "),
        ({"base_bid_sats": True}, "base_bid_sats: "),
        ({"base_bid_sats": None}, "base_bid_sats: "),
        ({"description": "x" * 16_385}, "description: "),
        ({"include": ["everything"]}, "include.0: "),
        ({"timeout_seconds": 0}, "timeout_seconds: "),
        ({"timeout_seconds": float("nan")}, "timeout_seconds: "),
    ],
)
async def test_a_bad_ask_is_refused_before_it_is_sent(arguments: dict[str, Any], complaint: str) -> None:
    """Arguments that break the contract are INVALID_REQUEST at once, even on a client that is not open."""
    client = LearnerClient("127.0.0.1:1")
    good = {"agent_id": "agent-1", "description": DESCRIPTION, "base_bid_sats": 1}

    with pytest.raises(SuggestionError, match=f"^INVALID_REQUEST: {complaint}") as refused:
        await client.suggest_bid(**{**good, **arguments})
    assert refused.value.code == "INVALID_REQUEST"
    if "base_bid_sats" in arguments:
        with pytest.raises(SuggestionError, match=f"^INVALID_REQUEST: {complaint}"):
            await client.suggest_bid_or_base(**{**good, **arguments})
    else:
        assert not (await client.suggest_bid_or_base(**{**good, **arguments})).advised


async def test_a_client_that_is_not_open() -> None:
    """Asking, or waiting to be ready, outside the context says how to open the client."""
    client = LearnerClient("127.0.0.1:1")
    for use in (ask(client), client.ready()):
        with pytest.raises(SuggestionError, match=r"UNAVAILABLE: .*async with LearnerClient"):
            await use


@pytest.mark.parametrize("kind", [LearnerClient, EventPublisher])
async def test_impossible_kafka_options(kind: Any, nowhere: str) -> None:
    """Options that aiokafka does not know, or cannot combine, are named on entering."""
    for options in ({"no_such_option": 1}, {"security_protocol": "SSL"}):
        with pytest.raises(ConfigurationError, match="kafka_options: "):
            async with kind(nowhere, kafka_options=options):
                pass


async def test_a_client_is_entered_once_at_a_time(nowhere: str) -> None:
    """Entering an open client again is refused, and the first entry goes on."""
    async with LearnerClient(nowhere) as client:
        with pytest.raises(ConfigurationError, match="open already"):
            await client.__aenter__()
        assert not (
            await client.suggest_bid_or_base("a", description="", base_bid_sats=1, timeout_seconds=0.1)
        ).advised


async def test_a_fault_never_stands_between_an_agent_and_its_bid(nowhere: str) -> None:
    """Even arguments of impossible types fall back to the base bid, with the fault as the reason."""
    impossible: Any = 7
    bid = await LearnerClient(nowhere).suggest_bid_or_base(
        "agent-1", description=DESCRIPTION, base_bid_sats=3, include=impossible
    )

    assert (bid.bid_sats, bid.advised) == (3, False)
    assert str(bid.reason).startswith("TypeError: ")


# --- Kafka goes and comes back --------------------------------------------------------------------


class SwitchedBroker:
    """A noida-db that a test turns off and on at one address."""

    def __init__(self, folder: Path) -> None:
        self.port = free_ports(1)[0]
        self.servers = f"127.0.0.1:{self.port}"
        self._folder = folder

    def on(self) -> None:
        self._run("up", "--only", "kafka", "--kafka-port", str(self.port), "--host", "127.0.0.1")

    def off(self) -> None:
        self._run("down")
        assert not accepts(self.servers)

    def _run(self, verb: str, *options: str) -> None:
        command = [sys.executable, "-m", "noida_db.cli", verb, "--data-dir", str(self._folder), *options]
        subprocess.run(command, check=True, capture_output=True, timeout=30)


@pytest.fixture
def switched(tmp_path: Path) -> Iterator[SwitchedBroker]:
    if BrokerKind.EMBEDDED not in available_brokers(None):
        pytest.skip("noida-db is not installed")
    with _switched(tmp_path) as broker:
        yield broker


@contextmanager
def _switched(folder: Path) -> Iterator[SwitchedBroker]:
    broker = SwitchedBroker(folder)
    broker.on()
    try:
        yield broker
    finally:
        broker.off()


async def until_advised(client: LearnerClient) -> None:
    async with asyncio.timeout(60):
        while not (
            await client.suggest_bid_or_base(
                "agent-1", description=DESCRIPTION, base_bid_sats=1, timeout_seconds=0.5
            )
        ).advised:
            pass


@pytest.mark.parametrize("silent_reads", [1, 10])
async def test_asks_resume_after_kafka_was_away(
    switched: SwitchedBroker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    silent_reads: int,
) -> None:
    """A client bids its base while Kafka is away and is advised again after, on a new line or the old one."""
    monkeypatch.setattr(replies, "SILENT_READS", silent_reads)
    caplog.set_level("INFO", "learner_worker.client")
    topics = Topics()
    await create_topics(switched.servers, topics)
    async with LearnerClient(switched.servers, timeout_seconds=2) as client:
        async with scripted_learner(switched.servers, topics, advice):
            await until_advised(client)
        switched.off()
        bids = [
            await client.suggest_bid_or_base("agent-1", description=DESCRIPTION, base_bid_sats=9)
            for _ in range(2)
        ]
        assert [(bid.bid_sats, bid.advised) for bid in bids] == [(9, False), (9, False)]
        switched.on()
        async with scripted_learner(switched.servers, topics, advice):
            await until_advised(client)
        assert client.pending == 0
    lines = sum("client.connected" in message for message in caplog.messages)
    assert lines >= 2 if silent_reads == 1 else lines >= 1


async def test_a_client_started_without_kafka_finds_it_later(switched: SwitchedBroker) -> None:
    """A client that was entered before Kafka was there is advised once it is."""
    topics = Topics()
    await create_topics(switched.servers, topics)
    switched.off()
    async with LearnerClient(switched.servers) as client:
        switched.on()
        await client.ready()
        async with scripted_learner(switched.servers, topics, advice):
            assert await ask(client, 4) == 401


async def test_a_reply_partition_that_is_not_there_when_kafka_comes(switched: SwitchedBroker) -> None:
    """A client that was entered before Kafka was there says it in ready(), and in the reason for the base."""
    await create_topics(switched.servers, Topics())
    switched.off()
    async with LearnerClient(switched.servers, reply_partition=7) as client:
        switched.on()

        async def said() -> bool:
            with pytest.raises(BrokerError) as failed:
                await client.ready(0.2)
            return "reply_partition 7 does not exist" in str(failed.value)

        await until(said, "ready() says what is wrong", seconds=30)
        bid = await client.suggest_bid_or_base(
            "agent-1", description=DESCRIPTION, base_bid_sats=7, timeout_seconds=0.2
        )
    assert bid.bid_sats == 7
    assert "reply_partition 7 does not exist" in str(bid.reason)


async def test_events_resume_after_kafka_was_away(switched: SwitchedBroker) -> None:
    """While Kafka is away an event is a BrokerError in time; after it, events are acknowledged again."""
    topics = Topics()
    await create_topics(switched.servers, topics)
    async with EventPublisher(switched.servers, timeout_seconds=2) as publisher:
        await publisher.task_finished("task-1", "agent-1", succeeded=True)
        switched.off()
        with pytest.raises(BrokerError, match=f"(?s){switched.servers} does not answer.*publish it again"):
            await publisher.task_finished("task-2", "agent-1", succeeded=True, finished_at=HOLIDAY)
        with pytest.raises(BrokerError, match=r"The event was not sent\. .*: start Kafka there"):
            await publisher.task_finished("task-2", "agent-1", succeeded=True, finished_at=HOLIDAY)
        switched.on()
        await publisher.task_finished("task-2", "agent-1", succeeded=True, finished_at=HOLIDAY)

    found = await read(switched.servers, topics.named().task_finished, 2)
    assert {record.key for record in found} == {b"task-1", b"task-2"}


# --- reporting ------------------------------------------------------------------------------------


def murmur2(key: str) -> int:
    """The partition that Kafka's own clients choose."""
    chosen = DefaultPartitioner()(key.encode(), list(range(PARTITIONS)), list(range(PARTITIONS)))
    assert isinstance(chosen, int)
    return chosen


async def read(servers: str, topic: TopicName, at_least: int) -> list[Any]:
    """The topic's records from the beginning, as soon as there are so many."""
    found: list[Any] = []
    async with (
        asyncio.timeout(30),
        AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest") as consumer,
    ):
        consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
        while len(found) < at_least:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                found.extend(records)
    return found


async def test_events_are_the_contracts_json(broker: Broker, topics: Topics) -> None:
    """Each event is the contract's JSON with its time in UTC, keyed by task on the task's partition."""
    servers, names, task_id = broker.bootstrap_servers, topics.named(), "заказ-1"
    async with EventPublisher(servers, topics=topics) as publisher:
        await publisher.bid_placed(
            task_id, "agent-1", bid_sats=900, description=DESCRIPTION, placed_at=HOLIDAY
        )
        await publisher.auction_closed(
            task_id, winner_agent_id="agent-1", winning_bid_sats=900, closed_at=HOLIDAY, description="x"
        )
        await publisher.task_finished(task_id, "agent-1", succeeded=False, finished_at=HOLIDAY)
        written = {name: (await read(servers, getattr(names, name), 1))[0] for name in EVENTS}

    assert {name: json.loads(record.value) for name, record in written.items()} == {
        "bid_placed": {
            "task_id": task_id,
            "agent_id": "agent-1",
            "bid_sats": 900,
            "description": DESCRIPTION,
            "placed_at": "2026-01-31T12:00:00.123456Z",
        },
        "auction_closed": {
            "task_id": task_id,
            "winner_agent_id": "agent-1",
            "winning_bid_sats": 900,
            "closed_at": "2026-01-31T12:00:00.123456Z",
            "description": "x",
        },
        "task_finished": {
            "task_id": task_id,
            "agent_id": "agent-1",
            "succeeded": False,
            "finished_at": "2026-01-31T12:00:00.123456Z",
        },
    }
    assert {record.key for record in written.values()} == {task_id.encode()}
    assert {record.partition for record in written.values()} == {murmur2(task_id)}


async def test_a_close_that_nobody_won_without_a_time(broker: Broker, topics: Topics) -> None:
    """A close without a winner carries nulls, and a missing time is now, so that copies can carry it."""
    servers = broker.bootstrap_servers
    before = datetime.now(UTC)
    async with EventPublisher(servers, topics=topics) as publisher:
        await publisher.auction_closed("task-1", winner_agent_id=None)
        after = datetime.now(UTC)
        [record] = await read(servers, topics.named().auction_closed, 1)
    body = json.loads(record.value)

    assert before <= datetime.fromisoformat(body.pop("closed_at")) <= after
    assert body == {"task_id": "task-1", "winner_agent_id": None, "winning_bid_sats": None}


async def test_events_without_waiting_are_all_there_after_a_flush(broker: Broker, topics: Topics) -> None:
    """500 events published without waiting are acknowledged by the flush, in order, on their partitions."""
    servers = broker.bootstrap_servers
    async with EventPublisher(servers, topics=topics) as publisher:
        acknowledgements = [
            await publisher.bid_placed(
                f"task-{number % 50}", "agent-1", bid_sats=number, description="", wait=False
            )
            for number in range(500)
        ]
        await publisher.flush()
        assert all(acknowledgement.done() for acknowledgement in acknowledgements)
        await asyncio.gather(*acknowledgements)
    found = await read(servers, topics.named().bid_placed, 500)

    assert len(found) == 500
    assert all(record.partition == murmur2(record.key.decode()) for record in found)
    for number in range(50):
        bids = [json.loads(record.value)["bid_sats"] for record in found if record.key == b"task-%d" % number]
        assert bids == list(range(number, 500, 50))


async def test_leaving_the_publisher_flushes(broker: Broker, topics: Topics) -> None:
    """Leaving the context waits for what is still on its way."""
    servers = broker.bootstrap_servers
    async with EventPublisher(servers, topics=topics) as publisher:
        acknowledgement = await publisher.task_finished("task-1", "agent-1", succeeded=True, wait=False)

    assert acknowledgement.done()
    assert len(await read(servers, topics.named().task_finished, 1)) == 1


async def test_a_flush_names_what_was_not_acknowledged(switched: SwitchedBroker) -> None:
    """An event published without waiting that Kafka never acknowledged fails the next flush, once."""
    await create_topics(switched.servers, Topics())
    async with EventPublisher(switched.servers, timeout_seconds=1) as publisher:
        await publisher.task_finished("task-1", "agent-1", succeeded=True)
        switched.off()
        acknowledgement = await publisher.task_finished(
            "task-lost", "agent-1", succeeded=True, finished_at=HOLIDAY, wait=False
        )
        with pytest.raises(BrokerError, match=r"(?s)task-lost.*2026-01-31T12:00:00.123456Z"):
            await publisher.flush()
        assert isinstance(acknowledgement.exception(), BrokerError)
        await publisher.flush()
        switched.on()


async def test_of_many_lost_events_a_flush_is_all_that_is_said(switched: SwitchedBroker) -> None:
    """Two acknowledgements that nobody awaits: one error, and nothing that asyncio logs for itself."""
    await create_topics(switched.servers, Topics())
    logged: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["message"]))
    async with EventPublisher(switched.servers, timeout_seconds=1) as publisher:
        await publisher.task_finished("task-1", "agent-1", succeeded=True)
        switched.off()
        for number in range(2):
            await publisher.task_finished(f"lost-{number}", "agent-1", succeeded=True, wait=False)
        with pytest.raises(BrokerError, match="lost-0"):
            await publisher.flush()
        switched.on()
    gc.collect()
    assert logged == []


async def test_an_unsent_event_never_hides_an_error_of_the_service(switched: SwitchedBroker) -> None:
    """When the context is left by an exception, that exception comes out, whatever the flush says."""
    await create_topics(switched.servers, Topics())
    with pytest.raises(ZeroDivisionError):
        await fail_while_publishing(switched)
    switched.on()


async def fail_while_publishing(switched: SwitchedBroker) -> None:
    async with EventPublisher(switched.servers, timeout_seconds=1) as publisher:
        await publisher.task_finished("task-1", "agent-1", succeeded=True)
        switched.off()
        await publisher.task_finished("task-1", "agent-1", succeeded=True, wait=False)
        raise ZeroDivisionError


@pytest.mark.own_kafka
async def test_missing_topics_are_named_as_such(broker: Broker, prefix: str) -> None:
    """Where Kafka makes no topics by itself, missing ones are named as the cause, with what to do."""
    servers, topics = broker.bootstrap_servers, Topics(prefix=prefix)
    async with LearnerClient(servers, topics=topics, timeout_seconds=0.1) as client:
        with pytest.raises(BrokerError, match="learner-worker topics create"):
            await client.ready(0.1)
    async with EventPublisher(servers, topics=topics) as publisher:
        with pytest.raises(BrokerError, match=r"The event was not sent\. .*learner-worker topics create"):
            await publisher.task_finished("task-1", "agent-1", succeeded=True)


async def test_a_publisher_without_a_broker(nowhere: str) -> None:
    """Entering without Kafka is a BrokerError in time that says what to check."""
    with pytest.raises(BrokerError, match=f"cannot reach Kafka at {nowhere} .*: start Kafka there"):
        async with EventPublisher(nowhere, timeout_seconds=0.5):
            pass


async def test_a_publisher_that_is_not_open(nowhere: str) -> None:
    """Publishing outside the context says how to open the publisher."""
    publisher = EventPublisher(nowhere)
    with pytest.raises(BrokerError, match="async with EventPublisher"):
        await publisher.task_finished("task-1", "agent-1", succeeded=True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"task_id": ""}, "task_id: "),
        ({"agent_id": "a" * 257}, "agent_id: "),
        ({"bid_sats": True}, "bid_sats: "),
        ({"bid_sats": 2**53}, "bid_sats: "),
        ({"placed_at": datetime(2026, 1, 31, 12)}, "placed_at: .* no time zone"),  # noqa: DTZ001
        ({"placed_at": "2026-01-31T12:00:00Z"}, "placed_at: .* aware datetime"),
        ({"placed_at": datetime(1969, 12, 31, tzinfo=UTC)}, "placed_at: the year"),
        (
            {"placed_at": datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=5)))},
            "placed_at: the year",
        ),
        ({"placed_at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))}, "placed_at: the year"),
    ],
)
async def test_a_bad_event_is_refused_before_it_is_sent(arguments: dict[str, Any], complaint: str) -> None:
    """An event that breaks the contract is an InvalidEventError, a ValueError, that names the field."""
    publisher = EventPublisher("127.0.0.1:1")
    good = {"task_id": "task-1", "agent_id": "agent-1", "bid_sats": 1, "description": ""}

    with pytest.raises(InvalidEventError, match=f"^{complaint}") as refused:
        await publisher.bid_placed(**{**good, **arguments})
    assert isinstance(refused.value, ValueError)
