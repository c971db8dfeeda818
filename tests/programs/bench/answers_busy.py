"""300 questions a second while a backlog of events is worked off."""

import asyncio
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass

from learner_worker.kafka.admin import Cluster, connected
from learner_worker.kafka.connection import Connection
from tests.programs.bench.answers_idle import all_answered, asking, running_echo, warm_up_broker
from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.load import preload_auctions, recent_auctions
from tests.programs.bench.progress import Watched, done_by_group
from tests.programs.bench.readings import percentile, reading
from tests.programs.bench.stage import PARTITIONS, Setting, Stage, in_turns, last_words, said_ready
from tests.programs.bench.whole_way import watched_of
from tests.support.workers import WorkerProcess

SECTION = "answers-busy"
BIDS = 2_500_000  # a fast machine would otherwise come to the end of the backlog
RATE = 300
SECONDS = 20.0
GOAL = Goal(Better.LESS, 1.5)
STALL_GOAL = Goal(Better.LESS, 25)
INGEST_GOAL = Goal(Better.MORE, 0.8)
_STALLS = "learner_loop_stall_seconds_bucket"
_WARM_SECONDS = 3.0
_CLIENT_SECONDS = 2.0
_LOOK_SECONDS = 0.1
"""Each look costs broker and worker something, and the questions are being timed."""


class DrainedError(Exception):
    """The backlog was worked off before the questions were asked: a larger one is needed."""


class UnmeasuredError(Exception):
    """The worker's own measures could not be had."""


