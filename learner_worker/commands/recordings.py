"""Where the laboratory's recorded auctions come from: Kafka, a swarm's SQLite file, or an export."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from learner_worker.commands.options import given
from learner_worker.contract.advice import AdviceRecord
from learner_worker.domain.outcomes import Outcome
from learner_worker.errors import ConfigurationError
from learner_worker.laboratory.advice import advised_auctions
from learner_worker.laboratory.recording import RecordedAuction, auctions_of, read_recording
from learner_worker.observability import configure_logging
from learner_worker.operations.recorded import logged_advice, recorded_outcomes, swarm_outcomes
from learner_worker.operations.swarm_file import is_database
from learner_worker.settings import Settings


class Recorded:
    """The auctions in Kafka, and the advice log."""

    def __init__(self, outcomes: Sequence[Outcome], advice: Sequence[AdviceRecord]) -> None:
        self.advice = advice
        self.auctions = advised_auctions(outcomes, advice)


def recorded_in_kafka(settings: Settings) -> Recorded:
    """What Kafka has."""
    configure_logging(level="error")

    async def read() -> Recorded:
        return Recorded(await recorded_outcomes(settings, _say), await logged_advice(settings, _say))

    return asyncio.run(read())


def recorded_auctions_of(recording: Path | None, flags: dict[str, Any]) -> list[RecordedAuction]:
    """The auctions of a recording; without one those in Kafka, which the settings' flags name.

    Raises:
        ConfigurationError: there are none, or the file is neither a swarm's nor an export.
    """
    if recording is None:
        auctions = recorded_in_kafka(given(flags)).auctions
    elif is_database(recording):
        auctions = auctions_of(swarm_outcomes(recording, _Quiet()))
    else:
        return read_recording(recording)
    if not auctions:
        raise ConfigurationError(f"{recording or 'Kafka'} has no outcomes: there is nothing to play again")
    return auctions


class _Quiet:
    """Shows no progress: reading takes seconds."""

    def begin(self, step: str, total: int) -> None:
        """Nothing."""

    def advance(self, count: int) -> None:
        """Nothing."""


def _say(line: str) -> None:
    click.echo(line, err=True)
