"""When a shard writes metrics records."""

from pathlib import Path

import pytest

from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.group.offsets import BrokerOffsets
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.shard.shard import _PUBLISHED_EVERY, Shard
from learner_worker.store.shard_file import ShardFile, shard_path
from tests.unit.test_lost_ends import IDENTITY, TOPICS, Sent, context

NOW = Micros(1_767_225_600_000_000)


async def checkpoint(shard: Shard) -> None:
    """One agent has changed, and a checkpoint follows."""
    shard.learn.unpublished.add(AgentId("a"))
    snapshot = shard.snapshot()
    await snapshot.publish()
    await snapshot.write()
    shard.on_checkpoint_written()


@pytest.mark.parametrize("backlog", [TOPICS.bid_placed, TOPICS.outcomes])
async def test_with_a_backlog_an_agent_is_not_written_with_every_checkpoint(
    backlog: TopicName, tmp_path: Path
) -> None:
    """Before it and after it with every one."""
    sink = Sent()
    file = await ShardFile.open(shard_path(tmp_path, ShardId(0)), IDENTITY)
    offsets = BrokerOffsets({}, dict.fromkeys(TOPICS.subscribed, OffsetRange(0, 0)))
    shard = await Shard.open(ShardId(0), context(sink), file, offsets)
    for topic in TOPICS.subscribed:
        shard.reached(topic, NOW)
    for _ in range(3):
        await checkpoint(shard)
    assert sink.sends[TOPICS.metrics] == 3
    shard.reached(backlog, None)
    for _ in range(2 * _PUBLISHED_EVERY):
        await checkpoint(shard)
    assert sink.sends[TOPICS.metrics] == 5
    shard.reached(backlog, NOW)
    await checkpoint(shard)
    assert sink.sends[TOPICS.metrics] == 6
    await shard.close()
