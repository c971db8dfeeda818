"""The smallest change of base, cost or results that moves advice, found by asking the strategy itself.

The learner is asked over Kafka; the same strategy, with what the same outcomes say of the agent, is asked
here about everything else. Only if both answer alike is anything searched.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, NamedTuple

from learner_worker.contract.fields import MAX_SATS
from learner_worker.domain.outcomes import Outcome
from learner_worker.errors import ConfigurationError
from learner_worker.laboratory.memory import AgentMemory
from learner_worker.strategies.protocol import PaidOn, SettledBid, Strategy, Suggestion
from learner_worker.strategies.registry import find_strategy, strategy_names
from learner_worker.strategies.sums import settled_bid

Kind = Literal["base", "cost", "done", "failed", "lost"]
"""What is changed: the base or the cost in sats, or so many more such tasks done, failed, or lost."""
MOST_RESULTS: Final = 50  # more would be another agent
BASE_TOLERANCE: Final = 0.02  # of the bid: price steps are up to 6 % wide, and bids are whole sats
_STEPS = 500  # of a range, either way: a strategy answers in less than a tenth of a millisecond


class BidQuestion(NamedTuple):
    """What the learner was asked."""

    description: str
    base_bid_sats: int
    cost_sats: int | None = None


class Move(NamedTuple):
    """The smallest change of one kind that moves the advice.

    Attributes:
        amount: by how much; 0 if nothing in the range moves it.
        suggested_bid_sats: what is advised then.
        at_most: the end of the range: sats, or results.
        question: the changed one; for results the unchanged one.
        nearer: the one a sat nearer to what was asked, which does not move it.
    """

    kind: Kind
    amount: int
    suggested_bid_sats: int
    at_most: int
    question: BidQuestion
    nearer: BidQuestion


class KnownAgent:
    """Asks a strategy about an agent as its outcomes show it: they are learned once, when it is made."""

    def __init__(self, strategy: Strategy, outcomes: Iterable[Outcome], paid_on: PaidOn) -> None:
        self._strategy = strategy
        self._paid_on = paid_on
        self._memory = AgentMemory(strategy)
        for one in outcomes:
            if (settled := settled_bid(one)) is not None:
                self._memory.learn(settled)

    def ask(self, question: BidQuestion, more: Sequence[SettledBid] = ()) -> Suggestion:
        """The advice, after some more settled bids."""
        memory = self._memory.copy() if more else self._memory
        for one in more:
            memory.learn(one)
        return self._advice(memory, question)

    def moves(self, question: BidQuestion) -> list[Move]:
        """The smallest change of each kind; of the cost only if one is given."""
        advised = self.ask(question)
        found = [self._base_move(question, advised)]
        if question.cost_sats is not None:
            found.append(self._cost_move(question, question.cost_sats, advised))
        return [*found, *(self._results_move(kind, question, advised) for kind in _RESULTS)]

    def _base_move(self, question: BidQuestion, advised: Suggestion) -> Move:
        base = question.base_bid_sats
        reach = min(base // 2, MAX_SATS - base)

        def with_base(change: int) -> BidQuestion:
            return question._replace(base_bid_sats=base + change)

        def is_moved(change: int) -> bool:
            expected = (base + change) * advised.factor
            says = self.ask(with_base(change)).suggested_bid_sats
            return abs(says - expected) > max(1, BASE_TOLERANCE * expected)

        change = smallest(is_moved, least=-reach, most=reach)
        suggested = self.ask(with_base(change)).suggested_bid_sats
        return Move("base", change, suggested, reach, with_base(change), with_base(_nearer(change)))

    def _cost_move(self, question: BidQuestion, cost: int, advised: Suggestion) -> Move:
        reach = min(max(cost, question.base_bid_sats), MAX_SATS - cost)

        def with_cost(change: int) -> BidQuestion:
            return question._replace(cost_sats=cost + change)

        def is_moved(change: int) -> bool:
            return self.ask(with_cost(change)).suggested_bid_sats != advised.suggested_bid_sats

        change = smallest(is_moved, least=-cost, most=reach)
        suggested = self.ask(with_cost(change)).suggested_bid_sats
        return Move("cost", change, suggested, reach, with_cost(change), with_cost(_nearer(change)))

    def _results_move(self, kind: Kind, question: BidQuestion, advised: Suggestion) -> Move:
        memory = self._memory.copy()
        for count in range(1, MOST_RESULTS + 1):
            memory.learn(one_more(kind, question, advised.suggested_bid_sats))
            says = self._advice(memory, question).suggested_bid_sats
            if says != advised.suggested_bid_sats:
                return Move(kind, count, says, MOST_RESULTS, question, question)
        return Move(kind, 0, advised.suggested_bid_sats, MOST_RESULTS, question, question)

    def _advice(self, memory: AgentMemory, question: BidQuestion) -> Suggestion:
        return self._strategy.suggest(
            metrics=memory.metrics,
            tallies=memory.tallies,
            sums=memory.sums,
            description=question.description,
            base_bid_sats=question.base_bid_sats,
            cost_sats=question.cost_sats,
            paid_on=self._paid_on,
            explained=False,
        )


_RESULTS: Final[tuple[Kind, ...]] = ("done", "failed", "lost")


def known_agent(strategy: str, outcomes: Iterable[Outcome], paid_on: PaidOn) -> KnownAgent | None:
    """An agent, for a strategy that is installed here; None for others. No name imports a module.

    It takes about as long as joining the outcomes did: not for an event loop.
    """
    try:
        found = find_strategy(strategy) if strategy in strategy_names() else None
    except ConfigurationError:
        return None
    return None if found is None else KnownAgent(found, outcomes, paid_on)


def one_more(kind: Kind, question: BidQuestion, bid_sats: int) -> SettledBid:
    """One more auction with the same text and the advised bid: won and done or failed, or lost."""
    won = kind != "lost"
    return SettledBid(
        bid_sats=bid_sats,
        won=won,
        winning_bid_sats=bid_sats if won else None,
        description=question.description,
        succeeded=kind == "done" if won else None,
        closed_at_us=0,
    )


def _nearer(change: int) -> int:
    return change - (change > 0) + (change < 0)


def smallest(is_moved: Callable[[int], bool], *, least: int, most: int) -> int:
    """The change nearest to 0 that moves; 0 if none does. The next one nearer to 0 does not move.

    Ranges of more than a thousand values are looked at in steps, and the step that moves is halved.
    """
    step = max(1, max(-least, most) // _STEPS)
    for distance in range(step, max(-least, most) + step, step):
        moving = [
            _halved(is_moved, distance - step, min(distance, end), sign)
            for sign, end in ((1, most), (-1, -least))
            if distance - step < end and is_moved(sign * min(distance, end))
        ]
        if moving:
            return min(moving, key=abs)
    return 0


def _halved(is_moved: Callable[[int], bool], still: int, moved: int, sign: int) -> int:
    """Between a distance that does not move and one that does."""
    while moved - still > 1:
        middle = (still + moved) // 2
        if is_moved(sign * middle):
            moved = middle
        else:
            still = middle
    return sign * moved
