"""The blocking clients on real brokers: threads, forks, ends, and no place inside an event loop."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from learner_worker import (
    BlockingEventPublisher,
    BlockingLearnerClient,
    EventPublisher,
    LearnerClient,
    SuggestionError,
)
from learner_worker.brokers import Broker
from learner_worker.contract.topics import Topics
from learner_worker.errors import BrokerError, ConfigurationError, InvalidEventError
from tests.integration.test_client import (
    DESCRIPTION,
    EVENTS,
    HOLIDAY,
    REPLY_PARTITIONS,
    SwitchedBroker,
    advice,
    create_topics,
    murmur2,
    overloaded,
    read,
    scripted_learner,
    silence,
    switched,
)
from tests.support.forked import clean_environment

__all__ = ["switched"]  # a fixture

THREADS = 20


@pytest.fixture
async def topics(broker: Broker, prefix: str) -> Topics:
    """The test's own topics, created."""
    topics = Topics(prefix=prefix)
    await create_topics(broker.bootstrap_servers, topics)
    return topics


def ask(client: BlockingLearnerClient, number: int = 0, seconds: float | None = None) -> int:
    """The number of satoshis suggested to agent-number, whose base bid is 100 times its number."""
    reply = client.suggest_bid(
        f"agent-{number}", description=DESCRIPTION, base_bid_sats=100 * number, timeout_seconds=seconds
    )
    assert reply.agent_id == f"agent-{number}"
    return reply.suggested_bid_sats


def refusal(use: Callable[[], Any]) -> SuggestionError:
    """The error that an ask ends with."""
    with pytest.raises(SuggestionError) as refused:
        use()
    return refused.value


def learner_threads() -> list[str]:
    """The names of the clients' threads that still run."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("learner-")]


# --- asking ---------------------------------------------------------------------------------------


async def test_many_threads_ask_on_one_client(broker: Broker, topics: Topics) -> None:
    """20 threads ask 400 times on one client: each gets its own reply, and the thread is gone after."""
    servers = broker.bootstrap_servers

    def ask_all() -> list[int]:
        with (
            BlockingLearnerClient(servers, topics=topics, timeout_seconds=30) as client,
            ThreadPoolExecutor(THREADS) as threads,
        ):
            return list(threads.map(lambda number: ask(client, number), range(400)))

    async with scripted_learner(servers, topics, advice):
        assert await asyncio.to_thread(ask_all) == [100 * number + 1 for number in range(400)]
    assert learner_threads() == []


async def test_replies_errors_and_fallbacks_are_the_asynchronous_clients(
    broker: Broker, topics: Topics
) -> None:
    """Every reply and every error of the blocking client is what the asynchronous one gives."""
    servers = broker.bootstrap_servers

    async def by_asyncio(**arguments: Any) -> object:
        async with LearnerClient(servers, topics=topics, timeout_seconds=1) as client:
            try:
                return shape_of(await client.suggest_bid("agent-1", **arguments))
            except SuggestionError as error:
                return error.code, str(error), error.retry_after_ms

    def by_blocking(**arguments: Any) -> object:
        with BlockingLearnerClient(servers, topics=topics, timeout_seconds=1) as client:
            client.ready()
            try:
                return shape_of(client.suggest_bid("agent-1", **arguments))
            except SuggestionError as error:
                return error.code, str(error), error.retry_after_ms

    for script, changes in (
        (advice, {}),
        (overloaded, {}),
        (silence, {"timeout_seconds": 0.2}),
        (advice, {"base_bid_sats": -1}),
        (advice, {"timeout_seconds": 0}),
    ):
        arguments = {"description": DESCRIPTION, "base_bid_sats": 7, **changes}
        async with scripted_learner(servers, topics, script):
            assert await asyncio.to_thread(by_blocking, **arguments) == await by_asyncio(**arguments)


def shape_of(reply: Any) -> object:
    return reply.model_dump(exclude={"request_id"})


async def test_the_base_bid_when_nobody_answers(broker: Broker, topics: Topics) -> None:
    """suggest_bid_or_base gives a bid and the reason, also on a client that is not open."""
    client = BlockingLearnerClient(broker.bootstrap_servers, topics=topics, timeout_seconds=0.2)

    def bid() -> Any:
        return client.suggest_bid_or_base("agent-1", description=DESCRIPTION, base_bid_sats=700)

    def bids() -> list[Any]:
        closed = bid()
        with client:
            client.ready()
            unanswered = bid()
        return [closed, unanswered, bid()]

    closed, unanswered, after = await asyncio.to_thread(bids)
    assert [(one.bid_sats, one.advised) for one in (closed, unanswered, after)] == [(700, False)] * 3
    assert str(unanswered.reason).startswith("TIMEOUT: no reply within 0.2 s")
    for one in (closed, after):
        assert "with BlockingLearnerClient" in str(one.reason)


async def test_closing_ends_the_asks_of_other_threads(broker: Broker, topics: Topics) -> None:
    """Asks that still wait when the client is closed end with UNAVAILABLE; the client opens again."""
    servers = broker.bootstrap_servers
    client = BlockingLearnerClient(servers, topics=topics, timeout_seconds=30)
    async with scripted_learner(servers, topics, silence) as learner:
        with ThreadPoolExecutor(1) as other:
            await asyncio.to_thread(client.__enter__)
            asking = other.submit(ask, client)
            await learner.asked.get()
            assert client.pending == 1
            await asyncio.to_thread(client.__exit__, None, None, None)
            error = await asyncio.to_thread(asking.exception)
        assert isinstance(error, SuggestionError)
        assert error.code == "UNAVAILABLE"
        assert "with BlockingLearnerClient" in str(await asyncio.to_thread(refusal, lambda: ask(client)))
    async with scripted_learner(servers, topics, advice):

        def again() -> int:
            with client:
                return ask(client, 3)

        assert await asyncio.to_thread(again) == 301


async def test_inside_an_event_loop_it_names_the_asynchronous_client(
    nowhere: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a loop runs, entering, asking and publishing are refused at once; a fallback bids quietly."""
    learner, publisher = BlockingLearnerClient(nowhere), BlockingEventPublisher(nowhere)
    with pytest.raises(
        ConfigurationError, match=r"BlockingLearnerClient would stop .*async with LearnerClient"
    ):
        learner.__enter__()
    with pytest.raises(ConfigurationError, match=r"async with EventPublisher"):
        publisher.__enter__()
    with pytest.raises(ConfigurationError, match=r"asyncio.to_thread"):
        ask(learner)
    with pytest.raises(ConfigurationError, match=r"async with EventPublisher"):
        publisher.flush()
    bid = learner.suggest_bid_or_base("agent-1", description=DESCRIPTION, base_bid_sats=3)
    assert (bid.bid_sats, bid.advised) == (3, False)
    assert "async with LearnerClient" in str(bid.reason)
    assert [record for record in caplog.records if record.name == "learner_worker.client"] == []
    assert learner_threads() == []


