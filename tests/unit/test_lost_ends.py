"""What a shard does when Kafka lost the end of its changelog, and when its file's pages are damaged."""

import gc
import weakref
from collections import Counter
from pathlib import Path

import pytest

from learner_worker.contract.facts import Bid, Close, Fact, Result, decode_fact
from learner_worker.contract.fields import AgentId, ShardId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName, Topics
from learner_worker.domain.outcomes import Outcome, join
from learner_worker.errors import StateError
from learner_worker.group.offsets import BrokerOffsets
from learner_worker.kafka.batching import Fallback
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.records import Headers, Outgoing, Unreadable
from learner_worker.observability import Instruments
from learner_worker.shard.shard import Shard, ShardContext
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.store.statements import Checkpoint

TOPICS = Topics().named()
IDENTITY = {"cluster_id": "c1", "topic_prefix": "", "partitions": "1", "shard": "0"}
WINNER, LOSER = AgentId("winner"), AgentId("loser")


class Sent:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
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

    def single(self, record: Outgoing, fallback: Fallback | None = None) -> None:  # noqa: ARG002
        self.sends[record.topic] += 1

    async def send(self) -> None:
        """Everything is there already."""

    async def flush(self) -> None:
        """Everything is there already."""


def outcomes(count: int) -> dict[tuple[TaskId, AgentId], Outcome]:
    """Rows of every kind: won with a result, lost, a result alone."""
    rows: list[Outcome] = []
    for number in range(count):
        task = TaskId(f"task-{number:05d}")
        close = Close(Micros(number), WINNER, 60)
        rows += [
            Outcome(task, WINNER, close, Bid(Micros(1), 70, "parse"), Result(Micros(9), succeeded=True)),
            Outcome(task, LOSER, close, Bid(Micros(1), 80, "parse")),
            Outcome(TaskId(f"{task}-later"), WINNER, None, None, Result(Micros(9), succeeded=False)),
        ]
    return {(row.task_id, row.agent_id): row for row in rows}


def context(sink: Sent) -> ShardContext:
    """What a shard shares with others."""
    return ShardContext(
        topics=TOPICS,
        partition_of=lambda _: 0,
        sink=sink,
        instruments=Instruments(),
        owner="this run",
        tolerance_micros=0,
        horizon_micros=1,
        cached_agents=10,
        others_passed=lambda _: None,
    )


@pytest.mark.parametrize(("end", "published"), [(100, False), (99, True), (0, True)])
async def test_rows_are_published_again_when_the_changelog_lost_its_end(
    end: int, published: bool, tmp_path: Path
) -> None:
    """The file has read up to 100; a changelog that ends before gets every row again, and is read anew."""
    rows = outcomes(700)
    file = await ShardFile.open(shard_path(tmp_path, ShardId(0)), IDENTITY)
    positions = dict.fromkeys(TOPICS.subscribed, 0) | {TOPICS.outcomes: 100}
    await file.write(Checkpoint(positions, outcomes=rows))
    sink = Sent()
    ends = dict.fromkeys(TOPICS.subscribed, OffsetRange(0, 0)) | {TOPICS.outcomes: OffsetRange(0, end)}
    shard = await Shard.open(ShardId(0), context(sink), file, BrokerOffsets({}, ends))
    folded: dict[tuple[TaskId, AgentId], Outcome] = {}
    for fact in sink.facts:
        key = (fact.task_id, fact.agent_id)
        folded[key] = join(folded.get(key, Outcome(*key)), fact)
    assert folded == (rows if published else {})
    assert shard.positions[TOPICS.outcomes] == (0 if published else 100)
    await shard.close()


async def test_a_file_with_damaged_pages_is_set_aside_and_the_next_start_is_fresh(tmp_path: Path) -> None:
    """Pages overwritten behind an intact header: the read fails once, and the restart begins anew."""
    path = shard_path(tmp_path, ShardId(0))
    file = await ShardFile.open(path, IDENTITY)
    await file.write(Checkpoint({TopicName("bid-placed"): 7}, outcomes=outcomes(2_000)))
    await file.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    with pytest.raises(StateError, match="set aside: restart"):
        await _open_and_read(path)
    assert path.with_suffix(".damaged").exists()
    fresh = await ShardFile.open(path, IDENTITY)
    assert await fresh.load_positions() == {}
    await fresh.close()


async def _open_and_read(path: Path) -> None:
    file = await ShardFile.open(path, IDENTITY)
    try:
        await file.load_outcomes([(TaskId("task-00001"), WINNER)])
    finally:
        await file.close()


async def test_a_closed_shard_leaves_memory_without_the_collector(tmp_path: Path) -> None:
    """Its agents and auctions go with it: the collector looks at what is old once an hour."""
    file = await ShardFile.open(shard_path(tmp_path, ShardId(0)), IDENTITY)
    offsets = BrokerOffsets({}, dict.fromkeys(TOPICS.subscribed, OffsetRange(0, 0)))
    gc.disable()
    try:
        shard = await Shard.open(ShardId(0), context(Sent()), file, offsets)
        await shard.process(TOPICS.outcomes, [Unreadable(TOPICS.outcomes, 0, 0, value=b"junk")])
        await shard.close()
        left = weakref.ref(shard)
        del shard
        assert left() is None
    finally:
        gc.enable()
