"""A warm standby: a shard that another replica owns, its changelog folded into a file here."""

from typing import Self

import structlog

from learner_worker.contract.fields import Shard
from learner_worker.contract.topics import TopicName
from learner_worker.errors import RecordError
from learner_worker.stages.fold import BEYOND_ANY_END, Fold
from learner_worker.stages.learn import Learn
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.statements import Checkpoint
from learner_worker.stream.records import Record

_CACHED_AGENTS = 10_000
_log = structlog.get_logger("learner_worker.shard")


class StandbyState:
    """Rows and the changelog's position, nothing else: the sources stay with the owner.

    Whoever opens the file to own the shard resumes the sources by the protocol's eighth rule, as after a
    lost disk, but finds the changelog nearly read.
    """

    def __init__(self, number: Shard, topic: TopicName, file: ShardFile, position: int) -> None:
        self.number = number
        self._topic = topic
        self._file = file
        self._ahead = position == BEYOND_ANY_END
        self._torn = False
        self._positions = {topic: 0 if self._ahead else position}
        self._learn = Learn(file, cached_agents=_CACHED_AGENTS)
        self._fold = Fold(self._learn, self._positions, topic, self._unreadable)

    @classmethod
    async def open(cls, number: Shard, topic: TopicName, file: ShardFile) -> Self:
        """Resumes where the file ends."""
        positions = await file.load_positions()
        return cls(number, topic, file, positions.get(topic, 0))

    @property
    def position(self) -> int:
        """The next changelog offset to read."""
        return self._positions[self._topic]

    def skip_to(self, position: int) -> None:
        """Moves over offsets that hold no record."""
        self._positions[self._topic] = position

    def start_anew(self, first: int, end: int) -> None:
        """The changelog lost its beginning, or its end: then these rows may be all there is of it."""
        self._ahead |= self.position > end
        self._positions[self._topic] = first

    async def process(self, records: list[Record]) -> None:
        """Takes changelog records in."""
        fresh = [record for record in records if record.offset >= self.position]
        if fresh:
            await self._fold.take(fresh)

    async def checkpoint(self) -> None:
        """Writes changed rows and the position in one transaction.

        What a failed or cancelled one has cut is lost, so nothing is written after it.
        """
        if self._torn:
            return
        self._torn = True
        positions = {self._topic: BEYOND_ANY_END} if self._ahead else dict(self._positions)
        changes = self._learn.cut()
        await self._file.write(Checkpoint(positions, {}, *changes))
        self._torn = False
        self._learn.written()
        self._learn.unpublished.clear()  # the file keeps them for the day this replica owns the shard

    async def close(self) -> None:
        """Writes what is left and closes the file, which stays on disk."""
        try:
            await self.checkpoint()
        finally:
            await self._file.close()

    def _unreadable(self, record: Record, error: RecordError) -> None:
        """The shard's owner makes a dead letter of it."""
        _log.debug("standby.unreadable_record", shard=self.number, offset=record.offset, reason=error.reason)
