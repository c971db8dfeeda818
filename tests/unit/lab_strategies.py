"""Strategies for the laboratory's tests, found as `tests.unit.lab_strategies:NAME`."""

from collections.abc import Mapping, Sequence
from typing import Final

from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Metrics
from learner_worker.strategies.protocol import Addend, PaidOn, SettledBid, Suggestion, Sums


class Recorder:
    """Bids the base times a factor, and keeps what it was asked and told."""

    version = 1

    def __init__(self, name: str, factor: float) -> None:
        self.name = name
        self.factor = factor
        self.asked: list[tuple[str, Sums, int | None, PaidOn]] = []
        self.settled: list[SettledBid] = []

    def addends(self, *, settled: SettledBid) -> Sequence[Addend]:
        """One count a bid."""
        self.settled.append(settled)
        return (Addend("bids", 0, (1, 0)),)

    def suggest(
        self,
        *,
        metrics: Metrics,
        tallies: Mapping[str, Tally],
        sums: Sums,
        description: str,
        base_bid_sats: int,
        cost_sats: int | None = None,
        failure_cost_sats: int = 0,
        paid_on: PaidOn = "success",
        explained: bool = True,
    ) -> Suggestion:
        """The base times the factor."""
        assert sum(first for cells in sums.values() for first, _ in cells.values()) in {0, metrics.total_bids}
        assert (cost_sats is not None) or failure_cost_sats == 0
        assert tallies is not None
        assert not explained
        self.asked.append((description, sums, cost_sats, paid_on))
        return Suggestion(max(1, round(base_bid_sats * self.factor)), self.factor, [])


STILL: Final = Recorder("still", 1.0)
DEAR: Final = Recorder("dear", 1.3)
