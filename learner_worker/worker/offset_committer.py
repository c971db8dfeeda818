"""Commits the shards' positions to the consumer group: for lag gauges, and for replicas without a file."""

import asyncio
from collections.abc import Mapping

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from learner_worker.group.commits import noted
from learner_worker.group.membership import Membership
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.outage import first_line
from learner_worker.worker.ownership import Ownership

_COMMIT_SECONDS = 10.0
"""aiokafka retries a commit without end; after this time the next checkpoint is the better retry."""
_NOTHING_READ = Committed(0, "rewind=0")  # the position of a partition before its first record
_log = structlog.get_logger("learner_worker.stream")


class OffsetCommitter:
    """Commits the offsets that changed since the last commit.

    A commit that the group rejects, as during a rebalance, costs the member its membership. So a commit is
    sent only if something changed, only in its checkpoint's epoch, and never while this member rejoins.

    Args:
        incarnation: the incarnation of the topics, which each commit names.
    """

    def __init__(
        self,
        *,
        consumer: AIOKafkaConsumer,
        incarnation: str,
        ownership: Ownership,
        membership: Membership,
    ) -> None:
        self._consumer = consumer
        self._incarnation = incarnation
        self._ownership = ownership
        self._membership = membership
        self._committed: dict[TopicPartition, Committed] = {}
        self._assignment_number = 0

    async def commit(self, offsets: Mapping[TopicPartition, Committed], epoch: int) -> None:
        """Commits the offsets of a checkpoint that began in `epoch`; a failure is left to the next one."""
        changed = self._changed(offsets)
        if not changed or epoch != self._ownership.epoch or self._membership.is_rejoining:
            return
        found = {
            place: OffsetAndMetadata(each.offset, noted(each, self._incarnation).metadata)
            for place, each in changed.items()
        }
        try:
            async with asyncio.timeout(_COMMIT_SECONDS):
                await self._consumer.commit(found)
        except (KafkaError, TimeoutError) as error:
            # The file has the authoritative positions: the next checkpoint commits again.
            _log.warning("checkpoint.commit_failed", error=first_line(error))
        else:
            self._committed.update(changed)

    def _changed(self, offsets: Mapping[TopicPartition, Committed]) -> dict[TopicPartition, Committed]:
        # Between two assignments other members may have committed.
        if self._assignment_number != self._ownership.assignment_number:
            self._assignment_number = self._ownership.assignment_number
            self._committed.clear()
        assignment = self._consumer.assignment()
        return {
            place: committed
            for place, committed in offsets.items()
            if place in assignment and self._committed.get(place, _NOTHING_READ) != committed
        }
