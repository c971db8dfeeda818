"""A lost disk: the changelog becomes a shard's rows again."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.load import AGENTS, preload_changelog
from tests.programs.bench.progress import Course, Watched, count_rows, course_of
from tests.programs.bench.readings import reading
from tests.programs.bench.stage import PARTITIONS, Setting, Stage, child, in_turns

SECTION = "restore"
OUTCOMES = 1_000_000
GOAL = Goal(Better.MORE, 0.20, 0.30)


class IncompleteError(Exception):
    """The restored rows are not as many as the changelog's outcomes."""


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures."""
    setting = await stage.new_topics("restore")
    outcomes = stage.scaled(OUTCOMES)
    record_bytes = await preload_changelog(stage.servers, setting.names.outcomes, outcomes)
    stage.say(f"preloaded {outcomes:,} outcomes, a record {record_bytes} B")

    async def ours() -> tuple[float, float]:
        state_dir = stage.new_folder("state")
        fresh = await stage.new_internals(setting, keep=("outcomes",))
        course = await restored(stage, fresh, state_dir, outcomes)
        shutil.rmtree(state_dir)
        stage.say(f"worker: {course.rate() * outcomes:,.0f} outcomes/s, {course.seconds:.1f} s")
        return course.rate() * outcomes, outcomes / course.seconds

    async def floor() -> tuple[float, float]:
        said = await child(
            "tests.programs.bench.floors",
            floor="consume",
            servers=stage.servers,
            topic=setting.names.outcomes,
            partitions=PARTITIONS,
            records=outcomes,
        )
        rate = outcomes / said["seconds"]
        stage.say(f"raw: {rate:,.0f} records/s")
        return rate, rate

    mine, raw = await in_turns(stage.turns, ours, floor)
    sizes = {
        "outcomes": outcomes,
        "record_bytes": record_bytes,
        "agents": AGENTS,
        "partitions": PARTITIONS,
    }
    names = ("outcomes restored on an empty disk, 5 to 95 %", "the same, from process start to the last row")
    return [
        Figure(
            SECTION,
            name,
            "outcomes/s",
            reading([rates[place] for rates in mine]),
            reading([rates[place] for rates in raw]),
            "raw: consume the same topic",
            goal,
            sizes,
        )
        for place, (name, goal) in enumerate(zip(names, (GOAL, None), strict=True))
    ]


async def restored(
    stage: Stage,
    setting: Setting,
    state_dir: Path,
    outcomes: int,
    settings: Mapping[str, str] | None = None,
) -> Course:
    """A worker's restore from its changelog until everything is in its files; the worker has ended then.

    Raises:
        IncompleteError: rows are missing.
    """
    began = time.perf_counter()
    async with stage.worker(setting, state_dir, settings=settings, wait=False) as worker:
        watched = Watched(setting.group_id, (), setting.names.outcomes)
        course = await course_of(stage.servers, watched, [worker], began)
        await worker.ready()
        await worker.stop()
    found = count_rows([state_dir])
    if found != outcomes:
        raise IncompleteError(f"the changelog holds {outcomes:,} outcomes, {found:,} were restored")
    return course
