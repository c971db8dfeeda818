"""From events in Kafka to outcomes in SQLite with their offsets committed."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.load import Auctions, Ids, mean_outcome, preload_auctions, recent_auctions
from tests.programs.bench.processor import Used, used_by
from tests.programs.bench.progress import Watched, count_outcomes, course_of
from tests.programs.bench.readings import reading
from tests.programs.bench.stage import PARTITIONS, Setting, Stage, child, in_turns

SECTION = "whole-way"
BIDS = 1_000_000
GOAL = Goal(Better.MORE, 0.25, 0.40)
TWO_GOAL = Goal(Better.MORE, 0.33, 0.50)
IDS_GOAL = Goal(Better.LESS, 1.15, 1.0)
_NOTES = ("start-up is left out between 5 and 95 % of the records, of processor time, too",)


@dataclass(frozen=True, slots=True)
class Run:
    """One turn of one side.

    Attributes:
        rate: events a second, in full swing.
        seconds: for everything; the worker's from the start of its process.
        used: processor time of an event in µs, in full swing.
        besides: processor time of the worker's start and end, in seconds.
    """

    rate: float
    seconds: float
    used: Used
    besides: float = 0.0

    @property
    def cpu_micros(self) -> float:
        """Processor time of an event, of all threads."""
        return self.used.loops + self.used.others


class MissingError(Exception):
    """The worker did not keep as many outcomes as were published."""


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures."""
    load = recent_auctions(stage.scaled(BIDS))
    ascending = replace(load, label="ascending", ids=Ids.ASCENDING)
    setting = await stage.new_topics("whole-way")
    ascending_setting = await stage.new_topics("ascending")
    bid_bytes = await preload_auctions(stage.servers, setting.names, load)
    await preload_auctions(stage.servers, ascending_setting.names, ascending)
    stage.say(f"preloaded {load.events:,} events twice, a bid {bid_bytes} B")

    async def ours() -> Run:
        return await worker_run(stage, setting, load)

    async def floor() -> Run:
        return await floor_run(stage, setting, load)

    async def two() -> Run:
        return await worker_run(stage, setting, load, {"--processes": "2"})

    async def in_order() -> Run:
        return await worker_run(stage, ascending_setting, ascending)

    sides = await in_turns(stage.turns, ours, floor, two, in_order)
    sizes = {
        "bids": load.bids,
        "events": load.events,
        "facts": load.facts,
        "agents": load.agents,
        "partitions": PARTITIONS,
        "bid_bytes": bid_bytes,
        "outcome_bytes": sum(mean_outcome(load)),
    }
    return list(_figures(sizes, *sides))


def _figures(
    sizes: Mapping[str, float],
    mine: Sequence[Run],
    raw: Sequence[Run],
    two: Sequence[Run],
    in_order: Sequence[Run],
) -> Iterator[Figure]:
    floor = "raw: read, write as many, read those"

    def figure(
        name: str,
        unit: str,
        value: Callable[[Run], float],
        *,
        beside: Sequence[Run] | None = raw,
        beside_name: str = floor,
        goal: Goal | None = None,
        runs: Sequence[Run] = mine,
    ) -> Figure:
        ours = reading(list(map(value, runs)))
        if beside is None:
            return Figure(SECTION, name, unit, ours, sizes=sizes, notes=_NOTES)
        return Figure(
            SECTION, name, unit, ours, reading(list(map(value, beside))), beside_name, goal, sizes, _NOTES
        )

    events = sizes["events"]
    yield figure("events to durable outcomes, 5 to 95 %", "events/s", lambda run: run.rate, goal=GOAL)
    yield figure(
        "the same, from process start to the last commit", "events/s", lambda run: events / run.seconds
    )
    yield figure(
        "the same with --processes 2, 5 to 95 %", "events/s", lambda run: run.rate, goal=TWO_GOAL, runs=two
    )
    yield figure(
        "time of an event, random ids",
        "µs",
        lambda run: 1e6 / run.rate,
        beside=in_order,
        beside_name="the worker with ascending ids",
        goal=IDS_GOAL,
    )
    yield figure("processor time of an event, 5 to 95 %", "µs", lambda run: run.cpu_micros)
    yield figure("of it the event loop's thread", "µs", lambda run: run.used.loops)
    yield figure("of it other threads, those of the files", "µs", lambda run: run.used.others, beside=None)
    if all(run.used.broker for run in mine):
        yield figure("the broker's for an event", "µs", lambda run: run.used.broker)
    yield figure("processor time with --processes 2", "µs", lambda run: run.cpu_micros, runs=two)
    yield figure("processor time of start and end, besides", "s", lambda run: run.besides, beside=None)


async def worker_run(
    stage: Stage, load_setting: Setting, load: Auctions, settings: Mapping[str, str] | None = None
) -> Run:
    """A new worker, empty disk, empty topics of its own, until every outcome is durable."""
    setting = await stage.new_internals(load_setting)
    state_dir = stage.new_folder("state")
    began = time.perf_counter()
    async with stage.worker(setting, state_dir, settings=settings, wait=False) as worker:

        def used() -> Used:
            return used_by([worker.process.pid], stage.broker_pids)

        course = await course_of(stage.servers, watched_of(setting), [worker], began, used=used)
        await worker.stop()
    found = count_outcomes(state_dir)
    if found != load.bids:
        raise MissingError(f"{load.bids:,} outcomes were published, {found:,} are kept")
    shutil.rmtree(state_dir)
    in_swing, end = course.used(), course.points[-1].used
    besides = end.loops + end.others - in_swing.loops - in_swing.others
    run = Run(course.rate() * load.events, course.seconds, in_swing.micros(load.events), besides)
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
    before = used_by([], stage.broker_pids)
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
    broker = before.until(used_by([], stage.broker_pids)).broker
    used = Used(said["loop"], said["others"], broker)
    run = Run(load.events / said["seconds"], said["seconds"], used.micros(load.events))
    stage.say(f"floor: {run.rate:,.0f} events/s, {run.seconds:.1f} s, {run.cpu_micros:.0f} µs each")
    return run
