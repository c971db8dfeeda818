"""A warm standby: a shard that another replica owns, its changelog applied to a file here."""

from typing import Self

from learner_worker.contract.topics import TopicName
from learner_worker.kafka.records import Record
from learner_worker.shard.changelog import BEYOND_ANY_END, ChangelogReplay
from learner_worker.store.shard_file import ShardFile

_CACHED_AGENTS = 10_000
"""Agents that a standby keeps in memory: it answers nobody, and reads them only to join facts."""


class StandbyState:
    """Rows and the changelog's position, nothing else: the sources stay with the owner.

    Whoever opens the file to own the shard resumes the sources by rule 8 (docs/protocol.md), as after a
    lost disk, but finds the changelog nearly read.
    """

    def __init__(self, file: ShardFile, replay: ChangelogReplay) -> None:
        self._file = file
        self._replay = replay
        self._ahead = replay.position == BEYOND_ANY_END
        self.torn = False
        if self._ahead:
            replay.skip_to(0)

    @classmethod
    async def open(cls, file: ShardFile, topic: TopicName) -> Self:
        """Resumes where the file ends."""
        return cls(file, await ChangelogReplay.open(file, topic, cached_agents=_CACHED_AGENTS))

    @property
    def position(self) -> int:
        """The next changelog offset to read."""
        return self._replay.position

    def skip_to(self, position: int) -> None:
        """Moves over offsets that hold no record."""
        self._replay.skip_to(position)

    def start_anew(self, first: int, end: int) -> None:
        """The changelog lost its beginning, or its end: then these rows may be all there is of it."""
        self._ahead |= self.position > end
        self._replay.skip_to(first)

    async def process(self, records: list[Record]) -> None:
        """Takes changelog records in."""
        await self._replay.take(records)

    async def checkpoint(self) -> None:
        """Writes changed rows and the position in one transaction.

        What a failed or cancelled one has taken out of memory is lost, so nothing is written after it.
        """
        if self.torn:
            return
        self.torn = True
        await self._replay.write(BEYOND_ANY_END if self._ahead else None)
        self.torn = False

    async def close(self) -> None:
        """Writes what is left and closes the file, which stays on disk."""
        try:
            await self.checkpoint()
        finally:
            await self._file.close()
