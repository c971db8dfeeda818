"""Checks, while a worker runs, that the topics are still those that it was started with."""

import asyncio
from contextlib import AsyncExitStack

from learner_worker.contract.topics import TopicNames
from learner_worker.contract.topology import Topology
from learner_worker.errors import BrokerError, Mismatch
from learner_worker.group.topology import LiveTopics, require_same
from learner_worker.group.topology_view import Filed, TopologyView, establish, topology_view
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.outage import Outage
from learner_worker.lifecycle import KAFKA_FAILURES, is_set_within

_EVERY_SECONDS = 10.0  # how long changed topics may stay unnoticed
_LOOKING = "looking at the topology"
_LOOK_SECONDS = 15.0  # a broker's own time limit for a request
_CONNECT_SECONDS = 5.0  # within a look


class TopologyGuard:
    """A worker's own connection to the topology; kept open between checks."""

    def __init__(self, connection: Connection, names: TopicNames, group_id: str, outage: Outage) -> None:
        self._connection = connection
        self._names = names
        self._group_id = group_id
        self._outage = outage
        self._stack = AsyncExitStack()
        self._view: TopologyView | None = None
        self._turn = asyncio.Lock()
        self._incarnation = ""

    async def establish(self, filed: Filed, *, patience_seconds: float) -> Topology:
        """The topology in effect; see `topology_view.establish`."""
        try:
            view = await self._opened(patience_seconds)
            topology = await establish(view, group_id=self._group_id, filed=filed)
        except BaseException:
            await self.close()
            raise
        self._incarnation = topology.incarnation
        return topology

    async def watch(self, stopping: asyncio.Event) -> None:
        """Checks periodically until `stopping` is set.

        Raises:
            ConfigurationError: the topics have changed; continuing would give wrong numbers.
        """
        while not await is_set_within(stopping, _EVERY_SECONDS):
            try:
                await self.look()
            except (BrokerError, *KAFKA_FAILURES) as error:
                self._outage.failed(_LOOKING, error)
            else:
                self._outage.worked(_LOOKING)

    async def look(self) -> None:
        """Compares the current topics with their current record.

        Raises:
            BrokerError, KafkaError, TimeoutError: Kafka does not answer.
            ConfigurationError: the topics have changed.
        """
        async with self._turn:
            live, topology = await self._seen()
        if topology is None:
            raise Mismatch(
                f"{self._names.topology} has lost its record",
                "stop all workers and see who deleted it; the next start writes it again",
            ).error()
        if topology.incarnation != self._incarnation:
            raise Mismatch(
                f"{self._names.topology} is not the one this worker started with: the topics were deleted "
                "and created anew",
                "stop all workers; if that was on purpose, start them with new state folders",
            ).error()
        require_same(topology, live, self._group_id)

    async def _seen(self) -> tuple[LiveTopics, Topology | None]:
        """The current topology; after a failure the next check reconnects."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                view = await self._opened(_CONNECT_SECONDS)
                live = await view.live()
                topology = await view.standing(live)
        except BaseException:
            await self.close()
            raise
        if self._names.topology not in live.counts:  # a broker that is starting may list less
            raise BrokerError(f"Kafka does not list {self._names.topology}")
        return live, topology

    async def _opened(self, patience_seconds: float) -> TopologyView:
        if self._view is None:
            self._view = await self._stack.enter_async_context(
                topology_view(self._connection, self._names, patience_seconds=patience_seconds)
            )
        return self._view

    async def close(self) -> None:
        """Disconnects."""
        self._view = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()
