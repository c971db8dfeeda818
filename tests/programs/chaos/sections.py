"""What `make chaos` runs: the one table from a section's name to what runs it.

Another section is a function from the options to rows, and a line in `SECTIONS`.
"""

import asyncio
import itertools
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from learner_worker.brokers import KafkaCluster
from tests.crash_points.disk import DISK
from tests.crash_points.plays import AT_ONCE, Play, planned, play_all
from tests.crash_points.points import POINTS
from tests.programs.chaos import faults, floods, leaving, mirroring
from tests.programs.chaos.load import past_outcomes, preload
from tests.programs.chaos.scene import Plan, Scene, running_scene
from tests.programs.chaos.table import Row, row_of
from tests.simulation import ablation
from tests.simulation.driver import run_seed
from tests.simulation.environment import simulated
from tests.support.secured import secured_kafka
from tests.support.workers import create_topics

_BROKERS = 3
_KAFKA_AWAY_SECONDS = 120.0
_SEEDS_A_TASK = 50
_ABLATION_SEEDS = 400
_PROCESSES = 2
_SIMULATION_BYTES = 4 * 2**30
"""Of address space for each process that simulates: a world that never ends would take the machine's."""
_SHOWN_SEEDS = 10
_SHOWN_CHARACTERS = 3_000
_FOLLOWED_SECONDS = 600.0
_DISK_FAULTS = 5
"""Of disks, for each time that another fault is done."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for.

    Attributes:
        kills: of workers; `times` is how often every other fault is done.
        events: how many are published at least during the kills of workers.
        fuzz_examples: of every fuzzed function.
        outcomes: how many there are before owners are taken over from.
        standby_replicas: handed to the workers if given.
        folder: for state and logs.
    """

    kills: int
    events: int
    times: int
    seed: int
    simulation_seeds: int
    fuzz_examples: int
    outcomes: int
    standby_replicas: int | None
    folder: Path
    say: Callable[[str], None]

    def plan(self) -> Plan:
        """The usual scene."""
        standby = self.standby_replicas
        settings = {} if standby is None else {"--standby-replicas": str(standby)}
        return Plan(seed=self.seed, settings=settings)


Section = Callable[[Options], list[Row]]
Repeated = Callable[[Scene], Awaitable[None]]


@asynccontextmanager
async def _scene(options: Options, name: str, plan: Plan, *, brokers: int) -> AsyncIterator[Scene]:
    folder = options.folder / name
    with KafkaCluster(folder / "kafka", nodes=brokers) as kafka:
        async with running_scene(kafka, folder, plan, say=options.say) as scene:
            yield scene


# --- faults on a running system --------------------------------------------------------------------------


def worker_kills(options: Options) -> list[Row]:
    """kill -9 of workers, half of the disks lost."""
    return [asyncio.run(_worker_kills(options))]


async def _worker_kills(options: Options) -> Row:
    # A lost disk reads the horizon's events again: a short one keeps the run short.
    plan = replace(options.plan(), partitions=12, events_a_second=1_000.0, horizon_seconds=60.0)
    async with _scene(options, "worker-kill", plan, brokers=1) as scene:
        for _ in range(options.kills):
            await faults.kill_worker(scene)
        await scene.published(options.events)
        report = await scene.report()
    return row_of(
        "worker kill -9, half of the disks lost",
        options.kills,
        report,
        f"{scene.kills_in_a_transaction} kills left an unfinished transaction in a file",
        f"{scene.crashed_files_checked} files checked right after their kill",
        f"{report.unanswered} requests passed their deadline",
    )


def broker_kills(options: Options) -> list[Row]:
    """kill -9 of one of three brokers."""
    return [asyncio.run(_repeated(options, "broker kill -9", faults.kill_broker, brokers=_BROKERS))]


def suspensions(options: Options) -> list[Row]:
    """SIGSTOP of a worker past its session timeout."""
    return [asyncio.run(_repeated(options, "SIGSTOP past the session timeout", faults.suspend_worker))]


def refusals(options: Options) -> list[Row]:
    """Limits of the changelog and the metrics topic below a batch, and raised again."""
    return [asyncio.run(_repeated(options, "limits lowered and raised", faults.lower_limits))]


def log_failures(options: Options) -> list[Row]:
    """The reader of a replica's stdout and stderr stands still or is gone, while the group changes."""
    return [asyncio.run(_log_failures(options))]


