"""learn: joins facts into outcomes and updates every agent's metrics and sums by differences.

learner-outcomes -> the shard's file, the metrics cache, learner-agent-metrics
"""

import asyncio
import heapq
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Mapping,
    MutableMapping,
    Sequence,
)
from typing import NamedTuple, Protocol

import msgspec

from learner_worker.contract.facts import Fact, ForgetMarker
from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros
from learner_worker.domain.agents import Agent, AgentRow, count_words
from learner_worker.domain.bucketed import bucketed, item_slices
from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import ONE_MORE_LOST, Change, Metrics, change, plus
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey, forgotten_cutoff, join, living
from learner_worker.domain.sums import KeptSums
from learner_worker.stages.agent_cache import AgentCache, AgentRows
from learner_worker.stages.forgetting import (
    Remainder,
    RowChange,
    Steps,
    keys_among,
    later_markers,
    overlaid,
    subtracted,
)
from learner_worker.stages.release import GiveWay, GradualRelease
from learner_worker.stages.strategy_sums import ChangedRow, StrategyAgent, StrategySums

_CHUNK = 100
"""Rows of a forgotten agent read at once: more would hold the file's thread while answers wait."""
BACKFILLED = 200
"""Rows counted for a strategy's sums between two yields to the event loop: more would delay answers."""


class Rows(AgentRows, Protocol):
    """Reads rows that are not in memory."""

    async def load_outcomes(self, keys: Sequence[OutcomeKey]) -> dict[OutcomeKey, Outcome]:
        """The rows of the given (task, agent) pairs."""
        ...

    def keys_of_agents(self, ids: Sequence[AgentId]) -> AsyncIterator[list[OutcomeKey]]:
        """The keys of all rows of the given agents, in pages."""
        ...

    async def outcomes_after(self, after: OutcomeKey, limit: int) -> list[Outcome]:
        """The next so many rows after a key, in the order of keys."""
        ...


class MarkerRecord(NamedTuple):
    """A forget marker, with its offset and record time (ms) in learner-outcomes."""

    offset: int
    timestamp_ms: int
    marker: ForgetMarker


class FactRecord(msgspec.Struct, frozen=True, gc=False):
    """A fact, with its offset and record time (ms) in learner-outcomes.

    Attributes:
        key: the key of its row; stored because it is looked up often.
    """

    offset: int
    timestamp_ms: int
    fact: Fact
    key: OutcomeKey

    @classmethod
    def of(cls, offset: int, timestamp_ms: int, fact: Fact) -> "FactRecord":
        """Makes the record of a fact, with its row's key."""
        return cls(offset, timestamp_ms, fact, (fact.task_id, fact.agent_id))


class LearnChanges(NamedTuple):
    """The rows changed since the last snapshot; an outcome that is not `known` has to be deleted.

    Attributes:
        keywords: by agent, the keywords that changed.
        counted_to: by strategy, the last row in its sums; None: all rows are.
    """

    outcomes: MutableMapping[OutcomeKey, Outcome]
    agents: Mapping[AgentId, AgentRow]
    keywords: Mapping[AgentId, MutableMapping[str, Tally]]
    forgotten: Mapping[AgentId, Micros]
    sums: Mapping[StrategyAgent, KeptSums] = {}
    counted_to: Mapping[str, OutcomeKey | None] = {}


_NO_CHANGES = LearnChanges({}, {}, {}, {})


