"""The folders of a replica's processes, in its state folder: `run --processes` makes one for each."""

import re
from pathlib import Path

_NAME = re.compile(r"process-(0|[1-9][0-9]*)")


def process_folder(state_dir: Path, number: int) -> Path:
    """The folder of one process."""
    return state_dir / f"process-{number}"


def process_folders(state_dir: Path) -> dict[int, Path]:
    """The processes' folders that are there, by process."""
    found = [(_NAME.fullmatch(each.name), each) for each in state_dir.glob("process-*") if each.is_dir()]
    return dict(sorted((int(match[1]), each) for match, each in found if match is not None))


def state_folders(state_dir: Path) -> list[Path]:
    """Every folder that may hold shard files: the state folder itself, then its processes' folders."""
    return [state_dir, *process_folders(state_dir).values()]


def last_written(path: Path) -> int:
    """When a shard's file or its log was written last, in nanoseconds; 0 if it is gone."""
    return max(_time(path), _time(path.with_name(path.name + "-wal")))


def _time(path: Path) -> int:
    try:
        found = path.stat()
    except OSError:
        return 0
    return found.st_mtime_ns if found.st_size else 0  # a mere reader leaves an empty log
