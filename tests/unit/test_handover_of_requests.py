"""A shard that is closed while its requests are answered: they wait for it, or are left to its new owner."""

import time
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any

from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.contract.topics import ReplyTopics, Topics
from learner_worker.domain.agents import Agent, AgentRow
from learner_worker.errors import ClosedFileError, StateError
from learner_worker.kafka.records import Outgoing, Unreadable
from learner_worker.observability import Instruments
from learner_worker.requests.answering import Answering, WhileRestoring
from learner_worker.requests.consumer import InFlightOffsets
from learner_worker.stages.advise import Advise
from learner_worker.strategies.classic import CLASSIC

TOPICS = Topics().named()
ANN = AgentId("ann")
SHARD = ShardId(0)
CLOSED = ClosedFileError("closed")
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

    async def finish(self, _seconds: float) -> None:
        """Nothing is under way."""


class FakeShard:
    """Knows every agent, or its file cannot be read just when one is to be."""

    number = SHARD

    def __init__(self, error: StateError | None = None, *, restored: bool = True) -> None:
        self.learn = SimpleNamespace(cached=lambda _: None, agents=self._agents)
        self.restored = restored
        self._error = error

    async def _agents(self, ids: Collection[AgentId]) -> dict[AgentId, Agent]:
        if self._error is not None:
            raise self._error
        return {agent_id: Agent(agent_id, AgentRow(), {}) for agent_id in ids}


def answering_with(
    replies: FakeReplies, failures: list[StateError], while_restoring: WhileRestoring = "wait"
) -> Any:
    """What answers the requests of one shard, not yet its own."""
    return Answering(
        replies=replies,  # type: ignore[arg-type]
        topics=TOPICS,
        reply_topics=ReplyTopics(TOPICS.reply_patterns, ()),
        partition_of=lambda _: SHARD,
        advise=Advise(CLASSIC),
        instruments=Instruments(),
        ttl_micros=10_000_000,
        while_restoring=while_restoring,
        on_failure=failures.append,
    )


def answering_on(
    shard: FakeShard, failures: list[StateError] | None = None
) -> tuple[Any, FakeReplies, InFlightOffsets]:
    """A worker that has just read one request about the shard's agent."""
    replies, offsets = FakeReplies(), InFlightOffsets(0)
    answering = answering_with(replies, [] if failures is None else failures)
    answering.own({SHARD: shard}, frozenset({SHARD}))
    record = Unreadable(TOPICS.requests, SHARD, 0, int(time.time() * 1000), b"ann", REQUEST)
    offsets.begin(0)
    answering.take(record, offsets)
    return answering, replies, offsets


async def test_a_request_waits_while_its_shard_is_opened_anew() -> None:
    """Nothing is said before the shard can be read again; then the answer."""
    answering, replies, offsets = answering_on(FakeShard(CLOSED))

    await answering.serve()
    assert replies.added == []
    assert offsets.safe == 0

    answering.own({SHARD: FakeShard()}, frozenset({SHARD}))
    await answering.serve()
    assert [b'"suggested_bid_sats":100' in (reply.value or b"") for reply in replies.added] == [True]
    assert offsets.safe == 1


async def test_a_request_is_left_to_the_new_owner_of_a_closed_shard() -> None:
    """It stays unanswered and uncommitted here: who has the shard now reads it again."""
    answering, replies, offsets = answering_on(FakeShard(CLOSED))

    answering.own({}, frozenset())
    await answering.serve()
    answering.own({SHARD: FakeShard()}, frozenset())
    await answering.serve()

    assert replies.added == []
    assert offsets.safe == 0


async def test_a_request_that_is_read_again_is_not_answered_twice() -> None:
    """The lane let go of it while it was queued, or while it waited: its next reading gets the answer."""
    answering, replies, offsets = answering_on(FakeShard())
    offsets.held = False
    await answering.serve()
    assert replies.added == []

    answering, replies, offsets = answering_on(FakeShard(restored=False))
    offsets.held = False
    answering.own({SHARD: FakeShard()}, frozenset({SHARD}))
    await answering.serve()
    await answering.finish(1)
    assert replies.added == []


async def test_a_queued_request_whose_shard_is_to_be_restored_again_waits() -> None:
    """It was queued for an answer; an answer from half of the outcomes would be a wrong one."""
    answering, replies, _ = answering_on(FakeShard())
    answering.own({SHARD: FakeShard(restored=False)}, frozenset({SHARD}))
    await answering.serve()
    assert replies.added == []

    answering.own({SHARD: FakeShard()}, frozenset({SHARD}))
    await answering.serve()
    assert [b'"stale":false' in (reply.value or b"") for reply in replies.added] == [True]


async def test_a_file_that_cannot_be_read_ends_the_worker() -> None:
    """Not with an error reply for every request about its agents: the worker says why, and restarts."""
    failures: list[StateError] = []
    damaged = StateError("damaged")
    answering, replies, offsets = answering_on(FakeShard(damaged), failures)
    await answering.serve()
    assert failures == [damaged]
    assert replies.added == []
    assert offsets.safe == 0
