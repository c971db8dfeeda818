"""Snapshots: which may be used, which are superfluous, and what the copy of a file holds."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from learner_worker.contract.facts import Bid
from learner_worker.contract.fields import AgentId, ShardId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import Topics
from learner_worker.domain.auctions import AuctionState
from learner_worker.domain.outcomes import Outcome
from learner_worker.errors import ConfigurationError, ManifestError, StateError
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.snapshots.catalog import Listing, SnapshotCatalog, abandoned, new_name, superseded
from learner_worker.snapshots.manifest import (
    SnapshotManifest,
    beyond,
    decode_manifest,
    encode_manifest,
    foreign,
    manifest_of,
    newest_first,
    unusable,
)
from learner_worker.snapshots.object_store import open_store
from learner_worker.store.copying import FileCopy, copy_file
from learner_worker.store.formats import FORMAT
from learner_worker.store.identity import LAST_RECORD, LastRecord, shard_identity
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.store.statements import Checkpoint

TOPICS = Topics().named()
SHARD = ShardId(7)
IDENTITY = shard_identity(
    cluster_id="c1", topic_prefix="", partitions=12, shard=SHARD, incarnation="i1", generation=2
)
LAST = LastRecord.of(41, 1_700_000_000_000, b"key")
CREATED_MS = 1_700_000_000_500
MANIFEST = SnapshotManifest(
    name=f"shard-00007/{CREATED_MS}-{0:032x}.sqlite3",
    identity=IDENTITY,
    term=3,
    position=42,
    last_record=LAST,
    format=FORMAT,
    created_ms=CREATED_MS,
    size=10,
    sha256="00",
)


def changed(**fields: Any) -> SnapshotManifest:
    return msgspec.structs.replace(MANIFEST, **fields)


def of(**names: str) -> SnapshotManifest:
    return changed(identity={**IDENTITY, **names})


# --- which may be used -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (MANIFEST, None),
        (of(generation="1"), None),
        (of(generation="3"), "it is of generation '3', here it is '2'"),
        (of(incarnation="i0"), "it is of incarnation 'i0', here it is 'i1'"),
        (of(cluster_id="c0"), "it is of cluster_id 'c0', here it is 'c1'"),
        (of(partitions="24"), "it is of partitions '24', here it is '12'"),
        (of(shard="8"), "it is of shard '8', here it is '7'"),
        (changed(identity={**IDENTITY, "incarnation": ""}), "it is of incarnation '', here it is 'i1'"),
        (
            changed(identity={name: value for name, value in IDENTITY.items() if name != "incarnation"}),
            "it names no incarnation",
        ),
    ],
)
def test_a_snapshot_of_others_is_foreign(manifest: SnapshotManifest, reason: str | None) -> None:
    """It has to name all that this shard is known by, each as it is here; its generation may be earlier."""
    assert foreign(manifest, IDENTITY) == reason


@pytest.mark.parametrize(
    ("offsets", "reason"),
    [
        (OffsetRange(0, 42), None),
        (OffsetRange(41, 100), None),
        (OffsetRange(0, 41), "it has read up to offset 42, and the changelog ends at 41"),
        (OffsetRange(42, 100), "the changelog begins at offset 42, after the last record"),
    ],
)
def test_the_changelog_has_to_hold_what_a_snapshot_has_read(offsets: OffsetRange, reason: str | None) -> None:
    """A changelog that ends earlier has lost its end or is another one."""
    found = beyond(MANIFEST, offsets)

    assert found is None if reason is None else found is not None and found.startswith(reason)


def test_the_last_record_of_a_snapshot_has_to_be_in_the_changelog_whatever_its_position() -> None:
    """Nobody can ask for a record beyond the end: the answer would not come."""
    assert beyond(changed(position=1), OffsetRange(0, LAST.offset)) is not None
    assert beyond(changed(position=1), OffsetRange(0, LAST.offset + 1)) is None


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (MANIFEST, None),
        (changed(format=FORMAT - 1), None),
        (changed(format=FORMAT + 1), f"it has format {FORMAT + 1}; this worker reads formats up to {FORMAT}"),
        (changed(created_ms=CREATED_MS - 1), "it is older than --snapshot-keep-seconds"),
    ],
)
def test_a_snapshot_may_be_too_new_or_too_old(manifest: SnapshotManifest, reason: str | None) -> None:
    """A newer format cannot be read; an older one is changed when the file is opened."""
    assert unusable(manifest, now_ms=CREATED_MS + 60_000, keep_seconds=60) == reason


def test_the_snapshot_that_leaves_least_to_read_comes_first() -> None:
    """Of equal positions the later owner's, then the one made last."""
    manifests = [
        MANIFEST,
        changed(position=43, term=1),
        changed(term=4, created_ms=1),
        changed(created_ms=CREATED_MS + 1),
    ]

    assert [manifests.index(each) for each in newest_first(manifests)] == [1, 2, 3, 0]


