"""The faults: each is a small function on a running scene, and over when the system is whole again."""

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from learner_worker.contract.topics import ROOMY_RECORD_BYTES
from tests.programs.chaos.group import generation_of
from tests.programs.chaos.scene import Scene, Window
from tests.support.workers import (
    OUTAGE_EVENTS,
    Health,
    administrator,
    health_watched,
    outages_said,
    said_back,
    until,
)

_NODES = 3
_LONGEST_PAUSE_SECONDS = 3.0
_LIMITS = (8_000, 20_000, 50_000)
"""Bytes: less than a batch, more than a fact or a metrics record of the swarm."""
_REJOINS = 3
"""Members that die and come back: enough log lines of the others to fill a pipe of one page."""
_UNREAD = 1_000
"""Events published while nobody reads a replica's log."""
_UNDER_A_LIMIT = 1_000
"""Events published while a limit is low."""


async def kill_worker(scene: Scene) -> None:
    """kill -9 of a replica at a random moment or amid a write, half of the disks lost, back soon or late.

    One in four comes back only after its session has timed out: its shards went to the others meanwhile.
    """
    rng = scene.rng
    await asyncio.sleep(rng.uniform(0, _LONGEST_PAUSE_SECONDS))
    name = rng.choice(scene.plan.replicas)
    lost, amid = rng.random() < 0.5, rng.random() < 0.5
    late = rng.random() < 0.25
    async with scene.fault(f"kill -9 of {name}{', disk lost' * lost}{', back late' * late}"):
        await scene.replicas.kill(name, in_a_write=amid)
        replica = scene.replicas[name]
        remains = scene.remains(replica)
        if lost:
            replica.lose_disk()
        if late:
            await _taken_over(scene, name)
        else:
            await asyncio.sleep(rng.uniform(0, 1))
        await scene.replicas.start(name)
    await scene.examine(remains)


async def suspend_worker(scene: Scene) -> None:
    """SIGSTOP until the others have taken its shards over, and some seconds more; then SIGCONT."""
    rng = scene.rng
    name = rng.choice(scene.plan.replicas)
    async with scene.fault(f"SIGSTOP of {name}"):
        scene.replicas.suspend(name)
        await _taken_over(scene, name)
        await asyncio.sleep(rng.uniform(0, _LONGEST_PAUSE_SECONDS))
        scene.replicas.resume(name)


async def _taken_over(scene: Scene, name: str) -> None:
    """Waits until the other replicas share out all shards among them."""

    async def shared_out() -> bool:
        others = [replica for replica in scene.replicas.running if replica.name != name]
        shards = sorted(shard for replica in others for shard in replica.shards)
        return shards == list(range(scene.plan.partitions))

    await until(shared_out, f"the others have the shards of {name}", seconds=120)


async def kill_broker(scene: Scene) -> None:
    """kill -9 of one of three brokers, back after some seconds with its data."""
    rng = scene.rng
    node = rng.randint(1, _NODES)
    async with scene.fault(f"kill -9 of broker {node}"):
        await asyncio.to_thread(scene.kafka.kill, node)
        await asyncio.sleep(rng.uniform(1, 2 * _LONGEST_PAUSE_SECONDS))
        await asyncio.to_thread(scene.kafka.start, node)
        await scene.in_sync()


async def lower_limits(scene: Scene) -> None:
    """Batches no longer fit into the changelog and the metrics topic, for some seconds under load."""
    most = scene.rng.choice(_LIMITS)
    async with scene.fault(f"batches of {most} bytes at most"):
        await _limit(scene, most)
        await scene.published(scene.swarm.published + _UNDER_A_LIMIT)
        await asyncio.sleep(scene.rng.uniform(1, _LONGEST_PAUSE_SECONDS))
        await _limit(scene, ROOMY_RECORD_BYTES)


async def stop_log_reader(scene: Scene) -> float:
    """The log of a replica fills its pipe, or loses its reader, while the group loses and regains another.

    The reader goes on, or the replica is restarted: it stops with exit code 0 either way.

    Returns:
        How many lines the replica says it has lost.
    """
    rng = scene.rng
    silent, other = rng.sample(scene.plan.replicas, 2)
    gone = len(scene.windows) % 2 == 0
    async with scene.fault(f"log of {silent}: {'no reader' if gone else 'the reader stands still'}"):
        scene.replicas.stop_log(silent, signal.SIGKILL if gone else signal.SIGSTOP)
        for _ in range(_REJOINS):
            await scene.replicas.kill(other)
            await asyncio.sleep(scene.plan.session_timeout_seconds + 1)
            await scene.replicas.start(other)
        await scene.published(scene.swarm.published + _UNREAD)
        lost = await scene.replicas[silent].running.metric("learner_log_lines_lost_total")
        if not gone:
            scene.replicas.stop_log(silent, signal.SIGCONT)
        code = await scene.replicas.stop(silent)
        assert code == 0, f"replica {silent} ended with exit code {code}"
        await scene.replicas.start(silent)
    return lost


async def _limit(scene: Scene, most_bytes: int) -> None:
    resources = [
        ConfigResource(
            ConfigResourceType.TOPIC,
            topic,
            {**scene.names.configuration(topic), "max.message.bytes": str(most_bytes)},
        )
        for topic in (scene.names.outcomes, scene.names.metrics)
    ]
    async with administrator(scene.kafka.bootstrap_servers) as admin:
        await admin.alter_configs(resources)


