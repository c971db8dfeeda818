"""Moves shards' files to the folders of a replica's processes, before these start.

One process has its files in the state folder itself, several have a folder each. The number may change with
each start, so files move, by rename: a crash at any moment leaves each in its old or its new place.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import structlog

from learner_worker.contract.fields import ShardId
from learner_worker.errors import ConfigurationError, StateError
from learner_worker.store.obstacles import obstacle
from learner_worker.store.permissions import private_file, private_folder
from learner_worker.store.process_folders import last_written, process_folder, process_folders, state_folders
from learner_worker.store.replacement import move, remove
from learner_worker.store.state_folder import every_shard_file, locked_state_folder

_ASIDE = ".replaced"
_BESIDE = ("-wal", "-shm")  # SQLite's files beside a shard's
_LOCK = "lock"
_OWN = (_LOCK, "starts", "leave")  # what a process's folder has besides its shards' files
_PATIENCE_SECONDS = 5.0
"""How long a process of a killed parent may take to end: many times what it does take."""
_LOOK_SECONDS = 0.05
"""Short beside the time in which it ends."""
_log = structlog.get_logger("learner_worker.store")


@contextmanager
def arranging_shard_files(state_dir: Path, processes: int) -> Iterator[list[int | None]]:
    """Moves the shards' files, when the block ends, to where this number of processes looks for them.

    The caller holds the lock. Files stay where they are as far as the numbers stay even. Of several files of
    one shard, the one written last is used, and the others are set aside.

    Yields:
        The processes of earlier runs, if anything has to move; None for one that was the only one. The
        block removes their members from the group. If it is interrupted, the next start finds the same
        processes, because nothing has moved yet.

    Raises:
        ConfigurationError: a process of an earlier run still uses its folder.
        StateError: the folder cannot be written.
    """
    wanted = _wanted(state_dir, processes)
    if (used := _used(state_dir)) in ([], wanted):
        yield []
        return
    with ExitStack() as locks:
        for folder in used:
            if folder != state_dir:
                _lock_patiently(locks, folder)
        numbers = {folder: number for number, folder in process_folders(state_dir).items()}
        yield [numbers.get(folder) for folder in used]
        try:
            moved = _move_to(wanted, state_dir)
        except OSError as error:
            raise StateError(
                f"cannot move the files in {state_dir} ({obstacle(state_dir, error)})"
            ) from error
    _log.info("state.arranged", processes=processes, shards_moved=moved)


def _used(state_dir: Path) -> list[Path]:
    """The folders that have shards' files, or in which a process has run."""
    folders = state_folders(state_dir)
    return [each for each in folders if _kept_in(each) or (each != state_dir and (each / _LOCK).exists())]


def _kept_in(folder: Path) -> list[Path]:
    """The shards' files in a folder, including those that were set aside."""
    return [file for file in folder.glob("shard-*.*") if not file.name.endswith(_BESIDE)]


def _move_to(wanted: list[Path], state_dir: Path) -> int:
    """Moves everything to these folders, and removes the others; returns how many shards' files moved."""
    for folder in wanted:
        private_folder(folder)
    moved = _deal(_one_of_each(every_shard_file(state_dir)), wanted)
    for folder in state_folders(state_dir):
        if folder in wanted:
            private_file(folder / _LOCK)  # it counts as used from now on, even without a shard's file
        else:
            _take_set_aside(folder, wanted[0])
            if folder != state_dir:
                _dissolve(folder)
    return moved


def _wanted(state_dir: Path, processes: int) -> list[Path]:
    return [state_dir] if processes == 1 else [process_folder(state_dir, each) for each in range(processes)]


def _lock_patiently(locks: ExitStack, folder: Path) -> None:
    """Locks a process's folder once the process of a killed parent has ended."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            locks.enter_context(locked_state_folder(folder))
        except ConfigurationError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_SECONDS)
        else:
            return


def _one_of_each(files: Iterable[tuple[ShardId, Path]]) -> list[Path]:
    """Sets aside all files of a shard but the first."""
    kept: dict[ShardId, Path] = {}
    for shard, file in files:
        if shard in kept:
            move(file, file.with_suffix(_ASIDE))
        else:
            kept[shard] = file
    return list(kept.values())


def _deal(files: list[Path], wanted: list[Path]) -> int:
    """Moves files so that each folder has its share, as placement shares them out; returns how many moved.

    Those written last come first: the shards that are owned now, so that these are even, too.
    """
    share, larger_shares = divmod(len(files), len(wanted))
    left = {folder: share + (number < larger_shares) for number, folder in enumerate(wanted)}
    displaced = []
    for file in files:
        if left.get(file.parent, 0) > 0:
            left[file.parent] -= 1
        else:
            displaced.append(file)
    for file in displaced:
        folder = max(wanted, key=left.__getitem__)
        left[folder] -= 1
        move(file, folder / file.name)
    return len(displaced)


def _take_set_aside(folder: Path, new: Path) -> None:
    """Moves what was set aside to a folder that a process uses: a worker removes it when its time comes.

    Of several files that were set aside for one shard, the one written last is kept.
    """
    for file in _kept_in(folder):
        if last_written(file) >= last_written(new / file.name):
            move(file, new / file.name)
        else:
            remove(file)
    for left in folder.glob("shard-*.*"):  # by a reader of a file that has moved
        left.unlink(missing_ok=True)


def _dissolve(folder: Path) -> None:
    """Removes the folder of a process that no longer exists."""
    for name in _OWN:
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # it holds something foreign
        folder.rmdir()
