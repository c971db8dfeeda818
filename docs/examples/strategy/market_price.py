"""A strategy of one's own: bids what its kind of task usually goes for, as a share of its own bids."""

from collections.abc import Sequence

from learner_worker.strategies.protocol import Addend, AppliedRule, SettledBid, Suggestion, Sums

FEW_AUCTIONS = 10


class MarketPrice:
    """Needs one pair of sums: the winning bids in percent of the own ones, and how many."""

    name = "market-price"
    version = 1

    def addends(self, *, settled: SettledBid) -> Sequence[Addend]:
        if not settled.bid_sats or not settled.winning_bid_sats:
            return ()
        return (Addend("winning", "percent", (100 * settled.winning_bid_sats // settled.bid_sats, 1)),)

    def suggest(self, *, sums: Sums, base_bid_sats: int, **_: object) -> Suggestion:
        percent, auctions = sums.get("winning", {}).get("percent", (0, 0))
        if auctions < FEW_AUCTIONS:
            return Suggestion(base_bid_sats, 1.0, [])
        factor = min(2.0, max(0.8, percent / auctions / 100))
        reason = f"auctions like these went for {100 * factor:.0f} % of its bids"
        rule = AppliedRule("market_price", factor, reason)
        return Suggestion(max(1, int(base_bid_sats * factor)), factor, [rule])


MARKET_PRICE = MarketPrice()
