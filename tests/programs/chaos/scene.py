"""A running system with load on it: a cluster, replicas, a swarm that publishes, a prober that asks."""

import asyncio
import contextlib
import random
import shutil
import sqlite3
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from learner_worker.brokers import KafkaCluster
from learner_worker.contract.topics import TopicNames
from learner_worker.kafka.admin import connected
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.partitioner import partitioner
from tests.programs.chaos import judge
from tests.programs.chaos.load import Swarm
from tests.programs.chaos.prober import Asked, Prober
from tests.programs.chaos.replicas import Replica, Replicas, wal_of
from tests.programs.chaos.wal import unfinished_frames
from tests.support import model
from tests.support.workers import create_topics, until

REPLICAS = ("one", "two", "three")
_ANSWER_SECONDS = 120.0
_CATCH_UP_SECONDS = 600.0
_QUIET_SECONDS = 60.0
_SETTLING_SECONDS = 3.0
_ALWAYS_CHECKED_EVENTS = 50_000
_MEBIBYTE = 2**20
_MAX_RSS_BYTES = 768 * _MEBIBYTE
_KEPT_DETAILS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """How a scene is set; rates a second, `asks_a_second` for each shard.

    Attributes:
        horizon_seconds: how far apart the events of one auction may arrive. A lost disk reads as much again.
        deadline_seconds: how long an asker waits.
        piped: whether other processes read the replicas' logs, through small pipes.
    """

    partitions: int = 6
    events_a_second: float = 200.0
    asks_a_second: float = 5.0
    seed: int = 1
    session_timeout_seconds: float = 6.0
    horizon_seconds: float = 3_600.0
    deadline_seconds: float = 10.0
    settings: Mapping[str, str] = field(default_factory=dict)
    replicas: tuple[str, ...] = REPLICAS
    piped: bool = False

    def patient(self) -> "Plan":
        """The same with Kafka's own session timeout: a replica that restarts is not given up."""
        return replace(self, session_timeout_seconds=45.0)

    def flags(self) -> dict[str, str]:
        """The workers' settings."""
        return {
            "--session-timeout-seconds": f"{self.session_timeout_seconds:g}",
            "--auction-horizon-seconds": f"{self.horizon_seconds:g}",
            "--request-ttl-seconds": f"{self.deadline_seconds:g}",
            **self.settings,
        }


@dataclass(frozen=True, slots=True)
class Window:
    """A fault's time, monotonic seconds, until every shard had a ready owner and answered again.

    Attributes:
        gaps: by shard, for how many seconds nothing was answered.
    """

    fault: str
    began: float
    ended: float
    gaps: Mapping[int, float]

    @property
    def silent_seconds(self) -> float:
        """The worst shard's."""
        return max(self.gaps.values())


@dataclass(slots=True)
class Report:
    """What a scene came to.

    Attributes:
        silent_seconds: of every fault the worst shard's seconds without an answer.
        failures: everything that does not hold, in words.
    """

    outcomes: int
    events: int
    lost: int
    duplicated: int
    wrong: int
    silent_seconds: list[float]
    unanswered: int
    peak_mebibytes: int
    failures: list[str]

    def median_silent_seconds(self) -> float:
        """Over the faults."""
        return statistics.median(self.silent_seconds) if self.silent_seconds else 0.0


