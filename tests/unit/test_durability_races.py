"""No failed or cancelled send may ever count: real parts on a producer that fails on cue."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError
from aiokafka.producer.message_accumulator import BatchBuilder

from learner_worker.contract.fields import ShardId
from learner_worker.errors import ClosedFileError, SendError, StateError, SupersededError
from learner_worker.kafka.batching import BatchWriter
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.records import Unreadable
from learner_worker.shard.shard import ShardSnapshot
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.statements import Checkpoint
from learner_worker.worker import rebalance
from tests.support.conditions import becomes_true
from tests.support.steady import SteadyTopics
from tests.support.wiring import (
    TOPICS,
    PlayedClients,
    QuietConsumer,
    RememberedFiles,
    partitions_of,
    until_open,
    worker_on,
)
from tests.support.workers import until

TASK = next(name for number in range(9) if partitioner(2)(name := f"task-{number}") == 0)
RESULT = Unreadable(
    TOPICS.task_finished,
    0,
    0,
    timestamp=1_700_000_000_000,
    value=f'{{"task_id": "{TASK}", "agent_id": "a", "succeeded": true}}'.encode(),
)
"""An event whose fact goes out at once."""


class Acknowledgement(asyncio.Future[None]):
    """Of a batch; it knows whether a flush waits for it, besides the writer that keeps account of it."""

    def __init__(self) -> None:
        super().__init__()
        self._observers = 0

    @property
    def is_awaited(self) -> bool:
        return self._observers > 1

    def add_done_callback(self, *arguments: Any, **named: Any) -> None:
        self._observers += 1
        super().add_done_callback(*arguments, **named)


class FakeProducer:
    """Hands out aiokafka's own batches, and futures; `stuck` makes it refuse a batch after a while."""

    def __init__(self) -> None:
        self.sent: list[Acknowledgement] = []
        self.asked = asyncio.Event()
        self.stuck = False

    def create_batch(self) -> Any:
        return BatchBuilder(16_384, 0, is_transactional=False)

    async def send_batch(self, _: Any, topic: str, *, partition: int) -> asyncio.Future[None]:
        assert (topic, partition >= 0) == (TOPICS.outcomes, True)
        self.asked.set()
        if self.stuck:
            await asyncio.sleep(0.05)
            raise KafkaTimeoutError
        self.sent.append(Acknowledgement())
        return self.sent[-1]

    def take(self) -> None:
        """Kafka acknowledges what was sent."""
        self.sent[0].set_result(None)

    def lose(self) -> None:
        """Kafka never took what was sent."""
        self.sent[0].set_exception(KafkaTimeoutError())


class Race:
    """A worker with one open shard that has processed one event, whose fact is on its way to Kafka."""

    def __init__(self, path: Path, shards: Sequence[int] = (0,)) -> None:
        self.producer = FakeProducer()
        self.files = RememberedFiles(path)
        self.worker = worker_on(PlayedClients(QuietConsumer(), self.producer), self.files)
        self._shards = shards

    @asynccontextmanager
    async def begun(self) -> AsyncIterator[None]:
        """The shards are opened, and the event is processed; at the end every file is closed."""
        async with self.worker.preparation.running():
            await self.worker.rebalance.on_partitions_assigned(partitions_of(*self._shards))
            await until_open(self.worker, self._shards)
            shard = self.worker.ownership.shards[ShardId(0)]
            await shard.process(TOPICS.task_finished, [RESULT])
            await self.writer.send()
            yield

    @property
    def writer(self) -> BatchWriter:
        return self.worker.events.rollback.writer

    def send_back(self) -> None:
        """The read loop's own send has failed."""
        self.worker.events.rollback.to_last_checkpoint(SendError("the read loop's"))

    async def discarded(self) -> None:
        """Waits until the shard was closed without a write."""
        await until(lambda: is_closed(self.files.opened[0]), "the shard's file is closed", seconds=5)

    async def on_disk(self) -> Mapping[str, int]:
        """The positions in the shard's file: none were written unless a checkpoint was."""
        file = await self.files.open(ShardId(0))
        try:
            return await file.load_positions()
        finally:
            await file.close()


async def is_closed(file: ShardFile) -> bool:
    """Whether a file says that it is closed."""
    try:
        await file.load_positions()
    except ClosedFileError:
        return True
    return False


async def test_a_checkpoint_that_waits_while_the_read_loop_sends_back_writes_nothing(tmp_path: Path) -> None:
    """Reset in the middle of a flush: the flush fails too, though the late failure belongs to nobody."""
    race = Race(tmp_path)
    async with race.begun():
        checkpoint = asyncio.create_task(race.worker.checkpointer.checkpoint())
        await becomes_true(lambda: race.producer.sent[0].is_awaited)
        race.producer.stuck = True
        race.writer.append(TOPICS.outcomes, 1, b"key", b"fact")
        with pytest.raises(SendError):
            await race.writer.send()
        race.send_back()
        race.producer.lose()
        assert await checkpoint is False
        await race.discarded()
    assert await race.on_disk() == {}


