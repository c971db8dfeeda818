"""Retention knows no order: whatever is joined, taken away and repeated when, the same state remains."""

import asyncio
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from hypothesis import given, settings
from hypothesis import strategies as st

from learner_worker.contract.facts import Bid, Close, Fact, Result, decode_fact, encode_fact
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Metrics
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey, join, living, living_fact
from learner_worker.domain.retention import Policy, Retention
from learner_worker.stages.learn import FactRecord, Learn
from tests.unit.test_learn import MemoryRows, checkpoint

EXAMPLES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 200
GRACE = 4
TASKS = (TaskId("t"), TaskId("u"))
AGENTS = (AgentId("a"), AgentId("b"))
TEXTS = ("parse invoices", "label")
TIMES = st.integers(0, 20).map(Micros)
Rows = dict[OutcomeKey, Outcome]
Counts = dict[AgentId, tuple[Metrics, dict[str, Tally]]]


# --- what happens ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Join:
    """A fact is read; copies and any order."""

    fact: Fact


@dataclass(frozen=True)
class Move:
    """The cutoff moves, never back."""

    closes: int


@dataclass(frozen=True)
class Sweep:
    """Expired parts are taken out of the rows, as far as the cutoff has come."""


@dataclass(frozen=True)
class Restore:
    """The file is lost: the changelog is read again, compacted, without what was tombstoned."""


Step = Join | Move | Sweep | Restore


def closes() -> st.SearchStrategy[Close]:
    """Closes at few times."""
    return st.builds(Close, TIMES, st.sampled_from((None, *AGENTS)), st.sampled_from((None, 7)))


def bids() -> st.SearchStrategy[Bid]:
    return st.builds(Bid, TIMES, st.sampled_from((1, 2)), st.sampled_from(TEXTS))


def facts() -> st.SearchStrategy[Fact]:
    """A close with or without its bid, or a result: what settle sends, at any times."""
    settled = st.builds(Fact, st.sampled_from(TASKS), st.sampled_from(AGENTS), closes(), st.none() | bids())
    results = st.builds(Result, TIMES, st.booleans())
    finished = st.builds(
        lambda task_id, agent_id, result: Fact(task_id, agent_id, result=result),
        st.sampled_from(TASKS),
        st.sampled_from(AGENTS),
        results,
    )
    return st.one_of(settled, finished)


def step() -> st.SearchStrategy[Step]:
    return st.one_of(
        st.builds(Join, facts()), st.builds(Move, st.integers(0, 20)), st.just(Sweep()), st.just(Restore())
    )


# --- one shard, in memory -------------------------------------------------------------------------


class ShardId:
    """The real learn and retention, with a changelog that is compacted at once."""

    def __init__(self) -> None:
        self.log: dict[bytes, bytes] = {}
        self.retention = Retention(Policy(1, 1, GRACE, lambda: Micros(10**6)), None, None)
        self._open()

    def _open(self) -> None:
        self.rows = MemoryRows()
        self.learn = Learn(self.rows, cached_agents=2)

    async def take(self, step: Step) -> None:
        match step:
            case Join():
                await self._join([step.fact])
            case Move():
                self.retention.advance(Micros(step.closes + 1))
            case Sweep():
                await self.sweep()
            case Restore():
                self._open()
                await self._join([decode_fact(value) for value in self.log.values()])
            case _:
                assert_never(step)

    async def _join(self, facts: Sequence[Fact]) -> None:
        self.log |= dict(map(encode_fact, facts))
        left = [fact for fact in map(self.retention.filter_read, facts) if fact is not None]
        records = [FactRecord.of(offset, 0, fact) for offset, fact in enumerate(left)]
        self.learn.pin(records)
        self.learn.apply(records, await self.learn.load(records))

    async def sweep(self) -> None:
        """Every row is swept, every tombstone sent."""
        await checkpoint(self.learn, self.rows)
        if self.retention.cutoff is not None:
            for row in await self.learn.expire(list(self.rows.outcomes), self.retention.cutoff, 0):
                self.retention.on_row_swept(row, self.retention.cutoff)
        while slices := list(self.retention.take_due_tombstones(restored=True)):
            for key, left in itertools.chain.from_iterable(slices):
                if left is None:
                    self.log.pop(key, None)
                else:
                    self.log |= [encode_fact(left)]
        await checkpoint(self.learn, self.rows)

    def known(self) -> Rows:
        """The rows of which something is known."""
        return {key: row for key, row in self.rows.outcomes.items() if row.known}

    def counts(self) -> Counts:
        """The metrics and keywords of every agent that has any."""
        found: Counts = {}
        for agent_id, row in self.rows.agents.items():
            tallies = {
                word: tally
                for (owner, word), tally in self.rows.tallies.items()
                if owner == agent_id and any(tally)
            }
            if row.metrics != Metrics() or tallies:
                found[agent_id] = (row.metrics, tallies)
        return found


