"""Builds one shard on a file of its own, without a broker."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from learner_worker.contract.facts import Fact, decode_fact
from learner_worker.contract.fields import ShardId
from learner_worker.contract.headers import Headers
from learner_worker.contract.topics import Topics
from learner_worker.group.offsets import BrokerOffsets
from learner_worker.kafka.batching import Fallback
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.records import Outgoing
from learner_worker.observability import Instruments
from learner_worker.shard.context import ShardContext, ShardSettings
from learner_worker.shard.pacing import Pacing
from learner_worker.shard.shard import Shard
from learner_worker.store.shard_file import ShardFile, shard_path

TOPICS = Topics().named()
SHARD = ShardId(0)
IDENTITY = {"cluster_id": "c1", "topic_prefix": "", "partitions": "1", "shard": "0"}
NEW = BrokerOffsets({}, dict.fromkeys(TOPICS.subscribed, OffsetRange(0, 0)))
"""A cluster whose topics are empty, and a group that has committed nothing."""


class RecordingSink:
    """A record sink that keeps facts and single records, and counts what it is given, by topic."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.singles: list[Outgoing] = []
        self.fallbacks: list[Fallback | None] = []
        self.sends: Counter[str] = Counter()

    def append(
        self,
        topic: str,
        partition: int,  # noqa: ARG002
        key: bytes,  # noqa: ARG002
        value: bytes | None,
        headers: Headers = (),  # noqa: ARG002
    ) -> None:
        self.sends[topic] += 1
        if topic == TOPICS.outcomes and value is not None:
            self.facts.append(decode_fact(value))

    def single(self, record: Outgoing, fallback: Fallback | None = None) -> None:
        self.sends[record.topic] += 1
        self.singles.append(record)
        self.fallbacks.append(fallback)

    async def send(self) -> None:
        """Everything is there already."""

    async def flush(self) -> None:
        """Everything is there already."""


def shard_context(
    sink: RecordingSink,
    instruments: Instruments | None = None,
    partition_of: Callable[[str], int] = lambda _: SHARD,
) -> ShardContext:
    """What a shard shares with others; by default it is the only one."""
    return ShardContext(
        topics=TOPICS,
        partition_of=partition_of,
        sink=sink,
        instruments=(instruments or Instruments()).shards,
        owner="this run",
        settings=ShardSettings(tolerance_micros=0, horizon_micros=1, cached_agents=10),
        others_passed=lambda _: None,
        pacing=Pacing(),
    )


async def opened_file(folder: Path) -> ShardFile:
    """The shard's file in a state folder."""
    return await ShardFile.open(shard_path(folder, SHARD), IDENTITY)


async def checkpoint(shard: Shard) -> None:
    """A shard's part of a checkpoint, with nothing to wait for."""
    snapshot = shard.snapshot()
    await snapshot.publish()
    await snapshot.write()
    shard.on_checkpoint_written()
