"""A worker's progress as everybody can see it: the offsets its group commits after each checkpoint."""

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.kafka.admin import Cluster, connected
from learner_worker.kafka.connection import Connection
from tests.programs.bench.processor import Used
from tests.programs.bench.stage import PARTITIONS
from tests.support.workers import WorkerProcess

_LOOK_SECONDS = 0.2
_STALLED_SECONDS = 120.0
_NOTHING = Used()
_LOW, _HIGH = 0.05, 0.95  # shares of everything: what is outside them is start or end


class StalledError(Exception):
    """A worker ended, or moves no more."""


@dataclass(frozen=True, slots=True)
class Point:
    """How many records were done at a moment (seconds of the performance counter), and at what cost."""

    at: float
    records: float
    used: Used = _NOTHING


@dataclass(frozen=True, slots=True)
class Course:
    """From the start of the watch until everything was durable and committed."""

    began: float
    points: Sequence[Point]

    @property
    def seconds(self) -> float:
        """The whole of it, starting included."""
        return self.points[-1].at - self.began

    @property
    def total(self) -> float:
        """How many records were done."""
        return self.points[-1].records

    def moment(self, share: float) -> Point:
        """When a share of the records was done, on a straight line between two looks."""
        wanted = share * self.total
        before = self.points[0]
        for point in self.points:
            if point.records >= wanted:
                part = (wanted - before.records) / max(1, point.records - before.records)
                at = before.at + part * (point.at - before.at)
                return Point(at, wanted, before.used.plus(before.used.until(point.used, part)))
            before = point
        return before

    def rate(self, low: float = _LOW, high: float = _HIGH) -> float:
        """The share of everything done in a second, between two shares: neither start nor end counts."""
        return (high - low) / (self.moment(high).at - self.moment(low).at)

    def used(self, low: float = _LOW, high: float = _HIGH) -> Used:
        """The processor time of everything, at the rate between two shares: neither start nor end counts."""
        between = self.moment(low).used.until(self.moment(high).used)
        return Used(*(each / (high - low) for each in between))


@dataclass(frozen=True, slots=True)
class Watched:
    """What a group is to come through: its sources, and the topic that it makes of them and reads itself."""

    group_id: str
    sources: Sequence[str]
    outcomes: str


async def course_of(
    servers: str,
    watched: Watched,
    workers: Sequence[WorkerProcess],
    began: float,
    *,
    used: Callable[[], Used] = Used,
) -> Course:
    """Looks on until the group has committed every record of its topics; those committed before do not count.

    Offsets are committed after the rows are in SQLite, and a source's after the facts it made are
    acknowledged: once the sources are done, the end of the outcomes is where it stays.

    Args:
        used: reads the processor time used so far.

    Raises:
        StalledError: a worker ended, or nothing was committed for two minutes.
    """
    points = [Point(began, 0, used())]
    async with (
        connected(Connection(servers), patience_seconds=30) as cluster,
        AIOKafkaConsumer(bootstrap_servers=servers) as consumer,
    ):
        source_records = await _end(consumer, watched.sources)
        before = await done_by_group(cluster, watched)
        moved = time.perf_counter()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            committed = await _committed(cluster, watched.group_id)
            read = sum(committed[topic] for topic in watched.sources)
            learned = committed[watched.outcomes]
            now = time.perf_counter()
            if read + learned - before > points[-1].records:
                points.append(Point(now, read + learned - before, used()))
                moved = now
            if read >= source_records and learned >= await _end(consumer, [watched.outcomes]):
                return Course(began, points)
            _require_moving(workers, now - moved)


async def done_by_group(cluster: Cluster, watched: Watched) -> int:
    """How many records of the watched topics a group has committed in all."""
    committed = await _committed(cluster, watched.group_id)
    return sum(committed[topic] for topic in (*watched.sources, watched.outcomes))


async def _end(consumer: AIOKafkaConsumer, topics: Sequence[str]) -> int:
    partitions = [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
    return sum((await consumer.end_offsets(partitions)).values())


async def _committed(cluster: Cluster, group_id: str) -> Counter[str]:
    """How many records of each topic a group has committed."""
    done: Counter[str] = Counter()
    try:
        committed = await cluster.committed(group_id)
    except KafkaError:  # a group's coordinator takes a moment to be there
        return done
    for partition, found in committed.items():
        done[partition.topic] += found.offset
    return done


def _require_moving(workers: Sequence[WorkerProcess], still_seconds: float) -> None:
    for worker in workers:
        if worker.process.returncode is not None:
            raise StalledError(f"a worker ended early: {worker.log_path.read_text()[-2000:]}")
    if still_seconds > _STALLED_SECONDS:
        raise StalledError(f"nothing was committed for {still_seconds:.0f} s")


def count_outcomes(state_dir: Path) -> int:
    """The outcomes of all shards. One that moved to another process has left a file behind, with fewer."""
    of_shards: dict[str, int] = {}
    for path in state_dir.rglob("shard-*.sqlite3"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            [(count,)] = connection.execute("SELECT count(*) FROM outcomes")
        of_shards[path.name] = max(count, of_shards.get(path.name, 0))
    return sum(of_shards.values())
