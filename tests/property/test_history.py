"""Any delivery of a swarm's history ends where the naive model ends: order, copies, crashes do not matter."""

import asyncio
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner_worker.contract.decode import Closed, Finished, Placed, decode_event, request_of
from learner_worker.contract.encode import Reply, encode_message, encode_reply
from learner_worker.contract.facts import Fact, decode_fact, encode_fact
from learner_worker.contract.fields import AgentId, ShardId, TaskId
from learner_worker.contract.suggestions import LearnedKeyword, SuggestBidReply, SuggestBidRequest
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import EventKind, TopicName
from learner_worker.domain.agents import Agent
from learner_worker.domain.keywords import Tally
from learner_worker.domain.outcomes import Outcome
from learner_worker.kafka.partitioner import partitioner
from learner_worker.stages.advise import Advise
from learner_worker.stages.learn import FactRecord, Learn
from learner_worker.stages.settle import Place, Settle
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.store.statements import Checkpoint
from learner_worker.strategies.classic import CLASSIC
from tests.support import model, swarm

EXAMPLES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 200
EXAMPLES_OF_FOUR = EXAMPLES // 4  # each has four files to open again and again
FOLDERS = next(Path("/dev").glob("shm"), None)
"""Where files lie in memory, as on Linux: a disk that syncs for other programs would be waited for."""
TOLERANCE = 1_000_000
HORIZON = 3_600_000_000
RECORD_TIME = Micros(swarm.START_US)
SOURCES: tuple[EventKind, ...] = ("bid-placed", "auction-closed", "task-finished")
OUTCOMES = TopicName("learner-outcomes")
ASKED = ("", "parse invoices", "parse the PARSER, invoices", "translate documents with python", "žluť")
Answer = tuple[model.Suggestion, list[model.LearnedKeyword]]
BASES = (0, 1, 7, 100, 1_999, model.MAX_SATS)


# --- what happens, and in which order -------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """A shard settles the next events of one source."""

    shard: int
    source: EventKind
    count: int


@dataclass(frozen=True)
class Send:
    """A shard's facts on their way arrive in the changelog."""

    shard: int


@dataclass(frozen=True)
class LearnFacts:
    """A shard joins the next facts."""

    shard: int
    count: int


@dataclass(frozen=True)
class TakeSnapshot:
    """A shard freezes positions and rows for a checkpoint."""

    shard: int


@dataclass(frozen=True)
class Write:
    """The frozen checkpoint, if there is one, reaches the file."""

    shard: int


@dataclass(frozen=True)
class Reopen:
    """A crash: memory is gone, and some of the facts on their way; with `lost` the file too."""

    shard: int
    lost: bool


@dataclass(frozen=True)
class Repeat:
    """Somebody writes a fact of the changelog again, as a stalled former owner does."""

    shard: int
    seed: int


@dataclass(frozen=True)
class Compact:
    """Of equal keys only the last is kept."""

    shard: int


Step = Read | Send | LearnFacts | TakeSnapshot | Write | Reopen | Repeat | Compact


def torn_checkpoint(shard: int, count: int) -> list[Step]:
    """Reading goes on between a snapshot and its write, and then comes a crash."""
    reads = [Read(shard, source, count) for source in SOURCES]
    return [TakeSnapshot(shard), *reads, Write(shard), Reopen(shard, lost=False)]


def steps(shards: int) -> st.SearchStrategy[list[Step]]:
    shard = st.integers(0, shards - 1)
    single = st.one_of(
        st.builds(Read, shard, st.sampled_from(SOURCES), st.integers(1, 12)),
        st.builds(Send, shard),
        st.builds(LearnFacts, shard, st.integers(1, 12)),
        st.builds(TakeSnapshot, shard),
        st.builds(Write, shard),
        st.builds(Reopen, shard, st.booleans()),
        st.builds(Repeat, shard, st.integers(0, 1_000)),
        st.builds(Compact, shard),
    )
    several = st.builds(torn_checkpoint, shard, st.integers(1, 12))
    parts = st.lists(several | single.map(lambda step: [step]), max_size=25 * shards)
    return parts.map(lambda lists: [step for part in lists for step in part])


@st.composite
def deliveries(draw: st.DrawFn) -> list[model.Event]:
    """A small adversarial history, permuted, some of it more than once."""
    history = draw(swarm.events())
    copies = draw(st.lists(st.sampled_from(history), max_size=12)) if history else []
    return draw(st.permutations([*history, *copies]))


# --- the shards -----------------------------------------------------------------------------------


