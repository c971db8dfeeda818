"""What the page of the workers shows: each part found apart from the others, and within a time."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from learner_worker.contract.times import format_time, record_micros
from learner_worker.doctor import Finding, examine
from learner_worker.doctor.examination import CHECKS
from learner_worker.group.topology_view import Layout
from learner_worker.insights.group_view import GroupLook
from learner_worker.insights.kept import KeptAnswer, or_problem
from learner_worker.insights.replicas import ReplicaAnswer, ask_replicas, shard_states
from learner_worker.kafka.polling import Gap
from learner_worker.operations.dead_letters import DeadLetter, DeadLetterIndex, reading_dead_letters
from learner_worker.settings import Settings

_PATIENCE_SECONDS = 8.0  # what a person waits for a page; a healthy cluster is looked at in a second or two
_VIEW_SECONDS = 2.0  # however many look, Kafka is asked at most this often
_DEAD_LETTERS_SECONDS = 10.0  # a few hundred records of each partition are read
_FINDINGS_SECONDS = 60.0  # an examination reads samples of every topic
_LOOK_SECONDS = 10.0  # so closely the lag in seconds is known while nobody looks
_NEWEST_RECORDS = 200  # of each partition: marks of handled dead letters take offsets, too
_SHOWN = 25  # dead letters: what goes wrong now; `dead-letters list` has all
_LONGEST_TEXT = 300  # characters: whoever may write dead letters chooses their headers
_OF_A_WORKERS_MACHINE: Final = frozenset({"state folder", "state files", "open files"})
"""Checks of a folder and of limits that insights do not have."""


class DeadLetterRow(NamedTuple):
    """A dead letter, as the page shows it.

    Attributes:
        handled: `replayed` or `dropped`; empty while it is open.
    """

    at: str
    id: str
    origin: str
    reason: str
    message: str
    handled: str


class WorkersWatch:
    """Looks at the workers for whoever asks; an answer serves everyone for a while."""

    def __init__(self, settings: Settings, layout: Layout) -> None:
        self._settings = settings
        self._layout = layout
        self._owner = layout.owner(settings.given_group, settings.group_id)
        self._group_id = layout.events_group(settings.given_group, settings.group_id)
        self._look = GroupLook(settings, layout, self._group_id)
        self._view = KeptAnswer(self._look.look, seconds=_VIEW_SECONDS, patience_seconds=_PATIENCE_SECONDS)
        self._dead_letters = KeptAnswer(
            self._read_dead_letters, seconds=_DEAD_LETTERS_SECONDS, patience_seconds=_PATIENCE_SECONDS
        )
        self._findings = KeptAnswer(
            self._examine, seconds=_FINDINGS_SECONDS, patience_seconds=_PATIENCE_SECONDS
        )
        self._urls = settings.worker_url or ()
        self._replicas = KeptAnswer(
            lambda: ask_replicas(self._urls), seconds=_VIEW_SECONDS, patience_seconds=_PATIENCE_SECONDS
        )
        self._since = datetime.now(UTC)

    async def run(self) -> None:
        """Looks now and then, so that the lag in seconds is known before anybody asks; until cancelled."""
        try:
            while True:
                await or_problem(self._view.get())  # the page says what is wrong
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await self._view.close()
            await self._look.close()

    async def shown(self) -> dict[str, Any]:
        """Everything that the page shows; a part that is not found has its problem instead."""
        view, replicas, dead_letters, findings = await asyncio.gather(
            or_problem(self._view.get()),
            or_problem(self._replicas.get()),
            or_problem(self._dead_letters.get()),
            or_problem(self._findings.get()),
        )
        if isinstance(replicas, str):
            replicas = [ReplicaAnswer(", ".join(self._urls), problem=replicas)]
        return {
            "group_id": self._group_id,
            "shards": self._layout.shards,
            "looked_at": f"{datetime.now(UTC):%H:%M:%S} UTC",
            "since": f"{self._since:%Y-%m-%d %H:%M:%S} UTC",
            "view": view,
            "asked": bool(self._urls),
            "replicas": replicas,
            "states": shard_states(replicas),
            "dead_letters": dead_letters,
            "findings": findings,
        }

    async def _read_dead_letters(self) -> Sequence[DeadLetterRow]:
        settings = self._settings
        async with (
            asyncio.timeout(_DEAD_LETTERS_SECONDS),
            reading_dead_letters(
                settings.connection(),
                self._layout.names.dead_letters,
                patience_seconds=settings.startup_timeout_seconds,
                tell=_pass_over,
            ) as reader,
        ):
            index = await reader.list_newest(_NEWEST_RECORDS)
        return [_row(one, index) for one in index.dead_letters[: -_SHOWN - 1 : -1]]

    async def _examine(self) -> Sequence[tuple[str, Finding]]:
        checks = [check for check in CHECKS if check.name not in _OF_A_WORKERS_MACHINE]
        settings = self._settings.model_copy(update={"group_id": self._owner})
        return (await examine(settings, checks=checks, role="insights")).findings


def _row(dead_letter: DeadLetter, index: DeadLetterIndex) -> DeadLetterRow:
    return DeadLetterRow(
        format_time(record_micros(dead_letter.timestamp_ms)),
        str(dead_letter.id),
        dead_letter.origin[:_LONGEST_TEXT],
        dead_letter.reason[:_LONGEST_TEXT],
        dead_letter.message[:_LONGEST_TEXT],
        index.handled.get(dead_letter.id, ""),
    )


def _pass_over(_: Gap) -> None:
    """Does nothing: doctor's check of headers reports unreadable records."""
