"""What the trials amount to: a row a way of bidding, market and population, and all markets together."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

import msgspec

from learner_worker.laboratory.auctions import SEGMENTS
from learner_worker.laboratory.intervals import Interval, interval, share_won
from learner_worker.laboratory.simulation import Plan
from learner_worker.laboratory.trials import ORACLE, Population, Totals, Trial

Verdict = Literal["better", "worse", "unclear"]
MARKETS: Final = ("held out", "looked at")
"""The two kinds of markets."""
_FEWEST_FAMILIES: Final = 2  # an interval over one family says nothing of others


class Buyers(msgspec.Struct, frozen=True):
    """What buyers and the swarm see when all who may ask do, beside the same market where nobody asks.

    Attributes:
        done_share: won tasks that were done, in percent; the difference in percentage points.
        price: paid for a done task, failed ones included: with, of without.
        effort: spent by agents for a done task: with, of without.
        tasks: done tasks: with, of without.
    """

    done_share_static: float
    done_share: float
    done_share_difference: Interval
    price: Interval
    effort: Interval
    tasks: Interval


class Row(msgspec.Struct, frozen=True):
    """How a contender did in a market and population, over all seeds. Gains: see `Trial`."""

    market: str
    held_out: bool
    population: Population
    contender: str
    gain: Interval
    won: float
    verdict: Verdict
    profit: Interval
    static_profit: Interval
    cold: Interval
    curve: tuple[Interval, ...]
    regret: Interval | None
    buyers: Buyers | None


class Overall(msgspec.Struct, frozen=True):
    """A contender in a population over several markets: the mean of their means, an interval over markets."""

    population: Population
    contender: str
    markets: str
    gain: Interval
    won: float
    cold: Interval
    better: int
    worse: int
    price: Interval | None
    effort: Interval | None
    tasks: Interval | None
    done_share: float | None
    done_share_static: float | None


class Findings(msgspec.Struct, frozen=True):
    """A report's content, as JSON has it."""

    seeds: int
    first_seed: int
    markets: dict[str, str]
    contenders: tuple[str, ...]
    populations: tuple[Population, ...]
    rows: tuple[Row, ...]
    overall: tuple[Overall, ...]

    def row(self, market: str, population: Population, contender: str) -> Row | None:
        """The row, if there is one."""
        wanted = (market, population, contender)
        return next((r for r in self.rows if (r.market, r.population, r.contender) == wanted), None)

    def of(self, population: Population, markets: str) -> list[Overall]:
        """What holds over these markets, by contender."""
        return [one for one in self.overall if (one.population, one.markets) == (population, markets)]


def findings(plan: Plan, trials: Iterable[Trial]) -> Findings:
    """The plan's trials, summed up."""
    grouped: defaultdict[tuple[str, Population, str], list[Trial]] = defaultdict(list)
    for trial in trials:
        grouped[trial.market, trial.population, trial.contender].append(trial)
    held_out = {market.name: market.held_out for market in plan.markets}
    rows = [_row(group, held_out=held_out[name]) for (name, _, _), group in grouped.items()]
    return Findings(
        seeds=len(plan.seeds),
        first_seed=plan.seeds.start,
        markets={market.name: market.about for market in plan.markets},
        contenders=tuple(contender.label for contender in plan.contenders),
        populations=plan.populations,
        rows=tuple(rows),
        overall=tuple(_overall(plan, rows)),
    )


def _row(trials: Sequence[Trial], *, held_out: bool) -> Row:
    first = trials[0]
    gains = [trial.gain for trial in trials]
    gain = interval(gains)
    curve = () if first.contender == ORACLE else range(SEGMENTS)
    regrets = [trial.regret for trial in trials if trial.regret is not None]
    return Row(
        market=first.market,
        held_out=held_out,
        population=first.population,
        contender=first.contender,
        gain=gain,
        won=share_won(gains),
        verdict="better" if gain.is_clearly_positive else "worse" if gain.is_clearly_negative else "unclear",
        profit=interval([per_100(trial.asking) for trial in trials]),
        static_profit=interval([per_100(trial.static) for trial in trials]),
        cold=interval([trial.cold for trial in trials]),
        curve=tuple(interval([trial.curve[segment] for trial in trials]) for segment in curve),
        regret=interval(regrets) if regrets else None,
        buyers=_buyers([trial.buyers for trial in trials if trial.buyers is not None]),
    )


def per_100(totals: Totals) -> float:
    """Profit per 100 sats of base bid."""
    return 100 * totals.profit / totals.base if totals.base else 0.0


def _buyers(pairs: Sequence[tuple[Totals, Totals]]) -> Buyers | None:
    """None if a run did no task at all: there is nothing to divide by."""
    if not pairs or not all(after.done and before.done and before.cost for after, before in pairs):
        return _free_buyers(pairs)
    return _compared(pairs, lambda totals: totals.cost / totals.done)


def _free_buyers(pairs: Sequence[tuple[Totals, Totals]]) -> Buyers | None:
    """Where effort costs nothing, its ratio is 1."""
    if not pairs or not all(after.done and before.done for after, before in pairs):
        return None
    return _compared(pairs, lambda _: 1.0)


def _compared(pairs: Sequence[tuple[Totals, Totals]], effort: Callable[[Totals], float]) -> Buyers:
    def ratio(figure: Callable[[Totals], float]) -> Interval:
        return interval([figure(after) / figure(before) for after, before in pairs])

    def shares(side: int) -> list[float]:
        return [100 * pair[side].done / pair[side].won for pair in pairs]

    after, before = shares(0), shares(1)
    return Buyers(
        done_share_static=statistics.fmean(before),
        done_share=statistics.fmean(after),
        done_share_difference=interval([one - other for one, other in zip(after, before, strict=True)]),
        price=ratio(lambda totals: totals.paid / totals.done),
        effort=ratio(effort),
        tasks=ratio(lambda totals: totals.done),
    )


def _overall(plan: Plan, rows: Sequence[Row]) -> Iterable[Overall]:
    labels = [*(contender.label for contender in plan.contenders), ORACLE]
    for population in plan.populations:
        for label in labels:
            for kind in MARKETS:
                own = [
                    row
                    for row in rows
                    if (row.population, row.contender) == (population, label)
                    and row.held_out == (kind == MARKETS[0])
                ]
                if len(own) >= _FEWEST_FAMILIES:
                    yield _together(population, label, kind, own)


def _together(population: Population, label: str, kind: str, rows: Sequence[Row]) -> Overall:
    buyers = [row.buyers for row in rows if row.buyers is not None]

    def over(figure: Callable[[Buyers], float]) -> list[float]:
        return [figure(one) for one in buyers]

    return Overall(
        population=population,
        contender=label,
        markets=kind,
        gain=interval([row.gain.mean for row in rows]),
        won=statistics.fmean(row.won for row in rows),
        cold=interval([row.cold.mean for row in rows]),
        better=sum(row.verdict == "better" for row in rows),
        worse=sum(row.verdict == "worse" for row in rows),
        price=interval(over(lambda one: one.price.mean)) if buyers else None,
        effort=interval(over(lambda one: one.effort.mean)) if buyers else None,
        tasks=interval(over(lambda one: one.tasks.mean)) if buyers else None,
        done_share=statistics.fmean(over(lambda one: one.done_share)) if buyers else None,
        done_share_static=statistics.fmean(over(lambda one: one.done_share_static)) if buyers else None,
    )
