"""The fold of a shard's changelog: facts into rows, for an owner, a standby and a file made anew."""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Protocol

from learner_worker.contract.facts import Fact, ForgetMarker, decode_outcome_record
from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey, agents_cutoff, living_fact
from learner_worker.errors import RecordError
from learner_worker.kafka.records import Record, chunked
from learner_worker.shard.pacing import CHUNK, Pacing
from learner_worker.stages.learn import FactRecord, Learn, MarkerRecord
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.statements import Checkpoint

_DECODED = 2_000
"""Facts decoded at once: two milliseconds."""
_LOADED = 500
"""Facts whose rows are read from the file at once: a read costs two changes of thread."""
_WRITTEN = 20_000
"""Facts joined between two transactions: what memory holds besides the cache."""
BEYOND_ANY_END = 2**62
"""The position of a file whose rows the changelog may lack: whoever owns the shard publishes them again."""
_Content = Fact | ForgetMarker | None
Unreadable = Callable[[Record, RecordError], None]


class RetentionFilter(Protocol):
    """What decides which facts still count."""

    def read(self, fact: Fact) -> Fact | None:
        """What of a fact still counts."""
        ...

    def tombstone_read(self, key: bytes | None) -> None:
        """A tombstone was read."""
        ...

    def swept(self, row: Outcome, cutoff: Cutoff) -> None:
        """A row is about to lose what lies before a cutoff."""
        ...

    def outdated(self, marker: ForgetMarker) -> None:
        """A marker was read that says less than a later one."""
        ...


class MarkerFilter:
    """Everything counts but what markers forget: for a file whose rows an owner will sweep.

    Args:
        forgotten: until when agents are forgotten; learn adds to it.
    """

    def __init__(self, forgotten: Mapping[AgentId, Micros]) -> None:
        self._forgotten = forgotten

    def read(self, fact: Fact) -> Fact | None:
        """The fact without what is forgotten of its agent."""
        cutoff = agents_cutoff(fact.agent_id, None, self._forgotten)
        return fact if cutoff is None else living_fact(fact, cutoff)

    def tombstone_read(self, key: bytes | None) -> None:
        """A tombstone says nothing that rows would not say."""

    def swept(self, row: Outcome, cutoff: Cutoff) -> None:
        """The owner tombstones its facts."""

    def outdated(self, marker: ForgetMarker) -> None:
        """The owner tombstones it."""


class ChangelogApplier:
    """Feeds learn with a changelog partition and moves the position with it.

    Args:
        positions: where the position of the changelog is kept; a snapshot copies it with learn's changes.
        sieve: what has expired does not pass it.
        pacing: gives way between two chunks.
    """

    def __init__(
        self,
        learn: Learn,
        positions: MutableMapping[TopicName, int],
        topic: TopicName,
        sieve: RetentionFilter,
        *,
        pacing: Pacing,
    ) -> None:
        self._learn = learn
        self._positions = positions
        self._topic = topic
        self._sieve = sieve
        self._pacing = pacing

    async def take(self, records: Sequence[Record], unreadable: Unreadable) -> int:
        """Joins records in; how many of them changed something.

        Args:
            unreadable: told of a record that is no fact; it is stepped over. Not kept: a shard and its intake
                that held each other would stay in memory, with all of their agents, once they are closed.

        Raises:
            StateError: the rows cannot be read.
        """
        changed = 0
        for batch in chunked(records, _DECODED):
            decoded = list(_decoded(batch, unreadable))
            for forgets, run in _runs(decoded):
                if forgets:
                    await self._take_markers(run)
                else:
                    changed += await self._take_facts(run)
            self._positions[self._topic] = batch[-1].offset + 1
        return changed

    async def _take_facts(self, run: Iterable[tuple[Record, _Content]]) -> int:
        """Joins facts in; while some are joined, the rows of the next ones are read from the file.

        Waiting for each read in turn took half of the time.
        """
        changed = 0
        batches = list(chunked(list(self._sieved(run)), _LOADED))
        rows: dict[OutcomeKey, Outcome] = {}
        self._learn.pin(itertools.chain.from_iterable(batches))
        loading = self._load_soon(batches[0]) if batches else None
        try:
            for number, batch in enumerate(batches, start=1):
                if loading is not None:
                    _add(rows, await loading)
                loading = self._load_soon(batches[number]) if number < len(batches) else None
                for chunk in chunked(batch, CHUNK):
                    changed += self._learn.apply(
                        chunk, rows
                    )  # to the position no await: a snapshot sees both
                    self._positions[self._topic] = chunk[-1].offset + 1
                    await self._pacing.after_chunk(len(chunk))
        finally:
            if loading is not None:
                loading.cancel()
        return changed

    def _load_soon(self, facts: Sequence[FactRecord]) -> asyncio.Task[dict[OutcomeKey, Outcome]]:
        return asyncio.create_task(self._learn.load(facts), name="load-rows")

    async def _take_markers(self, run: Iterable[tuple[Record, _Content]]) -> None:
        """Forgets what markers say, before anything that follows them is looked at."""
        markers = [
            MarkerRecord(record.offset, record.timestamp, content)
            for record, content in run
            if isinstance(content, ForgetMarker)
        ]
        # To the position no await: a snapshot sees both.
        outdated = await self._learn.forget(markers, self._sieve.swept)
        self._positions[self._topic] = markers[-1].offset + 1
        for marker in outdated:
            self._sieve.outdated(marker)

    def _sieved(self, run: Iterable[tuple[Record, _Content]]) -> Iterator[FactRecord]:
        """Facts, without what does not count."""
        for record, content in run:
            if not isinstance(content, Fact):
                self._sieve.tombstone_read(record.key)
            elif (fact := self._sieve.read(content)) is not None:
                yield FactRecord.of(record.offset, record.timestamp, fact)