@pytest.fixture
def nowhere() -> str:
    """An address where nothing listens."""
    return "127.0.0.1:1"


def test_a_client_without_a_broker(nowhere: str) -> None:
    """An agent starts without Kafka and bids its base; ready() and the publisher say what is wrong."""
    with BlockingLearnerClient(nowhere, timeout_seconds=0.2) as client:
        bid = client.suggest_bid_or_base("agent-1", description=DESCRIPTION, base_bid_sats=700)
        with pytest.raises(BrokerError, match=f"nothing listens at {nowhere}.*start Kafka there"):
            client.ready(0.2)
        with pytest.raises(ConfigurationError, match="open already"):
            client.__enter__()
    assert (bid.bid_sats, bid.advised) == (700, False)
    with pytest.raises(BrokerError, match=f"nothing listens at {nowhere}.*start Kafka there"):
        BlockingEventPublisher(nowhere, timeout_seconds=0.5).__enter__()
    assert learner_threads() == []


@pytest.mark.parametrize("kind", [BlockingLearnerClient, BlockingEventPublisher])
def test_impossible_kafka_options(kind: Any, nowhere: str) -> None:
    """Options that aiokafka does not know are named on entering, and no thread stays behind."""
    with pytest.raises(ConfigurationError, match="kafka_options: "):
        kind(nowhere, kafka_options={"no_such_option": 1}).__enter__()
    assert learner_threads() == []


def test_a_fault_never_stands_between_an_agent_and_its_bid(nowhere: str) -> None:
    """Even arguments of impossible types fall back to the base bid, with the fault as the reason."""
    impossible: Any = 7
    with BlockingLearnerClient(nowhere) as client:
        bid = client.suggest_bid_or_base("a", description="", base_bid_sats=3, include=impossible)
    assert (bid.bid_sats, bid.advised) == (3, False)
    assert str(bid.reason).startswith("TypeError: ")


# --- processes ------------------------------------------------------------------------------------


