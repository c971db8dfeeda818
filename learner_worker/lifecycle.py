"""Starts and stops aiokafka's clients, and waits for a stop, every step within a time limit.

Otherwise aiokafka may wait without end while Kafka is unreachable: a start waits for the cluster, a stop for
unsent records. `replace_method` is for what has to be different in aiokafka itself.
"""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

_ASK_AGAIN_SECONDS: Final = 0.2
"""While Kafka names no broker: it starts, or takes a broker back, within seconds."""
KAFKA_FAILURES: Final = (KafkaError, OSError, TimeoutError)
"""Raised by aiokafka's clients if Kafka is unreachable, refuses or does not answer."""


class Ending(NamedTuple):
    """The end of an operation: whether it ended in time, and with which error, if any."""

    in_time: bool
    failure: BaseException | None = None


async def start_within(
    client: Any, seconds: float, *, stop: Callable[[Any], Coroutine[Any, Any, None]]
) -> None:
    """Starts a consumer, a producer or an admin client; if that fails, stops it again.

    Raises one of KAFKA_FAILURES.
    """
    try:
        async with asyncio.timeout(seconds):
            await client.start()
            await _until_brokers_are_known(client)
    except BaseException:
        await stop(client)
        raise


async def _until_brokers_are_known(client: Any) -> None:
    """Asks again while Kafka names no broker, as it does while all of them are starting or fenced.

    aiokafka keeps its first connection for that. Once it is lost, the client would never ask again, and
    whatever it is given to send would wait in vain.
    """
    inner = getattr(client, "client", None) or getattr(client, "_client", None)  # a producer; the others
    if not isinstance(inner, AIOKafkaClient):
        return
    while not inner.cluster.brokers():
        if await inner.ready("bootstrap"):
            await inner.force_metadata_update()
        else:
            await inner.bootstrap()
        await asyncio.sleep(_ASK_AGAIN_SECONDS)


async def end_within(ending: Coroutine[Any, Any, None], seconds: float) -> Ending:
    """Waits for a client's `stop`, `close` or `flush`; cancels and abandons one that takes longer.

    It runs in its own task: aiokafka's clients swallow a cancellation, or raise one without a cause (a
    consumer that is stopped right after its start does).
    """
    task = asyncio.create_task(ending, name="end-kafka-client")
    await asyncio.wait([task], timeout=seconds)
    if not task.done():
        task.cancel()
        return Ending(in_time=False)
    return Ending(in_time=True, failure=None if task.cancelled() else task.exception())


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Waits for an event for at most `seconds`; returns whether it was set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def replace_method(
    owner: type,
    name: str,
    parameters: Sequence[str],
    make: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> bool:
    """Replaces a method of a class by `make(method)`, for this process.

    Args:
        parameters: the names that the method's parameters must have, including `self`.

    Returns:
        False if the method is missing or has other parameters: it is then left unchanged.
    """
    method = getattr(owner, name, None)
    if method is None or list(inspect.signature(method).parameters) != list(parameters):
        return False
    setattr(owner, name, make(method))
    return True
