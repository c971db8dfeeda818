"""An auction that has closed: who bid what, who won, and what the bids say about why."""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import reduce
from typing import Final, Literal, NamedTuple

from learner_worker.contract.facts import Close
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.outcomes import Cutoff, Outcome, greater_close
from learner_worker.insights.facts import ClosedTask
from learner_worker.insights.history import standing_outcomes

FACTS_OF_AN_AUCTION: Final = 5_000  # joined in some ten milliseconds; two facts or three an agent
Why = Literal["nobody won", "not all known", "bid unknown", "only bid", "lowest", "equal", "not lowest"]
_NO_CLOSE: Final[Close | None] = None


class Reason(NamedTuple):
    """Why the winner won.

    Attributes:
        why: what the bids show; the swarm itself gives no reason.
        other: the lowest of the other bidders, if the reason is about it.
        difference_sats: the other's bid minus the winner's.
    """

    why: Why
    other: AgentId | None = None
    difference_sats: int = 0


class ClosedAuction(NamedTuple):
    """A closed auction.

    Attributes:
        winner: None if nobody won.
        winning_bid_sats: as the close says, else the winner's bid; None if neither is known.
        bids: what counts of each agent, the lowest bid first and unknown ones last.
        whole: whether these are all bids.
    """

    task_id: TaskId
    closed_at: Micros
    winner: AgentId | None
    winning_bid_sats: int | None
    bids: Sequence[Outcome]
    whole: bool

    @property
    def winners(self) -> Outcome | None:
        """The winner's own; None if nobody won, or it is forgotten."""
        return next((bid for bid in self.bids if bid.won), None)

    @property
    def description(self) -> str:
        """The task's text, as the winner or else the lowest bidder had it."""
        bid = self.winners or next(iter(self.bids), None)
        return "" if bid is None else bid.description

    @property
    def succeeded(self) -> bool | None:
        """How the task ended; None without a result."""
        winners = self.winners
        return None if winners is None or winners.result is None else winners.result.succeeded

    @property
    def reason(self) -> Reason:
        """Why the winner won."""
        if self.winner is None:
            return Reason("nobody won")
        if not self.whole:
            return Reason("not all known")
        if self.winning_bid_sats is None:
            return Reason("bid unknown")
        others = [(bid.bid_sats, bid.agent_id) for bid in self.bids if bid.agent_id != self.winner]
        known = [(sats, agent_id) for sats, agent_id in others if sats is not None]
        if not known:
            return Reason("only bid")
        lowest, other = min(known)
        difference = lowest - self.winning_bid_sats
        if not difference:
            return Reason("equal", other)
        return Reason("lowest" if difference > 0 else "not lowest", other, difference)


class AuctionList(NamedTuple):
    """Some auctions, the latest first.

    Attributes:
        last: the last task that was looked at, where the list goes on; None at its end.
    """

    auctions: Sequence[ClosedAuction]
    last: ClosedTask | None


def auctions_of(
    values: Iterable[bytes],
    cutoff_of: Callable[[AgentId], Cutoff | None],
    *,
    incomplete: Collection[TaskId] = (),
) -> dict[TaskId, ClosedAuction]:
    """Joins records of tasks; without those of which no outcome counts: not closed, or all have expired.

    Args:
        values: with every marker that forgets one of the agents.
        incomplete: the tasks of which these are not all records.

    Raises:
        UpgradeRequiredError: a newer learner wrote one of them.
    """
    bids_of: dict[TaskId, list[Outcome]] = {}
    for outcome in standing_outcomes(values, cutoff_of):
        if outcome.counts:
            bids_of.setdefault(outcome.task_id, []).append(outcome)
    auctions: dict[TaskId, ClosedAuction] = {}
    for task_id, bids in bids_of.items():
        close = reduce(greater_close, (one.close for one in bids), _NO_CLOSE)
        if close is not None:
            auctions[task_id] = _auction(task_id, close, bids, whole=task_id not in incomplete)
    return auctions


def _auction(task_id: TaskId, close: Close, outcomes: Iterable[Outcome], *, whole: bool) -> ClosedAuction:
    bids = sorted(outcomes, key=_lowest_first)
    winners = next((one for one in bids if one.agent_id == close.winner), None)
    price = close.winning_bid_sats
    if price is None and winners is not None:
        price = winners.bid_sats
    return ClosedAuction(task_id, close.closed_at, close.winner, price, bids, whole)


def _lowest_first(bid: Outcome) -> tuple[bool, int, bool, AgentId]:
    sats = bid.bid_sats
    return sats is None, sats or 0, not bid.won, bid.agent_id
