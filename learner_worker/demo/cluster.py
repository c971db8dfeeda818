"""The demo's part of a Kafka cluster: a running broker and its own topics, deleted afterwards."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner_worker.brokers import Broker, BrokerKind, running_broker
from learner_worker.contract.topics import Topics, requests_group
from learner_worker.errors import BrokerError
from learner_worker.kafka.admin import connected
from learner_worker.kafka.group_deletion import delete_groups
from learner_worker.lifecycle import KAFKA_FAILURES
from learner_worker.settings import Settings, load_settings

_OURS = ("bootstrap_servers", "client_id")


@dataclass(frozen=True, slots=True)
class DemoCluster:
    """The cluster that the workers and the swarm share.

    Attributes:
        folder: holds the workers' state and logs.
        advice_log: whether the workers record what they advise.
    """

    broker: Broker
    prefix: str
    partitions: int
    folder: Path
    advice_log: bool = False

    @property
    def group_id(self) -> str:
        """The workers' group."""
        return f"{self.prefix}learner-worker"

    @property
    def topics(self) -> Topics:
        """The topics, under the run's own prefix."""
        return self._settings.topics() if self._is_given else Topics(prefix=self.prefix)

    @property
    def kafka_options(self) -> dict[str, Any]:
        """The login to the user's own cluster, from the settings; empty for other brokers."""
        options = self._settings.connection().options() if self._is_given else {}
        return {name: value for name, value in options.items() if name not in _OURS}

    @property
    def environment(self) -> Mapping[str, str]:
        """The workers' environment: the user's settings apply only to the user's own cluster."""
        if self._is_given:
            return os.environ
        return {name: value for name, value in os.environ.items() if not name.startswith("LEARNER_")}

    @property
    def working_folder(self) -> Path:
        """The workers' folder for a settings file: the user's only with the user's own cluster."""
        return Path.cwd() if self._is_given else self.folder

    @property
    def _is_given(self) -> bool:
        return self.broker.kind is BrokerKind.GIVEN

    @property
    def _settings(self) -> Settings:
        return load_settings(
            {"bootstrap_servers": self.broker.bootstrap_servers, "topic_prefix": self.prefix}
        )

    async def clear(self) -> None:
        """Delete the run's topics and groups from a cluster that keeps running."""
        if not self._is_given:
            return
        connection, patience = self._settings.connection(), self._settings.startup_timeout_seconds
        groups = (self.group_id, requests_group(self.group_id))
        try:
            async with connected(connection, patience_seconds=patience) as cluster:
                await cluster.delete_topics(self.topics.named().all)
                await delete_groups(connection, cluster, groups)
        except (BrokerError, *KAFKA_FAILURES) as error:
            raise BrokerError(
                f"Delete the topics {self.prefix}* and the groups {', '.join(groups)} by hand: {error}"
            ) from error


@asynccontextmanager
async def started_broker(
    kind: BrokerKind, given: str | None, data_dir: Path, log: Callable[[str], None]
) -> AsyncIterator[Broker]:
    """Runs the broker, started in a thread so that Ctrl-C works meanwhile; stops it on exit."""
    with ExitStack() as stack:
        starting = asyncio.create_task(
            asyncio.to_thread(
                stack.enter_context, running_broker(kind, given=given, data_dir=data_dir, log=log)
            ),
            name="start-broker",
        )
        try:
            broker = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])  # what is half started cannot be stopped
            raise
        yield broker
