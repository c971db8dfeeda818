"""Processor time: of this process, and from /proc of others and of their threads."""

import os
import resource
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM = 1, 11, 12  # places in /proc/PID/stat after the state


class Meter:
    """Time and processor time of this process from now on, in seconds.

    `loop` is the calling thread's processor time, `others` that of all other threads, and `kernel` the part
    of both that was spent in the kernel.
    """

    def __init__(self) -> None:
        self._began = self._now()

    def used(self) -> dict[str, float]:
        """What was used since."""
        return {name: now - self._began[name] for name, now in self._now().items()}

    @staticmethod
    def _now() -> dict[str, float]:
        loop = time.thread_time()
        return {
            "seconds": time.perf_counter(),
            "loop": loop,
            "others": time.process_time() - loop,
            "kernel": resource.getrusage(resource.RUSAGE_SELF).ru_stime,
        }


class Used(NamedTuple):
    """Processor time in seconds, in user and in system mode.

    Attributes:
        loops: of the workers' main threads, which run their event loops.
        others: of their other threads: nearly all of it the state files'.
        broker: of the broker.
    """

    loops: float = 0.0
    others: float = 0.0
    broker: float = 0.0

    def until(self, later: "Used", part: float = 1.0) -> "Used":
        """The difference to a later reading, or a part of it."""
        return Used(*(part * (after - before) for before, after in zip(self, later, strict=True)))

    def plus(self, more: "Used") -> "Used":
        """The sum of both."""
        return Used(*(one + other for one, other in zip(self, more, strict=True)))

    def micros(self, events: float) -> "Used":
        """Each event's share, in µs."""
        return Used(*(each / events * 1e6 for each in self))


def used_by(workers: Iterable[int], broker: Iterable[int]) -> Used:
    """What some workers have used with all of their child processes, and a broker; each given by its pids."""
    total = loops = 0.0
    for worker in workers:
        for pid in (worker, *descendants(worker)):
            total += _seconds(_PROC / str(pid))
            loops += _seconds(_PROC / str(pid) / "task" / str(pid))
    return Used(loops, total - loops, sum(_seconds(_PROC / str(pid)) for pid in broker))


def descendants(pid: int) -> list[int]:
    """The child processes of a process that run now, and theirs."""
    children: dict[int, list[int]] = {}
    for folder in _PROC.glob("[0-9]*"):
        fields = _fields(folder)
        if fields:
            children.setdefault(int(fields[_PARENT]), []).append(int(folder.name))
    return list(_below(pid, children))


def _below(pid: int, children: dict[int, list[int]]) -> Iterator[int]:
    for child in children.get(pid, ()):
        yield child
        yield from _below(child, children)


def _seconds(folder: Path) -> float:
    """What a process or a thread has used; 0 if it has ended."""
    fields = _fields(folder)
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS if fields else 0.0


def _fields(folder: Path) -> list[str]:
    try:
        return (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
