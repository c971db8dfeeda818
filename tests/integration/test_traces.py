"""Traces by a real OTLP receiver: one request from its client to the reply, and an auction across the log."""

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from learner_worker import LearnerClient, Topics
from learner_worker.brokers import Broker, BrokerKind
from learner_worker.contract.topics import TopicNames
from tests.conftest import BrokerPool
from tests.support import model
from tests.support.collector import Collector, Received, collecting
from tests.support.workers import create_topics, publish, running_worker, until

REQUEST: Final = {"agent_id": "agent-1", "base_bid_sats": 100, "description": "fix it", "request_id": "r-1"}
W3C: Final = TraceContextTextMapPropagator()
UNSAMPLED: Final = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
AT: Final = 1_767_225_600_000_000


def tracer_of_client(collector: Collector) -> trace.Tracer:
    """The client's own OpenTelemetry, which knows nothing of the learner."""
    provider = TracerProvider(resource=Resource({"service.name": "bidding-agent"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{collector.url}/v1/traces")))
    return provider.get_tracer("bidding-agent")


class Client:
    """A plain Kafka client that asks and reads replies."""

    def __init__(self, producer: Any, replies: Any, names: TopicNames) -> None:
        self._producer = producer
        self._replies = replies
        self._names = names

    async def ask(self, traceparent: bytes) -> Any:
        """Sends a request with this header and waits for the reply."""
        await self._producer.send_and_wait(
            self._names.requests,
            json.dumps(REQUEST).encode(),
            key=b"agent-1",
            headers=[("traceparent", traceparent)],
        )
        return await asyncio.wait_for(self._replies.getone(), 60)


async def traced(client: Client, tracer: trace.Tracer) -> None:
    """Asks within a span of the client's, and receives the reply within one that continues the reply's."""
    asking = tracer.start_span("ask", Context())
    carrier: dict[str, str] = {}
    W3C.inject(carrier, trace.set_span_in_context(asking, Context()))
    reply = await client.ask(carrier["traceparent"].encode())
    named = {name: value.decode() for name, value in reply.headers}
    received = tracer.start_span("receive", W3C.extract(named, Context()))
    await asyncio.to_thread(received.end)  # it is sent at once, over HTTP to this event loop
    await asyncio.to_thread(asking.end)


async def asked_by_the_library(servers: str, topics: Topics, tracer: trace.Tracer) -> None:
    """Asks by the client library, which is given the current trace as OpenTelemetry has it."""

    def carried() -> dict[str, str]:
        carrier: dict[str, str] = {}
        W3C.inject(carrier)
        return carrier

    client = LearnerClient(servers, topics=topics, timeout_seconds=60, trace_context=carried)
    async with client:
        asking = tracer.start_span("suggest", Context())
        with trace.use_span(asking):
            await client.suggest_bid("agent-1", description="fix it", base_bid_sats=100)
        await asyncio.to_thread(asking.end)


async def answered_within(collector: Collector, name: str) -> None:
    """Waits until the learner's span in a client's has been received."""

    async def is_there() -> bool:
        return bool(collector.children_of(collector.named(name)[0]))

    await until(is_there, f"a span within {name}")


async def shown(collector: Collector, names: set[str]) -> None:
    """Waits until spans of all of these names have been received."""

    async def all_there() -> bool:
        return names <= {each.name for each in collector.spans}

    await until(all_there, f"spans {sorted(names)}")


async def made_durable(collector: Collector) -> None:
    """Waits until every event of the auction is settled and learned, and a checkpoint has made it durable."""

    async def are_linked() -> bool:
        settled, learned = collector.named("settle"), collector.named("learn")
        wanted = {each.span.span_id for each in [*settled, *learned]}
        facts = sum(map(facts_of, settled))
        return len(settled) == len(auction()) and len(learned) == facts and wanted <= linked(collector)

    await until(are_linked, "the auction is durable")


def linked(collector: Collector) -> set[bytes]:
    """The spans that checkpoints link to."""
    return set[bytes]().union(*(each.linked for each in collector.named("checkpoint")))


@pytest.fixture(name="embedded")
def fixture_embedded(broker_pool: BrokerPool, broker_kinds: frozenset[BrokerKind]) -> Broker:
    """One broker is enough: what is shown does not depend on it."""
    kind = BrokerKind.EMBEDDED if BrokerKind.EMBEDDED in broker_kinds else min(broker_kinds)
    return broker_pool.broker(kind)


async def test_a_trace_goes_from_the_client_to_the_reply_and_an_auctions_across_the_log(
    embedded: Broker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker: a traced request, one that is not sampled, one with a broken header, and an auction."""
    servers = embedded.bootstrap_servers
    names = await create_topics(servers, prefix, partitions=2)
    async with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
        settings = {"--traces": "true", "--trace-events": "1"}
        async with (
            running_worker(servers, prefix, tmp_path / "state", settings=settings) as worker,
            AIOKafkaProducer(bootstrap_servers=servers) as producer,
            AIOKafkaConsumer(names.replies, bootstrap_servers=servers) as replies,
        ):
            client = Client(producer, replies, names)
            assert "traceparent" not in dict((await client.ask(UNSAMPLED)).headers)
            assert "traceparent" not in dict((await client.ask(b"\xff-00-")).headers)
            await traced(client, tracer_of_client(collector))
            await asked_by_the_library(servers, Topics(prefix=prefix), tracer_of_client(collector))
            await publish(servers, names, auction())
            await shown(collector, {"ask", "receive", "suggest", f"process {names.requests}"})
            await answered_within(collector, "suggest")
            await made_durable(collector)
            assert await worker.stop() == 0
        check_request(collector, names)
        check_auction(collector)


def auction() -> list[model.Event]:
    """A bid, a close and a result."""
    return [
        model.BidPlaced("task-1", "agent-1", 100, "fix it", AT),
        model.AuctionClosed("task-1", "agent-1", 100, AT + 1_000_000),
        model.TaskFinished("task-1", "agent-1", True, AT + 2_000_000),
    ]


def check_request(collector: Collector, names: TopicNames) -> None:
    """One trace: the client's span, in it the learner's, in them the client's again."""
    [asking] = collector.named("ask")
    [processing] = collector.children_of(asking)
    inner = collector.children_of(processing)
    [sending] = [each for each in inner if each.name == "send reply"]
    [receiving] = collector.children_of(sending)
    spans = [asking, processing, *inner, receiving]

    assert [(each.service, each.name) for each in (asking, processing, receiving)] == [
        ("bidding-agent", "ask"),
        ("learner-worker", f"process {names.requests}"),
        ("bidding-agent", "receive"),
    ]
    assert sorted(each.name for each in inner) == ["advise", "send reply"]
    assert {each.span.trace_id for each in spans} == {asking.span.trace_id}
    assert len(collector.named(f"process {names.requests}")) == 2  # the other one is the library's
    attributes = {each.key: each.value for each in processing.span.attributes}
    assert attributes["messaging.destination.name"].string_value == names.requests
    assert attributes["learner.code"].string_value == "OK"
    for earlier, later in ((processing, sending), (sending, receiving)):
        assert earlier.span.start_time_unix_nano <= later.span.start_time_unix_nano
    assert sending.span.end_time_unix_nano <= processing.span.end_time_unix_nano


def check_auction(collector: Collector) -> None:
    """Each event settled once; what is learned links to it, and a checkpoint to what it made durable."""
    settled, learned = collector.named("settle"), collector.named("learn")
    by_id = {each.span.span_id: each for each in settled}

    assert len(settled) == 3
    assert len(learned) >= 2
    assert all(each.linked <= by_id.keys() and len(each.linked) == 1 for each in learned)
    assert linked(collector) >= {each.span.span_id for each in [*settled, *learned]}
    assert {each.service for each in [*settled, *learned]} == {"learner-worker"}


def facts_of(settled: Received) -> int:
    """How many facts followed from an event."""
    [value] = [each.value.int_value for each in settled.span.attributes if each.key == "learner.facts"]
    return int(value)
