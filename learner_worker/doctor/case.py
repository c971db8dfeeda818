"""The state that the checks share: the settings, and the cluster once it can be reached."""

import ssl
from contextlib import AsyncExitStack

from learner_worker.contract.topics import TopicName, TopicNames, in_layout
from learner_worker.contract.topology import Topology
from learner_worker.doctor.kafka import Kafka, kafka
from learner_worker.errors import LearnerError
from learner_worker.interface.rights import Role
from learner_worker.kafka.connection import Connection
from learner_worker.lifecycle import KAFKA_FAILURES
from learner_worker.refusals.diagnosis import addresses_of
from learner_worker.refusals.listener import Listener, look_at
from learner_worker.settings import Settings


class Case:
    """One examination.

    Attributes:
        role: whose rights are checked.
        reached: the configured addresses that accept connections; set by the first check.
        topology: the record of the topics; None without one, and until the cluster is connected.
    """

    def __init__(self, settings: Settings, stack: AsyncExitStack, role: Role = "worker") -> None:
        self.settings = settings
        self.role = role
        self.reached: list[tuple[str, int]] = []
        self.topology: Topology | None = None
        self._stack = stack
        self._listener: Listener | None = None
        self._kafka: Kafka | None = None

    @property
    def layout(self) -> int:
        """The number of the recorded layout; 1 if nothing says another."""
        return 1 if self.topology is None else self.topology.layout

    @property
    def names(self) -> TopicNames:
        """The topics' full names, in the recorded layout."""
        return self.settings.topics().named().of_layout(self.layout)

    @property
    def group_id(self) -> str:
        """The group with the offsets of events."""
        return in_layout(self.settings.group_id, self.layout)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each address in the settings."""
        return addresses_of(self.settings.bootstrap_servers)

    def connection(self) -> Connection:
        """The connection that the settings define.

        Raises:
            ConfigurationError: a certificate cannot be read.
        """
        return self.settings.connection()

    async def listener(self) -> Listener:
        """The listener at the first address that accepts connections."""
        if self._listener is None:
            context: ssl.SSLContext | None = self.connection().ssl_context
            self._listener = await look_at(*self.reached[0], context)
        return self._listener

    def take_hidden(self) -> set[TopicName]:
        """The topics that were asked for since the last call, and that this user may not see."""
        if self._kafka is None:
            return set()
        hidden, self._kafka.hidden = self._kafka.hidden, set()
        return hidden

    async def kafka(self) -> Kafka:
        """The cluster; connected on first use, until the examination ends."""
        if self._kafka is None:
            self._kafka = await self._stack.enter_async_context(kafka(self.connection(), *self.reached[0]))
            self.topology = await self._recorded(self._kafka)
        return self._kafka

    async def _recorded(self, cluster: Kafka) -> Topology | None:
        """The record of the topics; None if it cannot be read: the check of the topology says why."""
        name = self.names.topology
        try:
            return await cluster.topology(name) if name in await cluster.existing([name]) else None
        except (LearnerError, *KAFKA_FAILURES):
            return None
        finally:
            cluster.hidden.discard(name)  # nobody has concluded anything from it yet
