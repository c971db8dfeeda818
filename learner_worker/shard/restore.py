"""How far a shard's restore has come."""

from collections.abc import Mapping

from prometheus_client import Gauge

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName


class RestoreProgress:
    """Reading the changelog up to where it ended when the shard was opened.

    Args:
        positions: the shard's positions; the changelog's is compared with the end.
        changelog: the changelog's topic.
        until: where the changelog ended.
        gauge: tells operators how many records are left, by shard.

    Attributes:
        is_finished: whether `check` has found the end reached; from then on it stays so.
    """

    def __init__(
        self,
        shard_id: ShardId,
        positions: Mapping[TopicName, int],
        changelog: TopicName,
        until: int,
        gauge: Gauge,
    ) -> None:
        self._shard_id = shard_id
        self._positions = positions
        self._changelog = changelog
        self._until = until
        self._gauge = gauge
        self.is_finished = False
        self.report()

    @property
    def records_left(self) -> int:
        """How many changelog records are still to be read before answers are current."""
        return max(0, self._until - self._positions[self._changelog])

    def check(self) -> bool:
        """Whether the changelog is read as far as it went when the shard was opened."""
        self.is_finished = self.is_finished or self.records_left == 0
        return self.is_finished

    def report(self) -> None:
        """Sets the gauge."""
        self._gauge.labels(self._shard_id).set(self.records_left)

    def close(self) -> None:
        """The shard is closed: takes its gauge away."""
        self._gauge.remove(self._shard_id)
