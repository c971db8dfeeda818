"""Compares the asking twins with the static ones, counted from published events alone.

Everything that both groups share (base bids, skill, luck) cancels out, so a difference is the learner's
doing or chance. How far chance alone reaches is computed beside each figure, at two standard errors.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final, Literal

from learner_worker.contract.events import AuctionClosed, BidPlaced, Event, TaskFinished
from learner_worker.contract.fields import AgentId, TaskId

STANDARD_ERRORS: Final = 2  # about a 95 % interval


@dataclass(frozen=True, slots=True)
class FinishedAuction:
    """A won auction, and its task's result."""

    winner: AgentId
    winning_bid_sats: int
    succeeded: bool

    @property
    def paid_sats(self) -> int:
        """The winning bid, paid on delivery: a failed task earns nothing."""
        return self.winning_bid_sats if self.succeeded else 0


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a group of agents."""

    auctions_won: int
    tasks_completed: int
    tasks_failed: int
    sats_earned: int

    def __add__(self, other: "Figures") -> "Figures":
        """The figures of both groups together."""
        return Figures(
            auctions_won=self.auctions_won + other.auctions_won,
            tasks_completed=self.tasks_completed + other.tasks_completed,
            tasks_failed=self.tasks_failed + other.tasks_failed,
            sats_earned=self.sats_earned + other.sats_earned,
        )

    @property
    def success_rate(self) -> float:
        """Completed tasks divided by won ones; 0.0 without any."""
        return self.tasks_completed / self.auctions_won if self.auctions_won else 0.0

    @property
    def sats_per_win(self) -> float:
        """Sats earned divided by won tasks, including failed ones; 0.0 without any."""
        return self.sats_earned / self.auctions_won if self.auctions_won else 0.0


NOTHING: Final = Figures(0, 0, 0, 0)  # the figures of an agent before its first auction


@dataclass(frozen=True, slots=True)
class FigureDifference:
    """One figure of both groups, and the difference that chance alone would explain."""

    name: str
    unit: Literal["", "%"]
    more_is_better: bool
    asking: float
    static: float
    by_chance: float

    @property
    def difference(self) -> float:
        """Asking minus static."""
        return self.asking - self.static

    @property
    def helped(self) -> bool:
        """Whether the asking twins did better at all."""
        return self.difference > 0 if self.more_is_better else self.difference < 0

    @property
    def beyond_chance(self) -> bool:
        """Whether the difference is larger than chance alone explains."""
        return abs(self.difference) > self.by_chance


def finished_auctions(events: Iterable[Event]) -> list[FinishedAuction]:
    """The auctions of a history that were won and whose task ended, in the order they closed."""
    closes: dict[TaskId, AuctionClosed] = {}
    results: dict[TaskId, TaskFinished] = {}
    for event in events:
        if isinstance(event, AuctionClosed):
            closes[event.task_id] = event
        elif isinstance(event, TaskFinished):
            results[event.task_id] = event
    return [
        FinishedAuction(close.winner_agent_id, close.winning_bid_sats, results[task_id].succeeded)
        for task_id, close in closes.items()
        if close.winner_agent_id is not None
        and close.winning_bid_sats is not None
        and task_id in results
        and results[task_id].agent_id == close.winner_agent_id
    ]


def bids_by_agent(events: Iterable[Event]) -> dict[AgentId, int]:
    """In how many auctions each agent bid."""
    pairs = {(event.agent_id, event.task_id) for event in events if isinstance(event, BidPlaced)}
    counts: dict[AgentId, int] = {}
    for agent_id, _ in pairs:
        counts[agent_id] = counts.get(agent_id, 0) + 1
    return counts


def figures(auctions: Iterable[FinishedAuction], belongs: Callable[[AgentId], bool]) -> Figures:
    """The figures of the agents that belong."""
    own = [auction for auction in auctions if belongs(auction.winner)]
    completed = sum(auction.succeeded for auction in own)
    return Figures(
        auctions_won=len(own),
        tasks_completed=completed,
        tasks_failed=len(own) - completed,
        sats_earned=sum(auction.paid_sats for auction in own),
    )


def compare(auctions: Sequence[FinishedAuction], asks: Callable[[AgentId], bool]) -> list[FigureDifference]:
    """The six figures of the asking group against those of the static one."""
    asking = figures(auctions, asks)
    static = figures(auctions, lambda agent_id: not asks(agent_id))
    won = [1.0] * len(auctions)
    completed = [float(auction.succeeded) for auction in auctions]
    failed = [float(not auction.succeeded) for auction in auctions]
    paid = [float(auction.paid_sats) for auction in auctions]
    counts = (asking.auctions_won, static.auctions_won)
    return [
        FigureDifference("auctions won", "", True, *counts, _sum_by_chance(won)),
        FigureDifference("tasks completed", "", True, asking.tasks_completed, static.tasks_completed,
                         _sum_by_chance(completed)),
        FigureDifference("tasks failed", "", False, asking.tasks_failed, static.tasks_failed,
                         _sum_by_chance(failed)),
        FigureDifference("success rate", "%", True, 100 * asking.success_rate, 100 * static.success_rate,
                         100 * _mean_by_chance(completed, *counts)),
        FigureDifference("sats earned", "", True, asking.sats_earned, static.sats_earned,
                         _sum_by_chance(paid)),
        FigureDifference("sats per win", "", True, asking.sats_per_win, static.sats_per_win,
                         _mean_by_chance(paid, *counts)),
    ]  # fmt: skip


def _sum_by_chance(values: Sequence[float]) -> float:
    """The difference of the groups' sums to expect if a fair coin decides which twin gets each auction."""
    return STANDARD_ERRORS * sqrt(sum(value * value for value in values))


def _mean_by_chance(values: Sequence[float], asking_count: int, static_count: int) -> float:
    """The difference of means to expect if both draw from the same auctions; infinite without a win."""
    if not asking_count or not static_count:
        return float("inf")
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return STANDARD_ERRORS * sqrt(variance * (1 / asking_count + 1 / static_count))
