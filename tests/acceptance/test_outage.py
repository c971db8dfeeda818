"""Kafka away and back: the worker stays healthy, says both once, and goes on."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from learner_worker.brokers import Broker, BrokerKind, KafkaCluster, embedded
from learner_worker.brokers.probing import free_ports
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.support import model
from tests.support.swarm import swarm_history
from tests.support.workers import (
    OUTAGE_EVENTS,
    create_topics,
    health_watched,
    outages_said,
    outcomes_on_disk,
    publish,
    running_worker,
    said_back,
)

AWAY_SECONDS = 12.0  # longer than a worker's session timeout


class Stoppable(NamedTuple):
    """A broker of the test's own that goes away without a word and comes back on its address and data."""

    broker: Broker
    end: Callable[[], None]
    start_again: Callable[[], None]


@contextmanager
def stoppable(kind: BrokerKind, folder: Path) -> Iterator[Stoppable]:
    """A broker of the given kind."""
    if kind is BrokerKind.KAFKA:
        with KafkaCluster(folder) as kafka:
            broker = Broker(kind, kafka.bootstrap_servers, "the test's own")
            yield Stoppable(broker, lambda: kafka.kill(1), lambda: kafka.start(1))
        return
    (port,) = free_ports(1)
    server = f"127.0.0.1:{port}"

    embedded.start(folder, port)
    try:
        yield Stoppable(
            Broker(kind, server, "the test's own"),
            end=lambda: embedded.stop(folder, server),
            start_again=lambda: embedded.start(folder, port),
        )
    finally:
        embedded.stop(folder, server)


async def test_an_outage_leaves_the_worker_healthy_and_is_said_once(
    started_kind: BrokerKind, tmp_path: Path
) -> None:
    """/healthz answers 200 all through, the log says once that Kafka is away and once that it is back."""
    if started_kind is BrokerKind.DOCKER:
        pytest.skip("a container's broker is stopped with its container")
    events = swarm_history(15, 200)
    half = len(events) // 2
    with stoppable(started_kind, tmp_path / "broker") as stopped:
        servers = stopped.broker.bootstrap_servers
        names = await create_topics(servers, "")
        async with running_worker(servers, "", tmp_path / "state") as worker:
            await publish(servers, names, events[:half])
            await metrics_equal_the_model(stopped.broker, names, events[:half])
            async with health_watched({"the worker": worker}) as health:
                await asyncio.to_thread(stopped.end)
                with suppress(TimeoutError):
                    await asyncio.wait_for(worker.process.wait(), AWAY_SECONDS)
                assert worker.process.returncode is None
                await asyncio.to_thread(stopped.start_again)
                await said_back(worker)
            await publish(servers, names, events[half:])
            await metrics_equal_the_model(stopped.broker, names, events)
            assert health.bad == []
            assert health.good > AWAY_SECONDS
            assert outages_said(worker) == dict.fromkeys(OUTAGE_EVENTS, 1)
            assert await worker.stop() == 0
    assert outcomes_on_disk(tmp_path / "state") == model.outcomes(events)
