"""The worker's HTTP server: health, readiness and metrics, for probes and Prometheus."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from learner_worker.http_server import listening

OTHER_PORTS = "another port, to 0 for any free port, or to none for no HTTP"


class Verdict(NamedTuple):
    """A probe's answer: whether it succeeded, and the details as JSON for operators."""

    good: bool
    details: Mapping[str, object]


Probe = Callable[[], Verdict]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(
    *, host: str, port: int, healthy: Probe, ready: Probe, registry: CollectorRegistry
) -> AsyncIterator[int]:
    """Serves `/healthz`, `/readyz` and `/metrics`; yields the port.

    Raises:
        ConfigurationError: the server cannot listen on the address.
    """
    app = web.Application()
    app.router.add_get("/healthz", _probe_handler(healthy))
    app.router.add_get("/readyz", _probe_handler(ready))
    app.router.add_get("/metrics", _metrics_handler(registry))
    async with listening(app, host, port, other_ports=OTHER_PORTS) as listened:
        yield listened


def _probe_handler(probe: Probe) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        verdict = probe()
        return web.json_response(dict(verdict.details), status=200 if verdict.good else 503)

    return handle


def _metrics_handler(registry: CollectorRegistry) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
        )

    return handle
