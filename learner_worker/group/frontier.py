"""How far the whole group has read: what a shard has to know of other shards before it may forget.

An event on a wrong partition reaches its shard only when that partition's owner has read and moved it. So a
shard's own partitions do not tell what is still to come. The group's commits do: a commit follows the
acknowledgement of everything that was moved before it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.errors import LearnerError
from learner_worker.kafka.admin import Administrator, Committed
from learner_worker.kafka.offsets import OffsetRange, offset_ranges
from learner_worker.kafka.outage import first_line

_PATIENCE_SECONDS = 10.0
_log = structlog.get_logger("learner_worker.stream")


def _now() -> Micros:
    return Micros(time.time_ns() // 1000)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Where the partitions began and ended, asked at a moment: what is beyond is younger."""

    at: Micros
    ends: Mapping[TopicPartition, OffsetRange]


@dataclass(frozen=True, slots=True)
class _Heard:
    """Everything older than `until` was read, and moved if it had to be, when this was heard."""

    until: Micros
    at: Micros


class Frontier:
    """Asks for the ends of all shards' sources, and later whether the group's commits have passed them.

    Args:
        topics: those whose events may lie on a wrong partition and are waited for.
        partitions: how many each of them has.
        now: the clock of record times.
    """

    def __init__(
        self,
        *,
        administrator: Administrator,
        consumer: AIOKafkaConsumer,
        group_id: str,
        topics: Sequence[TopicName],
        partitions: int,
        now: Callable[[], Micros] = _now,
    ) -> None:
        self._administrator = administrator
        self._consumer = consumer
        self._group_id = group_id
        self._partitions = [TopicPartition(topic, shard) for topic in topics for shard in range(partitions)]
        self._now = now
        self._asked: _Asked | None = None
        self._heard: _Heard | None = None

    def passed(self, asked: Micros) -> Micros | None:
        """Up to which record time the group had read, as was known when a question was asked.

        Whoever finds the moved events read to an end that was asked for then has all of them up to that time.
        None: not known.
        """
        heard = self._heard
        return heard.until if heard is not None and heard.at <= asked else None

    async def look(self) -> None:
        """Asks Kafka once; what it answers may stay the same while a shard lags or Kafka is away."""
        try:
            async with self._administrator(patience_seconds=_PATIENCE_SECONDS) as cluster:
                committed = await cluster.committed(self._group_id)
            if self._asked is not None and _has_passed(committed, self._asked.ends):
                self._heard, self._asked = _Heard(self._asked.at, self._now()), None
            if self._asked is None:
                at = self._now()  # before the answer: what came after this moment may lie beyond the ends
                self._asked = _Asked(at, await offset_ranges(self._consumer, self._partitions))
        except (KafkaError, LearnerError, TimeoutError) as error:
            _log.debug("frontier.unknown", error=first_line(error))


def _has_passed(
    committed: Mapping[TopicPartition, Committed], ends: Mapping[TopicPartition, OffsetRange]
) -> bool:
    return all(
        (committed[partition].offset if partition in committed else held.start) >= held.end
        for partition, held in ends.items()
    )
