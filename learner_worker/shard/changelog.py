"""Applies a changelog partition to rows: for an owner, a standby, or a file that is being rebuilt."""

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
from learner_worker.shard.pacing import Pacing
from learner_worker.stages.learn import FactRecord, Learn, MarkerRecord
from learner_worker.store.identity import LastRecord

_DECODED = 2_000
"""Facts decoded in one step, and joined before a sweep may run: more would block the event loop."""
_LOADED = 500
"""Facts whose rows one read loads: fewer would pay for more switches to the file's thread."""
_CHARACTERS = 10_000
"""Characters of descriptions in a chunk of several facts: counting that many words takes milliseconds."""
_Content = Fact | ForgetMarker | None


class RetentionFilter(Protocol):
    """Decides which parts of facts still count, and is notified of what is superseded."""

    def filter_read(self, fact: Fact) -> Fact | None:
        """The part of a fact that still counts; None if nothing does."""
        ...

    def on_tombstone_read(self, key: bytes | None) -> None:
        """Is called for every tombstone that is read."""
        ...

    def on_row_swept(self, row: Outcome, cutoff: Cutoff) -> None:
        """Is called for a row that is about to lose its parts before a cutoff."""
        ...

    def on_marker_superseded(self, marker: ForgetMarker) -> None:
        """Is called for a marker that a later cutoff of the same agent supersedes."""
        ...


class MarkerFilter:
    """Filters only what forget markers cover: for a file whose rows an owner will sweep later.

    Args:
        forgotten: the time until which each agent is forgotten; learn adds to it.
    """

    def __init__(self, forgotten: Mapping[AgentId, Micros]) -> None:
        self._forgotten = forgotten

    def filter_read(self, fact: Fact) -> Fact | None:
        """The fact without the parts that are forgotten of its agent; None if nothing is left."""
        cutoff = agents_cutoff(fact.agent_id, None, self._forgotten)
        return fact if cutoff is None else living_fact(fact, cutoff)

    def on_tombstone_read(self, key: bytes | None) -> None:
        """Does nothing: the rows already reflect it."""

    def on_row_swept(self, row: Outcome, cutoff: Cutoff) -> None:
        """Does nothing: the owner tombstones its facts."""

    def on_marker_superseded(self, marker: ForgetMarker) -> None:
        """Does nothing: the owner tombstones it."""


