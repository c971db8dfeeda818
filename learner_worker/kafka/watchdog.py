"""Detects Kafka clients that make no progress, from positions, end offsets, checkpoints and membership.

After a broker returns, aiokafka's clients may stall without an error. The watchdog only reports a suspicion;
`watch` checks whether Kafka can be reached at all, and ends with an error if it can: the clients, or the
whole process, have to start anew.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.contract.topics import TopicName
from learner_worker.errors import StuckError
from learner_worker.kafka.admin import Administrator, is_reached
from learner_worker.kafka.outage import Outage
from learner_worker.lifecycle import is_set_within

WATCH_SECONDS = 5.0  # much shorter than the minute after which a client counts as stuck
_ALL_SECONDS = 60.0  # a stall of all partitions: longer than a broker's failover
_ONE_SECONDS = 300.0  # a stall of one partition: may wait for its broker to restart
_JOIN_SECONDS = 120.0  # twice the time that a rebalance may take
_CHECKPOINT_SECONDS = 120.0  # longer than a checkpoint's steps by their own time limits
SILENCE_SECONDS = 60.0  # longer than a broker's failover
_END_SECONDS = 5.0  # several times what a healthy broker takes to answer


@dataclass(frozen=True, slots=True)
class Reading:
    """The progress of a consumer.

    Attributes:
        positions: the next offset of every partition that is being read.
        ends: their end offsets; empty if the consumer's connection does not answer.
    """

    positions: Mapping[TopicPartition, int] = field(default_factory=dict)
    ends: Mapping[TopicPartition, int] = field(default_factory=dict)

    def behind(self) -> dict[TopicPartition, int]:
        """The positions of the partitions that are not read to their end."""
        positions = self.positions.items()
        return {place: position for place, position in positions if position < self.ends.get(place, 0)}

    def lag_of(self, topic: TopicName) -> float:
        """The records of a topic that are not read yet; NaN while Kafka does not answer."""
        positions = self.positions.items()
        return sum(self.ends.get(at, math.nan) - position for at, position in positions if at.topic == topic)


@dataclass(frozen=True, slots=True)
class Observation:
    """The state of the loops at one moment.

    Attributes:
        failing: the operations on Kafka whose last attempt failed.
        settled: whether every assigned shard is open.
        checkpoints: number of checkpoints that have succeeded so far.
        readings: the progress of each consumer, by name.
    """

    failing: frozenset[str]
    settled: bool
    checkpoints: int
    readings: Mapping[str, Reading]


async def look(
    what: str, consumer: AIOKafkaConsumer | None, positions: Mapping[TopicPartition, int], outage: Outage
) -> Reading:
    """Asks for the end offsets of a consumer's partitions, over its own connection.

    This may be the first to notice an outage, because a poll then just returns nothing. Without a consumer or
    partitions, nothing is asked.
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
    """Tracks how long each part has made no progress.

    Args:
        checkpoint_seconds: the worker's checkpoint interval.
    """

    def __init__(self, checkpoint_seconds: float = 0.0) -> None:
        self._checkpoint_seconds = checkpoint_seconds + _CHECKPOINT_SECONDS
        self._since: dict[str, float] = {}
        self._before = Observation(frozenset(), settled=True, checkpoints=0, readings={})
        self._opening_goes_on = False
        self.all_has_moved = False
        """Whether everything has made progress at the same time at least once."""

    def opening_goes_on(self) -> None:
        """Notes that a shard was opened, or that a long opening has made progress."""
        self._opening_goes_on = True

    def judge(self, now: float, seen: Observation) -> str | None:
        """Describes a part that has made no progress for too long; None if there is none."""
        suspicions = dict(self._suspicions(seen))
        self._since = {what: self._since.get(what, now) for what in suspicions}
        self._before = seen
        self._opening_goes_on = False
        self.all_has_moved |= not suspicions
        return next((what for what, seconds in suspicions.items() if now - self._since[what] > seconds), None)

    def forgive(self) -> None:
        """Restarts all time limits, because Kafka cannot be reached and nothing can make progress."""
        self._since.clear()

    def _suspicions(self, seen: Observation) -> Iterator[tuple[str, float]]:
        for what in sorted(seen.failing):
            yield f"{what} fails repeatedly", SILENCE_SECONDS
        if not seen.settled and not self._opening_goes_on:
            yield "the group assigns no shards to this replica, or they do not open", _JOIN_SECONDS
        if seen.checkpoints == self._before.checkpoints:
            yield "no checkpoint succeeds", self._checkpoint_seconds
        for name, reading in seen.readings.items():
            yield from self._suspicions_of(name, reading, self._before.readings.get(name, Reading()))

    @staticmethod
    def _suspicions_of(name: str, now: Reading, before: Reading) -> Iterator[tuple[str, float]]:
        behind = now.behind()
        still = [place for place, position in behind.items() if position == before.positions.get(place)]
        for place in still:
            yield f"reading {place.topic}/{place.partition} makes no progress", _ONE_SECONDS
        if still and len(still) == len(behind):
            yield f"reading {name} makes no progress", _ALL_SECONDS


async def watch(
    watchdog: Watchdog,
    observe: Callable[[], Awaitable[Observation]],
    administrator: Administrator,
    stopping: asyncio.Event,
) -> None:
    """Judges what is observed every few seconds, until `stopping` is set.

    Raises:
        StuckError: a client makes no progress although Kafka can be reached.
    """
    while not await is_set_within(stopping, WATCH_SECONDS):
        if problem := watchdog.judge(time.monotonic(), await observe()):
            watchdog.forgive()
            if await is_reached(administrator):
                raise StuckError(problem)
