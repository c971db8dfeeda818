"""Processor time of other processes and of their threads, from /proc."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM = 1, 11, 12  # places in /proc/PID/stat after the state


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
        """A part of what was used from now on until later."""
        return Used(*(part * (after - before) for before, after in zip(self, later, strict=True)))

    def plus(self, more: "Used") -> "Used":
        """Both together."""
        return Used(*(one + other for one, other in zip(self, more, strict=True)))

    def micros(self, events: float) -> "Used":
        """Each event's share, in µs."""
        return Used(*(each / events * 1e6 for each in self))


def used_by(workers: Iterable[int], broker: Iterable[int]) -> Used:
    """What some workers, given by their pids, have used with all their children, and what a broker has."""
    total = loops = 0.0
    for worker in workers:
        for pid in (worker, *descendants(worker)):
            total += _seconds(_PROC / str(pid))
            loops += _seconds(_PROC / str(pid) / "task" / str(pid))
    return Used(loops, total - loops, sum(_seconds(_PROC / str(pid)) for pid in broker))


def descendants(pid: int) -> list[int]:
    """The children of a process that run now, and theirs."""
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
