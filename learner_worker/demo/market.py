"""Runs the swarm: agents ask and bid, the winner delivers or fails, and all events are published."""

import asyncio
import time
from typing import Any, Final, Protocol

from learner_worker.client import BidAdvice
from learner_worker.contract.events import AuctionClosed, BidPlaced, Event, TaskFinished
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.suggestions import SuggestBidReply
from learner_worker.demo.auctions import Award, DemoAuction, Entry, award
from learner_worker.demo.personas import ASKING, Way
from learner_worker.errors import LearnerError

PATIENCE: Final = 10
"""Unanswered requests in a row after which the demo gives up: more than one outage would explain."""


class SilentLearnerError(LearnerError):
    """The learner does not answer: the demo has nothing to show."""


class Learner(Protocol):
    """The client through which agents ask: a `LearnerClient`."""

    async def suggest_bid_or_base(
        self,
        agent_id: str,
        *,
        description: str,
        base_bid_sats: int,
        strategy: str | None = None,
        task_id: str | None = None,
        cost_sats: int | None = None,
    ) -> BidAdvice:
        """The bid to place, and the learner's reply if there was one."""


class Publisher(Protocol):
    """The publisher of the swarm's events: an `EventPublisher`."""

    async def bid_placed(self, task_id: str, agent_id: str, *, bid_sats: int, description: str) -> Any:
        """An agent bid."""

    async def auction_closed(
        self, task_id: str, *, winner_agent_id: str | None, winning_bid_sats: int | None
    ) -> Any:
        """An auction ended."""

    async def task_finished(self, task_id: str, agent_id: str, *, succeeded: bool) -> Any:
        """The winner delivered, or failed."""


class Market:
    """Runs auctions, and records the published events and the winners' costs for the comparison."""

    def __init__(self, learner: Learner, publisher: Publisher) -> None:
        self._learner = learner
        self._publisher = publisher
        self.history: list[Event] = []
        self.costs_sats: dict[TaskId, int] = {}
        self.advice: dict[AgentId, SuggestBidReply] = {}
        self.answer_seconds: list[float] = []
        self.unanswered: list[str] = []
        self._silence = 0

    async def play(self, auction: DemoAuction) -> Award:
        """One auction from the first question to the delivery.

        Raises `SilentLearnerError` once too many questions in a row went unanswered.
        """
        bids_sats = await self._bids_sats(auction)
        if self._silence >= PATIENCE:
            raise SilentLearnerError(
                f"{self._silence} questions in a row went unanswered: {self.unanswered[-1]}"
            )
        for agent_id in auction.arrival:
            await self._place(auction, agent_id, bids_sats[agent_id])
        won = award(auction, bids_sats)
        self.costs_sats[auction.task_id] = won.cost_sats
        await self._close(auction.task_id, won)
        await self._finish(auction.task_id, won)
        return won

    async def _bids_sats(self, auction: DemoAuction) -> dict[AgentId, int]:
        """Collects bids: static siblings bid their base, the others ask first, all concurrently."""
        async with asyncio.TaskGroup() as asking:
            advised = {
                entry.persona.sibling(way): asking.create_task(
                    self._advised_bid_sats(auction, entry, way), name=f"ask-{entry.persona.sibling(way)}"
                )
                for entry in auction.entries
                for way in ASKING
            }
        static = {entry.persona.sibling("static"): entry.base_bid_sats for entry in auction.entries}
        return static | {agent_id: task.result() for agent_id, task in advised.items()}

    async def _advised_bid_sats(self, auction: DemoAuction, entry: Entry, way: Way) -> int:
        agent_id, asked = entry.persona.sibling(way), time.monotonic()
        advice = await self._learner.suggest_bid_or_base(
            agent_id,
            description=auction.description,
            base_bid_sats=entry.base_bid_sats,
            strategy=way,
            task_id=auction.task_id,
            cost_sats=entry.cost_sats if way == "expected-profit" else None,
        )
        if advice.reply is None:
            self._silence += 1
            self.unanswered.append(f"{agent_id}: {advice.reason}")
        else:
            self._silence = 0
            self.answer_seconds.append(time.monotonic() - asked)
            self.advice[agent_id] = advice.reply
        return advice.bid_sats

    async def _place(self, auction: DemoAuction, agent_id: AgentId, bid_sats: int) -> None:
        task_id, description = auction.task_id, auction.description
        await self._publisher.bid_placed(task_id, agent_id, bid_sats=bid_sats, description=description)
        self.history.append(
            BidPlaced(task_id=task_id, agent_id=agent_id, bid_sats=bid_sats, description=description)
        )

    async def _close(self, task_id: TaskId, won: Award) -> None:
        await self._publisher.auction_closed(
            task_id, winner_agent_id=won.agent_id, winning_bid_sats=won.bid_sats
        )
        self.history.append(
            AuctionClosed(task_id=task_id, winner_agent_id=won.agent_id, winning_bid_sats=won.bid_sats)
        )

    async def _finish(self, task_id: TaskId, won: Award) -> None:
        await self._publisher.task_finished(task_id, won.agent_id, succeeded=won.succeeded)
        self.history.append(TaskFinished(task_id=task_id, agent_id=won.agent_id, succeeded=won.succeeded))
