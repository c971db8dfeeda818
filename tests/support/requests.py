"""The request path of one shard, on clients that take and give whatever a test says."""

import asyncio
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from aiokafka.errors import KafkaError

from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.contract.headers import Headers
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import ReplyTopics, Topics
from learner_worker.domain.agents import Agent, AgentRow
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.records import Unreadable
from learner_worker.observability import Instruments, Tracer
from learner_worker.requests.clock import Clock
from learner_worker.requests.identity import IdentitySettings
from learner_worker.requests.in_flight import InFlightOffsets
from learner_worker.requests.path import RequestClients, RequestPath
from learner_worker.requests.settings import RequestSettings, WhileRestoring
from learner_worker.shard.pacing import Pacing
from learner_worker.stages.advise import Advise
from learner_worker.strategies.classic import CLASSIC

TOPICS = Topics().named()
SHARD = ShardId(0)
REQUEST = b'{"request_id": "r", "agent_id": "ann", "description": "parse", "base_bid_sats": 100}'
NOW = Micros(1_767_225_600_000_000)
_SECOND = 1_000_000


class ManualClock(Clock):
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.micros = NOW

    def now(self) -> Micros:
        return self.micros

    def monotonic(self) -> float:
        return self.micros / _SECOND

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.micros = Micros(self.micros + round(seconds * _SECOND))


class ReplyBatchBuilder:
    """A producer's batch with room for every record."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    def append(self, *, value: bytes, **_: object) -> bool:
        self.values.append(value)
        return True


class ReplyProducer:
    """A producer that has every batch at once, or its broker's error; each topic has one partition.

    Attributes:
        may_send: while it is not set, Kafka takes no batch.
    """

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.judge: Callable[[Sequence[bytes]], KafkaError | None] = lambda _: None

    def create_batch(self) -> ReplyBatchBuilder:
        return ReplyBatchBuilder()

    async def send_batch(
        self, batch: ReplyBatchBuilder, _topic: str, *, partition: int
    ) -> asyncio.Future[None]:
        assert partition == 0
        await self.may_send.wait()
        done = asyncio.get_running_loop().create_future()
        error = self.judge(batch.values)
        if error is None:
            self.values += batch.values
            done.set_result(None)
        else:
            done.set_exception(error)
        return done

    async def partitions_for(self, _topic: str) -> set[int]:
        return {0}


class TopicLister:
    """A consumer that only says which topics there are."""

    async def topics(self) -> set[str]:
        return set(TOPICS.all)


class OpenShard:
    """Knows every agent, or its file cannot be read just when one is to be."""

    def __init__(self, error: Exception | None = None, *, restored: bool = True) -> None:
        self.restored = restored
        self._error = error

    @property
    def agents(self) -> "OpenShard":
        return self

    def has_sums(self, _strategies: Collection[str]) -> bool:
        """Nothing was counted before."""
        return True

    def get(self, _agent_id: AgentId) -> Agent | None:
        """No agent is in memory."""
        return None

    async def load(self, ids: Collection[AgentId]) -> Mapping[AgentId, Agent]:
        if self._error is not None:
            raise self._error
        return {agent_id: Agent(agent_id, AgentRow(), {}) for agent_id in ids}


class Requests:
    """Requests to one shard, which this replica owns, and what is replied to them."""

    def __init__(
        self,
        shard: OpenShard | None,
        while_restoring: WhileRestoring = "wait",
        advise: Advise | None = None,
        identity: IdentitySettings | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.instruments = Instruments(tracer)
        self.offsets = InFlightOffsets(0)
        self.failures: list[BaseException] = []
        self.producer = ReplyProducer()
        self._path = RequestPath(
            RequestSettings(
                topics=TOPICS,
                reply_topics=ReplyTopics(TOPICS.reply_patterns, ()),
                shards=1,
                ttl_seconds=10,
                stall_seconds=10,
                while_restoring=while_restoring,
                identity=identity,
            ),
            RequestClients(cast("Any", TopicLister()), cast("Any", self.producer), Outage()),
            advise=advise or Advise([CLASSIC]),
            instruments=self.instruments.requests,
            pacing=Pacing(),
            is_member=is_member,
            on_failure=self.failures.append,
            clock=self.clock,
        )
        self.own(shard)

    def own(self, shard: OpenShard | None) -> None:
        """The shard is this replica's, open or not."""
        self._path.own({} if shard is None else {SHARD: shard}, frozenset({SHARD}), 1)

    def lose(self) -> None:
        """The shard goes to another replica."""
        self._path.own({}, frozenset(), 2)

    def read(self, value: bytes = REQUEST, headers: Headers = ()) -> None:
        """One more request is read, made now."""
        offset, now_ms = self.offsets.position, self.clock.now() // 1_000
        self.offsets.begin(offset)
        record = Unreadable(TOPICS.requests, SHARD, offset, now_ms, b"ann", value, headers)
        self._path.admission.admit(record, self.offsets)

    def counted(self) -> dict[str, float]:
        """How many requests were counted under each code."""
        [family] = self.instruments.requests.by_code.collect()
        return {sample.labels["code"]: sample.value for sample in family.samples}

    def observed(self) -> float | None:
        """Of how many answers the time was observed."""
        return self.instruments.registry.get_sample_value("learner_answer_seconds_count")

    async def replies(self) -> list[dict[str, Any]]:
        """What is replied since the last look."""
        while await self._path.answering.serve():
            pass
        return await self._taken()

    async def ask(self, value: bytes = REQUEST, headers: Headers = ()) -> list[dict[str, Any]]:
        """One more request, and what is replied since the last look."""
        self.read(value, headers)
        return await self.replies()

    async def end(self) -> list[dict[str, Any]]:
        """What is replied when the replica ends."""
        await self._path.answering.finish(1)
        return await self._taken()

    async def _taken(self) -> list[dict[str, Any]]:
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        values, self.producer.values = self.producer.values, []
        return [json.loads(value) for value in values]


_TURNS = 20
"""Of the loop, for a look-up of the reply topic and a batch: each takes a few, and neither waits for time."""


async def is_member() -> bool:
    """The group counts on this replica."""
    return True
