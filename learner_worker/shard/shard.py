"""A shard: one partition number's stages, positions and file, moved as one."""

import asyncio
import itertools
import operator
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from learner_worker.contract.decode import (
    Closed,
    DecodedEvent,
    Finished,
    MetricsContent,
    Placed,
    decode_event,
    decode_metrics,
    readable_id,
)
from learner_worker.contract.encode import encode_metrics
from learner_worker.contract.facts import Fact, ForgetMarker, encode_fact, encode_marker
from learner_worker.contract.fields import AgentId, ShardId, TaskId
from learner_worker.contract.times import Micros, record_micros
from learner_worker.contract.topics import HOP_HEADER, EventKind, TopicName, TopicNames
from learner_worker.domain.agents import Agent
from learner_worker.domain.auctions import AuctionState
from learner_worker.domain.outcomes import OutcomeKey, facts_of, living
from learner_worker.domain.retention import Policy, Retention, noted, read_note
from learner_worker.errors import RecordError
from learner_worker.group.offsets import BrokerOffsets
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.batching import Fallback
from learner_worker.kafka.records import (
    EVENT_KINDS,
    Headers,
    Outgoing,
    Record,
    Unreadable,
    chunked,
    dead_letter,
    hop_of,
    moved,
)
from learner_worker.observability import Instruments
from learner_worker.shard.changelog import BEYOND_ANY_END, ChangelogApplier
from learner_worker.shard.pacing import CHUNK, Pacing
from learner_worker.shard.resume import REWIND, lost_unread, resume_positions
from learner_worker.stages.learn import Learn
from learner_worker.stages.settle import Place, Settle, watermark_of
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.statements import Checkpoint

_LEARNED = 4_000
"""Facts joined before a sweep may have its turn."""
_REMEMBERED = 1_000
"""Auctions handed to settle between two yields."""
_PUBLISHED_AT_ONCE = 5_000
_PUBLISH_CHUNK = 50
_PUBLISHED_EVERY = 5
"""Checkpoints between two metrics records of an agent while there is a backlog: soon there is another."""
OWNER_HEADER = "learner-owner"
_SWEPT = 4_000
"""Rows swept with one checkpoint, at most; a chunk of them between two yields."""
_timestamp = operator.attrgetter("timestamp")
_FOR_EVER = Policy(None, 1, 0, lambda: Micros(0))
_openings = itertools.count()
_log = structlog.get_logger("learner_worker.shard")


class RecordSink(Protocol):
    """Where a shard's records go; acknowledged before the next checkpoint is written."""

    def append(
        self, topic: str, partition: int, key: bytes, value: bytes | None, headers: Headers = ()
    ) -> None:
        """Adds a record to its partition's batch; a tombstone without a value."""
        ...

    def single(self, record: Outgoing, fallback: Fallback | None = None) -> None:
        """Adds one record of any shape."""
        ...

    async def send(self) -> None:
        """Sends what was added."""
        ...

    async def flush(self) -> None:
        """Sends what was added and waits until Kafka has all of it."""
        ...


@dataclass(frozen=True, slots=True)
class ShardContext:
    """What all shards of a worker share.

    Attributes:
        partition_of: an id's partition.
        owner: names this run of this process in the records it writes.
        others_passed: up to which record time the whole group had read, as known at a moment.
        opening_goes_on: called again and again while a shard takes long to open.
    """

    topics: TopicNames
    partition_of: Callable[[str], int]
    sink: RecordSink
    instruments: Instruments
    owner: str
    tolerance_micros: int
    horizon_micros: int
    cached_agents: int
    others_passed: Callable[[Micros], Micros | None]
    retention: Policy = _FOR_EVER
    pacing: Pacing = field(default_factory=Pacing)
    opening_goes_on: Callable[[], None] = lambda: None

    @property
    def sources(self) -> tuple[TopicName, TopicName, TopicName]:
        """The topics whose events settle remembers."""
        return self.topics.bid_placed, self.topics.auction_closed, self.topics.rerouted


