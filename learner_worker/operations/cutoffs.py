"""The cutoffs before which a group's workers have expired outcomes: by retention and by agent."""

import asyncio
from collections.abc import Mapping

from aiokafka.errors import KafkaError

from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.domain.outcomes import Cutoff, agents_cutoff, later_cutoff
from learner_worker.domain.retention import read_cutoff_note
from learner_worker.kafka.admin import connected
from learner_worker.kafka.partitioner import partitioner
from learner_worker.refusals.denials import failure
from learner_worker.settings import Settings

_KAFKA_SECONDS = 30.0  # aiokafka repeats a request without a limit
"""Time limit for the offsets, as for the other reads of an operator's command."""


async def committed_cutoffs(settings: Settings, group_id: str, changelog: TopicName) -> dict[ShardId, Cutoff]:
    """The cutoffs that the group's workers have committed with the changelog's positions, by shard.

    Those of other incarnations are among them: what has expired on one cluster has expired on its copies.

    Raises:
        BrokerError: Kafka does not answer.
    """
    patience = settings.startup_timeout_seconds
    async with connected(settings.connection(), patience_seconds=patience) as cluster:
        try:
            async with asyncio.timeout(_KAFKA_SECONDS):
                committed = await cluster.committed(group_id)
        except (KafkaError, TimeoutError) as error:
            what = f"the commits of the group {group_id} cannot be read"
            raise failure(what, error, "check --group-id") from error
    notes = {
        ShardId(partition.partition): read_cutoff_note(found.metadata)
        for partition, found in committed.items()
        if partition.topic == changelog
    }
    return {shard: cutoff for shard, cutoff in notes.items() if cutoff is not None}


class Cutoffs:
    """The cutoff of every agent.

    Args:
        committed: the cutoffs of retention that the workers have committed, by shard.
        configured: the cutoff of retention by this command's settings.
        forgotten: the time until which each agent is forgotten.

    Attributes:
        exist: whether any outcome may have expired.
    """

    def __init__(
        self,
        partitions: int,
        committed: Mapping[ShardId, Cutoff],
        configured: Cutoff | None,
        forgotten: Mapping[AgentId, Micros],
    ) -> None:
        self._shard_of = partitioner(partitions)
        self._committed = committed
        self._configured = configured
        self._forgotten = forgotten
        self.exist = bool(committed or configured or forgotten)

    def of(self, agent_id: AgentId) -> Cutoff | None:
        """The agent's cutoff; None if it has none."""
        return agents_cutoff(agent_id, self.by_retention(agent_id), self._forgotten)

    def by_retention(self, agent_id: AgentId) -> Cutoff | None:
        """The cutoff of the agent's shard."""
        if not self._committed:
            return self._configured
        return later_cutoff(self._committed.get(ShardId(self._shard_of(agent_id))), self._configured)

    def is_forgotten(self, agent_id: AgentId, moment: Micros) -> bool:
        """Whether `forget` covers the agent's outcomes of a given time."""
        until = self._forgotten.get(agent_id)
        return until is not None and moment <= until
