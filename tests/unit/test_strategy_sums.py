"""A strategy's sums in learn: by differences, corrected exactly, counted anew in pages from an older file."""

import asyncio
import itertools
import random
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from learner_worker.contract.facts import Bid, Close, Fact, ForgetMarker, Result
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.bucketed import LOOKED_AT, BucketedDict
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey
from learner_worker.domain.sums import Cells, KeptSums
from learner_worker.operations.comparison import compare
from learner_worker.shard.pacing import Pacing
from learner_worker.stages.learn import BACKFILLED, FactRecord, Learn, MarkerRecord, rows_after
from learner_worker.stages.strategy_sums import StrategySums
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.snapshot import snapshot_of
from learner_worker.store.statements import Checkpoint
from learner_worker.strategies.expected_profit import EXPECTED_PROFIT
from tests.support.profit_model import bin_of
from tests.unit.test_learn import MemoryRows
from tests.unit.test_long_histories import turns_until_done

A, B = AgentId("a"), AgentId("b")
T1 = TaskId("t1")
FIRST: OutcomeKey = (TaskId(""), AgentId(""))
NAME = "expected-profit"


def close(at: int, winner: AgentId | None, sats: int | None = None) -> Close:
    return Close(Micros(at), winner, sats)


def bid(sats: int, at: int = 5) -> Bid:
    return Bid(Micros(at), sats, "parse it")


def learning(rows: MemoryRows, counted_to: OutcomeKey | None = None, cached_agents: int = 10) -> Learn:
    return Learn(rows, cached_agents=cached_agents, sums=[StrategySums(EXPECTED_PROFIT, counted_to)])


async def take(learn: Learn, facts: Iterable[Fact], first: int = 0) -> None:
    records = [FactRecord.of(offset, 1_000 + offset, fact) for offset, fact in enumerate(facts, first)]
    learn.pin(records)
    learn.apply(records, await learn.load(records))


async def sums_of(learn: Learn, agent_id: AgentId) -> Cells:
    agent = (await learn.agents.load([agent_id]))[agent_id]
    kept = agent.sums.get(NAME)
    return {} if kept is None else kept.read()


def checkpoint(learn: Learn, rows: MemoryRows) -> None:
    rows.write(learn.snapshot())
    learn.on_checkpoint_written()


