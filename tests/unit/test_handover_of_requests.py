"""A shard that is closed while its requests are answered: they wait for it, or are left to its new owner."""

import time
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any

from learner_worker.contract.fields import AgentId, Shard
from learner_worker.contract.topics import ReplyTopics, Topics
from learner_worker.domain.strategies import classic
from learner_worker.errors import ClosedFileError
from learner_worker.observability import Instruments
from learner_worker.stages.advise import Advise
from learner_worker.stages.answering import Answering
from learner_worker.stages.learn import Agent
from learner_worker.store.statements import AgentRow
from learner_worker.stream.lane import Offsets
from learner_worker.stream.records import Outgoing, Unreadable

TOPICS = Topics().named()
ANN = AgentId("ann")
SHARD = Shard(0)
REQUEST = b'{"request_id": "r", "agent_id": "ann", "description": "parse", "base_bid_sats": 100}'


class FakeReplies:
    """Takes replies; Kafka has each at once."""

    is_full = False

    def __init__(self) -> None:
        self.added: list[Outgoing] = []

    def knows(self, topic: str, partition: int | None) -> bool:
        return bool(topic) or partition is not None

    def add(self, record: Outgoing, done: Callable[[], None]) -> None:
        self.added.append(record)
        done()

    def send(self) -> None:
        """Nothing is held back."""


class FakeShard:
    """Knows every agent, or is closed just when one is to be read from its file."""

    restored = True
    number = SHARD

    def __init__(self, *, closed: bool) -> None:
        self.learn = SimpleNamespace(cached=lambda _: None, agents=self._agents)
        self._closed = closed

    async def _agents(self, ids: Collection[AgentId]) -> dict[AgentId, Agent]:
        if self._closed:
            raise ClosedFileError("closed")
        return {agent_id: Agent(agent_id, AgentRow(), {}) for agent_id in ids}


def answering_on(shard: FakeShard) -> tuple[Any, FakeReplies, Offsets]:
    """A worker that has just read one request about the shard's agent."""
    replies, offsets = FakeReplies(), Offsets(0)
    answering: Any = Answering(
        replies=replies,  # type: ignore[arg-type]
        topics=TOPICS,
        reply_topics=ReplyTopics(TOPICS.reply_patterns, ()),
        partition_of=lambda _: SHARD,
        advise=Advise("classic", classic),
        instruments=Instruments(),
        ttl_micros=10_000_000,
        while_restoring="wait",
    )
    answering.own({SHARD: shard}, frozenset({SHARD}))
    record = Unreadable(TOPICS.requests, SHARD, 0, int(time.time() * 1000), b"ann", REQUEST)
    offsets.begin(0)
    answering.take(record, offsets)
    return answering, replies, offsets


async def test_a_request_waits_while_its_shard_is_opened_anew() -> None:
    """Nothing is said before the shard can be read again; then the answer."""
    answering, replies, offsets = answering_on(FakeShard(closed=True))

    await answering.serve()
    assert replies.added == []
    assert offsets.safe == 0

    answering.own({SHARD: FakeShard(closed=False)}, frozenset({SHARD}))
    await answering.serve()
    assert [b'"suggested_bid_sats":100' in (reply.value or b"") for reply in replies.added] == [True]
    assert offsets.safe == 1


async def test_a_request_is_left_to_the_new_owner_of_a_closed_shard() -> None:
    """It stays unanswered and uncommitted here: who has the shard now reads it again."""
    answering, replies, offsets = answering_on(FakeShard(closed=True))

    answering.own({}, frozenset())
    await answering.serve()
    answering.own({SHARD: FakeShard(closed=False)}, frozenset())
    await answering.serve()

    assert replies.added == []
    assert offsets.safe == 0
