"""No failed or cancelled send may ever count: real parts on a producer that fails on cue."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError
from aiokafka.producer.message_accumulator import BatchBuilder

from learner_worker.contract.fields import ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName, Topics
from learner_worker.errors import SendError, StateError
from learner_worker.group.ownership import BrokerOffsets
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.batching import BatchWriter
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.records import Record
from learner_worker.worker import consumer as ingest_module
from learner_worker.worker.consumer import Ingest

TOPIC = "learner-outcomes"


class FakeProducer:
    """Hands out aiokafka's own batches, and futures; `stuck` makes it refuse a batch after a while."""

    def __init__(self) -> None:
        self.sent: list[asyncio.Future[None]] = []
        self.stuck = False

    def create_batch(self) -> Any:
        return BatchBuilder(16_384, 0, is_transactional=False)

    async def send_batch(self, _: Any, topic: str, *, partition: int) -> asyncio.Future[None]:
        assert (topic, partition >= 0) == (TOPIC, True)
        if self.stuck:
            await asyncio.sleep(0.05)
            raise KafkaTimeoutError
        self.sent.append(asyncio.get_running_loop().create_future())
        return self.sent[-1]

    def lose(self) -> None:
        """Kafka never took what was sent."""
        self.sent[0].set_exception(KafkaTimeoutError())


class FakeConsumer:
    """Owns nothing."""

    def pause(self, *_: Any) -> None:
        """Nothing to pause."""

    def assignment(self) -> set[Any]:
        return set()


class CountingSnapshot:
    """A snapshot of a CountingShard."""

    def __init__(self, shard: "CountingShard", position: int, rows: list[str]) -> None:
        self._shard, self._position, self._rows = shard, position, rows

    @property
    def commits(self) -> Mapping[TopicName, Committed]:
        return {}

    async def publish(self) -> None:
        """Nothing follows from it, but it takes its time."""
        await asyncio.sleep(0.05)

    async def write(self) -> None:
        if self._shard.disk_is_full:
            raise StateError("the disk is full")
        self._shard.file_position = self._position
        self._shard.file_rows += self._rows


class CountingShard:
    """One position and some rows, in memory and in its file."""

    restored = True

    def __init__(self) -> None:
        self.positions: dict[TopicName, int] = {}
        self.position, self.rows = 1, ["row-0"]
        self.file_position, self.file_rows = 0, list[str]()
        self.disk_is_full = False
        self.closed = False

    def wanted(self, *, all_restored: bool) -> tuple[TopicName, ...]:  # noqa: ARG002 (a fake)
        return ()

    def snapshot(self) -> CountingSnapshot:
        rows, self.rows = self.rows, []
        return CountingSnapshot(self, self.position, rows)

    def on_checkpoint_written(self) -> None:
        """Nothing to let go of."""

    async def process(self, topic: str, records: Sequence[Record]) -> None:
        raise NotImplementedError

    def step_over(self, topic: TopicName, first: int, following: int) -> None:
        raise NotImplementedError

    def reached(self, topic: TopicName, confirmed: Micros | None) -> None:
        raise NotImplementedError

    def still_valid(self, marks: BrokerOffsets) -> bool:
        raise NotImplementedError

    async def close(self) -> None:
        await asyncio.sleep(0.01)  # SQLite closes in a thread of its own
        self.closed = True


async def _nothing() -> None:
    """There is nothing to be said before a rebalance."""


async def _nobody() -> None:
    """No other worker has this one's name."""


class Race:
    """One shard that has processed one record, whose fact is on its way to Kafka."""

    def __init__(self) -> None:
        self.producer = FakeProducer()
        self.writer = BatchWriter(self.producer)
        self.shard = CountingShard()
        self.ingest = Ingest[CountingShard](
            connection=Connection("127.0.0.1:1"),
            consumer=FakeConsumer(),
            writer=self.writer,
            topics=Topics().named(),
            group_id="g",
            open_shard=self._open,
            on_ownership=lambda shards, assigned: None,  # noqa: ARG005
            outage=Outage(),
            find_duplicate=_nobody,
            before_rejoin=_nothing,
            before_opening=_nothing,
            give_way=_nothing,
        )
        self.ingest.ownership.shards[ShardId(0)] = self.shard
        self.ingest.ownership.assigned = frozenset()

    async def _open(self, number: ShardId, marks: BrokerOffsets) -> CountingShard:
        raise NotImplementedError

    async def send_one_fact(self) -> None:
        self.writer.append(TOPIC, 0, b"key", b"fact")
        await self.writer.send()

    async def discarded(self) -> None:
        """Waits until the shard was closed without a write."""
        async with asyncio.timeout(5):
            while not self.shard.closed:  # noqa: ASYNC110 (a fake: nobody to wait on)
                await asyncio.sleep(0.01)

    @property
    def on_disk(self) -> tuple[int, list[str]]:
        return self.shard.file_position, self.shard.file_rows


