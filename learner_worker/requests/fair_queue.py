"""A bounded queue that serves agents in turn: who asks most waits longest, and is refused first."""

from collections import OrderedDict, deque
from typing import Generic, TypeVar

from learner_worker.contract.fields import AgentId

ItemT = TypeVar("ItemT")


class FairQueue(Generic[ItemT]):
    """First come, first served within an agent; the agents take turns.

    Args:
        limit: how many items wait at most. One more displaces the newest of the agent with the most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._turns: OrderedDict[AgentId, deque[ItemT]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, agent_id: AgentId, item: ItemT) -> ItemT | None:
        """Adds an item; what it displaces, perhaps itself, is returned."""
        self._turns.setdefault(agent_id, deque()).append(item)
        self._count += 1
        if self._count <= self._limit:
            return None
        return self._displaced(agent_id)

    def take(self, count: int) -> list[ItemT]:
        """The next items: one of each agent, then the next of each, up to `count`."""
        taken: list[ItemT] = []
        while self._turns and len(taken) < count:
            agent_id, waiting = self._turns.popitem(last=False)
            taken.append(waiting.popleft())
            if waiting:
                self._turns[agent_id] = waiting
        self._count -= len(taken)
        return taken

    def _displaced(self, newcomer: AgentId) -> ItemT:
        """The newcomer's own agent first: looking for a longer queue costs only when it asks little."""
        greediest = newcomer
        if len(self._turns[newcomer]) <= self._limit // len(self._turns):
            greediest = max(self._turns, key=lambda agent_id: len(self._turns[agent_id]))
        waiting = self._turns[greediest]
        displaced = waiting.pop()
        self._count -= 1
        if not waiting:
            del self._turns[greediest]
        return displaced
