"""aiokafka's clients start and stop within bounds, whatever they do."""

import asyncio
import contextlib

import pytest
from aiokafka import AIOKafkaProducer

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
