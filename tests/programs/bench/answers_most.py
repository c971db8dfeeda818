"""How many questions a second one worker answers in time."""

from pathlib import Path

from tests.programs.bench.answers_idle import asking, running_echo, warm_up_broker
from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.load import AGENTS, preload_changelog
from tests.programs.bench.readings import reading
from tests.programs.bench.stage import PARTITIONS, Setting, Stage, in_turns, last_words, said_ready

SECTION = "answers-most"
OUTCOMES = 100_000
LIMIT_MS = 25.0
SECONDS = 5.0
GOAL = Goal(Better.MORE, 0.6, 0.8)


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures."""
    setting = await stage.new_topics("most")
    state_dir = stage.new_folder("state")
    outcomes = stage.scaled(OUTCOMES)
    await preload_changelog(stage.servers, setting.names.outcomes, outcomes)
    await warm_up_broker(stage, setting)
    seconds = max(2.0, SECONDS * min(1.0, stage.scale))

    async def ours() -> float:
        return await _of_worker(stage, setting, state_dir, seconds)

    async def echo() -> float:
        return await _of_echo(stage, setting, seconds)

    mine, raw = await in_turns(stage.turns, ours, echo)
    sizes = {"seconds_a_step": seconds, "outcomes": outcomes, "agents": AGENTS, "partitions": PARTITIONS}
    return [
        Figure(
            SECTION,
            f"answers with p99 within {LIMIT_MS:g} ms",
            "/s",
            reading(mine),
            reading(raw),
            "raw: echo, the same search; 0 where the lowest rate fails",
            GOAL,
            sizes,
            notes=[
                "open loop: a request is due whether or not the last is answered; nothing may be refused",
                "a rate counts if one of two tries holds",
            ],
        )
    ]


async def _of_worker(stage: Stage, setting: Setting, state_dir: Path, seconds: float) -> float:
    async with stage.worker(setting, state_dir) as worker:
        rate = await _search(stage, setting, "worker", seconds)
        await worker.stop()
    return rate


async def _of_echo(stage: Stage, setting: Setting, seconds: float) -> float:
    async with running_echo(stage, setting) as echo:
        await said_ready(echo)
        rate = await _search(stage, setting, "echo", seconds)
        await last_words(echo)
    return rate


async def _search(stage: Stage, setting: Setting, who: str, seconds: float) -> float:
    said = await asking(stage, setting, "most", limit_ms=LIMIT_MS, seconds=seconds)
    tried = ", ".join(f"{step['rate']:.0f}/s {step['p99_ms']:.1f} ms" for step in said["steps"])
    stage.say(f"{who}: {said['rate']:.0f}/s ({tried})")
    return float(said["rate"])
