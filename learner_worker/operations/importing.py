"""import: publishes the outcomes that a swarm recorded in an SQLite file as events.

1. The file is read in one pass into a temporary database (`import_staging.py`); rows that break the contract
   are refused. From then on the file is not needed.
2. The changelog is read: what the learner knows already may stand against the file, and is reported.
3. Of each task its bids, its close and its winner's result are published, close together. Their records have
   the time of sending, the events the times of the rows, so a repeated import publishes equal events.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from learner_worker.client import EventPublisher
from learner_worker.contract.times import Micros
from learner_worker.domain.outcomes import Cutoff
from learner_worker.errors import BrokerError
from learner_worker.operations.changelog import Changelog, open_changelog
from learner_worker.operations.cutoffs import Cutoffs, committed_cutoffs
from learner_worker.operations.import_differences import (
    NOT_COUNTED,
    differences,
    not_counted,
    read_changelog,
)
from learner_worker.operations.import_report import ImportReport, ReportedRows, RowsByReason
from learner_worker.operations.import_staging import Staging, StandingRow, staged
from learner_worker.operations.progress import StepProgress
from learner_worker.settings import Settings

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)  # the zero of times in microseconds
_MICROS: Final = 1_000_000  # microseconds in a second
_SENDING: Final[dict[str, Any]] = {
    "linger_ms": 5,  # fewer, larger requests: an import does not wait for single events
    "max_batch_size": 128 * 1024,  # aiokafka holds back what does not fit into a partition's open batch
    "request_timeout_ms": 30_000,  # Kafka's own default: a busy broker may take its time with large requests
}
_UNACKNOWLEDGED_EVENTS: Final = 4_000
"""Enough to keep every partition's batch full; an unacknowledged event takes some kilobytes."""
_UNACKNOWLEDGED_CHARACTERS: Final = 4_000_000
"""Characters of descriptions: bounds memory if they are long."""
_SEND_SECONDS: Final = 120.0
"""Time limit for an event's acknowledgement: Kafka's own default of `delivery.timeout.ms`."""

Say = Callable[[str], None]


class SwarmImport:
    """A file that was read and checked, ready to be sent."""

    def __init__(self, path: Path, staging: Staging, other_tables: list[str]) -> None:
        self._path = path
        self._staging = staging
        self._other_tables = other_tables

    def rehearse(self, settings: Settings) -> ImportReport:
        """Reports what would be sent, without Kafka; retention is taken from the settings alone."""
        cutoffs = Cutoffs(1, {}, _configured(settings), {})
        counted = RowsByReason(NOT_COUNTED)
        if cutoffs.exist:
            for row in (row for rows in self._staging.tasks() for row in rows):
                _judge(row, cutoffs, counted)
        return self._report([], counted.listed(), dry_run=True)

    async def send(
        self, settings: Settings, kafka_options: Mapping[str, Any], progress: StepProgress, say: Say
    ) -> ImportReport:
        """Compares the file with what the learner knows, then publishes everything.

        Args:
            kafka_options: how the publisher reaches Kafka, besides its address.
            progress: shows the progress.
            say: is called with every unreadable record in Kafka.

        Raises:
            BrokerError: Kafka cannot be reached or did not take an event; some may have been sent.
            ConfigurationError: topics are missing, or their partition counts differ.
            UpgradeRequiredError: a newer learner wrote to the changelog.
        """
        async with open_changelog(settings, say) as changelog:
            await read_changelog(changelog, self._staging, progress)
        cutoffs = await self._cutoffs(settings, changelog)
        different = differences(self._staging, cutoffs)
        counted = RowsByReason(NOT_COUNTED)
        publisher = EventPublisher(
            settings.bootstrap_servers,
            topics=settings.topics(),
            timeout_seconds=_SEND_SECONDS,
            kafka_options={**_SENDING, **kafka_options},
            client_id=settings.client_id,
        )
        async with publisher as events:
            await _Sending(events, cutoffs, counted, progress).run(self._staging)
        return self._report(different, counted.listed(), dry_run=False)

    async def _cutoffs(self, settings: Settings, changelog: Changelog) -> Cutoffs:
        committed = await committed_cutoffs(settings, changelog.group_id, changelog.topic)
        return Cutoffs(changelog.partitions, committed, _configured(settings), self._staging.forgotten())

    def _report(
        self, different: list[ReportedRows], counted: list[ReportedRows], *, dry_run: bool
    ) -> ImportReport:
        totals = self._staging.totals()
        return ImportReport(
            file=self._path,
            dry_run=dry_run,
            rows=totals.rows,
            bids=totals.bids,
            closes=totals.closes,
            results=totals.results,
            refused=self._staging.refused(),
            different=different,
            not_counted=counted,
            other_tables=self._other_tables,
        )