class ChangelogApplier:
    """Feeds learn with a changelog partition and advances the position with it.

    Args:
        positions: holds the changelog's position; a snapshot copies it together with learn's changes.
        retention: filters out what has expired.
        on_unreadable: is called for a record that is no fact; the record is skipped.
        pacing: yields to the event loop between two chunks.

    Attributes:
        unreadable: number of records that were no facts.
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
        self._last_record: LastRecord | None = None

    async def take(self, records: Sequence[Record]) -> int:
        """Joins records into rows.

        Returns:
            The number of records that changed a row.

        Raises:
            StateError: the rows cannot be read.
        """
        changed = 0
        for batch in chunked(records, _DECODED):
            async with self._applying:
                changed += await self._apply(batch)
        return changed

    async def expire(self, keys: Collection[OutcomeKey], cutoff: Cutoff, now_ms: int) -> list[Outcome]:
        """Removes the expired parts of some rows; waits until facts already loaded have been applied.

        Returns:
            The rows that lost a part, as they were before.
        """
        async with self._applying:
            return await self._learn.expire(keys, cutoff, now_ms)

    async def backfill(self) -> bool:
        """Counts some rows for the strategies whose sums lack some; whether there are more."""
        async with self._applying:
            return await self._learn.backfill()

    async def _apply(self, batch: Sequence[Record]) -> int:
        changed = 0
        decoded = list(self._decoded(batch))
        for are_markers, run in _runs(decoded):
            if are_markers:
                await self._take_markers(run)
            else:
                changed += await self._take_facts(run)
        last = batch[-1]
        self._positions[self._topic] = last.offset + 1
        self._last_record = LastRecord.of(last.offset, last.timestamp, last.key)
        return changed

    def take_last_record(self) -> LastRecord | None:
        """The last record, for a checkpoint; None if it has not changed since the previous checkpoint."""
        found, self._last_record = self._last_record, None
        return found

    async def _take_facts(self, run: Iterable[tuple[Record, _Content]]) -> int:
        """Joins facts into rows; meanwhile the rows for the next batch are read from the file."""
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
                for chunk, full in _chunks(batch, rows, self._pacing.chunk):
                    # No await before the position is set: a snapshot must see both or neither.
                    changed += self._learn.apply(chunk, rows)
                    self._positions[self._topic] = chunk[-1].offset + 1
                    await self._pacing.after_chunk(full=full)
        finally:
            if loading is not None:
                loading.cancel()
        return changed

    def _load_soon(self, facts: Sequence[FactRecord]) -> asyncio.Task[dict[OutcomeKey, Outcome]]:
        return asyncio.create_task(self._learn.load(facts), name="load-rows")

    async def _take_markers(self, run: Iterable[tuple[Record, _Content]]) -> None:
        """Applies forget markers, before any record that follows them."""
        markers = [
            MarkerRecord(record.offset, record.timestamp, content)
            for record, content in run
            if isinstance(content, ForgetMarker)
        ]
        # `forget` does not await after its last change: a snapshot must see both or neither.
        superseded = await self._learn.forget(markers, self._retention.on_row_swept)
        self._positions[self._topic] = markers[-1].offset + 1
        for marker in superseded:
            self._retention.on_marker_superseded(marker)

    def _decoded(self, batch: Sequence[Record]) -> Iterator[tuple[Record, _Content]]:
        """The records' decoded values; None for a tombstone."""
        for record in batch:
            try:
                yield record, None if record.value is None else decode_outcome_record(record.value)
            except RecordError as error:
                self.unreadable += 1
                self._on_unreadable(record, error)

    def _filtered(self, run: Iterable[tuple[Record, _Content]]) -> Iterator[FactRecord]:
        """The facts, without the parts that do not count."""
        for record, content in run:
            if not isinstance(content, Fact):
                self._retention.on_tombstone_read(record.key)
            elif (fact := self._retention.filter_read(content)) is not None:
                yield FactRecord.of(record.offset, record.timestamp, fact)


def _runs(
    decoded: Sequence[tuple[Record, _Content]],
) -> Iterator[tuple[bool, Iterable[tuple[Record, _Content]]]]:
    """Groups what was read into runs of markers and of other records; usually one run without markers."""
    if any(type(content) is ForgetMarker for _, content in decoded):
        return itertools.groupby(decoded, _is_marker)
    return iter([(False, decoded)])


def _add(rows: dict[OutcomeKey, Outcome], loaded: Mapping[OutcomeKey, Outcome]) -> None:
    """Adds loaded rows; keeps existing ones, which may have changed since the read began."""
    for key, row in loaded.items():
        rows.setdefault(key, row)


def _is_marker(item: tuple[Record, _Content]) -> bool:
    return isinstance(item[1], ForgetMarker)


def _chunks(
    facts: Iterable[FactRecord], rows: Mapping[OutcomeKey, Outcome], size: int
) -> Iterator[tuple[Sequence[FactRecord], bool]]:
    """Divides facts into chunks, shorter ones where long descriptions have to be counted word by word.

    With each comes whether it is as much work as a chunk may be.
    """
    chunk: list[FactRecord] = []
    characters = 0
    for record in facts:
        more = _characters(record, rows)
        if chunk and (len(chunk) == size or characters + more > _CHARACTERS):
            yield chunk, True
            chunk, characters = [], 0
        chunk.append(record)
        characters += more
    if chunk:
        yield chunk, len(chunk) == size or characters >= _CHARACTERS


def _characters(record: FactRecord, rows: Mapping[OutcomeKey, Outcome]) -> int:
    """The length of the description whose words may count, in the fact or in the row that it changes."""
    if record.fact.bid is not None:
        return len(record.fact.bid.description)
    row = rows.get(record.key)
    return 0 if row is None else len(row.description)
