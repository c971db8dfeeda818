"""Asks for suggestions all the time, shard by shard, and checks every reply."""

import asyncio
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from learner_worker.contract.topics import TopicNames
from learner_worker.kafka.partitioner import partitioner
from tests.programs.chaos.load import AGENTS
from tests.support import model
from tests.support.swarm import EXTRAS, TOPICS, agent_id
from tests.support.workers import until

_SEND_SECONDS = 15.0
_POLL_MS = 50
_RETRY_SECONDS = 0.2
_SECOND_REPLY_SECONDS = 1.0
_BASE_BIDS = (1, 137, 1_000, 250_000, 2**53 - 1)
_KEPT_PROBLEMS = 20


@dataclass(slots=True)
class Asked:
    """A request and what came of it; times are monotonic seconds.

    Attributes:
        known_as_of: the newest `as_of` that was answered for this agent before the request was made.
        delivered: whether Kafka acknowledged the request.
    """

    shard: int
    agent_id: str
    base_bid_sats: int
    description: str
    asked_at: float
    deadline: float
    known_as_of: datetime | None
    delivered: bool = False
    answered_at: list[float] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    older: bool = False

    @property
    def in_time(self) -> bool:
        """Whether it was answered before its deadline."""
        return bool(self.answered_at) and self.answered_at[0] <= self.deadline


class Prober:
    """Puts `asks_a_second` requests to every shard and reads all replies.

    Attributes:
        asked: every request, by its correlation id.
        wrong: how many replies were wrong; `problems` describes the first of them.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        names: TopicNames,
        *,
        partitions: int,
        asks_a_second: float,
        deadline_seconds: float,
    ) -> None:
        self._servers = bootstrap_servers
        self._names = names
        self._partitions = partitions
        self._agents = _agents_of_shards(partitions)
        self.interval_seconds = 1 / asks_a_second
        self._deadline_seconds = deadline_seconds
        self._stopping = asyncio.Event()
        self.newest_as_of: dict[str, datetime] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self.asked: dict[str, Asked] = {}
        self.wrong = 0
        self.problems: list[str] = []

    @property
    def shards(self) -> list[int]:
        """The shards that are asked."""
        return sorted(self._agents)

    def stop(self) -> None:
        """Lets `run` end after the last deadline."""
        self._stopping.set()

    async def run(self) -> None:
        """Asks and reads until told to stop, then reads until the last deadline."""
        async with (
            AIOKafkaProducer(bootstrap_servers=self._servers, acks=1, request_timeout_ms=10_000) as producer,
            AIOKafkaConsumer(
                bootstrap_servers=self._servers, enable_auto_commit=False, fetch_max_wait_ms=_POLL_MS
            ) as consumer,
        ):
            await self._assign(consumer)
            reading = asyncio.create_task(self._read(consumer), name="read-replies")
            try:
                await asyncio.gather(*(self._ask_shard(producer, shard) for shard in self._agents))
                await self._last_replies()
            finally:
                reading.cancel()
                await asyncio.gather(reading, *self._sending, return_exceptions=True)

    # --- asking ------------------------------------------------------------------------------------------

    async def _ask_shard(self, producer: AIOKafkaProducer, shard: int) -> None:
        """Asks at a steady beat, whether or not anything comes back."""
        for number in itertools.count():
            agent = self._agents[shard][number % len(self._agents[shard])]
            task = asyncio.create_task(self._ask(producer, shard, agent, number), name=f"ask-{shard}")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self.interval_seconds)
                return

    async def _ask(self, producer: AIOKafkaProducer, shard: int, agent: str, number: int) -> None:
        request_id = f"{shard}-{number}"
        asked = Asked(
            shard=shard,
            agent_id=agent,
            base_bid_sats=_BASE_BIDS[number % len(_BASE_BIDS)],
            description=TOPICS[number % len(TOPICS)] + EXTRAS[number % len(EXTRAS)],
            asked_at=time.monotonic(),
            deadline=time.monotonic() + self._deadline_seconds,
            known_as_of=self.newest_as_of.get(agent),
        )
        self.asked[request_id] = asked
        headers = [("correlation_id", request_id.encode()), ("reply_to", self._names.replies.encode())]
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(_SEND_SECONDS):
                await producer.send_and_wait(
                    self._names.requests, self._body(asked, request_id), key=agent.encode(), headers=headers
                )
            asked.delivered = True

    async def _last_replies(self) -> None:
        """Waits until every request is answered, or past its deadline, and a moment for a second reply."""
        unanswered = list(self._recent(time.monotonic() - self._deadline_seconds))

        async def over() -> bool:
            return all(asked.answered_at or time.monotonic() > asked.deadline for asked in unanswered)

        await until(over, "the last requests are over", seconds=2 * self._deadline_seconds)
        await asyncio.sleep(_SECOND_REPLY_SECONDS)

    def _body(self, asked: Asked, request_id: str) -> bytes:
        return json.dumps(
            {
                "agent_id": asked.agent_id,
                "base_bid_sats": asked.base_bid_sats,
                "description": asked.description,
                "request_id": request_id,
                "deadline": (datetime.now(UTC) + timedelta(seconds=self._deadline_seconds)).isoformat(),
                "include": ["learned_keywords"],
            }
        ).encode()

    # --- reading -----------------------------------------------------------------------------------------

    async def _assign(self, consumer: AIOKafkaConsumer) -> None:
        partitions = [TopicPartition(self._names.replies, number) for number in range(self._partitions)]
        consumer.assign(partitions)
        await consumer.seek_to_end(*partitions)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            try:
                batches = await consumer.getmany(timeout_ms=_POLL_MS)
            except KafkaError:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            now = time.monotonic()
            for record in (record for batch in batches.values() for record in batch):
                self._take(record, now)

    def _take(self, record: Any, now: float) -> None:
        headers = dict(record.headers)
        request_id = headers.get("correlation_id", b"").decode()
        asked = self.asked.get(request_id)
        if asked is None:
            self._complain(f"a reply to nobody: {record.headers} {record.value!r}")
            return
        if "learner-error" in headers:
            asked.refusals.append(headers["learner-error"].decode())
            return
        asked.answered_at.append(now)
        reply = json.loads(record.value)
        for problem in problems_of(reply, asked, request_id):
            self._complain(f"{problem}: asked {asked}, answered {reply}")
        self.note_as_of(reply, asked)

    def note_as_of(self, reply: Mapping[str, Any], asked: Asked) -> None:
        as_of = None if reply["as_of"] is None else datetime.fromisoformat(reply["as_of"])
        if asked.known_as_of is not None and (as_of is None or as_of < asked.known_as_of):
            asked.older = True
        if as_of is not None:
            self.newest_as_of[asked.agent_id] = max(as_of, self.newest_as_of.get(asked.agent_id, as_of))

    def _complain(self, problem: str) -> None:
        self.wrong += 1
        if len(self.problems) < _KEPT_PROBLEMS:
            self.problems.append(problem)

    # --- what came of it ---------------------------------------------------------------------------------

    def gaps(self, began: float, ended: float) -> dict[int, float]:
        """By shard: the longest time between two answers around a span, less the asking interval."""
        return {
            shard: max(0.0, gap - self.interval_seconds)
            for shard in self._agents
            for gap in [longest_gap(self._answer_times(shard, began), began, ended)]
        }

    def answered_since(self, moment: float) -> set[int]:
        """The shards that answered a request made after a moment."""
        return {
            asked.shard for asked in self._recent(moment) if asked.answered_at and asked.asked_at >= moment
        }

    def _answer_times(self, shard: int, since: float) -> list[float]:
        """The answers of a shard from a deadline before a moment on."""
        recent = self._recent(since - 2 * self._deadline_seconds)
        return sorted(at for asked in recent if asked.shard == shard for at in asked.answered_at)

    def _recent(self, moment: float) -> Iterator[Asked]:
        newest_first = reversed(self.asked.values())
        return itertools.takewhile(lambda asked: asked.asked_at >= moment - 1, newest_first)


def longest_gap(times: Sequence[float], began: float, ended: float) -> float:
    """The longest time between two neighbours that touches the span; the span's ends count as neighbours."""
    before = [at for at in times if at <= began][-1:] or [began]
    after = [at for at in times if at >= ended][:1] or [ended]
    within = [at for at in times if began < at < ended]
    return max(later - earlier for earlier, later in itertools.pairwise([*before, *within, *after]))


