"""A market of the laboratory whose agents all ask, and an experiment that chooses the strategy of each task.

What it leaves is what a live swarm would: a log of advice, and auctions with their results. An agent has one
history, from which every strategy advises, as in a worker.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from learner_worker.contract.advice import AdviceRecord, ExperimentArm
from learner_worker.contract.encode import AlternativeAdvice
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros, format_time
from learner_worker.laboratory.luck import Contestant, DrawnAuction, draw_auctions
from learner_worker.laboratory.market import MarketModel
from learner_worker.laboratory.memory import AgentMemory
from learner_worker.laboratory.recording import RecordedAuction, RecordedBid
from learner_worker.strategies.experiment import Experiment
from learner_worker.strategies.protocol import SettledBid, Strategy, Suggestion

START_US = 1_800_000_000_000_000
STEP_US = 1_000_000


@dataclass(frozen=True, slots=True)
class ExperimentRun:
    """What was logged, and what came of it."""

    advice: list[AdviceRecord]
    auctions: list[RecordedAuction]


class _Agents:
    """Every agent's memory, once for each strategy: metrics and words are the same in all."""

    def __init__(self, market: MarketModel, strategies: Mapping[str, Strategy]) -> None:
        self._strategies = strategies
        self._memories = [
            {name: AgentMemory(strategy) for name, strategy in strategies.items()} for _ in market.agents
        ]

    def suggest(self, one: Contestant, strategy: str, description: str) -> Suggestion:
        memory = self._memories[one.agent][strategy]
        return self._strategies[strategy].suggest(
            metrics=memory.metrics,
            tallies=memory.tallies,
            sums=memory.sums,
            description=description,
            base_bid_sats=one.base_bid_sats,
            explained=False,
        )

    def learn(self, agent: int, settled: SettledBid) -> None:
        for memory in self._memories[agent].values():
            memory.learn(settled)


def run_experiment(
    market: MarketModel, seed: int, experiment: Experiment, strategies: Mapping[str, Strategy]
) -> ExperimentRun:
    """One run. The split depends on the tasks' numbers alone: it is the same in every seed."""
    running = _Running(market, experiment, strategies)
    for auction in draw_auctions(market, seed):
        if auction.contestants:
            running.play(auction)
    return ExperimentRun(running.advice, running.auctions)


class _Running:
    """A run so far."""

    def __init__(
        self, market: MarketModel, experiment: Experiment, strategies: Mapping[str, Strategy]
    ) -> None:
        self.advice: list[AdviceRecord] = []
        self.auctions: list[RecordedAuction] = []
        self._market = market
        self._experiment = experiment
        self._strategies = strategies
        self._agents = _Agents(market, strategies)

    def play(self, auction: DrawnAuction) -> None:
        """All ask, bid what they are advised, and are told how it ended."""
        now = START_US + auction.number * STEP_US
        bids = [(one, self._advised(auction, one, now)) for one in auction.contestants]
        champion, price = min(bids, key=lambda pair: (pair[1], pair[0].arrivals[0]))
        done = champion.luck < champion.chance
        for one, bid in bids:
            result = done if one is champion else None
            self._agents.learn(
                one.agent, SettledBid(bid, one is champion, price, auction.description, result, now)
            )
        self.auctions.append(
            RecordedAuction(
                _task_of(auction),
                now + 2,
                self._name(champion),
                tuple(
                    self._recorded(one, bid, auction, done if one is champion else None, now)
                    for one, bid in bids
                ),
            )
        )

    def _advised(self, auction: DrawnAuction, one: Contestant, now: int) -> int:
        arm = self._experiment.arm_of(_task_of(auction))
        said = {name: self._agents.suggest(one, name, auction.description) for name in self._strategies}
        self.advice.append(
            AdviceRecord(
                task_id=_task_of(auction),
                agent_id=AgentId(self._name(one)),
                advised_at=format_time(Micros(now)),
                base_bid_sats=one.base_bid_sats,
                suggested_bid_sats=said[arm].suggested_bid_sats,
                strategy=arm,
                factor=said[arm].factor,
                costs=False,
                alternatives={
                    name: AlternativeAdvice(other.suggested_bid_sats, other.factor)
                    for name, other in said.items()
                },
                experiment=ExperimentArm(self._experiment.name, arm),
            )
        )
        return said[arm].suggested_bid_sats

    def _recorded(
        self, one: Contestant, bid: int, auction: DrawnAuction, result: bool | None, now: int
    ) -> RecordedBid:
        finished_at = None if result is None else now + 3
        return RecordedBid(self._name(one), bid, now + 1, auction.description, result, finished_at)

    def _name(self, one: Contestant) -> str:
        return self._market.agents[one.agent].name


def _task_of(auction: DrawnAuction) -> TaskId:
    return TaskId(f"task-{auction.number}")
