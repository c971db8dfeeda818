"""advise: answers one request from what is known of its agent.

suggest-bid-requests -> suggest-bid-replies
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec

from learner_worker.contract.advice import AdviceRecord, ExperimentArm
from learner_worker.contract.decode import Request
from learner_worker.contract.encode import Advice, AlternativeAdvice, Reply
from learner_worker.contract.fields import TaskId
from learner_worker.contract.suggestions import INVALID_REQUEST
from learner_worker.contract.times import Micros, format_time
from learner_worker.domain.agents import Agent, agent_metrics
from learner_worker.domain.metrics import Metrics
from learner_worker.errors import RequestError
from learner_worker.strategies.experiment import Experiment
from learner_worker.strategies.protocol import NO_SUMS, PaidOn, Strategy, Suggestion, Sums

_NONE: Final[Collection[str]] = ()
_NO_METRICS: Final = agent_metrics(Metrics())
_NO_REASON: Final = "this learner does not tell reasons"


def _always(_name: str) -> bool:
    return True


class Advise:
    """Answers requests with strategies.

    Args:
        strategies: those that requests may name; the first answers those that name none.
        paid_on: when the swarm pays.
        experiment: decides on requests that name a task and no strategy. Its arms are among `strategies`.
        tells_metrics: whether replies say what is known of the agent, besides the advice.
    """

    def __init__(
        self,
        strategies: Sequence[Strategy],
        *,
        paid_on: PaidOn = "success",
        experiment: Experiment | None = None,
        tells_metrics: bool = True,
    ) -> None:
        self._tells_metrics = tells_metrics
        self._default = strategies[0]
        self._strategies: Mapping[str, Strategy] = {strategy.name: strategy for strategy in strategies}
        self._paid_on = paid_on
        self._experiment = experiment
        self._with_sums = frozenset(strategy.name for strategy in strategies if strategy.version)

    def sums_needed(self, request: Request) -> Collection[str]:
        """The strategies whose sums the answer is made of.

        Raises:
            RequestError: the request names a strategy that is not there.
        """
        strategy = self._strategy_of(request)
        if request.include and "alternatives" in request.include:
            return self._with_sums
        return (strategy.name,) if strategy.version else _NONE

    def answer(self, request: Request, agent: Agent, *, stale: bool = False) -> Reply:
        """Makes the reply: the factor, each adjustment with its reason, and the metrics they are based on.

        Raises:
            RequestError: the request names a strategy that is not there.
        """
        strategy = self._strategy_of(request)
        suggestion = self._suggest(strategy, request, agent)
        include = request.include or ()
        reply = Reply(
            request_id=msgspec.UNSET if request.request_id is None else request.request_id,
            agent_id=request.agent_id,
            base_bid_sats=request.base_bid_sats,
            suggested_bid_sats=suggestion.suggested_bid_sats,
            strategy=strategy.name,
            factor=suggestion.factor,
            adjustments=[Advice(step.rule, step.multiplier, step.reason) for step in suggestion.rules],
            metrics=agent_metrics(agent.metrics),
            learned_keywords=agent.learned_keywords() if "learned_keywords" in include else msgspec.UNSET,
            alternatives=self._alternatives(request, agent) if "alternatives" in include else msgspec.UNSET,
            as_of=agent.as_of,
            stale=stale,
        )
        return reply if self._tells_metrics else _withheld(reply)

    def record(
        self,
        request: Request,
        agent: Agent,
        reply: Reply,
        *,
        now: Micros,
        has_sums: Callable[[Collection[str]], bool],
    ) -> AdviceRecord:
        """What the advice log says of an answer to a request that names its task.

        Args:
            now: when it was answered.
            has_sums: whether the sums of some strategies are complete.
        """
        tells_costs = request.cost_sats is not None
        arm = self._arm_of(request)
        return AdviceRecord(
            task_id=request.task_id or TaskId(""),
            agent_id=request.agent_id,
            advised_at=format_time(now),
            base_bid_sats=reply.base_bid_sats,
            suggested_bid_sats=reply.suggested_bid_sats,
            strategy=reply.strategy,
            factor=reply.factor,
            costs=tells_costs,
            alternatives=msgspec.UNSET
            if tells_costs
            else self._alternatives(
                request, agent, lambda name: name not in self._with_sums or has_sums((name,))
            ),
            experiment=None
            if arm is None or self._experiment is None
            else ExperimentArm(self._experiment.name, arm),
        )

    def _alternatives(
        self, request: Request, agent: Agent, is_ready: Callable[[str], bool] = _always
    ) -> dict[str, AlternativeAdvice]:
        """What every strategy says that is ready; reasons are not asked for."""
        found: dict[str, AlternativeAdvice] = {}
        for name, strategy in self._strategies.items():
            if not is_ready(name):
                continue
            suggestion = self._suggest(strategy, request, agent, explained=False)
            found[name] = AlternativeAdvice(suggestion.suggested_bid_sats, suggestion.factor)
        return found

    def _suggest(
        self, strategy: Strategy, request: Request, agent: Agent, *, explained: bool = True
    ) -> Suggestion:
        return strategy.suggest(
            metrics=agent.metrics,
            tallies=agent.tallies,
            sums=_sums_of(agent, strategy),
            description=request.description,
            base_bid_sats=request.base_bid_sats,
            cost_sats=request.cost_sats,
            failure_cost_sats=request.failure_cost_sats or 0,
            paid_on=self._paid_on,
            explained=explained,
        )

    def _strategy_of(self, request: Request) -> Strategy:
        if request.strategy is None:
            arm = self._arm_of(request)
            return self._default if arm is None else self._strategies[arm]
        found = self._strategies.get(request.strategy)
        if found is None:
            raise RequestError(
                INVALID_REQUEST,
                f"strategy: there is none of this name here; there are {', '.join(self._strategies)}",
            )
        return found

    def _arm_of(self, request: Request) -> str | None:
        """The experiment's decision; None where there is none, or the request is outside of it."""
        if self._experiment is None or request.strategy is not None or request.task_id is None:
            return None
        return self._experiment.arm_of(request.task_id)


def _withheld(reply: Reply) -> Reply:
    """The advice alone: no metrics, no keywords, and no reasons, which state both."""
    return msgspec.structs.replace(
        reply,
        adjustments=[Advice(step.rule, step.multiplier, _NO_REASON) for step in reply.adjustments],
        metrics=_NO_METRICS,
        learned_keywords=msgspec.UNSET,
        as_of=None,
        metrics_withheld=True,
    )


def _sums_of(agent: Agent, strategy: Strategy) -> Sums:
    kept = agent.sums.get(strategy.name)
    return NO_SUMS if kept is None else kept.read()
