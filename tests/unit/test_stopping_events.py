"""The reading loop ends when it is told to, whatever the group does, and says how long it was away."""

import asyncio
from pathlib import Path

import pytest

from learner_worker.errors import ConfigurationError, DuplicateInstanceError, StateError
from tests.support.conditions import becomes_true
from tests.support.steady import SteadyTopics
from tests.support.wiring import partitions_of
from tests.unit.test_duplicate_instances import Replica


async def test_a_stop_does_not_wait_for_the_end_of_a_rebalance(tmp_path: Path) -> None:
    """A poll waits for all members to join again, which may take minutes; a supervisor kills before."""
    replica, stopping = Replica(tmp_path), asyncio.Event()
    reading = replica.read(stopping)
    await replica.consumer.polled.wait()
    stopping.set()
    async with asyncio.timeout(5):
        await reading


async def test_a_loop_whose_poll_waits_for_kafka_hangs_nowhere(tmp_path: Path) -> None:
    """Its poll may wait for as long as Kafka is away: that is no reason to kill the process."""
    replica, stopping = Replica(tmp_path), asyncio.Event()
    reading = replica.read(stopping)
    await replica.consumer.polled.wait()
    assert replica.worker.events.away_from_poll_seconds == 0
    stopping.set()
    await reading


async def test_a_loop_that_hangs_beside_its_poll_is_seen(tmp_path: Path) -> None:
    """What it processes takes its time from the last poll on."""
    replica, stopping = Replica(tmp_path), asyncio.Event()
    replica.consumer.empty_polls = True
    async with replica.worker.ownership.processing:  # as a checkpoint in a rebalance holds it
        reading = replica.read(stopping)
        await replica.consumer.polled.wait()
        await becomes_true(lambda: replica.worker.events.away_from_poll_seconds > 0.1)
        stopping.set()
    await reading


async def test_a_replaced_replica_without_shards_stays_out_too(tmp_path: Path) -> None:
    """Two replicas of one name and no shard left for them would throw each other out for ever."""
    replica = Replica(tmp_path)
    await replica.worker.rebalance.on_partitions_assigned(set())
    reading = replica.read()
    await replica.consumer.polled.wait()
    staying_out = asyncio.create_task(replica.worker.rebalance.on_partitions_revoked(set()))
    async with asyncio.timeout(5):
        with pytest.raises(DuplicateInstanceError):
            await reading
    staying_out.cancel()


async def reading_ends(replica: Replica, error: type[Exception], words: str) -> None:
    """A replica that is assigned a shard stops reading with this error."""
    async with replica.worker.preparation.running():
        reading = replica.read()
        await replica.consumer.polled.wait()
        await replica.worker.rebalance.on_partitions_assigned(partitions_of(0))
        async with asyncio.timeout(5):
            with pytest.raises(error, match=words):
                await reading


async def test_topics_that_changed_end_the_worker_before_a_shard_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file would be made for another number of partitions."""
    replica = Replica(tmp_path / "state")
    (tmp_path / "state").mkdir()

    async def changed(_: SteadyTopics) -> None:
        raise ConfigurationError("the topics have 24 partitions now")

    monkeypatch.setattr(SteadyTopics, "look", changed)
    await reading_ends(replica, ConfigurationError, "24 partitions now")
    assert list((tmp_path / "state").iterdir()) == []


async def test_a_standby_that_cannot_be_closed_ends_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is not taken for an absence of Kafka: that would be waited for in silence."""
    replica = Replica(tmp_path)

    async def no_room() -> None:
        raise StateError("the disk is full")

    monkeypatch.setattr(replica.worker.standbys, "release_unwanted", no_room)
    await reading_ends(replica, StateError, "the disk is full")
