"""What `make chaos` prints: one row a section, and everything that does not hold."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from tests.programs.chaos.scene import Report

_COLUMNS = ("fault", "times", "lost", "duplicated", "wrong answers", "seconds without an answer", "besides")


@dataclass(frozen=True, slots=True)
class Row:
    """One section's result; a count that a section does not take is None.

    Attributes:
        silent_seconds: of every fault the worst shard's seconds without an answer.
        notes: what is worth knowing besides.
        failures: everything that does not hold, in words.
    """

    fault: str
    times: int
    lost: int | None = None
    duplicated: int | None = None
    wrong: int | None = None
    silent_seconds: Sequence[float] = ()
    notes: Sequence[str] = ()
    failures: Sequence[str] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, counted twice or answered wrongly, and nothing else failed."""
        return not (self.lost or self.duplicated or self.wrong or self.failures)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {**asdict(self), "holds": self.holds}


def row_of(fault: str, times: int, report: Report, *notes: str) -> Row:
    """The row of a scene's report."""
    return Row(
        fault=fault,
        times=times,
        lost=report.lost,
        duplicated=report.duplicated,
        wrong=report.wrong,
        silent_seconds=report.silent_seconds,
        notes=[
            f"{report.events:,} events, {report.outcomes:,} outcomes",
            f"a replica held {report.peak_mebibytes} MiB at most",
            *notes,
        ],
        failures=report.failures,
    )


def table_of(rows: Sequence[Row]) -> Table:
    """The rows, for a terminal."""
    table = Table(*_COLUMNS)
    for row in rows:
        counts = ("-" if count is None else f"{count}" for count in (row.lost, row.duplicated, row.wrong))
        table.add_row(row.fault, f"{row.times:,}", *counts, _silence(row), "\n".join(row.notes))
    return table


def failures_of(rows: Sequence[Row]) -> Iterator[str]:
    """Everything that does not hold."""
    return (f"{row.fault}: {failure}" for row in rows for failure in row.failures)


def _silence(row: Row) -> str:
    if not row.silent_seconds:
        return "-"
    return f"median {statistics.median(row.silent_seconds):.1f}, worst {max(row.silent_seconds):.1f}"
