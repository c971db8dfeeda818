"""Weather with a take-over in it: the old group's workers see it or stall, and the new group goes on.

Workers and the take-over are the real ones, with a real guard that looks at the record. Who takes over is
killed again and again.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from aiokafka import TopicPartition
from aiokafka.errors import UnknownMemberIdError

from learner_worker.contract.topology import Topology
from learner_worker.errors import ConfigurationError, SupersededError
from learner_worker.group import topology_guard
from learner_worker.group.takeover import complete, record_owner
from learner_worker.group.topology import LiveTopics
from learner_worker.group.topology_guard import TopologyGuard
from learner_worker.group.topology_view import Seen, TopologyView
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.outage import Outage
from tests.simulation import loop
from tests.simulation.broker import Broker, Client
from tests.simulation.checks import require
from tests.simulation.disk import Disk
from tests.simulation.reshard_command import GROUP, Layouts
from tests.simulation.resharding import ReshardWeather, Run
from tests.simulation.worker import SECOND, TOPICS
from tests.simulation.world import shuffled

NEW_GROUP = "heir"


class Owners(Layouts):
    """One Kafka as two groups see it: each has its own members and commits, and the topics are the same.

    Attributes:
        emptied: whether somebody has seen the old group without members.
    """

    def __init__(self, old: Broker, new: Broker) -> None:
        super().__init__(old, old.shards, new)
        new.log.partitions = old.log.partitions
        self.emptied = False


class SimulatedView:
    """The topics, their record and both groups."""

    def __init__(self, owners: Owners, latency: Callable[[], Awaitable[None]]) -> None:
        self._owners = owners
        self._latency = latency
        self.cluster = self
        counts = {**dict.fromkeys(TOPICS.all, owners.shards), TOPICS.topology: 1}
        self._live = LiveTopics("cluster", TOPICS, counts)

    async def look(self) -> Seen:
        await self._latency()
        return Seen(self._live, self._owners.standing)

    async def write(self, topology: Topology) -> Topology:
        await self._latency()
        self._owners.records.append(topology)
        await self._latency()
        return self._owners.standing

    async def stable_members(self, group_id: str) -> list[Client]:
        await self._latency()
        assert group_id == GROUP
        members = list(self._owners.old.group.members.values())
        self._owners.emptied = self._owners.emptied or not members
        return members

    async def committed(self, group_id: str) -> Mapping[TopicPartition, Committed]:
        await self._latency()
        of_events = self._owners.old.log.committed if group_id == GROUP else {}
        return {TopicPartition(*place): one for place, one in of_events.items()}

    async def commit(self, group_id: str, offsets: Mapping[TopicPartition, Committed]) -> None:
        await self._latency()
        if self._owners.new.group.members:
            raise UnknownMemberIdError(group_id)
        for (topic, partition), one in offsets.items():
            self._owners.new.log.committed[topic, partition] = one


class SimulatedGuard(TopologyGuard):
    """The guard of a worker that has started."""

    def __init__(self, owners: Owners, group_id: str, latency: Callable[[], Awaitable[None]]) -> None:
        super().__init__(Connection(""), TOPICS, group_id, Outage())
        self._simulated = cast("TopologyView", SimulatedView(owners, latency))
        self.incarnation = owners.standing.incarnation

    async def _opened(self, patience_seconds: float) -> TopologyView:
        assert patience_seconds > 0
        return self._simulated


class TakeOver:
    """A worker of the new group that starts with `--take-over`, until it may work."""

    def __init__(self, owners: Owners, latency: Callable[[], Awaitable[None]]) -> None:
        self.said: list[str] = []
        self.loop = loop.new_loop(owners.old.clock)
        self._view: Any = SimulatedView(owners, latency)
        self._main = self.loop.create_task(self._run(), name="take-over")
        self.loop.step(1)

    async def _run(self) -> None:
        await record_owner(self._view, NEW_GROUP)
        self.said.append("recorded")
        await complete(self._view, (await self._view.look()).topology, NEW_GROUP)

    @property
    def done(self) -> bool:
        """Whether it has ended; raises what it ended with, but for an old group that still has members."""
        if not self._main.done():
            return False
        error = self._main.exception()
        if isinstance(error, ConfigurationError) and "still has members" in str(error):
            self._main = self.loop.create_task(self._run(), name="take-over")  # the supervisor's restart
            return False
        self._main.result()
        return True

    def kill(self) -> None:
        """SIGKILL."""
        self.loop.abandon()


class TakeOverWeather(ReshardWeather):
    """One seed's run: a storm, a take-over in the storm, another storm in the new group."""

    def __init__(self, seed: int, *, forgetful: bool = False, forgetting: bool = False) -> None:
        super().__init__(seed, forgetful=forgetful, forgetting=forgetting)
        order = self.choice.choice((None, None, shuffled(self.choice)))
        self.owners = Owners(self.world.broker, Broker(self.world.clock, self.world.shards, order))
        self.layouts = self.owners
        self.ends = (SupersededError,)
        self.group_id = GROUP
        self.world.guard = lambda: SimulatedGuard(self.owners, self.group_id, self._latency)

    def _stop_workers(self) -> None:
        """Nobody tells them: some look at the record in time, others stall and lose their membership."""
        self.superseded.clear()
        self.zombies = list(self.world.processes.values())
        self.world.processes.clear()
        for zombie in self.zombies:
            if zombie.paused or self.choice.random() < 0.4:
                self.world.note(f"{zombie.name} stalls, and is given up")
                zombie.paused = True
                self.world.expire(zombie.name)
        for name in set(self.world.broker.group.members) - {zombie.name for zombie in self.zombies}:
            self.world.expire(name)  # of workers that are dead

    def _command(self) -> Run:
        return TakeOver(self.owners, self._latency)

    @property
    def _is_emptied(self) -> bool:
        return self.owners.emptied

    def _switch(self) -> None:
        """Workers of the new group start, on what state folders are free or on empty ones."""
        standing = self.owners.standing
        require(
            (standing.owner_group, standing.taken_from) == (NEW_GROUP, None), "nobody took over", standing
        )
        world = self.world
        world.note("taken over")
        taken = {id(zombie.disk) for zombie in self.zombies}
        free = [disk for disk in world.disks.values() if id(disk) not in taken]
        folders = [disk if self.choice.random() < 0.5 else Disk() for disk in free]
        folders += [Disk() for _ in range(len(world.disks) - len(folders))]
        world.broker, self.group_id = self.owners.new, NEW_GROUP
        world.disks = {f"n{number}": disk for number, disk in enumerate(folders)}
        self.stormy = True
        for name in world.disks:
            world.start(name)


@contextmanager
def simulated_time(weather: TakeOverWeather) -> Iterator[None]:
    """The guard's clock is the world's."""
    clock = SimpleNamespace(monotonic=lambda: weather.world.clock.micros / SECOND)
    with mock.patch.object(topology_guard, "time", clock):
        yield


def run_take_over_seed(seed: int, *, forgetful: bool = False, forgetting: bool = False) -> None:
    """Runs one seed's take-over to its judgement."""
    weather = TakeOverWeather(seed, forgetful=forgetful, forgetting=forgetting)
    with simulated_time(weather):
        weather.judged(f"Replay it: SIMULATION_SEED={seed} pytest tests/simulation/test_takeover.py")
