"""Agents with long histories: no step of the event loop works on all of one, no answer sees half of it."""

import asyncio
import itertools
import string
import weakref
from collections import Counter, UserDict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from learner_worker.contract.decode import Placed
from learner_worker.contract.facts import Bid, Close, Fact, ForgetMarker, Result
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.domain.agents import AgentRow
from learner_worker.domain.bucketed import LOOKED_AT
from learner_worker.domain.keywords import Tally, in_order, strongest
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey
from learner_worker.shard.changelog import ChangelogApplier, MarkerFilter
from learner_worker.shard.pacing import CHUNK, Pacing
from learner_worker.stages.agent_cache import AgentCache
from learner_worker.stages.learn import Learn, MarkerRecord
from learner_worker.stages.release import GradualRelease
from learner_worker.stages.settle import Place, Settle
from learner_worker.store.statements import ROWS_AT_ONCE, Checkpoint, writes_of
from learner_worker.worker.freeing import free_in_background
from tests.support.conditions import ended
from tests.unit.test_changelog_replay import records
from tests.unit.test_forgetting import ignore
from tests.unit.test_learn import MemoryRows, take

A, B, C, D = (AgentId(name) for name in "abcd")
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
    assert len(changes.keywords[A]) == WORDS * TASKS
    assert not any(map(any, changes.keywords[A].values()))
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
    changed = {word for word, tally in learn.snapshot().keywords[A].items() if any(tally)}
    assert changed == tallies.keys()


async def test_what_changed_before_a_forget_is_written_with_it() -> None:
    """Rows and words changed since the last checkpoint, another one in the middle: the file has all."""
    rows = MemoryRows()
    learn = Learn(rows, cached_agents=10)
    await take(learn, [won(number) for number in range(TASKS)])
    later = Result(Micros(40), succeeded=False)
    kept = Fact(TaskId("kept"), A, Close(Micros(39), A, 60), Bid(Micros(38), 70, words(0, 500)), later)
    await take(learn, [kept], TASKS)
    half = learn.forget([MarkerRecord(99, 9_000, ForgetMarker(A, Micros(30)))], ignore)
    checkpoints = iter([False] * 12 + [True])

    def checkpoint_once() -> None:
        if next(checkpoints, False):
            rows.write(learn.snapshot())
            learn.on_checkpoint_written()

    assert await turns_until_done(half, checkpoint_once) > 13
    assert learn.agents.at_hand[A].tallies == dict.fromkeys(words(0, 500).split(), Tally(0, 1))
    rows.write(learn.snapshot())
    anew = (await Learn(rows, cached_agents=10).agents.load([A]))[A]
    assert (anew.row, anew.tallies) == (learn.agents.at_hand[A].row, learn.agents.at_hand[A].tallies)
    assert [key for key, row in rows.outcomes.items() if row.known] == [(TaskId("kept"), A)]


async def test_an_agent_that_has_grown_is_ranked_in_slices_before_it_is_asked() -> None:
    """It was never asked while it grew: not ready at once, then in many steps, then as by a full sort."""
    learn = Learn(MemoryRows(), cached_agents=10)
    await take(learn, [won(number) for number in range(TASKS)])
    agent = learn.agents.at_hand[A]
    assert learn.agents.get(A) is None
    await learn.agents.load([A], for_change=True)
    assert learn.agents.get(A) is None
    turns = await turns_until_done(learn.agents.load([A]), lambda: None)
    assert turns > WORDS * TASKS // (2 * LOOKED_AT)
    assert learn.agents.get(A) is agent
    assert agent.strongest.strongest() == strongest(agent.tallies)


async def test_facts_are_loaded_while_an_agent_is_ranked() -> None:
    """Two ask about a large agent: both wait until all of its keywords were looked at, nobody else does."""
    learn = Learn(MemoryRows(), cached_agents=10)
    await take(learn, [won(number) for number in range(TASKS)])
    asking = [asyncio.create_task(learn.agents.load([A])) for _ in range(2)]
    await asyncio.sleep(0)
    await learn.agents.load([B], for_change=True)
    assert not any(asked.done() for asked in asking)
    await asyncio.gather(*asking)
    assert learn.agents.get(A) is not None


