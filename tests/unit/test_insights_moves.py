"""What would move an answer: searched off the event loop, with each outcome learned once, and checked."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from learner_worker.client import LearnerClient
from learner_worker.contract.facts import Bid, Close, Fact, Result, encode_fact
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.suggestions import AgentMetrics, SuggestBidReply
from learner_worker.contract.times import Micros
from learner_worker.domain.outcomes import Outcome
from learner_worker.errors import SuggestionError
from learner_worker.insights.advice import AdviceReader
from learner_worker.insights.advice_store import advice_store
from learner_worker.insights.facts import fact_store
from learner_worker.insights.history import AgentHistory, agent_history
from learner_worker.insights.moves import MoveFinder, Moves
from learner_worker.insights.sending import Sending
from learner_worker.laboratory.what_if import MOST_RESULTS, BidQuestion, KnownAgent
from learner_worker.settings import Settings
from learner_worker.strategies import registry
from learner_worker.strategies.expected_profit import ExpectedProfit
from learner_worker.strategies.protocol import Addend, SettledBid, Suggestion
from tests.support.insights import LAYOUT, ReadOutcomes, fact_records, pages_of

ECHO, MACE = AgentId("echo"), AgentId("mace")
QUESTION = BidQuestion("parse invoices", 1_000, 40)


class Watched(ExpectedProfit):
    """Keeps which threads asked it, and how many settled bids it was told."""

    def __init__(self) -> None:
        self.learned = 0
        self.threads: set[int] = set()

    def addends(self, *, settled: SettledBid) -> Sequence[Addend]:
        """Of the real one."""
        self.learned += 1
        self.threads.add(threading.get_ident())
        return super().addends(settled=settled)

    def suggest(self, **question: Any) -> Suggestion:
        """The real one's."""
        self.threads.add(threading.get_ident())
        return super().suggest(**question)


class Learner(Sending):
    """Answers by expected-profit; to other questions than the first so many sats more, or not at all."""

    def __init__(self, outcomes: Sequence[Outcome], *, more_sats: int | None = 0) -> None:
        super().__init__(LearnerClient("localhost:1"), None)
        self._agent = KnownAgent(ExpectedProfit(), outcomes, "success")
        self._more_sats = more_sats

    async def ask(
        self, agent_id: AgentId, *, description: str, base_bid_sats: int, cost_sats: int | None
    ) -> SuggestBidReply:
        """The reply."""
        question = BidQuestion(description, base_bid_sats, cost_sats)
        more = 0 if question == QUESTION else self._more_sats
        if more is None:
            raise SuggestionError("TIMEOUT", "no answer")
        advice = self._agent.ask(question)
        return SuggestBidReply(
            agent_id=agent_id,
            base_bid_sats=base_bid_sats,
            suggested_bid_sats=advice.suggested_bid_sats + more,
            strategy="expected-profit",
            factor=advice.factor,
            adjustments=[],
            metrics=AgentMetrics(
                total_bids=0,
                auctions_won=0,
                tasks_completed=0,
                tasks_failed=0,
                win_rate=0,
                success_rate=0,
                avg_winning_bid_sats=0,
            ),
            as_of=None,
            stale=False,
        )


class ReadOnce(ReadOutcomes):
    """Counts the histories that are joined."""

    joined = 0

    async def history(self, agent_id: AgentId) -> AgentHistory:
        """The agent's history."""
        self.joined += 1
        return await super().history(agent_id)


def facts(count: int) -> list[Fact]:
    """An agent's outcomes: every other auction lost to a rival, one task in four failed."""
    return [
        Fact(
            TaskId(f"t{number}"),
            ECHO,
            Close(Micros(number), ECHO if number % 2 else MACE, 900),
            Bid(Micros(number), 900 + number % 200, QUESTION.description),
            Result(Micros(number), succeeded=number % 8 != 1) if number % 2 else None,
        )
        for number in range(count)
    ]


def history_of(count: int) -> Sequence[Outcome]:
    """So many outcomes, joined."""
    return agent_history([encode_fact(fact)[1] for fact in facts(count)], None).outcomes


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Stands for expected-profit wherever insights look a strategy up."""
    strategy = Watched()
    monkeypatch.setattr(registry, "BUILT_IN", {**registry.BUILT_IN, strategy.name: strategy})
    return strategy


async def found(learner: Learner, outcomes: Sequence[Outcome], **changes: object) -> Moves:
    """What would move the learner's reply, or this reply with some changes."""
    reply = (await learner.ask(ECHO, **QUESTION._asdict())).model_copy(update=changes)
    return await MoveFinder(learner, "success").find(ECHO, outcomes, QUESTION, reply)


async def test_a_long_history_is_learned_once_and_never_on_the_event_loop(watched: Watched) -> None:
    """Besides its outcomes only the further results are learned, each when searched and when checked."""
    outcomes = history_of(2_000)
    moves = await found(Learner(outcomes), outcomes)
    assert [one.move.kind for one in moves.found] == ["base", "cost", "done", "failed", "lost"]
    assert all(one.confirmed for one in moves.found)
    assert any(one.move.amount for one in moves.found if one.move.kind in {"base", "cost"})
    assert len(outcomes) <= watched.learned <= len(outcomes) + 3 * 3 * MOST_RESULTS
    assert threading.get_ident() not in watched.threads


@pytest.mark.parametrize("more_sats", [1, None])
async def test_a_move_that_the_learner_does_not_repeat_is_not_confirmed(more_sats: int | None) -> None:
    """It says otherwise, or nothing; results that are to come can only be counted here."""
    outcomes = history_of(60)
    moves = await found(Learner(outcomes, more_sats=more_sats), outcomes)
    moving = {one.move.kind: one.confirmed for one in moves.found if one.move.amount}
    assert moving.keys() & {"base", "cost"}
    assert all(confirmed is (kind not in {"base", "cost"}) for kind, confirmed in moving.items())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"strategy": "elsewhere"}, "not searched: the strategy elsewhere is not installed here"),
        ({"suggested_bid_sats": 1}, "not searched: asked here, the strategy says"),
    ],
)
async def test_nothing_is_searched_where_the_strategy_does_not_answer_alike_here(
    changes: dict[str, object], problem: str
) -> None:
    """It is not installed, or says something else: both are said."""
    outcomes = history_of(60)
    moves = await found(Learner(outcomes), outcomes, **changes)
    assert (moves.problem.startswith(problem), moves.found) == (True, ())


async def test_the_page_of_an_answer_joins_the_agents_history_once() -> None:
    """The search and the figures are of the same outcomes."""
    async with fact_store() as store, advice_store() as answers:
        await store.take(fact_records(facts(60)))
        reader = ReadOnce(Settings(), LAYOUT, store)
        advice = AdviceReader(Settings(), reader, answers)
        app = pages_of(reader, advice, Learner(history_of(60)))
        form = dict(zip(("description", "base", "cost"), map(str, QUESTION), strict=True))
        async with (
            TestServer(app) as server,
            ClientSession() as session,
            session.post(server.make_url("/agent?id=echo"), data=form) as answer,
        ):
            page = await answer.text()
    assert (answer.status, reader.joined) == (200, 1)
    assert "says the same" in page
