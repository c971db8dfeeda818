"""When a shard writes metrics records."""

from pathlib import Path

import pytest

from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.kafka.patches import LightRecord
from learner_worker.shard.publishing import OWNER_HEADER, PUBLISHED_EVERY, OwnRecords
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


# --- the marks of a shard's own records -------------------------------------------------------------------


def marked(mark: bytes | None, key: bytes = b"ann", value: bytes | None = b"{}") -> LightRecord:
    return LightRecord("metrics", 0, 0, 0, key, value, [(OWNER_HEADER, mark)])


def test_a_shard_recognizes_each_of_its_own_records_once() -> None:
    """In their order; one that is written again is no more its own, and is compared by content."""
    own = OwnRecords("one-1")
    first, second = own.mark(b"ann", b"{}"), own.mark(b"ann", None)

    assert own.recognizes(marked(first))
    assert own.recognizes(marked(second, value=None))
    assert not own.recognizes(marked(first))
    assert not own.recognizes(marked(second, value=None))


def test_no_forged_record_counts_as_a_shards_own() -> None:
    """A mark of another record, opening or key, a changed number, a null header, or none at all."""
    own = OwnRecords("one-1")
    mark = own.mark(b"ann", b"{}")
    opening, number, digest = mark.split(b" ")
    forged = [
        *(marked(mark, value=b"[]"), marked(mark, value=None), marked(mark, key=b"bob")),
        *(marked(each) for each in (None, b"", b" ", opening, b"one-1 1", b"%b %b" % (opening, digest))),
        marked(b"%b 2 %b" % (opening, digest)),
        marked(b"%b %b %b" % (opening, b"9" * 5_000, digest)),
        marked(b"two-1 %b %b" % (number, digest)),
        marked(OwnRecords("one-1").mark(b"ann", b"{}")),
        marked(own.mark(b"an", b"n{}")[:-1] + b"x", key=b"an", value=b"n{}"),
        LightRecord("metrics", 0, 0, 0, b"ann", b"{}"),
    ]

    assert [record for record in forged if own.recognizes(record)] == []
    assert own.recognizes(marked(mark))
