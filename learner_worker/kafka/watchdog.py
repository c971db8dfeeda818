"""Whether the Kafka clients still move: positions against ends, checkpoints, membership.

aiokafka's clients may stand still after a broker came back, without an error. The watchdog only suspects;
whoever asks it finds out whether Kafka is there at all, and builds the clients anew if it is.
"""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.kafka.outage import Outage

_ALL_SECONDS = 60.0
_ONE_SECONDS = 300.0
_JOIN_SECONDS = 120.0
_CHECKPOINT_SECONDS = 120.0
SILENCE_SECONDS = 60.0
_END_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Reading:
    """How far a consumer has read.

    Attributes:
        positions: the next offset of every partition that is being read.
        ends: where Kafka says they end; empty if the consumer's connection does not answer.
    """

    positions: Mapping[TopicPartition, int] = field(default_factory=dict)
    ends: Mapping[TopicPartition, int] = field(default_factory=dict)

    def behind(self) -> dict[TopicPartition, int]:
        """The positions of the partitions that have more to read."""
        positions = self.positions.items()
        return {place: position for place, position in positions if position < self.ends.get(place, 0)}


@dataclass(frozen=True, slots=True)
class Observation:
    """What the loops look like at one moment.

    Attributes:
        failing: what needs Kafka and did not work the last time it was tried.
        settled: every shard that the group gave this replica is open.
        checkpoints: how many checkpoints have succeeded so far.
        readings: how far each consumer has read, by what it reads.
    """

    failing: frozenset[str]
    settled: bool
    checkpoints: int
    readings: Mapping[str, Reading]


async def look(
    what: str, consumer: AIOKafkaConsumer | None, positions: Mapping[TopicPartition, int], outage: Outage
) -> Reading:
    """Asks a consumer's own connection where the partitions end that it is reading.

    It may be the first to notice that Kafka is away: a poll only brings nothing then. Without a consumer, or
    anything that it reads, nothing is missed.
    """
    noticed_by = f"asking for the ends of {what}"
    ends: Mapping[TopicPartition, int] = {}
    try:
        if positions and consumer is not None:
            async with asyncio.timeout(_END_SECONDS):
                ends = await consumer.end_offsets(list(positions))
    except (KafkaError, TimeoutError) as error:
        outage.failed(noticed_by, error)
    else:
        outage.worked(noticed_by)
    return Reading(positions, ends)


class Watchdog:
    """Remembers since when something does not move.

    Args:
        checkpoint_seconds: how long this worker waits from one checkpoint to the next.
    """

    def __init__(self, checkpoint_seconds: float = 0.0) -> None:
        self._checkpoint_seconds = checkpoint_seconds + _CHECKPOINT_SECONDS
        self._since: dict[str, float] = {}
        self._before = Observation(frozenset(), settled=True, checkpoints=0, readings={})
        self._opening_goes_on = False
        self.all_has_moved = False
        """Whether once, since it began, nothing at all stood still."""

    def opening_goes_on(self) -> None:
        """Says that a shard was opened, or that one which takes long is on its way."""
        self._opening_goes_on = True

    def judge(self, now: float, seen: Observation) -> str | None:
        """What has stood still for too long, in words; None if nothing has."""
        suspicions = dict(self._suspicions(seen))
        self._since = {what: self._since.get(what, now) for what in suspicions}
        self._before = seen
        self._opening_goes_on = False
        self.all_has_moved |= not suspicions
        return next((what for what, seconds in suspicions.items() if now - self._since[what] > seconds), None)

    def forgive(self) -> None:
        """Kafka is away: nothing can move, and waiting begins anew when it is back."""
        self._since.clear()

    def _suspicions(self, seen: Observation) -> Iterator[tuple[str, float]]:
        for what in sorted(seen.failing):
            yield f"{what} fails again and again", SILENCE_SECONDS
        if not seen.settled and not self._opening_goes_on:
            yield "the group gives this replica no shards, or they do not open", _JOIN_SECONDS
        if seen.checkpoints == self._before.checkpoints:
            yield "no checkpoint succeeds", self._checkpoint_seconds
        for name, reading in seen.readings.items():
            yield from self._suspicions_of(name, reading, self._before.readings.get(name, Reading()))

    @staticmethod
    def _suspicions_of(name: str, now: Reading, before: Reading) -> Iterator[tuple[str, float]]:
        behind = now.behind()
        still = [place for place, position in behind.items() if position == before.positions.get(place)]
        for place in still:
            yield f"{place.topic}/{place.partition} is not read on", _ONE_SECONDS
        if still and len(still) == len(behind):
            yield f"nothing of {name} is read on", _ALL_SECONDS
