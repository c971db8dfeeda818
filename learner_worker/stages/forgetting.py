"""What is left of an agent when its rows lose parts: computed in small steps, and put in place in one."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from learner_worker.contract.fields import AgentId
from learner_worker.domain.agents import Agent
from learner_worker.domain.keywords import LOOKED_AT, StrongestKeywords, Tally, tally_of
from learner_worker.domain.metrics import Change, Metrics, plus
from learner_worker.domain.sums import Cells
from learner_worker.stages.strategy_sums import StrategySums, SumsChange

_NO_TALLY = Tally()
_ROW = 10
"""A row takes as long as so many words."""
_WORDS = 1_000
"""Words counted between two yields to the event loop: a few milliseconds; one description has up to 4,096."""
Key = TypeVar("Key")
Row = TypeVar("Row")


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
        keywords: the keywords that change, each with its tally afterwards.
    """

    def __init__(self, agent: Agent, sums: Sequence[StrategySums]) -> None:
        self.metrics = Metrics()
        self.has_changed = False
        self.keywords: dict[tuple[AgentId, str], Tally] = {}
        self._agent = agent
        self._sums = sums
        self._cells: dict[int, Cells] = {}
        self._words: dict[str, tuple[int, int]] = {}
        self._tallies: dict[str, Tally] = {}
        self._strongest = agent.strongest

    def lose(self, difference: RowChange) -> None:
        """Notes what the loss of a row's parts changes."""
        for number, change in enumerate(difference.sums):
            if change is not None:
                if number not in self._cells:
                    self._cells[number] = self._sums[number].copy_of(self._agent)
                change.change(self._cells[number])
        change_of_counts, words = difference.metrics, self._words
        if change_of_counts:
            self.has_changed = True
            self.metrics = plus(self.metrics, change_of_counts.metrics)
        for keyword, wins in change_of_counts.wins.items():
            before = words.get(keyword, _NO_TALLY)
            words[keyword] = before[0] + wins, before[1]
        for keyword, failures in change_of_counts.failures.items():
            before = words.get(keyword, _NO_TALLY)
            words[keyword] = before[0], before[1] + failures

    async def complete(self) -> None:
        """Counts the keywords that are left, some at a time."""
        if not self._words:
            return
        items = iter(self._agent.tallies.items())
        while some := list(itertools.islice(items, LOOKED_AT)):
            for keyword, tally in some:
                self._leave(keyword, tally, self._words.pop(keyword, _NO_TALLY))
            await asyncio.sleep(0)
        for keyword, difference in self._words.items():  # words of a close, whose bid is forgotten
            self._leave(keyword, _NO_TALLY, difference)
        self._strongest = StrongestKeywords(self._tallies)
        if len(self._tallies) > LOOKED_AT:
            for _ in self._strongest.collected():
                await asyncio.sleep(0)

    def _leave(self, keyword: str, before: Tally, difference: tuple[int, int]) -> None:
        wins, failures = difference
        left = tally_of(before.wins + wins, before.failures + failures)
        if left != _NO_TALLY:
            self._tallies[keyword] = left
        if left != before:
            self.keywords[self._agent.agent_id, keyword] = left

    def put_in_place(self) -> dict[str, Tally]:
        """Changes the agent's keywords and sums; returns the former keywords, which nobody reads any more."""
        agent = self._agent
        for number, cells in self._cells.items():
            self._sums[number].put(agent, cells)
        former: dict[str, Tally] = {}
        if self._strongest is not agent.strongest:
            former, agent.tallies, agent.strongest = agent.tallies, self._tallies, self._strongest
        return former


def overlaid(older: dict[Key, Row], newer: dict[Key, Row]) -> dict[Key, Row]:
    """Both, the newer ones where both have a key: the smaller is added to the larger, which is changed."""
    if len(older) >= len(newer):
        older.update(newer)
        return older
    for key, row in older.items():
        newer.setdefault(key, row)
    return newer
