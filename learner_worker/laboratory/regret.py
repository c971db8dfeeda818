"""The regret ledger: what bids left on the table, in auctions that really ended.

Won: the runner-up's bid minus the own one, which a higher bid would have earned besides. Lost: auctions whose
winning price lay above the own base, which the base bid would have won. Neither says what to bid next time:
the others' bids are known afterwards only.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from learner_worker.domain.keywords import keywords_of
from learner_worker.laboratory.league import Advised, BidKey
from learner_worker.laboratory.recording import RecordedAuction, RecordedBid

UNADVISED = "-"
"""The strategy of a bid without advice, and the kind of a task without a word."""


class Regret(msgspec.Struct, frozen=True):
    """What an agent left on the table with one kind of task, as a strategy advised.

    Attributes:
        kind: the first word of the task's text.
        left_sats: over its won auctions with a runner-up, the runner-up's bid minus its own.
        missed: auctions that it lost to a price above its base.
        missed_sats: those prices minus its base.
    """

    agent_id: str
    strategy: str
    kind: str
    auctions: int = 0
    won: int = 0
    left_sats: int = 0
    missed: int = 0
    missed_sats: int = 0

    def plus(self, other: "Regret") -> "Regret":
        """Both together."""
        return Regret(
            self.agent_id,
            self.strategy,
            self.kind,
            self.auctions + other.auctions,
            self.won + other.won,
            self.left_sats + other.left_sats,
            self.missed + other.missed,
            self.missed_sats + other.missed_sats,
        )


def regret_ledger(auctions: Sequence[RecordedAuction], advised: Mapping[BidKey, Advised]) -> list[Regret]:
    """A row for each agent, strategy and kind of task, the greatest regret first."""
    rows: dict[tuple[str, str, str], Regret] = {}
    for auction in auctions:
        for bid in auction.bids:
            one = _regret(auction, bid, advised.get((auction.task_id, bid.agent_id)))
            key = (one.agent_id, one.strategy, one.kind)
            rows[key] = rows[key].plus(one) if key in rows else one
    return sorted(
        rows.values(),
        key=lambda row: (-row.left_sats - row.missed_sats, row.agent_id, row.strategy, row.kind),
    )


def by_strategy(ledger: Sequence[Regret]) -> list[Regret]:
    """The ledger's sums, a row a strategy."""
    rows: defaultdict[str, list[Regret]] = defaultdict(list)
    for row in ledger:
        rows[row.strategy].append(row)
    return [_sum(strategy, own) for strategy, own in sorted(rows.items())]


def _sum(strategy: str, rows: Sequence[Regret]) -> Regret:
    total = Regret("", strategy, "")
    for row in rows:
        total = total.plus(row)
    return total


def _regret(auction: RecordedAuction, bid: RecordedBid, advised: Advised | None) -> Regret:
    won = auction.winner == bid.agent_id
    missed = 0 if won or advised is None else _missed_sats(auction, advised)
    return Regret(
        agent_id=bid.agent_id,
        strategy=UNADVISED if advised is None else advised.strategy,
        kind=next(iter(keywords_of(bid.description)), UNADVISED),
        auctions=1,
        won=int(won),
        left_sats=_left_sats(auction, bid) if won else 0,
        missed=int(missed > 0),
        missed_sats=missed,
    )


def _left_sats(auction: RecordedAuction, bid: RecordedBid) -> int:
    """0 without a runner-up, or where a lower bid than the winner's lost."""
    others = [one.bid_sats for one in auction.bids if one is not bid and one.bid_sats is not None]
    return max(0, min(others) - bid.bid_sats) if others and bid.bid_sats is not None else 0


def _missed_sats(auction: RecordedAuction, advised: Advised) -> int:
    price = auction.winning_bid_sats
    return 0 if price is None else max(0, price - advised.advice.base_bid_sats)
