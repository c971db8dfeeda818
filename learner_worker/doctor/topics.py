"""Checks the topics: existence, partition counts, configuration and replication."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from learner_worker.contract.topics import (
    HOUR_MS,
    LARGEST_FACT_BYTES,
    LARGEST_KEYWORDS_BYTES,
    ROOMY_RECORD_BYTES,
    TopicName,
    TopicNames,
)
from learner_worker.doctor.case import Case
from learner_worker.doctor.findings import Finding, error, note, or_ok, warning
from learner_worker.doctor.kafka import UNKNOWN_TOPIC, Topic
from learner_worker.settings import Settings

_CREATE = "`learner-worker topics create`"
_NO_LEADER = -1  # Kafka's node id for none
_MARGIN_MS = HOUR_MS
Configurations = Mapping[TopicName, Mapping[str, str]]
Rule = Callable[[TopicNames, Configurations, Settings], Iterator[Finding]]


async def check_topics(case: Case) -> Sequence[Finding]:
    """Checks that every topic exists and that the sharded topics have equal partition counts."""
    found = await (await case.kafka()).topics(case.names.all)
    missing = [name for name, topic in found.items() if topic.code == UNKNOWN_TOPIC]
    if missing == [case.names.topology]:  # of a version without it; `topology` tells, and `run` creates it
        missing = []
    counts = {name: len(found[name].partitions) for name in case.names.sharded if found[name].partitions}
    findings = (
        [error(f"missing topics: {', '.join(missing)}", f"create them with {_CREATE}")] if missing else []
    )
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
        findings.append(
            error(
                f"these topics must have the same number of partitions, but {listed}",
                f"delete those that differ and are empty, and recreate them with {_CREATE}; if counts "
                f'were raised, keep {case.names.outcomes} and follow "Changed partition counts" in '
                "docs/operating.md",
            )
        )
    shards = next(iter(counts.values()), 0)
    return or_ok(findings, f"all {len(found)} topics are there, with {shards} shards")


# --- how they are kept -----------------------------------------------------------------------------------


async def check_configuration(case: Case) -> Sequence[Finding]:
    """Checks each topic's retention, compaction and timestamps."""
    kafka = await case.kafka()
    existing = list(await kafka.existing(case.names.all))
    found = await kafka.configurations(existing)
    hidden = [name for name in existing if name not in found]
    findings = [finding for rule in _RULES for finding in rule(case.names, found, case.settings)]
    if hidden:
        what = f"this user may not see the settings of {', '.join(hidden)}"
        findings.append(note(what, "allow DescribeConfigs on them, or have somebody else look"))
    return or_ok(findings, f"{len(existing)} topics are kept as they should be")


def _compacted(names: TopicNames, found: Configurations, _settings: Settings) -> Iterator[Finding]:
    for name, what in (
        (names.outcomes, "outcomes"),
        (names.metrics, "metrics"),
        (names.topology, "the record of the topology"),
    ):
        policy = found.get(name, {}).get("cleanup.policy", "compact")
        if policy != "compact":
            yield error(
                f"{name} has cleanup.policy={policy}: Kafka deletes {what} after its retention",
                f"set cleanup.policy=compact on {name} now, before anything is deleted",
            )


def _deleted(names: TopicNames, found: Configurations, _settings: Settings) -> Iterator[Finding]:
    for name in names.all:
        policy = found.get(name, {}).get("cleanup.policy", "delete")
        if "compact" in policy and name not in {names.outcomes, names.metrics, names.topology}:
            yield error(
                f"{name} has cleanup.policy={policy}: "
                "compaction keeps one record a key and deletes others unread",
                f"set cleanup.policy=delete on {name}",
            )


def _compaction_lag(names: TopicNames, found: Configurations, _settings: Settings) -> Iterator[Finding]:
    lag = int(found.get(names.outcomes, {}).get("min.compaction.lag.ms", HOUR_MS))
    if lag < HOUR_MS:
        yield warning(
            f"{names.outcomes} has min.compaction.lag.ms={lag}",
            f"set min.compaction.lag.ms={HOUR_MS} on it: the last hour stays as it was written",
        )


def _stamped(names: TopicNames, found: Configurations, _settings: Settings) -> Iterator[Finding]:
    kind = "message.timestamp.type"
    if found.get(names.requests, {}).get(kind, "LogAppendTime") != "LogAppendTime":
        yield warning(
            f"{names.requests} keeps the agents' own times: deadlines follow their clocks",
            f"set {kind}=LogAppendTime on {names.requests}",
        )
    if found.get(names.rerouted, {}).get(kind, "CreateTime") != "CreateTime":
        yield error(
            f"{names.rerouted} replaces timestamps: a moved event without its own time gets a wrong one",
            f"set {kind}=CreateTime on {names.rerouted}",
        )


