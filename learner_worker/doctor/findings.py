"""What a check has to say."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

_EXIT_CODES = (0, 0, 1, 2)  # by level: only warnings and errors fail a script


class Level(IntEnum):
    """How bad it is. A warning will hurt one day; an error keeps a worker from its work or loses outcomes."""

    OK = 0
    NOTE = 1
    WARNING = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence on what is, and one on what to do; the second is empty where nothing is to be done."""

    level: Level
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Every finding, with the name of its check, in the order of the checks."""

    findings: Sequence[tuple[str, Finding]]

    @property
    def worst(self) -> Level:
        """The worst level of all findings."""
        return max((finding.level for _, finding in self.findings), default=Level.OK)

    @property
    def exit_code(self) -> int:
        """0 all well or notes only, 1 warnings, 2 errors."""
        return _EXIT_CODES[self.worst]


def ok(what: str) -> Finding:
    """Nothing is wrong."""
    return Finding(Level.OK, what)


def note(what: str, remedy: str = "") -> Finding:
    """Worth knowing."""
    return Finding(Level.NOTE, what, remedy)


def warning(what: str, remedy: str) -> Finding:
    """It will hurt one day."""
    return Finding(Level.WARNING, what, remedy)


def error(what: str, remedy: str) -> Finding:
    """It keeps a worker from its work, or loses outcomes."""
    return Finding(Level.ERROR, what, remedy)


def or_ok(findings: Iterable[Finding], what: str) -> list[Finding]:
    """The findings, or that all is well."""
    return list(findings) or [ok(what)]
