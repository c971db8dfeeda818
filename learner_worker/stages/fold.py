"""A changelog partition folded into a shard's file, without a shard's other work.

The file then holds what a restore would have left in it: outcomes, agents, keywords and the changelog's
position; of the other topics it knows nothing.
"""

import asyncio
from collections.abc import Iterator, Sequence

from learner_worker.contract.outcomes import decode_fact
from learner_worker.contract.topics import TopicName
from learner_worker.errors import RecordError
from learner_worker.stages.learn import FactRecord, Learn
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.statements import Checkpoint
from learner_worker.stream.records import Record

_CHUNK = 100
"""Facts joined between two yields to the event loop."""
_LOADED = 1_000
_WRITTEN = 20_000
"""Facts joined between two transactions: what memory holds besides the cache."""


class Fold:
    """Joins a partition's facts into a file, in order.

    After an error it is worthless: the file is whole, up to its own position; open another from there.

    Attributes:
        position: the next offset; the file's own follows with `write`.
        records: how many records it took.
        unreadable: how many of them are no facts; they are passed over, as a shard passes over them.
    """

    def __init__(self, file: ShardFile, topic: TopicName, *, position: int, cached_agents: int) -> None:
        self.learn = Learn(file, cached_agents=cached_agents)
        self.position = position
        self.records = 0
        self.unreadable = 0
        self._file = file
        self._topic = topic
        self._unwritten = 0

    @classmethod
    async def open(cls, file: ShardFile, topic: TopicName, *, cached_agents: int) -> "Fold":
        """Goes on where the file ends."""
        positions = await file.load_positions()
        return cls(file, topic, position=positions.get(topic, 0), cached_agents=cached_agents)

    async def take(self, records: Sequence[Record]) -> None:
        """Joins records in; those before the position are known. Now and then it writes.

        Raises:
            StateError: the file cannot be read or written.
            UpgradeRequiredError: a newer learner wrote a fact.
        """
        fresh = [record for record in records if record.offset >= self.position]
        for start in range(0, len(fresh), _LOADED):
            await self._join(fresh[start : start + _LOADED])
            if self._unwritten >= _WRITTEN:
                await self.write()

    async def reach(self, position: int) -> None:
        """Writes what was taken; offsets below the position that held no record count as read.

        Raises:
            StateError: the file cannot be written.
        """
        self.position = max(self.position, position)
        await self.write()

    async def write(self) -> None:
        """Writes rows and position in one transaction.

        Raises:
            StateError: the file cannot be written.
        """
        position, changes = self.position, self.learn.cut()
        self._unwritten = 0
        await self._file.write(
            Checkpoint(
                {self._topic: position},
                outcomes=changes.outcomes,
                agents=changes.agents,
                keywords=changes.keywords,
            )
        )
        self.learn.written()

    async def _join(self, records: Sequence[Record]) -> None:
        facts = list(self._facts(records))
        rows = await self.learn.load(facts)
        for start in range(0, len(facts), _CHUNK):
            chunk = facts[start : start + _CHUNK]
            self.learn.apply(chunk, rows)  # from here to the position no await: a write sees both
            self.position = chunk[-1].offset + 1
            await asyncio.sleep(0)
        self.position = records[-1].offset + 1
        self.records += len(records)
        self._unwritten += len(facts)

    def _facts(self, records: Sequence[Record]) -> Iterator[FactRecord]:
        for record in records:
            if record.value is None:
                continue
            try:
                yield FactRecord(record.offset, record.timestamp, decode_fact(record.value))
            except RecordError:
                self.unreadable += 1
