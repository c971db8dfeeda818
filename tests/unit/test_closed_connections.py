"""A connection that closed under a client is a broken one, on the loop that a worker runs on."""

import asyncio
from collections.abc import Iterator

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.admin import ApiVersionRequest

from learner_worker.kafka.closed_connections import take_closed_for_broken


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """aiokafka as it is."""
    own = AIOKafkaConnection.send
    yield
    AIOKafkaConnection.send = own


async def _ask_after_the_close() -> None:
    """Sends on a connection whose transport is closed, before anybody was told."""
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1")
    async with server:
        host, port = server.sockets[0].getsockname()
        connection = AIOKafkaConnection(host, port)
        connecting = asyncio.ensure_future(connection.connect())
        while connection._writer is None:  # noqa: ASYNC110 (aiokafka has no event for it)
            await asyncio.sleep(0.01)
        connection._writer.transport.abort()
        await asyncio.sleep(0)
        try:
            await connection.send(ApiVersionRequest())
        finally:
            connecting.cancel()


def test_without_the_patch_the_error_is_none_that_aiokafka_knows() -> None:
    """What it is for: should this fail with another aiokafka or uvloop, it may not be needed any more."""
    with pytest.raises(RuntimeError, match="closed"):
        uvloop.run(_ask_after_the_close())


def test_a_closed_connection_is_a_broken_connection() -> None:
    """aiokafka's own tasks survive that, and connect again."""
    assert take_closed_for_broken()
    with pytest.raises(KafkaConnectionError):
        uvloop.run(_ask_after_the_close())


def test_an_aiokafka_that_is_built_differently_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on as it is; the watchdog is there for what that leaves."""

    def other(self: object, request: object) -> object:
        return self, request

    monkeypatch.setattr(AIOKafkaConnection, "send", other)
    assert not take_closed_for_broken()
    assert AIOKafkaConnection.send is other
