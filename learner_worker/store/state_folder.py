"""The state folder: the shards' files of one worker, which locks it."""

import asyncio
import os
import re
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.errors import ConfigurationError, StateError
from learner_worker.store.copying import FileCopy, copy_file, description_of
from learner_worker.store.identity import shard_identity, stranger
from learner_worker.store.needs import lacking_space
from learner_worker.store.obstacles import obstacle
from learner_worker.store.permissions import private_file, private_folder
from learner_worker.store.process_folders import last_written, state_folders
from learner_worker.store.replacement import replace
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.store.statements import statement
from learner_worker.unix import FCNTL

_FILE = re.compile(r"shard-([0-9]{5,})\.sqlite3")
_COPY, _ARRIVING = ".copy", ".arriving"
"""Suffixes of a snapshot on its way to the store and from the store."""


def shard_files(path: Path) -> dict[ShardId, Path]:
    """The shards' files in a folder and its processes' folders, by shard: of several the one written last.

    There are none if there is no such folder.

    Raises:
        ConfigurationError: it cannot be read.
    """
    newest: dict[ShardId, Path] = {}
    for shard, file in every_shard_file(path):
        newest.setdefault(shard, file)
    return dict(sorted(newest.items()))


def every_shard_file(path: Path) -> list[tuple[ShardId, Path]]:
    """All of the shards' files in a folder and its processes' folders, those that were written last first.

    Raises:
        ConfigurationError: it cannot be read.
    """
    folders = state_folders(path)
    try:
        paths = [each for folder in folders for each in sorted(folder.iterdir())]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigurationError(f"cannot read the state folder {path} ({obstacle(path, error)})") from error
    found = [(_FILE.fullmatch(each.name), each) for each in paths]
    files = [(ShardId(int(match[1])), each) for match, each in found if match is not None]
    return sorted(files, key=lambda each: last_written(each[1]), reverse=True)


def wanted_files(path: Path, shards: Collection[ShardId]) -> dict[ShardId, Path]:
    """The files of the given shards in a folder; of all shards that have one, if none is given.

    Raises:
        ConfigurationError: there is no such file, or the folder cannot be read.
    """
    files = shard_files(path)
    if not files:
        raise no_shard_files(path)
    for shard in shards:
        if shard not in files:
            raise ConfigurationError(f"the state folder {path} has no file of shard {shard}")
    return {shard: files[shard] for shard in shards or files}


def no_shard_files(path: Path) -> ConfigurationError:
    """The error for a folder without any shard's file."""
    what = "holds no shard's file" if path.is_dir() else "does not exist"
    return ConfigurationError(f"the state folder {path} {what}: set --state-dir to a worker's state folder")


@contextmanager
def locked_state_folder(path: Path) -> Iterator[Path]:
    """Creates the folder if necessary and holds its lock; the lock ends with the process.

    Raises:
        ConfigurationError: it cannot be written or locked, or another worker uses it.
        StateError: its disk is full.
    """
    if FCNTL is None:
        raise ConfigurationError(
            "a worker needs Linux or macOS, whose locks keep its state folder to itself: run it there; the "
            "client library and the commands that ask Kafka work here"
        )
    try:
        private_folder(path)
        private_file(path / "lock")
        handle = os.open(path / "lock", os.O_RDWR)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to the state folder {path} ({obstacle(path, error)})"
        ) from error
    try:
        _lock(handle, path)
        for lack in lacking_space(path):
            raise StateError(str(lack.error()))
        _name_owner(handle, path)
        yield path
    finally:
        os.close(handle)


def lock_owner(path: Path) -> str | None:
    """The process id of the worker that uses the folder; None if no worker does."""
    if FCNTL is None:
        return None
    try:
        handle = os.open(path / "lock", os.O_RDWR)
    except OSError:
        return None
    try:
        FCNTL.flock(handle, FCNTL.LOCK_EX | FCNTL.LOCK_NB)
    except OSError:
        return named_owner(handle)
    finally:
        os.close(handle)
    return None


def named_owner(handle: int) -> str:
    """The process id that an open lock file names, or `unknown`."""
    return os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"


