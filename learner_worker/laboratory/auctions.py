"""Plays a drawn run: everybody bids, the lowest wins, the winner delivers or fails, all are told."""

from collections.abc import Sequence
from typing import Final

from learner_worker.laboratory.bidders import Bidder
from learner_worker.laboratory.luck import Contestant, DrawnAuction
from learner_worker.laboratory.market import MarketModel
from learner_worker.strategies.protocol import SettledBid

SEGMENTS: Final = 10
"""Of a run, for the learning curve."""
COLD_BIDS: Final = 20
"""An agent's first bids, for the cold-start row."""


class Ledger:
    """What an agent earned and spent in a run, in sats."""

    __slots__ = (
        "bids",
        "cold_base",
        "cold_profit",
        "cost",
        "done",
        "paid",
        "segment_base",
        "segment_profit",
        "won",
    )

    def __init__(self) -> None:
        self.bids = self.won = self.done = self.paid = self.cost = 0
        self.cold_profit = self.cold_base = 0
        self.segment_profit = [0] * SEGMENTS
        self.segment_base = [0] * SEGMENTS

    @property
    def profit(self) -> int:
        """Paid minus spent."""
        return self.paid - self.cost

    @property
    def base(self) -> int:
        """The sum of the base bids of all auctions it bid in: what gains are measured by."""
        return sum(self.segment_base)

    def enter(self, segment: int, base_bid_sats: int) -> None:
        """Counts a bid."""
        self.segment_base[segment] += base_bid_sats
        if self.bids < COLD_BIDS:
            self.cold_base += base_bid_sats
        self.bids += 1

    def win(self, segment: int, paid: int, cost: int, *, done: bool) -> None:
        """Counts a won auction, whose bid was entered."""
        self.won += 1
        self.done += done
        self.paid += paid
        self.cost += cost
        self.segment_profit[segment] += paid - cost
        if self.bids <= COLD_BIDS:
            self.cold_profit += paid - cost


class Player:
    """An agent in a run, in seat 0, or one of its siblings in the next ones: a bidder and a ledger."""

    __slots__ = ("agent", "bidder", "ledger", "seat")

    def __init__(self, agent: int, bidder: Bidder, *, seat: int = 0) -> None:
        self.agent = agent
        self.bidder = bidder
        self.seat = seat
        self.ledger = Ledger()


Offer = tuple[float, float, int, Player, Contestant]
"""The bid as buyers see it, its arrival, the bid, whose it is. Arrivals differ: no players are compared."""


def play(market: MarketModel, auctions: Sequence[DrawnAuction], players: Sequence[Player]) -> None:
    """Plays a run; the players' ledgers say how it went."""
    seats = [[player for player in players if player.agent == index] for index in range(len(market.agents))]
    news: list[tuple[Bidder, SettledBid]] = []
    for auction in auctions:
        if not auction.contestants:
            continue
        offers = _offers(auction, seats)
        winner = min(offers)
        _settle(market, auction, offers, winner, news)
        if (auction.number + 1) % market.burst == 0:
            for bidder, settled in news:
                bidder.learn(settled)
            news.clear()


def _offers(auction: DrawnAuction, seats: Sequence[Sequence[Player]]) -> list[Offer]:
    description = auction.description
    offers: list[Offer] = []
    for contestant in auction.contestants:
        for player in seats[contestant.agent]:
            bid, seat = player.bidder.bid(contestant, description), player.seat
            offers.append((bid * contestant.seen[seat], contestant.arrivals[seat], bid, player, contestant))
    return offers


def _settle(
    market: MarketModel,
    auction: DrawnAuction,
    offers: Sequence[Offer],
    winner: Offer,
    news: list[tuple[Bidder, SettledBid]],
) -> None:
    segment = auction.number * SEGMENTS // market.auctions
    _, _, winning_bid, champion, chosen = winner
    done = chosen.luck < chosen.chance
    price = winning_bid if auction.price_told else None
    for _, _, bid, player, contestant in offers:
        player.ledger.enter(segment, contestant.base_bid_sats)
        if player.bidder.learns:
            won = player is champion
            result = done if won else None
            news.append(
                (player.bidder, SettledBid(bid, won, price, auction.description, result, auction.number))
            )
    paid, cost = payment(market, chosen, winning_bid)
    champion.ledger.win(segment, paid, cost, done=done)


def payment(market: MarketModel, contestant: Contestant, bid_sats: int) -> tuple[int, int]:
    """What the winner is paid, and what it spends."""
    done = contestant.luck < contestant.chance
    paid = bid_sats if done or market.paid_on == "win" else 0
    return paid, contestant.cost_sats + (0 if done else contestant.failure_cost_sats)
