"""Snapshots: which may be used, which are superfluous, and what the copy of a file holds."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from learner_worker.contract.facts import Bid, ForgetMarker
from learner_worker.contract.fields import AgentId, ShardId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import Topics
from learner_worker.contract.topology import OwnTopics, Topology
from learner_worker.domain.auctions import AuctionState
from learner_worker.domain.outcomes import Outcome
from learner_worker.errors import ManifestError, StateError
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.partitioner import partitioner
from learner_worker.operations.snapshots import delete_forgotten
from learner_worker.snapshots.catalog import (
    Listing,
    SnapshotCatalog,
    abandoned,
    new_name,
    of_other_markers,
    outdated,
    outdated_newer,
    superfluous,
    superseded,
)
from learner_worker.snapshots.manifest import (
    SnapshotManifest,
    beyond,
    contradicted,
    decode_manifest,
    encode_manifest,
    foreign,
    manifest_of,
    newest_first,
    unusable,
)
from learner_worker.snapshots.object_store import open_store
from learner_worker.snapshots.remote import RemoteStore
from learner_worker.store.copying import FileCopy, copy_file, description_of, digest_of
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
    forgotten=digest_of({}),
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

    found = superseded(Listing([newest, *before, *others], {}, {}), newest)

    assert [each.name for each in found] == ["before-0", "before-1"]


def test_a_new_snapshot_stays_whatever_the_clock_says() -> None:
    """It was longer on its way than it may get old, or the clock was set: the others go by their age."""
    newest = changed(name="newest")
    future, former = changed(name="future", created_ms=2**42), of(incarnation="i0")
    foreign_one = msgspec.structs.replace(of(incarnation="x"), name="foreign")

    found = superfluous(
        Listing([newest, future, former, foreign_one], {}, {}), newest, ["i0"], CREATED_MS + 60_001, 60
    )

    assert found == [future, former]


def test_only_our_own_unfinished_objects_are_abandoned() -> None:
    """After a day nobody can be writing one any more."""
    name = new_name(SHARD, CREATED_MS)
    day_ms = 86_400_000

    assert abandoned(Listing([], {name: ""}, {}), CREATED_MS + day_ms) == []
    assert abandoned(Listing([], {name: ""}, {}), CREATED_MS + day_ms + 1) == [name]
    assert abandoned(Listing([], {}, {name: ""}), CREATED_MS + 2 * day_ms) == []


def test_what_a_newer_version_has_made_goes_by_its_age_alone() -> None:
    """Its manifest says more than this version understands."""
    name = new_name(SHARD, CREATED_MS)

    assert outdated_newer(Listing([], {}, {name: ""}), CREATED_MS + 60_000, 60) == []
    assert outdated_newer(Listing([], {}, {name: ""}), CREATED_MS + 60_001, 60) == [name]


def test_a_snapshot_from_the_future_is_not_kept() -> None:
    """Its maker's clock was wrong, so nobody can tell when it is too old; a little ahead is usual."""
    soon, never = (
        changed(name="soon", created_ms=CREATED_MS + 60_000),
        changed(name="never", created_ms=2**42),
    )

    assert outdated(Listing([MANIFEST, soon, never], {}, {}), CREATED_MS, 60) == [never]


def test_snapshots_from_before_a_marker_leave() -> None:
    """By the digest of who is forgotten. Those of other incarnations and later owners are not judged."""
    now = digest_of({AgentId("a"): Micros(5)})
    others = [
        changed(name="as the owner", forgotten=now),
        changed(name="of a later owner", term=4),
        msgspec.structs.replace(of(incarnation="i0"), name="foreign"),
    ]
    before = [MANIFEST, changed(name="another time", forgotten=digest_of({AgentId("a"): Micros(4)}))]

    assert of_other_markers(Listing([*others, *before], {}, {}), "i1", 3, now) == before


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
        Path("copy"), FORMAT, {**IDENTITY, LAST_RECORD: LAST.text()}, {TOPICS.outcomes: 42}, "", 1, ""
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
    await catalog.fetch(first, tmp_path / "arrived", lambda: parts.append(None))
    assert (tmp_path / "arrived").read_bytes() == (folder / first.name).read_bytes()
    assert parts

    assert contradicted(first, description_of(tmp_path / "arrived"), TOPICS.outcomes) is None

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


