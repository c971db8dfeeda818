"""Whether the Kafka clients still move: positions against ends, checkpoints, membership.

aiokafka's clients may stand still after a broker came back, without an error. The watchdog only suspects;
whoever asks it finds out whether Kafka is there at all, and builds the clients anew if it is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from aiokafka import TopicPartition

_ALL_SECONDS = 60.0
_ONE_SECONDS = 300.0
_JOIN_SECONDS = 120.0
_CHECKPOINT_SECONDS = 120.0
_SILENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Observation:
    """What the loops look like at one moment.

    Attributes:
        reading: the last poll did not fail.
        settled: every shard that the group gave this replica is open.
        checkpoints: how many checkpoints have succeeded so far.
        positions: the next offset of every partition that is being read.
        ends: where Kafka says they end; None if the consumer's connection does not answer.
    """

    reading: bool
    settled: bool
    checkpoints: int
    positions: Mapping[TopicPartition, int] = field(default_factory=dict)
    ends: Mapping[TopicPartition, int] | None = None


class Watchdog:
    """Remembers since when something does not move."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._before = Observation(reading=True, settled=True, checkpoints=-1)

    def judge(self, now: float, seen: Observation) -> str | None:
        """What has stood still for too long, in words; None if nothing has."""
        suspicions = dict(self._suspicions(seen))
        self._since = {what: self._since.get(what, now) for what in suspicions}
        self._before = seen
        return next((what for what, seconds in suspicions.items() if now - self._since[what] > seconds), None)

    def forgive(self) -> None:
        """Kafka is away: nothing can move, and waiting begins anew when it is back."""
        self._since.clear()

    def _suspicions(self, seen: Observation) -> Iterator[tuple[str, float]]:
        if not seen.reading:
            yield "reading fails", _SILENCE_SECONDS
        if not seen.settled:
            yield "the group gives this replica no shards, or they do not open", _JOIN_SECONDS
        if seen.checkpoints == self._before.checkpoints:
            yield "no checkpoint succeeds", _CHECKPOINT_SECONDS
        if seen.ends is None:
            yield "the consumer's connection does not answer", _SILENCE_SECONDS
            return
        still = [
            partition
            for partition, position in seen.positions.items()
            if position == self._before.positions.get(partition) and position < seen.ends.get(partition, 0)
        ]
        for partition in still:
            yield f"{partition.topic}/{partition.partition} is not read on", _ONE_SECONDS
        if still and len(still) == sum(
            position < seen.ends.get(partition, 0) for partition, position in seen.positions.items()
        ):
            yield "nothing is read on", _ALL_SECONDS