def counted(rows: Iterable[Outcome], agent_id: AgentId) -> Cells:
    """The prices in an agent's rows, one by one, by the strategy's definition."""
    cells: Cells = {}
    for row in rows:
        if row.agent_id != agent_id or row.close is None or not row.counts:
            continue
        won = row.close.winner == agent_id
        own = row.bid.bid_sats if row.bid is not None else None
        if won and row.close.winning_bid_sats is not None:
            own = row.close.winning_bid_sats
        price = own if won else None if row.close.winner is None else row.close.winning_bid_sats
        if own and price:
            group = cells.setdefault(bin_of(own) // 8, {})
            losses, wins = group.get(bin_of(price), (0, 0))
            group[bin_of(price)] = (losses, wins + 1) if won else (losses + 1, wins)
    return cells


async def test_a_lost_bid_counts_the_winners_price() -> None:
    """It changes nothing but total_bids in the metrics, and all the same one cell."""
    learn = learning(MemoryRows())
    await take(learn, [Fact(T1, A, close(9, B, 60), bid(70))])

    assert await sums_of(learn, A) == {6: {46: (1, 0)}}


async def test_a_corrected_price_is_taken_out_and_put_in() -> None:
    """Also where the metrics stay as they are: then no metrics record is due, and as_of stands."""
    rows = MemoryRows()
    learn = learning(rows)
    await take(learn, [Fact(T1, A, close(9, B, 60), bid(70))])
    learn.unpublished.clear()
    checkpoint(learn, rows)
    await take(learn, [Fact(T1, A, close(10, B, 30), None)], 5)

    agent = (await learn.agents.load([A]))[A]
    assert await sums_of(learn, A) == {6: {bin_of(30): (1, 0)}}
    assert (agent.row.as_of_ms, agent.row.outcome_offset, learn.unpublished) == (1_000, 0, set())
    checkpoint(learn, rows)
    assert {key: kept.read() for key, kept in rows.sums.items()} == {(NAME, A): {6: {bin_of(30): (1, 0)}}}


async def test_what_is_taken_out_leaves_nothing() -> None:
    """A close that names nobody takes the only price away: no cell, no group."""
    rows = MemoryRows()
    learn = learning(rows)
    await take(learn, [Fact(T1, A, close(9, B, 60), bid(70))])
    checkpoint(learn, rows)
    await take(learn, [Fact(T1, A, close(10, None), None)], 1)

    assert await sums_of(learn, A) == {}
    changed = learn.snapshot()
    assert [(key, kept.read()) for key, kept in changed.sums.items()] == [((NAME, A), {})]


async def test_a_snapshot_keeps_its_sums_while_facts_go_on() -> None:
    """What is counted after it is in the next one."""
    rows = MemoryRows()
    learn = learning(rows)
    await take(learn, [Fact(T1, A, close(9, B, 60), bid(70))])
    frozen = learn.snapshot()
    await take(learn, [Fact(TaskId("t2"), A, close(9, B, 60), bid(70))], 1)

    assert frozen.sums[NAME, A].read() == {6: {46: (1, 0)}}
    rows.write(frozen)
    learn.on_checkpoint_written()
    assert await sums_of(learn, A) == {6: {46: (2, 0)}}
    assert learn.snapshot().sums[NAME, A].read() == {6: {46: (2, 0)}}


async def test_expired_rows_leave_the_sums() -> None:
    """Retention takes a close away, and with it the price it told."""
    rows = MemoryRows()
    learn = learning(rows)
    await take(
        learn, [Fact(T1, A, close(9, B, 60), bid(70)), Fact(TaskId("t2"), A, close(20, B, 60), bid(70, 15))]
    )
    await learn.expire([(T1, A)], Cutoff(Micros(10), Micros(6)), 5_000)

    assert await sums_of(learn, A) == {6: {46: (1, 0)}}


async def test_a_forgotten_agent_has_no_sums() -> None:
    """A marker takes away what every row of its agent had counted, and nobody else's."""
    rows = MemoryRows()
    learn = learning(rows)
    await take(learn, [Fact(T1, who, close(9, B, 60), bid(70)) for who in (A, B)])
    checkpoint(learn, rows)
    marker = ForgetMarker(A, Micros(100))
    await learn.forget([MarkerRecord(7, 9_000, marker)], lambda _row, _cutoff: None)

    assert (await sums_of(learn, A), await sums_of(learn, B)) == ({}, {5: {46: (0, 1)}})


def random_facts(rng: random.Random, count: int) -> list[Fact]:
    """Bids, closes and results of few tasks, corrected again and again."""
    facts: list[Fact] = []
    for _ in range(count):
        task, agent = TaskId(f"t{rng.randrange(900)}"), rng.choice([A, B])
        if rng.random() < 0.2:
            facts.append(Fact(task, agent, result=Result(Micros(rng.randrange(50)), rng.random() < 0.5)))
            continue
        winner = rng.choice([A, B, AgentId("c"), None])
        price = rng.choice([None, 0, 1, rng.randrange(500)])
        closed = close(rng.randrange(10, 20), winner, None if winner is None else price)
        facts.append(Fact(task, agent, closed, bid(rng.choice([0, rng.randrange(500)]), rng.randrange(10))))
    return facts


async def backfilled(learn: Learn) -> None:
    while await learn.backfill():
        pass


class Story:
    """A worker counts the rows of an older file; anything may come between two pages.

    Attributes:
        is_over: whether the file says that every row is counted.
    """

    def __init__(self, seed: int, rows: MemoryRows, facts: Iterable[Fact]) -> None:
        self.rng, self.rows, self.learn = random.Random(seed), rows, learning(rows, FIRST)
        self.is_over = False
        self._facts, self._offset = iter(facts), 10_000
        self._counted_to: OutcomeKey | None = FIRST

    async def go_on(self, count: int | None = None) -> None:
        """Some more facts are read, or all."""
        facts = list(itertools.islice(self._facts, count))
        await take(self.learn, facts, self._offset)
        self._offset += len(facts)

    async def write(self) -> None:
        """A checkpoint; facts may go on while it is written."""
        changes = self.learn.snapshot()
        if self.rng.random() < 0.5:
            await self.go_on(20)
        self.rows.write(changes)
        self._counted_to = changes.counted_to[NAME]
        self.is_over = self._counted_to is None
        self.learn.on_checkpoint_written()

    async def expire(self) -> None:
        """Some rows lose what is too old."""
        keys = self.rng.sample(sorted(self.rows.outcomes), 30)
        await self.learn.expire(keys, Cutoff(Micros(12), Micros(3)), 1)

    async def crash(self) -> None:
        """The changes since the last checkpoint are lost."""
        if self.rng.random() < 0.2:
            self.learn = learning(self.rows, self._counted_to)

    async def count(self) -> None:
        """A page."""
        await self.learn.backfill()


@pytest.mark.parametrize("seed", range(30))
async def test_rows_of_an_older_file_are_counted_once_beside_changes(seed: int) -> None:
    """Between two pages rows come, change, expire, are written and are lost with their memory."""
    rows, facts = MemoryRows(), random_facts(random.Random(seed), 3_000)
    old = Learn(rows, cached_agents=10)
    await take(old, facts[:2_000])
    checkpoint(old, rows)
    story = Story(seed, rows, facts[2_000:])
    steps = [lambda: story.go_on(60), story.write, story.expire, story.count, story.crash]
    while not story.is_over:
        await story.rng.choice(steps)()
    await story.go_on()
    checkpoint(story.learn, rows)

    living = [row for row in rows.outcomes.values() if row.known]
    for agent_id in (A, B):
        assert await sums_of(story.learn, agent_id) == counted(living, agent_id) != {}


def lost_bids(count: int, winning_sats: int, at: int = 9) -> list[Fact]:
    """One agent's bids, each with the same close: a later one is a correction."""
    return [
        Fact(TaskId(f"t{number:06}"), A, close(at, B, winning_sats), bid(70) if at == 9 else None)
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [4 * LOOKED_AT, 12 * LOOKED_AT])
async def test_rows_that_no_checkpoint_has_written_are_counted_in_pages(count: int) -> None:
    """However many an agent has: they are searched some at a time, and a page is as long as of a file."""
    rows = MemoryRows()
    learn = learning(rows, FIRST)
    await take(learn, lost_bids(count, 60))
    turns = await turns_until_done(learn.backfill(), lambda: None)
    assert turns >= count // (2 * LOOKED_AT)
    assert learn.sums[0].counted_to == (f"t{BACKFILLED - 1:06}", A)
    assert await sums_of(learn, A) == {6: {46: (BACKFILLED, 0)}}


async def test_pages_of_rows_in_file_and_memory_are_those_of_all_rows() -> None:
    """Rows of the file, of a checkpoint that is being written and newer ones, each key once, in order."""
    rng = random.Random(1)
    rows = MemoryRows()
    generations: list[dict[OutcomeKey, Outcome]] = [
        {
            (TaskId(f"t{number:04}"), A): Outcome(TaskId(f"t{number:04}"), A, close(at, B, at))
            for number in rng.sample(range(1_500), 700)
        }
        for at in (9, 10, 11)
    ]
    rows.outcomes = generations[0]
    memory = (generations[1], BucketedDict(generations[2].items()))
    after, found = FIRST, list[Outcome]()
    while True:
        page, last = await rows_after(after, lambda: memory, rows, 130)
        found += page
        if last is None:
            break
        assert (len(page), (page[-1].task_id, page[-1].agent_id)) == (130, last)
        after = last
    newest = generations[0] | generations[1] | generations[2]
    assert found == [newest[key] for key in sorted(newest)]


@pytest.mark.parametrize("turn", range(1, 12))
async def test_a_row_is_counted_as_it_is_while_checkpoints_move_it_to_the_file(turn: int) -> None:
    """One is written, the next one too, and both are freed, between two looks at the rows in memory."""
    rows = MemoryRows()
    learn = learning(rows, FIRST)
    count = 5 * LOOKED_AT
    await take(learn, lost_bids(count, 60))
    first = learn.snapshot()
    await take(learn, lost_bids(count, 30, at=10), count)
    counting = asyncio.create_task(learn.backfill())
    for _ in range(turn):
        await asyncio.sleep(0)
    for changes in (first, None):
        rows.write(learn.snapshot() if changes is None else changes)
        learn.on_checkpoint_written()
        await learn.agents.unused.release(Pacing().give_way)
    await counting
    assert await sums_of(learn, A) == {6: {bin_of(30): (BACKFILLED, 0)}}


class Other:
    """expected-profit under another name."""

    name = "other"
    version = 1
    addends = staticmethod(EXPECTED_PROFIT.addends)
    suggest = staticmethod(EXPECTED_PROFIT.suggest)


async def test_two_strategies_are_counted_one_after_the_other() -> None:
    """Each has its own place in the rows."""

    rows = MemoryRows()
    old = Learn(rows, cached_agents=10)
    await take(old, random_facts(random.Random(1), 900))
    checkpoint(old, rows)
    sums: Sequence[StrategySums] = [StrategySums(EXPECTED_PROFIT, FIRST), StrategySums(Other(), FIRST)]
    learn = Learn(rows, cached_agents=10, sums=sums)
    assert await learn.backfill()
    await backfilled(learn)
    agent = (await learn.agents.load([A]))[A]
    assert agent.sums[NAME].read() == agent.sums["other"].read() == counted(rows.outcomes.values(), A) != {}


@pytest.mark.parametrize("size", [1, 2])
async def test_agents_leave_memory_only_when_their_sums_are_written(size: int) -> None:
    """Counting rows changes no metrics: the sums alone keep an agent in memory."""
    rows = MemoryRows()
    old = Learn(rows, cached_agents=10)
    facts = [Fact(T1, AgentId(f"a{number}"), close(9, B, 60), bid(70)) for number in range(9)]
    await take(old, facts)
    checkpoint(old, rows)
    learn = learning(rows, FIRST, cached_agents=size)
    learn.snapshot()
    await backfilled(learn)
    learn.on_checkpoint_written()
    await learn.agents.load([B])
    checkpoint(learn, rows)
    assert [await sums_of(learn, fact.agent_id) for fact in facts] == [{6: {46: (1, 0)}}] * 9


@pytest.mark.parametrize("counted_to", [None, ("t1", "a")])
async def test_verify_compares_the_sums_with_the_rows_that_are_counted(
    tmp_path: Path, counted_to: OutcomeKey | None
) -> None:
    """A file whose sums are those of its counted rows has no difference; other sums are named, alone."""
    facts = [Fact(TaskId(f"t{number}"), A, close(9, B, 60), bid(70)) for number in (1, 2)]
    right: Cells = {6: {46: (2 if counted_to is None else 1, 0)}}
    files: dict[str, Cells] = {"right": right, "wrong": {6: {46: (5, 0)}}, "replayed": {}}
    for name, cells in files.items():
        file = await ShardFile.open(tmp_path / name, {"shard": "3"})
        await file.claim_strategies({NAME: EXPECTED_PROFIT.version})
        learn = Learn(file, cached_agents=10)
        await take(learn, facts)
        changes = learn.snapshot()
        await file.write(
            Checkpoint(
                {},
                outcomes=changes.outcomes,
                agents=changes.agents,
                keywords=changes.keywords,
                sums={(NAME, A): KeptSums(cells, None)},
                counted_to={NAME: counted_to},
            )
        )
        await file.close()
    with ExitStack() as stack:
        found, wrong, replayed = (stack.enter_context(snapshot_of(tmp_path / name)) for name in files)
        assert compare(found, replayed, strategies=[EXPECTED_PROFIT]).count == 0
        assert compare(wrong, replayed).count == 0, "a strategy that is not known here is not compared"
        differing = compare(wrong, replayed, strategies=[EXPECTED_PROFIT])
    named = [(each.agent, each.field, each.file, each.changelog) for each in differing.differences]
    assert named == [(A, f"sums of {NAME}", {6: {46: (5, 0)}}, right)]
