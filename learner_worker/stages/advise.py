"""advise: answers one request from an agent's cached metrics.

suggest-bid-requests -> suggest-bid-replies
"""

import msgspec

from learner_worker.contract.decode import Request
from learner_worker.contract.encode import Advice, Reply
from learner_worker.domain.agents import Agent, agent_metrics, learned_keywords
from learner_worker.strategies.protocol import NO_SUMS, Strategy


class Advise:
    """Answers requests with a strategy."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy

    def answer(self, request: Request, agent: Agent, *, stale: bool = False) -> Reply:
        """Makes the reply: the factor, each adjustment with its reason, and the metrics they are based on."""
        suggestion = self._strategy.suggest(
            metrics=agent.metrics,
            tallies=agent.tallies,
            sums=NO_SUMS,
            description=request.description,
            base_bid_sats=request.base_bid_sats,
        )
        with_keywords = request.include and "learned_keywords" in request.include
        return Reply(
            request_id=msgspec.UNSET if request.request_id is None else request.request_id,
            agent_id=request.agent_id,
            base_bid_sats=request.base_bid_sats,
            suggested_bid_sats=suggestion.suggested_bid_sats,
            strategy=self._strategy.name,
            factor=suggestion.factor,
            adjustments=[Advice(step.rule, step.multiplier, step.reason) for step in suggestion.rules],
            metrics=agent_metrics(agent.metrics),
            learned_keywords=learned_keywords(agent.tallies) if with_keywords else msgspec.UNSET,
            as_of=agent.as_of,
            stale=stale,
        )
