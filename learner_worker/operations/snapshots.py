"""What operators do with snapshots: publish them from a folder's files, list them, delete them."""

import time
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

from learner_worker.contract.facts import ForgetMarker
from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName, TopicNames, in_first_layout
from learner_worker.contract.topology import Topology
from learner_worker.errors import StateError
from learner_worker.kafka.partitioner import partitioner
from learner_worker.snapshots.catalog import (
    Listing,
    SnapshotCatalog,
    abandoned,
    new_name,
    outdated,
    outdated_newer,
)
from learner_worker.snapshots.manifest import SnapshotManifest, manifest_of
from learner_worker.store.copying import copy_file
from learner_worker.store.replacement import remove
from learner_worker.store.snapshot import snapshot_of
from learner_worker.store.state_folder import wanted_files

_COPY: Final = ".commands-copy"
"""The suffix of a copy; a worker may make copies with another suffix at the same time."""
_COMMANDS_TERM: Final = 0  # earlier than any placement's, so that no owner takes it for that of a later owner


def now_ms() -> int:
    """The time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


async def publish_files(
    state_dir: Path, shards: Collection[ShardId], catalog: SnapshotCatalog, topics: TopicNames
) -> AsyncIterator[SnapshotManifest]:
    """Publishes a snapshot of each file of a folder, or of those of some shards.

    Args:
        topics: the topics of the first layout.

    Raises:
        ConfigurationError: there is no such file.
        StateError: a file cannot be copied, or has read nothing of the changelog yet.
        SnapshotError: the store does not accept it.
    """
    for shard, file in wanted_files(state_dir, shards).items():
        yield await _publish(file, shard, catalog, topics)


async def _publish(
    file: Path, shard: ShardId, catalog: SnapshotCatalog, topics: TopicNames
) -> SnapshotManifest:
    with snapshot_of(file) as snapshot:
        names = {in_first_layout(name): TopicName(name) for name in snapshot.positions()}
    changelog = names.get(topics.outcomes, topics.outcomes)
    target, created_ms = file.with_suffix(_COPY), now_ms()
    try:
        copy = await copy_file(file, target, (changelog, names.get(topics.metrics, topics.metrics)))
        name = new_name(shard, created_ms)
        manifest = manifest_of(copy, changelog, name=name, term=_COMMANDS_TERM, created_ms=created_ms)
        if manifest is None:
            raise StateError(
                f"{file} has not read {changelog} yet, or was last written by an older version: "
                "run a worker of this version on it first"
            )
        await catalog.publish(copy.path, manifest)
    finally:
        remove(target)
    return manifest


async def list_snapshots(
    catalog: SnapshotCatalog, shards: Sequence[ShardId]
) -> AsyncIterator[tuple[ShardId, Listing]]:
    """Lists what the store has for each shard, or for some.

    Raises:
        SnapshotError: the store does not answer.
    """
    for shard in shards or await catalog.shards():
        yield shard, await catalog.list(shard)


async def prune_snapshots(
    catalog: SnapshotCatalog, shards: Sequence[ShardId], keep_seconds: float
) -> AsyncIterator[tuple[ShardId, int]]:
    """Deletes snapshots that are too old, whoever made them; yields their number by shard.

    Raises:
        SnapshotError: the store does not answer.
    """
    async for shard, found in list_snapshots(catalog, shards):
        old, newer = outdated(found, now_ms(), keep_seconds), outdated_newer(found, now_ms(), keep_seconds)
        await catalog.delete(old, [*abandoned(found, now_ms()), *newer])
        yield shard, len(old) + len(newer)


async def delete_forgotten(
    catalog: SnapshotCatalog, marker: ForgetMarker, offset: int, topology: Topology
) -> int:
    """Deletes the snapshots of an agent's shard from before its marker was read; returns their number.

    Those of former layouts are from before the marker, too. Incomplete snapshots, and those that a newer
    version made and this one cannot judge, are also deleted.

    Args:
        offset: the offset of the marker in the changelog.

    Raises:
        SnapshotError: the store does not answer, or refuses; some may remain.
    """
    deleted = 0
    former = {one.incarnation: one.shards for one in topology.former}
    for shard in {partitioner(count)(marker.agent_id) for count in (topology.shards, *former.values())}:
        found = await catalog.list(ShardId(shard))
        leaving = list(_from_before(found.snapshots, offset, topology.incarnation, former))
        await catalog.delete(leaving, [*found.broken, *found.newer])
        deleted += len(leaving)
    return deleted


def _from_before(
    found: Iterable[SnapshotManifest], offset: int, incarnation: str, former: Collection[str]
) -> Iterable[SnapshotManifest]:
    for each in found:
        if each.incarnation in former or (each.incarnation == incarnation and each.position <= offset):
            yield each
