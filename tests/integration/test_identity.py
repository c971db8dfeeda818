"""A worker that wants to know who asks, on real brokers, asked by the client library and the command."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from learner_worker import BlockingLearnerClient, LearnerClient, SuggestionError
from learner_worker.brokers import Broker
from learner_worker.client import token_file
from learner_worker.client.tokens import Token
from learner_worker.contract.topics import TopicNames, Topics
from learner_worker.kafka.partitioner import partitioner
from tests.support.tokens import Issuer, bearer, jwks, secret_file, secret_token
from tests.support.workers import WorkerProcess, create_topics, read_topic, running_worker, until

PARTITIONS = 4
SECONDS = 20.0  # for an answer: far above what one takes, on a busy machine


@asynccontextmanager
async def guarded(
    broker: Broker, prefix: str, folder: Path, keys: Path
) -> AsyncIterator[tuple[TopicNames, WorkerProcess]]:
    """A worker that requires tokens, by a secret or by the keys in a file."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    settings = {
        "--identity": "require",
        "--identity-secret-file": str(secret_file(folder)),
        "--identity-jwks-file": str(keys),
    }
    async with running_worker(
        broker.bootstrap_servers, prefix, folder / "state", settings=settings
    ) as worker:
        yield names, worker
        assert await worker.stop() == 0


def valid(**claims: Any) -> str:
    """A token that is valid now."""
    return secret_token(exp=int(time.time()) + 600, **claims)


async def test_who_asks_is_proved_on_the_whole_way(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """Own id, another's, none, through the clients and the command; moved, rotated; no token is written."""
    old, new, keys, renewed = (
        Issuer("ES256", "old"),
        Issuer("EdDSA", "new"),
        tmp_path / "jwks",
        tmp_path / "t",
    )
    keys.write_bytes(jwks(old.jwk))
    renewed.write_text(old.token(exp=int(time.time()) + 600))

    async with guarded(broker, prefix, tmp_path, keys) as (names, worker):

        async def ask(token: Token, agent: str = "ann") -> str:
            async with LearnerClient(
                broker.bootstrap_servers, topics=Topics(prefix=prefix), timeout_seconds=SECONDS, token=token
            ) as learner:
                try:
                    return (await learner.suggest_bid(agent, description="d", base_bid_sats=7)).agent_id
                except SuggestionError as error:
                    return error.code

        def ask_blocking() -> str:
            with BlockingLearnerClient(
                broker.bootstrap_servers,
                topics=Topics(prefix=prefix),
                timeout_seconds=SECONDS,
                token=token_file(renewed),
            ) as learner:
                return learner.suggest_bid("ann", description="d", base_bid_sats=7).agent_id

        assert await ask(valid()) == "ann"
        assert await ask(valid(), "bob") == "FORBIDDEN"
        assert await ask(lambda: valid(sub=None, agent_prefix="b"), "bob") == "bob"
        assert await ask(None) == "UNAUTHENTICATED"
        assert await asyncio.to_thread(ask_blocking) == "ann"

        keys.write_bytes(jwks(new.jwk))

        async def refused() -> bool:
            return await ask(token_file(renewed)) == "UNAUTHENTICATED"

        await until(refused, "the worker has read the new keys")
        renewed.write_text(new.token(exp=int(time.time()) + 600))
        assert await ask(token_file(renewed)) == "ann"

        moved = valid(sub="moved")
        await _write_where_it_does_not_belong(broker, names, moved)

        async def answered() -> bool:
            records = await read_topic(broker.bootstrap_servers, names.replies)
            return any(json.loads(record.value).get("agent_id") == "moved" for record in records)

        async def set_aside() -> list[dict[str, bytes]]:
            return [
                dict(each.headers) for each in await read_topic(broker.bootstrap_servers, names.dead_letters)
            ]

        await until(answered, "the moved request is answered by its own token")
        (letter,) = await until(set_aside, "the event that is none is a dead letter")
        assert letter["authorization"] == f"{len('Bearer ') + len(moved)} bytes".encode()
    assert moved.rpartition(".")[2] not in worker.log_path.read_text()


async def _write_where_it_does_not_belong(broker: Broker, names: TopicNames, token: str) -> None:
    """A request on a wrong partition, and an event that is none, both with a token."""
    wrong = (partitioner(PARTITIONS)("moved") + 1) % PARTITIONS
    request = {"agent_id": "moved", "base_bid_sats": 7, "description": "d"}
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        headers = bearer(token)
        await producer.send_and_wait(
            names.requests, json.dumps(request).encode(), partition=wrong, headers=headers
        )
        await producer.send_and_wait(names.bid_placed, b"{}", headers=headers)
