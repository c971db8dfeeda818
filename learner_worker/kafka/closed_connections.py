"""A closed connection is a broken connection, also on uvloop: one of two patches of aiokafka.

Writing to a transport that has just closed raises RuntimeError on uvloop, where asyncio's own loop is silent.
aiokafka does not take that for a broken connection. It ends the client's task for metadata, as when a broker
that is starting accepts a connection and drops it, and the client stands still for ever: one outage in ten
did that to a consumer (measured), which then had to be built anew a minute later.
"""

import functools
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

from learner_worker.kafka.patching import replace_method


def take_closed_for_broken() -> bool:
    """From now on a request on a closed connection raises KafkaConnectionError, in every client there is.

    Returns:
        False if this aiokafka is built differently: it is left alone.
    """
    return replace_method(AIOKafkaConnection, "send", ["self", "request", "expect_response"], _guarded)


def _guarded(send: Any) -> Any:
    @functools.wraps(send)
    def guarded(connection: AIOKafkaConnection, *arguments: Any, **named: Any) -> Any:
        try:
            return send(connection, *arguments, **named)
        except RuntimeError as error:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"the connection is closed: {error}") from error

    return guarded
