"""A worker that wants to know who asks, on real brokers, asked by the client library and the command."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka import AIOKafkaProducer

from learner_worker import BlockingLearnerClient, LearnerClient, SuggestionError
from learner_worker.brokers import Broker
from learner_worker.client import token_file
from learner_worker.client.tokens import Token
from learner_worker.contract.topics import TopicNames, Topics
from learner_worker.kafka.partitioner import partitioner
from tests.support.forwarder import committed_offset, create_agent_topic, running_forwarder
from tests.support.tokens import Issuer, bearer, jwks, secret_file, valid_token
from tests.support.workers import WorkerProcess, create_topics, read_topic, running_worker, until

PARTITIONS = 4
AT_ONCE = 8  # agents under load: there always are requests on their way
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


async def answer(learner: LearnerClient, agent: str = "ann") -> str:
    """The agent that is advised, or the code of a refusal."""
    try:
        return (await learner.suggest_bid(agent, description="d", base_bid_sats=7)).agent_id
    except SuggestionError as error:
        return error.code


async def says(answered: Awaitable[str], expected: str) -> bool:
    """Whether an answer is the expected one."""
    return await answered == expected


def replace(path: Path, content: str) -> None:
    """Replaces a file at once: agents read it meanwhile."""
    new = path.with_suffix(".new")
    new.write_text(content)
    new.replace(path)


class Load:
    """Agents that ask without a pause."""

    def __init__(self, learner: LearnerClient) -> None:
        self._learner = learner
        self._asked = [0] * AT_ONCE
        self.answers: Counter[str] = Counter()

    async def ask(self, number: int) -> None:
        """Asks again and again, as one of the agents."""
        while True:
            self.answers[await answer(self._learner)] += 1
            self._asked[number] += 1

    async def goes_on(self) -> None:
        """Waits until every agent has begun to ask after this call, and has its answer."""
        due = [asked + 2 for asked in self._asked]

        async def is_there() -> bool:
            return all(asked >= each for asked, each in zip(self._asked, due, strict=True))

        await until(is_there, "every agent has asked again")


@asynccontextmanager
async def under_load(learner: LearnerClient) -> AsyncIterator[Load]:
    """Agents that ask by one client until the block ends."""
    load = Load(learner)
    asking = [asyncio.create_task(load.ask(number), name=f"agent {number}") for number in range(AT_ONCE)]
    try:
        yield load
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def test_who_asks_is_proved_on_the_whole_way(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """Own id, another's, none, by both clients; keys replaced; forwarded; moved; no token is written."""
    old, new = Issuer("ES256", "old"), Issuer("EdDSA", "new")
    keys, renewed = tmp_path / "jwks", tmp_path / "token"
    keys.write_bytes(jwks(old.jwk))
    renewed.write_text(old.valid_token())

    async with guarded(broker, prefix, tmp_path, keys) as (names, worker):

        def agent_with(token: Token) -> LearnerClient:
            return LearnerClient(
                broker.bootstrap_servers, topics=Topics(prefix=prefix), timeout_seconds=SECONDS, token=token
            )

        async def ask(token: Token, agent: str = "ann") -> str:
            async with agent_with(token) as learner:
                return await answer(learner, agent)

        def ask_blocking() -> str:
            with BlockingLearnerClient(
                broker.bootstrap_servers,
                topics=Topics(prefix=prefix),
                timeout_seconds=SECONDS,
                token=token_file(renewed),
            ) as learner:
                return learner.suggest_bid("ann", description="d", base_bid_sats=7).agent_id

        assert await ask(valid_token()) == "ann"
        assert await ask(valid_token(), "bob") == "FORBIDDEN"
        assert await ask(lambda: valid_token(sub=None, agent_prefix="b"), "bob") == "bob"
        assert await ask(None) == "UNAUTHENTICATED"
        assert await asyncio.to_thread(ask_blocking) == "ann"

        async with agent_with(token_file(renewed)) as learner, under_load(learner) as load:
            keys.write_bytes(jwks(old.jwk, new.jwk))
            await until(lambda: says(ask(new.valid_token()), "ann"), "the worker has read the new key")
            replace(renewed, new.valid_token())
            await load.goes_on()
            keys.write_bytes(jwks(new.jwk))
            await until(lambda: says(ask(old.valid_token()), "UNAUTHENTICATED"), "the old key is gone")
            await load.goes_on()
        assert load.answers.keys() == {"ann"}

        await _asks_on_a_topic_of_its_own(broker, prefix, tmp_path)

        moved = valid_token(sub="moved")
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


async def _asks_on_a_topic_of_its_own(broker: Broker, prefix: str, folder: Path) -> None:
    """Whoever writes it is ann, and nobody else, by no token of its own; on the shared topic it is nobody."""
    own = Topics(prefix=prefix, requests="suggest-bid-requests.ann")
    topic = own.named().requests
    flags = ("--agent-topic", f"{topic}=ann", "--identity-secret-file", str(folder / "secret"))

    async def ask(topics: Topics, agent: str = "ann", token: Token = None) -> str:
        async with LearnerClient(
            broker.bootstrap_servers, topics=topics, timeout_seconds=SECONDS, token=token
        ) as learner:
            return await answer(learner, agent)

    async def read_to_its_end() -> bool:
        _, text = await forwarder.get("/metrics")
        return f'learner_forwarding_lag_records{{topic="{topic}"}} 0.0' in text

    await create_agent_topic(broker.bootstrap_servers, topic)
    async with running_forwarder(broker.bootstrap_servers, prefix, folder, *flags) as forwarder:
        assert await ask(own) == "ann"
        assert await ask(own, "bob") == "FORBIDDEN"
        assert await ask(own, "bob", valid_token(sub="bob")) == "FORBIDDEN"
        assert await ask(Topics(prefix=prefix)) == "UNAUTHENTICATED"
        assert await forwarder.metric("learner_requests_forwarded_total") == 3
        await until(read_to_its_end, "the forwarder shows its lag")
        assert await forwarder.stop() == 0
    assert await committed_offset(broker.bootstrap_servers, f"{prefix}learner.forwarded-requests", topic) == 3


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
