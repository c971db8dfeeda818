"""Floods of requests by hostile neighbours: what an agent on the same partition still gets."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from learner_worker import LearnerClient, SuggestionError
from learner_worker.contract.topics import TopicNames
from learner_worker.kafka.partitioner import partitioner
from tests.programs.bench.readings import percentile
from tests.programs.chaos.flooder import KINDS, PARTITIONS, Flood, flooding
from tests.programs.chaos.quotas import set_quota
from tests.programs.chaos.table import Row
from tests.support.model import AuctionClosed, BidPlaced
from tests.support.secured import DESCRIBE, PASSWORD, TOPIC, WRITE, SecuredKafka, allow
from tests.support.tokens import secret_file, valid_token
from tests.support.workers import WorkerProcess, create_topics, publish, running_worker, until

FLOODED_SECONDS = 20.0  # Kafka enforces a quota over 11 seconds
QUOTA_BYTES = 128 * 1024  # a second: some 550 requests with a token, 1,700 without
_AGENT, _FLOODER = "modest", "other"  # the agent that asks now and then; the flood's user at Kafka
_ASKED_EVERY_SECONDS = 0.1
_PATIENCE_SECONDS = 2.0  # after which an agent bids its own base
_ANSWERED_SHARE = 0.95  # beside a flood that a quota limits
_TTL_SECONDS = 10.0  # a worker's --request-ttl-seconds
_RECOVERED_SECONDS = _TTL_SECONDS + 10.0  # a question's patience, and a busy machine
_RECOVERED_AFTER = 10  # answers in a row
_MOST_MEBIBYTES = 512  # what `--processes auto` gives each process
_COUNTED_SECONDS = 60.0  # until every request has its end, on a busy machine
_COUNTED = ("learner_requests_total", "learner_identity_checks_total")
_REQUESTS = "learner_requests_total"
_EXPIRED = f'{_REQUESTS}{{code="EXPIRED"}}'
_LAG = "learner_request_lag_seconds"


@dataclass
class Heard:
    """What the agent that asks now and then got.

    Attributes:
        seconds: how long each answer took.
    """

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    unanswered: int = 0

    @property
    def answered_share(self) -> float:
        """Of all questions."""
        return len(self.seconds) / (len(self.seconds) + self.refused + self.unanswered)

    def __str__(self) -> str:
        times = [
            f"p{percent} {percentile(self.seconds, percent) * 1000:.0f} ms"
            for percent in (50, 99)
            if self.seconds
        ]
        answered = f"{len(self.seconds)} answered within {_PATIENCE_SECONDS:g} s"
        others = f"{self.refused} refused, {self.unanswered} unanswered"
        return f"the neighbour: {', '.join([answered, *times, others])}"


@dataclass
class Stage:
    """Where floods play: a worker that requires tokens, and for how long each lasts.

    Attributes:
        auctions: those that the agent has won so far.
    """

    kafka: SecuredKafka
    names: TopicNames
    worker: WorkerProcess
    seconds: float
    auctions: int = 0

    def client(self) -> LearnerClient:
        """The agent that asks now and then."""
        token = valid_token(sub=_AGENT)
        return LearnerClient(self.kafka.open, timeout_seconds=_PATIENCE_SECONDS, token=token)

    async def win(self) -> None:
        """The agent wins one more auction."""
        self.auctions += 1
        task, now = f"task-{self.auctions}", int(time.time() * 1e6)
        bid, close = BidPlaced(task, _AGENT, 5, "d", now), AuctionClosed(task, _AGENT, 5, now)
        await publish(self.kafka.open, self.names, [bid, close])

    async def samples(self, *metrics: str) -> dict[str, float]:
        """What an operator sees of some metrics, with their labels."""
        _, text = await self.worker.get("/metrics")
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(metrics)]
        return {name: float(value) for name, value in lines}

    async def written(self) -> int:
        """How many requests Kafka has taken so far, including those that the worker moved."""
        async with AIOKafkaConsumer(bootstrap_servers=self.kafka.open) as consumer:
            places = [TopicPartition(self.names.requests, number) for number in range(PARTITIONS)]
            return sum((await consumer.end_offsets(places)).values())


async def rows(kafka: SecuredKafka, folder: Path, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """Two rows for each flood: one that a quota of Kafka's limits, and one that nothing limits."""
    names = await create_topics(kafka.open, "", partitions=PARTITIONS)
    await allow(kafka.open, resource=TOPIC, name=names.requests, operations=[WRITE, DESCRIBE], user=_FLOODER)
    settings = {"--identity": "require", "--identity-secret-file": str(secret_file(folder))}
    found = []
    async with running_worker(kafka.open, "", folder / "state", settings=settings) as worker:
        stage = Stage(kafka, names, worker, seconds)
        for quota in (QUOTA_BYTES, None):
            await asyncio.to_thread(set_quota, kafka.open, _FLOODER, quota, say)
            for kind in KINDS:
                found.append(await _row(stage, kind, quota))
                say(f"{found[-1].fault}: {found[-1].notes}")
        if code := await worker.stop():
            found.append(Row("the worker's end", 1, failures=[f"exit code {code}"]))
    return found


