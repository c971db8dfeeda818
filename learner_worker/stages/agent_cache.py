"""Caches the agents of one shard: learn changes them, and advise answers from them."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from typing import Protocol

from learner_worker.contract.fields import AgentId
from learner_worker.domain.agents import Agent, AgentRow
from learner_worker.domain.bucketed import LOOKED_AT
from learner_worker.domain.keywords import Tally
from learner_worker.domain.sums import KeptSums
from learner_worker.stages.release import GiveWay, GradualRelease

_AGENT = 50  # freeing an agent takes as long as freeing this many keywords


class AgentRows(Protocol):
    """Reads agents that are not in memory."""

    async def load_agents(
        self, ids: Sequence[AgentId]
    ) -> Mapping[AgentId, tuple[AgentRow, MutableMapping[str, Tally]]]:
        """The metrics and keywords of the given agents."""
        ...

    async def load_sums(self, ids: Sequence[AgentId]) -> dict[AgentId, dict[str, KeptSums]]:
        """The sums of the given agents, by strategy."""
        ...


class AgentCache:
    """A least-recently-used cache of agents; those about to change or to be written always stay.

    Args:
        rows: the shard's file.
        size: number of agents kept in memory; needed ones stay beyond it.
        with_sums: whether any strategy keeps sums.

    Attributes:
        at_hand: the agents in memory, least recently used first.
        unused: what is no longer needed and too large to be freed at once.
    """

    def __init__(self, rows: AgentRows, size: int, *, with_sums: bool = False) -> None:
        self._rows = rows
        self._size = size
        self._with_sums = with_sums
        self._reading: dict[AgentId, asyncio.Event] = {}
        self._ranking = asyncio.Lock()
        self._pinned: Collection[AgentId] = ()
        self.at_hand: OrderedDict[AgentId, Agent] = OrderedDict()
        self.unused = GradualRelease()

    def pin(self, ids: Collection[AgentId]) -> None:
        """Keeps some agents in memory, once loaded, until others are pinned."""
        self._pinned = ids

    def get(self, agent_id: AgentId) -> Agent | None:
        """The agent, if it is in memory and an answer needs no scan of many keywords."""
        agent = self._used(agent_id)
        return agent if agent is not None and agent.is_ready else None

    async def load(self, ids: Iterable[AgentId], *, for_change: bool = False) -> dict[AgentId, Agent]:
        """Loads agents from memory or the file; an unknown agent is a new one.

        It does not wait for reads of other agents.

        Args:
            for_change: whether the agents are only changed; otherwise they are prepared for answers.
        """
        # Keep references to those in memory: while the others are read, a checkpoint may trim the cache.
        wanted = {agent_id: self._used(agent_id) for agent_id in ids}
        while missing := [agent_id for agent_id, agent in wanted.items() if agent is None]:
            if unread := [agent_id for agent_id in missing if agent_id not in self._reading]:
                await self._read(unread)
            else:
                await self._reading[missing[0]].wait()
            wanted.update({agent_id: self._used(agent_id) for agent_id in missing})
        agents = {agent_id: agent for agent_id, agent in wanted.items() if agent is not None}
        large = () if for_change else [each for each in agents.values() if len(each.tallies) > LOOKED_AT]
        for number, agent in enumerate(large):
            if number:  # also one that is ready takes a look at its candidates
                await asyncio.sleep(0)
            async with self._ranking:  # once, however many wait for it; facts are loaded meanwhile
                await _make_ready(agent)
        return agents

    def _used(self, agent_id: AgentId) -> Agent | None:
        """Returns the agent, if it is in memory, and makes it the most recently used one."""
        agent = self.at_hand.get(agent_id)
        if agent is not None:
            self.at_hand.move_to_end(agent_id)
        return agent

    async def _read(self, ids: Sequence[AgentId]) -> None:
        """Reads agents from the file; other loads of them wait meanwhile."""
        read = asyncio.Event()
        self._reading.update(dict.fromkeys(ids, read))
        try:
            found = await self._rows.load_agents(ids)
            sums = await self._rows.load_sums(ids) if self._with_sums else {}
            for agent_id in ids:
                row, tallies = found.get(agent_id, (AgentRow(), {}))
                self.at_hand[agent_id] = Agent(agent_id, row, tallies, sums.get(agent_id))
        finally:  # after a failure or cancellation, the loads that wait read them anew
            for agent_id in ids:
                del self._reading[agent_id]
            read.set()

    def trim(self, changed: Iterable[AgentId]) -> None:
        """Evicts the least recently used agents, but never a pinned or a changed one."""
        needed = {*self._pinned, *changed}
        excess = len(self.at_hand) - self._size
        for agent_id in list(self.at_hand) if excess > 0 else ():
            if excess <= 0:
                return
            if agent_id not in needed:
                agent = self.at_hand.pop(agent_id)
                self.unused.add_with(agent, agent.tallies)
                excess -= 1

    async def free(self, give_way: GiveWay) -> None:
        """Evicts and frees all agents in short steps, and gives way after each; nothing loads any more."""
        freed = 0
        while self.at_hand:
            _, agent = self.at_hand.popitem()
            self.unused.add_with(agent, agent.tallies)
            freed += _AGENT + min(LOOKED_AT, len(agent.tallies))
            if freed >= LOOKED_AT:
                freed = 0
                await give_way()
            del agent  # what this keeps is not freed
        await self.unused.release(give_way)


async def _make_ready(agent: Agent) -> None:
    """Finds the strongest of many keywords, in steps; a forget may replace the agent's keywords meanwhile."""
    while True:
        for _ in agent.strongest.collected():
            await asyncio.sleep(0)
        if agent.is_ready:
            return
