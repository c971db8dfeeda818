"""Serves an aiohttp application for as long as something runs: the worker's probes, and insights."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from learner_worker.errors import ConfigurationError

_LAST_ANSWERS_SECONDS: Final = 1.0
"""How long a client may take to read its answer at the end: many times what a probe takes."""


@asynccontextmanager
async def listening(app: web.Application, host: str, port: int, *, other_ports: str) -> AsyncIterator[int]:
    """Serves until exit; yields the port.

    Args:
        port: 0 for any free one.
        other_ports: what --http-port may be set to if the address cannot be listened on.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_LAST_ANSWERS_SECONDS)
    await runner.setup()
    try:
        await _listen(runner, host, port, other_ports)
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int, other_ports: str) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{port} ({error.strerror}): "
            f"set --http-host to an address of this machine, and --http-port to {other_ports}"
        ) from error
