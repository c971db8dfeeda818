"""learn: outcomes and metrics by differences, with only a part of them in memory."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner_worker.contract.encode import KeywordTally, encode_message, encode_metrics
from learner_worker.contract.facts import Bid, Close, Fact, Result
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.suggestions import AgentMetricsRecord
from learner_worker.contract.times import Micros
from learner_worker.domain.agents import Agent, AgentRow
from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Metrics
from learner_worker.domain.outcomes import Outcome, OutcomeKey
from learner_worker.domain.sums import KeptSums
from learner_worker.stages.learn import FactRecord, Learn, LearnChanges
from learner_worker.stages.strategy_sums import StrategyAgent
from tests.support.totals import totals

A, B, C, D = AgentId("a"), AgentId("b"), AgentId("c"), AgentId("d")
T1, T2 = TaskId("t1"), TaskId("t2")
PARSE = Bid(Micros(5), 70, "parse it")


class MemoryRows:
    """A shard's file as two dictionaries."""

    def __init__(self) -> None:
        self.outcomes: dict[OutcomeKey, Outcome] = {}
        self.agents: dict[AgentId, AgentRow] = {}
        self.tallies: dict[tuple[AgentId, str], Tally] = {}
        self.sums: dict[StrategyAgent, KeptSums] = {}
        self.asked_agents: list[AgentId] = []

    async def load_outcomes(self, keys: Sequence[OutcomeKey]) -> dict[OutcomeKey, Outcome]:
        return {key: self.outcomes[key] for key in keys if key in self.outcomes}

    async def load_agents(self, ids: Sequence[AgentId]) -> dict[AgentId, tuple[AgentRow, dict[str, Tally]]]:
        self.asked_agents += ids
        return {
            agent_id: (self.agents[agent_id], self._words(agent_id))
            for agent_id in ids
            if agent_id in self.agents
        }

    async def load_sums(self, ids: Sequence[AgentId]) -> dict[AgentId, dict[str, KeptSums]]:
        found: dict[AgentId, dict[str, KeptSums]] = {}
        for (name, agent_id), kept in self.sums.items():
            if agent_id in ids:
                found.setdefault(agent_id, {})[name] = KeptSums.of(kept.pack())
        return found

    async def outcomes_after(self, after: OutcomeKey, limit: int) -> list[Outcome]:
        keys = sorted(key for key, row in self.outcomes.items() if key > after and row.known)
        return [self.outcomes[key] for key in keys[:limit]]

    async def keys_of_agents(self, ids: Sequence[AgentId]) -> AsyncIterator[list[OutcomeKey]]:
        for key in sorted(self.outcomes):
            yield [key] if key[1] in ids else []

    def _words(self, agent_id: AgentId) -> dict[str, Tally]:
        return {
            word: tally for (owner, word), tally in self.tallies.items() if owner == agent_id and any(tally)
        }

    def write(self, changes: LearnChanges) -> None:
        self.outcomes.update(changes.outcomes)
        self.agents.update(changes.agents)
        for agent_id, words in changes.keywords.items():
            self.tallies.update({(agent_id, word): tally for word, tally in words.items()})
        self.sums.update(changes.sums)


def closed(at: int, winner: AgentId | None) -> Close:
    return Close(Micros(at), winner)


def lost(agent_id: AgentId, task_id: TaskId = T1) -> Fact:
    return Fact(task_id, agent_id, closed(9, None), PARSE)


def won(agent_id: AgentId, task_id: TaskId = T1) -> Fact:
    return Fact(task_id, agent_id, closed(9, agent_id), PARSE)


def done(agent_id: AgentId, succeeded: bool, task_id: TaskId = T1, at: int = 20) -> Fact:
    return Fact(task_id, agent_id, result=Result(Micros(at), succeeded))


async def take(learn: Learn, facts: Iterable[Fact], first: int = 0) -> int:
    records = [FactRecord.of(offset, 1_000 + offset, fact) for offset, fact in enumerate(facts, first)]
    learn.pin(records)
    return learn.apply(records, await learn.load(records))


async def checkpoint(learn: Learn, rows: MemoryRows) -> None:
    """A whole checkpoint, the metrics published."""
    learn.unpublished.clear()
    rows.write(learn.snapshot())
    learn.on_checkpoint_written()


