"""From the start of a process to its first answer, everything on disk."""

import time

from tests.programs.bench.answers_idle import client
from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.load import AGENTS, preload_changelog
from tests.programs.bench.readings import reading
from tests.programs.bench.restore import restored
from tests.programs.bench.stage import PARTITIONS, Stage, last_words, running_child, said_ready

SECTION = "start"
OUTCOMES = 1_000_000
GOAL = Goal(Better.LESS, 2.0, 1.0)
_EVERY_SECONDS = 0.02
_PATIENCE_SECONDS = 120.0
_STATIC = {"--group-instance-id": "bench"}


class SilentError(Exception):
    """Nobody answered."""


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures."""
    setting = await stage.new_topics("start")
    state_dir = stage.new_folder("state")
    outcomes = stage.scaled(OUTCOMES)
    await preload_changelog(stage.servers, setting.names.outcomes, outcomes)
    await restored(stage, setting, state_dir, outcomes, _STATIC)
    seconds: list[float] = []
    for _ in range(stage.turns):
        async with running_child(
            "tests.programs.bench.asking",
            **client(stage, setting),
            way="first",
            every_seconds=_EVERY_SECONDS,
            patience_seconds=_PATIENCE_SECONDS,
        ) as asking:
            await said_ready(asking)
            began = time.time()
            async with stage.worker(setting, state_dir, settings=_STATIC, wait=False) as worker:
                said = await last_words(asking)
                await worker.stop()
        if said["answered_at"] is None:
            raise SilentError(f"no answer within {_PATIENCE_SECONDS:.0f} s")
        seconds.append(said["answered_at"] - began)
        stage.say(f"first answer after {seconds[-1]:.2f} s")
    sizes = {"outcomes": outcomes, "agents": AGENTS, "partitions": PARTITIONS}
    notes = ["the broker's initial rebalance delay is 0, the instance id static"]
    return [
        Figure(
            SECTION,
            "process start to first answer",
            "s",
            reading(seconds),
            goal=stage.full_size_goal(GOAL),
            sizes=sizes,
            notes=notes,
        )
    ]
