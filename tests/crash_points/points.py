"""Where a worker may die: every point with what it means and the function it is laid at."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import aiosqlite
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.producer.sender import SendProduceReqHandler

from learner_worker.contract.topics import TopicName
from learner_worker.kafka.batching import BatchWriter
from learner_worker.kafka.records import Record
from learner_worker.shard.shard import Shard
from learner_worker.store import shard_file
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.statements import statement
from learner_worker.worker import consumer
from learner_worker.worker.checkpoint import Checkpointer
from learner_worker.worker.rebalance import Rebalance
from tests.crash_points.fuse import (
    Fuse,
    Patch,
    after,
    before,
    before_plain,
    kill_itself,
    noticing_work,
    working,
)

Begin = Literal["new", "lost", "damaged"]
BEGIN, COMMIT = "BEGIN IMMEDIATE", "COMMIT"
OFTEN = {"--checkpoint-interval-seconds": "0.05"}
ONLY_AT_THE_END = {"--checkpoint-interval-seconds": "300"}
ALL_THE_TIME = {"--checkpoint-interval-seconds": "0.005"}
_LINGERED_SECONDS = 0.05


@dataclass(frozen=True)
class Point:
    """A place in the worker's code.

    Attributes:
        what: when it is passed, in one line.
        patches: lays a fuse there.
        most: how often it is passed at least, with work going on.
        begin: the disk it starts with; `lost`: an empty one after earlier work, `damaged`: spoilt pages.
        stopping: it is passed only after SIGTERM.
        settings: flags that bring it about.
        effect: what happens there.
    """

    what: str
    patches: Callable[[Fuse], list[Patch]]
    most: int = 5
    begin: Begin = "new"
    stopping: bool = False
    settings: Mapping[str, str] = field(default_factory=lambda: OFTEN)
    effect: Callable[[], object] = kill_itself

    @property
    def kills(self) -> bool:
        """Whether the process dies there; otherwise its disk fails."""
        return self.effect is kill_itself


# --- laying the fuses ------------------------------------------------------------------------------------


def before_statement(sql: str, fuse: Fuse) -> list[Patch]:
    return [noticing_work(), before(fuse, aiosqlite.Connection, "execute", working(sql))]


def _after_statement(sql: str, fuse: Fuse) -> list[Patch]:
    return [noticing_work(), after(fuse, aiosqlite.Connection, "execute", working(sql))]


def before_positions(fuse: Fuse) -> list[Patch]:
    save = statement("save_position")
    return [noticing_work(), before(fuse, aiosqlite.Connection, "executemany", working(save))]


def _after_positions(fuse: Fuse) -> list[Patch]:
    save = statement("save_position")
    return [noticing_work(), after(fuse, aiosqlite.Connection, "executemany", working(save))]


def _amid_rows(fuse: Fuse) -> list[Patch]:
    """In SQLite's own thread, when half of the rows are written."""
    original = aiosqlite.Connection.executemany

    async def executemany(connection: aiosqlite.Connection, sql: str, rows: Iterable[Any]) -> Any:
        found = list(rows)
        return await original(connection, sql, _burning(found) if sql == statement("save_outcome") else found)

    def _burning(rows: list[Any]) -> Iterable[Any]:
        for number, row in enumerate(rows):
            if number == len(rows) // 2:
                fuse.burn()
            yield row

    return [(aiosqlite.Connection, "executemany", executemany)]


def _has_facts(_: object, __: object, topic: TopicName) -> bool:
    return topic.endswith("learner-outcomes")


def _carries_facts(handler: Any, _: object) -> bool:
    return any(partition.topic.endswith("learner-outcomes") for partition in handler._batches)


def _has_work(found: BatchWriter, *_: object) -> bool:
    return not found.is_idle


def _has_metrics(_: object, __: object, topic: TopicName) -> bool:
    return topic.endswith("learner-agent-metrics")


def _is_leftover(path: Path, *_: object) -> bool:
    return path.name.endswith("-wal")


def _is_restoring(state: Shard, _: object) -> bool:
    return not state.restored


def _restoring_work(found: Checkpointer, *_: object) -> bool:
    shards = found.ownership.shards.values()
    return any(not state.restored and state.learn.writing.outcomes for state in shards)


def slow_restore() -> Patch:
    return consumer, "POLL_RECORDS", 5


def _lingering_restore() -> Patch:
    """Longer than from one checkpoint to the next: a quick one is over before any of them."""
    original = Shard.apply_changelog

    async def apply(state: Shard, records: Sequence[Record]) -> None:
        await original(state, records)
        if not state.restored:
            await asyncio.sleep(_LINGERED_SECONDS)

    return Shard, "apply_changelog", apply


def _amid_restore(fuse: Fuse) -> list[Patch]:
    return [slow_restore(), after(fuse, Shard, "apply_changelog", _is_restoring)]