async def _log_failures(options: Options) -> Row:
    async with _scene(options, "logs", replace(options.plan(), piped=True), brokers=1) as scene:
        lost = sum([await faults.stop_log_reader(scene) for _ in range(options.times)])
        report = await scene.report()
    report.failures += ["no line was lost: the pipes were never full"] * (not lost)
    return row_of("a log that nobody reads", options.times, report, f"{lost:.0f} lines lost and counted")


async def _repeated(options: Options, fault: str, run: Repeated, *, brokers: int = 1) -> Row:
    async with _scene(options, fault.replace(" ", "-"), options.plan(), brokers=brokers) as scene:
        for _ in range(options.times):
            await run(scene)
        report = await scene.report()
    return row_of(fault, options.times, report, f"{report.unanswered} requests passed their deadline")


def rolling_restarts(options: Options) -> list[Row]:
    """Rolling restarts of three workers, the group's generation unchanged, no request lost."""
    return [asyncio.run(_rolling_restarts(options))]


async def _rolling_restarts(options: Options) -> Row:
    async with _scene(options, "rolling-restart", options.plan().patient(), brokers=1) as scene:
        grown = [await faults.restart_workers(scene) for _ in range(options.times)]
        report = await scene.report()
    changed = sum(map(bool, grown))
    report.failures += [f"the generation changed in {changed} restarts: {grown}"] * bool(changed)
    report.failures += [f"{report.unanswered} requests passed their deadline"] * bool(report.unanswered)
    return row_of(
        "rolling restart of 3 workers",
        options.times,
        report,
        f"the group's generation changed in {changed} of them",
        f"{report.unanswered} of {len(scene.prober.asked)} requests passed their deadline",
    )


def kafka_away(options: Options) -> list[Row]:
    """All brokers killed for two minutes under load."""
    return [asyncio.run(_kafka_away(options))]


async def _kafka_away(options: Options) -> Row:
    async with _scene(options, "kafka-away", options.plan(), brokers=_BROKERS) as scene:
        await scene.published(5_000)
        before = scene.replicas.rss_bytes()
        health = await faults.take_kafka_away(scene, nodes=_BROKERS, seconds=_KAFKA_AWAY_SECONDS)
        await scene.published(scene.swarm.published + 2_000)
        report = await scene.report()
    report.failures += health.bad
    return row_of(
        f"Kafka away for {_KAFKA_AWAY_SECONDS:g} s",
        1,
        report,
        f"a replica held {before / 2**20:.0f} MiB before",
        f"/healthz answered 200 {health.good} times meanwhile",
    )


def scaling(options: Options) -> list[Row]:
    """2, 3, 2, 3, 2, 1 replicas: the third comes first without, then with files."""
    return [asyncio.run(_scaling(options))]


async def _scaling(options: Options) -> Row:
    plan = replace(options.plan(), replicas=("one", "two"))
    pair, three = ("one", "two"), ("one", "two", "three")
    async with _scene(options, "scaling", plan, brokers=1) as scene:
        await scene.published(5_000)
        moves = [await faults.scale(scene, *names) for names in (three, pair, three, pair, ("one",))]
        report = await scene.report()
    return row_of("scaling 2-3-2-3-2-1", len(moves), report, *map(_described, moves))


def _described(move: faults.Move) -> str:
    silent = ", ".join(
        f"{max(seconds):.1f} s with {kept}" for kept, seconds in sorted(move.silent_seconds.items())
    )
    return f"{move.step}: {move.moved} shards moved, at least {move.least} had to; silent {silent or '-'}"


def stops(options: Options) -> list[Row]:
    """Scaling 3-1-3 and rolling restarts under load, by how a replica stops."""
    return leaving.rows(options.plan(), options.folder, options.say)


def request_floods(options: Options) -> list[Row]:
    """Floods of requests by hostile neighbours: what another agent still gets, what the operator sees."""
    folder = options.folder / "floods"
    folder.mkdir()
    with secured_kafka(folder) as kafka:
        return asyncio.run(floods.rows(kafka, folder, floods.FLOODED_SECONDS, options.say))


def moves(options: Options) -> list[Row]:
    """MirrorMaker copies a cluster, and a worker takes over on the copy."""
    return mirroring.rows(options.folder / "mirror", options.seed, options.say)


