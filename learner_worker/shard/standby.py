"""A warm standby: applies the changelog of a shard that another replica owns to a file here."""

from collections.abc import Sequence
from typing import Self

from learner_worker.contract.topics import TopicName
from learner_worker.kafka.records import Record
from learner_worker.shard.pacing import Pacing
from learner_worker.shard.replay import BEYOND_ANY_END, ChangelogReplay
from learner_worker.store.shard_file import ShardFile
from learner_worker.strategies.protocol import Strategy

_CACHED_AGENTS = 10_000
"""Agents that a standby caches: fewer than an owner, because it only reads them to join facts."""


class StandbyState:
    """The rows and changelog position of a followed shard; the sources' state stays with the owner.

    A replica that opens the file to own the shard resumes the sources by rule 8 (docs/protocol.md), as after
    losing its disk, but has little of the changelog left to read.
    """

    def __init__(self, file: ShardFile, replay: ChangelogReplay) -> None:
        self._file = file
        self._replay = replay
        self._ahead = replay.position == BEYOND_ANY_END
        self.torn = False
        if self._ahead:
            replay.skip_to(0)

    @classmethod
    async def open(
        cls, file: ShardFile, topic: TopicName, pacing: Pacing, strategies: Sequence[Strategy] = ()
    ) -> Self:
        """Continues at the file's position, and keeps the sums of these strategies."""
        replay = await ChangelogReplay.open(
            file, topic, cached_agents=_CACHED_AGENTS, pacing=pacing, strategies=strategies
        )
        return cls(file, replay)

    @property
    def position(self) -> int:
        """The next changelog offset to read."""
        return self._replay.position

    def skip_to(self, position: int) -> None:
        """Moves over offsets that hold no record."""
        self._replay.skip_to(position)

    def start_anew(self, first: int, end: int) -> None:
        """Starts over at the first offset; if the changelog lost its end, notes that its rows may be lost."""
        self._ahead |= self.position > end
        self._replay.skip_to(first)

    async def process(self, records: list[Record]) -> None:
        """Applies changelog records."""
        await self._replay.take(records)

    async def backfill(self) -> bool:
        """Counts some rows for the strategies whose sums lack some; whether there are more."""
        return await self._replay.backfill()

    async def checkpoint(self) -> None:
        """Writes changed rows and the position in one transaction.

        After a failed or cancelled write the changes in memory are incomplete, so nothing more is written.
        """
        if self.torn:
            return
        self.torn = True
        await self._replay.write(BEYOND_ANY_END if self._ahead else None)
        self.torn = False

    async def free(self) -> None:
        """Frees the memory of a closed standby, in steps too short to delay an answer."""
        await self._replay.free()

    async def close(self) -> None:
        """Writes the last changes and closes the file, which stays on disk."""
        try:
            await self.checkpoint()
        finally:
            await self._file.close()
