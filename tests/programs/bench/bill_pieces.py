"""The levels of a bill: a worker's processing with more and more of its pieces, on the same records."""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from aiokafka import TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder

from learner_worker.contract.decode import Closed, Finished, Placed, decode_event
from learner_worker.contract.facts import Fact, decode_outcome_record, encode_fact
from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.contract.headers import Headers
from learner_worker.contract.times import record_micros
from learner_worker.contract.topics import EventKind, TopicName, TopicNames
from learner_worker.domain.agents import AgentRow
from learner_worker.domain.keywords import Tally
from learner_worker.domain.outcomes import Outcome, OutcomeKey
from learner_worker.domain.retention import Policy
from learner_worker.domain.sums import KeptSums
from learner_worker.group.offsets import BrokerOffsets
from learner_worker.kafka.batching import BATCH_BYTES, BatchWriter, Fallback
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.patches import LightRecord
from learner_worker.kafka.records import Outgoing, Record
from learner_worker.observability import Instruments
from learner_worker.requests.clock import Clock
from learner_worker.settings import Settings
from learner_worker.shard.context import RecordSink, ShardContext, ShardSettings
from learner_worker.shard.pacing import Pacing
from learner_worker.shard.shard import Shard
from learner_worker.stages.learn import FactRecord, Learn
from learner_worker.stages.settle import Place, Settle
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.strategies.registry import find_strategies
from learner_worker.worker.consumer import POLL_RECORDS
from tests.programs.bench.bill_log import Log
from tests.programs.bench.bill_wire import SocketWire
from tests.programs.bench.stage import PARTITIONS
from tests.support.batches import bytes_of

CHECKPOINT_EVENTS = 25_000
"""Events between two checkpoints: about what a worker reads in a second; not a time, so that every run has
the same checkpoints."""
_MICROS = 1_000_000


class Piece(StrEnum):
    """The levels, each with its piece and all before it; `bill.py` says what they are."""

    STAGES = "stages"
    SHARDS = "shards"
    TURNS = "turns"
    RECORDS = "records"
    READS = "reads"
    CHECKPOINTS = "checkpoints"
    SUMS = "sums"
    SOCKET = "socket"

    def has(self, piece: "Piece") -> bool:
        """Whether a level has a piece."""
        return _ORDER[self] >= _ORDER[piece]


_ORDER = {piece: number for number, piece in enumerate(Piece)}


class Wire(Protocol):
    """Carries the bytes of fetches and produce requests, which are also processed here."""

    async def fetched(self, sizes: Sequence[int]) -> None:
        """A fetch brings partitions of these sizes."""
        ...

    async def produced(self, place: TopicPartition, data: bytes) -> None:
        """A batch goes to its partition; returns when it is acknowledged."""
        ...


# --- the stages alone --------------------------------------------------------------------------------------


class NoRows:
    """Reads a shard's file as if nothing were in it."""

    async def load_outcomes(self, _keys: Sequence[OutcomeKey]) -> dict[OutcomeKey, Outcome]:
        return {}

    async def load_agents(
        self, _ids: Sequence[AgentId]
    ) -> dict[AgentId, tuple[AgentRow, MutableMapping[str, Tally]]]:
        return {}

    async def load_sums(self, _ids: Sequence[AgentId]) -> dict[AgentId, dict[str, KeptSums]]:
        return {}


