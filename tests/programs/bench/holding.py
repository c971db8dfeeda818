"""What holding many outcomes does to reading more of them, and how much memory it takes."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tests.programs.bench.answers_idle import asking
from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.held import KEYWORDS, write_state
from tests.programs.bench.load import preload_auctions, recent_auctions
from tests.programs.bench.progress import course_of
from tests.programs.bench.readings import reading
from tests.programs.bench.stage import PARTITIONS, Setting, Stage, in_turns, resident_bytes
from tests.programs.bench.whole_way import watched_of

INGEST_SECTION = "ingest-held"
MEMORY_SECTION = "memory"
MANY = 10_000_000
FEW = 1_000_000
AGENTS = 100_000
BIDS = 200_000
INGEST_GOAL = Goal(Better.MORE, 0.8, 0.95)
MEMORY_GOAL = Goal(Better.LESS, 400, 250)
_MEGABYTE = 1e6
_AT_ONCE = 200
_NOTE = "the state was written by the store's own code, not by a worker"


class UncachedError(Exception):
    """Not every agent was answered: the cache is not full."""


async def measure_ingest(stage: Stage) -> list[Figure]:
    """Events a second with ten times as many outcomes held."""
    agents = stage.scaled(AGENTS, least=1_000)
    many = await Holder.filled(stage, stage.scaled(MANY), agents)
    few = await Holder.filled(stage, stage.scaled(FEW), agents)
    mine, beside = await in_turns(stage.turns, many.rate, few.rate)
    sizes = {
        "outcomes": many.outcomes,
        "outcomes beside": few.outcomes,
        "agents": agents,
        "keywords_each": KEYWORDS,
        "bids": stage.scaled(BIDS, least=20_000),
        "partitions": PARTITIONS,
    }
    many.remove()
    few.remove()
    return [
        Figure(
            INGEST_SECTION,
            f"events to durable outcomes with {many.outcomes:,} held, 5 to 95 %",
            "events/s",
            reading(mine),
            reading(beside),
            f"the worker with {few.outcomes:,} held",
            stage.full_size_goal(INGEST_GOAL),
            sizes,
            [_NOTE],
        )
    ]


async def measure_memory(stage: Stage) -> list[Figure]:
    """Resident memory with every agent in the cache."""
    agents = stage.scaled(AGENTS, least=1_000)
    holder = await Holder.filled(stage, stage.scaled(MANY), agents)
    megabytes = []
    fresh: list[float] = []
    for _ in range(stage.turns):
        started, full = await holder.resident_megabytes(agents)
        fresh.append(started)
        megabytes.append(full)
    holder.remove()
    sizes = {"outcomes": holder.outcomes, "agents": agents, "keywords_each": KEYWORDS}
    return [
        Figure(
            MEMORY_SECTION,
            f"resident with {agents:,} agents cached, {holder.outcomes:,} outcomes on disk",
            "MB",
            reading(megabytes),
            goal=stage.full_size_goal(MEMORY_GOAL),
            sizes=sizes,
            notes=[_NOTE, f"ready, before any agent was asked about: {reading(fresh).median:.0f} MB"],
        )
    ]


class Holder:
    """A worker's disk with outcomes on it; every turn brings new auctions, in the same topics.

    Files belong to the topics that they were first used with: a worker refuses them for any others.
    """

    def __init__(self, stage: Stage, setting: Setting, state_dir: Path, outcomes: int, agents: int) -> None:
        self._stage = stage
        self.setting = setting
        self.state_dir = state_dir
        self._agents = agents
        self.outcomes = outcomes

    @classmethod
    async def filled(cls, stage: Stage, outcomes: int, agents: int) -> "Holder":
        """Writes the state."""
        setting = await stage.new_topics("held")
        state_dir = stage.new_folder("held")
        began = time.perf_counter()
        await write_state(stage, setting, state_dir, outcomes=outcomes, agents=agents)
        stage.say(f"wrote {outcomes:,} outcomes in {time.perf_counter() - began:.0f} s")
        return cls(stage, setting, state_dir, outcomes, agents)

    async def rate(self) -> float:
        """Events a second."""
        stage, setting = self._stage, self.setting
        load = recent_auctions(stage.scaled(BIDS, least=20_000), agents=self._agents)
        load = replace(load, label=stage.new_name("task"))
        await preload_auctions(stage.servers, setting.names, load)
        began = time.perf_counter()
        async with stage.worker(setting, self.state_dir, wait=False) as worker:
            course = await course_of(stage.servers, watched_of(setting), [worker], began)
            await worker.stop()
        rate = course.rate() * load.events
        stage.say(f"with {self.outcomes:,} held: {rate:,.0f} events/s")
        return rate

    async def resident_megabytes(
        self, agents: int, settings: Mapping[str, str] | None = None
    ) -> tuple[float, float]:
        """What a worker holds when it is ready, and after it was asked about every agent.

        Raises:
            UncachedError: an agent was not answered.
        """
        stage = self._stage
        async with stage.worker(self.setting, self.state_dir, settings=settings) as worker:
            ready = resident_bytes(worker) / _MEGABYTE
            said = await asking(stage, self.setting, "every_agent", agents=agents, at_once=_AT_ONCE)
            full = resident_bytes(worker) / _MEGABYTE
            await worker.stop()
        if said["answered"] != agents:
            raise UncachedError(f"{said} of {agents:,}")
        stage.say(f"{ready:.0f} MB ready, {full:.0f} MB with {agents:,} agents")
        return ready, full

    def remove(self) -> None:
        """Frees the disk."""
        shutil.rmtree(self.state_dir)