async def restart_workers(scene: Scene) -> int:
    """SIGTERM, start again, wait until ready: one replica after the other.

    The session timeout has to be longer than a restart, as an operator would set it.

    Returns:
        By how much the group's generation grew.
    """
    servers, group_id = scene.kafka.bootstrap_servers, scene.replicas.group_id
    before = await generation_of(servers, group_id)
    async with scene.fault("rolling restart"):
        for name in scene.plan.replicas:
            code = await scene.replicas.stop(name)
            assert code == 0, f"replica {name} ended with exit code {code}"
            await scene.replicas.start(name)
            await scene.replicas.settled()
    return await generation_of(servers, group_id) - before


async def take_kafka_away(scene: Scene, *, nodes: int, seconds: float) -> Health:
    """kill -9 of every broker, all of them back after the given time.

    Returns:
        What the replicas' /healthz answered from before to after; a log that does not say once that Kafka is
        away and once that it is back is among the bad.
    """
    workers = {replica.name: replica.running for replica in scene.replicas.running}
    before = {name: outages_said(worker) for name, worker in workers.items()}
    async with health_watched(workers) as health, scene.fault(f"Kafka away for {seconds:g} s"):
        await asyncio.gather(*(asyncio.to_thread(scene.kafka.kill, node) for node in range(1, nodes + 1)))
        await asyncio.sleep(seconds)
        # Together: a node answers only when there is a majority.
        await asyncio.gather(*(asyncio.to_thread(scene.kafka.start, node) for node in range(1, nodes + 1)))
        await scene.in_sync()
    await asyncio.gather(*map(said_back, workers.values()))
    for name, worker in workers.items():
        after = outages_said(worker)
        health.bad += unsaid(name, {event: after[event] - before[name][event] for event in OUTAGE_EVENTS})
    return health


def unsaid(name: str, said: Mapping[str, int]) -> list[str]:
    """What a replica's log did not say exactly once of an outage."""
    return [f"the log of {name} says {event} {count} times" for event, count in said.items() if count != 1]


@dataclass(frozen=True, slots=True)
class Move:
    """What a change of the number of replicas cost.

    Attributes:
        moved: how many shards changed hands; `least` is the fewest that could.
        silent_seconds: seconds without an answer of every shard that moved, by what its new owner had of it:
            `a standby`, `a file` or `nothing`.
    """

    step: str
    moved: int
    least: int
    silent_seconds: Mapping[str, list[float]]


async def scale(scene: Scene, *names: str) -> Move:
    """Starts and stops replicas until exactly these run; a stopped one's shards go when its session ends."""
    before = scene.replicas.owners()
    known = {
        (name, shard)
        for name in names
        for shard in range(scene.plan.partitions)
        if scene.replicas[name].file_of(shard).exists()
    }
    running = {replica.name for replica in scene.replicas.running}
    step = f"{len(running)} to {len(names)} replicas"
    async with scene.fault(step):
        for name in running - set(names):
            assert await scene.replicas.stop(name) == 0
        await scene.replicas.start(*(name for name in names if name not in running))
        await _shared_out_among(scene, names)
    after = scene.replicas.owners()
    return _move(scene, step, before, after, known)


async def _shared_out_among(scene: Scene, names: tuple[str, ...]) -> None:
    async def each_has_some() -> bool:
        shares = [scene.replicas[name].shards for name in names]
        return all(shares) and sum(map(len, shares)) == scene.plan.partitions

    await until(each_has_some, f"{names} share the shards", seconds=120)


def _move(
    scene: Scene,
    step: str,
    before: Mapping[int, str],
    after: Mapping[int, str],
    known: set[tuple[str, int]],
) -> Move:
    gaps = scene.windows[-1].gaps
    kept = "a standby" if "--standby-replicas" in scene.plan.settings else "a file"
    silent: dict[str, list[float]] = {}
    moved = [shard for shard in after if after[shard] != before[shard]]
    for shard in moved:
        found = kept if (after[shard], shard) in known else "nothing"
        silent.setdefault(found, []).append(gaps[shard])
    return Move(step, len(moved), least_moves(before, after), silent)


def least_moves(before: Mapping[int, str], after: Mapping[int, str]) -> int:
    """The fewest shards that have to change hands for the owners after to hold even shares."""
    names = set(after.values())
    held = sorted((sum(owner == name for owner in before.values()) for name in names), reverse=True)
    small, larger = divmod(len(after), len(names))
    shares = [small + 1] * larger + [small] * (len(names) - larger)
    return len(after) - sum(map(min, held, shares))


async def kill_owner(
    scene: Scene, name: str, kept: str, *, lose_disk: bool = False, start_again: bool = True
) -> Window:
    """kill -9 of a replica: started again with its disk or an empty one, or its shards are the others'."""
    async with scene.fault(kept):
        await scene.replicas.kill(name)
        if lose_disk:
            scene.replicas[name].lose_disk()
        if start_again:
            await scene.replicas.start(name)
        else:
            await _taken_over(scene, name)
    return scene.windows[-1]
