"""The store of snapshots, which outlives every worker, and the copies on a worker's disk."""

import asyncio
import hashlib
import itertools
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.errors import MissingObjectError, SnapshotError
from learner_worker.snapshots.object_store import OnProgress
from learner_worker.store.copying import FileCopy, digest_of, keep_rows_only
from learner_worker.store.formats import FORMAT
from learner_worker.store.identity import shard_identity
from tests.simulation.disk import Disk, Latency, opened

_numbers = itertools.count()


def in_turn() -> str:
    """Takes the place of what is random in a snapshot's name, so that a seed always ends alike."""
    return f"{next(_numbers):032x}"


class Bucket:
    """The objects that all workers share."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.violations: list[str] = []
        self.taken = 0
        """How many files were fetched."""
        self._held: list[asyncio.Future[None]] | None = None

    def put(self, name: str, content: bytes) -> None:
        """Makes an object; none may ever change."""
        if name in self.objects:
            self.violations.append(f"{name} is overwritten")
        self.objects[name] = content

    def hold(self) -> None:
        """From now on files that are put here do not arrive."""
        self._held = []

    def let_go(self) -> None:
        """They do."""
        held, self._held = self._held or [], None
        for arrival in held:
            if not arrival.done():
                arrival.set_result(None)

    async def arrival(self) -> None:
        """Waits until a file arrives."""
        if self._held is not None:
            self._held.append(asyncio.get_running_loop().create_future())
            await self._held[-1]

    def of_shard(self, shard: int) -> list[str]:
        """The names of the files in a shard's folder."""
        folder = f"shard-{shard:05d}/"
        return [name for name in self.objects if name.startswith(folder) and name.endswith(".sqlite3")]


class BucketClient:
    """A process's way to the bucket: each call takes a while, and may fail."""

    def __init__(self, bucket: Bucket, disk: Disk, latency: Latency, refuses: Callable[[], bool]) -> None:
        self._bucket = bucket
        self._disk = disk
        self._latency = latency
        self._refuses = refuses

    async def names(self, folder: str) -> list[str]:
        await self._on_its_way()
        found = [name for name in self._bucket.objects if name.startswith(f"{folder}/")]
        await self._latency()
        return found

    async def get(self, name: str) -> bytes:
        await self._on_its_way()
        found = self._found(name)
        await self._latency()
        return found

    async def put(self, name: str, content: bytes) -> None:
        await self._on_its_way()
        self._bucket.put(name, content)
        await self._latency()

    async def upload(self, name: str, path: Path) -> None:
        await self._bucket.arrival()
        await self.put(name, self._disk.copies[path])

    async def download(self, name: str, path: Path, size: int, on_progress: OnProgress) -> None:
        assert size
        content = await self.get(name)
        self._disk.copies[path] = content
        self._bucket.taken += 1
        on_progress()

    async def delete(self, names: Sequence[str]) -> None:
        for name in names:
            await self._on_its_way()
            self._bucket.objects.pop(name, None)

    def _found(self, name: str) -> bytes:
        if name not in self._bucket.objects:
            raise MissingObjectError(f"there is no {name}")
        return self._bucket.objects[name]

    async def _on_its_way(self) -> None:
        await self._latency()
        await asyncio.sleep(0)
        if self._refuses():
            raise SnapshotError("the store does not answer")


class SimulatedCopies:
    """Copies of the files on a worker's disk, and for it."""

    def __init__(self, disk: Disk, shards: int, incarnation: str, latency: Latency) -> None:
        self._disk = disk
        self._shards = shards
        self._incarnation = incarnation
        self._latency = latency

    def identity_of(self, shard_id: ShardId) -> dict[str, str]:
        return shard_identity(
            cluster_id="cluster",
            topic_prefix="",
            partitions=self._shards,
            shard=shard_id,
            incarnation=self._incarnation,
            generation=1,
        )

    async def is_missing(self, shard_id: ShardId) -> bool:
        await self._latency()
        return shard_id not in self._disk.databases

    async def copy(self, shard_id: ShardId, topics: Collection[TopicName]) -> FileCopy:
        await self._latency()
        connection = opened(self._disk.databases[shard_id].serialize())
        await self._latency()
        keep_rows_only(connection, topics)
        own = self.identity_of(shard_id).items()
        connection.executemany("INSERT OR IGNORE INTO identity (name, value) VALUES (?, ?)", own)
        connection.commit()
        path = Path(f"{shard_id}.copy")
        self._disk.copies[path] = connection.serialize()
        return await self.describe(path)

    def arriving(self, shard_id: ShardId) -> Path:
        return Path(f"{shard_id}.arriving")

    async def describe(self, path: Path) -> FileCopy:
        await self._latency()
        content = self._disk.copies[path]
        connection = opened(content)
        forgotten = {
            AgentId(agent): Micros(int(until))
            for agent, until in _pairs(connection, "SELECT agent_id, until FROM forgotten").items()
        }
        positions = {
            topic: int(offset)
            for topic, offset in _pairs(connection, "SELECT topic, next_offset FROM positions").items()
        }
        return FileCopy(
            path,
            FORMAT,
            _pairs(connection, "SELECT name, value FROM identity"),
            positions,
            digest_of(forgotten),
            len(content),
            hashlib.sha256(content).hexdigest(),
        )

    async def take(self, shard_id: ShardId, path: Path) -> None:
        await self._latency()
        assert shard_id not in self._disk.databases
        self._disk.databases[shard_id] = opened(self._disk.copies.pop(path))

    async def discard(self, path: Path) -> None:
        await asyncio.sleep(0)
        self._disk.copies.pop(path, None)


def _pairs(connection: sqlite3.Connection, query: str) -> Mapping[str, str]:
    return {str(name): str(value) for name, value in connection.execute(query)}