class Log:
    """Kafka in a few lines: the sources' partitions, and the changelog's with its compaction."""

    def __init__(self, events: Sequence[model.Event], shards: int, seed: int) -> None:
        self.partition_of: Callable[[str], int] = partitioner(shards)
        self.sources: dict[tuple[int, EventKind], list[bytes]] = {}
        self.facts: list[list[tuple[bytes, bytes | None]]] = [[] for _ in range(shards)]
        self._contents: dict[bytes, bytes] = {}
        self._random = random.Random(seed)
        for event in events:
            place = (self.partition_of(event.task_id), kind_of(event))
            self.sources.setdefault(place, []).append(event.to_json())

    def send(self, facts: Sequence[Fact]) -> None:
        """Facts of one batch arrive shuffled, a part of them twice."""
        copies = [fact for fact in facts if self._random.random() < 0.2]
        arriving = [*facts, *copies]
        self._random.shuffle(arriving)
        for fact in arriving:
            key, value = encode_fact(fact)
            assert self._contents.setdefault(key, value) == value
            self.facts[self.partition_of(fact.agent_id)].append((key, value))

    def send_some(self, facts: Sequence[Fact]) -> None:
        """A crash: of what was on its way any part has arrived."""
        self.send([fact for fact in facts if self._random.random() < 0.5])

    def repeat(self, shard: int, seed: int) -> None:
        """One of the facts that compaction left is written again, at the end."""
        left = [record for record in self.facts[shard] if record[1] is not None]
        if left:
            self.facts[shard].append(left[seed % len(left)])

    def compact(self, shard: int) -> None:
        """Offsets stay; of equal keys only the last record does."""
        last = {key: offset for offset, (key, _) in enumerate(self.facts[shard])}
        self.facts[shard] = [
            (key, value if last[key] == offset else None)
            for offset, (key, value) in enumerate(self.facts[shard])
        ]


def kind_of(event: model.Event) -> EventKind:
    match event:
        case model.BidPlaced():
            return "bid-placed"
        case model.AuctionClosed():
            return "auction-closed"
        case model.TaskFinished():
            return "task-finished"
        case _:
            assert_never(event)


