"""The snapshots in a store, by shard: each has an object with the file, and one with a manifest.

A manifest is written only when its file is complete, so a file without one is still being written, or was
never finished. Names consist of the time and a random part. No two are the same, so nothing is ever
overwritten, not even by a stalled owner.
"""

import re
import uuid
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from learner_worker.contract.fields import ShardId
from learner_worker.errors import ManifestError, MissingObjectError, NewerManifestError
from learner_worker.snapshots.manifest import (
    SnapshotManifest,
    decode_manifest,
    encode_manifest,
    is_from_the_future,
    is_too_old,
)
from learner_worker.snapshots.object_store import ObjectStore, OnProgress

_FILE, _MANIFEST = ".sqlite3", ".json"
_NAME: Final = re.compile(r"shard-([0-9]{5,})/([0-9]{13})-[0-9a-f]{32}\.(sqlite3|json)")
_MILLIS: Final = 1_000  # milliseconds in a second
_UNFINISHED_MS: Final = 86_400_000
"""The age at which nobody can still be writing a file without a manifest: a day."""


class Listing(NamedTuple):
    """What the store holds for a shard.

    Attributes:
        snapshots: the complete snapshots.
        broken: why each other snapshot is useless, by the name of one of its two objects.
        newer: the same for snapshots that a newer version made.
    """

    snapshots: list[SnapshotManifest]
    broken: dict[str, str]
    newer: dict[str, str]


class SnapshotCatalog:
    """Reads and writes the snapshots of a store.

    Every method raises SnapshotError if the store does not answer, or refuses.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def shards(self) -> list[ShardId]:
        """The shards for which the store has anything."""
        found = map(_NAME.fullmatch, await self._store.names(""))
        return sorted({ShardId(int(match[1])) for match in found if match is not None})

    async def list(self, shard_id: ShardId) -> Listing:
        """The snapshots of a shard."""
        names = set(filter(_NAME.fullmatch, await self._store.names(folder_of(shard_id))))
        found = Listing([], {}, {})
        for name in sorted(names):
            if not name.endswith(_MANIFEST):
                if _beside(name, _MANIFEST) not in names:
                    found.broken[name] = "it has no manifest"
            elif _beside(name, _FILE) not in names:
                found.broken[name] = "its file is missing"
            else:
                await self._read(name, found)
        return found

    async def _read(self, name: str, found: Listing) -> None:
        try:
            manifest = decode_manifest(await self._store.get(name))
        except MissingObjectError:
            return  # somebody has deleted the snapshot since the names were listed
        except NewerManifestError as error:
            found.newer[name] = str(error)
        except ManifestError as error:
            found.broken[name] = str(error)
        else:
            if manifest.name == _beside(name, _FILE):
                found.snapshots.append(manifest)
            else:
                found.broken[name] = f"its manifest is that of {manifest.name}"

    async def publish(self, path: Path, manifest: SnapshotManifest) -> None:
        """Puts a copy into the store under the manifest's name: the file first, then the manifest."""
        await self._store.upload(manifest.name, path)
        await self._store.put(_beside(manifest.name, _MANIFEST), encode_manifest(manifest))

    async def fetch(self, manifest: SnapshotManifest, path: Path, on_progress: OnProgress) -> None:
        """Writes a snapshot's file to a path."""
        await self._store.download(manifest.name, path, manifest.size, on_progress)

    async def delete(self, manifests: Collection[SnapshotManifest], broken: Iterable[str] = ()) -> None:
        """Deletes snapshots, and others by the name of one of their objects; manifests first."""
        names = [*(manifest.name for manifest in manifests), *broken]
        await self._store.delete([_beside(name, _MANIFEST) for name in names])
        await self._store.delete([_beside(name, _FILE) for name in names])


def folder_of(shard_id: ShardId) -> str:
    """The folder of a shard's snapshots."""
    return f"shard-{shard_id:05d}"


def new_name(shard_id: ShardId, created_ms: int) -> str:
    """A unique name for the next snapshot of a shard."""
    return f"{folder_of(shard_id)}/{created_ms:013d}-{random_part()}{_FILE}"


def random_part() -> str:
    """The part that makes a name unique."""
    return uuid.uuid4().hex


def _beside(name: str, suffix: str) -> str:
    return name.rpartition(".")[0] + suffix


def superseded(found: Listing, newest: SnapshotManifest) -> list[SnapshotManifest]:
    """The snapshots that a new one makes superfluous: of those made before it the last one stays.

    A replica may be reading that one. Those of other incarnations are not considered. Those made later, or
    under a later term, are another owner's: then this owner has lost the shard.
    """
    before = sorted(
        (
            each
            for each in found.snapshots
            if each.incarnation == newest.incarnation
            and each.name != newest.name
            and each.created_ms <= newest.created_ms
            and each.term <= newest.term
        ),
        key=lambda each: each.age_order,
    )
    return before[:-1]


def of_other_markers(found: Listing, incarnation: str, term: int, forgotten: str) -> list[SnapshotManifest]:
    """The snapshots of an incarnation in which others are forgotten than a digest says.

    They were made before a marker that the owner has read, so the agent may be in them. Those of a later
    term are of another owner, as in `superseded`.
    """
    return [
        each
        for each in found.snapshots
        if each.incarnation == incarnation and each.term <= term and each.forgotten != forgotten
    ]


def superfluous(
    found: Listing, newest: SnapshotManifest, former: Collection[str], now_ms: int, keep_seconds: float
) -> list[SnapshotManifest]:
    """The snapshots that an owner deletes once a new one is there, which stays whatever a clock says.

    Args:
        former: the incarnations besides its own whose snapshots are the owner's to judge, by their age.
    """
    known, earlier = {newest.incarnation, *former}, superseded(found, newest)
    old = [each for each in outdated(found, now_ms, keep_seconds) if each.incarnation in known]
    return [each for each in found.snapshots if each.name != newest.name and (each in earlier or each in old)]


def outdated(found: Listing, now_ms: int, keep_seconds: float) -> list[SnapshotManifest]:
    """The snapshots that are too old, or whose age is unknown because their maker's clock was wrong."""
    return [
        each
        for each in found.snapshots
        if is_too_old(each, now_ms, keep_seconds) or is_from_the_future(each, now_ms)
    ]


def abandoned(found: Listing, now_ms: int) -> Sequence[str]:
    """The names of objects that will never be complete."""
    return _older(found.broken, now_ms - _UNFINISHED_MS)


def outdated_newer(found: Listing, now_ms: int, keep_seconds: float) -> Sequence[str]:
    """The names of what a newer version has made and that is older than it may get."""
    return _older(found.newer, now_ms - round(keep_seconds * _MILLIS))


def _older(names: Iterable[str], than_ms: int) -> Sequence[str]:
    return [name for name in names if _created_ms(name) < than_ms]


def _created_ms(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match[2]) if match is not None else 0
