"""Runs the trials of a plan, on every core. The figures depend on the plan alone, never on the cores."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Final

import msgspec

from learner_worker.laboratory.bidders import Contender
from learner_worker.laboratory.market import MarketModel
from learner_worker.laboratory.trials import Population, Trial, run_trials

_NICENESS: Final = 5  # behind whatever answers, but not only when nothing else runs
_Job = tuple[MarketModel, int]


class Plan(msgspec.Struct, frozen=True):
    """What is compared, where, and how often."""

    markets: tuple[MarketModel, ...]
    contenders: tuple[Contender, ...]
    populations: tuple[Population, ...]
    seeds: range

    @property
    def runs(self) -> int:
        """Seeds over all markets."""
        return len(self.markets) * len(self.seeds)


def simulate(plan: Plan, *, processes: int, finished: Callable[[], None]) -> list[Trial]:
    """All trials, market by market and seed by seed.

    Args:
        processes: how many runs are played at once; 1: in this process.
        finished: told after each run.
    """
    jobs = [(market, seed) for market in plan.markets for seed in plan.seeds]
    played = partial(_played, plan.contenders, plan.populations)
    trials: list[Trial] = []
    for run in map(played, jobs) if processes == 1 else _spread(played, jobs, processes):
        trials.extend(run)
        finished()
    return trials


def _step_back() -> None:
    """Leaves signals of the terminal to the process that waits, and the processor to whatever is urgent."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process that is killed cannot end its pool."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _played(contenders: Sequence[Contender], populations: Sequence[Population], job: _Job) -> list[Trial]:
    market, seed = job
    return run_trials(market, seed, contenders, populations)


def _spread(
    played: Callable[[tuple[MarketModel, int]], list[Trial]],
    jobs: Sequence[tuple[MarketModel, int]],
    processes: int,
) -> Iterator[list[Trial]]:
    """In other processes, in the jobs' order; what has not begun is dropped when this one is stopped."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawned, initializer=_step_back) as pool:
        try:
            yield from pool.map(played, jobs)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
