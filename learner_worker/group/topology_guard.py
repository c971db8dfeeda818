"""Checks, while a worker runs, that the topics are still those that it was started with."""

import asyncio
import time
from contextlib import AsyncExitStack

import structlog

from learner_worker.contract.topics import TopicNames
from learner_worker.contract.topology import Topology
from learner_worker.errors import BrokerError, Mismatch, RefusedError, ReshardError, SupersededError
from learner_worker.group.takeover import complete, record_owner
from learner_worker.group.topology import LiveTopics, require_same
from learner_worker.group.topology_view import Filed, Seen, TopologyView, establish, topology_view
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.rights import needed_rights, require_rights
from learner_worker.lifecycle import KAFKA_FAILURES, is_set_within

_EVERY_SECONDS = 10.0  # how long changed topics may stay unnoticed
_OLD_SECONDS = 20.0  # a worker that has not looked for two intervals may have been superseded long ago
_LOOKING = "looking at the topology"
_LOOK_SECONDS = 15.0  # a broker's own time limit for a request
_CONNECT_SECONDS = 5.0  # within a look
_RESHARD_SECONDS = 1.0  # between two looks for the end of a reshard: agents wait for it
_TELL_EVERY = 30  # looks between two lines of the log about it
_log = structlog.get_logger("learner_worker.group")


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
        self.incarnation = ""
        """The incarnation of the topics at the start; empty before."""
        self._looked_at = time.monotonic()
        self.superseded: ReshardError | SupersededError | None = None
        """Set once a take-over or a reshard has begun and this worker was told to stop."""

    async def establish(self, filed: Filed, *, patience_seconds: float, take_over: bool = False) -> Topology:
        """The topology in effect; see `topology_view.establish`.

        Args:
            take_over: whether this group becomes the owner if another one is; see `takeover`.
        """
        try:
            view = await self._opened(patience_seconds)
            await self._require_rights(view)
            if take_over:
                await record_owner(view, self._group_id)
            topology = await establish(view, group_id=self._group_id, filed=filed)
            topology = await complete(view, topology, self._group_id)
        except BaseException:
            await self.close()
            raise
        self.incarnation, self._looked_at = topology.incarnation, time.monotonic()
        return topology

    async def _require_rights(self, view: TopologyView) -> None:
        """Makes sure of the rights in the layout that stands once no reshard is under way."""
        try:
            topology = (await until_resharded(view)).topology
        except RefusedError:  # says one missing right: name them all
            await self._require_rights_in(view, 1)
            raise
        await self._require_rights_in(view, 1 if topology is None else topology.layout)

    async def _require_rights_in(self, view: TopologyView, layout: int) -> None:
        needed = needed_rights(self._names, self._group_id, layout=layout)
        await require_rights(self._connection, view.cluster, needed)

    async def watch(self, stopping: asyncio.Event) -> None:
        """Checks periodically until `stopping` is set; sets it if a take-over or a reshard has begun.

        Both go on when this group has no members, so its work may still be finished. After a stall the group
        may have removed this member already: then nothing more is written.

        Raises:
            ConfigurationError: the topics have changed; continuing would give wrong numbers.
        """
        while not await is_set_within(stopping, _EVERY_SECONDS):
            in_time = not self._is_old
            try:
                await self.confirm_anew()
            except (ReshardError, SupersededError) as error:
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
            ReshardError: they are being resharded, or were.
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
        former = {one.incarnation for one in topology.former}
        if topology.reshard is not None or self.incarnation in former:
            raise _resharded(topology)
        if topology.incarnation != self.incarnation:
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
                live, topology = await view.look()
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


def _resharded(topology: Topology) -> ReshardError:
    if topology.reshard is not None:
        return ReshardError(
            f"these topics are being resharded from {topology.shards} to {topology.reshard.shards} "
            "partitions: start this worker again, and it waits for the end"
        )
    return ReshardError(
        f"these topics were resharded to {topology.shards} partitions meanwhile: start this worker again"
    )


async def until_resharded(view: TopologyView) -> Seen:
    """Waits while the topics are being resharded, so that a worker may be started at any time.

    A record that was copied from another cluster during a reshard would never change: nothing waits for it.
    """
    number = 0
    while True:
        seen = await view.look()
        topology = seen.topology
        if topology is None or topology.reshard is None or topology.cluster_id != seen.live.cluster_id:
            return seen
        if number % _TELL_EVERY == 0:
            _log.warning("topology.resharding", shards=topology.reshard.shards, done=topology.reshard.step)
        number += 1
        await asyncio.sleep(_RESHARD_SECONDS)
