"""The fold of a shard's changelog: records of learner-outcomes into rows, in chunks of a few milliseconds."""

import asyncio
from collections.abc import Callable, Iterator, MutableMapping, Sequence

from learner_worker.contract.outcomes import decode_fact
from learner_worker.contract.topics import TopicName
from learner_worker.errors import RecordError
from learner_worker.stages.learn import FactRecord, Learn
from learner_worker.stream.records import Record, chunked

_LOADED = 1_000
"""Facts whose rows are read from the file at once: a read costs two changes of thread."""
_CHUNK = 100
"""Facts joined between two yields to the event loop."""
BEYOND_ANY_END = 2**62
"""The position of a file whose rows the changelog may lack: whoever owns the shard publishes them again."""


class Fold:
    """Feeds learn with a changelog partition and moves the position with it.

    Args:
        positions: where the position of the changelog is kept; a cut copies it with learn's changes.
        unreadable: told of a record that is no fact; it is stepped over.
    """

    def __init__(
        self,
        learn: Learn,
        positions: MutableMapping[TopicName, int],
        topic: TopicName,
        unreadable: Callable[[Record, RecordError], None],
    ) -> None:
        self._learn = learn
        self._positions = positions
        self._topic = topic
        self._unreadable = unreadable

    async def take(self, records: Sequence[Record]) -> int:
        """Joins records in; how many of them changed something.

        Raises:
            StateError: the rows cannot be read.
        """
        changed = 0
        for batch in chunked(records, _LOADED):
            facts = list(self._decoded(batch))
            rows = await self._learn.load(facts)
            for chunk in chunked(facts, _CHUNK):
                changed += self._learn.apply(chunk, rows)  # to the position no await: a cut sees both
                self._positions[self._topic] = chunk[-1].offset + 1
                await asyncio.sleep(0)
            self._positions[self._topic] = batch[-1].offset + 1
        return changed

    def _decoded(self, batch: Sequence[Record]) -> Iterator[FactRecord]:
        for record in batch:
            if record.value is None:
                continue
            try:
                yield FactRecord(record.offset, record.timestamp, decode_fact(record.value))
            except RecordError as error:
                self._unreadable(record, error)
