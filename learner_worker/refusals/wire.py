"""Kafka's protocol by hand, where aiokafka hides a failure's cause or cannot ask the question."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from aiokafka.protocol.api import RequestHeader_v1, ResponseHeader_v0
from aiokafka.protocol.types import Array, Boolean, Bytes, Int16, Int32, Schema, String

from learner_worker.errors import LearnerError

Versions = Mapping[int, tuple[int, int]]
"""By a request's number: the oldest and the newest version a broker speaks."""

METADATA, DESCRIBE_GROUPS = 3, 15  # Kafka's API keys
_API_VERSIONS = 18  # Kafka's API key
_CLIENT = b"learner-diagnosis"
_SIZE_BYTES = 4  # of Kafka's frames: an int32
_MAX_FRAME = 16 * 1024 * 1024  # far above any answer asked for here: a larger size is another protocol
_NAMED = "utf-8"


class NotKafkaError(LearnerError):
    """What answered does not speak Kafka's protocol; `answer` is the start of what it said."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(f"no answer of Kafka's: {answer[:40]!r}")
        self.answer = answer


class OldKafkaError(LearnerError):
    """This Kafka is too old for a request."""


@dataclass(frozen=True, slots=True)
class Stream:
    """An open connection without a login."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def versions(self) -> Versions:
        """Which versions of which requests the broker speaks: the first thing every client asks.

        Raises:
            NotKafkaError: something else answers.
        """
        request = struct.pack(">hhi", _API_VERSIONS, 0, 1) + struct.pack(">h", len(_CLIENT)) + _CLIENT
        start = await self._exchange(request)
        size = int.from_bytes(start[:_SIZE_BYTES], "big")
        if len(start) < _SIZE_BYTES or not 0 < size < _MAX_FRAME:
            raise NotKafkaError(start)
        body = start[_SIZE_BYTES:] + await self._rest(_SIZE_BYTES + size - len(start))
        try:
            correlation, code, count = struct.unpack_from(">ihi", body)
            entries = [struct.unpack_from(">hhh", body, 10 + 6 * index) for index in range(count)]
        except struct.error as error:
            raise NotKafkaError(start) from error
        if (correlation, code) != (1, 0):
            raise NotKafkaError(start)
        return {key: (oldest, newest) for key, oldest, newest in entries}

    async def ask(self, request: Any, versions: Versions) -> Any:
        """The answer to one of aiokafka's requests.

        Raises:
            asyncio.IncompleteReadError: the broker closed the connection instead.
        """
        prepared = request.prepare(versions)
        header = prepared.build_request_header(correlation_id=1, client_id=_CLIENT.decode())
        self._send(header.encode() + prepared.encode())
        size = int.from_bytes(await self.reader.readexactly(4), "big")
        buffer = BytesIO(await self.reader.readexactly(size))
        prepared.parse_response_header(buffer)
        return prepared.RESPONSE_TYPE.decode(buffer)

    def _send(self, content: bytes) -> None:
        self.writer.write(struct.pack(">i", len(content)) + content)

    async def _exchange(self, content: bytes) -> bytes:
        self._send(content)
        return await self.reader.read(64 * 1024)

    async def _rest(self, missing: int) -> bytes:
        return await self.reader.readexactly(missing) if missing > 0 else b""


@asynccontextmanager
async def stream(host: str, port: int, context: ssl.SSLContext | None) -> AsyncIterator[Stream]:
    """A connection, through TLS if there is a context for it."""
    reader, writer = await asyncio.open_connection(
        host, port, ssl=context, server_hostname=host if context else None
    )
    try:
        yield Stream(reader, writer)
    finally:
        writer.transport.abort()  # a peer that does not speak TLS would never finish a TLS goodbye


