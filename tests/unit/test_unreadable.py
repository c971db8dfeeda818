"""A poll that fails: what it had already taken is read again, and what cannot be decoded is stepped over."""

import itertools
from collections.abc import Sequence
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CorruptRecordException

from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.polling import Gap, poll

GOOD, BAD = TopicPartition("topic", 0), TopicPartition("topic", 1)
LONG_MS = 2_000
UNDECODABLE = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


class Log:
    """A consumer of two partitions, of three records each or more; some of `BAD` fail as it is told.

    What is sought is fetched anew: so many polls of a partition find nothing before it is here. Of the long
    polls, which wait for it, the one of number `silent` waits in vain.
    """

    def __init__(
        self,
        failure: Exception,
        *,
        count: int = 3,
        broken: Sequence[int] = (1,),
        on_its_way: int = 0,
        silent: int | None = None,
    ) -> None:
        self.positions = {GOOD: 0, BAD: 0}
        self._failure = failure
        self._count = count
        self._broken = broken
        self._long_polls = itertools.count()
        self._silent = silent
        self._on_its_way = on_its_way
        self._idle_polls = {GOOD: 0, BAD: 0}

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, Sequence[Any]]:
        """As aiokafka: what was taken before a failure is gone, but for a poll of one record."""
        assert timeout_ms >= 0
        found: dict[TopicPartition, Sequence[Any]] = {}
        if timeout_ms >= LONG_MS and next(self._long_polls) == self._silent:
            return {}
        for partition in partitions or (GOOD, BAD):
            if timeout_ms >= LONG_MS:
                self._idle_polls[partition] = 0
            if self._idle_polls[partition]:
                self._idle_polls[partition] -= 1
                continue
            first = self.positions[partition]
            end = self._count if max_records is None else min(self._count, first + max_records)
            if partition == BAD and not {*range(first, end)}.isdisjoint(self._broken):
                raise self._failure
            if first < end:
                found[partition] = list(range(first, end))
                self.positions[partition] = end
        return found

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.positions[partition] = offset
        self._idle_polls[partition] = self._on_its_way

    async def position(self, partition: TopicPartition) -> int:
        return self.positions[partition]

    def highwater(self, partition: TopicPartition) -> int:
        assert partition in self.positions
        return self._count

    def last_stable_offset(self, partition: TopicPartition) -> int:
        return self.highwater(partition)


async def test_a_poll_that_kafka_fails_is_taken_back() -> None:
    """The good partition's records were taken and lost with the error: its position is where it was."""
    log = Log(CorruptRecordException("Invalid CRC"))
    with pytest.raises(CorruptRecordException):
        await poll(cast("Any", log), {GOOD: 0, BAD: 0}, timeout_ms=0, max_records=10)
    assert log.positions == {GOOD: 0, BAD: 0}


async def test_a_record_that_cannot_be_decoded_is_the_only_one_missing() -> None:
    """Both partitions are read, up to it and from behind it."""
    log = Log(UNDECODABLE)
    polled = await poll(cast("Any", log), {GOOD: 0, BAD: 0}, timeout_ms=0, max_records=10)
    batches: dict[TopicPartition, Any] = {**polled.batches}
    assert batches == {GOOD: [0, 1, 2], BAD: [0]}
    assert polled.gap == Gap(BAD, OffsetRange(1, 2))
    assert log.positions == {GOOD: 3, BAD: 2}


async def test_with_nothing_before_it_there_is_no_batch() -> None:
    """The first record of a partition: a gap, and no batch that whoever reads batches would find empty."""
    log = Log(UNDECODABLE, broken=[0])
    polled = await poll(cast("Any", log), {BAD: 0}, timeout_ms=0, max_records=10)
    assert (polled.batches, polled.gap) == ({}, Gap(BAD, OffsetRange(0, 1)))
    assert log.positions[BAD] == 1


async def test_a_distant_broker_is_waited_for() -> None:
    """What was sought again is on its way for some rounds: giving up would begin the same anew, for ever."""
    log = Log(UNDECODABLE, on_its_way=3)
    polled = await poll(cast("Any", log), {GOOD: 0, BAD: 0}, timeout_ms=0, max_records=10)
    batches: dict[TopicPartition, Any] = {**polled.batches}
    assert batches == {GOOD: [0, 1, 2], BAD: [0]}
    assert polled.gap == Gap(BAD, OffsetRange(1, 2))
    assert log.positions == {GOOD: 3, BAD: 2}


@pytest.mark.parametrize("silent", range(8))
async def test_nothing_readable_is_stepped_over_when_kafka_falls_silent(silent: int) -> None:
    """Whichever of the reads that look for the gap's ends is not answered: the gap is what is broken."""
    log = Log(UNDECODABLE, count=12, broken=range(3, 8), silent=silent)
    seen: list[int] = []
    gaps: list[Gap] = []
    while log.positions[BAD] < 12:
        polled = await poll(cast("Any", log), {BAD: log.positions[BAD]}, timeout_ms=0, max_records=20)
        batches: dict[TopicPartition, Any] = {**polled.batches}
        seen += batches.get(BAD, [])
        gaps += [] if polled.gap is None else [polled.gap]
    assert (seen, gaps) == ([0, 1, 2, 8, 9, 10, 11], [Gap(BAD, OffsetRange(3, 8))])
