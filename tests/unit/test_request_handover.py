"""Request partitions from owner to owner: where a new one begins, and what the last one commits."""

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
from learner_worker.requests.clock import Clock
from learner_worker.requests.commits import OffsetCommits
from learner_worker.requests.handover import PartitionHandover, start_offsets
from learner_worker.requests.in_flight import InFlightOffsets
from tests.support.conditions import becomes_true, ended
from tests.support.requests import ManualClock

PARTITION = TopicPartition(Topics().named().requests, 0)
OLD_MS = 60_000
TTL_MS = 10_000


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
    oldest_ms = int(time.time() * 1000) - TTL_MS
    assert await start_offsets(cast("Any", log), [PARTITION], oldest_ms) == {PARTITION: log.fresh}


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
        self.most_at_once = 0
        self._at_once = 0
        self.failure: KafkaError | None = None

    def assign(self, partitions: Collection[TopicPartition]) -> None:
        self.assigned = partitions

    def seek(self, partition: TopicPartition, offset: int) -> None:
        assert partition in self.assigned
        assert offset >= 0

    async def commit(self, offsets: Mapping[TopicPartition, Any]) -> None:
        self.commits_begun += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await self.may_commit.wait()
        self._at_once -= 1
        if self.failure is not None:
            raise self.failure
        self.commits.update({partition: found.offset for partition, found in offsets.items()})

    async def committed(self, _partition: TopicPartition) -> int | None:
        self.asked.set()
        await self.may_answer.wait()
        return self.commits.get(PARTITION)


SHARD = ShardId(0)
SHARDS = frozenset({SHARD})
NONE = frozenset[ShardId]()


class Reading:
    """The hand-over and the commits of one partition."""

    def __init__(self) -> None:
        self.log = QuietLog()
        self.clock = ManualClock()
        consumer = cast("Any", self.log)
        self.commits = OffsetCommits(consumer, PARTITION.topic, self.clock)
        self.partitions = PartitionHandover(consumer, PARTITION.topic, TTL_MS / 1_000, self.commits, Clock())

    async def own(self, assignment_number: int) -> InFlightOffsets:
        """The shard is opened here, and its requests are taken over."""
        self.partitions.own(SHARDS, SHARDS, assignment_number)
        await self.partitions.take_over()
        return self.partitions.owned[SHARD]

    def answer(self, offsets: InFlightOffsets, count: int) -> None:
        """Some requests more are answered, and a second has passed."""
        for offset in range(offsets.position, offsets.position + count):
            offsets.begin(offset)
            offsets.finish(offset)
        self.clock.advance(1)
        self.commits.commit_in_background(self.partitions.all_offsets)


async def test_a_shard_that_is_opened_anew_keeps_its_requests() -> None:
    """Everything was sent back to the checkpoint: what was answered since must not be read again."""
    reading = Reading()
    before = await reading.own(1)
    reading.partitions.own(NONE, SHARDS, 1)
    assert not reading.partitions.pending
    reading.partitions.own(SHARDS, SHARDS, 1)
    assert not reading.partitions.pending
    assert reading.partitions.owned[SHARD] is before
    assert before.owned


async def test_a_shard_that_was_away_for_a_moment_is_read_from_where_it_was_committed() -> None:
    """Lost and back before the loop looked: its requests were dropped here, so they are read again."""
    reading = Reading()
    before = await reading.own(1)
    first = before.position
    for offset in range(first, first + 3):
        before.begin(offset)
    before.finish(first)  # the second and the third are dropped with the shard
    reading.partitions.own(NONE, NONE, 2)
    assert not before.owned
    after = await reading.own(3)
    assert after is not before
    assert reading.log.commits == {PARTITION: first + 1}
    assert after.position <= first + 1


async def test_what_was_found_before_a_shard_was_lost_and_back_is_not_begun_with() -> None:
    """Others may have answered in between: where to begin is asked for again."""
    reading = Reading()
    reading.log.may_answer.clear()
    reading.partitions.own(SHARDS, SHARDS, 1)
    taking_over = asyncio.create_task(reading.partitions.take_over())
    await reading.log.asked.wait()
    reading.partitions.own(NONE, NONE, 2)
    reading.log.commits[PARTITION] = 50
    reading.partitions.own(SHARDS, SHARDS, 3)
    reading.log.may_answer.set()
    await taking_over
    assert reading.partitions.owned == {}
    assert reading.partitions.pending


async def test_after_a_doubt_every_partition_begins_anew() -> None:
    """Others have answered meanwhile: nothing is committed over what they have committed."""
    reading = Reading()
    before = await reading.own(1)
    before.begin(before.position)
    before.finish(before.position - 1)
    reading.partitions.begin_anew()
    after = await reading.own(2)
    assert (before.owned, after is before) == (False, False)
    assert reading.log.commits == {}


async def test_reading_does_not_wait_for_a_commit() -> None:
    """While Kafka takes its time one commit is under way, no second; when it is through, the next may go."""
    reading = Reading()
    offsets = await reading.own(1)
    reading.log.may_commit.clear()
    reading.answer(offsets, 1)
    reading.answer(offsets, 1)
    await becomes_true(lambda: reading.log.commits_begun == 1)
    assert reading.log.commits == {}
    reading.log.may_commit.set()
    await ended("commit-requests")
    reading.answer(offsets, 1)
    await ended("commit-requests")
    assert (reading.log.commits_begun, reading.log.commits[PARTITION]) == (2, offsets.position)
    assert reading.log.most_at_once == 1


async def test_what_a_shard_leaves_is_committed_after_the_commit_under_way() -> None:
    """The other way round the older of the two would say that less is answered."""
    reading = Reading()
    offsets = await reading.own(1)
    reading.log.may_commit.clear()
    reading.answer(offsets, 1)
    await becomes_true(lambda: reading.log.commits_begun == 1)
    reading.answer(offsets, 2)
    reading.partitions.own(NONE, NONE, 2)
    taking_over = asyncio.create_task(reading.partitions.take_over())
    asyncio.get_running_loop().call_later(0.01, reading.log.may_commit.set)
    await taking_over
    assert (reading.log.commits_begun, reading.log.commits[PARTITION]) == (2, offsets.position)
    assert reading.log.most_at_once == 1


async def test_a_commit_that_failed_is_told_and_made_again() -> None:
    """The reading loop pauses for it, as for any failure of Kafka; the end of it commits all the same."""
    reading = Reading()
    offsets = await reading.own(1)
    reading.log.failure = KafkaError("away")
    reading.answer(offsets, 1)
    await ended("commit-requests")
    with pytest.raises(KafkaError, match="away"):
        reading.answer(offsets, 1)
    reading.answer(offsets, 1)
    await ended("commit-requests")
    reading.log.failure = None
    await reading.commits.finish(reading.partitions.all_offsets)
    assert reading.log.commits == {PARTITION: offsets.position}