def _after_restoring_checkpoint(fuse: Fuse) -> list[Patch]:
    return [slow_restore(), _lingering_restore(), after(fuse, Checkpointer, "make_durable", _restoring_work)]


def rebalancing() -> Patch:
    """After every checkpoint the member asks to join its group anew: a rebalance, as a newcomer's."""
    original = Checkpointer.make_durable

    async def make_durable(found: Checkpointer, snapshots: Mapping[Any, Any], generation: int) -> None:
        await original(found, snapshots, generation)
        if found.ownership.readable():
            found.rollback.consumer._coordinator.request_rejoin()

    return Checkpointer, "make_durable", make_durable


POINTS: dict[str, Point] = {
    # --- a checkpoint's transaction
    "before-begin": Point("a checkpoint's transaction is about to begin", partial(before_statement, BEGIN)),
    "after-begin": Point("it has begun, with nothing in it", partial(_after_statement, BEGIN)),
    "amid-rows": Point("half of its outcome rows are written", _amid_rows),
    "after-rows": Point("its rows are written, its positions not", before_positions),
    "after-positions": Point("its positions are written", _after_positions),
    "before-commit": Point("it is about to be committed", partial(before_statement, COMMIT)),
    "after-commit": Point(
        "it is in one shard's file, Kafka knows nothing", partial(_after_statement, COMMIT)
    ),
    "before-offsets": Point(
        "all files have it, the offsets are about to go to Kafka",
        lambda fuse: [before(fuse, AIOKafkaConsumer, "commit")],
    ),
    "after-offsets": Point(
        "Kafka has the offsets, nobody was told", lambda fuse: [after(fuse, AIOKafkaConsumer, "commit")]
    ),
    # --- the changelog and the metrics records
    "before-send": Point(
        "facts are about to be handed to the producer",
        lambda fuse: [before(fuse, AIOKafkaProducer, "send_batch", _has_facts)],
    ),
    "after-send": Point(
        "facts are handed over, and hardly on their way",
        lambda fuse: [after(fuse, AIOKafkaProducer, "send_batch", _has_facts)],
    ),
    "before-acknowledgement": Point(
        "Kafka has the facts, its answer is not read",
        lambda fuse: [before_plain(fuse, SendProduceReqHandler, "handle_response", _carries_facts)],
    ),
    "after-acknowledgement": Point(
        "everything sent is acknowledged, nothing is in a file",
        lambda fuse: [after(fuse, BatchWriter, "flush", _has_work)],
    ),
    "amid-metrics": Point(
        "some of a checkpoint's metrics records are sent",
        lambda fuse: [after(fuse, AIOKafkaProducer, "send_batch", _has_metrics)],
    ),
    # --- opening and restoring
    "amid-making": Point(
        "a new file has its tables, but not whose it is",
        lambda fuse: [before(fuse, shard_file, "claim")],
        most=2,
    ),
    "after-rewind": Point(
        "a file noted where its sources are read anew from",
        lambda fuse: [after(fuse, ShardFile, "rewind")],
        most=2,
        begin="lost",
    ),
    "amid-setting-aside": Point(
        "a damaged file is moved away, its leftovers are not",
        lambda fuse: [before_plain(fuse, Path, "unlink", _is_leftover)],
        most=2,
        begin="damaged",
    ),
    "amid-restore": Point(
        "a part of the changelog is read back into memory", _amid_restore, begin="lost", settings=ALL_THE_TIME
    ),
    "after-restoring-checkpoint": Point(
        "a part of the changelog is restored into the file",
        _after_restoring_checkpoint,
        most=2,
        begin="lost",
        settings=ALL_THE_TIME,
    ),
    # --- a rebalance
    "before-handing-back": Point(
        "the group takes the shards, their checkpoint is not begun",
        lambda fuse: [rebalancing(), before(fuse, Rebalance, "hand_back")],
        most=3,
    ),
    "after-handing-back": Point(
        "that checkpoint is made, the group does not know",
        lambda fuse: [rebalancing(), after(fuse, Rebalance, "hand_back")],
        most=3,
    ),
    # --- the end
    "before-last-checkpoint": Point(
        "told to stop, the last checkpoint is not begun",
        lambda fuse: [before(fuse, Checkpointer, "finish")],
        most=1,
        stopping=True,
        settings=ONLY_AT_THE_END,
    ),
    "amid-last-checkpoint": Point(
        "the last checkpoint's rows are written, its positions not",
        before_positions,
        most=2,
        stopping=True,
        settings=ONLY_AT_THE_END,
    ),
    "after-last-checkpoint": Point(
        "the last checkpoint is made, files and clients are open",
        lambda fuse: [after(fuse, Checkpointer, "finish")],
        most=1,
        stopping=True,
        settings=ONLY_AT_THE_END,
    ),
}
