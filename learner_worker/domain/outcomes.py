"""The join of facts about an agent in a task: part by part the greatest, where an absent part is the least.

The join is commutative, associative and idempotent, so neither order, nor duplication, nor redelivery of
facts matters: rule 2 (docs/protocol.md).

Retention removes parts by their own time: a part before the cutoff counts as if it had never been published.
The greatest of a part is also its latest, so removing before a join or after it gives the same result, and so
do one step of the cutoff and many: order does not matter here either. A forgotten agent has its own cutoff.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from learner_worker.contract.facts import Bid, Close, Fact, Result
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros

OutcomeKey = tuple[TaskId, AgentId]
"""The task and the agent of an outcome."""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The row of one agent in one task; `counts` tells whether it counts.

    A struct, like every object that is created for each fact: it is faster to create than a named tuple, and
    the garbage collector never visits it.
    """

    task_id: TaskId
    agent_id: AgentId
    close: Close | None = None
    bid: Bid | None = None
    result: Result | None = None

    @property
    def known(self) -> bool:
        """Whether any part is present; a row without parts is deleted."""
        return self.close is not None or self.bid is not None or self.result is not None

    @property
    def won(self) -> bool:
        """Whether the standing close names this agent."""
        return self.close is not None and self.close.winner == self.agent_id

    @property
    def counts(self) -> bool:
        """Whether the row counts: it has a close, and either a bid or the win."""
        return self.close is not None and (self.bid is not None or self.won)

    @property
    def bid_sats(self) -> int | None:
        """The agent's bid; for a winner the close's winning bid takes precedence; None if unknown."""
        if self.won and self.close is not None and self.close.winning_bid_sats is not None:
            return self.close.winning_bid_sats
        return None if self.bid is None else self.bid.bid_sats

    @property
    def description(self) -> str:
        """The bid's description; without a bid the close's; without either the empty string."""
        if self.bid is not None:
            return self.bid.description
        return (self.close and self.close.description) or ""


class Cutoff(NamedTuple):
    """The times before which parts have expired.

    Attributes:
        closes: closes before it have expired.
        others: bids and results before it have expired; a grace earlier, so that they outlive their close.
    """

    closes: Micros
    others: Micros


def later_cutoff(one: Cutoff | None, other: Cutoff | None) -> Cutoff | None:
    """The later of two cutoffs: a cutoff never moves back."""
    if one is None or other is None:
        return other if one is None else one
    return Cutoff(max(one.closes, other.closes), max(one.others, other.others))


def forgotten_cutoff(until: Micros) -> Cutoff:
    """The cutoff of an agent that is forgotten up to and including a time."""
    return Cutoff(Micros(until + 1), Micros(until + 1))


def agents_cutoff(
    agent_id: AgentId, cutoff: Cutoff | None, forgotten: Mapping[AgentId, Micros]
) -> Cutoff | None:
    """The cutoff of one agent: the shard's, or the agent's own if that is later."""
    until = forgotten.get(agent_id)
    return cutoff if until is None else later_cutoff(cutoff, forgotten_cutoff(until))


def living(outcome: Outcome, cutoff: Cutoff) -> Outcome:
    """The outcome without its expired parts; the same object if none has expired."""
    close, bid, result = outcome.close, outcome.bid, outcome.result
    if close is not None and close.closed_at < cutoff.closes:
        close = None
    if bid is not None and bid.placed_at < cutoff.others:
        bid = None
    if result is not None and result.finished_at < cutoff.others:
        result = None
    if close is outcome.close and bid is outcome.bid and result is outcome.result:
        return outcome
    return Outcome(outcome.task_id, outcome.agent_id, close, bid, result)


def living_fact(fact: Fact, cutoff: Cutoff) -> Fact | None:
    """The fact without its expired parts; the same object if none has expired, None if all have."""
    known = Outcome(fact.task_id, fact.agent_id, fact.close, fact.bid, fact.result)
    left = living(known, cutoff)
    if left is known:
        return fact
    return Fact(left.task_id, left.agent_id, left.close, left.bid, left.result) if left.known else None


def facts_of(outcome: Outcome) -> list[Fact]:
    """The facts that make up a row: a close with its bid, and a result."""
    task_id, agent_id, close, bid = outcome.task_id, outcome.agent_id, outcome.close, outcome.bid
    sent = without_text(close) if close is not None and bid is not None else close
    facts = [] if close is None and bid is None else [Fact(task_id, agent_id, sent, bid)]
    result = outcome.result
    return facts if result is None else [*facts, Fact(task_id, agent_id, result=result)]


def facts_behind(row: Outcome) -> Iterator[Fact]:
    """The facts that the changelog may hold for a row: its close may also have come without its bid."""
    task_id, agent_id, close, bid = row.task_id, row.agent_id, row.close, row.bid
    if close is not None or bid is not None:
        yield Fact(task_id, agent_id, close, bid)
    if close is not None and bid is not None:
        yield Fact(task_id, agent_id, close)
    if row.result is not None:
        yield Fact(task_id, agent_id, result=row.result)


def join(outcome: Outcome, fact: Fact) -> Outcome:
    """The outcome joined with a fact; the same object if the fact changes nothing."""
    close = greater_close(outcome.close, fact.close)
    bid = greater_bid(outcome.bid, fact.bid)
    result = greater_result(outcome.result, fact.result)
    if close is outcome.close and bid is outcome.bid and result is outcome.result:
        return outcome
    return Outcome(outcome.task_id, outcome.agent_id, close, bid, result)


def greater_close(one: Close | None, other: Close | None) -> Close | None:
    """The later close; at equal times that of the smaller winner, null first, then the smaller bid."""
    if one is None or other is None:
        return other if one is None else one
    if one.closed_at != other.closed_at:
        return one if one.closed_at > other.closed_at else other
    if _close_order(one) == _close_order(other):
        return other if one.description is None and other.description is not None else one
    return min(one, other, key=_close_order)


def supersedes(close: Close, standing: Close | None) -> bool:
    """Whether a close is greater than the standing one, and not merely a copy of it."""
    if standing is None:
        return True
    return _close_order(close) != _close_order(standing) and greater_close(standing, close) is close


def _close_order(close: Close) -> tuple[object, ...]:
    return (
        -close.closed_at,
        close.winner is not None,
        close.winner or "",
        close.winning_bid_sats is not None,
        close.winning_bid_sats or 0,
        close.description_digest or "",
    )


def greater_bid(one: Bid | None, other: Bid | None) -> Bid | None:
    """The later bid; at equal times the lower one, then the smaller description."""
    if one is None or other is None:
        return other if one is None else one
    if one.placed_at != other.placed_at:
        return one if one.placed_at > other.placed_at else other
    return other if (other.bid_sats, other.description) < (one.bid_sats, one.description) else one


def greater_result(one: Result | None, other: Result | None) -> Result | None:
    """The later result; at equal times a failed one."""
    if one is None or other is None:
        return other if one is None else one
    if one.finished_at != other.finished_at:
        return one if one.finished_at > other.finished_at else other
    return other if one.succeeded and not other.succeeded else one


def without_text(close: Close) -> Close:
    """The close without its description; the digest still distinguishes its versions."""
    return Close(close.closed_at, close.winner, close.winning_bid_sats, close.description_digest)
