"""Feeds settle: decodes events, checks their partition, settles them and sends their facts."""

import asyncio
import operator
from collections import Counter
from collections.abc import Mapping, MutableMapping, Sequence
from typing import NamedTuple

import structlog
from aiokafka.errors import KafkaError

from learner_worker.contract.decode import Closed, DecodedEvent, Finished, Placed, decode_event
from learner_worker.contract.facts import Fact, encode_fact
from learner_worker.contract.fields import ShardId, TaskId
from learner_worker.contract.headers import Headers
from learner_worker.contract.times import record_micros
from learner_worker.contract.topics import HOP_HEADER, EventKind, TopicName
from learner_worker.domain.auctions import AuctionState
from learner_worker.domain.retention import Retention
from learner_worker.errors import RecordError
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.records import (
    EVENT_KINDS,
    Outgoing,
    Record,
    Unreadable,
    chunked,
    dead_letter,
    hop_of,
    moved,
    place_of,
)
from learner_worker.kafka.splitting import TOO_LARGE
from learner_worker.shard.context import ShardContext
from learner_worker.shard.record_times import RecordTimes
from learner_worker.shard.watermark import WatermarkTracker
from learner_worker.stages.settle import Place, Settle

_REMEMBERED = 1_000
"""Auctions restored between two yields to the event loop: more would block it for too long."""
_timestamp = operator.attrgetter("timestamp")
_log = structlog.get_logger("learner_worker.shard")


class FactSender:
    """Sends facts to their agents' partitions of the changelog, without what has expired."""

    def __init__(self, context: ShardContext, retention: Retention) -> None:
        self._append = context.sink.append
        self._partition_of = context.partition_of
        self._topic = context.topics.outcomes
        self._counter = context.instruments.facts
        self._retention = retention
        self._sent = 0

    def send(self, facts: Sequence[Fact], headers: Headers = ()) -> None:
        """Adds facts to the record sink; headers say what traces them."""
        append, partition_of, topic = self._append, self._partition_of, self._topic
        left = self._retention.filter_outgoing(facts)
        for fact in left:
            key, value = encode_fact(fact)
            append(topic, partition_of(fact.agent_id), key, value, headers)
        self._sent += len(left)

    def count_sent(self) -> None:
        """Counts the facts sent since the last call: once a chunk, because a metric's update costs time."""
        self._counter.inc(self._sent)
        self._sent = 0


class EventsSnapshot(NamedTuple):
    """Settle's part of a checkpoint.

    Attributes:
        auctions: the tasks that changed; None for a forgotten one.
        rewind_offsets: by source, the offset from which a replica without the file has to read.
    """

    auctions: Mapping[TaskId, AuctionState | None]
    rewind_offsets: Mapping[TopicName, int]


