"""From events in Kafka to outcomes in SQLite with their offsets committed."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.load import Auctions, mean_outcome, preload_auctions, recent_auctions
from tests.programs.bench.progress import Watched, count_rows, course_of
from tests.programs.bench.readings import reading
from tests.programs.bench.stage import PARTITIONS, Setting, Stage, child, cpu_seconds, in_turns

SECTION = "whole-way"
BIDS = 1_000_000
GOAL = Goal(Better.MORE, 0.40, 0.50)


@dataclass(frozen=True, slots=True)
class Run:
    """One turn of one side.

    Attributes:
        rate: events a second, in full swing.
        seconds: for everything; the worker's from the start of its process.
        cpu_micros: processor time of an event.
    """

    rate: float
    seconds: float
    cpu_micros: float


class MissingError(Exception):
    """The worker did not keep as many outcomes as were published."""


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures."""
    load = recent_auctions(stage.scaled(BIDS))
    setting = await stage.new_topics("whole-way")
    bid_bytes = await preload_auctions(stage.servers, setting.names, load)
    stage.say(f"preloaded {load.events:,} events, a bid {bid_bytes} B")

    async def ours() -> Run:
        return await worker_run(stage, setting, load)

    async def floor() -> Run:
        return await floor_run(stage, setting, load)

    mine, raw = await in_turns(stage.turns, ours, floor)
    sizes = {
        "bids": load.bids,
        "events": load.events,
        "facts": load.facts,
        "agents": load.agents,
        "partitions": PARTITIONS,
        "bid_bytes": bid_bytes,
        "outcome_bytes": sum(mean_outcome(load)),
    }
    name = "read, write as many, read those"
    return [
        Figure(
            SECTION,
            "events to durable outcomes, 5 to 95 %",
            "events/s",
            reading([run.rate for run in mine]),
            reading([run.rate for run in raw]),
            f"raw: {name}",
            GOAL,
            sizes,
        ),
        Figure(
            SECTION,
            "the same, from process start to the last commit",
            "events/s",
            reading([load.events / run.seconds for run in mine]),
            reading([load.events / run.seconds for run in raw]),
            f"raw: {name}",
            None,
            sizes,
        ),
        Figure(
            SECTION,
            "processor time of an event",
            "µs",
            reading([run.cpu_micros for run in mine]),
            reading([run.cpu_micros for run in raw]),
            f"raw: {name}",
            None,
            sizes,
        ),
    ]


async def worker_run(
    stage: Stage, load_setting: Setting, load: Auctions, settings: Mapping[str, str] | None = None
) -> Run:
    """A new worker, empty disk, empty topics of its own, until every outcome is durable."""
    setting = await stage.new_internals(load_setting)
    state_dir = stage.new_folder("state")
    began = time.perf_counter()
    async with stage.worker(setting, state_dir, settings=settings, wait=False) as worker:
        course = await course_of(stage.servers, watched_of(setting), [worker], began)
        cpu = cpu_seconds(worker)
        await worker.stop()
    found = count_rows([state_dir])
    if found != load.bids:
        raise MissingError(f"{load.bids:,} outcomes were published, {found:,} are kept")
    shutil.rmtree(state_dir)
    run = Run(course.rate() * load.events, course.seconds, cpu / load.events * 1e6)
    stage.say(f"worker: {run.rate:,.0f} events/s, {run.seconds:.1f} s, {run.cpu_micros:.0f} µs each")
    return run


def watched_of(setting: Setting) -> Watched:
    """What a worker of this setting is to come through."""
    names = setting.names
    return Watched(
        setting.group_id, (names.bid_placed, names.auction_closed, names.task_finished), names.outcomes
    )


async def floor_run(stage: Stage, setting: Setting, load: Auctions) -> Run:
    """The raw floor, once."""
    target = await stage.new_topics("floor")
    key_bytes, value_bytes = mean_outcome(load)
    said = await child(
        "tests.programs.bench.floors",
        floor="whole_way",
        servers=stage.servers,
        sources=[setting.names.bid_placed, setting.names.auction_closed, setting.names.task_finished],
        target=target.names.outcomes,
        partitions=PARTITIONS,
        events=load.events,
        records=load.facts,
        key_bytes=key_bytes,
        value_bytes=value_bytes,
    )
    run = Run(load.events / said["seconds"], said["seconds"], said["cpu_seconds"] / load.events * 1e6)
    stage.say(f"floor: {run.rate:,.0f} events/s, {run.seconds:.1f} s, {run.cpu_micros:.0f} µs each")
    return run
