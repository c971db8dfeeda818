"""Starting and stopping aiokafka's clients, every step bounded in time.

Left alone, aiokafka may wait for ever while Kafka is away: to start, for the cluster; to stop, for what is
unsent.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from aiokafka.errors import KafkaError

KAFKA_FAILURES: Final = (KafkaError, OSError, TimeoutError)
"""What aiokafka's clients raise when Kafka is away, refuses or does not answer."""


class Ending(NamedTuple):
    """How something ended: whether in time, and with which error, if any."""

    in_time: bool
    failure: BaseException | None = None


async def start_within(
    client: Any, seconds: float, *, stop: Callable[[Any], Coroutine[Any, Any, None]]
) -> None:
    """Starts a consumer, a producer or an admin client; one that does not start is stopped.

    Raises one of KAFKA_FAILURES.
    """
    try:
        async with asyncio.timeout(seconds):
            await client.start()
    except BaseException:
        await stop(client)
        raise


async def end_within(ending: Coroutine[Any, Any, None], seconds: float) -> Ending:
    """Waits for `stop`, `close` or `flush` of a client; one that takes longer is cancelled and left behind.

    In a task of its own: aiokafka's endings swallow a cancellation, or raise one that nobody asked for (a
    consumer that is stopped right after its start).
    """
    task = asyncio.create_task(ending, name="end-kafka-client")
    await asyncio.wait([task], timeout=seconds)
    if not task.done():
        task.cancel()
        return Ending(in_time=False)
    return Ending(in_time=True, failure=None if task.cancelled() else task.exception())
