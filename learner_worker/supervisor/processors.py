"""How many processes `--processes auto` starts: one for each processor that this process may use."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")
_MEMBERSHIP: Final = Path("/proc/self/cgroup")
_BYTES_OF_PARENT: Final = 128 * 1024**2
"""The parent itself takes some 80 MiB; the rest is for joining the metrics of all processes."""
_BYTES_OF_PROCESS: Final = 512 * 1024**2
"""A process with some hundred thousand cached agents; less would trade speed for being killed."""


def affordable_processes(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int:
    """Processors by affinity and the cgroup's quota, as far as the cgroup's memory is enough.

    Args:
        root: where the cgroups are mounted, version 2 or version 1.
        membership: the file that names the cgroups of this process.
    """
    limits = [limit for folder in _cgroups(root, membership) for limit in _limits(folder)]
    return max(1, int(min([_available(), *limits])))


def _available() -> float:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cgroups(root: Path, membership: Path) -> Iterator[Path]:
    """This process's cgroups and those above them, whose limits also apply to it."""
    for mount, path in ((root, ""), (root / "cpu", "cpu"), (root / "memory", "memory")):
        own = mount / _path_of(path, membership)
        yield from (own, *(each for each in own.parents if each.is_relative_to(mount)))


def _path_of(controller: str, membership: Path) -> str:
    """The cgroup's path below its mount; empty in a container, which sees only its own."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    paths = [
        path for _, names, path in (line.split(":", 2) for line in lines) if controller in names.split(",")
    ]
    return "" if not paths or ".." in paths[0].split("/") else paths[0].lstrip("/")


def _limits(folder: Path) -> list[float]:
    """The limits of a cgroup, in processes."""
    found = [
        _limit(folder / "cpu.max", _quota),
        _limit(folder / "cpu.cfs_quota_us", lambda text: _old_quota(text, folder)),
        _limit(folder / "memory.max", _memory),
        _limit(folder / "memory.limit_in_bytes", _memory),
    ]
    return [limit for limit in found if limit is not None]


def _limit(path: Path, read: Callable[[str], float | None]) -> float | None:
    try:
        return read(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such cgroup, or no limit ("max")
        return None


def _quota(text: str) -> float:
    quota, period = map(int, text.split())
    return quota / period


def _old_quota(text: str, folder: Path) -> float | None:
    quota = int(text)
    if quota < 0:  # no limit
        return None
    return quota / int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))


def _memory(text: str) -> float:
    return (int(text) - _BYTES_OF_PARENT) / _BYTES_OF_PROCESS