def _kept_long_enough(names: TopicNames, found: Configurations, settings: Settings) -> Iterator[Finding]:
    horizon_ms = round(settings.auction_horizon_seconds * 1000)
    for name in (names.bid_placed, names.auction_closed, names.task_finished, names.rerouted):
        kept = int(found.get(name, {}).get("retention.ms", -1))
        if kept < 0 or kept >= horizon_ms + _MARGIN_MS:
            continue
        say = error if kept < horizon_ms else warning
        yield say(
            f"{name} is kept for {kept // 1000} s, the auction horizon is {horizon_ms // 1000} s: "
            "what a worker missed or has to read again may be gone",
            f"set retention.ms to {horizon_ms + _MARGIN_MS} or more on {name}; a week is usual",
        )


def _kept_by_size(names: TopicNames, found: Configurations, _settings: Settings) -> Iterator[Finding]:
    for name in (names.bid_placed, names.auction_closed, names.task_finished, names.rerouted):
        limit = found.get(name, {}).get("retention.bytes", "-1")
        if limit != "-1":
            yield note(
                f"{name} is cut off at {limit} bytes a partition, however young its records are",
                "see that this is more than a few hours of events",
            )


def _roomy(names: TopicNames, found: Configurations, _settings: Settings) -> Iterator[Finding]:
    for name, (needed, what) in _largest_records(names).items():
        limit = int(found.get(name, {}).get("max.message.bytes", needed))
        if limit < needed:
            yield warning(
                f"{name} takes records of {limit} bytes at most, and {what} may have {needed}: "
                "the largest ones are cut or refused",
                f"set max.message.bytes={needed} on {name}",
            )


def _largest_records(names: TopicNames) -> Mapping[TopicName, tuple[int, str]]:
    """The bytes that the largest record of each topic that the learner writes may have."""
    return {
        names.requests: (ROOMY_RECORD_BYTES, "a moved request"),
        names.rerouted: (ROOMY_RECORD_BYTES, "a moved event"),
        names.dead_letters: (ROOMY_RECORD_BYTES, "a dead letter"),
        names.outcomes: (LARGEST_FACT_BYTES, "a fact"),
        names.metrics: (LARGEST_KEYWORDS_BYTES, "a metrics record"),
        names.replies: (LARGEST_KEYWORDS_BYTES, "a reply with keywords"),
    }


def _clean_elections(names: TopicNames, found: Configurations, _settings: Settings) -> Iterator[Finding]:
    for name in names.all:
        if found.get(name, {}).get("unclean.leader.election.enable", "false") == "true":
            yield warning(
                f"{name} may be led by a broker that lacks its newest records",
                f"set unclean.leader.election.enable=false on {name}",
            )


_RULES: Final[tuple[Rule, ...]] = (
    _compacted,
    _deleted,
    _compaction_lag,
    _stamped,
    _kept_long_enough,
    _kept_by_size,
    _roomy,
    _clean_elections,
)


# --- copies ----------------------------------------------------------------------------------------------


async def check_copies(case: Case) -> Sequence[Finding]:
    """Checks that every partition has a leader and enough replicas to survive the loss of a broker."""
    kafka = await case.kafka()
    topics = await kafka.existing(case.names.all)
    _, brokers = await kafka.identity()
    found = await kafka.configurations(list(topics))
    findings = [
        finding
        for name, topic in topics.items()
        for finding in _copies(name, topic, brokers, int(found.get(name, {}).get("min.insync.replicas", 1)))
    ]
    return or_ok(findings, f"{len(topics)} topics have their leaders and copies ({brokers} brokers)")


def _copies(name: TopicName, topic: Topic, brokers: int, needed: int) -> Iterator[Finding]:
    factor = min((len(partition.replicas) for partition in topic.partitions), default=0)
    dead = [one.number for one in topic.partitions if one.leader == _NO_LEADER]
    short = [one.number for one in topic.partitions if len(one.in_sync) < needed]
    behind = [one.number for one in topic.partitions if len(one.in_sync) < len(one.replicas)]
    if dead:
        yield error(f"{name} has no leader for partitions {dead}", "start the brokers that hold them")
    elif short:
        yield error(
            f"{name} takes no records on partitions {short}: {needed} copies must be in sync",
            "start the missing brokers, or lower min.insync.replicas"
            if factor >= needed
            else f"lower min.insync.replicas to {factor}, or raise the replication factor",
        )
    elif behind:
        yield warning(f"{name} lacks copies of partitions {behind}", "start the missing brokers")
    if factor == 1 and brokers > 1:
        yield warning(
            f"{name} has one copy in a cluster of {brokers} brokers: with its broker its records are gone",
            "raise its replication factor (kafka-reassign-partitions), 3 is usual",
        )
    elif factor > 1 and needed == 1:
        yield warning(
            f"{name} acknowledges records that only one broker has", "set min.insync.replicas=2 on it"
        )
