"""When a shard writes metrics records."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.domain.agents import AgentRow
from learner_worker.domain.bucketed import LOOKED_AT
from learner_worker.domain.keywords import TOP, Tally
from learner_worker.domain.metrics import Metrics
from learner_worker.kafka.patches import LightRecord
from learner_worker.shard.context import ShardSettings
from learner_worker.shard.publishing import OWNER_HEADER, PUBLISHED_EVERY, OwnRecords
from learner_worker.shard.shard import Shard
from learner_worker.store.statements import Checkpoint
from tests.support.shards import NEW, SHARD, TOPICS, RecordingSink, checkpoint, opened_file, shard_context
from tests.unit.test_long_histories import turns_until_done

CACHING = ShardSettings(tolerance_micros=0, horizon_micros=1, cached_agents=100)
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


@pytest.mark.parametrize("keywords", [LOOKED_AT // 4, LOOKED_AT, 2 * LOOKED_AT])
async def test_records_of_agents_with_many_keywords_are_made_a_few_at_a_time(
    keywords: int, tmp_path: Path
) -> None:
    """Few are written, and few of other owners' compared, between two turns of the event loop."""
    sink = RecordingSink()
    file = await opened_file(tmp_path)
    ids = [AgentId(f"agent-{number:02}") for number in range(40)]
    row = AgentRow(Metrics(total_bids=1), 1, 1)
    tallies = {f"word{number}": Tally(number % 7, number % 5 + 1) for number in range(keywords)}
    positions = dict.fromkeys(TOPICS.subscribed, 0)
    agents, words = dict.fromkeys(ids, row), dict.fromkeys(ids, tallies)
    await file.write(Checkpoint(positions, agents=agents, keywords=words))
    shard = await Shard.open(SHARD, replace(shard_context(sink), settings=CACHING), file, NEW)
    await shard.agents.load(ids)
    for topic in TOPICS.subscribed:
        shard.note_end(topic, NOW)

    written, compared = [0], [0]
    snapshot = shard.snapshot()
    await turns_until_done(snapshot.publish(), lambda: written.append(sink.sends[TOPICS.metrics]))
    others = [LightRecord(TOPICS.metrics, 0, n, 0, agent_id.encode(), None) for n, agent_id in enumerate(ids)]
    assert shard.learn.unpublished == set()
    await turns_until_done(
        shard.process(TOPICS.metrics, others), lambda: compared.append(len(shard.learn.unpublished))
    )
    assert (sink.sends[TOPICS.metrics], shard.learn.unpublished) == (40, set(ids))
    most = LOOKED_AT // keywords + 1
    assert max(after - before for before, after in itertools.pairwise([*written, 40])) <= most
    assert max(after - before for before, after in itertools.pairwise([*compared, 40])) <= most
    await shard.close()


async def test_the_first_keywords_of_a_record_are_looked_for_some_at_a_time(tmp_path: Path) -> None:
    """Also of an agent that is in memory and ready for answers, once none of its strongest ones wins."""
    sink = RecordingSink()
    file = await opened_file(tmp_path)
    agent_id, slices = AgentId("ann"), 6
    tallies = {f"word{number}": Tally(0, number % 5 + 1) for number in range(slices * LOOKED_AT)}
    won = {f"won{number}": Tally(9, 0) for number in range(TOP)}
    positions, row = dict.fromkeys(TOPICS.subscribed, 0), AgentRow(Metrics(total_bids=1), 1, 1)
    await file.write(Checkpoint(positions, agents={agent_id: row}, keywords={agent_id: tallies | won}))
    shard = await Shard.open(SHARD, replace(shard_context(sink), settings=CACHING), file, NEW)
    agent = (await shard.agents.load([agent_id]))[agent_id]
    for keyword in won:
        agent.tallies_to_change()[keyword] = Tally(9, 18)
        agent.strongest.note(keyword)
    assert shard.agents.get(agent_id) is agent
    for topic in TOPICS.subscribed:
        shard.note_end(topic, NOW)
    shard.learn.unpublished.add(agent_id)

    turns = await turns_until_done(shard.snapshot().publish(), lambda: None)
    assert sink.sends[TOPICS.metrics] == 1
    assert turns > slices
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
