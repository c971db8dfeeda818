"""The sources of settings, read as people write them: with quotes or a byte-order mark, empty, misspelt.

A name that no setting has is an error: a misspelt setting would otherwise silently keep its default.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, TomlConfigSettingsSource

from learner_worker.errors import Mismatch

SETTINGS_PREFIX: Final = "LEARNER_"
TOML_FILE: Final = "learner-worker.toml"
ENV_FILE: Final = ".env"
FILE_ENCODING: Final = "utf-8-sig"  # some editors begin a UTF-8 file with a byte-order mark
OTHER_VARIABLES: Final = frozenset({"insights_token", "token_file"})
"""What one command alone reads: names that are no setting, and no mistake in the environment either."""
_QUOTES = "\"'"
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")
"""Variables that Kubernetes sets in every pod beside a service, such as LEARNER_WORKER_SERVICE_HOST."""
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


class EnvironmentSource(EnvSettingsSource):
    """Environment variables; a pair of quotes around a value, as `docker --env-file` leaves it, is dropped.

    A secret is taken literally: quotes may belong to it.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value of a field, or None."""
        value, key, is_complex = super().get_field_value(field, field_name)
        if isinstance(value, str) and "Secret" not in str(field.annotation):
            value = _unquoted(value) or None
        return value, key, is_complex


class TomlSource(TomlConfigSettingsSource):
    """A TOML file, with or without a byte-order mark."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        try:
            return tomllib.loads(file_path.read_text(FILE_ENCODING))
        except ValueError as error:
            raise ValueError(f"{TOML_FILE} is no valid TOML: {error}") from error


def _unquoted(value: str) -> str:
    enclosed = len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTES
    return value[1:-1] if enclosed else value


def choices(annotation: Any) -> tuple[str, ...]:
    """The values that a setting may have, if its type lists them."""
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()


# --- names that no setting has ----------------------------------------------------------------------------


def unknown_settings(settings: type[BaseSettings]) -> Iterator[Mismatch]:
    """The names in the environment, `.env` and the TOML file that no setting has, each with the nearest.

    Raises:
        ValueError, OSError: a file cannot be read.
    """
    known = settings.model_fields
    variables = {name for name, value in os.environ.items() if not _is_service_link(name.upper(), value)}
    yield from _unknown("environment variable", variables, known)
    yield from _unknown(f"variable in {ENV_FILE}", DotEnvSettingsSource(settings).env_vars, known)
    yield from _unknown_keys(TomlSource(settings).toml_data, known)


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.search(name) or (name.endswith("_PORT") and _SERVICE_ADDRESS.match(value)))


def _unknown(what: str, names: Iterable[str], known: Collection[str]) -> Iterator[Mismatch]:
    for name in sorted(one.upper() for one in names if one.upper().startswith(SETTINGS_PREFIX)):
        setting = name[len(SETTINGS_PREFIX) :].lower()
        if setting not in known and setting not in OTHER_VARIABLES:
            nearest = _nearest(setting, known)
            advice = f"did you mean {SETTINGS_PREFIX}{nearest.upper()}?" if nearest else _LIST
            yield Mismatch(f"no setting reads the {what} {name}", advice)


def _unknown_keys(content: Mapping[str, object], known: Collection[str]) -> Iterator[Mismatch]:
    for name, value in sorted(content.items()):
        if isinstance(value, dict):
            yield Mismatch(
                f"{TOML_FILE} has a section [{name}], but settings are read from its top level only",
                f"remove the line [{name}]",
            )
        elif name not in known:
            nearest = _nearest(name, known)
            advice = f"did you mean {nearest}?" if nearest else _LIST
            yield Mismatch(f"no setting reads the key {name} in {TOML_FILE}", advice)


_LIST = "remove it; `learner-worker run --help` lists the settings"


def _nearest(setting: str, known: Collection[str]) -> str | None:
    return next(iter(difflib.get_close_matches(setting.lower().replace("-", "_"), known, n=1)), None)