class Stages:
    """The stages of all shards, called with nothing in between."""

    def __init__(self, log: Log, names: TopicNames) -> None:
        settings = Settings()
        tolerance = round(settings.clock_skew_tolerance_seconds * _MICROS)
        horizon = round(settings.auction_horizon_seconds * _MICROS)
        shards = range(PARTITIONS)
        self._log = log
        self._names = names
        self._settles = [Settle(tolerance_micros=tolerance, horizon_micros=horizon) for _ in shards]
        rows: Any = NoRows()
        self._learns = [Learn(rows, cached_agents=settings.cached_agents) for _ in shards]
        self._partition_of = partitioner(PARTITIONS)
        self._sent: dict[int, list[LightRecord]] = defaultdict(list)

    async def run(self) -> None:
        """Processes everything."""
        while self._log.fetch():
            while polled := self._log.poll(POLL_RECORDS):
                for place, records in polled.items():
                    await self._process(place, records)
            for partition, sent in self._sent.items():
                self._log.append_records(TopicPartition(self._names.outcomes, partition), sent)
            self._sent.clear()

    async def _process(self, place: TopicPartition, records: Sequence[Record]) -> None:
        kind = self._names.event_kind(TopicName(place.topic))
        if kind is None:
            await self._join(self._learns[place.partition], records)
        else:
            self._settle(self._settles[place.partition], kind, records)

    async def _join(self, learn: Learn, records: Sequence[Record]) -> None:
        facts = []
        for record in records:
            fact = decode_outcome_record(record.value or b"")
            if isinstance(fact, Fact):
                facts.append(FactRecord.of(record.offset, record.timestamp, fact))
        learn.pin(facts)
        learn.apply(facts, await learn.load(facts))

    def _settle(self, settle: Settle, kind: EventKind, records: Sequence[Record]) -> None:
        for record in records:
            event = decode_event(kind, record.value)
            self._partition_of(event.task_id)
            place = Place(record.topic, record.offset, record_micros(record.timestamp))
            match event:
                case Placed():
                    facts = settle.bid(event, place)
                case Closed():
                    facts = settle.close(event, place)
                case Finished():
                    facts = settle.result(event, place)
            for fact in facts:
                key, value = encode_fact(fact)
                partition = self._partition_of(fact.agent_id)
                self._sent[partition].append(
                    LightRecord(self._names.outcomes, partition, 0, record.timestamp, key, value)
                )


# --- shards ------------------------------------------------------------------------------------------------


class BlindFile(NoRows, ShardFile):
    """A shard's file that is never read while events are processed."""


class Unhurried(Pacing):
    """Pacing without turns of the event loop."""

    async def after_chunk(self, *, full: bool) -> None:
        """Goes on."""

    async def give_way(self) -> None:
        """Goes on."""


