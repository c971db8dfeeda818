"""Topics, a history, a worker that dies or fails at a point, one that goes on after it, and the judgement."""

import asyncio
import contextlib
import functools
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition

from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.kafka.admin import Committed, connected
from learner_worker.kafka.connection import Connection
from tests.crash_points.disk import DISK
from tests.crash_points.fuse import MARK
from tests.crash_points.points import POINTS, Point
from tests.simulation.checks import (
    InvariantError,
    check_file,
    check_keys,
    check_published,
    counted,
    join_facts,
)
from tests.simulation.log import Entry
from tests.support import model
from tests.support.swarm import shuffled_with_duplicates, swarm_history
from tests.support.workers import (
    WorkerProcess,
    create_topics,
    outcomes_on_disk,
    positions_in,
    read_topic,
    running_worker,
    topic_of,
    until,
)

_AUCTIONS = 120
_SHARDS = 2
_AT_ONCE = 25
"""Events a publishing; the next ones follow while the worker lives."""
_PATIENCE_SECONDS = 1.0
_LOOK_SECONDS = 0.02
_DEATH_SECONDS = 90.0
_JUNK = b"no page of a database "


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far the worker's outcomes, and what it told of them, are from the model's."""

    lost: int
    duplicated: int
    different: int


FLAWLESS = Verdict(0, 0, 0)


class Scene:
    """One history on topics of its own, read by one worker after the other."""

    def __init__(
        self,
        servers: str,
        prefix: str,
        *,
        names: TopicNames,
        folder: Path,
        seed: int,
        producer: AIOKafkaProducer,
    ) -> None:
        self._servers = servers
        self._prefix = prefix
        self._names = names
        self._folder = folder
        self._rng = random.Random(seed)
        self._producer = producer
        self._events = shuffled_with_duplicates(swarm_history(seed, _AUCTIONS), seed)
        self._published = 0
        self.state_dir = folder / "state"

    async def play(self, name: str, passings: int, *, lose_disk: bool) -> Verdict:
        """Earlier work if the point wants it, the point, a look at the disk, and a worker that ends the work.

        Raises:
            AssertionError: the worker did not end at the point as it should, or left what it must not.
        """
        point = {**POINTS, **DISK}[name]
        await self._publish(len(self._events) // 4)
        if point.begin != "new":
            await self._work_to_the_end(kill=point.begin == "damaged")
            await asyncio.to_thread(self._spoil, point)
        await self._end_at(name, point, passings)
        await self._check_what_is_left(commits=point.begin == "new")
        if lose_disk:
            shutil.rmtree(self.state_dir)
        await self._publish(len(self._events))
        await self._work_to_the_end()
        await self._check_what_is_left(commits=True)
        return await self._verdict()

    async def play_with_changed_files(self, change: Callable[[Path], None], *, killed: bool) -> Verdict:
        """A worker ends after half of the work, its files are changed, another one ends the work."""
        await self._publish(len(self._events) // 2)
        await self._work_to_the_end(kill=killed)
        await asyncio.to_thread(change, self.state_dir)
        await self._publish(len(self._events))
        await self._work_with_restarts()
        await self._check_what_is_left(commits=True)
        return await self._verdict()

    async def play_read_only(self, bound: Callable[[], None]) -> Verdict:
        """Between two workers that may write one may not; `bound` is run in its process first."""
        await self._publish(len(self._events) // 2)
        await self._work_to_the_end()
        for path in _shard_files(self.state_dir):
            path.chmod(0o444)
        await self._publish(self._published + _AT_ONCE)
        async with self._worker(preexec_fn=bound) as worker:
            await self._publish_until_it_ends(worker)
        self._check_refusal(worker, worker.log_path.read_text())
        for path in _shard_files(self.state_dir):
            path.chmod(0o644)
        await self._publish(len(self._events))
        await self._work_to_the_end()
        await self._check_what_is_left(commits=True)
        return await self._verdict()

    # --- publishing --------------------------------------------------------------------------------------

    async def _publish(self, until_event: int) -> None:
        events = self._events[self._published : until_event]
        self._published += len(events)
        sends = [
            await self._producer.send(
                topic_of(event, self._names), event.to_json(), key=event.task_id.encode()
            )
            for event in events
        ]
        await asyncio.gather(*sends)

    @property
    def _expected(self) -> dict[tuple[str, str], model.Outcome]:
        return _outcomes_of(tuple(self._events[: self._published]))

    # --- workers -----------------------------------------------------------------------------------------

    def _worker(self, **settings: Any) -> AbstractAsyncContextManager[WorkerProcess]:
        static = {"--group-instance-id": "only", "--session-timeout-seconds": "6"}
        given = static | settings.pop("settings", {})
        return running_worker(
            self._servers, self._prefix, self.state_dir, settings=given, wait=False, **settings
        )

    async def _end_at(self, name: str, point: Point, passings: int) -> None:
        program = ("-m", "tests.crash_points.worker", name, str(passings), "--")
        async with self._worker(program=program, settings=point.settings) as worker:
            if point.stopping:
                await until(functools.partial(self._has_read, worker, 50), "50 events are read")
                worker.process.send_signal(signal.SIGTERM)
            await self._publish_until_it_ends(worker)
        log = worker.log_path.read_text()
        assert f"{MARK}{name}\n" in log, f"{name} was not passed {passings} times:\n{log}"
        if point.kills:
            assert worker.process.returncode == -signal.SIGKILL, log
        else:
            self._check_refusal(worker, log)

    @staticmethod
    async def _has_read(worker: WorkerProcess, count: int) -> bool:
        return await worker.metric("learner_outcomes_total") >= count

    async def _publish_until_it_ends(self, worker: WorkerProcess) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DEATH_SECONDS):
                while worker.process.returncode is None:
                    await self._publish(self._published + _AT_ONCE)
                    await self._until_a_checkpoint(worker)
        if worker.process.returncode is None:
            raise AssertionError(f"it went on:\n{worker.log_path.read_text()}")

    async def _until_a_checkpoint(self, worker: WorkerProcess) -> None:
        """Until the files have learned more; not for long: the worker may be about to end."""
        before, deadline = self._learned(), time.monotonic() + _PATIENCE_SECONDS
        while self._learned() == before and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(worker.process.wait(), _LOOK_SECONDS)
                return

    def _learned(self) -> int:
        """How far the files are in the changelog."""
        with contextlib.suppress(sqlite3.Error):
            return sum(positions_in(path, self._names.outcomes) for path in _shard_files(self.state_dir))
        return 0

    def _check_refusal(self, worker: WorkerProcess, log: str) -> None:
        """Exit code 1, and one sentence that names the file and what to do; no traceback anywhere."""
        assert worker.process.returncode == 1, log
        assert "Traceback" not in log, log
        assert not [line for line in worker.log if "exception" in line], log
        said = [line for line in log.splitlines() if not line.startswith(("{", MARK))]
        assert len(said) == 1, log
        assert said[0].startswith("learner-worker: "), said
        assert f"{self.state_dir}/shard-0000" in said[0], said
        assert any(
            advice in said[0] for advice in ("free disk space", "check the disk", "to read and write it")
        ), said

    async def _work_to_the_end(self, *, kill: bool = False) -> None:
        async with self._worker(settings={"--checkpoint-interval-seconds": "0.2"}) as worker:
            try:
                await until(functools.partial(self._is_done, worker), "all is counted", seconds=120)
            except AssertionError as error:
                error.add_note(worker.log_path.read_text())
                raise
            code = await worker.stop(signal.SIGKILL if kill else signal.SIGTERM)
        assert code == (-signal.SIGKILL if kill else 0), worker.log_path.read_text()

    async def _work_with_restarts(self) -> None:
        """A supervisor's restarts: damage found while reading moves a file away and ends the worker."""
        for _ in range(1 + _SHARDS):
            async with self._worker() as worker:
                with contextlib.suppress(AssertionError):
                    await until(functools.partial(self._is_done, worker), "all is counted", seconds=120)
                if worker.process.returncode is None:
                    assert await worker.stop() == 0
                    return
            log = worker.log_path.read_text()
            assert worker.process.returncode == 1, log
            assert " and was set aside: restart to rebuild it from Kafka\n" in log, log
            assert "Traceback" not in log, log
        raise AssertionError("restarts did not mend it")

    async def _is_done(self, worker: WorkerProcess) -> bool:
        """The files have every outcome and no other, and Kafka has everybody's metrics."""
        if worker.process.returncode is not None:
            raise AssertionError("the worker ended early")
        with contextlib.suppress(sqlite3.DatabaseError, InvariantError):  # no tables yet; older metrics
            if await asyncio.to_thread(outcomes_on_disk, self.state_dir) == self._expected:
                check_published(await self._entries(self._names.metrics), model.metrics(self._expected))
                return True
        return False

    # --- the disk ----------------------------------------------------------------------------------------

    def _spoil(self, point: Point) -> None:
        if point.begin == "lost":
            shutil.rmtree(self.state_dir)
            return
        for path in self.state_dir.glob("shard-*.sqlite3*"):
            if not path.name.endswith("-shm"):
                path.write_bytes(_JUNK * (path.stat().st_size // len(_JUNK) + 1))

    async def _check_what_is_left(self, *, commits: bool) -> None:
        """Third invariant: a file's positions are the prefix folded into its rows; no commit is beyond."""
        changelog = await self._entries(self._names.outcomes)
        check_keys(changelog)
        committed = await self._committed()
        for number, database in self._databases():
            entries = [entry for entry in changelog if entry.partition == number]
            check_file(f"shard {number}", database, entries, entries, self._names.outcomes)
            positions = dict(database.execute("SELECT topic, next_offset FROM positions").fetchall())
            if commits:
                for topic in self._names.subscribed:
                    found = committed.get(TopicPartition(topic, number), Committed(0, ""))
                    assert found.offset <= positions.get(topic, 0), f"{topic}/{number} is committed beyond"

    def _databases(self) -> Iterator[tuple[int, sqlite3.Connection]]:
        """Every shard's file that has its tables, as a copy: opening changes it. Not those spoilt here."""
        copies = self._folder / "copies"
        shutil.rmtree(copies, ignore_errors=True)
        shutil.copytree(self.state_dir, copies)
        for path in _shard_files(copies):
            if path.read_bytes().startswith(_JUNK):
                continue
            with contextlib.closing(sqlite3.connect(path)) as database:
                if database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'positions'").fetchall():
                    yield int(path.name.removeprefix("shard-").split(".")[0]), database

    async def _committed(self) -> dict[TopicPartition, Committed]:
        async with connected(Connection(self._servers), patience_seconds=30) as cluster:
            return dict(await cluster.committed(f"{self._prefix}learner"))

    # --- judgement ---------------------------------------------------------------------------------------

    async def _entries(self, topic: TopicName) -> list[Entry]:
        records = await read_topic(self._servers, topic)
        entries = [
            Entry(topic, record.partition, record.offset, record.timestamp, record.key, record.value)
            for record in records
        ]
        return sorted(entries, key=lambda entry: (entry.partition, entry.offset))

    async def _verdict(self) -> Verdict:
        """Files, changelog and metrics records against the model."""
        expected = self._expected
        on_disk = compared(outcomes_on_disk(self.state_dir), expected)
        in_kafka = compared(counted(join_facts(await self._entries(self._names.outcomes))), expected)
        verdict = Verdict(*map(max, zip(on_disk, in_kafka, strict=True)))
        try:
            check_published(await self._entries(self._names.metrics), model.metrics(expected))
        except InvariantError:
            return replace(verdict, different=verdict.different + 1)
        return verdict


@functools.lru_cache(maxsize=16)
def _outcomes_of(events: tuple[model.Event, ...]) -> dict[tuple[str, str], model.Outcome]:
    return model.outcomes(events)


def _shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.sqlite3"))


def compared(
    found: dict[tuple[str, str], model.Outcome], expected: dict[tuple[str, str], model.Outcome]
) -> tuple[int, int, int]:
    """How many outcomes are missing, too many, and other than the model's."""
    both = found.keys() & expected.keys()
    return (
        len(expected.keys() - found.keys()),
        len(found.keys() - expected.keys()),
        sum(found[key] != expected[key] for key in both),
    )


@contextlib.asynccontextmanager
async def scene(servers: str, prefix: str, folder: Path, seed: int) -> AsyncIterator[Scene]:
    """A scene on fresh topics."""
    names = await create_topics(servers, prefix, partitions=_SHARDS)
    async with AIOKafkaProducer(bootstrap_servers=servers, acks="all", linger_ms=2) as producer:
        yield Scene(servers, prefix, names=names, folder=folder, seed=seed, producer=producer)
