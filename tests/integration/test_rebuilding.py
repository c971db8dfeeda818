"""A worker whose Kafka client stands still is built anew inside the same process."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from learner_worker import replica, worker
from learner_worker.brokers import Broker
from learner_worker.settings import Settings
from learner_worker.stages.shard import ShardState
from learner_worker.stream import watchdog
from learner_worker.stream.ingest import Ingest
from learner_worker.stream.watchdog import Observation
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.swarm import swarm_history
from tests.workers import create_topics, publish, until

_observation = Ingest.observation


async def test_a_silent_client_is_replaced_and_the_work_goes_on(
    broker: Broker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first worker's consumer seems not to answer, Kafka does: a second worker finishes the work."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    events = swarm_history(41, 80)
    silent: list[Ingest[ShardState]] = []

    async def observed(ingest: Ingest[ShardState]) -> Observation:
        silent[:] = silent or [ingest]
        seen = await _observation(ingest)
        ends = None if ingest is silent[0] else seen.ends
        return Observation(seen.reading, seen.settled, seen.checkpoints, seen.positions, ends)

    monkeypatch.setattr(Ingest, "observation", observed)
    monkeypatch.setattr(worker, "_WATCH_SECONDS", 0.2)
    monkeypatch.setattr(watchdog, "_SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(replica, "_REBUILD_SECONDS", 0.1)
    settings = Settings(
        bootstrap_servers=broker.bootstrap_servers,
        topic_prefix=prefix,
        group_id=f"{prefix}learner",
        group_instance_id="only",
        session_timeout_seconds=6,
        state_dir=tmp_path / "state",
    )
    with capture_logs() as log:
        running = asyncio.create_task(replica.run_replica(settings))
        await publish(broker.bootstrap_servers, names, events)

        async def rebuilt() -> bool:
            assert not running.done(), running.result()
            return [line["event"] for line in log].count("worker.started") == 2

        await until(rebuilt, "a second worker started")
        await metrics_equal_the_model(broker, names, events)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, 30)
    (said,) = [line for line in log if line["event"] == "worker.rebuilding"]
    assert said["reason"] == "the consumer's connection does not answer"
