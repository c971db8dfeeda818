"""The bytes of fetches and produce requests over a socket, as the client encodes, writes and reads them.

`python -m tests.programs.bench.bill_wire` is the other end: it prints its port and answers
until it is killed.
"""

import asyncio
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

import click
from aiokafka import TopicPartition
from aiokafka.conn import create_conn
from aiokafka.protocol.admin import ApiVersionResponse_v0
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v11, FetchResponse_v11
from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v7, ProduceResponse_v7

from tests.programs.bench.bill_log import FETCH_BYTES
from tests.programs.bench.stage import PARTITIONS

_TOPICS = 6  # that a worker subscribes to
_WAIT_MS = 100
_VERSIONS = {FetchRequest_v11.API_KEY: 11, ProduceRequest_v7.API_KEY: 7, 18: 0}
_HEADER = struct.Struct(">hhih")  # api key, version, correlation id, length of the client's name


class SocketWire:
    """Two connections to the other end, a consumer's and a producer's."""

    def __init__(self, consumer: Any, producer: Any) -> None:
        self._consumer = consumer
        self._producer = producer
        self._pending: dict[TopicPartition, tuple[bytes, asyncio.Future[None]]] = {}
        self._woken = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def connected(cls) -> "AsyncIterator[SocketWire]":
        """Starts the other end and connects to it."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            port = int(await process.stdout.readline())
            ends = [await create_conn("127.0.0.1", port, request_timeout_ms=40_000) for _ in range(2)]
            wire = cls(*ends)
            sending = asyncio.create_task(wire.send_batches())
            try:
                yield wire
            finally:
                sending.cancel()
                for end in ends:
                    end.close()
        finally:
            process.kill()
            await process.wait()

    async def fetched(self, sizes: Sequence[int]) -> None:
        """Fetches from all partitions of all topics; the answer has as many bytes of each as asked for."""
        wanted = [*sizes, *[0] * (_TOPICS * PARTITIONS - len(sizes))]
        topics = [
            (
                f"topic-{topic}",
                [(number, 0, wanted[topic * PARTITIONS + number]) for number in range(PARTITIONS)],
            )
            for topic in range(_TOPICS)
        ]
        await self._consumer.send(FetchRequest(_WAIT_MS, 1, FETCH_BYTES, 1, topics))

    async def produced(self, place: TopicPartition, data: bytes) -> None:
        """Sends a batch together with those of other partitions, one request at a time as the client does."""
        while place in self._pending:
            await asyncio.shield(self._pending[place][1])
        done = asyncio.get_running_loop().create_future()
        self._pending[place] = (data, done)
        self._woken.set()
        await done

    async def send_batches(self) -> None:
        """Sends what was produced, until it is cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            if not self._pending:
                continue
            batches, self._pending = self._pending, {}
            topics: dict[str, list[tuple[int, bytes]]] = {}
            for (topic, partition), (data, _) in batches.items():
                topics.setdefault(topic, []).append((partition, data))
            await self._producer.send(ProduceRequest(None, -1, 30_000, list(topics.items())))
            for _, done in batches.values():
                done.set_result(None)


# --- the other end -----------------------------------------------------------------------------------------


async def _serve() -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, limit=2**26)
    click.echo(server.sockets[0].getsockname()[1])  # the parent reads it
    await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
        except asyncio.IncompleteReadError:
            return
        request = await reader.readexactly(size)
        api_key, _, correlation_id, name_bytes = _HEADER.unpack_from(request)
        body = BytesIO(request[_HEADER.size + name_bytes :])
        answer = struct.pack(">i", correlation_id) + _response(api_key, body).encode()
        writer.write(struct.pack(">i", len(answer)) + answer)
        await writer.drain()


def _response(api_key: int, body: BytesIO) -> Any:
    if api_key == FetchRequest_v11.API_KEY:
        asked = FetchRequest_v11.decode(body)
        return FetchResponse_v11(
            0,
            0,
            0,
            [
                (topic, [(part[0], 0, 0, 0, 0, [], -1, bytes(part[4])) for part in partitions])
                for topic, partitions in asked.topics
            ],
        )
    if api_key == ProduceRequest_v7.API_KEY:
        sent = ProduceRequest_v7.decode(body)
        return ProduceResponse_v7(
            [(topic, [(part[0], 0, 0, -1, 0) for part in parts]) for topic, parts in sent.topics], 0
        )
    return ApiVersionResponse_v0(0, [(key, 0, newest) for key, newest in _VERSIONS.items()])


if __name__ == "__main__":
    asyncio.run(_serve())
