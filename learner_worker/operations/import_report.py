"""The report of an import: rows read, events sent, rows refused, and findings."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

EXAMPLES: Final = 5
"""Examples of each kind: enough to find the cause, few enough to read."""
_SHOWN_CHARACTERS: Final = 80  # a value fits on one line


class ReportedRows(msgspec.Struct):
    """The rows with one finding.

    Attributes:
        reason: its short name.
        meaning: the reason in words.
        rows: number of rows.
        examples: descriptions of some of them.
    """

    reason: str
    meaning: str
    rows: int
    examples: list[str]


class ImportReport(msgspec.Struct):
    """The result of an import, or with `dry_run` of one that sends nothing.

    Attributes:
        rows: rows of `task_outcomes`; each is either a bid or refused.
        bids, closes, results: events sent.
        refused: rows that did not become events.
        different: rows whose events were sent, although the learner knew other values.
        not_counted: rows whose events were sent, but are before a cutoff or a forgotten agent's time.
        other_tables: tables of the file that are not read.
    """

    file: Path
    dry_run: bool
    rows: int
    bids: int
    closes: int
    results: int
    refused: list[ReportedRows]
    different: list[ReportedRows]
    not_counted: list[ReportedRows]
    other_tables: list[str]


class RowsByReason:
    """Counts rows by reason, and keeps the first examples of each.

    Args:
        meanings: the reasons in words, in the order of the report.
    """

    def __init__(self, meanings: Mapping[str, str]) -> None:
        self._found = {reason: ReportedRows(reason, meaning, 0, []) for reason, meaning in meanings.items()}

    def add(self, reason: str, example: str) -> None:
        """Adds a row."""
        finding = self._found[reason]
        finding.rows += 1
        if len(finding.examples) < EXAMPLES:
            finding.examples.append(example)

    def put(self, reason: str, rows: int, examples: Iterable[str]) -> None:
        """Sets the rows of a reason, which were counted elsewhere."""
        finding = self._found[reason]
        finding.rows, finding.examples = rows, list(examples)

    def listed(self) -> list[ReportedRows]:
        """The reasons that have rows."""
        return [finding for finding in self._found.values() if finding.rows]


def shown(value: Any) -> str:
    """A value of the file as one line of Unicode text; long ones are truncated."""
    text = repr(value) if not isinstance(value, int) or isinstance(value, bool) else str(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
