"""What a shard does when Kafka lost the end of a topic it writes, and when its file is damaged."""

import gc
import weakref
from pathlib import Path

import pytest

from learner_worker.contract.facts import Bid, Close, Result
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.domain.agents import AgentRow
from learner_worker.domain.metrics import Metrics
from learner_worker.domain.outcomes import Outcome, join
from learner_worker.errors import StateError
from learner_worker.group.offsets import BrokerOffsets
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.records import Unreadable
from learner_worker.shard.shard import Shard
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.store.statements import Checkpoint
from tests.support.shards import IDENTITY, NEW, SHARD, TOPICS, RecordingSink, opened_file, shard_context

WINNER, LOSER = AgentId("winner"), AgentId("loser")


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


@pytest.mark.parametrize(("end", "published"), [(100, False), (99, True), (0, True)])
async def test_rows_are_published_again_when_the_changelog_lost_its_end(
    end: int, published: bool, tmp_path: Path
) -> None:
    """The file has read up to 100; a changelog that ends before gets every row again, and is read anew."""
    rows = outcomes(700)
    file = await opened_file(tmp_path)
    positions = dict.fromkeys(TOPICS.subscribed, 0) | {TOPICS.outcomes: 100}
    await file.write(Checkpoint(positions, outcomes=rows))
    sink = RecordingSink()
    ends = dict.fromkeys(TOPICS.subscribed, OffsetRange(0, 0)) | {TOPICS.outcomes: OffsetRange(0, end)}
    shard = await Shard.open(SHARD, shard_context(sink), file, BrokerOffsets({}, ends))
    joined: dict[tuple[TaskId, AgentId], Outcome] = {}
    for fact in sink.facts:
        key = (fact.task_id, fact.agent_id)
        joined[key] = join(joined.get(key, Outcome(*key)), fact)
    assert joined == (rows if published else {})
    assert shard.positions[TOPICS.outcomes] == (0 if published else 100)
    await shard.close()


@pytest.mark.parametrize(("end", "due"), [(100, set()), (99, {WINNER, LOSER}), (0, {WINNER, LOSER})])
async def test_metrics_are_published_again_when_their_topic_lost_its_end(
    end: int, due: set[AgentId], tmp_path: Path
) -> None:
    """The file has read up to 100; in a topic that ends before, every agent's record is due again."""
    file = await opened_file(tmp_path)
    agents = dict.fromkeys([WINNER, LOSER], AgentRow(Metrics(total_bids=1), Micros(5), 3))
    await file.write(Checkpoint({TOPICS.metrics: 100}, agents=agents, published={WINNER, LOSER}))
    ends = dict.fromkeys(TOPICS.subscribed, OffsetRange(0, 0)) | {TOPICS.metrics: OffsetRange(0, end)}
    shard = await Shard.open(SHARD, shard_context(RecordingSink()), file, BrokerOffsets({}, ends))
    assert shard.learn.unpublished == due
    await shard.close()


async def test_a_file_with_damaged_pages_is_set_aside_and_the_next_start_is_fresh(tmp_path: Path) -> None:
    """Pages overwritten behind an intact header: the read fails once, and the restart begins anew."""
    path = shard_path(tmp_path, SHARD)
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
    file = await opened_file(tmp_path)
    gc.disable()
    try:
        shard = await Shard.open(SHARD, shard_context(RecordingSink()), file, NEW)
        await shard.process(TOPICS.outcomes, [Unreadable(TOPICS.outcomes, 0, 0, value=b"junk")])
        await shard.close()
        left = weakref.ref(shard)
        del shard
        assert left() is None
    finally:
        gc.enable()