# --- taking over a million outcomes ----------------------------------------------------------------------


def takeovers(options: Options) -> list[Row]:
    """The owner of half of a million outcomes is killed: its file kept, lost, or followed elsewhere."""
    return [asyncio.run(_takeovers(options))]


async def _takeovers(options: Options) -> Row:
    plan = replace(
        options.plan(),
        partitions=12,
        events_a_second=50.0,
        replicas=("one", "two"),
        settings={"--standby-replicas": "1"},
    )
    folder = options.folder / "takeover"
    with KafkaCluster(folder / "kafka") as kafka:
        names = await create_topics(kafka.bootstrap_servers, "", partitions=plan.partitions)
        await preload(kafka.bootstrap_servers, names, plan.partitions, options.outcomes)
        past = past_outcomes(options.outcomes)
        async with running_scene(kafka, folder, plan, say=options.say, past=past) as scene:
            windows = [
                await faults.kill_owner(scene, "two", "its file on disk"),
                await faults.kill_owner(scene, "two", "nothing", lose_disk=True),
            ]
            await scene.replicas.followed(_FOLLOWED_SECONDS)
            windows.append(await faults.kill_owner(scene, "two", "a standby", start_again=False))
            report = await scene.report()
    notes = [f"{options.outcomes:,} outcomes, half of them to be taken over, with"]
    notes += [f"{window.fault}: {_spread(window.gaps)} s" for window in windows]
    return row_of("taking over", len(windows), report, *notes)


def _spread(gaps: Mapping[int, float]) -> str:
    return f"median {statistics.median(gaps.values()):.1f}, worst {max(gaps.values()):.1f}"


# --- the simulation --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorldKind:
    """A kind of simulated worlds; of all seeds it is run with so many `shares`."""

    forgetful: bool
    forgetting: bool
    shares: int


WORLDS: dict[str, WorldKind] = {
    "plain": WorldKind(forgetful=False, forgetting=False, shares=3),
    "with a retention": WorldKind(forgetful=True, forgetting=False, shares=1),
    "with forgotten agents": WorldKind(forgetful=False, forgetting=True, shares=1),
}


