"""Checks, while a worker runs, that the topics are still those that it was started with."""

import asyncio
import time
from contextlib import AsyncExitStack

from learner_worker.contract.topics import TopicNames
from learner_worker.contract.topology import Topology
from learner_worker.errors import BrokerError, Mismatch, SupersededError
from learner_worker.group.takeover import complete, record_owner
from learner_worker.group.topology import LiveTopics, require_same
from learner_worker.group.topology_view import Filed, TopologyView, establish, topology_view
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.rights import require_rights
from learner_worker.lifecycle import KAFKA_FAILURES, is_set_within

_EVERY_SECONDS = 10.0  # how long changed topics may stay unnoticed
_OLD_SECONDS = 20.0  # a worker that has not looked for two intervals may have been superseded long ago
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
        self._looked_at = time.monotonic()
        self.superseded: SupersededError | None = None
        """Set once another group has taken the topics over and this worker was told to stop."""

    async def establish(self, filed: Filed, *, patience_seconds: float, take_over: bool = False) -> Topology:
        """The topology in effect; see `topology_view.establish`.

        Args:
            take_over: whether this group becomes the owner if another one is; see `takeover`.
        """
        try:
            view = await self._opened(patience_seconds)
            await require_rights(self._connection, view.cluster, self._names, self._group_id)
            if take_over:
                await record_owner(view, self._group_id)
            topology = await establish(view, group_id=self._group_id, filed=filed)
            topology = await complete(view, topology, self._group_id)
        except BaseException:
            await self.close()
            raise
        self._incarnation, self._looked_at = topology.incarnation, time.monotonic()
        return topology

    async def watch(self, stopping: asyncio.Event) -> None:
        """Checks periodically until `stopping` is set; sets it if another group has taken the topics over.

        The new owner begins when this group has no members, so this one's work may still be finished. After a
        stall the group may have removed this member already: then nothing more is written.

        Raises:
            ConfigurationError: the topics have changed; continuing would give wrong numbers.
        """
        while not await is_set_within(stopping, _EVERY_SECONDS):
            in_time = not self._is_old
            try:
                await self.confirm_anew()
            except SupersededError as error:
                if not in_time:
                    raise
                self.superseded = error
                stopping.set()

    async def confirm(self) -> bool:
        """Whether the last check is recent, or succeeds now; False if Kafka does not answer.

        Raises:
            ConfigurationError: the topics have changed.
        """
        return not self._is_old or await self.confirm_anew()

    @property
    def _is_old(self) -> bool:
        return time.monotonic() - self._looked_at > _OLD_SECONDS

    async def confirm_anew(self) -> bool:
        """Whether a check succeeds now, as after a stall; False if Kafka does not answer.

        Raises:
            ConfigurationError: the topics have changed.
        """
        try:
            await self.look()
        except (BrokerError, *KAFKA_FAILURES) as error:
            self._outage.failed(_LOOKING, error)
            return False
        self._outage.worked(_LOOKING)
        return True

    async def look(self) -> None:
        """Compares the current topics with their current record.

        Raises:
            BrokerError, KafkaError, TimeoutError: Kafka does not answer.
            SupersededError: another group owns them now.
            ConfigurationError: the topics have changed.
        """
        async with self._turn:
            began = time.monotonic()
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
        if topology.owner_group not in {None, self._group_id}:
            raise SupersededError(
                f"group {topology.owner_group} has taken these topics over: start no more workers with "
                f"--group-id {self._group_id}"
            )
        require_same(topology, live, self._group_id)
        self._looked_at = began

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