async def test_a_snapshot_of_before_everything_was_sent_back_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read loop gives up while the snapshot is published: the flush that follows finds nothing unsent."""
    publishing, may_go_on = asyncio.Event(), asyncio.Event()

    async def publish(_: ShardSnapshot) -> None:
        publishing.set()
        await may_go_on.wait()

    monkeypatch.setattr(ShardSnapshot, "publish", publish)
    race = Race(tmp_path)
    async with race.begun():
        checkpoint = asyncio.create_task(race.worker.checkpointer.checkpoint())
        await publishing.wait()
        race.send_back()
        may_go_on.set()
        assert await checkpoint is False
        await race.discarded()
    assert await race.on_disk() == {}


async def test_no_checkpoint_writes_between_a_failed_send_and_the_discard(tmp_path: Path) -> None:
    """The discard waits for the read loop; a checkpoint before it must not write the dirty shard."""
    race = Race(tmp_path)
    async with race.begun():
        async with race.worker.ownership.processing:
            checkpoint = asyncio.create_task(race.worker.checkpointer.checkpoint())
            await becomes_true(lambda: race.producer.sent[0].is_awaited)
            race.producer.lose()
            assert await checkpoint is False
            assert await race.worker.checkpointer.checkpoint() is False
        await race.discarded()
    assert await race.on_disk() == {}


async def test_stopping_after_a_failed_send_writes_nothing(tmp_path: Path) -> None:
    """SIGTERM in an outage: no last checkpoint of what was not acknowledged, and the file is closed."""
    race = Race(tmp_path)
    async with race.begun():
        race.producer.lose()
        assert await race.worker.checkpointer.checkpoint() is False
        assert await race.worker.checkpointer.finish() is False
    assert await is_closed(race.files.opened[0])
    assert await race.on_disk() == {}


async def test_a_revoke_that_takes_too_long_discards_its_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limit cancels a checkpoint after its snapshot: the shard goes back, nothing is written."""
    monkeypatch.setattr(rebalance, "REVOKE_SECONDS", 0.05)
    race = Race(tmp_path)
    async with race.begun():
        await race.worker.rebalance.on_partitions_revoked(partitions_of(0))
        race.producer.sent[0].set_result(None)
        assert await race.worker.checkpointer.checkpoint() is False
        await race.discarded()
    assert await race.on_disk() == {}


async def test_a_full_disk_in_a_revoke_stops_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails while shards are handed back is a failure of the worker, not a warning."""
    race = Race(tmp_path)
    async with race.begun():
        race.producer.take()
        with monkeypatch.context() as full:
            full.setattr(ShardFile, "write", _no_room)
            with pytest.raises(StateError):
                await race.worker.rebalance.on_partitions_revoked(partitions_of(0))
        assert await race.worker.checkpointer.checkpoint() is False
        with pytest.raises(StateError, match="the disk is full"):
            race.worker.failure.raise_if_any()
    assert await race.on_disk() == {}


async def test_an_end_in_the_middle_of_a_discard_closes_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk ends the worker while it closes its files: one left open keeps the process alive."""
    race = Race(tmp_path, shards=(0, 1))
    async with race.begun():
        race.producer.take()
        monkeypatch.setattr(ShardFile, "write", _no_room)
        with pytest.raises(StateError):
            await race.worker.checkpointer.checkpoint()
        while race.worker.ownership.shards:  # noqa: ASYNC110 (between two turns: nobody to wait on)
            await asyncio.sleep(0)
    assert [await is_closed(file) for file in race.files.opened] == [True, True]


async def handing_over(producer: FakeProducer) -> tuple[BatchWriter, "asyncio.Task[None]"]:
    """A writer whose record is between it and the producer, and the task that hands it over."""
    writer = BatchWriter(producer)
    producer.stuck = True
    writer.append(TOPICS.outcomes, 0, b"key", b"fact")
    sending = asyncio.create_task(writer.send())
    await producer.asked.wait()
    return writer, sending


async def test_a_flush_waits_for_what_another_task_is_handing_over() -> None:
    """Batches between the writer and the producer are not yet sent: a flush knows of them."""
    writer, sending = await handing_over(FakeProducer())
    with pytest.raises(SendError):
        await writer.flush()
    with pytest.raises(SendError):
        await sending


async def test_a_cancelled_hand_over_is_a_failure() -> None:
    """What a cancelled send did not hand over is lost: the next flush must not succeed."""
    producer = FakeProducer()
    writer, sending = await handing_over(producer)
    sending.cancel()
    await asyncio.wait([sending])
    producer.stuck = False
    with pytest.raises(SendError):
        await writer.flush()


async def _no_room(_: ShardFile, __: Checkpoint) -> None:
    raise StateError("the disk is full")


# --- another owner -----------------------------------------------------------------------------------


async def test_a_worker_that_may_have_been_superseded_writes_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka does not say who owns the topics: nothing is written until it does, and then everything is."""
    owned = False

    async def asked(_: SteadyTopics) -> bool:
        return owned

    monkeypatch.setattr(SteadyTopics, "confirm", asked)
    race = Race(tmp_path)
    async with race.begun():
        race.producer.take()
        assert await race.worker.checkpointer.checkpoint() is False
        assert race.worker.checkpointer.completed == 0
        owned = True
        assert await race.worker.checkpointer.checkpoint() is True


async def test_a_superseded_worker_ends_with_its_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks before it writes; what it has processed is the new owner's to process."""

    async def superseded(_: SteadyTopics) -> bool:
        raise SupersededError("group new has taken these topics over")

    monkeypatch.setattr(SteadyTopics, "confirm", superseded)
    race = Race(tmp_path)
    async with race.begun():
        with pytest.raises(SupersededError):
            await race.worker.checkpointer.checkpoint()
    assert await race.on_disk() == {}
