"""What a strategy knows of an agent, kept as the learner keeps it."""

from copy import copy

from learner_worker.domain.keywords import Tally, keywords_of, tally_of
from learner_worker.domain.metrics import Metrics
from learner_worker.strategies.protocol import SettledBid, Strategy
from learner_worker.strategies.sums import GrowingSums, correct, update

_NO_TALLY = Tally()


class AgentMemory:
    """An agent's metrics, keywords and a strategy's sums."""

    __slots__ = (
        "_completed",
        "_failed",
        "_priced",
        "_sats",
        "_strategy",
        "_total",
        "_won",
        "sums",
        "tallies",
    )

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._total = self._won = self._completed = self._failed = self._priced = self._sats = 0
        self.tallies: dict[str, Tally] = {}
        self.sums: GrowingSums = {}

    def copy(self) -> "AgentMemory":
        """Another memory of the same, which learns on by itself."""
        other = copy(self)
        other.tallies = self.tallies.copy()
        other.sums = {group: cells.copy() for group, cells in self.sums.items()}
        return other

    @property
    def metrics(self) -> Metrics:
        """The agent's counts."""
        return Metrics(self._total, self._won, self._completed, self._failed, self._priced, self._sats)

    def learn(self, settled: SettledBid) -> None:
        """Counts an auction that ended."""
        self._total += 1
        update(self._strategy, self.sums, settled)
        if settled.won:
            self._count_win(settled)

    def learn_result(self, without: SettledBid, settled: SettledBid) -> None:
        """Counts the result of a won auction that was counted without it."""
        correct(self._strategy, self.sums, without, settled)
        if settled.won:
            self._count_result(settled)

    def _count_win(self, settled: SettledBid) -> None:
        self._won += 1
        if settled.bid_sats is not None:
            self._priced += 1
            self._sats += settled.bid_sats
        self._count_result(settled)

    def _count_result(self, settled: SettledBid) -> None:
        if settled.succeeded is None:
            return
        self._completed += settled.succeeded
        self._failed += not settled.succeeded
        for word in keywords_of(settled.description):
            wins, failures = self.tallies.get(word, _NO_TALLY)
            self.tallies[word] = tally_of(wins + settled.succeeded, failures + (not settled.succeeded))
