"""A worker process: the real loops, shards, standbys and files, on simulated clients and disk."""

import asyncio
import functools
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from learner_worker.contract.fields import ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import Topics
from learner_worker.domain.retention import Policy
from learner_worker.errors import StuckError
from learner_worker.group.assignor import StateKeepingAssignor
from learner_worker.group.placement import Claim
from learner_worker.kafka.outage import Outage
from learner_worker.observability import Instruments
from learner_worker.requests.clock import Clock
from learner_worker.settings import Settings
from learner_worker.shard.shard import Shard
from learner_worker.store.shard_file import ShardFile
from learner_worker.worker.ownership import ShardStatus
from learner_worker.worker.platform import Guard, Intervals, Platform, SnapshotPlatform
from learner_worker.worker.worker import UNFINISHED, Worker
from tests.simulation import loop
from tests.simulation.broker import Broker
from tests.simulation.checks import positions_of, strategies_of
from tests.simulation.clients import (
    Admin,
    Consumer,
    Follower,
    Producer,
    ReplyProducer,
    RequestReader,
    connected,
)
from tests.simulation.disk import Disk
from tests.simulation.snapshots import Bucket, BucketClient, SimulatedCopies
from tests.support.steady import SteadyTopics

SECOND = 1_000_000
TOLERANCE = SECOND
HORIZON = 3_600 * SECOND
GRACE = 13 * SECOND
"""As long as a bid may be placed before its close, and no more, so that parts of one outcome expire apart."""
TOPICS = Topics().named()
SOURCES = (TOPICS.bid_placed, TOPICS.auction_closed, TOPICS.task_finished, TOPICS.rerouted)
REQUEST_TTL_SECONDS = 10
NEVER_SECONDS = 1e10
"""A loop that the clock's jumps take for stalled would wait for the group's word, request by request."""
STANDBY_IDLE_SECONDS = 0.5
REQUEST_POLL_MS = 500
"""Fewer idle turns, faster seeds."""
_runs = itertools.count()


@functools.cache
def instruments() -> Instruments:
    """One set for all: nobody looks at them here."""
    return Instruments()


def _every_strategy() -> None:
    """None are named: a process has all that are built in."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How a process's surroundings behave.

    Attributes:
        latency: what every await of a client or a file costs.
        fetch_limit: how many records of a partition a fetch brings.
        batch_limit: how many records fill a producer's batch.
        refuses: whether the producer takes no batch just now.
        fetch_seconds: what a fetch costs besides.
        idle_seconds: how long at least a fetch without records takes; fewer idle polls, faster seeds.
        frontier_seconds: how often a worker asks how far the others have read.
        standby_replicas: how many standbys every shard is to have.
        retention: how long closes count, in microseconds; None: for ever.
        strategies: those that a process has besides classic; None: all.
        snapshot_seconds: how often snapshots are made, where there is a bucket for them.
    """

    latency: Callable[[], Awaitable[None]]
    fetch_limit: Callable[[], int]
    batch_limit: Callable[[], int]
    refuses: Callable[[], bool]
    fetch_seconds: float = 0.0
    idle_seconds: float = 0.0
    checkpoint_seconds: float = 1.0
    cached_agents: int = 1_000
    frontier_seconds: float = 1.0
    standby_replicas: int = 0
    retention: int | None = None
    strategies: Callable[[], list[str] | None] = _every_strategy
    snapshot_seconds: float = 2.0


class SimulatedClock(Clock):
    """The world's clock."""

    def __init__(self, clock: loop.Clock) -> None:
        self._clock = clock

    def now(self) -> Micros:
        return Micros(self._clock.micros)

    def monotonic(self) -> float:
        return self._clock.micros / SECOND