NOTHING: tuple[int, list[str]] = (0, [])


async def test_a_checkpoint_that_waits_while_the_read_loop_sends_back_writes_nothing() -> None:
    """Reset in the middle of a flush: the flush fails too, though the late failure belongs to nobody."""
    race = Race()
    await race.send_one_fact()
    checkpoint = asyncio.create_task(race.ingest.checkpoint())
    await asyncio.sleep(0.1)
    race.producer.stuck = True
    race.writer.append(TOPIC, 1, b"key", b"fact")
    with pytest.raises(SendError):
        await race.writer.send()
    race.ingest._reload(SendError("the read loop's"))
    race.producer.lose()
    assert await checkpoint is False
    await race.discarded()
    assert race.on_disk == NOTHING


async def test_what_was_cut_before_everything_was_sent_back_is_not_written() -> None:
    """The read loop gives up while the snapshot is published: the flush that follows finds nothing unsent."""
    race = Race()
    await race.send_one_fact()
    checkpoint = asyncio.create_task(race.ingest.checkpoint())
    await asyncio.sleep(0.02)
    race.ingest._reload(SendError("the read loop's"))
    assert await checkpoint is False
    await race.discarded()
    assert race.on_disk == NOTHING


async def test_no_checkpoint_writes_between_a_failed_send_and_the_discard() -> None:
    """The discard waits for the read loop; a checkpoint before it must not write the dirty shard."""
    race = Race()
    await race.send_one_fact()
    async with race.ingest._processing:
        checkpoint = asyncio.create_task(race.ingest.checkpoint())
        await asyncio.sleep(0.02)
        race.producer.lose()
        assert await checkpoint is False
        assert await race.ingest.checkpoint() is False
    await race.discarded()
    assert race.on_disk == NOTHING


async def test_stopping_after_a_failed_send_writes_nothing() -> None:
    """SIGTERM in an outage: no last checkpoint of what was not acknowledged, and the file is closed."""
    race = Race()
    await race.send_one_fact()
    race.producer.lose()
    assert await race.ingest.checkpoint() is False
    assert await race.ingest.finish() is False
    await race.ingest.close()
    assert race.shard.closed
    assert race.on_disk == NOTHING


async def test_a_revoke_that_takes_too_long_discards_what_it_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit cancels a checkpoint after its snapshot: the shard goes back, nothing half written."""
    monkeypatch.setattr(ingest_module, "_REVOKE_SECONDS", 0.05)
    race = Race()
    await race.send_one_fact()
    await race.ingest.on_partitions_revoked([object()])
    race.producer.sent[0].set_result(None)
    assert await race.ingest.checkpoint() is False
    await race.discarded()
    assert race.on_disk == NOTHING


async def test_a_full_disk_in_a_revoke_stops_the_worker() -> None:
    """A write that fails while shards are handed back is a failure of the worker, not a warning."""
    race = Race()
    race.shard.disk_is_full = True
    with pytest.raises(StateError):
        await race.ingest.on_partitions_revoked([object()])
    race.shard.disk_is_full = False
    assert await race.ingest.checkpoint() is False
    with pytest.raises(StateError, match="the disk is full"):
        race.ingest._raise_failure()
    assert race.on_disk == NOTHING
    await race.ingest.close()


async def test_an_end_in_the_middle_of_a_discard_closes_every_file() -> None:
    """A full disk ends the worker while it closes its files: one left open keeps the process alive."""
    race = Race()
    another = race.ingest.ownership.shards[ShardId(1)] = CountingShard()
    race.shard.disk_is_full = True
    with pytest.raises(StateError):
        await race.ingest.checkpoint()
    async with asyncio.timeout(5):
        while race.ingest.ownership.shards:  # noqa: ASYNC110 (a fake: nobody to wait on)
            await asyncio.sleep(0)
    await race.ingest.close()
    assert (race.shard.closed, another.closed) == (True, True)


async def test_a_flush_waits_for_what_another_task_is_handing_over() -> None:
    """Batches between the writer and the producer are not yet sent: a flush knows of them."""
    race = Race()
    race.producer.stuck = True
    race.writer.append(TOPIC, 0, b"key", b"fact")
    sending = asyncio.create_task(race.writer.send())
    await asyncio.sleep(0)
    with pytest.raises(SendError):
        await race.writer.flush()
    with pytest.raises(SendError):
        await sending


async def test_a_cancelled_hand_over_is_a_failure() -> None:
    """What a cancelled send did not hand over is lost: the next flush must not succeed."""
    race = Race()
    race.producer.stuck = True
    race.writer.append(TOPIC, 0, b"key", b"fact")
    sending = asyncio.create_task(race.writer.send())
    await asyncio.sleep(0.01)
    sending.cancel()
    await asyncio.wait([sending])
    race.producer.stuck = False
    with pytest.raises(SendError):
        await race.writer.flush()