class Scene:
    """The parts, and what a fault needs of them.

    Attributes:
        kills_in_a_transaction: how many kills left frames of an unfinished transaction in a file.
        crashed_files_checked: how many files of killed replicas were compared with the changelog.
    """

    def __init__(
        self,
        kafka: KafkaCluster,
        names: TopicNames,
        replicas: Replicas,
        plan: Plan,
        say: Callable[[str], None],
        *,
        past: judge.Outcomes | None = None,
    ) -> None:
        self.kafka = kafka
        self.names = names
        self.replicas = replicas
        self.plan = plan
        self.say = say
        self.rng = random.Random(plan.seed)
        servers = kafka.bootstrap_servers
        self.swarm = Swarm(servers, names, seed=plan.seed, events_a_second=plan.events_a_second)
        self.prober = Prober(
            servers,
            names,
            partitions=plan.partitions,
            asks_a_second=plan.asks_a_second,
            deadline_seconds=plan.deadline_seconds,
        )
        self.windows: list[Window] = []
        self._past = past or {}
        self.kills_in_a_transaction = 0
        self.crashed_files_checked = 0
        self._failures: list[str] = []
        self._running: dict[str, asyncio.Task[None]] = {}

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Starts load and questions."""
        loops = {"swarm": self.swarm.run, "prober": self.prober.run, "memory": self.replicas.watch_memory}
        self._running = {name: tasks.create_task(run(), name=name) for name, run in loops.items()}

    def end(self) -> None:
        """Ends what still runs."""
        for task in self._running.values():
            task.cancel()

    # --- faults ------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def fault(self, name: str) -> AsyncIterator[None]:
        """The span of a fault: it ends when every shard has a ready owner and answers again."""
        began = time.monotonic()
        yield
        await self.replicas.settled()
        await self.answering()
        ended = time.monotonic()
        window = Window(name, began, ended, self.prober.gaps(began, ended))
        self.windows.append(window)
        self.say(
            f"{len(self.windows):3} {name}: over after {ended - began:.1f} s, "
            f"{window.silent_seconds:.1f} s without an answer, {self.swarm.published} events"
        )

    async def answering(self) -> None:
        """Waits until every shard has answered a request made from now on."""
        moment = time.monotonic()

        async def all_answered() -> bool:
            return self.prober.answered_since(moment) >= set(self.prober.shards)

        await until(all_answered, "every shard answers", seconds=_ANSWER_SECONDS)

    async def published(self, events: int) -> None:
        """Waits until the swarm has published so many events."""

        async def enough() -> bool:
            return self.swarm.published >= events

        seconds = 120 + 3 * max(0, events - self.swarm.published) / self.plan.events_a_second
        await until(enough, f"{events} events are published", seconds=seconds)

    async def in_sync(self) -> None:
        """Waits until every partition has all of its copies."""

        async def whole() -> bool:
            async with connected(Connection(self.kafka.bootstrap_servers), patience_seconds=30) as cluster:
                described = await cluster._admin.describe_topics()
            partitions = [partition for topic in described for partition in topic["partitions"]]
            return all(len(each["isr"]) == len(each["replicas"]) for each in partitions)

        await until(whole, "every partition has all of its copies", seconds=_ANSWER_SECONDS)

    def remains(self, replica: Replica) -> Path:
        """A copy of a killed replica's files, made before it starts again."""
        folder = replica.state_dir.with_name(f"{replica.name}-remains")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(replica.state_dir, folder, ignore=shutil.ignore_patterns("*-shm"))
        return folder

    async def examine(self, remains: Path) -> None:
        """Looks for an unfinished transaction, and compares one file with the changelog: third invariant."""
        paths = _shard_files(remains)
        frames = [await asyncio.to_thread(unfinished_frames, wal_of(path)) for path in paths]
        self.kills_in_a_transaction += any(frames)
        share = _ALWAYS_CHECKED_EVENTS / max(1, self.swarm.published)  # a long changelog takes its time
        whole = [path for path in paths if not _is_empty(path)]
        if whole and self.rng.random() < share:
            await self._check_prefix(self.rng.choice(whole))

    async def _check_prefix(self, path: Path) -> None:
        number = int(path.stem.removeprefix("shard-"))
        verdict = judge.Verdict()
        entries = await judge.entries_of(self.kafka.bootstrap_servers, self.names.outcomes, number)
        await asyncio.to_thread(
            verdict.require, lambda: judge.check_prefix(path, entries, self.names.outcomes)
        )
        self.crashed_files_checked += 1
        self._failures += [f"after a kill, {path.parent.name}: {failure}" for failure in verdict.failures]

    # --- judgement ---------------------------------------------------------------------------------------

    async def report(self) -> Report:
        """Ends the load, waits until nothing is left to do, stops the replicas, and judges."""
        self.swarm.stop()
        await self._running["swarm"]
        self.say(f"judging {self.swarm.published} events")
        published = await asyncio.to_thread(judge.expected_outcomes, self.swarm.history())
        expected = {**self._past, **published}
        await self._caught_up(model.metrics(expected))
        self.prober.stop()
        await self._running["prober"]
        owners = self.replicas.owners()
        await self._stop_replicas()
        verdict = judge.Verdict(outcomes=len(expected))
        await self._judge_shards(verdict, owners, expected)
        await judge.judge_dead_letters(
            verdict, self.kafka.bootstrap_servers, self.names.dead_letters, self.swarm
        )
        return self._report(verdict)

    async def _caught_up(self, expected: Mapping[str, model.Metrics]) -> None:
        """Waits until every agent's last metrics record is the model's, or no record comes any more."""
        different: str | None = "nothing was read"
        async with judge.latest_of(
            self.kafka.bootstrap_servers, self.names.metrics, self.plan.partitions
        ) as latest:

            async def equal() -> bool:
                nonlocal different
                await latest.refresh()
                different = judge.published_as_expected(latest.entries, expected)
                return different is None or latest.quiet_seconds > _QUIET_SECONDS

            await until(equal, "the metrics records are the model's", seconds=_CATCH_UP_SECONDS)
        if different is not None:
            self._failures.append(f"the metrics records never came to be the model's: {different}")

    async def _stop_replicas(self) -> None:
        names = [replica.name for replica in self.replicas.running]
        codes = await asyncio.gather(*(self.replicas.stop(name) for name in names))
        self._failures += [
            f"replica {name} ended with exit code {code}"
            for name, code in zip(names, codes, strict=True)
            if code
        ]

    async def _judge_shards(
        self, verdict: judge.Verdict, owners: Mapping[int, str], expected: judge.Outcomes
    ) -> None:
        partition_of = partitioner(self.plan.partitions)
        by_shard: list[judge.Outcomes] = [{} for _ in range(self.plan.partitions)]
        for key, outcome in expected.items():
            by_shard[partition_of(key[1])][key] = outcome
        for shard, name in sorted(owners.items()):
            path = self.replicas[name].file_of(shard)
            topic = self.names.outcomes
            entries = await judge.entries_of(self.kafka.bootstrap_servers, topic, shard)
            await asyncio.to_thread(
                judge.judge_shard, verdict, path, entries=entries, topic=topic, expected=by_shard[shard]
            )

    def _report(self, verdict: judge.Verdict) -> Report:
        settled = [asked for asked in self.prober.asked.values() if self._was_settled(asked)]
        failures = [*self._failures, *verdict.failures, *self._failed_asks(settled), *self.prober.problems]
        if self.replicas.peak_bytes > _MAX_RSS_BYTES:
            failures.append(f"a replica took {self.replicas.peak_bytes / _MEBIBYTE:.0f} MiB of memory")
        if self.swarm.longest_block_seconds > self.plan.horizon_seconds / 2:
            failures.append(f"an auction took {self.swarm.longest_block_seconds:.0f} s: too near the horizon")
        failures += [f"a traceback in {path}" for path in self.replicas.tracebacks()]
        return Report(
            outcomes=verdict.outcomes,
            events=self.swarm.published,
            lost=len(verdict.lost),
            duplicated=len(verdict.duplicated),
            wrong=self.prober.wrong,
            silent_seconds=[window.silent_seconds for window in self.windows],
            unanswered=len(self.unanswered()),
            peak_mebibytes=round(self.replicas.peak_bytes / _MEBIBYTE),
            failures=failures,
        )

    def unanswered(self) -> list[Asked]:
        """The requests that Kafka took and nobody answered before their deadline."""
        return [asked for asked in self.prober.asked.values() if asked.delivered and not asked.in_time]

    def _was_settled(self, asked: Asked) -> bool:
        """Whether no fault touched the request or its replies."""
        last = max(asked.answered_at, default=asked.deadline)
        return asked.delivered and not any(
            asked.asked_at < window.ended + _SETTLING_SECONDS and last > window.began
            for window in self.windows
        )

    def _failed_asks(self, settled: Sequence[Asked]) -> list[str]:
        """Eighth invariant, for the requests that no fault touched."""
        kinds = {
            "never answered": [asked for asked in settled if not asked.in_time],
            "answered twice": [asked for asked in settled if len(asked.answered_at) > 1],
            "answered from an older state": [asked for asked in settled if asked.older],
        }
        return [
            f"{len(found)} of {len(settled)} requests to a settled group were {kind}, "
            f"as {found[:_KEPT_DETAILS]}"
            for kind, found in kinds.items()
            if found
        ]


@contextlib.asynccontextmanager
async def running_scene(
    kafka: KafkaCluster,
    folder: Path,
    plan: Plan,
    *,
    prefix: str = "",
    say: Callable[[str], None] = lambda _: None,
    past: judge.Outcomes | None = None,
) -> AsyncIterator[Scene]:
    """Topics, replicas that are ready, and load that flows.

    Args:
        past: the outcomes that are there already.
    """
    names = await create_topics(
        kafka.bootstrap_servers, prefix, partitions=plan.partitions, replication_factor=None
    )
    replicas = Replicas(
        kafka.bootstrap_servers,
        prefix,
        folder,
        partitions=plan.partitions,
        settings=plan.flags(),
        piped=plan.piped,
    )
    scene = Scene(kafka, names, replicas, plan, say, past=past)
    try:
        await replicas.start(*plan.replicas)
        await replicas.settled()
        async with asyncio.TaskGroup() as tasks:
            scene.begin(tasks)
            await scene.answering()
            yield scene
            scene.end()
    finally:
        await replicas.close()


def _shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.sqlite3"))


def _is_empty(path: Path) -> bool:
    """Whether the kill came before the file had tables."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return bool(database.execute("PRAGMA user_version").fetchone()[0] == 0)
