"""A lost disk: the changelog becomes a shard's rows again, or a snapshot of them is taken."""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from learner_worker.operations.snapshots import publish_files
from learner_worker.snapshots.catalog import SnapshotCatalog
from learner_worker.snapshots.object_store import open_store
from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.load import AGENTS, preload_changelog
from tests.programs.bench.processor import Used, used_by
from tests.programs.bench.progress import Course, StalledError, Watched, count_outcomes, course_of
from tests.programs.bench.readings import reading
from tests.programs.bench.stage import PARTITIONS, Setting, Stage, child, in_turns
from tests.support.workers import WorkerProcess

SECTION = "restore"
OUTCOMES = 1_000_000
GOAL = Goal(Better.MORE, 0.20, 0.30)
SNAPSHOT_GOAL = Goal(Better.MORE, 2, 5)
_LOOK_SECONDS = 0.02  # how late readiness may be noticed: far below what is measured
_PATIENCE_SECONDS = 300.0


class Run(NamedTuple):
    """One turn of one side.

    Attributes:
        rate: outcomes a second, without start and end.
        whole_rate: the same from the start of the process.
        used: a worker's processor time for an outcome in µs, without start and end.
    """

    rate: float
    whole_rate: float
    used: Used = Used()


class IncompleteError(Exception):
    """The restored rows are not as many as the changelog's outcomes, or not from where they should be."""


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures."""
    setting = await stage.new_topics("restore")
    outcomes = stage.scaled(OUTCOMES)
    record_bytes = await preload_changelog(stage.servers, setting.names.outcomes, outcomes)
    stage.say(f"preloaded {outcomes:,} outcomes, a record {record_bytes} B")

    async def ours() -> Run:
        state_dir = stage.new_folder("state")
        fresh = await stage.new_internals(setting, keep=("outcomes",))
        course = await restored(stage, fresh, state_dir, outcomes)
        shutil.rmtree(state_dir)
        stage.say(f"worker: {course.rate() * outcomes:,.0f} outcomes/s, {course.seconds:.1f} s")
        return Run(course.rate() * outcomes, outcomes / course.seconds, course.used().micros(outcomes))

    made = await stage.new_internals(setting, keep=("outcomes",))
    url = await _published(stage, made, outcomes)

    async def from_snapshot() -> Run:
        opened, whole = await _taken(stage, made, url, outcomes)
        stage.say(f"from a snapshot: {outcomes / opened:,.0f} outcomes/s, {opened:.2f} of {whole:.2f} s")
        return Run(outcomes / opened, outcomes / whole)

    async def floor() -> Run:
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
        return Run(rate, rate)

    replayed, taken, raw = await in_turns(stage.turns, ours, from_snapshot, floor)
    sizes = {
        "outcomes": outcomes,
        "record_bytes": record_bytes,
        "agents": AGENTS,
        "partitions": PARTITIONS,
    }
    return list(_figures(replayed, taken, raw, sizes))


def _figures(
    replayed: Sequence[Run], taken: Sequence[Run], raw: Sequence[Run], sizes: Mapping[str, float]
) -> Iterator[Figure]:
    def rate(
        name: str,
        value: Callable[[Run], float],
        runs: Sequence[Run],
        *,
        beside: Sequence[Run] = raw,
        beside_name: str = "raw: consume the same topic",
        goal: Goal | None = None,
    ) -> Figure:
        sides = reading(list(map(value, runs))), reading(list(map(value, beside)))
        return Figure(SECTION, name, "outcomes/s", *sides, beside_name, goal, sizes)

    def cost(name: str, value: Callable[[Used], float]) -> Figure:
        return Figure(SECTION, name, "µs", reading([value(run.used) for run in replayed]), sizes=sizes)

    def steady(run: Run) -> float:
        return run.rate

    def whole(run: Run) -> float:
        return run.whole_rate

    yield rate("outcomes restored on an empty disk, 5 to 95 %", steady, replayed, goal=GOAL)
    yield rate("the same, from process start to the last row", whole, replayed)
    yield rate("outcomes restored from a snapshot, assignment to ready", steady, taken, goal=SNAPSHOT_GOAL)
    yield rate("the same, from process start to ready", whole, taken)
    yield rate(
        "the same, beside the changelog",
        whole,
        taken,
        beside=replayed,
        beside_name="the worker without a snapshot",
    )
    yield cost(
        "processor time of an outcome from the changelog, the event loop's thread", lambda used: used.loops
    )
    yield cost("of other threads, those of the files", lambda used: used.others)
    if all(run.used.broker for run in replayed):
        yield cost("of the broker", lambda used: used.broker)


async def _published(stage: Stage, setting: Setting, outcomes: int) -> str:
    """Publishes snapshots of a worker's files once it has restored them; returns the store's address."""
    state_dir, store = stage.new_folder("state"), stage.new_folder("snapshots")
    await restored(stage, setting, state_dir, outcomes)
    url = store.as_uri()
    async for manifest in publish_files(state_dir, (), SnapshotCatalog(open_store(url)), setting.names):
        stage.say(f"published {manifest.name}, {manifest.size / 2**20:.1f} MiB")
    shutil.rmtree(state_dir)
    return url


async def _taken(stage: Stage, setting: Setting, url: str, outcomes: int) -> tuple[float, float]:
    """Seconds from a new worker's assignment, and from its process's start, until it is ready.

    Raises:
        IncompleteError: rows are missing, or a shard has not taken its snapshot.
    """
    state_dir = stage.new_folder("state")
    began = time.time()
    async with stage.worker(setting, state_dir, settings={"--snapshot-url": url}, wait=False) as worker:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            ready = await _ready_at(worker)
        await worker.stop()
        taken = len(worker.logged("snapshot.taken"))
        assigned = datetime.fromisoformat(worker.logged("shards.assigned")[-1]["timestamp"]).timestamp()
    found = count_outcomes(state_dir)
    shutil.rmtree(state_dir)
    if (found, taken) != (outcomes, PARTITIONS):
        raise IncompleteError(f"{found:,} of {outcomes:,} outcomes, {taken} of {PARTITIONS} snapshots")
    return ready - assigned, ready - began


async def _ready_at(worker: WorkerProcess) -> float:
    """When a worker becomes ready.

    Raises:
        StalledError: it ended before.
    """
    while (await worker.get("/readyz"))[0] != HTTPStatus.OK:
        if worker.process.returncode is not None:
            raise StalledError(f"a worker ended early: {worker.log_path.read_text()[-2000:]}")
        await asyncio.sleep(_LOOK_SECONDS)
    return time.time()


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

        def used() -> Used:
            return used_by([worker.process.pid], stage.broker_pids)

        watched = Watched(setting.group_id, (), setting.names.outcomes)
        course = await course_of(stage.servers, watched, [worker], began, used=used)
        await worker.ready()
        await worker.stop()
    found = count_outcomes(state_dir)
    if found != outcomes:
        raise IncompleteError(f"the changelog holds {outcomes:,} outcomes, {found:,} were restored")
    return course
