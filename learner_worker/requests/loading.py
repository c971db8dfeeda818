"""Loads the agents that requests ask about, so that no answer waits for another agent's long history."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Final

from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.domain.agents import Agent
from learner_worker.errors import ClosedFileError, StateError
from learner_worker.requests.shards import AgentReader

_PATIENCE_SECONDS: Final = 0.05
"""Longer than a read of usual agents takes on a busy machine, and short for those who ask."""


class AgentLoader:
    """Loads agents, one batch at a time for each shard."""

    def __init__(self, on_failure: Callable[[StateError], None]) -> None:
        self._on_failure = on_failure
        self._loading: dict[ShardId, asyncio.Task[Mapping[AgentId, Agent]]] = {}

    async def load(
        self, shard_id: ShardId, agents: AgentReader, ids: Collection[AgentId]
    ) -> Mapping[AgentId, Agent]:
        """Returns agents of a shard; does not await if all are in memory.

        Agents that take long to load are left out, and will be in memory later. So are agents of a shard
        that cannot be read, because it was closed or its file is damaged.
        """
        found = {agent_id: agent for agent_id in ids if (agent := agents.get(agent_id)) is not None}
        if len(found) == len(ids) or shard_id in self._loading:
            return found
        missing = [agent_id for agent_id in ids if agent_id not in found]
        loading = asyncio.create_task(self._read(shard_id, agents, missing), name="load-agents")
        self._loading[shard_id] = loading
        await asyncio.wait([loading], timeout=_PATIENCE_SECONDS)
        return {**found, **loading.result()} if loading.done() else found

    async def _read(
        self, shard_id: ShardId, agents: AgentReader, ids: Collection[AgentId]
    ) -> Mapping[AgentId, Agent]:
        try:
            return await agents.load(ids)
        except ClosedFileError:
            return {}
        except StateError as error:  # ends the worker; the shard's next owner answers
            self._on_failure(error)
            return {}
        finally:
            del self._loading[shard_id]
