"""The weather: a seed decides what happens next, with weights of its own, until it heals."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

from learner_worker.operations.forget import SupersededFacts
from tests.simulation.history import AGENTS, Planned, plan
from tests.simulation.snapshots import Bucket
from tests.simulation.worker import HORIZON, SECOND, SOURCES, TOPICS, Habits, Process
from tests.simulation.world import World, shuffled
from tests.support.swarm import START_US

_ACTIONS = 260
_FORGOTTEN_UNTIL = (3.5, 4, 5, 6, 6.000001, 9, 10, 11, 12, 14, 15, 17, 20, 21, 25)


class Weather:
    """One seed's run."""

    def __init__(
        self, seed: int, *, forgetful: bool = False, forgetting: bool = False, snapshots: bool = False
    ) -> None:
        self.rng = rng = random.Random(seed)
        self.slow = rng.choice((0.0, 0.02, 0.1))
        self.refusing = rng.choice((0.0, 0.0, 0.0, 0.02, 0.1))
        shards = 4 if rng.random() < 0.15 else 2
        names = [f"w{number}" for number in range(rng.choice((2, 2, 3)))]
        fetch_limit, batch_limit = rng.choice((1, 2, 5, 50)), rng.choice((1, 2, 50))
        self.habits = Habits(
            latency=self._latency,
            fetch_limit=lambda: fetch_limit if self.stormy else 100,
            batch_limit=lambda: batch_limit,
            refuses=lambda: self.stormy and self.rng.random() < self.refusing,
            idle_seconds=0.5,
            checkpoint_seconds=rng.choice((0.2, 1.0, 1.0, 3.0)),
            cached_agents=rng.choice((1, 2, 1_000)),
            frontier_seconds=rng.choice((0.5, 2.0, 5.0)),
            standby_replicas=rng.choice((0, 1, 1, 2)),
            strategies=self._strategies,
        )
        self.settings = random.Random(f"settings {seed}")
        self.mixed = self.settings.random() < 0.5
        self.stormy = True
        self.world = World(names, shards, self.habits, rng.choice((None, None, shuffled(rng))))
        self.tasks = plan(rng, rng.randint(2, 7), rng.randint(2, 5))
        self.first: dict[str, int] = {}
        self.wrong_share = rng.choice((0.0, 0.0, 0.05, 0.3))
        self.actions: list[tuple[Callable[[], None], float]] = self._weighted()
        self.superseded: list[tuple[str, SupersededFacts]] = []
        if forgetful:
            self._become_forgetful(random.Random(f"retention {seed}"))
        if forgetting:
            self._begin_forgetting(random.Random(f"forget {seed}"))
        if snapshots:
            self._begin_snapshots(random.Random(f"snapshots {seed}"))

    def _become_forgetful(self, rng: random.Random) -> None:
        """A retention so long that the cutoff walks through the events' times, jumps, or never comes there.

        Every event has its own time: a bid that is much older than its close would expire before it.
        """
        walked = rng.choice((12, 4, 0, -3, -6, -9, -14, -20, -30, -40, -50, -1_500))
        self.world.habits = replace(self.habits, retention=(36_000 - walked) * SECOND)
        self.tasks = [[replace(planned, timeless=False) for planned in task] for task in self.tasks]
        if rng.random() < 0.7:
            self.actions = [(action, weight) for action, weight in self.actions if action != self._jump]

    def _begin_forgetting(self, rng: random.Random) -> None:
        """Agents are forgotten, of a third of the worlds with a retention besides."""
        if rng.random() < 0.3:
            self._become_forgetful(rng)
        weight = rng.choice((0.5, 2, 6))
        self.actions += [(self._forget, weight), (self._tombstone_superseded, rng.choice((0, weight)))]

    def _begin_snapshots(self, rng: random.Random) -> None:
        """Snapshots are made and taken, disks are lost more often, and topics are made anew.

        Of some of the worlds with a retention or with forgotten agents besides.
        """
        kind = rng.random()
        if kind < 0.2:
            self._become_forgetful(rng)
        elif kind < 0.4:
            self._begin_forgetting(rng)
        self.world.bucket = Bucket()
        self.world.habits = replace(self.world.habits, snapshot_seconds=rng.choice((1, 1, 4, 20)))
        self.actions += [
            (self._lose_disk, rng.choice((0.5, 2))),
            (self._reset, rng.choice((0, 0, 0.3))),
        ]

    def _strategies(self) -> list[str] | None:
        """What a process is started with: of half of the worlds some processes have classic only."""
        return ["classic"] if self.mixed and self.settings.random() < 0.4 else None

    async def _latency(self) -> None:
        if self.stormy and self.rng.random() < self.slow:
            await asyncio.sleep(self.rng.choice((0.01, 0.3, 0.3, 2.0, 40.0)))
        elif self.rng.random() < 0.3:
            await asyncio.sleep(0)

    def _weighted(self) -> list[tuple[Callable[[], None], float]]:
        rare = self._some(0.0, 0.3, 1.0, 3.0)
        return [
            (self._step, 60),
            (self._tick, 25),
            (self._publish, self._some(3, 8, 15)),
            (self._deliver, self._some(8, 20, 40)),
            (self._acknowledge, self._some(8, 20, 40)),
            (self._fail, self._some(0, 0, 0.5, 2)),
            (self._crash, rare * self._some(0, 1, 1)),
            (self._start, 4),
            (self._rebalance, rare * self._some(0, 1)),
            (self._zombie, rare * self._some(0, 1)),
            (self._wake, 1.5),
            (self._compact, self._some(0, 1, 4)),
            (self._jump, self._some(0, 0.5, 2)),
            (self._checkpoint, self._some(0, 0, 1, 3)),
            (self._stop, rare * self._some(0, 0, 0.5)),
            (self._rebuild, rare * self._some(0, 0, 0.5)),
            (self._retain, self._some(0, 0, 1, 3)),
            (self._retain_too_little, self._some(0, 0, 0, 0.5)),
        ]

    def _some(self, *weights: float) -> float:
        return self.rng.choice(weights)

    # --- the run -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Storm, then calm, then judgement."""
        for name in self.world.disks:
            self.world.start(name)
        actions, weights = zip(*self.actions, strict=True)
        for action in self.rng.choices(actions, weights, k=_ACTIONS):
            action()
            self.world.reap()
        self._heal()
        self.world.check()

    def _heal(self) -> None:
        self.world.note("the storm is over")
        self.stormy = False
        self.world.restarts = True
        self._publish_started()
        while self._left():
            self._publish()
        for process in self.world.processes.values():
            process.paused = False
            if self._is_zombie(process):
                process.coordinate()
        for name in self.world.disks:
            if name not in self.world.processes:
                self.world.start(name)
        self.world.settle()
        for _ in range(3 if self.world.bucket else self.rng.random() < 0.3):
            self._last_days()

    def _last_days(self) -> None:
        """A quiet world may still lose disks, and find everything again in the log."""
        for shard in range(self.world.shards):
            if self.rng.random() < 0.5:
                self.world.compact(TOPICS.outcomes, shard)
            if self.rng.random() < 0.3 and self.world.may_lose_end(shard):
                there = self.world.broker.log.partitions[TOPICS.outcomes, shard]
                self.world.lose_end(shard, self.rng.randint(there.first, there.end))
        self.world.settle()
        self.world.advance(self.rng.choice((0, 2)) * HORIZON)
        name = self.rng.choice(sorted(self.world.processes))
        self.world.crash(name, lose_disk=self.rng.random() < 0.7)
        self.world.start(name)
        self.world.settle()

    # --- publishing --------------------------------------------------------------------------------------

    def _left(self) -> list[list[Planned]]:
        return [task for task in self.tasks if task]

    def _publish(self) -> None:
        left = self._left()
        if not left:
            return
        recent = [task for task in left if task[-1].event.task_id in self.first]
        task = self.rng.choice(recent if recent and self.rng.random() < 0.6 else left)
        self._publish_one(task.pop())

    def _publish_one(self, planned: Planned) -> None:
        if not planned.is_result:
            self.first.setdefault(planned.event.task_id, self.world.clock.micros)
        wrong = self.rng.random() < self.wrong_share
        self.world.publish(planned, self.rng.randrange(self.world.shards) if wrong else None)

    def _publish_started(self) -> None:
        """What has to be published before the clock may jump: bids and closes of the tasks begun."""
        for task in self.tasks:
            if task and task[0].event.task_id in self.first:
                held = [planned for planned in task if not planned.is_result]
                task[:] = [planned for planned in task if planned.is_result]
                for planned in held:
                    self._publish_one(planned)

    # --- time --------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self.rng.random() < 0.5:
            self.world.skip_to_next_timer()
        else:
            self.world.advance(self.rng.choice((1_000, 20_000, 200_000, 900_000)))

    def _jump(self) -> None:
        distance = round(self.rng.choice((0.3, 0.7, 1.2, 2.5)) * HORIZON)
        open_tasks = [
            task[0].event.task_id
            for task in self.tasks
            if task and task[0].event.task_id in self.first and not all(item.is_result for item in task)
        ]
        late = [
            task_id
            for task_id in open_tasks
            if self.first[task_id] + HORIZON < self.world.clock.micros + distance + 60 * SECOND
        ]
        if late:
            self._publish_started()
        self.world.note(f"the clock jumps by {distance / HORIZON} horizons")
        self.world.advance(distance)

    # --- workers and broker ------------------------------------------------------------------------------

    def _process(self, *, paused: bool = False) -> Process | None:
        found = [process for process in self.world.processes.values() if process.paused is paused]
        return self.rng.choice(found) if found else None

    def _step(self) -> None:
        process = self._process()
        if process is not None:
            process.step(self.rng.choice((1, 2, 5, 20, 60)))

    def _deliver(self) -> None:
        pending = self.world.broker.pending()
        if pending:
            self.world.broker.deliver(self.rng.choice(pending))

    def _acknowledge(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            if self.world.broker.acknowledgements:
                self.world.broker.acknowledge(self.rng.randrange(len(self.world.broker.acknowledgements)))

    def _fail(self) -> None:
        pending = self.world.broker.pending()
        if pending:
            key = self.rng.choice(pending)
            self.world.note(f"a send to {key[1]}/{key[2]} fails")
            self.world.broker.fail(key, applied=self.rng.random() < 0.5)

    def _crash(self) -> None:
        if self.world.processes:
            name = self.rng.choice(sorted(self.world.processes))
            self.world.crash(
                name, lose_disk=self.rng.random() < 0.4, kept=lambda size: self.rng.randint(0, size)
            )
            if self.rng.random() < 0.5:
                self.world.expire(name)

    def _start(self) -> None:
        missing = [name for name in self.world.disks if name not in self.world.processes]
        if missing:
            self.world.start(self.rng.choice(missing))

    def _rebalance(self) -> None:
        self.world.note("rebalance")
        self.world.broker.group.begin_rebalance()

    def _zombie(self) -> None:
        process = self._process()
        if process is not None and process.name in self.world.broker.group.members:
            process.paused = self.rng.random() < 0.5
            self.world.note(f"{process.name} is {'paused' if process.paused else 'cut off from the group'}")
            self.world.expire(process.name)

    def _is_zombie(self, process: Process) -> bool:
        return self.world.broker.group.members.get(process.name) is not process

    def _wake(self) -> None:
        process = self._process(paused=True)
        if process is not None:
            self.world.note(f"{process.name} wakes up")
            process.paused = False
        elif self.rng.random() < 0.5:
            zombies = [one for one in self.world.running() if self._is_zombie(one)]
            if zombies:
                found = self.rng.choice(zombies)
                self.world.note(f"{found.name} learns that the group gave it up")
                found.coordinate()

    def _compact(self) -> None:
        topic = self.rng.choice((TOPICS.outcomes, TOPICS.outcomes, TOPICS.metrics))
        shard = self.rng.randrange(self.world.shards)
        self.world.compact(topic, shard)
        if self.rng.random() < 0.3:
            self.world.drop_empty_beginning(topic, shard)

    def _checkpoint(self) -> None:
        process = self._process()
        if process is not None:
            process.checkpoint()

    def _stop(self) -> None:
        process = self._process()
        if process is not None:
            self.world.note(f"stop {process.name}")
            process.stop()

    def _rebuild(self) -> None:
        process = self._process()
        if process is not None:
            self.world.note(f"{process.name} is stuck")
            process.rebuild()

    # --- snapshots ---------------------------------------------------------------------------------------

    def _lose_disk(self) -> None:
        """A worker dies with its disk, and comes back at once or its shards move."""
        if self.world.processes:
            name = self.rng.choice(sorted(self.world.processes))
            self.world.crash(name, lose_disk=True, kept=lambda size: self.rng.randint(0, size))
            if self.rng.random() < 0.5:
                self.world.expire(name)
            self.world.start(name)

    def _reset(self) -> None:
        """All topics are made anew; what is still to be published goes there."""
        self.world.reset_topics()
        self.first.clear()
        self.superseded.clear()
        for name in self.world.disks:
            self.world.start(name)

    # --- retention ---------------------------------------------------------------------------------------

    def _retain(self) -> None:
        """Retention deletes what nobody will read again."""
        topic, shard = self.rng.choice(SOURCES), self.rng.randrange(self.world.shards)
        self.world.lose_beginning(topic, shard, self.world.read_by_all(topic, shard))

    def _retain_too_little(self) -> None:
        """Retention deletes what may still be unread."""
        topic, shard = self.rng.choice(SOURCES), self.rng.randrange(self.world.shards)
        self.world.lose_beginning(topic, shard, self.rng.randint(0, self.world.broker.log.end(topic, shard)))

    # --- forgetting --------------------------------------------------------------------------------------

    def _forget(self) -> None:
        """Somebody has an agent forgotten, until now or until some moment between the events' times."""
        agent_id = self.rng.choice(AGENTS)
        until = START_US + round(self.rng.choice(_FORGOTTEN_UNTIL) * SECOND)
        if self.rng.random() < 0.1:
            until = self.world.clock.micros
        self.superseded.append((agent_id, self.world.forget(agent_id, until)))

    def _tombstone_superseded(self) -> None:
        """What was read of the changelog then, or a part of it, is tombstoned."""
        if self.superseded:
            agent_id, superseded = self.superseded.pop(self.rng.randrange(len(self.superseded)))
            if self.rng.random() < 0.2:
                first = self.rng.randint(0, len(superseded.due_tombstones))
                superseded.due_tombstones = dict(list(superseded.due_tombstones.items())[:first])
            self.world.tombstone_superseded(agent_id, superseded)


def run_seed(
    seed: int, *, forgetful: bool = False, forgetting: bool = False, snapshots: bool = False
) -> None:
    """Runs one seed's weather to its judgement.

    Args:
        forgetful: with a retention.
        forgetting: agents are forgotten.
        snapshots: snapshots are made and taken.
    """
    weather = Weather(seed, forgetful=forgetful, forgetting=forgetting, snapshots=snapshots)
    try:
        weather.run()
    except Exception as error:
        error.add_note("\n".join(["What happened:", *weather.world.story]))
        error.add_note(f"Replay it: SIMULATION_SEED={seed} pytest tests/simulation/test_random.py")
        raise
    finally:
        weather.world.close()
