"""Floods of requests, each sent by a process of its own as fast as it can, until that is ended."""

import asyncio
import itertools
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from aiokafka import AIOKafkaProducer

from learner_worker.brokers.guardian import GUARDIAN
from learner_worker.kafka.partitioner import partitioner
from tests.support.tokens import bearer, valid_token

PARTITIONS = 4
_LARGE = 100 * 1024  # bytes of a token, many times the limit
_LINGER_MS = 5  # a batch fills within it
Request = tuple[bytes, list[tuple[str, bytes]]]


def _asked(agent: str) -> bytes:
    return json.dumps({"agent_id": agent, "base_bid_sats": 5, "description": "d"}).encode()


def agent_on(shard: int) -> str:
    """The id of an agent whose requests belong to a shard."""
    names = (f"greedy-{number}" for number in itertools.count())
    return next(name for name in names if partitioner(PARTITIONS)(name) == shard)


def by_one_agent(shard: int) -> Iterator[Request]:
    """As many requests as it can send, each with a valid token."""
    agent = agent_on(shard)
    return itertools.repeat((_asked(agent), bearer(valid_token(sub=agent))))


def on_a_wrong_partition(shard: int) -> Iterator[Request]:
    """The same of an agent of the next shard: the worker has to move each of them there."""
    return by_one_agent((shard + 1) % PARTITIONS)


def unauthenticated(_shard: int) -> Iterator[Request]:
    """Under ids that it made up, without tokens."""
    return ((_asked(f"nobody-{number}"), []) for number in itertools.count())


def wrong_tokens(_shard: int) -> Iterator[Request]:
    """Tokens that look right and are signed by another secret: each one is verified."""
    token = valid_token(bytes(32), sub="victim")
    return itertools.repeat((_asked("victim"), bearer(token)))


def large_tokens(_shard: int) -> Iterator[Request]:
    """Tokens of 100 KB."""
    return itertools.repeat((_asked("victim"), bearer("x" * _LARGE)))


KINDS: dict[str, Callable[[int], Iterator[Request]]] = {
    "by one agent": by_one_agent,
    "on a wrong partition": on_a_wrong_partition,
    "without tokens": unauthenticated,
    "of wrong tokens": wrong_tokens,
    "of tokens of 100 KB": large_tokens,
}


@dataclass(frozen=True)
class Flood:
    """What floods which partition of a topic, and how it logs in."""

    kind: str
    topic: str
    shard: int
    servers: str
    user: str
    password: str

    async def send(self) -> None:
        """Sends as fast as it can, until it is cancelled."""
        async with AIOKafkaProducer(
            bootstrap_servers=self.servers,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_plain_username=self.user,
            sasl_plain_password=self.password,
            acks=1,
            linger_ms=_LINGER_MS,
        ) as producer:
            for value, headers in KINDS[self.kind](self.shard):
                await producer.send(self.topic, value, partition=self.shard, headers=headers)


@asynccontextmanager
async def flooding(flood: Flood) -> AsyncIterator[None]:
    """A process of its own that floods, until the block ends: it takes no time of whoever measures.

    Raises:
        RuntimeError: it ended by itself.
    """
    command = ("-m", __name__, json.dumps(asdict(flood)))
    process = await asyncio.create_subprocess_exec(sys.executable, *command)
    with GUARDIAN.entrusted("process", str(process.pid)):
        try:
            yield
            if process.returncode is not None:
                raise RuntimeError(f"the flood ended early, with {process.returncode}")
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


if __name__ == "__main__":
    logging.getLogger("aiokafka").setLevel(logging.ERROR)  # it warns of the login without TLS
    asyncio.run(Flood(**json.loads(sys.argv[1])).send())
