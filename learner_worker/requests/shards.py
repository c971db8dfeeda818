"""The shards that requests are answered from."""

from collections.abc import Collection, Mapping
from typing import Protocol

from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.domain.agents import Agent
from learner_worker.requests.settings import WhileRestoring


class AgentReader(Protocol):
    """Where a shard's agents are read."""

    def get(self, agent_id: AgentId) -> Agent | None:
        """An agent that is in memory."""
        ...

    async def load(self, ids: Collection[AgentId]) -> Mapping[AgentId, Agent]:
        """Agents, from the file where they are not in memory.

        Raises:
            ClosedFileError: the shard was closed meanwhile.
            StateError: its file cannot be read.
        """
        ...


class AnsweringShard(Protocol):
    """What answering needs of an open shard."""

    @property
    def restored(self) -> bool:
        """Whether the changelog has been read to where it ended when the shard was opened."""
        ...

    @property
    def agents(self) -> AgentReader:
        """Its agents."""
        ...


class OwnedShards:
    """Which shards are this replica's, and which of them are open."""

    def __init__(self, while_restoring: WhileRestoring) -> None:
        self._stale_allowed = while_restoring == "stale"
        self._open: Mapping[ShardId, AnsweringShard] = {}
        self._assigned: frozenset[ShardId] = frozenset()

    def own(self, opened: Mapping[ShardId, AnsweringShard], assigned: frozenset[ShardId]) -> None:
        """Takes what the group gave this replica, and what of it is open."""
        self._open = dict(opened)
        self._assigned = assigned

    def is_assigned(self, shard_id: ShardId) -> bool:
        """Whether a shard is this replica's at all."""
        return shard_id in self._assigned

    def get(self, shard_id: ShardId) -> AnsweringShard | None:
        """A shard, if it is open."""
        return self._open.get(shard_id)

    def may_answer_from(self, shard: AnsweringShard) -> bool:
        """Whether a shard is restored, or stale answers are allowed."""
        return shard.restored or self._stale_allowed

    def can_answer(self, shard_id: ShardId) -> bool:
        """Whether a shard is open, and may be answered from."""
        shard = self._open.get(shard_id)
        return shard is not None and (shard.restored or self._stale_allowed)
