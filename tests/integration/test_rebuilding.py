"""A worker whose Kafka client stands still is built anew inside the same process."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaTimeoutError
from structlog.testing import capture_logs

from learner_worker.brokers import Broker
from learner_worker.kafka import watchdog
from learner_worker.kafka.watchdog import Reading, look
from learner_worker.settings import Settings
from learner_worker.worker import replica, stopping
from learner_worker.worker.consumer import EventConsumer
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.support.swarm import swarm_history
from tests.support.workers import create_topics, http_get, publish, until

LOGGED = ("kafka.away", "worker.rebuilding", "kafka.back")
_reading = EventConsumer.reading


class SilentClient:
    """A consumer whose connection does not answer."""

    async def end_offsets(self, _: Any) -> dict[TopicPartition, int]:
        raise KafkaTimeoutError


async def test_a_silent_client_is_replaced_and_the_work_goes_on(
    broker: Broker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first worker's consumer seems not to answer, Kafka does: a second worker finishes the work."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    events = swarm_history(41, 80)
    the_first_is_silent(monkeypatch)
    monkeypatch.setattr(replica, "REBUILD_SECONDS", 0.1)
    settings = settings_for(broker, prefix, tmp_path)
    with capture_logs() as log:
        running = asyncio.create_task(replica.run_replica(settings))
        await publish(broker.bootstrap_servers, names, events)

        async def rebuilt() -> bool:
            assert not running.done(), running.result()
            return [line["event"] for line in log].count("worker.started") == 2

        await until(rebuilt, "a second worker started")
        await metrics_equal_the_model(broker, names, events)

        async def back() -> bool:
            return any(line["event"] == "kafka.back" for line in log)

        await until(back, "what the first worker missed works again")
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, 30)
    logged = [line["event"] for line in log if line["event"] in LOGGED]
    assert logged == list(LOGGED)
    (said,) = [line for line in log if line["event"] == "worker.rebuilding"]
    assert said["reason"] == "asking for the ends of events fails repeatedly"


async def test_a_stop_does_not_wait_until_the_clients_are_built_anew(
    broker: Broker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two workers nothing is at work: it is healthy, not ready, and ends at once and well."""
    await create_topics(broker.bootstrap_servers, prefix)
    the_first_is_silent(monkeypatch)
    monkeypatch.setattr(replica, "REBUILD_SECONDS", 60)
    with capture_logs() as log:
        running = asyncio.create_task(replica.run_replica(settings_for(broker, prefix, tmp_path)))

        async def said(event: str) -> dict[str, Any] | None:
            assert not running.done(), running.result()
            return next((dict(line) for line in log if line["event"] == event), None)

        url = (await until(lambda: said("http.listening"), "it listens"))["url"]
        await until(lambda: said("worker.rebuilding"), "it is built anew")

        async def answers() -> bool:
            status, body = await asyncio.to_thread(http_get, f"{url}/readyz")
            return (status, json.loads(body)["status"]) == (503, "rebuilding")

        await until(answers, "it is not ready")
        status, body = await asyncio.to_thread(http_get, f"{url}/healthz")
        assert (status, json.loads(body)["status"]) == (200, "rebuilding")
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, 30)
    assert log[-1]["event"] == "worker.stopped"


@pytest.fixture(autouse=True)
def no_end_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica is in the test's own process, which lives on long after it was told to stop."""
    monkeypatch.setattr(stopping, "end_by_force_after", lambda _: None)


def the_first_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first worker's consumer of events seems not to answer; the watchdog is quick to say so."""
    silent: list[EventConsumer] = []

    async def looked_at(events: EventConsumer) -> Reading:
        silent[:] = silent or [events]
        if events is silent[0]:
            return await look("events", SilentClient(), {TopicPartition("any", 0): 0}, events.outage)
        return await _reading(events)

    monkeypatch.setattr(EventConsumer, "reading", looked_at)
    monkeypatch.setattr(watchdog, "WATCH_SECONDS", 0.2)
    monkeypatch.setattr(watchdog, "SILENCE_SECONDS", 1.0)


def settings_for(broker: Broker, prefix: str, tmp_path: Path) -> Settings:
    """A replica's settings."""
    return Settings(
        bootstrap_servers=broker.bootstrap_servers,
        topic_prefix=prefix,
        group_id=f"{prefix}learner",
        group_instance_id="only",
        session_timeout_seconds=6,
        state_dir=tmp_path / "state",
    )
