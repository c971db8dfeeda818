"""Metrics and keywords added up from outcomes at once, beside what is kept by differences."""

from collections.abc import Iterable

from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Metrics, change, plus
from learner_worker.domain.outcomes import Outcome


def totals(outcomes: Iterable[Outcome]) -> tuple[Metrics, dict[str, Tally]]:
    """The metrics and keywords of the agent whose outcomes these are."""
    metrics, tallies = Metrics(), dict[str, Tally]()
    for outcome in outcomes:
        added = change(None, outcome)
        metrics = plus(metrics, added.metrics)
        for word in added.wins.keys() | added.failures.keys():
            wins, failures = tallies.get(word, Tally())
            tallies[word] = Tally(wins + added.wins.get(word, 0), failures + added.failures.get(word, 0))
    return metrics, tallies
