"""Checks that the learner counts what was published: compares its metrics with the history."""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from learner_worker.contract.events import Event
from learner_worker.contract.fields import AgentId
from learner_worker.contract.suggestions import AgentMetrics
from learner_worker.demo.comparison import bids_by_agent, figures, finished_auctions
from learner_worker.demo.market import Learner

CATCH_UP_SECONDS: Final = 15.0  # several checkpoints, on a slow machine
POLL_SECONDS: Final = 0.1  # between two reads of metrics that are not written yet


class AgentCounts(NamedTuple):
    """An agent's counts, by the events or by the learner."""

    total_bids: int
    auctions_won: int
    tasks_completed: int
    tasks_failed: int


def counted_by_hand(history: Sequence[Event]) -> dict[AgentId, AgentCounts]:
    """The counts that the learner should arrive at for every agent that bid."""
    auctions = finished_auctions(history)
    own = {agent_id: figures(auctions, agent_id.__eq__) for agent_id in bids_by_agent(history)}
    return {
        agent_id: AgentCounts(
            bids, own[agent_id].auctions_won, own[agent_id].tasks_completed, own[agent_id].tasks_failed
        )
        for agent_id, bids in bids_by_agent(history).items()
    }


async def disagreements(learner: Learner, history: Sequence[Event]) -> list[str]:
    """A sentence for every agent whose metrics do not match the history in time."""
    expected = counted_by_hand(history)
    wrong: dict[AgentId, AgentCounts | None] = dict.fromkeys(expected)
    try:
        async with asyncio.timeout(CATCH_UP_SECONDS):
            while wrong := await _differing(learner, expected, wrong):  # noqa: ASYNC110 (another process)
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        return [
            f"{agent_id}: {expected[agent_id]} by the events, {counts} by the learner"
            for agent_id, counts in sorted(wrong.items())
        ]
    return []


async def _differing(
    learner: Learner, expected: dict[AgentId, AgentCounts], asked: dict[AgentId, AgentCounts | None]
) -> dict[AgentId, AgentCounts | None]:
    answers = {agent_id: await _counts(learner, agent_id) for agent_id in asked}
    return {agent_id: counts for agent_id, counts in answers.items() if counts != expected[agent_id]}


async def _counts(learner: Learner, agent_id: AgentId) -> AgentCounts | None:
    reply = (await learner.suggest_bid_or_base(agent_id, description="", base_bid_sats=0)).reply
    return None if reply is None else _of(reply.metrics)


def _of(metrics: AgentMetrics) -> AgentCounts:
    return AgentCounts(
        metrics.total_bids, metrics.auctions_won, metrics.tasks_completed, metrics.tasks_failed
    )