class SmallShard:
    """The real settle, learn and file of one shard, read and restarted by hand."""

    def __init__(self, number: int, log: Log, folder: Path, cached_agents: int) -> None:
        self.number = number
        self.path = shard_path(folder, ShardId(number))
        self._log = log
        self._cached_agents = cached_agents
        self._pending: Callable[[], Checkpoint] | None = None
        self._on_their_way: list[Fact] = []

    async def open(self) -> None:
        self.file = await ShardFile.open(self.path, {"shard": str(self.number)})
        self._settle = Settle(tolerance_micros=TOLERANCE, horizon_micros=HORIZON)
        self._settle.restore(await self.file.load_auctions())
        self._settle.finish_restore()
        self.learn = Learn(self.file, cached_agents=self._cached_agents)
        filed = await self.file.load_positions()
        self.positions = {topic: filed.get(topic, 0) for topic in (*map(TopicName, SOURCES), OUTCOMES)}

    async def reopen(self, *, lost: bool) -> None:
        self._pending = None
        self._log.send_some(self._on_their_way)
        self._on_their_way = []
        await self.file.close()
        if lost:
            for file in self.path.parent.glob(self.path.name + "*"):
                file.unlink()
        await self.open()

    def read(self, source: EventKind, count: int) -> int:
        topic = TopicName(source)
        first = self.positions[topic]
        values = self._log.sources.get((self.number, source), [])[first : first + count]
        for offset, value in enumerate(values, first):
            self._on_their_way += self._settled(source, value, Place(topic, offset, RECORD_TIME))
        self.positions[topic] += len(values)
        return len(values)

    def send(self) -> None:
        self._log.send(self._on_their_way)
        self._on_their_way = []

    def _settled(self, source: EventKind, value: bytes, place: Place) -> list[Fact]:
        event = decode_event(source, value)
        match event:
            case Placed():
                return self._settle.bid(event, place)
            case Closed():
                return self._settle.close(event, place)
            case Finished():
                return self._settle.result(event, place)
            case _:
                assert_never(event)

    async def learn_facts(self, count: int) -> int:
        first = self.positions[OUTCOMES]
        records = self._log.facts[self.number][first : first + count]
        facts = [
            FactRecord.of(offset, RECORD_TIME // 1000 + offset, decode_fact(value))
            for offset, (_, value) in enumerate(records, first)
            if value is not None
        ]
        self.learn.pin(facts)
        rows = await self.learn.load(facts)
        self.learn.apply(facts, rows)
        self.positions[OUTCOMES] += len(records)
        return len(records)

    def snapshot(self) -> None:
        """Freezes a checkpoint, unless one is on its way already; its facts arrive before it is written."""
        if self._pending is None:
            self.send()
            positions, auctions, changes = (
                dict(self.positions),
                self._settle.snapshot(),
                self.learn.snapshot(),
            )
            self._pending = lambda: Checkpoint(positions, auctions, *changes)

    async def write(self) -> None:
        if self._pending is not None:
            await self.file.write(self._pending())
            self.learn.unpublished.clear()
            self.learn.on_checkpoint_written()
            self._pending = None

    async def drain(self) -> int:
        """Reads and sends everything there is; how many records it was."""
        read = sum(self.read(source, 1_000_000) for source in SOURCES) + len(self._on_their_way)
        self.send()
        return read + await self.learn_facts(1_000_000)


class World:
    """All shards, driven step by step."""

    def __init__(self, log: Log, shards: list[SmallShard]) -> None:
        self.log = log
        self.shards = shards

    async def take(self, step: Step) -> None:
        shard = self.shards[step.shard]
        match step:
            case Read():
                shard.read(step.source, step.count)
            case Send():
                shard.send()
            case LearnFacts():
                await shard.learn_facts(step.count)
            case TakeSnapshot():
                shard.snapshot()
            case Write():
                await shard.write()
            case Reopen():
                await shard.reopen(lost=step.lost)
            case Repeat() | Compact():
                self._take_on_log(step)
            case _:
                assert_never(step)

    def _take_on_log(self, step: Repeat | Compact) -> None:
        if isinstance(step, Repeat):
            self.log.repeat(step.shard, step.seed)
        else:
            self.log.compact(step.shard)

    async def finish(self) -> None:
        """Everything is read, and everything is in the files."""
        while sum([await shard.drain() for shard in self.shards]):
            pass
        for shard in self.shards:
            await shard.write()
            shard.snapshot()
            await shard.write()

    async def outcomes(self, events: Sequence[model.Event]) -> dict[tuple[str, str], model.Outcome]:
        """The files' outcomes that count, of every task with every agent that the history names."""
        found: dict[tuple[str, str], model.Outcome] = {}
        tasks = sorted({TaskId(event.task_id) for event in events})
        for agent_id in agents_of(events):
            file = self.shards[self.log.partition_of(agent_id)].file
            rows = await file.load_outcomes([(task_id, agent_id) for task_id in tasks])
            found.update((key, as_model(row)) for key, row in rows.items() if row.counts)
        return found

    async def agents(self, events: Sequence[model.Event]) -> dict[str, Agent]:
        """What each owner knows of every agent that the history names."""
        found: dict[str, Agent] = {}
        for agent_id in agents_of(events):
            shard = self.shards[self.log.partition_of(agent_id)]
            found[agent_id] = (await shard.learn.agents.load([agent_id]))[agent_id]
        return found


def agents_of(events: Sequence[model.Event]) -> list[AgentId]:
    named = {
        event.winner_agent_id if isinstance(event, model.AuctionClosed) else event.agent_id
        for event in events
    }
    return sorted(AgentId(agent_id) for agent_id in named if agent_id is not None)


# --- comparing with the model ---------------------------------------------------------------------


def as_model(outcome: Outcome) -> model.Outcome:
    assert outcome.close is not None
    result = outcome.result if outcome.won else None
    return model.Outcome(
        won=outcome.won,
        bid_sats=outcome.bid_sats,
        description=outcome.description,
        succeeded=None if result is None else result.succeeded,
        closed_at=outcome.close.closed_at,
        placed_at=None if outcome.bid is None else outcome.bid.placed_at,
        finished_at=None if result is None else result.finished_at,
    )


def metrics_of(agent: Agent) -> model.Metrics:
    metrics = agent.metrics
    return model.Metrics(
        total_bids=metrics.total_bids,
        auctions_won=metrics.auctions_won,
        tasks_completed=metrics.tasks_completed,
        tasks_failed=metrics.tasks_failed,
        win_rate=metrics.win_rate,
        success_rate=metrics.success_rate,
        avg_winning_bid_sats=metrics.avg_winning_bid_sats,
        keyword_wins=_without_zeros(agent.tallies, 0),
        keyword_failures=_without_zeros(agent.tallies, 1),
    )


def _without_zeros(tallies: Mapping[str, Tally], side: int) -> dict[str, int]:
    return {keyword: tally[side] for keyword, tally in tallies.items() if tally[side]}


def answers_of(agent: Agent) -> Iterator[Answer]:
    advise = Advise([CLASSIC])
    for description in ASKED:
        for base in BASES:
            request = SuggestBidRequest(
                agent_id=agent.agent_id,
                base_bid_sats=base,
                description=description,
                include=["learned_keywords"],
            )
            yield as_answer(advise.answer(request_of(request), agent))


def as_answer(written: Reply) -> Answer:
    value = encode_reply(written)
    reply = SuggestBidReply.model_validate_json(value)
    assert encode_message(reply) == value
    rules = [(adjustment.rule, adjustment.multiplier) for adjustment in reply.adjustments]
    suggestion = model.Suggestion(reply.suggested_bid_sats, reply.factor, list(rules))
    return suggestion, [as_learned(learned) for learned in reply.learned_keywords]


def as_learned(learned: LearnedKeyword) -> model.LearnedKeyword:
    return model.LearnedKeyword(learned.keyword, learned.wins, learned.failures, learned.net)


def expected_answers(
    of_agent: model.Metrics,
) -> Iterator[tuple[model.Suggestion, list[model.LearnedKeyword]]]:
    for description in ASKED:
        for base in BASES:
            yield model.classic(of_agent, description, base), model.strongest_keywords(of_agent)


async def compare(world: World, events: Sequence[model.Event]) -> None:
    expected = model.outcomes(events)
    assert expected == await world.outcomes(events)
    expected_metrics: dict[str, model.Metrics] = dict.fromkeys(agents_of(events), model.NO_HISTORY)
    expected_metrics |= model.metrics(expected)
    agents = await world.agents(events)
    assert expected_metrics == {agent_id: metrics_of(agent) for agent_id, agent in agents.items()}
    for agent_id, of_agent in expected_metrics.items():
        assert list(expected_answers(of_agent)) == list(answers_of(agents[agent_id]))


async def deliver(
    events: Sequence[model.Event], plan: Sequence[Step], *, shards: int, seed: int, cached_agents: int
) -> None:
    """Follows the plan, reads the rest, and compares: what memory holds, then what the files hold."""
    with tempfile.TemporaryDirectory(dir=FOLDERS) as folder:
        log = Log(events, shards, seed)
        world = World(log, [SmallShard(number, log, Path(folder), cached_agents) for number in range(shards)])
        try:
            for shard in world.shards:
                await shard.open()
            for step in plan:
                await world.take(step)
            await world.finish()
            await compare(world, events)
            for shard in world.shards:
                await shard.reopen(lost=False)
            assert [await shard.drain() for shard in world.shards] == [0] * shards
            await compare(world, events)
        finally:
            for shard in world.shards:
                await shard.file.close()


def random_plan(seed: int, shards: int, count: int) -> list[Step]:
    """A long plan in which every step is common."""
    rng = random.Random(seed)
    plan: list[Step] = []
    for _ in range(count):
        shard = rng.randrange(shards)
        seldom: list[Step] = [
            Send(shard),
            TakeSnapshot(shard),
            Write(shard),
            Repeat(shard, rng.randrange(1_000)),
            Compact(shard),
        ]
        plan += [
            Read(shard, rng.choice(SOURCES), rng.randint(1, 60)),
            LearnFacts(shard, rng.randint(1, 60)),
            rng.choice(seldom),
        ]
        if rng.random() < 0.1:
            plan.append(Reopen(shard, lost=rng.random() < 0.3))
        if rng.random() < 0.1:
            plan += torn_checkpoint(shard, rng.randint(1, 20))
    return plan


# --- the tests ------------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    events=deliveries(), plan=steps(1), seed=st.integers(0, 1_000), cached_agents=st.sampled_from((1, 3, 100))
)
def test_any_delivery_to_one_shard_equals_the_model(
    events: list[model.Event], plan: list[Step], seed: int, cached_agents: int
) -> None:
    """Permuted, copied, split, compacted and cut short by crashes, a history ends as the model says."""
    asyncio.run(deliver(events, plan, shards=1, seed=seed, cached_agents=cached_agents))


