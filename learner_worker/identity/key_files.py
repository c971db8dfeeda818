"""The files of keys, read again when they change: keys are rotated without a restart."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

from learner_worker.errors import ConfigurationError
from learner_worker.identity.keys import KeySet, VerificationKey

_LOOK_SECONDS: Final = 1.0
"""Between two looks at the files: a rotated key counts as soon as anybody can tell, and a look is cheap."""
_MAX_FILE_BYTES: Final = 1024 * 1024  # far above 64 large keys: another file was named by mistake
_log = structlog.get_logger("learner_worker.identity")
KeyReader = Callable[[bytes], list[VerificationKey]]
_Version = tuple[tuple[int, int, int], ...]


class KeyFiles:
    """The keys in files. A file that becomes unreadable is logged once; its last keys stay valid.

    Args:
        readers: how the keys of each file are read.
        monotonic: the clock that the looks are timed by.

    Raises:
        ConfigurationError: a file cannot be read or used.
    """

    def __init__(self, readers: Mapping[Path, KeyReader], monotonic: Callable[[], float]) -> None:
        self._readers = readers
        self._monotonic = monotonic
        self._version = self._look()
        self._keys = self._read()
        self._problem = ""
        self._look_at = monotonic() + _LOOK_SECONDS

    def current(self) -> KeySet:
        """The keys that are valid now."""
        now = self._monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            self._read_if_changed()
        return self._keys

    def _read_if_changed(self) -> None:
        try:
            version = self._look()
            if version == self._version:
                self._problem = ""
                return
            self._keys = self._read()
        except ConfigurationError as error:
            self._report(str(error))
            return
        self._version, self._problem = version, ""
        _log.info("identity.keys_changed", keys=len(self._keys.fingerprints))

    def _report(self, problem: str) -> None:
        if problem != self._problem:
            _log.error(
                "identity.keys_unusable", error=problem, remedy="until it is repaired the last keys count"
            )
        self._problem = problem

    def _look(self) -> _Version:
        return tuple(map(_version, self._readers))

    def _read(self) -> KeySet:
        return KeySet([key for path, reader in self._readers.items() for key in read_keys(path, reader)])


def read_keys(path: Path, reader: KeyReader) -> list[VerificationKey]:
    """The keys in a file.

    Raises:
        ConfigurationError: it cannot be read or used; the message names it.
    """
    try:
        return reader(_content(path))
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _version(path: Path) -> tuple[int, int, int]:
    """What changes with the file, also where a link is turned to another file, as Kubernetes does."""
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path} ({error.strerror})") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot be read ({error.strerror})") from error
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigurationError(f"over {_MAX_FILE_BYTES} bytes, which no file of keys has")
    return content
