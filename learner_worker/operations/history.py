"""One agent's outcomes, from Kafka alone: the same replay, without a worker or a state folder."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from learner_worker.contract.facts import decode_fact
from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.domain.agents import Agent
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey
from learner_worker.errors import RecordError
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.records import Record, chunked
from learner_worker.operations.changelog import Changelog, Say, open_changelog
from learner_worker.operations.cutoffs import committed_cutoffs
from learner_worker.settings import Settings
from learner_worker.shard.pacing import Pacing
from learner_worker.shard.replay import ChangelogReplay
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.store.snapshot import Snapshot, snapshot_of
from learner_worker.store.statements import outcome_of
from learner_worker.strategies.protocol import Strategy

_PAGE = 500  # rows of a read, as a worker reads them


@dataclass(frozen=True, slots=True)
class History:
    """The state of an agent after a replay of the changelog up to `position`.

    Attributes:
        agent: the metrics and keywords.
        keys: (task, agent) of every outcome that counts, the latest close first.
        topic: the changelog; `shard` is the agent's partition of it.
    """

    agent: Agent
    keys: Sequence[OutcomeKey]
    topic: TopicName
    shard: ShardId
    position: int
    snapshot: Snapshot

    def outcomes(self, count: int | None = None) -> Iterator[Outcome]:
        """The outcomes in the order of `keys`; only the first `count`, if given."""
        for page in chunked(self.keys[:count], _PAGE):
            rows = self.snapshot.outcomes(page)
            yield from (rows[key] for key in page)


@asynccontextmanager
async def history_of(agent_id: AgentId, settings: Settings, say: Say) -> AsyncIterator[History]:
    """Replays the changelog's records about one agent into a temporary file.

    Args:
        say: takes a line of progress.

    Raises:
        BrokerError: Kafka cannot be reached, or stopped answering.
        ConfigurationError: topics are missing, or are not what is recorded.
        StateError: the temporary file cannot be written.
        UpgradeRequiredError: a newer learner wrote a fact.
    """
    async with open_changelog(settings, say) as changelog:
        shard = ShardId(partitioner(changelog.partitions)(agent_id))
        cutoff = (await committed_cutoffs(settings, changelog.group_id, changelog.topic)).get(shard)
        async with replayed(
            changelog,
            shard,
            cutoff,
            strategies=changelog.strategies,
            wanted=lambda record: not _is_of_another(record, agent_id),
        ) as (replay, snapshot):
            agent = (await replay.learn.agents.load([agent_id]))[agent_id]
            keys = _newest_first(snapshot)
            yield History(agent, keys, changelog.topic, shard, replay.position, snapshot)


@asynccontextmanager
async def replayed(
    changelog: Changelog,
    shard: ShardId,
    cutoff: Cutoff | None,
    *,
    strategies: Sequence[Strategy],
    wanted: Callable[[Record], bool],
) -> AsyncIterator[tuple[ChangelogReplay, Snapshot]]:
    """Replays a shard's changelog into a temporary file, and expires what the workers have expired.

    Args:
        strategies: whose sums are kept.
        wanted: whether a record is replayed at all.
    """
    with tempfile.TemporaryDirectory(prefix="learner-outcomes-") as folder:
        file = await ShardFile.open(shard_path(Path(folder), shard), changelog.identity(shard))
        try:
            replay = await ChangelogReplay.open(
                file,
                changelog.topic,
                cached_agents=changelog.cached_agents,
                pacing=Pacing(),
                strategies=strategies,
            )
            await changelog.replay(replay, shard, await changelog.range_of(shard), wanted=wanted)
            if cutoff is not None:
                await _expire(replay, file.path, cutoff)
            with snapshot_of(file.path) as snapshot:
                yield replay, snapshot
        finally:
            await file.close()


def _is_of_another(record: Record, agent_id: AgentId) -> bool:
    """Whether a record is a fact about another agent; the replay handles all other records."""
    if record.value is None:
        return False
    try:
        return decode_fact(record.value).agent_id != agent_id
    except RecordError:
        return False


async def _expire(replay: ChangelogReplay, path: Path, cutoff: Cutoff) -> None:
    """Expires what the workers have expired, even before its tombstones are written."""
    with snapshot_of(path) as snapshot:
        keys = _newest_first(snapshot, counted=False)
    for page in chunked(keys, _PAGE):
        await replay.learn.expire(page, cutoff, 0)
    await replay.write()


def _newest_first(snapshot: Snapshot, *, counted: bool = True) -> list[OutcomeKey]:
    """The keys of the outcomes, the latest close first; with `counted` only of those that count."""
    rows = map(outcome_of, snapshot.outcomes_by_agent())
    closes = [
        (-row.close.closed_at, row.task_id, row.agent_id)
        for row in rows
        if row.close is not None and (row.counts or not counted)
    ]
    return [(task_id, agent_id) for _, task_id, agent_id in sorted(closes)]
