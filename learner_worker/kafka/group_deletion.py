"""Deletes consumer groups, which aiokafka's admin client cannot."""

import asyncio
from collections.abc import Iterable
from contextlib import closing
from typing import Final

from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupIdNotFound,
    NonEmptyGroup,
    NotCoordinatorForGroupError,
    for_code,
)
from aiokafka.protocol.admin import DeleteGroupsRequest

from learner_worker.errors import BrokerError
from learner_worker.kafka.admin import Cluster
from learner_worker.kafka.connection import Connection
from learner_worker.refusals.diagnosis import connect

_LATER: Final = (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError, NonEmptyGroup)
"""Errors that pass: a coordinator is being elected, or the last member is about to leave."""
_RETRY_SECONDS = 0.5  # a member that has left is noticed soon
_EMPTY_SECONDS = 15.0  # above the default session timeout, after which a member that is gone is removed


async def delete_groups(connection: Connection, cluster: Cluster, group_ids: Iterable[str]) -> None:
    """Deletes groups once they are empty; a group that does not exist is deleted already.

    Raises:
        BrokerError: a group still has members, or Kafka refuses.
        KafkaError, OSError, TimeoutError: Kafka does not answer.
    """
    for group_id in group_ids:
        deadline = asyncio.get_running_loop().time() + _EMPTY_SECONDS
        while (refusal := await _delete(connection, cluster, group_id)) is not None:
            if refusal not in _LATER or asyncio.get_running_loop().time() > deadline:
                raise BrokerError(f"Kafka did not delete the group {group_id}: {refusal.__name__}")
            await asyncio.sleep(_RETRY_SECONDS)


async def _delete(connection: Connection, cluster: Cluster, group_id: str) -> type[BaseException] | None:
    """Asks the group's coordinator once; returns the kind of refusal, or None when there is no group left."""
    try:
        host, port = await cluster.coordinator(group_id)
    except _LATER as error:
        return type(error)
    with closing(await connect(connection.options(), host, port)) as conn:
        answer = await conn.send(DeleteGroupsRequest([group_id]))
    ((_, code),) = answer.results
    kind: type[BaseException] = for_code(code)
    return None if code == 0 or kind is GroupIdNotFound else kind