def python(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A program of its own, to its end; it must come within 30 s."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


FORKING = """
    import os, sys
    from learner_worker import BlockingLearnerClient, SuggestionError
    from learner_worker.contract.topics import Topics

    client = BlockingLearnerClient(sys.argv[1], topics=Topics(prefix=sys.argv[2]), timeout_seconds=10)
    def bid():
        return client.suggest_bid("agent-7", description="", base_bid_sats=1).suggested_bid_sats
    with client:
        client.ready()
        child = os.fork()
        if child == 0:
            try:
                bid()
            except SuggestionError as error:
                print("child:", error, flush=True)
            with client:  # its own
                print("child:", bid(), flush=True)
            sys.exit(7)
        print("parent:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        print("parent:", bid(), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
async def test_a_fork_neither_hangs_nor_harms_the_parent(broker: Broker, topics: Topics) -> None:
    """In a child the client says that it is not open, can be opened anew, and the parent's goes on."""
    async with scripted_learner(broker.bootstrap_servers, topics, advice):
        ended = await asyncio.to_thread(python, FORKING, broker.bootstrap_servers, topics.prefix)
    assert ended.returncode == 0, ended.stderr
    refused, *rest = ended.stdout.splitlines()
    assert refused.startswith("child: UNAVAILABLE: the client was opened in process ")
    assert "with BlockingLearnerClient" in refused
    assert rest == ["child: 2", "parent: 7", "parent: 2"]
    assert "Traceback" not in ended.stderr


LEAVING = """
    import sys
    from learner_worker import BlockingEventPublisher, BlockingLearnerClient
    from learner_worker.contract.topics import Topics

    topics = Topics(prefix=sys.argv[2])
    client = BlockingLearnerClient(sys.argv[1], topics=topics).__enter__()
    events = BlockingEventPublisher(sys.argv[1], topics=topics).__enter__()
    events.task_finished("task-1", "agent-1", succeeded=True, wait=False)
    print(client.suggest_bid_or_base("a", description="", base_bid_sats=5, timeout_seconds=0.1).bid_sats)
"""


async def test_a_program_ends_without_closing_its_clients(broker: Broker, topics: Topics) -> None:
    """At the interpreter's exit open clients are closed, what was published is flushed, nothing hangs."""
    servers = broker.bootstrap_servers
    ended = await asyncio.to_thread(python, LEAVING, servers, topics.prefix)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "5\n", "")
    assert len(await read(servers, topics.named().task_finished, 1)) == 1


INTERRUPTED = """
    import signal
    import sys
    from learner_worker import BlockingLearnerClient
    from learner_worker.contract.topics import Topics

    with BlockingLearnerClient(sys.argv[1], topics=Topics(prefix=sys.argv[2])) as client:
        client.ready()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        try:
            client.suggest_bid("a", description="", base_bid_sats=5, timeout_seconds=60)
        except KeyboardInterrupt:
            while client.pending:
                pass
            print("interrupted", flush=True)
"""


async def test_an_interrupt_ends_an_ask(broker: Broker, topics: Topics) -> None:
    """Ctrl+C while an ask waits ends it at once and leaves nothing pending."""
    servers = broker.bootstrap_servers
    async with scripted_learner(servers, topics, silence) as learner:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", textwrap.dedent(INTERRUPTED), servers, topics.prefix),
            stdout=asyncio.subprocess.PIPE,
            env=clean_environment(),
        )
        await asyncio.wait_for(learner.asked.get(), 30)
        process.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, out) == (0, b"interrupted\n")


# --- reporting ------------------------------------------------------------------------------------


async def test_events_are_the_asynchronous_publishers(broker: Broker, prefix: str) -> None:
    """Each event has the same key, partition and bytes as the asynchronous publisher's."""
    servers = broker.bootstrap_servers
    written = []
    for kind, own in (
        (BlockingEventPublisher, Topics(prefix=prefix)),
        (EventPublisher, Topics(prefix=f"{prefix}a-")),
    ):
        await create_topics(servers, own)
        if kind is BlockingEventPublisher:
            await asyncio.to_thread(_publish_blocking, servers, own)
        else:
            await _publish(servers, own)
        records = [(await read(servers, getattr(own.named(), name), 1))[0] for name in EVENTS]
        written.append([(record.key, record.partition, record.value) for record in records])
    assert written[0] == written[1]
    assert written[0][0][0] == b"task-1"
    assert written[0][0][1] == murmur2("task-1")


def _publish_blocking(servers: str, topics: Topics) -> None:
    with BlockingEventPublisher(servers, topics=topics) as events:
        assert events.bid_placed("task-1", "a", bid_sats=9, description="x", placed_at=HOLIDAY).done()
        events.auction_closed("task-1", winner_agent_id=None, closed_at=HOLIDAY, description="y")
        events.task_finished("task-1", "a", succeeded=False, finished_at=HOLIDAY)


