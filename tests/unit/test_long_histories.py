"""Agents with long histories: no step of the event loop works on all of one, no answer sees half of it."""

import asyncio
import string
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from learner_worker.contract.facts import Bid, Close, Fact, ForgetMarker, Result
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.domain.agents import AgentRow
from learner_worker.domain.keywords import LOOKED_AT, Tally, in_order, strongest
from learner_worker.shard.changelog import ChangelogApplier, MarkerFilter
from learner_worker.shard.pacing import CHUNK, Pacing
from learner_worker.stages.agent_cache import AgentCache
from learner_worker.stages.learn import Learn, MarkerRecord
from learner_worker.stages.release import GradualRelease
from learner_worker.store.statements import ROWS_AT_ONCE, Checkpoint, writes_of
from tests.unit.test_changelog_replay import records
from tests.unit.test_forgetting import ignore
from tests.unit.test_learn import MemoryRows, take

A, B = AgentId("a"), AgentId("b")
WORDS, TASKS = 300, 40
RESULT = Result(Micros(20), succeeded=True)


def words(first: int, count: int) -> str:
    """So many different words, none of which is a stop word."""
    alphabet = string.ascii_lowercase
    numbers = range(first, first + count)
    return " ".join(f"zz{alphabet[n // 676]}{alphabet[n // 26 % 26]}{alphabet[n % 26]}" for n in numbers)


def won(number: int, agent_id: AgentId = A) -> Fact:
    bid = Bid(Micros(5), 70, words(number * WORDS, WORDS))
    return Fact(TaskId(f"t{number:03}"), agent_id, Close(Micros(9), agent_id, 60), bid, RESULT)


async def turns_until_done(work: Coroutine[Any, Any, object], on_turn: Callable[[], object]) -> int:
    """How often the event loop turns while something works."""
    task, turns = asyncio.create_task(work), 0
    while not task.done():
        turns += 1
        on_turn()
        await asyncio.sleep(0)
    await task
    return turns


async def test_forgetting_yields_often_and_shows_all_or_nothing() -> None:
    """A step counts the words of a few rows; who asks meanwhile sees the agent as before, or none of it."""
    learn = Learn(MemoryRows(), cached_agents=10)
    await take(learn, [won(number) for number in range(TASKS)])
    agent = learn.agents.at_hand[A]
    before = (agent.row, len(agent.tallies), agent.learned_keywords())
    seen: list[object] = []
    turns = await turns_until_done(
        learn.forget([MarkerRecord(99, 9_000, ForgetMarker(A, Micros(30)))], ignore),
        lambda: seen.append((agent.row, len(agent.tallies), agent.learned_keywords())),
    )
    assert before[1] == WORDS * TASKS
    assert turns >= WORDS * TASKS // 1_500
    assert [state for state in seen if state not in (before, (AgentRow(), 0, []))] == []
    changes = learn.snapshot()
    assert len(changes.keywords) == WORDS * TASKS
    assert not any(map(any, changes.keywords.values()))
    assert not any(row.known for row in changes.outcomes.values())


@pytest.mark.parametrize("until", [5, 9, 20])
async def test_a_part_that_is_forgotten_leaves_the_tallies_of_the_rest(until: int) -> None:
    """Bids, closes or results until a moment: keywords, the strongest too, are those of the rows left.

    Without its bid a row counts by the words of its close.
    """
    facts = [
        Fact(
            TaskId(f"t{number}"),
            A,
            Close(Micros(7 + number % 4), A, 60, "d", words(9_000, 20)),
            Bid(Micros(4 + number % 3), 70, words(number * 10, 100)),
            Result(Micros(19 + number % 3), succeeded=number % 2 == 0),
        )
        for number in range(60)
    ]
    learn, anew = (Learn(MemoryRows(), cached_agents=10) for _ in range(2))
    await take(learn, facts)
    marker = ForgetMarker(A, Micros(until))
    await learn.forget([MarkerRecord(99, 9_000, marker)], ignore)
    living = (MarkerFilter({A: Micros(until)}).filter_read(fact) for fact in facts)
    await take(anew, [fact for fact in living if fact is not None])
    agent = learn.agents.at_hand[A]
    expected = anew.agents.at_hand.get(A)
    tallies = {} if expected is None else expected.tallies
    assert agent.tallies == tallies
    assert agent.strongest.strongest() == strongest(tallies)
    assert agent.strongest.strongest_and_top()[1] == in_order(tallies.items())[:10]
    changed = {word for (_, word), tally in learn.snapshot().keywords.items() if any(tally)}
    assert changed == tallies.keys()


