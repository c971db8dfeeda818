"""The process of `insights`: reads Kafka and serves HTTP until it is stopped."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web

from learner_worker.client.tokens import TokenSource
from learner_worker.http_server import listening
from learner_worker.insights.access import Access, add_headers
from learner_worker.insights.advice import AdviceReader
from learner_worker.insights.advice_store import advice_store
from learner_worker.insights.api import InsightsApi
from learner_worker.insights.auction_pages import AuctionPages
from learner_worker.insights.live import LiveUpdates
from learner_worker.insights.moves import MoveFinder
from learner_worker.insights.pages import InsightsPages
from learner_worker.insights.reader import SwarmReader, swarm_reader
from learner_worker.insights.rendering import Rendering
from learner_worker.insights.sending import Sending, sending
from learner_worker.insights.workers import WorkersWatch
from learner_worker.settings import Settings
from learner_worker.signals import wanted_signals

_OTHER_PORTS = "another port, or to 0 for any free one"
_LARGEST_BODY_BYTES = 256 * 1024  # a description of 16,384 characters, as a form encodes it
_log = structlog.get_logger("learner_worker.insights")


@dataclass(frozen=True, slots=True)
class InsightsOptions:
    """How insights are served.

    Attributes:
        port: 0 for any free one.
        allow_writes: whether tasks may be reported as failed.
        token: brings what proves to the learner who asks.
    """

    access: Access
    port: int = 0
    show_descriptions: bool = True
    allow_writes: bool = False
    token: TokenSource | None = None


async def serve_insights(settings: Settings, options: InsightsOptions, tell: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        tell: is called with the address, once it can be asked.

    Raises:
        BrokerError: Kafka cannot be reached.
        ConfigurationError: topics are missing, the address cannot be listened on, or everyone could look.
    """
    options.access.require_safe()
    stopping = asyncio.Event()
    _stop_on_signals(stopping)
    async with (
        swarm_reader(settings) as reader,
        advice_store() as answers,
        sending(settings, allow_writes=options.allow_writes, token=options.token) as sender,
    ):
        workers = WorkersWatch(settings, reader.layout)
        advice = AdviceReader(settings, reader, answers)
        rendering = Rendering(show_descriptions=options.show_descriptions)
        pages = InsightsPages(
            reader,
            advice,
            sending=sender,
            finder=MoveFinder(sender, settings.paid_on),
            workers=workers,
            rendering=rendering,
        )
        app = _application(options, reader, sender, pages, AuctionPages(reader, rendering))
        async with _listening(app, options) as url:
            tell(url)
            _log.info("http.listening", url=url)
            await _until_stopped((reader.run(), workers.run(), advice.run()), stopping)


def _application(
    options: InsightsOptions,
    reader: SwarmReader,
    sender: Sending,
    pages: InsightsPages,
    auctions: AuctionPages,
) -> web.Application:
    app = web.Application(middlewares=[options.access.middleware], client_max_size=_LARGEST_BODY_BYTES)
    app.on_response_prepare.append(add_headers)
    app.add_routes(InsightsApi(reader, sender).routes())
    app.add_routes(pages.routes())
    app.add_routes(auctions.routes())
    app.add_routes(LiveUpdates(reader.agents).routes())
    return app


async def _until_stopped(runs: Iterable[Coroutine[Any, Any, None]], stopping: asyncio.Event) -> None:
    """Runs what never ends until `stopping` is set; raises the first failure by itself, not as a group."""
    tasks = [asyncio.create_task(run, name="run-insights") for run in runs]
    stop = asyncio.create_task(stopping.wait(), name="stop")
    try:
        done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stop}:
            _raise_first(task.exception())
    finally:
        for each in (*tasks, stop):
            each.cancel()
        await asyncio.wait([*tasks, stop])


def _raise_first(failure: BaseException | None) -> None:
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    if failure is not None:
        raise failure


@asynccontextmanager
async def _listening(app: web.Application, options: InsightsOptions) -> AsyncIterator[str]:
    host = options.access.host
    async with listening(app, host, options.port, other_ports=_OTHER_PORTS) as port:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{port}"


def _stop_on_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in wanted_signals():
        loop.add_signal_handler(number, stopping.set)