async def _publish(servers: str, topics: Topics) -> None:
    async with EventPublisher(servers, topics=topics) as events:
        await events.bid_placed("task-1", "a", bid_sats=9, description="x", placed_at=HOLIDAY)
        await events.auction_closed("task-1", winner_agent_id=None, closed_at=HOLIDAY, description="y")
        await events.task_finished("task-1", "a", succeeded=False, finished_at=HOLIDAY)


async def test_threads_publish_without_waiting(broker: Broker, topics: Topics) -> None:
    """500 events by 20 threads without waiting: all there after the flush, all acknowledged."""
    servers = broker.bootstrap_servers

    def publish() -> list[Any]:
        with (
            BlockingEventPublisher(servers, topics=topics, timeout_seconds=30) as events,
            ThreadPoolExecutor(THREADS) as threads,
        ):

            def bid(number: int) -> Any:
                return events.bid_placed(
                    f"task-{number}", "agent-1", bid_sats=number, description="", wait=False
                )

            acknowledgements = list(threads.map(bid, range(500)))
            events.flush()
            return [acknowledgement.result(timeout=60) for acknowledgement in acknowledgements]

    assert await asyncio.to_thread(publish) == [None] * 500
    found = await read(servers, topics.named().bid_placed, 500)
    assert sorted(json.loads(record.value)["bid_sats"] for record in found) == list(range(500))


async def test_leaving_the_publisher_flushes(broker: Broker, topics: Topics) -> None:
    """Leaving the context waits for what is still on its way."""
    servers = broker.bootstrap_servers

    def publish() -> Any:
        with BlockingEventPublisher(servers, topics=topics) as events:
            return events.task_finished("task-1", "agent-1", succeeded=True, wait=False)

    acknowledgement = await asyncio.to_thread(publish)
    assert acknowledgement.result(timeout=60) is None
    assert len(await read(servers, topics.named().task_finished, 1)) == 1


async def test_what_was_not_acknowledged_is_raised(switched: SwitchedBroker) -> None:
    """Without Kafka the flush, the acknowledgement and the next event are a BrokerError that says so."""
    await create_topics(switched.servers, Topics())

    def publish() -> None:
        with BlockingEventPublisher(switched.servers, timeout_seconds=1) as events:
            events.task_finished("task-1", "agent-1", succeeded=True)
            switched.off()
            acknowledgement = events.task_finished("lost", "agent-1", succeeded=True, wait=False)
            with pytest.raises(BrokerError, match=r"(?s)publish it again.*lost"):
                events.flush()
            assert isinstance(acknowledgement.exception(timeout=60), BrokerError)
            with pytest.raises(BrokerError, match="not sent"):
                events.task_finished("task-2", "agent-1", succeeded=True)
            switched.on()

    await asyncio.to_thread(publish)


def test_a_publisher_that_is_not_open(nowhere: str) -> None:
    """Publishing outside the context says how to open the publisher."""
    events = BlockingEventPublisher(nowhere)
    with pytest.raises(BrokerError, match="with BlockingEventPublisher"):
        events.task_finished("task-1", "agent-1", succeeded=True)


async def test_a_bad_event_is_refused(broker: Broker, topics: Topics) -> None:
    """An event that breaks the contract is an InvalidEventError that names the field."""

    def publish() -> None:
        with BlockingEventPublisher(broker.bootstrap_servers, topics=topics) as events:
            events.bid_placed("", "agent-1", bid_sats=1, description="")

    with pytest.raises(InvalidEventError, match=r"^task_id: "):
        await asyncio.to_thread(publish)


# --- whose replies --------------------------------------------------------------------------------


async def test_a_reply_partition_of_its_own(broker: Broker, topics: Topics) -> None:
    """The blocking client's replies come to the partition that it names; one that is not there is said."""
    servers = broker.bootstrap_servers

    def ask_all() -> list[int]:
        with BlockingLearnerClient(servers, topics=topics, timeout_seconds=30, reply_partition=2) as client:
            return [ask(client, number) for number in range(20)]

    def open_wrongly() -> None:
        BlockingLearnerClient(servers, topics=topics, reply_partition=REPLY_PARTITIONS).__enter__()

    async with scripted_learner(servers, topics, advice) as learner:
        assert await asyncio.to_thread(ask_all) == [100 * number + 1 for number in range(20)]
    assert learner.answered_partitions == {2}
    with pytest.raises(ConfigurationError, match=r"reply_partition 3 does not exist.* has 3 partitions"):
        await asyncio.to_thread(open_wrongly)
    assert learner_threads() == []
