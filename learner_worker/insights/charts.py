"""What the charts on the pages show: numbers only, drawn by the templates."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from learner_worker.domain.outcomes import Outcome

_STRETCHES = 40  # as many bars as fit beside each other on a telephone
_BIDS = 5  # of a stretch at least: a share of fewer jumps
_LEAST = 2  # fewer bars show no course


class Stretch(NamedTuple):
    """Some of an agent's outcomes in a row: the shares of auctions won, and of results that were good."""

    bids: int
    won: float
    done: float | None


def course(outcomes: Sequence[Outcome]) -> Sequence[Stretch]:
    """An agent's course, oldest first: equal stretches of its outcomes; none if there are too few.

    Args:
        outcomes: the latest first.
    """
    count = min(_STRETCHES, len(outcomes) // _BIDS)
    if count < _LEAST:
        return ()
    oldest_first = outcomes[::-1]
    bounds = [len(outcomes) * number // count for number in range(count + 1)]
    return [_stretch(oldest_first[start:end]) for start, end in pairwise(bounds)]


def _stretch(outcomes: Sequence[Outcome]) -> Stretch:
    won = [outcome for outcome in outcomes if outcome.won]
    results = [outcome.result.succeeded for outcome in won if outcome.result is not None]
    return Stretch(len(outcomes), len(won) / len(outcomes), sum(results) / len(results) if results else None)
