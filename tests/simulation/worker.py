"""A worker process: the real loops, shards, standbys and files, on simulated clients and disk."""

import asyncio
import functools
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from learner_worker.contract.fields import ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import Topics
from learner_worker.domain.retention import Policy
from learner_worker.errors import StuckError
from learner_worker.group.assignor import StateKeepingAssignor
from learner_worker.group.frontier import Frontier
from learner_worker.group.ownership import BrokerOffsets
from learner_worker.group.placement import Claim
from learner_worker.kafka.batching import BatchWriter
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.partitioner import partitioner
from learner_worker.observability import Instruments
from learner_worker.shard.shard import Shard, ShardContext
from learner_worker.shard.standby import StandbyState
from learner_worker.store.shard_file import ShardFile
from learner_worker.worker.consumer import Ingest
from learner_worker.worker.standbys import Standbys
from tests.simulation.broker import Broker
from tests.simulation.checks import positions_of
from tests.simulation.clients import Admin, Consumer, Follower, Producer
from tests.simulation.disk import Disk
from tests.simulation.loop import new_loop

SECOND = 1_000_000
TOLERANCE = SECOND
HORIZON = 3_600 * SECOND
GRACE = 13 * SECOND
"""As long as a bid may be placed before its close, and no more, so that parts of one outcome expire apart."""
TOPICS = Topics().named()
SOURCES = (TOPICS.bid_placed, TOPICS.auction_closed, TOPICS.task_finished, TOPICS.rerouted)
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
        frontier_seconds: how often a worker asks how far the others have read.
        standby_replicas: how many standbys every shard is to have.
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
    frontier_seconds: float = 1.0
    standby_replicas: int = 0
    retention: int | None = None


