"""learn: joins facts into outcomes and keeps every agent's metrics by differences.

learner-outcomes -> the shard's file, the metrics cache, learner-agent-metrics
"""

import asyncio
from collections import OrderedDict
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

_NO_TALLY = Tally()
_CHUNK = 100
"""Rows of a forgotten agent that are looked at between two yields to the event loop."""


class Rows(Protocol):
    """Where learn reads what it does not have in memory."""

    async def load_outcomes(self, keys: Sequence[OutcomeKey]) -> dict[OutcomeKey, Outcome]:
        """The rows of the given (task, agent) pairs."""
        ...

    async def load_agents(self, ids: Sequence[AgentId]) -> dict[AgentId, tuple[AgentRow, dict[str, Tally]]]:
        """The metrics and keywords of the given agents."""
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
    """

    def __init__(
        self, rows: Rows, *, cached_agents: int, forgotten: dict[AgentId, Micros] | None = None
    ) -> None:
        self._rows = rows
        self._cached_agents = cached_agents
        self._agents: OrderedDict[AgentId, Agent] = OrderedDict()
        self._loading = asyncio.Lock()
        self._outcomes: dict[OutcomeKey, Outcome] = {}
        self._agent_rows: dict[AgentId, AgentRow] = {}
        self._tallies: dict[tuple[AgentId, str], Tally] = {}
        self.forgotten: dict[AgentId, Micros] = {} if forgotten is None else forgotten
        self._newly_forgotten: dict[AgentId, Micros] = {}
        self._writing = _NO_CHANGES
        self._pinned: set[AgentId] = set()
        self.unpublished: set[AgentId] = set()

    def pin(self, records: Iterable[FactRecord]) -> None:
        """Keeps the agents of some facts in the cache, once loaded, until others are pinned."""
        self._pinned = {record.fact.agent_id for record in records}

    async def load(self, records: Iterable[FactRecord]) -> dict[OutcomeKey, Outcome]:
        """Fetches what `apply` needs of the file: the outcomes' rows (returned) and the agents (cached).

        The agents have to be pinned. Rows that are loaded while earlier facts are still to be applied are
        worth less than what those make of them.
        """
        return await self._load({record.key for record in records})

    async def _load(self, keys: Collection[OutcomeKey]) -> dict[OutcomeKey, Outcome]:
        held = await self._outcomes_of(keys)
        await self.agents({agent_id for _, agent_id in keys})
        return held

    async def _outcomes_of(self, keys: Collection[OutcomeKey]) -> dict[OutcomeKey, Outcome]:
        held: dict[OutcomeKey, Outcome] = {}
        missing: list[OutcomeKey] = []
        changed, writing = self._outcomes, self._writing.outcomes
        for key in keys:
            row = changed.get(key) or writing.get(key)
            if row is None:
                missing.append(key)
            else:
                held[key] = row
        if missing:
            held.update(await self._rows.load_outcomes(missing))
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
        self._pinned = {agent_id for _, agent_id in keys}
        rows = await self._load(keys)  # from here on no await: a snapshot sees all or nothing
        return [row for row in rows.values() if self._expire(row, cutoff, now_ms)]

    def _expire(self, row: Outcome, cutoff: Cutoff, now_ms: int) -> bool:
        left = living(row, cutoff)
        if left is row:
            return False
        self._outcomes[row.task_id, row.agent_id] = left
        difference = change(row, left)
        if difference:
            agent = self._agents[row.agent_id]
            self._change(agent, difference, now_ms, agent.row.outcome_offset)
        return True

    async def forget(
        self, records: Sequence[MarkerRecord], swept: Callable[[Outcome, Cutoff], None]
    ) -> list[ForgetMarker]:
        """Takes what markers forget out of all rows of their agents.

        The markers and what they take away are in one snapshot, or in none. Not while facts that were loaded
        are still to be applied. Every agent named has its metrics record written anew, changed or not: it
        says that the marker was read.

        Args:
            swept: told of every row that loses something, as it was, before any does.

        Returns:
            The markers, of these and of those known before, that say less than a later one.
        """
        later, outdated = self._later(records)
        last = {record.marker.agent_id: record for record in records}
        self._pinned = set(last)
        await self.agents(last)
        losses = [loss async for loss in self._losses(later, swept)]
        # From here on no await: a snapshot sees all or nothing.
        for row, difference in losses:
            self._outcomes[row.task_id, row.agent_id] = row
            if difference:
                record = last[row.agent_id]
                self._change(self._agents[row.agent_id], difference, record.timestamp_ms, record.offset)
        self.forgotten.update(later)
        self._newly_forgotten.update(later)
        for agent_id, record in last.items():
            self._note_marker(self._agents[agent_id], record.offset)
        return outdated

    def _later(self, records: Iterable[MarkerRecord]) -> tuple[dict[AgentId, Micros], list[ForgetMarker]]:
        """Until when agents are to be forgotten, where that is later than what is known; what is not."""
        later: dict[AgentId, Micros] = {}
        outdated: list[ForgetMarker] = []
        for _, _, marker in records:
            agent_id, until = marker.agent_id, marker.forget_until
            known = later.get(agent_id, self.forgotten.get(agent_id))
            if known is None or until > known:
                later[agent_id] = until
            if known is not None and until != known:
                outdated.append(ForgetMarker(agent_id, min(until, known)))
        return later, outdated

    async def _losses(
        self, until: Mapping[AgentId, Micros], swept: Callable[[Outcome, Cutoff], None]
    ) -> AsyncIterator[tuple[Outcome, Change]]:
        """What is left of each row that loses something, and what that makes of the metrics."""
        async for key_page in self._keys_of(until):
            for start in range(0, len(key_page), _CHUNK):
                rows = await self._outcomes_of(key_page[start : start + _CHUNK])
                for row in rows.values():
                    cutoff = forgotten_cutoff(until[row.agent_id])
                    left = living(row, cutoff)
                    if left is not row:
                        swept(row, cutoff)
                        yield left, change(row, left)
                await asyncio.sleep(0)

    async def _keys_of(self, ids: Collection[AgentId]) -> AsyncIterator[list[OutcomeKey]]:
        """The keys of all rows of some agents, those in memory first; no other row comes meanwhile."""
        if not ids:
            return
        in_memory = {
            key for rows in (self._outcomes, self._writing.outcomes) for key in rows if key[1] in ids
        }
        yield list(in_memory)
        async for page in self._rows.keys_of_agents(list(ids)):
            yield [key for key in page if key not in in_memory]

    def _note_marker(self, agent: Agent, offset: int) -> None:
        """The agent's metrics cover the marker; without outcomes they are those of a new agent."""
        agent.row = msgspec.structs.replace(agent.row, outcome_offset=offset) if agent.known else AgentRow()
        self._agent_rows[agent.agent_id] = agent.row
        self.unpublished.add(agent.agent_id)

    async def agents(self, ids: Iterable[AgentId]) -> dict[AgentId, Agent]:
        """The given agents, from the cache or the file; an unknown agent is a new one."""
        async with self._loading:
            # Those at hand are held on to: while the others are read, a checkpoint may trim the cache.
            wanted = {agent_id: self._agents.get(agent_id) for agent_id in ids}
            missing = [agent_id for agent_id, agent in wanted.items() if agent is None]
            found = await self._rows.load_agents(missing) if missing else {}
            for agent_id in missing:
                row, tallies = found.get(agent_id, (AgentRow(), {}))
                self._agents[agent_id] = Agent(agent_id, row, tallies)
            return {agent_id: agent or self._agents[agent_id] for agent_id, agent in wanted.items()}

    def cached(self, agent_id: AgentId) -> Agent | None:
        """The agent, if it is in the cache."""
        agent = self._agents.get(agent_id)
        if agent is not None:
            self._agents.move_to_end(agent_id)
        return agent

    def snapshot(self) -> LearnChanges:
        """Freezes what changed since the last snapshot; it stays readable until `on_checkpoint_written`."""
        self._writing = LearnChanges(self._outcomes, self._agent_rows, self._tallies, self._newly_forgotten)
        self._outcomes, self._agent_rows, self._tallies, self._newly_forgotten = {}, {}, {}, {}
        return self._writing

    def on_checkpoint_written(self) -> None:
        """The frozen changes are in the file: memory may let go of them."""
        self._writing = _NO_CHANGES
        self._trim()

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
            self._change(self._agents[key[1]], difference, record.timestamp_ms, record.offset)
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

    def _trim(self) -> None:
        """Lets go of the agents asked for least recently, never of one about to change or be written."""
        needed = self._pinned.union(self._agent_rows)
        excess = len(self._agents) - self._cached_agents
        for agent_id in list(self._agents) if excess > 0 else ():
            if excess <= 0:
                return
            if agent_id not in needed:
                del self._agents[agent_id]
                excess -= 1
