"""Checks for unknown settings: misspelt variables and keys are ignored without an error."""

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Sequence

from learner_worker.doctor.case import Case
from learner_worker.doctor.findings import Finding, or_ok, warning
from learner_worker.settings import SETTINGS_PREFIX, Settings

_TOML = "learner-worker.toml"
_ENV = ".env"


async def check_spelling(case: Case) -> Sequence[Finding]:
    """Checks the names in the environment, `.env` and the TOML file against the known settings."""
    known = set(Settings.model_fields)
    return or_ok(
        [
            *_unread("environment variable", _settings_in(case.environment), known, SETTINGS_PREFIX),
            *_unread(f"variable in {_ENV}", _settings_in(_lines_of(case)), known, SETTINGS_PREFIX),
            *_unread(f"key in {_TOML}", _keys_of(case), known, ""),
        ],
        "every setting that is given is known",
    )


def _unread(what: str, names: Iterable[str], known: set[str], prefix: str) -> Iterator[Finding]:
    for name in names:
        setting = name[len(prefix) :].lower()
        if setting not in known:
            close = difflib.get_close_matches(setting, known, n=1)
            meant = f"write {_variable(close[0], prefix)}" if close else "see `learner-worker run --help`"
            yield warning(f"no setting reads the {what} {name}", f"{meant}, or remove it")


def _variable(setting: str, prefix: str) -> str:
    return f"{prefix}{setting.upper()}" if prefix else setting


def _settings_in(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.upper().startswith(SETTINGS_PREFIX))


def _lines_of(case: Case) -> list[str]:
    path = case.folder / _ENV
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    assigned = [line.strip().removeprefix("export ").partition("=") for line in lines]
    return [name.strip() for name, sign, _ in assigned if sign and not name.startswith("#")]


def _keys_of(case: Case) -> list[str]:
    path = case.folder / _TOML
    return sorted(tomllib.loads(path.read_text("utf-8"))) if path.is_file() else []
