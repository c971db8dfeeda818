"""Checks the recorded topology, and whether the changelog is partitioned by it."""

from collections.abc import Sequence

from aiokafka.errors import TopicAuthorizationFailedError

from learner_worker.contract.topology import Topology
from learner_worker.doctor.case import Case
from learner_worker.doctor.findings import Finding, error, note, ok, or_ok, warning
from learner_worker.errors import BrokerError
from learner_worker.group.topology import LiveTopics, mismatches, misplaced

_SAMPLED = 100  # records at each end of a partition: of a doubled changelog one half lie wrong


async def live_topics(case: Case) -> LiveTopics:
    """The topics that exist, with their counts."""
    kafka = await case.kafka()
    cluster_id, _ = await kafka.identity()
    existing = await kafka.existing(case.names.all)
    return LiveTopics(cluster_id, case.names, {name: len(one.partitions) for name, one in existing.items()})


async def recorded(case: Case) -> Topology | None:
    """The recorded topology; None if there is none, or no topic for it.

    Raises:
        TopicAuthorizationFailedError: this user may not read it.
    """
    live = await live_topics(case)
    if case.names.topology not in live.counts:
        await (await case.kafka()).require_visible(case.names.topology)
        return None
    try:
        return await (await case.kafka()).topology(case.names.topology)
    except BrokerError as failure:
        if isinstance(failure.__cause__, TopicAuthorizationFailedError):
            raise failure.__cause__ from None
        raise


async def check_topology(case: Case) -> Sequence[Finding]:
    """Checks that topics, cluster and group match the recorded topology."""
    topology = await recorded(case)
    if topology is None:
        return [
            warning(
                f"{case.names.topology} holds no record: nothing says how many partitions the topics were "
                "created with",
                "run `learner-worker topics create`, or the next `learner-worker run` writes it",
            )
        ]
    findings = [
        error(what, remedy)
        for what, remedy in mismatches(topology, await live_topics(case), case.settings.group_id)
    ]
    owner = f"of group {topology.owner_group}" if topology.owner_group else "of the first group that runs"
    if topology.replaced is not None:
        findings.append(
            warning(
                f"the topics of the layout before are still there ({topology.replaced.outcomes} and others): "
                "they hold what agents forgotten since did",
                "once the numbers are right, delete them with `learner-worker reshard --finish`",
            )
        )
    if topology.taken_from is not None and not findings:
        findings.append(
            warning(
                f"the take-over from group {topology.taken_from.group_id} is not finished",
                f"start a worker of group {topology.owner_group}: it goes on",
            )
        )
    return or_ok(findings, f"the topics are as recorded: {topology.shards} shards, {owner}")


async def expected_count(case: Case) -> int | None:
    """The partition count that records are partitioned by; None if the topics disagree."""
    topology = await recorded(case)
    if topology is not None:
        return topology.shards
    counts = set((await live_topics(case)).sharded.values())
    return counts.pop() if len(counts) == 1 else None


async def check_changelog(case: Case) -> Sequence[Finding]:
    """Checks that the records at both ends of each changelog partition belong to its agents."""
    kafka, name, count = await case.kafka(), case.names.outcomes, await expected_count(case)
    await kafka.require_visible(name)
    if count is None or name not in await kafka.existing(case.names.all):
        return [note("there is no changelog of a known partition count to look into")]
    found = misplaced(await kafka.changelog_ends(name, _SAMPLED), count)
    if found is not None:
        return [error(*found.mismatch(name, count))]
    return [ok(f"the sampled records of {name} lie on the partitions of their agents")]
