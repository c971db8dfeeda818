"""An auction: joins a task's bids and closes, in whatever order they arrive, into facts.

By rule 4 (docs/protocol.md) it remembers the standing close, every agent that a counted bid or any close
named, and the bids that no close has admitted: before a close all of them, after it those placed too late,
because a corrected close may still admit them. Which agents are sent a close is rule 5 (docs/protocol.md).
"""

from collections.abc import Iterator

import msgspec

from learner_worker.contract.facts import Bid, Close, Fact
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.domain.outcomes import greater_bid, supersedes, without_text


class AuctionState(
    msgspec.Struct, frozen=True, gc=False, rename={"notified": "told", "pending_bids": "waiting"}
):
    """The state of a task's auction, as stored.

    Attributes:
        first_micros: record time of the event that opened it.
        first_offsets: the smallest offset of one of its events, by topic.
    """

    first_micros: int
    first_offsets: dict[str, int]
    standing: Close | None
    notified: list[AgentId]
    pending_bids: dict[AgentId, list[Bid]]


class Auction:
    """One task's auction.

    Attributes:
        notified: the agents that every newer close must be sent to.
        pending_bids: bids that no close has admitted yet, by agent; at most one a time of placing.
    """

    __slots__ = ("notified", "pending_bids", "standing", "task_id")

    def __init__(
        self,
        task_id: TaskId,
        standing: Close | None = None,
        notified: set[AgentId] | None = None,
        pending_bids: dict[AgentId, list[Bid]] | None = None,
    ) -> None:
        self.task_id = task_id
        self.standing = standing
        self.notified = set() if notified is None else notified
        self.pending_bids = {} if pending_bids is None else pending_bids

    def copy(self) -> "Auction":
        """An independent copy."""
        pending_bids = {agent_id: list(bids) for agent_id, bids in self.pending_bids.items()}
        return Auction(self.task_id, self.standing, set(self.notified), pending_bids)

    def place(self, agent_id: AgentId, bid: Bid, tolerance_micros: int) -> list[Fact]:
        """Adds a bid; it is settled at once if the standing close admits it."""
        if self.standing is not None and _admits(self.standing, bid, tolerance_micros):
            self.notified.add(agent_id)
            return [self._fact(agent_id, bid)]
        self._keep(agent_id, bid)
        return []

    def close(self, close: Close, tolerance_micros: int) -> list[Fact]:
        """Adds a close: a newer one is sent to all agents, the standing one to a superseded one's winner."""
        if supersedes(close, self.standing):
            self.standing = close
            return list(self.notify_all(close, tolerance_micros))
        if close.winner is None or close.winner in self.notified:
            return []
        self.notified.add(close.winner)
        return [self._fact(close.winner, None)]

    def notify_all(self, close: Close, tolerance_micros: int) -> Iterator[Fact]:
        """Makes a close the standing one; yields its fact for every agent to be notified."""
        if close.winner is not None:
            self.notified.add(close.winner)
        admitted = self.admit_pending(close, tolerance_micros)
        self.notified.update(admitted)
        for agent_id in sorted(self.notified):
            yield self._fact(agent_id, admitted.get(agent_id))

    def admit_pending(self, close: Close, tolerance_micros: int) -> dict[AgentId, Bid]:
        """Removes the bids that a close admits; returns the greatest of each agent. Others stay pending."""
        admitted: dict[AgentId, Bid] = {}
        pending_bids: dict[AgentId, list[Bid]] = {}
        for agent_id, bids in self.pending_bids.items():
            for bid in bids:
                if not _admits(close, bid, tolerance_micros):
                    pending_bids.setdefault(agent_id, []).append(bid)
                elif greater_bid(admitted.get(agent_id), bid) is bid:
                    admitted[agent_id] = bid
        self.pending_bids = pending_bids
        return admitted

    def _keep(self, agent_id: AgentId, bid: Bid) -> None:
        bids = self.pending_bids.setdefault(agent_id, [])
        for index, other in enumerate(bids):
            if other.placed_at == bid.placed_at:
                bids[index] = greater_bid(other, bid) or bid
                return
        bids.append(bid)

    def _fact(self, agent_id: AgentId, bid: Bid | None) -> Fact:
        close = self.standing
        if (
            close is not None
            and close.description is not None
            and (bid is not None or close.winner != agent_id)
        ):
            close = without_text(close)
        return Fact(self.task_id, agent_id, close, bid)


def _admits(close: Close, bid: Bid, tolerance_micros: int) -> bool:
    return bid.placed_at <= close.closed_at + tolerance_micros
