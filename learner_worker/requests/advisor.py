"""Answers a request by `advise`, and writes the advice log where there is one.

The log never delays an answer: it is sent beside the replies, and what Kafka does not take is counted and
dropped.
"""

import asyncio
from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from prometheus_client import Counter

from learner_worker.contract.advice import encode_advice
from learner_worker.contract.encode import Reply
from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.domain.agents import Agent
from learner_worker.kafka.records import Outgoing
from learner_worker.kafka.splitting import OF_RECORD, send_in_parts
from learner_worker.requests.clock import Clock
from learner_worker.requests.request import AdmittedRequest
from learner_worker.requests.shards import AnsweringShard, is_current
from learner_worker.stages.advise import Advise

_MAX_UNSENT = 5_000
"""As many as unsent replies at most: some megabytes, and more than a broker's failover leaves waiting."""
_log = structlog.get_logger("learner_worker.requests")
_Entry = tuple[bytes, bytes]
"""Key and value of a record."""


class AdviceLog:
    """Sends the records of the advice log; those of a partition in batches, one after the other."""

    def __init__(self, producer: AIOKafkaProducer, topic: TopicName, lost: Counter) -> None:
        self._producer = producer
        self._topic = topic
        self._lost = lost
        self._pending: dict[ShardId, list[_Entry]] = {}
        self._senders: dict[ShardId, asyncio.Task[None]] = {}
        self._unsent = 0

    def add(self, shard_id: ShardId, entry: _Entry) -> None:
        """Adds a record; the next `send` sends it. Without room for it, it is lost."""
        if self._unsent >= _MAX_UNSENT:
            self._lost.inc()
            return
        self._unsent += 1
        self._pending.setdefault(shard_id, []).append(entry)

    def send(self) -> None:
        """Starts sending what was added."""
        for shard_id in self._pending:
            if shard_id not in self._senders:
                task = asyncio.create_task(self._send_all(shard_id), name="send-advice")
                self._senders[shard_id] = task

    async def finish(self, seconds: float) -> None:
        """Sends everything and waits up to `seconds` for Kafka."""
        self.send()
        if self._senders:
            await asyncio.wait(self._senders.values(), timeout=seconds)

    async def _send_all(self, shard_id: ShardId) -> None:
        try:
            while entries := self._pending.pop(shard_id, None):
                while entries:
                    entries = await self._send(shard_id, entries)
        finally:
            del self._senders[shard_id]

    async def _send(self, shard_id: ShardId, entries: list[_Entry]) -> list[_Entry]:
        """Sends as many as fit into one batch; returns the others."""
        batch, taken = self._producer.create_batch(), 0
        for key, value in entries:
            if batch.append(key=key, value=value, timestamp=None) is None and taken:
                break
            taken += 1
        try:
            await (await self._producer.send_batch(batch, self._topic, partition=shard_id))
        except OF_RECORD as error:
            await self._send_parts(shard_id, entries[:taken], error)
        except (KafkaError, TimeoutError) as error:
            self._lose(taken, error)
        finally:
            self._unsent -= taken
        return entries[taken:]

    async def _send_parts(self, shard_id: ShardId, entries: Sequence[_Entry], error: KafkaError) -> None:
        """Sends a refused batch in parts, so that only records that the topic never accepts are lost."""
        records = [Outgoing(self._topic, shard_id, key, value) for key, value in entries]
        left = len(records)
        try:
            async for _, refusal in send_in_parts(self._producer, records, error):
                left -= 1
                self._lose(1, refusal)
        except (KafkaError, TimeoutError) as failure:
            self._lose(left, failure)  # those, or some of them

    def _lose(self, records: int, error: Exception) -> None:
        self._lost.inc(records)
        _log.warning("advice.not_logged", topic=self._topic, records=records, error=repr(error))


class Advisor:
    """Makes replies; with a log, each answer to a request that names its task is noted."""

    def __init__(self, advise: Advise, log: AdviceLog | None, clock: Clock) -> None:
        self._advise = advise
        self._log = log
        self._clock = clock

    def answer(self, admitted: AdmittedRequest, agent: Agent, shard: AnsweringShard) -> Reply:
        """The reply to a request, from its shard's agent."""
        request = admitted.request
        reply = self._advise.answer(request, agent, stale=not is_current(shard, admitted))
        if self._log is not None and request.task_id is not None:
            record = self._advise.record(
                request, agent, reply, now=self._clock.now(), has_sums=shard.has_sums
            )
            self._log.add(admitted.shard_id, (request.agent_id.encode(), encode_advice(record)))
        return reply

    def send(self) -> None:
        """Starts sending what was noted."""
        if self._log is not None:
            self._log.send()

    async def finish(self, seconds: float) -> None:
        """Sends what was noted and waits up to `seconds` for Kafka."""
        if self._log is not None:
            await self._log.finish(seconds)
