"""Moves shards' files to the folders of a replica's processes, before these start.

One process has its files in the state folder itself, several have a folder each. The number may change with
each start, so files move, by rename: a crash at any moment leaves each in its old or its new place.
"""

import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

import structlog

from learner_worker.contract.fields import ShardId
from learner_worker.errors import ConfigurationError, StateError
from learner_worker.store.obstacles import obstacle
from learner_worker.store.permissions import private_folder
from learner_worker.store.process_folders import last_written, process_folder, process_folders
from learner_worker.store.replacement import move
from learner_worker.store.state_folder import every_shard_file, locked_state_folder

_ASIDE = ".replaced"
_OWN = ("lock", "starts", "leave")  # what a process's folder has besides its shards' files
_PATIENCE_SECONDS = 5.0
"""How long a process of a killed parent may take to end: many times what it does take."""
_LOOK_SECONDS = 0.05
"""Short beside the time in which it ends."""
_log = structlog.get_logger("learner_worker.store")


def arrange_shard_files(state_dir: Path, processes: int) -> list[int | None]:
    """Moves the shards' files to where this number of processes looks for them; the caller holds the lock.

    Files stay where they are as far as that is even. Of several files of one shard the one written last
    stays, and the others are set aside.

    Returns:
        The processes that had files, if any have moved; None for one that was the only one.

    Raises:
        ConfigurationError: a process of an earlier run still uses its folder.
        StateError: the folder cannot be written.
    """
    wanted = _wanted(state_dir, processes)
    former = _owners(state_dir)
    in_place = all(folder in wanted for folder in former)
    if not former or (in_place and all(folder.is_dir() for folder in wanted)):
        return []
    try:
        with ExitStack() as locks:
            for folder in process_folders(state_dir).values():
                _lock_patiently(locks, folder)
            for folder in wanted:
                private_folder(folder)
            moved = _deal(_one_of_each(every_shard_file(state_dir)), wanted)
        _dissolve(state_dir, set(process_folders(state_dir).values()) - set(wanted))
    except OSError as error:
        raise StateError(f"cannot move the files in {state_dir} ({obstacle(state_dir, error)})") from error
    _log.info("state.arranged", processes=processes, shards_moved=moved)
    return list(former.values())


def _owners(state_dir: Path) -> dict[Path, int | None]:
    """The folders that have shards' files, each with its process."""
    numbers: dict[Path, int | None] = {folder: each for each, folder in process_folders(state_dir).items()}
    return {file.parent: numbers.get(file.parent) for _, file in every_shard_file(state_dir)}


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
    homeless = []
    for file in files:
        if left.get(file.parent, 0) > 0:
            left[file.parent] -= 1
        else:
            homeless.append(file)
    for file in homeless:
        folder = max(wanted, key=left.__getitem__)
        left[folder] -= 1
        move(file, folder / file.name)
    return len(homeless)


def _dissolve(state_dir: Path, folders: Iterable[Path]) -> None:
    """Removes folders of processes that there are no more; what was set aside in them moves up.

    Of several files that were set aside for one shard, the one written last is kept.
    """
    for folder in folders:
        for name in _OWN:
            (folder / name).unlink(missing_ok=True)
        for file in folder.glob("shard-*"):
            if last_written(file) >= last_written(state_dir / file.name):
                file.replace(state_dir / file.name)
            else:
                file.unlink()
        with suppress(OSError):  # something of somebody else's is in it
            folder.rmdir()