class Learn:
    """The outcomes and agents of one shard: its file, overlaid with the changes since the last checkpoint.

    Args:
        rows: the shard's file.
        cached_agents: number of agents kept in memory; changed ones stay beyond it.
        forgotten: the file's times until which agents are forgotten; markers are added to it.
        sums: the sums of the strategies that keep some.

    Attributes:
        agents: the agents in memory.
        unpublished: the agents whose metrics record is due.
        writing: the last snapshot, while it is being written to the file.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        cached_agents: int,
        forgotten: dict[AgentId, Micros] | None = None,
        sums: Sequence[StrategySums] = (),
    ) -> None:
        self.rows = rows
        self.sums = sums
        self.agents = AgentCache(rows, cached_agents, with_sums=bool(sums))
        self._at_hand = self.agents.at_hand
        self._outcomes: MutableMapping[OutcomeKey, Outcome] = {}
        self._agent_rows: dict[AgentId, AgentRow] = {}
        self._keywords: dict[AgentId, MutableMapping[str, Tally]] = {}
        self.forgotten: dict[AgentId, Micros] = {} if forgotten is None else forgotten
        self._newly_forgotten: dict[AgentId, Micros] = {}
        self.writing = _NO_CHANGES
        self.unpublished: set[AgentId] = set()

    def pin(self, records: Iterable[FactRecord]) -> None:
        """Keeps the agents of some facts in the cache, once loaded, until others are pinned."""
        self.agents.pin({record.fact.agent_id for record in records})

    async def load(self, records: Iterable[FactRecord]) -> dict[OutcomeKey, Outcome]:
        """Loads what `apply` needs from the file: the outcomes' rows (returned) and the agents (cached).

        The agents must be pinned. A row that is loaded while earlier facts are still to be applied must not
        replace the row that those facts produce.
        """
        return await self._load({record.key for record in records})

    async def _load(self, keys: Collection[OutcomeKey]) -> dict[OutcomeKey, Outcome]:
        held = await self._outcomes_of(keys)
        await self.agents.load({agent_id for _, agent_id in keys}, for_change=True)
        return held

    async def _outcomes_of(self, keys: Collection[OutcomeKey]) -> dict[OutcomeKey, Outcome]:
        held: dict[OutcomeKey, Outcome] = {}
        missing: list[OutcomeKey] = []
        changed, writing = self._outcomes, self.writing.outcomes
        for key in keys:
            row = changed.get(key) or writing.get(key)
            if row is None:
                missing.append(key)
            else:
                held[key] = row
        if missing:
            held.update(await self.rows.load_outcomes(missing))
        return held

    def apply(self, records: Iterable[FactRecord], rows: dict[OutcomeKey, Outcome]) -> int:
        """Joins facts into loaded rows, without an await: a snapshot sees all of them or none.

        Returns:
            The number of facts that changed a row.
        """
        changed: list[ChangedRow] = []
        for record in records:
            fact, key = record.fact, record.key
            before = rows.get(key)
            if before is None:  # nearly always: there is nothing to join
                after = Outcome(fact.task_id, fact.agent_id, fact.close, fact.bid, fact.result)
            elif (after := join(before, fact)) is before:
                continue
            rows[key] = self._outcomes[key] = after
            agent = self._at_hand[key[1]]
            changed.append((agent, before, after))
            difference = change(before, after)
            if difference is ONE_MORE_LOST:  # nearly always: no keyword changes
                self._change_row(agent, difference.metrics, record.timestamp_ms, record.offset)
            elif difference:
                self._change_metrics(agent, difference, record.timestamp_ms, record.offset)
        for sums in self.sums:
            sums.replace(changed)
        return len(changed)

    async def expire(self, keys: Collection[OutcomeKey], cutoff: Cutoff, now_ms: int) -> list[Outcome]:
        """Removes the expired parts of some rows, one by one; returns those that lost a part, as they were.

        Must not be called while loaded facts are still to be applied: they would use the rows as they were.
        """
        self.agents.pin({agent_id for _, agent_id in keys})
        rows = await self._load(keys)
        expired, steps = [], Steps()
        for row in rows.values():
            left = living(row, cutoff)
            if left is not row:
                expired.append(row)
                self._outcomes[row.task_id, row.agent_id] = left
                agent, difference = self._at_hand[row.agent_id], self.difference(row, left)
                self._change(agent, difference, now_ms, agent.row.outcome_offset)
                await steps.after(difference.metrics)
        return expired

    async def forget(
        self, records: Sequence[MarkerRecord], on_row_swept: Callable[[Outcome, Cutoff], None]
    ) -> list[ForgetMarker]:
        """Applies forget markers to all rows of their agents.

        A snapshot contains the markers and all of their changes, or none of them. Must not be called while
        loaded facts are still to be applied. The metrics record of every named agent is written again, even
        if unchanged, to show that the marker was read.

        Args:
            on_row_swept: called for every row that loses a part, as it was, before any row is changed.

        Returns:
            The markers, new or known, that a later one of the same agent supersedes.
        """
        later, superseded = later_markers([record.marker for record in records], self.forgotten)
        last = {record.marker.agent_id: record for record in records}
        self.agents.pin(set(last))
        await self.agents.load(last, for_change=True)
        remainders = {agent_id: Remainder(self._at_hand[agent_id], self.sums) for agent_id in last}
        rows = await subtracted(self._losses(later, on_row_swept), remainders)
        for agent_id, remainder in remainders.items():
            await remainder.complete(self._keywords.get(agent_id, {}))
        rows = await overlaid(self._outcomes, rows)
        # No await after this: a snapshot sees all changes or none.
        self.agents.unused.add(self._outcomes)
        self._outcomes = rows
        for agent_id, remainder in remainders.items():
            self._put_in_place(self._at_hand[agent_id], remainder, last[agent_id])
        self.forgotten.update(later)
        self._newly_forgotten.update(later)
        return superseded

    async def _losses(
        self, until: Mapping[AgentId, Micros], on_row_swept: Callable[[Outcome, Cutoff], None]
    ) -> AsyncIterator[tuple[Outcome, RowChange]]:
        """The remainder of each row that loses a part, and what that changes of its agent."""
        async for key_page in self.keys_of_agents(until):
            for start in range(0, len(key_page), _CHUNK):
                rows = await self._outcomes_of(key_page[start : start + _CHUNK])
                for row in rows.values():
                    cutoff = forgotten_cutoff(until[row.agent_id])
                    left = living(row, cutoff)
                    if left is not row:
                        on_row_swept(row, cutoff)
                        yield left, self.difference(row, left)
                await asyncio.sleep(0)

    async def keys_of_agents(self, ids: Collection[AgentId]) -> AsyncIterator[list[OutcomeKey]]:
        """The keys of all rows of some agents, those in memory first; no row may be added meanwhile."""
        if not ids:
            return
        in_memory = await keys_among((self._outcomes, self.writing.outcomes), ids)
        yield list(in_memory)
        async for page in self.rows.keys_of_agents(list(ids)):
            yield [key for key in page if key not in in_memory]

    def _put_in_place(self, agent: Agent, remainder: Remainder, record: MarkerRecord) -> None:
        """Changes an agent and notes the marker's offset in its metrics; without outcomes, they are new."""
        for mapping in remainder.put_in_place():
            self.agents.unused.add(mapping)
        if remainder.keywords:
            self.agents.unused.add(self._keywords.get(agent.agent_id, {}))
            self._keywords[agent.agent_id] = remainder.keywords
        if remainder.has_changed:
            self._change_row(agent, remainder.metrics, record.timestamp_ms, record.offset)
        row = agent.row
        agent.row = msgspec.structs.replace(row, outcome_offset=record.offset) if agent.known else AgentRow()
        self._agent_rows[agent.agent_id] = agent.row
        self.unpublished.add(agent.agent_id)

    async def backfill(self) -> bool:
        """Counts the next rows for a strategy whose sums lack some; whether there are more.

        Not while facts that were loaded are still to be applied. How far the rows are counted and what was
        counted are in one snapshot, or in none.
        """
        sums = next((sums for sums in self.sums if not sums.is_complete), None)
        if sums is None or sums.counted_to is None:
            return False
        rows, counted_to = await rows_after(
            sums.counted_to, lambda: (self.writing.outcomes, self._outcomes), self.rows, BACKFILLED
        )
        self.agents.pin({row.agent_id for row in rows})
        await self.agents.load({row.agent_id for row in rows}, for_change=True)
        # From here on no await: a snapshot sees all or nothing.
        for row in rows:
            sums.count(self._at_hand[row.agent_id], row)
        sums.counted_to = counted_to
        return not all(sums.is_complete for sums in self.sums)

    def snapshot(self) -> LearnChanges:
        """Captures the changes since the last snapshot; they stay readable until `on_checkpoint_written`."""
        self.writing = LearnChanges(
            self._outcomes,
            self._agent_rows,
            self._keywords,
            self._newly_forgotten,
            {(s.name, agent_id): kept for s in self.sums for agent_id, kept in s.snapshot().items()},
            {sums.name: sums.counted_to for sums in self.sums},
        )
        self._outcomes, self._agent_rows, self._keywords, self._newly_forgotten = {}, {}, {}, {}
        return self.writing

    def on_checkpoint_written(self) -> None:
        """Notes that the last snapshot is in the file: memory may release it."""
        _discard(self.agents.unused, self.writing)
        self.writing = _NO_CHANGES
        self.agents.trim({*self._agent_rows, *(agent_id for sums in self.sums for agent_id in sums.changed)})

    async def free(self, give_way: GiveWay) -> None:
        """Frees the memory in short steps, and gives way after each; nobody may use it any more."""
        for changes in (self.writing, self.snapshot()):
            _discard(self.agents.unused, changes)
        await self.agents.free(give_way)

    def difference(self, before: Outcome | None, after: Outcome) -> RowChange:
        """What a row changes when it takes the place of its earlier state, for `_change` to apply later."""
        return RowChange(change(before, after), [sums.change(before, after) for sums in self.sums])

    def _change(self, agent: Agent, difference: RowChange, timestamp_ms: int, offset: int) -> None:
        for sums, sums_change in zip(self.sums, difference.sums, strict=True):
            if sums_change is not None:
                sums.apply(agent, sums_change)
        if difference.metrics:
            self._change_metrics(agent, difference.metrics, timestamp_ms, offset)

    def _change_metrics(self, agent: Agent, difference: Change, timestamp_ms: int, offset: int) -> None:
        agent_id = agent.agent_id
        self._change_row(agent, difference.metrics, timestamp_ms, offset)
        if difference.wins or difference.failures:
            changed = self._keywords[agent_id] = bucketed(self._keywords.get(agent_id) or {})
            changed.update(count_words(agent, difference))

    def _change_row(self, agent: Agent, difference: Metrics, timestamp_ms: int, offset: int) -> None:
        agent_id, row = agent.agent_id, agent.row
        agent.row = AgentRow(plus(row.metrics, difference), max(row.as_of_ms, timestamp_ms), offset)
        self._agent_rows[agent_id] = agent.row
        self.unpublished.add(agent_id)


def _discard(unused: GradualRelease, changes: LearnChanges) -> None:
    unused.add(changes.outcomes)
    for tallies in changes.keywords.values():
        unused.add(tallies)


async def rows_after(
    after: OutcomeKey, memory: Callable[[], Iterable[Mapping[OutcomeKey, Outcome]]], file: Rows, limit: int
) -> tuple[list[Outcome], OutcomeKey | None]:
    """The next rows after a key, and the last key among them; None: no row comes after them.

    No row may change meanwhile, but a checkpoint may move rows from memory to the file: so the file is read
    after the memory, and the memory is searched for keys first, some at a time.

    Args:
        memory: rows that are not in the file yet, the older ones first.
    """
    keys = set[OutcomeKey]()
    for rows in memory():
        for some in item_slices(rows):
            keys = set(heapq.nsmallest(limit, keys.union(key for key, _ in some if key > after)))
            await asyncio.sleep(0)
    newer = {key: row for rows in memory() for key in keys if (row := rows.get(key)) is not None}
    in_file = {(row.task_id, row.agent_id): row for row in await file.outcomes_after(after, limit)}
    found = {**in_file, **newer}
    page = sorted(found)[:limit]
    return [found[key] for key in page], page[-1] if len(page) == limit else None
