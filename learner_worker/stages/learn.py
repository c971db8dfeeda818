"""learn: joins facts into outcomes and keeps every agent's metrics by differences.

learner-outcomes -> the shard's file, the metrics cache, learner-agent-metrics
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from learner_worker.contract.facts import Fact, ForgetMarker
from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros
from learner_worker.domain.agents import Agent, AgentRow
from learner_worker.domain.keywords import Tally, tally_of
from learner_worker.domain.metrics import Change, change, plus
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey, forgotten_cutoff, join, living
from learner_worker.stages.agent_cache import AgentCache, AgentRows

_NO_TALLY = Tally()
_CHUNK = 100
"""Rows of a forgotten agent looked at between two yields to the event loop: a millisecond."""


class Rows(AgentRows, Protocol):
    """Where learn reads what it does not have in memory."""

    async def load_outcomes(self, keys: Sequence[OutcomeKey]) -> dict[OutcomeKey, Outcome]:
        """The rows of the given (task, agent) pairs."""
        ...

    def keys_of_agents(self, ids: Sequence[AgentId]) -> AsyncIterator[list[OutcomeKey]]:
        """The keys of all rows of the given agents, in pages."""
        ...


class MarkerRecord(NamedTuple):
    """A marker as read: with its offset and record time (ms) in learner-outcomes."""

    offset: int
    timestamp_ms: int
    marker: ForgetMarker


class FactRecord(msgspec.Struct, frozen=True, gc=False):
    """A fact as read: with its offset and record time (ms) in learner-outcomes.

    Attributes:
        key: the row it is joined into; looked up so often that it is made once.
    """

    offset: int
    timestamp_ms: int
    fact: Fact
    key: OutcomeKey

    @classmethod
    def of(cls, offset: int, timestamp_ms: int, fact: Fact) -> "FactRecord":
        """A fact of the changelog at its place."""
        return cls(offset, timestamp_ms, fact, (fact.task_id, fact.agent_id))


class LearnChanges(NamedTuple):
    """The rows that changed since the last snapshot; an outcome that is not `known` is to be deleted."""

    outcomes: Mapping[OutcomeKey, Outcome]
    agents: Mapping[AgentId, AgentRow]
    keywords: Mapping[tuple[AgentId, str], Tally]
    forgotten: Mapping[AgentId, Micros]


_NO_CHANGES = LearnChanges({}, {}, {}, {})


class Learn:
    """The outcomes and agents of one shard: a file below, the changes since the last checkpoint above it.

    Args:
        rows: the shard's file.
        cached_agents: how many agents stay in memory; changed ones always do.
        forgotten: until when agents are forgotten, as the file says; markers are added to it.

    Attributes:
        agents: those in memory.
        forgotten: until when agents are forgotten.
        unpublished: the agents whose metrics record is due.
        writing: the last snapshot, until it is in the file.
    """

    def __init__(
        self, rows: Rows, *, cached_agents: int, forgotten: dict[AgentId, Micros] | None = None
    ) -> None:
        self.rows = rows
        self.agents = AgentCache(rows, cached_agents)
        self._at_hand = self.agents.at_hand
        self._outcomes: dict[OutcomeKey, Outcome] = {}
        self._agent_rows: dict[AgentId, AgentRow] = {}
        self._tallies: dict[tuple[AgentId, str], Tally] = {}
        self.forgotten: dict[AgentId, Micros] = {} if forgotten is None else forgotten
        self._newly_forgotten: dict[AgentId, Micros] = {}
        self.writing = _NO_CHANGES
        self.unpublished: set[AgentId] = set()

    def pin(self, records: Iterable[FactRecord]) -> None:
        """Keeps the agents of some facts in the cache, once loaded, until others are pinned."""
        self.agents.pin({record.fact.agent_id for record in records})

    async def load(self, records: Iterable[FactRecord]) -> dict[OutcomeKey, Outcome]:
        """Fetches what `apply` needs of the file: the outcomes' rows (returned) and the agents (cached).

        The agents have to be pinned. Rows that are loaded while earlier facts are still to be applied are
        worth less than what those make of them.
        """
        return await self._load({record.key for record in records})

    async def _load(self, keys: Collection[OutcomeKey]) -> dict[OutcomeKey, Outcome]:
        held = await self._outcomes_of(keys)
        await self.agents.load({agent_id for _, agent_id in keys})
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
        """Joins loaded facts in, without an await: a snapshot sees all or nothing.

        Returns:
            How many of them changed something.
        """
        changed = 0
        for record in records:
            changed += self._join(record, rows)
        return changed

    async def expire(self, keys: Collection[OutcomeKey], cutoff: Cutoff, now_ms: int) -> list[Outcome]:
        """Takes the expired parts out of some rows; those that lost something, as they were.

        Not while facts that were loaded are still to be applied: they would count on the rows as they were.
        """
        self.agents.pin({agent_id for _, agent_id in keys})
        rows = await self._load(keys)  # from here on no await: a snapshot sees all or nothing
        return [row for row in rows.values() if self._expire(row, cutoff, now_ms)]

    def _expire(self, row: Outcome, cutoff: Cutoff, now_ms: int) -> bool:
        left = living(row, cutoff)
        if left is row:
            return False
        self._outcomes[row.task_id, row.agent_id] = left
        difference = change(row, left)
        if difference:
            agent = self._at_hand[row.agent_id]
            self._change(agent, difference, now_ms, agent.row.outcome_offset)
        return True

    async def forget(
        self, records: Sequence[MarkerRecord], on_row_swept: Callable[[Outcome, Cutoff], None]
    ) -> list[ForgetMarker]:
        """Takes what markers forget out of all rows of their agents.

        The markers and what they take away are in one snapshot, or in none. Not while facts that were loaded
        are still to be applied. Every agent named has its metrics record written anew, changed or not: it
        says that the marker was read.

        Args:
            on_row_swept: told of every row that loses something, as it was, before any does.

        Returns:
            The markers, of these and of those known before, that say less than a later one.
        """
        later, superseded = later_markers(records, self.forgotten)
        last = {record.marker.agent_id: record for record in records}
        self.agents.pin(set(last))
        await self.agents.load(last)
        losses = [loss async for loss in self._losses(later, on_row_swept)]
        # From here on no await: a snapshot sees all or nothing.
        for row, difference in losses:
            self._outcomes[row.task_id, row.agent_id] = row
            if difference:
                record = last[row.agent_id]
                self._change(self._at_hand[row.agent_id], difference, record.timestamp_ms, record.offset)
        self.forgotten.update(later)
        self._newly_forgotten.update(later)
        for agent_id, record in last.items():
            self._note_marker(self._at_hand[agent_id], record.offset)
        return superseded

    async def _losses(
        self, until: Mapping[AgentId, Micros], on_row_swept: Callable[[Outcome, Cutoff], None]
    ) -> AsyncIterator[tuple[Outcome, Change]]:
        """What is left of each row that loses something, and what that makes of the metrics."""
        async for key_page in self.keys_of_agents(until):
            for start in range(0, len(key_page), _CHUNK):
                rows = await self._outcomes_of(key_page[start : start + _CHUNK])
                for row in rows.values():
                    cutoff = forgotten_cutoff(until[row.agent_id])
                    left = living(row, cutoff)
                    if left is not row:
                        on_row_swept(row, cutoff)
                        yield left, change(row, left)
                await asyncio.sleep(0)

    async def keys_of_agents(self, ids: Collection[AgentId]) -> AsyncIterator[list[OutcomeKey]]:
        """The keys of all rows of some agents, those in memory first; no other row comes meanwhile."""
        if not ids:
            return
        in_memory = {key for rows in (self._outcomes, self.writing.outcomes) for key in rows if key[1] in ids}
        yield list(in_memory)
        async for page in self.rows.keys_of_agents(list(ids)):
            yield [key for key in page if key not in in_memory]

    def _note_marker(self, agent: Agent, offset: int) -> None:
        """The agent's metrics cover the marker; without outcomes they are those of a new agent."""
        agent.row = msgspec.structs.replace(agent.row, outcome_offset=offset) if agent.known else AgentRow()
        self._agent_rows[agent.agent_id] = agent.row
        self.unpublished.add(agent.agent_id)

    def snapshot(self) -> LearnChanges:
        """Freezes what changed since the last snapshot; it stays readable until `on_checkpoint_written`."""
        self.writing = LearnChanges(self._outcomes, self._agent_rows, self._tallies, self._newly_forgotten)
        self._outcomes, self._agent_rows, self._tallies, self._newly_forgotten = {}, {}, {}, {}
        return self.writing

    def on_checkpoint_written(self) -> None:
        """The frozen changes are in the file: memory may let go of them."""
        self.writing = _NO_CHANGES
        self.agents.trim(self._agent_rows)

    def _join(self, record: FactRecord, rows: dict[OutcomeKey, Outcome]) -> bool:
        fact, key = record.fact, record.key
        before = rows.get(key)
        if before is None:  # nearly always: there is nothing to join
            after = Outcome(fact.task_id, fact.agent_id, fact.close, fact.bid, fact.result)
        elif (after := join(before, fact)) is before:
            return False
        rows[key] = self._outcomes[key] = after
        difference = change(before, after)
        if difference:
            self._change(self._at_hand[key[1]], difference, record.timestamp_ms, record.offset)
        return True

    def _change(self, agent: Agent, difference: Change, timestamp_ms: int, offset: int) -> None:
        agent_id, row = agent.agent_id, agent.row
        agent.row = AgentRow(plus(row.metrics, difference.metrics), max(row.as_of_ms, timestamp_ms), offset)
        self._agent_rows[agent_id] = agent.row
        self.unpublished.add(agent_id)
        if difference.wins or difference.failures:
            self._count_words(agent, difference)

    def _count_words(self, agent: Agent, difference: Change) -> None:
        tallies, wins, failures = agent.tallies, difference.wins, difference.failures
        for keyword in wins.keys() | failures.keys():
            old_wins, old_failures = tallies.get(keyword, _NO_TALLY)
            tally = tally_of(old_wins + wins.get(keyword, 0), old_failures + failures.get(keyword, 0))
            self._tallies[agent.agent_id, keyword] = tally
            if tally != _NO_TALLY:
                tallies[keyword] = tally
            else:
                tallies.pop(keyword, None)


def later_markers(
    records: Iterable[MarkerRecord], known: Mapping[AgentId, Micros]
) -> tuple[dict[AgentId, Micros], list[ForgetMarker]]:
    """What some markers add to what is known of forgotten agents.

    Returns:
        Until when agents are to be forgotten, where that is later than what is known; and the markers, of
        these and of those known, that say less than a later one.
    """
    later: dict[AgentId, Micros] = {}
    superseded: list[ForgetMarker] = []
    for _, _, marker in records:
        agent_id, until = marker.agent_id, marker.forget_until
        before = later.get(agent_id, known.get(agent_id))
        if before is None or until > before:
            later[agent_id] = until
        if before is not None and until != before:
            superseded.append(ForgetMarker(agent_id, min(until, before)))
    return later, superseded
