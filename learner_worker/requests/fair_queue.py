"""A bounded queue that serves agents in turn: the agent with the most requests is refused first."""

from collections import OrderedDict, deque
from typing import Generic, TypeVar

from learner_worker.contract.fields import AgentId

ItemT = TypeVar("ItemT")


class FairQueue(Generic[ItemT]):
    """A first-in, first-out queue per agent; the agents take turns.

    Args:
        limit: the most items queued in all. One more displaces the newest item of the agent with the most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._turns: OrderedDict[AgentId, deque[ItemT]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, agent_id: AgentId, item: ItemT) -> ItemT | None:
        """Adds an item; returns the item that it displaces, which may be itself."""
        self._turns.setdefault(agent_id, deque()).append(item)
        self._count += 1
        if self._count <= self._limit:
            return None
        return self._displaced(agent_id)

    def take(self, count: int) -> list[ItemT]:
        """Takes up to `count` items: one of each agent, then the next of each."""
        taken: list[ItemT] = []
        while self._turns and len(taken) < count:
            agent_id, queued = self._turns.popitem(last=False)
            taken.append(queued.popleft())
            if queued:
                self._turns[agent_id] = queued
        self._count -= len(taken)
        return taken

    def _displaced(self, newcomer: AgentId) -> ItemT:
        """Displaces an item of the newcomer's agent if that exceeds its share; else of the longest queue."""
        greediest = newcomer
        if len(self._turns[newcomer]) <= self._limit // len(self._turns):
            greediest = max(self._turns, key=lambda agent_id: len(self._turns[agent_id]))
        queued = self._turns[greediest]
        displaced = queued.pop()
        self._count -= 1
        if not queued:
            del self._turns[greediest]
        return displaced
