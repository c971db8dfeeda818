"""The frontier: how far the whole group has read, which a shard must know before it may forget a task.

An event on a wrong partition reaches its shard only once that partition's owner has read and rerouted it. So
a shard's own partitions do not tell what is still to come. The group's commits do: a commit follows the
acknowledgement of everything that was rerouted before it.
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
from learner_worker.group.commits import own_commits
from learner_worker.kafka.admin import Administrator, Committed
from learner_worker.kafka.offsets import OffsetRange, offset_ranges
from learner_worker.kafka.outage import first_line

_PATIENCE_SECONDS = 10.0  # beyond a healthy broker's answer; the next query follows soon
_log = structlog.get_logger("learner_worker.stream")


def _now() -> Micros:
    return Micros(time.time_ns() // 1000)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The partitions' ranges, queried at a time: records beyond them are younger than it."""

    at: Micros
    ends: Mapping[TopicPartition, OffsetRange]


@dataclass(frozen=True, slots=True)
class _Heard:
    """At `at`, everything older than `until` was known to be read, and rerouted if necessary."""

    until: Micros
    at: Micros


class Frontier:
    """Queries the ends of all shards' sources, and later whether the group's commits have passed them.

    Args:
        incarnation: that of the topics; commits that name another one are ignored.
        topics: the topics whose events may be on a wrong partition and must be waited for.
        partitions: the number of partitions of each.
        now: the clock of record times.
    """

    def __init__(
        self,
        *,
        administrator: Administrator,
        consumer: AIOKafkaConsumer,
        group_id: str,
        incarnation: str,
        topics: Sequence[TopicName],
        partitions: int,
        now: Callable[[], Micros] = _now,
    ) -> None:
        self._administrator = administrator
        self._consumer = consumer
        self._group_id = group_id
        self._incarnation = incarnation
        self._partitions = [TopicPartition(topic, shard) for topic in topics for shard in range(partitions)]
        self._now = now
        self._asked: _Asked | None = None
        self._heard: _Heard | None = None

    def passed(self, asked: Micros) -> Micros | None:
        """The record time up to which the group is known to have read by the time `asked`; None if unknown.

        A shard whose rerouted events are read up to an end that was queried at `asked` has all of those with
        earlier record times.
        """
        heard = self._heard
        return heard.until if heard is not None and heard.at <= asked else None

    async def look(self) -> None:
        """Queries Kafka once; the frontier stays where it is while a shard lags or Kafka is unreachable."""
        try:
            async with self._administrator(patience_seconds=_PATIENCE_SECONDS) as cluster:
                committed = own_commits(await cluster.committed(self._group_id), self._incarnation)
            if self._asked is not None and _has_passed(committed, self._asked.ends):
                self._heard, self._asked = _Heard(self._asked.at, self._now()), None
            if self._asked is None:
                at = self._now()  # before the query: later records may be beyond the ends
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
