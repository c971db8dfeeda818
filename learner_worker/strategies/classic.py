"""classic, the default strategy: six rules on an agent's metrics and keywords, each giving its reason."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from learner_worker.contract.fields import MAX_SATS
from learner_worker.domain.keywords import Tally, keywords_of
from learner_worker.domain.metrics import Metrics
from learner_worker.strategies.protocol import (
    Addend,
    AppliedRule,
    PaidOn,
    SettledBid,
    Strategy,
    Suggestion,
    Sums,
)

_MIN_BIDS = 3  # docs/contract.md: fewer bids tell little about a rate
_MIN_RESULTS = 2  # docs/contract.md: one result may be chance
_MIN_KEYWORD_RESULTS = 2  # docs/contract.md: one occurrence may be chance
_EASY_WIN_RATE, _RARE_WIN_RATE = 0.8, 0.2  # of the rules win_rate_high and win_rate_low (docs/contract.md)
_WEAK_SUCCESS_RATE, _STRONG_SUCCESS_RATE = 0.5, 0.8  # of success_rate_low and success_rate_high


class Classic:
    """Multiplies IEEE doubles in the order of the rules. It needs no sums and ignores costs."""

    name: Final = "classic"
    version: Final = 0

    def addends(self, *, settled: SettledBid) -> Sequence[Addend]:
        """Nothing: the metrics and keywords are enough."""
        del settled
        return ()

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
        """Suggests the base bid times the factor; the base bid itself before the third outcome."""
        del sums, cost_sats, failure_cost_sats, paid_on, explained
        return classic(metrics, tallies, description, base_bid_sats)


def classic(
    metrics: Metrics, tallies: Mapping[str, Tally], description: str, base_bid_sats: int
) -> Suggestion:
    """The default strategy's suggestion."""
    if metrics.total_bids < _MIN_BIDS:
        return Suggestion(base_bid_sats, 1.0, [])
    rules = list(_rules(metrics, tallies, description))
    factor = 1.0
    for applied in rules:
        factor *= applied.multiplier
    return Suggestion(apply_factor(base_bid_sats, factor), factor, rules)


def apply_factor(base_bid_sats: int, factor: float) -> int:
    """The base bid times the factor, truncated to whole sats, from 1 to 2^53-1."""
    return min(MAX_SATS, max(1, int(base_bid_sats * factor)))


def _rules(metrics: Metrics, tallies: Mapping[str, Tally], description: str) -> Iterator[AppliedRule]:
    yield from _on_wins(metrics)
    if metrics.tasks_with_result >= _MIN_RESULTS:
        yield from _on_success(metrics)
    yield from _on_keywords(tallies, description)


def _on_wins(metrics: Metrics) -> Iterator[AppliedRule]:
    if metrics.win_rate > _EASY_WIN_RATE:
        yield AppliedRule("win_rate_high", 1.15, f"{_wins(metrics)}: wins too easily, ask for more")
    elif metrics.win_rate < _RARE_WIN_RATE:
        yield AppliedRule("win_rate_low", 0.85, f"{_wins(metrics)}: be more competitive")


def _wins(metrics: Metrics) -> str:
    return f"won {metrics.auctions_won} of {_count(metrics.total_bids, 'auction')}"


def _on_success(metrics: Metrics) -> Iterator[AppliedRule]:
    if metrics.success_rate < _WEAK_SUCCESS_RATE:
        yield AppliedRule("success_rate_low", 1.25, f"{_results(metrics)}: avoid work it fails")
    elif metrics.success_rate > _STRONG_SUCCESS_RATE:
        yield AppliedRule("success_rate_high", 0.90, f"{_results(metrics)}: reliable, lean in")


def _results(metrics: Metrics) -> str:
    return f"completed {metrics.tasks_completed} of {_count(metrics.tasks_with_result, 'won task')}"


def _on_keywords(tallies: Mapping[str, Tally], description: str) -> Iterator[AppliedRule]:
    if not tallies:
        return
    wins = failures = 0
    for word in keywords_of(description):
        if (tally := tallies.get(word)) is not None:
            wins += tally.wins
            failures += tally.failures
    if wins > failures and wins >= _MIN_KEYWORD_RESULTS:
        yield AppliedRule("keywords_proven", 0.90, f"{_words(wins, failures)}: proven at this")
    elif failures > wins and failures >= _MIN_KEYWORD_RESULTS:
        yield AppliedRule("keywords_weak", 1.15, f"{_words(wins, failures)}: back off")


def _words(wins: int, failures: int) -> str:
    successes = _count(wins, "success", "successes")
    return f"this description's words met {successes} and {_count(failures, 'failure')}"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


CLASSIC: Final[Strategy] = Classic()
"""The default strategy."""