async def _nothing() -> None:
    """There is nothing to be said before a rebalance."""


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
        self.stopping = asyncio.Event()
        self._habits = habits
        self._stuck: asyncio.Future[None] = self.loop.create_future()
        self._latency = latency = habits.latency
        self.consumer = Consumer(
            self,
            broker,
            latency,
            habits.fetch_limit,
            fetch_seconds=habits.fetch_seconds,
            idle_seconds=habits.idle_seconds,
        )
        self.producer = Producer(self, broker, latency, habits.batch_limit, habits.refuses)
        self.writer = BatchWriter(cast("Any", self.producer))
        self.assignor = StateKeepingAssignor(self._claim, self._follow, broker.tick)
        self._held = {ShardId(shard): position for shard, position in _held(disk).items()}
        admin = cast("Any", Admin(broker, latency))
        self._frontier = Frontier(
            connection=admin,
            consumer=cast("Any", self.consumer),
            group_id="learner",
            topics=(TOPICS.bid_placed, TOPICS.auction_closed),
            partitions=broker.shards,
            now=lambda: Micros(broker.clock.micros),
        )
        self._context = ShardContext(
            topics=TOPICS,
            partition_of=partitioner(broker.shards),
            sink=self.writer,
            instruments=instruments(),
            owner=f"{name}-{next(_runs)}",
            tolerance_micros=TOLERANCE,
            horizon_micros=HORIZON,
            cached_agents=habits.cached_agents,
            others_passed=self._frontier.passed,
            retention=Policy(habits.retention, SECOND, GRACE, lambda: Micros(broker.clock.micros)),
        )
        self.ingest: Ingest[Shard] = self.loop.inside(
            lambda: Ingest(
                connection=admin,
                consumer=cast("Any", self.consumer),
                writer=self.writer,
                topics=TOPICS,
                group_id="learner",
                open_shard=self._open_shard,
                on_ownership=self.own,
                outage=Outage(),
                find_duplicate=_nobody,
                before_rejoin=_nothing,
                before_opening=self._settle_standbys,
                give_way=self._context.pacing.give_way,
            )
        )
        self.standbys: Standbys[StandbyState] = self.loop.inside(
            lambda: Standbys(
                make_consumer=lambda: cast("Any", self._follower(broker)),
                topic=TOPICS.outcomes,
                open_standby=self._open_standby,
                in_use=lambda: self.ingest.in_use,
                outage=Outage(),
                left=instruments().standby_records,
            )
        )
        self._main = self.loop.create_task(self._live(), name="life")

    @property
    def busy(self) -> bool:
        """Whether a checkpoint or an opening is under way, a metrics record due, or a row to be swept."""
        shards = self.ingest.ownership.shards.values()
        preparing = self.ingest._preparing
        return (
            self.ingest._checkpointing.locked()
            or (preparing is not None and not preparing.done())
            or any(shard.learn.unpublished or not shard.retention.idle for shard in shards)
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
        """Runs some callbacks and notes whether the process ended."""
        if self.loop.step(callbacks) and self._main.done():
            self.alive = False
            if not self._main.cancelled():
                self.failure = _first(self._main.exception())

    async def _live(self) -> None:
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self.ingest.read(self.stopping), name="read")
                loops.create_task(self._checkpoints(), name="checkpoints")
                loops.create_task(self.standbys.read(self.stopping), name="standbys")
                loops.create_task(self._look_round(), name="frontier")
                loops.create_task(self._watch(), name="watch")
                for name, loop in self.more_loops():
                    loops.create_task(loop, name=name)
            await self.ingest.finish()
        finally:
            if self.alive:  # whom kill -9 ended does nothing any more
                await self.ingest.close()
                await self.consumer.stop()

    def own(self, shards: Mapping[ShardId, Shard], assigned: frozenset[ShardId]) -> None:
        """Told of every change of ownership; who answers requests overrides it."""

    def more_loops(self) -> Iterable[tuple[str, Coroutine[Any, Any, None]]]:
        """What else runs besides the loops that read events."""
        return ()

    async def _watch(self) -> None:
        stopped = self.loop.create_task(self.stopping.wait())
        await asyncio.wait([stopped, self._stuck], return_when=asyncio.FIRST_COMPLETED)
        if self._stuck.done():
            self._stuck.result()
        self._stuck.cancel()

    async def _look_round(self) -> None:
        while not self.stopping.is_set():
            await asyncio.sleep(self._habits.frontier_seconds)
            await self._frontier.look()

    async def _checkpoints(self) -> None:
        while not self.stopping.is_set():
            await asyncio.sleep(self._habits.checkpoint_seconds)
            await self.ingest.checkpoint()

    # --- as the composition root does ---------------------------------------------------------------------

    async def _open_shard(self, number: ShardId, marks: BrokerOffsets) -> Shard:
        await self.standbys.release(number)
        file = await self._open_file(number)
        self.producer.owned.add(number)
        try:
            return await Shard.open(number, self._context, file, marks)
        except BaseException:
            await file.close()
            raise

    async def _settle_standbys(self) -> None:
        await self.standbys.settle()

    async def _open_standby(self, number: ShardId) -> StandbyState:
        file = await self._open_file(number)
        try:
            return await StandbyState.open(file, TOPICS.outcomes)
        except BaseException:
            await file.close()
            raise

    async def _open_file(self, number: ShardId) -> ShardFile:
        await self._latency()
        return self.disk.open(number, self._latency, lambda: self.alive)

    def _claim(self, term: int) -> Claim:
        owned = self.ingest.ownership
        self._held.update(self.standbys.positions)
        self._held.update(
            {number: shard.positions[TOPICS.outcomes] for number, shard in owned.shards.items()}
        )
        return Claim(
            process=self._context.owner,
            name=self.name,
            term=term,
            owned=sorted(owned.assigned or ()),
            held=dict(self._held),
            standby_replicas=self._habits.standby_replicas,
        )

    def _follow(self, standbys: frozenset[ShardId]) -> None:
        self.standbys.follow(standbys)

    def _follower(self, broker: Broker) -> Follower:
        habits = self._habits
        return Follower(
            self, broker, habits.latency, habits.fetch_limit, habits.refuses, idle_seconds=habits.idle_seconds
        )


def _held(disk: Disk) -> dict[int, int]:
    found = {shard: positions_of(database) for shard, database in disk.databases.items()}
    return {
        shard: positions[TOPICS.outcomes]
        for shard, positions in found.items()
        if TOPICS.outcomes in positions
    }


def _first(failure: BaseException | None) -> BaseException | None:
    """The first failure of the loops, as the replica lets it out."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
