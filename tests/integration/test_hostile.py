"""Hostile neighbours (docs/security.md), each played against one worker that requires tokens.

With `-rP` or `-s` the test prints its table: what was tried, and what the operator sees of it.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from learner_worker.brokers import Broker
from learner_worker.contract.headers import REQUEST_HEADERS
from learner_worker.contract.topics import HOP_HEADER, TopicName, TopicNames
from learner_worker.kafka.partitioner import partitioner
from learner_worker.shard.publishing import OWNER_HEADER
from tests.support.model import AuctionClosed, BidPlaced
from tests.support.tokens import (
    Issuer,
    bearer,
    confused_token,
    jwks,
    payload,
    secret_file,
    secret_token,
    unsigned,
    valid_token,
)
from tests.support.workers import (
    WorkerProcess,
    publish,
    read_topic,
    roomy_topics,
    running_worker,
    until,
)

PARTITIONS = 2
AGENT = "ann"
PROVIDER = Issuer("RS256")
LARGE = 100 * 1024  # bytes of a token, many times the limit
LARGER = 1024 * 1024 + 1  # bytes of an event, one more than the limit
DEEP = 100_000  # levels of an event that is nested
Headers = list[tuple[str, bytes]]
Table = list[tuple[str, str]]
"""What was tried, and what came of it."""


@dataclass
class Neighbour:
    """Writes what it likes to any topic."""

    producer: AIOKafkaProducer
    names: TopicNames
    servers: str

    async def write(self, topic: TopicName, partition: int, value: bytes, headers: Headers) -> None:
        await self.producer.send_and_wait(topic, value, b"any key", partition=partition, headers=headers)

    async def ask(self, name: str, headers: Headers, *, wrong: bool = False) -> None:
        """Asks about the agent, with a name as the request's id, on its partition or on a wrong one."""
        request = {"agent_id": AGENT, "base_bid_sats": 5, "description": "d", "request_id": name}
        home = partitioner(PARTITIONS)(AGENT)
        partition = (home + wrong) % PARTITIONS
        await self.write(self.names.requests, partition, json.dumps(request).encode(), headers)

    async def codes(self, count: int) -> dict[str, str]:
        """The codes of so many replies, or OK, by the names of the requests."""

        async def replies() -> list[Any] | None:
            found = await read_topic(self.servers, self.names.replies)
            return found if len(found) >= count else None

        bodies = [json.loads(record.value) for record in await until(replies, "every request is answered")]
        return {body["request_id"]: body.get("error", {}).get("code", "OK") for body in bodies}


def valid(**claims: Any) -> Headers:
    """The header of a token that is valid now."""
    return bearer(valid_token(**claims))


