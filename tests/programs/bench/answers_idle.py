"""One question after the other, nothing else going on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.load import AGENTS, preload_changelog
from tests.programs.bench.readings import percentile, reading
from tests.programs.bench.stage import (
    PARTITIONS,
    Setting,
    Stage,
    child,
    in_turns,
    last_words,
    running_child,
    said_ready,
)

SECTION = "answers-idle"
OUTCOMES = 100_000
REQUESTS = 2_000
WARM_UP = 100
BROKER_RATE = 3_000
BROKER_SECONDS = 45.0
GOALS = {50: Goal(Better.LESS, 1.3, 1.15), 99: Goal(Better.LESS, 2.0)}


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures."""
    setting = await stage.new_topics("idle")
    state_dir = stage.new_folder("state")
    outcomes = stage.scaled(OUTCOMES)
    await preload_changelog(stage.servers, setting.names.outcomes, outcomes)
    await warm_up_broker(stage, setting)
    count = stage.scaled(REQUESTS, least=200)
    asked = Sequential(stage, setting, state_dir, count)
    mine, raw = await in_turns(stage.turns, asked.of_worker, asked.of_echo)
    sizes = {"requests": count, "outcomes": outcomes, "agents": AGENTS, "partitions": PARTITIONS}
    return [
        Figure(
            SECTION,
            f"request to reply, p{percent}",
            "ms",
            reading([percentile(latencies, percent) for latencies in mine]),
            reading([percentile(latencies, percent) for latencies in raw]),
            "raw: echo with a consumer and a producer",
            goal,
            sizes,
        )
        for percent, goal in GOALS.items()
    ]


@dataclass(frozen=True, slots=True)
class Sequential:
    """Asks the worker, or the echo, the same questions."""

    stage: Stage
    setting: Setting
    state_dir: Path
    count: int

    async def of_worker(self) -> list[float]:
        """The latencies in milliseconds."""
        async with self.stage.worker(self.setting, self.state_dir) as worker:
            latencies = await self._ask()
            await worker.stop()
        self.stage.say(f"worker: p50 {percentile(latencies, 50):.2f} ms, p99 {percentile(latencies, 99):.2f}")
        return latencies

    async def of_echo(self) -> list[float]:
        """The latencies in milliseconds."""
        async with running_echo(self.stage, self.setting) as echo:
            await said_ready(echo)
            latencies = await self._ask()
            await last_words(echo)
        self.stage.say(f"echo: p50 {percentile(latencies, 50):.2f} ms, p99 {percentile(latencies, 99):.2f}")
        return latencies

    async def _ask(self) -> list[float]:
        said = await asking(self.stage, self.setting, "sequential", count=self.count, warm_up=WARM_UP)
        return all_answered(said)


async def warm_up_broker(stage: Stage, setting: Setting) -> None:
    """Has the echo asked for a while: a broker that has just started is slow, and all the cores' rival.

    Without it the first turn was another machine's than the others: p99 was twice as long, of the worker's
    answers and of the echo's.
    """
    async with running_echo(stage, setting) as echo:
        await said_ready(echo)
        seconds = BROKER_SECONDS * min(1.0, stage.scale)
        await asking(stage, setting, "steady", rate=BROKER_RATE, seconds=seconds)
        await last_words(echo)


def running_echo(stage: Stage, setting: Setting, **options: object) -> Any:
    """The raw echo's process."""
    return running_child(
        "tests.programs.bench.floors",
        floor="echo",
        servers=stage.servers,
        requests=setting.names.requests,
        partitions=PARTITIONS,
        **options,
    )


async def asking(stage: Stage, setting: Setting, way: str, *, agents: int = AGENTS, **options: object) -> Any:
    """What the asking client says, asking one way."""
    return await child("tests.programs.bench.asking", **client(stage, setting, agents), way=way, **options)


def client(stage: Stage, setting: Setting, agents: int = AGENTS) -> dict[str, object]:
    """The asking client's options, the same for all that answer."""
    return {
        "servers": stage.servers,
        "requests": setting.names.requests,
        "replies": setting.names.replies,
        "partitions": PARTITIONS,
        "agents": agents,
        "agent_format": "agent-%06d",
    }


class UnansweredError(Exception):
    """Some requests were refused or not answered: latencies of the others would say too little."""


def all_answered(said: dict[str, Any]) -> list[float]:
    """The latencies in milliseconds.

    Raises:
        UnansweredError: not all requests were answered.
    """
    if said["refused"] or said["unanswered"]:
        raise UnansweredError(f"{said['refused']} refused, {said['unanswered']} unanswered")
    latencies: list[float] = said["latencies_ms"]
    return latencies
