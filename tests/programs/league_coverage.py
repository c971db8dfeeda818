"""How often the interval of `lab league` between an experiment's arms covers the truth, in simulated runs.

    python -m tests.programs.league_coverage --runs 200

The truth is the mean difference over many other luck seeds under the same split of the tasks and the same
agents: how far an agent's base bids are off, which a market draws anew for each run, is drawn once. An A/A
experiment, of one strategy under two names, is among the cases. Exit code 1 if an interval covers the truth
in less than 92 % of the runs: of 95 % intervals over 200 runs, 184 or more are expected in 98 of 100 cases.
"""

import argparse
import math
import multiprocessing
import random
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

from learner_worker.laboratory.families import families
from learner_worker.laboratory.league import ArmDifference, league
from learner_worker.laboratory.market import MarketAgent, MarketModel
from learner_worker.strategies.classic import CLASSIC
from learner_worker.strategies.expected_profit import EXPECTED_PROFIT
from learner_worker.strategies.experiment import Experiment
from learner_worker.strategies.protocol import Strategy, Suggestion
from tests.support.experiment_market import run_experiment

FEWEST = 0.92  # of the runs
FAMILIES = ("demo", "steady skills", "few bidders", "unequal bases")


class Again:
    """The classic strategy under another name."""

    name = "classic-again"
    version = CLASSIC.version

    def addends(self, **arguments: Any) -> Sequence[Any]:
        """None."""
        return CLASSIC.addends(**arguments)

    def suggest(self, **arguments: Any) -> Suggestion:
        """What classic says."""
        return CLASSIC.suggest(**arguments)


STRATEGIES: Mapping[str, Strategy] = {
    strategy.name: strategy for strategy in (CLASSIC, EXPECTED_PROFIT, Again())
}
ARMS = (("classic", "expected-profit"), ("classic", "classic-again"))


def with_fixed_agents(market: MarketModel) -> MarketModel:
    """The market with what it would draw for the agents of one run as their own in all runs."""
    chance = random.Random(market.name)

    def marked_up(agent: MarketAgent) -> MarketAgent:
        markup = math.exp(chance.gauss(0, market.markup_spread))
        return agent.model_copy(
            update={
                "base_bid_sats": round(agent.base_bid_sats * markup),
                "cost_share": agent.cost_share / markup,
                "failure_cost_share": agent.failure_cost_share / markup,
            }
        )

    agents = [marked_up(agent) for agent in market.agents]
    return market.model_copy(update={"agents": agents, "markup_spread": 0.0})


def difference(family: str, arms: tuple[str, str], auctions: int, seed: int) -> ArmDifference:
    """What the league says of one simulated run."""
    market = with_fixed_agents(families()[family]).model_copy(update={"auctions": auctions})
    experiment = Experiment("coverage", dict.fromkeys(arms, 0.5))
    run = run_experiment(market, seed, experiment, {name: STRATEGIES[name] for name in arms})
    (found,) = league(run.advice, run.auctions).differences
    return found


def covered(found: Sequence[ArmDifference], others: Sequence[ArmDifference]) -> int:
    """How many intervals cover the mean of other runs."""
    truth = statistics.fmean(one.difference.mean for one in others)
    return sum(one.difference.low <= truth <= one.difference.high for one in found)


def _lines(options: argparse.Namespace, pool: ProcessPoolExecutor) -> Iterator[tuple[str, bool]]:
    for family in FAMILIES:
        for arms in ARMS:
            one_run = partial(difference, family, arms, options.auctions)
            every = list(pool.map(one_run, range(options.runs + options.truth_runs), chunksize=10))
            found, others = every[: options.runs], every[options.runs :]
            count = covered(found, others)
            truth = statistics.fmean(one.difference.mean for one in others)
            half = statistics.fmean(one.difference.high - one.difference.mean for one in found)
            enough = count >= FEWEST * options.runs
            line = (
                f"{family}, {arms[0]} beside {arms[1]}: covered in {count} of {options.runs} "
                f"(truth {truth:+.2f}, intervals ±{half:.2f})"
            )
            yield line if enough else f"{line}: too few", enough


def main() -> int:
    """Prints a line for each market and pair of arms."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--truth-runs", type=int, default=800)
    parser.add_argument("--auctions", type=int, default=200)
    options = parser.parse_args()
    enough = True
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for line, good in _lines(options, pool):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
            enough &= good
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