def _lock(handle: int, path: Path) -> None:
    try:
        FCNTL.flock(handle, FCNTL.LOCK_EX | FCNTL.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigurationError(
            f"the state folder {path} is in use by another worker (process {named_owner(handle)}): "
            "stop that worker, or set --state-dir to another folder"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"cannot lock the state folder {path} ({obstacle(path, error)})") from error


def _name_owner(handle: int, path: Path) -> None:
    try:
        os.truncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
    except OSError as error:
        raise StateError(f"cannot write {path / 'lock'} ({obstacle(path, error)})") from error


def held_shards(
    path: Path, identity_of: Callable[[ShardId], Mapping[str, str]], topic: TopicName
) -> dict[ShardId, int]:
    """The shards that have a file in the folder, each with its position in a topic.

    Files of another cluster, prefix or partition count, and unreadable ones, are left out: opening one
    reports the error.
    """
    return {
        shard: positions[topic]
        for shard, _, whose, positions in _read(path)
        if whose and stranger(whose, identity_of(shard)) is None and topic in positions
    }


def filed_identities(path: Path) -> dict[Path, Mapping[str, str]]:
    """What the shards' files in the folder say of themselves; unreadable ones are left out."""
    return {file: whose for _, file, whose, _ in _read(path) if whose}


def _read(path: Path) -> Iterator[tuple[ShardId, Path, dict[str, str], dict[str, int]]]:
    """Each shard's file that can be read, with its identity and its positions."""
    for shard, file in shard_files(path).items():
        try:
            with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
                whose = dict(connection.execute(statement("load_identity")))
                positions = dict(connection.execute(statement("load_positions")))
        except sqlite3.Error:
            continue
        yield shard, file, whose, positions


class StateFolder:
    """The shards' files of one replica.

    Args:
        path: the folder, locked by this process.
        cluster_id: the Kafka cluster that the files belong to.
        topic_prefix: the prefix of the topics that they are built from.
        partitions: the partition count of those topics.
        incarnation, generation: what their record says, if there is one.
    """

    def __init__(
        self,
        path: Path,
        *,
        cluster_id: str,
        topic_prefix: str,
        partitions: int,
        incarnation: str | None = None,
        generation: int | None = None,
    ) -> None:
        self._path = path
        self._cluster_id = cluster_id
        self._topic_prefix = topic_prefix
        self._partitions = partitions
        self._incarnation = incarnation
        self._generation = generation

    async def open(self, shard_id: ShardId) -> ShardFile:
        """Opens a shard's file; creates it if there is none.

        Raises:
            ConfigurationError: it belongs to another cluster, prefix or partition count.
            StateError: it cannot be opened.
        """
        return await ShardFile.open(shard_path(self._path, shard_id), self.identity_of(shard_id))

    async def positions(self, topic: TopicName) -> Mapping[ShardId, int]:
        """The shards that have a file in the folder, each with its position in a topic."""
        return await asyncio.to_thread(held_shards, self._path, self.identity_of, topic)

    async def is_missing(self, shard_id: ShardId) -> bool:
        """Whether a shard has no file."""
        return not await asyncio.to_thread(shard_path(self._path, shard_id).exists)

    async def copy(self, shard_id: ShardId, topics: Collection[TopicName]) -> FileCopy:
        """Copies the rows of a shard's file, which may be in use; `discard` removes the copy.

        Args:
            topics: the topics whose positions the copy keeps.

        Raises:
            StateError: the file cannot be read, or there is no space.
        """
        path = shard_path(self._path, shard_id)
        return await copy_file(path, path.with_suffix(_COPY), topics)

    def remove_copies(self) -> None:
        """Removes the copies that a killed worker has left.

        Raises:
            StateError: the folder cannot be written.
        """
        try:
            for suffix in (_COPY, _ARRIVING):
                for path in self._path.glob(f"shard-*{suffix}"):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"cannot clear {self._path} ({obstacle(self._path, error)})") from error

    def arriving(self, shard_id: ShardId) -> Path:
        """The path for a copy that `take` then puts in place."""
        return shard_path(self._path, shard_id).with_suffix(_ARRIVING)

    async def describe(self, path: Path) -> FileCopy:
        """What is in a copy.

        Raises:
            StateError: it cannot be read, or is damaged.
        """
        return await asyncio.to_thread(description_of, path)

    async def take(self, shard_id: ShardId, path: Path) -> None:
        """Turns a copy into the file of a shard that has none.

        Raises:
            StateError: the folder cannot be written.
        """
        taking = asyncio.create_task(asyncio.to_thread(replace, shard_path(self._path, shard_id), path))
        try:
            await asyncio.shield(taking)
        finally:  # even when cancelled: whoever opens the shard next must not find its file replaced
            await asyncio.wait([taking])

    async def discard(self, path: Path) -> None:
        """Removes a copy, if it is there.

        Raises:
            StateError: the folder cannot be written.
        """
        try:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        except OSError as error:
            raise StateError(f"cannot remove {path} ({obstacle(path, error)})") from error

    def identity_of(self, shard_id: ShardId) -> dict[str, str]:
        """The identity that a shard's file must have."""
        return shard_identity(
            cluster_id=self._cluster_id,
            topic_prefix=self._topic_prefix,
            partitions=self._partitions,
            shard=shard_id,
            incarnation=self._incarnation,
            generation=self._generation,
        )
