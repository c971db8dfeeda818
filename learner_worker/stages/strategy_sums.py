"""A strategy's sums over the rows of one shard, kept by differences as metrics are."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from learner_worker.contract.fields import AgentId
from learner_worker.domain.agents import Agent
from learner_worker.domain.outcomes import Outcome, OutcomeKey
from learner_worker.domain.sums import Cells, KeptSums
from learner_worker.strategies.protocol import Addend, Strategy
from learner_worker.strategies.sums import add, settled_bid, subtract

StrategyAgent = tuple[str, AgentId]
"""A strategy's name, and whose sums."""
_NOTHING: Final[Sequence[Addend]] = ()


class SumsChange(NamedTuple):
    """What a changed row takes out of its agent's sums, and what it adds to them."""

    removed: Sequence[Addend]
    added: Sequence[Addend]

    def change(self, cells: Cells) -> None:
        """Changes sums in place."""
        subtract(cells, self.removed)
        add(cells, self.added)


ChangedRow = tuple[Agent, Outcome | None, Outcome]
"""An agent, one of its rows as it was, and as it is now."""


class StrategySums:
    """Counts the rows of a shard for one strategy.

    While the rows of an older file are still being counted, a change of a row that is not counted yet
    changes nothing: the row is counted as it is then.

    Args:
        counted_to: the last row counted, in the order of keys; None: all are.

    Attributes:
        counted_to: the same, now.
        changed: the sums that changed since the last snapshot; only these may be changed in place.
    """

    def __init__(self, strategy: Strategy, counted_to: OutcomeKey | None = None) -> None:
        self.name = strategy.name
        self.counted_to = counted_to
        self.changed: dict[AgentId, KeptSums] = {}
        self._before: Mapping[AgentId, KeptSums] = {}
        self._addends_of = strategy.addends

    @property
    def is_complete(self) -> bool:
        """Whether every row is counted."""
        return self.counted_to is None

    def change(self, before: Outcome | None, after: Outcome) -> SumsChange | None:
        """The difference that a row makes when it takes the place of its earlier state; None if none."""
        if not self.counts(after):
            return None
        removed = _NOTHING if before is None else self._addends(before)
        added = self._addends(after)
        return None if removed == added else SumsChange(removed, added)

    def apply(self, agent: Agent, difference: SumsChange) -> None:
        """Changes the agent's sums."""
        difference.change(self._changeable(agent))

    def copy_of(self, agent: Agent) -> Cells:
        """The agent's sums, to be changed and put back."""
        before = agent.sums.get(self.name)
        return {} if before is None else {group: dict(cells) for group, cells in before.read().items()}

    def put(self, agent: Agent, cells: Cells) -> None:
        """Replaces the agent's sums."""
        self.changed[agent.agent_id] = agent.sums[self.name] = KeptSums(cells, None)

    def replace(self, rows: Iterable[ChangedRow]) -> None:
        """Counts rows that take the place of their earlier states; nearly all of them are new."""
        changeable, addends_of, complete = self.changed.get, self._addends_of, self.counted_to is None
        for agent, before, after in rows:
            if before is not None or not complete:
                self._replace_one(agent, before, after)
            elif (settled := settled_bid(after)) is not None and (added := addends_of(settled=settled)):
                kept = changeable(agent.agent_id)
                add((kept and kept.cells) or self._changeable(agent), added)

    def _replace_one(self, agent: Agent, before: Outcome | None, after: Outcome) -> None:
        difference = self.change(before, after)
        if difference is not None:
            self.apply(agent, difference)

    def count(self, agent: Agent, row: Outcome) -> None:
        """Adds a row that was not counted."""
        if added := self._addends(row):
            add(self._changeable(agent), added)

    def snapshot(self) -> Mapping[AgentId, KeptSums]:
        """The sums that changed since the last snapshot. Those that did not change again release memory."""
        for kept in self._before.values():
            kept.release()
        self._before = changed = self.changed
        self.changed = {}
        return changed

    def counts(self, row: Outcome) -> bool:
        """Whether the row is one of those that are counted so far."""
        to = self.counted_to
        return to is None or (row.task_id, row.agent_id) <= to

    def _changeable(self, agent: Agent) -> Cells:
        kept = self.changed.get(agent.agent_id)
        if kept is None:
            before = agent.sums.get(self.name)
            kept = KeptSums({}, None) if before is None else before.successor()
            self.changed[agent.agent_id] = agent.sums[self.name] = kept
        return kept.cells or kept.read()

    def _addends(self, row: Outcome) -> Sequence[Addend]:
        settled = settled_bid(row)
        return _NOTHING if settled is None else self._addends_of(settled=settled)


def versions_of(strategies: Iterable[Strategy]) -> dict[str, int]:
    """The strategies that keep sums, each with the version by which it counts."""
    return {strategy.name: strategy.version for strategy in strategies if strategy.version}


def sums_of(
    strategies: Iterable[Strategy], counted_to: Mapping[str, OutcomeKey | None]
) -> list[StrategySums]:
    """Of the strategies that keep sums, each as far as its rows are counted."""
    return [StrategySums(strategy, counted_to[strategy.name]) for strategy in strategies if strategy.version]
