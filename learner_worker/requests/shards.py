"""The shards from which requests are answered."""

from collections.abc import Collection, Mapping
from typing import Protocol

from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.domain.agents import Agent
from learner_worker.requests.request import AdmittedRequest
from learner_worker.requests.settings import WhileRestoring


class AgentReader(Protocol):
    """Reads a shard's agents."""

    def get(self, agent_id: AgentId) -> Agent | None:
        """An agent, if it is in memory."""
        ...

    async def load(self, ids: Collection[AgentId]) -> Mapping[AgentId, Agent]:
        """Loads agents, from the file if they are not in memory.

        Raises:
            ClosedFileError: the shard was closed meanwhile.
            StateError: its file cannot be read.
        """
        ...


class AnsweringShard(Protocol):
    """The part of an open shard that answering needs."""

    @property
    def restored(self) -> bool:
        """Whether the changelog has been read up to the end offset it had when the shard was opened."""
        ...

    def has_sums(self, strategies: Collection[str]) -> bool:
        """Whether every row is counted for each of these strategies."""
        ...

    @property
    def agents(self) -> AgentReader:
        """The shard's agents."""
        ...


class OwnedShards:
    """The shards that are assigned to this replica, and which of them are open."""

    def __init__(self, while_restoring: WhileRestoring) -> None:
        self._stale_allowed = while_restoring == "stale"
        self._open: Mapping[ShardId, AnsweringShard] = {}
        self._assigned: frozenset[ShardId] = frozenset()

    def own(self, opened: Mapping[ShardId, AnsweringShard], assigned: frozenset[ShardId]) -> None:
        """Sets the shards that are assigned to this replica and those that are open."""
        self._open = dict(opened)
        self._assigned = assigned

    def is_assigned(self, shard_id: ShardId) -> bool:
        """Whether a shard is assigned to this replica."""
        return shard_id in self._assigned

    def get(self, shard_id: ShardId) -> AnsweringShard | None:
        """A shard, if it is open."""
        return self._open.get(shard_id)

    def may_answer_from(self, shard: AnsweringShard, request: AdmittedRequest) -> bool:
        """Whether a shard has all that a request's answer is made of, or stale answers are allowed."""
        return self._stale_allowed or is_current(shard, request)

    def can_answer(self, request: AdmittedRequest) -> bool:
        """Whether the request's shard is open, and may be answered from."""
        shard = self._open.get(request.shard_id)
        return shard is not None and self.may_answer_from(shard, request)


def is_current(shard: AnsweringShard, request: AdmittedRequest) -> bool:
    """Whether a shard is restored, and every row counted for the strategies that a request asks."""
    return shard.restored and (not request.sums_needed or shard.has_sums(request.sums_needed))