async def test_what_hostile_neighbours_try(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """Requests, reply topics, events, moved records, facts and metrics records that are not as they seem."""
    servers = broker.bootstrap_servers
    names = await roomy_topics(servers, prefix, partitions=PARTITIONS, record_bytes=4 * LARGER)
    keys = tmp_path / "jwks"
    keys.write_bytes(jwks(PROVIDER.jwk))
    settings = {
        "--identity": "require",
        "--identity-secret-file": str(secret_file(tmp_path)),
        "--identity-jwks-file": str(keys),
        "--request-ttl-seconds": "300",  # a busy machine takes its time
    }
    async with (
        running_worker(servers, prefix, tmp_path / "state", settings=settings) as worker,
        AIOKafkaProducer(bootstrap_servers=servers, max_request_size=2 * LARGER) as producer,
    ):
        neighbour = Neighbour(producer, names, servers)
        now = int(time.time() * 1e6)
        await publish(servers, names, [BidPlaced("t-1", AGENT, 5, "d", now)])
        await publish(servers, names, [AuctionClosed("t-1", AGENT, 5, now)])
        table = await requests(neighbour)
        table += await reply_topics(neighbour, worker)
        table += await not_what_they_seem(neighbour, worker)
        table += await metrics_records(neighbour)
        assert await worker.stop() == 0
    sys.stdout.write("".join(f"{tried:60} {seen}\n" for tried, seen in table))


async def requests(neighbour: Neighbour) -> Table:
    """By every header convention, who may ask is answered, whatever else it sends, and nobody else is."""
    hop, junk, no_text = (HOP_HEADER, b"x"), ("junk", b"x" * 2**20), ("authorization", b"\xff\xfe")
    tried = {name: (headers, False, code) for name, (headers, code) in tokens().items()} | {
        "bytes that are no text": ([no_text], False, "UNAUTHENTICATED"),
        "a header of a megabyte": ([junk, *valid()], False, "OK"),
        "a forged learner-hop, on a wrong partition": ([hop, *valid()], True, "INTERNAL"),
        "the same without a token": ([hop], True, "UNAUTHENTICATED"),
    }
    expected = {}
    for name, (headers, wrong, code) in tried.items():
        for convention, (correlation_id, *_) in REQUEST_HEADERS.items():
            expected[f"{name}, {convention}"] = code
            await neighbour.ask(f"{name}, {convention}", [(correlation_id, b"1"), *headers], wrong=wrong)
    found = await neighbour.codes(len(expected))
    assert found == expected
    return list(found.items())


def tokens() -> dict[str, tuple[Headers, str]]:
    """Tokens that an agent may send, and the code that is due."""
    before, later = int(time.time()) - 3_600, int(time.time()) + 3_600
    refused = {
        "expired": secret_token(exp=before),
        "not yet valid": valid_token(nbf=later),
        "of another learner": valid_token(aud="other"),
        "by a wrong secret": valid_token(bytes(32)),
        "by a wrong key of a known name": Issuer("RS256", PROVIDER.key_id).valid_token(),
        "alg: none": unsigned({"alg": "none"}, payload(exp=later)),
        "by the public key as a secret": confused_token(PROVIDER, exp=later),
        "of 100 KB": "x" * LARGE,
    }
    return {
        "its own id": (valid(), "OK"),
        "its own id, by a provider's key": (bearer(PROVIDER.valid_token()), "OK"),
        "another's id": (valid(sub="bob"), "FORBIDDEN"),
        "no token": ([], "UNAUTHENTICATED"),
        **{f"a token {name}": (bearer(token), "UNAUTHENTICATED") for name, token in refused.items()},
    }


async def reply_topics(neighbour: Neighbour, worker: WorkerProcess) -> Table:
    """A reply is written to no topic that the learner or the swarm reads."""
    names = neighbour.names
    topics = (names.outcomes, names.bid_placed, names.requests, names.topology, f"{names.replies}-of-nobody")
    request = json.dumps({"agent_id": AGENT, "base_bid_sats": 5, "description": "d"}).encode()
    home = partitioner(PARTITIONS)(AGENT)
    for topic in topics:
        await neighbour.write(names.requests, home, request, [("reply_to", topic.encode()), *valid()])
    seen = f'learner_requests_total{{code="REFUSED"}} {len(topics)}.0'

    async def refused() -> bool:
        return seen in (await worker.get("/metrics"))[1]

    await until(refused, "every one is refused")
    return [("a reply topic of the learner's or the swarm's", seen)]


async def not_what_they_seem(neighbour: Neighbour, worker: WorkerProcess) -> Table:
    """What is no event, no moved event and no fact is a dead letter, without the token in its headers."""
    names, moved = neighbour.names, [(HOP_HEADER, b"bid-placed")]
    bid = json.dumps({"task_id": "t-2", "agent_id": AGENT, "bid_sats": 5, "description": "d"}).encode()
    wrong = 1 - partitioner(PARTITIONS)("t-2")
    tried = {
        "an event that is nested deeply": (names.bid_placed, b"[" * DEEP, valid()),
        "an event over 1 MiB": (names.bid_placed, b"x" * LARGER, valid()),
        "a moved event on a partition of its choice": (names.rerouted, bid, moved),
        "a moved event of no kind": (names.rerouted, bid, [(HOP_HEADER, b"x")]),
        "a fact that is none": (names.outcomes, b"{}", []),
    }
    for topic, value, headers in tried.values():
        await neighbour.write(topic, wrong, value, headers)

    async def written() -> list[Any] | None:
        dead_letters = await read_topic(neighbour.servers, names.dead_letters)
        return dead_letters if len(dead_letters) >= len(tried) else None

    dead_letters = await until(written, "every one is a dead letter")
    written_headers = [dict(letter.headers) for letter in dead_letters]
    (length,) = {found["authorization"] for found in written_headers if "authorization" in found}
    assert length == b"%d bytes" % len(valid()[0][1])
    assert await worker.metric("learner_dead_letters_total") == len(tried)
    reasons = sorted(found["learner-reason"].decode() for found in written_headers)
    return [(name, "a dead letter") for name in tried] + [("their reasons", ", ".join(reasons))]


async def metrics_records(neighbour: Neighbour) -> Table:
    """A forged metrics record is written over at once: with a null mark, and with that of the shard's own."""
    topic, key = neighbour.names.metrics, AGENT.encode()

    async def of_agent() -> list[Any]:
        records = await read_topic(neighbour.servers, topic)
        return [record for record in records if record.key == key]

    genuine = (await until(of_agent, "the agent's metrics are published"))[-1]
    forged = json.dumps({**json.loads(genuine.value), "total_bids": 999}).encode()
    for headers in ([(OWNER_HEADER, None)], list(genuine.headers)):
        place = await neighbour.producer.send_and_wait(
            topic, forged, key, partition=genuine.partition, headers=headers
        )

    async def later() -> list[Any]:
        return [record for record in await of_agent() if record.offset > place.offset]

    restored = (await until(later, "the record is written again"))[-1]
    assert json.loads(restored.value) == json.loads(genuine.value)
    assert dict(restored.headers)[OWNER_HEADER] != dict(genuine.headers)[OWNER_HEADER]
    return [("a forged metrics record with a copied mark", "written over")]
