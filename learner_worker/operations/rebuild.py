"""Rebuilds a shard's file from Kafka, while no worker uses the folder."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from learner_worker.contract.fields import ShardId
from learner_worker.errors import ConfigurationError, UnreadableFileError
from learner_worker.operations.changelog import Changelog
from learner_worker.shard.pacing import Pacing
from learner_worker.shard.replay import ChangelogReplay
from learner_worker.store.replacement import remove, replace
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.store.snapshot import snapshot_of
from learner_worker.store.state_folder import shard_files


class Rebuilt(msgspec.Struct, frozen=True):
    """The result of a rebuild.

    Attributes:
        records: number of changelog records read.
        position: the file's changelog position.
        kept: the path of the old file; None if there was none.
    """

    shard: int
    path: str
    records: int
    position: int
    outcomes: int
    agents: int
    kept: str | None


async def rebuild(state_dir: Path, shards: Sequence[ShardId], changelog: Changelog) -> AsyncIterator[Rebuilt]:
    """Rebuilds the given shards' files; the caller must hold the folder's lock.

    The new file holds the changelog's state only, so the next worker to open it reads the sources again, as
    after losing its disk, but has its outcomes already.

    Raises:
        ConfigurationError: there is no such shard, its file belongs to another cluster, or the file has read
            more than Kafka still has.
        BrokerError: Kafka stopped answering; the old file is in its place.
        StateError: the new file cannot be written; the old one is in its place.
    """
    files = shard_files(state_dir)
    for shard in shards:
        _require_shard(shard, changelog)
        if shard in files:
            await _require_sound_changelog(files[shard], shard, changelog)
    for shard in shards:
        yield await _rebuild(files.get(shard, shard_path(state_dir, shard)), shard, changelog)


def _require_shard(shard: ShardId, changelog: Changelog) -> None:
    if shard >= changelog.partitions:
        raise ConfigurationError(
            f"there is no shard {shard}: {changelog.topic} has {changelog.partitions} partitions, from 0"
        )


async def _require_sound_changelog(path: Path, shard: ShardId, changelog: Changelog) -> None:
    """Refuses if the file is ahead of the changelog: it may be the only copy of what Kafka lost."""
    try:
        with snapshot_of(path) as snapshot:
            changelog.require_same(snapshot, shard)
            position = snapshot.position(changelog.topic)
    except UnreadableFileError:
        return  # nothing can be read from it, so there is nothing to protect
    _, end = await changelog.range_of(shard)
    if position > end:
        raise ConfigurationError(
            f"{changelog.topic} ends at offset {end} in shard {shard}, but {path} has read up to {position}: "
            "Kafka lost records that this file may still hold; start the worker, which writes them again"
        )


async def _rebuild(path: Path, shard: ShardId, changelog: Changelog) -> Rebuilt:
    new = path.with_suffix(".rebuilding")
    remove(new)
    try:
        replay = await _replay(new, shard, changelog)
        with snapshot_of(new) as snapshot:
            counts = snapshot.counts()
        kept = replace(path, new)
    finally:
        remove(new)
    return Rebuilt(
        shard,
        path=str(path),
        records=replay.records,
        position=replay.position,
        outcomes=counts.outcomes,
        agents=counts.agents,
        kept=None if kept is None else str(kept),
    )


async def _replay(new: Path, shard: ShardId, changelog: Changelog) -> ChangelogReplay:
    offsets = await changelog.range_of(shard)
    file = await ShardFile.open(new, changelog.identity(shard))
    try:
        replay = await ChangelogReplay.open(
            file,
            changelog.topic,
            cached_agents=changelog.cached_agents,
            pacing=Pacing(),
            strategies=changelog.strategies,
        )
        await changelog.replay(replay, shard, offsets)
    finally:
        await file.close()
    return replay
