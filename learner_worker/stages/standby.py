"""A warm standby: a shard that another replica owns, its changelog folded into a file here."""

from typing import Self

from learner_worker.contract.topics import TopicName
from learner_worker.stages.fold import Fold
from learner_worker.store.shard_file import ShardFile
from learner_worker.stream.records import Record

_CACHED_AGENTS = 10_000


class StandbyState:
    """Rows and the changelog's position, nothing else: the sources stay with the owner.

    Whoever opens the file to own the shard resumes the sources by the protocol's eighth rule, as after a
    lost disk, but finds the changelog nearly read.
    """

    def __init__(self, file: ShardFile, fold: Fold) -> None:
        self._file = file
        self._fold = fold

    @classmethod
    async def open(cls, file: ShardFile, topic: TopicName) -> Self:
        """Resumes where the file ends."""
        return cls(file, await Fold.open(file, topic, cached_agents=_CACHED_AGENTS))

    @property
    def position(self) -> int:
        """The next changelog offset to read."""
        return self._fold.position

    def skip_to(self, position: int) -> None:
        """Moves over offsets that hold no record, or back when the changelog was made anew."""
        self._fold.skip_to(position)

    async def process(self, records: list[Record]) -> None:
        """Takes changelog records in."""
        await self._fold.take(records)

    async def checkpoint(self) -> None:
        """Writes changed rows and the position in one transaction."""
        await self._fold.write()

    async def close(self) -> None:
        """Writes what is left and closes the file, which stays on disk."""
        try:
            await self.checkpoint()
        finally:
            await self._file.close()
