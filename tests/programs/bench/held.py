"""State that a worker holds already: shard files written by the store's own code, not by a worker."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from learner_worker.contract.facts import Bid, Close, Result
from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.contract.times import Micros
from learner_worker.domain.agents import AgentRow
from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Metrics
from learner_worker.domain.outcomes import Outcome, OutcomeKey
from learner_worker.domain.sums import Cells, KeptSums
from learner_worker.kafka.admin import connected
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.partitioner import partitioner
from learner_worker.store.identity import shard_identity
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.store.statements import Checkpoint
from learner_worker.strategies.protocol import Strategy
from tests.programs.bench.load import BIDDERS, past_fact, task_id
from tests.programs.bench.stage import PARTITIONS, Setting, Stage

KEYWORDS = 30
_WRITTEN = 50_000
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


async def write_state(stage: Stage, setting: Setting, state_dir: Path, *, outcomes: int, agents: int) -> None:
    """Files of all shards, in an existing folder: so many outcomes, and agents with 30 keywords each."""
    files = await _open_files(stage, setting, state_dir)
    partition_of = partitioner(PARTITIONS)
    try:
        rows: dict[int, dict[OutcomeKey, Outcome]] = defaultdict(dict)
        for outcome in past_outcomes(outcomes, agents):
            shard = partition_of(outcome.agent_id)
            rows[shard][outcome.task_id, outcome.agent_id] = outcome
            if len(rows[shard]) == _WRITTEN:
                await _write_rows(files[shard], rows.pop(shard))
        for shard, left in rows.items():
            await _write_rows(files[shard], left)
        await _write_agents(files, outcomes, agents)
    finally:
        for file in files:
            await file.close()


async def write_sums(
    stage: Stage, setting: Setting, state_dir: Path, strategy: Strategy, cells: Mapping[AgentId, Cells]
) -> None:
    """The agents' sums by a strategy, into files that hold no outcomes: the strategy has counted them all."""
    partition_of = partitioner(PARTITIONS)
    files = await _open_files(stage, setting, state_dir)
    by_shard: dict[int, dict[tuple[str, AgentId], KeptSums]] = defaultdict(dict)
    for agent_id, found in cells.items():
        by_shard[partition_of(agent_id)][strategy.name, agent_id] = KeptSums(found, None)
    try:
        for shard, file in enumerate(files):
            await file.claim_strategies({strategy.name: strategy.version})
            await file.write(Checkpoint({}, sums=by_shard[shard]))
    finally:
        for file in files:
            await file.close()


async def _write_rows(file: ShardFile, rows: Mapping[OutcomeKey, Outcome]) -> None:
    """Writes some rows in the order of their keys: ids are random, and any other order takes longer."""
    await file.write(Checkpoint({}, outcomes=dict(sorted(rows.items()))))


async def _open_files(stage: Stage, setting: Setting, state_dir: Path) -> list[ShardFile]:
    async with connected(Connection(stage.servers), patience_seconds=30) as cluster:
        cluster_id = cluster.cluster_id
    return [
        await ShardFile.open(
            shard_path(state_dir, ShardId(number)),
            shard_identity(
                cluster_id=cluster_id,
                topic_prefix=setting.topics.prefix,
                partitions=PARTITIONS,
                shard=ShardId(number),
            ),
        )
        for number in range(PARTITIONS)
    ]


def past_outcomes(outcomes: int, agents: int) -> Iterator[Outcome]:
    """The rows that the facts of a preloaded changelog become."""
    for number in range(outcomes):
        fact = past_fact(number, agents)
        yield Outcome(fact.task_id, fact.agent_id, fact.close, fact.bid, fact.result)


async def _write_agents(files: list[ShardFile], outcomes: int, agents: int) -> None:
    """Metrics as they would be if every agent had the mean of all, and its keywords."""
    partition_of = partitioner(PARTITIONS)
    total = max(1, outcomes // agents)
    row = agent_row(total)
    by_shard: dict[int, list[AgentId]] = defaultdict(list)
    for number in range(agents):
        agent_id = AgentId(f"agent-{number:06d}")
        by_shard[partition_of(agent_id)].append(agent_id)
    for shard, ids in by_shard.items():
        for start in range(0, len(ids), 1_000):
            some = ids[start : start + 1_000]
            await files[shard].write(
                Checkpoint(
                    {},
                    agents=dict.fromkeys(some, row),
                    keywords={agent_id: keywords_of_agent(agent_id) for agent_id in some},
                    published=some,
                )
            )


def agent_row(total: int) -> AgentRow:
    """The row of an agent with so many outcomes, one in ten of them won."""
    won = total // BIDDERS
    completed = won * 3 // 4
    return AgentRow(Metrics(total, won, completed, won - completed, won, won * 1_200), 1_767_225_600_000, 1)


def keywords_of_agent(agent_id: AgentId) -> dict[str, Tally]:
    """Thirty words, some of which others have, too."""
    number = int(agent_id.removeprefix("agent-"))
    return {_word(number * 7 + place): Tally(1 + place % 5, place % 3) for place in range(KEYWORDS)}


def _word(number: int) -> str:
    number %= 5_000
    return "word" + "".join(_ALPHABET[number // 26**place % 26] for place in range(3))


def outcomes_of_one(agent_id: AgentId, outcomes: int) -> Iterator[Outcome]:
    """So many outcomes of a single agent."""
    for number in range(outcomes):
        closed = Micros(1_767_225_600_000_000 + number * 1_000_000)
        won = number % BIDDERS == 0
        yield Outcome(
            task_id("past", number),
            agent_id,
            Close(closed, agent_id if won else AgentId("agent-rival"), 1_000),
            Bid(closed, 1_000 + number % 500, "Parse two hundred scanned invoices into a spreadsheet"),
            Result(closed, number % 40 != 0) if won else None,
        )
