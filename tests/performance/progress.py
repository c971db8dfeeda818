"""A worker's progress as everybody can see it: the offsets its group commits after each checkpoint."""

import asyncio
import sqlite3
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from aiokafka.errors import KafkaError

from learner_worker.stream.cluster import Cluster, connected
from learner_worker.stream.connection import Connection
from tests.workers import WorkerProcess

_LOOK_SECONDS = 0.2
_STALLED_SECONDS = 120.0


class StalledError(Exception):
    """A worker ended, or moves no more."""


@dataclass(frozen=True, slots=True)
class Point:
    """How many records were done at a moment (seconds of the performance counter)."""

    at: float
    records: int


@dataclass(frozen=True, slots=True)
class Course:
    """From the start of the watch until everything was durable and committed."""

    began: float
    points: Sequence[Point]
    total: int

    @property
    def seconds(self) -> float:
        """The whole of it, starting included."""
        return self.points[-1].at - self.began

    def moment(self, share: float) -> float:
        """When a share of the records was done, on a straight line between two looks."""
        wanted = share * self.total
        before = Point(self.began, 0)
        for point in self.points:
            if point.records >= wanted:
                part = (wanted - before.records) / max(1, point.records - before.records)
                return before.at + part * (point.at - before.at)
            before = point
        return before.at

    def rate(self, low: float = 0.05, high: float = 0.95) -> float:
        """The share of everything done in a second, between two shares: neither start nor end counts."""
        return (high - low) / (self.moment(high) - self.moment(low))


async def course_of(
    servers: str,
    group_id: str,
    expected: Mapping[str, int],
    workers: Sequence[WorkerProcess],
    began: float,
) -> Course:
    """Looks on until the group has committed so many records of every topic.

    Offsets are committed after the rows are in SQLite: what is committed is durable on both sides.

    Raises:
        StalledError: a worker ended, or nothing was committed for two minutes.
    """
    points: list[Point] = []
    total = sum(expected.values())
    async with connected(Connection(servers), patience_seconds=30) as cluster:
        moved = time.perf_counter()
        while not points or points[-1].records < total:
            await asyncio.sleep(_LOOK_SECONDS)
            done = await _committed(cluster, group_id, expected)
            now = time.perf_counter()
            if not points or done > points[-1].records:
                points.append(Point(now, done))
                moved = now
            _require_moving(workers, now - moved)
    return Course(began, points, total)


async def _committed(cluster: Cluster, group_id: str, topics: Collection[str]) -> int:
    try:
        committed = await cluster.committed(group_id)
    except KafkaError:  # a group's coordinator takes a moment to be there
        return 0
    return sum(found.offset for partition, found in committed.items() if partition.topic in topics)


def _require_moving(workers: Sequence[WorkerProcess], still_seconds: float) -> None:
    for worker in workers:
        if worker.process.returncode is not None:
            raise StalledError(f"a worker ended early: {worker.log_path.read_text()[-2000:]}")
    if still_seconds > _STALLED_SECONDS:
        raise StalledError(f"nothing was committed for {still_seconds:.0f} s")


def count_rows(state_dirs: Sequence[Path], table: str = "outcomes") -> int:
    """The rows in all shards' files."""
    total = 0
    for path in (path for folder in state_dirs for path in folder.glob("shard-*.sqlite3")):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            total += connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
    return total
