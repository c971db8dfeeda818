"""expected-profit on messy and corrected histories: bit-equal to the naive model, exact to take back.

`STRATEGY_EXAMPLES=100000` tries so many (history, request) pairs.
"""

import itertools
import os
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest

from learner_worker.contract.facts import Bid, Close, Fact, Result, description_digest
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Change, Metrics, change, plus
from learner_worker.domain.outcomes import Outcome, join
from learner_worker.strategies.expected_profit import EXPECTED_PROFIT
from learner_worker.strategies.protocol import Suggestion
from learner_worker.strategies.sums import GrowingSums, correct, settled_bid, un_update, update
from tests.support import model, profit_model
from tests.support.profit_model import Request

EXAMPLES = int(os.environ.get("STRATEGY_EXAMPLES", "5000"))
PARTS = 20  # tests of so many examples each, so that a failure names a small range
AGENT, RIVALS = "echo", ("mace", "seer")
WORDS = ("parse", "invoice", "translate", "audit", "the", "label", "chart")
CLOSED = 1_800_000_000_000_000


@dataclass
class Learned:
    """The program's own state of one agent, kept by differences while facts are joined."""

    rows: dict[str, Outcome] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    tallies: dict[str, Tally] = field(default_factory=dict)
    sums: GrowingSums = field(default_factory=dict)

    def join(self, facts: Iterable[Fact]) -> None:
        """Joins facts about the agent, in this order."""
        for fact in facts:
            before = self.rows.get(fact.task_id)
            after = join(before or Outcome(fact.task_id, fact.agent_id), fact)
            self.rows[fact.task_id] = after
            self._count(change(before, after))
            correct(
                EXPECTED_PROFIT,
                self.sums,
                None if before is None else settled_bid(before),
                settled_bid(after),
            )

    def suggest(self, request: Request) -> Suggestion:
        """The strategy's answer."""
        return EXPECTED_PROFIT.suggest(
            metrics=self.metrics,
            tallies=self.tallies,
            sums=self.sums,
            description=request.description,
            base_bid_sats=request.base,
            cost_sats=request.cost,
            failure_cost_sats=request.failure_cost,
            paid_on="win" if request.paid_on_win else "success",
        )

    def _count(self, difference: Change) -> None:
        self.metrics = plus(self.metrics, difference.metrics)
        for word in difference.wins.keys() | difference.failures.keys():
            won, failed = self.tallies.pop(word, Tally())
            tally = Tally(won + difference.wins.get(word, 0), failed + difference.failures.get(word, 0))
            if tally != Tally():
                self.tallies[word] = tally


def drawn_history(chance: random.Random, base: int) -> list[model.Event]:
    """Auctions around a price: rebids, unknown and zero prices, corrected closes, results that flip."""
    number = chance.choice((0, 2, 3, 5, 9, 18, 30))
    spread = chance.choice((0.1, 0.5, 3.0))
    return [event for task in range(number) for event in _drawn_auction(chance, f"task-{task}", base, spread)]


def _drawn_auction(chance: random.Random, task: str, base: int, spread: float) -> list[model.Event]:
    def sats() -> int:
        return min(
            model.MAX_SATS, int(base * 2 ** chance.uniform(-spread, spread)) * (chance.random() > 0.02)
        )

    def text() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randrange(6)))

    events: list[model.Event] = []
    for agent in (AGENT, *RIVALS):
        for rebid in range(chance.choice((0, 1, 1, 1, 2))):
            bid = model.BidPlaced(task, agent, sats(), text(), CLOSED - 10 + rebid)
            events.append(bid)
    for correction in range(chance.choice((1, 1, 1, 2, 3))):
        winner = chance.choice((None, AGENT, AGENT, AGENT, *RIVALS))
        price = chance.choice((None, sats(), sats(), sats()))
        closed_at = CLOSED + chance.choice((0, correction))
        events.append(model.AuctionClosed(task, winner, price, closed_at, chance.choice((None, text()))))
    for _ in range(chance.choice((0, 1, 1, 2))):
        finished_at, doer = CLOSED + chance.randrange(3), chance.choice((AGENT, AGENT, *RIVALS))
        events.append(model.TaskFinished(task, doer, chance.random() < 0.6, finished_at))
    return events


