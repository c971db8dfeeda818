"""Admission: decides by a request's headers, body and shard whether to queue, refuse, move or drop it."""

from learner_worker.contract.decode import Request, decode_request
from learner_worker.contract.fields import ShardId
from learner_worker.contract.headers import (
    DEADLINE_HEADER,
    MAX_KEY_BYTES,
    ReplyAddress,
    header,
    reply_address,
)
from learner_worker.contract.suggestions import INTERNAL, INVALID_REQUEST
from learner_worker.contract.times import LAST_MICROS, Micros, parse_time, record_micros
from learner_worker.errors import RefusedReplyError, RequestError
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.records import Record, hop_of, place_of
from learner_worker.observability import Tracer
from learner_worker.requests.clock import Clock
from learner_worker.requests.identity import CHECKED_AT_ONCE, IdentityCheck
from learner_worker.requests.in_flight import InFlightOffsets
from learner_worker.requests.queue import RequestQueue
from learner_worker.requests.replies import Replies
from learner_worker.requests.request import AdmittedRequest, ReceivedRequest
from learner_worker.requests.settings import RequestSettings
from learner_worker.requests.shards import OwnedShards
from learner_worker.stages.advise import Advise

_MICROS = 1_000_000  # microseconds in a second
_ADMITTED_AT_ONCE = 1_000
"""Requests between two yields to the event loop: as many as a poll returns, some milliseconds."""


class Admission:
    """Queues a request, answers it with an error, moves it to its shard, or drops it."""

    def __init__(
        self,
        *,
        settings: RequestSettings,
        shards: OwnedShards,
        queue: RequestQueue,
        replies: Replies,
        clock: Clock,
        advise: Advise,
        identity: IdentityCheck | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._advise = advise
        self._identity = identity
        self._tracer = tracer
        self._topics = settings.topics
        self._reply_topics = settings.reply_topics
        self._ttl_micros = round(settings.ttl_seconds * _MICROS)
        self._partition_of = partitioner(settings.shards)
        self._shards = shards
        self._queue = queue
        self._replies = replies
        self._clock = clock

    @property
    def chunk(self) -> int:
        """The number of requests to admit between two yields to the event loop."""
        return _ADMITTED_AT_ONCE if self._identity is None else CHECKED_AT_ONCE

    def admit(self, record: Record, offsets: InFlightOffsets) -> None:
        """Admits a request that was just read; finishes its offset if nothing is left to do."""
        try:
            address = self._allowed_address(record)
        except RefusedReplyError as error:
            self._replies.refuse(record, error)
            offsets.finish(record.offset)
            return
        tracer = self._tracer
        trace = None if tracer is None else tracer.request(place_of(record), record.headers)
        received = ReceivedRequest(record, offsets, address, trace)
        self._replies.guard(received, self._admit, received)

    def drop_unread(self, count: int) -> None:
        """Counts requests that had expired before they could be read."""
        self._replies.count_expired(count)

    def _admit(self, received: ReceivedRequest) -> None:
        record = received.record
        request = decode_request(record.value)
        deadline = deadline_of(record, request, self._ttl_micros)
        shard_id = ShardId(self._partition_of(request.agent_id))
        if self._clock.now() > deadline:
            self._replies.drop_expired(received)
            return
        if self._identity is not None:  # where it is moved to, it is checked again
            self._identity.check(record.headers, request.agent_id)
        if shard_id != record.partition:
            self._move(received, shard_id, deadline)
        elif self._shards.is_assigned(shard_id):
            needed = self._advise.sums_needed(request)
            self._queue.put(AdmittedRequest(received, request, deadline, needed))
        # Otherwise the shard was lost meanwhile: its new owner reads the request again.

    def _move(self, received: ReceivedRequest, shard_id: ShardId, deadline: Micros) -> None:
        if hop_of(received.record) is not None:
            raise RequestError(
                INTERNAL, f"the request was moved once and is still not on partition {shard_id}"
            )
        self._replies.move(received, shard_id, deadline)

    def _allowed_address(self, record: Record) -> ReplyAddress:
        """The address that the request's headers name for its reply.

        Raises:
            RefusedReplyError: no reply may be written there, or the key is too large to return.
        """
        address = reply_address(record.headers, self._topics.replies)
        if not self._reply_topics.allows(address.topic):
            raise RefusedReplyError(
                "reply-topic",
                f"reply topic {address.topic!r} is not on the allow-list; "
                "operators add it with --reply-topics or LEARNER_REPLY_TOPICS",
            )
        if record.key is not None and len(record.key) > MAX_KEY_BYTES:
            raise RefusedReplyError(
                "key", f"the key has {len(record.key)} bytes; replies carry at most {MAX_KEY_BYTES}"
            )
        return address


def deadline_of(record: Record, request: Request, ttl_micros: int) -> Micros:
    """The time until which a request is answered: its own deadline, at most its time to live.

    The body's deadline takes precedence over the header's. The learner writes the header of a moved
    request, so that its time to live counts from its first record.

    Raises:
        RequestError: the header's deadline applies and is not a valid time.
    """
    # Within the contract's range of times, because a moved request carries it as text.
    latest = Micros(min(record_micros(record.timestamp) + ttl_micros, LAST_MICROS))
    if request.deadline is not None:
        latest = min(latest, request.deadline)
        if hop_of(record) is None:
            return latest
    text = header(record.headers, DEADLINE_HEADER)
    if text is None:
        return latest
    try:
        return min(latest, parse_time(text.decode()))
    except ValueError as error:
        raise RequestError(INVALID_REQUEST, f"header deadline: {error}") from error