def _decoded(batch: Sequence[Record], unreadable: Unreadable) -> Iterator[tuple[Record, _Content]]:
    """What the records say; a tombstone nothing."""
    for record in batch:
        try:
            yield record, None if record.value is None else decode_outcome_record(record.value)
        except RecordError as error:
            unreadable(record, error)


def _runs(
    decoded: Sequence[tuple[Record, _Content]],
) -> Iterator[tuple[bool, Iterable[tuple[Record, _Content]]]]:
    """What was read in runs of markers and of everything else; nearly always one run without a marker."""
    if any(type(content) is ForgetMarker for _, content in decoded):
        return itertools.groupby(decoded, _is_marker)
    return iter([(False, decoded)])


def _add(rows: dict[OutcomeKey, Outcome], loaded: Mapping[OutcomeKey, Outcome]) -> None:
    """Adds loaded rows; facts applied since they were asked for may have made more of some of them."""
    for key, row in loaded.items():
        rows.setdefault(key, row)


def _is_marker(item: tuple[Record, _Content]) -> bool:
    return isinstance(item[1], ForgetMarker)


class ChangelogReplay:
    """A changelog partition folded into a shard's file, in order, without a shard's other work.

    The file then holds what a restore would have left in it: outcomes, agents, keywords and the changelog's
    position; of the other topics it knows nothing. After an error the fold is worthless: the file is whole,
    up to its own position; open another from there.

    Attributes:
        records: how many records it took.
        unreadable: how many of them are no facts; they are passed over, as a shard passes over them.
    """

    def __init__(
        self,
        file: ShardFile,
        topic: TopicName,
        *,
        position: int,
        cached_agents: int,
        forgotten: dict[AgentId, Micros],
    ) -> None:
        self.learn = Learn(file, cached_agents=cached_agents, forgotten=forgotten)
        self.records = 0
        self.unreadable = 0
        self._positions = {topic: position}
        sieve = MarkerFilter(forgotten)
        self._intake = ChangelogApplier(self.learn, self._positions, topic, sieve, pacing=Pacing())
        self._file = file
        self._topic = topic
        self._unwritten = 0

    @classmethod
    async def open(cls, file: ShardFile, topic: TopicName, *, cached_agents: int) -> "ChangelogReplay":
        """Goes on where the file ends."""
        positions = await file.load_positions()
        return cls(
            file,
            topic,
            position=positions.get(topic, 0),
            cached_agents=cached_agents,
            forgotten=await file.load_forgotten(),
        )

    @property
    def position(self) -> int:
        """The next offset; the file's own follows with `write`."""
        return self._positions[self._topic]

    async def take(self, records: Sequence[Record]) -> None:
        """Joins records in; those before the position are known. Now and then it writes.

        Raises:
            StateError: the file cannot be read or written.
            UpgradeRequiredError: a newer learner wrote a fact.
        """
        fresh = [record for record in records if record.offset >= self.position]
        for batch in chunked(fresh, _DECODED):
            await self._intake.take(batch, self._pass_over)
            self.records += len(batch)
            self._unwritten += len(batch)
            if self._unwritten >= _WRITTEN:
                await self.write()

    async def reach(self, position: int) -> None:
        """Writes what was taken; offsets below the position that held no record count as read.

        Raises:
            StateError: the file cannot be written.
        """
        self.skip_to(max(self.position, position))
        await self.write()

    def skip_to(self, position: int) -> None:
        """Moves over offsets that hold no record, or back when the changelog was made anew."""
        self._positions[self._topic] = position

    async def write(self, position: int | None = None) -> None:
        """Writes rows and position in one transaction; another position than its own, if one is given.

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
            )
        )
        self.learn.on_checkpoint_written()
        self.learn.unpublished.clear()  # the file keeps them for the day a replica owns the shard

    def _pass_over(self, _: Record, __: RecordError) -> None:
        self.unreadable += 1