def in_cache(learn: Learn, *ids: AgentId) -> list[AgentId]:
    return [agent_id for agent_id in ids if learn.agents.get(agent_id) is not None]


async def agent_of(learn: Learn, agent_id: AgentId) -> Agent:
    return (await learn.agents.load([agent_id]))[agent_id]


# --- joining --------------------------------------------------------------------------------------


async def test_facts_become_metrics_and_keywords() -> None:
    """A won and failed task shows in the agent's counts, its keywords and its record."""
    learn = Learn(MemoryRows(), cached_agents=10)

    assert await take(learn, [won(A), done(A, succeeded=False)]) == 2
    agent = await agent_of(learn, A)
    assert (Metrics(1, 1, 0, 1, 1, 70), {"parse": Tally(0, 1)}) == (agent.metrics, agent.tallies)
    record = agent.record()
    assert [KeywordTally("parse", 0, 1, -1)] == record.learned_keywords
    assert (
        record.agent_id,
        record.total_bids,
        record.win_rate,
        record.success_rate,
        record.avg_winning_bid_sats,
        record.outcome_offset,
        record.as_of,
    ) == ("a", 1, 1.0, 0.0, 70.0, 1, "1970-01-01T00:00:01.001000Z")


async def test_a_result_that_flips_moves_the_keywords() -> None:
    """What the earlier result counted is taken back, and a keyword without counts is gone."""
    rows = MemoryRows()
    learn = Learn(rows, cached_agents=10)
    await take(learn, [won(A), done(A, succeeded=False)])
    await checkpoint(learn, rows)
    await take(learn, [done(A, succeeded=True, at=21)], 2)

    assert {"parse": Tally(1, 0)} == (await agent_of(learn, A)).tallies
    await take(learn, [Fact(T1, A, closed(10, B))], 3)
    assert (await agent_of(learn, A)).tallies == {}
    changes = learn.snapshot()
    assert {A: {"parse": Tally(0, 0)}} == changes.keywords
    assert Metrics(total_bids=1) == changes.agents[A].metrics


async def test_how_many_facts_said_something_new() -> None:
    """Copies and dominated facts change nothing, and leave no row to write."""
    rows = MemoryRows()
    learn = Learn(rows, cached_agents=10)
    assert await take(learn, [won(A), won(A), Fact(T1, A, closed(8, B))]) == 1
    await checkpoint(learn, rows)

    assert await take(learn, [won(A)], 3) == 0
    assert learn.snapshot() == LearnChanges({}, {}, {}, {})


async def test_an_invisible_row_is_kept_but_changes_no_metrics() -> None:
    """A result before its close is written, the agent is not; the close makes it count."""
    learn = Learn(MemoryRows(), cached_agents=10)
    assert await take(learn, [done(A, succeeded=True)]) == 1
    changes = learn.snapshot()

    row = Outcome(T1, A, result=Result(Micros(20), succeeded=True))
    assert LearnChanges({(T1, A): row}, {}, {}, {}) == changes
    assert learn.unpublished == set()
    await take(learn, [won(A)], 1)
    assert Metrics(1, 1, 1, 0, 1, 70) == (await agent_of(learn, A)).metrics


async def test_a_metrics_record_is_written_as_its_model_says() -> None:
    """Byte by byte what the contract's model would write: of an agent with outcomes, and of one without."""
    learn = Learn(MemoryRows(), cached_agents=10)
    await take(learn, [won(A), done(A, succeeded=True)])
    for agent_id in (A, B):
        written = encode_metrics((await agent_of(learn, agent_id)).record())

        assert encode_message(AgentMetricsRecord.model_validate_json(written)) == written


async def test_as_of_is_the_record_time_of_the_last_change() -> None:
    """None for an agent that is not known; it never goes back, and copies do not move it."""
    learn = Learn(MemoryRows(), cached_agents=10)
    assert (await agent_of(learn, A)).as_of is None
    for offset, timestamp_ms, fact in (
        (4, 7_000, won(A)),
        (5, 3_000, done(A, succeeded=True)),
        (6, 9_000, won(A)),
    ):
        record = FactRecord.of(offset, timestamp_ms, fact)
        learn.pin([record])
        learn.apply([record], await learn.load([record]))

    agent = await agent_of(learn, A)
    assert (agent.as_of, agent.row.outcome_offset) == ("1970-01-01T00:00:07.000000Z", 5)


# --- snapshots -----------------------------------------------------------------------------------------


