"""`import`: publishes a swarm's own record of its auctions as events."""

import asyncio
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from learner_worker.commands.options import CONNECTION, TOPICS, client_options, given, settings_flags
from learner_worker.commands.printing import escaped, work_on_without_stdout
from learner_worker.observability import configure_logging
from learner_worker.operations.import_report import ImportReport, ReportedRows
from learner_worker.operations.importing import SwarmImport, reading_swarm_file
from learner_worker.settings import Settings


@click.command("import")
@click.argument("file", metavar="SWARM.DB", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Read and check the file; without Kafka, nothing is sent.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@settings_flags(*CONNECTION, *TOPICS, "group_id", "outcome_retention_seconds", "auction_horizon_seconds")
def import_swarm(file: Path, *, dry_run: bool, as_json: bool, **flags: Any) -> None:
    """Publish the outcomes in SWARM.DB, an SQLite file with a table task_outcomes, as events.

    Every row becomes a bid, every task a close and, if its winner's task_succeeded is known, a result. Rows
    that break the contract are refused and listed. The file and its folder are never written to; the topics
    must exist. Repeating an import changes nothing.

    Exit code 0: everything was sent but what the report lists as refused. 1: Kafka failed, or there is no
    room for temporary files: repeat it. 2: the file is missing, locked, damaged or not a swarm's, or
    something is wrong in what was asked or configured; nothing was sent.
    """
    work_on_without_stdout()
    settings = given(flags)
    configure_logging(level="error")
    logging.getLogger("learner_worker.client").setLevel(logging.CRITICAL)  # it ends up in the error
    with _progress() as bars, reading_swarm_file(file, bars) as found:
        report = found.rehearse(settings) if dry_run else _send(found, settings, bars)
    click.echo(_json(report) if as_json else "\n".join(map(escaped, _lines(report))))


def _send(found: SwarmImport, settings: Settings, bars: "_Bars") -> ImportReport:
    return asyncio.run(found.send(settings, client_options(settings), bars, _say))


def _say(line: str) -> None:
    click.echo(line, err=True)


class _Bars:
    """A progress bar for each step, on a terminal."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._current: TaskID | None = None

    def begin(self, step: str, total: int) -> None:
        """Adds the step's bar."""
        self._current = self._bars.add_task(step, total=total)

    def advance(self, count: int) -> None:
        """Advances the bar."""
        if self._current is not None:
            self._bars.advance(self._current, count)


@contextmanager
def _progress() -> Iterator[_Bars]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bars:
        yield _Bars(bars)


def _json(report: ImportReport) -> str:
    return msgspec.json.format(msgspec.json.encode(report, enc_hook=str), indent=2).decode()


def _lines(report: ImportReport) -> Iterator[str]:
    yield f"{report.file}: {_counted(report.rows, 'row')}"
    sent, uncounted = ("would send", "will not count") if report.dry_run else ("sent", "sent, will not count")
    counts = {"bid": report.bids, "close": report.closes, "result": report.results}
    yield f"{sent} {', '.join(_counted(count, name) for name, count in counts.items())}"
    yield from _section("refused", report.refused)
    yield from _section("known otherwise before this import", report.different)
    yield from _section(uncounted, report.not_counted)
    if report.other_tables:
        yield f"not read: the tables {', '.join(report.other_tables)}"


def _section(title: str, findings: list[ReportedRows]) -> Iterator[str]:
    if not findings:
        return
    yield f"{title}:"
    for finding in findings:
        yield f"  {_counted(finding.rows, 'row')} ({finding.reason}): {finding.meaning}"
        yield from (f"    {example}" for example in finding.examples)
        if more := finding.rows - len(finding.examples):
            yield f"    and {more:,} more"


def _counted(count: int, name: str) -> str:
    return f"{count:,} {name}" if count == 1 else f"{count:,} {name}s"
