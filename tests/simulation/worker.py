"""A worker process: the real Ingest, Writer, ShardState and ShardFile, on simulated clients and disk."""

import asyncio
import functools
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from learner_worker.contract.fields import Shard
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import Topics
from learner_worker.observability import Instruments
from learner_worker.stages.retention import Policy
from learner_worker.stages.shard import ShardState, Surroundings
from learner_worker.stream.ingest import Ingest, Marks
from learner_worker.stream.outage import Outage
from learner_worker.stream.partitions import partitioner
from learner_worker.stream.writer import Writer
from tests.simulation.broker import Broker
from tests.simulation.clients import Admin, Consumer, Producer
from tests.simulation.disk import Disk
from tests.simulation.loop import new_loop

SECOND = 1_000_000
TOLERANCE = SECOND
HORIZON = 3_600 * SECOND
GRACE = 13 * SECOND
"""As long as a bid may be placed before its close, and no more, so that parts of one outcome expire apart."""
TOPICS = Topics().named()
_runs = itertools.count()


@functools.cache
def instruments() -> Instruments:
    """One set for all: nobody looks at them here."""
    return Instruments()


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
        retention: how long closes count, in microseconds; None: for ever.
    """

    latency: Callable[[], Awaitable[None]]
    fetch_limit: Callable[[], int]
    batch_limit: Callable[[], int]
    refuses: Callable[[], bool]
    fetch_seconds: float = 0.0
    idle_seconds: float = 0.0
    checkpoint_seconds: float = 1.0
    cached_agents: int = 1_000
    retention: int | None = None


async def _nobody() -> None:
    """No other worker has this one's name."""


class Process:
    """One run of a worker."""

    def __init__(self, name: str, broker: Broker, disk: Disk, habits: Habits) -> None:
        self.name = name
        self.disk = disk
        self.alive = True
        self.paused = False
        self.failure: BaseException | None = None
        self.loop = new_loop(broker.clock)
        self._habits = habits
        self._stopping = asyncio.Event()
        self._latency = latency = habits.latency
        self.consumer = Consumer(
            self,
            broker,
            latency,
            habits.fetch_limit,
            fetch_seconds=habits.fetch_seconds,
            idle_seconds=habits.idle_seconds,
        )
        producer = Producer(self, broker, latency, habits.batch_limit, habits.refuses)
        self.writer = Writer(cast("Any", producer))
        self._around = Surroundings(
            topics=TOPICS,
            partition_of=partitioner(broker.shards),
            outbox=self.writer,
            instruments=instruments(),
            owner=f"{name}-{next(_runs)}",
            tolerance_micros=TOLERANCE,
            horizon_micros=HORIZON,
            cached_agents=habits.cached_agents,
            retention=Policy(habits.retention, SECOND, GRACE, lambda: Micros(broker.clock.micros)),
        )
        self.ingest: Ingest[ShardState] = self.loop.inside(
            lambda: Ingest(
                connection=cast("Any", Admin(broker, latency)),
                consumer=cast("Any", self.consumer),
                writer=self.writer,
                topics=TOPICS,
                group_id="learner",
                open_shard=self._open,
                on_ownership=lambda _shards, _assigned: None,
                outage=Outage(),
                find_twin=_nobody,
            )
        )
        self._main = self.loop.create_task(self._live(), name="life")

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is under way, a metrics record still due, or a row to be swept."""
        shards = self.ingest.ownership.shards.values()
        return self.ingest._checkpointing.locked() or any(
            shard.learn.unpublished or not shard.retention.idle for shard in shards
        )

    def coordinate(self) -> None:
        """The group wants this member to rejoin."""
        if self.alive:
            self.consumer.rejoin_soon()

    def checkpoint(self) -> None:
        """Begins a checkpoint, besides those that the clock begins."""
        self.loop.create_task(self.ingest.checkpoint(), name="extra-checkpoint")

    def stop(self) -> None:
        """SIGTERM."""
        self._stopping.set()

    def kill(self) -> None:
        """SIGKILL: not one more step."""
        self.alive = False
        self.loop.abandon()

    def step(self, callbacks: int) -> None:
        """Runs some callbacks and notes whether the process ended."""
        if self.loop.step(callbacks) and self._main.done():
            self.alive = False
            if not self._main.cancelled():
                self.failure = self._main.exception()

    async def _live(self) -> None:
        read = self.loop.create_task(self.ingest.read(self._stopping), name="read")
        checkpoints = self.loop.create_task(self._checkpoints(), name="checkpoints")
        await asyncio.wait([read, checkpoints], return_when=asyncio.FIRST_COMPLETED)
        for task in (read, checkpoints):
            if task.done():
                task.result()
        await checkpoints
        await self.ingest.finish()
        await self.ingest.close()
        await self.consumer.stop()

    async def _checkpoints(self) -> None:
        while not self._stopping.is_set():
            await asyncio.sleep(self._habits.checkpoint_seconds)
            await self.ingest.checkpoint()

    async def _open(self, number: Shard, marks: Marks) -> ShardState:
        await self._latency()
        file = self.disk.open(number, self._latency, lambda: self.alive)
        return await ShardState.open(number, self._around, file, marks)