async def test_a_cut_is_readable_until_it_is_written() -> None:
    """A fact that comes while its row is on its way to the file joins the row, not the file's."""
    rows = MemoryRows()
    learn = Learn(rows, cached_agents=10)
    await take(learn, [won(A)])
    frozen = learn.snapshot()
    await take(learn, [done(A, succeeded=True)], 1)

    assert {(T1, A): Outcome(T1, A, closed(9, A), PARSE)} == frozen.outcomes
    assert Metrics(1, 1, 0, 0, 1, 70) == frozen.agents[A].metrics
    rows.write(frozen)
    learn.on_checkpoint_written()
    assert {
        (T1, A): Outcome(T1, A, closed(9, A), PARSE, Result(Micros(20), succeeded=True))
    } == learn.snapshot().outcomes


async def test_changes_after_a_cut_do_not_show_in_it() -> None:
    """A snapshot's keywords, agents and rows stay as they were."""
    learn = Learn(MemoryRows(), cached_agents=10)
    await take(learn, [won(A), done(A, succeeded=True)])
    frozen = learn.snapshot()
    before = LearnChanges(
        dict(frozen.outcomes),
        dict(frozen.agents),
        {agent_id: dict(words) for agent_id, words in frozen.keywords.items()},
        {},
    )
    await take(learn, [won(A, T2), done(A, succeeded=True, task_id=T2), won(B, T2)], 2)

    assert before == frozen


async def test_a_written_row_is_read_from_the_file() -> None:
    """After the checkpoint memory lets go of the rows: the next fact joins what the file says."""
    rows = MemoryRows()
    learn = Learn(rows, cached_agents=10)
    await take(learn, [won(A)])
    await checkpoint(learn, rows)
    rows.outcomes[T1, A] = Outcome(T1, A, closed(9, A), Bid(Micros(6), 80, "label"))
    await take(learn, [done(A, succeeded=True)], 1)

    assert learn.snapshot().outcomes[T1, A].description == "label"


# --- what is to be published ----------------------------------------------------------------------


async def test_changed_agents_are_unpublished() -> None:
    """Agents whose metrics changed are noted until somebody takes the set; others are not."""
    learn = Learn(MemoryRows(), cached_agents=10)
    await take(learn, [won(A), lost(B), done(C, succeeded=True), Fact(T1, D, closed(9, A))])
    await learn.agents.load([D])

    assert {A, B} == learn.unpublished
    learn.unpublished = set()
    await take(learn, [won(A), done(B, succeeded=True)], 4)
    assert learn.unpublished == set()


# --- the cache ------------------------------------------------------------------------------------


async def test_the_cache_lets_go_of_the_agents_asked_for_least_recently() -> None:
    """Over its size, an unchanged agent goes, the one nobody asked for first."""
    rows = MemoryRows()
    learn = Learn(rows, cached_agents=2)
    await learn.agents.load([A, B, C])
    learn.agents.get(A)
    await checkpoint(learn, rows)

    assert in_cache(learn, A, B, C) == [A, C]


@pytest.mark.parametrize(("size", "kept"), [(1, [C]), (2, [B, C]), (3, [A, B, C]), (4, [A, B, C])])
async def test_the_cache_is_as_large_as_asked(size: int, kept: list[AgentId]) -> None:
    """No more agents stay than the setting says, and none goes before that."""
    learn = Learn(MemoryRows(), cached_agents=size)
    await learn.agents.load([A, B, C])
    learn.on_checkpoint_written()

    assert kept == in_cache(learn, A, B, C)


async def test_changed_agents_stay_however_small_the_cache() -> None:
    """Agents changed since the snapshot are needed for the next one, so they are never let go."""
    rows = MemoryRows()
    learn = Learn(rows, cached_agents=1)
    await take(learn, [won(A), won(B, T2)])
    frozen = learn.snapshot()
    await take(learn, [done(A, succeeded=True)], 2)
    await take(learn, [Fact(T2, D, closed(9, None))], 3)
    learn.unpublished.clear()
    rows.write(frozen)
    learn.on_checkpoint_written()

    assert in_cache(learn, A, B, C, D) == [A, D]
    assert Metrics(1, 1, 1, 0, 1, 70) == learn.snapshot().agents[A].metrics


