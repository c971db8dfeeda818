"""Where a new owner begins to read requests, while requests keep coming."""

import time
from collections.abc import Collection, Mapping
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndTimestamp

from learner_worker.contract.topics import Topics
from learner_worker.stages.answering import Answering
from learner_worker.stream.lane import Lane
from learner_worker.stream.outage import Outage

PARTITION = TopicPartition(Topics().named().requests, 0)
OLD_MS = 60_000


class GrowingLog:
    """A request partition that grows by a request with every call; `fresh` is the first of them."""

    def __init__(self, old: int, committed: int | None) -> None:
        now = int(time.time() * 1000)
        self.times = [now - OLD_MS] * old
        self.fresh = old
        self._committed = committed

    async def offsets_for_times(
        self, wanted: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """The first record of that time or later; None without one."""
        later = (offset for offset, at in enumerate(self.times) if at >= wanted[PARTITION])
        offset = next(later, None)
        found = None if offset is None else OffsetAndTimestamp(offset, self.times[offset])
        self._grow()
        return {PARTITION: found}

    async def end_offsets(self, _partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The next offset."""
        end = len(self.times)
        self._grow()
        return {PARTITION: end}

    async def committed(self, _partition: TopicPartition) -> int | None:
        """What the last owner committed."""
        self._grow()
        return self._committed

    def _grow(self) -> None:
        self.times.append(int(time.time() * 1000))


@pytest.mark.parametrize(("old", "committed"), [(0, None), (5, None), (5, 3), (5, 5)])
async def test_a_request_that_comes_during_the_take_over_is_read(old: int, committed: int | None) -> None:
    """Without a living request at first, the start is the first that comes, never behind it."""
    log = GrowingLog(old, committed)
    lane = Lane(
        consumer=cast("Any", log),
        topic=Topics().named().requests,
        ttl_seconds=10,
        answerer=cast("Answering", None),
        outage=Outage(),
        stall_seconds=10,
        is_member=_yes,
    )
    assert await lane._starts([PARTITION]) == {PARTITION: log.fresh}


async def _yes() -> bool:
    return True
