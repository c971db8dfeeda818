"""Removes members from the group by name: those that died, and those whose files move."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
from aiokafka.errors import KafkaError

from learner_worker.contract.topics import in_layout
from learner_worker.errors import LearnerError
from learner_worker.group.departure import process_instance, remove_instance, remove_instances
from learner_worker.group.topology_view import topology_view
from learner_worker.kafka.admin import Cluster
from learner_worker.kafka.outage import first_line
from learner_worker.settings import Settings
from learner_worker.store.arrangement import arranging_shard_files

_log = structlog.get_logger("learner_worker.replica")


async def remove_member(settings: Settings, instance: str) -> dict[str, str]:
    """Removes from the group the member with this instance id, or the processes of the replica with it.

    Returns:
        The host of each, by its instance id.

    Raises:
        BrokerError: Kafka did not take it.
        ConfigurationError: the group has no such member.
    """
    async with _group(settings) as (cluster, group_id):
        return await remove_instance(cluster, group_id, instance)


async def arrange_processes(settings: Settings, processes: int) -> None:
    """Moves the shards' files to where this number of processes looks for them; the caller holds the lock.

    First the members of the processes that had them are removed, as far as the group has them: it would give
    a static member its old shards by its name, although their files are elsewhere.

    Raises:
        ConfigurationError: a process of an earlier run still uses its folder.
        StateError: the folder cannot be written.
    """
    with arranging_shard_files(settings.state_dir, processes) as former:
        await _remove_former_members(settings, former)


async def _remove_former_members(settings: Settings, former: Sequence[int | None]) -> None:
    """Removes the members of processes, of which None was the only one."""
    instance = settings.group_instance_id
    if instance is None or not former:
        return
    names = [instance if number is None else process_instance(instance, number) for number in former]
    try:
        async with _group(settings) as (cluster, group_id):
            removed = await remove_instances(cluster, group_id, names)
    except (LearnerError, KafkaError, TimeoutError) as error:
        _log.info("members.not_removed", members=names, reason=first_line(error))
    else:
        _log.info("members.removed", members=removed)


@asynccontextmanager
async def _group(settings: Settings) -> AsyncIterator[tuple[Cluster, str]]:
    """The cluster, and the group's name in the layout that stands."""
    patience = settings.startup_timeout_seconds
    names = settings.topics().named()
    async with topology_view(settings.connection(), names, patience_seconds=patience) as view:
        topology = (await view.look()).topology
        yield view.cluster, in_layout(settings.group_id, 1 if topology is None else topology.layout)
