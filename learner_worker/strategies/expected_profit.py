"""expected-profit: bid what maximises chance to win at that price x (price x chance to deliver - cost).

Terms: bid shading; a Kaplan-Meier estimate with a Dirichlet prior of the others' lowest bid; naive Bayes with
an empirical-Bayes beta prior of the chance to deliver. IEEE doubles, only + - * / and square roots, in the
order of docs/strategies.md: every platform computes the same bid.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import inf, sqrt
from typing import Final, NamedTuple, cast

from learner_worker.contract.fields import MAX_SATS
from learner_worker.domain.keywords import Tally, keywords_of
from learner_worker.domain.metrics import Metrics
from learner_worker.strategies.explaining import Choice, Delivery, Rivals, explain
from learner_worker.strategies.price_bins import (
    BELOW_EDGES,
    BINS_PER_CLASS,
    EXACT_EDGES,
    LOWER_EDGES,
    price_bin,
    price_class,
)
from learner_worker.strategies.protocol import (
    Addend,
    Counts,
    PaidOn,
    SettledBid,
    Strategy,
    Suggestion,
    Sums,
)

_MIN_BIDS = 3  # as classic: before that nothing is known
_PRIOR_SUCCESS = 0.6  # the share of won tasks that are done, before any result
_PRIOR_RESULTS = 8.0  # what that share weighs, in results
_WORD_RESULTS = 1.5  # what an agent's overall chance weighs against a word's own results
_MAX_EVIDENCE = 2.0**40  # of all words together, either way: no overflow, however many words
_MIN_EVIDENCE = 1 / _MAX_EVIDENCE
_COST_SHARE = 0.6  # of the base bid: the effort's cost, where the agent does not say it
_PRIOR_PRICES = 8.0  # what the assumed distribution of the others' lowest bid weighs, in auctions
_OMEGA = 1 / ((1 - 0.6) * 6.0 - 1)  # makes the base bid the best one for an agent of whom nothing is known
_LOWEST_SHARE, _HIGHEST_SHARE = 0.8, 2.0  # of the base bid: the range that is searched

_LOST_ONE: Final[Counts] = (1, 0)  # the change of (lost, won) by a lost bid
_WON_ONE: Final[Counts] = (0, 1)  # the change of (lost, won) by a won bid


Cells = Mapping[int, Counts]
"""Bin of the others' lowest bid -> (lost, won)."""
Prices = Sequence[Cells]
"""Cells that are to be added up."""


class Costs(NamedTuple):
    """What a request says of money. `cost_sats` None: the agent did not say."""

    base_bid_sats: int
    cost_sats: int | None
    failure_cost_sats: int
    paid_on: PaidOn


class Stakes(NamedTuple):
    """What a bid b earns if it wins: `share` * b - `cost`."""

    share: float
    cost: float


class ExpectedProfit:
    """Needs, by class of the own bid, in which bin the others' lowest bid was: (lost, won) counts."""

    name: Final = "expected-profit"
    version: Final = 1

    def addends(self, *, settled: SettledBid) -> Sequence[Addend]:
        """The price that decided: the own bid when won (the others asked more), else the winner's."""
        own = settled.bid_sats
        price = own if settled.won else settled.winning_bid_sats
        if not own or not price:
            return ()
        return _price_met(_bin_of(own), _bin_of(price), settled.won)

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
        """The bid of the greatest expected profit between 0.8 and 2 times the base bid."""
        base = base_bid_sats
        if metrics.total_bids < _MIN_BIDS or base < 1:
            return Suggestion(base, 1.0, [])

        delivery = chance_to_deliver(metrics, tallies, description)
        costs = Costs(base, cost_sats, failure_cost_sats, paid_on)
        stakes = stakes_at(delivery.chance, delivery.overall, costs)
        searched = _searched(base)
        met = _met(searched, _prices_near(sums, price_class(base)))
        chosen = best_bid(searched, stakes, chances_to_win(searched, met), met.total)
        factor = chosen.bid_sats / base
        if not explained:
            return Suggestion(chosen.bid_sats, factor, [])
        assumed = _assumed_chances(base)
        by_words = best_bid(searched, stakes, assumed, 0)
        overall = stakes_at(delivery.overall, delivery.overall, costs)
        alone = best_bid(searched, overall, assumed, 0)
        return Suggestion(chosen.bid_sats, factor, explain(Rivals(base, alone, by_words, chosen), delivery))


_bin_of: Final = lru_cache(maxsize=16_384)(price_bin)  # prices repeat, above all within an auction


