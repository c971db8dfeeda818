"""An agent's metrics, kept by differences: an answer never scans history."""

from collections import Counter
from typing import NamedTuple

from learner_worker.domain.keywords import keywords_of
from learner_worker.domain.outcomes import Outcome


class Metrics(NamedTuple):
    """An agent's counts. Rates and the mean follow from them.

    Attributes:
        total_bids: outcomes that count, one an auction.
        priced_wins: won auctions whose bid is known.
        priced_sats: the exact sum of those bids.
    """

    total_bids: int = 0
    auctions_won: int = 0
    tasks_completed: int = 0
    tasks_failed: int = 0
    priced_wins: int = 0
    priced_sats: int = 0

    @property
    def win_rate(self) -> float:
        """Won auctions a bid; 0.0 if none."""
        return self.auctions_won / self.total_bids if self.total_bids else 0.0

    @property
    def tasks_with_result(self) -> int:
        """Won tasks that ended, either way."""
        return self.tasks_completed + self.tasks_failed

    @property
    def success_rate(self) -> float:
        """Completed tasks a result; 0.0 if none."""
        return self.tasks_completed / self.tasks_with_result if self.tasks_with_result else 0.0

    @property
    def avg_winning_bid_sats(self) -> float:
        """The mean bid of won auctions whose bid is known: an exact sum, divided once; 0.0 if none."""
        return self.priced_sats / self.priced_wins if self.priced_wins else 0.0


class Change(NamedTuple):
    """What a changed outcome adds to its agent's metrics, and to its keywords' (wins, failures)."""

    metrics: Metrics
    wins: dict[str, int]
    failures: dict[str, int]

    def __bool__(self) -> bool:
        """Whether anything changes."""
        return self.metrics != _NOTHING or bool(self.wins) or bool(self.failures)


_NOTHING = Metrics()
_LOST = Metrics(total_bids=1)
_NO_WORDS: dict[str, int] = {}


def change(before: Outcome | None, after: Outcome) -> Change:
    """The difference that an outcome makes when it takes the place of its earlier state."""
    new = _counted(after)
    difference = new if before is None else _minus(new, _counted(before))
    was = None if before is None else _keyword_source(before)
    now = _keyword_source(after)
    if was == now:  # nearly always, as of all bids one wins: no words are counted
        return Change(difference, _NO_WORDS, _NO_WORDS)
    wins: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    _tally(was, -1, wins, failures)
    _tally(now, 1, wins, failures)
    return Change(difference, _without_zeros(wins), _without_zeros(failures))


# Once or twice a fact: written out, they take a third of the time of a loop over the fields.
def plus(metrics: Metrics, difference: Metrics) -> Metrics:
    """The metrics after a difference."""
    bids, won, completed, failed, priced, sats = metrics
    more_bids, more_won, more_completed, more_failed, more_priced, more_sats = difference
    return Metrics(
        bids + more_bids,
        won + more_won,
        completed + more_completed,
        failed + more_failed,
        priced + more_priced,
        sats + more_sats,
    )


def _minus(metrics: Metrics, other: Metrics) -> Metrics:
    bids, won, completed, failed, priced, sats = other
    return plus(metrics, Metrics(-bids, -won, -completed, -failed, -priced, -sats))


def _counted(outcome: Outcome) -> Metrics:
    if not outcome.counts:
        return _NOTHING
    if not outcome.won:
        return _LOST
    succeeded = outcome.result.succeeded if outcome.result is not None else None
    return Metrics(
        total_bids=1,
        auctions_won=1,
        tasks_completed=int(succeeded is True),
        tasks_failed=int(succeeded is False),
        priced_wins=int(outcome.bid_sats is not None),
        priced_sats=outcome.bid_sats or 0,
    )


def _keyword_source(outcome: Outcome) -> tuple[str, bool] | None:
    """The text whose words count, and for which side; None if they do not count."""
    if not outcome.won or outcome.result is None:
        return None
    return outcome.description, outcome.result.succeeded


def _tally(source: tuple[str, bool] | None, sign: int, wins: Counter[str], failures: Counter[str]) -> None:
    if source is None:
        return
    description, succeeded = source
    side = wins if succeeded else failures
    for keyword in keywords_of(description):
        side[keyword] += sign


def _without_zeros(counts: Counter[str]) -> dict[str, int]:
    return {keyword: count for keyword, count in counts.items() if count}
