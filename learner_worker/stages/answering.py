"""Answering requests: where the reply may go, until when, from which shard; then `advise` does the rest."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Literal

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from learner_worker.contract.codec import decode_request, encode_message, readable_ids
from learner_worker.contract.dialects import ReplyAddress, header, reply_address, reply_headers
from learner_worker.contract.fields import Shard
from learner_worker.contract.suggestions import (
    INTERNAL,
    INVALID_REQUEST,
    RESTORING,
    ReplyError,
    SuggestBidError,
    SuggestBidRequest,
)
from learner_worker.contract.times import Micros, format_time, parse_time, record_micros
from learner_worker.contract.topics import HOP_HEADER, ReplyTopics, TopicNames
from learner_worker.errors import RefusedReplyError, RequestError
from learner_worker.observability import Instruments
from learner_worker.stages.advise import Advise
from learner_worker.stages.shard import ShardState
from learner_worker.stream.lane import Offsets
from learner_worker.stream.records import Headers, Outgoing, Record, hop_of
from learner_worker.stream.writer import send_single

WhileRestoring = Literal["wait", "refuse", "stale"]
_DEADLINE_HEADER = "deadline"
_METADATA_SECONDS = 5.0
_LISTED_SECONDS = 5.0
_RETRY_AFTER_MS = 1_000
_MAX_SENDING = 5_000
_LAST_MOMENT_MICROS = 250_000
"""So long before its deadline a waiting request is refused, while its agent still listens."""
_MAX_WAITING = 10_000
_log = structlog.get_logger("learner_worker.answering")


@dataclass(frozen=True, slots=True)
class _Ask:
    """A request as it lies in Kafka, and where its reply goes."""

    record: Record
    offsets: Offsets
    address: ReplyAddress

    @property
    def shard(self) -> Shard:
        """The shard it was put to."""
        return Shard(self.record.partition)

    def done(self) -> None:
        """Nothing more is to be done for it."""
        self.offsets.done(self.record.offset)


@dataclass(frozen=True, slots=True)
class _Waiting:
    ask: _Ask
    request: SuggestBidRequest
    deadline: Micros


class Answering:
    """Answers the requests of this replica's shards."""

    def __init__(
        self,
        *,
        producer: AIOKafkaProducer,
        list_topics: Callable[[], Awaitable[set[str]]],
        topics: TopicNames,
        reply_topics: ReplyTopics,
        partition_of: Callable[[str], int],
        advise: Advise,
        instruments: Instruments,
        ttl_micros: int,
        while_restoring: WhileRestoring,
    ) -> None:
        self._producer = producer
        self._list_topics = list_topics
        self._listing = asyncio.Lock()
        self._topic_names: set[str] = set()
        self._listed_at = -_LISTED_SECONDS
        self._topics = topics
        self._reply_topics = reply_topics
        self._partition_of = partition_of
        self._advise = advise
        self._instruments = instruments
        self._ttl_micros = ttl_micros
        self._while_restoring = while_restoring
        self._shards: Mapping[Shard, ShardState] = {}
        self._assigned: frozenset[Shard] = frozenset()
        self._waiting: list[_Waiting] = []
        self._partitions: dict[str, set[int]] = {}
        self._sending: set[asyncio.Task[None]] = set()

    def own(self, shards: Mapping[Shard, ShardState], assigned: frozenset[Shard]) -> None:
        """Says which shards are open, and which are this replica's at all.

        A request that waits for a shard of another replica is left to that one, which reads it again.
        """
        self._shards = dict(shards)
        self._assigned = assigned
        self._waiting = [item for item in self._waiting if item.ask.shard in assigned]

    async def take(self, record: Record, offsets: Offsets) -> None:
        """Answers a request, refuses it, moves it to its shard, or lets it wait for a restore."""
        try:
            address = reply_address(record.headers, self._topics.replies)
            self._require_allowed(address)
        except RefusedReplyError as error:
            self._refuse(record, error)
            offsets.done(record.offset)
            return
        if len(self._sending) > _MAX_SENDING:
            await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
        ask = _Ask(record, offsets, address)
        await self._guarded(ask, self._take(ask))

    async def tick(self) -> None:
        """Answers the waiting requests whose shard is restored, and refuses those about to expire."""
        waiting, self._waiting = self._waiting, []
        for item in waiting:
            shard = self._shards.get(item.ask.shard)
            if shard is not None and shard.restored:
                await self._guarded(item.ask, self._answer(item.ask, item.request, shard))
            elif item.deadline - _now() < _LAST_MOMENT_MICROS:
                self._reply_error(item.ask, _restoring())
            else:
                self._waiting.append(item)

    async def _guarded(self, ask: _Ask, answering: Coroutine[None, None, None]) -> None:
        """One request must not stop the answers to all others: it gets its reply, operators the traceback."""
        try:
            await answering
        except RequestError as error:
            self._reply_error(ask, error)
        except Exception:  # noqa: BLE001
            _log.exception("request.failed", partition=ask.record.partition, offset=ask.record.offset)
            self._reply_error(
                ask, RequestError(INTERNAL, "the learner failed on this request; its log says why")
            )

    async def finish(self, seconds: float) -> None:
        """Refuses what still waits, and waits until Kafka has every reply."""
        for item in self._waiting:
            self._reply_error(item.ask, _restoring())
        if self._sending:
            await asyncio.wait(self._sending, timeout=seconds)

    async def _take(self, ask: _Ask) -> None:
        request = decode_request(ask.record.value)
        deadline = self._deadline(ask.record, request)
        right = self._partition_of(request.agent_id)
        if _now() > deadline:
            self._count("EXPIRED")
            ask.done()
        elif right != ask.record.partition:
            self._move(ask, right, deadline)
        elif ask.shard in self._assigned:
            await self._answer_or_wait(_Waiting(ask, request, deadline), self._shards.get(ask.shard))
        # else the shard was lost meanwhile: its new owner reads the request again

    async def _answer_or_wait(self, item: _Waiting, shard: ShardState | None) -> None:
        if shard is not None and (shard.restored or self._while_restoring == "stale"):
            await self._answer(item.ask, item.request, shard)
        elif self._while_restoring == "wait" and len(self._waiting) < _MAX_WAITING:
            self._waiting.append(item)
        else:
            raise _restoring()

    async def _answer(self, ask: _Ask, request: SuggestBidRequest, shard: ShardState) -> None:
        agent_id = request.agent_id
        agent = shard.learn.cached(agent_id) or (await shard.learn.agents([agent_id]))[agent_id]
        reply = self._advise.answer(request, agent, stale=not shard.restored)
        self._start(self._reply(ask, "OK", encode_message(reply), reply_headers(ask.address, error=None)))

    def _deadline(self, record: Record, request: SuggestBidRequest) -> Micros:
        latest = Micros(record_micros(record.timestamp) + self._ttl_micros)
        if request.deadline is not None:
            return min(latest, request.deadline)
        text = header(record.headers, _DEADLINE_HEADER)
        if text is None:
            return latest
        try:
            return min(latest, parse_time(text.decode()))
        except ValueError as error:
            raise RequestError(INVALID_REQUEST, f"header deadline: {error}") from error

    def _require_allowed(self, address: ReplyAddress) -> None:
        if not self._reply_topics.allows(address.topic):
            raise RefusedReplyError(
                "reply-topic",
                f"reply topic {address.topic!r} is not on the allow-list; "
                "operators add it with --reply-topics or LEARNER_REPLY_TOPICS",
            )

    def _refuse(self, record: Record, error: RefusedReplyError) -> None:
        self._count("REFUSED")
        _log.warning(
            "request.refused",
            partition=record.partition,
            offset=record.offset,
            reason=error.reason,
            error=str(error),
        )

    def _move(self, ask: _Ask, right: int, deadline: Micros) -> None:
        if hop_of(ask.record) is not None:
            raise RequestError(INTERNAL, f"moved once, and still not on partition {right}")
        self._count("REROUTED")
        headers = [item for item in ask.record.headers if item[0] != _DEADLINE_HEADER]
        headers += [
            (HOP_HEADER, self._topics.requests.encode()),
            (_DEADLINE_HEADER, format_time(deadline).encode()),
        ]
        moved = Outgoing(self._topics.requests, right, ask.record.key, ask.record.value, headers)
        self._start(self._deliver(ask, moved))

    def _reply_error(self, ask: _Ask, error: RequestError) -> None:
        request_id, agent_id = readable_ids(ask.record.value)
        retry = {} if error.retry_after_ms is None else {"retry_after_ms": error.retry_after_ms}
        described = ReplyError(code=error.code, message=str(error), **retry)
        known = {"request_id": request_id, "agent_id": agent_id}
        body = SuggestBidError(
            **{name: value for name, value in known.items() if value is not None}, error=described
        )
        headers = reply_headers(ask.address, error=described)
        self._start(self._reply(ask, error.code, encode_message(body), headers))

    def _start(self, sending: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(sending, name="send-reply")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _reply(self, ask: _Ask, code: str, value: bytes, headers: Headers) -> None:
        address, record = ask.address, ask.record
        try:
            await self._require_partition(address)
        except RefusedReplyError as error:
            self._refuse(record, error)
            ask.done()
            return
        self._count(code)
        await self._deliver(ask, Outgoing(address.topic, address.partition, record.key, value, headers))
        self._instruments.answer_seconds.observe(max(0.0, time.time() - record.timestamp / 1000))

    async def _require_partition(self, address: ReplyAddress) -> None:
        partitions = self._partitions.get(address.topic)
        if partitions is None or (address.partition is not None and address.partition not in partitions):
            partitions = await self._look_up(address.topic)
        if address.partition is not None and address.partition not in partitions:
            raise RefusedReplyError(
                "reply-partition", f"{address.topic} has no partition {address.partition}"
            )

    async def _look_up(self, topic: str) -> set[int]:
        """A topic's partitions. One that is not there is never named to Kafka, which might create it."""
        try:
            async with asyncio.timeout(_METADATA_SECONDS):
                partitions = (
                    set(await self._producer.partitions_for(topic)) if await self._exists(topic) else set()
                )
        except (KafkaError, TimeoutError) as error:
            raise RefusedReplyError(
                "reply-topic", f"reply topic {topic!r} cannot be read: {error!r}"
            ) from error
        if not partitions:
            raise RefusedReplyError("reply-topic", f"reply topic {topic!r} does not exist")
        self._partitions[topic] = partitions
        return partitions

    async def _exists(self, topic: str) -> bool:
        async with self._listing:
            if topic not in self._topic_names and time.monotonic() - self._listed_at > _LISTED_SECONDS:
                self._topic_names = await self._list_topics()
                self._listed_at = time.monotonic()
            return topic in self._topic_names

    async def _deliver(self, ask: _Ask, record: Outgoing) -> None:
        try:
            await send_single(self._producer, record)
        except (KafkaError, TimeoutError) as error:
            # Nobody waits for it any more by the time this gives up; the lane goes on.
            _log.warning("reply.not_sent", topic=record.topic, error=repr(error))
        finally:
            ask.done()

    def _count(self, code: str) -> None:
        self._instruments.requests.labels(code).inc()


def _restoring() -> RequestError:
    return RequestError(
        RESTORING, "the agent's shard is being restored; ask again", retry_after_ms=_RETRY_AFTER_MS
    )


def _now() -> Micros:
    return Micros(time.time_ns() // 1000)