class SimulatedClients:
    """A process's Kafka clients, on the simulated broker."""

    def __init__(self, process: "Process", broker: Broker, habits: Habits) -> None:
        self._process = process
        self._broker = broker
        self._habits = habits
        self.administrator = cast("Any", functools.partial(connected, Admin(broker, habits.latency)))

    def event_consumer(
        self, claim: Callable[[int], Claim], on_placement: Callable[[int, frozenset[ShardId]], None]
    ) -> Any:
        habits, process = self._habits, self._process
        process.assignor = StateKeepingAssignor(claim, on_placement, self._broker.tick)
        process.consumer = Consumer(
            process,
            self._broker,
            habits.latency,
            habits.fetch_limit,
            fetch_seconds=habits.fetch_seconds,
            idle_seconds=habits.idle_seconds,
        )
        return process.consumer

    def bulk_producer(self) -> Any:
        habits, process = self._habits, self._process
        process.producer = Producer(process, self._broker, habits.latency, habits.batch_limit, habits.refuses)
        return process.producer

    def standby_consumer(self) -> Any:
        habits = self._habits
        return Follower(
            self._process,
            self._broker,
            habits.latency,
            habits.fetch_limit,
            habits.refuses,
            idle_seconds=habits.idle_seconds,
        )

    def request_consumer(self) -> Any:
        habits, process = self._habits, self._process
        process.request_consumer = RequestReader(
            process,
            self._broker,
            habits.latency,
            habits.fetch_limit,
            habits.refuses,
            idle_seconds=habits.idle_seconds,
        )
        return process.request_consumer

    def reply_producer(self) -> Any:
        habits = self._habits
        return ReplyProducer(self._process, self._broker, habits.latency, habits.batch_limit, habits.refuses)


class SimulatedFiles:
    """A process's files, on the simulated disk."""

    def __init__(self, process: "Process", latency: Callable[[], Awaitable[None]]) -> None:
        self._process = process
        self._latency = latency

    async def open(self, shard_id: ShardId) -> ShardFile:
        process = self._process
        await self._latency()
        file = process.disk.open(shard_id, self._latency, lambda: process.alive)
        if process.worker.ownership.statuses.get(shard_id) is ShardStatus.OPENING:
            process.producer.owned.add(shard_id)
        return file

    async def positions(self, topic: str) -> dict[ShardId, int]:
        found = {shard: positions_of(database) for shard, database in self._process.disk.databases.items()}
        return {ShardId(shard): positions[topic] for shard, positions in found.items() if topic in positions}


@functools.cache
def _settings() -> Settings:
    return Settings(
        topic_prefix="",
        group_id="learner",
        clock_skew_tolerance_seconds=TOLERANCE / SECOND,
        auction_horizon_seconds=HORIZON / SECOND,
        request_ttl_seconds=REQUEST_TTL_SECONDS,
        session_timeout_seconds=NEVER_SECONDS,
    )