class Asked:
    """A request of one fixed version, in the shape that aiokafka's connection sends."""

    def __init__(self, key: int, version: int, asked: Any, values: Sequence[Any], answered: Any) -> None:
        self.API_KEY, self.API_VERSION = key, version
        self._asked, self._values, self._answered = asked, values, answered

    def prepare(self, versions: Versions) -> "Asked":
        """Itself.

        Raises:
            OldKafkaError: this Kafka is too old for it.
        """
        _, newest = versions.get(self.API_KEY, (0, -1))
        if newest < self.API_VERSION:
            raise OldKafkaError("this Kafka is too old for this request")
        return self

    def build_request_header(self, correlation_id: int, client_id: str) -> Any:
        """The header before it."""
        return RequestHeader_v1(self, correlation_id=correlation_id, client_id=client_id)

    def encode(self) -> bytes:
        """The request's bytes."""
        return bytes(self._asked.encode(self._values))

    @staticmethod
    def parse_response_header(buffer: BytesIO) -> Any:
        """The header before the answer."""
        return ResponseHeader_v0.decode(buffer)

    @property
    def RESPONSE_TYPE(self) -> Any:  # noqa: N802 (aiokafka's name)
        """What decodes the answer."""
        return self._answered


def describe_topics(names: Sequence[str]) -> Asked:
    """Asks for topics by name, never making one, and what this user may do with each."""
    return Asked(METADATA, 8, _TOPICS_ASKED, (list(names), False, False, True), _TOPICS_ANSWERED)


def describe_group(name: str) -> Asked:
    """Asks for a group, and what this user may do with it."""
    return Asked(DESCRIBE_GROUPS, 3, _GROUPS_ASKED, ([name], True), _GROUPS_ANSWERED)


def describe_instances(name: str) -> Asked:
    """Asks for a group with its members' instance ids (Kafka 2.4), shown even while the group rebalances."""
    return Asked(DESCRIBE_GROUPS, 4, _GROUPS_ASKED, ([name], False), _groups(_MEMBER_ID, _INSTANCE_ID))


def _groups(*identity: tuple[str, Any]) -> Schema:
    """The response about groups, whose members begin with these fields."""
    members = (
        *identity,
        ("client_id", String(_NAMED)),
        ("client_host", String(_NAMED)),
        ("metadata", Bytes),
        ("assignment", Bytes),
    )
    return Schema(
        ("throttle_ms", Int32),
        (
            "groups",
            Array(
                ("code", Int16),
                ("name", String(_NAMED)),
                ("state", String(_NAMED)),
                ("protocol_type", String(_NAMED)),
                ("protocol", String(_NAMED)),
                ("members", Array(*members)),
                ("operations", Int32),
            ),
        ),
    )


_MEMBER_ID, _INSTANCE_ID = ("member_id", String(_NAMED)), ("instance_id", String(_NAMED))
_TOPICS_ASKED = Schema(
    ("topics", Array(String(_NAMED))),
    ("may_create", Boolean),
    ("with_cluster_operations", Boolean),
    ("with_topic_operations", Boolean),
)
_TOPICS_ANSWERED = Schema(
    ("throttle_ms", Int32),
    (
        "brokers",
        Array(("node", Int32), ("host", String(_NAMED)), ("port", Int32), ("rack", String(_NAMED))),
    ),
    ("cluster_id", String(_NAMED)),
    ("controller", Int32),
    (
        "topics",
        Array(
            ("code", Int16),
            ("name", String(_NAMED)),
            ("internal", Boolean),
            (
                "partitions",
                Array(
                    ("code", Int16),
                    ("number", Int32),
                    ("leader", Int32),
                    ("leader_epoch", Int32),
                    ("replicas", Array(Int32)),
                    ("in_sync", Array(Int32)),
                    ("offline", Array(Int32)),
                ),
            ),
            ("operations", Int32),
        ),
    ),
    ("cluster_operations", Int32),
)
_GROUPS_ASKED = Schema(("groups", Array(String(_NAMED))), ("with_operations", Boolean))
_GROUPS_ANSWERED = _groups(_MEMBER_ID)
