"""Taking snapshots where files are missing: what is tried, how long, and who waits for it."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition
from structlog.testing import capture_logs

from learner_worker.contract.facts import Bid
from learner_worker.contract.fields import AgentId, ShardId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.outcomes import Outcome
from learner_worker.errors import SnapshotError
from learner_worker.observability import Instruments
from learner_worker.snapshots.catalog import SnapshotCatalog, folder_of, new_name
from learner_worker.snapshots.manifest import SnapshotManifest, manifest_of
from learner_worker.snapshots.object_store import ObjectStore
from learner_worker.snapshots.remote import RemoteStore
from learner_worker.store import replacement
from learner_worker.store import state_folder as state_folder_module
from learner_worker.store.identity import LastRecord
from learner_worker.store.shard_file import shard_path
from learner_worker.store.state_folder import StateFolder
from learner_worker.store.statements import Checkpoint
from learner_worker.worker.ownership import ShardStatus
from learner_worker.worker.platform import SnapshotPlatform
from learner_worker.worker.snapshots import SnapshotPolicy, SnapshotRestorer
from tests.support.conditions import becomes_true
from tests.support.wiring import (
    TOPICS,
    PlayedClients,
    QuietConsumer,
    RememberedFiles,
    partitions_of,
    until_open,
    worker_on,
)

SHARD, OTHER = ShardId(0), ShardId(1)
NOW_MS = 1_700_000_000_000
LAST = LastRecord.of(41, NOW_MS, b"key")
RECORD = SimpleNamespace(offset=LAST.offset, timestamp=NOW_MS, key=b"key", value=b"")
"""The last one that the snapshots have read."""


class ChangelogConsumer(QuietConsumer):
    """A consumer of a changelog whose last record is that of the snapshots."""

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self.assigned = set(partitions)

    async def getmany(self, **_: Any) -> Mapping[TopicPartition, Any]:
        return {partition: [RECORD] for partition in self.assigned}

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, LAST.offset + 1)


class SlowStore(RemoteStore):
    """A store in a folder whose answers the test can stop."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.as_uri())
        self.listed: list[str] = []
        self.refuses = self.hangs = self.hangs_reading = False
        self.hangs_in = ""
        self.hanging = 0

    async def names(self, folder: str) -> list[str]:
        self.listed.append(folder)
        if self.refuses:
            raise SnapshotError("it is gone")
        await self._pass(hangs=self.hangs or folder == self.hangs_in)
        return await super().names(folder)

    async def download(self, name: str, path: Path, size: int, on_progress: Any) -> None:
        await self._pass(hangs=self.hangs_reading)
        await super().download(name, path, size, on_progress)

    async def _pass(self, *, hangs: bool) -> None:
        self.hanging += 1
        try:
            await asyncio.sleep(3_600 if hangs else 0)
        finally:
            self.hanging -= 1


def state_folder(path: Path) -> StateFolder:
    path.mkdir(exist_ok=True)
    return StateFolder(path, cluster_id="c", topic_prefix="", partitions=2, incarnation="i", generation=1)


def restorer_of(store: ObjectStore, files: StateFolder, take_seconds: float = 60.0) -> SnapshotRestorer:
    return SnapshotRestorer(
        SnapshotPlatform(store, files),
        make_consumer=ChangelogConsumer,
        topic=TOPICS.outcomes,
        policy=SnapshotPolicy(1, 60, lambda: Micros(NOW_MS * 1_000), take_seconds),
        results=Instruments().process.snapshots,
        on_progress=lambda: None,
    )


async def published(store: ObjectStore, path: Path, number: int = 0) -> SnapshotManifest:
    """A snapshot of the first shard, made of a file with one outcome; the newest has the highest number."""
    files = state_folder(path)
    file = await files.open(SHARD)
    row = Outcome(TaskId(f"t{number}"), AgentId("a"), None, Bid(Micros(5), 3, "text"), None)
    await file.write(
        Checkpoint(
            {TOPICS.outcomes: LAST.offset + 1},
            outcomes={(row.task_id, row.agent_id): row},
            last_record=LAST,
        )
    )
    await file.close()
    copy = await files.copy(SHARD, (TOPICS.outcomes,))
    name = new_name(SHARD, NOW_MS + number)
    manifest = manifest_of(copy, TOPICS.outcomes, name=name, term=1, created_ms=NOW_MS + number)
    assert manifest is not None
    await SnapshotCatalog(store).publish(copy.path, manifest)
    return manifest


def refusals(logged: Sequence[Mapping[str, Any]]) -> list[str]:
    return [each["reason"] for each in logged if each["event"] == "snapshot.refused"]


def none_taken(logged: Sequence[Mapping[str, Any]]) -> list[str]:
    return [each["reason"] for each in logged if each["event"] == "snapshot.none_taken"]


async def test_what_is_not_as_its_manifest_says_is_not_put_in_place(tmp_path: Path) -> None:
    """Of another file, or torn: the next one is taken."""
    store, files = SlowStore(tmp_path / "store"), state_folder(tmp_path / "state")
    good, other, torn = [await published(store, tmp_path / "source", number) for number in range(3)]
    (tmp_path / "store" / torn.name).write_bytes(b"not a database" * 1_000)
    (tmp_path / "store" / other.name).write_bytes((tmp_path / "store" / good.name).read_bytes()[:-1])

    with capture_logs() as logged:
        assert await restorer_of(store, files).restore(SHARD)

    first, _ = refusals(logged)
    assert "damaged" in first
    assert shard_path(tmp_path / "state", SHARD).read_bytes() == (
        (tmp_path / "store" / good.name).read_bytes()
    )
    assert not files.arriving(SHARD).exists()


