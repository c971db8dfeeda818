"""SIGTERM in the middle of a stream: exit code 0, and nothing is lost at the next start."""

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from learner_worker.brokers import Broker, BrokerKind, KafkaCluster
from learner_worker.contract.topics import TopicNames
from tests.acceptance.test_outage import AWAY_SECONDS
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.support import model
from tests.support.swarm import swarm_history
from tests.support.workers import (
    WorkerProcess,
    create_topics,
    outcomes_on_disk,
    publish,
    running_worker,
    until,
)

SOME = 500
"""Events read when a worker is stopped; a few thousand are under way."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stopped_in_the_middle_of_a_stream_nothing_is_lost(
    broker: Broker, prefix: str, tmp_path: Path, number: signal.Signals
) -> None:
    """Two stops while events flow, then a last run: every outcome is there, once."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    events = swarm_history(11, 1_500)
    state_dir = tmp_path / "state"
    half = len(events) // 2
    for part in (events[:half], events[half:]):
        async with running_worker(broker.bootstrap_servers, prefix, state_dir, fresh=True) as worker:
            publishing = asyncio.create_task(publish(broker.bootstrap_servers, names, part))

            async def has_worked() -> bool:
                return await worker.metric("learner_events_total") >= SOME

            await until(has_worked, f"{SOME} events were read")
            assert await worker.stop(number) == 0
        await publishing
    async with running_worker(broker.bootstrap_servers, prefix, state_dir) as worker:
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop(number) == 0
    assert outcomes_on_disk(state_dir) == model.outcomes(events)


async def test_killed_in_the_middle_of_a_stream_nothing_is_lost(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """kill -9 while events flow, the state folder kept: the next run repeats work, and loses nothing."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    events = swarm_history(12, 1_500)
    state_dir = tmp_path / "state"
    static = {"--group-instance-id": "only", "--session-timeout-seconds": "6"}
    publishing = asyncio.create_task(publish(broker.bootstrap_servers, names, events))
    async with running_worker(broker.bootstrap_servers, prefix, state_dir, settings=static) as worker:

        async def has_worked() -> bool:
            return await worker.metric("learner_events_total") >= 500

        await until(has_worked, "500 events were read")
        await worker.stop(signal.SIGKILL)
    await publishing
    async with running_worker(broker.bootstrap_servers, prefix, state_dir, settings=static) as worker:
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0
    assert outcomes_on_disk(state_dir) == model.outcomes(events)


async def test_a_lost_disk_is_restored_from_kafka(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """kill -9 and an empty state folder: everything is read again from Kafka, nothing counts twice."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    events = swarm_history(13, 300)
    static = {"--group-instance-id": "only", "--session-timeout-seconds": "6"}
    half = len(events) // 2
    await publish(broker.bootstrap_servers, names, events[:half])
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "lost", settings=static) as worker:
        await metrics_equal_the_model(broker, names, events[:half])
        await worker.stop(signal.SIGKILL)
    await publish(broker.bootstrap_servers, names, events[half:])
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "new", settings=static) as worker:
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0
    assert outcomes_on_disk(tmp_path / "new") == model.outcomes(events)


@pytest.mark.own_kafka
@pytest.mark.parametrize("stopped_meanwhile", [False, True])
async def test_kafka_killed_in_the_middle_of_a_backlog_loses_nothing(
    broker: Broker, tmp_path: Path, stopped_meanwhile: bool
) -> None:
    """kill -9 of the only broker past the session timeout, the worker stopped or not: nothing is lost."""
    assert broker.kind is BrokerKind.KAFKA
    events = swarm_history(14, 6_000)
    state_dir = tmp_path / "state"
    with KafkaCluster(tmp_path / "kafka") as kafka:
        names = await create_topics(kafka.bootstrap_servers, "")
        await publish(kafka.bootstrap_servers, names, events)
        async with running_worker(kafka.bootstrap_servers, "", state_dir) as worker:

            async def has_worked() -> bool:
                return await worker.metric("learner_events_total") >= 5_000

            await until(has_worked, "5,000 events were read")
            kafka.kill(1)
            if stopped_meanwhile:
                assert await worker.stop() in {0, 1}  # 0: Kafka had acknowledged everything before
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(worker.process.wait(), AWAY_SECONDS)
                assert worker.process.returncode is None
                assert (await worker.get("/healthz"))[0] == 200
            await asyncio.to_thread(kafka.start, 1)
            if not stopped_meanwhile:
                await _judge(kafka.bootstrap_servers, names, worker, events, state_dir)
        if stopped_meanwhile:
            async with running_worker(kafka.bootstrap_servers, "", state_dir) as worker:
                await _judge(kafka.bootstrap_servers, names, worker, events, state_dir)


async def _judge(
    servers: str, names: TopicNames, worker: WorkerProcess, events: Sequence[model.Event], state_dir: Path
) -> None:
    kafka = Broker(BrokerKind.KAFKA, servers, "the test's own")
    await metrics_equal_the_model(kafka, names, events, seconds=90)
    assert await worker.stop() == 0
    assert outcomes_on_disk(state_dir) == model.outcomes(events)