class EventIntake:
    """Feeds settle with a shard's events and advances their positions with it.

    Args:
        positions: the shard's positions; a snapshot copies them with settle's changes.
        facts: sends facts.
        watermark: tells which tasks may expire.
        retention: its cutoff advances with the events' record times.

    Attributes:
        settle: the state of the shard's auctions.
    """

    def __init__(
        self,
        shard_id: ShardId,
        context: ShardContext,
        *,
        positions: MutableMapping[TopicName, int],
        facts: FactSender,
        watermark: WatermarkTracker,
        retention: Retention,
    ) -> None:
        self._shard_id = shard_id
        self._context = context
        self._partition_of = context.partition_of
        self._positions = positions
        self._facts = facts
        self.watermark = watermark
        self._retention = retention
        settings = context.settings
        self._tracer = settings.tracer
        self._now = settings.retention.now()
        self._horizon = settings.horizon_micros
        self._times_off = RecordTimes(context.instruments)
        self.settle = Settle(
            tolerance_micros=settings.tolerance_micros, horizon_micros=settings.horizon_micros
        )

    async def restore(self, auctions: Mapping[TaskId, AuctionState]) -> None:
        """Restores settle's auctions from the file, in chunks."""
        for chunk in chunked(list(auctions.items()), _REMEMBERED):
            self.settle.restore(dict(chunk))
            await asyncio.sleep(0)
        self.settle.finish_restore()

    async def take(self, topic: TopicName, records: Sequence[Record]) -> None:
        """Settles events in chunks; each chunk advances the position with it."""
        self._retention.advance(record_micros(max(map(_timestamp, records))))
        kind = self._context.topics.event_kind(topic)
        self._now = self._context.settings.retention.now()
        pacing = self._context.pacing
        size = pacing.chunk
        for chunk in chunked(records, size):
            results: Counter[str] = Counter()
            for record in chunk:
                results[self._settle_record(record, kind)] += 1
            self._positions[topic] = chunk[-1].offset + 1
            for result, count in results.items():
                self._context.instruments.events.labels(topic, result).inc(count)
            self._facts.count_sent()
            self._expire_tasks()  # with every chunk, so that tasks leave as fast as they come
            await pacing.after_chunk(full=len(chunk) == size)
        self.watermark.note_read(topic, records, self._now)

    def step_over(self, topic: TopicName, offsets: OffsetRange) -> None:
        """Sends one dead letter for records that the Kafka client cannot decode, and skips them."""
        error = RecordError(
            "unreadable",
            f"a header's name is not UTF-8: offsets {offsets.start} to {offsets.end - 1} of a batch are "
            "skipped; publish the records after the first again",
        )
        send_dead_letter(self._context, Unreadable(topic, self._shard_id, offsets.start), error)
        self._positions[topic] = max(self._positions[topic], offsets.end)

    def snapshot(self) -> EventsSnapshot:
        """Captures what changed since the last snapshot."""
        self._expire_tasks()
        self._facts.count_sent()
        self._context.instruments.dead_letter_log.tell_left_out()
        settle, positions = self.settle, self._positions
        rewind_offsets = {
            topic: settle.rewind_offset(topic, positions[topic]) for topic in self._context.sources
        }
        self._count_auctions()
        return EventsSnapshot(settle.snapshot(), rewind_offsets)

    def close(self) -> None:
        """Removes the shard's gauges, because it is closed."""
        for state in ("open", "closed"):
            self._context.instruments.auctions.remove(self._shard_id, state)

    def _settle_record(self, record: Record, kind: EventKind | None) -> str:
        """Settles or reroutes an event; returns the result under which it is counted."""
        try:
            hop = hop_of(record) if record.headers else None
            event_kind = kind or _moved_kind(hop)
            event = decode_event(event_kind, record.value)
            partition = self._partition_of(event.task_id)
            if partition == self._shard_id:
                self._settle(event, record)
                return "settled"
            _require_first_move(hop, partition)
        except RecordError as error:
            send_dead_letter(self._context, record, error)
            return "dead-letter"
        self._reroute(record, partition, event_kind)
        return "rerouted"

    def _settle(self, event: DecodedEvent, record: Record) -> None:
        trace = None
        if self._tracer is not None:
            trace = self._tracer.event(place_of(record), record.headers, event.task_id)
        place = Place(record.topic, record.offset, record_micros(record.timestamp), self._now)
        match event:  # its own time, too: `own_time` would match every event once more
            case Placed():
                own, facts = event.placed_at, self.settle.bid(event, place)
            case Closed():
                own, facts = event.closed_at, self.settle.close(event, place)
            case Finished():
                own, facts = event.finished_at, self.settle.result(event, place)
        if own is not None and abs(own - place.micros) > self._horizon:
            self._times_off.note_off(record, own)
        if facts:  # most bids have none until a close admits them
            self._facts.send(facts, () if trace is None else trace.headers())
        if trace is not None:
            trace.finish(len(facts))

    def _reroute(self, record: Record, partition: int, kind: EventKind) -> None:
        context = self._context

        def instead(refusal: KafkaError) -> Outgoing:
            if isinstance(refusal, TOO_LARGE):
                error = RecordError("too-large", "the event is too large to be moved to its partition")
            else:
                why = type(refusal).__name__
                error = RecordError("refused", f"Kafka refuses to move the event to its partition ({why})")
            _note_dead_letter(context, record, error)
            return dead_letter(record, context.topics.dead_letters, error)

        context.sink.single(moved(record, context.topics.rerouted, partition, kind), instead)

    def _expire_tasks(self) -> None:
        watermark = self.watermark.watermark()
        if watermark is None:
            return
        expired = self.settle.expire_tasks(watermark)
        if not expired.tasks:
            return
        count = self._context.instruments.auctions_forgotten
        count.labels("yes").inc(expired.tasks - expired.never_closed)
        count.labels("no").inc(expired.never_closed)
        if expired.never_closed:
            _log.info(
                "auctions.forgotten",
                shard=self._shard_id,
                auctions=expired.never_closed,
                reason="no close within the auction horizon",
            )

    def _count_auctions(self) -> None:
        gauge, settle = self._context.instruments.auctions, self.settle
        gauge.labels(self._shard_id, "open").set(settle.open)
        gauge.labels(self._shard_id, "closed").set(settle.remembered - settle.open)


def send_dead_letter(context: ShardContext, record: Record, error: RecordError) -> None:
    """Sends a record that breaks the contract to the dead letters, truncated if Kafka rejects its size."""
    topic = context.topics.dead_letters
    _note_dead_letter(context, record, error)
    context.sink.single(
        dead_letter(record, topic, error), lambda _: dead_letter(record, topic, error, truncate=True)
    )


def _note_dead_letter(context: ShardContext, record: Record, error: RecordError) -> None:
    """Counts a dead letter, and names it in the log."""
    context.instruments.dead_letters.labels(error.reason).inc()
    context.instruments.dead_letter_log.warning(
        error.reason,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        error=str(error),
    )


def _require_first_move(hop: bytes | None, partition: int) -> None:
    if hop is not None:
        raise RecordError(
            "wrong-partition", f"the event was moved once and is still not on partition {partition}"
        )


def _moved_kind(hop: bytes | None) -> EventKind:
    kind = None if hop is None else EVENT_KINDS.get(hop)
    if kind is None:
        raise RecordError("invalid", f"a moved event must name its kind in the header {HOP_HEADER}")
    return kind
