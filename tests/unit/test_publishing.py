"""When a shard writes metrics records."""

from pathlib import Path

import pytest

from learner_worker.contract.fields import AgentId, Shard
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName, Topics
from learner_worker.observability import Instruments
from learner_worker.stages.shard import _PUBLISHED_EVERY, ShardState, Surroundings
from learner_worker.store.shard_file import ShardFile
from learner_worker.stream.ownership import Marks
from learner_worker.stream.records import Headers, Outgoing
from learner_worker.stream.writer import Fallback

TOPICS = Topics().named()
NOW = Micros(1_767_225_600_000_000)


class Written:
    """An outbox that counts what goes to the metrics topic."""

    def __init__(self) -> None:
        self.metrics = 0

    def append(
        self,
        topic: str,
        partition: int,  # noqa: ARG002
        key: bytes,  # noqa: ARG002
        value: bytes | None,  # noqa: ARG002
        headers: Headers = (),  # noqa: ARG002
    ) -> None:
        self.metrics += topic == TOPICS.metrics

    def single(self, record: Outgoing, fallback: Fallback | None = None) -> None:
        """Nothing of the kind is made here."""

    async def send(self) -> None:
        """Everything is there already."""

    async def flush(self) -> None:
        """Everything is there already."""


async def checkpoint(shard: ShardState) -> None:
    """One agent has changed, and a checkpoint follows."""
    shard.learn.unpublished.add(AgentId("a"))
    cut = shard.cut()
    await cut.publish()
    await cut.write()
    shard.written()


@pytest.mark.parametrize("backlog", [TOPICS.bid_placed, TOPICS.outcomes])
async def test_with_a_backlog_an_agent_is_not_written_with_every_checkpoint(
    backlog: TopicName, tmp_path: Path
) -> None:
    outbox = Written()
    around = Surroundings(
        topics=TOPICS,
        partition_of=lambda _: 0,
        outbox=outbox,
        instruments=Instruments(),
        owner="this run",
        tolerance_micros=0,
        horizon_micros=1,
        cached_agents=10,
        others_passed=lambda _: None,
    )
    file = await ShardFile.open(tmp_path / "shard-00000.sqlite3", {"shard": "0"})
    marks = Marks({}, dict.fromkeys(TOPICS.subscribed, (0, 0)))
    shard = await ShardState.open(Shard(0), around, file, marks)
    for topic in TOPICS.subscribed:
        shard.reached(topic, NOW)
    for _ in range(3):
        await checkpoint(shard)
    assert outbox.metrics == 3
    shard.reached(backlog, None)
    for _ in range(2 * _PUBLISHED_EVERY):
        await checkpoint(shard)
    assert outbox.metrics == 5
    shard.reached(backlog, NOW)
    await checkpoint(shard)
    assert outbox.metrics == 6
    await shard.close()
