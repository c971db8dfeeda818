"""Minimal sequences with a reshard: what random seeds find too rarely."""

import itertools
from collections.abc import Callable
from dataclasses import replace

from learner_worker.kafka.partitioner import partitioner
from tests.simulation.broker import Broker
from tests.simulation.checks import require, rows_of
from tests.simulation.directed import ONE_BY_ONE, bid, close, committed, publish, result
from tests.simulation.disk import Disk
from tests.simulation.reshard_command import Command, Layouts
from tests.simulation.worker import SECOND, TOPICS
from tests.simulation.world import CALM, World, no_latency

_CALLBACKS = 10_000
SEQUENCES: dict[str, Callable[[], World]] = {}


def sequence(run: Callable[[], World]) -> Callable[[], World]:
    """Lists a sequence by its name."""
    SEQUENCES[run.__name__] = run
    return run


def _stalled() -> tuple[World, Layouts]:
    """One shard; its owner w0 stalls with facts in the changelog that it has not read back yet.

    It is given up, and a result is published that nobody has read. Results have no rewind: who commits behind
    one has to have its fact where the next layout finds it.
    """
    world = World(("w0",), 1, ONE_BY_ONE)
    world.start("w0")
    world.settle()
    for number in range(6):
        task = f"t{number}"
        publish(world, *(bid(task, agent, 10, 1) for agent in ("a", "b", "c", "d")), close(task, "a", 5))
    world.until(lambda: committed(world, TOPICS.bid_placed) == world.broker.log.end(TOPICS.bid_placed, 0))
    unread = world.broker.log.end(TOPICS.outcomes, 0) - committed(world, TOPICS.outcomes)
    require(unread > 4, "nothing of the changelog is unread", unread)
    world.processes["w0"].paused = True
    world.expire("w0")
    publish(world, result("t0", "a", 20))
    return world, Layouts(world.broker, 2, Broker(world.clock, 2, None))


def _run(command: Command, holds: Callable[[], bool]) -> None:
    for _ in range(_CALLBACKS):
        if holds():
            return
        command.loop.step(1)
    require(False, "the command does not come so far", command.said)


def _zombie_reads_the_result(world: World) -> None:
    """w0 wakes up, joins its group again, reads the result, writes its fact, commits, and is killed."""
    zombie = world.processes["w0"]
    zombie.paused = False
    zombie.coordinate()
    world.until(lambda: committed(world, TOPICS.task_finished) == 1)
    world.crash("w0")


def _switch(world: World, layouts: Layouts) -> World:
    require(layouts.standing.layout == 2, "nothing was switched", layouts.standing)
    world.broker, world.shards, world.guard = layouts.new, layouts.shards, layouts.guard
    world.partition_of = partitioner(layouts.shards)
    world.disks = {"n0": Disk()}
    world.start("n0")
    world.settle()
    return world


@sequence
def a_zombie_commits_behind_the_barrier() -> World:
    """It has not read so far as the barrier: what it commits is not what the new layout begins with."""
    world, layouts = _stalled()
    command = Command(layouts, no_latency)
    _run(command, lambda: "fenced" in command.said)
    _zombie_reads_the_result(world)
    _run(command, lambda: command.done)
    return _switch(world, layouts)


@sequence
def a_zombie_commits_after_the_switch() -> World:
    """Before a worker of the new layout has committed anything."""
    world, layouts = _stalled()
    command = Command(layouts, no_latency)
    _run(command, lambda: command.done)
    layouts.switched()
    _zombie_reads_the_result(world)
    return _switch(world, layouts)


@sequence
def a_zombie_commits_between_two_runs_of_a_step() -> World:
    """The command is killed when the commits are inherited and not recorded: it inherits them again."""
    world, layouts = _stalled()
    command = Command(layouts, no_latency)
    _run(command, lambda: (TOPICS.bid_placed, 0) in layouts.new.log.committed)
    command.kill()
    require("inherited" not in command.said, "it is recorded already")
    _zombie_reads_the_result(world)
    command = Command(layouts, no_latency)
    _run(command, lambda: command.done)
    return _switch(world, layouts)


def _named(prefix: str, before: int, after: int) -> str:
    """An id on a partition of two, and on one of three."""
    names = (f"{prefix}{number}" for number in itertools.count())
    return next(name for name in names if (partitioner(2)(name), partitioner(3)(name)) == (before, after))


@sequence
def a_silent_shards_outcomes_outlive_a_reshard() -> World:
    """One of two shards has read nothing for long, so its outcomes have not expired: nor do they now."""
    world = World(("w0",), 2, replace(CALM, retention=100 * SECOND))
    world.start("w0")
    world.settle()
    agent, task = _named("a", 1, 1), _named("t", 1, 1)
    publish(world, bid(task, agent, 10, 35_950), close(task, agent, 35_950))
    world.settle()
    world.advance(200 * SECOND)
    publish(world, bid(_named("u", 0, 0), "b", 10, 36_190))
    world.settle()
    world.processes["w0"].stop()
    world.until(lambda: not world.processes)
    require((task, agent) in rows_of(world.disks["w0"].databases[1]), "the outcome has expired already")

    layouts = Layouts(world.broker, 3, Broker(world.clock, 3, None))
    command = Command(layouts, no_latency)
    _run(command, lambda: command.done)
    _switch(world, layouts)
    require(
        (task, agent) in rows_of(world.disks["n0"].databases[1]), "the outcome has expired by the reshard"
    )
    return world