class ListSink:
    """A record sink whose records never become bytes of batches."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._sent: dict[TopicPartition, list[LightRecord]] = defaultdict(list)

    def append(
        self, topic: str, partition: int, key: bytes, value: bytes | None, headers: Headers = ()
    ) -> None:
        """Adds a record."""
        record = LightRecord(topic, partition, 0, 0, key, value, headers)
        self._sent[TopicPartition(topic, partition)].append(record)

    def single(self, record: Outgoing, fallback: Fallback | None = None) -> None:
        """Fails: no event of the load becomes a dead letter or a moved record."""
        raise AssertionError((record, fallback))

    async def send(self) -> None:
        """Moves what was added to the log."""
        for place, records in self._sent.items():
            self._log.append_records(place, records)
        self._sent.clear()

    async def flush(self) -> None:
        """Moves what was added to the log."""
        await self.send()


class LoopbackProducer:
    """A producer whose batches go to the log at once, or after the wire has acknowledged them."""

    def __init__(self, log: Log, wire: Wire | None) -> None:
        self._log = log
        self._wire = wire

    def create_batch(self) -> BatchBuilder:
        """As the client does."""
        return BatchBuilder(BATCH_BYTES, 0)

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> "asyncio.Future[None]":
        """Builds the batch's bytes; a future of its acknowledgement."""
        place, data = TopicPartition(topic, partition), bytes_of(batch)
        self._log.append_batch(place, data, batch.record_count())
        if self._wire is not None:
            return asyncio.ensure_future(self._wire.produced(place, data))
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class Shards:
    """The shards of a worker, on a log instead of Kafka."""

    def __init__(self, level: Piece, log: Log, names: TopicNames, folder: Path, wire: Wire | None) -> None:
        settings, clock = Settings(), Clock()
        self._level = level
        self._log = log
        self._names = names
        self._folder = folder
        self._wire = wire
        self._sink: RecordSink = ListSink(log)
        if level.has(Piece.RECORDS):
            producer: Any = LoopbackProducer(log, wire)
            self._sink = BatchWriter(producer)
        strategies = find_strategies(settings.strategy, settings.strategies if level.has(Piece.SUMS) else ())
        horizon = round(settings.auction_horizon_seconds * _MICROS)
        self._context = ShardContext(
            topics=names,
            partition_of=partitioner(PARTITIONS),
            sink=self._sink,
            instruments=Instruments().shards,
            owner="bill",
            settings=ShardSettings(
                tolerance_micros=round(settings.clock_skew_tolerance_seconds * _MICROS),
                horizon_micros=horizon,
                cached_agents=settings.cached_agents,
                retention=Policy(None, 1, horizon, clock.now),
                strategies=strategies,
            ),
            others_passed=lambda _: None,
            pacing=Pacing() if level.has(Piece.TURNS) else Unhurried(),
        )
        self._shards: list[Shard] = []
        self._checkpointing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Opens all shards, on new files; the metrics topic is read, the bids' is not."""
        new = BrokerOffsets({}, dict.fromkeys(self._names.subscribed, OffsetRange(0, 0)))
        kind = ShardFile if self._level.has(Piece.READS) else BlindFile
        for number in map(ShardId, range(PARTITIONS)):
            file = await kind.open(shard_path(self._folder, number), {"shard": str(number)})
            shard = await Shard.open(number, self._context, file, new)
            shard.note_end(self._names.metrics, Clock().now())
            shard.note_end(self._names.bid_placed, None)
            self._shards.append(shard)

    async def run(self) -> None:
        """Processes everything, with checkpoints in between and at the end where they are a piece."""
        since = 0
        while sizes := self._log.fetch():
            if self._wire is not None:
                await self._wire.fetched(sizes)
            while polled := self._log.poll(POLL_RECORDS):
                for place, records in polled.items():
                    await self._shards[place.partition].process(TopicName(place.topic), records)
                    since += len(records) if place.topic != self._names.outcomes else 0
                await self._sink.send()
                if since >= CHECKPOINT_EVENTS:
                    since = 0
                    await self._begin_checkpoint()
        await self._begin_checkpoint()
        await self._end_checkpoint()

    async def close(self) -> None:
        """Closes the files."""
        for shard in self._shards:
            await shard.close()

    async def _begin_checkpoint(self) -> None:
        """Starts a checkpoint once the previous one has ended."""
        if self._level.has(Piece.CHECKPOINTS):
            await self._end_checkpoint()
            self._checkpointing = asyncio.create_task(self._checkpoint())

    async def _end_checkpoint(self) -> None:
        if self._checkpointing is not None:
            await self._checkpointing

    async def _checkpoint(self) -> None:
        """The first four steps, as `worker/checkpoint.py` takes them; there is no group to commit to."""
        pacing = self._context.pacing
        snapshots = []
        for shard in self._shards:
            snapshots.append(shard.snapshot())
            await pacing.give_way()
        for snapshot in snapshots:
            await snapshot.publish()
        await self._sink.flush()
        for snapshot in snapshots:
            await snapshot.write()
        for shard in self._shards:
            shard.on_checkpoint_written()
            await shard.release()
            await pacing.give_way()


@asynccontextmanager
async def processing(
    level: Piece, log: Log, names: TopicNames
) -> AsyncIterator[Callable[[], Coroutine[Any, Any, None]]]:
    """Sets up a level; yields its function that processes everything in the log."""
    if level is Piece.STAGES:
        yield Stages(log, names).run
        return
    async with AsyncExitStack() as stack:
        wire = None
        if level.has(Piece.SOCKET):
            wire = await stack.enter_async_context(SocketWire.connected())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="learner-bill-")))
        shards = Shards(level, log, names, folder, wire)
        await shards.open()
        stack.push_async_callback(shards.close)
        yield shards.run
