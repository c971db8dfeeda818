"""A shard: the stages, positions and file of one partition number."""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import structlog

from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.group.offsets import BrokerOffsets
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.records import Record, place_of
from learner_worker.shard.changelog import ChangelogApplier
from learner_worker.shard.context import ShardContext
from learner_worker.shard.events import EventIntake, FactSender, send_dead_letter
from learner_worker.shard.expiry import OutcomeExpiry
from learner_worker.shard.publishing import MetricsPublisher, republish_changelog
from learner_worker.shard.restore import RestoreProgress
from learner_worker.shard.resume import ResumedState, commit_of, resume
from learner_worker.shard.watermark import WatermarkTracker
from learner_worker.stages.learn import Learn
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.statements import Checkpoint

_log = structlog.get_logger("learner_worker.shard")


def _nobody_waits() -> None:
    """Ignores the progress of opening."""


@dataclass(frozen=True, slots=True)
class ShardSnapshot:
    """The positions and changed rows of a shard, captured in one step for a checkpoint.

    Attributes:
        checkpoint: the content of one transaction.
        publishing: adds the due metrics records and tombstones to the record sink.
        commits: what to commit to Kafka afterwards, by topic.
    """

    file: ShardFile
    checkpoint: Checkpoint
    publishing: Callable[[], Awaitable[None]]
    commits: Mapping[TopicName, Committed]

    async def publish(self) -> None:
        """Adds the records that are due for other topics to the record sink."""
        await self.publishing()

    async def write(self) -> None:
        """Writes rows and positions in one transaction."""
        await self.file.write(self.checkpoint)


