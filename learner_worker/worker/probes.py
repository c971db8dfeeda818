"""The HTTP server of a worker, or of several: health, readiness and metrics, for probes and Prometheus."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import structlog
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from learner_worker.http_server import listening

_OTHER_PORTS = "another port, to 0 for any free port, or to none for no HTTP"
_STUCK_SECONDS = 120.0  # longer than the time limits of a loop's steps


class Verdict(NamedTuple):
    """A probe's answer: whether it succeeded, and the details as JSON for operators."""

    good: bool
    details: Mapping[str, object]


Probe = Callable[[], Verdict]
AskedProbe = Callable[[], Verdict | Awaitable[Verdict]]
"""A probe that may have to ask others first."""
Metrics = Callable[[], str | Awaitable[str]]
"""The metrics, in Prometheus' text format."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def alive(**ages: float) -> Verdict:
    """Whether all loops make progress, by the seconds since the last turn of each."""
    good = max(ages.values()) < _STUCK_SECONDS
    details = {f"{name}_seconds_ago": round(age, 3) for name, age in ages.items()}
    return Verdict(good, {"status": "ok" if good else "stuck", **details})


@asynccontextmanager
async def serving(
    *, host: str, port: int, healthy: AskedProbe, ready: AskedProbe, metrics: Metrics
) -> AsyncIterator[int]:
    """Serves `/healthz`, `/readyz` and `/metrics`; yields the port.

    Raises:
        ConfigurationError: the server cannot listen on the address.
    """
    app = web.Application()
    app.router.add_get("/healthz", _probe_handler(healthy))
    app.router.add_get("/readyz", _probe_handler(ready))
    app.router.add_get("/metrics", _metrics_handler(metrics))
    async with listening(app, host, port, other_ports=_OTHER_PORTS) as listened:
        yield listened


@asynccontextmanager
async def serving_if_wanted(
    log: structlog.stdlib.BoundLogger,
    *,
    host: str,
    port: int | None,
    healthy: AskedProbe,
    ready: AskedProbe,
    metrics: Metrics,
) -> AsyncIterator[None]:
    """The same, and logs where; serves nothing without a port.

    Raises:
        ConfigurationError: the server cannot listen on the address.
    """
    if port is None:
        yield
        return
    async with serving(host=host, port=port, healthy=healthy, ready=ready, metrics=metrics) as listened:
        log.info("http.listening", url=f"http://{host}:{listened}")
        yield


def _probe_handler(probe: AskedProbe) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        answer = probe()
        verdict = answer if isinstance(answer, Verdict) else await answer
        return web.json_response(dict(verdict.details), status=200 if verdict.good else 503)

    return handle


def _metrics_handler(metrics: Metrics) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        answer = metrics()
        text = answer if isinstance(answer, str) else await answer
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    return handle