class SlowRows(MemoryRows):
    """A file in which one agent has a long history: to read it takes until a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = asyncio.Event()

    async def load_agents(self, ids: Sequence[AgentId]) -> dict[AgentId, tuple[AgentRow, dict[str, Tally]]]:
        if A in ids:
            await self.may_end.wait()
        return await super().load_agents(ids)


async def test_no_agent_waits_for_the_read_of_another() -> None:
    """Neither one in memory nor one that is read, too. Who wants the agent itself waits for one read."""
    rows = SlowRows()
    agents = AgentCache(rows, 10)
    await agents.load([B])
    first, second = (asyncio.create_task(agents.load([A, B])) for _ in range(2))
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await agents.load([B], for_change=True)
        await agents.load([B, C])
    assert not any(asked.done() for asked in (first, second))
    rows.may_end.set()
    assert await first == await second
    assert rows.asked_agents == [B, C, A]


async def test_who_waits_for_a_read_that_is_cancelled_reads_the_agent_itself() -> None:
    """The first one gave up: the other one gets the agent nevertheless."""
    rows = SlowRows()
    agents = AgentCache(rows, 10)
    first, second = (asyncio.create_task(agents.load([A])) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    rows.may_end.set()
    assert [agent.agent_id for agent in (await second).values()] == [A]
    assert first.cancelled()


async def test_agents_that_are_asked_about_before_they_are_ready_stay_in_memory() -> None:
    """One that is still to be ranked, or that only learns, is used: it is not the next to be evicted."""
    agents = AgentCache(Rows(), 10)
    await agents.load([A, B, C, D], for_change=True)
    assert agents.get(A) is None
    await agents.load([B], for_change=True)
    assert list(agents.at_hand) == [C, D, A, B]


async def test_an_agent_of_some_thousand_keywords_is_ranked_before_an_answer() -> None:
    """It is one plain dictionary, but its first answer would look at all of them at once."""
    agents = AgentCache(Rows(), 10)
    await agents.load([A], for_change=True)
    assert agents.get(A) is None
    await agents.load([A])
    assert agents.get(A) is not None


async def test_the_event_loop_turns_between_large_agents_that_are_loaded_together() -> None:
    """Whether they have to be ranked or are ready: each takes a look at as many keywords as an answer."""
    agents = AgentCache(Rows(), 100)
    ids = [AgentId(f"agent-{number}") for number in range(30)]
    assert await turns_until_done(agents.load(ids), lambda: None) >= len(ids)
    assert all(agents.get(agent_id) is not None for agent_id in ids)
    assert await turns_until_done(agents.load(ids), lambda: None) >= len(ids)
    assert await turns_until_done(agents.load(ids, for_change=True), lambda: None) <= 2


async def test_closed_shards_are_freed_one_after_the_other() -> None:
    """However many were closed, the event loop does one step in a turn, and in the end all are freed."""

    class Closed:
        async def free(self) -> None:
            for _ in range(3):
                await asyncio.sleep(0)
                steps.append(self)

    steps: list[Closed] = []
    closed = [Closed() for _ in range(12)]
    for each in closed:
        free_in_background(each)
    turns = await turns_until_done(ended("free-memory"), lambda: None)
    assert steps == [each for each in closed for _ in range(3)]
    assert turns >= len(steps)


async def test_an_agent_whose_strongest_keywords_have_all_weakened_is_ranked_again() -> None:
    """One more result takes the strongest thousand back: the next ask finds the others in slices."""
    learn = Learn(MemoryRows(), cached_agents=10)
    strong = [words(number * WORDS, WORDS) for number in range(4)]
    await take(learn, [won(number) for number in range(TASKS)])
    first = [
        Fact(TaskId(f"s{number}"), A, Close(Micros(9), A), Bid(Micros(5), 1, text), RESULT)
        for number, text in enumerate(strong)
    ]
    await take(learn, first, 500)
    await learn.agents.load([A])
    assert learn.agents.get(A) is not None
    failed = [Fact(fact.task_id, A, result=Result(Micros(21), succeeded=False)) for fact in first]
    await take(learn, failed, 600)
    assert learn.agents.get(A) is None
    agent = (await learn.agents.load([A]))[A]
    assert learn.agents.get(A) is agent
    assert agent.strongest.strongest() == strongest(agent.tallies)


async def test_a_closed_shards_memory_is_freed_in_steps() -> None:
    """Agents, keywords and rows, changed or not, of one large agent and of many small ones: none is left."""
    learn = Learn(MemoryRows(), cached_agents=5_000)
    await take(learn, [won(number) for number in range(TASKS)])
    learn.snapshot()
    small = [won(number % 3, AgentId(f"agent-{number}")) for number in range(600)]
    await take(learn, small, 100)
    large, tallies = weakref.ref(learn.agents.at_hand[A]), learn.agents.at_hand[A].tallies
    left = [len(learn.agents.at_hand)]
    await turns_until_done(learn.free(Pacing().give_way), lambda: left.append(len(learn.agents.at_hand)))
    assert (large(), len(tallies), left[-1]) == (None, 0, 0)
    assert max(before - after for before, after in itertools.pairwise(left)) <= 80
    assert learn.writing.outcomes == {}
    assert learn.snapshot().keywords == {}


async def test_settles_memory_is_freed_in_steps() -> None:
    """Some ten thousand remembered tasks take some turns of the loop."""
    settle = Settle(tolerance_micros=0, horizon_micros=10**9)
    for number in range(3 * LOOKED_AT):
        settle.bid(Placed(TaskId(f"t{number}"), A, 1, "d", None), Place("bids", number, Micros(number)))
    turns = await turns_until_done(settle.free(Pacing().give_way), lambda: None)
    assert (settle.remembered, turns >= 9) == (0, True)


async def test_rows_expire_a_few_words_at_a_time() -> None:
    """Forty long descriptions leave an agent in as many steps, and none of their words is left."""
    learn = Learn(MemoryRows(), cached_agents=10)
    facts = [won(number) for number in range(TASKS)]
    await take(learn, facts)
    keys = [(fact.task_id, A) for fact in facts]
    turns = await turns_until_done(learn.expire(keys, Cutoff(Micros(30), Micros(30)), 9_000), lambda: None)
    assert turns >= WORDS * TASKS // 1_500
    assert (learn.agents.at_hand[A].tallies, learn.agents.at_hand[A].known) == ({}, False)


class Counted(dict[int, int]):
    """A mapping that counts what is taken out of it."""

    taken = 0

    def popitem(self) -> tuple[int, int]:
        self.taken += 1
        return super().popitem()


async def test_a_large_mapping_is_emptied_a_part_at_a_time() -> None:
    """No more than a few thousand keys between two turns of the loop, and the rest with the next release."""
    large, small = (Counted((number, 0) for number in range(count)) for count in (5 * LOOKED_AT, 9))
    unused, taken = GradualRelease(), [0]
    unused.add(large)
    unused.add(small)
    await turns_until_done(unused.release(Pacing().give_way), lambda: taken.append(large.taken))
    steps = [after - before for before, after in zip(taken, [*taken[1:], large.taken], strict=True)]
    assert (len(large), len(small)) == (0, 0)
    assert max(steps) <= LOOKED_AT


async def test_a_release_gives_way_as_its_caller_does() -> None:
    """A checkpoint frees what it wrote while agents ask: a turn of the loop after each step is too little."""
    unused, taken = GradualRelease(), []
    large = Counted((number, 0) for number in range(3 * LOOKED_AT))
    unused.add(large)

    async def give_way() -> None:
        taken.append(large.taken)

    await unused.release(give_way)
    assert taken[:2] == [LOOKED_AT, 2 * LOOKED_AT]
    assert not large


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
    await agents.unused.release(Pacing().give_way)
    assert agents.get(A) is None
    assert len(held.tallies) == LOOKED_AT + 1
    tallies = held.tallies
    del held
    await agents.unused.release(Pacing().give_way)
    assert tallies == {}
    assert len((await agents.load([A]))[A].tallies) == LOOKED_AT + 1


async def test_long_descriptions_make_short_chunks() -> None:
    """Facts whose words count are applied a few at a time, others as many as a chunk has.

    A chunk is full if it has as many facts or characters as one may have: more are likely to follow.
    """
    topic = TopicName("learner-outcomes")

    class Noted(Pacing):
        def __init__(self) -> None:
            super().__init__()
            self.positions = {topic: 0}
            self.chunks: list[tuple[int, bool]] = []

        async def after_chunk(self, *, full: bool) -> None:
            self.chunks.append((self.positions[topic] - sum(self.sizes), full))
            await super().after_chunk(full=full)

        @property
        def sizes(self) -> list[int]:
            return [size for size, _ in self.chunks]

    async def chunks_of(facts: Sequence[Fact]) -> Noted:
        pacing, learn = Noted(), Learn(MemoryRows(), cached_agents=10)
        await ChangelogApplier(
            learn, pacing.positions, topic, MarkerFilter({}), on_unreadable=lambda *_: None, pacing=pacing
        ).take(records(*facts))
        return pacing

    long = [won(number) for number in range(20)]  # each has 1,800 characters
    bid = Bid(Micros(5), 1, "it")
    short = [Fact(TaskId(f"s{number}"), A, Close(Micros(9), A), bid) for number in range(120)]
    closes = [Fact(fact.task_id, A, fact.close, fact.bid) for fact in long]
    results = [Fact(fact.task_id, A, result=RESULT) for fact in long]
    assert (await chunks_of(long[:12])).chunks == [(5, True), (5, True), (2, False)]
    assert max((await chunks_of([*closes, *results])).sizes[-3:]) == 5
    assert (await chunks_of(short)).chunks == [(CHUNK, True), (CHUNK, True), (20, False)]
    longest = Fact(TaskId("l"), A, Close(Micros(9), A), Bid(Micros(5), 1, words(0, 2_000)), RESULT)
    assert (await chunks_of([longest])).chunks == [(1, True)]


class LookedAt(UserDict[OutcomeKey, Outcome]):
    """Rows that count how often one is looked at."""

    looked_at = 0

    def __getitem__(self, key: OutcomeKey) -> Outcome:
        self.looked_at += 1
        return super().__getitem__(key)


def test_a_statement_for_outcomes_looks_at_few() -> None:
    """Rows that are kept and rows that a forget took: no statement waits for all of the others."""
    kept = {
        (TaskId(f"k{n}"), A): Outcome(TaskId(f"k{n}"), A, None, Bid(Micros(5), 1, "d")) for n in range(600)
    }
    gone = {(TaskId(f"g{n}"), A): Outcome(TaskId(f"g{n}"), A) for n in range(3_000)}
    outcomes, looked_at, found = LookedAt(gone | kept), [0], Counter[str]()
    for name, rows in writes_of(Checkpoint({}, outcomes=outcomes)):
        found[name] += len(list(rows))
        looked_at.append(outcomes.looked_at)
    assert (found["save_outcome"], found["delete_outcome"]) == (600, 3_000)
    assert max(after - before for before, after in itertools.pairwise(looked_at)) <= 2 * ROWS_AT_ONCE


def test_a_statement_for_keywords_looks_at_few() -> None:
    """Kept and deleted ones in any order: full statements, and no more of either than one takes."""
    keywords = {
        A: {f"word{n}": Tally(n % 3 % 2, 0) for n in range(3_000)},
        B: {f"word{n}": Tally(0, 0) for n in range(3_000)},
    }
    writes = [(name, list(rows)) for name, rows in writes_of(Checkpoint({}, keywords=keywords))]
    saved, deleted = (
        [rows for each, rows in writes if each == name] for name in ("save_keyword", "delete_keyword")
    )
    assert max(map(len, [*saved, *deleted])) == ROWS_AT_ONCE
    assert [len(rows) for rows in saved[:-1]] == [ROWS_AT_ONCE] * 4
    assert sum(map(len, saved)) + sum(map(len, deleted)) == 6_000
