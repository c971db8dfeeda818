"""What would move advice: the smallest change, found by asking, and none where none does."""

from collections.abc import Sequence

import pytest

from learner_worker.contract.facts import Bid, Close, Result
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.outcomes import Outcome
from learner_worker.laboratory.what_if import BidQuestion, KnownAgent, Move, one_more, smallest
from learner_worker.strategies.classic import CLASSIC
from learner_worker.strategies.expected_profit import EXPECTED_PROFIT
from learner_worker.strategies.protocol import Strategy

ECHO, MACE = AgentId("echo"), AgentId("mace")
TEXT = "parse invoices"


def outcomes(*results: bool | None, sats: int = 100, rival: int = 90) -> Sequence[Outcome]:
    """Won auctions with these results; None is one that was lost to a rival."""
    return [
        Outcome(
            TaskId(f"t{number}"),
            ECHO,
            Close(Micros(number), MACE if done is None else ECHO, rival if done is None else sats),
            Bid(Micros(number), sats, TEXT),
            None if done is None else Result(Micros(number), succeeded=done),
        )
        for number, done in enumerate(results)
    ]


def by_kind(moves: Sequence[Move]) -> dict[str, Move]:
    """The moves by their kind."""
    return {move.kind: move for move in moves}


@pytest.mark.parametrize(
    ("least", "most", "moving", "expected"),
    [
        (-10, 10, {4, -6}, 4),
        (-10, 10, {6, -4}, -4),
        (-10, 10, {10}, 10),
        (-3, 10, {-4}, 0),
        (0, 10, {7}, 7),
        (-10, 10, set(), 0),
        (-50_000, 50_000, set(range(20_001, 50_001)), 20_001),
        (-50_000, 50_000, {*range(30_000, 50_001), *range(-50_000, -29_998)}, -29_999),
        (0, 0, set(), 0),
    ],
)
def test_the_smallest_change_is_the_nearest_that_moves(
    least: int, most: int, moving: set[int], expected: int
) -> None:
    """In both directions, to the ends of the range and not beyond, to the sat in wide ranges, too."""

    def is_moved(change: int) -> bool:
        assert least <= change <= most
        return change in moving

    assert smallest(is_moved, least=least, most=most) == expected


def test_the_rules_of_classic_are_moved_by_results_and_never_by_base_or_cost() -> None:
    """Two of three won and one failed: the thresholds of its rules say how many results are needed."""
    agent = KnownAgent(CLASSIC, outcomes(True, False, None), "success")
    moves = by_kind(agent.moves(BidQuestion(TEXT, 1_000, 300)))
    assert (moves["base"].amount, moves["cost"].amount) == (0, 0)
    assert (moves["base"].at_most, moves["cost"].at_most) == (500, 1_000)
    assert moves["done"].amount == 1  # two successes against one failure prove the words
    assert moves["failed"].amount == 1  # two failures against one success, and a success rate below 0.5
    assert moves["lost"].amount == 8  # 2 of 11 is the first win rate below 0.2


@pytest.mark.parametrize("strategy", [CLASSIC, EXPECTED_PROFIT])
@pytest.mark.parametrize("base", [7, 100, 1_000, 50_000])
@pytest.mark.parametrize("cost", [None, 40])
def test_every_move_moves_and_one_less_does_not(strategy: Strategy, base: int, cost: int | None) -> None:
    """Asked again, of a new memory: results and costs change the bid, the base changes what it is times."""
    agent = KnownAgent(strategy, outcomes(*[True, None, None, False] * 6, sats=base), "success")
    question = BidQuestion(TEXT, base, cost)
    advised = agent.ask(question)
    moves = by_kind(agent.moves(question))
    assert list(moves) == ["base", *(["cost"] if cost is not None else []), "done", "failed", "lost"]
    for kind in ("done", "failed", "lost"):
        move = moves[kind]
        more = [one_more(move.kind, question, advised.suggested_bid_sats)] * move.amount
        assert agent.ask(question, more).suggested_bid_sats == move.suggested_bid_sats
        assert (move.suggested_bid_sats != advised.suggested_bid_sats) is (move.amount > 0)
        if move.amount:
            assert agent.ask(question, more[1:]).suggested_bid_sats == advised.suggested_bid_sats
    if cost is not None and moves["cost"].amount:
        changed = moves["cost"].question
        nearer = changed._replace(
            cost_sats=(changed.cost_sats or 0) - (1 if moves["cost"].amount > 0 else -1)
        )
        assert agent.ask(changed).suggested_bid_sats != advised.suggested_bid_sats
        assert agent.ask(nearer).suggested_bid_sats == advised.suggested_bid_sats