def drawn_request(chance: random.Random, base: int) -> Request:
    """A request near the price of the history, or far from it."""
    asked = chance.choice((base, base, int(base * chance.uniform(0.5, 2)), 0, 1, 17, model.MAX_SATS))
    return Request(
        description=" ".join(chance.choices(WORDS, k=chance.randrange(8))),
        base=min(asked, model.MAX_SATS),
        cost=chance.choice((None, None, 0, int(base * 0.4), base, 3 * base)),
        failure_cost=chance.choice((0, 0, base // 3)),
        paid_on_win=chance.random() < 0.2,
    )


def drawn_base(chance: random.Random) -> int:
    """Of any size."""
    return chance.choice((1, 5, 16, 97, 100, 1_000, 54_321, 10**9, model.MAX_SATS // 3))


def facts_of(events: Sequence[model.Event]) -> list[Fact]:
    """What is known of the agent by each event: a close travels to everybody who bid or is named."""
    named = {(event.task_id, event.agent_id) for event in events if isinstance(event, model.BidPlaced)}
    named |= {
        (event.task_id, event.winner_agent_id)
        for event in events
        if isinstance(event, model.AuctionClosed) and event.winner_agent_id is not None
    }
    return [fact for event in events if (fact := _fact_of(event, named)) is not None]


def _fact_of(event: model.Event, named: set[tuple[str, str]]) -> Fact | None:
    task, agent = TaskId(event.task_id), AgentId(AGENT)
    match event:
        case model.BidPlaced() if event.agent_id == AGENT:
            return Fact(task, agent, bid=Bid(Micros(event.placed_at), event.bid_sats, event.description))
        case model.AuctionClosed() if (event.task_id, AGENT) in named:
            return Fact(task, agent, close=_close_of(event))
        case model.TaskFinished() if event.agent_id == AGENT:
            return Fact(task, agent, result=Result(Micros(event.finished_at), event.succeeded))
        case _:
            return None


def _close_of(event: model.AuctionClosed) -> Close:
    winner = None if event.winner_agent_id is None else AgentId(event.winner_agent_id)
    digest = None if event.description is None else description_digest(event.description)
    return Close(Micros(event.closed_at), winner, event.winning_bid_sats, digest, event.description)


def cells_of(sums: GrowingSums) -> dict[tuple[object, object], tuple[int, int]]:
    """The program's sums as the model counts them."""
    return {(group, cell): counts for group, cells in sums.items() for cell, counts in cells.items()}


MESSY = ("corrected close", "rebid", "price other than the winner's bid", "unknown price", "nobody won")


def messy_parts(events: Sequence[model.Event]) -> list[str]:
    """Which of the messy parts a history has."""
    closes = [event for event in events if isinstance(event, model.AuctionClosed)]
    bids = [event for event in events if isinstance(event, model.BidPlaced)]
    last = {(bid.task_id, bid.agent_id): bid.bid_sats for bid in bids}
    won = [
        (close.winning_bid_sats, last.get((close.task_id, close.winner_agent_id or ""))) for close in closes
    ]
    holds = (
        len({close.task_id for close in closes}) < len(closes),
        len(last) < len(bids),
        any(None not in {price, own} and price != own for price, own in won),
        any(close.winning_bid_sats is None and close.winner_agent_id is not None for close in closes),
        any(close.winner_agent_id is None for close in closes),
    )
    return list(itertools.compress(MESSY, holds))


@pytest.mark.parametrize("part", range(PARTS))
def test_every_answer_equals_the_model(part: int) -> None:
    """Bid, factor and every multiplier, bit by bit; and the prices are counted the same."""
    for seed in range(part * EXAMPLES // PARTS, (part + 1) * EXAMPLES // PARTS):
        chance = random.Random(f"expected-profit {seed}")
        base = drawn_base(chance)
        events = drawn_history(chance, base)
        delivered = facts_of(events)
        chance.shuffle(delivered)
        learned = Learned()
        learned.join(delivered)
        request = drawn_request(chance, base)
        suggestion = learned.suggest(request)
        expected = profit_model.answer(events, AGENT, request)
        steps = {step.rule: step.multiplier for step in suggestion.rules}
        assert profit_model.Answer(suggestion.suggested_bid_sats, suggestion.factor, steps) == expected, seed
        assert cells_of(learned.sums) == profit_model.prices_of(events, AGENT), seed


def test_any_order_of_the_same_facts_leaves_the_same_state() -> None:
    """Copies included: metrics, keywords and sums do not know in which order facts came."""
    for seed in range(200):
        chance = random.Random(f"order {seed}")
        delivered = facts_of(drawn_history(chance, 100))
        one, other = Learned(), Learned()
        one.join(delivered)
        copies = [*delivered, *chance.choices(delivered, k=len(delivered) // 3)] if delivered else []
        chance.shuffle(copies)
        other.join(copies)
        assert (one.metrics, one.tallies, one.sums) == (other.metrics, other.tallies, other.sums), seed


def test_taking_bids_back_is_exact() -> None:
    """What is left after taking some out is the sum of the others; after all of them, nothing."""
    for seed in range(200):
        chance = random.Random(f"taking back {seed}")
        learned = Learned()
        learned.join(facts_of(drawn_history(chance, 1_000)))
        settled = [bid for row in learned.rows.values() if (bid := settled_bid(row)) is not None]
        chance.shuffle(settled)
        kept = settled[: chance.randrange(len(settled) + 1)]
        for bid in settled[len(kept) :]:
            un_update(EXPECTED_PROFIT, learned.sums, bid)
        expected: GrowingSums = {}
        for bid in kept:
            update(EXPECTED_PROFIT, expected, bid)
        assert expected == learned.sums, seed
        for bid in kept:
            un_update(EXPECTED_PROFIT, learned.sums, bid)
        assert learned.sums == {}, seed


def test_the_examples_reach_every_corner() -> None:
    """Among the first thousand pairs are all the cases that the answer tells apart."""
    seen = Counter[str]()
    for seed in range(1_000):
        chance = random.Random(f"expected-profit {seed}")
        base = drawn_base(chance)
        events = drawn_history(chance, base)
        request = drawn_request(chance, base)
        seen.update(profit_model.answer(events, AGENT, request).steps)
        seen.update(messy_parts(events))
        seen["paid on win"] += request.paid_on_win
    cases = ("prior_margin", "chance_to_deliver", "rivals_prices", *MESSY, "paid on win")
    assert min(seen[case] for case in cases) > 50
