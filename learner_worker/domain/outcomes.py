"""How facts about an agent in a task are joined: part by part, the greatest stands, absent is least.

The join is commutative, associative and idempotent, so neither order, nor duplication, nor redelivery of
facts matters: rule 2 (docs/protocol.md).

Retention takes parts away by their own time: a part before the cutoff is as if it had never been published.
Each part's greatest is its latest, so taking away before a join or after it is the same, and so are one
step of the cutoff and many: order does not matter here either. A forgotten agent has a cutoff of its own.
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
    """What is known of one agent in one task; it counts once `counts` says so.

    A struct, as everything here that is made once for each fact: it is faster to make than a named tuple, and
    the garbage collector never visits it.
    """

    task_id: TaskId
    agent_id: AgentId
    close: Close | None = None
    bid: Bid | None = None
    result: Result | None = None

    @property
    def known(self) -> bool:
        """Whether anything is known; a row of which nothing is known any more is deleted."""
        return self.close is not None or self.bid is not None or self.result is not None

    @property
    def won(self) -> bool:
        """Whether the standing close names this agent."""
        return self.close is not None and self.close.winner == self.agent_id

    @property
    def counts(self) -> bool:
        """A row counts when it has a close and either a bid or the win."""
        return self.close is not None and (self.bid is not None or self.won)

    @property
    def bid_sats(self) -> int | None:
        """What the agent bid: for a winner the close's word goes first; None if nobody said."""
        if self.won and self.close is not None and self.close.winning_bid_sats is not None:
            return self.close.winning_bid_sats
        return None if self.bid is None else self.bid.bid_sats

    @property
    def description(self) -> str:
        """The bid's text; without a bid the close's; else empty."""
        if self.bid is not None:
            return self.bid.description
        return (self.close and self.close.description) or ""


class Cutoff(NamedTuple):
    """Before which times parts have expired; the bids and results of a close that lives must live, too.

    Attributes:
        closes: closes before it are gone.
        others: bids and results before it are gone: a grace earlier.
    """

    closes: Micros
    others: Micros


def later_cutoff(one: Cutoff | None, other: Cutoff | None) -> Cutoff | None:
    """The later of two: a cutoff never moves back."""
    if one is None or other is None:
        return other if one is None else one
    return Cutoff(max(one.closes, other.closes), max(one.others, other.others))


def forgotten_cutoff(until: Micros) -> Cutoff:
    """The cutoff of an agent that is forgotten until a time, that moment included."""
    return Cutoff(Micros(until + 1), Micros(until + 1))


def agents_cutoff(
    agent_id: AgentId, cutoff: Cutoff | None, forgotten: Mapping[AgentId, Micros]
) -> Cutoff | None:
    """The cutoff of one agent: everybody's, or later if the agent is forgotten until later."""
    until = forgotten.get(agent_id)
    return cutoff if until is None else later_cutoff(cutoff, forgotten_cutoff(until))


def living(outcome: Outcome, cutoff: Cutoff) -> Outcome:
    """The outcome without its expired parts; the same object when none has expired."""
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
    """The fact without its expired parts; itself when none has expired, None when all have."""
    known = Outcome(fact.task_id, fact.agent_id, fact.close, fact.bid, fact.result)
    left = living(known, cutoff)
    if left is known:
        return fact
    return Fact(left.task_id, left.agent_id, left.close, left.bid, left.result) if left.known else None


def facts_of(outcome: Outcome) -> list[Fact]:
    """The facts that say all that is known: a close with its bid, and a result."""
    task_id, agent_id, close, bid = outcome.task_id, outcome.agent_id, outcome.close, outcome.bid
    sent = without_text(close) if close is not None and bid is not None else close
    facts = [] if close is None and bid is None else [Fact(task_id, agent_id, sent, bid)]
    result = outcome.result
    return facts if result is None else [*facts, Fact(task_id, agent_id, result=result)]


def facts_behind(row: Outcome) -> Iterator[Fact]:
    """The facts that may stand in the changelog for a row: the close alone may have come before the bid."""
    task_id, agent_id, close, bid = row.task_id, row.agent_id, row.close, row.bid
    if close is not None or bid is not None:
        yield Fact(task_id, agent_id, close, bid)
    if close is not None and bid is not None:
        yield Fact(task_id, agent_id, close)
    if row.result is not None:
        yield Fact(task_id, agent_id, result=row.result)


def join(outcome: Outcome, fact: Fact) -> Outcome:
    """The outcome with a fact joined in; the same object when the fact says nothing new."""
    close = greater_close(outcome.close, fact.close)
    bid = greater_bid(outcome.bid, fact.bid)
    result = greater_result(outcome.result, fact.result)
    if close is outcome.close and bid is outcome.bid and result is outcome.result:
        return outcome
    return Outcome(outcome.task_id, outcome.agent_id, close, bid, result)


def greater_close(one: Close | None, other: Close | None) -> Close | None:
    """The later close; at equal times the smaller winner, null first, then the smaller winning bid."""
    if one is None or other is None:
        return other if one is None else one
    if one.closed_at != other.closed_at:
        return one if one.closed_at > other.closed_at else other
    if _close_order(one) == _close_order(other):
        return other if one.description is None and other.description is not None else one
    return min(one, other, key=_close_order)


def supersedes(close: Close, standing: Close | None) -> bool:
    """Whether a close is newer than the standing one, not merely a copy of it."""
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
    """The later result; at equal times failed stands."""
    if one is None or other is None:
        return other if one is None else one
    if one.finished_at != other.finished_at:
        return one if one.finished_at > other.finished_at else other
    return other if one.succeeded and not other.succeeded else one


def without_text(close: Close) -> Close:
    """The close as it travels where its text is not needed: its digest still tells versions apart."""
    return Close(close.closed_at, close.winner, close.winning_bid_sats, close.description_digest)
