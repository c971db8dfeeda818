"""Who decides on an agent's bid: nobody, chance, or a strategy."""

from dataclasses import dataclass
from typing import Final, Protocol

from learner_worker.laboratory.luck import Contestant, whole_sats
from learner_worker.laboratory.memory import AgentMemory
from learner_worker.strategies.protocol import NO_SUMS, PaidOn, SettledBid, Strategy
from learner_worker.strategies.registry import find_strategy

LOWEST_FACTOR: Final = 0.8  # as in expected-profit
HIGHEST_FACTOR: Final = 2.0
"""The range of the random-factor and oracle baselines: that of expected-profit."""


class Bidder(Protocol):
    """Bids for one agent in one run."""

    learns: bool

    def bid(self, contestant: Contestant, description: str) -> int:
        """The bid in sats."""
        ...

    def learn(self, settled: SettledBid) -> None:
        """Told how an auction ended, if `learns`."""
        ...


class StaticBidder:
    """Bids the base, always."""

    learns = False

    def bid(self, contestant: Contestant, description: str) -> int:  # noqa: ARG002
        """The base bid."""
        return contestant.base_bid_sats

    def learn(self, settled: SettledBid) -> None:
        """Nothing."""


class RandomBidder(StaticBidder):
    """Bids the base times a random factor: what a strategy must at least beat."""

    def bid(self, contestant: Contestant, description: str) -> int:  # noqa: ARG002
        """The base bid times the drawn factor."""
        factor = LOWEST_FACTOR + (HIGHEST_FACTOR - LOWEST_FACTOR) * contestant.whim
        return whole_sats(contestant.base_bid_sats * factor)


@dataclass(frozen=True, slots=True)
class Asking:
    """How an agent asks.

    Attributes:
        tells_costs: whether requests carry the effort's cost and a failure's.
        words: whether the strategy sees the tasks' texts.
        prices: whether it sees its sums.
    """

    strategy: Strategy
    tells_costs: bool = False
    words: bool = True
    prices: bool = True


class AskingBidder:
    """Bids what a strategy suggests."""

    learns = True

    def __init__(self, asking: Asking, paid_on: PaidOn) -> None:
        self._asking = asking
        self._paid_on = paid_on
        self._memory = AgentMemory(asking.strategy)

    def bid(self, contestant: Contestant, description: str) -> int:
        """The suggested bid."""
        asking, memory = self._asking, self._memory
        return asking.strategy.suggest(
            metrics=memory.metrics,
            tallies=memory.tallies,
            sums=memory.sums if asking.prices else NO_SUMS,
            description=description if asking.words else "",
            base_bid_sats=contestant.base_bid_sats,
            cost_sats=contestant.cost_sats if asking.tells_costs else None,
            failure_cost_sats=contestant.failure_cost_sats if asking.tells_costs else 0,
            paid_on=self._paid_on,
            explained=False,
        ).suggested_bid_sats

    def learn(self, settled: SettledBid) -> None:
        """Remembers it."""
        self._memory.learn(settled)


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to bid that is compared with bidding the base. `strategy` None: the random-factor baseline.

    It travels to other processes, so it names its strategy instead of holding it.
    """

    label: str
    strategy: str | None = None
    tells_costs: bool = False
    words: bool = True
    prices: bool = True

    def bidder(self, paid_on: PaidOn) -> Bidder:
        """A new bidder that knows nothing yet."""
        if self.strategy is None:
            return RandomBidder()
        asking = Asking(find_strategy(self.strategy), self.tells_costs, self.words, self.prices)
        return AskingBidder(asking, paid_on)


RANDOM: Final = Contender("random factor")
