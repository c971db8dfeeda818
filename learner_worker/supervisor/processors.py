"""How many processes `--processes auto` starts: one for each processor that this process may use."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")
_BYTES_OF_PROCESS: Final = 512 * 1024**2
"""A process with some hundred thousand cached agents; less would trade speed for being killed."""


def affordable_processes(root: Path = _ROOT) -> int:
    """Processors by affinity and the cgroup's quota, as far as the cgroup's memory is enough."""
    limits = [_available(), *_limits(root)]
    return max(1, int(min(limits)))


def _available() -> float:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _limits(root: Path) -> list[float]:
    """What the cgroup limits, in processes: of version 2, or of version 1."""
    found = [
        _limit(root / "cpu.max", _quota),
        _limit(root / "cpu" / "cpu.cfs_quota_us", lambda text: _old_quota(text, root)),
        _limit(root / "memory.max", _memory),
        _limit(root / "memory" / "memory.limit_in_bytes", _memory),
    ]
    return [limit for limit in found if limit is not None]


def _limit(path: Path, read: Callable[[str], float | None]) -> float | None:
    try:
        return read(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no cgroup of that version, or no limit ("max")
        return None


def _quota(text: str) -> float:
    quota, period = map(int, text.split())
    return quota / period


def _old_quota(text: str, root: Path) -> float | None:
    quota = int(text)
    if quota < 0:  # no limit
        return None
    return quota / int((root / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii"))


def _memory(text: str) -> float:
    return max(1.0, int(text) / _BYTES_OF_PROCESS)