@settings(max_examples=EXAMPLES_OF_FOUR, deadline=None)
@given(
    events=deliveries(), plan=steps(4), seed=st.integers(0, 1_000), cached_agents=st.sampled_from((1, 3, 100))
)
def test_any_delivery_to_four_shards_equals_the_model(
    events: list[model.Event], plan: list[Step], seed: int, cached_agents: int
) -> None:
    """With tasks and agents spread over four shards by murmur2, a history ends as the model says."""
    asyncio.run(deliver(events, plan, shards=4, seed=seed, cached_agents=cached_agents))


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("seed", range(6))
async def test_a_swarms_history_in_causal_order_equals_the_model(seed: int, shards: int) -> None:
    """A realistic swarm's events, as published, end as the model says, through crashes and lost files."""
    events = swarm.swarm_history(seed, 100)

    await deliver(events, random_plan(seed, shards, 60), shards=shards, seed=seed, cached_agents=5)


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("seed", range(6))
async def test_a_shuffled_swarms_history_equals_the_model(seed: int, shards: int) -> None:
    """The same events in any order, a fifth of them twice, end exactly where they end in causal order."""
    history = swarm.swarm_history(seed, 100)
    events = swarm.shuffled_with_duplicates(history, seed)
    assert model.outcomes(history) == model.outcomes(events)

    await deliver(events, random_plan(seed, shards, 60), shards=shards, seed=seed, cached_agents=5)
