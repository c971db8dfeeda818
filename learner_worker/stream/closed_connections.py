"""A closed connection is a broken connection, also on uvloop: the other place where aiokafka is patched.

Writing to a transport that has just closed raises RuntimeError on uvloop, where asyncio's own loop is silent.
aiokafka does not take that for a broken connection. It ends the client's task for metadata, as when a broker
that is starting accepts a connection and drops it, and the client stands still for ever: one outage in ten
did that to a consumer (measured), which then had to be built anew a minute later.
"""

import functools
import inspect
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

_METHOD = "send"
_PARAMETERS = ["self", "request", "expect_response"]


def take_closed_for_broken() -> bool:
    """From now on a request on a closed connection raises KafkaConnectionError, in every client there is.

    Returns:
        False if this aiokafka is built differently: it is left alone.
    """
    method = getattr(AIOKafkaConnection, _METHOD, None)
    if method is None or list(inspect.signature(method).parameters) != _PARAMETERS:
        return False
    setattr(AIOKafkaConnection, _METHOD, _guarded(method))
    return True


def _guarded(send: Any) -> Any:
    @functools.wraps(send)
    def guarded(connection: AIOKafkaConnection, *arguments: Any, **named: Any) -> Any:
        try:
            return send(connection, *arguments, **named)
        except RuntimeError as error:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"the connection is closed: {error}") from error

    return guarded
