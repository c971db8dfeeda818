"""What is left of an agent when its rows lose parts: computed in small steps, and put in place in one."""

import asyncio
from collections.abc import AsyncIterable, Collection, Iterable, Mapping, MutableMapping, Sequence
from typing import NamedTuple

from learner_worker.contract.facts import ForgetMarker
from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros
from learner_worker.domain.agents import Agent
from learner_worker.domain.bucketed import Key, Value, bucketed, item_slices
from learner_worker.domain.keywords import StrongestKeywords, Tally, tally_of
from learner_worker.domain.metrics import Change, Metrics, plus
from learner_worker.domain.outcomes import Outcome, OutcomeKey
from learner_worker.domain.sums import Cells
from learner_worker.stages.strategy_sums import StrategySums, SumsChange

_NO_TALLY = Tally()
_ROW = 10
"""A row takes as long as so many words."""
_WORDS = 1_000
"""Words counted between two yields to the event loop: a few milliseconds; one description has up to 4,096."""


class RowChange(NamedTuple):
    """What a changed row changes of its agent: metrics and words, and each strategy's sums."""

    metrics: Change
    sums: Sequence[SumsChange | None]


class Steps:
    """Yields to the event loop each time enough words were counted."""

    def __init__(self) -> None:
        self._words = 0

    async def after(self, change: Change) -> None:
        """Yields, if what was counted since the last time has taken a few milliseconds."""
        self._words += _ROW + len(change.wins) + len(change.failures)
        if self._words >= _WORDS:
            self._words = 0
            await asyncio.sleep(0)


class Remainder:
    """What is left of an agent. The agent itself stays as it is until `put_in_place`.

    Nobody may change the agent meanwhile; answers may read it.

    Attributes:
        metrics: the difference to the agent's metrics.
        has_changed: whether metrics or keywords change at all.
        keywords: the keywords that change or had changed before, each with its tally afterwards.
    """

    def __init__(self, agent: Agent, sums: Sequence[StrategySums]) -> None:
        self.metrics = Metrics()
        self.has_changed = False
        self.keywords: MutableMapping[str, Tally] = {}
        self._agent = agent
        self._sums = sums
        self._cells: dict[int, Cells] = {}
        self._words: MutableMapping[str, tuple[int, int]] = {}
        self._tallies: MutableMapping[str, Tally] = {}
        self._strongest = agent.strongest

    def lose(self, difference: RowChange) -> None:
        """Notes what the loss of a row's parts changes."""
        for number, change in enumerate(difference.sums):
            if change is not None:
                if number not in self._cells:
                    self._cells[number] = self._sums[number].copy_of(self._agent)
                change.change(self._cells[number])
        change_of_counts = difference.metrics
        words = self._words = bucketed(self._words)
        if change_of_counts:
            self.has_changed = True
            self.metrics = plus(self.metrics, change_of_counts.metrics)
        for keyword, wins in change_of_counts.wins.items():
            before = words.get(keyword, _NO_TALLY)
            words[keyword] = before[0] + wins, before[1]
        for keyword, failures in change_of_counts.failures.items():
            before = words.get(keyword, _NO_TALLY)
            words[keyword] = before[0], before[1] + failures

    async def complete(self, changed: Mapping[str, Tally]) -> None:
        """Counts the keywords that are left, some at a time.

        Args:
            changed: the agent's keywords that had changed before and are still to be written.
        """
        if not self._words:
            return
        for some in item_slices(self._agent.tallies):
            for keyword, before in some:
                self._leave(keyword, before, self._words.get(keyword, _NO_TALLY))
            self._tallies, self.keywords = bucketed(self._tallies), bucketed(self.keywords)
            await asyncio.sleep(0)
        for more in item_slices(self._words):  # words of a close, whose bid is forgotten
            for keyword, difference in more:
                if keyword not in self._agent.tallies:
                    self._leave(keyword, _NO_TALLY, difference)
            await asyncio.sleep(0)
        self.keywords = await overlaid(changed, self.keywords)
        self._strongest = StrongestKeywords(self._tallies)

    def _leave(self, keyword: str, before: Tally, difference: tuple[int, int]) -> None:
        wins, failures = difference
        left = tally_of(before.wins + wins, before.failures + failures)
        if left != _NO_TALLY:
            self._tallies[keyword] = left
        if left != before:
            self.keywords[keyword] = left

    def put_in_place(self) -> Sequence[MutableMapping[str, Tally] | MutableMapping[str, tuple[int, int]]]:
        """Changes the agent's keywords and sums; returns mappings that nobody reads any more."""
        agent = self._agent
        for number, cells in self._cells.items():
            self._sums[number].put(agent, cells)
        if self._strongest is agent.strongest:
            return []
        former, agent.tallies, agent.strongest = agent.tallies, self._tallies, self._strongest
        return [former, self._words]


async def subtracted(
    losses: AsyncIterable[tuple[Outcome, RowChange]], remainders: Mapping[AgentId, Remainder]
) -> MutableMapping[OutcomeKey, Outcome]:
    """Subtracts what rows lose from the remainders of their agents; returns what is left of the rows."""
    rows: MutableMapping[OutcomeKey, Outcome] = {}
    steps = Steps()
    async for row, difference in losses:
        rows[row.task_id, row.agent_id] = row
        rows = bucketed(rows)
        await steps.after(difference.metrics)
        remainders[row.agent_id].lose(difference)
        await steps.after(difference.metrics)
    return rows


async def keys_among(
    mappings: Iterable[Mapping[OutcomeKey, Outcome]], ids: Collection[AgentId]
) -> set[OutcomeKey]:
    """The keys of some agents' rows, searched some at a time."""
    keys = set[OutcomeKey]()
    for rows in mappings:
        for some in item_slices(rows):
            keys.update(key for key, _ in some if key[1] in ids)
            await asyncio.sleep(0)
    return keys


async def overlaid(
    older: Mapping[Key, Value], newer: MutableMapping[Key, Value]
) -> MutableMapping[Key, Value]:
    """Adds those older items whose key is not in the newer ones, some at a time; returns the newer ones."""
    for some in item_slices(older):
        for key, value in some:
            if key not in newer:
                newer[key] = value
        newer = bucketed(newer)
        await asyncio.sleep(0)
    return newer


def later_markers(
    markers: Iterable[ForgetMarker], known: Mapping[AgentId, Micros]
) -> tuple[dict[AgentId, Micros], list[ForgetMarker]]:
    """Merges forget markers into the known ones.

    Returns:
        The times until which agents are forgotten, where later than the known ones; and the markers, new or
        known, that a later one of the same agent supersedes.
    """
    later: dict[AgentId, Micros] = {}
    superseded: list[ForgetMarker] = []
    for marker in markers:
        agent_id, until = marker.agent_id, marker.forget_until
        before = later.get(agent_id, known.get(agent_id))
        if before is None or until > before:
            later[agent_id] = until
        if before is not None and until != before:
            superseded.append(ForgetMarker(agent_id, min(until, before)))
    return later, superseded
