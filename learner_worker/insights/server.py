"""The process of `insights`: reads Kafka and serves HTTP until it is stopped."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from aiohttp import web

from learner_worker.errors import ConfigurationError
from learner_worker.insights.api import InsightsApi
from learner_worker.insights.reader import SwarmReader, swarm_reader
from learner_worker.settings import Settings
from learner_worker.signals import wanted_signals

_LAST_ANSWERS_SECONDS = 2.0  # how long clients may take for their answers at the end
_log = structlog.get_logger("learner_worker.insights")


@dataclass(frozen=True, slots=True)
class InsightsOptions:
    """Where insights are served."""

    host: str = "127.0.0.1"
    port: int = 0


async def serve_insights(settings: Settings, options: InsightsOptions, tell: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        tell: is called with the address, once it can be asked.

    Raises:
        BrokerError: Kafka cannot be reached.
        ConfigurationError: topics are missing, or the address cannot be listened on.
    """
    stopping = asyncio.Event()
    _stop_on_signals(stopping)
    async with swarm_reader(settings) as reader, listening(reader, options) as url:
        tell(url)
        await _until_stopped(reader, stopping)


async def _until_stopped(reader: SwarmReader, stopping: asyncio.Event) -> None:
    """Reads Kafka until `stopping` is set; raises the first failure by itself, not as a group."""
    reading = asyncio.create_task(reader.run(), name="read-swarm")
    stop = asyncio.create_task(stopping.wait(), name="stop")
    try:
        await asyncio.wait([reading, stop], return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            _raise_first(reading.exception())
    finally:
        for task in (reading, stop):
            task.cancel()
        await asyncio.wait([reading, stop])


def _raise_first(failure: BaseException | None) -> None:
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    if failure is not None:
        raise failure


@asynccontextmanager
async def listening(reader: SwarmReader, options: InsightsOptions) -> AsyncIterator[str]:
    """Serves the routes; yields the address.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    app = web.Application()
    app.add_routes(InsightsApi(reader).routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_LAST_ANSWERS_SECONDS)
    await runner.setup()
    try:
        yield await _listen(runner, options)
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, options: InsightsOptions) -> str:
    try:
        await web.TCPSite(runner, options.host, options.port).start()
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {options.host}:{options.port} ({error.strerror}): set --http-host to an "
            "address of this machine, and --http-port to another port, or to 0 for any free one"
        ) from error
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"http://{host}:{runner.addresses[0][1]}"


def _stop_on_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in wanted_signals():
        loop.add_signal_handler(number, stopping.set)
