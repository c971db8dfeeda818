"""What an event costs in processor time when more replicas share the work."""

import asyncio
import shutil
import time
from contextlib import AsyncExitStack

from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.load import Auctions, preload_auctions, recent_auctions
from tests.programs.bench.processor import used_by
from tests.programs.bench.progress import course_of
from tests.programs.bench.readings import reading
from tests.programs.bench.stage import PARTITIONS, Stage, in_turns
from tests.programs.bench.whole_way import watched_of

SECTION = "replicas"
BIDS = 200_000
COUNTS = (1, 2, 4)
GOAL = Goal(Better.LESS, 1.3, 1.1)


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures."""
    load = recent_auctions(stage.scaled(BIDS, least=10_000))

    async def one() -> float:
        return await _micros_of_event(stage, load, COUNTS[0])

    async def two() -> float:
        return await _micros_of_event(stage, load, COUNTS[1])

    async def four() -> float:
        return await _micros_of_event(stage, load, COUNTS[2])

    alone, *shared = await in_turns(stage.turns, one, two, four)
    sizes = {"bids": load.bids, "events": load.events, "partitions": PARTITIONS}
    notes = ["processor time of all replicas, from ready with nothing to do until all is durable"]
    return [
        Figure(
            SECTION,
            f"processor time of an event with {count} replicas",
            "µs",
            reading(found),
            reading(alone),
            "the same with one",
            GOAL,
            sizes,
            notes,
        )
        for count, found in zip(COUNTS[1:], shared, strict=True)
    ]


async def _micros_of_event(stage: Stage, load: Auctions, count: int) -> float:
    setting = await stage.new_topics("replicas")
    folders = [stage.new_folder("state") for _ in range(count)]
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(
                stage.worker(
                    setting, folder, settings={"--group-instance-id": f"replica-{number}"}, wait=False
                )
            )
            for number, folder in enumerate(folders)
        ]
        await asyncio.gather(*(worker.ready() for worker in workers))
        pids = [worker.process.pid for worker in workers]
        before = used_by(pids, ())
        began = time.perf_counter()
        await preload_auctions(stage.servers, setting.names, load)
        await course_of(stage.servers, watched_of(setting), workers, began)
        used = before.until(used_by(pids, ()))
        await asyncio.gather(*(worker.stop() for worker in workers))
    for folder in folders:
        shutil.rmtree(folder)
    micros = (used.loops + used.others) / load.events * 1e6
    stage.say(f"{count} replicas: {micros:.0f} µs an event")
    return micros
