"""Forgetting knows no order: wherever the markers stand, whatever is repeated, the same state remains."""

import asyncio
import os
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from learner_worker.contract.facts import Fact, ForgetMarker
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey, agents_cutoff, join, living
from learner_worker.shard.changelog import MarkerFilter
from learner_worker.stages.learn import FactRecord, Learn, MarkerRecord
from tests.property.test_retention import AGENTS, TIMES, facts
from tests.support.totals import totals
from tests.unit.test_learn import MemoryRows, checkpoint

EXAMPLES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 200
Content = Fact | ForgetMarker
MARKERS = st.builds(ForgetMarker, st.sampled_from(AGENTS), TIMES)
CONTENTS = st.lists(st.one_of(facts(), facts(), MARKERS), max_size=12)


async def applied(contents: Sequence[Content], checkpoints: set[int]) -> tuple[MemoryRows, Learn]:
    """A changelog as a fold takes it, with checkpoints after some records."""
    rows = MemoryRows()
    learn = Learn(rows, cached_agents=1)
    retention_filter = MarkerFilter(learn.forgotten)
    for offset, content in enumerate(contents):
        if isinstance(content, ForgetMarker):
            await learn.forget([MarkerRecord(offset, 0, content)], retention_filter.on_row_swept)
        elif (fact := retention_filter.filter_read(content)) is not None:
            record = FactRecord.of(offset, 0, fact)
            learn.pin([record])
            learn.apply([record], await learn.load([record]))
        if offset in checkpoints:
            await checkpoint(learn, rows)
    await checkpoint(learn, rows)
    return rows, learn


def expected(contents: Sequence[Content]) -> dict[OutcomeKey, Outcome]:
    """All facts joined first, and all that is forgotten taken away then."""
    until: dict[AgentId, Micros] = {}
    joined: dict[OutcomeKey, Outcome] = {}
    for content in contents:
        if isinstance(content, ForgetMarker):
            before = until.get(content.agent_id, content.forget_until)
            until[content.agent_id] = max(before, content.forget_until)
        else:
            key: tuple[TaskId, AgentId] = (content.task_id, content.agent_id)
            joined[key] = join(joined.get(key, Outcome(*key)), content)
    left = {
        key: living(row, agents_cutoff(key[1], None, until) or Cutoff(Micros(-1), Micros(-1)))
        for key, row in joined.items()
    }
    return {key: row for key, row in left.items() if row.known}


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    CONTENTS.flatmap(lambda found: st.tuples(st.just(found), st.permutations([*found, *found[:3]]))),
    st.sets(st.integers(0, 12)),
)
def test_any_order_and_any_copies_end_in_the_same_rows_and_metrics(
    orders: tuple[list[Content], list[Content]], checkpoints: set[int]
) -> None:
    """Join first and forget then is the naive way; the metrics are those of the rows that are left."""
    contents, shuffled = orders
    rows, learn = asyncio.run(applied(shuffled, checkpoints))
    known = {key: row for key, row in rows.outcomes.items() if row.known}
    assert known == expected(contents)
    for agent_id in AGENTS:
        agent = asyncio.run(learn.agents.load([agent_id]))[agent_id]
        own = (row for row in known.values() if row.agent_id == agent_id)
        assert (agent.metrics, agent.tallies) == totals(own)
