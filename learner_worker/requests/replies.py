"""Makes the outcome of each request: an advice, an error, a move to its shard, or only a count."""

import asyncio
import functools
from collections.abc import Callable
from typing import TypeVar

import structlog

from learner_worker.contract.decode import readable_ids
from learner_worker.contract.encode import Reply, encode_message, encode_reply
from learner_worker.contract.fields import ShardId
from learner_worker.contract.headers import DEADLINE_HEADER, Headers, reply_headers
from learner_worker.contract.suggestions import INTERNAL, ReplyError, SuggestBidError
from learner_worker.contract.times import Micros, format_time
from learner_worker.contract.topics import HOP_HEADER, TopicName
from learner_worker.errors import RefusedReplyError, RequestError
from learner_worker.kafka.records import Outgoing, Record
from learner_worker.observability import RequestInstruments
from learner_worker.requests.reply_batches import ReplyBatches
from learner_worker.requests.reply_places import ReplyPlaces
from learner_worker.requests.request import ReceivedRequest

ItemT = TypeVar("ItemT")
_log = structlog.get_logger("learner_worker.requests")


class Replies:
    """Makes the record of each reply and adds it to its batch, which counts it when Kafka has it.

    Every request that is dropped or whose reply is with Kafka is finished: its offset may be committed.
    """

    def __init__(
        self,
        *,
        batches: ReplyBatches,
        places: ReplyPlaces,
        request_topic: TopicName,
        instruments: RequestInstruments,
    ) -> None:
        self._batches = batches
        self._places = places
        self._request_topic = request_topic
        self._requests_of = functools.cache(instruments.by_code.labels)
        self._looking_up: set[asyncio.Task[None]] = set()

    def send_advice(self, received: ReceivedRequest, reply: Reply) -> None:
        """Replies to a request with advice."""
        self._reply(received, "OK", encode_reply(reply), reply_headers(received.address, error=None))

    def send_error(self, received: ReceivedRequest, error: RequestError) -> None:
        """Replies to a request with an error, and with the request's ids if they can be decoded."""
        request_id, agent_id = readable_ids(received.record.value)
        retry = {} if error.retry_after_ms is None else {"retry_after_ms": error.retry_after_ms}
        described = ReplyError(code=error.code, message=str(error), **retry)
        known = {"request_id": request_id, "agent_id": agent_id}
        body = SuggestBidError(
            **{name: value for name, value in known.items() if value is not None}, error=described
        )
        headers = reply_headers(received.address, error=described)
        self._reply(received, error.code, encode_message(body), headers)

    def guard(self, received: ReceivedRequest, work: Callable[[ItemT], None], item: ItemT) -> None:
        """Calls `work` on a request's item; an error becomes its reply and does not affect other requests.

        A `RequestError` is sent to the agent; any other error is logged with its traceback.
        """
        try:
            work(item)
        except RequestError as error:
            self.send_error(received, error)
        except Exception:  # noqa: BLE001
            record = received.record
            _log.exception("request.failed", partition=record.partition, offset=record.offset)
            self.send_error(
                received, RequestError(INTERNAL, "the learner failed to process this request; see its log")
            )

    def move(self, received: ReceivedRequest, shard_id: ShardId, deadline: Micros) -> None:
        """Moves a request to its shard's partition, with the deadline of its first record."""
        record = received.record
        headers = [item for item in record.headers if item[0] != DEADLINE_HEADER]
        headers += [
            (HOP_HEADER, self._request_topic.encode()),
            (DEADLINE_HEADER, format_time(deadline).encode()),
        ]
        moved = Outgoing(self._request_topic, shard_id, record.key, record.value, headers)
        self._deliver(received, moved, "REROUTED")

    def drop_expired(self, received: ReceivedRequest) -> None:
        """Drops a request past its deadline: its agent has stopped waiting."""
        self.count_expired(1)
        received.finish("EXPIRED")

    def count_expired(self, count: int) -> None:
        """Counts requests that passed their deadline."""
        self._requests_of("EXPIRED").inc(count)

    def refuse(self, record: Record, error: RefusedReplyError) -> None:
        """Counts and logs a request whose reply must not or cannot be written to its address."""
        self._requests_of("REFUSED").inc()
        _log.warning(
            "request.refused",
            partition=record.partition,
            offset=record.offset,
            reason=error.reason,
            error=str(error),
        )

    async def finish(self, seconds: float) -> None:
        """Sends everything and waits until Kafka has it; each of two steps takes at most `seconds`."""
        if self._looking_up:
            await asyncio.wait(self._looking_up, timeout=seconds)
        await self._batches.finish(seconds)

    def _reply(self, received: ReceivedRequest, code: str, value: bytes, headers: Headers) -> None:
        address = received.address
        if received.trace is not None:
            headers = [*headers, *received.trace.begin_reply()]
        reply = Outgoing(address.topic, address.partition, received.record.key, value, headers)
        self._deliver(received, reply, code)

    def _deliver(self, received: ReceivedRequest, record: Outgoing, code: str) -> None:
        if self._places.knows(record.topic, record.partition):
            self._add(received, record, code)
        else:
            task = asyncio.create_task(
                self._look_up_and_send(received, record, code), name="look-up-reply-topic"
            )
            self._looking_up.add(task)
            task.add_done_callback(self._looking_up.discard)

    async def _look_up_and_send(self, received: ReceivedRequest, record: Outgoing, code: str) -> None:
        try:
            await self._places.look_up(record.topic, record.partition)
        except RefusedReplyError as error:
            self.refuse(received.record, error)
            received.finish("REFUSED")
            return
        if received.owned:
            self._add(received, record, code)
            self._batches.send()

    def _add(self, received: ReceivedRequest, record: Outgoing, code: str) -> None:
        self._batches.add(received, record, code)