# --- what a new one makes superfluous --------------------------------------------------------------------


def test_of_those_before_a_new_snapshot_one_stays() -> None:
    """A replica may be reading it. Another incarnation's, a later owner's and a later one are not judged."""
    newest = changed(name="newest", created_ms=CREATED_MS + 10)
    before = [changed(name=f"before-{number}", created_ms=CREATED_MS + number) for number in range(3)]
    others = [
        msgspec.structs.replace(of(incarnation="i0"), name="foreign"),
        changed(name="of a later owner", term=4),
        changed(name="later", created_ms=CREATED_MS + 11),
    ]

    found = superseded(Listing([newest, *before, *others], {}), newest)

    assert [each.name for each in found] == ["before-0", "before-1"]


def test_only_our_own_unfinished_objects_are_abandoned() -> None:
    """After a day nobody can be writing one any more."""
    name = new_name(SHARD, CREATED_MS)
    day_ms = 86_400_000

    assert abandoned(Listing([], {name: ""}), CREATED_MS + day_ms) == []
    assert abandoned(Listing([], {name: ""}), CREATED_MS + day_ms + 1) == [name]


# --- manifests -------------------------------------------------------------------------------------------


def test_a_manifest_is_read_as_it_was_written() -> None:
    """Also one that says more, as a later version's may."""
    content = encode_manifest(MANIFEST)

    assert decode_manifest(content) == MANIFEST
    assert decode_manifest(content.replace(b'{"name"', b'{"more":1,"name"', 1)) == MANIFEST


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", encode_manifest(MANIFEST)[:-1], encode_manifest(changed(v=2))],
)
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    """A torn one, something else, or one that has to be read differently."""
    with pytest.raises(ManifestError):
        decode_manifest(content)


# --- copies ----------------------------------------------------------------------------------------------


async def _filled(path: Path) -> ShardFile:
    file = await ShardFile.open(path, IDENTITY)
    row = Outcome(TaskId("t"), AgentId("a"), None, Bid(Micros(5), 3, "text"), None)
    positions = {TOPICS.outcomes: 42, TOPICS.metrics: 9, TOPICS.bid_placed: 17}
    await file.write(
        Checkpoint(
            positions,
            auctions={TaskId("t"): AuctionState(1, {}, None, [], {})},
            outcomes={(row.task_id, row.agent_id): row},
            last_record=LAST,
        )
    )
    return file


async def test_a_copy_has_the_rows_and_no_positions_of_the_sources(tmp_path: Path) -> None:
    """It is made while the file is in use; what it says of itself is in it."""
    path, target = shard_path(tmp_path, SHARD), tmp_path / "copy"
    file = await _filled(path)
    try:
        copy = await copy_file(path, target, (TOPICS.outcomes, TOPICS.metrics))
        positions = await file.load_positions()
    finally:
        await file.close()

    assert positions[TOPICS.bid_placed] == 17
    assert copy.positions == {TOPICS.outcomes: 42, TOPICS.metrics: 9}
    assert copy.identity == {**IDENTITY, LAST_RECORD: LAST.text()}
    assert (copy.format, copy.size) == (FORMAT, target.stat().st_size)
    assert target.stat().st_mode & 0o777 == 0o600
    copied = await ShardFile.open(target, IDENTITY)
    try:
        assert (TaskId("t"), AgentId("a")) in await copied.load_outcomes([(TaskId("t"), AgentId("a"))])
        assert await copied.load_auctions() == {}
    finally:
        await copied.close()