async def _row(stage: Stage, kind: str, quota: int | None) -> Row:
    before, began_at = await stage.samples(*_COUNTED), await stage.written()
    shard = partitioner(PARTITIONS)(_AGENT)
    flood = Flood(kind, stage.names.requests, shard, stage.kafka.login, _FLOODER, PASSWORD)
    async with flooding(flood):
        await stage.win()
        heard = await _ask_now_and_then(stage)
        lag = max((await stage.samples(_LAG)).values())
    recovered = await _recovered_seconds(stage)
    counted, written = await _all_counted(stage)
    grown = {key: value - before.get(key, 0) for key, value in counted.items()}
    mebibytes = _peak_mebibytes(stage.worker)
    failures = [
        *_of_the_worker(_requests_in(counted), written, mebibytes),
        *(_of_a_limited(heard) if quota is not None else _of_an_unlimited(heard, grown, recovered)),
    ]
    limit = "without a quota" if quota is None else f"at a quota of {quota // 1024} KiB/s"
    notes = [
        str(heard),
        f"{(written - began_at) / stage.seconds:,.0f} requests a second, {lag:.1f} s behind at the end",
        f"answers as before after {recovered:.1f} s",
        f"the worker held {mebibytes} MiB at most",
        *(f"{key} {value:,.0f}" for key, value in grown.items() if value),
    ]
    return Row(f"flood {kind}, {limit}", 1, notes=notes, failures=failures)


def _of_the_worker(counted: float, written: int, mebibytes: int) -> list[str]:
    """What has to hold, whoever floods: each request has one end, and memory is bounded."""
    failures = [f"{counted:,.0f} of {written:,} requests had an end"] * (counted != written)
    return failures + [f"the worker held {mebibytes} MiB"] * (mebibytes > _MOST_MEBIBYTES)


def _of_a_limited(heard: Heard) -> list[str]:
    share = heard.answered_share
    return [f"{share:.0%} of the neighbour's questions were answered in time"] * (share < _ANSWERED_SHARE)


def _of_an_unlimited(heard: Heard, grown: Mapping[str, float], recovered: float) -> list[str]:
    failures = [f"answers were late for {recovered:.0f} s after the flood"] * (recovered > _RECOVERED_SECONDS)
    unseen = heard.unanswered > 0 and not grown[_EXPIRED]
    return failures + ["questions got no answer, and no metric says so"] * unseen


async def _ask_now_and_then(stage: Stage) -> Heard:
    heard, ends = Heard(), time.monotonic() + stage.seconds
    async with stage.client() as learner:
        while time.monotonic() < ends:
            began = time.monotonic()
            try:
                await learner.suggest_bid(_AGENT, description="d", base_bid_sats=5)
                heard.seconds.append(time.monotonic() - began)
            except SuggestionError as error:
                heard.refused += error.code != "TIMEOUT"
                heard.unanswered += error.code == "TIMEOUT"
            await asyncio.sleep(_ASKED_EVERY_SECONDS)
    return heard


async def _recovered_seconds(stage: Stage) -> float:
    """How long after a flood questions are answered in a row again, from what happened meanwhile, too."""
    ended = time.monotonic()
    async with stage.client() as learner:

        async def answered_in_a_row() -> float | None:
            began = time.monotonic()
            try:
                for _ in range(_RECOVERED_AFTER):
                    advice = await learner.suggest_bid(_AGENT, description="d", base_bid_sats=5)
            except SuggestionError:
                return None
            return began - ended if advice.metrics.auctions_won == stage.auctions else None

        return await until(answered_in_a_row, "answers are as before")


async def _all_counted(stage: Stage) -> tuple[dict[str, float], int]:
    """The counters, and how many requests Kafka has taken so far: as soon as these are equal, if ever."""
    ends = time.monotonic() + _COUNTED_SECONDS
    while True:
        counted, written = await stage.samples(*_COUNTED), await stage.written()
        if _requests_in(counted) == written or time.monotonic() > ends:
            return counted, written
        await asyncio.sleep(_ASKED_EVERY_SECONDS)


def _requests_in(counted: Mapping[str, float]) -> float:
    return sum(value for key, value in counted.items() if key.startswith(_REQUESTS))


def _peak_mebibytes(worker: WorkerProcess) -> int:
    """The most memory that it has held so far."""
    lines = Path(f"/proc/{worker.process.pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))