async def test_a_forged_manifest_is_refused(tmp_path: Path) -> None:
    """Whole and with its checksum, but further than its file has read."""
    store, files = SlowStore(tmp_path / "store"), state_folder(tmp_path / "state")
    made = await published(store, tmp_path / "source")
    (tmp_path / "store" / made.name).with_suffix(".json").write_bytes(
        msgspec.json.encode(msgspec.structs.replace(made, term=1, forgotten="00"))
    )

    with capture_logs() as logged:
        assert not await restorer_of(store, files).restore(SHARD)

    assert refusals(logged) == ["its forgotten does not match its manifest"]
    assert await files.is_missing(SHARD)


async def test_a_store_that_has_failed_is_left_alone_for_a_while(tmp_path: Path) -> None:
    """Every shard would wait for it in turn."""
    store, files = SlowStore(tmp_path / "store"), state_folder(tmp_path / "state")
    store.refuses = True
    restorer = restorer_of(store, files)

    with capture_logs() as logged:
        assert not await restorer.restore(SHARD)
        assert not await restorer.restore(OTHER)

    assert none_taken(logged) == ["it is gone", "the store failed a moment ago"]
    assert len(store.listed) == 1


async def test_a_snapshot_that_does_not_arrive_is_given_up(tmp_path: Path) -> None:
    """In one time for all that are tried; then the changelog is read."""
    store, files = SlowStore(tmp_path / "store"), state_folder(tmp_path / "state")
    for number in range(2):
        last = await published(store, tmp_path / "source", number)
    store.hangs_reading = True

    with capture_logs() as logged:
        assert not await restorer_of(store, files, take_seconds=0.1).restore(SHARD)

    assert none_taken(logged) == [f"{last.name} has not arrived within 0.1 s"]
    assert await files.is_missing(SHARD)
    assert list((tmp_path / "state").iterdir()) == []


async def test_a_file_is_in_place_before_a_cancelled_restore_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens the shard next would have its open file replaced."""
    store, files = SlowStore(tmp_path / "store"), state_folder(tmp_path / "state")
    await published(store, tmp_path / "source")
    begun, may_go_on = threading.Event(), threading.Event()

    def replaced(path: Path, new: Path) -> None:
        begun.set()
        may_go_on.wait()
        replacement.replace(path, new)

    monkeypatch.setattr(state_folder_module, "replace", replaced)
    restoring = asyncio.create_task(restorer_of(store, files).restore(SHARD))
    await becomes_true(begun.is_set)
    restoring.cancel()
    await asyncio.wait([restoring], timeout=0.1)
    is_done = restoring.done()
    may_go_on.set()
    await asyncio.wait([restoring])

    assert not is_done
    assert restoring.cancelled()
    assert not await files.is_missing(SHARD)


async def test_nobody_waits_for_a_shard_whose_snapshot_does_not_arrive(tmp_path: Path) -> None:
    """What is still valid goes on, and a new epoch ends the waiting."""
    store, files = SlowStore(tmp_path / "store"), state_folder(tmp_path)
    clients = PlayedClients(ChangelogConsumer())
    worker = worker_on(clients, RememberedFiles(tmp_path), SnapshotPlatform(store, files))
    owned = worker.ownership
    async with worker.preparation.running():
        await worker.rebalance.on_partitions_assigned(partitions_of(OTHER))
        await until_open(worker, [OTHER])
        store.hangs = True

        await worker.rebalance.on_partitions_assigned(partitions_of(SHARD, OTHER))
        await becomes_true(lambda: store.hanging == 1)
        assert owned.statuses[SHARD] is ShardStatus.OPENING
        assert [shard_id for shard_id, _ in owned.readable()] == [OTHER]

        await worker.rebalance.on_partitions_assigned(partitions_of(OTHER))
        await becomes_true(lambda: store.hanging == 0)
        await until_open(worker, [OTHER])
        assert owned.statuses.keys() == {OTHER}
        assert await files.is_missing(SHARD)


async def test_snapshots_arrive_side_by_side(tmp_path: Path) -> None:
    """A shard opens when its own snapshot is there, and so does one that has none to take."""
    store, files = SlowStore(tmp_path / "store"), state_folder(tmp_path / "state")
    await published(store, tmp_path / "source")
    clients = PlayedClients(ChangelogConsumer())
    worker = worker_on(clients, RememberedFiles(tmp_path / "state"), SnapshotPlatform(store, files))
    owned = worker.ownership
    async with worker.preparation.running():
        store.hangs_in = folder_of(SHARD)  # the first to be asked for
        await worker.rebalance.on_partitions_assigned(partitions_of(SHARD, OTHER))
        await becomes_true(lambda: owned.shards.keys() == {OTHER})
        assert owned.statuses[SHARD] is ShardStatus.OPENING
        assert store.hanging == 1

        store.hangs_in = ""
        await worker.rebalance.on_partitions_assigned(partitions_of(SHARD, OTHER))
        await until_open(worker, [SHARD, OTHER])
    assert not await files.is_missing(SHARD)
