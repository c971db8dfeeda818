"""The contents of a state folder, read without a broker, even while a worker runs."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from learner_worker.contract.fields import ShardId
from learner_worker.contract.times import Micros, format_time
from learner_worker.errors import StateError, UnreadableFileError
from learner_worker.store.process_folders import state_folders
from learner_worker.store.snapshot import Snapshot, snapshot_of
from learner_worker.store.state_folder import no_shard_files, shard_files

_KEPT = ("damaged", "newer", "replaced", "rebuilding")
_NANOS_IN_MICRO = 1_000  # nanoseconds in a microsecond


class FileSize(msgspec.Struct, frozen=True):
    """A file on disk: sizes in bytes, time as RFC 3339 text."""

    path: str
    file_bytes: int
    wal_bytes: int
    modified: str


class Contents(msgspec.Struct, frozen=True):
    """The contents of a shard's file.

    Attributes:
        outcomes: rows that count.
        invisible: rows that do not count (yet).
        metrics_due: agents whose metrics record is still to be written.
    """

    cluster_id: str
    topic_prefix: str
    partitions: str
    format: int
    outcomes: int
    invisible: int
    agents: int
    metrics_due: int
    keywords: int
    open_auctions: int
    closed_auctions: int
    positions: dict[str, int]


class ShardOverview(msgspec.Struct, frozen=True, omit_defaults=True):
    """A shard's file: its contents, or its problem (`damaged`, `newer`, `empty`, `unreadable`)."""

    shard: int
    file: FileSize
    contents: Contents | None = None
    problem: str | None = None
    detail: str | None = None


class FolderOverview(msgspec.Struct, frozen=True):
    """A state folder: its shards' files, and the files set aside."""

    state_dir: str
    shards: list[ShardOverview]
    set_aside: list[FileSize]


def overview(state_dir: Path) -> FolderOverview:
    """Reads the contents of a folder.

    Raises:
        ConfigurationError: it does not exist, or holds no shard's file.
    """
    shards = [_shard(shard, path) for shard, path in shard_files(state_dir).items()]
    set_aside = [_size(path) for path in _set_aside(state_dir)]
    if not shards and not set_aside:
        raise no_shard_files(state_dir)
    return FolderOverview(str(state_dir), shards, set_aside)


def _shard(shard: ShardId, path: Path) -> ShardOverview:
    try:
        with snapshot_of(path) as snapshot:
            return ShardOverview(shard, _size(path), _contents(snapshot))
    except UnreadableFileError as error:
        return ShardOverview(shard, _size(path), problem=error.kind, detail=str(error))
    except StateError as error:
        return ShardOverview(shard, _size(path), problem="unreadable", detail=str(error))


def _contents(snapshot: Snapshot) -> Contents:
    identity, counts = snapshot.identity(), snapshot.counts()
    return Contents(
        cluster_id=identity.get("cluster_id", ""),
        topic_prefix=identity.get("topic_prefix", ""),
        partitions=identity.get("partitions", ""),
        format=snapshot.format,
        outcomes=counts.outcomes,
        invisible=counts.rows - counts.outcomes,
        agents=counts.agents,
        metrics_due=counts.unpublished,
        keywords=counts.keywords,
        open_auctions=counts.open_auctions,
        closed_auctions=counts.closed_auctions,
        positions=snapshot.positions(),
    )


def _set_aside(state_dir: Path) -> Iterator[Path]:
    for why in _KEPT:
        for folder in state_folders(state_dir):
            yield from sorted(folder.glob(f"shard-*.{why}"))


def _size(path: Path) -> FileSize:
    file_bytes, changed = _bytes_and_time(path)
    wal_bytes, logged = _bytes_and_time(path.with_name(path.name + "-wal"))
    modified = format_time(Micros(max(changed, logged) // _NANOS_IN_MICRO))
    return FileSize(str(path), file_bytes, wal_bytes, modified)


def _bytes_and_time(path: Path) -> tuple[int, int]:
    """A file's size in bytes and its time in nanoseconds; zeros if a worker removed it meanwhile."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
