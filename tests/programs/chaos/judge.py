"""The judge: when the storm is over, what the swarm published and what is kept must amount to the same."""

import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from learner_worker.contract.topics import TopicName
from tests.programs.chaos.load import Swarm
from tests.simulation import checks
from tests.simulation.log import Entry
from tests.support import model
from tests.support.workers import outcomes_in_file, read_topic

Key = tuple[str, str]
Outcomes = dict[Key, model.Outcome]
_KEPT_DETAILS = 5


@dataclass(slots=True)
class Verdict:
    """What the judge found.

    Attributes:
        outcomes: how many there are by the model.
        lost: outcomes that a file or the changelog lacks.
        duplicated: outcomes that nobody published, or that stand in a shard that is not theirs.
        failures: everything that does not hold, in words.
    """

    outcomes: int = 0
    lost: set[Key] = field(default_factory=set)
    duplicated: set[Key] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)

    def compare(self, where: str, found: Outcomes, expected: Outcomes) -> None:
        """Counts what is missing, what is too much and what differs in one place."""
        missing, surplus = expected.keys() - found.keys(), found.keys() - expected.keys()
        differing = {key for key in expected.keys() & found.keys() if expected[key] != found[key]}
        self.lost |= missing
        self.duplicated |= surplus
        for what, keys in (("lacks", missing), ("has besides", surplus), ("differs in", differing)):
            if keys:
                shown = [(key, found.get(key), expected.get(key)) for key in sorted(keys)[:_KEPT_DETAILS]]
                self.failures.append(f"{where} {what} {len(keys)} outcomes, as {shown}")

    def require(self, check: Callable[[], None]) -> None:
        """Runs a check of an invariant."""
        try:
            check()
        except checks.InvariantError as error:
            self.failures.append(str(error)[:2_000])


def expected_outcomes(history: Iterable[list[model.Event]]) -> Outcomes:
    """The model's fold, block by block: no task has events in two blocks."""
    found: Outcomes = {}
    for events in history:
        found.update(model.outcomes(events))
    return found


class Latest:
    """The last record of every key of a compacted topic, read on from where the last look ended."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self._came_at = time.monotonic()
        self.entries: dict[bytes | None, Entry] = {}

    @property
    def quiet_seconds(self) -> float:
        """For how long no record has come."""
        return time.monotonic() - self._came_at

    async def refresh(self) -> None:
        """Reads to the end."""
        async for entry in entries_to_the_end(self._consumer, self._partitions):
            self.entries[entry.key] = entry
            self._came_at = time.monotonic()


@contextlib.asynccontextmanager
async def latest_of(bootstrap_servers: str, topic: TopicName, partitions: int) -> AsyncIterator[Latest]:
    """A reader of a compacted topic."""
    async with _reader(bootstrap_servers) as consumer:
        assigned = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(assigned)
        yield Latest(consumer, assigned)


async def entries_of(bootstrap_servers: str, topic: TopicName, partition: int) -> list[Entry]:
    """All records of one partition."""
    async with _reader(bootstrap_servers) as consumer:
        assigned = [TopicPartition(topic, partition)]
        consumer.assign(assigned)
        return [entry async for entry in entries_to_the_end(consumer, assigned)]


def _reader(bootstrap_servers: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest", enable_auto_commit=False
    )


async def entries_to_the_end(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition]
) -> AsyncIterator[Entry]:
    """The records from the consumer's positions to where the partitions end now."""
    ends = await consumer.end_offsets(partitions)
    while any([await consumer.position(partition) < ends[partition] for partition in partitions]):
        for records in (await consumer.getmany(timeout_ms=200)).values():
            for record in records:
                yield Entry(
                    record.topic,
                    record.partition,
                    record.offset,
                    record.timestamp,
                    record.key,
                    record.value,
                    record.headers,
                )


def published_as_expected(entries: Mapping[Any, Entry], expected: Mapping[str, model.Metrics]) -> str | None:
    """Whether every agent's last metrics record is the model's: None, or what is not."""
    try:
        checks.check_published(entries.values(), expected)
    except checks.InvariantError as error:
        return str(error)[:2_000]
    return None


def judge_shard(
    verdict: Verdict, path: Path, *, entries: list[Entry], topic: TopicName, expected: Outcomes
) -> None:
    """Compares a shard's file and its whole changelog with the model and with each other."""
    joined = checks.join_facts(entries)
    verdict.compare(f"{path.parent.name}/{path.name}", outcomes_in_file(path), expected)
    verdict.compare(f"the changelog of {path.name}", checks.counted(joined), expected)
    verdict.require(lambda: checks.check_keys(entries))
    verdict.require(lambda: _check_whole(path, joined, entries[-1].offset + 1 if entries else 0, topic))


def _check_whole(path: Path, joined: checks.JoinedFacts, end: int, topic: TopicName) -> None:
    """A file stands at the changelog's end, its rows are the fold of all of it, its metrics are the rows'."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        position = checks.positions_of(database).get(topic, 0)
        checks.require(position == end, f"{path}: position {position}, and the changelog ends at {end}")
        rows = checks.rows_of(database)
        checks.require(_orders(rows) == _orders(joined), f"{path}: the rows are not the changelog's fold")
        metrics = checks.metrics_of(database)
    expected = model.metrics(checks.counted(rows))
    checks.require(metrics == expected, f"{path}: the metrics are not the rows'", metrics, expected)


def _orders(joined: checks.JoinedFacts) -> dict[Key, dict[str, Any]]:
    return {key: {name: part[0] for name, part in parts.items()} for key, parts in joined.items()}


def check_prefix(path: Path, entries: list[Entry], topic: TopicName) -> None:
    """A file's rows and metrics are the fold of the changelog up to its position."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        checks.check_file(path.name, database, entries, entries, topic)


async def judge_dead_letters(
    verdict: Verdict, bootstrap_servers: str, topic: TopicName, swarm: Swarm
) -> None:
    """Every poison record has one dead letter, by where it lay, and nothing else has one."""
    records = await read_topic(bootstrap_servers, topic)
    origins: dict[bytes, set[bytes]] = {}
    for record in records:
        origins.setdefault(record.value, set()).add(dict(record.headers)["learner-origin"])
    if origins.keys() != swarm.poison:
        missing, surplus = swarm.poison - origins.keys(), origins.keys() - swarm.poison
        verdict.failures.append(
            f"dead letters: {len(missing)} are missing, {len(surplus)} too many: {sorted(surplus)[:3]}"
        )
