"""Compares the siblings that ask with the static ones, counted from published events and the efforts' costs.

Everything that the groups share (base bids, costs, skill, luck) cancels out, so a difference is the learner's
doing or chance. How far chance alone reaches is computed beside each figure, at two standard errors. One run
says little: what asking earns is simulated over many seeds (`earnings.py`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final, Literal

from learner_worker.contract.events import AuctionClosed, BidPlaced, Event, TaskFinished
from learner_worker.contract.fields import AgentId, TaskId

STANDARD_ERRORS: Final = 2  # about a 95 % interval
_NO_COSTS: Final[Mapping[TaskId, int]] = {}


@dataclass(frozen=True, slots=True)
class FinishedAuction:
    """A won auction, its task's result, and what the effort cost the winner."""

    winner: AgentId
    winning_bid_sats: int
    succeeded: bool
    cost_sats: int

    @property
    def paid_sats(self) -> int:
        """The winning bid, paid on delivery: a failed task earns nothing."""
        return self.winning_bid_sats if self.succeeded else 0

    @property
    def profit_sats(self) -> int:
        """Paid minus spent."""
        return self.paid_sats - self.cost_sats


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a group of agents."""

    auctions_won: int = 0
    tasks_completed: int = 0
    tasks_failed: int = 0
    paid_sats: int = 0
    cost_sats: int = 0

    @property
    def success_rate(self) -> float:
        """Completed tasks divided by won ones; 0.0 without any."""
        return self.tasks_completed / self.auctions_won if self.auctions_won else 0.0

    @property
    def profit_sats(self) -> int:
        """Paid minus spent."""
        return self.paid_sats - self.cost_sats


@dataclass(frozen=True, slots=True)
class FigureDifference:
    """One figure of both groups, and the difference that chance alone would explain."""

    name: str
    unit: Literal["", "%"]
    asking: float
    static: float
    by_chance: float

    @property
    def difference(self) -> float:
        """Asking minus static."""
        return self.asking - self.static

    @property
    def beyond_chance(self) -> bool:
        """Whether the difference is larger than chance alone explains."""
        return abs(self.difference) > self.by_chance


def finished_auctions(
    events: Iterable[Event], costs_sats: Mapping[TaskId, int] = _NO_COSTS
) -> list[FinishedAuction]:
    """The auctions of a history that were won and whose task ended, in the order they closed.

    Args:
        costs_sats: what each task's winner spent; events do not say.
    """
    closes: dict[TaskId, AuctionClosed] = {}
    results: dict[TaskId, TaskFinished] = {}
    for event in events:
        if isinstance(event, AuctionClosed):
            closes[event.task_id] = event
        elif isinstance(event, TaskFinished):
            results[event.task_id] = event
    return [
        FinishedAuction(
            close.winner_agent_id,
            close.winning_bid_sats,
            results[task_id].succeeded,
            costs_sats.get(task_id, 0),
        )
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
        paid_sats=sum(auction.paid_sats for auction in own),
        cost_sats=sum(auction.cost_sats for auction in own),
    )


def compare(
    auctions: Sequence[FinishedAuction],
    asks: Callable[[AgentId], bool],
    is_static: Callable[[AgentId], bool],
) -> list[FigureDifference]:
    """The figures of an asking group against those of the static one; what others won is left out."""
    asking, static = figures(auctions, asks), figures(auctions, is_static)
    either = [auction for auction in auctions if asks(auction.winner) or is_static(auction.winner)]
    done = [float(auction.succeeded) for auction in either]
    paid = [float(auction.paid_sats) for auction in either]
    efforts = [float(auction.cost_sats) for auction in either]
    profit = [float(auction.profit_sats) for auction in either]
    counts = (asking.auctions_won, static.auctions_won)
    return [
        FigureDifference("auctions won", "", *counts, _sum_by_chance([1.0] * len(either))),
        FigureDifference("success rate", "%", 100 * asking.success_rate, 100 * static.success_rate,
                         100 * _mean_by_chance(done, *counts)),
        FigureDifference("sats paid", "", asking.paid_sats, static.paid_sats, _sum_by_chance(paid)),
        FigureDifference("effort spent", "", asking.cost_sats, static.cost_sats, _sum_by_chance(efforts)),
        FigureDifference("profit", "", asking.profit_sats, static.profit_sats, _sum_by_chance(profit)),
    ]  # fmt: skip


def _sum_by_chance(values: Sequence[float]) -> float:
    """The difference of the groups' sums to expect if a fair coin decides which sibling gets each auction."""
    return STANDARD_ERRORS * sqrt(sum(value * value for value in values))


def _mean_by_chance(values: Sequence[float], asking_count: int, static_count: int) -> float:
    """The difference of means to expect if both draw from the same auctions; infinite without a win."""
    if not asking_count or not static_count:
        return float("inf")
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return STANDARD_ERRORS * sqrt(variance * (1 / asking_count + 1 / static_count))