class Counted(dict[int, int]):
    """A mapping that counts what is taken out of it."""

    taken = 0

    def popitem(self) -> tuple[int, int]:
        self.taken += 1
        return super().popitem()


async def test_a_large_mapping_is_emptied_a_part_at_a_time() -> None:
    """No more than a few thousand keys between two turns of the loop; a small mapping is left alone."""
    large, small = (Counted((number, 0) for number in range(count)) for count in (5 * LOOKED_AT, 9))
    unused, taken = GradualRelease(), [0]
    unused.add(large)
    unused.add(small)
    await turns_until_done(unused.release(), lambda: taken.append(large.taken))
    steps = [after - before for before, after in zip(taken, [*taken[1:], large.taken], strict=True)]
    assert (len(large), len(small)) == (0, 9)
    assert max(steps) <= LOOKED_AT


class Rows(MemoryRows):
    """Agents with more keywords than are freed at once."""

    async def load_agents(self, ids: Sequence[AgentId]) -> dict[AgentId, tuple[AgentRow, dict[str, Tally]]]:
        return {
            agent_id: (AgentRow(), {f"word{n}": Tally(1, 0) for n in range(LOOKED_AT + 1)})
            for agent_id in ids
        }


async def test_an_evicted_agent_is_whole_for_whoever_still_reads_it() -> None:
    """Its keywords are taken apart only when nobody has the agent any more; loaded again, it is another."""
    agents = AgentCache(Rows(), 1)
    held = (await agents.load([A]))[A]
    await agents.load([B])
    agents.trim(())
    await agents.unused.release()
    assert agents.get(A) is None
    assert len(held.tallies) == LOOKED_AT + 1
    tallies = held.tallies
    del held
    await agents.unused.release()
    assert tallies == {}
    assert len((await agents.load([A]))[A].tallies) == LOOKED_AT + 1


async def test_long_descriptions_make_short_chunks() -> None:
    """Facts whose words count are applied a few at a time, others as many as a chunk has."""

    class Noted(Pacing):
        def __init__(self) -> None:
            super().__init__()
            self.chunks: list[int] = []

        async def after_chunk(self, done: int) -> None:
            self.chunks.append(done)
            await super().after_chunk(done)

    async def chunks_of(facts: Sequence[Fact]) -> list[int]:
        pacing, topic = Noted(), TopicName("learner-outcomes")
        learn = Learn(MemoryRows(), cached_agents=10)
        positions = {topic: 0}
        await ChangelogApplier(
            learn, positions, topic, MarkerFilter({}), on_unreadable=lambda *_: None, pacing=pacing
        ).take(records(*facts))
        return pacing.chunks

    long = [won(number) for number in range(20)]  # each has 1,800 characters
    bid = Bid(Micros(5), 1, "it")
    short = [Fact(TaskId(f"s{number}"), A, Close(Micros(9), A), bid) for number in range(120)]
    closes = [Fact(fact.task_id, A, fact.close, fact.bid) for fact in long]
    results = [Fact(fact.task_id, A, result=RESULT) for fact in long]
    assert max(await chunks_of(long)) == 6
    assert max((await chunks_of([*closes, *results]))[-3:]) == 6
    assert await chunks_of(short) == [CHUNK, CHUNK, 20]


def test_a_statement_for_keywords_looks_at_few() -> None:
    """Kept and deleted ones in any order: full statements, and no more of either than one takes."""
    keywords = {(A, f"word{n}"): Tally(n % 3 % 2, 0) for n in range(3_000)} | {
        (B, f"word{n}"): Tally(0, 0) for n in range(3_000)
    }
    writes = [(name, list(rows)) for name, rows in writes_of(Checkpoint({}, keywords=keywords))]
    saved, deleted = (
        [rows for each, rows in writes if each == name] for name in ("save_keyword", "delete_keyword")
    )
    assert max(map(len, [*saved, *deleted])) == ROWS_AT_ONCE
    assert [len(rows) for rows in saved[:-1]] == [ROWS_AT_ONCE] * 4
    assert sum(map(len, saved)) + sum(map(len, deleted)) == 6_000
