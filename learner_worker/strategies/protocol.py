"""The protocol of a strategy: the sums that it needs of an agent's auctions, and its advice.

The same object serves whoever asks it: a worker, a simulation, or a replay of recorded auctions.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Metrics

PaidOn = Literal["success", "win"]
"""When the swarm pays the winner: once the task is done, or for winning."""
SumKey = int | str
Counts = tuple[int, int]
Sums = Mapping[SumKey, Mapping[SumKey, Counts]]
"""Group -> cell -> two counts. A strategy that needs some groups only reads no others."""
NO_SUMS: Final[Sums] = MappingProxyType({})


class SettledBid(msgspec.Struct, frozen=True, gc=False):
    """How an auction ended for one agent that bid in it.

    Attributes:
        bid_sats: the agent's bid; for a winner the close's winning bid, if given; None if unknown.
        winning_bid_sats: the close's winning bid; None if it is not given, or nobody won.
        succeeded: how the agent's task ended; None if it did not win, or has no result yet.
        closed_at_us: when the auction closed, in microseconds since 1970.
    """

    bid_sats: int | None
    won: bool
    winning_bid_sats: int | None
    description: str
    succeeded: bool | None
    closed_at_us: int


class Addend(NamedTuple):
    """What a settled bid adds to one cell of its agent's sums."""

    group: SumKey
    cell: SumKey
    counts: Counts


class AppliedRule(msgspec.Struct, frozen=True, gc=False):
    """One step of advice: the factor is multiplied by `multiplier`. A reason never states a cost."""

    rule: str
    multiplier: float
    reason: str


class Suggestion(NamedTuple):
    """A strategy's advice on a bid. `factor` is `suggested_bid_sats` / base, before cutting to whole sats."""

    suggested_bid_sats: int
    factor: float
    rules: Sequence[AppliedRule]


class Strategy(Protocol):
    """Computes advice from an agent's metrics, its keywords and the sums that the strategy declares.

    `addends` says what each settled bid adds to the sums. It depends on nothing but the bid, so a sum over
    any set of settled bids is the same in any order, and a bid is taken out again by subtraction.
    """

    @property
    def name(self) -> str:
        """What settings and requests call it."""
        ...

    @property
    def version(self) -> int:
        """The version of `addends`: sums of another version are recomputed. 0 means that it needs no sums."""
        ...

    def addends(self, *, settled: SettledBid) -> Sequence[Addend]:
        """What a settled bid adds to the sums, each cell at most once."""
        ...

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
        """Advice on a bid.

        Args:
            tallies: the agent's keywords, as of its won tasks with a result.
            sums: the sum of `addends` over the agent's settled bids; never changed here.
            description: the task's text.
            cost_sats: the effort's cost, paid whether it succeeds or not; None if the agent did not say.
            failure_cost_sats: what a failure costs besides; ignored without `cost_sats`.
            explained: whether anybody reads `rules`; without, they may be left out.
        """
        ...