async def test_of_a_broken_snapshot_both_objects_are_deleted(tmp_path: Path) -> None:
    """Also of one whose manifest cannot be read; one of a newer version is told apart."""
    path, folder = shard_path(tmp_path, SHARD), tmp_path / "store"
    await (await _filled(path)).close()
    catalog = SnapshotCatalog(open_store(folder.as_uri()))
    torn, newer = await _published(catalog, path), await _published(catalog, path)
    beside = (folder / torn.name).with_suffix(".json")
    beside.write_bytes(beside.read_bytes()[:-1])
    (folder / newer.name).with_suffix(".json").write_bytes(b'{"v":2,"made otherwise":true}')

    found = await catalog.list(SHARD)
    assert found.snapshots == []
    assert list(found.broken) == [torn.name.replace(".sqlite3", ".json")]
    assert found.newer == {
        newer.name.replace(".sqlite3", ".json"): "its manifest has version 2; this worker reads up to 1"
    }

    await catalog.delete([], found.broken)
    assert {each.stem for each in folder.rglob("*") if each.is_file()} == {Path(newer.name).stem}


async def test_a_snapshot_that_is_deleted_while_they_are_listed_is_passed_over(tmp_path: Path) -> None:
    """Its owner prunes: the other ones are found."""
    path, folder = shard_path(tmp_path, SHARD), tmp_path / "store"
    await (await _filled(path)).close()

    class Pruned(RemoteStore):
        async def names(self, folder_name: str) -> list[str]:
            found = await super().names(folder_name)
            (folder / gone.name).with_suffix(".json").unlink()
            return found

    catalog = SnapshotCatalog(Pruned(folder.as_uri()))
    gone, left = await _published(catalog, path), await _published(catalog, path)

    assert await catalog.list(SHARD) == Listing([left], {}, {})


async def test_forgetting_deletes_what_may_have_the_agent(tmp_path: Path) -> None:
    """All from before the marker, and what cannot be judged; what was made afterwards stays."""
    path, folder = shard_path(tmp_path, SHARD), tmp_path / "store"
    await (await _filled(path)).close()
    catalog = SnapshotCatalog(open_store(folder.as_uri()))
    before, newer = await _published(catalog, path), await _published(catalog, path)
    (folder / newer.name).with_suffix(".json").write_bytes(b'{"v":2}')
    after = msgspec.structs.replace(before, name=new_name(SHARD, CREATED_MS), position=44)
    await catalog.publish(tmp_path / "shard-00007.copy", after)
    agent = next(name for number in range(99) if partitioner(12)(name := f"agent-{number}") == SHARD)
    topology = Topology(
        generation=2,
        shards=12,
        cluster_id="c1",
        incarnation="i1",
        owner_group="g",
        topics=OwnTopics.of(TOPICS),
    )

    assert await delete_forgotten(catalog, ForgetMarker(AgentId(agent), Micros(1)), 43, topology) == 1
    assert await catalog.list(SHARD) == Listing([after], {}, {})


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"position": 43}, "its position does not match its manifest"),
        ({"identity": {**IDENTITY, "incarnation": "i2"}}, "its identity does not match its manifest"),
        ({"format": FORMAT - 1}, "its format does not match its manifest"),
        ({"forgotten": "00"}, "its forgotten does not match its manifest"),
        ({"sha256": "00"}, "its sha256 does not match its manifest"),
    ],
)
async def test_a_file_that_has_arrived_has_to_be_its_manifests(
    tmp_path: Path, wrong: dict[str, Any], reason: str
) -> None:
    """Whoever wrote the manifest may have put another file beside it."""
    path = shard_path(tmp_path, SHARD)
    await (await _filled(path)).close()
    copy = await copy_file(path, tmp_path / "copy", (TOPICS.outcomes,))
    manifest = _manifest(copy)
    assert manifest is not None

    assert contradicted(manifest, copy, TOPICS.outcomes) is None
    assert contradicted(msgspec.structs.replace(manifest, **wrong), copy, TOPICS.outcomes) == reason
    assert contradicted(manifest, copy._replace(positions={}), TOPICS.outcomes) is not None


async def test_a_copy_tells_who_is_forgotten_in_it(tmp_path: Path) -> None:
    """By what its file has, whatever memory has read since."""
    path = shard_path(tmp_path, SHARD)
    file = await _filled(path)
    try:
        before = await copy_file(path, tmp_path / "before", (TOPICS.outcomes,))
        await file.write(Checkpoint({}, forgotten={AgentId("a"): Micros(7)}))
        after = await copy_file(path, tmp_path / "after", (TOPICS.outcomes,))
    finally:
        await file.close()

    assert before.forgotten == digest_of({})
    assert after.forgotten == digest_of({AgentId("a"): Micros(7)})
