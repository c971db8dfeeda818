"""Why expected-profit bids as it does, in three steps. No sentence states a cost: others read replies."""

from collections.abc import Iterator
from typing import NamedTuple

from learner_worker.strategies.protocol import AppliedRule

_FEW_RESULTS = 8  # below it the assumed share of done tasks weighs more than the agent's own results


class Delivery(NamedTuple):
    """How likely a task gets done.

    Attributes:
        chance: of a task of this text.
        overall: of any task.
        results: of how many own tasks the outcome is known.
        successes: of the text's words, on tasks that were done.
        failures: of the text's words, on tasks that failed.
    """

    chance: float
    overall: float
    results: int
    successes: int
    failures: int


class Choice(NamedTuple):
    """A bid, the chance to win with it, and how many auctions that is known from.

    Attributes:
        pays: whether any bid in the range is expected to earn something.
    """

    bid_sats: int
    win: float
    auctions: int
    pays: bool


class Rivals(NamedTuple):
    """The bid that is best by what is known of whom.

    Attributes:
        alone: by the overall chance to deliver, no prices.
        by_words: by the text's words besides.
        chosen: by the others' prices besides.
    """

    base_bid_sats: int
    alone: Choice
    by_words: Choice
    chosen: Choice


def explain(rivals: Rivals, delivery: Delivery) -> list[AppliedRule]:
    """The steps whose multiplier is not 1; their product is the factor, up to rounding."""
    return [
        AppliedRule(rule, multiplier, reason)
        for rule, multiplier, reason in _steps(rivals, delivery)
        if multiplier != 1
    ]


def _steps(rivals: Rivals, delivery: Delivery) -> Iterator[tuple[str, float, str]]:
    base, alone, by_words, chosen = rivals
    if alone.bid_sats != base:
        yield "prior_margin", alone.bid_sats / base, _margin(alone, delivery, more=alone.bid_sats > base)
    if by_words.bid_sats != alone.bid_sats:
        more = by_words.bid_sats > alone.bid_sats
        yield "chance_to_deliver", by_words.bid_sats / alone.bid_sats, _chance(delivery, more=more)
    if chosen.bid_sats != by_words.bid_sats:
        yield "rivals_prices", chosen.bid_sats / by_words.bid_sats, _prices(chosen)


def _margin(alone: Choice, delivery: Delivery, *, more: bool) -> str:
    if not alone.pays:
        return "no price up to twice the base bid is expected to pay: ask for the most"
    known = (
        "few results yet" if delivery.results < _FEW_RESULTS else f"{_percent(delivery.overall)} to deliver"
    )
    return f"{known}: {'a margin for the risk of failing' if more else 'ask for less, to win more often'}"


def _chance(delivery: Delivery, *, more: bool) -> str:
    successes = _count(delivery.successes, "success", "successes")
    failures = _count(delivery.failures, "failure", "failures")
    return (
        f"these words met {successes} and {failures}: {_percent(delivery.chance)} to deliver, "
        f"{_percent(delivery.overall)} overall: ask for {'more' if more else 'less'}"
    )


def _prices(chosen: Choice) -> str:
    if not chosen.pays:
        return (
            f"by the others' prices in {_count(chosen.auctions, 'such auction', 'such auctions')} no price "
            "up to twice the base bid is expected to pay: ask for the most"
        )
    return (
        f"the others' lowest bid was above {chosen.bid_sats} sats in about {_percent(chosen.win)} "
        f"of {_count(chosen.auctions, 'such auction', 'such auctions')}: best price times chance"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
