"""The progress of a shard's restore."""

from collections.abc import Mapping

from prometheus_client import Gauge

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName


class RestoreProgress:
    """The progress of reading the changelog up to the end offset it had when the shard was opened.

    Args:
        positions: the shard's positions, of which the changelog's counts.
        changelog: the changelog's topic.
        until: the changelog's end offset when the shard was opened.
        gauge: shows the number of records left, by shard.

    Attributes:
        is_finished: whether `check` has found the end reached; stays true afterwards.
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
        """Number of changelog records still to be read before answers are current."""
        return max(0, self._until - self._positions[self._changelog])

    def check(self) -> bool:
        """Whether the changelog is read up to the end offset it had when the shard was opened."""
        self.is_finished = self.is_finished or self.records_left == 0
        return self.is_finished

    def report(self) -> None:
        """Sets the gauge."""
        self._gauge.labels(self._shard_id).set(self.records_left)

    def close(self) -> None:
        """Removes the shard's gauge, because it is closed."""
        self._gauge.remove(self._shard_id)
