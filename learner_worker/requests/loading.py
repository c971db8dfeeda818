"""Loads the agents that requests ask about, so that no answer waits for another agent's long history."""

import asyncio
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from learner_worker.contract.fields import AgentId
from learner_worker.domain.agents import Agent
from learner_worker.errors import ClosedFileError
from learner_worker.requests.shards import AgentReader

_PATIENCE_SECONDS: Final = 0.05
"""Longer than a read of usual agents takes on a busy machine, and short for those who ask."""


class AgentLoader:
    """Loads agents, each once at a time; those that are asked about together are read together.

    Args:
        on_end: takes the agents of a load that has ended, whether they are in memory now or not.
        on_failure: takes the error of a load that failed.
    """

    def __init__(
        self,
        *,
        on_end: Callable[[Collection[AgentId]], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._on_end = on_end
        self._on_failure = on_failure
        self._loading: dict[AgentId, asyncio.Task[Mapping[AgentId, Agent]]] = {}

    def is_loading(self, agent_id: AgentId) -> bool:
        """Whether a load of this agent has not ended yet."""
        return agent_id in self._loading

    async def load(self, agents: AgentReader, ids: Collection[AgentId]) -> Mapping[AgentId, Agent]:
        """Returns agents of a shard; does not await if all are in memory.

        Agents that take long to load are left out, and will be in memory later. So are agents of a shard
        that cannot be read, because it was closed or its file is damaged.
        """
        found = {agent_id: agent for agent_id in ids if (agent := agents.get(agent_id)) is not None}
        missing = [agent_id for agent_id in ids if agent_id not in found and agent_id not in self._loading]
        if not missing:
            return found
        load = asyncio.create_task(agents.load(missing), name="load-agents")
        self._loading.update(dict.fromkeys(missing, load))
        load.add_done_callback(functools.partial(self._ended, missing))
        await asyncio.wait([load], timeout=_PATIENCE_SECONDS)
        return {**found, **load.result()} if load.done() and load.exception() is None else found

    def _ended(self, ids: Sequence[AgentId], load: asyncio.Task[Mapping[AgentId, Agent]]) -> None:
        for agent_id in ids:
            del self._loading[agent_id]
        self._on_end(ids)
        error = None if load.cancelled() else load.exception()
        if error is not None and not isinstance(error, ClosedFileError):
            self._on_failure(error)  # ends the worker; the shard's next owner answers
