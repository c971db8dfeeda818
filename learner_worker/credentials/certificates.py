"""Makes the TLS context of Kafka's clients from certificate files; says which of them cannot be used."""

from pathlib import Path
from ssl import PROTOCOL_TLS_CLIENT, SSLContext, SSLError, SSLObject
from typing import Any, Final, Self

from aiokafka.helpers import create_ssl_context

from learner_worker.credentials.watched_files import WatchedFiles
from learner_worker.errors import ConfigurationError

_OPTIONS: Final = ("cafile", "certfile", "keyfile")
_FLAGS: Final = tuple(f"--ssl-{option}" for option in _OPTIONS)


class RenewedContext(SSLContext):
    """A context whose connections use the files as they are when the connection is made."""

    _files: WatchedFiles[SSLContext]

    @classmethod
    def of(cls, files: WatchedFiles[SSLContext]) -> Self:
        """The context of some files."""
        context = cls(PROTOCOL_TLS_CLIENT)
        context._files = files
        return context

    def wrap_bio(self, *arguments: Any, **named: Any) -> SSLObject:
        """Begins the TLS of one connection; event loops make every connection by this method."""
        return self._files.current().wrap_bio(*arguments, **named)


def tls_context(cafile: Path | None, certfile: Path | None, keyfile: Path | None) -> SSLContext:
    """The context; without a CA file this machine's own certificates are trusted.

    New connections use files that have changed since.

    Raises:
        ConfigurationError: a file cannot be read or used; the message names its setting.
    """
    paths = [path for path in (cafile, certfile, keyfile) if path is not None]
    files = WatchedFiles(paths, lambda: _context(cafile, certfile, keyfile))
    return RenewedContext.of(files) if paths else files.current()


def _context(cafile: Path | None, certfile: Path | None, keyfile: Path | None) -> SSLContext:
    files = (cafile, certfile, keyfile)
    for flag, path in zip(_FLAGS, files, strict=True):
        _require_readable(flag, path)
    names = (None if path is None else str(path) for path in files)
    given = ", ".join(flag for flag, path in zip(_FLAGS, files, strict=True) if path is not None)
    try:
        context: SSLContext = create_ssl_context(
            **dict(zip(("cafile", "certfile", "keyfile"), names, strict=True))
        )
    except (SSLError, OSError, ValueError) as error:
        reason = (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
        raise ConfigurationError(
            f"the certificates cannot be used ({reason}): give PEM files, and the key that belongs to the "
            f"certificate ({given})"
        ) from error
    return context


def _require_readable(flag: str, path: Path | None) -> None:
    try:
        if path is not None:
            path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path} ({error.strerror}): correct {flag}") from error
