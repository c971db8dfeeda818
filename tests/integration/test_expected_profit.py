"""expected-profit on a running worker: what it answers is the naive model's answer, bit by bit."""

import asyncio
import dataclasses
import json
import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from learner_worker.brokers import Broker
from learner_worker.client import LearnerClient
from learner_worker.contract.suggestions import SuggestBidReply
from learner_worker.contract.topics import TopicName, TopicNames, Topics
from learner_worker.errors import SuggestionError
from learner_worker.kafka.admin import connected
from learner_worker.kafka.connection import Connection
from tests.property.test_expected_profit import AGENT, RIVALS, drawn_history, drawn_request
from tests.support import model, profit_model
from tests.support.swarm import shuffled_with_duplicates
from tests.support.workers import create_topics, publish, read_topic, running_worker, until

SWARMS = 670
"""Three agents each have their own history of their swarm's auctions: 2,010 (history, request) pairs."""
AT_ONCE = 100
"""Requests on their way at a time."""
PATIENCE = {"--request-ttl-seconds": "120"}
"""So that no request expires on a busy machine."""
_BASES = (1, 15, 100, 1_000, 54_321, 2**40)


def named(event: model.Event, swarm: int) -> model.Event:
    """The same event among agents and tasks of the swarm's own."""
    task_id = f"{event.task_id}-{swarm}"
    if isinstance(event, model.AuctionClosed):
        winner = event.winner_agent_id
        own = None if winner is None else f"{winner}-{swarm}"
        return dataclasses.replace(event, task_id=task_id, winner_agent_id=own)
    return dataclasses.replace(event, task_id=task_id, agent_id=f"{event.agent_id}-{swarm}")


class Pair:
    """An agent's random history and what it asks, with the model's answers."""

    def __init__(self, agent: str, events: list[model.Event], request: profit_model.Request) -> None:
        self.agent = agent
        self.request = request
        self.expected = profit_model.answer(events, agent, request)
        metrics = model.metrics(model.outcomes(events)).get(agent)
        self._classic = model.classic(metrics, request.description, request.base)

    async def is_answered_right(self, learner: LearnerClient) -> None:
        """The reply is the model's answer to the history, and says by which strategy."""
        asked, expected = self.request, self.expected
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
        self._has_alternatives(reply)

    def _has_alternatives(self, reply: SuggestBidReply) -> None:
        classic, expected = self._classic, self.expected
        found = {name: (other.suggested_bid_sats, other.factor) for name, other in reply.alternatives.items()}
        assert found == {
            "classic": (classic.suggested_bid_sats, classic.factor),
            "expected-profit": (expected.bid, expected.factor),
        }


class Swarm:
    """Random auctions of three agents, and what each of them asks afterwards."""

    def __init__(self, number: int) -> None:
        chance = random.Random(f"swarm {number}")
        base = chance.choice(_BASES)
        self.events = [named(event, number) for event in drawn_history(chance, base)]
        self._asked = {f"{name}-{number}": drawn_request(chance, base) for name in (AGENT, *RIVALS)}

    def pairs(self) -> list[Pair]:
        """One for each agent."""
        return [Pair(agent, self.events, request) for agent, request in self._asked.items()]


async def all_are_answered_right(pairs: list[Pair], broker: Broker, prefix: str) -> None:
    """Asks about all pairs, many at a time."""
    async with LearnerClient(
        broker.bootstrap_servers, topics=Topics(prefix=prefix), timeout_seconds=120
    ) as learner:
        for start in range(0, len(pairs), AT_ONCE):
            await asyncio.gather(
                *(pair.is_answered_right(learner) for pair in pairs[start : start + AT_ONCE])
            )


async def everything_is_learned(broker: Broker, names: TopicNames, group_id: str) -> None:
    """Waits until the group has committed what lies on the sources, and then what lies on the changelog."""
    sources = (names.bid_placed, names.auction_closed, names.task_finished, names.rerouted)
    async with (
        connected(Connection(broker.bootstrap_servers), patience_seconds=60) as cluster,
        AIOKafkaConsumer(bootstrap_servers=broker.bootstrap_servers) as consumer,
    ):

        async def is_committed(topics: Sequence[TopicName]) -> bool:
            counts = await cluster.partitions(topics)
            places = [TopicPartition(name, number) for name in topics for number in range(counts[name])]
            ends, committed = await consumer.end_offsets(places), await cluster.committed(group_id)
            return all(
                place in committed and committed[place].offset >= ends[place]
                for place in places
                if ends[place]
            )

        for topics in (sources, (names.outcomes,)):
            await until(partial(is_committed, topics), f"{topics} are read to their ends", seconds=900)


