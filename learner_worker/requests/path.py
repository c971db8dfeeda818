"""The request path, wired: consumer, admission, queue, answering, replies."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from learner_worker.contract.fields import ShardId
from learner_worker.errors import StateError
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.watchdog import Reading
from learner_worker.observability import RequestInstruments
from learner_worker.requests.admission import Admission
from learner_worker.requests.answering import Answering
from learner_worker.requests.clock import Clock
from learner_worker.requests.consumer import RequestConsumer
from learner_worker.requests.queue import RequestQueue
from learner_worker.requests.replies import Replies
from learner_worker.requests.reply_batches import ReplyBatches
from learner_worker.requests.reply_places import ReplyPlaces
from learner_worker.requests.settings import RequestSettings
from learner_worker.requests.shards import AnsweringShard, OwnedShards
from learner_worker.requests.stalls import StallGuard
from learner_worker.shard.pacing import Pacing
from learner_worker.stages.advise import Advise


class RequestClients(NamedTuple):
    """The path's Kafka clients, and what they know together of Kafka's absence."""

    consumer: AIOKafkaConsumer
    producer: AIOKafkaProducer
    outage: Outage


class RequestPath:
    """Reads the requests of this replica's shards and answers them.

    A request passes, in this order: `consumer` reads it, `admission` decides what becomes of it, `queue`
    holds it until its turn, `answering` has `advise` answer it, `replies` makes the record, and
    `reply_batches` hands it to Kafka.

    Args:
        settings: what an operator decides.
        clients: Kafka.
        advise: the strategy.
        instruments: what an operator sees.
        pacing: is told that agents ask, so that events give way.
        is_member: asks the group whether it still counts on this replica.
        on_failure: takes the error of a shard's file that cannot be read: the worker ends.
        clock: the time.
    """

    def __init__(
        self,
        settings: RequestSettings,
        clients: RequestClients,
        *,
        advise: Advise,
        instruments: RequestInstruments,
        pacing: Pacing,
        is_member: Callable[[], Awaitable[bool]],
        on_failure: Callable[[StateError], None],
        clock: Clock | None = None,
    ) -> None:
        clock = clock or Clock()
        places = ReplyPlaces(clients.producer, clients.consumer.topics, clock)
        self._batches = batches = ReplyBatches(clients.producer, places, instruments.answer_seconds, clock)
        replies = Replies(
            batches=batches,
            places=places,
            request_topic=settings.topics.requests,
            instruments=instruments,
        )
        self._shards = shards = OwnedShards(settings.while_restoring)
        self._queue = queue = RequestQueue(
            shards=shards, replies=replies, while_restoring=settings.while_restoring, clock=clock
        )
        self.admission = Admission(
            settings=settings, shards=shards, queue=queue, replies=replies, clock=clock
        )
        self.answering = Answering(
            shards=shards,
            queue=queue,
            advise=advise,
            replies=replies,
            batches=batches,
            pacing=pacing,
            on_failure=on_failure,
            clock=clock,
        )
        self.consumer = RequestConsumer(
            consumer=clients.consumer,
            settings=settings,
            admission=self.admission,
            answering=self.answering,
            stalls=StallGuard(settings.stall_seconds, is_member, clock),
            outage=clients.outage,
            clock=clock,
        )

    def own(
        self,
        opened: Mapping[ShardId, AnsweringShard],
        assigned: frozenset[ShardId],
        assignment_number: int,
    ) -> None:
        """Says which shards are open, and which are this replica's at all.

        The requests of those that are open are read: until then the replica that had a shard before may say
        what it has answered. A request that waits for a shard of another replica is left to that one, which
        reads it again.

        Args:
            opened: the shards that are open.
            assigned: all that the group gave this replica.
            assignment_number: by which of its assignments.
        """
        self._shards.own(opened, assigned)
        self._queue.drop_lost()
        self.consumer.own(frozenset(opened), assigned, assignment_number)

    async def read(self, stopping: asyncio.Event) -> None:
        """Reads and answers until told to stop."""
        await self.consumer.read(stopping)

    async def commit_answered(self, seconds: float) -> None:
        """Gives Kafka some time to take the replies under way, and commits: a new owner begins there."""
        await self._batches.finish(seconds)
        await self.consumer.finish()

    async def finish(self, seconds: float) -> None:
        """Answers or refuses what was read, gives Kafka some time to take it, and commits."""
        await self.answering.finish(seconds)
        await self.consumer.finish()

    async def reading(self) -> Reading:
        """How far the requests are read, for the watchdog."""
        return await self.consumer.reading()

    @property
    def last_turn_seconds(self) -> float:
        """When the reading loop went on last, by the monotonic clock."""
        return self.consumer.last_turn_seconds

    @property
    def replies_stand_seconds(self) -> float:
        """For how long Kafka has taken no reply although some are under way."""
        return self._batches.standing_seconds