@contextmanager
def reading_swarm_file(path: Path, progress: StepProgress) -> Iterator[SwarmImport]:
    """Reads and checks a swarm's file.

    Raises:
        ConfigurationError: the file is missing, locked, damaged or not a swarm's.
        StateError: there is no room for the temporary database.
    """
    with staged(path, progress) as (staging, other_tables):
        yield SwarmImport(path, staging, other_tables)


class _Sending:
    """Publishes tasks; a bounded number of events waits for its acknowledgement."""

    def __init__(
        self, events: EventPublisher, cutoffs: Cutoffs, counted: RowsByReason, progress: StepProgress
    ) -> None:
        self._events = events
        self._cutoffs = cutoffs
        self._counted = counted
        self._progress = progress
        self._unacknowledged: deque[tuple[Any, int]] = deque()
        self._characters = 0
        self._tasks = 0

    async def run(self, staging: Staging) -> None:
        """Sends everything and waits until Kafka has acknowledged it."""
        totals = staging.totals()
        self._progress.begin("sending", totals.bids)
        try:
            for rows in staging.tasks():
                await self._task(rows)
                self._tasks += 1
            await self._events.flush()
        except BrokerError as error:
            raise BrokerError(
                f"{error} Of {totals.closes:,} tasks about {self._tasks:,} were sent: repeat the import, "
                "copies do no harm"
            ) from error

    async def _task(self, rows: Iterator[StandingRow]) -> None:
        count, row = 0, None
        for number, row in enumerate(rows, 1):
            _judge(row, self._cutoffs, self._counted)
            await self._bid(row)
            count = number
        if row is not None:
            await self._close(row)
        self._progress.advance(count)

    async def _bid(self, row: StandingRow) -> None:
        sent = await self._events.bid_placed(
            row.task_id,
            row.agent_id,
            bid_sats=row.bid_sats,
            description=row.description,
            placed_at=_moment(row.placed_at),
            wait=False,
        )
        await self._hold(sent, len(row.description))

    async def _close(self, row: StandingRow) -> None:
        """Sends how the task of a row ended."""
        closed_at = _moment(row.closed_at)
        sent = await self._events.auction_closed(
            row.task_id,
            winner_agent_id=row.winner,
            winning_bid_sats=row.winning_bid_sats,
            closed_at=closed_at,
            wait=False,
        )
        await self._hold(sent, 0)
        if row.winner is not None and row.succeeded is not None:
            sent = await self._events.task_finished(
                row.task_id, row.winner, succeeded=bool(row.succeeded), finished_at=closed_at, wait=False
            )
            await self._hold(sent, 0)

    async def _hold(self, sent: Any, characters: int) -> None:
        """Waits for the oldest events while too much is unacknowledged."""
        self._unacknowledged.append((sent, characters))
        self._characters += characters
        while (
            len(self._unacknowledged) > _UNACKNOWLEDGED_EVENTS
            or self._characters > _UNACKNOWLEDGED_CHARACTERS
        ):
            oldest, freed = self._unacknowledged.popleft()
            self._characters -= freed
            await oldest


def _judge(row: StandingRow, cutoffs: Cutoffs, counted: RowsByReason) -> None:
    reason = not_counted(row, cutoffs)
    if reason is not None:
        counted.add(reason, f"task {row.task_id}, agent {row.agent_id}, closed at {_moment(row.closed_at)}")


def _configured(settings: Settings) -> Cutoff | None:
    """The cutoff that a worker with these settings would have now."""
    if settings.outcome_retention_seconds is None:
        return None
    oldest = time.time_ns() // 1000 - round(settings.outcome_retention_seconds * _MICROS)
    grace = round(settings.auction_horizon_seconds * _MICROS)
    return Cutoff(Micros(oldest), Micros(oldest - grace))


def _moment(micros: Micros) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
