"""Sums over settled bids: a bid is added, and a corrected one is subtracted exactly as it was added."""

from collections.abc import Iterable

from learner_worker.domain.outcomes import Outcome
from learner_worker.strategies.protocol import Addend, Counts, SettledBid, Strategy, SumKey

GrowingSums = dict[SumKey, dict[SumKey, Counts]]
_NOTHING: Counts = (0, 0)  # a bin without bids


def settled_bid(outcome: Outcome) -> SettledBid | None:
    """The settled bid of an outcome; None if it does not count."""
    close, bid = outcome.close, outcome.bid
    if close is None:
        return None
    if close.winner != outcome.agent_id:
        if bid is None:
            return None
        price = None if close.winner is None else close.winning_bid_sats
        return SettledBid(bid.bid_sats, False, price, bid.description, None, close.closed_at)
    result = outcome.result
    return SettledBid(
        bid_sats=outcome.bid_sats,
        won=True,
        winning_bid_sats=close.winning_bid_sats,
        description=outcome.description,
        succeeded=None if result is None else result.succeeded,
        closed_at_us=close.closed_at,
    )


def update(strategy: Strategy, sums: GrowingSums, settled: SettledBid) -> None:
    """Adds a settled bid."""
    add(sums, strategy.addends(settled=settled))


def un_update(strategy: Strategy, sums: GrowingSums, settled: SettledBid) -> None:
    """Subtracts a settled bid that was added: the sum of the others is left."""
    subtract(sums, strategy.addends(settled=settled))


def correct(
    strategy: Strategy, sums: GrowingSums, before: SettledBid | None, after: SettledBid | None
) -> None:
    """Replaces a settled bid by its corrected state."""
    old = () if before is None else strategy.addends(settled=before)
    new = () if after is None else strategy.addends(settled=after)
    if old != new:
        subtract(sums, old)
        add(sums, new)


def add(sums: GrowingSums, addends: Iterable[Addend]) -> None:
    """Adds to the cells."""
    for group, cell, (first, second) in addends:
        cells = sums.get(group)
        if cells is None:
            cells = sums[group] = {}
        before = cells.get(cell)
        cells[cell] = (first, second) if before is None else (before[0] + first, before[1] + second)


def subtract(sums: GrowingSums, addends: Iterable[Addend]) -> None:
    """Subtracts from the cells; a cell that counts nothing is deleted, and a group without cells."""
    for group, cell, (first, second) in addends:
        cells = sums.setdefault(group, {})
        one, other = cells.get(cell, _NOTHING)
        left = (one - first, other - second)
        if left != _NOTHING:
            cells[cell] = left
            continue
        cells.pop(cell, None)
        if not cells:
            del sums[group]