def _agents_of_shards(partitions: int) -> dict[int, list[str]]:
    partition_of = partitioner(partitions)
    found: defaultdict[int, list[str]] = defaultdict(list)
    for number in range(AGENTS):
        found[partition_of(agent_id(number))].append(agent_id(number))
    return dict(found)


# --- the reply's check -----------------------------------------------------------------------------------


def problems_of(reply: Mapping[str, Any], asked: Asked, request_id: str) -> Iterator[str]:
    """What is wrong with a reply: who and what was asked, what follows from the metrics it shows."""
    if (reply["request_id"], reply["agent_id"]) != (request_id, asked.agent_id):
        yield "a reply to another request"
    if reply["base_bid_sats"] != asked.base_bid_sats:
        yield "another base bid"
    if reply["stale"]:
        yield "an answer from a shard that is being restored"
    known = _metrics(reply)
    counts = (known.total_bids, known.auctions_won, known.tasks_completed, known.tasks_failed)
    if (known.win_rate, known.success_rate) != _rates(*counts):
        yield "rates that are not their counts'"
    expected = model.classic(known, asked.description, asked.base_bid_sats)
    rules = [(item["rule"], item["multiplier"]) for item in reply["adjustments"]]
    if (reply["suggested_bid_sats"], reply["factor"], rules) != (
        expected.suggested_bid_sats,
        expected.factor,
        expected.rules,
    ):
        yield f"not the model's suggestion {expected}"


def _metrics(reply: Mapping[str, Any]) -> model.Metrics:
    """The metrics in a reply. The swarm's vocabulary is small: all keywords are among the 50 strongest."""
    keywords = reply["learned_keywords"]
    return model.Metrics(
        **reply["metrics"],
        keyword_wins={item["keyword"]: item["wins"] for item in keywords if item["wins"]},
        keyword_failures={item["keyword"]: item["failures"] for item in keywords if item["failures"]},
    )


def _rates(total: int, won: int, completed: int, failed: int) -> tuple[float, float]:
    finished = completed + failed
    return (won / total if total else 0.0, completed / finished if finished else 0.0)
