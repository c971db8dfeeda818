"""Replicas come and go, disks die, a broker dies: no outcome is lost, none counted twice, no answer wrong.

The short column; `make chaos` runs the long one. Each test ends with the same judgement: every outcome,
changelog record, metrics record, position and reply against the model.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from learner_worker.brokers import BrokerKind, KafkaCluster
from tests.programs.chaos import faults
from tests.programs.chaos.scene import Plan, Scene, running_scene

pytestmark = [pytest.mark.own_kafka, pytest.mark.timeout(900)]  # three brokers and three workers on few cores

NODES = 3
KILLS = 5
QUICK_FAILOVER = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}
PLAN = Plan(events_a_second=80, asks_a_second=3)
# A restart must not be taken for a death, nor a slow machine's restart for a lost request.
PATIENT = replace(PLAN.patient(), deadline_seconds=60)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three nodes for all of these tests; topics are each test's own."""
    with KafkaCluster(tmp_path_factory.mktemp("kafka"), nodes=NODES, properties=QUICK_FAILOVER) as cluster:
        yield cluster


async def test_workers_killed_and_disks_lost(
    kafka: KafkaCluster, started_kind: BrokerKind, prefix: str, tmp_path: Path
) -> None:
    """Five times kill -9 among three replicas, some with their disk lost, some back late."""
    async with running_scene(kafka, tmp_path, PLAN, prefix=prefix, say=print) as scene:
        for _ in range(KILLS):
            await faults.kill_worker(scene)
        await _holds(scene)
    assert scene.crashed_files_checked > 0


async def test_a_broker_killed(
    kafka: KafkaCluster, started_kind: BrokerKind, prefix: str, tmp_path: Path
) -> None:
    """kill -9 of one of three brokers, back seconds later."""
    async with running_scene(kafka, tmp_path, PLAN, prefix=prefix, say=print) as scene:
        await faults.kill_broker(scene)
        await _holds(scene)


async def test_a_worker_suspended_past_its_session_timeout(
    kafka: KafkaCluster, started_kind: BrokerKind, prefix: str, tmp_path: Path
) -> None:
    """SIGSTOP until the others have its shards, then SIGCONT: what it still writes changes nothing."""
    async with running_scene(kafka, tmp_path, PLAN, prefix=prefix, say=print) as scene:
        await faults.suspend_worker(scene)
        await _holds(scene)


async def test_a_rolling_restart_moves_no_shard_and_loses_no_request(
    kafka: KafkaCluster, started_kind: BrokerKind, prefix: str, tmp_path: Path
) -> None:
    """Three static members restarted in turn: the group's generation stays, every request is answered."""
    async with running_scene(kafka, tmp_path, PATIENT, prefix=prefix, say=print) as scene:
        assert await faults.restart_workers(scene) == 0
        await _holds(scene)
    assert scene.unanswered() == []


async def _holds(scene: Scene) -> None:
    report = await scene.report()
    assert report.failures == []
    assert (report.lost, report.duplicated, report.wrong) == (0, 0, 0)
    assert report.outcomes > 0