class Shard:
    """One open shard: processes records, and captures its state for checkpoints.

    Its parts refer to each other in one direction only: in a reference cycle, a closed shard with all of its
    agents would stay in memory until the next full garbage collection.

    Attributes:
        positions: the next offset of each topic; the part that reads a topic advances it.
        agents: metrics and keywords, for answers.
    """

    def __init__(
        self, shard_id: ShardId, context: ShardContext, file: ShardFile, resumed: ResumedState
    ) -> None:
        topics, settings = context.topics, context.settings
        retention, positions = resumed.retention, resumed.positions
        facts = FactSender(context, retention)
        watermark = WatermarkTracker(topics, context.others_passed)
        self.shard_id = shard_id
        self.positions = positions
        self.retention = retention
        self.learn = Learn(
            file, cached_agents=settings.cached_agents, forgotten=resumed.forgotten, sums=resumed.sums
        )
        self.learn.unpublished |= resumed.unpublished
        self.agents = self.learn.agents
        self.events = EventIntake(
            shard_id,
            context,
            positions=positions,
            facts=facts,
            watermark=watermark,
            retention=retention,
        )
        self._context = context
        self._file = file
        self._applier = ChangelogApplier(
            self.learn,
            positions,
            topics.outcomes,
            retention,
            on_unreadable=partial(send_dead_letter, context),
            pacing=context.pacing,
        )
        self._expiry = OutcomeExpiry(
            shard_id, context, file=file, applier=self._applier, retention=retention, facts=facts
        )
        self._publisher = MetricsPublisher(
            shard_id,
            context,
            positions=positions,
            learn=self.learn,
            retention=retention,
            watermark=watermark,
        )
        self._restore = RestoreProgress(
            shard_id, positions, topics.outcomes, resumed.restore_until, context.instruments.restore_records
        )

    @classmethod
    async def open(
        cls,
        shard_id: ShardId,
        context: ShardContext,
        file: ShardFile,
        offsets: BrokerOffsets,
        on_progress: Callable[[], None] = _nobody_waits,
    ) -> Self:
        """Opens a shard at the positions that rule 8 (docs/protocol.md) gives.

        Args:
            on_progress: called repeatedly while opening takes long.

        Raises:
            SendError: Kafka does not accept the rows that the changelog has lost.
            StateError: the file cannot be read or written.
        """
        resumed = await resume(shard_id, context, file, offsets)
        shard = cls(shard_id, context, file, resumed)
        await shard.events.restore(resumed.auctions)
        if resumed.changelog_lost_end:
            await republish_changelog(shard_id, context, file, resumed, on_progress)
        _log.info(
            "shard.opened",
            shard=shard_id,
            restored=shard.restored,
            restore_records=shard.restore_left,
            auctions=len(resumed.auctions),
            rewound=resumed.rewound,
        )
        return shard

    @property
    def restored(self) -> bool:
        """Whether the changelog is read up to the end offset it had when the shard was opened."""
        return self._restore.is_finished or self._restore.check()

    @property
    def restore_left(self) -> int:
        """Number of changelog records still to be read before answers are current."""
        return self._restore.records_left

    def has_sums(self, strategies: Collection[str]) -> bool:
        """Whether every row is counted for each of these strategies."""
        return all(sums.is_complete for sums in self.learn.sums if sums.name in strategies)

    @property
    def lacks_sums(self) -> bool:
        """Whether rows are still to be counted for some strategy."""
        return not all(sums.is_complete for sums in self.learn.sums)

    async def backfill(self) -> None:
        """Counts some of those rows.

        Raises:
            ClosedFileError: the shard was closed meanwhile.
            StateError: its file cannot be read.
        """
        await self._applier.backfill()

    def topics_to_read(self, *, all_restored: bool) -> Collection[TopicName]:
        """The topics to read: the changelog alone until all shards of the replica are restored, then all.

        Agents wait for a restore but not for events, so restored shards leave the time to the others.
        """
        topics = self._context.topics
        return topics.subscribed if self.restored and all_restored else (topics.outcomes,)

    def still_valid(self, offsets: BrokerOffsets) -> bool:
        """Whether this memory is valid: no other replica has committed a later offset of any topic."""
        return all(
            self.positions[topic] >= committed.offset for topic, committed in offsets.committed.items()
        )

    async def process(self, topic: TopicName, records: Sequence[Record]) -> None:
        """Processes records in chunks; each chunk advances the position with it."""
        position = self.positions[topic]
        fresh = records
        if records[0].offset < position:
            fresh = [record for record in records if record.offset >= position]
        if not fresh:
            return
        if topic == self._context.topics.outcomes:
            await self.apply_changelog(fresh)
        elif topic == self._context.topics.metrics:
            await self._publisher.compare(fresh)
        else:
            await self.events.take(topic, fresh)

    async def apply_changelog(self, records: Sequence[Record]) -> None:
        """Applies changelog records: joins facts into rows and applies forget markers."""
        tracer = self._context.settings.tracer
        began_ns = 0 if tracer is None else time.time_ns()
        self._context.instruments.outcomes.inc(await self._applier.take(records))
        self._restore.report()
        if tracer is not None and self._restore.is_finished:  # what is only restored was traced before
            for record in records:
                if record.headers:
                    tracer.learned(place_of(record), record.headers, began_ns)

    def step_over(self, topic: TopicName, offsets: OffsetRange) -> None:
        """Sends one dead letter for records that the Kafka client cannot decode, and skips them."""
        self.events.step_over(topic, offsets)

    def note_end(self, topic: TopicName, confirmed: Micros | None) -> None:
        """Notes the time at which Kafka last confirmed that a topic is read to its end; None if it is not."""
        self.events.watermark.note_end(topic, confirmed)
        if topic == self._context.topics.metrics and confirmed is not None and self.restored:
            self._publisher.note_end()

    def snapshot(self) -> ShardSnapshot:
        """Captures positions and changed rows, in one step without an await."""
        events, metrics = self.events.snapshot(), self._publisher.snapshot()
        changes, cutoff = self.learn.snapshot(), self.retention.snapshot()
        positions = {**self.positions, self._context.topics.metrics: metrics.position}
        return ShardSnapshot(
            self._file,
            Checkpoint(
                positions=positions,
                auctions=events.auctions,
                **changes._asdict(),
                published=metrics.published,
                cutoff=cutoff,
                leaving=metrics.leaving,
                last_record=self._applier.take_last_record(),
            ),
            partial(self._publish, metrics.due),
            {
                topic: commit_of(
                    offset,
                    events.rewind_offsets.get(topic, offset),
                    cutoff if topic == self._context.topics.outcomes else None,
                )
                for topic, offset in positions.items()
            },
        )

    def on_checkpoint_written(self) -> None:
        """Notes that the last snapshot is in the file."""
        self.learn.on_checkpoint_written()
        self.retention.on_checkpoint_written()

    async def release(self) -> None:
        """Frees what is no longer needed since the last checkpoint, in steps that no answer notices."""
        await self.agents.unused.release(self._context.pacing.give_way)

    async def close(self) -> None:
        """Closes the file, which stays on disk in case the shard returns."""
        self._restore.close()
        self.events.close()
        await self._file.close()

    async def free(self) -> None:
        """Frees the memory of a closed shard, in steps too short to delay an answer."""
        give_way = self._context.pacing.give_way
        await self.events.settle.free(give_way)
        await self.learn.free(give_way)

    async def _publish(self, due: Collection[AgentId]) -> None:
        await self._expiry.sweep(restored=self.restored)
        await self._publisher.publish(due)