def seeds_of_worlds(count: int) -> dict[str, int]:
    """So many seeds shared among the kinds of worlds; what does not divide goes to the plain ones."""
    shares = sum(world.shares for world in WORLDS.values())
    found = {kind: count * world.shares // shares for kind, world in WORLDS.items()}
    found["plain"] += count - sum(found.values())
    return found


def simulation(options: Options) -> list[Row]:
    """The deterministic simulation, seed by seed, in every kind of world."""
    shared = seeds_of_worlds(options.simulation_seeds)
    chunks = [
        (kind, range(start, min(start + _SEEDS_A_TASK, count)))
        for kind, count in shared.items()
        for start in range(0, count, _SEEDS_A_TASK)
    ]
    failing: list[str] = []
    with _simulating() as processes:
        for number, found in enumerate(processes.map(failing_seeds, *zip(*chunks, strict=True)), 1):
            failing += found
            if number % 20 == 0:
                options.say(f"simulation: {number} of {len(chunks)} parts, {len(failing)} seeds fail")
    notes = [*(f"{kind}: {count:,} seeds" for kind, count in shared.items()), f"{len(failing)} seeds fail"]
    return [Row("simulation", options.simulation_seeds, notes=notes, failures=failing[:_SHOWN_SEEDS])]


def _simulating() -> ProcessPoolExecutor:
    limits = (_SIMULATION_BYTES, _SIMULATION_BYTES)
    return ProcessPoolExecutor(
        _PROCESSES, initializer=resource.setrlimit, initargs=(resource.RLIMIT_AS, limits)
    )


def failing_seeds(kind: str, seeds: range) -> list[str]:
    """What went wrong with those that fail, in one kind of world."""
    failing, world = [], WORLDS[kind]
    with simulated():
        for seed in seeds:
            try:
                run_seed(seed, forgetful=world.forgetful, forgetting=world.forgetting)
            except Exception as error:  # noqa: BLE001 (whatever it is, the other seeds are run as well)
                failing.append(f"seed {seed}, {kind}: {type(error).__name__}: {str(error)[:300]}")
    return failing


def ablations(options: Options) -> list[Row]:
    """Every safeguard taken out in turn: who notices."""
    found: dict[str, ablation.Noticed] = {}
    with _simulating() as processes:
        counted = processes.map(ablation.noticed, ablation.ABLATIONS, itertools.repeat(_ABLATION_SEEDS))
        for name, noticed in zip(ablation.ABLATIONS, counted, strict=True):
            options.say(f"ablation: without {name}: {noticed}")
            found[name] = noticed
    notes = [f"who fails without, of {_ABLATION_SEEDS} seeds of each kind and all directed sequences"]
    notes += [f"{name}: {noticed}" for name, noticed in found.items()]
    failures = [f"nothing notices the loss of: {name}" for name, noticed in found.items() if not noticed]
    failures += [
        f"nothing works with what replaces: {name}" for name, noticed in found.items() if noticed.is_broken
    ]
    return [Row("safeguards taken out", len(found), notes=notes, failures=failures)]


# --- whatever others may write ---------------------------------------------------------------------------


def fuzz(options: Options) -> list[Row]:
    """Hypothesis on decoders, header conventions and the whole way of requests and events: other examples."""
    listed = _pytest("--collect-only", "-q", "tests/fuzz", examples=options.fuzz_examples)
    targets = [line for line in listed.stdout.splitlines() if "::" in line]
    failures = [] if targets else [f"nothing to run: {listed.stdout[-_SHOWN_CHARACTERS:]}"]
    with ThreadPoolExecutor(_PROCESSES) as processes:
        runs = processes.map(lambda target: _pytest("-q", target, examples=options.fuzz_examples), targets)
        for target, run in zip(targets, runs, strict=True):
            options.say(f"fuzz: {target} {'holds' if run.returncode == 0 else 'FAILS'}")
            failures += [f"{target}: {_reproduction(run.stdout)}"] * (run.returncode != 0)
    notes = [f"{len(targets)} tests, so many examples each", f"{len(failures)} fail"]
    return [Row("fuzz", options.fuzz_examples, notes=notes, failures=failures)]


def _pytest(*arguments: str, examples: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FUZZ_EXAMPLES": str(examples)}
    command = [sys.executable, "-m", "pytest", "--timeout", "0", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _reproduction(output: str) -> str:
    """The failing example and the line that repeats it; otherwise the output's end."""
    lines = [line for line in output.splitlines() if line.startswith("E ")]
    return "\n".join(lines or [output])[-_SHOWN_CHARACTERS:]


# --- crash points and disks that fail --------------------------------------------------------------------


def crash_points(options: Options) -> list[Row]:
    """kill -9 at every named point of the code."""
    plays = list(planned(list(POINTS), options.times, options.seed))
    return asyncio.run(_crashes(options, "crash-points", "kill -9 at named points", plays))


def disk_faults(options: Options) -> list[Row]:
    """Disks that are full or fail, at every point."""
    plays = list(planned(list(DISK), -(-_DISK_FAULTS * options.times // len(DISK)), options.seed))
    return asyncio.run(_crashes(options, "disk", "disk full, I/O error", plays))


async def _crashes(options: Options, folder: str, fault: str, plays: Sequence[Play]) -> list[Row]:
    with KafkaCluster(options.folder / folder) as kafka:
        rows = await play_all(plays, kafka.bootstrap_servers, AT_ONCE)
    return [
        Row(
            fault,
            len(plays),
            sum(row.lost for row in rows.values()),
            sum(row.duplicated for row in rows.values()),
            notes=[f"{len(rows)} points of the real code"],
            failures=[
                f"{name}: {row.different} values differ, {row.failed} runs broke off"
                for name, row in rows.items()
                if row.different or row.failed
            ],
        )
    ]


SECTIONS: dict[str, Section] = {
    "simulation": simulation,
    "ablation": ablations,
    "fuzz": fuzz,
    "worker-kill": worker_kills,
    "broker-kill": broker_kills,
    "sigstop": suspensions,
    "refusals": refusals,
    "floods": request_floods,
    "logs": log_failures,
    "rolling-restart": rolling_restarts,
    "kafka-away": kafka_away,
    "scaling": scaling,
    "stops": stops,
    "mirror": moves,
    "takeover": takeovers,
    "crash-points": crash_points,
    "disk": disk_faults,
}