@lru_cache(maxsize=8_192)  # more than one swarm's bids have: two sides of some classes times some bins
def _price_met(own_bin: int, bin_of_price: int, won: bool) -> tuple[Addend]:
    return (Addend(own_bin // BINS_PER_CLASS, bin_of_price, _WON_ONE if won else _LOST_ONE),)


def chance_to_deliver(metrics: Metrics, tallies: Mapping[str, Tally], description: str) -> Delivery:
    """The chance that a task of this text gets done, and overall."""
    results = metrics.tasks_with_result
    overall = (metrics.tasks_completed + _PRIOR_SUCCESS * _PRIOR_RESULTS) / (results + _PRIOR_RESULTS)
    odds = overall / (1 - overall)
    evidence, successes, failures = 1.0, 0, 0
    for word in dict.fromkeys(keywords_of(description)) if tallies else ():
        tally = tallies.get(word)
        if tally is None:
            continue
        won, failed = tally
        rate = (won + _WORD_RESULTS * overall) / (failed + _WORD_RESULTS * (1 - overall))
        evidence *= rate / odds
        if not _MIN_EVIDENCE <= evidence <= _MAX_EVIDENCE:
            evidence = min(max(evidence, _MIN_EVIDENCE), _MAX_EVIDENCE)
        successes, failures = successes + won, failures + failed
    estimate = odds * sqrt(evidence)
    return Delivery(estimate / (1 + estimate), overall, results, successes, failures)


def stakes_at(chance: float, overall: float, costs: Costs) -> Stakes:
    """The value of winning at a chance to deliver; an unknown cost is a share of the base bid."""
    if costs.cost_sats is None:
        share, expense = chance / sqrt(overall), _COST_SHARE * costs.base_bid_sats
    else:
        share, expense = chance, costs.cost_sats + (1 - chance) * costs.failure_cost_sats
    return Stakes(1.0 if costs.paid_on == "win" else share, expense)


def _prices_near(sums: Sums, own_class: int) -> Prices:
    """What bids of about this size met: the cells of the class and of both neighbours."""
    near = [cells for group in (own_class - 1, own_class, own_class + 1) if (cells := sums.get(group))]
    return cast("Prices", near)


class Range(NamedTuple):
    """Which bids are looked at: one below the lower edge of each bin from `first` to `last`."""

    base: float
    highest: int
    first: int
    last: int
    bids: Sequence[float]


@lru_cache(maxsize=1_024)  # base bids repeat; an entry has about twenty doubles
def _searched(base: int) -> Range:
    lowest = max(1, int(base * _LOWEST_SHARE))
    highest = min(MAX_SATS, max(lowest, int(base * _HIGHEST_SHARE)))
    first, last = price_bin(lowest) + 1, price_bin(highest)
    if LOWER_EDGES[last + 1] - 1 == highest:
        last += 1
    return Range(float(base), highest, first, last, BELOW_EDGES[first : last + 1])


class Met(NamedTuple):
    """The others' lowest bids in auctions of about this size.

    Attributes:
        total: auctions.
        first: the lowest bin of any bid that was met or is looked at.
        lost: by bin, up to the last one that is looked at: auctions lost to a bid in it.
        ended: by bin: auctions of which nothing is known above it.
    """

    total: int
    first: int
    lost: Sequence[int]
    ended: Sequence[int]


def _met(searched: Range, prices: Prices) -> Met:
    last, total = searched.last, 0
    lost, ended = [0] * (last + 1), [0] * (last + 1)
    for cells in prices:
        for number, (lost_here, won_here) in cells.items():
            here = lost_here + won_here
            total += here
            if number <= last:
                lost[number] += lost_here
                ended[number] += here
    return Met(total, min([searched.first - 1, *map(min, prices)]), lost, ended)


def chances_to_win(searched: Range, met: Met) -> list[float]:
    """Of every bid of the range: the Kaplan-Meier estimate that the others' lowest bid is above it.

    A lost auction says where that bid was, a won one that it was not below the own bid. `assumed` is the
    prior's weight times its chance: the weight is a power of two, so that scaling by it rounds nothing.
    """
    total, first, lost, ended = met
    assumed, *falling = _assumed_from(searched.base, first, searched.last)
    win = (total + assumed) / (total + _PRIOR_PRICES)
    chances = [win]
    for number, left in enumerate(falling, first):
        win *= 1 - (lost[number] + (assumed - left)) / (total + assumed)
        total -= ended[number]
        assumed = left
        chances.append(win)
    return chances[searched.first - first :]


@lru_cache(maxsize=1_024)  # base bids repeat; an entry has about forty doubles
def _assumed_from(base: float, first: int, last: int) -> list[float]:
    """What the prior counts at or above the lower edge of each bin."""
    assumed = []
    for edge in EXACT_EDGES[first : last + 1]:
        ratio = edge / base
        ratio *= ratio
        assumed.append(_PRIOR_PRICES / (1.0 + _OMEGA * (ratio * ratio * ratio)))
    return assumed


@lru_cache(maxsize=1_024)  # as above
def _assumed_chances(base: int) -> Sequence[float]:
    searched = _searched(base)
    return chances_to_win(searched, _met(searched, ()))


def best_bid(searched: Range, stakes: Stakes, chances: Sequence[float], auctions: int) -> Choice:
    """The bid of the greatest expected profit, the lowest of equal ones; the highest where nothing pays."""
    share, cost = stakes
    profits = [win * (share * bid - cost) for win, bid in zip(chances, searched.bids, strict=True)]
    best = max(profits, default=-inf)
    if best <= 0 and cost > 0:
        return Choice(searched.highest, 0.0, auctions, pays=False)
    at = profits.index(best)
    return Choice(LOWER_EDGES[searched.first + at] - 1, chances[at], auctions, pays=True)


EXPECTED_PROFIT: Final[Strategy] = ExpectedProfit()
"""The strategy that pays."""
