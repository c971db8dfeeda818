"""Reads the agents' own request topics, and commits what was sent on."""

import asyncio
from collections.abc import Collection, Mapping

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError

from learner_worker.forwarding.sending import RequestSender
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.polling import poll, seek
from learner_worker.kafka.watchdog import Reading, look
from learner_worker.lifecycle import is_set_within
from learner_worker.refusals.denials import failure
from learner_worker.requests.clock import Clock

_POLL_MS = 100  # how long an idle turn lasts: a stop waits for it
_POLL_RECORDS = 500  # sent at the same time, in some tens of milliseconds
_KAFKA_SECONDS = 30.0  # aiokafka itself retries a request without a limit
_COMMIT_SECONDS = 5.0  # several times what a healthy broker takes: a rebalance and a stop wait for it
_COMMIT_EVERY_SECONDS = 1.0  # after a crash, the requests since are sent twice, and answered twice
_NAME = "forwarding requests"
_log = structlog.get_logger("learner_worker.forwarding")


class Forwarder(ConsumerRebalanceListener):
    """A member of the group of forwarders. What is committed was acknowledged, or has expired.

    Attributes:
        joined: whether the group has given this member its share.
        turns: how many turns of the loop have begun.
        last_turn_seconds: when the last one began, by the monotonic clock.
    """

    def __init__(
        self, *, consumer: AIOKafkaConsumer, sender: RequestSender, outage: Outage, clock: Clock
    ) -> None:
        self._consumer = consumer
        self._sender = sender
        self._outage = outage
        self._clock = clock
        self._positions: dict[TopicPartition, int] = {}
        self._committed: Mapping[TopicPartition, int] = {}
        self._commit_at = 0.0
        self._rejoining = False
        self.joined = False
        self.turns = 0
        self.last_turn_seconds = clock.monotonic()

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Commits before another member may read on.

        The positions stay until partitions are assigned anew: a batch that fails meanwhile has to be read
        again, but the client's own position is past it.
        """
        if revoked:
            await self._commit()
        self._rejoining = True

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Notes that the group has given this member its share: it begins where the group has committed."""
        self._positions = {}
        self._rejoining = False
        self.joined = True
        _log.info(
            "forwarding.assigned", partitions=sorted(f"{one.topic}/{one.partition}" for one in assigned)
        )

    async def reading(self) -> Reading:
        """The progress of reading, for the watchdog."""
        return await look(_NAME, self._consumer, self._own(), self._outage)

    async def run(self, stopping: asyncio.Event) -> None:
        """Forwards until `stopping` is set, through outages of Kafka.

        Raises:
            RefusedError: this user may not use the group.
        """
        try:
            while not stopping.is_set():
                self.turns, self.last_turn_seconds = self.turns + 1, self._clock.monotonic()
                await is_set_within(stopping, await self._turn_or_failure())
        finally:
            await self._commit()

    async def _turn_or_failure(self) -> float:
        """A turn; returns the pause after it, in seconds."""
        try:
            await self._turn()
        except GroupAuthorizationFailedError as error:  # the client would repeat it for ever
            raise failure("the group cannot be read", error) from error
        except (KafkaError, TimeoutError) as error:
            seek(self._consumer, self._own())  # what failed is read, and sent, again
            return self._outage.failed(_NAME, error)
        self._outage.worked(_NAME)
        return 0.0

    async def _turn(self) -> None:
        async with asyncio.timeout(_KAFKA_SECONDS):
            for partition in self._consumer.assignment() - self._positions.keys():
                self._positions[partition] = await self._consumer.position(partition)
        polled = await poll(self._consumer, self._own(), timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        await self._sender.send([record for batch in polled.batches.values() for record in batch])
        for partition, batch in polled.batches.items():
            self._positions[partition] = batch[-1].offset + 1
        if polled.gap is not None:
            _log.warning("requests.unreadable", offsets=str(polled.gap))
            self._positions[polled.gap.partition] = polled.gap.offsets.end
        if self._clock.monotonic() >= self._commit_at:
            await self._commit()

    async def _commit(self) -> None:
        self._commit_at = self._clock.monotonic() + _COMMIT_EVERY_SECONDS
        if self._rejoining:  # Kafka answers it after the join, and refuses it: it is of the last generation
            return
        if not (offsets := self._own()) or offsets == self._committed:
            return
        try:
            async with asyncio.timeout(_COMMIT_SECONDS):
                await self._consumer.commit(offsets)
        except (KafkaError, TimeoutError) as error:  # as when the partitions are another member's now
            _log.warning("forwarding.not_committed", error=repr(error))
        else:
            self._committed = offsets

    def _own(self) -> dict[TopicPartition, int]:
        """The next offsets of the partitions that are this member's now."""
        assigned = self._consumer.assignment()
        return {one: position for one, position in self._positions.items() if one in assigned}