class Process:
    """One run of a worker."""

    without = frozenset({*("requests", "progress", "readiness", "watch", "topology", "probation", "stalls")})
    """The worker's loops that do not run here: nobody asks, looks at the metrics or is on probation."""
    consumer: Consumer
    producer: Producer
    request_consumer: RequestReader
    assignor: StateKeepingAssignor

    def __init__(
        self,
        name: str,
        broker: Broker,
        disk: Disk,
        habits: Habits,
        *,
        guard: Guard | None = None,
        bucket: Bucket | None = None,
    ) -> None:
        self.name = name
        self._without = self.without if guard is None else self.without - {"topology"}
        self.disk = disk
        self.alive = True
        self.paused = False
        self.failure: BaseException | None = None
        self.loop = loop.new_loop(broker.clock)
        self.stopping = asyncio.Event()
        self._stuck: asyncio.Future[None] = self.loop.create_future()
        settings = _settings().model_copy(
            update={
                "group_instance_id": name,
                "checkpoint_interval_seconds": habits.checkpoint_seconds,
                "cached_agents": habits.cached_agents,
                "standby_replicas": habits.standby_replicas,
                "strategies": habits.strategies(),
                "snapshot_interval_seconds": habits.snapshot_seconds,
            }
        )
        clock = SimulatedClock(broker.clock)
        platform = Platform(
            clients=SimulatedClients(self, broker, habits),
            files=SimulatedFiles(self, habits.latency),
            guard=guard or SteadyTopics(),
            partitions=broker.shards,
            process=f"{name}-{next(_runs)}",
            intervals=Intervals(
                habits.frontier_seconds,
                standby_idle_seconds=STANDBY_IDLE_SECONDS,
                request_poll_ms=REQUEST_POLL_MS,
            ),
            retention=Policy(habits.retention, SECOND, GRACE, clock.now),
            clock=clock,
            snapshots=None if bucket is None else _snapshots(bucket, broker, disk, habits),
        )
        self.worker = self.loop.inside(
            lambda: Worker(settings, platform, instruments=instruments(), outage=Outage())
        )
        self._main = self.loop.create_task(self._live(), name="life")

    @property
    def shards(self) -> dict[ShardId, Shard]:
        """The open shards that it owns."""
        return self.worker.ownership.shards

    @property
    def busy(self) -> bool:
        """Whether a checkpoint or an opening is under way, a record due, or a row to be swept or counted."""
        return (
            self.worker.ownership.checkpointing.locked()
            or not self.worker.preparation.idle
            or any(
                shard.learn.unpublished or not shard.retention.idle or self._lacks_sums(shard_id, shard)
                for shard_id, shard in self.shards.items()
            )
        )

    def _lacks_sums(self, shard_id: ShardId, shard: Shard) -> bool:
        """Whether rows are still to be counted, or the file does not know that they are."""
        filed = strategies_of(self.disk.databases[shard_id]).values()
        return shard.lacks_sums or any(sums.changed for sums in shard.learn.sums) or bool(set(filed) - {None})

    def coordinate(self) -> None:
        """The group wants this member to rejoin."""
        if self.alive:
            self.consumer.rejoin_soon()

    def checkpoint(self) -> None:
        """Begins a checkpoint, besides those that the clock begins."""
        self.loop.create_task(self.worker.checkpointer.checkpoint(), name="extra-checkpoint")

    def stop(self) -> None:
        """SIGTERM."""
        self.stopping.set()

    def rebuild(self) -> None:
        """The watchdog finds a client stuck: the worker ends, and a new one begins in the same process."""
        if not self._stuck.done():
            self._stuck.set_exception(StuckError("a client stands still"))

    def kill(self) -> None:
        """SIGKILL: not one more step."""
        self.alive = False
        self.loop.abandon()

    def step(self, callbacks: int) -> None:
        """Runs some callbacks and notes whether the process ended; what Kafka did not take is read again."""
        if self.loop.step(callbacks) and self._main.done():
            self.alive = False
            failure = None if self._main.cancelled() else _first(self._main.exception())
            self.failure = None if str(failure) == UNFINISHED else failure

    async def _live(self) -> None:
        async with self.worker.started(), asyncio.TaskGroup() as tasks:
            tasks.create_task(self.worker.run(self.stopping, without=self._without), name="run")
            tasks.create_task(self._end_if_stuck(), name="end-if-stuck")

    async def _end_if_stuck(self) -> None:
        stopped = self.loop.create_task(self.stopping.wait())
        await asyncio.wait([stopped, self._stuck], return_when=asyncio.FIRST_COMPLETED)
        if self._stuck.done():
            self._stuck.result()
        self._stuck.cancel()


def _snapshots(bucket: Bucket, broker: Broker, disk: Disk, habits: Habits) -> SnapshotPlatform:
    copies = SimulatedCopies(disk, broker.shards, broker.incarnation, habits.latency)
    return SnapshotPlatform(BucketClient(bucket, disk, habits.latency, habits.refuses), copies)


def _first(failure: BaseException | None) -> BaseException | None:
    """The first failure of the loops, as the replica lets it out."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