class Shard:
    """One shard, open: reading moves it on, a snapshot freezes it, a file keeps it."""

    def __init__(
        self,
        shard_id: ShardId,
        context: ShardContext,
        file: ShardFile,
        *,
        positions: dict[TopicName, int],
        restore_until: int,
        retention: Retention,
        forgotten: dict[AgentId, Micros],
    ) -> None:
        self.shard_id = shard_id
        self.positions = positions
        self._context = context
        self._file = file
        self._settle = Settle(
            tolerance_micros=context.tolerance_micros, horizon_micros=context.horizon_micros
        )
        self.learn = Learn(file, cached_agents=context.cached_agents, forgotten=forgotten)
        self._intake = ChangelogApplier(
            self.learn, positions, context.topics.outcomes, retention, pacing=context.pacing
        )
        self._restore_until = restore_until
        self._restored = False
        self.retention = retention
        self._learning = asyncio.Lock()
        self._ends: dict[TopicName, Micros | None] = {}
        self._last_read: dict[TopicName, Micros] = {}
        self._others_passed: Micros | None = None
        self._metrics_known = False
        self._metrics_compared = positions[context.topics.metrics]
        # This opening, not this process: what an earlier one of ours sent may arrive late.
        self._owner = f"{context.owner}-{next(_openings)}".encode()
        self._confirmed: set[AgentId] = set()
        self._snapshots = int(shard_id)  # not all shards write in the same second
        self._sent = 0
        self._note_restore()

    @classmethod
    async def open(
        cls, shard_id: ShardId, context: ShardContext, file: ShardFile, offsets: BrokerOffsets
    ) -> "Shard":
        """Resumes where the file and Kafka's group say, by rule 8 (docs/protocol.md)."""
        filed = await file.load_positions()
        positions, rewound = resume_positions(filed, offsets, context.topics)
        if rewound:
            sources = (*context.sources, context.topics.task_finished)
            await file.rewind({topic: positions[topic] for topic in sources})
        for topic, count in lost_unread(filed, offsets, context.topics).items():
            _log.error("shard.records_lost", shard=shard_id, topic=topic, records=count)
            context.instruments.records_lost.labels(topic).inc(count)
        auctions = {} if rewound else await file.load_auctions()
        known = offsets.committed.get(context.topics.outcomes)
        noted_cutoff = None if known is None else read_note(known.metadata)
        forgotten = await file.load_forgotten()
        retention = Retention(context.retention, await file.load_cutoff(), noted_cutoff, forgotten)
        lost_end = filed.get(context.topics.outcomes, 0) > offsets.ranges[context.topics.outcomes].end
        shard = cls(
            shard_id,
            context,
            file,
            positions=positions,
            restore_until=offsets.ranges[context.topics.outcomes].end,
            retention=retention,
            forgotten=forgotten,
        )
        await shard._remember(auctions)
        shard.learn.unpublished |= await file.load_unpublished()
        if lost_end:
            await shard._publish_rows()
        _log.info(
            "shard.opened",
            shard=shard_id,
            restored=shard.restored,
            restore_records=shard.restore_left,
            auctions=len(auctions),
            rewound=rewound,
        )
        return shard

    async def _remember(self, auctions: Mapping[TaskId, AuctionState]) -> None:
        """Hands settle what an earlier run remembered, without keeping the event loop for long."""
        for chunk in chunked(list(auctions.items()), _REMEMBERED):
            self._settle.restore(dict(chunk))
            await asyncio.sleep(0)
        self._settle.restored()

    # --- restore -----------------------------------------------------------------------------------------

    @property
    def restored(self) -> bool:
        """Whether the changelog was read as far as it went when the shard came here."""
        self._restored = self._restored or self.restore_left == 0  # it is asked three times a question
        return self._restored

    @property
    def restore_left(self) -> int:
        """How many changelog records are still to be read before answers are current."""
        return max(0, self._restore_until - self.positions[self._context.topics.outcomes])

    def wanted(self, *, all_restored: bool) -> Collection[TopicName]:
        """The changelog alone during a restore, also of another shard of this replica; then everything.

        Agents wait for a restore, nobody waits for events: whoever is restored first gives way.
        """
        topics = self._context.topics
        return topics.subscribed if self.restored and all_restored else (topics.outcomes,)

    def still_valid(self, offsets: BrokerOffsets) -> bool:
        """Nobody else came further in any topic than this memory."""
        return all(
            self.positions[topic] >= committed.offset for topic, committed in offsets.committed.items()
        )

    def _note_restore(self) -> None:
        self._context.instruments.restore_records.labels(self.shard_id).set(self.restore_left)

    # --- reading -----------------------------------------------------------------------------------------

    async def process(self, topic: TopicName, records: Sequence[Record]) -> None:
        """Takes records in, in chunks of a few milliseconds; each moves the position with it."""
        position = self.positions[topic]
        fresh = records
        if records[0].offset < position:
            fresh = [record for record in records if record.offset >= position]
        if not fresh:
            return
        if topic == self._context.topics.outcomes:
            await self._learn(fresh)
        elif topic == self._context.topics.metrics:
            await self._compare(fresh)
        else:
            self.retention.advance(record_micros(max(map(_timestamp, fresh))))
            await self._settle_all(topic, fresh)
        self._last_read[topic] = record_micros(min(map(_timestamp, fresh)))

    def step_over(self, topic: TopicName, first: int, following: int) -> None:
        """Makes one dead letter of records that the Kafka client cannot decode, and moves the position."""
        error = RecordError(
            "unreadable",
            f"a header's name is not UTF-8: offsets {first} to {following - 1} of a batch are stepped over; "
            "publish again what stands behind the first",
        )
        self._send_dead_letter(Unreadable(topic, self.shard_id, first), error)
        self.positions[topic] = max(self.positions[topic], following)

    def reached(self, topic: TopicName, confirmed: Micros | None) -> None:
        """Notes when Kafka last confirmed that a topic is read to its end; None: it is not."""
        self._ends[topic] = confirmed
        if topic == self._context.topics.rerouted and confirmed is not None:
            self._others_passed = self._context.others_passed(confirmed) or self._others_passed
        if topic == self._context.topics.metrics and confirmed is not None and self.restored:
            self._metrics_known = True

    async def _settle_all(self, topic: TopicName, records: Sequence[Record]) -> None:
        kind = self._context.topics.event_kind(topic)
        for chunk in chunked(records, CHUNK):
            results: Counter[str] = Counter()
            for record in chunk:
                results[self._settle_record(record, kind)] += 1
            self.positions[topic] = chunk[-1].offset + 1
            for result, count in results.items():
                self._context.instruments.events.labels(topic, result).inc(count)
            self._count_facts()
            self._expire_tasks()  # as fast as tasks come
            await self._context.pacing.after_chunk(len(chunk))

    def _settle_record(self, record: Record, kind: EventKind | None) -> str:
        try:
            hop = hop_of(record) if record.headers else None
            event_kind = kind or _moved_kind(hop)
            event = decode_event(event_kind, record.value)
            right = self._context.partition_of(event.task_id)
            if right == self.shard_id:
                if facts := self._facts(event, record):  # of most bids there are none: they wait for a close
                    self._send(facts)
                return "settled"
            _require_first_move(hop, right)
        except RecordError as error:
            self._send_dead_letter(record, error)
            return "dead-letter"
        self._context.sink.single(
            moved(record, self._context.topics.rerouted, right, event_kind),
            lambda: self._dead_letter(record, RecordError("too-large", "too large to be moved")),
        )
        return "rerouted"

    def _facts(self, event: DecodedEvent, record: Record) -> list[Fact]:
        place = Place(record.topic, record.offset, record_micros(record.timestamp))
        match event:
            case Placed():
                return self._settle.bid(event, place)
            case Closed():
                return self._settle.close(event, place)
            case Finished():
                return self._settle.result(event, place)

    def _send(self, facts: Sequence[Fact]) -> None:
        context = self._context
        append, partition_of, topic = context.sink.append, context.partition_of, context.topics.outcomes
        left = self.retention.living(facts)
        for fact in left:
            key, value = encode_fact(fact)
            append(topic, partition_of(fact.agent_id), key, value)
        self._sent += len(left)

    def _count_facts(self) -> None:
        """Tells operators of the facts sent since: for each of them it would cost a microsecond."""
        self._context.instruments.facts.inc(self._sent)
        self._sent = 0

    async def _publish_rows(self) -> None:
        """Writes every marker and row into the changelog again: Kafka lost its end, or all of it.

        Raises:
            SendError: Kafka did not take it; the file still says that this is to be done.
        """
        outcomes_topic = self._context.topics.outcomes
        await self._file.write(Checkpoint({outcomes_topic: BEYOND_ANY_END}))
        for agent_id, until in self.learn.forgotten.items():
            marker = ForgetMarker(agent_id, until)
            self._context.sink.append(outcomes_topic, self.shard_id, *encode_marker(marker))
        async for outcomes in self._file.all_outcomes():
            self._send([fact for outcome in outcomes for fact in facts_of(outcome)])
            await self._context.sink.send()
            self._context.opening_goes_on()
        await self._context.sink.flush()
        await self._file.write(Checkpoint({outcomes_topic: self.positions[outcomes_topic]}))
        _log.warning("shard.rows_published_again", shard=self.shard_id)

    def _send_dead_letter(self, record: Record, error: RecordError) -> None:
        self._context.instruments.dead_letters.labels(error.reason).inc()
        self._context.sink.single(
            self._dead_letter(record, error), lambda: self._dead_letter(record, error, truncate=True)
        )
        _log.warning(
            "record.dead_letter",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=error.reason,
            error=str(error),
        )

    def _dead_letter(self, record: Record, error: RecordError, *, truncate: bool = False) -> Outgoing:
        return dead_letter(record, self._context.topics.dead_letters, error, truncate=truncate)

    # --- learning ----------------------------------------------------------------------------------------

    async def _learn(self, records: Sequence[Record]) -> None:
        for batch in chunked(records, _LEARNED):
            async with self._learning:
                self._context.instruments.outcomes.inc(await self._intake.take(batch, self._send_dead_letter))
            self._note_restore()

    async def _compare(self, records: Sequence[Record]) -> None:
        """Reads the metrics topic back: a record that says anything else than this shard is written anew."""
        for chunk in chunked(records, CHUNK):
            found = dict(said for record in chunk if (said := self._said(record)) is not None)
            agents = await self.learn.agents(found)
            for agent_id, content in found.items():
                if content != self._content_of(agents[agent_id]):
                    self.learn.unpublished.add(agent_id)
                elif not self._metrics_known:  # later on a record of ours may have gone over this one
                    self.learn.unpublished.discard(agent_id)
                    self._confirmed.add(agent_id)
            self.positions[self._context.topics.metrics] = chunk[-1].offset + 1

    def _said(self, record: Record) -> tuple[AgentId, MetricsContent | None] | None:
        """What a metrics record says of an agent, a tombstone None; no pair for our own records and junk."""
        if (OWNER_HEADER, self._owner) in record.headers:
            return None
        if record.value is None:
            agent_id = readable_id(record.key)
            return None if agent_id is None else (agent_id, None)
        content = decode_metrics(record.value)
        return None if content is None else (content.agent_id, content)

    # --- checkpoints -------------------------------------------------------------------------------------

    def snapshot(self) -> "ShardSnapshot":
        """Freezes positions and changed rows, in one step without an await."""
        self._expire_tasks()
        self._count_facts()
        positions: dict[TopicName, int] = dict(self.positions)
        unpublished = self._take_unpublished()
        positions[self._context.topics.metrics] = self._compared()
        published, self._confirmed = self._confirmed - self.learn.unpublished | unpublished, set()
        leaving = {agent_id for agent_id in published if self.retention.leaves(agent_id)}
        changes, auctions, cutoff = self.learn.snapshot(), self._settle.snapshot(), self.retention.snapshot()
        rewinds = {
            topic: self._settle.rewind_offset(topic, positions[topic]) for topic in self._context.sources
        }
        notes = {self._context.topics.outcomes: noted(cutoff)}
        self._count_auctions()
        return ShardSnapshot(
            self._file,
            lambda: Checkpoint(positions, auctions, *changes, published, cutoff, leaving),
            lambda: self._publish(unpublished),
            {
                topic: Committed(offset, f"{REWIND}{rewinds.get(topic, offset)}{notes.get(topic, '')}")
                for topic, offset in positions.items()
            },
        )

    def _take_unpublished(self) -> set[AgentId]:
        """Some of the agents whose metrics record is due; none before the topic was read to its end.

        While a backlog is worked off agents change every second, and a record of thirty keywords costs 25 µs.
        What is still due is in the file, as ever.
        """
        self._snapshots += 1
        if not self._metrics_known or (self._is_behind and self._snapshots % _PUBLISHED_EVERY):
            return set()
        taken = set(itertools.islice(self.learn.unpublished, _PUBLISHED_AT_ONCE))
        self.learn.unpublished -= taken
        return taken

    @property
    def _is_behind(self) -> bool:
        """Whether bids or facts are known to be waiting in Kafka."""
        topics = self._context.topics
        return any(self._ends.get(topic, 0) is None for topic in (topics.bid_placed, topics.outcomes))

    def _compared(self) -> int:
        """The position in the metrics topic to note.

        Others' records that say something else are due to be written over; until they are, a crash has to
        find them again.
        """
        if not self.learn.unpublished:
            self._metrics_compared = self.positions[self._context.topics.metrics]
        return self._metrics_compared

    def _count_auctions(self) -> None:
        gauge, settle = self._context.instruments.auctions, self._settle
        gauge.labels(self.shard_id, "open").set(settle.open)
        gauge.labels(self.shard_id, "closed").set(settle.remembered - settle.open)

    def on_checkpoint_written(self) -> None:
        """The last snapshot is in the file."""
        self.learn.on_checkpoint_written()
        self.retention.on_checkpoint_written()

    async def close(self) -> None:
        """Closes the file, which stays on disk for the shard's return."""
        instruments = self._context.instruments
        instruments.restore_records.remove(self.shard_id)
        for state in ("open", "closed"):
            instruments.auctions.remove(self.shard_id, state)
        await self._file.close()

    def _expire_tasks(self) -> None:
        watermark = watermark_of(self._times_of_unread())
        if watermark is None:
            return
        expired = self._settle.expire_tasks(watermark)
        if not expired.tasks:
            return
        count = self._context.instruments.auctions_forgotten
        count.labels("yes").inc(expired.tasks - expired.never_closed)
        count.labels("no").inc(expired.never_closed)

    def _times_of_unread(self) -> Iterator[Micros | None]:
        """At most each source's smallest unread record time: its confirmed end, or its last read.

        Moved events have the times of the partitions they were found on: the group's frontier counts there.
        """
        for topic in (self._context.topics.bid_placed, self._context.topics.auction_closed):
            end = self._ends.get(topic)
            yield self._last_read.get(topic) if end is None else end
        yield self._others_passed

    async def _sweep(self) -> None:
        """Takes expired parts out of some rows and the changelog; the next snapshot writes those rows."""
        left = _SWEPT if self.restored else 0
        while left > 0 and (keys := await self.retention.next_page(self._file)) is not None:
            left -= max(len(keys), 1)
            for chunk in chunked(keys, CHUNK):
                await self._expire(chunk)
        for due in chunked(self.retention.due(restored=self.restored), CHUNK):
            for key, fact in due:
                if fact is None:
                    self._context.sink.append(self._context.topics.outcomes, self.shard_id, key, None)
                else:
                    self._send([fact])
            await asyncio.sleep(0)

    async def _expire(self, keys: Sequence[OutcomeKey]) -> None:
        cutoff = self.retention.cutoff
        if cutoff is None:
            return
        async with self._learning:
            rows = await self.learn.expire(keys, cutoff, self._context.retention.now() // 1000)
        for row in rows:
            self.retention.swept(row, cutoff)
        self._context.instruments.outcomes_expired.inc(
            sum(row.counts and not living(row, cutoff).counts for row in rows)
        )
        await asyncio.sleep(0)

    async def _publish(self, agent_ids: set[AgentId]) -> None:
        """Writes the current metrics records of changed agents."""
        await self._sweep()
        ordered, headers = sorted(agent_ids), [(OWNER_HEADER, self._owner)]
        for start in range(0, len(ordered), _PUBLISH_CHUNK):
            agents = await self.learn.agents(ordered[start : start + _PUBLISH_CHUNK])
            for agent in agents.values():
                self._context.sink.append(
                    self._context.topics.metrics,
                    self.shard_id,
                    agent.agent_id.encode(),
                    self._record_of(agent),
                    headers,
                )
            await self._context.sink.send()
            await (
                self._context.pacing.give_way()
            )  # all of them may have been at hand, and sending need not wait

    def _record_of(self, agent: Agent) -> bytes | None:
        """An agent's metrics record; a tombstone once all of its outcomes have expired or are forgotten."""
        if agent.known or not self.retention.leaves(agent.agent_id):
            return encode_metrics(agent.record())
        return None

    def _content_of(self, agent: Agent) -> MetricsContent | None:
        record = self._record_of(agent)
        return None if record is None else decode_metrics(record)


@dataclass(frozen=True, slots=True)
class ShardSnapshot:
    """A frozen shard on its way to disk."""

    file: ShardFile
    checkpoint: Callable[[], Checkpoint]
    publishing: Callable[[], Awaitable[None]]
    commits: Mapping[TopicName, Committed]

    async def publish(self) -> None:
        """Hands the changed agents' metrics records to the sink."""
        await self.publishing()

    async def write(self) -> None:
        """Writes rows and positions in one transaction."""
        await self.file.write(self.checkpoint())


def _require_first_move(hop: bytes | None, right: int) -> None:
    if hop is not None:
        raise RecordError("wrong-partition", f"moved once, and still not on partition {right}")


def _moved_kind(hop: bytes | None) -> EventKind:
    kind = None if hop is None else EVENT_KINDS.get(hop)
    if kind is None:
        raise RecordError("invalid", f"a moved event names its kind in the header {HOP_HEADER}")
    return kind
