"""Files that whoever renews them replaces while the program runs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from learner_worker.errors import ConfigurationError

_log = structlog.get_logger("learner_worker.credentials")
ContentT = TypeVar("ContentT")
_Version = tuple[tuple[int, int, int], ...]


class WatchedFiles(Generic[ContentT]):
    """What is made of some files; made anew when one of them has changed.

    A change that cannot be used is logged once: what was made last is used until the files can be used again.

    Args:
        make: reads the files. Raises ConfigurationError if they cannot be used.

    Raises:
        ConfigurationError: they cannot be used.
    """

    def __init__(self, paths: Sequence[Path], make: Callable[[], ContentT]) -> None:
        self._paths = paths
        self._make = make
        self._version = self._look()
        self._content = make()
        self._problem = ""

    def current(self) -> ContentT:
        """What the files hold now; looks at them, which takes some microseconds."""
        version = self._look()
        if version != self._version:
            try:
                self._content = self._make()
            except ConfigurationError as error:
                self._report(str(error))
            else:
                self._version, self._problem = version, ""
                _log.info("credentials.changed", files=[str(path) for path in self._paths])
        return self._content

    def _report(self, problem: str) -> None:
        if problem != self._problem:
            _log.error("credentials.unusable", error=problem, remedy="the last ones are used")
        self._problem = problem

    def _look(self) -> _Version:
        return tuple(map(_version, self._paths))


def _version(path: Path) -> tuple[int, int, int]:
    """What changes with the file, also where a link is turned to another file, as Kubernetes does."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)  # a missing file is a change, too: reading it says what is wrong
    return found.st_mtime_ns, found.st_size, found.st_ino