async def after(steps: Sequence[Step]) -> ShardId:
    shard = ShardId()
    for step in steps:
        await shard.take(step)
    await shard.sweep()
    return shard


def join_facts(facts: Sequence[Fact]) -> Rows:
    rows: Rows = {}
    for fact in facts:
        key = (fact.task_id, fact.agent_id)
        rows[key] = join(rows.get(key, Outcome(*key)), fact)
    return rows


# --- the tests ------------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES, deadline=None)
@given(steps=st.lists(step(), max_size=30), last=st.integers(0, 20), data=st.data())
def test_any_order_and_any_steps_of_the_cutoff_end_in_the_same_state(
    steps: list[Step], last: int, data: st.DataObject
) -> None:
    """Facts in any order and twice, the cutoff in many steps or one, sweeps and lost files between or not."""
    facts = [step.fact for step in steps if isinstance(step, Join)]
    moves = [step for step in steps if isinstance(step, Move)]
    final = Move(max([last, *(move.closes for move in moves)]))
    copies = data.draw(st.lists(st.sampled_from(facts), max_size=5)) if facts else []
    shuffled = data.draw(st.permutations([*map(Join, facts), *map(Join, copies)]))

    walked = asyncio.run(after([*steps, final]))
    at_once = asyncio.run(after([final, *shuffled]))
    at_last = asyncio.run(after([*shuffled, final]))

    cutoff = walked.retention.cutoff
    assert cutoff == Cutoff(Micros(final.closes), Micros(final.closes - GRACE))
    expected = {key: left for key, row in join_facts(facts).items() if (left := living(row, cutoff)).known}
    assert [expected] * 3 == [walked.known(), at_once.known(), at_last.known()]
    assert [walked.counts()] * 2 == [at_once.counts(), at_last.counts()]
    restored = asyncio.run(after([final, *(Join(decode_fact(value)) for value in walked.log.values())]))
    assert (expected, walked.counts()) == (restored.known(), restored.counts())


@settings(max_examples=EXAMPLES, deadline=None)
@given(steps=st.lists(step(), max_size=30), last=st.integers(0, 20))
def test_the_changelog_keeps_nothing_expired_but_what_was_superseded(steps: list[Step], last: int) -> None:
    """Of a fact with an expired part that is left in the log, a greater part had taken one's place."""
    moves = [step.closes for step in steps if isinstance(step, Move)]
    walked = asyncio.run(after([*steps, Move(max([last, *moves]))]))
    cutoff = walked.retention.cutoff
    assert cutoff is not None
    joined = join_facts([step.fact for step in steps if isinstance(step, Join)])
    expired = [
        fact
        for fact in map(decode_fact, walked.log.values())
        if living_fact(fact, cutoff) is not fact and (fact.close is not None or fact.result is not None)
    ]
    standing = [fact for fact in expired if _stands(fact, joined[fact.task_id, fact.agent_id])]
    assert standing == []


def _stands(fact: Fact, row: Outcome) -> bool:
    """Whether every part of the fact is the one that stands."""
    pairs = ((fact.close, row.close), (fact.bid, row.bid), (fact.result, row.result))
    return all(part is None or part == whole for part, whole in pairs)
