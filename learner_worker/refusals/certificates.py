"""Makes the TLS context of Kafka's clients from certificate files; says which of them cannot be used."""

from pathlib import Path
from ssl import SSLContext, SSLError
from typing import Final

from aiokafka.helpers import create_ssl_context

from learner_worker.errors import ConfigurationError

_OPTIONS: Final = ("cafile", "certfile", "keyfile")
_FLAGS: Final = tuple(f"--ssl-{option}" for option in _OPTIONS)


def tls_context(cafile: Path | None, certfile: Path | None, keyfile: Path | None) -> SSLContext:
    """The context; without a CA file this machine's own certificates are trusted.

    Raises:
        ConfigurationError: a file cannot be read or used; the message names its setting.
    """
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
