"""The oracle: the best that one agent among static ones could have earned, had it known the others' bids.

It knows its own true chance to deliver, but not its luck, and bids at most twice its base, as strategies do.
What a strategy earns less is its regret.
"""

from collections.abc import Sequence

from learner_worker.laboratory.auctions import Ledger, payment
from learner_worker.laboratory.bidders import HIGHEST_FACTOR
from learner_worker.laboratory.luck import Contestant, DrawnAuction
from learner_worker.laboratory.market import MarketModel


def best_in_hindsight(market: MarketModel, auctions: Sequence[DrawnAuction], agent: int) -> int:
    """The oracle's profit in sats."""
    ledger = Ledger()
    for auction in auctions:
        own = next((one for one in auction.contestants if one.agent == agent), None)
        if own is None:
            continue
        bid = _highest_winning_bid(own, [one for one in auction.contestants if one is not own])
        if bid and _expected_profit(market, own, bid) > 0:
            paid, cost = payment(market, own, bid)
            ledger.win(0, paid, cost, done=True)
    return ledger.profit


def _highest_winning_bid(own: Contestant, others: Sequence[Contestant]) -> int:
    """The highest bid that wins against static ones, at most twice the base; 0 if none does."""
    most = int(own.base_bid_sats * HIGHEST_FACTOR)
    if not others:
        return most
    price, arrival = min((one.base_bid_sats * one.seen[0], one.arrivals[0]) for one in others)
    bid = min(most, int(price / own.seen[0]) + 1)
    while bid > 0 and (bid * own.seen[0], own.arrivals[0]) > (price, arrival):
        bid -= 1
    return bid


def _expected_profit(market: MarketModel, own: Contestant, bid_sats: int) -> float:
    paid = 1.0 if market.paid_on == "win" else own.chance
    return paid * bid_sats - own.cost_sats - (1 - own.chance) * own.failure_cost_sats
