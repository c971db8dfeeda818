"""Answering requests: where the reply may go, until when, from which shard; then `advise` does the rest."""

import asyncio
import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec
import structlog

from learner_worker.contract.codec import encode_message, readable_ids
from learner_worker.contract.decode import ReadRequest, read_request
from learner_worker.contract.encode import encode_reply
from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.contract.headers import MAX_KEY_BYTES, ReplyAddress, header, reply_address, reply_headers
from learner_worker.contract.suggestions import (
    INTERNAL,
    INVALID_REQUEST,
    OVERLOADED,
    RESTORING,
    ReplyError,
    SuggestBidError,
)
from learner_worker.contract.times import LAST_MICROS, Micros, format_time, parse_time, record_micros
from learner_worker.contract.topics import HOP_HEADER, ReplyTopics, TopicNames
from learner_worker.domain.agents import Agent
from learner_worker.errors import ClosedFileError, RefusedReplyError, RequestError, StateError
from learner_worker.kafka.records import Headers, Outgoing, Record, hop_of
from learner_worker.observability import Instruments
from learner_worker.requests.consumer import InFlightOffsets
from learner_worker.requests.fair_queue import FairQueue
from learner_worker.requests.replies import Replies
from learner_worker.shard.pacing import Pacing
from learner_worker.shard.shard import Shard
from learner_worker.stages.advise import Advise

