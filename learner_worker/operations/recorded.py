"""All that is recorded: every agent's outcomes and the advice log from Kafka, or a swarm's SQLite file.

It is brought into memory whole: about a kilobyte an outcome.
"""

from collections.abc import Iterator
from pathlib import Path

from aiokafka import TopicPartition

from learner_worker.contract.advice import AdviceRecord, decode_advice
from learner_worker.contract.facts import Bid, Close, Result
from learner_worker.contract.fields import ShardId
from learner_worker.domain.outcomes import Cutoff, Outcome
from learner_worker.kafka.admin import connected
from learner_worker.kafka.partition_reader import reading_partitions
from learner_worker.operations.changelog import Changelog, Say, open_changelog
from learner_worker.operations.cutoffs import committed_cutoffs
from learner_worker.operations.history import replayed
from learner_worker.operations.import_staging import Staging, StandingRow, staged
from learner_worker.operations.progress import StepProgress
from learner_worker.settings import Settings
from learner_worker.store.statements import outcome_of


async def recorded_outcomes(settings: Settings, say: Say) -> list[Outcome]:
    """Replays the whole changelog: every outcome that counts.

    Args:
        say: takes a line of progress.

    Raises:
        BrokerError: Kafka cannot be reached, or stopped answering.
        ConfigurationError: topics are missing, or are not what is recorded.
        StateError: a temporary file cannot be written.
        UpgradeRequiredError: a newer learner wrote a fact.
    """
    outcomes: list[Outcome] = []
    async with open_changelog(settings, say) as changelog:
        cutoffs = await committed_cutoffs(settings, changelog.group_id, changelog.topic)
        for number in range(changelog.partitions):
            outcomes += await _of_shard(changelog, ShardId(number), cutoffs.get(ShardId(number)))
    return outcomes


async def _of_shard(changelog: Changelog, shard: ShardId, cutoff: Cutoff | None) -> list[Outcome]:
    async with replayed(changelog, shard, cutoff, strategies=(), wanted=lambda _: True) as (_, snapshot):
        rows = map(outcome_of, snapshot.outcomes_by_agent())
        return [row for row in rows if row.counts]


async def logged_advice(settings: Settings, say: Say) -> list[AdviceRecord]:
    """The records of the advice log that Kafka still has; none if the topic does not exist.

    Args:
        say: is told how many records were left out because they could not be read.

    Raises:
        BrokerError: Kafka cannot be reached, or stopped answering.
    """
    topic, connection = settings.topics().named().advice, settings.connection()
    patience = settings.startup_timeout_seconds
    async with connected(connection, patience_seconds=patience) as cluster:
        partitions = (await cluster.partitions([topic])).get(topic, 0)
    if not partitions:
        return []
    found: list[AdviceRecord | None] = []
    async with reading_partitions(connection, tell=lambda gap: say(str(gap))) as reader:
        for number in range(partitions):
            partition = TopicPartition(topic, number)
            async for batch in reader.records(partition, await reader.range_of(partition)):
                found += [decode_advice(record.value) for record in batch]
    read = [record for record in found if record is not None]
    if len(read) < len(found):
        say(f"{len(found) - len(read):,} records of {topic} cannot be read, and are left out")
    return read


def swarm_outcomes(path: Path, progress: StepProgress) -> list[Outcome]:
    """The outcomes that a swarm recorded in an SQLite file, by the rules of `import`.

    Raises:
        ConfigurationError: the file is missing, locked, damaged or not a swarm's.
        StateError: there is no room for the temporary database.
    """
    with staged(path, progress) as (staging, _):
        return list(_rows(staging))


def _rows(staging: Staging) -> Iterator[Outcome]:
    for rows in staging.tasks():
        yield from map(_outcome_of_row, rows)


def _outcome_of_row(row: StandingRow) -> Outcome:
    won_result = row.succeeded is not None and row.winner == row.agent_id
    return Outcome(
        row.task_id,
        row.agent_id,
        Close(row.closed_at, row.winner, row.winning_bid_sats),
        Bid(row.placed_at, row.bid_sats, row.description),
        Result(row.closed_at, bool(row.succeeded)) if won_result else None,
    )
