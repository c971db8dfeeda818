"""Replays a changelog partition into a shard's file: for a standby, or for a command."""

from collections.abc import Sequence

from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.errors import RecordError
from learner_worker.kafka.records import Record
from learner_worker.shard.changelog import ChangelogApplier, MarkerFilter
from learner_worker.shard.pacing import Pacing
from learner_worker.shard.sums import claimed_sums
from learner_worker.stages.learn import Learn
from learner_worker.stages.strategy_sums import StrategySums
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.statements import Checkpoint
from learner_worker.strategies.protocol import Strategy

_WRITTEN = 20_000
"""Facts joined after which they are written: bounds the memory used besides the cache."""
BEYOND_ANY_END = 2**62
"""Position of a file whose rows the changelog may lack, above any offset: its owner republishes them."""


def _pass_over(record: Record, error: RecordError) -> None:
    """Ignores a record that is no fact."""


class ChangelogReplay:
    """Applies a changelog partition to a shard's file, in order, without a shard's other work.

    The file then holds what a restore would leave in it: outcomes, agents, keywords and the changelog's
    position, and nothing of the other topics. After an error the replay must not be used again: the file is
    consistent up to its own position, and another replay may continue there.

    Args:
        pacing: the worker's, which knows whether agents ask meanwhile; nobody asks a command.

    Attributes:
        records: number of records applied.
    """

    def __init__(
        self,
        file: ShardFile,
        topic: TopicName,
        *,
        position: int,
        cached_agents: int,
        forgotten: dict[AgentId, Micros],
        pacing: Pacing,
        sums: Sequence[StrategySums] = (),
    ) -> None:
        self.learn = Learn(file, cached_agents=cached_agents, forgotten=forgotten, sums=sums)
        self.records = 0
        self._positions = {topic: position}
        self._applier = ChangelogApplier(
            self.learn,
            self._positions,
            topic,
            MarkerFilter(forgotten),
            on_unreadable=_pass_over,
            pacing=pacing,
        )
        self._file = file
        self._topic = topic
        self._pacing = pacing
        self._unwritten = 0

    @classmethod
    async def open(
        cls,
        file: ShardFile,
        topic: TopicName,
        *,
        cached_agents: int,
        pacing: Pacing,
        strategies: Sequence[Strategy] = (),
    ) -> "ChangelogReplay":
        """Continues at the file's position, and keeps the sums of these strategies and of no others."""
        positions = await file.load_positions()
        return cls(
            file,
            topic,
            position=positions.get(topic, 0),
            cached_agents=cached_agents,
            forgotten=await file.load_forgotten(),
            pacing=pacing,
            sums=await claimed_sums(file, strategies),
        )

    @property
    def position(self) -> int:
        """The next offset to read; `write` stores it in the file."""
        return self._positions[self._topic]

    @property
    def unreadable(self) -> int:
        """Number of records that are no facts; they are skipped, as a shard skips them."""
        return self._applier.unreadable

    async def take(self, records: Sequence[Record]) -> None:
        """Joins records into rows; skips those before the position, and writes from time to time.

        Raises:
            StateError: the file cannot be read or written.
            UpgradeRequiredError: a newer version of the learner wrote a fact.
        """
        fresh = [record for record in records if record.offset >= self.position]
        await self._applier.take(fresh)
        self.records += len(fresh)
        self._unwritten += len(fresh)
        if self._unwritten >= _WRITTEN:
            await self.write()

    async def backfill(self) -> bool:
        """Counts some rows for the strategies whose sums lack some; whether there are more.

        Raises:
            StateError: the file cannot be read.
        """
        return await self._applier.backfill()

    async def reach(self, position: int) -> None:
        """Writes what was applied; offsets below `position` that held no record count as read.

        Raises:
            StateError: the file cannot be written.
        """
        self.skip_to(max(self.position, position))
        await self.write()

    def skip_to(self, position: int) -> None:
        """Moves over offsets that hold no record, or back if the changelog was recreated."""
        self._positions[self._topic] = position

    async def write(self, position: int | None = None) -> None:
        """Writes rows and position in one transaction; `position` overrides the replay's own.

        Raises:
            StateError: the file cannot be written.
        """
        position = self.position if position is None else position
        changes = self.learn.snapshot()
        self._unwritten = 0
        await self._file.write(
            Checkpoint(
                {self._topic: position},
                outcomes=changes.outcomes,
                agents=changes.agents,
                keywords=changes.keywords,
                forgotten=changes.forgotten,
                sums=changes.sums,
                counted_to=changes.counted_to,
                last_record=self._applier.take_last_record(),
            )
        )
        self.learn.on_checkpoint_written()
        self.learn.unpublished.clear()  # the file keeps them for the shard's next owner
        await self.learn.agents.unused.release(self._pacing.give_way)

    async def free(self) -> None:
        """Frees the memory in short steps; nobody may use the replay any more."""
        await self.learn.free(self._pacing.give_way)
