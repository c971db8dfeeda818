"""The findings of checks, and the report."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

_EXIT_CODES = (0, 0, 1, 2)  # by level: only warnings and errors fail a script


class Level(IntEnum):
    """The severity. A warning may cause trouble later; an error stops a worker or loses outcomes."""

    OK = 0
    NOTE = 1
    WARNING = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and what to do about it; the remedy is empty if nothing has to be done."""

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
        """0 without warnings and errors, 1 with warnings, 2 with errors."""
        return _EXIT_CODES[self.worst]


def ok(what: str) -> Finding:
    """A finding without a problem."""
    return Finding(Level.OK, what)


def note(what: str, remedy: str = "") -> Finding:
    """A finding that is worth knowing."""
    return Finding(Level.NOTE, what, remedy)


def warning(what: str, remedy: str) -> Finding:
    """A finding that may cause trouble later."""
    return Finding(Level.WARNING, what, remedy)


def error(what: str, remedy: str) -> Finding:
    """A finding that stops a worker or loses outcomes."""
    return Finding(Level.ERROR, what, remedy)


def or_ok(findings: Iterable[Finding], what: str) -> list[Finding]:
    """The findings, or a single one without a problem."""
    return list(findings) or [ok(what)]