WhileRestoring = Literal["wait", "refuse", "stale"]
_DEADLINE_HEADER = "deadline"
_RESTORING_RETRY_MS = 1_000
_LAST_MOMENT_MICROS = 250_000
"""So long before its deadline a waiting request is refused, while its agent still listens."""
_MAX_WAITING = 10_000
_MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Requests waiting for a restore, in all; what is above is refused."""
_MAX_QUEUED = 2_000
"""Requests read and not yet answered, in all: some 100 ms of work. What is above is refused."""
_SERVED = 100
"""Requests answered between two yields to the event loop: a few milliseconds."""
_SLICE_SECONDS = 0.02
_SHORTEST_RETRY_MS = 100
_log = structlog.get_logger("learner_worker.answering")


class _Ask(msgspec.Struct, frozen=True):
    """A request as it lies in Kafka, and where its reply goes."""

    record: Record
    offsets: InFlightOffsets
    address: ReplyAddress

    @property
    def shard(self) -> ShardId:
        """The shard it was put to."""
        return ShardId(self.record.partition)

    @property
    def held(self) -> bool:
        """Whether it is to be answered here; if not, it is read again, here or elsewhere."""
        return self.offsets.held

    def done(self) -> None:
        """Nothing more is to be done for it."""
        self.offsets.done(self.record.offset)


class _Asked(msgspec.Struct, frozen=True):
    """A request that was understood."""

    ask: _Ask
    request: ReadRequest
    deadline: Micros


class Answering:
    """Answers the requests of this replica's shards.

    A request is read, then queued, then served: reading is cheap, so what cannot be served in time is known
    and refused at once, and agents are served in turn however much one of them asks.
    """

    def __init__(
        self,
        *,
        replies: Replies,
        topics: TopicNames,
        reply_topics: ReplyTopics,
        partition_of: Callable[[str], int],
        advise: Advise,
        instruments: Instruments,
        ttl_micros: int,
        while_restoring: WhileRestoring,
        on_failure: Callable[[StateError], None],
        pace: Pacing | None = None,
    ) -> None:
        self._replies = replies
        self._topics = topics
        self._reply_topics = reply_topics
        self._partition_of = partition_of
        self._advise = advise
        self._instruments = instruments
        self._requests_of = functools.cache(instruments.requests.labels)
        self._ttl_micros = ttl_micros
        self._while_restoring = while_restoring
        self._on_failure = on_failure
        self._pace = pace or Pacing()
        self._shards: Mapping[ShardId, Shard] = {}
        self._assigned: frozenset[ShardId] = frozenset()
        self._queue: FairQueue[_Asked] = FairQueue(_MAX_QUEUED)
        self._served_a_second = 0.0
        self._waiting: list[_Asked] = []
        self._waiting_bytes = 0
        self._looking_up: set[asyncio.Task[None]] = set()

    def own(self, shards: Mapping[ShardId, Shard], assigned: frozenset[ShardId]) -> None:
        """Says which shards are open, and which are this replica's at all.

        A request that waits for a shard of another replica is left to that one, which reads it again.
        """
        self._shards = dict(shards)
        self._assigned = assigned
        self._wait_only([item for item in self._waiting if item.ask.shard in assigned])

    def take(self, record: Record, offsets: InFlightOffsets) -> None:
        """Queues a request, refuses it, moves it to its shard, or lets it wait for a restore."""
        try:
            address = reply_address(record.headers, self._topics.replies)
            self._require_allowed(address)
            _require_short_key(record)
        except RefusedReplyError as error:
            self._refuse(record, error)
            offsets.done(record.offset)
            return
        ask = _Ask(record, offsets, address)
        self._guarded(ask, self._take, ask)

    async def serve(self) -> bool:
        """Answers what is queued, agents in turn, for some milliseconds; whether some is left.

        Not longer: only what has been read can be served in turn, or refused in time.
        """
        self._look_after_waiting()
        asked = len(self._queue) > 0
        if asked:
            self._pace.asked()
        until = time.perf_counter() + _SLICE_SECONDS
        while len(self._queue) and time.perf_counter() < until:
            await self._serve_some()
            self._replies.send()
            if self._replies.is_full:
                await self._replies.room()
            await asyncio.sleep(0)
        self._replies.send()
        if asked and not self._queue:
            await self._pace.linger()
        return len(self._queue) > 0

    @property
    def replies_stand_seconds(self) -> float:
        """For how long Kafka has taken no reply although some are under way."""
        return self._replies.standing_seconds

    async def sent(self, seconds: float) -> None:
        """Waits until Kafka has the replies that are under way, but not longer than that."""
        await self._replies.finish(seconds)

    async def finish(self, seconds: float) -> None:
        """Refuses what still waits, and waits until Kafka has every reply."""
        for item in self._waiting:
            if item.ask.held:
                self._reply_error(item.ask, _restoring())
        self._wait_only([])
        while await self.serve():
            pass
        if self._looking_up:
            await asyncio.wait(self._looking_up, timeout=seconds)
        await self._replies.finish(seconds)

    # --- reading -----------------------------------------------------------------------------------------

    def _take(self, ask: _Ask) -> None:
        request = read_request(ask.record.value)
        asked = _Asked(ask, request, self._deadline(ask.record, request))
        right = self._partition_of(request.agent_id)
        if _now() > asked.deadline:
            self._expire(ask)
        elif right != ask.record.partition:
            self._move(ask, right, asked.deadline)
        elif ask.shard in self._assigned:
            self._queue_or_wait(asked)
        # else the shard was lost meanwhile: its new owner reads the request again

    def _queue_or_wait(self, asked: _Asked) -> None:
        shard = self._shards.get(asked.ask.shard)
        if shard is not None and self._may_answer_from(shard):
            self._enqueue(asked)
        else:
            self._wait_or_refuse(asked)

    def _may_answer_from(self, shard: Shard) -> bool:
        return shard.restored or self._while_restoring == "stale"

    def _wait_or_refuse(self, asked: _Asked) -> None:
        room = len(self._waiting) < _MAX_WAITING and self._waiting_bytes < _MAX_WAITING_BYTES
        if self._while_restoring != "wait" or not room:
            raise _restoring()
        self._wait(asked)

    def _wait(self, asked: _Asked) -> None:
        self._waiting.append(asked)
        self._waiting_bytes += len(asked.ask.record.value or b"")

    def _wait_only(self, those: Sequence[_Asked]) -> None:
        self._waiting, self._waiting_bytes = [], 0
        for asked in those:
            self._wait(asked)

    def _enqueue(self, asked: _Asked) -> None:
        displaced = self._queue.put(asked.request.agent_id, asked)
        if displaced is not None and displaced.ask.held:
            self._reply_error(displaced.ask, self._overloaded())

    def _overloaded(self) -> RequestError:
        drained_ms = 1_000 * _MAX_QUEUED / self._served_a_second if self._served_a_second else 0.0
        return RequestError(
            OVERLOADED,
            "more requests than can be answered in time; ask again later, or bid your own",
            retry_after_ms=max(_SHORTEST_RETRY_MS, round(drained_ms)),
        )

    def _look_after_waiting(self) -> None:
        """Queues the waiting requests whose shard is restored, and refuses those about to expire."""
        waiting = [item for item in self._waiting if item.ask.held]
        self._wait_only([])
        for item in waiting:
            shard = self._shards.get(item.ask.shard)
            if shard is not None and self._may_answer_from(shard):
                self._enqueue(item)
            elif item.deadline - _now() < _LAST_MOMENT_MICROS:
                self._reply_error(item.ask, _restoring())
            else:
                self._wait(item)

    # --- serving -----------------------------------------------------------------------------------------

    async def _serve_some(self) -> None:
        started = time.perf_counter()
        served = [asked for asked in self._queue.take(_SERVED) if asked.ask.held]
        agents = await self._agents(served)
        for asked in served:
            self._guarded(asked.ask, self._answer, asked, agents)
        rate = len(served) / max(time.perf_counter() - started, 1e-6)
        self._served_a_second += (rate - self._served_a_second) / 10

    async def _agents(self, served: Sequence[_Asked]) -> dict[AgentId, Agent]:
        """The agents that are asked about, of each shard with one read for those not in the cache.

        None of a shard that could not be read: it was closed meanwhile, or its file is damaged.
        """
        wanted: dict[ShardId, set[AgentId]] = {}
        for asked in served:
            wanted.setdefault(asked.ask.shard, set()).add(asked.request.agent_id)
        agents: dict[AgentId, Agent] = {}
        for number, ids in wanted.items():
            shard = self._shards.get(number)
            try:
                agents.update({} if shard is None else await _agents_of(shard, ids))
            except ClosedFileError:
                pass
            except StateError as error:  # the worker ends; another one, or its next run, answers
                self._on_failure(error)
        return agents

    def _answer(self, asked: _Asked, agents: Mapping[AgentId, Agent]) -> None:
        ask, request = asked.ask, asked.request
        shard, agent = self._shards.get(ask.shard), agents.get(request.agent_id)
        if ask.shard not in self._assigned or not ask.held:
            return  # its new owner reads it again
        if _now() > asked.deadline:
            self._expire(ask)
        elif shard is None or agent is None:  # it comes back, here or elsewhere
            self._wait(asked)
        elif not self._may_answer_from(shard):  # it was opened anew meanwhile
            self._wait_or_refuse(asked)
        else:
            reply = self._advise.answer(request, agent, stale=not shard.restored)
            self._reply(ask, "OK", encode_reply(reply), reply_headers(ask.address, error=None))

    def _guarded(self, ask: _Ask, work: Callable[..., None], *arguments: Any) -> None:
        """One request must not stop the answers to all others: it gets its reply, operators the traceback."""
        try:
            work(*arguments)
        except RequestError as error:
            self._reply_error(ask, error)
        except Exception:  # noqa: BLE001
            _log.exception("request.failed", partition=ask.record.partition, offset=ask.record.offset)
            self._reply_error(
                ask, RequestError(INTERNAL, "the learner failed on this request; its log says why")
            )

    def _deadline(self, record: Record, request: ReadRequest) -> Micros:
        # Within the years of the contract: a request that is moved carries it.
        latest = Micros(min(record_micros(record.timestamp) + self._ttl_micros, LAST_MICROS))
        if request.deadline is not None:
            latest = min(latest, request.deadline)
            if hop_of(record) is None:
                return latest
        text = header(record.headers, _DEADLINE_HEADER)
        if text is None:
            return latest
        try:  # of a moved request: counted from where it lay first
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

    def _expire(self, ask: _Ask) -> None:
        self._count("EXPIRED")
        ask.done()

    def _move(self, ask: _Ask, right: int, deadline: Micros) -> None:
        if hop_of(ask.record) is not None:
            raise RequestError(INTERNAL, f"moved once, and still not on partition {right}")
        headers = [item for item in ask.record.headers if item[0] != _DEADLINE_HEADER]
        headers += [
            (HOP_HEADER, self._topics.requests.encode()),
            (_DEADLINE_HEADER, format_time(deadline).encode()),
        ]
        moved = Outgoing(self._topics.requests, right, ask.record.key, ask.record.value, headers)
        self._deliver(ask, moved, "REROUTED")

    # --- replying ----------------------------------------------------------------------------------------

    def _reply_error(self, ask: _Ask, error: RequestError) -> None:
        request_id, agent_id = readable_ids(ask.record.value)
        retry = {} if error.retry_after_ms is None else {"retry_after_ms": error.retry_after_ms}
        described = ReplyError(code=error.code, message=str(error), **retry)
        known = {"request_id": request_id, "agent_id": agent_id}
        body = SuggestBidError(
            **{name: value for name, value in known.items() if value is not None}, error=described
        )
        self._reply(ask, error.code, encode_message(body), reply_headers(ask.address, error=described))

    def _reply(self, ask: _Ask, code: str, value: bytes, headers: Headers) -> None:
        reply = Outgoing(ask.address.topic, ask.address.partition, ask.record.key, value, headers)
        self._deliver(ask, reply, code)

    def _deliver(self, ask: _Ask, record: Outgoing, code: str) -> None:
        if self._replies.knows(record.topic, record.partition):
            self._send(ask, record, code)
        else:
            task = asyncio.create_task(self._look_up_and_send(ask, record, code), name="look-up-reply-topic")
            self._looking_up.add(task)
            task.add_done_callback(self._looking_up.discard)

    async def _look_up_and_send(self, ask: _Ask, record: Outgoing, code: str) -> None:
        try:
            await self._replies.look_up(record.topic, record.partition)
        except RefusedReplyError as error:
            self._refuse(ask.record, error)
            ask.done()
            return
        if ask.held:
            self._send(ask, record, code)
            self._replies.send()

    def _send(self, ask: _Ask, record: Outgoing, code: str) -> None:
        self._count(code)

        def done() -> None:
            self._instruments.answer_seconds.observe(max(0.0, time.time() - ask.record.timestamp / 1000))
            ask.done()

        self._replies.add(record, done)

    def _count(self, code: str) -> None:
        self._requests_of(code).inc()


async def _agents_of(shard: Shard, ids: Collection[AgentId]) -> Mapping[AgentId, Agent]:
    """The agents of a shard.

    Raises:
        ClosedFileError: the shard was closed meanwhile.
        StateError: its file cannot be read.
    """
    cached = {agent_id: agent for agent_id in ids if (agent := shard.learn.cached(agent_id)) is not None}
    return cached if len(cached) == len(ids) else await shard.learn.agents(ids)


def _require_short_key(record: Record) -> None:
    if record.key is not None and len(record.key) > MAX_KEY_BYTES:
        raise RefusedReplyError(
            "key", f"the key has {len(record.key)} bytes; replies carry at most {MAX_KEY_BYTES}"
        )


def _restoring() -> RequestError:
    return RequestError(
        RESTORING, "the agent's shard is being restored; ask again", retry_after_ms=_RESTORING_RETRY_MS
    )


def _now() -> Micros:
    return Micros(time.time_ns() // 1000)
