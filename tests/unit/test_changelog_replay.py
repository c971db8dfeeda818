"""A changelog partition replayed into a shard's file, batch by batch."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from learner_worker.contract.facts import Bid, Close, Fact, Result, encode_fact
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.domain.agents import AgentRow
from learner_worker.domain.bucketed import LOOKED_AT
from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Metrics
from learner_worker.domain.outcomes import Outcome
from learner_worker.errors import UpgradeRequiredError
from learner_worker.kafka.records import Record
from learner_worker.shard.pacing import CHUNK, Pacing
from learner_worker.shard.replay import ChangelogReplay
from learner_worker.shard.standby import StandbyState
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.statements import Checkpoint

TOPIC = TopicName("learner-outcomes")
T, A = TaskId("t"), AgentId("a")
CLOSE = Close(Micros(9), A, 60)
BID = Bid(Micros(5), 70, "parse invoices")
RESULT = Result(Micros(20), succeeded=True)
FACTS = (Fact(T, A, bid=BID, close=CLOSE), Fact(T, A, result=RESULT))


class Read(NamedTuple):
    """A record as a consumer gives it."""

    offset: int
    value: bytes | None
    topic: str = TOPIC
    partition: int = 3
    timestamp: int = 1_000
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


def records(*facts: Fact, first: int = 0) -> list[Record]:
    return [Read(first + index, encode_fact(fact)[1]) for index, fact in enumerate(facts)]


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[ShardFile]:
    file = await ShardFile.open(tmp_path / "shard-00003.sqlite3", {"shard": "3"})
    yield file
    await file.close()


async def opened(file: ShardFile) -> ChangelogReplay:
    return await ChangelogReplay.open(file, TOPIC, cached_agents=10, pacing=Pacing())


async def test_rows_metrics_and_position_are_written_together(file: ShardFile) -> None:
    """Nothing is in the file before `write`; then the row, its agent, the keywords and the position are."""
    replay = await opened(file)
    await replay.take(records(*FACTS))
    assert await file.load_positions() == {}
    assert await file.load_outcomes([(T, A)]) == {}
    await replay.write()
    assert await file.load_positions() == {TOPIC: 2}
    assert await file.load_outcomes([(T, A)]) == {(T, A): Outcome(T, A, CLOSE, BID, RESULT)}
    metrics = Metrics(total_bids=1, auctions_won=1, tasks_completed=1, priced_wins=1, priced_sats=60)
    tallies = {"parse": Tally(1, 0), "invoices": Tally(1, 0)}
    assert await file.load_agents([A]) == {A: (AgentRow(metrics, 1_000, 1), tallies)}
    assert await file.load_unpublished() == {A}


async def test_a_replay_goes_on_where_the_file_ends(file: ShardFile) -> None:
    """A second replay takes the position of the first; records before it are known and change nothing."""
    first = await opened(file)
    await first.take(records(FACTS[0]))
    await first.write()
    second = await opened(file)
    assert second.position == 1
    await second.take(records(*FACTS))
    await second.write()
    assert second.records == 1
    assert await file.load_outcomes([(T, A)]) == {(T, A): Outcome(T, A, CLOSE, BID, RESULT)}


class Counted(Pacing):
    """Counts how often work gives way."""

    def __init__(self) -> None:
        super().__init__()
        self.ways = 0

    async def give_way(self) -> None:
        self.ways += 1
        await super().give_way()


async def test_a_standby_gives_way_as_its_workers_shards_do(file: ShardFile) -> None:
    """Agents ask the worker while it follows others' shards: each step of long work lets answers pass."""
    pacing, count = Counted(), 2 * LOOKED_AT
    settled = [Fact(TaskId(f"t{number}"), A, bid=BID, close=CLOSE) for number in range(count)]
    done = [Fact(fact.task_id, A, result=RESULT) for fact in settled]
    standby = await StandbyState.open(file, TOPIC, pacing)
    ways = [0]
    for work in (
        standby.process(records(*settled)),
        standby.checkpoint(),
        standby.process(records(*done, first=count)),
        standby.free(),
    ):
        await work
        ways.append(pacing.ways)
    applied, freed, applied_more, dropped = (after - before for before, after in itertools.pairwise(ways))
    assert min(applied, applied_more) >= count / CHUNK
    assert min(freed, dropped) >= count / LOOKED_AT


async def test_junk_and_tombstones_are_passed_over(file: ShardFile) -> None:
    """What is no fact moves the position and nothing else; junk is counted."""
    replay = await opened(file)
    await replay.take([Read(0, None), Read(1, b"junk"), Read(4, encode_fact(FACTS[0])[1]), Read(7, b"{}")])
    await replay.write()
    assert (replay.position, replay.records, replay.unreadable) == (8, 4, 2)
    assert await file.load_positions() == {TOPIC: 8}
    assert await file.load_outcomes([(T, A)]) == {(T, A): Outcome(T, A, CLOSE, BID)}


async def test_an_end_without_records_counts_as_reached(file: ShardFile) -> None:
    """Offsets that hold no record any more are behind the position; it never goes back."""
    replay = await opened(file)
    await replay.take(records(*FACTS))
    await replay.reach(9)
    assert await file.load_positions() == {TOPIC: 9}
    await replay.reach(3)
    assert (replay.position, await file.load_positions()) == (9, {TOPIC: 9})


async def test_other_topics_positions_and_auctions_stay(file: ShardFile) -> None:
    """A file that was a worker's keeps what the replay knows nothing of."""
    bids = TopicName("bid-placed")
    await file.write(Checkpoint({bids: 5, TOPIC: 1}))
    replay = await opened(file)
    await replay.take(records(*FACTS))
    await replay.write()
    assert await file.load_positions() == {bids: 5, TOPIC: 2}
    assert await file.load_outcomes([(T, A)]) == {(T, A): Outcome(T, A, None, None, RESULT)}


async def test_a_fact_of_a_newer_learner_ends_the_replay(file: ShardFile) -> None:
    """It may mean anything: nothing of its batch is written, and the error says to upgrade."""
    replay = await opened(file)
    newer = Read(1, b'{"v": 2, "task_id": "t", "agent_id": "a"}')
    with pytest.raises(UpgradeRequiredError, match="upgrade"):
        await replay.take([*records(FACTS[0]), newer])
    assert await file.load_positions() == {}
    assert await file.load_outcomes([(T, A)]) == {}


async def test_what_earlier_facts_made_of_a_row_is_not_forgotten(file: ShardFile) -> None:
    """A row that was read ahead, while a fact of it was still to be joined, says less than that fact."""
    replay = await opened(file)
    others = [Fact(TaskId(f"other-{number}"), A, CLOSE, BID) for number in range(1_200)]
    await replay.take(records(Fact(T, A, CLOSE)))
    await replay.write()
    bid, result = Fact(T, A, CLOSE, BID), Fact(T, A, result=RESULT)
    ahead = [*others[:450], bid, *others[450:600], result, *others[600:]]
    await replay.take(records(*ahead, first=1))
    await replay.write()

    assert await file.load_outcomes([(T, A)]) == {(T, A): Outcome(T, A, CLOSE, BID, RESULT)}
    ((row, _),) = (await file.load_agents([A])).values()
    assert (row.metrics.total_bids, row.metrics.tasks_completed) == (1_201, 1)