@pytest.mark.timeout(1_200)  # half a minute of work; the suite's limit is too near where others work, too
async def test_a_workers_suggestions_equal_the_naive_models(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Messy and corrected histories, with and without costs, paid on success; then, restarted, on winning."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    swarms = [Swarm(number) for number in range(SWARMS)]
    events = [event for swarm in swarms for event in swarm.events]
    await publish(broker.bootstrap_servers, names, shuffled_with_duplicates(events, seed=3))
    async with running_worker(
        broker.bootstrap_servers, prefix, tmp_path / "state", settings=PATIENCE
    ) as worker:
        pairs = [pair for swarm in swarms for pair in swarm.pairs()]  # computed while the worker learns
        await everything_is_learned(broker, names, f"{prefix}learner")
        on_success = [pair for pair in pairs if not pair.request.paid_on_win]
        await all_are_answered_right(on_success, broker, prefix)
        assert await worker.stop() == 0
    settings = {**PATIENCE, "--paid-on": "win"}
    async with running_worker(
        broker.bootstrap_servers, prefix, tmp_path / "state", settings=settings
    ) as worker:
        on_win = [pair for pair in pairs if pair.request.paid_on_win]
        await all_are_answered_right(on_win, broker, prefix)
        assert await worker.stop() == 0
    assert min(len(on_success), len(on_win)) > 300
    assert len(pairs) >= 2_000


COST, FAILURE_COST = 7_654_321_098_765, 1_234_567_890_123
"""Numbers that are nowhere else, in digits or in the six bytes of a file."""
ASKED = {"agent_id": "echo-0", "base_bid_sats": 1_000, "description": "parse", "cost_sats": COST}
REQUESTS = (
    {**ASKED, "strategy": "expected-profit", "include": ["alternatives"], "failure_cost_sats": FAILURE_COST},
    {**ASKED, "failure_cost_sats": FAILURE_COST},
    {**ASKED, "strategy": "guess"},
    {**ASKED, "cost_sats": str(COST)},
    {**ASKED, "failure_cost_sats": -FAILURE_COST},
    {**ASKED, "base_bid_sats": None},
    {**ASKED, "strategy": COST},
)
"""What an agent may write: good, refused for something else, refused for its cost."""


async def test_costs_are_written_nowhere(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """Not to a topic but that of the requests, not to a file, a log or a metric, whatever is asked."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    await publish(broker.bootstrap_servers, names, Swarm(0).events)
    state_dir = tmp_path / "state"
    settings = {**PATIENCE, "--log-level": "debug"}
    async with (
        running_worker(broker.bootstrap_servers, prefix, state_dir, settings=settings) as worker,
        AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer,
    ):
        await everything_is_learned(broker, names, f"{prefix}learner")
        bodies = [*(json.dumps(request).encode() for request in REQUESTS), f'{{"cost_sats":{COST},'.encode()]
        for partition in range(4):  # all but one are the wrong ones: there it is moved
            for body in bodies:
                await producer.send_and_wait(names.requests, body, partition=partition)

        async def all_replies() -> list[Any] | None:
            found = await read_topic(broker.bootstrap_servers, names.replies)
            return found if len(found) >= 4 * len(bodies) else None

        replies = await until(all_replies, "every request is answered")
        _, metrics = await worker.get("/metrics")
        assert await worker.stop() == 0
    codes = Counter(json.loads(reply.value).get("error", {}).get("code") for reply in replies)
    bids = [json.loads(reply.value).get("suggested_bid_sats") for reply in replies]
    assert bids.count(2_000) == 4, "no price up to twice the base bid pays"
    assert codes == {None: 4 * 2, "INVALID_REQUEST": 4 * (len(bodies) - 2)}
    others = [
        record
        for topic in set(names.all) - {names.requests}
        for record in await read_topic(broker.bootstrap_servers, topic)
    ]
    written = [
        part for record in others for part in (record.key, record.value, *dict(record.headers).values())
    ]
    written += [path.read_bytes() for path in state_dir.rglob("*") if path.is_file()]
    written += [worker.log_path.read_bytes(), metrics.encode()]
    for secret in (COST, FAILURE_COST):
        forms = (
            str(secret).encode(),
            f"{secret:_}".encode(),
            f"{secret:,}".encode(),
            secret.to_bytes(6, "big"),
        )
        assert not [text for text in written if text and any(form in text for form in forms)]


async def test_a_strategy_that_is_not_there_is_refused_by_name(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """The refusal names those that are; alternatives are those of this worker."""
    await create_topics(broker.bootstrap_servers, prefix)
    settings = {"--strategies": "classic"}
    async with (
        running_worker(broker.bootstrap_servers, prefix, tmp_path / "state", settings=settings) as worker,
        LearnerClient(broker.bootstrap_servers, topics=Topics(prefix=prefix), timeout_seconds=60) as learner,
    ):
        ask = partial(learner.suggest_bid, "a", description="parse", base_bid_sats=100)
        with pytest.raises(SuggestionError, match="there are classic") as refused:
            await ask(strategy="expected-profit")
        reply = await ask(include=["alternatives"])
        assert (reply.strategy, list(reply.alternatives)) == ("classic", ["classic"])
        assert refused.value.code == "INVALID_REQUEST"
        assert await worker.stop() == 0