@dataclass(frozen=True, slots=True)
class Busy:
    """One turn of one side.

    Attributes:
        asked_rate: records of the backlog done a second while asked.
        quiet_rate: the same while not asked.
    """

    p50_ms: float
    p99_ms: float
    worst_stall_ms: float
    asked_rate: float
    quiet_rate: float


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures."""
    load = recent_auctions(stage.scaled(BIDS, least=400_000))
    setting = await stage.new_topics("busy")
    await preload_auctions(stage.servers, setting.names, load)
    stage.say(f"preloaded {load.events:,} events")
    await warm_up_broker(stage, setting)
    seconds = asked_seconds(stage)
    last = [5_000.0]

    async def ours() -> Busy:
        busy = await of_worker(stage, setting, seconds)
        last[0] = max(1.0, busy.asked_rate)
        return busy

    async def echo() -> Busy:
        return await _of_echo(stage, setting, seconds, last[0])

    async def neighbour() -> Busy:
        return await _of_neighbour(stage, setting, seconds)

    mine, raw, beside = await in_turns(stage.turns, ours, echo, neighbour)
    sizes = {"requests_a_second": RATE, "seconds": seconds, "backlog": load.events, "partitions": PARTITIONS}
    return _figures(mine, raw, beside, sizes)


def _figures(
    mine: list[Busy], raw: list[Busy], beside: list[Busy], sizes: Mapping[str, float]
) -> list[Figure]:
    floor = "raw: echo, and the backlog consumed as fast as the worker does, in one process"
    raw_p99 = [busy.p99_ms for busy in raw]
    latencies: list[tuple[str, list[float], list[float], Goal | None]] = [
        ("request to reply, p99", [busy.p99_ms for busy in mine], raw_p99, GOAL),
        ("request to reply, p50", [busy.p50_ms for busy in mine], [busy.p50_ms for busy in raw], None),
        (
            "the echo in its own process, beside a worker: p99",
            [busy.p99_ms for busy in beside],
            raw_p99,
            None,
        ),
    ]
    return [
        *(
            Figure(SECTION, name, "ms", reading(measured), reading(of_floor), floor, goal, sizes)
            for name, measured, of_floor, goal in latencies
        ),
        Figure(
            SECTION,
            "the event loop's worst stall (at most)",
            "ms",
            reading([busy.worst_stall_ms for busy in mine]),
            goal=STALL_GOAL,
            sizes=sizes,
            notes=[f"the raw echo's worst stall: {reading([b.worst_stall_ms for b in raw]).median:.0f} ms"],
        ),
        Figure(
            SECTION,
            "records worked off a second while asked",
            "records/s",
            reading([busy.asked_rate for busy in mine]),
            reading([busy.quiet_rate for busy in mine]),
            "the worker while not asked",
            INGEST_GOAL,
            sizes,
        ),
    ]


def asked_seconds(stage: Stage) -> float:
    """How long questions are asked: shorter in a smaller trial."""
    return max(5.0, SECONDS * min(1.0, stage.scale))


async def of_worker(stage: Stage, load: Setting, seconds: float) -> Busy:
    """The worker becomes faster while it runs: not asked, it is measured before and after."""
    setting = await stage.new_internals(load)
    state_dir = stage.new_folder("state")
    async with stage.worker(setting, state_dir) as worker:
        await asyncio.sleep(_WARM_SECONDS)
        before = await _rate(stage, setting, seconds / 2)
        stalls_before = await _stalls(worker)
        asked_rate, latencies = await asyncio.gather(
            _rate(stage, setting, seconds + _CLIENT_SECONDS), _ask(stage, setting, seconds)
        )
        worst = _worst(stalls_before, await _stalls(worker))
        after = await _rate(stage, setting, seconds / 2)
        await worker.stop()
    quiet = (before + after) / 2
    shutil.rmtree(state_dir)
    busy = Busy(percentile(latencies, 50), percentile(latencies, 99), worst, asked_rate, quiet)
    stage.say(
        f"worker: p50 {busy.p50_ms:.1f}, p99 {busy.p99_ms:.1f}, stall <= {worst:.0f} ms, "
        f"{asked_rate:,.0f} records/s asked, {quiet:,.0f} not asked"
    )
    return busy


async def _of_echo(stage: Stage, setting: Setting, seconds: float, rate: float) -> Busy:
    names = setting.names
    backlog = [names.bid_placed, names.auction_closed, names.task_finished]
    async with running_echo(stage, setting, backlog=backlog, backlog_rate=rate) as echo:
        latencies, worst = await _ask_echo(stage, setting, echo, seconds)
    return _of_replies(stage, "echo", latencies, worst, rate)


async def _of_neighbour(stage: Stage, load: Setting, seconds: float) -> Busy:
    """The echo in a process of its own, while a worker that nobody asks works off the backlog."""
    setting = await stage.new_internals(load)
    state_dir = stage.new_folder("state")
    async with stage.worker(setting, state_dir) as worker, running_echo(stage, load) as echo:
        rate, (latencies, worst) = await asyncio.gather(
            _rate(stage, setting, _WARM_SECONDS + seconds), _ask_echo(stage, load, echo, seconds)
        )
        await worker.stop()
    shutil.rmtree(state_dir)
    return _of_replies(stage, "echo beside a worker", latencies, worst, rate)


async def _ask_echo(
    stage: Stage, setting: Setting, echo: asyncio.subprocess.Process, seconds: float
) -> tuple[list[float], float]:
    await said_ready(echo)
    await asyncio.sleep(_WARM_SECONDS)
    latencies = await _ask(stage, setting, seconds)
    return latencies, (await last_words(echo))["worst_stall_ms"]


def _of_replies(stage: Stage, who: str, latencies: list[float], worst: float, rate: float) -> Busy:
    busy = Busy(percentile(latencies, 50), percentile(latencies, 99), worst, rate, rate)
    stage.say(f"{who}: p50 {busy.p50_ms:.1f}, p99 {busy.p99_ms:.1f}, stall {worst:.0f} ms, {rate:,.0f}/s")
    return busy


async def _ask(stage: Stage, setting: Setting, seconds: float) -> list[float]:
    return all_answered(await asking(stage, setting, "steady", rate=RATE, seconds=seconds))


async def _rate(stage: Stage, setting: Setting, seconds: float) -> float:
    """Records a second that the group commits over some time; it commits about once a second.

    Raises:
        DrainedError: nothing was left to do.
    """
    watched = watched_of(setting)
    async with connected(Connection(stage.servers), patience_seconds=30) as cluster:
        began, before = await _next_commit(cluster, watched)
        await asyncio.sleep(max(0.0, seconds - (time.perf_counter() - began)))
        ended, after = await _next_commit(cluster, watched)
    if after <= before:
        raise DrainedError(f"{watched.group_id} has worked off its backlog")
    return (after - before) / (ended - began)


async def _next_commit(cluster: Cluster, watched: Watched) -> tuple[float, int]:
    """When the group commits next, and how many records it has then done in all."""
    before = done = await done_by_group(cluster, watched)
    deadline = time.perf_counter() + 30
    while done == before:
        if time.perf_counter() > deadline:
            raise DrainedError("nothing was committed for 30 s")
        await asyncio.sleep(_LOOK_SECONDS)
        done = await done_by_group(cluster, watched)
    return time.perf_counter(), done


async def _stalls(worker: WorkerProcess) -> dict[float, float]:
    """How many looks at the event loop came late by at most so many milliseconds."""
    _, text = await worker.get("/metrics")
    found = {}
    for line in text.splitlines():
        if line.startswith(_STALLS):
            bound = line.split('le="')[1].split('"')[0]
            found[float(bound) * 1000] = float(line.rsplit(" ", 1)[1])
    if not found:
        raise UnmeasuredError("the worker said nothing of its event loop's stalls")
    return found


def _worst(before: dict[float, float], after: dict[float, float]) -> float:
    """The upper bound of the highest bucket that grew."""
    new = {bound: count - before.get(bound, 0.0) for bound, count in after.items()}
    most = max(new.values(), default=0.0)
    finite = [bound for bound in sorted(new) if bound != float("inf")]
    return next((bound for bound in sorted(new) if new[bound] >= most), finite[-1] if finite else 0.0)
