"""The request path, wired together: consumer, admission, queue, answering, replies."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from learner_worker.contract.fields import ShardId
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.watchdog import Reading
from learner_worker.observability import RequestInstruments
from learner_worker.requests.admission import Admission
from learner_worker.requests.advisor import AdviceLog, Advisor
from learner_worker.requests.answering import Answering
from learner_worker.requests.clock import Clock
from learner_worker.requests.consumer import RequestConsumer
from learner_worker.requests.identity import IdentityCheck
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
    """The path's Kafka clients, and the outage state that they share with the worker."""

    consumer: AIOKafkaConsumer
    producer: AIOKafkaProducer
    outage: Outage


class RequestPath:
    """Reads the requests of this replica's shards and answers them.

    A request passes these modules in order: `consumer` reads it, `admission` accepts or refuses it, `queue`
    holds it until its turn, `answering` asks `advisor`, which calls `advise` and notes the answer, `replies`
    makes the record, and `reply_batches` sends it to Kafka.

    Raises ConfigurationError if the keys that verify tokens cannot be read.

    Args:
        settings: the request path's settings.
        clients: its Kafka clients.
        advise: computes replies with the worker's strategies.
        instruments: the worker's metrics.
        pacing: learns when agents ask, so that events yield to answers.
        is_member: asks the group whether this replica is still a member.
        on_failure: takes the error of agents that cannot be loaded; ends the worker.
        clock: a simulation passes its own.
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
        on_failure: Callable[[BaseException], None],
        clock: Clock | None = None,
    ) -> None:
        clock = clock or Clock()
        places = ReplyPlaces(clients.producer, clients.consumer.topics, clock)
        self._batches = batches = ReplyBatches(clients.producer, places, instruments, clock)
        replies = Replies(
            batches=batches,
            places=places,
            request_topic=settings.topics.requests,
            instruments=instruments,
        )
        topics = settings.topics
        log = (
            AdviceLog(clients.producer, topics.advice, instruments.advice_lost) if topics.advice_log else None
        )
        self._shards = shards = OwnedShards(settings.while_restoring)
        self._queue = queue = RequestQueue(
            shards=shards, replies=replies, while_restoring=settings.while_restoring, clock=clock
        )
        self.admission = Admission(
            settings=settings,
            shards=shards,
            queue=queue,
            replies=replies,
            clock=clock,
            advise=advise,
            identity=None
            if settings.identity is None
            else IdentityCheck(settings.identity, instruments.identity, clock),
            tracer=instruments.tracer,
        )
        self.answering = Answering(
            shards=shards,
            queue=queue,
            advisor=Advisor(advise, log, clock),
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
        """Sets which shards are open and which are assigned to this replica.

        Requests are read for open shards only: until then a shard's previous owner may still commit what it
        has answered. Parked requests for shards that are assigned elsewhere are dropped; the new owner reads
        them again.

        Args:
            opened: the shards that are open.
            assigned: all shards that the group has assigned to this replica.
            assignment_number: the number of that assignment.
        """
        self._shards.own(opened, assigned)
        self._queue.drop_lost()
        self.consumer.own(frozenset(opened), assigned, assignment_number)

    async def read(self, stopping: asyncio.Event) -> None:
        """Reads and answers until `stopping` is set."""
        await self.consumer.read(stopping)

    def unfinished(self) -> Mapping[ShardId, OffsetRange]:
        """The requests of each shard that are not answered yet, as far as Kafka's answers tell."""
        return self.consumer.unfinished()

    async def commit_answered(self, seconds: float) -> None:
        """Waits up to `seconds` for the replies in flight, then commits: a new owner begins there."""
        await self._batches.finish(seconds)
        await self.consumer.finish()

    async def finish(self, seconds: float) -> None:
        """Answers or refuses what was read, waits up to `seconds` for the replies, and commits."""
        await self.answering.finish(seconds)
        await self.consumer.finish()

    async def reading(self) -> Reading:
        """The progress of reading requests, for the watchdog."""
        return await self.consumer.reading()

    @property
    def last_turn_seconds(self) -> float:
        """When the poll loop's last turn began, by the monotonic clock."""
        return self.consumer.last_turn_seconds

    @property
    def replies_stand_seconds(self) -> float:
        """Seconds since Kafka last accepted a reply, while some are in flight; otherwise 0.0."""
        return self._batches.standing_seconds
