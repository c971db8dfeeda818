"""What asking earns in the demo's market: simulated over many seeds, beside the live run."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from learner_worker.demo.personas import demo_market
from learner_worker.laboratory.bidders import Contender
from learner_worker.laboratory.families import families
from learner_worker.laboratory.findings import Findings, findings
from learner_worker.laboratory.intervals import Interval, interval, share_won
from learner_worker.laboratory.simulation import Plan, simulate
from learner_worker.laboratory.trials import Population, Trial

CONTENDERS: Final = (
    Contender("classic", "classic"),
    Contender("expected-profit + costs", "expected-profit", tells_costs=True),
)
SITUATIONS: Final[tuple[Population, ...]] = ("siblings", "one", "all")
"""Who asks in the demo's market; the first one is the live run's."""
OTHERS_SHARE: Final = 3  # the other markets get a third of the seeds: all of them end beside the live run


@dataclass(frozen=True, slots=True)
class Earning:
    """Profit in sats a run: of those that ask, of their static siblings, and the paired difference."""

    situation: Population
    contender: str
    static: float
    asking: float
    more: Interval
    ahead: float


@dataclass(frozen=True, slots=True)
class Earnings:
    """What was simulated."""

    rows: Sequence[Earning]
    own: Findings
    others: Findings


class _StoppedError(Exception):
    """Nobody waits for the simulation any more."""


class Simulation:
    """Simulates on every core, in processes of low priority that do not hold up the live run."""

    def __init__(self, seeds: range, auctions: int) -> None:
        market = demo_market(auctions)
        others = [
            other.model_copy(update={"auctions": min(auctions, other.auctions)})
            for name, other in families().items()
            if name != market.name
        ]
        fewer = range(seeds.start, seeds.start + max(1, len(seeds) // OTHERS_SHARE))
        self._own = Plan((market,), CONTENDERS, SITUATIONS, seeds)
        self._others = Plan(tuple(others), CONTENDERS, SITUATIONS[:1], fewer)
        self._is_stopped = threading.Event()
        self.runs = self._own.runs + self._others.runs
        self.finished = 0

    def stop(self) -> None:
        """Ends `play` after the runs that are being simulated."""
        self._is_stopped.set()

    def play(self) -> Earnings:
        """Simulates everything."""
        own, others = self._played(self._own), self._played(self._others)
        return Earnings(earned(own), findings(self._own, own), findings(self._others, others))

    def _played(self, plan: Plan) -> list[Trial]:
        processes = max(2, os.cpu_count() or 1)  # never in this process, which plays the live run
        return simulate(plan, processes=processes, finished=self._count)

    def _count(self) -> None:
        self.finished += 1
        if self._is_stopped.is_set():
            raise _StoppedError


@asynccontextmanager
async def simulated(simulation: Simulation) -> AsyncIterator["asyncio.Task[Earnings]"]:
    """The running simulation; leaving early stops it and waits for its processes."""
    task = asyncio.create_task(asyncio.to_thread(simulation.play), name="simulate")
    try:
        yield task
    finally:
        simulation.stop()
        await asyncio.gather(task, return_exceptions=True)


def earned(trials: Sequence[Trial]) -> list[Earning]:
    """A row for each situation and contender that was simulated."""
    groups = [
        [one for one in trials if (one.population, one.contender) == (situation, contender.label)]
        for situation in SITUATIONS
        for contender in CONTENDERS
    ]
    return [_earning(group) for group in groups if group]


def _earning(trials: Sequence[Trial]) -> Earning:
    differences = [float(trial.asking.profit - trial.static.profit) for trial in trials]
    return Earning(
        situation=trials[0].population,
        contender=trials[0].contender,
        static=interval([float(trial.static.profit) for trial in trials]).mean,
        asking=interval([float(trial.asking.profit) for trial in trials]).mean,
        more=interval(differences),
        ahead=share_won(differences),
    )