async def test_unpublished_agents_may_leave_the_cache_but_are_not_forgotten() -> None:
    """An agent whose metrics record is still to be written is in the file: its name alone is kept."""
    rows = MemoryRows()
    learn = Learn(rows, cached_agents=1)
    await take(learn, [won(A)])
    await learn.agents.load([B, C])
    await take(learn, [done(D, succeeded=True)], 1)
    rows.write(learn.snapshot())
    learn.on_checkpoint_written()

    assert in_cache(learn, A, B, C, D) == [D]
    assert learn.unpublished == {A}


async def test_agents_loaded_for_a_batch_stay_until_it_is_applied() -> None:
    """A checkpoint that ends between load and apply takes no agent away."""
    learn = Learn(MemoryRows(), cached_agents=1)
    records = [FactRecord.of(offset, 0, won(agent_id)) for offset, agent_id in enumerate((A, B, C))]
    learn.pin(records)
    rows = await learn.load(records)
    learn.snapshot()
    learn.on_checkpoint_written()

    assert learn.apply(records, rows) == 3


async def test_an_agent_that_was_let_go_is_read_again() -> None:
    """The file gives back the metrics and keywords, and differences go on from them."""
    rows = MemoryRows()
    learn = Learn(rows, cached_agents=1)
    await take(learn, [won(A), done(A, succeeded=True)])
    await checkpoint(learn, rows)
    await take(learn, [won(B)], 2)
    await checkpoint(learn, rows)
    assert in_cache(learn, A) == []
    await take(learn, [won(A, T2), done(A, succeeded=True, task_id=T2)], 3)

    agent = await agent_of(learn, A)
    assert (Metrics(2, 2, 2, 0, 2, 140), {"parse": Tally(2, 0)}) == (agent.metrics, agent.tallies)


async def test_a_cached_agent_is_not_read_again() -> None:
    """Only missing agents are asked of the file, new ones once."""
    rows = MemoryRows()
    learn = Learn(rows, cached_agents=10)
    await learn.agents.load([A])
    await learn.agents.load([A, B])
    await asyncio.gather(learn.agents.load([C]), learn.agents.load([C]))

    assert rows.asked_agents == [A, B, C]


# --- incremental and recomputed -------------------------------------------------------------------

agents = st.sampled_from((A, B))
times = st.integers(0, 3).map(Micros)
facts = st.builds(
    Fact,
    st.sampled_from((T1, T2)),
    agents,
    st.none() | st.builds(Close, times, st.none() | agents, st.none() | st.integers(0, 2)),
    st.none() | st.builds(Bid, times, st.integers(0, 2), st.sampled_from(("", "parse", "parse label"))),
    st.none() | st.builds(Result, times, st.booleans()),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(facts, max_size=6), max_size=6), st.integers(1, 3))
def test_incremental_equals_recomputed(batches: list[list[Fact]], cached_agents: int) -> None:
    """After any batches and checkpoints every agent's metrics are those of its rows, computed at once."""
    asyncio.run(_incremental_equals_recomputed(batches, cached_agents))


async def _incremental_equals_recomputed(batches: list[list[Fact]], cached_agents: int) -> None:
    rows = MemoryRows()
    learn = Learn(rows, cached_agents=cached_agents)
    offset = 0
    for batch in batches:
        await take(learn, batch, offset)
        await checkpoint(learn, rows)
        offset += len(batch)
    for agent_id in (A, B):
        agent = await agent_of(learn, agent_id)
        own = (row for row in rows.outcomes.values() if row.agent_id == agent_id)
        assert totals(own) == (agent.metrics, agent.tallies)


class TrimmingRows(MemoryRows):
    """A file that is read while a checkpoint ends."""

    def __init__(self) -> None:
        super().__init__()
        self.learn: Learn | None = None

    async def load_agents(self, ids: Sequence[AgentId]) -> dict[AgentId, tuple[AgentRow, dict[str, Tally]]]:
        if self.learn is not None:
            self.learn.on_checkpoint_written()
        return await super().load_agents(ids)


async def test_agents_at_hand_stay_at_hand_while_others_are_read() -> None:
    """The cache is full and trimmed in the middle of the question: everybody asked for is told."""
    rows = TrimmingRows()
    learn = Learn(rows, cached_agents=1)
    await learn.agents.load([A, B])
    rows.learn = learn
    found = await learn.agents.load([A, B, C])
    assert [agent.agent_id for agent in found.values()] == [A, B, C]
