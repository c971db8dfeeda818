"""Recorded auctions played again with a strategy's bids.

The others' bids are held as they were. The base is the one in the advice log, else the recorded bid. The
strategy learns from what was recorded, and only from closes and results before its bid was placed. What the
record does not decide is bounded both ways: who would have won where bids tie or the lowest did not win, and
whether the agent would have done a task that another one did.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import msgspec

from learner_worker.laboratory.memory import AgentMemory
from learner_worker.laboratory.recording import RecordedAuction, RecordedBid
from learner_worker.strategies.expected_profit import chance_to_deliver
from learner_worker.strategies.protocol import PaidOn, SettledBid, Strategy

_BID, _CLOSE, _RESULT = range(3)
"""What comes first at equal times: a bid knows only what was before it."""


class ReplayedBid(NamedTuple):
    """What a strategy would have bid, and its chance to deliver as far as was known then."""

    auction: RecordedAuction
    recorded: RecordedBid
    bid_sats: int
    chance: float


class Earned(msgspec.Struct, frozen=True):
    """Sats earned and auctions won: as estimated, at least and at most."""

    sats: float = 0.0
    at_least: int = 0
    at_most: int = 0


class Replayed(msgspec.Struct, frozen=True):
    """What replaying makes of an agent.

    Attributes:
        auctions: in how many it bid at a known price and time.
        decided: in how many the record alone says what it would have earned.
        won: how often it would have won, undecided auctions left out.
    """

    agent_id: str
    strategy: str
    auctions: int
    decided: int
    recorded_won: int
    recorded_sats: int
    won: int
    earned: Earned


class _Moment(NamedTuple):
    at: int
    kind: int
    auction: RecordedAuction
    bid: RecordedBid


def replay(
    auctions: Sequence[RecordedAuction], strategy: Strategy, agents: Collection[str], paid_on: PaidOn
) -> list[Replayed]:
    """What the agents would have earned, had they all bid by the strategy."""
    bids = {agent: list(replayed_bids(auctions, strategy, agent, paid_on)) for agent in agents}
    by_task: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for agent, own in bids.items():
        for one in own:
            by_task[one.auction.task_id][agent] = one.bid_sats
    return [_replayed(agent, strategy.name, own, by_task, paid_on) for agent, own in bids.items()]


def replayed_bids(
    auctions: Sequence[RecordedAuction], strategy: Strategy, agent: str, paid_on: PaidOn
) -> Iterator[ReplayedBid]:
    """The strategy's bids for an agent, in the order of time."""
    memory = AgentMemory(strategy)
    for moment in sorted(_moments(auctions, agent), key=lambda one: (one.at, one.kind, one.auction.task_id)):
        if moment.kind == _CLOSE:
            memory.learn(_settled(moment, None))
        elif moment.kind == _RESULT:
            memory.learn_result(_settled(moment, None), _settled(moment, moment.bid.succeeded))
        elif moment.bid.bid_sats and moment.bid.base:
            yield _replayed_bid(moment, strategy, memory, paid_on)


def _moments(auctions: Sequence[RecordedAuction], agent: str) -> Iterator[_Moment]:
    for auction in auctions:
        for bid in auction.bids:
            if bid.agent_id != agent:
                continue
            # Clocks differ: neither a close nor a result is known before the bid, whatever its date.
            closed_at = max(auction.closed_at, bid.placed_at or 0)
            yield _Moment(closed_at, _CLOSE, auction, bid)
            if bid.placed_at is not None:
                yield _Moment(bid.placed_at, _BID, auction, bid)
            if bid.finished_at is not None and bid.succeeded is not None:
                yield _Moment(max(bid.finished_at, closed_at), _RESULT, auction, bid)


def _settled(moment: _Moment, succeeded: bool | None) -> SettledBid:
    auction, bid = moment.auction, moment.bid
    return SettledBid(
        bid_sats=bid.bid_sats,
        won=auction.winner == bid.agent_id,
        winning_bid_sats=auction.winning_bid_sats,
        description=bid.description,
        succeeded=succeeded,
        closed_at_us=auction.closed_at,
    )


def _replayed_bid(moment: _Moment, strategy: Strategy, memory: AgentMemory, paid_on: PaidOn) -> ReplayedBid:
    suggestion = strategy.suggest(
        metrics=memory.metrics,
        tallies=memory.tallies,
        sums=memory.sums,
        description=moment.bid.description,
        base_bid_sats=moment.bid.base,
        paid_on=paid_on,
        explained=False,
    )
    chance = chance_to_deliver(memory.metrics, memory.tallies, moment.bid.description).chance
    return ReplayedBid(moment.auction, moment.bid, suggestion.suggested_bid_sats, chance)


def winner_at(auction: RecordedAuction, bids_sats: dict[str, int]) -> str | None:
    """Who wins when some agents bid otherwise; None where the record does not decide.

    It decides where the recorded winner was the only lowest bidder, so that the lowest bid wins, all bids are
    known, and no two of the lowest bids are equal.
    """
    recorded = {bid.agent_id: bid.bid_sats for bid in auction.bids}
    known = {agent: sats for agent, sats in recorded.items() if sats is not None}
    if len(known) < len(recorded) or _only_lowest(known) != auction.winner:
        return None
    return _only_lowest({**known, **bids_sats})


def _only_lowest(bids_sats: dict[str, int]) -> str | None:
    lowest = min(bids_sats.values())
    having = [agent for agent, sats in bids_sats.items() if sats == lowest]
    return having[0] if len(having) == 1 else None


def _replayed(
    agent: str,
    strategy: str,
    bids: Sequence[ReplayedBid],
    by_task: dict[str, dict[str, int]],
    paid_on: PaidOn,
) -> Replayed:
    winners = [winner_at(one.auction, by_task[one.auction.task_id]) for one in bids]
    outcomes = [earned(one, winner, paid_on) for one, winner in zip(bids, winners, strict=True)]
    won = [one.recorded for one in bids if one.auction.winner == agent]
    paid = [bid.bid_sats or 0 for bid in won if paid_on == "win" or bid.succeeded]
    return Replayed(
        agent_id=agent,
        strategy=strategy,
        auctions=len(bids),
        decided=sum(one.at_least == one.at_most for one in outcomes),
        recorded_won=len(won),
        recorded_sats=sum(paid),
        won=sum(winner == agent for winner in winners),
        earned=Earned(
            sum(one.sats for one in outcomes),
            sum(one.at_least for one in outcomes),
            sum(one.at_most for one in outcomes),
        ),
    )


def earned(one: ReplayedBid, winner: str | None, paid_on: PaidOn) -> Earned:
    """What a bid earns in its auction, if `winner` wins; where that is open (None), the estimate takes the
    recorded winner's side.
    """
    own, bid = one.recorded.agent_id, one.bid_sats
    if winner is not None and winner != own:
        return Earned()
    sure = 1.0 if paid_on == "win" else _known_chance(one)
    chance = one.chance if sure is None else sure
    if winner is None:
        return Earned(chance * bid if one.auction.winner == own else 0.0, 0, 0 if sure == 0 else bid)
    if sure is None:
        return Earned(chance * bid, 0, bid)
    return Earned(sure * bid, int(sure) * bid, int(sure) * bid)


def _known_chance(one: ReplayedBid) -> float | None:
    """1 or 0 where the agent did the task itself and it has a result."""
    if one.auction.winner != one.recorded.agent_id or one.recorded.succeeded is None:
        return None
    return float(one.recorded.succeeded)
