"""A password in a file: every new connection logs in with the one that the file holds then."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from aiokafka.conn import AIOKafkaConnection

from learner_worker.credentials.watched_files import WatchedFiles
from learner_worker.errors import ConfigurationError

_LOGINS: Final = ("authenticator_plain", "authenticator_scram")
"""The methods of aiokafka's connection that begin a login with a password."""


class FilePassword(str):
    """The password in a file when it was first read; `current` is that of now.

    aiokafka keeps a password as text for all connections of a client. It is a text, and aiokafka's logins are
    replaced by such that look into the file first; where aiokafka is built differently, it stays as it was.
    """

    __slots__ = ("_file",)
    _file: WatchedFiles[str]

    @classmethod
    def of(cls, path: Path, flag: str) -> Self:
        """The password in a file.

        Raises:
            ConfigurationError: it cannot be read, or is empty; the message names the setting.
        """
        file = WatchedFiles([path], lambda: secret_in(path, flag))
        password = cls(file.current())
        password._file = file
        _look_before_logins()
        return password

    @property
    def current(self) -> str:
        """The password of now."""
        return self._file.current()


def secret_in(path: Path, flag: str) -> str:
    """The secret in a file, without the end of its line.

    Raises:
        ConfigurationError: it cannot be read, or is empty; the message names the setting, never the content.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot read {path} ({error.strerror}): correct {flag}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no text: correct {flag}") from error
    secret = text.rstrip("\r\n")
    if not secret:
        raise ConfigurationError(f"{path} is empty: write the secret into it, or correct {flag}")
    return secret


_replaced: Final[set[str]] = set()
"""Those of `_LOGINS` that look into the file already, in this process."""


def _look_before_logins() -> None:
    for name in _LOGINS:
        login = getattr(AIOKafkaConnection, name, None)
        if login is not None and name not in _replaced:
            setattr(AIOKafkaConnection, name, _looking(login))
            _replaced.add(name)


def _looking(login: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(login)
    def looking(connection: Any) -> Any:
        password = getattr(connection, "_sasl_plain_password", None)
        if isinstance(password, FilePassword):
            connection._sasl_plain_password = password.current
        return login(connection)

    return looking
