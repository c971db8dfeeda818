"""A changelog partition applied to rows: for an owner, for a standby and for a file made anew."""

import asyncio
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
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
"""Facts decoded at once, and joined before a sweep may have its turn: decoding takes two milliseconds."""
_LOADED = 500
"""Facts whose rows are read from the file at once: a read costs two changes of thread."""
_WRITTEN = 20_000
"""Facts joined between two transactions: what memory holds besides the cache."""
BEYOND_ANY_END = 2**62
"""The position of a file whose rows the changelog may lack: whoever owns the shard publishes them again."""
_Content = Fact | ForgetMarker | None


class RetentionFilter(Protocol):
    """Decides which parts of the facts that are read still count, and is told of what is superseded."""

    def filter_read(self, fact: Fact) -> Fact | None:
        """What of a fact still counts."""
        ...

    def on_tombstone_read(self, key: bytes | None) -> None:
        """A tombstone was read."""
        ...

    def on_row_swept(self, row: Outcome, cutoff: Cutoff) -> None:
        """A row loses what lies before a cutoff."""
        ...

    def on_marker_superseded(self, marker: ForgetMarker) -> None:
        """A marker was read that says less than a later one."""
        ...


class MarkerFilter:
    """Everything counts but what markers forget: for a file whose rows an owner will sweep.

    Args:
        forgotten: until when agents are forgotten; learn adds to it.
    """

    def __init__(self, forgotten: Mapping[AgentId, Micros]) -> None:
        self._forgotten = forgotten

    def filter_read(self, fact: Fact) -> Fact | None:
        """The fact without what is forgotten of its agent."""
        cutoff = agents_cutoff(fact.agent_id, None, self._forgotten)
        return fact if cutoff is None else living_fact(fact, cutoff)

    def on_tombstone_read(self, key: bytes | None) -> None:
        """A tombstone says nothing that rows would not say."""

    def on_row_swept(self, row: Outcome, cutoff: Cutoff) -> None:
        """The owner tombstones its facts."""

    def on_marker_superseded(self, marker: ForgetMarker) -> None:
        """The owner tombstones it."""


class ChangelogApplier:
    """Feeds learn with a changelog partition and moves the position with it.

    Args:
        positions: where the position of the changelog is kept; a snapshot copies it with learn's changes.
        retention: filters out what has expired.
        on_unreadable: told of a record that is no fact; it is stepped over.
        pacing: gives way between two chunks.

    Attributes:
        unreadable: how many records were no facts.
    """

    def __init__(
        self,
        learn: Learn,
        positions: MutableMapping[TopicName, int],
        topic: TopicName,
        retention: RetentionFilter,
        *,
        on_unreadable: Callable[[Record, RecordError], None],
        pacing: Pacing,
    ) -> None:
        self._learn = learn
        self._positions = positions
        self._topic = topic
        self._retention = retention
        self._on_unreadable = on_unreadable
        self._pacing = pacing
        self._applying = asyncio.Lock()
        self.unreadable = 0

    async def take(self, records: Sequence[Record]) -> int:
        """Joins records in.

        Returns:
            How many of them changed something.

        Raises:
            StateError: the rows cannot be read.
        """
        changed = 0
        for batch in chunked(records, _DECODED):
            async with self._applying:
                changed += await self._apply(batch)
        return changed

    async def expire(self, keys: Collection[OutcomeKey], cutoff: Cutoff, now_ms: int) -> list[Outcome]:
        """Takes the expired parts out of some rows, not while loaded facts are still to be applied.

        Returns:
            The rows that lost something, as they were.
        """
        async with self._applying:
            return await self._learn.expire(keys, cutoff, now_ms)

    async def _apply(self, batch: Sequence[Record]) -> int:
        changed = 0
        decoded = list(self._decoded(batch))
        for are_markers, run in _runs(decoded):
            if are_markers:
                await self._take_markers(run)
            else:
                changed += await self._take_facts(run)
        self._positions[self._topic] = batch[-1].offset + 1
        return changed

    async def _take_facts(self, run: Iterable[tuple[Record, _Content]]) -> int:
        """Joins facts in; while some are joined, the rows of the next ones are read from the file."""
        changed = 0
        batches = list(chunked(list(self._filtered(run)), _LOADED))
        rows: dict[OutcomeKey, Outcome] = {}
        self._learn.pin(itertools.chain.from_iterable(batches))
        loading = self._load_soon(batches[0]) if batches else None
        try:
            for number, batch in enumerate(batches, start=1):
                if loading is not None:
                    _add(rows, await loading)
                loading = self._load_soon(batches[number]) if number < len(batches) else None
                for chunk in chunked(batch, CHUNK):
                    # To the position no await: a snapshot sees both.
                    changed += self._learn.apply(chunk, rows)
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
        superseded = await self._learn.forget(markers, self._retention.on_row_swept)
        self._positions[self._topic] = markers[-1].offset + 1
        for marker in superseded:
            self._retention.on_marker_superseded(marker)

    def _decoded(self, batch: Sequence[Record]) -> Iterator[tuple[Record, _Content]]:
        """What the records say; a tombstone nothing."""
        for record in batch:
            try:
                yield record, None if record.value is None else decode_outcome_record(record.value)
            except RecordError as error:
                self.unreadable += 1
                self._on_unreadable(record, error)

    def _filtered(self, run: Iterable[tuple[Record, _Content]]) -> Iterator[FactRecord]:
        """Facts, without what does not count."""
        for record, content in run:
            if not isinstance(content, Fact):
                self._retention.on_tombstone_read(record.key)
            elif (fact := self._retention.filter_read(content)) is not None:
                yield FactRecord.of(record.offset, record.timestamp, fact)


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


def _pass_over(record: Record, error: RecordError) -> None:
    """A record that is no fact says nothing."""


class ChangelogReplay:
    """A changelog partition applied to a shard's file, in order, without a shard's other work.

    The file then holds what a restore would have left in it: outcomes, agents, keywords and the changelog's
    position; of the other topics it knows nothing. After an error the replay is of no use any more: the file
    is whole up to its own position, and another replay may go on from there.

    Attributes:
        records: how many records it took.
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
        self._positions = {topic: position}
        self._applier = ChangelogApplier(
            self.learn,
            self._positions,
            topic,
            MarkerFilter(forgotten),
            on_unreadable=_pass_over,
            pacing=Pacing(),
        )
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

    @property
    def unreadable(self) -> int:
        """How many of the records are no facts; they are passed over, as a shard passes over them."""
        return self._applier.unreadable

    async def take(self, records: Sequence[Record]) -> None:
        """Joins records in; those before the position are known. Now and then it writes.

        Raises:
            StateError: the file cannot be read or written.
            UpgradeRequiredError: a newer learner wrote a fact.
        """
        fresh = [record for record in records if record.offset >= self.position]
        for batch in chunked(fresh, _DECODED):
            await self._applier.take(batch)
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
