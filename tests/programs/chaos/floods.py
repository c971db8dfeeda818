"""Floods of requests by hostile neighbours: what one agent that asks now and then still gets."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaProducer

from learner_worker import LearnerClient, SuggestionError
from learner_worker.contract.topics import TopicNames, Topics
from tests.programs.bench.readings import percentile
from tests.programs.chaos.table import Row
from tests.support.tokens import bearer, secret_file, valid_token
from tests.support.workers import WorkerProcess, create_topics, running_worker

FLOODED_SECONDS = 20.0  # many times the queue's limit of 2,000 requests arrives in it
PARTITIONS = 4
_ASKED_EVERY_SECONDS = 0.1
_PATIENCE_SECONDS = 2.0  # after which an agent bids its own base
_LARGE = 100 * 1024  # bytes of a token, many times the limit
_COUNTED = ("learner_requests_total", "learner_identity_checks_total")
Request = tuple[bytes, list[tuple[str, bytes]]]


@dataclass
class Heard:
    """What the agent that asks now and then got.

    Attributes:
        seconds: how long each answer took.
    """

    seconds: list[float]
    refused: int = 0
    unanswered: int = 0


def _asked(agent: str) -> bytes:
    return json.dumps({"agent_id": agent, "base_bid_sats": 5, "description": "d"}).encode()


def by_one_agent() -> Iterator[Request]:
    """As many requests as it can send, each with a valid token."""
    return itertools.repeat((_asked("greedy"), bearer(valid_token(sub="greedy"))))


def unauthenticated() -> Iterator[Request]:
    """Under ids that it made up, without tokens."""
    return ((_asked(f"nobody-{number}"), []) for number in itertools.count())


def wrong_tokens() -> Iterator[Request]:
    """Tokens that look right and are signed by another secret: each one is verified."""
    token = valid_token(bytes(32), sub="victim")
    return itertools.repeat((_asked("victim"), bearer(token)))


def large_tokens() -> Iterator[Request]:
    """Tokens of 100 KB."""
    return itertools.repeat((_asked("victim"), bearer("x" * _LARGE)))


FLOODS: dict[str, Callable[[], Iterator[Request]]] = {
    "by one agent": by_one_agent,
    "without tokens": unauthenticated,
    "of wrong tokens": wrong_tokens,
    "of tokens of 100 KB": large_tokens,
}


@dataclass(frozen=True)
class FloodStage:
    """Where floods play: a worker that requires tokens, and for how long each lasts."""

    servers: str
    names: TopicNames
    worker: WorkerProcess
    seconds: float


async def rows(servers: str, folder: Path, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """One row for each flood."""
    names = await create_topics(servers, "", partitions=PARTITIONS)
    settings = {"--identity": "require", "--identity-secret-file": str(secret_file(folder))}
    found = []
    async with running_worker(servers, "", folder / "state", settings=settings) as worker:
        stage = FloodStage(servers, names, worker, seconds)
        for name, requests in FLOODS.items():
            found.append(await _row(stage, name, requests()))
            say(f"flood {name}: {found[-1].notes}")
        await worker.stop()
    return found


async def _row(stage: FloodStage, name: str, requests: Iterator[Request]) -> Row:
    before = await _counted(stage.worker)
    flooding = asyncio.create_task(_flood(stage, requests), name="flood")
    try:
        heard = await _ask_now_and_then(stage)
    finally:
        flooding.cancel()
        with suppress(asyncio.CancelledError):
            await flooding
    grown = {key: value - before.get(key, 0) for key, value in (await _counted(stage.worker)).items()}
    seen = [f"{key} {value:,.0f}" for key, value in grown.items() if value]
    failures = [f"{heard.unanswered} questions of another agent got no answer"] * bool(heard.unanswered)
    failures += ["another agent got no advice"] * (not heard.seconds)
    return Row(f"flood {name}", 1, notes=[_described(heard), *seen], failures=failures)


def _described(heard: Heard) -> str:
    asked = len(heard.seconds) + heard.refused + heard.unanswered
    times = [
        f"p{percent} {percentile(heard.seconds, percent) * 1000:.0f} ms"
        for percent in (50, 99)
        if heard.seconds
    ]
    return f"another agent: {asked} questions, {heard.refused} refused, answers {', '.join(times) or 'none'}"


async def _flood(stage: FloodStage, requests: Iterator[Request]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=stage.servers, acks=1, linger_ms=5) as producer:
        for number, (value, headers) in enumerate(requests):
            await producer.send(stage.names.requests, value, partition=number % PARTITIONS, headers=headers)


async def _ask_now_and_then(stage: FloodStage) -> Heard:
    heard, ends = Heard([]), time.monotonic() + stage.seconds
    async with LearnerClient(
        stage.servers, topics=Topics(), timeout_seconds=_PATIENCE_SECONDS, token=valid_token(sub="modest")
    ) as learner:
        while time.monotonic() < ends:
            began = time.monotonic()
            try:
                await learner.suggest_bid("modest", description="d", base_bid_sats=5)
                heard.seconds.append(time.monotonic() - began)
            except SuggestionError as error:
                heard.refused += error.code != "TIMEOUT"
                heard.unanswered += error.code == "TIMEOUT"
            await asyncio.sleep(_ASKED_EVERY_SECONDS)
    return heard


async def _counted(worker: WorkerProcess) -> dict[str, float]:
    """The counters that an operator sees, with their labels."""
    _, text = await worker.get("/metrics")
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(_COUNTED)]
    return {name: float(value) for name, value in lines}
