"""What advice came to on live traffic: the advice log joined with the outcomes.

Sats earned are what the swarm paid; what the effort cost is in no record. A task is the unit of all
intervals: agents compete for it, and an experiment draws a strategy for each task.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from learner_worker.contract.advice import AdviceRecord
from learner_worker.contract.times import parse_time
from learner_worker.laboratory.intervals import Interval, interval, welch_interval
from learner_worker.laboratory.recording import RecordedAuction, RecordedBid
from learner_worker.laboratory.replay import Earned, ReplayedBid, earned, winner_at
from learner_worker.strategies.protocol import PaidOn

BidKey = tuple[str, str]
"""The task and the agent of a bid."""
_FEWEST: Final = 2  # tasks of an arm, for an interval


class Advised(NamedTuple):
    """An agent's advice for a task, and what came of it; no auction: it has not ended, or is not known.

    Attributes:
        bid: the agent's counted bid; None if it did not bid.
    """

    advice: AdviceRecord
    auction: RecordedAuction | None
    bid: RecordedBid | None

    @property
    def strategy(self) -> str:
        """The strategy that advised."""
        return self.advice.strategy

    @property
    def followed(self) -> bool:
        """Whether the agent bid what it was advised."""
        return self.bid is not None and self.bid.bid_sats == self.advice.suggested_bid_sats

    @property
    def won(self) -> bool:
        """Whether the agent won."""
        return self.auction is not None and self.auction.winner == self.advice.agent_id

    def paid_sats(self, paid_on: PaidOn) -> int:
        """What the agent was paid."""
        if not self.won or self.bid is None:
            return 0
        return (self.bid.bid_sats or 0) if paid_on == "win" or self.bid.succeeded else 0


class WouldHave(msgspec.Struct, frozen=True):
    """What another strategy's bid would have come to where this one advised; rivals' bids are held fixed.

    Attributes:
        auctions: those that ended, and in which the log has its bid.
        decided: in how many the record alone says who would have won.
        won: of those: the share that it would have won, and the share that was won.
        at_least, at_most: sats, of all these auctions; the difference is what the record does not decide.
    """

    strategy: str
    auctions: int
    decided: int
    won: Interval | None
    was_won: Interval | None
    at_least: int
    at_most: int


class Standing(msgspec.Struct, frozen=True):
    """What a strategy's advice came to, in an experiment or outside of any.

    Attributes:
        advised: agents' tasks with advice; of several answers the last before the bid counts.
        ended: how many of their auctions have ended.
        bid: in how many of those the agent bid.
        followed: in how many it bid what it was advised.
        earned_sats: paid for all of them.
        per_task: sats paid for a task, over tasks.
    """

    experiment: str | None
    strategy: str
    advised: int
    with_costs: int
    ended: int
    bid: int
    followed: int
    won: int
    done: int
    failed: int
    earned_sats: int
    per_task: Interval | None
    others: tuple[WouldHave, ...]


class ArmDifference(msgspec.Struct, frozen=True):
    """Sats paid for a task, of one arm more than of another: the difference under this very split.

    It is not the effect of a full switch: both arms' agents learn from one shared history.
    """

    experiment: str
    arm: str
    baseline: str
    tasks: tuple[int, int]
    difference: Interval


class League(msgspec.Struct, frozen=True):
    """The whole table."""

    standings: tuple[Standing, ...]
    differences: tuple[ArmDifference, ...]


def advised_bids(
    advice: Iterable[AdviceRecord], auctions: Sequence[RecordedAuction]
) -> dict[BidKey, Advised]:
    """The advice that counts of every agent in every task, with what came of it."""
    asked: defaultdict[BidKey, list[AdviceRecord]] = defaultdict(list)
    for record in advice:
        asked[record.task_id, record.agent_id].append(record)
    by_task = {auction.task_id: auction for auction in auctions}
    return {key: _joined(records, by_task.get(key[0])) for key, records in asked.items()}


def _joined(records: Sequence[AdviceRecord], auction: RecordedAuction | None) -> Advised:
    agent_id = records[0].agent_id
    bid = None if auction is None else next((b for b in auction.bids if b.agent_id == agent_id), None)
    return Advised(_standing_advice(records, bid), auction, bid)


def _standing_advice(records: Sequence[AdviceRecord], bid: RecordedBid | None) -> AdviceRecord:
    """The last before the bid; clocks differ, so without any the first."""
    in_order = sorted(records, key=lambda record: parse_time(record.advised_at))
    placed_at = None if bid is None else bid.placed_at
    before = [r for r in in_order if placed_at is None or parse_time(r.advised_at) <= placed_at]
    return before[-1] if before else in_order[0]


def league(
    advice: Iterable[AdviceRecord], auctions: Sequence[RecordedAuction], paid_on: PaidOn = "success"
) -> League:
    """The table of all strategies, those of experiments first."""
    groups: defaultdict[tuple[str | None, str], list[Advised]] = defaultdict(list)
    for one in advised_bids(advice, auctions).values():
        groups[_experiment_of(one), one.strategy].append(one)
    in_order = sorted(groups.items(), key=lambda group: (group[0][0] is None, group[0][0] or "", group[0][1]))
    return League(
        tuple(_standing(experiment, strategy, own, paid_on) for (experiment, strategy), own in in_order),
        tuple(_differences(dict(in_order), paid_on)),
    )


def _experiment_of(one: Advised) -> str | None:
    return None if one.advice.experiment is None else one.advice.experiment.name


def _standing(experiment: str | None, strategy: str, own: Sequence[Advised], paid_on: PaidOn) -> Standing:
    ended = [one for one in own if one.auction is not None]
    won = [one.bid for one in ended if one.won and one.bid is not None]
    return Standing(
        experiment=experiment,
        strategy=strategy,
        advised=len(own),
        with_costs=sum(one.advice.costs for one in own),
        ended=len(ended),
        bid=sum(one.bid is not None for one in ended),
        followed=sum(one.followed for one in ended),
        won=len(won),
        done=sum(bid.succeeded is True for bid in won),
        failed=sum(bid.succeeded is False for bid in won),
        earned_sats=sum(one.paid_sats(paid_on) for one in ended),
        per_task=_interval(list(_paid_by_task(ended, paid_on).values())),
        others=tuple(_would_have(ended, paid_on)),
    )


def _interval(values: Sequence[float]) -> Interval | None:
    return interval(values) if values else None


def _paid_by_task(ended: Iterable[Advised], paid_on: PaidOn) -> Mapping[str, float]:
    paid: defaultdict[str, float] = defaultdict(float)
    for one in ended:
        paid[one.advice.task_id] += one.paid_sats(paid_on)
    return paid


def _would_have(ended: Sequence[Advised], paid_on: PaidOn) -> Iterable[WouldHave]:
    bids: defaultdict[str, list[tuple[Advised, int]]] = defaultdict(list)
    for one in ended:
        if isinstance(one.advice.alternatives, msgspec.UnsetType) or one.bid is None:
            continue
        for name, other in one.advice.alternatives.items():
            if name != one.strategy:
                bids[name].append((one, other.suggested_bid_sats))
    for name, own in sorted(bids.items()):
        yield _imagined(name, own, paid_on)


def _imagined(name: str, own: Sequence[tuple[Advised, int]], paid_on: PaidOn) -> WouldHave:
    winners = [(one, _winner(one, bid_sats)) for one, bid_sats in own]
    decided = [(one, winner) for one, winner in winners if winner is not None]
    sats = [
        _bounds(one, bid_sats, winner, paid_on)
        for (one, bid_sats), (_, winner) in zip(own, winners, strict=True)
    ]
    return WouldHave(
        strategy=name,
        auctions=len(own),
        decided=len(decided),
        won=_interval([float(winner == one.advice.agent_id) for one, winner in decided]),
        was_won=_interval([float(one.won) for one, _ in decided]),
        at_least=sum(one.at_least for one in sats),
        at_most=sum(one.at_most for one in sats),
    )


def _winner(one: Advised, bid_sats: int) -> str | None:
    """Who would have won; None where the record does not say."""
    if one.auction is None or one.bid is None:
        return None
    if bid_sats == one.bid.bid_sats:  # nothing would have been different
        return one.auction.winner
    return winner_at(one.auction, {one.advice.agent_id: bid_sats})


def _bounds(one: Advised, bid_sats: int, winner: str | None, paid_on: PaidOn) -> Earned:
    if one.auction is None or one.bid is None:
        return Earned()
    return earned(ReplayedBid(one.auction, one.bid, bid_sats, 0.0), winner, paid_on)


def _differences(
    groups: Mapping[tuple[str | None, str], Sequence[Advised]], paid_on: PaidOn
) -> Iterable[ArmDifference]:
    """Of each experiment every arm beside the first one, in the order of their names."""
    arms: defaultdict[str, dict[str, Mapping[str, float]]] = defaultdict(dict)
    for (experiment, strategy), own in groups.items():
        paid = _paid_by_task((one for one in own if one.auction is not None), paid_on)
        if experiment is not None and len(paid) >= _FEWEST:
            arms[experiment][strategy] = paid
    for experiment, by_arm in arms.items():
        (baseline, control), *others = by_arm.items()
        for arm, paid in others:
            values, against = list(paid.values()), list(control.values())
            yield ArmDifference(
                experiment, arm, baseline, (len(values), len(against)), welch_interval(values, against)
            )
