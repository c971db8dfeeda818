"""aiokafka's clients start and stop within bounds, whatever they do."""

import asyncio
import contextlib
import struct

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.protocol.admin import ApiVersionResponse_v0
from aiokafka.protocol.metadata import MetadataResponse_v0

from learner_worker.brokers.probing import free_ports
from learner_worker.errors import BrokerError
from learner_worker.kafka.clients import running
from learner_worker.lifecycle import KAFKA_FAILURES, Ending, end_within, start_within


async def test_an_ending_in_time_is_told_with_its_failure() -> None:
    """Well, with an error, or with a cancellation that nobody asked for: it has ended."""

    async def well() -> None:
        await asyncio.sleep(0)

    async def badly() -> None:
        raise failure

    async def cancelled() -> None:
        raise asyncio.CancelledError

    failure = OSError("gone")
    assert await end_within(well(), 5) == Ending(in_time=True)
    assert await end_within(badly(), 5) == Ending(in_time=True, failure=failure)
    assert await end_within(cancelled(), 5) == Ending(in_time=True)


async def test_an_ending_that_hangs_is_left_behind() -> None:
    """Also one that swallows its cancellation, as aiokafka's do."""
    released = asyncio.Event()

    async def hanging() -> None:
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    assert await end_within(hanging(), 0.01) == Ending(in_time=False)
    released.set()


async def test_a_client_that_does_not_start_is_stopped() -> None:
    """The failure is aiokafka's own, and of the client nothing stays open."""
    (port,) = free_ports(1)
    stopped: list[AIOKafkaProducer] = []

    async def stop(client: AIOKafkaProducer) -> None:
        await client.stop()
        stopped.append(client)

    producer = AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{port}")
    with pytest.raises(KAFKA_FAILURES):
        await start_within(producer, 5, stop=stop)
    assert stopped == [producer]


async def test_a_client_that_does_not_start_is_an_error_for_operators() -> None:
    """A sentence says so, and what the client is for never begins."""
    (port,) = free_ports(1)
    with pytest.raises(BrokerError, match="cannot connect to Kafka"):
        async with running(AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{port}"), 5):
            pytest.fail("it runs without Kafka")


@pytest.mark.parametrize("keeps_connections", [True, False])
async def test_a_client_is_started_once_kafka_names_a_broker(*, keeps_connections: bool) -> None:
    """A broker that is starting, or that its controller has fenced, names none, and may close connections."""
    answers = [0, 0, 0, 1]
    versions = ApiVersionResponse_v0(0, [(18, 0, 0), (3, 0, 0)])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                api_key, _, correlation_id = struct.unpack_from(">hhi", await reader.readexactly(size))
                body = versions.encode()
                if api_key == MetadataResponse_v0.API_KEY:
                    brokers = [(1, *writer.get_extra_info("sockname"))] * answers.pop(0)
                    body = MetadataResponse_v0(brokers, []).encode()
                writer.write(struct.pack(">ii", 4 + len(body), correlation_id) + body)
                if api_key == MetadataResponse_v0.API_KEY and not keeps_connections:
                    break
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1")
    async with server:
        host, port = server.sockets[0].getsockname()
        producer = AIOKafkaProducer(bootstrap_servers=f"{host}:{port}")
        async with running(producer, 10):
            assert [broker.port for broker in producer.client.cluster.brokers()] == [port]
    assert answers == []
