"""The world: workers, their disks, the broker and the clock, with everything that can happen to them."""

import asyncio
import dataclasses
import itertools
import json
import random
import sqlite3
from collections.abc import Callable, Mapping, Sequence

from learner_worker.contract.facts import ForgetMarker, encode_fact, encode_marker
from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros
from learner_worker.errors import StuckError
from learner_worker.kafka.partitioner import partitioner
from learner_worker.operations.forget import SupersededFacts
from learner_worker.worker.platform import Guard
from tests.simulation.broker import Broker, Order
from tests.simulation.checks import (
    InvariantError,
    agents_of,
    check_file,
    check_keys,
    check_published,
    counted,
    cutoff_of,
    join_facts,
    living,
    markers,
    metrics_of,
    positions_of,
    require,
    rows_of,
)
from tests.simulation.disk import Disk
from tests.simulation.history import Planned
from tests.simulation.log import Sent
from tests.simulation.loop import Clock
from tests.simulation.snapshots import Bucket
from tests.simulation.worker import SECOND, TOPICS, Habits, Process
from tests.support import model
from tests.support.swarm import START_US

_PATIENCE = 4_000
OPEN: list["World"] = []
_BURST = 200
_ROUNDS = 1_000
"""Of everybody's turns at one moment; seven are the most that sound code was seen to need."""


async def no_latency() -> None:
    """Clients and files that answer after one turn of the loop."""
    await asyncio.sleep(0)


CALM = Habits(latency=no_latency, fetch_limit=lambda: 100, batch_limit=lambda: 100, refuses=lambda: False)


def _in_order(names: list[str]) -> list[str]:
    return names


