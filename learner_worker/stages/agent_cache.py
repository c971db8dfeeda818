"""The agents of one shard that are in memory: learn changes them, advise answers from them."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from learner_worker.contract.fields import AgentId
from learner_worker.domain.agents import Agent, AgentRow
from learner_worker.domain.keywords import Tally


class AgentRows(Protocol):
    """Where agents are read that are not in memory."""

    async def load_agents(self, ids: Sequence[AgentId]) -> dict[AgentId, tuple[AgentRow, dict[str, Tally]]]:
        """The metrics and keywords of the given agents."""
        ...


class AgentCache:
    """The agents asked for most recently, and those that are about to change or to be written.

    Args:
        rows: the shard's file.
        size: how many agents stay in memory; those that are needed always do.

    Attributes:
        at_hand: the agents in memory, those asked for least recently first.
    """

    def __init__(self, rows: AgentRows, size: int) -> None:
        self._rows = rows
        self._size = size
        self._loading = asyncio.Lock()
        self._pinned: Collection[AgentId] = ()
        self.at_hand: OrderedDict[AgentId, Agent] = OrderedDict()

    def pin(self, ids: Collection[AgentId]) -> None:
        """Keeps some agents in memory, once loaded, until others are pinned."""
        self._pinned = ids

    def get(self, agent_id: AgentId) -> Agent | None:
        """The agent, if it is in memory."""
        agent = self.at_hand.get(agent_id)
        if agent is not None:
            self.at_hand.move_to_end(agent_id)
        return agent

    async def load(self, ids: Iterable[AgentId]) -> dict[AgentId, Agent]:
        """The given agents, from memory or the file; an unknown agent is a new one."""
        async with self._loading:
            # Those at hand are held on to: while the others are read, a checkpoint may trim the cache.
            wanted = {agent_id: self.at_hand.get(agent_id) for agent_id in ids}
            missing = [agent_id for agent_id, agent in wanted.items() if agent is None]
            found = await self._rows.load_agents(missing) if missing else {}
            for agent_id in missing:
                row, tallies = found.get(agent_id, (AgentRow(), {}))
                self.at_hand[agent_id] = Agent(agent_id, row, tallies)
            return {agent_id: agent or self.at_hand[agent_id] for agent_id, agent in wanted.items()}

    def trim(self, changed: Iterable[AgentId]) -> None:
        """Lets go of the agents asked for least recently, never of a pinned or a changed one."""
        needed = {*self._pinned, *changed}
        excess = len(self.at_hand) - self._size
        for agent_id in list(self.at_hand) if excess > 0 else ():
            if excess <= 0:
                return
            if agent_id not in needed:
                del self.at_hand[agent_id]
                excess -= 1
