"""What an import read, sent, refused and found."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

EXAMPLES: Final = 5
"""Examples of each kind: enough to find the cause, few enough to read."""
_SHOWN_CHARACTERS: Final = 80  # a value fits on one line


class ReportedRows(msgspec.Struct):
    """How many rows one thing is to be said of, and which.

    Attributes:
        reason: its short name.
        meaning: the reason in words.
        rows: how many rows.
        examples: some of them in words.
    """

    reason: str
    meaning: str
    rows: int
    examples: list[str]


class ImportReport(msgspec.Struct):
    """What an import did, or with `dry_run` would do.

    Attributes:
        rows: rows of `task_outcomes`; each is either a bid or refused.
        bids, closes, results: events sent.
        refused: rows that did not become events.
        different: rows whose events were sent, but the learner knew otherwise before.
        not_counted: rows whose events were sent, but they lie before a retention or a forgotten agent's time.
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
        """One more row."""
        finding = self._found[reason]
        finding.rows += 1
        if len(finding.examples) < EXAMPLES:
            finding.examples.append(example)

    def put(self, reason: str, rows: int, examples: Iterable[str]) -> None:
        """So many rows, which were counted elsewhere."""
        finding = self._found[reason]
        finding.rows, finding.examples = rows, list(examples)

    def listed(self) -> list[ReportedRows]:
        """The reasons that have rows."""
        return [finding for finding in self._found.values() if finding.rows]


def shown(value: Any) -> str:
    """A value of the file in one line of Unicode text, long ones cut off."""
    text = repr(value) if not isinstance(value, int) or isinstance(value, bool) else str(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
