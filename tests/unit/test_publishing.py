"""When a shard writes metrics records."""

from pathlib import Path

import pytest

from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.shard.publishing import PUBLISHED_EVERY
from learner_worker.shard.shard import Shard
from tests.support.shards import NEW, SHARD, TOPICS, RecordingSink, checkpoint, opened_file, shard_context

NOW = Micros(1_767_225_600_000_000)


async def change_and_checkpoint(shard: Shard) -> None:
    """One agent has changed, and a checkpoint follows."""
    shard.learn.unpublished.add(AgentId("a"))
    await checkpoint(shard)


@pytest.mark.parametrize("backlog", [TOPICS.bid_placed, TOPICS.outcomes])
async def test_with_a_backlog_an_agent_is_not_written_with_every_checkpoint(
    backlog: TopicName, tmp_path: Path
) -> None:
    """Before it and after it with every one."""
    sink = RecordingSink()
    file = await opened_file(tmp_path)
    shard = await Shard.open(SHARD, shard_context(sink), file, NEW)
    for topic in TOPICS.subscribed:
        shard.note_end(topic, NOW)
    for _ in range(3):
        await change_and_checkpoint(shard)
    assert sink.sends[TOPICS.metrics] == 3
    shard.note_end(backlog, None)
    for _ in range(2 * PUBLISHED_EVERY):
        await change_and_checkpoint(shard)
    assert sink.sends[TOPICS.metrics] == 5
    shard.note_end(backlog, NOW)
    await change_and_checkpoint(shard)
    assert sink.sends[TOPICS.metrics] == 6
    await shard.close()