class World:
    """Everything outside the worker's code, moved by whoever drives it."""

    def __init__(
        self,
        workers: Sequence[str] = ("w0", "w1"),
        shards: int = 2,
        habits: Habits = CALM,
        order: Order | None = _in_order,
        bucket: Bucket | None = None,
    ) -> None:
        self.clock = Clock(START_US + 36_000 * SECOND)
        self.broker = Broker(self.clock, shards, order)
        self._order = order
        self.bucket = bucket
        self.shards = shards
        self.disks = {name: Disk() for name in workers}
        self.processes: dict[str, Process] = {}
        self.gone: list[Process] = []
        self.habits = habits
        self.published: list[model.Event] = []
        self.partition_of = partitioner(shards)
        self.lost_tasks: set[str] = set()
        """Whose events Kafka deleted too early: of them anything may have become, of others nothing."""
        self.forgotten: dict[str, int] = {}
        """Until when agents are forgotten."""
        self.guard: Callable[[], Guard] | None = None
        """Makes what tells a worker that another group has taken over; None: nobody does."""
        self.story: list[str] = []
        self.restarts = False
        self.held: set[str] = set()
        OPEN.append(self)

    def note(self, text: str) -> None:
        """Remembers what happened, for whoever reads a failing seed."""
        self.story.append(f"{(self.clock.micros - START_US) / SECOND - 36_000:10.3f} s  {text}")

    # --- workers -----------------------------------------------------------------------------------------

    def start(self, name: str) -> Process:
        """Starts a worker on its disk."""
        self.note(f"start {name}")
        guard = None if self.guard is None else self.guard()
        process = Process(name, self.broker, self.disks[name], self.habits, guard=guard, bucket=self.bucket)
        self.processes[name] = process
        return process

    def crash(self, name: str, *, lose_disk: bool = False, kept: Callable[[int], int] = lambda _: 0) -> None:
        """kill -9; of what was on its way to Kafka, `kept` says how many requests a queue still arrive."""
        self.note(f"crash {name}{' and its disk is lost' if lose_disk else ''}")
        process = self.processes.pop(name)
        process.kill()
        self.gone.append(process)
        self.broker.cut_off(process, kept)
        self.check_disk(name)
        if lose_disk:
            self.disks[name].lose()

    def expire(self, name: str) -> None:
        """The group gives a member up; if it lives, it is a zombie now."""
        self.note(f"the group gives {name} up")
        self.broker.group.remove(name)

    def reap(self) -> None:
        """Takes note of processes that ended by themselves."""
        for name, process in list(self.processes.items()):
            if not process.alive:
                del self.processes[name]
                self.gone.append(process)
                process.loop.abandon()
                self.note(f"{name} ended: {process.failure!r}")
                require(not self.disks[name].open_shards, f"{name} ended with open files")
                if isinstance(process.failure, StuckError):
                    self.start(name)
                elif process.failure is not None:
                    raise InvariantError(f"{name} failed: {process.failure!r}") from process.failure
                elif self.restarts:
                    self.start(name)
            self._check_violations(process)

    def _check_violations(self, process: Process) -> None:
        found = process.disk.violations or process.producer.violations or self.broker.group.violations
        if self.bucket is not None:
            found = found or self.bucket.violations
        if found:
            raise InvariantError(f"{process.name}: {found}")

    def reset_topics(self) -> None:
        """Somebody deletes all topics and makes them anew, and starts the workers on empty folders."""
        self.note("all topics are deleted and made anew")
        for name in list(self.processes):
            self.crash(name)
        for disk in self.disks.values():
            disk.lose()
        self.broker = Broker(self.clock, self.shards, self._order)
        self.published.clear()
        self.lost_tasks.clear()
        self.forgotten.clear()

    def running(self) -> list[Process]:
        """Those that are not paused."""
        return [process for process in self.processes.values() if not process.paused]

    # --- the swarm ---------------------------------------------------------------------------------------

    def publish(self, planned: Planned, partition: int | None = None) -> None:
        """A swarm service publishes an event, rightly or on another partition."""
        event = planned.at(self.clock.micros)
        right = self.partition_of(event.task_id)
        there = right if partition is None else partition
        self.published.append(event)
        entry = self.broker.log.append(
            planned.topic, there, Sent(None, planned.body()), self.clock.milliseconds
        )
        self.note(f"publish {planned.topic}/{there}@{entry.offset} {planned.body().decode()}")

    def filed(self, name: str, topic: str, shard: int) -> int:
        """A position in a worker's file."""
        database = self.disks[name].databases.get(shard)
        return 0 if database is None else positions_of(database).get(topic, 0)

    # --- forgetting --------------------------------------------------------------------------------------

    def forget(self, agent_id: str, until: int) -> SupersededFacts:
        """Somebody has an agent forgotten; what of the changelog is to be tombstoned then."""
        shard = self.partition_of(agent_id)
        marker = ForgetMarker(AgentId(agent_id), Micros(until))
        self.note(f"forget {agent_id} until {(until - START_US) / SECOND:g} s")
        self._append_outcome(shard, *encode_marker(marker))
        self.forgotten[agent_id] = max(until, self.forgotten.get(agent_id, until))
        superseded = SupersededFacts(marker)
        superseded.take(self.broker.log.partitions[TOPICS.outcomes, shard].live)
        return superseded

    def tombstone_superseded(self, agent_id: str, superseded: SupersededFacts) -> None:
        """The changelog is relieved of what an agent left in it."""
        shard = self.partition_of(agent_id)
        self.note(f"{len(superseded.due_tombstones)} facts of {agent_id} are tombstoned")
        for key, left in superseded.due_tombstones.items():
            if left is not None:
                self._append_outcome(shard, *encode_fact(left))
            self._append_outcome(shard, key, None)

    def _append_outcome(self, shard: int, key: bytes, value: bytes | None) -> None:
        self.broker.log.append(TOPICS.outcomes, shard, Sent(key, value), self.clock.milliseconds)

    # --- retention ---------------------------------------------------------------------------------------

    def read_by_all(self, topic: str, shard: int) -> int:
        """Below this offset of a source nobody will ever read again, whatever happens."""
        found = self.broker.log.committed.get((topic, shard))
        return 0 if found is None else min(found.offset, int(found.metadata.rpartition("rewind=")[2]))

    def lose_beginning(self, topic: str, shard: int, first: int) -> None:
        """Kafka deletes a source's records below an offset; what nobody had read by then is lost."""
        needed = self.read_by_all(topic, shard)
        gone = self.broker.log.partitions[topic, shard].lose_beginning(first)
        lost = {json.loads(entry.value or b"")["task_id"] for entry in gone if entry.offset >= needed}
        self.lost_tasks |= lost
        self.note(f"retention: {topic}/{shard} begins at {first}, {sorted(lost)} are lost")

    def lose_end(self, shard: int, end: int) -> None:
        """An unclean leader: a changelog ends earlier than it did."""
        self.note(f"{TOPICS.outcomes}/{shard} ends at {end}")
        self.broker.log.partitions[TOPICS.outcomes, shard].lose_end(end)

    def may_lose_end(self, shard: int) -> bool:
        """Whether every file of a shard is open in a running process, which will notice."""
        return all(
            shard not in disk.databases or (name in self.processes and shard in disk.open_shards)
            for name, disk in self.disks.items()
        )

    # --- time --------------------------------------------------------------------------------------------

    def advance(self, micros: int) -> None:
        """Moves the clock."""
        self.clock.micros += micros

    def skip_to_next_timer(self) -> bool:
        """Moves the clock to when something is due; False if nothing ever is."""
        timers = [process.loop.next_timer for process in self.running()]
        due = min((when for when in timers if when is not None), default=None)
        if due is None:
            return False
        self.clock.micros = max(self.clock.micros, round(due * SECOND) + 1)
        return True

    def compact(self, topic: str, shard: int, *, drop_tombstones: bool = False) -> None:
        """The cleaner runs over a partition; so long after its last run that it drops tombstones, too."""
        self.note(f"compact {topic}/{shard}{' without tombstones' if drop_tombstones else ''}")
        self.broker.log.partitions[topic, shard].compact(drop_tombstones=drop_tombstones)

    def drop_empty_beginning(self, topic: str, shard: int) -> None:
        """Kafka forgets the offsets before the first record that compaction has left."""
        there = self.broker.log.partitions[topic, shard]
        first = there.live[0].offset if there.live else there.end
        self.note(f"{topic}/{shard} begins at {first}")
        there.lose_beginning(first)

    # --- calm weather ------------------------------------------------------------------------------------

    def deliver_all(self) -> bool:
        """Everything in flight arrives and is acknowledged, but what `held` workers sent."""
        busy = False
        for key in self.broker.pending():
            while self.broker.queues[key] and self.broker.queues[key][0].client.name not in self.held:
                self.broker.deliver(key)
                busy = True
        while self.broker.acknowledgements:
            self.broker.acknowledge(0)
            busy = True
        return busy

    def turn(self) -> None:
        """Lets everybody do what they can at this moment, then moves to the next."""
        for _ in range(_ROUNDS):
            busy = self.deliver_all()
            for process in self.running():
                ran = process.loop.step(0) if not process.loop.has_work else 1
                if ran:
                    process.step(_BURST)
                    busy = True
            self.reap()
            if not busy:
                self.skip_to_next_timer()
                return
        require(False, "the world does not come to rest within a moment")

    def settle(self) -> None:
        """Lets the world go on in calm weather until nothing is left to do."""
        quiet = 0
        for _ in range(_PATIENCE):
            self.turn()
            quiet = quiet + 1 if self.is_quiet() else 0
            if quiet > 3:
                return
        require(False, "the world does not come to rest", self.lags())

    def until(self, holds: Callable[[], bool]) -> None:
        """Goes on callback by callback, in calm weather, until something holds."""
        for _ in range(_PATIENCE * 10):
            if holds():
                return
            self.deliver_all()
            ran = [process.name for process in self.running() if process.loop.has_work]
            for name in ran:
                self.processes[name].step(1)
                if holds():
                    return
            self.reap()
            if not ran:
                self.skip_to_next_timer()
        require(False, "what the world waited for never came")

    def is_quiet(self) -> bool:
        """Whether everything published is read, acknowledged and in the owners' files."""
        in_flight = self.broker.pending() or self.broker.acknowledgements
        return not in_flight and self.is_at_rest()

    def is_at_rest(self) -> bool:
        """The same, whatever zombies still have in flight."""
        busy = any(process.busy for process in self.running())
        return self.broker.group.rebalance is None and not busy and not self.lags()

    def lags(self) -> dict[str, int]:
        """How far the owners' files are behind the log."""
        found: dict[str, int] = {}
        for shard in range(self.shards):
            owner = self.broker.group.owner(shard)
            database = None if owner is None else self.disks[owner.name].databases.get(shard)
            positions = {} if database is None else positions_of(database)
            for topic in TOPICS.subscribed:
                lag = self.broker.log.end(topic, shard) - positions.get(topic, 0)
                if lag or database is None:
                    found[f"{topic}/{shard}"] = lag
        for process in self.running():
            found.update(self._lags_of_standbys(process))
        return found

    def _lags_of_standbys(self, process: Process) -> dict[str, int]:
        """How far its standbys' files are behind."""
        found: dict[str, int] = {}
        for shard in self.broker.group.standbys(process.name):
            database = process.disk.databases.get(shard)
            position = -1 if database is None else positions_of(database).get(TOPICS.outcomes, -1)
            lag = self.broker.log.end(TOPICS.outcomes, shard) - position
            if lag > 0 or shard not in process.worker.standbys.positions:
                found[f"standby {process.name}/{shard}"] = lag
        return found

    # --- judging -----------------------------------------------------------------------------------------

    def check_disk(self, name: str) -> None:
        """Every file of a disk is the fold of its prefix."""
        for shard, database in self.disks[name].databases.items():
            there = self.broker.log.partitions[TOPICS.outcomes, shard]
            check_file(f"{name}'s shard {shard}", database, there.live, there.history, TOPICS.outcomes)

    def check(self) -> None:
        """All invariants, once the world is at rest."""
        for name in self.disks:
            self.check_disk(name)
        cutoff = self._even_cutoff()
        expected = self._expected(cutoff)
        expected_metrics = model.metrics(expected)
        for shard in range(self.shards):
            self._check_shard(
                shard,
                {key: value for key, value in expected.items() if self.partition_of(key[1]) == shard},
                {key: value for key, value in expected_metrics.items() if self.partition_of(key) == shard},
            )

    def _expected(self, cutoff: tuple[int, int] | None) -> dict[tuple[str, str], model.Outcome]:
        """The model's outcomes; of a task that lost events, whatever the changelog says."""
        known = self._modelled(cutoff)
        found = {key: value for key, value in known.items() if key[0] not in self.lost_tasks}
        for shard in range(self.shards) if self.lost_tasks or self.forgotten else ():
            logged = join_facts(self.broker.log.partitions[TOPICS.outcomes, shard].live)
            joined = counted(living(logged, cutoff, self.forgotten))
            found.update((key, value) for key, value in joined.items() if key[0] in self.lost_tasks)
            self._excuse_texts(found, joined)
        return found

    def _modelled(self, cutoff: tuple[int, int] | None) -> dict[tuple[str, str], model.Outcome]:
        """The model's outcomes; of a forgotten agent those of later events."""
        events = self._remembered(cutoff)
        found = model.outcomes(events)
        for agent_id, until in self.forgotten.items():
            later = model.remembered(events, closes_from_us=until + 1, others_from_us=until + 1)
            theirs = {key: value for key, value in model.outcomes(later).items() if key[1] == agent_id}
            found = {key: value for key, value in found.items() if key[1] != agent_id} | theirs
        return found

    def _excuse_texts(
        self,
        expected: dict[tuple[str, str], model.Outcome],
        joined: Mapping[tuple[str, str], model.Outcome],
    ) -> None:
        """A win whose bid is forgotten has its close's text only if that travelled before the bid came."""
        forgotten_bids = {
            (event.task_id, event.agent_id)
            for event in self.published
            if isinstance(event, model.BidPlaced)
            and event.placed_at <= self.forgotten.get(event.agent_id, event.placed_at - 1)
        }
        for key in forgotten_bids & expected.keys() & joined.keys():
            if expected[key].placed_at is None and not joined[key].description:
                expected[key] = dataclasses.replace(expected[key], description="")

    def _check_shard(
        self,
        shard: int,
        outcomes: dict[tuple[str, str], model.Outcome],
        metrics: dict[str, model.Metrics],
    ) -> None:
        there = self.broker.log.partitions[TOPICS.outcomes, shard]
        check_keys(there.history)
        database = self._owners_file(shard)
        cutoff = cutoff_of(database)
        logged = living(join_facts(there.live), cutoff, self.forgotten)
        _require_equal(f"shard {shard}: the changelog's fold", counted(logged), outcomes)
        rows = rows_of(database)
        swept = living(rows, cutoff, self.forgotten)
        _require_equal(f"shard {shard}: the file's swept rows", rows, swept)
        _require_equal(f"shard {shard}: the file's outcomes", counted(rows), outcomes)
        _require_equal(f"shard {shard}: the file's metrics", metrics_of(database), metrics)
        published = self.broker.log.partitions[TOPICS.metrics, shard].live
        check_published(published, metrics)
        self._check_forgotten(shard, database, metrics)

    def _check_forgotten(
        self, shard: int, database: sqlite3.Connection, metrics: dict[str, model.Metrics]
    ) -> None:
        """Of a forgotten agent the marker is left; without later outcomes nothing else, nowhere."""
        here = {
            agent_id: at for agent_id, at in self.forgotten.items() if self.partition_of(agent_id) == shard
        }
        _require_equal("the markers", markers(self.broker.log.partitions[TOPICS.outcomes, shard].live), here)
        gone = here.keys() - metrics.keys()
        left = agents_of(database) & gone
        require(not left, f"shard {shard}: rows of forgotten agents", left)
        records = {entry.key: entry.value for entry in self.broker.log.partitions[TOPICS.metrics, shard].live}
        remaining = [agent_id for agent_id in gone if records.get(agent_id.encode()) is not None]
        require(not remaining, f"shard {shard}: metrics records of forgotten agents", remaining)

    def _owners_file(self, shard: int) -> sqlite3.Connection:
        owner = self.broker.group.owner(shard)
        database = None if owner is None else self.disks[owner.name].databases.get(shard)
        if database is None:
            raise InvariantError(f"shard {shard} has no owner with a file")
        return database

    def _remembered(self, cutoff: tuple[int, int] | None) -> list[model.Event]:
        if cutoff is None:
            return self.published
        return model.remembered(self.published, closes_from_us=cutoff[0], others_from_us=cutoff[1])

    def _even_cutoff(self) -> tuple[int, int] | None:
        """The shards' common cutoff: one event each, at the same moment, brings them there."""
        if self.habits.retention is None:
            return None
        for shard in range(self.shards):
            task_id = next(
                name for name in map("even-{}".format, itertools.count()) if self.partition_of(name) == shard
            )
            self.publish(Planned(model.BidPlaced(task_id, "a", 1, "", self.clock.micros)))
        self.settle()
        cutoffs = {cutoff_of(self._owners_file(shard)) for shard in range(self.shards)}
        require(len(cutoffs) == 1, "the shards' cutoffs differ", cutoffs)
        return cutoffs.pop()

    def close(self) -> None:
        """Ends everything that runs."""
        for process in [*self.processes.values(), *self.gone]:
            process.kill()
        OPEN.remove(self)


def _require_equal(name: str, found: object, expected: object) -> None:
    require(found == expected, f"{name} differ from the model's", found, expected)


def shuffled(rng: random.Random) -> Callable[[list[str]], list[str]]:
    """An order of members that changes with every generation."""
    return lambda names: rng.sample(names, len(names))
