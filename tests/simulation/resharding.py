"""Weather with a reshard in it: killed again and again, with zombies of the old layout that write and commit.

The zombies are of a version that knows no record of the topology: nothing but the barrier stops them.
"""

import random
from collections.abc import Callable
from typing import Protocol

from learner_worker.errors import StuckError, UpgradeRequiredError
from learner_worker.kafka.partitioner import partitioner
from learner_worker.operations.resharding import STEPS
from tests.simulation.broker import Broker
from tests.simulation.checks import require
from tests.simulation.disk import Disk
from tests.simulation.driver import Weather
from tests.simulation.loop import SteppedLoop
from tests.simulation.reshard_command import Command, Layouts
from tests.simulation.worker import Process
from tests.simulation.world import shuffled

_BEFORE, _MEANWHILE, _AFTERWARDS = 140, 4_000, 120
_CALLBACKS = (1, 2, 5, 20, 60)
_TURNS = 4_000
_KILLS = 12


class Run(Protocol):
    """A run of what ends the old workers' time."""

    loop: SteppedLoop
    said: list[str]

    @property
    def done(self) -> bool:
        """Whether it has ended; raises what it ended with."""
        ...

    def kill(self) -> None:
        """SIGKILL."""
        ...


class ReshardWeather(Weather):
    """One seed's run: a storm, a reshard in the storm, another storm in the new layout."""

    def __init__(
        self, seed: int, *, forgetful: bool = False, forgetting: bool = False, snapshots: bool = False
    ) -> None:
        super().__init__(seed, forgetful=forgetful, forgetting=forgetting, snapshots=snapshots)
        self.actions = [(action, weight) for action, weight in self.actions if action != self._reset]
        self.choice = random.Random(f"reshard {seed}")
        before = self.world.shards
        after = self.choice.choice((before + 1, before * 2, before * 2, before * 3))
        order = self.choice.choice((None, None, shuffled(self.choice)))
        self.layouts = Layouts(self.world.broker, after, Broker(self.world.clock, after, order))
        self.zombies: list[Process] = []
        self.ends: tuple[type[Exception], ...] = (StuckError, UpgradeRequiredError)
        self.kills = self.choice.choice((0.0, 0.02, 0.1))

    def run(self) -> None:
        """Storm, reshard, storm, calm, judgement."""
        for name in self.world.disks:
            self.world.start(name)
        self._storm(self.actions, _BEFORE)
        self._stop_workers()
        self._reshard()
        self._switch()
        self._storm(self.actions, _AFTERWARDS)
        self._heal()
        self._end_zombies()
        self.world.settle()
        self.world.check()

    def judged(self, again: str) -> None:
        """The run; a failure says what happened, and how to see it again."""
        try:
            self.run()
        except Exception as error:
            error.add_note("\n".join(["What happened:", *self.world.story, again]))
            raise
        finally:
            for zombie in self.zombies:
                zombie.kill()
            self.world.close()

    def _storm(self, weighted: list[tuple[Callable[[], None], float]], count: int) -> None:
        actions, weights = zip(*weighted, strict=True)
        for action in self.rng.choices(actions, weights, k=count):
            action()
            self.world.reap()
            self._drive_zombies()

    # --- the old layout ends -----------------------------------------------------------------------------

    def _stop_workers(self) -> None:
        """Workers see the announcement and finish; some are stalled, and lose their membership."""
        self.superseded.clear()
        for name, process in self.world.processes.items():
            if self.choice.random() < 0.5:
                self.world.note(f"{name} does not see the reshard, and is given up")
                process.paused = self.choice.random() < 0.7
                self.world.expire(name)
            else:
                self.world.note(f"{name} sees the reshard")
                process.paused = False
                process.stop()
        self.zombies = list(self.world.processes.values())
        self.world.processes.clear()
        for name in list(self.world.broker.group.members):  # of workers that are dead
            if name not in {zombie.name for zombie in self.zombies}:
                self.world.expire(name)

    def _meanwhile(self) -> list[tuple[Callable[[], None], float]]:
        """What goes on while nobody works: no worker starts, nothing is forgotten, retention has time."""
        left_out = {
            self._start,
            self._crash,
            self._lose_disk,
            self._rebuild,
            self._stop,
            self._zombie,
            self._wake,
            self._retain,
            self._retain_too_little,
            self._forget,
            self._tombstone_superseded,
        }
        return [
            (action, weight / 10 if action == self._jump else weight)
            for action, weight in self.actions
            if action not in left_out
        ]

    def _command(self) -> Run:
        return Command(self.layouts, self._latency)

    def _reshard(self) -> None:
        """The command, killed again and again."""
        command = self._command()
        actions, weights = zip(*self._meanwhile(), strict=True)
        killed = 0
        for number in range(_MEANWHILE * 5):
            if number == _MEANWHILE:
                self.stormy = False
            self.rng.choices(actions, weights)[0]()
            self._drive_zombies()
            command.loop.step(self.choice.choice(_CALLBACKS))
            if command.done:
                return
            if killed < _KILLS and self.choice.random() < self.kills:
                killed += 1
                self.world.note(f"the command is killed, having said {command.said}")
                command.kill()
                command = self._command()
        require(False, "the reshard does not come to its end", command.said)

    # --- zombies -----------------------------------------------------------------------------------------

    def _drive_zombies(self) -> None:
        for zombie in list(self.zombies):
            self._drive(zombie)

    def _drive(self, zombie: Process) -> None:
        roll = self.choice.random()
        if zombie.paused:
            if roll < 0.02:
                self.world.note(f"the zombie {zombie.name} wakes up")
                zombie.paused = False
            return
        if roll < 0.01 and self._is_emptied:
            self.world.note(f"the zombie {zombie.name} joins its group again")
            zombie.coordinate()
        if roll < 0.05 and not self._is_emptied and not zombie.stopping.is_set():
            self.world.expire(zombie.name)  # `learner-worker leave --instance`
        zombie.step(self.choice.choice(_CALLBACKS))
        self._deliver_old()
        if not zombie.alive:
            self._note_end(zombie)

    @property
    def _is_emptied(self) -> bool:
        """Whether the command does not wait for the group any more."""
        reshard = self.layouts.standing.reshard
        return reshard is None or reshard.step not in STEPS[:1]

    def _deliver_old(self) -> None:
        """What zombies send arrives, in its own time."""
        old = self.layouts.old
        if self.world.broker is old:
            return
        pending = old.pending()
        if pending and self.choice.random() < 0.5:
            old.deliver(self.choice.choice(pending))
        if old.acknowledgements and self.choice.random() < 0.5:
            old.acknowledge(0)

    def _note_end(self, zombie: Process) -> None:
        self.world.note(f"the zombie {zombie.name} ended: {zombie.failure!r}")
        self.zombies.remove(zombie)
        zombie.loop.abandon()
        self.world.gone.append(zombie)
        self.layouts.old.group.remove(zombie.name)
        found = zombie.disk.violations or zombie.producer.violations
        require(not found, f"the zombie {zombie.name}", found)
        known = zombie.failure is None or isinstance(zombie.failure, self.ends)
        require(known, f"the zombie {zombie.name} ended with", zombie.failure)

    def _end_zombies(self) -> None:
        """Whoever still lives of the old layout comes back to its group, meets the barrier and ends."""
        for zombie in self.zombies:
            zombie.paused = False
            zombie.coordinate()
        for _ in range(_TURNS):
            if not self.zombies:
                return
            for zombie in list(self.zombies):
                while zombie.loop.has_work and zombie.alive:
                    zombie.step(50)
                    self._deliver_all_old()
                if not zombie.alive:
                    self._note_end(zombie)
            self._deliver_all_old()
            due = [zombie.loop.next_timer for zombie in self.zombies]
            known = [when for when in due if when is not None]
            if known:
                self.world.clock.micros = max(self.world.clock.micros, round(min(known) * 1_000_000) + 1)
            self.world.turn()
        require(False, "a worker of the old layout goes on", [zombie.name for zombie in self.zombies])

    def _deliver_all_old(self) -> None:
        old = self.layouts.old
        for key in old.pending():
            while old.queues[key]:
                old.deliver(key)
        while old.acknowledgements:
            old.acknowledge(0)

    # --- the new layout ----------------------------------------------------------------------------------

    def _switch(self) -> None:
        """Workers of the new layout start, on empty folders: their old files are set aside."""
        require(self.layouts.standing.layout == 2, "nothing was switched", self.layouts.standing)
        world = self.world
        world.note("switched")
        named = f"incarnation={self.layouts.standing.incarnation};"
        unnamed = [
            one for one in self.layouts.new.log.committed.values() if not one.metadata.startswith(named)
        ]
        require(not unnamed, "commits do not name the new layout", unnamed)
        self.layouts.switched()
        world.broker, world.shards = self.layouts.new, self.layouts.shards
        world.guard = self.layouts.guard
        world.partition_of = partitioner(world.shards)
        world.disks = {f"n{number}": Disk() for number in range(len(world.disks))}
        self.stormy = True
        for name in world.disks:
            world.start(name)


def run_reshard_seed(
    seed: int, *, forgetful: bool = False, forgetting: bool = False, snapshots: bool = False
) -> None:
    """Runs one seed's reshard to its judgement."""
    weather = ReshardWeather(seed, forgetful=forgetful, forgetting=forgetting, snapshots=snapshots)
    weather.judged(f"Replay it: SIMULATION_SEED={seed} pytest tests/simulation/test_reshard.py")
