"""Where a new owner begins to read requests, while requests keep coming."""

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndTimestamp

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import Topics
from learner_worker.kafka.outage import Outage
from learner_worker.requests.answering import Answering
from learner_worker.requests.consumer import InFlightOffsets, RequestConsumer

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
    lane = lane_on(log)
    assert await lane._starts([PARTITION]) == {PARTITION: log.fresh}


def lane_on(log: object) -> RequestConsumer:
    """A lane that reads one topic."""
    return RequestConsumer(
        consumer=cast("Any", log),
        topic=Topics().named().requests,
        ttl_seconds=10,
        answerer=cast("Answering", None),
        outage=Outage(),
        stall_seconds=10,
        is_member=_yes,
    )


class QuietLog(GrowingLog):
    """A request partition that can be assigned, and whose commits are kept."""

    def __init__(self) -> None:
        super().__init__(0, None)
        self.commits: dict[TopicPartition, int] = {}
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self.commits_begun = 0
        self.failure: KafkaError | None = None

    def assign(self, partitions: Collection[TopicPartition]) -> None:
        self.assigned = partitions

    def seek(self, partition: TopicPartition, offset: int) -> None:
        assert partition in self.assigned
        assert offset >= 0

    async def commit(self, offsets: Mapping[TopicPartition, Any]) -> None:
        self.commits_begun += 1
        await self.may_commit.wait()
        if self.failure is not None:
            raise self.failure
        self.commits.update({partition: found.offset for partition, found in offsets.items()})

    async def committed(self, _partition: TopicPartition) -> int | None:
        self.asked.set()
        await self.may_answer.wait()
        return self.commits.get(PARTITION)


SHARDS = frozenset({ShardId(0)})
NONE = frozenset[ShardId]()


async def test_a_shard_that_is_opened_anew_keeps_its_requests() -> None:
    """Everything was sent back to the checkpoint: what was answered since must not be read again."""
    lane = lane_on(QuietLog())
    lane.own(SHARDS, SHARDS, 1)
    await lane._take_over()
    before = lane._offsets[ShardId(0)]
    lane.own(NONE, SHARDS, 1)
    assert lane._wanted == SHARDS
    lane.own(SHARDS, SHARDS, 1)
    await lane._take_over()
    assert lane._offsets[ShardId(0)] is before
    assert before.held


async def test_a_shard_that_was_away_for_a_moment_is_read_from_where_it_was_committed() -> None:
    """Lost and back before the lane looked: its requests were dropped here, so they are read again."""
    log = QuietLog()
    lane = lane_on(log)
    lane.own(SHARDS, SHARDS, 1)
    await lane._take_over()
    before = lane._offsets[ShardId(0)]
    first = before.position
    for offset in range(first, first + 3):
        before.begin(offset)
    before.done(first)  # the second and the third are dropped with the shard
    lane.own(NONE, NONE, 2)
    lane.own(SHARDS, SHARDS, 3)
    assert not before.held
    await lane._take_over()
    after = lane._offsets[ShardId(0)]
    assert after is not before
    assert log.commits == {PARTITION: first + 1}
    assert after.position <= first + 1


async def test_what_was_found_before_a_shard_was_lost_and_back_is_not_begun_with() -> None:
    """Others may have answered in between: where to begin is asked for again."""
    log = QuietLog()
    lane = lane_on(log)
    log.may_answer.clear()
    lane.own(SHARDS, SHARDS, 1)
    taking_over = asyncio.create_task(lane._take_over())
    await log.asked.wait()
    lane.own(NONE, NONE, 2)
    log.commits[PARTITION] = 50
    lane.own(SHARDS, SHARDS, 3)
    log.may_answer.set()
    await taking_over
    assert lane._offsets == {}


async def test_reading_does_not_wait_for_a_commit() -> None:
    """While Kafka takes its time one commit is under way, no second; when it is through, the next may go."""
    log, lane, offsets = await _reading_lane()
    log.may_commit.clear()
    _answered(lane, offsets, 1)
    _answered(lane, offsets, 1)
    await asyncio.sleep(0)
    assert (log.commits_begun, log.commits) == (1, {})
    log.may_commit.set()
    await asyncio.sleep(0.01)
    _answered(lane, offsets, 1)
    await asyncio.sleep(0.01)
    assert (log.commits_begun, log.commits[PARTITION]) == (2, offsets.position)


async def test_what_a_shard_leaves_is_committed_after_the_commit_under_way() -> None:
    """The other way round the older of the two would say that less is answered."""
    log, lane, offsets = await _reading_lane()
    log.may_commit.clear()
    _answered(lane, offsets, 1)
    await asyncio.sleep(0)
    _answered(lane, offsets, 2)
    lane.own(NONE, NONE, 2)
    taking_over = asyncio.create_task(lane._take_over())
    await asyncio.sleep(0.01)
    assert log.commits_begun == 1
    log.may_commit.set()
    await taking_over
    assert (log.commits_begun, log.commits[PARTITION]) == (2, offsets.position)


async def test_a_commit_that_failed_is_told_and_made_again() -> None:
    """The reading loop pauses for it, as for any failure of Kafka; the end of it commits all the same."""
    log, lane, offsets = await _reading_lane()
    log.failure = KafkaError("away")
    _answered(lane, offsets, 1)
    await asyncio.sleep(0.01)
    with pytest.raises(KafkaError, match="away"):
        _answered(lane, offsets, 1)
    _answered(lane, offsets, 1)
    await asyncio.sleep(0.01)
    log.failure = None
    await lane.finish()
    assert log.commits == {PARTITION: offsets.position}


async def _reading_lane() -> tuple[QuietLog, RequestConsumer, InFlightOffsets]:
    log = QuietLog()
    lane = lane_on(log)
    lane.own(SHARDS, SHARDS, 1)
    await lane._take_over()
    return log, lane, lane._offsets[ShardId(0)]


def _answered(lane: RequestConsumer, offsets: InFlightOffsets, count: int) -> None:
    """Some requests more are answered, and a second has passed."""
    for offset in range(offsets.position, offsets.position + count):
        offsets.begin(offset)
        offsets.done(offset)
    lane._committed_at = float("-inf")
    lane._commit_now_and_then()


async def _yes() -> bool:
    return True