async def test_a_damaged_file_is_not_copied(tmp_path: Path) -> None:
    """Whoever took its snapshot would have to restore from Kafka anyway."""
    path = shard_path(tmp_path, SHARD)
    await (await _filled(path)).close()
    with path.open("r+b") as content:
        content.seek(4096 * 3)
        content.write(b"\xff" * 4096 * 12)

    with pytest.raises(StateError, match=r"malformed|damaged"):
        await copy_file(path, tmp_path / "copy", (TOPICS.outcomes,))


def test_a_file_that_has_read_nothing_has_no_manifest() -> None:
    """Nor has one of an older version: nothing says which changelog it is from."""
    copy = FileCopy(
        Path("copy"), FORMAT, {**IDENTITY, LAST_RECORD: LAST.text()}, {TOPICS.outcomes: 42}, 1, ""
    )
    made = _manifest(copy)

    assert made is not None
    assert (made.position, made.last_record, made.identity) == (42, LAST, IDENTITY)
    assert _manifest(copy._replace(positions={})) is None
    assert _manifest(copy._replace(positions={TOPICS.outcomes: LAST.offset})) is None
    assert _manifest(copy._replace(identity=IDENTITY)) is None


# --- the catalog, in a folder ----------------------------------------------------------------------------


def _manifest(copy: FileCopy) -> SnapshotManifest | None:
    name = new_name(SHARD, CREATED_MS)
    return manifest_of(copy, TOPICS.outcomes, name=name, term=1, created_ms=CREATED_MS)


async def _published(catalog: SnapshotCatalog, path: Path) -> SnapshotManifest:
    copy = await copy_file(path, path.with_suffix(".copy"), (TOPICS.outcomes, TOPICS.metrics))
    manifest = _manifest(copy)
    assert manifest is not None
    await catalog.publish(copy.path, manifest)
    return manifest


async def test_a_snapshot_comes_back_as_it_was_published(tmp_path: Path) -> None:
    """Through a folder that nobody else may read; torn, half and strange ones are told apart."""
    path, folder = shard_path(tmp_path, SHARD), tmp_path / "store"
    await (await _filled(path)).close()
    catalog = SnapshotCatalog(open_store(folder.as_uri()))
    first, second = await _published(catalog, path), await _published(catalog, path)
    modes = {each.stat().st_mode & 0o777 for each in folder.rglob("*") if each.is_file()}
    assert (modes, folder.stat().st_mode & 0o777) == ({0o600}, 0o700)

    parts: list[None] = []
    assert await catalog.fetch(first, tmp_path / "arrived", lambda: parts.append(None))
    assert (tmp_path / "arrived").read_bytes() == (folder / first.name).read_bytes()
    assert parts

    content = (folder / first.name).read_bytes()
    (folder / first.name).write_bytes(content[:-1])
    assert not await catalog.fetch(first, tmp_path / "arrived", lambda: None)

    (folder / second.name).unlink()
    strange = folder / "shard-00007" / "notes.txt"
    strange.write_text("somebody else's")
    found = await catalog.list(SHARD)
    assert [each.name for each in found.snapshots] == [first.name]
    assert found.broken == {second.name.replace(".sqlite3", ".json"): "its file is missing"}
    assert await catalog.shards() == [SHARD]

    await catalog.delete([first], found.broken)
    await catalog.delete([first])
    assert [each.name for each in folder.rglob("*") if each.is_file()] == ["notes.txt"]


def test_an_address_that_cannot_be_used_is_a_configuration_error(tmp_path: Path) -> None:
    """A file in the way: the message names the flag."""
    (tmp_path / "file").touch()

    with pytest.raises(ConfigurationError, match="--snapshot-url"):
        open_store((tmp_path / "file" / "store").as_uri())
