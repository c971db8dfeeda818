"""expected-profit on a running worker: what it answers is the naive model's answer, bit by bit.

`STRATEGY_PAIRS=2000` asks about so many (history, request) pairs on each broker.
"""

import dataclasses
import os
import random
from pathlib import Path

import pytest

from learner_worker.brokers import Broker
from learner_worker.client import LearnerClient
from learner_worker.contract.suggestions import SuggestBidReply
from learner_worker.contract.topics import Topics
from learner_worker.errors import SuggestionError
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.property.test_expected_profit import AGENT, drawn_history, drawn_request
from tests.support import model, profit_model
from tests.support.swarm import shuffled_with_duplicates
from tests.support.workers import create_topics, publish, running_worker

PAIRS = int(os.environ.get("STRATEGY_PAIRS", "200"))
_BASES = (1, 15, 100, 1_000, 54_321, 2**40)


def named(event: model.Event, pair: int) -> model.Event:
    """The same event among agents and tasks of the pair's own."""
    task_id = f"{event.task_id}-{pair}"
    if isinstance(event, model.AuctionClosed):
        winner = event.winner_agent_id
        own = None if winner is None else f"{winner}-{pair}"
        return dataclasses.replace(event, task_id=task_id, winner_agent_id=own)
    return dataclasses.replace(event, task_id=task_id, agent_id=f"{event.agent_id}-{pair}")


class Pair:
    """A random history of an agent, and what the agent asks."""

    def __init__(self, number: int) -> None:
        chance = random.Random(f"pair {number}")
        base = chance.choice(_BASES)
        self.agent = f"{AGENT}-{number}"
        self.events = [named(event, number) for event in drawn_history(chance, base)]
        self.request = drawn_request(chance, base)

    async def is_answered_right(self, learner: LearnerClient) -> None:
        """The reply is the model's answer to the history, and says by which strategy."""
        asked = self.request
        expected = profit_model.answer(self.events, self.agent, asked)
        reply = await learner.suggest_bid(
            self.agent,
            description=asked.description,
            base_bid_sats=asked.base,
            strategy="expected-profit",
            task_id="the task",
            cost_sats=asked.cost,
            failure_cost_sats=asked.failure_cost,
            include=["alternatives"],
        )
        assert (reply.suggested_bid_sats, reply.factor) == (expected.bid, expected.factor)
        assert {step.rule: step.multiplier for step in reply.adjustments} == expected.steps
        assert (reply.strategy, reply.stale) == ("expected-profit", False)
        self._has_alternatives(reply, expected)

    def _has_alternatives(self, reply: SuggestBidReply, expected: profit_model.Answer) -> None:
        asked = self.request
        metrics = model.metrics(model.outcomes(self.events)).get(self.agent)
        classic = model.classic(metrics, asked.description, asked.base)
        found = {name: (other.suggested_bid_sats, other.factor) for name, other in reply.alternatives.items()}
        assert found == {
            "classic": (classic.suggested_bid_sats, classic.factor),
            "expected-profit": (expected.bid, expected.factor),
        }


@pytest.mark.timeout(0)
async def test_a_workers_suggestions_equal_the_naive_models(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Messy and corrected histories, with and without costs, paid on success; then, restarted, on winning."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    pairs = [Pair(number) for number in range(PAIRS)]
    events = [event for pair in pairs for event in pair.events]
    await publish(broker.bootstrap_servers, names, shuffled_with_duplicates(events, seed=3))
    for paid_on in ("success", "win"):
        settings = {"--paid-on": paid_on}
        async with running_worker(
            broker.bootstrap_servers, prefix, tmp_path / "state", settings=settings
        ) as worker:
            await metrics_equal_the_model(broker, names, events, seconds=60 + PAIRS)
            async with LearnerClient(
                broker.bootstrap_servers, topics=Topics(prefix=prefix), timeout_seconds=10
            ) as learner:
                for pair in pairs:
                    if pair.request.paid_on_win == (paid_on == "win"):
                        await pair.is_answered_right(learner)
            assert await worker.stop() == 0


async def test_a_strategy_that_is_not_there_is_refused_by_name(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """The refusal names those that are; what the request says of costs is in no reply and no log."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    assert names
    settings = {"--strategies": "classic"}
    async with (
        running_worker(broker.bootstrap_servers, prefix, tmp_path / "state", settings=settings) as worker,
        LearnerClient(broker.bootstrap_servers, topics=Topics(prefix=prefix), timeout_seconds=10) as learner,
    ):
        with pytest.raises(SuggestionError, match="there are classic") as refused:
            await learner.suggest_bid(
                "a",
                description="parse",
                base_bid_sats=100,
                strategy="expected-profit",
                cost_sats=7_654_321,
                failure_cost_sats=1_234_567,
            )
        reply = await learner.suggest_bid(
            "a", description="parse", base_bid_sats=100, cost_sats=7_654_321, include=["alternatives"]
        )
        assert (reply.strategy, list(reply.alternatives)) == ("classic", ["classic"])
        assert refused.value.code == "INVALID_REQUEST"
        assert await worker.stop() == 0
        said = str(refused.value) + worker.log_path.read_text()
        assert "7654321" not in said
        assert "1234567" not in said
