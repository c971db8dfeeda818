"""The reading loop of the requests: its states, and what it does after a stall."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, cast

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndTimestamp

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import ReplyTopics
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.records import Record, Unreadable
from learner_worker.observability import Instruments
from learner_worker.requests.consumer import ConsumerState
from learner_worker.requests.path import RequestClients, RequestPath
from learner_worker.requests.settings import RequestSettings
from learner_worker.shard.pacing import Pacing
from learner_worker.stages.advise import Advise
from learner_worker.strategies.classic import CLASSIC
from tests.support.conditions import becomes_true
from tests.support.requests import REQUEST, SHARD, TOPICS, ManualClock, OpenShard, ReplyProducer

SHARDS = frozenset({SHARD})
STALL_SECONDS = 10
TTL_SECONDS = 1_000
PARTITION = TopicPartition(TOPICS.requests, SHARD)


class RequestLog:
    """A request partition that is read from its beginning, and whose polls may stand still.

    Attributes:
        at_once: the most requests of a poll.
        read: how many requests polls have returned.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.commits: dict[TopicPartition, int] = {}
        self.at_once = 1_000
        self.read = 0
        self._clock = clock
        self._records: list[Record] = []
        self._position = 0
        self._stall_seconds = 0.0

    def ask(self) -> None:
        """A request arrives."""
        now_ms = self._clock.now() // 1_000
        self._records.append(Unreadable(TOPICS.requests, SHARD, len(self._records), now_ms, b"ann", REQUEST))

    def stall(self, seconds: float) -> None:
        """The next poll takes that long."""
        self._stall_seconds = seconds

    async def topics(self) -> set[str]:
        return set(TOPICS.all)

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, len(self._records))

    async def offsets_for_times(
        self, times: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        later = (record for record in self._records if record.timestamp >= times[PARTITION])
        found = next(later, None)
        return {PARTITION: found and OffsetAndTimestamp(found.offset, found.timestamp)}

    async def committed(self, partition: TopicPartition) -> int | None:
        return self.commits.get(partition)

    async def commit(self, offsets: Mapping[TopicPartition, Any]) -> None:
        self.commits.update({partition: found.offset for partition, found in offsets.items()})

    def assign(self, partitions: Collection[TopicPartition]) -> None:
        assert set(partitions) <= {PARTITION}

    def seek(self, _partition: TopicPartition, position: int) -> None:
        self._position = position

    async def getmany(self, **_: object) -> dict[TopicPartition, list[Record]]:
        await asyncio.sleep(0)
        self._clock.advance(self._stall_seconds)
        self._stall_seconds = 0.0
        found = self._records[self._position : self._position + self.at_once]
        self._position += len(found)
        self.read += len(found)
        return {PARTITION: found} if found else {}


class Replica:
    """A replica that reads the requests of one shard; the group counts on it, or does not."""

    def __init__(self) -> None:
        self.counts = True
        self.clock = ManualClock()
        self.log = RequestLog(self.clock)
        self.producer = ReplyProducer()
        self.instruments = Instruments()
        self.path = RequestPath(
            RequestSettings(
                topics=TOPICS,
                reply_topics=ReplyTopics(TOPICS.reply_patterns, ()),
                shards=1,
                ttl_seconds=TTL_SECONDS,
                stall_seconds=STALL_SECONDS,
                poll_ms=1,
            ),
            RequestClients(cast("Any", self.log), cast("Any", self.producer), Outage()),
            advise=Advise([CLASSIC]),
            instruments=self.instruments.requests,
            pacing=Pacing(),
            is_member=self._is_member,
            on_failure=_no_failure,
            clock=self.clock,
        )

    @property
    def state(self) -> ConsumerState:
        return self.path.consumer.state

    def own(self, assignment_number: int) -> None:
        """The group gives it the shard, which is open."""
        self.path.own({SHARD: OpenShard()}, SHARDS, assignment_number)

    async def _is_member(self) -> bool:
        await asyncio.sleep(0)
        return self.counts


def _no_failure(error: BaseException) -> None:
    raise AssertionError(error)


async def reading(replica: Replica, then: Callable[[], Awaitable[None]]) -> None:
    """Reads until the play is over."""
    stopping = asyncio.Event()
    loop = asyncio.create_task(replica.path.read(stopping))
    try:
        await then()
    finally:
        stopping.set()
        await loop


async def test_the_loop_is_idle_without_a_shard_takes_one_over_and_runs() -> None:
    """Each state by its name, in the order of a take-over."""
    replica = Replica()
    states = [replica.state]
    replica.own(1)
    states.append(replica.state)
    await reading(replica, lambda: becomes_true(lambda: replica.state is ConsumerState.RUNNING))
    replica.path.own({}, frozenset[ShardId](), 2)
    states.append(replica.state)
    await reading(replica, lambda: becomes_true(lambda: replica.state is ConsumerState.IDLE))
    assert states == [ConsumerState.IDLE, ConsumerState.TAKING_OVER, ConsumerState.TAKING_OVER]


async def comes_in_doubt(replica: Replica) -> None:
    """A stall after a request, and a group that does not confirm that the replica has its shard still."""
    await becomes_true(lambda: replica.state is ConsumerState.RUNNING)
    replica.counts = False
    replica.log.ask()
    replica.log.stall(STALL_SECONDS + 1)
    await becomes_true(lambda: replica.state is ConsumerState.IN_DOUBT)


async def test_after_a_stall_nothing_is_answered_before_the_group_confirms_the_replica() -> None:
    """Who stood still may have lost the shard: the request that was polled then is read again."""
    replica = Replica()
    replica.own(1)

    async def play() -> None:
        await comes_in_doubt(replica)
        await asyncio.sleep(0)
        assert replica.producer.values == []
        replica.counts = True
        await becomes_true(lambda: len(replica.producer.values) == 1)
        assert replica.state is ConsumerState.RUNNING

    await reading(replica, play)
    assert len(replica.producer.values) == 1


async def test_a_new_assignment_ends_the_doubt_and_begins_anew() -> None:
    """Others have answered meanwhile: what they committed is not read again, and not committed over."""
    replica = Replica()
    replica.own(1)

    async def play() -> None:
        await comes_in_doubt(replica)
        replica.log.commits[PARTITION] = 1
        replica.own(2)
        await becomes_true(lambda: replica.state is ConsumerState.RUNNING)
        replica.log.ask()
        await becomes_true(lambda: len(replica.producer.values) == 1)

    await reading(replica, play)
    await replica.path.finish(1)
    assert (len(replica.producer.values), replica.log.commits) == (1, {PARTITION: 2})


async def test_what_has_expired_unread_is_skipped_and_counted() -> None:
    """Reading it all would keep those waiting whose deadlines are ahead; each request still has one end."""
    replica = Replica()
    replica.log.at_once = 2
    replica.own(1)

    async def play() -> None:
        await becomes_true(lambda: replica.state is ConsumerState.RUNNING)
        for _ in range(10):
            replica.log.ask()
        replica.clock.advance(TTL_SECONDS + 1)
        replica.log.ask()
        await becomes_true(lambda: len(replica.producer.values) == 1)

    await reading(replica, play)
    [family] = replica.instruments.requests.by_code.collect()
    counted = {sample.labels["code"]: sample.value for sample in family.samples if sample.value}
    assert counted == {"EXPIRED": 10, "OK": 1}
    assert replica.log.read <= 2 + 2 + 1  # the first two again, after the stall
