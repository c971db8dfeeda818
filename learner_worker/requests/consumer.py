"""The request consumer: separate from the event consumer, so that answers never wait behind a backlog."""

import asyncio
from collections.abc import Mapping, Sequence
from enum import Enum

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from learner_worker.contract.fields import ShardId
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.polling import Gap, PollResult, poll, seek
from learner_worker.kafka.records import Record, chunked
from learner_worker.kafka.watchdog import Reading, look
from learner_worker.requests.admission import Admission
from learner_worker.requests.answering import Answering
from learner_worker.requests.clock import Clock
from learner_worker.requests.commits import OffsetCommits
from learner_worker.requests.handover import PartitionHandover
from learner_worker.requests.in_flight import InFlightOffsets
from learner_worker.requests.settings import RequestSettings
from learner_worker.requests.stalls import StallGuard

_POLL_RECORDS = 1_000
"""Few enough that reading them takes less time than one slice of answering."""
_NAME = "requests"
_log = structlog.get_logger("learner_worker.requests")


class ConsumerState(Enum):
    """The action of the next turn of the poll loop."""

    IN_DOUBT = "asks whether this replica is still a member of the group; answers nothing until then"
    TAKING_OVER = (
        "commits the partitions that it leaves, and looks up the offsets of those that it takes over"
    )
    IDLE = "owns no shard and waits for one"
    RUNNING = "reads, answers and commits"


class RequestConsumer:
    """Reads the requests of the owned shards, has them answered, and commits the answered ones."""

    def __init__(
        self,
        *,
        consumer: AIOKafkaConsumer,
        settings: RequestSettings,
        admission: Admission,
        answering: Answering,
        stalls: StallGuard,
        outage: Outage,
        clock: Clock,
    ) -> None:
        topic = settings.topics.requests
        self._consumer = consumer
        self._poll_ms = settings.poll_ms
        self._admission = admission
        self._answering = answering
        self._stalls = stalls
        self._outage = outage
        self._commits = OffsetCommits(consumer, topic, clock)
        self._partitions = PartitionHandover(consumer, topic, settings.ttl_seconds, self._commits, clock)
        self._more_queued = False

    @property
    def state(self) -> ConsumerState:
        """The next turn's action: confirming membership comes first, then a handover."""
        if self._stalls.in_doubt:
            return ConsumerState.IN_DOUBT
        if self._partitions.pending:
            return ConsumerState.TAKING_OVER
        return ConsumerState.RUNNING if self._partitions.owned else ConsumerState.IDLE

    @property
    def last_turn_seconds(self) -> float:
        """When the loop's last turn began, by the monotonic clock."""
        return self._stalls.last_turn_seconds

    def committable(self, shard_id: ShardId) -> int | None:
        """The offset below which all requests of a shard are finished; None if it is not read here."""
        offsets = self._partitions.owned.get(shard_id)
        return None if offsets is None else offsets.committable

    def own(self, opened: frozenset[ShardId], assigned: frozenset[ShardId], assignment_number: int) -> None:
        """Sets the shards whose requests are answered from now on.

        Args:
            opened: the shards that are open.
            assigned: all shards that the group has assigned to this replica.
            assignment_number: the number of that assignment.
        """
        if self._stalls.in_doubt and self._partitions.is_new(assignment_number):
            self._partitions.begin_anew()
            self._stalls.reassigned()
        self._partitions.own(opened, assigned, assignment_number)

    async def read(self, stopping: asyncio.Event) -> None:
        """Reads and answers until `stopping` is set."""
        try:
            while not stopping.is_set():
                self._stalls.note_turn()
                await self._turn_or_pause()
        finally:
            self._commits.cancel_background()  # `finish` commits its offsets, too

    async def finish(self) -> None:
        """Commits what is answered."""
        await self._commits.finish(self._partitions.all_offsets)

    def unfinished(self) -> Mapping[ShardId, OffsetRange]:
        """The requests of each shard that are not answered yet, as far as Kafka's answers tell."""
        assignment = self._consumer.assignment()
        found: dict[ShardId, OffsetRange] = {}
        for partition, position in self._partitions.positions.items():
            shard_id = ShardId(partition.partition)
            known = self._consumer.highwater(partition) if partition in assignment else None
            end = max(known or 0, position)
            found[shard_id] = OffsetRange(self._partitions.owned[shard_id].committable, end)
        return found

    async def reading(self) -> Reading:
        """The progress of reading requests, for the watchdog; empty while membership is in doubt."""
        positions = {} if self._stalls.in_doubt else self._partitions.positions
        return await look(_NAME, self._consumer, positions, self._outage)

    async def _turn_or_pause(self) -> None:
        try:
            await self._turn()
        except (KafkaError, TimeoutError) as error:
            pause_seconds = self._outage.failed(_NAME, error)
            await asyncio.sleep(min(pause_seconds, self._stalls.longest_pause_seconds))

    async def _turn(self) -> None:
        match self.state:
            case ConsumerState.IN_DOUBT:
                await self._stalls.confirm()
            case ConsumerState.TAKING_OVER:
                await self._partitions.take_over()
            case ConsumerState.IDLE:  # not a poll: without an assignment it would wait for one
                await asyncio.sleep(self._poll_ms / 1000)
                self._outage.worked(_NAME)
            case ConsumerState.RUNNING:
                await self._read_and_answer()
                if not self._stalls.in_doubt:  # otherwise a new owner may have committed later offsets
                    self._commits.commit_in_background(self._partitions.all_offsets)
                self._outage.worked(_NAME)

    async def _read_and_answer(self) -> None:
        polled = await self._poll()
        self._stalls.note_turn()
        if self._stalls.in_doubt:  # the poll may have fetched after the stall
            seek(self._consumer, self._partitions.positions)
            return
        for partition, records in polled.batches.items():
            offsets = self._partitions.owned.get(ShardId(partition.partition))
            if offsets is not None:
                await self._admit(records, offsets)
        if polled.gap is not None:
            self._step_over(polled.gap)
        self._admission.drop_unread(await self._partitions.skip_expired(polled.batches))
        self._more_queued = await self._answering.serve()

    async def _poll(self) -> PollResult:
        timeout_ms = 0 if self._more_queued else self._poll_ms
        positions = self._partitions.positions
        return await poll(self._consumer, positions, timeout_ms=timeout_ms, max_records=_POLL_RECORDS)

    async def _admit(self, records: Sequence[Record], offsets: InFlightOffsets) -> None:
        """Admits records; between chunks the shard may be lost, and its new owner reads the rest."""
        for chunk in chunked(records, self._admission.chunk):
            if not offsets.owned:
                return
            for record in chunk:
                offsets.begin(record.offset)
                self._admission.admit(record, offsets)
            if len(chunk) < len(records):
                await asyncio.sleep(0)

    def _step_over(self, gap: Gap) -> None:
        """Skips undecodable records without a reply: the broken header may be the reply address."""
        _log.error(
            "requests.unreadable",
            partition=gap.partition.partition,
            first=gap.offsets.start,
            next=gap.offsets.end,
        )
        offsets = self._partitions.owned.get(ShardId(gap.partition.partition))
        if offsets is not None:
            offsets.skip_to(gap.offsets.end)
