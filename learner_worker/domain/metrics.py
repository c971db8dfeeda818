"""An agent's metrics, updated by differences, so that an answer never scans outcomes."""

import msgspec

from learner_worker.domain.keywords import keywords_of
from learner_worker.domain.outcomes import Outcome


class Metrics(msgspec.Struct, frozen=True, gc=False):
    """An agent's counts, from which rates and the mean follow.

    Attributes:
        total_bids: outcomes that count, at most one per task.
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
        """Won auctions divided by bids; 0.0 without bids."""
        return self.auctions_won / self.total_bids if self.total_bids else 0.0

    @property
    def tasks_with_result(self) -> int:
        """Won tasks with a result, completed or failed."""
        return self.tasks_completed + self.tasks_failed

    @property
    def success_rate(self) -> float:
        """Completed tasks divided by tasks with a result; 0.0 without results."""
        return self.tasks_completed / self.tasks_with_result if self.tasks_with_result else 0.0

    @property
    def avg_winning_bid_sats(self) -> float:
        """The mean bid of won auctions whose bid is known, in sats; 0.0 without any."""
        return self.priced_sats / self.priced_wins if self.priced_wins else 0.0


class Change(msgspec.Struct, frozen=True):
    """The difference that an outcome makes to its agent's metrics and to its keywords' wins and failures."""

    metrics: Metrics
    wins: dict[str, int]
    failures: dict[str, int]

    def __bool__(self) -> bool:
        """Whether anything changes."""
        return self.metrics != _NOTHING or bool(self.wins) or bool(self.failures)


_NOTHING = Metrics()
_LOST = Metrics(total_bids=1)
_NO_WORDS: dict[str, int] = {}
ONE_MORE_LOST = Change(_LOST, _NO_WORDS, _NO_WORDS)
"""The change that nearly every first fact makes: one more bid, which lost."""


def change(before: Outcome | None, after: Outcome) -> Change:
    """The difference between an outcome and its earlier state; false if there is none."""
    new = _counted(after)
    if before is None and new is _LOST:  # the usual case: a first fact about a lost bid
        return ONE_MORE_LOST
    difference = new if before is None else _minus(new, _counted(before))
    was = None if before is None else _keyword_source(before)
    now = _keyword_source(after)
    if was == now:  # the usual case, because most bids lose: no keywords change
        return Change(difference, _NO_WORDS, _NO_WORDS)
    wins: dict[str, int] = {}
    failures: dict[str, int] = {}
    _tally(was, -1, wins, failures)
    _tally(now, 1, wins, failures)
    if was is None:
        return Change(difference, wins, failures)
    return Change(difference, _without_zeros(wins), _without_zeros(failures))


def plus(metrics: Metrics, difference: Metrics) -> Metrics:
    """The metrics after a difference."""
    return Metrics(
        metrics.total_bids + difference.total_bids,
        metrics.auctions_won + difference.auctions_won,
        metrics.tasks_completed + difference.tasks_completed,
        metrics.tasks_failed + difference.tasks_failed,
        metrics.priced_wins + difference.priced_wins,
        metrics.priced_sats + difference.priced_sats,
    )


def _minus(metrics: Metrics, other: Metrics) -> Metrics:
    return Metrics(
        metrics.total_bids - other.total_bids,
        metrics.auctions_won - other.auctions_won,
        metrics.tasks_completed - other.tasks_completed,
        metrics.tasks_failed - other.tasks_failed,
        metrics.priced_wins - other.priced_wins,
        metrics.priced_sats - other.priced_sats,
    )


def _counted(outcome: Outcome) -> Metrics:
    close = outcome.close
    if close is None:
        return _NOTHING
    if close.winner != outcome.agent_id:
        return _NOTHING if outcome.bid is None else _LOST
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
    """The text whose keywords count, and whether as wins; None if they do not count."""
    if outcome.result is None or not outcome.won:
        return None
    return outcome.description, outcome.result.succeeded


def _tally(
    source: tuple[str, bool] | None, sign: int, wins: dict[str, int], failures: dict[str, int]
) -> None:
    if source is None:
        return
    description, succeeded = source
    side = wins if succeeded else failures
    for keyword in keywords_of(description):
        side[keyword] = side.get(keyword, 0) + sign


def _without_zeros(counts: dict[str, int]) -> dict[str, int]:
    return {keyword: count for keyword, count in counts.items() if count}
